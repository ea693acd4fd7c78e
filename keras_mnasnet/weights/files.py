"""Tensor files of every format, opened without reading the tensors: safetensors, `.pth`, TF1 checkpoints and `.tgz` of them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from keras_mnasnet.utils.files import replaced
from keras_mnasnet.weights.errors import CheckpointError
from keras_mnasnet.weights.pth import read_pth

__all__ = ["SUFFIXES", "TensorFile", "open_tensors", "save_tensors"]

PTH_SUFFIXES = (".pth", ".pt", ".bin")
TAR_SUFFIXES = (".tgz", ".tar.gz", ".tar")
SUFFIXES = (".safetensors", *PTH_SUFFIXES, *TAR_SUFFIXES)


@dataclasses.dataclass(frozen=True, slots=True)
class TensorFile:
    """Names and shapes of a file's tensors, a reader of one tensor, and the file's own metadata."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def open_tensors(path: str | os.PathLike[str]) -> Iterator[TensorFile]:
    """Open a checkpoint by what it is; the tensors can be read until the context ends.

    `path` is a `.safetensors`, `.pth`/`.pt`/`.bin`, `.tgz`/`.tar` file or the prefix of a TF1 checkpoint. Raises
    CheckpointError for a folder, an unknown ending, a damaged file.
    """
    path = Path(path).expanduser()
    if Path(f"{path}.index").is_file():
        yield _tf1(path)
        return
    if path.is_dir():
        inside = sorted(str(index)[: -len(".index")] for index in path.glob("*.index"))
        inside += [str(each) for each in path.glob("model.safetensors")]
        hint = f" Name one of the checkpoints in it: {', '.join(inside)}." if inside else ""
        raise CheckpointError(f"A checkpoint must be a file or a TF1 prefix. Received: the folder {path}.{hint}")
    if not path.is_file():
        raise CheckpointError(f"A checkpoint file must exist. Received: {path}, which does not")
    if path.name.endswith((".index",)) or ".data-00000-of-" in path.name:
        prefix = re.sub(r"\.(index|data-\d+-of-\d+)$", "", str(path))
        raise CheckpointError(f"A TF1 checkpoint is named by its prefix, here {prefix}. Received: {path}")
    if path.name.endswith(TAR_SUFFIXES):
        with tempfile.TemporaryDirectory(prefix="keras_mnasnet-") as folder:
            yield dataclasses.replace(_tf1(_unpack(path, Path(folder))), path=path)
    elif path.suffix == ".safetensors":
        with _safetensors(path) as file:
            yield file
    elif path.suffix in PTH_SUFFIXES:
        arrays, _ = read_pth(path)
        yield TensorFile(path, {name: array.shape for name, array in arrays.items()}, arrays.__getitem__)
    else:
        raise CheckpointError(
            f"A checkpoint must end in {', '.join(SUFFIXES)}, .weights.h5, .keras, or be a TF1 prefix. Received: {path}"
        )


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[TensorFile]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            yield TensorFile(path, shapes, file.get_tensor, file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} must be a whole safetensors file. Received: a truncated, damaged or other file ({error}). Fetch it again."
        ) from error


def _tf1(prefix: Path) -> TensorFile:
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{prefix} must be a whole TF1 checkpoint. Received: {error}") from error

    def read(name: str) -> np.ndarray:
        try:
            return np.asarray(reader.get_tensor(name))
        except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
            raise CheckpointError(f"{prefix}: tensor {name!r} cannot be read. Received: {error}") from error

    return TensorFile(prefix, shapes, read)


def _unpack(archive: Path, folder: Path) -> Path:
    """Unpack safely and find the checkpoint, wherever in the archive it lies; returns its prefix."""
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise CheckpointError(
            f"{archive} must hold files that stay inside the folder they are unpacked to. Received: {error}"
        ) from error
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, f"{archive} cannot be unpacked to {folder}, see $TMPDIR ({error})") from error
        raise CheckpointError(
            f"{archive} must be a whole tar archive. Received: a truncated or damaged one ({error}). Fetch it again."
        ) from error
    prefixes = [Path(str(index)[: -len(".index")]) for index in folder.rglob("*.index")]
    prefixes = [prefix for prefix in prefixes if prefix.parent.name != "variables"]
    if not prefixes:
        names = sorted(str(found.relative_to(folder)) for found in folder.rglob("*"))[:8]
        raise CheckpointError(f"{archive} must hold a TF1 checkpoint (*.index). Received: {', '.join(names) or 'nothing'}")
    for state in filter(Path.is_file, folder.rglob("checkpoint")):
        named = re.search(r'^model_checkpoint_path: "(?:.*/)?([^"/]+)"', state.read_text("utf-8", "replace"), re.MULTILINE)
        if named and state.parent / named[1] in prefixes:
            return state.parent / named[1]

    def step(prefix: Path) -> int:
        return int(prefix.name.rpartition("-")[2]) if prefix.name.rpartition("-")[2].isdigit() else -1

    return max(prefixes, key=step)


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically; OSError, and the file as it was, where it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        with replaced(path) as temporary:
            save_file(dict(tensors), temporary, metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}. Nothing half-written was kept") from error
