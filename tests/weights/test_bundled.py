"""The checkpoints that ship with the package."""

import hashlib
import json

import pytest

from keras_mnasnet import CheckpointError, MnasNet, MnasNetA1, MnasNetA3, load, load_weights
from keras_mnasnet.benchmarks import evaluate
from keras_mnasnet.cli.main import main
from keras_mnasnet.cli.options import SOURCES
from keras_mnasnet.loading import converted_path, verify_record
from keras_mnasnet.training import recipe_from_json
from keras_mnasnet.weights.datasets import DATASETS
from keras_mnasnet.weights.registry import datasets, records, training_of

BUNDLED = tuple(record for record in records() if record.bundled)
CIFAR10 = records("cifar10")
LABELS = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "trashnet": ("cardboard", "glass", "metal", "paper", "plastic", "trash"),
}
TRAINED_ON = {"cifar10": 50_000, "trashnet": 1_768}


@pytest.mark.parametrize("record", BUNDLED, ids=lambda record: record.id)
def test_a_record_and_its_file(record):
    path = converted_path(record)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == record.sha256
    assert path.stat().st_size == record.size_bytes
    checkpoint = load(record.id)
    assert checkpoint.labels == LABELS[record.dataset]
    assert checkpoint.architecture.same_network(record.architecture)
    assert checkpoint.preprocessing == record.preprocessing
    assert record.params == record.architecture.params(classes=record.classes)
    assert record.bundled
    assert verify_record(record)["ok"]
    assert str(record.origin).endswith(f"measured on {DATASETS[record.dataset].tested_on})")


@pytest.mark.parametrize("record", BUNDLED, ids=lambda record: record.id)
def test_how_it_was_trained_is_recorded(record):
    stages = training_of(record.id)
    for stage in stages:
        recipe = recipe_from_json(stage["recipe"])
        assert len(stage["curve"]) == recipe.epochs
        assert stage["train_images"] == TRAINED_ON[record.dataset]
        assert stage["seconds"] > 0
        assert stage["environment"]["processor"]
        assert stage["seed"] == recipe.seed
    assert recipe.size == record.size
    if record.dataset == "cifar10":
        assert 100 * stages[-1]["curve"][-1][2] == pytest.approx(record.top1, abs=1), "the run's own last accuracy"


def test_sizes_and_accuracy():
    assert [record.network for record in CIFAR10] == ["a1", "b1", "small"]
    assert sum(record.size_bytes for record in BUNDLED) <= 20_000_000
    assert all(record.size_bytes <= 5_000_000 for record in BUNDLED)
    assert all(record.top1 >= 84 for record in CIFAR10 if record.network == "a1")
    params = [record.params for record in CIFAR10]
    assert max(params) <= 1.3 * min(params), "of comparable size"


def test_every_data_set_is_known_and_named_where_a_model_is_asked_for():
    assert set(datasets()) <= set(DATASETS)
    with pytest.raises(CheckpointError, match=f"must be {', '.join(map(repr, DATASETS))}, a record's id"):
        load("nothing of that kind")
    assert ", ".join(DATASETS) in SOURCES


@pytest.mark.parametrize("dataset", sorted({record.dataset for record in BUNDLED}))
def test_every_bundled_name_is_a_value_of_weights(dataset):
    first = records(dataset)[0]
    model = MnasNet(first.network, weights=dataset)
    assert (model.input_shape, model.output_shape) == ((None, first.size, first.size, 3), (None, first.classes))
    assert load(dataset).labels == LABELS[dataset]


def test_builders_take_them_by_name():
    model = MnasNetA1(weights="cifar10")
    assert (model.input_shape, model.output_shape) == ((None, 32, 32, 3), (None, 10))
    assert model.get_layer("stem_conv").strides == (1, 1)
    body = MnasNetA1(weights="cifar10", include_top=False, pooling="avg", input_shape=(64, 64, 3))
    assert body.output_shape == (None, 1280)
    fresh = MnasNetA1(weights=None, classes=3, width_multiplier=0.5, stem_stride=1, input_shape=(32, 32, 3))
    load_weights(fresh, "cifar10", include_top=False)
    assert (fresh.get_layer("stem_conv").kernel.numpy() == model.get_layer("stem_conv").kernel.numpy()).all()
    with pytest.raises(CheckpointError, match=r"No CIFAR-10 weights of MnasNet-A3 ship with the package.*a1 \(1\)"):
        MnasNetA3(weights="cifar10")
    with pytest.raises(CheckpointError, match="exist for the width multipliers 0.5. Received: width_multiplier=1.0"):
        MnasNetA1(weights="cifar10", width_multiplier=1.0)
    with pytest.raises(CheckpointError, match="Leave out multipliers"):
        MnasNetA1(weights="cifar10", stem_stride=2)
    with pytest.raises(ValueError, match="classes=1000, weights='cifar10' with 10 classes"):
        MnasNetA1(weights="cifar10", classes=1000)


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    record = BUNDLED[0]
    damaged = tmp_path / record.filename
    data = bytearray(converted_path(record).read_bytes())
    data[-100] ^= 1
    damaged.write_bytes(data)
    monkeypatch.setattr("keras_mnasnet.loading.converted_path", lambda record: damaged)
    with pytest.raises(CheckpointError, match="must have the sha256"):
        load(record.id)


@pytest.mark.parametrize("dataset", sorted({record.dataset for record in BUNDLED}))
def test_recorded_accuracies_are_reproduced(data, dataset):
    """All of them on all test photos; a prediction may flip on another processor."""
    of_dataset = records(dataset)
    results = evaluate([record.id for record in of_dataset], str(data / dataset), split="test", batch_size=100)
    for record, result in zip(of_dataset, results, strict=True):
        assert f"the {result.images:,} test" in record.origin.measured_on
        one_photo = max(0.05, 100.01 / result.images)
        assert 100 * result.top1 == pytest.approx(record.top1, abs=one_photo)
        assert 100 * result.top5 == pytest.approx(record.top5, abs=one_photo)


def test_predict_says_what_it_knows(capfd, data, tmp_path):
    from keras_mnasnet.data import open_images

    images = open_images(data / "cifar10", split="test")
    example = next(iter(images.examples().as_numpy_iterator()))
    path = tmp_path / "photo.jpg"
    path.write_bytes(example["image"])
    assert path.stat().st_size > 100
    assert main(["predict", "cifar10", str(path), "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert row["predictions"][0]["name"] in LABELS["cifar10"]
    assert main(["predict", "cifar10", str(path)]) == 0
    assert "cifar10/a1-0.5-32 (top1 85.36 %" in capfd.readouterr().err
