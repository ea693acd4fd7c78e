"""`export`: a detector -> a verified `.tflite` that phones' detector APIs take; and whether a file is the detector."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet import __version__
from keras_mnasnet.detection.anchors import anchors_of
from keras_mnasnet.detection.annotations import judged_split
from keras_mnasnet.detection.data import CocoDataset, open_dataset
from keras_mnasnet.detection.evaluation import category_map, coco_score, results_on
from keras_mnasnet.detection.inference import (
    OPERATOR,
    KerasDetector,
    TfliteDetector,
    as_network_takes,
    detector_model,
    sample_inputs,
)
from keras_mnasnet.detection.model import spec_of
from keras_mnasnet.detection.postprocess import Detections, PostProcess, detections_of, sigmoid
from keras_mnasnet.detection.spec import DetectorSpec, pixels_text
from keras_mnasnet.detection.summary import summary_of_one
from keras_mnasnet.export.calibration import Calibration, calibration_images
from keras_mnasnet.export.converter import convert_function, convert_model
from keras_mnasnet.export.file import HALF, GraphFacts, TfliteFile
from keras_mnasnet.export.flatbuffer import METADATA_NAME, ModelWriter, detector_metadata, joined
from keras_mnasnet.export.half import HalfCheck, check_compute, checked_half, rounded
from keras_mnasnet.export.layers import NORMALIZED
from keras_mnasnet.export.layers import PIXELS as TAKES_PIXELS
from keras_mnasnet.export.partitions import Partitions, accelerators
from keras_mnasnet.export.report import Oracle, stamped, write_export
from keras_mnasnet.export.rewrite import rewritten
from keras_mnasnet.export.tflite import check_options, check_target, with_extremes
from keras_mnasnet.export.verify import (
    LEAST_IMAGES,
    LIMITS,
    Comparison,
    ExportError,
    Limits,
    accepting,
    check_calls,
    check_promise,
    compare,
    drawn_images,
    judge,
)
from keras_mnasnet.preprocessing import PIXELS
from keras_mnasnet.utils.text import Life, header, say
from keras_mnasnet.weights.checkpoint import Origin

PRECISIONS = (None, "float16", "int8")
EXPORT_SETTINGS = PostProcess(score_threshold=0.01)
VERIFICATION_IMAGES = 16
OUTPUTS = ("boxes", "classes", "scores", "count")
REACH = 1.0  # builtin NMS: boxes are compared as far as one image beyond the image
CELL = 1 + 2 * REACH

# Of the comparison of detections
THRESHOLD = 0.3
BOX_LIMIT = 1e-3  # shares of the image
SAME_IOU = 0.5
FEW = 10  # detections of an image that are compared where none reaches the threshold
CHANGED_BELOW = 0.2  # of detections under the threshold, whose order is decided by rounding


@dataclasses.dataclass(frozen=True, slots=True)
class Agreement:
    """Detections with scores of `threshold` or more: the model's (`expected`), the file's (`found`), and how they agree.

    `matched` of the expected and `confirmed` of the found ones have a partner on the other side: the same class, IoU 0.5 or
    more, boxes within BOX_LIMIT for `close`. Differences are the largest between partners: of boxes as shares of the image.
    """

    images: int
    threshold: float
    expected: int
    found: int
    matched: int
    confirmed: int
    close: int
    max_box_difference: float | None
    max_score_difference: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class MeasuredDrop:
    """COCO's numbers of the Keras model and of the file on the same photos, with the same thresholds, and what AP loses."""

    annotations: str
    images: int
    keras: dict[str, float | None]
    file: dict[str, float | None]
    ap_drop: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class DetectorReport:
    """What was written and how it compares with the model. `comparisons` are of the network's raw outputs, `agreement` of the
    detections; `evaluation` where annotated photos were given. `network_partitions` are those up to the suppression of boxes.
    `detector` is the DetectorSpec; `silent_layers` are zero on every
    calibration image, and constant in the file. `data` is what was read of the annotations. `half` is the simulation in half
    precision, and `accelerators` what their published lists lack, as of an ExportReport.
    """

    path: str
    quantize: str | None
    postprocess: str
    settings: PostProcess
    seconds: float
    sha256: str
    facts: GraphFacts
    partitions: Partitions
    network_partitions: Partitions
    comparisons: tuple[Comparison, ...]
    limits: Limits
    agreement: Agreement
    evaluation: MeasuredDrop | None
    verified_against: str
    verified_on: str
    calibration: Calibration | None
    origin: Origin
    description: str
    detector: DetectorSpec
    silent_layers: tuple[str, ...] = ()
    data: dict[str, Any] | None = None
    half: HalfCheck | None = None
    accelerators: dict[str, str] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """One JSON value, with the schema's version, the package's, and the date."""
        return {**stamped(self), "detector": self.detector.to_dict()}


def export(
    model: Any, path: str | os.PathLike[str], *, quantize: str | None = None, compute: str | None = None,
    representative_data: Any = None, photos: Any = None, annotations: str | os.PathLike[str] | None = None,
    postprocess: str = "operator", score: float = EXPORT_SETTINGS.score_threshold, iou: float = EXPORT_SETTINGS.iou_threshold,
    max_detections: int = EXPORT_SETTINGS.total, input_dtype: str = "float32", calibration_count: int = 500,
    verification_count: int = 32, accept_changed: float | None = None, max_bad: int = 0, seed: int = 0,
    progress: bool = False,
) -> DetectorReport:  # fmt: skip
    """Export a detector to `.tflite`, and verify the file: raw outputs and detections against the Keras model's.

    Args:
        model: a detector: anything that `load` takes, or a Keras model of SSDLite.
        path: the .tflite file to write; its report is written beside it, as `path`.json.
        quantize: None or "float32", float16, or int8, whose network computes in integers throughout and whose sigmoid and
            post-processing compute in float32.
        compute: "half" marks a float16 or float32 file, so that ARM CPUs since 2018 compute it in half precision, if a
            simulation of the network and its detections allows it; not with builtin NMS, whose boxes the delegate computes,
            too. "float32" does not. None: half for float16, where that is possible.
        representative_data: photos for int8's ranges: a folder, TFRecords, tfds:NAME, or images as the model takes them.
        photos: what the file is verified on: a folder, or images `[N, H, W, 3]` as the model takes them. Default: the first
            calibration images, else drawn ones.
        annotations: COCO's (or VOC's) of the folder `photos`, to measure what AP loses.
        postprocess: operator (TFLite_Detection_PostProcess) or builtin (LiteRT's own NMS), both with the outputs boxes,
            classes, scores, count; or none (boxes in code, and scores).
        score, iou, max_detections: which boxes the file gives, as in `predict`.
        input_dtype: uint8 or int8 for int8; outputs are float32.
        calibration_count, verification_count: how many photos of folders are taken, at most; `seed` chooses them.
        accept_changed: the share of the model's detections, 0 to 1, that the file may miss or find elsewhere, and of its own
            that it may add; None: what `export.verify.LIMITS` says of the precision.
        max_bad: damaged photos to leave out before giving up.

    Returns:
        A DetectorReport: sizes, operators, partitions, and how the file compares with the model.

    Raises ValueError for bad arguments; ExportError, and no file, when the result is not what was asked.

    Example:
        >>> from keras_mnasnet.detection import SSDLite, export
        >>> detector = SSDLite("small", ["ship"], width_multiplier=0.35, input_size=96)
        >>> report = export(detector, "ship.tflite", postprocess="builtin")
        >>> [port.name for port in report.facts.outputs]
        ['boxes', 'classes', 'scores', 'count']
    """
    started = time.perf_counter()
    check_target(path)
    path = Path(path).expanduser()
    settings = PostProcess(score, iou, max_detections, max_detections)
    quantize = None if quantize == "float32" else quantize
    if quantize not in PRECISIONS:
        raise ValueError(f"A detector's `quantize` must be one of {PRECISIONS}. Received: quantize={quantize!r}")
    check_options(quantize, input_dtype, 1, representative_data)
    precision = quantize or "float32"
    limits = accepting(precision, accept_changed)
    check_postprocess(postprocess)
    computes = check_compute(compute, quantize)
    if postprocess == "builtin" and compute == "half":
        raise ValueError(
            "compute='half' is not for postprocess='builtin', whose boxes would be computed in half precision, too. Received: "
            "both. Take postprocess='operator' (--postprocess operator), or leave `compute` (--compute) out"
        )
    if annotations is not None and not isinstance(photos, str | os.PathLike):
        raise ValueError(f"`annotations` need `photos` (--photos), the folder of their photos. Received: photos={photos!r}")
    model, origin = detector_model(model)
    check_calls(model)
    spec = spec_of(model)
    if input_dtype != "float32" and not spec.include_preprocessing:
        raise ValueError(
            f"`input_dtype` other than float32 takes pixels: build the detector with include_preprocessing=True. "
            f"Received: input_dtype={input_dtype!r}"
        )
    evaluation = summary = None
    if annotations is not None:
        evaluation = open_dataset(annotations, photos, split=judged_split(annotations), max_bad=max_bad)
        evaluation = evaluation.checked(max_bad, progress=progress)
        summary = summary_of_one(annotations, evaluation, spec.input_size, spec=spec)
    calibrated, calibration = None, None
    shape = (*spec.input_size, 3)
    if quantize == "int8":
        if isinstance(representative_data, str | os.PathLike):
            representative_data = sample_inputs(representative_data, spec, calibration_count, seed=seed, max_bad=max_bad)
        calibrated, calibration = calibration_images(
            representative_data, shape=shape, count=calibration_count, seed=seed,
            kind=TAKES_PIXELS if spec.include_preprocessing else NORMALIZED,
        )  # fmt: skip
    if isinstance(photos, str | os.PathLike):
        photos = sample_inputs(photos, spec, verification_count, seed=seed, max_bad=max_bad)
    images, on = _verification_images(photos, calibrated, spec)
    header(
        {
            "model": f"{origin}, {pixels_text(spec.input_size)}, {spec.classes} classes",
            "precision": quantize or "float32",
            "post-processing": f"{postprocess}: {settings}",
            "calibrated on": None if calibration is None else f"{calibration.images:,} photos",
            "verified on": on,
            **({} if summary is None else summary.rows()),
            "more boxes": _past(evaluation, max_detections),
            "AP measured on": None if evaluation is None else f"{evaluation.count:,} photos of {annotations}",
            "output": path,
        },
        shown=progress,
    )
    content = convert_model(
        model, (1, *shape), quantize=quantize, input_dtype=input_dtype, output_dtype="float32", progress=progress,
        images=with_extremes(calibrated) if calibrated is not None and spec.include_preprocessing else calibrated,
    )  # fmt: skip
    return published(
        content, path, spec, _outputs_of(model), images, name=model.name, quantize=quantize, precision=precision,
        limits=limits, postprocess=postprocess, settings=settings, started=started, origin=origin,
        against=f"Keras {model.name}", on=on, calibration=calibration, progress=progress,
        half=None if computes != "half" or postprocess == "builtin" else accepting("half", accept_changed),
        half_asked=compute == "half",
        data=None if summary is None else summary.as_json(),
        measure=lambda written: measured_drop(model, written, settings, evaluation, progress),
    )  # fmt: skip


def check_postprocess(postprocess: str) -> None:
    """ValueError for a selection of boxes that does not exist."""
    if postprocess not in TAILS:
        raise ValueError(f"`postprocess` must be one of {tuple(TAILS)}. Received: postprocess={postprocess!r}")


def published(
    content: bytes, path: Path, spec: DetectorSpec, outputs: Oracle, images: np.ndarray, *, name: str,
    quantize: str | None, precision: str, limits: Limits, postprocess: str, settings: PostProcess, started: float,
    origin: Origin, against: str, on: str, calibration: Calibration | None, data: dict[str, Any] | None,
    measure: Callable[[bytes], MeasuredDrop | None], progress: bool, half: Limits | None = None, half_asked: bool = False,
) -> DetectorReport:  # fmt: skip
    """A converted network, with the selection of boxes behind it: verified against `outputs` on `images`, and written.

    `outputs` gives {"codes", "logits"} of images as the network takes them. `precision` is one of LIMITS. `half` are the limits
    of the simulation in half precision, after which the file is marked (None: it is not to be).
    """
    name = f"{name}_{'x'.join(map(str, dict.fromkeys(spec.input_size)))}"
    description = f"{name}, {precision}, made by keras_mnasnet {__version__}"
    body, silent = rewritten(
        content, input_names=["image"], output_names=["codes", "logits"], description=description, metadata={}
    )
    network = TfliteFile(body, name="the exported network")
    check_promise(network.facts, quantize)
    comparisons = compare(network, outputs, images, precision=precision, progress=progress)
    judge(comparisons, precision, limits)
    metadata: dict[str, bytes] = {}
    simulated = None
    if half is not None:

        def detections(found: Mapping[str, np.ndarray], images: np.ndarray) -> None:
            pairs = [(side["codes"], rounded(sigmoid(side["logits"]))) for side in (outputs(images), found)]
            judge_detections(agreement(*(detections_of(*pair, spec, settings) for pair in pairs)), half)

        _, simulated = checked_half(body, images, half, asked=half_asked, progress=progress, further=detections)
        metadata = HALF.copy() if simulated.reason is None else metadata
    if postprocess != "none":
        metadata[METADATA_NAME] = detector_metadata(
            name=name, description=description, license=origin.license or "not stated", input_name="image",
            normalization=PIXELS if spec.include_preprocessing else spec.normalization, size=spec.input_size,
        )  # fmt: skip
    content = joined(body, TAILS[postprocess](spec, settings), description=description, metadata=metadata)
    seconds = time.perf_counter() - started
    with Life("compare detections", shown=progress):
        facts, agreed = _verified(content, spec, outputs, images, limits, postprocess, settings)
    file = TfliteFile(content, name="the exported file", threads=1)
    report = DetectorReport(
        path=str(path), quantize=quantize, postprocess=postprocess, settings=settings, seconds=round(seconds, 3), sha256="",
        facts=facts, partitions=file.partitions(), network_partitions=file.partitions(until=SUPPRESSION[postprocess]),
        comparisons=comparisons, limits=limits, agreement=agreed, evaluation=measure(content), verified_against=against,
        verified_on=on, calibration=calibration, origin=origin, description=description, detector=spec,
        silent_layers=tuple(silent), data=data, half=simulated,
        accelerators=accelerators(facts),
    )  # fmt: skip
    report = write_export(content, path, report, spec.labels)
    if progress:
        say(f"wrote {path} ({report.facts.bytes:,} bytes) and {path}.json. Next: mnasnet detect eval {path}")
    return report


def _past(evaluation: CocoDataset | None, most: int) -> str | None:
    """What to say where photos hold more boxes than the file gives."""
    photos = 0 if evaluation is None else evaluation.photos_past(most)[0]
    return f"{photos:,} photos hold more than {most} boxes, the most that the file gives (--max-detections)" if photos else None


def _verification_images(given: Any, calibrated: np.ndarray | None, spec: DetectorSpec) -> tuple[np.ndarray, str]:
    shape = (*spec.input_size, 3)
    if given is None and calibrated is None:
        return as_network_takes(drawn_images(8, *shape), spec), "8 drawn images"
    if given is not None:
        values = np.asarray(given, np.float32)
        if values.ndim != 4 or not len(values) or values.shape[1:] != shape:
            raise ValueError(
                f"`photos` must be a folder, or images [N, {shape[0]}, {shape[1]}, 3]. Received: {list(values.shape)}"
            )
        name = f"{len(values)} given images"
    else:
        assert calibrated is not None
        values = calibrated[:VERIFICATION_IMAGES]
        name = f"the first {len(values)} calibration images"
    missing = LEAST_IMAGES - len(values)
    if missing <= 0:
        return values, name
    return np.concatenate([values, as_network_takes(drawn_images(missing, *shape), spec)]), f"{name} and {missing} drawn ones"


def _outputs_of(model: Any) -> Oracle:
    """A Keras detector's raw outputs for any number of images as it takes them."""
    detector = KerasDetector(model)

    def outputs(images: np.ndarray) -> dict[str, np.ndarray]:
        step = detector.batch_size
        parts = [detector.outputs(images[start : start + step]) for start in range(0, len(images), step)]
        codes, logits = map(np.concatenate, zip(*parts, strict=True))
        return {"codes": codes, "logits": logits}

    return outputs


def measured_drop(
    model: Any, content: bytes, settings: PostProcess, evaluation: CocoDataset | None, progress: bool
) -> MeasuredDrop | None:
    """COCO's numbers of a Keras detector and of a file that takes what `spec_of(model)` says; None without photos."""
    if evaluation is None:
        return None
    truth, spec = evaluation.truth, spec_of(model)
    ids = category_map(spec.labels, spec.category_ids, truth, model.name)
    lite = TfliteDetector(content, spec=spec, settings=settings)
    runs: Sequence[tuple[str, Any]] = (
        ("Keras", KerasDetector(model, settings)),
        ("file", lambda pixels: lite(as_network_takes(pixels, spec))),
    )
    metrics = []
    for name, run in runs:
        results, _ = results_on(run, evaluation, truth, ids, size=spec.input_size, name=name, shown=progress)
        metrics.append(coco_score(truth, results, image_ids=evaluation.image_ids).metrics)
    before, after = (found["AP"] for found in metrics)
    drop = None if before is None or after is None else before - after
    return MeasuredDrop(evaluation.name, evaluation.count, metrics[0], metrics[1], drop)


def verify_detector(
    content: bytes, model: Any, images: np.ndarray, *, limits: Limits = LIMITS["float32"], postprocess: str = "operator",
    settings: PostProcess = EXPORT_SETTINGS,
) -> tuple[GraphFacts, Agreement]:  # fmt: skip
    """Compare a file's detections, its outputs read by position, with the Keras model's on images as the network takes them.

    ExportError for a graph without its weights, outputs in another order or with other names, and detections that are not
    the model's.
    """
    return _verified(content, spec_of(model), _outputs_of(model), images, limits, postprocess, settings)


def _verified(
    content: bytes, spec: DetectorSpec, outputs: Oracle, images: np.ndarray, limits: Limits, postprocess: str,
    settings: PostProcess,
) -> tuple[GraphFacts, Agreement]:  # fmt: skip
    facts = TfliteFile(content, name="the exported file").facts
    check_promise(facts, None, allowed_custom=(f"CUSTOM:{OPERATOR}",) if postprocess == "operator" else ())
    expected = ["boxes", "scores"] if postprocess == "none" else list(OUTPUTS)
    named = [port.name for port in facts.outputs]
    signed = [signature["outputs"] for signature in facts.signatures.values()]
    if named != expected or signed != [expected]:
        raise ExportError(
            f"The file's outputs must be {', '.join(expected)}, in this order: applications go by position. "
            f"Received: {', '.join(named)}; signature {signed}"
        )
    try:
        found = TfliteDetector(content, spec=spec, settings=settings)(images)
    except ValueError as error:
        raise ExportError(str(error)) from error
    wanted = outputs(images)
    compared = agreement(detections_of(wanted["codes"], sigmoid(wanted["logits"]), spec, settings), found)
    judge_detections(compared, limits)
    return facts, compared


def agreement(model: Sequence[Detections], file: Sequence[Detections], *, threshold: float = THRESHOLD) -> Agreement:
    """Compare the detections of each image, both ways: a partner may have a score just below the threshold.

    Where the model finds nothing with `threshold`, the threshold becomes the lowest score of every image's ten best.
    """
    best = [detections.scores[:FEW] for detections in model]
    if not any((scores >= threshold).any() for scores in best) and any(len(scores) for scores in best):
        threshold = float(min(scores.min() for scores in best if len(scores)))
    expected = found = matched = confirmed = close = 0
    boxes, scores = [], []
    for wanted, given in zip(model, file, strict=True):
        pairs = _partners(wanted.above(threshold), given)
        expected, matched = expected + len(wanted.above(threshold)), matched + len(pairs)
        close += sum(box <= BOX_LIMIT for box, _ in pairs)
        boxes += [box for box, _ in pairs]
        scores += [score for _, score in pairs]
        found, confirmed = found + len(given.above(threshold)), confirmed + len(_partners(given.above(threshold), wanted))
    return Agreement(
        images=len(model),
        threshold=threshold,
        expected=expected,
        found=found,
        matched=matched,
        confirmed=confirmed,
        close=close,
        max_box_difference=max(boxes, default=None),
        max_score_difference=max(scores, default=None),
    )


def _partners(some: Detections, others: Detections) -> list[tuple[float, float]]:
    """(box difference, score difference) of every detection that has a partner: best IoU of its class, each taken once."""
    free = np.ones(len(others), bool)
    found = []
    for box, label, score in zip(some.boxes, some.classes, some.scores, strict=True):
        overlaps = np.where(free & (others.classes == label), _iou(box, others.boxes), 0.0)
        if len(overlaps) and overlaps.max() >= SAME_IOU:
            chosen = int(overlaps.argmax())
            free[chosen] = False
            found.append((float(np.abs(box - others.boxes[chosen]).max()), abs(float(score - others.scores[chosen]))))
    return found


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.maximum(sides, 0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)


def judge_detections(compared: Agreement, limits: Limits) -> None:
    """ExportError where more than the share `limits.detections` of the model's detections is missing in the file, or of the
    file's in the model.

    Boxes must also be within BOX_LIMIT where the precision is no 8-bit one. Of detections below the threshold an 8-bit file's
    are not judged: its rounding decides which ones they are, and its network was compared before.
    """
    unsure = compared.threshold < THRESHOLD
    if unsure and limits.eight_bits:
        return
    same = compared.matched if limits.eight_bits else compared.close
    shares = [1 - part / whole if whole else 0.0 for part, whole in (
        (same, compared.expected), (compared.confirmed, compared.found),
    )]  # fmt: skip
    allowed = max(limits.detections, CHANGED_BELOW if unsure else 0.0)
    if max(shares) > allowed:
        raise ExportError(
            f"The file must find what the model finds: scores of {compared.threshold:g} or more, boxes within "
            f"{BOX_LIMIT:g} of the image (8 bits: IoU {SAME_IOU:g}), {allowed:.0%} left out. Received: {compared.expected} "
            f"detections of the model, {compared.matched} of them in the file, {compared.close} with such boxes; "
            f"{compared.found} of the file, {compared.confirmed} of them in the model. Are the outputs in another order, or "
            f"the weights not the model's? `accept_changed` (--accept-changed) takes more, "
            f"as {math.ceil(100 * max(shares)) / 100:g}."
        )


# What follows the network in a file: every tail takes `codes` [1, N, 4] and `logits` [1, N, 1 + classes], in float32.


def _tail_start(spec: DetectorSpec) -> tuple[ModelWriter, dict[str, int], int]:
    writer = ModelWriter()
    count, classes = len(anchors_of(spec)), spec.classes
    inputs = {"codes": writer.tensor("codes", (1, count, 4)), "logits": writer.tensor("logits", (1, count, classes + 1))}
    scores = writer.tensor("probabilities", (1, count, classes + 1))
    writer.operator("LOGISTIC", [inputs["logits"]], [scores])
    return writer, inputs, scores


def raw_tail(spec: DetectorSpec, settings: PostProcess) -> bytes:
    """`boxes` [1, N, 4], still in code, and `scores` [1, N, 1 + classes], probabilities with the background in slot 0."""
    writer, inputs, scores = _tail_start(spec)
    return writer.finish(inputs, {"boxes": inputs["codes"], "scores": scores}, description="", metadata={})


def operator_tail(spec: DetectorSpec, settings: PostProcess) -> bytes:
    """The four outputs of TFLite_Detection_PostProcess, in its order, with suppression in every class."""
    from flatbuffers import flexbuffers

    writer, inputs, scores = _tail_start(spec)
    anchors = anchors_of(spec)
    constant = writer.tensor("anchors", anchors.shape, data=anchors)
    shapes = ((1, settings.total, 4), (1, settings.total), (1, settings.total), (1,))
    outputs = {name: writer.tensor(name, shape) for name, shape in zip(OUTPUTS, shapes, strict=True)}
    options = flexbuffers.Builder()
    with options.Map():
        for key, value in {
            "max_detections": settings.total,
            "max_classes_per_detection": 1,
            "detections_per_class": settings.per_class,
            "num_classes": spec.classes,
        }.items():
            options.Int(key, value)
        options.Bool("use_regular_nms", True)
        options.Float("nms_score_threshold", settings.score_threshold)
        options.Float("nms_iou_threshold", settings.iou_threshold)
        for key, variance in zip("yxhw", spec.anchors.variance, strict=True):
            options.Float(f"{key}_scale", 1 / variance)
    writer.custom(OPERATOR, [inputs["codes"], scores, constant], list(outputs.values()), bytes(options.Finish()))
    return writer.finish(inputs, outputs, description="", metadata={})


def builtin_tail(spec: DetectorSpec, settings: PostProcess) -> bytes:
    """The same four outputs by LiteRT's own NON_MAX_SUPPRESSION_V5, over all classes at once.

    Boxes of different classes never meet: class c is compared in the cell (c // k, c % k) of a k x k grid, k = ceil(sqrt(C)),
    which costs less precision than a row of C cells. For the comparison boxes end one image beyond the image.
    """
    if settings.per_class < settings.total:
        raise ValueError(
            f"Builtin NMS limits all classes together: `per_class` must be `total` or more. "
            f"Received: per_class={settings.per_class}, total={settings.total}"
        )
    import tensorflow as tf

    anchors = anchors_of(spec)
    count, classes, total = len(anchors), spec.classes, settings.total
    side = int(np.ceil(np.sqrt(classes)))
    cells = np.stack([np.arange(classes) // side, np.arange(classes) % side], axis=1).astype(np.float32) * CELL
    offsets = np.concatenate([cells, cells], axis=1)[None]
    variance = np.array(spec.anchors.variance, np.float32)

    def forward(codes: tf.Tensor, logits: tf.Tensor) -> list[tf.Tensor]:
        moved = tf.reshape(codes, [count, 4]) * variance
        centers = moved[:, :2] * anchors[:, 2:] + anchors[:, :2]
        halves = tf.exp(moved[:, 2:]) * (anchors[:, 2:] / 2)
        corners = tf.concat([centers - halves, centers + halves], axis=1)
        scores = tf.reshape(tf.sigmoid(logits)[:, :, 1:], [count * classes])
        placed = tf.reshape(tf.clip_by_value(corners, -REACH, 1 + REACH), [count, 1, 4]) + offsets
        chosen, kept, valid = tf.raw_ops.NonMaxSuppressionV5(
            boxes=tf.reshape(placed, [count * classes, 4]), scores=scores, max_output_size=total,
            iou_threshold=settings.iou_threshold, score_threshold=settings.score_threshold, soft_nms_sigma=0.0,
            pad_to_max_output_size=True,
        )  # fmt: skip
        real = tf.cast(tf.range(total) < valid, tf.float32)
        boxes = tf.gather(corners, chosen // classes) * real[:, None]
        found = tf.cast(chosen % classes, tf.float32) * real
        return [boxes[None], found[None], (kept * real)[None], tf.cast(valid, tf.float32)[None]]

    signature = [
        tf.TensorSpec((1, count, 4), tf.float32, name="codes"),
        tf.TensorSpec((1, count, classes + 1), tf.float32, name="logits"),
    ]
    content = convert_function(tf.function(forward, autograph=False, input_signature=signature))
    return rewritten(content, input_names=("codes", "logits"), output_names=OUTPUTS, description="", metadata={})[0]


TAILS: dict[str, Callable[[DetectorSpec, PostProcess], bytes]] = {
    "operator": operator_tail, "builtin": builtin_tail, "none": raw_tail,
}  # fmt: skip
SUPPRESSION = {"operator": OPERATOR, "builtin": "NON_MAX_SUPPRESSION_V5", "none": None}
