"""Top-1 and top-5 accuracy of classifiers on labelled photos: ImageNet's, or any other set."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm
from absl import logging

from keras_mnasnet.benchmarks.classifiers import Classifier, open_classifier
from keras_mnasnet.benchmarks.scoring import label_outputs, ranks
from keras_mnasnet.data import ImageSet, evaluation_batches, numbering, open_images, refuse_bad
from keras_mnasnet.data.splits import splits_of
from keras_mnasnet.preprocessing import Preprocessing

__all__ = ["ClassResult", "Result", "evaluate", "evaluate_models", "evaluation_split", "open_evaluation"]


@dataclasses.dataclass(frozen=True, slots=True)
class ClassResult:
    """Counts of one class; `correct5` is None with the model's top-5."""

    label: str
    images: int
    correct1: int
    correct5: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One model's accuracy.

    `top1` and `top5` are fractions 0..1 (`top5` None for five classes or fewer), `published_top1` and `published_top5` percent
    as the model's record publishes them for this resolution. `seconds` and `images_per_second` are of the inference alone:
    from the input tensor to the scores, while the next photos are decoded. `classes` are the data's, `background` says that
    the model has one output more. `bad` are the damaged photos, which count nowhere else.
    """

    model: str
    kind: str
    classes: int
    images: int
    top1: float
    top5: float | None
    correct1: int
    correct5: int | None
    images_per_second: float
    seconds: float
    preprocessing: Preprocessing
    preprocessing_text: str
    input: str
    published_top1: float | None
    published_top5: float | None
    published_at: str | None
    per_class: tuple[ClassResult, ...]
    bad: tuple[str, ...]
    background: bool
    bundled: bool


def evaluate_models(
    models: Sequence[str], data: str | os.PathLike[str], *, split: str | None = None,
    ground_truth: str | os.PathLike[str] | None = None, synsets: str | os.PathLike[str] | None = None, batch_size: int = 32,
    resolution: int | None = None, preprocessing: Preprocessing | str | None = None, tflite_input: str | None = None,
    labels_offset: int | None = None, max_bad: int = 0, threads: int | None = None, limit: int | None = None,
    progress: bool = False,
) -> list[Result]:  # fmt: skip
    """Evaluate models (record ids, imagenet, cifar10, checkpoint files, training runs, `.tflite` files) on `data`.

    `open_evaluation` says what data, `open_classifier` what models there are, `evaluate` how they are scored.
    """
    classifiers = [
        open_classifier(model, resolution=resolution, preprocessing=preprocessing, tflite_input=tflite_input, threads=threads)
        for model in models
    ]
    how = numbering([classifier.outputs for classifier in classifiers])
    images = open_evaluation(data, split=split, ground_truth=ground_truth, synsets=synsets, limit=limit, classes=how)
    return evaluate(classifiers, images, batch_size=batch_size, labels_offset=labels_offset, max_bad=max_bad, progress=progress)


def evaluation_split(data: str | os.PathLike[str]) -> str | None:
    """The split that is evaluated where none is named: validation if the data has it, else test; None for undivided data."""
    have = splits_of(data)
    return next((split for split in ("validation", "test") if split in have), None)


def open_evaluation(
    data: str | os.PathLike[str], *, split: str | None = None, ground_truth: str | os.PathLike[str] | None = None,
    synsets: str | os.PathLike[str] | None = None, limit: int | None = None, classes: str = "auto",
) -> ImageSet:  # fmt: skip
    """The photos to evaluate (see `open_images`); with `limit`, that many of them, spread evenly over the whole set."""
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be 1 or more. Received: limit={limit!r}")
    images = open_images(
        data, split=split or evaluation_split(data), ground_truth=ground_truth, synsets=synsets, classes=classes, min_classes=1
    )
    if limit is None or limit >= images.count:
        return images
    return images.subset(np.arange(limit) * images.count // limit)


def evaluate(
    classifiers: Sequence[Classifier], images: ImageSet, *, batch_size: int = 32, labels_offset: int | None = None,
    max_bad: int = 0, progress: bool = False,
) -> list[Result]:  # fmt: skip
    """Accuracy of every classifier, in order; those with the same preprocessing share one pass over the photos.

    Scores are ranked in a stable descending sort: of equal scores the lower output goes first. A model with one output more
    than the data has classes has a background at output 0, which is ranked with the others and never right; `labels_offset`
    0 or 1 says what output label 0 is instead. Damaged photos are logged by path; more than `max_bad` are a ValueError, as
    soon as they are met.
    """
    if not classifiers:
        raise ValueError("An evaluation needs at least one model. Received: none")
    if batch_size < 1 or max_bad < 0:
        raise ValueError(
            f"`batch_size` must be 1 or more and `max_bad` 0 or more. Received: batch_size={batch_size!r}, max_bad={max_bad!r}"
        )
    outputs = [
        label_outputs(model.name, model.outputs, images.labels, known=model.labels, offset=labels_offset)
        for model in classifiers
    ]
    groups: dict[Preprocessing, list[int]] = {}
    for number, model in enumerate(classifiers):
        groups.setdefault(model.preprocessing, []).append(number)
    results: dict[int, Result] = {}
    logged: set[str] = set()
    with tqdm.tqdm(total=images.count * len(groups), unit="image", disable=not progress) as bar:
        for preprocessing, members in groups.items():
            tallies = [Tally(classifiers[number], outputs[number], batch_size) for number in members]
            watch = Damage(images, max_bad, logged)
            batches = evaluation_batches(images, preprocessing, batch_size=batch_size)
            for pixels, labels, index in batches.as_numpy_iterator():
                watch.seen(index)
                for tally in tallies:
                    tally.add(pixels, labels, batch_size)
                bar.update(len(index))
            bad = watch.finished()
            results |= {number: tally.result(images, bad) for number, tally in zip(members, tallies, strict=True)}
    return [results[number] for number in range(len(classifiers))]


class Damage:
    """Finds the damaged photos from the gaps in the order, and gives up once there are more than `max_bad`."""

    def __init__(self, images: ImageSet, max_bad: int, logged: set[str]) -> None:
        self.images, self.max_bad, self.logged = images, max_bad, logged
        self.bad: list[str] = []
        self.next = 0

    def seen(self, index: np.ndarray) -> None:
        """The photos of a batch, int64 `[b]`, ascending."""
        self._lost(np.setdiff1d(np.arange(self.next, int(index[-1]) + 1), index))
        self.next = int(index[-1]) + 1

    def finished(self) -> tuple[str, ...]:
        """The paths of all damaged photos."""
        self._lost(np.arange(self.next, self.images.count))
        if len(self.bad) == self.images.count:
            raise ValueError(f"At least one photo must be whole. Received: {self.images.name}, where none can be decoded")
        return tuple(self.bad)

    def _lost(self, gaps: Any) -> None:
        for path in (self.images.where(index) for index in gaps):
            self.bad.append(path)
            if path not in self.logged:
                logging.warning("An image cannot be decoded and is left out: %s", path)
                self.logged.add(path)
        refuse_bad(self.bad, self.max_bad, self.images.count)


class Tally:
    """Counts one classifier's hits."""

    def __init__(self, model: Classifier, outputs: np.ndarray, batch_size: int) -> None:
        self.model, self.outputs = model, outputs
        self.labels: list[np.ndarray] = []
        self.places: list[np.ndarray] = []
        self.seconds = 0.0
        model.run(np.zeros((1, model.size, model.size, 3), np.float32), batch_size)

    def add(self, pixels: np.ndarray, labels: np.ndarray, batch_size: int) -> None:
        """Classify a batch."""
        scores, seconds = self.model.run(pixels, batch_size)
        try:
            places = ranks(scores, self.outputs[labels])
        except ValueError as error:
            raise ValueError(f"{self.model.name}: {error}") from error
        self.seconds += seconds
        self.labels.append(labels)
        self.places.append(places)

    def result(self, images: ImageSet, bad: tuple[str, ...]) -> Result:
        """The figures of all batches."""
        classes = len(images.labels)
        labels, places = np.concatenate(self.labels), np.concatenate(self.places)
        counts, first, among5 = (
            np.bincount(labels[chosen], minlength=classes) for chosen in (places >= 0, places < 1, places < 5)
        )
        has_top5 = classes > 5
        total, correct1, correct5 = len(labels), int(first.sum()), int(among5.sum())
        return Result(
            model=self.model.name,
            kind=self.model.kind,
            classes=classes,
            images=total,
            top1=correct1 / total,
            top5=correct5 / total if has_top5 else None,
            correct1=correct1,
            correct5=correct5 if has_top5 else None,
            images_per_second=total / self.seconds,
            seconds=self.seconds,
            preprocessing=self.model.preprocessing,
            preprocessing_text=str(self.model.preprocessing),
            input=self.model.input,
            published_top1=self.model.top1,
            published_top5=self.model.top5,
            published_at=self.model.published_at,
            per_class=tuple(
                ClassResult(
                    images.labels[label], int(counts[label]), int(first[label]), int(among5[label]) if has_top5 else None
                )
                for label in np.flatnonzero(counts)
            ),
            bad=bad,
            background=self.model.outputs == classes + 1,
            bundled=self.model.bundled,
        )
