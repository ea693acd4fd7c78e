"""Classes of unequal size, the epoch that is kept, and rates layer by layer."""

import csv

import keras
import numpy as np
import pytest
from models import SMALLEST

from keras_mnasnet import load
from keras_mnasnet.data import open_splits
from keras_mnasnet.data.sources import Arrays, ImageSet
from keras_mnasnet.training import RECIPES, Job, resume, run_job, train
from keras_mnasnet.training.balance import Answers, PerClass, WeightedCrossentropy, class_weights
from keras_mnasnet.training.classifier import ClassifierRun
from keras_mnasnet.training.job import CLASS_FILE, write_classes
from keras_mnasnet.training.optimizers import LayerwiseAdamW, layer_scales, make_optimizer
from keras_mnasnet.training.recipe import parse_recipe

TINY = RECIPES["cifar10"].changed(epochs=3, batch_size=16, base_batch=16, learning_rate=2e-3, warmup_epochs=0.5, ema=0)
NETWORK = {"network": SMALLEST}


def unequal(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.zeros((len(labels), 8, 8, 3), np.uint8)
    return ImageSet("drawn", tuple("abcdefgh"[: len(counts)]), Arrays("drawn", pixels, labels))


def test_weights_of_classes():
    """images / (classes * images of the class): 12 / (3 * 6), 12 / (3 * 2), 12 / (3 * 4); a class without images has none."""
    weights = class_weights(np.array([6, 2, 0, 4]))
    np.testing.assert_allclose(weights, [2 / 3, 2, 0, 1])
    assert np.sum(weights * [6, 2, 0, 4]) == pytest.approx(12)


def test_the_weighted_loss():
    """-log(softmax) times the weight of the class; of an image mixed of two classes, their mean."""
    true = np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32)
    logits = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 0.0]], np.float32)
    found = keras.ops.convert_to_numpy(WeightedCrossentropy([0.5, 3.0]).call(true, logits))
    np.testing.assert_allclose(found, [0.5 * np.log1p(np.exp(-2)), 3 * (2 + np.log1p(np.exp(-2))), 1.75 * np.log(2)], rtol=1e-5)


def test_balanced_accuracy():
    """Eight of ten of one class and one of two of the other are right: (0.8 + 0.5) / 2; images of weight zero do not count."""
    metric = PerClass(3)
    true = np.eye(3)[[0] * 10 + [1] * 2 + [0] * 4]
    said = np.eye(3)[[0] * 8 + [2, 1] + [1, 0] + [1] * 4]
    metric.update_state(true, said, np.array([1.0] * 12 + [0.0] * 4))
    assert float(metric.result()) == pytest.approx(0.65)
    assert metric.answers() == Answers((10, 2, 0), (9, 2, 1), (8, 1, 0))
    metric.reset_state()
    assert metric.answers() == Answers((0, 0, 0), (0, 0, 0), (0, 0, 0))


def test_a_model_that_answers_one_class_is_warned_about():
    labels = ("cat", "dog")
    assert "answers 'dog' for every photo" in Answers((5, 3), (0, 8), (0, 3)).warning(labels)
    assert "--class-weights balanced" in Answers((5, 3), (0, 8), (0, 3)).warning(labels)
    assert Answers((5, 3), (1, 7), (0, 3)).warning(labels) is None
    assert Answers((0, 8), (0, 8), (0, 8)).warning(labels) is None, "there is one class to answer"
    assert Answers((5, 3), (1, 7), (1, 3)).text(labels) == "cat 1 of 5, dog 3 of 3"
    many = Answers(tuple([10] * 20), tuple([10] * 20), tuple(range(20)))
    assert many.text([f"c{number}" for number in range(20)]).startswith("the worst classes: c0 0 of 10, c1 1 of 10")


def test_balanced_sampling_draws_every_class_equally_often():
    """Classes of 60, 6 and 3 images: 23 each in an epoch of 69, and the images of a class equally often to within one."""
    images = unequal([60, 6, 3])
    index = images.order(np.arange(2 * 69, dtype=np.int64), seed=5, batch=23, balanced=True).numpy()
    labels = images.label_ids[index]
    assert [np.bincount(part).tolist() for part in np.split(labels, 2)] == [[23, 23, 23]] * 2
    for members in (range(60), range(60, 66), range(66, 69)):
        drawn = [np.count_nonzero(index == member) for member in members]
        assert max(drawn) - min(drawn) <= 1
    again = images.order(np.arange(69, 80, dtype=np.int64), seed=5, batch=23, balanced=True).numpy()
    np.testing.assert_array_equal(again, index[69:80], err_msg="the order does not depend on where it is begun")
    assert (images.order(np.arange(69, dtype=np.int64), seed=6, batch=23, balanced=True).numpy() != index[:69]).any()


@pytest.mark.parametrize(("count", "epochs"), [(50_000, 8), (60_000, 8), (1_281_167, 1)])
def test_the_shuffle_is_a_uniform_permutation(count, epochs):
    """The variance of class counts in a batch is that of drawing without replacement, B p (1 - p) (N - B) / (N - 1).

    About 9,000 independent counts of ten classes give their variance to 1.5 %; with four rounds it was 0.72 of what it should
    be at some of these counts.
    """
    images, batch = unequal([1] * 10), 512
    labels = np.arange(count) * 10 // count
    object.__setattr__(images, "source", Arrays("drawn", np.zeros((0, 8, 8, 3), np.uint8), labels))
    images.source.count = count
    length = count // batch * batch
    squares = []
    for epoch in range(epochs):
        index = images.order(np.arange(epoch * length, (epoch + 1) * length, dtype=np.int64), seed=3, batch=batch).numpy()
        assert len(np.unique(index)) == length
        counts = np.apply_along_axis(np.bincount, 1, labels[index].reshape(-1, batch), minlength=10)
        squares.append(np.mean((counts - batch / 10) ** 2))
    expected = batch * 0.1 * 0.9 * (count - batch) / (count - 1)
    assert np.mean(squares) / expected == pytest.approx(1, abs=0.06)


def test_rates_fall_layer_by_layer():
    """Three blocks from the top: 1, 0.5, 0.25; one step of AdamW moves by the rate, and decays a kernel by rate * decay."""
    scales = layer_scales(["stem_conv", "stem_bn", "block1a_expand", "predictions"], 0.5)
    assert scales == {"stem_conv": 0.25, "stem_bn": 0.25, "block1a_expand": 0.5, "predictions": 1.0}
    layers = [keras.layers.Dense(1, name=name) for name in ("stem_conv", "predictions")]
    model = keras.Sequential([keras.Input((1,)), *layers])
    for layer in layers:
        layer.set_weights([np.array([[2.0]], np.float32), np.array([1.0], np.float32)])
    optimizer = LayerwiseAdamW(0.1, weight_decay=0.5, scales=scales, epsilon=1e-12)
    optimizer.apply([keras.ops.ones(v.shape) for v in model.trainable_variables], model.trainable_variables)
    (lower, lower_bias), (upper, upper_bias) = (layer.get_weights() for layer in layers)
    assert float(lower[0, 0]) == pytest.approx(2 - 2 * 0.5 * 0.025 - 0.025)
    assert float(upper[0, 0]) == pytest.approx(2 - 2 * 0.5 * 0.1 - 0.1)
    assert (float(lower_bias[0]), float(upper_bias[0])) == pytest.approx((1 - 0.025, 1 - 0.1))
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert (again.scales, again.decay) == (scales, 0.5)
    recipe = RECIPES["finetune"].changed(layer_decay=0.8)
    assert isinstance(make_optimizer(recipe, 10, layers=list(scales)), LayerwiseAdamW)
    assert parse_recipe(str(recipe)) == recipe
    with pytest.raises(ValueError, match="layer_decay with optimizer='rmsprop-tf1'"):
        RECIPES["paper-imagenet"].changed(layer_decay=0.8)


@pytest.mark.parametrize("jit", [False, True])
def test_rates_fall_in_fit(jit):
    """There variables come to the optimizer by another way, on which TensorFlow's lose their layers' names."""
    stem = keras.layers.Dense(1, name="stem_conv", use_bias=False, kernel_initializer="ones")
    end = keras.layers.Dense(1, name="predictions", use_bias=False, kernel_initializer="ones")
    image = keras.Input((1,))
    model = keras.Model(image, end(stem(image)))
    optimizer = LayerwiseAdamW(0.1, weight_decay=0.0, scales={"stem_conv": 0.25, "predictions": 1.0}, epsilon=1e-12)
    model.compile(optimizer, loss="mse", jit_compile=jit)
    model.fit(np.ones((4, 1)), np.zeros((4, 1)), batch_size=4, verbose=0)
    assert [layer.get_weights()[0].item() for layer in (stem, end)] == pytest.approx([1 - 0.025, 1 - 0.1])
    optimizer = LayerwiseAdamW(0.1, scales={"predictions": 1.0})
    with pytest.raises(ValueError, match="none for stem_conv/kernel"):
        optimizer.build(model.trainable_variables)


def photos(folder, counts, size=32):
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng([number, index]).integers(0, 256, (size, size, 3))
            keras.utils.save_img(folder / name / f"{index}.png", pixels, scale=False)
    return folder


def test_a_run_on_unequal_classes(tmp_path, capsys):
    """Weights, sampling, layers' rates in one run; what each class got right is said and kept from the first epoch on."""
    data = photos(tmp_path / "data", {"common": 60, "rare": 10})
    changes = {"layer_decay": 0.8}
    done = train(
        data, tmp_path / "run", **NETWORK, recipe=TINY.changed(epochs=2), changes=changes, class_weights="balanced",
        sampling="balanced",
    )  # fmt: skip
    said = capsys.readouterr().err
    assert "keeps" in said
    assert "the epoch of the best validation balanced accuracy" in said
    assert said.count("right: common ") == 2
    with (tmp_path / "run" / CLASS_FILE).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["class"], row["images"]) for row in rows] == [
        (epoch, name, count) for epoch in ("1", "2") for name, count in (("common", "6"), ("rare", "1"))
    ]
    for row in done.rows:
        of_epoch = [each for each in rows if float(each["epoch"]) == row["epoch"]]
        assert sum(int(each["answered"]) for each in of_epoch) == 7
        shares = [int(each["right"]) / int(each["images"]) for each in of_epoch]
        assert row["val_balanced_accuracy"] == pytest.approx(np.mean(shares))
        one_class = [each for each in of_epoch if int(each["answered"]) == 7]
        assert said.count("for every photo") == 0 or one_class or row is not done.rows[-1]


def fake_scores(monkeypatch, *scores):
    """Epochs without training, whose validations find these accuracies."""
    left = list(scores)

    def measure(run, model):
        return {"val_loss": 1.0, "val_accuracy": left.pop(0), "val_balanced_accuracy": 0.5}

    monkeypatch.setattr(ClassifierRun, "measure", measure)
    monkeypatch.setattr(ClassifierRun, "_fit", lambda *_: (1.0, 1.0, {"loss": 1.0, "accuracy": 0.5}))


@pytest.mark.parametrize(("validation", "keep", "kept"), [("shapes:40@32", "best", 2), ("shapes:40@32", "last", 3)])
def test_the_best_epoch_is_kept_and_said(tmp_path, monkeypatch, capsys, validation, keep, kept):
    fake_scores(monkeypatch, 0.5, 0.9, 0.7)
    job = Job(data="shapes:48@32", validation=validation, recipe=TINY.changed(keep=keep), **NETWORK)
    run_job(job, tmp_path / "run")
    measured = load(tmp_path / "run").origin.measured["top1"]
    assert measured == {2: 90.0, 3: 70.0}[kept]
    said = capsys.readouterr().err
    other = "last: 0.7000 after epoch 3" if kept == 2 else "best: 0.9000 after epoch 2"
    assert f"the model of epoch {kept}, validation accuracy {measured / 100:.4f} ({other}" in said


def test_a_test_split_does_not_choose_the_epoch(tmp_path, monkeypatch, capsys):
    """Data of train and test alone: the test split measures every epoch, and the last one is kept."""
    data = tmp_path / "data"
    for split in ("train", "test"):
        photos(data / split, {"cat": 20, "dog": 20})
    assert open_splits(data).judged_by_test
    assert not open_splits("shapes:48@32").judged_by_test
    fake_scores(monkeypatch, 0.5, 0.9, 0.7)
    run_job(Job(data=str(data), recipe=TINY, **NETWORK), tmp_path / "run")
    assert load(tmp_path / "run").origin.measured["top1"] == 70.0
    assert "a test split judged, which may not choose" in capsys.readouterr().err


def test_the_counts_of_an_epoch_that_is_validated_again_stand_once(tmp_path):
    path = tmp_path / CLASS_FILE
    row = {"class": "cat", "images": 5, "answered": 4, "right": 3}
    for epoch in ("1", "2", "3", "2"):
        write_classes(path, [{"epoch": epoch, **row}])
    assert path.read_text("utf-8").splitlines() == ["epoch,class,images,answered,right", "1,cat,5,4,3", "2,cat,5,4,3"]
    path.write_text("epoch,class\n1,cat\n", "utf-8")
    with pytest.raises(ValueError, match="has the columns epoch, class, images"):
        write_classes(path, [{"epoch": "3", **row}])


def test_resumed_runs_know_the_best_epoch(tmp_path, monkeypatch):
    """Stopped after the best epoch and resumed, the model of that epoch stays."""
    fake_scores(monkeypatch, 0.5, 0.9)
    job = Job(data="shapes:48@32", validation="shapes:40@32", recipe=TINY, **NETWORK)
    with pytest.raises(IndexError):
        run_job(job, tmp_path / "run", progress=False)
    fake_scores(monkeypatch, 0.7)
    done = resume(tmp_path / "run", progress=False)
    assert [row["val_accuracy"] for row in done.rows] == [0.5, 0.9, 0.7]
    assert load(tmp_path / "run").origin.measured["top1"] == 90.0
