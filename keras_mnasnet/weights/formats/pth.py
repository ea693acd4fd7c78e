"""A reader of PyTorch files (zip and the legacy stream) that needs no torch and executes nothing from the file.

Containers as documented in torch/serialization.py. The pickles in them are not unpickled: a stack machine of the opcodes that
torch and Python write for data builds plain dicts, lists, tuples and tensor views. Every other name in a pickle becomes a
placeholder: nothing is imported, called or looked up for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import os
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from keras_mnasnet.utils.reading import LARGEST_MODEL, check_growth, check_limit, open_regular, open_zip, read_bytes, shown
from keras_mnasnet.weights.checkpoint import CheckpointError
from keras_mnasnet.weights.formats import TensorFile
from keras_mnasnet.weights.names import WHOLE_MODEL

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
    "UntypedStorage": np.dtype("u1"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
    "QInt8Storage": np.dtype("i1"),
    "QUInt8Storage": np.dtype("u1"),
    "QInt32Storage": np.dtype("<i4"),
}
OTHER_TENSORS = {  # what a call would have made: what it is, and the way on
    "_rebuild_qtensor": "a quantized tensor: save the network as it was before its quantization",
    "_rebuild_sparse_tensor": "a sparse tensor: save tensor.to_dense()",
    "_rebuild_meta_tensor_no_storage": "a tensor of the meta device, without values: save the network with its weights loaded",
    "_rebuild_tensor_v3": "a tensor of 8 bits or of another type that is not read: save tensor.float()",
    "_reconstruct": "an array of NumPy: save torch.from_numpy(array)",
}
DICTS = ("collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict", "__builtin__.dict")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINFLOAT", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}
LONGEST_NAME = 200  # characters of a key that can name a tensor
MOST_NESTED = 6  # dicts in dicts that are looked into: callbacks, their names, their states


@dataclasses.dataclass(slots=True, eq=False)
class _Inert:
    """Something of a pickle that is not data: a class, a function, or what it would have made. Nothing is run for it."""

    name: str
    is_model: bool = False

    def __str__(self) -> str:
        if self.is_model:
            return f"{WHOLE_MODEL}, {self.name},"
        return OTHER_TENSORS.get(self.name.rpartition(".")[2], f"{self.name}, which was not run")


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
    negated: bool = False

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.storage.itemsize

    def array(self, data: bytes | memoryview) -> np.ndarray:
        if len(data) != self.storage.nbytes:
            raise EOFError(f"storage {self.storage.key[:40]} must have {self.storage.nbytes} bytes, and has {len(data)}")
        dtype = np.dtype("<u2") if self.storage.dtype is BFLOAT16 else self.storage.dtype
        if math.prod(self.shape) == 0:
            view = np.empty(self.shape, dtype)
        else:
            flat = np.frombuffer(data, dtype=dtype, count=self.storage.numel)[self.offset :]
            strides = tuple(stride * dtype.itemsize for stride in self.strides)
            view = np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False).copy()
        if self.storage.dtype is BFLOAT16:
            view = (view.astype(np.uint32) << 16).view(np.float32)
        return -view if self.negated else view


@contextlib.contextmanager
def open_pth(path: Path) -> Iterator[TensorFile]:
    """A file of torch.save by the names of its tensors, those in dicts as `dict/name`; bfloat16 comes as float32.

    Raises CheckpointError for anything but dicts of tensors and plain values, and for a damaged or truncated file.
    """
    with contextlib.ExitStack() as stack:
        with _damage(path):
            with open_regular(path, "A PyTorch file") as file:
                size = check_limit("model", os.fstat(file.fileno()).st_size, "A PyTorch file")
                zipped = zipfile.is_zipfile(file)
                file.seek(0)
                if not zipped and file.read(4) == b"PK\x03\x04":
                    raise EOFError("a zip archive without its end")
            root, data = _read_zip(path, stack) if zipped else _read_legacy(path)
            tensors, others = _flat(root)
            check_growth("views", sum(tensor.nbytes for tensor in tensors.values()), size, "The tensors of a PyTorch file")

        def read(name: str) -> np.ndarray:
            with _damage(path):
                return tensors[name].array(data(tensors[name].storage))

        yield TensorFile(path, {name: tensor.shape for name, tensor in tensors.items()}, read, others=others)


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except DAMAGE as error:
        raise CheckpointError(
            f"{path} must be a whole PyTorch file (zip or legacy). Received: a truncated, damaged or other file "
            f"({type(error).__name__}: {str(error)[:300]}). Fetch it again."
        ) from error


def _load(file: BinaryIO, storages: dict[str, _Storage]) -> Any:
    """The value of one pickle; the file is left behind its end. The storages that it refers to are put into `storages`."""
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
        check_limit("opcodes", count, "A PyTorch file")
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        if name in ("PROTO", "FRAME"):
            continue
        if name in LITERALS:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(pop_to_mark()))
        elif name in ("LIST", "FROZENSET"):
            stack.append(pop_to_mark())
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [stack.pop()] if name == "APPEND" else pop_to_mark()
            if not isinstance(stack[-1], _Inert):
                _typed(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS", "DICT"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else pop_to_mark()
            if name == "DICT":
                stack.append({})
            if not isinstance(stack[-1], _Inert):
                target = _typed(stack[-1], dict)
                target.update((_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))
        elif name in ("POP", "POP_MARK", "DUP"):
            if name == "DUP":
                stack.append(stack[-1])
            elif name == "POP_MARK" or (marks and marks[-1] == len(stack)):
                pop_to_mark()
            else:
                stack.pop()
        elif name in ("GLOBAL", "INST"):
            made = _Inert(".".join(argument.split(" ", 1))[:LONGEST_NAME])
            if name == "INST":
                pop_to_mark()
            stack.append(made)
        elif name == "STACK_GLOBAL":
            stack[-2:] = [_Inert(".".join(_typed(each, str) for each in stack[-2:])[:LONGEST_NAME])]
        elif name == "BINPERSID":
            stack.append(_referred(stack.pop()))
            if isinstance(stack[-1], _Storage):
                storages[stack[-1].key] = stack[-1]
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ"):
            if name == "OBJ":
                function, *arguments = pop_to_mark()
                stack.append(_call(function, tuple(arguments)))
                continue
            if name == "NEWOBJ_EX":
                stack.pop()
            arguments = stack.pop()
            stack.append(_call(stack.pop(), arguments))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], _Inert):
                stack[-1].is_model = isinstance(state, dict) and {"_parameters", "_modules"} <= state.keys()
        else:
            raise CheckpointError(f"A PyTorch file may hold tensors, dicts and plain values. Received: the opcode {name}")
    raise EOFError("the pickle has no end")


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise CheckpointError(
            f"A PyTorch file may hold tensors, dicts and plain values. Received: a {type(value).__name__} for a {kind.__name__}"
        )
    return value


def _key(value: Any) -> Any:
    """A key of a dict; one that is no plain value becomes a placeholder, since the hash of a tuple may take forever."""
    return value if value is None or type(value) in (str, int, float, bool, bytes) else _Inert(f"a {type(value).__name__}")


def _referred(reference: Any) -> _Storage | _Inert:
    """The storage that a reference names, or the class of a module, whose source legacy files carry."""
    if _typed(reference, tuple)[:1] == ("module",):
        return _typed(reference[1], _Inert)
    kind, storage_type, key, _, numel, *view = reference
    name = _typed(storage_type, _Inert).name.rpartition(".")[2]
    if _typed(kind, str) != "storage" or name not in STORAGES or (view and view[0] is not None):
        raise CheckpointError("A PyTorch file's references must be to whole storages. Received: another reference")
    return _Storage(_typed(key, str), STORAGES[name], _count(numel))


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 48:
        raise CheckpointError(f"A size, offset or stride must be an integer >= 0. Received: {shown(value)}")
    return value


def _call(function: Any, arguments: Any) -> Any:
    """What a call in a pickle stands for: a tensor, a dict, a list of sizes, or a placeholder."""
    name = _typed(function, _Inert).name
    _typed(arguments, tuple)
    if name in DICTS:
        pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
        return {_key(pair[0]): pair[1] for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2}
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        return arguments[0] if isinstance(arguments[0], _Tensor | _Inert) else _Inert(name)
    if name == "torch._tensor._rebuild_from_type_v2":
        return _call(arguments[0], arguments[2])
    if name == "torch.Size" and arguments:
        return arguments[0]
    if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        return _tensor(*arguments[:4], negated=len(arguments) > 6 and bool(_typed(arguments[6] or {}, dict).get("neg")))
    if name == "copy_reg._reconstructor" or name == "copyreg._reconstructor":
        return _Inert(_typed(arguments[0], _Inert).name)
    return _Inert(name)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *, negated: bool) -> _Tensor:
    _typed(storage, _Storage)
    for numbers in (shape, strides):
        check_limit("dimensions", len(_typed(numbers, tuple)), "A tensor of a PyTorch file")
    shape, strides = (tuple(map(_count, numbers)) for numbers in (shape, strides))
    size = math.prod(shape)
    last = _count(offset) + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if size else 0
    if size > storage.numel or (size and last >= storage.numel):
        raise CheckpointError(
            f"A tensor must lie inside its storage of {storage.numel} values. Received: shape {shape}, strides {strides}, "
            f"offset {offset}"
        )
    return _Tensor(storage, offset, shape, strides, negated)


Data = Callable[[_Storage], bytes | memoryview]


def _read_zip(path: Path, stack: contextlib.ExitStack) -> tuple[Any, Data]:
    archive = stack.enter_context(open_zip(path, "A PyTorch file"))
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise CheckpointError(f"A zip of PyTorch holds one data.pkl. Received: {shown(list(members))}")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members or any(name.startswith(f"{folder}code/") for name in members):
        raise CheckpointError(
            "A checkpoint must hold tensors by their names. Received: a TorchScript program, of which nothing was run. Save "
            "its weights alone in PyTorch: torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise CheckpointError(
            "A zip of PyTorch is not compressed. Received: compressed members. Pack it again without: unzip it, then "
            "`zip -0 -r NEW.pth FOLDER` of what was in it"
        )
    check_limit("text", members[pickles[0]].file_size, "data.pkl")
    if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
        raise CheckpointError("Only little-endian PyTorch files are read. Received: a big-endian one")

    @functools.lru_cache(maxsize=1)
    def data(storage: _Storage) -> bytes:
        return archive.read(f"{folder}data/{storage.key}")

    return _load(io.BytesIO(archive.read(pickles[0])), {}), data


def _read_legacy(path: Path) -> tuple[Any, Data]:
    content = read_bytes(path, "A PyTorch file", limit=LARGEST_MODEL)
    stream = io.BytesIO(content)
    storages: dict[str, _Storage] = {}
    if _load(stream, {}) != LEGACY_MAGIC:
        raise CheckpointError("The file must begin with PyTorch's magic number. Received: a pickle of something else")
    if _load(stream, {}) != LEGACY_PROTOCOL:
        raise CheckpointError(f"The legacy protocol must be {LEGACY_PROTOCOL}. Received: another")
    if not _typed(_load(stream, {}), dict).get("little_endian", True):
        raise CheckpointError("Only little-endian PyTorch files are read. Received: a big-endian one")
    root = _load(stream, storages)
    view, places = memoryview(content), {}
    for key in _typed(_load(stream, {}), list):
        storage = storages.get(_typed(key, str))
        count = int.from_bytes(stream.read(8), "little")
        if storage is None or count != storage.numel:
            raise CheckpointError(
                f"Storage {key[:40]} must be one that a tensor views. Received: {count} values under {shown(key)}"
            )
        places[key] = view[stream.tell() : stream.tell() + storage.nbytes]
        stream.seek(storage.nbytes, os.SEEK_CUR)
    return root, lambda storage: places.get(storage.key, b"")


def _flat(root: Any) -> tuple[dict[str, _Tensor], dict[str, str]]:
    """(the tensors by their names, `dict/name` for those in dicts; what else there is, by name) of what a file holds."""
    tensors: dict[str, _Tensor] = {}
    others: dict[str, str] = {}
    if not isinstance(root, dict):
        if isinstance(root, _Inert) and root.is_model:
            return tensors, {"": str(root)}
        raise CheckpointError(
            f"A PyTorch file must hold a dict of tensors. Received: {_kind(root)}. Save the dict alone in PyTorch: "
            f"torch.save(model.state_dict(), FILE)"
        )
    seen = {id(root)}
    level = [("", root)]
    for depth in range(MOST_NESTED):
        inner = []
        for place, found in level:
            for key, value in found.items():
                name = place + (key if isinstance(key, str) and len(key) <= LONGEST_NAME else shown(key))
                if isinstance(value, _Tensor):
                    tensors[name] = value
                elif isinstance(value, dict) and value and depth + 1 < MOST_NESTED:
                    if id(value) not in seen:
                        seen.add(id(value))
                        inner.append((f"{name}/", value))
                else:
                    others[name] = _kind(value)
        level = inner
    return tensors, others


def _kind(value: Any) -> str:
    return str(value) if isinstance(value, _Inert) else type(value).__name__.strip("_").lower()
