"""A few kills of a command that needs no TensorFlow; `benchmarks/run_kills.py` gives many, and to all of them."""

import json
import subprocess
import sys
from pathlib import Path

import keras_mnasnet

SCRIPT = Path(keras_mnasnet.__file__).parents[1] / "benchmarks" / "run_kills.py"


def test_killed_exports_lose_nothing_and_leave_nothing(tmp_path):
    output = tmp_path / "kills.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--kills", "4", "--only", "export", "--output", output], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    report = json.loads(output.read_text("utf-8"))
    kind = report["kinds"]["export"]
    assert report["kills"] == kind["kills"] == 4
    assert kind["same"] == kind["runs"] == len(kind["rows"]) >= 1
    assert kind["torn"] == kind["left"] == kind["failed"] == 0
