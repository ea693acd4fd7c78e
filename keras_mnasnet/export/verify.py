"""Is the file the model? What is in a `.tflite` against what was asked for, and its outputs against the model's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from keras_mnasnet.export.file import GraphFacts, TfliteFile
from keras_mnasnet.utils.text import Life

TOLERANCES = {None: 3e-5, "float16": 2e-2}
LEAST_COSINE = 0.8
STATEFUL = ("READ_VARIABLE", "ASSIGN_VARIABLE", "VAR_HANDLE", "CALL_ONCE")
SAME = 1e-6  # of the largest output: float32's own rounding


class ExportError(ValueError):
    """The file that was made is not what was asked for; nothing of it is kept."""


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """One output of the file against the model's, over all images.

    `max_relative` is the largest difference over the largest absolute value, `cosine` the mean over images (0 where one side
    alone is all zeros), `top1_agreement` the share of images whose largest score is the same one (None for an output that is
    no `[B, classes]`). `constant`: the file gives the same values for all images, although the model does not.
    """

    output: str
    images: int
    max_difference: float
    mean_difference: float
    max_relative: float
    cosine: float
    top1_agreement: float | None
    constant: bool = False


def check_promise(facts: GraphFacts, quantize: str | None, allowed_custom: tuple[str, ...] = ()) -> None:
    """ExportError for a graph with variables, operators outside of LiteRT's own, or float operators where int8 was asked."""
    stateful = [kind for kind in facts.operators if kind in STATEFUL]
    if stateful:
        raise ExportError(
            f"An exported graph must hold its weights. Received: one that reads variables ({', '.join(stateful)}), whose "
            f"outputs would be garbage. Export the model itself, not a copy whose variables are not tracked."
        )
    foreign = [name for name in facts.custom if name not in allowed_custom]
    if foreign:
        raise ExportError(
            f"An exported graph must use LiteRT's builtin operators. Received: {', '.join(foreign)}. A layer of the model has "
            f"no builtin equivalent; replace it, or take it out and compute it beside the graph."
        )
    if quantize == "int8" and facts.floating:
        raise ExportError(
            f"An int8 graph must compute in integers throughout. Received: float operators {', '.join(facts.floating)}. "
            f"A layer of the model has no int8 kernel; use quantize='weight-int8' or take that layer out."
        )


def compare(
    file: TfliteFile, model: Callable[[np.ndarray], Mapping[str, np.ndarray]], images: np.ndarray, *, progress: bool = False
) -> tuple[Comparison, ...]:
    """Run both on `images` `[n, H, W, C]`, a few at a time; `model` gives {output: values} under the file's output names."""
    try:
        step = max(8 // file.batch, 1) * file.batch
    except ValueError as error:
        raise ExportError(str(error)) from error
    found: list[dict[str, np.ndarray]] = []
    wanted: list[Mapping[str, np.ndarray]] = []
    with Life("verify", total=len(images), unit="image", shown=progress) as life:
        for start in range(0, len(images), step):
            chunk = images[start : start + step]
            found.append(file.values(chunk))
            wanted.append(model(chunk))
            life.step(len(chunk))
    return tuple(
        _comparison(name, *(np.concatenate([np.asarray(part[name], np.float64) for part in side]) for side in (found, wanted)))
        for name in found[0]
    )


def _comparison(name: str, found: np.ndarray, wanted: np.ndarray) -> Comparison:
    if found.shape != wanted.shape:
        raise ExportError(
            f"The file's output {name!r} must have the model's shape. Received: {found.shape[1:]} against {wanted.shape[1:]}"
        )
    difference = np.abs(found - wanted)
    rows, columns = found.reshape(len(found), -1), wanted.reshape(len(wanted), -1)
    lengths = np.linalg.norm(rows, axis=1), np.linalg.norm(columns, axis=1)
    norms = lengths[0] * lengths[1]
    same = (lengths[0] == lengths[1]).astype(np.float64)
    cosines = np.where(norms > 0, (rows * columns).sum(axis=1) / np.where(norms > 0, norms, 1), same)
    apart = np.ptp(columns, axis=0).max() > SAME * np.abs(wanted).max() or (not found.any() and wanted.any())
    scores = found.ndim == 2 and found.shape[1] > 1
    return Comparison(
        output=name,
        images=len(found),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        max_relative=float(difference.max() / max(np.abs(wanted).max(), 1e-30)),
        cosine=float(cosines.mean()),
        top1_agreement=float((found.argmax(axis=1) == wanted.argmax(axis=1)).mean()) if scores else None,
        constant=bool(apart and not np.ptp(rows, axis=0).any() and (len(rows) > 1 or not rows.any())),
    )


def judge(comparisons: tuple[Comparison, ...], quantize: str | None) -> None:
    """ExportError where the file is not the model: beyond rounding for floats, another direction for 8 bits, not a number."""
    limit = TOLERANCES.get(quantize)
    for each in comparisons:
        if not math.isfinite(each.max_difference):
            raise ExportError(
                f"An exported graph must compute numbers. Received: NaN or infinity at its output {each.output!r}"
            )
        if each.constant:
            raise ExportError(
                f"A file must tell images apart as the model does. Received: the same values at its output {each.output!r} for "
                f"all {each.images} images. An 8-bit softmax has steps of 1/256, and probabilities below 1/512 become 0: build "
                f"the model with classifier_activation=None (logits). Otherwise calibrate on images as the model expects them."
            )
        if limit is not None and each.max_relative > limit:
            raise ExportError(
                f"The file must equal the model within {limit:g} of its largest output. Received: {each.max_relative:.3g} at "
                f"{each.output!r}. A layer is computed in another way by LiteRT."
            )
        if limit is None and each.cosine < LEAST_COSINE:
            raise ExportError(
                f"A quantized file must point where the model does (cosine {LEAST_COSINE} at least). Received: "
                f"{each.cosine:.3f} at {each.output!r}. Calibrate on images as the model expects them (range, size, content)."
            )


def drawn_images(count: int, height: int, width: int, channels: int, *, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, pixels 0..255, for a verification without photos: `[count, height, width, channels]`."""
    rng = np.random.default_rng(seed)
    rows, columns = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    pictures = np.zeros((count, height, width, channels))
    for picture in pictures:
        for frequency in (1, 2, 4, 8, 16):
            u, v = rng.uniform(-frequency, frequency, (2, channels))
            phase = rng.uniform(-np.pi, np.pi, channels)
            picture += np.sin(2 * np.pi * (rows * u + columns * v) + phase) / frequency
    low, high = pictures.min(axis=(1, 2, 3), keepdims=True), pictures.max(axis=(1, 2, 3), keepdims=True)
    return np.rint(255 * (pictures - low) / np.maximum(high - low, 1e-9)).astype(np.float32)
