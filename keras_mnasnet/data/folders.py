"""Labeled image files: class folders, the ILSVRC-2012 validation photos with their ground truth, and tars of both."""

from __future__ import annotations

import csv
import functools
import json
import os
import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path, PurePosixPath

import numpy as np
from absl import logging

from keras_mnasnet.data.sources import Files, ImageSet, Segments, Source
from keras_mnasnet.data.summary import kinds
from keras_mnasnet.utils.reading import TAR_DAMAGE, check_limit, read_text
from keras_mnasnet.utils.text import listed, printable

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff")
NOT_READ = (  # endings of images that nothing here decodes
    ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx", ".svg", ".psd", ".ico", ".tga", ".ppm", ".pgm", ".pbm",
    ".pnm", ".exr", ".hdr", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".srw",
)  # fmt: skip
NO_FILE = "(no regular file)"  # pipes, devices, and links that lead nowhere
NO_ENDING = "(no ending)"
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir"}
CLASSES = ("auto", "folder", "imagenet")
WNID = re.compile(r"\bn\d{8}\b")


@functools.cache
def imagenet_wnids() -> tuple[str, ...]:
    """The 1000 wnids of ILSVRC-2012, sorted: label `i` is `imagenet_wnids()[i]`."""
    text = resources.files("keras_mnasnet.weights").joinpath("imagenet_classes.json").read_text("utf-8")
    return tuple(wnid for wnid, _ in json.loads(text))


def is_image(name: str) -> bool:
    """Whether a file name ends as an image's that is read, and is not hidden."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's: its name begins with a dot, or an archiver made it."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def listing(folder: str, passed_over: Counter[str]) -> tuple[list[str], list[str]]:
    """Images and folders in a folder, sorted, without hidden ones; other files are counted by their ending."""
    images, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if is_hidden(name):
                continue
            if entry.is_dir():
                folders.append(name)
            elif not entry.is_file():
                passed_over[NO_FILE] += 1
            elif name.lower().endswith(SUFFIXES):
                images.append(name)
            else:
                passed_over[ending(name)] += 1
    return sorted(images), sorted(folders)


def ending(name: str) -> str:
    """`.txt` of a file's name."""
    return os.path.splitext(name)[1].lower() or NO_ENDING


def warn_of_images(path: str | os.PathLike[str], passed_over: Mapping[str, int]) -> None:
    """A warning of images that are passed over because their format is not read."""
    if NO_FILE in passed_over:
        logging.warning(
            "%s: %d links that lead nowhere, pipes or devices are passed over", printable(path), passed_over[NO_FILE]
        )
    lost = {kind: count for kind, count in passed_over.items() if kind in NOT_READ}
    if lost:
        logging.warning(
            "%s: %s are passed over. What is read ends in %s; convert other images to JPEG or PNG",
            printable(path), kinds(lost), ", ".join(SUFFIXES),
        )  # fmt: skip


def _walk(root: str, inside: str, passed_over: Counter[str], above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Paths of images below `root`, relative to it; a link to a folder that it lies in is not followed."""
    place = f"{root}{os.sep}{inside}"
    facts = os.stat(place)
    here = (facts.st_dev, facts.st_ino)
    if here in above:
        return
    check_limit("depth", len(above) + 1, f"The folders below {printable(root)}")
    images, folders = listing(place, passed_over)
    for name in images:
        yield f"{inside}{name}"
    for name in folders:
        yield from _walk(root, f"{inside}{name}/", passed_over, above | {here})


def open_folder(path: Path, *, ground_truth: Path | None, synsets: Path | None, classes: str) -> ImageSet:
    """`<class>/**/*.jpg`, or with `ground_truth` a flat folder of photos."""
    root, passed_over = str(path), Counter[str]()
    names = list(_walk(root, "", passed_over))
    if ground_truth is None and names:
        lost = sorted(set(listing(root, Counter())[1]) - {name.partition("/")[0] for name in names})
        if lost:
            known = f" (passed over: {kinds(passed_over)})" if passed_over else ""
            raise ValueError(
                f"Every class folder must have images ({', '.join(SUFFIXES)}). Received: {path} with none in "
                f"{listed(map(printable, lost), 10)}{known}. Remove the empty folders, or convert their images."
            )

    def source(order: Sequence[int], label_ids: np.ndarray) -> Source:
        return Files([f"{root}{os.sep}{names[index]}" for index in order], label_ids)

    return _open(path, names, passed_over, source, ground_truth=ground_truth, synsets=synsets, classes=classes)


def open_tar(path: Path, *, ground_truth: Path | None, synsets: Path | None, classes: str) -> ImageSet:
    """The same layouts in an uncompressed tar, read in place."""
    members, passed_over = [], Counter[str]()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                place = PurePosixPath(member.name)
                if member.isdir() or any(map(is_hidden, place.parts)):
                    continue
                if not member.isreg() or member.issparse():
                    passed_over[NO_FILE] += 1
                elif is_image(place.name):
                    members.append((str(place), member.offset_data, member.size))
                else:
                    passed_over[ending(place.name)] += 1
    except TAR_DAMAGE as error:
        raise ValueError(f"A tar must be whole and uncompressed. Received: {path}: {error}. Decompress it first.") from error
    members.sort()
    names = [name for name, _, _ in members]

    def source(order: Sequence[int], label_ids: np.ndarray) -> Source:
        offsets, sizes = (np.array([members[index][column] for index in order], np.int64) for column in (1, 2))
        return Segments(
            [str(path)], np.zeros(len(order), np.int32), offsets, sizes, [names[index] for index in order], label_ids
        )

    return _open(path, names, passed_over, source, ground_truth=ground_truth, synsets=synsets, classes=classes)


def _open(
    path: Path, names: list[str], passed_over: Counter[str], source: Callable[[Sequence[int], np.ndarray], Source], *,
    ground_truth: Path | None, synsets: Path | None, classes: str,
) -> ImageSet:  # fmt: skip
    if classes not in CLASSES:
        raise ValueError(f"`classes` must be one of {CLASSES}. Received: classes={classes!r}")
    if not names:
        known = f" (passed over: {kinds(passed_over)})" if passed_over else ""
        raise ValueError(f"Data must contain images ({', '.join(SUFFIXES)}). Received: {path}, which has none{known}")
    warn_of_images(path, passed_over)
    if ground_truth is not None:
        labels = imagenet_wnids()
        order = sorted(range(len(names)), key=lambda index: PurePosixPath(names[index]).name)
        stems = [PurePosixPath(names[index]).stem for index in order]
        label_ids = _ground_truth(ground_truth, stems, synsets)
        return ImageSet(str(path), labels, source(order, label_ids), passed_over=passed_over)
    folders = [name.partition("/")[0] if "/" in name else "" for name in names]
    if "" in folders:
        flat = folders.count("")
        raise ValueError(
            f"Images must lie in one folder per class. Received: {path} with {flat:,} images outside of class folders, such "
            f"as {printable(names[folders.index('')])}. Put each photo into a folder of its class (labels in tables are not "
            f"read), or pass ground_truth= (--ground-truth) for the ILSVRC-2012 validation photos."
        )
    class_of = {name: _class_name(name, path) for name in set(folders)}
    found = sorted(set(class_of.values()))
    wnids = imagenet_wnids()
    unknown = [name for name in found if name not in set(wnids)]
    if classes == "imagenet" and unknown:
        raise ValueError(
            f"Class folders must be named by ImageNet's 1000 wnids for classes='imagenet'. Received: {path} with "
            f"{', '.join(unknown[:5])}. Pass classes='folder' to number the folders themselves."
        )
    imagenet = classes == "imagenet" or (classes == "auto" and len(found) > 1 and not unknown)
    labels = wnids if imagenet else tuple(found)
    number = {name: label for label, name in enumerate(labels)}
    label_of = {name: number[class_name] for name, class_name in class_of.items()}
    label_ids = np.array([label_of[name] for name in folders], np.int32)
    return ImageSet(str(path), labels, source(range(len(names)), label_ids), passed_over=passed_over)


def _class_name(folder: str, path: Path) -> str:
    """A class folder's name in Unicode's form NFC, which is one for the same letters; ValueError for bytes that are no text."""
    try:
        folder.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Class folders must have names in UTF-8. Received: {printable(folder)} in {printable(path)}. Rename it."
        ) from error
    return unicodedata.normalize("NFC", folder)


def _ground_truth(path: Path, stems: list[str], synsets: Path | None) -> np.ndarray:
    """Labels in sorted-wnid order, int32 `[N]`, of photos given by name without suffix in sorted order.

    Lines: `name label` (caffe's val.txt, labels 0..999 in sorted-wnid order), `name wnid`, a wnid, a number 1..1000 in the
    devkit's order (needs `synsets`, its wnid list), or Kaggle's CSV `ImageId,PredictionString`.
    """
    if not path.is_file():
        raise ValueError(f"`ground_truth` must be a file. Received: ground_truth={path}, which is not")
    lines = [line.strip() for line in read_text(path, "A ground truth").splitlines() if line.strip()]
    if lines and lines[0].replace(" ", "").lower() == "imageid,predictionstring":
        try:
            rows = [[row[0], row[1].split()[0]] for row in csv.reader(lines[1:])]
        except (IndexError, csv.Error) as error:
            raise ValueError(f"Kaggle's ground truth has lines `name,wnid ...`. Received: {path}: {error}") from error
    else:
        rows = [line.split() for line in lines]
    if len(rows) != len(stems):
        raise ValueError(
            f"The ground truth must have one line per image. Received: {len(rows):,} lines in {path} for {len(stems):,} images"
        )
    columns = {len(row) for row in rows}
    if columns not in ({1}, {2}):
        raise ValueError(
            f"Every line of a ground truth must be `label` or `name label`. Received: {path} with {sorted(columns)} words"
        )
    if columns == {2}:
        by_name = {PurePosixPath(name).stem: label for name, label in rows}
        if lost := [stem for stem in stems if stem not in by_name]:
            raise ValueError(f"The ground truth must name every image. Received: {path} without {', '.join(lost[:5])}")
        texts = [by_name[stem] for stem in stems]
    else:
        texts = [row[0] for row in rows]
    number = {wnid: label for label, wnid in enumerate(imagenet_wnids())}
    if all(text.isdecimal() and len(text) <= 9 for text in texts):
        values = np.array(texts, np.int64)
        if columns == {1}:
            names = _devkit_order(path, synsets)
            number_of_id = np.array([number[wnid] for wnid in names], np.int32)
            _check_range(path, values, 1, 1000)
            return number_of_id[values - 1]
        _check_range(path, values, 0, 999)
        return values.astype(np.int32)
    if unknown := [text for text in texts if text not in number]:
        raise ValueError(f"Labels must be ImageNet wnids such as n01440764. Received: {unknown[0]!r} in {path}")
    return np.array([number[text] for text in texts], np.int32)


def _check_range(path: Path, values: np.ndarray, low: int, high: int) -> None:
    if values.min() < low or values.max() > high:
        raise ValueError(f"Labels in this format must be {low}..{high}. Received: {values.min()}..{values.max()} in {path}")


def _devkit_order(path: Path, synsets: Path | None) -> list[str]:
    if synsets is None:
        raise ValueError(
            f"A ground truth of one number per line counts classes in the devkit's own order (ILSVRC2012_ID 1..1000), which is "
            f"not the order of the wnids. Received: ground_truth={path} without synsets. Pass synsets=, a text file with the "
            f"devkit's wnids in ILSVRC2012_ID order, one per line; or a ground truth with wnids, such as LOC_val_solution.csv."
        )
    if not synsets.is_file():
        raise ValueError(f"`synsets` must be a file. Received: synsets={synsets}, which is not")
    found = [match[0] for line in read_text(synsets, "A list of wnids").splitlines() if (match := WNID.search(line))][:1000]
    if sorted(found) != list(imagenet_wnids()):
        raise ValueError(
            f"`synsets` must list ImageNet's 1000 wnids, one per line. Received: {synsets} with "
            f"{len(set(found) & set(imagenet_wnids()))} of them in its first 1000 lines"
        )
    return found
