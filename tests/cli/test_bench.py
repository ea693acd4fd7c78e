"""`mnasnet bench accuracy`, as a user types it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture
def hosted(data):
    return str(next((data / "coral").glob("*.tflite")))


def test_known_answer(mnasnet, data, hosted, tmp_path):
    """225 and 245 of 250, known for this model, these photos and Pillow's pixels."""
    output = tmp_path / "new" / "results.json"
    arguments = ("bench", "accuracy", hosted, "--data", str(data / "imagenet_250"), "--per-class", "-o", str(output))
    status, out, _ = mnasnet(*arguments)
    assert status == 0
    assert "250 photos of 250 of 1,000 classes" in out
    assert "     90       98      225       245  250  " in out
    assert "ranking: scores in descending order, of equal scores the lower output first" in out
    assert "resize 256 (bilinear), central crop 224; input uint8 pixels 0..255" in out
    assert "images/s: inference alone" in out
    assert "n01443537       1" in out
    report = json.loads(output.read_text("utf-8"))
    assert (report["schema"], report["benchmark"]) == (2, "accuracy")
    assert {"keras", "tensorflow", "litert", "processor", "cores"} <= set(report["environment"])
    named = {"name": str(data / "imagenet_250"), "split": None, "images": 250, "classes": 1000}
    assert report["data"] == {**report["data"], **named}
    assert report["data"]["splits"]["all"]["photos"] == 250
    (result,) = report["results"]
    assert (result["correct1"], result["correct5"], result["top1"], result["top5"]) == (225, 245, 0.9, 0.98)
    assert (result["kind"], result["background"], result["bad"]) == ("tflite", True, [])
    assert result["published_top1"] is None
    assert result["preprocessing"]["resize"] == 256
    assert len(result["per_class"]) == 250
    assert sum(row["correct1"] for row in result["per_class"]) == 225
    assert list(output.parent.iterdir()) == [output]


def test_json_is_one_value(mnasnet, data, hosted):
    photos = ("--data", data / "imagenet_250", "--limit", 5)
    how = ("--threads", 1, "--preprocessing", "google", "--input", "signed")
    status, out, _ = mnasnet("bench", "accuracy", hosted, hosted, *photos, *how, "--json")
    assert status == 0
    report = json.loads(out)
    assert [result["images"] for result in report["results"]] == [5, 5]
    assert report["results"][0]["preprocessing_text"] == "central crop 0.875, resize 224 (bicubic-tf1)"
    assert report["results"][0]["input"] == "uint8 pixels / 127.5 - 1 (as asked)"
    assert report["settings"]["limit"] == 5


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        photo = tmp_path / "photos" / name / "1.jpg"
        photo.parent.mkdir(parents=True)
        photo.write_bytes(tf.io.encode_jpeg(np.zeros((40, 40, 3), np.uint8)).numpy())
    return str(tmp_path / "photos")


def test_failures_are_one_message_and_status_1(mnasnet, folder, tmp_path):
    garbage = tmp_path / "bad.tflite"
    garbage.write_bytes(b"garbage" * 100)
    for model, message in (
        (str(garbage), "A .tflite file begins with the mark TFL3"),
        ("nothing.tflite", "A .tflite file must exist"),
        ("google/nothing", "which is none of them"),
        (folder, "with model.safetensors"),
    ):
        status, out, err = mnasnet("bench", "accuracy", model, "--data", folder)
        assert (status, out) == (1, "")
        assert message in err


def test_a_model_of_other_classes(mnasnet, folder, hosted):
    status, out, err = mnasnet("bench", "accuracy", hosted, "--data", folder)
    assert (status, out) == (1, "")
    assert "with 1,001 outputs and data with 2 classes (a, b)" in err


def test_labels_and_the_page_of_errors(mnasnet, write_tiny, tmp_path):
    """Three outputs, the mean of each colour, named in a file; two classes of the data, of which one photo is wrong."""
    model = write_tiny(tmp_path / "tiny.tflite")
    for name, color in (("red/1", (250, 9, 9)), ("blue/1", (9, 9, 250)), ("blue/2", (9, 250, 200))):
        photo = tmp_path / "photos" / f"{name}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.write_bytes(tf.io.encode_png(np.full((40, 40, 3), color, np.uint8)).numpy())
    (tmp_path / "names").write_text("red\ngreen\nblue\n\n")
    arguments = ("bench", "accuracy", model, "--data", tmp_path / "photos")
    how = ("--labels", tmp_path / "names", "--errors", tmp_path / "page")
    status, out, err = mnasnet(*arguments, *how)
    assert status == 0
    assert "3 classes (2 of them in the data)" in err
    assert "all 3 outputs are ranked, of which the data's classes name 2; among these alone top-1 is 100.00 %" in out
    assert f"wrote {tmp_path / 'page' / 'index.html'}" in out
    assert "taken for" in (tmp_path / "page" / "index.html").read_text("utf-8")
    assert len(list((tmp_path / "page" / "photos").iterdir())) == 1
    status, out, err = mnasnet(*arguments, *how)
    assert (status, out) == (1, "")
    assert "A folder must be new or empty" in err
    (tmp_path / "labels.txt").write_text("red\nblue\n")  # of another model
    status, out, err = mnasnet(*arguments)
    assert status == 0
    assert "labels.txt is passed over: it has 2 labels, and" in err
    (tmp_path / "labels.txt").write_text("Red\ngreen\nblue\n")
    status, out, err = mnasnet(*arguments)
    assert (status, out) == (1, "")
    assert "1 of 2 classes are not: 'red' (near: 'Red')" in err
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    status, out, _ = mnasnet(*arguments, "--json")
    (result,) = json.loads(out)["results"]
    assert (result["correct1"], result["images"], result["outputs"], result["top1_among"]) == (2, 3, 3, 1.0)


def test_a_damaged_photo(mnasnet, data, hosted, tmp_path):
    for wnid in ("n01443537", "n01496331"):
        photo = next((data / "imagenet_250" / wnid).iterdir())
        (tmp_path / wnid).mkdir()
        (tmp_path / wnid / photo.name).write_bytes(photo.read_bytes())
    (tmp_path / "n01496331" / "hurt.jpg").write_bytes(b"\xff\xd8\xff and then nothing")
    arguments = ("bench", "accuracy", hosted, "--data", str(tmp_path))
    status, out, err = mnasnet(*arguments)
    assert (status, out) == (1, "")
    assert "hurt.jpg" in err
    status, out, _ = mnasnet(*arguments, "--max-bad", "1")
    assert status == 0
    assert "damaged and left out, 1: " in out


def test_wrong_usage_and_help(mnasnet):
    assert mnasnet("bench")[0] == 2
    assert mnasnet("bench", "accuracy", "x.tflite")[0] == 2
    code = (
        "import sys; from keras_mnasnet.cli.main import entry_point; sys.argv = ['mnasnet', 'bench', 'accuracy', '--help']\n"
        "try: entry_point()\n"
        "except SystemExit: pass\n"
        "import keras_mnasnet.benchmarks\n"
        "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--preprocessing" in done.stdout
