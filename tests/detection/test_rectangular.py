"""Detectors whose input is no square, with anchors and levels of their own: from annotations to a phone's file."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from models import distinct

from keras_mnasnet import load
from keras_mnasnet.cli.main import main
from keras_mnasnet.detection import AnchorSettings, SSDLite, describe, export, predict, spec_of, train
from keras_mnasnet.detection.anchors import anchor_boxes, anchors_of, best_iou, chosen_anchors, corners, pairwise_iou
from keras_mnasnet.detection.data import evaluation_batches, open_dataset
from keras_mnasnet.detection.inference import open_detector
from keras_mnasnet.detection.recipe import DETECTION_RECIPES, DetectionRecipe
from keras_mnasnet.detection.spec import DetectorSpec, map_sizes, sides
from keras_mnasnet.export.verify import drawn_images
from keras_mnasnet.training import parse_recipe, recipe_from_json, recipe_to_json

SIZE = (96, 160)
BACKBONE = (
    "tiny: stem8 r1_k3_s11_e1_i8_o8_noskip r1_k3_s22_e3_i8_o16 r1_k3_s22_e3_i16_o16 r1_k3_s22_e3_i16_o24 r1_k3_s22_e3_i24_o32 "
    "head64"
)
FAST = DETECTION_RECIPES["finetune-detector"].changed(epochs=1, batch_size=4, base_batch=4, ema=0.0, warmup_epochs=0)


def draw(folder):
    """Four photos of one red and one green rectangle on noise, with COCO annotations."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(4):
        pixels = rng.integers(0, 90, (100, 140, 3)).astype(np.uint8)
        for category, color in ((1, (255, 40, 40)), (2, (40, 255, 40))):
            height, width = rng.integers(20, 45, 2)
            top, left = rng.integers(0, 100 - height), (category - 1) * 70 + rng.integers(0, 70 - width)
            pixels[top : top + height, left : left + width] = color
            rows.append({"id": len(rows) + 1, "image_id": number, "category_id": category, "iscrowd": 0,
                         "bbox": [int(left), int(top), int(width), int(height)]})  # fmt: skip
        (folder / f"{number}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    images = [{"id": number, "file_name": f"{number}.png", "height": 100, "width": 140} for number in range(4)]
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    path = folder / "boxes.json"
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}), "utf-8")
    return path


def test_anchors_by_hand():
    """96 x 160: maps of 6 x 10, 3 x 5, ...; a square of 0.1 of the shorter side is 9.6 pixels high and wide."""
    assert map_sizes(SIZE) == ((6, 10), (3, 5), (2, 3), (1, 2), (1, 1), (1, 1))
    found = anchor_boxes(SIZE)
    assert len(found) == 6 * 10 * 3 + (3 * 5 + 2 * 3 + 1 * 2 + 1 + 1) * 6
    np.testing.assert_allclose(found[0], (0.5 / 6, 0.5 / 10, 0.1, 0.1 * 96 / 160), rtol=1e-6)
    np.testing.assert_allclose(found[1, 2:], (0.2 / 2**0.5, 0.2 * 2**0.5 * 0.6), rtol=1e-6)
    np.testing.assert_allclose(found[3, :2], (0.5 / 6, 1.5 / 10), rtol=1e-6)  # the next column
    np.testing.assert_allclose(found[30, :2], (1.5 / 6, 0.5 / 10), rtol=1e-6)  # the next row
    upright = anchor_boxes(SIZE[::-1], AnchorSettings(aspect_ratios=(1, 0.5, 2, 1 / 3, 3)))
    turned = anchor_boxes(SIZE, AnchorSettings(aspect_ratios=(1, 2, 0.5, 3, 1 / 3)))[:, [1, 0, 3, 2]]
    assert {tuple(row) for row in upright.round(5).tolist()} == {tuple(row) for row in turned.round(5).tolist()}


def test_the_nearest_anchor_of_each_shape_is_asked():
    rng = np.random.default_rng(0)
    low = rng.random((200, 2)) * 0.9
    boxes = np.concatenate([low, low + (1 - low) * rng.random((200, 2)) ** 2], axis=1)
    settings = AnchorSettings(scales=(0.1, 0.3, 0.6), aspect_ratios=(1, 2))
    placed = corners(anchor_boxes(SIZE, settings, levels=3))
    best = np.asarray(pairwise_iou(boxes.astype(np.float32), placed)).max(axis=1)
    np.testing.assert_allclose(best_iou(boxes, SIZE, settings, 3), best, atol=1e-4)


def test_chosen_anchors_match_more():
    """Small upright boxes, of 0.05 to 0.1 of the height and half as wide."""
    rng = np.random.default_rng(0)
    size = rng.uniform(0.05, 0.1, (100, 1)) * (1, 0.5)
    low = rng.random((100, 2)) * 0.9
    boxes = np.concatenate([low, low + size], axis=1)
    found = chosen_anchors(boxes, (320, 320), levels=2)
    before, after = ((best_iou(boxes, (320, 320), each, 2) >= 0.5).mean() for each in (AnchorSettings(), found))
    assert before == 0
    assert after > 0.3
    assert found == chosen_anchors(boxes, (320, 320), levels=2)
    assert len(found.aspect_ratios) == 5


def test_sizes_as_they_are_written():
    assert [sides(each) for each in (320, "320", "192x320", [192, 320], (192,))] == [
        (320, 320), (320, 320), (192, 320), (192, 320), (192, 192),
    ]  # fmt: skip
    for wrong in ("192 x 320", "64x320", 95, True, (96, 96, 96), 320.0, "x", None):
        with pytest.raises(ValueError, match="one whole number of pixels, or height x width such as 192x320"):
            sides(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "size=192x320",
        "anchors=auto extras=[64,32]",
        "anchors.min_scale=0.1 anchors.aspect_ratios=[1,2,0.5] extras=[512,256,256,128]",
        "anchors.scales=[0.1,0.2,0.4] anchors.reduced_first=false extras=[16]",
        "anchors.min_scale=0.2",
    ],
)
def test_recipes_have_text_and_json(text):
    recipe = parse_recipe(f"finetune-detector {text}", DetectionRecipe)
    assert recipe != parse_recipe("finetune-detector", DetectionRecipe)
    assert parse_recipe(str(recipe), DetectionRecipe) == recipe
    assert recipe_from_json(json.loads(json.dumps(recipe_to_json(recipe))), DetectionRecipe) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size=64x320", "from 96 to 4096 pixels"),
        ("anchors=best", "`anchors` must be auto, AnchorSettings.*Received: anchors='best'"),
        ("anchors=auto anchors.min_scale=0.1", "must be left out where its parts are given. Received: anchors='auto'"),
        ("anchors.min_scale=few", "0.001 <= min_scale < max_scale <= 1. Received: min_scale='few'"),
        ("anchors.min_scale=1e-9", "0.001 <= min_scale < max_scale <= 1. Received: min_scale=1e-09"),
        ("anchors.scales=[1e-9,0.2]", "must be 2 to .* numbers, one for each level, 0.001 to 1"),
        ("anchors.variance=[1e-300,1,1,1]", "four numbers .*, 0.001 to 1000. Received: variance="),
        ('augment.area=["a","b"]', "`augment.area` must be two numbers, low and high, above 0"),
        ("augment.aspect=[null,1]", "`augment.aspect` must be two numbers, low and high, above 0"),
        ("anchors.aspect_ratios=2", "`anchors.aspect_ratios` must be a list of numbers above 0"),
        ("anchors.aspect_ratios=[0,1]", "`anchors.aspect_ratios` must be a list of numbers above 0"),
        ("anchors.scales=[0.1,0.2] anchors.min_scale=0.1", "take the place of `min_scale` and `max_scale`"),
        ("anchors.scale=1", "unknown key 'anchors.scale'"),
        ("extras=[1]", "`extras` must be the channels of the levels after the first two"),
        ("extras=512", "`extras` must be the channels of the levels after the first two"),
    ],
)
def test_bad_recipes(text, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe(f"finetune-detector {text}", DetectionRecipe)


def test_scales_are_one_for_each_level():
    two = AnchorSettings(scales=(0.2, 0.4))
    with pytest.raises(ValueError, match="one for each level.*Received: 2 scales for 3 levels"):
        DetectorSpec(backbone=BACKBONE, input_size=SIZE, labels=("a",), category_ids=(1,), extras=(16,), anchors=two)
    with pytest.raises(ValueError, match="one for each level.*Received: 2 scales for 6 levels"):
        anchor_boxes(SIZE, two)
    with pytest.raises(ValueError, match="one for each level.*Received: 2 scales for 6 levels"):
        best_iou(np.zeros((1, 4)), SIZE, two)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("photos"))


def asked(drawn):
    """What `detect train` and `detect data` are told."""
    changes = ("extras=[32]", "match_iou=0.3", "augment.crop=false")
    options = ("--recipe", str(FAST), "--size", "96x160", "--anchors", "auto", "--validation", str(drawn))
    return [str(drawn), str(drawn.parent), *options, *(word for change in changes for word in ("--set", change))]


@pytest.fixture(scope="module")
def run(drawn, tmp_path_factory):
    """A run of one step at 96 x 160, with three levels and chosen anchors; and its report."""
    folder = tmp_path_factory.mktemp("rectangular") / "run"
    assert main(["detect", "train", *asked(drawn), "--network", BACKBONE, "--no-ap", "-o", str(folder), "--json"]) == 0
    return folder


def test_training(run, drawn, capfd):
    spec = load(run).detector
    data = open_dataset(drawn, drawn.parent)
    chosen = chosen_anchors(data.objects, SIZE, levels=3, threshold=0.3)
    assert (spec.input_size, spec.extras, spec.levels, spec.anchors) == (SIZE, (32,), 3, chosen)
    assert DetectorSpec.from_json(spec.to_json()) == spec
    kept = json.loads((run / "run.json").read_text("utf-8"))
    assert kept["job"]["recipe"]["anchors"] == "auto"
    facts = kept["facts"]["data"]
    assert facts["share_of_boxes_with_an_anchor"] >= facts["share_with_the_usual_anchors"]
    assert (facts["anchors"], facts["boxes_with_an_anchor"]) == (
        str(chosen), "those of train that one overlaps by an IoU of 0.3 or more, at 96x160 pixels (height x width)",
    )  # fmt: skip
    assert main(["detect", "data", *asked(drawn), "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == facts, "what `detect data` says with the same options"
    assert main(["detect", "train", "--resume", str(run)]) == 0
    assert "share with the usual anchors" in capfd.readouterr().err
    assert load(run).model().input_shape == (None, *SIZE, 3)
    (pixels, truth), *_ = evaluation_batches(data, size=SIZE, batch_size=2).as_numpy_iterator()
    assert (pixels.shape, truth["boxes"].shape) == ((2, *SIZE, 3), (2, 2, 4)), "the table is as large as the fullest photo"
    whole = tf.io.decode_png((drawn.parent / "0.png").read_bytes())
    np.testing.assert_allclose(pixels[0], tf.image.resize(whole, SIZE, antialias=True), atol=1e-3)


def test_info_and_evaluation(run, drawn, capfd):
    spec = load(run).detector
    assert main(["info", str(run)]) == 0
    out, _ = capfd.readouterr()
    for said in (f"{spec.params():,} parameters", "96 x 160 x 3", "resize to 96 x 160"):
        assert said in out
    assert main(["info", str(run), "--size", "224"]) == 1
    assert "A detector's input and classes are its own" in capfd.readouterr().err
    assert main(["detect", "eval", str(run), "--annotations", str(drawn), "--photos", str(drawn.parent), "--json"]) == 0
    assert str(spec.anchors) in json.loads(capfd.readouterr().out)["data"]["anchors"]


@pytest.fixture(scope="module")
def detector():
    """One with anchors and levels of its own; what it finds depends on the photo."""
    keras.utils.set_random_seed(0)
    settings = AnchorSettings(min_scale=0.15, aspect_ratios=(1, 2, 0.5), reduced_first=False)
    made = SSDLite("b1", list("abcd"), width_multiplier=0.35, input_size=SIZE, anchors=settings, extras=(64, 32))
    return distinct(made, drawn_images(100, *SIZE, 3, seed=3))


@pytest.mark.parametrize(("quantize", "dtype"), [("float16", "float32"), ("int8", "uint8")])
def test_export(detector, tmp_path, quantize, dtype):
    """Verified against the model, and opened with the spec that it carries."""
    path, pictures = tmp_path / "a.tflite", drawn_images(100, *SIZE, 3, seed=3)
    given = {"representative_data": pictures, "input_dtype": dtype} if quantize == "int8" else {}
    report = export(detector, path, quantize=quantize, photos=pictures[:4], **given)
    assert [(port.dtype, port.shape) for port in report.facts.inputs] == [(dtype, (1, *SIZE, 3))]
    assert report.agreement.expected > 20
    assert report.network_partitions.delegates == 1
    found = open_detector(path)
    assert (found.size, found.most, found.spec) == (SIZE, 100, spec_of(detector))
    assert len(found.run(pictures[:2])) == 2


def test_a_file_is_measured_and_finds_objects(detector, drawn, tmp_path, capfd):
    """The same objects as the model finds, in pixels of the photo; past the most of a file a warning says so."""
    path, photo = tmp_path / "a.tflite", str(drawn.parent / "0.png")
    report = export(detector, path, max_detections=5)
    assert (report.agreement.close, report.agreement.found) == (report.agreement.expected, report.agreement.confirmed)
    assert report.agreement.expected > 20
    assert main(["bench", "latency", str(path), "--runs", "1", "--json"]) == 0
    capfd.readouterr()
    assert main(["detect", "predict", str(path), photo, "--score-threshold", "0.01", "--json"]) == 0
    out, err = capfd.readouterr()
    ((found,), (expected,)) = json.loads(out), predict(detector, photo, score=0.01, max_detections=5)
    assert "1 of 1 photos have 5 objects, the most that this detector gives" in err
    for each, wanted in zip(found["objects"], expected.objects, strict=True):
        assert each["number"] == wanted.number
        np.testing.assert_allclose(each["box"], wanted.box, atol=0.1)


def test_going_on_from_a_detector(run, drawn, tmp_path):
    """Asked for other anchors, its predictors start anew and all else is kept; its levels cannot be others."""
    recipe = FAST.changed(learning_rate=0.0)
    options = {"from_model": run, "progress": False, "measure_ap": False, "validation": drawn}
    with pytest.raises(ValueError, match="extra levels stay as they are. Received: extras=\\(16,\\)"):
        train(drawn, drawn.parent, tmp_path / "levels", recipe=recipe.changed(extras=(16,)), **options)
    before = load(run)
    other = AnchorSettings(aspect_ratios=(1, 2, 0.5, 1.5, 3), reduced_first=before.detector.anchors.reduced_first)
    train(drawn, drawn.parent, tmp_path / "other", recipe=recipe, anchors=other, **options)
    found = load(tmp_path / "other")
    assert found.detector == dataclasses.replace(before.detector, anchors=other)
    for layer, kept in (("extra1_project_conv", True), ("level1_boxes_depthwise_conv", True), ("level1_boxes", False)):
        key = next(key for key in before.tensors if key.startswith(f"{layer}/") and "kernel" in key)
        assert np.array_equal(found.tensors[key], before.tensors[key]) == kept


def test_photos_of_many_boxes(drawn, tmp_path):
    """Of one photo 103 boxes: all are in the table, COCO's limit is said, and so is what a smaller table leaves out."""
    truth = json.loads(drawn.read_text("utf-8"))
    row = truth["annotations"][0]
    truth["annotations"] += [{**row, "id": 100 + number} for number in range(101)]
    (tmp_path / "many.json").write_text(json.dumps(truth), "utf-8")
    data = open_dataset(tmp_path / "many.json", drawn.parent)
    assert (data.most_boxes, data.photos_past(100), data.photos_past(103)) == (103, (1, 3), (0, 0))
    (_, labels), *_ = evaluation_batches(data, size=SIZE, batch_size=2).as_numpy_iterator()
    assert labels["labels"].shape == (2, 103)
    facts = describe(tmp_path / "many.json", drawn.parent, size=SIZE, validation=0).facts
    assert (facts["most_boxes_of_a_photo"], facts["photos_of_more_than_100_boxes"]) == (103, 1)


def test_a_share_is_of_the_photos_to_train_on(drawn, tmp_path):
    """With anchors that match the boxes to train on and none of the others, it is 1."""
    truth = json.loads(drawn.read_text("utf-8"))
    others = [{**row, "bbox": [0, 0, 3, 2]} for row in truth["annotations"]]
    (tmp_path / "small.json").write_text(json.dumps({**truth, "annotations": others}), "utf-8")
    options = {"size": SIZE, "anchors": "auto", "changes": {"match_iou": 0.3}}
    facts = [describe(drawn, drawn.parent, validation=each, **options).facts for each in (drawn, tmp_path / "small.json")]
    assert facts[0]["share_of_boxes_with_an_anchor"] == facts[1]["share_of_boxes_with_an_anchor"] == 1
    assert facts[0]["anchors"] == facts[1]["anchors"]


def test_anchors_of_a_spec():
    spec = DetectorSpec(backbone=BACKBONE, input_size=96, labels=("a",), category_ids=(1,))
    assert spec.input_size == (96, 96)
    np.testing.assert_array_equal(anchors_of(spec), anchor_boxes(96))
