"""The jobs of benchmarks/run_photos.py and the sets it divides; nothing is trained."""

import json
import runpy
from pathlib import Path

import pytest

from keras_mnasnet.training.recipe import parse_recipe

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "run_photos.py"))


@pytest.mark.parametrize("only", [["finetune"], ["table"], ["teacher"], ["finetune", "table", "teacher"]])
@pytest.mark.parametrize("seed", [0, 3])
def test_a_job_comes_after_those_that_it_needs(only, seed):
    before = set()
    for job in SCRIPT["jobs"](seed, only):
        recipe = parse_recipe(job.recipe)
        assert recipe.seed == seed
        assert (recipe.teacher_weight > 0) == (job.teacher is not None)
        assert job.teacher is None or job.teacher in before
        assert not job.start.startswith("run:") or job.start.removeprefix("run:") in before
        assert job.name not in before
        before.add(job.name)


def test_one_section_names_its_jobs_and_what_they_need():
    jobs = SCRIPT["jobs"](0, ["teacher"])
    assert [job.name for job in jobs] == [
        "trashnet-a1-cifar10-head-first", "trashnet-small-fresh-distill", "trashnet-small-fresh-alone",
    ]  # fmt: skip
    names = [job.name for job in SCRIPT["jobs"](0, ["table"])]
    assert len(names) == 18
    jobs = SCRIPT["jobs"](0, ["finetune"])
    assert all(job.start.startswith("run:") for job in jobs if job.data.startswith("cifar10-")), "cifar10 has seen these photos"


def test_flowers_are_divided_by_name(tmp_path):
    for label, count in (("rose", 50), ("tulip", 12)):
        (tmp_path / "flowers128" / label).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "flowers128" / label / f"{number:02}.jpg").write_bytes(b"x")
    folder = SCRIPT["make_data"]("flowers128", tmp_path, tmp_path / "runs")
    names = {part: sorted(path.name for path in (folder / part / "rose").iterdir()) for part in ("train", "val", "test")}
    assert names["test"] == ["04.jpg", "09.jpg", "14.jpg", "19.jpg", "24.jpg", "29.jpg", "34.jpg", "39.jpg", "44.jpg", "49.jpg"]
    assert names["val"] == ["11.jpg", "23.jpg", "36.jpg", "48.jpg"]
    assert len(names["train"]) == 36
    assert sorted(name for part in names.values() for name in part) == [f"{number:02}.jpg" for number in range(50)]


def test_tables_say_what_was_measured_and_what_is_missing():
    row = {"val_accuracy": 0.5, "test_float32": 0.25, "test_int8": 0.125}
    rows = [
        {"job": "flowers128-a1-cifar10-full", **row},
        {"job": "trashnet-b1-fresh-full-rate3", **row, "test_int8_qat": 1.0},
        {"job": "trashnet-small-fresh-alone", **row},
    ]
    lines = SCRIPT["tables"](rows).splitlines()
    assert "| full | - | 50.0 / 25.0 | - | - | - |" in lines
    assert "| b1, fresh, full-rate3 | 50.0 / 25.0 / 12.5 / 100.0 | - |" in lines
    assert "| alone | 50.0 / 25.0 / 12.5 |" in lines
    assert len(lines) == 3 * 2 + len(SCRIPT["variants"](1)) + 9 + 2 + 2


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/results/*/photos.json")), ids=lambda path: path.parent.name)
def test_results_are_whole(path):
    """Every job is there by its own command, and the documentation shows the tables."""
    report = json.loads(path.read_text("utf-8"))
    assert (report["schema"], report["benchmark"]) == (SCRIPT["SCHEMA"], "photos")
    rows = {row["job"]: row for row in report["rows"]}
    for job in SCRIPT["jobs"](report["seed"], list(SCRIPT["SECTIONS"])):
        row = rows.pop(job.name)
        assert (row["recipe"], row["data"], row["network"]) == (job.recipe, job.data, job.network)
        assert job.recipe in row["command"]
        assert len(row["curve"]) == row["epochs"] == parse_recipe(job.recipe).epochs
        assert row["val_accuracy"] == max(row["curve"]) == row["curve"][row["best_epoch"] - 1]
    assert not rows
    text = path.with_suffix(".md").read_text("utf-8")
    assert text == SCRIPT["tables"](report["rows"])
    page = (ROOT / "docs" / "small_photos.md").read_text("utf-8")
    assert all(table in page for table in text.strip().split("\n\n"))
