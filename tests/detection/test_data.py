"""COCO and VOC annotations, and the batches made of them."""

import json

import numpy as np
import pytest
import tensorflow as tf

from keras_mnasnet.detection.anchors import CROWD
from keras_mnasnet.detection.data import evaluation_batches, open_dataset, training_batches
from keras_mnasnet.detection.recipe import BoxAugment


def photo(path, height=40, width=60, shade=100):
    path.write_bytes(tf.io.encode_jpeg(np.full((height, width, 3), shade, np.uint8)).numpy())


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        photo(tmp_path / f"{number}.jpg", shade=20 + 50 * number)
    return tmp_path


def write(folder, annotations=None, **changed):
    """A file of four photos of 60 x 40 and three categories with gaps in their ids."""
    rows = [
        {"image_id": 10, "category_id": 7, "bbox": [6, 4, 30, 20], "iscrowd": 0},
        {"image_id": 10, "category_id": 2, "bbox": [0, 0, 60, 40], "iscrowd": 1},
        {"image_id": 11, "category_id": 5, "bbox": [30, 20, 60, 40], "iscrowd": 0},
        {"image_id": 11, "category_id": 5, "bbox": [10, 10, 0, 5], "iscrowd": 0},
        {"image_id": 12, "category_id": 2, "bbox": [100, 0, 5, 5], "iscrowd": 0},
        {"image_id": 12, "category_id": 2, "bbox": [0, 0, 6, 4], "iscrowd": 0},
    ] if annotations is None else annotations  # fmt: skip
    value = {
        "images": [{"id": 10 + n, "file_name": f"{n}.jpg", "height": 40, "width": 60} for n in range(4)],
        "categories": [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 5, "name": "cow"}],
        "annotations": rows,
        **changed,
    }
    (folder / "a.json").write_text(json.dumps(value), "utf-8")
    return folder / "a.json"


def test_boxes_and_classes(folder):
    data = open_dataset(write(folder), folder)
    assert data.labels == ("cat", "cow", "dog")
    assert data.category_ids == (2, 5, 7)
    assert data.image_ids == (10, 11, 12, 13)
    assert data.notes == {
        "boxes": 4, "boxes_clipped": 1, "boxes_dropped": 2, "crowd_regions": 1, "photos_without_boxes": 1,
    }  # fmt: skip
    boxes, classes = data.boxes_of(0)
    np.testing.assert_allclose(boxes, [[0.1, 0.1, 0.6, 0.6], [0, 0, 1, 1]], atol=1e-6)
    assert classes.tolist() == [2, CROWD]
    np.testing.assert_allclose(data.boxes_of(1)[0], [[0.5, 0.5, 1, 1]])  # clipped; the one without width is gone
    assert len(data.boxes_of(2)[0]) == 1  # the one outside is gone
    assert len(data.boxes_of(3)[0]) == 0
    assert data.checked().count == 4


def test_some_classes_in_their_own_order(folder):
    data = open_dataset(write(folder), folder, classes=("dog", "cat"))
    assert data.category_ids == (7, 2)
    assert data.boxes_of(0)[1].tolist() == [0, CROWD]
    assert len(data.boxes_of(1)[0]) == 0
    assert data.truth.categories == {7: "dog", 2: "cat"}
    assert {row["category_id"] for row in data.truth.annotations} == {7, 2}


def test_batches(folder):
    data = open_dataset(write(folder), folder)
    found = list(evaluation_batches(data, size=(96, 96), batch_size=3, max_boxes=2).as_numpy_iterator())
    assert [pixels.shape for pixels, _ in found] == [(3, 96, 96, 3), (1, 96, 96, 3)]
    labels = np.concatenate([truth["labels"] for _, truth in found])
    assert labels.tolist() == [[2, CROWD], [1, -1], [0, -1], [-1, -1]]
    np.testing.assert_allclose([pixels.mean() for pixels in found[0][0]], [20, 70, 120], atol=2)


def test_training_batches_are_the_same_from_any_step_and_in_shards(folder):
    data = open_dataset(write(folder), folder)
    options = {"size": (96, 96), "batch_size": 2, "augment": BoxAugment(), "seed": 3, "max_boxes": 3}
    whole = list(training_batches(data, **options).take(6).as_numpy_iterator())
    later = list(training_batches(data, **options, first_step=4).take(2).as_numpy_iterator())
    for (pixels, truth), (again, same) in zip(whole[4:], later, strict=True):
        np.testing.assert_array_equal(pixels, again)
        np.testing.assert_array_equal(truth["boxes"], same["boxes"])
    halves = [list(training_batches(data, **options, shard=(i, 2)).take(3).as_numpy_iterator()) for i in range(2)]
    for number in range(3):
        joined = np.concatenate([half[number][0] for half in halves])
        np.testing.assert_array_equal(joined, whole[number][0])
    shades = sorted(round(float(pixels.mean()) / 50) for batch, _ in whole[:2] for pixels in batch)
    assert shades == [0, 1, 2, 3]  # every photo once in an epoch


def test_real_annotations(data):
    coco = data / "coco_tiny"
    found = open_dataset(coco / "annotations" / "instances_train2017.json", coco / "train2017").checked()
    assert (found.count, len(found.labels), len(found.boxes)) == (50, 80, 470)
    assert found.notes == {
        "boxes": 470, "boxes_clipped": 0, "boxes_dropped": 0, "crowd_regions": 5, "photos_without_boxes": 1,
    }  # fmt: skip
    assert found.category_ids[-1] == 90


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": []}, "must have lists of `images`, `categories` and `annotations`. Received:.*with no images"),
        ({"annotations": []}, "Received:.*with no annotations"),
        ({"categories": [{"id": 5, "name": "cow"}]}, "`category_id` from the annotation file's own list.*4 of 6"),
        ({"annotations": [{"image_id": 99, "category_id": 2, "bbox": [0, 0, 1, 1]}]}, "`image_id` from"),
        ({"annotations": [{"image_id": 10, "category_id": 2, "bbox": [0, 0, 1]}]}, "the bbox"),
        ({"annotations": [{"image_id": 10, "category_id": 2, "bbox": [70, 0, 9, 9]}]}, "hold boxes.*1 have no area"),
        (
            {"annotations": [{"image_id": 10, "category_id": 2, "bbox": [70 * (n > 0), 0, 9, 9]} for n in range(3)]},
            "\\[x, y, width, height\\] in pixels.*2 of 3 boxes",
        ),
        (
            {"annotations": [{"image_id": 10, "category_id": 2, "bbox": [0, 0, 9, 9], "iscrowd": 1}]},
            "must hold boxes of the classes",
        ),
        ({"images": [{"id": n, "height": 40, "width": 60} for n in (10, 11, 12)]}, "has a `file_name`.*image 10"),
    ],
)
def test_bad_annotations(folder, changed, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(write(folder, **changed), folder)


def test_bad_classes(folder):
    path = write(folder)
    with pytest.raises(ValueError, match="Every class must be a category.*Received: 'dgo'. Nearest: dog"):
        open_dataset(path, folder, classes=["dgo"])
    with pytest.raises(ValueError, match="must be different names"):
        open_dataset(path, folder, classes=["dog", "dog"])
    assert open_dataset(path, folder, classes="dog").labels == ("dog",)


def test_missing_files(folder):
    path = write(folder)
    with pytest.raises(OSError, match="Annotations must exist.*Received:.*none.json"):
        open_dataset(folder / "none.json", folder)
    with pytest.raises(OSError, match="must be in a folder"):
        open_dataset(path, folder / "none")
    (folder / "2.jpg").unlink()
    with pytest.raises(OSError, match="Received: 1 of 4 missing, the first is .*2.jpg"):
        open_dataset(path, folder)


def test_damaged_photos_and_wrong_sizes(folder):
    path = write(folder)
    (folder / "1.jpg").write_bytes((folder / "1.jpg").read_bytes()[:80])
    data = open_dataset(path, folder)
    with pytest.raises(ValueError, match="At most max_bad=0 of the 4 images may be damaged.*\n.*1.jpg"):
        data.checked()
    kept = data.checked(max_bad=1)
    assert kept.image_ids == (10, 12, 13)
    assert [len(kept.boxes_of(n)[0]) for n in range(3)] == [2, 1, 0]
    assert kept.bad == (str(folder / "1.jpg"),)
    photo(folder / "1.jpg", height=60, width=40)
    with pytest.raises(
        ValueError, match="have the sizes that the annotations say.*1.jpg of 40 x 60 pixels, annotated as 60 x 40"
    ):
        open_dataset(path, folder).checked()


VOC = """<annotation><filename>0.jpg</filename><size><width>60</width><height>40</height></size>
<object><name>cow</name><difficult>0</difficult><bndbox><xmin>7</xmin><ymin>5</ymin><xmax>36</xmax><ymax>24</ymax></bndbox></object>
<object><name>ant</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>6</xmax><ymax>4</ymax></bndbox></object>
</annotation>"""


def test_voc(folder):
    (folder / "xml").mkdir()
    (folder / "xml" / "0.xml").write_text(VOC, "utf-8")
    data = open_dataset(folder / "xml", folder)
    assert data.labels == ("ant", "cow")
    boxes, classes = data.boxes_of(0)
    np.testing.assert_allclose(boxes[0], [0.1, 0.1, 0.6, 0.6], atol=1e-6)
    assert classes.tolist() == [1, CROWD]
    (folder / "xml" / "1.xml").write_text(VOC.replace("<xmin>7</xmin>", ""), "utf-8")
    with pytest.raises(ValueError, match=r"1.xml must be a VOC annotation. Received: no <xmin> of object 1 \('cow'\)"):
        open_dataset(folder / "xml", folder)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="holds .xml files"):
        open_dataset(folder / "empty", folder)
