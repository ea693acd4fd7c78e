"""Detections drawn into photos, with Pillow (extra `[detection]`)."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.detection.postprocess import Detections
from keras_mnasnet.weights.files import replaced

__all__ = ["colour", "draw", "write_png"]

GOLDEN = 0.618033988749895
BRIGHT = 0.5


def colour(label: int) -> tuple[int, int, int]:
    """RGB of a class: hues a golden section of the circle apart, so that neighbouring numbers differ."""
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw(pixels: np.ndarray, detections: Detections, labels: Sequence[str]) -> np.ndarray:
    """Boxes with class and score in percent on a photo uint8 `[H, W, 3]`, the best on top: uint8 `[H, W, 3]`."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError(
            "Drawing boxes needs Pillow, which is not installed. Run: pip install 'keras_mnasnet[detection]'"
        ) from error
    image = Image.fromarray(np.ascontiguousarray(pixels, np.uint8), "RGB")
    canvas = ImageDraw.Draw(image)
    width, height = image.size
    line = max(2, round(min(width, height) / 200))
    font = ImageFont.load_default(max(10, round(min(width, height) / 32)))
    for number in reversed(range(len(detections))):
        top, left, bottom, right = np.clip(detections.boxes[number], 0, 1) * (height - 1, width - 1, height - 1, width - 1)
        if bottom <= top or right <= left:
            continue
        shade = colour(int(detections.classes[number]))
        canvas.rectangle((left, top, right, bottom), outline=shade, width=line)
        text = f"{labels[int(detections.classes[number])]} {detections.scores[number]:.0%}"
        _label(canvas, text, (float(left), float(top)), (width, height), shade, font)
    return np.asarray(image)


def _label(
    canvas: Any, text: str, corner: tuple[float, float], size: tuple[int, int], shade: tuple[int, int, int], font: Any
) -> None:
    """The text on a plate above the box's corner, or inside the box where there is no room above; never beyond the photo."""
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(corner[0], 0), max(size[0] - width, 0))
    y = corner[1] - height if corner[1] >= height else min(corner[1], max(size[1] - height, 0))
    canvas.rectangle((x, y, x + width, y + height), fill=shade)
    luminance = (0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2]) / 255
    canvas.text((x + 2 - left, y + 2 - top), text, fill="black" if luminance > BRIGHT else "white", font=font)


def write_png(path: str | os.PathLike[str], pixels: np.ndarray) -> None:
    """Write uint8 `[H, W, 3]` as PNG, whole or not at all."""
    from PIL import Image

    with replaced(Path(path).expanduser()) as temporary:
        Image.fromarray(pixels, "RGB").save(temporary, format="PNG")
