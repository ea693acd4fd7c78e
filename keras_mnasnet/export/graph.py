"""An Architecture written straight into a `.tflite` flatbuffer: no TensorFlow, no converter, a fraction of a second."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_mnasnet.architecture import Architecture, Layer
from keras_mnasnet.export.flatbuffer import ModelWriter
from keras_mnasnet.preprocessing import IMAGENET, Normalization

PRECISIONS = ("float32", "float16", "weight-int8", "int8-random")
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
RELU_RANGE, LINEAR_RANGE, UNIT_RANGE = (6 / 255, -128), (0.1, 0), (1 / 256, -128)  # of activations: (scale, zero point)


class Folded(NamedTuple):
    """One convolution or the classifier: kernel `[out, k, k, in]`, `[1, k, k, C]` (depthwise) or `[out, in]`, and bias."""

    kernel: np.ndarray
    bias: np.ndarray


def folded_weights(
    architecture: Architecture, tensors: Mapping[str, np.ndarray], *, classes: int, bn_epsilon: float
) -> dict[str, Folded]:
    """{layer: Folded} from tensors under house names.

    kernel * gamma / sqrt(variance + epsilon), beta - mean * gamma / sqrt(variance + epsilon); computed in float64.
    """
    found = {}
    for layer in architecture.layers(32, 32, classes=classes):
        kernel = tensors[f"{layer.name}/kernel"]
        kernel = kernel.T if layer.op == "dense" else kernel.transpose(3, 0, 1, 2)
        if layer.bn:
            gamma, beta, mean, variance = (
                tensors[f"{layer.bn}/{leaf}"].astype(np.float64) for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            factor = gamma / np.sqrt(variance + bn_epsilon)
            by = factor if layer.op == "depthwise" else factor.reshape(-1, 1, 1, 1)
            kernel = np.multiply(kernel, by, out=np.empty(kernel.shape, np.float32), casting="same_kind")
            bias = (beta - mean * factor).astype(np.float32)
        else:
            bias = tensors[f"{layer.name}/bias"]
        found[layer.name] = Folded(kernel, bias)
    return found


def random_weights(architecture: Architecture, *, classes: int, seed: int = 0) -> dict[str, Folded]:
    """Weights drawn for timing: kernels N(0, 2 / fan in), biases 0."""
    rng = np.random.default_rng(seed)
    found = {}
    for layer in architecture.layers(32, 32, classes=classes):
        k, cin, cout = layer.kernel, layer.input_filters, layer.filters
        shape = {"conv": (cout, k, k, cin), "depthwise": (1, k, k, cin), "dense": (cout, cin)}[layer.op]
        fan_in = k * k * (1 if layer.op == "depthwise" else cin)
        kernel = rng.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)
        found[layer.name] = Folded(kernel, np.zeros(cout, np.float32))
    return found


def write_graph(
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
    metadata: Mapping[str, bytes] | None = None,
    since: str | None = None,
    until: str | None = None,
) -> bytes:
    """The `.tflite` of a classifier: `image` `[batch, height, width, 3]` -> `scores` `[batch, classes]`, both float32.

    `preprocessing`: the image is RGB pixels 0..255, normalized inside (True: as ImageNet's). `int8-random` rounds the weights,
    but takes the ranges of activations from the air: it has the operators and the latency of an int8 model, and no meaning.
    `until` (`stem`, a stage `block3`, a layer `block3a`, `head`) ends the graph after that part, with its map in the graph's
    own type; `since` begins it after that part, with its map for an input (`height` and `width` are still the photo's).
    """
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {PRECISIONS}. Received: precision={precision!r}")
    if padding not in ("same", "symmetric"):
        raise ValueError(f"`padding` must be 'same' or 'symmetric'. Received: padding={padding!r}")
    rows = architecture.operations(height, width, classes=classes)
    first = 0 if since is None else _end_of("since", since, architecture, rows)
    end = len(rows) if until is None else _end_of("until", until, architecture, rows)
    if first >= end:
        raise ValueError(f"`until` must come after `since`. Received: since={since!r}, until={until!r}")
    net = _Net(weights, precision, padding)
    if since is None:
        image = net.begin("image", (batch, height, width, 3), IMAGENET if preprocessing is True else preprocessing or None)
    else:
        last = rows[first - 1]
        image = net.begin(last.output, (batch, last.height, last.width, last.filters), None)
    for row in rows[first:end]:
        scores = net.add(row)
    if until is None:
        scores = net.end(scores, softmax)
    return net.writer.finish(
        {"image": image}, {"scores": scores.tensor}, description=description, metadata=metadata or {}
    )  # fmt: skip


def _end_of(argument: str, part: str, architecture: Architecture, rows: tuple[Layer, ...]) -> int:
    """The number of operations to the end of a part; a stage ends with its last layer."""
    names = ((row.part, row.part.rstrip(string.ascii_letters)) for row in rows if row.part != "top")
    ends = [index for index, found in enumerate(names, 1) if part in found]
    if not ends:
        raise ValueError(
            f"`{argument}` must be stem, a stage, a layer or head of {architecture.name}. Received: {argument}={part!r}"
        )
    return ends[-1]


class _Map(NamedTuple):
    """A tensor of the graph: its number, shape and quantization."""

    tensor: int
    shape: tuple[int, ...]
    scale: float = 1.0
    zero: int = 0


class _Net:
    """The graph so far: the map that every operation gave, by its name."""

    def __init__(self, weights: Mapping[str, Folded], precision: str, padding: str) -> None:
        self.writer = ModelWriter()
        self.weights = weights
        self.precision = precision
        self.quantized = precision == "int8-random"
        self.padding = padding
        self.maps: dict[str, _Map] = {}
        self.axes: int | None = None

    def begin(self, name: str, shape: tuple[int, ...], how: Normalization | None) -> int:
        """The input, which stands for the map `name`, and its normalization; gives the input's tensor."""
        image = self.writer.tensor("image", shape)
        x = _Map(image, shape)
        if self.quantized:
            x = self.operator("QUANTIZE", "image_quantized", [x], schema.QuantizeOptionsT(), quantization=(1.0, -128))
        if how is not None:
            mean, factor = np.asarray(how.per_channel.mean, np.float32), 1 / np.asarray(how.per_channel.std, np.float32)
            for kind, title, options, values, scale in (
                ("SUB", "image_centred", schema.SubOptionsT(), mean, 1.0),
                ("MUL", "image_normalised", schema.MulOptionsT(), factor, 0.03),
            ):
                row = np.tile(values, (1, 1, shape[2], 1))  # XNNPACK broadcasts a row far faster than a pixel
                constant = self.constant(f"{title}_by", row, exact=True)
                x = self.operator(kind, title, [x], options, constants=[constant], quantization=(scale, 0))
        self.maps[name] = x
        return image

    def end(self, x: _Map, softmax: bool) -> _Map:
        """The output as float32, as probabilities with `softmax`."""
        if softmax:
            options = schema.SoftmaxOptionsT()
            options.beta = 1.0
            x = self.operator("SOFTMAX", "scores", [x], options, quantization=UNIT_RANGE)
        if not self.quantized:
            return x
        scores = self.writer.tensor("scores", x.shape)
        self.writer.operator("DEQUANTIZE", [x.tensor], [scores], 2, schema.DequantizeOptionsT())
        return _Map(scores, x.shape)

    def add(self, row: Layer) -> _Map:
        """One operation of the network; gives its map, which carries the input's quantization where values keep their range."""
        inputs = [self.maps[name] for name in row.inputs]
        shape: tuple[int, ...] = (inputs[0].shape[0], row.height, row.width, row.filters)
        if row.op in ("conv", "depthwise"):
            found = self.conv(row, inputs[0], shape)
        elif row.op == "dense":
            constants = self.layer(row.name, 0, inputs[0].scale)
            found = self.operator(
                "FULLY_CONNECTED", row.output, inputs, schema.FullyConnectedOptionsT(), constants=constants,
                shape=(shape[0], row.filters), quantization=LINEAR_RANGE,
            )  # fmt: skip
        elif row.op in ("squeeze", "mean"):
            if self.axes is None:
                self.axes = self.writer.tensor("spatial_axes", (2,), np.int32, np.array([1, 2]))
            options = schema.ReducerOptionsT()
            options.keepDims = row.op == "squeeze"
            shape = shape if options.keepDims else (shape[0], row.filters)
            found = self.operator("MEAN", row.output, inputs, options, constants=[self.axes], shape=shape)
        elif row.op == "max_pool":
            options = schema.Pool2DOptionsT()
            options.padding, options.strideW, options.strideH = SAME, row.stride, row.stride
            options.filterWidth = options.filterHeight = row.kernel
            found = self.operator("MAX_POOL_2D", row.output, inputs, options, shape=shape)
        elif row.op == "sigmoid":
            found = self.operator("LOGISTIC", row.output, inputs, None, quantization=UNIT_RANGE)
        elif row.op == "multiply":
            found = self.operator("MUL", row.output, inputs, schema.MulOptionsT())
        else:
            found = self.operator("ADD", row.output, inputs, schema.AddOptionsT(), shape=shape, quantization=LINEAR_RANGE)
        self.maps[row.output] = found
        return found

    def conv(self, row: Layer, x: _Map, shape: tuple[int, ...]) -> _Map:
        """A convolution with its folded batch norm and its ReLU."""
        padding = SAME
        if self.padding == "symmetric" and row.stride > 1 and row.kernel > 1:
            x, padding = self.pad(row, x), VALID
        options = schema.DepthwiseConv2DOptionsT() if row.op == "depthwise" else schema.Conv2DOptionsT()
        options.padding, options.strideW, options.strideH = padding, row.stride, row.stride
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU if row.relu else schema.ActivationFunctionType.NONE
        if row.op == "depthwise":
            options.depthMultiplier = 1
        kind, axis = ("DEPTHWISE_CONV_2D", 3) if row.op == "depthwise" else ("CONV_2D", 0)
        return self.operator(
            kind, row.output, [x], options, constants=self.layer(row.name, axis, x.scale), shape=shape,
            quantization=RELU_RANGE if row.relu else LINEAR_RANGE,
        )  # fmt: skip

    def pad(self, row: Layer, x: _Map) -> _Map:
        """Zeros around the map, as PyTorch puts them."""
        by = row.kernel // 2
        name = f"{row.base}_pad"
        sides = self.writer.tensor(f"{name}/sides", (4, 2), np.int32, np.array([[0, 0], [by, by], [by, by], [0, 0]]))
        batch, height, width, channels = x.shape
        shape = (batch, height + 2 * by, width + 2 * by, channels)
        return self.operator("PAD", name, [x], schema.PadOptionsT(), constants=[sides], shape=shape)

    def operator(
        self, kind: str, name: str, inputs: Sequence[_Map], options: Any, *, constants: Sequence[int] = (),
        shape: tuple[int, ...] | None = None, quantization: tuple[float, int] | None = None,
    ) -> _Map:  # fmt: skip
        """Add an operator of maps and constants; its output has the first input's shape and quantization unless given."""
        shape = shape or inputs[0].shape
        scale, zero = quantization or (inputs[0].scale, inputs[0].zero)
        if self.quantized:
            output = self.writer.tensor(name, shape, np.int8, scale=scale, zero_point=zero)
        else:
            output = self.writer.tensor(name, shape)
        version = QUANTIZED_VERSIONS.get(kind, 1) if self.quantized else 1
        self.writer.operator(kind, [*(x.tensor for x in inputs), *constants], [output], version, options)
        return _Map(output, shape, scale, zero)

    def constant(self, name: str, value: np.ndarray, axis: int | None = None, *, exact: bool = False) -> int:
        """A constant in the file's precision; kernels have the `axis` of their output channels, `exact` ones stay float32."""
        if self.precision == "float16" and not exact:
            stored = self.writer.tensor(f"{name}_float16", value.shape, np.float16, value)
        elif axis is not None and self.precision in ("weight-int8", "int8-random"):
            integers, scales = rounded(value, axis)
            stored = self.writer.tensor(f"{name}_int8", value.shape, np.int8, integers, scale=scales, axis=axis)
            if self.quantized:
                return stored
        elif self.quantized:
            integers, scales = rounded(value.reshape(1, -1), 0)
            return self.writer.tensor(
                f"{name}_int8", value.shape, np.int8, integers.reshape(value.shape), scale=float(scales[0])
            )
        else:
            return self.writer.tensor(name, value.shape, np.float32, value)
        restored = self.writer.tensor(name, value.shape)
        version = 3 if self.precision == "float16" else 5
        self.writer.operator("DEQUANTIZE", [stored], [restored], version, schema.DequantizeOptionsT())
        return restored

    def layer(self, name: str, axis: int, scale: float) -> list[int]:
        """Kernel and bias of a layer whose input has this scale."""
        folded = self.weights[name]
        kernel = self.constant(f"{name}/kernel", folded.kernel, axis)
        if not self.quantized:
            return [kernel, self.constant(f"{name}/bias", folded.bias)]
        scales = np.float32(scale) * rounded(folded.kernel, axis)[1]
        integers = np.round(folded.bias / scales).astype(np.int32)
        return [kernel, self.writer.tensor(f"{name}/bias", folded.bias.shape, np.int32, integers, scale=scales)]


QUANTIZED_VERSIONS = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "ADD": 2, "SUB": 2, "MUL": 2, "MEAN": 2, "PAD": 2,
    "LOGISTIC": 2, "SOFTMAX": 2, "MAX_POOL_2D": 2,
}  # fmt: skip


def rounded(value: np.ndarray, axis: int, least: np.ndarray | float = 1e-12 / 127) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 per channel of `axis`, and the scales, which are not below `least`."""
    others = tuple(i for i in range(value.ndim) if i != axis)
    scales = np.maximum(np.abs(value).max(axis=others) / 127, least).astype(np.float32)
    shape = [1] * value.ndim
    shape[axis] = -1
    return np.clip(np.round(value / scales.reshape(shape)), -127, 127).astype(np.int8), scales
