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
from keras_mnasnet.preprocessing import MOST_PIXELS, Preprocessing
from keras_mnasnet.utils.files import write_file
from keras_mnasnet.utils.reading import LIMITS, check_limit, open_regular, parse_json, record, shown
from keras_mnasnet.weights.checkpoint import Checkpoint, CheckpointError, Numerics, Origin, expected_shapes, layer_shapes
from keras_mnasnet.weights.formats import TensorFile

FORMAT = "keras_mnasnet"
SCHEMA = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What every file of this package says about itself; `detector` is the JSON of a DetectorSpec."""

    schema: int
    architecture: str
    classes: int
    numerics: Numerics
    size: int
    labels: tuple[str, ...] | None
    preprocessing: Preprocessing
    origin: Origin
    assumed: tuple[str, ...]
    detector: dict[str, Any] | None
    source_sha256: str | None = None


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[TensorFile]:
    """Open a safetensors file; CheckpointError for one that is damaged."""
    from safetensors import SafetensorError, safe_open

    def read(name: str) -> np.ndarray:
        kind = file.get_slice(name).get_dtype()
        try:
            if kind == "BF16":
                import ml_dtypes  # noqa: F401  (gives NumPy the type)
            return file.get_tensor(name)
        except (TypeError, ValueError, AttributeError) as error:  # a type that NumPy does not know
            raise CheckpointError(
                f"{path} must hold tensors of float16, bfloat16, float32 or float64. Received: {shown(name)} of {kind}. "
                f"Convert it where it was made: tensor.float()"
            ) from error

    try:
        open_regular(path, "A safetensors file").close()
        with safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            for shape in shapes.values():
                check_limit("dimensions", len(shape), f"The tensors of {path}")
            yield TensorFile(path, shapes, read, file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} must be a whole safetensors file. Received: a truncated, damaged or other file ({error}). Fetch it again."
        ) from error


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically; OSError, and the file as it was, where it cannot be written.

    The library's own `save_file` writes a temporary file of its own beside it, which a kill would leave.
    """
    from safetensors.numpy import save

    write_file(path, save(dict(tensors), metadata=metadata))


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


def read_header(file: TensorFile) -> Header:
    """What one of our files says about itself; CheckpointError for another schema, or a field that makes no sense."""
    try:
        value = parse_json(file.metadata[FORMAT], "The header")
        schema = value.get("schema") if isinstance(value, dict) else None
        if schema is None:
            raise ValueError("a header that is no JSON object with a schema")
        if schema == SCHEMA:
            return record(value, Header, "The header")
    except ValueError as error:
        raise CheckpointError(f"{file.path} must describe its network. Received: {error}") from error
    raise CheckpointError(
        f"{file.path} must have schema {SCHEMA}. Received: schema={shown(schema)}. "
        f"Update keras_mnasnet, or remove the file if it is in the cache."
    )


def described(file: TensorFile, tensors_of: Callable[[Iterable[str]], dict[str, np.ndarray]] | None = None) -> Checkpoint:
    """The checkpoint in a file that carries our header; its tensors are read from it, or come from `tensors_of(names)`.

    CheckpointError for another schema, a description that makes no sense, or tensors that are not the network's.
    """
    header = read_header(file)
    try:
        spec = None
        if header.detector is not None:
            from keras_mnasnet.detection.spec import DetectorSpec

            spec = DetectorSpec.from_dict(header.detector)
        architecture, classes = Architecture.parse(header.architecture), header.classes
        if not 0 <= classes <= LIMITS["classes"].most or not 1 <= header.size <= MOST_PIXELS:
            raise ValueError(f"{classes:,} classes, {header.size:,} pixels")
        checkpoint = Checkpoint(
            architecture=architecture,
            numerics=header.numerics,
            classes=classes,
            tensors={},
            size=header.size,
            labels=header.labels,
            preprocessing=header.preprocessing,
            origin=dataclasses.replace(header.origin, name=header.origin.record or str(file.path)),
            assumed=header.assumed,
            detector=spec,
        )
        if spec and (spec.architecture, spec.labels, spec.input_size[0]) != (architecture, header.labels, header.size):
            raise ValueError("a detector of another network, other classes or another size than its description")
        expected = layer_shapes(spec.layers()) if spec else expected_shapes(architecture, classes)
    except ValueError as error:
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
