"""Latency of a network that is not trained yet: from a device, a lookup table, the Pixel-1 model or multiply-adds."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import re
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from keras_mnasnet.architecture import Architecture, Block, Layer
from keras_mnasnet.benchmarks import phone
from keras_mnasnet.benchmarks.emulator import EmulatorMeter, parse_emulated, pixel1
from keras_mnasnet.benchmarks.host import TIMED, HostMeter, HostSamples, choose_cores
from keras_mnasnet.benchmarks.speed import Target
from keras_mnasnet.benchmarks.timing import Times
from keras_mnasnet.utils.reading import fields_of, read_json, shown
from keras_mnasnet.utils.system import core_state, machine

SCHEMA = 2
PIXELS, FILTERS = 4, 8  # of a convolution's output that XNNPACK computes at once on a Cortex-A72
PAIR = 2  # outputs at once of a 1x1 convolution of one pixel, where their number is no multiple of FILTERS
FEATURES = (
    "pointwise", "pointwise_tiles", "full", "full_taps", "full_tiles", "one_pixel", "one_pixel_tiles", "one_pixel_pairs",
    "one_pixel_pair_tiles", "depthwise3", "depthwise3_pixels", "depthwise5", "depthwise5_pixels", "depthwise7", "added",
    "gated", "gated_pixels", "averaged", "averaged_filters", "pooled", "pooled_pixels", "operators",
)  # fmt: skip
TABLE_SCHEMA, TABLE_KIND = 1, "latency table"
MEASURED_RESOLUTIONS, MEASURED_MS, MEASURED_KERNELS = (96, 224), (4.5, 143.0), (3, 5)  # of networks on a Pixel 1

SYNTAX = (
    "host, adb, adb:SERIAL, emulated, emulated:CORE, emulated:FILE, table:FILE, pixel1, madds, or several with commas: the "
    "next answers where one cannot"
)
RUNS, WARMUP = 60, 3
VISIT = 20  # timed invocations in a row: one network alone needs no turns
LINK = re.compile(r",(?=(?:host|adb|emulated|pixel1|madds|table)(?:[:,]|$))")


class DeviceGone(OSError):
    """The device does not measure any more, whatever the network: reconnect it and go on."""


class CannotKnow(ValueError):
    """This model cannot know this network; the next link of a chain is asked."""


@dataclasses.dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one image, one thread. `source` says who answered, `details` how (JSON)."""

    latency_ms: float
    source: str
    extrapolated: bool = False
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


class LatencyModel(Protocol):
    """What gives a network's latency. `measures`: it takes a device's time; else it is arithmetic."""

    name: str
    measures: bool

    def latency_ms(self, architecture: Architecture, resolution: int, classes: int) -> Latency:
        """The latency of a network at an input of `resolution` pixels; CannotKnow, DeviceGone or ValueError."""
        ...

    def close(self) -> None:
        """Give up what is held: processes, files on a phone."""
        ...


class Meter(LatencyModel, Protocol):
    """A latency model that times files on a device."""

    def files_ms(self, files: Sequence[Path], names: Sequence[str]) -> list[float]:
        """The median of each file, in milliseconds."""
        ...

    def facts(self) -> dict[str, Any]:
        """What is measured on (JSON)."""
        ...


def parse_device(
    text: str, *, core: int | None = None, mask: str | None = None, benchmark_model: str | os.PathLike[str] | None = None,
    runs: int | None = None,
) -> LatencyModel:  # fmt: skip
    """The model that a text means (SYNTAX). `core` is the host's; `mask` and `benchmark_model` a phone's; `runs` timed runs."""
    if not isinstance(text, str) or not text:
        raise ValueError(f"A device must be {SYNTAX}. Received: {text!r}")
    links: list[LatencyModel] = []
    for part in LINK.split(text):
        kind, colon, rest = part.partition(":")
        if kind == "adb" and bool(colon) == bool(rest):
            links.append(PhoneLatency(rest or None, mask=mask, benchmark_model=benchmark_model, runs=runs))
        elif kind == "emulated" and bool(colon) == bool(rest):
            links.append(EmulatedLatency(rest))
        elif kind == "table" and rest:
            links.append(TableLatency.open(rest))
        elif kind == "host" and not colon:
            links.append(HostLatency(core=core, runs=runs))
        elif part in ("pixel1", "madds"):
            links.append(Pixel1Latency() if part == "pixel1" else MaddsLatency())
        else:
            raise ValueError(f"A device must be {SYNTAX}. Received: {part!r}{'' if part == text else f' in {text!r}'}")
    return links[0] if len(links) == 1 else ChainLatency(tuple(links))


class HostLatency:
    """This machine's single-thread latency, as `mnasnet bench latency` measures it: LiteRT and XNNPACK on one pinned core.

    The measuring process starts with the first network and stays. Networks have random weights and normalize their input.
    Processes that measure on one core at the same time wait for each other.
    """

    measures = True

    def __init__(self, *, core: int | None = None, runs: int | None = None) -> None:
        self.name = "host"
        self.cores = choose_cores(1, core)
        self.runs = RUNS if runs is None else runs
        self._meter: HostMeter | None = None

    def latency_ms(self, architecture: Architecture, resolution: int, classes: int) -> Latency:
        """The median CPU time of `runs` invocations."""
        with _written(architecture, resolution, classes) as file:
            samples = self._measured([file], [architecture.name], timed=VISIT)
        times, taken = _times(samples.cpu[0]), samples.partitions[0]
        details = {
            "runs": sum(map(len, samples.cpu[0])), "p10_ms": times.p10_ms, "p90_ms": times.p90_ms, "min_ms": times.min_ms,
            "cores": samples.cores, "delegates": taken and taken.delegates,
        }  # fmt: skip
        return Latency(_median(samples.cpu[0]), self.name, details=details)

    def files_ms(self, files: Sequence[Path], names: Sequence[str]) -> list[float]:
        """The medians of several files, measured in turns."""
        return [_median(rounds) for rounds in self._measured(files, names, timed=TIMED).cpu]

    def facts(self) -> dict[str, Any]:
        """What is measured on."""
        return {**machine(), "kind": "host", "cores": [core_state(core) for core in self.cores], "runs": self.runs}

    def _measured(self, files: Sequence[Path], names: Sequence[str], timed: int) -> HostSamples:
        if self._meter is None:
            self._meter = HostMeter(self.cores, 1, 0)
        with self._alone():
            try:
                return self._meter.measure(
                    files, names=names, runs=self.runs, warmup=WARMUP, memory=False,
                    timed=timed,
                )  # fmt: skip
            except ChildProcessError as error:
                raise DeviceGone(f"{error}. The next network starts another one.") from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        owner = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
        core = "-".join(map(str, self.cores)) or "any"
        with FileLock(Path(tempfile.gettempdir()) / f"keras_mnasnet-meter{owner}-core{core}.lock"):
            yield

    def close(self) -> None:
        """End the measuring process."""
        if self._meter is not None:
            self._meter.close()
            self._meter = None


class PhoneLatency:
    """A phone's single-thread latency, by TensorFlow Lite's `benchmark_model`, which stays on the phone until `close`."""

    measures = True

    def __init__(
        self, serial: str | None, *, mask: str | None = None, benchmark_model: str | os.PathLike[str] | None = None,
        runs: int | None = None,
    ) -> None:  # fmt: skip
        self.name = f"adb:{serial}" if serial else "adb"
        self.plan = phone.Plan(serial, 1, runs, None, mask, benchmark_model, 1)
        self._meter: phone.PhoneMeter | None = None
        self._facts: dict[str, Any] = {}

    def latency_ms(self, architecture: Architecture, resolution: int, classes: int) -> Latency:
        """The tool's median, or its average where it prints none."""
        with _written(architecture, resolution, classes) as file:
            found = self._measured([file], [architecture.name])
        run = found.runs[0][0]
        details = {
            "runs": run.count, "p5_ms": run.p5_ms, "p95_ms": run.p95_ms, "min_ms": run.min_ms, "phone": found.device["name"],
            "temperature_c": found.device["after"]["temperature_c"],
        }  # fmt: skip
        return Latency(phone.typical(run), self.name, details=details)

    def files_ms(self, files: Sequence[Path], names: Sequence[str]) -> list[float]:
        """The medians of several files."""
        return [phone.typical(runs[0]) for runs in self._measured(files, names).runs]

    def facts(self) -> dict[str, Any]:
        """What was measured on; empty before the first measurement."""
        return self._facts

    def _measured(self, files: Sequence[Path], names: Sequence[str]) -> phone.PhoneSamples:
        try:
            if self._meter is None:
                self._meter = phone.PhoneMeter(self.plan)
            found = self._meter.measure(files, names=names)
        except (ConnectionError, TimeoutError) as error:
            self.close()
            raise DeviceGone(str(error)) from error
        except OSError as error:
            if self._meter is None:  # not even reached
                raise DeviceGone(str(error)) from error
            raise
        self._facts = {**found.device, "settings": found.settings}
        return found

    def close(self) -> None:
        """Remove the tool from the phone."""
        if self._meter is not None:
            self._meter.close()
            self._meter = None


class EmulatedLatency:
    """Instructions on an emulated core, as a phone's milliseconds; where only a core is named, millions of them in their place.

    A network's count is the same whatever this machine does. The emulator starts with the first network and stays.
    """

    measures = True

    def __init__(self, text: str) -> None:
        self.core, self.fit = parse_emulated(text)
        self.name = f"emulated:{text}" if text else "emulated"
        self._meter: EmulatorMeter | None = None

    def latency_ms(self, architecture: Architecture, resolution: int, classes: int) -> Latency:
        """The phone's milliseconds; DeviceGone where the emulator is not set up, or ends."""
        with _written(architecture, resolution, classes) as file:
            try:
                if self._meter is None:
                    self._meter = EmulatorMeter(self.core)
                found = self._meter.count([file], names=[architecture.name])[0].instructions
            except OSError as error:
                raise DeviceGone(str(error)) from error
        details = {"instructions": found, "core": self.core, "phone": self.fit and self.fit.phone}
        return Latency(self.fit.ms(found) if self.fit else found / 1e6, self.name, details=details)

    def close(self) -> None:
        """End the emulator."""
        if self._meter is not None:
            self._meter.close()
            self._meter = None


class Pixel1Latency:
    """The paper's phone, from shapes (`search.pixel1`); `extrapolated` where the fit has seen nothing like the network."""

    name, measures = "pixel1", False

    def latency_ms(self, architecture: Architecture, resolution: int, classes: int) -> Latency:
        """The model's milliseconds."""
        reasons = unlike_fitted(architecture, resolution, classes=classes)
        latency = pixel1_ms(architecture, resolution, classes=classes)
        return Latency(latency, self.name, bool(reasons), {"unlike_fitted": list(reasons)} if reasons else {})

    def close(self) -> None:
        """Nothing is held."""


class MaddsLatency:
    """Millions of multiply-adds in the place of milliseconds."""

    name, measures = "madds", False

    def latency_ms(self, architecture: Architecture, resolution: int, classes: int) -> Latency:
        """Millions of multiply-adds."""
        return Latency(architecture.madds(resolution, resolution, classes=classes) / 1e6, self.name)

    def close(self) -> None:
        """Nothing is held."""


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One row: a part of a network, and a small network that it can be cut from. `key` names shapes, not the network."""

    key: str
    architecture: Architecture
    size: int
    since: str | None
    until: str | None


def parts(architecture: Architecture, resolution: int) -> Iterator[Part]:
    """The rows whose sum is the network: stem with normalization, every layer, and head with classifier.

    A layer's key is its block string and the height of the map it takes: `r1_k3_s22_e6_i16_o24@112`.
    """
    stride = architecture.stem_stride
    yield Part(f"stem{architecture.stem}_s{stride}{stride}@{resolution}", architecture, resolution, None, "stem")
    size = -(-resolution // stride)
    for unit in architecture.units():
        block = architecture.blocks[unit.stage - 1]
        could_add = unit.stride == 1 and unit.input_filters == unit.filters
        skip = unit.pooled or unit.residual or not could_add  # what cannot be is not part of a key
        single = dataclasses.replace(
            block, repeats=1, stride=unit.stride, input_filters=unit.input_filters, skip=skip, pool=unit.pooled, first_skip=True
        )  # fmt: skip
        yield Part(f"{single}@{size}", _around(single), size, "stem", "block1")
        size = -(-size // unit.stride)
    last = architecture.blocks[-1].filters
    identity = Block(1, 1, 1, 1, last, last)
    head = Architecture("part", last, (identity,), architecture.head, stem_stride=1)
    yield Part(f"head{architecture.head}_i{last}@{size}", head, size, "block1", None)


def _around(block: Block) -> Architecture:
    return Architecture("part", block.input_filters, (block,), 8, stem_stride=1)


class TableLatency:
    """The sum of a table's rows, scaled to whole networks; CannotKnow for a layer, size or class count it does not have."""

    measures = False

    def __init__(self, value: dict[str, Any], name: str) -> None:
        what = "A latency table"
        found = fields_of(value, what, resolution=int, classes=int, scale=float, ms=dict[str, float], check=dict)
        off = fields_of(found["check"], f"`check` of {what}", percent_off=float | None)
        if not found["ms"] or not all(math.isfinite(ms) and ms >= 0 for ms in (*found["ms"].values(), found["scale"])):
            raise ValueError("milliseconds that are none")
        self.name = name
        self.resolution: int = found["resolution"]
        self.classes: int = found["classes"]
        self.scale: float = found["scale"]
        self.rows: dict[str, float] = found["ms"]
        self.percent_off: float | None = off["percent_off"]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TableLatency:
        """Read a file of `build_table`; ValueError for any other."""
        place = Path(path).expanduser()
        if not place.is_file():
            raise ValueError(
                f"A latency table must exist. Received: {path}, which does not. `mnasnet search table -o FILE` makes one."
            )
        try:
            value = read_json(place, "A latency table")
        except ValueError as error:
            raise ValueError(f"A latency table is a JSON file of `mnasnet search table`. Received: {path} ({error})") from error
        if not isinstance(value, dict) or value.get("kind") != TABLE_KIND:
            raise ValueError(f"A latency table is a JSON file of `mnasnet search table`. Received: {path}, another JSON file")
        if value.get("schema") != TABLE_SCHEMA:
            raise ValueError(
                f"A latency table's schema must be {TABLE_SCHEMA}. Received: {path} with schema {shown(value.get('schema'))}, "
                f"of a newer keras_mnasnet: update it."
            )
        try:
            return cls(value, f"table:{path}")
        except ValueError as error:
            raise ValueError(f"A latency table must be whole. Received: {path}, damaged ({error})") from error

    def latency_ms(self, architecture: Architecture, resolution: int, classes: int) -> Latency:
        """The scaled sum."""
        if (resolution, classes) != (self.resolution, self.classes):
            raise CannotKnow(
                f"The table is of {self.resolution} pixels and {self.classes} classes. "
                f"Received: resolution={resolution}, classes={classes}. Build one for them (mnasnet search table)."
            )
        keys = [part.key for part in parts(architecture, resolution)]
        missing = [key for key in keys if key not in self.rows]
        if missing:
            raise CannotKnow(
                f"The table must have every layer of the network. Received: {architecture.name!r} with {missing[0]}"
                f"{f' and {len(missing) - 1} more' if missing[1:] else ''}, which {self.name} has not. Build it for the space "
                f"that the network is of (mnasnet search table --space)."
            )
        details = {"rows": len(keys), "percent_off": self.percent_off}
        return Latency(self.scale * math.fsum(self.rows[key] for key in keys), self.name, details=details)

    def close(self) -> None:
        """Nothing is held."""


class ChainLatency:
    """Several models: the first that knows the network answers, and `details` say which ones did not and why."""

    def __init__(self, links: tuple[LatencyModel, ...]) -> None:
        self.links = links
        self.name = ",".join(link.name for link in links)
        self.measures = any(link.measures for link in links)

    def latency_ms(self, architecture: Architecture, resolution: int, classes: int) -> Latency:
        """The first answer; the last link's CannotKnow where nobody knows."""
        passed = {}
        for link in self.links[:-1]:
            try:
                answer = link.latency_ms(architecture, resolution, classes)
            except CannotKnow as error:
                passed[link.name] = str(error)
                continue
            break
        else:
            answer = self.links[-1].latency_ms(architecture, resolution, classes)
        return dataclasses.replace(answer, details={**answer.details, "could_not_know": passed}) if passed else answer

    def close(self) -> None:
        """Close every link."""
        for link in self.links:
            link.close()


@contextlib.contextmanager
def _written(architecture: Architecture, resolution: int, classes: int) -> Iterator[Path]:
    """The network as a `.tflite` file with random weights, as long as the block lasts."""
    target = Target(architecture.name, architecture=architecture, size=resolution, classes=classes)
    with tempfile.TemporaryDirectory(prefix="keras_mnasnet-") as folder:
        yield target.write(Path(folder))[0]


def _times(rounds: Sequence[Sequence[float]]) -> Times:
    return Times.of([second for visit in rounds for second in visit])


def _median(rounds: Sequence[Sequence[float]]) -> float:
    """Milliseconds."""
    return 1e3 * statistics.median([second for visit in rounds for second in visit])


def features(operations: Iterable[Layer], size: int) -> dict[str, float]:
    """What XNNPACK does in consecutive operations whose first one takes a map of `size` pixels a side, FEATURES.

    A convolution with `i` inputs, `k` taps and `n` tiles of PIXELS x FILTERS outputs is `n i k` steps, and `n` tiles.
    """
    found = dict.fromkeys(FEATURES, 0.0)
    for row in operations:
        pixels = row.height * row.width
        found["operators"] += 1
        if row.op in ("conv", "dense"):
            taps, columns = row.kernel**2, -(-row.filters // FILTERS)
            if pixels == 1 and (row.filters < FILTERS or 0 < row.filters % FILTERS < FILTERS - 1):
                found["one_pixel_pairs"] += -(-row.filters // PAIR) * row.input_filters * taps
                found["one_pixel_pair_tiles"] += -(-row.filters // PAIR)
            elif pixels == 1:
                found["one_pixel"] += columns * row.input_filters * taps
                found["one_pixel_tiles"] += columns * taps
            else:
                tiles, kind = -(-pixels // PIXELS) * columns, "pointwise" if taps == 1 else "full"
                found[kind] += tiles * row.input_filters * taps
                found[f"{kind}_tiles"] += tiles
                found["full_taps"] += tiles * taps if taps > 1 else 0
        elif row.op == "depthwise":
            if row.kernel > 5:  # XNNPACK has no depthwise kernel so large, and takes the filters one by one
                found["depthwise7"] += -(-pixels // PIXELS) * row.filters * row.kernel**2 / 49
            else:
                kind = f"depthwise{3 if row.kernel < 4 else 5}"
                found[kind] += pixels * -(-row.filters // FILTERS)
                found[f"{kind}_pixels"] += pixels
        elif row.op == "add":
            found["added"] += pixels * row.filters
        elif row.op == "multiply":
            found["gated"] += pixels * row.filters
            found["gated_pixels"] += pixels
        elif row.op in ("squeeze", "mean"):
            found["averaged"] += size**2 * row.filters
            found["averaged_filters"] += row.filters
        elif row.op == "max_pool":
            found["pooled"] += pixels * row.filters
            found["pooled_pixels"] += pixels
        size = row.height
    return found


def instructions(architecture: Architecture, resolution: int = 224, *, classes: int = 1000) -> float:
    """Instructions of one image on a Cortex-A72 as the emulated one counts them: float32, batch 1, one thread."""
    found = features(architecture.operations(resolution, resolution, classes=classes), resolution)
    return math.fsum(value * found[name] for name, value in coefficients().items())


def pixel1_ms(architecture: Architecture, resolution: int = 224, *, classes: int = 1000) -> float:
    """Milliseconds on one big core of a Pixel 1, one thread, batch 1, float32; `unlike_fitted` says how far to believe it."""
    return pixel1().ms(instructions(architecture, resolution, classes=classes))


def unlike_fitted(architecture: Architecture, resolution: int, *, classes: int = 1000) -> tuple[str, ...]:
    """What the network has that no network with measured milliseconds had; empty where the model interpolates."""
    reasons = []
    for number, block in enumerate(architecture.blocks, start=1):
        if block.op != "mbconv":
            reasons.append(f"stage {number}: a plain convolution, of which no milliseconds are known")
        if any(unit.pooled for unit in architecture.units() if unit.stage == number):
            reasons.append(f"stage {number}: pooling in the skip, of which no milliseconds are known")
        if block.kernel not in MEASURED_KERNELS:
            reasons.append(f"stage {number}: kernel {block.kernel}, where {MEASURED_KERNELS} were measured")
    low, high = MEASURED_RESOLUTIONS
    if not low <= resolution <= high:
        reasons.append(f"{resolution} pixels, where {low} to {high} were measured")
    latency = pixel1_ms(architecture, resolution, classes=classes)
    if not MEASURED_MS[0] <= latency <= MEASURED_MS[1]:
        reasons.append(f"{latency:.1f} ms, where {MEASURED_MS[0]:g} to {MEASURED_MS[1]:g} were measured")
    return tuple(reasons)


def coefficients() -> dict[str, float]:
    """Instructions per unit of each feature."""
    return shipped()["coefficients"]


@functools.cache
def shipped() -> dict[str, Any]:
    """The shipped fit: coefficients, what they were fitted on, and their held-out errors."""
    value = json.loads(resources.files("keras_mnasnet.search").joinpath("pixel1.json").read_text("utf-8"))
    if value.get("schema") != SCHEMA or set(value["coefficients"]) != set(FEATURES):
        raise ValueError(
            f"pixel1.json must have schema {SCHEMA} and a coefficient for each of {', '.join(FEATURES)}. "
            f"Received: schema={value.get('schema')!r} with {', '.join(value['coefficients'])}"
        )
    return value
