"""Wrong files made of right ones: constants of a classifier's `.tflite` are changed, in its own precision."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_mnasnet.export.flatbuffer import aligned, pack

TYPES = {
    schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16, schema.TensorType.INT8: np.int8,
    schema.TensorType.INT32: np.int32,
}  # fmt: skip
KINDS = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


class Graph:
    """The constants of a file, and how to write it with others."""

    def __init__(self, content: bytes) -> None:
        self.model = schema.ModelT.InitFromPackedBuf(content, 0)
        self.graph = self.model.subgraphs[0]
        codes = [KINDS[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in self.model.operatorCodes]
        self.operators = [(codes[each.opcodeIndex], each) for each in self.graph.operators]
        self.stored = {int(each.outputs[0]): int(each.inputs[0]) for kind, each in self.operators if kind == "DEQUANTIZE"}

    def of(self, kind: str) -> list:
        """The operators of a kind, in their order."""
        return [each for found, each in self.operators if found == kind]

    def constant(self, operator, place: int):
        """(tensor, values) of an operator's input, of what is dequantized for it where it is stored smaller."""
        index = int(operator.inputs[place])
        tensor = self.graph.tensors[index]
        if self.model.buffers[tensor.buffer].data is None:
            tensor = self.graph.tensors[self.stored[index]]
        data = np.asarray(self.model.buffers[tensor.buffer].data, np.uint8)
        return tensor, np.frombuffer(data.tobytes(), TYPES[tensor.type]).reshape(tensor.shape)

    def ends(self) -> list:
        """(tensor, values) of the classifier's kernel and of its bias, if it has one."""
        (dense,) = self.of("FULLY_CONNECTED")
        return [self.constant(dense, place) for place in (1, 2) if place < len(dense.inputs) and dense.inputs[place] >= 0]

    def put(self, tensor, values: np.ndarray, order: np.ndarray | None = None, factor: float = 1.0) -> None:
        """Store other values; scales a channel follow `order`, and all become `factor` times as large."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        tensor.buffer = len(self.model.buffers)
        self.model.buffers.append(buffer)
        scales = None if tensor.quantization is None else tensor.quantization.scale
        if scales is not None and len(scales):
            scales = np.asarray(scales, np.float64) * factor
            tensor.quantization.scale = list(scales if order is None or len(scales) == 1 else scales[order])

    def content(self) -> bytes:
        """The file."""
        self.model.buffers = [
            aligned(None if each.data is None else np.asarray(each.data, np.uint8)) for each in self.model.buffers
        ]
        return pack(self.model)


def _ordered(order):
    def change(graph: Graph) -> None:
        for tensor, values in graph.ends():
            chosen = order(len(values))
            graph.put(tensor, values[chosen], chosen)

    return change


def _dead(graph: Graph) -> None:
    (tensor, kernel), *bias = graph.ends()
    graph.put(tensor, np.where(np.arange(len(kernel))[:, None] == 3, 0, kernel).astype(kernel.dtype))
    for tensor, values in bias:
        scales = None if tensor.quantization is None else tensor.quantization.scale
        step = 1.0 if scales is None or not len(scales) else np.max(scales)
        graph.put(tensor, np.where(np.arange(len(values)) == 3, values.min() - 20 / step, values).astype(values.dtype))


def _saturated(graph: Graph) -> None:
    for tensor, values in graph.ends():
        whole = values.dtype.kind == "i"
        graph.put(tensor, values if whole else 10 * values, factor=10.0 if whole else 1.0)
    (dense,) = graph.of("FULLY_CONNECTED")
    made = graph.graph.tensors[int(dense.outputs[0])].quantization
    if made is not None and made.scale is not None and len(made.scale):
        made.scale = [10 * float(made.scale[0])]


def _permuted(graph: Graph, operator) -> None:
    tensor, values = graph.constant(operator, 1)
    graph.put(tensor, np.random.default_rng(1).permutation(values.ravel()).reshape(values.shape))


def _random_classes(graph: Graph) -> None:
    (dense,) = graph.of("FULLY_CONNECTED")
    _permuted(graph, dense)


def _another_seed(graph: Graph) -> None:
    """The convolution before the middle one of the depthwise ones that halve the map: no residual goes around it."""
    kinds = [kind for kind, _ in graph.operators]
    halving = [
        place for place, (kind, each) in enumerate(graph.operators)
        if kind == "DEPTHWISE_CONV_2D" and each.builtinOptions.strideH == 2
    ]  # fmt: skip
    place = halving[len(halving) // 2]
    before = place - 1 - kinds[:place][::-1].index("CONV_2D")
    _permuted(graph, graph.operators[before][1])


def _swapped_colors(graph: Graph) -> None:
    tensor, kernel = graph.constant(graph.of("CONV_2D")[0], 1)
    graph.put(tensor, kernel[..., ::-1])


def _swapped(count: int) -> np.ndarray:
    order = np.arange(count)
    order[[1, 3]] = 3, 1
    return order


CHANGES = {
    "shuffled classes": _ordered(lambda count: np.roll(np.random.default_rng(0).permutation(count), 1)),
    "two classes swapped": _ordered(_swapped),
    "labels shifted by one": _ordered(lambda count: np.roll(np.arange(count), 1)),
    "one dead class": _dead,
    "saturated logits": _saturated,
    "random classes": _random_classes,
    "one layer of another seed": _another_seed,
    "red and blue swapped": _swapped_colors,
}


def mutant(content: bytes, name: str) -> bytes:
    """The file with one of the CHANGES."""
    graph = Graph(content)
    CHANGES[name](graph)
    return graph.content()
