"""Where trials run: what executes them, and this process; `pool` has processes of this machine, `ray` a cluster."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol

from keras_mnasnet.search.trials import Failure, Measurement, Trial

__all__ = ["evaluated", "Evaluator", "Executor", "Growth", "GROWTH_MB", "GROWING", "InProcess", "check_gpus"]

# TensorFlow keeps some of every traced graph: 20 to 150 MB of a network of six stages, 300 to 500 MB of 17 layers. A process
# that has grown by so much since its first trial is replaced; the search's own process stops.
GROWTH_MB, OWN_GROWTH_MB = 1_000.0, 4_000.0
# TensorFlow and JAX take a GPU's memory as they need it, not nearly all of it at their start
GROWING = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

Evaluator = Callable[[Trial], Measurement]
"""Runs one trial. Workers in other processes get a pickled copy each, once."""


class Executor(Protocol):
    """Workers. `submit` takes a trial while `free` is above zero and names its worker; `wait` gives what is through.

    `avoid` names the worker on which the trial failed: another one takes it, or that one after starting anew. A trial that
    takes longer than the executor's time limit, or whose worker dies, is a measurement with a failure.
    """

    workers: int

    @property
    def free(self) -> int: ...

    def submit(self, trial: Trial, *, avoid: str | None = None) -> str: ...

    def wait(self, seconds: float) -> list[Measurement]: ...

    def close(self) -> None: ...


def check_gpus(workers: int, gpus: float | None, there: float, where: str) -> float:
    """How much of a GPU each worker has: `gpus`, or one where there are any. ValueError where there are too few of them."""
    if gpus is not None and not 0 <= gpus <= 1:
        raise ValueError(f"`gpus` (--gpus) must be 0 to 1 for each worker: a trial trains on one GPU. Received: gpus={gpus}")
    share = float(there > 0) if gpus is None else gpus
    if share and workers > there * int(1 / share):
        raise ValueError(
            f"Each worker needs a GPU, or what --gpus says of one. Received: workers={workers} with {share:g} of one, "
            f"and {there:g} on {where}. Take fewer --workers, let some share one (--gpus 0.5 lets two), or train on the CPU "
            f"(--gpus 0)."
        )
    return share


def evaluated(evaluator: Evaluator, trial: Trial) -> Measurement:
    """What the evaluator returns; an exception as the failure it is."""
    try:
        return evaluator(trial)
    except MemoryError as error:
        return Measurement(failure=Failure("memory", _line(error) or "the process has no memory left"))
    except TimeoutError as error:
        return Measurement(failure=Failure("timeout", _line(error)))
    except ArithmeticError as error:
        return Measurement(failure=Failure("nan", _line(error)))
    except Exception as error:
        kind = "memory" if _out_of_memory(error) else "error"
        return Measurement(failure=Failure(kind, f"{type(error).__name__}: {_line(error)}"))


class Growth:
    """How much a process has grown since its first trial; the driver replaces one that has grown too much."""

    def __init__(self) -> None:
        self._first: float | None = None

    def megabytes(self) -> float:
        """The growth of the resident size since the first call; 0 where the system does not say."""
        size = _resident_megabytes()
        self._first = size if self._first is None else self._first
        return size - self._first


def _resident_megabytes() -> float:
    """On Linux the present size: the largest one, ru_maxrss, begins with that of the process which started this one."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        pass
    try:
        resource: Any = importlib.import_module("resource")
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _out_of_memory(error: Exception) -> bool:
    return type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error)


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else ""


class InProcess:
    """One worker: this process. Its time limit interrupts Python code, and needs a main thread; a crash is the driver's own.

    OSError for the next trial where it has grown by more than `growth_mb` since its first.
    """

    workers = 1

    def __init__(
        self, evaluator: Evaluator, *, timeout: float | None = None, growth_mb: float = OWN_GROWTH_MB
    ) -> None:  # fmt: skip
        if timeout is not None and (
            threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer")
        ):
            raise ValueError(f"A time limit inside one process needs its main thread, on Unix. Received: timeout={timeout}")
        self._evaluator, self._timeout, self._growth_mb = evaluator, timeout, growth_mb
        self._growth, self._grown_mb = Growth(), 0.0
        self._trial: Trial | None = None

    @property
    def free(self) -> int:
        """1 between trials."""
        return int(self._trial is None)

    def submit(self, trial: Trial, *, avoid: str | None = None) -> str:
        """Take a trial; it runs in `wait`."""
        if self._grown_mb > self._growth_mb:
            raise OSError(
                f"A search in one process may grow by {self._growth_mb:,.0f} MB: TensorFlow keeps some of each network. "
                f"Received: {self._grown_mb:,.0f} MB. What is finished is kept: start the same command again, or use "
                f"--executor pool, whose processes are replaced."
            )
        self._trial = trial
        return "this process"

    def wait(self, seconds: float) -> list[Measurement]:
        """Run the trial, however long it takes."""
        if self._trial is None:
            return []
        trial, self._trial, started = self._trial, None, time.time()
        with _limit(self._timeout):
            found = evaluated(self._evaluator, trial)
        self._grown_mb = self._growth.megabytes()
        return [found.by("this process", trial, started, time.time())]

    def close(self) -> None:
        """Nothing to close."""


@contextlib.contextmanager
def _limit(seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield
        return

    def late(*_: object) -> NoReturn:
        raise TimeoutError(f"a trial may take {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
