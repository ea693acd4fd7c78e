"""Weights of models: what the `weights` argument of the builders opens, `save_weights` and `load_weights`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.spec import Spec, check_plain, describe
from keras_mnasnet.weights import Checkpoint, CheckpointError, Numerics, Record, assign, load_record, names, records
from keras_mnasnet.weights.convert import expected_shapes
from keras_mnasnet.weights.load import check_fits, read_file, resolve_path
from keras_mnasnet.weights.registry import datasets, get, preference
from keras_mnasnet.weights.store import write_native

__all__ = ["KERAS_SUFFIXES", "load_weights", "open_weights", "restore_h5", "save_weights"]

KERAS_SUFFIXES = KERAS_SUFFIX, H5_SUFFIX = ".keras", ".weights.h5"
Candidates = Sequence[tuple[Architecture, bool]]


def open_weights(weights: Any, candidates: Candidates | None = None) -> Checkpoint | Path:
    """The checkpoint in a file or at a Hub address, or the path of a `.weights.h5` file, which only a model can read."""
    if isinstance(weights, Checkpoint):
        check_fits(weights, "The checkpoint", candidates)
        return weights
    if str(weights).endswith(KERAS_SUFFIXES):
        path = resolve_path(weights)
        if not path.is_file():
            raise CheckpointError(f"A checkpoint file must exist. Received: {path}, which does not")
        return path if path.name.endswith(H5_SUFFIX) else _read_keras(path, candidates)
    return read_file(weights, candidates)


def _read_keras(path: Path, candidates: Candidates | None) -> Checkpoint:
    try:
        checkpoint = checkpoint_of(keras.saving.load_model(path, compile=False))
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise CheckpointError(f"{path} must be a MnasNet saved by model.save(). Received: {error}") from error
    check_fits(checkpoint, path, candidates)
    return checkpoint


def restore_h5(model: keras.Model, path: Path) -> None:
    """Load a `.weights.h5` file into a model of the same network; its numerics are the model's, and that is logged."""
    spec = describe(model)
    logging.warning(
        "%s does not say how it was trained: using bn_epsilon=%g and padding=%r. Pass them if that is wrong, or keep "
        "weights with save_weights(model, 'x.safetensors'), which records them.",
        path, spec.bn_epsilon, spec.padding,
    )  # fmt: skip
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} must hold the weights of {model.name!r} ({spec.architecture}). Received: {error}"
        ) from error


def checkpoint_of(model: keras.Model, *, checked: bool = True) -> Checkpoint:
    """A model of this package as a Checkpoint; ValueError if it has other layers than the network's.

    `checked=False` is for a model that `rebuild` made: it is not compared with a second one.
    """
    spec = check_plain(model) if checked else describe(model)
    tensors = {}
    layers = {layer.name: iter(layer.get_weights()) for layer in model.layers}
    for name in expected_shapes(spec.architecture, spec.classes):
        tensors[name] = np.asarray(next(layers[name.rpartition("/")[0]]), np.float32)
    numerics = Numerics(spec.bn_epsilon, spec.padding, spec.architecture.units()[0].residual)
    height, width, _ = spec.input_shape
    resolution = height if height == width else None
    return Checkpoint("keras_mnasnet", spec.architecture, numerics, spec.classes, tensors, resolution)


def save_weights(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Save to `.safetensors` with network and numerics, so that `weights=path` rebuilds the same function; atomic.

    ValueError for a model that is more or other than a MnasNet: its further layers would be lost.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"`path` must end in .safetensors. Received: path={str(path)!r}")
    write_native(checkpoint_of(model), Path(path).expanduser())


def load_weights(model: keras.Model, weights: str | os.PathLike[str], *, include_top: bool = True) -> None:
    """Load "imagenet", "cifar10", a record id, a file or a Hub address into a model of this package.

    `include_top=False` leaves the model's classifier as it is. Raises CheckpointError if the network or the numerics
    (epsilon, padding) are not the model's.
    """
    spec = describe(model)
    if spec.input_shape[-1] != 3:
        raise CheckpointError(f"Checkpoints take 3 channels (RGB). Received: a model with input_shape={spec.input_shape}")
    if isinstance(weights, str) and (weights in datasets() or weights in names()):
        opened: Checkpoint | Path = load_record(_select(spec, weights) if weights in datasets() else get(weights))
    else:
        opened = open_weights(weights, [(spec.architecture, True), (spec.architecture, False)])
    if isinstance(opened, Path):
        if not include_top:
            raise CheckpointError(
                f"A .weights.h5 file is loaded whole. Received: {weights} with include_top=False. Load it into a model of "
                f"its own classes, and take that model's layers."
            )
        return restore_h5(model, opened)
    numerics = opened.numerics
    if (numerics.bn_epsilon, numerics.padding) != (spec.bn_epsilon, spec.padding):
        raise CheckpointError(
            f"{weights} was trained with bn_epsilon={numerics.bn_epsilon:g}, padding={numerics.padding!r}. "
            f"Received: a model with bn_epsilon={spec.bn_epsilon:g}, padding={spec.padding!r}. Build it with these."
        )
    if not opened.architecture.same_network(spec.architecture):
        raise CheckpointError(f"{weights} is '{opened.architecture}'. Received: a model of '{spec.architecture}'")
    if include_top and opened.classes != spec.classes:
        raise CheckpointError(
            f"{weights} has {opened.classes or 'no'} classes. Received: a model with {spec.classes or 'no'} classes. "
            f"Pass include_top=False to leave the model's classifier as it is."
        )
    return assign(model, opened, include_top=include_top)


def _select(spec: Spec, dataset: str) -> Record:
    """The record for this very network and its numerics, at the nearest resolution."""
    fitting = [
        record
        for record in records(dataset)
        if record.architecture.same_network(spec.architecture)
        and (record.numerics.bn_epsilon, record.numerics.padding) == (spec.bn_epsilon, spec.padding)
    ]
    if not fitting:
        raise CheckpointError(
            f"A checkpoint of the model's network and numerics must exist. Received: '{spec.architecture}', "
            f"bn_epsilon={spec.bn_epsilon:g}, padding={spec.padding!r}. `mnasnet weights list` shows what exists; timm and "
            f"torchvision need bn_epsilon=1e-5, padding='symmetric'."
        )
    sides = [side for side in spec.input_shape[:2] if side]
    return min(fitting, key=lambda record: preference(record, min(sides, default=224)))
