"""The network in NumPy, operation by operation, batch norm not folded: what a written file is checked against without Keras."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_mnasnet.architecture import Architecture, Layer
from keras_mnasnet.preprocessing import IMAGENET


class Reference:
    """A classifier's inference: pixels 0..255 `[B, H, W, 3]` -> probabilities (or logits) `[B, classes]`, float32."""

    def __init__(
        self, architecture: Architecture, tensors: Mapping[str, np.ndarray], *, bn_epsilon: float, padding: str,
        softmax: bool = True,
    ) -> None:  # fmt: skip
        self.architecture = architecture
        self.tensors = tensors
        self.epsilon = np.float32(bn_epsilon)
        self.padding = padding
        self.with_softmax = softmax

    def __call__(self, images: np.ndarray) -> np.ndarray:
        x = (images.astype(np.float32) - np.array(IMAGENET.mean, np.float32)) / np.array(IMAGENET.std, np.float32)
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
            return self._conv(x, row)
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

    def _conv(self, x: np.ndarray, layer: Layer) -> np.ndarray:
        kernel, stride, depthwise = layer.kernel, layer.stride, layer.op == "depthwise"
        values = self.tensors[f"{layer.name}/kernel"]
        x = self._pad(x, kernel, stride)
        windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]
        if depthwise:
            total = np.einsum("bhwcij,ijc->bhwc", windows, values[..., 0])
        else:  # one matrix product; NumPy would call BLAS for every row of a picture
            rows = windows.reshape(-1, values[..., 0].size)
            total = (rows @ values.transpose(2, 0, 1, 3).reshape(rows.shape[1], -1)).reshape(*windows.shape[:3], -1)
        gamma, beta, mean, variance = (
            self.tensors[f"{layer.bn}/{leaf}"] for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / np.sqrt(variance + self.epsilon)
        total *= scale
        total += beta - mean * scale
        return np.maximum(total, 0, out=total) if layer.relu else total

    def _pad(self, x: np.ndarray, kernel: int, stride: int) -> np.ndarray:
        sides = []
        for size in x.shape[1:3]:
            if self.padding == "symmetric" and stride > 1:
                sides.append((kernel // 2, kernel // 2))
            else:
                sides.append(_same(size, kernel, stride))
        return np.pad(x, ((0, 0), *sides, (0, 0))) if np.any(sides) else x


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """What TF's SAME padding puts before and after a side."""
    missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return missing // 2, missing - missing // 2


def _max_pool(x: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    sides = [_same(size, kernel, stride) for size in x.shape[1:3]]
    x = np.pad(x, ((0, 0), *sides, (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))
    return windows[:, ::stride, ::stride].max(axis=(-2, -1))
