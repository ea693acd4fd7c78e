"""A `.tflite` flatbuffer, tensor by tensor and operator by operator, without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

__all__ = ["ModelWriter", "aligned", "attach", "pack", "signature_of"]

ALIGNMENT = 16
FILE_IDENTIFIER = b"TFL3"
TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.uint8): schema.TensorType.UINT8,
}
PLACEHOLDER_CODE = 127  # what `deprecated_builtin_code` holds for newer operators


class _Buffer(schema.BufferT):
    """A buffer whose bytes begin at a multiple of 16, which the schema asks for and its Python class does not do."""

    def Pack(self, builder: Any) -> Any:
        vector = None
        if self.data is not None:
            content = np.ascontiguousarray(self.data).tobytes()
            builder.StartVector(1, len(content), ALIGNMENT)
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


class ModelWriter:
    """Collects tensors and operators of one subgraph; `finish` gives the file's bytes."""

    def __init__(self) -> None:
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [_Buffer()]
        self._operators: list[Any] = []
        self._codes: dict[tuple[int, int, str | None], int] = {}

    def tensor(
        self, name: str, shape: Sequence[int], dtype: Any = np.float32, data: np.ndarray | None = None,
        scale: np.ndarray | float | None = None, zero_point: int = 0, axis: int = 0,
    ) -> int:  # fmt: skip
        """Add a tensor, constant if it has `data`; `scale` (one, or one per channel of `axis`) makes it a quantized one."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, [int(side) for side in shape], TYPES[np.dtype(dtype)]
        tensor.hasRank = True
        if data is not None:
            tensor.buffer = len(self._buffers)
            self._buffers.append(aligned(np.asarray(data, dtype)))
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            quantization = schema.QuantizationParametersT()
            quantization.scale = scales
            quantization.zeroPoint = np.full(len(scales), zero_point, np.int64)
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def operator(self, name: str, inputs: Sequence[int], outputs: Sequence[int], version: int = 1, options: Any = None) -> None:
        """Add an operator by its builtin name (`CONV_2D`); `options` is the schema's options object."""
        code = getattr(schema.BuiltinOperator, name)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes.setdefault((code, version, None), len(self._codes))
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self._operators.append(operator)

    def custom(self, name: str, inputs: Sequence[int], outputs: Sequence[int], options: bytes) -> None:
        """Add a custom operator; `options` is its FlexBuffer."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes.setdefault((schema.BuiltinOperator.CUSTOM, 1, name), len(self._codes))
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        operator.customOptions = np.frombuffer(options, np.uint8)
        self._operators.append(operator)

    def finish(
        self, inputs: Mapping[str, int], outputs: Mapping[str, int], *, description: str, metadata: Mapping[str, bytes],
        signature: str = "serving_default",
    ) -> bytes:  # fmt: skip
        """The file: `inputs` and `outputs` are the signature's names with their tensors."""
        subgraph = schema.SubGraphT()
        subgraph.name, subgraph.tensors, subgraph.operators = "main", self._tensors, self._operators
        subgraph.inputs, subgraph.outputs = list(inputs.values()), list(outputs.values())
        model = schema.ModelT()
        model.version, model.description = 3, description
        model.subgraphs, model.buffers = [subgraph], self._buffers
        model.operatorCodes = [_operator_code(*key) for key in self._codes]
        model.signatureDefs = [signature_of(signature, inputs, outputs)]
        attach(model, metadata)
        return pack(model)


def aligned(data: np.ndarray | None) -> Any:
    """A buffer of these bytes (None: an empty one) that begins at a multiple of 16."""
    buffer = _Buffer()
    buffer.data = data
    return buffer


def attach(model: Any, metadata: Mapping[str, bytes]) -> None:
    """Add named metadata buffers to a ModelT."""
    model.metadata = list(model.metadata or [])
    for name, content in metadata.items():
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(model.buffers)
        model.buffers.append(aligned(np.frombuffer(content, np.uint8)))
        model.metadata.append(entry)


def pack(model: Any) -> bytes:
    """The file of a ModelT."""
    size = sum(0 if buffer.data is None else buffer.data.nbytes for buffer in model.buffers)
    builder = flatbuffers.Builder(size + (1 << 18))
    builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
    return bytes(builder.Output())


def _operator_code(code: int, version: int, custom: str | None) -> Any:
    found = schema.OperatorCodeT()
    found.customCode = custom
    found.builtinCode, found.version = code, version
    found.deprecatedBuiltinCode = min(code, PLACEHOLDER_CODE)
    return found


def signature_of(key: str, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Any:
    """A signature over {name: tensor}."""
    signature = schema.SignatureDefT()
    signature.signatureKey = key
    signature.inputs, signature.outputs = _tensor_maps(inputs), _tensor_maps(outputs)
    return signature


def _tensor_maps(named: Mapping[str, int]) -> list[Any]:
    maps = []
    for name, index in named.items():
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        maps.append(entry)
    return maps
