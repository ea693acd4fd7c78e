"""Parity on files that the source frameworks themselves wrote (KERAS_MNASNET_GOLDEN)."""

import numpy as np
import pytest

from keras_mnasnet import MnasNet

CASES = {
    "google_a1_d0.35_i96": ("a1", 0.35, "ckpt/model.ckpt-876168"),
    "google_a1_d0.35_train10cls_slots": ("a1", 0.35, "ckpt/model.ckpt-25"),
    "timm_mnasnet_small_10cls_i96": ("small", None, "model.safetensors"),
    "torchvision_mnasnet0_5_10cls_legacyfmt_i96": ("b1", 0.5, "mnasnet0_5.pth"),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_the_source_framework(golden, name):
    folder = golden / name
    network, width, file = CASES[name]
    images, expected = np.load(folder / "image_0_255.npy").astype(np.float32), np.load(folder / "logits.npy")
    classes = expected.shape[1]
    options = {"width_multiplier": width, "classes": classes, "classifier_activation": None}
    model = MnasNet(network, weights=folder / file, input_shape=images.shape[1:], **options)
    received = np.asarray(model(images))
    assert np.abs(received - expected).max() <= 1e-4 * np.abs(expected).max()
    headless = MnasNet(
        network, weights=folder / file, input_shape=images.shape[1:], width_multiplier=width, include_top=False, pooling="avg"
    )
    pooled = np.load(folder / "pooled.npy")
    assert np.abs(np.asarray(headless(images)) - pooled).max() <= 1e-4 * np.abs(pooled).max()


def test_the_averages_are_used_and_not_the_raw_variables(golden):
    folder = golden / "google_a1_d0.35_i96"
    images = np.load(folder / "image_0_255.npy").astype(np.float32)
    model = MnasNet(
        "a1",
        weights=folder / "ckpt/model.ckpt-876168",
        input_shape=(96, 96, 3),
        width_multiplier=0.35,
        classifier_activation=None,
    )
    assert np.abs(np.asarray(model(images)) - np.load(folder / "logits_raw_nonema.npy")).max() > 1
