"""`mnasnet bench`: the paper's measurements as commands."""

from __future__ import annotations

import argparse
from typing import Any

from keras_mnasnet.benchmarks.accuracy import TIE_RULE, TIMING, AccuracyResult, evaluate
from keras_mnasnet.benchmarks.accuracy import report as accuracy_report
from keras_mnasnet.benchmarks.results import check_output, write_json
from keras_mnasnet.cli.output import print_json, print_table

__all__ = ["imagenet"]

SETTINGS = (
    "batch_size", "resolution", "preprocessing", "tflite_input", "labels_offset", "threads", "limit", "max_bad",
)  # fmt: skip


def imagenet(arguments: argparse.Namespace) -> None:
    """Print top-1 and top-5 of every model on labelled photos."""
    if arguments.output:
        check_output(arguments.output)
    settings = {key: getattr(arguments, key) for key in SETTINGS}
    results = evaluate(
        arguments.models,
        arguments.data,
        split=arguments.split,
        ground_truth=arguments.ground_truth,
        synsets=arguments.synsets,
        size=settings.pop("resolution"),
        **settings,
        progress=not arguments.json,
    )
    report = accuracy_report(results, **settings, size=arguments.resolution)
    if arguments.output:
        write_json(arguments.output, report)
    if arguments.json:
        return print_json(report)
    data = report["data"]
    part = f", {data['split']} split" if data["split"] else ""
    present = len({one.label for result in results for one in result.per_class})
    print(f"{data['name']}{part}: {data['images']:,} photos of {present:,} of {data['classes']:,} classes\n")
    _print_results(results)
    if arguments.per_class:
        _print_classes(results)
    print(f"\nranking: {TIE_RULE}")
    print(TIMING)
    if arguments.output:
        print(f"wrote {arguments.output}")
    return None


def _print_results(results: list[AccuracyResult]) -> None:
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


def _print_classes(results: list[AccuracyResult]) -> None:
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
