"""The driver of a study: asks the algorithm, hands trials to workers, and writes what comes back."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Iterator

from keras_mnasnet.search.algorithms.base import Algorithm
from keras_mnasnet.search.executors import Executor
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import Candidate, SearchSpace
from keras_mnasnet.search.study import Study, Writer, observation_of
from keras_mnasnet.search.trials import FATAL, Failure, Measurement, Observation, Order, Trial

ATTEMPTS = {"lost": 4}  # a lost machine says nothing of the trial; every other failure is tried once more elsewhere
USUAL_ATTEMPTS = 2
FAILURES_IN_A_ROW = 8

Meter = Callable[[Trial], tuple[float, str]]
"""Measures a trial's latency: milliseconds, and who says so."""


class StudyStopped(ValueError):
    """What would fail every further trial; the study is whole, and goes on when it is mended."""


def drive(
    study: Study, space: SearchSpace, algorithm: Algorithm, executor: Executor, *, trials: int, reward: Reward, order: Order,
    meter: Meter | None = None, seconds: float | None = None,
) -> Iterator[Trial]:  # fmt: skip
    """Go on with a study until it has `trials` trials, all finished, or `seconds` are over; gives each that is done or failed.

    Trials that the last run left unfinished come first. `meter` measures latency in this process, before a trial is handed
    out. The executor stays open. Raises StudyStopped for a vanished device, data that cannot be read, and when trial after
    trial fails.
    """
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise ValueError(f"`trials` must be an integer >= 1. Received: trials={trials!r}")
    if study.meta.fingerprint != space.fingerprint():
        raise ValueError(f"A study goes on in the space it was begun in. Received: space {space.name} for {study.path}")
    with study.transaction() as writer:
        writer.plan({**study.plan(), "trials": trials})
    return _Driver(study, space, algorithm, executor, trials, reward, order, meter, seconds).go()


class _Driver:
    def __init__(
        self, study: Study, space: SearchSpace, algorithm: Algorithm, executor: Executor, trials: int, reward: Reward,
        order: Order, meter: Meter | None, seconds: float | None,
    ) -> None:  # fmt: skip
        self.study, self.space, self.algorithm, self.executor = study, space, algorithm, executor
        self.trials, self.reward, self.order, self.meter = trials, reward, order, meter
        self.deadline = math.inf if seconds is None else time.monotonic() + seconds
        self.out: dict[int, Trial] = {}  # asked and not told
        self.finished: dict[int, Observation] = {}  # of these, the finished ones, in the order of finishing
        self.waiting: collections.deque[tuple[Trial, str | None]] = collections.deque()  # with the worker to avoid
        self.running = 0
        self.asked = study.count()
        self.exhausted = False
        self.failures = 0

    def go(self) -> Iterator[Trial]:
        self._resume()
        with self.study.transaction() as writer:
            self._advance(writer)
        while self.waiting or self.running:
            late = time.monotonic() >= self.deadline
            while self.waiting and self.executor.free and not late:
                self._submit(*self.waiting.popleft())
                late = time.monotonic() >= self.deadline
            if late and not self.running:
                return
            for measurement in self.executor.wait(1.0):
                failure, again = self._record(measurement)
                if not again:
                    yield self.study.trial(measurement.trial)
                    self._look_out(failure)

    def _resume(self) -> None:
        state = self.study.state()
        if state is not None:
            try:
                self.algorithm.restore(state, *self.study.history())
            except ValueError as error:
                raise ValueError(
                    f"A study must hold what its algorithm goes on from. Received: table state of {self.study.path}: {error}"
                ) from error
        elif self.asked:
            raise ValueError(f"A study with trials must hold its algorithm's state. Received: {self.study.path} without one")
        untold = self.study.untold()
        ended = sorted((t for t in untold if t.status in ("done", "failed")), key=lambda trial: trial.finished or 0)
        self.out = {trial.number: trial for trial in untold}
        self.finished = {trial.number: observation_of(trial) for trial in ended}
        with self.study.transaction() as writer:
            for trial in untold:
                if trial.number not in self.finished:
                    if trial.status == "running":
                        writer.waiting(trial.number, forget=True)
                    failed = self.study.measurements(trial.number)
                    again = dataclasses.replace(trial, attempts=1 + len(failed))
                    self.waiting.append((again, failed[-1].worker if failed else None))

    def _advance(self, writer: Writer) -> None:
        """Tell what can be told and ask for what is wanted, until neither; then keep the algorithm's state."""
        changed = False
        while True:
            numbers = self._tellable()
            if numbers:
                self.algorithm.tell([self.finished.pop(number) for number in numbers])
                for number in numbers:
                    del self.out[number]
                writer.told(numbers, self.algorithm.facts() or None)
            wanted = self._wanted()
            if not numbers and not wanted:
                break
            changed = True
            if wanted:
                self._ask(writer, wanted)
        if changed:
            writer.state(self.algorithm.state())

    def _tellable(self) -> list[int]:
        if self.order.kind == "completion":
            return list(self.finished)
        if self.order.kind == "batch":
            return sorted(self.out) if len(self.finished) == len(self.out) else []
        first = min(self.out, default=None)
        return [first] if first in self.finished else []

    def _wanted(self) -> int:
        left = 0 if self.exhausted else self.trials - self.asked
        if self.order.kind == "batch":
            return min(self.order.size, left) if not self.out else 0
        return max(min(self.order.size - len(self.out), left), 0)

    def _ask(self, writer: Writer, count: int) -> None:
        proposals = self.algorithm.ask(count)
        self.exhausted = len(proposals) < count
        for proposal in proposals:
            trial = Trial(
                self.asked, proposal.candidate, dict(self.space.values(proposal.candidate)), self.space.key(proposal.candidate),
                architecture=None if self.space.build is None else str(self.space.build(proposal.candidate)),
                attempts=1, extra=proposal.extra,
            )  # fmt: skip
            writer.add(trial)
            self.out[trial.number] = trial
            self.waiting.append((trial, None))
            self.asked += 1

    def _submit(self, trial: Trial, avoid: str | None) -> None:
        if self.meter is not None and trial.latency_ms is None:
            try:
                latency_ms, source = self.meter(trial)
            except OSError as error:
                self.waiting.appendleft((trial, avoid))
                raise StudyStopped(_stopped(trial.number, str(error))) from error
            trial = dataclasses.replace(trial, latency_ms=latency_ms, latency_source=source)
        self.out[trial.number] = trial
        worker = self.executor.submit(trial, avoid=avoid)
        self.running += 1
        with self.study.transaction() as writer:
            writer.started(trial.number, worker, time.time())

    def _record(self, found: Measurement) -> tuple[Failure | None, bool]:
        """Keep what an attempt found; what failed in it, and whether the trial is tried again."""
        self.running -= 1
        trial = self.out[found.trial]
        failure = found.failure or self._unusable(found, trial.candidate)
        if failure is not None and failure.kind in FATAL:
            with self.study.transaction() as writer:
                writer.waiting(trial.number, forget=True)
            raise StudyStopped(_stopped(trial.number, failure.reason))
        found = dataclasses.replace(found, failure=failure)
        again = failure is not None and found.attempt < ATTEMPTS.get(failure.kind, USUAL_ATTEMPTS)
        with self.study.transaction() as writer:
            writer.measured(found)
            if again:
                writer.waiting(trial.number)
                self.waiting.appendleft((dataclasses.replace(trial, attempts=found.attempt + 1), found.worker))
            else:
                self._finish(writer, trial, found)
                self._advance(writer)
        return failure, again

    def _finish(self, writer: Writer, trial: Trial, found: Measurement) -> None:
        latency = self._latency(found, trial.candidate)
        accuracy = None if found.failure else found.accuracy
        reward = None if accuracy is None else self.reward(accuracy, 1.0 if latency is None else latency)
        writer.finished(found, latency, reward)
        self.finished[trial.number] = Observation(trial.candidate, trial.extra, accuracy, latency, reward)

    def _latency(self, found: Measurement, candidate: Candidate) -> float | None:
        if found.latency_ms is not None or self.space.cost is None:
            return found.latency_ms
        return float(self.space.cost(candidate))

    def _unusable(self, found: Measurement, candidate: Candidate) -> Failure | None:
        """What is wrong with a measurement that claims to have not failed."""
        latency = self._latency(found, candidate)
        if found.accuracy is None or not math.isfinite(found.accuracy):
            return Failure("nan", f"the evaluator returned accuracy={found.accuracy}")
        if latency is None and self.reward.uses_latency:
            return Failure("error", "the evaluator returned no latency, and the space has no cost for the reward to use")
        if latency is not None and not 0 < latency < math.inf:
            return Failure("error", f"the evaluator returned latency_ms={latency}")
        return None

    def _look_out(self, failure: Failure | None) -> None:
        """Stop where nothing but failures comes back."""
        self.failures = self.failures + 1 if failure else 0
        if failure and self.failures >= FAILURES_IN_A_ROW:
            raise StudyStopped(
                f"Trials must succeed now and then. Received: {self.failures} failures in a row, the last with {failure}. "
                f"The study is kept; mend the cause and start the same command again."
            )


def _stopped(number: int, reason: str) -> str:
    return f"A trial must be measurable. Received at trial {number}: {reason}. It waits in the study: mend this, start again."
