"""A float `.tflite` in IEEE half precision, simulated in NumPy as ARM CPUs since 2018 compute a marked one.

XNNPACK then holds every map and weight in half precision and accumulates in it, too: each product is added to its sum with one
rounding to 11 bits, so that long sums lose more than their result's own rounding, and nothing may pass 65,504. The order of
the sums is XNNPACK's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from ai_edge_litert import schema_py_generated as schema

from keras_mnasnet.architecture import same_padding
from keras_mnasnet.export.file import TfliteFile
from keras_mnasnet.export.flatbuffer import marked
from keras_mnasnet.export.verify import LEAST_IMAGES, Comparison, ExportError, Limits, comparisons, judge
from keras_mnasnet.utils.text import Life

COMPUTE = ("half", "float32")
MARKABLE = ("float32", "float16", "weight-int8")  # their maps are floats, and their layers XNNPACK's
MOST_MADDS = 2e9  # that are simulated, on LEAST_IMAGES at least
CHUNK = 8  # images at once
LARGEST = 65504.0  # of half precision
SPLIT = np.float32(2**13 + 1)  # Veltkamp's, for the 13 bits that float32 has more
ROWS, WIDTH = 64, 256  # of a sum that is worked on at once, and stays in the cache
ACTIVATIONS = {0: (-np.inf, np.inf), 1: (0.0, np.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}  # by the schema's number


def rounded(x: np.ndarray, scratch: np.ndarray | None = None) -> np.ndarray:
    """Float32 values rounded to 11 bits in place; what is too large for half precision stays so."""
    scaled = np.multiply(x, SPLIT, out=scratch)
    np.subtract(scaled, x, out=x)
    return np.subtract(scaled, x, out=x)


def _fused(x: np.ndarray, y: Any, z: Any) -> np.ndarray:
    """x y + z, rounded once."""
    return rounded(np.asarray(x * y + z, np.float32))


@dataclasses.dataclass(frozen=True, slots=True)
class HalfCheck:
    """What the simulation found on `images` images; `comparisons` are with the same file in float32.

    `largest` is the largest value of any sum or map, at `largest_at`, of the 65,504 that half precision has (None: not a
    number). `reason` says why the file is not marked (None: it is).
    """

    images: int
    largest: float | None
    largest_at: str
    comparisons: tuple[Comparison, ...]
    reason: str | None


def check_compute(compute: str | None, quantize: str | None, *, tflite: bool = True) -> str:
    """What `compute` stands for: by default half for a float16 `.tflite`, else float32. ValueError for what cannot be."""
    if compute is not None and compute not in COMPUTE:
        raise ValueError(f"`compute` (--compute) must be one of {COMPUTE}. Received: compute={compute!r}")
    precision = quantize or "float32"
    if compute == "half" and not (tflite and precision in MARKABLE):
        raise ValueError(
            f"compute='half' is for .tflite files of {', '.join(MARKABLE)}. Received: {precision}"
            f"{'' if tflite else ', a .onnx file, whose runtime chooses itself'}. Leave `compute` (--compute) out"
        )
    return compute or ("half" if tflite and precision == "float16" else "float32")


def checked_half(
    content: bytes, images: np.ndarray, limits: Limits, *, asked: bool, progress: bool = False,
    further: Callable[[Mapping[str, np.ndarray], np.ndarray], None] | None = None,
) -> tuple[bytes, HalfCheck]:  # fmt: skip
    """The file marked for half precision where the simulation of it, on as many images as MOST_MADDS allow, is within `limits`.

    Where it is not: ExportError if the mark was `asked` for, else the file as it was, and a line that says so. `further` judges
    the simulated outputs of these images, too.
    """
    largest: dict[str, float] = {}
    compared: tuple[Comparison, ...] = ()
    try:
        graph = HalfGraph(content)
        images = images[: max(int(MOST_MADDS // max(graph.madds, 1)), LEAST_IMAGES)]
        largest = graph.largest
        parts = []
        with Life("simulate half precision", total=len(images), unit="image", shown=progress) as life:
            for start in range(0, len(images), CHUNK):
                parts.append(graph(images[start : start + CHUNK]))
                life.step(len(images[start : start + CHUNK]))
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        over = [name for name, value in largest.items() if not value <= LARGEST]
        if over:
            raise ExportError(f"half precision ends at {LARGEST:,.0f}, and {over[0]} reaches {largest[over[0]]:,.0f}")
        compared = comparisons(found, TfliteFile(content, name="the exported file").values(images), "half")
        judge(compared, "half", limits)
        if further is not None:
            further(found, images)
        reason = None
    except (ExportError, _Unknown) as error:
        reason = str(error).strip().removesuffix(".")
    if reason and asked:
        raise ExportError(
            f"A file that is marked must be the model in half precision, too. Received: {reason}. Write it without the mark: "
            f"compute='float32' (--compute float32)"
        )
    if reason:
        logging.warning("The file is not marked for half precision, and phones compute it in float32: %s", reason)
    at = max(largest, key=lambda name: largest[name], default="")
    peak = largest.get(at, 0.0)
    check = HalfCheck(len(images), peak if math.isfinite(peak) else None, at, compared, reason)
    return content if reason else marked(content), check


class _Unknown(ValueError):
    """What the simulation does not know."""


class HalfGraph:
    """Float images `[n, H, W, C]` in, {output: values} out, by position; ValueError names operators that it does not know.

    `largest` is the largest value of every map so far, and of the sums in it; `madds` are the multiply-adds of one image.
    """

    def __init__(self, content: bytes) -> None:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        self._graph = model.subgraphs[0]
        signature = model.signatureDefs[0].outputs if model.signatureDefs else ()
        self._names = {int(each): self._graph.tensors[each].name.decode() for each in self._graph.outputs}
        self._names |= {int(each.tensorIndex): each.name.decode() for each in signature}
        names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
        kinds = [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
        if unknown := sorted(set(kinds) - set(OPERATORS)):
            raise _Unknown(f"the simulation does not know {', '.join(unknown)}")
        self.largest: dict[str, float] = {}
        self._peak = 0.0
        self._values: dict[int, np.ndarray] = {}
        for number, tensor in enumerate(self._graph.tensors):
            if (data := model.buffers[tensor.buffer].data) is not None:
                self._values[number] = _constant(tensor, data)
        self._steps = []
        self.madds = 0
        for operator in self._graph.operators:
            kind, inputs = kinds[operator.opcodeIndex], [int(each) for each in operator.inputs if each >= 0]
            output = int(operator.outputs[0])
            if kind == "DEQUANTIZE" and inputs[0] in self._values:
                self._values[output] = self._values.pop(inputs[0])
            else:
                if kind in WEIGHTED:
                    kernel = self._weights(kind, inputs, operator.builtinOptions)
                    self.madds += kernel.size * math.prod(self._graph.tensors[output].shape[1:-1])
                self._steps.append((OPERATORS[kind], operator.builtinOptions, inputs, output))

    def _weights(self, kind: str, inputs: list[int], options: Any) -> np.ndarray:
        """The kernel of a layer; one without a bias gets zeros."""
        kernel, filters = self._values.get(inputs[1]), -1 if kind == "DEPTHWISE_CONV_2D" else 0
        channels = (
            1 if kernel is None or kind == "FULLY_CONNECTED" else self._graph.tensors[inputs[0]].shape[-1] / kernel.shape[-1]
        )
        dilation = getattr(options, "dilationHFactor", 1), getattr(options, "dilationWFactor", 1)
        if kernel is None or channels != 1 or dilation != (1, 1):
            raise _Unknown(f"the simulation does not know {kind} of groups, with dilation or with a kernel that is computed")
        if len(inputs) < 3:
            inputs.append(-2 - inputs[1])
            self._values[inputs[2]] = np.zeros(kernel.shape[filters], np.float32)
        return kernel

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        last = {each: number for number, (*_, inputs, _) in enumerate(self._steps) for each in inputs}
        maps = {int(self._graph.inputs[0]): rounded(np.array(images, np.float32))}
        for number, (compute, options, inputs, output) in enumerate(self._steps):
            self._peak = 0.0
            activation = getattr(options, "fusedActivationFunction", 0)
            name = self._graph.tensors[output].name.decode()
            try:
                found = compute(self, options, *(maps[each] if each in maps else self._values[each] for each in inputs))
            except (ValueError, TypeError, LookupError) as error:  # of a form of the operator that no layer of ours has
                raise _Unknown(f"the simulation cannot compute {name}: {error}") from error
            self.largest[name] = max(self.largest.get(name, 0.0), self._peak, float(np.abs(found).max()))
            maps[output] = np.clip(found, *ACTIVATIONS[activation]) if activation else found
            for each in inputs:
                if last[each] == number:
                    maps.pop(each, None)
        return {self._names[int(each)]: maps[int(each)] for each in self._graph.outputs}

    def _sums(self, rows: np.ndarray, lines: np.ndarray, start: np.ndarray) -> np.ndarray:
        """start + sum over k of rows[k, a] lines[k, b], in the order of k: `[A, B]`, fastest where B is large."""
        found = np.empty((rows.shape[1], lines.shape[1]), np.float32)
        start = np.broadcast_to(start, found.shape)
        watched = float((np.abs(rows).T @ np.abs(lines) + np.abs(start)).max()) > LARGEST
        for top in range(0, len(found), ROWS):
            for left in range(0, found.shape[1], WIDTH):
                place = np.s_[top : top + ROWS, left : left + WIDTH]
                total = start[place].copy()
                scratch = np.empty_like(total)
                for row, line in zip(rows[:, place[0], None], lines[:, None, place[1]], strict=True):
                    np.multiply(row, line, out=scratch)
                    total += scratch
                    rounded(total, scratch)
                    if watched:
                        self._peak = max(self._peak, float(np.abs(total).max()))
                found[place] = total
        return found

    def _matrix(self, columns: np.ndarray, kernel: np.ndarray, bias: np.ndarray, *, of_pixel: bool) -> np.ndarray:
        """`[K, M]`, `[K, N]` and `[N]` -> `[M, N]`; of an image of one pixel XNNPACK has four sums."""
        if of_pixel:
            whole = len(columns) - len(columns) % 4
            of_first = np.r_[0:whole:4, whole : len(columns)]
            places = [of_first, *(np.arange(first, whole, 4) for first in (1, 2, 3))]
            starts = [bias, *(np.zeros_like(bias) for _ in range(3))]
            one, two, three, four = (
                self._matrix(columns[place], kernel[place], start, of_pixel=False)
                for place, start in zip(places, starts, strict=True)
            )
            return rounded(rounded(one + two) + rounded(three + four))
        if columns.shape[1] < kernel.shape[1]:
            return self._sums(columns, kernel, bias)
        return np.ascontiguousarray(self._sums(kernel, columns, bias[:, None]).T)

    def _dense(self, options: Any, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
        columns = np.ascontiguousarray(x.reshape(-1, kernel.shape[1]).T)
        found = self._matrix(columns, np.ascontiguousarray(kernel.T), bias, of_pixel=len(columns[0]) == len(x))
        return found.reshape(*x.shape[:-1], -1) if options.keepNumDims else found

    def _conv(self, options: Any, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
        filters, height, width, channels = kernel.shape
        views = _windows(x, options, height, width)
        columns = np.concatenate([np.ascontiguousarray(view.reshape(-1, channels).T) for view in views])
        kernel = np.ascontiguousarray(kernel.transpose(1, 2, 3, 0).reshape(-1, filters))
        found = self._matrix(columns, kernel, bias, of_pixel=views[0].shape[1:3] == (1, 1))
        return found.reshape(*views[0].shape[:3], filters)

    def _depthwise(self, options: Any, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
        _, height, width, channels = kernel.shape
        views = _windows(x, options, height, width)
        order = [row * width + column for column in range(width) for row in range(height)]
        taps = kernel.reshape(-1, channels)
        watched = float(np.abs(x).max() * np.abs(taps).sum(axis=0).max() + np.abs(bias).max()) > LARGEST
        sums = [np.broadcast_to(bias, views[0].shape).copy()]
        scratch = np.empty_like(sums[0])
        for place, tap in enumerate(order):
            if len(order) > 9 and place == 1:  # XNNPACK has two sums then
                sums.append(rounded(views[tap] * taps[tap]))
                continue
            total = sums[place % len(sums)]
            np.multiply(views[tap], taps[tap], out=scratch)
            total += scratch
            rounded(total, scratch)
            if watched:
                self._peak = max(self._peak, float(np.abs(total).max()))
        return sums[0] if len(sums) == 1 else rounded(sums[0] + sums[1])

    def _mean(self, options: Any, x: np.ndarray, axes: np.ndarray) -> np.ndarray:
        return rounded(x.mean(axis=tuple(int(axis) for axis in axes.reshape(-1)), keepdims=options.keepDims))

    def _max_pool(self, options: Any, x: np.ndarray) -> np.ndarray:
        return np.max(_windows(x, options, options.filterHeight, options.filterWidth, fill=-np.inf), axis=0)

    def _logistic(self, options: Any, x: np.ndarray) -> np.ndarray:
        """1 / (1 + exp(-|x|)) as XNNPACK has it: 2^n, a polynomial, and of the reciprocal an estimate and Newton's step."""
        z = np.abs(x)
        n = _fused(z, -1.4423828125, 1551) - 1551  # whole numbers, since half has none between at 1551
        t = _fused(n, -0.00021219253540039062, _fused(n, 0.693359375, z))
        power = np.exp2(n)
        e = _fused(_fused(t, 0.498291015625, -1.013671875), rounded(t * power), power)
        d = rounded(e + 1)
        estimate = ((2**19 // (2 * np.floor(256 * d) + 1) + 1) // 2 / 512).astype(np.float32)
        e = rounded(e * _fused(_fused(-estimate, d, 1), estimate, estimate))
        e[z > 9.703125] = 0
        return np.where(x < 0, e, rounded(1 - e))

    def _softmax(self, options: Any, x: np.ndarray) -> np.ndarray:
        powers = rounded(np.exp(x - x.max(axis=-1, keepdims=True)))
        return rounded(powers / powers.sum(axis=-1, keepdims=True))


def _constant(tensor: Any, data: np.ndarray) -> np.ndarray:
    """A constant's real values, floats rounded to half."""
    dtype = np.dtype({0: "f4", 1: "f2", 2: "i4", 4: "i8", 9: "i1"}[tensor.type])
    values = np.frombuffer(np.asarray(data, np.uint8).tobytes(), dtype).reshape(tensor.shape)
    scales = None if tensor.quantization is None else tensor.quantization.scale
    if dtype.kind == "i" and (scales is None or not len(scales)):
        return values
    if dtype.kind == "i":
        sides = [-1 if axis == tensor.quantization.quantizedDimension else 1 for axis in range(values.ndim)]
        values = values * np.asarray(scales, np.float32).reshape(sides)
    return rounded(values.astype(np.float32))


def _windows(x: np.ndarray, options: Any, height: int, width: int, fill: float = 0.0) -> Sequence[np.ndarray]:
    """What each place of a window `[height, width]` sees, `[n, H, W, C]` each, by rows."""
    strides = options.strideH, options.strideW
    sides = [(0, 0)] * 2
    if options.padding == schema.Padding.SAME:
        sides = [
            same_padding(side, kernel, stride)
            for side, kernel, stride in zip(x.shape[1:3], (height, width), strides, strict=True)
        ]
    x = np.pad(x, ((0, 0), *sides, (0, 0)), constant_values=fill)
    rows, columns = (
        (side - kernel) // stride + 1 for side, kernel, stride in zip(x.shape[1:3], (height, width), strides, strict=True)
    )
    return [
        x[:, row :: strides[0], column :: strides[1]][:, :rows, :columns] for row in range(height) for column in range(width)
    ]


def _plain(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """An operator that rounds its result once."""
    return lambda graph, options, *inputs: rounded(np.array(function(*inputs), np.float32))


WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
OPERATORS: dict[str, Callable[..., np.ndarray]] = {
    "CONV_2D": HalfGraph._conv, "DEPTHWISE_CONV_2D": HalfGraph._depthwise, "FULLY_CONNECTED": HalfGraph._dense,
    "MEAN": HalfGraph._mean, "MAX_POOL_2D": HalfGraph._max_pool, "SOFTMAX": HalfGraph._softmax,
    "ADD": _plain(np.add), "SUB": _plain(np.subtract), "MUL": _plain(np.multiply), "DIV": _plain(np.divide),
    "MAXIMUM": _plain(np.maximum), "MINIMUM": _plain(np.minimum),
    "LOGISTIC": HalfGraph._logistic, "HARD_SWISH": _plain(lambda x: x * np.clip(x + 3, 0, 6) / 6),
    "RELU": _plain(lambda x: np.maximum(x, 0)), "RELU6": _plain(lambda x: np.clip(x, 0, 6)),
    "PAD": lambda graph, options, x, sides: np.pad(x, sides),
    "RESHAPE": lambda graph, options, x, shape=None: x.reshape(len(x), *(options.newShape if shape is None else shape)[1:]),
    "CONCATENATION": lambda graph, options, *parts: np.concatenate(parts, axis=options.axis),
    "DEQUANTIZE": lambda graph, options, x: x,
}  # fmt: skip
