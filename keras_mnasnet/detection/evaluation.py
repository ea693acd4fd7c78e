"""COCO's twelve numbers, by pycocotools (extra `[detection]`): ground truth, result files, detections as results."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_mnasnet.detection.annotations import Result, Truth, check_ids
from keras_mnasnet.detection.postprocess import Detections

__all__ = ["METRICS", "CategoryResult", "Score", "coco_score", "results_of"]

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


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
    check_ids(results, truth.images, truth.categories, "The results")
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
