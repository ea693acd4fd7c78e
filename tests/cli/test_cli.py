"""The `mnasnet` command, as a user types it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from fixtures import Fixture
from writers import write_tgz

from keras_mnasnet import MnasNetSmall
from keras_mnasnet.weights.fetch import placed_path
from keras_mnasnet.weights.registry import find


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (120, 90, 3), np.uint8)
    path.write_bytes(tf.io.encode_jpeg(pixels).numpy())
    return path


def test_help_loads_no_tensorflow():
    code = (
        "import sys; from keras_mnasnet.cli.main import entry_point; sys.argv = ['mnasnet', '--help']\n"
        "try: entry_point()\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'huggingface_hub', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout


def test_tables_load_no_tensorflow():
    code = (
        "import sys; from keras_mnasnet.cli.main import main\n"
        "for line in ('networks', 'info a1', 'info --network a1 --width 0.5', 'recipes', 'recipes finetune', 'weights list'):\n"
        "    assert main(line.split()) == 0\n"
        "assert main(['train', 'shapes', '--network', 'a1', '-o', 'run', '--set', 'epoch=3']) == 1\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_networks(mnasnet):
    status, out, _ = mnasnet("networks")
    assert status == 0
    assert "a2       reconstructed    224  4,827,380   340.28" in out
    status, out, _ = mnasnet("networks", "--json")
    rows = json.loads(out)
    assert [row["name"] for row in rows] == ["a1", "a2", "a3", "b1", "small", "d1", "d1-320"]
    assert rows[0]["params"] == 3_887_038
    assert len([name for name in rows[0]["checkpoints"] if not name.startswith(("cifar10/", "trashnet/"))]) == 29


def test_info(mnasnet):
    status, out, _ = mnasnet("info", "a1", "--width", "0.75", "--size", "192")
    assert status == 0
    assert "2,912,278 parameters, 164.55 M multiply-adds at 192 x 192" in out
    assert "mbconv x3   5  3        32  0.25" in out
    assert "checkpoint google/a1-0.75-192 (top1 72.1 %, top5 90.5 %, published at tensorflow/tpu" in out
    status, out, _ = mnasnet("info", "a3")
    assert "(reconstructed layout)" in out
    assert "no public checkpoint" in out
    status, out, _ = mnasnet("info", "b1", "--se", "on", "--layers", "--json")
    described = json.loads(out)
    assert described["provenance"] == "custom"
    assert sum(layer["params"] for layer in described["layers"]) == described["params"]
    assert described["checkpoints"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "--network", "c1"), "The networks are a1"),
        (("info", "a1", "--width", "-1"), "`width_multiplier` must be"),
        (("info", "a1", "--size", "8"), "`--size` must be >= 32"),
        (("info", "a1", "--size", "0"), "`--size` must be >= 32"),
        (("info", "stem0 r1_k3_s11_e1_i32_o16 head8"), "`stem` must be"),
        (("weights", "convert", "x.pth", "-o", "y", "--width", "0.5"), "need --network. Received: --width 0.5 without it"),
        (("predict", "none", "x.jpg"), "none"),
        (("weights", "convert", "imagenet", "--network", "a2", "-o", "y"), "No ImageNet weights of MnasNet-A2"),
        (("predict", "nowhere", "x.jpg"), "which is none of them"),
        (("predict", "imagnet", "x.jpg"), "Did you mean 'imagenet'"),
        (("predict", "a1", "x.jpg"), "a network without weights"),
        (("predict", "cifar10", "x.jpg", "--labels", "/nowhere"), "`--labels` must be"),
        (("weights", "fetch", "google/a1-1.0-244"), "Did you mean 'google/a1-1.0-224'"),
        (("weights", "convert", "/nowhere.pth", "-o", "x.safetensors"), "must exist"),
        (("weights", "convert", "a.pth", "-o", "b.safetensors", "--width", "0.5"), "need --network"),
    ],
)
def test_failures_are_one_line_and_status_1(mnasnet, arguments, message):
    status, out, err = mnasnet(*arguments)
    assert status == 1
    assert out == ""
    assert err.startswith("error: ")
    assert message in err


@pytest.mark.parametrize("arguments", [("nothing",), ("weights",), ("predict",), ("info", "a1", "--width", "wide")])
def test_wrong_usage_is_status_2(mnasnet, arguments):
    status, _, err = mnasnet(*arguments)
    assert status == 2
    assert "usage: mnasnet" in err


def test_weights_list(mnasnet):
    status, out, _ = mnasnet("weights", "list", "--json")
    assert status == 0
    assert len([row for row in json.loads(out) if row["dataset"] == "imagenet"]) == 51
    _, out, _ = mnasnet("weights", "list", "--network", "small")
    assert "timm/mnasnet_small.lamb_in1k" in out
    _, out, _ = mnasnet("weights", "list", "--network", "a3")
    assert "no public checkpoint of a3" in out


def test_fetch_verify_predict_and_convert(mnasnet, tmp_path, photo):
    """A checkpoint placed by hand goes all the way to a prediction, without a network."""
    record = find("google/a1-0.35-96")
    target = placed_path(record)
    target.parent.mkdir(parents=True)
    fixture = Fixture("google-a1-d0.35-96")
    prefix = fixture.write(tmp_path / "mnasnet-a1_d0.35_i96")
    write_tgz(target, prefix.parent)
    assert mnasnet("weights", "verify", record.id)[0] == 0
    status, out, _ = mnasnet("weights", "fetch", record.id)
    assert status == 0
    assert "google/a1-0.35-96: ok" in out
    status, out, err = mnasnet("predict", record.id, photo, "--top", "2")
    assert status == 0
    assert "central crop 0.750, resize 96" in err
    assert out.startswith(str(photo))
    status, out, err = mnasnet("predict", record.id, photo, tmp_path / "no.jpg", "--json")
    assert status == 1
    good, bad = json.loads(out)
    assert len(good["predictions"]) == 5
    assert "no.jpg, which does not" in bad["error"]
    status, out, _ = mnasnet("weights", "convert", prefix, "-o", tmp_path / "out.safetensors")
    assert status == 0
    assert "google checkpoint of MnasNet a1-0.35, 1000 classes" in out
    assert mnasnet("predict", tmp_path / "out.safetensors", photo)[0] == 0
    data = target.read_bytes()
    target.write_bytes(data[: len(data) // 2])
    status, _, err = mnasnet("weights", "verify", record.id)
    assert status == 1
    assert "must have the sha256" in err
    status, _, err = mnasnet("weights", "verify", "torchvision/mnasnet0_5")
    assert status == 1
    assert "not cached: `mnasnet weights fetch torchvision/mnasnet0_5`" in err


def test_predict_with_own_model_and_labels(mnasnet, tmp_path, photo):
    model = MnasNetSmall(weights=None, classes=2, input_shape=(64, 64, 3), width_multiplier=0.35)
    model.save(tmp_path / "own.keras")
    model.save_weights(tmp_path / "own.weights.h5")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    labels = ("--labels", str(tmp_path / "labels.txt"))
    status, out, _ = mnasnet("predict", tmp_path / "own.keras", photo, *labels)
    assert status == 0
    assert "cat" in out
    assert "dog" in out
    network = ("--network", "small", "--width", "0.35")
    status, _, err = mnasnet("weights", "convert", tmp_path / "own.weights.h5", *network, "-o", tmp_path / "own.safetensors")
    assert status == 0, err
    assert mnasnet("predict", tmp_path / "own.safetensors", photo, "--size", "64", *labels)[1] == out.replace(".keras", "")
    status, named, err = mnasnet("predict", tmp_path / "own.keras", photo)
    assert status == 0
    assert "does not name its classes: they are numbered" in err
    assert "class 0" in named
    raw = MnasNetSmall(
        weights=tmp_path / "own.keras", classes=2, input_shape=(64, 64, 3), width_multiplier=0.35, include_preprocessing=False
    )
    raw.save(tmp_path / "raw.keras")
    assert mnasnet("predict", tmp_path / "raw.keras", photo, *labels)[1] == out
    headless = MnasNetSmall(weights=None, include_top=False, input_shape=(64, 64, 3))
    headless.save(tmp_path / "headless.keras")
    status, _, err = mnasnet("predict", tmp_path / "headless.keras", photo, *labels)
    assert status == 1
    assert "a body without a classifier; `mnasnet train --from` gives it one" in err


def test_installed_command_and_closed_pipe(photo):
    command = [sys.executable, "-m", "keras_mnasnet.cli.main"]
    done = subprocess.run([*command, "info", "a1", "--layers"], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0
    assert done.stderr == ""
    for line in ("info a1 --layers", "weights list", "networks --json"):
        piped = f"{' '.join(command)} {line} | head -1; exit ${{PIPESTATUS[0]}}"
        closed = subprocess.run(["bash", "-c", piped], capture_output=True, text=True)
        assert closed.returncode in (0, 141)
        assert closed.stderr == ""
        assert len(closed.stdout.splitlines()) == 1


def test_info_of_a_model(mnasnet):
    status, out, _ = mnasnet("info", "cifar10")
    assert status == 0
    for line in (
        "MnasNet a1-0.5-stem1", "813,816 parameters, 8.39 M multiply-adds at 32 x 32 x 3", "task: classification",
        "origin: cifar10/a1-0.5-32", "license: Apache-2.0", "classes: 10", "labels: airplane, automobile, bird",
        "preprocessing: resize 32 (bicubic), central crop 32", "numerics: bn_epsilon 0.001, padding same",
        "measured: top1 85.36 %",
    ):  # fmt: skip
        assert line in out
    status, out, _ = mnasnet("info", "cifar10/b1-0.5-32", "--json")
    model = json.loads(out)["model"]
    assert (model["origin"], model["classes"], model["trained_at"]) == ("cifar10/b1-0.5-32", 10, 32)
    status, out, err = mnasnet("info", "cifar1")
    assert (status, out) == (1, "")
    assert "Did you mean 'cifar10'" in err
    status, _, err = mnasnet("info", "cifar10", "--width", "0.5")
    assert status == 1
    assert "change a network" in err or "need --network" in err


def test_push(mnasnet, monkeypatch, tmp_path):
    def push(model, repo, **settings):
        pushed.update(settings, model=model, repo=repo)
        return f"https://huggingface.co/{repo}/commit/1"

    pushed = {}
    monkeypatch.setattr("keras_mnasnet.hub.push_to_hub", push)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    options = ("--labels", tmp_path / "labels.txt", "--metric", "top1=94.2", "--measured-on", "my photos", "--private")
    status, out, _ = mnasnet("push", "cifar10", "me/pets", *options)
    assert status == 0
    assert out == (
        "uploaded https://huggingface.co/me/pets/commit/1; use it with: mnasnet predict hf://me/pets PHOTO\n"
    )  # fmt: skip
    assert (pushed["model"], pushed["repo"], pushed["labels"], pushed["private"]) == (
        "cifar10",
        "me/pets",
        ["cat", "dog"],
        True,
    )
    assert (pushed["metrics"], pushed["dataset"], pushed.get("license")) == ({"top1": pytest.approx(0.942)}, "my photos", None)
    assert json.loads(mnasnet("push", "cifar10", "me/pets", "--json")[1])["address"].endswith("/1")
    status, _, err = mnasnet("push", "cifar10", "me/pets", "--metric", "good")
    assert status == 1
    assert "must be NAME=PERCENT" in err
