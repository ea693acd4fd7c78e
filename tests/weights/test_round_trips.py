"""The family through every format and precision, and back: the same function, or exactly the dequantized one."""

import numpy as np
import pytest
from corpus import HAS_ONNX
from graphs import GATED, LINEAR, drawn, logits, settled

from keras_mnasnet import load, save
from keras_mnasnet.export import TfliteFile, export
from keras_mnasnet.export.verify import drawn_images
from keras_mnasnet.family import FAMILY
from keras_mnasnet.preprocessing import IMAGENET, SIGNED

PIXELS = drawn_images(8, 64, 64, 3)
LABELS = ("cat", "dog", "bird")
NETWORKS = {  # width, what follows the stem, padding, normalization
    "a1": (0.35, "relu", "same", IMAGENET),
    "a2": (0.5, "linear", "symmetric", SIGNED),
    "a3": (0.35, "relu", "symmetric", SIGNED),
    "b1": (0.75, "linear", "same", IMAGENET),
    "small": (1.4, "linear", "symmetric", IMAGENET),
    "d1": (0.35, "relu", "same", SIGNED),
    "d1-320": (0.5, "linear", "same", IMAGENET),
}
PLAIN, KERAS = (".safetensors", ".tflite", ".onnx"), (".keras", ".weights.h5")
SMALLER = {"float16": (".tflite", ".onnx"), "weight-int8": (".tflite",), "int8": (".onnx",)}
CONVERTED = {"dynamic": (".tflite",), "int8": (".tflite",)}  # by TensorFlow, in many seconds
LAYOUTS = {2: ((1, 0),), 4: ((3, 0, 1, 2), (3, 2, 0, 1), (2, 3, 0, 1)), 1: ((0,),)}  # of kernels and biases in files


def test_the_family_is_whole():
    assert set(NETWORKS) == set(FAMILY)


@pytest.fixture(params=NETWORKS)
def network(request):
    """A network of the family with drawn weights."""
    width, stem, padding, normalization = NETWORKS[request.param]
    scaled = FAMILY[request.param].scaled(width).with_stem_activation(stem)
    return settled(drawn(str(scaled), labels=LABELS, padding=padding, normalization=normalization), PIXELS)


@pytest.fixture(params=[(GATED, "symmetric"), (LINEAR, "same"), (LINEAR, "symmetric")], ids=["gated", "same", "symmetric"])
def small(request):
    """A network of a few layers, which Keras and TensorFlow's converter are quick with."""
    text, padding = request.param
    return drawn(text, labels=LABELS, padding=padding)


def written(checkpoint, path, quantize=None):
    """The checkpoint as a file of whatever format."""
    if path.suffix in (".tflite", ".onnx"):
        photos = PIXELS if quantize == "int8" else None
        export(checkpoint, path, quantize=quantize, representative_data=photos, accept_changed=1.0, progress=False)
    else:
        save(checkpoint, path)
    return path


def kept(found, expected, off=0.0):
    """That everything beside the weights came back; mean and deviation of an int8 file may be `off` by a part of a pixel."""
    assert found.architecture.same_network(expected.architecture)
    for name in ("labels", "classes", "size"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("padding", "stem_activation"):
        assert getattr(found.numerics, name) == getattr(expected.numerics, name), name
    ours, theirs = (each.numerics.normalization.per_channel for each in (found, expected))
    np.testing.assert_allclose([ours.mean, ours.std], [theirs.mean, theirs.std], rtol=1e-6, atol=off)


def constants(path):
    """The real values, float32, of all constants of a file."""
    if path.suffix == ".onnx":
        import onnx

        held = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
        for name, value in held.items():
            scale = held.get(name.removesuffix("_quantized") + "_scale")
            if name.endswith("_quantized") and scale is not None:
                value = value * scale.astype(np.float64).reshape(-1, *[1] * (value.ndim - 1)) if scale.ndim else value * scale
            yield np.asarray(value).astype(np.float32)
        return
    interpreter = TfliteFile(path).interpreter
    for details in interpreter.get_tensor_details():
        try:
            value = interpreter.get_tensor(details["index"])
        except ValueError:
            continue
        how = details["quantization_parameters"]
        if len(how["scales"]) and value.dtype != np.float32:
            sides = [1] * value.ndim
            sides[how["quantized_dimension"]] = -1
            scales, zeros = (how[name].astype(np.float64).reshape(sides) for name in ("scales", "zero_points"))
            value = (value - zeros) * scales
        yield value.astype(np.float32)


def holds(path, tensors):
    """That every kernel and bias is one of a file's constants, to the bit."""
    known = {(value.shape, value.tobytes()) for value in constants(path)}
    for name, value in tensors.items():
        if name.rpartition("/")[2] in ("kernel", "bias", "beta"):
            laid = (np.ascontiguousarray(value.transpose(order)) for order in LAYOUTS[value.ndim])
            assert any((each.shape, each.tobytes()) in known for each in laid), name


def formats(precisions):
    return [(quantize, each) for quantize, suffixes in precisions.items() for each in suffixes if HAS_ONNX or each != ".onnx"]


def same_outputs(network, folder, suffixes, wanted):
    """To 1e-5 of the largest logit."""
    tolerance = 1e-5 * np.abs(wanted).max()
    for _, suffix in formats({None: suffixes}):
        found = load(written(network, folder / f"x{suffix}"))
        kept(found, network)
        np.testing.assert_allclose(logits(found, PIXELS), wanted, rtol=0, atol=tolerance, err_msg=suffix)


def exactly_the_dequantized(network, folder, precisions):
    wanted = logits(network, PIXELS)
    for quantize, suffix in formats(precisions):
        path = written(network, folder / f"{quantize}{suffix}", quantize)
        found = load(path)
        kept(found, network, off=0.5 if quantize == "int8" else 0.0)
        holds(path, found.tensors)
        np.testing.assert_allclose(logits(found, PIXELS), wanted, rtol=0, atol=0.3 * np.abs(wanted).max(), err_msg=path.name)


def test_float_files_give_the_same_outputs(network, tmp_path):
    same_outputs(network, tmp_path, PLAIN, logits(network, PIXELS))


def test_smaller_files_are_read_exactly(network, tmp_path):
    exactly_the_dequantized(network, tmp_path, SMALLER)


def in_keras(network):
    return network.model(classifier_activation=None).predict(PIXELS, verbose=0)


def test_small_networks_from_keras_to_keras(small, tmp_path):
    wanted = in_keras(small)
    same_outputs(small, tmp_path, (*PLAIN, *KERAS), wanted)
    for path in tmp_path.glob("x.*"):
        if path.suffix != ".json":
            np.testing.assert_allclose(
                in_keras(load(path)), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max(), err_msg=path.name
            )


def test_small_files_of_the_converter_are_read_exactly(small, tmp_path):
    exactly_the_dequantized(small, tmp_path, CONVERTED)


@pytest.mark.nightly
def test_the_family_from_keras_to_keras(network, tmp_path):
    same_outputs(network, tmp_path, (*PLAIN, *KERAS), in_keras(network))
    np.testing.assert_allclose(in_keras(load(tmp_path / "x.tflite")), in_keras(network), atol=1e-4)


@pytest.mark.nightly
def test_files_of_the_converter_are_read_exactly(network, tmp_path):
    exactly_the_dequantized(network, tmp_path, CONVERTED)
