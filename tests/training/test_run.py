"""Training runs on generated images: what a folder holds, exact resume, NaN, early stop, replicas, refusals."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import PIL.Image
import pytest
from models import SMALLEST

from keras_mnasnet import MnasNet, load
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.benchmarks import evaluate as measured
from keras_mnasnet.data import ImageSet, open_images
from keras_mnasnet.data.sources import Files, Segments
from keras_mnasnet.training import RECIPES, Diverged, Job, resume, run_job
from keras_mnasnet.training.callbacks import decay_at
from keras_mnasnet.training.classifier import evaluate, open_run
from keras_mnasnet.training.engine import photos_sha256, read_state
from keras_mnasnet.training.job import STATE_FILE
from keras_mnasnet.utils.files import TEMPORARY
from keras_mnasnet.utils.locks import BusyError, locked

TINY = RECIPES["cifar10"].changed(
    epochs=3, batch_size=32, base_batch=32, learning_rate=2e-3, warmup_epochs=0.5, ema=0.9, keep="last"
)
NETWORK = {"network": SMALLEST}
TIMES = ("images_per_second", "seconds")


def job(recipe=TINY, data="shapes:160@32", **options):
    return Job(data=data, recipe=recipe, **{"checkpoint_steps": 3, **NETWORK, **options})


def train(folder, job, **options):
    return run_job(job, folder, **options)


def curve(folder):
    if not (folder / "log.csv").is_file():  # killed between the first state and the first row
        return []
    with (folder / "log.csv").open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(folder, job(), progress=False)
    return folder


def test_a_run_folder(finished):
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoint.safetensors", "classes.csv", "labels.txt", "log.csv", "model.safetensors", "run.json",
    ]  # fmt: skip
    rows = curve(finished)
    assert [row["epoch"] for row in rows] == ["0.5", "1", "1.5", "2", "2.5", "3"]  # 5 steps an epoch, cut into 2 parts of 2
    assert [row["step"] for row in rows] == ["2", "4", "6", "8", "10", "12"]
    assert [bool(row["val_accuracy"]) for row in rows] == [False, True] * 3
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    run = json.loads((finished / "run.json").read_text("utf-8"))
    assert run["schema"] == 1
    assert run["facts"]["environment"]["backend"] == "tensorflow"
    assert run["facts"]["validation_images"] == 160


def test_the_model_of_a_run_is_the_evaluated_one(finished):
    """The file holds the moving averages, its labels and preprocessing; it scores what the log says."""
    checkpoint = load(finished / "model.safetensors")
    images = open_images("shapes:160@32", split="validation")
    assert checkpoint.labels == images.labels
    assert (checkpoint.preprocessing.size, checkpoint.preprocessing.resize) == (32, 32)
    arrays, position = read_state(finished / STATE_FILE)
    (own,) = (value for name, value in arrays.items() if name.startswith("model:") and name.endswith("predictions/kernel"))
    kept = decay_at(TINY.ema, 12) ** 2  # step 12: ten are averaged in, two more for the evaluation
    expected = kept * arrays["average:predictions/kernel"] + (1 - kept) * own
    np.testing.assert_allclose(checkpoint.tensors["predictions/kernel"], expected, rtol=1e-5, atol=1e-7)
    assert position.part == 6
    model = MnasNet(
        checkpoint.architecture, weights=finished / "model.safetensors", classifier_activation=None, input_shape=(32, 32, 3)
    )
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=TINY.label_smoothing)
    model.compile(loss=loss, weighted_metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")])
    found = evaluate(model, images, 32, TINY.augment, batch_size=48)
    last = curve(finished)[-1]
    assert found["val_accuracy"] == pytest.approx(float(last["val_accuracy"]))
    assert found["val_loss"] == pytest.approx(float(last["val_loss"]), rel=1e-5)


def command(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "keras_mnasnet.cli.main", *map(str, arguments)],
        env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_killed_and_resumed_gives_the_same_curve_to_the_digit(finished, tmp_path):
    folder = tmp_path / "run"
    text = str(TINY).split()
    process = command(
        "train", "shapes:160@32", "-o", folder, "--network", SMALLEST,
        "--recipe", text[0], *(part for pair in text[1:] for part in ("--set", pair)), "--checkpoint-steps", 3,
    )  # fmt: skip
    deadline = time.monotonic() + 900
    while not (folder / STATE_FILE).is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(curve(folder)) < 6, "the run was to be killed before its end"
    again = command("train", "--resume", folder, "--json")
    out, err = again.communicate(timeout=900)
    assert again.returncode == 0, err
    assert curve(folder) == curve(finished)
    assert json.loads(out)["epochs"][-1]["step"] == "12" or json.loads(out)["epochs"][-1]["step"] == 12
    ours, theirs = (load(each / "model.safetensors").tensors for each in (folder, finished))
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_a_finished_run_is_left_alone(finished):
    before = curve(finished)
    assert len(resume(finished, progress=False).rows) == len(before)
    assert curve(finished) == before


def test_nan_stops_with_step_and_checkpoint(tmp_path):
    recipe = TINY.changed(optimizer="sgd", learning_rate=900.0, warmup_epochs=0, weight_decay=0.5, ema=0)
    with pytest.raises(Diverged, match=r"step \d+.*NaN or infinite.*(checkpoint is of step|no checkpoint).*lower"):
        train(tmp_path / "run", job(recipe), progress=False)
    state = tmp_path / "run" / STATE_FILE
    if state.is_file():
        assert all(np.isfinite(value).all() for value in read_state(state)[0].values())


def test_frozen_epochs_train_the_classifier_alone(finished, tmp_path):
    recipe = TINY.changed(epochs=2, frozen_epochs=1, frozen_learning_rate=1e-2, ema=0)
    with pytest.raises(ValueError, match="freezes weights needs trained ones.*Received: .*frozen_epochs=1, .*from_model=None"):
        train(tmp_path / "bare", job(recipe), progress=False)
    start = finished / "model.safetensors"
    from_start = {"from_model": str(start), "network": None, "width": None, "stem_stride": None, "checkpoint_steps": 100}
    whole = tmp_path / "whole"
    train(whole, job(recipe, **from_start), progress=False)
    rates = [float(row["learning_rate"]) for row in curve(whole)]
    assert rates[0] == pytest.approx(1e-2)
    assert rates[1] != rates[0]
    stopped = tmp_path / "stopped"
    train(stopped, job(recipe.changed(epochs=1), **from_start), progress=False)
    given, first, last = (load(path).tensors for path in (start, *(run / "model.safetensors" for run in (stopped, whole))))
    assert np.any(first["predictions/kernel"])
    statistics = "block1a_depthwise_bn/moving_mean"
    np.testing.assert_array_equal(first[statistics], given[statistics], "batch norms keep their statistics")
    assert np.any(last[statistics] != given[statistics])


def test_stops_early_and_keeps_the_best(tmp_path):
    recipe = TINY.changed(epochs=8, learning_rate=0.0, patience=2, ema=0)
    train(tmp_path / "run", job(recipe, checkpoint_steps=100), progress=False)
    assert len(curve(tmp_path / "run")) == 3
    assert read_state(tmp_path / "run" / STATE_FILE)[1].best_epoch == 1


def test_two_replicas_of_one_machine(tmp_path):
    """tf.distribute.MirroredStrategy over two logical CPUs; batch norms see half batches, so losses are near, not equal."""
    code = (
        "import sys, tensorflow as tf\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)\n"
        "from pathlib import Path\n"
        "from keras_mnasnet.training import train\n"
        "network = {'network': sys.argv[3], 'recipe': sys.argv[2]}\n"
        "done = train('shapes:96@32', sys.argv[1], **network, devices=['CPU:0', 'CPU:1'], progress=False)\n"
        "print(done.rows[-1]['val_loss'])\n"
    )
    recipe = str(TINY.changed(epochs=1, warmup_epochs=0, learning_rate=1e-3))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run"), recipe, SMALLEST], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 1.5 < float(done.stdout.split()[-1]) < 4
    resume(tmp_path / "run", progress=False)


def photos(folder, size=32):
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for index in range(40):
            keras.utils.save_img(folder / name / f"{index}.png", np.full((size, size, 3), index))
    return str(folder)


def test_refusals(finished, tmp_path):
    with pytest.raises(ValueError, match=r"new or empty folder.*--resume"):
        train(finished, job(), progress=False)
    with pytest.raises(ValueError, match=r"holds run\.json. Received: .*without one"):
        resume(tmp_path, progress=False)
    with pytest.raises(ValueError, match="An epoch needs at least one batch. Received: 20 images"):
        train(tmp_path / "a", job(data="shapes:20@32"), progress=False)
    kept = job(data=photos(tmp_path / "photos"), from_model=str(finished / "model.safetensors"), head="keep")
    with pytest.raises(ValueError, match="head='keep' needs a checkpoint with the classes of the data. Received: 10 classes"):
        train(tmp_path / "b", kept, progress=False)
    with pytest.raises(ValueError, match="checkpoint's classes, in its order. Received: class 0 is .* 'airplane' in the"):
        train(tmp_path / "b", job(from_model="cifar10", head="keep", network="a1"), progress=False)
    blocked = tmp_path / "file"
    blocked.write_text("x", "utf-8")
    with pytest.raises((ValueError, OSError), match="file"):
        train(blocked / "run", job(), progress=False)


def test_damaged_photos_are_named(tmp_path):
    data = photos(tmp_path / "photos")
    for number in (3, 7):
        (tmp_path / "photos" / "cat" / f"{number}.png").write_bytes(b"no photo")
    with pytest.raises(ValueError, match=r"(?s)may be damaged. Received: 2 .*cat.3\.png.*cat.7\.png.*larger max_bad"):
        train(tmp_path / "a", job(data=data), progress=False)
    train(tmp_path / "b", job(TINY.changed(epochs=1), data=data, max_bad=2), progress=False)
    run = json.loads((tmp_path / "b" / "run.json").read_text("utf-8"))
    assert [path.rpartition("/")[2] for path in run["facts"]["excluded"]] == ["3.png", "7.png"]
    assert run["facts"]["train_images"] + run["facts"]["validation_images"] == 78
    resume(tmp_path / "b", progress=False)
    (tmp_path / "photos" / "dog" / "0.png").rename(tmp_path / "photos" / "dog" / "other.png")
    with pytest.raises(ValueError, match="started with. Received: as many photos as .*, but other ones, .*Restore the data"):
        resume(tmp_path / "b", progress=False)
    del run["facts"]["photos_sha256"]  # as in a run that was started before it was kept
    (tmp_path / "b" / "run.json").write_text(json.dumps(run), "utf-8")
    resume(tmp_path / "b", progress=False)


def test_which_photos_a_run_has():
    """Names below the folder that holds all of a set, in order; of photos in a larger file also how long each is."""

    def sha256(*names, values=()):
        return photos_sha256([ImageSet("x", ("a",), Files(names, np.zeros(len(names))))], *values)

    first = sha256("/a/x/1.jpg", "/a/y/2.jpg")
    assert first == sha256("/b/c/x/1.jpg", "/b/c/y/2.jpg")
    others = [("/a/y/2.jpg", "/a/x/1.jpg"), ("/a/x/1.jpg", "/a/x/2.jpg"), ("/a/x/1.jpg",), ("/a/x/1.jp", "g/a/y/2.jpg"), ()]
    found = {first, sha256("/a/x/1.jpg", "/a/y/2.jpg", values=[np.ones(1)]), *(sha256(*names) for names in others)}
    assert len(found) == 2 + len(others)
    assert sha256("/a/1.jpg") != sha256("/a/2.jpg")
    tars = (Segments(["a.tar"], *np.array([[0, 0], [0, 9], [9, last]]), ("x", "y"), np.zeros(2)) for last in (5, 6))
    short, long = (ImageSet("x", ("a",), tar) for tar in tars)
    assert photos_sha256([short]) != photos_sha256([long])
    assert photos_sha256([short.subset([0])]) == photos_sha256([long.subset([0])])


def test_resume_refuses_another_network_or_data(finished, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("run.json", STATE_FILE, "log.csv"):
        (folder / name).write_bytes((finished / name).read_bytes())
    run = json.loads((folder / "run.json").read_text("utf-8"))
    changed = json.loads(json.dumps(run))
    changed["job"]["recipe"]["epochs"] = 4
    changed["facts"]["architecture"] = str(Architecture.parse(SMALLEST.replace("head64", "head32")))
    (folder / "run.json").write_text(json.dumps(changed), "utf-8")
    with pytest.raises(ValueError, match="must hold the variables of this run's network and optimizer. Received: 'model:"):
        resume(folder, progress=False)
    changed = json.loads(json.dumps(run))
    changed["job"]["data"] = "shapes:192@32"
    (folder / "run.json").write_text(json.dumps(changed), "utf-8")
    with pytest.raises(ValueError, match="Received: train_images=.192"):
        resume(folder, progress=False)
    (folder / "run.json").write_text(json.dumps({**run, "schema": 9}), "utf-8")
    with pytest.raises(ValueError, match="schema must be 1"):
        resume(folder, progress=False)
    (folder / "run.json").write_text(json.dumps(run), "utf-8")
    log = (folder / "log.csv").read_text("utf-8")
    for changed_log in ("", "epoch,step\n1,2\n", log.replace(",4,", ",x,")):
        (folder / "log.csv").write_text(changed_log, "utf-8")
        with pytest.raises(ValueError, match="which was changed. Restore it, or remove it"):
            resume(folder, progress=False)
    (folder / "log.csv").unlink()
    (folder / STATE_FILE).write_bytes(b"garbage")
    with pytest.raises(ValueError, match="training checkpoint must be one of keras_mnasnet's"):
        resume(folder, progress=False)


def test_a_run_killed_before_its_first_checkpoint_starts_from_its_weights(finished, tmp_path):
    """Numerics, width and classifier come from the checkpoint again; without its weights the first loss would be another."""
    options = {"network": None, "width": None, "stem_stride": None, "head": "keep"}
    start = job(TINY.changed(epochs=1, ema=0), from_model=str(finished / "model.safetensors"), **options)
    train(tmp_path / "whole", start, progress=False)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_bytes((tmp_path / "whole" / "run.json").read_bytes())
    resume(folder, progress=False)
    assert curve(folder) == curve(tmp_path / "whole")


def test_one_process_at_a_time(finished):
    latest = finished.with_name("latest")
    latest.symlink_to(finished.name)
    try:
        for held, other in ((finished, latest), (latest, finished), (finished, finished)):
            with locked(held), pytest.raises(BusyError, match="one process at a time.*Received: .*whole, which process"):
                resume(other, progress=False)
    finally:
        latest.unlink()


def test_what_a_killed_start_left_is_no_content(tmp_path, finished):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (f"{TEMPORARY}run.json", f"{TEMPORARY}labels.txt", ".other.lock"):
        (folder / name).write_text("half")
    train(folder, job(), progress=False)
    assert curve(folder) == curve(finished)
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == [".other.lock"]


def test_a_finished_run_makes_a_lost_model_again(tmp_path, finished):
    folder = shutil.copytree(finished, tmp_path / finished.name)  # a model is named for its folder
    (folder / "model.safetensors").unlink()
    (folder / f"{TEMPORARY}model.safetensors").write_text("half")
    resume(folder, progress=False)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in finished.iterdir())
    assert curve(folder) == curve(finished)
    assert (folder / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_keeps_float32_weights(tmp_path, precision):
    start = job(TINY.changed(epochs=1), data="shapes:64@32")
    train(tmp_path / "run", dataclasses.replace(start, mixed_precision=precision), progress=False)
    assert keras.config.dtype_policy().name == "float32"
    tensors = load(tmp_path / "run" / "model.safetensors").tensors
    assert all(value.dtype == np.float32 for value in tensors.values())


def test_a_few_folders_named_by_wnids_are_fine_tuned_on_evaluated_and_trained_on_again(tmp_path):
    """As in Imagenette: they are the classes, and not ten of ImageNet's thousand."""
    wnids = ("n01440764", "n02102040")
    for label, wnid in enumerate(wnids):
        (tmp_path / "data" / wnid).mkdir(parents=True)
        for number in range(20):
            PIL.Image.new("RGB", (32, 32), (200 * label, 10 * number, 30)).save(tmp_path / "data" / wnid / f"{number}.png")
    recipe = TINY.changed(epochs=1, batch_size=16, base_batch=16)
    train(tmp_path / "run", job(recipe, str(tmp_path / "data")), progress=False)
    (found,) = measured([str(tmp_path / "run")], tmp_path / "data")
    assert (found.classes, found.images, [row.label for row in found.per_class]) == (2, 40, list(wnids))
    weights = str(tmp_path / "run" / "model.safetensors")
    again = Job(data=str(tmp_path / "data"), recipe=recipe, from_model=weights, head="keep")
    found = open_run(again, None, False, load(weights).classes)
    assert found.train.labels == found.validation.labels == wnids
