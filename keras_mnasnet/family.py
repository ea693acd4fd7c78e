"""The MnasNet family: seven networks as literals, and what the paper printed about them."""

from __future__ import annotations

import dataclasses
import difflib

from keras_mnasnet.architecture import Architecture, Block

__all__ = [
    "A1",
    "A2",
    "A3",
    "B1",
    "D1",
    "D1_320",
    "FAMILY",
    "PUBLISHED",
    "SMALL",
    "Published",
    "as_architecture",
    "default_size",
]


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
    near = difflib.get_close_matches(name, FAMILY, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"The networks are {', '.join(FAMILY)}. Received: {value!r}.{hint}")
