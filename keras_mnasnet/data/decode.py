"""Photos into pixels on TensorFlow: decode, turn upright, crop and resize as the source of a checkpoint does.

TensorFlow decodes what it reads rightly: JPEG, PNG, and the plain kinds of BMP and WebP. Pillow decodes the others, the first
picture of those with several. Alpha is dropped, as Pillow's `convert("RGB")` and torchvision do.
"""

from __future__ import annotations

import functools
import io
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mnasnet.preprocessing import Preprocessing
from keras_mnasnet.utils.reading import read_bytes

MAX_ASPECT = 100
LARGEST_IMAGE = 2**28  # bytes of a file
DECODERS = ("tensorflow", "pillow")
OFFSETS = ("round", "down")
INTERPOLATIONS = ("bicubic", "bilinear", "bicubic-tf1", "bilinear-tf1")
FORMATS = "JPEG, PNG, WebP, GIF, BMP or TIFF"
PILLOW_FORMATS = ("BMP", "GIF", "TIFF", "WEBP")
ALL_FORMATS = ("JPEG", "PNG", *PILLOW_FORMATS)
HEAD = 34  # bytes that say which kind of PNG, BMP or WebP a file is
DEEP = 4096  # pixels of 16 bits that end below this are shown nearly black
ORIENTATION = 274  # the tag of EXIF
MOST_CHUNKS = 10_000
OTHER_FORMATS = (
    (4, rb"ftyp(?:avif|avis)", "AVIF"),
    (4, rb"ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)", "HEIC"),
    (0, rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (0, rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, rb"8BPS", "a Photoshop file"),
    (0, rb"%PDF", "PDF"),
    (0, rb"\x00\x00\x01\x00", "an icon (ICO)"),
    (0, rb"(?:\xef\xbb\xbf)?\s*<(?:svg|\?xml)", "SVG, or other XML"),
    (0, rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html)", "a web page"),
    (0, rb"version https://git-lfs", "a Git LFS pointer, without the photo"),
    (0, rb"II\*\0....CR|IIRO|IIRS|IIU\0|FUJIFILMCCD-RAW|\0MRM", "a camera's raw file"),
    (0, rb"P[1-7]\s", "PPM"),
    (0, rb"(?:\xef\xbb\xbf)?[\t\n\r -~]+\Z", "text, and no picture"),
)


def read_image(path: str | os.PathLike[str], decoder: str = "tensorflow", *, upright: bool = False) -> Any:
    """RGB pixels, uint8 `[H, W, 3]`, of a JPEG, PNG, WebP, GIF, BMP or TIFF file, of several pictures the first.

    `upright` turns them as EXIF says. ValueError names a damaged file, and one of another format with its format.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"An image must be a file. Received: the folder {path}")
    if not path.exists():
        raise ValueError(f"An image file must exist. Received: {path}, which does not")
    data = read_bytes(path, "An image", limit=LARGEST_IMAGE)
    try:
        return decode(data, decoder, upright=upright)
    except tf.errors.OpError as error:
        raise ValueError(
            f"An image must be a whole {FORMATS} file. Received: {path} ({len(data):,} bytes), {problem(data)}"
        ) from error


def decode(data: Any, decoder: str = "tensorflow", *, upright: bool = False) -> Any:
    """Encoded bytes -> uint8 `[H, W, 3]`, eagerly or in a graph; pixels pass through. TensorFlow's errors are not changed.

    `decoder="pillow"` decodes JPEGs with the accurate DCT, which gives Pillow's pixels. `upright` turns them as EXIF says.
    """
    if decoder not in DECODERS:
        raise ValueError(f"`decoder` must be one of {DECODERS}. Received: decoder={decoder!r}")
    if getattr(data, "dtype", tf.string) == tf.uint8:
        return data

    def usual() -> Any:
        return tf.io.decode_image(data, channels=3, expand_animations=False)

    def accurate() -> Any:
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")

    def other() -> Any:
        return tf.switch_case(_how(data), [usual, lambda: _of_16_bits(data), lambda: _by_pillow(data)])

    image = tf.cond(tf.io.is_jpeg(data), usual if decoder == "tensorflow" else accurate, other)
    image.set_shape((None, None, 3))
    return _turned(image, data) if upright else image


def _turned(image: Any, data: Any) -> Any:
    return upright(image, turn_of(data))


def turn_of(data: Any) -> Any:
    """`orientation` of encoded bytes in a graph, int32; 1 of pixels."""
    if getattr(data, "dtype", tf.string) == tf.uint8:
        return tf.constant(1)
    return tf.ensure_shape(_in_python(lambda content: np.int32(orientation(content)), data, tf.int32), ())


def upright(pixels: Any, orientation: Any) -> Any:
    """Pixels `[H, W, C]` as EXIF's orientation 1..8 says that they are to be seen, eagerly or in a graph."""

    def turn() -> Any:
        found = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, (1, 0, 2)), lambda: pixels)
        found = tf.cond(tf.reduce_any(orientation == (2, 3, 6, 7)), lambda: found[:, ::-1], lambda: found)
        return tf.cond(tf.reduce_any(orientation == (3, 4, 7, 8)), lambda: found[::-1], lambda: found)

    orientation = tf.convert_to_tensor(orientation)
    image = tf.cond(orientation == 1, lambda: pixels, turn)
    image.set_shape((None, None, pixels.shape[2]))
    return image


def orientation(data: bytes) -> int:
    """EXIF's orientation, 1..8, of a JPEG, PNG or WebP; 1 without one, and of a TIFF, which Pillow gives upright."""
    content = _exif(data)
    if not content:
        return 1
    exif = pillow().Exif()
    try:
        exif.load(content)
        found = exif.get(ORIENTATION, 1)
    except Exception:  # Pillow's readers of tags raise anything
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _exif(data: bytes) -> bytes:
    """The EXIF part of a JPEG, PNG or WebP; nothing where there is none."""
    if data[:2] == b"\xff\xd8":
        at = 2
        for _ in range(MOST_CHUNKS):
            marker, size = data[at : at + 2], int.from_bytes(data[at + 2 : at + 4], "big")
            if marker[:1] != b"\xff" or marker in (b"\xff\xda", b"\xff\xd9"):
                return b""
            if marker == b"\xff\xe1" and data[at + 4 : at + 10] == b"Exif\0\0":
                return data[at + 4 : at + 2 + size]
            at += 1 if marker == b"\xff\xff" else 2 + size
        return b""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        at, order, name, length, rest = 8, "big", b"eXIf", 0, 12
    elif data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X":
        at, order, name, length, rest = 12, "little", b"EXIF", 4, 8
    else:
        return b""
    for _ in range(MOST_CHUNKS):
        chunk = data[at : at + 8]
        if len(chunk) < 8:
            return b""
        size = int.from_bytes(chunk[length : length + 4], order)  # type: ignore[arg-type]
        if chunk[4 - length : 8 - length] == name:
            found = data[at + 8 : at + 8 + size]
            return found if found[:6] == b"Exif\0\0" else b"Exif\0\0" + found
        at += rest + size + (size % 2 if length else 0)
    return b""


def _how(data: Any) -> Any:
    """Who decodes a file that is no JPEG, int32: 0 TensorFlow, 1 TensorFlow as 16 bits, 2 Pillow."""
    head = tf.io.decode_raw(data, tf.uint8, fixed_length=HEAD)

    def has(at: int, content: bytes) -> Any:
        return tf.reduce_all(head[at : at + len(content)] == tuple(content))

    def other() -> Any:
        simple = (
            has(8, b"WEBPVP8 ")
            | (has(8, b"WEBPVP8L") & (head[24] & 0x10 == 0))
            | (has(8, b"WEBPVP8X") & (head[20] & 0x12 == 0))
        )
        flat = has(0, b"BM") & (head[14] >= 40) & has(28, b"\x18\0\0\0\0\0")
        return tf.where((has(0, b"RIFF") & simple) | flat, 0, 2)

    return tf.cond(has(0, b"\x89PNG"), lambda: tf.cast(head[24] == 16, tf.int32), other)


def _of_16_bits(data: Any) -> Any:
    """A PNG of 16 bits a channel, its upper 8 as viewers show it; InvalidArgumentError where these are nearly black."""
    pixels = tf.io.decode_png(data, channels=3, dtype=tf.uint16)
    brightest = tf.reduce_max(pixels)
    with tf.control_dependencies([tf.debugging.Assert((brightest >= DEEP) | (brightest == 0), [_too_dark("PNG")])]):
        return tf.cast(tf.bitwise.right_shift(pixels, tf.constant(8, tf.uint16)), tf.uint8)


def _too_dark(kind: str) -> str:
    return (
        f"a {kind} of 16 bits whose values end below {DEEP:,} of 65,535, as those of 12-bit sensors do: it would be "
        f"nearly black. Scale its values to 16 bits, or convert it to 8"
    )


def _by_pillow(data: Any) -> Any:
    return tf.ensure_shape(_in_python(pillow_pixels, data, tf.uint8), (None, None, 3))


def _in_python(function: Callable[[bytes], Any], data: Any, kind: Any) -> Any:
    """What a function gives of encoded bytes; its ValueError is an InvalidArgumentError, as in a graph."""

    @tf.autograph.experimental.do_not_convert  # it would be parsed anew in threads of the pipeline
    def call(content: Any) -> Any:
        return function(content if isinstance(content, bytes) else content.item())

    try:
        return tf.numpy_function(call, [tf.convert_to_tensor(data)], kind, stateful=False)
    except ValueError as error:
        raise tf.errors.InvalidArgumentError(None, None, str(error)) from error


@functools.cache
def pillow() -> Any:
    """Pillow's `Image` with the formats that are read; for one that it does not know it would load all its plugins.

    What it warns of is an error here, or nothing.
    """
    from PIL import Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401

    warnings.filterwarnings("ignore", module=r"PIL\b")
    return Image


def pillow_pixels(data: bytes) -> np.ndarray:
    """RGB pixels, uint8 `[H, W, 3]`, of a BMP, GIF, TIFF or WebP by Pillow; ValueError says what cannot be read."""
    try:
        with pillow().open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
            tags = getattr(image, "tag_v2", {})
            if tags.get(254, 0) & 1 or 50706 in tags:
                raise ValueError("which is a camera's raw file")
            if image.mode.startswith("I;16"):
                return _gray_of_16_bits(np.asarray(image), is_white_zero=tags.get(262) == 0)
            if image.mode in ("I", "F"):
                raise ValueError(f"which is a {image.format} of 32 bits or signed values: it does not say what is white")
            return np.asarray(image.convert("RGB"))
    except pillow().DecompressionBombError as error:
        raise ValueError(f"which has too many pixels ({error})") from error
    except Exception as error:  # Pillow's decoders raise anything for damaged files
        if data[:4] in (b"II*\0", b"MM\0*") and str(error).startswith("cannot identify"):
            said = "which is a TIFF that is damaged, or of a kind that is not read, such as floats or more than four channels"
            raise ValueError(said) from error
        if str(error).startswith("which "):
            raise
        raise ValueError("which is damaged and cannot be decoded") from error


def _gray_of_16_bits(values: np.ndarray, *, is_white_zero: bool) -> np.ndarray:
    values = 65535 - values.astype(np.int32) if is_white_zero else values
    if 0 < values.max() < DEEP:
        raise ValueError(f"which is {_too_dark('TIFF')}")
    return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)


def problem(data: bytes) -> str:
    """Why a file cannot be decoded, as the end of a sentence: `which is HEIC, ...`."""
    if not data:
        return "which is empty"
    for at, pattern, name in OTHER_FORMATS:
        if re.match(pattern, data[at : at + 4096], re.DOTALL | re.IGNORECASE):
            return f"which is {name}: convert it to JPEG or PNG" if name[0].isupper() else f"which is {name}"
    if data[:4] == b"\x89PNG" and data[24:25] == b"\x10":
        try:
            _of_16_bits(data)
        except tf.errors.OpError as error:
            if "of 16 bits" in str(error):
                return f"which is {_too_dark('PNG')}"
    elif data[:3] != b"\xff\xd8\xff" and data[:4] != b"\x89PNG":
        try:
            pillow_pixels(data)
        except ValueError as error:
            return str(error)
    return "which is damaged and cannot be decoded"


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
    width = preprocessing.width or size
    if preprocessing.squash:
        out = _resize(image, size, width, preprocessing.interpolation)
    elif preprocessing.resize:
        out = _crop(_resize_short(image, preprocessing), size, size, preprocessing.offset)
    else:
        out = _resize(central_square(image, preprocessing.crop_fraction or 1.0), size, size, preprocessing.interpolation)
    return tf.ensure_shape(out, (size, width, 3))


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
    return prepare(read_image(path, preprocessing.decoder, upright=preprocessing.upright), preprocessing)


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
