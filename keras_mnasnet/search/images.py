"""The images of a search: what candidates train on, what they are chosen by, and what nothing is chosen by."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from keras_mnasnet.data import ImageSet

__all__ = ["HOLDOUT", "SearchImages", "located", "open_search_images"]

VALIDATION_FRACTION = HOLDOUT = 0.1
VALIDATION_SEED = 0  # fixed: the same images are held out in every study and for every seed


@dataclasses.dataclass(frozen=True, slots=True)
class SearchImages:
    """`train` and `validation` are parts of the data's training split; `test` is its test (else validation) split, or the
    share `holdout` of undivided data, which no candidate sees."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    test_is: str
    holdout: float

    @property
    def classes(self) -> int:
        """How many."""
        return len(self.train.labels)


def located(data: str) -> str:
    """`cifar10` is the folder of that name in KERAS_MNASNET_DATA, else TensorFlow Datasets'; paths become absolute."""
    path = Path(data).expanduser()
    if path.exists():
        return str(path.absolute())
    beside = os.environ.get("KERAS_MNASNET_DATA")
    if data == "cifar10":
        return str(Path(beside).absolute() / data) if beside and (Path(beside) / data).is_dir() else "tfds:cifar10"
    return data


def open_search_images(data: str, *, images: int | None = None, validation_images: int | None = None) -> SearchImages:
    """Open data for a search. `images` and `validation_images` take about as many of each part,
    the same share of every class.

    Without `validation_images` a tenth of the training split is held out. ValueError for data without two classes, or with
    fewer images than asked for.
    """
    from keras_mnasnet.data import open_images, train_validation
    from keras_mnasnet.data.splits import splits_of
    from keras_mnasnet.training.datasets import held_out

    where = located(data)
    splits = splits_of(where)
    if "train" in splits:
        pool = open_images(where, split="train", classes="folder")
        beside: str | None = next((split for split in ("test", "validation") if split in splits), None)
    else:
        pool, beside = open_images(where, classes="folder"), None
    if beside is not None:
        test, test_is = open_images(where, split=beside, classes="folder"), f"the data's {beside} split"
        if test.labels != pool.labels:
            raise ValueError(
                f"Training and {beside} images must have the same classes. Received: {len(pool.labels)} and {len(test.labels)}"
            )
    else:
        pool, test = held_out(pool, HOLDOUT)
        test_is = f"{HOLDOUT:.0%} of every class, never trained on"
    if len(np.unique(pool.label_ids)) < 2:
        raise ValueError(f"A search needs images of two or more classes. Received: {where} with {len(pool.labels)}")
    train, validation = train_validation(pool, VALIDATION_FRACTION, VALIDATION_SEED)
    if validation_images is not None:
        held = validation_images / pool.count
        if not 0 < held < 1:
            raise ValueError(
                f"`validation_images` must be below the number of images, {pool.count:,}. "
                f"Received: validation_images={validation_images}"
            )
        train, validation = train_validation(pool, held, VALIDATION_SEED)
    if images is not None and images != train.count:
        if not 0 < images < train.count:
            raise ValueError(f"`images` must be at most the {train.count:,} to train on. Received: images={images}")
        _, train = train_validation(train, images / train.count, VALIDATION_SEED)
    return SearchImages(train, validation, test, test_is, 0.0 if beside else HOLDOUT)
