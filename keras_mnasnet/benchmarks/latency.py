"""Single-thread latency of `.tflite` files and of networks by name, on this machine or on a phone."""

from __future__ import annotations

import dataclasses
import datetime
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_mnasnet.benchmarks.host import TIMED, HostMeter, HostSamples, choose_cores
from keras_mnasnet.benchmarks.results import SCHEMA
from keras_mnasnet.benchmarks.targets import Target, parse_target, stages
from keras_mnasnet.benchmarks.timing import Ratio, Times, ratio_of_medians
from keras_mnasnet.utils.system import core_state, machine

__all__ = ["LatencyReport", "ModelLatency", "StageLatency", "measure_latency"]

HOST_RUNS, HOST_WARMUP = 60, 3
CPU_CLOCKS = {True: "CPU time of the calling thread, where XNNPACK runs", False: "CPU time of all threads, waiting included"}
HOST_MEMORY = (
    "peak resident memory that loading and running the file once adds to a process which has imported the runtime; "
    "the pages of the runtime's own code that it touches are included"
)


@dataclasses.dataclass(frozen=True, slots=True)
class StageLatency:
    """What one part of a network adds: the difference of the minima of two graphs, with and without it."""

    stage: str
    ms: float
    madds: int

    @property
    def gmacs_per_second(self) -> float | None:
        """Billions of multiply-adds a second; None where the part is too short to be resolved."""
        return self.madds / self.ms / 1e6 if self.ms > 0 else None


@dataclasses.dataclass(frozen=True, slots=True)
class ModelLatency:
    """One model's latency.

    `cpu` and `wall` are milliseconds of one invocation (`cpu` None on a phone), `ratio` that of the medians to the first
    model's, in the report's `ratio_of`. `delegates` counts the parts of the graph that XNNPACK runs, `outside` names the
    operators that it does not (None: not known). `stages` is empty without a profile.
    """

    model: str
    source: str
    precision: str | None
    resolution: int | None
    size_bytes: int
    madds: int | None
    runs: int
    cpu: Times | None
    wall: Times
    ratio: Ratio
    memory_mb: float | None
    delegates: int | None
    outside: tuple[str, ...] | None
    stages: tuple[StageLatency, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class LatencyReport:
    """Latencies measured in one run, and on what; `to_json` is what result files hold."""

    device: dict[str, Any]
    settings: dict[str, Any]
    environment: dict[str, Any]
    date: str
    ratio_of: str
    memory: str
    results: tuple[ModelLatency, ...]

    def to_json(self) -> dict[str, Any]:
        """One JSON value with a schema version."""
        value = {"schema": SCHEMA, "benchmark": "latency", **dataclasses.asdict(self)}
        for shown, result in zip(value["results"], self.results, strict=True):
            for row, stage in zip(shown["stages"], result.stages, strict=True):
                row["gmacs_per_second"] = stage.gmacs_per_second
        return value


def measure_latency(
    models: Sequence[str | os.PathLike[str]], *, device: str = "host", threads: int = 1, runs: int | None = None,
    warmup: int | None = None, resolution: int | None = None, core: int | None = None, mask: str | None = None,
    benchmark_model: str | os.PathLike[str] | None = None, repeats: int | None = None, preprocessing: bool = True,
    profile: bool = False, memory: bool = True, seed: int = 0, progress: bool = False, started: float | None = None,
) -> LatencyReport:  # fmt: skip
    """Measure models (`targets.SYNTAX`) in turns on `device`: `host`, `adb` or `adb:SERIAL`.

    `host`: a process of its own with LiteRT and XNNPACK, pinned to `core` (default: the last of the fastest); every round
    visits every model, one invocation to warm and three timed, and begins with the next model; `runs` (60) timed invocations
    of each after `warmup` (3). `adb`: the official tool, at the path or in the folder `benchmark_model`, pinned to the cores
    of `mask` (hexadecimal; default: the fastest); `runs` (50) and `warmup` (1) go to the tool, and every model is run
    `repeats` times (3; a single model: 1), in turns.

    `preprocessing=False` leaves the input's normalisation out of networks given by name. `profile` splits these into their
    stages (the stem's includes the normalisation). `memory=False` saves the process that measures each file's peak memory.
    `started` is when the command began on the monotonic clock. ValueError or OSError says what is wrong with a model, a
    setting or a device.
    """
    began = time.monotonic() if started is None else started
    if isinstance(models, str | os.PathLike) or not models:
        raise ValueError(f"`models` must be a list of one or more. Received: models={models!r}")
    targets = [parse_target(model, resolution=resolution) for model in models]
    _check_count("runs", runs, 1)
    _check_count("warmup", warmup, 0)
    _check_count("repeats", repeats, 1)
    if profile and (found := next((target.name for target in targets if target.architecture is None), None)):
        raise ValueError(f"A profile needs networks given by name, whose graphs can be cut. Received: {found}")
    kind, _, serial = device.partition(":")
    if kind == "host" and not serial:
        if mask is not None or benchmark_model is not None or repeats is not None:
            raise ValueError(
                f"`mask`, `benchmark_model` and `repeats` are for device='adb'. "
                f"Received: mask={mask!r}, benchmark_model={benchmark_model!r}, repeats={repeats!r}"
            )
        counts = {"runs": HOST_RUNS if runs is None else runs, "warmup": HOST_WARMUP if warmup is None else warmup}
        return _on_host(
            targets, threads=threads, core=core, **counts, preprocessing=preprocessing, profile=profile, memory=memory,
            seed=seed, progress=progress, began=began,
        )  # fmt: skip
    if kind != "adb" or (":" in device and not serial):
        raise ValueError(f"`device` must be host, adb or adb:SERIAL. Received: device={device!r}")
    if profile or core is not None:
        raise ValueError(f"`profile` and `core` are for device='host'. Received: profile={profile}, core={core!r}")
    if resolution is not None and (found := next((target.name for target in targets if target.path), None)):
        raise ValueError(
            f"On a phone `resolution` is for networks given by name: the official tool takes a file as it is. "
            f"Received: resolution={resolution} for {found}"
        )
    from keras_mnasnet.benchmarks import adb

    return _on_phone(
        targets,
        adb.Plan(serial or None, threads, runs, warmup, mask, benchmark_model, repeats or (3 if len(targets) > 1 else 1)),
        preprocessing=preprocessing,
        seed=seed,
        progress=progress,
    )


def _check_count(name: str, value: int | None, least: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ValueError(f"`{name}` must be an integer of {least} or more. Received: {name}={value!r}")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _on_host(
    targets: Sequence[Target], *, threads: int, core: int | None, runs: int, warmup: int, preprocessing: bool,
    profile: bool, memory: bool, seed: int, progress: bool, began: float,
) -> LatencyReport:  # fmt: skip
    cores = choose_cores(threads, core)
    date, load = _now(), os.getloadavg() if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory() as folder, HostMeter(cores, threads, seed) as meter:
        written = [
            target.write(Path(folder), seed=seed, preprocessing=preprocessing, number=i)[0] for i, target in enumerate(targets)
        ]
        sizes = [path.stat().st_size for path in written]
        samples = meter.measure(
            written,
            names=[target.name for target in targets],
            resolutions=[target.resolution if target.path else None for target in targets],
            runs=runs,
            warmup=warmup,
            memory=memory,
            progress=progress,
        )
        split = [
            _profile(target, Path(folder), cores, threads, preprocessing, runs, warmup, seed, progress) if profile else ()
            for target in targets
        ]
    rounds = samples.cpu if threads == 1 else samples.wall
    results = [
        ModelLatency(
            model=target.name,
            source=target.source,
            precision=target.precision if target.path is None else None,
            resolution=target.resolution,
            size_bytes=sizes[index],
            madds=target.madds,
            runs=sum(map(len, samples.wall[index])),
            cpu=_times(samples.cpu[index]),
            wall=_times(samples.wall[index]),
            ratio=ratio_of_medians(rounds[index], rounds[0], seed=seed),
            memory_mb=_megabytes(samples.memory[index]),
            delegates=samples.partitions[index].delegates,
            outside=tuple(samples.partitions[index].outside),
            stages=split[index],
        )
        for index, target in enumerate(targets)
    ]
    return LatencyReport(
        device=_host_facts(cores, core, samples, load),
        settings={
            "device": "host", "threads": threads, "runs": runs, "rounds": len(samples.wall[0]),
            "timed_per_visit": min(TIMED, runs), "warmup": warmup, "seed": seed, "delegate": "XNNPACK",
            "cpu_clock": CPU_CLOCKS[threads == 1],
            "preprocessing": preprocessing, "profile": profile, "start_delay_s": round(samples.started - began, 3),
        },
        environment=machine(),
        date=date,
        ratio_of="cpu medians" if threads == 1 else "wall medians",
        memory=HOST_MEMORY,
        results=tuple(results),
    )  # fmt: skip


def _written(targets: Sequence[Target], folder: Path, preprocessing: bool, seed: int) -> list[Path]:
    return [
        target.write(folder, seed=seed, preprocessing=preprocessing, number=number)[0] for number, target in enumerate(targets)
    ]


def _times(rounds: Sequence[Sequence[float]]) -> Times:
    return Times.of([value for one in rounds for value in one])


def _megabytes(count: float | None) -> float | None:
    return None if count is None else round(count / 1e6, 2)


def _host_facts(cores: Sequence[int], core: int | None, samples: HostSamples, load: Any) -> dict[str, Any]:
    facts = machine()
    choice = "as asked" if core is not None else "the last of the fastest usable cores"
    return {
        "kind": "host",
        "name": facts["processor"],
        "system": facts["system"],
        "runtime": f"ai-edge-litert {facts['litert']}",
        "affinity": samples.cores if cores else None,
        "affinity_choice": choice if cores else "not pinned: this system cannot",
        "cores": [core_state(each) for each in cores],
        "load_average": list(load) if load else None,
    }


def _profile(
    target: Target, folder: Path, cores: Sequence[int], threads: int, preprocessing: bool, runs: int, warmup: int, seed: int,
    progress: bool,
) -> tuple[StageLatency, ...]:  # fmt: skip
    """Milliseconds by stage: truncated graphs in turns, each stage the difference of two neighbours' minima."""
    if target.architecture is None or target.resolution is None:
        return ()
    madds = stages(target.architecture, target.resolution, target.classes)
    parts = [part if part != "classifier" else None for part in madds]
    files = target.write(folder, seed=seed, preprocessing=preprocessing, parts=tuple(parts), number=-1)
    with HostMeter(cores, threads, seed) as meter:
        samples = meter.measure(
            files, names=[f"{target.name} until {part}" for part in madds], resolutions=[None] * len(files), runs=runs,
            warmup=warmup, memory=False, progress=progress,
        )  # fmt: skip
    minima = [_times(rounds).min_ms for rounds in (samples.cpu if threads == 1 else samples.wall)]
    return tuple(
        StageLatency(stage, after - before, count)
        for (stage, count), before, after in zip(madds.items(), [0.0, *minima[:-1]], minima, strict=True)
    )


def _on_phone(targets: Sequence[Target], plan: Any, *, preprocessing: bool, seed: int, progress: bool) -> LatencyReport:
    from keras_mnasnet.benchmarks import adb

    date = _now()
    with tempfile.TemporaryDirectory() as folder:
        written = [
            target.write(Path(folder), seed=seed, preprocessing=preprocessing, number=i)[0] for i, target in enumerate(targets)
        ]
        sizes = [path.stat().st_size for path in written]
        found = adb.measure(written, plan, names=[target.name for target in targets], progress=progress)
    has_medians = all(run.median_ms is not None for runs in found.runs for run in runs)
    shown = [[[adb.typical(run)] for run in runs] for runs in found.runs]
    results = []
    for index, (target, runs) in enumerate(zip(targets, found.runs, strict=True)):
        last = runs[-1]
        results.append(
            ModelLatency(
                model=target.name,
                source=target.source,
                precision=target.precision if target.path is None else None,
                resolution=target.resolution,
                size_bytes=sizes[index],
                madds=target.madds,
                runs=sum(run.count for run in runs),
                cpu=None,
                wall=adb.pooled(runs),
                ratio=ratio_of_medians(shown[index], shown[0], seed=seed),
                memory_mb=last.memory_mb,
                delegates=last.delegates,
                outside=last.outside,
            )
        )
    return LatencyReport(
        device=found.device,
        settings={**found.settings, "preprocessing": preprocessing, "seed": seed},
        environment=machine(),
        date=date,
        ratio_of="wall medians" if has_medians else "wall averages",
        memory="memory footprint delta of the official tool, overall; approximate",
        results=tuple(results),
    )
