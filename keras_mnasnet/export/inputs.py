"""What a Keras model takes: a functional graph of it, and whether its input is pixels 0..255, read from its layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["NORMALIZED", "PIXELS", "as_functional", "input_kind"]

PIXELS, NORMALIZED = "pixels", "normalized"
LARGEST_SCALE = 1 / 32  # a Rescaling of pixels divides by 127.5 or 255
LARGEST_MEAN = 4.0  # no normalised input has a mean as large
PASSING = ("InputLayer", "ZeroPadding2D", "Resizing", "CenterCrop", "Identity")


def as_functional(model: Any) -> Any:
    """A Sequential model as the functional model of the same layers; any other as it is. ValueError for one not built."""
    if not any(kind.__name__ == "Sequential" for kind in type(model).__mro__):
        return model
    import keras

    if not model.built or not model.layers:
        raise ValueError(
            f"A Sequential model must be built. Received: {model.name!r}, which is not. Begin it with keras.Input([H, W, C]), "
            f"or call model.build([None, H, W, C])"
        )
    (image,), outputs = model.inputs, model.outputs
    return keras.Model(image, outputs[0] if len(outputs) == 1 else outputs, name=model.name)


def input_kind(model: Any) -> str | None:
    """PIXELS where a layer in front, nested or not, normalises 0..255; NORMALIZED for a MnasNet without; None: not known."""
    leading, first = True, True
    for layer in _layers(model):
        kind = type(layer).__name__
        if layer.name == "imagenet_normalization":
            return PIXELS
        if leading and kind == "Rescaling":
            return PIXELS if np.abs(np.asarray(layer.scale, np.float64)).max() <= LARGEST_SCALE else None
        if leading and kind == "Normalization":
            return PIXELS if np.abs(np.asarray(layer.mean, np.float64)).max() > LARGEST_MEAN else None
        if first and layer.name == "stem_conv":
            return NORMALIZED
        first = first and kind in PASSING
        leading = leading and (not getattr(layer, "weights", None) or kind in PASSING)
    return None


def _layers(model: Any) -> Iterator[Any]:
    """Every layer, and operation between layers, in the order of the graph; those of a nested model in its place."""
    for layer in getattr(model, "operations", None) or model.layers:
        if hasattr(layer, "layers"):
            yield from _layers(layer)
        else:
            yield layer
