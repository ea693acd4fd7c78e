"""Detections from raw outputs: hand-made boxes and scores."""

import numpy as np
import pytest

from keras_mnasnet.detection.anchors import anchor_boxes
from keras_mnasnet.detection.postprocess import Detections, PostProcess, detections_of, sigmoid
from keras_mnasnet.detection.spec import DetectorSpec
from keras_mnasnet.family import FAMILY

SPEC = DetectorSpec(backbone=str(FAMILY["b1"]), input_size=96, labels=("cat", "dog"), category_ids=(17, 18))


def outputs(*objects):
    """Codes and probabilities of one image; every object is (anchor, class, score, box or None for the anchor itself)."""
    placed = anchor_boxes(96)
    codes, scores = np.zeros((1, len(placed), 4), np.float32), np.zeros((1, len(placed), 3), np.float32)
    scores[:, :, 0] = 0.99  # the background takes no part
    for number, label, score, box in objects:
        scores[0, number, label + 1] = score
        if box is not None:
            y, x, h, w = placed[number]
            top, left, bottom, right = box
            codes[0, number] = (
                ((top + bottom) / 2 - y) / h * 10, ((left + right) / 2 - x) / w * 10, np.log((bottom - top) / h) * 5,
                np.log((right - left) / w) * 5,
            )  # fmt: skip
    return codes, scores


def test_sigmoid_does_not_overflow():
    with np.errstate(over="raise"):
        np.testing.assert_allclose(sigmoid([-1000.0, -np.log(3), 0.0, np.log(3), 1000.0]), [0, 0.25, 0.5, 0.75, 1])


def test_an_anchor_with_code_zero_is_its_own_box():
    y, x, h, w = anchor_boxes(96)[7]
    (found,) = detections_of(*outputs((7, 1, 0.8, None)), SPEC)
    np.testing.assert_allclose(found.boxes, [[y - h / 2, x - w / 2, y + h / 2, x + w / 2]], atol=1e-6)
    assert found.classes.tolist() == [1]
    np.testing.assert_allclose(found.scores, [0.8])


def test_suppression_is_of_each_class_alone():
    """IoU of the first two boxes is 0.04 / 0.06 = 2/3: more than 0.6 and less than 0.7."""
    first, second = (0.1, 0.1, 0.35, 0.3), (0.15, 0.1, 0.4, 0.3)
    codes, scores = outputs((0, 0, 0.9, first), (1, 0, 0.8, second), (2, 1, 0.7, first))
    (found,) = detections_of(codes, scores, SPEC)
    assert found.classes.tolist() == [0, 1]
    np.testing.assert_allclose(found.scores, [0.9, 0.7])
    np.testing.assert_allclose(found.boxes, [first, first], atol=1e-6)
    (found,) = detections_of(codes, scores, SPEC, PostProcess(iou_threshold=0.7))
    np.testing.assert_allclose(found.scores, [0.9, 0.8, 0.7])


def test_thresholds_and_limits():
    cells = [(0.2 * i, 0.2 * j, 0.2 * i + 0.15, 0.2 * j + 0.15) for i in range(2) for j in range(3)]
    codes, scores = outputs(*((n, n % 2, 0.9 - 0.1 * n, box) for n, box in enumerate(cells)))

    def scores_of(**settings):
        (found,) = detections_of(codes, scores, SPEC, PostProcess(**settings))
        return [round(float(score), 3) for score in found.scores]

    assert scores_of() == [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert scores_of(score_threshold=0.55) == [0.9, 0.8, 0.7, 0.6]
    assert scores_of(per_class=1) == [0.9, 0.8]
    assert scores_of(total=3) == [0.9, 0.8, 0.7]
    assert len(detections_of(codes, scores, SPEC)[0].above(0.65)) == 3


def test_images_of_a_batch_are_apart():
    one, other = outputs((0, 0, 0.9, (0.1, 0.1, 0.4, 0.4))), outputs((5, 1, 0.6, (0.5, 0.5, 0.9, 0.9)))
    found = detections_of(*(np.concatenate(pair) for pair in zip(one, other, strict=True)), SPEC)
    assert [each.classes.tolist() for each in found] == [[0], [1]]


def test_nothing_found():
    (found,) = detections_of(*outputs(), SPEC)
    assert isinstance(found, Detections)
    assert len(found) == 0


def test_refusals():
    codes, scores = outputs()
    with pytest.raises(ValueError, match=r"gives codes \[B, \d+, 4\] and scores \[B, \d+, 3\]. Received: .*, 4\] and .*, 2\]"):
        detections_of(codes, scores[:, :, :2], SPEC)
    with pytest.raises(ValueError, match="`iou_threshold` must be between 0 and 1. Received: iou_threshold=1.5"):
        PostProcess(iou_threshold=1.5)
    with pytest.raises(ValueError, match="`total` must be an integer of 1 or more. Received: total=0"):
        PostProcess(total=0)
