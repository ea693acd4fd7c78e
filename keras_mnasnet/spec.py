"""What a model is, read from its layers: the inverse of `model.build`."""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Any

from keras_mnasnet.architecture import DEFAULT_SE_RATIO, Architecture, Block
from keras_mnasnet.family import FAMILY
from keras_mnasnet.model import InputShape, build

__all__ = ["Spec", "check_plain", "describe", "rebuild"]

NAMED_WIDTHS = (None, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
COMPARED = (
    "activation", "axis", "data_format", "epsilon", "filters", "kernel_size", "max_value", "mean", "negative_slope", "padding",
    "strides", "threshold", "units", "use_bias", "variance",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """What a model is, as read from its layers: network, numerics, head and preprocessing."""

    architecture: Architecture
    bn_epsilon: float
    bn_momentum: float
    padding: str
    classes: int
    classifier_activation: str | None
    include_preprocessing: bool
    dropout_rate: float
    input_shape: InputShape
    pooling: str | None


def describe(model: Any) -> Spec:
    """Read a model made by `build` (also saved, loaded, cloned) back into a Spec; ValueError for any other model."""
    layers = {layer.name: layer for layer in model.layers}
    if "stem_conv" not in layers or "head_bn" not in layers:
        raise ValueError(
            f"The model must be one of keras_mnasnet's, with layers named stem_conv ... head_bn. "
            f"Received: model {model.name!r} with layers {list(layers)[:5]}"
        )
    bn = layers["stem_bn"]
    top = layers.get("predictions")
    dropout = layers.get("top_dropout")
    activation = top.get_config()["activation"] if top else None
    return Spec(
        architecture=_read_architecture(layers),
        bn_epsilon=float(bn.epsilon),
        bn_momentum=float(bn.momentum),
        padding="symmetric" if any(name.endswith("_pad") for name in layers) else "same",
        classes=top.units if top else 0,
        classifier_activation=None if activation in (None, "linear") else activation,
        include_preprocessing="imagenet_normalization" in layers,
        dropout_rate=float(dropout.rate) if dropout else 0.0,
        input_shape=tuple(model.inputs[0].shape[1:]),
        pooling=None if top else "avg" if "avg_pool" in layers else "max" if "max_pool" in layers else None,
    )


def _read_architecture(layers: dict[str, Any]) -> Architecture:
    stages: dict[int, list[str]] = {}
    for name in layers:
        match = re.fullmatch(r"(block(\d+)[a-z]+)_(?:depthwise|plain|linear)_conv", name)
        if match:
            stages.setdefault(int(match[2]), []).append(match[1])
    channels = stem = layers["stem_conv"].filters
    blocks = []
    for _, units in sorted(stages.items()):
        blocks.append(_read_block(layers, units, channels))
        channels = blocks[-1].filters
    stride = layers["stem_conv"].strides[0]
    read = Architecture("custom", stem, tuple(blocks), layers["head_conv"].filters)
    return _named(read).with_stem_stride(stride)


def _read_block(layers: dict[str, Any], units: list[str], channels: int) -> Block:
    """One stage, from its layers and the channels before it."""
    op, spatial = next(
        (op, layers[f"{units[0]}_{part}_conv"])
        for op, part in (("mbconv", "depthwise"), ("conv", "plain"), ("linear", "linear"))
        if f"{units[0]}_{part}_conv" in layers
    )
    expand = layers.get(f"{units[0]}_expand_conv")
    filters = layers[f"{units[0]}_project_conv"].filters if op == "mbconv" else spatial.filters
    stride = spatial.strides[0]
    pool = any(f"{unit}_pool" in layers for unit in units)
    possible = [(pool or stride == 1) and channels == filters] + [True] * (len(units) - 1)
    residual = [f"{unit}_add" in layers for unit in units]
    skip = any(residual) or not any(possible)
    widths = [
        (filters if index else channels, layers[f"{unit}_se_reduce"].filters)
        for index, unit in enumerate(units)
        if f"{unit}_se_reduce" in layers
    ]
    return Block(
        repeats=len(units),
        kernel=spatial.kernel_size[0],
        stride=stride,
        expand=expand.filters // channels if expand else 1,
        input_filters=channels,
        filters=filters,
        se=_se_ratio(widths),
        skip=skip,
        pool=pool,
        op=op,
        first_skip=residual[0] or not (skip and possible[0]),
    )


def _named(read: Architecture) -> Architecture:
    """The member of the family, at a published width, that is this network; else the network as read."""
    first = read.blocks[0]
    for network, width, scale_stem in itertools.product(FAMILY.values(), NAMED_WIDTHS, (True, False)):
        known = network.scaled(width, scale_stem=scale_stem)
        if read.same_network(known):
            return known
        if known.stem == read.stem and known.blocks[1:] == read.blocks[1:]:
            residual = dataclasses.replace(known.blocks[0], skip=first.skip, first_skip=first.first_skip)
            known = dataclasses.replace(known, blocks=(residual, *known.blocks[1:]))
            if read.same_network(known):
                return known
    return read


def _se_ratio(widths: list[tuple[int, int]]) -> float:
    """The ratio that gives every (input channels, reduced channels) pair of a stage: 0.25, else the shortest decimal."""
    candidates = [DEFAULT_SE_RATIO]
    for digits, (input_filters, reduced) in itertools.product(range(1, 9), widths):
        ratio = round(reduced / input_filters, digits)
        candidates += [ratio, round(ratio + 10**-digits, digits)]
    fits = (c for c in candidates if 0 < c <= 1 and all(max(1, int(i * c)) == r for i, r in widths))
    found = next(fits, None) if widths else 0.0
    if found is None:
        raise ValueError(f"A stage's squeeze-and-excite must have one ratio. Received: (channels, reduced) {widths}")
    return found


def rebuild(spec: Spec, name: str | None = None) -> Any:
    """A fresh model of a Spec."""
    options = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec) if field.name != "architecture"}
    return build(spec.architecture, include_top=spec.classes > 0, name=name, **options)


def check_plain(model: Any) -> Spec:
    """The Spec of a model that is a MnasNet and nothing else, so that its weights and its Spec are all of it.

    ValueError names the layers that differ: further ones, missing ones, or ones with other settings.
    """
    spec = describe(model)
    if spec.input_shape[-1] != 3:
        raise ValueError(
            f"`model` must take 3 channels (RGB). Received: input_shape={spec.input_shape}. Keep it with model.save()."
        )
    if not isinstance(spec.classifier_activation, str | None):
        raise ValueError(
            f"The classifier's activation must be one that Keras knows by name. "
            f"Received: classifier_activation={spec.classifier_activation!r}. Keep the model with model.save()."
        )
    ours, theirs = (
        {layer.name: _settings(layer) for layer in each.layers if type(layer).__name__ != "InputLayer"}
        for each in (rebuild(spec), model)
    )
    if ours != theirs:
        differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        raise ValueError(
            f"`model` must have the layers of a MnasNet and no others. Received: other or missing layers {differing[:6]}. "
            f"Take the MnasNet inside it, or keep the whole with model.save()."
        )
    return spec


def _settings(layer: Any) -> tuple:
    config = layer.get_config()
    return type(layer).__name__, *(repr(config.get(key)) for key in COMPARED)
