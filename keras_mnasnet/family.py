"""The MnasNet family: seven networks as literals, what was published about them, and the networks they are compared with."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

from keras_mnasnet.architecture import Architecture, Block


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """Figures as printed: millions of parameters and multiply-adds, top-1/top-5 in %, single-thread Pixel 1 `latency_ms`."""

    source: str
    params_m: float | None = None
    madds_m: float | None = None
    top1: float | None = None
    top5: float | None = None
    latency_ms: float | None = None


def _stages(*texts: str) -> tuple[Block, ...]:
    return tuple(Block.parse(text) for text in texts)


# The margin gives the output size of each stage at the input size on the stem's line.
A1 = Architecture(
    "a1",
    32,  # 224 -> 112
    _stages(
        "r1_k3_s11_e1_i32_o16_noskip",  # 112
        "r2_k3_s22_e6_i16_o24",  # 56
        "r3_k5_s22_e3_i24_o40_se0.25",  # 28
        "r4_k3_s22_e6_i40_o80",  # 14
        "r2_k3_s11_e6_i80_o112_se0.25",  # 14
        "r3_k5_s22_e6_i112_o160_se0.25",  # 7
        "r1_k3_s11_e6_i160_o320",  # 7
    ),
    provenance="published",
)

B1 = Architecture(
    "b1",
    32,  # 224 -> 112
    _stages(
        "r1_k3_s11_e1_i32_o16_noskip",  # 112
        "r3_k3_s22_e3_i16_o24",  # 56
        "r3_k5_s22_e3_i24_o40",  # 28
        "r3_k5_s22_e6_i40_o80",  # 14
        "r2_k3_s11_e6_i80_o96",  # 14
        "r4_k5_s22_e6_i96_o192",  # 7
        "r1_k3_s11_e6_i192_o320_noskip",  # 7
    ),
    provenance="published",
)

SMALL = Architecture(
    "small",
    8,  # 224 -> 112
    _stages(
        "r1_k3_s11_e1_i8_o8_nofirstskip",  # 112; Google writes i16 after its stem of 8, which only says "no residual"
        "r1_k3_s22_e3_i8_o16",  # 56
        "r2_k3_s22_e6_i16_o16",  # 28
        "r4_k5_s22_e6_i16_o32_se0.25",  # 14
        "r3_k3_s11_e6_i32_o32_se0.25",  # 14
        "r3_k5_s22_e6_i32_o88_se0.25",  # 7
        "r1_k3_s11_e6_i88_o144",  # 7
    ),
    provenance="published",
)

D1 = Architecture(
    "d1",
    32,  # 224 -> 112
    _stages(
        "r1_k3_s11_e9_i32_o24",  # 112
        "r3_k3_s22_e9_i24_o36",  # 56
        "r5_k3_s22_e9_i36_o48",  # 28
        "r4_k5_s22_e9_i48_o96",  # 14
        "r5_k7_s11_e3_i96_o96",  # 14
        "r3_k3_s22_e9_i96_o80",  # 7
        "r1_k7_s11_e6_i80_o320_noskip",  # 7
    ),
    provenance="published",
)

D1_320 = Architecture(
    "d1-320",
    32,  # 320 -> 160
    _stages(
        "r3_k5_s11_e6_i32_o24",  # 160
        "r4_k7_s22_e9_i24_o36",  # 80
        "r5_k5_s22_e9_i36_o48",  # 40
        "r5_k7_s22_e6_i48_o96",  # 20
        "r5_k3_s11_e9_i96_o144",  # 20
        "r5_k5_s22_e6_i144_o160",  # 10
        "r1_k7_s11_e9_i160_o320",  # 10
    ),
    provenance="published",
)

# The layouts of A2 and A3 were never published. These two are made by search/run_reconstruct_a2_a3.py, which states the rule.
A2 = Architecture(
    "a2",
    32,  # 224 -> 112
    _stages(
        "r1_k3_s11_e1_i32_o16_noskip",  # 112
        "r2_k3_s22_e6_i16_o24",  # 56
        "r2_k5_s22_e6_i24_o40_se0.25",  # 28
        "r4_k3_s22_e6_i40_o80",  # 14
        "r2_k3_s11_e3_i80_o112_se0.25",  # 14
        "r4_k5_s22_e6_i112_o192_se0.25",  # 7
        "r1_k3_s11_e6_i192_o320",  # 7
    ),
    provenance="reconstructed",
)

A3 = Architecture(
    "a3",
    32,  # 224 -> 112
    _stages(
        "r1_k3_s11_e1_i32_o16_noskip",  # 112
        "r2_k5_s22_e6_i16_o24",  # 56
        "r4_k3_s22_e3_i24_o40_se0.25",  # 28
        "r4_k3_s22_e6_i40_o80",  # 14
        "r3_k3_s11_e6_i80_o112_se0.25",  # 14
        "r4_k5_s22_e6_i112_o192_se0.25",  # 7
        "r1_k3_s11_e6_i192_o320",  # 7
    ),
    provenance="reconstructed",
)

FAMILY = {network.name: network for network in (A1, A2, A3, B1, SMALL, D1, D1_320)}

_TABLE_1 = "MnasNet paper (arXiv 1807.11626v3), table 1"
PUBLISHED = {
    "a1": Published(_TABLE_1, 3.9, 312, 75.2, 92.5, 78),
    "a2": Published(_TABLE_1, 4.8, 340, 75.6, 92.7, 84),
    "a3": Published(_TABLE_1, 5.2, 403, 76.7, 93.3, 103),
    "b1": Published("MnasNet paper (arXiv 1807.11626v3), table 2", 4.4, 315, 74.5, 92.1, 77),
    "small": Published("MnasNet paper (arXiv 1807.11626v3), table 4, MnasNet-search2", 2.0, 68, 66.0, None, 23.2),
    "d1": Published("no figures published"),
    "d1-320": Published("no figures published"),
}


# Google's table of A1, as printed beside the released checkpoints.
A1_SOURCE = "tensorflow/tpu models/official/mnasnet/README.md at 7dc921f"


class A1Row(NamedTuple):
    """A1 at one width and input size: millions of parameters and multiply-adds, top-1/top-5 in %, single-thread Pixel 1 ms."""

    width: float
    resolution: int
    params_m: float
    madds_m: float
    top1: float
    top5: float
    latency_ms: float


# Width 0.35 at 160 px has two top-1 values there, 52.3 and 59.3; the second fits its neighbors and its top-5.
# The 17 ms of width 0.75 at 96 px is printed so, between 18 ms of width 1.0 and 7.4 ms of 0.5.
A1_ROWS = (
    A1Row(1.4, 224, 6.1, 591.5, 77.2, 93.5, 135),
    A1Row(1.0, 224, 3.9, 315.2, 75.2, 92.5, 78),
    A1Row(0.75, 224, 2.9, 226.7, 73.3, 91.3, 61),
    A1Row(0.5, 224, 2.1, 105.2, 68.9, 88.4, 32),
    A1Row(0.35, 224, 1.7, 63.2, 64.1, 85.1, 22),
    A1Row(1.4, 192, 6.1, 435.1, 76.1, 93.0, 99),
    A1Row(1.0, 192, 3.9, 232.0, 74.0, 91.6, 57),
    A1Row(0.75, 192, 2.9, 166.9, 72.1, 90.5, 45),
    A1Row(0.5, 192, 2.1, 77.6, 67.2, 87.4, 24),
    A1Row(0.35, 192, 1.7, 46.8, 62.4, 83.8, 17),
    A1Row(1.4, 160, 6.1, 302.8, 74.8, 92.1, 72),
    A1Row(1.0, 160, 3.9, 161.6, 72.0, 90.5, 41),
    A1Row(0.75, 160, 2.9, 116.4, 70.1, 89.3, 33),
    A1Row(0.5, 160, 2.1, 54.4, 64.9, 85.8, 18),
    A1Row(0.35, 160, 1.7, 32.9, 59.3, 81.5, 13),
    A1Row(1.4, 128, 6.1, 194.5, 72.5, 90.6, 49),
    A1Row(1.0, 128, 3.9, 104.1, 69.3, 88.9, 29),
    A1Row(0.75, 128, 2.9, 75.0, 67.0, 87.3, 23),
    A1Row(0.5, 128, 2.1, 35.3, 60.8, 83.0, 12),
    A1Row(0.35, 128, 1.7, 21.6, 54.8, 78.1, 8.5),
    A1Row(1.4, 96, 6.1, 110.3, 68.6, 88.1, 32),
    A1Row(1.0, 96, 3.9, 59.3, 64.4, 85.8, 18),
    A1Row(0.75, 96, 2.9, 42.9, 62.1, 84.0, 17),
    A1Row(0.5, 96, 2.1, 20.5, 54.7, 78.1, 7.4),
    A1Row(0.35, 96, 1.7, 12.7, 49.3, 73.4, 5.4),
)

# Other networks whose latency on a Pixel 1 was printed (one thread of a big core, batch 1, float32): landmarks of the search.
MOBILENET_V2 = Architecture(
    "mobilenet-v2",
    32,  # 224 -> 112
    _stages(
        "r1_k3_s11_e1_i32_o16_noskip",  # 112
        "r2_k3_s22_e6_i16_o24",  # 56
        "r3_k3_s22_e6_i24_o32",  # 28
        "r4_k3_s22_e6_i32_o64",  # 14
        "r3_k3_s11_e6_i64_o96",  # 14
        "r3_k3_s22_e6_i96_o160",  # 7
        "r1_k3_s11_e6_i160_o320",  # 7
    ),
    provenance="published",
)


@dataclasses.dataclass(frozen=True, slots=True)
class PublishedLatency:
    """A network at an input size, and what was printed for it: `latency_ms` on a Pixel 1, ImageNet `top1` in %."""

    name: str
    architecture: Architecture
    resolution: int
    latency_ms: float
    top1: float | None = None


def uniform_variant(expand: int, kernel: int) -> Architecture:
    """A1 with every stage an MBConv of one expansion and kernel, without squeeze-and-excite (paper, table 6).

    The first stage is replaced too: with A1's separable convolution kept, the printed latencies do not fit.
    """
    blocks = tuple(dataclasses.replace(block, expand=expand, kernel=kernel, se=0.0) for block in A1.blocks)
    return dataclasses.replace(A1, name=f"mb{expand}-k{kernel}", blocks=blocks, provenance="published")


@functools.cache
def a1_latencies() -> tuple[PublishedLatency, ...]:
    """Google's table of A1: five widths at five input sizes."""
    return tuple(
        PublishedLatency(f"a1-{row.width:g}", A1.scaled(row.width), row.resolution, row.latency_ms, row.top1) for row in A1_ROWS
    )


@functools.cache
def other_latencies() -> tuple[PublishedLatency, ...]:
    """The paper's other networks (tables 1, 2, 4 and 6). MobileNetV2's head grows with its width above 1."""
    return (
        PublishedLatency("b1", B1, 224, 77, 74.5),
        PublishedLatency("mobilenet-v2", MOBILENET_V2, 224, 75, 72.0),
        PublishedLatency("mobilenet-v2-1.4", dataclasses.replace(MOBILENET_V2.scaled(1.4), head=1792), 224, 143, 74.7),
        PublishedLatency("mobilenet-v2-0.35", MOBILENET_V2.scaled(0.35), 224, 21.4, 60.3),
        PublishedLatency("small", SMALL, 224, 23.2, 66.0),
        PublishedLatency("mb3-k3", uniform_variant(3, 3), 224, 63, 71.8),
        PublishedLatency("mb3-k5", uniform_variant(3, 5), 224, 78, 72.5),
        PublishedLatency("mb6-k3", uniform_variant(6, 3), 224, 116, 74.9),
        PublishedLatency("mb6-k5", uniform_variant(6, 5), 224, 146, 75.6),
    )


def default_size(architecture: Architecture) -> int:
    """The input size in pixels that a network was made for: 320 for D1-320, 224 for the others."""
    return 320 if architecture.name.startswith("d1-320") else 224


def as_architecture(value: Architecture | str) -> Architecture:
    """An Architecture from itself, a family name (`a1`, `MnasNet-A1`) or its text form; anything else raises ValueError."""
    if isinstance(value, Architecture):
        return value
    if not isinstance(value, str):
        raise ValueError(
            f"A network is given as an Architecture, a family name or its text form. "
            f"Received: {value!r} of type {type(value).__name__}"
        )
    if "_k" in value or "stem" in value:
        return Architecture.parse(value)
    name = value.strip().lower().removeprefix("mnasnet").lstrip("-_").replace("_", "-")
    if name in FAMILY:
        return FAMILY[name]
    import difflib

    near = difflib.get_close_matches(name, FAMILY, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"The networks are {', '.join(FAMILY)}. Received: {value!r}.{hint}")
