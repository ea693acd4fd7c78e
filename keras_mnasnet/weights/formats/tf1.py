"""TensorFlow 1 checkpoints, and the tar archives that Google packs them in."""

from __future__ import annotations

import glob
import math
import re
from pathlib import Path

import numpy as np

from keras_mnasnet.utils.reading import check_growth, check_limit, unpack_tar
from keras_mnasnet.utils.text import listed
from keras_mnasnet.weights.checkpoint import CheckpointError
from keras_mnasnet.weights.formats import H5_SUFFIX, KERAS_SUFFIX, PTH_SUFFIXES, TFLITE_SUFFIX, TensorFile


def open_tf1(prefix: Path, path: Path | None = None) -> TensorFile:
    """A TF1 checkpoint by its prefix; `path` is the archive that it was in. CheckpointError for a damaged one."""
    import tensorflow as tf

    path = path or prefix
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
        types = reader.get_variable_to_dtype_map()
        size = sum(part.stat().st_size for part in prefix.parent.glob(f"{glob.escape(prefix.name)}.*"))
        check_limit("opcodes", len(shapes), "A TF1 checkpoint")
        for shape in shapes.values():
            check_limit("dimensions", len(shape), "A tensor of a TF1 checkpoint")
        numeric = {name: types[name].size for name in shapes if types[name].is_floating or types[name].is_integer}
        check_growth(
            "views",
            sum(math.prod(shapes[name]) * each for name, each in numeric.items()),
            size,
            "The tensors of a TF1 checkpoint",
        )
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError, TypeError, OSError) as error:
        raise CheckpointError(f"{path} must be a whole TF1 checkpoint. Received: {str(error)[:300]}") from error

    def read(name: str) -> np.ndarray:
        try:
            if name not in numeric:
                raise ValueError(f"a tensor of type {types[name].name}")
            return np.asarray(reader.get_tensor(name))
        except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
            raise CheckpointError(f"{path}: tensor {name!r} cannot be read. Received: {error}") from error

    return TensorFile(path, shapes, read)


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(65_536).decode("utf-8", "replace")


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack safely and find the checkpoint, wherever in the archive it lies: its prefix, or the one `.tflite` file."""
    try:
        unpack_tar(archive, folder, str(archive))
    except ValueError as error:
        raise CheckpointError(f"{error}. Fetch it again.") from error
    prefixes = [Path(str(index)[: -len(".index")]) for index in folder.rglob("*.index")]
    prefixes = [prefix for prefix in prefixes if prefix.parent.name != "variables"]
    if not prefixes and len(networks := list(folder.rglob(f"*{TFLITE_SUFFIX}"))) == 1:
        return networks[0]
    if not prefixes:
        names = sorted(str(found.relative_to(folder)) for found in folder.rglob("*") if found.is_file())
        weights = [name for name in names if name.endswith((*PTH_SUFFIXES, KERAS_SUFFIX, H5_SUFFIX, ".safetensors"))]
        way = ""
        if {"storages", "tensors", "pickle"} <= set(names):
            way = " This is PyTorch's format of 2016: load it with torch.load and save its state dict again."
        elif weights:
            way = f" Unpack it and name {listed(weights, 3)}."
        elif any(name.endswith("saved_model.pb") for name in names):
            way = " This is a SavedModel, whose graph is not read: name the checkpoint that it was made from."
        raise CheckpointError(
            f"{archive} must hold a TF1 checkpoint (*.index). Received: {listed(names, 8) or 'nothing'}.{way}"
        )
    for state in filter(Path.is_file, folder.rglob("checkpoint")):
        named = re.search(r'^model_checkpoint_path: "(?:.*/)?([^"/]+)"', _beginning(state), re.MULTILINE)
        if named and state.parent / named[1] in prefixes:
            return state.parent / named[1]

    def step(prefix: Path) -> int:
        return int(prefix.name.rpartition("-")[2]) if prefix.name.rpartition("-")[2].isdigit() else -1

    return max(prefixes, key=step)
