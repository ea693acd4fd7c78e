"""Thompson sampling over a Bayesian linear surrogate: the default algorithm.

Accuracy is modeled as a sum over decisions and put together with the cost, which is known or modeled apart; or the reward
is modeled itself. Which of the two predicts the rewards seen so far better, each left out in turn, is used. A draw of the
weights is maximized over every unseen network of a space that can be listed, and by coordinate ascent in a larger one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_mnasnet.search.algorithms.base import Observation, Proposal, Searcher, Unseen
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import Candidate, SearchSpace
from keras_mnasnet.utils.reading import record

SWEEPS = 10
FINALISTS = 16

MODES = ("auto", "reward", "cost")
COST_POOL = 1_000  # networks whose known cost is computed to model it, in a space too large to list
LEAST_COST = 1e-9
JUDGED = 4_096  # the latest results, by which it is decided what is modeled; all are learned from
SPREAD = 64  # random networks of which the start takes the one that tells most


@dataclasses.dataclass(frozen=True)
class _State:
    """What `Thompson._state` gives."""

    mode: str


class Thompson(Searcher):
    """Bayesian linear surrogate with Thompson sampling.

    The first `start` networks are spread: each is the one of 64 random ones that tells most. `noise` and `prior` are
    deviations on standardized targets; results below the quantile `clip` are raised to it, so that bad networks do not bend
    the surrogate. `mode` is `auto` (the smaller
    leave-one-out error decides), `reward` (model the reward) or `cost` (model accuracy, put the cost in).
    """

    name = "thompson"

    def __init__(
        self, space: SearchSpace, reward: Reward, *, seed: int, start: int = 20, noise: float = 0.3, prior: float = 0.5,
        clip: float = 0.15, mode: str = "auto", restarts: int = 8,
    ) -> None:  # fmt: skip
        super().__init__(space, reward, seed=seed)
        if isinstance(start, bool) or not isinstance(start, int) or start < 2:
            raise ValueError(f"`start` must be an integer >= 2. Received: start={start!r}")
        if isinstance(restarts, bool) or not isinstance(restarts, int) or restarts < 1:
            raise ValueError(f"`restarts` must be an integer >= 1. Received: restarts={restarts!r}")
        if not (noise > 0 and prior > 0 and 0 <= clip < 1):
            raise ValueError(
                f"`noise` and `prior` must be above 0 and `clip` in [0, 1). "
                f"Received: noise={noise!r}, prior={prior!r}, clip={clip!r}"
            )
        if mode not in MODES:
            raise ValueError(f"`mode` must be one of {MODES}. Received: mode={mode!r}")
        self.start, self.noise, self.prior, self.clip, self.mode, self.restarts = start, noise, prior, clip, mode, restarts
        self._rows = Rows(space.feature_count)
        self._products = np.zeros((space.feature_count, space.feature_count))  # X'X, whole numbers: exact in any order
        self._numbers = Rows(3)  # accuracy, latency_ms, reward
        self._members: _Members | None = None
        self._known_cost: np.ndarray | None = None  # weights of log cost
        self._last_mode = ""

    def _learn(self, observations: Sequence[Observation]) -> None:
        self._take([each for each in observations if each.reward is not None])

    def _take(self, observations: Sequence[Observation]) -> None:
        if observations:
            rows = self.space.features([each.candidate for each in observations])
            self._rows.extend(rows)
            self._products += rows.T @ rows
            numbers = [[each.accuracy, each.latency_ms, each.reward] for each in observations]
            self._numbers.extend(np.array(numbers, np.float64))

    def _restore(self, value: Mapping[str, Any]) -> None:
        found = record(value, _State, "The state of a search")
        self._rows, self._numbers, self._members = Rows(self.space.feature_count), Rows(3), None
        self._products = np.zeros_like(self._products)
        self._last_mode = found.mode
        self._take(self.told)

    def _state(self) -> dict[str, Any]:
        return {"mode": self._last_mode}

    def facts(self) -> dict[str, float]:
        """`models_cost`: 1 while accuracy and cost are modeled apart, 0 while the reward is."""
        return {"models_cost": float(self._last_mode == "cost")} if self._last_mode else {}

    def _propose(self, count: int) -> list[Proposal]:
        if len(self.seen) < self.start or len(self.told) < 2:
            return [Proposal(candidate) for candidate in self._spread()]
        draw = self._surrogate()
        taken: dict[Candidate, None] = {}
        for _ in range(count):
            candidate = self._best(draw(), taken)
            if candidate is None:
                break
            taken[candidate] = None
        return [Proposal(candidate) for candidate in taken]

    def _spread(self) -> list[Candidate]:
        """Of some random networks the one of which those asked before say least: the largest posterior variance."""
        drawn = self.unseen(SPREAD)
        if not drawn:
            return []
        rows = self.space.features(drawn)
        known = self.space.features(list(self.seen)) if self.seen else rows[:0]
        variance = np.einsum("nf,nf->n", rows @ covariance(known, noise=self.noise, prior=self.prior), rows)
        return [drawn[int(np.argmax(variance))]]

    def _surrogate(self) -> Callable[[], Scorer]:
        """A function that draws a scorer of candidates from the posterior.

        Pending networks count in its covariance, as if they had come out as expected: they spread no further.
        """
        accuracy, latency, rewards = self._numbers.array.T
        rows = self._rows.array
        posterior = Posterior(rows, _inverse(self._products, self.noise, self.prior), self.noise)
        spread = posterior.covariance
        if self.pending:
            pending = self.space.features(list(self.pending))
            spread = _inverse(self._products + pending.T @ pending, self.noise, self.prior)
        factor = np.linalg.cholesky(spread)
        z_reward, mean_reward, deviation_reward = standardized(rewards, self.clip)
        mode = self._mode_possible(accuracy, latency)
        cost_weights = None
        if mode != "reward":
            z, mean, deviation = standardized(accuracy, self.clip)
            if self.space.cost is None:
                log_cost = np.log(np.maximum(latency, LEAST_COST))
                z_cost, mean_cost, deviation_cost = standardized(log_cost, 0.0)
                cost_weights = _rescaled(posterior.mean(z_cost), mean_cost, deviation_cost)
            if mode == "auto":
                out_accuracy, out_reward = posterior.left_out(z, z_reward, last=JUDGED)
                if self.space.cost is None:
                    out_cost = np.exp(posterior.left_out(z_cost, last=JUDGED)[0] * deviation_cost + mean_cost)
                else:
                    out_cost = latency[-JUDGED:]
                from_parts = self.reward.of(out_accuracy * deviation + mean, out_cost)
                direct, true = out_reward * deviation_reward + mean_reward, rewards[-JUDGED:]
                mode = "cost" if ((from_parts - true) ** 2).sum() <= ((direct - true) ** 2).sum() else "reward"
        self._last_mode = mode
        if mode == "reward":
            return lambda: Scorer(
                _rescaled(posterior.draw(z_reward, self.rng, factor), mean_reward, deviation_reward), None, None
            )
        return lambda: Scorer(_rescaled(posterior.draw(z, self.rng, factor), mean, deviation), cost_weights, self.reward)

    def _mode_possible(self, accuracy: np.ndarray, latency: np.ndarray) -> str:
        """`mode`, or `reward` where accuracy and latency say nothing more than the reward or are not known."""
        if not self.reward.uses_latency or np.isnan(accuracy).any() or np.isnan(latency).any():
            return "reward"
        return self.mode

    def _best(self, scorer: Scorer, taken: Mapping[Candidate, None]) -> Candidate | None:
        """The unseen network that the scorer likes best."""
        if self.space.members is not None:
            if self._members is None:
                self._members = _Members(self.space)
            return self._members.best(scorer, self.seen, taken)
        if scorer.reward is not None and scorer.cost is None:
            if self._known_cost is None:
                self._known_cost = _cost_weights(self.space, self.seed)
            scorer = scorer.with_cost(self._known_cost)
        starts = [self.space.sample(self.rng) for _ in range(self.restarts - 1)]
        starts.append(self.told[int(np.argmax(self._numbers.array[:, 2]))].candidate)
        known = self.space.cost if scorer.reward is not None else None
        found = ascend(self.space, scorer, starts, self.rng, known_cost=known, excluded=lambda c: c in self.seen or c in taken)
        return found or next(iter(each for each in self.unseen(1) if each not in taken), None)


class _Members:
    """Every network of a listed space with its features and known costs, and which are left."""

    def __init__(self, space: SearchSpace) -> None:
        assert space.members is not None
        self.members = space.members
        self.unseen = Unseen(space.members)
        self.features = space.features(list(self.members))
        self.costs = None if space.cost is None else np.array([space.cost(candidate) for candidate in self.members])

    def best(self, scorer: Scorer, seen: Mapping[Candidate, None], taken: Mapping[Candidate, None]) -> Candidate | None:
        left = self.unseen.mask(seen, taken)
        if not left.any():
            return None
        return self.members[int(np.argmax(np.where(left, scorer(self.features, self.costs), -np.inf)))]


def _rescaled(weights: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """Weights of standardized values -> weights of the values themselves; the first feature is 1."""
    weights = weights * deviation
    weights[0] += mean
    return weights


def _cost_weights(space: SearchSpace, seed: int) -> np.ndarray:
    """Weights of log cost, from the known costs of random networks."""
    assert space.cost is not None
    rng = np.random.default_rng([seed, COST_POOL])
    pool = [space.sample(rng) for _ in range(COST_POOL)]
    logs = np.log([max(space.cost(candidate), LEAST_COST) for candidate in pool])
    return Posterior.of(space.features(pool), noise=0.01, prior=10.0).mean(logs)


@dataclasses.dataclass(frozen=True, slots=True)
class Posterior:
    """y = x w + N(0, noise^2) with w ~ N(0, prior^2): w | X, y ~ N(A^-1 X'y / noise^2, A^-1), A = X'X / noise^2 + I / prior^2.

    One posterior serves several targets `y`, because A depends on the features alone.
    """

    rows: np.ndarray  # X, [N, F]
    covariance: np.ndarray  # A^-1, [F, F]
    noise: float

    @classmethod
    def of(cls, rows: np.ndarray, *, noise: float, prior: float) -> Posterior:
        return cls(rows, covariance(rows, noise=noise, prior=prior), noise)

    def mean(self, y: np.ndarray) -> np.ndarray:
        """The mean of the weights, `[F]`."""
        return self.covariance @ (self.rows.T @ y) / self.noise**2

    def draw(self, y: np.ndarray, rng: np.random.Generator, spread: np.ndarray | None = None) -> np.ndarray:
        """Weights drawn from the posterior, `[F]`; `spread` `[F, F]` is another covariance's Cholesky factor."""
        factor = np.linalg.cholesky(self.covariance) if spread is None else spread
        return self.mean(y) + factor @ rng.standard_normal(len(factor))

    def left_out(self, *targets: np.ndarray, last: int = 0) -> list[np.ndarray]:
        """For each target, every row's prediction from all the other rows: y - (y - Hy) / (1 - diag H).

        Of the `last` rows alone, if it is not 0.
        """
        rows = self.rows[-last:]
        leverage = np.einsum("nf,nf->n", rows @ self.covariance, rows) / self.noise**2
        return [y[-last:] - (y[-last:] - rows @ self.mean(y)) / (1 - leverage) for y in targets]


def covariance(rows: np.ndarray, *, noise: float, prior: float) -> np.ndarray:
    """A^-1 of `Posterior`, `[F, F]`."""
    return _inverse(rows.T @ rows, noise, prior)


def _inverse(products: np.ndarray, noise: float, prior: float) -> np.ndarray:
    precision = products / noise**2
    precision[np.diag_indices_from(precision)] += 1 / prior**2
    inverse = np.linalg.inv(precision)
    return (inverse + inverse.T) / 2


def standardized(values: np.ndarray, clip: float) -> tuple[np.ndarray, float, float]:
    """(values with mean 0 and deviation 1, mean, deviation), after those below the quantile `clip` were raised to it."""
    clipped = np.maximum(values, np.quantile(values, clip))
    mean, deviation = float(clipped.mean()), float(clipped.std())
    deviation = deviation if deviation > 1e-12 else 1.0
    return (clipped - mean) / deviation, mean, deviation


class Rows:
    """A matrix that grows by rows."""

    def __init__(self, width: int) -> None:
        self._buffer = np.zeros((64, width))
        self._count = 0

    def extend(self, rows: np.ndarray) -> None:
        needed = self._count + len(rows)
        if needed > len(self._buffer):
            larger = np.zeros((max(needed, 2 * len(self._buffer)), self._buffer.shape[1]))
            larger[: self._count] = self._buffer[: self._count]
            self._buffer = larger
        self._buffer[self._count : needed] = rows
        self._count = needed

    @property
    def array(self) -> np.ndarray:
        return self._buffer[: self._count]


@dataclasses.dataclass(frozen=True, slots=True)
class Scorer:
    """Scores of candidates: x @ weights, or the reward of accuracy x @ weights at cost exp(x @ cost)."""

    weights: np.ndarray  # [F]
    cost: np.ndarray | None  # [F], of log cost
    reward: Reward | None

    def with_cost(self, cost: np.ndarray) -> Scorer:
        return dataclasses.replace(self, cost=cost)

    def __call__(self, rows: np.ndarray, costs: np.ndarray | None = None) -> np.ndarray:
        """`[N]` scores of feature rows `[N, F]`; `costs` `[N]` stand in for the modeled ones."""
        return self.joined(rows @ self.weights, costs if self.cost is None or self.reward is None else np.exp(rows @ self.cost))

    def joined(self, values: np.ndarray, costs: np.ndarray | None) -> np.ndarray:
        return values if self.reward is None else self.reward.of(values, costs)


def ascend(
    space: SearchSpace, scorer: Scorer, starts: Sequence[Candidate], rng: np.random.Generator, *,
    known_cost: Callable[[Candidate], float] | None, excluded: Callable[[Candidate], bool],
) -> Candidate | None:  # fmt: skip
    """The best candidate found that is not `excluded`, or None.

    All starts climb together, one decision at a time in an order drawn anew for each sweep, until none moves. The sums of
    a candidate change by one weight per move, so nothing is computed twice. The ends and their neighbors are then scored
    in canonical form, the best of them with the `known_cost`.
    """
    points = np.array(starts)
    every = np.arange(len(points))
    values, logs = _by_choice(space, scorer.weights), None if scorer.cost is None else _by_choice(space, scorer.cost)
    positions = np.arange(len(space.counts))
    total = sum((values[d][points[:, d]] for d in positions), np.full(len(points), scorer.weights[0]))
    log_total = None
    if logs is not None and scorer.cost is not None:
        log_total = sum((logs[d][points[:, d]] for d in positions), np.full(len(points), scorer.cost[0]))
    for _ in range(SWEEPS):
        moved = False
        for d in rng.permutation(positions):
            now = points[:, d]
            trial = (total - values[d][now])[:, None] + values[d]
            log_trial = None if log_total is None or logs is None else (log_total - logs[d][now])[:, None] + logs[d]
            scores = scorer.joined(trial, None if log_trial is None else np.exp(log_trial))
            best = np.argmax(scores, axis=1)
            better = scores[every, best] > scores[every, now] + 1e-12
            if space.allowed is not None:
                for row in np.nonzero(better)[0]:
                    moved_to = (*points[row, :d].tolist(), int(best[row]), *points[row, d + 1 :].tolist())
                    better[row] = space.is_allowed(space.canonical(moved_to))
            if better.any():
                moved = True
                points[better, d] = best[better]
                total = np.where(better, trial[every, best], total)
                log_total = None if log_trial is None else np.where(better, log_trial[every, best], log_total)
        if not moved:
            break
    return _best_of(space, scorer, points, known_cost, excluded)


def _best_of(
    space: SearchSpace, scorer: Scorer, points: np.ndarray, known_cost: Callable[[Candidate], float] | None,
    excluded: Callable[[Candidate], bool],
) -> Candidate | None:  # fmt: skip
    """The best that is left among the points and the networks one decision away from them."""
    ends = np.unique(points, axis=0)
    near = [ends]
    for d, count in enumerate(space.counts):
        for step in range(1, count):
            moved = ends.copy()
            moved[:, d] = (moved[:, d] + step) % count
            near.append(moved)
    everyone = np.unique(np.concatenate(near), axis=0)
    order = np.argsort(-scorer(space.features(everyone)), kind="stable")
    finalists: dict[Candidate, None] = {}
    for index in order:
        candidate = space.canonical(tuple(everyone[index].tolist()))
        if candidate not in finalists and not excluded(candidate) and space.is_allowed(candidate):
            finalists[candidate] = None
            if len(finalists) == FINALISTS:
                break
    if not finalists:
        return None
    candidates = list(finalists)
    rows = space.features(candidates)
    if known_cost is None:
        scores = scorer(rows)
    else:
        scores = scorer.joined(rows @ scorer.weights, np.array([known_cost(candidate) for candidate in candidates]))
    return candidates[int(np.argmax(scores))]


def _by_choice(space: SearchSpace, weights: np.ndarray) -> list[np.ndarray]:
    """Each decision's weight per choice; the first choice has none."""
    return [
        np.concatenate([[0.0], weights[offset : offset + count - 1]])
        for offset, count in zip(space.offsets, space.counts, strict=True)
    ]
