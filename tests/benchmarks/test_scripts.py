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
