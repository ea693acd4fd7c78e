"""Anything that detects objects, ready to run: any source, Checkpoint, Keras model or `.tflite` file; and `predict`."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging

from keras_mnasnet.data import chosen_photos, missing, read_image, refuse_bad
from keras_mnasnet.data.decode import decode
from keras_mnasnet.detection.data import resize_photo
from keras_mnasnet.detection.drawing import draw, write_png
from keras_mnasnet.detection.model import spec_of
from keras_mnasnet.detection.postprocess import Detections, PostProcess, detections_of, sigmoid
from keras_mnasnet.detection.spec import DetectorSpec, pixels_text
from keras_mnasnet.export.file import TfliteFile
from keras_mnasnet.loading import checkpoint_of, load
from keras_mnasnet.preprocessing import PIXELS
from keras_mnasnet.utils.reading import is_tflite, texts
from keras_mnasnet.utils.text import Life, header, say
from keras_mnasnet.weights.checkpoint import Checkpoint, CheckpointError, Origin

OPERATOR = "TFLite_Detection_PostProcess"
OUTPUT_ORDER = "boxes [1, n, 4], classes [1, n], scores [1, n], count [1]"
SLACK = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Detector:
    """A detector ready to run: `run(pixels [b, *size, 3] 0..255)` gives the detections of each image.

    `size` is (height, width). `category_ids` are None for a file that does not say them, `spec` for one of another tool;
    `suppression` says who selects boxes, and how, and `most` how many of an image are given at most.
    """

    name: str
    kind: str
    size: tuple[int, int]
    labels: tuple[str, ...]
    category_ids: tuple[int, ...] | None
    input: str
    suppression: str
    most: int
    spec: DetectorSpec | None
    run: Callable[[np.ndarray], list[Detections]] = dataclasses.field(repr=False)


def open_detector(
    model: Any, *, settings: PostProcess | None = None, labels: Sequence[str] | None = None, file_input: str | None = None,
    threads: int | None = None, batch_size: int = 8,
) -> Detector:  # fmt: skip
    """Open what `load` takes, or a `.tflite` file; CheckpointError, ValueError or OSError says what is wrong.

    `settings` are for Keras models and files with raw outputs; other files select boxes themselves. `labels` (of files that do
    not carry theirs), `file_input` (pixels, unit, signed, imagenet) and `threads` (default: all cores) are for files.
    """
    if is_tflite(model):
        return _open_tflite(os.fspath(model), settings or PostProcess(), labels, file_input, threads)
    built, origin = detector_model(model)
    name = origin.name
    if labels is not None:
        raise ValueError(f"`labels` are for a .tflite file without class names. Received: labels for {name}")
    run = KerasDetector(built, settings, batch_size=batch_size)
    return Detector(
        name=name, kind="keras", size=run.spec.input_size, labels=run.spec.labels, category_ids=run.spec.category_ids,
        input="float32 pixels 0..255, normalized as its spec says", suppression=str(run.settings), most=run.settings.total,
        spec=run.spec, run=run,
    )  # fmt: skip


def detector_model(model: Any) -> tuple[keras.Model, Origin]:
    """The Keras detector of any source, and where it comes from; CheckpointError for a classifier."""
    if isinstance(model, keras.Model):
        spec_of(model)
        return model, checkpoint_of(model).origin
    checkpoint = detector_checkpoint(model)
    return checkpoint.model(), checkpoint.origin


def detector_checkpoint(model: Any) -> Checkpoint:
    """`load`, and CheckpointError for a classifier."""
    checkpoint = load(model)
    if checkpoint.detector is None:
        raise CheckpointError(
            f"A detector is needed here. Received: {checkpoint.origin.name}, which classifies. `mnasnet predict` and `mnasnet "
            f"bench accuracy` take it; `mnasnet detect train --from` makes a detector of it."
        )
    return checkpoint


def _open_tflite(
    name: str, settings: PostProcess, labels: Sequence[str] | None, how: str | None, threads: int | None
) -> Detector:
    lite = TfliteDetector(name, settings=settings, threads=threads)
    known = texts(labels) if labels is not None else lite.spec.labels if lite.spec else lite.labels
    if not known:
        raise ValueError(
            f"A detector must name its classes. Received: {name}, which carries no labels. Pass labels= (--labels), the names "
            f"in the order of its classes."
        )
    own = None
    if lite.spec is not None:
        own = PIXELS if lite.spec.include_preprocessing else lite.spec.normalization
    convert = lite.file.input(how, otherwise=own)
    ids = lite.spec.category_ids if lite.spec is not None and known == lite.spec.labels else None
    return Detector(
        name=name, kind="tflite", size=lite.size, labels=known, category_ids=ids, input=convert.text,
        suppression=str(settings) if lite.raw else "in the file", most=settings.total if lite.raw else lite.most,
        spec=lite.spec, run=lambda pixels: [lite.run(convert(image[None])) for image in pixels],
    )  # fmt: skip


class KerasDetector:
    """A Keras detector on pixels 0..255 `[n, H, W, 3]`, in batches of one size, so that it is traced once."""

    def __init__(self, model: Any, settings: PostProcess | None = None, *, batch_size: int = 8) -> None:
        self.model, self.spec, self.batch_size = model, spec_of(model), batch_size
        self.settings = settings or PostProcess()

    def __call__(self, pixels: np.ndarray) -> list[Detections]:
        """Detections of each image."""
        return self.of_input(as_network_takes(pixels, self.spec))

    def of_input(self, images: np.ndarray) -> list[Detections]:
        """Detections of images as the network takes them."""
        found: list[Detections] = []
        for start in range(0, len(images), self.batch_size):
            found += self.selected(*self.outputs(images[start : start + self.batch_size]))
        return found

    def outputs(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes `[n, N, 4]` and logits `[n, N, 1 + classes]` of at most a batch of images as the network takes them."""
        images = np.asarray(images, np.float32)
        spare = np.zeros((self.batch_size - len(images), *images.shape[1:]), np.float32)
        outputs = self.model.predict_on_batch(np.concatenate([images, spare]))
        codes, logits = (keras.ops.convert_to_numpy(outputs[name])[: len(images)] for name in ("boxes", "scores"))
        return codes, logits

    def selected(self, codes: np.ndarray, logits: np.ndarray) -> list[Detections]:
        """The detections of each image by its outputs."""
        return detections_of(codes, sigmoid(logits), self.spec, self.settings)


class TfliteDetector:
    """A `.tflite` whose outputs are read by position, as phones' task libraries do; ValueError for one that is no detector.

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
                    f"postprocess='builtin' or 'none' may take more."
                )
            self.file.threads = 1
        self.name, self.spec, self.settings = self.file.name, spec or spec_in(self.file), settings
        self.labels = self.file.labels
        inputs, outputs = (
            [[int(side) for side in each["shape"]] for each in ports] for ports in (self.file.inputs, self.file.outputs)
        )
        if len(inputs) != 1 or len(inputs[0]) != 4 or inputs[0] != [1, *inputs[0][1:3], 3]:
            raise ValueError(
                f"A detector takes one image [1, height, width, 3]. Received: {self.name} with the input {inputs[0]}"
            )
        self.size = (inputs[0][1], inputs[0][2])
        self.raw = self._is_raw(outputs)
        self.most = outputs[0][1]

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
            f"[1, N, 1 + classes]. Received: {self.name} with {shapes}. A classifier's file is for `mnasnet predict`."
        )

    def __call__(self, images: np.ndarray) -> list[Detections]:
        """Detections of float images `[n, H, W, 3]`, as the network takes them."""
        return [self.run(self.file.quantized(image[None])) for image in images]

    def run(self, tensor: np.ndarray) -> Detections:
        """Detections of one image `[1, H, W, 3]` in the input's own type."""
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
        return DetectorSpec.from_dict(file.report["detector"])
    except (ValueError, KeyError, TypeError):
        return None


def as_network_takes(pixels: np.ndarray, spec: DetectorSpec) -> np.ndarray:
    """Pixels 0..255, normalized where the network does not do it itself."""
    if spec.include_preprocessing:
        return pixels
    mean, std = (np.array(values, np.float32) for values in (spec.normalization.mean, spec.normalization.std))
    return (pixels - mean) / std


def sample_inputs(
    data: str | os.PathLike[str], spec: DetectorSpec, count: int, *, seed: int = 0, max_bad: int = 0
) -> np.ndarray:
    """`count` photos of `data` (a folder, TFRecords, tfds:NAME), a seeded choice, as the network takes them `[n, H, W, 3]`."""
    images = chosen_photos(data, count, seed=seed)
    whole = images.decodable()
    refuse_bad(missing(images, whole), max_bad, images.count)
    if not len(whole):
        raise ValueError(f"At least one photo must be whole. Received: {images.name}, where none can be decoded")
    examples = (
        images.subset(whole).examples().map(lambda item: resize_photo(decode(item["image"], upright=True), spec.input_size))
    )
    return as_network_takes(np.stack(list(examples.as_numpy_iterator())).clip(0, 255), spec)


@dataclasses.dataclass(frozen=True, slots=True)
class DetectedObject:
    """One object: its class (`label`, and its number from 0), its score 0..1, and its `box` inside the photo, in pixels:
    (x, y, width, height)."""

    label: str
    number: int
    score: float
    box: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True, slots=True)
class PhotoObjects:
    """The objects of one photo, best first, and the picture that they were drawn into; or the `error` of a damaged one."""

    photo: str
    objects: tuple[DetectedObject, ...] = ()
    drawn: str | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """What there is to say of the photo, as one JSON value."""
        if self.error is not None:
            return {"photo": self.photo, "error": self.error}
        drawn = {} if self.drawn is None else {"drawn": self.drawn}
        return {"photo": self.photo, "objects": [dataclasses.asdict(each) for each in self.objects], **drawn}


def predict(
    model: Any, photos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *,
    output: str | os.PathLike[str] | None = None, score: float = 0.3, iou: float = 0.6, max_detections: int = 100,
    labels: Sequence[str] | None = None, file_input: str | None = None, threads: int | None = None, progress: bool = False,
) -> list[PhotoObjects]:  # fmt: skip
    """Find objects in photos, upright as EXIF says, and draw them.

    Args:
        model: a detector: anything that `load` takes, or a `.tflite` file.
        photos: a file, or a list of files.
        output: a folder that gets PHOTO_detections.png of each photo; None draws nothing.
        score: the least score of an object, 0..1.
        iou: boxes of one class that overlap a better one by more than this are left out.
        max_detections: the most objects of a photo.
        labels, file_input, threads: for `.tflite` files, as `open_detector` says.

    Returns:
        One PhotoObjects for each photo, in their order; one that cannot be read has an `error`.

    Raises ValueError for a model that is no detector, and for photos that would be drawn into the same file.

    Example:
        >>> from keras_mnasnet.detection import SSDLite, predict
        >>> found = predict(SSDLite("small", ["ship"], input_size=96), "weights/demo/ship.png", score=0.5)
        >>> len(found), len(found[0].objects)
        (1, 0)
    """
    given = [photos] if isinstance(photos, str | os.PathLike) else list(photos)
    files = list(dict.fromkeys(os.fspath(photo) for photo in given))
    targets = {} if output is None else _targets(files, Path(output).expanduser())
    settings = PostProcess(score, iou, max_detections, max_detections)
    detector = open_detector(
        model, settings=settings, labels=labels, file_input=file_input, threads=threads, batch_size=1
    )  # fmt: skip
    header(
        {
            "model": f"{detector.name}, {detector.kind}, {pixels_text(detector.size)}, {len(detector.labels)} classes",
            "photos": f"{len(files)}",
            "boxes": f"scores of {score:g} or more",
            "output": output,
        },
        shown=progress,
    )
    found = {}
    with Life("detect", total=len(files), unit="photo", shown=progress) as life:
        for file in files:
            try:
                photo = np.asarray(read_image(file, upright=True))
            except ValueError as error:
                found[file] = PhotoObjects(file, error=str(error))
            else:
                pixels = np.asarray(resize_photo(photo, detector.size))[None]
                best = detector.run(pixels)[0].above(score)
                if file in targets:
                    write_png(targets[file], draw(photo, best, detector.labels))
                drawn = str(targets[file]) if file in targets else None
                found[file] = PhotoObjects(file, _objects(best, detector.labels, photo.shape[:2]), drawn)
            life.step()
    if full := sum(len(each.objects) >= detector.most for each in found.values()):
        logging.warning(
            "%d of %d photos have %d objects, the most that this detector gives, and may have more. They are found with a "
            "larger max_detections (--max-detections), which a .tflite file is given when it is exported",
            full, len(files), detector.most,
        )  # fmt: skip
    if progress and output is not None:
        say(f"drew {sum(each.drawn is not None for each in found.values()):,} photos into {output}")
    return [found[file] for file in files]


def _targets(files: Sequence[str], folder: Path) -> dict[str, Path]:
    """PHOTO_detections.png of every photo; ValueError for two photos that would get the same name."""
    found = {file: folder / f"{Path(file).stem}_detections.png" for file in files}
    names = sorted(target.name for target in found.values())
    for name, after in itertools.pairwise(names):
        if name == after:
            raise ValueError(f"Photos must have different names to be drawn into one folder. Received: {name} twice")
    return found


def _objects(found: Detections, labels: Sequence[str], size: tuple[int, ...]) -> tuple[DetectedObject, ...]:
    height, width = size
    corners = np.clip(found.boxes, 0, 1) * (height, width, height, width)
    return tuple(
        DetectedObject(
            labels[int(number)],
            int(number),
            round(float(score), 6),
            (round(float(x1), 2), round(float(y1), 2), round(float(x2 - x1), 2), round(float(y2 - y1), 2)),
        )
        for (y1, x1, y2, x2), number, score in zip(corners, found.classes, found.scores, strict=True)
    )
