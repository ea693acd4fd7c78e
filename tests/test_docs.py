"""What the documentation shows runs: the scripts of docs/scripts on small data, and the examples of the docstrings."""

import ast
import doctest
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from writers import write_boxes

import keras_mnasnet

ROOT = Path(keras_mnasnet.__file__).parents[1]
SCRIPTS = sorted((ROOT / "docs" / "scripts").glob("*.py"))
EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "keras_mnasnet").rglob("*.py")
    if ">>> " in path.read_text("utf-8")
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with two classes of photos, the two demo photos, and photos with boxes."""
    import tensorflow as tf

    generator = np.random.default_rng(0)
    for name in ("ship", "airplane"):
        demo = ROOT / "weights" / "demo" / f"{name}.png"
        shutil.copy(demo, tmp_path / demo.name)
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
            (tmp_path / "photos" / name / f"{number}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    write_boxes(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


MADE = {
    "photo_to_label": (),
    "fine_tune_to_phone": ("photos.tflite", "runs/photos/model.safetensors"),
    "search_with_report": ("report/report.html", "mine.study"),
    "detector_to_boxes": ("drawn/1_detections.png", "runs/boxes/model.safetensors"),
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_of_at_most_fifteen_lines_runs(script, folder):
    body = [node for node in ast.parse(script.read_text("utf-8")).body if not isinstance(node, ast.Expr) or node.lineno > 1]
    lines = [line for line in script.read_text("utf-8").splitlines()[body[0].lineno - 1 :] if line.strip()]
    assert len(lines) <= 15
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, str(script)], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()
    for made in MADE[script.stem]:
        assert (folder / made).is_file(), made


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_docstrings_run(name, folder):
    (folder / "weights").symlink_to(ROOT / "weights")
    module = importlib.import_module(name)
    tests = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module, name) if test.examples]
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for test in tests:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_every_door_has_an_example():
    rooms = ("", ".training", ".benchmarks", ".export", ".search", ".detection")
    doors = {
        "": ("load", "save", "predict"), ".training": ("train",), ".benchmarks": ("evaluate", "latency"),
        ".export": ("export", "quantize_aware"), ".search": ("run",),
        ".detection": ("train", "evaluate", "predict", "export"),
    }  # fmt: skip
    for room in rooms:
        for door in doors[room]:
            function = getattr(importlib.import_module(f"keras_mnasnet{room}"), door)
            assert "Example" in function.__doc__, f"{room}.{door}"
