"""Evaluation preprocessing on TensorFlow: decode, crop and resize as the source of a checkpoint does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_mnasnet.preprocessing import Preprocessing
from keras_mnasnet.utils.reading import read_bytes

MAX_ASPECT = 100
LARGEST_IMAGE = 2**28  # bytes of a file
DECODERS = ("tensorflow", "pillow")
OFFSETS = ("round", "down")
INTERPOLATIONS = ("bicubic", "bilinear", "bicubic-tf1", "bilinear-tf1")


def read_image(path: str | os.PathLike[str], decoder: str = "tensorflow") -> Any:
    """RGB pixels, uint8 `[H, W, 3]`, of a JPEG, PNG, GIF (first frame) or BMP file; ValueError names a damaged file."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"An image must be a file. Received: the folder {path}")
    if not path.is_file():
        raise ValueError(f"An image file must exist. Received: {path}, which does not")
    data = read_bytes(path, "An image", limit=LARGEST_IMAGE)
    try:
        return decode(data, decoder)
    except (tf.errors.InvalidArgumentError, tf.errors.UnknownError) as error:
        raise ValueError(
            f"An image must be a whole JPEG, PNG, GIF or BMP file. Received: {path} ({len(data):,} bytes), "
            f"which cannot be decoded."
        ) from error


def decode(data: Any, decoder: str = "tensorflow") -> Any:
    """Encoded bytes -> uint8 `[H, W, 3]`, eagerly or in a graph; pixels pass through. TensorFlow's errors are not changed.

    `decoder="pillow"` decodes JPEGs with the accurate DCT, which gives Pillow's pixels.
    """
    if decoder not in DECODERS:
        raise ValueError(f"`decoder` must be one of {DECODERS}. Received: decoder={decoder!r}")
    if getattr(data, "dtype", tf.string) == tf.uint8:
        return data

    def usual() -> Any:
        return tf.io.decode_image(data, channels=3, expand_animations=False)

    def accurate() -> Any:
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")

    image = usual() if decoder == "tensorflow" else tf.cond(tf.io.is_jpeg(data), accurate, usual)
    image.set_shape((None, None, 3))
    return image


def prepare(image: Any, preprocessing: Preprocessing) -> Any:
    """`[H, W, 3]` pixels -> float32 `[size, size, 3]`, still 0..255: cropped and resized, not normalized.

    Works in a graph with unknown H and W too, where sides past 1:100 are an InvalidArgumentError instead of a ValueError.
    """
    if preprocessing.interpolation not in INTERPOLATIONS:
        raise ValueError(f"`interpolation` must be one of {INTERPOLATIONS}. Received: {preprocessing.interpolation!r}")
    if preprocessing.offset not in OFFSETS:
        raise ValueError(f"`offset` must be one of {OFFSETS}. Received: offset={preprocessing.offset!r}")
    image = within_aspect(tf.convert_to_tensor(image))
    size = preprocessing.size
    if preprocessing.squash:
        out = _resize(image, size, size, preprocessing.interpolation)
    elif preprocessing.resize:
        out = _crop(_resize_short(image, preprocessing), size, size, preprocessing.offset)
    else:
        out = _resize(central_square(image, preprocessing.crop_fraction or 1.0), size, size, preprocessing.interpolation)
    return tf.ensure_shape(out, (size, size, 3))


def within_aspect(image: Any) -> Any:
    """The image, if its sides are within 1:100; else ValueError, in a graph InvalidArgumentError."""
    height, width = _sides(image)
    expectation = f"An image's sides must be within 1:{MAX_ASPECT}. Received:"
    fits = tf.maximum(height, width) <= MAX_ASPECT * tf.minimum(height, width)
    if tf.executing_eagerly():
        if not bool(fits):
            raise ValueError(f"{expectation} {int(height)} x {int(width)} pixels")
        return image
    with tf.control_dependencies([tf.debugging.Assert(fits, [expectation, height, width])]):
        return tf.identity(image)


def central_square(image: Any, fraction: float = 1.0) -> Any:
    """The central square of `fraction` of the shorter side."""
    height, width = _sides(image)
    short = tf.cast(tf.minimum(height, width), tf.float64)
    side = tf.maximum(1, tf.cast(tf.constant(fraction, tf.float64) * short, tf.int32))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    return image[top : top + side, left : left + side]


def load_image(path: str | os.PathLike[str], preprocessing: Preprocessing) -> Any:
    """An image file as float32 `[size, size, 3]`, 0..255, for a model with include_preprocessing=True."""
    return prepare(read_image(path, preprocessing.decoder), preprocessing)


def _resize(image: Any, height: int, width: int, interpolation: str) -> Any:
    """`*-tf1` are TensorFlow 1's kernels (no half-pixel centers, no antialias); the others are Pillow's.

    Pillow resizes along the width, rounds to whole pixels, then along the height.
    """
    if interpolation.endswith("-tf1"):
        kernel = tf.raw_ops.ResizeBicubic if interpolation.startswith("bicubic") else tf.raw_ops.ResizeBilinear
        images = tf.cast(image, tf.float32)[None]
        return kernel(images=images, size=(height, width), align_corners=False, half_pixel_centers=False)[0]
    for size in ((_sides(image)[0], width), (height, width)):
        image = _resize_axis(image, tf.stack(size), interpolation)
    return image


def _resize_axis(image: Any, size: Any, interpolation: str) -> Any:
    def resized() -> Any:
        out = tf.image.resize(image, size, method=interpolation, antialias=True)
        return tf.round(tf.clip_by_value(out, 0.0, 255.0))

    return tf.cond(tf.reduce_all(tf.shape(image)[:2] == size), lambda: tf.cast(image, tf.float32), resized)


def _sides(image: Any) -> tuple[Any, Any]:
    shape = tf.shape(image)
    return shape[0], shape[1]


def _resize_short(image: Any, preprocessing: Preprocessing) -> Any:
    (height, width), target = _sides(image), preprocessing.resize
    short = tf.minimum(height, width)
    return _resize(image, target * height // short, target * width // short, preprocessing.interpolation)


def _crop(image: Any, height: int, width: int, offset: str) -> Any:
    """The central crop; halves of a pixel round to even, as Python's and torchvision's `round`, or down."""
    rows, columns = _sides(image)
    whole = tf.round if offset == "round" else tf.floor
    top, left = (tf.cast(whole(tf.cast(spare, tf.float64) / 2), tf.int32) for spare in (rows - height, columns - width))
    return image[top : top + height, left : left + width]
