"""What is in a `.tflite`: operators, types, inputs and outputs, and whether it is what was promised. No TensorFlow."""

from __future__ import annotations

import collections
import dataclasses
import struct
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

__all__ = ["ExportError", "GraphFacts", "Port", "check_promise", "inspect_tflite"]

MINIMUM_BYTES = 64
TYPE_NAMES = {value: name.lower() for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
OPERATOR_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
STATEFUL = ("READ_VARIABLE", "ASSIGN_VARIABLE", "VAR_HANDLE", "CALL_ONCE")
BOUNDARY = ("QUANTIZE", "DEQUANTIZE")


class ExportError(ValueError):
    """The file that was made is not what was asked for; nothing of it is kept."""


@dataclasses.dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its tensor's name, shape and type, and (scale, zero point) if it is quantized."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class GraphFacts:
    """Counts of operators by kind, of their outputs by type, and of constants' bytes by type; inputs and outputs by position.

    `floating` are the operators, QUANTIZE and DEQUANTIZE apart, that read or write a float tensor.
    """

    operators: dict[str, int]
    output_types: dict[str, int]
    constant_bytes: dict[str, int]
    custom: tuple[str, ...]
    floating: tuple[str, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    signatures: dict[str, dict[str, list[str]]]
    bytes: int


def inspect_tflite(content: bytes, name: str = "the file") -> GraphFacts:
    """Read a `.tflite`; ValueError for bytes that are none, or one that is cut off."""
    if len(content) < MINIMUM_BYTES or content[4:8] != b"TFL3":
        raise ValueError(
            f"A .tflite file begins with the mark TFL3 after four bytes. Received: {name} ({len(content):,} bytes, "
            f"{bytes(content[:8])!r})"
        )
    try:
        return _read(schema.Model.GetRootAs(content, 0), content)
    except (struct.error, TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise ValueError(f"A .tflite file must be whole. Received: {name} ({len(content):,} bytes): {error}") from error


def _read(model: Any, content: bytes) -> GraphFacts:
    if model.SubgraphsLength() < 1:
        raise ValueError("it has no graph")
    codes = [_operator_name(model.OperatorCodes(index)) for index in range(model.OperatorCodesLength())]
    operators: collections.Counter[str] = collections.Counter()
    output_types: collections.Counter[str] = collections.Counter()
    constants: collections.Counter[str] = collections.Counter()
    floating: collections.Counter[str] = collections.Counter()
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        types = [TYPE_NAMES[graph.Tensors(index).Type()] for index in range(graph.TensorsLength())]
        for index in range(graph.TensorsLength()):
            buffer = model.Buffers(graph.Tensors(index).Buffer())
            size = buffer.Size() if buffer.Offset() > 1 else buffer.DataLength()
            if size:
                constants[types[index]] += size
        for index in range(graph.OperatorsLength()):
            operator = graph.Operators(index)
            kind = codes[operator.OpcodeIndex()]
            operators[kind] += 1
            outputs = [types[tensor] for tensor in operator.OutputsAsNumpy() if tensor >= 0]
            inputs = [types[tensor] for tensor in operator.InputsAsNumpy() if tensor >= 0] if operator.InputsLength() else []
            output_types.update(outputs)
            if kind not in BOUNDARY and {"float32", "float16"} & {*inputs, *outputs}:
                floating[kind] += 1
    main = model.Subgraphs(0)
    return GraphFacts(
        operators=dict(sorted(operators.items())),
        output_types=dict(sorted(output_types.items())),
        constant_bytes=dict(sorted(constants.items())),
        custom=tuple(sorted({name for name in codes if name.startswith("CUSTOM:")})),
        floating=tuple(sorted(floating)),
        inputs=tuple(_port(main.Tensors(int(index))) for index in main.InputsAsNumpy()),
        outputs=tuple(_port(main.Tensors(int(index))) for index in main.OutputsAsNumpy()),
        signatures=_signatures(model),
        bytes=len(content),
    )


def _operator_name(code: Any) -> str:
    builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    name = OPERATOR_NAMES.get(builtin, f"BUILTIN_{builtin}")
    return f"CUSTOM:{(code.CustomCode() or b'?').decode()}" if name == "CUSTOM" else name


def _port(tensor: Any) -> Port:
    shape = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() else tensor.ShapeAsNumpy()
    quantization = tensor.Quantization()
    one = quantization is not None and quantization.ScaleLength() == 1
    return Port(
        name=(tensor.Name() or b"").decode(),
        shape=tuple(int(side) for side in np.atleast_1d(shape)) if tensor.ShapeLength() else (),
        dtype=TYPE_NAMES[tensor.Type()],
        scale=float(quantization.Scale(0)) if one else None,
        zero_point=int(quantization.ZeroPoint(0)) if one else None,
    )


def _signatures(model: Any) -> dict[str, dict[str, list[str]]]:
    found = {}
    for index in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(index)
        found[(signature.SignatureKey() or b"").decode()] = {
            "inputs": [signature.Inputs(number).Name().decode() for number in range(signature.InputsLength())],
            "outputs": [signature.Outputs(number).Name().decode() for number in range(signature.OutputsLength())],
        }
    return found


def check_promise(facts: GraphFacts, quantize: str | None, allowed_custom: tuple[str, ...] = ()) -> None:
    """ExportError for a graph with variables, operators outside of LiteRT's own, or float operators where int8 was asked."""
    stateful = [kind for kind in facts.operators if kind in STATEFUL]
    if stateful:
        raise ExportError(
            f"An exported graph must hold its weights. Received: one that reads variables ({', '.join(stateful)}), whose "
            f"outputs would be garbage. Export the model itself, not a copy whose variables are not tracked."
        )
    foreign = [name for name in facts.custom if name not in allowed_custom]
    if foreign:
        raise ExportError(
            f"An exported graph must use LiteRT's builtin operators. Received: {', '.join(foreign)}. A layer of the model has "
            f"no builtin equivalent; replace it, or take it out and compute it beside the graph."
        )
    if quantize == "int8" and facts.floating:
        raise ExportError(
            f"An int8 graph must compute in integers throughout. Received: float operators {', '.join(facts.floating)}. "
            f"A layer of the model has no int8 kernel; use quantize='weight-int8' or take that layer out."
        )
