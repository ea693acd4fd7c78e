"""MindSpore's checkpoints, `.ckpt`: protocol buffers of named tensors. No MindSpore.

Source: mindspore/ccsrc/utils/checkpoint.proto (Checkpoint 1: Value; Value 1: tag, 2: tensor; TensorProto 1: dims, 2:
tensor_type, 3: tensor_content), and the names of types in mindspore/train/serialization.py.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.utils.reading import LARGEST_MODEL, check_limit, read_bytes, shown
from keras_mnasnet.weights.checkpoint import CheckpointError
from keras_mnasnet.weights.formats import TensorFile, protobuf

TYPES = {"Float16": "<f2", "Float32": "<f4", "Float64": "<f8", "Int32": "<i4", "Int64": "<i8", "Int8": "i1", "UInt8": "u1"}
DAMAGE = (ValueError, TypeError, LookupError, OverflowError, MemoryError)


def is_mindspore(head: bytes) -> bool:
    """Whether a file begins with a tag of letters and the dimensions of its tensor; a TensorFlow graph has a text there."""
    try:
        data = memoryview(head)
        at = 0
        for mark in (10, 10):
            if data[at] != mark:
                return False
            size, at = protobuf.varint(data, at + 1)
        tag = bytes(data[at : at + size])
        at += size
        if not tag.isascii() or not tag.decode().isprintable() or not tag or data[at] != 18:
            return False
        _, at = protobuf.varint(data, at + 1)
        return data[at] in (8, 18)
    except (ValueError, IndexError):
        return False


def open_mindspore(path: Path) -> TensorFile:
    """A `.ckpt` of MindSpore by its tags. CheckpointError for a damaged one."""
    content = read_bytes(path, "A .ckpt file of MindSpore", limit=LARGEST_MODEL)
    try:
        values = protobuf.message(content).get(1, [])
        check_limit("members", len(values), "A .ckpt file of MindSpore")
        tensors = dict(filter(None, map(_tensor, values)))
    except DAMAGE as error:
        raise CheckpointError(f"A .ckpt file of MindSpore must be whole. Received: {path}: {str(error)[:300]}") from error
    return TensorFile(path, {name: value.shape for name, value in tensors.items()}, tensors.__getitem__)


def _tensor(value: Any) -> tuple[str, np.ndarray] | None:
    """One tensor by its tag; None for what is no number, such as a text beside the weights."""
    said = protobuf.message(value)
    name, tensor = protobuf.text(protobuf.last(said, 1)), protobuf.message(protobuf.last(said, 2, b""))
    shape, kind = tuple(protobuf.whole_numbers(tensor, 1)), protobuf.text(protobuf.last(tensor, 2))
    check_limit("dimensions", len(shape), "A tensor of a .ckpt file")
    if kind not in TYPES:
        return None
    data = protobuf.last(tensor, 3, b"")
    dtype = np.dtype(TYPES[kind])
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"the tensor {shown(name)} of the shape {list(shape)} in {len(data):,} bytes")
    return name, np.frombuffer(data, dtype).reshape(shape)
