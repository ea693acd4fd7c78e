"""Single-thread latency of models and networks as `.tflite` or `.onnx` files, on this machine, a phone or an emulated core."""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.benchmarks.host import TIMED, HostMeter, HostSamples, choose_cores
from keras_mnasnet.benchmarks.results import SCHEMA
from keras_mnasnet.benchmarks.timing import Ratio, Times, ratio_of_medians
from keras_mnasnet.family import FAMILY, as_architecture, default_size
from keras_mnasnet.utils.files import scratch
from keras_mnasnet.utils.reading import TFLITE_MARK, exported_kind
from keras_mnasnet.utils.system import core_state, machine
from keras_mnasnet.utils.text import did_you_mean, header, listed

if TYPE_CHECKING:
    from keras_mnasnet.benchmarks.emulator import PhoneFit

PRECISIONS = {"float32": "float32", "float16": "float16", "weight-int8": "weight-int8", "int8": "int8-random"}
SYNTAX = (
    "a .tflite or .onnx file, a model that keras_mnasnet.load() takes, or a network (a1, b1, small, ...; with a width: a1-0.5; "
    "or a text form), the last two with [@SIZE][:PRECISION]"
)
NAMED = re.compile(r"(?P<name>.+?)(?:@(?P<size>\d+))?(?::(?P<precision>[\w-]+))?", re.DOTALL)
HOST_RUNS, HOST_WARMUP = 60, 3
CPU_CLOCKS = {
    True: "CPU time of the calling thread, where XNNPACK and ONNX Runtime run",
    False: "CPU time of all threads, waiting included",
}
HOST_MEMORY = (
    "peak resident memory that loading and running the file once adds to a process which has imported the runtime; "
    "the pages of the runtime's own code that it touches are included, and of a .onnx file what reads its tables first"
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
    model's, in the report's `ratio_of`. On an emulated core both are None: there `instructions` are counted, and `estimated_ms`
    are a phone's milliseconds, where the device names one. `size` is the input's, in pixels. `delegates` counts the parts of
    the graph that XNNPACK, or a phone's other delegate, runs, `outside` names the operators that it does not (None: not known).
    `stages` is empty without a profile.
    """

    model: str
    source: str
    precision: str | None
    size: int | None
    size_bytes: int
    madds: int | None
    runs: int
    cpu: Times | None
    wall: Times | None
    ratio: Ratio
    memory_mb: float | None
    delegates: int | None
    outside: tuple[str, ...] | None
    stages: tuple[StageLatency, ...] = ()
    instructions: int | None = None
    estimated_ms: float | None = None

    @property
    def typical_ms(self) -> float | None:
        """The median (of CPU time, else of wall time; the mean where a phone's tool prints no median), or the estimate."""
        times = self.cpu or self.wall
        if times is None:
            return self.estimated_ms
        return times.mean_ms if times.median_ms is None else times.median_ms


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


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """One thing to measure: `path` of a file, or an `architecture`, with a `checkpoint` or random weights, to be written."""

    name: str
    path: Path | None = None
    architecture: Architecture | None = None
    checkpoint: Any = dataclasses.field(default=None, repr=False, compare=False)
    size: int | None = None
    precision: str = "float32"
    classes: int = 1000

    @property
    def is_onnx(self) -> bool:
        """Whether ONNX Runtime runs it."""
        return self.path is not None and exported_kind(self.path) == "onnx"

    @property
    def source(self) -> str:
        """Where the weights are from."""
        if self.path is not None:
            return "file"
        weights = "random weights" if self.checkpoint is None else "its own weights"
        return f"{weights}, written directly{'; invented activation ranges' if self.precision == 'int8' else ''}"

    @property
    def madds(self) -> int | None:
        """Multiply-adds of a network."""
        if self.architecture is None or self.size is None:
            return None
        return self.architecture.madds(self.size, self.size, classes=self.classes)

    def write(
        self, folder: Path, *, seed: int = 0, include_preprocessing: bool = True, parts: tuple[str | None, ...] = (None,),
        number: int = 0,
    ) -> list[Path]:  # fmt: skip
        """The network's `.tflite` in `folder`, or one file for each part after which it shall end; a file is itself."""
        if self.path is not None or self.architecture is None or self.size is None:
            return [Path(self.path or "")]
        from keras_mnasnet.export.graph import folded_weights, random_weights, write_graph

        options: dict[str, Any] = {"height": self.size, "width": self.size, "preprocessing": include_preprocessing}
        if self.checkpoint is None:
            weights = random_weights(self.architecture, classes=self.classes, seed=seed)
        else:
            numerics = self.checkpoint.numerics
            options["padding"] = numerics.padding
            weights = folded_weights(
                self.architecture, self.checkpoint.tensors, classes=self.classes, bn_epsilon=numerics.bn_epsilon
            )
        written = []
        for part in parts:
            content = write_graph(
                self.architecture, weights, classes=self.classes, precision=PRECISIONS[self.precision],
                description=f"{self.name}, for timing", until=part, **options,
            )  # fmt: skip
            written.append(folder / f"{number}-{part or 'whole'}.tflite")
            written[-1].write_bytes(content)
        return written


def latency(
    models: Any = (), *, networks: str | Sequence[str] = (), device: str = "host", size: int | None = None, threads: int = 1,
    runs: int | None = None, warmup: int | None = None, core: int | None = None, mask: str | None = None,
    benchmark_model: str | os.PathLike[str] | None = None, repeats: int | None = None, delegate: str = "xnnpack",
    include_preprocessing: bool = True, profile: bool = False, memory: bool = True, seed: int = 0, progress: bool = True,
    started: float | None = None,
) -> LatencyReport:  # fmt: skip
    """Measure models in turns on `device`: `host` (this machine), `adb` or `adb:SERIAL` (a phone), or an emulated ARM core.

    `models`: one or several of what `keras_mnasnet.load` takes, with their own weights; a `.tflite` or `.onnx` file; or a
    network's name. `networks`: names of the family (`a1`, `b1-0.5`) or text forms, with random weights, which do not change a
    latency. Both may be followed by `@SIZE` and `:PRECISION` (float32, float16, weight-int8, int8), as in `a1@192:int8`;
    `size` is for those that state none.

    `host`: a process of its own with LiteRT and XNNPACK, or ONNX Runtime, pinned to `core` (default: the last of the fastest);
    every round visits every model, one invocation to warm and three timed, and begins with the next model; `runs` (60)
    timed invocations of each after `warmup` (3). `adb`: the official tool, at the path or in the folder `benchmark_model`,
    pinned to the cores of `mask` (hexadecimal; default: the fastest); `runs` (50) and `warmup` (1) go to the tool, and every
    model is run `repeats` times (3; a single model: 1), in turns. `delegate` is xnnpack, gpu, nnapi or nnapi:ACCELERATOR; one
    that does not run any of a model is an error.

    `emulated`: instructions of one inference, one thread, counted on an emulated Cortex-A72, and a Pixel 1's milliseconds from
    them; `emulated:CORE` counts on cortex-a53, cortex-a72, cortex-a76 or armv8.6, without milliseconds; `emulated:FILE` is a
    phone of `calibrate`. A count does not depend on this machine's load. `mnasnet bench emulator` sets it up.

    `include_preprocessing=False` leaves the input's normalization out of what is written here. `profile` splits these networks
    into their stages (the stem's includes the normalization). `memory=False` saves the process that measures each file's peak
    memory. `started` is when the command began on the monotonic clock. Raises ValueError or OSError, which say what is wrong
    with a model, a setting or a device.

    Example:
        >>> from keras_mnasnet import benchmarks
        >>> report = benchmarks.latency("cifar10", size=32, networks="small@32", runs=3, memory=False, progress=False)
        >>> [(row.model, row.size, row.wall.median_ms > 0) for row in report.results]
        [('cifar10', 32, True), ('small@32', 32, True)]
    """
    began = time.monotonic() if started is None else started
    asked, named = _several(models), _several(networks)
    if not asked and not named:
        raise ValueError("A measurement needs one or more models or networks. Received: none")
    targets = [parse_target(model, size=size) for model in asked] + [parse_network(network, size=size) for network in named]
    _check_count("runs", runs, 1)
    _check_count("warmup", warmup, 0)
    _check_count("repeats", repeats, 1)
    if profile and (found := next((target.name for target in targets if target.architecture is None), None)):
        raise ValueError(f"A profile cuts the graphs of networks and checkpoints; a file stays as it is. Received: {found}")
    kind, colon, serial = device.partition(":")
    if delegate != "xnnpack" and kind != "adb":
        raise ValueError(f"`delegate` other than xnnpack is for device='adb', a phone. Received: delegate={delegate!r}")
    shared: dict[str, Any] = {"include_preprocessing": include_preprocessing, "seed": seed, "progress": progress}
    if kind == "host" and not serial:
        if mask is not None or benchmark_model is not None or repeats is not None:
            raise ValueError(
                f"`mask`, `benchmark_model` and `repeats` are for device='adb'. "
                f"Received: mask={mask!r}, benchmark_model={benchmark_model!r}, repeats={repeats!r}"
            )
        shared |= {"runs": HOST_RUNS if runs is None else runs, "warmup": HOST_WARMUP if warmup is None else warmup}
        return _on_host(targets, threads=threads, core=core, profile=profile, memory=memory, began=began, **shared)
    if kind not in ("adb", "emulated") or (colon and not serial):
        raise ValueError(
            f"`device` must be host, adb, adb:SERIAL, emulated, emulated:CORE or emulated:FILE. Received: device={device!r}"
        )
    if profile or core is not None:
        raise ValueError(f"`profile` and `core` are for device='host'. Received: profile={profile}, core={core!r}")
    if found := next((target.name for target in targets if target.is_onnx), None):
        raise ValueError(f"A phone and an emulated core run .tflite files. Received: {found}. `mnasnet export -o` writes one")
    if kind == "emulated":
        timing = {
            "runs": runs, "warmup": warmup, "mask": mask, "benchmark_model": benchmark_model, "repeats": repeats,
            "threads": None if threads == 1 else threads,
        }  # fmt: skip
        if said := [f"{name}={value!r}" for name, value in timing.items() if value is not None]:
            raise ValueError(
                f"An emulated core counts one inference in one thread: there is nothing to time. Received: {', '.join(said)}"
            )
        return _on_emulator(targets, serial, **shared)
    if size is not None and (found := next((target.name for target in targets if target.path), None)):
        raise ValueError(
            f"On a phone `size` is for networks and checkpoints: the official tool takes a .tflite file as it is. "
            f"Received: size={size} for {found}"
        )
    from keras_mnasnet.benchmarks.phone import Plan

    repeats = repeats or (3 if len(targets) > 1 else 1)
    plan = Plan(serial or None, threads, runs, warmup, mask, benchmark_model, repeats, delegate)
    return _on_phone(targets, plan, **shared)


def calibrate(
    measured: Mapping[str, float], path: str | os.PathLike[str] | None = None, *, phone: str = "phone",
    core: str = "cortex-a76", size: int | None = None, include_preprocessing: bool = True, progress: bool = True,
) -> PhoneFit:  # fmt: skip
    """A phone's line from a few networks whose milliseconds were measured on it; written to `path`, for `emulated:FILE`.

    `measured`: milliseconds (one thread, batch 1) of three or more of what `latency` takes, small and large ones, in one
    precision. `core`: the emulated core most like the phone's big ones. `include_preprocessing`: as in what was measured.

    Example:
        from keras_mnasnet import benchmarks

        fit = benchmarks.calibrate({"a1": 78, "a1-0.5": 32, "small": 23.2}, "pixel1.json", core="cortex-a72")
        print(fit.percent_off)
    """
    from keras_mnasnet.benchmarks.emulator import CORES, EmulatorMeter, FitRow, fitted
    from keras_mnasnet.benchmarks.results import check_output, write_json

    if core not in CORES:
        raise ValueError(f"`core` must be one of {', '.join(CORES)}. Received: core={core!r}")
    if path is not None:
        check_output(path)
    targets = [parse_target(model, size=size) for model in measured]
    with scratch() as folder, EmulatorMeter(core) as meter:
        files = [
            target.write(folder, include_preprocessing=include_preprocessing, number=number)[0]
            for number, target in enumerate(targets)
        ]
        sizes = [target.size if target.path else None for target in targets]
        counts = meter.count(files, names=list(measured), sizes=sizes, progress=progress)
        rows = [FitRow(name, float(ms), count.instructions) for (name, ms), count in zip(measured.items(), counts, strict=True)]
        fit = fitted(rows, phone=phone, core=core, litert=meter.facts()["litert"])
    if path is not None:
        write_json(path, fit.to_json())
    return fit


def _several(given: Any) -> list[Any]:
    """A list of what may be one."""
    is_one = isinstance(given, str | os.PathLike) or not isinstance(given, Iterable)
    return [given] if is_one else list(given)


def _check_count(name: str, value: int | None, least: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ValueError(f"`{name}` must be an integer of {least} or more. Received: {name}={value!r}")


# What is measured


def parse_target(model: Any, *, size: int | None = None) -> Target:
    """Read what to measure (SYNTAX); `size` is for what states none. ValueError says what is wrong with it."""
    _check_size(size)
    if not isinstance(model, str | os.PathLike):
        return _checkpoint_target(model, None, size, "float32")
    text = os.fspath(model)
    path = Path(text).expanduser()
    if text not in FAMILY and (kind := exported_kind(text)):
        return Target(text, path=_checked_file(path, text, kind), size=size)
    if os.path.exists(path) and text not in FAMILY:
        return _checkpoint_target(text, text, size, "float32")
    name, asked, precision = _split(text, size)
    from keras_mnasnet.weights.registry import datasets, names

    try:
        return _network_target(text, name, asked, precision)
    except ValueError as error:
        if not _is_source(name):
            near = did_you_mean(name, [*datasets(), *names(), *FAMILY])
            raise ValueError(f"A model must be {SYNTAX}. {error}{near} `mnasnet weights list` shows the records.") from error
    return _checkpoint_target(name, text, asked, precision)


def parse_network(network: Any, *, size: int | None = None) -> Target:
    """A network without weights, by its name or text form with [@SIZE][:PRECISION]."""
    _check_size(size)
    if not isinstance(network, str):
        network = str(as_architecture(network))
    name, asked, precision = _split(network, size)
    try:
        return _network_target(network, name, asked, precision)
    except ValueError as error:
        way = " A file or a record is a model: give it as one, not with networks= (--network)." if _is_source(name) else ""
        raise ValueError(f"{error}{way}") from error


def _check_size(size: int | None) -> None:
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 32):
        raise ValueError(f"`size` must be an integer of 32 pixels or more. Received: size={size!r}")


def _split(text: str, size: int | None) -> tuple[str, int | None, str]:
    """Name, size and precision of `NAME[@SIZE][:PRECISION]`."""
    match = NAMED.fullmatch(text)
    name, stated, precision = match.groups() if match else (text, None, None)
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"A precision is one of {', '.join(PRECISIONS)}. Received: {precision!r} in {text!r}")
    asked = int(stated) if stated else size
    if asked is not None and asked < 32:
        raise ValueError(f"A size must be 32 pixels or more. Received: {text!r}")
    return name, asked, precision or "float32"


def _network_target(text: str, name: str, size: int | None, precision: str) -> Target:
    """A network with an optional width multiplier, as scaled networks are named: `a1-0.75`."""
    member, _, width = name.rpartition("-")
    if name not in FAMILY and member in FAMILY and re.fullmatch(r"\d+(\.\d+)?", width):
        architecture = FAMILY[member].scaled(float(width))
    else:
        architecture = as_architecture(name)
    return Target(text, architecture=architecture, size=size or default_size(architecture), precision=precision)


def _is_source(name: str) -> bool:
    """Whether a text that names no network is meant for `load`."""
    from keras_mnasnet.weights.formats import SUFFIXES
    from keras_mnasnet.weights.registry import datasets

    return "/" in name or name in datasets() or name.endswith(SUFFIXES) or os.path.exists(name)


def _checkpoint_target(source: Any, text: str | None, size: int | None, precision: str) -> Target:
    from keras_mnasnet.loading import load

    checkpoint = load(source, size=size)
    if checkpoint.detector is not None:
        raise ValueError(
            f"A latency is measured of classifiers and .tflite files. Received: {checkpoint.origin.name}, a detector: "
            f"`mnasnet detect export {checkpoint.origin.name} -o FILE.tflite` writes the file to measure"
        )
    if not checkpoint.classes:
        raise ValueError(
            f"A latency is measured of a classifier with its classes. Received: {text or checkpoint.origin.name}, which has "
            f"none: `mnasnet train --from` gives it some"
        )
    return Target(
        text or checkpoint.origin.name, architecture=checkpoint.architecture, checkpoint=checkpoint, precision=precision,
        classes=checkpoint.classes, size=size or checkpoint.size,
    )  # fmt: skip


def _checked_file(path: Path, text: str, kind: str) -> Path:
    if not path.is_file():
        what = "a folder" if path.is_dir() else "which does not exist"
        raise ValueError(f"A .{kind} file must exist. Received: {text}, {what}")
    if kind == "onnx":
        from keras_mnasnet.export.onnx_file import OnnxFile

        OnnxFile.load_runtime()
        return path
    with path.open("rb") as file:
        if (begins := file.read(8))[4:] != TFLITE_MARK:
            from keras_mnasnet.weights.formats.content import HEAD, check_tflite

            check_tflite(text, begins + file.read(HEAD), path.stat().st_size)
    return path


def stages(architecture: Architecture, size: int, classes: int) -> dict[str, int]:
    """The parts of a network, stem to classifier, with their multiply-adds; `classifier` is the mean and the dense layer."""
    found: dict[str, int] = {}
    for layer in architecture.layers(size, size, classes=classes):
        block = re.match(r"block\d+", layer.name)
        part = block[0] if block else {"stem_conv": "stem", "head_conv": "head"}.get(layer.name, "classifier")
        found[part] = found.get(part, 0) + layer.madds
    return found


# How it is measured


def _on_host(
    targets: Sequence[Target], *, threads: int, core: int | None, runs: int, warmup: int, include_preprocessing: bool,
    profile: bool, memory: bool, seed: int, progress: bool, began: float,
) -> LatencyReport:  # fmt: skip
    cores = choose_cores(threads, core)
    date, load = _now(), os.getloadavg() if hasattr(os, "getloadavg") else None
    device = _host_facts(cores, core, targets)
    pinned = f"core {', '.join(map(str, cores))} ({device['affinity_choice']})" if cores else device["affinity_choice"]
    _header(targets, device, pinned, threads, f"{runs} timed of each after {warmup} to warm up, in turns", progress)
    with scratch() as folder, HostMeter(cores, threads, seed) as meter:
        written = _written(targets, folder, include_preprocessing, seed)
        sizes = [path.stat().st_size for path in written]
        samples = meter.measure(
            written,
            names=[target.name for target in targets],
            sizes=[target.size if target.path else None for target in targets],
            runs=runs,
            warmup=warmup,
            memory=memory,
            progress=progress,
        )
        split = [
            _profile(target, folder, cores, threads, include_preprocessing, runs, warmup, seed, progress) if profile else ()
            for target in targets
        ]
    rounds = samples.cpu if threads == 1 else samples.wall
    results = [
        _result(
            target,
            size_bytes=sizes[index],
            runs=sum(map(len, samples.wall[index])),
            cpu=_times(samples.cpu[index]),
            wall=_times(samples.wall[index]),
            ratio=ratio_of_medians(rounds[index], rounds[0], seed=seed),
            memory_mb=_megabytes(samples.memory[index]),
            delegates=taken and taken.delegates,
            outside=taken and tuple(taken.outside),
            stages=split[index],
        )
        for index, (target, taken) in enumerate(zip(targets, samples.partitions, strict=True))
    ]
    return LatencyReport(
        device=device | _cores_now(cores, samples, load),
        settings={
            "device": "host", "threads": threads, "runs": runs, "rounds": len(samples.wall[0]),
            "timed_per_visit": min(TIMED, runs), "warmup": warmup, "seed": seed, "delegate": _delegate(targets),
            "cpu_clock": CPU_CLOCKS[threads == 1], "include_preprocessing": include_preprocessing, "profile": profile,
            "start_delay_s": round(samples.started - began, 3),
        },
        environment=machine(),
        date=date,
        ratio_of="cpu medians" if threads == 1 else "wall medians",
        memory=HOST_MEMORY,
        results=tuple(results),
    )  # fmt: skip


def _on_phone(targets: Sequence[Target], plan: Any, *, include_preprocessing: bool, seed: int, progress: bool) -> LatencyReport:
    from keras_mnasnet.benchmarks import phone

    date = _now()
    with scratch() as folder, phone.PhoneMeter(plan) as meter:
        mask = meter.facts["affinity"]
        pinned = f"mask {mask} ({meter.facts['affinity_choice']})" if mask else meter.facts["affinity_choice"]
        counts = f"{meter.settings['runs']} of each, {plan.repeats} times, in turns"
        _header(targets, meter.facts, pinned, plan.threads, counts, progress, delegate=meter.settings["delegate"])
        written = _written(targets, folder, include_preprocessing, seed)
        sizes = [path.stat().st_size for path in written]
        found = meter.measure(written, names=[target.name for target in targets], progress=progress)
    has_medians = all(run.median_ms is not None for runs in found.runs for run in runs)
    shown = [[[phone.typical(run)] for run in runs] for runs in found.runs]
    results = [
        _result(
            target,
            size_bytes=sizes[index],
            runs=sum(run.count for run in runs),
            cpu=None,
            wall=phone.pooled(runs),
            ratio=ratio_of_medians(shown[index], shown[0], seed=seed),
            memory_mb=runs[-1].memory_mb,
            delegates=runs[-1].delegates,
            outside=runs[-1].outside,
        )
        for index, (target, runs) in enumerate(zip(targets, found.runs, strict=True))
    ]
    return LatencyReport(
        device=found.device,
        settings={**found.settings, "include_preprocessing": include_preprocessing, "seed": seed},
        environment=machine(),
        date=date,
        ratio_of="wall medians" if has_medians else "wall averages",
        memory="memory footprint delta of the official tool, overall; approximate",
        results=tuple(results),
    )


def _on_emulator(
    targets: Sequence[Target], name: str, *, include_preprocessing: bool, seed: int, progress: bool
) -> LatencyReport:  # fmt: skip
    from keras_mnasnet.benchmarks.emulator import EmulatorMeter, parse_emulated

    core, fit = parse_emulated(name)
    date = _now()
    with scratch() as folder, EmulatorMeter(core) as meter:
        device = meter.facts()
        what = f"for {fit.phone}" if fit else "instructions alone"
        _header(targets, device, what, 1, "one of each, counted", progress)
        written = _written(targets, folder, include_preprocessing, seed)
        sizes = [path.stat().st_size for path in written]
        counts = meter.count(
            written, names=[target.name for target in targets],
            sizes=[target.size if target.path else None for target in targets], seed=seed, progress=progress,
        )  # fmt: skip
    shown = [fit.ms(count.instructions) if fit else count.instructions for count in counts]
    results = [
        _result(
            target,
            size_bytes=sizes[index],
            runs=1,
            cpu=None,
            wall=None,
            ratio=Ratio(shown[index] / shown[0], None, None),
            memory_mb=None,
            delegates=count.partitions.delegates,
            outside=tuple(count.partitions.outside),
            instructions=count.instructions,
            estimated_ms=shown[index] if fit else None,
        )
        for index, (target, count) in enumerate(zip(targets, counts, strict=True))
    ]
    about = None if fit is None else {key: value for key, value in fit.to_json().items() if key != "rows"}
    return LatencyReport(
        device={**device, "phone": about},
        settings={
            "device": "emulated", "threads": 1, "runs": 1, "seed": seed, "delegate": "XNNPACK",
            "clock": "none: instructions of one inference, the same under any load",
            "include_preprocessing": include_preprocessing,
        },
        environment=machine(),
        date=date,
        ratio_of="estimated milliseconds" if fit else "instructions",
        memory="not measured on an emulated core",
        results=tuple(results),
    )  # fmt: skip


def _header(
    targets: Sequence[Target], device: dict[str, Any], pinned: str, count: int, runs: str, progress: bool,
    delegate: str | None = None,
) -> None:  # fmt: skip
    """What is measured, where and how often."""
    shown = [
        f"{target.name} ({target.source}{f', {target.size} px' if target.size else ''}"
        f"{f', {target.precision}' if target.path is None else ''})"
        for target in targets
    ]
    threads = f"{count} thread{'s' if count > 1 else ''}"
    rows = {
        "models": listed(shown),
        "device": f"{device['name']}, {device['system']}, {pinned}",
        "runtime": listed(filter(None, (device["runtime"], delegate or _delegate(targets), threads))),
        "runs": runs,
    }
    header(rows, shown=progress)


def _written(targets: Sequence[Target], folder: Path, include_preprocessing: bool, seed: int) -> list[Path]:
    return [
        target.write(folder, seed=seed, include_preprocessing=include_preprocessing, number=number)[0]
        for number, target in enumerate(targets)
    ]


def _result(target: Target, **measured: Any) -> ModelLatency:
    return ModelLatency(
        model=target.name, source=target.source, precision=target.precision if target.path is None else None,
        size=target.size, madds=target.madds, **measured,
    )  # fmt: skip


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _times(rounds: Sequence[Sequence[float]]) -> Times:
    return Times.of([value for one in rounds for value in one])


def _megabytes(count: float | None) -> float | None:
    return None if count is None else round(count / 1e6, 2)


def _delegate(targets: Sequence[Target]) -> str | None:
    """What runs the graphs inside of LiteRT, if that runs any."""
    return None if all(target.is_onnx for target in targets) else "XNNPACK"


def _host_facts(cores: Sequence[int], core: int | None, targets: Sequence[Target]) -> dict[str, Any]:
    facts = machine()
    used = [f"onnxruntime {facts['onnxruntime']}"] if any(target.is_onnx for target in targets) else []
    used += [f"ai-edge-litert {facts['litert']}"] if _delegate(targets) else []
    choice = "as asked" if core is not None else "the last of the fastest usable cores"
    return {
        "kind": "host",
        "name": facts["processor"],
        "system": facts["system"],
        "runtime": " and ".join(used),
        "affinity_choice": choice if cores else "not pinned: this system cannot",
    }


def _cores_now(cores: Sequence[int], samples: HostSamples, load: Any) -> dict[str, Any]:
    return {
        "affinity": samples.cores if cores else None,
        "cores": [core_state(each) for each in cores],
        "load_average": list(load) if load else None,
    }


def _profile(
    target: Target, folder: Path, cores: Sequence[int], threads: int, include_preprocessing: bool, runs: int, warmup: int,
    seed: int, progress: bool,
) -> tuple[StageLatency, ...]:  # fmt: skip
    """Milliseconds by stage: truncated graphs in turns, each stage the difference of two neighbors' minima."""
    if target.architecture is None or target.size is None:
        return ()
    madds = stages(target.architecture, target.size, target.classes)
    parts = [part if part != "classifier" else None for part in madds]
    files = target.write(folder, seed=seed, include_preprocessing=include_preprocessing, parts=tuple(parts), number=-1)
    with HostMeter(cores, threads, seed) as meter:
        samples = meter.measure(
            files, names=[f"{target.name} until {part}" for part in madds], runs=runs, warmup=warmup, memory=False,
            progress=progress,
        )  # fmt: skip
    minima = [_times(rounds).min_ms for rounds in (samples.cpu if threads == 1 else samples.wall)]
    return tuple(
        StageLatency(stage, after - before, count)
        for (stage, count), before, after in zip(madds.items(), [0.0, *minima[:-1]], minima, strict=True)
    )
