"""A training that leaves no folder behind: one network, images in memory, its accuracy; for candidates of a search."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

import keras
import numpy as np

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.data import ImageSet, training_batches
from keras_mnasnet.data.pipeline import decoded
from keras_mnasnet.data.sources import Arrays
from keras_mnasnet.training.averages import Averages
from keras_mnasnet.training.callbacks import NanStop
from keras_mnasnet.training.datasets import evaluate
from keras_mnasnet.training.recipe import Recipe
from keras_mnasnet.training.run import Diverged
from keras_mnasnet.training.start import compile_model, training_model

__all__ = ["ShortRun", "in_memory", "train_short"]


@dataclasses.dataclass(frozen=True, slots=True)
class ShortRun:
    """What came of it: the model, its validation accuracy 0..1, seconds by phase (`training_steps` without the first)."""

    model: keras.Model
    accuracy: float
    loss: float
    steps: int
    seconds: dict[str, float]


class _FirstStep(keras.callbacks.Callback):
    """When the first step, which traces the graph, was through."""

    at: float | None = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note the time once; reading the loss waits for the step."""
        if self.at is None:
            float((logs or {}).get("loss", 0))
            self.at = time.perf_counter()


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
    steps: int | None = None,
) -> ShortRun:  # fmt: skip
    """Train with a recipe from fresh weights; `steps` ends it early. Raises Diverged for a loss that is not finite.

    The same seed, images and machine give the same result; frozen epochs and early stopping are for `train`.
    """
    if recipe.frozen_epochs or recipe.patience:
        raise ValueError(
            f"A short training starts from fresh weights and runs to its end. Received: recipe={recipe.name!r} with "
            f"frozen_epochs={recipe.frozen_epochs}, patience={recipe.patience}. Set both to 0."
        )
    began = time.perf_counter()
    keras.utils.set_random_seed(recipe.seed)
    per_epoch = images.steps_per_epoch(recipe.batch_size)
    total = per_epoch * recipe.epochs if steps is None else steps
    model = training_model(
        architecture, len(images.labels), size=size, bn_epsilon=1e-3, padding="same", dropout=recipe.dropout,
        bn_momentum=recipe.bn_momentum,
    )  # fmt: skip
    top = model.get_layer("predictions")
    top.set_weights([np.zeros_like(value) for value in top.get_weights()])
    compile_model(model, recipe, per_epoch, len(images.labels))
    built = time.perf_counter()
    averages = Averages(recipe.ema, model) if recipe.ema else None
    first, nan = _FirstStep(), NanStop(1)
    batches = training_batches(images, size=size, batch_size=recipe.batch_size, augment=recipe.augment, seed=recipe.seed)
    fitted = model.fit(
        batches, steps_per_epoch=total, shuffle=False, verbose=0, callbacks=[first, nan, *([averages] if averages else [])]
    )
    if nan.bad_step is not None:
        raise Diverged(f"the loss of step {nan.bad_step:,} of {total:,} is NaN or infinite")
    trained = time.perf_counter()
    with averages.swapped(model) if averages else contextlib.nullcontext():
        found = evaluate(model, validation, size, recipe.augment, batch_size=min(500, validation.count))
    traced = first.at or trained
    seconds = {
        "build": built - began, "trace": traced - built, "training_steps": trained - traced,
        "validate": time.perf_counter() - trained,
    }  # fmt: skip
    return ShortRun(model, found["val_accuracy"], float(fitted.history["loss"][0]), total, seconds)
