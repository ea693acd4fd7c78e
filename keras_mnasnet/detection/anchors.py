"""Anchors, the code of boxes relative to them, and which box each anchor is to find."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops
from keras.utils import bounding_boxes

from keras_mnasnet.detection.spec import LEVELS, AnchorSettings, DetectorSpec, map_sizes, shapes_per_level, sides

IOU_SCALE = 1024.0
PADDING, CROWD = -1, -2  # labels of rows that are no box, and of regions where nothing is asked
IOU_THRESHOLD = 0.5
CROWD_THRESHOLD = 0.5
NO_MATCH = -1
# Of `chosen_anchors`
SCALES = tuple(float(f"{scale:.2g}") for scale in np.geomspace(0.03, 1, 16))
RATIOS = tuple(float(f"{ratio:.2g}") for ratio in np.geomspace(0.2, 5, 15))
FITTED = 1000
FULL_GAIN = 0.01


def anchor_boxes(
    size: int | tuple[int, int] = 320, settings: AnchorSettings | None = None, *, levels: int = LEVELS
) -> np.ndarray:
    """Anchors float32 `[N, 4]` (y center, x center, h, w) as fractions of the image, not clipped to it.

    `size` is the input's pixels, one number or (height, width). Order: level, row, column, shape; a cell's center is
    ((row + 0.5) / map height, (column + 0.5) / map width). 2,034 at 320 pixels, 1,917 at 300. On an input that is no square,
    anchors of ratio 1 are squares of pixels. Source: object_detection anchor_generators/multiple_grid_anchor_generator.py.
    """
    size, settings = sides(size), settings or AnchorSettings()
    parts = []
    for shapes, (rows, columns) in zip(shapes_per_level(settings, size, levels), map_sizes(size, levels), strict=True):
        grid = np.empty((rows, columns, len(shapes), 4))
        grid[..., 0] = ((np.arange(rows) + 0.5) / rows)[:, None, None]
        grid[..., 1] = ((np.arange(columns) + 0.5) / columns)[None, :, None]
        grid[..., 2:] = shapes
        parts.append(grid.reshape(-1, 4))
    return np.concatenate(parts).astype(np.float32)


def anchors_of(spec: DetectorSpec) -> np.ndarray:
    """The anchors of a detector, as `anchor_boxes` gives them."""
    return anchor_boxes(spec.input_size, spec.anchors, levels=spec.levels)


def best_iou(boxes: np.ndarray, size: tuple[int, int], settings: AnchorSettings, levels: int = LEVELS) -> np.ndarray:
    """The highest IoU that some anchor has with each box `[R, 4]` (y1, x1, y2, x2, shares of the image): float64 `[R]`.

    Of the anchors of one shape the one whose center is nearest overlaps most, so that only that one is asked.
    """
    y1, x1, y2, x2 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    best = np.zeros(len(y1))

    def nearest(low: np.ndarray, high: np.ndarray, cells: int) -> np.ndarray:
        return (np.clip(np.floor((low + high) / 2 * cells), 0, cells - 1) + 0.5) / cells

    for shapes, (rows, columns) in zip(shapes_per_level(settings, size, levels), map_sizes(size, levels), strict=True):
        y, x = nearest(y1, y2, rows), nearest(x1, x2, columns)
        for height, width in shapes:
            tall = np.minimum(y2, y + height / 2) - np.maximum(y1, y - height / 2)
            wide = np.minimum(x2, x + width / 2) - np.maximum(x1, x - width / 2)
            common = np.maximum(tall, 0) * np.maximum(wide, 0)
            best = np.maximum(best, common / np.maximum((y2 - y1) * (x2 - x1) + height * width - common, 1e-12))
    return best


def chosen_anchors(
    boxes: np.ndarray, size: tuple[int, int], *, levels: int = LEVELS, threshold: float = IOU_THRESHOLD
) -> AnchorSettings:
    """The settings whose anchors match the largest share of boxes `[R, 4]` (y1, x1, y2, x2, shares of the image), with an IoU
    of `threshold` or more; of equal ones, those with the higher mean of the boxes' best IoU.

    First the usual scales and every pair of SCALES are tried as `min_scale` and `max_scale`, with three anchors a cell on the
    first level and with all of them, which are taken where they match FULL_GAIN more. Then the aspect ratio whose exchange for
    one of RATIOS gains most is exchanged, until none gains. FITTED boxes at most, spread evenly, are asked; nothing is random.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    boxes = boxes[np.unique(np.linspace(0, len(boxes) - 1, min(len(boxes), FITTED)).round().astype(int))]

    def gain(settings: AnchorSettings) -> tuple[float, float]:
        found = best_iou(boxes, size, settings, levels)
        return float((found >= threshold).mean()), float(found.mean())

    def better(candidates: Iterable[AnchorSettings]) -> tuple[tuple[float, float], AnchorSettings]:
        return max(((gain(each), each) for each in candidates), key=lambda pair: pair[0])  # the first of equal ones

    reduced, full = (
        better(AnchorSettings(low, high, reduced_first=few) for low, high in ((0.2, 0.95), *itertools.combinations(SCALES, 2)))
        for few in (True, False)
    )
    best, settings = full if full[0][0] >= reduced[0][0] + FULL_GAIN else reduced
    while True:
        ratios = settings.aspect_ratios
        found, changed = better(
            dataclasses.replace(settings, aspect_ratios=(*ratios[:at], ratio, *ratios[at + 1 :]))
            for at in range(len(ratios))
            for ratio in RATIOS
        )
        if found <= best:
            return settings
        best, settings = found, changed


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
    return Targets(*map(ops.stop_gradient, targets))
