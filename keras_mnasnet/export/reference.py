"""The network in NumPy, operation by operation, batch norm not folded: what a written file is checked against without Keras."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from keras_mnasnet.architecture import Architecture, Layer, same_padding
from keras_mnasnet.preprocessing import IMAGENET, Normalization


class Reference:
    """A classifier's inference: pixels 0..255 `[B, H, W, 3]` -> probabilities (or logits) `[B, classes]`, float32.

    What is the same for all pixels of a map is repeated along its lines of `W * C` values: NumPy is slow at many short vectors.
    """

    def __init__(
        self, architecture: Architecture, tensors: Mapping[str, np.ndarray], *, bn_epsilon: float, padding: str,
        softmax: bool = True, normalization: Normalization = IMAGENET,
    ) -> None:  # fmt: skip
        self.architecture = architecture
        self.tensors = tensors
        self.epsilon = np.float32(bn_epsilon)
        self.padding = padding
        self.with_softmax = softmax
        self.mean, self.std = (np.array(side, np.float32) for side in (normalization.mean, normalization.std))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        mean, std = (np.tile(np.broadcast_to(side, 3), images.shape[2]) for side in (self.mean, self.std))
        x = ((_lines(images.astype(np.float32)) - mean) / std).reshape(images.shape)
        rows = self.architecture.operations(*images.shape[1:3], classes=self.tensors["predictions/bias"].size)
        last_use = {name: row for row in rows for name in row.inputs}
        maps = {"image": x}
        for row in rows:
            x = self._computed(row, *(maps[name] for name in row.inputs))
            for name in row.inputs:
                if last_use[name] is row:
                    del maps[name]
            maps[row.output] = x
        if self.with_softmax:
            x = np.exp(x - x.max(axis=-1, keepdims=True))
            x /= x.sum(axis=-1, keepdims=True)
        return x

    def _computed(self, row: Layer, x: np.ndarray, other: np.ndarray | None = None) -> np.ndarray:
        if row.bn:
            return self._normalized(x, row)
        if row.op in ("conv", "dense"):
            kernel = self.tensors[f"{row.name}/kernel"]
            x = x @ (kernel if row.op == "dense" else kernel[0, 0]) + self.tensors[f"{row.name}/bias"]
            return np.maximum(x, 0) if row.relu else x
        if row.op in ("squeeze", "mean"):
            return x.mean(axis=(1, 2), keepdims=row.op == "squeeze")
        if row.op == "sigmoid":
            return 1 / (1 + np.exp(-x))
        if row.op == "multiply":
            return x * other
        return _max_pool(x, row.kernel, row.stride) if row.op == "max_pool" else x + other

    def _normalized(self, x: np.ndarray, layer: Layer) -> np.ndarray:
        gamma, beta, mean, variance = (
            self.tensors[f"{layer.bn}/{leaf}"] for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / np.sqrt(variance + self.epsilon)
        shape = (len(x), layer.height, layer.width, layer.filters)
        total = self._conv(x, layer).reshape(*shape[:2], -1)
        total *= np.tile(scale, layer.width)
        total += np.tile(beta - mean * scale, layer.width)
        if layer.relu:
            np.maximum(total, np.zeros_like(total[0, 0]), out=total)
        return total.reshape(shape)

    def _conv(self, x: np.ndarray, layer: Layer) -> np.ndarray:
        kernel, stride, channels = layer.kernel, layer.stride, layer.input_filters
        values = self.tensors[f"{layer.name}/kernel"]
        if layer.op == "conv" and kernel == stride == 1:
            return x.reshape(-1, channels) @ values[0, 0]
        lines = _lines(self._pad(x, kernel, stride))
        if layer.op == "depthwise" and stride == 1:
            windows = sliding_window_view(lines, (kernel, layer.width * channels), axis=(1, 2))[:, :, ::channels]
            return np.einsum("bhjin,ijn->bhn", windows, np.tile(values[..., 0], layer.width))
        windows = sliding_window_view(lines, (kernel, kernel * channels), axis=(1, 2))[:, ::stride, :: stride * channels]
        if layer.op == "depthwise":
            return np.einsum("bhwijc,ijc->bhwc", windows.reshape(*windows.shape[:4], kernel, channels), values[..., 0])
        return windows.reshape(-1, kernel * kernel * channels) @ values.reshape(-1, layer.filters)

    def _pad(self, x: np.ndarray, kernel: int, stride: int) -> np.ndarray:
        sides = []
        for size in x.shape[1:3]:
            if self.padding == "symmetric" and stride > 1:
                sides.append((kernel // 2, kernel // 2))
            else:
                sides.append(same_padding(size, kernel, stride))
        return np.pad(x, ((0, 0), *sides, (0, 0)))


def _lines(x: np.ndarray) -> np.ndarray:
    """Maps `[B, H, W, C]` as `[B, H, W * C]`."""
    return x.reshape(*x.shape[:2], -1)


def _max_pool(x: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    sides = [same_padding(size, kernel, stride) for size in x.shape[1:3]]
    x = np.pad(x, ((0, 0), *sides, (0, 0)), constant_values=-np.inf)
    return sliding_window_view(x, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride].max(axis=(-2, -1))
