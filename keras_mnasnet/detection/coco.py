"""COCO's instances .json as COCO and people's tools write them. Loads no TensorFlow.

Tools leave out `area` and `iscrowd`, or write null; give polygons or masks and no box; keep annotations of images that were
removed; put a root above all categories. What is meant is clear then, and is counted. What is not clear is refused, with the
place, the annotation's id and its field.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.detection.truth import MAX_LOST, Id, Truth, box_of, check_pixels, finite, identity, known_as, name_of
from keras_mnasnet.utils.reading import LONGEST_ANNOTATIONS, check_limit, read_json, record, shown

WANTED = (
    "An annotation file has images with `id` and `file_name`, categories with `id` and `name`, annotations with `image_id`, "
    "`category_id` and `bbox` [x, y, width, height]"
)
SWITCHES = {"0": 0, "1": 1, "false": 0, "true": 1, "": 0}
ROBOFLOW = "_annotations.coco.json"  # lies beside the photos
MAKER = "Export as COCO instances, as Pascal VOC or as YOLO from the tool that made it."


def read_coco(path: Path) -> Truth:
    """The annotations of a COCO file; ValueError says what is wrong with it, OSError for a missing one."""
    value = read_json(path, "An annotation file", limit=LONGEST_ANNOTATIONS)
    if (kind := _other_kind(value)) is not None:
        raise ValueError(f"An annotation file must be COCO's instances. Received: {path}, {kind}")
    if not isinstance(value, dict):
        raise ValueError(f"An annotation file must hold a JSON object. Received: {path}, a {type(value).__name__}")
    for key in ("images", "categories", "annotations"):
        if not isinstance(value.get(key), list) or not value[key]:
            is_there = "without" if key not in value else "with no" if not value[key] else f"with {_kind(value[key])} as"
            raise ValueError(
                f"An annotation file must have lists of `images`, `categories` and `annotations`. Received: {path} "
                f"{is_there} {key}"
            )
    check_limit("classes", len(value["categories"]), f"The categories of {path}")
    with rows_of(path, WANTED) as rows:
        images: dict[Id, dict[str, Any]] = {}
        for row in rows("images", value["images"]):
            _add(images, (image := _image(row))["id"], image)
        names: dict[Id, str] = {}
        found: dict[Id, Mapping[str, Any]] = {}
        for row in rows("categories", value["categories"]):
            _add(names, identity(row["id"]), name_of(row["name"]))
            found[identity(row["id"])] = row
        reader = _Rows(images, names)
        annotations = [each for row in rows("annotations", value["annotations"]) if (each := reader.read(row)) is not None]
    reader.refuse_most(path, len(value["annotations"]))
    check_pixels([row["bbox"] for row in annotations], str(path))
    used = {row["category_id"] for row in annotations}
    categories, roots = _categories(path, names, list(found.values()), used)
    said = list(reader.said(path))
    for key, count in (("images", len(images)), ("categories", len(names))):
        if again := len(value[key]) - count:
            reader.notes[f"{key}_written_twice"] = again
            said.append(f"{path}: {again:,} {key} are written twice with the same id, and are taken once")
    if roots:
        said.append(
            f"{path}: no class is made of {_listed(roots)}, which nothing is annotated with and which only "
            f"{'holds' if len(roots) == 1 else 'hold'} others together or {'has' if len(roots) == 1 else 'have'} another's name"
        )
    return Truth(
        str(path), images, categories, annotations, roots=roots, notes=reader.notes, said=tuple(said),
        folder=path.parent if path.name == ROBOFLOW else None,
    )  # fmt: skip


@contextlib.contextmanager
def rows_of(path: Path, wanted: str) -> Iterator[Callable[[str, list[Any]], Iterator[Any]]]:
    """A way to go through lists of objects, after which an error names the object that it was at, with its id."""
    at: list[Any] = ["", 0, None]

    def each(name: str, rows: list[Any]) -> Iterator[Any]:
        at[0] = name
        for at[1], at[2] in enumerate(rows):
            yield at[2]
        at[0] = ""

    try:
        yield each
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        said = f"{'no ' if isinstance(error, KeyError) else ''}{str(error)[:300]}"
        if not at[0]:
            raise ValueError(f"{said} in {path}") from error
        own = f" (id {shown(at[2]['id'])})" if isinstance(at[2], dict) and at[2].get("id") is not None else ""
        raise ValueError(f"{wanted}. Received: {path}, {at[0]}[{at[1]}]: {said}{own}") from error


def _add(known: dict[Id, Any], number: Id, value: Any) -> None:
    """Take in a value by its id, also twice the same; ValueError for two of one id."""
    if known.setdefault(number, value) != value:
        raise ValueError(f"the id of another one before, {shown(known[number])}: give each its own")


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, dict) else f"a {type(value).__name__}"


def _image(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": identity(row["id"])} | {key: row[key] for key in ("file_name", "width", "height") if key in row}


class _Rows:
    """Reads annotations one by one, and counts those that are left out."""

    def __init__(self, images: Mapping[Id, Any], categories: Mapping[Id, Any]) -> None:
        self.images, self.categories = images, categories
        self.notes: dict[str, int] = collections.Counter()
        self.first: dict[str, str] = {}
        self.number = 0

    def read(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """The annotation as pycocotools takes it; None for one that is left out.

        Annotations are numbered from 1: pycocotools counts a match with annotation 0 as none.
        """
        self.number += 1
        if row.get("deleted") is True:
            self._leave_out("deleted", row, "`deleted` is true")
            return None
        image, category = row["image_id"], row["category_id"]
        if type(image) is not int or image not in self.images:
            image = _reference(image, "image_id", self.images)
        if type(category) is not int or category not in self.categories:
            category = _reference(category, "category_id", self.categories)
        if image is None or category is None:
            lost = "image_id" if image is None else "category_id"
            self._leave_out(f"unknown_{lost}", row, f"the {lost} {shown(row[lost])}")
            return None
        box = row.get("bbox")
        if box is None or box == []:
            box = _bounds(row.get("segmentation"))
            if box is None:
                self._leave_out("without_box", row, "no 'bbox'")
                return None
            self.notes["boxes_of_outlines"] += 1
        else:
            box = box_of(box)
        return {
            "id": self.number,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": self._area(row.get("area"), box),
            "iscrowd": _switch(row.get("iscrowd")),
        }

    def _area(self, value: Any, box: Sequence[float]) -> float:
        if isinstance(value, int | float) and value - value == 0:  # neither NaN nor infinite
            return float(value)
        self.notes["areas_made_up"] += value is not None
        return box[2] * box[3]

    def _leave_out(self, why: str, row: Mapping[str, Any], said: str) -> None:
        self.notes[why] += 1
        number = f" (id {shown(row['id'])})" if row.get("id") is not None else ""
        self.first.setdefault(why, f"annotations[{self.number - 1}]: {said}{number}")

    def refuse_most(self, path: Path, count: int) -> None:
        """ValueError where most annotations are of no use: it is another file's list then, or no list of boxes."""
        for key, known in (("image_id", self.images), ("category_id", self.categories)):
            if self.notes[f"unknown_{key}"] > MAX_LOST * count:
                raise ValueError(
                    f"The annotations of {path} must have each `{key}` from the annotation file's own list of {len(known):,}. "
                    f"Received: {self.notes[f'unknown_{key}']:,} of {count:,} with an unknown one, the first is "
                    f"{self.first[f'unknown_{key}']}"
                )
        if self.notes["without_box"] > MAX_LOST * count:
            raise ValueError(
                f"{WANTED}. Received: {path}, {self.first['without_box']}; {self.notes['without_box']:,} of {count:,} have "
                f"neither a box nor an outline"
            )

    def said(self, path: Path) -> Iterator[str]:
        """A line for each kind of annotation that was left out."""
        texts = {
            "unknown_image_id": "are of images that the file does not have",
            "unknown_category_id": "are of categories that the file does not have",
            "without_box": "have neither a box nor an outline",
            "deleted": "are marked as deleted",
        }
        for key, text in texts.items():
            if self.notes[key]:
                yield f"{path}: {self.notes[key]:,} annotations are left out, which {text}; the first is {self.first[key]}"


def _reference(value: Any, field: str, known: Mapping[Id, Any]) -> Id | None:
    if value is None:
        return None
    try:
        return known_as(identity(value), known)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"the {field} {shown(value)}") from error


def _switch(value: Any) -> int:
    if value is None:
        return 0
    found = SWITCHES.get(str(value).lower().removesuffix(".0"))
    if found is None:
        raise ValueError(f"the iscrowd {shown(value)}")
    return found


def _bounds(outline: Any) -> list[float] | None:
    """The box of polygons, or of a mask in run lengths; None where there is no outline."""
    if not outline:
        return None
    if isinstance(outline, dict):
        return _mask_bounds(outline)
    try:
        parts = outline if isinstance(outline[0], list) else [outline]
        xs = [finite(value) for part in parts for value in part[0::2]]
        ys = [finite(value) for part in parts for value in part[1::2]]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"the segmentation {shown(outline)}") from error
    if len(xs) != len(ys):
        raise ValueError(f"the segmentation {shown(outline)}, where an x has no y")
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)] if xs else None


def _mask_bounds(mask: Mapping[str, Any]) -> list[float] | None:
    """Run lengths go down the columns, the first is of background: COCO's RLE as a list, or packed into text."""
    try:
        height, width = record(mask["size"], tuple[int, int], "`size`")
        check_limit("side", max(height, width), "A mask")
        counts = mask["counts"]
        runs = np.array(_unpacked(counts) if isinstance(counts, str) else record(counts, list[int], "`counts`"), np.int64)
        ends = np.cumsum(runs)
        if min(height, width) < 1 or runs.min(initial=0) < 0 or ends.max(initial=0) > height * width:
            raise ValueError("runs that do not fit the size")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"the segmentation {shown(mask)}: {str(error)[:100]}") from error
    filled = np.flatnonzero(runs[1::2]) * 2 + 1
    if not len(filled):
        return None
    first, last = ends[filled - 1], ends[filled] - 1
    whole = bool((first // height != last // height).any())
    left, right = int((first // height).min()), int((last // height).max())
    top, bottom = (0, height - 1) if whole else (int((first % height).min()), int((last % height).max()))
    return [float(left), float(top), float(right - left + 1), float(bottom - top + 1)]


def _unpacked(text: str) -> list[int]:
    """Run lengths of packed text: five bits a character, the sixth says that more follow; from the third on differences."""
    runs: list[int] = []
    value = shift = 0
    for code in (ord(character) - 48 for character in text):
        if not 0 <= code < 64 or shift > 60:
            raise ValueError("packed run lengths that are none")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (1 << shift) if code & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def _categories(
    path: Path, names: Mapping[Id, str], rows: Sequence[Mapping[str, Any]], used: set[Id]
) -> tuple[dict[Id, str], dict[Id, str]]:
    """Categories, and those without annotations that only stand above others; ValueError for two of one name.

    A root has the name of others' `supercategory` and not of its own. Of two categories with one name the one without
    annotations goes with the roots.
    """
    held = {text for row in rows if isinstance(text := row.get("supercategory"), str)}
    own = {number: row.get("supercategory") for number, row in zip(names, rows, strict=True)}
    roots = {number: name for number, name in names.items() if number not in used and name in held and own[number] != name}
    rest = {number: name for number, name in names.items() if number not in roots}
    for name, count in collections.Counter(rest.values()).items():
        twins = [number for number, other in rest.items() if other == name] if count > 1 else []
        idle = [number for number in twins if number not in used]
        if twins and len(twins) - len(idle) != 1:
            raise ValueError(
                f"The categories of an annotation file must have different names. Received: {path} with {shown(name)} twice, "
                f"the ids {', '.join(map(shown, twins[:5]))}. Rename one, or give both one id."
            )
        roots |= {number: rest.pop(number) for number in idle}
    return rest or dict(names), roots if rest else {}


def _listed(categories: Mapping[Id, str]) -> str:
    few = itertools.islice(categories.items(), 5)
    return ", ".join(f"{shown(name)} (id {shown(number)})" for number, name in few) + (", ..." if len(categories) > 5 else "")


def _other_kind(value: Any) -> str | None:
    """What a JSON value is, and the way on, where it is of a known kind that holds no boxes as COCO's instances do."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        first = value[0]
        if {"image_id", "category_id", "score"} <= first.keys():
            return "a COCO result file, which has a list of detections. `mnasnet detect eval` takes it as a model."
        if "data" in first and first.keys() & {"annotations", "predictions", "completions"}:
            return "Label Studio's own JSON. Export as COCO, or as YOLO, there."
        if "image" in first and isinstance(first.get("annotations"), list):
            return f"Create ML's JSON. {MAKER}"
    if not isinstance(value, dict):
        return None
    if "shapes" in value and "imagePath" in value:
        return "labelme's JSON of one photo. Make one COCO file of them all: labelme's examples have labelme2coco.py."
    if "_via_img_metadata" in value or _is_via(value):
        return "the project or the JSON of VGG's VIA. Export as COCO there."
    if "images" in value and isinstance(rows := value.get("annotations"), list) and rows and isinstance(rows[0], dict):
        first = rows[0]
        if "segments_info" in first:
            return "COCO's panoptic segments, which have no boxes of their own. Take the instances_*.json of the same set."
        if "caption" in first and "bbox" not in first:
            return "COCO's captions. Take the instances_*.json of the same set."
        if "keypoints" in first and not any(first.get(key) for key in ("bbox", "segmentation")):
            return "COCO's keypoints without boxes. Take the instances_*.json of the same set."
    return None


def _is_via(value: Mapping[str, Any]) -> bool:
    first = next(iter(value.values()), None)
    return isinstance(first, dict) and {"filename", "regions"} <= first.keys()
