"""Trials in this process, one at a time."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

from keras_mnasnet.search.executors.base import Evaluator, Outcome, evaluated
from keras_mnasnet.search.records import TrialRequest

__all__ = ["InProcess"]


class InProcess:
    """One worker: this process. Its time limit interrupts Python code, and needs a main thread; a crash is the driver's own."""

    workers = 1

    def __init__(self, evaluator: Evaluator, *, timeout: float | None = None) -> None:
        if timeout is not None and (
            threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer")
        ):
            raise ValueError(f"A time limit inside one process needs its main thread, on Unix. Received: timeout={timeout}")
        self._evaluator, self._timeout = evaluator, timeout
        self._request: TrialRequest | None = None

    @property
    def free(self) -> int:
        """1 between trials."""
        return int(self._request is None)

    def submit(self, request: TrialRequest, *, avoid: str | None = None) -> str:
        """Take a trial; it runs in `wait`."""
        self._request = request
        return "this process"

    def wait(self, seconds: float) -> list[Outcome]:
        """Run the trial, however long it takes."""
        if self._request is None:
            return []
        request, self._request, started = self._request, None, time.time()
        with _limit(self._timeout):
            result = evaluated(self._evaluator, request)
        return [Outcome(request, "this process", started, time.time(), result)]

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
