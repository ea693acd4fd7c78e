"""`export`: any model -> a verified `.tflite` or `.onnx`, its report and its metadata."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from keras_mnasnet import __version__
from keras_mnasnet.architecture import Architecture, Layer
from keras_mnasnet.export.calibration import calibrated, calibration_images, layer_losses, warn_of_silent
from keras_mnasnet.export.equalize import Recipe
from keras_mnasnet.export.file import Input, Layout
from keras_mnasnet.export.graph import folded_weights, write_graph
from keras_mnasnet.export.half import check_compute
from keras_mnasnet.export.layers import PIXELS, UNCLEAR, as_functional, check_layout, in_float32, input_kind
from keras_mnasnet.export.report import Description, ExportReport, Oracle, Quantization, publish
from keras_mnasnet.export.verify import LEAST_IMAGES, LIMITS, accepting, check_calls, comparisons, drawn_images
from keras_mnasnet.loading import checkpoint_of, load, read_keras
from keras_mnasnet.model import resolve_input_shape
from keras_mnasnet.preprocessing import NORMALIZATIONS, Normalization, Preprocessing, as_normalization
from keras_mnasnet.utils.files import check_writable
from keras_mnasnet.utils.reading import texts
from keras_mnasnet.utils.system import held_stderr
from keras_mnasnet.utils.text import did_you_mean, header, listed, say
from keras_mnasnet.weights.checkpoint import Checkpoint, CheckpointError, Origin, remember
from keras_mnasnet.weights.formats.content import kind_of
from keras_mnasnet.weights.formats.keras import load_keras
from keras_mnasnet.weights.registry import source_preprocessing, spelled_as

PRECISIONS = ("float32", "float16", "weight-int8", "dynamic", "int8")
DIRECT = {None: "float32", "float16": "float16", "weight-int8": "weight-int8", "int8": "int8"}
INPUT_DTYPES = ("float32", "uint8", "int8")
DRAWN_IMAGES, DRAWN_WITHOUT_KERAS = 32, LEAST_IMAGES  # NumPy takes 25 ms an image at 224 pixels
LOSS_IMAGES = 16


def export(
    model: Any,
    path: str | os.PathLike[str],
    *,
    quantize: str | None = None,
    compute: str | None = None,
    representative_data: Any = None,
    photos: Any = None,
    input_dtype: str = "float32",
    labels: Sequence[str] | None = None,
    batch: int = 1,
    size: tuple[int, int] | int | None = None,
    network: Architecture | str | None = None,
    normalization: Normalization | str | None = None,
    preprocessing: Preprocessing | None = None,
    origin: Origin | None = None,
    calibration_count: int = 500,
    verification_count: int = 64,
    accept_changed: float | None = None,
    keep_float: Sequence[str] = (),
    recipe: Recipe | None = None,
    seed: int = 0,
    max_bad: int = 0,
    progress: bool = True,
) -> ExportReport:
    """Export a model to `.tflite`, `[batch, H, W, C]` with named input, outputs and signature, and verify the file.

    A `path` that ends in `.onnx` is for ONNX Runtime, of a MnasNet in float32, float16 or int8, `[batch, C, H, W]` as ONNX's
    operators take it. It is written directly; the packages are those of the extra `[onnx]`.

    Args:
        model: any source that `load` takes, a Checkpoint, or a functional or Sequential Keras model with one image input, of
            this package or not, in the process or in a `.keras` file. A file of a MnasNet is written directly, without
            TensorFlow, but for "dynamic".
        quantize: None or "float32", "float16", "weight-int8" (int8 weights, float speed), "int8" (int8 throughout; needs
            `representative_data`) or "dynamic" (small, slower than float32).
        compute: "half" marks a float16, float32 or weight-int8 `.tflite`, so that ARM CPUs since 2018 compute it in half
            precision, if a simulation on the verification images allows it; "float32" does not. None: half for float16, where
            the file stays unmarked, with a warning, if the simulation does not allow it.
        representative_data: what int8 is calibrated on, `calibration_count` of it: photos as `open_images` takes them (a
            folder, TFRecords, tfds:NAME, shapes:COUNT@SIZE), or images as the model takes them, an array `[N, H, W, C]`, a
            Dataset or an iterable.
        photos: what the file is verified on, `verification_count` of such photos or an array `[N, H, W, C]`; None: the first
            calibration images, else drawn ones, which also fill up fewer than four. Where they have labels that are the
            model's, the report has the accuracy on them.
        accept_changed: the share of decisions, 0 to 1, that the file may change among those that the model makes with a
            margin; None: what `export.verify.LIMITS` says of the precision.
        keep_float: layers of a MnasNet that an int8 file computes in float32, as the report names them, or whole parts (`stem`,
            `block3a`, `head`).
        recipe: how a MnasNet becomes int8 (export.equalize.Recipe); None: as measured best.
        input_dtype: "uint8" or "int8" is for int8 files: input and output are then of that type.
        labels, preprocessing, origin: what the file says of itself where the model does not, or in its place.
        size: height and width in pixels, or both; the model's own by default.
        network: of the name of a data set, such as "imagenet", which member of the family.
        normalization: what becomes of pixels 0..255 before a model that does not normalize them itself: a Normalization,
            "pixels", "unit", "signed" or "imagenet".
        max_bad: how many damaged photos are passed over.

    Raises ValueError for bad arguments; ExportError, and no file, when the result is not what was asked.

    Example:
        >>> from keras_mnasnet.export import export
        >>> report = export("cifar10", "a1.tflite", quantize="float16", progress=False)
        >>> report.facts.inputs[0].shape, report.partitions.whole
        ((1, 32, 32, 3), True)
    """
    started = time.perf_counter()
    quantize = None if quantize == "float32" else quantize
    check_options(quantize, input_dtype, batch, representative_data)
    accepting(quantize or "float32", accept_changed)
    check_target(path, (".tflite", ".onnx"))
    onnx = os.fspath(path).endswith(".onnx")
    if onnx:
        _check_onnx(quantize, input_dtype)
    computes = check_compute(compute, quantize, tflite=not onnx)
    for what, count in (("calibration", calibration_count), ("verification", verification_count)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"`{what}_count` (--{what}-photos) must be an integer >= 1. Received: {what}_count={count!r}")
    subject = _subject(model, size, network, None if normalization is None else as_normalization(normalization))
    own_labels = subject.labels
    subject = dataclasses.replace(
        subject, labels=subject.labels if labels is None else labels, origin=origin or subject.origin,
        preprocessing=preprocessing or subject.preprocessing,
    )  # fmt: skip
    description = Description(
        name=subject.name,
        text=f"{subject.name}, {quantize or 'float32'}, made by keras_mnasnet {__version__}",
        origin=subject.origin,
        labels=check_labels(subject.labels, subject.outputs, own=own_labels),
        normalization=subject.normalization,
        preprocessing=subject.preprocessing,
    )
    shape = (*subject.shape[2:], *subject.shape[:2]) if onnx else subject.shape
    header(
        {
            "model": subject.origin, "network": subject.checkpoint and subject.checkpoint.architecture.name,
            "classes": subject.labels and f"{len(subject.labels)}: {listed(subject.labels)}",
            "input": f"{[batch, *shape]} {input_dtype}", "precision": quantize or "float32",
            "calibration": None if quantize != "int8" else f"{calibration_count} at most of {_shown(representative_data)}",
            "output": path,
        },
        shown=progress,
    )  # fmt: skip
    read = {"seed": seed, "max_bad": max_bad}
    calibrating, calibration = None, None
    if quantize == "int8":
        data, _ = subject.images("representative_data", representative_data, calibration_count, split="train", **read)
        calibrating, calibration = calibration_images(
            data, shape=subject.shape, count=calibration_count, seed=seed,
            kind=PIXELS if subject.takes_pixels else subject.kind,
        )  # fmt: skip
    writes_directly = (onnx or quantize in DIRECT) and subject.checkpoint is not None and subject.softmax is not None
    if onnx and not writes_directly:
        raise ValueError(
            f"A .onnx file is written of MnasNets that end with a softmax or with logits. Received: {subject.name!r}, which is "
            f"none. Name a file that ends in .tflite (-o)"
        )
    if keep_float and not (writes_directly and quantize == "int8"):
        raise ValueError(
            f"`keep_float` (--keep-float) is for int8 files of MnasNets that end with a softmax or with logits. "
            f"Received: keep_float={list(keep_float)} with {subject.name!r}, quantize={quantize!r}"
        )
    if subject.keras is None and not (writes_directly and not _are_photos(photos) and not _are_photos(representative_data)):
        subject = subject.built()
    given, answers = subject.images("photos", photos, verification_count, split="test", **read)
    shown, shown_name = _verification_images(given, None if calibrating is None else calibrating[:verification_count], subject)
    silent: tuple[str, ...] = ()
    quantization: Quantization | None = None
    if writes_directly:
        content, quantization, silent = _written(
            subject, description, quantize, batch, calibrating, recipe or Recipe(), keep_float, onnx=onnx, dtype=input_dtype,
            progress=progress,
        )  # fmt: skip
        names, route = ["scores"], "direct"
    else:
        from keras_mnasnet.export.converter import convert_model, output_names, weight_only
        from keras_mnasnet.export.rewrite import rewritten

        names, route = output_names(subject.keras), "converter"
        if calibrating is not None and subject.takes_pixels:
            calibrating = with_extremes(calibrating)
        content = convert_model(
            subject.keras, (batch, *subject.shape), quantize=None if quantize == "weight-int8" else quantize,
            images=calibrating, input_dtype=input_dtype, progress=progress,
        )  # fmt: skip
        content, silent = rewritten(
            content, input_names=["image"], output_names=names, description=description.text,
            metadata=description.metadata("image", names, subject.shape),
        )  # fmt: skip
        if quantize == "weight-int8":
            content, route = weight_only(content), "converter + ai-edge-quantizer"
    seconds = time.perf_counter() - started
    against = "the network in NumPy" if subject.keras is None else f"Keras {subject.keras.name}"
    report = publish(
        content, path, description, quantize=quantize, route=route, seconds=seconds, calibration=calibration,
        oracle=subject.oracle(names), against=against, images=shown, images_name=shown_name, progress=progress,
        silent_layers=silent, accept_changed=accept_changed, compute=computes, half_asked=compute == "half",
        quantization=quantization, answers=answers,
    )  # fmt: skip
    if progress:
        say(f"wrote {report.path} ({report.facts.bytes:,} bytes). Next: mnasnet bench latency {report.path}")
    return report


@dataclasses.dataclass(frozen=True, slots=True)
class _Subject:
    """What is exported. `checkpoint` is None for layers that are not a MnasNet's, `keras` until a Keras model is needed.

    `softmax` is whether the direct writer ends with one, None where it cannot write the end; `normalization` is None where
    nothing says what the model takes.
    """

    name: str
    shape: tuple[int, int, int]
    outputs: Sequence[int | None] | None
    checkpoint: Checkpoint | None
    keras: Any
    softmax: bool | None
    kind: str | None
    normalization: Normalization | None
    labels: Sequence[str] | None
    preprocessing: Preprocessing | None
    origin: Origin

    @property
    def takes_pixels(self) -> bool:
        return self.kind == PIXELS or (self.kind is None and self.normalization == Normalization())

    def built(self) -> _Subject:
        """With the Keras model of its checkpoint."""
        assert self.checkpoint is not None
        with held_stderr():
            return dataclasses.replace(self, keras=self.checkpoint.model(input_shape=self.shape))

    def oracle(self, names: list[str]) -> Oracle:
        """The same function of images, by Keras or in NumPy."""
        if self.keras is not None:
            return _keras_oracle(self.keras, names)
        from keras_mnasnet.export.reference import Reference

        assert self.checkpoint is not None
        numerics = self.checkpoint.numerics
        reference = Reference(
            self.checkpoint.architecture, self.checkpoint.tensors, bn_epsilon=numerics.bn_epsilon, padding=numerics.padding,
            normalization=numerics.normalization,
        )  # fmt: skip
        return lambda values: {"scores": reference(values)}

    def images(self, argument: str, data: Any, count: int, *, split: str, seed: int, max_bad: int) -> tuple[Any, Any]:
        """`data`; where that names photos, `count` of them `[n, S, S, 3]` as the model takes them, of `split` if there is one.

        With them the right outputs `[n]`, None where the photos' classes are not the model's.
        """
        if not isinstance(data, str | os.PathLike):
            return data, None
        if self.normalization is None:
            raise ValueError(
                f"`normalization` (--input) must say how the model takes photos, one of {', '.join(NORMALIZATIONS)}. Received: "
                f"none, and a model {self.name!r} in which no layer normalizes pixels 0..255"
            )
        height, width, channels = self.shape
        if channels not in (1, 3) or height != width:
            raise ValueError(
                f"`{argument}` must be an array [N, {height}, {width}, {channels}]: photos become square, and have three "
                f"channels or are made grey. Received: {_shown(data)}. Pass the array in Python, to export.export"
            )
        with held_stderr():
            from keras_mnasnet.data.pipeline import labelled_photos

        photos = self.preprocessing or source_preprocessing("timm", height)
        pixels, classes, names = labelled_photos(data, photos.at(height), count, split=split, seed=seed, max_bad=max_bad)
        known = {name: number for number, name in enumerate(spelled_as(self.labels, names) or ())}
        answers = np.array([known[name] for name in names])[classes] if known.keys() >= {*names} else None
        made = Input(np.dtype(np.float32), argument, normalization=self.normalization, layout=Layout(channels))
        return made(pixels), answers


def _subject(
    model: Any, size: tuple[int, int] | int | None, network: Architecture | str | None, normalization: Normalization | None
) -> _Subject:
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(model, keras.Model):
        return _of_model(model, size, normalization, Origin("keras", model.name))
    path = Path(model).expanduser() if isinstance(model, str | os.PathLike) else None
    if path is not None and path.is_file() and kind_of(path) == "keras":
        return _of_keras_file(path, size, normalization)
    sides = None if size is None else _sides(size)
    checkpoint = classifier(model, network=network, size=sides and min(sides))
    if normalization not in (None, Normalization()):
        raise ValueError(
            f"`normalization` (--input) is for Keras models that do not normalize pixels themselves; the networks of "
            f"checkpoints take pixels 0..255. Received: normalization={normalization} with {checkpoint.origin.name}"
        )
    height, width = sides or (checkpoint.size, checkpoint.size)
    resolve_input_shape((height, width, 3))
    return _Subject(
        name=f"mnasnet_{checkpoint.architecture.name}", shape=(height, width, 3), outputs=(None, checkpoint.classes),
        checkpoint=checkpoint, keras=None, softmax=True, kind=PIXELS, normalization=Normalization(), labels=checkpoint.labels,
        preprocessing=checkpoint.preprocessing.at(height) if height == width else None, origin=checkpoint.origin,
    )  # fmt: skip


def _of_keras_file(path: Path, size: tuple[int, int] | int | None, normalization: Normalization | None) -> _Subject:
    """A `.keras` file is exported as it is, another activation or no normalization included; `load` knows MnasNets only."""
    with held_stderr():
        model = load_keras(path)
    with contextlib.suppress(CheckpointError):
        found = read_keras(path, model)
        remember(model, classifier(found) if found.detector else found)
    return _of_model(model, size, normalization, Origin("keras", path.name))


def _of_model(model: Any, size: tuple[int, int] | int | None, normalization: Normalization | None, origin: Origin) -> _Subject:
    from keras_mnasnet.spec import check_plain

    given = as_functional(model)
    check_calls(given)
    shape = _input_shape(given, size)
    check_layout(given)
    model, replaced = in_float32(given)
    kind = PIXELS if given.inputs[0].dtype == "uint8" else input_kind(model)
    _check_normalization(model, kind, normalization, shape[2])
    if replaced:
        logging.warning("%s is exported in float32, of float images: it has %s", model.name, listed(replaced))
    subject = _Subject(
        name=model.name, shape=shape, outputs=getattr(model.output, "shape", None), checkpoint=None, keras=model, softmax=None,
        kind=kind, normalization=Normalization() if kind == PIXELS else normalization, labels=None, preprocessing=None,
        origin=origin,
    )  # fmt: skip
    try:
        spec = check_plain(given)
        checkpoint = checkpoint_of(given, checked=False)
    except (ValueError, AttributeError, TypeError):
        if replaced:
            _check_twin(model, given, replaced, shape, kind)
        return subject
    said = "preprocessing" not in checkpoint.assumed and shape[0] == shape[1]
    writable = spec.classes and spec.classifier_activation in (None, "softmax")
    return dataclasses.replace(
        subject, checkpoint=checkpoint, softmax=spec.classifier_activation == "softmax" if writable else None,
        labels=checkpoint.labels, preprocessing=checkpoint.preprocessing.at(shape[0]) if said else None,
        origin=checkpoint.origin,
    )  # fmt: skip


def _check_normalization(model: Any, kind: str | None, given: Normalization | None, channels: int) -> None:
    """ValueError for a normalization that is not the model's, and for none where the layers leave open what it takes."""
    if kind == PIXELS and given not in (None, Normalization()):
        raise ValueError(
            f"`normalization` (--input) must be pixels for a model that normalizes them itself. "
            f"Received: normalization={given} for {model.name!r}"
        )
    if given is not None and len(given.mean) not in (1, channels):
        raise ValueError(
            f"`normalization` (--input) must have one mean, or one for each channel. Received: {len(given.mean)} for "
            f"{model.name!r}, whose images have {channels}. Pass pixels, unit or signed, or a Normalization of one mean"
        )
    if kind == UNCLEAR and given is None:
        raise ValueError(
            f"`normalization` (--input) must say what becomes of pixels 0..255 before a model whose layers do not show it. "
            f"Received: none for {model.name!r}, whose first layers compute what is no normalization of 0..255. Pass one of "
            f"{', '.join(NORMALIZATIONS)}: pixels for a model that takes 0..255, unit for 0..1, signed for -1..1"
        )


def _check_twin(twin: Any, model: Any, replaced: Sequence[str], shape: tuple[int, int, int], kind: str | None) -> None:
    """ValueError where a model computes otherwise in float32 than in its own types, by more than their rounding."""
    from keras_mnasnet.export.converter import output_names

    pictures = drawn_images(model.inputs[0].shape[0] or LEAST_IMAGES, *shape)
    whole = kind == PIXELS or not str(model.inputs[0].dtype).startswith(("float", "bfloat"))
    images = pictures if whole else pictures / 127.5 - 1
    names = output_names(model)
    precision = "weight-int8" if any("float16" in each for each in replaced) else "float32"
    found, wanted = (_keras_oracle(each, names)(images) for each in (twin, model))
    for each in comparisons(found, wanted, precision):
        if not each.error <= LIMITS[precision].of(each):
            raise ValueError(
                f"A model that is exported must compute in float32 what it computes in its own types. Received: {model.name!r} "
                f"with {listed(replaced)}, whose output {each.output!r} then differs by {each.error:.3g} of the spread. Build "
                f"it with a float32 Input and keras.config.set_dtype_policy('float32'), and give it the weights (set_weights)"
            )


def _written(
    subject: _Subject, description: Description, quantize: str | None, batch: int, images: np.ndarray | None,
    recipe: Recipe, keep_float: Sequence[str], *, onnx: bool, dtype: str, progress: bool,
) -> tuple[bytes, Quantization | None, tuple[str, ...]]:  # fmt: skip
    """The file of the direct writers, how it became int8, and the layers that were silent in calibration."""
    checkpoint, (height, width, _) = subject.checkpoint, subject.shape
    assert checkpoint is not None
    weights = folded_weights(
        checkpoint.architecture, checkpoint.tensors, classes=checkpoint.classes, bn_epsilon=checkpoint.numerics.bn_epsilon
    )
    architecture, normalization = checkpoint.architecture, checkpoint.numerics.normalization if subject.kind == PIXELS else None
    graph: dict[str, Any] = {
        "height": height, "width": width, "classes": checkpoint.classes, "padding": checkpoint.numerics.padding,
        "preprocessing": normalization or False,
    }  # fmt: skip
    quantization, silent = None, tuple[str, ...]()
    file = graph | {"softmax": bool(subject.softmax), "description": description.text, "batch": batch}
    if images is not None:
        rows = architecture.operations(height, width, classes=checkpoint.classes)
        kept = _kept(rows, keep_float)
        found = calibrated(architecture, weights, images, graph, recipe=recipe, keep_float=kept, progress=progress)
        losses = layer_losses(architecture, found, images[:LOSS_IMAGES], graph, kept)
        quantization = Quantization(recipe, tuple(sorted(kept)), losses)
        silent = tuple(row.output for row in rows if row.relu and found.ranges[row.output] == (0, 0))
        warn_of_silent(silent)
        weights = found.rounding
        file |= {"ranges": found.ranges, "keep_float": kept}
    if not onnx:
        metadata = description.metadata("image", ["scores"], subject.shape)
        content = write_graph(architecture, weights, precision=DIRECT[quantize], metadata=metadata, dtype=dtype, **file)
        return content, quantization, silent
    from keras_mnasnet.export.onnx_file import with_texts
    from keras_mnasnet.export.onnx_graph import write_onnx
    from keras_mnasnet.weights.formats.onnx import LICENSE, NORMALIZATION

    content = write_onnx(architecture, weights, precision=quantize or "float32", **file)
    texts = {LICENSE: description.origin.license or "not stated"}
    if description.normalization is not None:
        texts[NORMALIZATION] = json.dumps(dataclasses.asdict(description.normalization))
    return with_texts(content, texts), quantization, silent


def _kept(rows: Sequence[Layer], names: Sequence[str]) -> set[str]:
    """The outputs of the operations that were named by their output or by their part; ValueError for another name."""
    if isinstance(names, str):
        raise ValueError(f"`keep_float` must be a list of layers. Received: keep_float={names!r}")
    parts = dict.fromkeys(row.part for row in rows)
    known = {row.output for row in rows} | {*parts}
    for name in names:
        if name not in known:
            raise ValueError(
                f"`keep_float` (--keep-float) must name layers as the report does, or parts ({listed(parts)}). "
                f"Received: {name!r}.{did_you_mean(name, known)}"
            )
    return {row.output for row in rows if {row.output, row.part} & set(names)}


def classifier(model: Any, *, network: Architecture | str | None = None, size: int | None = None) -> Checkpoint:
    """`load`, and ValueError for a detector or a body."""
    checkpoint = load(model, network=network, size=size)
    if checkpoint.detector is not None:
        raise ValueError(
            f"`model` must be a classifier. Received: {checkpoint.origin.name}, a detector: `mnasnet detect export` and "
            f"`mnasnet detect qat` (keras_mnasnet.detection.export, quantize_aware) take it"
        )
    if not checkpoint.classes:
        raise ValueError(f"`model` must have a classifier. Received: {checkpoint.origin.name}, which has none")
    return checkpoint


def check_target(path: str | os.PathLike[str], endings: tuple[str, ...] = (".tflite",)) -> None:
    """ValueError or OSError, before any work, for a path that no file of these endings can be written to."""
    if not os.fspath(path).endswith(endings):
        way = " `mnasnet export` writes classifiers as .onnx" if os.fspath(path).endswith(".onnx") else ""
        raise ValueError(f"`path` (-o) must end in {' or '.join(endings)}. Received: path={os.fspath(path)!r}.{way}")
    check_writable(path)


def _check_onnx(quantize: str | None, input_dtype: str) -> None:
    """ValueError for options that a `.onnx` does not have; ImportError where its packages are missing."""
    from keras_mnasnet.export.onnx_graph import PRECISIONS as AVAILABLE
    from keras_mnasnet.weights.formats.onnx import package

    if (quantize or "float32") not in AVAILABLE or input_dtype != "float32":
        raise ValueError(
            f"A .onnx file has the precision {', '.join(AVAILABLE)} and a float32 input. Received: quantize={quantize!r}, "
            f"input_dtype={input_dtype!r}. A .tflite file has others"
        )
    for name in ("onnx", "onnxruntime"):
        package(name)


def check_options(quantize: str | None, input_dtype: str, batch: int, representative_data: Any) -> None:
    """ValueError for options that do not exist or do not fit together."""
    if quantize is not None and quantize not in PRECISIONS:
        raise ValueError(f"`quantize` must be one of {PRECISIONS}. Received: quantize={quantize!r}")
    if input_dtype not in INPUT_DTYPES:
        raise ValueError(f"`input_dtype` must be one of {INPUT_DTYPES}. Received: input_dtype={input_dtype!r}")
    if input_dtype != "float32" and quantize != "int8":
        raise ValueError(f"`input_dtype` other than float32 needs quantize='int8'. Received: quantize={quantize!r}")
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"`batch` must be an integer >= 1. Received: batch={batch!r}")
    if quantize == "int8" and representative_data is None:
        raise ValueError(
            "quantize='int8' needs `representative_data` (--calibrate), some hundred photos like those the model will see. "
            "Received: none. A classifier needs none with quantize='weight-int8'."
        )


def check_labels(
    labels: Sequence[str] | None, shape: Sequence[int | None] | None, *, own: Sequence[str] | None = None
) -> tuple[str, ...] | None:
    """The names of the classes of an output of that shape; ValueError where they are not one per class.

    And where they are the names that the model has (`own`) in another order, or cannot stand one a line in the file.
    """
    if labels is None:
        return None
    count = shape[-1] if shape is not None and len(shape) > 1 and set(shape[1:-1]) <= {1} else "no"
    labels = texts(labels)
    if len(labels) != count:
        raise ValueError(
            f"`labels` must be a list of one name per class of the model's one output. Received: {len(labels)} names for "
            f"{count} classes"
        )
    names = tuple(str(label) for label in labels)
    broken = next((name for name in names if name.splitlines() not in ([name], [])), None)
    if broken is not None:
        raise ValueError(f"`labels` must be names without line breaks. Received: {broken!r}")
    if own is not None and names != tuple(own) and sorted(names) == sorted(own):
        place = next(index for index, (one, other) in enumerate(zip(names, own, strict=True)) if one != other)
        raise ValueError(
            f"`labels` (--labels) must be in the order of the model's classes. Received: class {place} is {names[place]!r} and "
            f"{own[place]!r} in the model. Leave them out: the model has its own."
        )
    return names


def with_extremes(images: np.ndarray) -> np.ndarray:
    """One black and one white pixel in the first image, so that the input's range is 0..255 and its scale 1."""
    images = images.copy()
    images[0, 0, 0], images[0, 0, 1] = 0, 255
    return images


def _input_shape(model: Any, size: tuple[int, int] | int | None) -> tuple[int, int, int]:
    inputs = getattr(model, "inputs", None)
    if not inputs or len(inputs) != 1 or len(inputs[0].shape) != 4:
        shapes = [tuple(each.shape) for each in inputs or ()]
        way = "A model of a class of your own becomes one: image = keras.Input([H, W, C]), keras.Model(image, model(image))"
        if len(shapes) > 1:
            way = "Give the other inputs values of their own: keras.Model(image, model([image, VALUES]))"
        elif shapes and len(shapes[0]) == 3:
            grey = [*shapes[0][1:], 1]
            way = f"Give it the channel: image = keras.Input({grey}), keras.Model(image, model(image[..., 0]))"
        elif shapes:
            way = "Only models of images are exported"
        raise ValueError(
            f"`model` must be a built functional model with one input [B, H, W, C]. Received: {model.name!r} with the inputs "
            f"{shapes}. {way}"
        )
    _, height, width, channels = inputs[0].shape
    if size is not None:
        asked = _sides(size)
        if any(fixed not in (None, side) for fixed, side in zip((height, width), asked, strict=True)):
            raise ValueError(f"`size` must be the model's, {(height, width)}. Received: size={size!r}")
        height, width = asked
    if None in (height, width, channels):
        raise ValueError(
            f"An exported graph has a fixed size. Received: a model with the input {(height, width, channels)}. "
            f"Pass size= (--size), e.g. size=224."
        )
    return height, width, channels


def _sides(size: tuple[int, int] | int) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"`size` must be a size in pixels, or (height, width). Received: size={size!r}")
    return sides[0], sides[1]


def _verification_images(images: Any, calibrated: np.ndarray | None, subject: _Subject) -> tuple[np.ndarray, str]:
    height, width, channels = subject.shape
    if images is None and calibrated is None:
        return _drawn(DRAWN_IMAGES if subject.keras is not None else DRAWN_WITHOUT_KERAS, subject)
    if images is not None:
        values = np.asarray(images, np.float32)
        if values.ndim != 4 or not len(values) or values.shape[1:] != subject.shape:
            raise ValueError(f"`photos` must be [N, {height}, {width}, {channels}]. Received: {list(values.shape)}")
        name = f"{len(values)} given image{'s' * (len(values) > 1)}"
    else:
        assert calibrated is not None
        values, name = calibrated, f"the first {len(calibrated)} calibration images"
    if len(values) >= LEAST_IMAGES:
        return values, name
    further, further_name = _drawn(LEAST_IMAGES - len(values), subject)
    return np.concatenate([values, further]), f"{name} and {further_name}"


def _drawn(count: int, subject: _Subject) -> tuple[np.ndarray, str]:
    values, name = drawn_images(count, *subject.shape), f"{count} drawn image{'s' * (count > 1)}"
    if subject.normalization == Normalization():
        return values, name
    if subject.normalization is None:
        if subject.kind is None:
            logging.warning(
                "Nothing says what %s takes of pixels 0..255: it is verified on values -1..1, and the file does not say it. "
                "Pass normalization= (--input), one of %s", subject.name, ", ".join(NORMALIZATIONS),
            )  # fmt: skip
        return values / 127.5 - 1, f"{name}, -1..1"
    return Input(np.dtype(np.float32), name, normalization=subject.normalization)(values), f"{name}, normalized"


def _are_photos(photos: Any) -> bool:
    """Whether they are to be opened, for which TensorFlow is loaded."""
    return photos is not None and not isinstance(photos, np.ndarray)


def _shown(data: Any) -> str:
    return os.fspath(data) if isinstance(data, str | os.PathLike) else f"the given {type(data).__name__}"


def _keras_oracle(model: Any, names: list[str]) -> Oracle:
    import keras

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = model(images, training=False)
        if isinstance(found, dict):
            found = [found[name] for name in names]
        elif not isinstance(found, list | tuple):
            found = [found]
        return {name: keras.ops.convert_to_numpy(value) for name, value in zip(names, found, strict=True)}

    return run
