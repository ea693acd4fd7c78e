"""A `.onnx`: what is in it, and running it on ONNX Runtime, by the packages of the extra `[onnx]`. Nothing else opens one."""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_mnasnet.export.file import DAMAGE, MOST_VALUES, GraphFacts, ModelFile, Port, layout_of
from keras_mnasnet.preprocessing import Normalization
from keras_mnasnet.weights.formats.onnx import damaged, normalization_in, package, parsed, texts_in

BOUNDARY = ("QuantizeLinear", "DequantizeLinear")
AFTERWARDS = ("Relu", "Softmax")  # of an int8 operator's own output: a Relu becomes its lowest value
STANDARD = ("", "ai.onnx")


def with_texts(content: bytes, texts: Mapping[str, str | Sequence[str]]) -> bytes:
    """The file with further texts, or lines, in its metadata: two messages of protobuf, one behind the other, are one."""
    behind = package("onnx").ModelProto()
    lines = {name: text if isinstance(text, str) else "".join(f"{line}\n" for line in text) for name, text in texts.items()}
    package("onnx").helper.set_model_props(behind, lines)
    return content + bytes(behind.SerializeToString())


class OnnxFile(ModelFile):
    """A `.onnx`, run by ONNX Runtime on the CPU.

    Example:
        file = keras_mnasnet.export.OnnxFile("a1.onnx")
        print(file.facts.operators, file.labels)
    """

    suffix, runtime = ".onnx", "ONNX Runtime"

    # What is in it

    @functools.cached_property
    def model(self) -> Any:
        """The file's ModelProto, which holds its weights itself."""
        return parsed(self.content, self.name)

    @functools.cached_property
    def facts(self) -> GraphFacts:
        """Operators, types, inputs and outputs, from the file's tables."""
        try:
            return _facts(self.model, len(self.content))
        except DAMAGE as error:  # names that are no text, types that do not exist
            raise damaged(self.content, self.name, error) from error

    @functools.cached_property
    def texts(self) -> dict[str, str]:
        """Its metadata."""
        return texts_in(self.model)

    @functools.cached_property
    def normalization(self) -> Normalization | None:
        """What its metadata does to pixels of its first input, where this package wrote it."""
        return normalization_in(self.texts)

    # Running it

    @staticmethod
    def load_runtime() -> Any:
        """ONNX Runtime, and what its files are read with."""
        package("onnx")
        return package("onnxruntime")

    @functools.cached_property
    def session(self) -> Any:
        """ONNX Runtime's session."""
        runtime = self.load_runtime()
        _ = self.facts  # our reader goes first
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 4  # what is wrong is raised
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # on which it says that it tries again
                return runtime.InferenceSession(self.content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its kinds have no common one
            raise self._unusable(error) from error

    @functools.cached_property
    def inputs(self) -> list[dict[str, Any]]:
        """Its inputs by position, with one image, as LiteRT describes them."""
        constant = {each.name for each in self.model.graph.initializer}
        found = [_details(each) for each in self.model.graph.input if each.name not in constant]
        try:
            if not found:
                raise ValueError("it has no input")
            for each in found:
                each["shape"] = self._shape(each["shape"])
                if math.prod(each["shape"]) > MOST_VALUES:
                    raise ValueError(f"an input of the shape {each['shape']}")
        except ValueError as error:
            raise self._unusable(error) from error
        return found

    @functools.cached_property
    def outputs(self) -> list[dict[str, Any]]:
        """Its outputs by position; open sides are negative."""
        return [_details(each) for each in self.model.graph.output]

    def run(self, tensor: np.ndarray) -> list[np.ndarray]:
        """The outputs by position, in their own types, for its one input in its own type."""
        return self.invocation([tensor])()

    def invocation(self, tensors: Sequence[np.ndarray]) -> Callable[[], list[np.ndarray]]:
        """What runs the file on its inputs, by position, as often as it is called."""
        session, given = self.session, {each["name"]: tensor for each, tensor in zip(self.inputs, tensors, strict=True)}

        def invoke() -> list[np.ndarray]:
            try:
                return session.run(None, given)
            except Exception as error:  # its kinds have no common one
                raise self._unusable(error) from error

        return invoke

    def partitions(self) -> None:
        """XNNPACK runs none of it."""

    def values(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Float images `[n, H, W, C]` in, {output: values} out."""
        (details,) = self.inputs
        layout = layout_of(details["shape"])
        parts = []
        for start in range(0, len(images), self.batch):
            chunk = images[start : start + self.batch]
            filled = np.concatenate([chunk, np.repeat(chunk[-1:], self.batch - len(chunk), axis=0)])
            given = filled if layout is None else layout(filled)
            parts.append([found[: len(chunk)] for found in self.run(np.ascontiguousarray(given, details["dtype"]))])
        return {each["name"]: np.concatenate([part[place] for part in parts]) for place, each in enumerate(self.outputs)}


def _facts(model: Any, size: int) -> GraphFacts:
    nodes = model.graph.node
    integers, restored, floating = set[str](), set[str](), set[str]()  # behind integers; behind DequantizeLinear itself
    for node in nodes:
        if node.op_type in BOUNDARY:
            integers.update(node.output)
            restored.update(node.output if node.op_type == "DequantizeLinear" else ())
        elif integers.intersection(node.input):
            integers.update(node.output)
            if not restored.issuperset(filter(None, node.input)) and node.op_type not in AFTERWARDS:
                floating.add(node.op_type)
    operators = collections.Counter(node.op_type for node in nodes)
    constants: collections.Counter[str] = collections.Counter()
    for each in model.graph.initializer:
        dtype = _dtype(each.data_type)
        constants[dtype.name] += math.prod(each.dims) * dtype.itemsize
    held = {each.name for each in model.graph.initializer}
    return GraphFacts(
        operators=dict(sorted(operators.items())),
        output_types={},
        constant_bytes=dict(sorted(constants.items())),
        custom=tuple(sorted({f"{node.domain}:{node.op_type}" for node in nodes if node.domain not in STANDARD})),
        floating=tuple(sorted(floating if "QuantizeLinear" in operators else operators)),
        inputs=tuple(_port(each) for each in model.graph.input if each.name not in held),
        outputs=tuple(_port(each) for each in model.graph.output),
        signatures={},
        bytes=size,
    )


def _dtype(number: int) -> np.dtype:
    """NumPy's type of a type of ONNX; ValueError for one that holds no numbers."""
    try:
        found = np.dtype(package("onnx").helper.tensor_dtype_to_np_dtype(number))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no tensor of numbers, but of the type {number}") from error
    if found.kind == "O":
        raise ValueError("a tensor of texts")
    return found


def _port(value: Any) -> Port:
    tensor = value.type.tensor_type
    shape = tuple(each.dim_value if each.HasField("dim_value") else -1 for each in tensor.shape.dim)
    return Port(value.name, shape, _dtype(tensor.elem_type).name, None, None)


def _details(value: Any) -> dict[str, Any]:
    """An input or output as LiteRT's interpreter describes it."""
    return {
        "name": value.name, "shape": list(_port(value).shape), "dtype": _dtype(value.type.tensor_type.elem_type).type,
        "quantization": (0.0, 0), "quantization_parameters": {"scales": ()},
    }  # fmt: skip
