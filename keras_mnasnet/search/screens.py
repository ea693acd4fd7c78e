"""Screens: what ranks networks before any is trained; how well each does is measured, and one that does not is dropped."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_mnasnet.search.space import Candidate, SearchSpace

Rank = Callable[[SearchSpace, list[Candidate]], Sequence[float]]
"""Scores of candidates, higher is better, which are compared across calls."""
SHARES = {"half": 0.5, "third": 1 / 3, "quarter": 0.25, "tenth": 0.1}
MEASURE, RELU_UNITS = "measure", "relu-units"
SYNTAX = f"{MEASURE}:16, {RELU_UNITS}:quarter, or module:function:quarter of your own"
MOST_MEASURED = 1_000
RESOLUTION = 224  # of relu-units, whose order hardly depends on it
JUDGED_AFTER = 6  # results of screened networks
LEAST_TAU = 0.2
MOST_JUDGED = 1_000  # the first results, of which every pair counts


@dataclasses.dataclass(frozen=True, slots=True)
class Screen:
    """The random networks of a search's start are the best `share` of those drawn, by `rank`."""

    name: str
    rank: Rank
    share: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"A screen lets a share between 0 and 1 through. Received: share={self.share!r} of {self.name!r}")

    def __str__(self) -> str:
        return f"{self.name}:{self.share:g}"

    def scores(self, space: SearchSpace, candidates: list[Candidate]) -> list[float]:
        """The scores of candidates; ValueError for a function that does not give a finite number for each."""
        found = [float(each) for each in self.rank(space, candidates)]
        if len(found) != len(candidates) or not all(map(math.isfinite, found)):
            raise ValueError(
                f"A screen must give a finite number for each of {len(candidates)} candidates. Received: {found[:5]} of "
                f"{self.name!r}"
            )
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """The latency of `count` proposals is measured, and of these the best one by the surrogate is trained."""

    count: int

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or not 1 < self.count <= MOST_MEASURED:
            raise ValueError(f"`{MEASURE}` takes 2 to {MOST_MEASURED:,} proposals. Received: {MEASURE}:{self.count}")

    def __str__(self) -> str:
        return f"{MEASURE}:{self.count}"


def relu_units(space: SearchSpace, candidates: list[Candidate]) -> list[float]:
    """How many values each network puts through a ReLU for one image."""
    if space.build is None:
        raise ValueError(f"`{RELU_UNITS}` screens networks. Received: the space {space.name!r}, which is not of networks")
    return [
        float(sum(row.height * row.width * row.filters for row in space.build(each).layers(RESOLUTION, RESOLUTION) if row.relu))
        for each in candidates
    ]


def parse_screen(text: str) -> Screen | Measured:
    """A screen from its text (SYNTAX); a function of the user's own is imported, so the text has to be the user's too."""
    kind, _, rest = text.partition(":")
    if kind == MEASURE:
        return Measured(int(rest) if rest.isdecimal() and len(rest) < 6 else 0)
    function, _, share = rest.partition(":") if kind != RELU_UNITS else ("", "", rest)
    try:
        part = SHARES[share] if share in SHARES else float(share or 0.25)
        rank = relu_units if kind == RELU_UNITS else getattr(importlib.import_module(kind), function)
    except (ValueError, ImportError, AttributeError) as error:
        raise ValueError(f"A screen is {SYNTAX}. Received: {text!r} ({error})") from error
    return Screen(kind if kind == RELU_UNITS else f"{kind}:{function}", rank, part)


def kendall_tau(pairs: Sequence[tuple[float, float]]) -> float:
    """Kendall's tau-b of pairs; 0 where all values of a side are equal."""
    values = np.array(pairs, np.float64).reshape(-1, 2)
    signs = [np.sign(side[:, None] - side[None, :]) for side in values.T]
    ties = math.sqrt(float((signs[0] ** 2).sum() * (signs[1] ** 2).sum()))
    return float((signs[0] * signs[1]).sum()) / ties if ties else 0.0


def scores_of(extra: Mapping[str, Any]) -> dict[str, float]:
    """{screen: score} that a proposal carries; ValueError for anything else."""
    found = extra.get("screens", {})
    if not isinstance(found, dict) or not all(isinstance(each, int | float) and math.isfinite(each) for each in found.values()):
        raise ValueError(f"A proposal's screens must have finite scores. Received: {str(found)[:80]}")
    return {name: float(score) for name, score in found.items()}


def latencies_of(extra: Mapping[str, Any], space: SearchSpace) -> dict[Candidate, float]:
    """{candidate: measured ms} that a proposal carries; ValueError for anything else."""
    found: dict[Candidate, float] = {}
    try:
        for candidate, ms in extra.get("measured", []):
            found[space.check(tuple(candidate))] = float(ms)
    except (TypeError, ValueError) as error:
        raise ValueError(f"A proposal's measurements must be pairs of candidate and ms. Received: {error}") from error
    if not all(0 < ms < math.inf for ms in found.values()):
        raise ValueError(f"A proposal's latencies must be above 0. Received: {list(found.values())[:5]}")
    return found
