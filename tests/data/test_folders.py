"""Folders as people have them: splits, endings, names of any bytes, what is passed over; and the summary of what was read."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_mnasnet.cli.main import main
from keras_mnasnet.data import Summary, chosen_photos, open_images, open_splits, read_image, training_batches
from keras_mnasnet.data.folders import SUFFIXES
from keras_mnasnet.data.opening import splits_of
from keras_mnasnet.data.summary import Part, Sizes
from keras_mnasnet.preprocessing import Augment
from keras_mnasnet.utils.text import json_text, printable

CASES = os.environ.get("KERAS_MNASNET_CASES")
SPELLINGS = {".jpe": "JPEG", ".jfif": "JPEG", ".jpg": "JPEG", ".jpeg": "JPEG", ".apng": "PNG", ".dib": "BMP", ".tif": "TIFF"}


def photo(path, size=(12, 10), **settings):
    """A drawn photo in the format of its ending."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = SPELLINGS.get(path.suffix.lower(), path.suffix[1:].upper())
    colors = np.indices(size[::-1]).sum(axis=0).astype(np.uint8) * 9
    file = io.BytesIO()
    Image.fromarray(np.stack([colors, colors // 2, 255 - colors], -1)).save(file, kind, **settings)
    path.write_bytes(file.getvalue())
    return path


def classes(root, names, count=2):
    for name in names:
        for number in range(count):
            photo(Path(root) / name / f"{number}.jpg")
    return Path(root)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "valid", "test"), ("train", "validation", "test")),
        (("Training", "VAL", "Testing"), ("train", "validation", "test")),
        (("train", "dev"), ("train", "validation")),
        (("train", "validation", ".cache", "__MACOSX"), ("train", "validation")),
        (("valid", "invalid"), ()),
        (("test", "control"), ()),
    ],
)
def test_splits_are_known_by_their_common_names(tmp_path, names, expected):
    for name in names:
        classes(tmp_path / name, ["a", "b"], 1)
    assert splits_of(tmp_path) == expected
    if expected:
        found = open_splits(tmp_path, test=True)
        assert found.origins == {part: f"the data's {part} split" for part in expected}
        assert found.train.labels == ("a", "b")
        unused = open_splits(tmp_path).summary().facts.get("not_used")
        assert unused == ("the data's test split" if "test" in expected else None)
    else:
        assert open_images(tmp_path).labels == tuple(sorted(names))


def test_splits_beside_other_folders_are_refused_by_name(tmp_path, caplog):
    for name in ("train", "test", "extra", "more"):
        classes(tmp_path / "both" / name, ["a", "b"], 1)
    for reader in (open_images, open_splits, splits_of):
        with pytest.raises(ValueError, match="train/ holds the folders of splits and no others .*extra, more beside"):
            reader(tmp_path / "both")
    for name in ("train", "val", "valid"):
        classes(tmp_path / "twice" / name, ["a", "b"], 1)
    with pytest.raises(ValueError, match="A split must have one folder. Received: .*twice with val and valid"):
        open_splits(tmp_path / "twice")
    open_images(classes(tmp_path / "named", ["test", "control"]))
    assert "folders named as splits are taken as classes: test" in caplog.text


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"), ("seg_train/seg_train", "seg_test/seg_test"), ("Train/train", "Test/Test"),
        ("images-train", "images-val"), ("My Train data/my train data", "My test data"),
    ],
)  # fmt: skip
def test_splits_between_other_words_and_in_folders_of_their_own(train, test, tmp_path):
    for name in (train, test):
        classes(tmp_path / name, ["a", "b"], 1)
    found = open_splits(tmp_path)
    assert found.train.labels == found.validation.labels == ("a", "b")
    assert found.train.where(0).startswith(str(tmp_path / train))
    assert found.validation.where(0).startswith(str(tmp_path / test))


def test_words_of_splits_in_names_of_classes(tmp_path):
    names = ["dev_board", "test_tube", "train_station", "training_shoes"]
    assert open_images(classes(tmp_path / "classes", names)).labels == tuple(names)
    classes(tmp_path / "more", ["seg_train/a", "seg_test/a", "seg_pred"])
    with pytest.raises(ValueError, match="A folder with seg_train/ holds .*seg_pred beside it. Move seg_pred"):
        open_images(tmp_path / "more", split="train")


def test_a_folder_alone_in_another_is_named(tmp_path):
    for name in ("train", "val"):
        classes(tmp_path / "zip" / "data" / "data" / name, ["a", "b"], 1)
    with pytest.raises(ValueError, match=f"one folder per class: name {tmp_path / 'zip' / 'data' / 'data'}.$"):
        open_splits(tmp_path / "zip")
    classes(tmp_path / "one", ["a"])
    with pytest.raises(ValueError, match="with 1: a. Images lie in one folder per class.$"):
        open_splits(tmp_path / "one")
    classes(tmp_path / "table", ["images"])
    (tmp_path / "table" / "labels.csv").write_text("0.jpg,cat\n")
    with pytest.raises(ValueError, match="Labels in tables are not read: move each photo"):
        open_splits(tmp_path / "table")
    for name in ("test", "valid"):
        classes(tmp_path / "divided" / name, ["a", "b"])
    with pytest.raises(ValueError, match="called train. Received: .*divided into test and validation"):
        open_splits(tmp_path / "divided")


def test_a_test_split_without_classes_is_passed_over(tmp_path, caplog):
    classes(tmp_path / "train", ["a", "b"])
    classes(tmp_path, ["test"], 3)
    assert splits_of(tmp_path) == ("train",)
    found = open_splits(tmp_path, test=True)
    assert (found.train.count, found.validation.count, found.test) == (2, 2, None)
    assert found.summary().passed_over == {".jpg": 3}
    assert caplog.text.count("test: 3 photos without class folders are passed over") == 1


def test_two_splits_of_other_classes_show_the_difference(tmp_path):
    classes(tmp_path / "train", ["a", "b", "c"], 1)
    classes(tmp_path / "val", ["a", "b", "d"], 1)
    with pytest.raises(ValueError, match="same classes. Received: only in training: c; only in validation: d. Add photos"):
        open_splits(tmp_path)
    shutil.rmtree(tmp_path / "val" / "d")
    with pytest.raises(ValueError, match="Received: only in training: c. Add photos"):
        open_splits(tmp_path)


def test_every_ending_that_is_read_is_taken_in_any_case(tmp_path):
    for number, ending in enumerate(SUFFIXES):
        photo(tmp_path / "a" / f"{number}{ending}")
        photo(tmp_path / "b" / f"{number}{ending.upper()}")
    images = open_images(tmp_path).checked()
    assert images.count == 2 * len(SUFFIXES)
    assert images.passed_over == {}
    (tmp_path / "flat").mkdir()
    for path in (tmp_path / "a").iterdir():
        shutil.copy(path, tmp_path / "flat")
    assert chosen_photos(tmp_path / "flat", 99).count == len(SUFFIXES)


@pytest.mark.parametrize("name", ["train.tfrecord", "photos.tar", "photos.zip", "photos"])
def test_a_pipe_is_no_data(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"Received: .*{name}, which is a pipe, a socket or a device"):
        open_images(tmp_path / name)


def test_what_is_passed_over_is_counted_and_images_among_it_warned_of(tmp_path, caplog):
    root = classes(tmp_path / "data", ["cat", "dog"])
    for name in ("cat/1.heic", "cat/2.HEIC", "dog/3.avif", "labels.txt", "cat/Thumbs.db", "dog/README", "cat/.DS_Store"):
        (root / name).write_bytes(b"x")
    os.mkfifo(root / "dog" / "pipe.jpg")
    (root / "dog" / "lost.jpg").symlink_to("nothing.jpg")
    (root / "dog" / "link.jpg").symlink_to("0.jpg")
    (root / "dog" / "back").symlink_to(root / "dog")
    images = open_images(root)
    assert images.count == 5
    expected = {".heic": 2, ".avif": 1, ".txt": 1, ".db": 1, "(no ending)": 1, "(no regular file)": 2}
    assert images.passed_over == expected
    no_files, warning = [record.getMessage() for record in caplog.records]
    assert "2 links that lead nowhere, pipes or devices" in no_files
    assert ": 2 .heic, 1 .avif are passed over" in warning
    assert ".txt" not in warning
    assert open_splits(root).summary().passed_over == expected
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        tar.add(root / "cat", "cat")
        tar.add(root / "dog" / "0.jpg", "dog/0.jpg")
    assert open_images(tmp_path / "data.tar").passed_over == {".heic": 2, ".db": 1}
    (root / "bird").mkdir()
    (root / "bird" / "0.heic").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"with none in bird \(passed over: 3 .heic"):
        open_images(root)
    caplog.clear()
    flat = classes(tmp_path / "flat", [""])
    (flat / "a.heic").write_bytes(b"x")
    assert chosen_photos(flat, 9).passed_over == {".heic": 1}
    assert "1 .heic are passed over" in caplog.text


def test_files_beside_splits_are_passed_over_once(tmp_path, caplog):
    for part in ("train", "valid", "test"):
        classes(tmp_path / part, ["a", "b"])
    (tmp_path / "README.dataset.txt").write_text("x")
    photo(tmp_path / "stray.jpg")
    assert open_splits(tmp_path, test=True).summary().passed_over == {".txt": 1, ".jpg": 1}
    assert "1 images beside the folders of splits are passed over" in caplog.text


def test_names_that_are_not_utf8(tmp_path, capsys):
    root = os.fsencode(classes(tmp_path / "data", ["a", "b"]))
    shutil.copy(root + b"/a/0.jpg", root + b"/a/caf\xe9.jpg")
    with open(root + b"/b/na\xefve.jpg", "wb") as file:
        file.write(b"\0damaged")
    images = open_images(tmp_path / "data")
    assert images.count == 6
    with pytest.raises(ValueError, match=r"(?s)1 that cannot be.*na\udcefve.jpg\nThe first is one which is damaged"):
        images.checked()
    checked = images.checked(1)
    assert checked.count == 5
    next(iter(training_batches(checked, size=8, batch_size=5, augment=Augment(), seed=0, cache=False)))
    assert main(["data", str(tmp_path / "data"), "--check", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["left_out"] == [f"{tmp_path}/data/b/na\udcefve.jpg"]
    assert main(["data", str(tmp_path / "data"), "--check"]) == 1
    assert r"1 damaged photos: " + f"{tmp_path}/data/b/na\\xefve.jpg" in capsys.readouterr().out
    assert main(["data", str(tmp_path / "none"), "--json"]) == 1
    os.rename(root + b"/b", root + b"/b\xe9")
    with pytest.raises(ValueError, match=r"Class folders must have names in UTF-8. Received: b\\xe9 in .*data. Rename it"):
        open_images(tmp_path / "data")


def test_texts_of_any_bytes_can_be_printed_and_written():
    odd = os.fsdecode(b"caf\xe9")
    assert (printable(odd), printable("café"), printable("\ud800")) == ("caf\\xe9", "café", "\\ud800")
    assert json.loads(json_text({odd: "é"})) == {odd: "é"}
    assert "é" in json_text(["é"])


def test_the_same_letters_are_one_class(tmp_path):
    for part, form in (("train", "NFC"), ("val", "NFD")):
        classes(tmp_path / part, [unicodedata.normalize(form, name) for name in ("café", "thé")])
    found = open_splits(tmp_path)
    assert found.train.labels == found.validation.labels == ("café", "thé")
    classes(tmp_path / "train", [unicodedata.normalize("NFD", "café")], 3)
    found = open_splits(tmp_path)
    assert found.train.counts().tolist() == [5, 2]


def test_a_summary_says_what_was_read(tmp_path, capsys):
    for part, count in (("train", 3), ("valid", 2)):
        classes(tmp_path / part, ["cat", "dog"], count)
    photo(tmp_path / "train" / "cat" / "large.png", (30, 20))
    (tmp_path / "train" / "dog" / "notes.txt").write_text("x")
    found = open_splits(tmp_path, check=lambda images: images.checked()).summary()
    value = json.loads(json.dumps(found.as_json()))
    assert value["splits"]["train"] == {"origin": "the data's train split", "photos": 7, "classes": {"cat": 4, "dog": 3}}
    assert value["splits"]["validation"]["classes"] == {"cat": 2, "dog": 2}
    assert value["classes"] == ["cat", "dog"]
    assert value["passed_over"] == {".txt": 1}
    assert value["sizes"] == {"smallest": [10, 12], "median": [10, 12], "largest": [20, 30]}
    first, *lines = found.lines()
    assert first.split("  ")[0] == "data"
    assert first.endswith("photos train 7, validation 4; 2 classes: cat, dog")
    assert "classes      train/validation photos: cat 4/2, dog 3/2" in lines
    assert "sizes        12 x 10 to 30 x 20 pixels (width x height), half of them above 12 x 10" in lines
    assert "passed over  1 .txt" in lines
    assert main(["data", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == first
    boxes = Summary(
        source="ann.json", parts=(Part("train", "ann.json", 4, {"box": 9}),), classes=("box",), counted="boxes",
        sizes=Sizes.of(np.array([[5, 6]])), facts={"crowd": 2, "matched": "97 %"},
    )  # fmt: skip
    expected = {"classes  train boxes: box 9", "sizes    6 x 5 pixels (width x height)", "crowd    2", "matched  97 %"}
    assert expected <= set(boxes.lines())
    assert boxes.as_json()["crowd"] == 2


@pytest.mark.parametrize("crop", ["inception", "pad"])
def test_training_turns_photos_upright_where_asked(tmp_path, crop):
    exif = Image.Exif()
    exif[274] = 6
    for name in ("a", "b"):
        photo(tmp_path / name / "0.png", (16, 16), exif=exif)
    augment = Augment(crop=crop, pad=0, flip=False, area=(1.0, 1.0), aspect=(1.0, 1.0), upright=True)
    found = next(iter(training_batches(open_images(tmp_path), size=16, batch_size=2, augment=augment, seed=0)))[0][0]
    np.testing.assert_array_equal(found, read_image(tmp_path / "a" / "0.png", upright=True))
    assert np.abs(found.numpy() - read_image(tmp_path / "a" / "0.png").numpy()).max() > 20


@pytest.mark.skipif(not CASES, reason="KERAS_MNASNET_CASES is not set")
@pytest.mark.parametrize(
    ("name", "count", "labels"),
    [
        ("01_valid_folder", [6, 6, 6], ("cat", "dog")),
        ("02_webp_in_class_folder", [10, 2], ("cat", "dog")),
        ("03_not_utf8_file_name", [3, 2], ("a", "b")),
        ("04_same_class_in_NFC_and_NFD", [6, 6], ("café", "thé")),
    ],
)
def test_cases(tmp_path, name, count, labels):
    root = shutil.copytree(Path(CASES) / name, tmp_path / name)
    if (root / "make.py").exists():
        subprocess.run([sys.executable, "make.py"], cwd=root, check=True)
    found = open_splits(root, test=True, check=lambda images: images.checked()).summary()
    assert [part.photos for part in found.parts] == count
    assert found.classes == labels


@pytest.mark.skipif(not CASES, reason="KERAS_MNASNET_CASES is not set")
def test_cases_of_the_decoder():
    root = Path(CASES)
    np.testing.assert_array_equal(
        read_image(root / "05_palette_bmp" / "palette.bmp"), read_image(root / "05_palette_bmp" / "same_picture.png")
    )
    turned = root / "16_exif_6_annotated_upright" / "photos" / "p.jpg"
    assert (read_image(turned).shape, read_image(turned, upright=True).shape) == ((80, 120, 3), (120, 80, 3))
