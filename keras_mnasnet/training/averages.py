"""Exponential moving averages of every weight, batch-norm statistics included, as Google evaluates its checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

__all__ = ["Averages", "decay_at"]

EVERY = 10


def decay_at(decay: float, step: int) -> float:
    """min(decay, (1 + step) / (10 + step)), tf.train.ExponentialMovingAverage with `num_updates`."""
    return min(decay, (1 + step) / (10 + step))


class Averages(keras.callbacks.Callback):
    """average = d * average + (1 - d) * weight, every `EVERY` steps with d = decay_at(decay, step) ** EVERY.

    tensorflow/tpu mnasnet_main.py averages trainable weights and moving statistics, every step.
    """

    def __init__(self, decay: float, model: Any, values: dict[str, np.ndarray] | None = None, step: int = 0) -> None:
        super().__init__()
        self.decay = decay
        self.step = step
        self.values = values if values else {name: _array(variable) for name, variable in _averaged(model)}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the step, and average at every tenth."""
        self.step += 1
        if self.step % EVERY == 0:
            self._average(self.values, {name: _array(variable) for name, variable in _averaged(self.model)}, EVERY)

    def _average(self, values: dict[str, np.ndarray], weights: dict[str, np.ndarray], steps: int) -> None:
        kept = np.float32(decay_at(self.decay, self.step) ** steps)
        for name, value in values.items():
            value *= kept
            value += (1 - kept) * weights[name]

    @contextlib.contextmanager
    def swapped(self, model: Any) -> Iterator[None]:
        """The model with the averages for weights while the block runs; steps past the last tenth are averaged in for it."""
        own = {name: _array(variable) for name, variable in _averaged(model)}
        values = self.values
        if self.step % EVERY:
            values = {name: value.copy() for name, value in values.items()}
            self._average(values, own, self.step % EVERY)
        _assign(model, values)
        try:
            yield
        finally:
            _assign(model, own)


def _averaged(model: Any) -> list[tuple[str, Any]]:
    return [(v.path, v) for v in model.weights]


def _array(variable: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable), np.float32)


def _assign(model: Any, values: dict[str, np.ndarray]) -> None:
    for name, variable in _averaged(model):
        variable.assign(values[name])
