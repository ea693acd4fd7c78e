"""`mnasnet train` as a user types it."""

import json
import subprocess
import sys

import pytest
from models import SMALLEST

from keras_mnasnet import load
from keras_mnasnet.data import write_folder

TINY = ("--network", SMALLEST, "--recipe", "proxy-5-epochs", "--epochs", "1", "--batch-size", "16")
A1 = ("--network", "a1", "--recipe", "cifar10")


@pytest.mark.nightly
def test_fine_tuning_the_bundled_weights_on_a_folder(tmp_path):
    """From a new process: 1,200 drawn pictures of ten classes, at least 80 % of the held-out tenth; then a prediction."""
    write_folder(tmp_path / "shapes", 1200, size=32, seed=0)
    command = [sys.executable, "-m", "keras_mnasnet.cli.main"]
    options = ("--from", "cifar10", "--epochs", "8", "--batch-size", "32", "-o", str(tmp_path / "run"), "--json")
    done = subprocess.run([*command, "train", str(tmp_path / "shapes"), *options], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert float(report["epochs"][-1]["val_accuracy"]) >= 0.8
    photo = next((tmp_path / "shapes" / "star").iterdir())
    done = subprocess.run(
        [*command, "predict", report["model"], str(photo), "--json"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)[0]["predictions"][0]["name"] == "star"


def test_settings_reach_the_run(mnasnet, tmp_path):
    folder = tmp_path / "run"
    status, out, err = mnasnet(
        "train", "shapes:64@32", *TINY, "-o", folder, "--set", "augment.flip=false", "--learning-rate", "0.004",
        "--size", 40, "--tensorboard",
    )  # fmt: skip
    assert status == 0, err
    assert "validation accuracy" in out
    assert "epoch 1/1: loss" in err
    job = json.loads((folder / "run.json").read_text("utf-8"))["job"]
    assert job["recipe"]["augment"]["flip"] is False
    assert (job["recipe"]["learning_rate"], job["recipe"]["batch_size"], job["recipe"]["size"]) == (0.004, 16, 40)
    assert list((folder / "tensorboard").iterdir())
    assert load(folder / "model.safetensors").size == 40
    status, _, err = mnasnet("train", "--resume", folder, "--network", "b1", "--epochs", 3)
    assert status == 1
    assert "keeps the settings of its start" in err
    assert "--network, --epochs" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("/nowhere", *A1, "-o", "{tmp}/r"), "which does not exist"),
        (("{tmp}/empty", *A1, "-o", "{tmp}/r"), "which is empty"),
        (("{tmp}/single", *A1, "-o", "{tmp}/r"), "at least 2 classes. Received: "),
        (("shapes:64@32", *TINY, "-o", "{tmp}/full"), "new or empty folder"),
        (("shapes:64@32", *TINY, "-o", "/proc/r"), "/proc/r"),
        (("shapes:64@32", *A1, "-o", "{tmp}/r", "--recipe", "fine"), "Did you mean 'finetune'"),
        (("shapes:64@32", *A1, "-o", "{tmp}/r", "--set", "epoch=3"), "Did you mean 'epochs'"),
        (("shapes:64@32", "-o", "{tmp}/r", "--network", "a9", "--recipe", "cifar10"), "a9"),
        (("shapes:64@32", "-o", "{tmp}/r", "--from", "google/a1"), "Did you mean 'google/a1-"),
        (("shapes:64@32", *TINY, "-o", "{tmp}/r", "--batch-size", "100"), "at least one batch"),
        (("--resume", "{tmp}/empty"), "holds run.json"),
        (("shapes:64@32", *TINY, "-o", "{tmp}/r", "--validation", "{tmp}/two"), "must have the same classes"),
        (("shapes", *A1, "-o", "{tmp}/r", "--processes", "2"), "need the address of process 0"),
        (("shapes", "-o", "{tmp}/r"), "fine-tunes it; --network a1 begins with fresh weights. Received: neither"),
    ],
)
def test_failures_are_one_line_and_leave_nothing(mnasnet, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "two", 20, size=32)
    (tmp_path / "single").mkdir()
    (tmp_path / "two" / "star").rename(tmp_path / "single" / "star")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x", "utf-8")
    status, out, err = mnasnet("train", *(str(argument).format(tmp=tmp_path) for argument in arguments))
    assert status == 1
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs DATA and -o RUN, or --resume RUN"),
        (("shapes", "--resume", "x"), "received both, or neither"),
        (("shapes", *A1), "give a folder to write to, -o RUN"),
    ],
)
def test_what_is_missing_is_said(mnasnet, arguments, message):
    status, out, err = mnasnet("train", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: mnasnet train DATA --from MODEL -o RUN [options]")
    assert message in err.splitlines()[-1].replace("Give", "give")
