"""An Architecture written straight into a `.onnx` file, from the operations that the direct `.tflite` writer takes.

Operators are channels first, as ONNX has them, and so is the input. int8 has QuantizeLinear and DequantizeLinear around every
operator (QDQ), which a runtime computes in integers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_mnasnet.architecture import Architecture, Layer, same_padding
from keras_mnasnet.export.graph import LARGEST_BIAS, Folded, Ranges, check_ranges, rounded
from keras_mnasnet.preprocessing import IMAGENET, Normalization
from keras_mnasnet.weights.formats.onnx import PRODUCER, package

PRECISIONS = ("float32", "float16", "int8")
OPSET, IR_VERSION = 13, 7  # the first with a scale for each channel
OPERATORS = {"squeeze": "GlobalAveragePool", "sigmoid": "Sigmoid", "multiply": "Mul", "add": "Add"}


def write_onnx(
    architecture: Architecture,
    weights: Mapping[str, Folded],
    *,
    height: int,
    width: int,
    classes: int,
    precision: str = "float32",
    padding: str = "same",
    preprocessing: Normalization | bool = True,
    softmax: bool = True,
    batch: int = 1,
    description: str = "",
    ranges: Ranges | None = None,
    keep_float: Collection[str] = (),
) -> bytes:
    """The `.onnx` of a classifier: `image` `[batch, 3, height, width]` -> `scores` `[batch, classes]`, both float32.

    `preprocessing`: the image is RGB pixels 0..255, normalized inside (True: as ImageNet's). `float16` is that of the weights,
    which become float32 when the file is loaded. `int8` has weights of int8 by channel and maps of uint8, whose `ranges` it
    needs, {map: (lowest, highest)}; normalization, softmax and operations whose outputs are in `keep_float` stay float32.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {PRECISIONS}. Received: precision={precision!r}")
    onnx = package("onnx")
    rows = architecture.operations(height, width, classes=classes)
    if precision == "int8":
        check_ranges(rows, ranges)
    integers = {name for row in rows if row.output not in keep_float for name in (row.output, *row.inputs)}
    net = _Net(weights, precision, padding, ranges or {}, keep_float, integers if precision == "int8" else ())
    net.begin(IMAGENET if preprocessing is True else preprocessing or None, (height, width))
    for row in rows:
        net.add(row, "logits" if softmax else "scores")
    if softmax:
        net.node("Softmax", "scores", ["logits"], axis=1)
    described, float32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    outputs = [described("scores", float32, [batch, classes])]
    graph = onnx.helper.make_graph(
        net.nodes, architecture.name, [described("image", float32, [batch, 3, height, width])], outputs, net.constants
    )
    model = onnx.helper.make_model(
        graph, producer_name=PRODUCER, ir_version=IR_VERSION, opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        doc_string=description,
    )  # fmt: skip
    return bytes(model.SerializeToString())


class _Map(NamedTuple):
    """A map: the tensor that operators take, its height and width; in int8 the range of its values, its scale, and the tensor
    that operations in float take."""

    tensor: str
    sides: tuple[int, int]
    range: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    exact: str = ""


class _Net:
    """The graph so far: the map that every operation gave, by its name."""

    def __init__(
        self, weights: Mapping[str, Folded], precision: str, padding: str, ranges: Ranges, keep_float: Collection[str],
        integers: Collection[str],
    ) -> None:  # fmt: skip
        self.onnx = package("onnx")
        self.weights, self.precision, self.padding, self.ranges = weights, precision, padding, ranges
        self.keep_float, self.integers = keep_float, integers  # the maps that operations in int8 give or take
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.maps: dict[str, _Map] = {}

    def begin(self, normalization: Normalization | None, sides: tuple[int, int]) -> None:
        """The input and its normalization, which are the map `image`."""
        x = "image"
        if normalization is not None:
            for kind, by in (("Sub", np.array(normalization.mean)), ("Mul", 1 / np.array(normalization.std))):
                name = "image_centred" if kind == "Sub" else "image_normalized"
                x = self.node(kind, name, [x, self.constant(f"{name}_by", by.reshape(1, -1, 1, 1).astype(np.float32))])
        self.maps["image"] = self.kept("image", x, sides)

    def add(self, row: Layer, scores: str) -> None:
        """One operation of the network; the classifier's is the tensor `scores`, and stays float."""
        inputs = [self.maps[name] for name in row.inputs]
        name, sides, scale = row.output, (row.height, row.width), inputs[0].scale
        given = [each.exact if name in self.keep_float else each.tensor for each in inputs]
        shown: tuple[float, float] | None = None
        if row.op == "dense":
            self.node("Gemm", scores, [*given, *self.layer(row, scale)[0]], transB=1)
            return
        if row.op in ("conv", "depthwise"):
            constants, scale = self.layer(row, scale)
            sums = f"{name}_sums" if row.relu else name
            x = self.node(
                "Conv", sums, [*given, *constants], kernel_shape=[row.kernel] * 2, strides=[row.stride] * 2,
                pads=self.pads(row, inputs[0].sides), group=row.filters if row.op == "depthwise" else 1,
            )  # fmt: skip
            x = self.node("Relu", name, [x]) if row.relu else x
        elif row.op == "max_pool":
            shown = inputs[0].range if any(inputs[0].range) else None
            x = self.node(
                "MaxPool", name, given, kernel_shape=[row.kernel] * 2, strides=[row.stride] * 2,
                pads=self.pads(row, inputs[0].sides),
            )  # fmt: skip
        elif row.op == "mean":
            x = self.kept(name, self.node("GlobalAveragePool", f"{name}_map", given), sides, scale).tensor
            x = self.node("Flatten", name, [x])
        else:
            x = self.node(OPERATORS[row.op], name, given)
        self.maps[name] = self.kept(name, x, sides, scale, shown)

    def pads(self, row: Layer, sides: tuple[int, int]) -> list[int]:
        """What is put before the rows and columns, and behind them."""
        if self.padding == "symmetric" and row.op != "max_pool":
            return [row.kernel // 2] * 4
        before, after = zip(*(same_padding(side, row.kernel, row.stride) for side in sides), strict=True)
        return [*before, *after]

    def node(self, kind: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add an operator whose output and own name are `name`."""
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        """A constant as it is."""
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def kept(
        self, name: str, tensor: str, sides: tuple[int, int], scale: float = 1.0, shown: tuple[float, float] | None = None
    ) -> _Map:
        """The map of a tensor; in int8 behind QuantizeLinear and DequantizeLinear, by the range `shown` or that of calibration.

        `scale` is for a map that was the same everywhere.
        """
        if name not in self.integers:
            return _Map(tensor, sides, scale=scale, exact=tensor)
        low, high = shown or self.ranges[name]
        low, high = min(low, 0.0), max(high, 0.0)
        step = np.float32((high - low) / 255 if high > low else scale)
        zero = np.rint(-low / step).astype(np.uint8)
        by = [self.constant(f"{tensor}_scale", step), self.constant(f"{tensor}_zero", zero)]
        x = self.node("QuantizeLinear", f"{tensor}_quantized", [tensor, *by])
        x = self.node("DequantizeLinear", f"{tensor}_restored", [x, *by])
        return _Map(x, sides, (low, high), float(step), tensor if name in self.keep_float else x)

    def layer(self, row: Layer, scale: float) -> tuple[list[str], float]:
        """Kernel and bias of a layer whose input has this scale, and the largest scale of its sums."""
        kernel, bias = self.weights[row.name]
        if row.op != "dense":
            kernel = kernel.transpose((3, 0, 1, 2) if row.op == "depthwise" else (0, 3, 1, 2))
        named = {f"{row.name}/kernel": kernel, f"{row.name}/bias": bias}
        if self.precision == "float32" or row.output in self.keep_float:
            return [self.constant(name, value) for name, value in named.items()], scale
        if self.precision == "float16":
            stored = {name: self.constant(f"{name}_float16", value.astype(np.float16)) for name, value in named.items()}
            return [self.node("Cast", name, [x], to=self.onnx.TensorProto.FLOAT) for name, x in stored.items()], scale
        least = np.abs(bias) / (scale * LARGEST_BIAS)
        integers, scales = rounded(kernel, 0, least)
        found = []
        for (name, _), whole, by in zip(
            named.items(), (integers, np.rint(bias / (scale * scales)).astype(np.int32)), (scales, np.float32(scale) * scales),
            strict=True,
        ):  # fmt: skip
            inputs = [
                self.constant(f"{name}_quantized", whole), self.constant(f"{name}_scale", by),
                self.constant(f"{name}_zero", np.zeros(len(by), whole.dtype)),
            ]  # fmt: skip
            found.append(self.node("DequantizeLinear", name, inputs, axis=0))
        return found, float(scale * scales.max())
