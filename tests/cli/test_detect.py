"""`mnasnet detect eval`, `predict` and `export`: known answers, pictures, files, and bad input."""

import json

import numpy as np
import pytest
from models import distinct

from keras_mnasnet.cli import main

LABELS = ("person", "dog", "car")


def run(*arguments):
    return main._run(main._parse(["mnasnet", "detect", *map(str, arguments)]))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    import keras

    from keras_mnasnet.detection import SSDLite, save_detector
    from keras_mnasnet.export.verify import drawn_images

    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("detector") / "model.safetensors"
    detector = SSDLite("b1", LABELS, category_ids=(1, 18, 3), width_multiplier=0.35, input_size=96)
    save_detector(distinct(detector, drawn_images(32, 96, 96, 3, seed=3)), path)
    return path


@pytest.fixture
def coco(data):
    folder = data / "coco_tiny"
    return folder, folder / "annotations" / "instances_val2017.json"


def test_known_answers(capfd, coco, tmp_path):
    folder, annotations = coco
    results = folder / "check" / "detections_val2017_synthetic.json"
    output = tmp_path / "numbers.json"
    assert run("eval", results, "--annotations", annotations, "--per-category", "--output", output) == 0
    printed = capfd.readouterr().out
    assert "0.242735  0.62485  0.159871" in printed
    expected = json.loads((folder / "check" / "expected_metrics.json").read_text("utf-8"))
    (written,) = json.loads(output.read_text("utf-8"))["results"]
    assert [round(value, 6) for value in written["metrics"].values()] == expected["val2017_synthetic"]
    assert (written["kind"], written["images"], written["detections"], written["categories"]) == ("results", 50, 422, 80)
    assert written["categories_found"] == 74


def test_models_and_files_side_by_side(capfd, coco, weights, tmp_path):
    """A Keras model and its file give the same numbers; written results give them once more."""
    folder, annotations = coco
    lite, raw = tmp_path / "a.tflite", tmp_path / "raw.tflite"
    common = ("--weights", weights, "--score-threshold", "1e-8")
    assert run("export", *common, "--builtin-nms", "--output", lite, "--json") == 0
    assert run("export", *common, "--no-postprocess", "--output", raw) == 0
    printed = capfd.readouterr().out
    assert "post-processing: none" in printed
    assert "XNNPACK  1 partition up to the selection of boxes, the whole graph" in printed
    arguments = ("--annotations", annotations, "--images", folder / "val2017", "--limit", 6)
    assert run("eval", weights, lite, raw, *arguments, "--write-results", tmp_path / "results", "--json") == 0
    report = json.loads(capfd.readouterr().out)
    keras, builtin, without = report["results"]
    assert [each["kind"] for each in report["results"]] == ["keras", "tflite", "tflite"]
    assert [each["categories_found"] for each in report["results"]] == [3, 3, 3]
    assert keras["detections"] == builtin["detections"] == without["detections"] == 600
    assert keras["metrics"] == pytest.approx(builtin["metrics"], abs=1e-6)
    assert keras["metrics"] == pytest.approx(without["metrics"], abs=1e-6)
    assert keras["suppression"].startswith("scores of 1e-08 or more, IoU 0.6 in each class")
    assert builtin["suppression"] == "in the file"
    results = sorted((tmp_path / "results").iterdir())
    assert len(results) == 3
    assert run("eval", *results, *arguments, "--json") == 0
    again = json.loads(capfd.readouterr().out)["results"]
    for each in again:
        assert each["metrics"] == pytest.approx(keras["metrics"], abs=1e-6)


def test_predict_draws(capfd, weights, coco, tmp_path):
    from PIL import Image

    folder, _ = coco
    photo = sorted((folder / "val2017").glob("*.jpg"))[0]
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    command = ("predict", photo, tmp_path / "bad.jpg", "--weights", weights, "--output", tmp_path / "drawn")
    assert run(*command, "--max-detections", 5, "--json") == 1
    good, bad = json.loads(capfd.readouterr().out)
    assert "which cannot be decoded" in bad["error"]
    assert len(good["objects"]) == 5
    with Image.open(photo) as original, Image.open(good["drawn"]) as drawn:
        assert drawn.size == original.size
        width, height = original.size
        assert (np.asarray(drawn) != np.asarray(original.convert("RGB"))).any(axis=2).mean() > 0.001
    for each in good["objects"]:
        x, y, w, h = each["box"]
        assert each["label"] == LABELS[each["number"]]
        assert 0 <= x <= x + w <= width + 0.02
        assert 0 <= y <= y + h <= height + 0.02
    assert run("predict", photo, "--weights", weights, "--no-draw", "--score-threshold", 1) == 0
    assert capfd.readouterr().out.splitlines() == [str(photo), "  nothing"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "{tmp}/x.json", "--annotations", "{truth}"), "A result file must exist. Received: "),
        (("eval", "{tmp}/x.tflite", "--annotations", "{truth}"), "A .tflite file must exist. Received: "),
        (("eval", "nothing", "--annotations", "{truth}"), "must exist"),
        (("eval", "{weights}", "--annotations", "{truth}"), "Detectors need the folder of the photos. Received: photos=None"),
        (("eval", "{weights}", "--annotations", "{truth}", "--images", "{tmp}/none"), "The photos must be in a folder"),
        (("eval", "{results}", "--annotations", "{tmp}/none.json"), "Annotations must exist"),
        (("eval", "{results}", "--annotations", "{results}"), "An annotation file must hold a JSON object"),
        (("eval", "{results}", "--annotations", "{truth}", "--limit", "0"), "`limit` must be 1 or more. Received: limit=0"),
        (("eval", "{results}", "--annotations", "{truth}", "--iou-threshold", "2"), "Received: iou_threshold=2.0"),
        (("eval", "{results}", "--annotations", "{truth}", "--labels", "{tmp}/no"), "`--labels` must be a text file"),
        (("predict", "a.jpg", "--weights", "{tmp}/none"), "must exist"),
        (("predict", "a/x.jpg", "b/x.png", "--weights", "{weights}"), "Received: x_detections.png twice"),
        (("export", "--weights", "{weights}", "--output", "{tmp}/a.bin"), "`--output` must end in .tflite"),
        (("export", "--weights", "{weights}", "--output", "{tmp}/a.tflite", "--quantize", "int8"), "needs --calibrate DATA"),
        (
            ("export", "--weights", "{weights}", "--output", "{tmp}/a.tflite", "--annotations", "x"),
            "need `photos`",
        ),
        (("export", "--weights", "{tmp}/no.safetensors", "--output", "{tmp}/a.tflite"), "must exist"),
        (("export", "--weights", "{weights}", "--output", "{tmp}/a.tflite", "--images", "{tmp}"), "{tmp}"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(capfd, coco, weights, tmp_path, arguments, message):
    folder, truth = coco
    names = {
        "tmp": tmp_path, "truth": truth, "weights": weights, "results": folder / "check" / "detections_val2017_synthetic.json",
    }  # fmt: skip
    assert run(*(argument.format(**names) for argument in arguments)) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message.format(tmp=tmp_path) in error
    assert not list(tmp_path.iterdir())


def test_damaged_and_missing_photos(capfd, coco, weights, tmp_path):
    folder, truth = coco
    images = tmp_path / "photos"
    images.mkdir()
    photos = sorted((folder / "val2017").glob("*.jpg"))
    for photo in photos:
        (images / photo.name).symlink_to(photo)
    (images / photos[0].name).unlink()
    command = ("eval", weights, "--annotations", truth, "--images", images)
    assert run(*command) == 1
    assert f"1 of 50 missing, the first is {images / photos[0].name}" in capfd.readouterr().err
    (images / photos[0].name).write_bytes(photos[0].read_bytes()[:300])
    assert run(*command) == 1
    assert photos[0].name in capfd.readouterr().err
    assert run(*command, "--max-bad", 1, "--json") == 0
    assert json.loads(capfd.readouterr().out)["results"][0]["images"] == 49
