"""`.tflite` files: their graph as operations with dequantized weights, and what their metadata and texts say.

Of LiteRT the schema alone is used: nothing is run.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_mnasnet.preprocessing import PIXELS, Normalization, Preprocessing, range_kind
from keras_mnasnet.utils.reading import (
    LARGEST_MODEL,
    check_growth,
    check_limit,
    check_names,
    open_zip,
    parse_json,
    read_bytes,
    record,
)
from keras_mnasnet.weights.checkpoint import CheckpointError
from keras_mnasnet.weights.formats import LABEL_FILES
from keras_mnasnet.weights.formats.content import HEAD, check_tflite

if TYPE_CHECKING:
    from keras_mnasnet.weights.formats.graph import Graph, Operation

LABELS, REPORT = LABEL_FILES[0], "export.json"  # what this package writes behind a graph
METADATA = "TFLITE_METADATA"
MAXIMUM_TEXT = 1 << 24  # bytes of a text file behind a graph
DAMAGE = (struct.error, TypeError, ValueError, LookupError, AttributeError, OverflowError, MemoryError)
ACTIVATIONS = {0: "linear", 1: "relu", 3: "relu6"}
PADDINGS = {0: "same", 1: "valid"}
STORED = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 7: np.int16, 9: np.int8, 10: np.float64}
EIGHT_BITS = {3: 0, 9: -128}  # uint8 and int8: the least value
WAY = (
    ". As it is, `mnasnet predict`, `mnasnet bench accuracy` and `mnasnet bench latency` take any classifier's .tflite file, "
    "`mnasnet detect predict` and `mnasnet detect eval` a detector's"
)


def read_tflite(path: Path) -> Graph:
    """The graph of a `.tflite` file. CheckpointError for a damaged one, and for weights that cannot be dequantized."""
    from keras_mnasnet.weights.formats.graph import Graph

    content = read_bytes(path, "A .tflite file", limit=LARGEST_MODEL)
    check_tflite(str(path), content[:HEAD], len(content))
    texts = texts_behind(content)
    labels = next((texts[name] for name in LABEL_FILES if name in texts), None)
    report = report_in(texts)
    origin = report.get("origin")
    license = origin.get("license") if isinstance(origin, dict) else None
    try:
        file = _File(path, content)
        operations = list(file.operations())
        return Graph(
            path,
            "tflite",
            operations,
            str(file.image),
            file.sides(),
            normalization=file.normalization(),
            labels=None if labels is None else check_names(labels.splitlines(), "The labels of a .tflite file"),
            preprocessing=preprocessing_in(report),
            license=license if isinstance(license, str) else None,
            notes=file.notes(),
            way=WAY,
        )
    except CheckpointError:
        raise
    except DAMAGE as error:
        raise CheckpointError(
            f"A .tflite file must be whole. Received: {path} ({len(content):,} bytes): {str(error)[:300]}"
        ) from error


class _Operator(NamedTuple):
    """One of a file: its kind, what it is called, the numbers of its tensors (-1: none) and its table."""

    kind: str
    said: str
    inputs: list[int]
    outputs: list[int]
    table: Any


class _File:
    """The tables of the first graph of a file, looked at where they are asked for."""

    def __init__(self, path: Path, content: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.path, self.content, self.schema = path, content, schema
        self.model = schema.Model.GetRootAs(content, 0)
        if self.model.SubgraphsLength() < 1:
            raise ValueError("it has no graph")
        self.graph = self.model.Subgraphs(0)
        check_limit("graph", self.graph.TensorsLength() + self.graph.OperatorsLength(), "A .tflite file")
        if self.graph.InputsLength() != 1:
            raise CheckpointError(
                f"A model must be a MnasNet, of one image. Received: {path} with {self.graph.InputsLength()} inputs{WAY}"
            )
        self.image = int(self.graph.Inputs(0))
        self.codes = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
        self.types = {value: name.lower() for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
        self.constants: dict[int, int] = {}  # tensors that an operator makes of a constant: the constant
        self.dequantized: set[str] = set()
        self.bytes = 0

    # Tensors

    def shape(self, tensor: int) -> tuple[int, ...]:
        found = self.graph.Tensors(tensor)
        check_limit("dimensions", found.ShapeLength(), "A tensor of a .tflite file")
        return tuple(int(side) for side in found.ShapeAsNumpy()) if found.ShapeLength() else ()

    def quantization(self, tensor: int) -> tuple[np.ndarray, np.ndarray, int] | None:
        """Scales, zero points and the dimension along which there are several; None without any."""
        found = self.graph.Tensors(tensor).Quantization()
        if found is None or not found.ScaleLength():
            return None
        zeros = found.ZeroPointAsNumpy() if found.ZeroPointLength() else np.zeros(1)
        return found.ScaleAsNumpy().astype(np.float64), np.asarray(zeros, np.float64), found.QuantizedDimension()

    def stored(self, tensor: int) -> np.ndarray | None:
        """A constant's bytes; None for a map."""
        if not 0 <= tensor < self.graph.TensorsLength():
            return None
        buffer = self.model.Buffers(self.graph.Tensors(self.constants.get(tensor, tensor)).Buffer())
        if buffer.Offset() > 1:
            return np.frombuffer(self.content, np.uint8, buffer.Size(), buffer.Offset())
        return buffer.DataAsNumpy() if buffer.DataLength() else None

    def constant(self, tensor: int, what: str) -> np.ndarray | None:
        """The real values of a constant, integers dequantized, as float32; None for a map."""
        data = self.stored(tensor)
        if data is None:
            return None
        tensor = self.constants.get(tensor, tensor)
        shape, kind = self.shape(tensor), self.graph.Tensors(tensor).Type()
        named = f"{what} of {self.types.get(kind, kind)}"
        if kind not in STORED or self.graph.Tensors(tensor).Sparsity() is not None:
            how = "stored sparsely" if kind in STORED else "which is not read"
            raise CheckpointError(f"Weights must be of float32, float16 or 8 bits. Received: {self.path}, {named}, {how}")
        dtype = np.dtype(STORED[kind])
        if min(shape, default=1) < 1 or math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"{what} of shape {list(shape)} in {len(data):,} bytes")
        self.bytes += 4 * math.prod(shape)
        check_growth("views", self.bytes, len(self.content), "The tensors of a .tflite file")
        values = np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape)
        if dtype.kind == "f":
            return values.astype(np.float32)
        found = self.quantization(tensor)
        if found is None:
            raise CheckpointError(
                f"A quantized tensor must have a scale. Received: {self.path}, {named}, without one. Convert the model again, "
                f"without quantization if need be"
            )
        scales, zeros, along = found
        fits = len(scales) == 1 or shape[along : along + 1] == (len(scales),)
        if not fits or len(zeros) not in (1, len(scales)) or not (np.isfinite(scales) & (scales > 0)).all():
            raise ValueError(f"{what} with {len(scales)} scales for the shape {list(shape)}")
        sides = [len(scales) if at == along else 1 for at in range(len(shape))] if len(scales) > 1 else [1] * len(shape)
        if kind in EIGHT_BITS:
            self.dequantized.add(self.types[kind])
        zeros = np.broadcast_to(zeros, scales.shape).reshape(sides)
        return ((values - zeros) * scales.reshape(sides)).astype(np.float32)

    def integers(self, tensor: int) -> np.ndarray | None:
        """A constant of whole numbers as it is: axes, paddings."""
        data, kind = self.stored(tensor), self.graph.Tensors(tensor).Type()
        if data is None or kind not in (2, 4):
            return None
        return np.frombuffer(data, np.dtype(STORED[kind]).newbyteorder("<")).reshape(self.shape(tensor))

    # Operators

    def operations(self) -> Iterator[Operation]:
        """The operators in their order, without those that make a constant of a constant."""
        from keras_mnasnet.weights.formats.graph import Operation

        for index in range(self.graph.OperatorsLength()):
            one = self._operator(index)
            if one.kind == "DEQUANTIZE" and self.stored(one.inputs[0]) is not None:
                self.constants[one.outputs[0]] = self.constants.get(one.inputs[0], one.inputs[0])
                continue
            maps = tuple(str(each) for each in one.inputs if each >= 0 and self.stored(each) is None)
            found = READ[one.kind](self, one) if one.kind in READ and maps and len(one.outputs) == 1 else None
            for output in one.outputs:
                values = {"kind": one.kind, "said": one.said, "inputs": maps, "output": str(output)}
                yield Operation(**(values | (found or {})))

    def _operator(self, index: int) -> _Operator:
        table = self.graph.Operators(index)
        code = self.model.OperatorCodes(table.OpcodeIndex())
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        kind = self.codes.get(number, f"BUILTIN_{number}")
        if kind == "CUSTOM":
            kind = (code.CustomCode() or b"CUSTOM").decode("utf-8", "replace")[:80]
        inputs = [int(each) for each in table.InputsAsNumpy()] if table.InputsLength() else []
        outputs = [int(each) for each in table.OutputsAsNumpy()] if table.OutputsLength() else []
        if any(not -1 <= each < self.graph.TensorsLength() for each in (*inputs, *outputs)) or -1 in outputs:
            raise ValueError(f"operator {index}, {kind}, of a tensor that is none")
        return _Operator(kind, f"operator {index}, {kind}", inputs, outputs, table)

    def options(self, one: _Operator, name: str) -> Any:
        """The options of an operator as the schema's table of that name."""
        held = one.table.BuiltinOptions()
        if held is None:
            raise ValueError(f"{one.said}, without its {name}")
        found = getattr(self.schema, name)()
        found.Init(held.Bytes, held.Pos)
        return found

    def convolution(self, one: _Operator) -> dict[str, Any] | None:
        depthwise = one.kind == "DEPTHWISE_CONV_2D"
        options = self.options(one, "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions")
        kernel, bias = self.weights(one, 4)
        square = options.StrideH() == options.StrideW() and (options.DilationHFactor(), options.DilationWFactor()) == (1, 1)
        if kernel is None or not square:
            return None
        activation = _activation(options)
        return {
            "kind": "convolution", "kernel": np.ascontiguousarray(kernel.transpose((1, 2, 3, 0))), "bias": bias,
            "stride": options.StrideH(), "padding": PADDINGS[options.Padding()], "groups": kernel.shape[3] if depthwise else 1,
            "activation": self.clipped(one.outputs[0]) if activation == "linear" else activation,
        }  # fmt: skip

    def weights(self, one: _Operator, rank: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Kernel and bias; None for a kernel that is no constant of so many dimensions."""
        kernel = self.constant(one.inputs[1], f"the kernel of {one.said}")
        bias = self.constant(one.inputs[2], f"the bias of {one.said}") if len(one.inputs) > 2 else None
        return None if kernel is None or kernel.ndim != rank else kernel, bias

    def clipped(self, tensor: int) -> str:
        """The activation that a quantized map's range is: from zero on it is a ReLU, which older converters write so alone."""
        found, least = self.quantization(tensor), EIGHT_BITS.get(self.graph.Tensors(tensor).Type())
        if found is None or least is None or len(found[0]) != 1 or found[1][0] != least:
            return "linear"
        return "relu6" if math.isclose(255 * found[0][0], 6, rel_tol=1e-3) else "relu"

    def dense(self, one: _Operator) -> dict[str, Any] | None:
        activation = _activation(self.options(one, "FullyConnectedOptions"))
        kernel, bias = self.weights(one, 2)
        if kernel is None:
            return None
        return {"kind": "dense", "kernel": np.ascontiguousarray(kernel.T), "bias": bias, "activation": activation}

    def of_two(self, one: _Operator) -> dict[str, Any] | None:
        """An operator of two maps, or of a map and a constant."""
        activation = _activation(self.options(one, f"{one.kind.capitalize()}Options"))
        first, second = (self.constant(each, f"the constant of {one.said}") for each in one.inputs)
        if first is None and second is None:
            return {"kind": {"ADD": "add", "MUL": "multiply"}.get(one.kind, one.kind), "activation": activation}
        value = first if second is None else second
        assert value is not None
        if first is not None and one.kind in ("SUB", "DIV"):
            return None
        with np.errstate(divide="ignore"):
            scale = {"MUL": value, "DIV": 1 / value}.get(one.kind, 1.0)
        offset = {"ADD": value, "SUB": -value}.get(one.kind, 0.0)
        return {"kind": "affine", "scale": scale, "offset": offset, "activation": activation}

    def mean(self, one: _Operator) -> dict[str, Any] | None:
        axes = self.integers(one.inputs[1])
        if axes is None or len(self.shape(one.inputs[0])) != 4:
            return None
        return {"kind": "mean"} if {int(axis) % 4 for axis in axes.reshape(-1)} == {1, 2} else None

    def pool(self, one: _Operator) -> dict[str, Any] | None:
        options = self.options(one, "Pool2DOptions")
        window = options.FilterHeight(), options.FilterWidth()
        padding, activation = PADDINGS[options.Padding()], _activation(options)
        if one.kind == "AVERAGE_POOL_2D":
            whole = self.shape(one.inputs[0])[1:3] == window and (padding, activation) == ("valid", "linear")
            return {"kind": "mean"} if whole else None
        if window[0] != window[1] or options.StrideH() != options.StrideW():
            return None
        return {
            "kind": "max_pool", "window": window[0], "stride": options.StrideH(), "padding": padding, "activation": activation
        }  # fmt: skip

    def pad(self, one: _Operator) -> dict[str, Any] | None:
        sides = self.integers(one.inputs[1])
        if sides is None or sides.shape != (4, 2) or sides[[0, 3]].any():
            return None
        return {"kind": "pad", "padding": tuple(tuple(map(int, side)) for side in sides[1:3])}

    def reshape(self, one: _Operator) -> dict[str, Any] | None:
        before, after = ([side for side in self.shape(each) if side != 1] for each in (one.inputs[0], one.outputs[0]))
        return {"kind": "identity"} if before == after else None

    def softmax(self, one: _Operator) -> dict[str, Any] | None:
        return {"kind": "softmax"} if self.options(one, "SoftmaxOptions").Beta() == 1 else None

    # The image

    def sides(self) -> tuple[int | None, int | None]:
        table = self.graph.Tensors(self.image)
        shape = self.shape(self.image)
        if table.ShapeSignatureLength() == len(shape):
            shape = tuple(int(side) for side in table.ShapeSignatureAsNumpy())
        if len(shape) != 4:
            raise CheckpointError(
                f"A model must be a MnasNet, of one image. Received: {self.path} with an input of the shape {list(shape)}{WAY}"
            )
        height, width = (side if side > 0 else None for side in shape[1:3])
        return height, width

    def normalization(self) -> Normalization | None:
        """What is done to pixels 0..255 before the graph: by the input's scale where it is quantized, else by the metadata."""
        said = metadata_normalization(self.content)
        kind = self.graph.Tensors(self.image).Type()
        if kind not in EIGHT_BITS:
            return said
        least, quantization = EIGHT_BITS[kind], self.quantization(self.image)
        scale, zero = (1.0, 0.0) if quantization is None else (float(quantization[0][0]), float(quantization[1][0]))
        low, high = (scale * (least + limit - zero) for limit in (0, 255))
        known = range_kind(low, high)
        if quantization is not None and known is None:
            return said
        return PIXELS if known == "pixels" else Normalization((zero - least,), (float(np.float32(1 / scale)),))

    def notes(self) -> tuple[str, ...]:
        return (f"its weights were dequantized from {', '.join(sorted(self.dequantized))}",) if self.dequantized else ()


def _activation(options: Any) -> str:
    number = options.FusedActivationFunction()
    return ACTIVATIONS.get(number, f"activation {number}")


def _is(kind: str) -> Callable[[_File, _Operator], dict[str, Any] | None]:
    return lambda file, one: {"kind": kind}


READ: dict[str, Callable[[_File, _Operator], dict[str, Any] | None]] = {
    "CONV_2D": _File.convolution, "DEPTHWISE_CONV_2D": _File.convolution, "FULLY_CONNECTED": _File.dense,
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV"), _File.of_two),
    "MEAN": _File.mean, "AVERAGE_POOL_2D": _File.pool, "MAX_POOL_2D": _File.pool, "PAD": _File.pad,
    **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), _File.reshape),
    **dict.fromkeys(("QUANTIZE", "DEQUANTIZE", "CAST"), _is("identity")),
    "LOGISTIC": _is("sigmoid"), "RELU": _is("relu"), "SOFTMAX": _File.softmax,
}  # fmt: skip


# What stands beside the graph


def texts_behind(content: bytes) -> dict[str, str]:
    """The text files behind the graph, where the task libraries look for them; none where they cannot be read."""
    try:
        with open_zip(content, "The text files of a .tflite file") as archive:
            small = [each for each in archive.infolist() if each.file_size <= MAXIMUM_TEXT]
            return {each.filename: archive.read(each).decode("utf-8") for each in small}
    except (ValueError, OSError):
        return {}


def report_in(texts: dict[str, str]) -> dict[str, Any]:
    """How this package made a file; empty for a file of another maker."""
    try:
        value = parse_json(texts.get(REPORT, "{}"), "An export report")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def preprocessing_in(report: dict[str, Any]) -> Preprocessing | None:
    """How photos become pixels, where a report says so."""
    try:
        return record(report.get("preprocessing"), Preprocessing | None, "The preprocessing of a report")  # type: ignore[arg-type]
    except ValueError:
        return None


def metadata_of(content: bytes, name: str) -> bytes | None:
    """A file's metadata of that name."""
    from ai_edge_litert import schema_py_generated as schema

    root = schema.Model.GetRootAs(content, 0)
    check_limit("members", root.MetadataLength(), "A .tflite file")
    for entry in (root.Metadata(index) for index in range(root.MetadataLength())):
        if entry.Name() == name.encode():
            buffer = root.Buffers(entry.Buffer())
            inside = content[buffer.Offset() :][: buffer.Size()]
            return bytes(buffer.DataAsNumpy()) if buffer.DataLength() else inside
    return None


def metadata_normalization(content: bytes) -> Normalization | None:
    """What a file's metadata does to pixels of its first input."""
    try:
        found = metadata_of(content, METADATA)
        return None if found is None else _normalization(found)
    except DAMAGE as error:
        from absl import logging

        logging.warning("TFLite metadata cannot be read and is passed over: %s", error)
    return None


def _normalization(data: bytes) -> Normalization | None:
    """Metadata tables: ModelMetadata 3 -> SubGraphMetadata 2 -> TensorMetadata 4 -> ProcessUnit 0, 1 -> options 0, 1."""
    from flatbuffers import encode, number_types, table

    def tables(parent: Any, slot: int) -> list[Any]:
        offset = parent.Offset(4 + 2 * slot)
        if not offset:
            return []
        start = parent.Vector(offset)
        return [table.Table(data, parent.Indirect(start + 4 * index)) for index in range(parent.VectorLen(offset))]

    def floats(parent: Any, slot: int) -> tuple[float, ...]:
        offset = parent.Offset(4 + 2 * slot)
        vector = parent.GetVectorAsNumpy(number_types.Float32Flags, offset) if offset else ()
        return tuple(float(value) for value in vector)

    root = table.Table(data, encode.Get(number_types.UOffsetTFlags.packer_type, data, 0))
    for graph in tables(root, 3)[:1]:
        for tensor in tables(graph, 2)[:1]:
            for unit in tables(tensor, 4):
                kind = unit.Offset(4)
                if kind and unit.Get(number_types.Uint8Flags, kind + unit.Pos) == 1:
                    options = table.Table(data, 0)
                    unit.Union(options, unit.Offset(6))
                    return Normalization(floats(options, 0), floats(options, 1))
    return None
