"""Anything that classifies photos, opened by name: a record, a checkpoint, a training run or a `.tflite` file."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mnasnet.applications import MnasNet
from keras_mnasnet.export.file import TfliteClassifier
from keras_mnasnet.preprocessing import Preprocessing
from keras_mnasnet.pretrained import KERAS_SUFFIXES, open_weights
from keras_mnasnet.weights import Checkpoint, CheckpointError, registry
from keras_mnasnet.weights.load import RUN_MODEL, load_named, preprocessing_of
from keras_mnasnet.weights.registry import Record

__all__ = ["KINDS", "RECIPES", "Classifier", "named_preprocessing", "open_classifier"]

KINDS = "a record id, imagenet, cifar10, a checkpoint file, the folder of a training run, or a .tflite file"
RECIPES = ("google", "timm", "torchvision", "pillow")


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A model ready to run. `run(pixels [b, size, size, 3] 0..255, batch_size)` gives (scores `[b, outputs]`, seconds).

    `labels` are the classes it knows by name, `top1` and `top5` (percent) what its record says for this size
    (`bundled`: as measured by this package, else as published).
    """

    name: str
    kind: str
    size: int
    outputs: int
    preprocessing: Preprocessing
    input: str
    run: Callable[[np.ndarray, int], tuple[np.ndarray, float]] = dataclasses.field(repr=False)
    labels: tuple[str, ...] | None = dataclasses.field(default=None, repr=False)
    top1: float | None = None
    top5: float | None = None
    published_at: str | None = None
    bundled: bool = False


def open_classifier(
    model: str | os.PathLike[str], *, size: int | None = None, preprocessing: Preprocessing | str | None = None,
    tflite_input: str | None = None, threads: int | None = None,
) -> Classifier:  # fmt: skip
    """Open `model` (KINDS) at its own size or another, with its own preprocessing or another.

    `preprocessing`: a Preprocessing, google, timm, torchvision or pillow; a `.tflite` file's own is what its report says, if
    this package wrote it, else pillow. `tflite_input`
    (pixels, unit, signed, imagenet) and `threads` (default: all cores) are for `.tflite` files. ValueError says what is wrong.
    """
    text = os.fspath(model)
    if text.endswith(".tflite"):
        lite = TfliteClassifier(text, size=size, threads=threads, how=tflite_input)
        pixels = named_preprocessing(preprocessing or lite.file.preprocessing or "pillow", lite.size)
        return Classifier(text, "tflite", lite.size, lite.classes, pixels, lite.input.text, lite.run, lite.labels)
    checkpoint, record = _checkpoint(text, size)
    if not checkpoint.classes:
        raise CheckpointError(f"A benchmark needs a classifier. Received: {text}, which has none")
    size = size or checkpoint.resolution or 224
    built = MnasNet(checkpoint.architecture, weights=checkpoint, input_shape=(size, size, 3), classifier_activation=None)
    if preprocessing is not None:
        pixels = named_preprocessing(preprocessing, size)
    elif record is not None:
        pixels = registry.preprocessing_of(record.source, size, record)
    else:
        pixels = preprocessing_of(checkpoint, size)
    published: dict[str, Any] = {}
    if record is not None and record.resolution == size:
        published = {"top1": record.top1, "top5": record.top5, "published_at": record.published_at, "bundled": record.bundled}
    return Classifier(
        name=text if record is None else record.id,
        kind="keras",
        size=size,
        outputs=checkpoint.classes,
        preprocessing=pixels,
        input="float32 pixels 0..255, normalised in the model",
        run=KerasRun(built),
        labels=checkpoint.labels,
        **published,
    )


def named_preprocessing(preprocessing: Preprocessing | str, size: int) -> Preprocessing:
    """The preprocessing of that name (RECIPES), or a Preprocessing, down to `size` pixels.

    `pillow`: the shorter side to size / 0.875 (bilinear), then the central crop: what most ImageNet evaluations do.
    """
    if isinstance(preprocessing, Preprocessing):
        return preprocessing.at(size)
    if preprocessing not in RECIPES:
        raise ValueError(
            f"`preprocessing` must be a Preprocessing or one of {', '.join(RECIPES)}. Received: preprocessing={preprocessing!r}"
        )
    if preprocessing == "pillow":
        return Preprocessing(size, "bilinear", resize=round(size / 0.875), offset="down")
    return registry.preprocessing_of(preprocessing, size)


def _checkpoint(text: str, size: int | None) -> tuple[Checkpoint, Record | None]:
    path = Path(text).expanduser()
    if path.is_dir() and not (path / RUN_MODEL).is_file():
        raise ValueError(f"A model must be {KINDS}. Received: the folder {path}, which has no {RUN_MODEL}")
    if not text.endswith(KERAS_SUFFIXES):
        return load_named(text, size=size or 224)
    opened = open_weights(path if path.exists() else text)
    if not isinstance(opened, Checkpoint):
        raise ValueError(
            f"A model must name its network: {KINDS}. Received: {text}, which holds weights only. "
            f"Save it with save_weights(model, 'x.safetensors') or model.save('x.keras')."
        )
    return opened, None


class KerasRun:
    """Logits of a Keras model in batches of one size, so that it is traced once."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    def __call__(self, pixels: np.ndarray, batch_size: int) -> tuple[np.ndarray, float]:
        """Logits `[b, classes]` and seconds; a partial batch is filled up with zeros."""
        count = len(pixels)
        if count < batch_size:
            pixels = np.concatenate([pixels, np.zeros((batch_size - count, *pixels.shape[1:]), pixels.dtype)])
        started = time.perf_counter()
        scores = self._model.predict_on_batch(pixels)
        return np.asarray(scores)[:count], time.perf_counter() - started
