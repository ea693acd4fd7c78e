"""Architecture -> functional Keras model, on `keras` (any backend) or on `tf_keras`."""

from __future__ import annotations

import contextlib
import math
import numbers
import operator
import re
from types import ModuleType
from typing import Any

from keras_mnasnet.architecture import Architecture, Layer
from keras_mnasnet.preprocessing import IMAGENET, Normalization

MIN_SIZE = 32
PADDINGS = ("same", "symmetric")
POOLINGS = (None, "avg", "max")
IMAGENET_LAYER, PIXEL_LAYER = "imagenet_normalization", "pixel_normalization"  # names of the layer that normalizes

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
    if height in (1, 3) and width is not None and (channels is None or channels >= MIN_SIZE):
        raise ValueError(
            f"`input_shape` has the channels last: (height, width, channels). Received: input_shape={tuple(input_shape)}, "
            f"which looks like channels first. Pass input_shape={(width, channels, height)}."
        )
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


def check_bool(name: str, value: Any, *others: Any) -> None:
    """ValueError for an argument `name` that is neither True nor False nor one of `others`; the text "False" would be true."""
    if not isinstance(value, bool) and not any(value is other for other in others):
        expected = " or ".join(map(str, (True, False, *others)))
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


class _Layers:
    """Makes the Keras layers of one operation: they know the house's padding, batch norm and data format."""

    def __init__(
        self, framework: ModuleType, padding: str, bn_epsilon: float, bn_momentum: float, activation: Any, dropout_rate: float
    ) -> None:
        self.layers = framework.layers
        self.initializers = framework.initializers
        self.padding = padding
        self.bn_options = {"axis": -1, "epsilon": bn_epsilon, "momentum": bn_momentum}
        self.top_options = {"activation": activation, "dtype": output_dtype(framework)}
        self.dropout_rate = dropout_rate

    def normal(self, fan_out: int) -> Any:
        """Google's kernel initializer, N(0, sqrt(2 / fan_out)).

        Written with RandomNormal, whose saved form is the same in every Keras 3; a new object each time, because a Keras
        initializer repeats its draw for equal shapes.
        """
        return self.initializers.RandomNormal(stddev=math.sqrt(2 / fan_out))

    def __call__(self, row: Layer, *inputs: Any) -> Any:
        """The output of one operation, every step of which is a named layer."""
        x, layers = inputs[0], self.layers
        if row.bn:
            return self.convolution(row, x)
        if row.op == "conv":  # of squeeze-and-excite
            return layers.Conv2D(
                row.filters, 1, activation="relu" if row.relu else None, data_format="channels_last",
                kernel_initializer=self.normal(row.filters), name=row.name,
            )(x)  # fmt: skip
        if row.op == "dense":
            if self.dropout_rate:
                x = layers.Dropout(self.dropout_rate, name="top_dropout")(x)
            limit = 1 / math.sqrt(row.filters)  # Google's initializer, U(-1, 1) / sqrt(fan_out)
            initializer = self.initializers.RandomUniform(-limit, limit)
            return layers.Dense(row.filters, kernel_initializer=initializer, name=row.name, **self.top_options)(x)
        if row.op == "mean":
            return self.pool(x, "avg")
        if row.op == "squeeze":
            return layers.GlobalAveragePooling2D(keepdims=True, data_format="channels_last", name=row.name)(x)
        if row.op == "sigmoid":
            return layers.Activation("sigmoid", name=row.name)(x)
        if row.op == "max_pool":
            return layers.MaxPooling2D(
                row.kernel, strides=row.stride, padding="same", data_format="channels_last", name=row.name
            )(x)  # fmt: skip
        return (layers.Multiply if row.op == "multiply" else layers.Add)(name=row.name)(list(inputs))

    def convolution(self, row: Layer, x: Any) -> Any:
        """A convolution with its batch norm, its ReLU and, where PyTorch pads otherwise than TensorFlow, its padding."""
        options: dict[str, Any] = {"strides": row.stride, "padding": "same", "use_bias": False, "name": row.name}
        if self.padding == "symmetric" and row.stride > 1 and row.kernel > 1:
            x = self.layers.ZeroPadding2D(row.kernel // 2, data_format="channels_last", name=f"{row.base}_pad")(x)
            options["padding"] = "valid"
        if row.op == "depthwise":
            initializer = self.normal(row.kernel**2)
            x = self.layers.DepthwiseConv2D(
                row.kernel, depthwise_initializer=initializer, data_format="channels_last", **options
            )(x)  # fmt: skip
        else:
            initializer = self.normal(row.kernel**2 * row.filters)
            x = self.layers.Conv2D(
                row.filters, row.kernel, kernel_initializer=initializer, data_format="channels_last", **options
            )(x)  # fmt: skip
        x = self.layers.BatchNormalization(name=row.bn, **self.bn_options)(x)
        return self.layers.ReLU(name=row.output)(x) if row.relu else x

    def pool(self, x: Any, pooling: str) -> Any:
        layer = self.layers.GlobalAveragePooling2D if pooling == "avg" else self.layers.GlobalMaxPooling2D
        return layer(data_format="channels_last", name=f"{pooling}_pool")(x)


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
    normalization: Normalization = IMAGENET,
    framework: ModuleType | None = None,
) -> Any:
    """A functional model of `architecture` with fresh weights: `[B, H, W, C]` -> `[B, classes]`.

    `include_preprocessing=True` takes RGB pixels 0..255 and does the `normalization`. `padding` is `same` (TensorFlow) or
    `symmetric` (PyTorch).
    `framework` is the module `keras` (default) or `tf_keras`. Without the top the output is the head convolution's map
    `[B, h, w, 1280]`, or `[B, 1280]` with `pooling` `avg` or `max`. Raises ValueError for arguments out of range.
    """
    if framework is None:
        import keras as framework  # type: ignore[no-redef]
    check_bool("include_top", include_top)
    check_bool("include_preprocessing", include_preprocessing)
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
        x = normalizing(framework.layers, normalization)(_rgb(inputs)) if include_preprocessing else inputs  # type: ignore[union-attr]
        make = _Layers(framework, padding, bn_epsilon, bn_momentum, classifier_activation, dropout_rate)  # type: ignore[arg-type]
        maps = {"image": x}
        for row in architecture.operations(classes=_integer(classes) if include_top else 0):
            x = maps[row.output] = make(row, *(maps[name] for name in row.inputs))
        if pooling and not include_top:
            x = make.pool(x, pooling)
        if input_tensor is not None:
            sources = framework.utils.get_source_inputs(inputs)  # type: ignore[union-attr]
            inputs = sources[0] if len(sources) == 1 else sources
        return framework.Model(inputs, x, name=name or default_name(architecture))  # type: ignore[union-attr]


def _rgb(x: Any) -> Any:
    if x.shape[-1] != 3:
        raise ValueError(
            f"`include_preprocessing=True` normalizes 3 channels (RGB, 0..255). Received: {x.shape[-1]} channels. "
            f"Pass include_preprocessing=False and scale the input yourself."
        )
    return x


def normalizing(layers: Any, how: Normalization, name: str | None = None) -> Any:
    """The layer that takes RGB pixels 0..255 to (x - mean) / std in float32."""
    how = how.per_channel
    return layers.Normalization(
        axis=-1,
        mean=list(how.mean),
        variance=[value**2 for value in how.std],
        dtype="float32",
        name=name or (IMAGENET_LAYER if how == IMAGENET else PIXEL_LAYER),
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
