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
from keras_mnasnet.cli import main
from keras_mnasnet.weights import get
from keras_mnasnet.weights.fetch import placed_path


def run(capfd, *arguments: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of the command, in this process."""
    try:
        status = main._run(main._parse(["mnasnet", *arguments]))
    except SystemExit as stop:
        status = stop.code
    out, err = capfd.readouterr()
    return status, out, err


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
        "import sys; from keras_mnasnet.cli import main\n"
        "assert main._run(main._parse(['mnasnet', 'models'])) == 0\n"
        "assert main._run(main._parse(['mnasnet', 'info', 'a1'])) == 0\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_models(capfd):
    status, out, _ = run(capfd, "models")
    assert status == 0
    assert "a2      reconstructed    224  4,827,380   340.28" in out
    status, out, _ = run(capfd, "models", "--json")
    rows = json.loads(out)
    assert [row["name"] for row in rows] == ["a1", "a2", "a3", "b1", "small", "d1", "d1-320"]
    assert rows[0]["params"] == 3_887_038
    assert len([name for name in rows[0]["checkpoints"] if not name.startswith("cifar10/")]) == 27


def test_info(capfd):
    status, out, _ = run(capfd, "info", "a1", "--width", "0.75", "--resolution", "192")
    assert status == 0
    assert "2,912,278 parameters, 164.55 M multiply-adds at 192 x 192" in out
    assert "mbconv x3   5  3        32  0.25" in out
    assert "checkpoint google/a1-0.75-192 (192 px, top-1 72.1 %" in out
    status, out, _ = run(capfd, "info", "a3")
    assert "(reconstructed layout)" in out
    assert "no public checkpoint" in out
    status, out, _ = run(capfd, "info", "b1", "--se", "on", "--layers", "--json")
    described = json.loads(out)
    assert described["provenance"] == "custom"
    assert sum(layer["params"] for layer in described["layers"]) == described["params"]
    assert described["checkpoints"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "c1"), "The networks are a1"),
        (("info", "a1", "--width", "-1"), "`width_multiplier` must be"),
        (("info", "a1", "--resolution", "8"), "`--resolution` must be >= 32"),
        (("info", "a1", "--resolution", "0"), "`--resolution` must be >= 32"),
        (("info", "stem0 r1_k3_s11_e1_i32_o16 head8"), "`stem` must be"),
        (("predict", "x.jpg", "--weights", "x.pth", "--width", "0.5"), "need a network"),
        (("predict", "x.jpg", "--weights", "none"), "needs trained weights"),
        (("predict", "x.jpg", "--model", "a2"), "No ImageNet weights of MnasNet-A2"),
        (("predict", "x.jpg", "--weights", "nowhere"), "Nearest records"),
        (("predict", "x.jpg", "--labels", "/nowhere"), "`--labels` must be"),
        (("weights", "fetch", "google/nothing"), "Nearest records"),
        (("weights", "convert", "/nowhere.pth", "x.safetensors"), "must exist"),
        (("weights", "convert", "a.pth", "b.safetensors", "--width", "0.5"), "need a network"),
    ],
)
def test_failures_are_one_line_and_status_1(capfd, arguments, message):
    status, out, err = run(capfd, *arguments)
    assert status == 1
    assert out == ""
    assert err.startswith("error: ")
    assert message in err


@pytest.mark.parametrize("arguments", [(), ("nothing",), ("weights",), ("predict",), ("info", "a1", "--width", "wide")])
def test_wrong_usage_is_status_2(capfd, arguments):
    status, _, err = run(capfd, *arguments)
    assert status == 2
    assert "usage: mnasnet" in err


def test_weights_list(capfd):
    status, out, _ = run(capfd, "weights", "list", "--json")
    assert status == 0
    assert len([row for row in json.loads(out) if row["dataset"] == "imagenet"]) == 34
    _, out, _ = run(capfd, "weights", "list", "--model", "small")
    assert "timm/mnasnet_small.lamb_in1k" in out
    _, out, _ = run(capfd, "weights", "list", "--model", "a3")
    assert "no public checkpoint of a3" in out


def test_fetch_verify_predict_and_convert(capfd, tmp_path, photo):
    """A checkpoint placed by hand goes all the way to a prediction, without a network."""
    record = get("google/a1-0.35-96")
    target = placed_path(record)
    target.parent.mkdir(parents=True)
    fixture = Fixture("google-a1-d0.35-96")
    prefix = fixture.write(tmp_path / "mnasnet-a1_d0.35_i96")
    write_tgz(target, prefix.parent)
    assert run(capfd, "weights", "verify", record.id)[0] == 0
    status, out, _ = run(capfd, "weights", "fetch", record.id)
    assert status == 0
    assert "google/a1-0.35-96: ok" in out
    status, out, err = run(capfd, "predict", str(photo), "--weights", record.id, "--top", "2")
    assert status == 0
    assert "central crop 0.750, resize 96" in err
    assert out.startswith(str(photo))
    status, out, err = run(
        capfd, "predict", str(photo), str(tmp_path / "no.jpg"), "--width", "0.35", "--resolution", "96", "--json"
    )
    assert status == 1
    good, bad = json.loads(out)
    assert len(good["predictions"]) == 5
    assert "no.jpg, which does not" in bad["error"]
    status, out, _ = run(capfd, "weights", "convert", str(prefix), str(tmp_path / "out.safetensors"))
    assert status == 0
    assert "google checkpoint of MnasNet a1-0.35, 1000 classes" in out
    assert run(capfd, "predict", str(photo), "--weights", str(tmp_path / "out.safetensors"))[0] == 0
    data = target.read_bytes()
    target.write_bytes(data[: len(data) // 2])
    status, _, err = run(capfd, "weights", "verify", record.id)
    assert status == 1
    assert "must have the sha256" in err
    status, _, err = run(capfd, "weights", "verify", "torchvision/mnasnet0_5")
    assert status == 1
    assert "not cached: `mnasnet weights fetch torchvision/mnasnet0_5`" in err


def test_predict_with_own_model_and_labels(capfd, tmp_path, photo):
    model = MnasNetSmall(weights=None, classes=2, input_shape=(64, 64, 3), width_multiplier=0.35)
    model.save(tmp_path / "own.keras")
    model.save_weights(tmp_path / "own.weights.h5")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    labels = ("--labels", str(tmp_path / "labels.txt"))
    status, out, _ = run(capfd, "predict", str(photo), "--weights", str(tmp_path / "own.keras"), *labels)
    assert status == 0
    assert "cat" in out
    assert "dog" in out
    own = ("--weights", str(tmp_path / "own.weights.h5"), "--model", "small", "--width", "0.35", "--resolution", "64")
    assert run(capfd, "predict", str(photo), *own, *labels)[1] == out
    status, _, err = run(capfd, "predict", str(photo), "--weights", str(tmp_path / "own.keras"))
    assert status == 1
    assert "[B, 1000]" in err
    status, _, err = run(capfd, "predict", str(photo), "--weights", str(tmp_path / "own.keras"), "--model", "b1", *labels)
    assert status == 1
    assert "must hold MnasNet 'b1'" in err
    raw = MnasNetSmall(
        weights=tmp_path / "own.keras", classes=2, input_shape=(64, 64, 3), width_multiplier=0.35, include_preprocessing=False
    )
    raw.save(tmp_path / "raw.keras")
    assert run(capfd, "predict", str(photo), "--weights", str(tmp_path / "raw.keras"), *labels)[1] == out
    headless = MnasNetSmall(weights=None, include_top=False, input_shape=(64, 64, 3))
    headless.save(tmp_path / "headless.keras")
    status, _, err = run(capfd, "predict", str(photo), "--weights", str(tmp_path / "headless.keras"), *labels)
    assert status == 1
    assert "needs a classifier" in err


def test_installed_command_and_closed_pipe(photo):
    command = [sys.executable, "-m", "keras_mnasnet.cli.main"]
    done = subprocess.run([*command, "info", "a1", "--layers"], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0
    assert done.stderr == ""
    closed = subprocess.run(["bash", "-c", f"{' '.join(command)} info a1 --layers | head -1"], capture_output=True, text=True)
    assert "Traceback" not in closed.stderr
