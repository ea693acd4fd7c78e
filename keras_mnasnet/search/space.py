"""A search space: named decisions with choices, and what may be known of a candidate without training it."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.search.trials import Scalar

Candidate = tuple[int, ...]

ENUMERABLE = 20_000  # spaces up to this size are listed, so that "exhausted" is known
TRIES = 10_000
GUIDED = 256  # networks that a guide is fitted to: as many drawn, and as many brought to the limits
SWEEPS = 4  # over the decisions, to bring a network within limits
SETTLED = 30  # draws that no step brings within limits, before the smallest network is looked for
LEAST_USAGE = 1e-9


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """One named decision and its choices."""

    name: str
    choices: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"A decision's name is a text that is not empty. Received: name={self.name!r}")
        object.__setattr__(self, "choices", tuple(self.choices))
        if not self.choices:
            raise ValueError(f"A decision needs at least one choice. Received: choices=() of {self.name!r}")
        for index, choice in enumerate(self.choices):
            if not isinstance(choice, Scalar):
                raise ValueError(
                    f"A choice is a text, a number or a boolean. "
                    f"Received: {choice!r} of type {type(choice).__name__} in {self.name!r}"
                )
            if choice in self.choices[:index]:
                raise ValueError(f"The choices of a decision must differ. Received: {choice!r} twice in {self.name!r}")


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """Decisions, and optionally what is known without training; a candidate is the index of each decision's choice.

    `cost(candidate)` is the latency in ms, or whatever stands for it. `allowed(candidate)` is a constraint checked before a
    candidate is proposed. Where it also has a method `usage(candidate)`, the shares of its limits that the candidate takes,
    networks within tight limits are found without drawing until one fits. `canonical_of(candidate)` removes dead choices:
    candidates that are the same network must have the same canonical form. `build(candidate)` gives the network; spaces of
    other things have none. `options` are the arguments that make the same space again; they belong to its identity. Callables
    must pickle if trials run in other processes.
    """

    name: str
    decisions: tuple[Decision, ...]
    cost: Callable[[Candidate], float] | None = None
    allowed: Callable[[Candidate], bool] | None = None
    canonical_of: Callable[[Candidate], Candidate] | None = None
    build: Callable[[Candidate], Architecture] | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "decisions", tuple(self.decisions))
        if not self.decisions:
            raise ValueError(f"A search space needs at least one decision. Received: decisions=() of {self.name!r}")
        names = [decision.name for decision in self.decisions]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"The decisions of a space must have different names. Received: {sorted(twice)} twice")

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """The number of choices of each decision."""
        return tuple(len(decision.choices) for decision in self.decisions)

    @property
    def size(self) -> int:
        """The number of candidates, before constraints and before equal networks are taken together."""
        return math.prod(self.counts)

    def check(self, candidate: Candidate) -> Candidate:
        """The candidate, if it is one of this space; ValueError otherwise."""
        fits = len(candidate) == len(self.counts) and all(
            0 <= index < count and index == int(index) for index, count in zip(candidate, self.counts, strict=True)
        )
        if not fits:
            raise ValueError(
                f"A candidate of {self.name!r} has {len(self.counts)} indices, each below its number of choices "
                f"{self.counts}. Received: candidate={tuple(candidate)}"
            )
        return tuple(map(int, candidate))

    def canonical(self, candidate: Candidate) -> Candidate:
        """The one candidate that stands for all that are the same network."""
        return candidate if self.canonical_of is None else self.canonical_of(candidate)

    def key(self, candidate: Candidate) -> str:
        """A hash of the network, equal on every machine: 16 hexadecimal digits."""
        return _digest(self.values(self.canonical(candidate)))

    def values(self, candidate: Candidate) -> dict[str, Scalar]:
        """{decision: choice}."""
        return {
            decision.name: decision.choices[index]
            for decision, index in zip(self.decisions, self.check(candidate), strict=True)
        }

    def candidate(self, values: Mapping[str, Scalar]) -> Candidate:
        """The candidate with these choices; an unknown name or choice, or a missing one, raises ValueError."""
        names = [decision.name for decision in self.decisions]
        unknown = [name for name in values if name not in names]
        missing = [name for name in names if name not in values]
        if unknown or missing:
            raise ValueError(f"The decisions of {self.name!r} are {names}. Received: unknown {unknown}, missing {missing}")
        indices = []
        for decision in self.decisions:
            value = values[decision.name]
            if value not in decision.choices:
                raise ValueError(f"`{decision.name}` must be one of {decision.choices}. Received: {decision.name}={value!r}")
            indices.append(decision.choices.index(value))
        return tuple(indices)

    def is_allowed(self, candidate: Candidate) -> bool:
        """Whether the constraint, if there is one, lets the candidate in."""
        if self.allowed is None:
            return True
        if candidate not in self._verdicts:
            if len(self._verdicts) >= ENUMERABLE:
                self._verdicts.clear()
            self._verdicts[candidate] = bool(self.allowed(candidate))
        return self._verdicts[candidate]

    @cached_property
    def _verdicts(self) -> dict[Candidate, bool]:
        return {}

    @cached_property
    def guide(self) -> Guide | None:
        """Where networks within the limits lie; None for a space without limits, or with a constraint that is yes or no."""
        usage = getattr(self.allowed, "usage", None)
        return None if usage is None else Guide(self, usage)

    def likely(self, rng: np.random.Generator, count: int) -> list[Candidate]:
        """Canonical candidates that probably are allowed: drawn uniformly, and changed until their limits seem to be met."""
        if self.members is not None:
            return [self.sample(rng) for _ in range(count)]
        points = rng.integers(self.counts, size=(count, len(self.counts)))
        if self.guide is not None:
            points = self.guide.within(points, rng)
        return [self.canonical(tuple(point)) for point in points.tolist()]

    def sample(self, rng: np.random.Generator) -> Candidate:
        """A canonical, allowed candidate: choices drawn uniformly, and drawn again, or changed, until the constraint is met."""
        if self.members is not None:
            everything = self._drawable
            return everything[int(rng.integers(len(everything)))]
        beyond = 0
        for _ in range(TRIES):
            (candidate,) = self.likely(rng, 1)
            if self.guide is not None and not self.is_allowed(candidate):
                candidate = self.guide.settled(candidate, rng)
                beyond += max(self.guide.usage(candidate)) > 1
                if beyond >= SETTLED:
                    candidate = self._smallest(self.guide)
            if self.is_allowed(candidate):
                return candidate
        raise ValueError(
            f"The constraint of {self.name!r} must let some candidates in. Received: none in {TRIES:,} draws. "
            f"Loosen the constraint, or the target it comes from."
        )

    def _smallest(self, guide: Guide) -> Candidate:
        """The candidate with the least usage that one-decision steps lead to; ValueError where that is too much."""
        if guide.most > 1:
            raise ValueError(
                f"The limits of {self.name!r} must let some candidates in. Received: limits of which the smallest network that "
                f"was found takes {guide.most:.4g} times what they allow. Loosen them."
            )
        return guide.smallest

    def neighbours(self, candidate: Candidate, *, any_allowed: bool = False) -> list[Candidate]:
        """The different, allowed networks one decision away, in canonical form; `any_allowed` leaves the constraint out."""
        own = self.canonical(self.check(candidate))
        found: dict[Candidate, None] = {}
        for position, count in enumerate(self.counts):
            for choice in range(count):
                if choice != candidate[position]:
                    other = self.canonical((*candidate[:position], choice, *candidate[position + 1 :]))
                    if other != own and other not in found and (any_allowed or self.is_allowed(other)):
                        found[other] = None
        return list(found)

    @cached_property
    def members(self) -> tuple[Candidate, ...] | None:
        """Every allowed network once, in canonical form; None for a space of more than 20,000 candidates."""
        return None if self.size > ENUMERABLE else tuple(dict.fromkeys(self._drawable))

    @cached_property
    def _drawable(self) -> tuple[Candidate, ...]:
        """Every allowed candidate in canonical form, as often as it is drawn among the choices."""
        every = (self.canonical(candidate) for candidate in itertools.product(*map(range, self.counts)))
        found = tuple(candidate for candidate in every if self.is_allowed(candidate))
        if not found:
            raise ValueError(
                f"The constraint of {self.name!r} must let some candidates in. Received: none of {self.size:,} candidates. "
                f"Loosen the constraint, or the target it comes from."
            )
        return found

    def fingerprint(self) -> str:
        """The identity of the space: 16 hexadecimal digits over its name, options, decisions and choices."""
        decisions = [[decision.name, list(decision.choices)] for decision in self.decisions]
        return _digest([self.name, dict(self.options), decisions])

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each decision's choices begin in a feature vector."""
        return np.concatenate([[1], 1 + np.cumsum([count - 1 for count in self.counts])[:-1]]).astype(np.int64)

    @property
    def feature_count(self) -> int:
        """The length of a feature vector: 1 and one per choice beyond each decision's first."""
        return 1 + sum(self.counts) - len(self.counts)

    def features(self, candidates: Candidate | list[Candidate] | np.ndarray) -> np.ndarray:
        """`[F]` for one candidate, `[N, F]` for several: a 1, then each decision one-hot without its first choice."""
        indices = np.asarray(candidates, np.int64)
        single = indices.ndim == 1
        indices = np.atleast_2d(indices)
        rows = np.zeros((len(indices), self.feature_count))
        rows[:, 0] = 1
        at, decision = np.nonzero(indices)
        rows[at, self.offsets[decision] + indices[at, decision] - 1] = 1
        return rows[0] if single else rows


class Guide:
    """An additive model of the logarithms of `usage`, what limits bound as shares of these: 0 is at the limit, in a moment.

    It is fitted to networks drawn uniformly, to those that it brings to the limits itself (`error` is its standard deviation
    there), and to `smallest`, which takes the share `most`, and its neighbors. The same space has the same guide.
    """

    def __init__(self, space: SearchSpace, usage: Callable[[Candidate], Sequence[float]]) -> None:
        self.usage, self._space = usage, space
        rng = np.random.default_rng(0)
        points = rng.integers(space.counts, size=(GUIDED, len(space.counts)))
        logs = self._logs(points)
        self._fit(points, logs)
        least = space.canonical(tuple(int(values.max(axis=1).argmin()) for values in self.by_choice))
        self.most, self.smallest = descended(space, lambda each: max(usage(each)), least, any_allowed=True)
        near = self.within(rng.integers(space.counts, size=(GUIDED, len(space.counts))), rng)
        points = np.concatenate([points, near, [self.smallest, *space.neighbours(self.smallest, any_allowed=True)]])
        logs = self._logs(points)
        self._fit(points, logs)
        self.error = float((self(near) - logs[GUIDED : 2 * GUIDED]).std())

    def _logs(self, points: np.ndarray) -> np.ndarray:
        return np.log(np.maximum([self.usage(tuple(point)) for point in points.tolist()], LEAST_USAGE))

    def _fit(self, points: np.ndarray, logs: np.ndarray) -> None:
        """Least squares; what lies at the limits counts more."""
        weights = np.exp(-np.abs(logs.max(axis=1)))[:, None]
        rows = self._space.features(points)
        solved = np.linalg.lstsq(np.concatenate([weights * rows, 1e-3 * np.eye(rows.shape[1])]), np.concatenate(
            [weights * logs, np.zeros((rows.shape[1], logs.shape[1]))]
        ), rcond=None)[0]  # fmt: skip
        self.start = solved[0]  # [L]
        self.by_choice = [  # per decision [choices, L]
            np.concatenate([np.zeros((1, logs.shape[1])), solved[offset : offset + count - 1]])
            for offset, count in zip(self._space.offsets, self._space.counts, strict=True)
        ]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """`[N, L]` of points `[N, D]`."""
        return self.start + sum(values[points[:, d]] for d, values in enumerate(self.by_choice))

    def within(self, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The points `[N, D]`, those beyond a limit changed to smaller choices, one decision after the other, until within."""
        points, total = points.copy(), self(points)
        for _ in range(SWEEPS):
            for d in rng.permutation(len(self.by_choice)):
                beyond = np.flatnonzero((total > 0).any(axis=1))
                if not len(beyond):
                    return points
                values, now = self.by_choice[d], points[beyond, d]
                worst = total[beyond].argmax(axis=1)
                steps = values[:, worst].T - values[now, worst][:, None]  # [beyond, choices]
                drawn = np.where(steps < 0, rng.random(steps.shape), -1.0)
                to = np.where(drawn.max(axis=1) >= 0, drawn.argmax(axis=1), now)
                points[beyond, d] = to
                total[beyond] += values[to] - values[now]
        return points

    def settled(self, candidate: Candidate, rng: np.random.Generator) -> Candidate:
        """The candidate with one decision after the other changed so that it takes less of its tightest limit, until within."""
        for _ in range(sum(self._space.counts)):
            usage = self.usage(candidate)
            worst = int(np.argmax(usage))
            steps = [
                (d, choice)
                for d, values in enumerate(self.by_choice)
                for choice in range(len(values))
                if values[choice, worst] < values[candidate[d], worst] - 1e-9
            ]
            if usage[worst] <= 1 or not steps:
                break
            d, choice = steps[int(rng.integers(len(steps)))]
            candidate = self._space.canonical((*candidate[:d], choice, *candidate[d + 1 :]))
        return candidate


def descended(
    space: SearchSpace, cost: Callable[[Candidate], float], at: Candidate, *, any_allowed: bool = False
) -> tuple[float, Candidate]:
    """(cost, candidate) where no step of one decision costs less."""
    now = cost(at)
    while around := [(cost(other), other) for other in space.neighbours(at, any_allowed=any_allowed)]:
        if min(around)[0] >= now:
            break
        now, at = min(around)
    return now, at


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
