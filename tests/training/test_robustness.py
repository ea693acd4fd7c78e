"""What goes wrong around a run: other folders, other processes, links, thin and damaged photos, a full disk."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from models import SMALLEST

from keras_mnasnet import MnasNet, load, save
from keras_mnasnet.data import open_images, write_folder
from keras_mnasnet.training import RECIPES, Averages, Diverged, Job, resume, run_job
from keras_mnasnet.training import engine as runs
from keras_mnasnet.training.classifier import ClassifierRun
from keras_mnasnet.training.engine import NotFinite, finite_state, read_state, restore_state, write_state

TINY = RECIPES["cifar10"].changed(epochs=2, batch_size=32, base_batch=32, learning_rate=2e-3, warmup_epochs=0.5, ema=0.9)
NETWORK = {"network": SMALLEST}


def job(data="shapes:96@32", recipe=TINY, **options):
    return Job(data=str(data), recipe=recipe, **{**NETWORK, **options})


def train(folder, job, **options):
    return run_job(job, folder, **options).rows


class Stop(Exception):
    pass


def stopped_after(monkeypatch, parts):
    """A run that ends, as if killed, once it has written that many checkpoints."""
    written = []

    def write(path, arrays, position):
        write_state(path, arrays, position)
        written.append(position)
        if len(written) == parts:
            raise Stop

    monkeypatch.setattr(runs, "write_state", write)


def test_head_keep_resumes_in_the_process_that_made_other_models(tmp_path, monkeypatch):
    """Keras numbers dropout's seed generator and the optimizer by how many the process has made; a checkpoint must not."""
    train(tmp_path / "first", job(recipe=TINY.changed(epochs=1)), progress=False)
    again = Job(data="shapes:96@32", recipe=TINY, from_model=str(tmp_path / "first" / "model.safetensors"), head="keep")
    whole = train(tmp_path / "whole", again, progress=False)
    with monkeypatch.context() as patch:
        stopped_after(patch, 1)
        with pytest.raises(Stop):
            train(tmp_path / "cut", again, progress=False)
    rows = resume(tmp_path / "cut", progress=False).rows
    assert [row["loss"] for row in rows] == [row["loss"] for row in whole]


@pytest.mark.parametrize(("frozen", "failing"), [(1, 1), (0, 2)])
def test_an_epoch_whose_validation_fails_is_not_lost(tmp_path, monkeypatch, frozen, failing):
    """The state is written first: what is resumed begins with the validation, and nothing is trained twice."""
    whole_run, cut = tmp_path / "whole" / "run", tmp_path / "cut" / "run"  # a model is named for its folder
    recipe = TINY.changed(frozen_epochs=frozen, frozen_learning_rate=1e-2)
    save(MnasNet(SMALLEST, weights=None, classes=10, input_shape=(32, 32, 3)), tmp_path / "start.safetensors")
    fine_tuned = Job(data="shapes:96@32", recipe=recipe, from_model=str(tmp_path / "start.safetensors"))
    whole = train(whole_run, fine_tuned, progress=False)
    own, own_fit, measured, fitted = ClassifierRun.measure, runs.Run._fit, [], []

    def measure(run, model):
        measured.append(model)
        if len(measured) == failing:
            raise MemoryError("validation")
        return own(run, model)

    def fit(*arguments):
        fitted.append(arguments)
        return own_fit(*arguments)

    monkeypatch.setattr(ClassifierRun, "measure", measure)
    monkeypatch.setattr(runs.Run, "_fit", fit)
    with pytest.raises(MemoryError):
        train(cut, fine_tuned, progress=False)
    rows = resume(cut, progress=False).rows
    assert (len(measured), len(fitted)) == (3, 2)
    times = ("seconds", "images_per_second")
    assert [{k: v for k, v in row.items() if k not in times} for row in rows] == [
        {k: v for k, v in row.items() if k not in times} for row in whole
    ]
    assert (cut / "model.safetensors").read_bytes() == (whole_run / "model.safetensors").read_bytes()


def test_a_run_that_keeps_its_best_epoch_and_lost_it_says_so(tmp_path, monkeypatch):
    scores = iter([0.9, 0.5, 0.4])
    monkeypatch.setattr(ClassifierRun, "measure", lambda run, model: {"val_loss": 1.0, "val_accuracy": next(scores)})
    recipe = TINY.changed(epochs=3, patience=3)
    train(tmp_path / "run", job(recipe=recipe), progress=False)
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"without model\.safetensors, of epoch 1, and a checkpoint of a later one"):
        resume(tmp_path / "run", progress=False)


def test_state_names_are_the_same_in_every_process(tmp_path):
    def model():
        image = keras.Input((4,))
        made = keras.Model(image, keras.layers.Dense(2, name="top")(keras.layers.Dropout(0.5)(image)))
        made.compile(keras.optimizers.AdamW(), "mse")
        made.optimizer.build(made.trainable_variables)
        return made

    first, second = model(), model()
    write_state(tmp_path / "state", finite_state(first, {}), runs.Position())
    arrays, _ = read_state(tmp_path / "state")
    assert not [name for name in arrays if "_1/" in name or "_2/" in name]
    restore_state(tmp_path / "state", second, with_optimizer=True)
    np.testing.assert_array_equal(first.get_layer("top").get_weights()[0], second.get_layer("top").get_weights()[0])


def test_short_runs_evaluate_averages_not_the_start():
    """Three steps: the evaluated weights are d ** 3 of the start and the rest of the last, d = min(0.999, 4 / 13)."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.zeros((2, 1))])
    averages = Averages(0.999, model)
    averages.set_model(model)
    for value in (1.0, 2.0, 3.0):
        model.set_weights([np.full((2, 1), value)])
        averages.on_train_batch_end(0)
    with averages.swapped(model):
        np.testing.assert_allclose(model.get_weights()[0], 3 * (1 - (4 / 13) ** 3), rtol=1e-6)
    np.testing.assert_allclose(model.get_weights()[0], 3)
    assert not next(iter(averages.values.values())).any()


def test_a_run_is_resumed_from_any_folder(tmp_path, monkeypatch):
    write_folder(tmp_path / "photos", count=96, size=32)
    monkeypatch.chdir(tmp_path)
    train("run", job("photos", recipe=TINY.changed(epochs=1)), progress=False)
    assert json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["job"]["data"] == str(tmp_path / "photos")
    monkeypatch.chdir("/")
    assert len(resume(tmp_path / "run", progress=False).rows) == 1
    monkeypatch.chdir(tmp_path / "run")
    assert len(resume(".", progress=False).rows) == 1


def test_names_are_not_taken_for_folders(tmp_path, monkeypatch):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "shapes").mkdir()
    monkeypatch.chdir(tmp_path)
    anchored = job("shapes", from_model="cifar10").anchored()
    assert (anchored.data, anchored.from_model, anchored.validation) == ("shapes", "cifar10", None)


def test_a_link_back_is_not_followed(tmp_path):
    write_folder(tmp_path / "photos", count=40, size=32)
    first = sorted(path for path in (tmp_path / "photos").iterdir() if path.is_dir())[0]
    (first / "up").symlink_to("..")
    (first / "self").symlink_to(".")
    assert open_images(tmp_path / "photos").count == 40


def test_thin_photos_are_found_before_the_start(tmp_path):
    write_folder(tmp_path / "photos", count=96, size=32)
    first = sorted(path for path in (tmp_path / "photos").iterdir() if path.is_dir())[0]
    keras.utils.save_img(first / "thin.png", np.zeros((1, 200, 3)), scale=False)
    with pytest.raises(ValueError, match="narrower than 1:100:\n.*thin.png"):
        train(tmp_path / "run", job(tmp_path / "photos"), progress=False)
    assert open_images(tmp_path / "photos").checked(max_bad=1).bad == (str(first / "thin.png"),)


def test_damaged_photos_without_a_check_are_an_error(tmp_path):
    write_folder(tmp_path / "photos", count=96, size=32)
    for folder in (path for path in (tmp_path / "photos").iterdir() if path.is_dir()):
        next(folder.iterdir()).write_bytes(b"no image")
    with pytest.raises(ValueError, match="images may be damaged. Received: |Every image of a run must be whole. Received: "):
        train(tmp_path / "run", job(tmp_path / "photos", check=False), progress=False)


@pytest.mark.parametrize(
    ("photos", "options", "message"),
    [
        (20, {"recipe": TINY.changed(batch_size=2, base_batch=2)}, None),
        (
            96,
            {"recipe": TINY.changed(**{"augment.pad": 40})},
            "`augment.pad` must be below the input size. Received: augment.pad=40",
        ),
    ],
)
def test_refused_before_anything_is_written(tmp_path, photos, options, message):
    write_folder(tmp_path / "photos", count=photos, size=32)
    if message is None:
        for folder in (path for path in (tmp_path / "photos").iterdir() if path.is_dir()):
            for photo in sorted(folder.iterdir())[1:]:
                photo.unlink()
        message = "needs images to validate on. Received: 10 images"
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", job(tmp_path / "photos", tensorboard=True, **options), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_weight_that_is_no_number_leaves_the_last_model(tmp_path, monkeypatch):
    real, calls = finite_state, []

    def poisoned(model, averages):
        calls.append(1)
        if len(calls) == 2:
            raise NotFinite("predictions/kernel is NaN or infinite")
        return real(model, averages)

    monkeypatch.setattr(runs, "finite_state", poisoned)
    with pytest.raises(Diverged, match="predictions/kernel is NaN or infinite.*its last checkpoint is of step"):
        train(tmp_path / "run", job(), progress=False)
    assert np.isfinite(load(tmp_path / "run" / "model.safetensors").tensors["predictions/kernel"]).all()


def test_a_full_disk_is_one_message(tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space is left to write .*checkpoint\.safetensors, which needs \d+ bytes"):
        write_state(tmp_path / "checkpoint.safetensors", {"a": np.zeros(3)}, runs.Position())
    assert not list(tmp_path.glob("*.safetensors*"))


def test_printed_recipes_are_recipes(tmp_path):
    def mnasnet(*arguments):
        command = [sys.executable, "-m", "keras_mnasnet.cli.main", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        )

    printed = mnasnet("recipes", "finetune epochs=3", "--json").stdout
    assert json.loads(printed)["epochs"] == 3
    (tmp_path / "mine.json").write_text(json.dumps({**json.loads(printed), "name": "mine"}))
    assert "mine" in mnasnet("recipes", str(tmp_path / "mine.json")).stdout
