"""Search algorithms, by name."""

from __future__ import annotations

import inspect
import math
from typing import Any

from keras_mnasnet.search.algorithms.base import Algorithm
from keras_mnasnet.search.algorithms.evolution import Evolution, Random
from keras_mnasnet.search.algorithms.local_search import LocalSearch
from keras_mnasnet.search.algorithms.ppo import PPO
from keras_mnasnet.search.algorithms.thompson import Thompson
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import SearchSpace

__all__ = ["ALGORITHMS", "make_algorithm"]

_KINDS = {str: "a text", int: "a whole number", float: "a finite number"}
ALGORITHMS: dict[str, Any] = {
    "ppo": PPO, "thompson": Thompson, "evolution": Evolution, "local-search": LocalSearch, "random": Random,
}  # fmt: skip


def make_algorithm(name: str, space: SearchSpace, reward: Reward, *, seed: int, **options: Any) -> Algorithm:
    """The algorithm `ppo`, `thompson`, `evolution`, `local-search` or `random`; unknown names and options raise ValueError."""
    if name not in ALGORITHMS:
        raise ValueError(f"`algorithm` must be one of {tuple(ALGORITHMS)}. Received: algorithm={name!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"`seed` must be an integer >= 0. Received: seed={seed!r}")
    maker = ALGORITHMS[name]
    known = [each for each in inspect.signature(maker).parameters if each not in ("space", "reward", "seed")]
    unknown = [each for each in options if each not in known]
    if unknown:
        raise ValueError(f"The options of {name!r} are {known}. Received: {unknown}")
    for each, value in options.items():
        usual = inspect.signature(maker).parameters[each].default
        fits = isinstance(value, str) if isinstance(usual, str) else isinstance(value, int | float) and math.isfinite(value)
        if not fits or isinstance(value, bool):
            raise ValueError(f"`{each}` must be {_KINDS[type(usual)]}. Received: {each}={value!r}")
    return maker(space, reward, seed=seed, **options)
