"""Annotations and results as files: COCO's instances, folders of Pascal VOC's .xml, COCO result files. Loads no TensorFlow."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mnasnet.utils.reading import LONGEST_ANNOTATIONS, check_limit, check_names, read_json, read_xml, shown

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

LARGEST_ID = 2**53  # whole numbers that JSON's readers agree on
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
    wanted = (
        "An annotation file has images with `id`, categories with `id` and `name`, annotations with `image_id`, `category_id` "
        "and `bbox` [x, y, width, height]"
    )
    check_limit("classes", len(value["categories"]), f"The categories of {path}")
    with _named(path, wanted) as field:
        images = {_id(image["id"]): image for image in field("images", value["images"])}
        categories = {_id(each["id"]): _name(each["name"]) for each in field("categories", value["categories"])}
        annotations = [_annotation(n, each) for n, each in enumerate(field("annotations", value["annotations"]), 1)]
    for what, found in (("images", images), ("categories", categories)):
        if len(found) < len(value[what]):
            raise ValueError(f"The {what} of an annotation file must have different ids. Received: {path} with one id twice")
    counts = collections.Counter(categories.values())
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise ValueError(
            f"The categories of an annotation file must have different names. Received: {path} with {shown(twice)} twice"
        )
    check_ids(annotations, images, categories, f"The annotations of {path}")
    return Truth(str(path), images, categories, annotations)


def _annotation(number: int, value: Mapping[str, Any]) -> dict[str, Any]:
    box = _box(value["bbox"])
    return {
        "id": number,
        "image_id": _id(value["image_id"]),
        "category_id": _id(value["category_id"]),
        "bbox": box,
        "area": _finite(value.get("area", box[2] * box[3])),
        "iscrowd": int(value.get("iscrowd", 0)),
    }


@contextlib.contextmanager
def _named(path: Path, wanted: str) -> Iterator[Callable[[str, list[Any]], Iterator[Any]]]:
    """A way to go through lists of objects, after which an error names the object that it was at."""
    at = ["", 0]

    def each(name: str, rows: list[Any]) -> Iterator[Any]:
        at[0] = name
        for at[1], row in enumerate(rows):
            yield row

    try:
        yield each
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        lost = isinstance(error, KeyError)
        raise ValueError(f"{wanted}. Received: {path}, {at[0]}[{at[1]}]: {'no ' if lost else ''}{str(error)[:200]}") from error


def _id(value: Any) -> int:
    number = int(value)
    if isinstance(value, bool) or abs(number) > LARGEST_ID:
        raise ValueError(f"the id {shown(value)}")
    return number


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{shown(value)}, which is no finite number")
    return number


def _box(value: Any) -> list[float]:
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError(f"the bbox {shown(value)}")
    return [_finite(side) for side in value]


def _name(value: Any) -> str:
    return check_names([value], "Categories")[0]


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
    wanted = "A result file holds detections with `image_id`, `category_id`, `bbox` [x, y, width, height] and `score`"
    with _named(path, wanted) as field:
        return [
            {
                "image_id": _id(row["image_id"]),
                "category_id": _id(row["category_id"]),
                "bbox": _box(row["bbox"]),
                "score": _finite(row["score"]),
            }
            for row in field("detections", value)
        ]


def _json(path: Path, subject: str) -> Any:
    if not path.exists():
        raise ValueError(f"{subject} must exist. Received: {path}, which does not")
    return read_json(path, subject, limit=LONGEST_ANNOTATIONS)


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
            root = read_xml(path, "A VOC annotation")
            images[number] = {
                "id": number,
                "file_name": _text(root, "filename"),
                "width": int(_text(root, "size/width")),
                "height": int(_text(root, "size/height")),
            }
            for item in root.iter("object"):
                x1, y1, x2, y2 = (_finite(_text(item, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
                box = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
                found.append((number, _name(_text(item, "name")), box, int(item.findtext("difficult") or 0)))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path} must be a VOC annotation. Received: {error}") from error
    check_limit("classes", len({name for _, name, _, _ in found}), f"The categories of {folder}")
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


def _text(element: Element, path: str) -> str:
    text = element.findtext(path)
    if text is None or not text.strip():
        raise ValueError(f"no <{path.replace('/', '><')}>")
    return text.strip()
