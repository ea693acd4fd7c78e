"""`mnasnet export` and `mnasnet qat`: a trained model -> a verified `.tflite`."""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mnasnet.cli.options import network_options, option, options, output, read_labels
from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.cli.parsing import Parser, one_of
from keras_mnasnet.utils.system import held_stderr

if TYPE_CHECKING:
    import numpy as np

    from keras_mnasnet.benchmarks import LatencyReport
    from keras_mnasnet.export.qat import TrainingReport
    from keras_mnasnet.export.report import ExportReport, Origin
    from keras_mnasnet.preprocessing import Preprocessing
    from keras_mnasnet.weights.checkpoint import Checkpoint

__all__ = ["add_commands", "file_options", "print_comparisons", "print_outline"]

KERAS_MODEL = ".keras"
PRECISIONS = ("float32", "float16", "weight-int8", "int8", "dynamic")
FILE = "a .tflite file, and its report beside it as FILE.tflite.json."


def add_commands(top: Parser) -> None:
    """`export` and `qat`."""
    command = top.add(
        "export", "Write a trained model as a .tflite file for phones, verified against the model.", export,
        usage="MODEL -o FILE.tflite [options]",
        example="mnasnet export cifar10 --quantize int8 --calibrate shapes:200@32 -o a1_int8.tflite",
        needs=("MODEL", "-o FILE.tflite"),
    )  # fmt: skip
    option(command, "MODEL", "Any .keras file with one image input is taken, too.")
    file_options(
        command, PRECISIONS, "int8 is the fastest, weight-int8 the smallest at float32's speed, and dynamic is slower."
    )
    model = command.add_argument_group("the model")
    option(model, "--size", "The default is the model's own.")
    option(model, "--labels", "The default is the model's own, if it has any.")
    option(model, "--batch-size", "The file takes exactly so many (default: %(default)s).", default=1)
    option(model, "--input", "It is for .keras files (default: 0..255 where the model normalizes them itself).")
    network_options(command, "which network (of `imagenet`, `cifar10`, and files that do not say it)")
    trained = top.add(
        "qat", "Fine-tune with quantization or pruning in the loop, and write the .tflite file. Needs the extra [qat].", qat,
        usage="MODEL --data DATA -o FILE.tflite [options]",
        example="mnasnet qat runs/flowers --data flowers -o flowers_qat.tflite",
        needs=("MODEL", "--data DATA", "-o FILE.tflite"),
    )  # fmt: skip
    option(trained, "MODEL")
    option(trained, "--data", "They must be of the model's classes.", required=True)
    output(trained, "FILE.tflite", FILE)
    option(trained, "--epochs", "The default is %(default)s.", default=3)
    trained.add_argument(
        "--steps-per-epoch", type=int, metavar="N", help="Take N steps an epoch at most (default: all photos)."
    )
    option(trained, "--batch-size", "That is a step (default: %(default)s).", default=64)
    option(trained, "--learning-rate", "A cosine starts there (default: 1e-4; with --prune 1e-3).")
    trained.add_argument(
        "--prune",
        type=float,
        metavar="SHARE",
        help="Prune instead, to this share of zeros in the 1x1 convolutions, 0 to 1; the file is float32.",
    )
    option(trained, "--input-dtype", default="float32")
    option(trained, "--size", "The default is the model's own.")
    option(trained, "--labels", "The default is the model's own, if it has any.")
    options(trained, "--seed", "--max-bad")
    trained.set_defaults(seed=0, max_bad=0)


def file_options(command: Parser, precisions: tuple[str, ...], more: str) -> None:
    """What every export can be told."""
    result = command.add_argument_group("the file")
    output(result, "FILE.tflite", FILE)
    result.add_argument(
        "--quantize", type=one_of(*precisions), default="float32", metavar="|".join(precisions),
        help=f"Write a file of this precision (default: %(default)s). {more}",
    )  # fmt: skip
    option(result, "--input-dtype", default="float32")
    photos = command.add_argument_group("photos")
    options(photos, "--calibrate", "--calibration-photos")
    option(photos, "--photos", "The file is verified on them (default: those of --calibrate, else drawn ones).")
    options(photos, "--verification-photos", "--seed", "--max-bad")
    command.set_defaults(seed=0, max_bad=0)


def export(arguments: argparse.Namespace) -> None:
    """Write the file and its report, and print what was measured."""
    if not arguments.output.endswith(".tflite"):
        raise ValueError(f"`-o` must end in .tflite. Received: {arguments.output}")
    for key in ("calibration_photos", "verification_photos"):
        if getattr(arguments, key) < 1:
            name = f"--{key.replace('_', '-')}"
            raise ValueError(f"`{name}` must be an integer >= 1. Received: {name} {getattr(arguments, key)}")
    quantize = None if arguments.quantize == "float32" else arguments.quantize
    if quantize == "int8" and arguments.calibrate is None:
        raise ValueError(
            "--quantize int8 needs --calibrate DATA, a folder of photos like those the model will see. Received: none. "
            "--quantize weight-int8 needs none."
        )
    report = _export(arguments, quantize)
    if arguments.json:
        return print_json(report.as_json())
    return _print_report(report)


def _export(arguments: argparse.Namespace, quantize: str | None) -> ExportReport:
    from keras_mnasnet.export.tflite import DIRECT, export_checkpoint, export_tflite

    labels = read_labels(arguments)
    progress = not arguments.json and sys.stderr.isatty()
    if arguments.input is not None and not arguments.model.endswith(KERAS_MODEL):
        raise ValueError(
            f"`--input` is for .keras files; the networks of checkpoints take pixels 0..255. "
            f"Received: --input {arguments.input} with {arguments.model}"
        )
    if arguments.model.endswith(KERAS_MODEL):
        return _export_keras_file(arguments, quantize, labels, progress)
    checkpoint = _checkpoint(arguments)
    origin = _named_origin(checkpoint)
    size = checkpoint.size if arguments.size is None else arguments.size
    preprocessing = checkpoint.preprocessing.at(size)
    options: dict[str, Any] = {
        "labels": labels or checkpoint.labels, "batch": arguments.batch_size, "origin": origin, "preprocessing": preprocessing,
    }  # fmt: skip
    if quantize in DIRECT and arguments.photos is None and arguments.input_dtype == "float32":
        return export_checkpoint(checkpoint, arguments.output, quantize=quantize, resolution=size, progress=progress, **options)
    with held_stderr():
        model = checkpoint.model(size=size)
    return export_tflite(
        model, arguments.output, quantize=quantize, representative_data=_photos(arguments, "calibrate", preprocessing),
        images=_photos(arguments, "photos", preprocessing), input_dtype=arguments.input_dtype,
        calibration_count=arguments.calibration_photos, seed=arguments.seed, progress=progress, **options,
    )  # fmt: skip


def _named_origin(checkpoint: Checkpoint) -> Origin:
    """What a file says about its weights."""
    from keras_mnasnet.export.report import Origin

    origin = checkpoint.origin
    text = f"{origin.name} ({origin.url or origin.source})" if origin.url or origin.record is None else origin.name
    return Origin(text, origin.license or "not stated")


def _checkpoint(arguments: argparse.Namespace) -> Checkpoint:
    from keras_mnasnet.loading import load

    asked = (arguments.width, arguments.depth, arguments.se, arguments.stem_stride)
    if arguments.network is None and all(value is None for value in asked):
        return load(arguments.model, size=arguments.size)
    from keras_mnasnet.applications import checkpoint_for
    from keras_mnasnet.family import as_architecture

    return checkpoint_for(
        as_architecture(arguments.network or "a1"), arguments.model, size=arguments.size, width_multiplier=arguments.width,
        depth_multiplier=arguments.depth, se=arguments.se, stem_stride=arguments.stem_stride,
    )  # fmt: skip


def _export_keras_file(
    arguments: argparse.Namespace, quantize: str | None, labels: list[str] | None, progress: bool
) -> ExportReport:
    """A `.keras` file: any functional or Sequential model with one image input; photos are resized as timm does."""
    from keras_mnasnet.export.calibration import as_functional, input_kind
    from keras_mnasnet.export.report import Origin
    from keras_mnasnet.export.tflite import export_tflite
    from keras_mnasnet.preprocessing import NORMALIZATIONS
    from keras_mnasnet.weights.registry import source_preprocessing

    path = Path(arguments.model).expanduser()
    model = as_functional(_load_keras(path))
    how = _input(arguments, path, input_kind(model))
    size = arguments.size if arguments.size is not None else model.inputs[0].shape[1]
    preprocessing = source_preprocessing("timm", size) if isinstance(size, int) else None
    return export_tflite(
        model, arguments.output, quantize=quantize, representative_data=_photos(arguments, "calibrate", preprocessing, how),
        images=_photos(arguments, "photos", preprocessing, how), input_dtype=arguments.input_dtype, labels=labels,
        batch=arguments.batch_size, resolution=arguments.size, origin=Origin(str(path.name)),
        normalization=NORMALIZATIONS[how] if how else None, calibration_count=arguments.calibration_photos,
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
    from keras_mnasnet.export.calibration import PIXELS
    from keras_mnasnet.preprocessing import NORMALIZATIONS

    if kind == PIXELS and arguments.input not in (None, "pixels"):
        raise ValueError(
            f"`--input` must be pixels for a model that normalises them itself. Received: --input {arguments.input} for {path}"
        )
    if kind == PIXELS or arguments.input is not None:
        return arguments.input or "pixels"
    if arguments.calibrate is not None or arguments.photos is not None:
        raise ValueError(
            f"`--input` must say how the model takes photos, one of {', '.join(NORMALIZATIONS)}. Received: none, and {path}, "
            f"in which no layer normalises pixels 0..255"
        )
    return None


def _photos(
    arguments: argparse.Namespace, option: str, preprocessing: Preprocessing | None, how: str | None = "pixels"
) -> np.ndarray | None:
    """Photos of `--calibrate` or `--images`, preprocessed: a seeded choice, `[n, S, S, 3]`, as `how` of NORMALIZATIONS says."""
    import numpy as np

    from keras_mnasnet.export.file import input_of

    data = getattr(arguments, option)
    if data is None:
        return None
    if preprocessing is None:
        raise ValueError(f"`--{option}` needs a fixed size. Received: a model whose size is free. Pass --size PIXELS")
    with held_stderr():
        from keras_mnasnet.data import sample_photos

    count = arguments.calibration_photos if option == "calibrate" else arguments.verification_photos
    photos = sample_photos(data, preprocessing, count, seed=arguments.seed, max_bad=arguments.max_bad)
    return input_of(option, np.float32, (0.0, 0), how=how)(photos)


def _print_report(report: ExportReport) -> None:
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


def qat(arguments: argparse.Namespace) -> None:
    """Train, write the file and its report, and print what was measured."""
    from keras_mnasnet.benchmarks import latency as measure
    from keras_mnasnet.export.qat import prune, train_quantized
    from keras_mnasnet.loading import load

    if not arguments.output.endswith(".tflite"):
        raise ValueError(f"`-o` must end in .tflite. Received: {arguments.output}")
    if arguments.prune is not None and arguments.input_dtype != "float32":
        raise ValueError(f"`--prune` writes a float32 file. Received: --input-dtype {arguments.input_dtype}")
    checkpoint = load(arguments.model)
    options: dict[str, Any] = {
        "epochs": arguments.epochs, "batch_size": arguments.batch_size, "seed": arguments.seed,
        "resolution": arguments.size, "labels": read_labels(arguments), "max_bad": arguments.max_bad,
        "origin": _named_origin(checkpoint), "steps_per_epoch": arguments.steps_per_epoch,
        "progress": not arguments.json,
    }  # fmt: skip
    if arguments.learning_rate is not None:
        options["learning_rate"] = arguments.learning_rate
    if arguments.prune is None:
        report = train_quantized(checkpoint, arguments.data, arguments.output, input_dtype=arguments.input_dtype, **options)
        latency = None
    else:
        report = prune(checkpoint, arguments.data, arguments.output, sparsity=arguments.prune, **options)
        latency = measure([str(report.dense_path), arguments.output], progress=not arguments.json)
    if arguments.json:
        return print_json({**report.as_json(), "latency": latency.to_json() if latency else None})
    return _print_training(report, latency)


def _print_training(report: TrainingReport, latency: LatencyReport | None) -> None:
    _print_report(report.export)
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
