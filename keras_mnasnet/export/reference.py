"""The network in NumPy, operation by operation, batch norm not folded: what a written file is checked against without Keras."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_mnasnet.architecture import Architecture, Unit
from keras_mnasnet.preprocessing import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["Reference"]


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
        mean, std = (np.array(values, np.float32) for values in (IMAGENET_MEAN, IMAGENET_STD))
        x = (images.astype(np.float32) / 255 - mean) / std
        x = self._conv(x, "stem", 3, self.architecture.stem_stride)
        for unit in self.architecture.units():
            x = self._unit(x, unit)
        x = self._conv(x, "head", 1, 1).mean(axis=(1, 2))
        x = x @ self.tensors["predictions/kernel"] + self.tensors["predictions/bias"]
        if self.with_softmax:
            x = np.exp(x - x.max(axis=-1, keepdims=True))
            x /= x.sum(axis=-1, keepdims=True)
        return x

    def _unit(self, start: np.ndarray, unit: Unit) -> np.ndarray:
        x = start
        if unit.op != "mbconv":
            x = self._conv(x, unit.conv, unit.kernel, unit.stride, relu=unit.op == "conv")
        else:
            if unit.expanded != unit.input_filters:
                x = self._conv(x, f"{unit.name}_expand", 1, 1)
            x = self._conv(x, f"{unit.name}_depthwise", unit.kernel, unit.stride, depthwise=True)
        if unit.se_filters:
            gate = x.mean(axis=(1, 2), keepdims=True)
            gate = np.maximum(self._dense(gate, f"{unit.name}_se_reduce"), 0)
            x = x / (1 + np.exp(-self._dense(gate, f"{unit.name}_se_expand")))
        if unit.op == "mbconv":
            x = self._conv(x, f"{unit.name}_project", 1, 1, relu=False)
        if unit.pooled:
            return x + _max_pool(start, 3, unit.stride)
        return start + x if unit.residual else x

    def _dense(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.tensors[f"{name}/kernel"][0, 0] + self.tensors[f"{name}/bias"]

    def _conv(
        self, x: np.ndarray, name: str, kernel: int, stride: int, depthwise: bool = False, relu: bool = True
    ) -> np.ndarray:
        values = self.tensors[f"{name}_conv/kernel"]
        x = self._pad(x, kernel, stride)
        height, width = ((side - kernel) // stride + 1 for side in x.shape[1:3])
        total = np.empty((len(x), height, width, values.shape[2] if depthwise else values.shape[3]), np.float32)
        part = np.empty_like(total) if kernel > 1 else total
        for tap in range(kernel * kernel):
            row, column = divmod(tap, kernel)
            made = part if tap else total
            window = x[:, row : row + stride * height : stride, column : column + stride * width : stride]
            if depthwise:
                np.multiply(window, values[row, column, :, 0], out=made)
            else:  # one matrix product a tap; NumPy would call BLAS for every row of a picture
                flat = window.reshape(-1, window.shape[-1])
                np.matmul(flat, values[row, column], out=made.reshape(-1, made.shape[-1]))
            if tap:
                total += part
        gamma, beta, mean, variance = (
            self.tensors[f"{name}_bn/{leaf}"] for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        total -= mean
        total *= gamma / np.sqrt(variance + self.epsilon)
        total += beta
        return np.maximum(total, 0, out=total) if relu else total

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
