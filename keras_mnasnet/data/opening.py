"""`open_images`: what the user names becomes a set of labelled images."""

from __future__ import annotations

import glob
import importlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.data.folders import imagenet_wnids, is_image, open_folder, open_tar
from keras_mnasnet.data.shapes import SHAPE_CLASSES, draw_shapes
from keras_mnasnet.data.sources import Arrays, ImageSet
from keras_mnasnet.data.tfrecord import EAGER_BYTES, SHARD, SPLITS, is_tfrecord, open_tfrecords, split_of, whole_sets

__all__ = ["KINDS", "numbering", "open_images"]

KINDS = (
    "a folder with one sub-folder of images per class, the ILSVRC-2012 validation photos (folder or tar) with ground_truth=, "
    "a tar of class folders, TFRecords (file, folder or glob), shapes[:COUNT[@SIZE]] or tfds:NAME[/SPLIT]"
)
SHAPES = re.compile(r"shapes(?::(\d+)(?:@(\d+))?)?")
SHAPES_COUNT, SHAPES_SIZE, SHAPES_BYTES = 2000, 64, 1 << 30


def numbering(outputs: Sequence[int]) -> str:
    """`classes` of `open_images` for models of so many outputs: wnids number ImageNet's classes if a model has all 1000."""
    return "auto" if any(count >= 1000 for count in outputs) else "folder"


def open_images(
    data: str | os.PathLike[str], *, split: str | None = None, ground_truth: str | os.PathLike[str] | None = None,
    synsets: str | os.PathLike[str] | None = None, labels: Sequence[str] | str | os.PathLike[str] | None = None,
    label_base: int | None = None, classes: str = "auto", min_classes: int = 2, eager_bytes: int = EAGER_BYTES,
) -> ImageSet:  # fmt: skip
    """The images that `data` names; ValueError says what is wrong with it and what is accepted.

    `split`: train, validation or test, where the data has several. `ground_truth` and `synsets`: labels of the ILSVRC-2012
    validation photos. `labels` (names or the path of a labels.txt) and `label_base` (the number of the first class) are for
    TFRecords. `classes`: auto, folder or imagenet; auto takes folders named by wnids as ImageNet's 1000 classes.
    """
    text = os.fspath(data)
    match = SHAPES.fullmatch(text)
    if match:
        images = _shapes(text, int(match[1] or SHAPES_COUNT), int(match[2] or SHAPES_SIZE), split)
    elif text.startswith("tfds:"):
        images = _tfds(text, split, eager_bytes)
    else:
        truth = None if ground_truth is None else Path(ground_truth).expanduser()
        order = None if synsets is None else Path(synsets).expanduser()
        path = Path(text).expanduser()
        if not path.exists() and glob.has_magic(text):
            files = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name))
            images = _records(text, files, split, labels, label_base, eager_bytes)
        elif not path.exists():
            raise ValueError(f"Data must be {KINDS}. Received: data={text!r}, which does not exist")
        elif path.is_file() and is_tfrecord(path):
            images = _records(text, [path], split, labels, label_base, eager_bytes)
        elif path.is_file() and path.suffix.lower() == ".tar":
            _no_split(split, path)
            images = open_tar(path, ground_truth=truth, synsets=order, classes=classes)
        elif path.is_file():
            raise ValueError(f"Data must be {KINDS}. Received: the file {path}, which is none of them")
        else:
            images = _folder(path, text, split, truth, order, labels, label_base, classes, eager_bytes)
    return _enough_classes(images, min_classes)


def _enough_classes(images: ImageSet, min_classes: int) -> ImageSet:
    if min_classes > 1:
        known = images.source.__dict__.get("label_ids")
        found = len(images.labels) if known is None else len(np.unique(known))
        if min(found, len(images.labels)) < min_classes:
            raise ValueError(
                f"Data must have at least {min_classes} classes. Received: {images.name} with {found}: "
                f"{', '.join(images.labels[label] for label in np.unique(images.label_ids)[:5])}. "
                f"Images lie in one folder per class."
            )
    return images


def _folder(
    path: Path, text: str, split: str | None, ground_truth: Path | None, synsets: Path | None, labels: Any,
    label_base: int | None, classes: str, eager_bytes: int,
) -> ImageSet:  # fmt: skip
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    records = [entry for entry in entries if entry.is_file() and is_tfrecord(entry)]
    if records:
        return _records(text, records, split, labels, label_base, eager_bytes, whole=True)
    parts = {SPLITS[entry.name.lower()]: entry for entry in entries if entry.is_dir() and entry.name.lower() in SPLITS}
    if parts and len(parts) == sum(entry.is_dir() for entry in entries):
        return _folder(_part(text, parts, split), text, None, ground_truth, synsets, labels, label_base, classes, eager_bytes)
    _no_split(split, path)
    if not entries:
        raise ValueError(f"Data must be {KINDS}. Received: {path}, which is empty")
    if not any(entry.is_dir() or is_image(entry.name) for entry in entries):
        raise ValueError(f"Data must be {KINDS}. Received: {path}, which has neither class folders nor images nor TFRecords")
    return open_folder(path, ground_truth=ground_truth, synsets=synsets, classes=classes)


def _no_split(split: str | None, path: Path) -> None:
    if split is not None:
        raise ValueError(
            f"`split` needs sub-folders train, val, validation or test, or TFRecords named so. Received: split={split!r} for "
            f"{path}, which has none. Leave out split=, or name the split's folder."
        )


def _part(name: str, parts: dict[str, Any], split: str | None) -> Any:
    """The part of a split; ValueError that lists the splits."""
    wanted = SPLITS.get(split.lower(), split) if split else None
    if wanted in parts:
        return parts[wanted]
    raise ValueError(f"`split` must be one of {', '.join(sorted(parts))} for {name}. Received: split={split!r}")


def _records(
    name: str, files: list[Path], split: str | None, labels: Any, label_base: int | None, eager_bytes: int, *,
    whole: bool = False,
) -> ImageSet:  # fmt: skip
    if not files:
        raise ValueError(f"A glob of TFRecords must match files. Received: data={name!r}, which matches none")
    if other := [path for path in files if not is_tfrecord(path)]:
        raise ValueError(f"A glob must match TFRecords only. Received: data={name!r}, which matches {other[0]}")
    by_split: dict[str, list[Path]] = {}
    for path in files:
        if (part := split_of(path)) is not None:
            by_split.setdefault(part, []).append(path)
    if by_split and (split is not None or len(by_split) > 1):
        files = _part(name, by_split, split)
    elif split is not None:
        raise ValueError(f"`split` needs file names with train, validation or test. Received: split={split!r} for {name}")
    if whole:
        whole_sets(files)
    names, base = _labels(files, labels, label_base)
    return ImageSet(name, names, open_tfrecords(files, classes=len(names), label_base=base, eager_bytes=eager_bytes))


def _labels(files: list[Path], labels: Any, label_base: int | None) -> tuple[tuple[str, ...], int]:
    """Class names and the label of the first: from `labels`, labels.txt beside the files, or ImageNet's for its shards."""
    beside = files[0].parent / "labels.txt"
    if labels is None and beside.is_file():
        labels = beside
    if isinstance(labels, str | os.PathLike):
        path = Path(labels).expanduser()
        if not path.is_file():
            raise ValueError(f"`labels` must be class names or a file with one per line. Received: labels={path}")
        try:
            labels = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"Class names must be UTF-8 text, one a line. Received: {path} ({error})") from error
    if labels is not None:
        return tuple(labels), 0 if label_base is None else label_base
    if all(SHARD.search(path.name) for path in files):
        return imagenet_wnids(), 1 if label_base is None else label_base
    raise ValueError(
        f"TFRecords need class names: a labels.txt beside them, or labels=. Received: {files[0]} without. Only shards named "
        f"like train-00000-of-01024 are taken as ImageNet's 1000 classes with the labels 1..1000; label_base= changes that."
    )


def _shapes(name: str, count: int, size: int, split: str | None) -> ImageSet:
    """Generated images; the splits differ in their seed."""
    seeds = {"train": 0, "validation": 1, "test": 2}
    if count * size * size * 3 > SHAPES_BYTES:
        raise ValueError(
            f"Generated images must fit in {SHAPES_BYTES >> 30} GiB of memory. Received: data={name!r}. "
            f"Write them to a folder with write_folder and open that."
        )
    images, label_ids = draw_shapes(count, size=size, seed=_part(name, seeds, split or "train"))
    return ImageSet(name, SHAPE_CLASSES, Arrays(name, images, label_ids))


def _tfds(name: str, split: str | None, eager_bytes: int) -> ImageSet:
    """A dataset of TensorFlow Datasets, downloaded by it, from its TFRecord files with `image` and `label`."""
    try:
        tfds = importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise ImportError(f"{name} needs TensorFlow Datasets: pip install tensorflow-datasets") from error
    dataset, _, part = name.removeprefix("tfds:").partition("/")
    if part and split:
        raise ValueError(f"The split must be given once. Received: data={name!r} and split={split!r}")
    builder = tfds.builder(dataset)
    builder.download_and_prepare()
    splits, features = builder.info.splits, builder.info.features
    wanted = part or split
    if wanted not in splits:
        wanted = SPLITS.get(wanted or "", wanted)
    if wanted not in splits:
        raise ValueError(f"`split` must be one of {', '.join(sorted(splits))} for {name}. Received: split={wanted!r}")
    files = [Path(path) for path in splits[wanted].filepaths]
    if not all(is_tfrecord(path) for path in files) or not {"image", "label"} <= set(features):
        raise ValueError(
            f"A TensorFlow dataset must be stored as TFRecords with the features image and label. Received: {name} with "
            f"{files[0].name} and {', '.join(sorted(features))}"
        )
    names = tuple(features["label"].names)
    source = open_tfrecords(
        files, classes=len(names), label_base=0, image_key="image", label_key="label", eager_bytes=eager_bytes
    )
    return ImageSet(name, names, source)
