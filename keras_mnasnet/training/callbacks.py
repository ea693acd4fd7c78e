"""What watches a run step by step: the NaN stop, the progress bar, and the logs."""

from __future__ import annotations

import csv
import importlib.util
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from tqdm import tqdm

from keras_mnasnet.utils.files import replaced

__all__ = ["COLUMNS", "NanStop", "Progress", "read_log", "summary_writer", "write_log"]

COLUMNS = (
    "epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy", "val_top5", "learning_rate", "images_per_second",
    "seconds",
)  # fmt: skip


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


class Progress(keras.callbacks.Callback):
    """A bar per epoch on a terminal: loss, images/s and the time left of the whole run; nothing elsewhere."""

    def __init__(self, *, batch_size: int, total_steps: int, first_step: int, epoch: str, shown: bool) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.left = total_steps - first_step
        self.epoch = epoch
        self.shown = shown and sys.stderr.isatty()

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the bar."""
        self.started = time.perf_counter()
        self.done = 0
        self.bar = tqdm(desc=self.epoch, total=self.params["steps"], disable=not self.shown, leave=False, unit="step")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Move the bar."""
        self.done += 1
        if self.shown:
            seconds = time.perf_counter() - self.started
            left = (self.left - self.done) * seconds / self.done
            self.bar.set_postfix_str(
                f"loss {float((logs or {}).get('loss', math.nan)):.3f}, {self.done * self.batch_size / seconds:.0f} images/s, "
                f"{tqdm.format_interval(left)} left",
                refresh=False,
            )
        self.bar.update()

    def on_train_end(self, logs: Any = None) -> None:
        """Close the bar."""
        self.bar.close()


def read_log(path: Path, expected: tuple[str, ...] = COLUMNS) -> list[dict[str, str]]:
    """The rows of a `log.csv`; none without the file. ValueError for a file that is not one."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns, rows = tuple(reader.fieldnames or ()), list(reader)
    if columns != expected or not all((row["step"] or "").isdecimal() for row in rows):
        raise ValueError(
            f"A run's log has the columns {', '.join(expected)}, and whole steps. Received: {path}, which was changed. "
            f"Restore it, or remove it to go on without the earlier rows."
        )
    return rows


def write_log(path: Path, rows: list[dict[str, Any]], columns: tuple[str, ...] = COLUMNS) -> None:
    """Write `log.csv` anew, atomically; a run that is resumed thus never repeats a row."""
    with replaced(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def summary_writer(folder: Path, columns: tuple[str, ...] = COLUMNS) -> Callable[[dict[str, Any]], None]:
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
