"""`export_tflite`: a model -> a verified `.tflite`, its report and its metadata."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_mnasnet import __version__
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.export.calibration import PIXELS, as_functional, calibration_images, input_kind
from keras_mnasnet.export.graph import folded_weights, write_graph
from keras_mnasnet.export.report import Card, ExportReport, Oracle, Origin, publish
from keras_mnasnet.export.verify import drawn_images
from keras_mnasnet.model import resolve_input_shape
from keras_mnasnet.preprocessing import Normalization, Preprocessing
from keras_mnasnet.utils.files import check_writable

__all__ = ["DIRECT", "check_labels", "check_options", "export_checkpoint", "export_tflite", "with_extremes"]

PRECISIONS = (None, "float16", "weight-int8", "dynamic", "int8")
DIRECT = {None: "float32", "float16": "float16", "weight-int8": "weight-int8"}
INPUT_DTYPES = ("float32", "uint8", "int8")
VERIFICATION_IMAGES = 16
QUICK_IMAGES = 1


def export_tflite(
    model: Any,
    path: str | os.PathLike[str],
    *,
    quantize: str | None = None,
    representative_data: Any = None,
    input_dtype: str = "float32",
    labels: Sequence[str] | None = None,
    images: np.ndarray | None = None,
    batch: int = 1,
    resolution: tuple[int, int] | int | None = None,
    normalization: Normalization | None = None,
    origin: Origin | None = None,
    preprocessing: Preprocessing | None = None,
    calibration_count: int = 500,
    seed: int = 0,
    progress: bool = False,
) -> ExportReport:
    """Export a MnasNet, or any functional or Sequential Keras model with one image input, to `.tflite`, and verify the file.

    `quantize`: None (float32), float16, weight-int8 (int8 weights, float speed), int8 (int8 throughout, needs
    `representative_data`: images as the model takes them, an array `[N, H, W, C]`, a Dataset or an iterable) or dynamic (small,
    slower than float32). `input_dtype` uint8 or int8 is for int8: input and output are then of that type. `labels` are the
    class names. `images` `[N, H, W, C]` verify the file (default: the first calibration images, else drawn ones). `resolution`
    fixes a model's free height and width; `normalization` says how pixels become the input of a model that does not normalise
    them itself. The file is [batch, H, W, C] with named input, outputs and signature; report and metadata say how it was made.
    ValueError for bad arguments; ExportError, and no file, when the result is not what was asked.
    """
    started = time.perf_counter()
    check_options(quantize, input_dtype, batch, representative_data)
    check_writable(path)
    model = as_functional(model)
    height, width, channels = _input_shape(model, resolution)
    kind = input_kind(model)
    if normalization is None and kind == PIXELS:
        normalization = Normalization()
    pixels = kind == PIXELS or (kind is None and normalization == Normalization())
    calibration, calibrated = None, None
    if quantize == "int8":
        calibrated, calibration = calibration_images(
            representative_data, shape=(height, width, channels), count=calibration_count, seed=seed,
            kind=PIXELS if pixels else kind,
        )  # fmt: skip
    shown, shown_name = _verification_images(images, calibrated, (height, width, channels), normalization)
    spec = _plain(model) if quantize in DIRECT else None
    card = Card(
        name=model.name,
        description=f"{model.name}, {quantize or 'float32'}, made by keras_mnasnet {__version__}",
        origin=origin or Origin(),
        labels=check_labels(labels, model.output.shape if hasattr(model.output, "shape") else None),
        normalization=normalization,
        preprocessing=preprocessing,
    )
    silent: tuple[str, ...] = ()
    if spec is not None:
        from keras_mnasnet.loading import checkpoint_of

        checkpoint = checkpoint_of(model, checked=False)
        content = _direct(
            checkpoint.architecture, checkpoint.tensors, card, height=height, width=width, classes=spec.classes,
            bn_epsilon=spec.bn_epsilon, padding=spec.padding, preprocessing=spec.include_preprocessing,
            softmax=spec.classifier_activation == "softmax", quantize=quantize, batch=batch,
        )  # fmt: skip
        names, route = ["scores"], "direct"
    else:
        from keras_mnasnet.export.converter import convert_model, output_names
        from keras_mnasnet.export.rewrite import rewritten

        names, route = output_names(model), "converter"
        if calibrated is not None and pixels:
            calibrated = with_extremes(calibrated)
        content = convert_model(
            model, (batch, height, width, channels), quantize=None if quantize == "weight-int8" else quantize,
            images=calibrated, input_dtype=input_dtype, progress=progress,
        )  # fmt: skip
        content, silent = rewritten(
            content, input_names=["image"], output_names=names, description=card.description,
            metadata=card.metadata("image", names, (height, width)),
        )  # fmt: skip
        if quantize == "weight-int8":
            from keras_mnasnet.export.converter import weight_only

            content, route = weight_only(content), "converter + ai-edge-quantizer"
    seconds = time.perf_counter() - started
    return publish(
        content, path, card, quantize=quantize, route=route, seconds=seconds, calibration=calibration,
        oracle=_keras_oracle(model, names), against=f"Keras {model.name}", images=shown, images_name=shown_name,
        progress=progress, silent_layers=silent,
    )  # fmt: skip


def export_checkpoint(
    checkpoint: Any,
    path: str | os.PathLike[str],
    *,
    quantize: str | None = None,
    labels: Sequence[str] | None = None,
    images: np.ndarray | None = None,
    batch: int = 1,
    resolution: tuple[int, int] | int | None = None,
    origin: Origin | None = None,
    preprocessing: Preprocessing | None = None,
    progress: bool = False,
) -> ExportReport:
    """Export a Checkpoint in float32, float16 or weight-int8 without Keras and TensorFlow, softmax and normalisation inside.

    As `export_tflite`; verified against the network in NumPy, whose batch norms are not folded, on a drawn image where no
    `images` are given.
    """
    from keras_mnasnet.export.reference import Reference

    started = time.perf_counter()
    if quantize not in DIRECT:
        raise ValueError(f"`quantize` must be one of {tuple(DIRECT)} without Keras. Received: quantize={quantize!r}")
    check_options(quantize, "float32", batch, None)
    check_writable(path)
    if not checkpoint.classes:
        raise ValueError("`checkpoint` must have a classifier. Received: one without")
    height, width = _size(checkpoint.size if resolution is None else resolution)
    resolve_input_shape((height, width, 3))
    shown, shown_name = _verification_images(images, None, (height, width, 3), Normalization(), QUICK_IMAGES)
    architecture: Architecture = checkpoint.architecture
    name = f"mnasnet_{architecture.name}"
    card = Card(
        name=name,
        description=f"{name}, {quantize or 'float32'}, made by keras_mnasnet {__version__}",
        origin=origin or Origin(),
        labels=check_labels(labels or checkpoint.labels, (None, checkpoint.classes)),
        normalization=Normalization(),
        preprocessing=preprocessing or (checkpoint.preprocessing.at(height) if height == width else None),
    )
    numerics = checkpoint.numerics
    content = _direct(
        architecture, checkpoint.tensors, card, height=height, width=width, classes=checkpoint.classes,
        bn_epsilon=numerics.bn_epsilon, padding=numerics.padding, preprocessing=True, softmax=True, quantize=quantize,
        batch=batch,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    reference = Reference(architecture, checkpoint.tensors, bn_epsilon=numerics.bn_epsilon, padding=numerics.padding)
    return publish(
        content, path, card, quantize=quantize, route="direct", seconds=seconds, calibration=None,
        oracle=lambda values: {"scores": reference(values)}, against="the network in NumPy", images=shown,
        images_name=shown_name, progress=progress,
    )  # fmt: skip


def _direct(
    architecture: Architecture, tensors: Mapping[str, np.ndarray], card: Card, *, height: int, width: int, classes: int,
    bn_epsilon: float, padding: str, preprocessing: bool, softmax: bool, quantize: str | None, batch: int,
) -> bytes:  # fmt: skip
    weights = folded_weights(architecture, tensors, classes=classes, bn_epsilon=bn_epsilon)
    return write_graph(
        architecture, weights, height=height, width=width, classes=classes, precision=DIRECT[quantize], padding=padding,
        preprocessing=preprocessing, softmax=softmax, batch=batch, description=card.description,
        metadata=card.metadata("image", ["scores"], (height, width)),
    )  # fmt: skip


def check_options(quantize: str | None, input_dtype: str, batch: int, representative_data: Any) -> None:
    """ValueError for options that do not exist or do not fit together."""
    if quantize not in PRECISIONS:
        raise ValueError(f"`quantize` must be one of {PRECISIONS}. Received: quantize={quantize!r}")
    if input_dtype not in INPUT_DTYPES:
        raise ValueError(f"`input_dtype` must be one of {INPUT_DTYPES}. Received: input_dtype={input_dtype!r}")
    if input_dtype != "float32" and quantize != "int8":
        raise ValueError(f"`input_dtype` other than float32 needs quantize='int8'. Received: quantize={quantize!r}")
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"`batch` must be an integer >= 1. Received: batch={batch!r}")
    if quantize == "int8" and representative_data is None:
        raise ValueError(
            "quantize='int8' needs `representative_data`, some hundred images as the model will see them. Received: none. "
            "quantize='weight-int8' needs none."
        )


def _input_shape(model: Any, resolution: tuple[int, int] | int | None) -> tuple[int, int, int]:
    inputs = getattr(model, "inputs", None)
    if not inputs or len(inputs) != 1 or len(inputs[0].shape) != 4:
        shapes = [tuple(each.shape) for each in inputs or ()]
        raise ValueError(f"`model` must be a built functional model with one input [B, H, W, C]. Received: inputs {shapes}")
    _, height, width, channels = inputs[0].shape
    if resolution is not None:
        asked = _size(resolution)
        if any(fixed not in (None, side) for fixed, side in zip((height, width), asked, strict=True)):
            raise ValueError(f"`resolution` must be the model's, {(height, width)}. Received: resolution={resolution!r}")
        height, width = asked
    if None in (height, width, channels):
        raise ValueError(
            f"An exported graph has a fixed size. Received: a model with the input {(height, width, channels)}. "
            f"Pass resolution=, e.g. resolution=224."
        )
    return height, width, channels


def _size(resolution: tuple[int, int] | int) -> tuple[int, int]:
    sides = (resolution, resolution) if isinstance(resolution, int) else tuple(resolution)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"`resolution` must be a size in pixels, or (height, width). Received: resolution={resolution!r}")
    return sides[0], sides[1]


def check_labels(labels: Sequence[str] | None, shape: Sequence[int | None] | None) -> tuple[str, ...] | None:
    """The names of the classes of an output of that shape; ValueError where they are not one per class."""
    if labels is None:
        return None
    if isinstance(labels, str) or shape is None or len(shape) != 2 or len(labels) != shape[1]:
        count = shape[1] if shape is not None and len(shape) == 2 else "no"
        raise ValueError(
            f"`labels` must be a list of one name per class of the model's one output. Received: {len(labels)} names for "
            f"{count} classes"
        )
    return tuple(str(label) for label in labels)


def _plain(model: Any) -> Any:
    """The Spec of a model that the direct writer can write; None for any other."""
    from keras_mnasnet.spec import check_plain

    try:
        spec = check_plain(model)
    except (ValueError, AttributeError, TypeError):
        return None
    return spec if spec.classes and spec.classifier_activation in (None, "softmax") else None


def _verification_images(
    images: np.ndarray | None, calibrated: np.ndarray | None, shape: tuple[int, int, int], normalization: Normalization | None,
    drawn: int = 8,
) -> tuple[np.ndarray, str]:  # fmt: skip
    if images is not None:
        values = np.asarray(images, np.float32)
        if values.ndim != 4 or not len(values) or values.shape[1:] != shape:
            raise ValueError(f"`images` must be [N, {shape[0]}, {shape[1]}, {shape[2]}]. Received: {list(values.shape)}")
        return values, f"{len(values)} given images"
    if calibrated is not None:
        values = calibrated[:VERIFICATION_IMAGES]
        return values, f"the first {len(values)} calibration images"
    values = drawn_images(drawn, *shape)
    name = f"{drawn} drawn image{'s' * (drawn > 1)}"
    if normalization == Normalization():
        return values, name
    if normalization is None:
        return values / 127.5 - 1, f"{name}, -1..1"
    mean, std = (np.array(side, np.float32) for side in (normalization.mean, normalization.std))
    return (values - mean) / std, f"{name}, normalised"


def with_extremes(images: np.ndarray) -> np.ndarray:
    """One black and one white pixel in the first image, so that the input's range is 0..255 and its scale 1."""
    images = images.copy()
    images[0, 0, 0], images[0, 0, 1] = 0, 255
    return images


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
