"""What an exported file says about itself, and its publication: checked, compared, written whole with its report."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from keras_mnasnet import __version__
from keras_mnasnet.export.calibration import Calibration, LayerLoss
from keras_mnasnet.export.classifier import open_file
from keras_mnasnet.export.equalize import Recipe
from keras_mnasnet.export.file import LABELS, REPORT, GraphFacts, ModelFile
from keras_mnasnet.export.flatbuffer import METADATA_NAME, append_files, classifier_metadata
from keras_mnasnet.export.half import HalfCheck, checked_half
from keras_mnasnet.export.partitions import Partitions, accelerators
from keras_mnasnet.export.verify import Comparison, ExportError, Limits, accepting, check_promise, compare, judge
from keras_mnasnet.preprocessing import Normalization, Preprocessing
from keras_mnasnet.utils.files import replaced, write_file
from keras_mnasnet.utils.text import listed
from keras_mnasnet.weights.checkpoint import Origin

SCHEMA = 1
Oracle = Callable[[np.ndarray], Mapping[str, np.ndarray]]
Report = TypeVar("Report", bound=Any)


@dataclasses.dataclass(frozen=True, slots=True)
class Quantization:
    """How a MnasNet became int8: the recipe, the layers that stayed float, and what every layer with weights lost."""

    recipe: Recipe
    keep_float: tuple[str, ...]
    layers: tuple[LayerLoss, ...]

    @property
    def worst(self) -> tuple[LayerLoss, ...]:
        """The layers that lose most, the first of all first."""
        return tuple(sorted(self.layers, key=lambda each: -each.added))


@dataclasses.dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, how, and how it compares with the model (`verified_against`, on `verified_on`).

    `route`: direct (written straight into the file), converter (TensorFlow's) or converter + ai-edge-quantizer. `seconds`
    are for writing, calibration included, verification not. `partitions` is None for a `.onnx`, of which XNNPACK runs nothing.
    `preprocessing` is how photos become its input, where that is known; `mnasnet bench accuracy` goes by it. `silent_layers`:
    those that gave nothing but zero on the calibration images; they are constant in the file. `half` is the simulation in half
    precision, where the file was to be marked for it; `facts.half` says whether it is. `accelerators`: what the
    published lists of some lack of it. `quantization` is None but for int8 that was written directly.
    """

    path: str
    quantize: str | None
    route: str
    seconds: float
    sha256: str
    facts: GraphFacts
    partitions: Partitions | None
    outside_reason: str | None
    comparisons: tuple[Comparison, ...]
    limits: Limits
    verified_against: str
    verified_on: str
    calibration: Calibration | None
    origin: Origin
    description: str
    preprocessing: Preprocessing | None
    silent_layers: tuple[str, ...] = ()
    half: HalfCheck | None = None
    accelerators: dict[str, str] = dataclasses.field(default_factory=dict)
    quantization: Quantization | None = None

    def as_json(self) -> dict[str, Any]:
        """One JSON value, with the schema's version, the package's, and the date."""
        return stamped(self)


def stamped(report: Any) -> dict[str, Any]:
    """A report's values with the schema's version, the package's, and the date."""
    return {
        "schema": SCHEMA,
        "keras_mnasnet": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **dataclasses.asdict(report),
    }


@dataclasses.dataclass(frozen=True, slots=True)
class Description:
    """What the file is to say about itself."""

    name: str
    text: str
    origin: Origin
    labels: tuple[str, ...] | None
    normalization: Normalization | None
    preprocessing: Preprocessing | None = None

    def metadata(self, inputs: str, outputs: Sequence[str], shape: tuple[int, int, int]) -> dict[str, bytes]:
        """The metadata buffers of the file; only a model with one output is a classifier to the task libraries."""
        if len(outputs) != 1:
            return {}
        content = classifier_metadata(
            name=self.name, description=self.text, license=self.origin.license or "not stated", input_name=inputs,
            output_name=outputs[0], normalization=self.normalization, labels=self.labels is not None, shape=shape,
        )  # fmt: skip
        return {METADATA_NAME: content}


def publish(
    content: bytes, path: str | os.PathLike[str], description: Description, *, quantize: str | None, route: str, seconds: float,
    calibration: Calibration | None, oracle: Oracle, against: str, images: np.ndarray, images_name: str, progress: bool,
    silent_layers: tuple[str, ...] = (), precision: str | None = None, accept_changed: float | None = None,
    compute: str = "float32", half_asked: bool = False, quantization: Quantization | None = None,
    answers: np.ndarray | None = None,
) -> ExportReport:  # fmt: skip
    """Check and compare, then write the file and its report, each whole or not at all.

    `precision` is one of LIMITS, by default what `quantize` says; `answers` are the right outputs of the first images;
    `accept_changed` stands in place of its share of changed decisions. `compute` "half" marks the file where the simulation
    allows it; elsewhere ExportError, if that was asked for (`half_asked`).
    """
    precision = precision or quantize or "float32"
    target = Path(path).expanduser()
    file = open_file(content, onnx=target.suffix == ".onnx", name="the exported file")
    check_promise(file.facts, quantize, keep_float=quantization is not None and bool(quantization.keep_float))
    comparisons = compare(file, oracle, images, precision=precision, answers=answers, progress=progress)
    limits = accepting(precision, accept_changed)
    judge(comparisons, precision, limits)
    taken, half = file.partitions(), None
    del file  # and LiteRT's copy of the weights, before another copy is made
    if compute == "half":
        allowed = accepting("half", accept_changed)
        content, half = checked_half(content, images, allowed, asked=half_asked, progress=progress)
    facts = open_file(content, onnx=target.suffix == ".onnx", name="the exported file").facts
    report = ExportReport(
        path=str(target), quantize=quantize, route=route, seconds=round(seconds, 3), sha256="", facts=facts,
        partitions=taken, outside_reason=_reason(taken, quantize), comparisons=comparisons, limits=limits,
        verified_against=against, verified_on=images_name, calibration=calibration, origin=description.origin,
        description=description.text, preprocessing=description.preprocessing, silent_layers=silent_layers,
        half=half, accelerators=accelerators(facts) if taken else {}, quantization=quantization,
    )  # fmt: skip
    return write_export(content, target, report, description.labels)


def write_export(content: bytes, target: Path, report: Report, labels: Sequence[str] | None) -> Report:
    """Write the file, with its report and labels behind it, and the report beside it; each whole or not at all.

    At no moment does a report lie beside a file that it is not about: the old one goes first, and the new one comes last.
    """
    inside = {key: value for key, value in report.as_json().items() if key not in ("path", "sha256")}
    files: dict[str, str | Sequence[str]] = {REPORT: json.dumps(inside, indent=1)}
    if labels is not None:
        files[LABELS] = labels
    onnx = target.suffix == ".onnx"
    if onnx:
        from keras_mnasnet.export.onnx_file import with_texts

        content = with_texts(content, files)
    else:
        content = append_files(content, files)
    _check_written(open_file(content, onnx=onnx, name="the exported file"), report, labels)
    facts = dataclasses.replace(report.facts, bytes=len(content))
    report = dataclasses.replace(report, facts=facts, sha256=hashlib.sha256(content).hexdigest())
    if target.exists() and not target.is_file():  # a pipe or a device, which nothing lies beside
        write_file(target, content)
        return report
    beside, text = target.with_name(f"{target.name}.json"), json.dumps(report.as_json(), indent=1) + "\n"
    with replaced(beside, needs=len(text)) as new_report, replaced(target, needs=len(content)) as new_file:
        new_report.write_text(text, "utf-8")
        new_file.write_bytes(content)
        beside.unlink(missing_ok=True)  # of the file that goes: a report lies beside its own file, or there is none
    return report


def _check_written(file: ModelFile, report: Any, labels: Sequence[str] | None) -> None:
    """ExportError where the file, read back, names other classes or another preprocessing than the model's."""
    wanted = None if labels is None else tuple(labels)
    if file.labels != wanted:
        raise ExportError(
            f"The file must name the model's classes, in their order. Received: {listed(file.labels or ('none',))} for "
            f"{listed(wanted or ('none',))}"
        )
    said = getattr(report, "preprocessing", None)
    if file.preprocessing != said:
        raise ExportError(f"The file must say how the model takes photos: {said}. Received: {file.preprocessing}")


def _reason(taken: Partitions | None, quantize: str | None) -> str | None:
    if taken is None or taken.whole:
        return None
    if not taken.delegates:
        return "XNNPACK took nothing of this graph"
    if quantize == "dynamic":
        return "XNNPACK computes these 8-bit weights with float activations only in part; weight-int8 is one partition"
    if set(taken.outside) <= {"SOFTMAX", "QUANTIZE"}:
        return "XNNPACK has no 8-bit softmax and no change from uint8 to int8; LiteRT computes them"
    return "XNNPACK does not take these operators in this type"
