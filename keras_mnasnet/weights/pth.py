"""A reader of PyTorch `.pth` files (zip and the legacy stream) that needs no torch and executes nothing from the file.

Containers as documented in torch/serialization.py. The unpickler knows ordered dicts and tensors; every other global in
the pickle is refused before it is looked up.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from keras_mnasnet.weights.errors import CheckpointError

__all__ = ["read_pth"]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
BFLOAT16 = "bfloat16"
STORAGES: dict[str, Any] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class _StorageType:
    """Stands for torch.<Type>Storage inside a pickle."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype is BFLOAT16 else self.dtype.itemsize


class _Storage:
    """A flat run of values; `data` is filled before tensors are made from it."""

    __slots__ = ("data", "numel", "type")

    def __init__(self, storage_type: _StorageType, numel: int) -> None:
        self.type = storage_type
        self.numel = numel
        self.data: bytes | None = None


class _Tensor:
    """A view of a storage, made while unpickling and read afterwards; has no state that a pickle could set."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any) -> None:
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or len(shape) != len(strides):
            raise CheckpointError("A tensor in the file must be a view of a storage. Received: something else")
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise CheckpointError(f"A tensor's offset, shape and strides must be >= 0. Received: {numbers}")
        self.storage, self.offset, self.shape, self.strides = storage, offset, tuple(shape), tuple(strides)

    def array(self) -> np.ndarray:
        storage = self.storage
        size = math.prod(self.shape)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)) if size else 0
        if storage.data is None or (size and last >= storage.numel):
            raise CheckpointError(
                f"A tensor must lie inside its storage of {storage.numel} values. Received: one that ends at {last}"
            )
        dtype = np.dtype("<u2") if storage.type.dtype is BFLOAT16 else storage.type.dtype
        flat = np.frombuffer(storage.data, dtype=dtype, count=storage.numel)
        if size:
            strides = tuple(stride * dtype.itemsize for stride in self.strides)
            view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False).copy()
        else:
            view = np.empty(self.shape, dtype)
        if storage.type.dtype is BFLOAT16:
            return (view.astype(np.uint32) << 16).view(np.float32)
        return view


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


class _Unpickler(pickle.Unpickler):
    """Knows what a state dict is made of; `find_class` is the only door to code, and it has a list."""

    def __init__(self, file: BinaryIO, storages: dict[str, _Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in STORAGES:
            return _StorageType(STORAGES[name])
        raise CheckpointError(
            f"A .pth file may hold tensors and ordered dicts only. Received: {module}.{name}, which was not run. "
            f"Do not open this file with torch either unless you trust where it comes from."
        )

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"):
            raise CheckpointError(f"A .pth file's references must be to storages. Received: {str(pid)[:80]}")
        _, storage_type, key, _, numel = pid[:5]
        if not isinstance(storage_type, _StorageType) or not isinstance(numel, int) or numel < 0:
            raise CheckpointError(f"A storage needs a type and a length. Received: {str(pid)[:80]}")
        if len(pid) > 5 and pid[5] is not None:
            raise CheckpointError("Storages that are views of others (torch < 0.4) are not read. Received: one such")
        return self.storages.setdefault(str(key), _Storage(storage_type, numel))


def read_pth(path: str | Path) -> tuple[dict[str, np.ndarray], int | None]:
    """({name: array}, state-dict version or None) of a `.pth` file; bfloat16 comes as float32.

    Raises CheckpointError for anything but a dict of tensors, and for a damaged or truncated file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            state = _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file, path.stat().st_size)
        return _tensors(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (pickle.UnpicklingError, EOFError, zipfile.BadZipFile, OSError, ValueError, TypeError, KeyError,
            AttributeError, IndexError, ImportError, MemoryError, OverflowError) as error:  # fmt: skip
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CheckpointError(
            f"{path} must be a whole PyTorch file (zip or legacy). Received: a truncated, damaged or other file "
            f"({type(error).__name__}: {error}). Fetch it again."
        ) from error


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError(f"A zip .pth file holds one data.pkl. Received: {archive.namelist()[:5]}")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise CheckpointError("Only little-endian .pth files are read. Received: a big-endian one")
        storages: dict[str, _Storage] = {}
        state = _Unpickler(io.BytesIO(archive.read(pickles[0])), storages).load()
        for key, storage in storages.items():
            data = archive.read(f"{folder}data/{key}")
            if len(data) < storage.numel * storage.type.itemsize:
                raise CheckpointError(f"Storage {key} must hold {storage.numel} values. Received: {len(data)} bytes")
            storage.data = data
    return state


def _read_legacy(file: BinaryIO, file_size: int) -> Any:
    file.seek(0)
    storages: dict[str, _Storage] = {}

    def load() -> Any:
        return _Unpickler(file, storages).load()

    if load() != LEGACY_MAGIC:
        raise CheckpointError("The file must begin with PyTorch's magic number. Received: another pickle")
    if load() != LEGACY_PROTOCOL:
        raise CheckpointError(f"The legacy protocol must be {LEGACY_PROTOCOL}. Received: another")
    if not load().get("little_endian", True):
        raise CheckpointError("Only little-endian .pth files are read. Received: a big-endian one")
    state = load()
    for key in load():
        storage = storages[str(key)]
        count = int.from_bytes(file.read(8), "little")
        length = storage.numel * storage.type.itemsize
        if count != storage.numel or length > file_size:
            raise CheckpointError(f"Storage {key} must hold {storage.numel} values. Received: {count}")
        storage.data = file.read(length)
        if len(storage.data) != length:
            raise EOFError(f"storage {key} ends early")
    return state


def _tensors(state: Any) -> tuple[dict[str, np.ndarray], int | None]:
    if not isinstance(state, dict):
        raise CheckpointError(f"A .pth file must hold a dict of tensors. Received: {type(state).__name__}")
    metadata = getattr(state, "_metadata", None)
    root = metadata.get("", {}) if isinstance(metadata, dict) else {}
    version = root.get("version") if isinstance(root, dict) else None
    if set(state) == {"state_dict"} and isinstance(state["state_dict"], dict):
        return _tensors(state["state_dict"])
    arrays = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise CheckpointError(f"A .pth file must hold names and tensors only. Received: {name!r} -> {type(value).__name__}")
        arrays[name] = value.array()
    return arrays, version if isinstance(version, int) else None
