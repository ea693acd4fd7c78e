"""The scripts in `benchmarks/` and `weights/`: each says what it does, and the startup benchmark compares two checkouts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import keras_mnasnet

ROOT = Path(keras_mnasnet.__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("benchmarks/run_*.py"), *ROOT.glob("weights/run_*.py")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help(script):
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert "usage: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run_bccd", "--data", "none", "--runs", "runs", "--output", "out"), "--data must be BCCD's folder with train.txt"),
        (("run_photos", "--data", "none", "--runs", "runs"), "--data must be a folder with cifar10, flowers128"),
        (("run_photos", "--data", "none"), "--data ROOT and --runs RUNS must say what to train on"),
        (("run_training", "--data", "none"), "--data must be a folder of <class>/*.jpg. Received: none"),
        (("run_export", "--data", "none", "--output", "out.json"), "--data: Data must be a folder with"),
        pytest.param(("run_mutants", "--data", "none", "--output", "out.json"), "--data: Data must", marks=pytest.mark.nightly),
        (("run_onnx", "--data", "shapes", "--output", "out.json"), "--data: This benchmark needs data with the checkpoint's"),
        (("run_detection", "--annotations", "none", "--photos", ".", "--output", "out"), "--annotations must be a COCO file"),
    ],
)
def test_wrong_data_is_one_line(arguments, message, tmp_path):
    name, *rest = arguments
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", *rest]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert f"\n{name}.py: error: {message}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_jobs_are_shown_without_data(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "run_photos.py", "--list", "--only", "teacher"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    *_, last = lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert last.split()[:3] == ["teacher", "trashnet-small-fresh-alone", "distill"]


def test_two_checkouts_in_turns(tmp_path):
    output = tmp_path / "new" / "startup.json"
    subprocess.run(
        [
            sys.executable, ROOT / "benchmarks" / "run_startup.py", "--rounds", "2", "--against", ROOT, "--output", output,
            "--paths", "python", "import keras_mnasnet", "mnasnet --help",
        ],
        capture_output=True, check=True,
    )  # fmt: skip
    report = json.loads(output.read_text("utf-8"))
    found = {(row["path"], row["figure"]): row for row in report["rows"]}
    assert {path for path, _ in found} == {"python", "import keras_mnasnet", "mnasnet --help"}
    for row in found.values():
        assert set(row["median"]) == {"this", "other"}
        assert [len(values) for values in row["values"].values()] == [2, 2]
        assert row["ratio"]["low"] <= row["ratio"]["value"] <= row["ratio"]["high"]
    memory = {path: found[path, "peak_mb"]["median"]["this"] for path in ("python", "import keras_mnasnet")}
    assert 1 < memory["python"] < memory["import keras_mnasnet"]
