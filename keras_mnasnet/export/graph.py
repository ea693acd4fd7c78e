"""An Architecture written straight into a `.tflite` flatbuffer: no TensorFlow, no converter, a fraction of a second."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_mnasnet.architecture import Architecture, Unit
from keras_mnasnet.export.flatbuffer import ModelWriter
from keras_mnasnet.export.weights import Folded
from keras_mnasnet.preprocessing import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["PRECISIONS", "write_graph"]

PRECISIONS = ("float32", "float16", "weight-int8", "int8-random")
RELU = schema.ActivationFunctionType.RELU
LINEAR = schema.ActivationFunctionType.NONE
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
RELU_SCALE, LINEAR_SCALE, UNIT_SCALE = 6 / 255, 0.1, 1 / 256  # of activations whose ranges are not known


def write_graph(
    architecture: Architecture,
    weights: Mapping[str, Folded],
    *,
    height: int,
    width: int,
    classes: int,
    precision: str = "float32",
    padding: str = "same",
    preprocessing: bool = True,
    softmax: bool = True,
    batch: int = 1,
    description: str = "",
    metadata: Mapping[str, bytes] | None = None,
    since: str | None = None,
    until: str | None = None,
) -> bytes:
    """The `.tflite` of a classifier: `image` `[batch, height, width, 3]` -> `scores` `[batch, classes]`, both float32.

    `preprocessing`: the image is RGB pixels 0..255, normalised inside. `int8-random` rounds the weights, but takes the ranges
    of activations from the air: it has the operators and the latency of an int8 model, and no meaning. `until` (`stem`, a
    stage `block3`, a layer `block3a`, `head`) ends the graph after that part, with its map in the graph's own type; `since`
    begins it after that part, with its map for an input (`height` and `width` are still the photo's).
    """
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {PRECISIONS}. Received: precision={precision!r}")
    if padding not in ("same", "symmetric"):
        raise ValueError(f"`padding` must be 'same' or 'symmetric'. Received: padding={padding!r}")
    names = ["stem", *(name for unit in architecture.units() for name in (unit.name, f"block{unit.stage}")), "head"]
    for argument, part in (("since", since), ("until", until)):
        if part is not None and part not in names:
            raise ValueError(
                f"`{argument}` must be stem, a stage, a layer or head of {architecture.name}. Received: {argument}={part!r}"
            )
    net = _Net(weights, precision, padding)
    if since is None:
        image = net.begin((batch, height, width, 3), preprocessing)
    else:
        image = net.begin((batch, *_map_after(architecture, since, height, width)), preprocessing=False)
    if not any(until in names for names in _parts(net, architecture, since)):
        net.mean("avg_pool", keep_dims=False)
        net.dense("predictions")
        if softmax:
            net.softmax()
    scores = net.end() if until is None else net.at
    return net.writer.finish({"image": image}, {"scores": scores}, description=description, metadata=metadata or {})


def _parts(net: _Net, architecture: Architecture, since: str | None) -> Iterator[tuple[str, ...]]:
    """Build the network part by part, from the one after `since` to the head, and name each once it stands."""
    units = architecture.units()
    parts: list[tuple[tuple[str, ...], Callable[[], None]]] = [
        (("stem",), lambda: net.conv("stem", 3, architecture.stem_stride))
    ]
    for unit, following in itertools.zip_longest(units, units[1:]):
        ends = following is None or following.stage != unit.stage
        parts.append(((unit.name, f"block{unit.stage}") if ends else (unit.name,), functools.partial(net.unit, unit)))
    parts.append((("head",), lambda: net.conv("head", 1, 1)))
    begun = since is None
    for names, build in parts:
        if begun:
            build()
            yield names
        begun = begun or since in names


def _map_after(architecture: Architecture, part: str, height: int, width: int) -> tuple[int, int, int]:
    """Height, width and channels of the map that a part gives."""
    layer = re.compile(f"{part}[a-z]*_" if part[-1].isdigit() else f"{part}_")
    last = [row for row in architecture.layers(height, width, classes=0) if layer.match(row.name)][-1]
    return last.height, last.width, last.filters


class _Net:
    """The graph so far: the current tensor, its shape, its quantization."""

    def __init__(self, weights: Mapping[str, Folded], precision: str, padding: str) -> None:
        self.writer = ModelWriter()
        self.weights = weights
        self.precision = precision
        self.quantized = precision == "int8-random"
        self.padding = padding
        self.at = -1
        self.shape: tuple[int, ...] = ()
        self.scale = 1.0
        self.zero = 0
        self.axes: int | None = None

    def begin(self, shape: tuple[int, ...], preprocessing: bool) -> int:
        """The input, and its normalisation; gives the input's tensor."""
        image = self.at = self.writer.tensor("image", shape)
        self.shape = shape
        if self.quantized:
            self.operator("QUANTIZE", "image_quantized", [image], schema.QuantizeOptionsT(), scale=1.0, zero=-128)
        if preprocessing:
            mean = 255 * np.asarray(IMAGENET_MEAN, np.float32)
            factor = 1 / (255 * np.asarray(IMAGENET_STD, np.float32))
            for name, kind, options, values in (
                ("image_centred", "SUB", schema.SubOptionsT(), mean),
                ("image_normalised", "MUL", schema.MulOptionsT(), factor),
            ):
                row = np.tile(values, (1, 1, shape[2], 1))  # XNNPACK broadcasts a row far faster than a pixel
                constant = self.constant(f"{name}_by", row, exact=True)
                self.operator(kind, name, [self.at, constant], options, scale=1.0 if kind == "SUB" else 0.03, zero=0)
        return image

    def end(self) -> int:
        """The output as float32."""
        if self.quantized:
            scores = self.writer.tensor("scores", self.shape)
            self.writer.operator("DEQUANTIZE", [self.at], [scores], 2, schema.DequantizeOptionsT())
            return scores
        return self.at

    def operator(
        self, kind: str, name: str, inputs: list[int], options: Any, *, shape: tuple[int, ...] | None = None,
        scale: float | None = None, zero: int = 0, version: int = 1,
    ) -> int:  # fmt: skip
        """Add an operator; its output is the current tensor. Without a `scale` the output keeps the input's quantization."""
        self.shape = self.shape if shape is None else shape
        if not self.quantized:
            output = self.writer.tensor(name, self.shape)
        else:
            if scale is not None:
                self.scale, self.zero = scale, zero
            output = self.writer.tensor(name, self.shape, np.int8, scale=self.scale, zero_point=self.zero)
            version = QUANTIZED_VERSIONS.get(kind, version)
        self.writer.operator(kind, inputs, [output], version, options)
        self.at = output
        return output

    def constant(self, name: str, value: np.ndarray, axis: int | None = None, *, exact: bool = False) -> int:
        """A constant in the file's precision; kernels have the `axis` of their output channels, `exact` ones stay float32."""
        if self.precision == "float16" and not exact:
            stored = self.writer.tensor(f"{name}_float16", value.shape, np.float16, value)
        elif axis is not None and self.precision in ("weight-int8", "int8-random"):
            integers, scales = _rounded(value, axis)
            stored = self.writer.tensor(f"{name}_int8", value.shape, np.int8, integers, scale=scales, axis=axis)
            if self.quantized:
                return stored
        elif self.quantized:
            integers, scales = _rounded(value.reshape(1, -1), 0)
            return self.writer.tensor(
                f"{name}_int8", value.shape, np.int8, integers.reshape(value.shape), scale=float(scales[0])
            )
        else:
            return self.writer.tensor(name, value.shape, np.float32, value)
        restored = self.writer.tensor(name, value.shape)
        version = 3 if self.precision == "float16" else 5
        self.writer.operator("DEQUANTIZE", [stored], [restored], version, schema.DequantizeOptionsT())
        return restored

    def layer(self, name: str, axis: int) -> list[int]:
        """Kernel and bias of a layer."""
        folded = self.weights[name]
        kernel = self.constant(f"{name}/kernel", folded.kernel, axis)
        if not self.quantized:
            return [kernel, self.constant(f"{name}/bias", folded.bias)]
        scales = np.float32(self.scale) * _rounded(folded.kernel, axis)[1]
        integers = np.round(folded.bias / scales).astype(np.int32)
        return [kernel, self.writer.tensor(f"{name}/bias", folded.bias.shape, np.int32, integers, scale=scales)]

    def conv(self, name: str, kernel: int, stride: int, activation: int = RELU, depthwise: bool = False) -> None:
        """A convolution with its folded batch norm and its ReLU."""
        padding = SAME
        if self.padding == "symmetric" and stride > 1 and kernel > 1:
            self.pad(name, kernel // 2)
            padding = VALID
        batch, height, width, _ = self.shape
        if padding == VALID:
            height, width = height - kernel + 1, width - kernel + 1
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.padding, options.strideW, options.strideH = padding, stride, stride
        options.fusedActivationFunction = activation
        if depthwise:
            options.depthMultiplier = 1
        inputs = [self.at, *self.layer(f"{name}_conv", 3 if depthwise else 0)]
        filters = len(self.weights[f"{name}_conv"].bias)
        self.operator(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", f"{name}_relu" if activation == RELU else f"{name}_bn", inputs,
            options, shape=(batch, -(-height // stride), -(-width // stride), filters), **_range(activation),
        )  # fmt: skip

    def pad(self, name: str, by: int) -> None:
        """Zeros around the map."""
        batch, height, width, channels = self.shape
        sides = self.writer.tensor(f"{name}_pad/sides", (4, 2), np.int32, np.array([[0, 0], [by, by], [by, by], [0, 0]]))
        shape = (batch, height + 2 * by, width + 2 * by, channels)
        self.operator("PAD", f"{name}_pad", [self.at, sides], schema.PadOptionsT(), shape=shape)

    def mean(self, name: str, *, keep_dims: bool) -> None:
        """The mean over height and width."""
        if self.axes is None:
            self.axes = self.writer.tensor("spatial_axes", (2,), np.int32, np.array([1, 2]))
        options = schema.ReducerOptionsT()
        options.keepDims = keep_dims
        batch, channels = self.shape[0], self.shape[-1]
        shape = (batch, 1, 1, channels) if keep_dims else (batch, channels)
        self.operator("MEAN", name, [self.at, self.axes], options, shape=shape)

    def unit(self, unit: Unit) -> None:
        """One layer of a stage and its skip."""
        start, shape, quantization = self.at, self.shape, (self.scale, self.zero)
        if unit.op == "mbconv":
            self.mbconv(unit)
        else:
            self.conv(unit.conv, unit.kernel, unit.stride, RELU if unit.op == "conv" else LINEAR)
            if unit.se_filters:
                self.gate(unit)
        if not unit.residual and not unit.pooled:
            return
        main, main_shape = self.at, self.shape
        if unit.pooled:
            self.at, self.shape, (self.scale, self.zero) = start, shape, quantization
            self.max_pool(f"{unit.name}_pool", 3, unit.stride)
            start = self.at
        inputs = [start, main]
        self.operator("ADD", f"{unit.name}_add", inputs, schema.AddOptionsT(), shape=main_shape, **_range(LINEAR))

    def mbconv(self, unit: Unit) -> None:
        """Expand, depthwise, gate, project."""
        if unit.expanded != unit.input_filters:
            self.conv(f"{unit.name}_expand", 1, 1)
        self.conv(f"{unit.name}_depthwise", unit.kernel, unit.stride, depthwise=True)
        if unit.se_filters:
            self.gate(unit)
        self.conv(f"{unit.name}_project", 1, 1, LINEAR)

    def max_pool(self, name: str, kernel: int, stride: int) -> None:
        """The maximum over a window."""
        options = schema.Pool2DOptionsT()
        options.padding, options.strideW, options.strideH = SAME, stride, stride
        options.filterWidth = options.filterHeight = kernel
        batch, height, width, channels = self.shape
        self.operator(
            "MAX_POOL_2D", name, [self.at], options, shape=(batch, -(-height // stride), -(-width // stride), channels)
        )

    def gate(self, unit: Unit) -> None:
        """Squeeze-and-excite."""
        prefix = f"{unit.name}_se"
        excited, shape, quantization = self.at, self.shape, (self.scale, self.zero)
        self.mean(f"{prefix}_squeeze", keep_dims=True)
        for part, activation, filters in (("reduce", RELU, unit.se_filters), ("expand", LINEAR, unit.expanded)):
            options = schema.Conv2DOptionsT()
            options.padding, options.strideW, options.strideH = SAME, 1, 1
            options.fusedActivationFunction = activation
            inputs = [self.at, *self.layer(f"{prefix}_{part}", 0)]
            self.operator(
                "CONV_2D", f"{prefix}_{part}", inputs, options, shape=(self.shape[0], 1, 1, filters), **_range(activation)
            )
        self.operator("LOGISTIC", f"{prefix}_gate", [self.at], None, scale=UNIT_SCALE, zero=-128)
        gate = self.at
        self.operator(
            "MUL", f"{prefix}_excite", [excited, gate], schema.MulOptionsT(), shape=shape, scale=quantization[0],
            zero=quantization[1],
        )  # fmt: skip

    def dense(self, name: str) -> None:
        """The classifier."""
        inputs = [self.at, *self.layer(name, 0)]
        classes = len(self.weights[name].bias)
        self.operator(
            "FULLY_CONNECTED", name, inputs, schema.FullyConnectedOptionsT(), shape=(self.shape[0], classes), **_range(LINEAR)
        )

    def softmax(self) -> None:
        """Probabilities."""
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        self.operator("SOFTMAX", "scores", [self.at], options, scale=UNIT_SCALE, zero=-128)


QUANTIZED_VERSIONS = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "ADD": 2, "SUB": 2, "MUL": 2, "MEAN": 2, "PAD": 2,
    "LOGISTIC": 2, "SOFTMAX": 2, "MAX_POOL_2D": 2,
}  # fmt: skip


def _range(activation: int) -> dict[str, Any]:
    return {"scale": RELU_SCALE, "zero": -128} if activation == RELU else {"scale": LINEAR_SCALE, "zero": 0}


def _rounded(value: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 per channel of `axis`, and the scales."""
    others = tuple(i for i in range(value.ndim) if i != axis)
    scales = np.maximum(np.abs(value).max(axis=others), 1e-12).astype(np.float32) / 127
    shape = [1] * value.ndim
    shape[axis] = -1
    return np.clip(np.round(value / scales.reshape(shape)), -127, 127).astype(np.int8), scales
