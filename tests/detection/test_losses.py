"""The losses with numbers computed by hand."""

import math

import keras
import numpy as np
import pytest

from keras_mnasnet.detection.anchors import Targets
from keras_mnasnet.detection.losses import (
    FocalLoss,
    MinedLoss,
    focal,
    hard_examples,
    sigmoid_cross_entropy,
    smooth_l1,
)

VARIANCE = (0.1, 0.1, 0.2, 0.2)


def tensors(*values):
    return [keras.ops.convert_to_tensor(value, "float32") for value in values]


def test_cross_entropy_by_hand():
    """ln 2 at 0; at logit ln 3 (p = 0.75) -ln 0.75 for a hit and -ln 0.25 for a miss; no overflow at 200."""
    logits, targets = tensors([0.0, math.log(3), math.log(3), 200.0, -200.0], [1.0, 1.0, 0.0, 0.0, 0.0])
    expected = [math.log(2), -math.log(0.75), -math.log(0.25), 200.0, 0.0]
    np.testing.assert_allclose(np.asarray(sigmoid_cross_entropy(logits, targets)), expected, rtol=1e-6, atol=1e-7)


def test_focal_by_hand():
    """p = 0.75: a hit costs 0.75 * 0.25 ** 2 * -ln 0.75, a miss 0.25 * 0.75 ** 2 * -ln 0.25."""
    logits, targets = tensors([math.log(3), math.log(3)], [1.0, 0.0])
    expected = [0.75 * 0.0625 * -math.log(0.75), 0.25 * 0.5625 * -math.log(0.25)]
    np.testing.assert_allclose(np.asarray(focal(logits, targets)), expected, rtol=1e-5)
    halves = np.asarray(focal(logits, targets, alpha=0.5, gamma=0.0))
    np.testing.assert_allclose(halves, 0.5 * np.asarray(sigmoid_cross_entropy(logits, targets)), rtol=1e-6)


def test_smooth_l1_by_hand():
    """0.5 * 0.5 ** 2 + (3 - 0.5) + 0 + 0.5 * 1 ** 2 = 3.125; with delta 0.5: 0.125 + 0.5 * 2.75 + 0 + 0.5 * 0.75 = 1.875."""
    codes, targets = tensors([[0.5, -3.0, 2.0, 1.0]], [[0.0, 0.0, 2.0, 0.0]])
    np.testing.assert_allclose(np.asarray(smooth_l1(codes, targets)), [3.125], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(smooth_l1(codes, targets, 0.5)), [1.875], rtol=1e-6)


def test_hard_examples_by_hand():
    """One positive at 3 : 1 keeps the three worst negatives of four; an ignored anchor is none; without positives two."""
    losses, positive, counted = tensors(
        [[9.0, 5.0, 1.0, 4.0, 3.0, 8.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]],
        [[0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]],
        [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0]],
    )
    assert np.asarray(hard_examples(losses, positive, counted, 3.0, 2)).tolist() == [[1, 1, 0, 1, 1, 0], [0, 0, 0, 1, 1, 0]]
    assert np.asarray(hard_examples(losses, positive, counted, 1.5, 0)).tolist() == [[1, 0, 0, 1, 0, 0], [0] * 6]


def scene():
    """One image, four anchors, two classes: anchor 0 is class 1 (slot 2), 1 and 2 are background, 3 lies in a crowd."""
    targets = Targets(
        keras.ops.convert_to_tensor([[2, 0, 0, 0]], "int32"),
        *tensors([[[1.0, 0, 0, 0]] * 4], [[1, 0, 0, 0]], [[1, 1, 1, 0]]),
    )
    logits = np.zeros((1, 4, 3), np.float32)
    logits[0, 2] = math.log(3)
    return targets, *tensors(np.zeros((1, 4, 4)), logits)


def anchors_apart():
    return np.array([[0.1, 0.1, 0.1, 0.1], [0.4, 0.4, 0.1, 0.1], [0.7, 0.7, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1]], np.float32)


def test_focal_loss_of_a_scene():
    """Slot 2 of anchor 0 is wanted: 0.75 / 4 ln 2. The other slots of 0 and 1 at p = 0.5: 5 * 0.25 / 4 ln 2, background slot
    included; of 2 at p = 0.75: 3 * 0.25 * 0.5625 ln 4. Boxes: 0.5 / 4. One match."""
    targets, codes, logits = scene()
    scores, boxes = FocalLoss()(targets, codes, logits, anchors_apart(), VARIANCE)
    expected = (0.75 + 5 * 0.25) / 4 * math.log(2) + 3 * 0.25 * 0.5625 * math.log(4)
    assert float(scores) == pytest.approx(expected, rel=1e-5)
    assert float(boxes) == pytest.approx(0.125)


@pytest.mark.parametrize("nms_iou", [1.0, 0.99])
def test_mined_loss_of_a_scene(nms_iou):
    """Anchor 0: 3 ln 2. With at most one negative it is anchor 2: slot 0 is wanted, -ln 0.75, the others -2 ln 0.25."""
    targets, codes, logits = scene()
    scores, boxes = MinedLoss(1.0, 1, nms_iou)(targets, codes, logits, anchors_apart(), VARIANCE)
    assert float(scores) == pytest.approx(3 * math.log(2) - math.log(0.75) - 2 * math.log(0.25), rel=1e-5)
    assert float(boxes) == pytest.approx(0.5)


def test_suppressed_examples_are_left_out():
    """Anchors 1 and 2 at one place: 2 has the higher loss and suppresses 1, so that a second negative is not found."""
    targets, codes, logits = scene()
    placed = anchors_apart()
    placed[1] = placed[2]
    kept, _ = MinedLoss(2.0, 2, 0.99)(targets, codes, logits, placed, VARIANCE)
    every, _ = MinedLoss(2.0, 2, 1.0)(targets, codes, logits, placed, VARIANCE)
    assert float(every) - float(kept) == pytest.approx(3 * math.log(2), rel=1e-5)


def test_images_without_boxes_have_a_finite_loss():
    _, codes, logits = scene()
    empty = Targets(keras.ops.zeros((1, 4), "int32"), *tensors(np.zeros((1, 4, 4)), np.zeros((1, 4)), np.ones((1, 4))))
    for loss in (FocalLoss(), MinedLoss()):
        scores, boxes = loss(empty, codes, logits, anchors_apart(), VARIANCE)
        assert np.isfinite(float(scores))
        assert float(scores) > 0
        assert float(boxes) == 0
