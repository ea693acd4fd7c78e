"""Latency on a phone through `adb`, with TensorFlow Lite's official `benchmark_model`."""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from keras_mnasnet.benchmarks.adb_device import AdbDevice, Phone, connect, mask_of
from keras_mnasnet.benchmarks.benchmark_model import ToolRun, find_binary, parse_output
from keras_mnasnet.benchmarks.timing import Times, visit_order

__all__ = ["Plan", "PhoneMeter", "PhoneSamples", "measure", "pooled", "typical"]

RUNS, WARMUP, MIN_SECONDS = 50, 1, 1.0
RUN_SECONDS = 400.0  # the tool itself stops a warm-up and a measurement after 150 s each
FOLDER = "/data/local/tmp"
CLOCK = "wall time of the official tool"


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How to measure: see `measure_latency`."""

    serial: str | None
    threads: int
    runs: int | None
    warmup: int | None
    mask: str | None
    benchmark_model: str | os.PathLike[str] | None
    repeats: int


@dataclasses.dataclass(frozen=True, slots=True)
class PhoneSamples:
    """The tool's runs `[model][repeat]`, on what and how."""

    runs: list[list[ToolRun]]
    device: dict[str, Any]
    settings: dict[str, Any]


class PhoneMeter:
    """A phone with the official tool on it, until `close` removes it; OSError where the phone cannot be used."""

    def __init__(self, plan: Plan) -> None:
        _check(plan)
        self.plan = plan
        self._device = connect(plan.serial)
        self._phone = self._device.phone()
        self._binary, self._abi = find_binary(plan.benchmark_model, self._phone.abis)
        self._mask, self._choice = _mask(plan, self._phone)
        self._folder = f"{FOLDER}/keras_mnasnet-{uuid.uuid4().hex[:12]}"
        try:
            self._device.checked(f"mkdir {self._folder}")
            self._device.push(self._binary, f"{self._folder}/benchmark_model")
            self._device.checked(f"chmod 755 {self._folder}/benchmark_model")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PhoneMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(self, files: Sequence[Path], *, names: Sequence[str], progress: bool = False) -> PhoneSamples:
        """Push `files` and run the tool on each in turns."""
        for index, file in enumerate(files):
            self._device.push(file, f"{self._folder}/{index}.tflite")
        before = self._device.state()
        runs = _run_all(self._device, self._folder, self.plan, self._mask, names, progress)
        after = self._device.state()
        phone, plan = self._phone, self.plan
        facts = {
            "kind": "adb", "name": phone.model, "system": f"Android {phone.android}",
            "runtime": f"benchmark_model ({self._binary.name})", "soc": phone.soc, "abi": self._abi, "affinity": self._mask,
            "affinity_choice": self._choice, "before": before, "after": after,
        }  # fmt: skip
        settings = {
            "device": "adb", "threads": plan.threads, "runs": _or(plan.runs, RUNS), "warmup": _or(plan.warmup, WARMUP),
            "min_seconds": MIN_SECONDS, "repeats": plan.repeats, "delegate": "XNNPACK", "clock": CLOCK,
        }  # fmt: skip
        return PhoneSamples(runs, facts, settings)

    def close(self) -> None:
        """Remove everything from the phone again."""
        if not self._device.remove(self._folder):
            logging.warning(
                "The phone is away: remove %s from it once it is back (adb shell rm -r %s)", self._folder, self._folder
            )


def measure(files: Sequence[Path], plan: Plan, *, names: Sequence[str], progress: bool = False) -> PhoneSamples:
    """Run the tool on `files` on a phone, in turns, and leave nothing there."""
    with PhoneMeter(plan) as meter:
        return meter.measure(files, names=names, progress=progress)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _check(plan: Plan) -> None:
    if isinstance(plan.threads, bool) or not isinstance(plan.threads, int) or not 1 <= plan.threads <= 64:
        raise ValueError(f"`threads` must be 1 to 64. Received: threads={plan.threads!r}")
    if plan.mask is not None:
        digits = plan.mask.lower().removeprefix("0x")
        if not digits or not set(digits) <= set("0123456789abcdef") or not int(digits, 16):
            raise ValueError(
                f"`mask` must be a hexadecimal number above 0, such as f0 for cores 4 to 7. Received: mask={plan.mask!r}"
            )


def _mask(plan: Plan, phone: Phone) -> tuple[str | None, str]:
    """The mask for taskset, and how it was chosen."""
    if plan.mask is not None:
        if not phone.has_taskset:
            raise ValueError(
                f"`mask` needs taskset on the phone. Received: mask={plan.mask!r}, and {phone.model} has no taskset"
            )
        return plan.mask.lower().removeprefix("0x"), "as asked"
    mask = mask_of(phone.fastest, plan.threads)
    if mask is None or not phone.has_taskset:
        return None, f"not pinned: the phone {'has no taskset' if mask else 'does not tell the clocks of its cores'}"
    return mask, "the cores with the highest clock"


def _run_all(
    device: AdbDevice, folder: str, plan: Plan, mask: str | None, names: Sequence[str], progress: bool
) -> list[list[ToolRun]]:
    import tqdm

    runs: list[list[ToolRun]] = [[] for _ in names]
    with tqdm.tqdm(total=plan.repeats * len(names), unit="run", disable=not progress) as bar:
        for repeat in range(plan.repeats):
            for index in visit_order(len(names), repeat):
                runs[index].append(_run(device, folder, plan, mask, f"{index}.tflite", names[index]))
                bar.update()
    return runs


def _run(device: AdbDevice, folder: str, plan: Plan, mask: str | None, file: str, name: str) -> ToolRun:
    command = (
        f"cd {folder} && {f'taskset {mask} ' if mask else ''}./benchmark_model --graph={file} --num_threads={plan.threads} "
        f"--use_xnnpack=true --warmup_runs={_or(plan.warmup, WARMUP)} --num_runs={_or(plan.runs, RUNS)} "
        f"--min_secs={MIN_SECONDS:g}"
    )
    status, output = device.shell(command, timeout=RUN_SECONDS)
    if status:
        last = " | ".join(line.strip() for line in output.strip().splitlines()[-3:])
        raise OSError(
            f"benchmark_model must run on the phone. Received: exit status {status} for {name}: {last or 'nothing said'}. "
            f"Check that the tool is built for the phone, and that the mask names cores it has"
        )
    try:
        return parse_output(output)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def typical(run: ToolRun) -> float:
    """The median in milliseconds; of builds that print none, the average."""
    return run.mean_ms if run.median_ms is None else run.median_ms


def pooled(runs: Sequence[ToolRun]) -> Times:
    """The medians over the repeats of what each run printed, the least of their minima, the mean of all invocations."""

    def middle(values: list[float | None]) -> float | None:
        found = [value for value in values if value is not None]
        return statistics.median(found) if len(found) == len(runs) else None

    count = sum(run.count for run in runs)
    return Times(
        median_ms=middle([run.median_ms for run in runs]),
        min_ms=min(run.min_ms for run in runs),
        mean_ms=math.fsum(run.mean_ms * run.count for run in runs) / count,
        p5_ms=middle([run.p5_ms for run in runs]),
        p95_ms=middle([run.p95_ms for run in runs]),
    )
