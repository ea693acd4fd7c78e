"""Keras's own files, `.keras` and `.weights.h5`: read with what they say, written so that they say everything again."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.utils.files import replaced
from keras_mnasnet.weights.checkpoint import CheckpointError
from keras_mnasnet.weights.formats import H5_SUFFIX, KERAS_SUFFIX, TensorFile
from keras_mnasnet.weights.formats.safetensors import FORMAT

MEMBER = "keras_mnasnet.json"  # beside config.json in a `.keras` archive; Keras passes it over


def load_keras(path: Path) -> Any:
    """The model in a `.keras` file; ValueError names what is wrong with it. Nothing in the file is run (Keras's safe mode)."""
    if not path.is_file():
        raise CheckpointError(f"A checkpoint file must exist. Received: {path}, which does not")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"A .keras file must be a model as model.save() writes it, a zip archive. Received: {path} "
            f"({path.stat().st_size:,} bytes), which is something else or cut short"
        )
    import keras

    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"A .keras file must be a whole model of Keras's own layers. Received: {path} "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0][:300]})"
        ) from error


def keras_header(path: Path) -> dict[str, str]:
    """What `save` wrote into a `.keras` file, as the metadata of a TensorFile; nothing for a file of model.save()."""
    with zipfile.ZipFile(path) as archive:
        return {FORMAT: archive.read(MEMBER).decode()} if MEMBER in archive.namelist() else {}


@contextlib.contextmanager
def open_h5(path: Path) -> Iterator[TensorFile]:
    """A `.weights.h5` file by the names of its datasets; CheckpointError for a damaged one."""
    import h5py

    try:
        with h5py.File(path) as file:
            shapes: dict[str, tuple[int, ...]] = {}
            file.visititems(lambda name, item: shapes.update({name: item.shape} if isinstance(item, h5py.Dataset) else {}))
            metadata = {"pads": str(any(name.startswith("zero_padding2d") for name in file.get("layers", ())))}
            if shapes.pop(FORMAT, None) is not None:
                metadata[FORMAT] = file[FORMAT][()].decode()
            yield TensorFile(path, shapes, lambda name: np.asarray(file[name]), metadata)
    except (OSError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path} must be a whole .weights.h5 file. Received: {error}") from error


def h5_tensors(file: TensorFile, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The tensors of a known network by their names: Keras numbers the layers of each class in the order of the model."""
    kinds = {"bn": "batch_normalization", "depthwise_conv": "depthwise_conv2d", "predictions": "dense", "": "conv2d"}
    counts = dict.fromkeys(kinds.values(), 0)
    tensors = {}
    for layer, group in itertools.groupby(names, key=lambda name: name.rpartition("/")[0]):
        kind = next(kind for ending, kind in kinds.items() if layer.endswith(ending))
        place = f"layers/{kind}" + (f"_{counts[kind]}" if counts[kind] else "")
        counts[kind] += 1
        for number, name in enumerate(group):
            if f"{place}/vars/{number}" not in file.shapes:
                raise CheckpointError(f"{file.path} must hold {name}. Received: no {place}/vars/{number}")
            tensors[name] = np.asarray(file.read(f"{place}/vars/{number}"), np.float32)
    return tensors


def write_keras(model: Any, path: Path, header: str) -> None:
    """Write a model to `.keras` or `.weights.h5` with our header inside, atomically."""
    with tempfile.TemporaryDirectory(prefix="keras_mnasnet-") as folder:
        whole = Path(folder) / f"model{KERAS_SUFFIX if path.suffix == KERAS_SUFFIX else H5_SUFFIX}"
        if whole.suffix == KERAS_SUFFIX:
            model.save(whole)
            with zipfile.ZipFile(whole, "a") as archive:
                archive.writestr(MEMBER, header)
        else:
            import h5py

            model.save_weights(whole)
            with h5py.File(whole, "a") as file:
                file[FORMAT] = header
        with replaced(path) as temporary:
            shutil.copyfile(whole, temporary)
