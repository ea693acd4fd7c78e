"""What a `.tflite` input expects, files that are not classifiers, and what stands behind a graph."""

import dataclasses
import json

import numpy as np
import PIL.Image
import pytest

from keras_mnasnet import predict
from keras_mnasnet.cli.main import main
from keras_mnasnet.export import FileClassifier, TfliteFile
from keras_mnasnet.export.file import Layout, grey, input_of, layout_of
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
    assert signed.text == "float32 pixels / 127.5 - 1 (its metadata)"
    assert input_of("m", np.float32, (0.0, 0), said=Normalization()).text == "float32 pixels 0..255 (its metadata)"
    other = input_of("m", np.float32, (0.0, 0), said=Normalization((128.0,), (127.0,)))
    assert other.text == "float32 (pixels - 128) / 127 (its metadata)"
    assert first(signed(PIXELS))[::3] == [-1.0, 0.0, 1.0]
    normal = input_of("m", np.float32, (0.0, 0), how="imagenet")(PIXELS)
    np.testing.assert_allclose(normal[0, -1, 0], (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], rtol=1e-6)


def test_other_quantized_ranges_need_to_be_told():
    scale, zero = 4.75 / 255, 114
    with pytest.raises(ValueError, match=r"Received: m of uint8 with the range -2.124..2.626. Pass file_input="):
        input_of("m", np.uint8, (scale, zero))
    told = input_of("m", np.uint8, (scale, zero), how="imagenet")(PIXELS)
    assert told[0, -1, 0].tolist() == [235, 244, 255]
    by_metadata = input_of("m", np.uint8, (scale, zero), said=IMAGENET)
    assert by_metadata(PIXELS)[0, -1, 0].tolist() == told[0, -1, 0].tolist()


def test_refused_inputs():
    with pytest.raises(ValueError, match="must be of floats or whole numbers. Received: m with bool"):
        input_of("m", np.bool_, (0.0, 0))
    for scale in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must have a positive scale. Received: m with the scale"):
            input_of("m", np.uint8, (scale, 0))
    with pytest.raises(ValueError, match="one for each channel. Received: 3 means for m, whose input has 1"):
        input_of("m", np.float32, (0.0, 0), how="imagenet", layout=Layout(1))
    with pytest.raises(ValueError, match="`file_input` must be one of pixels, unit, signed, imagenet"):
        input_of("m", np.float32, (0.0, 0), how="raw")


@pytest.mark.parametrize(("dtype", "least"), [(np.uint8, 0), (np.int8, -128), (np.int16, 0), (np.int32, 0), (np.uint16, 0)])
def test_whole_numbers_that_are_not_quantized_are_the_pixels(dtype, least):
    """Never divided by their scale of zero."""
    for how in (None, "pixels"):
        found = input_of("m", dtype, (0.0, 0), how=how)
        assert "(not quantized)" in found.text
        assert first(found(PIXELS)) == [least + value for value in (0, 0, 1, 128, 128, 255, 255)]
        assert found(PIXELS).dtype == dtype
    assert first(input_of("m", dtype, (0.0, 0), said=SIGNED)(PIXELS)) == first(input_of("m", dtype, (0.0, 0))(PIXELS))
    with pytest.raises(ValueError, match=r"is not quantized holds pixels.*Received: m with file_input='unit'"):
        input_of("m", dtype, (0.0, 0), how="unit")


def test_16_bits():
    """Floats of half the size, and whole numbers as int16 activations have them."""
    half = input_of("m", np.float16, (0.0, 0))(PIXELS)
    assert (half.dtype, first(half)[-1]) == (np.float16, 255)
    found = input_of("m", np.int16, (2 / 65535, 0), said=SIGNED)(PIXELS)
    assert first(found)[::6] == [-32768, 32767]
    with pytest.raises(ValueError, match="must say what it takes.*Received: m of int16 with the range -1..1"):
        input_of("m", np.int16, (2 / 65535, 0))


def test_layouts():
    """One channel is grey as Pillow makes it; channels may come first."""
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (1, 5, 5, 3))
    wanted = np.asarray(PIL.Image.fromarray(photo[0].astype(np.uint8)).convert("L"), np.float32)
    assert np.abs(grey(photo)[0, ..., 0] - wanted).max() <= 1  # Pillow's integers round down
    taken = input_of("m", np.float32, (0.0, 0), how="signed", layout=Layout(1))(photo.astype(np.float32))
    np.testing.assert_allclose(taken, grey(photo) / 127.5 - 1, atol=1e-6)
    first_ones = input_of("m", np.float32, (0.0, 0), how="imagenet", layout=Layout(3, channels_first=True))(photo)
    last_ones = input_of("m", np.float32, (0.0, 0), how="imagenet")(photo)
    np.testing.assert_array_equal(first_ones, last_ones.transpose(0, 3, 1, 2))
    assert layout_of([1, 8, 8, 3]) == layout_of([-1, -1, -1, 3]) == Layout(3)
    assert layout_of([1, 3, 8, 8]) == layout_of([1, 3, -1, -1]) == Layout(3, channels_first=True)
    assert (layout_of([1, 28, 28, 1]), layout_of([1, 1, 28, 28])) == (Layout(1), Layout(1, channels_first=True))
    assert layout_of([1, 8, 8, 4]) is layout_of([1, 2, 8, 8]) is layout_of([8, 3]) is None


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_files_with_inputs_that_are_not_quantized(tmp_path, write_tiny, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.float32)
    model = FileClassifier(write_tiny(tmp_path / "raw.tflite", dtype=dtype, cast=True), threads=1)
    wanted = pixels.mean(axis=(1, 2)) - 128 * (dtype == "int8")
    np.testing.assert_allclose(model.run(pixels)[0], wanted, rtol=1e-5)


def test_files_of_other_layouts(tmp_path, write_tiny):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.float32)
    one = FileClassifier(write_tiny(tmp_path / "grey.tflite", shape=(1, 8, 8, 1)), threads=1)
    np.testing.assert_allclose(one.run(pixels)[0], grey(pixels).mean(axis=(1, 2)), rtol=1e-5)
    path = write_tiny(tmp_path / "first.tflite", shape=(1, 3, 8, 8))
    turned = FileClassifier(path, threads=1)
    assert (turned.size, turned.classes) == (8, 3)
    np.testing.assert_allclose(turned.run(pixels)[0], pixels.mean(axis=(1, 2)), rtol=1e-5)
    free = write_tiny(tmp_path / "free.tflite", shape=(1, 3, -1, -1))
    assert FileClassifier(free, size=16).run(pixels.repeat(2, axis=1).repeat(2, axis=2))[0].shape == (3, 3)
    with pytest.raises(ValueError, match=r"Received: .*four.tflite with the inputs \[\[1, 8, 8, 4\]\]"):
        FileClassifier(write_tiny(tmp_path / "four.tflite", shape=(1, 8, 8, 4)))


def test_a_scale_for_each_channel_of_the_input_is_refused(tmp_path, write_tiny, monkeypatch):
    model = TfliteFile(write_tiny(tmp_path / "tiny.tflite", dtype="uint8", quantization=(1.0, 0)), threads=1)
    details = [{**model.inputs[0], "quantization_parameters": {"scales": np.ones(3)}}]
    monkeypatch.setattr(TfliteFile, "inputs", details)
    with pytest.raises(ValueError, match="must have one scale. Received: .*tiny.tflite with 3"):
        model.input()


@pytest.mark.parametrize(
    ("dtype", "quantization"), [("float32", None), ("uint8", (1 / 128, 128)), ("uint8", (1.0, 0)), ("int8", (1.0, -128))]
)
def test_scores_come_in_the_outputs_own_type(tmp_path, write_tiny, dtype, quantization):
    model = FileClassifier(write_tiny(tmp_path / "tiny.tflite", dtype=dtype, quantization=quantization), threads=1)
    assert (model.size, model.classes) == (8, 3)
    pixels = np.zeros((2, 8, 8, 3), np.float32) + np.array([[[[10, 200, 30]]], [[[250, 20, 30]]]], np.float32)
    scores, seconds = model.run(pixels)
    assert scores.dtype == dtype
    shift = -128 if dtype == "int8" else 0
    np.testing.assert_allclose(scores, pixels[:, 0, 0] + shift, atol=1e-4)
    scale, zero = quantization or (1.0, 0)
    np.testing.assert_allclose(model.real(scores), (scores.astype(np.float32) - zero) * scale)
    assert seconds > 0


def test_normalization_in_the_file(tmp_path, data, write_tiny, metadata):
    def found(name, **options):
        return TfliteFile(write_tiny(tmp_path / f"{name}.tflite", **options)).normalization

    assert found("tiny", normalization=metadata([127.5], [127.5])) == SIGNED
    assert FileClassifier(tmp_path / "tiny.tflite").input.normalization == SIGNED
    assert "(as asked)" in FileClassifier(tmp_path / "tiny.tflite", how="pixels").input.text
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
    assert FileClassifier(path, size=16).size == 16
    with pytest.raises(ValueError, match=r"without a size. Pass size= \(--size\)"):
        FileClassifier(path)
    with pytest.raises(ValueError, match="size=16 for the fixed input"):
        FileClassifier(write_tiny(tmp_path / "fixed.tflite"), size=16)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_damaged_files(tmp_path, content):
    path = tmp_path / "bad.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"begins with the mark TFL3 .*Received: .*bad.tflite \({len(content)} bytes"):
        FileClassifier(path)
    path.write_bytes(b"PK\3\4" * 30)
    with pytest.raises(ValueError, match="a zip archive, as PyTorch's and Keras's files are: give it the ending"):
        FileClassifier(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 84\n")
    with pytest.raises(ValueError, match="bad.tflite .*bytes., a Git LFS pointer to a file of 84 bytes.*git lfs pull"):
        FileClassifier(path)
    with pytest.raises(ValueError, match="must exist. Received: .*no.tflite"):
        FileClassifier(tmp_path / "no.tflite")
    with pytest.raises(ValueError, match="`threads` must be 1 or more"):
        FileClassifier(path, threads=0)


def test_predictions_of_files(tmp_path, write_tiny):
    """Scores are what the whole numbers stand for; the content decides, not the ending; how pixels are taken can be said."""
    PIL.Image.new("RGB", (8, 8), (64, 128, 192)).save(tmp_path / "a.png")
    for name in ("tiny.tflite", "tiny.lite", "TINY.TFLITE", "tiny"):
        path = write_tiny(tmp_path / name, dtype="uint8", quantization=(1 / 128, 128))
        (found,) = predict(path, tmp_path / "a.png", file_input="signed")
        np.testing.assert_allclose([score for _, score in found.classes], [0.505, 0.004, -0.498], atol=0.01)
    plain = write_tiny(tmp_path / "plain.tflite")
    (found,) = predict(plain, tmp_path / "a.png", file_input="unit")
    np.testing.assert_allclose([score for _, score in found.classes], [192 / 255, 128 / 255, 64 / 255], atol=1e-5)
    with pytest.raises(ValueError, match=r"`file_input` \(--input\) is for .tflite and .onnx files.*for cifar10"):
        predict("cifar10", tmp_path / "a.png", file_input="unit")
    with pytest.raises(ValueError, match=r"Received: 2 names for 3 classes of .*tflite. Give one name a line"):
        predict(plain, tmp_path / "a.png", labels=["a", "b"])
    assert main(["predict", str(plain), str(tmp_path / "a.png"), "--input", "signed"]) == 0
