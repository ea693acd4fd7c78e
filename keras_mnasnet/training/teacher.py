"""Distillation (Hinton et al., arXiv 1503.02531): a trained classifier of any source teaches a smaller network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_mnasnet.inference import open_classifier
from keras_mnasnet.loading import load
from keras_mnasnet.utils.reading import exported_kind
from keras_mnasnet.weights.fetch import file_sha256

TINY = 1e-7


class Teacher:
    """What a trained classifier says of training batches, for the classes of the data, in their order.

    `sha256` is of its weights, or of its file. ValueError for a classifier that does not know every class of the data.
    """

    def __init__(self, source: str, labels: Sequence[str]) -> None:
        self.classifier = open_classifier(source)
        self.sha256 = file_sha256(Path(source).expanduser()) if exported_kind(source) else _sha256(load(source).tensors)
        known = self.classifier.labels
        if known is not None and set(labels) <= set(known):
            self.columns = np.array([known.index(label) for label in labels])
        elif known is None and self.classifier.outputs == len(labels):
            self.columns = np.arange(len(labels))
        else:
            lost = [label for label in labels if label not in set(known or ())]
            raise ValueError(
                f"A teacher must know every class of the data. Received: {self.classifier.name} with "
                f"{self.classifier.outputs:,} outputs, without {', '.join(lost[:5])}. Train the teacher on these classes first."
            )

    def __call__(self, pixels: Any) -> Any:
        """Log-probabilities `[B, classes]` of a batch `[B, H, W, 3]` of pixels 0..255, resized to the teacher's own input."""
        size = self.classifier.size
        if pixels.shape[1:3] != (size, size):
            pixels = tf.clip_by_value(tf.image.resize(pixels, (size, size), antialias=True), 0.0, 255.0)
        said = tf.numpy_function(tf.autograph.experimental.do_not_convert(self._said), [pixels], tf.float32)
        return tf.ensure_shape(said, (pixels.shape[0], len(self.columns)))

    def _said(self, pixels: np.ndarray) -> np.ndarray:
        scores, _ = self.classifier.run(pixels, len(pixels))
        return log_probabilities(np.asarray(scores, np.float64))[:, self.columns].astype(np.float32)


def _sha256(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def log_probabilities(scores: np.ndarray) -> np.ndarray:
    """Logits, probabilities, or quantized probabilities in steps of 1/256, `[B, C]`, as logarithms of probabilities.

    Probabilities are what is nowhere below 0 and has the same sum in every row.
    """
    sums = scores.sum(axis=1, keepdims=True)
    if scores.min() >= 0 and np.ptp(sums) <= 0.02 * sums.max():
        return np.log(np.maximum(scores / sums, TINY))
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


class Student(keras.Model):
    """A classifier that also learns from a teacher: `fit` takes (pixels, {"classes" `[B, C]`, "teacher" `[B, C]`}).

    loss = (1 - weight) * the compiled loss + weight * T^2 * KL(softmax(teacher / T), softmax(logits / T)), section 2 of the
    paper. Made with `Student.of`; the layers are the network's own.
    """

    @classmethod
    def of(cls, network: keras.Model, weight: float, temperature: float) -> Student:
        """The student with a network's layers and weights."""
        model = cls(network.inputs, network.output, name=network.name)
        model.teacher_weight, model.temperature = weight, temperature
        return model

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True):
        """The loss of a batch; of several replicas, this one's share of their mean."""
        if not isinstance(y, dict):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        own = super().compute_loss(x, y["classes"], y_pred, sample_weight, training)
        said = distillation_loss(y["teacher"], y_pred, self.temperature)
        if keras.backend.backend() == "tensorflow":
            said = said / tf.distribute.get_strategy().num_replicas_in_sync
        return (1 - self.teacher_weight) * own + self.teacher_weight * said

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Keras's, by the classes."""
        return super().compute_metrics(x, y["classes"] if isinstance(y, dict) else y, y_pred, sample_weight)


def distillation_loss(teacher: Any, logits: Any, temperature: float) -> Any:
    """T^2 * the mean over a batch of KL(softmax(teacher / T), softmax(logits / T)); both `[B, C]`, up to a constant a row."""
    wanted = ops.log_softmax(ops.cast(teacher, logits.dtype) / temperature, axis=-1)
    found = ops.log_softmax(logits / temperature, axis=-1)
    return temperature**2 * ops.mean(ops.sum(ops.exp(wanted) * (wanted - found), axis=-1))
