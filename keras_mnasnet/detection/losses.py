"""The two losses of the Object Detection API's SSDLite recipes: focal, and sigmoid with mined hard negatives."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_mnasnet.detection.anchors import Targets, decode_boxes
from keras_mnasnet.detection.recipe import DetectionRecipe

CANDIDATES = 3000


def sigmoid_cross_entropy(logits: Any, targets: Any) -> Any:
    """-t ln p - (1 - t) ln(1 - p) with p = sigmoid(x), as max(x, 0) - x t + ln(1 + exp(-|x|)); elementwise."""
    return ops.relu(logits) - logits * targets + ops.log1p(ops.exp(-ops.abs(logits)))


def focal(logits: Any, targets: Any, alpha: float = 0.75, gamma: float = 2.0) -> Any:
    """-alpha_t (1 - p_t) ** gamma ln p_t, p_t = p where t = 1, else 1 - p; alpha_t alike (arXiv 1708.02002)."""
    p = ops.sigmoid(logits)
    p_t = targets * p + (1 - targets) * (1 - p)
    alpha_t = targets * alpha + (1 - targets) * (1 - alpha)
    return alpha_t * (1 - p_t) ** gamma * sigmoid_cross_entropy(logits, targets)


def smooth_l1(codes: Any, targets: Any, delta: float = 1.0) -> Any:
    """Huber: d ** 2 / 2 up to `delta`, then delta (|d| - delta / 2); summed over the four codes, `[..., 4]` -> `[...]`."""
    error = ops.abs(codes - targets)
    return ops.sum(ops.where(error <= delta, 0.5 * error**2, delta * (error - 0.5 * delta)), axis=-1)


def hard_examples(losses: Any, positive: Any, counted: Any, ratio: float = 3.0, minimum: int = 3) -> Any:
    """1.0 for the positives and the hardest negatives of each image, 0.0 for the rest; everything float32 `[B, N]`.

    Negatives: counted and not positive, by falling loss, at most max(minimum, floor(ratio * positives)).
    """
    negative = counted * (1 - positive)
    ranked = ops.argsort(ops.where(negative > 0, -losses, float("inf")), axis=1)
    rank = ops.argsort(ranked, axis=1)
    limit = ops.maximum(ops.floor(ratio * ops.sum(positive, axis=1, keepdims=True)), float(minimum))
    return positive + negative * ops.cast(ops.cast(rank, "float32") < limit, "float32")


def _unsuppressed(boxes: Any, losses: Any, iou: float) -> Any:
    """1.0 for the boxes `[B, N, 4]` that stay when those of a higher loss suppress theirs past `iou`."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Non-maximum suppression of hard examples needs the TensorFlow backend. Received: nms_iou={iou} on "
            f"{keras.backend.backend()!r}. Set nms_iou=1 (augmented and random boxes hardly ever overlap by more than 0.99)."
        )
    import tensorflow as tf

    def one(pair: Any) -> Any:
        kept = tf.image.non_max_suppression(*pair, max_output_size=min(CANDIDATES, pair[1].shape[0]), iou_threshold=iou)
        return tf.scatter_nd(kept[:, None], tf.ones_like(kept, tf.float32), tf.shape(pair[1]))

    return tf.map_fn(one, (boxes, losses), fn_output_signature=tf.float32)


def _normalizer(targets: Targets) -> Any:
    """The number of matched anchors in the batch, at least 1."""
    return ops.maximum(ops.sum(targets.positive), 1.0)


@dataclasses.dataclass(frozen=True, slots=True)
class FocalLoss:
    """Focal loss of all slots, the background as all zeros, and smooth L1 / 4; both over the number of matches.

    samples/configs/ssdlite_mobilenet_v3_large_320x320_coco.config, with `normalize_loc_loss_by_codesize`.
    """

    alpha: float = 0.75
    gamma: float = 2.0

    def __call__(self, targets: Targets, codes: Any, logits: Any, anchors: Any, variance: Any) -> tuple[Any, Any]:
        """(score loss, box loss) of a batch: scalars."""
        slots = ops.shape(logits)[-1]
        wanted = ops.one_hot(targets.slots, slots, dtype="float32") * targets.positive[..., None]
        scores = ops.sum(focal(logits, wanted, self.alpha, self.gamma), axis=-1) * targets.counted
        boxes = smooth_l1(codes, targets.codes) * targets.positive / 4
        return ops.sum(scores) / _normalizer(targets), ops.sum(boxes) / _normalizer(targets)


@dataclasses.dataclass(frozen=True, slots=True)
class MinedLoss:
    """Sigmoid cross-entropy of all slots, the background in slot 0, and smooth L1, of positives and hard negatives.

    Candidates are suppressed by their decoded boxes past an IoU of `nms_iou` first (1: not). Both over the number of
    matches. samples/configs/ssdlite_mobilenet_v2_coco.config, core/losses.py HardExampleMiner.
    """

    ratio: float = 3.0
    minimum: int = 3
    nms_iou: float = 0.99

    def __call__(self, targets: Targets, codes: Any, logits: Any, anchors: Any, variance: Any) -> tuple[Any, Any]:
        """(score loss, box loss) of a batch: scalars."""
        slots = ops.shape(logits)[-1]
        wanted = ops.one_hot(targets.slots, slots, dtype="float32")
        scores = ops.sum(sigmoid_cross_entropy(logits, wanted), axis=-1) * targets.counted
        positive, counted = targets.positive, targets.counted
        ranking = ops.stop_gradient(scores)
        if self.nms_iou < 1:
            kept = _unsuppressed(ops.stop_gradient(decode_boxes(codes, anchors, variance)), ranking, self.nms_iou)
            positive, counted = positive * kept, counted * kept
        chosen = ops.stop_gradient(hard_examples(ranking, positive, counted, self.ratio, self.minimum))
        boxes = smooth_l1(codes, targets.codes) * positive
        return ops.sum(scores * chosen) / _normalizer(targets), ops.sum(boxes) / _normalizer(targets)


def loss_of(recipe: DetectionRecipe) -> FocalLoss | MinedLoss:
    """The loss of a recipe, with its settings."""
    if recipe.loss == "focal":
        return FocalLoss(recipe.focal_alpha, recipe.focal_gamma)
    return MinedLoss(recipe.negatives_per_positive, recipe.min_negatives, recipe.nms_iou)
