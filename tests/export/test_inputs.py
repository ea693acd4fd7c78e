"""What a model takes, from its layers: nested, Sequential, with Keras's own normalising layers, or not known."""

import keras
import numpy as np
import pytest

from keras_mnasnet import MnasNet, preprocess_input
from keras_mnasnet.export import TfliteFile, export
from keras_mnasnet.export.layers import NORMALIZED, PIXELS, UNCLEAR, as_functional, input_kind
from keras_mnasnet.export.verify import drawn_images
from keras_mnasnet.preprocessing import PIXELS as PIXEL_VALUES
from keras_mnasnet.preprocessing import SIGNED, Normalization

layers = keras.layers


def small(**options):
    image = keras.Input((8, 8, 3))
    before = options.pop("before", ())
    x = image
    for layer in before:
        x = layer(x)
    return keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x))), name="small")


@pytest.fixture(scope="module")
def bare():
    return MnasNet("small", weights=None, input_shape=(32, 32, 3), classes=4, include_preprocessing=False)


@pytest.fixture
def nested(bundled):
    image = keras.Input((32, 32, 3))
    return keras.Model(image, bundled(image), name="nested")


def test_kinds(bundled, nested, bare):
    twice = keras.Input((32, 32, 3))
    assert input_kind(bundled) == input_kind(nested) == input_kind(keras.Model(twice, nested(twice))) == PIXELS
    assert input_kind(bare) == NORMALIZED
    inner = keras.Model(twice, bare(twice))
    assert input_kind(inner) == NORMALIZED
    assert input_kind(keras.Model(twice, bare(twice / 255.0))) == PIXELS
    assert input_kind(small()) is None
    assert input_kind(small(before=[layers.Rescaling(1 / 127.5, -1)])) == PIXELS
    assert input_kind(small(before=[layers.RandomFlip(), layers.Rescaling([1 / 255] * 3)])) == PIXELS
    assert input_kind(small(before=[layers.Rescaling(2.0, -1)])) == UNCLEAR
    assert input_kind(small(before=[layers.Normalization(mean=[120.0] * 3, variance=[3000.0] * 3)])) == PIXELS
    assert input_kind(small(before=[layers.Normalization(mean=[0.5] * 3, variance=[0.1] * 3)])) == UNCLEAR
    assert input_kind(small(before=[layers.Conv2D(3, 1), layers.Rescaling(1 / 255)])) is None
    assert input_kind(keras.Sequential([keras.Input((32, 32, 3)), bundled])) == PIXELS


def test_a_nested_model_is_fed_pixels(nested, pictures, tmp_path):
    with pytest.raises(ValueError, match="must hold pixels 0..255.*look divided by 255"):
        export(nested, tmp_path / "a.tflite", quantize="int8", representative_data=pictures / 255)
    report = export(nested, tmp_path / "a.tflite")
    assert report.verified_on == "32 drawn images"
    assert TfliteFile(tmp_path / "a.tflite").normalization == PIXEL_VALUES


def test_pixels_for_a_normalised_input_are_refused(bare, tmp_path):
    pictures = drawn_images(3, 32, 32, 3)
    with pytest.raises(
        ValueError, match=r"must hold normalized images, within -4..4.*Received: values 0..255.*preprocess_input"
    ):
        export(bare, tmp_path / "a.tflite", quantize="int8", representative_data=pictures)
    assert np.abs(preprocess_input(pictures)).max() < 4
    assert not list(tmp_path.glob("*.tflite*"))


def test_a_given_normalization_feeds_the_verification(tmp_path):
    path = tmp_path / "a.tflite"
    report = export(small(), path, normalization="signed")
    assert report.verified_on == "32 drawn images, normalized"
    assert TfliteFile(path).normalization == SIGNED
    assert export(small(), path, normalization=Normalization()).verified_on == "32 drawn images"
    assert export(small(), path).verified_on == "32 drawn images, -1..1"


def test_sequential(tmp_path):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)], name="row"
    )
    report = export(model, tmp_path / "a.tflite", labels=["a", "b", "c"])
    assert [port.name for port in report.facts.outputs] == ["scores"]
    assert report.verified_against == "Keras row"
    assert report.comparisons[0].max_relative < 1e-5
    with pytest.raises(ValueError, match="Received: 2 names for 3 classes"):
        export(model, tmp_path / "a.tflite", labels=["a", "b"])
    with pytest.raises(ValueError, match="A Sequential model must be built. Received: 'open'"):
        export(keras.Sequential([layers.Dense(3)], name="open"), tmp_path / "a.tflite")
    assert as_functional(model).name == "row"


def called(layer, **options):
    """A model whose layer is called so."""
    image = keras.Input((8, 8, 3))
    x = layer(layers.Conv2D(4, 3)(image), **options)
    return keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)), name="trained")


@pytest.mark.parametrize("layer", [layers.BatchNormalization(name="norm"), layers.Dropout(0.5, name="drop")])
def test_layers_called_for_training_are_refused(layer, tmp_path):
    """Directly, in a nested model, and where a nested model is called so; called for inference they pass."""
    refused = rf"must call its layers for inference. Received: '\w+', which calls {layer.name} with training=True"
    model = called(layer, training=True)
    image = keras.Input((8, 8, 3))
    for each in (model, keras.Model(image, model(image), name="around"), keras.Sequential([image, model])):
        with pytest.raises(ValueError, match=refused):
            export(each, tmp_path / "a.tflite", progress=False)
    inner = called(layer)
    with pytest.raises(ValueError, match="which calls trained with training=True"):
        export(keras.Model(image, inner(image, training=True), name="around"), tmp_path / "a.tflite", progress=False)
    assert not list(tmp_path.glob("*.tflite*"))
    export(called(layer, training=False), tmp_path / "a.tflite", progress=False)


def test_a_network_of_the_family_called_for_training(tmp_path):
    """The direct writer would take it for a plain one."""
    model = MnasNet("a1", weights="cifar10", classes=10)
    changed = keras.models.clone_model(
        model, clone_function=lambda layer: layer,
        call_function=lambda layer, *given, **options: layer(
            *given, **(options | {"training": True} if layer.name == "stem_bn" else options)
        ),
    )  # fmt: skip
    with pytest.raises(ValueError, match="which calls stem_bn with training=True"):
        export(changed, tmp_path / "a.tflite", progress=False)
