"""Ask and tell: what an algorithm is, and the bookkeeping that all of them share."""

from __future__ import annotations

import abc
import base64
import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import Candidate, SearchSpace
from keras_mnasnet.search.trials import Observation, Proposal

SCHEMA = 1
TRIES = 2_000  # draws of one unseen candidate in a space too large to list, before it counts as exhausted


@runtime_checkable
class Algorithm(Protocol):
    """A search algorithm. Not thread-safe: the driver of a study is its only caller.

    `ask` never gives a network that was asked or told before; a space with nothing left gives fewer than `count`.
    Observations may be told in any order, and networks may be told that were never asked. `state` is the same bytes after
    the same calls; an algorithm made with the same arguments goes on from `restore(state)` as if nothing had happened.
    `facts` are figures for the record, such as the entropy of a controller.
    """

    name: str

    def ask(self, count: int) -> list[Proposal]: ...

    def tell(self, observations: Sequence[Observation]) -> None: ...

    def state(self) -> bytes: ...

    def restore(self, state: bytes) -> None: ...

    def facts(self) -> dict[str, float]: ...


class Searcher(abc.ABC):
    """What every algorithm here shares: the random numbers, what was asked, what is pending, what was told.

    Subclasses give `_propose` (the next unseen candidates), and as needed `_learn`, `_state`, `_restore`.
    """

    name = ""

    def __init__(self, space: SearchSpace, reward: Reward, *, seed: int) -> None:
        self.space = space
        self.reward = reward
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.seen: dict[Candidate, None] = {}  # asked or told, in order
        self.pending: dict[Candidate, dict[str, Any]] = {}  # asked and not told, with their `extra`
        self.told: list[Observation] = []  # the successful ones, in order
        self._left: Unseen | None = None
        self._dtype = np.uint8 if max(space.counts) <= 256 else np.uint16

    # ask and tell

    def ask(self, count: int) -> list[Proposal]:
        """At most `count` networks that were never asked or told; fewer when nothing is left."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"`count` must be an integer >= 1. Received: count={count!r}")
        proposals: list[Proposal] = []
        while len(proposals) < count:
            found = self._propose(count - len(proposals))
            if not found:
                break
            for proposal in found:
                self._register(proposal)
            proposals += found
        return proposals

    def tell(self, observations: Sequence[Observation]) -> None:
        """Take in results; those without a reward count as seen and are not learned from."""
        taken = []
        for observation in observations:
            candidate = self.space.canonical(self.space.check(observation.candidate))
            if observation.reward is not None and not np.isfinite(observation.reward):
                raise ValueError(f"A reward must be finite, or None. Received: reward={observation.reward!r}")
            taken.append(dataclasses.replace(observation, candidate=candidate))
        for observation in taken:
            self.pending.pop(observation.candidate, None)
            self.seen[observation.candidate] = None
            if observation.reward is not None:
                self.told.append(observation)
        self._learn(taken)

    def _register(self, proposal: Proposal) -> None:
        self.seen[proposal.candidate] = None
        self.pending[proposal.candidate] = proposal.extra

    @abc.abstractmethod
    def _propose(self, count: int) -> list[Proposal]:
        """Between 1 and `count` different unseen candidates; none when the space is exhausted."""

    def _learn(self, observations: Sequence[Observation]) -> None:  # noqa: B027
        """Take in results, failed ones too (`reward` None)."""

    # random unseen candidates

    def unseen(self, count: int) -> list[Candidate]:
        """At most `count` different unseen candidates, drawn uniformly from what is left."""
        if self.space.members is not None:
            if self._left is None:
                self._left = Unseen(self.space.members)
            left = np.flatnonzero(self._left.mask(self.seen))
            return [self.space.members[left[index]] for index in self.rng.permutation(len(left))[:count]]
        found: dict[Candidate, None] = {}
        for _ in range(count):
            for _ in range(TRIES):
                candidate = self.space.sample(self.rng)
                if candidate not in self.seen and candidate not in found:
                    found[candidate] = None
                    break
            else:
                break
        return list(found)

    # state

    def state(self) -> bytes:
        """Everything that decides what comes next, as JSON."""
        value = {
            "schema": SCHEMA,
            "algorithm": self.name,
            "space": self.space.fingerprint(),
            "rng": self.rng.bit_generator.state,
            "seen": pack_array(np.array(list(self.seen), self._dtype)),
            "pending": [[list(candidate), extra] for candidate, extra in self.pending.items()],
            "told": {
                "candidates": pack_array(np.array([each.candidate for each in self.told], self._dtype)),
                "numbers": pack_array(
                    np.array([[each.accuracy, each.latency_ms, each.reward] for each in self.told], np.float64)
                ),
            },
            "own": self._state(),
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    def restore(self, state: bytes) -> None:
        """Go on from `state`; ValueError if it is another algorithm's, another space's or of a newer schema."""
        value = json.loads(state)
        expected = {"schema": SCHEMA, "algorithm": self.name, "space": self.space.fingerprint()}
        for name, wanted in expected.items():
            if value.get(name) != wanted:
                raise ValueError(f"The state of a search must have {name}={wanted!r}. Received: {name}={value.get(name)!r}")
        self.rng.bit_generator.state = value["rng"]
        self.seen = dict.fromkeys(_candidates(value["seen"]))
        self.pending = {tuple(candidate): extra for candidate, extra in value["pending"]}
        numbers = unpack_array(value["told"]["numbers"]).reshape(-1, 3)
        self.told = [
            Observation(candidate, {}, *(None if np.isnan(number) else float(number) for number in row))
            for candidate, row in zip(_candidates(value["told"]["candidates"]), numbers, strict=True)
        ]
        self._left = None
        self._restore(value["own"])

    def _state(self) -> dict[str, Any]:
        return {}

    def _restore(self, value: Mapping[str, Any]) -> None:  # noqa: B027
        """Take over what `_state` gave."""

    def facts(self) -> dict[str, float]:
        """Figures for the record."""
        return {}


class Unseen:
    """Which members of a listed space are left."""

    def __init__(self, members: Sequence[Candidate]) -> None:
        self._index = {candidate: index for index, candidate in enumerate(members)}
        self._left = np.ones(len(members), bool)
        self._counted = 0

    def mask(self, seen: Mapping[Candidate, None], taken: Iterable[Candidate] = ()) -> np.ndarray:
        """`[N]`, True for members neither in `seen`, which only grows, nor in `taken`."""
        self._drop(self._left, itertools.islice(seen, self._counted, None))
        self._counted = len(seen)
        left = self._left.copy()
        self._drop(left, taken)
        return left

    def _drop(self, left: np.ndarray, candidates: Iterable[Candidate]) -> None:
        for candidate in candidates:
            if candidate in self._index:
                left[self._index[candidate]] = False


def reward_of(observation: Observation) -> float:
    """The reward, for comparing; a failed trial is below every other."""
    return -np.inf if observation.reward is None else observation.reward


def pack_array(array: np.ndarray) -> dict[str, Any]:
    """A JSON-able value that holds an array to the bit."""
    array = np.ascontiguousarray(array)
    return {"dtype": array.dtype.str, "shape": list(array.shape), "base64": base64.b64encode(array.tobytes()).decode()}


def unpack_array(value: Mapping[str, Any]) -> np.ndarray:
    """The inverse of `pack_array`."""
    flat = np.frombuffer(base64.b64decode(value["base64"]), np.dtype(value["dtype"]))
    return flat.reshape(value["shape"]).copy()


def _candidates(packed: Mapping[str, Any]) -> list[Candidate]:
    return [tuple(row) for row in unpack_array(packed).tolist()]
