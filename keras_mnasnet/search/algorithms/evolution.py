"""Regularized evolution (Real et al., 2019), and random search, which every other one is compared with."""

from __future__ import annotations

import math

from keras_mnasnet.search.algorithms.base import Proposal, Searcher, reward_of
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import Candidate, SearchSpace

MUTATIONS = 50  # tries of an unseen child before another random network is taken


class Evolution(Searcher):
    """The population is the last `population` results; the best of `sample` of them is changed in one decision."""

    name = "evolution"

    def __init__(self, space: SearchSpace, reward: Reward, *, seed: int, population: int = 20, sample: int = 5) -> None:
        super().__init__(space, reward, seed=seed)
        whole = all(isinstance(each, int) and not isinstance(each, bool) for each in (population, sample))
        if not (whole and 1 <= sample <= population):
            raise ValueError(
                f"`sample` and `population` must be integers, 1 <= sample <= population. "
                f"Received: sample={sample!r}, population={population!r}"
            )
        self.population = population
        self.sample = sample

    def _propose(self, count: int) -> list[Proposal]:
        if len(self.seen) < self.population and self.screens:
            wanted = math.ceil(1 / math.prod(screen.share for screen in self.screens))
            return [Proposal(candidate) for candidate in self.sifted(self.unseen(wanted))[:1]]
        if len(self.seen) < self.population or not self.told:
            return [Proposal(candidate) for candidate in self.unseen(min(count, max(1, self.population - len(self.seen))))]
        for _ in range(MUTATIONS):
            child = self._mutated(self._winner())
            if child not in self.seen and self.space.is_allowed(child):
                return [Proposal(child)]
        return [Proposal(candidate) for candidate in self.unseen(1)]

    def _winner(self) -> Candidate:
        living = self.told[-self.population :]
        drawn = self.rng.choice(len(living), size=min(self.sample, len(living)), replace=False)
        return max((living[index] for index in drawn), key=reward_of).candidate

    def _mutated(self, parent: Candidate) -> Candidate:
        """The parent with one decision, drawn uniformly, set to another choice."""
        position = int(self.rng.integers(len(parent)))
        count = self.space.counts[position]
        if count == 1:
            return parent
        choice = (parent[position] + 1 + int(self.rng.integers(count - 1))) % count
        return self.space.canonical((*parent[:position], choice, *parent[position + 1 :]))


class Random(Searcher):
    """Uniform draws without repeats."""

    name = "random"

    def _propose(self, count: int) -> list[Proposal]:
        return [Proposal(candidate) for candidate in self.unseen(count)]
