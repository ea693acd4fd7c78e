"""The model that a training run starts from."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import keras
import numpy as np

from keras_mnasnet.applications import MnasNet
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.spec import describe, rebuild

__all__ = ["HEADS", "starting_model"]

HEADS = ("new", "keep")


def starting_model(
    network: Architecture | str,
    classes: int,
    *,
    weights: str | os.PathLike[str] | None = None,
    head: str = "new",
    size: int | None = None,
    width_multiplier: float | None = None,
    depth_multiplier: float | None = None,
    se: bool | float | None = None,
    stem_stride: int | None = None,
    dropout: float = 0.2,
    bn_momentum: float = 0.99,
) -> keras.Model:
    """A model for training: `[B, size, size, 3]`, RGB pixels 0..255 -> logits `[B, classes]`.

    `weights` fills all but the classifier, which starts at zero, so that the first loss is ln(classes); head="keep" keeps
    the checkpoint's, and raises ValueError unless it has as many classes.
    """
    if head not in HEADS:
        raise ValueError(f"`head` must be one of {HEADS}. Received: head={head!r}")
    if head == "keep" and weights is None:
        raise ValueError("head='keep' needs a checkpoint to keep it from. Received: weights=None")
    start = MnasNet(
        network,
        include_top=head == "keep",
        weights=weights,
        input_shape=(size, size, 3) if size else None,
        classes=None,
        width_multiplier=width_multiplier,
        depth_multiplier=depth_multiplier,
        se=se,
        stem_stride=stem_stride,
    )
    spec = describe(start)
    if head == "keep" and spec.classes != classes:
        raise ValueError(
            f"head='keep' needs a checkpoint with the classes of the data. Received: {spec.classes} classes in {weights}, "
            f"{classes} in the data. Use head='new'."
        )
    spec = dataclasses.replace(
        spec, classes=classes, classifier_activation=None, dropout_rate=dropout, bn_momentum=bn_momentum, pooling=None
    )
    model = rebuild(spec, name=start.name)
    _copy(start, model)
    if head == "new":
        top = model.get_layer("predictions")
        top.set_weights([np.zeros_like(value) for value in top.get_weights()])
    return model


def _copy(source: Any, target: Any) -> None:
    layers = {layer.name: layer for layer in target.layers}
    for layer in source.layers:
        if layer.weights:
            layers[layer.name].set_weights(layer.get_weights())


def freeze(model: keras.Model, *, frozen: bool) -> None:
    """Train the classifier alone, or every layer."""
    for layer in model.layers:
        layer.trainable = not frozen or layer.name in ("predictions", "top_dropout")
