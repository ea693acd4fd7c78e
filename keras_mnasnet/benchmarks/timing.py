"""Times of several models measured in turns: the order of visits, medians, and how far their ratio is certain."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Sequence

RESAMPLES = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of one invocation. None is what a meter does not tell: a phone's tool gives p5 and p95, not p10 and p90."""

    median_ms: float | None
    min_ms: float
    mean_ms: float
    p10_ms: float | None = None
    p90_ms: float | None = None
    p5_ms: float | None = None
    p95_ms: float | None = None

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        """From the seconds of every invocation."""
        ordered = sorted(1e3 * value for value in seconds)
        return cls(
            median_ms=statistics.median(ordered),
            min_ms=ordered[0],
            mean_ms=math.fsum(ordered) / len(ordered),
            p10_ms=quantile(ordered, 0.1),
            p90_ms=quantile(ordered, 0.9),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of medians with its 95 % interval; no interval where there was one round only."""

    value: float
    low: float | None
    high: float | None


def visit_order(models: int, round_number: int) -> list[int]:
    """The models in the order of a round: round r begins with model r, so that none is always the first."""
    return [(round_number + position) % models for position in range(models)]


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """The quantile of ascending values, linear between neighbors."""
    place = fraction * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def ratio_of_medians(rounds: Sequence[Sequence[float]], base: Sequence[Sequence[float]], *, seed: int = 0) -> Ratio:
    """median(rounds) / median(base) with a bootstrap interval (2.5 % .. 97.5 % of 1,000 resamples).

    `rounds` and `base` hold the times of each round. Whole rounds are drawn with replacement, the same for both: what
    disturbed a round disturbed both models.
    """
    value = statistics.median(_flat(rounds)) / statistics.median(_flat(base))
    if len(base) < 2:
        return Ratio(value, None, None)
    generator = random.Random(seed)
    found = []
    for _ in range(RESAMPLES):
        drawn = generator.choices(range(len(base)), k=len(base))
        above, below = (statistics.median(_flat([each[i] for i in drawn])) for each in (rounds, base))
        found.append(above / below)
    found.sort()
    return Ratio(value, quantile(found, 0.025), quantile(found, 0.975))


def _flat(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [value for one in rounds for value in one]
