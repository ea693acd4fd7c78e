"""What a training run is asked to do, as `run.json` keeps it."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import re
from pathlib import Path
from typing import Any

from keras_mnasnet.training.recipe import Recipe, recipe_from_json, recipe_to_json
from keras_mnasnet.utils.files import replaced
from keras_mnasnet.weights import registry

__all__ = ["CLASSIFICATION", "Facts", "Job", "RunKind", "anchored_path", "read_run", "write_run"]

SCHEMA = 1
RUN_FILE = "run.json"
NAMED = re.compile(r"shapes(:.*)?|tfds:.*|hf://.*")  # data and weights that are no paths


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Data, network and recipe of a run.

    `model` None: the checkpoint's network, A1 without one. `validation` None: the data's own validation or test split, else a
    tenth of it.

    `holdout` is a share (0..1) of data without splits that takes no part in the run, so that a test set is left:
    `data.open_splits` gives it.

    `checkpoint_steps` is the largest number of steps between two checkpoints; an epoch is cut into equal parts for it.
    """

    data: str
    recipe: Recipe
    model: str | None = None
    validation: str | None = None
    weights: str | None = None
    head: str = "new"
    width: float | None = None
    depth: float | None = None
    se: bool | float | None = None
    stem_stride: int | None = None
    max_bad: int = 0
    check: bool = True
    checkpoint_steps: int = 1000
    mixed_precision: str | None = None
    jit_compile: bool | None = None
    tensorboard: bool = False
    holdout: float = 0.0

    def __post_init__(self) -> None:
        if self.mixed_precision not in (None, "bfloat16", "float16"):
            raise ValueError(
                f"`mixed_precision` must be None, 'bfloat16' or 'float16'. Received: mixed_precision={self.mixed_precision!r}"
            )
        if not 0 <= self.holdout < 1:
            raise ValueError(f"`holdout` must be in [0, 1). Received: holdout={self.holdout!r}")
        if self.checkpoint_steps < 1 or self.max_bad < 0:
            raise ValueError(
                f"`checkpoint_steps` must be >= 1 and `max_bad` >= 0. "
                f"Received: checkpoint_steps={self.checkpoint_steps}, max_bad={self.max_bad}"
            )

    def anchored(self) -> Job:
        """The same job with paths that hold in any working folder."""
        return dataclasses.replace(
            self, data=anchored_path(self.data), validation=anchored_path(self.validation), weights=anchored_path(self.weights)
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a run found at its start and must find again when it is resumed."""

    architecture: str
    size: int
    bn_epsilon: float
    padding: str
    labels: tuple[str, ...]
    train_images: int
    validation_images: int
    steps_per_part: int
    parts_per_epoch: int
    excluded: tuple[str, ...] = ()
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


CLASSIFICATION = RunKind("classification", Job, Facts, Recipe, "mnasnet train")


def anchored_path(text: Any) -> Any:
    """A path, of what exists, that holds in any working folder; names of data and weights as they are."""
    if text is None or NAMED.fullmatch(text) or text in registry.datasets() or text in registry.names():
        return text
    path = os.path.expanduser(text)
    return os.path.abspath(path) if os.path.exists(path) or (glob.has_magic(path) and glob.glob(path)) else text


def write_run(folder: Path, job: Any, facts: Any, kind: RunKind = CLASSIFICATION) -> None:
    """Write `run.json` atomically."""
    value = {
        "schema": SCHEMA,
        "kind": kind.name,
        "job": {**_fields(job), "recipe": recipe_to_json(job.recipe)},
        "facts": dataclasses.asdict(facts),
    }
    with replaced(folder / RUN_FILE) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_run(folder: Path, kind: RunKind = CLASSIFICATION) -> tuple[Any, Any]:
    """Job and facts from `run.json`; ValueError if the folder is not a run's, another kind's, or a newer version's."""
    path = folder / RUN_FILE
    if not path.is_file():
        raise ValueError(
            f"A run's folder holds {RUN_FILE}. Received: {folder}, without one. Start it with `{kind.command} ...`."
        )
    try:
        value = json.loads(path.read_text("utf-8"))
        if value["schema"] != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}, received {value['schema']}: update keras_mnasnet")
        found = value.get("kind", CLASSIFICATION.name)
        if found != kind.name:
            raise ValueError(f"`{kind.command}` goes on with runs of {kind.name}, received one of {found}")
        fields = {key: tuple(item) if isinstance(item, list) else item for key, item in value["job"].items()}
        job = kind.job(**{**fields, "recipe": recipe_from_json(value["job"]["recipe"], kind.recipe)})
        facts: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in value["facts"].items()}
        return job, kind.facts(**facts)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} must be a run of keras_mnasnet. Received: {error}") from error


def _fields(job: Any) -> dict[str, Any]:
    return {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
