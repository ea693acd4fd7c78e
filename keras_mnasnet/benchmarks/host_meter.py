"""The process that measures on this machine: numpy and the runtimes, nothing else. `benchmarks.host` starts it.

It takes jobs, each a line of JSON on standard input, and writes events, one a line, to what was its standard output.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.benchmarks.timing import visit_order
from keras_mnasnet.export.classifier import open_file
from keras_mnasnet.export.partitions import Partitions
from keras_mnasnet.utils.reading import parse_json

Send = Callable[..., None]


def main() -> int:
    """Do the jobs on standard input, each `measure` or `probe`, until it ends."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what native code prints must not come between the events

    def send(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")
        events.flush()

    for line in sys.stdin:
        job = parse_json(line, "A job")
        if job["cores"]:
            os.sched_setaffinity(0, job["cores"])
        with contextlib.suppress(_Refused):
            {"measure": _measure, "probe": _probe}[job["kind"]](job, send)
        gc.enable()
        gc.collect()
    return 0


class _Refused(Exception):
    """The file was refused, and that was sent."""


def _load(job: dict[str, Any], index: int, send: Send) -> tuple[Callable[[], Any], Partitions | None]:
    """What runs a file, and its partitions; it has run once."""
    send("load", index=index)
    try:
        file = open_file(job["files"][index], size=job["sizes"][index], threads=job["threads"])
        rng = np.random.default_rng(job["seed"])
        invoke = file.invocation([_values(details, rng) for details in file.inputs])
        invoke()
        partitions = file.partitions()
    except (ValueError, RuntimeError, TypeError, OverflowError, MemoryError) as error:
        send("refused", index=index, message=str(error.__cause__ or error).strip() or type(error).__name__)
        raise _Refused from error
    return invoke, partitions


def _values(details: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    """Floats 0..1, bytes over their whole range, other whole numbers 0..99."""
    dtype, shape = np.dtype(details["dtype"]), tuple(details["shape"])
    if dtype.kind in "fc":
        return rng.random(shape, np.float32).astype(dtype)
    if dtype in (np.uint8, np.int8):
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if dtype.kind in "iub":
        return rng.integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)
    raise ValueError(f"an input of type {dtype}, for which there is no number to feed")


def _measure(job: dict[str, Any], send: Send) -> None:
    """Seconds of every timed invocation, `[models][rounds][timed]`, in CPU time and in wall time."""
    models = [_load(job, index, send) for index in range(len(job["files"]))]
    cpu_clock = time.thread_time if job["threads"] == 1 else time.process_time
    cpu: list[list[list[float]]] = [[] for _ in models]
    wall: list[list[list[float]]] = [[] for _ in models]
    gc.disable()
    send("ready", monotonic=time.monotonic())
    for index, (invoke, _) in enumerate(models):
        send("warm", index=index)
        for _ in range(job["warmup"]):
            invoke()
    for number in range(job["rounds"]):
        for index in visit_order(len(models), number):
            invoke, _ = models[index]
            cpu[index].append([])
            wall[index].append([])
            invoke()
            for _ in range(job["timed"]):
                began, began_cpu = time.perf_counter(), cpu_clock()
                invoke()
                ended_cpu, ended = cpu_clock(), time.perf_counter()
                cpu[index][-1].append(ended_cpu - began_cpu)
                wall[index][-1].append(ended - began)
        send("round", number=number)
    send("partitions", models=[partitions and dataclasses.asdict(partitions) for _, partitions in models])
    send("done", cpu=cpu, wall=wall, cores=sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None)


def _probe(job: dict[str, Any], send: Send) -> None:
    """Peak memory of each file, measured in a fork of this process, which has loaded the runtimes and no model."""
    for file in job["files"]:
        open_file(file).load_runtime()
    for index in range(len(job["files"]) if hasattr(os, "fork") else 0):
        with _forked() as is_child:
            if is_child:
                before = _status("VmRSS")
                _load(job, index, lambda *_, **__: None)
                after = _status("VmHWM")
                if before and after:
                    send("memory", index=index, bytes=after - before)
    send("done")


@contextlib.contextmanager
def _forked() -> Iterator[bool]:
    """True in a fork, which ends with the block; False in this process, which then waits for it."""
    child = os.fork()
    if child:
        yield False
        os.waitpid(child, 0)
        return
    status = 1
    try:
        yield True
        status = 0
    finally:
        os._exit(status)


def _status(key: str) -> int | None:
    """A line of /proc/self/status in bytes."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)


if __name__ == "__main__":
    sys.exit(main())
