"""A `.tflite`: what is in it, how photos become its input, and running it on LiteRT. Nothing else opens such a file.

What a `.onnx` has in common with it is here too; `onnx_file` has the rest.

What is asked for is read, and what it needs is imported, at that moment: the process that measures latency has only numpy and
LiteRT. No TensorFlow.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import functools
import math
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.export.partitions import Partitions, partitions_of
from keras_mnasnet.preprocessing import NORMALIZATIONS, Normalization, Preprocessing, range_kind
from keras_mnasnet.utils.reading import (
    LARGEST_MODEL,
    TFLITE_MARK,
    check_limit,
    check_names,
    read_bytes,
)
from keras_mnasnet.utils.system import available_cores, held_stderr

MINIMUM_BYTES = 64
MOST_VALUES = 1 << 28  # of an input: 9,000 x 9,000 pixels
BOUNDARY = ("QUANTIZE", "DEQUANTIZE")
LABELS, REPORT = "labels.txt", "export.json"
HALF = {"reduced_precision_support": b"fp16accfp16"}  # lets XNNPACK compute in half precision where the CPU can
DAMAGE = (struct.error, TypeError, ValueError, LookupError, AttributeError, OverflowError)
TITLES = {
    "pixels": "pixels 0..255",
    "unit": "pixels / 255",
    "signed": "pixels / 127.5 - 1",
    "imagenet": "(pixels / 255 - mean) / std of ImageNet",
}
GREY = (0.299, 0.587, 0.114)  # of red, green and blue, as Pillow and TensorFlow take them


@dataclasses.dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its tensor's name, shape and type, and (scale, zero point) if it is quantized."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class GraphFacts:
    """Counts of operators by kind, of their outputs by type, and of constants' bytes by type; inputs and outputs by position.

    `floating` are the operators, QUANTIZE and DEQUANTIZE apart, that read or write a float tensor. `half` is whether the file
    is marked for half precision.
    """

    operators: dict[str, int]
    output_types: dict[str, int]
    constant_bytes: dict[str, int]
    custom: tuple[str, ...]
    floating: tuple[str, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    signatures: dict[str, dict[str, list[str]]]
    bytes: int
    half: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Where an image input has its sides: `[B, H, W, channels]`, or `[B, channels, H, W]` with `channels_first`."""

    channels: int = 3
    channels_first: bool = False

    def sides(self, shape: Sequence[int]) -> tuple[int, int]:
        """Height and width in a shape of four."""
        return (shape[2], shape[3]) if self.channels_first else (shape[1], shape[2])

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Photos `[B, H, W, 3]` in this layout; made grey for one channel."""
        if self.channels == 1 and pixels.shape[-1] == 3:
            pixels = grey(pixels)
        return np.moveaxis(pixels, -1, 1) if self.channels_first else pixels


def grey(pixels: np.ndarray) -> np.ndarray:
    """Photos `[..., 3]`, RGB pixels 0..255, as grey ones `[..., 1]` of whole numbers, float32."""
    return np.rint(pixels.astype(np.float32) @ np.array(GREY, np.float32))[..., None]


def layout_of(shape: Sequence[int]) -> Layout | None:
    """The layout of an image input of this shape (open sides are negative); None for one that holds no photos."""
    if len(shape) != 4:
        return None
    if shape[3] in (1, 3):
        return Layout(shape[3])
    return Layout(shape[1], channels_first=True) if shape[1] in (1, 3) else None


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """How pixels 0..255 become a tensor of `dtype`: raw = pixel + zero; else (pixel - mean) / std, of which whole numbers hold
    q = value / scale + zero."""

    dtype: np.dtype
    text: str
    raw: bool = False
    normalization: Normalization = NORMALIZATIONS["pixels"]
    scale: float = 1.0
    zero: int = 0
    layout: Layout = Layout()

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 photos `[B, H, W, 3]` -> `dtype` in the input's layout, whole numbers rounded to even and saturated."""
        return np.ascontiguousarray(self._converted(self.layout(pixels)))

    def _converted(self, pixels: np.ndarray) -> np.ndarray:
        values = pixels
        if not self.raw:
            along = (-1, 1, 1) if self.layout.channels_first else (-1,)
            mean, std = (
                np.array(side, np.float32).reshape(along) for side in (self.normalization.mean, self.normalization.std)
            )
            values = (pixels - mean) / std
        if self.dtype.kind == "f":
            return values.astype(self.dtype, copy=False)
        if self.raw:
            values = np.clip(np.rint(values), 0, 255) + self.zero
        else:
            values = np.rint(values / np.float32(self.scale)) + self.zero
        limits = np.iinfo(self.dtype)
        return np.clip(values, limits.min, limits.max).astype(self.dtype)


def input_of(
    name: str, dtype: Any, quantization: tuple[float, int], *, how: str | None = None, said: Normalization | None = None,
    layout: Layout = Layout(),
) -> Input:  # fmt: skip
    """What a `.tflite` input expects of pixels 0..255.

    `how`, a name of NORMALIZATIONS, decides. Otherwise whole numbers without quantization (a scale of 0), and uint8 or int8
    whose range (scale * (q - zero)) is about 0..255, 0..1 or -1..1, take the pixels themselves (int8: minus 128), as hosted and
    Coral models do; then what the file's metadata `said`; then floats take pixels 0..255, as the models of this package.
    ValueError where nothing says it, or where it cannot be.
    """
    dtype = np.dtype(dtype)
    scale, zero = float(quantization[0]), int(quantization[1])
    if dtype not in (np.float32, np.float16) and dtype.kind not in "iu":
        raise ValueError(f"A .tflite input must be of floats or whole numbers. Received: {name} with {dtype}")
    if how is not None and how not in NORMALIZATIONS:
        raise ValueError(f"`file_input` must be one of {', '.join(NORMALIZATIONS)}. Received: file_input={how!r}")
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"A quantized input must have a positive scale. Received: {name} with the scale {scale:g}")
    for channels in {len(each.mean) for each in (how and NORMALIZATIONS[how], said) if each} - {1, layout.channels}:
        raise ValueError(
            f"A normalization must have one mean, or one for each channel. Received: {channels} means for {name}, whose "
            f"input has {layout.channels}. Pass file_input= (--input) pixels, unit or signed"
        )
    shown = "pixels - 128" if dtype == np.int8 else "pixels 0..255"
    base = -128 if dtype == np.int8 else 0
    if dtype.kind in "iu" and not scale:
        if how not in (None, "pixels"):
            raise ValueError(
                f"An input of {dtype} that is not quantized holds {shown}, no normalized values. Received: {name} with "
                f"file_input={how!r}. Leave out file_input= (--input), or pass pixels"
            )
        return Input(dtype, f"{dtype} {shown} (not quantized)", raw=True, zero=base, layout=layout)
    real: dict[str, Any] = {"layout": layout, **({"scale": scale, "zero": zero} if dtype.kind in "iu" else {})}
    if how is not None:
        return Input(dtype, f"{dtype} {TITLES[how]} (as asked)", normalization=NORMALIZATIONS[how], **real)
    low, high = 0.0, 0.0
    if dtype.kind in "iu":
        low, high = (scale * (limit - zero) for limit in (np.iinfo(dtype).min, np.iinfo(dtype).max))
        kind = range_kind(low, high) if dtype.itemsize == 1 else None
        if kind == "pixels" and scale != 1.0:
            return Input(dtype, f"{dtype} pixels 0..255 / {scale:.6g} (from its range)", **real)
        if kind:
            return Input(dtype, f"{dtype} {shown} (its range is {low:.4g}..{high:.4g})", raw=True, zero=base, layout=layout)
    if said is not None:
        return Input(dtype, f"{dtype} {TITLES.get(str(said), said)} (its metadata)", normalization=said, **real)
    if dtype.kind in "iu":
        raise ValueError(
            f"A quantized input must say what it takes: 8 bits with a range of 0..255, 0..1 or -1..1, or TFLite metadata. "
            f"Received: {name} of {dtype} with the range {low:.4g}..{high:.4g}. Pass file_input= (--input), one of "
            f"{', '.join(NORMALIZATIONS)}."
        )
    return Input(dtype, f"{dtype} pixels 0..255 (assumed; file_input= changes it)", layout=layout)


class ModelFile(abc.ABC):
    """An exported model by its path or its bytes. ValueError, when it is read or run, for one that is damaged.

    `size` are the height and width of image inputs that leave them open; `threads` is all usable cores by default.
    `name` stands in messages.
    """

    suffix: str
    runtime: str

    def __init__(
        self, source: str | os.PathLike[str] | bytes, *, name: str | None = None, size: int | None = None,
        threads: int | None = None,
    ) -> None:  # fmt: skip
        if isinstance(source, bytes):
            self.path, self.name, self.content = None, name or "the file", source
        else:
            self.path = Path(source).expanduser()
            self.name = name or str(self.path)
            if not self.path.is_file():
                raise ValueError(f"A {self.suffix} file must exist. Received: {self.name}, which does not")
        if threads is not None and threads < 1:
            raise ValueError(f"`threads` must be 1 or more. Received: threads={threads!r}")
        self.size, self.threads = size, threads or available_cores()

    @functools.cached_property
    def content(self) -> bytes:
        """The bytes of the file."""
        return b"" if self.path is None else read_bytes(self.path, f"A {self.suffix} file", limit=LARGEST_MODEL)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The class names that it carries."""
        try:
            return check_names(self.texts.get(LABELS, "").splitlines(), f"The labels of a {self.suffix} file") or None
        except ValueError as error:
            raise ValueError(f"{error} in {self.name}") from error

    @functools.cached_property
    def report(self) -> dict[str, Any]:
        """How this package made it; empty for a file of another maker."""
        from keras_mnasnet.weights.formats.tflite import report_in

        return report_in(self.texts)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How photos become its pixels, where its report says so."""
        from keras_mnasnet.weights.formats.tflite import preprocessing_in

        return preprocessing_in(self.report)

    @property
    @abc.abstractmethod
    def facts(self) -> GraphFacts:
        """Operators, types, inputs, outputs and signatures, from the file's tables."""

    @property
    @abc.abstractmethod
    def texts(self) -> dict[str, str]:
        """The texts that it carries, by name."""

    @property
    @abc.abstractmethod
    def normalization(self) -> Normalization | None:
        """What its metadata does to pixels of its first input."""

    @staticmethod
    @abc.abstractmethod
    def load_runtime() -> Any:
        """Import what runs it."""

    @property
    @abc.abstractmethod
    def inputs(self) -> list[dict[str, Any]]:
        """The inputs by position, as LiteRT's interpreter describes them."""

    @property
    @abc.abstractmethod
    def outputs(self) -> list[dict[str, Any]]:
        """The outputs by position, as LiteRT's interpreter describes them."""

    @abc.abstractmethod
    def run(self, tensor: np.ndarray) -> list[np.ndarray]:
        """The outputs by position, in their own types, for its one input in its own type."""

    @abc.abstractmethod
    def invocation(self, tensors: Sequence[np.ndarray]) -> Callable[[], Any]:
        """What runs the file on its inputs, by position, as often as it is called."""

    @abc.abstractmethod
    def values(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Float images `[n, H, W, C]` in, {output: float values} out, whatever the file's layout and types."""

    @abc.abstractmethod
    def partitions(self) -> Partitions | None:
        """How much of it XNNPACK takes over; None where it cannot take any."""

    def _unusable(self, error: Exception) -> ValueError:
        count = len(self.content) if self.path is None else self.path.stat().st_size
        return ValueError(
            f"A {self.suffix} file must be one that {self.runtime} can run. Received: {self.name} ({count:,} bytes): "
            f"{str(error).strip()[:1000]}"
        )

    def _shape(self, shape: list[int]) -> list[int]:
        """The input's shape with one image, and `size` where height and width are open."""
        fixed = [1 if place == 0 and side < 0 else side for place, side in enumerate(shape)]
        layout = layout_of(shape) or Layout()
        if len(fixed) == 4 and self.size:
            if any(side not in (-1, self.size) for side in layout.sides(fixed)):
                raise ValueError(f"size={self.size} for the fixed input {shape}. Leave out size= (--size)")
            first = 2 if layout.channels_first else 1
            fixed[first : first + 2] = self.size, self.size
        if min(fixed, default=0) < 0:
            raise ValueError(f"the input {shape} without a size. Pass size= (--size)")
        return fixed

    def input(self, how: str | None = None, *, otherwise: Normalization | None = None) -> Input:
        """How pixels become its first input, as `input_of`; `otherwise` where its metadata does not say it."""
        details = self.inputs[0]
        scales = details["quantization_parameters"]["scales"]
        if len(scales) > 1:
            raise ValueError(
                f"A quantized input must have one scale. Received: {self.name} with {len(scales)}, one for each channel, which "
                f"LiteRT's kernels take of weights only. Quantize the model again, with one scale for its input"
            )
        said = None if how is not None else self.normalization or otherwise
        layout = layout_of([int(side) for side in details["shape"]]) or Layout()
        return input_of(self.name, details["dtype"], details["quantization"], how=how, said=said, layout=layout)

    @property
    def batch(self) -> int:
        """How many images it takes at once."""
        return int(self.inputs[0]["shape"][0])


class TfliteFile(ModelFile):
    """A `.tflite`, run by LiteRT.

    Example:
        file = keras_mnasnet.export.TfliteFile("a1.tflite")
        print(file.facts.operators, file.labels, file.partitions().whole)
    """

    suffix, runtime = ".tflite", "LiteRT"

    # What is in it

    @functools.cached_property
    def facts(self) -> GraphFacts:
        """Operators, types, inputs, outputs and signatures, from the file's tables."""
        content = self.content
        if content[4:8] != TFLITE_MARK:
            from keras_mnasnet.weights.formats.content import HEAD, check_tflite

            check_tflite(self.name, content[:HEAD], len(content))
        try:
            if len(content) < MINIMUM_BYTES:
                raise ValueError("it is cut short")
            return _facts(content)
        except DAMAGE as error:
            raise ValueError(
                f"A .tflite file must be whole. Received: {self.name} ({len(content):,} bytes): {error}"
            ) from error

    @functools.cached_property
    def texts(self) -> dict[str, str]:
        """The text files behind the graph, where the task libraries look for them; none where they cannot be read."""
        from keras_mnasnet.weights.formats.tflite import texts_behind

        return texts_behind(self.content)

    @functools.cached_property
    def normalization(self) -> Normalization | None:
        """What its metadata does to pixels of its first input."""
        from keras_mnasnet.weights.formats.tflite import metadata_normalization

        return metadata_normalization(self.content)

    # Running it

    @staticmethod
    def load_runtime() -> Any:
        """LiteRT's Interpreter."""
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter

    @functools.cached_property
    def interpreter(self) -> Any:
        """LiteRT's interpreter with tensors of one image, or of the file's own batch, allocated."""
        source = {"model_content": self.content} if self.path is None else {"model_path": str(self.path)}
        try:
            with held_stderr():
                made = self.load_runtime()(**source, num_threads=self.threads)
                if not made.get_input_details() or not made.get_output_details():
                    raise ValueError("it has no input or no output")
                for details in made.get_input_details():
                    shape = self._shape([int(side) for side in details["shape_signature"]])
                    if shape != [int(side) for side in details["shape"]]:
                        made.resize_tensor_input(details["index"], shape)
                    if math.prod(shape) > MOST_VALUES:
                        raise ValueError(f"an input of the shape {shape}")
                made.allocate_tensors()
        except (ValueError, RuntimeError, LookupError, TypeError, OverflowError, MemoryError) as error:
            raise self._unusable(error) from error
        return made

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """LiteRT's details of the inputs, by position."""
        return self.interpreter.get_input_details()

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """LiteRT's details of the outputs, by position."""
        return self.interpreter.get_output_details()

    def quantized(self, values: np.ndarray) -> np.ndarray:
        """Float values as its first input holds them."""
        return _quantized(values, self.inputs[0])

    def run(self, tensor: np.ndarray) -> list[np.ndarray]:
        """The outputs by position, in their own types, for its one input in its own type."""
        self.interpreter.set_tensor(self.inputs[0]["index"], tensor)
        try:
            self.interpreter.invoke()
        except RuntimeError as error:
            raise self._unusable(error) from error
        return [self.interpreter.get_tensor(each["index"]) for each in self.outputs]

    def invocation(self, tensors: Sequence[np.ndarray]) -> Callable[[], None]:
        """What runs the file on its inputs, by position, as often as it is called."""
        for details, tensor in zip(self.inputs, tensors, strict=True):
            self.interpreter.set_tensor(details["index"], tensor)
        return self.interpreter.invoke

    def values(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """By its signature: float images `[n, H, W, C]` in, {output: float values} out, whatever the file's types."""
        ((name, taken),) = self._signature.get_input_details().items()
        given = self._signature.get_output_details()
        parts = []
        for start in range(0, len(images), self.batch):
            chunk = images[start : start + self.batch]
            filled = np.concatenate([chunk, np.repeat(chunk[-1:], self.batch - len(chunk), axis=0)])
            found = self._signature(**{name: _quantized(filled, taken)})
            parts.append({key: real_values(found[key], given[key])[: len(chunk)] for key in found})
        return {key: np.concatenate([part[key] for part in parts]) for key in given}

    @functools.cached_property
    def _signature(self) -> Any:
        return self.interpreter.get_signature_runner()

    @property
    def batch(self) -> int:
        """How many images it takes at once."""
        return max(self.facts.inputs[0].shape[0], 1)

    def partitions(self, *, until: str | None = None) -> Partitions:
        """How much of it XNNPACK takes over; with `until`, an operator's name, of what that one's inputs depend on."""
        return partitions_of(self.interpreter, until=until)


def _quantized(values: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    scale, zero = details["quantization"]
    dtype = np.dtype(details["dtype"])
    if dtype.kind not in "iu":
        return np.ascontiguousarray(values, dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values / (scale or 1)) + zero, limits.min, limits.max).astype(dtype)


def real_values(values: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    scale, zero = details["quantization"]
    return (values.astype(np.float32) - zero) * np.float32(scale) if scale else values.astype(np.float32)


def _facts(content: bytes) -> GraphFacts:
    from ai_edge_litert import schema_py_generated as schema

    from keras_mnasnet.weights.formats.tflite import metadata_of

    model = schema.Model.GetRootAs(content, 0)
    if model.SubgraphsLength() < 1:
        raise ValueError("it has no graph")
    type_names = {value: name.lower() for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    codes = [_operator_name(model.OperatorCodes(index), kinds) for index in range(model.OperatorCodesLength())]
    check_limit("members", model.SubgraphsLength(), "A .tflite file")
    graphs = [model.Subgraphs(number) for number in range(model.SubgraphsLength())]
    check_limit("graph", sum(graph.TensorsLength() + graph.OperatorsLength() for graph in graphs), "A .tflite file")
    operators: collections.Counter[str] = collections.Counter()
    output_types: collections.Counter[str] = collections.Counter()
    constants: collections.Counter[str] = collections.Counter()
    floating: collections.Counter[str] = collections.Counter()
    for graph in graphs:
        types = []
        for tensor in (graph.Tensors(index) for index in range(graph.TensorsLength())):
            types.append(type_names[tensor.Type()])
            buffer = model.Buffers(tensor.Buffer())
            size = buffer.Size() if buffer.Offset() > 1 else buffer.DataLength()
            if size:
                constants[types[-1]] += size
        for index in range(graph.OperatorsLength()):
            operator = graph.Operators(index)
            kind = codes[operator.OpcodeIndex()]
            operators[kind] += 1
            outputs = [types[tensor] for tensor in operator.OutputsAsNumpy() if tensor >= 0]
            inputs = [types[tensor] for tensor in operator.InputsAsNumpy() if tensor >= 0] if operator.InputsLength() else []
            output_types.update(outputs)
            if kind not in BOUNDARY and {"float32", "float16"} & {*inputs, *outputs}:
                floating[kind] += 1
    main = model.Subgraphs(0)
    return GraphFacts(
        operators=dict(sorted(operators.items())),
        output_types=dict(sorted(output_types.items())),
        constant_bytes=dict(sorted(constants.items())),
        custom=tuple(sorted({name for name in codes if name.startswith("CUSTOM:")})),
        floating=tuple(sorted(floating)),
        inputs=tuple(_port(main.Tensors(int(index)), type_names) for index in main.InputsAsNumpy()),
        outputs=tuple(_port(main.Tensors(int(index)), type_names) for index in main.OutputsAsNumpy()),
        signatures=_signatures(model),
        bytes=len(content),
        half=all(metadata_of(content, name) == value for name, value in HALF.items()),
    )


def _operator_name(code: Any, kinds: Mapping[int, str]) -> str:
    builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    name = kinds.get(builtin, f"BUILTIN_{builtin}")
    return f"CUSTOM:{(code.CustomCode() or b'?').decode()}" if name == "CUSTOM" else name


def _port(tensor: Any, type_names: Mapping[int, str]) -> Port:
    shape = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() else tensor.ShapeAsNumpy()
    quantization = tensor.Quantization()
    one = quantization is not None and quantization.ScaleLength() == 1
    return Port(
        name=(tensor.Name() or b"").decode(),
        shape=tuple(int(side) for side in np.atleast_1d(shape)) if tensor.ShapeLength() else (),
        dtype=type_names[tensor.Type()],
        scale=float(quantization.Scale(0)) if one else None,
        zero_point=int(quantization.ZeroPoint(0)) if one else None,
    )


def _signatures(model: Any) -> dict[str, dict[str, list[str]]]:
    found = {}
    for index in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(index)
        found[(signature.SignatureKey() or b"").decode()] = {
            "inputs": [signature.Inputs(number).Name().decode() for number in range(signature.InputsLength())],
            "outputs": [signature.Outputs(number).Name().decode() for number in range(signature.OutputsLength())],
        }
    return found
