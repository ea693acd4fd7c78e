"""Anchors: counts, order and hand-computed boxes."""

import math
import re

import numpy as np
import pytest

from keras_mnasnet.detection.anchors import anchor_boxes, chosen_anchors
from keras_mnasnet.detection.spec import AnchorSettings, map_sizes, shapes_per_level


@pytest.mark.parametrize(
    ("size", "sides", "count"),
    [(320, (20, 10, 5, 3, 2, 1), 2034), (300, (19, 10, 5, 3, 2, 1), 1917), (96, (6, 3, 2, 1, 1, 1), 204)],
)
def test_counts(size, sides, count):
    assert map_sizes((size, size)) == tuple((side, side) for side in sides)
    assert anchor_boxes(size).shape == (count, 4)
    assert sides[0] ** 2 * 3 + sum(side**2 for side in sides[1:]) * 6 == count


def test_the_first_cells_by_hand():
    """Level 0 has 20 x 20 cells, whose first center is (0.5 / 20, 0.5 / 20); a square of 0.1, then scale 0.2."""
    found = anchor_boxes(320)
    root = math.sqrt(2)
    expected = [
        (0.025, 0.025, 0.1, 0.1),
        (0.025, 0.025, 0.2 / root, 0.2 * root),
        (0.025, 0.025, 0.2 * root, 0.2 / root),
        (0.025, 0.075, 0.1, 0.1),  # the next column
    ]
    np.testing.assert_allclose(found[:4], expected, rtol=1e-6)
    np.testing.assert_allclose(found[60], (0.075, 0.025, 0.1, 0.1), rtol=1e-6)  # the next row


def test_the_second_level_by_hand():
    """Scale 0.35 with ratios 1, 2, 1/2, 3, 0.3333, then a square of sqrt(0.35 * 0.5), in cells of 1/10."""
    scale = 0.35
    expected = [(scale / math.sqrt(ratio), scale * math.sqrt(ratio)) for ratio in (1, 2, 0.5, 3, 0.3333)]
    expected.append((math.sqrt(0.35 * 0.5),) * 2)
    found = anchor_boxes(320)[1200:1206]
    np.testing.assert_allclose(found[:, :2], 0.05, rtol=1e-6)
    np.testing.assert_allclose(found[:, 2:], expected, rtol=1e-6)


def test_the_last_anchor_reaches_past_the_photo():
    """Scale 0.95 and the next, 1: a square of sqrt(0.95) at the center of the one cell; those of ratio 3 are wider than 1."""
    found = anchor_boxes(320)
    np.testing.assert_allclose(found[-1], (0.5, 0.5, math.sqrt(0.95), math.sqrt(0.95)), rtol=1e-6)
    assert found[-3, 3] == pytest.approx(0.95 * math.sqrt(3))


def test_settings():
    every = shapes_per_level(AnchorSettings(reduced_first=False))
    assert [len(level) for level in every] == [6] * 6  # torchvision's ssdlite320: 6 everywhere, 3,234 at 320
    assert len(anchor_boxes(320, AnchorSettings(reduced_first=False))) == 3234
    with pytest.raises(ValueError, match="0.001 <= min_scale < max_scale <= 1. Received: min_scale=0.9, max_scale=0.5"):
        AnchorSettings(min_scale=0.9, max_scale=0.5)
    with pytest.raises(ValueError, match="1 to 100 numbers, 0.01 to 100. Received: aspect_ratios=\\(\\)"):
        AnchorSettings(aspect_ratios=())


@pytest.mark.parametrize("levels", [1, 0, -1, 13, 2.5, True, "six", None])
def test_levels_that_no_detector_has(levels):
    message = re.escape(f"`levels` must be a whole number from 2, the backbone's, to 12. Received: levels={levels!r}")
    with pytest.raises(ValueError, match=message):
        anchor_boxes(320, levels=levels)
    with pytest.raises(ValueError, match=message):
        chosen_anchors(np.array([[0, 0, 1, 1]]), (320, 320), levels=levels)


@pytest.mark.parametrize("settings", [5, "auto", {"min_scale": 0.1}])
def test_settings_that_are_none(settings):
    with pytest.raises(ValueError, match="`anchors` must be AnchorSettings. Received: anchors="):
        anchor_boxes(320, settings)
