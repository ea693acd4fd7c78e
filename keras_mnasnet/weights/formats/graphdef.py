"""Graphs of TensorFlow, frozen in a `.pb` file or in TensorFlow.js's JSON: their nodes as operations. No TensorFlow.

Sources: tensorflow/core/framework graph.proto, node_def.proto, attr_value.proto, tensor.proto; the operators' own definitions.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.utils.reading import LARGEST_MODEL, check_growth, check_limit, read_bytes, shown
from keras_mnasnet.weights.checkpoint import CheckpointError
from keras_mnasnet.weights.formats import protobuf
from keras_mnasnet.weights.formats.graph import Graph, Operation

TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 19: "<f2"}  # DataType, of what may be a constant
VALUES = {1: (5, "<f4"), 2: (6, "<f8"), 3: (7, None), 4: (7, None), 5: (7, None), 6: (7, None), 9: (10, None)}
DAMAGE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError, RecursionError)
SAVED = (
    "a SavedModel, whose weights are in its folder `variables` and are not read. Name the checkpoint that it was made from, or "
    "freeze it in TensorFlow (convert_variables_to_constants_v2)"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """One node: `inputs` as the file writes them, attributes as numbers, truths, texts, and lists of texts or whole numbers."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]


def graph_of(
    path: Path, source: str, nodes: Sequence[Node], constants: Mapping[str, np.ndarray], notes: tuple[str, ...] = ()
) -> Graph:
    """The graph of nodes, whose constants stand under their names. CheckpointError for one that takes no image, or several."""
    reader = _Reader(nodes, constants)
    images = [node for node in nodes if node.op == "Placeholder" and node.name in reader.used]
    if len(images) != 1:
        raise CheckpointError(
            f"A model must be a MnasNet, of one image. Received: {path} with {len(images)} inputs "
            f"{[shown(node.name) for node in images[:4]]}"
        )
    shape = images[0].attributes.get("shape") or ()
    height, width = (side if isinstance(side, int) and side > 0 else None for side in (*shape[1:3], None, None)[:2])
    return Graph(path, source, list(reader.operations()), images[0].name, (height, width), notes=notes)


class _Reader:
    """Nodes in the order of their computation, as operations."""

    def __init__(self, nodes: Sequence[Node], constants: Mapping[str, np.ndarray]) -> None:
        self.nodes = {node.name: node for node in nodes}
        if len(self.nodes) != len(nodes):
            raise ValueError("two nodes of one name")
        self.values: dict[str, np.ndarray] = dict(constants)
        self.inputs = {node.name: [_plain(each) for each in node.inputs if not each.startswith("^")] for node in nodes}
        self.used = {each for names in self.inputs.values() for each in names}

    def operations(self) -> Iterator[Operation]:
        """What each node computes; nothing for constants, and for what gives a constant again."""
        for node in self._ordered():
            inputs = self.inputs[node.name]
            if node.op in ("Const", "Placeholder", "NoOp"):
                continue
            if node.op in UNCHANGED and inputs and inputs[0] in self.values:
                self.values[node.name] = self.values[inputs[0]]
                continue
            maps = tuple(each for each in inputs if each not in self.values)
            found = READ[node.op](self, node, inputs) if node.op in READ and maps else None
            said = f"node {shown(node.name)}, {node.op}"
            yield Operation(**({"kind": node.op, "said": said, "inputs": maps, "output": node.name} | (found or {})))

    def _ordered(self) -> Iterator[Node]:
        """The nodes, each behind those that it takes."""
        takers: dict[str, list[str]] = collections.defaultdict(list)
        missing = {}
        for name, inputs in self.inputs.items():
            own = {each for each in inputs if each in self.nodes}
            missing[name] = len(own)
            for each in own:
                takers[each].append(name)
        ready = collections.deque(name for name, count in missing.items() if not count)
        count = 0
        while ready:
            name = ready.popleft()
            count += 1
            yield self.nodes[name]
            for taker in takers[name]:
                missing[taker] -= 1
                if not missing[taker]:
                    ready.append(taker)
        if count < len(self.nodes):
            raise ValueError("nodes that take what they give themselves")

    def value(self, inputs: Sequence[str], at: int) -> np.ndarray | None:
        """The constant at this place of the inputs."""
        return self.values.get(inputs[at]) if at < len(inputs) else None

    def convolution(self, node: Node, inputs: Sequence[str]) -> dict[str, Any] | None:
        depthwise, kernel = "epthwise" in node.op, self.value(inputs, 1)
        strides, padding = _sides(node, "strides"), node.attributes.get("padding")
        fused = self.fused(node, inputs)
        if kernel is None or kernel.ndim != 4 or strides is None or _sides(node, "dilations", 1) != 1 or fused is None:
            return None
        pads: Any = {"SAME": "same", "VALID": "valid"}.get(str(padding))
        if padding == "EXPLICIT":
            explicit = node.attributes.get("explicit_paddings") or ()
            pads = (tuple(explicit[2:4]), tuple(explicit[4:6])) if len(explicit) == 8 and not any(explicit[:2]) else None
        if pads is None:
            return None
        return {
            "kind": "convolution", "kernel": _real(kernel), "stride": strides, "padding": pads,
            "groups": kernel.shape[2] if depthwise else 1, **fused,
        }  # fmt: skip

    def dense(self, node: Node, inputs: Sequence[str]) -> dict[str, Any] | None:
        kernel, fused = self.value(inputs, 1), self.fused(node, inputs)
        if kernel is None or kernel.ndim != 2 or node.attributes.get("transpose_a") or fused is None:
            return None
        return {"kind": "dense", "kernel": _real(kernel.T if node.attributes.get("transpose_b") else kernel), **fused}

    def fused(self, node: Node, inputs: Sequence[str]) -> dict[str, Any] | None:
        """Bias and activation of a node that Grappler or TensorFlow.js's converter put together; None for others in it."""
        parts = list(node.attributes.get("fused_ops") or ())
        found: dict[str, Any] = {}
        if parts[:1] == ["BiasAdd"]:
            bias = self.value(inputs, 2)
            if bias is None:
                return None
            found["bias"] = _real(bias)
            parts = parts[1:]
        if len(parts) > 1 or any(each not in ACTIVATIONS for each in parts):
            return None
        return {**found, "activation": ACTIVATIONS[parts[0]]} if parts else found

    def of_two(self, node: Node, inputs: Sequence[str]) -> dict[str, Any] | None:
        """A node of two maps, or of a map and a constant."""
        if len(inputs) != 2:
            return None
        constant = next((self.value(inputs, at) for at in (0, 1) if self.value(inputs, at) is not None), None)
        if constant is None:
            return {"kind": {"Mul": "multiply"}.get(node.op, "add")} if node.op in ("Add", "AddV2", "Mul") else None
        value = _real(constant)
        if self.value(inputs, 0) is not None and node.op in ("Sub", "RealDiv"):
            return None
        with np.errstate(divide="ignore"):
            scale = {"Mul": value, "RealDiv": 1 / value}.get(node.op, 1.0)
        offset = {"Sub": -value}.get(node.op, value if node.op in ("Add", "AddV2", "BiasAdd") else 0.0)
        return {"kind": "affine", "scale": scale, "offset": offset}

    def norm(self, node: Node, inputs: Sequence[str]) -> dict[str, Any] | None:
        values = [self.value(inputs, at) for at in range(1, 5)]
        if any(value is None for value in values) or node.attributes.get("is_training", True):
            return None
        gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
        if len({each.shape for each in (gamma, beta, mean, variance)}) != 1:
            return None
        with np.errstate(all="ignore"):
            scale = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-4))
        return {"kind": "affine", "scale": scale, "offset": beta - mean * scale}

    def mean(self, node: Node, inputs: Sequence[str]) -> dict[str, Any] | None:
        axes = self.value(inputs, 1)
        whole = axes is not None and axes.dtype.kind in "iu" and {int(axis) % 4 for axis in axes.reshape(-1)} == {1, 2}
        return {"kind": "mean"} if whole else None

    def pool(self, node: Node, inputs: Sequence[str]) -> dict[str, Any] | None:
        window, stride = _sides(node, "ksize"), _sides(node, "strides")
        padding = {"SAME": "same", "VALID": "valid"}.get(str(node.attributes.get("padding")))
        if window is None or stride is None or padding is None:
            return None
        return {"kind": "max_pool", "window": window, "stride": stride, "padding": padding}

    def pad(self, node: Node, inputs: Sequence[str]) -> dict[str, Any] | None:
        sides = self.value(inputs, 1)
        if sides is None or sides.shape != (4, 2) or sides.dtype.kind not in "iu" or sides[[0, 3]].any():
            return None
        return {"kind": "pad", "padding": tuple(tuple(map(int, side)) for side in sides[1:3])}

    def reshape(self, node: Node, inputs: Sequence[str]) -> dict[str, Any] | None:
        """An identity where at most one side is left that is not 1: of a vector of features or scores."""
        shape = self.value(inputs, 1)
        if shape is None or shape.dtype.kind not in "iu" or sum(int(side) not in (1, -1) for side in shape.reshape(-1)) > 1:
            return None
        return {"kind": "identity"}


def _plain(name: str) -> str:
    return name.removesuffix(":0")


def _real(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value, np.float32)


def _sides(node: Node, name: str, default: int | None = None) -> int | None:
    """The one size of a window or stride in [1, size, size, 1]; None for others, and for channels that stand first."""
    found = node.attributes.get(name)
    if not found:
        return default
    last = node.attributes.get("data_format", "NHWC") == "NHWC" and len(found) == 4
    return int(found[1]) if last and found[1] == found[2] and found[0] == found[3] == 1 else None


def _is(kind: str) -> Callable[[_Reader, Node, Sequence[str]], dict[str, Any]]:
    return lambda reader, node, inputs: {"kind": kind}


ACTIVATIONS = {"Relu": "relu", "Relu6": "relu6", "Sigmoid": "sigmoid"}
UNCHANGED = ("Identity", "StopGradient", "Cast", "PreventGradient")
READ: dict[str, Callable[[_Reader, Node, Sequence[str]], dict[str, Any] | None]] = {
    **dict.fromkeys(
        ("Conv2D", "_FusedConv2D", "FusedConv2D", "DepthwiseConv2dNative", "FusedDepthwiseConv2dNative"), _Reader.convolution
    ),
    **dict.fromkeys(("MatMul", "_FusedMatMul"), _Reader.dense),
    **dict.fromkeys(("Add", "AddV2", "BiasAdd", "Sub", "Mul", "RealDiv"), _Reader.of_two),
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), _Reader.norm),
    **dict.fromkeys((*UNCHANGED, "Squeeze", "ExpandDims"), _is("identity")),
    "Mean": _Reader.mean, "MaxPool": _Reader.pool, "Pad": _Reader.pad, "Reshape": _Reader.reshape, "Relu": _is("relu"),
    "Softmax": _is("softmax"), "Sigmoid": _is("sigmoid"),
}  # fmt: skip


# A frozen graph


def read_pb(path: Path) -> Graph:
    """The graph of a frozen `.pb` file. CheckpointError for a damaged one, and for a SavedModel."""
    content = read_bytes(path, "A .pb file", limit=LARGEST_MODEL)
    try:
        root = protobuf.message(content)
        if isinstance(protobuf.last(root, 1), int):
            raise CheckpointError(f"A .pb file must be a frozen graph. Received: {path}, {SAVED}")
        check_limit("nodes", len(root.get(1, ())), "A graph of TensorFlow")
        nodes: dict[str, Node] = {}
        constants, total = {}, 0
        for data in root.get(1, ()):
            node, tensor = _node(data)
            if node.name in nodes:
                raise ValueError(f"two nodes {shown(node.name)}")
            nodes[node.name] = node
            if node.op == "Const" and tensor is not None:
                value, total = _tensor(tensor, total, len(content))
                if value is not None:
                    constants[node.name] = value
        return graph_of(path, "pb", list(nodes.values()), constants)
    except CheckpointError:
        raise
    except DAMAGE as error:
        said = f"{path} ({len(content):,} bytes): {str(error)[:300]}"
        raise CheckpointError(f"A .pb file must be a frozen graph. Received: {said}") from error


def _node(data: Any) -> tuple[Node, Any]:
    """A node, and the bytes of its tensor."""
    found = protobuf.message(data)
    attributes: dict[str, Any] = {}
    tensor = None
    for entry in found.get(5, ()):
        pair = protobuf.message(entry)
        name, value = protobuf.text(protobuf.last(pair, 1)), protobuf.message(protobuf.last(pair, 2, b""))
        if 8 in value:
            tensor = protobuf.last(value, 8)
        attributes[name] = _attribute(value)
    inputs = tuple(protobuf.text(each) for each in found.get(3, ()))
    return Node(protobuf.text(protobuf.last(found, 1)), protobuf.text(protobuf.last(found, 2)), inputs, attributes), tensor


def _attribute(value: protobuf.Message) -> Any:
    if 1 in value:
        inner = protobuf.message(protobuf.last(value, 1))
        return [protobuf.text(each) for each in inner[2]] if 2 in inner else protobuf.whole_numbers(inner, 3)
    if 2 in value:
        return bytes(protobuf.last(value, 2)).decode("utf-8", "replace")
    if 3 in value:
        return protobuf.signed(protobuf.last(value, 3))
    if 4 in value:
        return protobuf.real_number(protobuf.last(value, 4))
    if 5 in value:
        return bool(protobuf.last(value, 5))
    return _shape(protobuf.last(value, 7)) if 7 in value else None


def _shape(data: Any) -> list[int]:
    sides = [protobuf.signed(protobuf.last(protobuf.message(side), 1, 0)) for side in protobuf.message(data).get(2, ())]
    check_limit("dimensions", len(sides), "A tensor of a .pb file")
    return sides


def _tensor(data: Any, total: int, size: int) -> tuple[np.ndarray | None, int]:
    """A constant, None for texts and other types, and `total` with its bytes as float32, of a file of `size` bytes.

    Of fewer values than its shape has the last one fills it up.
    """
    found = protobuf.message(data)
    kind, shape = protobuf.last(found, 1, 0), _shape(protobuf.last(found, 2, b""))
    if kind not in TYPES or min(shape, default=0) < 0:
        return None, total
    count, dtype = math.prod(shape), np.dtype(TYPES[kind])
    total += 4 * count
    check_growth("views", total, size, "The constants of a .pb file")
    if 4 in found:
        content = protobuf.last(found, 4)
        if len(content) != count * dtype.itemsize:
            raise ValueError(f"a constant of the shape {shape} in {len(content):,} bytes")
        return np.frombuffer(content, dtype).reshape(shape), total
    if kind not in VALUES:
        return None, total
    number, real = VALUES[kind]
    if real:
        parts = [np.frombuffer(each, real) for each in found.get(number, ()) if not isinstance(each, int)]
        values = np.concatenate(parts) if parts else np.zeros(0, dtype)
    else:
        values = np.array(protobuf.whole_numbers(found, number, count), np.int64).astype(dtype)
    if len(values) > count:
        raise ValueError(f"a constant of the shape {shape} with {len(values):,} values")
    whole = np.full(count, values[-1] if len(values) else 0, dtype)
    whole[: len(values)] = values
    return whole.reshape(shape), total
