"""What a run is asked to do and what it found, as its folder keeps them. Loads neither TensorFlow nor Keras."""

from __future__ import annotations

import csv
import dataclasses
import glob
import os
import re
from numbers import Real
from pathlib import Path
from typing import Any

from keras_mnasnet.preprocessing import IMAGENET, Normalization
from keras_mnasnet.training.recipe import Recipe, recipe_from_json, recipe_to_json
from keras_mnasnet.utils.files import replaced, write_file
from keras_mnasnet.utils.reading import check_names, fields_of, read_json, read_text, record, shown
from keras_mnasnet.utils.text import json_text

SCHEMA = 1
RUN_FILE, STATE_FILE, LOG_FILE = "run.json", "checkpoint.safetensors", "log.csv"
MODEL_FILE, LABEL_FILE, CLASS_FILE = "model.safetensors", "labels.txt", "classes.csv"
NAMED = re.compile(r"shapes(:.*)?|tfds:.*|hf://.*")  # data and weights that are no paths
COLUMNS = (
    "epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy", "val_balanced_accuracy", "val_top5", "learning_rate",
    "images_per_second", "seconds",
)  # fmt: skip
CLASS_COLUMNS = ("epoch", "class", "images", "answered", "right")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Data, network and recipe of a run; `train` says what the fields mean. `validation` is a path, a share or a number.

    `from_model` is a source that `load` takes, or the name of the model that was given as a value. `holdout` is a share (0..1)
    of data without splits that takes no part in the run, so that a test set is left: `data.open_splits` gives it.
    """

    data: str
    recipe: Recipe
    from_model: str | None = None
    network: str | None = None
    teacher: str | None = None
    head: str = "new"
    width: float | None = None
    depth: float | None = None
    se: bool | float | None = None
    stem_stride: int | None = None
    validation: str | float | None = None
    holdout: float = 0.0
    max_bad: int = 0
    check: bool = True
    checkpoint_steps: int = 1000
    mixed_precision: str | None = None
    jit_compile: bool | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.mixed_precision not in (None, "bfloat16", "float16"):
            raise ValueError(
                f"`mixed_precision` must be None, 'bfloat16' or 'float16'. Received: mixed_precision={self.mixed_precision!r}"
            )
        if not 0 <= self.holdout < 1:
            raise ValueError(f"`holdout` must be in [0, 1). Received: holdout={self.holdout!r}")
        if (self.teacher is None) != (self.recipe.teacher_weight == 0):
            raise ValueError(
                f"A teacher and a recipe that listens to it belong together: teacher= (--teacher) and a `teacher_weight` above "
                f"0 as in the recipe distill. Received: teacher={self.teacher!r}, recipe={self.recipe.name!r} with "
                f"teacher_weight={self.recipe.teacher_weight:g}"
            )
        if self.checkpoint_steps < 1 or self.max_bad < 0:
            raise ValueError(
                f"`checkpoint_steps` must be >= 1 and `max_bad` >= 0. "
                f"Received: checkpoint_steps={self.checkpoint_steps}, max_bad={self.max_bad}"
            )

    def anchored(self) -> Job:
        """The same job with paths that hold in any working folder."""
        paths = ("data", "validation", "from_model", "teacher")
        return dataclasses.replace(self, **{name: anchored_path(getattr(self, name)) for name in paths})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a run found at its start and must find again when it is resumed; `photos_sha256` says which photos, in which order
    and with which boxes. `data` is what was read, as a Summary's JSON."""

    architecture: str
    size: int
    bn_epsilon: float
    padding: str
    labels: tuple[str, ...]
    train_images: int
    validation_images: int
    steps_per_part: int
    parts_per_epoch: int
    normalization: Normalization = IMAGENET
    excluded: tuple[str, ...] = ()
    teacher_sha256: str = ""
    photos_sha256: str = ""
    data: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)
    environment: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch, all parts of it."""
        return self.steps_per_part * self.parts_per_epoch


@dataclasses.dataclass(frozen=True, slots=True)
class RunKind:
    """What a kind of run keeps in `run.json`: the types of its job, facts and recipe; and the command that trains it."""

    name: str
    job: type
    facts: type
    recipe: type[Recipe]
    command: str


def validation_of(given: str | os.PathLike[str] | float | None) -> str | float | None:
    """What to validate on, as a job keeps it: the path or name of data, a share or number of images, or None."""
    if given is None or isinstance(given, str | os.PathLike):
        return None if given is None else os.fspath(given)
    if isinstance(given, bool) or not isinstance(given, Real):
        raise ValueError(
            f"`validation` must be data, a share below 1, a number of images, or None. Received: validation={shown(given)}"
        )
    return float(given)


CLASSIFICATION = RunKind("classification", Job, Facts, Recipe, "mnasnet train")


def anchored_path(text: Any) -> Any:
    """A path, of what exists, that holds in any working folder; names of data and weights as they are."""
    from keras_mnasnet.weights import registry

    if not isinstance(text, str) or NAMED.fullmatch(text) or text in registry.datasets() or text in registry.names():
        return text
    path = os.path.expanduser(text)
    return os.path.abspath(path) if os.path.exists(path) or (glob.has_magic(path) and glob.glob(path)) else text


def write_run(folder: Path, job: Any, facts: Any, kind: RunKind = CLASSIFICATION) -> None:
    """Write `run.json`, whole or not at all."""
    fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
    value = {
        "schema": SCHEMA, "kind": kind.name, "job": {**fields, "recipe": recipe_to_json(job.recipe)},
        "facts": dataclasses.asdict(facts),
    }  # fmt: skip
    write_file(folder / RUN_FILE, json_text(value) + "\n")


def read_run(folder: Path, kind: RunKind = CLASSIFICATION) -> tuple[Any, Any]:
    """Job and facts from `run.json`; ValueError if the folder is not a run's, another kind's, or a newer version's."""
    path = folder / RUN_FILE
    if not path.is_file():
        raise ValueError(
            f"A run's folder holds {RUN_FILE}. Received: {folder}, without one. Start it with `{kind.command} ...`."
        )
    try:
        value = fields_of(read_json(path, "A run"), "A run", schema=int, kind=str, job=dict, facts=dict)
        if value["schema"] != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}, received {value['schema']}: update keras_mnasnet")
        if value["kind"] != kind.name:
            raise ValueError(f"`{kind.command}` goes on with runs of {kind.name}, received one of {value['kind'][:40]}")
        recipe = recipe_from_json(value["job"].get("recipe"), kind.recipe)
        job: Any = record({**value["job"], "recipe": recipe}, kind.job, "`job` of a run")
        facts: Any = record(value["facts"], kind.facts, "`facts` of a run")
        check_names(facts.labels, "`labels` of a run")
        return job, facts
    except ValueError as error:
        raise ValueError(f"{path} must be a run of keras_mnasnet. Received: {error}") from error


def run_of(source: str) -> Path | None:
    """The folder of the run that a source names, itself or by its model file; None for any other source."""
    path = Path(source).expanduser()
    folder = path.parent if path.name == MODEL_FILE else path
    return folder if (folder / RUN_FILE).is_file() else None


def read_log(path: Path, expected: tuple[str, ...] = COLUMNS) -> list[dict[str, str]]:
    """The rows of a `log.csv`; none without the file. ValueError for a file that is not one."""
    if not path.is_file():
        return []
    try:
        reader = csv.DictReader(read_text(path, "A run's log").splitlines())
        columns, rows = tuple(reader.fieldnames or ()), list(reader)
        whole = columns == expected and all(None not in row and None not in row.values() and numbers(row) for row in rows)
    except (csv.Error, ValueError):
        whole = False
    if not whole or not all(row["step"].isdecimal() for row in rows):
        raise ValueError(
            f"A run's log has the columns {', '.join(expected)}, and whole steps. Received: {path}, which was changed. "
            f"Restore it, or remove it to go on without the earlier rows."
        )
    return rows


def write_log(path: Path, rows: list[dict[str, Any]], columns: tuple[str, ...] = COLUMNS) -> None:
    """Write `log.csv` anew, whole or not at all; a run that is resumed thus never repeats a row."""
    with replaced(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_classes(path: Path, rows: list[dict[str, Any]]) -> None:
    """Put the rows of an epoch, one a class, into `classes.csv`: behind those of earlier epochs, in place of later ones."""
    epoch = float(rows[0]["epoch"])
    kept = [row for row in _class_rows(path) if float(row["epoch"]) < epoch]
    write_log(path, kept + rows, CLASS_COLUMNS)


def _class_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    rows = list(csv.DictReader(read_text(path, "A run's classes").splitlines()))
    try:
        whole = all(tuple(row) == CLASS_COLUMNS and None not in row.values() and float(row["epoch"]) > 0 for row in rows)
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(
            f"A run's {CLASS_FILE} has the columns {', '.join(CLASS_COLUMNS)}. Received: {path}, which was changed. Restore "
            f"it, or remove it to go on without the earlier rows."
        )
    return rows


def numbers(row: dict[str, Any]) -> dict[str, float | int]:
    """A row of the log, whose values are texts, as numbers; columns that were not measured are left out."""
    return {key: int(value) if key == "step" else float(value) for key, value in row.items() if value != ""}
