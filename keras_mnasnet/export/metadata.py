"""TFLite model metadata: the FlatBuffer that Android's and MediaPipe's task libraries read, with its files appended as a zip.

Schema: tensorflow/tflite-support metadata_schema.fbs, identifier M001. Only what those libraries use is written.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers

from keras_mnasnet.export.file import LABELS, REPORT
from keras_mnasnet.preprocessing import Normalization

__all__ = ["METADATA_NAME", "append_files", "classifier_metadata", "detector_metadata"]

METADATA_NAME = "TFLITE_METADATA"
IDENTIFIER = b"M001"
PARSER_VERSION, GROUPS_PARSER_VERSION = "1.0.0", "1.2.0"
FEATURE, IMAGE, BOUNDING_BOX = 1, 2, 3
BOUNDARIES, LEFT_TOP_RIGHT_BOTTOM = 1, (1, 0, 3, 2)  # where left, top, right and bottom stand in a box of the output
NORMALIZATION_OPTIONS = 1
RGB = 1
DESCRIPTIONS, TENSOR_AXIS_LABELS, TENSOR_VALUE_LABELS = 1, 2, 3
ZIP_DATE = (1980, 1, 1, 0, 0, 0)


@dataclasses.dataclass(frozen=True, slots=True)
class _Byte:
    value: int


_Table = dict[int, Any]


def classifier_metadata(
    *, name: str, description: str, licence: str, input_name: str, output_name: str, normalization: Normalization | None,
    labels: bool, size: tuple[int, int],
) -> bytes:  # fmt: skip
    """The metadata of an image classifier with one input and one output; `size` is (height, width) in pixels."""
    scores: _Table = {0: output_name, 1: "One score per class", 3: _content(FEATURE, {}), 5: {0: [1.0], 1: [0.0]}}
    if labels:
        scores[6] = [_file(LABELS, "Class names, one a line", TENSOR_AXIS_LABELS)]
    graph: _Table = {0: name, 2: [_image(input_name, normalization, size)], 3: [scores]}
    return _finished(name, description, licence, graph, PARSER_VERSION)


def detector_metadata(
    *, name: str, description: str, licence: str, input_name: str, normalization: Normalization | None, size: tuple[int, int]
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
    graph: _Table = {0: name, 2: [_image(input_name, normalization, size)], 3: outputs, 8: [group]}
    return _finished(name, description, licence, graph, GROUPS_PARSER_VERSION)


def _image(name: str, normalization: Normalization | None, size: tuple[int, int]) -> _Table:
    image: _Table = {0: name, 1: "RGB image", 3: _content(IMAGE, {0: _Byte(RGB), 1: {0: size[1], 1: size[0]}})}
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


def _finished(name: str, description: str, licence: str, graph: _Table, parser_version: str) -> bytes:
    report = _file(REPORT, "How the file was made and verified", DESCRIPTIONS)
    root: _Table = {0: name, 1: description, 3: [graph], 5: licence, 6: [report], 7: parser_version}
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
    if isinstance(value[0], float):
        builder.StartVector(4, len(value), 4)
        for item in reversed(value):
            builder.PrependFloat32(item)
        return builder.EndVector()
    if isinstance(value[0], int):
        builder.StartVector(4, len(value), 4)
        for item in reversed(value):
            builder.PrependUint32(item)
        return builder.EndVector()
    offsets = [_child(builder, item) for item in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def append_files(content: bytes, files: Mapping[str, str | Sequence[str]]) -> bytes:
    """The `.tflite` with text files behind it as a zip archive, where the task libraries look for them."""
    held = io.BytesIO(content)
    with zipfile.ZipFile(held, "a", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name, ZIP_DATE)
            archive.writestr(entry, text if isinstance(text, str) else "".join(f"{line}\n" for line in text))
    return held.getvalue()
