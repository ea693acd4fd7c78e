"""Evaluation preprocessing on TensorFlow: decode, crop and resize as the source of a checkpoint does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_mnasnet.weights.registry import Preprocessing

__all__ = ["load_image", "prepare", "read_image"]

MAX_ASPECT = 100
INTERPOLATIONS = ("bicubic", "bilinear", "bicubic-tf1", "bilinear-tf1")


def read_image(path: str | os.PathLike[str]) -> Any:
    """RGB pixels, uint8 `[H, W, 3]`, of a JPEG, PNG, GIF (first frame) or BMP file; ValueError names a damaged file."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"An image must be a file. Received: the folder {path}")
    if not path.is_file():
        raise ValueError(f"An image file must exist. Received: {path}, which does not")
    data = path.read_bytes()
    try:
        return tf.io.decode_image(data, channels=3, expand_animations=False)
    except (tf.errors.InvalidArgumentError, tf.errors.UnknownError) as error:
        raise ValueError(
            f"An image must be a whole JPEG, PNG, GIF or BMP file. Received: {path} ({len(data):,} bytes), "
            f"which cannot be decoded."
        ) from error


def prepare(image: Any, preprocessing: Preprocessing) -> Any:
    """`[H, W, 3]` pixels -> float32 `[size, size, 3]`, still 0..255: cropped and resized, not normalised."""
    if preprocessing.interpolation not in INTERPOLATIONS:
        raise ValueError(f"`interpolation` must be one of {INTERPOLATIONS}. Received: {preprocessing.interpolation!r}")
    if max(image.shape[:2]) > MAX_ASPECT * min(image.shape[:2]):
        raise ValueError(
            f"An image's sides must be within 1:{MAX_ASPECT}. Received: {image.shape[0]} x {image.shape[1]} pixels"
        )
    if preprocessing.resize:
        return _crop(_resize_short(image, preprocessing), preprocessing.size, preprocessing.size)
    height, width = image.shape[0], image.shape[1]
    side = max(1, int(preprocessing.crop_fraction * min(height, width)))
    square = image[(height - side + 1) // 2 :][:side, (width - side + 1) // 2 :][:, :side]
    return _resize(square, preprocessing.size, preprocessing.size, preprocessing.interpolation)


def load_image(path: str | os.PathLike[str], preprocessing: Preprocessing) -> Any:
    """An image file as float32 `[size, size, 3]`, 0..255, for a model with include_preprocessing=True."""
    return prepare(read_image(path), preprocessing)


def _resize(image: Any, height: int, width: int, interpolation: str) -> Any:
    """`*-tf1` are TensorFlow 1's kernels (no half-pixel centres, no antialias); the others are Pillow's.

    Pillow resizes along the width, rounds to whole pixels, then along the height.
    """
    if interpolation.endswith("-tf1"):
        kernel = tf.raw_ops.ResizeBicubic if interpolation.startswith("bicubic") else tf.raw_ops.ResizeBilinear
        images = tf.cast(image, tf.float32)[None]
        return kernel(images=images, size=(height, width), align_corners=False, half_pixel_centers=False)[0]
    for size in ((image.shape[0], width), (height, width)):
        resized = tf.image.resize(image, size, method=interpolation, antialias=True)
        image = tf.round(tf.clip_by_value(resized, 0.0, 255.0))
    return image


def _resize_short(image: Any, preprocessing: Preprocessing) -> Any:
    height, width, target = image.shape[0], image.shape[1], preprocessing.resize
    short = min(height, width)
    return _resize(image, target * height // short, target * width // short, preprocessing.interpolation)


def _crop(image: Any, height: int, width: int) -> Any:
    """The central crop; halves of a pixel round to even, as Python's and torchvision's `round`."""
    top, left = round((image.shape[0] - height) / 2), round((image.shape[1] - width) / 2)
    return image[top : top + height, left : left + width]
