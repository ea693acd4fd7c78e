"""What executes trials: the interface, and how an evaluator's exceptions become failures."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from keras_mnasnet.search.records import Failure, TrialRequest, TrialResult

__all__ = ["GROWTH_MB", "Evaluator", "Executor", "Growth", "Outcome", "evaluated"]

GROWTH_MB = 1000.0  # TensorFlow keeps some of every traced graph: 20 to 150 MB of a network, measured

Evaluator = Callable[[TrialRequest], TrialResult]
"""Runs one trial. Workers in other processes get a pickled copy each, once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """A trial that a worker is through with; times in seconds since 1970."""

    request: TrialRequest
    worker: str
    started: float
    finished: float
    result: TrialResult


class Executor(Protocol):
    """Workers. `submit` takes a trial while `free` is above zero and names its worker; `wait` gives what is through.

    `avoid` names the worker on which the trial failed: another one takes it, or that one after starting anew. A trial that
    takes longer than the executor's time limit, or whose worker dies, is an outcome with a failure.
    """

    workers: int

    @property
    def free(self) -> int: ...

    def submit(self, request: TrialRequest, *, avoid: str | None = None) -> str: ...

    def wait(self, seconds: float) -> list[Outcome]: ...

    def close(self) -> None: ...


def evaluated(evaluator: Evaluator, request: TrialRequest) -> TrialResult:
    """What the evaluator returns; an exception as the failure it is."""
    try:
        return evaluator(request)
    except MemoryError as error:
        return TrialResult(failure=Failure("memory", _line(error) or "the process has no memory left"))
    except TimeoutError as error:
        return TrialResult(failure=Failure("timeout", _line(error)))
    except ArithmeticError as error:
        return TrialResult(failure=Failure("nan", _line(error)))
    except Exception as error:
        kind = "memory" if _out_of_memory(error) else "error"
        return TrialResult(failure=Failure(kind, f"{type(error).__name__}: {_line(error)}"))


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
