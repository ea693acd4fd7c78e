"""Every record against the network it names; selection of `imagenet`; the classes."""

import collections
import json
import math
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from fixtures import FIXTURES, INDEX, RECIPE, recipe

from keras_mnasnet import CheckpointError
from keras_mnasnet.family import FAMILY
from keras_mnasnet.model import build
from keras_mnasnet.weights.checkpoint import expected_shapes
from keras_mnasnet.weights.convert import LOCATE
from keras_mnasnet.weights.formats import TensorFile
from keras_mnasnet.weights.names import recognize
from keras_mnasnet.weights.registry import find, names, records, select, source_preprocessing


def test_all_public_checkpoints_are_recorded():
    counts = collections.Counter(record.source for record in records("imagenet"))
    others = {"pytorchcv": 2, "tf2cv": 2, "mindcv": 5, "tflite": 8}
    assert counts == {"google": 26, "timm": 4, "torchvision": 4} | others
    assert len(set(names(dataset="imagenet"))) == 51


@pytest.mark.parametrize("record", records("imagenet"), ids=lambda record: record.id)
def test_record_fits_its_network(record):
    network = record.architecture
    assert network.params(classes=record.classes) == record.params
    assert network.provenance == "published"
    assert record.preprocessing.size == record.size
    assert bool(record.preprocessing.resize) != bool(record.preprocessing.crop_fraction)
    assert record.url.startswith("https://")
    assert " " not in record.url
    assert record.filename in record.url
    assert record.sha256 is None or 8 <= len(record.sha256) <= 64
    if record.repo:
        pinned_by_commit = len(record.revision) == 40 and set(record.revision) <= set("0123456789abcdef")
        assert pinned_by_commit or len(record.sha256) == 64
    if record.origin.source == "torchvision":
        assert record.filename.removesuffix(".pth").endswith(record.sha256)
    expected = {
        "google": (1e-3, "same"), "timm": (1e-5, "symmetric"), "torchvision": (1e-5, "symmetric"),
        "pytorchcv": (1e-5, "symmetric"), "tf2cv": (1e-5, "symmetric"), "mindcv": (1e-3, "symmetric"),
        "tflite": (2**-10, "same"),
    }  # fmt: skip
    assert (record.numerics.bn_epsilon, record.numerics.padding) == expected[record.source]
    assert 40 < record.top1 < 80


def test_only_timms_small_has_a_first_residual():
    for record in records("imagenet"):
        assert record.architecture.units()[0].residual == (record.id == "timm/mnasnet_small.lamb_in1k")


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda f: f.name)
def test_every_listing_is_recognised_and_identified(fixture):
    listing = dict(recipe.read_listing(RECIPE / "keys" / INDEX[fixture.name]["listing"]))
    file = TensorFile(Path("x"), dict.fromkeys(listing, ()), lambda name: np.empty(0))
    assert recognize(file)[0] == fixture.source
    name, width = fixture.network
    located = LOCATE[fixture.source](listing)
    assert len(located) == len(expected_shapes(FAMILY[name].scaled(width), 1000))


@pytest.mark.parametrize(
    ("network", "width", "size", "expected"),
    [
        ("a1", None, 224, "google/a1-1.0-224"),
        ("a1", 1.0, 224, "google/a1-1.0-224"),
        ("a1", 0.35, 100, "google/a1-0.35-96"),
        ("a1", 0.75, 176, "google/a1-0.75-192"),
        ("a1", 1.4, 320, "google/a1-1.4-224"),
        ("b1", None, 224, "timm/mnasnet_100.rmsp_in1k"),
        ("b1", 0.5, 96, "torchvision/mnasnet0_5"),
        ("b1", 1.3, 224, "torchvision/mnasnet1_3"),
        ("small", None, 224, "google/small-1.0-224"),
    ],
)
def test_selection(network, width, size, expected):
    assert select(network, width, size).id == expected


@pytest.mark.parametrize("network", ["a2", "a3", "d1", "d1-320"])
def test_networks_without_checkpoints_say_what_exists(network):
    with pytest.raises(CheckpointError, match=r"No ImageNet weights.*a1 \(29\), b1 \(20\), small \(2\)"):
        select(network, None, 224)


def test_widths_without_checkpoints_say_what_exists():
    with pytest.raises(CheckpointError, match=r"0.5, 0.75, 1, 1.3, 1.4. Received: width_multiplier=0.6"):
        select("b1", 0.6, 224)


def test_unknown_record_names_the_nearest():
    with pytest.raises(CheckpointError, match=r"Received: 'timm/mnasnet_100'. Did you mean .*'timm/mnasnet_100.rmsp_in1k'"):
        find("timm/mnasnet_100")


def test_preprocessing_follows_the_size():
    assert str(source_preprocessing("google", 160)) == "central crop 0.833, resize 160 (bicubic-tf1)"
    assert str(find("torchvision/mnasnet1_3").preprocessing).startswith("resize 232 (bilinear)")
    assert source_preprocessing("timm", 112).resize == 128


def test_thousand_classes_in_wordnet_order():
    classes = json.loads(resources.files("keras_mnasnet.weights").joinpath("imagenet_classes.json").read_text("utf-8"))
    wnids = [wnid for wnid, _ in classes]
    assert len(classes) == 1000
    assert wnids == sorted(set(wnids))


def test_a_background_stands_first():
    from keras_mnasnet.benchmarks.accuracy import label_outputs
    from keras_mnasnet.weights.registry import imagenet_classes, labels_of, spelled_as

    known, wnids = labels_of("google", 1001), ["n02102040", "n01440764"]
    assert (len(known), known[:2]) == (1001, ("background", "tench"))
    found = label_outputs("x", 1001, wnids, known=spelled_as(known, wnids))
    assert list(found) == [1 + [wnid for wnid, _ in imagenet_classes()].index(wnid) for wnid in wnids]
    assert labels_of("google", 1002) is None


def test_classes_agree_with_the_photos(data):
    wnids = {wnid for wnid, _ in json.loads((resources.files("keras_mnasnet.weights") / "imagenet_classes.json").read_text())}
    photos = {folder.name for folder in (data / "imagenet_250").iterdir() if folder.is_dir()}
    assert len(photos) == 250
    assert photos <= wnids


NETWORKS = {(r.network, r.width, r.numerics): r for r in records("imagenet")}


@pytest.mark.parametrize("record", NETWORKS.values(), ids=lambda record: record.id)
def test_record_params_match_the_built_model(record):
    """One build for every network, width and source; the records of one network differ in resolution only."""
    held = record.numerics
    model = build(record.architecture, classes=record.classes, padding=held.padding, bn_epsilon=held.bn_epsilon)
    assert sum(math.prod(weight.shape) for weight in model.trainable_weights) == record.params
    same = [r for r in records("imagenet") if (r.network, r.width, r.classes) == (record.network, record.width, record.classes)]
    assert len({r.params for r in same}) == 1
