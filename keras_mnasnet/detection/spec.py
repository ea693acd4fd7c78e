"""What a detector is, as a value: all that its model file, its export and its evaluation must agree on. Loads no Keras."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from keras_mnasnet.architecture import Architecture, Layer, Unit
from keras_mnasnet.preprocessing import SIGNED, Normalization
from keras_mnasnet.utils.reading import check_names, parse_json, record, shown

SCHEMA = 2
MIN_SIZE, MAX_SIZE = 96, 4096
LEVELS = 6
MAX_LEVELS, MAX_RATIOS, MAX_DEPTH = 12, 100, 100_000
LOSSES = ("focal", "mined")

# The 80 classes of COCO with their category ids, which run from 1 to 90 with ten gaps.
_COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,bench,"
    "bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,"
    "sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,"
    "bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,"
    "toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,"
    "teddy bear,hair drier,toothbrush"
)
COCO_LABELS = tuple(_COCO.split(","))
SMALLEST = 0.001  # of scales and variances: what is smaller makes numbers that no training can use
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = tuple(number for number in range(1, 91) if number not in COCO_GAPS)


@dataclasses.dataclass(frozen=True, slots=True)
class AnchorSettings:
    """Shapes of the anchors of every level: its scale, with each of `aspect_ratios` (width / height).

    A scale is a share of the input's shorter side. They go from `min_scale` to `max_scale` in equal steps, or are `scales`, one
    for each level, finest first. A level has one more square of the geometric mean of its scale and the next (the last level's
    next is 1). With `reduced_first` the first level has three anchors only: a square of 0.1, and ratios 2 and 1/2 of its scale.
    `variance` (y, x, h, w) is the inverse of the box coder's 10, 10, 5, 5. Defaults:
    samples/configs/ssdlite_mobilenet_v2_coco.config.
    """

    min_scale: float = 0.2
    max_scale: float = 0.95
    aspect_ratios: tuple[float, ...] = (1.0, 2.0, 0.5, 3.0, 0.3333)
    reduced_first: bool = True
    variance: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("aspect_ratios", "variance", "scales"):
            values = getattr(self, name)
            if not isinstance(values, tuple | list) or not all(is_positive(value) for value in values):
                raise ValueError(f"`anchors.{name}` must be a list of numbers above 0. Received: {name}={values!r}")
            object.__setattr__(self, name, tuple(map(float, values)))
        if not isinstance(self.reduced_first, bool):
            raise ValueError(f"`anchors.reduced_first` must be true or false. Received: reduced_first={self.reduced_first!r}")
        if not all(map(is_positive, (self.min_scale, self.max_scale))) or not SMALLEST <= self.min_scale < self.max_scale <= 1:
            raise ValueError(
                f"The scales of anchors must be {SMALLEST} <= min_scale < max_scale <= 1. "
                f"Received: min_scale={self.min_scale!r}, max_scale={self.max_scale!r}"
            )
        if (
            not 1 <= len(self.aspect_ratios) <= MAX_RATIOS
            or not 0.01 <= min(self.aspect_ratios) <= max(self.aspect_ratios) <= 100
        ):
            raise ValueError(
                f"`anchors.aspect_ratios` must be 1 to {MAX_RATIOS} numbers, 0.01 to 100. "
                f"Received: aspect_ratios={self.aspect_ratios[:10]}"
            )
        if len(self.variance) != 4 or not SMALLEST <= min(self.variance) <= max(self.variance) <= 1 / SMALLEST:
            raise ValueError(
                f"`anchors.variance` must be four numbers (y, x, h, w), {SMALLEST} to {1 / SMALLEST:g}. "
                f"Received: variance={self.variance[:10]}"
            )
        usual = type(self).__dataclass_fields__
        if self.scales and (self.min_scale, self.max_scale) != (usual["min_scale"].default, usual["max_scale"].default):
            raise ValueError(
                f"`anchors.scales` take the place of `min_scale` and `max_scale`. Received: scales={self.scales[:12]}, "
                f"min_scale={self.min_scale:g}, max_scale={self.max_scale:g}. Leave one or the other out."
            )
        if self.scales and (
            not SMALLEST <= min(self.scales) <= max(self.scales) <= 1 or not 2 <= len(self.scales) <= MAX_LEVELS
        ):
            raise ValueError(
                f"`anchors.scales` must be 2 to {MAX_LEVELS} numbers, one for each level, {SMALLEST} to 1. "
                f"Received: scales={self.scales[:20]}"
            )

    def __str__(self) -> str:
        """The shapes in words, as headers say them."""
        scales = ", ".join(f"{scale:g}" for scale in self.scales) or f"{self.min_scale:g} to {self.max_scale:g}"
        few = ", three a cell on the first level" if self.reduced_first else ""
        return f"scales {scales}, ratios {', '.join(f'{ratio:g}' for ratio in self.aspect_ratios)}{few}"


def is_positive(value: Any) -> bool:
    """Whether a value is a number above 0 that a float holds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


def shapes_per_level(
    settings: AnchorSettings, size: tuple[int, int] = (1, 1), levels: int = LEVELS
) -> tuple[tuple[tuple[float, float], ...], ...]:
    """((h, w), ...) of every level's anchors in one cell, as fractions of an image of `size` (height, width).

    h = s / sqrt(ar) * min(H, W) / H, w = s * sqrt(ar) * min(H, W) / W: an anchor of ratio 1 is a square of pixels on any input
    (object_detection anchor_generators/multiple_grid_anchor_generator.py, `base_anchor_size` and `create_ssd_anchors`).
    ValueError for other values than AnchorSettings, for levels that no detector has, and for `scales` of other levels.
    """
    if not isinstance(settings, AnchorSettings):
        raise ValueError(f"`anchors` must be AnchorSettings. Received: anchors={shown(settings)}")
    if isinstance(levels, bool) or not isinstance(levels, int) or not 2 <= levels <= MAX_LEVELS:
        raise ValueError(
            f"`levels` must be a whole number from 2, the backbone's, to {MAX_LEVELS}. Received: levels={shown(levels)}"
        )
    if settings.scales and len(settings.scales) != levels:
        raise ValueError(
            f"`anchors.scales` must be one for each level: two of the backbone, and one for each of `extras`. "
            f"Received: {len(settings.scales)} scales for {levels} levels"
        )
    step = (settings.max_scale - settings.min_scale) / (levels - 1)
    scales = [*(settings.scales or (settings.min_scale + step * level for level in range(levels))), 1.0]
    tall, wide = (min(size) / side for side in size)
    found = []
    for level, scale in enumerate(scales[:-1]):
        if level == 0 and settings.reduced_first:
            chosen = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        else:
            chosen = [(scale, ratio) for ratio in settings.aspect_ratios] + [(math.sqrt(scale * scales[level + 1]), 1.0)]
        found.append(tuple((s / math.sqrt(ratio) * tall, s * math.sqrt(ratio) * wide) for s, ratio in chosen))
    return tuple(found)


def map_sizes(size: tuple[int, int], levels: int = LEVELS) -> tuple[tuple[int, int], ...]:
    """(height, width) of every level's map at an input of `size` pixels: stride 16, then halves, rounded up."""
    sizes = [(-(-size[0] // 16), -(-size[1] // 16))]
    while len(sizes) < levels:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return tuple(sizes)


def sides(size: Any) -> tuple[int, int]:
    """(height, width) of an input that is said as one number of pixels, as a pair, or as a text such as "320" or "192x320".

    ValueError for anything else, and for sides that no detector has.
    """
    found = size
    if isinstance(size, str) and re.fullmatch("[0-9]{1,5}(x[0-9]{1,5})?", size):
        found = tuple(map(int, size.split("x")))
    elif isinstance(size, int):
        found = (size,)
    pair = tuple(found) * (2 if len(found) == 1 else 1) if isinstance(found, tuple | list) else ()
    if len(pair) != 2 or any(isinstance(s, bool) or not isinstance(s, int) or not MIN_SIZE <= s <= MAX_SIZE for s in pair):
        raise ValueError(
            f"A detector's input size must be one whole number of pixels, or height x width such as 192x320, each from "
            f"{MIN_SIZE} to {MAX_SIZE} pixels: below, its last maps repeat one cell. Received: {shown(size)}"
        )
    return pair[0], pair[1]


def pixels_text(size: tuple[int, int]) -> str:
    """A size in words: `320 pixels`, `192x320 pixels (height x width)`."""
    return f"{size[0]} pixels" if size[0] == size[1] else f"{size[0]}x{size[1]} pixels (height x width)"


def default_classes(count: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(names, category ids) of a detector whose classes are only counted.

    90: COCO's ids 1..90, `n/a` where COCO has none; 80: COCO's 80 classes; others: `class 1` ... with the ids 1 ...
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 100_000:
        raise ValueError(f"`classes` must be an integer >= 1, or a list of names. Received: classes={count!r}")
    if count == 80:
        return COCO_LABELS, COCO_IDS
    if count == 90:
        named = dict(zip(COCO_IDS, COCO_LABELS, strict=True))
        return tuple(named.get(number, "n/a") for number in range(1, 91)), tuple(range(1, 91))
    return tuple(f"class {number}" for number in range(1, count + 1)), tuple(range(1, count + 1))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSpec:
    """A detector: network, classes, anchors, input and outputs.

    `input_size` is (height, width) in pixels; in Python one number stands for a square. `extras` are the channels of the levels
    after the first two, which are the backbone's.
    Class `c` (from 0) has the name `labels[c]`, the category id `category_ids[c]` in annotation files, and slot `c + 1` of
    the scores; slot 0 is the background, as in the Object Detection API. Scores are logits of independent sigmoids. With
    `include_preprocessing` the input is RGB pixels 0..255, else what `normalization` (three means, three deviations) makes of
    them; its default is the Object Detection API's [-1, 1].
    """

    backbone: str
    input_size: tuple[int, int]
    labels: tuple[str, ...]
    category_ids: tuple[int, ...]
    extras: tuple[int, ...] = (512, 256, 256, 128)
    anchors: AnchorSettings = dataclasses.field(default_factory=AnchorSettings)
    normalization: Normalization = SIGNED
    include_preprocessing: bool = True
    loss: str = "focal"
    bn_epsilon: float = 1e-3
    padding: str = "same"

    def __post_init__(self) -> None:
        object.__setattr__(self, "category_ids", _check_ids(self.category_ids))
        object.__setattr__(self, "extras", check_extras(self.extras))
        object.__setattr__(self, "labels", check_names(self.labels, "A detector's labels"))
        if not isinstance(self.normalization, Normalization):
            raise ValueError(f"`normalization` must be a Normalization. Received: normalization={shown(self.normalization)}")
        if len(self.normalization.mean) == 1:
            mean, std = self.normalization.mean * 3, self.normalization.std * 3
            object.__setattr__(self, "normalization", Normalization(mean, std))
        object.__setattr__(self, "input_size", sides(self.input_size))
        if not self.labels or len(self.labels) != len(self.category_ids) or len(set(self.category_ids)) != len(self.labels):
            raise ValueError(
                f"A detector needs one name and one category id of its own for every class. "
                f"Received: {len(self.labels)} labels, {len(self.category_ids)} ids, "
                f"{len(set(self.category_ids))} of them different"
            )
        self.anchors_per_cell()
        if self.loss not in LOSSES:
            raise ValueError(f"`loss` must be one of {LOSSES}. Received: loss={self.loss!r}")
        if self.padding not in ("same", "symmetric") or not is_positive(self.bn_epsilon) or self.bn_epsilon >= 1:
            raise ValueError(
                f"`padding` must be same or symmetric, `bn_epsilon` in (0, 1). Received: padding={self.padding!r}, "
                f"bn_epsilon={self.bn_epsilon!r}"
            )
        tap_unit(self.architecture)

    @property
    def architecture(self) -> Architecture:
        """The backbone as a value."""
        return Architecture.parse(self.backbone)

    @property
    def classes(self) -> int:
        """Number of classes, without the background."""
        return len(self.labels)

    @property
    def levels(self) -> int:
        """Number of levels: two of the backbone and the extras."""
        return 2 + len(self.extras)

    def to_dict(self) -> dict[str, Any]:
        """The spec as a JSON object, with the schema's version."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        """The spec as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> DetectorSpec:
        """The inverse of `to_json`; ValueError for another schema or values out of range."""
        return cls.from_dict(parse_json(text, "A detector's description"))

    @classmethod
    def from_dict(cls, value: Any) -> DetectorSpec:
        """The inverse of `to_dict`; ValueError for another schema or values out of range."""
        schema = value.get("schema") if isinstance(value, dict) else None
        if schema != SCHEMA:
            raise ValueError(
                f"A detector's description must be a JSON object of schema {SCHEMA}. Received: schema={shown(schema)}. Update "
                f"keras_mnasnet."
            )
        return record({key: item for key, item in value.items() if key != "schema"}, cls, "A detector's description")

    def anchors_per_cell(self) -> tuple[int, ...]:
        """Anchors in one cell of every level."""
        return tuple(map(len, shapes_per_level(self.anchors, levels=self.levels)))

    def layers(self) -> tuple[Layer, ...]:
        """The layer table: backbone to the head convolution, extras, predictors."""
        network = self.architecture
        channels = (tap_unit(network).expanded, network.head, *self.extras)
        return (
            *network.layers(*self.input_size, classes=0),
            *head_layers(channels, map_sizes(self.input_size, self.levels), self.anchors_per_cell(), self.classes + 1),
        )

    def params(self) -> int:
        """Trainable parameters: kernels, biases, gammas and betas."""
        return sum(layer.params for layer in self.layers())

    def madds(self) -> int:
        """Multiply-adds per image of all convolutions and squeeze-and-excite layers."""
        return sum(layer.madds for layer in self.layers())


def _check_ids(ids: Any) -> tuple[int, ...]:
    """Category ids as a tuple; ValueError for anything but a list of whole numbers."""
    whole = isinstance(ids, Sequence) and all(isinstance(each, int) and not isinstance(each, bool) for each in ids)
    if not whole:
        raise ValueError(
            f"`category_ids` must be a list of whole numbers, one for each class. Received: category_ids={shown(ids)}"
        )
    return tuple(ids)


def check_extras(extras: Any) -> tuple[int, ...]:
    """The channels of extra levels as a tuple; ValueError for anything else."""
    if not isinstance(extras, tuple | list) or len(extras) > MAX_LEVELS - 2 or any(
        isinstance(depth, bool) or not isinstance(depth, int) or not 2 <= depth <= MAX_DEPTH for depth in extras
    ):  # fmt: skip
        raise ValueError(
            f"`extras` must be the channels of the levels after the first two, at most {MAX_LEVELS - 2} whole numbers from 2 "
            f"to {MAX_DEPTH:,}. Received: extras={shown(extras)}"
        )
    return tuple(extras)


def tap_unit(network: Architecture) -> Unit:
    """The first layer at stride 32, whose expansion is the map of stride 16 (OD API: `layer_15/expansion_output`)."""
    stride = network.stem_stride
    for unit in network.units():
        stride *= unit.stride
        if stride == 32 and unit.stride == 2 and unit.expanded != unit.input_filters:
            last = unit
            break
    else:
        raise ValueError(
            f"A detector's backbone needs a layer that expands and goes from stride 16 to stride 32. Received: '{network}'"
        )
    total = network.stem_stride
    for unit in network.units():
        total *= unit.stride
    if total != 32:
        raise ValueError(f"A detector's backbone must end at stride 32. Received: stride {total} in '{network}'")
    return last


def head_layers(
    channels: tuple[int, ...], sizes: tuple[tuple[int, int], ...], anchors_per_cell: tuple[int, ...], slots: int
) -> Iterator[Layer]:
    """Extras and predictors of maps with `channels` and `sizes` (height, width), of which the first two are the backbone's.

    Extra of depth d: 1x1 to d / 2, depthwise 3x3 of stride 2, 1x1 to d. Predictors of boxes and of scores, at every level:
    depthwise 3x3, then 1x1 with bias. Every convolution but the predictors' last has batch norm and ReLU6.
    """

    def conv(
        name: str, op: str, kernel: int, stride: int, cin: int, cout: int, at: tuple[int, int], bias: bool = False
    ) -> Layer:
        weights = kernel * kernel * (cin if op == "depthwise" else cin * cout)
        bn, added = (None, cout) if bias else (f"{name}_bn", 2 * cout)
        full = name if bias else f"{name}_conv"
        return Layer(full, op, kernel, stride, cin, cout, *at, bn, weights + added, weights * at[0] * at[1])

    for level in range(2, len(channels)):
        name, depth = f"extra{level - 1}", channels[level]
        half, before, after = depth // 2, sizes[level - 1], sizes[level]
        yield conv(f"{name}_reduce", "conv", 1, 1, channels[level - 1], half, before)
        yield conv(f"{name}_depthwise", "depthwise", 3, 2, half, half, after)
        yield conv(f"{name}_project", "conv", 1, 1, half, depth, after)
    for level, (depth, size, count) in enumerate(zip(channels, sizes, anchors_per_cell, strict=True)):
        for kind, width in (("boxes", 4), ("scores", slots)):
            name = f"level{level}_{kind}"
            yield conv(f"{name}_depthwise", "depthwise", 3, 1, depth, depth, size)
            yield conv(name, "conv", 1, 1, depth, count * width, size, bias=True)
