"""What reaches the terminal: any file name, in any encoding; warnings and errors of one line; no library's noise."""

import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from absl import logging as absl_logging

from keras_mnasnet.cli import networks
from keras_mnasnet.cli.output import print_json, print_table

SHIP = Path(__file__).parents[2] / "weights" / "demo" / "ship.png"
ODD = "sh\udcffip \u00e9\u4e16.png"  # a byte that is no UTF-8, and letters that ASCII lacks


def command(*arguments, **environment):
    """A new process whose TensorFlow may write what it likes."""
    env = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    line = [sys.executable, "-m", "keras_mnasnet.cli.main", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=env | environment)


def test_names_that_the_terminal_cannot_print(tmp_path):
    shutil.copy(SHIP, os.fsencode(tmp_path / ODD))
    done = command("predict", "cifar10", tmp_path / ODD, tmp_path / f"no-{ODD}", "--top", "1", PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path}/sh\\udcffip \\xe9\\u4e16.png  ship 0.9")
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert "no-sh\\udcffip" in lines[-1]
    assert not [line for line in lines if "absl" in line or "cuda" in line or "oneDNN" in line or line.startswith(("I0", "W0"))]


def test_json_of_any_name_in_any_encoding():
    code = (
        "import os; from keras_mnasnet.cli.output import print_json\n"
        "print_json({'name': os.fsdecode(b'\\xff\\xc3\\xa9'), 'loss': float('nan')})"
    )
    for encoding in ("ascii", "utf-8:backslashreplace", "latin-1"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}
        )
        assert json.loads(done.stdout.decode(encoding.partition(":")[0])) == {"name": "\udcff\u00e9", "loss": None}


def test_export_and_training_are_quiet(tmp_path):
    done = command(
        "train", "shapes:48@32", "--from", "cifar10", "--epochs", "1", "--set", "frozen_epochs=0", "--batch-size", "16",
        "-o", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"mnasnet predict {tmp_path / 'run'} PHOTO" in done.stderr
    both = done.stderr
    done = command("export", tmp_path / "run", "--quantize", "int8", "--calibrate", "shapes:80@32", "-o", tmp_path / "a.tflite")
    assert done.returncode == 0, done.stderr
    both += done.stderr
    for noise in (
        "absl", "cuda", "oneDNN", "rendezvous", "XNNPACK delegate", "INFO:", "WARNING", "tensorflow/", "tensorflow:",
        "Saved artifact",
    ):  # fmt: skip
        assert noise not in both
    assert "warning: Only 80 images to calibrate on" in both


@pytest.fixture
def said(mnasnet, monkeypatch):
    def run(work):
        monkeypatch.setattr(networks, "networks", work)
        return mnasnet("networks")

    return run


def test_warnings_are_one_plain_line(said):
    def work(arguments):
        absl_logging.warning("a %s", "library's")
        absl_logging.info("not this")
        logging.getLogger("huggingface_hub").warning("Retrying in 1s")
        logging.getLogger("tensorflow").warning("noise")
        logging.getLogger("keras_mnasnet.data").warning("from %s", "here")
        warnings.warn("noise", stacklevel=1)
        warnings.warn_explicit("of this package", UserWarning, networks.__file__, 1)

    before = logging.getLogger().handlers[:], warnings.showwarning
    status, out, err = said(work)
    assert (status, out) == (0, "")
    assert [line for line in err.splitlines() if line.startswith("warning")] == [
        "warning: from here", "warning: of this package",
    ]  # fmt: skip
    assert (logging.getLogger().handlers[:], warnings.showwarning) == before


@pytest.mark.parametrize("error", [ValueError, OSError, ImportError])
def test_errors_are_one_line(said, error):
    def work(arguments):
        raise error("first line\n\n  second \udcff line")

    status, out, err = said(work)
    assert (status, out) == (1, "")
    assert err == "error: first line second \\xff line\n"


def test_a_bug_is_no_message(said):
    def work(arguments):
        raise KeyError("x")

    with pytest.raises(KeyError):
        said(work)


def test_tables(capsys):
    print_table(("name", "n", "share"), [("a", 1000, 0.5), ("long", None, 1.0)])
    assert capsys.readouterr().out == "name      n  share\na     1,000    0.5\nlong      -      1\n"
    print_json({"a": [1, float("inf")], "b": ("x",)})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None], "b": ["x"]}
