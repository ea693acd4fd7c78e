"""What follows a detector's network in a `.tflite`: sigmoid, then the post-processing operator, builtin NMS, or nothing.

Every tail takes `codes` [1, N, 4] and `logits` [1, N, 1 + classes], in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from keras_mnasnet.detection.anchors import anchor_boxes
from keras_mnasnet.detection.postprocess import PostProcess
from keras_mnasnet.detection.spec import DetectorSpec
from keras_mnasnet.export.converter import convert_function
from keras_mnasnet.export.flatbuffer import ModelWriter
from keras_mnasnet.export.rewrite import rewritten

__all__ = ["OPERATOR", "OUTPUTS", "SUPPRESSION", "TAILS", "builtin_tail", "operator_tail", "raw_tail"]

OPERATOR = "TFLite_Detection_PostProcess"
OUTPUTS = ("boxes", "classes", "scores", "count")
REACH = 1.0  # builtin NMS: boxes are compared as far as one image beyond the image
CELL = 1 + 2 * REACH


def _start(spec: DetectorSpec) -> tuple[ModelWriter, dict[str, int], int]:
    writer = ModelWriter()
    count, classes = len(anchor_boxes(spec.input_size, spec.anchors)), spec.classes
    inputs = {"codes": writer.tensor("codes", (1, count, 4)), "logits": writer.tensor("logits", (1, count, classes + 1))}
    scores = writer.tensor("probabilities", (1, count, classes + 1))
    writer.operator("LOGISTIC", [inputs["logits"]], [scores])
    return writer, inputs, scores


def raw_tail(spec: DetectorSpec, settings: PostProcess) -> bytes:
    """`boxes` [1, N, 4], still in code, and `scores` [1, N, 1 + classes], probabilities with the background in slot 0."""
    writer, inputs, scores = _start(spec)
    return writer.finish(inputs, {"boxes": inputs["codes"], "scores": scores}, description="", metadata={})


def operator_tail(spec: DetectorSpec, settings: PostProcess) -> bytes:
    """The four outputs of TFLite_Detection_PostProcess, in its order, with suppression in every class."""
    from flatbuffers import flexbuffers

    writer, inputs, scores = _start(spec)
    anchors = anchor_boxes(spec.input_size, spec.anchors)
    constant = writer.tensor("anchors", anchors.shape, data=anchors)
    shapes = ((1, settings.total, 4), (1, settings.total), (1, settings.total), (1,))
    outputs = {name: writer.tensor(name, shape) for name, shape in zip(OUTPUTS, shapes, strict=True)}
    options = flexbuffers.Builder()
    with options.Map():
        for key, value in {
            "max_detections": settings.total,
            "max_classes_per_detection": 1,
            "detections_per_class": settings.per_class,
            "num_classes": spec.classes,
        }.items():
            options.Int(key, value)
        options.Bool("use_regular_nms", True)
        options.Float("nms_score_threshold", settings.score_threshold)
        options.Float("nms_iou_threshold", settings.iou_threshold)
        for key, variance in zip("yxhw", spec.anchors.variance, strict=True):
            options.Float(f"{key}_scale", 1 / variance)
    writer.custom(OPERATOR, [inputs["codes"], scores, constant], list(outputs.values()), bytes(options.Finish()))
    return writer.finish(inputs, outputs, description="", metadata={})


def builtin_tail(spec: DetectorSpec, settings: PostProcess) -> bytes:
    """The same four outputs by LiteRT's own NON_MAX_SUPPRESSION_V5, over all classes at once.

    Boxes of different classes never meet: class c is compared in the cell (c // k, c % k) of a k x k grid, k = ceil(sqrt(C)),
    which costs less precision than a row of C cells. For the comparison boxes end one image beyond the image.
    """
    if settings.per_class < settings.total:
        raise ValueError(
            f"Builtin NMS limits all classes together: `per_class` must be `total` or more. "
            f"Received: per_class={settings.per_class}, total={settings.total}"
        )
    import tensorflow as tf

    anchors = anchor_boxes(spec.input_size, spec.anchors)
    count, classes, total = len(anchors), spec.classes, settings.total
    side = int(np.ceil(np.sqrt(classes)))
    cells = np.stack([np.arange(classes) // side, np.arange(classes) % side], axis=1).astype(np.float32) * CELL
    offsets = np.concatenate([cells, cells], axis=1)[None]
    variance = np.array(spec.anchors.variance, np.float32)

    def forward(codes: tf.Tensor, logits: tf.Tensor) -> list[tf.Tensor]:
        moved = tf.reshape(codes, [count, 4]) * variance
        centres = moved[:, :2] * anchors[:, 2:] + anchors[:, :2]
        halves = tf.exp(moved[:, 2:]) * (anchors[:, 2:] / 2)
        corners = tf.concat([centres - halves, centres + halves], axis=1)
        scores = tf.reshape(tf.sigmoid(logits)[:, :, 1:], [count * classes])
        placed = tf.reshape(tf.clip_by_value(corners, -REACH, 1 + REACH), [count, 1, 4]) + offsets
        chosen, kept, valid = tf.raw_ops.NonMaxSuppressionV5(
            boxes=tf.reshape(placed, [count * classes, 4]), scores=scores, max_output_size=total,
            iou_threshold=settings.iou_threshold, score_threshold=settings.score_threshold, soft_nms_sigma=0.0,
            pad_to_max_output_size=True,
        )  # fmt: skip
        real = tf.cast(tf.range(total) < valid, tf.float32)
        boxes = tf.gather(corners, chosen // classes) * real[:, None]
        found = tf.cast(chosen % classes, tf.float32) * real
        return [boxes[None], found[None], (kept * real)[None], tf.cast(valid, tf.float32)[None]]

    signature = [
        tf.TensorSpec((1, count, 4), tf.float32, name="codes"),
        tf.TensorSpec((1, count, classes + 1), tf.float32, name="logits"),
    ]
    content = convert_function(tf.function(forward, autograph=False, input_signature=signature))
    return rewritten(content, input_names=("codes", "logits"), output_names=OUTPUTS, description="", metadata={})[0]


TAILS: dict[str, Callable[[DetectorSpec, PostProcess], bytes]] = {
    "operator": operator_tail, "builtin": builtin_tail, "none": raw_tail,
}  # fmt: skip
SUPPRESSION = {"operator": OPERATOR, "builtin": "NON_MAX_SUPPRESSION_V5", "none": None}
