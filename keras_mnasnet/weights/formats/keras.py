"""Keras's own files, `.keras` and `.weights.h5`: read with what they say, written so that they say everything again."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.utils.files import replaced, scratch
from keras_mnasnet.utils.reading import check_growth, check_limit, open_regular, open_zip, parse_json, shown
from keras_mnasnet.weights.checkpoint import CheckpointError
from keras_mnasnet.weights.formats import H5_SUFFIX, KERAS_SUFFIX, TensorFile
from keras_mnasnet.weights.formats.safetensors import FORMAT

RUNNING = ("Lambda", "TFSMLayer", "TorchModuleWrapper", "StringLookup", "IntegerLookup", "TextVectorization", "__lambda__")
DAMAGE = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError, AssertionError, MemoryError)
WIDTHS = ("units", "filters", "output_dim", "input_dim", "depth_multiplier", "key_dim", "value_dim", "num_heads")
MEMBER = "keras_mnasnet.json"  # beside config.json in a `.keras` archive; Keras passes it over


def load_keras(path: Path) -> Any:
    """The model in a `.keras` file; ValueError names what is wrong with it. Nothing in the file is run, and none of its names
    are imported: its description is looked through before Keras sees it, in Keras's safe mode."""
    if not path.is_file():
        raise CheckpointError(f"A checkpoint file must exist. Received: {path}, which does not")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"A .keras file must be a model as model.save() writes it, a zip archive. Received: {path} "
            f"({path.stat().st_size:,} bytes), which is something else or cut short"
        )
    import keras

    wanted = "A .keras file must be a whole model of Keras's own layers."
    try:
        with open_zip(path, "A .keras file") as archive:
            check_limit("text", archive.getinfo("config.json").file_size, "config.json")
            config = parse_json(archive.read("config.json"), "config.json")
            _check_version(archive)
            inside = {key: value for key, value in config.items() if key != "compile_config"}  # is not read
            _check_config(inside, set(keras.saving.get_custom_objects()))
            _check_sizes(inside, path.stat().st_size)
            for name in (name for name in archive.namelist() if name.endswith(".h5")):
                with archive.open(name) as member:
                    _check_h5(io.BytesIO(member.read()))
        with contextlib.ExitStack() as stack:
            named = path  # Keras asks for the ending
            if path.suffix != KERAS_SUFFIX:
                folder = stack.enter_context(scratch())
                named = Path(shutil.copyfile(path, folder / f"model{KERAS_SUFFIX}"))
            return keras.saving.load_model(named, compile=False, safe_mode=True)
    except CheckpointError as error:
        raise CheckpointError(
            f"A .keras file must be a whole model of Keras's own layers. Received: {path}, {error}"
        ) from error
    except DAMAGE as error:
        said = next(iter(str(error).strip().splitlines()), "")[:300]
        raise CheckpointError(f"{wanted} Received: {path} ({type(error).__name__}: {said})") from error


def _check_version(archive: zipfile.ZipFile) -> None:
    """CheckpointError for a file of Keras 2, whose description Keras 3 does not read."""
    if "metadata.json" not in archive.namelist():
        return
    check_limit("text", archive.getinfo("metadata.json").file_size, "metadata.json")
    metadata = parse_json(archive.read("metadata.json"), "metadata.json")
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    if isinstance(version, str) and version.startswith(("1.", "2.")):
        raise CheckpointError(
            f"which Keras {shown(version)} (tf_keras) wrote, and Keras 3 does not read. Open it with tf_keras, build the same "
            f"model in Keras 3, give it the weights (set_weights), and save that one"
        )


def _check_config(value: Any, registered: set[str], layer: Any = None) -> None:
    """CheckpointError for a class or function that is not Keras's own (or registered in this process), or that reads files or
    runs code; `layer` is the name of the layer around it."""
    if isinstance(value, list):
        for item in value:
            _check_config(item, registered, layer)
    elif isinstance(value, dict):
        config = value.get("config")
        if isinstance(config, dict) and "name" in config and "class_name" in value:
            layer = config["name"]
        if "class_name" in value:
            module, name, own = value.get("module"), value["class_name"], value.get("registered_name")
            if name == "function":
                known, name = module != "builtins" and _of_keras(module), config
                own = config
            else:
                known = _of_keras(module) or (module is None and own is None)
            trusted = known or (isinstance(own, str) and own in registered)
            if not isinstance(name, str) or name in RUNNING or not trusted:
                what = "function" if value["class_name"] == "function" else "class"
                where = "" if module is None else f" of {shown(module)}"
                place = "the model itself" if layer is None else f"layer {shown(layer)}"
                given = "safe_mode=False" if name in RUNNING else f"custom_objects={{{shown(name)}: ...}}"
                raise CheckpointError(
                    f"which holds the {what} {shown(name)}{where} ({place}), which is not Keras's own or runs code. If you "
                    f"trust it, load it in Python with keras.saving.load_model(path, {given}) and pass the model, as to "
                    f"export.export(model, ...)"
                )
        for item in value.values():
            _check_config(item, registered, layer)


def _of_keras(module: Any) -> bool:
    return isinstance(module, str) and module.split(".")[0] in ("keras", "builtins")


def _check_sizes(config: Any, size: int) -> None:
    """ValueError for layers whose weights would be far larger than the file of `size` bytes, before Keras makes them.

    A layer has no more inputs than the widest other one has outputs, or than it was built with.
    """
    layers: list[tuple[str, int, int, int]] = []  # name, outputs, values for each pair of an input and an output, built inputs
    level: list[Any] = [config]
    while level:
        value = level.pop()
        level += value if isinstance(value, list) else value.values() if isinstance(value, dict) else []
        inner = value.get("config") if isinstance(value, dict) and "class_name" in value else None
        if isinstance(inner, dict) and (width := max(_size(inner.get(key)) for key in WIDTHS)):
            built = value.get("build_config")
            shape = built.get("input_shape") if isinstance(built, dict) else None
            inputs = _size(shape[-1]) if isinstance(shape, list) and shape else 0
            layers.append((shown(inner.get("name")), width, max(_size(inner.get("kernel_size")), 1), inputs))
    *_, second, widest = [1, 1, *sorted(width for _, width, _, _ in layers)]
    total = 0
    for name, width, kernel, built in layers:
        most = second if width == widest else widest
        check_growth("ratio", 4 * width * kernel * most, size, f"A model, which has the layer {name},")
        total += 4 * width * kernel * min(most, built or most)
    check_growth("ratio", total, size, "A model")


def _size(value: Any) -> int:
    """A size of a layer: of several sides their product; 0 for anything else."""
    sides = value if isinstance(value, list) else [value]
    if not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides) or len(sides) > 8:
        return 0
    return math.prod(sides)


def _check_h5(source: Any, what: str = "A .weights.h5 file") -> dict[str, tuple[int, ...]]:
    """{name: shape} of the datasets of an HDF5 file, all of which lie in it; CheckpointError for other kinds."""
    import h5py

    shapes: dict[str, tuple[int, ...]] = {}
    total = 0

    def visit(name: str, item: Any) -> None:
        nonlocal total
        check_limit("depth", name.count("/"), what)
        check_limit("members", len(shapes), what)
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise CheckpointError(
                    f"{what} must hold its tensors itself. Received: {shown(name)}, which points to another file"
                )
            check_limit("dimensions", len(item.shape or ()), what)
            shapes[name] = item.shape
            total += item.nbytes

    with contextlib.ExitStack() as stack:
        file = source if isinstance(source, h5py.File) else stack.enter_context(h5py.File(source))
        file.visititems(visit)
        check_growth("ratio", total, file.id.get_filesize(), what)
    return shapes


def keras_header(path: Path) -> dict[str, str]:
    """What `save` wrote into a `.keras` file, as the metadata of a TensorFile; nothing for a file of model.save()."""
    try:
        with open_zip(path, "A .keras file") as archive:
            if MEMBER not in archive.namelist():
                return {}
            check_limit("text", archive.getinfo(MEMBER).file_size, MEMBER)
            return {FORMAT: archive.read(MEMBER).decode()}
    except ValueError as error:
        raise CheckpointError(str(error)) from error


@contextlib.contextmanager
def open_h5(path: Path) -> Iterator[TensorFile]:
    """A `.weights.h5` file by the names of its datasets; CheckpointError for a damaged one."""
    import h5py

    def damaged(error: Exception) -> CheckpointError:
        return CheckpointError(f"{path} must be a whole .weights.h5 file. Received: {str(error)[:300]}")

    def read(name: str) -> np.ndarray:
        try:
            value = np.asarray(file[name])
            if value.dtype.kind not in "fiu":
                raise ValueError(f"{shown(name)} of {value.dtype}, which are no real numbers")
            return value
        except DAMAGE as error:
            raise damaged(error) from error

    with contextlib.ExitStack() as stack:
        try:
            open_regular(path, "A .weights.h5 file").close()
            file = stack.enter_context(h5py.File(path))
            shapes = _check_h5(file)
            _check_keras3(path, file, shapes)
            metadata = {"pads": str(any(name.startswith("zero_padding2d") for name in file.get("layers", ())))}
            if shapes.pop(FORMAT, None) is not None:
                metadata[FORMAT] = file[FORMAT][()].decode()
        except CheckpointError:
            raise
        except DAMAGE as error:
            raise damaged(error) from error
        yield TensorFile(path, shapes, read, metadata)


def _check_keras3(path: Path, file: Any, shapes: Iterable[str]) -> None:
    """CheckpointError for what Keras 2 wrote (but for imgclsmob's weights), and for `.h5` files of whole models, whose layers
    have other names."""
    from keras_mnasnet.weights.names import TF2CV

    if "model_config" in file.attrs or "model_weights" in file:
        raise CheckpointError(
            f"A .h5 file must be the weights that Keras 3 writes (.weights.h5). Received: {path}, a whole model in Keras's "
            f"legacy format. Write it anew where it was made: keras.models.load_model(FILE, compile=False).save('model.keras')"
        )
    if "layer_names" in file.attrs and not any(TF2CV in name for name in shapes):
        raise CheckpointError(
            f"A .h5 file must be the weights that Keras 3 writes (.weights.h5). Received: {path}, weights of Keras 2. Load "
            f"them into their model with tf_keras, and copy them with get_weights and set_weights into one of keras_mnasnet"
        )


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
    with scratch() as folder:
        whole = folder / f"model{KERAS_SUFFIX if path.suffix == KERAS_SUFFIX else H5_SUFFIX}"
        if whole.suffix == KERAS_SUFFIX:
            model.save(whole)
            with zipfile.ZipFile(whole, "a") as archive:
                archive.writestr(MEMBER, header)
        else:
            import h5py

            model.save_weights(whole)
            with h5py.File(whole, "a") as file:
                file[FORMAT] = header
        with replaced(path, needs=whole.stat().st_size) as temporary:
            shutil.copyfile(whole, temporary)
