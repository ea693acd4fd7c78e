"""Parity: all 18 reference fixtures through the project's own converters, from the sources' own file formats."""

import keras
import numpy as np
import pytest
from fixtures import FIXTURES

from keras_mnasnet import MnasNet
from keras_mnasnet.spec import describe

TOLERANCE = 1e-4

# torchvision replaces the first stages while it loads a version-1 state dict, and the new layers are in training mode: loaded
# after `model.eval()`, as this reference was, they normalise with the batch's statistics. The other fixtures prove inference.
BATCH_STATISTICS = {"torchvision-mnasnet0_5-v1stem-96": ("stem", "block1", "block2")}


def use_batch_statistics(model: keras.Model, images: np.ndarray, prefixes: tuple[str, ...]) -> None:
    """Set the moving statistics of the named layers to those of this batch, layer by layer."""
    for layer in model.layers:
        if layer.name.endswith("_bn") and layer.name.startswith(prefixes):
            maps = np.asarray(keras.Model(model.input, layer.input)(images))
            gamma, beta, _, _ = layer.get_weights()
            layer.set_weights([gamma, beta, maps.mean((0, 1, 2)), maps.var((0, 1, 2))])


def means_by_layer(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """The stored arrays of a fixture, computed by the port: spatial means by block, pooled features, logits."""
    units = describe(model).architecture.units()
    outputs = {f"block_{i:02d}": f"{u.name}_{'add' if u.residual else 'project_bn'}" for i, u in enumerate(units)}
    outputs = {"stem_mean": "stem_relu", **outputs, "head_mean": "head_relu", "pooled": "avg_pool", "logits": "predictions"}
    taps = keras.Model(model.input, {key: model.get_layer(name).output for key, name in outputs.items()})
    return {
        key: np.asarray(value) if value.ndim == 2 else np.asarray(value).mean((1, 2))
        for key, value in taps(images, training=False).items()
    }


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda f: f.name)
def test_logits_equal_the_source_framework(fixture, tmp_path):
    network, width = fixture.network
    model = MnasNet(
        network,
        weights=fixture.write(tmp_path),
        input_shape=(*fixture.size, 3),
        classifier_activation=None,
        width_multiplier=width,
    )
    use_batch_statistics(model, fixture.images(), BATCH_STATISTICS.get(fixture.name, ("none",)))
    check(fixture.reference(), means_by_layer(model, fixture.images()))


def check(expected: dict[str, np.ndarray], received: dict[str, np.ndarray]) -> None:
    """Fail on the first array, in the order of the network, that differs by more than the tolerance."""
    assert set(expected) == set(received)
    blocks = sorted(key for key in expected if key.startswith("block_"))
    for key in ("stem_mean", *blocks, "head_mean", "pooled", "logits"):
        scale = np.abs(expected[key]).max()
        limit = TOLERANCE * (scale if key == "logits" else max(1, scale))
        difference = np.abs(received[key] - expected[key]).max()
        assert difference <= limit, f"first wrong: {key}, max |difference| {difference:.3g} above {limit:.3g}"


def test_a_wrong_block_is_named(tmp_path):
    fixture = next(fixture for fixture in FIXTURES if fixture.name == "timm-semnasnet_050-96")
    model = MnasNet(
        "a1", weights=fixture.write(tmp_path), input_shape=(96, 96, 3), classifier_activation=None, width_multiplier=0.5
    )
    broken = model.get_layer("block4b_depthwise_conv")
    broken.set_weights([broken.get_weights()[0].transpose(1, 0, 2, 3)])
    with pytest.raises(AssertionError, match="first wrong: block_07"):
        check(fixture.reference(), means_by_layer(model, fixture.images()))
