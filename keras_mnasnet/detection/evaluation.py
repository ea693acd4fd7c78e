"""COCO's twelve numbers, by pycocotools (extra `[detection]`): ground truth, result files, detections as results."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.detection.postprocess import Detections

__all__ = ["METRICS", "CategoryResult", "Score", "Truth", "coco_score", "read_results", "read_truth", "results_of"]

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
Result = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Truth:
    """A COCO annotation file: images and categories by their ids, and annotations as pycocotools takes them."""

    name: str
    images: Mapping[int, Mapping[str, Any]]
    categories: Mapping[int, str]
    annotations: Sequence[Mapping[str, Any]] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class CategoryResult:
    """AP and AP50 of one category, None where the ground truth has no box of it."""

    category_id: int
    name: str
    boxes: int
    ap: float | None
    ap50: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """COCO's twelve numbers under METRICS' names, None where there is nothing to measure (pycocotools says -1)."""

    metrics: dict[str, float | None]
    images: int
    detections: int
    per_category: tuple[CategoryResult, ...] = dataclasses.field(repr=False)


def read_truth(path: str | os.PathLike[str]) -> Truth:
    """Read a COCO annotation file; ValueError for one without images, categories or annotations, or with ids it does not have.

    Missing `area` and `iscrowd` are filled in (width * height, 0), and annotations are numbered from 1: pycocotools counts
    a match with annotation 0 as none.
    """
    path = Path(path).expanduser()
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
    _check_ids(annotations, images, categories, f"The annotations of {path}")
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


def _check_ids(
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


def results_of(detections: Detections, image: Mapping[str, Any], category_ids: Sequence[int | None]) -> list[Result]:
    """Detections as COCO results: boxes inside the image in its pixels [x, y, width, height], category ids from classes.

    `image` is the annotation file's entry (`id`, `height`, `width`), `category_ids[c]` the id of class c, None for a class that
    the annotation file does not have: its detections are left out.
    """
    height, width = float(image["height"]), float(image["width"])
    corners = np.clip(np.asarray(detections.boxes, np.float64), 0, 1) * (height, width, height, width)
    found = []
    for (top, left, bottom, right), category, score in zip(corners, detections.classes, detections.scores, strict=True):
        identity = category_ids[int(category)]
        if identity is not None:
            box = [float(left), float(top), float(right - left), float(bottom - top)]
            found.append({"image_id": int(image["id"]), "category_id": identity, "bbox": box, "score": float(score)})
    return found


def coco_score(truth: Truth, results: Sequence[Result], *, image_ids: Sequence[int] | None = None) -> Score:
    """pycocotools' bounding-box evaluation with its defaults, over all images or only `image_ids`.

    ValueError for results of images or categories that the ground truth does not have.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError(
            "COCO evaluation needs pycocotools, which is not installed. Run: pip install 'keras_mnasnet[detection]'"
        ) from error
    _check_ids(results, truth.images, truth.categories, "The results")
    chosen = sorted(truth.images if image_ids is None else image_ids)
    categories = [{"id": identity, "name": name} for identity, name in truth.categories.items()]
    frame = {"images": list(truth.images.values()), "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        wanted, found = COCO(), COCO()
        wanted.dataset = {**frame, "annotations": [dict(each) for each in truth.annotations]}
        found.dataset = {**frame, "annotations": [_detection(number, row) for number, row in enumerate(results, 1)]}
        wanted.createIndex()
        found.createIndex()
        evaluation = COCOeval(wanted, found, "bbox")
        evaluation.params.imgIds = chosen
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = [_known(value) for value in evaluation.stats]
    kept = set(chosen)
    return Score(
        metrics=dict(zip(METRICS, values, strict=True)),
        images=len(chosen),
        detections=sum(row["image_id"] in kept for row in results),
        per_category=tuple(_categories(truth, evaluation, kept)),
    )


def _detection(number: int, row: Result) -> dict[str, Any]:
    """As pycocotools' loadRes, which refuses an empty list, makes it."""
    return {**row, "id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}


def _categories(truth: Truth, evaluation: Any, images: set[int]) -> list[CategoryResult]:
    """Precision is [IoU threshold, recall, category, area, detections]: of all areas, with 100 detections."""
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    counts = dict.fromkeys(truth.categories, 0)
    for each in truth.annotations:
        counts[each["category_id"]] += each["image_id"] in images and not each["iscrowd"]
    return [
        CategoryResult(
            identity,
            truth.categories[identity],
            counts[identity],
            _mean(precision[:, :, index]),
            _mean(precision[:1, :, index]),
        )
        for index, identity in enumerate(map(int, evaluation.params.catIds))
    ]


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _known(value: float) -> float | None:
    return None if value < 0 else float(value)
