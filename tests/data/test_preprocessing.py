"""Evaluation preprocessing against the tensors of the official pipelines (KERAS_MNASNET_GOLDEN), and on bad images."""

import numpy as np
import pytest

from keras_mnasnet.data import load_image, prepare, read_image
from keras_mnasnet.preprocessing import Preprocessing

PIPELINES = {
    "google_bilinear_224": Preprocessing(224, "bilinear-tf1", crop_fraction=224 / 256),
    "google_bilinear_96": Preprocessing(96, "bilinear-tf1", crop_fraction=96 / 128),
    "google_bicubic_pre201907_224": Preprocessing(224, "bicubic-tf1", crop_fraction=224 / 256),
    "google_bicubic_pre201907_96": Preprocessing(96, "bicubic-tf1", crop_fraction=96 / 128),
    "timm_224_normalised_nhwc": Preprocessing(224, "bicubic", resize=256),
    "torchvision_resize256_224_normalised_nhwc": Preprocessing(224, "bilinear", resize=256),
    "torchvision_resize232_224_normalised_nhwc": Preprocessing(224, "bilinear", resize=232),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_equals_the_official_pipeline(golden, name):
    folder, pipeline = golden / "preprocess", PIPELINES[name]
    image = np.load(folder / "decoded_uint8_tf.npy")
    expected = np.load(folder / f"{name}.npy")
    if "normalised" in name:
        expected = (expected * np.float32(pipeline.std) + np.float32(pipeline.mean)) * 255
    difference = np.abs(prepare(image, pipeline).numpy() - expected).max()
    assert difference <= 1 + 1e-3, f"max |difference| {difference:.4g} of 255"


def test_decoding_equals_tensorflows(golden):
    folder = golden / "preprocess"
    np.testing.assert_array_equal(read_image(folder / "image.jpg"), np.load(folder / "decoded_uint8_tf.npy"))
    assert load_image(folder / "image.jpg", PIPELINES["timm_224_normalised_nhwc"]).shape == (224, 224, 3)


@pytest.mark.parametrize("shape", [(40, 300, 3), (300, 40, 3), (7, 5, 3), (224, 224, 3)])
@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=list(PIPELINES))
def test_every_shape_gives_the_size(shape, pipeline):
    out = prepare(np.random.default_rng(0).integers(0, 256, shape, np.uint8), pipeline)
    assert out.shape == (pipeline.size, pipeline.size, 3)
    assert -128 <= float(np.min(out)) <= float(np.max(out)) <= 383  # TF1 bicubic overshoots, as it did in training


def test_bad_images(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 not a photo")
    with pytest.raises(ValueError, match=r"whole JPEG.*broken\.jpg \(16 bytes\)"):
        read_image(broken)
    with pytest.raises(ValueError, match="which does not"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(ValueError, match="Received: the folder"):
        read_image(tmp_path)
    with pytest.raises(ValueError, match="within 1:100. Received: 1 x 900 pixels"):
        prepare(np.zeros((1, 900, 3), np.uint8), PIPELINES["timm_224_normalised_nhwc"])
    assert prepare(np.zeros((1, 90, 3), np.uint8), PIPELINES["google_bicubic_pre201907_224"]).shape == (224, 224, 3)
    with pytest.raises(ValueError, match="`interpolation` must be"):
        prepare(np.zeros((9, 9, 3), np.uint8), Preprocessing(4, "lanczos", resize=5))
