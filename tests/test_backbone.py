import numpy as np
import pytest

from keras_mnasnet import MnasNetBackbone, save
from keras_mnasnet.applications import MnasNet, level_layers
from keras_mnasnet.family import FAMILY

CHANNELS = {
    "a1": (16, 24, 40, 112, 320),
    "b1": (16, 24, 40, 96, 320),
    "small": (8, 16, 16, 32, 144),
    "d1": (24, 36, 48, 96, 320),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_levels_by_stride(name):
    backbone = MnasNetBackbone(name, weights=None)
    maps = backbone(np.zeros((1, 97, 130, 3), np.float32))
    assert list(maps) == ["C1", "C2", "C3", "C4", "C5"]
    for level, channels in enumerate(CHANNELS[name], start=1):
        assert maps[f"C{level}"].shape == (1, -(-97 // 2**level), -(-130 // 2**level), channels)


def test_taps_and_weights_are_the_classifiers(tmp_path):
    model = MnasNet("a1", include_top=False, weights=None, input_shape=(64, 64, 3), width_multiplier=0.35)
    save(model, tmp_path / "w.safetensors")
    backbone = MnasNetBackbone(
        "a1", tmp_path / "w.safetensors", levels=("C4",), taps=("block6a_expand_relu", "head_relu"), width_multiplier=0.35
    )
    x = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.float32)
    maps = backbone(x)
    assert {key: value.shape for key, value in maps.items()} == {
        "C4": (1, 4, 4, 40), "block6a_expand_relu": (1, 4, 4, 240), "head_relu": (1, 2, 2, 1280),
    }  # fmt: skip
    np.testing.assert_allclose(np.asarray(maps["head_relu"]), np.asarray(model(x)), rtol=1e-4, atol=1e-4)


def test_bad_levels_and_taps():
    with pytest.raises(ValueError, match=r"C1, C2, C3, C4, C5. Received: levels=\('C6',\)"):
        MnasNetBackbone("small", weights=None, levels="C6")
    with pytest.raises(ValueError, match="'block6a_expand'. Near: block6a_add|block6a"):
        MnasNetBackbone("small", weights=None, taps=("block6a_expand",))
    with pytest.raises(ValueError, match="at least one"):
        MnasNetBackbone("small", weights=None, levels=())


def test_level_layers_end_each_stride():
    assert level_layers(FAMILY["a1"]) == {
        "C1": "block1a_project_bn", "C2": "block2b_add", "C3": "block3c_add", "C4": "block5b_add", "C5": "block7a_project_bn",
    }  # fmt: skip
