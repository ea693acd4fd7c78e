"""Training a classifier: the model it starts from, its images, how it is measured; and the short trainings of a search."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mnasnet.applications import DEFAULT_NUMERICS, checkpoint_for
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.data import ImageSet, Splits, check_classes, evaluation_batches, numbering, open_splits, training_batches
from keras_mnasnet.data.pipeline import decoded
from keras_mnasnet.data.sources import Arrays
from keras_mnasnet.family import as_architecture, default_size
from keras_mnasnet.loading import checkpoint_of, load
from keras_mnasnet.model import build
from keras_mnasnet.preprocessing import Augment, Normalization, Preprocessing
from keras_mnasnet.spec import describe
from keras_mnasnet.training.balance import PerClass, WeightedCrossentropy, class_weights
from keras_mnasnet.training.engine import Position, Run, jit_choice, large_photos, parts_of, photos_sha256, sound
from keras_mnasnet.training.folded import folded_norms, sample, unfold
from keras_mnasnet.training.job import CLASS_FILE, CLASSIFICATION, Facts, Job, write_classes
from keras_mnasnet.training.optimizers import make_optimizer
from keras_mnasnet.training.recipe import Recipe
from keras_mnasnet.training.teacher import Student, Teacher
from keras_mnasnet.utils.system import environment
from keras_mnasnet.weights.checkpoint import OWN_SOURCE, Origin, assign, expected_shapes
from keras_mnasnet.weights.formats.safetensors import write_native

HEADS = ("new", "keep")
SCORES = ("val_accuracy", "val_balanced_accuracy")
DEFAULT_NETWORK = "a1"
CROP_FRACTION = 0.875


class ClassifierRun(Run):
    """A classifier's run; `job` is a Job, `start` the Checkpoint that it starts from where one was given as a value."""

    KIND = CLASSIFICATION
    LOGGED = ("loss", "accuracy")
    SHOWN = ("loss", "accuracy", "val_accuracy", "val_top5")
    HEAD = re.compile(r"predictions|top_dropout")

    def open_data(self) -> None:
        excluded = self.known.excluded if self.known else None
        kept = None
        if self.job.head == "keep":
            kept = len(self.known.labels) if self.known else load(self._source).classes if self._source else None
        self.splits = open_run(self.job, excluded, self.shown, kept)
        self.images, self.validation = self.splits.train, self.splits.validation
        self.excluded = tuple(dict.fromkeys(self.images.bad + self.validation.bad))
        self.labels = self.images.labels

    @property
    def _source(self) -> Any:
        return self.job.from_model if self.start is None else self.start

    def make_model(self) -> keras.Model:
        model = self._network()
        if self.job.teacher is None:
            return model
        self.teacher = Teacher(self.job.teacher, self.labels)
        return Student.of(model, self.recipe.teacher_weight, self.recipe.temperature)

    def _network(self) -> keras.Model:
        job, recipe = self.job, self.recipe
        if self.has_state:
            facts = self.known
            return training_model(
                Architecture.parse(facts.architecture), len(facts.labels), size=facts.size, bn_epsilon=facts.bn_epsilon,
                padding=facts.padding, normalization=facts.normalization, dropout=recipe.dropout,
                bn_momentum=recipe.bn_momentum,
            )  # fmt: skip
        model = starting_model(
            job.network, len(self.images.labels), from_model=self._source, head=job.head, size=recipe.size,
            width_multiplier=job.width, depth_multiplier=job.depth, se=job.se, stem_stride=job.stem_stride,
            dropout=recipe.dropout, bn_momentum=recipe.bn_momentum, labels=self.images.labels,
        )  # fmt: skip
        if folded_norms(model):
            taken = self.images.subset(sample(self.images.count))
            photos = evaluation_preprocessing(model.input_shape[1], recipe.augment)
            unfold(model, (pixels for pixels, *_ in evaluation_batches(taken, photos, batch_size=16).as_numpy_iterator()))
        return model

    def make_facts(self, model: keras.Model) -> Facts:
        spec = describe(model)
        parts = parts_of(self.images.count, self.recipe.batch_size, self.job.checkpoint_steps)
        if self.recipe.augment.crop == "pad" and self.recipe.augment.pad >= (spec.input_shape[0] or 224):
            raise ValueError(
                f"`augment.pad` must be below the input size. Received: augment.pad={self.recipe.augment.pad}, "
                f"size={spec.input_shape[0]}"
            )
        return Facts(
            architecture=str(spec.architecture),
            size=spec.input_shape[0] or 224,
            bn_epsilon=spec.bn_epsilon,
            padding=spec.padding,
            normalization=spec.normalization,
            labels=self.images.labels,
            train_images=self.images.count,
            validation_images=self.validation.count,
            excluded=self.excluded,
            teacher_sha256="" if self.job.teacher is None else self.teacher.sha256,
            photos_sha256=photos_sha256((self.images, self.validation)),
            data=self.splits.summary().as_json(),
            environment={**environment(), "devices": [str(device) for device in keras.distribution.list_devices()]},
            **parts,
        )

    def about(self, model: keras.Model) -> dict[str, object]:
        facts, goal = self.facts, "balanced accuracy" if self.is_balanced else "accuracy"
        network = Architecture.parse(facts.architecture)
        return {
            **self.splits.summary().rows(),
            "model": self.job.from_model or "fresh weights",
            "network": f"{network.name}, {network.params(classes=len(facts.labels)):,} parameters, input {facts.size} pixels",
            "teacher": self.job.teacher,
            "keeps": f"the epoch of the best validation {goal}" if self.keeps_best else "the last epoch",
        }

    def warnings(self, model: keras.Model) -> tuple[str, ...]:
        return large_photos(self.images.sizes, self.facts.size)

    def measured(self, row: dict[str, Any]) -> tuple[str, ...]:
        found = self.per_class.answers()
        if self.main and self.folder:
            write_classes(self.folder / CLASS_FILE, found.rows(self.labels, row["epoch"]))
        warning = found.warning(self.labels)
        return f"  right: {found.text(self.labels)}", *([f"warning: {warning}"] if warning else [])

    def ended(self, rows: list[dict[str, Any]]) -> tuple[str, ...]:
        found = [row for row in rows if row.get("val_accuracy")]
        if not found:
            return ()
        last = found[-1]
        best = max(found, key=lambda row: self.score({key: float(row[key]) for key in SCORES}))
        kept, other, what = (best, last, "last") if self.keeps_best else (last, best, "best")
        beside = "" if kept is other else f"{what}: {float(other['val_accuracy']):.4f} after epoch {other['epoch']}"
        why = "" if self.keeps_best or not self.splits.judged_by_test else "a test split judged, which may not choose"
        more = "; ".join(filter(None, (beside, why)))
        return (
            f"wrote {self.folder}: the model of epoch {kept['epoch']}, validation accuracy {float(kept['val_accuracy']):.4f}"
            f"{f' ({more})' if more else ''}",
            f"next: mnasnet predict {self.folder} PHOTO, or mnasnet export {self.folder} -o FILE.tflite",
        )

    def compile(self, model: keras.Model, frozen: bool, jit_compile: bool | str) -> None:
        self.per_class = compile_model(
            model, self.recipe, self.facts.steps_per_epoch, len(self.labels), frozen=frozen, jit_compile=jit_compile,
            weights=self._weights(),
        )  # fmt: skip

    def _weights(self) -> np.ndarray | None:
        if self.recipe.class_weights != "balanced":
            return None
        return class_weights(np.bincount(self.images.label_ids, minlength=len(self.labels)))

    def batches(self, first_step: int) -> tf.data.Dataset:
        batches = training_batches(
            self.images,
            size=self.facts.size,
            batch_size=self.recipe.batch_size,
            augment=self.recipe.augment,
            seed=self.recipe.seed,
            first_step=first_step,
            shard=self.cluster.shard,
            balanced=self.recipe.sampling == "balanced",
        )
        if self.job.teacher is None:
            return batches
        taught = batches.map(lambda pixels, targets: (pixels, {"classes": targets, "teacher": self.teacher(pixels)}))
        return taught.prefetch(tf.data.AUTOTUNE)

    def measure(self, model: keras.Model) -> dict[str, float]:
        return evaluate(
            model, self.validation, self.facts.size, self.recipe.augment,
            batch_size=self.recipe.batch_size, shard=self.cluster.shard,
        )  # fmt: skip

    @property
    def is_balanced(self) -> bool:
        """Whether every class counts alike, however many images it has."""
        return "balanced" in (self.recipe.class_weights, self.recipe.sampling)

    @property
    def chooses(self) -> bool:
        return not self.splits.judged_by_test

    def score(self, found: dict[str, float]) -> float:
        return found[SCORES[self.is_balanced]]

    def save(self, model: keras.Model, path: Path) -> None:
        figures = {"top1": "val_accuracy", "top5": "val_top5"}
        checkpoint = checkpoint_of(model, checked=False)
        write_native(
            dataclasses.replace(
                checkpoint, labels=self.images.labels, size=self.facts.size, assumed=(),
                preprocessing=evaluation_preprocessing(self.facts.size, self.recipe.augment),
                origin=Origin(
                    OWN_SOURCE, path.parent.name, measured_on=f"{self.validation.name}, for validation",
                    measured={key: round(100 * self.found[name], 2) for key, name in figures.items() if name in self.found},
                ),
            ),
            path,
        )  # fmt: skip


def open_run(job: Job, excluded: tuple[str, ...] | None, shown: bool, classes: int | None = None) -> Splits:
    """The images of a run, without the damaged ones; ValueError for more of these than `max_bad`.

    `excluded` are the damaged images that an earlier start of the run found; None looks for them. `classes`: of the head that
    is kept, None where it is not known.
    """
    how = "folder" if job.head == "new" else "auto" if classes is None else numbering([classes])
    return open_splits(
        job.data, validation=job.validation, holdout=job.holdout, seed=job.recipe.seed, classes=how,
        check=lambda images: sound(images, job, excluded, shown),
    )  # fmt: skip


def evaluation_preprocessing(size: int, augment: Augment) -> Preprocessing:
    """Validation preprocessing of a run: whole images if they are trained whole, else the central 87.5 %."""
    resize = size if augment.crop != "inception" else round(size / CROP_FRACTION)
    return Preprocessing(size, "bicubic", resize=resize, upright=augment.upright)


def evaluate(
    model: keras.Model, images: ImageSet, size: int, augment: Augment, *, batch_size: int, shard: tuple[int, int] = (0, 1)
) -> dict[str, float]:
    """Loss, top-1 and (beyond five classes) top-5 of a compiled model, keys `val_*`.

    The last batch is filled up with images of weight zero, so that every process and replica has its share of it.
    """
    padded = -(-images.count // batch_size) * batch_size
    filled = images.subset(np.arange(padded) % images.count)
    classes = len(images.labels)

    def weighted(pixels: Any, labels: Any, index: Any) -> tuple[Any, Any, Any]:
        return pixels, tf.one_hot(labels, classes), tf.cast(index < images.count, tf.float32)

    preprocessing = evaluation_preprocessing(size, augment)
    batches = evaluation_batches(filled, preprocessing, batch_size=batch_size, shard=shard, leave_out=False)
    found = model.evaluate(batches.map(weighted), steps=padded // batch_size, verbose=0, return_dict=True)
    found["loss"] *= padded / images.count  # Keras divides by the number of images, whatever they weigh
    return {f"val_{key}": float(value) for key, value in found.items()}


def starting_model(
    network: Architecture | str | None, classes: int, *, from_model: Any = None, head: str = "new", size: int | None = None,
    width_multiplier: float | None = None, depth_multiplier: float | None = None, se: bool | float | None = None,
    stem_stride: int | None = None, dropout: float = 0.2, bn_momentum: float = 0.99, labels: Sequence[str] | None = None,
) -> keras.Model:  # fmt: skip
    """A model for training: `[B, size, size, 3]`, RGB pixels 0..255 -> logits `[B, classes]`.

    `network` None is the checkpoint's own, A1 without one. `from_model`, anything that `load` takes, fills all but the
    classifier, which starts at zero, so that the first loss is ln(classes); head="keep" keeps the checkpoint's, and raises
    ValueError unless it has as many classes, and of the same names where both are known (`labels` are the data's).
    """
    if head not in HEADS:
        raise ValueError(f"`head` must be one of {HEADS}. Received: head={head!r}")
    if head == "keep" and from_model is None:
        raise ValueError("head='keep' needs a checkpoint to keep it from. Received: from_model=None")
    scaling: dict[str, Any] = {
        "width_multiplier": width_multiplier, "depth_multiplier": depth_multiplier, "se": se, "stem_stride": stem_stride
    }  # fmt: skip
    settings: dict[str, Any] = {"dropout": dropout, "bn_momentum": bn_momentum}
    if from_model is None:
        base = as_architecture(network or DEFAULT_NETWORK)
        built = base.scaled(width_multiplier, depth_multiplier).with_se(se).with_stem_stride(stem_stride)
        return with_zero_classifier(training_model(built, classes, size=size or default_size(built), **settings))
    if network is None and not any(value is not None for value in scaling.values()):
        start = load(from_model, size=size)
    else:
        start = checkpoint_for(as_architecture(network or DEFAULT_NETWORK), from_model, size=size, **scaling)
    if start.task != "classification":
        raise ValueError(
            f"A classifier is trained from a classifier. Received: the detector {start.origin.name}. `mnasnet detect train "
            f"--from` goes on with it."
        )
    if head == "keep" and start.classes != classes:
        raise ValueError(
            f"head='keep' needs a checkpoint with the classes of the data. Received: {start.classes} classes in "
            f"{start.origin.name}, {classes} in the data. Use head='new'."
        )
    if head == "keep" and labels is not None:
        check_classes(start.labels, labels, "head='keep'", "Use head='new'.")
    model = training_model(
        start.architecture, classes, size=size or start.size, bn_epsilon=start.numerics.bn_epsilon,
        padding=start.numerics.padding, normalization=start.numerics.normalization, **settings,
    )  # fmt: skip
    assign(model, start.tensors, expected_shapes(start.architecture, classes if head == "keep" else 0))
    return model if head == "keep" else with_zero_classifier(model)


def with_zero_classifier(model: keras.Model) -> keras.Model:
    """The model whose first loss is ln(classes)."""
    top = model.get_layer("predictions")
    top.set_weights([np.zeros_like(value) for value in top.get_weights()])
    return model


def training_model(
    network: Architecture, classes: int, *, size: int, bn_epsilon: float = DEFAULT_NUMERICS.bn_epsilon,
    padding: str = DEFAULT_NUMERICS.padding, normalization: Normalization = DEFAULT_NUMERICS.normalization, dropout: float,
    bn_momentum: float,
) -> keras.Model:  # fmt: skip
    """The network with fresh weights and a classifier that gives logits."""
    return build(
        network, classes=classes, input_shape=(size, size, 3), classifier_activation=None, dropout_rate=dropout,
        bn_epsilon=bn_epsilon, bn_momentum=bn_momentum, padding=padding, normalization=normalization,
    )  # fmt: skip


def compile_model(
    model: keras.Model, recipe: Recipe, steps_per_epoch: int, classes: int, *, frozen: bool = False,
    jit_compile: bool | str | None = None, weights: np.ndarray | None = None,
) -> PerClass:  # fmt: skip
    """Give a model that returns logits the recipe's optimizer, loss (with the classes' `weights`) and metrics; returns the
    one that counts class by class."""
    per_class = PerClass(classes)
    metrics: list[Any] = [keras.metrics.CategoricalAccuracy(name="accuracy"), per_class]
    loss: Any = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)
    if weights is not None:
        loss = WeightedCrossentropy(weights, recipe.label_smoothing)
    if classes > 5:
        metrics.append(keras.metrics.TopKCategoricalAccuracy(5, name="top5"))
    model.compile(
        make_optimizer(recipe, steps_per_epoch, frozen=frozen, layers=[layer.name for layer in model.layers if layer.weights]),
        loss,
        weighted_metrics=metrics,
        jit_compile=jit_choice(jit_compile),
    )
    return per_class


@dataclasses.dataclass(frozen=True, slots=True)
class ShortRun:
    """What came of it: the model, its validation accuracy 0..1, seconds by phase (`training_steps` without the first).

    `steps` are all that led to the model; `state` is what `train_short` goes on from.
    """

    model: keras.Model
    accuracy: float
    loss: float
    steps: int
    seconds: dict[str, float]
    state: dict[str, np.ndarray]


def in_memory(images: ImageSet) -> ImageSet:
    """The same images, decoded once and for all; unchanged where they differ in size or do not fit."""
    if isinstance(images.source, Arrays) and images.picked is None:
        return images
    arrays = decoded(images)
    if arrays is None:
        return images
    return ImageSet(images.name, images.labels, Arrays(images.name, *(np.asarray(array) for array in arrays)))


def train_short(
    architecture: Architecture, images: ImageSet, validation: ImageSet, recipe: Recipe, *, size: int,
    steps: int | None = None, prepare: Callable[[keras.Model], None] | None = None,
    state: tuple[Mapping[str, np.ndarray], int] | None = None,
) -> ShortRun:  # fmt: skip
    """Train with a recipe, on one device and without a folder; ends after `steps` in all, the recipe's schedule unchanged.

    It starts from fresh weights, which `prepare` may change, or goes on from the `state` after so many steps of the same
    training, as if that had never ended. The same seed, images and machine give the same result; frozen epochs and early
    stopping are for `train`. Raises Diverged for a loss that is not finite, ValueError for the state of another network.
    """
    if recipe.freezes or recipe.patience:
        raise ValueError(
            f"A short training starts from fresh weights and runs to its end. Received: recipe={recipe.name!r} with "
            f"frozen_epochs={recipe.frozen_epochs}, frozen_bn={recipe.frozen_bn}, patience={recipe.patience}. Set them to 0, "
            f"false and 0."
        )
    run = _Candidate(architecture, images, validation, recipe, size, steps, prepare, state)
    (row,) = run.go()
    return ShortRun(run.model, float(row["val_accuracy"]), float(row["loss"]), row["step"], run.seconds, run.end)


class _Candidate(ClassifierRun):
    """A network of a search: one part of all steps, images that are there already, nothing written."""

    parts = (0, 1)

    def __init__(
        self, architecture: Architecture, images: ImageSet, validation: ImageSet, recipe: Recipe, size: int, steps: int | None,
        prepare: Callable[[keras.Model], None] | None, state: tuple[Mapping[str, np.ndarray], int] | None,
    ) -> None:  # fmt: skip
        compiled = None if keras.backend.backend() == "jax" else False  # XLA takes longer than it saves on so few steps
        super().__init__(None, Job(data=images.name, recipe=recipe, jit_compile=compiled), None, devices=[])
        self.images, self.validation, self.labels = images, validation, images.labels
        self.architecture, self.size, self.prepare = architecture, size, prepare
        self.per_epoch = images.steps_per_epoch(recipe.batch_size)
        before = 0 if state is None else state[1]
        self.steps = (self.per_epoch * recipe.epochs if steps is None else steps) - before
        if self.steps < 1:
            raise ValueError(f"`steps` must be more than were trained. Received: steps={steps}, after {before}")
        if state is not None:
            self.state = dict(state[0]), Position(step=before)

    def reached(self, arrays: dict[str, np.ndarray]) -> None:
        self.end = arrays

    def open_data(self) -> None:
        pass

    def make_model(self) -> keras.Model:
        model = with_zero_classifier(
            training_model(
                self.architecture, len(self.labels), size=self.size, dropout=self.recipe.dropout,
                bn_momentum=self.recipe.bn_momentum,
            )
        )  # fmt: skip
        if self.prepare is not None and self.state is None:
            self.prepare(model)
        return model

    def make_facts(self, model: keras.Model) -> Facts:
        return Facts(
            architecture=str(self.architecture), size=self.size, bn_epsilon=1e-3, padding="same", labels=self.labels,
            train_images=self.images.count, validation_images=self.validation.count, steps_per_part=self.steps,
            parts_per_epoch=1,
        )  # fmt: skip

    def compile(self, model: keras.Model, frozen: bool, jit_compile: bool | str) -> None:
        self.per_class = compile_model(
            model, self.recipe, self.per_epoch, len(self.labels), jit_compile=jit_compile, weights=self._weights()
        )

    def measure(self, model: keras.Model) -> dict[str, float]:
        batch = min(500, self.validation.count)
        return evaluate(model, self.validation, self.size, self.recipe.augment, batch_size=batch)
