"""Thompson sampling over a Bayesian linear surrogate: the default algorithm.

Accuracy is modelled as a sum over decisions and put together with the cost, which is known or modelled apart; or the reward
is modelled itself. Which of the two predicts the rewards seen so far better, each left out in turn, is used. A draw of the
weights is maximised over every unseen network of a space that can be listed, and by coordinate ascent in a larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_mnasnet.search.algorithms.ascent import Scorer, ascend
from keras_mnasnet.search.algorithms.base import Observation, Proposal, Searcher, Unseen, reward_of
from keras_mnasnet.search.algorithms.bayes import Posterior, Rows, covariance, standardized
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import Candidate, SearchSpace

__all__ = ["Thompson"]

MODES = ("auto", "reward", "cost")
COST_POOL = 1_000  # networks whose known cost is computed to model it, in a space too large to list
LEAST_COST = 1e-9
SPREAD = 64  # random networks of which the start takes the one that tells most


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
        self._numbers = Rows(3)  # accuracy, latency_ms, reward
        self._members: _Members | None = None
        self._known_cost: np.ndarray | None = None  # weights of log cost
        self._last_mode = ""

    def _learn(self, observations: Sequence[Observation]) -> None:
        self._take([each for each in observations if each.reward is not None])

    def _take(self, observations: Sequence[Observation]) -> None:
        if observations:
            self._rows.extend(self.space.features([each.candidate for each in observations]))
            numbers = [[each.accuracy, each.latency_ms, each.reward] for each in observations]
            self._numbers.extend(np.array(numbers, np.float64))

    def _restore(self, value: Mapping[str, Any]) -> None:
        self._rows, self._numbers, self._members = Rows(self.space.feature_count), Rows(3), None
        self._last_mode = value["mode"]
        self._take(self.told)

    def _state(self) -> dict[str, Any]:
        return {"mode": self._last_mode}

    def facts(self) -> dict[str, float]:
        """`models_cost`: 1 while accuracy and cost are modelled apart, 0 while the reward is."""
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
        posterior = Posterior.of(rows, noise=self.noise, prior=self.prior)
        spread = posterior.covariance
        if self.pending:
            both = np.concatenate([rows, self.space.features(list(self.pending))])
            spread = covariance(both, noise=self.noise, prior=self.prior)
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
                out_accuracy, out_reward = posterior.left_out(z, z_reward)
                if self.space.cost is None:
                    latency = np.exp(posterior.left_out(z_cost)[0] * deviation_cost + mean_cost)
                from_parts = self.reward.of(out_accuracy * deviation + mean, latency)
                direct = out_reward * deviation_reward + mean_reward
                mode = "cost" if ((from_parts - rewards) ** 2).sum() <= ((direct - rewards) ** 2).sum() else "reward"
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
        starts.append(max(self.told, key=reward_of).candidate)
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
