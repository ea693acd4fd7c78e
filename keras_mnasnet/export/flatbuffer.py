"""Writing a `.tflite` without TensorFlow: a flatbuffer of tensors and operators, two of them as one, and its metadata.

Metadata is the FlatBuffer that Android's and MediaPipe's task libraries read (schema: tensorflow/tflite-support
metadata_schema.fbs, identifier M001; only what those libraries use is written), with its files appended as a zip.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_mnasnet.export.file import HALF, LABELS, REPORT
from keras_mnasnet.preprocessing import Normalization

ALIGNMENT = 16
FILE_IDENTIFIER = b"TFL3"
TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.uint8): schema.TensorType.UINT8,
}
PLACEHOLDER_CODE = 127  # what `deprecated_builtin_code` holds for newer operators


class _Buffer(schema.BufferT):
    """A buffer whose bytes begin at a multiple of 16, which the schema asks for and its Python class does not do."""

    def Pack(self, builder: Any) -> Any:
        vector = None
        if self.data is not None:
            builder.StartVector(1, self.data.nbytes, ALIGNMENT)
            builder.head -= self.data.nbytes
            np.ndarray(self.data.shape, self.data.dtype, builder.Bytes, builder.head)[...] = self.data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


class ModelWriter:
    """Collects tensors and operators of one subgraph; `finish` gives the file's bytes."""

    def __init__(self) -> None:
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [_Buffer()]
        self._operators: list[Any] = []
        self._codes: dict[tuple[int, int, str | None], int] = {}

    def tensor(
        self, name: str, shape: Sequence[int], dtype: Any = np.float32, data: np.ndarray | None = None,
        scale: np.ndarray | float | None = None, zero_point: int = 0, axis: int = 0,
    ) -> int:  # fmt: skip
        """Add a tensor, constant if it has `data`; `scale` (one, or one per channel of `axis`) makes it a quantized one."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, [int(side) for side in shape], TYPES[np.dtype(dtype)]
        tensor.hasRank = True
        if data is not None:
            tensor.buffer = len(self._buffers)
            self._buffers.append(aligned(np.asarray(data, dtype)))
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            quantization = schema.QuantizationParametersT()
            quantization.scale = scales
            quantization.zeroPoint = np.full(len(scales), zero_point, np.int64)
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def operator(self, name: str, inputs: Sequence[int], outputs: Sequence[int], version: int = 1, options: Any = None) -> None:
        """Add an operator by its builtin name (`CONV_2D`); `options` is the schema's options object."""
        code = getattr(schema.BuiltinOperator, name)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes.setdefault((code, version, None), len(self._codes))
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self._operators.append(operator)

    def custom(self, name: str, inputs: Sequence[int], outputs: Sequence[int], options: bytes) -> None:
        """Add a custom operator; `options` is its FlexBuffer."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes.setdefault((schema.BuiltinOperator.CUSTOM, 1, name), len(self._codes))
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        operator.customOptions = np.frombuffer(options, np.uint8)
        self._operators.append(operator)

    def finish(
        self, inputs: Mapping[str, int], outputs: Mapping[str, int], *, description: str, metadata: Mapping[str, bytes],
        signature: str = "serving_default",
    ) -> bytes:  # fmt: skip
        """The file: `inputs` and `outputs` are the signature's names with their tensors."""
        subgraph = schema.SubGraphT()
        subgraph.name, subgraph.tensors, subgraph.operators = "main", self._tensors, self._operators
        subgraph.inputs, subgraph.outputs = list(inputs.values()), list(outputs.values())
        model = schema.ModelT()
        model.version, model.description = 3, description
        model.subgraphs, model.buffers = [subgraph], self._buffers
        model.operatorCodes = [_operator_code(*key) for key in self._codes]
        model.signatureDefs = [signature_of(signature, inputs, outputs)]
        attach(model, metadata)
        return pack(model)


def aligned(data: np.ndarray | None) -> Any:
    """A buffer of these bytes (None: an empty one) that begins at a multiple of 16."""
    buffer = _Buffer()
    buffer.data = data
    return buffer


def attach(model: Any, metadata: Mapping[str, bytes], *, without: Sequence[str] = ()) -> None:
    """Add named metadata buffers to a ModelT; they replace those of the same names, and those `without` go, too."""
    gone = {name.encode() for name in (*metadata, *without)}
    model.metadata = [entry for entry in model.metadata or () if entry.name not in gone]
    for name, content in metadata.items():
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(model.buffers)
        model.buffers.append(aligned(np.frombuffer(content, np.uint8)))
        model.metadata.append(entry)


def marked(content: bytes) -> bytes:
    """A `.tflite` with XNNPACK's entry for half precision (HALF)."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    model.buffers = [_copied(buffer) for buffer in model.buffers]
    attach(model, HALF)
    return pack(model)


def pack(model: Any) -> bytes:
    """The file of a ModelT."""
    size = sum(0 if buffer.data is None else buffer.data.nbytes for buffer in model.buffers)
    builder = flatbuffers.Builder(size + (1 << 18))
    builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
    return bytes(memoryview(builder.Bytes)[builder.Head() :])  # Output() would copy it once more


def _operator_code(code: int, version: int, custom: str | None) -> Any:
    found = schema.OperatorCodeT()
    found.customCode = custom
    found.builtinCode, found.version = code, version
    found.deprecatedBuiltinCode = min(code, PLACEHOLDER_CODE)
    return found


def signature_of(key: str, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Any:
    """A signature over {name: tensor}."""
    signature = schema.SignatureDefT()
    signature.signatureKey = key
    signature.inputs, signature.outputs = _tensor_maps(inputs), _tensor_maps(outputs)
    return signature


def _tensor_maps(named: Mapping[str, int]) -> list[Any]:
    maps = []
    for name, index in named.items():
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        maps.append(entry)
    return maps


def renamed(graph: Any, name: str, index: int) -> None:
    """Give a tensor a name; another tensor that has it gets a number."""
    for number, tensor in enumerate(graph.tensors):
        if number != index and tensor.name == name.encode():
            tensor.name = f"{name}_{number}"
    graph.tensors[index].name = name


def joined(body: bytes, tail: bytes, *, description: str, metadata: Mapping[str, bytes]) -> bytes:
    """`tail`'s inputs are `body`'s outputs of the same name, type and shape; its outputs are the result's."""
    first, second = (schema.ModelT.InitFromPackedBuf(content, 0) for content in (body, tail))
    graph, added = first.subgraphs[0], second.subgraphs[0]
    given, wanted = _ports(first.signatureDefs[0].outputs), _ports(second.signatureDefs[0].inputs)
    if set(wanted) - set(given):
        raise ValueError(f"The tail must take outputs of the body. Received: {sorted(wanted)} for {sorted(given)}")
    place = {}
    for name, index in wanted.items():
        ours, theirs = graph.tensors[given[name]], added.tensors[index]
        if (ours.type, list(ours.shape)) != (theirs.type, list(theirs.shape)):
            raise ValueError(
                f"The tail's input {name!r} must be of the body's type and shape. "
                f"Received: {theirs.type} {list(theirs.shape)} for {ours.type} {list(ours.shape)}"
            )
        place[index] = given[name]
    buffers, codes = len(first.buffers), len(first.operatorCodes)
    for index, tensor in enumerate(added.tensors):
        if index not in place:
            place[index] = len(graph.tensors)
            tensor.buffer += buffers
            graph.tensors.append(tensor)
    for operator in added.operators:
        operator.opcodeIndex += codes
        operator.inputs = [place[int(tensor)] if tensor >= 0 else -1 for tensor in operator.inputs]
        operator.outputs = [place[int(tensor)] for tensor in operator.outputs]
        graph.operators.append(operator)
    first.operatorCodes = [*first.operatorCodes, *second.operatorCodes]
    outputs = {name: place[index] for name, index in _ports(second.signatureDefs[0].outputs).items()}
    for name, index in outputs.items():
        renamed(graph, name, index)
    graph.outputs = list(outputs.values())
    first.signatureDefs = [signature_of("serving_default", _ports(first.signatureDefs[0].inputs), outputs)]
    first.description, first.metadata = description, None
    first.buffers = [_copied(buffer) for buffer in (*first.buffers, *second.buffers)]
    attach(first, metadata)
    return pack(first)


def _ports(maps: Any) -> dict[str, int]:
    return {entry.name.decode(): int(entry.tensorIndex) for entry in maps}


def _copied(buffer: Any) -> Any:
    return aligned(None if buffer.data is None else np.asarray(copy.copy(buffer.data), np.uint8))


METADATA_NAME = "TFLITE_METADATA"
IDENTIFIER = b"M001"
PARSER_VERSION, GROUPS_PARSER_VERSION = "1.0.0", "1.2.0"
FEATURE, IMAGE, BOUNDING_BOX = 1, 2, 3
BOUNDARIES, LEFT_TOP_RIGHT_BOTTOM = 1, (1, 0, 3, 2)  # where left, top, right and bottom stand in a box of the output
NORMALIZATION_OPTIONS = 1
COLORS = {1: ("Grey image", 2), 3: ("RGB image", 1)}  # by channels: a title and the number of the color space
DESCRIPTIONS, TENSOR_AXIS_LABELS, TENSOR_VALUE_LABELS = 1, 2, 3
ZIP_DATE = (1980, 1, 1, 0, 0, 0)


@dataclasses.dataclass(frozen=True, slots=True)
class _Byte:
    value: int


_Table = dict[int, Any]


def classifier_metadata(
    *, name: str, description: str, license: str, input_name: str, output_name: str, normalization: Normalization | None,
    labels: bool, shape: tuple[int, int, int],
) -> bytes:  # fmt: skip
    """The metadata of an image classifier with one input and one output; `shape` is that of an image, [H, W, C]."""
    scores: _Table = {0: output_name, 1: "One score per class", 3: _content(FEATURE, {}), 5: {0: [1.0], 1: [0.0]}}
    if labels:
        scores[6] = [_file(LABELS, "Class names, one a line", TENSOR_AXIS_LABELS)]
    graph: _Table = {0: name, 2: [_image(input_name, normalization, *shape)], 3: [scores]}
    return _finished(name, description, license, graph, PARSER_VERSION)


def detector_metadata(
    *, name: str, description: str, license: str, input_name: str, normalization: Normalization | None, size: tuple[int, int]
) -> bytes:
    """The metadata of a detector with the outputs boxes, classes, scores, count, as MediaPipe's ObjectDetector asks for it.

    Boxes are (top, left, bottom, right) as shares of height and width; classes are numbers of lines in the file of labels.
    """
    count: _Table = {0: 2, 1: 2}  # dimensions of a tensor from the second to the second: one entry for each detection
    box: _Table = {0: LEFT_TOP_RIGHT_BOTTOM, 1: _Byte(BOUNDARIES)}
    outputs: list[_Table] = [
        {0: "location", 1: "Boxes, as shares of the image", 3: {**_content(BOUNDING_BOX, box), 2: count}},
        {
            0: "category", 1: "Classes of the boxes", 3: {**_content(FEATURE, {}), 2: count},
            6: [_file(LABELS, "Class names, one a line", TENSOR_VALUE_LABELS)],
        },
        {0: "score", 1: "Scores of the boxes", 3: {**_content(FEATURE, {}), 2: count}},
        {0: "number of detections", 1: "How many boxes there are", 3: _content(FEATURE, {})},
    ]  # fmt: skip
    group: _Table = {0: "detection_result", 1: ["location", "category", "score"]}
    graph: _Table = {0: name, 2: [_image(input_name, normalization, *size)], 3: outputs, 8: [group]}
    return _finished(name, description, license, graph, GROUPS_PARSER_VERSION)


def _image(name: str, normalization: Normalization | None, height: int, width: int, channels: int = 3) -> _Table:
    title, space = COLORS.get(channels, ("Image", 0))
    image: _Table = {0: name, 1: title, 3: _content(IMAGE, {0: _Byte(space), 1: {0: width, 1: height}})}
    if normalization is not None:
        options: _Table = {0: [float(value) for value in normalization.mean], 1: [float(value) for value in normalization.std]}
        image[4] = [{0: _Byte(NORMALIZATION_OPTIONS), 1: options}]
        low, high = (
            [(limit - mean) / std for mean, std in zip(normalization.mean, normalization.std, strict=True)]
            for limit in (0, 255)
        )
        image[5] = {0: high, 1: low}
    return image


def _file(name: str, description: str, kind: int) -> _Table:
    return {0: name, 1: description, 2: _Byte(kind)}


def _finished(name: str, description: str, license: str, graph: _Table, parser_version: str) -> bytes:
    report = _file(REPORT, "How the file was made and verified", DESCRIPTIONS)
    root: _Table = {0: name, 1: description, 3: [graph], 5: license, 6: [report], 7: parser_version}
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, root), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _content(kind: int, properties: _Table) -> _Table:
    return {0: _Byte(kind), 1: properties}


def _write(builder: Any, table: _Table) -> int:
    """A table from {slot: value}: text, bytes, whole numbers, tables, and lists of one kind; its children stand before it."""
    ready = {slot: _child(builder, value) for slot, value in table.items()}
    builder.StartObject(max(ready, default=-1) + 1)
    for slot, value in ready.items():
        if isinstance(value, _Byte):
            builder.PrependUint8Slot(slot, value.value, 0)
        elif isinstance(table[slot], int):
            builder.PrependUint32Slot(slot, value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    return builder.EndObject()


def _child(builder: Any, value: Any) -> Any:
    if isinstance(value, _Byte | int):
        return value
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, dict):
        return _write(builder, value)
    kinds = {float: builder.PrependFloat32, int: builder.PrependUint32}
    items = value if type(value[0]) in kinds else [_child(builder, item) for item in value]
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        kinds.get(type(value[0]), builder.PrependUOffsetTRelative)(item)
    return builder.EndVector()


def append_files(content: bytes, files: Mapping[str, str | Sequence[str]]) -> bytes:
    """The `.tflite` with text files behind it as a zip archive, where the task libraries look for them."""
    held = io.BytesIO(content)
    with zipfile.ZipFile(held, "a", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name, ZIP_DATE)
            archive.writestr(entry, text if isinstance(text, str) else "".join(f"{line}\n" for line in text))
    return held.getvalue()
