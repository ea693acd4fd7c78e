"""TFRecords with random access: one walk over the record headers finds every record, which is then read in place."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mnasnet.data.sources import Segments

EAGER_BYTES = 1 << 30
SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
SPLITS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
SPLIT = re.compile(rf"(?:^|[-_.])({'|'.join(SPLITS)})(?=[-_.]|$)", re.IGNORECASE)
HEADER = struct.Struct("<Q4x")
FOOTER_BYTES = 4


def is_tfrecord(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name says TFRecord: `*.tfrecord*` or `*-00000-of-01024`."""
    name = os.path.basename(path)
    return ".tfrecord" in name.lower() or bool(SHARD.search(name))


def split_of(path: str | os.PathLike[str]) -> str | None:
    """`train`, `validation` or `test` of a file name such as `cifar-train.tfrecord` or `validation-00000-of-00128`."""
    found = SPLIT.findall(os.path.basename(path))
    return SPLITS[found[-1].lower()] if found else None


def whole_sets(files: Sequence[Path]) -> None:
    """ValueError where shards `-NNNNN-of-NNNNN` are missing."""
    have: dict[tuple[str, int], set[int]] = {}
    for path in files:
        if match := SHARD.search(path.name):
            have.setdefault((path.name[: match.start()], int(match[2])), set()).add(int(match[1]))
    for (prefix, total), numbers in have.items():
        if lost := sorted(set(range(total)) - numbers):
            shown = ", ".join(f"{prefix}-{number:05d}-of-{total:05d}" for number in lost[:3])
            raise ValueError(
                f"A folder of TFRecords must have all its shards. Received: {files[0].parent} with {len(numbers)} of {total}; "
                f"missing: {shown}{' ...' if len(lost) > 3 else ''}. Fetch them, or name the files to use with a glob."
            )


class Records(Segments):
    """Serialized examples in TFRecord files; `label_ids` are read on first use, `label_base` is the first class's label."""

    def __init__(self, files: Sequence[Path], *, classes: int, label_base: int, image_key: str, label_key: str) -> None:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            parts = list(pool.map(_record_bounds, files))
        counts = [len(part) for part in parts]
        self.bounds = np.concatenate(parts)
        self.files = [str(path) for path in files]
        self.file_ids = np.repeat(np.arange(len(files), dtype=np.int32), counts)
        self.starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self.offsets, self.sizes = self.bounds[:, 0], self.bounds[:, 1]
        self.count = len(self.offsets)
        self.classes, self.label_base, self.image_key, self.label_key = classes, label_base, image_key, label_key

    def where(self, index: int) -> str:
        file = self.file_ids[index]
        return f"{self.files[file]}#{index - self.starts[file]}"

    def fetch(self, indices: Any) -> tuple[Any, Any]:
        features = {
            self.image_key: tf.io.FixedLenFeature([], tf.string),
            self.label_key: tf.io.FixedLenFeature([], tf.int64),
        }
        examples = tf.io.parse_example(self.fetch_bytes(indices), features)
        stored = examples[self.label_key]
        fits = (stored >= self.label_base) & (stored < self.label_base + self.classes)
        message = [f"{self._range('Labels')}. Received: labels", stored, "of records", indices]
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(fits), message, summarize=64)]):
            return examples[self.image_key], stored - self.label_base

    @functools.cached_property
    def label_ids(self) -> np.ndarray:  # type: ignore[override]
        feature = {self.label_key: tf.io.FixedLenFeature([], tf.int64)}
        dataset = tf.data.TFRecordDataset(self.files, buffer_size=8 << 20).batch(1024)
        dataset = dataset.map(lambda records: tf.io.parse_example(records, feature)[self.label_key])
        try:
            labels = np.concatenate(list(dataset.as_numpy_iterator()))
        except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
            raise ValueError(
                f"Every record must be whole and have a label. Received: {self.files[0]}: {error.message}"
            ) from error
        outside = np.flatnonzero((labels < self.label_base) | (labels >= self.label_base + self.classes))
        if len(outside):
            index = int(outside[0])
            raise ValueError(
                f"{self._range('Labels')}. Received: label={labels[index]} in {self.where(index)} "
                f"({len(outside):,} such records). Pass the right label_base, or the labels of all classes."
            )
        return (labels - self.label_base).astype(np.int32)

    def _range(self, what: str) -> str:
        last = self.label_base + self.classes - 1
        return f"{what} must be within {self.label_base}..{last} ({self.classes} classes, label_base={self.label_base})"


def _record_bounds(path: Path) -> np.ndarray:
    """Offsets and sizes in bytes of the records' contents, int64 `[N, 2]`; ValueError for a file that is not whole."""
    total, position = path.stat().st_size, 0
    bounds: list[tuple[int, int]] = []
    with open(path, "rb", buffering=0) as file:
        while position < total:
            file.seek(position)
            header = file.read(HEADER.size)
            size = HEADER.unpack(header)[0] if len(header) == HEADER.size else total
            end = position + HEADER.size + size + FOOTER_BYTES
            if end > total:
                raise ValueError(
                    f"A TFRecord file must be uncompressed and whole. Received: {path} ({total:,} bytes), where record "
                    f"{len(bounds)} at byte {position:,} does not end inside the file. Fetch it again or decompress it."
                )
            bounds.append((position + HEADER.size, size))
            position = end
    if not bounds:
        raise ValueError(f"A TFRecord file must have records. Received: {path}, which is empty")
    return np.array(bounds, np.int64)


def open_tfrecords(
    files: Sequence[Path], *, classes: int, label_base: int, image_key: str = "image/encoded",
    label_key: str = "image/class/label", eager_bytes: int = EAGER_BYTES,
) -> Records:  # fmt: skip
    """Records of `files` in order; up to `eager_bytes` in all their labels are read and checked at once, else when needed."""
    records = Records(files, classes=classes, label_base=label_base, image_key=image_key, label_key=label_key)
    first = tf.train.Example()
    try:
        first.ParseFromString(records.read(0))
        keys = sorted(first.features.feature)
    except Exception as error:
        raise ValueError(f"A TFRecord must hold serialized tf.train.Example messages. Received: {records.where(0)}") from error
    if not {image_key, label_key} <= set(keys):
        raise ValueError(
            f"An example must have the features {image_key!r} and {label_key!r}. Received: {records.where(0)} with "
            f"{', '.join(keys) or 'none'}"
        )
    if sum(path.stat().st_size for path in files) <= eager_bytes:
        _ = records.label_ids
    return records
