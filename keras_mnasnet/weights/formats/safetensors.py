"""safetensors files, and what the package's own say about themselves: network, numerics, labels, preprocessing, origin."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.preprocessing import Preprocessing
from keras_mnasnet.utils.files import replaced
from keras_mnasnet.weights.checkpoint import Checkpoint, CheckpointError, Numerics, Origin, expected_shapes, layer_shapes
from keras_mnasnet.weights.formats import TensorFile

FORMAT = "keras_mnasnet"
SCHEMA = 2


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[TensorFile]:
    """Open a safetensors file; CheckpointError for one that is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            yield TensorFile(path, shapes, file.get_tensor, file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} must be a whole safetensors file. Received: a truncated, damaged or other file ({error}). Fetch it again."
        ) from error


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically; OSError, and the file as it was, where it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        with replaced(path) as temporary:
            save_file(dict(tensors), temporary, metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}. Nothing half-written was kept") from error


def to_header(checkpoint: Checkpoint, **extra: str) -> str:
    """All of a checkpoint but its tensors, as the JSON text that every file of this package carries."""
    header = {
        "schema": SCHEMA,
        "architecture": str(checkpoint.architecture),
        "classes": checkpoint.classes,
        "numerics": dataclasses.asdict(checkpoint.numerics),
        "size": checkpoint.size,
        "labels": checkpoint.labels,
        "preprocessing": dataclasses.asdict(checkpoint.preprocessing),
        "origin": dataclasses.asdict(checkpoint.origin),
        "assumed": checkpoint.assumed,
        "detector": checkpoint.detector and checkpoint.detector.to_dict(),
        **extra,
    }
    return json.dumps(header, ensure_ascii=False)


def read_header(file: TensorFile) -> dict[str, Any]:
    """What one of our files says about itself; CheckpointError for another schema."""
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


def described(file: TensorFile, tensors_of: Callable[[Iterable[str]], dict[str, np.ndarray]] | None = None) -> Checkpoint:
    """The checkpoint in a file that carries our header; its tensors are read from it, or come from `tensors_of(names)`.

    CheckpointError for another schema, a description that makes no sense, or tensors that are not the network's.
    """
    header = read_header(file)
    try:
        labels, detector, spec = header["labels"], header["detector"], None
        if detector is not None:
            from keras_mnasnet.detection.spec import DetectorSpec

            spec = DetectorSpec.from_json(json.dumps(detector))
        architecture, classes = Architecture.parse(header["architecture"]), int(header["classes"])
        checkpoint = Checkpoint(
            architecture=architecture,
            numerics=Numerics(**header["numerics"]),
            classes=classes,
            tensors={},
            size=int(header["size"]),
            labels=None if labels is None else tuple(map(str, labels)),
            preprocessing=Preprocessing.from_json(header["preprocessing"]),
            origin=dataclasses.replace(Origin(**header["origin"]), name=header["origin"].get("record") or str(file.path)),
            assumed=tuple(header["assumed"]),
            detector=spec,
        )
        expected = layer_shapes(spec.layers()) if spec else expected_shapes(architecture, classes)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file.path} must describe its network. Received: {error}") from error
    tensors = None if tensors_of is None else tensors_of(expected)
    shapes = dict(file.shapes) if tensors is None else {name: value.shape for name, value in tensors.items()}
    if shapes != expected:
        wrong = sorted(set(expected.items()) ^ set(shapes.items()))[0][0]
        raise CheckpointError(
            f"{file.path} must hold the tensors of {architecture.name!r}. Received: tensor {wrong!r} as "
            f"{shapes.get(wrong, 'missing')}, expected {expected.get(wrong, 'none')}"
        )
    checkpoint = dataclasses.replace(
        checkpoint, tensors={name: file.read(name) if tensors is None else tensors[name] for name in expected}
    )
    checkpoint.check_values()
    return checkpoint


def write_native(checkpoint: Checkpoint, path: Path, **extra: str) -> None:
    """Write a checkpoint to safetensors, atomically; `extra` adds text entries to what the file says."""
    tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in checkpoint.tensors.items()}
    save_tensors(path, tensors, {FORMAT: to_header(checkpoint, **extra)})
