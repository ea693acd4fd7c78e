"""What a network is, read from the shapes of its layers; and what a model of this package is, read from its layers."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

from keras_mnasnet.architecture import DEFAULT_SE_RATIO, Architecture, Block
from keras_mnasnet.family import FAMILY
from keras_mnasnet.model import IMAGENET_LAYER, PIXEL_LAYER, InputShape, build
from keras_mnasnet.preprocessing import IMAGENET, Normalization

COMPARED = (
    "activation", "axis", "data_format", "epsilon", "filters", "kernel_size", "max_value", "mean", "negative_slope", "padding",
    "strides", "threshold", "units", "use_bias", "variance",
)  # fmt: skip
PATTERN = (1, 2, 2, 2, 1, 2, 1)  # the strides of every member's stages
WIDTHS = (None, 0.35, 0.5, 0.75, 1.3, 1.4, *(round(0.05 * step, 2) for step in range(1, 61)))


@dataclasses.dataclass(frozen=True, slots=True)
class UnitShape:
    """What the tensors of one layer of a stage show; `stage`, `stride` and `residual` are None where nothing shows them."""

    kernel: int
    filters: int
    expanded: int | None = None
    se_filters: int = 0
    stage: int | None = None
    stride: int | None = None
    residual: bool | None = None
    pooled: bool = False
    op: str = "mbconv"


class UnknownStridesError(ValueError):
    """Tensors that do not show where their network halves its maps."""


def read_network(
    units: Sequence[UnitShape], stem: int, head: int, *, stem_stride: int = 2, stem_activation: str = "relu"
) -> Architecture:
    """The network whose layers have these shapes: the member of the family at its width, or one named `custom`.

    Where no stages are shown, a stage ends where kernel, expansion, filters or squeeze-and-excite change. Strides that are not
    shown are those that all members share (their seven stages); ValueError for any other number of stages.
    """
    stages: list[list[UnitShape]] = []
    last = None
    for unit, channels in zip(units, [stem, *(unit.filters for unit in units)], strict=False):
        kind = (unit.op, unit.kernel, (unit.expanded or channels) / channels, unit.filters, unit.se_filters > 0)
        place = kind if unit.stage is None else unit.stage
        if place != last:
            stages.append([])
        stages[-1].append(unit)
        last = place
    shown = all(unit.stride for unit in units)
    if not shown and len(stages) != len(PATTERN):
        raise UnknownStridesError(
            f"the strides of {len(stages)} stages are not known from tensors; the family's {len(PATTERN)} stages are. "
            f"Name the network: network='stem... head...' (--network)"
        )
    blocks, channels = [], stem
    for stage, pattern in zip(stages, PATTERN if not shown else itertools.repeat(1), strict=False):
        blocks.append(_block(stage, channels, stage[0].stride or pattern))
        channels = stage[0].filters
    read = Architecture("custom", stem, tuple(blocks), head, stem_stride=stem_stride, stem_activation=stem_activation)
    return _named(read, residual_known=units[0].residual is not None)


def _block(units: Sequence[UnitShape], channels: int, stride: int) -> Block:
    first = units[0]
    expanded = first.expanded or channels
    if expanded % channels or any(unit.filters != first.filters for unit in units):
        raise ValueError(f"a stage of {channels} channels, expanded to {expanded}, filters {[unit.filters for unit in units]}")
    pool = any(unit.pooled for unit in units)
    possible = [(pool or stride == 1) and channels == first.filters] + [True] * (len(units) - 1)
    residual = [could if unit.residual is None else unit.residual for unit, could in zip(units, possible, strict=True)]
    skip = any(residual) or not any(possible)
    return Block(
        repeats=len(units),
        kernel=first.kernel,
        stride=stride,
        expand=expanded // channels,
        input_filters=channels,
        filters=first.filters,
        se=_se_ratio([(first.filters if place else channels, unit.se_filters) for place, unit in enumerate(units)]),
        skip=skip,
        first_skip=not (skip and possible[0] and not residual[0]),
        pool=pool,
        op=first.op,
    )


def _se_ratio(widths: Sequence[tuple[int, int]]) -> float:
    """The ratio that gives every (input channels, reduced channels) pair of a stage: 0.25, else the shortest decimal."""
    if not any(reduced for _, reduced in widths):
        return 0.0
    candidates = [DEFAULT_SE_RATIO]
    for digits, (input_filters, reduced) in itertools.product(range(1, 9), widths):
        ratio = round(reduced / input_filters, digits)
        candidates += [ratio, round(ratio + 10**-digits, digits)]
    fits = (c for c in candidates if 0 < c <= 1 and all(max(1, int(i * c)) == r for i, r in widths))
    found = next(fits, None)
    if found is None:
        raise ValueError(f"A stage's squeeze-and-excite must have one ratio. Received: (channels, reduced) {widths}")
    return found


def _named(read: Architecture, *, residual_known: bool) -> Architecture:
    """The member of the family, at some width, that is this network; else the network as read.

    Tensors do not show whether the first layer has a residual; then it is the member's own.
    """

    def free(block: Block) -> Block:
        return dataclasses.replace(block, skip=True, first_skip=True)

    for network, width in itertools.product(FAMILY.values(), WIDTHS):
        known = network.scaled(width).with_stem_stride(read.stem_stride).with_stem_activation(read.stem_activation)
        if not known.same_body(read):
            continue
        for stem, first in ((known.stem, known.blocks[0]), (network.stem, network.blocks[0])):  # scaled, or left as it was
            if (stem, free(first)) == (read.stem, free(read.blocks[0])):
                first = read.blocks[0] if residual_known else first
                found = dataclasses.replace(known, stem=stem, blocks=(first, *read.blocks[1:]))
                return known if found.same_network(known) else found
    return read


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
    normalization: Normalization = IMAGENET


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
    normalizing = layers.get(IMAGENET_LAYER) or layers.get(PIXEL_LAYER)
    return Spec(
        architecture=_read_layers(layers),
        bn_epsilon=float(bn.epsilon),
        bn_momentum=float(bn.momentum),
        padding="symmetric" if any(name.endswith("_pad") for name in layers) else "same",
        classes=top.units if top else 0,
        classifier_activation=None if activation in (None, "linear") else activation,
        include_preprocessing=normalizing is not None,
        dropout_rate=float(dropout.rate) if dropout else 0.0,
        input_shape=tuple(model.inputs[0].shape[1:]),
        pooling=None if top else "avg" if "avg_pool" in layers else "max" if "max_pool" in layers else None,
        normalization=IMAGENET if normalizing is None else _normalization(normalizing),
    )


def _normalization(layer: Any) -> Normalization:
    config = layer.get_config()
    try:
        mean, variance = ([float(value) for value in config[key]] for key in ("mean", "variance"))
        return Normalization(tuple(mean), tuple(map(math.sqrt, variance)))  # the root of a square is exact
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"The layer {layer.name!r} must normalize with a mean and a variance of its own. Received: {error}"
        ) from error


def _read_layers(layers: dict[str, Any]) -> Architecture:
    parts = {"depthwise": "mbconv", "plain": "conv", "linear": "linear"}
    units = []
    for name, spatial in layers.items():
        match = re.fullmatch(r"(block(\d+)[a-z]+)_(depthwise|plain|linear)_conv", name)
        if not match:
            continue
        unit, stage, part = match.groups()
        expand, reduce = layers.get(f"{unit}_expand_conv"), layers.get(f"{unit}_se_reduce")
        units.append(
            UnitShape(
                kernel=spatial.kernel_size[0],
                filters=(layers[f"{unit}_project_conv"] if part == "depthwise" else spatial).filters,
                expanded=expand.filters if expand else None,
                se_filters=reduce.filters if reduce else 0,
                stage=int(stage),
                stride=spatial.strides[0],
                residual=f"{unit}_add" in layers,
                pooled=f"{unit}_pool" in layers,
                op=parts[part],
            )
        )
    stem = layers["stem_conv"]
    return read_network(
        units, stem.filters, layers["head_conv"].filters, stem_stride=stem.strides[0],
        stem_activation="relu" if "stem_relu" in layers else "linear",
    )  # fmt: skip


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
    theirs |= {each.name: (type(each).__name__,) for each in getattr(model, "operations", ()) if each not in model.layers}
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
