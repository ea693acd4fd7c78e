"""Trials on a Ray cluster: one actor for each worker, spread over the nodes, replaced where a node is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras_mnasnet
from keras_mnasnet.search.executors import GROWING, GROWTH_MB, Evaluator, Growth, check_gpus, evaluated
from keras_mnasnet.search.trials import Failure, Measurement, Trial

ADDRESS = re.compile(r"(?:ray://)?(?P<host>[\w.-]+|\[[0-9a-fA-F:]+\]):(?P<port>\d+)")
CONNECT_SECONDS = 5.0
MARK = "KERAS_MNASNET_RAY"  # in the environment of what belongs to a Ray begun here


class _Trials:
    """The actor: an evaluator that stays on its node for many trials."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._growth = Growth()

    def node(self) -> str:
        """On which node it runs, once it runs."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def evaluate(self, trial: Trial) -> tuple[Measurement, float]:
        """One trial, and by how many MB the process has grown since its first."""
        return evaluated(self._evaluator, trial), self._growth.megabytes()


@dataclasses.dataclass(slots=True)
class _Slot:
    """One worker: its actor, the answer to where it runs, and the trial it works at."""

    number: int
    actor: Any
    ready: Any
    node: str | None = None
    trial: Trial | None = None
    answer: Any = None
    started: float = 0.0
    deadline: float = float("inf")
    since: float = 0.0
    grown_mb: float = 0.0

    @property
    def name(self) -> str:
        return f"ray {self.number} on {(self.node or 'no node')[:12]}"


class RayActors:
    """`workers` actors with `cpus` and `gpus` each. A node that goes away is a `lost` trial, and the actor starts elsewhere.

    `gpus` None is one GPU where the cluster has any: ValueError for more workers than these.
    `address`: None starts Ray on this machine, `auto` finds a running cluster, else HOST:PORT or ray://HOST:PORT. The package
    is sent to the nodes, which need its dependencies. `timeout` is seconds a trial, `start_seconds` how long the cluster may
    have no node for any actor. OSError for an address that does not answer.
    """

    def __init__(
        self, evaluator: Evaluator, workers: int, *, address: str | None = None, timeout: float | None = None,
        cpus: float = 1.0, gpus: float | None = None, start_seconds: float = 300.0, runtime_env: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ValueError(f"`workers` must be an integer >= 1. Received: workers={workers!r}")
        self.workers = workers
        self._timeout, self._start_seconds = timeout, start_seconds
        self._ray = _ray()
        self._ends = contextlib.ExitStack()
        self._began = not self._ray.is_initialized()
        threads = str(max(1, int(cpus)))
        variables = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": threads, "OMP_NUM_THREADS": threads, **GROWING}
        if self._began:
            package = str(Path(keras_mnasnet.__file__).parent)
            given = dict(runtime_env or {})
            variables |= given.pop("env_vars", {})
            with _kept(self._ends) if address is None else contextlib.nullcontext():
                _connect(self._ray, address, {"py_modules": [package], "env_vars": variables, **given})
        self._slots: list[_Slot] = []
        try:
            there = self._ray.cluster_resources().get("GPU", 0) if gpus is None else math.inf  # a cluster may grow
            share = check_gpus(workers, gpus, there, "the cluster")
        except BaseException:
            self.close()
            raise
        self._make = self._ray.remote(_Trials).options(
            num_cpus=cpus, num_gpus=share, scheduling_strategy="SPREAD", max_restarts=0
        )
        self._evaluator = self._ray.put(evaluator)
        self._alone_since = time.monotonic()
        self._slots = [self._slot(number) for number in range(workers)]

    def _slot(self, number: int) -> _Slot:
        actor = self._make.remote(self._evaluator)
        return _Slot(number, actor, actor.node.remote(), since=time.monotonic())

    def _look(self) -> None:
        """Which actors run by now; those that cannot are made anew."""
        for index, slot in enumerate(self._slots):
            if slot.node is None and self._ray.wait([slot.ready], timeout=0)[0]:
                try:
                    slot.node = self._ray.get(slot.ready)
                except self._ray.exceptions.RuntimeEnvSetupError as error:
                    raise OSError(f"The nodes of a cluster must be able to load the package. Received: {error}") from error
                except self._ray.exceptions.RayError:
                    self._slots[index] = self._slot(slot.number)
        if any(slot.node for slot in self._slots):
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > self._start_seconds:
            raise OSError(
                f"A cluster must have room for a worker. Received: none in {self._start_seconds:g} s, on nodes with "
                f"{self._ray.cluster_resources()}. Add nodes, or ask for fewer CPUs or GPUs a worker."
            )

    @property
    def free(self) -> int:
        """How many actors run and have no trial; at first, and after a loss, one trial may wait for its actor."""
        self._look()
        return sum(slot.node is not None and slot.trial is None for slot in self._slots)

    def submit(self, trial: Trial, *, avoid: str | None = None) -> str:
        """Hand a trial to a free actor, on another node than the one to avoid if there is one."""
        free = [slot for slot in self._slots if slot.node is not None and slot.trial is None]
        node = (avoid or "").rpartition(" ")[2]
        slot = min(free, key=lambda each: bool(avoid) and each.name.endswith(node))
        slot.trial, slot.started = trial, time.time()
        slot.deadline = float("inf") if self._timeout is None else time.monotonic() + self._timeout
        slot.answer = slot.actor.evaluate.remote(trial)
        return slot.name

    def wait(self, seconds: float) -> list[Measurement]:
        """The trials that are through, after at most `seconds`."""
        busy = [slot for slot in self._slots if slot.trial is not None]
        if not busy:
            waiting = [slot.ready for slot in self._slots if slot.node is None]
            if waiting:
                self._ray.wait(waiting, timeout=seconds)
            return []
        left = max(0.0, min(seconds, min(slot.deadline for slot in busy) - time.monotonic()))
        answers = [slot.answer for slot in busy]
        self._ray.wait(answers, num_returns=1, timeout=left)
        ready, through = set(self._ray.wait(answers, num_returns=len(answers), timeout=0)[0]), []
        for slot in busy:
            result = self._result(slot, slot.answer in ready)
            if result is not None and slot.trial is not None:
                through.append(result.by(slot.name, slot.trial, slot.started, time.time()))
                if result.failure is None and slot.grown_mb <= GROWTH_MB:
                    slot.trial, slot.answer, slot.deadline = None, None, float("inf")
                else:
                    self._ray.kill(slot.actor)
                    self._slots[self._slots.index(slot)] = self._slot(slot.number)
        return through

    def _result(self, slot: _Slot, through: bool) -> Measurement | None:
        exceptions = self._ray.exceptions
        if through:
            try:
                result, slot.grown_mb = self._ray.get(slot.answer)
                return result
            except exceptions.OutOfMemoryError as error:
                return Measurement(failure=Failure("memory", _line(error)))
            except (exceptions.RayActorError, exceptions.ObjectLostError, exceptions.NodeDiedError) as error:
                return Measurement(failure=Failure("lost", f"{slot.name}: {_line(error)}"))
            except exceptions.RayError as error:
                return Measurement(failure=Failure("crash", f"{type(error).__name__}: {_line(error)}"))
        if time.monotonic() >= slot.deadline:
            return Measurement(failure=Failure("timeout", f"a trial may take {self._timeout:g} s"))
        return None

    def close(self) -> None:
        """End the actors; and Ray, where this object started it."""
        for slot in self._slots:
            with contextlib.suppress(Exception):
                self._ray.kill(slot.actor)
        self._slots = []
        if self._began:
            self._ray.shutdown()
        self._ends.close()


@contextlib.contextmanager
def _kept(ends: contextlib.ExitStack) -> Iterator[None]:
    """What is started within ends with this process, even if that is killed, or with `ends`; where the system has /proc."""
    mark = f"{MARK}={secrets.token_hex(8)}"
    keeper = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("keeper.py")), mark], stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    ends.callback(keeper.communicate)
    os.environ[MARK] = mark.partition("=")[2]
    try:
        yield
    except BaseException:
        ends.close()
        raise
    finally:
        del os.environ[MARK]


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError('A search on a Ray cluster needs Ray: pip install "keras_mnasnet[ray]"') from error


def _connect(ray: Any, address: str | None, runtime_env: dict[str, Any]) -> None:
    match = ADDRESS.fullmatch(address or "")
    if address is not None and address != "auto" and not match:
        raise ValueError(f"A Ray address is auto, HOST:PORT or ray://HOST:PORT. Received: address={address!r}")
    if match:
        try:
            socket.create_connection((match["host"].strip("[]"), int(match["port"])), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise OSError(
                f"A Ray cluster must answer at its address. Received: {address}, which does not ({error}). `ray status` on its "
                f"head node prints the address; without --ray-address Ray starts on this machine."
            ) from error
    try:
        ray.init(address=address, runtime_env=runtime_env, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:
        raise OSError(
            f"A Ray cluster must run for address={address!r}. Received: {_line(error)}. Start one with `ray start --head`."
        ) from error
    except (Exception, SystemExit) as error:  # Ray's parts end in errors of any kind where a process of it does not start
        where = "on this machine" if address is None else f"for address={address!r}"
        raise OSError(
            f"Ray must start {where}. Received: {type(error).__name__}: {_line(error)}. Without a cluster: --executor pool."
        ) from error


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
