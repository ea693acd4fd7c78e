"""What every training does, with a folder or without: start, resume, checkpoints, averages, logs, devices."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import keras
import numpy as np
import tensorflow as tf

from keras_mnasnet.data import ImageSet
from keras_mnasnet.training.callbacks import Averages, NanStop, Pace, rate_text, summary_writer
from keras_mnasnet.training.distribution import ALONE, Cluster, LostProcess, accelerators, replicas
from keras_mnasnet.training.job import (
    COLUMNS,
    LABEL_FILE,
    LOG_FILE,
    MODEL_FILE,
    STATE_FILE,
    RunKind,
    read_log,
    read_run,
    write_log,
    write_run,
)  # fmt: skip
from keras_mnasnet.utils.files import is_empty, sweep, write_file
from keras_mnasnet.utils.locks import locked
from keras_mnasnet.utils.reading import parse_json, record, texts
from keras_mnasnet.utils.text import Life, header, listed, say
from keras_mnasnet.weights.formats.safetensors import save_tensors

SCHEMA = 2
LARGE = 4  # photos with sides so many times the input's are mostly decoded, not trained on
METADATA = "keras_mnasnet_training"
COUNTED = re.compile(r"(:[a-z]+(?:_[a-z]+)*)_\d+/")  # Keras numbers seed generators and optimizers by how many it has made


class Diverged(ArithmeticError):
    """The loss became NaN or infinite; the run stopped, and its last checkpoint is whole."""


class NotFinite(ArithmeticError):
    """Values that are NaN or infinite where training must not go on with them."""


def start_run(
    kind: type[Run], output: str | os.PathLike[str], job: Any, *,
    cluster: Cluster = ALONE, devices: Sequence[str] | None = None, progress: bool = True, start: Any = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train into the new or empty folder `output` and return the rows of its log.csv; Raises as `train` does.

    `start` is a model given as a value, which `job` only names: its weights are kept in the first checkpoint.
    """
    folder = Path(output).expanduser().absolute()
    job = job.anchored()
    cluster = cluster.join()
    if cluster.index:
        return kind(folder, job, None, cluster, devices, progress, start).go()
    if folder.exists() and (not folder.is_dir() or not is_empty(folder)):
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
        with locked(folder):
            sweep(folder)
            return kind(folder, job, None, cluster, devices, progress, start).go()
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def resume_run(
    kind: type[Run], output: str | os.PathLike[str], *,
    cluster: Cluster = ALONE, devices: Sequence[str] | None = None, progress: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """Go on with the run in a folder from its last checkpoint, as if it had never stopped."""
    folder = Path(output).expanduser().absolute()
    cluster = cluster.join()
    job, facts = read_run(folder, kind.KIND)
    with locked(folder) if cluster.index == 0 else contextlib.nullcontext():
        if cluster.index == 0:
            sweep(folder)
        return kind(folder, job, facts, cluster, devices, progress).go()


def sound(images: Any, job: Any, excluded: tuple[str, ...] | None, shown: bool) -> Any:
    """The images (or photos with boxes) of a run without the damaged ones; ValueError for more of them than `max_bad`.

    `excluded` are those that an earlier start of the run found; None looks for them.
    """
    if excluded is None:
        return images.checked(job.max_bad, progress=shown) if job.check else images
    lost = set(excluded)
    bad = tuple(where for where in map(images.where, range(images.count)) if where in lost) if lost else ()
    return images.subset([i for i in range(images.count) if images.where(i) not in lost], bad=bad) if bad else images


def parts_of(count: int, batch_size: int, checkpoint_steps: int, what: str = "images") -> dict[str, Any]:
    """`steps_per_part` and `parts_per_epoch`: an epoch is cut into equal parts of at most `checkpoint_steps` steps."""
    steps = count // batch_size
    if steps < 1:
        raise ValueError(
            f"An epoch needs at least one batch. Received: {count} {what} for training, batch_size={batch_size}. "
            f"Make the batch smaller."
        )
    parts = math.ceil(steps / checkpoint_steps)
    return {"steps_per_part": steps // parts, "parts_per_epoch": parts}


def photos_sha256(sets: Iterable[ImageSet], *values: np.ndarray) -> str:
    """Which photos a run has, in order: a hash of their names below the folder that holds all of a set, of the bytes that each
    has inside a larger file, and of further `values`."""
    digest = hashlib.sha256()
    for images in sets:
        names = [images.where(index) for index in range(images.count)]
        above = os.path.commonprefix(names).rpartition(os.sep)[0]  # noqa: RUF071 (names may be of any kind)
        digest.update(b"\0".join([str(images.count).encode(), *(os.fsencode(name[len(above) :]) for name in names)]))
        sizes = getattr(images.source, "sizes", None)
        values += () if sizes is None else (sizes if images.picked is None else sizes[images.picked],)
    for each in values:
        digest.update(each.tobytes())
    return digest.hexdigest()


def large_photos(sizes: np.ndarray | None, size: int) -> tuple[str, ...]:
    """The warning where photos, of `sizes` `[N, 2]` as the check has seen them, are much larger than the input."""
    side = 0 if sizes is None or not len(sizes) else int(np.median(sizes.min(axis=1)))
    if side <= LARGE * size:
        return ()
    return (
        f"half of the photos have sides of {side:,} pixels or more, {side / size:.0f} times the input's {size}: most of the "
        f"time goes into decoding them. Train on copies of about {2 * size} pixels, or with a larger --size.",
    )


def jit_choice(asked: bool | str | None) -> bool | str:
    """What to give Keras for `jit_compile`; None: XLA on accelerators and JAX only, where it does not slow training down."""
    if asked is not None:
        return asked
    return "auto" if keras.backend.backend() == "jax" or accelerators() else False


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands: parts done (an epoch has `parts_per_epoch` of equal length), and what early stopping knows.

    A state is written before the validation of its epoch: `best_*` are those of the epochs before, and `row` is what the log
    says of the last part, without the columns of the validation.
    """

    part: int = 0
    step: int = 0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    seconds: float = 0.0
    row: dict[str, Any] | None = None


class Run(abc.ABC):
    """One training, in its `folder` or (None) without a trace. A subclass knows data, model, loss and measure; `go` does the
    rest, and keeps the `model` and the `seconds` of its phases."""

    KIND: ClassVar[RunKind]
    COLUMNS: ClassVar[tuple[str, ...]] = COLUMNS
    LOGGED: ClassVar[tuple[str, ...]]
    SHOWN: ClassVar[tuple[str, ...]]
    HEAD: ClassVar[re.Pattern[str]]  # names of the layers that `frozen_epochs` train; all others are the backbone

    def __init__(
        self, folder: Path | None, job: Any, facts: Any, cluster: Cluster = ALONE, devices: Sequence[str] | None = None,
        progress: bool = False, start: Any = None,
    ) -> None:  # fmt: skip
        self.folder, self.job, self.cluster, self.start = folder, job, cluster, start
        self.devices = None if devices is None else list(texts(devices))
        self.recipe = job.recipe
        self.main = cluster.index == 0
        self.shown = progress and self.main
        self.known = facts
        self.labels: tuple[str, ...] = ()
        self.found: dict[str, float] = {}  # by the last validation
        self.seconds = {"build": 0.0, "trace": 0.0, "training_steps": 0.0, "validate": 0.0}
        self.state: tuple[dict[str, np.ndarray], Position] | None = None  # of a run without a folder that begins in the middle
        self.board: Any = None
        if job.tensorboard and self.main and folder:
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
        """Compile the model for the part that trains the head alone, or for the rest."""

    @abc.abstractmethod
    def batches(self, first_step: int) -> tf.data.Dataset:
        """The endless training batches from a step on."""

    @abc.abstractmethod
    def measure(self, model: keras.Model) -> dict[str, float]:
        """The `val_*` columns of an epoch; nothing without data to validate on."""

    @abc.abstractmethod
    def score(self, found: dict[str, float]) -> float:
        """What early stopping and the best model go by, larger is better and never below 0."""

    @property
    def chooses(self) -> bool:
        """Whether there is a validation by which an epoch may be chosen."""
        return True

    @property
    def keeps_best(self) -> bool:
        """Whether the model file is of the best epoch, not of the last."""
        return bool(self.recipe.patience) or (self.recipe.keep == "best" and self.chooses)

    @abc.abstractmethod
    def save(self, model: keras.Model, path: Path) -> None:
        """Write the model file."""

    def about(self, model: keras.Model) -> dict[str, object]:
        """The rows of the header that stand before those of every run: model, data."""
        return {}

    def warnings(self, model: keras.Model) -> tuple[str, ...]:
        """What is to be said before the start."""
        return ()

    def measured(self, row: dict[str, Any]) -> tuple[str, ...]:
        """What else is kept of an epoch's validation, and the lines that say it."""
        return ()

    def reached(self, arrays: dict[str, np.ndarray]) -> None:  # noqa: B027
        """Take note of the state after a part."""

    def ended(self, rows: list[dict[str, Any]]) -> tuple[str, ...]:
        """The lines that say, at the end, what was made and what to do with it."""
        return ()

    @property
    def parts(self) -> tuple[int, int]:
        """How many parts train the head alone, and how many there are in all."""
        return tuple(epochs * self.facts.parts_per_epoch for epochs in (self.recipe.frozen_epochs, self.recipe.epochs))

    @property
    def has_state(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.known is not None and self.folder is not None and (self.folder / STATE_FILE).is_file()

    def go(self) -> list[dict[str, Any]]:
        """Train to the end and return the rows of the log."""
        self._since = time.perf_counter()
        keras.utils.set_random_seed(self.recipe.seed)
        if self.recipe.freezes and self.job.from_model is None:
            raise ValueError(
                f"A recipe that freezes weights needs trained ones to start from. Received: recipe={self.recipe.name!r} with "
                f"frozen_epochs={self.recipe.frozen_epochs}, frozen_bn={self.recipe.frozen_bn} and from_model=None. Pass "
                f"from_model= (--from imagenet), or set frozen_epochs=0 and frozen_bn=false (--set), or take a recipe that "
                f"trains from scratch (`mnasnet recipes`)."
            )
        self.open_data()
        with _policy(self.job.mixed_precision), replicas(self.cluster, self.recipe.batch_size, self.devices):
            self.model = model = self.make_model()
            self.facts = self.make_facts(model)
            if self.known:
                _check_unchanged(self.folder, self.known, self.facts)
            self._show_header(model)
            if self.main and self.folder:
                write_run(self.folder, self.job, self.known or self.facts, self.KIND)
                write_file(self.folder / LABEL_FILE, "\n".join(self.labels) + "\n")
            try:
                rows = self._train(model)
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
        if self.shown:
            for line in self.ended(rows):
                say(line)
        return rows

    def _freeze(self, model: keras.Model, frozen: bool) -> None:
        """Train the head alone, or every layer that the recipe lets train."""
        for layer in model.layers:
            still = frozen or (self.recipe.frozen_bn and isinstance(layer, keras.layers.BatchNormalization))
            layer.trainable = not still or bool(self.HEAD.fullmatch(layer.name))

    def _show_header(self, model: keras.Model) -> None:
        recipe, facts = self.recipe, self.facts
        if self.shown:
            devices = self.devices or accelerators() or ["the processor"]
            many = f", {self.cluster.processes} processes" if self.cluster.processes > 1 else ""
            header({
                **self.about(model),
                "recipe": f"{recipe} ({recipe.epochs} epochs of {facts.steps_per_epoch:,} steps of {recipe.batch_size} images)",
                "device": f"{listed(devices)}{many} ({keras.backend.backend()})",
                "output": f"{self.folder}{', resumed' if self.known else ''}",
            })  # fmt: skip
            for line in self.warnings(model):
                say(f"warning: {line}")

    def _lap(self, phase: str, until: float | None = None) -> None:
        now = until or time.perf_counter()
        self.seconds[phase] += now - self._since
        self._since = now

    def _train(self, model: keras.Model) -> list[dict[str, Any]]:
        recipe, facts = self.recipe, self.facts
        frozen, total = self.parts
        values, position, restored, is_open = None, self.state[1] if self.state else Position(), not self.has_state, False
        rows: list[dict[str, Any]] = []
        if self.folder and not restored:
            _, position = read_state(self.folder / STATE_FILE)
            log = read_log(self.folder / LOG_FILE, self.COLUMNS)
            rows = [row for row in log if int(row["step"]) <= position.step]
            position, is_open = self._settle(self.folder, position, rows)
        steps = total * facts.steps_per_part
        with Life("train", total=steps, unit="step", shown=self.shown, done=position.step) as self.life:
            for is_frozen, first, last in ((True, 0, frozen), (False, frozen, total)):
                if position.part >= last + (is_open and not restored):
                    continue
                self._freeze(model, is_frozen)
                self.compile(model, is_frozen, jit_choice(self.job.jit_compile))
                model.optimizer.build(model.trainable_variables)
                if self.state:
                    values = put_state(self.state[0], model, "A state in memory")
                if self.folder and not restored:
                    state = self.folder / STATE_FILE
                    values = restore_state(state, model, with_optimizer=position.part > first)[0]
                    restored = True
                elif self.folder and self.main and self.start is not None and not position.step:
                    write_state(self.folder / STATE_FILE, finite_state(model, {}), position)
                averages = Averages(recipe.ema, model, values, position.step) if recipe.ema else None
                if is_open:
                    position, is_open = self._close(model, position, averages, rows), False
                for part in range(position.part, last):
                    if recipe.patience and part >= (position.best_epoch + recipe.patience) * facts.parts_per_epoch:
                        if self.shown:
                            say(f"no better epoch since epoch {position.best_epoch}: stopping early")
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
        seconds, rate, logs = self._fit(model, f"epoch {epoch + 1}/{recipe.epochs}", position, averages)
        before, step, trained = position, position.step + steps, position.seconds + seconds
        row: dict[str, Any] = {
            "epoch": f"{epoch + (of_epoch + 1) / facts.parts_per_epoch:g}",
            "step": step,
            **{key: repr(logs[key]) for key in self.LOGGED},
            "learning_rate": repr(float(model.optimizer.learning_rate)),
            "images_per_second": round(rate or steps * recipe.batch_size / seconds, 1),
            "seconds": round(trained, 1),
        }
        position = dataclasses.replace(position, part=part + 1, step=step, seconds=trained, row=row)
        try:
            arrays = finite_state(model, averages.values if averages else {})
        except NotFinite as error:
            self._diverged(f"after step {step:,} {error}", before)
        if self.main and self.folder:
            write_state(self.folder / STATE_FILE, arrays, position)
        self.reached(arrays)
        return self._close(model, position, averages, rows)

    def _settle(self, folder: Path, position: Position, rows: list[dict[str, Any]]) -> tuple[Position, bool]:
        """The position with what the log says of the validation after its state, and whether that is still to be done.

        It is done again where the model that it wrote is lost; ValueError where it was another epoch that wrote it.
        """
        if position.row is None:
            return position, False
        if not rows or int(rows[-1]["step"]) != position.step:
            return position, True
        settled, lost = self._best(position, rows[-1]), not (folder / MODEL_FILE).is_file()
        of_this = settled != position if self.keeps_best else position.part % self.facts.parts_per_epoch == 0
        if lost and of_this:
            rows.pop()
            return position, True
        if lost and settled.best_epoch and self.keeps_best:
            raise ValueError(
                f"A run that keeps its best epoch needs the model of it. Received: {folder} without {MODEL_FILE}, of epoch "
                f"{settled.best_epoch}, and a checkpoint of a later one. Restore the file, or train into a new folder."
            )
        return settled, False

    def _close(self, model: keras.Model, position: Position, averages: Averages | None, rows: list[dict[str, Any]]) -> Position:
        """The end of a part, whose state is written: validation, where an epoch ends with it, and the log."""
        recipe, row = self.recipe, dict(position.row or {})
        lines: tuple[str, ...] = ()
        epoch, of_epoch = divmod(position.part, self.facts.parts_per_epoch)
        if not of_epoch:
            self.life.step(0, f"validating epoch {epoch}")
            with averages.swapped(model) if averages else contextlib.nullcontext():
                position = self._validate(model, position, row)
            lines = self.measured(row)
        self._lap("validate")
        rows.append(row)
        if self.main and self.folder:
            write_log(self.folder / LOG_FILE, rows, self.COLUMNS)
            if self.board:
                self.board(row)
        if self.shown:
            found = " ".join(f"{key} {float(row[key]):.4f}" for key in self.SHOWN if key in row)
            say(f"epoch {row['epoch']}/{recipe.epochs}: {found}, {rate_text(row['images_per_second'])} images/s")
            for line in lines:
                say(line)
        return position

    def _fit(
        self, model: keras.Model, title: str, position: Position, averages: Averages | None
    ) -> tuple[float, float, dict[str, float]]:
        self._lap("build")
        batches = self.batches(position.step)
        nan, pace = NanStop(position.step + 1), Pace(self.life, self.recipe.batch_size, title)
        callbacks = [nan, pace, *([averages] if averages else [])]
        if not self.seconds["trace"]:
            self.life.step(0, f"{title}, tracing the graph")
        started = time.perf_counter()
        steps = self.facts.steps_per_part
        fitted = model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=callbacks)
        self._lap("trace", pace.traced)
        self._lap("training_steps")
        if nan.bad_step is not None:
            self._diverged(f"the loss of step {nan.bad_step:,} is NaN or infinite", position)
        ended, traced = self._since, pace.traced
        rate = (steps - 1) * self.recipe.batch_size / (ended - traced) if traced and steps > 1 else 0.0  # without the tracing
        return ended - started, rate, {key: float(values[0]) for key, values in fitted.history.items()}

    def _validate(self, model: keras.Model, position: Position, row: dict[str, Any]) -> Position:
        self.found = self.measure(model)
        row |= {key: repr(value) for key, value in self.found.items()}
        after = self._best(position, row)
        if self.main and self.folder and (after != position or not self.keeps_best):
            self.save(model, self.folder / MODEL_FILE)
        return after

    def _best(self, position: Position, row: dict[str, Any]) -> Position:
        """The position after the validation that a row of the log tells of."""
        found = {key: float(value) for key, value in row.items() if key.startswith("val_") and value != ""}
        if not found or self.score(found) <= position.best_accuracy:
            return position
        epoch = position.part // self.facts.parts_per_epoch
        return dataclasses.replace(position, best_epoch=epoch, best_accuracy=self.score(found))

    def _diverged(self, what: str, last: Position) -> NoReturn:
        kept = f"its last checkpoint is of step {last.step:,}" if last.step else "no checkpoint was made before"
        stopped = f" The run in {self.folder} stopped; {kept}." if self.folder else ""
        raise Diverged(
            f"A loss must stay finite. Received: {what}.{stopped} Train anew with a lower learning rate or with clip_norm."
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


def _check_unchanged(folder: Path | None, known: Any, now: Any) -> None:
    """ValueError where a resumed run does not find what it was started with."""
    changed = [
        field.name
        for field in dataclasses.fields(known)
        if field.compare and field.name != "photos_sha256" and getattr(known, field.name) != getattr(now, field.name)
    ]
    if changed:
        key = changed[0]
        what = f"{key}={str(getattr(now, key))[:200]!r}, {folder} has {str(getattr(known, key))[:200]!r}"
    elif known.photos_sha256 in ("", now.photos_sha256):  # empty of a run that is older than this fact
        return
    else:
        what = f"as many photos as in {folder}, but other ones, or in another order, or with other boxes"
    raise ValueError(
        f"A run is resumed with the data and network it was started with. Received: {what}. Restore the data, or train into a "
        f"new folder."
    )


# A run's state on disk: every variable of model and optimizer, the averages, and where the run stands.


def _variables(model: Any) -> list[tuple[str, Any]]:
    """Every variable that training changes, under names that are unique and the same in every process."""
    found = [("model", v) for v in model.variables] + [("optimizer", v) for v in model.optimizer.variables]
    return [(_name(f"{kind}:{index:04d}:{v.path}"), v) for index, (kind, v) in enumerate(found)]


def _name(name: str) -> str:
    return COUNTED.sub(r"\1/", name)


def finite_state(model: Any, averages: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies of every variable and average; NotFinite if one holds NaN or infinity."""
    arrays = {name: np.array(keras.ops.convert_to_numpy(v), order="C") for name, v in _variables(model)}
    arrays |= {f"average:{name}": value for name, value in averages.items()}
    for name, value in arrays.items():
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            raise NotFinite(f"{name.partition(':')[2]} is NaN or infinite")
    return arrays


def write_state(path: Path, arrays: dict[str, np.ndarray], position: Position) -> None:
    """Write what `finite_state` gave, atomically; OSError, and the file as it was, where it cannot be written."""
    save_tensors(path, arrays, {METADATA: json.dumps({"schema": SCHEMA, **dataclasses.asdict(position)})})


def read_state(path: Path) -> tuple[dict[str, np.ndarray], Position]:
    """The arrays of a state file and its position; ValueError for a file of another kind or schema."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            header = parse_json((file.metadata() or {})[METADATA], "The position of a training checkpoint")
            arrays = {_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError, TypeError) as error:
        raise ValueError(f"A training checkpoint must be one of keras_mnasnet's. Received: {path} ({error!r})") from error
    if not isinstance(header, dict) or header.pop("schema", None) != SCHEMA:
        raise ValueError(f"A training checkpoint must have schema {SCHEMA}. Received: {path}. Update keras_mnasnet.")
    return arrays, record(header, Position, f"The position of a training checkpoint in {path}")


def restore_state(path: Path, model: Any, *, with_optimizer: bool) -> tuple[dict[str, np.ndarray], Position]:
    """`put_state` of a file; also returns its position."""
    arrays, position = read_state(path)
    return put_state(arrays, model, path, with_optimizer=with_optimizer), position


def put_state(
    arrays: Mapping[str, np.ndarray], model: Any, where: object, *, with_optimizer: bool = True
) -> dict[str, np.ndarray]:  # fmt: skip
    """Put a state into a compiled model with a built optimizer, and return its averages.

    `with_optimizer=False` leaves the optimizer as it is, for the first step after the head was trained alone.
    ValueError if the variables are not the model's.
    """
    stored = {name: value for name, value in arrays.items() if not name.startswith("average:")}
    wanted = [(name, v) for name, v in _variables(model) if with_optimizer or name.startswith("model:")]
    shapes = {name: tuple(v.shape) for name, v in wanted}
    found = {name: value.shape for name, value in stored.items() if with_optimizer or name.startswith("model:")}
    if shapes != found:
        wrong = sorted(set(shapes.items()) ^ set(found.items()))[0][0]
        raise ValueError(
            f"{where} must hold the variables of this run's network and optimizer. Received: {wrong!r} as "
            f"{found.get(wrong, 'missing')}, expected {shapes.get(wrong, 'none')}. Resume with the network it was made with."
        )
    for name, variable in wanted:
        variable.assign(stored[name])
    return {name.removeprefix("average:"): value for name, value in arrays.items() if name.startswith("average:")}
