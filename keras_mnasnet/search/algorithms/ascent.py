"""Coordinate ascent of a surrogate in a space too large to list."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import Candidate, SearchSpace

__all__ = ["Scorer", "ascend"]

SWEEPS = 10
FINALISTS = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Scorer:
    """Scores of candidates: x @ weights, or the reward of accuracy x @ weights at cost exp(x @ cost)."""

    weights: np.ndarray  # [F]
    cost: np.ndarray | None  # [F], of log cost
    reward: Reward | None

    def with_cost(self, cost: np.ndarray) -> Scorer:
        return dataclasses.replace(self, cost=cost)

    def __call__(self, rows: np.ndarray, costs: np.ndarray | None = None) -> np.ndarray:
        """`[N]` scores of feature rows `[N, F]`; `costs` `[N]` stand in for the modelled ones."""
        return self.joined(rows @ self.weights, costs if self.cost is None or self.reward is None else np.exp(rows @ self.cost))

    def joined(self, values: np.ndarray, costs: np.ndarray | None) -> np.ndarray:
        return values if self.reward is None else self.reward.of(values, costs)


def ascend(
    space: SearchSpace, scorer: Scorer, starts: Sequence[Candidate], rng: np.random.Generator, *,
    known_cost: Callable[[Candidate], float] | None, excluded: Callable[[Candidate], bool],
) -> Candidate | None:  # fmt: skip
    """The best candidate found that is not `excluded`, or None.

    All starts climb together, one decision at a time in an order drawn anew for each sweep, until none moves. The sums of
    a candidate change by one weight per move, so nothing is computed twice. The ends and their neighbours are then scored
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
