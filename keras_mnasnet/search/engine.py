"""The driver of a study: asks the algorithm, hands trials to workers, and writes what comes back."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

from keras_mnasnet.search.algorithms.base import Algorithm, Observation
from keras_mnasnet.search.executors import Executor, Outcome
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import Candidate, SearchSpace
from keras_mnasnet.search.study import Study, Writer
from keras_mnasnet.search.trials import FATAL, Failure, Measurement, Trial, TrialRequest, TrialResult

__all__ = ["Meter", "Order", "run", "StudyStopped"]

ORDERS = ("batch", "window", "completion")
ATTEMPTS = {"lost": 4}  # a lost machine says nothing of the trial; every other failure is tried once more elsewhere
USUAL_ATTEMPTS = 2
FAILURES_IN_A_ROW = 8

Meter = Callable[[TrialRequest], tuple[float, str]]


class StudyStopped(ValueError):
    """What would fail every further trial; the study is whole, and goes on when it is mended."""


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """When the algorithm learns of results and is asked for more.

    `batch`: asked for `size` trials, told all of them by number when the last is finished, and so on.
    `window`: trial n is asked when it was told of trials 0 .. n - size, one by one, by number.
    `completion`: told of each when it finishes, and asked for the next; `size` are out at a time.
    With `batch` and `window` the trials depend on the results alone, not on which worker was faster; with `completion` they
    depend on the order of finishing, and after a resume on that of the trials that were out.
    """

    kind: str
    size: int

    def __post_init__(self) -> None:
        if self.kind not in ORDERS:
            raise ValueError(f"`kind` must be one of {ORDERS}. Received: kind={self.kind!r}")
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"`size` must be an integer >= 1. Received: size={self.size!r}")


def run(
    study: Study, space: SearchSpace, algorithm: Algorithm, executor: Executor, *, trials: int, reward: Reward, order: Order,
    meter: Meter | None = None, watch: Callable[[Trial], Any] | None = None, seconds: float | None = None,
) -> bool:  # fmt: skip
    """Go on with a study until it has `trials` trials, all finished; False where `seconds` ended it sooner.

    Trials that the last run left unfinished come first. `meter` measures latency in this process, before a trial is handed
    out. `watch` is called with every trial that is done or failed. The executor stays open. Raises StudyStopped for a
    vanished device, data that cannot be read, and when trial after trial fails.
    """
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise ValueError(f"`trials` must be an integer >= 1. Received: trials={trials!r}")
    if study.meta.fingerprint != space.fingerprint():
        raise ValueError(f"A study goes on in the space it was begun in. Received: space {space.name} for {study.path}")
    with study.transaction() as writer:
        writer.plan({**study.plan(), "trials": trials})
    return _Driver(study, space, algorithm, executor, trials, reward, order, meter, watch, seconds).go()


class _Driver:
    def __init__(
        self, study: Study, space: SearchSpace, algorithm: Algorithm, executor: Executor, trials: int, reward: Reward,
        order: Order, meter: Meter | None, watch: Callable[[Trial], Any] | None, seconds: float | None,
    ) -> None:  # fmt: skip
        self.study, self.space, self.algorithm, self.executor = study, space, algorithm, executor
        self.trials, self.reward, self.order = trials, reward, order
        self.meter, self.watch = meter, watch
        self.deadline = math.inf if seconds is None else time.monotonic() + seconds
        self.out: dict[int, Trial] = {}  # asked and not told
        self.finished: dict[int, Observation] = {}  # of these, the finished ones, in the order of finishing
        self.waiting: collections.deque[tuple[TrialRequest, str | None]] = collections.deque()
        self.running = 0
        self.asked = study.count()
        self.exhausted = False
        self.failures = 0

    def go(self) -> bool:
        self._resume()
        with self.study.transaction() as writer:
            self._advance(writer)
        while self.waiting or self.running:
            late = time.monotonic() >= self.deadline
            while self.waiting and self.executor.free and not late:
                self._submit(*self.waiting.popleft())
                late = time.monotonic() >= self.deadline
            if late and not self.running:
                return False
            for outcome in self.executor.wait(1.0):
                self._record(outcome)
        return True

    def _resume(self) -> None:
        state = self.study.state()
        if state is not None:
            self.algorithm.restore(state)
        elif self.asked:
            raise ValueError(f"A study with trials must hold its algorithm's state. Received: {self.study.path} without one")
        untold = self.study.untold()
        ended = sorted((t for t in untold if t.status in ("done", "failed")), key=lambda trial: trial.finished or 0)
        self.out = {trial.number: trial for trial in untold}
        self.finished = {trial.number: _observation(trial) for trial in ended}
        with self.study.transaction() as writer:
            for trial in untold:
                if trial.number not in self.finished:
                    if trial.status == "running":
                        writer.waiting(trial.number, forget=True)
                    failed = self.study.measurements(trial.number)
                    request = _request(trial, 1 + len(failed))
                    self.waiting.append((request, failed[-1].worker if failed else None))

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
                number=self.asked,
                candidate=proposal.candidate,
                values=dict(self.space.values(proposal.candidate)),
                key=self.space.key(proposal.candidate),
                status="pending",
                architecture=None if self.space.build is None else str(self.space.build(proposal.candidate)),
                extra=proposal.extra,
            )
            writer.add(trial)
            self.out[trial.number] = trial
            self.waiting.append((_request(trial, 1), None))
            self.asked += 1

    def _submit(self, request: TrialRequest, avoid: str | None) -> None:
        if self.meter is not None and request.latency_ms is None:
            try:
                latency_ms, source = self.meter(request)
            except OSError as error:
                self.waiting.appendleft((request, avoid))
                raise StudyStopped(_stopped(request.number, str(error))) from error
            request = dataclasses.replace(request, latency_ms=latency_ms, latency_source=source)
        worker = self.executor.submit(request, avoid=avoid)
        self.running += 1
        with self.study.transaction() as writer:
            writer.started(request.number, worker, time.time())

    def _record(self, outcome: Outcome) -> None:
        self.running -= 1
        request, result = outcome.request, outcome.result
        failure = result.failure or self._unusable(result, request.candidate)
        if failure is not None and result.failure is None:
            result = dataclasses.replace(result, failure=failure)
        if failure is not None and failure.kind in FATAL:
            with self.study.transaction() as writer:
                writer.waiting(request.number, forget=True)
            raise StudyStopped(_stopped(request.number, failure.reason))
        measurement = Measurement(request.number, request.attempt, outcome.worker, outcome.started, outcome.finished, result)
        again = failure is not None and request.attempt < ATTEMPTS.get(failure.kind, USUAL_ATTEMPTS)
        with self.study.transaction() as writer:
            writer.measured(measurement)
            if again:
                writer.waiting(request.number)
                self.waiting.appendleft((dataclasses.replace(request, attempt=request.attempt + 1), outcome.worker))
            else:
                self._finish(writer, measurement)
                self._advance(writer)
        if not again:
            self._look_out(failure, request.number)

    def _finish(self, writer: Writer, measurement: Measurement) -> None:
        trial, result = self.out[measurement.trial], measurement.result
        latency = self._latency(result, trial.candidate)
        reward = None
        if result.failure is None and result.accuracy is not None:
            reward = self.reward(result.accuracy, 1.0 if latency is None else latency)
        writer.finished(trial.number, measurement, latency, reward)
        accuracy = None if result.failure else result.accuracy
        self.finished[trial.number] = Observation(trial.candidate, trial.extra, accuracy, latency, reward)

    def _latency(self, result: TrialResult, candidate: Candidate) -> float | None:
        if result.latency_ms is not None or self.space.cost is None:
            return result.latency_ms
        return float(self.space.cost(candidate))

    def _unusable(self, result: TrialResult, candidate: Candidate) -> Failure | None:
        """What is wrong with a result that claims to be none."""
        latency = self._latency(result, candidate)
        if result.accuracy is None or not math.isfinite(result.accuracy):
            return Failure("nan", f"the evaluator returned accuracy={result.accuracy}")
        if latency is None and self.reward.uses_latency:
            return Failure("error", "the evaluator returned no latency, and the space has no cost for the reward to use")
        if latency is not None and not 0 < latency < math.inf:
            return Failure("error", f"the evaluator returned latency_ms={latency}")
        return None

    def _look_out(self, failure: Failure | None, number: int) -> None:
        """Report a finished trial, and stop where nothing but failures comes back."""
        if self.watch is not None:
            self.watch(self.study.trial(number))
        self.failures = self.failures + 1 if failure else 0
        if failure and self.failures >= FAILURES_IN_A_ROW:
            raise StudyStopped(
                f"Trials must succeed now and then. Received: {self.failures} failures in a row, the last with "
                f"{failure.kind}: {failure.reason}. The study is kept; mend the cause and start the same command again."
            )


def _request(trial: Trial, attempt: int) -> TrialRequest:
    return TrialRequest(trial.number, attempt, trial.candidate, trial.values, trial.architecture)


def _observation(trial: Trial) -> Observation:
    return Observation(trial.candidate, trial.extra, trial.accuracy, trial.latency_ms, trial.reward)


def _stopped(number: int, reason: str) -> str:
    return f"A trial must be measurable. Received at trial {number}: {reason}. It waits in the study: mend this, start again."
