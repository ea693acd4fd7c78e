"""Distillation: the loss by hand, what a teacher says, and a student that learns from a file."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from models import SMALLEST

from keras_mnasnet import load
from keras_mnasnet.export import export
from keras_mnasnet.training import RECIPES, Job, resume, train
from keras_mnasnet.training.classifier import starting_model
from keras_mnasnet.training.teacher import Student, Teacher, distillation_loss, log_probabilities

NETWORK = {"network": SMALLEST}
DISTILL = RECIPES["distill"].changed(epochs=1, batch_size=16, base_batch=16, warmup_epochs=0.5)


def test_the_loss():
    """Two classes at T = 2: 4 * (p log(p / q) + (1 - p) log((1 - p) / (1 - q))) with p = sigmoid(1), q = sigmoid(0.5)."""
    p, q = 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-0.5))
    expected = 4 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    teacher = np.array([[2.0, 0.0]], np.float32) - 7  # a constant a row changes nothing
    assert float(distillation_loss(teacher, keras.ops.array([[1.0, 0.0]]), 2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(distillation_loss(teacher, keras.ops.array([[5.0, 3.0]]), 2.0)) == pytest.approx(0, abs=1e-6)


def test_scores_of_every_kind_become_logarithms_of_probabilities():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    for scores in (np.add(np.log(probabilities), [[3], [-2]]), probabilities, np.rint(256 * probabilities)):
        np.testing.assert_allclose(np.exp(log_probabilities(scores)), probabilities, atol=0.01)
    positive = np.array([[5.0, 1.0, 1.0], [9.0, 2.0, 3.0]])  # logits that happen to be positive: their sums differ
    np.testing.assert_allclose(np.exp(log_probabilities(positive))[0], np.exp([5, 1, 1]) / np.sum(np.exp([5, 1, 1])))


def test_a_teacher_speaks_of_the_datas_classes():
    """The bundled network's classes in another order and number, at the size of the student's batches."""
    labels = ("ship", "cat")
    teacher = Teacher("cifar10", labels)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3)).astype(np.float32)
    said = teacher(tf.constant(pixels)).numpy()
    model = load("cifar10").model(classifier_activation=None)
    resized = np.clip(tf.image.resize(pixels, (32, 32), antialias=True), 0, 255)
    every = log_probabilities(np.asarray(model.predict_on_batch(resized), np.float64))
    names = load("cifar10").labels
    np.testing.assert_allclose(said, every[:, [names.index(label) for label in labels]], atol=1e-4)
    with pytest.raises(ValueError, match=r"must know every class of the data. Received: cifar10 .* without tiger"):
        Teacher("cifar10", ("cat", "tiger"))


def test_a_student_trains_saves_and_evaluates_as_its_network():
    network = starting_model(SMALLEST, 3, size=32)
    student = Student.of(network, 0.75, 2.0)
    student.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), weighted_metrics=["accuracy"])
    pixels = np.zeros((4, 32, 32, 3), np.float32)
    targets = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    assert student.evaluate(pixels, targets, verbose=0) == pytest.approx([np.log(3), 0.5], rel=1e-5)
    said = np.log(np.array([[0.5, 0.25, 0.25]] * 4, np.float32))
    found = student.evaluate(tf.data.Dataset.from_tensors((pixels, {"classes": targets, "teacher": said})), verbose=0)
    p = np.sqrt([0.5, 0.25, 0.25]) / np.sum(np.sqrt([0.5, 0.25, 0.25]))
    expected = 0.25 * np.log(3) + 0.75 * 4 * np.sum(p * np.log(3 * p))
    assert found[0] == pytest.approx(expected, rel=1e-5)


def test_a_file_teaches(tmp_path, capsys):
    """A `.tflite` file of three classes teaches a fresh network; a teacher and a recipe that does not listen are refused."""
    teacher = tmp_path / "teacher.tflite"
    data = tmp_path / "data"
    for number, name in enumerate(("airplane", "cat", "ship")):
        (data / name).mkdir(parents=True)
        for index in range(12):
            pixels = np.random.default_rng([number, index]).integers(0, 256, (32, 32, 3))
            keras.utils.save_img(data / name / f"{index}.png", pixels, scale=False)
    export("cifar10", teacher)
    done = train(data, tmp_path / "run", **NETWORK, recipe=DISTILL, teacher=teacher)
    assert len(done.rows) == 1
    assert np.isfinite(done.rows[0]["loss"])
    assert re.search(rf"^teacher +{teacher}$", capsys.readouterr().err, re.MULTILINE)
    assert done.load().labels == ("airplane", "cat", "ship")
    export("cifar10/small-1.0-32", teacher)
    with pytest.raises(ValueError, match="is resumed with the data and network it was started with. Received: teacher_sha256="):
        resume(tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"belong together.*Received: teacher='cifar10', recipe='finetune' with teacher_weight=0"
    ):
        Job(data="shapes:40@32", recipe=RECIPES["finetune"], teacher="cifar10")
    with pytest.raises(ValueError, match=r"belong together.*Received: teacher=None, recipe='distill'"):
        Job(data="shapes:40@32", recipe=DISTILL)
