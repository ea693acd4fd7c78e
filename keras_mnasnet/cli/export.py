"""`mnasnet export`: a checkpoint or a Keras model -> a verified `.tflite`; without TensorFlow where the direct writer does."""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.cli.info import network
from keras_mnasnet.cli.labels import read_labels
from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.export.calibration import PIXELS, as_functional, input_kind
from keras_mnasnet.export.file import input_of
from keras_mnasnet.export.report import ExportReport, Origin
from keras_mnasnet.export.tflite import DIRECT, export_checkpoint, export_tflite
from keras_mnasnet.family import as_architecture
from keras_mnasnet.preprocessing import NORMALIZATIONS, Preprocessing
from keras_mnasnet.utils.system import held_stderr
from keras_mnasnet.weights import Checkpoint, registry
from keras_mnasnet.weights.load import check_fits, load_named, preprocessing_of

__all__ = ["export", "named_origin", "print_comparisons", "print_outline", "print_report"]

KERAS_MODEL = ".keras"


def export(arguments: argparse.Namespace) -> None:
    """Write the file and its report, and print what was measured."""
    if arguments.weights.lower() == "none":
        raise ValueError(
            "An export needs trained weights. Received: --weights none. `mnasnet bench latency a1` times random weights."
        )
    if not arguments.output.endswith(".tflite"):
        raise ValueError(f"`--output` must end in .tflite. Received: {arguments.output}")
    for option in ("calibration_images", "verification_images"):
        if getattr(arguments, option) < 1:
            name = f"--{option.replace('_', '-')}"
            raise ValueError(f"`{name}` must be an integer >= 1. Received: {name} {getattr(arguments, option)}")
    quantize = None if arguments.quantize == "float32" else arguments.quantize
    if quantize == "int8" and arguments.calibrate is None:
        raise ValueError(
            "--quantize int8 needs --calibrate DATA, a folder of photos like those the model will see. Received: none. "
            "--quantize weight-int8 needs none."
        )
    report = _export(arguments, quantize)
    if arguments.json:
        return print_json(report.as_json())
    return print_report(report)


def _export(arguments: argparse.Namespace, quantize: str | None) -> ExportReport:
    labels = read_labels(arguments.labels)
    progress = not arguments.json and sys.stderr.isatty()
    if arguments.input is not None and not arguments.weights.endswith(KERAS_MODEL):
        raise ValueError(
            f"`--input` is for .keras files; the networks of checkpoints take pixels 0..255. "
            f"Received: --input {arguments.input} with --weights {arguments.weights}"
        )
    if arguments.weights.endswith(KERAS_MODEL):
        return _export_keras_file(arguments, quantize, labels, progress)
    checkpoint, record = _checkpoint(arguments)
    origin = named_origin(arguments.weights, checkpoint, record)
    size = (checkpoint.resolution or 224) if arguments.resolution is None else arguments.resolution
    preprocessing = (
        registry.preprocessing_of(record.source, size, record) if record is not None else preprocessing_of(checkpoint, size)
    )
    options: dict[str, Any] = {
        "labels": labels or checkpoint.labels, "batch": arguments.batch, "origin": origin, "preprocessing": preprocessing,
    }  # fmt: skip
    if quantize in DIRECT and arguments.images is None and arguments.input_dtype == "float32":
        return export_checkpoint(checkpoint, arguments.output, quantize=quantize, resolution=size, progress=progress, **options)
    with held_stderr():
        from keras_mnasnet.applications import MnasNet

    model = MnasNet(checkpoint.architecture, weights=checkpoint, input_shape=(size, size, 3))
    return export_tflite(
        model, arguments.output, quantize=quantize, representative_data=_photos(arguments, "calibrate", preprocessing),
        images=_photos(arguments, "images", preprocessing), input_dtype=arguments.input_dtype,
        calibration_count=arguments.calibration_images, seed=arguments.seed, progress=progress, **options,
    )  # fmt: skip


def named_origin(weights: str, checkpoint: Checkpoint, record: registry.Record | None) -> Origin:
    """What a file says about the weights of that name."""
    if record is None:
        return Origin(f"{weights} ({checkpoint.source})")
    return Origin(f"{record.id} ({record.url})" if record.url else record.id, record.licence)


def _checkpoint(arguments: argparse.Namespace) -> tuple[Checkpoint, registry.Record | None]:
    name = as_architecture(arguments.model).name if arguments.model else "a1"
    checkpoint, record = load_named(
        arguments.weights,
        network=name,
        width=arguments.width,
        size=224 if arguments.resolution is None else arguments.resolution,
    )
    asked = (arguments.depth, arguments.se, arguments.stem_stride)
    if arguments.model and (arguments.weights not in registry.datasets() or any(value is not None for value in asked)):
        check_fits(checkpoint, arguments.weights, [(network(arguments), True)])
    return checkpoint, record


def _export_keras_file(
    arguments: argparse.Namespace, quantize: str | None, labels: list[str] | None, progress: bool
) -> ExportReport:
    """A `.keras` file: any functional or Sequential model with one image input; photos are resized as timm does."""
    path = Path(arguments.weights).expanduser()
    model = as_functional(_load_keras(path))
    how = _input(arguments, path, input_kind(model))
    size = arguments.resolution if arguments.resolution is not None else model.inputs[0].shape[1]
    preprocessing = registry.preprocessing_of("timm", size) if isinstance(size, int) else None
    return export_tflite(
        model, arguments.output, quantize=quantize, representative_data=_photos(arguments, "calibrate", preprocessing, how),
        images=_photos(arguments, "images", preprocessing, how), input_dtype=arguments.input_dtype, labels=labels,
        batch=arguments.batch, resolution=arguments.resolution, origin=Origin(str(path.name)),
        normalization=NORMALIZATIONS[how] if how else None, calibration_count=arguments.calibration_images,
        seed=arguments.seed, progress=progress,
    )  # fmt: skip


def _load_keras(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"A .keras file must exist. Received: {path}, which does not")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"A .keras file must be a model as model.save() writes it, a zip archive. Received: {path} "
            f"({path.stat().st_size:,} bytes), which is something else or cut short"
        )
    with held_stderr():
        import keras
    try:
        return keras.saving.load_model(path, compile=False)
    except (KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"A .keras file must be a whole model of Keras's and this package's layers. Received: {path} "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0][:300]})"
        ) from error


def _input(arguments: argparse.Namespace, path: Path, kind: str | None) -> str | None:
    """`--input`, which must not contradict the model; `pixels` where the model normalises; None where nothing needs it."""
    if kind == PIXELS and arguments.input not in (None, "pixels"):
        raise ValueError(
            f"`--input` must be pixels for a model that normalises them itself. Received: --input {arguments.input} for {path}"
        )
    if kind == PIXELS or arguments.input is not None:
        return arguments.input or "pixels"
    if arguments.calibrate is not None or arguments.images is not None:
        raise ValueError(
            f"`--input` must say how the model takes photos, one of {', '.join(NORMALIZATIONS)}. Received: none, and {path}, "
            f"in which no layer normalises pixels 0..255"
        )
    return None


def _photos(
    arguments: argparse.Namespace, option: str, preprocessing: Preprocessing | None, how: str | None = "pixels"
) -> np.ndarray | None:
    """Photos of `--calibrate` or `--images`, preprocessed: a seeded choice, `[n, S, S, 3]`, as `how` of NORMALIZATIONS says."""
    data = getattr(arguments, option)
    if data is None:
        return None
    if preprocessing is None:
        raise ValueError(f"`--{option}` needs a fixed size. Received: a model whose size is free. Pass --resolution PIXELS")
    with held_stderr():
        from keras_mnasnet.data.sample import sample_photos

    count = arguments.calibration_images if option == "calibrate" else arguments.verification_images
    photos = sample_photos(data, preprocessing, count, seed=arguments.seed, max_bad=arguments.max_bad)
    return input_of(option, np.float32, (0.0, 0), how=how)(photos)


def print_report(report: ExportReport) -> None:
    """What the file is, and how it compares with the model."""
    print_outline(report, report.route)
    taken = report.partitions
    outside = ", ".join(f"{kind} {count}" for kind, count in taken.outside.items())
    whole = (
        "one partition, the whole graph" if taken.whole else f"{taken.delegates} partitions; outside: {outside or 'nothing'}"
    )
    print(f"XNNPACK  {whole}{f' ({report.outside_reason})' if report.outside_reason else ''}")
    print_comparisons(report)
    print(f"report: {report.path}.json")


def print_outline(report: Any, route: str) -> None:
    """What the file is: of an ExportReport or a DetectorReport."""
    facts = report.facts
    print(f"{report.path}  {facts.bytes:,} bytes, {report.quantize or 'float32'}, {route}, {report.seconds:.2f} s")
    ports = [*(("input", port) for port in facts.inputs), *(("output", port) for port in facts.outputs)]
    for kind, port in ports:
        scale = f", scale {port.scale:g}, zero point {port.zero_point}" if port.scale else ""
        print(f"{kind} {port.name} {list(port.shape)} {port.dtype}{scale}")
    print("operators  " + ", ".join(f"{kind} {count}" for kind, count in facts.operators.items()))
    print("types  " + ", ".join(f"{kind} {count}" for kind, count in facts.output_types.items()))


def print_comparisons(report: Any) -> None:
    """How it compares with the model, output by output."""
    if report.calibration:
        print(f"calibrated on {report.calibration.images} images, seed {report.calibration.seed}")
    if report.silent_layers:
        print(f"silent in calibration, constant in the file: {', '.join(report.silent_layers)}")
    print(f"verified against {report.verified_against} on {report.verified_on}:")
    print_table(
        ("output", "max difference", "mean difference", "max / largest", "cosine", "top-1 agreement"),
        (
            (
                each.output, f"{each.max_difference:.2e}", f"{each.mean_difference:.2e}", f"{each.max_relative:.2e}",
                round(each.cosine, 6), each.top1_agreement,
            )
            for each in report.comparisons
        ),
    )  # fmt: skip
