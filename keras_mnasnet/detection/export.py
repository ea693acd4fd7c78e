"""`export_detector`: SSDLite -> a verified `.tflite` that phones' detector APIs take."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mnasnet import __version__
from keras_mnasnet.detection.agreement import Agreement, agreement, judge_detections
from keras_mnasnet.detection.data import CocoDataset
from keras_mnasnet.detection.evaluation import coco_score
from keras_mnasnet.detection.inference import KerasDetector, as_network_takes, category_map, results_on
from keras_mnasnet.detection.model import spec_of
from keras_mnasnet.detection.postprocess import PostProcess
from keras_mnasnet.detection.spec import DetectorSpec
from keras_mnasnet.detection.tails import OPERATOR, OUTPUTS, SUPPRESSION, TAILS
from keras_mnasnet.detection.tflite_detect import TfliteDetector
from keras_mnasnet.export.calibration import NORMALIZED, PIXELS, Calibration, calibration_images
from keras_mnasnet.export.converter import convert_model
from keras_mnasnet.export.file import GraphFacts, TfliteFile
from keras_mnasnet.export.join import joined
from keras_mnasnet.export.metadata import METADATA_NAME, detector_metadata
from keras_mnasnet.export.partitions import Partitions
from keras_mnasnet.export.report import Origin, stamped, write_export
from keras_mnasnet.export.rewrite import rewritten
from keras_mnasnet.export.tflite import check_options, with_extremes
from keras_mnasnet.export.verify import Comparison, ExportError, check_promise, compare, drawn_images, judge
from keras_mnasnet.preprocessing import Normalization
from keras_mnasnet.utils.files import check_writable

__all__ = ["EXPORT_SETTINGS", "PRECISIONS", "DetectorReport", "MeasuredDrop", "export_detector", "verify_detector"]

PRECISIONS = (None, "float16", "int8")
EXPORT_SETTINGS = PostProcess(score_threshold=0.01)
VERIFICATION_IMAGES = 16


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
    calibration image, and constant in the file.
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
    agreement: Agreement
    evaluation: MeasuredDrop | None
    verified_against: str
    verified_on: str
    calibration: Calibration | None
    origin: Origin
    description: str
    detector: DetectorSpec
    silent_layers: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """One JSON value, with the schema's version, the package's, and the date."""
        return {**stamped(self), "detector": json.loads(self.detector.to_json())}


def export_detector(
    model: Any,
    path: str | os.PathLike[str],
    *,
    quantize: str | None = None,
    postprocess: str = "operator",
    settings: PostProcess = EXPORT_SETTINGS,
    representative_data: Any = None,
    input_dtype: str = "float32",
    images: np.ndarray | None = None,
    evaluation: CocoDataset | None = None,
    origin: Origin | None = None,
    calibration_count: int = 500,
    seed: int = 0,
    progress: bool = False,
) -> DetectorReport:
    """Export a detector of SSDLite or load_detector, and verify the file.

    `quantize`: None (float32), float16, or int8, whose network computes in integers throughout and whose sigmoid and
    post-processing compute in float32; it needs `representative_data`, images as the model takes them. `input_dtype` uint8 or
    int8 is for int8; outputs are float32. `postprocess`: operator (TFLite_Detection_PostProcess), builtin (LiteRT's own NMS),
    both with the outputs boxes, classes, scores, count; or none (boxes in code, and scores). `images` `[N, S, S, 3]` verify
    the file (default: the first calibration images, else drawn ones); `evaluation` are annotated photos to measure what AP
    loses. ValueError for bad arguments; ExportError, and no file, when the result is not what was asked.
    """
    started = time.perf_counter()
    spec = spec_of(model)
    if quantize not in PRECISIONS:
        raise ValueError(f"A detector's `quantize` must be one of {PRECISIONS}. Received: quantize={quantize!r}")
    check_options(quantize, input_dtype, 1, representative_data)
    if postprocess not in TAILS:
        raise ValueError(f"`postprocess` must be one of {tuple(TAILS)}. Received: postprocess={postprocess!r}")
    if input_dtype != "float32" and not spec.include_preprocessing:
        raise ValueError(
            f"`input_dtype` other than float32 takes pixels: build the detector with include_preprocessing=True. "
            f"Received: input_dtype={input_dtype!r}"
        )
    check_writable(path)
    shape = (spec.input_size, spec.input_size, 3)
    calibrated, calibration = None, None
    if quantize == "int8":
        calibrated, calibration = calibration_images(
            representative_data,
            shape=shape,
            count=calibration_count,
            seed=seed,
            kind=PIXELS if spec.include_preprocessing else NORMALIZED,
        )
    shown, shown_name = _verification_images(images, calibrated, spec)
    name = f"{model.name}_{spec.input_size}"
    description = f"{name}, {quantize or 'float32'}, made by keras_mnasnet {__version__}"
    origin = origin or Origin()
    content = convert_model(
        model, (1, *shape), quantize=quantize, input_dtype=input_dtype, output_dtype="float32", progress=progress,
        images=with_extremes(calibrated) if calibrated is not None and spec.include_preprocessing else calibrated,
    )  # fmt: skip
    body, silent = rewritten(
        content, input_names=["image"], output_names=["codes", "logits"], description=description, metadata={}
    )
    network = TfliteFile(body, name="the exported network")
    check_promise(network.facts, quantize)
    comparisons = compare(network, _raw_oracle(model), shown, progress=progress)
    judge(comparisons, quantize)
    metadata = {}
    if postprocess != "none":
        normalization = Normalization() if spec.include_preprocessing else spec.normalization
        metadata[METADATA_NAME] = detector_metadata(
            name=name, description=description, licence=origin.licence, input_name="image", normalization=normalization,
            size=shape[:2],
        )  # fmt: skip
    content = joined(body, TAILS[postprocess](spec, settings), description=description, metadata=metadata)
    seconds = time.perf_counter() - started
    file = TfliteFile(content, name="the exported file", threads=1)
    facts, agreed = verify_detector(content, model, shown, quantize=quantize, postprocess=postprocess, settings=settings)
    report = DetectorReport(
        path=str(Path(path).expanduser()), quantize=quantize, postprocess=postprocess, settings=settings,
        seconds=round(seconds, 3), sha256="", facts=facts, partitions=file.partitions(),
        network_partitions=file.partitions(until=SUPPRESSION[postprocess]), comparisons=comparisons, agreement=agreed,
        evaluation=_measured(model, content, settings, evaluation, progress),
        verified_against=f"Keras {model.name}", verified_on=shown_name, calibration=calibration, origin=origin,
        description=description, detector=spec, silent_layers=tuple(silent),
    )  # fmt: skip
    return write_export(content, Path(path).expanduser(), report, spec.labels)


def verify_detector(
    content: bytes, model: Any, images: np.ndarray, *, quantize: str | None = None, postprocess: str = "operator",
    settings: PostProcess = EXPORT_SETTINGS,
) -> tuple[GraphFacts, Agreement]:  # fmt: skip
    """Compare a file's detections, its outputs read by position, with the Keras model's on images as the network takes them.

    ExportError for a graph without its weights, outputs in another order or with other names, and detections that are not
    the model's.
    """
    spec = spec_of(model)
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
    compared = agreement(KerasDetector(model, settings).of_input(images), found)
    judge_detections(compared, quantize)
    return facts, compared


def _verification_images(
    images: np.ndarray | None, calibrated: np.ndarray | None, spec: DetectorSpec
) -> tuple[np.ndarray, str]:
    shape = (spec.input_size, spec.input_size, 3)
    if images is not None:
        values = np.asarray(images, np.float32)
        if values.ndim != 4 or not len(values) or values.shape[1:] != shape:
            raise ValueError(f"`images` must be [N, {shape[0]}, {shape[1]}, 3]. Received: {list(values.shape)}")
        return values, f"{len(values)} given images"
    if calibrated is not None:
        values = calibrated[:VERIFICATION_IMAGES]
        return values, f"the first {len(values)} calibration images"
    return as_network_takes(drawn_images(8, *shape), spec), "8 drawn images"


def _raw_oracle(model: Any) -> Any:
    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = model(images, training=False)
        return {
            "codes": keras.ops.convert_to_numpy(found["boxes"]),
            "logits": keras.ops.convert_to_numpy(found["scores"]),
        }

    return run


def _measured(
    model: Any, content: bytes, settings: PostProcess, evaluation: CocoDataset | None, progress: bool
) -> MeasuredDrop | None:
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
        results, _ = results_on(run, evaluation, truth, ids, size=spec.input_size, name=name, progress=progress)
        metrics.append(coco_score(truth, results, image_ids=evaluation.image_ids).metrics)
    before, after = (found["AP"] for found in metrics)
    drop = None if before is None or after is None else before - after
    return MeasuredDrop(evaluation.name, evaluation.count, metrics[0], metrics[1], drop)
