"""Weights from another network: what only grows computes the same, what shrinks keeps the important channels."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_mnasnet.applications import DEFAULT_NUMERICS
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.loading import checkpoint_of
from keras_mnasnet.model import build
from keras_mnasnet.preprocessing import Normalization
from keras_mnasnet.search.inherit import inherit, matched
from keras_mnasnet.weights.checkpoint import CheckpointError, assign, expected_shapes

SIZE, CLASSES = 32, 4
SMALL = "r1_k3_s11_e1_i8_o8_noskip r2_k3_s22_e3_i8_o16 r1_k5_s22_e3_i16_o24_se0.25 head32"


def network(text, name="net"):
    return Architecture.parse(f"{name}: stem8 {text}")


def made(architecture, numerics=DEFAULT_NUMERICS, seed=0):
    keras.utils.set_random_seed(seed)
    return build(
        architecture, classes=CLASSES, input_shape=(SIZE, SIZE, 3), classifier_activation=None,
        bn_epsilon=numerics.bn_epsilon, padding=numerics.padding, normalization=numerics.normalization,
    )  # fmt: skip


def trained(architecture, numerics=DEFAULT_NUMERICS, seed=1):
    """A model with statistics and scales as a training leaves them."""
    model, rng = made(architecture, numerics, seed), np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.get_weights()[0].shape
            means, scales = rng.normal(size=(2, *shape)), rng.uniform(0.5, 1.5, (2, *shape))
            layer.set_weights([scales[0], 0.3 * means[0], 0.3 * means[1], scales[1]])
        elif layer.weights:
            layer.set_weights([value + 0.05 * rng.normal(size=value.shape) for value in layer.get_weights()])
    return model


def checkpoint(architecture, numerics=DEFAULT_NUMERICS, labels=tuple("abcd")):
    model = trained(architecture, numerics)
    return model, dataclasses.replace(checkpoint_of(model, checked=False), labels=labels)


def child(source, architecture, labels=tuple("abcd")):
    model = made(architecture)
    found = inherit(source, architecture, checkpoint_of(model, checked=False).tensors, DEFAULT_NUMERICS, labels)
    assign(model, found.tensors, expected_shapes(architecture, CLASSES))
    return model, found


def outputs(model):
    return model.predict(np.random.default_rng(2).uniform(0, 255, (4, SIZE, SIZE, 3)), verbose=0)


GROWN = {
    "itself": (SMALL, 1e-6),
    "all": (
        "r1_k5_s11_e1_i8_o16_noskip r4_k5_s22_e6_i16_o32_se0.25 r2_k7_s22_e6_i32_o40_se0.5 head64", 1e-4
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GROWN)
def test_what_only_grows_computes_the_same(name):
    text, tolerance = GROWN[name]
    old, source = checkpoint(network(SMALL))
    new, found = child(source, network(text))
    want = outputs(old)
    np.testing.assert_allclose(outputs(new), want, atol=tolerance * np.abs(want).max(), rtol=0)
    assert found.share == 1 if name == "itself" else 0 < found.share < 1


def test_new_parts_are_reached_by_the_gradient():
    import tensorflow as tf

    _, source = checkpoint(network(SMALL))
    new, _ = child(source, network(GROWN["all"][0]))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(new(np.random.default_rng(3).uniform(0, 255, (4, SIZE, SIZE, 3)), training=True) ** 2)
    gradients = tape.gradient(loss, [variable.value for variable in new.trainable_variables])
    still = {v.path for v, g in zip(new.trainable_variables, gradients, strict=True) if not np.abs(g).max() > 0}
    behind_zero = ("expand", "depthwise", "reduce", "project_conv")  # what stands behind a scale or kernel of 0 follows it
    assert all(any(part in path for part in behind_zero) for path in still), still
    named = {variable.path: gradient for variable, gradient in zip(new.trainable_variables, gradients, strict=True)}
    for path in ("block2c_project_bn/gamma", "block2a_se_expand/kernel", "block2a_project_conv/kernel"):
        assert np.abs(named[path]).max() > 0, path


def test_the_important_channels_stay():
    text = "r1_k3_s11_e1_i8_o8_noskip r1_k3_s22_e3_i8_o16 r1_k5_s22_e{}_i{}_o24_se{} head32"
    old, source = checkpoint(network(text.format(3, 16, 0.25)))
    weak = np.array([1, 4, 5, 9, 10, 12, 13, 15])
    layer = old.get_layer("block2a_project_bn")
    values = layer.get_weights()
    for value in values[:2]:
        value[weak] = 0
    layer.set_weights(values)
    source = dataclasses.replace(checkpoint_of(old, checked=False), labels=source.labels)
    new, found = child(source, network(text.format(6, 8, 0.5).replace("o16", "o8")))
    np.testing.assert_allclose(outputs(new), outputs(old), atol=1e-5 * np.abs(outputs(old)).max(), rtol=0)
    assert found.share == 1


def test_kernels_are_cut_to_their_center_and_gates_leave_their_typical_value():
    _, source = checkpoint(network(SMALL))
    _, found = child(source, network(SMALL.replace("k5", "k3").replace("_se0.25", "")))
    was = source.tensors
    np.testing.assert_array_equal(
        found.tensors["block3a_depthwise_conv/kernel"], was["block3a_depthwise_conv/kernel"][1:4, 1:4]
    )
    factor = found.tensors["block3a_project_conv/kernel"] / was["block3a_project_conv/kernel"]
    beta, gamma = (was[f"block3a_depthwise_bn/{leaf}"] for leaf in ("beta", "gamma"))
    mean = np.maximum(np.random.default_rng(0).normal(beta, gamma, (100_000, 48)), 0).mean(0)
    hidden = np.maximum(mean @ was["block3a_se_reduce/kernel"][0, 0] + was["block3a_se_reduce/bias"], 0)
    gate = 1 / (1 + np.exp(-(hidden @ was["block3a_se_expand/kernel"][0, 0] + was["block3a_se_expand/bias"])))
    np.testing.assert_allclose(factor[0, 0, :, 0], gate, atol=5e-3)


def test_pixels_and_epsilon_of_the_source_are_taken_over():
    numerics = dataclasses.replace(DEFAULT_NUMERICS, bn_epsilon=1e-2, normalization=Normalization((0.0,), (255.0,)))
    old, source = checkpoint(network(SMALL), numerics)
    new, _ = child(source, network(SMALL))
    inner, want = (keras.Model(m.input, m.get_layer("stem_relu").output) for m in (new, old))
    np.testing.assert_allclose(outputs(inner)[:, 1:-1, 1:-1], outputs(want)[:, 1:-1, 1:-1], atol=1e-4)


def test_stages_are_matched_by_number_or_by_their_maps():
    one = network("r1_k3_s11_e1_i8_o8 r1_k3_s22_e3_i8_o16 r1_k3_s11_e3_i16_o24 r1_k3_s22_e3_i24_o32 head32")
    other = network("r1_k3_s22_e3_i8_o16 r1_k3_s22_e3_i16_o24 head32")
    assert matched(one, one) == {1: 1, 2: 2, 3: 3, 4: 4}
    assert matched(one, other) == {1: 2, 2: 4}
    assert matched(other, one) == {2: 1, 4: 2}
    _, source = checkpoint(one)
    assert child(source, other)[1].share == 1
    model, found = child(source, network("r2_k3_s11_e1_i8_o16_conv r2_k3_s22_e1_i16_o24 r1_k3_s11_e1_i24_o24_linear head16"))
    assert 0 < found.share < 1
    assert np.isfinite(outputs(model)).all()


def test_the_classifier_is_of_the_same_labels():
    _, source = checkpoint(network(SMALL))
    _, found = child(source, network(SMALL), tuple("abce"))
    assert not found.tensors["predictions/kernel"].any()
    assert found.share < 1
    with pytest.raises(CheckpointError, match="inherit from a classifier. Received: the detector"):
        inherit(dataclasses.replace(source, detector=object()), network(SMALL), {}, DEFAULT_NUMERICS)
