"""Latency of a network that is not trained yet: from a device, a lookup table, the Pixel-1 model or multiply-adds."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.benchmarks import adb
from keras_mnasnet.benchmarks.host import TIMED, HostMeter, HostSamples, choose_cores
from keras_mnasnet.benchmarks.targets import Target
from keras_mnasnet.benchmarks.timing import Times
from keras_mnasnet.search.pixel1 import pixel1_ms, unlike_fitted
from keras_mnasnet.utils.system import core_state, machine

__all__ = [
    "SYNTAX", "CannotKnow", "ChainLatency", "DeviceGone", "HostLatency", "Latency", "LatencyModel", "MaddsLatency",
    "Meter", "PhoneLatency", "Pixel1Latency", "parse_device",
]  # fmt: skip

SYNTAX = "host, adb, adb:SERIAL, table:FILE, pixel1, madds, or several with commas: the next answers where one cannot"
RUNS, WARMUP = 60, 3
VISIT = 20  # timed invocations in a row: one network alone needs no turns
LINK = re.compile(r",(?=(?:host|adb|pixel1|madds|table)(?:[:,]|$))")


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
        elif kind == "table" and rest:
            from keras_mnasnet.search.table import TableLatency

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

    The measuring process starts with the first network and stays. Networks have random weights and normalise their input.
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
        times = _times(samples.cpu[0])
        details = {
            "runs": sum(map(len, samples.cpu[0])), "p10_ms": times.p10_ms, "p90_ms": times.p90_ms, "min_ms": times.min_ms,
            "cores": samples.cores, "delegates": samples.partitions[0].delegates,
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
                    files, names=names, resolutions=[None] * len(files), runs=self.runs, warmup=WARMUP, memory=False,
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
        self.plan = adb.Plan(serial, 1, runs, None, mask, benchmark_model, 1)
        self._meter: adb.PhoneMeter | None = None
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
        return Latency(adb.typical(run), self.name, details=details)

    def files_ms(self, files: Sequence[Path], names: Sequence[str]) -> list[float]:
        """The medians of several files."""
        return [adb.typical(runs[0]) for runs in self._measured(files, names).runs]

    def facts(self) -> dict[str, Any]:
        """What was measured on; empty before the first measurement."""
        return self._facts

    def _measured(self, files: Sequence[Path], names: Sequence[str]) -> adb.PhoneSamples:
        try:
            if self._meter is None:
                self._meter = adb.PhoneMeter(self.plan)
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
    target = Target(architecture.name, architecture=architecture, resolution=resolution, classes=classes)
    with tempfile.TemporaryDirectory(prefix="keras_mnasnet-") as folder:
        yield target.write(Path(folder), seed=0, preprocessing=True)[0]


def _times(rounds: Sequence[Sequence[float]]) -> Times:
    return Times.of([second for visit in rounds for second in visit])


def _median(rounds: Sequence[Sequence[float]]) -> float:
    """Milliseconds."""
    return 1e3 * statistics.median([second for visit in rounds for second in visit])
