"""Weights as a `.tflite` holds them: batch norms folded into convolutions, output channels first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from keras_mnasnet.architecture import Architecture

__all__ = ["Folded", "folded_weights", "random_weights"]


class Folded(NamedTuple):
    """One convolution or the classifier: kernel `[out, k, k, in]`, `[1, k, k, C]` (depthwise) or `[out, in]`, and bias."""

    kernel: np.ndarray
    bias: np.ndarray


def folded_weights(
    architecture: Architecture, tensors: Mapping[str, np.ndarray], *, classes: int, bn_epsilon: float
) -> dict[str, Folded]:
    """{layer: Folded} from tensors under house names.

    kernel * gamma / sqrt(variance + epsilon), beta - mean * gamma / sqrt(variance + epsilon); computed in float64.
    """
    found = {}
    for layer in architecture.layers(32, 32, classes=classes):
        kernel = tensors[f"{layer.name}/kernel"].astype(np.float64)
        kernel = kernel.T if layer.op == "dense" else kernel.transpose(3, 0, 1, 2)
        if layer.bn:
            gamma, beta, mean, variance = (
                tensors[f"{layer.bn}/{leaf}"].astype(np.float64) for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            factor = gamma / np.sqrt(variance + bn_epsilon)
            kernel = kernel * (factor if layer.op == "depthwise" else factor.reshape(-1, 1, 1, 1))
            bias = beta - mean * factor
        else:
            bias = tensors[f"{layer.name}/bias"].astype(np.float64)
        found[layer.name] = Folded(kernel.astype(np.float32), bias.astype(np.float32))
    return found


def random_weights(architecture: Architecture, *, classes: int, seed: int = 0) -> dict[str, Folded]:
    """Weights drawn for timing: kernels N(0, 2 / fan in), biases 0."""
    rng = np.random.default_rng(seed)
    found = {}
    for layer in architecture.layers(32, 32, classes=classes):
        k, cin, cout = layer.kernel, layer.input_filters, layer.filters
        shape = {"conv": (cout, k, k, cin), "depthwise": (1, k, k, cin), "dense": (cout, cin)}[layer.op]
        fan_in = k * k * (1 if layer.op == "depthwise" else cin)
        kernel = rng.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)
        found[layer.name] = Folded(kernel, np.zeros(cout, np.float32))
    return found
