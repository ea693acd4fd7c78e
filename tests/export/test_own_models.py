"""Keras models of people's own: other types, channels and inputs, pixels normalized anyhow, classes unknown to Keras."""

import json
import os
import re
import zipfile
from pathlib import Path

import keras
import numpy as np
import PIL.Image
import pytest
from keras import layers, ops
from keras.applications import imagenet_utils
from models import shaken

from keras_mnasnet import MnasNet, load
from keras_mnasnet.cli.main import main
from keras_mnasnet.export import FileClassifier, TfliteFile, export
from keras_mnasnet.export.file import grey
from keras_mnasnet.export.layers import PIXELS, UNCLEAR, in_float32, input_kind
from keras_mnasnet.export.verify import drawn_images
from keras_mnasnet.preprocessing import UNIT

CASES = Path(os.environ.get("KERAS_MNASNET_CASES", "none"))
with_cases = pytest.mark.skipif(not CASES.is_dir(), reason="KERAS_MNASNET_CASES is not set")


def tiny(before=lambda x: x / 255.0, shape=(8, 8, 3), dtype=None, end=None, **options):
    """A network of two layers whose outputs differ from image to image."""
    keras.utils.set_random_seed(0)
    image = keras.Input(shape, dtype=dtype, **options)
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="first")(before(image))
    x = layers.Conv2D(8, 1, name="second")(x)
    x = (end or layers.GlobalAveragePooling2D())(x)
    return keras.Model(image, layers.Dense(4, kernel_initializer=keras.initializers.RandomNormal(stddev=3.0))(x), name="own")


def run(path, images):
    ((_, values),) = TfliteFile(path, threads=1).values(images).items()
    return values


@pytest.fixture
def policy():
    """policy(name): the global dtype policy, for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("name", ["mixed_float16", "float16", "mixed_bfloat16", "float64"])
def test_other_types_are_built_again_in_float32(name, policy, tmp_path, caplog):
    """Also where they are of a few layers only, and inside a nested model."""
    policy(name)
    inner = tiny()
    policy("float32")
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.Activation("softmax")(inner(image)), name="outer")
    report = export(model, tmp_path / "a.tflite", progress=False)
    assert report.verified_on == "32 drawn images"
    assert f"it has the dtype policy {name}" in caplog.text
    plain = tiny()
    plain.set_weights([np.asarray(value, np.float32) for value in inner.get_weights()])
    images = drawn_images(4, 8, 8, 3)
    wanted = ops.convert_to_numpy(ops.softmax(plain(images)))
    np.testing.assert_allclose(run(tmp_path / "a.tflite", images), wanted, rtol=1e-4, atol=1e-6)


def test_a_member_of_the_family_in_mixed_precision_is_written_directly(policy, tmp_path):
    policy("mixed_bfloat16")
    model = shaken(MnasNet("small", weights=None, width_multiplier=0.35, input_shape=(32, 32, 3), classes=4))
    policy("float32")
    report = export(model, tmp_path / "a.tflite", photos=drawn_images(4, 32, 32, 3), progress=False)
    assert report.route == "direct"
    assert report.comparisons[0].error < 1e-3


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
def test_quantized_layers_are_named(tmp_path):
    model = tiny()
    model.quantize("int8")
    with pytest.raises(ValueError, match="Received: 'own' with int8_from_float32.*before model.quantize"):
        export(model, tmp_path / "a.tflite", progress=False)


FLIPPED = (lambda x: imagenet_utils.preprocess_input(x, mode="caffe"), PIXELS)
NORMALIZING = {
    "division": (lambda x: x / 255.0, PIXELS),
    "product": (lambda x: (1 / 255.0) * x, PIXELS),
    "tf": (lambda x: imagenet_utils.preprocess_input(x, mode="tf"), PIXELS),
    "torch": (lambda x: imagenet_utils.preprocess_input(x, mode="torch"), PIXELS),
    "caffe": FLIPPED,
    "arrays": (lambda x: (x - np.float32([123, 117, 104])) / np.float32([58, 57, 57]), PIXELS),
    "ops": (lambda x: ops.divide(ops.subtract(ops.cast(x, "float32"), 127.5), 127.5), PIXELS),
    "mean alone": (lambda x: x - 128.0, PIXELS),
    "after layers": (lambda x: layers.RandomFlip()(layers.Resizing(12, 12)(x)) / 255.0, PIXELS),
    "between borders": (lambda x: layers.ZeroPadding2D(3)(x / 255.0), PIXELS),
    "in a nested model": (lambda x: keras.Sequential([keras.Input((8, 8, 3)), layers.Rescaling(1 / 255)])(x), PIXELS),
    "layer": (layers.Rescaling(1 / 127.5, -1), PIXELS),
    "grey": (lambda x: ops.image.rgb_to_grayscale(x) / 255.0, PIXELS),
    "negative": (lambda x: 1 - x / 255.0, PIXELS),
    "nothing": (lambda x: x, None),
    "cast": (lambda x: ops.cast(x, "float32"), None),
    "of 0..1": (lambda x: x * 2.0 - 1.0, UNCLEAR),
    "of 0..1, by ImageNet": (lambda x: (x - 0.485) / 0.229, UNCLEAR),
    "curved": (lambda x: ops.sqrt(x / 255.0), UNCLEAR),
    "cut off": (lambda x: ops.clip(x, 0, 1), UNCLEAR),
}


@pytest.mark.parametrize("name", NORMALIZING)
def test_normalization_is_recognized(name):
    before, kind = NORMALIZING[name]
    assert input_kind(tiny(before)) == kind


def test_normalization_after_a_round_trip_and_inside_a_backbone(tmp_path):
    """In a file, in Keras's own applications, and in a Sequential around them."""
    tiny(FLIPPED[0]).save(tmp_path / "m.keras")
    assert input_kind(keras.saving.load_model(tmp_path / "m.keras")) == PIXELS
    backbone = keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3), include_top=False, alpha=0.75)
    assert input_kind(keras.Sequential([keras.Input((32, 32, 3)), backbone, layers.Flatten(), layers.Dense(2)])) == PIXELS
    bare = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), include_top=False, alpha=0.35)
    assert input_kind(bare) is None
    image = keras.Input((32, 32, 3))
    assert input_kind(keras.Model(image, bare(imagenet_utils.preprocess_input(image, mode="tf")))) == PIXELS


def test_what_is_unclear_is_asked_for(tmp_path, caplog):
    model = tiny(lambda x: x * 2.0 - 1.0)
    with pytest.raises(ValueError, match=r"`normalization` \(--input\) must say.*none for 'own'.*unit for 0..1"):
        export(model, tmp_path / "a.tflite", progress=False)
    report = export(model, tmp_path / "a.tflite", normalization="unit", progress=False)
    assert report.verified_on == "32 drawn images, normalized"
    assert TfliteFile(tmp_path / "a.tflite").normalization == UNIT
    export(tiny(lambda x: x), tmp_path / "b.tflite", progress=False)
    assert "Nothing says what own takes of pixels 0..255" in caplog.text


@pytest.fixture
def photos(tmp_path):
    """Twelve photos of two classes."""
    rng = np.random.default_rng(0)
    for number in range(12):
        (tmp_path / "photos" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        values = drawn_images(1, 24, 24, 3, seed=number)[0] * rng.uniform(0.4, 1)
        PIL.Image.fromarray(values.astype(np.uint8)).save(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png")
    return tmp_path / "photos"


def test_photos_become_grey(photos, tmp_path):
    """For calibration and verification, and where the file is used."""
    model, path = tiny(layers.Rescaling(1 / 255), (8, 8, 1)), tmp_path / "grey.tflite"
    report = export(model, path, quantize="int8", representative_data=photos, photos=photos, progress=False)
    assert report.verified_on == "12 given images"
    file = FileClassifier(path, threads=1)
    assert b"Grey image" in file.file.content
    images = drawn_images(8, 8, 8, 3)
    wanted = ops.convert_to_numpy(model(grey(images)))
    assert np.abs(file.run(images)[0] - wanted).max() < 0.2 * np.ptp(wanted)


@pytest.mark.parametrize("nested", [False, True])
def test_layers_that_prepare_images_stand_anywhere(nested, tmp_path):
    """Keras describes every call of theirs with training=True, their default; a file holds what they do at inference."""
    several = [layers.RandomFlip(), layers.RandomRotation(0.3), layers.RandomBrightness(0.9), layers.Resizing(8, 8)]

    def before(x):
        for layer in several:
            x = layer(x)
        return x / 255.0

    model, plain = tiny(before, (12, 12, 3)), tiny(lambda x: several[-1](x) / 255.0, (12, 12, 3))
    if nested:
        model = keras.Sequential([keras.Input((12, 12, 3)), model])
    model.save(tmp_path / "m.keras")
    for each in (model, tmp_path / "m.keras"):
        assert export(each, tmp_path / "a.tflite", progress=False).verified_on == "32 drawn images"
    images = drawn_images(4, 12, 12, 3)
    np.testing.assert_allclose(run(tmp_path / "a.tflite", images), ops.convert_to_numpy(plain(images)), rtol=1e-4, atol=1e-5)


def test_inputs_that_are_not_one_image_are_told_what_to_do(tmp_path):
    a, b, line, clip = (keras.Input(shape) for shape in ((8, 8, 3), (8, 8, 3), (8, 8), (4, 8, 8, 3)))
    for inputs, way in (
        ([a, b], "Give the other inputs values of their own"),
        ([line], r"image = keras.Input\(\[8, 8, 1\]\), keras.Model\(image, model\(image\[..., 0\]\)\)"),
        ([clip], "Only models of images"),
    ):
        model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Add()(inputs) if inputs[1:] else inputs[0])))
        with pytest.raises(ValueError, match=f"with one input .B, H, W, C.*{way}"):
            export(model, tmp_path / "a.tflite", progress=False)
    image = keras.Input((8, 8, 1))
    model = keras.Model(line, layers.Dense(2)(layers.Flatten()(line / 255.0)))
    export(keras.Model(image, model(image[..., 0])), tmp_path / "a.tflite", progress=False)


def test_other_numbers_of_channels(photos, tmp_path):
    with pytest.raises(ValueError, match=r"must be an array \[N, 8, 8, 2\].*three channels or are made grey"):
        export(tiny(shape=(8, 8, 2)), tmp_path / "a.tflite", photos=photos, progress=False)
    report = export(tiny(shape=(8, 8, 4)), tmp_path / "a.tflite", photos=drawn_images(8, 8, 8, 4), progress=False)
    assert report.verified_on == "8 given images"
    with pytest.raises(ValueError, match="one for each channel. Received: 3 for 'own', whose images have 1"):
        export(tiny(lambda x: x, (8, 8, 1)), tmp_path / "b.tflite", normalization="imagenet", progress=False)
    image = keras.Input((3, 8, 8))
    first = keras.Model(image, layers.GlobalAveragePooling2D(data_format="channels_first", name="pool")(image))
    with pytest.raises(ValueError, match="must take channels last.*in which pool take channels first"):
        export(first, tmp_path / "b.tflite", progress=False)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_an_input_of_whole_numbers(dtype, photos, tmp_path):
    """It takes the pixels themselves; an int8 file computes in integers throughout."""
    model, path = tiny(lambda x: ops.cast(x, "float32") / 255.0, dtype=dtype), tmp_path / "a.tflite"
    report = export(
        model, path, quantize="int8", representative_data=photos, input_dtype="uint8", progress=False
    )  # fmt: skip
    (port,) = report.facts.inputs
    assert (port.dtype, port.scale, port.zero_point) == ("uint8", 1.0, 0)
    assert "CAST" not in report.facts.operators
    images = drawn_images(8, 8, 8, 3)
    wanted = ops.convert_to_numpy(model(images.astype(dtype)))
    assert np.abs(run(path, images) - wanted).max() < 0.2 * np.ptp(wanted)


def test_inputs_that_no_file_can_have(tmp_path):
    for dtype in ("int8", "bool"):
        with pytest.raises(ValueError, match=f"whole numbers that hold 0..255. Received: an Input of {dtype}"):
            export(tiny(lambda x: ops.cast(x, "float32"), dtype=dtype), tmp_path / "a.tflite", progress=False)
    wrapping = tiny(lambda x: ops.cast(x - ops.cast(100, "uint8"), "float32") / 255.0, dtype="uint8")
    with pytest.raises(ValueError, match="Received: 'own' with an Input of uint8, whose output '.*' then differs by"):
        export(wrapping, tmp_path / "a.tflite", progress=False)


def test_batches_sides_and_ends(tmp_path):
    """A batch of a fixed size, open sides, and a map of one pixel at the end, which is named as classes are."""
    fixed = tiny(shape=None, batch_shape=(8, 8, 8, 3))
    assert in_float32(fixed)[1] == ("an Input of 8 images",)
    report = export(fixed, tmp_path / "a.tflite", progress=False)
    assert report.facts.inputs[0].shape == (1, 8, 8, 3)
    end = layers.GlobalAveragePooling2D(keepdims=True)
    model = tiny(shape=(None, None, 3), end=end)
    with pytest.raises(ValueError, match="Pass size="):
        export(model, tmp_path / "b.tflite", progress=False)
    report = export(model, tmp_path / "b.tflite", size=16, labels=list("abcd"), progress=False)
    assert report.comparisons[0].top1_agreement == 1.0
    assert FileClassifier(tmp_path / "b.tflite").labels == tuple("abcd")


def test_operators_make_another_network_of_a_member():
    """Between a MnasNet's layers they are not passed over: it is no checkpoint, and no file of it is written directly."""
    member = MnasNet("small", weights=None, width_multiplier=0.35, input_shape=(32, 32, 3), classes=4)
    model = keras.models.clone_model(
        member, clone_function=lambda layer: type(layer).from_config(layer.get_config()),
        call_function=lambda layer, x, *more, **options: layer(x * 0.5 if layer.name == "head_conv" else x, *more, **options),
    )  # fmt: skip
    assert load(member).classes == 4
    with pytest.raises(ValueError, match="other or missing layers"):
        load(model)


class Doubled(layers.Layer):
    """A layer that Keras does not know."""

    def call(self, x):
        return 2 * x


def doubling(x):
    """An activation that Keras does not know."""
    return 2 * x


@pytest.mark.parametrize(
    ("before", "named", "way"),
    [
        (Doubled(name="mine"), r"the class 'Doubled' .*\(layer 'mine'\)", "custom_objects={'Doubled': ...}"),
        (layers.Activation(doubling, name="act"), r"the function 'doubling' .*\(layer 'act'\)", "custom_objects={'doubling'"),
        (layers.Lambda(doubling, name="l"), r"the class 'Lambda' of 'keras.layers' \(layer 'l'\)", "safe_mode=False"),
    ],
)
def test_own_layers_are_named_in_files_and_taken_in_python(before, named, way, tmp_path, capsys):
    model = tiny(before)
    model.save(tmp_path / "m.keras")
    assert main(["export", str(tmp_path / "m.keras"), "-o", str(tmp_path / "a.tflite")]) != 0
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(named, line)
    assert way in line
    report = export(model, tmp_path / "a.tflite", normalization="unit", progress=False)
    assert report.route == "converter"


def test_a_model_of_an_own_class_is_taken_inside_a_functional_one(tmp_path):
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.first, self.last = layers.Conv2D(4, 3), layers.Dense(3)

        def call(self, x):
            return self.last(ops.mean(self.first(x / 255.0), axis=(1, 2)))

    model, image = Own(), keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match=r"Received: 'own' with the inputs \[\].*keras.Model\(image, model\(image\)\)"):
        export(model, tmp_path / "a.tflite", progress=False)
    outer = keras.Model(image, model(image))
    assert export(outer, tmp_path / "a.tflite", normalization="pixels", progress=False).verified_on == "32 drawn images"


def test_a_file_of_keras_2_is_named(tmp_path, capsys):
    tiny().save(tmp_path / "new.keras")
    with zipfile.ZipFile(tmp_path / "new.keras") as new, zipfile.ZipFile(tmp_path / "old.keras", "w") as old:
        for name in new.namelist():
            old.writestr(name, json.dumps({"keras_version": "2.15.0"}) if name == "metadata.json" else new.read(name))
    assert main(["export", str(tmp_path / "old.keras"), "-o", str(tmp_path / "a.tflite")]) != 0
    assert "which Keras '2.15.0' (tf_keras) wrote" in capsys.readouterr().err


def test_a_loss_of_ones_own_does_not_matter(tmp_path):
    def loss(wanted, found):
        return ops.mean(ops.abs(wanted - found))

    model = tiny()
    model.compile("adam", loss)
    model.save(tmp_path / "m.keras")
    assert export(tmp_path / "m.keras", tmp_path / "a.tflite", progress=False).verified_on == "32 drawn images"


@with_cases
@pytest.mark.parametrize("case", ["26_mixed_float16", "29_normalised_by_operators"])
def test_handed_models(case, tmp_path):
    report = export(CASES / case / "model.keras", tmp_path / "m.tflite", progress=False)
    assert report.verified_on == "32 drawn images"
    assert report.comparisons[0].error < 1e-4


@with_cases
@pytest.mark.parametrize(("case", "options"), [("27_grayscale_int8", {}), ("28_uint8_input_int8", {"input_dtype": "uint8"})])
def test_handed_models_in_int8(case, options, tmp_path):
    report = export(
        CASES / case / "model.keras", tmp_path / "m.tflite", quantize="int8", representative_data=CASES / case / "photos",
        progress=False, **options,
    )  # fmt: skip
    assert report.verified_on == "the first 12 calibration images"
    assert report.facts.floating == ()


@with_cases
def test_handed_custom_layer(tmp_path):
    with pytest.raises(ValueError, match=r"the class 'Scale' \(layer 'my_scale'\).*custom_objects=.*export"):
        export(CASES / "30_custom_layer" / "model.keras", tmp_path / "m.tflite", progress=False)


@with_cases
def test_handed_input_that_is_not_quantized():
    raw, plain = (
        FileClassifier(CASES / "31_unquantized_uint8_input" / f"{name}.tflite", threads=1)
        for name in ("uint8", "same_network_float")
    )
    images = drawn_images(4, raw.size, raw.size, 3)
    np.testing.assert_allclose(raw.run(images)[0], plain.run(images)[0], atol=1e-6)
