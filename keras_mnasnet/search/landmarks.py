"""Networks whose latency on a Pixel 1 was printed (one thread of a big core, batch 1, float32), with their accuracy."""

from __future__ import annotations

import dataclasses

from keras_mnasnet.architecture import Architecture, Block
from keras_mnasnet.family import A1, B1, SMALL
from keras_mnasnet.published import A1_ROWS

__all__ = ["A1_TABLE", "MOBILENET_V2", "OTHERS", "PublishedLatency", "uniform_variant"]


@dataclasses.dataclass(frozen=True, slots=True)
class PublishedLatency:
    """A network at an input size, and what was printed for it: `latency_ms` on a Pixel 1, ImageNet `top1` in %."""

    name: str
    architecture: Architecture
    resolution: int
    latency_ms: float
    top1: float | None = None


def _stages(*texts: str) -> tuple[Block, ...]:
    return tuple(Block.parse(text) for text in texts)


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


def uniform_variant(expand: int, kernel: int) -> Architecture:
    """A1 with every stage an MBConv of one expansion and kernel, without squeeze-and-excite (paper, table 6).

    The first stage is replaced too: with A1's separable convolution kept, the printed latencies do not fit.
    """
    blocks = tuple(dataclasses.replace(block, expand=expand, kernel=kernel, se=0.0) for block in A1.blocks)
    return dataclasses.replace(A1, name=f"mb{expand}-k{kernel}", blocks=blocks, provenance="published")


A1_TABLE = tuple(
    PublishedLatency(f"a1-{row.width:g}", A1.scaled(row.width), row.resolution, row.latency_ms, row.top1) for row in A1_ROWS
)

# Paper, tables 1, 2, 4 and 6. MobileNetV2's head grows with its width above 1.
OTHERS = (
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
