"""A detector's `.tflite` on LiteRT, with the four outputs of the post-processing operator or with raw ones."""

from __future__ import annotations

import json
import os

import numpy as np

from keras_mnasnet.detection.postprocess import Detections, PostProcess, detections_of
from keras_mnasnet.detection.spec import DetectorSpec
from keras_mnasnet.detection.tails import OPERATOR
from keras_mnasnet.export.file import TfliteFile

__all__ = ["OUTPUT_ORDER", "TfliteDetector", "spec_in"]

OUTPUT_ORDER = "boxes [1, n, 4], classes [1, n], scores [1, n], count [1]"
SLACK = 1e-6


class TfliteDetector:
    """Reads outputs by their position, as phones' task libraries do; ValueError for a file that is no detector.

    A file with raw outputs needs `spec`, by default the one that it carries, and `settings`. `threads` is all cores by default,
    and one for a file with TFLite_Detection_PostProcess: with T threads that operator leaves out the class of index T where
    there are more than T classes (tensorflow/tensorflow#56058).
    """

    def __init__(
        self, source: str | os.PathLike[str] | bytes, *, name: str | None = None, spec: DetectorSpec | None = None,
        settings: PostProcess | None = None, threads: int | None = None,
    ) -> None:  # fmt: skip
        self.file = TfliteFile(source, name=name, threads=threads)
        if f"CUSTOM:{OPERATOR}" in self.file.facts.custom:
            if threads not in (None, 1):
                raise ValueError(
                    f"A file with {OPERATOR} must run in one thread: in several the operator loses a class "
                    f"(tensorflow/tensorflow#56058). Received: threads={threads} for {self.file.name}. Files exported with "
                    f"--builtin-nms or --no-postprocess may take more."
                )
            self.file.threads = 1
        self.name, self.spec, self.settings = self.file.name, spec or spec_in(self.file), settings
        self.labels = self.file.labels
        inputs, outputs = (
            [[int(side) for side in each["shape"]] for each in ports] for ports in (self.file.inputs, self.file.outputs)
        )
        if len(inputs) != 1 or len(inputs[0]) != 4 or inputs[0] != [1, inputs[0][1], inputs[0][1], 3]:
            raise ValueError(f"A detector takes one image [1, size, size, 3]. Received: {self.name} with the input {inputs[0]}")
        self.size = inputs[0][1]
        self.raw = self._is_raw(outputs)

    def _is_raw(self, shapes: list[list[int]]) -> bool:
        if len(shapes) == 4 and len(shapes[0]) == 3:
            n = shapes[0][1]
            if shapes == [[1, n, 4], [1, n], [1, n], [1]]:
                return False
        if len(shapes) == 2 and all(len(shape) == 3 for shape in shapes) and shapes[0][2] == 4:
            if self.spec is None:
                raise ValueError(
                    f"Raw boxes and scores need the detector's anchors and classes. Received: {self.name}, which does not "
                    f"carry them. `mnasnet detect export` writes files that do."
                )
            return True
        raise ValueError(
            f"A detector's outputs must be {OUTPUT_ORDER}, in this order, or raw codes [1, N, 4] and scores "
            f"[1, N, 1 + classes]. Received: {self.name} with {shapes}"
        )

    def __call__(self, images: np.ndarray) -> list[Detections]:
        """Detections of float images `[n, S, S, 3]`, as the network takes them."""
        return [self.run(self.file.quantized(image[None])) for image in images]

    def run(self, tensor: np.ndarray) -> Detections:
        """Detections of one image `[1, S, S, 3]` in the input's own type."""
        found = self.file.run(tensor)
        if self.raw and self.spec is not None:
            return detections_of(found[0], found[1], self.spec, self.settings)[0]
        return self._checked(*found)

    def _checked(self, boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray, count: np.ndarray) -> Detections:
        """What the four outputs hold must be what their order says."""
        number = int(count[0])
        boxes, classes, scores = boxes[0, :number], classes[0, :number], scores[0, :number]
        if (
            not 0 <= count[0] <= len(boxes)
            or not (np.isfinite(boxes).all() and np.isfinite(scores).all())
            or np.any((scores < -SLACK) | (scores > 1 + SLACK))
            or np.any((classes != np.rint(classes)) | (classes < 0))
        ):
            raise ValueError(
                f"A detector's outputs must be {OUTPUT_ORDER}, in this order: whole classes from 0, scores 0..1. "
                f"Received: {self.name} with classes {classes[:3].tolist()}, scores {scores[:3].tolist()}, "
                f"count {count.tolist()}"
            )
        return Detections(boxes.copy(), classes.astype(np.int64), scores.copy())


def spec_in(file: TfliteFile) -> DetectorSpec | None:
    """The spec that a file of this package carries in its report; None for another one."""
    try:
        return DetectorSpec.from_json(json.dumps(file.report["detector"]))
    except (ValueError, KeyError, TypeError):
        return None
