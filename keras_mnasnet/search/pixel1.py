"""A network's latency on a Pixel 1 from its shapes: nine features, non-negative coefficients (search/run_fit_pixel1.py)."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable
from importlib import resources
from typing import Any

from keras_mnasnet.architecture import Architecture, Layer

__all__ = ["FEATURES", "SCHEMA", "coefficients", "features", "pixel1_ms", "shipped", "unlike_fitted"]

SCHEMA = 1
FEATURES = (
    "pointwise_madds", "pointwise_outputs", "pointwise_inputs", "weights", "depthwise_madds", "depthwise_outputs", "stem_madds",
    "gated_values", "operators",
)  # fmt: skip
FITTED_RESOLUTIONS = (96, 224)
FITTED_MS = (5.4, 135.0)
FITTED_KERNELS, FITTED_EXPANSIONS, FITTED_GATE = (3, 5), (1, 3, 6), 0.25
GATE_STRIDE = 8  # A1 gates no map larger than an eighth of the input


def features(layers: Iterable[Layer], height: int, width: int) -> dict[str, float]:
    """The nine features of consecutive layers whose first one takes a map of `height` x `width`.

    Multiply-adds, values in and out and kernel weights; `gated_values` is the size of the maps that squeeze-and-excite pools
    and multiplies, whose 1x1 convolutions count as pointwise. Every convolution that is neither depthwise nor the stem, and
    the classifier, is pointwise.
    """
    found = dict.fromkeys(FEATURES, 0.0)
    for layer in layers:
        found["operators"] += 1
        found["weights"] += layer.madds / (layer.height * layer.width)
        outputs = layer.height * layer.width * layer.filters
        if layer.op == "depthwise":
            found["depthwise_madds"] += layer.madds
            found["depthwise_outputs"] += outputs
        elif layer.name == "stem_conv":
            found["stem_madds"] += layer.madds
        else:
            found["pointwise_madds"] += layer.madds
            if layer.name.endswith(("_se_reduce", "_se_expand")):
                if layer.name.endswith("reduce"):
                    found["gated_values"] += height * width * layer.input_filters
                continue
            found["pointwise_outputs"] += outputs
            found["pointwise_inputs"] += layer.input_filters * (1 if layer.op == "dense" else height * width)
        height, width = layer.height, layer.width
    return found


def pixel1_ms(architecture: Architecture, resolution: int = 224, *, classes: int = 1000) -> float:
    """Milliseconds on one big core of a Pixel 1, one thread, batch 1, float32; `unlike_fitted` says how far to believe it."""
    found = features(architecture.layers(resolution, resolution, classes=classes), resolution, resolution)
    return math.fsum(value * found[name] for name, value in coefficients().items())


def unlike_fitted(architecture: Architecture, resolution: int, *, classes: int = 1000) -> tuple[str, ...]:
    """What the network has that no network of the fit had; empty where the model interpolates."""
    reasons = []
    for number, block in enumerate(architecture.blocks, start=1):
        if block.op != "mbconv":
            reasons.append(f"stage {number}: a plain convolution, counted as a pointwise one")
        if any(unit.pooled for unit in architecture.units() if unit.stage == number):
            reasons.append(f"stage {number}: pooling in the skip, counted as nothing")
        if block.kernel not in FITTED_KERNELS:
            reasons.append(f"stage {number}: kernel {block.kernel}, fitted on {FITTED_KERNELS}")
        if block.expand not in FITTED_EXPANSIONS:
            reasons.append(f"stage {number}: expansion {block.expand}, fitted on {FITTED_EXPANSIONS}")
        if block.se and block.se != FITTED_GATE:
            reasons.append(f"stage {number}: squeeze-and-excite {block.se:g}, fitted on {FITTED_GATE}")
    largest = -(-resolution // GATE_STRIDE)
    side = -(-resolution // architecture.stem_stride)
    for unit in architecture.units():
        side = -(-side // unit.stride)
        if unit.se_filters and side > largest:
            reasons.append(f"{unit.name}: squeeze-and-excite on {side} pixels, fitted to {largest} at this input")
    if architecture.stem_stride != 2:
        reasons.append(f"the stem's stride {architecture.stem_stride}, fitted on 2")
    low, high = FITTED_RESOLUTIONS
    if not low <= resolution <= high:
        reasons.append(f"{resolution} pixels, fitted on {low} to {high}")
    latency = pixel1_ms(architecture, resolution, classes=classes)
    if not FITTED_MS[0] <= latency <= FITTED_MS[1]:
        reasons.append(f"{latency:.1f} ms, fitted on {FITTED_MS[0]:g} to {FITTED_MS[1]:g}")
    return tuple(reasons)


def coefficients() -> dict[str, float]:
    """Milliseconds per unit of each feature."""
    return shipped()["coefficients"]


@functools.cache
def shipped() -> dict[str, Any]:
    """The shipped fit: coefficients, what they were fitted on, and their held-out errors."""
    value = json.loads(resources.files("keras_mnasnet.search").joinpath("pixel1.json").read_text("utf-8"))
    if value.get("schema") != SCHEMA or set(value["coefficients"]) != set(FEATURES):
        raise ValueError(
            f"pixel1.json must have schema {SCHEMA} and a coefficient for each of {', '.join(FEATURES)}. "
            f"Received: schema={value.get('schema')!r} with {', '.join(value['coefficients'])}"
        )
    return value
