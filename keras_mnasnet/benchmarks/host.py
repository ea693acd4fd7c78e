"""Latency on this machine: `.tflite` and `.onnx` files measured in turns in a process of their own (`host_meter`)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from keras_mnasnet.export.partitions import Partitions
from keras_mnasnet.utils.reading import exported_kind, parse_json
from keras_mnasnet.utils.system import available_cores, core_state
from keras_mnasnet.utils.text import Life

TIMED = 3  # timed invocations of a visit, after one that warms the caches
ROOT = Path(__file__).parents[2]
METER = "keras_mnasnet.benchmarks.host_meter"


@dataclasses.dataclass(frozen=True, slots=True)
class HostSamples:
    """Seconds `[file][round][timed]`: CPU time (one thread: of that thread; more: of all together) and wall time.

    `started` is the moment of the first invocation on the monotonic clock, `cores` what the process was pinned to or could
    use, `memory` the bytes that loading and running a file once adds, at its peak, to a process which has imported the runtime.
    """

    cpu: list[list[list[float]]]
    wall: list[list[list[float]]]
    started: float
    cores: list[int] | None
    partitions: list[Partitions | None]
    memory: list[int | None]


def choose_cores(threads: int, core: int | None = None) -> tuple[int, ...]:
    """The cores to pin to: `core`, or the last of the fastest that this process may use; one for each thread.

    Empty where the system cannot pin. ValueError for a thread count or a core that is not there.
    """
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    count = len(usable) or available_cores()
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= count:
        raise ValueError(f"`threads` must be 1 to {count}, the cores this process may use. Received: threads={threads!r}")
    if core is not None:
        if core not in usable or threads > 1:
            raise ValueError(
                f"`core` must be one of {usable}, the cores this process may use, and needs threads=1. "
                f"Received: core={core!r}, threads={threads}"
            )
        return (core,)
    fastest = sorted(usable, key=lambda each: (core_state(each)["max_clock_mhz"] or 0, each))
    return tuple(sorted(fastest[-threads:]))


class HostMeter:
    """The measuring process. It starts, and imports, when this object is made; `measure` hands it work, as often as wanted.

    A process that ended, whatever ended it, is replaced at the next `measure`.
    """

    def __init__(self, cores: Sequence[int], threads: int, seed: int) -> None:
        self.settings = {"cores": list(cores), "threads": threads, "seed": seed}
        self._child = MeterProcess()

    def __enter__(self) -> HostMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def measure(
        self, files: Sequence[Path], *, names: Sequence[str], sizes: Sequence[int | None] | None = None, runs: int, warmup: int,
        memory: bool = True, progress: bool = False, timed: int = TIMED,
    ) -> HostSamples:  # fmt: skip
        """Time `files` in turns, `timed` invocations a visit and at least `runs` of each; `sizes` are for open inputs.

        ValueError names a file that LiteRT cannot run.
        """
        if self._child.ended:
            self._child.close()
            self._child = MeterProcess()
        timed = min(timed, runs)
        rounds = math.ceil(runs / timed)
        job = {
            **self.settings, "files": [str(Path(file).absolute()) for file in files],
            "sizes": list(sizes or [None] * len(files)), "timed": timed, "rounds": rounds, "warmup": warmup,
        }  # fmt: skip
        seen: dict[str, Any] = {}
        peaks: list[int | None] = [None] * len(files)
        with Life("measure", total=rounds, unit="round", shown=progress) as life:
            for event in self._child.do({**job, "kind": "measure"}, names):
                seen[event["event"]] = event
                if event["event"] == "round":
                    life.step()
            if memory:
                life.step(0, "peak memory of each file")
                with contextlib.closing(MeterProcess()) as probe:
                    for event in probe.do({**job, "kind": "probe"}, names):
                        if event["event"] == "memory":
                            peaks[event["index"]] = event["bytes"]
        done = seen["done"]
        found = [each and Partitions(**each) for each in seen["partitions"]["models"]]
        return HostSamples(done["cpu"], done["wall"], seen["ready"]["monotonic"], done["cores"], found, peaks)


class MeterProcess:
    """One process of `host_meter`: on this machine, or by a `command` with an environment and a folder of its own."""

    def __init__(
        self, command: Sequence[str] | None = None, environment: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> None:  # fmt: skip
        if command is None:
            path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            command = [sys.executable, "-P", "-m", METER]
            environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=environment, cwd=folder,
            text=True, encoding="utf-8",
        )  # fmt: skip
        self._stdin = cast("IO[str]", self._process.stdin)
        self._stdout = cast("IO[str]", self._process.stdout)

    def do(
        self, job: dict[str, Any], names: Sequence[str], *, seconds: float | None = None
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """The events of a job up to `done`; ValueError where a file is refused or ends the process.

        A process that is not done after so many `seconds` is killed.
        """
        with contextlib.ExitStack() as stack:
            if seconds is not None:
                timer = threading.Timer(seconds, self._process.kill)
                timer.daemon = True
                timer.start()
                stack.callback(timer.cancel)
            yield from self._events(job, names)

    def _events(self, job: dict[str, Any], names: Sequence[str]) -> Iterator[dict[str, Any]]:
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(json.dumps(job) + "\n")
            self._stdin.flush()
        at = None
        for line in self._stdout:
            event = parse_json(line, "What the measuring process says")
            if event["event"] == "refused":
                raise ValueError(_cannot_run(job["files"][event["index"]], f"{names[event['index']]}: {event['message']}"))
            at = event.get("index", at)
            yield event
            if event["event"] == "done":
                return
        self._died(*(("", None) if at is None else (job["files"][at], names[at])))

    def _died(self, file: str, name: str | None) -> None:
        status = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().decode("utf-8", "replace").strip().splitlines()[-3:]
        if name is None or status >= 0:
            raise ChildProcessError(
                f"The measuring process must not end early. Received: exit status {status}: {' '.join(said)}"
            )
        if -status == signal.SIGALRM:
            raise ValueError(_cannot_run(file, f"{name}, which took too long"))
        end = f"{signal.Signals(-status).name}: the file is damaged, or the memory is not enough. {' '.join(said)}".rstrip()
        raise ValueError(_cannot_run(file, f"{name}, which ended the measuring process with {end}"))

    @property
    def ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._stdin, self._stdout, self._stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _cannot_run(file: str, received: str) -> str:
    kind, runtime = (".onnx", "ONNX Runtime") if exported_kind(file) == "onnx" else (".tflite", "LiteRT")
    return f"A {kind} file must be one that {runtime} can run. Received: {received}"
