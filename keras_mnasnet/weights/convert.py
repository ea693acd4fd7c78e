"""Checkpoints of Google, timm, torchvision, imgclsmob and MindCV -> the house's tensor names and layouts, with their numerics.

House names are `<layer>/<variable>` (`block3b_expand_conv/kernel`), layouts are Keras's. A file's source is recognized by
its tensor names, never by its extension. Name rules and traps: each function's docstring.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.spec import UnitShape, UnknownStridesError, read_network
from keras_mnasnet.weights.checkpoint import BN_LEAVES, Checkpoint, CheckpointError, Numerics, Origin, expected_shapes
from keras_mnasnet.weights.formats import TensorFile
from keras_mnasnet.weights.names import recognize
from keras_mnasnet.weights.registry import labels_of, source_numerics, source_preprocessing

CLASSIFIER = re.compile(r"classifier(?:\.\d+)?")  # of PyTorch: alone, or after a dropout
BODY_ALONE = (
    "Leave out the classifier's names to take the body alone: torch.save({k: v for k, v in weights.items() if 'classifier' not "
    "in k}, FILE)."
)
EMA = "/ExponentialMovingAverage"
TORCH_BN = dict(zip(("weight", "bias", "running_mean", "running_var"), BN_LEAVES, strict=True))

Key = tuple[str | int, str, str]  # (`stem` | `head` | `predictions` | position of the unit, part, variable)


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


def _locate(located: dict[Key, str], key: Key, name: str) -> None:
    if key in located:
        raise CheckpointError(f"A MnasNet has one layer of classes. Received: {located[key]!r} and {name!r}. {BODY_ALONE}")
    located[key] = name


def _unknown(source: str, name: str) -> CheckpointError:
    way = f" {BODY_ALONE}" if name.startswith("classifier.") else ""
    return CheckpointError(f"{source}'s MnasNets have no tensor of this name. Received: {name!r}.{way}")


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
            scope, part = ("predictions", "") if CLASSIFIER.fullmatch(module) else outer.get(module, ("", None))
        if part is None:
            raise _unknown("timm", name)
        _locate(located, (scope, part, _torch_leaf(part, leaf)), name)
    return located


def _torchvision(names: Iterable[str]) -> dict[Key, str]:
    """torchvision names: positions in nested Sequentials; `layers.8` to `layers.13` are the stages after the first."""
    flat: dict[str, tuple[str | int, str]] = {
        "layers.0": ("stem", "conv"), "layers.1": ("stem", "bn"), "layers.3": (0, "depthwise_conv"),
        "layers.4": (0, "depthwise_bn"), "layers.6": (0, "project_conv"), "layers.7": (0, "project_bn"),
        "layers.14": ("head", "conv"), "layers.15": ("head", "bn"),
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
        elif module in flat or CLASSIFIER.fullmatch(module):
            scope, part = flat.get(module, ("predictions", ""))
        else:
            raise _unknown("torchvision", name)
        _locate(located, (scope, part, _torch_leaf(part, leaf)), name)
    return located


def _imgclsmob(names: Iterable[str]) -> dict[Key, str]:
    """imgclsmob's names, of pytorchcv (`features.stage2.unit1.exp_conv.conv.weight`) and tf2cv
    (`features/features/stage2/unit1/exp_conv/conv/conv/kernel:0`): the first and the last layer are in blocks of their own."""
    pattern = re.compile(r"(?:.*/)?(?:(init_block|final_block)|stage(\d+)(?:/stage\d+)?/unit(\d+))/(.+)/(\w+)$")
    parts = {"exp_conv": "expand", "dw_conv": "depthwise", "pw_conv": "project", "conv1": "reduce", "conv2": "expand"}
    outer = {("init_block", "conv1"): "stem", ("final_block", "conv2"): "head"}
    inner: dict[str, tuple[tuple[int, int, int], list[str], str]] = {}
    located: dict[Key, str] = {}
    for name in names:
        plain = name.removesuffix(":0").replace(".", "/")
        match, leaf = pattern.match(plain), plain.rpartition("/")[2]
        if leaf == "num_batches_tracked":
            continue
        if not match:
            if plain.split("/")[0] not in ("output", "output1"):
                raise _unknown("imgclsmob", name)
            _locate(located, ("predictions", "", _torch_leaf("", leaf)), name)
            continue
        block, stage, unit, path, leaf = match.groups()
        steps = path.split("/")
        kind = "bn" if "bn" in steps else "conv"
        if (block, steps[0]) in outer:
            _locate(located, (outer[block, steps[0]], kind, _torch_leaf(kind, leaf)), name)
            continue
        place = (0, 0, 0) if block == "init_block" else (2, 0, 0) if block else (1, int(stage), int(unit))
        inner[name] = place, steps[bool(block) :], leaf.removeprefix("depthwise_")
    position = {place: number for number, place in enumerate(sorted({place for place, _, _ in inner.values()}))}
    for name, (place, steps, leaf) in inner.items():
        gate = steps[:1] == ["se"]
        step = steps[int(gate)] if len(steps) > gate else ""
        if step not in parts:
            raise _unknown("imgclsmob", name)
        kind = "bn" if "bn" in steps else "conv"
        part = f"se_{parts[step]}" if gate else f"{parts[step]}_{kind}"
        _locate(located, (position[place], part, _torch_leaf(part, leaf)), name)
    return located


def _mindcv(names: Iterable[str]) -> dict[Key, str]:
    """MindCV's names: positions in one SequentialCell, of which each layer from the second on is a cell `layers`."""
    first = ("conv", "bn", "", "depthwise_conv", "depthwise_bn", "", "project_conv", "project_bn")
    parts = ("expand_conv", "expand_bn", "", "depthwise_conv", "depthwise_bn", "", "project_conv", "project_bn")
    located: dict[Key, str] = {}
    names = list(names)
    pattern = re.compile(r"features\.(\d+)(?:\.layers\.([013467]))?\.(\w+)$")
    layers = sorted({int(match[1]) for match in map(pattern.match, names) if match and match[2]})
    for name in names:
        match, leaf = pattern.match(name), name.rpartition(".")[2]
        leaf = "kernel" if leaf == "weight" else leaf
        if not match:
            if not name.startswith("classifier."):
                raise _unknown("MindCV", name)
            _locate(located, ("predictions", "", leaf), name)
            continue
        place = int(match[1])
        if match[2]:
            scope, part = 1 + layers.index(place), parts[int(match[2])]
            _locate(located, (scope, part, leaf), name)
        elif place < len(first) and first[place]:
            outer: str | int = "stem" if place < 2 else 0
            _locate(located, (outer, first[place], leaf), name)
        elif layers and place - layers[-1] in (1, 2):
            _locate(located, ("head", "conv" if place - layers[-1] == 1 else "bn", leaf), name)
        else:
            raise _unknown("MindCV", name)
    return located


def _keras_h5(names: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> dict[Key, str]:
    """Keras's `.weights.h5` names: `layers/conv2d_7/vars/0`. Layers are numbered by class, in the order of the model.

    The classes are numbered apart from each other, so the shapes say where a convolution stands: one that leads to another
    number of channels than the depthwise layer after it has expands, two with a bias gate, the next one projects.
    """
    ranked: dict[str, dict[int, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in names:
        match = re.fullmatch(r"layers/(conv2d|depthwise_conv2d|batch_normalization|dense)(?:_(\d+))?/vars/(\d)", name)
        if match:
            ranked[match[1]][int(match[2] or 0)][int(match[3])] = name
    kinds = ("conv2d", "depthwise_conv2d", "batch_normalization", "dense")
    convs, depthwise, norms, dense = (iter([ranked[kind][number] for number in sorted(ranked[kind])]) for kind in kinds)
    located: dict[Key, str] = {}

    def take(scope: str | int, part: str, kind: Iterator[dict[int, str]], leaves: Sequence[str]) -> None:
        group = next(kind)
        located.update({(scope, part, leaf): group[place] for place, leaf in enumerate(leaves) if place in group})

    try:
        take("stem", "conv", convs, ["kernel"])
        take("stem", "bn", norms, BN_LEAVES)
        channels = shapes[located["stem", "conv", "kernel"]][-1]
        for scope, layer in enumerate(list(depthwise)):
            if shapes[layer[0]][2] != channels:
                take(scope, "expand_conv", convs, ["kernel"])
                take(scope, "expand_bn", norms, BN_LEAVES)
            located[scope, "depthwise_conv", "kernel"] = layer[0]
            take(scope, "depthwise_bn", norms, BN_LEAVES)
            following = next(convs)
            if len(following) == 2:
                convs = itertools.chain([following], convs)
                take(scope, "se_reduce", convs, ["kernel", "bias"])
                take(scope, "se_expand", convs, ["kernel", "bias"])
                following = next(convs)
            located[scope, "project_conv", "kernel"] = following[0]
            take(scope, "project_bn", norms, BN_LEAVES)
            channels = shapes[following[0]][-1]
        take("head", "conv", convs, ["kernel"])
        take("head", "bn", norms, BN_LEAVES)
        for last in dense:
            located |= {("predictions", "", leaf): last[place] for place, leaf in enumerate(["kernel", "bias"])}
    except (StopIteration, KeyError) as error:
        raise CheckpointError("the layers of a MnasNet must follow each other: one is missing or there are others") from error
    return located


LOCATE = {
    "google": _google, "timm": _timm, "torchvision": _torchvision, "pytorchcv": _imgclsmob, "tf2cv": _imgclsmob,
    "mindcv": _mindcv,
}  # fmt: skip
CHANNELS_FIRST = ("timm", "torchvision", "pytorchcv", "mindcv")  # whose kernels are as PyTorch's


def convert(file: TensorFile, network: Architecture | None = None) -> Checkpoint:
    """The checkpoint in a source's file: its network read from names and shapes, with the numerics of that source.

    `network` is needed only where the strides cannot be read, and must then be what the shapes show. Raises CheckpointError
    for unknown names, tensors that are missing or of another network, and values that are not finite.
    """
    source, file = recognize(file)
    located = _keras_h5(file.shapes, file.shapes) if source == "keras" else LOCATE[source](file.shapes)
    shapes = {key: _keras_shape(key, file.shapes[name], source) for key, name in located.items()}
    numerics = _h5_numerics(file) if source == "keras" else source_numerics(source)
    try:
        architecture = numerics.apply(_network(shapes, located, source, network))
    except (ValueError, KeyError) as error:
        missing = str(error)
        if isinstance(error, KeyError) and isinstance(error.args[0], tuple):
            missing = f"there is none for the {' '.join(str(part) for part in error.args[0] if part != '')}"
        raise CheckpointError(
            f"{file.path} must hold the tensors of a MnasNet. Received: {source} tensors; {missing}"
        ) from error
    dense = shapes.get(("predictions", "", "kernel"))
    classes = dense[1] if dense else 0
    units = architecture.units()
    expected = expected_shapes(architecture, classes)
    found = {_house_name(key, units): shape for key, shape in shapes.items()}
    if found != expected:
        wrong = next(name for name in [*expected, *found] if expected.get(name) != found.get(name))
        raise CheckpointError(
            f"{file.path} must hold the tensors of MnasNet {architecture.name!r}. Received: {wrong} "
            f"{found.get(wrong, 'missing')} where it has {expected.get(wrong, 'none')}"
        )
    read = {_house_name(key, units): _values(file, key, name, source) for key, name in located.items()}
    size = 224
    assumed = ("labels", "preprocessing", "input size", "stem stride", "batch-norm epsilon") if source == "keras" else ()
    checkpoint = Checkpoint(
        architecture,
        numerics,
        classes,
        {name: read[name] for name in expected},
        size,
        labels_of(source, classes),
        source_preprocessing("timm" if source == "keras" else source, size),
        Origin(source, str(file.path), notes=file.notes),
        assumed,
    )
    checkpoint.check_values()
    return checkpoint


def _values(file: TensorFile, key: Key, name: str, source: str) -> np.ndarray:
    value = file.read(name)
    if value.dtype.kind in "biuc":
        way = "of real numbers" if value.dtype.kind == "c" else "as it was before its quantization"
        raise CheckpointError(
            f"{file.path} must hold floating-point tensors. Received: {name} of {value.dtype}. Save the network {way}."
        )
    return np.ascontiguousarray(_keras_layout(key, value, source), dtype=np.float32)


def _h5_numerics(file: TensorFile) -> Numerics:
    """What a `.weights.h5` file shows: layers that pad are PyTorch's way, whose epsilon is then assumed too."""
    symmetric = file.metadata.get("pads") == "True"
    return Numerics(1e-5 if symmetric else 1e-3, "symmetric" if symmetric else "same")


def _network(
    shapes: Mapping[Key, tuple[int, ...]], located: Mapping[Key, str], source: str, named: Architecture | None
) -> Architecture:
    """The network that the shapes show; `named` where they do not show its strides. KeyError names a missing tensor."""
    count = len({scope for scope, _, _ in shapes if isinstance(scope, int)})
    units = []
    for scope in range(count):
        expand, reduce = shapes.get((scope, "expand_conv", "kernel")), shapes.get((scope, "se_reduce", "kernel"))
        name = located[scope, "depthwise_conv", "kernel"]
        stage = re.match(r"(?:blocks|layers)\.(\d+)\.\d+\.", name) if source in ("timm", "torchvision") else None
        units.append(
            UnitShape(
                kernel=shapes[scope, "depthwise_conv", "kernel"][0],
                filters=shapes[scope, "project_conv", "kernel"][-1],
                expanded=expand[-1] if expand else None,
                se_filters=reduce[-1] if reduce else 0,
                stage=int(stage[1]) if stage else -1 if source in ("timm", "torchvision") else None,
            )
        )
    stem, head = (shapes[scope, "conv", "kernel"][-1] for scope in ("stem", "head"))
    try:
        return read_network(units, stem, head)
    except UnknownStridesError:
        if named is None:
            raise
        return named


def _house_name(key: Key, units: tuple) -> str:
    scope, part, leaf = key
    prefix = units[scope].name if isinstance(scope, int) and scope < len(units) else scope
    return f"{prefix}_{part}/{leaf}" if part else f"{prefix}/{leaf}"


def _keras_layout(key: Key, value: np.ndarray, source: str) -> np.ndarray:
    """PyTorch's OIHW -> HWIO, depthwise [C,1,k,k] -> [k,k,C,1], linear [out,in] -> [in,out]; TF1 is Keras's already."""
    if source not in CHANNELS_FIRST or key[2] != "kernel":
        return value
    if value.ndim == 2:
        return value.T
    return value.transpose((2, 3, 0, 1) if key[1] == "depthwise_conv" else (2, 3, 1, 0))


def _keras_shape(key: Key, shape: tuple[int, ...], source: str) -> tuple[int, ...]:
    if key[2] == "kernel" and len(shape) != (2 if key[0] == "predictions" else 4):
        raise CheckpointError(f"The kernel of {key[0]} {key[1]} must have 4 axes (2 in the classifier). Received: {shape}")
    return _keras_layout(key, np.broadcast_to(np.float32(0), shape), source).shape
