"""`mnasnet detect eval`, `predict` and `export`: known answers, pictures, files, and bad input."""

import json

import numpy as np
import pytest
from models import distinct

LABELS = ("person", "dog", "car")


@pytest.fixture
def run(mnasnet):
    return lambda *arguments: mnasnet("detect", *arguments)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    import keras

    from keras_mnasnet import save
    from keras_mnasnet.detection import SSDLite
    from keras_mnasnet.export.verify import drawn_images

    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("detector") / "model.safetensors"
    detector = SSDLite("b1", LABELS, category_ids=(1, 18, 3), width_multiplier=0.35, input_size=96)
    save(distinct(detector, drawn_images(32, 96, 96, 3, seed=3)), path)
    return path


@pytest.fixture
def coco(data):
    folder = data / "coco_tiny"
    return folder, folder / "annotations" / "instances_val2017.json"


def test_known_answers(run, coco, tmp_path):
    folder, annotations = coco
    results = folder / "check" / "detections_val2017_synthetic.json"
    output = tmp_path / "numbers.json"
    status, printed, _ = run("eval", results, "--annotations", annotations, "--per-category", "-o", output)
    assert status == 0
    assert "0.242735  0.62485  0.159871" in printed
    expected = json.loads((folder / "check" / "expected_metrics.json").read_text("utf-8"))
    (written,) = json.loads(output.read_text("utf-8"))["results"]
    assert [round(value, 6) for value in written["metrics"].values()] == expected["val2017_synthetic"]
    assert (written["kind"], written["images"], written["detections"], written["categories"]) == ("results", 50, 422, 80)
    assert written["categories_found"] == 74


def test_models_and_files_side_by_side(run, coco, weights, tmp_path):
    """A Keras model and its file give the same numbers; written results give them once more."""
    folder, annotations = coco
    lite, raw = tmp_path / "a.tflite", tmp_path / "raw.tflite"
    common = (weights, "--score-threshold", "1e-8")
    assert run("export", *common, "--builtin-nms", "-o", lite, "--json")[0] == 0
    status, printed, _ = run("export", *common, "--no-postprocess", "-o", raw)
    assert status == 0
    assert "post-processing: none" in printed
    assert "XNNPACK  1 partition up to the selection of boxes, the whole graph" in printed
    arguments = ("--annotations", annotations, "--photos", folder / "val2017", "--limit", 6)
    status, out, _ = run("eval", weights, lite, raw, *arguments, "--write-results", tmp_path / "results", "--json")
    assert status == 0
    report = json.loads(out)
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
    status, out, _ = run("eval", *results, *arguments, "--json")
    assert status == 0
    again = json.loads(out)["results"]
    for each in again:
        assert each["metrics"] == pytest.approx(keras["metrics"], abs=1e-6)


def test_predict_draws(run, weights, coco, tmp_path):
    from PIL import Image

    folder, _ = coco
    photo = sorted((folder / "val2017").glob("*.jpg"))[0]
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    command = ("predict", weights, photo, tmp_path / "bad.jpg", "-o", tmp_path / "drawn")
    status, out, _ = run(*command, "--max-detections", 5, "--json")
    assert status == 1
    good, bad = json.loads(out)
    assert "which is text, and no picture" in bad["error"]
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
    status, out, _ = run("predict", weights, photo, "--score-threshold", 1)
    assert (status, out.splitlines()) == (0, [str(photo), "  nothing"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "{tmp}/x.json", "--annotations", "{truth}"), "A result file must exist. Received: "),
        (("eval", "{tmp}/x.tflite", "--annotations", "{truth}"), "A .tflite file must exist. Received: "),
        (("eval", "nothing", "--annotations", "{truth}"), "A model must be "),
        (("eval", "{weights}", "--annotations", "{truth}"), "Detectors need the folder of the photos. Received: photos=None"),
        (("eval", "{weights}", "--annotations", "{truth}", "--photos", "{tmp}/none"), "The photos must be in a folder"),
        (("eval", "{results}", "--annotations", "{tmp}/none.json"), "Annotations must exist"),
        (("eval", "{results}", "--annotations", "{results}"), "a COCO result file, which has a list"),
        (("eval", "{results}", "--annotations", "{truth}", "--limit", "0"), "`limit` must be 1 or more. Received: limit=0"),
        (("eval", "{results}", "--annotations", "{truth}", "--iou-threshold", "2"), "Received: iou_threshold=2.0"),
        (("eval", "{results}", "--annotations", "{truth}", "--labels", "{tmp}/no"), "`--labels` must be a text file"),
        (("predict", "{tmp}/none", "a.jpg"), "A model must be "),
        (("predict", "{weights}", "a/x.jpg", "b/x.png", "-o", "{tmp}"), "Received: x_detections.png twice"),
        (("export", "{weights}", "-o", "{tmp}/a.bin"), "must end in .tflite"),
        (("export", "{weights}", "-o", "{tmp}/a.tflite", "--quantize", "int8"), "needs `representative_data` (--calibrate)"),
        (("export", "{weights}", "-o", "{tmp}/a.tflite", "--annotations", "x"), "need `photos`"),
        (("export", "{tmp}/no.safetensors", "-o", "{tmp}/a.tflite"), "must exist"),
        (("export", "{weights}", "-o", "{tmp}/a.tflite", "--photos", "{tmp}"), "{tmp}"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, coco, weights, tmp_path, arguments, message):
    folder, truth = coco
    names = {
        "tmp": tmp_path, "truth": truth, "weights": weights, "results": folder / "check" / "detections_val2017_synthetic.json",
    }  # fmt: skip
    status, _, err = run(*(argument.format(**names) for argument in arguments))
    assert status == 1
    error = err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message.format(tmp=tmp_path) in error
    assert not list(tmp_path.iterdir())


def test_damaged_and_missing_photos(run, coco, weights, tmp_path):
    folder, truth = coco
    images = tmp_path / "photos"
    images.mkdir()
    photos = sorted((folder / "val2017").glob("*.jpg"))
    for photo in photos:
        (images / photo.name).symlink_to(photo)
    (images / photos[0].name).unlink()
    command = ("eval", weights, "--annotations", truth, "--photos", images)
    status, _, err = run(*command)
    assert status == 1
    assert f"1 of 50 missing, the first is {images / photos[0].name}" in err
    (images / photos[0].name).write_bytes(photos[0].read_bytes()[:300])
    status, _, err = run(*command)
    assert status == 1
    assert photos[0].name in err
    status, out, _ = run(*command, "--max-bad", 1, "--json")
    assert status == 0
    assert json.loads(out)["results"][0]["images"] == 49
