"""A converter's `.tflite` with readable names: tensors, signature, order of outputs, description, metadata."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_mnasnet.export.calibration import warn_of_silent
from keras_mnasnet.export.file import HALF
from keras_mnasnet.export.flatbuffer import aligned, attach, pack, renamed, signature_of

ARITHMETIC = tuple(getattr(schema.BuiltinOperator, kind) for kind in ("ADD", "SUB", "MUL", "DIV"))
WEIGHTED = tuple(getattr(schema.BuiltinOperator, kind) for kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"))
KEEPING = tuple(  # operators whose output has the scale and zero point of their first input
    getattr(schema.BuiltinOperator, kind)
    for kind in (
        "AVERAGE_POOL_2D", "DEPTH_TO_SPACE", "EXPAND_DIMS", "MAX_POOL_2D", "MIRROR_PAD", "PAD", "REDUCE_MAX", "RESHAPE",
        "RESIZE_NEAREST_NEIGHBOR", "SLICE", "SPACE_TO_DEPTH", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE",
    )
)  # fmt: skip
FEW_CHANNELS = 4
MOST_REQUANTIZATION = 256.0  # XNNPACK refuses a layer whose input scale x weight scale / output scale reaches this
MOST_PARTS = 5  # that XNNPACK concatenates at once


def rewritten(
    content: bytes, *, input_names: Sequence[str], output_names: Sequence[str], description: str, metadata: Mapping[str, bytes]
) -> tuple[bytes, tuple[str, ...]]:
    """The same graph; its inputs and outputs, in their order, get the names, and a signature `serving_default` with them.

    With it the names of the layers that were silent in calibration, which are logged.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    if len(graph.inputs) != len(input_names) or len(graph.outputs) != len(output_names):
        raise ValueError(
            f"The graph must have {len(input_names)} inputs and {len(output_names)} outputs. "
            f"Received: {len(graph.inputs)} inputs and {len(graph.outputs)} outputs"
        )
    inputs = dict(zip(input_names, (int(index) for index in graph.inputs), strict=True))
    outputs = dict(zip(output_names, (int(index) for index in graph.outputs), strict=True))
    for name, index in {**inputs, **outputs}.items():
        renamed(graph, name, index)
    model.signatureDefs = [signature_of("serving_default", inputs, outputs)]
    model.description = description
    _widen_rows(model)
    silent = _widen_dead_ranges(model)
    warn_of_silent(silent)
    _split_concatenations(model)
    model.buffers = [aligned(None if buffer.data is None else np.asarray(buffer.data, np.uint8)) for buffer in model.buffers]
    attach(model, metadata, without=tuple(HALF))  # TensorFlow's own, fp16accfp32, which no CPU goes by
    return pack(model), silent


def _kinds(model: Any) -> list[int]:
    return [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]


def _scales(tensor: Any) -> np.ndarray:
    """A tensor's quantization scales; none for a float one."""
    scales = None if tensor.quantization is None else tensor.quantization.scale
    return np.asarray([] if scales is None else scales, np.float64)


def _widen_dead_ranges(model: Any) -> tuple[str, ...]:
    """Give layers that were silent on every calibration image a range that XNNPACK accepts; the layers' names.

    Calibration gives an output that was always zero, such as a squeeze that training switched off, a range of 2e-6, with which
    XNNPACK cannot create the layer. Its scale becomes the largest input scale x weight scale. That is still a tiny range: the
    layer stays what it was in calibration, constant, for a picture that would excite it too. Operators that keep a scale pass
    the new one on, and biases of the layers that read it follow.
    """
    graph, kinds = model.subgraphs[0], _kinds(model)
    ratios: dict[int, float] = {}  # of the tensors that changed: new scale / old scale
    silent = []
    for operator in graph.operators:
        kind = kinds[operator.opcodeIndex]
        if kind not in (*KEEPING, *WEIGHTED):
            continue
        source, target = int(operator.inputs[0]), int(operator.outputs[0])
        taken, made = graph.tensors[source], graph.tensors[target]
        if kind in KEEPING:
            if source in ratios and len(_scales(made)) and np.isclose(_scales(made)[0] * ratios[source], _scales(taken)[0]):
                made.quantization.scale = [float(_scales(taken)[0])]
                ratios[target] = ratios[source]
            continue
        if source in ratios:
            _rescale_bias(model, operator, ratios[source])
        weights = graph.tensors[int(operator.inputs[1])]
        if not all(len(_scales(tensor)) for tensor in (taken, weights, made)):
            continue
        product = float(_scales(taken)[0] * _scales(weights).max())
        ratio = product / _scales(made)[0]
        if ratio >= MOST_REQUANTIZATION:
            made.quantization.scale = [product]
            ratios[target] = ratio
            silent.append(_text(made.name))
    return tuple(silent)


def _text(name: str | bytes) -> str:
    return (name.decode("utf-8", "replace") if isinstance(name, bytes) else name).partition(";")[0]


def _rescale_bias(model: Any, operator: Any, factor: float) -> None:
    """Give a layer the same int32 bias `[C]` in units `factor` times as large; what others read stays as it is."""
    graph = model.subgraphs[0]
    index = int(operator.inputs[2]) if len(operator.inputs) > 2 else -1
    if index < 0:
        return
    bias = graph.tensors[index]
    if sum(int(read) == index for other in graph.operators for read in other.inputs) > 1:
        bias = copy.deepcopy(bias)
        bias.name = f"{_text(bias.name)}_{len(graph.tensors)}"
        operator.inputs = [*(int(read) for read in operator.inputs[:2]), len(graph.tensors)]
        graph.tensors.append(bias)
    values = np.frombuffer(np.asarray(model.buffers[bias.buffer].data, np.uint8).tobytes(), np.int32)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.rint(values / factor).astype(np.int32).tobytes(), np.uint8)
    bias.buffer = len(model.buffers)
    model.buffers.append(buffer)
    bias.quantization.scale = [float(scale) for scale in _scales(bias) * factor]


def _widen_rows(model: Any) -> None:
    """Per-channel constants of a picture's arithmetic, [1, 1, 1, 3], as rows [1, 1, W, 3].

    The sums are the same; XNNPACK broadcasts a row far faster than a pixel.
    """
    graph, kinds = model.subgraphs[0], _kinds(model)
    for operator in graph.operators:
        if kinds[operator.opcodeIndex] not in ARITHMETIC:
            continue
        picture, constant = (graph.tensors[int(index)] for index in operator.inputs[:2])
        data = model.buffers[constant.buffer].data
        channels = int(picture.shape[-1]) if len(picture.shape) == 4 else 0
        if data is None or not 1 < channels <= FEW_CHANNELS or int(np.prod(constant.shape)) != channels:
            continue
        width = int(picture.shape[2])
        row = copy.copy(constant)
        row.name = constant.name + b"_row"
        row.shape, row.shapeSignature = [1, 1, width, channels], None
        row.buffer = len(model.buffers)
        buffer = schema.BufferT()
        buffer.data = np.tile(np.asarray(data, np.uint8), width)
        model.buffers.append(buffer)
        graph.tensors.append(row)
        operator.inputs = [operator.inputs[0], len(graph.tensors) - 1]


def _split_concatenations(model: Any) -> None:
    """Concatenations of more parts than XNNPACK takes, as one of the last parts inside one of all; values are only copied."""
    graph = model.subgraphs[0]
    kinds = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    operators = []
    for operator in graph.operators:
        while kinds[operator.opcodeIndex] == schema.BuiltinOperator.CONCATENATION and len(operator.inputs) > MOST_PARTS:
            few = min(MOST_PARTS, len(operator.inputs) - MOST_PARTS + 1)
            parts = [int(index) for index in operator.inputs[-few:]]
            whole = graph.tensors[int(operator.outputs[0])]
            axis = operator.builtinOptions.axis % len(whole.shape)
            inner, part = copy.copy(operator), copy.copy(whole)
            part.name = f"concatenated_{len(graph.tensors)}"
            part.shape, part.shapeSignature = [int(side) for side in whole.shape], None
            part.shape[axis] = sum(int(graph.tensors[index].shape[axis]) for index in parts)
            part.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            inner.inputs, inner.outputs = parts, [len(graph.tensors)]
            operator.inputs = [*operator.inputs[:-few], len(graph.tensors)]
            graph.tensors.append(part)
            operators.append(inner)
        operators.append(operator)
    graph.operators = operators
