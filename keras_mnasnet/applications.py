"""MnasNetA1 ... MnasNetSmall with keras.applications' signature, and what goes with them."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging

from keras_mnasnet import model as models
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.family import FAMILY, as_architecture, default_size
from keras_mnasnet.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from keras_mnasnet.pretrained import Candidates, open_weights, restore_h5
from keras_mnasnet.weights import Checkpoint, CheckpointError, Numerics, Record, assign, get, load_record, names, select
from keras_mnasnet.weights.registry import datasets

__all__ = [
    "MnasNet", "MnasNetA1", "MnasNetA2", "MnasNetA3", "MnasNetB1", "MnasNetD1", "MnasNetD1_320", "MnasNetSmall",
    "decode_predictions", "preprocess_input",
]  # fmt: skip

DEFAULT_NUMERICS = Numerics(bn_epsilon=1e-3, padding="same")

_ARGUMENTS = """
    Args:
        include_top: whether to end in the classifier.
        weights: None (fresh), "imagenet" (the published checkpoint of this variant, width and nearest resolution),
            "cifar10" (ships with the package: ten classes, small photos, stem of stride 1), a record id
            (`mnasnet weights list`), a file (.safetensors, .pth, .tgz, TF1 prefix, .weights.h5, .keras) or
            "hf://owner/repo[@revision]/file", or a weights.Checkpoint. Batch-norm epsilon, padding and residuals follow
            the checkpoint's source.
        input_tensor: a Keras tensor `[B, H, W, C]` to build on, in place of a new input.
        input_shape: (height, width, channels), sizes >= 32 or None. Default: the checkpoint's resolution, else 224
            (D1-320: 320). Other than 3 channels need weights=None and include_preprocessing=False.
        pooling: without the top: None `[B, h, w, 1280]`, "avg" or "max" `[B, 1280]`.
        classes: outputs of the classifier; must be the checkpoint's own if it is loaded with its top. None: the
            checkpoint's, else 1000.
        classifier_activation: "softmax", or None for logits.
        include_preprocessing: True: the input is RGB pixels 0..255, normalised inside. False: the input is what
            `preprocess_input` returns.
        name: the model's name.
        width_multiplier: scales channels (Google's `depth_multiplier`); None scales nothing, or follows a record id.
        depth_multiplier: scales repeats, rounded up, first and last stage excepted.
        se: None as published, False without squeeze-and-excite, True or a ratio for every stage that expands.
        stem_stride: 2 as published; 1 for small photos, where every map is then twice as high and wide. None: the
            checkpoint's, else 2.
        dropout_rate: before the classifier, in training.
        bn_epsilon, bn_momentum, padding ("same" or "symmetric"), first_residual, scale_stem: numerics. None: the
            checkpoint's, or Google's (1e-3, 0.99, "same") without one.

    Returns:
        A functional keras.Model, `[B, H, W, C]` -> `[B, classes]`.

    Raises:
        ValueError: an argument out of range, or a checkpoint that does not fit (weights.CheckpointError).
        OSError: a checkpoint that cannot be fetched (weights.DownloadError).
"""


def MnasNet(
    architecture: Architecture | str,
    include_top: bool = True,
    weights: str | os.PathLike[str] | Checkpoint | None = None,
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
    scale_stem: bool | None = None,
) -> keras.Model:
    base = as_architecture(architecture)
    size = _size(base, input_tensor, input_shape)
    given = input_tensor is not None or input_shape is not None
    record = _record(weights, base, width_multiplier, size if given or weights == "imagenet" else None)
    if record and width_multiplier is None and not base.same_network(record.architecture):
        width_multiplier = None if record.width == 1 else record.width
    if record and stem_stride is None:
        stem_stride = record.stem_stride
    candidates = [
        (base.scaled(width_multiplier, depth_multiplier, scale_stem=scaled).with_se(se).with_stem_stride(stride), scaled)
        for stride in ([None, 1] if stem_stride is None else [stem_stride])
        for scaled in ([True, False] if scale_stem is None else [scale_stem])
    ]

    opened = _open(weights, record, candidates)
    checkpoint = opened if isinstance(opened, Checkpoint) else None
    numerics = _overridden(checkpoint, bn_epsilon=bn_epsilon, padding=padding, first_residual=first_residual)
    network = _network(checkpoint, candidates, first_residual)
    if not given:
        trained = (record and record.resolution) or (checkpoint and checkpoint.resolution)
        input_shape = (trained or size,) * 2 + (3,)
    if classes is None:
        classes = (checkpoint and checkpoint.classes) or 1000
    if checkpoint and include_top and checkpoint.classes != classes:
        _refuse_classes(weights, checkpoint, classes)
    model = models.build(
        network,
        include_top=include_top,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        include_preprocessing=include_preprocessing,
        name=name,
        dropout_rate=dropout_rate,
        bn_epsilon=numerics.bn_epsilon,
        bn_momentum=bn_momentum,
        padding=numerics.padding,
    )
    if checkpoint:
        _check_channels(model, weights)
        assign(model, checkpoint, include_top=include_top)
    elif isinstance(opened, Path):
        restore_h5(model, opened)
    return model


MnasNet.__doc__ = (
    f"A MnasNet of any architecture: an Architecture, a family name or its text form (arXiv 1807.11626).\n{_ARGUMENTS}"
)


def _variant(name: str, function_name: str, remark: str) -> Callable[..., keras.Model]:
    """The builder of one family member; one signature and one docstring for all of them."""

    def builder(
        include_top: bool = True,
        weights: str | os.PathLike[str] | Checkpoint | None = "imagenet",
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
        scale_stem: bool | None = None,
    ) -> keras.Model:
        return MnasNet(
            network,
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            include_preprocessing=include_preprocessing,
            name=name,
            width_multiplier=width_multiplier,
            depth_multiplier=depth_multiplier,
            se=se,
            stem_stride=stem_stride,
            dropout_rate=dropout_rate,
            bn_epsilon=bn_epsilon,
            bn_momentum=bn_momentum,
            padding=padding,
            first_residual=first_residual,
            scale_stem=scale_stem,
        )

    network = FAMILY[name]
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


def _record(weights: Any, base: Architecture, width: float | None, size: int | None) -> Record | None:
    if not isinstance(weights, str) or (weights not in datasets() and weights not in names()):
        return None
    if weights in names():
        return get(weights)
    if base.name not in FAMILY or not base.same_network(FAMILY[base.name]):
        raise CheckpointError(
            f"Weights for {weights} exist for members of the family ({', '.join(FAMILY)}). Received: weights={weights!r} for "
            f"the network '{base}'. Pass weights=None, or a path."
        )
    record = select(base.name, width, size or default_size(base), weights)
    logging.info("weights=%r is %s", weights, record.describe())
    if record.resolution != size and (size or weights == "imagenet"):
        logging.warning("%s was trained at %d px and is used at %d px", record.id, record.resolution, size)
    return record


def _open(weights: Any, record: Record | None, candidates: Candidates) -> Checkpoint | Path | None:
    """The checkpoint that `weights` means; a path for a `.weights.h5` file, None for None."""
    if weights is None:
        return None
    if record:
        if not any(record.numerics.apply(network).same_network(record.architecture) for network, _ in candidates):
            raise CheckpointError(
                f"{record.id} is MnasNet {record.architecture.name!r}. Received: '{candidates[0][0]}'. Leave out multipliers, "
                f"`se` and `stem_stride`, or choose another checkpoint."
            )
        return load_record(record)
    return open_weights(weights, candidates)


def _overridden(checkpoint: Checkpoint | None, **arguments: Any) -> Numerics:
    """The checkpoint's numerics, else the default ones, with the explicit arguments put in; overriding is logged."""
    numerics = checkpoint.numerics if checkpoint else DEFAULT_NUMERICS
    given = {key: value for key, value in arguments.items() if value is not None}
    changed = {key: value for key, value in given.items() if getattr(numerics, key) != value}
    if checkpoint and changed:
        logging.warning("numerics of the checkpoint are overridden: %s (its own: %s)", changed, numerics)
    try:
        return dataclasses.replace(numerics, **given)
    except (CheckpointError, TypeError) as error:
        raise ValueError(
            f"`bn_epsilon` must be in (0, 1), `padding` 'same' or 'symmetric', `first_residual` a bool. Received: {given}"
        ) from error


def _network(checkpoint: Checkpoint | None, candidates: Candidates, first_residual: bool | None) -> Architecture:
    """The network to build: of the ones asked for, the one the checkpoint holds."""
    network = candidates[0][0]
    if checkpoint:
        applied = (checkpoint.numerics.apply(candidate) for candidate, _ in candidates)
        network = next(candidate for candidate in applied if candidate.same_network(checkpoint.architecture))
    return network.with_first_residual(first_residual)


def _refuse_classes(weights: Any, checkpoint: Checkpoint, classes: int) -> None:
    received = f"Received: classes={classes}, weights={str(weights)[:200]!r}"
    if not checkpoint.classes:
        raise ValueError(
            f"A checkpoint must have a classifier to be loaded with include_top=True. {received}, which has none. "
            f"Pass include_top=False and add your own."
        )
    raise ValueError(
        f"`classes` must be the checkpoint's own to load it with its top. {received} with {checkpoint.classes} classes. "
        f"Pass classes={checkpoint.classes}, or include_top=False with your own classifier, or build with weights=None and "
        f"call load_weights(model, ..., include_top=False)."
    )


def _check_channels(model: keras.Model, weights: Any) -> None:
    if model.inputs[0].shape[-1] != 3:
        raise ValueError(
            f"Checkpoints take 3 channels (RGB). Received: weights={str(weights)!r} with {model.inputs[0].shape[-1]} "
            f"channels. Pass weights=None."
        )


def preprocess_input(x: Any, data_format: str | None = None) -> Any:
    """Scale RGB pixels 0..255 to (x / 255 - mean) / std, ImageNet's mean and std, as float32; for include_preprocessing=False.

    `x` is an array or tensor whose last axis is the channel (first of three with data_format="channels_first"); arrays are
    not changed in place.
    """
    if data_format not in (None, "channels_last", "channels_first"):
        raise ValueError(f"`data_format` must be channels_last or channels_first. Received: data_format={data_format!r}")
    x = np.asarray(x) if isinstance(x, (list, tuple)) else x
    axis = -3 if data_format == "channels_first" else -1
    if len(x.shape) < 3 or x.shape[axis] != 3:
        raise ValueError(f"`preprocess_input` takes RGB images, 3 channels. Received: shape={tuple(x.shape)}")
    shape = (3, 1, 1) if axis == -3 else (3,)
    mean = 255 * np.array(IMAGENET_MEAN, np.float32).reshape(shape)
    std = 255 * np.array(IMAGENET_STD, np.float32).reshape(shape)
    if isinstance(x, np.ndarray):
        return (x.astype(np.float32) - mean) / std
    return (keras.ops.cast(x, "float32") - mean) / std


@functools.cache
def _imagenet_classes() -> list[tuple[str, str]]:
    text = resources.files("keras_mnasnet.weights").joinpath("imagenet_classes.json").read_text("utf-8")
    return [(wnid, name) for wnid, name in json.loads(text)]


def decode_predictions(preds: Any, top: int = 5, labels: Sequence[str] | None = None) -> list[list[tuple[str, str, float]]]:
    """The `top` classes of each row of `[B, classes]` as (id, name, score), best first; works offline.

    Without `labels` the rows must have ImageNet's 1000 classes and the id is the WordNet id; with `labels`, one per class,
    it is the class index. Equal scores keep the order of the classes.
    """
    scores = np.asarray(keras.ops.convert_to_numpy(preds), np.float64)
    if isinstance(labels, str):
        raise ValueError(f"`labels` must be a list of names, one per class. Received: labels={labels!r}")
    classes = _imagenet_classes() if labels is None else [(str(i), label) for i, label in enumerate(labels)]
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
