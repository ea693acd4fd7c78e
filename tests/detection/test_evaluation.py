"""COCO's numbers: pycocotools' known answers to six digits, mapping of category ids, and bad files."""

import json

import numpy as np
import pytest

from keras_mnasnet.detection.annotations import read_results, read_truth
from keras_mnasnet.detection.evaluation import METRICS, category_map, coco_score, results_of
from keras_mnasnet.detection.postprocess import Detections

IMAGE = {"id": 7, "file_name": "a.jpg", "height": 100, "width": 200}
CATEGORIES = [{"id": 17, "name": "cat"}, {"id": 3, "name": "dog"}]
TRUTH = {
    "images": [IMAGE, {**IMAGE, "id": 8}],
    "categories": CATEGORIES,
    "annotations": [
        {"id": 0, "image_id": 7, "category_id": 17, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0},
        {"id": 1, "image_id": 8, "category_id": 17, "bbox": [0, 0, 100, 50]},
        {"id": 2, "image_id": 8, "category_id": 3, "bbox": [100, 0, 100, 100], "iscrowd": 1},
    ],
}


def written(folder, value, name="truth.json"):
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def found(image, category, box, score):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


@pytest.mark.parametrize(
    ("split", "answer"),
    [
        ("val2017", "val2017_synthetic"),
        ("val2017", "val2017_perfect_noncrowd_score1"),
        ("train2017", "train2017_perfect_noncrowd_score1"),
    ],
)
def test_known_answers_to_six_digits(data, split, answer):
    folder = data / "coco_tiny"
    truth = read_truth(folder / "annotations" / f"instances_{split}.json")
    expected = json.loads((folder / "check" / "expected_metrics.json").read_text("utf-8"))
    if answer.endswith("synthetic"):
        results = read_results(folder / "check" / "detections_val2017_synthetic.json")
        assert len(results) == 422
    else:
        results = [
            found(each["image_id"], each["category_id"], each["bbox"], 1.0) for each in truth.annotations if not each["iscrowd"]
        ]
    score = coco_score(truth, results)
    assert tuple(score.metrics) == METRICS == tuple(expected["order"])
    assert [round(value, 6) for value in score.metrics.values()] == expected[answer]
    assert (score.images, score.detections) == (50, len(results))


def test_one_match_and_one_miss(tmp_path):
    """Of two cats one is found with IoU 0.8: AP is 1/2 up to that threshold (51 of 101 recall points, 7 of 10 thresholds).

    The match is with an annotation of id 0, which pycocotools itself counts as none; the dog is a crowd region alone.
    """
    truth = read_truth(written(tmp_path, TRUTH))
    score = coco_score(truth, [found(7, 17, [10, 10, 40, 32], 0.9)])
    assert score.metrics["AP50"] == pytest.approx(51 / 101)
    assert score.metrics["AP"] == pytest.approx(0.7 * 51 / 101)
    assert score.metrics["AR100"] == pytest.approx(0.35)
    assert score.metrics["APs"] is None
    cat, dog = sorted(score.per_category, key=lambda each: each.name)
    assert (cat.category_id, cat.boxes, cat.ap50) == (17, 2, pytest.approx(51 / 101))
    assert (dog.boxes, dog.ap) == (0, None)


def test_chosen_images_alone_count(tmp_path):
    truth = read_truth(written(tmp_path, TRUTH))
    results = [found(7, 17, [10, 10, 40, 40], 0.9), found(8, 17, [150, 50, 10, 10], 0.95)]
    assert coco_score(truth, results, image_ids=[7]).metrics["AP"] == pytest.approx(1)
    assert coco_score(truth, results, image_ids=[7]).detections == 1
    assert coco_score(truth, results).metrics["AP"] < 0.5


def test_nothing_detected_scores_nothing(tmp_path):
    score = coco_score(read_truth(written(tmp_path, TRUTH)), [])
    assert (score.metrics["AP"], score.metrics["AR100"], score.detections) == (0, 0, 0)


def test_detections_become_results_inside_the_image():
    boxes = np.array([[0.1, 0.2, 0.5, 0.4], [-0.5, 0.5, 0.5, 1.5], [0, 0, 1, 1]], np.float32)
    detections = Detections(boxes, np.array([1, 0, 2]), np.array([0.9, 0.8, 0.7], np.float32))
    rows = results_of(detections, IMAGE, [17, 3, None])
    assert [row["category_id"] for row in rows] == [3, 17]
    np.testing.assert_allclose(rows[0]["bbox"], [40, 10, 40, 40], atol=1e-4)
    np.testing.assert_allclose(rows[1]["bbox"], [100, 0, 100, 50], atol=1e-4)
    assert rows[0]["image_id"] == 7


def test_category_ids_go_by_id_and_name(tmp_path):
    truth = read_truth(written(tmp_path, TRUTH))
    assert category_map(("dog", "n/a", "cat"), (3, 12, 17), truth, "m") == [3, None, 17]
    assert category_map(("cat", "dog"), None, truth, "m") == [17, 3]
    assert category_map(("cat", "horse"), (3, 17), truth, "m") == [17, None], "the id of another name is not taken"
    with pytest.raises(ValueError, match="must have classes of the annotation file, by name. Received: m with horse, ... and"):
        category_map(("horse",), (17,), truth, "m")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "An annotation file must be JSON. Received: "),
        ([], "must hold a JSON object. Received: .* a list"),
        ({**TRUTH, "images": []}, "must have lists of `images`, `categories` and `annotations`. Received: .* with no images"),
        ({**TRUTH, "annotations": []}, "with no annotations"),
        ({key: TRUTH[key] for key in ("images", "annotations")}, "without categories"),
        (
            {**TRUTH, "images": [*TRUTH["images"], {**IMAGE, "file_name": "x.jpg"}]},
            r"images\[2\]: the id of another one before.*id 7",
        ),
        ({**TRUTH, "images": [{**TRUTH["images"][0], "id": float("inf")}]}, r"images\[0\]: cannot convert float infinity"),
        ({**TRUTH, "categories": [{**TRUTH["categories"][0], "name": None}]}, r"categories\[0\]: .* names of one line"),
        ({**TRUTH, "categories": [{"id": n, "name": "one"} for n in (3, 17)]}, "must have different names.*'one' twice.*3, 17"),
        (
            {**TRUTH, "categories": [CATEGORIES[1]]},
            r"each `category_id` from .* own list of 1. Received: 2 of 3 .*\[0\].* 17 \(id 0",
        ),
        (
            {**TRUTH, "images": [IMAGE]},
            r"each `image_id` from .* Received: 2 of 3 .* annotations\[1\]: the image_id 8 \(id 1\)",
        ),
        ({**TRUTH, "annotations": [{"image_id": 7, "category_id": 17, "bbox": [1, 2, 3]}]}, r"the bbox \[1, 2, 3\]"),
        ({**TRUTH, "annotations": [{"image_id": 7, "category_id": 17}]}, r"annotations\[0\]: no 'bbox'"),
    ],
)
def test_bad_annotations(tmp_path, value, message):
    with pytest.raises(ValueError, match=message):
        read_truth(written(tmp_path, value))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "must hold a JSON list of detections. Received: .* a dict"),
        ([found(7, 17, [0, 0, 1], 1)], r"the bbox \[0, 0, 1\]"),
        ([{"image_id": 7}], r"detections\[0\]: no 'category_id'"),
        ([found(7, 17, [0, 0, 1, 1], float("nan"))], r"detections\[0\]: nan, which is no finite number"),
    ],
)
def test_bad_results(tmp_path, value, message):
    with pytest.raises(ValueError, match=message):
        read_results(written(tmp_path, value))


def test_missing_files_and_foreign_results(tmp_path):
    with pytest.raises(OSError, match="Annotations must exist: a COCO .json file, or a folder of VOC's .*none.json"):
        read_truth(tmp_path / "none.json")
    with pytest.raises(ValueError, match="A result file must exist"):
        read_results(tmp_path / "none.json")
    truth = read_truth(written(tmp_path, TRUTH))
    with pytest.raises(ValueError, match="The results must have each `image_id` from .* Received: 1 unknown, 99"):
        coco_score(truth, [found(99, 17, [0, 0, 1, 1], 1.0)])
    with pytest.raises(ValueError, match="The results must have each `category_id` from .* Received: 1 unknown, 5"):
        coco_score(truth, [found(7, 5, [0, 0, 1, 1], 1.0)])
