"""Half precision: its simulation, the check before a file is marked, and the mark."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_mnasnet import load
from keras_mnasnet.export import ExportError, TfliteFile, export
from keras_mnasnet.export.file import GraphFacts, Port
from keras_mnasnet.export.flatbuffer import ModelWriter, append_files, marked
from keras_mnasnet.export.graph import random_weights, write_graph
from keras_mnasnet.export.half import HalfGraph, check_compute, checked_half, rounded
from keras_mnasnet.export.partitions import accelerators
from keras_mnasnet.export.verify import LIMITS
from keras_mnasnet.family import as_architecture

TINY = "tiny: stem8 r1_k3_s22_e3_i8_o16_se0.25 r1_k5_s22_e3_i16_o16 head32"
IMAGES = np.array([[[[1.0]], [[1.0]]], [[[1.0]], [[2.0]]]], np.float32)  # two images of two pixels


def tiny_graph(**options):
    network = as_architecture(TINY)
    weights = random_weights(network, classes=4)
    return network, write_graph(network, weights, height=32, width=32, classes=4, **options)


def sums(*kernel, bias=0.0, images=2):
    """`[images, 2, 1, 1]`, tiled to as many channels, each times its value of the kernel, and summed."""
    writer = ModelWriter()
    image, wide = writer.tensor("image", (images, 2, 1, 1)), writer.tensor("wide", (images, 2, 1, len(kernel)))
    ones, scores = writer.tensor("ones", (1, 1, 1, len(kernel)), data=np.ones(len(kernel))), (images, 2, 1, 1)
    writer.operator("MUL", [image, ones], [wide], 1, schema.MulOptionsT())
    options = schema.Conv2DOptionsT()
    options.strideW = options.strideH = 1
    weights = writer.tensor("weights", (1, 1, 1, len(kernel)), data=np.array(kernel).reshape(1, 1, 1, -1))
    constant, output = writer.tensor("bias", (1,), data=np.array([bias])), writer.tensor("sum", scores)
    writer.operator("CONV_2D", [wide, weights, constant], [output], 1, options)
    return writer.finish({"image": image}, {"scores": output}, description="", metadata={})


def test_rounding_is_that_of_half():
    values = np.random.default_rng(0).normal(0, 100, 10_000).astype(np.float32)
    np.testing.assert_array_equal(rounded(values.copy()), values.astype(np.float16).astype(np.float32))


def test_sums_are_in_half_and_in_order():
    """4096 + 1 is 4096 in half precision, whose steps are 4 there; 1 + 1 + 1 + 1 + 4096 is 4100."""
    assert HalfGraph(sums(4096, 1, 1, 1, 1))(IMAGES)["scores"].reshape(-1).tolist() == [4096, 4096, 4096, 8192]
    assert HalfGraph(sums(1, 1, 1, 1, 4096))(IMAGES)["scores"].reshape(-1)[0] == 4100


def test_the_largest_value_of_a_sum():
    graph = HalfGraph(sums(60000, 60000, -60000))
    assert graph(IMAGES[:1])["scores"].reshape(-1).tolist() == [60000, 60000]
    assert graph.largest == {"wide": 1, "sum": 120000}


@pytest.mark.parametrize("precision", ["float32", "float16", "weight-int8"])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_a_network_in_half(precision, padding):
    network, content = tiny_graph(precision=precision, padding=padding)
    images = 255 * np.random.default_rng(0).random((3, 32, 32, 3), np.float32)
    graph, file = HalfGraph(content), TfliteFile(content)
    found, wanted = graph(images)["scores"], file.values(images)["scores"]
    assert graph.madds == network.madds(32, 32, classes=4)
    assert 1e-5 < np.abs(found - wanted).max() < 0.02
    np.testing.assert_array_equal(found, np.concatenate([graph(image[None])["scores"] for image in images]))


def test_the_mark(tmp_path):
    _, content = tiny_graph(precision="float16")
    images = 255 * np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    whole = append_files(marked(content), {"labels.txt": ["a", "b", "c", "d"]})
    file = TfliteFile(whole)
    assert (TfliteFile(content).facts.half, file.facts.half, file.labels) == (False, True, ("a", "b", "c", "d"))
    np.testing.assert_array_equal(file.values(images)["scores"], TfliteFile(content).values(images)["scores"])


def test_float16_is_marked_and_read_back(tmp_path):
    report = export("cifar10", tmp_path / "a.tflite", quantize="float16", progress=False)
    assert report.facts.half
    assert (report.half.images, report.half.reason) == (4, None)
    assert 100 < report.half.largest < 200
    assert report.half.comparisons[0].changed == 0
    plain = export("cifar10", tmp_path / "b.tflite", quantize="float16", compute="float32", progress=False)
    assert (plain.facts.half, plain.half) == (False, None)
    ours, theirs = (load(tmp_path / name).tensors for name in ("a.tflite", "b.tflite"))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    for quantize in ("float32", "weight-int8"):
        assert export("cifar10", tmp_path / "c.tflite", quantize=quantize, compute="half", progress=False).facts.half
        assert not export("cifar10", tmp_path / "c.tflite", quantize=quantize, progress=False).facts.half


def test_what_overflows_is_not_marked(caplog):
    content, limits = sums(60000, 60000, -60000, images=1), LIMITS["half"]
    same, check = checked_half(content, IMAGES, limits, asked=False)
    assert same == content
    assert (check.largest, check.largest_at) == (240000, "sum")
    assert "not marked for half precision, and phones compute it in float32: half precision ends at 65,504" in caplog.text
    with pytest.raises(ExportError, match=r"sum reaches 240,000. Write it without the mark: .*--compute float32"):
        checked_half(content, IMAGES, limits, asked=True)


def test_what_changes_decisions_is_not_marked():
    """What half precision rounds away around 2048, where its steps are 2."""
    writer = ModelWriter()
    image, scores = writer.tensor("image", (1, 1, 1, 2)), writer.tensor("scores", (1, 1, 1, 2))
    constant = writer.tensor("constant", (2,), data=np.array([2048, 2048]))
    writer.operator("ADD", [image, constant], [scores], 1, schema.AddOptionsT())
    content = writer.finish({"image": image}, {"scores": scores}, description="", metadata={})
    images = np.random.default_rng(0).random((32, 1, 1, 2), np.float32)
    for scale, reason in (
        (4, "The half file must differ from the model by at most 0.1 "),
        (0.5, "the same values at its output"),
    ):
        _, check = checked_half(content, scale * images, LIMITS["half"], asked=False)
        assert reason in check.reason
        assert check.reason[-1] not in " ."


def test_an_operator_that_is_not_known(tmp_path, caplog):
    import keras

    image = keras.Input([8, 8, 3])
    model = keras.Model(
        image, keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Conv2D(2, 3, activation="elu")(image)))
    )
    report = export(model, tmp_path / "a.tflite", quantize="float16", normalization="unit", progress=False)
    assert "the simulation does not know ELU" in report.half.reason
    assert not report.facts.half


def test_a_model_of_other_layers(tmp_path):
    import keras

    layers, image = keras.layers, keras.Input([16, 16, 3])
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, activation="hard_swish")(image)
    x = layers.Concatenate()(
        [layers.DepthwiseConv2D(3, padding="same", activation="relu6")(x), layers.MaxPooling2D(2, 1, "same")(x)]
    )
    x = layers.Dense(4)(layers.GlobalAveragePooling2D()(layers.ZeroPadding2D(1)(x)))
    report = export(keras.Model(image, x), tmp_path / "a.tflite", quantize="float16", normalization="unit", progress=False)
    assert (report.half.reason, report.facts.half) == (None, True)


@pytest.mark.parametrize(
    ("compute", "quantize", "tflite", "wanted"),
    [
        (None, "float16", True, "half"), (None, None, True, "float32"), (None, "int8", True, "float32"),
        (None, "float16", False, "float32"), ("float32", "float16", True, "float32"), ("half", None, True, "half"),
    ],
)  # fmt: skip
def test_what_is_computed(compute, quantize, tflite, wanted):
    assert check_compute(compute, quantize, tflite=tflite) == wanted


@pytest.mark.parametrize(
    ("compute", "quantize", "tflite", "message"),
    [
        ("half", "int8", True, "is for .tflite files of float32, float16, weight-int8. Received: int8. Leave"),
        ("half", "dynamic", True, "Received: dynamic"),
        ("half", "float16", False, "Received: float16, a .onnx file"),
        ("bfloat16", None, True, "must be one of .*Received: compute='bfloat16'"),
    ],
)
def test_what_cannot_be_computed(compute, quantize, tflite, message):
    with pytest.raises(ValueError, match=message):
        check_compute(compute, quantize, tflite=tflite)


def test_what_accelerators_lack(tmp_path, pictures):
    """By their published lists."""
    found = {}
    for quantize in ("float16", "int8"):
        given = {"representative_data": pictures} if quantize == "int8" else {}
        found[quantize] = export("cifar10", tmp_path / "a.tflite", quantize=quantize, progress=False, **given).accelerators
    assert found["float16"] == {
        "Edge TPU": "takes 8 bits throughout, as of --quantize int8", "GPU delegate": "every operator is on its list",
    }  # fmt: skip
    assert found["int8"] == {"Edge TPU": "its list lacks DEQUANTIZE 1", "GPU delegate": "every operator is on its list"}


def test_batches_and_other_operators_on_accelerators():
    port = Port("image", (4, 8, 8, 3), "int8", 1.0, 0)
    facts = GraphFacts({"CUSTOM:X": 1, "GELU": 2}, {"int8": 3}, {}, (), ("GELU",), (port,), (), {}, 100)
    assert accelerators(facts) == {
        "Edge TPU": "its list lacks CUSTOM:X 1, GELU 2; it does not compute in floats, as here GELU; "
        "it takes one image at a time",
        "GPU delegate": "its list lacks CUSTOM:X 1",
    }
