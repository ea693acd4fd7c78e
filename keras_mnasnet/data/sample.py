"""A few photos out of many, preprocessed: what calibrates a quantizer and verifies an export."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from keras_mnasnet.data.folders import is_image
from keras_mnasnet.data.opening import open_images
from keras_mnasnet.data.pipeline import evaluation_batches
from keras_mnasnet.data.sources import Files, ImageSet, missing, refuse_bad
from keras_mnasnet.data.splits import splits_of
from keras_mnasnet.preprocessing import Preprocessing

__all__ = ["chosen_photos", "sample_photos"]

BATCH = 32


def sample_photos(
    data: str | os.PathLike[str],
    preprocessing: Preprocessing,
    count: int,
    *,
    split: str = "train",
    seed: int = 0,
    max_bad: int = 0,
) -> np.ndarray:
    """`count` photos of `data` (all, if it has fewer), a seeded choice in the data's order: `[n, S, S, 3]`, pixels 0..255.

    `data` is what `open_images` takes, or a folder of photos without classes; of several splits `split` is taken. More than
    `max_bad` damaged photos are a ValueError that names them.
    """
    images = chosen_photos(data, count, split=split, seed=seed)
    parts = list(evaluation_batches(images, preprocessing, batch_size=min(BATCH, images.count)).as_numpy_iterator())
    seen = np.concatenate([index for _, _, index in parts]) if parts else np.empty(0, np.int64)
    refuse_bad(missing(images, seen), max_bad, images.count)
    if not parts:
        raise ValueError(f"At least one photo must be whole. Received: {images.name}, where none can be decoded")
    return np.concatenate([pixels for pixels, _, _ in parts])


def chosen_photos(data: str | os.PathLike[str], count: int, *, split: str = "train", seed: int = 0) -> ImageSet:
    """The photos that `sample_photos` takes, not yet decoded."""
    if count < 1:
        raise ValueError(f"`count` must be 1 or more. Received: count={count!r}")
    images = _open(data, split)
    if count < images.count:
        images = images.subset(np.sort(np.random.default_rng(seed).choice(images.count, count, replace=False)))
    return images


def _open(data: str | os.PathLike[str], split: str) -> ImageSet:
    path = Path(data).expanduser()
    if path.is_dir():
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        photos = [entry for entry in entries if entry.is_file() and is_image(entry.name)]
        if photos and not any(entry.is_dir() for entry in entries):
            return ImageSet(str(path), ("photo",), Files(photos, np.zeros(len(photos), np.int32)))
    return open_images(data, split=split if split in splits_of(data) else None, min_classes=1)
