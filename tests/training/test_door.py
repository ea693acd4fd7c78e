"""The door `train`: what it says, what it starts from, and that TensorFlow says nothing."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from models import SMALLEST

from keras_mnasnet import MnasNet, detection
from keras_mnasnet.data import open_images, summarize, write_folder
from keras_mnasnet.data.pipeline import decoded
from keras_mnasnet.training import RECIPES, Training, recipe_of, resume, train
from keras_mnasnet.training import engine as runs
from keras_mnasnet.training.callbacks import rate_text
from keras_mnasnet.training.engine import read_state
from keras_mnasnet.training.job import STATE_FILE, read_run
from keras_mnasnet.utils import text as texts

NETWORK = {"network": SMALLEST}
SHORT = "cifar10 epochs=1 batch_size=32 base_batch=32 ema=0"
NOISE = re.compile(r"^(\d{4}-\d\d-\d\d |[IWEF]\d{4} |[IWEF]0000|WARNING:)|rendezvous|oneDNN|cuda|CUDA|InitializeLog")
CODE = """
import sys
from keras_mnasnet.training import train
done = train(sys.argv[1], sys.argv[2], network=sys.argv[4], recipe=sys.argv[3])
print(done.accuracy, done.best_accuracy, len(done.rows), *done.labels)
"""


def test_a_training_says_what_it_does_and_tensorflow_nothing(tmp_path):
    """Photos of several sizes, larger than the input; TF_CPP_MIN_LOG_LEVEL is not set; no terminal."""
    for size, seed in ((200, 0), (160, 1)):
        write_folder(tmp_path / str(size), 48, size=size, seed=seed)
    for photo in (tmp_path / "160").glob("*/*.png"):
        photo.rename(tmp_path / "200" / photo.parent.name / f"small-{photo.name}")
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    recipe = SHORT.replace("epochs=1", "epochs=2") + " augment.crop=inception"
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "200"), str(tmp_path / "run"), recipe, NETWORK["network"]],
        env=environment, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert not [line for line in lines if NOISE.search(line)]
    said = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    assert said["model"] == "fresh weights"
    assert said["classes"].startswith("train/validation photos: checkerboard ")
    assert "the data" in said["train"]
    assert "10% of every class" in said["validation"]
    assert "cifar10" in said["recipe"]
    assert said["output"] == str(tmp_path / "run")
    warning, *others = [line for line in lines if line.startswith("warning:")]
    assert all("for every photo" in line for line in others)
    assert re.search(r"sides of 180 pixels or more, 6 times the input's 32", warning)
    assert lines[-2].startswith(f"wrote {tmp_path / 'run'}: the model of epoch ")
    assert lines[-1] == f"next: mnasnet predict {tmp_path / 'run'} PHOTO, or mnasnet export {tmp_path / 'run'} -o FILE.tflite"
    assert len([line for line in lines if line.startswith("epoch ")]) == 2
    assert done.stdout.split()[2:5] == ["2", "checkerboard", "circle"]


def test_silence_of_ten_seconds_is_the_longest(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(texts, "SECONDS", 0.0)
    done = train("shapes:64@32", tmp_path / "run", **NETWORK, recipe=SHORT)
    err = capfd.readouterr().err
    assert re.search(r"train: 1 of 2 steps, .*left, epoch 1/1, loss \d\.\d{3}", err)
    assert "validating epoch 1" in err
    assert done.accuracy == done.best_accuracy == done.rows[-1]["val_accuracy"]
    assert done.load().labels == done.labels
    assert Training.of(done.folder, []).accuracy is None


def test_a_model_given_as_a_value_is_named_and_survives_a_kill(tmp_path, monkeypatch):
    start = MnasNet(SMALLEST, weights=None, classes=10, input_shape=(32, 32, 3))
    still = SHORT + " learning_rate=0.0 weight_decay=0.0 bn_momentum=0.0"

    class Killed(Exception):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "_part", killed)
        with pytest.raises(Killed):
            train("shapes:64@32", tmp_path / "run", from_model=start, recipe=still, progress=False)
    job, _ = read_run(tmp_path / "run")
    assert job.from_model == start.name
    done = resume(tmp_path / "run", progress=False)
    assert (tmp_path / "run" / STATE_FILE).is_file()
    arrays, _ = read_state(tmp_path / "run" / STATE_FILE)
    (stem,) = (value for name, value in arrays.items() if name.startswith("model:") and name.endswith("stem_conv/kernel"))
    np.testing.assert_array_equal(stem, start.get_layer("stem_conv").get_weights()[0])
    assert len(done.rows) == 1


def test_recipes_as_a_door_takes_them(tmp_path):
    recipe = recipe_of("finetune epochs=3", {"augment.flip": False}, batch_size=8, size=None)
    assert (recipe.epochs, recipe.batch_size, recipe.size, recipe.augment.flip) == (3, 8, None, False)
    assert recipe_of(RECIPES["cifar10"]) == RECIPES["cifar10"]
    (tmp_path / "mine.json").write_text(json.dumps({"schema": 1, "name": "mine"}), "utf-8")
    with pytest.raises(ValueError, match="A recipe needs epochs"):
        recipe_of(tmp_path / "mine.json")


def _classes(images):
    return summarize(images.name, {"train": (images, "here")}).rows()["classes"]


def test_classes_in_few_words(tmp_path):
    assert _classes(open_images("shapes:20@32")).startswith("train photos: checkerboard ")
    png = tf.io.encode_png(np.zeros((8, 8, 3), np.uint8)).numpy()
    for number in range(20):
        (tmp_path / f"class{number:02d}").mkdir()
        for index in range(1 + number % 3):
            (tmp_path / f"class{number:02d}" / f"{index}.png").write_bytes(png)
    expected = "1 to 3 photos of each in train; class00 1, class01 2, class02 3, class03 1 and 16 more"
    assert _classes(open_images(tmp_path)) == expected
    assert [rate_text(rate) for rate in (1234.0, 34.4, 9.96, 0.523)] == ["1,200", "34", "10", "0.52"]


def test_whether_photos_agree_in_size_is_learned_once(tmp_path):
    for size, seed in ((24, 0), (32, 1)):
        write_folder(tmp_path / str(size), 30, size=size, seed=seed)
    one = open_images(tmp_path / "24").checked()
    assert (one.sizes == 24).all()
    assert one.subset([3, 1]).sizes.shape == (2, 2)
    assert one.checked() is one
    assert decoded(one) is decoded(one)
    for photo in (tmp_path / "32").glob("*/*.png"):
        photo.rename(tmp_path / "24" / photo.parent.name / f"large-{photo.name}")
    several = open_images(tmp_path / "24")
    assert decoded(several) is decoded(several) is None
    assert decoded(several.checked()) is None


def test_a_training_starts_from_something(tmp_path):
    with pytest.raises(ValueError, match="must say what the training starts from"):
        train("shapes:64@32", tmp_path / "run")
    with pytest.raises(ValueError, match="must say what the training starts from"):
        detection.train("boxes.json", "photos", tmp_path / "run")
    assert not list(tmp_path.iterdir())
