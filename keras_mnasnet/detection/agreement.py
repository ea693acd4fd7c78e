"""Is the file the detector? Detections of a `.tflite` against the Keras model's, photo by photo."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_mnasnet.detection.postprocess import Detections
from keras_mnasnet.export.verify import ExportError

__all__ = ["BOX_LIMIT", "Agreement", "agreement", "judge_detections"]

THRESHOLD = 0.3
BOX_LIMIT = 1e-3  # shares of the image
SAME_IOU = 0.5
FEW = 10  # detections of an image that are compared where none reaches the threshold
LEAST_SHARE = {None: 1.0, "float16": 0.95}
LEAST_SHARE_BELOW = 0.8  # of detections under the threshold, whose order is decided by rounding


@dataclasses.dataclass(frozen=True, slots=True)
class Agreement:
    """Detections with scores of `threshold` or more: the model's (`expected`), the file's (`found`), and how they agree.

    `matched` of the expected and `confirmed` of the found ones have a partner on the other side: the same class, IoU 0.5 or
    more, boxes within BOX_LIMIT for `close`. Differences are the largest between partners: of boxes as shares of the image.
    """

    images: int
    threshold: float
    expected: int
    found: int
    matched: int
    confirmed: int
    close: int
    max_box_difference: float | None
    max_score_difference: float | None


def agreement(model: Sequence[Detections], file: Sequence[Detections], *, threshold: float = THRESHOLD) -> Agreement:
    """Compare the detections of each image, both ways: a partner may have a score just below the threshold.

    Where the model finds nothing with `threshold`, the threshold becomes the lowest score of every image's ten best.
    """
    best = [detections.scores[:FEW] for detections in model]
    if not any((scores >= threshold).any() for scores in best) and any(len(scores) for scores in best):
        threshold = float(min(scores.min() for scores in best if len(scores)))
    expected = found = matched = confirmed = close = 0
    boxes, scores = [], []
    for wanted, given in zip(model, file, strict=True):
        pairs = _partners(wanted.above(threshold), given)
        expected, matched = expected + len(wanted.above(threshold)), matched + len(pairs)
        close += sum(box <= BOX_LIMIT for box, _ in pairs)
        boxes += [box for box, _ in pairs]
        scores += [score for _, score in pairs]
        found, confirmed = found + len(given.above(threshold)), confirmed + len(_partners(given.above(threshold), wanted))
    return Agreement(
        images=len(model),
        threshold=threshold,
        expected=expected,
        found=found,
        matched=matched,
        confirmed=confirmed,
        close=close,
        max_box_difference=max(boxes, default=None),
        max_score_difference=max(scores, default=None),
    )


def _partners(some: Detections, others: Detections) -> list[tuple[float, float]]:
    """(box difference, score difference) of every detection that has a partner: best IoU of its class, each taken once."""
    free = np.ones(len(others), bool)
    found = []
    for box, label, score in zip(some.boxes, some.classes, some.scores, strict=True):
        overlaps = np.where(free & (others.classes == label), _iou(box, others.boxes), 0.0)
        if len(overlaps) and overlaps.max() >= SAME_IOU:
            chosen = int(overlaps.argmax())
            free[chosen] = False
            found.append((float(np.abs(box - others.boxes[chosen]).max()), abs(float(score - others.scores[chosen]))))
    return found


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.maximum(sides, 0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)


def judge_detections(compared: Agreement, quantize: str | None) -> None:
    """ExportError where the file's detections are not the model's: all of them in float32, 95 % in float16.

    Of an int8 file only what it finds is reported: its network was compared before.
    """
    if quantize not in LEAST_SHARE:
        return
    least = LEAST_SHARE[quantize] if compared.threshold >= THRESHOLD else LEAST_SHARE_BELOW
    shares = [part / whole if whole else 1.0 for part, whole in (
        (compared.close, compared.expected), (compared.confirmed, compared.found),
    )]  # fmt: skip
    if min(shares) < least:
        raise ExportError(
            f"The file must find what the model finds: scores of {compared.threshold:g} or more, boxes within "
            f"{BOX_LIMIT:g} of the image. Received: {compared.expected} detections of the model, {compared.matched} of them in "
            f"the file, {compared.close} with such boxes; {compared.found} of the file, {compared.confirmed} of them in the "
            f"model. Are the outputs in another order, or the weights not the model's?"
        )
