"""The process that measures on this machine: numpy and the runtimes, nothing else. `benchmarks.host` starts it.

It takes jobs, each a line of JSON on standard input, and writes events, one a line, to what was its standard output. The same
process on an emulated core (`benchmarks.emulator`) counts instructions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.benchmarks.timing import visit_order
from keras_mnasnet.export.classifier import open_file
from keras_mnasnet.utils.reading import parse_json

Send = Callable[..., None]
COUNT = 100_000  # the system call, of a number that Linux has not, at which emulator.c tells how many instructions it counted
DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG
OUTPUTS = "outputs.npz"
NO_MORE_JOBS = 3  # the exit status of a fork that found the end of standard input


def main() -> int:
    """Do the jobs on standard input, each `measure` or `probe`, until it ends."""
    send = _sender()
    for line in sys.stdin:
        job = parse_json(line, "A job")
        if job["cores"]:
            os.sched_setaffinity(0, job["cores"])
        with contextlib.suppress(_Refused):
            {"measure": _measure, "probe": _probe}[job["kind"]](job, send)
        gc.enable()
        gc.collect()
    return 0


def _sender() -> Send:
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what native code prints must not come between the events

    def send(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")
        events.flush()

    return send


class _Refused(Exception):
    """The file was refused, and that was sent."""


def _load(job: dict[str, Any], index: int, send: Send) -> tuple[Any, Callable[[], Any], dict[str, Any] | None]:
    """A file that has run once, what runs it, and its partitions."""
    send("load", index=index)
    try:
        file = open_file(job["files"][index], size=job["sizes"][index], threads=job["threads"])
        rng = np.random.default_rng(job["seed"])
        invoke = file.invocation([drawn_values(details, rng) for details in file.inputs])
        invoke()
        partitions = file.partitions()
    except (ValueError, RuntimeError, TypeError, OverflowError, MemoryError) as error:
        send("refused", index=index, message=str(error.__cause__ or error).strip() or type(error).__name__)
        raise _Refused from error
    return file, invoke, None if partitions is None else dataclasses.asdict(partitions)


def drawn_values(details: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
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
    for index, (_, invoke, _) in enumerate(models):
        send("warm", index=index)
        for _ in range(job["warmup"]):
            invoke()
    for number in range(job["rounds"]):
        for index in visit_order(len(models), number):
            _, invoke, _ = models[index]
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
    send("partitions", models=[partitions for *_, partitions in models])
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


def serve_counts() -> int:
    """On an emulated core: count the file of every line of standard input, in a fork that reads the line, until it ends.

    This process itself makes nothing, so that every fork begins alike: the count of an inference depends, by some tens, on
    where things lie in memory. It ends as a fork ends that does not end well. Files are read and written where it works.
    """
    import ctypes

    from ai_edge_litert import interpreter  # noqa: F401 - once, and not in every fork

    libc, send, waiting = ctypes.CDLL(None), _sender(), select.poll()
    waiting.register(0)
    gc.collect()
    gc.disable()
    while True:
        waiting.poll()
        child = os.fork()
        if not child:
            _count_in_fork(libc, send)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status < 0:
            os.kill(os.getpid(), -status)
        if status:
            return 0 if status == NO_MORE_JOBS else status


def _count_in_fork(libc: Any, send: Send) -> None:
    """Do a job and exit; one that hangs ends after its `seconds`, also where nobody waits for it any more."""
    status = 1
    try:
        libc.prctl(DIE_WITH_PARENT, signal.SIGKILL)
        if line := sys.stdin.readline():
            job = parse_json(line, "A job")
            signal.alarm(job["seconds"])
            with contextlib.suppress(_Refused):
                _count(job, send, libc.syscall)
            status = 0
        else:
            status = NO_MORE_JOBS
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)


def _count(job: dict[str, Any], send: Send, syscall: Callable[[int, int], int]) -> None:
    """Nothing is looked up between two counts: Python's cache of methods hits or misses by where they lie in memory."""
    take, (read, write) = os.read, os.pipe()

    def counted() -> bytes:
        syscall(COUNT, write)
        return take(read, 8)

    file, _, partitions = _load(job, 0, send)
    invoke = file.interpreter._interpreter.Invoke
    counted()
    before, begin = counted(), counted()
    invoke()
    end = counted()
    numbers = [int.from_bytes(each, "little") for each in (before, begin, end)]
    np.savez(OUTPUTS, *(file.interpreter.get_tensor(each["index"]) for each in file.outputs))
    send("counted", instructions=numbers[2] - 2 * numbers[1] + numbers[0], **(partitions or {}))
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
