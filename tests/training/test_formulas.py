"""Schedules, optimizers and averages against numbers worked out by hand."""

import math

import keras
import numpy as np
import pytest

from keras_mnasnet.training import RECIPES, SGDL2, RMSPropTF1, Schedule, learning_rate, make_optimizer
from keras_mnasnet.training.callbacks import Averages, decay_at
from keras_mnasnet.training.classifier import starting_model


def test_exponential_schedule():
    """Warm-up 0 to 0.256 over 5 epochs of 10 steps, then 0.97 ** floor(epoch / 2.4)."""
    recipe = RECIPES["paper-imagenet"]
    rate = lambda step: float(learning_rate(recipe, step, 10))  # noqa: E731
    assert rate(0) == 0
    assert rate(25) == pytest.approx(0.128)
    assert rate(49) == pytest.approx(0.256 * 49 / 50)
    assert rate(50) == pytest.approx(0.256 * 0.97**2)  # epoch 5, floor(5 / 2.4) = 2
    assert rate(71) == pytest.approx(0.256 * 0.97**2)
    assert rate(72) == pytest.approx(0.256 * 0.97**3)
    assert rate(240) == pytest.approx(0.256 * 0.97**10)


def test_cosine_schedule():
    recipe = RECIPES["cifar10"].changed(epochs=12, warmup_epochs=2, learning_rate=0.1)
    rate = lambda step: float(learning_rate(recipe, step, 10))  # noqa: E731
    assert rate(10) == pytest.approx(0.05)
    assert rate(20) == pytest.approx(0.1)
    assert rate(70) == pytest.approx(0.05)
    assert rate(45) == pytest.approx(0.1 * (1 + math.cos(math.pi / 4)) / 2)
    assert rate(120) == pytest.approx(0, abs=1e-8)


def test_schedule_survives_saving():
    schedule = Schedule(RECIPES["paper-imagenet"].changed(epochs=20), 7)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert [float(again(step)) for step in (0, 3, 90)] == [float(schedule(step)) for step in (0, 3, 90)]


def variable(values, name="kernel"):
    return keras.Variable(np.array(values, np.float32), name=name)


def test_rmsprop_is_tensorflow_1s():
    """ms = 0.9 + 0.1 g^2; mom = 0.9 mom + rate g / sqrt(ms + eps); Keras's own would begin at ms = 0."""
    v = variable([1.0, -2.0])
    optimizer = RMSPropTF1(0.1, rho=0.9, momentum=0.9, epsilon=1e-3)
    g = np.array([0.5, 4.0])
    ms, momentum, expected = np.ones(2), np.zeros(2), np.array([1.0, -2.0])
    for step in range(3):
        optimizer.apply([keras.ops.convert_to_tensor(g, "float32")], [v])
        ms = 0.9 * ms + 0.1 * g**2
        momentum = 0.9 * momentum + 0.1 * g / np.sqrt(ms + 1e-3)
        expected = expected - momentum
        np.testing.assert_allclose(keras.ops.convert_to_numpy(v), expected, rtol=1e-5)
        if step == 0:
            assert expected[0] == pytest.approx(1 - 0.05 / 0.926**0.5)


def test_l2_is_for_kernels_alone():
    """One SGD step: v - rate (g + l2 v) for a kernel, v - rate g for the others."""
    kernel, gamma = variable([2.0]), variable([2.0], "gamma")
    optimizer = SGDL2(0.5, l2=0.1, momentum=0.0)
    optimizer.apply([keras.ops.ones(1), keras.ops.ones(1)], [kernel, gamma])
    assert float(kernel[0]) == pytest.approx(2 - 0.5 * 1.2)
    assert float(gamma[0]) == pytest.approx(1.5)


@pytest.mark.parametrize("name", ["paper-imagenet", "finetune"])
def test_optimizers_of_recipes(name):
    recipe = RECIPES[name].changed(batch_size=16, base_batch=32, frozen_epochs=1, frozen_learning_rate=0.5)
    optimizer = make_optimizer(recipe, 10)
    assert type(optimizer).__name__ == {"paper-imagenet": "RMSPropTF1", "finetune": "AdamW"}[name]
    assert float(make_optimizer(recipe, 10, frozen=True).learning_rate) == pytest.approx(0.25)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)


def test_adamw_decay_spares_norms_and_biases():
    kernel, beta = variable([2.0]), variable([2.0], "beta")
    optimizer = make_optimizer(RECIPES["finetune"].changed(weight_decay=0.5, warmup_epochs=0, learning_rate=0.1), 10)
    optimizer.apply([keras.ops.zeros(1), keras.ops.zeros(1)], [kernel, beta])
    assert float(kernel[0]) == pytest.approx(2 - 2 * 0.5 * 0.1)
    assert float(beta[0]) == 2


def test_averages_follow_the_formula():
    assert decay_at(0.9999, 0) == 0.1
    assert decay_at(0.9999, 90) == pytest.approx(0.91)
    assert decay_at(0.9999, 10**6) == 0.9999
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros", name="dense")])
    averages = Averages(0.5, model)
    averages.set_model(model)
    model.layers[0].kernel.assign([[1.0], [2.0]])
    for step in range(20):
        averages.on_train_batch_end(step)
    kept = 0.5**10
    np.testing.assert_allclose(averages.values[model.layers[0].kernel.path][:, 0], np.array([1, 2]) * (1 - kept**2), rtol=1e-6)
    with averages.swapped(model):
        assert float(model.layers[0].kernel[1, 0]) == pytest.approx(2 * (1 - kept**2))
    assert float(model.layers[0].kernel[1, 0]) == 2


def test_a_new_classifier_starts_at_zero():
    model = starting_model("small", 7, size=32, stem_stride=1, width_multiplier=0.35)
    logits = model(np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32"))
    assert not np.any(logits)
    assert model.output_shape == (None, 7)
