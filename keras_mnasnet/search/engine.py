"""The driver of a study: asks the algorithm, hands trials to workers, and writes what comes back."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from keras_mnasnet.search.algorithms.base import Algorithm
from keras_mnasnet.search.executors import Executor
from keras_mnasnet.search.latency import DeviceGone
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.rungs import Ladder, Rungs, States
from keras_mnasnet.search.screens import latencies_of
from keras_mnasnet.search.space import Candidate, SearchSpace
from keras_mnasnet.search.study import Study, Writer, observation_of
from keras_mnasnet.search.trials import FATAL, Failure, Measurement, Observation, Order, Request, Trial

ATTEMPTS = {"lost": 4}  # a lost machine says nothing of the trial; every other failure is tried once more elsewhere
USUAL_ATTEMPTS = 2
FAILURES_IN_A_ROW = 8

Meter = Callable[[Trial], tuple[float, str]]
"""Measures a trial's latency: milliseconds, and who says so."""


class StudyStopped(ValueError):
    """What would fail every further trial; the study is whole, and goes on when it is mended."""


def drive(
    study: Study, space: SearchSpace, algorithm: Algorithm, executor: Executor, *, trials: int, reward: Reward, order: Order,
    meter: Meter | None = None, seconds: float | None = None, rungs: Rungs | None = None, inherit_best: bool = False,
) -> Iterator[Trial]:  # fmt: skip
    """Go on with a study until it has `trials` trials, all finished, or `seconds` are over; gives each that is done or failed.

    Trials that the last run left unfinished come first. `meter` measures latency in this process, before a trial is handed
    out. With `rungs` a network trains to the first one, and the best go on, each in a trial of its own; `trials` counts
    networks. With `inherit_best` a network starts from the weights of the best trial that the algorithm had learned of when it
    asked. The executor stays open. Raises StudyStopped for a vanished device, data that cannot be read, and when trial after
    trial fails.
    """
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise ValueError(f"`trials` must be an integer >= 1. Received: trials={trials!r}")
    if study.meta.fingerprint != space.fingerprint():
        raise ValueError(f"A study goes on in the space it was begun in. Received: space {space.name} for {study.path}")
    with study.transaction() as writer:
        writer.plan({**study.plan(), "trials": trials})
    return _Driver(study, space, algorithm, executor, trials, reward, order, meter, seconds, rungs, inherit_best).go()


class _Driver:
    def __init__(
        self, study: Study, space: SearchSpace, algorithm: Algorithm, executor: Executor, trials: int, reward: Reward,
        order: Order, meter: Meter | None, seconds: float | None, rungs: Rungs | None, inherit_best: bool,
    ) -> None:  # fmt: skip
        self.study, self.space, self.algorithm, self.executor = study, space, algorithm, executor
        self.trials, self.reward, self.order, self.meter = trials, reward, order, meter
        self.deadline = math.inf if seconds is None else time.monotonic() + seconds
        self.out: dict[int, Trial] = {}  # asked and not told
        self.finished: dict[int, Observation] = {}  # of these, the finished ones, in the order of finishing
        self.waiting: collections.deque[tuple[Trial, str | None]] = collections.deque()  # with the worker to avoid
        self.running = 0
        self.asked = self.networks = study.count()
        self.rungs, self.inherit_best = rungs, inherit_best
        self.ladder = None if rungs is None else Ladder(rungs)
        self.states = States(study.path) if rungs or inherit_best else None
        self.best: tuple[float, int] | None = None  # reward and trial, of those told
        self.starts: set[int] = set()  # trials whose weights others began with
        self.measures = getattr(algorithm, "measured", None) is not None
        self.exhausted = False
        self.failures = 0

    def go(self) -> Iterator[Trial]:
        self._resume()
        self._advance_measuring()
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
        if self.states is not None:
            self._climb_again()
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

    def _advance_measuring(self) -> None:
        """Advance where that measures proposals; StudyStopped, and the study as it was, for a vanished device."""
        try:
            with self.study.transaction() as writer:
                self._advance(writer)
        except DeviceGone as error:
            raise StudyStopped(_stopped(self.asked, str(error))) from error

    def _climb_again(self) -> None:
        """Where the rungs, the best trial and what began with it stand, after the trials of earlier runs."""
        trials = self.study.trials()
        promoted = {trial.of for trial in trials}
        self.networks = sum(trial.of is None for trial in trials)
        self.starts = {trial.start for trial in trials if trial.start is not None}
        for trial in sorted((each for each in trials if each.told is not None), key=lambda each: each.told or 0):
            self._learned(trial.number, observation_of(trial), promoted=trial.number in promoted)

    def _learned(self, number: int, found: Observation, *, promoted: bool = False) -> None:
        if self.ladder is not None:
            self.ladder.add(number, found.rung, found.reward, promoted=promoted)
        if found.reward is not None and (self.best is None or found.reward > self.best[0]):
            self.best = found.reward, number

    def _advance(self, writer: Writer) -> None:
        """Tell what can be told and ask for what is wanted, until neither; then keep the algorithm's state."""
        changed = False
        while True:
            numbers = self._tellable()
            if numbers:
                found = [self.finished.pop(number) for number in numbers]
                self.algorithm.tell(found)
                for number, observation in zip(numbers, found, strict=True):
                    del self.out[number]
                    self._learned(number, observation)
                writer.told(numbers, self.algorithm.facts() or None)
            asked = self._ask(writer, self._places())
            if not numbers and not asked:
                break
            changed = True
        if changed:
            writer.state(self.algorithm.state())

    def _tellable(self) -> list[int]:
        if self.order.kind == "completion":
            return list(self.finished)
        if self.order.kind == "batch":
            return sorted(self.out) if len(self.finished) == len(self.out) else []
        first = min(self.out, default=None)
        return [first] if first in self.finished else []

    def _places(self) -> int:
        """How many trials may be added to those that are out."""
        if self.order.kind == "batch":
            return self.order.size if not self.out else 0
        return max(self.order.size - len(self.out), 0)

    def _ask(self, writer: Writer, count: int) -> int:
        """Add at most `count` trials, promoted ones first; how many it were."""
        before = self.asked
        while self.ladder is not None and self.asked - before < count:
            promoted = self.ladder.promote()
            if promoted is None:
                break
            below, rung = self.study.trial(promoted[0]), promoted[1]
            first = below.key.partition("-")[0]
            self._add(writer, dataclasses.replace(
                below, key=f"{first}-{rung}", extra={**below.extra, "rung": rung, "of": below.number},
            ))  # fmt: skip
        count = 0 if self.exhausted else min(count - (self.asked - before), self.trials - self.networks)
        proposals = self.algorithm.ask(count) if count > 0 else []
        self.exhausted = self.exhausted or len(proposals) < count
        self.networks += len(proposals)
        for proposal in proposals:
            started = {"start": self.best[1]} if self.inherit_best and self.best else {}
            self.starts |= set(started.values())
            self._add(writer, Trial(
                0, proposal.candidate, dict(self.space.values(proposal.candidate)), self.space.key(proposal.candidate),
                architecture=None if self.space.build is None else str(self.space.build(proposal.candidate)),
                extra={**proposal.extra, **started},
            ))  # fmt: skip
        return self.asked - before

    def _add(self, writer: Writer, like: Trial) -> None:
        trial = Trial(
            self.asked, like.candidate, like.values, like.key, architecture=like.architecture, attempts=1, extra=like.extra
        )
        writer.add(trial)
        self.out[trial.number] = trial
        self.waiting.append((trial, None))
        self.asked += 1

    def _screened(self, trial: Trial) -> Trial:
        """The trial with the latency that its proposal was chosen by."""
        ms = latencies_of(trial.extra, self.space).get(trial.candidate) if "measured" in trial.extra else None
        source = str(trial.extra.get("measured_by", ""))
        return trial if ms is None else dataclasses.replace(trial, latency_ms=ms, latency_source=source)

    def _request(self, trial: Trial) -> Trial:
        """The trial with the state or the weights that its training begins with; StudyStopped where these are lost."""
        if self.states is None:
            return trial
        known: dict[str, Any] = {field.name: getattr(trial, field.name) for field in dataclasses.fields(Trial)}
        more: dict[str, Any] = {"keeps": "weights" if self.inherit_best else ""}
        if self.rungs is not None:
            more["share"] = self.rungs.shares[trial.rung]
            more["keeps"] = "all" if trial.rung + 1 < len(self.rungs.shares) else more["keeps"]
        if trial.of is not None and self.rungs is not None and (state := self.states.read(trial.of)) is not None:
            return Request(**known, **more, state=state, begun=self.rungs.shares[trial.rung - 1])
        if trial.start is None:
            return Request(**known, **more)
        content, source = self.states.read(trial.start), self.study.trial(trial.start)
        if content is None:
            lost = f"the weights of trial {trial.start}, {self.states.path(trial.start)}, are lost; restore them"
            raise StudyStopped(_stopped(trial.number, lost))
        return Request(**known, **more, weights=(source.architecture or "", content))

    def _sweep(self) -> None:
        """Keep the states that a trial may still begin with."""
        if self.states is not None:
            needed = {trial.of for trial in self.out.values() if trial.of is not None} | self.finished.keys()
            best = {self.best[1]} if self.inherit_best and self.best else set()
            hopeful = {} if self.ladder is None else self.ladder.hopeful(self.trials)
            self.states.keep(needed | best | self.starts, hopeful)

    def _submit(self, trial: Trial, avoid: str | None) -> None:
        trial = self._screened(trial)
        if trial.of is not None and (below := self.study.trial(trial.of)).latency_source is not None:
            trial = dataclasses.replace(trial, latency_ms=below.latency_ms, latency_source=below.latency_source)
        if self.meter is not None and trial.latency_ms is None:
            try:
                latency_ms, source = self.meter(trial)
            except OSError as error:
                self.waiting.appendleft((trial, avoid))
                raise StudyStopped(_stopped(trial.number, str(error))) from error
            trial = dataclasses.replace(trial, latency_ms=latency_ms, latency_source=source)
        self.out[trial.number] = trial
        worker = self.executor.submit(self._request(trial), avoid=avoid)
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
        if self.states is not None and failure is None and found.kept is not None:
            self.states.write(trial.number, found.kept)
        with self.study.transaction() as writer:
            writer.measured(found)
            if again:
                writer.waiting(trial.number)
                self.waiting.appendleft((dataclasses.replace(trial, attempts=found.attempt + 1), found.worker))
            else:
                self._finish(writer, trial, found)
                if not self.measures:
                    self._advance(writer)
        if self.measures and not again:  # what is finished is kept, should the device go away meanwhile
            self._advance_measuring()
        self._sweep()
        return failure, again

    def _finish(self, writer: Writer, trial: Trial, found: Measurement) -> None:
        latency = self._latency(found, trial.candidate)
        accuracy = None if found.failure else found.accuracy
        reward = None if accuracy is None else self.reward(accuracy, 1.0 if latency is None else latency)
        writer.finished(found, latency, reward)
        self.finished[trial.number] = Observation(trial.candidate, trial.extra, accuracy, latency, reward, trial.rung)

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
