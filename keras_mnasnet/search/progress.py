"""How far a study is: best so far, front, trials an hour, time left, what a trial costs; and an estimate beforehand."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import heapq
import math
import os
import random
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_mnasnet.search.evaluator import NetworkEvaluator, fixed_cost
from keras_mnasnet.search.executors import Executor
from keras_mnasnet.search.rungs import KEEP, Rungs
from keras_mnasnet.search.space import SearchSpace
from keras_mnasnet.search.study import Study
from keras_mnasnet.search.trials import Measurement, Order, StudyMeta, Trial
from keras_mnasnet.utils.reading import record

PROBE_STEPS = 6
PROBED = 33  # networks drawn for the middle one, by multiply-adds
LATEST = 200  # trials of a study that are read whole, for what a trial costs
RECENT = 20  # trials that the pace is taken from
LEAST_RECENT, USUAL_DEVIATION = 5, 0.5  # of the logarithms of durations, where fewer trials than these have ended
ALONE = Order("window", 1)
SIMULATED, MOST_SIMULATED = 40, 10_000  # trials of each worker and of all: what comes later changes little
SEARCHES = 5  # of which the mean is taken: one slow trial at the end is a tenth of it


@functools.lru_cache(maxsize=64)
def utilization(order: Order, workers: int, deviation: float, trials: int) -> float:
    """The share of the time in which `workers` have a trial, until `trials` are through: the mean of simulated searches.

    `deviation` is that of the logarithms of the durations.
    """
    trials = max(1, min(trials, SIMULATED * workers, MOST_SIMULATED))
    shares = []
    for seed in range(SEARCHES):
        draw, ends = random.Random(seed), list[float]()
        free = [0.0] * min(workers, order.size, trials)
        known = total = 0.0
        for number in range(trials):
            if order.kind == "window" and number >= order.size:
                known = max(known, ends[number - order.size])
            elif order.kind == "batch" and number and number % order.size == 0:
                known = max(ends)
            seconds = draw.lognormvariate(0.0, deviation)
            total += seconds
            ends.append(max(known, heapq.heappop(free)) + seconds)
            heapq.heappush(free, ends[-1])
        shares.append(total / (workers * max(ends)))
    return statistics.mean(shares)


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """A study in figures. Hours and seconds are of this machine's clock; None where too little is known.

    `trial` is the one that has just finished, `estimate` what was said before the first; `utilization` is the share of the time
    in which workers have a trial, by a simulation with the deviation of the latest durations. `rungs` are the networks that
    were measured at each rung; `done` and `failed` count every one of these trainings, `planned` networks.
    """

    done: int
    failed: int
    waiting: int
    best: Trial | None
    front: int
    trials_per_hour: float | None
    hours_left: float | None
    trial_seconds: float | None
    fixed_seconds: float | None
    phases: dict[str, float]
    utilization: float = 1.0
    planned: int | None = None
    rungs: tuple[int, ...] = ()
    trial: Trial | None = None
    estimate: str | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: every trial that was asked for is through, and as many as were planned were asked."""
        return not self.waiting and self.done + self.failed > 0

    def line(self) -> str:
        """`12 of 200 done, best 81.20 %, 2.31 ms, reward 0.8120 (trial 7), front 4, 31 trials/h, 6.1 h left, ...`."""
        first = self.rungs[0] if len(self.rungs) > 1 else self.done
        parts = [f"{first} of {self.planned or self.done + self.failed + self.waiting} done"]
        parts += [f"{count} of them at rung {rung}" for rung, count in enumerate(self.rungs[1:], start=2)]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.best is not None:
            parts.append(f"best {measures(self.best)} (trial {self.best.number})")
        parts.append(f"front {self.front}")
        if self.trials_per_hour is not None:
            parts.append(f"{self.trials_per_hour:.0f} trials/h")
        if self.hours_left is not None:
            parts.append(f"{shown_time(self.hours_left)} left")
        if self.fixed_seconds is not None:
            parts.append(f"{self.trial_seconds or 0:.1f} s a trial, {self.fixed_seconds:.1f} s of it fixed")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del found["trial"], found["estimate"]
        return found | {"best": self.best and row_of(self.best)}


def row_of(trial: Trial) -> dict[str, Any]:
    """A trial's figures and its network, as a JSON object."""
    names = ("number", "rung", "accuracy", "latency_ms", "reward", "params", "madds", "architecture", "values")
    return {name: getattr(trial, name) for name in names}


def measures(trial: Trial) -> str:
    """`81.20 %, 2.31 ms, reward 0.8120`."""
    latency = "" if trial.latency_ms is None else f", {trial.latency_ms:.4g} ms"
    return f"{100 * (trial.accuracy or 0):.2f} %{latency}, reward {trial.reward or 0:.4f}"


def _place(trial: Trial) -> tuple[float, float]:
    return trial.latency_ms or 0.0, trial.accuracy or 0.0


class Figures:
    """The figures of a study, kept up trial by trial: what one more costs does not grow with the trials before it.

    The phases are those of the trials that were added one by one, and of the latest before them.
    """

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        self.done = self.failed = self.waiting = 0
        self._best: Trial | None = None
        self._front: list[tuple[float, float]] = []  # latency and accuracy, both rising
        self._recent: list[tuple[float, float]] = []  # when a trial was finished, and its seconds, of the last twenty
        self._seconds: dict[str, float] = {}
        self._fixed, self._timed = 0.0, 0
        self._rungs: list[int] = []
        self._networks: dict[tuple[int, ...], Trial] = {}  # each at its highest rung
        for trial in trials:
            self.add(trial)

    @classmethod
    def of(cls, study: Study) -> Figures:
        """Of all trials of a study, of which only what ranks them is read, and the latest ones whole."""
        if rungs_of(study.meta) is not None:  # which network is at which rung is in every trial
            return cls(study.trials())
        found, best = cls(study.latest(LATEST)), (-math.inf, 0)
        found.done, found.failed, found.waiting = (
            study.count(*kind) for kind in (["done"], ["failed"], ["pending", "running"])
        )
        found._rungs = [found.done]
        for number, accuracy, latency_ms, reward in study.scores():
            best = max(best, (reward, -number))
            found._add_to_front(latency_ms or 0.0, accuracy)
        found._best = study.trial(-best[1]) if found.done else None
        return found

    def add(self, trial: Trial) -> None:
        """One more trial; one that waits or runs may come again when it has ended, with `waiting` set anew."""
        self.done += trial.status == "done"
        self.failed += trial.status == "failed"
        self.waiting += trial.status in ("pending", "running")
        if trial.finished and trial.status in ("done", "failed"):
            seconds = trial.finished - trial.started if trial.started else math.nan
            bisect.insort(self._recent, (trial.finished, seconds))
            del self._recent[:-RECENT]
        if trial.status != "done":
            return
        self._rungs += [0] * (trial.rung + 1 - len(self._rungs))
        self._rungs[trial.rung] += 1
        below = self._networks.get(trial.candidate) if trial.rung else None
        self._networks[trial.candidate] = trial
        if below is not None and (below is self._best or _place(below) in self._front):
            self._best, self._front = None, []
            for each in self._networks.values():
                self._take(each)
        else:
            self._take(trial)
        if trial.seconds:
            self._timed += 1
            self._fixed += fixed_cost(trial.seconds)
            for name, value in trial.seconds.items():
                self._seconds[name] = self._seconds.get(name, 0.0) + value

    def _take(self, trial: Trial) -> None:
        self._best = max(filter(None, (self._best, trial)), key=lambda each: (each.reward or 0.0, -each.number))
        self._add_to_front(*_place(trial))

    def _add_to_front(self, latency: float, accuracy: float) -> None:
        place = bisect.bisect_right(self._front, (latency, math.inf))
        if place and self._front[place - 1][1] >= accuracy:
            return
        while place and self._front[place - 1][0] == latency:
            place -= 1
        end = place
        while end < len(self._front) and self._front[end][1] <= accuracy:
            end += 1
        self._front[place:end] = [(latency, accuracy)]

    def progress(
        self, *, planned: int | None = None, workers: int = 1, order: Order = ALONE, trial: Trial | None = None,
        estimate: str | None = None, rungs: Rungs | None = None,
    ) -> Progress:  # fmt: skip
        """How far the study is, of `planned` networks; the pace is that of the last twenty on `workers` workers in `order`."""
        spans = [seconds for _, seconds in self._recent if not math.isnan(seconds)]
        mean = statistics.mean(spans) if spans else None
        logs = [math.log(seconds) for seconds in spans if seconds > 0]
        deviation = round(statistics.pstdev(logs), 1) if len(logs) >= LEAST_RECENT else USUAL_DEVIATION
        trainings = planned if planned is None or rungs is None else rungs.planned(planned)
        rest = 0 if trainings is None else max(0, trainings - self.done - self.failed)
        about = int(float(f"{rest:.1g}")) or MOST_SIMULATED  # a round number, which is simulated once
        busy = utilization(order, workers, deviation, about)
        pace = busy * workers * 3600 / mean if mean else None
        left = None if planned is None or pace is None else rest / pace
        return Progress(
            done=self.done,
            failed=self.failed,
            waiting=self.waiting,
            best=self._best,
            front=len(self._front),
            trials_per_hour=pace,
            hours_left=left,
            trial_seconds=mean,
            fixed_seconds=self._fixed / self._timed if self._timed else None,
            phases={name: value / self._timed for name, value in self._seconds.items()},
            utilization=busy,
            planned=planned,
            rungs=tuple(self._rungs),
            trial=trial,
            estimate=estimate,
        )


@dataclasses.dataclass(frozen=True)
class Status:
    """A study as it stands: what it is about, how the last run was to go, who writes it, and every failed attempt."""

    study: str
    meta: StudyMeta
    plan: dict[str, Any]
    owner: dict[str, Any] | None
    progress: Progress
    failures: tuple[Measurement, ...]

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        about = {name: getattr(self.meta, name) for name in ("space", "algorithm", "reward", "device", "seed")}
        failures = [
            {"trial": each.trial, "attempt": each.attempt, "worker": each.worker, "reason": str(each.failure)}
            for each in self.failures
        ]
        return {
            "study": self.study, **about, "plan": self.plan, "owner": self.owner, **self.progress.to_json(),
            "failures": failures,
        }  # fmt: skip


def order_of(meta: StudyMeta, plan: Mapping[str, Any]) -> Order:
    """In which order the trials of a study follow each other: as in its last run, else in its first, else the usual one."""
    stored = plan.get("order") or meta.order
    return record(stored, Order, "The order of a study") if stored else Order.usual(meta.algorithm, plan["workers"])


def rungs_of(meta: StudyMeta) -> Rungs | None:
    """The study's rungs; None without."""
    own = meta.evaluation
    return Rungs(tuple(own["rungs"]), own.get("keep") or KEEP) if own.get("rungs") else None


def status(study: str | os.PathLike[str]) -> Status:
    """How far a study is, also while it runs.

    Example:
        from keras_mnasnet import search

        print(search.status("mine.study").progress.line())
    """
    with Study.open(study, read_only=True) as opened:
        plan = {"trials": opened.asked(), "workers": 1, **opened.plan()}
        order = order_of(opened.meta, plan)
        progress = Figures.of(opened).progress(
            planned=plan["trials"], workers=plan["workers"], order=order, rungs=rungs_of(opened.meta)
        )
        failures = tuple(opened.measurements(failed=True))
        return Status(os.fspath(study), opened.meta, plan, opened.owner(), progress, failures)


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """What a search will take. `step_seconds` is of the middle network by multiply-adds, `deviation` that of the logarithms of
    the trials' durations where a step takes as long as its multiply-adds say."""

    trials: int
    workers: int
    order: Order
    steps: int
    step_seconds: float
    fixed_seconds: float
    deviation: float

    @property
    def trial_seconds(self) -> float:
        """One trial."""
        return self.fixed_seconds + self.steps * self.step_seconds

    @property
    def utilization(self) -> float:
        """The share of the time in which a worker has a trial."""
        return utilization(self.order, self.workers, round(self.deviation, 1), self.trials)

    @property
    def hours(self) -> float:
        """All of them, on all workers."""
        return self.trials * self.trial_seconds / (self.workers * self.utilization) / 3600

    def __str__(self) -> str:
        return (
            f"{self.trials:,} trials of about {self.trial_seconds:.3g} s ({self.steps:,} steps of {self.step_seconds:.3g} s, "
            f"{self.fixed_seconds:.3g} s fixed) on {_at_work(self.workers, self.utilization)}: about {shown_time(self.hours)}"
        )


def _at_work(workers: int, share: float) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers, which have a trial {share:.0%} of the time"


def timed(
    space: SearchSpace, evaluator: NetworkEvaluator, executor: Executor, *, trials: int, workers: int, order: Order,
    train_images: int, classes: int, share: float = 1.0,
) -> Estimate:  # fmt: skip
    """Time a few steps of the middle network, in a worker, as a trial would run. ValueError where that fails.

    `share`: of the recipe's steps, that a network trains on average.
    """
    if space.build is None:
        raise ValueError(f"An estimate needs a space of networks. Received: {space.name!r}")
    rng = np.random.default_rng(0)
    drawn = {str(network): network for network in (space.build(space.sample(rng)) for _ in range(PROBED))}
    size = evaluator.resolution
    madds = {text: network.madds(size, size, classes=classes) for text, network in drawn.items()}
    middle = sorted(madds, key=madds.__getitem__)[len(madds) // 2]
    steps = round(share * (train_images // evaluator.recipe.batch_size * evaluator.recipe.epochs))
    executor.submit(Trial(-1, architecture=middle))
    outcomes: list[Any] = []
    while not outcomes:
        outcomes = executor.wait(1.0)
    result = outcomes[0]
    if result.failure is not None:
        raise ValueError(f"A trial must be possible. Received: {result.failure}")
    fixed, step = fixed_cost(result.seconds), result.seconds["training_steps"] / max(1, result.details["steps"] - 1)
    spans = [math.log(fixed + steps * step * each / madds[middle]) for each in madds.values()]
    return Estimate(trials, workers, order, steps, step, fixed, statistics.pstdev(spans))


def estimate_from(progress: Progress, *, trials: int, workers: int) -> str | None:
    """What the rest will take, by the trials there are; None without any."""
    if progress.trial_seconds is None or progress.hours_left is None:
        return None
    trained = (progress.rungs[0] if progress.rungs else 0) + progress.failed
    left, on = max(0, trials - trained), _at_work(workers, progress.utilization)
    return f"{left:,} trials of about {progress.trial_seconds:.3g} s on {on}: about {shown_time(progress.hours_left)}"


def shown_time(hours: float) -> str:
    """`40 s`, `12 min`, `3.4 h`, `2.1 days`."""
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
