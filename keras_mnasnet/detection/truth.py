"""Annotations as every reader gives them, and what the readers share. Loads no TensorFlow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_mnasnet.utils.reading import check_limit, check_names, shown

LARGEST_ID = 2**53  # whole numbers that JSON's readers agree on
MAX_LOST = 0.5  # the share of annotations that may be of no use before a file is refused
Id = int | str


@dataclasses.dataclass(frozen=True, slots=True)
class Truth:
    """Images and categories by their ids, and annotations as pycocotools takes them.

    An image has `id`, `file_name`, and `width` and `height`, which may be anything or nothing; a reader that opened the photos
    adds `path` and `orientation`. `folder` is where the photos are, if the source says so. `roots` are categories that only
    hold others together. `notes` count what reading left out or made up, and `said` are lines about that.
    """

    name: str
    images: Mapping[Id, Mapping[str, Any]]
    categories: Mapping[Id, str]
    annotations: Sequence[Mapping[str, Any]] = dataclasses.field(repr=False)
    folder: Path | None = None
    roots: Mapping[Id, str] = dataclasses.field(default_factory=dict, repr=False)
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict, repr=False)
    said: tuple[str, ...] = dataclasses.field(default=(), repr=False)


def identity(value: Any) -> Id:
    """An id as it is written: a whole number, or text."""
    if isinstance(value, str) and value:
        check_limit("path", len(value), "An id")
        return value
    number = int(value)
    if isinstance(value, bool) or abs(number) > LARGEST_ID or number != value:
        raise ValueError(f"the id {shown(value)}")
    return number


def known_as(value: Id, known: Mapping[Id, Any]) -> Id | None:
    """The id by which `known` has `value`, which may be written as a number here and as text there."""
    if value in known:
        return value
    other: Id | None = None
    if isinstance(value, int):
        other = str(value)
    elif value.isdecimal() and len(value) <= len(str(LARGEST_ID)):
        other = int(value)
    return other if other in known else None


def finite(value: Any) -> float:
    """A number, also one that is written as text; ValueError for NaN and infinity."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{shown(value)}, which is no finite number")
    return number


def box_of(value: Any) -> list[float]:
    """Four finite numbers."""
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError(f"the bbox {shown(value)}")
    try:
        return [finite(side) for side in value]
    except (TypeError, OverflowError) as error:
        raise ValueError(f"the bbox {shown(value)}") from error


def name_of(value: Any) -> str:
    """A category's name: text of one line, without spaces around it; a number is the text of it."""
    text = str(value) if type(value) is int else value.strip() if isinstance(value, str) else value
    return check_names([text], "Categories")[0]


def check_pixels(boxes: Sequence[Sequence[float]], source: str) -> None:
    """ValueError where most boxes, [x, y, width, height], lie within the first pixel: they are shares of the photo."""
    shares = [box for box in boxes if max(map(abs, box)) <= 1.001 and (box[2] or box[3])]
    if len(shares) > MAX_LOST * len(boxes):
        raise ValueError(
            f"Boxes are [x, y, width, height] in pixels of the photo. Received: {source}, where {len(shares):,} of "
            f"{len(boxes):,} boxes look like shares, 0 to 1, such as {[round(side, 4) for side in shares[0]]}. Multiply them "
            f"by the photo's width and height, or name YOLO's data.yaml if these are YOLO's."
        )


def check_crowds(truth: Truth) -> Truth:
    """The same; ValueError where nothing is asked of any annotation."""
    rows = truth.annotations
    if rows and all(row["iscrowd"] for row in rows):
        raise ValueError(
            f"Annotations must hold boxes of the classes that a detector is to find. Received: {truth.name}, where all "
            f"{len(rows):,} annotations are iscrowd=1 (difficult=1 in VOC), regions of which nothing is asked; CVAT writes "
            f"masks so. Take them as objects with --crowd-as-objects (crowd_as_objects=True), or export boxes or polygons."
        )
    return truth


def as_objects(truth: Truth) -> Truth:
    """The truth with crowd regions, and VOC's difficult objects, as objects like the others."""
    rows = [{**row, "iscrowd": 0} for row in truth.annotations]
    count = sum(1 for row in truth.annotations if row["iscrowd"])
    return dataclasses.replace(truth, annotations=rows, notes={**truth.notes, "crowd_regions_as_objects": count})
