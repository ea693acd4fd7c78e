"""The same network on every Keras backend, and on tf_keras; each in a process of its own."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_mnasnet

CHILD = """
import sys, numpy as np, keras
import keras_mnasnet
folder = sys.argv[1]
model = keras.saving.load_model(folder + "/model.keras")
x = np.load(folder + "/x.npy")
np.save(folder + "/loaded.npy", keras.ops.convert_to_numpy(model(x)))
built = keras_mnasnet.MnasNetA1(
    weights=folder + "/weights.safetensors", input_shape=x.shape[1:], classes=11, classifier_activation=None)
np.save(folder + "/built.npy", keras.ops.convert_to_numpy(built(x)))
assert keras.backend.backend() == sys.argv[2]
"""

TWIN = """
import sys, numpy as np, tf_keras
from keras_mnasnet.family import A1, B1, SMALL
from keras_mnasnet.model import build
from keras_mnasnet.spec import describe
from keras_mnasnet.weights.checkpoint import assign, expected_shapes
from keras_mnasnet import load
assert "keras" not in sys.modules
folder = sys.argv[1]
x = np.load(folder + "/x.npy")
twin = build(A1, input_shape=x.shape[1:], classes=11, classifier_activation=None, framework=tf_keras)
assert isinstance(twin, tf_keras.Model)
assign(twin, load(folder + "/weights.safetensors").tensors, expected_shapes(A1, 11))
np.save(folder + "/twin.npy", np.asarray(twin(x)))
for network in (B1, SMALL):
    assert describe(build(network, padding="symmetric", framework=tf_keras)).architecture == network
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A folder with a model, its weights, an input and the TensorFlow backend's output."""
    folder = tmp_path_factory.mktemp("backends")
    rng = np.random.default_rng(3)
    model = keras_mnasnet.MnasNetA1(weights=None, input_shape=(96, 80, 3), classes=11, classifier_activation=None)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape[0]
            layer.set_weights([rng.uniform(0.5, 1, size), rng.normal(0, 0.3, size), rng.normal(0, 0.3, size), np.full(size, 2)])
    x = rng.integers(0, 256, (2, 96, 80, 3)).astype(np.float32)
    np.save(folder / "x.npy", x)
    np.save(folder / "expected.npy", np.asarray(model(x)))
    model.save(folder / "model.keras")
    keras_mnasnet.save(model, folder / "weights.safetensors")
    return folder


def run(code: str, *arguments: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_backend_equals_tensorflow(backend, reference):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    run(CHILD, str(reference), backend, KERAS_BACKEND=backend)
    expected = np.load(reference / "expected.npy")
    for name in ("loaded", "built"):
        difference = np.abs(np.load(reference / f"{name}.npy") - expected).max()
        assert difference <= 1e-4 * max(1, np.abs(expected).max()), f"{name}: max |difference| {difference:.3g}"


def test_tf_keras_twin_equals_keras(reference):
    if importlib.util.find_spec("tf_keras") is None:
        pytest.skip("tf_keras is not installed")
    run(TWIN, str(reference), TF_USE_LEGACY_KERAS="1")
    expected = np.load(reference / "expected.npy")
    difference = np.abs(np.load(reference / "twin.npy") - expected).max()
    assert difference <= 1e-5 * max(1, np.abs(expected).max()), f"max |difference| {difference:.3g}"
