"""NAS-Bench-Macro as a plugged-in space: 6,561 networks whose CIFAR-10 trainings are in a table (Su et al., 2021)."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np

from keras_mnasnet.search.networks import space
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import Candidate, SearchSpace

__all__ = ["MacroTable"]

TOP = 7


@dataclasses.dataclass(frozen=True)
class MacroTable:
    """Three accuracies (0..1) and millions of FLOPs per network; FLOPs stand for latency."""

    runs: dict[Candidate, tuple[float, ...]]
    mflops: dict[Candidate, float]
    params: dict[Candidate, int]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> MacroTable:
        """The table of `nas-bench-macro_cifar10.json`, github.com/xiusu/NAS-Bench-Macro."""
        found = Path(path).expanduser()
        try:
            value = json.loads(found.read_text("utf-8"))
            rows = {tuple(map(int, name)): row for name, row in value.items()}
            table = cls(
                {candidate: tuple(accuracy / 100 for accuracy in row["test_acc"]) for candidate, row in rows.items()},
                {candidate: row["flops"] / 1e6 for candidate, row in rows.items()},
                {candidate: row["params"] for candidate, row in rows.items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"NAS-Bench-Macro is read from nas-bench-macro_cifar10.json. Received: {found}: {error}") from None
        if len(table.runs) != space("macro").size:
            raise ValueError(f"NAS-Bench-Macro has {space('macro').size:,} networks. Received: {len(table.runs):,} in {found}")
        return table

    def space(self) -> SearchSpace:
        """The space `macro` with the table's FLOPs as its cost."""
        return dataclasses.replace(space("macro"), cost=self.mflops.__getitem__)

    def median_mflops(self) -> float:
        """The median over all 6,561 entries; the benchmark's latency target."""
        return float(np.median(list(self.mflops.values())))

    def trained(self, candidate: Candidate, seed: int) -> float:
        """The accuracy of one of the three runs; which one is drawn once for each seed and network."""
        runs = self.runs[candidate]
        number = sum(choice * 3**position for position, choice in enumerate(candidate))
        return runs[int(np.random.default_rng([seed, number]).integers(len(runs)))]

    def truth(self, reward: Reward) -> dict[Candidate, float]:
        """The reward of the mean accuracy of all three runs, for every entry."""
        return {candidate: reward(float(np.mean(runs)), self.mflops[candidate]) for candidate, runs in self.runs.items()}

    def best(self, reward: Reward, count: int = TOP) -> frozenset[Candidate]:
        """The networks among the `count` best of all 6,561 entries, in canonical form (equal networks fill several places)."""
        truth = self.truth(reward)
        threshold = sorted(truth.values())[-count]
        canonical = space("macro").canonical
        return frozenset(canonical(candidate) for candidate, value in truth.items() if value >= threshold)
