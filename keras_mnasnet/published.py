"""Google's table of A1 at five widths and five input sizes, as printed beside the released checkpoints."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["A1_ROWS", "SOURCE", "Row"]

SOURCE = "tensorflow/tpu models/official/mnasnet/README.md at 7dc921f"


class Row(NamedTuple):
    """A1 at one width and input size: millions of parameters and multiply-adds, top-1/top-5 in %, single-thread Pixel 1 ms."""

    width: float
    resolution: int
    params_m: float
    madds_m: float
    top1: float
    top5: float
    latency_ms: float


# Width 0.35 at 160 px has two top-1 values there, 52.3 and 59.3; the second fits its neighbours and its top-5.
# The 17 ms of width 0.75 at 96 px is printed so, between 18 ms of width 1.0 and 7.4 ms of 0.5.
A1_ROWS = (
    Row(1.4, 224, 6.1, 591.5, 77.2, 93.5, 135),
    Row(1, 224, 3.9, 315.2, 75.2, 92.5, 78),
    Row(0.75, 224, 2.9, 226.7, 73.3, 91.3, 61),
    Row(0.5, 224, 2.1, 105.2, 68.9, 88.4, 32),
    Row(0.35, 224, 1.7, 63.2, 64.1, 85.1, 22),
    Row(1.4, 192, 6.1, 435.1, 76.1, 93.0, 99),
    Row(1, 192, 3.9, 232.0, 74.0, 91.6, 57),
    Row(0.75, 192, 2.9, 166.9, 72.1, 90.5, 45),
    Row(0.5, 192, 2.1, 77.6, 67.2, 87.4, 24),
    Row(0.35, 192, 1.7, 46.8, 62.4, 83.8, 17),
    Row(1.4, 160, 6.1, 302.8, 74.8, 92.1, 72),
    Row(1, 160, 3.9, 161.6, 72.0, 90.5, 41),
    Row(0.75, 160, 2.9, 116.4, 70.1, 89.3, 33),
    Row(0.5, 160, 2.1, 54.4, 64.9, 85.8, 18),
    Row(0.35, 160, 1.7, 32.9, 59.3, 81.5, 13),
    Row(1.4, 128, 6.1, 194.5, 72.5, 90.6, 49),
    Row(1, 128, 3.9, 104.1, 69.3, 88.9, 29),
    Row(0.75, 128, 2.9, 75.0, 67.0, 87.3, 23),
    Row(0.5, 128, 2.1, 35.3, 60.8, 83.0, 12),
    Row(0.35, 128, 1.7, 21.6, 54.8, 78.1, 8.5),
    Row(1.4, 96, 6.1, 110.3, 68.6, 88.1, 32),
    Row(1, 96, 3.9, 59.3, 64.4, 85.8, 18),
    Row(0.75, 96, 2.9, 42.9, 62.1, 84.0, 17),
    Row(0.5, 96, 2.1, 20.5, 54.7, 78.1, 7.4),
    Row(0.35, 96, 1.7, 12.7, 49.3, 73.4, 5.4),
)
