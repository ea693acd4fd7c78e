"""What a `.tflite` input expects, files that are not classifiers, and what stands behind a graph."""

import dataclasses
import json

import numpy as np
import pytest

from keras_mnasnet.export.file import TfliteClassifier, TfliteFile, input_of
from keras_mnasnet.export.flatbuffer import append_files
from keras_mnasnet.preprocessing import IMAGENET, SIGNED, Normalization, Preprocessing

PIXELS = np.array([0.0, 0.4, 1.0, 127.5, 128.0, 254.6, 255.0], np.float32).reshape(1, 7, 1, 1) * np.ones(3, np.float32)


def first(values: np.ndarray) -> list:
    return values[0, :, 0, 0].tolist()


@pytest.mark.parametrize(
    ("scale", "zero"), [(1 / 128, 128), (2 / 255, 127), (2 / 255, 128), (1 / 255, 0), (1 / 256, 0), (1.0, 0)]
)
def test_uint8_inputs_of_a_plain_range_take_the_pixels_themselves(scale, zero):
    assert first(input_of("m", np.uint8, (scale, zero))(PIXELS)) == [0, 0, 1, 128, 128, 255, 255]


@pytest.mark.parametrize(("scale", "zero"), [(1 / 128, 0), (2 / 255, -1), (1 / 255, -128), (1.0, -128)])
def test_int8_inputs_of_a_plain_range_take_pixels_minus_128(scale, zero):
    converted = input_of("m", np.int8, (scale, zero))(PIXELS)
    assert converted.dtype == np.int8
    assert first(converted) == [-128, -128, -127, 0, 0, 127, 127]


def test_a_calibrated_range_of_pixels_is_scaled():
    found = input_of("m", np.int8, (0.98, -128))
    assert "pixels 0..255 / 0.98" in found.text
    assert first(found(PIXELS)) == [-128, -128, -127, 2, 3, 127, 127]


def test_float_inputs():
    assert first(input_of("m", np.float32, (0.0, 0))(PIXELS)) == first(PIXELS)
    assert first(input_of("m", np.float32, (0.0, 0), how="unit")(PIXELS))[-1] == 1.0
    signed = input_of("m", np.float32, (0.0, 0), said=SIGNED)
    assert "(its metadata)" in signed.text
    assert first(signed(PIXELS))[::3] == [-1.0, 0.0, 1.0]
    normal = input_of("m", np.float32, (0.0, 0), how="imagenet")(PIXELS)
    np.testing.assert_allclose(normal[0, -1, 0], (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], rtol=1e-6)


def test_other_quantized_ranges_need_to_be_told():
    scale, zero = 4.75 / 255, 114
    with pytest.raises(ValueError, match=r"Received: m with the range -2.124..2.626. Pass tflite_input="):
        input_of("m", np.uint8, (scale, zero))
    told = input_of("m", np.uint8, (scale, zero), how="imagenet")(PIXELS)
    assert told[0, -1, 0].tolist() == [235, 244, 255]
    by_metadata = input_of("m", np.uint8, (scale, zero), said=IMAGENET)
    assert by_metadata(PIXELS)[0, -1, 0].tolist() == told[0, -1, 0].tolist()


def test_refused_inputs():
    with pytest.raises(ValueError, match="must be float32, uint8 or int8. Received: m with int16"):
        input_of("m", np.int16, (1.0, 0))
    with pytest.raises(ValueError, match="`tflite_input` must be one of pixels, unit, signed, imagenet"):
        input_of("m", np.float32, (0.0, 0), how="raw")


@pytest.mark.parametrize(
    ("dtype", "quantization"), [("float32", None), ("uint8", (1 / 128, 128)), ("uint8", (1.0, 0)), ("int8", (1.0, -128))]
)
def test_scores_come_in_the_outputs_own_type(tmp_path, write_tiny, dtype, quantization):
    model = TfliteClassifier(write_tiny(tmp_path / "tiny.tflite", dtype=dtype, quantization=quantization), threads=1)
    assert (model.size, model.classes) == (8, 3)
    pixels = np.zeros((2, 8, 8, 3), np.float32) + np.array([[[[10, 200, 30]]], [[[250, 20, 30]]]], np.float32)
    scores, seconds = model.run(pixels)
    assert scores.dtype == dtype
    shift = -128 if dtype == "int8" else 0
    np.testing.assert_allclose(scores, pixels[:, 0, 0] + shift, atol=1e-4)
    assert seconds > 0


def test_normalization_in_the_file(tmp_path, data, write_tiny, metadata):
    def found(name, **options):
        return TfliteFile(write_tiny(tmp_path / f"{name}.tflite", **options)).normalization

    assert found("tiny", normalization=metadata([127.5], [127.5])) == SIGNED
    assert TfliteClassifier(tmp_path / "tiny.tflite").input.normalization == SIGNED
    assert "(as asked)" in TfliteClassifier(tmp_path / "tiny.tflite", how="pixels").input.text
    assert found("plain", normalization=metadata([1, 2, 3], [4, 5, 6])) == Normalization((1, 2, 3), (4, 5, 6))
    assert found("none") is None
    assert found("odd", normalization=b"\xff" * 40) is None
    assert found("zero", normalization=metadata([0.0], [0.0])) is None
    assert TfliteFile(next((data / "coral").glob("*.tflite"))).normalization == SIGNED


def test_texts_behind_the_graph(tmp_path, write_tiny):
    """Labels, the report and how photos are prepared; nothing where they cannot be read."""
    content = write_tiny(tmp_path / "tiny.tflite").read_bytes()
    bare = TfliteFile(content)
    assert (bare.labels, bare.report, bare.preprocessing) == (None, {}, None)
    photos = Preprocessing(8, "bicubic", resize=9)
    report = json.dumps({"preprocessing": dataclasses.asdict(photos)})
    full = TfliteFile(append_files(content, {"labels.txt": ["a", "b", "c"], "export.json": report}))
    assert (full.labels, full.preprocessing) == (("a", "b", "c"), photos)
    for broken in ("[1]", "{", '{"preprocessing": {"side": 8}}', '{"preprocessing": null}'):
        assert TfliteFile(append_files(content, {"export.json": broken})).preprocessing is None
    damaged = bytearray(full.content)
    damaged[full.content.index(b"labels.txt") + 12] ^= 0xFF
    assert TfliteFile(bytes(damaged)).labels is None


def test_free_sizes_need_a_size(tmp_path, write_tiny):
    path = write_tiny(tmp_path / "free.tflite", dynamic=True)
    assert TfliteClassifier(path, size=16).size == 16
    with pytest.raises(ValueError, match=r"without a size. Pass size= \(--size\)"):
        TfliteClassifier(path)
    with pytest.raises(ValueError, match="size=16 for the fixed input"):
        TfliteClassifier(write_tiny(tmp_path / "fixed.tflite"), size=16)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_damaged_files(tmp_path, content):
    path = tmp_path / "bad.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"must be one that LiteRT can run. Received: .*bad.tflite \({len(content)} bytes\)"):
        TfliteClassifier(path)
    with pytest.raises(ValueError, match="must exist. Received: .*no.tflite"):
        TfliteClassifier(tmp_path / "no.tflite")
    with pytest.raises(ValueError, match="`threads` must be 1 or more"):
        TfliteClassifier(path, threads=0)
