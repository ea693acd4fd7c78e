"""The recorded detectors of blood cells: the results are whole, and the documentation shows them."""

import importlib.util
import json
from pathlib import Path

import pytest

import keras_mnasnet

ROOT = Path(keras_mnasnet.__file__).parents[1]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*/bccd.json"))
PAGE = (ROOT / "docs" / "blood_cells.md").read_text("utf-8")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("run_bccd", ROOT / "benchmarks" / "run_bccd.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_command(script):
    assert script.command("small") in " ".join(PAGE.replace("\\\n", " ").split())


def test_tables(script):
    classes = {name: {"AP": 0.25, "AP50": 0.5} for name in ("RBC", "WBC")}
    row = {"score": 0.01, "iou": 0.6, "AP": 0.1234, "AP50": 0.9876, "classes": classes}
    rows = [{**row, "precision": "keras", "boxes": "none"}, {**row, "precision": "int8", "boxes": "operator"}]
    anchors = [{"match_iou": 0.4, "usual": 0.9731, "chosen": 0.9837}]
    text = script.tables({"anchors": anchors, "networks": [{"network": "small", "bytes": {"int8": 1234567}, "test": rows}]})
    first, second, third = text.strip().split("\n\n")
    assert third.splitlines()[2:] == ["| 0.4 | 97.3 | 98.4 |"]
    assert first.splitlines()[2:] == [
        "| small | keras |  | 12.3 | 98.8 | 50.0 | 50.0 |", "| small | int8 | 1,234,567 | 12.3 | 98.8 | 50.0 | 50.0 |",
    ]  # fmt: skip
    assert second.splitlines()[2:] == ["| small | int8 | operator | 0.01 | 0.6 | 12.3 | 98.8 | 50.0 | 50.0 |"]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_results_are_whole(path, script):
    report = json.loads(path.read_text("utf-8"))
    assert (report["schema"], report["benchmark"]) == (script.SCHEMA, "bccd")
    assert [report["data"][split]["photos"] for split in ("train", "validation", "test")] == [205, 87, 72]
    expected = {("keras", "none", 1e-8, 0.6)}
    for precision in script.PRECISIONS:
        expected |= {(precision, tail, 0.01, 0.6) for tail in script.TAILS}
        expected |= {(precision, "none", each["score"], each["iou"]) for each in script.SELECTIONS}
    assert [row["match_iou"] for row in report["anchors"]] == [0.4, 0.5]
    assert all(0 < row["usual"] < row["chosen"] < 1 for row in report["anchors"])
    for network in report["networks"]:
        assert network["command"] == script.command(network["network"])
        recipe = network["recipe"]
        assert "x".join(map(str, recipe["size"])) == script.SIZE
        assert (recipe["anchors"], recipe["epochs"], recipe["batch_size"]) == (script.ANCHORS, script.EPOCHS, script.BATCH)
        assert [row["epoch"] for row in network["curve"]] == list(range(1, script.EPOCHS + 1))
        assert network["validation"]["AP"] == max(row["val_ap"] for row in network["curve"])
        assert {(row["precision"], row["boxes"], row["score"], row["iou"]) for row in network["test"]} == expected
        assert all(0 < row["AP"] < row["AP50"] < 1 and len(row["classes"]) == 3 for row in network["test"])
    text = path.with_suffix(".md").read_text("utf-8")
    assert text == script.tables(report)
    assert all(table in PAGE for table in text.strip().split("\n\n"))
