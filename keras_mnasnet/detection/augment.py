"""Augmentation of photos with boxes, without state: every random draw follows from a seed."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_mnasnet.detection.matching import CROWD
from keras_mnasnet.detection.recipe import BoxAugment

__all__ = ["crop_boxes", "flip", "sample_window"]

# object_detection core/preprocessor.py, ssd_random_crop: one of the seven, each left out with probability 0.15.
OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
KEEP_PROBABILITY = 0.15
ATTEMPTS = 100
TINY = 1e-6


def sample_window(shape: Any, boxes: Any, labels: Any, seed: Any, augment: BoxAugment) -> tuple[Any, Any]:
    """(window int32 `[4]` top, left, height, width in pixels; overlap threshold) of a photo of `shape` (h, w, 3).

    One of OVERLAPS is drawn: some box must be covered by that much, and boxes covered by less are to be left out. A photo
    without boxes is cropped like any other.
    """
    draws = tf.random.stateless_uniform((2,), seed)
    which = tf.minimum(tf.cast(draws[0] * len(OVERLAPS), tf.int32), len(OVERLAPS) - 1)
    threshold = tf.gather(tf.constant(OVERLAPS), which)
    asked = tf.boolean_mask(boxes, labels >= 0)
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape, tf.clip_by_value(asked, 0.0, 1.0)[None], tf.random.fold_in(seed, 1), min_object_covered=threshold,
        aspect_ratio_range=augment.aspect, area_range=augment.area, max_attempts=ATTEMPTS, use_image_if_no_bounding_boxes=True,
    )  # fmt: skip
    window = tf.stack([begin[0], begin[1], extent[0], extent[1]])
    whole = tf.stack([0, 0, shape[0], shape[1]])
    kept = draws[1] < KEEP_PROBABILITY
    return tf.where(kept, whole, window), tf.where(kept, 0.0, threshold)


def crop_boxes(boxes: Any, labels: Any, shape: Any, window: Any, threshold: Any) -> tuple[Any, Any]:
    """Boxes `[n, 4]` and labels `[n]` of a photo as they are in a window of it, clipped to it.

    Boxes that the window covers by less than `threshold` of their area, or not at all, are left out. Crowd regions stay
    with whatever the window shows of them.
    """
    sides = tf.cast(tf.tile(shape[:2], [2]), tf.float32)
    top, left, height, width = tf.unstack(tf.cast(window, tf.float32))
    pixels = boxes * sides
    clipped = tf.stack(
        [
            tf.clip_by_value(pixels[:, 0], top, top + height),
            tf.clip_by_value(pixels[:, 1], left, left + width),
            tf.clip_by_value(pixels[:, 2], top, top + height),
            tf.clip_by_value(pixels[:, 3], left, left + width),
        ],
        axis=1,
    )
    covered = _area(clipped) / tf.maximum(_area(pixels), TINY)
    stays = (covered > 0) & ((covered >= threshold - TINY) | (labels == CROWD))
    moved = (clipped - tf.stack([top, left, top, left])) / tf.stack([height, width, height, width])
    return tf.boolean_mask(moved, stays), tf.boolean_mask(labels, stays)


def _area(boxes: Any) -> Any:
    return tf.maximum(boxes[:, 2] - boxes[:, 0], 0.0) * tf.maximum(boxes[:, 3] - boxes[:, 1], 0.0)


def flip(pixels: Any, boxes: Any, seed: Any) -> tuple[Any, Any]:
    """Left and right exchanged with probability 1/2: pixels `[h, w, 3]` and boxes (y1, x1, y2, x2) as shares of the photo."""
    y1, x1, y2, x2 = tf.unstack(boxes, axis=1)
    is_flipped = tf.random.stateless_uniform((), seed) < 0.5
    mirrored = tf.stack([y1, 1 - x2, y2, 1 - x1], axis=1)
    return tf.where(is_flipped, tf.reverse(pixels, [1]), pixels), tf.where(is_flipped, mirrored, boxes)
