"""The box code of SSD, on Keras's own coder: (ty, tx, th, tw) relative to anchors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops
from keras.utils import bounding_boxes

__all__ = ["corners", "decode_boxes", "encode_boxes", "pairwise_ioa", "pairwise_iou"]

IOU_SCALE = 1024.0


def encode_boxes(boxes: Any, anchors: Any, variance: Sequence[float] = (0.1, 0.1, 0.2, 0.2)) -> Any:
    """Boxes `[..., N, 4]` (y1, x1, y2, x2) against anchors `[N, 4]` (y, x, h, w) -> `[..., N, 4]` (ty, tx, th, tw).

    ty = (y - ya) / ha / 0.1, th = ln(h / ha) / 0.2, and the same for x and w (faster_rcnn_box_coder with 10, 10, 5, 5).
    """
    return bounding_boxes.encode_box_to_deltas(
        ops.convert_to_tensor(anchors), boxes, anchor_format="center_yxhw", box_format="yxyx",
        encoding_format="center_yxhw", variance=list(variance),
    )  # fmt: skip


def decode_boxes(codes: Any, anchors: Any, variance: Sequence[float] = (0.1, 0.1, 0.2, 0.2)) -> Any:
    """The inverse of `encode_boxes`: `[..., N, 4]` (ty, tx, th, tw) -> (y1, x1, y2, x2), not clipped to the image."""
    return bounding_boxes.decode_deltas_to_boxes(
        ops.convert_to_tensor(anchors), codes, anchor_format="center_yxhw", box_format="yxyx",
        encoded_format="center_yxhw", variance=list(variance),
    )  # fmt: skip


def corners(anchors: Any) -> Any:
    """(y, x, h, w) -> (y1, x1, y2, x2)."""
    return bounding_boxes.convert_format(anchors, source="center_yxhw", target="yxyx")


def pairwise_iou(first: Any, second: Any) -> Any:
    """IoU `[..., M, N]` of boxes `[..., M, 4]` and `[N, 4]` (y1, x1, y2, x2), fractions of the image.

    Computed on a grid of 1024: Keras adds 1e-7 to every union, which counts among fractions and not among pixels.
    """
    return bounding_boxes.compute_iou(first * IOU_SCALE, second * IOU_SCALE, bounding_box_format="yxyx")


def pairwise_ioa(first: Any, second: Any) -> Any:
    """Intersection over the area of the first, `[B, M, N]`, of boxes `[M, 4]` and `[B, N, 4]` (y1, x1, y2, x2)."""
    first, second = first[:, None, :], second[:, None, :, :]
    sides = ops.minimum(first[..., 2:], second[..., 2:]) - ops.maximum(first[..., :2], second[..., :2])
    area = ops.prod(first[..., 2:] - first[..., :2], axis=-1)
    return ops.prod(ops.maximum(sides, 0.0), axis=-1) / ops.maximum(area, 1e-12)
