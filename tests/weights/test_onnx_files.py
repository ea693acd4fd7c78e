"""`.onnx` files read back: our own of every precision, PyTorch's layout, and QDQ as ONNX Runtime's tool writes it."""

import dataclasses

import numpy as np
import pytest
from graphs import GATED, LINEAR, drawn, logits
from models import SMALLEST

from keras_mnasnet import load
from keras_mnasnet.export import OnnxFile, export
from keras_mnasnet.export.graph import folded_weights
from keras_mnasnet.export.onnx_graph import write_onnx
from keras_mnasnet.export.verify import drawn_images
from keras_mnasnet.preprocessing import IMAGENET, SIGNED, Normalization
from keras_mnasnet.weights.checkpoint import CheckpointError

onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

PIXELS = drawn_images(8, 64, 64, 3)
LABELS = ("cat", "dog", "bird")
OTHER = Normalization((10.0, 20.0, 30.0), (40.0, 50.0, 60.0))


def near(found, expected, tolerance=1e-5, images=PIXELS):
    """The same network; logits as near as the largest of them times `tolerance`."""
    assert found.architecture.same_network(expected.architecture)
    wanted = logits(expected, images)
    np.testing.assert_allclose(logits(found, images), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("text", "numerics"),
    [(GATED, {}), (LINEAR, {"normalization": SIGNED}), (SMALLEST, {"padding": "symmetric", "normalization": OTHER})],
)
def test_our_own_float_files(text, numerics, tmp_path):
    expected = drawn(text, labels=LABELS, **numerics)
    for quantize, tolerance in ((None, 1e-5), ("float16", 1e-2)):
        export(expected, tmp_path / "x.onnx", quantize=quantize, progress=False)
        found = load(tmp_path / "x.onnx")
        near(found, expected, tolerance)
        assert (found.labels, found.size) == (LABELS, expected.size)
        for field in ("padding", "stem_activation"):
            assert getattr(found.numerics, field) == getattr(expected.numerics, field), field
        said, wanted = found.numerics.normalization, expected.numerics.normalization
        np.testing.assert_allclose([said.mean, said.std], [wanted.mean, wanted.std], rtol=1e-6)
        assert found.preprocessing.normalized(wanted) == expected.preprocessing
        assert (found.assumed, found.origin.notes, found.origin.source) == ((), (), "onnx")
    export(found, tmp_path / "y.onnx", progress=False)
    near(load(tmp_path / "y.onnx"), found, 1e-6)


def test_our_own_int8_is_read_exactly(tmp_path):
    expected = drawn(GATED, labels=LABELS)
    export(expected, tmp_path / "x.onnx", quantize="int8", representative_data=PIXELS, progress=False)
    found = load(tmp_path / "x.onnx")
    near(found, expected, 0.1)
    assert found.origin.notes == ("its weights were dequantized from int8",)
    held = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(tmp_path / "x.onnx").graph.initializer}
    kernels = [name.removesuffix("_quantized") for name in held if name.endswith("/kernel_quantized")]
    assert len(kernels) == sum(name.endswith("/kernel") for name in found.tensors)
    for name in kernels:
        scales = held[f"{name}_scale"].astype(np.float64)
        whole = held[f"{name}_quantized"]
        exact = (whole * scales.reshape(-1, *[1] * (whole.ndim - 1))).astype(np.float32)
        ours = found.tensors[name]
        ours = ours.T if ours.ndim == 2 else ours.transpose((2, 3, 0, 1) if "depthwise" in name else (3, 2, 0, 1))
        np.testing.assert_array_equal(ours, exact)


@pytest.mark.parametrize("sides", [(33, 47), (65, 64)])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_odd_sides(sides, padding, tmp_path):
    """At sides where both paddings are the same one for a layer, the others decide; the function stays."""
    expected = drawn(GATED, padding=padding)
    (tmp_path / "x.onnx").write_bytes(written(expected, *sides))
    near(load(tmp_path / "x.onnx"), expected, images=drawn_images(2, *sides, 3))


def written(checkpoint, height=64, width=64, **options):
    held = checkpoint.numerics
    weights = folded_weights(checkpoint.architecture, checkpoint.tensors, classes=3, bn_epsilon=held.bn_epsilon)
    return write_onnx(
        checkpoint.architecture, weights, height=height, width=width, classes=3, padding=held.padding,
        **{"preprocessing": held.normalization, **options},
    )  # fmt: skip


def as_pytorch(content):
    """The same graph in other words: batch norms behind the convolutions, Clip, ReduceMean, MatMul and Add, an open batch."""
    model = onnx.load_from_string(content)
    helper, graph = onnx.helper, model.graph
    held = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    model.producer_name = "pytorch"
    nodes, constants = [], [each for each in graph.initializer if not each.name.startswith("predictions")]

    def constant(name, value):
        constants.append(onnx.numpy_helper.from_array(value, name))
        return name

    zero = constant("zero", np.float32(0))
    for node in graph.node:
        name = node.output[0]
        if node.op_type == "Conv":
            bias = held[node.input[2]]
            norm = {
                "gamma": np.full_like(bias, 2),
                "beta": bias - 1,
                "mean": np.full_like(bias, -3),
                "var": np.full_like(bias, 36),
            }
            nodes.append(helper.make_node("Conv", node.input[:2], [f"{name}/conv"]))
            nodes[-1].attribute.extend(node.attribute)
            named = [
                constant(f"{name}/{leaf}", value) for leaf, value in norm.items()
            ]  # 2 (x + 3) / 6 + bias - 1 = x / 3 + bias
            nodes.append(helper.make_node("BatchNormalization", [f"{name}/conv", *named], [name], epsilon=0.0))
            for each in constants:
                if each.name == node.input[1]:
                    each.CopyFrom(onnx.numpy_helper.from_array(3 * held[node.input[1]], each.name))
        elif node.op_type == "Relu":
            nodes.append(helper.make_node("Clip", [node.input[0], zero], [name]))
        elif node.op_type == "GlobalAveragePool":
            nodes.append(helper.make_node("ReduceMean", node.input, [name], axes=[-2, -1], keepdims=1))
        elif node.op_type == "Gemm":
            kernel = constant("w", np.ascontiguousarray(held[node.input[1]].T))
            nodes.append(helper.make_node("MatMul", [node.input[0], kernel], ["product"]))
            nodes.append(helper.make_node("Add", [constant("b", held[node.input[2]]), "product"], [name]))
        else:
            nodes.append(node)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    for port in (*graph.input, *graph.output):
        port.type.tensor_type.shape.dim[0].dim_param = "N"
    return model.SerializeToString()


def test_the_words_of_pytorch(tmp_path):
    expected = drawn(GATED, padding="symmetric", normalization=IMAGENET)
    content = as_pytorch(written(expected, preprocessing=False, softmax=False))
    onnx.checker.check_model(content, full_check=True)
    (tmp_path / "x.onnx").write_bytes(content)
    found = load(tmp_path / "x.onnx")
    near(found, expected)
    assert (found.numerics.padding, found.numerics.normalization) == ("symmetric", IMAGENET)
    assert "normalization" in found.assumed
    scores = OnnxFile(tmp_path / "x.onnx").values((PIXELS - np.array(IMAGENET.mean)) / np.array(IMAGENET.std))["scores"]
    np.testing.assert_allclose(scores, logits(found, PIXELS), atol=1e-4)


def test_qdq_of_onnx_runtimes_own_tool(tmp_path):
    """It leaves out what the range of a map does: a ReLU behind a convolution."""
    from onnxruntime import quantization

    class Photos(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [{"image": np.ascontiguousarray(photo.transpose(2, 0, 1)[None])} for photo in PIXELS]

        def get_next(self):
            return self.left.pop() if self.left else None

    expected = drawn(LINEAR)
    (tmp_path / "float.onnx").write_bytes(written(expected))
    quantization.quantize_static(tmp_path / "float.onnx", tmp_path / "x.onnx", Photos(), per_channel=True)
    kinds = [node.op_type for node in onnx.load(tmp_path / "x.onnx").graph.node]
    assert "Relu" not in kinds
    assert "DequantizeLinear" in kinds
    near(load(tmp_path / "x.onnx"), expected, 0.1)


def changed(content, before, after, **attributes):
    """The graph with the first operator of a kind as another."""
    model = onnx.load_from_string(content)
    node = next(each for each in model.graph.node if each.op_type == before)
    node.op_type = after
    node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
    return model.SerializeToString()


REFUSED = {
    "operator": ("Relu", "HardSwish", {}, r"whose operator \d+, HardSwish stands where a MnasNet has"),
    "relu6": ("Relu", "Clip", {"min": 0.0, "max": 6.0}, r"whose operator \d+, Clip stands where a MnasNet has"),
    "scale": ("Gemm", "Gemm", {"alpha": 2.0}, r"whose operator \d+, Gemm stands where a MnasNet has the classifier"),
    "dilated": ("Conv", "Conv", {"dilations": [2, 2]}, r"whose operator \d+, Conv stands where a MnasNet has the stem"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_the_operator_that_differs_is_named(kind, tmp_path):
    before, after, attributes, message = REFUSED[kind]
    (tmp_path / "x.onnx").write_bytes(changed(written(drawn(GATED)), before, after, **attributes))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "x.onnx")


def test_damaged_files(tmp_path):
    content = written(drawn(GATED))
    for damaged, message in (
        (content[: len(content) // 2], "A .onnx file must be whole. Received: .*x.onnx"),
        (content.replace(b"stem_relu_sums", b"stem_relu_sumz", 1), "must be whole.*takes 'stem_relu_sum"),
    ):
        (tmp_path / "x.onnx").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path / "x.onnx")


def test_labels_of_another_count_and_other_endings(tmp_path):
    export(drawn(GATED, labels=LABELS), tmp_path / "x.onnx", progress=False)
    (tmp_path / "y.bin").write_bytes((tmp_path / "x.onnx").read_bytes())
    assert load(tmp_path / "y.bin").labels == LABELS
    checkpoint = dataclasses.replace(drawn(GATED), labels=None)
    (tmp_path / "z.onnx").write_bytes(written(checkpoint))
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    with pytest.raises(CheckpointError, match="Received: 2 labels in .*labels.txt for the 3 classes of .*z.onnx"):
        load(tmp_path / "z.onnx")
