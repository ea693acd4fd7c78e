"""COCO's twelve numbers, by pycocotools (extra `[detection]`), of detectors and of result files: `evaluate`."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from keras_mnasnet.data.summary import Summary
from keras_mnasnet.detection.annotations import Result, check_ids, judged_split, read_results, read_truth
from keras_mnasnet.detection.data import CocoDataset, evaluation_batches, open_dataset
from keras_mnasnet.detection.inference import Detector, open_detector
from keras_mnasnet.detection.postprocess import Detections, PostProcess
from keras_mnasnet.detection.recipe import DEFAULT_SIZE
from keras_mnasnet.detection.spec import pixels_text
from keras_mnasnet.detection.summary import COCO_MOST, PAST_COCO, summary_of_one, summary_of_truth
from keras_mnasnet.detection.truth import Id, Truth
from keras_mnasnet.utils.files import write_file
from keras_mnasnet.utils.reading import is_tflite
from keras_mnasnet.utils.text import Life, header

T = TypeVar("T")
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclasses.dataclass(frozen=True, slots=True)
class CategoryResult:
    """AP and AP50 of one category, None where the ground truth has no box of it."""

    category_id: Id
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


@dataclasses.dataclass(frozen=True, slots=True)
class CocoResult:
    """One model's or result file's numbers. `metrics` are COCO's twelve, 0..1, None where there is nothing to measure.

    `categories_found` of the annotation file's `categories` are classes of the model. `images_per_second` counts inference
    and post-processing alone; it and `input` are None for a result file. `data` is what was read.
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
    data: Summary = dataclasses.field(repr=False)


def require_pycocotools(else_: str = "") -> tuple[Any, Any]:
    """pycocotools' COCO and COCOeval; ImportError that says how to get them, or what to do `else_`."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError(
            f"COCO's numbers need pycocotools, which is not installed. Run: pip install 'keras_mnasnet[detection]'{else_}"
        ) from error
    return COCO, COCOeval


def evaluator() -> str:
    """What computes the numbers, as reports say it."""
    return (
        f"pycocotools {metadata.version('pycocotools')}, bounding boxes, its defaults: IoU 0.50:0.95, at most 100 detections "
        f"of a photo"
    )


def past_coco(data: Summary) -> str | None:
    """What to say where photos hold more boxes than COCO's numbers count detections."""
    photos = data.facts.get(PAST_COCO)
    if not photos:
        return None
    return f"{photos:,} photos hold more than {COCO_MOST} boxes: COCO counts the best {COCO_MOST} detections of a photo alone"


def evaluate(
    models: Any, annotations: str | os.PathLike[str], photos: str | os.PathLike[str] | None = None, *,
    split: str | None = None, crowd_as_objects: bool = False, score: float = 1e-8, iou: float = 0.6,
    max_detections: int = 100, labels: Sequence[str] | None = None, file_input: str | None = None,
    threads: int | None = None, batch_size: int = 8, limit: int | None = None, max_bad: int = 0,
    results: str | os.PathLike[str] | None = None, progress: bool = False,
) -> list[CocoResult]:  # fmt: skip
    """COCO's twelve numbers of detectors and of result files, on the same photos.

    Args:
        models: one, or a list: anything that `load` takes, `.tflite` files, and COCO result files (.json).
        annotations: a COCO file (instances .json), a folder of VOC's .xml files, or YOLO's data.yaml or folder of labels.
        photos: the folder of its photos; result files need none, nor do annotations that say where they are.
        split: train, validation or test of annotations that have several; default: validation, else test.
        crowd_as_objects: take regions that are marked as crowds, and VOC's difficult objects, as objects like the others.
        score, iou, max_detections: which boxes of a photo count, as in `predict`.
        labels, file_input, threads: for `.tflite` files, as `open_detector` says.
        batch_size: photos at a time.
        limit: only so many photos, spread evenly over the file.
        max_bad: damaged and missing photos to leave out, for all models, before giving up.
        results: a folder that gets the detections of each detector as a COCO result file.

    Returns:
        One CocoResult for each model, in their order.

    Raises ValueError for models without classes of the annotations, OSError for missing files, ImportError without pycocotools.

    Example:
        >>> import json, pathlib
        >>> from keras_mnasnet.detection import evaluate
        >>> row = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 30, 20]}
        >>> truth = {"images": [{"id": 7, "file_name": "7.jpg", "width": 64, "height": 64}], "annotations": [row],
        ...          "categories": [{"id": 1, "name": "ship"}]}
        >>> for name, value in (("truth", truth), ("found", [{**row, "score": 0.9}])):
        ...     _ = pathlib.Path(f"{name}.json").write_text(json.dumps(value))
        >>> round(evaluate("found.json", "truth.json")[0].metrics["AP"], 3)
        1.0
    """
    given = list(models) if isinstance(models, list | tuple) else [models]
    if not given:
        raise ValueError(f"`models` must be one or more. Received: models={models!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be 1 or more. Received: limit={limit}")
    require_pycocotools()
    settings = PostProcess(score, iou, max_detections, max_detections)
    opened: list[Detector | list[Result]] = []
    for model in given:
        text = os.fspath(model) if isinstance(model, str | os.PathLike) else ""
        opened.append(
            read_results(text)
            if text.endswith(".json")
            else open_detector(
                model, settings=settings, labels=labels if is_tflite(text) else None, file_input=file_input,
                threads=threads, batch_size=batch_size,
            )
        )  # fmt: skip
    names = [each.name if isinstance(each, Detector) else str(model) for each, model in zip(opened, given, strict=True)]
    needed = any(isinstance(each, Detector) for each in opened)
    options: dict[str, Any] = {"split": split or judged_split(annotations), "crowd_as_objects": crowd_as_objects}
    dataset = None
    if needed or photos is not None:
        dataset = open_dataset(annotations, photos, max_bad=max_bad, **options)
        dataset = dataset.subset(_spread(range(dataset.count), limit)).checked(max_bad, progress=progress)
    truth = dataset.truth if dataset is not None else read_truth(annotations, photos, **options)
    chosen = dataset.image_ids if dataset is not None else _spread(list(truth.images), limit)
    summary = summary_of_truth(truth)
    if dataset is not None:
        first = next((each for each in opened if isinstance(each, Detector)), None)
        size, spec = ((DEFAULT_SIZE, DEFAULT_SIZE), None) if first is None else (first.size, first.spec)
        summary = summary_of_one(annotations, dataset, size, spec=spec, split=options["split"])
    header(
        {
            **{f"model {number}": _line(name, each) for number, (name, each) in enumerate(zip(names, opened, strict=True), 1)},
            **summary.rows(),
            "photos": f"{len(chosen):,}",
            "evaluator": evaluator(),
            "more boxes": past_coco(summary),
            "results": results,
        },
        shown=progress,
    )
    found = []
    for name, each in zip(names, opened, strict=True):
        if not isinstance(each, Detector):
            known = len({row["category_id"] for row in each})
            found.append(_result(name, coco_score(truth, each, image_ids=chosen), summary, known))
        elif dataset is not None:
            ids = category_map(each.labels, each.category_ids, truth, name)
            each.run(np.zeros((1, *each.size, 3), np.float32))
            rows, seconds = results_on(
                each.run, dataset, truth, ids, size=each.size, batch_size=batch_size, name=name, shown=progress
            )
            if results is not None:
                plain = re.sub(r"[^\w.-]+", "_", name).strip("_.")
                write_file(Path(results).expanduser() / f"{plain}.json", json.dumps(rows) + "\n")
            measured, known = coco_score(truth, rows, image_ids=chosen), len(set(ids) - {None})
            found.append(_result(name, measured, summary, known, each, round(dataset.count / seconds, 2)))
    return found


def _line(name: str, model: Detector | list[Result]) -> str:
    """A model in the header."""
    if not isinstance(model, Detector):
        return f"{name}, {len(model):,} detections"
    return f"{name}, {model.kind}, {pixels_text(model.size)}, {len(model.labels)} classes; boxes: {model.suppression}"


def _result(
    name: str, score: Score, data: Summary, known: int, detector: Detector | None = None, speed: float | None = None
) -> CocoResult:
    return CocoResult(
        model=name,
        kind="results" if detector is None else detector.kind,
        metrics=score.metrics,
        images=score.images,
        detections=score.detections,
        categories=len(data.classes),
        categories_found=known,
        input=None if detector is None else detector.input,
        suppression=None if detector is None else detector.suppression,
        images_per_second=speed,
        per_category=score.per_category,
        data=data,
    )


def _spread(items: Sequence[T], limit: int | None) -> list[T]:
    """`limit` of the items, spread evenly; all where there are no more."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[int(place)] for place in np.linspace(0, len(items) - 1, limit).round()]


def category_map(labels: Sequence[str], category_ids: Sequence[Id] | None, truth: Truth, name: str) -> list[Id | None]:
    """The category id in the annotation file of each of a detector's classes; None where the file does not have it.

    A class is the category of its own id if that has its name, else the one of its name. ValueError where none is found.
    """
    by_name = {name: identity for identity, name in truth.categories.items()}
    ids = category_ids if category_ids is not None else range(1, len(labels) + 1)
    found = [
        identity if truth.categories.get(identity) == label else by_name.get(label)
        for label, identity in zip(labels, ids, strict=True)
    ]
    if not any(identity is not None for identity in found):
        shown = [", ".join(list(names)[:4]) for names in (labels, truth.categories.values())]
        raise ValueError(
            f"A detector must have classes of the annotation file, by name. Received: {name} with {shown[0]}, ... and "
            f"{truth.name} with {shown[1]}, ..."
        )
    return found


def results_on(
    run: Callable[[np.ndarray], list[Detections]], dataset: CocoDataset, truth: Truth, category_ids: Sequence[Id | None], *,
    size: tuple[int, int], batch_size: int = 8, name: str = "detector", shown: bool = False,
) -> tuple[list[Result], float]:  # fmt: skip
    """COCO results of a detector on every photo of `dataset`, and the seconds that it took, without reading photos.

    Photos that cannot be decoded must have been left out: `dataset.checked()`.
    """
    results: list[Result] = []
    seconds, done = 0.0, 0
    with Life(name, total=dataset.count, unit="photo", shown=shown) as life:
        for pixels, _ in evaluation_batches(dataset, size=size, batch_size=batch_size).as_numpy_iterator():
            started = time.perf_counter()
            found = run(pixels)
            seconds += time.perf_counter() - started
            for detections in found:
                results += results_of(detections, truth.images[dataset.image_ids[done]], category_ids)
                done += 1
            life.step(len(found), f"{done / seconds:.2g} photos/s" if seconds else None)
    return results, seconds


def results_of(detections: Detections, image: Mapping[str, Any], category_ids: Sequence[Id | None]) -> list[Result]:
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
            found.append({"image_id": image["id"], "category_id": identity, "bbox": box, "score": float(score)})
    return found


def coco_score(truth: Truth, results: Sequence[Result], *, image_ids: Sequence[Id] | None = None) -> Score:
    """pycocotools' bounding-box evaluation with its defaults, over all images or only `image_ids`.

    ValueError for results of images or categories that the ground truth does not have.
    """
    COCO, COCOeval = require_pycocotools()
    results = check_ids(results, truth, "The results")
    chosen = sorted(truth.images if image_ids is None else image_ids, key=_order)
    images = {identity: number for number, identity in enumerate(sorted(truth.images, key=_order), 1)}
    categories = {identity: number for number, identity in enumerate(sorted(truth.categories, key=_order), 1)}

    def numbered(row: Mapping[str, Any]) -> dict[str, Any]:
        return {**row, "image_id": images[row["image_id"]], "category_id": categories[row["category_id"]]}

    frame = {
        "images": [{"id": number} for number in images.values()],
        "categories": [{"id": number} for number in categories.values()],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        wanted, found = COCO(), COCO()
        wanted.dataset = {**frame, "annotations": [numbered(each) for each in truth.annotations]}
        found.dataset = {**frame, "annotations": [_detection(number, numbered(row)) for number, row in enumerate(results, 1)]}
        wanted.createIndex()
        found.createIndex()
        evaluation = COCOeval(wanted, found, "bbox")
        evaluation.params.imgIds = [images[identity] for identity in chosen]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = [_known(value) for value in evaluation.stats]
    kept = set(chosen)
    return Score(
        metrics=dict(zip(METRICS, values, strict=True)),
        images=len(chosen),
        detections=sum(row["image_id"] in kept for row in results),
        per_category=tuple(_categories(truth, list(categories), evaluation, kept)),
    )


def _order(identity: Id) -> tuple[bool, Id]:
    """Numbers before texts: pycocotools takes numbers alone, so that ids are numbered in this order."""
    return isinstance(identity, str), identity


def _detection(number: int, row: Result) -> dict[str, Any]:
    """As pycocotools' loadRes, which refuses an empty list, makes it."""
    return {**row, "id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}


def _categories(truth: Truth, ids: Sequence[Id], evaluation: Any, images: set[Id]) -> list[CategoryResult]:
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
        for index, identity in enumerate(ids)
    ]


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _known(value: float) -> float | None:
    return None if value < 0 else float(value)
