"""`mnasnet bench latency`: single-thread latency of files and networks, on this machine or a phone."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from keras_mnasnet.benchmarks.results import check_output, write_json
from keras_mnasnet.benchmarks.speed import LatencyReport, ModelLatency
from keras_mnasnet.benchmarks.speed import latency as measured
from keras_mnasnet.benchmarks.timing import Times
from keras_mnasnet.cli.output import print_json, print_table

__all__ = ["latency", "print_latency"]


def latency(arguments: argparse.Namespace) -> None:
    """Print the latency of every model, and of its stages."""
    if arguments.output:
        check_output(arguments.output)
    report = measured(
        arguments.models,
        device=arguments.device,
        threads=arguments.threads,
        runs=arguments.runs,
        warmup=arguments.warmup,
        size=arguments.resolution,
        core=arguments.core,
        mask=arguments.mask,
        benchmark_model=arguments.benchmark_model,
        repeats=arguments.repeats,
        include_preprocessing=arguments.preprocessing,
        profile=arguments.profile,
        seed=arguments.seed,
        progress=not arguments.json,
        started=_process_start(),
    )
    if arguments.output:
        write_json(arguments.output, report.to_json())
    if arguments.json:
        return print_json(report.to_json())
    print_latency(report)
    if arguments.output:
        print(f"wrote {arguments.output}")
    return None


def print_latency(report: LatencyReport) -> None:
    """The table, where it was measured, and what its columns mean."""
    _print_where(report)
    _print_results(report)
    for result in report.results:
        if result.stages:
            _print_stages(result)
    _print_notes(report)


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
    print(f"{device['name']}, {device['system']}, {device['runtime']}, {settings['delegate']}, {threads}; {report.date}")
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


def _print_results(report: LatencyReport) -> None:
    on_host = report.device["kind"] == "host"
    low, high = ("p10", "p90") if on_host else ("p5", "p95")
    clock = "cpu ms" if on_host else "ms"
    header = [
        "model",
        "MB",
        clock,
        low,
        high,
        "min",
        *(["wall ms"] if on_host else []),
        "x first",
        "95 %",
        "memory MB",
        "parts",
    ]
    rows = []
    for result in report.results:
        times = result.cpu or result.wall
        edges = (times.p10_ms, times.p90_ms) if on_host else (times.p5_ms, times.p95_ms)
        wall = [_ms(_middle(result.wall))] if on_host else []
        rows.append(
            [
                _short(result.model), round(result.size_bytes / 1e6, 2), _ms(_middle(times)), *map(_ms, edges),
                _ms(times.min_ms), *wall, round(result.ratio.value, 3), _interval(result), result.memory_mb, result.delegates,
            ]
        )  # fmt: skip
    print_table(header, rows)


def _middle(times: Times) -> float:
    return times.mean_ms if times.median_ms is None else times.median_ms


def _ms(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3f}")


def _interval(result: ModelLatency) -> str:
    ratio = result.ratio
    return "-" if ratio.low is None or ratio.high is None else f"{ratio.low:.3f}..{ratio.high:.3f}"


def _short(model: str) -> str:
    return model if len(model) <= 40 else f"...{model[-37:]}"


def _print_stages(result: ModelLatency) -> None:
    print(f"\n{result.model}: milliseconds by stage, each the difference of two cut graphs' minima")
    total = sum(stage.ms for stage in result.stages)
    rows = [
        (
            stage.stage,
            _ms(stage.ms),
            round(100 * stage.ms / total, 1),
            round(stage.madds / 1e6, 2),
            None if stage.gmacs_per_second is None else round(stage.gmacs_per_second, 1),
        )
        for stage in result.stages
    ]
    madds = sum(stage.madds for stage in result.stages)
    rows.append(("total", _ms(total), 100.0, round(madds / 1e6, 2), round(madds / total / 1e6, 1)))
    print_table(("stage", "ms", "%", "MAdds (M)", "GMAC/s"), rows)


def _print_notes(report: LatencyReport) -> None:
    print()
    for result in report.results:
        if result.outside:
            print(f"{result.model}: outside XNNPACK: {', '.join(result.outside)}")
        if result.source != "file":
            inside = "" if report.settings["include_preprocessing"] else ", input normalized outside"
            print(f"{result.model}: {result.source}, {result.size} pixels, {result.precision}{inside}")
    clock = report.settings.get("cpu_clock") or report.settings["clock"]
    print(f"time: {clock}; x first: ratio of {report.ratio_of} to the first model's, with its 95 % bootstrap interval")
    print(f"memory: {report.memory}; parts: of the graph, run by XNNPACK")
