"""The one recognizer: which network a list of operations is, and what it says of one that is none."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from graphs import operations_of

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.family import FAMILY
from keras_mnasnet.preprocessing import IMAGENET, SIGNED, Normalization
from keras_mnasnet.spec import WIDTHS
from keras_mnasnet.weights.checkpoint import CheckpointError
from keras_mnasnet.weights.formats.graph import EPSILON, Graph, Operation, recognized

TINY = Architecture.parse("stem8 r1_k3_s11_e1_i8_o8_noskip r2_k3_s22_e3_i8_o8_se0.25 head16")


def graph_of(operations, **changes):
    return Graph(Path("/none/x.tflite"), "tflite", operations, "image", (64, 64), **changes)


def changed(operations, name, **values):
    """The operations with one of them changed; it is the one that is said to be `name`."""
    found = [dataclasses.replace(each, **values) if each.said == name else each for each in operations]
    assert any(each is not other for each, other in zip(found, operations, strict=True))
    return found


@pytest.mark.parametrize("name", FAMILY)
def test_every_network_of_the_family_at_every_width(name):
    for width in WIDTHS[:8]:
        network = FAMILY[name].scaled(width)
        found = recognized(graph_of(operations_of(network))).architecture
        assert found.same_network(network), str(network)


@pytest.mark.parametrize(
    "text",
    [
        "stem8_s11 r1_k3_s11_e1_i8_o8 r2_k5_s22_e6_i8_o16_se0.5 head24",
        "stem16_linear r2_k3_s11_e1_i16_o16_nofirstskip r1_k3_s22_e6_i16_o24 head32",
        "stem8 r2_k3_s22_e1_i8_o16_conv r2_k5_s11_e1_i16_o16_linear r2_k3_s22_e3_i16_o16_pool r1_k1_s11_e1_i16_o8_conv head16",
        "stem8 r1_k3_s22_e1_i8_o8_se0.25_conv r2_k5_s22_e3_i8_o8_pool_nofirstskip head16",
    ],
)
def test_networks_of_the_spaces(text):
    network = Architecture.parse(text)
    found = recognized(graph_of(operations_of(network)))
    assert found.architecture.same_network(network)
    assert found.numerics.stem_activation == network.stem_activation


def test_batch_norms_are_folded_exactly():
    operations = operations_of(TINY, rng=np.random.default_rng(0))
    found = recognized(graph_of(operations))
    by_output = {each.output: each for each in operations}
    for row in TINY.layers(64, 64, classes=3):
        np.testing.assert_array_equal(found.tensors[f"{row.name}/kernel"], by_output[row.output].kernel)
        beta = found.tensors[f"{row.bn}/beta" if row.bn else f"{row.name}/bias"]
        np.testing.assert_array_equal(beta, by_output[row.output].bias)
    for leaf, value in (("gamma", 1), ("moving_mean", 0), ("moving_variance", 1 - EPSILON)):
        assert {float(each) for each in found.tensors[f"stem_bn/{leaf}"]} == {value}
    assert np.float32(1 - EPSILON) + np.float32(found.numerics.bn_epsilon) == 1


def test_what_stands_alone_is_taken_into_its_convolution():
    """Padding, a batch norm, a bias and a ReLU of their own, as frozen graphs and ONNX have them."""
    rng = np.random.default_rng(1)
    stem, *rest = operations_of(TINY, padding="symmetric", rng=rng)
    scale, offset, bias = (rng.standard_normal(8, np.float32) for _ in range(3))
    apart = [
        Operation("pad", "pad", ("image",), "a", padding=stem.padding),
        dataclasses.replace(stem, inputs=("a",), output="b", padding="valid", activation="linear", bias=bias),
        Operation("affine", "batch norm", ("b",), "c", scale=scale.reshape(1, 1, 1, 8), offset=offset),
        Operation("identity", "identity", ("c",), "d"),
        Operation("relu", "relu", ("d",), stem.output),
    ]
    found = recognized(graph_of([*apart, *rest]))
    assert found.numerics.padding == "symmetric"
    np.testing.assert_allclose(found.tensors["stem_conv/kernel"], stem.kernel * scale, rtol=1e-6)
    np.testing.assert_allclose(found.tensors["stem_bn/beta"], bias * scale + offset, rtol=1e-6)


def affine(scale, offset, inputs="image", output="x"):
    return Operation("affine", "affine", (inputs,), output, scale=np.float32(scale), offset=np.float32(offset))


@pytest.mark.parametrize(
    ("before", "own", "expected", "assumed"),
    [
        (None, [], SIGNED, True),
        (SIGNED, [], SIGNED, False),
        (None, [affine(1, [-value for value in IMAGENET.mean], output="y"), affine([1 / v for v in IMAGENET.std], 0, "y")],
         IMAGENET, False),
        (None, [affine([1 / 0.229, 1 / 0.224, 1 / 0.225], [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])], IMAGENET, False),
        (None, [affine(1 / 127.5, -1)], SIGNED, False),
        (None, [affine(1 / 100, np.full((1, 1, 64, 3), -0.5))], Normalization((50.0,), (100.0,)), False),
        (Normalization((128.0,), (127.0,)), [], Normalization((128.0,), (127.0,)), False),
    ],
)  # fmt: skip
def test_normalization(before, own, expected, assumed):
    stem, *rest = operations_of(TINY)
    stem = dataclasses.replace(stem, inputs=("x",) if own else ("image",))
    found = recognized(graph_of([*own, stem, *rest], normalization=before))
    assert ("normalization" in found.assumed) == assumed
    for side in ("mean", "std"):
        np.testing.assert_allclose(getattr(found.numerics.normalization, side), getattr(expected.per_channel, side), rtol=1e-5)
    if expected in (SIGNED, IMAGENET):
        assert found.numerics.normalization == expected.per_channel


DW = "depthwise block1a_depthwise_conv"
OTHERS = [
    ("conv stem_conv", {"activation": "relu6"}, "conv stem_conv.* with relu6 stands where a MnasNet has a ReLU, or nothing"),
    ("conv stem_conv", {"stride": 4}, "a stem of stride 1 or 2"),
    ("conv stem_conv", {"kernel": np.zeros((5, 5, 3, 8), np.float32)}, "a 3x3 convolution of 3 channels"),
    (DW, {"activation": "linear"}, "depthwise block1a_depthwise_conv.* stands where a MnasNet has a ReLU behind it"),
    (DW, {"activation": "relu6"}, "with relu6 stands where"),
    (DW, {"kernel": np.zeros((3, 3, 8, 2), np.float32)}, "a kernel of 8 channels"),
    (DW, {"kernel": np.zeros((3, 5, 8, 1), np.float32)}, "a square kernel"),
    ("conv block2a_expand_conv", {"activation": "relu6"}, "a ReLU behind an expansion"),
    (DW, {"padding": "valid"}, "padding as SAME"),
    ("depthwise block2a_depthwise_conv", {"padding": ((1, 1), (1, 1))}, "the padding of conv stem_conv"),
    ("conv block1a_project_conv", {"activation": "relu"}, "no activation behind a projection"),
    ("sigmoid block2a_se_gate", {"kind": "hard_sigmoid"}, "sigmoid block2a_se_gate stands where a MnasNet has the gate"),
    ("add block2b_add", {"activation": "relu"}, "an addition without an activation"),
    ("conv head_conv", {"activation": "linear"}, "ends where a MnasNet has|stands where"),
    ("mean avg_pool", {"kind": "CONCATENATION"}, "mean avg_pool stands"),
    ("dense predictions", {"activation": "relu"}, "behind the classifier"),
    ("dense predictions", {"kernel": np.zeros((15, 3), np.float32)}, r"\[16, 3\] for predictions/kernel, not \[15, 3\]"),
    ("conv head_conv", {"kernel": np.zeros((1, 1, 9, 16), np.float32)}, "head_conv/kernel"),
    ("add block2b_add", {"inputs": ("never", "block2b_project_bn")}, "takes what nothing before it gives"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values", "message"), OTHERS)
def test_another_network_is_refused_by_its_first_operator(name, values, message):
    with pytest.raises(CheckpointError, match=rf"Received: /none/x.tflite, .*({message})"):
        recognized(graph_of(changed(operations_of(TINY), name, **values)))


def test_further_operations_and_endings():
    operations = operations_of(TINY)
    with pytest.raises(CheckpointError, match="ARG_MAX stands where a MnasNet has a softmax, a sigmoid or nothing"):
        recognized(graph_of([*operations, Operation("ARG_MAX", "ARG_MAX", ("predictions",), "y")]))
    with pytest.raises(CheckpointError, match="TRANSPOSE stands beside conv block2a_expand_conv"):
        recognized(graph_of([*operations, Operation("TRANSPOSE", "TRANSPOSE", ("block1a_project_bn",), "y")]))
    with pytest.raises(CheckpointError, match="stands where a MnasNet has nothing"):
        recognized(graph_of([operations[0], Operation("FILL", "FILL", (), "b"), *operations[1:]]))
    with pytest.raises(CheckpointError, match="which ends where a MnasNet has a projection"):
        recognized(graph_of(operations[:2]))
    softmax = recognized(graph_of([*operations, Operation("softmax", "SOFTMAX", ("predictions",), "y")]))
    assert (softmax.classes, softmax.origin.notes) == (3, ())
    sigmoid = recognized(graph_of([*operations, Operation("sigmoid", "LOGISTIC", ("predictions",), "y")]))
    assert "sigmoids" in sigmoid.origin.notes[0]
    assert recognized(graph_of(operations[:-2])).classes == recognized(graph_of(operations[:-1])).classes == 0


def test_labels(tmp_path):
    operations, path = operations_of(TINY), tmp_path / "x.tflite"
    graph = dataclasses.replace(graph_of(operations), path=path)
    assert recognized(graph).labels is None
    (tmp_path / "dict.txt").write_text("cat\ndog\nbird\n")
    assert recognized(graph).labels == ("cat", "dog", "bird")
    assert recognized(dataclasses.replace(graph, labels=("a", "b", "c"))).labels == ("a", "b", "c")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    with pytest.raises(CheckpointError, match="2 labels in .*labels.txt for the 3 classes of .*x.tflite"):
        recognized(graph)


@pytest.mark.parametrize(("classes", "first"), [(1000, "tench"), (1001, "background")])
def test_imagenets_classes(classes, first):
    found = recognized(graph_of(operations_of(TINY, classes)))
    assert (len(found.labels), found.labels[0]) == (classes, first)
    assert "labels" in found.assumed
    names = found.labels[-1000:]
    assert recognized(graph_of(operations_of(TINY, classes), labels=names)).labels == found.labels
