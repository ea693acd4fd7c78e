"""Folded batch norms are unfolded before they are trained: the function stays, also in training."""

import keras
import numpy as np
import pytest
from graphs import AUTOML, LINEAR, drawn, write_uint8

from keras_mnasnet import load
from keras_mnasnet.export.verify import drawn_images
from keras_mnasnet.training import train, unfold
from keras_mnasnet.training.folded import folded_norms, sample


def near(one, other):
    return np.corrcoef(np.asarray(one).reshape(-1), np.asarray(other).reshape(-1))[0, 1]


def test_unfolding(tmp_path):
    path = write_uint8(tmp_path / "x.tflite", drawn(LINEAR, normalization=AUTOML))
    model = load(path).model(classifier_activation=None, dropout_rate=0.0)
    pixels = drawn_images(32, 64, 64, 3)
    before = model(pixels, training=False)
    norms = len([layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)])
    assert len(folded_norms(model)) == norms
    assert unfold(model, [pixels[:16], pixels[16:]]) == norms
    np.testing.assert_allclose(model(pixels, training=False), before, atol=1e-3)
    assert near(model(pixels, training=True), before) > 0.999
    assert unfold(model, [pixels]) == 0
    folded = load(path).model(classifier_activation=None, dropout_rate=0.0)
    assert near(folded(pixels, training=True), before) < 0.99


def test_a_run_unfolds_what_it_starts_from(tmp_path):
    path = write_uint8(tmp_path / "x.tflite", drawn(LINEAR, size=32, normalization=AUTOML))
    train(
        "shapes:24@32", tmp_path / "run", from_model=path, recipe="finetune batch_size=8 epochs=1 frozen_epochs=0",
        validation=8, progress=False,
    )  # fmt: skip
    found, given = load(tmp_path / "run"), load(path)
    assert found.numerics.normalization == AUTOML.per_channel
    assert (found.numerics.stem_activation, found.architecture.stem_activation) == ("linear", "linear")
    assert abs(found.tensors["stem_bn/gamma"] - given.tensors["stem_bn/gamma"]).max() > 0.1


def test_photos_are_spread():
    assert list(sample(4)) == [0, 1, 2, 3]
    assert (sample(1280) == np.arange(128) * 10).all()
    assert sample(0).size == 0


def test_only_a_keras_model_is_unfolded():
    with pytest.raises(ValueError, match=r"must be a Keras model, which is changed. Received: 'cifar10'. load"):
        unfold("cifar10", [])
