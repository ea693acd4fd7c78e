"""How a detector is trained, as values: the recipes of the Object Detection API, and one for small data sets."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from keras_mnasnet.detection.spec import LOSSES, AnchorSettings, check_extras, is_positive, sides
from keras_mnasnet.training.recipe import Recipe
from keras_mnasnet.utils.reading import shown

UNUSED = (
    "label_smoothing", "dropout", "class_weights", "sampling", "layer_decay", "teacher_weight", "temperature",
)  # fmt: skip
OF_LOSS = {"focal": ("focal_alpha", "focal_gamma"), "mined": ("negatives_per_positive", "min_negatives", "nms_iou")}
BETWEEN = (
    ("focal_alpha", 0, 1), ("focal_gamma", 0, 10), ("negatives_per_positive", 0, 1000), ("min_negatives", 0, 10**6),
    ("nms_iou", 0.5, 1), ("score_bias", -20, 20), ("max_boxes", 1, 10_000),
    ("match_iou", 0, 1),
    ("passes", 1, 10**6),
)  # fmt: skip


DEFAULT_SIZE = 320  # pixels of the input where nothing says it


@dataclasses.dataclass(frozen=True, slots=True)
class BoxAugment:
    """The SSD random crop and a horizontal flip of half of the photos; `aspect` and `area` are the crop's."""

    crop: bool = True
    flip: bool = True
    aspect: tuple[float, float] = (0.5, 2.0)
    area: tuple[float, float] = (0.1, 1.0)

    def __post_init__(self) -> None:
        for name in ("crop", "flip"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`augment.{name}` must be true or false. Received: {name}={getattr(self, name)!r}")
        for name in ("aspect", "area"):
            value = getattr(self, name)
            if (
                not isinstance(value, tuple | list)
                or len(value) != 2
                or not all(map(is_positive, value))
                or value[0] > value[1]
            ):
                raise ValueError(f"`augment.{name}` must be two numbers, low and high, above 0. Received: {name}={value!r}")
            object.__setattr__(self, name, tuple(map(float, value)))
        if self.area[1] > 1:
            raise ValueError(f"`augment.area` must be at most 1, the whole photo. Received: area={self.area}")


def as_anchors(value: Any) -> AnchorSettings | str | None:
    """AnchorSettings, "auto" or None; ValueError for anything else."""
    if value is None or value == "auto" or isinstance(value, AnchorSettings):
        return value
    raise ValueError(
        f"`anchors` must be auto, AnchorSettings, or left out for the usual ones; anchors.min_scale and its like change one of "
        f"them. Received: anchors={shown(value)}"
    )


@dataclasses.dataclass(frozen=True, slots=True)
class DetectionRecipe(Recipe):
    """A Recipe with what detection adds: the loss and its settings, matching, and `augment` of photos with boxes.

    `size` is the input's pixels, one number for a square or (height, width). `anchors` None are a detector's own, of a new one
    the Object Detection API's; "auto" chooses them by the training boxes (`anchors.chosen_anchors`). `extras` are the channels
    of the levels after the first two; None: a detector's own, of a new one 512, 256, 256, 128 at the backbone's width.

    An epoch is `passes` times over the photos: a checkpoint after each pass over a few photos would take longer than the
    pass. `score_bias` is the scores' first bias. Of a photo `max_boxes` boxes count, the first ones.
    The first `frozen_epochs` (all of them: `epochs`) train extra levels and predictors on a backbone that stays as it is.
    Keys of Recipe that detection does not use, such as `dropout`, have no effect.
    """

    GROUPS: ClassVar[dict[str, type]] = {"augment": BoxAugment, "anchors": AnchorSettings}

    size: Any = None
    augment: Any = dataclasses.field(default_factory=BoxAugment)
    anchors: Any = None
    extras: Any = None
    loss: str = "focal"
    focal_alpha: float = 0.75
    focal_gamma: float = 2.0
    negatives_per_positive: float = 3.0
    min_negatives: int = 3
    nms_iou: float = 0.99
    score_bias: float = -4.6
    max_boxes: int = 1000
    match_iou: float = 0.5
    passes: int = 1

    def __post_init__(self) -> None:
        if self.size is not None:
            height, width = sides(self.size)
            object.__setattr__(self, "size", height if height == width else (height, width))
        object.__setattr__(self, "anchors", as_anchors(self.anchors))
        object.__setattr__(self, "extras", None if self.extras is None else check_extras(self.extras))
        Recipe.__post_init__(self)
        if self.loss not in LOSSES:
            raise ValueError(f"A recipe's `loss` must be one of {LOSSES}. Received: loss={self.loss!r}")
        for key, low, high in BETWEEN:
            if not low <= getattr(self, key) <= high:
                raise ValueError(
                    f"A recipe's `{key}` must be between {low:g} and {high:g}. Received: {key}={getattr(self, key)!r}"
                )

    @property
    def idle(self) -> frozenset[str]:
        """The keys that this optimizer, schedule and loss do not use."""
        others = tuple(key for name, keys in OF_LOSS.items() if name != self.loss for key in keys)
        return Recipe.idle.fget(self) | frozenset(UNUSED + others)  # type: ignore[attr-defined]

    @classmethod
    def named(cls) -> dict[str, Any]:
        """The recipes of this kind that have a name."""
        return DETECTION_RECIPES


COCO_PHOTOS = 118_287  # train2017


def _epochs(steps: int, batch: int) -> float:
    return steps * batch / COCO_PHOTOS


_V3 = DetectionRecipe(
    name="ssdlite-mobilenet-v3",
    epochs=round(_epochs(400_000, 512)),
    batch_size=512,
    optimizer="sgd",
    learning_rate=0.4,
    base_batch=512,
    schedule="cosine",
    warmup_epochs=_epochs(2_000, 512),
    warmup_learning_rate=0.13333,
    momentum=0.9,
    nesterov=False,
    weight_decay=4e-5,
    bn_momentum=0.97,
    size=320,
    max_boxes=100,
)
_ALL = (
    DetectionRecipe(
        name="finetune-detector",
        epochs=60,
        batch_size=16,
        optimizer="adamw",
        learning_rate=1e-3,
        base_batch=16,
        schedule="cosine",
        warmup_epochs=2.0,
        weight_decay=1e-4,
        clip_norm=10.0,
        bn_momentum=0.95,
        ema=0.998,
    ),
    _V3,
    dataclasses.replace(_V3, name="ssdlite-mobiledet", learning_rate=0.8),
    DetectionRecipe(
        name="ssdlite-mobilenet-v2",
        epochs=round(_epochs(200_000, 24)),
        batch_size=24,
        optimizer="rmsprop-tf1",
        learning_rate=0.004,
        base_batch=24,
        schedule="exponential",
        decay_rate=0.95,
        decay_epochs=_epochs(800_720, 24),
        momentum=0.9,
        rho=0.9,
        epsilon=1.0,
        weight_decay=4e-5,
        bn_momentum=0.9997,
        ema=0.9999,
        size=300,
        max_boxes=100,
        loss="mined",
        score_bias=0.0,
    ),
)
DETECTION_RECIPES: dict[str, DetectionRecipe] = {recipe.name: recipe for recipe in _ALL}

_CONFIGS = "tensorflow/models research/object_detection/samples/configs"
DETECTION_SOURCES = {
    "finetune-detector": {"everything": "keras_mnasnet, for some hundreds of photos and trained backbones"},
    "ssdlite-mobilenet-v3": {
        "everything": f"{_CONFIGS}/ssdlite_mobilenet_v3_large_320x320_coco.config: 400,000 steps of 512 photos, warm-up of "
        f"2,000 steps, here as epochs of train2017's {COCO_PHOTOS:,} photos",
    },
    "ssdlite-mobiledet": {
        "learning_rate (the rest is ssdlite-mobilenet-v3's)": f"{_CONFIGS}/ssdlite_mobiledet_cpu_320x320_coco_sync_4x4.config",
    },
    "ssdlite-mobilenet-v2": {
        "everything": f"{_CONFIGS}/ssdlite_mobilenet_v2_coco.config: 200,000 steps of 24 photos, decay every 800,720 steps",
        "ema (the config says nothing of it; those of ssdlite-mobilenet-v3 and ssdlite-mobiledet switch it off)": "tensorflow/"
        "models research/object_detection/protos/optimizer.proto: use_moving_average is true and moving_average_decay 0.9999 "
        "by default",
    },
}
