"""The RNN controller in NumPy: a one-layer LSTM that takes one decision after the other (NASNet, appendix A.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["Adam", "Controller", "Weights"]

Weights = dict[str, np.ndarray]


class Controller:
    """p(choice of decision t | choices before it), for sequences of decisions with `counts[t]` choices each.

    The input of step t is an embedding of the choice at step t - 1; the hidden state gives the logits of step t by a linear
    layer of its own. Every weight starts at U(-0.1, 0.1).
    """

    def __init__(self, counts: Sequence[int], *, units: int, rng: np.random.Generator) -> None:
        self.counts = tuple(counts)
        self.units = units
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)
        total = int(self.offsets[-1])
        shapes = {
            "embedding": (1 + total, units),  # row 0 begins a sequence
            "kernel": (2 * units, 4 * units),  # input and hidden state -> input, forget, output gate and candidate
            "bias": (4 * units,),
            "head": (units, total),
            "head_bias": (total,),
        }
        self.weights: Weights = {name: rng.uniform(-0.1, 0.1, shape) for name, shape in shapes.items()}

    def sample(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(actions `[N, T]`, log-probability of each sequence `[N]`)."""
        uniforms = rng.random((count, len(self.counts)))
        actions, logs, _ = self._forward(None, uniforms)
        return actions, np.array([_taken(log, actions[:, t]) for t, log in enumerate(logs)]).sum(0)

    def evaluate(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(log-probability `[N]`, entropy summed over decisions `[N]`) of sequences `[N, T]`."""
        _, logs, _ = self._forward(actions, None)
        chosen = np.array([_taken(log, actions[:, t]) for t, log in enumerate(logs)]).sum(0)
        entropies = np.array([-(np.exp(log) * log).sum(1) for log in logs]).sum(0)
        return chosen, entropies

    def gradient(self, actions: np.ndarray, by_log_probability: np.ndarray, by_entropy: np.ndarray) -> Weights:
        """d loss / d weights, given d loss / d log-probability `[N]` and d loss / d entropy `[N]` of sequences `[N, T]`."""
        _, logs, tape = self._forward(actions, None)
        weights, units = self.weights, self.units
        found = {name: np.zeros_like(value) for name, value in weights.items()}
        dh = np.zeros((len(actions), units))
        dc = np.zeros_like(dh)
        for t in reversed(range(len(self.counts))):
            inputs, joined, gates, c_before, c, h = tape[t]
            p = np.exp(logs[t])
            entropy = -(p * logs[t]).sum(1, keepdims=True)
            dlogits = -p * by_log_probability[:, None] - p * (logs[t] + entropy) * by_entropy[:, None]
            dlogits[np.arange(len(actions)), actions[:, t]] += by_log_probability
            columns = slice(self.offsets[t], self.offsets[t + 1])
            found["head"][:, columns] += h.T @ dlogits
            found["head_bias"][columns] += dlogits.sum(0)
            dh = dh + dlogits @ weights["head"][:, columns].T
            i, f, o, g = np.split(gates, 4, axis=1)
            tanh_c = np.tanh(c)
            dc = dc + dh * o * (1 - tanh_c**2)
            dgates = np.concatenate(
                [dc * g * i * (1 - i), dc * c_before * f * (1 - f), dh * tanh_c * o * (1 - o), dc * i * (1 - g**2)], axis=1
            )
            found["kernel"] += joined.T @ dgates
            found["bias"] += dgates.sum(0)
            djoined = dgates @ weights["kernel"].T
            np.add.at(found["embedding"], inputs, djoined[:, :units])
            dh, dc = djoined[:, units:], dc * f
        return found

    def _forward(self, actions: np.ndarray | None, uniforms: np.ndarray | None) -> tuple[np.ndarray, list, list]:
        """(actions, log-probabilities of all choices `[N, counts[t]]` per step, what the gradient needs per step).

        Without `actions` they are drawn: the choice at which the cumulated probability passes the uniform number.
        """
        given = actions if actions is not None else uniforms
        assert given is not None
        count = len(given)
        chosen = np.zeros((count, len(self.counts)), np.int64) if actions is None else actions
        h, c = np.zeros((count, self.units)), np.zeros((count, self.units))
        inputs = np.zeros(count, np.int64)
        logs, tape = [], []
        for t in range(len(self.counts)):
            columns = slice(self.offsets[t], self.offsets[t + 1])
            joined = np.concatenate([self.weights["embedding"][inputs], h], axis=1)
            gates = joined @ self.weights["kernel"] + self.weights["bias"]
            gates[:, : 3 * self.units] = 1 / (1 + np.exp(-gates[:, : 3 * self.units]))
            gates[:, 3 * self.units :] = np.tanh(gates[:, 3 * self.units :])
            i, f, o, g = np.split(gates, 4, axis=1)
            c_before, c = c, f * c + i * g
            h = o * np.tanh(c)
            logits = h @ self.weights["head"][:, columns] + self.weights["head_bias"][columns]
            logits = logits - logits.max(1, keepdims=True)
            log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            if uniforms is not None:
                passed = (np.cumsum(np.exp(log), axis=1) < uniforms[:, t : t + 1]).sum(1)
                chosen[:, t] = np.minimum(passed, self.counts[t] - 1)
            logs.append(log)
            tape.append((inputs, joined, gates, c_before, c, h))
            inputs = 1 + self.offsets[t] + chosen[:, t]
        return chosen, logs, tape


def _taken(log: np.ndarray, actions: np.ndarray) -> np.ndarray:
    return log[np.arange(len(actions)), actions]


class Adam:
    """Adam (Kingma and Ba, 2015) with its usual constants; `weights` change in place."""

    def __init__(self, weights: Weights, *, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.steps = 0
        self.first = {name: np.zeros_like(value) for name, value in weights.items()}
        self.second = {name: np.zeros_like(value) for name, value in weights.items()}

    def step(self, weights: Weights, gradient: Weights) -> None:
        self.steps += 1
        rate = self.learning_rate * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for name, slope in gradient.items():
            self.first[name] += 0.1 * (slope - self.first[name])
            self.second[name] += 0.001 * (slope**2 - self.second[name])
            weights[name] -= rate * self.first[name] / (np.sqrt(self.second[name]) + 1e-8)
