"""COCO's twelve numbers of detectors and of result files, side by side on the same photos."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_mnasnet.benchmarks.detectors import Detector, open_detector
from keras_mnasnet.benchmarks.results import write_json
from keras_mnasnet.detection.annotations import read_results, read_truth
from keras_mnasnet.detection.data import CocoDataset, open_dataset
from keras_mnasnet.detection.evaluation import CategoryResult, Score, coco_score
from keras_mnasnet.detection.inference import category_map, results_on
from keras_mnasnet.detection.postprocess import PostProcess

__all__ = ["CocoResult", "evaluate_coco"]


@dataclasses.dataclass(frozen=True, slots=True)
class CocoResult:
    """One model's or result file's numbers. `metrics` are COCO's twelve, 0..1, None where there is nothing to measure.

    `categories_found` of the annotation file's `categories` are classes of the model. `images_per_second` counts inference
    and post-processing alone; it and `input` are None for a result file.
    """

    model: str
    kind: str
    metrics: dict[str, float | None]
    images: int
    detections: int
    categories: int
    categories_found: int
    input: str | None
    suppression: str | None
    images_per_second: float | None
    per_category: tuple[CategoryResult, ...] = dataclasses.field(repr=False)


def evaluate_coco(
    models: Sequence[str | os.PathLike[str]], annotations: str | os.PathLike[str], images: str | os.PathLike[str] | None = None,
    *, settings: PostProcess | None = None, labels: Sequence[str] | None = None, tflite_input: str | None = None,
    threads: int | None = None, batch_size: int = 8, limit: int | None = None, max_bad: int = 0,
    results_folder: str | os.PathLike[str] | None = None, progress: bool = False,
) -> list[CocoResult]:  # fmt: skip
    """Evaluate `models`: what `open_detector` opens, and COCO result files (.json), which need no `images` folder.

    `limit` evaluates that many photos, spread evenly over the file; more than `max_bad` damaged ones are a ValueError, fewer
    are left out for all. `results_folder` gets each detector's results as a COCO result file.
    """
    if isinstance(models, str | os.PathLike) or not models:
        raise ValueError(f"`models` must be a list of one or more. Received: models={models!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be 1 or more. Received: limit={limit}")
    given = {str(model): read_results(model) for model in models if str(model).endswith(".json")}
    detectors = {
        str(model): open_detector(
            model, settings=settings, labels=labels if str(model).endswith(".tflite") else None, tflite_input=tflite_input,
            threads=threads, batch_size=batch_size,
        )
        for model in models
        if str(model) not in given
    }  # fmt: skip
    dataset = _photos(annotations, images, limit, max_bad, progress) if detectors or images is not None else None
    truth = dataset.truth if dataset is not None else read_truth(annotations)
    chosen = dataset.image_ids if dataset is not None else _spread(list(truth.images), limit)
    found = []
    for model in map(str, models):
        if model in given:
            score = coco_score(truth, given[model], image_ids=chosen)
            known = len({row["category_id"] for row in given[model]})
            found.append(_result(model, score, len(truth.categories), known, kind="results"))
        elif dataset is not None:
            detector = detectors[model]
            ids = category_map(detector.labels, detector.category_ids, truth, model)
            detector.run(np.zeros((1, detector.size, detector.size, 3), np.float32))
            results, seconds = results_on(
                detector.run, dataset, truth, ids, size=detector.size, batch_size=batch_size, name=model, progress=progress
            )
            if results_folder is not None:
                write_json(Path(results_folder) / f"{_file_name(model)}.json", results)
            score, known = coco_score(truth, results, image_ids=chosen), len(set(ids) - {None})
            speed = round(dataset.count / seconds, 2)
            found.append(
                _result(model, score, len(truth.categories), known, kind=detector.kind, detector=detector, speed=speed)
            )
    return found


def _result(
    model: str, score: Score, categories: int, known: int, *, kind: str, detector: Detector | None = None,
    speed: float | None = None,
) -> CocoResult:  # fmt: skip
    return CocoResult(
        model=model,
        kind=kind,
        metrics=score.metrics,
        images=score.images,
        detections=score.detections,
        categories=categories,
        categories_found=known,
        input=None if detector is None else detector.input,
        suppression=None if detector is None else detector.suppression,
        images_per_second=speed,
        per_category=score.per_category,
    )


def _photos(
    annotations: str | os.PathLike[str], images: str | os.PathLike[str] | None, limit: int | None, max_bad: int, progress: bool
) -> CocoDataset:
    if images is None:
        raise ValueError("Detectors need the folder of the photos. Received: no images (--images)")
    dataset = open_dataset(annotations, images)
    return dataset.subset(_spread(range(dataset.count), limit)).checked(max_bad, progress=progress)


def _spread(items: Sequence[int], limit: int | None) -> list[int]:
    """`limit` of the items, spread evenly; all where there are no more."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[int(place)] for place in np.linspace(0, len(items) - 1, limit).round()]


def _file_name(model: str) -> str:
    return re.sub(r"[^\w.-]+", "_", model).strip("_.")
