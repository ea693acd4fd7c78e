"""Networks of our own as lists of operations, and as files in the layouts of other tools' exports."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.export.flatbuffer import ModelWriter
from keras_mnasnet.export.reference import Reference
from keras_mnasnet.export.verify import drawn_images
from keras_mnasnet.preprocessing import Normalization, Preprocessing
from keras_mnasnet.weights.checkpoint import Checkpoint, Numerics, Origin, expected_shapes
from keras_mnasnet.weights.formats.graph import Operation

GATED = "stem8 r1_k3_s11_e1_i8_o8_noskip r2_k5_s22_e3_i8_o16_se0.25 r2_k3_s22_e3_i16_o24 head48"
LINEAR = "stem8_linear r1_k3_s11_e1_i8_o8_noskip r2_k5_s22_e3_i8_o16 r1_k3_s22_e6_i16_o24 head48"
AUTOML = Normalization((128.0,), (127.0,))  # uint8 with the scale 1 / 127 and the zero point 128
KINDS = {"conv": "convolution", "depthwise": "convolution", "squeeze": "mean"}


def drawn(text: str, *, size: int = 64, classes: int = 3, seed: int = 0, labels=None, **numerics) -> Checkpoint:
    """A checkpoint of a network with drawn weights whose maps keep their range, and whose scores depend on the photo."""
    network, rng = Architecture.parse(text), np.random.default_rng(seed)
    tensors = {}
    for name, shape in expected_shapes(network, classes).items():
        leaf = name.rpartition("/")[2]
        if leaf == "kernel":
            fan = shape[0] if len(shape) == 2 else shape[0] * shape[1] * (1 if shape[3] == 1 and shape[0] > 1 else shape[2])
            tensors[name] = (rng.standard_normal(shape) * (2 / fan) ** 0.5).astype(np.float32)
        else:
            low, high = {"gamma": (0.6, 1.4), "moving_variance": (0.6, 1.4)}.get(leaf, (-0.3, 0.3))
            tensors[name] = rng.uniform(low, high, shape).astype(np.float32)
    held = Numerics(1e-3, numerics.pop("padding", "same"), None, network.stem_activation, **numerics)
    photos = Preprocessing(size, "bilinear", resize=size)
    return Checkpoint(network, held, classes, tensors, size, labels, photos, Origin("keras_mnasnet", "drawn"))


class Recorded(Reference):
    """The reference, which keeps the range of every map that it computes."""

    def _computed(self, row, *maps):
        x = super()._computed(row, *maps)
        low, high = self.ranges.setdefault(row.output, (0.0, 0.0))
        self.ranges[row.output] = (min(low, float(x.min())), max(high, float(x.max())))
        return x


class Settling(Reference):
    """The reference, which gives the mean square of each map to its batch norm: one for each channel would amplify rounding."""

    def _normalized(self, x, layer):
        square = (self._conv(x, layer) ** 2).mean()
        self.tensors[f"{layer.bn}/moving_variance"] = np.full(layer.filters, 0.7 * square + 0.3, np.float32)
        return super()._normalized(x, layer)


def settled(checkpoint: Checkpoint, pixels: np.ndarray) -> Checkpoint:
    """The same with batch norms that keep the range of the maps of these pixels, as a deep network needs."""
    held, tensors = checkpoint.numerics, dict(checkpoint.tensors)
    how = {"bn_epsilon": held.bn_epsilon, "padding": held.padding, "normalization": held.normalization}
    Settling(checkpoint.architecture, tensors, **how)(pixels)
    return dataclasses.replace(checkpoint, tensors=tensors)


def logits(checkpoint: Checkpoint, pixels: np.ndarray, ranges: dict | None = None) -> np.ndarray:
    """What a checkpoint computes in NumPy; `ranges` takes the range of every map."""
    held = checkpoint.numerics
    reference = Recorded(
        checkpoint.architecture, checkpoint.tensors, bn_epsilon=held.bn_epsilon, padding=held.padding, softmax=False,
        normalization=held.normalization,
    )  # fmt: skip
    reference.ranges = {} if ranges is None else ranges
    return reference(pixels)


def operations_of(network: Architecture, classes: int = 3, padding: str = "same", rng=None, size: int = 64) -> list[Operation]:
    """A network's operations as a reader gives them; drawn weights with `rng`, else zeros that take no memory."""
    found = []
    for row in network.operations(size, size, classes=classes):
        options = {}
        if row.params:
            k, cin, cout = row.kernel, row.input_filters, row.filters
            shape = {"conv": (k, k, cin, cout), "depthwise": (k, k, cin, 1), "dense": (cin, cout)}[row.op]
            pads = ((row.kernel // 2,) * 2,) * 2 if padding == "symmetric" and row.stride > 1 and row.kernel > 1 else "same"
            options = {
                "kernel": np.broadcast_to(np.float32(0), shape) if rng is None else rng.standard_normal(shape, np.float32),
                "bias": None if rng is None else rng.standard_normal(cout, np.float32),
                "stride": row.stride, "padding": pads, "activation": "relu" if row.relu else "linear",
                "groups": cin if row.op == "depthwise" else 1,
            }  # fmt: skip
        elif row.op == "max_pool":
            options = {"window": row.kernel, "stride": row.stride, "padding": "same"}
        found.append(Operation(KINDS.get(row.op, row.op), f"{row.op} {row.name}", row.inputs, row.output, **options))
    return found


def folded_operations(checkpoint: Checkpoint) -> list[Operation]:
    """A checkpoint's operations with its batch norms folded, in float32."""
    held, tensors = checkpoint.numerics, checkpoint.tensors
    rows = {row.output: row for row in checkpoint.architecture.operations(64, 64, classes=checkpoint.classes)}
    found = []
    for operation in operations_of(checkpoint.architecture, checkpoint.classes, held.padding):
        row = rows[operation.output]
        if row.params:
            kernel, bias = tensors[f"{row.name}/kernel"], tensors.get(f"{row.name}/bias")
            if row.bn:
                gamma, beta, mean, variance = (
                    tensors[f"{row.bn}/{leaf}"] for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
                )
                factor = gamma / np.sqrt(variance + np.float32(held.bn_epsilon))
                kernel = kernel * (factor[:, None] if row.op == "depthwise" else factor)
                bias = beta - mean * factor
            operation = dataclasses.replace(operation, kernel=kernel, bias=bias)
        found.append(operation)
    return found


def graph_def(checkpoint: Checkpoint, *, fused: bool, normalized: bool = False):
    """A GraphDef of TensorFlow with the weights as constants.

    `fused`: as Grappler and TensorFlow.js leave it, folded, bias and ReLU within their convolutions; else batch norms
    and ReLUs are nodes of their own. `normalized`: the image is pixels 0..255, which the graph normalizes.
    """
    from tensorflow.core.framework import graph_pb2

    graph, size, held = graph_pb2.GraphDef(), checkpoint.size, checkpoint.numerics
    rows = {row.output: row for row in checkpoint.architecture.operations(size, size, classes=checkpoint.classes)}

    def node(name, op, inputs=(), **attributes):
        made = graph.node.add(name=name, op=op, input=inputs)
        for key, value in attributes.items():
            attribute = made.attr[key]
            if isinstance(value, list):
                attribute.list.s.extend(each.encode() for each in value if isinstance(each, str))
                attribute.list.i.extend(each for each in value if isinstance(each, int))
            elif isinstance(value, str):
                attribute.s = value.encode()
            elif isinstance(value, bool):
                attribute.b = value
            elif isinstance(value, float):
                attribute.f = value
        return name

    def constant(name, value):
        value = np.asarray(value, None if np.asarray(value).dtype.kind == "i" else np.float32)
        node(name, "Const")
        tensor = graph.node[-1].attr["value"].tensor
        tensor.dtype = {"f": 1, "i": 3}[value.dtype.kind]
        for side in value.shape:
            tensor.tensor_shape.dim.add(size=side)
        tensor.tensor_content = value.astype("<f4" if value.dtype.kind == "f" else "<i4").tobytes()
        return name

    image = graph.node.add(name="image", op="Placeholder")
    for side in (-1, size, size, 3):
        image.attr["shape"].shape.dim.add(size=side)
    maps = {"image": "image"}
    if normalized:
        maps["image"] = node("scaled", "RealDiv", [node("centred", "Sub", ["image", constant("m", held.normalization.mean)]),
                                                   constant("s", held.normalization.std)])  # fmt: skip
    constant("axes", np.array([1, 2]))
    for operation in folded_operations(checkpoint):
        row = rows[operation.output]
        given = [maps[name] for name in row.inputs]
        name = row.output
        if row.op in ("conv", "depthwise"):
            op = {"conv": "Conv2D", "depthwise": "DepthwiseConv2dNative"}[row.op]
            options = {"strides": [1, row.stride, row.stride, 1], "padding": "SAME", "data_format": "NHWC"}
            if operation.padding != "same":
                pads = [[0, 0], *operation.padding, [0, 0]]
                given = [node(f"{name}/pad", "Pad", [*given, constant(f"{name}/sides", np.array(pads))])]
                options["padding"] = "VALID"
            if fused:
                weights = [constant(f"{name}/kernel", operation.kernel), constant(f"{name}/bias", operation.bias)]
                op = {"conv": "_FusedConv2D", "depthwise": "FusedDepthwiseConv2dNative"}[row.op]
                parts = ["BiasAdd", *(["Relu"] if row.relu else [])]
                maps[name] = node(name, op, [*given, *weights], fused_ops=parts, **options)
                continue
            x = node(
                f"{name}/conv", op, [*given, constant(f"{name}/kernel", checkpoint.tensors[f"{row.name}/kernel"])], **options
            )
            if row.bn:
                leaves = ("gamma", "beta", "moving_mean", "moving_variance")
                values = [constant(f"{name}/{leaf}", checkpoint.tensors[f"{row.bn}/{leaf}"]) for leaf in leaves]
                x = node(f"{name}/bn", "FusedBatchNormV3", [x, *values], epsilon=held.bn_epsilon, is_training=False)
            else:
                x = node(f"{name}/add", "BiasAdd", [x, constant(f"{name}/bias", operation.bias)])
            maps[name] = (
                node(f"{name}/relu", "Relu", [x]) if row.relu else node(f"{name}/same", "Identity", [f"{x}:0", "^image"])
            )
        elif row.op in ("mean", "squeeze"):
            maps[name] = node(name, "Mean", [*given, "axes"], keep_dims=row.op == "squeeze")
        elif row.op == "dense":
            weights = [constant(f"{name}/kernel", operation.kernel), constant(f"{name}/bias", operation.bias)]
            if fused:
                maps[name] = node(name, "_FusedMatMul", [*given, *weights], fused_ops=["BiasAdd"])
            else:
                maps[name] = node(name, "BiasAdd", [node(f"{name}/product", "MatMul", [*given, weights[0]]), weights[1]])
        else:
            op = {"add": "AddV2", "multiply": "Mul", "sigmoid": "Sigmoid"}[row.op]
            maps[name] = node(name, op, given)
    node("scores", "Softmax", [maps[name]])
    return graph


def write_pb(path: Path, checkpoint: Checkpoint, **options) -> Path:
    """A frozen graph."""
    path.write_bytes(graph_def(checkpoint, **{"fused": False, **options}).SerializeToString())
    return path


def write_tfjs(path: Path, checkpoint: Checkpoint, *, shards: int = 2, quantized: str | None = None, **options) -> Path:
    """A graph model of TensorFlow.js: `model.json`, and its weights in shards, `quantized` to uint8, uint16 or float16."""
    from google.protobuf.json_format import MessageToDict

    graph, weights, parts = graph_def(checkpoint, **{"fused": True, **options}), [], []
    for node in graph.node:
        if node.op == "Const":
            tensor = node.attr["value"].tensor
            kind = {1: "float32", 3: "int32"}[tensor.dtype]
            value = np.frombuffer(tensor.tensor_content, kind)
            weight = {"name": node.name, "shape": [side.size for side in tensor.tensor_shape.dim], "dtype": kind}
            if kind == "float32" and quantized == "float16":
                value, weight["quantization"] = value.astype(np.float16), {"dtype": "float16", "original_dtype": kind}
            elif kind == "float32" and quantized:
                low, scale = float(value.min()), float(value.max() - value.min()) / np.iinfo(quantized).max or 1.0
                value = np.round((value - low) / scale).astype(quantized)
                weight["quantization"] = {"dtype": quantized, "min": low, "scale": scale, "original_dtype": kind}
            weights.append(weight)
            parts.append(value.tobytes())
            tensor.ClearField("tensor_content")
    data, names = b"".join(parts), [f"group1-shard{number}of{shards}.bin" for number in range(1, shards + 1)]
    for number, name in enumerate(names):
        (path.parent / name).write_bytes(data[number * len(data) // shards : (number + 1) * len(data) // shards])
    value = {
        "format": "graph-model", "generatedBy": "1.15.0", "convertedBy": "TensorFlow.js Converter v1.4.0",
        "modelTopology": MessageToDict(graph), "weightsManifest": [{"paths": names, "weights": weights}],
    }  # fmt: skip
    path.write_text(json.dumps(value))
    return path


def write_uint8(path: Path, checkpoint: Checkpoint, *, end: str = "LOGISTIC", scales: bool = True, metadata=None) -> Path:
    """A `.tflite` as AutoML Vision Edge wrote them with TOCO: uint8, one scale and zero point for each tensor, no activation
    anywhere but in the ranges of the maps, no signature, no labels. `scales=False` leaves out the kernels' scales.
    """
    writer, size = ModelWriter(), checkpoint.size
    ranges: dict[str, tuple[float, float]] = {}
    logits(checkpoint, drawn_images(4, size, size, 3), ranges)
    maps: dict[str, tuple[int, tuple[int, ...], float]] = {}
    held = checkpoint.numerics.normalization
    scale, zero = 1 / held.std[0], round(held.mean[0])
    maps["image"] = (
        writer.tensor("image", (1, size, size, 3), np.uint8, scale=scale, zero_point=zero),
        (1, size, size, 3),
        scale,
    )
    rows = {row.output: row for row in checkpoint.architecture.operations(size, size, classes=checkpoint.classes)}
    axes = writer.tensor("axes", (2,), np.int32, np.array([1, 2]))

    def constant(name: str, value: np.ndarray) -> tuple[int, float]:
        low, high = min(float(value.min()), 0.0), max(float(value.max()), 1e-6)
        step = (high - low) / 255
        at = round(-low / step)
        whole = np.clip(np.round(value / step) + at, 0, 255).astype(np.uint8)
        return writer.tensor(name, value.shape, np.uint8, whole, scale=step if scales else None, zero_point=at), step

    for operation in folded_operations(checkpoint):
        row = rows[operation.output]
        low, high = ranges[row.output][0], max(ranges[row.output][1], 1e-3)
        step, at = (high - low) / 255, round(-low * 255 / (high - low))
        if row.op == "sigmoid":
            step, at = 1 / 256, 0
        shape = (1, row.filters) if row.op in ("mean", "dense") else (1, row.height, row.width, row.filters)
        if row.op in ("squeeze", "mean"):
            step, at = maps[row.inputs[0]][2], 0
        given = [maps[name][0] for name in row.inputs]
        output = writer.tensor(row.output, shape, np.uint8, scale=step, zero_point=at)
        maps[row.output] = output, shape, step
        if row.params:
            layout = {"conv": (3, 0, 1, 2), "depthwise": (3, 0, 1, 2), "dense": (1, 0)}[row.op]
            kernel, own = constant(f"{row.name}/kernel", np.ascontiguousarray(operation.kernel.transpose(layout)))
            scale = maps[row.inputs[0]][2] * own
            bias = np.round(operation.bias / scale).astype(np.int32)
            given += [kernel, writer.tensor(f"{row.name}/bias", bias.shape, np.int32, bias, scale=scale)]
        name, options = {
            "conv": ("CONV_2D", schema.Conv2DOptionsT()), "depthwise": ("DEPTHWISE_CONV_2D", schema.DepthwiseConv2DOptionsT()),
            "dense": ("FULLY_CONNECTED", schema.FullyConnectedOptionsT()), "add": ("ADD", schema.AddOptionsT()),
            "multiply": ("MUL", schema.MulOptionsT()), "squeeze": ("MEAN", schema.ReducerOptionsT()),
            "mean": ("MEAN", schema.ReducerOptionsT()), "sigmoid": ("LOGISTIC", None),
        }[row.op]  # fmt: skip
        if row.op in ("conv", "depthwise"):
            options.padding, options.strideW, options.strideH = schema.Padding.SAME, row.stride, row.stride
            if row.op == "depthwise":
                options.depthMultiplier = 1
        elif name == "MEAN":
            options.keepDims = row.op == "squeeze"
            given.append(axes)
        writer.operator(name, given, [output], 1, options)
    scores = writer.tensor("scores", (1, checkpoint.classes), np.uint8, scale=1 / 256)
    options = schema.SoftmaxOptionsT() if end == "SOFTMAX" else None
    if options is not None:
        options.beta = 1.0
    writer.operator(end, [output], [scores], 1, options)
    path.write_bytes(
        writer.finish(
            {"image": maps["image"][0]}, {"scores": scores}, description="TOCO Converted.", metadata=metadata or {}
        )
    )  # fmt: skip
    return path
