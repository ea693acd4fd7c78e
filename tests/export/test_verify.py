"""The comparison of a file with its model, by hand-computed numbers, and what it refuses."""

import numpy as np
import pytest

from keras_mnasnet.export import ExportError, export_tflite
from keras_mnasnet.export.verify import _comparison, drawn_images, judge


def test_cosine_of_zeros():
    """Both zero: 1; one of them: 0; the mean of the three images with (3, 4) against (4, 3): (1 + 0 + 24 / 25) / 3."""
    found = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
    wanted = np.array([[0.0, 0.0], [1.0, 2.0], [4.0, 3.0]])
    assert _comparison("scores", found, wanted).cosine == pytest.approx((1 + 0 + 24 / 25) / 3)
    assert _comparison("scores", wanted, found).cosine == pytest.approx((1 + 0 + 24 / 25) / 3)


def test_constant_outputs():
    varied = np.array([[1.0, 2.0], [1.0, 2.1]])
    constant = np.array([[1.0, 2.0], [1.0, 2.0]])
    assert not _comparison("scores", constant, constant).constant
    assert not _comparison("scores", varied, constant).constant
    assert not _comparison("scores", constant[:1], varied[:1]).constant
    compared = _comparison("scores", constant, varied)
    assert compared.constant
    with pytest.raises(ExportError, match=r"must tell images apart .*all 2 images.*classifier_activation=None"):
        judge((compared,), "int8")
    judge((_comparison("scores", constant, constant + np.float64(1e-9)),), "int8")


def test_a_softmax_below_its_step_is_refused(tmp_path):
    """A thousand probabilities of 0.001: the int8 softmax gives zeros."""
    from keras_mnasnet import MnasNet

    model = MnasNet("a1", weights=None, input_shape=(32, 32, 3), width_multiplier=0.35)
    kernel, bias = model.get_layer("predictions").get_weights()
    model.get_layer("predictions").set_weights([kernel * 1e-3, bias])
    pictures = drawn_images(120, 32, 32, 3)
    with pytest.raises(ExportError, match="must tell images apart.*classifier_activation=None"):
        export_tflite(model, tmp_path / "a.tflite", quantize="int8", representative_data=pictures)
    assert not list(tmp_path.glob("*.tflite*"))
