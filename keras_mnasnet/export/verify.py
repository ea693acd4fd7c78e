"""Is the file the model? Outputs of a `.tflite` against another implementation's, image by image."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import tqdm

from keras_mnasnet.export.inspect import ExportError
from keras_mnasnet.utils.system import available_cores, held_stderr

__all__ = ["TOLERANCES", "Comparison", "Runner", "compare", "drawn_images", "judge", "quantized"]

TOLERANCES = {None: 3e-5, "float16": 2e-2}
LEAST_COSINE = 0.8
SAME = 1e-6  # of the largest output: float32's own rounding


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


class Runner:
    """A `.tflite` by its signature: float images `[n, H, W, C]` in, {output: float values} out, whatever the file's types."""

    def __init__(self, content: bytes, *, threads: int | None = None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with held_stderr():
            self._interpreter = Interpreter(model_content=content, num_threads=threads or available_cores())
            try:
                self._interpreter.allocate_tensors()
            except RuntimeError as error:
                raise ExportError(f"LiteRT must be able to prepare the file. Received: {str(error).strip()}") from error
            self._run = self._interpreter.get_signature_runner()
        ((self._name, self._input),) = self._run.get_input_details().items()
        self._outputs = self._run.get_output_details()
        self.batch = int(self._input["shape"][0])

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        parts = []
        for start in range(0, len(images), self.batch):
            chunk = images[start : start + self.batch]
            filled = np.concatenate([chunk, np.repeat(chunk[-1:], self.batch - len(chunk), axis=0)])
            found = self._run(**{self._name: quantized(filled, self._input)})
            parts.append({name: _real(found[name], self._outputs[name])[: len(chunk)] for name in found})
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}


def quantized(values: np.ndarray, details: Mapping) -> np.ndarray:
    """Float values as an interpreter's input or output `details` hold them."""
    scale, zero = details["quantization"]
    if not scale:
        return np.ascontiguousarray(values, details["dtype"])
    limits = np.iinfo(details["dtype"])
    return np.clip(np.rint(values / scale) + zero, limits.min, limits.max).astype(details["dtype"])


def _real(values: np.ndarray, details: Mapping) -> np.ndarray:
    scale, zero = details["quantization"]
    return (values.astype(np.float32) - zero) * np.float32(scale) if scale else values.astype(np.float32)


def compare(
    content: bytes, model: Callable[[np.ndarray], Mapping[str, np.ndarray]], images: np.ndarray, *, progress: bool = False
) -> tuple[Comparison, ...]:
    """Run both on `images` `[n, H, W, C]`, a few at a time; `model` gives {output: values} under the file's output names."""
    runner = Runner(content)
    step = max(8 // runner.batch, 1) * runner.batch
    found: list[dict[str, np.ndarray]] = []
    wanted: list[Mapping[str, np.ndarray]] = []
    with tqdm.tqdm(total=len(images), desc="verifying", unit="image", disable=not progress, leave=False) as bar:
        for start in range(0, len(images), step):
            chunk = images[start : start + step]
            found.append(runner(chunk))
            wanted.append(model(chunk))
            bar.update(len(chunk))
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
