"""The detector's figures, structure, weights and file."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest
from models import shaken

from keras_mnasnet import CheckpointError, MnasNet, load, save
from keras_mnasnet.architecture import Layer
from keras_mnasnet.detection import DetectorSpec, SSDLite, predict, spec_of
from keras_mnasnet.detection.anchors import anchor_boxes
from keras_mnasnet.detection.spec import COCO_IDS, default_classes, head_layers
from keras_mnasnet.family import FAMILY
from keras_mnasnet.preprocessing import IMAGENET, Normalization


def spec(name="a1", size=320, classes=90, **options):
    labels, ids = default_classes(classes)
    return DetectorSpec(backbone=str(FAMILY[name]), input_size=size, labels=labels, category_ids=ids, **options)


def size_of(variables):
    return sum(math.prod(variable.shape) for variable in variables)


def test_the_papers_row():
    """4.9M parameters and 0.8B multiply-adds (table 3): by the layer table, by its parts, and by the Keras model."""
    table = spec()
    assert (table.params(), table.madds()) == (4_912_181, 837_819_232)
    parts = {
        "backbone": [layer for layer in table.layers() if not layer.name.startswith(("extra", "level"))],
        "extras": [layer for layer in table.layers() if layer.name.startswith("extra")],
        "predictors": [layer for layer in table.layers() if layer.name.startswith("level")],
    }
    assert {key: (sum(r.params for r in rows), sum(r.madds for r in rows)) for key, rows in parts.items()} == {
        "backbone": (2_606_038, 632_999_328), "extras": (656_960, 38_550_976), "predictors": (1_649_183, 166_268_928),
    }  # fmt: skip
    model = SSDLite()
    assert (size_of(model.trainable_variables), size_of(model.non_trainable_variables)) == (4_912_181, 50_512)
    assert model.count_params() == 4_962_693
    assert model.output["boxes"].shape == (None, 2034, 4)
    assert model.output["scores"].shape == (None, 2034, 91)
    maps = [model.get_layer(f"level{level}_boxes").output.shape[1] for level in range(6)]
    assert maps == [20, 10, 5, 3, 2, 1]
    assert model.get_layer("level0_boxes_depthwise_conv").input.name == model.get_layer("block6a_expand_relu").output.name


@pytest.mark.parametrize(("name", "params", "madds"), [("b1", 5_378_983, 832_237_504), ("small", 2_908_047, 283_427_840)])
def test_other_networks(name, params, madds):
    assert (spec(name).params(), spec(name).madds()) == (params, madds)


def test_other_class_counts_and_sizes():
    """In millions: 81 slots at 320 px, 91 slots at 300 px."""
    assert round(spec(classes=80).params() / 1e6, 3) == 4.746
    assert round(spec(classes=80).madds() / 1e6, 1) == 821.1
    assert spec(size=300).params() == 4_912_181
    assert round(spec(size=300).madds() / 1e6, 1) == 780.5


def mobilenet_v3_large():
    """torchvision's mobilenet_v3_large with the reduced tail of ssdlite320, at 320 px, as rows of a layer table."""
    rows = (  # input, kernel, expanded, output, squeeze-and-excite, stride
        (16, 3, 16, 16, 0, 1), (16, 3, 64, 24, 0, 2), (24, 3, 72, 24, 0, 1), (24, 5, 72, 40, 1, 2), (40, 5, 120, 40, 1, 1),
        (40, 5, 120, 40, 1, 1), (40, 3, 240, 80, 0, 2), (80, 3, 200, 80, 0, 1), (80, 3, 184, 80, 0, 1), (80, 3, 184, 80, 0, 1),
        (80, 3, 480, 112, 1, 1), (112, 3, 672, 112, 1, 1), (112, 5, 672, 80, 1, 2), (80, 5, 480, 80, 1, 1),
        (80, 5, 480, 80, 1, 1),
    )  # fmt: skip
    side = 160

    def conv(op, kernel, cin, cout, bias=False, side=None):
        weights = kernel * kernel * (cin if op == "depthwise" else cin * cout)
        added = cout if bias else 2 * cout
        return Layer("row", op, kernel, 1, cin, cout, side, side, None, weights + added, weights * side * side)

    yield conv("conv", 3, 3, 16, side=side)
    for cin, kernel, expanded, cout, se, stride in rows:
        if expanded != cin:
            yield conv("conv", 1, cin, expanded, side=side)
        side = -(-side // stride)
        yield conv("depthwise", kernel, expanded, expanded, side=side)
        if se:
            squeezed = max(8, int(expanded / 4 + 4) // 8 * 8)
            squeezed += 8 if squeezed < 0.9 * expanded / 4 else 0
            yield conv("conv", 1, expanded, squeezed, bias=True, side=1)
            yield conv("conv", 1, squeezed, expanded, bias=True, side=1)
        yield conv("conv", 1, expanded, cout, side=side)
    yield conv("conv", 1, 80, 480, side=side)


def test_the_counter_counts_torchvisions_ssdlite320():
    """Published: 3,440,060 parameters, 0.583 G: six anchors on all levels, 91 slots."""
    heads = head_layers((672, 480, 512, 256, 256, 128), tuple((side, side) for side in (20, 10, 5, 3, 2, 1)), (6,) * 6, 91)
    rows = [*mobilenet_v3_large(), *heads]
    assert sum(row.params for row in rows) == 3_440_060
    assert round(sum(row.madds for row in rows) / 1e6, 1) == 583.2


@pytest.mark.parametrize("name", FAMILY)
def test_every_network_builds_as_its_table_says(name):
    """At width 0.5, 192 px, two classes."""
    model = SSDLite(name, ["cat", "dog"], width_multiplier=0.5, input_size=192)
    found = spec_of(model)
    assert size_of(model.trainable_variables) == found.params()
    assert found.extras == (256, 128, 128, 64)
    assert model.output["boxes"].shape[1] == len(anchor_boxes(192)) == model.output["scores"].shape[1]
    assert found.labels == ("cat", "dog")
    assert found.category_ids == (1, 2)


@pytest.mark.parametrize("size", [96, 129, 256, 300])
def test_other_inputs_run(size):
    model = SSDLite("small", 3, width_multiplier=0.5, input_size=size)
    found = model(np.zeros((2, size, size, 3), np.float32))
    assert found["boxes"].shape == (2, len(anchor_boxes(size)), 4)
    assert found["scores"].shape == (2, len(anchor_boxes(size)), 4)


def test_first_scores_are_the_prior():
    """Bias -4.6: a probability of about 0.01 for everything."""
    scores = SSDLite("small", 3, width_multiplier=0.35, input_size=96)(np.full((1, 96, 96, 3), 127.0, np.float32))["scores"]
    np.testing.assert_allclose(np.asarray(scores), -4.6, atol=0.5)


def test_normalization_in_and_before_the_graph(tmp_path):
    inside = shaken(SSDLite("small", 3, width_multiplier=0.35, input_size=96))
    save(inside, tmp_path / "d.safetensors")
    assert spec_of(inside).normalization == Normalization((127.5,) * 3, (127.5,) * 3)
    before = SSDLite("small", 3, width_multiplier=0.35, input_size=96, include_preprocessing=False)
    before.set_weights(inside.get_weights())
    x = np.random.default_rng(0).uniform(0, 255, (1, 96, 96, 3)).astype(np.float32)
    for key in ("boxes", "scores"):
        np.testing.assert_allclose(np.asarray(inside(x)[key]), np.asarray(before(x / 127.5 - 1)[key]), rtol=1e-4, atol=1e-4)


def test_weights_of_a_classifier(tmp_path):
    classifier = shaken(MnasNet("small", weights=None, classes=7, width_multiplier=0.5, bn_epsilon=1e-5, padding="symmetric"))
    save(classifier, tmp_path / "c.safetensors")
    detector = SSDLite("small", 3, tmp_path / "c.safetensors", width_multiplier=0.5, input_size=96)
    found = spec_of(detector)
    assert (found.bn_epsilon, found.padding, found.normalization) == (1e-5, "symmetric", IMAGENET)
    for layer in ("stem_conv", "block6a_depthwise_conv", "head_bn"):
        for ours, theirs in zip(
            detector.get_layer(layer).get_weights(), classifier.get_layer(layer).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    x = np.random.default_rng(0).uniform(0, 255, (1, 96, 96, 3)).astype(np.float32)
    tap = keras.Model(detector.input, detector.get_layer("head_relu").output)
    whole = MnasNet("small", False, tmp_path / "c.safetensors", input_shape=(96, 96, 3), width_multiplier=0.5)
    np.testing.assert_allclose(np.asarray(tap(x)), np.asarray(whole(x)), rtol=1e-4, atol=1e-4)


def test_bundled_weights_with_a_stem_of_stride_one_are_used_at_stride_two():
    """Trained at 32 px with a stem of stride 1: the kernels fit, the maps of a detector would be twice as large."""
    detector = SSDLite("a1", 3, "cifar10", input_size=96)
    found = spec_of(detector)
    assert found.architecture.same_network(FAMILY["a1"].scaled(0.5))
    assert found.extras == (256, 128, 128, 64)
    classifier = MnasNet("a1", weights="cifar10")
    np.testing.assert_array_equal(
        detector.get_layer("stem_conv").get_weights()[0], classifier.get_layer("stem_conv").get_weights()[0]
    )


def test_a_file_keeps_everything(tmp_path):
    model = shaken(SSDLite("a1", ["a", "b"], width_multiplier=0.35, input_size=96, category_ids=[7, 3], loss="mined"))
    save(model, tmp_path / "d.safetensors")
    again = load(tmp_path / "d.safetensors").model()
    assert spec_of(again) == spec_of(model)
    x = np.random.default_rng(0).uniform(0, 255, (1, 96, 96, 3)).astype(np.float32)
    for key in ("boxes", "scores"):
        np.testing.assert_array_equal(np.asarray(again(x)[key]), np.asarray(model(x)[key]))
    kept = load(tmp_path / "d.safetensors")
    assert (kept.task, kept.detector, kept.labels, kept.size) == ("detection", spec_of(model), ("a", "b"), 96)
    assert DetectorSpec.from_json(spec_of(model).to_json()) == spec_of(model)


def test_wrong_files(tmp_path):
    save(MnasNet("small", weights=None, width_multiplier=0.35), tmp_path / "c.safetensors")
    assert load(tmp_path / "c.safetensors").task == "classification"
    with pytest.raises(CheckpointError, match="A detector is needed here. Received: .*c.safetensors, which classifies"):
        predict(tmp_path / "c.safetensors", tmp_path / "photo.jpg")
    with pytest.raises(CheckpointError, match="must exist"):
        predict(tmp_path / "none.safetensors", tmp_path / "photo.jpg")
    with pytest.raises(ValueError, match="must be a detector: SSDLite"):
        spec_of(MnasNet("small", weights=None, width_multiplier=0.35))
    newer = json.dumps({**spec("small").to_dict(), "schema": 3})
    with pytest.raises(ValueError, match="must be a JSON object of schema 2. Received: schema=3. Update"):
        DetectorSpec.from_json(newer)


def test_the_weights_say_which_network_it_is(tmp_path):
    """Without a backbone; a detector is no backbone."""
    save(MnasNet("small", weights=None, classes=7, width_multiplier=0.5), tmp_path / "c.safetensors")
    detector = SSDLite(None, 3, tmp_path / "c.safetensors", input_size=96)
    found = spec_of(detector)
    assert found.architecture.same_network(FAMILY["small"].scaled(0.5))
    assert found.extras == (256, 128, 128, 64)
    save(detector, tmp_path / "d.safetensors")
    with pytest.raises(CheckpointError, match="`weights` are of a classifier.*d.safetensors, a detector"):
        SSDLite(None, 3, tmp_path / "d.safetensors", input_size=96)


def test_coco_classes():
    labels, ids = default_classes(90)
    assert ids == tuple(range(1, 91))
    assert (labels[0], labels[11], labels[89], labels.count("n/a")) == ("person", "n/a", "toothbrush", 10)
    assert default_classes(80)[1] == COCO_IDS
    assert len(COCO_IDS) == 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 95}, "from 96 to 4096 pixels.*Received: 95"),
        ({"classes": 0}, "`classes` must be an integer >= 1.*Received: classes=0"),
        ({"classes": ["a", "b"], "category_ids": [1, 1]}, "one category id of its own.*1 of them different"),
        ({"category_ids": 5}, "`category_ids` must be a list of whole numbers, one for each class. Received: category_ids=5"),
        ({"classes": ["a"], "category_ids": ["x"]}, "`category_ids` must be a list of whole numbers.*Received: .*'x'"),
        ({"classes": None}, "must be a text, or a list of texts. Received: None"),
        ({"extras": 5}, "`extras` must be the channels of the levels.*Received: extras=5"),
        ({"anchors": 5}, "`anchors` must be AnchorSettings. Received: anchors=5"),
        ({"loss": "l2"}, "`loss` must be one of.*Received: loss='l2'"),
        ({"normalize": "tf"}, "`normalize` must be one of.*Received: normalize='tf'"),
        ({"extras": (1, 2)}, "levels after the first two, at most 10 whole numbers.*Received: extras="),
        ({"backbone": "x: stem8 r1_k3_s22_e6_i8_o16 head32"}, "from stride 16 to stride 32"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        SSDLite(**{"backbone": "small", "classes": 3, **options})


def test_spec_is_a_value():
    assert spec() == spec()
    assert dataclasses.replace(spec(), loss="mined") != spec()
