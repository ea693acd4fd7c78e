"""A training run's state on disk: every variable of model and optimizer, the averages, and where the run stands."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mnasnet.weights.formats.safetensors import save_tensors

__all__ = ["NotFinite", "Position", "finite_state", "read_state", "restore_state", "write_state"]

SCHEMA = 1
METADATA = "keras_mnasnet_training"
COUNTED = re.compile(r"(:[a-z]+(?:_[a-z]+)*)_\d+/")  # Keras numbers seed generators and optimizers by how many it has made


class NotFinite(ArithmeticError):
    """Values that are NaN or infinite where training must not go on with them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands: parts done (an epoch has `parts_per_epoch` of equal length), and what early stopping knows."""

    part: int = 0
    step: int = 0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    seconds: float = 0.0


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
            header = json.loads((file.metadata() or {})[METADATA])
            arrays = {_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ValueError(f"A training checkpoint must be one of keras_mnasnet's. Received: {path} ({error!r})") from error
    if header.pop("schema", None) != SCHEMA:
        raise ValueError(f"A training checkpoint must have schema {SCHEMA}. Received: {path}. Update keras_mnasnet.")
    return arrays, Position(**header)


def restore_state(path: Path, model: Any, *, with_optimizer: bool) -> tuple[dict[str, np.ndarray], Position]:
    """Put a state into a compiled model with a built optimizer, and return its averages and position.

    `with_optimizer=False` leaves the optimizer as it is, for the first step after the classifier was trained alone.
    ValueError if the variables are not the model's.
    """
    arrays, position = read_state(path)
    stored = {name: value for name, value in arrays.items() if not name.startswith("average:")}
    wanted = [(name, v) for name, v in _variables(model) if with_optimizer or name.startswith("model:")]
    shapes = {name: tuple(v.shape) for name, v in wanted}
    found = {name: value.shape for name, value in stored.items() if with_optimizer or name.startswith("model:")}
    if shapes != found:
        wrong = sorted(set(shapes.items()) ^ set(found.items()))[0][0]
        raise ValueError(
            f"{path} must hold the variables of this run's network and optimizer. Received: {wrong!r} as "
            f"{found.get(wrong, 'missing')}, expected {shapes.get(wrong, 'none')}. Resume with the network it was made with."
        )
    for name, variable in wanted:
        variable.assign(stored[name])
    averages = {name.removeprefix("average:"): value for name, value in arrays.items() if name.startswith("average:")}
    return averages, position
