"""`.tflite` classifiers: what input the file expects, and running it with LiteRT."""

from __future__ import annotations

import dataclasses
import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from keras_mnasnet.preprocessing import NORMALIZATIONS as INPUTS
from keras_mnasnet.utils.system import available_cores

__all__ = ["INPUTS", "Input", "TfliteModel", "input_of", "normalization"]

TITLES = {
    "pixels": "pixels 0..255",
    "unit": "pixels / 255",
    "signed": "pixels / 127.5 - 1",
    "imagenet": "(pixels / 255 - mean) / std of ImageNet",
}
ZEROS = {np.dtype(np.uint8): 0, np.dtype(np.int8): -128}


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """How pixels 0..255 become a tensor of `dtype`: raw = pixel + zero; else q = (pixel - mean) / std / scale + zero."""

    dtype: np.dtype
    text: str
    raw: bool = False
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1.0
    zero: int = 0

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 `[B, H, W, 3]` -> `dtype`, whole numbers rounded to even and saturated."""
        values = pixels
        if not self.raw:
            values = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        if self.dtype == np.float32:
            return np.ascontiguousarray(values, np.float32)
        if self.raw:
            values = np.clip(np.rint(values), 0, 255) + self.zero
        else:
            values = np.rint(values / np.float32(self.scale)) + self.zero
        limits = np.iinfo(self.dtype)
        return np.clip(values, limits.min, limits.max).astype(self.dtype)


def input_of(
    name: str, dtype: Any, quantization: tuple[float, int], *, how: str | None = None,
    metadata: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Input:  # fmt: skip
    """What a `.tflite` input expects of pixels 0..255.

    `how`, one of INPUTS, decides. Otherwise a uint8 or int8 input whose range (scale * (q - zero)) is about 0..255, 0..1 or
    -1..1 takes the pixels themselves (int8: minus 128), as hosted and Coral models do; then `metadata`, the file's (mean,
    std) normalization; then float32 takes pixels 0..255, as the models of this package. ValueError where nothing says it.
    """
    dtype = np.dtype(dtype)
    scale, zero = float(quantization[0]), int(quantization[1])
    if dtype != np.float32 and dtype not in ZEROS:
        raise ValueError(f"A .tflite input must be float32, uint8 or int8. Received: {name} with {dtype}")
    if how is not None and how not in INPUTS:
        raise ValueError(f"`tflite_input` must be one of {', '.join(INPUTS)}. Received: tflite_input={how!r}")
    real: dict[str, Any] = {"scale": scale, "zero": zero} if dtype != np.float32 else {}
    if how is not None:
        given = INPUTS[how]
        return Input(dtype, f"{dtype} {TITLES[how]} (as asked)", mean=given.mean, std=given.std, **real)
    if dtype in ZEROS:
        shown = "pixels 0..255" if dtype == np.uint8 else "pixels - 128"
        low, high = (scale * (limit - zero) for limit in (np.iinfo(dtype).min, np.iinfo(dtype).max))
        kind = _range_kind(low, high)
        if kind == "pixels" and scale != 1.0:
            return Input(dtype, f"{dtype} pixels 0..255 / {scale:.6g} (from its range)", **real)
        if kind:
            return Input(dtype, f"{dtype} {shown} (its range is {low:.4g}..{high:.4g})", raw=True, zero=ZEROS[dtype])
    if metadata is not None:
        mean, std = metadata
        values = [", ".join(f"{value:g}" for value in side) for side in metadata]
        return Input(dtype, f"{dtype} (pixels - {values[0]}) / {values[1]} (its metadata)", mean=mean, std=std, **real)
    if dtype in ZEROS:
        raise ValueError(
            f"A quantized input must say what it takes: a range of 0..255, 0..1 or -1..1, or TFLite metadata. Received: {name} "
            f"with the range {low:.4g}..{high:.4g}. Pass tflite_input= (--tflite-input), one of {', '.join(INPUTS)}."
        )
    return Input(dtype, "float32 pixels 0..255 (assumed; tflite_input= changes it)")


def _range_kind(low: float, high: float) -> str | None:
    for kind, (first, last) in {"pixels": (0, 255), "unit": (0, 1), "signed": (-1, 1)}.items():
        near = 0.05 * (last - first)
        if abs(low - first) <= near and abs(high - last) <= near:
            return kind
    return None


def normalization(model: bytes) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(mean, std) of the first input in the TFLite metadata of a valid `.tflite`; None where it has none.

    Metadata tables: ModelMetadata 3 -> SubGraphMetadata 2 -> TensorMetadata 4 -> ProcessUnit 0, 1 -> NormalizationOptions 0, 1.
    """
    from ai_edge_litert import schema_py_generated as schema

    root = schema.Model.GetRootAs(model, 0)
    for entry in (root.Metadata(index) for index in range(root.MetadataLength())):
        if entry.Name() == b"TFLITE_METADATA":
            buffer = root.Buffers(entry.Buffer())
            data = bytes(buffer.DataAsNumpy()) if buffer.DataLength() else model[buffer.Offset() :][: buffer.Size()]
            try:
                return _normalization(data)
            except (struct.error, IndexError, TypeError, ValueError, OverflowError) as error:
                logging.warning("TFLite metadata cannot be read and is passed over: %s", error)
    return None


def _normalization(data: bytes) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    from flatbuffers import encode, number_types, table

    def tables(parent: Any, slot: int) -> list[Any]:
        offset = parent.Offset(4 + 2 * slot)
        if not offset:
            return []
        start = parent.Vector(offset)
        return [table.Table(data, parent.Indirect(start + 4 * index)) for index in range(parent.VectorLen(offset))]

    def floats(parent: Any, slot: int) -> tuple[float, ...]:
        offset = parent.Offset(4 + 2 * slot)
        vector = parent.GetVectorAsNumpy(number_types.Float32Flags, offset) if offset else ()
        return tuple(float(value) for value in vector)

    root = table.Table(data, encode.Get(number_types.UOffsetTFlags.packer_type, data, 0))
    for graph in tables(root, 3)[:1]:
        for tensor in tables(graph, 2)[:1]:
            for unit in tables(tensor, 4):
                kind = unit.Offset(4)
                if kind and unit.Get(number_types.Uint8Flags, kind + unit.Pos) == 1:
                    options = table.Table(data, 0)
                    unit.Union(options, unit.Offset(6))
                    mean, std = floats(options, 0), floats(options, 1)
                    if len(mean) not in (1, 3) or len(mean) != len(std) or not all(std):
                        raise ValueError(f"a normalization with mean={mean}, std={std}")
                    return mean, std
    return None


class TfliteModel:
    """A classifier `[1, S, S, 3]` -> `[1, classes]` on LiteRT; ValueError for a file that is damaged or something else."""

    def __init__(
        self, path: str | os.PathLike[str], *, resolution: int | None = None, threads: int | None = None, how: str | None = None
    ) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise ValueError(f"A .tflite file must exist. Received: {self.path}, which does not")
        if threads is not None and threads < 1:
            raise ValueError(f"`threads` must be 1 or more. Received: threads={threads!r}")
        self.threads = threads or available_cores()
        try:
            self._interpreter = Interpreter(model_path=str(self.path), num_threads=self.threads)
            inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
            if len(inputs) != 1 or len(outputs) != 1:
                raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs; a classifier has one of each")
            self.size = self._size(inputs[0], resolution)
            shape = (1, self.size, self.size, 3)
            if tuple(inputs[0]["shape"]) != shape:
                self._interpreter.resize_tensor_input(inputs[0]["index"], shape)
            self._interpreter.allocate_tensors()
            self._interpreter.invoke()
            output = self._interpreter.get_output_details()[0]
            if output["shape"].prod() != output["shape"][-1]:
                raise ValueError(f"the output {list(output['shape'])}; a classifier's is [1, classes]")
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"A .tflite file must be a whole classifier [1, size, size, 3] -> [1, classes] that LiteRT can run. "
                f"Received: {self.path} ({self.path.stat().st_size:,} bytes): {error}"
            ) from error
        self._input, self._output = inputs[0]["index"], output["index"]
        self.classes = int(output["shape"][-1])
        metadata = normalization(self.path.read_bytes()) if how is None else None
        self.input = input_of(self.path.name, inputs[0]["dtype"], inputs[0]["quantization"], how=how, metadata=metadata)

    @staticmethod
    def _size(details: dict[str, Any], resolution: int | None) -> int:
        shape = [int(side) for side in details["shape_signature"]]
        if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
            raise ValueError(f"the input {shape}, which is not [1, size, size, 3]")
        if shape[1] < 0 and resolution is None:
            raise ValueError(f"the input {shape} without a resolution. Pass resolution= (--resolution)")
        if resolution not in (None, shape[1]) and shape[1] >= 0:
            raise ValueError(f"resolution={resolution} for the fixed input {shape}. Leave out resolution= (--resolution)")
        return shape[1] if resolution is None else resolution

    def run(self, pixels: np.ndarray, batch_size: int = 1) -> tuple[np.ndarray, float]:
        """Scores `[B, classes]` of pixels 0..255 `[B, S, S, 3]`, in the output's own type, and seconds; one image at a time."""
        images = self.input(pixels)
        scores = []
        started = time.perf_counter()
        for image in images:
            self._interpreter.set_tensor(self._input, image[None])
            self._interpreter.invoke()
            scores.append(self._interpreter.get_tensor(self._output).reshape(-1))
        return np.stack(scores), time.perf_counter() - started
