"""Every kind of photo that people have: the picture that Pillow shows, upright where asked, or a refusal by name."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_mnasnet.data.decode import FORMATS, decode, load_image, orientation, problem, read_image, upright
from keras_mnasnet.preprocessing import Preprocessing

H, W = 30, 41
Y, X = np.mgrid[:H, :W]
COLORS = np.stack([Y * 8, X * 6, (Y + X) * 3], -1).astype(np.uint8)
PHOTO = Image.fromarray(COLORS)
CLEAR = Image.fromarray(np.concatenate([COLORS, (X * 6).astype(np.uint8)[..., None]], -1))
SECOND = Image.fromarray(COLORS[::-1].copy())
INDEX = ((X + Y) % 16).astype(np.uint8)
PALETTE = b"".join(bytes([17 * number, 250 - 9 * number, 7 * number, 0]) for number in range(16))
graph = tf.function(decode, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)


def encoded(image, kind, **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def png(values, depth, color, transparent=b""):
    """A PNG of rows of packed samples."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = values.reshape(H, -1)
    if depth == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    else:
        bits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :].reshape(H, -1)
        packed = [np.packbits(row).tobytes() for row in bits]
    content = zlib.compress(b"".join(b"\0" + row for row in packed))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + transparent + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def bmp(bits, rows, palette=b"", compression=0, masks=b"", height=H):
    rows = [row + b"\0" * (-len(row) % 4) for row in rows] if compression != 1 else rows
    content = b"".join(rows)
    start = 54 + len(masks) + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, W, height, 1, bits, compression, len(content), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(content), 0, 0, start) + head + masks + palette + content


def nibbles(row):
    row = np.append(row, 0) if len(row) % 2 else row
    return (row[::2] << 4 | row[1::2]).astype(np.uint8).tobytes()


HIGH = ((COLORS[..., 0].astype(np.uint16) >> 3) << 11) | (COLORS[..., 1].astype(np.uint16) >> 2 << 5) | COLORS[..., 2] >> 3
RUNS = b"".join(b"".join(bytes([1, value]) for value in row) + b"\0\0" for row in INDEX[::-1]) + b"\0\1"
KINDS = {
    **{f"png of {depth} bits": png(Y % 2**depth, depth, 0) for depth in (1, 2, 4, 8)},
    "png of 16-bit colors": png(COLORS.astype(np.uint16) * 257, 16, 2),
    "png palette": encoded(PHOTO.quantize(16), "PNG"),
    "png palette with a transparent color": encoded(PHOTO.quantize(16), "PNG", transparency=3),
    "png gray and alpha": encoded(CLEAR.convert("LA"), "PNG"),
    "png alpha": encoded(CLEAR, "PNG"),
    "apng": encoded(PHOTO, "PNG", save_all=True, append_images=[SECOND]),
    "bmp of 1 bit": encoded(PHOTO.convert("1"), "BMP"),
    "bmp of 4 bits": bmp(4, [nibbles(row) for row in INDEX[::-1]], PALETTE),
    "bmp palette": bmp(8, [row.tobytes() for row in INDEX[::-1]], PALETTE),
    "bmp gray": encoded(PHOTO.convert("L"), "BMP"),
    "bmp of 16 bits": bmp(16, [row.astype("<u2").tobytes() for row in (HIGH >> 1)[::-1]]),
    "bmp of 5, 6, 5 bits": bmp(
        16, [row.astype("<u2").tobytes() for row in HIGH[::-1]], compression=3, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    ),
    "bmp": encoded(PHOTO, "BMP"),
    "bmp from the top": bmp(24, [row[:, ::-1].tobytes() for row in COLORS], height=-H),
    "bmp alpha": encoded(CLEAR, "BMP"),
    "bmp of runs": bmp(8, [RUNS], PALETTE, compression=1),
    "gif": encoded(PHOTO, "GIF"),
    "gif animated": encoded(PHOTO, "GIF", save_all=True, append_images=[SECOND]),
    "gif transparent": encoded(PHOTO.quantize(16), "GIF", transparency=3),
    "webp": encoded(PHOTO, "WEBP"),
    "webp lossless": encoded(PHOTO, "WEBP", lossless=True),
    "webp with exif": encoded(PHOTO, "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
    "webp alpha": encoded(CLEAR, "WEBP", quality=90),
    "webp lossless alpha": encoded(CLEAR, "WEBP", lossless=True),
    "webp animated": encoded(PHOTO, "WEBP", save_all=True, append_images=[SECOND], lossless=True),
    "tiff": encoded(PHOTO, "TIFF"),
    "tiff lzw": encoded(PHOTO, "TIFF", compression="tiff_lzw"),
    "tiff of several": encoded(PHOTO, "TIFF", save_all=True, append_images=[SECOND]),
    "tiff cmyk": encoded(PHOTO.convert("CMYK"), "TIFF"),
    "jpeg gray": encoded(PHOTO.convert("L"), "JPEG"),
    "jpeg cmyk": encoded(PHOTO.convert("CMYK"), "JPEG", quality=95),
    "jpeg progressive": encoded(PHOTO, "JPEG", progressive=True),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_is_the_picture_that_pillow_shows(kind, tmp_path):
    data = KINDS[kind]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    path = tmp_path / "photo.jpg"  # by content, whatever the ending says
    path.write_bytes(data)
    found = read_image(path).numpy()
    assert np.abs(found - expected).max() <= (4 if "jpeg" in kind else 0)
    np.testing.assert_array_equal(graph(data), found)


def test_gray_of_16_bits_is_its_upper_half_and_of_12_bits_is_refused(tmp_path):
    whole = (Y * 2000).astype(np.uint16)
    expected = np.repeat((whole >> 8)[..., None], 3, axis=2)
    dark = whole // 16
    inverted = encoded(Image.fromarray(65535 - whole), "TIFF", tiffinfo={262: 0})
    for data in (png(whole, 16, 0), encoded(Image.fromarray(whole), "TIFF"), inverted):
        np.testing.assert_array_equal(decode(data), expected)
    np.testing.assert_array_equal(decode(png(whole * 0, 16, 0)), expected * 0)
    colors = np.repeat(dark[..., None], 3, axis=2)
    for kind, data in (
        ("PNG", png(dark, 16, 0)), ("PNG", png(colors, 16, 2)), ("TIFF", encoded(Image.fromarray(dark), "TIFF")),
    ):  # fmt: skip
        (tmp_path / "x.png").write_bytes(data)
        with pytest.raises(ValueError, match=f"Received: .*x.png .*which is a {kind} of 16 bits whose values end below 4,096"):
            read_image(tmp_path / "x.png")
        with pytest.raises(tf.errors.InvalidArgumentError):
            graph(data)


REFUSED = {
    "AVIF": b"\0\0\0\x20ftypavif\0\0\0\0",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "JPEG XL": b"\xff\x0a\xfa\x1f",
    "JPEG 2000": encoded(PHOTO, "JPEG2000"),
    "a Photoshop file": b"8BPS\0\1",
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "an icon": encoded(PHOTO, "ICO"),
    "a web page": b"\n<!DOCTYPE html><html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
    "a camera's raw file": encoded(PHOTO, "TIFF", tiffinfo={254: 1}),
    "a TIFF of 32 bits": encoded(Image.fromarray(Y.astype(np.float32)), "TIFF"),
    "empty": b"",
    "a TIFF that is damaged": KINDS["tiff lzw"][:-200],
    "damaged and": KINDS["webp"][:-20],
    "text": b'{"error": "not found"}\n',
    "PPM": b"P6 1 1 255 abc",
    "a TIFF that is damaged, or of a kind": b"II*\0\x08\0\0\0\1\0\0\1\3\0\1\0\0\0\1\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_by_its_name(name, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(REFUSED[name])
    whole = rf"An image must be a whole {FORMATS} file. Received: .*photo.jpg \([0-9,]+ bytes\), which is "
    with pytest.raises(ValueError, match=f"^{whole}{name}"):
        read_image(path)
    with pytest.raises(tf.errors.OpError):
        graph(REFUSED[name])


def test_a_bomb_of_pixels_is_refused():
    data = bytearray(KINDS["bmp of 1 bit"])
    data[18:26] = struct.pack("<ii", 40_000, 40_000)
    assert "too many pixels" in problem(bytes(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_turns_a_photo_upright_where_asked(kind, tmp_path):
    how = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    path = tmp_path / "photo"
    turned = tf.function(
        lambda data: decode(data, upright=True), input_signature=[tf.TensorSpec((), tf.string)], autograph=False
    )
    for number in range(10):
        exif = Image.Exif()
        exif[274] = number
        data = encoded(PHOTO, kind, exif=exif, **how)
        path.write_bytes(data)
        asked = number if 1 <= number <= 8 else 1
        assert orientation(data) == (1 if kind == "TIFF" else asked)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")).astype(int)
        found = read_image(path, upright=True).numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 8
        np.testing.assert_array_equal(turned(data), found)
        if kind != "TIFF":  # whose orientation is part of the format: it is always applied
            assert read_image(path).shape == (H, W, 3)
        np.testing.assert_array_equal(upright(read_image(path), orientation(data)), found)
    plain = Preprocessing(16, "bicubic", squash=True)
    changed = Preprocessing(16, "bicubic", squash=True, upright=True)
    path.write_bytes(encoded(PHOTO, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\3\0\0\0\0\0\0"))
    assert orientation(path.read_bytes()) == 3
    assert np.abs(load_image(path, changed) - load_image(path, plain)[::-1, ::-1]).max() <= 1


@pytest.mark.filterwarnings("ignore::UserWarning")  # pytest shows warnings that the package hides
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_is_none(kind):
    exif = Image.Exif()
    exif[274] = 6
    whole = encoded(PHOTO, kind, exif=exif)
    start = max(whole.find(b"Exif\0\0"), whole.find(b"eXIf"), whole.find(b"EXIF"))
    for at in range(start - 4, min(start + 40, len(whole))):
        data = bytearray(whole)
        data[at] ^= 0xFF
        assert orientation(bytes(data)) in range(1, 9)
        assert orientation(whole[:at]) in range(1, 9)
