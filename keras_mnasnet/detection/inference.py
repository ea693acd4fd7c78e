"""Detectors at work: a Keras model's detections, and the results of any detector on the photos of an annotation file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tqdm

from keras_mnasnet.data import refuse_bad
from keras_mnasnet.data.preprocessing import decode
from keras_mnasnet.data.sample import chosen_photos
from keras_mnasnet.data.sources import missing
from keras_mnasnet.detection.annotations import Result, Truth
from keras_mnasnet.detection.data import CocoDataset, evaluation_batches, resize_photo
from keras_mnasnet.detection.evaluation import results_of
from keras_mnasnet.detection.model import spec_of
from keras_mnasnet.detection.postprocess import Detections, PostProcess, detections_of, sigmoid
from keras_mnasnet.detection.spec import DetectorSpec

__all__ = ["KerasDetector", "Run", "as_network_takes", "category_map", "results_on", "sample_inputs"]

Run = Callable[[np.ndarray], list[Detections]]


class KerasDetector:
    """A Keras detector on pixels 0..255 `[n, S, S, 3]`, in batches of one size, so that it is traced once."""

    def __init__(self, model: Any, settings: PostProcess | None = None, *, batch_size: int = 8) -> None:
        self.model, self.spec, self.settings, self.batch_size = model, spec_of(model), settings, batch_size

    def __call__(self, pixels: np.ndarray) -> list[Detections]:
        """Detections of each image."""
        return self.of_input(as_network_takes(pixels, self.spec))

    def of_input(self, images: np.ndarray) -> list[Detections]:
        """Detections of images as the network takes them."""
        found: list[Detections] = []
        for start in range(0, len(images), self.batch_size):
            chunk = np.asarray(images[start : start + self.batch_size], np.float32)
            spare = np.zeros((self.batch_size - len(chunk), *chunk.shape[1:]), np.float32)
            outputs = self.model.predict_on_batch(np.concatenate([chunk, spare]))
            codes, logits = (keras.ops.convert_to_numpy(outputs[name])[: len(chunk)] for name in ("boxes", "scores"))
            found += detections_of(codes, sigmoid(logits), self.spec, self.settings)
        return found


def as_network_takes(pixels: np.ndarray, spec: DetectorSpec) -> np.ndarray:
    """Pixels 0..255, normalised where the network does not do it itself."""
    if spec.include_preprocessing:
        return pixels
    mean, std = (np.array(values, np.float32) for values in (spec.normalization.mean, spec.normalization.std))
    return (pixels - mean) / std


def category_map(labels: Sequence[str], category_ids: Sequence[int] | None, truth: Truth, name: str) -> list[int | None]:
    """The category id in the annotation file of each of a detector's classes; None where the file does not have it.

    A class is the category of its own id if that has its name, else the one of its name. ValueError where none is found.
    """
    by_name = {name: identity for identity, name in sorted(truth.categories.items(), reverse=True)}
    ids = category_ids if category_ids is not None else range(1, len(labels) + 1)
    found = [
        identity if truth.categories.get(identity) == label else by_name.get(label)
        for label, identity in zip(labels, ids, strict=True)
    ]
    if not any(identity is not None for identity in found):
        shown = [", ".join(list(names)[:4]) for names in (labels, truth.categories.values())]
        raise ValueError(
            f"A detector must have classes of the annotation file, by name. Received: {name} with {shown[0]}, ... and "
            f"{truth.name} with {shown[1]}, ..."
        )
    return found


def sample_inputs(
    data: str | os.PathLike[str], spec: DetectorSpec, count: int, *, seed: int = 0, max_bad: int = 0
) -> np.ndarray:
    """`count` photos of `data` (a folder, TFRecords, tfds:NAME), a seeded choice, as the network takes them `[n, S, S, 3]`."""
    images = chosen_photos(data, count, seed=seed)
    whole = images.decodable()
    refuse_bad(missing(images, whole), max_bad, images.count)
    if not len(whole):
        raise ValueError(f"At least one photo must be whole. Received: {images.name}, where none can be decoded")
    examples = images.subset(whole).examples().map(lambda item: resize_photo(decode(item["image"]), spec.input_size))
    return as_network_takes(np.stack(list(examples.as_numpy_iterator())).clip(0, 255), spec)


def results_on(
    run: Run, dataset: CocoDataset, truth: Truth, category_ids: Sequence[int | None], *, size: int, batch_size: int = 8,
    name: str = "detector", progress: bool = False,
) -> tuple[list[Result], float]:  # fmt: skip
    """COCO results of a detector on every photo of `dataset`, and the seconds that it took, without reading photos.

    Photos that cannot be decoded must have been left out: `dataset.checked()`.
    """
    results: list[Result] = []
    seconds, done = 0.0, 0
    with tqdm.tqdm(total=dataset.count, desc=name, unit="photo", disable=not progress, leave=False) as bar:
        for pixels, _ in evaluation_batches(dataset, size=size, batch_size=batch_size).as_numpy_iterator():
            started = time.perf_counter()
            found = run(pixels)
            seconds += time.perf_counter() - started
            for detections in found:
                results += results_of(detections, truth.images[dataset.image_ids[done]], category_ids)
                done += 1
            bar.update(len(found))
    return results, seconds
