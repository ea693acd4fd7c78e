"""`mnasnet bench`: accuracy on labeled photos, and latency on this machine, a phone or an emulated core."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mnasnet.cli.options import given, option, options, output, own
from keras_mnasnet.cli.output import Column, finish, percent, print_columns, print_json, print_table, rounded, significant
from keras_mnasnet.cli.parsing import Parser, UsageError
from keras_mnasnet.utils.text import listed

if TYPE_CHECKING:
    from keras_mnasnet.benchmarks import LatencyReport, ModelLatency
    from keras_mnasnet.benchmarks.accuracy import AccuracyResult

SETTINGS = ("batch_size", "size", "preprocessing", "upright", "labels_offset", "threads", "limit", "max_bad")


def add_commands(top: Parser) -> None:
    """`bench accuracy`, `latency`, `emulator` and `calibrate`."""
    bench = top.add(
        "bench", "Measure models as the paper does: accuracy, latency.", example="mnasnet bench latency --network a1"
    )
    command = bench.add(
        "accuracy", "Top-1 and top-5 of models on photos with labels, side by side, each with its own preprocessing.", accuracy,
        usage="MODEL... --data DATA [options]", example="mnasnet bench accuracy cifar10 a1.tflite --data shapes:200@32",
        needs=("MODEL", "--data DATA"),
    )  # fmt: skip
    option(command, "MODEL", "A .tflite or .onnx file is scored as it is.", dest="models", nargs="+")
    data = command.add_argument_group("data")
    option(data, "--data", "The ILSVRC-2012 validation photos are taken as a folder or tar, too.", required=True)
    option(data, "--split")
    own(data, "--ground-truth", "FILE", "Take the labels of the ILSVRC-2012 validation photos from this file.")
    own(data, "--synsets", "FILE", "Take the devkit's wnids from this file, for a ground truth of its numbers 1 to 1000.")
    options(data, "--limit", "--max-bad")
    how = command.add_argument_group("how")
    option(how, "--batch-size", "The default is %(default)s.", default=32)
    option(how, "--size", "The default is each model's own.")
    own(
        how, "--preprocessing", "google|timm|torchvision|pillow",
        "Resize and crop photos in this one's way (default: each model's own).",
    )  # fmt: skip
    option(how, "--upright", "The default is what each model's preprocessing says.", default=None)
    option(how, "--input", "It is for .tflite and .onnx files (default: as the file says).")
    option(how, "--labels", "They name each model's outputs, in their order (default: as the model says).")
    own(how, "--labels-offset", "0|1", "Let this output stand for label 0 (default: by name or count).", type=int)
    option(how, "--threads", "The default is all cores.")
    shown = command.add_argument_group("the result")
    shown.add_argument("--per-class", action="store_true", help="Also print the counts of every class.")
    own(
        shown, "--errors", "DIR", "Write a page of the photos that models decide differently or wrongly into this new or empty "
        "folder.",
    )  # fmt: skip
    output(shown, "FILE.json", "results, settings and environment.", required=False)
    command.set_defaults(max_bad=0)

    command = bench.add(
        "latency", "Single-thread latency of .tflite and .onnx files, trained models and networks, in turns.", latency,
        usage=("MODEL... [--network NETWORK ...] [options]", "--network NETWORK ... [options]"),
        example="mnasnet bench latency model.tflite --network a1 --network b1:int8",
        needs=("MODEL or --network NETWORK",),
    )  # fmt: skip
    option(
        command, "MODEL",
        "A .tflite or .onnx file is timed as it is. A record id may end in [@PIXELS][:float32|float16|weight-int8|int8].",
        dest="models", nargs="*",
    )  # fmt: skip
    option(
        command, "--network", "Its weights are random; it may end as a record id may; the option may be repeated.",
        action="append", default=[],
    )  # fmt: skip
    option(command, "--size", "It is for networks, and for files with an open size (default: their own).")
    _normalization(command)
    how = command.add_argument_group("how")
    option(
        how, "--device", "emulated:CORE counts on cortex-a53, cortex-a72, cortex-a76 or armv8.6, and emulated:FILE is a phone "
        "of bench calibrate. The default is %(default)s.", default="host",
    )  # fmt: skip
    option(how, "--threads", "The default is %(default)s, as in the paper.", default=1)
    option(how, "--runs")
    own(how, "--warmup", "N", "Run each model N times before the first timed run (default: 3; phones: 1).")
    own(how, "--repeats", "N", "Measure each model N times on the phone, in turns (default: 3).")
    options(how, "--core", "--mask", "--benchmark-model")
    own(
        how, "--delegate", "DELEGATE",
        "Let this delegate of the official tool run models on a phone: xnnpack, gpu (in half precision), nnapi or "
        "nnapi:ACCELERATOR (default: %(default)s).", default="xnnpack",
    )  # fmt: skip
    option(how, "--seed", default=0)
    shown = command.add_argument_group("the result")
    shown.add_argument("--profile", action="store_true", help="Also print milliseconds by stage, of networks.")
    output(shown, "FILE.json", "the report.", required=False)

    bench.add(
        "emulator", "Set up the emulated ARM cores of --device emulated, or say what is set up.", emulator,
        example="mnasnet bench emulator",
    )  # fmt: skip
    command = bench.add(
        "calibrate", "Fit a phone to networks measured on it, for --device emulated:FILE.", calibrate,
        usage="MODEL=MS... -o FILE.json [options]",
        example="mnasnet bench calibrate a1=78 a1-0.5=32 small=23.2 --emulated-core cortex-a72 -o pixel1.json",
        needs=("MODEL=MS", "-o FILE.json"),
    )  # fmt: skip
    command.add_argument(
        "measured", metavar="MODEL=MS", nargs="+",
        help="Three or more of what bench latency takes, small and large, and their milliseconds on the phone, one thread.",
    )  # fmt: skip
    own(command, "--phone", "NAME", "Call the phone so.", default="phone")
    own(
        command, "--emulated-core", "cortex-a53|cortex-a72|cortex-a76|armv8.6",
        "Count on this core, the one most like the phone's big ones (default: %(default)s).", default="cortex-a76",
    )  # fmt: skip
    option(command, "--size", "It is for networks, and for files with an open size (default: their own).")
    _normalization(command)
    output(command, "FILE.json", "the phone, for --device emulated:FILE.json.")


def _normalization(command: Parser) -> None:
    command.add_argument(
        "--no-normalization", dest="include_preprocessing", action="store_false",
        help="Leave the normalization of the input out of networks (default: inside, as in exported files).",
    )  # fmt: skip


def accuracy(arguments: argparse.Namespace) -> None:
    """Print top-1 and top-5 of every model on labeled photos."""
    from keras_mnasnet.benchmarks import evaluate
    from keras_mnasnet.benchmarks.accuracy import report as report_of
    from keras_mnasnet.benchmarks.results import check_output

    if arguments.output:
        check_output(arguments.output)
    settings = {key: getattr(arguments, key) for key in SETTINGS} | {"file_input": arguments.input}
    results = evaluate(
        arguments.models, arguments.data, **given(arguments, "split", "ground_truth", "synsets", "labels", "errors"), **settings
    )  # fmt: skip
    report = report_of(results, **settings, labels=arguments.labels, errors=arguments.errors)

    def show() -> None:
        _print_accuracies(report, results, per_class=arguments.per_class)
        if arguments.errors:
            print(f"wrote {Path(arguments.errors) / 'index.html'}")

    return finish(arguments, report, show)


def _print_accuracies(report: dict[str, Any], results: list[AccuracyResult], *, per_class: bool) -> None:
    data = report["data"]
    part = f", {data['split']} split" if data["split"] else ""
    present = len({one.label for result in results for one in result.per_class})
    print(f"{data['name']}{part}: {data['images']:,} photos of {present:,} of {data['classes']:,} classes\n")
    print_columns(
        results,
        {
            "model": "model", "top-1 %": lambda each: percent(each.top1), "top-5 %": lambda each: percent(each.top5),
            "correct": "correct1", "in top 5": "correct5", "of": "images",
            "images/s": lambda each: round(each.images_per_second, 1), "record's top-1": "published_top1",
            "top-5": "published_top5",
        },
    )  # fmt: skip
    print()
    for result in results:
        print(f"{result.model}: {result.preprocessing_text}; input {result.input}")
        if result.published_top1 is not None:
            top5 = "" if result.published_top5 is None else f", top-5 {result.published_top5:g}"
            origin = result.published_at if result.bundled else f"published at {result.published_at}"
            print(f"  top-1 {100 * result.top1:.2f} %; its record says {result.published_top1:g}{top5}, {origin}")
        if result.background:
            print("  has a background output beside the data's classes")
        if result.top1_among is not None:
            print(
                f"  all {result.outputs:,} outputs are ranked, of which the data's classes name {result.classes:,}; among "
                f"these alone top-1 is {100 * result.top1_among:.2f} %"
            )
    if bad := results[0].bad:
        print(f"damaged and left out, {len(bad):,}: {', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''}")
    if per_class:
        _print_classes(results)
    print(f"\nranking: {report['ranking']}")
    print(report["timing"])


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


def latency(arguments: argparse.Namespace) -> None:
    """Print the latency of every model, and of its stages."""
    from keras_mnasnet.benchmarks import latency as measure
    from keras_mnasnet.benchmarks.results import check_output

    if not arguments.models and not arguments.network:
        raise UsageError("give a MODEL or --network NETWORK; received neither")
    if arguments.output:
        check_output(arguments.output)
    report = measure(
        arguments.models, started=_process_start(),
        **given(
            arguments, "device", "size", "threads", "runs", "warmup", "core", "mask", "benchmark_model", "repeats",
            "delegate", "include_preprocessing", "profile", "seed", networks="network",
        ),
    )  # fmt: skip
    return finish(arguments, report.to_json(), lambda: print_latency(report))


def emulator(arguments: argparse.Namespace) -> None:
    """Set the emulator up."""
    from keras_mnasnet.benchmarks.emulator import CORES, place, setup

    found = setup(progress=not arguments.json)
    if arguments.json:
        return print_json({"folder": str(place()), **found})
    print(f"{place()}: LiteRT {found['litert']} for aarch64, Debian {found['suite']}, {len(found['packages'])} packages")
    print_table(("--device", "core"), [(f"emulated:{name}", core.text) for name, core in CORES.items()])
    return print("count with: mnasnet bench latency --network a1 --device emulated")


def calibrate(arguments: argparse.Namespace) -> None:
    """Fit a phone, and print how far its networks are from the line."""
    from keras_mnasnet.benchmarks import calibrate as fit

    measured = {}
    for text in arguments.measured:
        model, _, ms = text.rpartition("=")
        try:
            measured[model] = float(ms)
        except ValueError:
            raise UsageError(f"a measured network is MODEL=MS, as a1=78; received {text!r}") from None
    found = fit(
        measured, arguments.output, **given(arguments, "phone", "size", "include_preprocessing", core="emulated_core")
    )  # fmt: skip
    if arguments.json:
        return print_json(found.to_json())
    print_columns(
        found.rows,
        {
            "model": "network", "M instructions": lambda row: round(row.instructions / 1e6, 3), "measured ms": "measured_ms",
            "line's ms": lambda row: significant(found.ms(row.instructions)),
            "off %": lambda row: round(100 * (found.ms(row.instructions) / row.measured_ms - 1), 2),
        },
    )  # fmt: skip
    print(
        f"\nms = {found.ms_per_million:g} x million instructions + {found.constant_ms:g}: "
        f"{found.percent_off['mean']:.2f} % off, each from the line of the others {found.percent_off['one_left_out']:.2f} %"
    )
    return print(f"wrote {arguments.output}. Use it with --device emulated:{arguments.output}")


def print_latency(report: LatencyReport) -> None:
    """The table, where it was measured, and what its columns mean."""
    if report.device["kind"] == "emulated":
        return _print_counts(report)
    _print_where(report)
    _print_latencies(report)
    for result in report.results:
        if result.stages:
            _print_stages(result)
    _print_notes(report)
    return None


def _print_counts(report: LatencyReport) -> None:
    device, phone = report.device, report.device["phone"]
    print(f"{device['name']}, {device['system']}, {device['runtime']}, XNNPACK, 1 thread; {report.date}")
    if phone:
        print(
            f"{phone['phone']}: ms = {phone['ms_per_million']:g} x million instructions + {phone['constant_ms']:g}, fitted "
            f"with LiteRT {phone['litert']}, {phone['percent_off']['mean']:g} % off its rows on average"
        )
    print()
    columns: dict[str, Column] = {
        "model": _short_name,
        "MB": lambda each: round(each.size_bytes / 1e6, 2),
        "M instructions": lambda each: round(each.instructions / 1e6, 3),
        "ms": lambda each: significant(each.estimated_ms),
        "x first": lambda each: round(each.ratio.value, 3),
        "parts": "delegates",
    }
    if not phone:
        del columns["ms"]
    print_columns(report.results, columns)
    _print_inputs(report)
    print(f"{report.settings['clock']}; x first: ratio of {report.ratio_of}; parts: of the graph, run by XNNPACK")


def _short_name(result: ModelLatency) -> str:
    return result.model if len(result.model) <= 40 else f"...{result.model[-37:]}"


def _process_start() -> float | None:
    """When this process started, on the monotonic clock; None where the system does not say."""
    try:
        ticks = int(Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return time.monotonic() - age if age >= 0 else None


def _print_where(report: LatencyReport) -> None:
    device, settings = report.device, report.settings
    threads = f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}"
    runtime = listed(filter(None, (device["runtime"], settings["delegate"], threads)))
    print(f"{device['name']}, {device['system']}, {runtime}; {report.date}")
    if device["kind"] == "host":
        pinned = "not pinned" if device["affinity"] is None else f"core {', '.join(map(str, device['affinity']))}"
        load = "" if device["load_average"] is None else f"; load average {device['load_average'][0]:.2f}"
        print(f"{pinned} ({device['affinity_choice']}), {_clock(device['cores'])}{load}")
        turns = f"{settings['rounds']} rounds of {settings['timed_per_visit']} timed runs each"
        print(f"{turns}, in turns; measuring began {settings['start_delay_s']:.2f} s after the command\n")
    else:
        print(f"{device['soc']}, {device['abi']}, mask {device['affinity'] or 'none'} ({device['affinity_choice']})")
        print(
            f"{_degrees(device['before'])} before, {_degrees(device['after'])} after; {settings['repeats']} repeats, in turns\n"
        )


def _clock(cores: list[dict[str, Any]]) -> str:
    one = cores[0] if cores else {"governor": None, "clock_mhz": None}
    clock = "clock unknown" if one["clock_mhz"] is None else f"{one['clock_mhz']:,.0f} MHz"
    return f"governor {one['governor'] or 'unknown'}, {clock}"


def _degrees(state: dict[str, Any]) -> str:
    if state["temperature_c"] is None:
        return "temperature unknown"
    clocks = [core["clock_khz"] // 1000 for core in state["cores"] if core["clock_khz"]]
    clock = f", {max(clocks):,} MHz" if clocks else ""
    return f"{state['temperature_c']:g} °C ({state['temperature_of']}){clock}"


def _print_latencies(report: LatencyReport) -> None:
    def edge(low: bool) -> Column:
        name = f"p{(10 if low else 90) if on_host else (5 if low else 95)}_ms"
        return lambda each: _ms(getattr(each.cpu or each.wall, name))

    on_host = report.device["kind"] == "host"
    columns: dict[str, Column] = {
        "model": _short_name,
        "MB": lambda each: round(each.size_bytes / 1e6, 2),
        "cpu ms" if on_host else "ms": lambda each: _ms(each.typical_ms),
        "p10" if on_host else "p5": edge(True),
        "p90" if on_host else "p95": edge(False),
        "min": lambda each: _ms((each.cpu or each.wall).min_ms),
        "wall ms": lambda each: _ms(each.wall.median_ms),
        "x first": lambda each: round(each.ratio.value, 3),
        "95 %": _interval,
        "memory MB": "memory_mb",
        "parts": "delegates",
    }
    if not on_host:
        del columns["wall ms"]
    print_columns(report.results, columns)


def _ms(value: float | None) -> float | None:
    return rounded(value, 3)


def _interval(result: ModelLatency) -> str:
    ratio = result.ratio
    return "-" if ratio.low is None or ratio.high is None else f"{ratio.low:.3f}..{ratio.high:.3f}"


def _print_stages(result: ModelLatency) -> None:
    print(f"\n{result.model}: milliseconds by stage, each the difference of two cut graphs' minima")
    total = sum(stage.ms for stage in result.stages)
    rows = [
        (
            stage.stage, _ms(stage.ms), round(100 * stage.ms / total, 1), round(stage.madds / 1e6, 2),
            rounded(stage.gmacs_per_second, 1),
        )
        for stage in result.stages
    ]  # fmt: skip
    madds = sum(stage.madds for stage in result.stages)
    rows.append(("total", _ms(total), 100.0, round(madds / 1e6, 2), round(madds / total / 1e6, 1)))
    print_table(("stage", "ms", "%", "MAdds (M)", "GMAC/s"), rows)


def _print_notes(report: LatencyReport) -> None:
    _print_inputs(report)
    clock = report.settings.get("cpu_clock") or report.settings["clock"]
    print(f"time: {clock}; x first: ratio of {report.ratio_of} to the first model's, with its 95 % bootstrap interval")
    print(f"memory: {report.memory}; parts: of the graph, run by {report.settings['delegate'] or 'XNNPACK'}")


def _print_inputs(report: LatencyReport) -> None:
    print()
    for result in report.results:
        if result.outside:
            print(f"{result.model}: outside {report.settings['delegate']}: {', '.join(result.outside)}")
        if result.source != "file":
            inside = "" if report.settings["include_preprocessing"] else ", input normalized outside"
            print(f"{result.model}: {result.source}, {result.size} pixels, {result.precision}{inside}")
