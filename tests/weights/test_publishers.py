"""Checkpoints of imgclsmob (pytorchcv, tf2cv) and MindCV in their own names and layouts.

`tests/assets/tf2cv` holds the names, shapes and logits that tf2cv 0.0.18 itself gave (TensorFlow 2.21, tf_keras), with weights
and images by `tests/assets/recipe`. pytorchcv's and MindCV's names are those of their code (pytorchcv 0.0.74,
models/mnasnet.py; mindcv/models/mnasnet.py).
"""

import dataclasses
import re
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import recipe
from fixtures import FIXTURES
from graphs import logits
from writers import write_pth

from keras_mnasnet import load
from keras_mnasnet.family import FAMILY
from keras_mnasnet.weights.checkpoint import CheckpointError
from keras_mnasnet.weights.formats.content import kind_of
from keras_mnasnet.weights.registry import find, records

ASSETS = Path(__file__).resolve().parents[1] / "assets"
NETWORKS = ["a1", "b1"]


@pytest.fixture(scope="module", params=NETWORKS)
def published(request):
    """(network, tensors under tf2cv's names, its images, its logits)."""
    name = f"tf2cv-mnasnet_{request.param}"
    folder = ASSETS / "tf2cv"
    listing = recipe.read_listing(folder / f"{name}.txt.gz")
    names = {each.removesuffix(":0") for each, _ in listing}
    tensors = {each: recipe.tensor(name, each.removesuffix(":0"), shape, names) for each, shape in listing}
    return request.param, tensors, recipe.image(name, 224, 224).astype(np.float32), np.load(folder / f"{name}.npy")


def write_tf2cv(path, tensors):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"features", b"output1"]
        file.attrs["keras_version"] = "2.21.0"
        for name, value in tensors.items():
            file[name] = value
    return path


def of_pytorchcv(name, value):
    """A tensor of tf2cv under pytorchcv's name, in PyTorch's layout."""
    leaf = {
        "kernel": "weight", "depthwise_kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias",
        "moving_mean": "running_mean", "moving_variance": "running_var",
    }[name.rpartition("/")[2].removesuffix(":0")]  # fmt: skip
    if name.startswith("output1"):
        return f"output.{leaf}", value.T if value.ndim == 2 else value
    path = re.sub(r"^(features/)+", "", name.rpartition("/")[0])
    path = re.sub(r"(stage\d)/\1", r"\1", path)
    path = re.sub(r"/conv/(conv|dw_conv)$", "/conv", path)
    path = re.sub(r"(se/conv[12])/conv$", r"\1", path)
    if value.ndim == 4:
        value = value.transpose((2, 3, 0, 1) if "depthwise" in name else (3, 2, 0, 1))
    return f"features.{path.replace('/', '.')}.{leaf}", value


def zipped(path):
    with zipfile.ZipFile(f"{path}.zip", "w") as archive:
        archive.write(path, path.name)
    return path.with_name(f"{path.name}.zip")


@pytest.mark.parametrize("publisher", ["tf2cv", "pytorchcv"])
def test_imgclsmob(publisher, published, tmp_path):
    network, tensors, images, expected = published
    if publisher == "tf2cv":
        path = write_tf2cv(tmp_path / "x.tf2.h5", tensors)
    else:
        renamed = dict(of_pytorchcv(name, value) for name, value in tensors.items())
        assert "features.stage2.unit1.exp_conv.conv.weight" in renamed
        counters = {
            name.replace("running_mean", "num_batches_tracked"): np.array(0) for name in renamed if "running_mean" in name
        }
        path = write_pth(tmp_path / "x.pth", {**renamed, **counters}, version=None)
    found = load(path)
    assert found.architecture.same_network(FAMILY[network])
    assert (found.numerics.bn_epsilon, found.numerics.padding, found.classes) == (1e-5, "symmetric", 100)
    assert found.origin.source == publisher
    np.testing.assert_allclose(logits(found, images), expected, atol=2e-4)
    packed = load(zipped(path))
    np.testing.assert_array_equal(packed.tensors["head_conv/kernel"], found.tensors["head_conv/kernel"])


def varint(value):
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def write_mindspore(path, tensors):
    """A `.ckpt` by checkpoint.proto."""
    content = b""
    for name, value in tensors.items():
        dims = b"".join(b"\x08" + varint(side) for side in value.shape)
        kind = {"float32": b"Float32", "int64": b"Int64"}[value.dtype.name]
        tensor = dims + field(2, kind) + field(3, value.tobytes())
        content += field(1, field(1, name.encode()) + field(2, tensor))
    path.write_bytes(content)
    return path


def of_mindcv(name, value):
    """A tensor of torchvision's B1 under MindCV's name: one list of cells, batch norms in MindSpore's words."""
    norm = {"running_mean": "moving_mean", "running_var": "moving_variance"}
    head, _, leaf = name.rpartition(".")
    parts = head.split(".")
    if parts[0] == "classifier":
        return f"classifier.{leaf}", value
    stages, place = [3, 3, 3, 2, 4, 1], int(parts[1])
    cell = place
    is_norm = leaf in norm or value.ndim == 1
    leaf = norm.get(leaf, {"weight": "gamma", "bias": "beta"}[leaf] if is_norm and leaf in ("weight", "bias") else leaf)
    if 8 <= place < 14:
        cell = 8 + sum(stages[: place - 8]) + int(parts[2])
        return f"features.{cell}.layers.{parts[4]}.{leaf}", value
    return f"features.{place if place < 8 else place - 14 + 8 + sum(stages)}.{leaf}", value


def test_mindcv(tmp_path):
    fixture = next(each for each in FIXTURES if each.name == "torchvision-mnasnet0_5-224")
    tensors = {name: value for name, value in fixture.tensors().items() if "num_batches_tracked" not in name}
    path = write_mindspore(tmp_path / "mnasnet_050-7d8bf4db.ckpt", dict(of_mindcv(*each) for each in tensors.items()))
    assert kind_of(path) == "mindspore"
    found, expected = load(path), load(fixture.write(tmp_path))
    assert found.architecture.same_network(expected.architecture)
    assert (found.numerics.bn_epsilon, found.numerics.padding, found.origin.source) == (1e-3, "symmetric", "mindcv")
    for name, value in expected.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], value)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="must be whole. Received: .*ends behind its message"):
        load(path)


def test_records_of_other_publishers():
    for source, count in {"pytorchcv": 2, "tf2cv": 2, "mindcv": 5, "tflite": 8}.items():
        assert sum(record.source == source for record in records("imagenet")) == count
    hosted = find("tflite/mnasnet_1.0_224")
    assert (hosted.classes, hosted.as_found, hosted.numerics.stem_activation) == (1001, True, "linear")


def test_a_hosted_network_says_itself_what_it_is(tmp_path, home):
    """Its record guesses numerics and classes; the file in its archive decides."""
    import tarfile

    from graphs import drawn

    from keras_mnasnet import loading
    from keras_mnasnet.export import export
    from keras_mnasnet.preprocessing import UNIT

    record = find("tflite/mnasnet_0.5_224")
    network = dataclasses.replace(FAMILY["b1"].scaled(0.5), stem_activation="relu")
    given = drawn(str(network), size=224, classes=1000, normalization=UNIT)
    export(given, tmp_path / "mnasnet_0.5_224.tflite", progress=False)
    place = home / "downloads" / "tflite"
    place.mkdir(parents=True)
    with tarfile.open(place / record.filename, "w:gz") as archive:
        archive.add(tmp_path / "mnasnet_0.5_224.tflite", "mnasnet_0.5_224/mnasnet_0.5_224.tflite")
    for _ in range(2):  # converted, then from the cache
        found = load(record.id)
        assert found.architecture.same_network(network)
        assert (found.classes, found.numerics.normalization) == (1000, UNIT.per_channel)
        assert found.origin.record == record.id
    assert loading.verify_record(record)["ok"]
