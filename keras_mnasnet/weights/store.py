"""keras_mnasnet's own weight file: safetensors under house names, with network, numerics and origin in the metadata."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.preprocessing import Preprocessing
from keras_mnasnet.weights.convert import Checkpoint, expected_shapes
from keras_mnasnet.weights.errors import CheckpointError
from keras_mnasnet.weights.files import TensorFile, save_tensors
from keras_mnasnet.weights.registry import Numerics

__all__ = ["FORMAT", "is_native", "read_header", "read_native", "write_native"]

FORMAT = "keras_mnasnet"
SCHEMA = 1


def write_native(checkpoint: Checkpoint, path: Path, **origin: str) -> None:
    """Write atomically; `origin` adds text entries such as `record` and `source_sha256`."""
    header = {
        "schema": SCHEMA,
        "architecture": str(checkpoint.architecture),
        "classes": checkpoint.classes,
        "source": checkpoint.source,
        "numerics": dataclasses.asdict(checkpoint.numerics),
        "resolution": checkpoint.resolution,
        "labels": checkpoint.labels,
        "preprocessing": checkpoint.preprocessing and dataclasses.asdict(checkpoint.preprocessing),
        **origin,
    }
    tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in checkpoint.tensors.items()}
    save_tensors(path, tensors, {FORMAT: json.dumps(header)})


def is_native(file: TensorFile) -> bool:
    """Whether the file is one of ours."""
    return FORMAT in file.metadata


def read_header(file: TensorFile) -> dict[str, Any]:
    """What one of our files says about itself; CheckpointError for a newer schema."""
    try:
        header = json.loads(file.metadata[FORMAT])
        schema = header["schema"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file.path} must describe its network. Received: {error!r}") from error
    if schema != SCHEMA:
        raise CheckpointError(
            f"{file.path} must have schema {SCHEMA}. Received: schema={schema!r}. "
            f"Update keras_mnasnet, or remove the file if it is in the cache."
        )
    return header


def read_native(file: TensorFile) -> Checkpoint:
    """Read one of our files; CheckpointError for a newer schema or tensors that are not the network's."""
    header = read_header(file)
    try:
        architecture = Architecture.parse(header["architecture"])
        classes, source = int(header["classes"]), header["source"]
        numerics = Numerics(**header["numerics"])
        resolution, labels = header.get("resolution"), header.get("labels")
        labels = None if labels is None else tuple(map(str, labels))
        if labels is not None and len(labels) != classes:
            raise ValueError(f"{len(labels)} labels for {classes} classes")
        preprocessing = _preprocessing(header.get("preprocessing"))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file.path} must describe its network. Received: {error!r}") from error
    expected = expected_shapes(architecture, classes)
    if dict(file.shapes) != expected:
        wrong = sorted(set(expected.items()) ^ set(file.shapes.items()))[0][0]
        raise CheckpointError(
            f"{file.path} must hold the tensors of {architecture.name!r}. Received: tensor {wrong!r} as "
            f"{file.shapes.get(wrong, 'missing')}, expected {expected.get(wrong, 'none')}"
        )
    tensors = {name: file.read(name) for name in expected}
    checkpoint = Checkpoint(source, architecture, numerics, classes, tensors, resolution, labels, preprocessing)
    checkpoint.check_values(file.path)
    return checkpoint


def _preprocessing(value: dict[str, Any] | None) -> Preprocessing | None:
    if value is None:
        return None
    fields: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
    return Preprocessing(**fields)
