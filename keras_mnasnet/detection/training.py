"""Training a detector: `train`, `resume`, and the run itself, on the engine that trains classifiers."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.data import held_out, validated_share
from keras_mnasnet.data.summary import Summary
from keras_mnasnet.detection.anchors import anchors_of, chosen_anchors, targets_of
from keras_mnasnet.detection.annotations import judged_split, splits_of
from keras_mnasnet.detection.data import CocoDataset, evaluation_batches, open_dataset, training_batches
from keras_mnasnet.detection.evaluation import coco_score, require_pycocotools, results_of
from keras_mnasnet.detection.inference import KerasDetector
from keras_mnasnet.detection.losses import loss_of
from keras_mnasnet.detection.model import build_detector, spec_of
from keras_mnasnet.detection.recipe import DEFAULT_SIZE, DetectionRecipe
from keras_mnasnet.detection.spec import LEVELS, AnchorSettings, DetectorSpec, pixels_text, sides
from keras_mnasnet.detection.ssdlite import SSDLite
from keras_mnasnet.detection.summary import origin_of, summary_of
from keras_mnasnet.loading import checkpoint_of, load, save
from keras_mnasnet.training.distribution import Cluster
from keras_mnasnet.training.engine import ALONE, Run, large_photos, parts_of, photos_sha256, resume_run, sound, start_run
from keras_mnasnet.training.folded import folded_norms, sample, unfold
from keras_mnasnet.training.job import Facts, Job, RunKind, anchored_path, validation_of
from keras_mnasnet.training.optimizers import make_optimizer
from keras_mnasnet.training.recipe import recipe_of
from keras_mnasnet.training.run import Training, named_source
from keras_mnasnet.utils.reading import texts
from keras_mnasnet.utils.system import environment
from keras_mnasnet.utils.text import Life, listed
from keras_mnasnet.weights.checkpoint import OWN_SOURCE, Checkpoint, Origin, assign


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DetectionJob(Job):
    """A Job whose `data` and `validation` are annotations of `photos` and `validation_photos` (None: `photos`, or where the
    annotations say). `validation` 0 measures nothing.

    `network` None: A1, or the detector's in `from_model`, which fills the backbone; a detector's fill all layers whose shapes
    fit, so that only predictors of other classes start anew. `classes` are the names to learn, None all. With `measure_ap`
    COCO's AP is measured on the validation photos (needs pycocotools), else their loss alone. `head`, `stem_stride` and
    `holdout` of Job have no effect.
    """

    photos: str | None = None
    recipe: DetectionRecipe
    classes: tuple[str, ...] | None = None
    validation_photos: str | None = None
    measure_ap: bool = True
    crowd_as_objects: bool = False

    def __post_init__(self) -> None:
        Job.__post_init__(self)
        if self.recipe.patience and self.validation == 0:
            raise ValueError(
                f"Early stopping needs photos to validate on. Received: patience={self.recipe.patience} and validation=0. "
                f"Leave validation= (--validation) out, or set patience=0."
            )

    @property
    def judges(self) -> str | None:
        """The annotations that are validated on; None where it is a share of the data, or nothing."""
        has_own = self.validation is None and {"train", "validation"} <= set(splits_of(self.data))
        return self.data if has_own else self.validation if isinstance(self.validation, str) else None

    def anchored(self) -> DetectionJob:
        """The same job with paths that hold in any working folder."""
        paths = ("data", "photos", "from_model", "validation", "validation_photos")
        return dataclasses.replace(self, **{name: anchored_path(getattr(self, name)) for name in paths})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DetectionFacts(Facts):
    """What a detector's run found at its start and must find again when it is resumed; `detector` is its spec."""

    size: tuple[int, int]  # type: ignore[assignment]
    detector: str
    train_boxes: int


DETECTION = RunKind("detection", DetectionJob, DetectionFacts, DetectionRecipe, "mnasnet detect train")


def train(
    annotations: str | os.PathLike[str], photos: str | os.PathLike[str] | None, output: str | os.PathLike[str], *,
    from_model: str | os.PathLike[str] | Checkpoint | keras.Model | None = None, network: str | Architecture | None = None,
    recipe: str | os.PathLike[str] | DetectionRecipe = "finetune-detector", classes: str | Sequence[str] | None = None,
    validation: str | os.PathLike[str] | float | None = None, validation_photos: str | os.PathLike[str] | None = None,
    width: float | None = None, depth: float | None = None, se: bool | float | None = None,
    size: int | str | tuple[int, int] | None = None, anchors: AnchorSettings | str | None = None,
    epochs: int | None = None, batch_size: int | None = None, learning_rate: float | None = None,
    changes: Mapping[str, Any] | None = None, measure_ap: bool = True, crowd_as_objects: bool = False, max_bad: int = 0,
    check: bool = True,
    checkpoint_steps: int = 1000, mixed_precision: str | None = None, jit_compile: bool | None = None,
    tensorboard: bool = False, cluster: Cluster = ALONE, devices: Sequence[str] | None = None, progress: bool = True,
) -> Training:  # fmt: skip
    """Train a detector, and leave in `output` model.safetensors, labels.txt, log.csv, run.json, checkpoint.safetensors.

    Args:
        annotations: COCO's instances (.json), a folder of VOC's .xml files, or YOLO's data.yaml or folder of labels.
        photos: the folder of their photos; None where the annotations say where these are, as a data.yaml does.
        output: a new or empty folder.
        from_model: what to start from, any source that `load` takes, a Checkpoint, or a keras.Model: a classifier, for the
            backbone, or a detector, of which all is kept but the predictors of other classes. Without it `network`.
        network: the backbone with fresh weights, with `width`, `depth`, `se`; or which one of
            `from_model="imagenet"`, `"cifar10"` or `"trashnet"`.
        recipe: a name, a text such as "finetune-detector epochs=10", the path of a .json file, or a DetectionRecipe. `size`
            (pixels of a square, or (height, width); 320 where nothing says it), `anchors` (AnchorSettings, or "auto" for those
            that match the most training boxes), `epochs`, `batch_size`, `learning_rate` and `changes`, such as
            {"augment.crop": False}, take the place of its values.
        classes: the names to learn; default: all of the annotations.
        validation: annotations to measure on after every epoch, whose photos are in `validation_photos` (default: `photos`),
            or a share (below 1) or number of the photos, which are then not trained on. Default: the validation split of the
            annotations themselves, else a tenth of the photos; 0 trains on all and measures nothing. With `measure_ap` COCO's
            AP is measured, which needs pycocotools, else the loss alone.
        crowd_as_objects: take regions that are marked as crowds, and VOC's difficult objects, as objects like the others.
        max_bad: damaged and missing photos to leave out before giving up.

    The other arguments are those of `training.train`.

    Returns:
        The Training; its `accuracy` is COCO's AP on the validation photos, 0..1, None where it was not measured.

    Raises ValueError for bad input, OSError for missing files, Diverged for a loss that is not finite.

    Example:
        >>> import json, pathlib
        >>> from keras_mnasnet import detection
        >>> truth = {"images": [{"id": 1, "file_name": "ship.png", "width": 128, "height": 128}],
        ...          "annotations": [{"image_id": 1, "category_id": 1, "bbox": [10, 30, 100, 70]}],
        ...          "categories": [{"id": 1, "name": "ship"}]}
        >>> _ = pathlib.Path("boxes.json").write_text(json.dumps(truth))
        >>> small = {"width": 0.35, "size": 96, "epochs": 1, "batch_size": 1, "validation": 0}
        >>> done = detection.train("boxes.json", "weights/demo", "run", network="small", **small, progress=False)
        >>> done.labels, done.load().task
        (('ship',), 'detection')
    """
    source, start = named_source(from_model, network)
    job = DetectionJob(
        data=os.fspath(annotations), photos=None if photos is None else os.fspath(photos), from_model=source,
        network=None if network is None else str(network), width=width, depth=depth, se=se,
        classes=None if classes is None else texts(classes), validation=validation_of(validation),
        validation_photos=None if validation_photos is None else os.fspath(validation_photos),
        recipe=recipe_of(
            recipe, changes, kind=DetectionRecipe, size=size, anchors=anchors, epochs=epochs, batch_size=batch_size,
            learning_rate=learning_rate,
        ),
        measure_ap=measure_ap, crowd_as_objects=crowd_as_objects, max_bad=max_bad, check=check,
        checkpoint_steps=checkpoint_steps, mixed_precision=mixed_precision, jit_compile=jit_compile, tensorboard=tensorboard,
    )  # fmt: skip
    rows = start_run(DetectorRun, output, job, cluster=cluster, devices=devices, progress=progress, start=start)
    return Training.of(output, rows, "val_ap")


def describe(
    annotations: str | os.PathLike[str], photos: str | os.PathLike[str] | None = None, *,
    recipe: str | os.PathLike[str] | DetectionRecipe = "finetune-detector", size: int | str | tuple[int, int] | None = None,
    anchors: AnchorSettings | str | None = None, changes: Mapping[str, Any] | None = None,
    classes: str | Sequence[str] | None = None, validation: str | os.PathLike[str] | float | None = None,
    validation_photos: str | os.PathLike[str] | None = None, crowd_as_objects: bool = False, max_bad: int = 0,
    check: bool = False, progress: bool = True,
) -> Summary:  # fmt: skip
    """What `train` would train and validate a new detector on, with the anchors that it would have; and the test split.

    Args:
        annotations: COCO's instances (.json), a folder of VOC's .xml files, or YOLO's data.yaml or folder of labels.
        check: decode every photo once, which `train` does, and which finds damaged ones and sizes other than annotated;
            `progress` shows how far it is.

    The others are those of `train`.

    Raises ValueError for annotations that would be refused, OSError for missing files.

    Example:
        >>> import json, pathlib
        >>> from keras_mnasnet.detection import describe
        >>> truth = {"images": [{"id": 1, "file_name": "ship.png", "width": 128, "height": 128}],
        ...          "annotations": [{"image_id": 1, "category_id": 1, "bbox": [10, 30, 100, 70]}],
        ...          "categories": [{"id": 1, "name": "ship"}]}
        >>> _ = pathlib.Path("boxes.json").write_text(json.dumps(truth))
        >>> describe("boxes.json", "weights/demo", validation=0).classes
        ('ship',)
    """
    job = DetectionJob(
        data=os.fspath(annotations), photos=None if photos is None else os.fspath(photos),
        classes=None if classes is None else texts(classes), validation=validation_of(validation),
        validation_photos=None if validation_photos is None else os.fspath(validation_photos), measure_ap=False, check=check,
        recipe=recipe_of(recipe, changes, kind=DetectionRecipe, size=size, anchors=anchors),
        crowd_as_objects=crowd_as_objects, max_bad=max_bad,
    )  # fmt: skip
    run = DetectorRun(None, job, None, progress=progress)
    run.open_data()
    more = {}
    if "test" in splits_of(annotations):
        more["test"] = run.opened(annotations, photos, "test", classes=job.classes)
        run.origins["test"] = origin_of(annotations, "test", more["test"])
        run.warn_of_unlearned("test", more["test"])
    return run.summarized(*run.planned(), more)


def resume(
    output: str | os.PathLike[str], *, cluster: Cluster = ALONE, devices: Sequence[str] | None = None, progress: bool = True
) -> Training:
    """Go on with the run in a folder from its last checkpoint, as if it had never stopped; example and errors as in `train`."""
    return Training.of(output, resume_run(DetectorRun, output, cluster=cluster, devices=devices, progress=progress), "val_ap")


class Trainee(keras.Model):
    """A detector with its loss: `fit` takes (pixels, {"boxes" `[B, G, 4]`, "labels" `[B, G]`}) and reports `score_loss` and
    `box_loss` beside their sum. Made with `Trainee.of`; the layers are the detector's own."""

    @classmethod
    def of(cls, detector: keras.Model, recipe: DetectionRecipe) -> Trainee:
        """The trainee of a detector made by SSDLite."""
        spec = spec_of(detector)
        model = cls(detector.inputs, detector.output, name=detector.name)
        model.anchors = anchors_of(spec)
        model.variance = spec.anchors.variance
        model.recipe = recipe
        model.score_loss = keras.metrics.Mean(name="score_loss")
        model.box_loss = keras.metrics.Mean(name="box_loss")
        return model

    def losses_of(self, truth: Any, codes: Any, logits: Any) -> tuple[Any, Any]:
        """(score loss, box loss) of a batch of outputs."""
        targets = targets_of(truth["boxes"], truth["labels"], self.anchors, self.variance, threshold=self.recipe.match_iou)
        return loss_of(self.recipe)(targets, codes, logits, self.anchors, self.variance)

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True):
        """Score loss + box loss of a batch; of several replicas, this one's share of their mean."""
        scores, boxes = self.losses_of(y, y_pred["boxes"], y_pred["scores"])
        images = keras.ops.shape(y["labels"])[0]
        self.score_loss.update_state(scores, sample_weight=images)
        self.box_loss.update_state(boxes, sample_weight=images)
        loss = scores + boxes
        if keras.backend.backend() == "tensorflow":
            loss = loss / tf.distribute.get_strategy().num_replicas_in_sync
        return loss


class DetectorRun(Run):
    """A detector's run; `job` is a DetectionJob."""

    KIND = DETECTION
    COLUMNS = (
        "epoch", "step", "loss", "score_loss", "box_loss", "val_loss", "val_score_loss", "val_box_loss", "val_ap", "val_ap50",
        "learning_rate", "images_per_second", "seconds",
    )  # fmt: skip
    LOGGED = ("loss", "score_loss", "box_loss")
    HEAD = re.compile(r"extra\d+_.*|level\d+_.*|boxes|scores")
    SHOWN = ("loss", "score_loss", "box_loss", "val_loss", "val_ap", "val_ap50")
    _finder: KerasDetector | None = None

    def open_data(self) -> None:
        job = self.job
        if job.validation != 0 and job.measure_ap:
            require_pycocotools("; or measure the loss alone with measure_ap=False (--no-ap)")
        own = splits_of(job.data)
        if own and "train" not in own:
            raise ValueError(
                f"Annotations that have splits must have one to train on. Received: {job.data} with {listed(own)} alone. Put "
                f"the train split where it is looked for, or name the annotations of one split by themselves."
            )
        self.data = self.opened(job.data, job.photos, "train" if own else None, classes=job.classes)
        self.validation: CocoDataset | None = None
        self.origins = {"train": origin_of(job.data, "train", self.data)}
        if (source := job.judges) is not None:
            folder = job.validation_photos or (None if splits_of(source) else job.photos)
            split = judged_split(source)
            same = {"classes": self.data.labels, "exactly": job.classes is None}
            self.validation = self.opened(source, folder, split, **same)
            self.origins["validation"] = origin_of(source, split or "validation", self.validation)
        elif job.validation != 0:
            self._hold_out()
        self.labels = self.data.labels
        if self.validation is not None:
            self.warn_of_unlearned("validation", self.validation)

    def opened(
        self, source: str | os.PathLike[str], photos: str | os.PathLike[str] | None, split: str | None, **classes: Any
    ) -> CocoDataset:
        """A split of annotations as the job says, without damaged photos."""
        job = self.job
        data = open_dataset(
            source, photos, split=split, crowd_as_objects=job.crowd_as_objects, max_bad=job.max_bad, **classes
        )  # fmt: skip
        return sound(data, job, self.known.excluded if self.known else None, self.shown)

    def warn_of_unlearned(self, split: str, data: CocoDataset) -> None:
        """Say which classes have boxes in a split and none to train on."""
        ours = self.data.counts()
        if lost := [name for name, count in data.counts().items() if count and not ours.get(name)]:
            logging.warning(
                "only %s photos have boxes of %s: without boxes to train on a class is not learned", split, listed(lost)
            )

    def _hold_out(self) -> None:
        """Validate on a share of the photos that have objects, and of those that have none."""
        data, job = self.data, self.job
        share = validated_share(job.validation, data.count, data.name)
        objects = np.array([(data.boxes_of(index)[1] >= 0).any() for index in range(data.count)])
        kept, taken = held_out(objects, share, self.recipe.seed)
        if not objects[taken].any():
            raise ValueError(
                f"A run needs photos with objects to validate on. Received: {data.count:,} photos in {data.name}, of which "
                f"{objects.sum():,} have any, too few to put some aside. Name other annotations with validation= "
                f"(--validation), or train on all photos and measure nothing with validation=0 (--validation 0)."
            )
        self.validation = dataclasses.replace(data.subset(taken), notes={})  # what was noted is said of the whole data
        self.data = data.subset(kept)
        self.origins["validation"] = f"{share:.0%} of {self.origins['train']}"

    def make_model(self) -> keras.Model:
        self.detector = self._resumed() if self.has_state else self._started()
        if folded_norms(self.detector):
            taken, size = self.data.subset(sample(self.data.count)), spec_of(self.detector).input_size
            batches = evaluation_batches(taken, size=size, batch_size=16)
            unfold(self.detector, (pixels for pixels, _ in batches.as_numpy_iterator()))
        return Trainee.of(self.detector, self.recipe)

    def _resumed(self) -> keras.Model:
        """The network that the checkpoint belongs to, with the classes that the data has now."""
        spec = DetectorSpec.from_json(self.known.detector)
        found = dataclasses.replace(spec, labels=self.data.labels, category_ids=self.data.whole_ids)
        return build_detector(found, bn_momentum=self.recipe.bn_momentum)

    def _started(self) -> keras.Model:
        job, recipe = self.job, self.recipe
        size = sides(recipe.size or DEFAULT_SIZE)
        scales = {"network": job.network, "width": job.width, "depth": job.depth, "se": job.se}
        given = [name for name, value in scales.items() if value is not None]
        weights: Any = job.from_model if self.start is None else self.start
        if weights is not None:
            found = load(weights, network=job.network, size=min(size))
            if found.detector is not None:
                return self._continued(found, found.detector, given)
            weights = weights if given else found
        return SSDLite(
            job.network,
            self.data.labels,
            weights,
            category_ids=self.data.whole_ids,
            input_size=size,
            anchors=self.planned()[1],
            extras=recipe.extras,
            width_multiplier=job.width,
            depth_multiplier=job.depth,
            se=job.se,
            loss=recipe.loss,
            bn_momentum=recipe.bn_momentum,
            score_bias=recipe.score_bias,
        )

    def planned(self) -> tuple[tuple[int, int], AnchorSettings, int]:
        """Input size, anchors and number of levels of a new detector, by the recipe and the training boxes."""
        size, extras = sides(self.recipe.size or DEFAULT_SIZE), self.recipe.extras
        levels = LEVELS if extras is None else 2 + len(extras)
        return size, self._anchors(size, levels) or AnchorSettings(), levels

    def _anchors(self, size: tuple[int, int], levels: int) -> AnchorSettings | None:
        """The anchors that the recipe asks for, None where it leaves them as they are."""
        if self.recipe.anchors == "auto":
            return chosen_anchors(self.data.objects, size, levels=levels, threshold=self.recipe.match_iou)
        return self.recipe.anchors

    def _continued(self, start: Checkpoint, spec: DetectorSpec, given: list[str]) -> keras.Model:
        """A trained detector for this run's classes; score predictors of other classes start anew."""
        name, recipe = start.origin.name, self.recipe
        if given:
            raise ValueError(
                f"A detector's file says which network it is. Received: {', '.join(given)} with from_model={name!r}. "
                f"Leave them out."
            )
        if recipe.extras not in (None, spec.extras):
            raise ValueError(
                f"A detector's extra levels stay as they are. Received: extras={recipe.extras} with from_model={name!r}, which "
                f"has {spec.extras}. Leave `extras` out, or start from a classifier."
            )
        size = spec.input_size if recipe.size is None else sides(recipe.size)
        found = dataclasses.replace(
            spec, anchors=self._anchors(size, spec.levels) or spec.anchors,
            labels=self.data.labels, category_ids=self.data.whole_ids, loss=recipe.loss,
            input_size=size,
        )  # fmt: skip
        model = build_detector(found, bn_momentum=recipe.bn_momentum, score_bias=recipe.score_bias)
        kept = list(start.tensors)
        if spec.anchors != found.anchors:
            logging.warning("%s has other anchors than are asked for: its predictors of boxes and scores start anew", name)
            kept = [tensor for tensor in kept if not tensor.rpartition("/")[0].endswith(("_boxes", "_scores"))]
        if spec.labels != self.data.labels:
            logging.warning("%s has other classes than the data: its score predictors start anew", name)
            kept = [tensor for tensor in kept if not tensor.rpartition("/")[0].endswith("_scores")]
        assign(model, start.tensors, kept)
        return model

    def make_facts(self, model: keras.Model) -> DetectionFacts:
        spec = spec_of(self.detector)
        excluded = self.data.bad + (self.validation.bad if self.validation else ())
        return DetectionFacts(
            detector=spec.to_json(),
            architecture=spec.backbone,
            size=spec.input_size,
            bn_epsilon=spec.bn_epsilon,
            padding=spec.padding,
            labels=self.data.labels,
            train_images=self.data.count,
            train_boxes=len(self.data.boxes),
            photos_sha256=self._photos_sha256(),
            data=self.summary.as_json(),
            validation_images=self.validation.count if self.validation else 0,
            excluded=tuple(sorted(set(excluded))),
            environment={**environment(), "devices": [str(device) for device in keras.distribution.list_devices()]},
            **parts_of(self.data.count * self.recipe.passes, self.recipe.batch_size, self.job.checkpoint_steps, "photos"),
        )

    def _photos_sha256(self) -> str:
        sets = [self.data] if self.validation is None else [self.data, self.validation]
        values = [value for each in sets for value in (each.sizes, each.boxes, each.classes, each.splits)]
        return photos_sha256([each.images for each in sets], *values)

    def about(self, model: keras.Model) -> dict[str, object]:
        spec, job = spec_of(self.detector), self.job
        goal = "highest AP" if job.measure_ap else "lowest loss"
        return {
            "detector": f"SSDLite on {spec.architecture.name}, {pixels_text(spec.input_size)}, "
            f"{spec.params() / 1e6:.2f}M parameters",
            "from": f"{self.folder} (resumed)" if self.has_state else job.from_model or "fresh weights",
            **self.summary.rows(),
            **({} if self.validation else {"validation": "none"}),
            "keeps": f"the epoch of the {goal}" if self.keeps_best else "the last epoch",
        }

    @functools.cached_property
    def summary(self) -> Summary:
        """What was read."""
        spec = spec_of(self.detector)
        return self.summarized(spec.input_size, spec.anchors, spec.levels)

    def summarized(
        self, size: tuple[int, int], anchors: AnchorSettings, levels: int, more: Mapping[str, CocoDataset] | None = None
    ) -> Summary:
        """What was read, with the anchors of a detector, and with `more` splits that take no part in the training."""
        sets = {"train": self.data, **({} if self.validation is None else {"validation": self.validation}), **(more or {})}
        return summary_of(self.job.data, sets, self.origins, size, anchors, levels, threshold=self.recipe.match_iou)

    def ended(self, rows: list[dict[str, Any]]) -> tuple[str, ...]:
        measured = [(float(row["val_ap"]), row["epoch"]) for row in rows if row.get("val_ap")]
        ap = ""
        if measured:
            best = max(measured, key=lambda pair: pair[0])
            kept, other, what = (best, measured[-1], "last") if self.keeps_best else (measured[-1], best, "best")
            beside = "" if kept is other else f" ({what}: {other[0]:.4f} after epoch {other[1]})"
            ap = f": the model of epoch {kept[1]}, AP {kept[0]:.4f}{beside}"
        return f"wrote {self.folder}{ap}", f"next: mnasnet detect predict {self.folder} PHOTO -o FOLDER"

    def warnings(self, model: keras.Model) -> tuple[str, ...]:
        most = self.recipe.max_boxes
        photos, boxes = self.data.photos_past(most)
        cut = (
            f"{photos:,} photos hold more than {most:,} boxes: {boxes:,} boxes are not learned. Learn all of them with --set "
            f"max_boxes={self.data.most_boxes}",
        )
        return (*(cut if photos else ()), *large_photos(self.data.sizes, max(spec_of(self.detector).input_size)))

    def compile(self, model: keras.Model, frozen: bool, jit_compile: bool | str) -> None:
        model.compile(make_optimizer(self.recipe, self.facts.steps_per_epoch, frozen=frozen), jit_compile=jit_compile)

    def batches(self, first_step: int) -> tf.data.Dataset:
        return training_batches(
            self.data,
            size=spec_of(self.detector).input_size,
            batch_size=self.recipe.batch_size,
            augment=self.recipe.augment,
            seed=self.recipe.seed,
            max_boxes=self.recipe.max_boxes,
            first_step=first_step,
            shard=self.cluster.shard,
        )

    def measure(self, model: keras.Model) -> dict[str, float]:
        data = self.validation
        if data is None:
            return {}
        size, batch = spec_of(self.detector).input_size, min(self.recipe.batch_size, data.count)
        if self._finder is None:
            self._finder = KerasDetector(self.detector, batch_size=batch)
        losses, rows, done = np.zeros(2), [], 0
        batches = evaluation_batches(data, size=size, batch_size=batch, max_boxes=self.recipe.max_boxes)
        with Life("validation", total=data.count, unit="photo", shown=self.shown) as life:
            for pixels, truth in batches.as_numpy_iterator():
                codes, logits = self._finder.outputs(pixels)
                images = data.image_ids[done : done + len(pixels)]
                losses += len(images) * np.array([float(value) for value in model.losses_of(truth, codes, logits)])
                if self.job.measure_ap:
                    for image, detections in zip(images, self._finder.selected(codes, logits), strict=True):
                        rows += results_of(detections, data.truth.images[image], data.category_ids)
                done += len(images)
                life.step(len(images))
        score_loss, box_loss = map(float, losses / data.count)
        found = {"val_loss": score_loss + box_loss, "val_score_loss": score_loss, "val_box_loss": box_loss}
        if self.job.measure_ap:
            metrics = coco_score(data.truth, rows, image_ids=data.image_ids).metrics
            found |= {"val_ap": metrics["AP"] or 0.0, "val_ap50": metrics["AP50"] or 0.0}
        return found

    @property
    def chooses(self) -> bool:
        return self.validation is not None

    def score(self, found: dict[str, float]) -> float:
        return found["val_ap"] if "val_ap" in found else 1 / (1 + found["val_loss"])

    def save(self, model: keras.Model, path: Path) -> None:
        figures = {"AP": "val_ap", "AP50": "val_ap50"}
        measured = {key: round(100 * self.found[name], 2) for key, name in figures.items() if name in self.found}
        origin = Origin(
            OWN_SOURCE, path.parent.name, measured=measured,
            measured_on=f"{self.job.judges or self.origins['validation']}, for validation" if measured else None,
        )  # fmt: skip
        save(dataclasses.replace(checkpoint_of(self.detector, checked=False), origin=origin), path)
