"""Search spaces of networks: the paper's, Vertex AI's, the published networks', one cell, NAS-Bench-Macro's."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from keras_mnasnet.architecture import Architecture, Block, round_filters
from keras_mnasnet.search.space import Candidate, Decision, Scalar, SearchSpace

if TYPE_CHECKING:
    from keras_mnasnet.search.latency import LatencyModel

STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the seven stages
V2_REPEATS = (1, 2, 3, 4, 3, 3, 1)  # MobileNetV2's
V2_FILTERS = (16, 24, 32, 64, 96, 160, 320)
A1_REPEATS = (1, 2, 3, 4, 2, 3, 1)
A1_FILTERS = (16, 24, 40, 80, 112, 160, 320)
SEARCHED = range(2, 7)  # stages whose decisions are open; the first and the last are A1's
RATIOS = (0.75, 1.0, 1.25)
STEM, HEAD = 32, 1280
# `mbconv`: the multiples of MobileNetV2's filters, rounded to 8, and those of A1 and B1
MBCONV_FILTERS = {2: (16, 24, 32), 3: (24, 32, 40), 4: (48, 64, 80), 5: (72, 96, 112, 120), 6: (120, 160, 192, 200)}
FIRST: dict[str, Scalar] = {"op": "dconv", "kernel": 3, "se": 0.0, "skip": "none", "filters": 16, "repeats": 1}
LAST: dict[str, Scalar] = {"op": "mbconv6", "kernel": 3, "se": 0.0, "skip": "none", "filters": 320, "repeats": 1}
OPS = {"conv": ("conv", 1), "dconv": ("mbconv", 1), "mbconv3": ("mbconv", 3), "mbconv6": ("mbconv", 6)}
MACRO_STAGES = (2, 3, 3)
MACRO_CHOICES = ("identity", "mb3_k3", "mb6_k5")

Values = Mapping[str, Scalar]


@dataclasses.dataclass(frozen=True)
class Templates:
    """How a candidate becomes a network of seven stages, and what of it is without effect.

    Decisions are named `block<stage>.<what>`, or `cell.<what>` where all searched stages share them. What is not decided
    comes from `fixed`. A cell's filters and repeats are relative to MobileNetV2's.
    """

    name: str
    decisions: tuple[Decision, ...]
    fixed: Mapping[int, Values]
    width: float | None = None
    stem_stride: int = 2

    def stages(self, candidate: Candidate) -> list[dict[str, Any]]:
        """What each stage is made of."""
        values: dict[str, dict[str, Any]] = {}
        for decision, index in zip(self.decisions, candidate, strict=True):
            where, _, what = decision.name.partition(".")
            values.setdefault(where, {})[what] = decision.choices[index]
        found = []
        for stage in range(1, 8):
            merged = {**self.fixed.get(stage, {}), **values.get(f"block{stage}", {})}
            if stage in SEARCHED and "cell" in values:
                merged.update(values["cell"])
                merged["filters"] = round_filters(int(V2_FILTERS[stage - 1] * merged["filters"]), self.width)
                merged["repeats"] += V2_REPEATS[stage - 1]
            found.append(merged)
        return found

    def build(self, candidate: Candidate) -> Architecture:
        """The network of a candidate, named after the space and the canonical candidate."""
        stages = self.stages(candidate)
        blocks = []
        previous = stem = round_filters(STEM, self.width)
        for stride, stage in zip(STRIDES, stages, strict=True):
            op, expand = OPS.get(stage["op"]) or ("mbconv", stage["expand"])
            blocks.append(
                Block(
                    repeats=stage["repeats"], kernel=stage["kernel"], stride=stride, expand=expand, input_filters=previous,
                    filters=stage["filters"], se=stage["se"], skip=stage["skip"] != "none", pool=stage["skip"] == "pool", op=op,
                )
            )  # fmt: skip
            previous = stage["filters"]
        name = f"{self.name}-{_digest(self._canonical(candidate, stages))}"
        return Architecture(name, stem, tuple(blocks), HEAD, "custom", self.stem_stride)

    def canonical(self, candidate: Candidate) -> Candidate:
        """The candidate with skips that are nowhere possible set to `none`, and the expansion of a `conv` to the first."""
        return self._canonical(candidate, self.stages(candidate))

    def _canonical(self, candidate: Candidate, stages: list[dict[str, Any]]) -> Candidate:
        found = list(candidate)
        previous = round_filters(STEM, self.width)
        dead_skips: dict[int, bool] = {}
        for number, (stride, stage) in enumerate(zip(STRIDES, stages, strict=True), start=1):
            possible = stage["repeats"] > 1 or (previous == stage["filters"] and (stride == 1 or stage["skip"] == "pool"))
            previous = stage["filters"]
            skip, expand = self._place(number, "skip"), self._place(number, "expand")
            if skip is not None:
                dead_skips[skip] = dead_skips.get(skip, True) and not possible
            if expand is not None and stage["op"] == "conv":
                found[expand] = 0
        for place, dead in dead_skips.items():
            if dead:
                found[place] = self.decisions[place].choices.index("none")
        return tuple(found)

    def _place(self, stage: int, what: str) -> int | None:
        """Which decision decides `what` of a stage."""
        own = self._places.get(f"block{stage}.{what}")
        return self._places.get(f"cell.{what}") if own is None and stage in SEARCHED else own

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {decision.name: place for place, decision in enumerate(self.decisions)}


@dataclasses.dataclass(frozen=True, slots=True)
class NetworkCost:
    """A candidate's cost: the `latency_ms` of its network by a model that needs no device, such as `pixel1`."""

    build: Callable[[Candidate], Architecture]
    model: LatencyModel
    resolution: int
    classes: int

    def __call__(self, candidate: Candidate) -> float:
        return self.model.latency_ms(self.build(candidate), self.resolution, self.classes).latency_ms


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """A constraint: parameters, multiply-adds and cost of a candidate's network stay within what is stated.

    `also` is the constraint that the space had before.
    """

    build: Callable[[Candidate], Architecture]
    cost: Callable[[Candidate], float] | None
    max_params: int | None
    max_madds: int | None
    max_cost: float | None
    resolution: int
    classes: int
    also: Callable[[Candidate], bool] | None = None

    def __call__(self, candidate: Candidate) -> bool:
        return (self.also is None or self.also(candidate)) and max(self._own(candidate)) <= 1

    def usage(self, candidate: Candidate) -> tuple[float, ...]:
        """What is bounded, each as a share of its limit, with that of the constraint before where it has shares too."""
        before = getattr(self.also, "usage", None)
        return (*self._own(candidate), *(before(candidate) if before else ()))

    def _own(self, candidate: Candidate) -> tuple[float, ...]:
        found = []
        if self.max_cost is not None and self.cost is not None:
            found.append(self.cost(candidate) / self.max_cost)
        network, side = self.build(candidate), self.resolution
        if self.max_params is not None:
            found.append(network.params(classes=self.classes) / self.max_params)
        if self.max_madds is not None:
            found.append(network.madds(side, side, classes=self.classes) / self.max_madds)
        return tuple(found)


def with_cost(space: SearchSpace, model: LatencyModel, *, resolution: int, classes: int) -> SearchSpace:
    """The space with a cost known without training. The model must give the latency that the study's trials will have."""
    return dataclasses.replace(space, cost=NetworkCost(_builder(space), model, resolution, classes))


def constrained(
    space: SearchSpace, *, max_params: int | None = None, max_madds: int | None = None, max_latency_ms: float | None = None,
    resolution: int = 224, classes: int = 1000,
) -> SearchSpace:  # fmt: skip
    """The space of the networks within limits, and within those it had; a latency limit needs a space with a cost."""
    limits = {"max_params": max_params, "max_madds": max_madds, "max_latency_ms": max_latency_ms}
    stated = {name: limit for name, limit in limits.items() if limit is not None}
    for name, limit in stated.items():
        if not limit > 0:
            raise ValueError(f"`{name}` must be above 0. Received: {name}={limit!r}")
    if not stated:
        return space
    if max_latency_ms is not None and space.cost is None:
        raise ValueError(
            f"A limit on latency needs a space whose cost is known without training. "
            f"Received: max_latency_ms={max_latency_ms!r} for {space.name!r} without a cost. Use with_cost."
        )
    allowed = Limits(_builder(space), space.cost, max_params, max_madds, max_latency_ms, resolution, classes, space.allowed)
    options = {**space.options, **stated, "resolution": resolution, "classes": classes}
    return dataclasses.replace(space, allowed=allowed, options=options)


def space(name: str, **options: Any) -> SearchSpace:
    """The preset `paper`, `vertex`, `mbconv`, `cell` or `macro`; unknown names and options raise ValueError.

    All but `macro` take `width` (a width multiplier, as `Architecture.scaled`) and `stem_stride` (1 for small photos);
    `vertex` takes `reference`, `mobilenet_v2` or `mnasnet_a1`.
    """
    if name not in PRESETS:
        raise ValueError(f"The search spaces are {', '.join(PRESETS)}. Received: space={name!r}")
    known = list(inspect.signature(PRESETS[name]).parameters)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"The options of the space {name!r} are {known}. Received: {unknown}")
    width, stem_stride = options.get("width"), options.get("stem_stride", 2)
    if width is not None and not (isinstance(width, (int, float)) and not isinstance(width, bool) and 0 < width <= 10):
        raise ValueError(f"`width` must be a number above 0 (at most 10) or None. Received: width={width!r}")
    if stem_stride not in (1, 2):
        raise ValueError(f"`stem_stride` must be 1 or 2. Received: stem_stride={stem_stride!r}")
    made = PRESETS[name](**options)
    return dataclasses.replace(made, options=options)


def paper(*, width: float | None = None, stem_stride: int = 2) -> SearchSpace:
    """Paper, section 4.1: 432 choices per block, five blocks between A1's first and last, 1.5e13 networks."""
    decisions = []
    for stage in SEARCHED:
        filters, repeats = V2_FILTERS[stage - 1], V2_REPEATS[stage - 1]
        decisions += [
            Decision(f"block{stage}.op", tuple(OPS)),
            Decision(f"block{stage}.kernel", (3, 5)),
            Decision(f"block{stage}.se", (0.0, 0.25)),
            Decision(f"block{stage}.skip", ("none", "identity", "pool")),
            Decision(f"block{stage}.filters", _widths((int(filters * ratio) for ratio in RATIOS), width)),
            Decision(f"block{stage}.repeats", (repeats - 1, repeats, repeats + 1)),
        ]
    return _of_templates("paper", decisions, _ends(width), width, stem_stride)


def vertex(*, reference: str = "mobilenet_v2", width: float | None = None, stem_stride: int = 2) -> SearchSpace:
    """Google's re-implementation (google/vertex-ai-nas, tunable_mnasnet_search_space.py): seven blocks, 9.7e15 candidates."""
    references = {"mobilenet_v2": (V2_REPEATS, V2_FILTERS), "mnasnet_a1": (A1_REPEATS, A1_FILTERS)}
    if not isinstance(reference, str) or reference not in references:
        raise ValueError(f"`reference` must be one of {tuple(references)}. Received: reference={reference!r}")
    decisions = []
    for stage, (repeats, filters) in enumerate(zip(*references[reference], strict=True), start=1):
        decisions += [
            Decision(f"block{stage}.op", ("conv", "mbconv")),
            Decision(f"block{stage}.expand", (1, 3, 6)),
            Decision(f"block{stage}.kernel", (3, 5)),
            Decision(f"block{stage}.se", (0.0, 0.25)),
            Decision(f"block{stage}.filters", _widths((int(filters * ratio) for ratio in RATIOS), width)),
            Decision(f"block{stage}.repeats", (1, 2) if repeats == 1 else (repeats - 1, repeats, repeats + 1)),
        ]
    return _of_templates("vertex", decisions, {stage: {"skip": "identity"} for stage in range(1, 8)}, width, stem_stride)


def mbconv(*, width: float | None = None, stem_stride: int = 2) -> SearchSpace:
    """The published networks' part of the paper's space; A1, B1, A2 and A3 are members."""
    decisions = []
    for stage in SEARCHED:
        repeats = V2_REPEATS[stage - 1]
        decisions += [
            Decision(f"block{stage}.expand", (3, 6)),
            Decision(f"block{stage}.kernel", (3, 5)),
            Decision(f"block{stage}.se", (0.0, 0.25)),
            Decision(f"block{stage}.filters", _widths(MBCONV_FILTERS[stage], width)),
            Decision(f"block{stage}.repeats", (repeats - 1, repeats, repeats + 1)),
        ]
    fixed = _ends(width) | {stage: {"op": "mbconv", "skip": "identity"} for stage in SEARCHED}
    return _of_templates("mbconv", decisions, fixed, width, stem_stride)


def cell(*, width: float | None = None, stem_stride: int = 2) -> SearchSpace:
    """One choice of 432 for all five searched blocks (paper, section 7.2: what the factorized space is compared with)."""
    decisions = [
        Decision("cell.op", tuple(OPS)),
        Decision("cell.kernel", (3, 5)),
        Decision("cell.se", (0.0, 0.25)),
        Decision("cell.skip", ("none", "identity", "pool")),
        Decision("cell.filters", _ratios(width)),
        Decision("cell.repeats", (-1, 0, 1)),
    ]
    return _of_templates("cell", decisions, _ends(width), width, stem_stride)


def macro() -> SearchSpace:
    """NAS-Bench-Macro (Su et al., 2021): eight layers for 32 px photos, 6,561 candidates, 3,969 networks."""
    decisions = tuple(Decision(f"layer{number}", MACRO_CHOICES) for number in range(1, sum(MACRO_STAGES) + 1))
    return SearchSpace("macro", decisions, canonical_of=macro_canonical, build=macro_network)


PRESETS: dict[str, Callable[..., SearchSpace]] = {
    "paper": paper, "vertex": vertex, "mbconv": mbconv, "cell": cell, "macro": macro,
}  # fmt: skip


def macro_canonical(candidate: Candidate) -> Candidate:
    """Layers that do nothing come last in their stage; a stage's first layer always does something."""
    found: list[int] = []
    for first, *rest in _macro_stages(candidate):
        working = [choice for choice in rest if choice]
        found += [first, *working, *[0] * (len(rest) - len(working))]
    return tuple(found)


def macro_network(candidate: Candidate) -> Architecture:
    """NAS-Bench-Macro's network: a stage doubles the channels and halves the map; `identity` is then a 1x1 convolution."""
    blocks: list[Block] = []
    filters = STEM
    for stage in _macro_stages(macro_canonical(candidate)):
        for position, choice in enumerate(stage):
            stride, given = (1, filters) if position else (2, filters)
            filters = given if position else 2 * given
            if choice:
                expand, kernel = ((3, 3), (6, 5))[choice - 1]
                blocks.append(Block(1, kernel, stride, expand, given, filters))
            elif not position:
                blocks.append(Block(1, 1, stride, 1, given, filters, skip=False, op="linear"))
    return Architecture("macro-" + "".join(map(str, macro_canonical(candidate))), STEM, tuple(blocks), HEAD, "custom", 1)


def _macro_stages(candidate: Candidate) -> list[Candidate]:
    ends = list(itertools.accumulate(MACRO_STAGES))
    return [candidate[end - length : end] for end, length in zip(ends, MACRO_STAGES, strict=True)]


def _of_templates(
    name: str, decisions: list[Decision], fixed: Mapping[int, Values], width: float | None, stem_stride: int
) -> SearchSpace:
    templates = Templates(name, tuple(decisions), fixed, width, stem_stride)
    return SearchSpace(name, tuple(decisions), canonical_of=templates.canonical, build=templates.build)


def _ends(width: float | None) -> dict[int, Values]:
    """The first and the last stage, which are not searched: A1's."""
    return {1: {**FIRST, "filters": round_filters(16, width)}, 7: {**LAST, "filters": round_filters(320, width)}}


def _widths(filters: Iterable[int], width: float | None) -> tuple[int, ...]:
    return tuple(sorted({round_filters(each, width) for each in filters}))


def _ratios(width: float | None) -> tuple[float, ...]:
    """The ratios without those that round to the same filters, in every searched stage, as one before."""
    found: dict[tuple[int, ...], float] = {}
    for ratio in RATIOS:
        found.setdefault(tuple(round_filters(int(V2_FILTERS[stage - 1] * ratio), width) for stage in SEARCHED), ratio)
    return tuple(found.values())


def _digest(candidate: Candidate) -> str:
    return hashlib.sha256(str(candidate).encode()).hexdigest()[:8]


def _builder(space: SearchSpace) -> Callable[[Candidate], Architecture]:
    if space.build is None:
        raise ValueError(f"The space must be one of networks. Received: {space.name!r}, which builds none")
    return space.build
