"""Which splits data has, before it is opened."""

from __future__ import annotations

import os
from pathlib import Path

from keras_mnasnet.data.opening import SHAPES, SPLITS
from keras_mnasnet.data.tfrecord import is_tfrecord, split_of

__all__ = ["splits_of"]


def splits_of(data: str | os.PathLike[str]) -> tuple[str, ...]:
    """Those of `train`, `validation` and `test` that `open_images(data, split=...)` would find; none for undivided data."""
    text = os.fspath(data)
    if SHAPES.fullmatch(text):
        return "train", "validation", "test"
    if text.startswith("tfds:"):
        return () if "/" in text else ("train", "validation", "test")
    path = Path(text).expanduser()
    if not path.is_dir():
        return ()
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    records = [entry for entry in entries if entry.is_file() and is_tfrecord(entry)]
    folders = [entry for entry in entries if entry.is_dir()]
    if records:
        found = {split_of(entry) for entry in records}
    elif folders and all(entry.name.lower() in SPLITS for entry in folders):
        found = {SPLITS[entry.name.lower()] for entry in folders}
    else:
        found = set()
    return tuple(split for split in ("train", "validation", "test") if split in found)
