"""The paper's controller: an LSTM trained by proximal policy optimization (paper, section 4.2; NASNet, appendix A.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_mnasnet.search.algorithms.base import Observation, Proposal, Searcher, pack_array, reward_of, unpack_array
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import Candidate, SearchSpace
from keras_mnasnet.utils.reading import record

PATIENCE = 50  # draws of known networks in a row before an unseen neighbor is asked for instead


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Constants of the controller and its training."""

    learning_rate: float
    entropy_weight: float
    normalized: bool  # the advantage: divided by its deviation over the batch, instead of against the moving average
    units: int = 100
    batch: int = 20
    epochs: int = 5
    clip: float = 0.2
    baseline_decay: float = 0.95


# `paper`: NASNet, appendix A.2 and A.3, which MnasNet refers to. Clip and epochs are the PPO paper's; neither states them.
PRESETS = {
    "paper": Settings(learning_rate=3.5e-4, entropy_weight=1e-5, normalized=False),
    "tuned": Settings(learning_rate=2e-3, entropy_weight=1e-2, normalized=True),
}


def ppo_loss(ratio: np.ndarray, advantage: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray]:
    """(L, dL/d ratio), each `[N]`: L = -min(r A, clip(r, 1 - e, 1 + e) A) (Schulman et al., 2017, equation 7)."""
    clipped = np.clip(ratio, 1 - clip, 1 + clip)
    loss = -np.minimum(ratio * advantage, clipped * advantage)
    return loss, np.where(ratio * advantage <= clipped * advantage, -advantage, 0.0)


def advantages(rewards: np.ndarray, baseline: float | None, settings: Settings) -> tuple[np.ndarray, float]:
    """(advantages `[N]`, the new baseline).

    A = r - b, where b is the moving average of the batches before (of this one, if it is the first); then
    b <- decay b + (1 - decay) mean r. Normalized: A = (r - mean r) / (std r + 1e-8).
    """
    mean = float(rewards.mean())
    before = mean if baseline is None else baseline
    after = settings.baseline_decay * before + (1 - settings.baseline_decay) * mean
    if settings.normalized:
        return (rewards - mean) / (rewards.std() + 1e-8), after
    return rewards - before, after


class PPO(Searcher):
    """LSTM controller with PPO, presets `paper` and `tuned`.

    A network is trained once. When the controller draws a known one again, it learns from the reward on record: the draw
    counts in its batch of 20 as any other, without a training. `facts()["draws"]` counts all draws, as the paper's "sampled
    models" do. Results that come late count with the probability under which they were drawn.
    """

    name = "ppo"

    def __init__(self, space: SearchSpace, reward: Reward, *, seed: int, preset: str = "tuned") -> None:
        super().__init__(space, reward, seed=seed)
        if preset not in PRESETS:
            raise ValueError(f"`preset` must be one of {tuple(PRESETS)}. Received: preset={preset!r}")
        self.preset = preset
        self.settings = PRESETS[preset]
        self.controller = Controller(space.counts, units=self.settings.units, rng=self.rng)
        self.adam = Adam(self.controller.weights, learning_rate=self.settings.learning_rate)
        self.rewards: dict[Candidate, float] = {}
        self.draws = 0
        self.updates = 0
        self.baseline: float | None = None
        self.entropy = self._entropy_now()
        self._batch: list[tuple[list[int], float, float]] = []  # actions, log-probability when drawn, reward
        self._waiting: dict[Candidate, list[tuple[list[int], float]]] = {}  # draws of pending networks

    def _propose(self, count: int) -> list[Proposal]:
        found: dict[Candidate, Proposal] = {}
        repeats = 0
        while len(found) < count and repeats < PATIENCE:
            drawn = self.controller.sample(min(count - len(found), self.settings.batch), self.rng)
            if self.space.guide is not None:  # within limits, with the probability under which the controller would draw that
                drawn = self.controller.evaluate(self.space.guide.within(drawn.actions, self.rng))
            for actions, log in zip(drawn.actions.tolist(), drawn.log_probability.tolist(), strict=True):
                candidate = self.space.canonical(tuple(actions))
                if not self.space.is_allowed(candidate):
                    repeats += 1
                    continue
                self.draws += 1
                if candidate in self.rewards:
                    self._add(actions, log, self.rewards[candidate])
                else:
                    self._waiting.setdefault(candidate, []).append((actions, log))
                if candidate in self.seen or candidate in found:
                    repeats += 1
                else:
                    repeats = 0
                    found[candidate] = Proposal(candidate, {"log_probability": log, "draw": self.draws})
        if not found:
            found = {each: Proposal(each, {"draw": self.draws}) for each in self._near(candidate)}
        return list(found.values())

    def _near(self, candidate: Candidate) -> list[Candidate]:
        """An unseen neighbor of a network that a settled controller keeps drawing, or else any unseen network."""
        left = [each for each in self.space.neighbours(candidate) if each not in self.seen]
        return [left[int(self.rng.integers(len(left)))]] if left else self.unseen(1)

    def _learn(self, observations: Sequence[Observation]) -> None:
        for observation in observations:
            self.rewards[observation.candidate] = reward_of(observation)
            for actions, log in self._waiting.pop(observation.candidate, []):
                self._add(actions, log, reward_of(observation))

    def _add(self, actions: list[int], log: float, reward: float) -> None:
        self._batch.append((actions, log, reward))
        if len(self._batch) == self.settings.batch:
            self._update()

    def _update(self) -> None:
        """PPO's epochs over one batch of draws."""
        columns = zip(*self._batch, strict=True)
        actions, old, rewards = (np.array(column) for column in columns)
        self._batch = []
        advantage, self.baseline = advantages(rewards, self.baseline, self.settings)
        for _ in range(self.settings.epochs):
            now = self.controller.evaluate(actions)
            ratio = np.exp(now.log_probability - old)
            slope = ppo_loss(ratio, advantage, self.settings.clip)[1] * ratio / len(rewards)
            by_entropy = np.full(len(rewards), -self.settings.entropy_weight / len(rewards))
            self.adam.step(self.controller.weights, self.controller.gradient(now, slope, by_entropy))
        self.entropy = float(now.entropy.mean()) / len(self.space.counts)
        self.updates += 1

    def _entropy_now(self) -> float:
        """The entropy of a fresh controller in nats per decision, along one sequence."""
        start = self.controller.evaluate(np.zeros((1, len(self.space.counts)), np.int64))
        return float(start.entropy[0]) / len(self.space.counts)

    def facts(self) -> dict[str, float]:
        """`entropy` in nats per decision, of the last batch; `draws` and `updates` so far; `baseline`."""
        facts = {"entropy": self.entropy, "draws": float(self.draws), "updates": float(self.updates)}
        return facts if self.baseline is None else {**facts, "baseline": self.baseline}

    def _state(self) -> dict[str, Any]:
        packed = {name: {key: pack_array(value) for key, value in group.items()} for name, group in self._arrays().items()}
        return {
            "preset": self.preset, "draws": self.draws, "updates": self.updates, "baseline": self.baseline,
            "entropy": self.entropy, "steps": self.adam.steps, "batch": self._batch,
            "waiting": [[list(candidate), draws] for candidate, draws in self._waiting.items()], **packed,
        }  # fmt: skip

    def _arrays(self) -> dict[str, Weights]:
        return {"weights": self.controller.weights, "first": self.adam.first, "second": self.adam.second}

    def _restore(self, value: Mapping[str, Any], learned: Sequence[Observation]) -> None:
        found = record(value, _State, "The state of a controller")
        if found.preset != self.preset:
            raise ValueError(f"The state of a search must have preset={self.preset!r}. Received: preset={found.preset!r}")
        for actions in [actions for actions, *_ in found.batch] + [each[0] for _, draws in found.waiting for each in draws]:
            self.space.check(tuple(actions))
        self.draws, self.updates, self.baseline = found.draws, found.updates, found.baseline
        self.entropy, self.adam.steps = found.entropy, found.steps
        self._batch = list(found.batch)
        self._waiting = dict(found.waiting)
        self.rewards = {each.candidate: reward_of(each) for each in learned}
        for name, group in self._arrays().items():
            stored = getattr(found, name)
            if stored.keys() != group.keys():
                raise ValueError(f"The state of a controller must hold the arrays {list(group)}. Received: {list(stored)}")
            group.update({key: unpack_array(stored[key], group[key]) for key in group})


Weights = dict[str, np.ndarray]
Draw = tuple[list[int], float]  # actions, log-probability when drawn


@dataclasses.dataclass(frozen=True)
class _State:
    """What `PPO._state` gives."""

    preset: str
    draws: int
    updates: int
    baseline: float | None
    entropy: float
    steps: int
    batch: list[tuple[list[int], float, float]]
    waiting: list[tuple[Candidate, list[Draw]]]
    weights: dict[str, str]
    first: dict[str, str]
    second: dict[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Pass:
    """Sequences `actions` `[N, T]`, the log-probabilities of every choice at every step, and what the gradient needs."""

    actions: np.ndarray
    logs: list[np.ndarray]  # per step [N, counts[t]]
    inputs: np.ndarray  # [T, N], rows of the embedding
    tape: list[tuple[np.ndarray, ...]]  # per step: hidden state and cell before; i, f, o, g; tanh of the cell; hidden state

    @property
    def log_probability(self) -> np.ndarray:
        """Of each sequence, `[N]`."""
        every = np.arange(len(self.actions))
        return sum((log[every, self.actions[:, t]] for t, log in enumerate(self.logs)), np.zeros(len(every)))

    @property
    def entropy(self) -> np.ndarray:
        """Of each sequence, summed over its decisions, in nats, `[N]`."""
        return sum((-(np.exp(log) * log).sum(1) for log in self.logs), np.zeros(len(self.actions)))


class Controller:
    """p(choice of decision t | choices before it), for sequences of decisions with `counts[t]` choices each.

    The input of step t is an embedding of the choice at step t - 1; the hidden state gives the logits of step t by a linear
    layer of its own. Every weight starts at U(-0.1, 0.1).
    """

    def __init__(self, counts: Sequence[int], *, units: int, rng: np.random.Generator, dtype: Any = np.float32) -> None:
        self.counts = tuple(counts)
        self.units = units
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)
        total = int(self.offsets[-1])
        shapes = {
            "embedding": (1 + total, units),  # row 0 begins a sequence
            "input_kernel": (units, 4 * units),  # -> input, forget and output gate, candidate
            "hidden_kernel": (units, 4 * units),
            "bias": (4 * units,),
            "head": (units, total),
            "head_bias": (total,),
        }
        self.weights: Weights = {name: rng.uniform(-0.1, 0.1, shape).astype(dtype) for name, shape in shapes.items()}

    def sample(self, count: int, rng: np.random.Generator) -> Pass:
        """Draw `count` sequences."""
        return self._forward(None, rng.random((count, len(self.counts))))

    def evaluate(self, actions: np.ndarray) -> Pass:
        """Go through given sequences `[N, T]`."""
        return self._forward(actions, None)

    def _forward(self, given: np.ndarray | None, uniforms: np.ndarray | None) -> Pass:
        """Without `given` actions they are drawn: the choice at which the cumulated probability passes the uniform number."""
        source = uniforms if given is None else given
        assert source is not None
        weights, units, count = self.weights, self.units, len(source)
        actions = np.zeros((count, len(self.counts)), np.int64) if given is None else given
        by_input = weights["embedding"] @ weights["input_kernel"] + weights["bias"]
        h = c = np.zeros((count, units), by_input.dtype)
        inputs = np.zeros((len(self.counts), count), np.int64)
        logs: list[np.ndarray] = []
        tape: list[tuple[np.ndarray, ...]] = []
        for t in range(len(self.counts)):
            columns = slice(self.offsets[t], self.offsets[t + 1])
            gates = by_input[inputs[t]] + h @ weights["hidden_kernel"]
            opened = 1 / (1 + np.exp(-gates[:, : 3 * units]))
            i, f, o = opened[:, :units], opened[:, units : 2 * units], opened[:, 2 * units :]
            g = np.tanh(gates[:, 3 * units :])
            h_before, c_before = h, c
            c = f * c + i * g
            tanh_c = np.tanh(c)
            h = o * tanh_c
            logits = h @ weights["head"][:, columns] + weights["head_bias"][columns]
            logits = logits - logits.max(1, keepdims=True)
            log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            if uniforms is not None:
                passed = (np.cumsum(np.exp(log), axis=1) < uniforms[:, t : t + 1]).sum(1)
                actions[:, t] = np.minimum(passed, self.counts[t] - 1)
            logs.append(log)
            tape.append((h_before, c_before, i, f, o, g, tanh_c, h))
            if t + 1 < len(self.counts):
                inputs[t + 1] = 1 + self.offsets[t] + actions[:, t]
        return Pass(actions, logs, inputs, tape)

    def gradient(self, forward: Pass, by_log_probability: np.ndarray, by_entropy: np.ndarray) -> Weights:
        """d loss / d weights, given d loss / d log-probability `[N]` and d loss / d entropy `[N]`."""
        weights = self.weights
        dtype = weights["head"].dtype
        by_log, by_entropy = (np.asarray(value, dtype)[:, None] for value in (by_log_probability, by_entropy))
        every = np.arange(len(forward.actions))
        found = {"head": np.zeros_like(weights["head"]), "head_bias": np.zeros_like(weights["head_bias"])}
        dh = dc = np.zeros((len(every), self.units), dtype)
        dgates: list[np.ndarray] = []
        for t in reversed(range(len(self.counts))):
            _, c_before, i, f, o, g, tanh_c, h = forward.tape[t]
            log = forward.logs[t]
            p = np.exp(log)
            dlogits = -p * by_log - p * (log - (p * log).sum(1, keepdims=True)) * by_entropy
            dlogits[every, forward.actions[:, t]] += by_log[:, 0]
            columns = slice(self.offsets[t], self.offsets[t + 1])
            found["head"][:, columns] = h.T @ dlogits
            found["head_bias"][columns] = dlogits.sum(0)
            dh = dh + dlogits @ weights["head"][:, columns].T
            dc = dc + dh * o * (1 - tanh_c**2)
            parts = (dc * g * i * (1 - i), dc * c_before * f * (1 - f), dh * tanh_c * o * (1 - o), dc * i * (1 - g**2))
            dgates.append(np.concatenate(parts, axis=1))
            dh, dc = dgates[-1] @ weights["hidden_kernel"].T, dc * f
        every_gate = np.concatenate(dgates[::-1])
        hidden = np.concatenate([step[0] for step in forward.tape])
        one_hot = np.zeros((len(weights["embedding"]), len(every_gate)), dtype)
        one_hot[forward.inputs.ravel(), np.arange(len(every_gate))] = 1
        by_row = one_hot @ every_gate
        found["bias"] = every_gate.sum(0)
        found["hidden_kernel"] = hidden.T @ every_gate
        found["input_kernel"] = weights["embedding"].T @ by_row
        found["embedding"] = by_row @ weights["input_kernel"].T
        return found


class Adam:
    """Adam (Kingma and Ba, 2015) with its usual constants; `weights` change in place."""

    def __init__(self, weights: Weights, *, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.steps = 0
        self.first = {name: np.zeros_like(value) for name, value in weights.items()}
        self.second = {name: np.zeros_like(value) for name, value in weights.items()}

    def step(self, weights: Weights, gradient: Weights) -> None:
        self.steps += 1
        rate = float(self.learning_rate * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps))
        for name, slope in gradient.items():
            self.first[name] += 0.1 * (slope - self.first[name])
            self.second[name] += 0.001 * (slope * slope - self.second[name])
            weights[name] -= rate * self.first[name] / (np.sqrt(self.second[name]) + 1e-8)
