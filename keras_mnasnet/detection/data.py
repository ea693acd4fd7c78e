"""Photos with boxes, their augmentation, and the batches that a detector is trained and measured on.

Augmentation has no state: every random draw follows from a seed.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from keras_mnasnet.data import ImageSet, refuse_bad
from keras_mnasnet.data.augment import stream_seed
from keras_mnasnet.data.decode import decode, upright
from keras_mnasnet.data.opening import difference
from keras_mnasnet.data.sources import Files, shard_size
from keras_mnasnet.detection.anchors import CROWD, PADDING
from keras_mnasnet.detection.annotations import read_truth
from keras_mnasnet.detection.photos import Header, PhotoFolder, read_header, read_headers, upright_size
from keras_mnasnet.detection.recipe import BoxAugment
from keras_mnasnet.detection.truth import MAX_LOST, Id, Truth
from keras_mnasnet.utils.reading import check_limit, record, texts
from keras_mnasnet.utils.text import printable

ORDER, CROP, FLIP = range(16, 19)  # streams of random numbers
ENDLESS = np.iinfo(np.int64).max
# object_detection core/preprocessor.py, ssd_random_crop: one of the seven, each left out with probability 0.15.
OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
KEEP_PROBABILITY = 0.15
ATTEMPTS = 100
TINY = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class CocoDataset:
    """Photos and their boxes. Class `c` is called `labels[c]` and has `category_ids[c]` in the annotation file.

    Photo `i` has the rows `splits[i]:splits[i + 1]` of `boxes` float32 `[R, 4]` (y1, x1, y2, x2 as shares of the photo) and
    `classes` int32 `[R]`, CROWD for regions that hold many objects. `sizes` int32 `[N, 2]` are height and width as annotated,
    and `orientations` int32 `[N]` the EXIF orientations by which stored photos become so. `notes` counts what reading changed:
    `boxes_clipped`, `boxes_dropped`, `photos_without_boxes`. `truth` is the file as it was read, of these classes, for COCO's
    evaluation.
    """

    name: str
    labels: tuple[str, ...] = dataclasses.field(repr=False)
    category_ids: tuple[Id, ...] = dataclasses.field(repr=False)
    image_ids: tuple[Id, ...] = dataclasses.field(repr=False)
    images: ImageSet = dataclasses.field(repr=False)
    sizes: np.ndarray = dataclasses.field(repr=False)
    orientations: np.ndarray = dataclasses.field(repr=False)
    boxes: np.ndarray = dataclasses.field(repr=False)
    classes: np.ndarray = dataclasses.field(repr=False)
    splits: np.ndarray = dataclasses.field(repr=False)
    truth: Truth = dataclasses.field(repr=False)
    notes: dict[str, int] = dataclasses.field(default_factory=dict)
    bad: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many photos."""
        return len(self.image_ids)

    @property
    def objects(self) -> np.ndarray:
        """The boxes `[R, 4]` that are no crowd regions."""
        return self.boxes[self.classes >= 0]

    def counts(self) -> dict[str, int]:
        """How many boxes each class has, crowd regions not counted."""
        found = np.bincount(self.classes[self.classes >= 0], minlength=len(self.labels))
        return dict(zip(self.labels, map(int, found), strict=True))

    @property
    def most_boxes(self) -> int:
        """How many boxes the photo with most of them has, crowd regions included; at least 1."""
        return max(1, int(np.diff(self.splits).max(initial=0)))

    def photos_past(self, limit: int) -> tuple[int, int]:
        """How many photos have more than `limit` boxes, and how many boxes they have beyond it."""
        past = np.maximum(np.diff(self.splits) - limit, 0)
        return int((past > 0).sum()), int(past.sum())

    def where(self, index: int) -> str:
        """The file of photo `index`."""
        return self.images.where(index)

    def boxes_of(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(boxes `[n, 4]`, classes `[n]`) of photo `index`, crowd regions included."""
        rows = slice(*self.splits[index : index + 2])
        return self.boxes[rows], self.classes[rows]

    def subset(self, indices: Sequence[int] | np.ndarray, *, bad: tuple[str, ...] = ()) -> CocoDataset:
        """The photos of these indices, in that order."""
        indices = [int(index) for index in indices]
        rows = [np.arange(self.splits[index], self.splits[index + 1]) for index in indices]
        taken = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        return dataclasses.replace(
            self,
            image_ids=tuple(self.image_ids[index] for index in indices),
            images=self.images.subset(indices),
            sizes=self.sizes[indices],
            orientations=self.orientations[indices],
            boxes=self.boxes[taken],
            classes=self.classes[taken],
            splits=np.concatenate([[0], np.cumsum([len(each) for each in rows], dtype=np.int64)]).astype(np.int64),
            bad=self.bad + bad,
        )

    def checked(self, max_bad: int = 0, *, progress: bool = False) -> CocoDataset:
        """This set without damaged photos, after decoding each once; ValueError for more than `max_bad`, and for photos whose
        size is not what the annotations say."""
        found, sizes = self.images.decoded_sizes(progress=progress)
        for at, size in zip(found, sizes, strict=True):
            if upright_size(tuple(size), self.orientations[at]) != tuple(self.sizes[at]):
                self._refuse_size(int(at), size)
        lost = np.setdiff1d(np.arange(self.count), found)
        bad = tuple(self.where(index) for index in lost)
        for path in bad:
            logging.warning("A photo cannot be decoded and is left out: %s", printable(path))
        refuse_bad(self.bad + bad, max_bad, self.count + len(self.bad))
        return self.subset([int(index) for index in found], bad=bad) if bad else self

    def _refuse_size(self, at: int, size: Sequence[int]) -> None:
        stored, turn = (int(size[0]), int(size[1])), read_header(self.where(at)).orientation
        shown = upright_size(stored, turn)
        exif = "" if turn == 1 else f". By its EXIF orientation, {turn}, it is shown as {shown[1]} x {shown[0]}"
        raise ValueError(
            f"Photos must have the sizes that the annotations say, or boxes would be elsewhere. "
            f"Received: {self.where(at)} of {stored[1]} x {stored[0]} pixels, annotated as "
            f"{self.sizes[at][1]} x {self.sizes[at][0]}{exif}"
        )

    @property
    def whole_ids(self) -> tuple[int, ...]:
        """The category ids as a detector keeps them: as they are, or 1, 2, ... where some are text."""
        whole = tuple(each for each in self.category_ids if isinstance(each, int))
        return whole if len(whole) == len(self.labels) else tuple(range(1, len(self.labels) + 1))

    @functools.cached_property
    def tensors(self) -> tuple[Any, Any, Any]:
        """Boxes, classes and splits as tensors."""
        with tf.init_scope():
            return tf.constant(self.boxes), tf.constant(self.classes), tf.constant(self.splits)

    @functools.cached_property
    def turns(self) -> Any:
        """The orientations as a tensor; None where all photos are stored as they are annotated."""
        with tf.init_scope():
            return tf.constant(self.orientations) if (self.orientations != 1).any() else None


def open_dataset(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    exactly: bool = False,
    crowd_as_objects: bool = False,
    max_bad: int = 0,
) -> CocoDataset:
    """A COCO annotation file, a folder of VOC's .xml files or YOLO's labels, and the folder of the photos.

    `images` may be left out where the annotations say where their photos are; `split` is one of `splits_of`. `classes` names
    the classes to keep, in their order (default: the file's, by id); `exactly` says that they are those of a training, and that
    boxes of others are refused. Boxes past the photo's edge are clipped, those without area (then) are dropped, both counted;
    photos without boxes stay, and up to `max_bad` that are not there are left out. ValueError for annotations that cannot be
    used, OSError for missing files.
    """
    source = Path(annotations).expanduser()
    truth = read_truth(source, images, split=split, crowd_as_objects=crowd_as_objects)
    folder = _folder(truth, images)
    if exactly:
        _check_classes(truth, classes or (), split or "validation")
    names, ids = _chosen(truth, classes)
    numbers = {category: number for number, category in enumerate(ids)}
    photos, bad = _photos(truth, folder, max_bad)
    by_image: dict[Id, list[Any]] = {image: [] for image in photos}
    for annotation in truth.annotations:
        if annotation["image_id"] in by_image and annotation["category_id"] in numbers:
            by_image[annotation["image_id"]].append(annotation)
    boxes, found, lengths = [], [], []
    clipped = dropped = 0
    for image, rows in by_image.items():
        kept = 0
        for row in rows:
            box, is_clipped = _placed(row["bbox"], photos[image].size)
            clipped += is_clipped
            if box is None:
                dropped += 1
                continue
            boxes.append(box)
            found.append(CROWD if row["iscrowd"] else numbers[row["category_id"]])
            kept += 1
        lengths.append(kept)
    total = len(boxes) + dropped
    if not any(number >= 0 for number in found):
        raise ValueError(
            f"Annotations must hold boxes of the classes ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}). "
            f"Received: {source} with {len(truth.annotations)} annotations, of which {dropped} have no area inside their photo"
            f"{'' if total else ', and none is of these classes and photos'}"
        )
    if clipped > MAX_LOST * len(boxes):
        _refuse_corners(truth, photos, by_image)
    if dropped > MAX_LOST * total:
        raise ValueError(
            f"Boxes are [x, y, width, height] in pixels of the photo. Received: {source}, where {dropped} of {total} boxes "
            f"have no area inside their photo"
        )
    if clipped or dropped:
        logging.warning(
            "%s: %d boxes reach past their photo and are clipped, %d without area dropped", source, clipped, dropped
        )
    for line in truth.said:
        logging.warning("%s", line)
    notes = {"boxes": len(boxes), "boxes_clipped": clipped, "boxes_dropped": dropped, "crowd_regions": found.count(CROWD)}
    paths = [photo.path for photo in photos.values()]
    return CocoDataset(
        name=str(source),
        labels=names,
        category_ids=ids,
        image_ids=tuple(by_image),
        images=ImageSet(str(folder), ("photo",), Files(paths, np.zeros(len(paths), np.int32))),
        sizes=np.array([photo.size for photo in photos.values()], np.int32).reshape(-1, 2),
        orientations=np.array([photo.orientation for photo in photos.values()], np.int32),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        classes=np.array(found, np.int32),
        splits=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        truth=_of_classes(truth, numbers, photos),
        notes={**notes, "photos_without_boxes": lengths.count(0), **{key: n for key, n in truth.notes.items() if n}},
        bad=bad,
    )


def _folder(truth: Truth, images: str | os.PathLike[str] | None) -> Path:
    if images is None:
        if truth.folder is None:
            raise ValueError(
                f"Detectors need the folder of the photos. Received: photos=None (--photos) for {truth.name}, which does not "
                f"say where they are"
            )
        return truth.folder
    folder = Path(images).expanduser()
    if not folder.is_dir():
        raise OSError(f"The photos must be in a folder. Received: {folder}, which is none")
    return folder


class _Photo(NamedTuple):
    """A photo's file, its height and width as it is annotated, and the EXIF orientation by which it becomes that."""

    path: str
    size: tuple[int, int]
    orientation: int


def _photos(truth: Truth, folder: Path, max_bad: int) -> tuple[dict[Id, _Photo], tuple[str, ...]]:
    """The photos that are there, by image id; and the paths of those that are not, or that have no size: `max_bad` at most."""
    files, lost = _files(truth, PhotoFolder(folder))
    if len(lost) > max_bad or len(lost) == len(files):
        image, first = next(iter(lost.items()))
        name = str(truth.images[image].get("file_name"))
        if not PhotoFolder(folder).holds(first):
            raise ValueError(
                f"Photos must lie in their folder, {folder}. Received: {truth.name}, image {image} with "
                f"file_name={name[:200]!r}, which leads out of it, and no photo of that name is in it"
            )
        way = (
            "Name the folder that they lie in as PHOTOS (--photos)"
            if len(lost) == len(files)
            else f"Leave them out with a larger --max-bad (max_bad={max_bad})"
        )
        raise OSError(
            f"Every annotated photo must be in {folder}. Received: {len(lost)} of {len(files)} missing, the first is {first}. "
            f"{way}"
        )
    there = [(image, path, _given_size(truth, image)) for image, path in files.items() if image not in lost]
    known = [truth.images[image].get("orientation") for image, *_ in there]
    headers = (
        [Header(None, int(turn or 1)) for turn in known]
        if any(turn is not None for turn in known)
        else read_headers([path for _, path, _ in there], [size is not None for *_, size in there])
    )
    photos: dict[Id, _Photo] = {}
    for (image, path, given), header in zip(there, headers, strict=True):
        size, orientation = _turned(given, header)
        if size is None:
            lost[image] = path
        else:
            photos[image] = _Photo(path, size, orientation)
    stored = sum(
        header.orientation != 1 == photos[image].orientation
        for (image, *_), header in zip(there, headers, strict=True)
        if image in photos
    )
    if stored:
        logging.warning("%s: %d photos have an EXIF orientation and are annotated as they are stored", truth.name, stored)
    bad = tuple(lost.values())
    for path in bad:
        logging.warning("A photo is not there, or has no size, and is left out: %s", printable(path))
    refuse_bad(bad, max_bad, len(files))
    return photos, bad


def _files(truth: Truth, folder: PhotoFolder) -> tuple[dict[Id, str], dict[Id, str]]:
    """The path of every image, and of those that are not there, as it is written: it may lead out of the folder, to what is
    never opened."""
    found: dict[Id, str] = {}
    lost: dict[Id, str] = {}
    by_file: dict[str, list[Id]] = {}
    for image, entry in truth.images.items():
        if (path := entry.get("path")) is not None:
            is_there = os.path.isfile(path)
        else:
            name = _file_name(truth, image, entry)
            path = folder.find(name, entry.get("stem"), entry.get("below", ""))
            is_there = path is not None
            path = path or os.path.normpath(os.path.join(folder.inside, name))
        found[image] = path
        if is_there:
            by_file.setdefault(path, []).append(image)
        else:
            lost[image] = path
    for path, images in by_file.items():
        if len(images) > 1:
            _own_names(truth, folder, path, images, found)
    if folder.by_name:
        name, path = next(iter(folder.by_name.items()))
        logging.warning(
            "%s: %d photos were found in %s by their names, such as %r: %s", truth.name, len(folder.by_name), folder.folder,
            name, path,
        )  # fmt: skip
    return found, lost


def _own_names(truth: Truth, folder: PhotoFolder, path: str, images: Sequence[Id], found: dict[Id, str]) -> None:
    """Several images that lead to one file: VOC's have their own names, too; others must not, if a name alone led there."""
    entries = [truth.images[image] for image in images]
    stems = [folder.find(stem, None, entry["below"]) for entry in entries if (stem := entry.get("stem")) is not None]
    if len(stems) == len(images) == len(set(stems)) and all(stems):
        found |= {image: str(stem) for image, stem in zip(images, stems, strict=True)}
        return
    names = [str(truth.images[image].get("file_name")) for image in images]
    if stems or any(name in folder.by_name for name in names):
        raise ValueError(
            f"Every image of the annotations must be a photo of its own. Received: {truth.name}, images {images[0]} and "
            f"{images[1]} ({names[0][:200]!r} and {names[1][:200]!r}), which both lead to {path}. Join them, or correct a name."
        )
    logging.warning(
        "%s: %d images are the same photo, %s; of each only its own boxes are known. Join them where they belong together",
        truth.name, len(images), path,
    )  # fmt: skip


def _file_name(truth: Truth, image: Id, entry: Mapping[str, Any]) -> str:
    try:
        name = record(entry["file_name"], str, "`file_name`")
        check_limit("path", len(name), "A photo's `file_name`")
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"Every image of an annotation file has a `file_name`. Received: {truth.name}, image {image}: {error}"
        ) from error
    return name


def _given_size(truth: Truth, image: Id) -> tuple[int, int] | None:
    """Height and width as the annotations say; None where they say none, or no whole pixels."""
    sides = []
    for key in ("height", "width"):
        try:
            side = float(truth.images[image].get(key))  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            return None
        if not side >= 1 or not side.is_integer():
            return None
        sides.append(int(side))
    check_limit("side", max(sides), f"A photo, image {image} of {truth.name},")
    return sides[0], sides[1]


def _turned(given: tuple[int, int] | None, header: Header) -> tuple[tuple[int, int] | None, int]:
    """The size of a photo and its orientation, of which boxes are meant: upright, or, where only that fits, as it is stored."""
    if header.size is None:
        return given, header.orientation
    upright = upright_size(header.size, header.orientation)
    if given == header.size != upright:
        return given, 1
    return given or upright, header.orientation


def _check_classes(truth: Truth, classes: Sequence[str], what: str) -> None:
    """ValueError where a split lacks a category of the training, or has boxes of one that the training lacks."""
    known, trained = {**truth.roots, **truth.categories}, set(classes)
    used = {row["category_id"] for row in truth.annotations if not row["iscrowd"]}
    theirs = [name for number, name in known.items() if name in trained or number in used]
    if set(theirs) != trained:
        raise ValueError(
            f"Training and {what} annotations must have the same classes. Received: {difference(classes, theirs, what)}, of "
            f"{truth.name}. Correct the names, annotate photos of each in both, or name the classes to learn, those of both, "
            f"with classes= (--labels)."
        )


def _chosen(truth: Truth, classes: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[Id, ...]]:
    """Names and category ids of the classes, in class order."""
    if classes is None:
        ids = tuple(sorted(truth.categories, key=lambda each: (isinstance(each, str), each)))
        return tuple(truth.categories[number] for number in ids), ids
    classes = texts(classes)
    if len(set(classes)) != len(classes) or not classes:
        raise ValueError(f"`classes` must be different names. Received: classes={classes!r}")
    by_name = {name: number for number, name in [*truth.roots.items(), *truth.categories.items()]}
    for name in classes:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=3)
            raise ValueError(
                f"Every class must be a category of {truth.name}. Received: {name!r}. "
                f"Nearest: {', '.join(near or sorted(by_name)[:5])}"
            )
    return classes, tuple(by_name[name] for name in classes)


def _of_classes(truth: Truth, numbers: Mapping[Id, int], photos: Mapping[Id, _Photo]) -> Truth:
    """The annotations of some categories, and the sizes of the photos."""
    categories = {number: name for number, name in {**truth.roots, **truth.categories}.items() if number in numbers}
    images = {
        image: {**entry, "height": photos[image].size[0], "width": photos[image].size[1]} if image in photos else entry
        for image, entry in truth.images.items()
    }
    rows = truth.annotations
    if len(categories) < len(truth.categories) or set(categories) - set(truth.categories):
        rows = [row for row in rows if row["category_id"] in numbers]
    return dataclasses.replace(truth, images=images, categories=categories, annotations=rows)


def _placed(box: Sequence[float], size: tuple[int, int]) -> tuple[list[float] | None, bool]:
    """[x, y, w, h] in pixels as (y1, x1, y2, x2) shares, None where it has no area in the photo; and whether it was clipped."""
    (x, y, w, h), (height, width) = box, size
    whole = [y / height, x / width, (y + h) / height, (x + w) / width]
    inside = [min(max(side, 0.0), 1.0) for side in whole]
    if w <= 0 or h <= 0 or inside[2] <= inside[0] or inside[3] <= inside[1]:
        return None, False
    past = max(abs(a - b) * side for a, b, side in zip(whole, inside, (height, width, height, width), strict=True))
    return inside, past > 1


def _refuse_corners(truth: Truth, photos: Mapping[Id, _Photo], by_image: Mapping[Id, Sequence[Any]]) -> None:
    """ValueError where all boxes, most of which reach past their photo, lie within it as the corners [x, y, x, y]."""
    found = [(row["bbox"], photos[image].size) for image, rows in by_image.items() for row in rows]
    if all(-1 <= x1 < x2 <= width + 1 and -1 <= y1 < y2 <= height + 1 for (x1, y1, x2, y2), (height, width) in found):
        raise ValueError(
            f"Boxes are [x, y, width, height] in pixels of the photo. Received: {truth.name}, where most boxes reach past "
            f"their photo, and all would lie in it as corners [x1, y1, x2, y2], such as {found[0][0]}. Write [x1, y1, x2 - x1, "
            f"y2 - y1]."
        )


def resize_photo(pixels: Any, size: tuple[int, int]) -> Any:
    """A photo `[H, W, 3]` as float32 `[*size, 3]`, 0..255: squashed, bilinear with antialiasing.

    The Object Detection API's fixed_shape_resizer (core/preprocessor.py, resize_image) does the same.
    """
    out = tf.image.resize(pixels, size, method="bilinear", antialias=True)
    return tf.ensure_shape(out, (*size, 3))


def _labeled(dataset: CocoDataset, index: Any) -> tuple[Any, Any]:
    boxes, classes, splits = dataset.tensors
    begin, end = splits[index], splits[index + 1]
    return boxes[begin:end], classes[begin:end]


def _padded(boxes: Any, labels: Any, count: int) -> dict[str, Any]:
    """Exactly `count` rows, padded with -1; the first ones where there are more."""
    spare = tf.maximum(count - tf.shape(boxes)[0], 0)
    boxes = tf.pad(boxes[:count], [[0, spare], [0, 0]], constant_values=float(PADDING))
    labels = tf.pad(labels[:count], [[0, spare]], constant_values=PADDING)
    return {"boxes": tf.ensure_shape(boxes, (count, 4)), "labels": tf.ensure_shape(labels, (count,))}


def sample_window(shape: Any, boxes: Any, labels: Any, seed: Any, augment: BoxAugment) -> tuple[Any, Any]:
    """(window int32 `[4]` top, left, height, width in pixels; overlap threshold) of a photo of `shape` (h, w, 3).

    One of OVERLAPS is drawn: some box must be covered by that much, and boxes covered by less are to be left out. A photo
    without boxes is cropped like any other.
    """
    draws = tf.random.stateless_uniform((2,), seed)
    which = tf.minimum(tf.cast(draws[0] * len(OVERLAPS), tf.int32), len(OVERLAPS) - 1)
    threshold = tf.gather(tf.constant(OVERLAPS), which)
    asked = tf.boolean_mask(boxes, labels >= 0)
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape, tf.clip_by_value(asked, 0.0, 1.0)[None], tf.random.fold_in(seed, 1), min_object_covered=threshold,
        aspect_ratio_range=augment.aspect, area_range=augment.area, max_attempts=ATTEMPTS, use_image_if_no_bounding_boxes=True,
    )  # fmt: skip
    window = tf.stack([begin[0], begin[1], extent[0], extent[1]])
    whole = tf.stack([0, 0, shape[0], shape[1]])
    kept = draws[1] < KEEP_PROBABILITY
    return tf.where(kept, whole, window), tf.where(kept, 0.0, threshold)


def crop_boxes(boxes: Any, labels: Any, shape: Any, window: Any, threshold: Any) -> tuple[Any, Any]:
    """Boxes `[n, 4]` and labels `[n]` of a photo as they are in a window of it, clipped to it.

    Boxes that the window covers by less than `threshold` of their area, or not at all, are left out. Crowd regions stay
    with whatever the window shows of them.
    """
    sides = tf.cast(tf.tile(shape[:2], [2]), tf.float32)
    top, left, height, width = tf.unstack(tf.cast(window, tf.float32))
    pixels = boxes * sides
    clipped = tf.stack(
        [
            tf.clip_by_value(pixels[:, 0], top, top + height),
            tf.clip_by_value(pixels[:, 1], left, left + width),
            tf.clip_by_value(pixels[:, 2], top, top + height),
            tf.clip_by_value(pixels[:, 3], left, left + width),
        ],
        axis=1,
    )
    covered = _area(clipped) / tf.maximum(_area(pixels), TINY)
    stays = (covered > 0) & ((covered >= threshold - TINY) | (labels == CROWD))
    moved = (clipped - tf.stack([top, left, top, left])) / tf.stack([height, width, height, width])
    return tf.boolean_mask(moved, stays), tf.boolean_mask(labels, stays)


def _area(boxes: Any) -> Any:
    return tf.maximum(boxes[:, 2] - boxes[:, 0], 0.0) * tf.maximum(boxes[:, 3] - boxes[:, 1], 0.0)


def flip(pixels: Any, boxes: Any, seed: Any) -> tuple[Any, Any]:
    """Left and right exchanged with probability 1/2: pixels `[h, w, 3]` and boxes (y1, x1, y2, x2) as shares of the photo."""
    y1, x1, y2, x2 = tf.unstack(boxes, axis=1)
    is_flipped = tf.random.stateless_uniform((), seed) < 0.5
    mirrored = tf.stack([y1, 1 - x2, y2, 1 - x1], axis=1)
    return tf.where(is_flipped, tf.reverse(pixels, [1]), pixels), tf.where(is_flipped, mirrored, boxes)


def training_batches(
    dataset: CocoDataset, *, size: tuple[int, int], batch_size: int, augment: BoxAugment, seed: int, max_boxes: int = 1000,
    first_step: int = 0, shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:  # fmt: skip
    """Endless (pixels float32 `[b, *size, 3]` 0..255, {"boxes" `[b, n, 4]`, "labels" `[b, n]`}).

    `n` is the number of boxes of the photo with most, at most `max_boxes`: of photos with more the first ones count.
    The batch of a global step does not depend on `first_step`; `b` is a shard's part of `batch_size`. Of JPEGs only the crop
    is decoded.
    """
    share = shard_size(batch_size, shard)
    dataset.images.steps_per_epoch(batch_size)
    rows = min(max_boxes, dataset.most_boxes)
    seeds = {stream: stream_seed(seed, stream) for stream in (ORDER, CROP, FLIP)}

    def example(ordinal: Any) -> tuple[Any, dict[str, Any]]:
        position = ordinal // share * batch_size + shard[0] * share + ordinal % share
        index = dataset.images.order(position[None], seed=int(seeds[ORDER]), batch=batch_size)
        fetched = dataset.images.fetch(index)[0][0]
        boxes, labels = _labeled(dataset, index[0])
        encoded = dataset.images.source.load(fetched)
        turn = None if dataset.turns is None else dataset.turns[index[0]]
        if augment.crop:
            pixels, boxes, labels = _cropped(encoded, turn, boxes, labels, tf.stack([seeds[CROP], position]), augment)
        else:
            pixels = _decoded(encoded, turn)
        pixels = resize_photo(pixels, size)
        if augment.flip:
            pixels, boxes = flip(pixels, boxes, tf.stack([seeds[FLIP], position]))
        return pixels, _padded(boxes, labels, rows)

    batches = tf.data.Dataset.range(first_step * share, ENDLESS)
    batches = batches.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.batch(share, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _decoded(encoded: Any, turn: Any) -> Any:
    """A photo's pixels as it is annotated; `turn` is its EXIF orientation, None for a set without one."""
    pixels = decode(encoded)
    return pixels if turn is None else upright(pixels, turn)


def _cropped(encoded: Any, turn: Any, boxes: Any, labels: Any, seed: Any, augment: BoxAugment) -> tuple[Any, Any, Any]:
    as_stored = tf.io.is_jpeg(encoded) if turn is None else tf.io.is_jpeg(encoded) & (turn == 1)
    shape = tf.cond(
        as_stored, lambda: tf.io.extract_jpeg_shape(encoded), lambda: tf.shape(_decoded(encoded, turn))
    )  # fmt: skip
    window, threshold = sample_window(shape, boxes, labels, seed, augment)
    top, left, height, width = tf.unstack(window)

    def cut() -> Any:
        return _decoded(encoded, turn)[top : top + height, left : left + width]

    pixels = tf.cond(as_stored, lambda: tf.io.decode_and_crop_jpeg(encoded, window, channels=3), cut)
    return pixels, *crop_boxes(boxes, labels, shape, window, threshold)


def evaluation_batches(
    dataset: CocoDataset, *, size: tuple[int, int], batch_size: int, max_boxes: int = 1000, shard: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
    """One pass in order over whole photos, like `training_batches`; the last batch may be smaller."""
    share = shard_size(batch_size, shard)
    rows = min(max_boxes, dataset.most_boxes)

    def example(item: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        boxes, labels = _labeled(dataset, item["index"])
        turn = None if dataset.turns is None else dataset.turns[item["index"]]
        return resize_photo(_decoded(item["image"], turn), size), _padded(boxes, labels, rows)

    examples = dataset.images.examples(batch=batch_size, shard=shard)
    batches = examples.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).batch(share)
    return batches.apply(tf.data.experimental.assert_cardinality(-(-dataset.count // batch_size))).prefetch(1)
