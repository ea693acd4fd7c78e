"""Anything that detects objects, opened by name: a detector's checkpoint, a training run or a `.tflite` file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_mnasnet.detection.checkpoint import load_detector
from keras_mnasnet.detection.inference import KerasDetector
from keras_mnasnet.detection.postprocess import Detections, PostProcess
from keras_mnasnet.detection.tflite_detect import TfliteDetector
from keras_mnasnet.preprocessing import PIXELS

__all__ = ["KINDS", "Detector", "open_detector"]

KINDS = "a detector's .safetensors file, the folder of a `mnasnet detect train` run, or a .tflite file"


@dataclasses.dataclass(frozen=True, eq=False)
class Detector:
    """A detector ready to run: `run(pixels [b, size, size, 3] 0..255)` gives the detections of each image.

    `category_ids` are None for a file that does not say them; `suppression` says who selects boxes, and how.
    """

    name: str
    kind: str
    size: int
    labels: tuple[str, ...]
    category_ids: tuple[int, ...] | None
    input: str
    suppression: str
    run: Callable[[np.ndarray], list[Detections]] = dataclasses.field(repr=False)


def open_detector(
    model: str | os.PathLike[str], *, settings: PostProcess | None = None, labels: Sequence[str] | None = None,
    tflite_input: str | None = None, threads: int | None = None, batch_size: int = 8,
) -> Detector:  # fmt: skip
    """Open `model` (KINDS). ValueError or OSError says what is wrong.

    `settings` are for Keras models and files with raw outputs; other files select boxes themselves. `labels` are for files
    that do not carry theirs; `tflite_input` (pixels, unit, signed, imagenet) and `threads` (default: all cores) for files.
    """
    text = os.fspath(model)
    if text.endswith(".tflite"):
        return _open_tflite(Path(text).expanduser(), text, settings, labels, tflite_input, threads)
    if labels is not None:
        raise ValueError(f"`labels` are for a .tflite file without class names. Received: labels for {text}")
    path = Path(text).expanduser()
    if not path.exists():
        raise ValueError(f"A model must be {KINDS}. Received: {text}, which does not exist")
    built = KerasDetector(load_detector(path), settings, batch_size=batch_size)
    spec = built.spec
    return Detector(
        name=text, kind="keras", size=spec.input_size, labels=spec.labels, category_ids=spec.category_ids,
        input="float32 pixels 0..255, normalised as its spec says", suppression=_text(settings), run=built,
    )  # fmt: skip


def _open_tflite(
    path: Path, name: str, settings: PostProcess | None, labels: Sequence[str] | None, how: str | None, threads: int | None
) -> Detector:
    lite = TfliteDetector(path, name=name, settings=settings, threads=threads)
    known = tuple(labels) if labels is not None else lite.spec.labels if lite.spec else lite.labels
    if not known:
        raise ValueError(
            f"A detector must name its classes. Received: {name}, which carries no labels. Pass a file with one name a line "
            f"(--labels)."
        )
    own = None
    if lite.spec is not None:
        own = PIXELS if lite.spec.include_preprocessing else lite.spec.normalization
    convert = lite.file.input(how, otherwise=own)

    def run(pixels: np.ndarray) -> list[Detections]:
        return [lite.run(convert(image[None])) for image in pixels]

    ids = lite.spec.category_ids if lite.spec is not None and known == lite.spec.labels else None
    return Detector(
        name=name, kind="tflite", size=lite.size, labels=known, category_ids=ids, input=convert.text,
        suppression=_text(settings) if lite.raw else "in the file", run=run,
    )  # fmt: skip


def _text(settings: PostProcess | None) -> str:
    chosen = settings or PostProcess()
    return (
        f"scores of {chosen.score_threshold:g} or more, IoU {chosen.iou_threshold:g} in each class, "
        f"{chosen.per_class} a class, {chosen.total} in all"
    )
