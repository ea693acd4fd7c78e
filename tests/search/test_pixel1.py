"""The Pixel-1 latency model: features by hand, the published networks, the flags, and the shipped fit."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.family import A1, B1, D1, SMALL, a1_latencies, other_latencies
from keras_mnasnet.search.latency import FEATURES, coefficients, features, pixel1_ms, shipped, unlike_fitted

SCRIPT = Path(__file__).parents[2] / "search" / "run_fit_pixel1.py"


def test_features_by_hand():
    network = Architecture.parse("stem8 r1_k3_s22_e3_i8_o16_se0.25 head32")
    found = features(network.layers(16, 16, classes=10), 16, 16)
    # stem 8x8x8; expand 8x8x24; depthwise 4x4x24; gate 24 -> 2 -> 24 on 4x4; project 4x4x16; head 4x4x32; dense 32 -> 10
    assert found == {
        "stem_madds": 64 * 27 * 8,
        "pointwise_madds": 64 * 8 * 24 + 2 * 24 * 2 + 16 * 24 * 16 + 16 * 16 * 32 + 320,
        "pointwise_outputs": 64 * 24 + 16 * 16 + 16 * 32 + 10,
        "pointwise_inputs": 64 * 8 + 16 * 24 + 16 * 16 + 32,
        "weights": 216 + 8 * 24 + 9 * 24 + 2 * 24 * 2 + 24 * 16 + 16 * 32 + 320,
        "depthwise_madds": 16 * 9 * 24,
        "depthwise_outputs": 16 * 24,
        "gated_values": 16 * 24,
        "operators": 8,
    }
    expected = sum(coefficients()[name] * value for name, value in found.items())
    assert pixel1_ms(network, 16, classes=10) == pytest.approx(expected)


def test_published_networks():
    off = {each.name: abs(pixel1_ms(each.architecture, each.resolution) / each.latency_ms - 1) for each in other_latencies()}
    assert sum(off.values()) / len(off) <= 0.04
    assert max(off.values()) <= 0.07
    assert pixel1_ms(B1) == pytest.approx(77.57, abs=0.02)
    rows = [abs(pixel1_ms(each.architecture, each.resolution) / each.latency_ms - 1) for each in a1_latencies()]
    assert (len(rows), sum(rows) / 25 <= 0.032) == (25, True)
    assert shipped()["percent_off"]["leave_one_resolution_out"] <= 4
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
        (replaced(4, expand=4), 224, "stage 4: expansion 4"),
        (replaced(3, se=0.5), 224, "stage 3: squeeze-and-excite 0.5"),
        (replaced(2, se=0.25), 224, "block2a: squeeze-and-excite on 56 pixels, fitted to 28"),
        (replaced(4, op="conv", expand=1), 224, "stage 4: a plain convolution"),
        (replaced(5, pool=True), 224, "stage 5: pooling in the skip"),
        (A1.with_stem_stride(1), 96, "the stem's stride 1"),
        (A1, 256, "256 pixels"),
        (A1.scaled(0.35), 64, "64 pixels"),
        (D1, 224, "stage 2: expansion 9"),
        (A1.scaled(2), 224, "fitted on 5.4 to 135"),
    ],
)
def test_what_the_fit_has_not_seen_is_named(network, resolution, reason):
    assert any(reason in each for each in unlike_fitted(network, resolution)), unlike_fitted(network, resolution)


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_script_fits_what_is_shipped(data):
    pytest.importorskip("scipy")
    done = run("--json", "--data", data / "pixel1")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["percent_off"] == shipped()["percent_off"]
    assert [row["rows"] for row in found["fitted_on"].values()] == [25, 71, 122]


def test_script_refuses_other_tables(data, tmp_path):
    pytest.importorskip("scipy")
    for name in ("proxyless_mobile_trim.yaml", "tunas_proxylessnas_search.json"):
        (tmp_path / name).write_bytes((data / "pixel1" / name).read_bytes())
    table = tmp_path / "tunas_proxylessnas_search.json"
    value = json.loads(table.read_text("utf-8"))
    value["layers"][1][0] += 2
    table.write_text(json.dumps(value), "utf-8")
    done = run("--data", tmp_path)
    assert done.returncode == 1
    assert "pixel1.json must hold the fit" in done.stdout
    assert run("--data", tmp_path / "none").returncode == 2
