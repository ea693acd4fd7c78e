"""The graph of SSDLite on a MnasNet: DetectorSpec -> functional Keras model. Loads no weights and knows no sources."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import keras

from keras_mnasnet.architecture import Layer
from keras_mnasnet.detection.spec import DetectorSpec, head_layers, tap_unit
from keras_mnasnet.model import PIXEL_LAYER, build, normalizing, output_dtype

HEAD_EPSILON = 1e-3
HEAD_STDDEV = 0.03
SCORE_BIAS = -4.6
SPEC = "detector_spec"


def build_detector(
    spec: DetectorSpec, *, bn_momentum: float = 0.99, score_bias: float = SCORE_BIAS, name: str | None = None,
    framework: ModuleType = keras, normalize: Any = None,
) -> Any:  # fmt: skip
    """The model of a spec with fresh weights, as `SSDLite` describes it; `spec_of` gives the spec back.

    `framework` is the module `keras` or `tf_keras`; the layer `normalize`, if given, normalizes the pixels.
    """
    network = spec.architecture
    inputs = framework.Input((*spec.input_size, 3), name="image")
    x = inputs
    if spec.include_preprocessing:
        x = (normalize or normalizing(framework.layers, spec.normalization, PIXEL_LAYER))(x)
    body = build(
        network, include_top=False, input_tensor=x, include_preprocessing=False, bn_epsilon=spec.bn_epsilon,
        bn_momentum=bn_momentum, padding=spec.padding, framework=framework,
    )  # fmt: skip
    maps = (body.get_layer(f"{tap_unit(network).name}_expand_relu").output, body.output)
    outputs = detection_heads(maps, spec, bn_momentum=bn_momentum, score_bias=score_bias, framework=framework)
    return with_spec(framework.Model(inputs, outputs, name=name or f"{body.name}_ssdlite"), spec)


def detection_heads(
    taps: Sequence[Any], spec: DetectorSpec, *, bn_momentum: float = 0.99, score_bias: float = SCORE_BIAS,
    framework: ModuleType = keras,
) -> dict[str, Any]:  # fmt: skip
    """SSDLite's extras and predictors on a backbone's maps of stride 16 and 32, whichever backbone: {"boxes", "scores"}.

    Of the spec extras, anchors and classes are taken.
    """
    maps = list(taps)
    sizes, channels = [tuple(tap.shape[1:3]) for tap in maps], [tap.shape[-1] for tap in maps]
    for _ in spec.extras:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    layers = {
        layer.name: layer
        for layer in head_layers((*channels, *spec.extras), tuple(sizes), spec.anchors_per_cell(), spec.classes + 1)
    }
    outputs = {}
    with getattr(framework, "StatelessScope", contextlib.nullcontext)():
        for level in range(1, len(spec.extras) + 1):
            x = maps[-1]
            for part in ("reduce", "depthwise", "project"):
                x = _conv(framework, x, layers[f"extra{level}_{part}_conv"], bn_momentum)
            maps.append(x)
        for kind, width, bias in (("boxes", 4, 0.0), ("scores", spec.classes + 1, score_bias)):
            parts = []
            for level, tap in enumerate(maps):
                x = _conv(framework, tap, layers[f"level{level}_{kind}_depthwise_conv"], bn_momentum)
                x = _conv(framework, x, layers[f"level{level}_{kind}"], bn_momentum, bias)
                parts.append(framework.layers.Reshape((-1, width), dtype=x.dtype, name=f"level{level}_{kind}_rows")(x))
            outputs[kind] = framework.layers.Concatenate(axis=1, dtype=parts[0].dtype, name=kind)(parts)
    return outputs


def _conv(framework: Any, x: Any, layer: Layer, bn_momentum: float, bias: float = 0.0) -> Any:
    """A convolution of the layer table: with batch norm and ReLU6, or (a predictor's last) with bias alone, in float32."""
    normal = framework.initializers.TruncatedNormal(stddev=HEAD_STDDEV)
    options: dict[str, Any] = {
        "strides": layer.stride, "padding": "same", "use_bias": layer.bn is None, "data_format": "channels_last",
        "name": layer.name, "dtype": output_dtype(framework) if layer.bn is None else None,
    }  # fmt: skip
    if layer.op == "depthwise":
        x = framework.layers.DepthwiseConv2D(layer.kernel, depthwise_initializer=normal, **options)(x)
    else:
        start = framework.initializers.Constant(bias)
        initializers = {"kernel_initializer": normal, "bias_initializer": start}
        x = framework.layers.Conv2D(layer.filters, layer.kernel, **initializers, **options)(x)
    if layer.bn is None:
        return x
    x = framework.layers.BatchNormalization(epsilon=HEAD_EPSILON, momentum=bn_momentum, name=layer.bn)(x)
    return framework.layers.ReLU(max_value=6, name=layer.bn.removesuffix("_bn") + "_relu")(x)


def with_spec(model: keras.Model, spec: DetectorSpec) -> keras.Model:
    """The same model, which now carries `spec`; needed after model.save() and keras.saving.load_model, which drop it."""
    setattr(model, SPEC, spec)
    return model


def spec_of(model: keras.Model) -> DetectorSpec:
    """The spec that a detector carries; ValueError for any other model."""
    spec = getattr(model, SPEC, None)
    if not isinstance(spec, DetectorSpec):
        raise ValueError(
            f"The model must be a detector: SSDLite(...), or keras_mnasnet.load(...).model(). Received: model {model.name!r} "
            f"without a DetectorSpec. Keep detectors with keras_mnasnet.save; model.save() does not hold anchors and classes."
        )
    return dataclasses.replace(spec)
