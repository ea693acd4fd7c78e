"""Local search: first improvement by steps of one decision, from the best of a few random networks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from keras_mnasnet.search.algorithms.base import Observation, Proposal, Searcher, reward_of
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import Candidate, SearchSpace
from keras_mnasnet.utils.reading import record


@dataclasses.dataclass(frozen=True)
class _Told:
    candidate: tuple[int, ...]
    reward: float | None  # None: it failed


@dataclasses.dataclass(frozen=True)
class _State:
    """What `LocalSearch._state` gives."""

    at: _Told | None
    bar: _Told | None
    drawn: list[tuple[int, ...]]


class LocalSearch(Searcher):
    """Move to the first neighbor that is better; where none is left, start again from the best of `start` random networks.

    Neighbors differ in one decision and are tried in random order, as many at a time as are asked for. A network of the last
    climb that comes back late and is better than all of it is gone on from. Nothing goes on from a failure.
    """

    name = "local-search"

    def __init__(self, space: SearchSpace, reward: Reward, *, seed: int, start: int = 10) -> None:
        super().__init__(space, reward, seed=seed)
        if isinstance(start, bool) or not isinstance(start, int) or start < 1:
            raise ValueError(f"`start` must be an integer >= 1. Received: start={start!r}")
        self.start = start
        self._at: Observation | None = None  # where it stands; None while the random networks of a start are out
        self._bar: Observation | None = None  # where the last climb ended
        self._drawn: dict[Candidate, Observation | None] = {}  # of this start, with what came of them
        self._around: tuple[Candidate, list[Candidate]] | None = None

    def _propose(self, count: int) -> list[Proposal]:
        if self._at is not None:
            left = self._neighbours(self._at.candidate)
            if left:
                order = self.rng.permutation(len(left))[:count]
                return [Proposal(left[index]) for index in order]
            self._at, self._bar = None, self._at
        found = self.unseen(min(count, max(1, self.start - len(self._drawn))))
        self._drawn |= dict.fromkeys(found)
        return [Proposal(candidate) for candidate in found]

    def _neighbours(self, candidate: Candidate) -> list[Candidate]:
        """The unseen ones; the list is kept, because under limits it costs as much as building all of them."""
        if self._around is None or self._around[0] != candidate:
            self._around = candidate, self.space.neighbours(candidate)
        left = [each for each in self._around[1] if each not in self.seen]
        self._around = candidate, left
        return left

    def _learn(self, observations: Sequence[Observation]) -> None:
        for each in observations:
            if each.candidate in self._drawn:
                self._drawn[each.candidate] = each
            if self._at is not None:
                if reward_of(each) > reward_of(self._at):
                    self._move(each)
            elif self._bar is not None and reward_of(each) > reward_of(self._bar) and each.candidate not in self._drawn:
                self._move(each)
            else:
                came = [found for found in self._drawn.values() if found is not None]
                worked = [found for found in came if any(found is success for success in self.told)]
                if len(came) >= self.start and worked:
                    self._move(max(worked, key=reward_of))

    def _move(self, to: Observation) -> None:
        self._at, self._drawn = to, {}

    def _state(self) -> dict[str, Any]:
        def kept(each: Observation | None) -> dict[str, Any] | None:
            return None if each is None else {"candidate": each.candidate, "reward": each.reward}

        return {"at": kept(self._at), "bar": kept(self._bar), "drawn": list(self._drawn)}

    def _restore(self, value: Mapping[str, Any], learned: Sequence[Observation]) -> None:
        found = record(value, _State, "The state of a search")
        told = {each.candidate: each for each in learned}

        def observed(each: _Told | None) -> Observation | None:
            if each is None:
                return None
            if each.reward is not None and not math.isfinite(each.reward):
                raise ValueError(f"The state of a search must hold finite rewards. Received: {each.reward}")
            return Observation(self.space.check(each.candidate), reward=each.reward)

        self._at, self._bar, self._around = observed(found.at), observed(found.bar), None
        self._drawn = {}
        for each in found.drawn:
            candidate = self.space.check(each)
            failed = None if candidate in self.pending else Observation(candidate)
            self._drawn[candidate] = told.get(candidate, failed)
