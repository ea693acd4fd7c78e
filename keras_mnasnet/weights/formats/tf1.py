"""TensorFlow 1 checkpoints, and the tar archives that Google packs them in."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import numpy as np

from keras_mnasnet.weights.checkpoint import CheckpointError
from keras_mnasnet.weights.formats import TensorFile


def open_tf1(prefix: Path) -> TensorFile:
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


def unpack(archive: Path, folder: Path) -> Path:
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
