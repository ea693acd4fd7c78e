"""Detections drawn into photos, with Pillow."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_mnasnet.detection.postprocess import Detections
from keras_mnasnet.utils.files import replaced

GOLDEN = 0.618033988749895
BRIGHT = 0.5
Plate = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def color(label: int) -> tuple[int, int, int]:
    """RGB of a class: hues a golden section of the circle apart, so that neighboring numbers differ."""
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw(pixels: np.ndarray, detections: Detections, labels: Sequence[str]) -> np.ndarray:
    """Boxes with class and score in percent on a photo uint8 `[H, W, 3]`, the best frame on top: uint8 `[H, W, 3]`."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(np.ascontiguousarray(pixels, np.uint8), "RGB")
    canvas = ImageDraw.Draw(image)
    width, height = image.size
    line = max(2, round(min(width, height) / 200))
    font = ImageFont.load_default(max(10, round(min(width, height) / 32)))
    sides = (height - 1, width - 1, height - 1, width - 1)
    boxes = [tuple(map(float, np.clip(box, 0, 1) * sides)) for box in detections.boxes]
    shown = [number for number, (top, left, bottom, right) in enumerate(boxes) if bottom > top and right > left]
    shades = [color(int(label)) for label in detections.classes]
    for number in reversed(shown):
        top, left, bottom, right = boxes[number]
        canvas.rectangle((left, top, right, bottom), outline=shades[number], width=line)
    plates: list[Plate] = []
    for number in shown:
        text = f"{labels[int(detections.classes[number])]} {detections.scores[number]:.0%}"
        left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
        plate = _place(boxes[number], (right - left + 4, bottom - top + 4), (width, height), plates)
        plates.append(plate)
        canvas.rectangle(plate, fill=shades[number])
        canvas.text((plate[0] + 2 - left, plate[1] + 2 - top), text, fill=_ink(shades[number]), font=font)
    return np.asarray(image)


def _place(box: Sequence[float], plate: tuple[float, float], size: tuple[int, int], taken: Sequence[Plate]) -> Plate:
    """Where a label (width, height) stands: above its box, else inside, else below, where no other label is; in the photo."""
    top, left, bottom, _ = box
    width, height = plate
    x = min(max(left, 0), max(size[0] - width, 0))
    rows = [y for y in (top - height, top, bottom, bottom - height) if 0 <= y <= size[1] - height] or [0.0]
    places = [(x, y, x + width, y + height) for y in rows]
    return next((place for place in places if not any(_meet(place, other) for other in taken)), places[0])


def _meet(one: Plate, other: Plate) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _ink(shade: tuple[int, int, int]) -> str:
    luminance = (0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2]) / 255
    return "black" if luminance > BRIGHT else "white"


def write_png(path: str | os.PathLike[str], pixels: np.ndarray) -> None:
    """Write uint8 `[H, W, 3]` as PNG, whole or not at all."""
    from PIL import Image

    with replaced(Path(path).expanduser()) as temporary:
        Image.fromarray(pixels, "RGB").save(temporary, format="PNG")
