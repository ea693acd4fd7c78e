"""What is done before weights are rounded to int8, so that less is lost: equalised channels, ranges of maps, corrected biases.

Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv:1906.04721); the
ranges of channels are measured, as in Xiao et al. 2022, "SmoothQuant" (arXiv:2211.10438). `benchmarks/run_int8.py` measures
what each step gains; the defaults are what gained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from keras_mnasnet.architecture import Layer
from keras_mnasnet.export.graph import Folded, along, kernel_axis, rounded

RANGES = ("extremes", "percentile", "mse")
SIGMOID_RANGE = (0.0, 255 / 256)
PERCENTILE = 99.99
MOST_SCALING = 32.0  # between two channels of a map: one that hardly ever answers is not blown up
SHARES = np.arange(1.0, 0.3, -0.03)  # of a range, that are tried
BINS = 2048
WEIGHTED, KEEPING = ("conv", "depthwise", "dense"), ("squeeze", "mean", "max_pool", "add", "multiply")


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """How a network becomes int8 after training.

    `equalize`: every channel of a map is divided by a number, and the weights that read it multiplied, so that the channels of
    a map have ranges alike: wholly where depthwise convolutions alone read it, else as (range of the channel)^`strength` /
    (its largest weight)^(1 - `strength`). `ranges`: a map's from its lowest to its highest value (`extremes`), without 0.01 %
    at either end (`percentile`), or that of the least squared error (`mse`). `correct_bias`: what rounded weights add to a
    layer's mean output is taken from its bias.
    """

    equalize: bool = True
    ranges: str = "mse"
    correct_bias: bool = True
    strength: float = 0.7

    def __post_init__(self) -> None:
        if self.ranges not in RANGES:
            raise ValueError(f"`ranges` must be one of {', '.join(RANGES)}. Received: ranges={self.ranges!r}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"`strength` must be 0 to 1. Received: strength={self.strength!r}")


class Statistics(NamedTuple):
    """A map's channels over images: the lowest, highest and mean value `[C]`, and some of the values `[n, C]`."""

    lowest: np.ndarray
    highest: np.ndarray
    mean: np.ndarray
    values: np.ndarray


def prepared(
    rows: Sequence[Layer], weights: Mapping[str, Folded], statistics: Mapping[str, Statistics], recipe: Recipe,
    keep_float: Collection[str] = (),
) -> tuple[dict[str, Folded], dict[str, Folded], dict[str, tuple[float, float]]]:  # fmt: skip
    """Weights of the same function in float, the weights to round, and {map: (lowest, highest)}.

    `rows` are the network's operations, `statistics` those of their outputs and of `image`; biases of layers whose outputs
    are in `keep_float` stay.
    """
    same, scales = dict(weights), dict[str, np.ndarray]()
    if recipe.equalize:
        same, scales = equalized(rows, weights, statistics, strength=recipe.strength)
    one = np.ones(1, np.float32)
    shown = {name: Statistics(*(each / scales.get(name, one) for each in found)) for name, found in statistics.items()}
    ranges = {name: _range(found, "extremes" if name == "image" else recipe.ranges) for name, found in shown.items()}
    ranges |= {row.output: SIGMOID_RANGE for row in rows if row.op == "sigmoid"}
    rounding = same
    if recipe.correct_bias:
        layers = [row for row in rows if row.op in WEIGHTED and row.output not in keep_float]
        rounding = same | {row.name: _corrected(row, same[row.name], shown[row.inputs[0]].mean) for row in layers}
    return same, rounding, ranges


def equalized(
    rows: Sequence[Layer], weights: Mapping[str, Folded], statistics: Mapping[str, Statistics], *, strength: float
) -> tuple[dict[str, Folded], dict[str, np.ndarray]]:
    """Weights of the same function, and {map: what each of its channels `[C]` is divided by}.

    Exact: a ReLU, a mean, a maximum, a sum of maps and the product with a gate are divided as what they take is. The image,
    gates, what they are computed from, and the classifier's scores stay.
    """
    scales: dict[str, np.ndarray] = {}
    for maps in _alike(rows):
        takers = [row for row in rows if row.op in WEIGHTED and row.inputs[0] in maps]
        reach = np.max([np.maximum(-statistics[name].lowest, statistics[name].highest) for name in maps], axis=0)
        kernels = [weights[row.name].kernel.reshape(-1, len(reach)) for row in takers if row.op != "depthwise"]
        by = reach
        if kernels:
            largest = np.abs(np.concatenate(kernels)).max(axis=0)
            by = np.where(largest > 0, reach, 0) ** strength / np.where(largest > 0, largest, 1) ** (1 - strength)
        live = by > 0
        if live.any():
            by = np.maximum(by, by.max() / MOST_SCALING)
            by = np.where(live, by / np.exp(np.log(by[live]).mean()), 1)
            scales |= dict.fromkeys(maps, by.astype(np.float32))
    found = dict(weights)
    for row in (row for row in rows if row.op in WEIGHTED):
        kernel, bias = weights[row.name]
        if row.inputs[0] in scales:
            kernel = kernel * scales[row.inputs[0]]
        if row.output in scales:
            by = scales[row.output]
            kernel, bias = kernel / along(by, kernel, kernel_axis(row)), bias / by
        found[row.name] = Folded(kernel, bias)
    return found, scales


def _alike(rows: Sequence[Layer]) -> list[set[str]]:
    """The maps in groups whose channels can only be divided together; none of those that cannot be at all."""
    groups: dict[str, set[str]] = {"image": {"image"}}
    fixed = {"image"}
    for row in rows:
        groups[row.output] = {row.output}
        if row.op in KEEPING:
            joined = set[str]().union(*(groups[name] for name in (row.output, *row.inputs[: 2 if row.op == "add" else 1])))
            groups |= dict.fromkeys(joined, joined)
        elif row.op in ("sigmoid", "dense"):
            fixed |= {row.output, *(row.inputs if row.op == "sigmoid" else ())}
    unique = {id(group): group for group in groups.values()}
    return [group for group in unique.values() if not group & fixed]


def _corrected(row: Layer, folded: Folded, mean: np.ndarray) -> Folded:
    """With a bias that takes away what rounding adds to the sums of a map that is `mean` `[C]` everywhere."""
    integers, scales = rounded(folded.kernel, kernel_axis(row))
    error = integers * along(scales, folded.kernel, kernel_axis(row)) - folded.kernel
    if row.op == "depthwise":
        added = error[0].sum(axis=(0, 1)) * mean
    else:
        added = error.reshape(len(error), -1, len(mean)).sum(axis=1) @ mean
    return Folded(folded.kernel, (folded.bias - added).astype(np.float32))


def _range(found: Statistics, how: str) -> tuple[float, float]:
    low, high = min(float(found.lowest.min()), 0.0), max(float(found.highest.max()), 0.0)
    if how == "percentile":
        ends = np.percentile(found.values, (100 - PERCENTILE, PERCENTILE))
        return max(low, float(ends[0])), min(high, float(ends[1]))
    return _least_error(found.values, low, high) if how == "mse" else (low, high)


def _least_error(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The shares of a range with the least squared error: scale^2 / 12 inside, and what is cut off outside."""
    counts, edges = np.histogram(values, BINS)
    places, total = (edges[1:] + edges[:-1]) / 2, counts.sum()
    below, above = (
        np.array([(counts * np.square(np.maximum(sign * (places - share * end), 0))).sum() for share in SHARES])
        for sign, end in ((-1, low), (1, high))
    )  # fmt: skip
    inside = total * np.square(SHARES[None] * high - SHARES[:, None] * low) / (12 * 255**2)
    first, second = np.unravel_index(np.argmin(below[:, None] + above + inside), inside.shape)
    return float(SHARES[first] * low), float(SHARES[second] * high)
