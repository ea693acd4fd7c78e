"""Ask and tell: what an algorithm is, and the bookkeeping that all of them share."""

from __future__ import annotations

import abc
import base64
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.screens import JUDGED_AFTER, LEAST_TAU, MOST_JUDGED, Measured, Screen, kendall_tau, scores_of
from keras_mnasnet.search.space import Candidate, SearchSpace
from keras_mnasnet.search.trials import Observation, Proposal
from keras_mnasnet.utils.reading import parse_json, record

SCHEMA = 2
TRIES = 2_000  # draws of one unseen candidate in a space too large to list, before it is looked for beside those that were seen
GUIDED_TRIES = 10  # the same where draws are brought within limits


@runtime_checkable
class Algorithm(Protocol):
    """A search algorithm. Not thread-safe: the driver of a study is its only caller.

    `ask` never gives a network that was asked or told before; a space with nothing left gives fewer than `count`.
    Observations may be told in any order, and networks may be told that were never asked. `state` is the same bytes after
    the same calls, and holds what cannot be seen from these: it does not grow with the trials. A study writes the lines behind
    its first only where they changed. An algorithm made with the same
    arguments goes on from `restore(state, asked, told)` as if nothing had happened. `facts` are figures for the record, such
    as the entropy of a controller.
    """

    name: str

    def ask(self, count: int) -> list[Proposal]: ...

    def tell(self, observations: Sequence[Observation]) -> None: ...

    def state(self) -> bytes: ...

    def restore(self, state: bytes, asked: Sequence[Proposal], told: Sequence[Observation]) -> None: ...

    def facts(self) -> dict[str, float]: ...


class Searcher(abc.ABC):
    """What every algorithm here shares: the random numbers, what was asked, what is pending, what was told.

    Subclasses give `_propose` (the next unseen candidates), and as needed `_learn`, `_state`, `_restore`. A failed trial is
    learned from as the worst result so far, so that a search leaves the networks that fail; those before the first success
    wait for it.
    """

    name = ""

    def __init__(self, space: SearchSpace, reward: Reward, *, seed: int) -> None:
        self.space = space
        self.reward = reward
        self.seed = seed
        self.screens: tuple[Screen, ...] = ()  # of the start
        self.measured: Measured | None = None
        self.meter: Callable[[Candidate], tuple[float, str]]  # gives milliseconds and who says so, where `measured` asks for it
        self.rng = np.random.default_rng(seed)
        self._left: Unseen | None = None
        self._begin()

    def _begin(self) -> None:
        """As before the first ask."""
        self.seen: dict[Candidate, None] = {}  # asked or told, in order
        self.pending: dict[Candidate, dict[str, Any]] = {}  # asked and not told, with their `extra`
        self.told: list[Observation] = []  # the successful ones, in order, each of a network's highest rung so far
        self._places: dict[Candidate, int] = {}  # of networks in `told`
        self._counts = {"asked": 0, "told": 0}
        self._scored: dict[str, list[tuple[float, float]]] = {}  # {screen: (score, reward)} of the networks of the first rung
        self._worst = Observation(())  # the lowest accuracy and reward and the longest latency so far
        self._unjudged: list[Observation] = []  # failed before the first success

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
            if self.screens:
                found = [self._with_scores(proposal) for proposal in found]
            for proposal in found:
                self._register(proposal)
            proposals += found
        return proposals

    def _with_scores(self, proposal: Proposal) -> Proposal:
        scores = {screen.name: screen.scores(self.space, [proposal.candidate])[0] for screen in self.screens}
        return Proposal(proposal.candidate, {**proposal.extra, "screens": {**scores_of(proposal.extra), **scores}})

    def tell(self, observations: Sequence[Observation]) -> None:
        """Take in results; one without a reward failed, and counts as the worst so far."""
        self._learn(self._noted(observations))

    def _noted(self, observations: Sequence[Observation]) -> list[Observation]:
        """What is learned of observations, once all are checked: canonical candidates, every one with a reward."""
        taken = []
        for observation in observations:
            candidate = self.space.canonical(self.space.check(observation.candidate))
            if observation.reward is not None and not np.isfinite(observation.reward):
                raise ValueError(f"A reward must be finite, or None. Received: reward={observation.reward!r}")
            taken.append(dataclasses.replace(observation, candidate=candidate, extra={}))
        learned: list[Observation] = []
        for observation in taken:
            self._counts["told"] += 1
            scores = scores_of(self.pending.pop(observation.candidate, {}))
            self.seen[observation.candidate] = None
            if observation.reward is not None:
                for name, score in scores.items():
                    self._scored.setdefault(name, []).append((score, observation.reward))
                place = self._places.setdefault(observation.candidate, len(self.told))
                self.told[place : place + 1] = [observation]
                self._worst = _worse(self._worst, observation)
                learned.append(observation)
            elif not observation.rung:  # what fails further up keeps the result that it has
                self._unjudged.append(observation)
            if self.told:
                learned += [self._as_worst(failed) for failed in self._unjudged]
                self._unjudged = []
        return learned

    def _as_worst(self, failed: Observation) -> Observation:
        latency_ms = self._worst.latency_ms if failed.latency_ms is None else failed.latency_ms
        return dataclasses.replace(failed, accuracy=self._worst.accuracy, latency_ms=latency_ms, reward=self._worst.reward)

    def _register(self, proposal: Proposal) -> None:
        self._counts["asked"] += 1
        self.seen[proposal.candidate] = None
        self.pending[proposal.candidate] = proposal.extra

    @abc.abstractmethod
    def _propose(self, count: int) -> list[Proposal]:
        """Between 1 and `count` different unseen candidates; none when the space is exhausted."""

    def _learn(self, observations: Sequence[Observation]) -> None:  # noqa: B027
        """Take in results; failed ones stand among them as the worst so far."""

    # random unseen candidates

    def taus(self) -> dict[str, float]:
        """{screen: Kendall's tau of its scores with the rewards}, of those with enough results to be judged."""
        return {name: kendall_tau(pairs[:MOST_JUDGED]) for name, pairs in self._scored.items() if len(pairs) >= JUDGED_AFTER}

    def sifted(self, drawn: list[Candidate]) -> list[Candidate]:
        """Of random networks those that every screen lets through which is not dropped; one at least, if there is any."""
        taus = self.taus() if self.screens else {}
        for screen in self.screens:
            if taus.get(screen.name, 1.0) >= LEAST_TAU and drawn:
                scores = screen.scores(self.space, drawn)
                best = sorted(range(len(drawn)), key=lambda index: (-scores[index], index))
                drawn = [drawn[index] for index in sorted(best[: max(1, int(len(drawn) * screen.share))])]
        return drawn

    def unseen(self, count: int) -> list[Candidate]:
        """At most `count` different unseen candidates, drawn uniformly from what is left."""
        if self.space.members is not None:
            if self._left is None:
                self._left = Unseen(self.space.members)
            left = np.flatnonzero(self._left.mask(self.seen))
            return [self.space.members[left[index]] for index in self.rng.permutation(len(left))[:count]]
        found: dict[Candidate, None] = {}
        for _ in range(count):
            for _ in range(TRIES if self.space.guide is None else GUIDED_TRIES):
                candidate = self.space.sample(self.rng)
                if candidate not in self.seen and candidate not in found:
                    break
            else:
                near = (other for each in reversed(self.seen) for other in self.space.neighbours(each))
                candidate = next((other for other in near if other not in self.seen and other not in found), candidate)
                if candidate in self.seen or candidate in found:
                    break
            found[candidate] = None
        return list(found)

    # state

    def state(self) -> bytes:
        """What decides what comes next, beside what was asked and told, as JSON."""
        value = {
            "schema": SCHEMA,
            "algorithm": self.name,
            "space": self.space.fingerprint(),
            "rng": self.rng.bit_generator.state,
            **self._counts,
            "own": self._state(),
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    def restore(self, state: bytes, asked: Sequence[Proposal], told: Sequence[Observation]) -> None:
        """Go on from `state` and all that was asked and told until then, each in its order.

        ValueError for a state that is damaged, of another algorithm, space, schema, or of other trials.
        """
        what = "The state of a search"
        value = parse_json(state.partition(b"\n")[0], what)
        value = record(value, dict[str, Any], what)
        expected = {
            "schema": SCHEMA, "algorithm": self.name, "space": self.space.fingerprint(), "asked": len(asked), "told": len(told)
        }  # fmt: skip
        for name, wanted in expected.items():
            if value.get(name) != wanted:
                raise ValueError(f"{what} must have {name}={wanted!r}. Received: {name}={str(value.get(name))[:80]!r}")
        found = record(value, _State, what)
        try:
            self.rng.bit_generator.state = dataclasses.asdict(found.rng)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{what} must hold its generator of random numbers. Received: {error} at $.rng") from error
        self._left = None
        self._begin()
        for proposal in asked:
            self._register(dataclasses.replace(proposal, candidate=self.space.canonical(self.space.check(proposal.candidate))))
        self._restore(found.own, self._noted(told))

    def _state(self) -> dict[str, Any]:
        return {}

    def _restore(self, value: Mapping[str, Any], learned: Sequence[Observation]) -> None:  # noqa: B027
        """Take over what `_state` gave, after `seen`, `pending` and `told` are as they were; ValueError for what is damaged.

        `learned` is all that `_learn` was given until then.
        """

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


def _worse(one: Observation, other: Observation) -> Observation:
    """The worse value of both in every figure that one of them has."""

    def found(name: str, choose: Any) -> float | None:
        known = [value for each in (one, other) if (value := getattr(each, name)) is not None]
        return choose(known, default=None)

    return dataclasses.replace(
        one, accuracy=found("accuracy", min), latency_ms=found("latency_ms", max), reward=found("reward", min)
    )


def pack_array(array: np.ndarray) -> str:
    """A text that holds the numbers of an array to the bit."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def unpack_array(text: str, like: np.ndarray) -> np.ndarray:
    """The inverse of `pack_array`, of an array with the type and shape of another; ValueError for anything else."""
    content = base64.b64decode(text, validate=True)
    if len(content) != like.nbytes:
        raise ValueError(f"An array of shape {like.shape} must have {like.nbytes:,} bytes. Received: {len(content):,}")
    found = np.frombuffer(content, like.dtype).reshape(like.shape).copy()
    if not np.isfinite(found).all():
        raise ValueError(f"An array of shape {like.shape} must hold finite numbers. Received: NaN or infinity")
    return found


@dataclasses.dataclass(frozen=True)
class _Numbers:
    state: int
    inc: int


@dataclasses.dataclass(frozen=True)
class _Generator:
    """numpy's PCG64."""

    bit_generator: str
    state: _Numbers
    has_uint32: int
    uinteger: int


@dataclasses.dataclass(frozen=True)
class _State:
    schema: int
    algorithm: str
    space: str
    rng: _Generator
    asked: int
    told: int
    own: dict[str, Any]
