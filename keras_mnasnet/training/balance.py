"""Classes of unequal size: what each class's share of the loss is, and how a model answers class by class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mnasnet.training.job import CLASS_COLUMNS
from keras_mnasnet.utils.text import listed

FEW = 12  # so many classes are shown one by one


def class_weights(counts: np.ndarray) -> np.ndarray:
    """images / (classes * images of the class), float32 `[C]`, 0 for classes without images: their mean over images is 1."""
    present = np.count_nonzero(counts)
    return np.divide(counts.sum(), present * counts, out=np.zeros(len(counts)), where=counts > 0).astype(np.float32)


class WeightedCrossentropy(keras.losses.Loss):
    """Cross-entropy of logits `[B, C]`, each image's times the weight of its class (the mean of them, where it is mixed)."""

    def __init__(
        self, weights: Sequence[float] | np.ndarray, label_smoothing: float = 0.0, name: str = "weighted_crossentropy"
    ) -> None:
        super().__init__(name=name)
        self.weights, self.label_smoothing = tuple(map(float, weights)), label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of every image, `[B]`."""
        loss = keras.losses.categorical_crossentropy(
            y_true, y_pred, from_logits=True, label_smoothing=self.label_smoothing
        )  # fmt: skip
        return loss * ops.sum(y_true * ops.convert_to_tensor(self.weights, y_pred.dtype), axis=-1)


class PerClass(keras.metrics.Metric):
    """Balanced accuracy, the mean over classes of the share of their images that are right; keeps the counts it comes from.

    `y_true` and `y_pred` are `[B, C]`; images of weight 0 do not count. Classes without images take no part.
    """

    def __init__(self, classes: int, name: str = "balanced_accuracy") -> None:
        super().__init__(name=name)
        self.classes = classes
        self.counts = self.add_weight((3, classes), initializer="zeros", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch."""
        true = ops.one_hot(ops.argmax(y_true, axis=-1), self.classes)
        said = ops.one_hot(ops.argmax(y_pred, axis=-1), self.classes)
        if sample_weight is not None:
            weight = ops.cast(sample_weight, self.counts.dtype)[:, None]
            true, said = true * weight, said * weight
        right = true * ops.cast(said > 0, true.dtype)
        self.counts.assign_add(ops.stack([ops.sum(each, axis=0) for each in (true, said, right)]))

    def result(self) -> Any:
        """The balanced accuracy, 0..1."""
        images, _, right = ops.unstack(ops.convert_to_tensor(self.counts), num=3)
        present = ops.cast(images > 0, right.dtype)
        return ops.sum(right / ops.maximum(images, 1.0)) / ops.maximum(ops.sum(present), 1.0)

    def answers(self) -> Answers:
        """The counts of what was measured last."""
        images, said, right = np.rint(ops.convert_to_numpy(self.counts)).astype(int)
        return Answers(tuple(images.tolist()), tuple(said.tolist()), tuple(right.tolist()))


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """Of each class, in label order: how many `images` it has, how often it was `said`, and how often that was `right`."""

    images: tuple[int, ...]
    said: tuple[int, ...]
    right: tuple[int, ...]

    def rows(self, labels: Sequence[str], epoch: str) -> list[dict[str, Any]]:
        """A row a class, as `classes.csv` keeps them."""
        parts = zip(labels, self.images, self.said, self.right, strict=True)
        return [dict(zip(CLASS_COLUMNS, (epoch, *part), strict=True)) for part in parts]

    def text(self, labels: Sequence[str]) -> str:
        """`cat 118 of 120, dog 35 of 80`: right ones of each class's images; of many classes the worst."""
        seen = [index for index, count in enumerate(self.images) if count]
        if len(seen) > FEW:
            seen = sorted(seen, key=lambda index: self.right[index] / self.images[index])[:FEW]
        parts = [f"{labels[index]} {self.right[index]:,} of {self.images[index]:,}" for index in seen]
        return ("the worst classes: " if len(seen) < sum(map(bool, self.images)) else "") + listed(parts, FEW)

    def warning(self, labels: Sequence[str]) -> str | None:
        """What is wrong with a model that answers one class only, where the images have several."""
        said = [index for index, count in enumerate(self.said) if count]
        if len(said) != 1 or sum(map(bool, self.images)) < 2:
            return None
        return (
            f"the model answers {labels[said[0]]!r} for every photo. Where classes have very different numbers of photos, "
            f"train with --class-weights balanced or --sampling balanced; else with a lower --learning-rate, or for longer."
        )
