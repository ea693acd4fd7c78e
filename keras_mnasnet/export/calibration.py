"""Images for quantization, checked before a converter sees them."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from keras_mnasnet.architecture import Architecture, Layer
from keras_mnasnet.export.equalize import Recipe, Statistics, prepared
from keras_mnasnet.export.file import ModelFile, TfliteFile
from keras_mnasnet.export.graph import Folded, write_graph
from keras_mnasnet.export.layers import NORMALIZED, PIXELS
from keras_mnasnet.preprocessing import Normalization
from keras_mnasnet.utils.text import Life

ENOUGH = 100
MOST_VALUES = 1 << 17  # of a map, that are kept
LEAST_NOISE = 1e-12
PIXELS_AT_ONCE, MOST_AT_ONCE = 1 << 16, 16
LARGEST = 4.0  # of a normalized input: ImageNet's is -2.12..2.64
FORMS = "an array [N, H, W, C], a tf.data.Dataset, or an iterable of images or batches (labels beside them are ignored)"


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """How many images ranges were taken from; `seed` of the choice, None where the data came as a stream and its first were."""

    images: int
    seed: int | None


def calibration_images(
    data: Any, *, shape: tuple[int, int, int], count: int, seed: int, kind: str | None
) -> tuple[np.ndarray, Calibration]:
    """`count` images of `data` (FORMS), `[n, H, W, C]` float32: of an array a seeded choice, of a stream the first.

    `kind`: what the model takes, as `input_kind` says it. ValueError for another shape, values that are not numbers or
    out of range, or none; fewer than ENOUGH are logged.
    """
    if count < 1:
        raise ValueError(f"`calibration_count` must be an integer >= 1. Received: calibration_count={count!r}")
    chosen: int | None = None
    if isinstance(data, np.ndarray) and data.ndim == 4:
        if len(data) > count:
            data = data[np.sort(np.random.default_rng(seed).choice(len(data), count, replace=False))]
        images, chosen = list(data), seed
    else:
        images = list(itertools.islice(_stream(data, shape), count))
    if not images:
        raise ValueError(f"`representative_data` must be {FORMS}. Received: nothing to calibrate on")
    wrong = next((np.shape(image) for image in images if np.shape(image) != shape), None)
    if wrong is not None:
        raise ValueError(f"`representative_data` must hold images {list(shape)}, as the model takes. Received: {list(wrong)}")
    values = np.stack([np.asarray(image, np.float32) for image in images])
    _check_values(values, kind)
    if len(values) < ENOUGH:
        logging.warning(
            "Only %d images to calibrate on: ranges may be too narrow. %d or more of the kind the model will see are better.",
            len(values), ENOUGH,
        )  # fmt: skip
    return values, Calibration(len(values), chosen)


def _check_values(values: np.ndarray, kind: str | None) -> None:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("`representative_data` must hold finite numbers. Received: NaN or infinity")
    if low == high:
        raise ValueError(f"`representative_data` must hold pictures. Received: images whose pixels are all {low:g}")
    if kind == PIXELS and (low < 0 or high > 255):
        raise ValueError(
            f"`representative_data` must hold pixels 0..255, as the model takes. Received: values {low:g}..{high:g}"
        )
    if kind == NORMALIZED and max(-low, high) > LARGEST:
        raise ValueError(
            f"`representative_data` must hold normalized images, within -{LARGEST:g}..{LARGEST:g}, as a MnasNet with "
            f"include_preprocessing=False takes. Received: values {low:g}..{high:g}. Pass what keras_mnasnet.preprocess_input "
            f"gives (mnasnet export: --input imagenet), or build the model with include_preprocessing=True"
        )
    if kind == PIXELS and high <= 1:
        raise ValueError(
            f"`representative_data` must hold pixels 0..255, as the model takes. Received: values {low:g}..{high:g}, which "
            f"look divided by 255"
        )


def _stream(data: Any, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    if callable(data):
        data = data()
    if hasattr(data, "as_numpy_iterator"):
        data = data.as_numpy_iterator()
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        raise ValueError(f"`representative_data` must be {FORMS}. Received: {type(data).__name__} {str(data)[:80]!r}")
    for item in data:
        images = item[0] if isinstance(item, tuple | list) and len(item) and np.ndim(item[0]) in (3, 4) else item
        images = np.asarray(images)
        if images.ndim == 4:
            yield from images
        else:
            yield images


def warn_of_silent(layers: Sequence[str]) -> None:
    """Log the layers that gave nothing but zero on the calibration images."""
    if layers:
        logging.warning(
            "Silent on every calibration image, so constant in the file whatever it is shown: %s. Calibrate on more varied "
            "images if these layers matter.", ", ".join(layers),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class LayerLoss:
    """What is left of a layer's map in an int8 file: `signal_to_noise`, the power of its values over that of their errors, dB.

    `added` is what the power of the errors is of that of the values, less the same of the layer's worst input.
    """

    layer: str
    signal_to_noise: float
    added: float


class Calibrated(NamedTuple):
    """Weights of the same function in float, the weights that are to be rounded, and {map: (lowest, highest)}."""

    exact: dict[str, Folded]
    rounding: dict[str, Folded]
    ranges: dict[str, tuple[float, float]]


def calibrated(
    architecture: Architecture, weights: Mapping[str, Folded], images: np.ndarray, graph: Mapping[str, Any], *,
    recipe: Recipe | None = None, keep_float: Collection[str] = (), progress: bool = False,
) -> Calibrated:  # fmt: skip
    """What `write_graph` and `write_onnx` write an int8 file of, from `images` `[n, H, W, C]` as the model takes them.

    `graph` are `height`, `width`, `classes`, `padding` and `preprocessing`, as they are given to both.
    """
    file = TfliteFile(write_graph(architecture, weights, **_every(graph)))
    statistics = map_statistics(file, images, graph["preprocessing"] or None, progress=progress)
    return Calibrated(*prepared(_rows(architecture, graph), weights, statistics, recipe or Recipe(), keep_float))


def layer_losses(
    architecture: Architecture,
    found: Calibrated,
    images: np.ndarray,
    graph: Mapping[str, Any],
    keep_float: Collection[str] = (),
) -> tuple[LayerLoss, ...]:
    """Of the layers with weights, in order; the arguments are those of `calibrated`, and what it gave."""
    how: dict[str, Any] = {"precision": "int8", "ranges": found.ranges, "keep_float": keep_float}
    exact = TfliteFile(write_graph(architecture, found.exact, **_every(graph)))
    file = TfliteFile(write_graph(architecture, found.rounding, **_every(graph), **how))
    signal, noise = (collections.defaultdict[str, float](float) for _ in range(2))
    for start in range(0, len(images), exact.batch):
        wanted, made = (each.values(images[start : start + exact.batch]) for each in (exact, file))
        for name, values in wanted.items():
            signal[name] += float(np.square(values).sum(dtype=np.float64))
            noise[name] += float(np.square(values - made[name]).sum(dtype=np.float64))
    shares = {name: noise[name] / signal[name] if signal[name] else 0.0 for name in signal}
    losses = []
    for row in (row for row in _rows(architecture, graph) if row.params):
        share, taken = shares[row.output], max(shares.get(name, 0.0) for name in row.inputs)
        losses.append(LayerLoss(row.output, -10 * math.log10(max(share, LEAST_NOISE)), max(share - taken, 0.0)))
    return tuple(losses)


def _rows(architecture: Architecture, graph: Mapping[str, Any]) -> tuple[Layer, ...]:
    return architecture.operations(graph["height"], graph["width"], classes=graph["classes"])


def _every(graph: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a graph that gives every map, of so many images at once as are worth it."""
    batch = max(min(PIXELS_AT_ONCE // (graph["height"] * graph["width"]), MOST_AT_ONCE), 1)
    return {**graph, "every_map": True, "batch": batch}


def map_statistics(
    file: ModelFile, images: np.ndarray, normalization: Normalization | None, *, progress: bool = False
) -> dict[str, Statistics]:
    """{map: its channels} of the outputs of a float file over `images` `[n, H, W, C]`, and of the normalized `image`."""
    rng, parts = np.random.default_rng(0), dict[str, list[Statistics]]()
    mean, std = (np.array(side, np.float32) for side in dataclasses.astuple(normalization or Normalization()))
    with Life("calibrate", total=len(images), unit="image", shown=progress) as life:
        for start in range(0, len(images), file.batch):
            chunk = images[start : start + file.batch]
            for name, values in {"image": (chunk - mean) / std, **file.values(chunk)}.items():
                flat = values.reshape(-1, values.shape[-1])
                count = -(-MOST_VALUES * len(chunk) // (flat.shape[1] * len(images)))
                some = flat[rng.integers(len(flat), size=min(count, len(flat)))]
                share = np.float32(len(chunk) / len(images))
                parts.setdefault(name, []).append(
                    Statistics(flat.min(axis=0), flat.max(axis=0), share * flat.mean(axis=0), some)
                )
            life.step(len(chunk))
    found = {}
    for name, each in parts.items():
        lowest, highest, means, some_values = zip(*each, strict=True)
        found[name] = Statistics(
            np.min(lowest, axis=0), np.max(highest, axis=0), np.sum(means, axis=0), np.concatenate(some_values)
        )
    if normalization is not None:
        found["image"] = found["image"]._replace(lowest=-mean / std, highest=(255 - mean) / std)
    return found
