"""The model that a training run starts from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_mnasnet.applications import MnasNet
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.data import check_classes
from keras_mnasnet.model import build
from keras_mnasnet.pretrained import open_weights
from keras_mnasnet.spec import Spec, describe
from keras_mnasnet.training.distribution import accelerators
from keras_mnasnet.training.optimizers import make_optimizer
from keras_mnasnet.training.recipe import Recipe
from keras_mnasnet.weights import Checkpoint, get, names
from keras_mnasnet.weights.load import load_named
from keras_mnasnet.weights.registry import datasets

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
    network, weights = _network(network, weights)
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
    if head == "keep" and labels is not None:
        check_classes(_labels_of(weights, network, width_multiplier, spec), labels, "head='keep'", "Use head='new'.")
    model = training_model(
        spec.architecture, classes, size=spec.input_shape[0] or 224, bn_epsilon=spec.bn_epsilon, padding=spec.padding,
        dropout=dropout, bn_momentum=bn_momentum,
    )  # fmt: skip
    copy_layers(start, model)
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


def _network(network: Architecture | str | None, weights: Any) -> tuple[Architecture | str, Any]:
    """The network to train, and its checkpoint."""
    if network is not None or weights is None or weights in datasets():
        return network or DEFAULT_NETWORK, weights
    if weights in names():
        return get(weights).network, weights
    opened = open_weights(weights)
    if not isinstance(opened, Checkpoint):
        raise ValueError(f"A .weights.h5 file does not name its network. Received: weights={str(weights)!r} without a model")
    return opened.architecture, opened


def kept_classes(weights: Any) -> int | None:
    """The classes of a checkpoint file; None for a name, and for a file that does not tell."""
    if weights is None or weights in datasets() or weights in names():
        return None
    opened = open_weights(weights)
    return opened.classes if isinstance(opened, Checkpoint) else None


def _labels_of(weights: Any, network: Architecture | str, width: float | None, spec: Spec) -> tuple[str, ...] | None:
    """The classes that a checkpoint names; None where it names none, as `.keras` and `.weights.h5` files do."""
    if isinstance(weights, Checkpoint):
        return weights.labels
    if weights in datasets() or weights in names():
        name = network if isinstance(network, str) else network.name
        found, _ = load_named(weights, network=name, width=width, size=spec.input_shape[0] or 224)
        return found.labels
    opened = open_weights(weights)
    return opened.labels if isinstance(opened, Checkpoint) else None


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
