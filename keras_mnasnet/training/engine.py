"""What every training run does, whatever it trains: start, resume, checkpoints, averages, logs, devices."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import keras
import tensorflow as tf
from absl import logging
from filelock import FileLock, Timeout

from keras_mnasnet.training.averages import Averages
from keras_mnasnet.training.callbacks import NanStop, Progress, read_log, summary_writer, write_log
from keras_mnasnet.training.distribution import Cluster, LostProcess, replicas
from keras_mnasnet.training.job import RunKind, read_run, write_run
from keras_mnasnet.training.start import freeze, jit_choice
from keras_mnasnet.training.state import NotFinite, Position, finite_state, read_state, restore_state, write_state

__all__ = ["LABEL_FILE", "LOG_FILE", "MODEL_FILE", "STATE_FILE", "Diverged", "Run", "parts_of", "resume_run", "start_run"]

STATE_FILE, LOG_FILE, MODEL_FILE, LABEL_FILE = "checkpoint.safetensors", "log.csv", "model.safetensors", "labels.txt"
ALONE = Cluster()


class Diverged(ArithmeticError):
    """The loss became NaN or infinite; the run stopped, and its last checkpoint is whole."""


def start_run(
    kind: type[Run], output: str | os.PathLike[str], job: Any, *,
    cluster: Cluster = ALONE, devices: list[str] | None = None, progress: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train into the new or empty folder `output` and return the rows of its log.csv; Raises as `train` does."""
    folder = Path(output).expanduser().absolute()
    job = job.anchored()
    cluster = cluster.join()
    if cluster.index:
        return kind(folder, job, None, cluster, devices, progress).go()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"`output` must be a new or empty folder. Received: {folder}, which is not. To go on with the run in it: "
            f"{kind.KIND.command} --resume {folder}"
        )
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"A run must be written where a folder can be made. Received: {folder} ({error})") from error
    try:
        with _locked(folder):
            return kind(folder, job, None, cluster, devices, progress).go()
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def resume_run(
    kind: type[Run], output: str | os.PathLike[str], *,
    cluster: Cluster = ALONE, devices: list[str] | None = None, progress: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """Go on with the run in a folder from its last checkpoint, as if it had never stopped."""
    folder = Path(output).expanduser().absolute()
    cluster = cluster.join()
    job, facts = read_run(folder, kind.KIND)
    with _locked(folder) if cluster.index == 0 else contextlib.nullcontext():
        return kind(folder, job, facts, cluster, devices, progress).go()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time writes a run; ValueError if another one does."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"A run is trained by one process at a time. Received: {folder}, which another one is training"
        ) from error
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def parts_of(count: int, batch_size: int, checkpoint_steps: int, what: str = "images") -> dict[str, int]:
    """`steps_per_part` and `parts_per_epoch`: an epoch is cut into equal parts of at most `checkpoint_steps` steps."""
    steps = count // batch_size
    if steps < 1:
        raise ValueError(
            f"An epoch needs at least one batch. Received: {count} {what} for training, batch_size={batch_size}. "
            f"Make the batch smaller."
        )
    parts = math.ceil(steps / checkpoint_steps)
    return {"steps_per_part": steps // parts, "parts_per_epoch": parts}


class Run(abc.ABC):
    """One run in its folder. A subclass knows the data, the model, the loss and the measure; `go` does the rest."""

    KIND: ClassVar[RunKind]
    COLUMNS: ClassVar[tuple[str, ...]]
    LOGGED: ClassVar[tuple[str, ...]]  # what fit measures and the log keeps
    SHOWN: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path, job: Any, facts: Any, cluster: Cluster, devices: list[str] | None, progress: bool) -> None:
        self.folder, self.job, self.cluster, self.devices = folder, job, cluster, devices
        self.recipe = job.recipe
        self.main = cluster.index == 0
        self.shown = progress and self.main
        self.known = facts
        self.labels: tuple[str, ...] = ()
        self.board: Any = None
        if job.tensorboard and self.main:
            self.board = summary_writer(folder / "tensorboard", self.COLUMNS)

    @abc.abstractmethod
    def open_data(self) -> None:
        """Open the data and set `labels`."""

    @abc.abstractmethod
    def make_model(self) -> keras.Model:
        """The model at its start; of a run with a checkpoint (`has_state`), the one that the checkpoint belongs to."""

    @abc.abstractmethod
    def make_facts(self, model: keras.Model) -> Any:
        """What a resumed run must find again."""

    @abc.abstractmethod
    def compile(self, model: keras.Model, frozen: bool, jit_compile: bool | str) -> None:
        """Compile the model for the part that trains the classifier alone, or for the rest."""

    @abc.abstractmethod
    def batches(self, first_step: int) -> tf.data.Dataset:
        """The endless training batches from a step on."""

    @abc.abstractmethod
    def measure(self, model: keras.Model) -> dict[str, float]:
        """The `val_*` columns of an epoch; nothing without data to validate on."""

    @abc.abstractmethod
    def score(self, found: dict[str, float]) -> float:
        """What early stopping and the best model go by, larger is better and never below 0."""

    @abc.abstractmethod
    def save(self, model: keras.Model, path: Path) -> None:
        """Write the model file."""

    @property
    def has_state(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.known is not None and (self.folder / STATE_FILE).is_file()

    def go(self) -> list[dict[str, Any]]:
        """Train to the end and return the rows of the log."""
        job, recipe = self.job, self.recipe
        keras.utils.set_random_seed(recipe.seed)
        self.open_data()
        with _policy(job.mixed_precision), replicas(self.cluster, recipe.batch_size, self.devices):
            model = self.make_model()
            self.facts = self.make_facts(model)
            if self.known and self.known != self.facts:
                _refuse_change(self.folder, self.known, self.facts)
            if recipe.frozen_epochs and job.weights is None:
                raise ValueError(
                    f"A recipe that trains the classifier alone at first needs trained weights beneath it. Received: "
                    f"recipe={recipe.name!r} with frozen_epochs={recipe.frozen_epochs} and weights=None. Pass weights= "
                    f"(--from imagenet), or set frozen_epochs=0, or take a recipe that trains from scratch, such as cifar10."
                )
            if self.main:
                write_run(self.folder, job, self.known or self.facts, self.KIND)
                (self.folder / LABEL_FILE).write_text("\n".join(self.labels) + "\n", "utf-8")
            try:
                return self._train(model)
            except tf.errors.InvalidArgumentError as error:
                raise ValueError(
                    f"Every image of a run must be whole. Received: {str(error).splitlines()[0][:200]}. Without --no-check "
                    f"a run looks for damaged images before it starts, and names them."
                ) from error
            except (RuntimeError, ValueError, AssertionError) as error:  # JAX raises any of them for a lost process
                if self.cluster.processes == 1:
                    raise
                raise LostProcess(
                    f"All {self.cluster.processes} processes must stay alive. Received in process {self.cluster.index}: "
                    f"{str(error).splitlines()[0][:200]}. Start every process again with --resume {self.folder}."
                ) from error

    def _train(self, model: keras.Model) -> list[dict[str, Any]]:
        recipe, facts = self.recipe, self.facts
        state = self.folder / STATE_FILE
        total, frozen = recipe.epochs * facts.parts_per_epoch, recipe.frozen_epochs * facts.parts_per_epoch
        values, position, restored = None, Position(), not state.is_file()
        if not restored:
            _, position = read_state(state)
        log = read_log(self.folder / LOG_FILE, self.COLUMNS)
        rows: list[dict[str, Any]] = [row for row in log if int(row["step"]) <= position.step]
        for is_frozen, first, last in ((True, 0, frozen), (False, frozen, total)):
            if position.part >= last:
                continue
            freeze(model, frozen=is_frozen)
            self.compile(model, is_frozen, jit_choice(self.job.jit_compile))
            model.optimizer.build(model.trainable_variables)
            if not restored:
                values, position = restore_state(state, model, with_optimizer=position.part > first)
                restored = True
            averages = Averages(recipe.ema, model, values, position.step) if recipe.ema else None
            for part in range(position.part, last):
                if recipe.patience and part >= (position.best_epoch + recipe.patience) * facts.parts_per_epoch:
                    logging.info("no better epoch since epoch %d: stopping early", position.best_epoch)
                    return rows
                position = self._part(model, part, position, averages, rows)
            values = averages.values if averages else None
        return rows

    def _part(
        self, model: keras.Model, part: int, position: Position, averages: Averages | None, rows: list[dict[str, Any]]
    ) -> Position:
        recipe, facts = self.recipe, self.facts
        steps = facts.steps_per_part
        epoch, of_epoch = divmod(part, facts.parts_per_epoch)
        seconds, logs = self._fit(model, f"epoch {epoch + 1}/{recipe.epochs}", position, averages)
        before = position
        position = dataclasses.replace(position, part=part + 1, step=position.step + steps, seconds=position.seconds + seconds)
        row: dict[str, Any] = {
            "epoch": f"{epoch + (of_epoch + 1) / facts.parts_per_epoch:g}",
            "step": position.step,
            **{key: repr(logs[key]) for key in self.LOGGED},
            "learning_rate": repr(float(model.optimizer.learning_rate)),
            "images_per_second": round(steps * recipe.batch_size / seconds, 1),
            "seconds": round(position.seconds, 1),
        }
        try:
            arrays = finite_state(model, averages.values if averages else {})
        except NotFinite as error:
            self._diverged(f"after step {position.step:,} {error}", before)
        if of_epoch == facts.parts_per_epoch - 1:
            with averages.swapped(model) if averages else contextlib.nullcontext():
                position = self._validate(model, epoch + 1, position, row)
        rows.append(row)
        if self.main:
            write_log(self.folder / LOG_FILE, rows, self.COLUMNS)
            if self.board:
                self.board(row)
            write_state(self.folder / STATE_FILE, arrays, position)
            self._report(row)
        return position

    def _fit(
        self, model: keras.Model, title: str, position: Position, averages: Averages | None
    ) -> tuple[float, dict[str, float]]:
        recipe, facts = self.recipe, self.facts
        batches = self.batches(position.step)
        nan = NanStop(position.step + 1)
        bar = Progress(
            batch_size=recipe.batch_size,
            total_steps=recipe.epochs * facts.steps_per_epoch,
            first_step=position.step,
            epoch=title,
            shown=self.shown,
        )
        callbacks = [nan, bar, *([averages] if averages else [])]
        started = time.perf_counter()
        fitted = model.fit(batches, steps_per_epoch=facts.steps_per_part, shuffle=False, verbose=0, callbacks=callbacks)
        if nan.bad_step is not None:
            self._diverged(f"the loss of step {nan.bad_step:,} is NaN or infinite", position)
        return time.perf_counter() - started, {key: float(values[0]) for key, values in fitted.history.items()}

    def _validate(self, model: keras.Model, epoch: int, position: Position, row: dict[str, Any]) -> Position:
        found = self.measure(model)
        row |= {key: repr(value) for key, value in found.items()}
        better = bool(found) and self.score(found) > position.best_accuracy
        if better:
            position = dataclasses.replace(position, best_epoch=epoch, best_accuracy=self.score(found))
        if self.main and (better or not self.recipe.patience):
            self.save(model, self.folder / MODEL_FILE)
        return position

    def _diverged(self, what: str, last: Position) -> NoReturn:
        kept = f"its last checkpoint is of step {last.step:,}" if last.step else "no checkpoint was made before"
        raise Diverged(
            f"A loss must stay finite. Received: {what}. The run in {self.folder} stopped; {kept}. Train anew with a lower "
            f"learning rate or with clip_norm."
        )

    def _report(self, row: dict[str, Any]) -> None:
        if self.shown:
            numbers = " ".join(f"{key} {float(row[key]):.4f}" for key in self.SHOWN if key in row)
            print(
                f"epoch {row['epoch']}/{self.recipe.epochs}: {numbers}, {row['images_per_second']:.0f} images/s",
                file=sys.stderr,
            )


@contextlib.contextmanager
def _policy(mixed_precision: str | None) -> Iterator[None]:
    before = keras.config.dtype_policy()
    if mixed_precision:
        keras.config.set_dtype_policy(f"mixed_{mixed_precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _refuse_change(folder: Path, known: Any, now: Any) -> None:
    changed = [
        field.name
        for field in dataclasses.fields(known)
        if field.compare and getattr(known, field.name) != getattr(now, field.name)
    ]
    key = changed[0]
    raise ValueError(
        f"A run is resumed with the data and network it was started with. Received: {key}={str(getattr(now, key))[:200]!r}, "
        f"{folder} has {str(getattr(known, key))[:200]!r}. Restore the data, or train into a new folder."
    )
