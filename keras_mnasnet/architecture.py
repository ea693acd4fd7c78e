"""MnasNet networks as values: stages, text form, scaling, parameters and multiply-adds."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import re
from decimal import Decimal
from typing import NamedTuple

PROVENANCES = ("published", "reconstructed", "custom")
OPS = ("mbconv", "conv", "linear")
STEM_ACTIVATIONS = ("relu", "linear")
DEFAULT_SE_RATIO = 0.25
WEIGHTED = ("conv", "depthwise", "dense")
MOST_LAYERS = 2_000  # in the stages; MnasNet-A1 has 16
MOST_CHANNELS = 1_000_000  # of a layer; MnasNet has 1,280
LONGEST_TEXT = 100_000  # characters; A1 in words has 300

_WORDS = ("noskip", "nofirstskip", "pool", "conv", "linear")
_BLOCK_TOKEN = re.compile(r"(se|[rkseio])(\d+(?:\.\d+)?)$")
_HEADER = re.compile(r"\s*(?:(?P<name>[A-Za-z0-9][\w.+-]*)(?:\[(?P<provenance>\w*)\])?\s*:)?(?P<body>.*)$", re.DOTALL)


def round_filters(filters: int, multiplier: float | None, divisor: int = 8) -> int:
    """Scale a channel count: nearest multiple of `divisor`, never below 90 % of the product.

    `None` leaves the count as it is. `1.0` rounds too (36 becomes 40), as Google's `depth_multiplier=1.0` does.
    Source: tensorflow/tpu models/official/mnasnet/mnasnet_model.py.
    """
    if multiplier is None:
        return filters
    scaled = filters * multiplier
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * scaled else rounded


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """What TF's SAME padding puts before and after a side."""
    missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return missing // 2, missing - missing // 2


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """One stage: `repeats` equal layers, the first of which has `stride` (paper, section 4.1, figure 4).

    `op` is `mbconv`, the inverted residual (with `expand=1` a depthwise-separable convolution), `conv`, a convolution with
    ReLU, or `linear`, one without. With `pool` the skip is a 3x3 max pooling with the layer's stride, added wherever the
    channels are as many; without, it is the identity, at stride 1. `first_skip=False` leaves out the skip of the first layer
    alone. `se` is the squeeze-and-excite ratio relative to the layer's INPUT channels (0 means none). `input_filters` is
    stated, not derived, because Google's text form states it.
    """

    repeats: int
    kernel: int
    stride: int
    expand: int
    input_filters: int
    filters: int
    se: float = 0.0
    skip: bool = True
    pool: bool = False
    op: str = "mbconv"
    first_skip: bool = True

    def __post_init__(self) -> None:
        for field in ("repeats", "kernel", "expand", "input_filters", "filters"):
            _check_count(f"A block's `{field}`", field, getattr(self, field))
        if self.kernel % 2 == 0:
            raise ValueError(f"A block's `kernel` must be odd. Received: kernel={self.kernel}")
        _check_stride("A block's `stride`", "stride", self.stride)
        if isinstance(self.se, bool) or not isinstance(self.se, numbers.Real) or not 0 <= self.se <= 1:
            raise ValueError(f"A block's `se` ratio must be between 0 and 1. Received: se={self.se!r}")
        object.__setattr__(self, "se", float(self.se))
        if self.op not in OPS:
            raise ValueError(f"A block's `op` must be one of {OPS}. Received: op={self.op!r}")
        if self.op != "mbconv" and self.expand != 1:
            raise ValueError(f"A block of op {self.op!r} does not expand. Received: expand={self.expand}")
        if self.pool and not self.skip:
            raise ValueError(f"A block's pooling is a skip. Received: pool={self.pool!r}, skip={self.skip!r}")
        if not self.first_skip and not self.skip:
            raise ValueError("A block without skips has no first skip to leave out. Received: first_skip=False, skip=False")

    def __str__(self) -> str:
        text = f"r{self.repeats}_k{self.kernel}_s{self.stride}{self.stride}_e{self.expand}"
        text += f"_i{self.input_filters}_o{self.filters}"
        ratio = format(Decimal(repr(self.se)), "f")
        skip = ("_pool" if self.pool else "" if self.skip else "_noskip") + ("" if self.first_skip else "_nofirstskip")
        return text + (f"_se{ratio}" if self.se else "") + skip + ("" if self.op == "mbconv" else f"_{self.op}")

    @classmethod
    def parse(cls, text: str) -> Block:
        """Read Google's block string, such as `r3_k5_s22_e3_i24_o40_se0.25`; an unknown token raises ValueError."""
        found: dict[str, str] = {}
        for token in text.split("_"):
            match = _BLOCK_TOKEN.match(token)
            key, value = (token, "") if token in _WORDS else match.groups() if match else ("", "")
            if not key or (key != "se" and "." in value):
                raise ValueError(
                    f"A block is written as r<repeats>_k<kernel>_s<stride twice>_e<expand>_i<in>_o<out>[_se<ratio>]"
                    f"[_noskip|_pool][_nofirstskip][_conv|_linear]. Received: unknown token {token[:80]!r} in {text[:200]!r}"
                )
            if key in found:
                raise ValueError(f"A token may stand once in a block. Received: {key!r} twice in {text[:200]!r}")
            found[key] = value
        missing = [key for key in "rkseio" if key not in found]
        if missing:
            raise ValueError(f"A block needs the tokens r, k, s, e, i, o. Received: {text[:200]!r} without {missing}")
        if found["s"] not in ("11", "22"):
            raise ValueError(f"A block's stride is written s11 or s22. Received: 's{found['s'][:80]}' in {text[:200]!r}")
        return cls(
            repeats=int(found["r"]),
            kernel=int(found["k"]),
            stride=int(found["s"][0]),
            expand=int(found["e"]),
            input_filters=int(found["i"]),
            filters=int(found["o"]),
            se=float(found.get("se", 0)),
            skip="noskip" not in found,
            pool="pool" in found,
            op=next((op for op in OPS if op in found), "mbconv"),
            first_skip="nofirstskip" not in found,
        )


def _first_block(stem: int, block: Block) -> Block:
    """The first block in words of ours: Google's small states 16 channels after a stem of 8, which only says "no residual"."""
    if block.input_filters in (stem, block.filters) or block.expand > 1 or block.se:
        return block
    return dataclasses.replace(block, input_filters=stem, first_skip=not block.skip)


def _check_count(what: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{what} must be an integer >= 1. Received: {name}={value!r}")
    if value > MOST_CHANNELS:
        raise ValueError(f"{what} must be at most {MOST_CHANNELS:,}. Received: a larger one")


def _check_stride(what: str, name: str, value: object) -> None:
    if isinstance(value, bool) or value not in (1, 2):
        raise ValueError(f"{what} must be 1 or 2. Received: {name}={value!r}")


def _check_stem_activation(value: object) -> None:
    if value not in STEM_ACTIVATIONS:
        raise ValueError(f"`stem_activation` must be one of {STEM_ACTIVATIONS}. Received: stem_activation={value!r}")


class Unit(NamedTuple):
    """One built layer of a stage; `expanded` is the gated width, `se_filters` 0 without squeeze-and-excite."""

    name: str
    stage: int
    kernel: int
    stride: int
    input_filters: int
    expanded: int
    filters: int
    se_filters: int
    residual: bool
    pooled: bool = False
    op: str = "mbconv"

    @property
    def conv(self) -> str:
        """The name of the one convolution of the ops `conv` and `linear`."""
        return f"{self.name}_{'plain' if self.op == 'conv' else 'linear'}"

    @property
    def output(self) -> str:
        """The name of the model's layer that ends it."""
        if self.residual or self.pooled:
            return f"{self.name}_add"
        if self.op == "mbconv":
            return f"{self.name}_project_bn"
        return f"{self.name}_se_excite" if self.se_filters else f"{self.conv}_{'relu' if self.op == 'conv' else 'bn'}"


class Layer(NamedTuple):
    """One operation of a network: a convolution with its batch norm (`bn`) and ReLU, the classifier, or one without weights.

    `op` is `conv`, `depthwise`, `dense`, `squeeze` (the mean over the map, as a map), `mean`, `sigmoid`, `multiply`, `max_pool`
    or `add`. `inputs` are the `output` names of the operations that it takes, or `image`; an `add` takes the skip first.
    `height` and `width` are the output's; `params` counts trainable values (kernel, bias, gamma, beta), `madds` the multiplies
    of kernels only. `part` is the layer of a stage that it belongs to, `stem`, `head` or `top`.
    """

    name: str
    op: str
    kernel: int
    stride: int
    input_filters: int
    filters: int
    height: int
    width: int
    bn: str | None
    params: int
    madds: int
    inputs: tuple[str, ...] = ()
    relu: bool = False
    part: str = ""

    @property
    def base(self) -> str:
        """The name that its convolution, batch norm, ReLU and padding begin with."""
        return self.bn.removesuffix("_bn") if self.bn else self.name

    @property
    def output(self) -> str:
        """The name of the Keras layer that ends it."""
        return f"{self.base}_relu" if self.bn and self.relu else self.bn or self.name


@dataclasses.dataclass(frozen=True, slots=True)
class Architecture:
    """A network as a value: stem, stages, head. `str(a)` and `Architecture.parse` are each other's inverse.

    `stem_stride=1` keeps the resolution of photos that are small to begin with (written `stem32_s11`). `stem_activation` is
    "relu", or "linear" for none before the first stage, as in Google's AutoML Vision Edge (written `stem32_linear`).
    """

    name: str
    stem: int
    blocks: tuple[Block, ...]
    head: int = 1280
    provenance: str = "custom"
    stem_stride: int = 2
    stem_activation: str = "relu"

    def __post_init__(self) -> None:
        if not _HEADER.match(self.name + ":") or not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", self.name):
            raise ValueError(f"An architecture's name is letters, digits and `._+-`. Received: name={self.name!r}")
        if self.provenance not in PROVENANCES:
            raise ValueError(f"`provenance` must be one of {PROVENANCES}. Received: provenance={self.provenance!r}")
        _check_count("An architecture's `stem`", "stem", self.stem)
        _check_stride("An architecture's `stem_stride`", "stem_stride", self.stem_stride)
        _check_stem_activation(self.stem_activation)
        _check_count("An architecture's `head`", "head", self.head)
        if not self.blocks:
            raise ValueError(f"An architecture needs at least one block. Received: blocks=() in {self.name!r}")
        if (layers := sum(block.repeats for block in self.blocks)) > MOST_LAYERS:
            raise ValueError(f"An architecture has at most {MOST_LAYERS:,} layers in its stages. Received: {layers:,}")
        object.__setattr__(self, "blocks", (_first_block(self.stem, self.blocks[0]), *self.blocks[1:]))
        previous = self.stem
        for index, block in enumerate(self.blocks):
            if block.input_filters != previous:
                raise ValueError(
                    f"Block {index + 1} of {self.name!r} must take the {previous} channels of the layer before it. "
                    f"Received: i{block.input_filters} in '{block}'"
                )
            previous = block.filters

    def __str__(self) -> str:
        stem = f"stem{self.stem}" + ("" if self.stem_stride == 2 else "_s11")
        stem += "" if self.stem_activation == "relu" else "_linear"
        return f"{self.name}[{self.provenance}]: {stem} {' '.join(map(str, self.blocks))} head{self.head}"

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read the text form, `name[provenance]: stem32 r1_k3_s11_e1_i32_o16_noskip ... head1280`.

        The name and provenance may be left out (`custom`). Unknown tokens raise ValueError and are named.
        """
        if not isinstance(text, str) or len(text) > LONGEST_TEXT:
            raise ValueError(
                f"An architecture is written in at most {LONGEST_TEXT:,} characters. Received: {str(text)[:80]!r} ..."
            )
        match = _HEADER.match(text)
        tokens = match["body"].split() if match else []
        sizes = {}
        for position, key, stride in ((0, "stem", r"(_s11|_s22)?(_linear)?"), (-1, "head", "")):
            token = tokens[position] if tokens else ""
            size = re.fullmatch(key + r"(\d+)" + stride, token)
            if not size:
                raise ValueError(
                    f"An architecture is written as '[name:] stem<channels>[_s11][_linear] <block> ... head<channels>'. "
                    f"Received: {token[:80]!r} where {key}<channels> was expected, in {text[:200]!r}"
                )
            sizes[key] = int(size[1])
        return cls(
            name=(match and match["name"]) or "custom",
            stem=sizes["stem"],
            blocks=tuple(Block.parse(token) for token in tokens[1:-1]),
            head=sizes["head"],
            provenance=(match and match["provenance"]) or "custom",
            stem_stride=1 if "_s11" in tokens[0] else 2,
            stem_activation="linear" if tokens[0].endswith("_linear") else "relu",
        )

    def scaled(self, width_multiplier: float | None = None, depth_multiplier: float | None = None) -> Architecture:
        """Scale channels (Google's name for this is `depth_multiplier`) and repeats; the head is never scaled.

        `depth_multiplier` multiplies repeats and rounds up, first and last stage excepted.
        """
        for key, value in (("width_multiplier", width_multiplier), ("depth_multiplier", depth_multiplier)):
            is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < value <= 100):
                raise ValueError(f"`{key}` must be a number above 0 (at most 100) or None. Received: {key}={value!r}")
        if width_multiplier is None and depth_multiplier is None:
            return self
        last = len(self.blocks) - 1
        stem = round_filters(self.stem, width_multiplier)
        blocks = []
        for index, block in enumerate(self.blocks):
            repeats = block.repeats
            if depth_multiplier is not None and 0 < index < last:
                repeats = math.ceil(repeats * depth_multiplier)
            filters = round_filters(block.filters, width_multiplier)
            # Google states twice the channels where a first layer has no residual, and compares them after rounding.
            first_skip = block.first_skip or round_filters(2 * block.filters, width_multiplier) == filters
            given = round_filters(block.input_filters, width_multiplier)
            blocks.append(
                dataclasses.replace(block, repeats=repeats, input_filters=given, filters=filters, first_skip=first_skip)
            )
        if (stem, tuple(blocks)) == (self.stem, self.blocks):
            return self
        suffix = "" if width_multiplier is None else f"-{width_multiplier:g}"
        suffix += "" if depth_multiplier in (None, 1) else f"-depth{depth_multiplier:g}"
        return dataclasses.replace(self, name=self.name + suffix, stem=stem, blocks=tuple(blocks))

    def with_se(self, se: bool | float | None) -> Architecture:
        """Set squeeze-and-excite: None keeps it, False removes it, True (0.25) or a ratio gives it to stages that expand."""
        if se is None:
            return self
        if isinstance(se, bool):
            ratio = DEFAULT_SE_RATIO if se else 0.0
        elif isinstance(se, numbers.Real) and 0 < se <= 1:
            ratio = float(se)
        else:
            raise ValueError(f"`se` must be None, True, False or a ratio in (0, 1]. Received: se={se!r}")
        blocks = tuple(
            dataclasses.replace(block, se=ratio if block.expand > 1 or not ratio else block.se) for block in self.blocks
        )
        if blocks == self.blocks:
            return self
        suffix = f"-se{ratio:g}" if ratio else "-nose"
        return dataclasses.replace(self, name=self.name + suffix, blocks=blocks, provenance="custom")

    def with_first_residual(self, residual: bool | None) -> Architecture:
        """Decide the first layer's residual: timm's small network has one, Google's has none. None keeps it."""
        if residual is not None and not isinstance(residual, bool):
            raise ValueError(f"`first_residual` must be None, True or False. Received: first_residual={residual!r}")
        first = self.blocks[0]
        if residual is None or self.units()[0].residual == residual:
            return self
        if residual and (first.stride != 1 or self.stem != first.filters):
            raise ValueError(
                f"A residual over the first layer needs stride 1 and as many channels out as in. "
                f"Received: first_residual=True for stem{self.stem} and '{first}'"
            )
        changed = dataclasses.replace(first, skip=True, pool=False, first_skip=residual)
        return dataclasses.replace(self, blocks=(changed, *self.blocks[1:]))

    def with_stem_stride(self, stride: int | None) -> Architecture:
        """Set the stem's stride: 1 for small photos (every map is twice as high and wide). None keeps it."""
        if stride in (None, self.stem_stride) and not isinstance(stride, bool):
            return self
        _check_stride("`stem_stride`", "stem_stride", stride)
        suffix = "-stem1" if stride == 1 else ""
        name = self.name.removesuffix("-stem1") + suffix
        return dataclasses.replace(self, name=name, stem_stride=stride, provenance="custom")

    def with_stem_activation(self, activation: str | None) -> Architecture:
        """Set what follows the stem, "relu" or "linear" (nothing): a property of a checkpoint. None keeps it."""
        return self if activation is None else dataclasses.replace(self, stem_activation=activation)

    def units(self) -> tuple[Unit, ...]:
        """Every layer of every stage, with residuals decided on the channel counts as they are (after rounding)."""
        return _units(self)

    def operations(self, height: int = 224, width: int = 224, *, classes: int = 1000) -> tuple[Layer, ...]:
        """Everything the network computes, in order, at an input of `height` x `width` pixels; `classes=0` ends at the head."""
        return _operations(self, height, width, classes)

    def layers(self, height: int = 224, width: int = 224, *, classes: int = 1000) -> tuple[Layer, ...]:
        """The layer table: the operations that have weights, stem to classifier (left out with `classes=0`)."""
        return tuple(row for row in _operations(self, height, width, classes) if row.params)

    def params(self, *, classes: int = 1000) -> int:
        """Trainable parameters; `classes=0` counts the network without its classifier."""
        return sum(row.params for row in _operations(self, 224, 224, classes))

    def moving_statistics(self) -> int:
        """Non-trainable values: a moving mean and a moving variance per batch-norm channel."""
        return sum(2 * row.filters for row in _operations(self, 224, 224, 0) if row.bn)

    def madds(self, height: int = 224, width: int = 224, *, classes: int = 1000) -> int:
        """Multiply-adds per image of convolutions, squeeze-and-excite and classifier at `height` x `width` pixels."""
        return sum(row.madds for row in _operations(self, height, width, classes))

    def same_body(self, other: Architecture) -> bool:
        """Whether the stages after the first and the head are the same, whatever the stem and the wording of the blocks."""

        def body(network: Architecture) -> tuple:
            units = [unit for unit in network.units() if unit.stage > 1]
            first = [unit._replace(input_filters=0, expanded=0, se_filters=0) for unit in units[:1]]
            return network.head, [block.expand for block in network.blocks[1:2]], first, units[1:]

        return body(self) == body(other)

    def same_design(self, other: Architecture) -> bool:
        """Whether one is the other at another width and depth, with or without squeeze-and-excite."""
        ours, theirs = (
            [(block.op, block.kernel, block.stride, block.expand, block.pool) for block in each.blocks]
            for each in (self, other)
        )
        return ours == theirs

    def same_network(self, other: Architecture) -> bool:
        """Whether both build the same graph, whatever their names or the wording of their blocks."""
        ours, theirs = ((each.stem, each.stem_stride, each.stem_activation, each.head, each.units()) for each in (self, other))
        return ours == theirs


def _letter(index: int) -> str:
    text = ""
    while index >= 0:
        text = chr(ord("a") + index % 26) + text
        index = index // 26 - 1
    return text


@functools.lru_cache(maxsize=256)
def _units(architecture: Architecture) -> tuple[Unit, ...]:
    units = []
    channels = architecture.stem
    for stage, block in enumerate(architecture.blocks, start=1):
        for repeat in range(block.repeats):
            stride = 1 if repeat else block.stride
            skip = block.skip and channels == block.filters and (repeat > 0 or block.first_skip)
            units.append(
                Unit(
                    name=f"block{stage}{_letter(repeat)}",
                    stage=stage,
                    kernel=block.kernel,
                    stride=stride,
                    input_filters=channels,
                    expanded=channels * block.expand if block.op == "mbconv" else block.filters,
                    filters=block.filters,
                    se_filters=max(1, int(channels * block.se)) if block.se else 0,
                    residual=skip and not block.pool and stride == 1,
                    pooled=skip and block.pool,
                    op=block.op,
                )
            )
            channels = block.filters
    return tuple(units)


@functools.lru_cache(maxsize=128)
def _operations(architecture: Architecture, height: int, width: int, classes: int) -> tuple[Layer, ...]:
    """THE description of an MBConv network: Keras builder, `.tflite` writer, NumPy reference and counters interpret it."""
    maps = {"image": (height, width, 3)}
    rows: list[Layer] = []

    def put(
        op: str, name: str, *inputs: str, filters: int = 0, kernel: int = 1, stride: int = 1, bn: str | None = None,
        relu: bool = False,
    ) -> str:  # fmt: skip
        h, w, given = maps[inputs[0]]
        h, w = (1, 1) if op in ("squeeze", "mean") else (-(-h // stride), -(-w // stride))
        filters = filters or given
        weights = kernel * kernel * given * (1 if op == "depthwise" else filters) if op in WEIGHTED else 0
        params = weights and weights + (2 if bn else 1) * filters
        rows.append(
            Layer(name, op, kernel, stride, given, filters, h, w, bn, params, weights * h * w, inputs, relu, part)
        )  # fmt: skip
        maps[rows[-1].output] = h, w, filters
        return rows[-1].output

    def conv(x: str, name: str, filters: int, kernel: int = 1, stride: int = 1, relu: bool = True, op: str = "conv") -> str:
        return put(op, f"{name}_conv", x, filters=filters, kernel=kernel, stride=stride, bn=f"{name}_bn", relu=relu)

    def gate(x: str, prefix: str, filters: int) -> str:
        y = put("squeeze", f"{prefix}_squeeze", x)
        y = put("conv", f"{prefix}_reduce", y, filters=filters, relu=True)
        y = put("conv", f"{prefix}_expand", y, filters=maps[x][2])
        return put("multiply", f"{prefix}_excite", x, put("sigmoid", f"{prefix}_gate", y))

    part = "stem"
    x = conv("image", "stem", architecture.stem, 3, architecture.stem_stride, relu=architecture.stem_activation == "relu")
    for unit in _units(architecture):
        part, start = unit.name, x
        if unit.op != "mbconv":
            x = conv(x, unit.conv, unit.filters, unit.kernel, unit.stride, relu=unit.op == "conv")
        else:
            if unit.expanded != unit.input_filters:
                x = conv(x, f"{part}_expand", unit.expanded)
            x = conv(x, f"{part}_depthwise", unit.expanded, unit.kernel, unit.stride, op="depthwise")
        if unit.se_filters:
            x = gate(x, f"{part}_se", unit.se_filters)
        if unit.op == "mbconv":
            x = conv(x, f"{part}_project", unit.filters, relu=False)
        if unit.pooled:
            start = put("max_pool", f"{part}_pool", start, kernel=3, stride=unit.stride)
        if unit.residual or unit.pooled:
            x = put("add", f"{part}_add", start, x)
    part = "head"
    x = conv(x, "head", architecture.head)
    if classes:
        part = "top"
        put("dense", "predictions", put("mean", "avg_pool", x), filters=classes)
    return tuple(rows)
