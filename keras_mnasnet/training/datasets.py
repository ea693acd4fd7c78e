"""The images of a run: training and validation sets, and how validation is measured."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mnasnet.data import ImageSet, Splits, evaluation_batches, numbering, open_splits
from keras_mnasnet.preprocessing import Augment, Preprocessing
from keras_mnasnet.training.job import Job

__all__ = ["evaluate", "evaluation_preprocessing", "open_run"]

CROP_FRACTION = 0.875


def open_run(job: Job, excluded: tuple[str, ...] | None, shown: bool, classes: int | None = None) -> Splits:
    """The images of a run, without the damaged ones; ValueError for more of these than `max_bad`.

    `excluded` are the damaged images that an earlier start of the run found; None looks for them. `classes`: of the head that
    is kept, None where it is not known.
    """
    how = "folder" if job.head == "new" else "auto" if classes is None else numbering([classes])
    return open_splits(
        job.data, validation=job.validation, holdout=job.holdout, seed=job.recipe.seed, classes=how,
        check=lambda images: _sound(images, job, excluded, shown),
    )  # fmt: skip


def _sound(images: ImageSet, job: Job, excluded: tuple[str, ...] | None, shown: bool) -> ImageSet:
    if excluded is None:
        return images.checked(job.max_bad, progress=shown) if job.check else images
    if not excluded:
        return images
    lost = set(excluded)
    bad = tuple(where for where in map(images.where, range(images.count)) if where in lost)
    return images.subset([i for i in range(images.count) if images.where(i) not in lost], bad=bad) if bad else images


def evaluation_preprocessing(size: int, augment: Augment) -> Preprocessing:
    """Validation preprocessing of a run: whole images if they are trained whole, else the central 87.5 %."""
    return Preprocessing(size, "bicubic", resize=size if augment.crop != "inception" else round(size / CROP_FRACTION))


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
