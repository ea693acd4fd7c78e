"""A detector's `.tflite` on LiteRT, with the four outputs of the post-processing operator or with raw ones."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from keras_mnasnet.detection.postprocess import Detections, PostProcess, detections_of
from keras_mnasnet.detection.spec import DetectorSpec
from keras_mnasnet.detection.tails import OPERATOR
from keras_mnasnet.export.inspect import inspect_tflite
from keras_mnasnet.export.metadata import read_files
from keras_mnasnet.export.verify import quantized
from keras_mnasnet.utils.system import available_cores, held_stderr

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
        self, content: bytes, *, name: str = "the file", spec: DetectorSpec | None = None, settings: PostProcess | None = None,
        threads: int | None = None,
    ) -> None:  # fmt: skip
        from ai_edge_litert.interpreter import Interpreter

        if threads is not None and threads < 1:
            raise ValueError(f"`threads` must be 1 or more. Received: threads={threads!r}")
        alone = f"CUSTOM:{OPERATOR}" in inspect_tflite(content, name).custom
        if alone and threads not in (None, 1):
            raise ValueError(
                f"A file with {OPERATOR} must run in one thread: in several the operator loses a class "
                f"(tensorflow/tensorflow#56058). Received: threads={threads} for {name}. Files exported with --builtin-nms or "
                f"--no-postprocess may take more."
            )
        threads = 1 if alone else threads or available_cores()
        self.name, self.spec, self.settings = name, spec or spec_in(content), settings
        self.labels = tuple(read_files(content).get("labels.txt", "").splitlines()) or None
        try:
            with held_stderr():
                self._interpreter = Interpreter(model_content=content, num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"A .tflite file must be one that LiteRT can run. Received: {name}: {error}") from error
        inputs, self._outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        shapes = [[int(side) for side in each["shape"]] for each in self._outputs]
        self.input = inputs[0]
        shape = [int(side) for side in self.input["shape"]]
        if len(inputs) != 1 or len(shape) != 4 or shape[0] != 1 or shape[1] != shape[2] or shape[3] != 3:
            raise ValueError(f"A detector takes one image [1, size, size, 3]. Received: {name} with the input {shape}")
        self.size = shape[1]
        self.raw = self._is_raw(shapes)

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
        return [self.run(quantized(image[None], self.input)) for image in images]

    def run(self, tensor: np.ndarray) -> Detections:
        """Detections of one image `[1, S, S, 3]` in the input's own type."""
        self._interpreter.set_tensor(self.input["index"], tensor)
        self._interpreter.invoke()
        found = [self._interpreter.get_tensor(each["index"]) for each in self._outputs]
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


def spec_in(content: bytes) -> DetectorSpec | None:
    """The spec that a `.tflite` of this package carries in its report; None for another file."""
    text = read_files(content).get("export.json")
    if text is None:
        return None
    try:
        value: Any = json.loads(text)["detector"]
        return DetectorSpec.from_json(json.dumps(value))
    except (ValueError, KeyError, TypeError):
        return None
