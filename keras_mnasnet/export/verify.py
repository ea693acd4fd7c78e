"""Is the file the model? What is in a `.tflite` against what was asked for; its outputs and decisions against the model's."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from keras_mnasnet.export.file import GraphFacts, ModelFile
from keras_mnasnet.utils.text import Life, listed

STATEFUL = ("READ_VARIABLE", "ASSIGN_VARIABLE", "VAR_HANDLE", "CALL_ONCE")
SAME = 1e-6  # of the largest output: float32's own rounding
ROUNDING = 2.0**-21  # of a float32 value after sums: four times its own
VARYING = 2.0**-20  # of the largest output: what rounding may add to its differences between images
PROBABILITY_STEP = 1 / 256  # of LiteRT's 8-bit softmax
NEAR_ONE, SMALLEST = 1e-3, 1e-30  # of the sum of probabilities, and of one
LEAST_IMAGES = 4  # fewer do not say how outputs differ between images
LEAST_DECIDED = 0.1  # of the images have a margin, or decisions are not judged
MOST_CONFIDENCE = 0.05  # how far the mean of the largest probabilities may move behind an 8-bit softmax
UNSURE = {
    "too little margin": "on nearly all images its two best classes are closer than the precision resolves",
    "too little spread": "it differs less between the images than the precision resolves, and another file with the same mean "
    "would pass; verify on photos of the kind that the model knows (--photos)",
}


CONSTANT = (
    "An 8-bit softmax has steps of 1/256, and probabilities below 1/512 become 0: build the model with "
    "classifier_activation=None (logits). Otherwise calibrate on images as the model expects them."
)


class ExportError(ValueError):
    """The file that was made is not what was asked for; nothing of it is kept."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """How far a file of one precision may be from its model, and how many decisions it may change.

    The root mean square of the differences may be `spread` of the spread of the model's outputs over images and classes, plus
    `level` of their level, which counts only where outputs hardly differ between images, plus the rounding of float32, or of
    an 8-bit softmax; of a single class, whose spread is half its own, half that of all, WORST_CLASS times as much. A decision
    counts where the best score is ahead of the second by more than twice `margin` of the spread; `changed` of those may be
    other ones. Where outputs hardly differ between images, what differs in the differences may be the share `variation` of that
    spread and the rounding of float32; None where activations have 8 bits, whose rounding is larger than such a spread. Scores,
    whose decisions are judged, may differ by `scores` (if given) instead of `spread`. `detections` is the share of a detector's
    boxes that may be missing, and of the file's that may be new.
    """

    spread: float
    level: float
    margin: float
    changed: float
    scores: float | None = None
    detections: float = 0.0
    variation: float | None = None
    eight_bits: bool = False

    def of(self, compared: Comparison) -> float:
        """The most of the spread that an output may differ by."""
        return self.spread if compared.top1_agreement is None or self.scores is None else self.scores


# Measured on files of true models, each against its own: the bundled networks of CIFAR-10 on photos and drawn pictures, and
# A1, A3, B1 and small with random weights, 10 and 1000 classes, 32 to 96 pixels. Largest errors: 7e-5 (float32; a detector with
# random weights: 5e-4), 5e-3 (float16), 0.10 (weight-int8), 0.11 (dynamic), 0.13 (int8, trained), 0.43 (int8, random), 0.46
# (int8, trained for three steps); of the confidence behind an int8 softmax 0.006. Smallest of wrong files, with a layer of
# another seed, swapped colors or another normalization: 0.43 (int8, of which the decisions are refused) and 0.53 (the others);
# ten times the logits behind an int8 softmax move the confidence by 0.18. `benchmarks/run_mutants.py` holds them against other
# networks: `level` and `margin` of the 8-bit precisions are from there, and `variation`, of which true files reach half.
LIMITS = {
    "float32": Limits(spread=2e-3, level=1e-5, margin=2e-3, changed=0.0, variation=0.1),
    "float16": Limits(spread=0.03, level=2e-3, margin=0.01, changed=0.0, detections=0.05, variation=0.15),
    "half": Limits(spread=0.1, level=0.01, margin=0.02, changed=0.01, detections=0.05, variation=0.5),
    "weight-int8": Limits(spread=0.2, level=0.03, margin=0.15, changed=0.03, variation=0.45),
    "dynamic": Limits(spread=0.2, level=0.03, margin=0.15, changed=0.03),
    "int8": Limits(spread=0.45, level=0.03, margin=0.2, changed=0.05, scores=0.7, detections=0.2, eight_bits=True),
    "QAT int8": Limits(spread=0.3, level=0.03, margin=0.1, changed=0.05, detections=0.2, eight_bits=True),
}
WORST_CLASS = 1.6
QUANTIZED = ("weight-int8", "dynamic", "int8", "QAT int8")
ACCEPTED_SPREAD = 1.0  # where changed decisions are accepted: beyond it a file has nothing to do with the model


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """One output of the file against the model's, over all images.

    `max_difference` and `mean_difference` are in the output's own units, `max_relative` is the largest difference over the
    largest absolute value. `spread` is how much the model's outputs differ between images, their mean over the images, and of
    scores the mean over the classes, removed; `error` is the root mean square of the differences over `spread`, `worst` that
    of the class (the last axis) where it is largest, number `worst_class`. Both are of logarithms of probabilities where the
    model gives probabilities and the file does not compute them in 8 bits.

    `top1_agreement` is the share of images with the same best class (None for an output that is no `[B, classes]`). `decided`
    images have a margin that is larger than what the precision explains, `changed` of these have another best class in the
    file. `judged` says what the judgement rests on: "decisions" and differences; differences alone, because the output has no
    classes ("values") or almost no image has a margin ("too little margin"); or the level and, in `variation`, the differences
    between images ("variation"), or the level alone ("too little spread"), because the outputs differ less between images than
    the precision resolves. `variation` is then what differs in the differences, over what may (None elsewhere). `confidence` is
    the mean of the file's largest probabilities minus that of the model's (None without probabilities). `constant`: the file
    gives the same values for all images, although the model does not. `divergence` is the mean Kullback-Leibler divergence of
    the file's probabilities, or of the softmax of its scores, from the model's, in nats. `top1` and `model_top1` are the shares
    of photos with labels that the file and the model classify right (None without labels).
    """

    output: str
    images: int
    max_difference: float
    mean_difference: float
    max_relative: float
    spread: float
    error: float
    worst: float
    worst_class: int
    top1_agreement: float | None
    decided: int | None
    changed: int | None
    judged: str
    confidence: float | None = None
    constant: bool = False
    variation: float | None = None
    divergence: float | None = None
    top1: float | None = None
    model_top1: float | None = None


def check_promise(
    facts: GraphFacts, quantize: str | None, allowed_custom: tuple[str, ...] = (), *, keep_float: bool = False
) -> None:
    """ExportError for a graph with variables, operators outside of LiteRT's own, or float operators where int8 was asked.

    `keep_float`: layers were asked to stay float.
    """
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
    if quantize == "int8" and facts.floating and not keep_float:
        raise ExportError(
            f"An int8 graph must compute in integers throughout. Received: float operators {', '.join(facts.floating)}. "
            f"A layer of the model has no int8 kernel; use quantize='weight-int8' or take that layer out."
        )


def accepting(precision: str, accept_changed: float | None) -> Limits:
    """The limits of a precision; with `accept_changed`, a share of 0..1, that many changed decisions or detections, and, where
    8 bits may change more than they do by default, differences as large as the spread of the outputs."""
    if accept_changed is None:
        return LIMITS[precision]
    if isinstance(accept_changed, bool) or not isinstance(accept_changed, int | float) or not 0 <= accept_changed <= 1:
        raise ValueError(
            f"`accept_changed` (--accept-changed) must be a share of the decisions, 0 to 1. "
            f"Received: accept_changed={accept_changed!r}"
        )
    share = float(accept_changed)
    limits = LIMITS[precision]
    if precision in QUANTIZED and share > limits.changed:
        limits = dataclasses.replace(limits, spread=ACCEPTED_SPREAD, scores=None)
    return dataclasses.replace(limits, changed=share, detections=share)


def check_calls(model: Any) -> None:
    """ValueError for layers of a Keras model that it calls with training=True: no file can hold what they then do."""
    named = list(_training_calls(model))
    if named:
        raise ValueError(
            f"A model that is exported must call its layers for inference. Received: {model.name!r}, which calls "
            f"{listed(named)} with training=True, so that its outputs depend on the batch or on chance. Build the same model "
            f"without training=True, give it the weights (set_weights), and export that one."
        )


def _training_calls(model: Any) -> Iterator[str]:
    """The names of the layers, those of nested models too, that are called with training=True.

    Layers that prepare images have training=True for a default: every call is described so, and none is one for training.
    """
    layers = list(getattr(model, "operations", None) or model.layers)
    try:
        described = {each.get("name"): each.get("inbound_nodes", ()) for each in model.get_config().get("layers", ())}
    except (NotImplementedError, TypeError, ValueError) as error:
        logging.warning("Calls with training=True cannot be looked for in %r, which cannot be described: %s", model.name, error)
        described = {}
    for layer in layers:
        asked = any(call["kwargs"].get("training") for call in described.get(layer.name) or ())
        said = inspect.signature(layer.call).parameters.get("training")
        if asked and (said is None or said.default is not True):
            yield layer.name
        elif hasattr(layer, "layers"):
            yield from _training_calls(layer)


def compare(
    file: ModelFile, model: Callable[[np.ndarray], Mapping[str, np.ndarray]], images: np.ndarray, *, precision: str,
    answers: np.ndarray | None = None, progress: bool = False,
) -> tuple[Comparison, ...]:  # fmt: skip
    """Run both on `images` `[n, H, W, C]`, a few at a time; `model` gives {output: values} under the file's output names.

    `precision` is one of LIMITS; `answers` are the right outputs of the first images.
    """
    step = max(8 // file.batch, 1) * file.batch
    found: list[dict[str, np.ndarray]] = []
    wanted: list[Mapping[str, np.ndarray]] = []
    with Life("verify", total=len(images), unit="image", shown=progress) as life:
        for start in range(0, len(images), step):
            chunk = images[start : start + step]
            wanted.append(model(chunk))  # before LiteRT packs its weights into the memory that this leaves free
            try:
                found.append(file.values(chunk))
            except ValueError as error:
                raise ExportError(str(error)) from error
            life.step(len(chunk))
    ours, theirs = ({name: np.concatenate([part[name] for part in side]) for name in found[0]} for side in (found, wanted))
    return comparisons(ours, theirs, precision, answers)


def comparisons(
    found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], precision: str, answers: np.ndarray | None = None
) -> tuple[Comparison, ...]:
    """{output: values} of all images, compared with what they should be."""
    return tuple(
        _comparison(name, np.asarray(found[name], np.float64), np.asarray(wanted[name], np.float64), precision, answers)
        for name in found
    )


def _comparison(
    name: str, found: np.ndarray, wanted: np.ndarray, precision: str, answers: np.ndarray | None = None
) -> Comparison:
    if found.shape != wanted.shape:
        raise ExportError(
            f"The file's output {name!r} must have the model's shape. Received: {found.shape[1:]} against {wanted.shape[1:]}"
        )
    limits, count = LIMITS[precision], len(wanted)
    if set(wanted.shape[1:-1]) == {1}:  # scores of a map of one pixel
        found, wanted = (side.reshape(count, -1) for side in (found, wanted))
    scores = wanted.ndim == 2 and wanted.shape[1] > 1
    difference = np.abs(found - wanted)
    probabilities = scores and _are_probabilities(wanted)
    step = PROBABILITY_STEP if probabilities and limits.eight_bits else 0.0
    seen = max(SAME * np.abs(wanted).max(), step)  # smaller differences may be gone in the file
    apart = np.ptp(wanted, axis=0).max() > seen or (not found.any() and wanted.any())
    same = not np.ptp(found, axis=0).any() and (count > 1 or not found.any())
    ours, theirs = found, wanted
    if probabilities and not limits.eight_bits:
        ours, theirs = (np.log(np.maximum(side, SMALLEST)) for side in (found, wanted))
    classes = wanted.shape[-1] if wanted.ndim > 1 else 1
    ours, theirs = (side.reshape(count, -1, classes) for side in (ours, theirs))
    varying = theirs - theirs.mean(axis=0)
    if scores:
        varying = varying - varying.mean(axis=-1, keepdims=True)
    level = _rms(theirs - theirs.mean(axis=-1 if scores else None, keepdims=True))
    spread = _rms(varying) * math.sqrt(count / max(count - 1, 1))
    floor = limits.level * level + ROUNDING * float(np.abs(theirs).max()) + step / math.sqrt(12)
    unit = max(spread + floor / limits.spread, 1e-30)
    own = np.square(varying).mean(axis=(0, 1))
    shares = (own / own.mean() + 1) / 2 if own.any() else 1.0
    errors = np.sqrt(np.square(ours - theirs).mean(axis=(0, 1)) / shares)
    decided: int | None = None
    changed: int | None = None
    judged = "values"
    if scores:
        second, first = np.moveaxis(np.partition(theirs[:, 0], -2, axis=-1)[:, -2:], 1, 0)
        clear = first - second > 2 * limits.margin * unit + step
        decided, changed = int(clear.sum()), int((clear & (found.argmax(axis=1) != wanted.argmax(axis=1))).sum())
        judged = "decisions" if decided >= LEAST_DECIDED * count else "too little margin"
    variation: float | None = None
    if floor > limits.spread * spread:
        judged = "too little spread"
        if limits.variation is not None:
            between = ours - theirs - (ours - theirs).mean(axis=0)
            if scores:
                between = between - between.mean(axis=-1, keepdims=True)
            allowed, rounding = limits.variation * _rms(varying), VARYING * float(np.abs(theirs).max())
            variation = _rms(between) / max(allowed + rounding, 1e-30)
            judged = "variation" if allowed > rounding else judged
    return Comparison(
        output=name,
        images=count,
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        max_relative=float(difference.max() / max(np.abs(wanted).max(), 1e-30)),
        spread=spread,
        error=_rms(ours - theirs) / unit,
        worst=float(errors.max()) / unit,
        worst_class=int(errors.argmax()),
        top1_agreement=float((found.argmax(axis=1) == wanted.argmax(axis=1)).mean()) if scores else None,
        decided=decided,
        changed=changed,
        judged=judged,
        confidence=float((found.max(axis=1) - wanted.max(axis=1)).mean()) if probabilities else None,
        constant=bool(apart and same),
        variation=variation,
        divergence=divergence(found, wanted, probabilities=probabilities) if scores else None,
        top1=_right(found, answers) if scores else None,
        model_top1=_right(wanted, answers) if scores else None,
    )


def _right(scores: np.ndarray, answers: np.ndarray | None) -> float | None:
    return None if answers is None else float((scores[: len(answers)].argmax(axis=1) == answers).mean())


def divergence(found: np.ndarray, wanted: np.ndarray, *, probabilities: bool) -> float:
    """The mean of sum(p log(p / q)) over images, p of `wanted` and q of `found`, `[n, classes]` of probabilities or logits.

    Probabilities that an 8-bit softmax rounds to zero count as half of its step.
    """
    p, q = (_probabilities(side) if not probabilities else side for side in (wanted, found))
    q = np.where(q > 0, q, PROBABILITY_STEP / 2)
    each = (p * np.log(np.maximum(p, SMALLEST) / (q / q.sum(axis=1, keepdims=True)))).sum(axis=1)
    return max(float(each.mean()), 0.0)


def _probabilities(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def _are_probabilities(values: np.ndarray) -> bool:
    return bool((values >= 0).all() and np.abs(values.sum(axis=1) - 1).max() <= NEAR_ONE)


def judge(comparisons: tuple[Comparison, ...], precision: str, limits: Limits) -> None:
    """ExportError where the file is not the model within the limits of its precision, or gives no number.

    What could not be judged for certain is logged, if it was not of the same outputs before the simulation of `half`.
    """
    for each in comparisons:
        if not math.isfinite(each.max_difference):
            raise ExportError(
                f"An exported graph must compute numbers. Received: NaN or infinity at its output {each.output!r}"
            )
        if each.constant:
            raise ExportError(
                f"A file must tell images apart as the model does. Received: the same values at its output {each.output!r} for "
                f"all {each.images} images. " + (_way_out(precision) if precision == "half" else CONSTANT)
            )
        limit = limits.of(each)
        if each.error > limit or each.worst > WORST_CLASS * limit:
            raise ExportError(
                f"The {precision} file must differ from the model by at most {limit:g} of the spread of its outputs, "
                f"and by {WORST_CLASS * limit:g} in any one class. Received: {each.error:.3g} at {each.output!r}, "
                f"{each.worst:.3g} in class {each.worst_class}. {_way_out(precision)}"
                + (_accepting(limits.changed) if precision in QUANTIZED and each.error <= ACCEPTED_SPREAD > limit else "")
            )
        if each.variation is not None and each.variation > 1:
            raise ExportError(
                f"The {precision} file must tell images apart as the model does, whose outputs hardly differ between them. "
                f"Received: {each.variation:.3g} times what may differ at {each.output!r}. {_way_out(precision)}"
            )
        if limits.eight_bits and abs(each.confidence or 0) > MOST_CONFIDENCE:
            raise ExportError(
                f"The {precision} file must be as sure as the model: its mean largest probability within "
                f"{MOST_CONFIDENCE:g} of the model's. Received: {each.confidence:+.3g} at {each.output!r}. "
                + _way_out(precision)
            )
        decided, changed = each.decided or 0, each.changed or 0
        if each.judged == "decisions" and changed > math.ceil(limits.changed * decided):
            raise ExportError(
                f"The {precision} file may change {limits.changed:.0%} of the decisions that the model makes with a margin. "
                f"Received: {changed} of {decided} at {each.output!r}, {changed / decided:.0%}, and "
                f"differences of {each.error:.3g} of the spread of the outputs. {_way_out(precision)} "
                f"`accept_changed` (--accept-changed) takes more, as {math.ceil(100 * changed / decided) / 100:g}."
            )
        if each.judged in UNSURE and precision != "half":
            logging.warning("The output %r was judged with %s: %s.", each.output, each.judged, UNSURE[each.judged])


def _accepting(share: float) -> str:
    return f" Or `accept_changed` (--accept-changed) of more than {share:g} takes such differences, and judges the decisions."


def _way_out(precision: str) -> str:
    if precision == "half":
        return ""  # who asks knows it
    if precision == "int8":
        return (
            "Ways out: calibrate on a hundred photos or more of the kind that the model will see, prepared as it expects them; "
            "train with quantization (mnasnet qat, mnasnet detect qat); or write quantize='weight-int8' (a .onnx: 'float16')."
        )
    if precision == "QAT int8":
        return (
            "Ways out: train longer, or at a lower learning rate; or write another precision (mnasnet export, mnasnet detect "
            "export)."
        )
    if precision in ("dynamic", "weight-int8"):
        return "8 bits are too few for some weights: write quantize='float16'."
    return "The weights are not the model's, or the runtime computes a layer in another way."


def drawn_images(count: int, height: int, width: int, channels: int, *, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, pixels 0..255, for a verification without photos: `[count, height, width, channels]`."""
    rng = np.random.default_rng(seed)
    rows, columns = (2 * np.pi * np.linspace(0, 1, side) for side in (height, width))
    pictures = np.empty((count, height, width, channels), np.float32)
    for picture in pictures:
        down, across = [], []
        for frequency in (1, 2, 4, 8, 16):
            u, v = rng.uniform(-frequency, frequency, (2, channels, 1))
            row, column = rows * u + rng.uniform(-np.pi, np.pi, (channels, 1)), columns * v
            down += [np.sin(row) / frequency, np.cos(row) / frequency]
            across += [np.cos(column), np.sin(column)]  # their products are the sine of row + column
        waves = np.stack(down, axis=-1) @ np.stack(across, axis=1)
        waves -= waves.min()
        picture[...] = np.rint(255 * waves / max(waves.max(), 1e-9)).transpose(1, 2, 0)
    return pictures
