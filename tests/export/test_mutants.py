"""No wrong file passes: files of altered models, judged against the true one in every precision, on photos and without any.

What cannot be seen by design: a wrong resize without photos, because drawn pictures have no right size; two classes of an int8
file that ends in a softmax, where none of the images shows either of them (its logits show every class).
"""

import dataclasses

import keras
import numpy as np
import pytest
from models import distinct, shaken
from mutants import CHANGES, mutant

from keras_mnasnet import MnasNet, load
from keras_mnasnet.data import sample_photos
from keras_mnasnet.detection import SSDLite
from keras_mnasnet.export import ExportError, TfliteFile, export, report
from keras_mnasnet.export.calibration import calibrated
from keras_mnasnet.export.converter import convert_model
from keras_mnasnet.export.graph import folded_weights, write_graph
from keras_mnasnet.export.rewrite import rewritten
from keras_mnasnet.export.verify import LIMITS, compare, comparisons, drawn_images, judge

DIRECT = ("float32", "float16", "weight-int8", "int8")
CONSTANTS = {"float32": 1e4, "float16": 8.0, "weight-int8": 100.0, "dynamic": 100.0, "int8": 100.0}
ORDER = np.array([3, 8, 6, 1, 9, 0, 7, 2, 5, 4])  # no class stays where it is
SWAPPED = np.array([0, 1, 2, 5, 4, 3, 6, 7, 8, 9])


def altered(change, layer="predictions"):
    """The bundled checkpoint with other weights in one layer; `change` is given the kernel, then the bias, if there is one."""
    checkpoint = load("cifar10")
    names = [name for name in (f"{layer}/kernel", f"{layer}/bias") if name in checkpoint.tensors]
    values = change(*(np.asarray(checkpoint.tensors[name]) for name in names))
    return dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, **dict(zip(names, values, strict=True))})


def heads(constant):
    """Classifiers that are wrong, as functions of the true kernel and bias."""
    rng = np.random.default_rng(0)

    def dead(kernel, bias):
        kernel, bias = kernel.copy(), bias.copy()
        kernel[:, 3], bias[3] = 0, bias.min() - 20
        return [kernel, bias]

    return {
        "shuffled classes": lambda kernel, bias: [kernel[:, ORDER], bias[ORDER]],
        "two classes swapped": lambda kernel, bias: [kernel[:, SWAPPED], bias[SWAPPED]],
        "labels shifted by one": lambda kernel, bias: [np.roll(kernel, 1, axis=1), np.roll(bias, 1)],
        "one dead class": dead,
        "saturated logits": lambda kernel, bias: [10 * kernel, 10 * bias],
        "random classes": lambda kernel, bias: [rng.permutation(kernel.ravel()).reshape(kernel.shape), bias],
        "shuffled, and a constant": lambda kernel, bias: [kernel[:, ORDER], bias[ORDER] + constant],
    }


BODIES = {
    "one layer of another seed": (
        "block4a_expand_conv", lambda kernel: [np.random.default_rng(1).permutation(kernel.ravel()).reshape(kernel.shape)],
    ),
    "red and blue swapped": ("stem_conv", lambda kernel: [kernel[:, :, ::-1]]),
}  # fmt: skip


def wrong_normalization(images):
    """What a model for -1..1 would make of pixels, as pixels of a model for ImageNet's mean and deviation."""
    mean, std = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])
    return ((images / 127.5 - 1) * std + mean).astype(np.float32)


def wrong_resize(images):
    """Through half the size, without a filter."""
    return images[:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2)


FEEDS = {
    "red and blue swapped": lambda images: images[..., ::-1],
    "wrong mean and deviation": wrong_normalization,
    "wrong resize": wrong_resize,
}


class Fed:
    """A file that is given other images than the model."""

    def __init__(self, file, change):
        self.file, self.change, self.batch = file, change, file.batch

    def values(self, images):
        return self.file.values(np.ascontiguousarray(self.change(images)))


class Output:
    """One output of a file of many, or a change of it, under the model's name."""

    def __init__(self, file, name, change=lambda values: values):
        self.file, self.name, self.change, self.batch = file, name, change, file.batch

    def values(self, images):
        return {"scores": self.change(self.file.values(images)[self.name])}


def verdict(file, expected, images, precision):
    """The reason why a file is refused, None where it passes; `expected` are the model's outputs for `images`."""
    rows = {image.tobytes(): row for image, row in zip(images, expected, strict=True)}

    def model(chunk):
        return {"scores": np.stack([rows[image.tobytes()] for image in chunk])}

    try:
        judge(compare(file, model, images, precision=precision), precision, LIMITS[precision])
    except ExportError as error:
        return str(error)
    return None


def run(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


def expected_logits(images):
    return run(MnasNet("a1", weights="cifar10", classifier_activation=None), images)


@pytest.fixture(scope="module", params=["photos", "drawn"])
def images(request):
    """64 photos of CIFAR-10, or as many drawn pictures."""
    if request.param == "drawn":
        return drawn_images(64, 32, 32, 3)
    from conftest import _folder

    return sample_photos(_folder("KERAS_MNASNET_DATA") / "cifar10", load("cifar10").preprocessing, 64)


def written(checkpoint, precision, images=None, **options):
    """The bytes of a checkpoint's file, written directly; `images` calibrate int8."""
    weights = folded_weights(
        checkpoint.architecture, checkpoint.tensors, classes=checkpoint.classes, bn_epsilon=checkpoint.numerics.bn_epsilon
    )
    graph = {
        "height": 32, "width": 32, "classes": checkpoint.classes, "padding": checkpoint.numerics.padding,
        "preprocessing": checkpoint.numerics.normalization,
    }  # fmt: skip
    ranges = None
    if precision == "int8":
        _, weights, ranges = calibrated(checkpoint.architecture, weights, images, graph)
    return write_graph(checkpoint.architecture, weights, precision=precision, ranges=ranges, **graph, **options)


@pytest.fixture(scope="module")
def true():
    """The bundled A1 in Keras, with a softmax."""
    return MnasNet("a1", weights="cifar10")


@pytest.mark.parametrize("precision", DIRECT)
def test_files_written_directly(true, images, precision):
    """Every wrong one is a file: the true one with other constants, or one of another checkpoint; but those fed otherwise."""
    eight_bits = precision == "int8"  # whose softmax hides what its logits show
    expected = expected_logits(images) if eight_bits else run(true, images)
    content = written(load("cifar10"), precision, images, softmax=not eight_bits)
    file = TfliteFile(content, threads=1)
    passed = {"true": verdict(file, expected, images, precision)}
    for name in CHANGES:
        passed[name] = verdict(TfliteFile(mutant(content, name), threads=1), expected, images, precision)
    for name, change in FEEDS.items():
        passed[f"{name}, fed"] = verdict(Fed(file, change), expected, images, precision)
    constant = CONSTANTS[precision]
    logits = expected_logits(images)
    for name, order in (("true, and a constant", np.arange(10)), ("shuffled, and a constant", ORDER)):
        checkpoint = altered(lambda kernel, bias, order=order: [kernel[:, order], bias[order] + np.float32(constant)])
        file = TfliteFile(written(checkpoint, precision, images, softmax=False), threads=1)
        passed[name] = verdict(file, logits + np.float32(constant), images, precision)
    assert [name for name, reason in passed.items() if reason is None] == ["true", "true, and a constant"]
    assert len(passed) == 14


@pytest.fixture(scope="module")
def converted(true):
    """converted(precision): one file of every mutant, an output each."""
    made = {}

    def convert(precision):
        if precision not in made:
            image = keras.Input((32, 32, 3))
            features = keras.Model(true.input, true.get_layer("avg_pool").output)(image)
            weights = true.get_layer("predictions").get_weights()
            outputs = {}
            for name, change in ({"true": lambda *weights: weights} | heads(CONSTANTS[precision])).items():
                dense = keras.layers.Dense(10, name=name.replace(" ", "_").replace(",", ""))
                outputs[name] = dense(features)
                dense.set_weights(change(*weights))
            for name, (layer, change) in BODIES.items():
                body = altered(change, layer).model(classifier_activation=None, name=name.replace(" ", "_"))
                outputs[name] = body(image)
            zoo = keras.Model(image, outputs)
            content = convert_model(zoo, (1, 32, 32, 3), quantize=precision)
            content, _ = rewritten(content, input_names=["image"], output_names=sorted(outputs), description="", metadata={})
            made[precision] = TfliteFile(content, threads=1)
        return made[precision]

    return convert


def test_files_of_the_converter(converted, images):
    precision = "dynamic"
    expected = expected_logits(images)
    file = converted(precision)
    names = ["true", *heads(0), *BODIES]
    passed = {
        name: verdict(Output(file, name), expected + ("constant" in name) * CONSTANTS[precision], images, precision)
        for name in names
    }
    for name, change in FEEDS.items():
        passed[f"{name}, fed"] = verdict(Fed(Output(file, "true"), change), expected, images, precision)
    assert [name for name, reason in passed.items() if reason is None] == ["true"]
    assert len(passed) == 13


@pytest.mark.parametrize("precision", [each for each in DIRECT if LIMITS[each].variation is not None])
def test_outputs_that_hardly_differ(precision):
    """A network whose biases drown the image: what the image is for is compared by itself."""
    keras.utils.set_random_seed(3)
    options = {"width_multiplier": 0.35, "input_shape": (32, 32, 3), "classes": 10, "classifier_activation": None}
    model, images = shaken(MnasNet("b1", weights=None, **options)), drawn_images(24, 32, 32, 3)
    content, expected = written(load(model), precision, softmax=False), run(model, images)
    (found,) = comparisons(TfliteFile(content, threads=1).values(images), {"scores": expected}, precision)
    assert found.judged == "variation"
    assert found.variation < 0.6
    passed = {name: verdict(TfliteFile(mutant(content, name), threads=1), expected, images, precision) for name in CHANGES}
    assert [name for name, reason in passed.items() if reason is None] == []
    (colors,) = comparisons(
        TfliteFile(mutant(content, "red and blue swapped"), threads=1).values(images), {"scores": expected}, precision
    )
    assert colors.variation > 1


def test_softmax_in_8_bits(true, images):
    """A dead class is seen where images show it; all classes in the photos, some of them in drawn pictures."""
    file, expected = TfliteFile(written(load("cifar10"), "int8", images), threads=1), run(true, images)
    assert verdict(file, expected, images, "int8") is None
    shown = int(np.bincount(expected.argmax(axis=1)).argmax())
    other = (shown + 1) % 10
    order = np.arange(10)
    order[[shown, other]] = other, shown
    wrong = {"shuffled": expected[:, ORDER], "shifted": np.roll(expected, 1, axis=1), "swapped": expected[:, order]}
    wrong["dead"] = np.where(np.arange(10) == shown, 0, expected)
    for name, values in wrong.items():
        assert verdict(file, values / values.sum(axis=1, keepdims=True), images, "int8"), name
    for name, change in FEEDS.items():
        assert verdict(Fed(file, change), expected, images, "int8"), name
    saturated = Output(file, "scores", lambda values: values**10 / (values**10).sum(axis=1, keepdims=True))
    assert verdict(saturated, expected, images, "int8")


def test_labels_in_another_order(tmp_path, monkeypatch):
    """Given so, or written so."""
    names = load("cifar10").labels
    with pytest.raises(ValueError, match="in the order of the model's classes. Received: class 0 is 'truck' and 'airplane'"):
        export("cifar10", tmp_path / "a.tflite", labels=names[::-1], progress=False)
    with pytest.raises(ValueError, match=r"must be names without line breaks. Received: 'cat\\ndog'"):
        export("cifar10", tmp_path / "a.tflite", labels=["cat\ndog", *names[1:]], progress=False)
    real = report.append_files
    monkeypatch.setattr(
        report, "append_files", lambda content, files: real(content, {**files, "labels.txt": files["labels.txt"][::-1]})
    )
    with pytest.raises(
        ExportError, match="must name the model's classes, in their order. Received: truck, ship.* for airplane"
    ):
        export("cifar10", tmp_path / "a.tflite", progress=False)
    assert not list(tmp_path.glob("*.tflite*"))


def test_another_preprocessing_in_the_file(tmp_path, monkeypatch):
    real = report.append_files
    monkeypatch.setattr(
        report, "append_files",
        lambda content, files: real(content, {**files, "export.json": files["export.json"].replace("bicubic", "bilinear")}),
    )  # fmt: skip
    with pytest.raises(ExportError, match="must say how the model takes photos: .*bicubic.*Received: .*bilinear"):
        export("cifar10", tmp_path / "a.tflite", progress=False)
    assert not list(tmp_path.glob("*.tflite*"))


class Detector:
    """The raw outputs of a detector, changed."""

    def __init__(self, model, change=lambda images: images, codes=lambda values: values, logits=lambda values: values):
        self.model, self.batch, self.change, self.codes, self.logits = model, 1, change, codes, logits

    def values(self, images):
        found = self.model.values(np.ascontiguousarray(self.change(images)))
        return {"codes": self.codes(found["codes"]), "logits": self.logits(found["logits"])}


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_detectors(precision):
    keras.utils.set_random_seed(0)
    pictures = drawn_images(40, 96, 96, 3, seed=3)
    model = distinct(SSDLite("b1", list("abcd"), width_multiplier=0.35, input_size=96), pictures)
    images = pictures[:8]

    def file_of(detector):
        quantize = None if precision == "float32" else precision
        content = convert_model(
            detector, (1, 96, 96, 3), quantize=quantize, images=pictures if quantize == "int8" else None, output_dtype="float32"
        )
        content, _ = rewritten(content, input_names=["image"], output_names=["codes", "logits"], description="", metadata={})
        return TfliteFile(content, threads=1)

    def oracle(chunk):
        found = model(chunk, training=False)
        return {"codes": found["boxes"], "logits": found["scores"]}

    true = file_of(model)
    layer = next(layer for layer in model.layers if layer.name.startswith("block3") and layer.name.endswith("expand_conv"))
    files = {
        "true": true,
        "shuffled classes": Detector(true, logits=lambda values: values[..., [0, 2, 3, 4, 1]]),
        "two classes swapped": Detector(true, logits=lambda values: values[..., [0, 1, 3, 2, 4]]),
        "one dead class": Detector(true, logits=lambda values: np.where(np.arange(5) == 2, -20, values)),
        "background last": Detector(true, logits=lambda values: np.roll(values, -1, axis=-1)),
        "saturated": Detector(true, logits=lambda values: 10 * values),
        "x and y swapped": Detector(true, codes=lambda values: values[..., [1, 0, 3, 2]]),
        "boxes shifted by one": Detector(true, codes=lambda values: np.roll(values, 1, axis=1)),
        "red and blue swapped": Detector(true, change=FEEDS["red and blue swapped"]),
        "wrong mean and deviation": Detector(true, change=wrong_normalization),
    }
    kernel = layer.get_weights()[0]
    layer.set_weights([np.random.default_rng(1).permutation(kernel.ravel()).reshape(kernel.shape)])
    files["one layer of another seed"] = file_of(model)
    layer.set_weights([kernel])
    passed = []
    for name, file in files.items():
        try:
            judge(compare(file, oracle, images, precision=precision), precision, LIMITS[precision])
            passed.append(name)
        except ExportError:
            pass
    assert passed == ["true"]
