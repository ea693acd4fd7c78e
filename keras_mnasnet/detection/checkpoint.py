"""A detector's own file: safetensors under house names, with its spec in the metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mnasnet.detection.model import build_detector, spec_of
from keras_mnasnet.detection.spec import DetectorSpec
from keras_mnasnet.loading import RUN_MODEL, open_tensors
from keras_mnasnet.weights.checkpoint import CheckpointError, layer_shapes
from keras_mnasnet.weights.formats.safetensors import save_tensors

__all__ = [
    "assign_tensors",
    "detector_in",
    "detector_path",
    "detector_tensors",
    "is_detector",
    "load_detector",
    "read_detector",
    "save_detector",
]

FORMAT = "keras_mnasnet_detector"
SCHEMA = 1


def detector_tensors(model: keras.Model) -> dict[str, np.ndarray]:
    """{house name: float32 array} of a detector's layers, in the order of its layer table."""
    names = list(layer_shapes(spec_of(model).layers()))
    layers = {name.rpartition("/")[0] for name in names}
    values = {name: iter(model.get_layer(name).get_weights()) for name in layers}
    return {name: np.ascontiguousarray(next(values[name.rpartition("/")[0]]), np.float32) for name in names}


def save_detector(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Write a detector to `.safetensors` with everything `load_detector` needs; atomic."""
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"`path` must end in .safetensors. Received: path={str(path)!r}")
    header = {"schema": SCHEMA, "spec": spec_of(model).to_dict()}
    save_tensors(path, detector_tensors(model), {FORMAT: json.dumps(header, ensure_ascii=False)})


def detector_path(path: str | os.PathLike[str]) -> Path:
    """The detector's file that a path means: itself, or a training run's model."""
    path = Path(path).expanduser()
    return path / RUN_MODEL if path.is_dir() else path


def is_detector(path: str | os.PathLike[str]) -> bool:
    """Whether a file, or the model of a training run, is a detector of this package."""
    path = detector_path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    with open_tensors(path) as file:
        return FORMAT in file.metadata


def read_detector(path: str | os.PathLike[str]) -> tuple[DetectorSpec, dict[str, np.ndarray]]:
    """Spec and tensors of a detector's file; CheckpointError for another file, a newer schema or other tensors."""
    path = detector_path(path)
    with open_tensors(path) as file:
        return detector_in(file, path)


def detector_in(file: Any, path: Path) -> tuple[DetectorSpec, dict[str, np.ndarray]]:
    """Spec and tensors of an opened safetensors file (`metadata`, `shapes`, `read`); needs no Keras."""
    if FORMAT not in file.metadata:
        raise CheckpointError(
            f"{path} must be a detector (`mnasnet detect train` writes it). Received: a file without a detector's "
            f"description. A classification checkpoint goes into SSDLite(weights=...)."
        )
    try:
        header: dict[str, Any] = json.loads(file.metadata[FORMAT])
        if header["schema"] != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}, received {header['schema']}: update keras_mnasnet")
        spec = DetectorSpec.from_json(json.dumps(header["spec"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} must describe its detector. Received: {error}") from error
    expected = layer_shapes(spec.layers())
    if dict(file.shapes) != expected:
        wrong = sorted(set(expected.items()) ^ set(file.shapes.items()))[0][0]
        raise CheckpointError(
            f"{path} must hold the tensors of its detector. Received: tensor {wrong!r} as "
            f"{file.shapes.get(wrong, 'missing')}, expected {expected.get(wrong, 'none')}"
        )
    tensors = {name: file.read(name) for name in expected}
    for name, value in tensors.items():
        if value.dtype != np.float32 or not np.isfinite(value).all():
            raise CheckpointError(f"{path}: tensor {name!r} must be finite float32. Received: {value.dtype}, or NaN in it")
    return spec, tensors


def load_detector(path: str | os.PathLike[str], *, bn_momentum: float = 0.99) -> keras.Model:
    """The detector in a file, or in a training run's folder: as `SSDLite` gives it, with its trained weights."""
    spec, tensors = read_detector(path)
    model = build_detector(spec, bn_momentum=bn_momentum)
    assign_tensors(model, tensors)
    return model


def assign_tensors(model: keras.Model, tensors: dict[str, np.ndarray]) -> None:
    """Set layers by house names; every layer that is named must be named whole."""
    layers: dict[str, list[np.ndarray]] = {}
    for name, value in tensors.items():
        layers.setdefault(name.rpartition("/")[0], []).append(value)
    for name, values in layers.items():
        model.get_layer(name).set_weights(values)
