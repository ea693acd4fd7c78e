"""Google, timm and torchvision checkpoints -> the house's tensor names and layouts, with the source's numerics.

House names are `<layer>/<variable>` (`block3b_expand_conv/kernel`), layouts are Keras's. A file's source is recognised by
its tensor names, never by its extension. Name rules and traps: each function's docstring.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from keras_mnasnet.architecture import Architecture, Layer
from keras_mnasnet.family import FAMILY
from keras_mnasnet.preprocessing import Preprocessing
from keras_mnasnet.weights.errors import CheckpointError
from keras_mnasnet.weights.files import TensorFile
from keras_mnasnet.weights.registry import Numerics, source_numerics

__all__ = ["Checkpoint", "convert", "expected_shapes", "layer_shapes", "recognise"]

EMA = "/ExponentialMovingAverage"
WIDTHS = (None, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
BN_LEAVES = ("gamma", "beta", "moving_mean", "moving_variance")
TORCH_BN = dict(zip(("weight", "bias", "running_mean", "running_var"), BN_LEAVES, strict=True))

Key = tuple[str | int, str, str]  # (`stem` | `head` | `predictions` | position of the unit, part, variable)
Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors under house names, the network they belong to and how their source computes.

    `labels` (class names) and `preprocessing` are known of checkpoints that a training run of this package wrote.
    """

    source: str
    architecture: Architecture
    numerics: Numerics
    classes: int
    tensors: dict[str, np.ndarray]
    resolution: int | None = None
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None

    def check_values(self, where: object) -> None:
        """CheckpointError unless every tensor is float32 and finite."""
        for name, value in self.tensors.items():
            if value.dtype != np.float32 or not np.isfinite(value).all():
                raise CheckpointError(f"{where}: tensor {name!r} must be finite float32. Received: {value.dtype}, or NaN in it")


@functools.lru_cache(maxsize=64)
def expected_shapes(architecture: Architecture, classes: int) -> Shapes:
    """{house name: shape in Keras layout} of a network; `classes=0` leaves out the classifier."""
    return layer_shapes(architecture.layers(32, 32, classes=classes))


def layer_shapes(layers: Iterable[Layer]) -> Shapes:
    """{house name: shape in Keras layout} of a layer table."""
    shapes: Shapes = {}
    for layer in layers:
        k, cin, cout = layer.kernel, layer.input_filters, layer.filters
        kernel = {"conv": (k, k, cin, cout), "depthwise": (k, k, cin, 1), "dense": (cin, cout)}[layer.op]
        shapes[f"{layer.name}/kernel"] = kernel
        if layer.bn:
            shapes.update({f"{layer.bn}/{leaf}": (cout,) for leaf in BN_LEAVES})
        else:
            shapes[f"{layer.name}/bias"] = (cout,)
    return shapes


def _google(names: Iterable[str]) -> dict[Key, str]:
    """TF1 names: `<net>/[mnas_net_model/]mnas_blocks_3/[se/]conv2d_7/kernel[/ExponentialMovingAverage]`.

    Keras numbers convolutions over the whole process, so only their rank within a scope counts. Moving averages hold what
    Google evaluates; the raw variables are used only where the file has no averages at all. Slots are ignored.
    """
    pattern = re.compile(
        r"(?:.*/)?(mnas_stem|mnas_blocks_(\d+)|mnas_head)(/se)?/(conv2d|depthwise_conv2d|batch_normalization|dense)"
        r"(?:_(\d+))?/(kernel|depthwise_kernel|bias|gamma|beta|moving_mean|moving_variance)$"
    )
    names = set(names)
    plain = {name for name in names if pattern.match(name)}
    networks = {name.split("/")[0] for name in plain if "mnas_stem/" in name}
    if len(networks) > 1:
        raise CheckpointError(f"A checkpoint must hold one network. Received: {', '.join(sorted(networks))}")
    averaged = {name for name in plain if name + EMA in names}
    plain |= {name.removesuffix(EMA) for name in names if name.endswith(EMA) and pattern.match(name.removesuffix(EMA))}
    has_averages = any(name.endswith(EMA) for name in names)
    if has_averages and (lost := sorted(name for name in plain if name + EMA not in names)):
        raise CheckpointError(
            f"A checkpoint with moving averages must have one of every variable. "
            f"Received: {len(averaged)} averages, none of {lost[0]!r} and {len(lost) - 1} more"
        )
    ranked: dict[tuple, dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in plain:
        scope, block, se, kind, number, leaf = pattern.match(name).groups()  # type: ignore[union-attr]
        where = int(block) if block else scope.removeprefix("mnas_")
        ranked[where, bool(se), kind][int(number or 0)][leaf] = name + (EMA if has_averages else "")
    located: dict[Key, str] = {}
    for (where, se, kind), by_number in ranked.items():
        groups = [by_number[number] for number in sorted(by_number)]
        for part, leaves in zip(_google_parts(where, se, kind, len(groups)), groups, strict=True):
            for leaf, name in leaves.items():
                scope = "predictions" if kind == "dense" else where
                located[scope, part, leaf.removeprefix("depthwise_")] = name
    return located


def _google_parts(where: str | int, se: bool, kind: str, count: int) -> list[str]:
    """The layers that the `count` layers of a kind in one scope are, in order of their numbers."""
    if isinstance(where, str):
        parts = ["bn" if kind == "batch_normalization" else "" if kind == "dense" else "conv"]
    elif se:
        parts = ["se_reduce", "se_expand"]
    elif kind == "depthwise_conv2d":
        parts = ["depthwise_conv"]
    elif kind == "batch_normalization":
        parts = ["expand_bn", "depthwise_bn", "project_bn"][-count:]
    else:
        parts = ["expand_conv", "project_conv"][-count:]
    if len(parts) != count:
        raise CheckpointError(f"Google's {where!r} holds {len(parts)} {kind} layers. Received: {count} of them")
    return parts


def _torch_leaf(part: str, leaf: str) -> str:
    if part.endswith("bn"):
        return TORCH_BN.get(leaf, leaf)
    return {"weight": "kernel"}.get(leaf, leaf)


def _timm(names: Iterable[str]) -> dict[Key, str]:
    """timm names: `blocks.2.0.conv_pwl.weight`. `conv_pw`, `bn1` and `bn2` mean other layers in the first kind of block."""
    separable = {"conv_dw": "depthwise_conv", "bn1": "depthwise_bn", "conv_pw": "project_conv", "bn2": "project_bn"}
    inverted = {
        "conv_pw": "expand_conv", "bn1": "expand_bn", "conv_dw": "depthwise_conv", "bn2": "depthwise_bn",
        "conv_pwl": "project_conv", "bn3": "project_bn",
    }  # fmt: skip
    gates = {"se.conv_reduce": "se_reduce", "se.conv_expand": "se_expand"}
    outer: dict[str, tuple[str, str]] = {
        "conv_stem": ("stem", "conv"), "bn1": ("stem", "bn"), "conv_head": ("head", "conv"), "bn2": ("head", "bn"),
        "classifier": ("predictions", ""),
    }  # fmt: skip
    pattern = re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)$")
    inner = {name: pattern.match(name) for name in names}
    order = sorted({(int(m[1]), int(m[2])) for m in inner.values() if m})
    position = {place: index for index, place in enumerate(order)}
    is_inverted = {(int(m[1]), int(m[2])) for m in inner.values() if m and m[3].startswith("conv_pwl.")}
    located: dict[Key, str] = {}
    for name, match in inner.items():
        module, _, leaf = (match[3] if match else name).rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        if match:
            place = int(match[1]), int(match[2])
            part = (gates | (inverted if place in is_inverted else separable)).get(module)
            scope: str | int = position[place]
        else:
            scope, part = outer.get(module, ("", None))
        if part is None:
            raise CheckpointError(f"timm's MnasNets have no tensor of this name. Received: {name!r}")
        located[scope, part, _torch_leaf(part, leaf)] = name
    return located


def _torchvision(names: Iterable[str]) -> dict[Key, str]:
    """torchvision names: positions in nested Sequentials; `layers.8` to `layers.13` are the stages after the first."""
    flat: dict[str, tuple[str | int, str]] = {
        "layers.0": ("stem", "conv"), "layers.1": ("stem", "bn"), "layers.3": (0, "depthwise_conv"),
        "layers.4": (0, "depthwise_bn"), "layers.6": (0, "project_conv"), "layers.7": (0, "project_bn"),
        "layers.14": ("head", "conv"), "layers.15": ("head", "bn"), "classifier.1": ("predictions", ""),
    }  # fmt: skip
    parts = ("expand_conv", "expand_bn", "", "depthwise_conv", "depthwise_bn", "", "project_conv", "project_bn")
    pattern = re.compile(r"layers\.(\d+)\.(\d+)\.layers\.([013467])\.(\w+)$")
    inner = {name: pattern.match(name) for name in names}
    order = sorted({(int(m[1]), int(m[2])) for m in inner.values() if m})
    located: dict[Key, str] = {}
    for name, match in inner.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        if match:
            scope: str | int = 1 + order.index((int(match[1]), int(match[2])))
            part = parts[int(match[3])]
        elif module in flat:
            scope, part = flat[module]
        else:
            raise CheckpointError(f"torchvision's MNASNets have no tensor of this name. Received: {name!r}")
        located[scope, part, _torch_leaf(part, leaf)] = name
    return located


SOURCES: dict[str, tuple[Callable[[str], bool], Callable[[Iterable[str]], dict[Key, str]]]] = {
    "google": (lambda name: "/mnas_stem/" in f"/{name}", _google),
    "timm": (lambda name: name == "conv_stem.weight", _timm),
    "torchvision": (lambda name: name == "layers.0.weight", _torchvision),
}
MARKS = {"timm": "blocks.0.0.conv_dw.weight", "torchvision": "layers.8.0.layers.0.weight"}


def recognise(names: Iterable[str]) -> str:
    """The source that wrote tensors of these names; unknown names raise CheckpointError and are shown."""
    names = set(names)
    for source, (is_mark, _) in SOURCES.items():
        if any(map(is_mark, names)) and (source not in MARKS or MARKS[source] in names):
            return source
    shown = ", ".join(sorted(names)[:6]) or "no tensors"
    raise CheckpointError(
        f"A checkpoint must be Google's (TF1 MnasNet), timm's, torchvision's or keras_mnasnet's own. "
        f"Received: {len(names)} tensors named {shown}{', ...' if len(names) > 6 else ''}"
    )


def convert(file: TensorFile, candidates: Sequence[tuple[Architecture, bool]] | None = None) -> Checkpoint:
    """Read a source's tensors, with the numerics of that source.

    `candidates` are the networks the file may hold, each with whether its stem was scaled; None finds the family member
    and width that fit. Raises CheckpointError for unknown names, for a file of another network (saying which one fits),
    and for values that are not finite.
    """
    source = recognise(file.shapes)
    located = SOURCES[source][1](file.shapes)
    shapes = {key: _keras_shape(key, file.shapes[name], source) for key, name in located.items()}
    dense = shapes.get(("predictions", "", "kernel"))
    classes = dense[1] if dense else 0
    networks = _family() if candidates is None else iter(candidates)
    fit = next((n for n in networks if _renamed(shapes, n[0]) == expected_shapes(n[0], classes)), None)
    if fit is None:
        raise CheckpointError(f"{file.path} {_mismatch(source, shapes, classes, candidates)}")
    architecture, scale_stem = fit
    numerics = dataclasses.replace(source_numerics(source), scale_stem=scale_stem)
    units = architecture.units()
    read = {
        _house_name(key, units): np.ascontiguousarray(_keras_layout(key, file.read(name), source), dtype=np.float32)
        for key, name in located.items()
    }
    tensors = {name: read[name] for name in expected_shapes(architecture, classes)}
    checkpoint = Checkpoint(source, numerics.apply(architecture), numerics, classes, tensors)
    checkpoint.check_values(file.path)
    return checkpoint


def _house_name(key: Key, units: tuple) -> str:
    scope, part, leaf = key
    prefix = units[scope].name if isinstance(scope, int) else scope
    return f"{prefix}_{part}/{leaf}" if part else f"{prefix}/{leaf}"


def _keras_layout(key: Key, value: np.ndarray, source: str) -> np.ndarray:
    """PyTorch's OIHW -> HWIO, depthwise [C,1,k,k] -> [k,k,C,1], linear [out,in] -> [in,out]; TF1 is Keras's already."""
    if source == "google" or key[2] != "kernel":
        return value
    if value.ndim == 2:
        return value.T
    return value.transpose((2, 3, 0, 1) if key[1] == "depthwise_conv" else (2, 3, 1, 0))


def _keras_shape(key: Key, shape: tuple[int, ...], source: str) -> tuple[int, ...]:
    if key[2] == "kernel" and len(shape) != (2 if key[0] == "predictions" else 4):
        raise CheckpointError(f"The kernel of {key[0]} {key[1]} must have 4 axes (2 in the classifier). Received: {shape}")
    return _keras_layout(key, np.broadcast_to(np.float32(0), shape), source).shape


def _renamed(shapes: dict[Key, tuple[int, ...]], architecture: Architecture) -> Shapes | None:
    units = architecture.units()
    positions = {scope for scope, _, _ in shapes if isinstance(scope, int)}
    if positions != set(range(len(units))):
        return None
    return {_house_name(key, units): shape for key, shape in shapes.items()}


def _family() -> Iterator[tuple[Architecture, bool]]:
    """Every member of the family at every published width, with whether its stem is scaled."""
    for network, width, scale_stem in itertools.product(FAMILY.values(), WIDTHS, (True, False)):
        yield network.scaled(width, scale_stem=scale_stem), scale_stem


def _mismatch(
    source: str,
    shapes: dict[Key, tuple[int, ...]],
    classes: int,
    candidates: Sequence[tuple[Architecture, bool]] | None,
) -> str:
    fits = next((a for a, _ in _family() if _renamed(shapes, a) == expected_shapes(a, classes)), None)
    if candidates is None:
        return (
            f"must hold a member of the family at one of the widths {', '.join(map(str, WIDTHS[1:]))}. "
            f"Received: {source} tensors of another network. Name its architecture."
        )
    wanted = candidates[0][0]
    renamed, expected = _renamed(shapes, wanted), expected_shapes(wanted, classes)
    if renamed is None:
        count = len({scope for scope, _, _ in shapes if isinstance(scope, int)})
        difference = f"{count} blocks where {wanted.name!r} has {len(wanted.units())}"
    else:
        name = next(n for n in [*expected, *renamed] if expected.get(n) != renamed.get(n))
        difference = f"{name} {renamed.get(name, 'missing')} where {wanted.name!r} has {expected.get(name, 'none')}"
    hint = f"The file fits MnasNet {fits.name!r}: {fits}" if fits else "It fits no member of the family"
    return f"must hold MnasNet {wanted.name!r}. Received: {difference}. {hint}."
