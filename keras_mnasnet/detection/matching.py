"""Which anchor is to find which box: argmax of the IoU, and the best anchor of every box by force."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_mnasnet.detection.boxes import corners, encode_boxes, pairwise_ioa, pairwise_iou

__all__ = ["CROWD", "PADDING", "Targets", "match_anchors", "targets_of"]

PADDING, CROWD = -1, -2  # labels of rows that are no box, and of regions where nothing is asked
IOU_THRESHOLD = 0.5
CROWD_THRESHOLD = 0.5
NO_MATCH = -1


class Targets(NamedTuple):
    """What the anchors of a batch are to say: slots int32 `[B, N]` (0 background, class + 1), codes float32 `[B, N, 4]`,
    positive and counted (of the score loss) float32 `[B, N]` of 0 and 1."""

    slots: Any
    codes: Any
    positive: Any
    counted: Any


def match_anchors(iou: Any, valid: Any, threshold: float = IOU_THRESHOLD) -> Any:
    """The box (int32 `[B, N]`) of every anchor, -1 for none, from IoU `[B, G, N]` and validity bool `[B, G]`.

    An anchor takes the box of its highest IoU, if that is at least `threshold`; then every valid box takes its best anchor,
    whatever the IoU, the first box where several want one. object_detection matchers/argmax_matcher.py with
    `force_match_for_each_row`; padding rows take no part.
    """
    anchors = iou.shape[-1]
    valid = ops.cast(valid, "bool")[..., None]
    iou = ops.where(valid, iou, -1.0)
    best = ops.cast(ops.argmax(iou, axis=1), "int32")
    matches = ops.where(ops.max(iou, axis=1) >= threshold, best, NO_MATCH)
    wanted = ops.one_hot(ops.argmax(iou, axis=2), anchors, dtype="int32") * ops.cast(valid, "int32")
    forced = ops.cast(ops.argmax(wanted, axis=1), "int32")
    return ops.where(ops.max(wanted, axis=1) > 0, forced, matches)


def targets_of(
    boxes: Any, labels: Any, anchors: Any, variance: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2), *,
    threshold: float = IOU_THRESHOLD,
) -> Targets:  # fmt: skip
    """Targets of boxes float32 `[B, G, 4]` (y1, x1, y2, x2, shares of the image) and labels `[B, G]` against anchors `[N, 4]`.

    Labels are classes from 0, PADDING or CROWD. Anchors without a box of which at least half lies in a crowd region count
    neither as background nor as anything else.
    """
    boxes = ops.cast(boxes, "float32")
    labels = ops.cast(labels, "int32")
    anchors = ops.convert_to_tensor(anchors, "float32")
    placed = corners(anchors)
    matches = match_anchors(pairwise_iou(boxes, placed), labels >= 0, threshold)
    found = matches >= 0
    index = ops.maximum(matches, 0)
    slots = ops.where(found, ops.take_along_axis(labels, index, axis=1) + 1, 0)
    wanted = ops.take_along_axis(boxes, ops.repeat(index[..., None], 4, axis=-1), axis=1)
    wanted = ops.where(found[..., None], wanted, placed)
    in_crowd = ops.max(pairwise_ioa(placed, boxes) * ops.cast(labels == CROWD, "float32")[:, None, :], axis=-1)
    counted = ops.logical_or(found, in_crowd < CROWD_THRESHOLD)
    targets = Targets(slots, encode_boxes(wanted, anchors, variance), ops.cast(found, "float32"), ops.cast(counted, "float32"))
    return Targets(*map(keras.ops.stop_gradient, targets))
