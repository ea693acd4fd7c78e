"""Architecture -> functional Keras model, on `keras` (any backend) or on `tf_keras`."""

from __future__ import annotations

import contextlib
import math
import numbers
import operator
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from keras_mnasnet.architecture import Architecture, Unit
from keras_mnasnet.preprocessing import IMAGENET

__all__ = [
    "build",
    "default_name",
    "normalization",
    "output_dtype",
    "resolve_input_shape",
]

MIN_SIZE = 32
PADDINGS = ("same", "symmetric")
POOLINGS = (None, "avg", "max")

InputShape = tuple[int | None, int | None, int]


def resolve_input_shape(input_shape: Any, default_size: int = 224) -> InputShape:
    """(height, width, channels) from the `input_shape` argument; sizes may be None, and are otherwise at least 32."""
    if input_shape is None:
        return default_size, default_size, 3
    try:
        height, width, channels = input_shape
    except (TypeError, ValueError):
        raise ValueError(f"`input_shape` must be (height, width, channels). Received: input_shape={input_shape!r}") from None
    height, width, channels = (size if size is None else _integer(size) for size in (height, width, channels))
    for size in (height, width):
        if size is not None and size < MIN_SIZE:
            raise ValueError(
                f"Height and width of `input_shape` must be integers >= {MIN_SIZE}, or None. "
                f"Received: input_shape={tuple(input_shape)}"
            )
    if channels is None or channels < 1:
        raise ValueError(
            f"The number of channels of `input_shape` must be an integer >= 1. Received: input_shape={tuple(input_shape)}. "
            f"Channels stand last: (height, width, channels)."
        )
    return height, width, channels


def _integer(value: Any) -> int:
    """An integer of any integer type; 0, which no argument here accepts, for anything else."""
    try:
        return 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return 0


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


class _Graph:
    """Named layers of one network: thin wrappers that know the house's padding, batch norm and data format."""

    def __init__(self, framework: ModuleType, padding: str, bn_epsilon: float, bn_momentum: float) -> None:
        self.layers = framework.layers
        self.initializers = framework.initializers
        self.padding = padding
        self.bn_options = {"axis": -1, "epsilon": bn_epsilon, "momentum": bn_momentum}

    def normal(self, fan_out: int) -> Any:
        """Google's kernel initialiser, N(0, sqrt(2 / fan_out)).

        Written with RandomNormal, whose saved form is the same in every Keras 3; a new object each time, because a Keras
        initialiser repeats its draw for equal shapes.
        """
        return self.initializers.RandomNormal(stddev=math.sqrt(2 / fan_out))

    def uniform(self, fan_out: int) -> Any:
        """Google's initialiser of the classifier, U(-1, 1) / sqrt(fan_out)."""
        limit = 1 / math.sqrt(fan_out)
        return self.initializers.RandomUniform(-limit, limit)

    def conv(self, x: Any, name: str, filters: int, kernel: int = 1, stride: int = 1, relu: bool = True) -> Any:
        padding = self._pad_mode(kernel, stride)
        if padding == "valid" and kernel > 1:
            x = self._pad(x, name, kernel)
        x = self.layers.Conv2D(
            filters, kernel, strides=stride, padding=padding, use_bias=False, data_format="channels_last",
            kernel_initializer=self.normal(kernel * kernel * filters), name=f"{name}_conv",
        )(x)  # fmt: skip
        return self._bn(x, name, relu)

    def depthwise(self, x: Any, name: str, kernel: int, stride: int) -> Any:
        padding = self._pad_mode(kernel, stride)
        if padding == "valid":
            x = self._pad(x, name, kernel)
        x = self.layers.DepthwiseConv2D(
            kernel, strides=stride, padding=padding, use_bias=False, data_format="channels_last",
            depthwise_initializer=self.normal(kernel * kernel), name=f"{name}_conv",
        )(x)  # fmt: skip
        return self._bn(x, name, relu=True)

    def gate(self, x: Any, unit: Unit) -> Any:
        """Squeeze-and-excite: pool -> reduce -> ReLU -> expand -> sigmoid -> multiply; every operation a named layer."""
        prefix = f"{unit.name}_se"
        y = self.layers.GlobalAveragePooling2D(keepdims=True, data_format="channels_last", name=f"{prefix}_squeeze")(x)
        for part, filters, activation in (("reduce", unit.se_filters, "relu"), ("expand", unit.expanded, None)):
            y = self.layers.Conv2D(
                filters, 1, activation=activation, data_format="channels_last",
                kernel_initializer=self.normal(filters), name=f"{prefix}_{part}",
            )(y)  # fmt: skip
        y = self.layers.Activation("sigmoid", name=f"{prefix}_gate")(y)
        return self.layers.Multiply(name=f"{prefix}_excite")([x, y])

    def unit(self, x: Any, unit: Unit) -> Any:
        y = self.mbconv(x, unit) if unit.op == "mbconv" else self.plain(x, unit)
        if unit.pooled:
            x = self.layers.MaxPooling2D(
                3, strides=unit.stride, padding="same", data_format="channels_last", name=f"{unit.name}_pool"
            )(x)  # fmt: skip
        return self.layers.Add(name=f"{unit.name}_add")([x, y]) if unit.residual or unit.pooled else y

    def plain(self, x: Any, unit: Unit) -> Any:
        y = self.conv(x, unit.conv, unit.filters, unit.kernel, unit.stride, relu=unit.op == "conv")
        return self.gate(y, unit) if unit.se_filters else y

    def mbconv(self, x: Any, unit: Unit) -> Any:
        y = x
        if unit.expanded != unit.input_filters:
            y = self.conv(y, f"{unit.name}_expand", unit.expanded)
        y = self.depthwise(y, f"{unit.name}_depthwise", unit.kernel, unit.stride)
        if unit.se_filters:
            y = self.gate(y, unit)
        return self.conv(y, f"{unit.name}_project", unit.filters, relu=False)

    def pool(self, x: Any, pooling: str) -> Any:
        layer = self.layers.GlobalAveragePooling2D if pooling == "avg" else self.layers.GlobalMaxPooling2D
        return layer(data_format="channels_last", name=f"{pooling}_pool")(x)

    def classifier(self, x: Any, classes: int, activation: Any, dropout_rate: float, dtype: str | None) -> Any:
        x = self.pool(x, "avg")
        if dropout_rate:
            x = self.layers.Dropout(dropout_rate, name="top_dropout")(x)
        return self.layers.Dense(
            classes, activation=activation, kernel_initializer=self.uniform(classes), dtype=dtype, name="predictions"
        )(x)

    def _pad_mode(self, kernel: int, stride: int) -> str:
        """At stride 1, and for 1x1 kernels, TF's SAME and symmetric padding are the same thing."""
        return "valid" if self.padding == "symmetric" and stride > 1 and kernel > 1 else "same"

    def _pad(self, x: Any, name: str, kernel: int) -> Any:
        return self.layers.ZeroPadding2D(kernel // 2, data_format="channels_last", name=f"{name}_pad")(x)

    def _bn(self, x: Any, name: str, relu: bool) -> Any:
        x = self.layers.BatchNormalization(name=f"{name}_bn", **self.bn_options)(x)
        return self.layers.ReLU(name=f"{name}_relu")(x) if relu else x


def build(
    architecture: Architecture,
    *,
    include_top: bool = True,
    input_tensor: Any = None,
    input_shape: Any = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    include_preprocessing: bool = True,
    name: str | None = None,
    dropout_rate: float = 0.2,
    bn_epsilon: float = 1e-3,
    bn_momentum: float = 0.99,
    padding: str = "same",
    framework: ModuleType | None = None,
) -> Any:
    """A functional model of `architecture` with fresh weights: `[B, H, W, C]` -> `[B, classes]`.

    `include_preprocessing=True` takes RGB pixels 0..255. `padding` is `same` (TensorFlow) or `symmetric` (PyTorch).
    `framework` is the module `keras` (default) or `tf_keras`. Without the top the output is the head convolution's map
    `[B, h, w, 1280]`, or `[B, 1280]` with `pooling` `avg` or `max`. Raises ValueError for arguments out of range.
    """
    if framework is None:
        import keras as framework  # type: ignore[no-redef]
    if padding not in PADDINGS:
        raise ValueError(f"`padding` must be one of {PADDINGS}. Received: padding={padding!r}")
    if pooling not in POOLINGS:
        raise ValueError(f"`pooling` must be one of {POOLINGS}. Received: pooling={pooling!r}")
    if include_top and _integer(classes) < 1:
        raise ValueError(f"`classes` must be an integer >= 1. Received: classes={classes!r}")
    if not _is_number(dropout_rate) or not 0 <= dropout_rate < 1:
        raise ValueError(f"`dropout_rate` must be in [0, 1). Received: dropout_rate={dropout_rate!r}")
    bn_values = (bn_epsilon, bn_momentum)
    if not all(map(_is_number, bn_values)) or not 0 < bn_epsilon < 1 or not 0 <= bn_momentum < 1:
        raise ValueError(
            f"`bn_epsilon` must be in (0, 1) and `bn_momentum` in [0, 1). "
            f"Received: bn_epsilon={bn_epsilon!r}, bn_momentum={bn_momentum!r}"
        )

    # Keras 3 makes the variables of a StatelessScope when it ends, outside of the layers' name scopes. TensorFlow then shares
    # one kernel among variables of a shape, and the build takes a quarter less time.
    with getattr(framework, "StatelessScope", contextlib.nullcontext)():
        inputs = _input(framework, input_tensor, input_shape)
        x = normalization(framework.layers)(_rgb(inputs)) if include_preprocessing else inputs  # type: ignore[union-attr]
        graph = _Graph(framework, padding, bn_epsilon, bn_momentum)  # type: ignore[arg-type]
        x = graph.conv(x, "stem", architecture.stem, kernel=3, stride=architecture.stem_stride)
        for unit in architecture.units():
            x = graph.unit(x, unit)
        x = graph.conv(x, "head", architecture.head)
        if include_top:
            x = graph.classifier(x, _integer(classes), classifier_activation, dropout_rate, output_dtype(framework))
        elif pooling:
            x = graph.pool(x, pooling)
        if input_tensor is not None:
            sources = framework.utils.get_source_inputs(inputs)  # type: ignore[union-attr]
            inputs = sources[0] if len(sources) == 1 else sources
        return framework.Model(inputs, x, name=name or default_name(architecture))  # type: ignore[union-attr]


def _rgb(x: Any) -> Any:
    if x.shape[-1] != 3:
        raise ValueError(
            f"`include_preprocessing=True` normalises 3 channels (RGB, 0..255). Received: {x.shape[-1]} channels. "
            f"Pass include_preprocessing=False and scale the input yourself."
        )
    return x


def normalization(
    layers: Any,
    mean: Sequence[float] = IMAGENET.mean,
    std: Sequence[float] = IMAGENET.std,
    name: str = "imagenet_normalization",
) -> Any:
    """The layer that takes RGB pixels 0..255 to (x - mean) / std in float32; by default with ImageNet's."""
    return layers.Normalization(
        axis=-1,
        mean=list(mean),
        variance=[value**2 for value in std],
        dtype="float32",
        name=name,
    )


def default_name(architecture: Architecture) -> str:
    """The Keras model name of a network: `mnasnet_a1`, `mnasnet_a1_0.75`."""
    return "mnasnet_" + re.sub(r"[^A-Za-z0-9.]", "_", architecture.name)


def _input(framework: Any, input_tensor: Any, input_shape: Any) -> Any:
    if input_tensor is None:
        return framework.Input(shape=resolve_input_shape(input_shape), name="image")
    is_symbolic = getattr(framework.backend, "is_keras_tensor", None)
    if is_symbolic is None or not is_symbolic(input_tensor):
        raise ValueError(
            f"`input_tensor` must be a Keras tensor, such as keras.Input(...). "
            f"Received: input_tensor of type {type(input_tensor).__name__}"
        )
    shape = tuple(input_tensor.shape)
    if len(shape) != 4:
        raise ValueError(f"`input_tensor` must have the shape [B, H, W, C]. Received: shape={shape}")
    actual = resolve_input_shape(shape[1:])
    if input_shape is not None and resolve_input_shape(input_shape) != actual:
        raise ValueError(
            f"`input_shape` must agree with `input_tensor`, or be left out. "
            f"Received: input_shape={tuple(input_shape)}, input_tensor.shape={shape}"
        )
    return input_tensor


def output_dtype(framework: Any) -> str | None:
    """Under a mixed policy the classifier computes in float32, as the Keras guide asks; otherwise the policy decides."""
    global_policy = getattr(framework.mixed_precision, "dtype_policy", None) or framework.mixed_precision.global_policy
    policy = global_policy()
    return "float32" if policy.compute_dtype != policy.variable_dtype else None
