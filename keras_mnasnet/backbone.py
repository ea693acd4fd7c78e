"""Feature extractor: the maps C1..C5 by stride, and any layer by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import keras

from keras_mnasnet.applications import MnasNet
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.spec import describe

__all__ = ["MnasNetBackbone", "level_layers"]

LEVELS = ("C1", "C2", "C3", "C4", "C5")


def level_layers(architecture: Architecture) -> dict[str, str]:
    """{level: layer name}: the last map at stride 2, 4, 8, ...; levels are named by their power of two."""
    level, layers = 1, {"C1": "stem_relu"}
    for unit in architecture.units():
        level += unit.stride == 2
        layers[f"C{level}"] = unit.output
    return layers


def MnasNetBackbone(
    architecture: Architecture | str = "a1",
    weights: str | os.PathLike[str] | None = "imagenet",
    input_tensor: Any = None,
    input_shape: Any = (None, None, 3),
    include_preprocessing: bool = True,
    name: str | None = None,
    *,
    levels: Sequence[str] = LEVELS,
    taps: Sequence[str] = (),
    width_multiplier: float | None = None,
    depth_multiplier: float | None = None,
    se: bool | float | None = None,
    bn_epsilon: float | None = None,
    bn_momentum: float = 0.99,
    padding: str | None = None,
    first_residual: bool | None = None,
    scale_stem: bool | None = None,
) -> keras.Model:
    """A model that returns {name: map `[B, h, w, C]`} for `levels` (C1 = stride 2 ... C5 = stride 32) and layer-name `taps`.

    A level is the output of its last block: after batch norm and the residual addition, without an activation (a plain
    convolution without a skip ends in its ReLU). Arguments
    are those of `MnasNet`. `head_relu` is the tap for the 1280-channel head. Raises ValueError for unknown levels and taps.
    """
    full = MnasNet(
        architecture,
        include_top=False,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=None if input_tensor is not None else input_shape,
        include_preprocessing=include_preprocessing,
        width_multiplier=width_multiplier,
        depth_multiplier=depth_multiplier,
        se=se,
        bn_epsilon=bn_epsilon,
        bn_momentum=bn_momentum,
        padding=padding,
        first_residual=first_residual,
        scale_stem=scale_stem,
    )
    known = level_layers(describe(full).architecture)
    layers = {layer.name for layer in full.layers}
    for argument, value in (("levels", levels), ("taps", taps)):
        if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(name, str) for name in value):
            raise ValueError(f"`{argument}` must be a list of names. Received: {argument}={value!r}")
    wanted = {}
    for level in levels:
        if level not in known:
            raise ValueError(f"`levels` must be among {', '.join(known)}. Received: levels={tuple(levels)}")
        wanted[level] = known[level]
    for tap in taps:
        if tap not in layers:
            near = sorted(layer for layer in layers if layer.startswith(tap.partition("_")[0]))
            raise ValueError(
                f"`taps` must be layer names of the network. Received: {tap!r}. Near: {', '.join(near or sorted(layers)[:5])}"
            )
        wanted[tap] = tap
    if not wanted:
        raise ValueError("A backbone needs at least one level or tap. Received: levels=(), taps=()")
    outputs = {key: full.get_layer(layer).output for key, layer in wanted.items()}
    return keras.Model(full.input, outputs, name=name or f"{full.name}_backbone")
