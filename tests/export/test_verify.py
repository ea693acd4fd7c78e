"""The comparison of a file with its model, by numbers computed by hand, and what it refuses."""

import math
from pathlib import Path

import numpy as np
import pytest

from keras_mnasnet.export import ExportError, export
from keras_mnasnet.export.verify import LIMITS, _comparison, accepting, drawn_images, judge

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def judged(found, wanted, precision="int8", **options):
    compared = _comparison("scores", np.asarray(found, np.float64), np.asarray(wanted, np.float64), precision)
    judge((compared,), precision, accepting(precision, options.get("accept_changed")))
    return compared


def test_spread_and_error_by_hand():
    """Two images, two classes, scores 1 and -1: root mean square 1, times sqrt(2 / 1) for two images of many.

    All differ by 0.1. What float16 resolves is added to the spread, over its limit: its share of the level, which is 1, and
    2**-21 of the largest score.
    """
    wanted = np.array([[1.0, -1.0], [-1.0, 1.0]])
    compared = _comparison("scores", wanted + 0.1, wanted, "float16")
    assert compared.spread == pytest.approx(math.sqrt(2))
    limits = LIMITS["float16"]
    assert compared.error == compared.worst == pytest.approx(0.1 / (math.sqrt(2) + (limits.level + 2**-21) / limits.spread))
    one = _comparison("scores", wanted + np.array([0.2, 0]), wanted, "float16")
    assert (one.worst_class, one.worst) == (0, pytest.approx(2 * compared.error))
    assert one.error == pytest.approx(math.sqrt(2) * compared.error)


@pytest.mark.parametrize("precision", LIMITS)
def test_constants_help_no_file(precision):
    """A constant on all scores, or a bias a class, in both: the spread is the same, and a shuffled file is refused."""
    rng = np.random.default_rng(0)
    wanted = rng.normal(0, 3, (64, 10))
    plain = judged(wanted, wanted, precision)
    for bias in (1e3, rng.normal(0, 10, 10)):
        compared = judged(wanted + bias, wanted + bias, precision)
        assert compared.spread == pytest.approx(plain.spread, rel=1e-6)
        for order in (np.roll(np.arange(10), 1), [1, 0, *range(2, 10)]):
            with pytest.raises(ExportError, match="must differ from the model by at most"):
                judged(wanted[:, order] + bias, wanted + bias, precision)


def test_decisions_with_a_margin():
    """Of 100 images 10 are undecided, and what the file makes of these does not count."""
    wanted = np.zeros((100, 2))
    wanted[:, 0] = np.where(np.arange(100) % 2, 1, -1)
    wanted[:10, 0] *= 1e-3
    compared = judged(np.where(np.arange(100)[:, None] < 10, -wanted, wanted), wanted)
    assert (compared.decided, compared.changed, compared.top1_agreement, compared.judged) == (90, 0, 0.9, "decisions")
    allowed = math.ceil(LIMITS["int8"].changed * 90)
    for changed, accepted in ((allowed, None), (allowed + 1, 0.2)):
        found = wanted.copy()
        found[-changed:] *= -0.01
        assert judged(found, wanted, accept_changed=accepted).changed == changed
    with pytest.raises(
        ExportError,
        match=rf"may change {LIMITS['int8'].changed:.0%} of the decisions .* {changed} of 90 at 'scores', .*mnasnet qat.*"
        rf"weight-int8.*`accept_changed` \(--accept-changed\) takes more, as 0\.\d",
    ):
        judged(found, wanted)


def test_a_quantized_file_that_changes_a_sixth_of_the_decisions_is_refused():
    """As one int8 file of a real network did; its differences alone would pass."""
    rng = np.random.default_rng(0)
    wanted = rng.normal(0, 1, (400, 5)) + 2 * np.eye(5)[rng.integers(0, 5, 400)]
    found = wanted + rng.normal(0, 0.48, wanted.shape)
    changed = (found.argmax(axis=1) != wanted.argmax(axis=1)).mean()
    assert 0.14 < changed < 0.18
    with pytest.raises(ExportError, match="The int8 file may change"):
        judged(found, wanted)
    assert judged(found, wanted, accept_changed=0.2).error < LIMITS["int8"].spread


def test_what_the_judgement_rests_on_is_named():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (20, 4, 4, 3))
    assert judged(values, values).judged == "values"
    level = np.arange(10.0) + 1e-6 * rng.normal(0, 1, (20, 10))
    assert judged(level, level).judged == "too little spread"
    even = rng.choice([-1.0, 1.0], (20, 1)) * [1, 1, -1, -1]
    assert judged(even, even).judged == "too little margin"
    assert judged(even, even).decided == 0


def test_probabilities():
    """Of float files the logarithms, where a class that is never likely counts; of 8-bit ones the probabilities themselves."""
    logits = np.random.default_rng(0).normal(0, 3, (50, 6)) - [0, 0, 0, 0, 14, 14]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    swapped = scores[:, [0, 1, 2, 3, 5, 4]]
    assert np.abs(scores - swapped).max() < 1e-3
    with pytest.raises(ExportError, match="in class [45]"):
        judged(swapped, scores, "weight-int8")
    assert judged(np.rint(scores * 256) / 256, scores, "int8").error < 0.1


def test_accepted_shares():
    for wrong in (-0.1, 1.5, True, "0.2", float("nan")):
        with pytest.raises(
            ValueError, match=r"`accept_changed` \(--accept-changed\) must be a share of the decisions, 0 to 1. Rec"
        ):
            accepting("int8", wrong)
    assert accepting("int8", 1).changed == accepting("int8", 1).detections == 1.0


def test_constant_outputs():
    varied = np.array([[1.0, 2.0], [1.0, 2.1]])
    constant = np.array([[1.0, 2.0], [1.0, 2.0]])
    assert not _comparison("scores", constant, constant, "int8").constant
    assert not _comparison("scores", varied, constant, "int8").constant
    assert not _comparison("scores", constant[:1], varied[:1], "int8").constant
    compared = _comparison("scores", constant, varied, "int8")
    assert compared.constant
    with pytest.raises(ExportError, match=r"must tell images apart .*all 2 images.*classifier_activation=None"):
        judge((compared,), "int8", LIMITS["int8"])
    judged(constant, constant + np.float64(1e-9))


def test_a_softmax_below_its_step_is_refused(tmp_path):
    """A thousand probabilities of 0.001: the int8 softmax gives zeros."""
    from keras_mnasnet import MnasNet

    model = MnasNet("a1", weights=None, input_shape=(32, 32, 3), width_multiplier=0.35)
    kernel, bias = model.get_layer("predictions").get_weights()
    model.get_layer("predictions").set_weights([kernel * 1e-3, bias])
    pictures = drawn_images(120, 32, 32, 3)
    with pytest.raises(ExportError, match="must tell images apart.*classifier_activation=None"):
        export(model, tmp_path / "a.tflite", quantize="int8", representative_data=pictures)
    assert not list(tmp_path.glob("*.tflite*"))


def test_drawn_pictures_are_sums_of_waves():
    rng = np.random.default_rng(3)
    rows, columns = np.linspace(0, 1, 9)[:, None, None], np.linspace(0, 1, 14)[:, None]
    for picture in drawn_images(2, 9, 14, 3, seed=3):
        waves = np.zeros((9, 14, 3))
        for frequency in (1, 2, 4, 8, 16):
            u, v = rng.uniform(-frequency, frequency, (2, 3))
            waves += np.sin(2 * np.pi * (rows * u + columns * v) + rng.uniform(-np.pi, np.pi, 3)) / frequency
        expected = 255 * (waves - waves.min()) / np.ptp(waves)
        assert picture.dtype == np.float32
        assert (picture.min(), picture.max()) == (0, 255)
        assert np.abs(picture - expected).max() < 0.5 + 1e-6


def test_a_smaller_share_than_the_default_loosens_nothing():
    limits = accepting("int8", 0.0)
    assert (limits.spread, limits.scores, limits.changed) == (LIMITS["int8"].spread, LIMITS["int8"].scores, 0.0)
    assert (accepting("int8", 0.2).spread, accepting("int8", 0.2).scores) == (1.0, None)
    assert accepting("float32", 0.2).spread == LIMITS["float32"].spread


def test_the_readme_shows_the_limits():
    lines = [line.split("|")[1:-1] for line in README.splitlines() if line.startswith("| ") and line.count("|") == 6]
    rows = {name.partition(",")[0].strip(): [cell.strip() for cell in cells] for name, *cells in lines}
    rows["dynamic"] = rows["weight-int8"]
    for name, limits in LIMITS.items():
        spread, level, margin, changed = rows[name]
        assert (float(spread), float(level), float(margin)) == (limits.spread, limits.level, limits.margin)
        assert changed.startswith(f"{100 * limits.changed:g} %" if limits.changed else "none")
        if limits.detections:
            assert f"detectors: {100 * limits.detections:g} % of the boxes" in changed
