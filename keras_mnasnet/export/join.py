"""Two `.tflite` graphs as one: what the first puts out, the second takes in."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_mnasnet.export.flatbuffer import aligned, attach, pack, signature_of
from keras_mnasnet.export.rewrite import renamed

__all__ = ["joined"]


def joined(body: bytes, tail: bytes, *, description: str, metadata: Mapping[str, bytes]) -> bytes:
    """`tail`'s inputs are `body`'s outputs of the same name, type and shape; its outputs are the result's."""
    first, second = (schema.ModelT.InitFromPackedBuf(content, 0) for content in (body, tail))
    graph, added = first.subgraphs[0], second.subgraphs[0]
    given, wanted = _ports(first.signatureDefs[0].outputs), _ports(second.signatureDefs[0].inputs)
    if set(wanted) - set(given):
        raise ValueError(f"The tail must take outputs of the body. Received: {sorted(wanted)} for {sorted(given)}")
    place = {}
    for name, index in wanted.items():
        ours, theirs = graph.tensors[given[name]], added.tensors[index]
        if (ours.type, list(ours.shape)) != (theirs.type, list(theirs.shape)):
            raise ValueError(
                f"The tail's input {name!r} must be of the body's type and shape. "
                f"Received: {theirs.type} {list(theirs.shape)} for {ours.type} {list(ours.shape)}"
            )
        place[index] = given[name]
    buffers, codes = len(first.buffers), len(first.operatorCodes)
    for index, tensor in enumerate(added.tensors):
        if index not in place:
            place[index] = len(graph.tensors)
            tensor.buffer += buffers
            graph.tensors.append(tensor)
    for operator in added.operators:
        operator.opcodeIndex += codes
        operator.inputs = [place[int(tensor)] if tensor >= 0 else -1 for tensor in operator.inputs]
        operator.outputs = [place[int(tensor)] for tensor in operator.outputs]
        graph.operators.append(operator)
    first.operatorCodes = [*first.operatorCodes, *second.operatorCodes]
    outputs = {name: place[index] for name, index in _ports(second.signatureDefs[0].outputs).items()}
    for name, index in outputs.items():
        renamed(graph, name, index)
    graph.outputs = list(outputs.values())
    first.signatureDefs = [signature_of("serving_default", _ports(first.signatureDefs[0].inputs), outputs)]
    first.description, first.metadata = description, None
    first.buffers = [_copied(buffer) for buffer in (*first.buffers, *second.buffers)]
    attach(first, metadata)
    return pack(first)


def _ports(maps: Any) -> dict[str, int]:
    return {entry.name.decode(): int(entry.tensorIndex) for entry in maps}


def _copied(buffer: Any) -> Any:
    return aligned(None if buffer.data is None else np.asarray(copy.copy(buffer.data), np.uint8))
