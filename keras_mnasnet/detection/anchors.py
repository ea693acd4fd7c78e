"""Anchors of SSDLite, as the TensorFlow Object Detection API lays them out."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

__all__ = ["AnchorSettings", "anchor_boxes", "map_sizes", "shapes_per_level"]


@dataclasses.dataclass(frozen=True, slots=True)
class AnchorSettings:
    """Anchor shapes of every level: scales from `min_scale` to `max_scale` in equal steps, each with `aspect_ratios`.

    A level has one more square of the geometric mean of its scale and the next (the last level's next is 1). With
    `reduced_first` the first level has three anchors only: a square of 0.1, and ratios 2 and 1/2 of its scale. Defaults:
    samples/configs/ssdlite_mobilenet_v2_coco.config; `variance` (y, x, h, w) is the inverse of its coder's 10, 10, 5, 5.
    """

    levels: int = 6
    min_scale: float = 0.2
    max_scale: float = 0.95
    aspect_ratios: tuple[float, ...] = (1.0, 2.0, 0.5, 3.0, 0.3333)
    reduced_first: bool = True
    variance: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)

    def __post_init__(self) -> None:
        for name in ("aspect_ratios", "variance"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        if self.levels < 2 or not 0 < self.min_scale < self.max_scale <= 1:
            raise ValueError(
                f"Anchors need at least 2 levels and scales with 0 < min_scale < max_scale <= 1. "
                f"Received: levels={self.levels}, min_scale={self.min_scale}, max_scale={self.max_scale}"
            )
        if not self.aspect_ratios or min(self.aspect_ratios) <= 0 or len(self.variance) != 4 or min(self.variance) <= 0:
            raise ValueError(
                f"`aspect_ratios` must be positive, and `variance` four positive numbers. "
                f"Received: aspect_ratios={self.aspect_ratios}, variance={self.variance}"
            )


def shapes_per_level(settings: AnchorSettings) -> tuple[tuple[tuple[float, float], ...], ...]:
    """((h, w), ...) of every level's anchors in one cell, as fractions of the image: h = s / sqrt(ar), w = s * sqrt(ar)."""
    step = (settings.max_scale - settings.min_scale) / (settings.levels - 1)
    scales = [settings.min_scale + step * level for level in range(settings.levels)] + [1.0]
    levels = []
    for level, scale in enumerate(scales[:-1]):
        if level == 0 and settings.reduced_first:
            chosen = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        else:
            chosen = [(scale, ratio) for ratio in settings.aspect_ratios] + [(math.sqrt(scale * scales[level + 1]), 1.0)]
        levels.append(tuple((s / math.sqrt(ratio), s * math.sqrt(ratio)) for s, ratio in chosen))
    return tuple(levels)


def map_sizes(size: int, levels: int = 6) -> tuple[int, ...]:
    """Height (and width) of every level's map at an input of `size` pixels: stride 16, then halves, rounded up."""
    sizes = [-(-size // 16)]
    while len(sizes) < levels:
        sizes.append(-(-sizes[-1] // 2))
    return tuple(sizes)


def anchor_boxes(size: int = 320, settings: AnchorSettings | None = None) -> np.ndarray:
    """Anchors float32 `[N, 4]` (y centre, x centre, h, w) as fractions of the image, not clipped to it.

    Order: level, row, column, shape; a cell's centre is ((row + 0.5) / map size, (column + 0.5) / map size). 2,034 at 320
    pixels, 1,917 at 300. Source: object_detection anchor_generators/multiple_grid_anchor_generator.py.
    """
    settings = settings or AnchorSettings()
    parts = []
    for side, shapes in zip(map_sizes(size, settings.levels), shapes_per_level(settings), strict=True):
        centres = (np.arange(side) + 0.5) / side
        grid = np.empty((side, side, len(shapes), 4))
        grid[..., 0] = centres[:, None, None]
        grid[..., 1] = centres[None, :, None]
        grid[..., 2:] = shapes
        parts.append(grid.reshape(-1, 4))
    return np.concatenate(parts).astype(np.float32)
