"""Training a detector: the run of `mnasnet detect train`, on the engine that trains classifiers."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from keras_mnasnet.detection.anchors import anchor_boxes, targets_of
from keras_mnasnet.detection.checkpoint import assign_tensors, is_detector, read_detector, save_detector
from keras_mnasnet.detection.data import CocoDataset, evaluation_batches, open_dataset, training_batches
from keras_mnasnet.detection.losses import loss_of
from keras_mnasnet.detection.model import build_detector, spec_of
from keras_mnasnet.detection.recipe import DetectionRecipe
from keras_mnasnet.detection.spec import DetectorSpec
from keras_mnasnet.detection.ssdlite import SSDLite
from keras_mnasnet.training.distribution import Cluster
from keras_mnasnet.training.engine import ALONE, Run, parts_of, resume_run, start_run
from keras_mnasnet.training.job import RunKind, anchored_path
from keras_mnasnet.training.optimizers import make_optimizer
from keras_mnasnet.utils.system import environment

__all__ = ["DetectionJob", "DetectorRun", "Trainee", "resume_detector", "train_detector"]

DEFAULT_SIZE = 320
DEFAULT_NETWORK = "a1"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DetectionJob:
    """Data, network and recipe of a detector's run; paths as in `open_dataset`.

    `model` None: A1, or the detector's in `weights`. `weights` fills the backbone; a detector's file fills all layers whose
    shapes fit, so that only predictors of other classes start anew. `classes` are the names to learn, None all.
    `validation` are annotations to measure on after every epoch, whose photos are in `validation_images` (None: `images`);
    with `measure_ap` by COCO's AP (needs pycocotools), else by the loss alone.
    """

    annotations: str
    images: str
    recipe: DetectionRecipe
    model: str | None = None
    weights: str | None = None
    classes: tuple[str, ...] | None = None
    width: float | None = None
    depth: float | None = None
    se: bool | float | None = None
    validation: str | None = None
    validation_images: str | None = None
    measure_ap: bool = True
    max_bad: int = 0
    check: bool = True
    checkpoint_steps: int = 1000
    mixed_precision: str | None = None
    jit_compile: bool | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.mixed_precision not in (None, "bfloat16", "float16"):
            raise ValueError(
                f"`mixed_precision` must be None, 'bfloat16' or 'float16'. Received: mixed_precision={self.mixed_precision!r}"
            )
        if self.checkpoint_steps < 1 or self.max_bad < 0:
            raise ValueError(
                f"`checkpoint_steps` must be >= 1 and `max_bad` >= 0. "
                f"Received: checkpoint_steps={self.checkpoint_steps}, max_bad={self.max_bad}"
            )
        if self.recipe.patience and self.validation is None:
            raise ValueError(
                f"Early stopping needs photos to validate on. Received: patience={self.recipe.patience} without validation. "
                f"Pass validation= (--validation), or set patience=0."
            )

    def anchored(self) -> DetectionJob:
        """The same job with paths that hold in any working folder."""
        paths = ("annotations", "images", "weights", "validation", "validation_images")
        return dataclasses.replace(self, **{name: anchored_path(getattr(self, name)) for name in paths})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DetectionFacts:
    """What a detector's run found at its start and must find again when it is resumed."""

    labels: tuple[str, ...]
    detector: str
    train_images: int
    train_boxes: int
    validation_images: int
    steps_per_part: int
    parts_per_epoch: int
    excluded: tuple[str, ...] = ()
    environment: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch, all parts of it."""
        return self.steps_per_part * self.parts_per_epoch


DETECTION = RunKind("detection", DetectionJob, DetectionFacts, DetectionRecipe, "mnasnet detect train")


def train_detector(
    output: str | os.PathLike[str], job: DetectionJob, *,
    cluster: Cluster = ALONE, devices: list[str] | None = None, progress: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train a detector into the new folder `output`: run.json, log.csv, checkpoint.safetensors, model.safetensors, labels.txt.

    `model.safetensors` is what `load_detector` reads: the moving averages where the recipe has them, and the best epoch
    where it stops early. Returns the rows of log.csv. Raises ValueError for bad input, OSError for missing files, Diverged.
    """
    return start_run(DetectorRun, output, job, cluster=cluster, devices=devices, progress=progress)


def resume_detector(
    output: str | os.PathLike[str], *,
    cluster: Cluster = ALONE, devices: list[str] | None = None, progress: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """Go on with the run in a folder from its last checkpoint, as if it had never stopped."""
    return resume_run(DetectorRun, output, cluster=cluster, devices=devices, progress=progress)


class Trainee(keras.Model):
    """A detector with its loss: `fit` takes (pixels, {"boxes" `[B, G, 4]`, "labels" `[B, G]`}) and reports `score_loss` and
    `box_loss` beside their sum. Made with `Trainee.of`; the layers are the detector's own."""

    @classmethod
    def of(cls, detector: keras.Model, recipe: DetectionRecipe) -> Trainee:
        """The trainee of a detector made by SSDLite."""
        spec = spec_of(detector)
        model = cls(detector.inputs, detector.output, name=detector.name)
        model.anchors = anchor_boxes(spec.input_size, spec.anchors)
        model.variance = spec.anchors.variance
        model.recipe = recipe
        model.score_loss = keras.metrics.Mean(name="score_loss")
        model.box_loss = keras.metrics.Mean(name="box_loss")
        return model

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True):
        """Score loss + box loss of a batch; of several replicas, this one's share of their mean."""
        targets = targets_of(y["boxes"], y["labels"], self.anchors, self.variance, threshold=self.recipe.match_iou)
        scores, boxes = loss_of(self.recipe)(targets, y_pred["boxes"], y_pred["scores"], self.anchors, self.variance)
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
    SHOWN = ("loss", "score_loss", "box_loss", "val_loss", "val_ap", "val_ap50")

    def open_data(self) -> None:
        job = self.job
        if job.validation is not None and job.measure_ap and importlib.util.find_spec("pycocotools") is None:
            raise ImportError(
                "COCO's AP needs the package pycocotools: pip install 'keras_mnasnet[detection]'; or measure the loss alone "
                "with measure_ap=False (--no-ap)"
            )
        self.data = self._sound(open_dataset(job.annotations, job.images, classes=job.classes))
        self.validation: CocoDataset | None = None
        if job.validation is not None:
            folder = job.validation_images or job.images
            self.validation = self._sound(open_dataset(job.validation, folder, classes=self.data.labels))
        self.labels = self.data.labels

    def _sound(self, data: CocoDataset) -> CocoDataset:
        if self.known is None:
            return data.checked(self.job.max_bad, progress=self.shown and sys.stderr.isatty()) if self.job.check else data
        lost = set(self.known.excluded)
        bad = tuple(path for path in map(data.path, range(data.count)) if path in lost)
        return data.subset([i for i in range(data.count) if data.path(i) not in lost], bad=bad) if bad else data

    def make_model(self) -> keras.Model:
        self.detector = self._resumed() if self.has_state else self._started()
        return Trainee.of(self.detector, self.recipe)

    def _resumed(self) -> keras.Model:
        """The network that the checkpoint belongs to, with the classes that the data has now."""
        spec = DetectorSpec.from_json(self.known.detector)
        found = dataclasses.replace(spec, labels=self.data.labels, category_ids=self.data.category_ids)
        return build_detector(found, bn_momentum=self.recipe.bn_momentum)

    def _started(self) -> keras.Model:
        job, recipe = self.job, self.recipe
        if job.weights is not None and is_detector(job.weights):
            return self._continued(job.weights)
        return SSDLite(
            job.model or DEFAULT_NETWORK,
            self.data.labels,
            job.weights,
            category_ids=self.data.category_ids,
            input_size=recipe.size or DEFAULT_SIZE,
            width_multiplier=job.width,
            depth_multiplier=job.depth,
            se=job.se,
            loss=recipe.loss,
            bn_momentum=recipe.bn_momentum,
            score_bias=recipe.score_bias,
        )

    def _continued(self, path: str) -> keras.Model:
        """A trained detector for this run's classes; score predictors of other classes start anew."""
        spec, tensors = read_detector(path)
        given = [name for name in ("model", "width", "depth", "se") if getattr(self.job, name) is not None]
        if given:
            raise ValueError(
                f"A detector's file says which network it is. Received: {', '.join(given)} with weights={path!r}. "
                f"Leave them out."
            )
        same = spec.labels == self.data.labels
        spec = dataclasses.replace(
            spec, labels=self.data.labels, category_ids=self.data.category_ids, loss=self.recipe.loss,
            input_size=self.recipe.size or spec.input_size,
        )  # fmt: skip
        model = build_detector(spec, bn_momentum=self.recipe.bn_momentum, score_bias=self.recipe.score_bias)
        if not same:
            logging.warning("%s has other classes than the data: its score predictors start anew", path)
            tensors = {name: value for name, value in tensors.items() if not name.rpartition("/")[0].endswith("_scores")}
        assign_tensors(model, tensors)
        return model

    def make_facts(self, model: keras.Model) -> DetectionFacts:
        excluded = self.data.bad + (self.validation.bad if self.validation else ())
        return DetectionFacts(
            detector=spec_of(self.detector).to_json(),
            labels=self.data.labels,
            train_images=self.data.count,
            train_boxes=len(self.data.boxes),
            validation_images=self.validation.count if self.validation else 0,
            excluded=tuple(dict.fromkeys(excluded)),
            environment={**environment(), "devices": [str(device) for device in keras.distribution.list_devices()]},
            **parts_of(self.data.count * self.recipe.passes, self.recipe.batch_size, self.job.checkpoint_steps, "photos"),
        )

    def compile(self, model: keras.Model, frozen: bool, jit_compile: bool | str) -> None:
        model.compile(make_optimizer(self.recipe, self.facts.steps_per_epoch), jit_compile=jit_compile)

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
        if self.validation is None:
            return {}
        size, batch = spec_of(self.detector).input_size, min(self.recipe.batch_size, self.validation.count)
        batches = evaluation_batches(self.validation, size=size, batch_size=batch, max_boxes=self.recipe.max_boxes)
        found = {f"val_{key}": float(value) for key, value in model.evaluate(batches, verbose=0, return_dict=True).items()}
        if self.job.measure_ap:
            found |= self._ap(model, batches)
        return found

    def _ap(self, model: keras.Model, batches: tf.data.Dataset) -> dict[str, float]:
        """COCO's AP and AP50 of the validation photos, 0 where there is nothing to measure."""
        from keras_mnasnet.detection.evaluation import coco_score, results_of
        from keras_mnasnet.detection.postprocess import detections_of, sigmoid

        data = self.validation
        if data is None:
            return {}
        found = []
        for pixels, _ in batches:
            outputs = model.predict_on_batch(pixels)
            found += detections_of(outputs["boxes"], sigmoid(outputs["scores"]), spec_of(self.detector))
        results = [
            row
            for image, detections in zip(data.image_ids, found, strict=True)
            for row in results_of(detections, data.truth.images[image], data.category_ids)
        ]
        metrics = coco_score(data.truth, results, image_ids=data.image_ids).metrics
        return {"val_ap": metrics["AP"] or 0.0, "val_ap50": metrics["AP50"] or 0.0}

    def score(self, found: dict[str, float]) -> float:
        return found["val_ap"] if "val_ap" in found else 1 / (1 + found["val_loss"])

    def save(self, model: keras.Model, path: Path) -> None:
        save_detector(self.detector, path)
