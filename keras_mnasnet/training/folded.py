"""Batch norms that were folded into their convolutions, as in a `.tflite`: unfolded, so that they can be trained again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_mnasnet.utils.reading import shown
from keras_mnasnet.weights.formats.graph import EPSILON

PHOTOS = 128  # that statistics are taken of


def sample(count: int) -> np.ndarray:
    """Which of so many photos statistics are taken of: PHOTOS at most, spread evenly."""
    taken = min(count, PHOTOS)
    return np.arange(taken) * count // max(taken, 1)


def folded_norms(model: keras.Model) -> list[Any]:
    """The batch norms that do nothing but add: gamma 1, mean 0, variance 1 - epsilon."""
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization) and layer.epsilon == EPSILON:
            gamma, _, mean, variance = layer.get_weights()
            if (gamma == 1).all() and not mean.any() and (variance == np.float32(1 - EPSILON)).all():
                found.append(layer)
    return found


def unfold(model: keras.Model, batches: Iterable[np.ndarray]) -> int:
    """Give folded batch norms the mean and variance that their inputs have on photos, without a change of the model's function.

    In training a batch norm goes by the batch: one that only adds would become another function at the first step. `batches`
    are pixels 0..255 `[b, H, W, 3]`, some hundred photos of the kind that the model is to be trained on. Gamma becomes the
    root of variance + epsilon, beta the bias plus the mean. Returns how many batch norms were unfolded.

    Example:
        >>> from keras_mnasnet import load
        >>> from keras_mnasnet.training import unfold
        >>> unfold(load("cifar10").model(), [])
        0
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`model` must be a Keras model, which is changed. Received: {shown(model)}. load(...).model() makes one"
        )
    norms = folded_norms(model)
    if not norms:
        return 0
    moments = {layer.name: keras.ops.moments(keras.ops.cast(layer.input, "float32"), axes=[0, 1, 2]) for layer in norms}
    watching = keras.Model(model.input, moments)
    rows: list[dict[str, np.ndarray]] = []
    for pixels in batches:
        found = watching(pixels, training=False)
        rows.append({name: np.stack([keras.ops.convert_to_numpy(each) for each in found[name]]) for name in found})
    if not rows:
        raise ValueError("Folded batch norms are unfolded by photos. Received: no photos")
    for layer in norms:
        means, variances = np.stack([row[layer.name] for row in rows]).astype(np.float64).swapaxes(0, 1)
        mean, variance = means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0)
        beta = layer.get_weights()[1]
        layer.set_weights([np.sqrt(variance + EPSILON), beta + mean, mean, variance])
    return len(norms)
