"""TensorFlow Lite's official `benchmark_model`: finding the binary for a phone, and reading what it prints."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ABIS", "ToolRun", "find_binary", "parse_output"]

# ABI: (machine of the ELF header, names that builds of the tool and folders go by)
ABIS = {
    "arm64-v8a": (183, ("aarch64", "arm64", "arm64-v8a")),
    "armeabi-v7a": (40, ("arm", "armv7", "armeabi-v7a")),
    "x86_64": (62, ("x86_64",)),
    "x86": (3, ("x86",)),
}
TOOL = "benchmark_model"
WHERE = "https://www.tensorflow.org/lite/performance/measurement lists builds, such as android_aarch64_benchmark_model"

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
COUNT = re.compile(rf"\bcount=(\d+)((?:[ \t]+\w+={NUMBER})+)")
FIELD = re.compile(rf"(\w+)=({NUMBER})")
TIMINGS = re.compile(
    rf"Inference timings in us: Init: ({NUMBER}), First inference: ({NUMBER}), "
    rf"Warmup \(avg\): ({NUMBER}), Inference \(avg\): ({NUMBER})"
)
MEMORY = re.compile(rf"Memory footprint delta from the start of the tool \(MB\): init=({NUMBER}) overall=({NUMBER})")
KERNELS = re.compile(r"w/ (\d+) delegate kernels")
WHOLE = re.compile(r"model graph will be completely executed by the delegate")


@dataclasses.dataclass(frozen=True, slots=True)
class ToolRun:
    """One run of the tool, in milliseconds; median, p5 and p95 are None from builds that do not print them."""

    count: int
    min_ms: float
    mean_ms: float
    median_ms: float | None
    p5_ms: float | None
    p95_ms: float | None
    init_ms: float
    first_ms: float
    memory_mb: float | None
    delegates: int | None
    outside: tuple[str, ...] | None


def parse_output(text: str) -> ToolRun:
    """Read the tool's output, with or without `INFO: ` or logcat prefixes; microseconds, which may have exponents.

    The tool prints a line of statistics after the warm-up and one after the measurement: the last counts, of a single run it
    holds no more than `curr`. ValueError where the measurement is missing.
    """
    timings, counted = TIMINGS.search(text), COUNT.findall(text)
    if timings is None or len(counted) < 2:
        lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
        raise ValueError(
            f"benchmark_model must print two lines 'count=...' and 'Inference timings in us: ...'. Received: "
            f"{len(counted)} and {'one' if timings else 'none'}; its last lines: {' | '.join(lines[-3:]) or 'nothing at all'}"
        )
    count, fields = counted[-1]
    values = {key: float(value) / 1e3 for key, value in FIELD.findall(fields)}
    init, first, _, mean = (float(value) / 1e3 for value in timings.groups())
    only = values.get("curr", mean) if int(count) == 1 else None
    memory, kernels = MEMORY.search(text), KERNELS.search(text)
    whole = WHOLE.search(text) is not None
    return ToolRun(
        count=int(count),
        min_ms=values.get("min", mean if only is None else only),
        mean_ms=mean,
        median_ms=values.get("median", only),
        p5_ms=values.get("p5"),
        p95_ms=values.get("p95"),
        init_ms=init,
        first_ms=first,
        memory_mb=float(memory[2]) if memory else None,
        delegates=int(kernels[1]) if kernels else 1 if whole else None,
        outside=() if whole else None,
    )


def find_binary(path: str | os.PathLike[str] | None, abis: Sequence[str]) -> tuple[Path, str]:
    """The tool and its ABI: a file, or the first of `abis` (the phone's, best first) that a folder has one for."""
    if path is None:
        raise ValueError(f"A phone needs the official tool: benchmark_model= (--benchmark-model). Received: none. {WHERE}")
    place = Path(path).expanduser()
    if not place.exists():
        raise ValueError(f"`benchmark_model` must be a file, or a folder with one for each ABI. Received: {place}, not there")
    known = [abi for abi in abis if abi in ABIS]
    for abi in known:
        machine, titles = ABIS[abi]
        for candidate in [place] if place.is_file() else _candidates(place, titles):
            if candidate.is_file() and _machine(candidate) == machine:
                return candidate, abi
    if place.is_file():
        machine_of = _machine(place)
        built = next((abi for abi, (machine, _) in ABIS.items() if machine == machine_of), None)
        kind = (
            f"one for {built}" if built else "no executable for Android" if machine_of is None else "one for another processor"
        )
        raise ValueError(
            f"`benchmark_model` must be built for the phone's ABI, {' or '.join(abis)}. Received: {place}, {kind}. {WHERE}"
        )
    held = ", ".join(sorted(each.name for each in place.iterdir())[:8]) or "nothing"
    raise ValueError(
        f"The folder must have benchmark_model for the phone's ABI, {' or '.join(abis)}, named such as "
        f"android_aarch64_{TOOL} or arm64-v8a/{TOOL}. Received: {place}, which has {held}. {WHERE}"
    )


def _candidates(folder: Path, titles: Sequence[str]) -> list[Path]:
    named = [folder / f"{prefix}{title}_{TOOL}" for title in titles for prefix in ("android_", "")]
    nested = [folder / f"{prefix}{title}" / TOOL for title in titles for prefix in ("", "android_")]
    return [*named, *nested, folder / TOOL]


def _machine(path: Path) -> int | None:
    """The machine of an ELF file's header; None for any other file."""
    with path.open("rb") as file:
        header = file.read(20)
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return None
    return int.from_bytes(header[18:20], "little" if header[5] == 1 else "big")
