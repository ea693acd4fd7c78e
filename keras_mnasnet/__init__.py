"""MnasNet for Keras 3: models, every public ImageNet checkpoint, and the tools around them.

Importing the package loads neither TensorFlow nor Keras; the names below do, when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from keras_mnasnet._version import __version__

_HOMES = {
    "Architecture": "architecture",
    "Block": "architecture",
    "FAMILY": "family",
    "MnasNet": "applications",
    "MnasNetA1": "applications",
    "MnasNetA2": "applications",
    "MnasNetA3": "applications",
    "MnasNetB1": "applications",
    "MnasNetBackbone": "backbone",
    "MnasNetD1": "applications",
    "MnasNetD1_320": "applications",
    "MnasNetSmall": "applications",
    "decode_predictions": "applications",
    "from_hub": "hub",
    "load_weights": "pretrained",
    "preprocess_input": "applications",
    "push_to_hub": "hub",
    "save_weights": "pretrained",
}

__all__ = [
    "FAMILY", "Architecture", "Block", "MnasNet", "MnasNetA1", "MnasNetA2", "MnasNetA3", "MnasNetB1", "MnasNetBackbone",
    "MnasNetD1", "MnasNetD1_320", "MnasNetSmall", "__version__", "decode_predictions", "from_hub", "load_weights",
    "preprocess_input", "push_to_hub", "save_weights",
]  # fmt: skip

if TYPE_CHECKING:
    from keras_mnasnet.applications import (
        MnasNet,
        MnasNetA1,
        MnasNetA2,
        MnasNetA3,
        MnasNetB1,
        MnasNetD1,
        MnasNetD1_320,
        MnasNetSmall,
        decode_predictions,
        preprocess_input,
    )
    from keras_mnasnet.architecture import Architecture, Block
    from keras_mnasnet.backbone import MnasNetBackbone
    from keras_mnasnet.family import FAMILY
    from keras_mnasnet.hub import from_hub, push_to_hub
    from keras_mnasnet.pretrained import load_weights, save_weights


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"keras_mnasnet.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'keras_mnasnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
