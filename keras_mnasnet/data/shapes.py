"""A generated data set: ten classes of shapes and textures that color, place and single pixels do not give away."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_mnasnet.utils.files import is_empty, write_file

FORMATS = ("png", "jpeg")
CONTRAST = 70.0
NOISE = 14.0


def _polygon(u: np.ndarray, v: np.ndarray, corners: int, inner: float) -> np.ndarray:
    """A star polygon: radius 1 at the corners, `inner` between them; straight edges."""
    sector = math.pi / corners
    angle = np.abs((np.arctan2(v, u) + sector) % (2 * sector) - sector)
    radius = np.hypot(u, v)
    px, py = inner * math.cos(sector), inner * math.sin(sector)
    edge = radius * np.cos(angle) * py + radius * np.sin(angle) * (1 - px)
    return edge < py


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot((u * 3) % 2 - 1, (v * 3) % 2 - 1) < 0.62


FIGURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "checkerboard": lambda u, v: (np.floor(u * 3) + np.floor(v * 3)) % 2 == 0,
    "circle": lambda u, v: np.hypot(u, v) < 0.9,
    "cross": lambda u, v: (np.minimum(np.abs(u), np.abs(v)) < 0.3) & (np.maximum(np.abs(u), np.abs(v)) < 1),
    "dots": _dots,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.75) < 0.22,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.8,
    "star": lambda u, v: _polygon(u, v, 5, 0.42),
    "stripes": lambda u, v: np.sin(u * 3 * math.pi) > 0,
    "triangle": lambda u, v: _polygon(u, v, 3, 0.5),
    "waves": lambda u, v: np.sin((v + 0.22 * np.sin(u * 2 * math.pi)) * 3 * math.pi) > 0,
}
TEXTURES = ("checkerboard", "dots", "stripes", "waves")
SHAPE_CLASSES = tuple(FIGURES)


def draw_shapes(count: int, size: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `[count, size, size, 3]` and labels int32 `[count]` in `SHAPE_CLASSES`, about equally many of each.

    Image `i` depends on `(seed, i, size)` alone. Textures fill an ellipse; every figure has a random place, scale, rotation,
    slight shear, and colors of enough contrast on a noisy gradient.
    """
    if count < 1 or not 16 <= size <= 2048:
        raise ValueError(f"`count` must be 1 or more and `size` 16..2048 pixels. Received: count={count}, size={size}")
    images = np.empty((count, size, size, 3), np.uint8)
    label_ids = np.empty(count, np.int32)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        label_ids[index] = rng.integers(len(SHAPE_CLASSES))
        images[index] = _draw(SHAPE_CLASSES[label_ids[index]], axis, rng)
    return images, label_ids


def _draw(name: str, axis: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    texture = name in TEXTURES
    scale = rng.uniform(0.45, 0.8)
    x, y = rng.uniform(-1, 1, 2) * (0.95 - scale)
    turn, shear = rng.uniform(0, 2 * math.pi), rng.uniform(-0.15, 0.15)
    right, down = (axis - x)[None, :] / scale, (axis - y)[:, None] / scale
    u = (math.cos(turn) * right + math.sin(turn) * down).astype(np.float32)
    v = (math.cos(turn) * down - math.sin(turn) * right + shear * u).astype(np.float32)
    if texture:
        frequency, phase_u, phase_v = rng.uniform((0.85, 0, 0), (1.5, 2, 2))
        mask = FIGURES[name](u * frequency + phase_u, v * frequency + phase_v) & (np.hypot(u, v) < 1.15)
    else:
        mask = FIGURES[name](u, v)
    front, back = _colours(rng)
    slope = rng.uniform(-30, 30, (2, 3)).astype(np.float32)
    pixels = back + slope[0] * axis[None, :, None] + slope[1] * axis[:, None, None]
    pixels = np.where(mask[..., None], front + 0.4 * (pixels - back), pixels)
    pixels += rng.standard_normal(pixels.shape, np.float32) * NOISE
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two colors at least `CONTRAST` apart in luminance."""
    weights = np.array([0.299, 0.587, 0.114])
    while True:
        front, back = rng.uniform(10, 245, (2, 3)).astype(np.float32)
        if abs((front - back) @ weights) >= CONTRAST:
            return front, back


def write_folder(folder: str | os.PathLike[str], count: int, size: int = 64, seed: int = 0, format: str = "png") -> None:
    """Writes `<folder>/<class>/<index>.png` (or `.jpeg`); ValueError where the folder has anything in it."""
    folder = Path(folder).expanduser()
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {FORMATS}. Received: format={format!r}")
    if folder.is_file() or (folder.is_dir() and not is_empty(folder)):
        raise ValueError(f"Images are written to a new or empty folder. Received: {folder}, which is not")
    images, label_ids = draw_shapes(count, size=size, seed=seed)
    for name in SHAPE_CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, (image, label) in enumerate(zip(images, label_ids, strict=True)):
        data = tf.io.encode_png(image) if format == "png" else tf.io.encode_jpeg(image, quality=95)
        write_file(folder / SHAPE_CLASSES[label] / f"{index:06d}.{format}", data.numpy())
