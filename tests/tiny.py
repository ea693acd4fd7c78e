"""A `.tflite` classifier of a few hundred bytes: the mean of each colour is the score of its class."""

from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

TYPES = {"float32": schema.TensorType.FLOAT32, "uint8": schema.TensorType.UINT8, "int8": schema.TensorType.INT8}


def _tensor(name: str, shape: list[int], kind: int, buffer: int, quantization: tuple[float, int] | None = None):
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, [abs(side) for side in shape], kind, buffer
    if min(shape) < 0:
        tensor.shapeSignature = shape
    if quantization:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [quantization[0]], [quantization[1]]
    return tensor


def metadata(mean: list[float], std: list[float]) -> bytes:
    """TFLite metadata with a NormalizationOptions for the first input."""
    builder = flatbuffers.Builder(256)

    def floats(values: list[float]) -> int:
        return builder.CreateNumpyVector(np.array(values, np.float32))

    def table(*slots: tuple[int, str, int]) -> int:
        builder.StartObject(9)
        for slot, kind, value in slots:
            if kind == "byte":
                builder.PrependUint8Slot(slot, value, 0)
            else:
                builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return builder.EndObject()

    def vector(item: int) -> int:
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(item)
        return builder.EndVector()

    means, stds = floats(mean), floats(std)
    unit = table((0, "byte", 1), (1, "offset", table((0, "offset", means), (1, "offset", stds))))
    tensor = table((4, "offset", vector(unit)))
    graph = table((2, "offset", vector(tensor)))
    builder.Finish(table((3, "offset", vector(graph))), b"M001")
    return bytes(builder.Output())


def write_tiny(
    path: Path, *, dtype: str = "float32", quantization: tuple[float, int] | None = None, size: int = 8,
    dynamic: bool = False, normalization: bytes | None = None, shape: tuple[int, ...] | None = None, cast: bool = False,
) -> Path:  # fmt: skip
    """Write the classifier `[1, size, size, 3]` -> `[1, 3]`, or of another `shape`, whose sides are open where negative.

    `dynamic`: `[1, -1, -1, 3]`. `cast`: the input's whole numbers become float32 first, and the scores are of that type.
    """
    shape = shape or ((1, -1, -1, 3) if dynamic else (1, size, size, 3))
    first = shape[3] > 4 or shape[3] < 0  # channels
    channels = shape[1] if first else shape[3]
    model, graph = schema.ModelT(), schema.SubGraphT()
    buffers = [schema.BufferT(), schema.BufferT()]
    buffers[1].data = np.frombuffer(np.array([2, 3] if first else [1, 2], np.int32).tobytes(), np.uint8)
    inner = "float32" if cast else dtype
    graph.tensors = [
        _tensor("images", list(shape), TYPES[dtype], 0, quantization),
        _tensor("axes", [2], schema.TensorType.INT32, 1),
        _tensor("scores", [1, channels], TYPES[inner], 0, quantization),
    ]
    if min(shape) < 0:
        graph.tensors[0].shape = [max(side, 1) for side in shape]
    operator, code = schema.OperatorT(), schema.OperatorCodeT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1], [2]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.ReducerOptions, schema.ReducerOptionsT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.MEAN
    code.version = 2 if inner != "float32" else 1
    graph.inputs, graph.outputs, graph.operators, model.operatorCodes = [0], [2], [operator], [code]
    if cast:
        graph.tensors.append(_tensor("floats", list(shape), TYPES["float32"], 0))
        caster, code = schema.OperatorT(), schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CAST
        code.version = 1
        caster.opcodeIndex, caster.inputs, caster.outputs, operator.inputs = 1, [0], [3], [3, 1]
        graph.operators, model.operatorCodes = [caster, operator], [*model.operatorCodes, code]
    if normalization:
        buffers.append(schema.BufferT())
        buffers[-1].data = np.frombuffer(normalization, np.uint8)
        entry = schema.MetadataT()
        entry.name, entry.buffer = "TFLITE_METADATA", len(buffers) - 1
        model.metadata = [entry]
    model.version, model.subgraphs, model.buffers = 3, [graph], buffers
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
