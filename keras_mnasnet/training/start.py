"""The model that a training run starts from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_mnasnet.applications import DEFAULT_NUMERICS, checkpoint_for
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.data import check_classes
from keras_mnasnet.family import as_architecture, default_size
from keras_mnasnet.loading import load
from keras_mnasnet.model import build
from keras_mnasnet.training.distribution import accelerators
from keras_mnasnet.training.optimizers import make_optimizer
from keras_mnasnet.training.recipe import Recipe
from keras_mnasnet.weights.checkpoint import Checkpoint, Numerics, assign, expected_shapes

__all__ = ["HEADS", "compile_model", "copy_layers", "freeze", "jit_choice", "kept_classes", "starting_model", "training_model"]

HEADS = ("new", "keep")
DEFAULT_NETWORK = "a1"


def starting_model(
    network: Architecture | str | None,
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
    labels: Sequence[str] | None = None,
) -> keras.Model:
    """A model for training: `[B, size, size, 3]`, RGB pixels 0..255 -> logits `[B, classes]`.

    `network` None is the checkpoint's own, A1 without one. `weights` fills all but the classifier, which starts at zero, so
    that the first loss is ln(classes); head="keep" keeps the checkpoint's, and raises ValueError unless it has as many classes,
    and of the same names where both are known (`labels` are the data's).
    """
    if head not in HEADS:
        raise ValueError(f"`head` must be one of {HEADS}. Received: head={head!r}")
    if head == "keep" and weights is None:
        raise ValueError("head='keep' needs a checkpoint to keep it from. Received: weights=None")
    start, network, numerics = _start(
        network, weights, size, width_multiplier=width_multiplier, depth_multiplier=depth_multiplier, se=se,
        stem_stride=stem_stride,
    )  # fmt: skip
    side = size or (start.size if start else default_size(network))
    if head == "keep" and start and start.classes != classes:
        raise ValueError(
            f"head='keep' needs a checkpoint with the classes of the data. Received: {start.classes} classes in "
            f"{start.origin.name}, {classes} in the data. Use head='new'."
        )
    if head == "keep" and start and labels is not None:
        check_classes(start.labels, labels, "head='keep'", "Use head='new'.")
    model = training_model(
        network, classes, size=side, bn_epsilon=numerics.bn_epsilon, padding=numerics.padding, dropout=dropout,
        bn_momentum=bn_momentum,
    )  # fmt: skip
    if start:
        assign(model, start.tensors, expected_shapes(network, classes if head == "keep" else 0))
    if head == "new":
        top = model.get_layer("predictions")
        top.set_weights([np.zeros_like(value) for value in top.get_weights()])
    return model


def training_model(
    network: Architecture, classes: int, *, size: int, bn_epsilon: float, padding: str, dropout: float, bn_momentum: float
) -> keras.Model:
    """The network with fresh weights and a classifier that gives logits."""
    return build(
        network,
        classes=classes,
        input_shape=(size, size, 3),
        classifier_activation=None,
        dropout_rate=dropout,
        bn_epsilon=bn_epsilon,
        bn_momentum=bn_momentum,
        padding=padding,
    )


def jit_choice(asked: bool | str | None) -> bool | str:
    """What to give Keras for `jit_compile`; None: XLA on accelerators and JAX only, where it does not slow training down."""
    if asked is not None:
        return asked
    return "auto" if keras.backend.backend() == "jax" or accelerators() else False


def compile_model(
    model: keras.Model, recipe: Recipe, steps_per_epoch: int, classes: int, *, frozen: bool = False,
    jit_compile: bool | str | None = None,
) -> None:  # fmt: skip
    """Give a model that returns logits the recipe's optimizer, loss and metrics."""
    metrics: list[Any] = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    if classes > 5:
        metrics.append(keras.metrics.TopKCategoricalAccuracy(5, name="top5"))
    model.compile(
        make_optimizer(recipe, steps_per_epoch, frozen=frozen),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing),
        weighted_metrics=metrics,
        jit_compile=jit_choice(jit_compile),
    )


def _start(
    network: Architecture | str | None, weights: Any, size: int | None, **scaling: Any
) -> tuple[Checkpoint | None, Architecture, Numerics]:
    """(the checkpoint to start from or None, the network, how it computes)."""
    if weights is None:
        base = as_architecture(network or DEFAULT_NETWORK)
        scaled = base.scaled(scaling["width_multiplier"], scaling["depth_multiplier"])
        return None, scaled.with_se(scaling["se"]).with_stem_stride(scaling["stem_stride"]), DEFAULT_NUMERICS
    if network is None and not any(value is not None for value in scaling.values()):
        found = load(weights, size=size)
    else:
        found = checkpoint_for(as_architecture(network or DEFAULT_NETWORK), weights, size=size, **scaling)
    return found, found.architecture, found.numerics


def kept_classes(weights: Any) -> int | None:
    """The classes of a checkpoint; None without one."""
    return None if weights is None else load(weights).classes


def copy_layers(source: Any, target: Any) -> None:
    """Give the layers of `target` the weights of the layers of `source` that have their names."""
    layers = {layer.name: layer for layer in target.layers}
    for layer in source.layers:
        if layer.weights:
            layers[layer.name].set_weights(layer.get_weights())


def freeze(model: keras.Model, *, frozen: bool) -> None:
    """Train the classifier alone, or every layer."""
    for layer in model.layers:
        layer.trainable = not frozen or layer.name in ("predictions", "top_dropout")
