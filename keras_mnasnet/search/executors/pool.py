"""Trials in processes of this machine, each started afresh (spawn) and kept for many trials."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from keras_mnasnet.search.executors import GROWING, GROWTH_MB, Evaluator, Growth, check_gpus, evaluated
from keras_mnasnet.search.trials import Failure, Measurement, Trial
from keras_mnasnet.utils.system import available_cores, held_stderr, visible_gpus


class _Worker:
    """One process, and the trial it works at."""

    def __init__(self, name: str, evaluator: Evaluator, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.pipe, theirs = context.Pipe()
        self.trial: Trial | None = None
        self.started = 0.0
        self.grown_mb = 0.0
        self.deadline = float("inf")
        self.process = context.Process(
            target=_work, args=(theirs, pickle.dumps(evaluator), dict(environment)), name=name, daemon=True
        )
        with _without_script(evaluator):
            self.process.start()
        theirs.close()

    def stop(self) -> None:
        """End the process at once, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


class ProcessPool:
    """`workers` processes. `timeout` (seconds a trial) and a dead process are failures of the trial; the process is replaced.

    A worker on which a trial failed, or that has grown by `growth_mb` since its first, is started anew before its next one: it
    takes at most what its first trial left, `growth_mb` and what one more network needs.
    Each computes on its share of the cores, and on a GPU of its own where this machine has any; several share one where `gpus`
    is below 1, and with 0 none is used. ValueError for more workers than GPUs.
    """

    def __init__(
        self, evaluator: Evaluator, workers: int, *, timeout: float | None = None, growth_mb: float = GROWTH_MB,
        gpus: float | None = None,
    ) -> None:  # fmt: skip
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ValueError(f"`workers` must be an integer >= 1. Received: workers={workers!r}")
        self.workers = workers
        self.evaluator, self._timeout, self._growth_mb = evaluator, timeout, growth_mb
        threads = str(max(1, available_cores() // workers))
        self._environment = {
            "TF_NUM_INTRAOP_THREADS": threads, "OMP_NUM_THREADS": threads, "TF_CPP_MIN_LOG_LEVEL": "3", **GROWING
        }  # fmt: skip
        there = visible_gpus()
        share = check_gpus(workers, gpus, len(there), "this machine")
        self._gpus = [there[number % len(there)] if share else "-1" for number in range(workers)] if there else []
        self._pool: dict[str, _Worker | None] = {f"process {number}": None for number in range(workers)}

    @property
    def free(self) -> int:
        """How many processes have no trial; they are started with their first."""
        return sum(worker is None or worker.trial is None for worker in self._pool.values())

    def submit(self, trial: Trial, *, avoid: str | None = None) -> str:
        """Hand a trial to a free process."""
        free = [name for name, worker in self._pool.items() if worker is None or worker.trial is None]
        name = min(free, key=lambda each: (each == avoid, self._pool[each] is None))
        worker = self._pool[name]
        if worker is not None and not worker.process.is_alive():
            worker.stop()
            worker = None
        if worker is None:
            worker = self._pool[name] = _Worker(name, self.evaluator, self._of(name))
        worker.trial, worker.started = trial, time.time()
        if self._timeout is not None:
            worker.deadline = time.monotonic() + self._timeout
        with contextlib.suppress(OSError):  # a process that died just now: `wait` sees it
            worker.pipe.send(trial)
        return name

    def _of(self, name: str) -> dict[str, str]:
        """The environment of a worker."""
        own = {"CUDA_VISIBLE_DEVICES": self._gpus[list(self._pool).index(name)]} if self._gpus else {}
        return {**self._environment, **own}

    def wait(self, seconds: float) -> list[Measurement]:
        """The trials that are through, after at most `seconds`."""
        busy = [worker for worker in self._pool.values() if worker is not None and worker.trial is not None]
        if not busy:
            return []
        left = max(0.0, min(seconds, min(worker.deadline for worker in busy) - time.monotonic()))
        sources: list[Any] = [source for worker in busy for source in (worker.pipe, worker.process.sentinel)]
        ready = multiprocessing.connection.wait(sources, left)
        through = []
        for worker in busy:
            result = self._result(worker, ready)
            if result is not None and worker.trial is not None:
                through.append(result.by(worker.name, worker.trial, worker.started, time.time()))
                worker.trial, worker.deadline = None, float("inf")
                if result.failure is not None or worker.grown_mb > self._growth_mb:
                    worker.stop()
                    self._pool[worker.name] = None
        return through

    def _result(self, worker: _Worker, ready: list[Any]) -> Measurement | None:
        if worker.pipe in ready:
            try:
                result, worker.grown_mb = worker.pipe.recv()
                return result
            except (EOFError, OSError):
                pass
        if worker.pipe in ready or worker.process.sentinel in ready:
            worker.process.join(5)
            return Measurement(failure=_death(worker.process.exitcode))
        if time.monotonic() >= worker.deadline:
            return Measurement(failure=Failure("timeout", f"a trial may take {self._timeout:g} s"))
        return None

    def close(self) -> None:
        """End every process, with whatever it works at."""
        for name, worker in self._pool.items():
            if worker is not None:
                worker.stop()
                self._pool[name] = None


@contextlib.contextmanager
def _without_script(evaluator: Evaluator) -> Iterator[None]:
    """A process started afresh runs the caller's script again, for what is defined there; not where it needs nothing of it.

    So a search can stand in a script or notebook as it is, without `if __name__ == "__main__"`.
    """
    script = sys.modules["__main__"]
    if type(evaluator).__module__ == "__main__" or getattr(evaluator, "__module__", "") == "__main__":
        yield
        return
    kept: dict[str, Any] = {name: vars(script)[name] for name in ("__spec__", "__file__") if name in vars(script)}
    try:
        vars(script).update(dict.fromkeys(kept))
        yield
    finally:
        vars(script).update(kept)


def _death(code: int | None) -> Failure:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if name == "SIGKILL":
            return Failure("crash", "the worker process was killed (SIGKILL), as a system does that runs out of memory")
        return Failure("crash", f"the worker process died of {name}")
    return Failure("crash", f"the worker process ended with exit code {code}")


def _work(pipe: Any, pickled: bytes, environment: Mapping[str, str]) -> None:
    """The life of a worker process: until the driver closes the pipe, or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's
    for name, value in environment.items():
        os.environ[name] = value if name == "CUDA_VISIBLE_DEVICES" else os.environ.get(name, value)
    threading.Thread(target=_follow_the_driver, daemon=True).start()
    with held_stderr():
        evaluator = pickle.loads(pickled)  # after the environment, which decides how its libraries start
    growth = Growth()
    while True:
        try:
            trial = pipe.recv()
        except (EOFError, OSError):
            return
        result = evaluated(evaluator, trial)
        pipe.send((result, growth.megabytes()))


def _follow_the_driver() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
