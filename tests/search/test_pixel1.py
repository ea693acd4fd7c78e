"""The Pixel-1 latency model: features by hand, the published networks, the flags, and the shipped fit."""

import dataclasses
import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.benchmarks.emulator import pixel1
from keras_mnasnet.family import A1, B1, D1, SMALL, other_latencies
from keras_mnasnet.search.latency import FEATURES, coefficients, features, instructions, pixel1_ms, shipped, unlike_fitted

SCRIPT = Path(__file__).parents[2] / "search" / "run_fit_pixel1.py"


def test_features_by_hand():
    network = Architecture.parse("stem8 r1_k3_s22_e3_i8_o16_se0.25 head32")
    found = features(network.operations(16, 16, classes=10), 16)
    # stem 8x8x8; expand 8x8x24; depthwise 4x4x24; gate 24 -> 2 -> 24 on 4x4; project 4x4x16; head 4x4x32; dense 32 -> 10
    tiles = {"stem": 16, "expand": 16 * 3, "project": 4 * 2, "head": 4 * 4}
    assert found == dict.fromkeys(FEATURES, 0) | {
        "full": tiles["stem"] * 27, "full_taps": tiles["stem"] * 9, "full_tiles": tiles["stem"],
        "pointwise": tiles["expand"] * 8 + tiles["project"] * 24 + tiles["head"] * 16,
        "pointwise_tiles": tiles["expand"] + tiles["project"] + tiles["head"],
        "one_pixel_pairs": 1 * 24 + 5 * 32, "one_pixel_pair_tiles": 1 + 5, "one_pixel": 3 * 2, "one_pixel_tiles": 3,
        "depthwise3": 16 * 3, "depthwise3_pixels": 16, "gated": 16 * 24, "gated_pixels": 16,
        "averaged": 16 * 24 + 16 * 32, "averaged_filters": 24 + 32, "operators": 12,
    }  # fmt: skip
    expected = sum(coefficients()[name] * value for name, value in found.items())
    assert instructions(network, 16, classes=10) == pytest.approx(expected)
    assert pixel1_ms(network, 16, classes=10) == pytest.approx(pixel1().ms(expected))


def test_published_networks():
    off = {each.name: abs(pixel1_ms(each.architecture, each.resolution) / each.latency_ms - 1) for each in other_latencies()}
    assert sum(off.values()) / len(off) <= 0.035
    assert max(off.values()) <= 0.07
    counted = {row.network: row.instructions for row in pixel1().rows}
    for network in (A1, A1.scaled(0.35), B1, SMALL):
        width = "" if network.name != "a1" else "-1"
        name = f"{network.name.replace(' x ', '-')}{width}@224"
        assert instructions(network) == pytest.approx(counted[name], rel=0.003)
    assert shipped()["instructions_percent_off"]["held out"] <= 0.3
    assert tuple(coefficients()) == FEATURES
    assert min(coefficients().values()) >= 0


@pytest.mark.parametrize("network", [A1, B1, SMALL, A1.scaled(0.5)], ids=lambda network: network.name)
def test_published_shapes_are_not_flagged(network):
    assert unlike_fitted(network, 224) == ()


def replaced(stage, **changes):
    blocks = list(A1.blocks)
    blocks[stage - 1] = dataclasses.replace(blocks[stage - 1], **changes)
    return dataclasses.replace(A1, blocks=tuple(blocks))


@pytest.mark.parametrize(
    ("network", "resolution", "reason"),
    [
        (replaced(3, kernel=7), 224, "stage 3: kernel 7"),
        (replaced(4, op="conv", expand=1), 224, "stage 4: a plain convolution"),
        (replaced(5, pool=True), 224, "stage 5: pooling in the skip"),
        (A1, 256, "256 pixels"),
        (A1.scaled(0.35), 64, "64 pixels"),
        (D1, 224, "ms, where 4.5 to 143 were measured"),
        (A1.scaled(2), 224, "ms, where 4.5 to 143 were measured"),
    ],
)
def test_what_the_fit_has_not_seen_is_named(network, resolution, reason):
    assert any(reason in each for each in unlike_fitted(network, resolution)), unlike_fitted(network, resolution)


def test_script_fits_what_is_shipped(monkeypatch, capsys):
    pytest.importorskip("scipy")
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    script = importlib.import_module("run_fit_pixel1")
    monkeypatch.setattr(sys, "argv", ["run_fit_pixel1.py"])
    assert script.main() == 0, capsys.readouterr().out
    shown = capsys.readouterr().out
    assert f"instructions of {shipped()['networks']} networks" in shown
    monkeypatch.setattr(script, "FOLDS", 3)
    assert script.main() == 1
    assert "pixel1.json must hold the fit" in capsys.readouterr().out


def test_what_the_script_draws_is_counted(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    script = importlib.import_module("run_fit_pixel1")
    networks = itertools.islice(script.drawn(np.random.default_rng(0)), 20)
    assert {network.name.partition("-")[0] for network, _, _ in networks} == {
        "paper",
        "vertex",
        "mbconv",
        "cell",
        "macro",
        "accel",
    }
