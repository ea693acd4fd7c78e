"""Random search: uniform, without repeats."""

from __future__ import annotations

from keras_mnasnet.search.algorithms.base import Proposal, Searcher

__all__ = ["Random"]


class Random(Searcher):
    """Uniform draws without repeats."""

    name = "random"

    def _propose(self, count: int) -> list[Proposal]:
        return [Proposal(candidate) for candidate in self.unseen(count)]
