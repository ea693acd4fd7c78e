"""Training a classifier: start, resume, and everything a run's folder holds."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.data import training_batches
from keras_mnasnet.loading import checkpoint_of
from keras_mnasnet.spec import describe
from keras_mnasnet.training.callbacks import COLUMNS
from keras_mnasnet.training.datasets import evaluate, evaluation_preprocessing, open_run
from keras_mnasnet.training.distribution import Cluster
from keras_mnasnet.training.engine import ALONE, STATE_FILE, Diverged, Run, parts_of, resume_run, start_run
from keras_mnasnet.training.job import CLASSIFICATION, Facts, Job
from keras_mnasnet.training.start import compile_model, kept_classes, starting_model, training_model
from keras_mnasnet.utils.system import environment
from keras_mnasnet.weights.checkpoint import OWN_SOURCE, Origin
from keras_mnasnet.weights.formats.safetensors import write_native

__all__ = ["STATE_FILE", "Diverged", "resume", "train"]


def train(
    output: str | os.PathLike[str],
    job: Job,
    *,
    cluster: Cluster = ALONE,
    devices: list[str] | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train, and leave in the folder `output`: run.json, log.csv, checkpoint.safetensors, model.safetensors, labels.txt.

    `model.safetensors` holds the moving averages where the recipe has them, and of the best epoch where it stops early.
    Returns the rows of log.csv. Raises ValueError for bad input, OSError for a folder that cannot be written, Diverged.
    """
    return start_run(ClassifierRun, output, job, cluster=cluster, devices=devices, progress=progress)


def resume(
    output: str | os.PathLike[str],
    *,
    cluster: Cluster = ALONE,
    devices: list[str] | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Go on with the run in a folder from its last checkpoint, as if it had never stopped; Raises as `train` does."""
    return resume_run(ClassifierRun, output, cluster=cluster, devices=devices, progress=progress)


class ClassifierRun(Run):
    """A classifier's run; `job` is a Job."""

    KIND = CLASSIFICATION
    COLUMNS = COLUMNS
    LOGGED = ("loss", "accuracy")
    SHOWN = ("loss", "accuracy", "val_accuracy", "val_top5")

    def open_data(self) -> None:
        excluded = self.known.excluded if self.known else None
        kept = None
        if self.job.head == "keep":
            kept = len(self.known.labels) if self.known else kept_classes(self.job.weights)
        splits = open_run(self.job, excluded, self.shown and sys.stderr.isatty(), kept)
        self.images, self.validation = splits.train, splits.validation
        self.excluded = tuple(dict.fromkeys(self.images.bad + self.validation.bad))
        self.labels = self.images.labels

    def make_model(self) -> keras.Model:
        job, recipe = self.job, self.recipe
        if self.has_state:
            facts = self.known
            return training_model(
                Architecture.parse(facts.architecture), len(facts.labels), size=facts.size, bn_epsilon=facts.bn_epsilon,
                padding=facts.padding, dropout=recipe.dropout, bn_momentum=recipe.bn_momentum,
            )  # fmt: skip
        return starting_model(
            job.model,
            len(self.images.labels),
            weights=job.weights,
            head=job.head,
            size=recipe.size,
            width_multiplier=job.width,
            depth_multiplier=job.depth,
            se=job.se,
            stem_stride=job.stem_stride,
            dropout=recipe.dropout,
            bn_momentum=recipe.bn_momentum,
            labels=self.images.labels,
        )

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
            labels=self.images.labels,
            train_images=self.images.count,
            validation_images=self.validation.count,
            excluded=self.excluded,
            environment={**environment(), "devices": [str(device) for device in keras.distribution.list_devices()]},
            **parts,
        )

    def compile(self, model: keras.Model, frozen: bool, jit_compile: bool | str) -> None:
        compile_model(
            model, self.recipe, self.facts.steps_per_epoch, len(self.images.labels), frozen=frozen, jit_compile=jit_compile
        )

    def batches(self, first_step: int) -> tf.data.Dataset:
        return training_batches(
            self.images,
            size=self.facts.size,
            batch_size=self.recipe.batch_size,
            augment=self.recipe.augment,
            seed=self.recipe.seed,
            first_step=first_step,
            shard=self.cluster.shard,
        )

    def measure(self, model: keras.Model) -> dict[str, float]:
        return evaluate(
            model, self.validation, self.facts.size, self.recipe.augment,
            batch_size=self.recipe.batch_size, shard=self.cluster.shard,
        )  # fmt: skip

    def score(self, found: dict[str, float]) -> float:
        return found["val_accuracy"]

    def save(self, model: keras.Model, path: Path) -> None:
        preprocessing = evaluation_preprocessing(self.facts.size, self.recipe.augment)
        origin = Origin(OWN_SOURCE, self.folder.name, measured_on=f"{self.validation.name}, for validation")
        checkpoint = checkpoint_of(model, checked=False)
        write_native(
            dataclasses.replace(
                checkpoint, labels=self.images.labels, preprocessing=preprocessing, origin=origin, assumed=(),
                size=self.facts.size,
            ),
            path,
        )  # fmt: skip
