"""Thompson sampling over a Bayesian linear surrogate: the default algorithm.

Accuracy is modeled as a sum over decisions and put together with the cost, which is known or modeled apart; or the reward
is modeled itself. Which of the two predicts the rewards seen so far better, each left out in turn, is used. A draw of the
weights is maximized over every unseen network of a space that can be listed, and by coordinate ascent in a larger one.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_mnasnet.search.algorithms.base import Observation, Proposal, Searcher, Unseen, reward_of
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.screens import MEASURE, latencies_of
from keras_mnasnet.search.space import Candidate, Guide, SearchSpace
from keras_mnasnet.utils.reading import record

SWEEPS = 10
FINALISTS, FEW_FINALISTS = 16, 2  # few where scores are exact, and whether one is within limits has to be computed
LIMITED = 4  # times as many starts within limits, where a climb ends sooner
PRICES = 12  # of what limits bound, at which it is traded for what is modeled

MODES = ("auto", "reward", "cost")
COST_POOL = 1_000  # networks whose known cost is computed to model it, in a space too large to list
LEAST_COST = 1e-9
COST_NOISE = 0.03  # of log latencies around a sum over decisions
JUDGED = 4_096  # the latest results, by which it is decided what is modeled; all are learned from
ROUNDING = 1e-12  # of a mean square: a variance below it is none
PRIOR_CLIMBS = 2  # networks on the way from a rung to the next whose gains are taken to differ as single results do
SCREENED_START = 10  # at most: networks that a screen has chosen tell less of the others
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
        self._known_cost: np.ndarray | None = None  # weights of log cost
        self._forget()

    def _begin(self) -> None:
        super()._begin()
        self._known_ms: dict[Candidate, float] = {}  # measured before the training, of trained and other networks
        self._measured_by = ""

    def _register(self, proposal: Proposal) -> None:
        super()._register(proposal)
        if self.measured is not None:
            self._known_ms |= latencies_of(proposal.extra, self.space)
            self._measured_by = str(proposal.extra.get("measured_by", self._measured_by))

    def _forget(self) -> None:
        """As before the first result."""
        width = self.space.feature_count
        self._products = np.zeros((width, width))  # X'X, whole numbers: exact in any order
        self._accuracies, self._rewards, self._log_costs = (Target(width, clip) for clip in (self.clip, self.clip, 0.0))
        self._judged = Latest(JUDGED, width), Latest(JUDGED, 3)  # features; accuracy, latency_ms, reward
        self._has_parts = True  # every result has an accuracy and a latency; from one on that has not, neither is modeled
        self._best_told: Observation | None = None
        self._latest: dict[Candidate, Observation] = {}  # of every network that at its highest rung
        self._climbs: list[list[np.ndarray]] = []  # from each rung to the next, what that changed: accuracy, reward
        self._members: _Members | None = None
        self._last_mode = ""

    def _learn(self, observations: Sequence[Observation]) -> None:
        for each in observations:
            self._take(each, reward_of(each))

    def _take(self, each: Observation, reward: float) -> None:
        row = self.space.features(each.candidate)
        self._products += np.outer(row, row)
        self._rewards.add(row, reward)
        accuracy, latency_ms = _figures(each)[:2]
        self._has_parts = self._has_parts and bool(np.isfinite([accuracy, latency_ms]).all())
        if self._has_parts:
            self._accuracies.add(row, accuracy)
            self._log_costs.add(row, math.log(max(latency_ms, LEAST_COST)))
            self._judged[0].add(row)
            self._judged[1].add([accuracy, latency_ms, reward])
        if self._best_told is None or reward > reward_of(self._best_told):
            self._best_told = each
        below = self._latest.get(each.candidate)
        self._latest[each.candidate] = each
        if each.rung:
            self._climbs += [[] for _ in range(each.rung - len(self._climbs))]
            if below is not None and below.rung == each.rung - 1:
                self._climbs[below.rung].append(np.subtract(*(_figures(seen)[[0, 2]] for seen in (each, below))))

    def _restore(self, value: Mapping[str, Any], learned: Sequence[Observation]) -> None:
        found = record(value, _State, "The state of a search")
        self._forget()
        self._last_mode = found.mode
        self._learn(learned)

    def _state(self) -> dict[str, Any]:
        return {"mode": self._last_mode}

    def facts(self) -> dict[str, float]:
        """`models_cost`: 1 while accuracy and cost are modeled apart, 0 while the reward is."""
        return {"models_cost": float(self._last_mode == "cost")} if self._last_mode else {}

    def _propose(self, count: int) -> list[Proposal]:
        if len(self.seen) < (min(self.start, SCREENED_START) if self.screens else self.start) or len(self.told) < 2:
            return [Proposal(candidate) for candidate in self._spread()]
        draw = self._surrogate()
        if self.measured is not None and self._last_mode == "cost":
            return self._propose_measured(draw, self.measured.count)
        return [Proposal(candidate) for candidate in self._drawn(draw, count)]

    def _drawn(self, draw: Callable[[], Scorer], count: int) -> dict[Candidate, None]:
        """The best network of each of `count` draws, all different; fewer where nothing is left."""
        taken: dict[Candidate, None] = {}
        for _ in range(count):
            candidate = self._best(draw(), taken)
            if candidate is None:
                break
            taken[candidate] = None
        return taken

    def _propose_measured(self, draw: Callable[[], Scorer], count: int) -> list[Proposal]:
        """Of `count` draws' best networks the one that one more draw likes best at its measured latency."""
        taken = self._drawn(draw, count)
        if not taken:
            return []
        found, measured = list(taken), dict[Candidate, float]()
        for candidate in found:
            if candidate not in self._known_ms:
                measured[candidate], self._measured_by = self.meter(candidate)
        scorer, ms = draw(), {**self._known_ms, **measured}
        scores = scorer.joined(self.space.features(found) @ scorer.weights, np.array([ms[candidate] for candidate in found]))
        best = found[int(np.argmax(scores))]
        measured[best] = ms[best]
        pairs = [[list(candidate), value] for candidate, value in measured.items()]
        own = {"measured": pairs, "measured_by": self._measured_by, "screens": {MEASURE: float(scores.max())}}
        return [Proposal(best, own)]

    def _spread(self) -> list[Candidate]:
        """Of some random networks the one of which those asked before say least: the largest posterior variance."""
        if self.space.members is None and self.space.guide is not None:  # what is drawn is checked when it is taken
            drawn = [each for each in self.space.likely(self.rng, SPREAD) if each not in self.seen]
        else:
            drawn = self.unseen(SPREAD)
        if not drawn:
            return self.unseen(1)
        few = self.sifted(drawn)
        if len(few) < len(drawn):  # of good ones the extremes tell less than any
            return [few[int(self.rng.integers(len(few)))]]
        rows = self.space.features(drawn)
        known = self.space.features(list(self.seen)) if self.seen else rows[:0]
        variance = np.einsum("nf,nf->n", rows @ covariance(known, noise=self.noise, prior=self.prior), rows)
        order = (drawn[index] for index in np.argsort(-variance, kind="stable"))
        return next(([each] for each in order if self.space.is_allowed(each)), None) or self.unseen(1)

    def _surrogate(self) -> Callable[[], Scorer]:
        """A function that draws a scorer of candidates from the posterior.

        Pending networks count in its covariance, as if they had come out as expected: they spread no further.
        """
        fit = self._fit_of_rungs() if self._climbs else self._fit()
        posterior = Posterior(_inverse(fit.products, self.noise, self.prior), self.noise)
        spread = posterior.covariance
        if self.pending:
            pending = self.space.features(list(self.pending))
            spread = _inverse(fit.products + pending.T @ pending, self.noise, self.prior)
        factor = np.linalg.cholesky(spread)
        reward, accuracy, log_cost = fit.reward, fit.accuracy, fit.log_cost
        self._last_mode = "reward"
        may = self.mode != "reward" and self.reward.uses_latency
        if (
            may and accuracy is not None and log_cost is not None
            and (self.mode == "cost" or self._parts_tell_more(posterior, fit, accuracy, log_cost))
        ):  # fmt: skip
            self._last_mode = "cost"
            cost = log_cost.rescaled(posterior.mean(log_cost.products)) if self.space.cost is None else None
            if self.measured is not None and self._known_ms:
                cost = self._cost_of_measured()
            return lambda: Scorer(accuracy.rescaled(posterior.draw(accuracy.products, self.rng, factor)), cost, self.reward)
        return lambda: Scorer(reward.rescaled(posterior.draw(reward.products, self.rng, factor)), None, None)

    def _fit(self) -> Fit:
        """What all results say."""
        accuracy, log_cost = (target.standard() if self._has_parts else None for target in (self._accuracies, self._log_costs))
        rows, figures = (judged.array for judged in self._judged)
        return Fit(self._products, self._rewards.standard(), accuracy, log_cost, rows, figures, np.ones(len(rows)))

    def _fit_of_rungs(self) -> Fit:
        """The same of networks at different rungs: a lower one is off by what the way up changes on average, and noisier by the
        variance of that."""
        seen = list(self._latest.values())
        rows, rungs = self.space.features([each.candidate for each in seen]), np.array([each.rung for each in seen])
        figures = np.array([_figures(each) for each in seen])
        gains = [np.array(climb).reshape(-1, 2) for climb in self._climbs]
        offsets, variances = np.zeros((2, len(gains) + 1, 2))
        scale = figures[:, [0, 2]].std(0)
        usual = (self.noise * np.where(scale > 0, scale, 1.0)) ** 2
        for rung in reversed(range(len(gains))):
            gain, count = gains[rung], len(gains[rung])
            offsets[rung] = offsets[rung + 1] + (gain.mean(0) if count else 0)
            spread = count * gain.var(0) if count else 0
            variances[rung] = variances[rung + 1] + (spread + PRIOR_CLIMBS * usual) / (count + PRIOR_CLIMBS)
        weights = 1 / (1 + variances[rungs, 1] / usual[1])
        figures[:, [0, 2]] += offsets[rungs]
        reward = standard(rows, figures[:, 2], weights, self.clip)
        accuracy = log_cost = None
        if self._has_parts:
            accuracy = standard(rows, figures[:, 0], weights, self.clip)
            log_cost = standard(rows, np.log(np.maximum(figures[:, 1], LEAST_COST)), weights, 0.0)
        products = (rows * weights[:, None]).T @ rows
        return Fit(products, reward, accuracy, log_cost, rows[-JUDGED:], figures[-JUDGED:], weights[-JUDGED:])

    def _parts_tell_more(self, posterior: Posterior, fit: Fit, accuracy: Standard, log_cost: Standard) -> bool:
        """Whether the latest rewards, each left out in turn, are predicted better by their parts than directly."""
        accuracies, cost, true = fit.judged.T
        out_accuracy, direct = posterior.left_out(fit.rows, (accuracy, accuracies), (fit.reward, true), weights=fit.weights)
        if self.space.cost is None and self.measured is None:  # else it is known when a network is chosen
            logs = np.log(np.maximum(cost, LEAST_COST))
            cost = np.exp(posterior.left_out(fit.rows, (log_cost, logs), weights=fit.weights)[0])
        from_parts = self.reward.of(out_accuracy, cost)
        return bool((fit.weights * (from_parts - true) ** 2).sum() <= (fit.weights * (direct - true) ** 2).sum())

    def _cost_of_measured(self) -> np.ndarray:
        """Weights of log cost, by all that was measured and told."""
        known = {each.candidate: each.latency_ms or LEAST_COST for each in self.told} | self._known_ms
        rows = self.space.features(list(known))
        return Posterior.of(rows, noise=COST_NOISE, prior=10.0).mean(rows.T @ np.log(list(known.values())))

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
        if self.space.guide is None:
            starts = [self.space.sample(self.rng) for _ in range(self.restarts - 1)]
        else:
            starts = self.space.likely(self.rng, LIMITED * self.restarts - 1)
        if self._best_told is not None:
            starts.append(self._best_told.candidate)
        known = self.space.cost if scorer.reward is not None else None
        found = ascend(self.space, scorer, starts, self.rng, known_cost=known, excluded=lambda c: c in self.seen or c in taken)
        return found or next(iter(each for each in self.unseen(1) if each not in taken), None)


def _figures(each: Observation) -> np.ndarray:
    """Accuracy, latency and reward; what is missing is NaN."""
    return np.array([each.accuracy, each.latency_ms, each.reward], np.float64)


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


def _cost_weights(space: SearchSpace, seed: int) -> np.ndarray:
    """Weights of log cost, from the known costs of random networks."""
    assert space.cost is not None
    rng = np.random.default_rng([seed, COST_POOL])
    pool = [space.sample(rng) for _ in range(COST_POOL)] if space.guide is None else space.likely(rng, COST_POOL)
    logs = np.log([max(space.cost(candidate), LEAST_COST) for candidate in pool])
    rows = space.features(pool)
    return Posterior.of(rows, noise=0.01, prior=10.0).mean(rows.T @ logs)


@dataclasses.dataclass(frozen=True, slots=True)
class Posterior:
    """y = x w + N(0, noise^2) with w ~ N(0, prior^2): w | X, y ~ N(A^-1 X'y / noise^2, A^-1), A = X'X / noise^2 + I / prior^2.

    One posterior serves several targets `y`, because A depends on the features alone; of them it needs the `products` X'y.
    """

    covariance: np.ndarray  # A^-1, [F, F]
    noise: float

    @classmethod
    def of(cls, rows: np.ndarray, *, noise: float, prior: float) -> Posterior:
        return cls(covariance(rows, noise=noise, prior=prior), noise)

    def mean(self, products: np.ndarray) -> np.ndarray:
        """The mean of the weights, `[F]`."""
        return self.covariance @ products / self.noise**2

    def draw(self, products: np.ndarray, rng: np.random.Generator, factor: np.ndarray) -> np.ndarray:
        """Weights `[F]` drawn around the mean; `factor` `[F, F]` is the Cholesky factor of their covariance."""
        return self.mean(products) + factor @ rng.standard_normal(len(factor))

    def left_out(
        self, rows: np.ndarray, *targets: tuple[Standard, np.ndarray], weights: np.ndarray | float = 1.0
    ) -> list[np.ndarray]:  # fmt: skip
        """For each target and its values at some of the rows, their predictions from all other rows.

        y - (y - Hy) / (1 - diag H) of the standardized values; `weights` are those of the rows in A.
        """
        leverage = weights * ((rows @ self.covariance) * rows).sum(1) / self.noise**2
        found = []
        for target, values in targets:
            y = (np.maximum(values, target.floor) - target.mean) / target.deviation
            out = y - (y - rows @ self.mean(target.products)) / (1 - leverage)
            found.append(out * target.deviation + target.mean)
        return found


def covariance(rows: np.ndarray, *, noise: float, prior: float) -> np.ndarray:
    """A^-1 of `Posterior`, `[F, F]`."""
    return _inverse(rows.T @ rows, noise, prior)


def _inverse(products: np.ndarray, noise: float, prior: float) -> np.ndarray:
    precision = products / noise**2
    precision[np.diag_indices_from(precision)] += 1 / prior**2
    inverse = np.linalg.inv(precision)
    return (inverse + inverse.T) / 2


@dataclasses.dataclass(frozen=True, slots=True)
class Fit:
    """What the surrogate is made of: X'X, the standardized targets (no parts where a result lacks them), and the latest rows
    `[N, F]` with what was seen of them `[N, 3]` (accuracy, latency, reward) and their weights `[N]`."""

    products: np.ndarray
    reward: Standard
    accuracy: Standard | None
    log_cost: Standard | None
    rows: np.ndarray
    judged: np.ndarray
    weights: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True)
class Standard:
    """Values raised to `floor`, minus `mean`, over `deviation`; and the `products` `[F]` of their feature rows with them."""

    products: np.ndarray
    floor: float
    mean: float
    deviation: float

    def rescaled(self, weights: np.ndarray) -> np.ndarray:
        """Weights of the standardized values -> weights of the values themselves; the first feature is 1."""
        weights = weights * self.deviation
        weights[0] += self.mean
        return weights


def standard(rows: np.ndarray, values: np.ndarray, weights: np.ndarray, clip: float) -> Standard:
    """Of `values` `[N]` as they are now, with their rows `[N, F]` and weights; `Target` keeps it up for values that stay."""
    floor = float(np.quantile(values, clip))
    raised = np.maximum(values, floor)
    mean, deviation = float(raised.mean()), float(raised.std()) or 1.0
    return Standard((weights * (raised - mean) / deviation) @ rows, floor, mean, deviation)


class Latest:
    """The latest rows of a matrix, at most `most`; in any order."""

    def __init__(self, most: int, width: int) -> None:
        self._buffer = np.zeros((most, width))
        self._count = 0

    def add(self, row: Sequence[float] | np.ndarray) -> None:
        self._buffer[self._count % len(self._buffer)] = row
        self._count += 1

    @property
    def array(self) -> np.ndarray:
        return self._buffer[: self._count]


class Target:
    """Values with their feature rows, standardized after those below the quantile `clip` were raised to it.

    It keeps sums, and the values on both sides of the quantile as heaps: a new value moves a few across it, so that neither
    `add` nor `standard` costs more the more values there are.
    """

    def __init__(self, width: int, clip: float) -> None:
        self._clip = clip
        self._low: list[tuple[float, int, np.ndarray]] = []  # (-value, number, row), up to the quantile
        self._high: list[tuple[float, int, np.ndarray]] = []  # (value, number, row), above
        self._origin = 0.0  # the first value; sums are of differences to it, so that equal values have no variance
        self._squares, self._products = 0.0, np.zeros(width)  # of the high ones; the first product is their sum
        self._rows, self._low_rows = np.zeros(width), np.zeros(width)  # sums; whole numbers, exact in any order

    def add(self, row: np.ndarray, value: float) -> None:
        """One more value; the same values in the same order give the same sums to the bit."""
        number = len(self._low) + len(self._high)
        if not number:
            self._origin = value
        self._rows += row
        if self._low and value >= -self._low[0][0]:
            self._to_high(value, number, row)
        else:
            self._to_low(value, number, row)
        raised = int(number * self._clip) + 1
        if len(self._low) < raised:
            value, number, row = heapq.heappop(self._high)
            self._products -= (value - self._origin) * row
            self._squares -= (value - self._origin) ** 2
            self._to_low(value, number, row)
        elif len(self._low) > raised:
            value, number, row = heapq.heappop(self._low)
            self._low_rows -= row
            self._to_high(-value, number, row)

    def _to_high(self, value: float, number: int, row: np.ndarray) -> None:
        heapq.heappush(self._high, (value, number, row))
        self._products += (value - self._origin) * row
        self._squares += (value - self._origin) ** 2

    def _to_low(self, value: float, number: int, row: np.ndarray) -> None:
        heapq.heappush(self._low, (-value, number, row))
        self._low_rows += row

    def standard(self) -> Standard:
        """All values so far, of which there is one at least."""
        count, low = len(self._low) + len(self._high), len(self._low)
        floor = -self._low[0][0]
        if self._high:  # the quantile lies between the two values around it
            floor += (self._high[0][0] - floor) * ((count - 1) * self._clip + 1 - low)
        raised = floor - self._origin
        mean = (self._products[0] + low * raised) / count
        square = (self._squares + low * raised**2) / count
        variance = square - mean**2
        deviation = math.sqrt(variance) if variance > ROUNDING * square + ROUNDING**2 else 1.0
        products = (self._products + raised * self._low_rows - mean * self._rows) / deviation
        return Standard(products, floor, mean + self._origin, deviation)


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

    All starts climb together, one decision at a time in an order drawn anew for each sweep, to the best choice that the
    constraint allows (limits by their guide), until none moves. The sums of a candidate change by one weight per move, so
    nothing is computed twice. The ends and their neighbors are then scored in canonical form, the best of those that are
    allowed with the `known_cost`.
    """
    guide = space.guide
    values, logs = _by_choice(space, scorer.weights), None if scorer.cost is None else _by_choice(space, scorer.cost)
    points = np.array([*starts, *(() if guide is None else _traded(guide, values))])
    every = np.arange(len(points))
    positions = np.arange(len(space.counts))
    total = sum((values[d][points[:, d]] for d in positions), np.full(len(points), scorer.weights[0]))
    used = None if guide is None else guide(points)
    slack = 0 if guide is None else guide.error * np.linspace(-1, 2, len(points))[:, None, None]  # some start too boldly
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
            least = scores[every, now] + 1e-12
            if guide is not None and used is not None:
                after = (used - guide.by_choice[d][now])[:, None] + guide.by_choice[d]  # [N, choices, L]
                scores = np.where((after <= slack).all(axis=2), scores, -np.inf)
            best = np.argmax(scores, axis=1)
            better = scores[every, best] > least
            if space.allowed is not None and guide is None:
                for row in np.nonzero(better)[0]:
                    best[row] = _best_allowed(space, points[row], d, scores[row], least[row])
                better = best != now if better.any() else better
            if better.any():
                moved = True
                points[better, d] = best[better]
                total = np.where(better, trial[every, best], total)
                log_total = None if log_trial is None else np.where(better, log_trial[every, best], log_total)
                if used is not None:
                    used = np.where(better[:, None], after[every, best], used)
        if not moved:
            break
    return _best_of(space, scorer, points, known_cost, excluded)


def _best_allowed(space: SearchSpace, point: np.ndarray, d: int, scores: np.ndarray, least: float) -> int:
    """The choice of a decision with the highest score above `least` that the constraint allows; the present one without any."""
    for choice in np.argsort(-scores, kind="stable"):
        if not scores[choice] > least:
            break
        if space.is_allowed(space.canonical((*point[:d].tolist(), int(choice), *point[d + 1 :].tolist()))):
            return int(choice)
    return int(point[d])


def _traded(guide: Guide, values: Sequence[np.ndarray]) -> list[Candidate]:
    """Candidates within limits that are the best for some price of what limits bound: value - price x usage, at its highest."""
    used = [usage.sum(axis=1) for usage in guide.by_choice]
    spread = [np.concatenate([each - each.mean() for each in group]).std() for group in (values, used)]
    prices = spread[0] / max(spread[1], LEAST_COST) * np.geomspace(0.05, 50, PRICES)
    points = np.array([[int(np.argmax(v - price * u)) for v, u in zip(values, used, strict=True)] for price in prices])
    return [tuple(point) for point in np.unique(points[(guide(points) <= 0).all(axis=1)], axis=0).tolist()]


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
    if space.guide is not None:
        everyone = everyone[(space.guide(everyone) <= 2 * space.guide.error).all(axis=1)]
    order = np.argsort(-scorer(space.features(everyone)), kind="stable")
    most = FINALISTS if known_cost is not None or space.guide is None else FEW_FINALISTS
    finalists: dict[Candidate, None] = {}
    for index in order:
        candidate = space.canonical(tuple(everyone[index].tolist()))
        if candidate not in finalists and not excluded(candidate) and space.is_allowed(candidate):
            finalists[candidate] = None
            if len(finalists) == most:
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
