"""A reader of PyTorch `.pth` files (zip and the legacy stream) that needs no torch and executes nothing from the file.

Containers as documented in torch/serialization.py. The pickles in them are not unpickled: a stack machine of the few opcodes
that torch writes for a state dict builds plain dicts, tuples and tensor views. Everything else is refused by name.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import pickletools
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from keras_mnasnet.utils.reading import LARGEST_MODEL, check_growth, check_limit, open_regular, open_zip, read_bytes, shown
from keras_mnasnet.weights.checkpoint import CheckpointError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
DAMAGE = (ValueError, LookupError, EOFError, RuntimeError, TypeError, AttributeError, OverflowError, MemoryError)
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
ORDERED_DICT = ("collections", "OrderedDict")
REBUILD_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
REBUILD_PARAMETER = ("torch._utils", "_rebuild_parameter")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINFLOAT"}


@dataclasses.dataclass(frozen=True, slots=True)
class _Global:
    """A name in a pickle; nothing is imported for it."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage:
    """A reference to a flat run of values."""

    key: str
    dtype: Any
    numel: int

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype is BFLOAT16 else self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.numel * self.itemsize


@dataclasses.dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, data: bytes) -> np.ndarray:
        dtype = np.dtype("<u2") if self.storage.dtype is BFLOAT16 else self.storage.dtype
        if math.prod(self.shape) == 0:
            view = np.empty(self.shape, dtype)
        else:
            flat = np.frombuffer(data, dtype=dtype, count=self.storage.numel)[self.offset :]
            strides = tuple(stride * dtype.itemsize for stride in self.strides)
            view = np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False).copy()
        if self.storage.dtype is BFLOAT16:
            return (view.astype(np.uint32) << 16).view(np.float32)
        return view


class _StateDict(dict):
    """An OrderedDict of a pickle, with the version that torch keeps in its `_metadata`."""

    version: int | None = None


def read_pth(path: str | Path) -> tuple[dict[str, np.ndarray], int | None]:
    """({name: array}, state-dict version or None) of a `.pth` file; bfloat16 comes as float32.

    Raises CheckpointError for anything but a dict of tensors, and for a damaged or truncated file.
    """
    path = Path(path)
    try:
        with open_regular(path, "A .pth file") as file:
            size = check_limit("model", os.fstat(file.fileno()).st_size, "A .pth file")
            zipped = zipfile.is_zipfile(file)
        state, storages = _read_zip(path) if zipped else _read_legacy(path)
        return _arrays(state, storages, size)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except DAMAGE as error:
        raise CheckpointError(
            f"{path} must be a whole PyTorch file (zip or legacy). Received: a truncated, damaged or other file "
            f"({type(error).__name__}: {str(error)[:300]}). Fetch it again."
        ) from error


def _load(file: BinaryIO) -> Any:
    """The value of one pickle, by the opcodes that torch writes for state dicts; the file is left behind its end."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        position = marks.pop()
        items = stack[position:]
        del stack[position:]
        return items

    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file), 1):
        check_limit("opcodes", count, "A .pth file")
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        if name in ("PROTO", "FRAME"):
            continue
        if name in LITERALS:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"):
            stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": _StateDict()}[name])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(pop_to_mark()))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else pop_to_mark()
            _typed(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else pop_to_mark()
            target = _typed(stack[-1], _StateDict)
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_typed(key, str)] = value
        elif name == "GLOBAL":
            stack.append(_known(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [_known(*stack[-2:])]
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_call(stack.pop(), arguments))
        elif name == "BUILD":
            _set_metadata(stack[-2], stack.pop())
        else:
            raise CheckpointError(f"A .pth file may hold tensors and ordered dicts only. Received: the opcode {name}")
    raise EOFError("the pickle has no end")


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise CheckpointError(
            f"A .pth file may hold names and tensors only. Received: a {type(value).__name__} for a {kind.__name__}"
        )
    return value


def _known(module: Any, name: Any) -> _Global:
    module, name = _typed(module, str), _typed(name, str)
    if (module, name) in (ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER) or (module == "torch" and name in STORAGES):
        return _Global(module, name)
    raise CheckpointError(
        f"A .pth file may hold tensors and ordered dicts only. Received: {module[:80]}.{name[:80]}, which was not run. "
        f"Do not open this file with torch either unless you trust where it comes from."
    )


def _storage(reference: Any) -> _Storage:
    kind, storage_type, key, _, numel, *view = _typed(reference, tuple)
    _typed(storage_type, _Global)
    if _typed(kind, str) != "storage" or storage_type.name not in STORAGES or (view and view[0] is not None):
        raise CheckpointError("A .pth file's references must be to whole storages. Received: another reference")
    return _Storage(_typed(key, str), STORAGES[storage_type.name], _count(numel))


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 48:
        raise CheckpointError(f"A size, offset or stride must be an integer >= 0. Received: {shown(value)}")
    return value


def _call(function: Any, arguments: Any) -> Any:
    _typed(arguments, tuple)
    called = (_typed(function, _Global).module, function.name)
    if called == ORDERED_DICT and not arguments:
        return _StateDict()
    if called == REBUILD_PARAMETER:
        return _typed(arguments[0], _Tensor)
    if called != REBUILD_TENSOR:
        raise CheckpointError(f"A .pth file may hold tensors and ordered dicts only. Received: a call of {'.'.join(called)}")
    storage, offset, shape, strides = arguments[:4]
    _typed(storage, _Storage)
    for numbers in (shape, strides):
        check_limit("dimensions", len(_typed(numbers, tuple)), "A tensor of a .pth file")
    shape, strides = (tuple(map(_count, numbers)) for numbers in (shape, strides))
    size = math.prod(shape)
    last = _count(offset) + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if size else 0
    if size > storage.numel or (size and last >= storage.numel):
        raise CheckpointError(
            f"A tensor must lie inside its storage of {storage.numel} values. Received: shape {shape}, strides {strides}, "
            f"offset {offset}"
        )
    return _Tensor(storage, offset, shape, strides)


def _set_metadata(target: Any, state: Any) -> None:
    """torch sets one attribute of the state dict, `_metadata`; its root entry has the version."""
    root = _typed(_typed(state, _StateDict).get("_metadata", _StateDict()), _StateDict).get("")
    version = root.get("version") if isinstance(root, _StateDict) else None
    _typed(target, _StateDict).version = version if isinstance(version, int) else None


def _read_zip(path: Path) -> tuple[Any, dict[str, bytes]]:
    with open_zip(path, "A .pth file") as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError(f"A zip .pth file holds one data.pkl. Received: {shown(list(members))}")
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise CheckpointError("A zip .pth file is not compressed. Received: compressed members")
        check_limit("text", members[pickles[0]].file_size, "data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
            raise CheckpointError("Only little-endian .pth files are read. Received: a big-endian one")
        state = _load(io.BytesIO(archive.read(pickles[0])))
        return state, {key: archive.read(f"{folder}data/{key}") for key in _storages(state)}


def _read_legacy(path: Path) -> tuple[Any, dict[str, bytes]]:
    stream = io.BytesIO(read_bytes(path, "A .pth file", limit=LARGEST_MODEL))
    if _load(stream) != LEGACY_MAGIC:
        raise CheckpointError("The file must begin with PyTorch's magic number. Received: another pickle")
    if _load(stream) != LEGACY_PROTOCOL:
        raise CheckpointError(f"The legacy protocol must be {LEGACY_PROTOCOL}. Received: another")
    if not _typed(_load(stream), dict).get("little_endian", True):
        raise CheckpointError("Only little-endian .pth files are read. Received: a big-endian one")
    state = _load(stream)
    known = _storages(state)
    data = {}
    for key in _typed(_load(stream), list):
        storage = known.get(_typed(key, str))
        count = int.from_bytes(stream.read(8), "little")
        if storage is None or count != storage.numel:
            raise CheckpointError(
                f"Storage {key[:40]} must be one that a tensor views. Received: {count} values under {shown(key)}"
            )
        data[key] = stream.read(storage.nbytes)
    return state, data


def _entries(state: Any) -> _StateDict:
    """The state dict itself, also from inside {"state_dict": ...}."""
    if not isinstance(state, _StateDict):
        raise CheckpointError(f"A .pth file must hold a dict of tensors. Received: {type(state).__name__}")
    inner = state.get("state_dict")
    if len(state) == 1 and isinstance(inner, _StateDict):
        state = inner
    for name, value in state.items():
        if not isinstance(value, _Tensor):
            raise CheckpointError(
                f"A .pth file must hold names and tensors only. Received: {shown(name)} -> {type(value).__name__}"
            )
    return state


def _storages(state: Any) -> dict[str, _Storage]:
    return {tensor.storage.key: tensor.storage for tensor in _entries(state).values()}


def _arrays(state: Any, data: dict[str, bytes], size: int) -> tuple[dict[str, np.ndarray], int | None]:
    entries = _entries(state)
    copied = sum(math.prod(tensor.shape) * tensor.storage.itemsize for tensor in entries.values())
    check_growth("views", copied, size, "The tensors of a .pth file")
    for tensor in entries.values():
        received = len(data.get(tensor.storage.key, b""))
        if received != tensor.storage.nbytes:
            raise EOFError(f"storage {tensor.storage.key[:40]} must have {tensor.storage.nbytes} bytes, and has {received}")
    arrays = {name: tensor.array(data[tensor.storage.key]) for name, tensor in entries.items()}
    return arrays, entries.version
