"""Anything that classifies photos, ready to run: any source, Checkpoint, Keras model or exported file; and `predict`."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from keras_mnasnet.export.classifier import FileClassifier
from keras_mnasnet.loading import load
from keras_mnasnet.preprocessing import Preprocessing, small_margin
from keras_mnasnet.utils.reading import check_names, exported_kind, read_names
from keras_mnasnet.utils.text import Life, header
from keras_mnasnet.weights.checkpoint import CheckpointError, Origin
from keras_mnasnet.weights.formats.graph import labels_beside
from keras_mnasnet.weights.registry import source_preprocessing, with_background

PREPROCESSINGS = ("google", "timm", "torchvision", "pillow")
BATCH = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A model ready to run. `run(pixels [b, size, size, 3] 0..255, batch_size)` gives (scores `[b, outputs]`, seconds).

    `name` is the text that it was opened by, else its origin's. `labels` are the classes it knows by name; `origin` says where
    it is from and which figures are known of it at this size.
    """

    name: str
    kind: str
    size: int
    outputs: int
    preprocessing: Preprocessing
    input: str
    run: Callable[[np.ndarray, int], tuple[np.ndarray, float]] = dataclasses.field(repr=False)
    origin: Origin
    labels: tuple[str, ...] | None = dataclasses.field(default=None, repr=False)

    def labeled(self, labels: Sequence[str] | None) -> Classifier:
        """The same with these names of its outputs, in their order (None: its own); ValueError for another number of them."""
        if labels is None:
            return self
        names = with_background(check_names(labels, "`labels`"), self.outputs)
        if len(names) != self.outputs:
            raise ValueError(
                f"`labels` must name every class of the model. Received: {len(names)} names for {self.outputs} classes of "
                f"{self.name}. Give one name a line (--labels), in the order of the model's outputs"
            )
        return dataclasses.replace(self, labels=names)


def open_classifier(
    model: Any, *, size: int | None = None, preprocessing: Preprocessing | str | None = None, file_input: str | None = None,
    threads: int | None = None, probabilities: bool = False,
) -> Classifier:  # fmt: skip
    """Open what `load` takes, or a `.tflite` or `.onnx` file, at its own input size and with its own preprocessing, or others.

    `preprocessing`: a Preprocessing, google, timm, torchvision or pillow (the shorter side to size / 0.875, bilinear, then the
    central crop); a file's own is what its report says, if this package wrote it, else pillow. `file_input` (pixels, unit,
    signed, imagenet) and `threads` (default: all cores) are for these files. `probabilities` asks a Keras
    model for probabilities instead of logits, and a file of whole numbers for what they stand for. CheckpointError or
    ValueError says what is wrong.
    """
    if (kind := exported_kind(model)) is not None:
        text = os.fspath(model)
        lite = FileClassifier(text, size=size, threads=threads, how=file_input)
        pixels = _named(preprocessing or lite.file.preprocessing or "pillow", lite.size)
        labels = lite.labels
        if labels is None and (beside := labels_beside(Path(text).expanduser())) is not None:
            names = with_background(read_names(beside, f"The labels in {beside}"), lite.classes)
            if len(names) == lite.classes:
                labels = names
            else:
                logging.warning(
                    "%s is passed over: it has %d labels, and %s has %d outputs", beside, len(names), text, lite.classes
                )

        def real(images: np.ndarray, batch_size: int) -> tuple[np.ndarray, float]:
            scores, seconds = lite.run(images, batch_size)
            return lite.real(scores), seconds

        return Classifier(
            text,
            kind,
            lite.size,
            lite.classes,
            pixels,
            lite.input.text,
            real if probabilities else lite.run,
            Origin(kind, text),
            labels,
        )
    checkpoint = load(model, size=size)
    if checkpoint.detector is not None or not checkpoint.classes:
        what, way = (
            ("a detector", "`mnasnet detect predict` and `mnasnet detect eval` take it (keras_mnasnet.detection)")
            if checkpoint.detector
            else ("a body without a classifier", "`mnasnet train --from` gives it one")
        )
        raise CheckpointError(f"A classifier is needed here. Received: {checkpoint.origin.name}, {what}; {way}")
    side = checkpoint.size if size is None else size
    built = checkpoint.model(size=side, classifier_activation="softmax" if probabilities else None)
    origin = checkpoint.origin if side == checkpoint.size else dataclasses.replace(checkpoint.origin, published={}, measured={})
    return Classifier(
        name=os.fspath(model) if isinstance(model, str | os.PathLike) else origin.name,
        kind="keras",
        size=side,
        outputs=checkpoint.classes,
        preprocessing=_named(preprocessing or checkpoint.preprocessing, side),
        input="float32 pixels 0..255, normalized in the model",
        run=_KerasRun(built),
        origin=origin,
        labels=checkpoint.labels,
    )


def _named(preprocessing: Preprocessing | str, size: int) -> Preprocessing:
    if isinstance(preprocessing, Preprocessing):
        return preprocessing.at(size)
    if preprocessing not in PREPROCESSINGS:
        raise ValueError(
            f"`preprocessing` must be a Preprocessing or one of {', '.join(PREPROCESSINGS)}. "
            f"Received: preprocessing={preprocessing!r}"
        )
    if preprocessing == "pillow":
        return small_margin(size)
    return source_preprocessing(preprocessing, size)


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """The best classes of one photo as (label, score), best first; or the `error` of a photo that cannot be read."""

    photo: str
    classes: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def predict(
    model: Any,
    photos: Any,
    *,
    top: int = 5,
    labels: Sequence[str] | None = None,
    size: int | None = None,
    upright: bool = True,
    file_input: str | None = None,
    batch_size: int = BATCH,
    progress: bool = False,
) -> list[Prediction]:
    """Classify photos with a model of any source, each as the model's own preprocessing says.

    Args:
        model: anything that `load` takes, or a `.tflite` or `.onnx` file.
        photos: a file, or a list of files.
        top: how many classes of each photo.
        labels: class names, one for each output; default: the model's own. Without any, classes are named by their number.
        size: input size in pixels; default: the model's own.
        upright: turn photos as their EXIF orientation says, as viewers show them, however the model was trained; False: do
            what the model's preprocessing says.
        file_input: of such a file, what becomes of pixels 0..255 (pixels, unit, signed, imagenet); default: as it says.

    Returns:
        One Prediction for each photo, in their order; one that cannot be read has an `error` and no classes.

    Raises ValueError for a model that does not classify, or labels that are not its.

    Example:
        >>> from keras_mnasnet import predict
        >>> predict("cifar10", "weights/demo/ship.png")[0].classes[0][0]
        'ship'
    """
    from keras_mnasnet.data import load_image

    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise ValueError(f"`top` must be an integer >= 1. Received: top={top!r}")
    classifier = open_classifier(model, size=size, file_input=file_input, probabilities=True).labeled(labels)
    if file_input is not None and classifier.kind == "keras":
        raise ValueError(
            f"`file_input` (--input) is for .tflite and .onnx files; other models say themselves how they take pixels. "
            f"Received: file_input={file_input!r} for {classifier.name}"
        )
    preprocessing = dataclasses.replace(classifier.preprocessing, upright=upright or classifier.preprocessing.upright)
    names = classifier.labels
    if names is None:
        logging.warning(
            "%s does not name its classes: they are numbered. Pass labels= (--labels FILE), or save(..., labels=) it",
            classifier.name,
        )
        names = tuple(f"class {number}" for number in range(classifier.outputs))
    files = [os.fspath(photos)] if isinstance(photos, str | os.PathLike) else [os.fspath(photo) for photo in photos]
    header(
        {
            "model": classifier.origin, "classes": f"{classifier.outputs}", "input": classifier.input,
            "photos": f"{len(files)}, {preprocessing}",
        },
        shown=progress,
    )  # fmt: skip
    images, found = [], {}
    with Life("predict", total=len(files), unit="photo", shown=progress) as life:
        for file in dict.fromkeys(files):
            try:
                images.append((file, load_image(file, preprocessing)))
            except (ValueError, OSError) as error:
                found[file] = Prediction(file, error=str(error))
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            scores, _ = classifier.run(np.stack([pixels for _, pixels in batch]), len(batch))
            for (file, _), row in zip(batch, np.asarray(scores, np.float64), strict=True):
                best = np.argsort(-row, kind="stable")[:top]
                found[file] = Prediction(file, tuple((names[index], float(row[index])) for index in best))
            life.step(len(batch))
    return [found[file] for file in files]


class _KerasRun:
    """Logits of a Keras model in batches of one size, so that it is traced once."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, pixels: np.ndarray, batch_size: int) -> tuple[np.ndarray, float]:
        """Logits `[b, classes]` and seconds; a partial batch is filled up with zeros."""
        count = len(pixels)
        if count < batch_size:
            pixels = np.concatenate([pixels, np.zeros((batch_size - count, *pixels.shape[1:]), pixels.dtype)])
        started = time.perf_counter()
        scores = self._model.predict_on_batch(pixels)
        return np.asarray(scores)[:count], time.perf_counter() - started
