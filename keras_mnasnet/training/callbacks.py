"""What watches a run step by step: the NaN stop, the sign of life, moving averages; and TensorBoard's copy of the log.

Keras's TerminateOnNaN waits for every step's loss and names no step; its TensorBoard writes no row of ours: these are ours.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mnasnet.utils.text import Life

EVERY = 10  # steps between two updates of the averages
SPOKEN_SECONDS = 1.0  # reading a loss waits for its step, so it is read no more often


class NanStop(keras.callbacks.Callback):
    """Stops at a loss that is NaN or infinite and keeps its step (1 is the first); looks one step late, so as not to wait."""

    def __init__(self, first_step: int) -> None:
        super().__init__()
        self.step = first_step
        self.bad_step: int | None = None
        self._previous: Any = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Look at the step before."""
        self._look()
        self.step += 1
        self._previous = (logs or {}).get("loss")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Look at the last step."""
        self._look()

    def _look(self) -> None:
        if self.bad_step is None and self._previous is not None and not math.isfinite(float(self._previous)):
            self.bad_step = self.step
            self.model.stop_training = True


class Pace(keras.callbacks.Callback):
    """Tells `life` of every step, with the loss and images/s; keeps when the first step, which traces, was through."""

    def __init__(self, life: Life, batch_size: int, epoch: str) -> None:
        super().__init__()
        self.life, self.batch_size, self.epoch = life, batch_size, epoch
        self.traced: float | None = None
        self._done, self._spoken = 0, 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the step."""
        now = time.perf_counter()
        if self.traced is None:
            float((logs or {}).get("loss", 0))  # waits for the step
            self.traced = now = time.perf_counter()
            if self.life.done == self.life.first:  # the time left goes by steps, not by the tracing before them
                self.life.started = time.monotonic()
        else:
            self._done += 1
        note = None
        if self.life.shown and now - self._spoken >= SPOKEN_SECONDS:
            self._spoken = now
            note = f"{self.epoch}, loss {float((logs or {}).get('loss', math.nan)):.3f}"
            note += f", {rate_text(self._done * self.batch_size / (now - self.traced))} images/s" if self._done else ""
        self.life.step(note=note)


def rate_text(rate: float) -> str:
    """A rate with two digits: `1,300`, `34`, `0.52`."""
    rounded = float(f"{rate:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


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
        self.values = values if values else _arrays(model)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the step, and average at every tenth."""
        self.step += 1
        if self.step % EVERY == 0:
            self._average(self.values, _arrays(self.model), EVERY)

    def _average(self, values: dict[str, np.ndarray], weights: dict[str, np.ndarray], steps: int) -> None:
        kept = np.float32(decay_at(self.decay, self.step) ** steps)
        for name, value in values.items():
            value += (1 - kept) * (weights[name] - value)

    @contextlib.contextmanager
    def swapped(self, model: Any) -> Iterator[None]:
        """The model with the averages for weights while the block runs; steps past the last tenth are averaged in for it."""
        own, values = _arrays(model), self.values
        if self.step % EVERY:
            values = {name: value.copy() for name, value in values.items()}
            self._average(values, own, self.step % EVERY)
        _assign(model, values)
        try:
            yield
        finally:
            _assign(model, own)


def _arrays(model: Any) -> dict[str, np.ndarray]:
    return {v.path: np.array(keras.ops.convert_to_numpy(v), np.float32) for v in model.weights}


def _assign(model: Any, values: dict[str, np.ndarray]) -> None:
    for variable in model.weights:
        variable.assign(values[variable.path])


def summary_writer(folder: Path, columns: tuple[str, ...]) -> Callable[[dict[str, Any]], None]:
    """A function that writes a row of the log as TensorBoard scalars, into a folder that its first row makes.

    ImportError without the package tensorboard.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError("TensorBoard logs need the package tensorboard: pip install tensorboard")
    import tensorflow as tf

    opened: list[Any] = []

    def write(row: dict[str, Any]) -> None:
        if not opened:
            opened.append(tf.summary.create_file_writer(str(folder)))
        (writer,) = opened
        with writer.as_default(int(row["step"])):
            for key in columns[2:]:
                if key in row:
                    tf.summary.scalar(key, float(row[key]))
        writer.flush()

    return write
