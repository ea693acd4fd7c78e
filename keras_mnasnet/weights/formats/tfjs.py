"""Graph models of TensorFlow.js: `model.json` and the shards beside it. No TensorFlow.

Source: the converter's write_weights.py (how shards hold the weights, one behind the other) and its quantization.
"""

from __future__ import annotations

import base64
import math
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from keras_mnasnet.utils.reading import (
    LARGEST_MODEL,
    check_growth,
    check_limit,
    fields_of,
    read_bytes,
    read_json,
    record,
    shown,
    texts,
)
from keras_mnasnet.weights.checkpoint import CheckpointError
from keras_mnasnet.weights.formats.graph import Graph
from keras_mnasnet.weights.formats.graphdef import DAMAGE, Node, graph_of

STORED = {"float32": "<f4", "float16": "<f2", "int32": "<i4", "uint8": "u1", "uint16": "<u2", "bool": "u1"}


def read_tfjs(path: Path) -> Graph:
    """The graph of a `model.json`, its weights from its shards. CheckpointError for one that is missing, and other damage."""
    try:
        value = read_json(path, "A model.json")
        if isinstance(value, dict) and value.get("format") == "layers-model":
            raise CheckpointError(
                f"A model.json must be a graph model of TensorFlow.js. Received: {path}, a layers model. Make one of it: "
                f"tensorflowjs_converter --input_format=tfjs_layers_model --output_format=tfjs_graph_model {path.name} FOLDER"
            )
        said = fields_of(value, "A model.json", modelTopology=dict[str, Any], weightsManifest=list[dict[str, Any]])
        nodes = fields_of(said["modelTopology"], "The topology of a model.json", node=list[dict[str, Any]])["node"]
        check_limit("nodes", len(nodes), "A graph of TensorFlow")
        constants: dict[str, np.ndarray] = {}
        quantized: set[str] = set()
        paths = [path for group in said["weightsManifest"] for path in texts(group.get("paths", ()))]
        if len(set(paths)) < len(paths):
            raise ValueError("a shard that is named twice")
        for group in said["weightsManifest"]:
            _read_group(path, group, constants, quantized)
        notes = (f"its weights were dequantized from {', '.join(sorted(quantized))}",) if quantized else ()
        return graph_of(path, "tfjs", [_node(node) for node in nodes], constants, notes)
    except CheckpointError:
        raise
    except DAMAGE as error:
        raise CheckpointError(
            f"A model.json must be a whole graph model of TensorFlow.js. Received: {path}: {str(error)[:300]}"
        ) from error


def _read_group(path: Path, group: dict[str, Any], constants: dict[str, np.ndarray], quantized: set[str]) -> None:
    """Adds the weights of one group of shards, which stand one behind the other."""
    said = fields_of(group, "A group of weights", paths=list[str], weights=list[dict[str, Any]])
    check_limit("files", len(said["paths"]), "A group of weights")
    shards: list[bytes] = []
    for name in said["paths"]:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name or len(name) > 1000:
            raise CheckpointError(f"Shards must lie in the folder of their model.json. Received: {path} with {shown(name)}")
        shard = path.parent.joinpath(*parts)
        if not shard.is_file():
            raise CheckpointError(
                f"A model.json must have its shards beside it. Received: {path} without {shown(name)}. Fetch it from the same "
                f"place"
            )
        shards.append(read_bytes(shard, "A shard of weights", limit=LARGEST_MODEL - sum(len(each) for each in shards)))
    data, at = b"".join(shards), 0
    total = 0
    for weight in said["weights"]:
        each = fields_of(weight, "A weight", name=str, shape=list[int], dtype=str)
        how = record(weight.get("quantization") or {}, dict[str, Any], "The quantization of a weight")
        stored = STORED.get(record(how.get("dtype", each["dtype"]), str, "The type of a weight"))
        check_limit("dimensions", len(each["shape"]), "A weight")
        if stored is None or min(each["shape"], default=0) < 0:
            raise ValueError(f"the weight {shown(each['name'])} of {shown(each['dtype'])} {each['shape'][:8]}")
        count, dtype = math.prod(each["shape"]), np.dtype(stored)
        if at + count * dtype.itemsize > len(data):
            raise ValueError(f"its shards end before the weight {shown(each['name'])}: they have {len(data):,} bytes")
        values = np.frombuffer(data, dtype, count, at).reshape(each["shape"])
        at += count * dtype.itemsize
        total += 4 * count
        check_growth("views", total, len(data), "The weights of a model.json")
        if "scale" in how:
            scale, low = (record(how.get(key, 0.0), float, f"The {key} of a weight") for key in ("scale", "min"))
            values = (values * np.float64(scale) + low).astype(np.float32)
            quantized.add(dtype.name)
        constants[each["name"]] = values
    if at != len(data):
        raise ValueError(f"its weights have {at:,} bytes and its shards {len(data):,}")


def _node(value: dict[str, Any]) -> Node:
    said = fields_of(value, "A node", name=str, op=str)
    inputs = record(value.get("input") or [], tuple[str, ...], "The inputs of a node")
    attributes = record(value.get("attr") or {}, dict[str, dict[str, Any]], "The attributes of a node")
    return Node(said["name"], said["op"], inputs, {name: _attribute(each) for name, each in attributes.items()})


def _attribute(value: dict[str, Any]) -> Any:
    """An attribute as a plain value: whole numbers are texts in JSON, texts base64."""
    if "list" in value:
        inner = record(value["list"], dict[str, Any], "A list of a node")
        if inner.get("s"):
            return [_text(each) for each in record(inner["s"], list[str], "A list of a node")]
        return [int(each) for each in record(inner.get("i") or [], list[int | str], "A list of a node")]
    if "s" in value:
        return _text(record(value["s"], str, "An attribute of a node"))
    if "shape" in value:
        shape = record(value["shape"], dict[str, Any], "A shape of a node")
        sides = record(shape.get("dim") or [], list[dict[str, Any]], "A shape of a node")
        return [int(record(side.get("size", -1), int | str, "A shape of a node")) for side in sides[:9]]  # type: ignore[arg-type]
    if "i" in value:
        return int(record(value["i"], int | str, "An attribute of a node"))  # type: ignore[arg-type]
    found = value.get("f", value.get("b"))
    return found if isinstance(found, int | float) else None


def _text(value: str) -> str:
    return base64.b64decode(value, validate=True).decode("utf-8", "replace")
