"""`mnasnet bench`: the paper's measurements as commands."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from keras_mnasnet.benchmarks.classifiers import open_classifier
from keras_mnasnet.benchmarks.imagenet import Result, evaluate, evaluation_split, open_evaluation
from keras_mnasnet.benchmarks.results import SCHEMA, check_output, write_json
from keras_mnasnet.benchmarks.scoring import TIE_RULE
from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.data import numbering
from keras_mnasnet.utils.system import environment, held_stderr

__all__ = ["imagenet"]

SETTINGS = (
    "batch_size", "resolution", "preprocessing", "tflite_input", "labels_offset", "threads", "limit", "max_bad",
)  # fmt: skip
TIMING = "images/s: inference alone, from input tensor to scores, while the next photos are decoded"


def imagenet(arguments: argparse.Namespace) -> None:
    """Print top-1 and top-5 of every model on labelled photos."""
    if arguments.output:
        check_output(arguments.output)
    with held_stderr():
        classifiers = [
            open_classifier(
                model,
                resolution=arguments.resolution,
                preprocessing=arguments.preprocessing,
                tflite_input=arguments.tflite_input,
                threads=arguments.threads,
            )
            for model in arguments.models
        ]
    split = arguments.split or evaluation_split(arguments.data)
    images = open_evaluation(
        arguments.data,
        split=split,
        ground_truth=arguments.ground_truth,
        synsets=arguments.synsets,
        limit=arguments.limit,
        classes=numbering([classifier.outputs for classifier in classifiers]),
    )
    results = evaluate(
        classifiers,
        images,
        batch_size=arguments.batch_size,
        labels_offset=arguments.labels_offset,
        max_bad=arguments.max_bad,
        progress=not arguments.json and sys.stderr.isatty(),
    )
    report = {
        "schema": SCHEMA,
        "benchmark": "imagenet",
        "environment": environment(),
        "data": {"name": images.name, "split": split, "images": images.count, "classes": len(images.labels)},
        "settings": {key: getattr(arguments, key) for key in SETTINGS},
        "ranking": TIE_RULE,
        "timing": TIMING,
        "results": [dataclasses.asdict(result) for result in results],
    }
    if arguments.output:
        write_json(arguments.output, report)
    if arguments.json:
        return print_json(report)
    part = f", {split} split" if split else ""
    present = len({one.label for result in results for one in result.per_class})
    print(f"{images.name}{part}: {images.count:,} photos of {present:,} of {len(images.labels):,} classes\n")
    _print_results(results)
    if arguments.per_class:
        _print_classes(results)
    print(f"\nranking: {TIE_RULE}")
    print(TIMING)
    if arguments.output:
        print(f"wrote {arguments.output}")
    return None


def _print_results(results: list[Result]) -> None:
    print_table(
        ("model", "top-1 %", "top-5 %", "correct", "in top 5", "of", "images/s", "record's top-1", "top-5"),
        (
            (
                result.model,
                _percent(result.top1),
                _percent(result.top5),
                result.correct1,
                result.correct5,
                result.images,
                round(result.images_per_second, 1),
                result.published_top1,
                result.published_top5,
            )
            for result in results
        ),
    )
    print()
    for result in results:
        print(f"{result.model}: {result.preprocessing_text}; input {result.input}")
        if result.published_top1 is not None:
            top5 = "" if result.published_top5 is None else f", top-5 {result.published_top5:g}"
            origin = result.published_at if result.bundled else f"published at {result.published_at}"
            print(f"  top-1 {100 * result.top1:.2f} %; its record says {result.published_top1:g}{top5}, {origin}")
        if result.background:
            print("  has a background output beside the data's classes")
    if bad := results[0].bad:
        print(f"damaged and left out, {len(bad):,}: {', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''}")


def _print_classes(results: list[Result]) -> None:
    header: list[str] = ["class", "photos"]
    for result in results:
        header += [f"{result.model} correct", "in top 5"]
    rows: list[list[Any]] = []
    for classes in zip(*(result.per_class for result in results), strict=True):
        rows.append([classes[0].label, classes[0].images])
        for counted in classes:
            rows[-1] += [counted.correct1, counted.correct5]
    print()
    print_table(header, rows)


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100 * fraction, 2)
