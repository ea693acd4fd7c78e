"""What the user names becomes sets of labeled images: `open_images`, and `open_splits`, which says who trains and who tests."""

from __future__ import annotations

import dataclasses
import glob
import importlib
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from keras_mnasnet.data.folders import (
    ending,
    imagenet_wnids,
    is_hidden,
    is_image,
    listing,
    open_folder,
    open_tar,
    warn_of_images,
)
from keras_mnasnet.data.shapes import SHAPE_CLASSES, draw_shapes
from keras_mnasnet.data.sources import Arrays, Files, ImageSet
from keras_mnasnet.data.summary import Part, Sizes, Summary, added
from keras_mnasnet.data.tfrecord import EAGER_BYTES, SHARD, SPLITS, is_tfrecord, open_tfrecords, split_of, whole_sets
from keras_mnasnet.utils.reading import read_names
from keras_mnasnet.utils.text import listed, printable

KINDS = (
    "a folder with one sub-folder of images per class, the ILSVRC-2012 validation photos (folder or tar) with ground_truth=, "
    "a tar of class folders, TFRecords (file, folder or glob), shapes[:COUNT[@SIZE]] or tfds:NAME[/SPLIT]"
)
SHAPES = re.compile(r"shapes(?::(\d+)(?:@(\d+))?)?")
AMONG_WORDS = re.compile(rf"((?:.+[-_ .])?)({'|'.join(SPLITS)})((?:[-_ .].+)?)", re.IGNORECASE)
NESTED = 8  # folders that hold one folder alone
PARTS = ("train", "validation", "test")
SHAPES_COUNT, SHAPES_SIZE, SHAPES_BYTES = 2000, 64, 1 << 30
VALIDATED = 0.1  # the share of every class where nothing else says what to validate on
HELD_OUT_SEED = 1  # fixed: the same images are held out in every run and every search


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
        elif not path.is_dir():
            raise ValueError(f"Data must be {KINDS}. Received: {path}, which is a pipe, a socket or a device")
        else:
            images = _folder(path, text, split, truth, order, labels, label_base, classes, eager_bytes)
    return _enough_classes(images, min_classes)


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Splits:
    """Which images train, which ones judge the training (`validation`), and which take no part in it (`test`, None where it
    was not asked for or there are none); `origins` says of each in words where it comes from, `source` what was named, and
    `unused` which splits of it are none of these. `judged_by_test`: what validates is a test split, by which no epoch should
    be chosen."""

    source: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet | None
    origins: dict[str, str]
    unused: tuple[str, ...] = ()
    judged_by_test: bool = False

    def summary(self) -> Summary:
        """What was read, for people and for programs."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        read = {name: (part, self.origins[name]) for name, part in parts.items() if part is not None}
        return summarize(self.source, read, **({"not_used": f"the data's {self.unused[0]} split"} if self.unused else {}))


def summarize(source: str, parts: Mapping[str, tuple[ImageSet, str]], **facts: Any) -> Summary:
    """What was read of sets of images by the name of their split, each with the words where it comes from."""
    sets = [images for images, _ in parts.values()]
    known = [images.sizes for images in sets if images.sizes is not None]
    return Summary(
        source=source,
        parts=tuple(Part(name, origin, images.count, _counted(images)) for name, (images, origin) in parts.items()),
        classes=sets[0].labels,
        passed_over=added({id(images.passed_over): images.passed_over for images in sets}.values()),
        left_out=tuple(dict.fromkeys(path for images in sets for path in images.bad)),
        sizes=Sizes.of(np.concatenate(known)) if known else None,
        facts=facts,
    )


def _counted(images: ImageSet) -> dict[str, int] | None:
    counts = images.counts()
    return None if counts is None else dict(zip(images.labels, map(int, counts), strict=True))


def open_splits(
    data: str | os.PathLike[str], *, validation: str | os.PathLike[str] | float | None = None, holdout: float = 0.0,
    seed: int = 0, test: bool = False, classes: str = "auto", check: Callable[[ImageSet], ImageSet] | None = None,
) -> Splits:  # fmt: skip
    """THE decision which images of `data` train, validate and test.

    `validation`: other data; a share (below 1) or about a number of the training images; None takes the data's own
    validation, else test split, else a tenth of every class, drawn by `seed`. `test` opens the split that is left, test or
    validation; where there is none, the share `holdout` of every class, the same in every run, takes no part. `check` looks
    through what trains and validates, before it is divided. ValueError where there is nothing to validate on, or the parts
    have other classes.
    """
    name = os.fspath(data)
    own = splits_of(data)
    divided = "train" in own
    images = open_images(data, split="train" if divided else None, classes=classes)
    origins = {"train": "the data's train split" if divided else "the data"}
    free = [part for part in ("validation", "test") if part in own and divided]
    checked = check or (lambda images: images)
    rest: ImageSet | None = None
    judge: str | None = None
    if holdout and not free:
        images, rest = train_validation(images, holdout, HELD_OUT_SEED)
        origins["test"] = f"{holdout:.0%} of every class, never trained on"
    images = checked(images)
    if isinstance(validation, str | os.PathLike):
        judge = evaluated_split(validation)
        judges = checked(open_images(validation, split=judge, classes=classes))
        origins["validation"] = f"the {judge} split of {os.fspath(validation)}" if judge else os.fspath(validation)
    elif validation is None and free:
        judge = free.pop(0)
        judges = checked(open_images(data, split=judge, classes=classes))
        origins["validation"] = f"the data's {judge} split"
    else:
        share = validated_share(validation, images.count, name)
        images, judges = train_validation(images, share, seed)
        origins["validation"] = f"{share:.0%} of every class of the training images"
    if test and free:
        part = free.pop()
        rest = open_images(data, split=part, classes=classes)
        origins["test"] = f"the data's {part} split"
    if not judges.count:
        raise ValueError(
            f"A run needs images to validate on. Received: {images.count} images in {images.name}, too few to put a tenth of "
            f"every class aside. Add images, or name others with validation= (--validation)."
        )
    for what, others in (("validation", judges), ("test", rest)):
        if others is not None and others.labels != images.labels:
            shown = difference(images.labels, others.labels, what)
            raise ValueError(
                f"Training and {what} images must have the same classes. Received: {shown}. Add photos of each to both, or "
                f"move such folders out; with the folder of the training images alone as the data a tenth of it is held out"
            )
    return Splits(name, images, judges, rest, origins, tuple(free), judge == "test")


def difference(ours: Sequence[str], theirs: Sequence[str], what: str) -> str:
    """What two lists of classes do not share: `only in training: fox; only in validation: cat, dog`."""
    trained, found = set(ours), set(theirs)
    only = {"training": [name for name in ours if name not in found], what: [name for name in theirs if name not in trained]}
    shown = "; ".join(f"only in {part}: {listed(names, 10)}" for part, names in only.items() if names)
    return shown or f"the same {len(ours)} classes in another order ({listed(ours, 4)}; {listed(theirs, 4)})"


def evaluated_split(data: str | os.PathLike[str]) -> str | None:
    """The split that judges a model where none is named: validation if the data has it, else test; None for undivided data."""
    return next((split for split in ("validation", "test") if split in splits_of(data)), None)


def chosen_photos(data: str | os.PathLike[str], count: int, *, split: str = "train", seed: int = 0) -> ImageSet:
    """`count` photos (all, if there are fewer), a seeded choice in the data's order, of `split` where the data has it.

    `data` is what `open_images` takes, or a folder of photos without classes.
    """
    if count < 1:
        raise ValueError(f"`count` must be 1 or more. Received: count={count!r}")
    images = _photos(Path(data).expanduser())
    if images is None:
        images = open_images(data, split=split if split in splits_of(data) else None, min_classes=1)
    if count < images.count:
        images = images.subset(np.sort(np.random.default_rng(seed).choice(images.count, count, replace=False)))
    return images


def _photos(path: Path) -> ImageSet | None:
    """A folder of photos and nothing else."""
    if not path.is_dir():
        return None
    passed_over = Counter[str]()
    photos, folders = listing(str(path), passed_over)
    if not photos or folders:
        return None
    warn_of_images(path, passed_over)
    files = Files([f"{path}{os.sep}{name}" for name in photos], np.zeros(len(photos), np.int32))
    return ImageSet(str(path), ("photo",), files, passed_over=passed_over)


def train_validation(images: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """A split of every class: `fraction` of its images (rounded, at least one of two) for validation, the rest to train."""
    if not 0 < fraction < 1:
        raise ValueError(f"`fraction` must be between 0 and 1, both excluded. Received: fraction={fraction!r}")
    train, validation = held_out(images.label_ids, fraction, seed)
    return images.subset(train), images.subset(validation)


def held_out(groups: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices `[n]` that stay, and those of a `fraction` of every group (rounded, at least one of two), both in order."""
    kept, taken = [], []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        members = np.random.default_rng([seed, int(group)]).permutation(members)
        cut = min(max(round(len(members) * fraction), 1), len(members) - 1)
        taken.append(members[:cut])
        kept.append(members[cut:])
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(taken))


def validated_share(validation: float | None, count: int, name: str) -> float:
    """The share of `count` images that `validation`, a share or a number of them, puts aside; None is a tenth."""
    share = VALIDATED if validation is None else validation if validation < 1 else validation / count
    if not 0 < share < 1:
        raise ValueError(
            f"Without data of its own, `validation` (--validation) must be a share above 0 and below 1, or fewer images than "
            f"the {count:,} of {name}. Received: validation={validation}"
        )
    return share


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
    layout = _layout(path)
    found = {split_of(record) for record in layout.records} if layout.records else set(layout.parts)
    return tuple(split for split in PARTS if split in found)


class _Layout(NamedTuple):
    """What lies in a folder: TFRecords, or the folders of splits, or other folders and photos."""

    records: list[Path]
    parts: dict[str, Path]
    folders: list[str]
    has_photos: bool
    is_empty: bool
    unlabeled: Path | None  # the test split, where its photos have no classes


def _layout(path: Path) -> _Layout:
    """ValueError where train/ lies beside folders that are no split, or two folders are one split."""
    with os.scandir(path) as entries:
        shown = [entry for entry in entries if not is_hidden(entry.name)]
        records = sorted(Path(entry.path) for entry in shown if is_tfrecord(entry.name) and entry.is_file())
        folders = sorted(entry.name for entry in shown if entry.is_dir())
    has_photos = any(is_image(entry.name) for entry in shown)
    split_by_name = {} if records else _splits_by_name(folders)
    of_split: dict[str, list[str]] = {}
    for name in () if records else folders:
        of_split.setdefault(split_by_name.get(name, ""), []).append(name)
    unknown = of_split.pop("", [])
    if unknown and "train" in of_split:
        named = listed(map(printable, unknown))
        raise ValueError(
            f"A folder with {of_split['train'][0]}/ holds the folders of splits and no others ({', '.join(SPLITS)}). "
            f"Received: {printable(path)} with {named} beside it. Move {named} elsewhere, or name the folder of one split as "
            f"the data; where {of_split['train'][0]} is a class, rename it."
        )
    if twice := next((names for names in of_split.values() if len(names) > 1 and not unknown), None):
        raise ValueError(
            f"A split must have one folder. Received: {printable(path)} with {' and '.join(twice)}. Join them, or move one "
            f"elsewhere."
        )
    parts = {} if unknown else {split: _innermost(path / names[0], same=split) for split, names in of_split.items()}
    unlabeled = parts.pop("test") if {"train", "test"} <= parts.keys() and _is_flat(parts["test"]) else None
    return _Layout(records, parts, folders, has_photos, not shown, unlabeled)


def _splits_by_name(folders: Sequence[str]) -> dict[str, str]:
    """The splits of those folders that are called so; where none is, of those between the same words, as `seg_train` and
    `seg_test`."""
    if own := {name: SPLITS[name.lower()] for name in folders if name.lower() in SPLITS}:
        return own
    by_words: dict[tuple[str, str], dict[str, str]] = {}
    for match in filter(None, map(AMONG_WORDS.fullmatch, folders)):
        words = (match[1].lower(), match[3].lower())
        by_words.setdefault(words, {})[match[0]] = SPLITS[match[2].lower()]
    return next((found for found in by_words.values() if "train" in found.values() and len(set(found.values())) > 1), {})


def _is_flat(path: Path) -> bool:
    """Whether a folder holds photos and no folders."""
    with os.scandir(path) as entries:
        shown = [entry for entry in entries if not is_hidden(entry.name)]
    return any(is_image(entry.name) for entry in shown) and not any(entry.is_dir() for entry in shown)


def _enough_classes(images: ImageSet, min_classes: int) -> ImageSet:
    if min_classes > 1:
        known = images.source.__dict__.get("label_ids")
        found = len(images.labels) if known is None else len(np.unique(known))
        if min(found, len(images.labels)) < min_classes:
            raise ValueError(
                f"Data must have at least {min_classes} classes. Received: {images.name} with {found}: "
                f"{', '.join(images.labels[label] for label in np.unique(images.label_ids)[:5])}. "
                f"Images lie in one folder per class{_way_in(Path(images.name))}."
            )
    return images


def _way_in(path: Path) -> str:
    """What to name in place of a folder that holds another one alone, as archives unpack to, or a table beside its photos."""
    inner = _innermost(path) if path.is_dir() else path
    if inner != path and listing(str(inner), Counter())[1]:
        return f": name {printable(inner)}"
    tables = Counter[str]()
    if path.is_dir():
        listing(str(path), tables)
    return ". Labels in tables are not read: move each photo into a folder of its class" if tables[".csv"] else ""


def _innermost(path: Path, *, same: str | None = None) -> Path:
    """The folder in which there is more than one folder alone; with `same` only through folders of that split."""
    for _ in range(NESTED):
        photos, folders = listing(str(path), Counter())
        if photos or len(folders) != 1 or (same and not _is_again(folders[0], path.name, same)):
            break
        path = path / folders[0]
    return path


def _is_again(name: str, above: str, split: str) -> bool:
    return name.lower() == above.lower() or SPLITS.get(name.lower()) == split


def _folder(
    path: Path, text: str, split: str | None, ground_truth: Path | None, synsets: Path | None, labels: Any,
    label_base: int | None, classes: str, eager_bytes: int,
) -> ImageSet:  # fmt: skip
    layout = _layout(path)
    if layout.records:
        return _records(text, layout.records, split, labels, label_base, eager_bytes, whole=True)
    if layout.parts:
        part = _part(text, layout.parts, split)
        images = _folder(part, text, None, ground_truth, synsets, labels, label_base, classes, eager_bytes)
        is_first = part == layout.parts[next(name for name in PARTS if name in layout.parts)]
        return _with_files_beside(images, path, layout.unlabeled) if is_first else images
    _no_split(split, path)
    if layout.is_empty:
        raise ValueError(f"Data must be {KINDS}. Received: {path}, which is empty")
    if not layout.folders and not layout.has_photos:
        raise ValueError(f"Data must be {KINDS}. Received: {path}, which has neither class folders nor images nor TFRecords")
    if named := [name for name in layout.folders if name.lower() in SPLITS]:
        logging.warning("%s: folders named as splits are taken as classes: %s", printable(path), listed(named))
    return open_folder(path, ground_truth=ground_truth, synsets=synsets, classes=classes)


def _with_files_beside(images: ImageSet, path: Path, unlabeled: Path | None) -> ImageSet:
    """The images, and the files beside the folders of splits, and of a split without classes, as passed over."""
    passed_over = Counter[str]()
    photos, _ = listing(str(path), passed_over)
    if unlabeled is not None:
        lost, _ = listing(str(unlabeled), passed_over)
        passed_over.update(map(ending, lost))
        logging.warning("%s: %d photos without class folders are passed over", printable(unlabeled), len(lost))
    passed_over.update(map(ending, photos))
    warn_of_images(path, passed_over)
    if photos:
        logging.warning("%s: %d images beside the folders of splits are passed over", printable(path), len(photos))
    return dataclasses.replace(images, passed_over=added((images.passed_over, passed_over)))


def _no_split(split: str | None, path: Path) -> None:
    if split is not None:
        raise ValueError(
            f"`split` needs sub-folders train, val, valid, validation or test, or TFRecords named so. "
            f"Received: split={split!r} for {path}, which has none. Leave out split=, or name the split's folder."
        )


def _part(name: str, parts: dict[str, Any], split: str | None) -> Any:
    """The part of a split; ValueError that lists the splits."""
    wanted = SPLITS.get(split.lower(), split) if split else None
    if wanted in parts:
        return parts[wanted]
    if split is None:
        raise ValueError(
            f"One split of the data must be chosen: name its folder as the data, or pass split=. A training looks for one "
            f"called train. Received: {name}, divided into {' and '.join(sorted(parts))}"
        )
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
        labels = read_names(path, "A file of class names")
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
