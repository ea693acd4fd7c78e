"""Files that hold a graph, read back into the network that they are."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from graphs import AUTOML, GATED, LINEAR, drawn, logits, write_pb, write_tfjs, write_uint8
from models import SMALLEST

from keras_mnasnet import load
from keras_mnasnet.export import TfliteFile, export
from keras_mnasnet.export.verify import drawn_images
from keras_mnasnet.preprocessing import SIGNED, Normalization
from keras_mnasnet.weights.checkpoint import CheckpointError
from keras_mnasnet.weights.formats.graph import EPSILON

PIXELS = drawn_images(8, 64, 64, 3)
LABELS = ("cat", "dog", "bird")


def same_function(found, expected, tolerance=1e-5):
    """The same network, labels and photos; logits as near as the largest of them times `tolerance`."""
    assert found.architecture.same_network(expected.architecture)
    assert (found.labels, found.classes, found.size) == (expected.labels, expected.classes, expected.size)
    wanted = logits(expected, PIXELS)
    np.testing.assert_allclose(logits(found, PIXELS), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("text", "numerics"),
    [
        (GATED, {}),
        (LINEAR, {"normalization": SIGNED}),
        (SMALLEST, {"padding": "symmetric", "normalization": Normalization((10.0, 20.0, 30.0), (40.0, 50.0, 60.0))}),
    ],
)
def test_our_own_float_files(text, numerics, tmp_path):
    expected = drawn(text, labels=LABELS, **numerics)
    export(expected, tmp_path / "x.tflite", progress=False)
    found = load(tmp_path / "x.tflite")
    same_function(found, expected)
    for field in ("padding", "stem_activation"):
        assert getattr(found.numerics, field) == getattr(expected.numerics, field), field
    said, wanted = found.numerics.normalization, expected.numerics.normalization
    np.testing.assert_allclose([said.mean, said.std], [wanted.mean, wanted.std], rtol=1e-6)
    assert found.preprocessing.normalized(wanted) == expected.preprocessing
    assert (found.assumed, found.origin.notes, found.origin.source) == ((), (), "tflite")
    export(found, tmp_path / "y.tflite", progress=False)
    same_function(load(tmp_path / "y.tflite"), found, 1e-7)


def constants_of(path):
    """The real values of all constants of a file, by their shapes, as LiteRT gives them."""
    file, found = TfliteFile(path), {}
    for details in file.interpreter.get_tensor_details():
        try:
            value = file.interpreter.get_tensor(details["index"])
        except ValueError:
            continue
        quantization = details["quantization_parameters"]
        if len(quantization["scales"]) and value.dtype != np.float32:
            sides = [1] * value.ndim
            if len(quantization["scales"]) > 1:
                sides[quantization["quantized_dimension"]] = -1
            scales = quantization["scales"].astype(np.float64).reshape(sides)
            value = ((value - quantization["zero_points"].reshape(sides).astype(np.float64)) * scales).astype(np.float32)
        found.setdefault(value.shape, []).append(value)
    return found


def holds(constants, tensors):
    """That every kernel and bias is one of a file's constants, to the bit."""
    for name, value in tensors.items():
        leaf = name.rpartition("/")[2]
        if leaf == "kernel":
            value = value.T if value.ndim == 2 else value.transpose((3, 0, 1, 2))
        if leaf in ("kernel", "bias", "beta"):
            assert any((value == each).all() for each in constants.get(value.shape, [])), name


@pytest.mark.parametrize("quantize", ["float16", "weight-int8", "dynamic", "int8"])
def test_our_own_smaller_files_are_read_exactly(quantize, tmp_path):
    expected, path = drawn(GATED, labels=LABELS), tmp_path / "x.tflite"
    export(expected, path, quantize=quantize, representative_data=PIXELS if quantize == "int8" else None, progress=False)
    found = load(path)
    same_function(found, expected, 0.2)
    holds(constants_of(path), found.tensors)
    assert any("int8" in note for note in found.origin.notes) == (quantize != "float16")


@pytest.mark.parametrize("end", ["LOGISTIC", "SOFTMAX"])
def test_uint8_as_automl_writes_it(end, tmp_path):
    """What is clipped at zero is a ReLU; the linear stem is not. The network and its file agree."""
    expected = drawn(LINEAR, normalization=AUTOML)
    path = write_uint8(tmp_path / "model.tflite", expected, end=end)
    (tmp_path / "dict.txt").write_text("cat\ndog\nbird\n")
    found = load(path)
    assert found.architecture.same_network(expected.architecture)
    assert (found.labels, found.numerics.stem_activation, found.numerics.padding) == (LABELS, "linear", "same")
    assert found.numerics.normalization == AUTOML.per_channel
    assert found.assumed == ("preprocessing",)
    assert ("sigmoids" in " ".join(found.origin.notes)) == (end == "LOGISTIC")
    holds(constants_of(path), found.tensors)
    file = TfliteFile(path)
    scores = np.concatenate([file.run(image[None].round().astype(np.uint8))[0] for image in PIXELS])
    exact = logits(found, PIXELS)
    probabilities = 1 / (1 + np.exp(-exact)) if end == "LOGISTIC" else np.exp(exact) / np.exp(exact).sum(1, keepdims=True)
    assert np.corrcoef(scores.reshape(-1), probabilities.reshape(-1))[0, 1] > 0.99
    with_relu = dataclasses.replace(found, architecture=found.architecture.with_stem_activation("relu"))
    assert np.abs(logits(with_relu, PIXELS) - exact).max() > 0.1 * np.abs(exact).max()


def test_the_file_itself_is_named_by_the_labels_beside_it(tmp_path):
    from keras_mnasnet import predict

    path = write_uint8(tmp_path / "model.tflite", drawn(LINEAR, normalization=AUTOML))
    photo = Path(__file__).parents[2] / "weights" / "demo" / "ship.png"
    (tmp_path / "dict.txt").write_text("cat\ndog\nbird\n")
    assert {label for label, _ in predict(path, photo)[0].classes} == set(LABELS)
    (tmp_path / "dict.txt").write_text("cat\ndog\n")  # of another model
    assert predict(path, photo)[0].classes[0][0].startswith("class ")


def test_a_gated_uint8_file(tmp_path):
    expected = drawn(GATED, normalization=AUTOML)
    found = load(write_uint8(tmp_path / "x.tflite", expected))
    assert found.architecture.same_network(expected.architecture)


@pytest.mark.parametrize(("text", "numerics"), [(LINEAR, {"normalization": SIGNED}), (GATED, {"padding": "symmetric"})])
def test_graphs_of_tensorflow(text, numerics, tmp_path):
    """Frozen, with batch norms of their own; and TensorFlow.js's, folded."""
    expected = drawn(text, labels=LABELS, **numerics)
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    for path in (
        write_pb(tmp_path / "frozen.pb", expected, normalized=True),
        write_pb(tmp_path / "frozen_graph.pb", expected, fused=True, normalized=True),
        write_tfjs(tmp_path / "model.json", expected, normalized=True),
    ):
        found = load(path)
        same_function(found, expected)
        assert found.numerics.padding == expected.numerics.padding
        assert found.numerics.normalization == expected.numerics.normalization
        assert found.assumed == ("preprocessing",)
    assert "normalization" in load(write_tfjs(tmp_path / "model.json", expected)).assumed


@pytest.mark.parametrize(("quantized", "tolerance"), [("uint8", 0.2), ("uint16", 1e-3), ("float16", 0.01)])
def test_tfjs_with_smaller_weights(quantized, tolerance, tmp_path):
    expected = drawn(GATED)
    found = load(write_tfjs(tmp_path / "model.json", expected, quantized=quantized, normalized=True, shards=3))
    same_function(found, expected, tolerance)
    assert (found.origin.notes == ()) == (quantized == "float16")


def test_bad_graphs_of_tensorflow(tmp_path):
    path = write_tfjs(tmp_path / "model.json", drawn(LINEAR))
    (tmp_path / "group1-shard2of2.bin").rename(tmp_path / "away.bin")
    with pytest.raises(
        CheckpointError, match="must have its shards beside it. Received: .*model.json without 'group1-shard2of2.bin'"
    ):
        load(path)
    (tmp_path / "group1-shard2of2.bin").write_bytes((tmp_path / "away.bin").read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="its shards end before the weight"):
        load(path)
    value = json.loads(path.read_text())
    for name in ("/etc/passwd", "../away.bin"):
        value["weightsManifest"][0]["paths"] = [name]
        path.write_text(json.dumps(value))
        with pytest.raises(CheckpointError, match="Shards must lie in the folder of their model.json"):
            load(path)
    path.write_text(json.dumps({"format": "layers-model", "modelTopology": {}}))
    with pytest.raises(CheckpointError, match="a layers model. Make one of it: tensorflowjs_converter"):
        load(path)
    path.write_text(json.dumps({"format": "graph-model", "modelTopology": {"node": []}}))
    with pytest.raises(CheckpointError, match="must have `weightsManifest`"):
        load(path)
    (tmp_path / "x.pb").write_bytes(b"\x0a\xff\x01hello")
    with pytest.raises(CheckpointError, match="A .pb file must be a frozen graph. Received: .*ends behind its message"):
        load(tmp_path / "x.pb")
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01\x12\x03\x0a\x01a")
    with pytest.raises(CheckpointError, match="a SavedModel of TensorFlow"):
        load(tmp_path / "saved_model.pb")


def test_bad_files(tmp_path, write_tiny):
    with pytest.raises(
        CheckpointError, match="A quantized tensor must have a scale. Received: .*the kernel of operator 0, CONV_2D"
    ):
        load(write_uint8(tmp_path / "x.tflite", drawn(LINEAR, normalization=AUTOML), scales=False))
    with pytest.raises(
        CheckpointError, match="operator 0, MEAN stands where a MnasNet has the stem. As it is, `mnasnet predict`"
    ):
        load(write_tiny(tmp_path / "y.tflite"))
    (tmp_path / "z.tflite").write_bytes(b"hello")
    with pytest.raises(CheckpointError, match="begins with the mark TFL3 after four bytes|a text file"):
        load(tmp_path / "z.tflite")
    with pytest.raises(CheckpointError, match="must exist"):
        load(tmp_path / "none.tflite")


def test_a_flex_operator_is_named(tmp_path):
    from keras_mnasnet.export.flatbuffer import ModelWriter

    writer = ModelWriter()
    image, output = writer.tensor("image", (1, 64, 64, 3)), writer.tensor("y", (1, 64, 64, 3))
    writer.custom("FlexErf", [image], [output], b"")
    (tmp_path / "x.tflite").write_bytes(writer.finish({"image": image}, {"y": output}, description="", metadata={}))
    with pytest.raises(CheckpointError, match="operator 0, FlexErf stands where a MnasNet has the stem"):
        load(tmp_path / "x.tflite")


def test_the_model_of_a_file_is_an_ordinary_one(tmp_path):
    """It is built, saved and loaded again with its linear stem, its normalization and its folded batch norms."""
    from keras_mnasnet import MnasNet, checkpoint_of, save

    path = write_uint8(tmp_path / "model.tflite", drawn(LINEAR, normalization=AUTOML))
    found = load(path)
    model = found.model(classifier_activation=None)
    np.testing.assert_allclose(model.predict(PIXELS, verbose=0), logits(found, PIXELS), atol=1e-4)
    assert model.get_layer("pixel_normalization") is not None
    assert "stem_relu" not in {layer.name for layer in model.layers}
    assert checkpoint_of(model).numerics == found.numerics
    for name in ("x.safetensors", "x.keras"):
        save(found, tmp_path / name)
        again = load(tmp_path / name)
        assert (again.numerics, again.architecture) == (found.numerics, found.architecture)
        np.testing.assert_array_equal(again.tensors["stem_conv/kernel"], found.tensors["stem_conv/kernel"])
    other = MnasNet(found.architecture, weights=path, normalization="imagenet", stem_activation="relu")
    held = checkpoint_of(other).numerics
    assert (held.normalization.mean[0], held.stem_activation, held.bn_epsilon) == (123.675, "relu", EPSILON)
