"""Box code and matcher, with numbers computed by hand."""

import math

import numpy as np
import pytest

from keras_mnasnet.detection.anchors import (
    CROWD,
    PADDING,
    anchor_boxes,
    corners,
    decode_boxes,
    encode_boxes,
    match_anchors,
    pairwise_ioa,
    pairwise_iou,
    targets_of,
)

ONE = np.array([[0.5, 0.5, 0.2, 0.4]], np.float32)  # y, x, h, w


def test_the_code_by_hand():
    """Box y 0.5..0.8, x 0.4..0.8: center (0.65, 0.6), 0.3 x 0.4; ty = 0.15 / 0.2 / 0.1, tx = 0.1 / 0.4 / 0.1."""
    box = np.array([[0.5, 0.4, 0.8, 0.8]], np.float32)
    expected = [[7.5, 2.5, math.log(0.3 / 0.2) / 0.2, 0.0]]
    np.testing.assert_allclose(np.asarray(encode_boxes(box, ONE)), expected, atol=1e-5)
    np.testing.assert_allclose(np.asarray(decode_boxes(np.array(expected, np.float32), ONE)), box, atol=1e-6)


def test_the_code_is_its_own_inverse():
    rng = np.random.default_rng(0)
    placed = anchor_boxes(320)
    low = rng.uniform(0, 0.7, (2, len(placed), 2))
    boxes = np.concatenate([low, low + rng.uniform(0.02, 0.3, low.shape)], -1).astype(np.float32)
    back = np.asarray(decode_boxes(encode_boxes(boxes, placed), placed))
    np.testing.assert_allclose(back, boxes, atol=2e-6)


def test_overlaps_by_hand():
    """A unit of 0.2 x 0.2 and one moved by half of it: intersection 0.02, union 0.06. Small boxes are not blurred."""
    first = np.array([[0.0, 0.0, 0.2, 0.2], [0.5, 0.5, 0.502, 0.502]], np.float32)
    second = np.array([[0.0, 0.1, 0.2, 0.3], [0.5, 0.5, 0.502, 0.504]], np.float32)
    np.testing.assert_allclose(np.asarray(pairwise_iou(first, second)), [[1 / 3, 0], [0, 0.5]], atol=1e-3)
    np.testing.assert_allclose(np.asarray(pairwise_ioa(first, second[None])[0]), [[0.5, 0], [0, 1]], atol=1e-4)
    np.testing.assert_allclose(np.asarray(corners(ONE)), [[0.4, 0.3, 0.6, 0.7]], atol=1e-7)


def test_argmax_and_force_by_hand():
    """Boxes A, B, C and a padding row, five anchors.

    0: A at 0.6. 1: B at 0.55 beats A at 0.52. 2: the best of A (0.7) and of C (0.3): A comes first. 3 and 4: nobody at 0.5.
    """
    iou = np.array(
        [[
            [0.60, 0.52, 0.70, 0.10, 0.00],  # A: best anchor 2
            [0.10, 0.55, 0.20, 0.49, 0.00],  # B: best anchor 1
            [0.00, 0.00, 0.30, 0.20, 0.05],  # C: best anchor 2, which A has
            [0.90, 0.90, 0.90, 0.90, 0.90],  # padding
        ]],
        np.float32,
    )  # fmt: skip
    valid = np.array([[True, True, True, False]])
    assert np.asarray(match_anchors(iou, valid)).tolist() == [[0, 1, 0, -1, -1]]
    alone = iou.copy()
    alone[0, 2] = (0.0, 0.0, 0.3, 0.2, 0.35)  # C's best anchor is now 4: taken by force, below the threshold
    assert np.asarray(match_anchors(alone, valid)).tolist() == [[0, 1, 0, -1, 2]]
    stolen = iou.copy()
    stolen[0, 2] = (0.65, 0.0, 0.1, 0.0, 0.0)  # C's best anchor is 0, and C is its better box
    stolen[0, 1] = (0.1, 0.2, 0.3, 0.4, 0.45)  # B's best is 4
    assert np.asarray(match_anchors(stolen, valid)).tolist() == [[2, 0, 0, -1, 1]]
    assert np.asarray(match_anchors(iou, valid, 0.65)).tolist() == [[-1, 1, 0, -1, -1]]


def test_force_beats_the_better_box_of_an_anchor():
    """Anchor 0 fits A at 0.8 and B at 0.6; A's best is anchor 1 at 0.9, B's is anchor 0: B gets it by force."""
    iou = np.array([[[0.8, 0.9], [0.6, 0.0]]], np.float32)
    assert np.asarray(match_anchors(iou, np.array([[True, True]]))).tolist() == [[1, 0]]


def test_no_boxes_match_nothing():
    iou = np.full((1, 2, 3), 0.9, np.float32)
    assert np.asarray(match_anchors(iou, np.array([[False, False]]))).tolist() == [[-1, -1, -1]]


def test_targets():
    """Two anchors: one is the box, one lies in a crowd region by 60 %; the third does by 40 % and is background."""
    placed = np.array([[0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2], [0.7, 0.3, 0.2, 0.2]], np.float32)
    boxes = np.array([[[0.1, 0.1, 0.3, 0.3], [0.6, 0.68, 0.8, 0.95], [0.6, 0.32, 0.8, 0.4], [-1, -1, -1, -1]]], np.float32)
    labels = np.array([[4, CROWD, CROWD, PADDING]], np.int32)
    found = targets_of(boxes, labels, placed)
    assert np.asarray(found.slots).tolist() == [[5, 0, 0]]
    assert np.asarray(found.positive).tolist() == [[1, 0, 0]]
    assert np.asarray(found.counted).tolist() == [[1, 0, 1]]
    np.testing.assert_allclose(np.asarray(found.codes), np.zeros((1, 3, 4)), atol=1e-5)


def test_every_box_has_an_anchor_and_its_own_code():
    rng = np.random.default_rng(1)
    placed = anchor_boxes(96)
    low = rng.uniform(0, 0.6, (3, 8, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.4, low.shape)], -1).astype(np.float32)
    labels = rng.integers(0, 5, (3, 8)).astype(np.int32)
    labels[:, 6:] = PADDING
    found = targets_of(boxes, labels, placed)
    decoded = np.asarray(decode_boxes(found.codes, placed))
    positive, slots = np.asarray(found.positive) > 0, np.asarray(found.slots)
    assert (positive == (slots > 0)).all()
    for image in range(3):
        rows = decoded[image][positive[image]]
        distance = np.abs(rows[:, None] - boxes[image, None, :6]).max(-1)
        assert distance.min(1).max() < 1e-5  # every positive anchor codes one of the boxes
        assert (slots[image][positive[image]] == labels[image][distance.argmin(1)] + 1).all()


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_a_loop_agrees(threshold):
    """The matcher written as two loops."""
    rng = np.random.default_rng(2)
    iou = rng.uniform(0, 1, (4, 5, 12)).astype(np.float32)
    valid = rng.uniform(size=(4, 5)) < 0.7
    expected = np.full((4, 12), -1)
    for image in range(4):
        rows = np.flatnonzero(valid[image])
        for anchor in range(12):
            best = max(rows, key=lambda row: iou[image, row, anchor], default=None)
            if best is not None and iou[image, best, anchor] >= threshold:
                expected[image, anchor] = best
        for row in reversed(rows):
            expected[image, iou[image, row].argmax()] = row
    assert (np.asarray(match_anchors(iou, valid, threshold)) == expected).all()
