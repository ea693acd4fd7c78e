"""MnasNetA1 ... MnasNetSmall with keras.applications' signature, the backbone of feature maps, and what goes with them."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from absl import logging

from keras_mnasnet import model as models
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.family import FAMILY, as_architecture, default_size
from keras_mnasnet.loading import load, record_of
from keras_mnasnet.preprocessing import Normalization, as_normalization
from keras_mnasnet.spec import describe
from keras_mnasnet.utils.reading import texts
from keras_mnasnet.weights.checkpoint import Checkpoint, CheckpointError, Numerics
from keras_mnasnet.weights.registry import datasets, imagenet_classes

DEFAULT_NUMERICS = Numerics(bn_epsilon=1e-3, padding="same")
LEVELS = ("C1", "C2", "C3", "C4", "C5")

_ARGUMENTS = """
    Args:
        include_top: whether to end in the classifier.
        weights: None (fresh), "imagenet" (the published checkpoint of this variant, width and nearest resolution),
            "cifar10" or "trashnet" (ship with the package: ten classes of small photos, six of waste; stem of stride 1), or
            anything else that `keras_mnasnet.load` takes: a record id (`mnasnet weights list`), a training run's folder, a
            file, a Hub address, a Checkpoint. Width, batch-norm epsilon, padding and residuals follow the checkpoint.
        input_tensor: a Keras tensor `[B, H, W, C]` to build on, in place of a new input.
        input_shape: (height, width, channels), sizes >= 32 or None. Default: the checkpoint's resolution, else 224
            (D1-320: 320). Other than 3 channels need weights=None and include_preprocessing=False.
        pooling: without the top: None `[B, h, w, 1280]`, "avg" or "max" `[B, 1280]`.
        classes: outputs of the classifier; must be the checkpoint's own if it is loaded with its top. None: the
            checkpoint's, else 1000.
        classifier_activation: "softmax", or None for logits.
        include_preprocessing: True: the input is RGB pixels 0..255, normalized inside. False: the input is what
            `preprocess_input` returns.
        name: the model's name.
        width_multiplier: scales channels (Google's `depth_multiplier`); None scales nothing, or follows the checkpoint.
        depth_multiplier: scales repeats, rounded up, first and last stage excepted.
        se: None as published, False without squeeze-and-excite, True or a ratio for every stage that expands.
        stem_stride: 2 as published; 1 for small photos, where every map is then twice as high and wide. None: the
            checkpoint's, else 2.
        dropout_rate: before the classifier, in training.
        bn_epsilon, bn_momentum, padding ("same" or "symmetric"), first_residual, stem_activation ("relu" or "linear"),
            normalization (what becomes of pixels 0..255: "imagenet", "signed", "unit", "pixels" or a Normalization):
            numerics. None: the checkpoint's, or Google's (1e-3, 0.99, "same", "relu", "imagenet") without one.

    Returns:
        A functional keras.Model, `[B, H, W, C]` -> `[B, classes]`.

    Raises:
        ValueError: an argument out of range, or a checkpoint that does not fit (CheckpointError).
        OSError: a checkpoint that cannot be fetched (DownloadError).
"""


def MnasNet(
    architecture: Architecture | str,
    include_top: bool = True,
    weights: Any = None,
    input_tensor: Any = None,
    input_shape: Any = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: Any = "softmax",
    include_preprocessing: bool = True,
    name: str | None = None,
    *,
    width_multiplier: float | None = None,
    depth_multiplier: float | None = None,
    se: bool | float | None = None,
    stem_stride: int | None = None,
    dropout_rate: float = 0.2,
    bn_epsilon: float | None = None,
    bn_momentum: float = 0.99,
    padding: str | None = None,
    first_residual: bool | None = None,
    stem_activation: str | None = None,
    normalization: Normalization | str | None = None,
) -> keras.Model:
    base = as_architecture(architecture)
    network = base.scaled(width_multiplier, depth_multiplier).with_se(se).with_stem_stride(stem_stride)
    given = input_tensor is not None or input_shape is not None
    numerics = {
        "bn_epsilon": bn_epsilon, "padding": padding, "first_residual": first_residual, "stem_activation": stem_activation,
        "normalization": None if normalization is None else as_normalization(normalization),
    }  # fmt: skip
    options: dict[str, Any] = {
        "include_top": include_top, "input_tensor": input_tensor, "pooling": pooling, "dropout_rate": dropout_rate,
        "classifier_activation": classifier_activation, "include_preprocessing": include_preprocessing, "name": name,
        "bn_momentum": bn_momentum,
    }  # fmt: skip
    if weights is None:
        chosen = _overridden(DEFAULT_NUMERICS, numerics)
        return models.build(
            network.with_first_residual(first_residual).with_stem_activation(stem_activation),
            input_shape=input_shape if given else (default_size(base),) * 2 + (3,),
            classes=1000 if classes is None else classes,
            bn_epsilon=chosen.bn_epsilon,
            padding=chosen.padding,
            normalization=chosen.normalization,
            **options,
        )
    checkpoint = checkpoint_for(
        base, weights, size=_size(base, input_tensor, input_shape) if given else None, width_multiplier=width_multiplier,
        depth_multiplier=depth_multiplier, se=se, stem_stride=stem_stride,
    )  # fmt: skip
    if (include_top and classes not in (None, checkpoint.classes)) or (include_top and not checkpoint.classes):
        _refuse_classes(weights, checkpoint, classes)
    own = checkpoint.numerics
    chosen = _overridden(own, numerics)
    if changed := {key: value for key, value in numerics.items() if value is not None and getattr(own, key) != value}:
        logging.warning("numerics of the checkpoint are overridden: %s (its own: %s)", changed, own)
    held = checkpoint.architecture.with_first_residual(first_residual).with_stem_activation(stem_activation)
    checkpoint = dataclasses.replace(checkpoint, architecture=held, numerics=chosen)
    return checkpoint.model(input_shape=input_shape, **options)


MnasNet.__doc__ = (
    f"A MnasNet of any architecture: an Architecture, a family name or its text form (arXiv 1807.11626).\n{_ARGUMENTS}"
)


def _variant(name: str, function_name: str, remark: str) -> Callable[..., keras.Model]:
    """The builder of one family member: MnasNet's signature without the architecture, weights="imagenet" by default."""
    _, *parameters = inspect.signature(MnasNet).parameters.values()
    signature = inspect.Signature(
        [each.replace(default="imagenet") if each.name == "weights" else each for each in parameters],
        return_annotation=keras.Model,
    )

    def builder(*args: Any, **options: Any) -> keras.Model:
        bound = signature.bind(*args, **options)
        bound.apply_defaults()
        return MnasNet(FAMILY[name], *bound.args, **bound.kwargs)

    builder.__signature__ = signature  # type: ignore[attr-defined]
    builder.__name__ = builder.__qualname__ = function_name
    builder.__doc__ = f"{function_name.replace('MnasNet', 'MnasNet-').replace('_', '-')}: {remark}\n{_ARGUMENTS}"
    return builder


MnasNetA1 = _variant("a1", "MnasNetA1", "the paper's main network, with squeeze-and-excite (figure 7).")
MnasNetA2 = _variant("a2", "MnasNetA2", "reconstructed from the paper's totals; no ImageNet weights exist.")
MnasNetA3 = _variant("a3", "MnasNetA3", "reconstructed from the paper's totals; no ImageNet weights exist.")
MnasNetB1 = _variant("b1", "MnasNetB1", "found without squeeze-and-excite in the space (table 2).")
MnasNetSmall = _variant("small", "MnasNetSmall", "searched for 22 ms on a Pixel 1 (table 4, MnasNet-search2).")
MnasNetD1 = _variant("d1", "MnasNetD1", "the MnasFPN backbone of tensorflow/tpu; no ImageNet weights exist.")
MnasNetD1_320 = _variant("d1-320", "MnasNetD1_320", "D1 for 320 px (tensorflow/tpu); no ImageNet weights exist.")


def _size(base: Architecture, input_tensor: Any, input_shape: Any) -> int:
    """The input size in pixels that the arguments ask for: the shorter side, or the network's default."""
    default = default_size(base)
    if input_tensor is not None:
        shape = tuple(getattr(input_tensor, "shape", ()))
        input_shape = shape[1:] if len(shape) == 4 else None
    sides = [side for side in models.resolve_input_shape(input_shape, default)[:2] if side]
    return min(sides, default=default)


def checkpoint_for(
    base: Architecture,
    weights: Any,
    *,
    size: int | None = None,
    width_multiplier: float | None = None,
    depth_multiplier: float | None = None,
    se: bool | float | None = None,
    stem_stride: int | None = None,
) -> Checkpoint:
    """The checkpoint that `weights` means for a network, of the member, width and input size asked for.

    Without multipliers the base may be of any width and depth; an unscaled stem and the first layer's residual are what the
    file shows. CheckpointError for another network.
    """
    if isinstance(weights, bool):
        raise CheckpointError(f"`weights` must be None, or what keras_mnasnet.load takes. Received: weights={weights}")
    asked = base.scaled(width_multiplier, depth_multiplier).with_se(se).with_stem_stride(stem_stride)
    member: Architecture | str | None = asked if base.name not in FAMILY else None
    if isinstance(weights, str) and weights in datasets():
        if base.name not in FAMILY or not base.same_network(FAMILY[base.name]):
            raise CheckpointError(
                f"Weights for {weights} exist for members of the family ({', '.join(FAMILY)}). Received: weights={weights!r} "
                f"for the network '{base}'. Pass weights=None, or a path."
            )
        member = base.name if width_multiplier is None else f"{base.name}-{width_multiplier:g}"
    record = record_of(weights, network=member, size=size)
    if record and size not in (None, record.size):
        logging.warning("%s was trained at %d px and is used at %d px", record.id, record.size, size)
    found: Checkpoint | None = None if record else load(weights, network=member)
    held = found.architecture if found else record.architecture  # type: ignore[union-attr]
    detects = found is not None and found.detector is not None
    any_width = width_multiplier is None and depth_multiplier is None and se is None
    same = any_width or held.same_body(asked)
    if not detects and stem_stride in (None, held.stem_stride) and same and held.same_design(asked):
        return found or load(record.id if record else weights)
    what = "a detector" if detects else f"'{held}'"
    raise CheckpointError(
        f"{str(weights)[:200]} must hold MnasNet {asked.name!r}. Received: {what}. Leave out multipliers, `se` and "
        f"`stem_stride`, or take it as it is: keras_mnasnet.load({str(weights)[:80]!r}).model()"
    )


def _overridden(numerics: Numerics, arguments: dict[str, Any]) -> Numerics:
    """Numerics with the explicit arguments put in."""
    given = {key: value for key, value in arguments.items() if value is not None}
    try:
        return dataclasses.replace(numerics, **given)
    except (CheckpointError, TypeError) as error:
        raise ValueError(
            f"`bn_epsilon` must be in (0, 1), `padding` 'same' or 'symmetric', `first_residual` a bool, `stem_activation` "
            f"'relu' or 'linear'. Received: {given}"
        ) from error


def _refuse_classes(weights: Any, checkpoint: Checkpoint, classes: int | None) -> None:
    received = f"Received: classes={classes}, weights={str(weights)[:200]!r}"
    if not checkpoint.classes:
        raise CheckpointError(
            f"A checkpoint must have a classifier to be loaded with include_top=True. {received}, which has none. "
            f"Pass include_top=False and add your own, or load(...).model(classes=N)."
        )
    raise ValueError(
        f"`classes` must be the checkpoint's own to load it with its top. {received} with {checkpoint.classes} classes. "
        f"Pass classes={checkpoint.classes}, or take its body with a new classifier: "
        f"keras_mnasnet.load({str(weights)[:80]!r}).model(classes={classes})."
    )


def level_layers(architecture: Architecture) -> dict[str, str]:
    """{level: layer name}: the last map at stride 2, 4, 8, ...; levels are named by their power of two."""
    level, layers = 1, {"C1": architecture.operations()[0].output}
    for unit in architecture.units():
        level += unit.stride == 2
        layers[f"C{level}"] = unit.output
    return layers


def MnasNetBackbone(
    architecture: Architecture | str = "a1",
    weights: Any = "imagenet",
    input_tensor: Any = None,
    input_shape: Any = (None, None, 3),
    include_preprocessing: bool = True,
    name: str | None = None,
    *,
    levels: Sequence[str] = LEVELS,
    taps: Sequence[str] = (),
    width_multiplier: float | None = None,
    depth_multiplier: float | None = None,
    se: bool | float | None = None,
    bn_epsilon: float | None = None,
    bn_momentum: float = 0.99,
    padding: str | None = None,
    first_residual: bool | None = None,
    stem_activation: str | None = None,
    normalization: Normalization | str | None = None,
) -> keras.Model:
    """A model that returns {name: map `[B, h, w, C]`} for `levels` (C1 = stride 2 ... C5 = stride 32) and layer-name `taps`.

    A level is the output of its last block: after batch norm and the residual addition, without an activation (a plain
    convolution without a skip ends in its ReLU). Arguments
    are those of `MnasNet`. `head_relu` is the tap for the 1280-channel head. Raises ValueError for unknown levels and taps.
    """
    full = MnasNet(
        architecture,
        include_top=False,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=None if input_tensor is not None else input_shape,
        include_preprocessing=include_preprocessing,
        width_multiplier=width_multiplier,
        depth_multiplier=depth_multiplier,
        se=se,
        bn_epsilon=bn_epsilon,
        bn_momentum=bn_momentum,
        padding=padding,
        first_residual=first_residual,
        stem_activation=stem_activation,
        normalization=normalization,
    )
    known = level_layers(describe(full).architecture)
    layers = {layer.name for layer in full.layers}
    levels, taps = (texts(value) if isinstance(value, str) else value for value in (levels, taps))
    for argument, value in (("levels", levels), ("taps", taps)):
        if not isinstance(value, Sequence) or not all(isinstance(name, str) for name in value):
            raise ValueError(f"`{argument}` must be a list of names. Received: {argument}={value!r}")
    wanted = {}
    for level in levels:
        if level not in known:
            raise ValueError(f"`levels` must be among {', '.join(known)}. Received: levels={tuple(levels)}")
        wanted[level] = known[level]
    for tap in taps:
        if tap not in layers:
            near = sorted(layer for layer in layers if layer.startswith(tap.partition("_")[0]))
            raise ValueError(
                f"`taps` must be layer names of the network. Received: {tap!r}. Near: {', '.join(near or sorted(layers)[:5])}"
            )
        wanted[tap] = tap
    if not wanted:
        raise ValueError("A backbone needs at least one level or tap. Received: levels=(), taps=()")
    outputs = {key: full.get_layer(layer).output for key, layer in wanted.items()}
    return keras.Model(full.input, outputs, name=name or f"{full.name}_backbone")


def preprocess_input(x: Any, data_format: str | None = None, *, normalization: Normalization | str = "imagenet") -> Any:
    """Scale RGB pixels 0..255 to (x - mean) / std as float32; for include_preprocessing=False.

    `x` is an array or tensor whose last axis is the channel (first of three with data_format="channels_first"); arrays are
    not changed in place. `normalization` is the checkpoint's (`load(...).numerics.normalization`), by default ImageNet's.
    """
    if data_format not in (None, "channels_last", "channels_first"):
        raise ValueError(f"`data_format` must be channels_last or channels_first. Received: data_format={data_format!r}")
    if isinstance(x, str | os.PathLike) or (not hasattr(x, "shape") and not isinstance(x, list | tuple)):
        raise ValueError(
            f"`preprocess_input` takes RGB pixels 0..255 as an array or tensor `[..., H, W, 3]`. Received: x={x!r}. "
            f"A photo's file is classified by keras_mnasnet.predict(model, file)."
        )
    x = np.asarray(x) if isinstance(x, list | tuple) else x
    axis = -3 if data_format == "channels_first" else -1
    if len(x.shape) < 3 or x.shape[axis] != 3:
        raise ValueError(f"`preprocess_input` takes RGB images, 3 channels. Received: shape={tuple(x.shape)}")
    shape = (3, 1, 1) if axis == -3 else (3,)
    how = as_normalization(normalization).per_channel
    mean, std = (np.array(values, np.float32).reshape(shape) for values in (how.mean, how.std))
    if isinstance(x, np.ndarray):
        return (x.astype(np.float32) - mean) / std
    return (keras.ops.cast(x, "float32") - mean) / std


def decode_predictions(preds: Any, top: int = 5, labels: Sequence[str] | None = None) -> list[list[tuple[str, str, float]]]:
    """The `top` classes of each row of `[B, classes]` as (id, name, score), best first; works offline.

    Without `labels` the rows must have ImageNet's 1000 classes and the id is the WordNet id; with `labels`, one per class,
    it is the class index. Equal scores keep the order of the classes.
    """
    scores = np.asarray(keras.ops.convert_to_numpy(preds), np.float64)
    classes = imagenet_classes() if labels is None else [(str(i), label) for i, label in enumerate(texts(labels))]
    if scores.ndim != 2 or scores.shape[1] != len(classes):
        raise ValueError(
            f"`preds` must have the shape [B, {len(classes)}]. Received: shape={scores.shape}. "
            f"For other classes than ImageNet's pass labels=[...], one per class."
        )
    if np.isnan(scores).any():
        raise ValueError("`preds` must be numbers. Received: NaN among them")
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise ValueError(f"`top` must be an integer >= 1. Received: top={top!r}")
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [[(*classes[index], float(row[index])) for index in best] for row, best in zip(scores, order, strict=True)]
