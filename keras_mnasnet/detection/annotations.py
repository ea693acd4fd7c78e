"""Annotations and results as files: COCO's instances, folders of Pascal VOC's .xml, COCO result files. Loads no TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

Result = dict[str, Any]  # image_id, category_id, bbox [x, y, width, height] in pixels, score


@dataclasses.dataclass(frozen=True, slots=True)
class Truth:
    """A COCO annotation file: images and categories by their ids, and annotations as pycocotools takes them."""

    name: str
    images: Mapping[int, Mapping[str, Any]]
    categories: Mapping[int, str]
    annotations: Sequence[Mapping[str, Any]] = dataclasses.field(repr=False)


def read_truth(annotations: str | os.PathLike[str]) -> Truth:
    """The annotations of a COCO file or a folder of VOC's .xml files; OSError where there are none."""
    source = Path(annotations).expanduser()
    if not source.exists():
        raise OSError(f"Annotations must exist: a COCO .json file, or a folder of VOC's .xml files. Received: {source}")
    return _read_voc(source) if source.is_dir() else _read_coco(source)


def _read_coco(path: Path) -> Truth:
    """Read a COCO annotation file; ValueError for one without images, categories or annotations, or with ids it does not have.

    Missing `area` and `iscrowd` are filled in (width * height, 0), and annotations are numbered from 1: pycocotools counts
    a match with annotation 0 as none.
    """
    value = _json(path, "An annotation file")
    if not isinstance(value, dict):
        raise ValueError(f"An annotation file must hold a JSON object. Received: {path}, a {type(value).__name__}")
    for key in ("images", "categories", "annotations"):
        if not isinstance(value.get(key), list) or not value[key]:
            raise ValueError(
                f"An annotation file must have `images`, `categories` and `annotations`. Received: {path} without {key}"
            )
    try:
        images = {int(image["id"]): image for image in value["images"]}
        categories = {int(category["id"]): _name(category["name"]) for category in value["categories"]}
        annotations = [_annotation(number, each) for number, each in enumerate(value["annotations"], 1)]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"An annotation file has images with `id`, categories with `id` and `name`, annotations with `image_id`, "
            f"`category_id` and `bbox` [x, y, width, height]. Received: {path}: {type(error).__name__} {error}"
        ) from error
    for what, found in (("images", images), ("categories", categories)):
        if len(found) < len(value[what]):
            raise ValueError(f"The {what} of an annotation file must have different ids. Received: {path} with one id twice")
    names = list(categories.values())
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"The categories of an annotation file must have different names. Received: {path} with {twice} twice")
    check_ids(annotations, images, categories, f"The annotations of {path}")
    return Truth(str(path), images, categories, annotations)


def _annotation(number: int, value: Mapping[str, Any]) -> dict[str, Any]:
    box = _box(value["bbox"])
    return {
        "id": number,
        "image_id": int(value["image_id"]),
        "category_id": int(value["category_id"]),
        "bbox": box,
        "area": float(value.get("area", box[2] * box[3])),
        "iscrowd": int(value.get("iscrowd", 0)),
    }


def _box(value: Any) -> list[float]:
    box = [float(side) for side in value]
    if len(box) != 4 or not all(math.isfinite(side) for side in box):
        raise ValueError(f"the bbox {value!r}")
    return box


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a category's name is a text, not {value!r}")
    return value


def check_ids(
    rows: Sequence[Mapping[str, Any]], images: Mapping[int, Any], categories: Mapping[int, Any], subject: str
) -> None:
    for key, known in (("image_id", images), ("category_id", categories)):
        unknown = sorted({row[key] for row in rows} - set(known))
        if unknown:
            shown = ", ".join(map(str, unknown[:5]))
            raise ValueError(
                f"{subject} must have each `{key}` from the annotation file's own list of {len(known):,}. "
                f"Received: {len(unknown):,} unknown, {shown}{', ...' if len(unknown) > 5 else ''}"
            )


def read_results(path: str | os.PathLike[str]) -> list[Result]:
    """Read COCO results: a JSON list of {image_id, category_id, bbox [x, y, width, height], score}."""
    path = Path(path).expanduser()
    value = _json(path, "A result file")
    if not isinstance(value, list):
        raise ValueError(f"A result file must hold a JSON list of detections. Received: {path}, a {type(value).__name__}")
    try:
        rows: list[Result] = [
            {
                "image_id": int(row["image_id"]),
                "category_id": int(row["category_id"]),
                "bbox": _box(row["bbox"]),
                "score": float(row["score"]),
            }
            for row in value
        ]
        if not all(math.isfinite(row["score"]) for row in rows):
            raise ValueError("a score that is no finite number")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"A result file holds detections with `image_id`, `category_id`, `bbox` [x, y, width, height] and `score`. "
            f"Received: {path}: {type(error).__name__} {error}"
        ) from error
    return rows


def _json(path: Path, subject: str) -> Any:
    if not path.is_file():
        raise ValueError(f"{subject} must exist. Received: {path}, which does not")
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{subject} must be JSON. Received: {path}: {error}") from error


def _read_voc(folder: Path) -> Truth:
    """A folder of VOC .xml files as COCO annotations; ValueError names a file that is none.

    Categories are the names found, numbered from 1 in alphabetical order. VOC counts pixels from 1 and includes the last, so
    that a box's width is xmax - xmin + 1. Objects marked `difficult` become crowd regions: nothing is asked of them.
    """
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise ValueError(f"A folder of VOC annotations holds .xml files. Received: {folder}, without one")
    images, found = {}, []
    for number, path in enumerate(files, 1):
        try:
            root = ElementTree.parse(path).getroot()
            images[number] = {
                "id": number,
                "file_name": _text(root, "filename"),
                "width": int(_text(root, "size/width")),
                "height": int(_text(root, "size/height")),
            }
            for item in root.iter("object"):
                x1, y1, x2, y2 = (float(_text(item, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
                box = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
                found.append((number, _text(item, "name"), box, int(item.findtext("difficult") or 0)))
        except (ElementTree.ParseError, ValueError) as error:
            raise ValueError(f"{path} must be a VOC annotation. Received: {error}") from error
    names = sorted({name for _, name, _, _ in found})
    ids = {name: number for number, name in enumerate(names, 1)}
    annotations = [
        {
            "id": number, "image_id": image, "category_id": ids[name], "bbox": box, "area": box[2] * box[3],
            "iscrowd": difficult,
        }
        for number, (image, name, box, difficult) in enumerate(found, 1)
    ]  # fmt: skip
    return Truth(str(folder), images, {number: name for name, number in ids.items()}, annotations)


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None or not text.strip():
        raise ValueError(f"no <{path.replace('/', '><')}>")
    return text.strip()
