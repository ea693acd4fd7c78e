"""Training runs: start, resume, and everything a run's folder holds."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import keras
import tensorflow as tf
from absl import logging
from filelock import FileLock, Timeout

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.data import training_batches
from keras_mnasnet.environment import environment
from keras_mnasnet.pretrained import checkpoint_of
from keras_mnasnet.spec import describe
from keras_mnasnet.training.averages import Averages
from keras_mnasnet.training.callbacks import NanStop, Progress, read_log, summary_writer, write_log
from keras_mnasnet.training.datasets import evaluate, evaluation_preprocessing, open_pair
from keras_mnasnet.training.distribution import Cluster, LostProcess, replicas
from keras_mnasnet.training.job import Facts, Job, read_run, write_run
from keras_mnasnet.training.start import compile_model, freeze, starting_model, training_model
from keras_mnasnet.training.state import NotFinite, Position, finite_state, read_state, restore_state, write_state
from keras_mnasnet.weights.store import write_native

__all__ = ["Diverged", "resume", "train"]

STATE_FILE, LOG_FILE, MODEL_FILE, LABEL_FILE = "checkpoint.safetensors", "log.csv", "model.safetensors", "labels.txt"
ALONE = Cluster()


class Diverged(ArithmeticError):
    """The loss became NaN or infinite; the run stopped, and its last checkpoint is whole."""


def train(
    output: str | os.PathLike[str],
    job: Job,
    *,
    cluster: Cluster = ALONE,
    devices: list[str] | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train, and leave in the folder `output`: run.json, log.csv, checkpoint.safetensors, model.safetensors, labels.txt.

    `model.safetensors` holds the moving averages where the recipe has them, and of the best epoch where it stops early.
    Returns the rows of log.csv. Raises ValueError for bad input, OSError for a folder that cannot be written, Diverged.
    """
    folder = Path(output).expanduser().absolute()
    job = job.anchored()
    cluster = cluster.join()
    if cluster.index:
        return _Run(folder, job, None, cluster, devices, progress).go()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"`output` must be a new or empty folder. Received: {folder}, which is not. To go on with the run in it: "
            f"mnasnet train --resume {folder}"
        )
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder):
            return _Run(folder, job, None, cluster, devices, progress).go()
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def resume(
    output: str | os.PathLike[str],
    *,
    cluster: Cluster = ALONE,
    devices: list[str] | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Go on with the run in a folder from its last checkpoint, as if it had never stopped; Raises as `train` does."""
    folder = Path(output).expanduser().absolute()
    cluster = cluster.join()
    job, facts = read_run(folder)
    with _locked(folder) if cluster.index == 0 else contextlib.nullcontext():
        return _Run(folder, job, facts, cluster, devices, progress).go()


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


class _Run:
    def __init__(
        self, folder: Path, job: Job, facts: Facts | None, cluster: Cluster, devices: list[str] | None, progress: bool
    ) -> None:
        self.folder, self.job, self.cluster, self.devices = folder, job, cluster, devices
        self.recipe = job.recipe
        self.main = cluster.index == 0
        self.shown = progress and self.main
        self.known = facts
        self.board: Any = summary_writer(folder / "tensorboard") if job.tensorboard and self.main else None

    def go(self) -> list[dict[str, Any]]:
        job, recipe = self.job, self.recipe
        keras.utils.set_random_seed(recipe.seed)
        self.images, self.validation, excluded = open_pair(
            job, self.known.excluded if self.known else None, self.shown and sys.stderr.isatty()
        )
        with _policy(job.mixed_precision), replicas(self.cluster, recipe.batch_size, self.devices):
            model = self._model()
            self.facts = self._facts(model, excluded)
            if self.known and self.known != self.facts:
                _refuse_change(self.folder, self.known, self.facts)
            if recipe.frozen_epochs and job.weights is None:
                raise ValueError(
                    f"A recipe that trains the classifier alone at first needs trained weights beneath it. Received: "
                    f"recipe={recipe.name!r} with frozen_epochs={recipe.frozen_epochs} and weights=None. Pass weights= "
                    f"(--weights imagenet), or set frozen_epochs=0, or take a recipe that trains from scratch, such as cifar10."
                )
            if self.main:
                write_run(self.folder, job, self.known or self.facts)
                (self.folder / LABEL_FILE).write_text("\n".join(self.images.labels) + "\n", "utf-8")
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

    def _model(self) -> keras.Model:
        """The network at its start; of a run with a checkpoint, the network that the checkpoint belongs to."""
        job, recipe = self.job, self.recipe
        if self.known and (self.folder / STATE_FILE).is_file():
            facts = self.known
            return training_model(
                Architecture.parse(facts.architecture), len(facts.labels), size=facts.size, bn_epsilon=facts.bn_epsilon,
                padding=facts.padding, dropout=recipe.dropout, bn_momentum=recipe.bn_momentum,
            )  # fmt: skip
        return starting_model(
            job.model,
            len(self.images.labels),
            weights=job.weights,
            head=job.head,
            size=recipe.size,
            width_multiplier=job.width,
            depth_multiplier=job.depth,
            se=job.se,
            stem_stride=job.stem_stride,
            dropout=recipe.dropout,
            bn_momentum=recipe.bn_momentum,
        )

    def _facts(self, model: keras.Model, excluded: tuple[str, ...]) -> Facts:
        spec = describe(model)
        steps = self.images.count // self.recipe.batch_size
        if steps < 1:
            raise ValueError(
                f"An epoch needs at least one batch. Received: {self.images.count} images for training, "
                f"batch_size={self.recipe.batch_size}. Make the batch smaller."
            )
        if self.recipe.augment.crop == "pad" and self.recipe.augment.pad >= (spec.input_shape[0] or 224):
            raise ValueError(
                f"`augment.pad` must be below the input size. Received: augment.pad={self.recipe.augment.pad}, "
                f"size={spec.input_shape[0]}"
            )
        parts = math.ceil(steps / self.job.checkpoint_steps)
        return Facts(
            architecture=str(spec.architecture),
            size=spec.input_shape[0] or 224,
            bn_epsilon=spec.bn_epsilon,
            padding=spec.padding,
            labels=self.images.labels,
            train_images=self.images.count,
            validation_images=self.validation.count,
            steps_per_part=steps // parts,
            parts_per_epoch=parts,
            excluded=excluded,
            environment={**environment(), "devices": [str(device) for device in keras.distribution.list_devices()]},
        )

    def _train(self, model: keras.Model) -> list[dict[str, Any]]:
        recipe, facts = self.recipe, self.facts
        state = self.folder / STATE_FILE
        total, frozen = recipe.epochs * facts.parts_per_epoch, recipe.frozen_epochs * facts.parts_per_epoch
        values, position, restored = None, Position(), not state.is_file()
        if not restored:
            _, position = read_state(state)
        rows: list[dict[str, Any]] = [r for r in read_log(self.folder / LOG_FILE) if int(r["step"]) <= position.step]
        for is_frozen, first, last in ((True, 0, frozen), (False, frozen, total)):
            if position.part >= last:
                continue
            freeze(model, frozen=is_frozen)
            self._compile(model, is_frozen)
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

    def _compile(self, model: keras.Model, frozen: bool) -> None:
        compile_model(
            model, self.recipe, self.facts.steps_per_epoch, len(self.images.labels), frozen=frozen,
            jit_compile=self.job.jit_compile,
        )  # fmt: skip

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
            "loss": repr(logs["loss"]),
            "accuracy": repr(logs["accuracy"]),
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
            write_log(self.folder / LOG_FILE, rows)
            if self.board:
                self.board(row)
            write_state(self.folder / STATE_FILE, arrays, position)
            self._report(row)
        return position

    def _fit(
        self, model: keras.Model, title: str, position: Position, averages: Averages | None
    ) -> tuple[float, dict[str, float]]:
        recipe, facts = self.recipe, self.facts
        batches = training_batches(
            self.images,
            size=facts.size,
            batch_size=recipe.batch_size,
            augment=recipe.augment,
            seed=recipe.seed,
            first_step=position.step,
            shard=self.cluster.shard,
        )
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
        found = evaluate(
            model, self.validation, self.facts.size, self.recipe.augment,
            batch_size=self.recipe.batch_size, shard=self.cluster.shard,
        )  # fmt: skip
        row |= {key: repr(value) for key, value in found.items()}
        better = found["val_accuracy"] > position.best_accuracy
        if better:
            position = dataclasses.replace(position, best_epoch=epoch, best_accuracy=found["val_accuracy"])
        if self.main and (better or not self.recipe.patience):
            preprocessing = evaluation_preprocessing(self.facts.size, self.recipe.augment)
            checkpoint = checkpoint_of(model, checked=False)
            checkpoint = dataclasses.replace(checkpoint, labels=self.images.labels, preprocessing=preprocessing)
            write_native(checkpoint, self.folder / MODEL_FILE)
        return position

    def _diverged(self, what: str, last: Position) -> NoReturn:
        kept = f"its last checkpoint is of step {last.step:,}" if last.step else "no checkpoint was made before"
        raise Diverged(
            f"A loss must stay finite. Received: {what}. The run in {self.folder} stopped; {kept}. Train anew with a lower "
            f"learning rate or with clip_norm."
        )

    def _report(self, row: dict[str, Any]) -> None:
        if self.shown:
            shown = {key: row[key] for key in ("loss", "accuracy", "val_accuracy", "val_top5") if key in row}
            numbers = " ".join(f"{key} {float(value):.4f}" for key, value in shown.items())
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


def _refuse_change(folder: Path, known: Facts, now: Facts) -> None:
    changed = [
        field.name
        for field in dataclasses.fields(Facts)
        if field.compare and getattr(known, field.name) != getattr(now, field.name)
    ]
    key = changed[0]
    raise ValueError(
        f"A run is resumed with the data and network it was started with. Received: {key}={str(getattr(now, key))[:200]!r}, "
        f"{folder} has {str(getattr(known, key))[:200]!r}. Restore the data, or train into a new folder."
    )
