"""`mnasnet train` as a user types it."""

import json
import subprocess
import sys

import pytest

from keras_mnasnet.cli import main
from keras_mnasnet.data import write_folder
from keras_mnasnet.weights import read_file

TINY = (
    "--model",
    "small",
    "--width",
    "0.35",
    "--stem-stride",
    "1",
    "--recipe",
    "proxy-5-epochs",
    "--epochs",
    "1",
    "--batch-size",
    "16",
)


def run(capfd, *arguments):
    try:
        status = main._run(main._parse(["mnasnet", "train", *map(str, arguments)]))
    except SystemExit as stop:
        status = stop.code
    return status, *capfd.readouterr()


def test_fine_tuning_the_bundled_weights_on_a_folder(tmp_path):
    """From a new process: 2,000 drawn pictures of ten classes, at least 95 % of the held-out tenth; then a prediction."""
    write_folder(tmp_path / "shapes", 2000, size=32, seed=0)
    command = [sys.executable, "-m", "keras_mnasnet.cli.main"]
    options = ("--weights", "cifar10", "--epochs", "9", "--batch-size", "64", "--output", str(tmp_path / "run"), "--json")
    done = subprocess.run([*command, "train", str(tmp_path / "shapes"), *options], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert float(report["epochs"][-1]["val_accuracy"]) >= 0.95
    photo = next((tmp_path / "shapes" / "star").iterdir())
    done = subprocess.run(
        [*command, "predict", str(photo), "--weights", report["model"], "--json"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)[0]["predictions"][0]["name"] == "star"


def test_settings_reach_the_run(capfd, tmp_path):
    folder = tmp_path / "run"
    status, out, err = run(
        capfd, "shapes:64@32", *TINY, "--output", folder, "--set", "augment.flip=false", "--learning-rate", "0.004",
        "--resolution", 40, "--tensorboard",
    )  # fmt: skip
    assert status == 0, err
    assert "validation accuracy" in out
    assert "epoch 1/1: loss" in err
    job = json.loads((folder / "run.json").read_text("utf-8"))["job"]
    assert job["recipe"]["augment"]["flip"] is False
    assert (job["recipe"]["learning_rate"], job["recipe"]["batch_size"], job["recipe"]["size"]) == (0.004, 16, 40)
    assert list((folder / "tensorboard").iterdir())
    assert read_file(folder / "model.safetensors").resolution == 40
    status, _, err = run(capfd, "--resume", folder, "--model", "b1", "--epochs", 3)
    assert status == 1
    assert "keeps the settings of its start" in err
    assert "--model, --epochs" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "DATA and --output, or --resume"),
        (("shapes", "--resume", "x"), "DATA and --output, or --resume"),
        (("shapes",), "no --output"),
        (("/nowhere", "--output", "{tmp}/r"), "which does not exist"),
        (("{tmp}/empty", "--output", "{tmp}/r"), "which is empty"),
        (("{tmp}/single", "--output", "{tmp}/r"), "at least 2 classes. Received: "),
        (("shapes:64@32", *TINY, "--output", "{tmp}/full"), "new or empty folder"),
        (("shapes:64@32", *TINY, "--output", "/proc/r"), "/proc/r"),
        (("shapes:64@32", "--output", "{tmp}/r", "--recipe", "fine"), "Did you mean 'finetune'"),
        (("shapes:64@32", "--output", "{tmp}/r", "--set", "epoch=3"), "Did you mean 'epochs'"),
        (("shapes:64@32", "--output", "{tmp}/r", "--model", "a9"), "a9"),
        (("shapes:64@32", "--output", "{tmp}/r", "--weights", "google/a1"), "Nearest records"),
        (("shapes:64@32", "--output", "{tmp}/r", "--batch-size", "100"), "at least one batch"),
        (("--resume", "{tmp}/empty"), "holds run.json"),
        (("shapes:64@32", *TINY, "--output", "{tmp}/r", "--validation", "{tmp}/two"), "must have the same classes"),
        (("shapes", "--output", "{tmp}/r", "--processes", "2"), "need the address of process 0"),
    ],
)
def test_failures_are_one_line_and_leave_nothing(capfd, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "two", 20, size=32)
    (tmp_path / "single").mkdir()
    (tmp_path / "two" / "star").rename(tmp_path / "single" / "star")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x", "utf-8")
    status, out, err = run(capfd, *(str(argument).format(tmp=tmp_path) for argument in arguments))
    assert status == 1
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert not (tmp_path / "r").exists()
