"""Annotations as people's tools write them: what is read, what is left out and counted, what is refused with its place."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_mnasnet.cli.main import main
from keras_mnasnet.detection import AnchorSettings, describe
from keras_mnasnet.detection.anchors import anchor_boxes, best_iou, corners, pairwise_iou
from keras_mnasnet.detection.annotations import read_results, read_truth, splits_of
from keras_mnasnet.detection.coco import _mask_bounds, _unpacked
from keras_mnasnet.detection.data import evaluation_batches, open_dataset, training_batches
from keras_mnasnet.detection.evaluation import coco_score, evaluate
from keras_mnasnet.detection.photos import PhotoFolder
from keras_mnasnet.detection.recipe import DETECTION_RECIPES, BoxAugment
from keras_mnasnet.detection.training import DetectionJob, DetectorRun

CASES = Path(os.environ.get("KERAS_MNASNET_CASES", "none"))
BOX = [30, 20, 40, 30]
CORNERS = [30, 20, 70, 20, 70, 50, 30, 50]
RED, GRAY = (220, 40, 40), (60, 60, 60)


def photo(path, size=(120, 80), orientation=None, box=BOX):
    """A gray photo with a red rectangle; with an orientation it is stored turned, so that it is this picture upright."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, GRAY)
    image.paste(RED, (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    turns = {None: None, 1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that undoes what EXIF asks for
    if turns[orientation] is not None:
        image = image.transpose(turns[orientation])
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(path, exif=exif, quality=95)
    return path


def coco(folder, *, images=None, categories=None, annotations=None, name="a.json", encoding="utf-8"):
    """A COCO file of two photos with a box each; dictionaries change all rows, lists replace them, None in them removes."""
    base = {
        "images": [{"id": n + 1, "file_name": f"{n}.jpg", "width": 120, "height": 80} for n in range(2)],
        "categories": [{"id": 1, "name": "box", "supercategory": ""}, {"id": 2, "name": "ball", "supercategory": ""}],
        "annotations": [
            {"id": 5 + n, "image_id": n + 1, "category_id": n + 1, "bbox": BOX, "area": 1200, "iscrowd": 0} for n in range(2)
        ],
    }
    for key, change in (("images", images), ("categories", categories), ("annotations", annotations)):
        if callable(change):
            base[key] = [change(dict(row)) for row in base[key]]
        elif isinstance(change, dict):
            base[key] = [{k: v for k, v in {**row, **change}.items() if v != "absent"} for row in base[key]]
        elif change is not None:
            base[key] = change
    (folder / name).write_bytes(json.dumps({"info": {}, "licenses": [], **base}).encode(encoding))
    return folder / name


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for n in range(2):
        photo(folder / f"{n}.jpg")
    return folder


def runs(top=20, left=30, height=30, width=40, rows=80, columns=120):
    """Uncompressed run lengths of a rectangle."""
    mask = np.zeros((rows, columns), np.uint8)
    mask[top : top + height, left : left + width] = 1
    flat = np.concatenate([[0], mask.T.ravel()])
    edges = np.flatnonzero(np.diff(flat))
    return [int(each) for each in np.diff(np.concatenate([[0], edges, [mask.size]]))]


TOOLS = {
    "roboflow": {
        "categories": [
            {"id": 0, "name": "box", "supercategory": "none"}, {"id": 1, "name": "box", "supercategory": "box"},
            {"id": 2, "name": "ball", "supercategory": "box"},
        ],
        "images": lambda row: {**row, "license": 1, "date_captured": "2026-01-01T00:00:00+00:00", "extra": {"name": "0.jpg"}},
        "annotations": {"segmentation": []},
    },
    "cvat": {"annotations": {"segmentation": [], "attributes": {"occluded": False, "rotation": 0.0}, "area": 1200.0}},
    "label-studio": {
        "images": lambda row: {**row, "id": row["id"] - 1, "file_name": f"..\\..\\media\\upload\\4\\{row['file_name']}"},
        "categories": [{"id": 0, "name": "box"}, {"id": 1, "name": "ball"}],
        "annotations": lambda row: {
            **row, "id": row["id"] - 5, "image_id": row["image_id"] - 1, "category_id": row["category_id"] - 1, "ignore": 0,
            "segmentation": [],
        },
    },
    "label-studio with local files": {
        "images": lambda row: {**row, "file_name": f"/data/local-files/?d=some%20where/{row['file_name']}"}
    },
    "blenderproc": {
        "images": lambda row: {**row, "file_name": f"images/{row['file_name']}", "license": 1, "coco_url": ""},
        "categories": lambda row: {**row, "supercategory": "coco_annotations"},
        "annotations": {
            "bbox": [30.0, 20.0, 40.0, 30.0], "area": [1200], "segmentation": {"counts": runs(), "size": [80, 120]},
        },
    },
    "coco-annotator": {
        "images": lambda row: {**row, "path": f"/datasets/x/{row['file_name']}", "deleted": False, "annotating": []},
        "categories": lambda row: {**row, "color": "#fff", "metadata": {}, "keypoint_colors": []},
        "annotations": {"iscrowd": False, "isbbox": True, "color": "#fff", "metadata": {}, "segmentation": [CORNERS]},
    },
    "text ids": {
        "images": lambda row: {**row, "id": f"img-{row['id']}"},
        "categories": lambda row: {**row, "id": f"c{row['id']}"},
        "annotations": lambda row: {
            **row, "id": "x", "image_id": f"img-{row['image_id']}", "category_id": f"c{row['category_id']}",
        },
    },
    "numbers as text on one side": {"annotations": lambda row: {**row, "image_id": str(row["image_id"])}},
    "numbers as text on the other": {"images": lambda row: {**row, "id": str(row["id"])}},
    "nulls": {"annotations": {"area": None, "iscrowd": None, "segmentation": None, "id": None}},
    "area NaN": {"annotations": {"area": float("nan")}},
    "area as text": {"annotations": {"area": "many"}},
    "nothing but boxes": {"annotations": {"area": "absent", "iscrowd": "absent"}},
    "polygons alone": {"annotations": {"bbox": "absent", "segmentation": [CORNERS[:4], CORNERS[4:]]}},
    "a flat polygon": {"annotations": {"bbox": None, "segmentation": CORNERS}},
    "masks alone": {"annotations": {"bbox": [], "segmentation": {"counts": runs(), "size": [80, 120]}}},
    "an image and a category written twice": {
        "images": [{"id": n + 1, "file_name": f"{n}.jpg", "width": 120, "height": 80} for n in (0, 1, 0)],
        "categories": [{"id": 1, "name": "box"}, {"id": 2, "name": "ball"}, {"id": 1, "name": "box"}],
    },
    "spaces around names": {
        "images": lambda row: {**row, "file_name": f" {row['file_name']} "},
        "categories": lambda row: {**row, "name": f"{row['name']}\n"},
    },
    "sizes null": {"images": {"width": None, "height": None}},
    "sizes 0": {"images": {"width": 0, "height": 0}},
    "no sizes": {"images": {"width": "absent", "height": "absent"}},
    "sizes with decimals": {"images": {"width": 120.0, "height": "80.0"}},
    "sizes of another kind": {"images": {"width": "wide", "height": 79.5}},
    "a URL": {"images": lambda row: {**row, "file_name": f"https://host/a%20b/{row['file_name']}?token=1"}},
    "a drive": {"images": lambda row: {**row, "file_name": f"C:\\photos\\{row['file_name']}"}},
    "another case and ending": {"images": lambda row: {**row, "file_name": row["file_name"].replace("jpg", "PNG")}},
}  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_gives_the_same_data(tool, tmp_path, photos):
    found = open_dataset(coco(tmp_path, **TOOLS[tool]), photos)
    assert found.labels == ("box", "ball")
    assert found.whole_ids in ((1, 2), (0, 1))
    np.testing.assert_allclose(found.boxes, [[0.25, 0.25, 0.625, 70 / 120]] * 2, atol=1e-6)
    assert found.classes.tolist() == [0, 1]
    assert found.sizes.tolist() == [[80, 120]] * 2
    assert [row["area"] for row in found.truth.annotations] == [1200, 1200]
    assert [os.path.basename(found.where(n)) for n in range(2)] == ["0.jpg", "1.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_of_json(encoding, tmp_path):
    truth = read_truth(coco(tmp_path, categories=lambda row: {**row, "name": f"caf\u00e9 {row['id']}"}, encoding=encoding))
    assert list(truth.categories.values()) == ["caf\u00e9 1", "caf\u00e9 2"]


GOOD = {"image_id": 1, "category_id": 1, "bbox": BOX}


@pytest.mark.parametrize(
    ("row", "note"),
    [
        ({**GOOD, "image_id": 99}, "unknown_image_id"),
        ({**GOOD, "image_id": None}, "unknown_image_id"),
        ({**GOOD, "category_id": 77}, "unknown_category_id"),
        ({**GOOD, "bbox": []}, "without_box"),
        ({**GOOD, "bbox": None, "segmentation": []}, "without_box"),
        ({**GOOD, "bbox": None, "segmentation": {"counts": [9600], "size": [80, 120]}}, "without_box"),
        ({"image_id": 1, "category_id": 1}, "without_box"),
        ({**GOOD, "deleted": True}, "deleted"),
    ],
)
def test_annotations_of_no_use_are_left_out_and_counted(row, note, tmp_path):
    truth = read_truth(coco(tmp_path, annotations=[GOOD, {**row, "id": 17}, GOOD]))
    assert [each["id"] for each in truth.annotations] == [1, 3]
    assert truth.notes[note] == 1
    assert "1 annotations are left out" in truth.said[0]
    assert "annotations[1]" in truth.said[0]
    assert "(id 17)" in truth.said[0]
    if note != "deleted":
        with pytest.raises(ValueError, match=r"annotations\[1\].*\(id 17\)"):
            read_truth(coco(tmp_path, annotations=[GOOD, {**row, "id": 17}, {**row, "id": 18}, {**row, "id": 19}]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [30, 20, float("nan"), 30]}, "nan, which is no finite number"),
        ({"bbox": [30, 20, None, 30]}, "the bbox"),
        ({"bbox": [30, 20, "wide", 30]}, "wide"),
        ({"bbox": {"x": 1}}, "the bbox"),
        ({"bbox": [30, 20, 40]}, "the bbox"),
        ({"iscrowd": "maybe"}, "the iscrowd 'maybe'"),
        ({"image_id": [1]}, "the image_id"),
        ({"category_id": 1.5}, "the category_id 1.5"),
        ({"bbox": None, "segmentation": [["a", "b"]]}, "the segmentation"),
        ({"bbox": None, "segmentation": [[1, 2, 3]]}, "an x has no y"),
        ({"bbox": None, "segmentation": {"counts": [99999], "size": [80, 120]}}, "runs that do not fit"),
        ({"bbox": None, "segmentation": {"counts": "~~", "size": [80, 120]}}, "packed run lengths"),
        ({"bbox": None, "segmentation": {"counts": [1], "size": [10**9, 10**9]}}, "pixels along a side"),
    ],
)
def test_what_is_not_clear_is_refused_with_its_place(change, message, tmp_path):
    rows = [GOOD, {**GOOD, "id": 17, **change}, GOOD, GOOD]
    with pytest.raises(ValueError, match=rf"(?s)annotations\[1\]: .*{message}.*\(id 17\)"):
        read_truth(coco(tmp_path, annotations=rows))


@pytest.mark.parametrize("missing", ["image_id", "category_id"])
def test_missing_fields_are_named(missing, tmp_path):
    rows = [GOOD, {key: value for key, value in GOOD.items() if key != missing} | {"id": 17}]
    with pytest.raises(ValueError, match=rf"annotations\[1\]: no '{missing}' \(id 17\)"):
        read_truth(coco(tmp_path, annotations=rows))


def test_masks_have_the_bounds_that_pycocotools_gives():
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(3)
    for _ in range(60):
        height, width = map(int, rng.integers(1, 40, 2))
        drawn = (rng.random((height, width)) < rng.choice([0.02, 0.3, 0.9])).astype(np.uint8)
        packed = mask.encode(np.asfortranarray(drawn))
        expected = mask.toBbox(packed).tolist()
        found = _mask_bounds({"size": [height, width], "counts": packed["counts"].decode()})
        assert (found or [0, 0, 0, 0]) == expected
        flat = _unpacked(packed["counts"].decode())
        assert (_mask_bounds({"size": [height, width], "counts": flat}) or [0, 0, 0, 0]) == expected


def test_roots_are_no_classes_but_may_be_asked_for(tmp_path, photos):
    names = [("all", "none"), ("things", "all"), ("box", "things"), ("ball", "things"), ("person", "person")]
    categories = [{"id": n, "name": name, "supercategory": above} for n, (name, above) in enumerate(names)]
    rows = [{**GOOD, "category_id": 2}, {**GOOD, "category_id": 3}]
    path = coco(tmp_path, categories=categories, annotations=rows)
    truth = read_truth(path)
    assert (truth.categories, truth.roots) == ({2: "box", 3: "ball", 4: "person"}, {0: "all", 1: "things"})
    assert "no class is made of 'all' (id 0), 'things' (id 1)" in truth.said[0]
    assert open_dataset(path, photos, classes=("things", "box")).labels == ("things", "box")
    results = [{"image_id": 1, "category_id": 2, "bbox": BOX, "score": 0.9}]
    assert coco_score(truth, [*results, {**results[0], "category_id": 1}]).metrics == coco_score(truth, results).metrics


def test_other_sizes_than_annotated_are_found_where_asked(tmp_path, photos):
    source = coco(tmp_path, images={"width": 80, "height": 120})
    assert describe(source, photos, validation=0).parts[0].photos == 2
    with pytest.raises(ValueError, match="0.jpg of 120 x 80 pixels, annotated as 80 x 120"):
        describe(source, photos, validation=0, check=True)
    assert describe(coco(tmp_path), photos, validation=0, check=True).parts[0].photos == 2


def test_names_that_are_numbers(tmp_path, photos):
    truth = read_truth(coco(tmp_path, categories=lambda row: {**row, "name": row["id"] + 6}))
    assert truth.categories == {1: "7", 2: "8"}


def test_corners_are_no_boxes(tmp_path, photos):
    def corner(row):
        x, y, width, height = row["bbox"]
        return {**row, "bbox": [x + 20, y + 10, x + 20 + width, y + 10 + height]}

    with pytest.raises(ValueError, match=r"would lie in it as corners .*such as \[50.0, 30.0, 90.0, 60.0\]. Write"):
        open_dataset(coco(tmp_path, annotations=corner), photos)
    found = open_dataset(coco(tmp_path, annotations={"bbox": [100, 60, 90, 40]}), photos)
    assert found.notes["boxes_clipped"] == 2


def test_two_categories_of_one_name(tmp_path):
    twins = [{"id": n, "name": "box"} for n in (3, 4)]
    with pytest.raises(ValueError, match=r"different names. Received: .*'box' twice, the ids 3, 4"):
        read_truth(coco(tmp_path, categories=twins, annotations=[{**GOOD, "category_id": n} for n in (3, 4)]))
    assert read_truth(coco(tmp_path, categories=twins, annotations=[{**GOOD, "category_id": 4}])).categories == {4: "box"}


def test_results_with_text_ids_are_evaluated_as_those_with_numbers(tmp_path, photos):
    numbers, texts = coco(tmp_path), coco(tmp_path, name="b.json", **TOOLS["text ids"])
    rng = np.random.default_rng(0)
    rows = [
        {"image_id": n % 2 + 1, "category_id": int(rng.integers(1, 3)), "score": float(rng.random()),
         "bbox": [float(side + rng.integers(-6, 7)) for side in BOX]} for n in range(20)
    ]  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps(rows))
    renamed = [{**row, "image_id": f"img-{row['image_id']}", "category_id": f"c{row['category_id']}"} for row in rows]
    (tmp_path / "s.json").write_text(json.dumps(renamed))
    one, other = evaluate(tmp_path / "r.json", numbers)[0], evaluate(tmp_path / "s.json", texts)[0]
    assert one.metrics == other.metrics
    assert 0 < one.metrics["AP50"] <= 1
    assert [each.category_id for each in other.per_category] == ["c1", "c2"]
    assert (one.data.as_json()["boxes"], one.data.as_json()["crowd_regions"]) == (2, 0)
    assert read_results(tmp_path / "s.json")[0]["image_id"] == "img-1"
    with pytest.raises(ValueError, match="each `image_id` .* Received: 1 unknown, 'img-9'"):
        coco_score(read_truth(texts), [{**renamed[0], "image_id": "img-9"}])


def test_crowds_alone(tmp_path, photos):
    path = coco(tmp_path, annotations={"iscrowd": 1})
    (tmp_path / "r.json").write_text(json.dumps([{**GOOD, "score": 0.9}]))
    for call in (lambda **more: open_dataset(path, photos, **more), lambda **more: evaluate(tmp_path / "r.json", path, **more)):
        with pytest.raises(ValueError, match=r"all 2 annotations are iscrowd=1 .*CVAT.*--crowd-as-objects"):
            call()
        call(crowd_as_objects=True)
    assert open_dataset(path, photos, crowd_as_objects=True).classes.tolist() == [0, 1]


@pytest.mark.parametrize("few", [1, 40])
def test_shares_are_no_pixels(few, tmp_path, photos):
    shares = [{**GOOD, "bbox": [0.25, 0.25, 0.5, 1.0]}] * few
    with pytest.raises(ValueError, match=r"in pixels of the photo. Received: .* look like shares, 0 to 1, such as \[0.25"):
        read_truth(coco(tmp_path, annotations=shares))
    assert len(read_truth(coco(tmp_path, annotations=[*shares[:1], GOOD, GOOD])).annotations) == 3


def test_a_missing_photo_is_one_of_max_bad(tmp_path, photos):
    rows = [{"id": n, "file_name": f"{n - 1}.jpg", "width": 120, "height": 80} for n in (1, 2)]
    path = coco(tmp_path, images=[*rows, {"id": 3, "file_name": "lost.jpg", "width": 1, "height": 1}])
    with pytest.raises(OSError, match=r"1 of 3 missing, the first is .*lost.jpg. .*--max-bad"):
        open_dataset(path, photos)
    kept = open_dataset(path, photos, max_bad=1)
    assert (kept.count, kept.bad) == (2, (str(photos / "lost.jpg"),))
    with pytest.raises(OSError, match="1 of 3 missing"):
        open_dataset(path, photos, max_bad=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="3 of 3 missing"):
        open_dataset(path, tmp_path / "empty", max_bad=9)


def test_photos_are_found_by_names_that_no_other_has(tmp_path):
    for name in ("a/0.jpg", "b/0.jpg", "b/1.JPG", "c d/2.png", "Cafe\u0301.jpg", ".hidden/3.jpg", "notes.txt"):
        photo(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("x")
    find = PhotoFolder(tmp_path).find
    relative = {name: os.path.relpath(path, tmp_path) if (path := find(name)) else None for name in (
        "b/0.jpg", "D:\\x\\a\\0.jpg", "1.jpg", "c%20d/2.png", "x/2.jpeg", "caf\u00e9.jpg", "3.jpg", "/etc/passwd", "2", "", "a",
        "x\0y", "//[", "notes.txt",
    )}  # fmt: skip
    assert relative == {
        "b/0.jpg": "b/0.jpg", "D:\\x\\a\\0.jpg": "a/0.jpg", "1.jpg": "b/1.JPG", "c%20d/2.png": "c d/2.png",
        "x/2.jpeg": "c d/2.png", "caf\u00e9.jpg": "Cafe\u0301.jpg", "3.jpg": None, "/etc/passwd": None, "2": "c d/2.png",
        "": None, "a": None, "x\0y": None, "//[": None, "notes.txt": "notes.txt",
    }  # fmt: skip
    with pytest.raises(
        ValueError, match=r"by a name that no other one has. Received: 'x/0.jpg', which may be .*a/0.jpg or .*b/0"
    ):
        find("x/0.jpg")


@pytest.mark.parametrize("name", ["../outside.jpg", "a/../../outside.jpg", "..\\outside.jpg", "{}/outside.jpg"])
def test_photos_outside_of_their_folder_are_never_opened(name, tmp_path, photos):
    outside = photo(tmp_path / "outside.jpg")
    (tmp_path / "photos").mkdir()
    photo(tmp_path / "photos" / "1.jpg")
    rows = [{"id": n, "file_name": text} for n, text in ((1, name.format(tmp_path)), (2, "1.jpg"))]
    path = coco(tmp_path, images=rows)
    with pytest.raises((ValueError, OSError), match=r"which leads out of it|missing"):
        open_dataset(path, tmp_path / "photos")
    left = open_dataset(path, tmp_path / "photos", max_bad=1)
    assert left.count == 1
    assert str(outside) not in left.where(0)


@pytest.mark.parametrize("key", ["path", "orientation", "stem"])
def test_a_file_says_no_more_of_a_photo_than_its_name_and_size(key, tmp_path, photos):
    found = open_dataset(coco(tmp_path, images={key: "/etc/passwd"}), photos)
    assert [os.path.basename(found.where(n)) for n in range(2)] == ["0.jpg", "1.jpg"]


def test_two_images_of_one_photo(tmp_path, photos):
    path = coco(tmp_path, images=lambda row: {**row, "file_name": f"{row['id']}\\0.jpg"})
    with pytest.raises(ValueError, match="a photo of its own. Received: .*images 1 and 2"):
        open_dataset(path, photos)


def test_photos_are_seen_upright(tmp_path):
    """The red rectangle is in its box in batches to evaluate and to train on, annotated upright, with and without a size."""
    turns = list(range(1, 9))
    images = [{"id": turn, "file_name": photo(tmp_path / f"{turn}.jpg", orientation=turn).name} for turn in turns]
    images = [{**row, "width": 120, "height": 80} if row["id"] % 2 else row for row in images]
    path = coco(tmp_path, images=images, annotations=[{**GOOD, "image_id": turn} for turn in turns])
    found = open_dataset(path, tmp_path).checked()
    assert found.orientations.tolist() == turns
    assert found.sizes.tolist() == [[80, 120]] * 8
    (whole,) = evaluation_batches(found, size=(96, 96), batch_size=8).as_numpy_iterator()
    training = training_batches(found, size=(96, 96), batch_size=8, augment=BoxAugment(), seed=1).take(2).as_numpy_iterator()
    for pixels, truth in [whole, *training]:
        for image, boxes, labels in zip(pixels, truth["boxes"], truth["labels"], strict=True):
            rows, columns = np.nonzero(image[:, :, 0] - image[:, :, 1] > 100)
            for box in boxes[labels >= 0]:
                seen = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
                np.testing.assert_allclose(seen, box * 96, atol=3)


@pytest.mark.parametrize("orientation", [6, 8])
def test_boxes_of_a_photo_as_it_is_stored(orientation, tmp_path):
    """Tools that pass EXIF over annotate the stored picture and write its size."""
    photo(tmp_path / "0.jpg", orientation=orientation)
    stored = {"id": 1, "file_name": "0.jpg", "width": 80, "height": 120}
    found = open_dataset(coco(tmp_path, images=[stored], annotations=[{**GOOD, "bbox": [30, 30, 30, 40]}]), tmp_path)
    assert found.checked().orientations.tolist() == [1]
    wrong = open_dataset(coco(tmp_path, images=[{**stored, "width": 81}], annotations=[GOOD]), tmp_path)
    with pytest.raises(
        ValueError, match=rf"of 80 x 120 pixels, annotated as 81 x 120. By its EXIF orientation, {orientation}, .* 120 x 80"
    ):
        wrong.checked()


VOC = (
    "<annotation><folder>x</folder>{name}<size>{size}<depth>3</depth></size><object><name>box</name>{difficult}"
    "<bndbox><ymax>50</ymax><xmin>31.0</xmin><ymin>21</ymin><xmax>70</xmax></bndbox></object></annotation>"
)
NAME, SIZE = "<filename>0.jpg</filename>", "<width>120</width><height>80</height>"


def voc(folder, name=NAME, size=SIZE, difficult="", file="0.xml", head="", encoding="utf-8"):
    (folder / "xml").mkdir(exist_ok=True)
    text = head + VOC.format(name=name, size=size, difficult=difficult)
    (folder / "xml" / file).write_bytes(text.encode(encoding))
    return folder / "xml"


@pytest.mark.parametrize(
    "change",
    [
        {"size": "<width>0</width><height>0</height>"}, {"size": ""}, {"size": "<width>120.0</width><height>80.0</height>"},
        {"size": "<width>Unspecified</width><height/>"}, {"name": "<filename>0</filename>"}, {"name": ""},
        {"name": "<filename/>"},
        {"name": "<filename>0.png</filename>"}, {"name": "<filename>C:\\a b\\0.jpg</filename>"}, {"file": "0.XML"},
        {"name": "<filename>/somewhere/else/0.jpeg</filename>"}, {"name": "<filename>another.jpg</filename>"},
        {"difficult": "<difficult>Unspecified</difficult>"}, {"difficult": "<difficult/>"},
        {"head": '<?xml version="1.0" encoding="gbk"?><!-- \u4e2d\u6587 -->', "encoding": "gbk"},
        {"head": '<?xml version="1.0" encoding="shift_jis"?><!-- \u65e5\u672c -->', "encoding": "shift_jis"},
        {"head": '<?xml version="1.0" encoding="windows-1252"?><!-- \u20ac -->', "encoding": "cp1252"},
        {"head": '<?xml version="1.0" encoding="latin-1"?><!-- \u00e9 -->', "encoding": "latin-1"},
        {"head": '<?xml version="1.0" encoding="utf-16"?>', "encoding": "utf-16"}, {"encoding": "utf-8-sig"},
        {"encoding": "utf-32"},
        {"head": '<?xml version="1.0" encoding="utf-16"?><!-- \u20ac -->'}, {"head": '\n <?xml version="1.0"?>'},
        {"head": '<?xml version="1.0" encoding="us-ascii"?><!-- \u20ac -->'},
        {"name": "<path>D:\\photos\\0.jpg</path>", "file": "other.xml"},
        {"name": "<filename> </filename><path>/home/a/0.png</path>", "file": "other.xml"},
    ],
    ids=str,
)  # fmt: skip
def test_voc_as_it_is_written(change, tmp_path, photos):
    folder = voc(tmp_path, **change)
    (folder / "._0.xml").write_bytes(b"\0\5\26\7Mac OS X")
    found = open_dataset(folder, photos)
    np.testing.assert_allclose(found.boxes, [[0.25, 0.25, 0.625, 70 / 120]], atol=1e-6)
    assert (found.labels, found.classes.tolist(), found.sizes.tolist()) == (("box",), [0], [[80, 120]])
    assert os.path.basename(found.where(0)) == "0.jpg"


@pytest.mark.parametrize("beside", ["{}/0.xml", "{}/labels/0.xml"])
@pytest.mark.parametrize("place", ["{}/0.jpg", "{}/images/0.jpg"])
def test_voc_in_folders_like_those_of_the_photos(beside, place, tmp_path):
    for name, x in (("a", 10), ("b", 40)):
        photo(tmp_path / "photos" / place.format(name), box=[x, 20, 40, 30])
        folder = tmp_path / "labels" / beside.format(name)
        folder.parent.mkdir(parents=True)
        folder.write_bytes((voc(tmp_path) / "0.xml").read_bytes())
    found = open_dataset(tmp_path / "labels", tmp_path / "photos")
    assert [found.where(n) for n in range(2)] == [str(tmp_path / "photos" / place.format(name)) for name in "ab"]


def test_voc_objects_of_several_boxes(tmp_path, photos):
    path = voc(tmp_path) / "0.xml"
    whole = path.read_text()
    box = whole[whole.index("<bndbox>") : whole.index("</bndbox>") + 9]
    path.write_text(whole.replace(box, box + box.replace("xmin>31", "xmin>41")))
    assert [row["bbox"][0] for row in read_truth(path.parent).annotations] == [30, 40]
    path.write_text("<annotation><filename>0.jpg</filename></annotation>")
    with pytest.raises(ValueError, match="must have an <object> for each box"):
        read_truth(path.parent)


def test_voc_files_with_one_name_are_their_own_photos(tmp_path, photos):
    voc(tmp_path)
    found = open_dataset(voc(tmp_path, file="1.xml"), photos)
    assert [os.path.basename(found.where(n)) for n in range(2)] == ["0.jpg", "1.jpg"]


def test_voc_beside_its_photos(tmp_path):
    photo(tmp_path / "xml" / "sub" / "0.jpg")
    (tmp_path / "xml" / "sub" / "0.xml").write_text(VOC.format(name=NAME, size=SIZE, difficult=""))
    assert open_dataset(tmp_path / "xml", tmp_path / "xml").count == 1


def test_vocs_own_layout(tmp_path):
    """Annotations, JPEGImages and the lists of ImageSets/Main; other lists there, and empty ones, are no splits."""
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    voc(tmp_path, name="").rename(tmp_path / "Annotations")
    text = (tmp_path / "Annotations" / "0.xml").read_text()
    for name in ("1", "a.b"):
        (tmp_path / "Annotations" / f"{name}.xml").write_text(text)
    for name in ("0", "1", "a.b"):
        photo(tmp_path / "JPEGImages" / f"{name}.jpg")
    (lists / "box_train.txt").write_text("0  1\n")
    assert splits_of(tmp_path) == ()
    assert open_dataset(tmp_path).count == 3
    (lists / "train.txt").write_bytes(b"1\r\n\r\n0\r\n")
    (lists / "val.txt").write_text("")
    (lists / "test.txt").write_text("a.b\n")
    assert splits_of(tmp_path) == ("train", "test")
    train = open_dataset(tmp_path, split="train")
    assert [os.path.basename(train.where(n)) for n in range(train.count)] == ["1.jpg", "0.jpg"]
    test = open_dataset(tmp_path, split="test")
    assert [os.path.basename(test.where(n)) for n in range(test.count)] == ["a.b.jpg"]
    assert describe(tmp_path).as_json()["splits"]["test"]["photos"] == 1
    assert "photos_that_are_in_several_splits" not in describe(tmp_path).facts
    (lists / "test.txt").write_text("a.b\n0\n")
    assert describe(tmp_path).facts["photos_that_are_in_several_splits"] == 1
    (lists / "test.txt").write_text("\n\n")
    with pytest.raises(
        ValueError, match="must name photos, one a line, without their ending. Received: .*test.txt, which names"
    ):
        open_dataset(tmp_path, split="test")
    (lists / "test.txt").write_text("0\n2\n")
    with pytest.raises(ValueError, match="test.txt, where 1 of 2 have none, the first is .2.. A list has names without"):
        open_dataset(tmp_path, split="test")


def test_vocs_photos_to_train_and_validate_on_in_one_list(tmp_path, capfd):
    """trainval.txt alone is trained on, without the photos of a val.txt; beside a train.txt it says nothing new."""
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    voc(tmp_path).rename(tmp_path / "Annotations")
    text = (tmp_path / "Annotations" / "0.xml").read_text()
    for name in "0123":
        (tmp_path / "Annotations" / f"{name}.xml").write_text(text.replace("0.jpg", f"{name}.jpg"))
        photo(tmp_path / "JPEGImages" / f"{name}.jpg")
    (lists / "trainval.txt").write_text("0\n1\n2\n")
    assert splits_of(tmp_path) == ("train",)
    assert open_dataset(tmp_path).count == 3
    (lists / "test.txt").write_text("3\n")
    assert splits_of(tmp_path) == ("train", "test")
    assert main(["detect", "data", str(tmp_path), "--validation", "0"]) == 0
    out, err = capfd.readouterr()
    assert "photos train 3, test 1" in out
    assert err == f"warning: {tmp_path}: there is no train.txt; the photos of trainval.txt are trained on\n"
    (lists / "val.txt").write_text("2\n")
    assert splits_of(tmp_path) == ("train", "validation", "test")
    assert read_truth(tmp_path, split="train").said == (
        f"{tmp_path}: there is no train.txt; the photos of trainval.txt are trained on, those of val.txt left out",
    )
    counts = {split: part["photos"] for split, part in describe(tmp_path).as_json()["splits"].items()}
    assert counts == {"train": 2, "validation": 1, "test": 1}
    (lists / "val.txt").write_text("0\n1\n2\n")
    with pytest.raises(ValueError, match="trainval.txt, which names none, those of val.txt left out"):
        read_truth(tmp_path, split="train")
    (lists / "train.txt").write_text("0\n")
    truth = read_truth(tmp_path, split="train")
    assert (len(truth.images), truth.said) == (1, ())


def test_splits_that_a_training_does_not_use(tmp_path):
    """Are named, and their photos in the same folder are not said to be passed over; without one to train on it is an error."""
    path = yolo(tmp_path, config="train: train.txt\nval: val.txt\ntest: test.txt\nnames: [box, ball]\n")
    for split, number in (("train", 0), ("val", 1), ("test", 2)):
        (tmp_path / f"{split}.txt").write_text(f"train/images/{number}.jpg\n")
    (tmp_path / "train" / "images" / "0.heic").write_bytes(b"")
    (tmp_path / "train" / "labels" / "2.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    run = DetectorRun(None, DetectionJob(data=str(path), recipe=DETECTION_RECIPES["finetune-detector"], measure_ap=False), None)
    run.open_data()
    summary = run.summarized(*run.planned())
    assert summary.facts["not_used"] == "the data's test split"
    assert summary.passed_over == {".heic": 1}
    assert "not_used" not in describe(path).facts
    path.write_text("val: val.txt\ntest: test.txt\nnames: [box, ball]\n")
    with pytest.raises(ValueError, match="must have one to train on. Received: .*data.yaml with validation, test alone. Put"):
        describe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><image/></annotations>", "0.xml must be a VOC annotation. Received: CVAT's own XML"),
        ("<annotation><filename>a & b.jpg</filename></annotation>", "Write `&` as `&amp;`"),
        ("<svg/>", "Received: the root <svg>"),
        ("<annotation><object/></annotation>", "no <name> of object 1"),
        ("<annotation><object><name>a</name><polygon/></object></annotation>", r"no <bndbox> of object 1 \('a'\)"),
        ("<annotation><filename>\u00e9</filename></annotation>", "names no other encoding: write the one .*windows-1250"),
        ('<?xml version="1.0" encoding="zip"?><annotation/>', "must be XML"),
        ('<?xml version="1.0" encoding="gbk"?><a>\u00e9</a>', "must be XML"),
    ],
)
def test_bad_voc(text, message, tmp_path):
    folder = voc(tmp_path)
    (folder / "0.xml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        read_truth(folder)


CAPTION = {"id": 1, "image_id": 1, "caption": "a box"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"image_id": 1, "category_id": 1, "bbox": BOX, "score": 1}], "a COCO result file"),
        ([{"id": 1, "data": {"image": "x"}, "annotations": []}], "Label Studio's own JSON"),
        ([{"image": "0.jpg", "annotations": []}], "Create ML"),
        ({"shapes": [], "imagePath": "0.jpg", "version": "5"}, "labelme's JSON"),
        ({"0.jpg123": {"filename": "0.jpg", "regions": [], "size": 1}}, "VIA"),
        ({"images": [{"id": 1}], "annotations": [CAPTION]}, "COCO's captions"),
        ({"images": [{"id": 1}], "annotations": [{"segments_info": []}]}, "panoptic"),
        ({"images": [{"id": 1}], "annotations": [{"keypoints": [1, 2, 2]}]}, "keypoints without boxes"),
        ("<?xml version='1.0'?><annotations><image/></annotations>", "CVAT's own XML"),
        ("<annotation/>", "one XML file"),
        ("filename,width,height,class,xmin,ymin,xmax,ymax\n0.jpg,120,80,box,30,20,70,50\n", "a table"),
        ("0 0.5 0.5 0.2 0.2\n", "An annotation file must be JSON"),
        (b"PK\3\4", "an archive"),
        ("<!DOCTYPE html><html>", "a web page"),
        ("version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\xff\xd8\xff\xe0", "a photo. The annotations come first"),
        ({"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": []}, "with no annotations"),
        ({"images": [{"id": 1}], "categories": {"1": "box"}, "annotations": [1]}, "with an object as categories"),
    ],
    ids=lambda each: str(each)[:20],
)  # fmt: skip
def test_other_formats_are_refused_by_name(content, message, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(
        content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    with pytest.raises(ValueError, match=message):
        read_truth(path)


def yolo(folder, layout="roboflow", config=None, rows="1 0.41667 0.4375 0.33333 0.375\n"):
    """A data set of train and valid photos, each with a ball: as Roboflow, as Ultralytics, or as CVAT lays them out."""
    places = {
        "roboflow": ("{split}/images", "{split}/labels"), "ultralytics": ("images/{split}", "labels/{split}"),
        "cvat": ("obj_{split}_data", "obj_{split}_data"), "beside": ("{split}", "{split}"),
    }[layout]  # fmt: skip
    for split, names in (("train", ("0", "1", "2")), ("valid", ("3",))):
        images, labels = (folder / place.format(split=split) for place in places)
        for name in names:
            photo(images / f"{name}.jpg")
            labels.mkdir(parents=True, exist_ok=True)
            if name != "2":
                (labels / f"{name}.txt").write_text(rows)
    paths = {split: f"../{places[0].format(split=split)}" for split in ("train", "valid")}
    text = config or f"train: {paths['train']}\nval: {paths['valid']}\ntest: ../test/images\nnc: 2\nnames: ['box', 'ball']\n"
    (folder / "data.yaml").write_text(text)
    return folder / "data.yaml"


@pytest.mark.parametrize("layout", ["roboflow", "ultralytics", "cvat", "beside"])
def test_yolo_layouts(layout, tmp_path):
    path = yolo(tmp_path, layout)
    if layout == "cvat":
        path.unlink()
        (tmp_path / "obj.names").write_text("box\nball\n")
        (tmp_path / "obj.data").write_text("classes = 2\ntrain = data/train.txt\n")
        path = tmp_path
    assert splits_of(path) == ("train", "validation")
    train = open_dataset(path, split="train")
    assert (train.labels, train.image_ids, train.whole_ids) == (("box", "ball"), (0, 1, 2), (1, 2))
    np.testing.assert_allclose(train.boxes, [[0.25, 0.25, 0.625, 70 / 120]] * 2, atol=1e-4)
    assert train.classes.tolist() == [1, 1]
    assert (train.notes["photos_without_label_file"], train.notes["photos_without_boxes"]) == (1, 1)
    assert open_dataset(path, split="validation").image_ids == (3,)
    with pytest.raises(ValueError, match="`split` must be one of train, validation for .* Received: split='test'"):
        open_dataset(path, split="test")
    summary = describe(path).as_json()
    assert summary["splits"]["train"]["classes"] == {"box": 0, "ball": 2}
    assert summary["splits"]["validation"]["photos"] == 1
    assert summary["share_of_boxes_with_an_anchor"] in (0.0, 1.0)
    assert summary["sizes"]["median"] == [80, 120]


@pytest.mark.parametrize(
    "config",
    [
        "path: /content/somewhere\ntrain: /content/somewhere/train/images\nval: valid/images\nnames: {0: box, 1: ball}\n",
        "path: .\ntrain: [train/images]\nval: valid/images\nnames:\n- box\n- ball\n",
        "path: ..\\data\ntrain: ..\\train\\images\nval: train.txt\nnames: [box, ball]\n",
    ],
)
def test_yolo_paths_of_other_machines(config, tmp_path):
    path = yolo(tmp_path, config=config)
    (tmp_path / "train.txt").write_text("./valid/images/3.jpg\n\nvalid/images/notes.md\n")
    assert open_dataset(path, split="train").count == 3
    assert open_dataset(path, split="validation").image_ids == (3,)


def test_a_folder_of_labels(tmp_path):
    """LabelImg's: a classes.txt among the labels; the photos elsewhere."""
    labels = tmp_path / "labels"
    labels.mkdir()
    for n in range(2):
        photo(tmp_path / "pictures" / f"{n}.png")
        (labels / f"{n}.txt").write_text("0 0.41667 0.4375 0.33333 0.375\n\n")
    (labels / "9.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(ValueError, match="the names of their classes: a data.yaml, or a classes.txt"):
        open_dataset(labels, tmp_path / "pictures")
    (labels / "classes.txt").write_text("box\nball\n")
    found = open_dataset(labels, tmp_path / "pictures")
    assert (found.labels, found.count, found.notes["label_files_without_photo"]) == (("box", "ball"), 2, 1)
    os.rename(tmp_path / "pictures", tmp_path / "images")
    assert open_dataset(labels).count == 2
    assert open_dataset(tmp_path).count == 2


@pytest.mark.parametrize("rows", ["1 0.25 0.25 0.58333 0.25 0.58333 0.625 0.25 0.625\n", "1.0 0.41667 0.4375 0.33333 0.375"])
def test_yolo_polygons_and_decimals(rows, tmp_path):
    found = open_dataset(yolo(tmp_path, rows=rows), split="train")
    np.testing.assert_allclose(found.boxes[0], [0.25, 0.25, 0.625, 70 / 120], atol=1e-4)


def test_yolo_keypoints_and_orientation(tmp_path):
    config = "train: train/images\nval: valid/images\nnames: [box, ball]\nkpt_shape: [1, 3]\n"
    path = yolo(tmp_path, config=config, rows="1 0.41667 0.4375 0.33333 0.375 0.4 0.4 2\n")
    photo(tmp_path / "train" / "images" / "0.jpg", orientation=6)
    found = open_dataset(path, split="train").checked()
    np.testing.assert_allclose(found.boxes, [[0.25, 0.25, 0.625, 70 / 120]] * 2, atol=1e-4)
    assert found.orientations.tolist() == [6, 1, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1 0.5 0.5 0.2 0.2\n2 0.5 0.5 0.2 0.2", "line 2: the class 2, which is none of 0 to 1"),
        ("cat 0.5 0.5 0.2 0.2", "line 1: could not convert"),
        ("1 60 40 20 20", "line 1: 60, which is no share"),
        ("1 0.5 0.5 nan 0.2", "line 1: nan, which is no share"),
        ("1 0.5 0.5 0.2", "line 1: 4 numbers"),
        ("1 0.5 0.5 0.2 0.2 0.9", "6 numbers, which are a prediction"),
        ("-1 0.5 0.5 0.2 0.2", "the class -1"),
    ],
)
def test_bad_yolo_rows(rows, message, tmp_path):
    with pytest.raises(ValueError, match=rf"as shares 0 to 1 of the photo. Received: .*0.txt, .*{message}"):
        read_truth(yolo(tmp_path, rows=rows), split="train")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("train: train/images\nval: valid/images\n", "`names`, the classes.* without names"),
        ("- 1", "which has none of them"),
        ("train: train/images\nnc: 3\nnames: [box, ball]\n", "`nc` .* with nc '3' and 2 names. Correct"),
        ("train: train/images\nnames: {1: box, 2: ball}\n", "number the classes from 0"),
        ("train: train/images\nnames: [box, box]\n", "'box' twice"),
        ("train: train/images\nnames: ['a', {b: c}]\n", "names of one line"),
        ("train: {a: b}\nnames: [box, ball]\n", "`train` of .*data.yaml must have the fields"),
        ("names: &a [box]\nother: *a\n", "plain values. Received: .*an alias"),
        ("names: !!python/object/apply:os.system ['true']\n", "plain values"),
        ("names: " + "[" * 500, "plain values"),
        ("a: b: c", "plain values"),
        ("train: train/images\nnames: [box, null]\n", "names of one line each, without control characters. Received: None"),
        ("x: " + "y" * 300_000, "at most 262,144 bytes"),
        ("train: nowhere/images\nval: valid/images\nnames: [box, ball]\n", "`split` must be one of validation"),
    ],
    ids=lambda each: str(each)[:25],
)  # fmt: skip
def test_bad_yolo_files(config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_truth(yolo(tmp_path, config=config), split="train")


def test_yolo_names_are_the_text_that_is_written(tmp_path):
    config = "path: .\ntrain: train/images\nval: ~\nnc: 5\nnames: [off, 1e3, 007, 2026-11-30, 1_0]\n"
    assert tuple(read_truth(yolo(tmp_path, config=config)).categories.values()) == ("off", "1e3", "007", "2026-11-30", "1_0")


def test_yolo_lists_leave_labels_to_other_lists(tmp_path):
    source = yolo(tmp_path, config="train: train.txt\nval: val.txt\nnames: [box, ball]\n")
    (tmp_path / "train.txt").write_text("./train/images/0.jpg\n")
    (tmp_path / "val.txt").write_text("train/images/1.jpg\n")
    found = {split: read_truth(source, split=split) for split in ("train", "validation")}
    assert [truth.notes["label_files_without_photo"] for truth in found.values()] == [0, 0]
    assert not found["train"].said


def test_yolo_names_of_classes_that_are_not_clear(tmp_path):
    source = yolo(tmp_path, config="train: train/images\nnames: [box, ball]\n")
    (tmp_path / "train" / "labels" / "classes.txt").write_text("box\n\nball\n\n")
    with pytest.raises(ValueError, match="classes.txt, whose line 2 is empty"):
        read_truth(tmp_path / "train" / "labels", tmp_path / "train" / "images")
    source.rename(tmp_path / "mine.yaml")
    (tmp_path / "settings.yml").write_text("epochs: 3\n")
    with pytest.raises(ValueError, match="without one, or with several .yaml: name the one"):
        read_truth(tmp_path, split="train")


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_roboflow_folders_are_splits(kind, tmp_path):
    for split, number in (("train", 0), ("valid", 1)):
        photo(tmp_path / split / f"{number}.jpg")
        if kind == "coco":
            image = {"id": 0, "file_name": f"{number}.jpg", "width": 120, "height": 80}
            coco(tmp_path / split, images=[image], annotations=[{**GOOD, "image_id": 0}], name="_annotations.coco.json")
        else:
            voc_text = VOC.format(name=f"<filename>{number}.jpg</filename>", size=SIZE, difficult="")
            (tmp_path / split / f"{number}.xml").write_text(voc_text)
    (tmp_path / "README.dataset.txt").write_text("x")
    assert splits_of(tmp_path) == ("train", "validation")
    for split, number in (("train", 0), ("validation", 1)):
        found = open_dataset(tmp_path, split=split)
        assert (found.count, os.path.basename(found.where(0))) == (1, f"{number}.jpg")
    assert [part.name for part in describe(tmp_path).parts] == ["train", "validation"]


def test_the_share_of_boxes_with_an_anchor():
    """Asking the nearest anchor of each shape is asking all of them."""
    rng = np.random.default_rng(0)
    low = rng.random((300, 2)) * 0.9
    boxes = np.concatenate([low, low + (1 - low) * rng.random((300, 2)) ** 2], axis=1)
    best = np.asarray(pairwise_iou(boxes.astype(np.float32), corners(anchor_boxes(224)))).max(axis=1)
    clear = abs(best - 0.5) > 1e-4
    np.testing.assert_array_equal(best_iou(boxes, (224, 224), AnchorSettings())[clear] >= 0.5, (best >= 0.5)[clear])


def test_what_was_read(tmp_path, photos):
    rows = [
        GOOD,
        {**GOOD, "image_id": 9},
        {**GOOD, "iscrowd": 1},
        {**GOOD, "bbox": [100, 20, 40, 30]},
        {**GOOD, "bbox": [1, 1, 0, 5]},
    ]
    path = coco(tmp_path, annotations=rows)
    summary = describe(path, photos, validation=0)
    found = summary.as_json()
    ones = ("boxes_clipped", "boxes_dropped", "crowd_regions", "photos_without_boxes", "unknown_image_id")
    expected = {"boxes": 3, **dict.fromkeys(ones, 1)}
    assert {key: found[key] for key in expected} == expected
    assert found["splits"]["train"]["classes"] == {"box": 2, "ball": 0}
    assert found["share_of_boxes_with_an_anchor"] == pytest.approx(1, abs=0.51)
    assert json.loads(json.dumps(found)) == found
    assert any("photos without boxes" in line for line in summary.lines())
    with pytest.raises(ValueError, match="needs photos with objects to validate on. Received: 2 photos .*--validation 0"):
        describe(path, photos)  # as a training does


@pytest.mark.skipif(not CASES.is_dir(), reason="KERAS_MNASNET_CASES is not set")
@pytest.mark.parametrize("number", range(6, 21))
def test_handed_cases(number):
    (folder,) = CASES.glob(f"{number:02}_*")
    path = folder / "ann.json" if (folder / "ann.json").exists() else folder / "xml"
    refused = {11: "all 4 annotations are iscrowd=1", 14: "--max-bad", 15: "look like shares"}
    if number in refused:
        with pytest.raises((ValueError, OSError), match=refused[number]):
            open_dataset(path, folder / "photos").checked()
    options = {11: {"crowd_as_objects": True}, 14: {"max_bad": 1}}.get(number, {})
    if number != 15:
        found = open_dataset(path, folder / "photos", **options)
        found = found.checked(options.get("max_bad", 0))
        box = [0.25, 0.375, 0.5833, 0.75] if number == 16 else [0.25, 0.25, 0.625, 0.5833]
        np.testing.assert_allclose(found.boxes[0], box, atol=1e-3)
        assert found.count == (1 if number >= 16 else 4)


def test_text_ids_stay_as_they_are_in_a_data_set(tmp_path, photos):
    found = open_dataset(coco(tmp_path, **TOOLS["text ids"]), photos)
    assert (found.image_ids, found.category_ids) == (("img-1", "img-2"), ("c1", "c2"))
    assert dataclasses.replace(found).whole_ids == (1, 2)


BACKBONE = (
    "tiny: stem8 r1_k3_s11_e1_i8_o8_noskip r1_k3_s22_e3_i8_o16 r1_k3_s22_e3_i16_o16 r1_k3_s22_e3_i16_o24 r1_k3_s22_e3_i24_o32 "
    "head64"
)


def test_a_data_set_of_yolo_from_training_to_a_drawn_photo(tmp_path, capfd):
    """Its own validation split is measured on, a missing photo is one of --max-bad, and JSON says what was read."""
    path, run = yolo(tmp_path / "data"), tmp_path / "run"
    (tmp_path / "data" / "train" / "images" / "1.jpg").write_bytes(b"no photo")

    def command(*arguments):
        status = main(["detect", *map(str, arguments)])
        out, err = capfd.readouterr()
        assert status == 0, err
        return json.loads(out) if "--json" in arguments else (out, err)

    assert main(["detect", "train", str(path), "--network", BACKBONE, "-o", str(run), "--size", "96"]) == 1
    assert "1.jpg" in capfd.readouterr().err
    small = ("--size", 96, "--epochs", 1, "--batch-size", 2, "--set", "patience=0", "--no-ap", "--max-bad", 1)
    found = command("train", path, "--network", BACKBONE, "-o", run, *small, "--json")
    assert {name: part["photos"] for name, part in found["data"]["splits"].items()} == {"train": 2, "validation": 1}
    assert [os.path.basename(each) for each in found["data"]["left_out"]] == ["1.jpg"]
    assert found["epochs"][0]["val_loss"] > 0
    assert json.loads((run / "run.json").read_text())["facts"]["data"] == found["data"]
    assert command("train", "--resume", run, "--json")["data"] == found["data"]
    report = command("eval", run, "--annotations", path, "--json")
    assert (report["results"][0]["images"], report["data"]["splits"]["validation"]["classes"]) == (1, {"box": 0, "ball": 1})
    _, err = command("eval", run, "--annotations", path, "--split", "train", "--max-bad", 1)
    assert "the train split of" in err
    (seen,) = command("predict", run, photo(tmp_path / "phone.jpg", orientation=6), "-o", tmp_path / "drawn", "--json")
    with Image.open(seen["drawn"]) as image:
        assert image.size == (120, 80)
        assert abs(np.asarray(image)[35, 50].astype(int) - RED).max() < 12 or seen["objects"]
    out, _ = command("data", path, "--max-bad", 1)
    assert "the validation split of" in out
