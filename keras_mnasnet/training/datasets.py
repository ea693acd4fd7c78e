"""The images of a run: training and validation sets, and how validation is measured."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mnasnet.data import ImageSet, evaluation_batches, numbering, open_images, train_validation
from keras_mnasnet.data.splits import splits_of
from keras_mnasnet.preprocessing import Augment, Preprocessing
from keras_mnasnet.training.job import Job

__all__ = ["evaluate", "evaluation_preprocessing", "held_out", "open_pair"]

VALIDATION_FRACTION = 0.1
CROP_FRACTION = 0.875
HOLDOUT_SEED = 1  # fixed: the same images are held out in every run and every search


def open_pair(
    job: Job, excluded: tuple[str, ...] | None, shown: bool, classes: int | None = None
) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """(training images, validation images, damaged images left out); ValueError for more of these than `max_bad`.

    `excluded` are the damaged images that an earlier start of the run found; None looks for them. `classes`: of the head that
    is kept, None where it is not known.
    """
    splits = splits_of(job.data)
    how = "folder" if job.head == "new" else "auto" if classes is None else numbering([classes])
    images = open_images(job.data, split="train" if "train" in splits else None, classes=how)
    if job.holdout and not splits:
        images, _ = held_out(images, job.holdout)
    beside = next((split for split in ("validation", "test") if split in splits), None)
    images = _sound(images, job, excluded, shown)
    if job.validation is not None:
        others = splits_of(job.validation)
        split = next((split for split in ("validation", "test") if split in others), None)
        validation = _sound(open_images(job.validation, split=split, classes=how), job, excluded, shown)
    elif beside and "train" in splits:
        validation = _sound(open_images(job.data, split=beside, classes=how), job, excluded, shown)
    else:
        images, validation = train_validation(images, VALIDATION_FRACTION, job.recipe.seed)
    if not validation.count:
        raise ValueError(
            f"A run needs images to validate on. Received: {images.count} images in {images.name}, too few to put a tenth of "
            f"every class aside. Add images, or name others with validation= (--validation)."
        )
    if images.labels != validation.labels:
        raise ValueError(
            f"Training and validation images must have the same classes. Received: {len(images.labels)} classes "
            f"({', '.join(images.labels[:4])} ...) and {len(validation.labels)} ({', '.join(validation.labels[:4])} ...)"
        )
    return images, validation, tuple(dict.fromkeys(images.bad + validation.bad))


def held_out(images: ImageSet, fraction: float) -> tuple[ImageSet, ImageSet]:
    """(the rest, `fraction` of every class): the same division of the same images every time."""
    return train_validation(images, fraction, HOLDOUT_SEED)


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
