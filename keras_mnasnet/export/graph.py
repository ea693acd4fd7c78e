"""An Architecture written straight into a `.tflite` flatbuffer: no TensorFlow, no converter, a fraction of a second."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_mnasnet.architecture import Architecture, Layer
from keras_mnasnet.export.flatbuffer import ModelWriter
from keras_mnasnet.preprocessing import IMAGENET, Normalization
from keras_mnasnet.utils.text import listed

PRECISIONS = ("float32", "float16", "weight-int8", "int8", "int8-random")
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
RELU_RANGE, LINEAR_RANGE, UNIT_RANGE = (6 / 255, -128), (0.1, 0), (1 / 256, -128)  # of activations: (scale, zero point)
LARGEST_BIAS = 2.0**30  # int32 holds twice as much
MOST_REQUANTIZATION = 128.0  # XNNPACK takes input scale x weight scale / output scale below twice that
LEAST_SCALE = 1e-12 / 127
Ranges = Mapping[str, tuple[float, float]]


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
    ranges: Ranges | None = None,
    keep_float: Collection[str] = (),
    every_map: bool = False,
    dtype: str = "float32",
) -> bytes:
    """The `.tflite` of a classifier: `image` `[batch, height, width, 3]` -> `scores` `[batch, classes]`, of `dtype`.

    `preprocessing`: the image is RGB pixels 0..255, normalized inside (True: as ImageNet's). `int8` computes in integers, but
    for the operations whose outputs are named in `keep_float`, and needs the `ranges` of maps, {map: (lowest, highest)}; its
    image and scores may be of the `dtype` uint8 or int8, too. `int8-random` takes the ranges from the air: it has the operators
    and the latency of an int8 model, and no meaning.
    `until` (`stem`, a stage `block3`, a layer `block3a`, `head`) ends the graph after that part, with its map in the graph's
    own type; `since` begins it after that part, with its map for an input (`height` and `width` are still the photo's).
    `every_map` gives the maps of all operations, in the graph's own types, in place of the scores.
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
    if precision == "int8":
        check_ranges(rows, ranges)
    net = _Net(weights, precision, padding, ranges, keep_float, dtype)
    net.quantized = net.integers and (dtype != "float32" or rows[first].output not in keep_float)
    if since is None:
        image = net.begin("image", (batch, height, width, 3), IMAGENET if preprocessing is True else preprocessing or None)
    else:
        last = rows[first - 1]
        image = net.begin(last.output, (batch, last.height, last.width, last.filters), None)
    outputs = {row.output: net.add(row).tensor for row in rows[first:end]}
    if not every_map:
        last_map = net.maps[rows[end - 1].output]
        outputs = {"scores": (net.end(last_map, softmax) if until is None else last_map).tensor}
    return net.writer.finish({"image": image}, outputs, description=description, metadata=metadata or {})


def check_ranges(rows: Sequence[Layer], ranges: Ranges | None) -> None:
    """ValueError where a map of an int8 graph has no range."""
    missing = [name for name in ("image", *(row.output for row in rows)) if name not in (ranges or {})]
    if missing:
        raise ValueError(f"`ranges` must say the range of every map of an int8 graph. Received: none of {listed(missing)}")


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
    """A tensor of the graph: its number, shape and, where it is `quantized`, scale and zero point."""

    tensor: int
    shape: tuple[int, ...]
    scale: float = 1.0
    zero: int = 0
    quantized: bool = False


class _Net:
    """The graph so far: the map that every operation gave, by its name."""

    def __init__(
        self, weights: Mapping[str, Folded], precision: str, padding: str, ranges: Ranges | None, keep_float: Collection[str],
        dtype: str,
    ) -> None:  # fmt: skip
        self.writer = ModelWriter()
        self.weights = weights
        self.precision = precision
        self.integers = precision in ("int8", "int8-random")
        self.quantized = self.integers  # of the operation that is being added
        self.padding = padding
        self.ranges, self.keep_float, self.dtype = ranges or {}, keep_float, np.dtype(dtype)
        self.maps: dict[str, _Map] = {}
        self.others: dict[str, _Map] = {}  # the same in the other type, where an operation needed it
        self.axes: int | None = None
        self.scales = np.ones(1, np.float32)  # of the kernel that was added last

    def begin(self, name: str, shape: tuple[int, ...], how: Normalization | None) -> int:
        """The input, which stands for the map `name`, and its normalization; gives the input's tensor."""
        scale, zero = self.quantization(name, (1.0, -128)) if how is None else (1.0, -128)
        if self.dtype == np.float32:
            x = _Map(self.writer.tensor("image", shape), shape)
        else:
            lifted = zero + 128 * (self.dtype == np.uint8)
            x = _Map(self.writer.tensor("image", shape, self.dtype, scale=scale, zero_point=lifted), shape, scale, zero, True)
        image = x.tensor
        if self.quantized and self.dtype != np.int8:
            x = self.operator("QUANTIZE", "image_quantized", [x], schema.QuantizeOptionsT(), quantization=(scale, zero))
        if how is not None:
            mean, std = (np.asarray(side, np.float32) for side in (how.per_channel.mean, how.per_channel.std))
            low, high = -mean, 255 - mean
            steps = (
                ("SUB", "image_centred", schema.SubOptionsT(), mean),
                ("MUL", "image_normalised", schema.MulOptionsT(), 1 / std),
            )
            for kind, title, options, values in steps:
                if kind == "MUL":
                    low, high = low / std, high / std
                row = np.tile(values, (1, 1, shape[2], 1))  # XNNPACK broadcasts a row far faster than a pixel
                constant = self.constant(f"{title}_by", row, exact=True)
                quantization = scaled(float(low.min()), float(high.max()))
                x = self.operator(kind, title, [x], options, constants=[constant], quantization=quantization)
        self.maps[name] = x
        return image

    def end(self, x: _Map, softmax: bool) -> _Map:
        """The output in the file's type, as probabilities with `softmax`."""
        if softmax:
            options = schema.SoftmaxOptionsT()
            options.beta = 1.0
            self.quantized = x.quantized
            x = self.operator("SOFTMAX", "scores", [x], options, quantization=UNIT_RANGE)
        wanted = {np.dtype(np.float32): False, np.dtype(np.int8): True}.get(self.dtype)
        if x.quantized == wanted:
            return x
        if wanted is None:
            scores = self.writer.tensor("scores", x.shape, np.uint8, scale=x.scale, zero_point=x.zero + 128)
            self.writer.operator("QUANTIZE", [x.tensor], [scores], 2, schema.QuantizeOptionsT())
        else:
            scores = self.writer.tensor("scores", x.shape)
            self.writer.operator("DEQUANTIZE", [x.tensor], [scores], 2, schema.DequantizeOptionsT())
        return _Map(scores, x.shape)

    def quantization(self, name: str, otherwise: tuple[float, int]) -> tuple[float, int]:
        """Scale and zero point of a map."""
        return scaled(*self.ranges[name]) if self.precision == "int8" else otherwise

    def given(self, name: str) -> _Map:
        """A map in the type of the operation that is being added."""
        x = self.maps[name]
        if x.quantized == self.quantized:
            return x
        if name not in self.others:
            title = f"{name}_quantized" if self.quantized else f"{name}_restored"
            options = schema.QuantizeOptionsT() if self.quantized else schema.DequantizeOptionsT()
            quantization = self.quantization(name, LINEAR_RANGE)
            self.others[name] = self.operator(
                "QUANTIZE" if self.quantized else "DEQUANTIZE", title, [x], options, quantization=quantization
            )
        return self.others[name]

    def add(self, row: Layer) -> _Map:
        """One operation of the network; gives its map, which carries the input's quantization where values keep their range."""
        self.quantized = self.integers and row.output not in self.keep_float
        inputs = [self.given(name) for name in row.inputs]
        shape: tuple[int, ...] = (inputs[0].shape[0], row.height, row.width, row.filters)
        own = (inputs[0].scale, inputs[0].zero)
        if row.op in ("conv", "depthwise"):
            found = self.conv(row, inputs[0], shape)
        elif row.op == "dense":
            shape = (shape[0], row.filters)
            found = self.weighted("FULLY_CONNECTED", row, inputs[0], schema.FullyConnectedOptionsT(), shape)
        elif row.op in ("squeeze", "mean"):
            if self.axes is None:
                self.axes = self.writer.tensor("spatial_axes", (2,), np.int32, np.array([1, 2]))
            options = schema.ReducerOptionsT()
            options.keepDims = row.op == "squeeze"
            shape = shape if options.keepDims else (shape[0], row.filters)
            found = self.operator(
                "MEAN", row.output, inputs, options, constants=[self.axes], shape=shape,
                quantization=self.quantization(row.output, own),
            )  # fmt: skip
        elif row.op == "max_pool":
            options = schema.Pool2DOptionsT()
            options.padding, options.strideW, options.strideH = SAME, row.stride, row.stride
            options.filterWidth = options.filterHeight = row.kernel
            found = self.operator("MAX_POOL_2D", row.output, inputs, options, shape=shape)
        elif row.op == "sigmoid":
            found = self.operator("LOGISTIC", row.output, inputs, None, quantization=UNIT_RANGE)
        elif row.op == "multiply":
            quantization = self.quantization(row.output, own)
            found = self.operator("MUL", row.output, inputs, schema.MulOptionsT(), quantization=quantization)
        else:
            quantization = self.quantization(row.output, LINEAR_RANGE)
            found = self.operator("ADD", row.output, inputs, schema.AddOptionsT(), shape=shape, quantization=quantization)
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
        kind = "DEPTHWISE_CONV_2D" if row.op == "depthwise" else "CONV_2D"
        return self.weighted(kind, row, x, options, shape)

    def weighted(self, kind: str, row: Layer, x: _Map, options: Any, shape: tuple[int, ...]) -> _Map:
        """An operator with a kernel and a bias."""
        kernel, bias = self.weights[row.name]
        least = np.abs(bias) / (x.scale * LARGEST_BIAS)
        constants = [self.constant(f"{row.name}/kernel", kernel, kernel_axis(row), least=least)]
        scale, zero = self.quantization(row.output, RELU_RANGE if row.relu else LINEAR_RANGE)
        if self.quantized:
            scales = np.float32(x.scale) * self.scales
            whole = np.round(bias / scales).astype(np.int32)
            constants.append(self.writer.tensor(f"{row.name}/bias", bias.shape, np.int32, whole, scale=scales))
            scale = max(scale, float(scales.max()) / MOST_REQUANTIZATION)
        else:
            constants.append(self.constant(f"{row.name}/bias", bias))
        return self.operator(kind, row.output, [x], options, constants=constants, shape=shape, quantization=(scale, zero))

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
        return _Map(output, shape, scale, zero, self.quantized)

    def constant(
        self, name: str, value: np.ndarray, axis: int | None = None, *, exact: bool = False, least: np.ndarray | float = 0.0
    ) -> int:
        """A constant in the file's precision; kernels have the `axis` of their output channels, `exact` ones stay float32.

        `least` is that of `rounded`, whose scales stay in `scales`.
        """
        if self.precision == "float16" and not exact:
            stored = self.writer.tensor(f"{name}_float16", value.shape, np.float16, value)
        elif axis is not None and (self.precision == "weight-int8" or self.quantized):
            integers, self.scales = rounded(value, axis, least if self.quantized else 0.0)
            stored = self.writer.tensor(f"{name}_int8", value.shape, np.int8, integers, scale=self.scales, axis=axis)
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


QUANTIZED_VERSIONS = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "ADD": 2, "SUB": 2, "MUL": 2, "MEAN": 2, "PAD": 2,
    "LOGISTIC": 2, "SOFTMAX": 2, "MAX_POOL_2D": 2,
}  # fmt: skip


def kernel_axis(row: Layer) -> int:
    """The axis of a folded kernel's output channels."""
    return 3 if row.op == "depthwise" else 0


def along(values: np.ndarray, kernel: np.ndarray, axis: int) -> np.ndarray:
    """Values by channel, in a shape to compute with a kernel whose channels are on `axis`."""
    return values.reshape([-1 if place == axis else 1 for place in range(kernel.ndim)])


def rounded(value: np.ndarray, axis: int, least: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 per channel of `axis`, and the scales, which are not below `least`."""
    others = tuple(i for i in range(value.ndim) if i != axis)
    scales = np.maximum(np.abs(value).max(axis=others) / 127, np.maximum(least, LEAST_SCALE)).astype(np.float32)
    return np.clip(np.round(value / along(scales, value, axis)), -127, 127).astype(np.int8), scales


def scaled(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of int8 for values `low`..`high`, widened to hold zero, which is exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, LEAST_SCALE)
    return float(np.float32(scale)), int(np.clip(np.rint(-128 - low / scale), -128, 127))
