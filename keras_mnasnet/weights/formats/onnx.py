"""`.onnx` files: their graph as operations with dequantized weights in Keras's layout, and what their metadata says.

They are parsed by the package `onnx` of the extra `[onnx]`. Nothing is run, and no other file is opened.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_mnasnet.architecture import same_padding
from keras_mnasnet.preprocessing import IMAGENET, Normalization
from keras_mnasnet.utils.reading import LARGEST_MODEL, check_growth, check_limit, check_names, parse_json, read_bytes, record
from keras_mnasnet.weights.checkpoint import CheckpointError
from keras_mnasnet.weights.formats.graph import Graph, Operation
from keras_mnasnet.weights.formats.tflite import LABELS, preprocessing_in, report_in

NORMALIZATION, LICENSE, PRODUCER = "normalization", "model_license", "keras_mnasnet"  # in the metadata of our own files
DAMAGE = (struct.error, TypeError, ValueError, LookupError, AttributeError, OverflowError, MemoryError)
WAY = (
    ". As it is, `mnasnet predict`, `mnasnet bench accuracy` and `mnasnet bench latency` take any classifier's .onnx file, "
    "under this ending"
)


def package(name: str) -> Any:
    """The package `onnx` or `onnxruntime`; ImportError that names the extra."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"A .onnx file needs {name}, which is not installed. Run: pip install 'keras_mnasnet[onnx]'"
        ) from error


def parsed(content: bytes, name: str) -> Any:
    """The ModelProto of a file that holds its weights itself; CheckpointError for any other."""
    onnx = package("onnx")
    found, count, outside = onnx.ModelProto(), 0, None
    try:
        found.ParseFromString(content)
        if not found.graph.output:
            raise ValueError("it has no graph")
    except Exception as error:  # of protobuf's own kinds
        raise damaged(content, name, error) from error
    for each in _parts(found):
        count += 1
        if each.DESCRIPTOR.name == "TensorProto" and each.data_location == onnx.TensorProto.EXTERNAL:
            outside = outside or each.name
    check_limit("graph", count, "A .onnx file")
    if outside is not None:
        raise CheckpointError(
            f"A .onnx file must hold its weights itself. Received: {name}, whose tensor {outside[:80]!r} lies in another file. "
            f"Make one file of both in Python: onnx.save(onnx.load(FILE), 'whole.onnx')"
        )
    return found


def damaged(content: bytes, name: str, error: Exception) -> CheckpointError:
    """What is said of a file whose tables make no sense."""
    return CheckpointError(f"A .onnx file must be whole. Received: {name} ({len(content):,} bytes): {error}")


def texts_in(model: Any) -> dict[str, str]:
    """The metadata of a ModelProto."""
    return {each.key: each.value for each in model.metadata_props}


def normalization_in(texts: Mapping[str, str]) -> Normalization | None:
    """What a file of this package does to pixels of its input."""
    try:
        return record(parse_json(texts[NORMALIZATION], "A normalization"), Normalization, "A normalization")
    except (KeyError, ValueError):
        return None


def _parts(message: Any) -> Iterator[Any]:
    """Every tensor and operator that a message of ONNX holds, in graphs inside of graphs and in attributes too."""
    if message.DESCRIPTOR.name in ("TensorProto", "NodeProto"):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                yield from _parts(each)


def read_onnx(path: Path) -> Graph:
    """The graph of a `.onnx` file. CheckpointError for a damaged one, ImportError without the extra `[onnx]`."""
    content = read_bytes(path, "A .onnx file", limit=LARGEST_MODEL)
    model = parsed(content, str(path))
    try:
        texts = texts_in(model)
        labels = texts.get(LABELS)
        file = _File(path, model, len(content))
        operations = file.padded(list(file.operations()))
        return Graph(
            path,
            "onnx",
            operations,
            file.image,
            file.maps[file.image].sides,
            normalization=normalization_in(texts),
            usual=IMAGENET,
            labels=None if labels is None else check_names(labels.splitlines(), "The labels of a .onnx file"),
            preprocessing=preprocessing_in(report_in(texts)),
            license=texts.get(LICENSE),
            notes=("its weights were dequantized from int8",) if file.dequantized else (),
            way=WAY,
        )
    except CheckpointError:
        raise
    except DAMAGE as error:
        raise damaged(content, str(path), error) from error


class _Map(NamedTuple):
    """A tensor that depends on the image: its height and width where they are known, and where its channels are."""

    sides: tuple[int | None, int | None]
    channels_first: bool


class _Node(NamedTuple):
    """An operator of the file: its kind, the names of its inputs and outputs, and its attributes."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


class _File:
    """The graph of a file, read from its beginning."""

    def __init__(self, path: Path, model: Any, size: int) -> None:
        self.onnx, self.path, self.nodes = package("onnx"), path, model.graph.node
        held = sum(4 * math.prod(each.dims) for each in model.graph.initializer)
        check_growth("views", held, size, "The tensors of a .onnx file")
        self.constants: dict[str, np.ndarray] = {}
        for each in model.graph.initializer:
            check_limit("dimensions", len(each.dims), "A tensor of a .onnx file")
            self.constants[each.name] = self.onnx.numpy_helper.to_array(each)
        self.own = model.producer_name == PRODUCER
        self.dequantized = False
        images = [each for each in model.graph.input if each.name not in self.constants]
        shapes = [[side.dim_value or None for side in each.type.tensor_type.shape.dim] for each in images]
        if len(images) != 1 or len(shapes[0]) != 4 or 3 not in (shapes[0][1], shapes[0][3]):
            has = str(shapes)[:300]
            raise CheckpointError(f"A model must be a MnasNet, of one image. Received: {path} with the inputs {has}{WAY}")
        first = shapes[0][3] != 3
        self.image = images[0].name
        self.maps = {self.image: _Map(tuple(shapes[0][2:] if first else shapes[0][1:3]), first)}  # type: ignore[arg-type]
        self.linear: set[str] = set()  # what convolutions give

    def operations(self) -> Iterator[Operation]:
        """The operators in their order, without those that make a constant of constants."""
        for index, each in enumerate(self.nodes):
            attributes = {one.name: self.onnx.helper.get_attribute_value(one) for one in each.attribute}
            node = _Node(str(each.op_type), list(each.input), list(each.output), attributes)
            maps = tuple(name for name in node.inputs if name and name not in self.constants)
            if not maps and node.kind in FOLDED:
                self.constants[node.outputs[0]] = FOLDED[node.kind](self, node)
                continue
            unknown = next((name for name in maps if name not in self.maps), None)
            if unknown is not None:
                raise ValueError(f"operator {index}, {node.kind}, takes {unknown[:80]!r}, which nothing before it gives")
            known = node.kind in READ and len(node.outputs) == 1 and each.domain in ("", "ai.onnx") and maps
            found = READ[node.kind](self, node) if known else None
            x = self.maps[maps[0]] if maps else _Map((None, None), False)
            for output in node.outputs:
                self.maps.setdefault(output, x)
                values = {"kind": node.kind, "said": f"operator {index}, {node.kind}", "inputs": maps, "output": output}
                yield Operation(**(values | (found or {})))

    def constant(self, node: _Node, place: int) -> np.ndarray | None:
        """The constant at a place among an operator's inputs, as float32."""
        name = node.inputs[place] if place < len(node.inputs) else ""
        return self.constants[name].astype(np.float32) if name in self.constants else None

    # Constants of constants

    def restored(self, node: _Node) -> np.ndarray:
        """DequantizeLinear of a constant: (q - zero) * scale, along an axis where there are several scales."""
        whole, scales = (self.constants[name] for name in node.inputs[:2])
        zeros = self.constants[node.inputs[2]] if len(node.inputs) > 2 else np.zeros(1)
        sides = [1] * whole.ndim
        if scales.size > 1:
            sides[node.attributes.get("axis", 1)] = -1
        if not (np.isfinite(scales) & (scales > 0)).all():
            raise ValueError(f"{node.outputs[0][:80]!r} with scales that are none")
        self.dequantized = self.dequantized or whole.dtype.itemsize == 1
        scales, zeros = (np.broadcast_to(each.astype(np.float64).reshape(-1), scales.size) for each in (scales, zeros))
        return ((whole - zeros.reshape(sides)) * scales.reshape(sides)).astype(np.float32)

    # Operators

    def convolution(self, node: _Node) -> dict[str, Any] | None:
        kernel, bias, stride = self.constant(node, 1), self.constant(node, 2), node.attributes.get("strides", [1, 1])
        groups, dilations = node.attributes.get("group", 1), node.attributes.get("dilations", [1, 1])
        if kernel is None or kernel.ndim != 4 or {*dilations} != {1} or stride[0] != stride[1]:
            return None
        depthwise = groups > 1 and kernel.shape[:2] == (groups, 1)
        if groups > 1 and not depthwise:
            return None
        self.linear.add(node.outputs[0])
        padding = self.window(node, kernel.shape[2:], stride[0])
        kernel = np.ascontiguousarray(kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0)))
        return {
            "kind": "convolution", "kernel": kernel, "bias": bias, "stride": stride[0], "padding": padding, "groups": groups,
        }  # fmt: skip

    def window(self, node: _Node, kernel: tuple[int, ...], stride: int) -> Any:
        """The padding of a window that moves over a map, in words or pixels; the output's sides are noted."""
        before = self.maps[node.inputs[0]]
        auto = node.attributes.get("auto_pad", b"NOTSET").decode()
        pads = node.attributes.get("pads", [0, 0, 0, 0])
        padding: Any = {"SAME_UPPER": "same", "VALID": "valid"}.get(auto, ((pads[0], pads[2]), (pads[1], pads[3])))
        ends = ((0, 0), (0, 0)) if padding == "valid" else padding
        sides = [
            None if side is None
            else -(-side // stride) if ends == "same"
            else (side + sum(ends[axis]) - kernel[axis]) // stride + 1
            for axis, side in enumerate(before.sides)
        ]  # fmt: skip
        self.maps[node.outputs[0]] = before._replace(sides=(sides[0], sides[1]))
        return padding

    def pool(self, node: _Node) -> dict[str, Any] | None:
        window, stride = node.attributes["kernel_shape"], node.attributes.get("strides", [1, 1])
        if len({*window}) > 1 or stride[0] != stride[1] or node.attributes.get("ceil_mode"):
            return None
        padding = self.window(node, tuple(window), stride[0])
        return {"kind": "max_pool", "window": window[0], "stride": stride[0], "padding": padding}

    def mean(self, node: _Node) -> dict[str, Any] | None:
        """Of the whole map, whether its sides stay or go."""
        if node.kind == "ReduceMean":
            named = self.constants.get(node.inputs[1], ()) if len(node.inputs) > 1 else node.attributes.get("axes", ())
            axes = {int(axis) % 4 for axis in named}
            if axes != ({2, 3} if self.maps[node.inputs[0]].channels_first else {1, 2}):
                return None
        stays = node.kind != "ReduceMean" or node.attributes.get("keepdims", 1)
        self.maps[node.outputs[0]] = _Map((1, 1), bool(stays) and self.maps[node.inputs[0]].channels_first)
        return {"kind": "mean"}

    def flat(self, node: _Node) -> dict[str, Any] | None:
        """Another shape of a map of one pixel."""
        if self.maps[node.inputs[0]].sides != (1, 1):
            return None
        self.maps[node.outputs[0]] = _Map((1, 1), channels_first=False)
        return {"kind": "identity"}

    def transpose(self, node: _Node) -> dict[str, Any] | None:
        """Channels to the other end."""
        before = self.maps[node.inputs[0]]
        if list(node.attributes.get("perm", ())) != ([0, 2, 3, 1] if before.channels_first else [0, 3, 1, 2]):
            return None
        self.maps[node.outputs[0]] = before._replace(channels_first=not before.channels_first)
        return {"kind": "identity"}

    def dense(self, node: _Node) -> dict[str, Any] | None:
        kernel, bias = self.constant(node, 1), self.constant(node, 2)
        said = {"alpha": 1.0, "beta": 1.0, "transA": 0, **node.attributes}
        if kernel is None or kernel.ndim != 2 or (said["alpha"], said["beta"], said["transA"]) != (1, 1, 0):
            return None
        kernel = kernel.T if node.attributes.get("transB") else kernel
        return {"kind": "dense", "kernel": np.ascontiguousarray(kernel), "bias": None if bias is None else bias.reshape(-1)}

    def of_two(self, node: _Node) -> dict[str, Any] | None:
        """An operator of two maps, or of a map and a constant for each channel."""
        first, second = self.constant(node, 0), self.constant(node, 1)
        if first is None and second is None:
            return {"kind": {"Add": "add", "Mul": "multiply"}.get(node.kind, node.kind)}
        value = self.per_channel(node, first if second is None else second)
        if value is None or (node.kind == "Div" and second is None):
            return None
        one = np.ones(1, np.float32)
        if node.kind == "Sub":
            return {"kind": "affine", "scale": one, "offset": -value} if second is not None else {
                "kind": "affine", "scale": -one, "offset": value
            }  # fmt: skip
        if node.kind == "Add":
            return {"kind": "affine", "offset": value}
        return {"kind": "affine", "scale": value if node.kind == "Mul" else 1 / value}

    def per_channel(self, node: _Node, value: Any) -> np.ndarray | None:
        """A constant that is one value, or one for each channel of the operator's map; None for any other."""
        taken = next(name for name in node.inputs if name not in self.constants)
        shape = value.shape
        if self.maps[taken].channels_first:
            shape = shape[:-2] if shape[-2:] == (1, 1) else (0,)
        return value.reshape(-1) if value.size == 1 or (math.prod(shape) == value.size and shape[-1] == value.size) else None

    def batch_norm(self, node: _Node) -> dict[str, Any] | None:
        found = [self.constant(node, place) for place in range(1, 5)]
        if any(each is None for each in found) or node.attributes.get("training_mode"):
            return None
        gamma, beta, mean, variance = (each.astype(np.float64) for each in found if each is not None)
        scale = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
        return {"kind": "affine", "scale": scale, "offset": beta - mean * scale}

    def clip(self, node: _Node) -> dict[str, Any] | None:
        """From 0 on it is a ReLU."""
        low = node.attributes.get("min", self.constant(node, 1))
        high = node.attributes.get("max", self.constant(node, 2))
        unbounded = high is None or high >= np.finfo(np.float32).max
        return {"kind": "relu"} if low is not None and low == 0 and unbounded else None

    def quantized(self, node: _Node) -> dict[str, Any]:
        """A range from 0 on behind a convolution is a ReLU, which ONNX Runtime's own tool writes so alone."""
        zero = self.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
        least = zero is not None and zero.dtype.kind in "iu" and zero.size == 1 and zero == np.iinfo(zero.dtype).min
        return {"kind": "relu" if least and not self.own and node.inputs[0] in self.linear else "identity"}

    def padded(self, operations: list[Operation]) -> list[Operation]:
        """With paddings in pixels as `same` where that is what they are: of poolings, and of convolutions if of all."""

        def is_same(one: Operation) -> bool:
            size = one.window if one.kind == "max_pool" else 0 if one.kernel is None else one.kernel.shape[0]
            sides = self.maps[one.inputs[0]].sides
            known = [same_padding(side, size, one.stride) for side in sides if side is not None]
            return one.padding == "same" or (len(known) == 2 and one.padding == tuple(known))

        windows = [one for one in operations if one.kind == "convolution" and one.kernel is not None]
        every = all(is_same(one) for one in windows)
        return [
            dataclasses.replace(one, padding="same")
            if (one.kind == "max_pool" or (every and one.kind == "convolution")) and is_same(one)
            else one
            for one in operations
        ]


def _is(kind: str) -> Callable[[_File, _Node], dict[str, Any]]:
    return lambda file, node: {"kind": kind}


FOLDED: dict[str, Callable[[_File, _Node], np.ndarray]] = {
    "DequantizeLinear": _File.restored,
    "Constant": lambda file, node: file.onnx.numpy_helper.to_array(node.attributes["value"]),
    **dict.fromkeys(("Cast", "Identity"), lambda file, node: file.constants[node.inputs[0]]),
}
READ: dict[str, Callable[[_File, _Node], dict[str, Any] | None]] = {
    "Conv": _File.convolution, "MaxPool": _File.pool, **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), _File.mean),
    **dict.fromkeys(("Gemm", "MatMul"), _File.dense), **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _File.of_two),
    "BatchNormalization": _File.batch_norm, "Relu": _is("relu"), "Clip": _File.clip, "Sigmoid": _is("sigmoid"),
    "Softmax": _is("softmax"), **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _File.flat),
    "Transpose": _File.transpose, "QuantizeLinear": _File.quantized,
    **dict.fromkeys(("DequantizeLinear", "Identity", "Cast", "Dropout"), _is("identity")),
}  # fmt: skip
