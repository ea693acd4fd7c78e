"""The RNN controller in NumPy: a one-layer LSTM that takes one decision after the other (NASNet, appendix A.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Adam", "Controller", "Pass", "Weights"]

Weights = dict[str, np.ndarray]


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
