"""`mnasnet detect eval`: COCO's twelve numbers of detectors and of result files."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from keras_mnasnet.benchmarks.results import SCHEMA, write_json
from keras_mnasnet.cli.labels import read_labels
from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.detection.evaluation import METRICS, CocoResult, evaluator
from keras_mnasnet.detection.evaluation import evaluate as evaluate_models
from keras_mnasnet.utils.files import check_writable
from keras_mnasnet.utils.system import environment

__all__ = ["evaluate", "rounded"]

SETTINGS = (
    "score_threshold", "iou_threshold", "max_detections", "batch_size", "tflite_input", "threads", "limit", "max_bad",
)  # fmt: skip


def evaluate(arguments: argparse.Namespace) -> None:
    """Print the twelve numbers of every model."""
    if arguments.output:
        check_writable(arguments.output)
    results = evaluate_models(
        arguments.models,
        arguments.annotations,
        arguments.images,
        score=arguments.score_threshold,
        iou=arguments.iou_threshold,
        max_detections=arguments.max_detections,
        labels=read_labels(arguments.labels),
        tflite_input=arguments.tflite_input,
        threads=arguments.threads,
        batch_size=arguments.batch_size,
        limit=arguments.limit,
        max_bad=arguments.max_bad,
        results=arguments.write_results,
        progress=not arguments.json,
    )
    facts = environment()
    report = {
        "schema": SCHEMA,
        "benchmark": "coco",
        "environment": facts,
        "evaluator": evaluator(),
        "data": {"annotations": arguments.annotations, "images": results[0].images},
        "settings": {key: getattr(arguments, key) for key in SETTINGS},
        "results": [dataclasses.asdict(result) for result in results],
    }
    if arguments.output:
        write_json(arguments.output, report)
    if arguments.json:
        return print_json(report)
    print(f"{arguments.annotations}: {results[0].images:,} photos, {results[0].categories:,} categories\n")
    _print_results(results)
    if arguments.per_category:
        _print_categories(results)
    print(f"\nevaluator: {evaluator()}")
    if arguments.output:
        print(f"wrote {arguments.output}")
    return None


def _print_results(results: Sequence[CocoResult]) -> None:
    print_table(
        ("model", *METRICS, "detections", "images/s"),
        (
            (
                result.model, *(rounded(result.metrics[name]) for name in METRICS), result.detections,
                result.images_per_second,
            )
            for result in results
        ),
    )  # fmt: skip
    print()
    for result in results:
        if result.input is None:
            print(f"{result.model}: a result file")
            continue
        print(f"{result.model}: input {result.input}; boxes selected: {result.suppression}")
        if result.categories_found < result.categories:
            print(f"  knows {result.categories_found:,} of {result.categories:,} categories; the others count as not found")


def _print_categories(results: Sequence[CocoResult]) -> None:
    header = ["category", "boxes"]
    for result in results:
        header += [f"{result.model} AP", "AP50"]
    rows = []
    for parts in zip(*(result.per_category for result in results), strict=True):
        if parts[0].boxes:
            numbers = [rounded(value) for part in parts for value in (part.ap, part.ap50)]
            rows.append([parts[0].name, parts[0].boxes, *numbers])
    print()
    print_table(header, rows)


def rounded(value: float | None) -> float | None:
    """To six digits."""
    return None if value is None else round(value, 6)
