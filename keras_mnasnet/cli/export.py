"""`mnasnet export` and `mnasnet qat`: a trained model -> a verified `.tflite` or `.onnx`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mnasnet.cli.options import given, option, options, output, own
from keras_mnasnet.cli.output import print_columns, print_json, print_table
from keras_mnasnet.cli.parsing import Parser
from keras_mnasnet.utils.files import write_file
from keras_mnasnet.utils.text import json_text

if TYPE_CHECKING:
    from keras_mnasnet.benchmarks import LatencyReport
    from keras_mnasnet.export import ExportReport, TrainingReport
    from keras_mnasnet.export.half import HalfCheck

PRECISIONS = ("float32", "float16", "weight-int8", "int8", "dynamic")
WORST = 5  # layers that are shown
FILE = "a .tflite file, and its report beside it as FILE.tflite.json."


def add_commands(top: Parser) -> None:
    """`export` and `qat`."""
    command = top.add(
        "export", "Write a trained model as a .tflite file for phones, or as .onnx, verified against the model.", export,
        usage="MODEL -o FILE.tflite|FILE.onnx [options]",
        example="mnasnet export cifar10 --quantize int8 --calibrate shapes:200@32 -o a1_int8.tflite",
        needs=("MODEL", "-o FILE.tflite|FILE.onnx"),
    )  # fmt: skip
    option(command, "MODEL", "Any .keras file with one image input is taken, too.")
    file_options(
        command, PRECISIONS,
        "int8 is the fastest, weight-int8 the smallest at float32's speed, and dynamic is slower. "
        "A .onnx has no weight-int8 or dynamic.",
        "FILE.tflite|FILE.onnx",
        "a .tflite file, or a .onnx file of a MnasNet (extra [onnx]), and its report beside it with the ending .json.",
    )  # fmt: skip
    own(
        command, "--latency", "DEVICE",
        "Also measure the file, and add that to its report: host is this machine, emulated[:CORE|:FILE] as of bench latency.",
    )  # fmt: skip
    model = command.add_argument_group("the model")
    option(model, "--size", "The default is the model's own.")
    option(model, "--labels", "The default is the model's own, if it has any.")
    own(
        command, "--keep-float", "LAYERS",
        "Let these layers of an int8 file compute in float32, with commas between: as the report names them, or stem, block3a, "
        "head.", type=_names,
    )  # fmt: skip
    option(model, "--batch-size", "The file takes exactly so many (default: %(default)s).", default=1)
    option(model, "--input", "It is for .keras files (default: 0..255 where the model normalizes them itself).")
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
    own(trained, "--steps-per-epoch", "N", "Take N steps an epoch at most (default: all photos).")
    option(trained, "--batch-size", "That is a step (default: %(default)s).", default=64)
    option(trained, "--learning-rate", "A cosine starts there (default: 1e-4; with --prune 1e-3).")
    own(
        trained, "--prune", "SHARE",
        "Prune instead, to this share of zeros in the 1x1 convolutions, 0 to 1; the file is float32.", type=float,
    )  # fmt: skip
    option(trained, "--input-dtype", default="float32")
    option(trained, "--size", "The default is the model's own.")
    option(trained, "--labels", "The default is the model's own, if it has any.")
    accepting_option(trained)
    options(trained, "--seed", "--max-bad")
    trained.set_defaults(seed=0, max_bad=0)


def file_options(
    command: Parser, precisions: tuple[str, ...], more: str, metavar: str = "FILE.tflite", what: str = FILE
) -> None:
    """What every export can be told."""
    result = command.add_argument_group("the file")
    output(result, metavar, what)
    own(
        result, "--quantize", "|".join(precisions), f"Write a file of this precision (default: %(default)s). {more}",
        default="float32",
    )  # fmt: skip
    own(
        result, "--compute", "half|float32",
        "Mark a float file, so that ARM CPUs since 2018 compute it in half precision, if that changes no more than it may in a "
        "simulation (default: half for float16, else float32).",
    )  # fmt: skip
    option(result, "--input-dtype", default="float32")
    photos = command.add_argument_group("photos")
    options(photos, "--calibrate", "--calibration-photos")
    option(photos, "--photos", "The file is verified on them (default: those of --calibrate, else drawn ones).")
    option(photos, "--verification-photos")
    accepting_option(photos)
    options(photos, "--seed", "--max-bad")
    command.set_defaults(seed=0, max_bad=0)


def accepting_option(to: Any) -> None:
    """How many decisions a file may change."""
    own(
        to, "--accept-changed", "SHARE",
        "Accept a file that changes this share of the model's clear decisions, 0 to 1 (default: as the precision explains).",
        type=float,
    )  # fmt: skip


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def export(arguments: argparse.Namespace) -> None:
    """Write the file and its report, and print what was measured."""
    from keras_mnasnet.export import export

    if arguments.latency is not None:
        _check_device(arguments.latency, arguments.output)
    report = export(
        arguments.model, arguments.output,
        **given(
            arguments, "quantize", "compute", "photos", "input_dtype", "labels", "size", "seed", "max_bad", "accept_changed",
            "keep_float",
            batch="batch_size", normalization="input", representative_data="calibrate", calibration_count="calibration_photos",
            verification_count="verification_photos",
        ),
    )  # fmt: skip
    if arguments.latency is None:
        return print_json(report.as_json()) if arguments.json else _print_report(report)
    from keras_mnasnet.benchmarks import latency
    from keras_mnasnet.cli.bench import print_latency

    found = latency(report.path, device=arguments.latency, progress=not arguments.json)
    whole = {**report.as_json(), "latency": found.to_json()}
    write_file(Path(f"{report.path}.json"), json_text(whole) + "\n")
    if arguments.json:
        return print_json(whole)
    _print_report(report)
    print()
    return print_latency(found)


def _check_device(device: str, output: str) -> None:
    """ValueError or OSError, before any work, where the file could not be measured."""
    kind, _, core = device.partition(":")
    if device != "host" and kind != "emulated":
        raise ValueError(
            f"`--latency` must be host, emulated, emulated:CORE or emulated:FILE. Received: {device!r}. "
            f"`mnasnet bench latency {output} --device adb` measures on a phone"
        )
    if kind == "emulated":
        from keras_mnasnet.benchmarks.emulator import installed, parse_emulated

        if output.endswith(".onnx"):
            raise ValueError(f"An emulated core runs .tflite files. Received: --latency {device} for {output}")
        parse_emulated(core)
        installed()


def _print_report(report: ExportReport) -> None:
    """What the file is, and how it compares with the model."""
    print_outline(report, report.route)
    if taken := report.partitions:
        outside = ", ".join(f"{kind} {count}" for kind, count in taken.outside.items())
        whole = (
            "one partition, the whole graph"
            if taken.whole
            else f"{taken.delegates} partitions; outside: {outside or 'nothing'}"
        )
        print(f"XNNPACK  {whole}{f' ({report.outside_reason})' if report.outside_reason else ''}")
    print_accelerators(report)
    print_comparisons(report)
    if report.quantization:
        shown = (f"{each.layer} {each.signal_to_noise:.1f} dB" for each in report.quantization.worst[:WORST])
        print(f"layers that lose most (signal to noise): {', '.join(shown)}")
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
    if facts.output_types:
        print("types  " + ", ".join(f"{kind} {count}" for kind, count in facts.output_types.items()))


def print_accelerators(report: Any) -> None:
    """What the published lists of accelerators lack of the file."""
    for name, said in report.accelerators.items():
        print(f"{name}  {said}")


def print_comparisons(report: Any) -> None:
    """How it compares with the model, output by output."""
    from keras_mnasnet.export.verify import WORST_CLASS

    if report.calibration:
        print(f"calibrated on {report.calibration.images} images, seed {report.calibration.seed}")
    if report.silent_layers:
        print(f"silent in calibration, constant in the file: {', '.join(report.silent_layers)}")
    print(f"verified against {report.verified_against} on {report.verified_on}:")
    print_columns(
        report.comparisons,
        {
            "output": "output",
            "max difference": lambda each: f"{each.max_difference:.2e}",
            "mean difference": lambda each: f"{each.mean_difference:.2e}",
            "error / spread": lambda each: f"{each.error:.2e}",
            "worst class": lambda each: f"{each.worst:.2e}",
            "top-1 agreement": "top1_agreement",
            "KL": lambda each: None if each.divergence is None else f"{each.divergence:.2e}",
            "changed": lambda each: None if each.decided is None else f"{each.changed} of {each.decided}",
            "judged by": "judged",
        },
    )
    for each in (each for each in report.comparisons if each.top1 is not None):
        print(f"top-1 on the photos' labels: {each.top1:.2%}, the model {each.model_top1:.2%}")
    _print_half(report.half)
    limits = report.limits
    error = max(map(limits.of, report.comparisons))
    print(
        f"limits: error {error:g} of the spread of the outputs, {WORST_CLASS * error:g} in a class; "
        f"{limits.changed:.0%} of the decisions with a margin changed"
    )


def _print_half(half: HalfCheck | None) -> None:
    """What the simulation in half precision found."""
    if half is None:
        return
    if half.reason:
        return print(f"computed in float32, not marked for half precision: {half.reason}")
    found = ", ".join(
        f"error / spread {each.error:.2e}{'' if each.decided is None else f', {each.changed} of {each.decided} changed'}"
        for each in half.comparisons
    )
    print(
        f"marked: ARM CPUs since 2018 compute in half precision; simulated on {half.images} of these images: largest value "
        f"{half.largest:,.4g} of 65,504 ({half.largest_at}), {found}"
    )


def qat(arguments: argparse.Namespace) -> None:
    """Train, write the file and its report, and print what was measured."""
    from keras_mnasnet import benchmarks
    from keras_mnasnet.export import prune, quantize_aware

    if arguments.prune is not None and arguments.input_dtype != "float32":
        raise ValueError(f"`--prune` writes a float32 file. Received: --input-dtype {arguments.input_dtype}")
    paths = (arguments.model, arguments.data, arguments.output)
    how = given(arguments, "epochs", "batch_size", "learning_rate", "seed", "size", "labels", "max_bad", "steps_per_epoch")
    if arguments.prune is None:
        how |= given(arguments, "accept_changed")
    latency = None
    if arguments.prune is None:
        report = quantize_aware(*paths, input_dtype=arguments.input_dtype, **how)
    else:
        report = prune(*paths, sparsity=arguments.prune, **how)
        latency = benchmarks.latency([str(report.dense_path), arguments.output], progress=not arguments.json)
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
            f"latency on this machine, one thread: {sparse.typical_ms:.3f} ms, dense {dense.typical_ms:.3f} ms; ratio "
            f"of {latency.ratio_of} {sparse.ratio.value:.3f}"
        )
