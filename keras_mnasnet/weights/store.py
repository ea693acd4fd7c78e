"""keras_mnasnet's own weight file: safetensors under house names, with network, numerics and origin in the metadata."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.weights.convert import Checkpoint, expected_shapes
from keras_mnasnet.weights.errors import CheckpointError
from keras_mnasnet.weights.files import TensorFile, replaced
from keras_mnasnet.weights.registry import Numerics

__all__ = ["FORMAT", "is_native", "read_native", "write_native"]

FORMAT = "keras_mnasnet"
SCHEMA = 1


def write_native(checkpoint: Checkpoint, path: Path, **origin: str) -> None:
    """Write atomically; `origin` adds text entries such as `record` and `source_sha256`."""
    from safetensors.numpy import save_file

    metadata = {
        "format": FORMAT,
        "schema": str(SCHEMA),
        "architecture": str(checkpoint.architecture),
        "classes": str(checkpoint.classes),
        "source": checkpoint.source,
        "numerics": json.dumps(dataclasses.asdict(checkpoint.numerics)),
        **origin,
    }
    tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in checkpoint.tensors.items()}
    with replaced(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def is_native(file: TensorFile) -> bool:
    """Whether the file is one of ours."""
    return file.metadata.get("format") == FORMAT


def read_native(file: TensorFile) -> Checkpoint:
    """Read one of our files; CheckpointError for a newer schema or tensors that are not the network's."""
    metadata = file.metadata
    if metadata.get("schema") != str(SCHEMA):
        raise CheckpointError(
            f"{file.path} must have schema {SCHEMA}. Received: schema={metadata.get('schema')!r}. "
            f"Update keras_mnasnet, or remove the file if it is in the cache."
        )
    try:
        architecture = Architecture.parse(metadata["architecture"])
        classes = int(metadata["classes"])
        numerics = Numerics(**json.loads(metadata["numerics"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file.path} must describe its network. Received: {error}") from error
    expected = expected_shapes(architecture, classes)
    if dict(file.shapes) != expected:
        wrong = sorted(set(expected.items()) ^ set(file.shapes.items()))[0][0]
        raise CheckpointError(
            f"{file.path} must hold the tensors of {architecture.name!r}. Received: tensor {wrong!r} as "
            f"{file.shapes.get(wrong, 'missing')}, expected {expected.get(wrong, 'none')}"
        )
    tensors = {name: file.read(name) for name in expected}
    return Checkpoint(metadata.get("source", FORMAT), architecture, numerics, classes, tensors)
