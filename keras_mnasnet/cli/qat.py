"""`mnasnet qat`: quantization-aware training, or pruning, and the file that comes of it."""

from __future__ import annotations

import argparse
from typing import Any

from keras_mnasnet.benchmarks.speed import LatencyReport
from keras_mnasnet.benchmarks.speed import latency as measured_latency
from keras_mnasnet.cli.export import named_origin, print_report
from keras_mnasnet.cli.labels import read_labels
from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.export.qat import TrainingReport, prune, train_quantized
from keras_mnasnet.weights.load import load_named

__all__ = ["qat"]


def qat(arguments: argparse.Namespace) -> None:
    """Train, write the file and its report, and print what was measured."""
    if not arguments.output.endswith(".tflite"):
        raise ValueError(f"`--output` must end in .tflite. Received: {arguments.output}")
    if arguments.prune is not None and arguments.input_dtype != "float32":
        raise ValueError(f"`--prune` writes a float32 file. Received: --input-dtype {arguments.input_dtype}")
    checkpoint, record = load_named(arguments.model)
    options: dict[str, Any] = {
        "epochs": arguments.epochs, "batch_size": arguments.batch_size, "seed": arguments.seed,
        "resolution": arguments.resolution, "labels": read_labels(arguments.labels), "max_bad": arguments.max_bad,
        "origin": named_origin(arguments.model, checkpoint, record), "steps_per_epoch": arguments.steps_per_epoch,
        "progress": not arguments.json,
    }  # fmt: skip
    if arguments.learning_rate is not None:
        options["learning_rate"] = arguments.learning_rate
    if arguments.prune is None:
        report = train_quantized(checkpoint, arguments.data, arguments.output, input_dtype=arguments.input_dtype, **options)
        latency = None
    else:
        report = prune(checkpoint, arguments.data, arguments.output, sparsity=arguments.prune, **options)
        latency = measured_latency([str(report.dense_path), arguments.output], progress=not arguments.json)
    if arguments.json:
        return print_json({**report.as_json(), "latency": latency.to_json() if latency else None})
    return _print(report, latency)


def _print(report: TrainingReport, latency: LatencyReport | None) -> None:
    print_report(report.export)
    print_table(
        ("epoch", "loss", "accuracy", "validation accuracy"),
        ((int(row["epoch"]), *(round(row[key], 4) for key in ("loss", "accuracy", "val_accuracy"))) for row in report.epochs),
    )
    print(
        f"validation accuracy: float {report.float_accuracy:.4f}, before training {report.start_accuracy:.4f}, after "
        f"{report.epochs[-1]['val_accuracy']:.4f}; {report.seconds:.0f} s"
    )
    if latency is not None:
        dense, sparse = latency.results
        print(
            f"zeros in the 1x1 kernels of the stages: {report.sparsity:.1%}; {report.export.facts.bytes:,} bytes, dense "
            f"{report.dense_bytes:,}; after zlib {report.compressed_bytes:,}, dense {report.dense_compressed_bytes:,}"
        )
        print(
            f"latency on this machine, one thread: {sparse.wall.median_ms:.3f} ms, dense {dense.wall.median_ms:.3f} ms; ratio "
            f"of {latency.ratio_of} {sparse.ratio.value:.3f}"
        )
