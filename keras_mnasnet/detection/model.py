"""SSDLite on a MnasNet: DetectorSpec -> functional Keras model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras
from absl import logging

from keras_mnasnet.applications import MnasNet
from keras_mnasnet.architecture import Architecture, Layer, round_filters
from keras_mnasnet.detection.anchors import AnchorSettings
from keras_mnasnet.detection.spec import NORMALIZATIONS, DetectorSpec, default_classes, head_layers, tap_unit
from keras_mnasnet.family import as_architecture
from keras_mnasnet.model import build, normalization, output_dtype
from keras_mnasnet.preprocessing import Normalization
from keras_mnasnet.spec import describe
from keras_mnasnet.training.start import copy_layers
from keras_mnasnet.weights import Checkpoint

__all__ = ["SCORE_BIAS", "SSDLite", "build_detector", "detection_heads", "spec_of", "with_spec"]

EXTRAS = (512, 256, 256, 128)
HEAD_EPSILON = 1e-3
HEAD_STDDEV = 0.03
SCORE_BIAS = -4.6
SPEC = "detector_spec"


def SSDLite(
    backbone: Architecture | str = "a1",
    classes: int | Sequence[str] = 90,
    weights: str | os.PathLike[str] | Checkpoint | None = None,
    *,
    category_ids: Sequence[int] | None = None,
    input_size: int = 320,
    include_preprocessing: bool = True,
    normalize: str | Normalization | None = None,
    width_multiplier: float | None = None,
    depth_multiplier: float | None = None,
    se: bool | float | None = None,
    extras: Sequence[int] | None = None,
    anchors: AnchorSettings | None = None,
    loss: str = "focal",
    bn_momentum: float = 0.99,
    score_bias: float = SCORE_BIAS,
    name: str | None = None,
) -> keras.Model:
    """MnasNet + SSDLite (paper, section 4.3 and table 3): images `[B, S, S, 3]` -> {"boxes", "scores"}.

    "boxes" `[B, N, 4]` are (ty, tx, th, tw) relative to `anchors.anchors(S)`; "scores" `[B, N, classes + 1]` are logits of
    independent sigmoids, slot 0 the background. 320 px and 90 classes (91 slots) give the paper's 4.9M parameters and 0.8B
    multiply-adds: 4,912,181 and 837,819,232.

    Args:
        backbone: a family name, an Architecture or its text form; it must end at stride 32.
        classes: their names; or how many, which for 90 means COCO's category ids 1..90 and for 80 COCO's classes.
        weights: of the backbone: None (fresh), "imagenet", "cifar10", a record id, a file, "hf://..." or a Checkpoint. Its
            numerics are kept. A stem that was trained at stride 1 (cifar10) is used at stride 2, or every map would be
            twice as high and wide, at four times the cost.
        category_ids: of the classes in annotation files; default 1, 2, ..., and COCO's own for 80 and 90 counted classes.
        include_preprocessing: True: the input is RGB pixels 0..255. False: normalised pixels.
        normalize: "signed" (x / 127.5 - 1, the Object Detection API's), "imagenet" (what the classification checkpoints
            were trained with) or a Normalization. None: "imagenet" with weights, else "signed".
        width_multiplier, depth_multiplier, se: as in `MnasNet`.
        extras: channels of the levels after the first two; default 512, 256, 256, 128, scaled with the backbone's width to
            multiples of 8, at least 16.
        loss: "focal" or "mined": what it is to be trained with; kept in the spec.
        score_bias: initial bias of the scores; -4.6 (probability 0.01) is for the focal loss, 0 for the mined one.
    """
    base = as_architecture(backbone)
    if weights is None:
        source = None
        network = base.scaled(width_multiplier, depth_multiplier).with_se(se).with_stem_stride(2)
        bn_epsilon, padding = 1e-3, "same"
    else:
        source = MnasNet(
            base, include_top=False, weights=weights, input_shape=(input_size, input_size, 3), include_preprocessing=False,
            width_multiplier=width_multiplier, depth_multiplier=depth_multiplier, se=se,
        )  # fmt: skip
        found = describe(source)
        network, bn_epsilon, padding = found.architecture.with_stem_stride(2), found.bn_epsilon, found.padding
        if found.architecture.stem_stride != 2:
            logging.warning("the stem of %s was trained at stride 1 and is used at stride 2", weights)
    labels, ids = default_classes(classes) if isinstance(classes, int) else (tuple(classes), tuple(range(1, len(classes) + 1)))
    if extras is None:
        width = width_multiplier or network.blocks[-1].filters / base.blocks[-1].filters
        extras = EXTRAS if width == 1 else tuple(max(16, round_filters(depth, width)) for depth in EXTRAS)
    spec = DetectorSpec(
        backbone=str(network),
        input_size=input_size,
        labels=labels,
        category_ids=ids if category_ids is None else tuple(category_ids),
        extras=tuple(extras),
        anchors=anchors or AnchorSettings(),
        normalization=_normalization(normalize, weights is not None),
        include_preprocessing=include_preprocessing,
        loss=loss,
        bn_epsilon=bn_epsilon,
        padding=padding,
    )
    model = build_detector(spec, bn_momentum=bn_momentum, score_bias=score_bias, name=name)
    if source is not None:
        copy_layers(source, model)
    return model


def _normalization(value: str | Normalization | None, has_weights: bool) -> Normalization:
    if value is None:
        value = "imagenet" if has_weights else "signed"
    if isinstance(value, Normalization):
        return value
    if value not in NORMALIZATIONS:
        raise ValueError(
            f"`normalize` must be one of {tuple(NORMALIZATIONS)} or a Normalization. Received: normalize={value!r}"
        )
    return NORMALIZATIONS[value]


def build_detector(
    spec: DetectorSpec, *, bn_momentum: float = 0.99, score_bias: float = SCORE_BIAS, name: str | None = None
) -> keras.Model:
    """The model of a spec with fresh weights, as `SSDLite` describes it; `spec_of` gives the spec back."""
    network, size = spec.architecture, spec.input_size
    inputs = keras.Input((size, size, 3), name="image")
    x = inputs
    if spec.include_preprocessing:
        x = normalization(keras.layers, spec.normalization.mean, spec.normalization.std, "pixel_normalization")(x)
    body = build(
        network, include_top=False, input_tensor=x, include_preprocessing=False, bn_epsilon=spec.bn_epsilon,
        bn_momentum=bn_momentum, padding=spec.padding,
    )  # fmt: skip
    maps = (body.get_layer(f"{tap_unit(network).name}_expand_relu").output, body.output)
    outputs = detection_heads(maps, spec, bn_momentum=bn_momentum, score_bias=score_bias)
    return with_spec(keras.Model(inputs, outputs, name=name or f"{body.name}_ssdlite"), spec)


def detection_heads(
    taps: Sequence[Any], spec: DetectorSpec, *, bn_momentum: float = 0.99, score_bias: float = SCORE_BIAS
) -> dict[str, Any]:
    """SSDLite's extras and predictors on a backbone's maps of stride 16 and 32, whichever backbone: {"boxes", "scores"}.

    Of the spec extras, anchors and classes are taken.
    """
    maps = list(taps)
    sides, channels = [tap.shape[1] for tap in maps], [tap.shape[-1] for tap in maps]
    for _ in spec.extras:
        sides.append(-(-sides[-1] // 2))
    layers = {
        layer.name: layer
        for layer in head_layers((*channels, *spec.extras), tuple(sides), spec.anchors_per_cell(), spec.classes + 1)
    }
    outputs = {}
    with keras.StatelessScope():
        for level in range(1, len(spec.extras) + 1):
            x = maps[-1]
            for part in ("reduce", "depthwise", "project"):
                x = _conv(x, layers[f"extra{level}_{part}_conv"], bn_momentum)
            maps.append(x)
        for kind, width, bias in (("boxes", 4, 0.0), ("scores", spec.classes + 1, score_bias)):
            parts = []
            for level, tap in enumerate(maps):
                x = _conv(tap, layers[f"level{level}_{kind}_depthwise_conv"], bn_momentum)
                x = _conv(x, layers[f"level{level}_{kind}"], bn_momentum, bias)
                parts.append(keras.layers.Reshape((-1, width), dtype=x.dtype, name=f"level{level}_{kind}_rows")(x))
            outputs[kind] = keras.layers.Concatenate(axis=1, dtype=parts[0].dtype, name=kind)(parts)
    return outputs


def _conv(x: Any, layer: Layer, bn_momentum: float, bias: float = 0.0) -> Any:
    """A convolution of the layer table: with batch norm and ReLU6, or (a predictor's last) with bias alone, in float32."""
    normal = keras.initializers.TruncatedNormal(stddev=HEAD_STDDEV)
    options: dict[str, Any] = {
        "strides": layer.stride, "padding": "same", "use_bias": layer.bn is None, "data_format": "channels_last",
        "name": layer.name, "dtype": output_dtype(keras) if layer.bn is None else None,
    }  # fmt: skip
    if layer.op == "depthwise":
        x = keras.layers.DepthwiseConv2D(layer.kernel, depthwise_initializer=normal, **options)(x)
    else:
        start = keras.initializers.Constant(bias)
        x = keras.layers.Conv2D(layer.filters, layer.kernel, kernel_initializer=normal, bias_initializer=start, **options)(x)
    if layer.bn is None:
        return x
    x = keras.layers.BatchNormalization(epsilon=HEAD_EPSILON, momentum=bn_momentum, name=layer.bn)(x)
    return keras.layers.ReLU(max_value=6, name=layer.bn.removesuffix("_bn") + "_relu")(x)


def with_spec(model: keras.Model, spec: DetectorSpec) -> keras.Model:
    """The same model, which now carries `spec`; needed after model.save() and keras.saving.load_model, which drop it."""
    setattr(model, SPEC, spec)
    return model


def spec_of(model: keras.Model) -> DetectorSpec:
    """The spec that a detector carries; ValueError for any other model."""
    spec = getattr(model, SPEC, None)
    if not isinstance(spec, DetectorSpec):
        raise ValueError(
            f"The model must be a detector made by SSDLite or load_detector. Received: model {model.name!r} without a "
            f"DetectorSpec. Keep detectors with save_detector; a .keras file does not hold anchors and classes."
        )
    return dataclasses.replace(spec)
