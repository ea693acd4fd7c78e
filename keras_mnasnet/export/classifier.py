"""An exported file as what it is, and as a classifier that takes pixels."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from keras_mnasnet.export.file import ModelFile, TfliteFile, layout_of, real_values
from keras_mnasnet.utils.reading import exported_kind


def open_file(source: str | os.PathLike[str] | bytes, *, onnx: bool | None = None, **how: Any) -> ModelFile:
    """An exported file as what it is; `onnx` says it of bytes."""
    is_onnx = onnx if isinstance(source, bytes) else exported_kind(source) == "onnx"
    if not is_onnx:
        return TfliteFile(source, **how)
    from keras_mnasnet.export.onnx_file import OnnxFile

    return OnnxFile(source, **how)


class FileClassifier:
    """A file `[1, S, S, 3]` -> `[1, classes]` that takes pixels; ValueError for a file that is damaged or something else.

    Its image may be grey (`[1, S, S, 1]`) or have its channels first (`[1, 3, S, S]`): photos become so. `how`, a name of
    NORMALIZATIONS, says what becomes of pixels where the file does not, or wrongly.
    """

    def __init__(
        self, source: str | os.PathLike[str] | bytes, *, size: int | None = None, threads: int | None = None,
        how: str | None = None,
    ) -> None:  # fmt: skip
        self.file = open_file(source, size=size, threads=threads)
        alone = len(self.file.facts.inputs) == 1  # our reader goes first: damaged tables may end LiteRT's process
        given = self.file.inputs
        takes = [[int(side) for side in each["shape"]] for each in given]
        layout = layout_of(takes[0]) if alone else None
        height, width = layout.sides(takes[0]) if layout else (0, 1)
        one_image = takes[0][:1] == [1] and height == width
        found = self.file.run(np.zeros(takes[0], given[0]["dtype"])) if one_image else []
        gives = [list(each.shape) for each in found] or [[int(side) for side in each["shape"]] for each in self.file.outputs]
        if not one_image or len(gives) != 1 or found[0].size != (found[0].shape or (0,))[-1]:
            raise ValueError(
                f"A classifier must take one image [1, size, size, 3], or a grey one [1, size, size, 1], or one with its "
                f"channels first, and give [1, classes]. Received: {self.file.name} with the inputs {str(takes)[:300]} and the "
                f"outputs {str(gives)[:300]}. `mnasnet bench latency` takes it"
            )
        if found[0].size == 1 and found[0].dtype.kind in "iu" and not self.file.outputs[0]["quantization"][0]:
            raise ValueError(
                f"A classifier must give a score for each class. Received: {self.file.name}, which gives the number of one, as "
                f"{found[0].dtype}. Convert the model without its argmax"
            )
        self.size, self.classes = height, gives[0][-1]
        self.input = self.file.input(how)
        labels = self.file.labels
        self.labels = labels if labels is not None and len(labels) == self.classes else None

    def run(self, pixels: np.ndarray, batch_size: int = 1) -> tuple[np.ndarray, float]:
        """Scores `[B, classes]` of pixels 0..255 `[B, S, S, 3]`, in the output's own type, and seconds; one image at a time."""
        images = self.input(pixels)
        started = time.perf_counter()
        scores = [self.file.run(image[None])[0].reshape(-1) for image in images]
        return np.stack(scores), time.perf_counter() - started

    def real(self, scores: np.ndarray) -> np.ndarray:
        """What scores in the output's own type stand for, as float32."""
        return real_values(scores, self.file.outputs[0])
