"""Write checkpoints in the sources' own formats: TF1 bundles, tar archives of them, PyTorch files (zip, legacy)."""

import json
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

TINY = "tiny: stem8 r1_k3_s11_e1_i8_o8_noskip r1_k3_s22_e3_i8_o8_se0.25 head16"
STORAGES = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "int64": "LongStorage", "int8": "CharStorage", "complex64": "ComplexFloatStorage",
}  # fmt: skip


def write_tf1(prefix: Path, tensors: dict[str, np.ndarray], *, step: int = 7) -> Path:
    """A TF1 checkpoint `<prefix>-<step>` and its `checkpoint` file; returns the prefix with the step."""
    import tensorflow as tf

    prefix.parent.mkdir(parents=True, exist_ok=True)
    name = f"{prefix}-{step}"
    names = list(tensors)
    tf.raw_ops.SaveV2(
        prefix=name,
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(tensors[n]) for n in names],
    )
    (prefix.parent / "checkpoint").write_text(f'model_checkpoint_path: "{prefix.name}-{step}"\n')
    return Path(name)


def write_tgz(archive: Path, folder: Path) -> Path:
    """A .tgz of a folder, as Google packs its checkpoints: `<name>/...`."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return archive


class _Global:
    """A global that pickles as `module.name` without being importable."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Storage:
    def __init__(self, key: str, array: np.ndarray) -> None:
        self.key, self.array = key, array


class _Pickler(pickle._Pickler):
    """A protocol-2 pickler that writes `torch` globals and storage references the way torch does."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_global_stub(self, obj):
        self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())

    dispatch[_Global] = save_global_stub

    def persistent_id(self, obj):
        if isinstance(obj, _Storage):
            kind = _Global("torch", STORAGES[str(obj.array.dtype)])
            fields = ("storage", kind, obj.key, "cpu", obj.array.size)
            return (*fields, None) if self.legacy else fields
        return None

    def save_tensor(self, obj):
        storage, shape, strides = obj.storage, obj.shape, obj.strides
        self.save_global_stub(_Global("torch._utils", "_rebuild_tensor_v2"))
        self.save((storage, 0, shape, strides, False, None, *obj.metadata))
        self.write(pickle.REDUCE)


class Negated:
    """A tensor that stores its values with the other sign, a view of torch's."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


class _Tensor:
    def __init__(self, key: str, array: np.ndarray, *metadata: dict) -> None:
        self.metadata = metadata
        self.storage, self.shape = _Storage(key, np.ascontiguousarray(array)), array.shape
        self.strides = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim))


_Pickler.dispatch[_Tensor] = _Pickler.save_tensor


class _StateDict:
    """An OrderedDict with torch's `_metadata`."""

    def __init__(self, tensors: dict, version: int | None) -> None:
        self.tensors, self.version = tensors, version


def _save_state(self, obj):
    self.write(b"ccollections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE)
    self._batch_setitems(obj.tensors.items())
    if obj.version is not None:
        self.save({"_metadata": OrderedDict({"": {"version": obj.version}})})
        self.write(pickle.BUILD)


_Pickler.dispatch[_StateDict] = _save_state


def _dump(file, value, legacy: bool) -> None:
    pickler = _Pickler(file, protocol=2)
    pickler.legacy = legacy
    pickler.dump(value)


class Parameter:
    """A tensor that is written as torch.nn.Parameter."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


def _save_parameter(self, obj):
    self.save_global_stub(_Global("torch._utils", "_rebuild_parameter"))
    self.save((obj.array, True, OrderedDict()))
    self.write(pickle.REDUCE)


_Pickler.dispatch[Parameter] = _save_parameter


class Foreign:
    """A call of something that cannot be imported here: `module.name(*arguments)`, with a state or without."""

    def __init__(self, module: str, name: str, *arguments, state=None) -> None:
        self.what, self.arguments, self.state = _Global(module, name), arguments, state


def _save_foreign(self, obj):
    if self.legacy and "_modules" in (obj.state or ()):
        self.save_pers(("module", obj.what, "model.py", "class Model: pass"))
    else:
        self.save_global_stub(obj.what)
    self.save(obj.arguments)
    self.write(pickle.REDUCE)
    if obj.state is not None:
        self.save(obj.state)
        self.write(pickle.BUILD)


_Pickler.dispatch[Foreign] = _save_foreign


def _wrapped(value, tensors: dict[int, _Tensor]):
    """A value with its arrays as tensors; the same array twice shares its storage."""
    if isinstance(value, np.ndarray):
        return tensors.setdefault(id(value), _Tensor(str(len(tensors)), value))
    if isinstance(value, Negated):
        return tensors.setdefault(id(value), _Tensor(str(len(tensors)), -value.array, {"neg": True}))
    if isinstance(value, Parameter):
        return Parameter(_wrapped(value.array, tensors))
    if isinstance(value, Foreign):
        found = Foreign(value.what.module, value.what.name, *_wrapped(list(value.arguments), tensors))
        found.state = _wrapped(value.state, tensors)
        return found
    if isinstance(value, dict):
        return type(value)((key, _wrapped(inner, tensors)) for key, inner in value.items())
    return [_wrapped(inner, tensors) for inner in value] if isinstance(value, list) else value


def write_torch(path: Path, value, *, legacy: bool = False) -> Path:
    """A file of torch.save with any nested dicts and lists of arrays, Parameters, Foreign and plain values."""
    tensors: dict[int, _Tensor] = {}
    return _write(path, _wrapped(value, tensors), list(tensors.values()), legacy)


def write_pth(path: Path, tensors: dict[str, np.ndarray], *, legacy: bool = False, version: int | None = 2) -> Path:
    """A `.pth` file as torch.save writes a state dict of that version."""
    wrapped = {name: _Tensor(str(index), np.asarray(array)) for index, (name, array) in enumerate(tensors.items())}
    return _write(path, _StateDict(wrapped, version), list(wrapped.values()), legacy)


def _write(path: Path, state, tensors: list[_Tensor], legacy: bool) -> Path:
    if legacy:
        with path.open("wb") as file:
            for header in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
                pickle.dump(header, file, protocol=2)
            _dump(file, state, legacy)
            pickle.dump([tensor.storage.key for tensor in tensors], file, protocol=2)
            for tensor in tensors:
                file.write(tensor.storage.array.size.to_bytes(8, "little") + tensor.storage.array.tobytes())
        return path
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open(f"{path.stem}/data.pkl", "w") as file:
            _dump(file, state, legacy)
        for tensor in tensors:
            archive.writestr(f"{path.stem}/data/{tensor.storage.key}", tensor.storage.array.tobytes())
    return path


def draw_timm(seed: int = 0, classes: int = 3, prefix: str = "") -> dict[str, np.ndarray]:
    """A state dict of TINY in timm's names, drawn."""
    rng = np.random.default_rng(seed)
    found = {}

    def conv(name, *shape, bias=False):
        found[f"{name}.weight"] = rng.normal(size=shape).astype(np.float32)
        if bias:
            found[f"{name}.bias"] = rng.normal(size=shape[:1]).astype(np.float32)

    def norm(name, count):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{leaf}"] = rng.random(count, np.float32) + 0.1
        found[f"{name}.num_batches_tracked"] = np.array(7)

    conv("conv_stem", 8, 3, 3, 3)
    norm("bn1", 8)
    conv("blocks.0.0.conv_dw", 8, 1, 3, 3)
    norm("blocks.0.0.bn1", 8)
    conv("blocks.0.0.conv_pw", 8, 8, 1, 1)
    norm("blocks.0.0.bn2", 8)
    conv("blocks.1.0.conv_pw", 24, 8, 1, 1)
    norm("blocks.1.0.bn1", 24)
    conv("blocks.1.0.conv_dw", 24, 1, 3, 3)
    norm("blocks.1.0.bn2", 24)
    conv("blocks.1.0.se.conv_reduce", 2, 24, 1, 1, bias=True)
    conv("blocks.1.0.se.conv_expand", 24, 2, 1, 1, bias=True)
    conv("blocks.1.0.conv_pwl", 8, 24, 1, 1)
    norm("blocks.1.0.bn3", 8)
    conv("conv_head", 16, 8, 1, 1)
    norm("bn2", 16)
    if classes:
        conv("classifier", classes, 16, bias=True)
    return {prefix + name: value for name, value in found.items()}


def write_boxes(folder: Path) -> None:
    """Two photos of 96 pixels with one box each: `boxes/1.png`, `boxes/2.png`, and COCO's annotations of them, `boxes.json`."""
    import tensorflow as tf

    generator = np.random.default_rng(0)
    (folder / "boxes").mkdir()
    images, annotations = [], []
    for number in (1, 2):
        pixels = generator.integers(0, 256, (96, 96, 3), np.uint8)
        (folder / "boxes" / f"{number}.png").write_bytes(tf.io.encode_png(pixels).numpy())
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 96})
        box = {"id": number, "image_id": number, "category_id": 1, "bbox": [8, 8, 64, 64], "area": 4096, "iscrowd": 0}
        annotations.append(box)
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
    (folder / "boxes.json").write_text(json.dumps(truth))
