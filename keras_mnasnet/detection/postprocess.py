"""From a detector's raw outputs to detections: boxes from their code, sigmoid, non-maximum suppression in every class."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_mnasnet.detection.spec import DetectorSpec, pixels_text


@dataclasses.dataclass(frozen=True, slots=True)
class PostProcess:
    """Thresholds and limits; the defaults are the Object Detection API's for SSDLite."""

    score_threshold: float = 1e-8
    iou_threshold: float = 0.6
    per_class: int = 100
    total: int = 100

    def __post_init__(self) -> None:
        for name in ("score_threshold", "iou_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be between 0 and 1. Received: {name}={getattr(self, name)!r}")
        for name in ("per_class", "total"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be an integer of 1 or more. Received: {name}={getattr(self, name)!r}")

    def __str__(self) -> str:
        return (
            f"scores of {self.score_threshold:g} or more, IoU {self.iou_threshold:g} in each class, {self.per_class} a class, "
            f"{self.total} in all"
        )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What was found in one image, best first: boxes `[n, 4]` (top, left, bottom, right) as shares of the image's height and
    width, classes `[n]` from 0 without the background, scores `[n]`. Boxes may reach beyond the image.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> Detections:
        """Those whose score is `threshold` or more."""
        kept = self.scores >= threshold
        return Detections(self.boxes[kept], self.classes[kept], self.scores[kept])


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    logits = np.asarray(logits)
    powers = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, powers) / (1 + powers)


def detections_of(
    codes: np.ndarray, scores: np.ndarray, spec: DetectorSpec, settings: PostProcess | None = None
) -> list[Detections]:
    """Detections of each image from codes `[B, N, 4]` and probabilities `[B, N, 1 + classes]`, whose slot 0 is the background.

    Every class suppresses its own boxes whose IoU with a better one is more than `iou_threshold`; boxes are not clipped, as
    the TFLite_Detection_PostProcess operator with `use_regular_nms` does it.
    """
    import keras
    import tensorflow as tf

    from keras_mnasnet.detection.anchors import anchors_of, decode_boxes

    settings = settings or PostProcess()
    placed = anchors_of(spec)
    if codes.shape[1:] != (len(placed), 4) or scores.shape[1:] != (len(placed), spec.classes + 1):
        raise ValueError(
            f"A detector of {pixels_text(spec.input_size)} and {spec.classes} classes gives codes [B, {len(placed)}, 4] and "
            f"scores [B, {len(placed)}, {spec.classes + 1}]. Received: {list(codes.shape)} and {list(scores.shape)}"
        )
    boxes = decode_boxes(keras.ops.convert_to_tensor(codes, "float32"), placed, spec.anchors.variance)
    found = tf.image.combined_non_max_suppression(
        keras.ops.convert_to_numpy(boxes)[:, :, None],
        np.asarray(scores, np.float32)[:, :, 1:],
        max_output_size_per_class=settings.per_class,
        max_total_size=settings.total,
        iou_threshold=settings.iou_threshold,
        score_threshold=settings.score_threshold,
        clip_boxes=False,
    )
    columns = zip(
        found.nmsed_boxes.numpy(), found.nmsed_classes.numpy(), found.nmsed_scores.numpy(), found.valid_detections.numpy(),
        strict=True,
    )  # fmt: skip
    return [
        Detections(kept_boxes[:count], classes[:count].astype(np.int64), kept_scores[:count])
        for kept_boxes, classes, kept_scores, count in columns
    ]
