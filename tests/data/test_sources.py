"""Every way to name data: the right images, labels and messages."""

import io
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from keras_mnasnet.data import ImageSet, draw_shapes, evaluation_batches, missing, open_images, train_validation
from keras_mnasnet.data.folders import imagenet_wnids
from keras_mnasnet.data.opening import open_splits, splits_of
from keras_mnasnet.preprocessing import Preprocessing

PLAIN = Preprocessing(32, "bicubic", resize=32)
WNIDS = imagenet_wnids()


def photo(path: Path, seed: int = 0, size: int = 40) -> bytes:
    """A small JPEG at `path`."""
    data = tf.io.encode_jpeg(draw_shapes(seed + 1, size=size, seed=9)[0][seed]).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def folder(root: Path, classes: dict[str, int]) -> Path:
    """`root/<class>/<i>.jpg`."""
    for number, (name, count) in enumerate(classes.items()):
        for index in range(count):
            photo(root / name / f"{index}.jpg", seed=number * 3 + index)
    return root


def records(path: Path, images: list[bytes], labels: list[int], keys=("image/encoded", "image/class/label")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, label in zip(images, labels, strict=True):
            features = {
                keys[0]: tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                keys[1]: tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return path


def contents(images: ImageSet) -> list[tuple[bytes, int]]:
    return [(item["image"], int(item["label"])) for item in images.examples().as_numpy_iterator()]


# Class folders


def test_class_folders(tmp_path):
    root = folder(tmp_path / "pets", {"dog": 2, "cat": 3})
    photo(root / "cat" / "more" / "deep.PNG")
    (root / "cat" / ".hidden.jpg").write_bytes(b"")
    (root / ".cache").mkdir()
    (root / "README.txt").write_text("not an image")
    images = open_images(root)
    assert images.labels == ("cat", "dog")
    assert images.count == 6
    assert [Path(images.where(index)).name for index in range(6)] == ["0.jpg", "1.jpg", "2.jpg", "deep.PNG", "0.jpg", "1.jpg"]
    np.testing.assert_array_equal(images.label_ids, [0, 0, 0, 0, 1, 1])
    for index, (data, label) in enumerate(contents(images)):
        assert data == Path(images.where(index)).read_bytes()
        assert label == images.label_ids[index]


def test_folders_named_by_wnids_are_imagenet_classes(tmp_path):
    root = folder(tmp_path / "some", {WNIDS[7]: 1, WNIDS[990]: 2})
    images = open_images(root)
    assert images.labels == WNIDS
    np.testing.assert_array_equal(images.label_ids, [7, 990, 990])
    assert open_images(root, classes="folder").labels == (WNIDS[7], WNIDS[990])
    photo(root / "unicorn" / "0.jpg")
    assert open_images(root).labels == (WNIDS[7], WNIDS[990], "unicorn")
    with pytest.raises(ValueError, match="1000 wnids for classes='imagenet'. Received: .*unicorn"):
        open_images(root, classes="imagenet")
    with pytest.raises(ValueError, match="`classes` must be one of .*classes='all'"):
        open_images(root, classes="all")


def test_splits_of_folders(tmp_path):
    folder(tmp_path / "train", {"a": 2, "b": 2})
    folder(tmp_path / "val", {"a": 1, "b": 1})
    assert open_images(tmp_path, split="train").count == 4
    assert open_images(tmp_path, split="validation").count == open_images(tmp_path, split="val").count == 2
    with pytest.raises(ValueError, match="One split of the data must be chosen.*divided into train and validation"):
        open_images(tmp_path)
    with pytest.raises(ValueError, match="split='test'"):
        open_images(tmp_path, split="test")
    with pytest.raises(ValueError, match="`split` needs sub-folders.*split='train'.*which has none"):
        open_images(tmp_path / "train", split="train")


def test_splits_are_known_before_opening(tmp_path):
    folder(tmp_path / "parts" / "val", {"a": 1, "b": 1})
    folder(tmp_path / "parts" / "train", {"a": 1, "b": 1})
    assert splits_of(tmp_path / "parts") == ("train", "validation")
    assert splits_of(tmp_path / "parts" / "train") == splits_of(tmp_path / "none") == ()
    records(tmp_path / "tf" / "test.tfrecord", [], [])
    assert splits_of(tmp_path / "tf") == ("test",)
    assert splits_of("shapes:20@32") == ("train", "validation", "test")


def where(images):
    return {images.where(index) for index in range(images.count)}


def parts(splits):
    return [None if part is None else where(part) for part in (splits.train, splits.validation, splits.test)]


def test_one_decision_which_images_train_validate_and_test(tmp_path):
    undivided = folder(tmp_path / "photos", {"a": 30, "b": 20})
    found = open_splits(undivided, seed=3)
    train, validation, test = parts(found)
    assert (len(train), len(validation), test) == (45, 5, None)
    assert not train & validation
    assert found.origins == {"train": "the data", "validation": "10% of every class of the training images"}
    held = open_splits(undivided, holdout=0.1, test=True, seed=3)
    assert sum(map(len, parts(held))) == 50
    assert held.origins["test"] == "10% of every class, never trained on"
    again = open_splits(undivided, holdout=0.1, seed=4, validation=10)
    assert parts(again)[2] == parts(held)[2] != parts(open_splits(undivided, holdout=0.2))[2], "the seed does not move it"
    assert again.validation.count == 10
    for name, classes in (("train", 6), ("test", 3), ("val", 2)):
        folder(tmp_path / "three" / name, {"a": classes, "b": classes})
    found = open_splits(tmp_path / "three", test=True)
    assert [len(part) for part in parts(found)] == [12, 4, 6]
    assert found.origins == {part: f"the data's {part} split" for part in ("train", "validation", "test")}
    assert open_splits(tmp_path / "three").test is None
    own = open_splits(tmp_path / "three", validation=0.5, test=True)
    assert ([len(part) for part in parts(own)], own.origins["test"]) == ([6, 6, 6], "the data's test split")
    other = open_splits(undivided, validation=tmp_path / "three", check=lambda images: images.subset([0, 1]))
    assert (other.train.count, other.validation.count) == (2, 2)
    assert other.origins["validation"] == f"the validation split of {tmp_path / 'three'}"
    folder(tmp_path / "others", {"a": 3, "c": 3})
    with pytest.raises(ValueError, match=r"same classes. Received: only in training: b; only in validation: c\. Add"):
        open_splits(undivided, validation=tmp_path / "others")
    with pytest.raises(ValueError, match="or fewer images than the 50 of .*photos. Received: validation=50"):
        open_splits(undivided, validation=50)


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match="Data must be a folder with.*data='.*none', which does not exist"):
        open_images(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty, which is empty"):
        open_images(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="neither class folders nor images nor TFRecords"):
        open_images(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"Received: the file .*notes.txt, which is none of them"):
        open_images(tmp_path / "empty" / "notes.txt")
    one = folder(tmp_path / "one", {"a": 2})
    with pytest.raises(ValueError, match="at least 2 classes. Received: .*one with 1: a"):
        open_images(one)
    assert open_images(one, min_classes=1).labels == ("a",)
    (one / "b").mkdir()
    with pytest.raises(ValueError, match="Every class folder must have images.*with none in b. Remove"):
        open_images(one)
    photo(one / "stray.jpg")
    (one / "b").rmdir()
    with pytest.raises(ValueError, match=r"one folder per class.*1 images outside of class folders, such as stray.jpg"):
        open_images(one)


# ILSVRC-2012 validation


@pytest.fixture
def photos(tmp_path):
    names = [f"ILSVRC2012_val_0000000{number}" for number in (1, 2, 3)]
    for seed, name in enumerate(names):
        photo(tmp_path / "val" / f"{name}.JPEG", seed=seed)
    with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar", "w") as tar:
        for name in reversed(names):
            tar.add(tmp_path / "val" / f"{name}.JPEG", f"{name}.JPEG")
    return tmp_path, names


GROUND_TRUTHS = {
    "caffe": lambda names: [f"{name}.JPEG {label}" for name, label in zip(names, (65, 0, 999), strict=True)][::-1],
    "name-wnid": lambda names: [f"{name} {WNIDS[label]}" for name, label in zip(names, (65, 0, 999), strict=True)],
    "wnid": lambda names: [WNIDS[label] for label in (65, 0, 999)],
    "kaggle": lambda names: [
        "ImageId,PredictionString",
        *(f"{name},{WNIDS[label]} 1 2 30 40 {WNIDS[label]} 5 6 7 8 " for name, label in zip(names, (65, 0, 999), strict=True)),
    ],
    "devkit": lambda names: ["936", "1000", "1"],
}


@pytest.mark.parametrize("kind", GROUND_TRUTHS)
def test_ilsvrc_validation_ground_truths(photos, kind):
    root, names = photos
    truth, synsets = root / "truth.txt", root / "synsets.txt"
    truth.write_text("\n".join(GROUND_TRUTHS[kind](names)) + "\n")
    synsets.write_text("".join(f"{number + 1} {wnid} some words\n" for number, wnid in enumerate(reversed(WNIDS))))
    expected = [1000 - 936, 0, 999] if kind == "devkit" else [65, 0, 999]
    for data in (root / "val", root / "ILSVRC2012_img_val.tar"):
        images = open_images(data, ground_truth=truth, synsets=synsets if kind == "devkit" else None)
        assert images.labels == WNIDS
        np.testing.assert_array_equal(images.label_ids, expected)
        assert [data for data, _ in contents(images)] == [(root / "val" / f"{name}.JPEG").read_bytes() for name in names]
        assert images.where(1).endswith(f"{names[1]}.JPEG")


def test_ilsvrc_validation_errors(photos):
    root, names = photos
    truth, data = root / "truth.txt", root / "val"

    def refused(text, match, **options):
        truth.write_text(text)
        with pytest.raises(ValueError, match=match):
            open_images(data, ground_truth=truth, **options)

    refused("1\n2\n3\n", r"devkit's own order \(ILSVRC2012_ID 1..1000\), which is not the order of the wnids.*Pass synsets=")
    refused("1\n2\n", r"one line per image. Received: 2 lines in .*truth.txt for 3 images")
    refused("n01440764\nn01440764\nn99999999\n", "must be ImageNet wnids.*'n99999999'")
    refused("a 1\nb 2\nc 3\n", "must name every image.*ILSVRC2012_val_00000001")
    refused("".join(f"{name} 1000\n" for name in names), r"must be 0..999. Received: 1000..1000")
    refused("n01440764 1 2\na b\nc\n", r"`label` or `name label`.*\[1, 2, 3\] words")
    (root / "few.txt").write_text("n01440764\n")
    refused("1\n2\n3\n", "must list ImageNet's 1000 wnids.*with 1 of them", synsets=root / "few.txt")
    refused("1\n2\n3\n", "`synsets` must be a file", synsets=root / "no.txt")
    with pytest.raises(ValueError, match="`ground_truth` must be a file"):
        open_images(data, ground_truth=root / "no.txt")
    with pytest.raises(ValueError, match="pass ground_truth= .* for the ILSVRC-2012"):
        open_images(data)
    with pytest.raises(ValueError, match="`split` needs sub-folders"):
        open_images(root / "ILSVRC2012_img_val.tar", split="train")
    (root / "bad.tar").write_bytes(b"\x1f\x8b" * 600)
    with pytest.raises(ValueError, match=r"whole and uncompressed. Received: .*bad.tar"):
        open_images(root / "bad.tar")


# TFRecords


def test_tfrecords_with_labels_beside(tmp_path):
    images = [photo(tmp_path / "x.jpg", seed) for seed in range(5)]
    records(tmp_path / "d" / "train.tfrecord", images[:3], [0, 2, 1])
    records(tmp_path / "d" / "test.tfrecord", images[3:], [1, 0])
    (tmp_path / "d" / "labels.txt").write_text("a\nb\nc\n")
    for eager_bytes in (1 << 30, 0):
        train = open_images(tmp_path / "d", split="train", eager_bytes=eager_bytes)
        assert ("label_ids" in vars(train.source)) == bool(eager_bytes)
        assert train.labels == ("a", "b", "c")
        assert contents(train) == [(images[0], 0), (images[1], 2), (images[2], 1)]
        np.testing.assert_array_equal(train.label_ids, [0, 2, 1])
        assert contents(train) == [(images[0], 0), (images[1], 2), (images[2], 1)]
        assert train.where(2) == f"{tmp_path / 'd' / 'train.tfrecord'}#2"
    assert contents(open_images(tmp_path / "d" / "test.tfrecord")) == [(images[3], 1), (images[4], 0)]
    assert open_images(str(tmp_path / "d" / "t*.tfrecord"), split="test").count == 2
    with pytest.raises(ValueError, match="One split of the data must be chosen.*divided into test and train"):
        open_images(tmp_path / "d")
    with pytest.raises(ValueError, match="matches none"):
        open_images(str(tmp_path / "d" / "v*.tfrecord"))
    with pytest.raises(ValueError, match=r"matches .*labels.txt"):
        open_images(str(tmp_path / "d" / "*"))


def test_imagenet_shards_count_from_one(tmp_path):
    images = [photo(tmp_path / "x.jpg", seed) for seed in range(4)]
    for shard in range(2):
        path = tmp_path / "tpu" / f"validation-{shard:05d}-of-00002"
        records(path, images[shard * 2 : shard * 2 + 2], [1 + shard, 1000 - shard])
    found = open_images(tmp_path / "tpu", split="validation")
    assert found.labels == WNIDS
    np.testing.assert_array_equal(found.label_ids, [0, 999, 1, 998])
    assert found.where(3).endswith("validation-00001-of-00002#1")
    assert contents(found.subset([3, 0])) == [(images[3], 998), (images[0], 0)]
    with pytest.raises(
        ValueError, match=r"within 0..999 .*label_base=0\). Received: label=1000 in .*-00000-of-00002#1 \(1 such"
    ):
        open_images(tmp_path / "tpu", label_base=0)
    late = open_images(tmp_path / "tpu", label_base=0, eager_bytes=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Labels must be within 0..999"):
        contents(late)
    with pytest.raises(ValueError, match="Received: label=1000"):
        late.checked(max_bad=9)
    with pytest.raises(ValueError, match="Received: label=1000"):
        evaluation_batches(open_images(tmp_path / "tpu", label_base=0, eager_bytes=0), PLAIN, batch_size=2)
    (tmp_path / "tpu" / "validation-00001-of-00002").unlink()
    with pytest.raises(
        ValueError, match="must have all its shards. Received: .*with 1 of 2; missing: validation-00001-of-00002"
    ):
        open_images(tmp_path / "tpu")
    assert open_images(str(tmp_path / "tpu" / "validation-*")).count == 2


def test_bad_tfrecords(tmp_path):
    image = photo(tmp_path / "x.jpg")
    path = records(tmp_path / "a.tfrecord", [image, image], [0, 1])
    with pytest.raises(ValueError, match=r"need class names: a labels.txt beside them, or labels=.*a.tfrecord without"):
        open_images(path)
    assert open_images(path, labels=("x", "y")).labels == ("x", "y")
    with pytest.raises(ValueError, match="`split` needs file names with.*split='train'"):
        open_images(path, labels=("x", "y"), split="train")
    data = path.read_bytes()
    path.write_bytes(data[:-7])
    with pytest.raises(ValueError, match=r"uncompressed and whole. Received: .*a.tfrecord .*record 1 at byte"):
        open_images(path, labels=("x", "y"))
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"must have records. Received: .*a.tfrecord, which is empty"):
        open_images(path, labels=("x", "y"))
    records(path, [image], [0], keys=("jpeg", "class"))
    with pytest.raises(ValueError, match="must have the features 'image/encoded' and 'image/class/label'.*with class, jpeg"):
        open_images(path, labels=("x", "y"))
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"\xff not an example")
    with pytest.raises(ValueError, match=r"serialized tf.train.Example messages. Received: .*#0"):
        open_images(path, labels=("x", "y"))


def test_folder_tar_and_tfrecords_read_alike(data, tmp_path):
    photos = sorted((data / "imagenet_250").glob("*/*.JPEG"))[::50]
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for path in photos:
            info = tarfile.TarInfo(f"./{path.parent.name}/{path.name}")
            info.size = path.stat().st_size
            tar.addfile(info, io.BytesIO(path.read_bytes()))
            copy = tmp_path / "photos" / path.parent.name / path.name
            copy.parent.mkdir(parents=True)
            copy.write_bytes(path.read_bytes())
    labels = [WNIDS.index(path.parent.name) for path in photos]
    records(tmp_path / "tpu" / "train-00000-of-00001", [path.read_bytes() for path in photos], [label + 1 for label in labels])
    sets = [open_images(tmp_path / name) for name in ("photos", "photos.tar", "tpu")]
    preprocessing = Preprocessing(96, "bicubic", resize=110)
    results = [list(evaluation_batches(images, preprocessing, batch_size=4).as_numpy_iterator()) for images in sets]
    for images, result in zip(sets, results, strict=True):
        assert images.labels == WNIDS
        assert images.label_ids.tolist() == labels
        assert [len(batch[0]) for batch in result] == [4, 1]
        for batch, expected in zip(result, results[0], strict=True):
            for ours, theirs in zip(batch, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_packs(data):
    photos = open_images(data / "imagenet_250")
    assert (photos.count, len(photos.labels)) == (250, 1000)
    np.testing.assert_array_equal(np.diff(photos.label_ids) > 0, True)
    cifar = open_images(data / "cifar10", split="test")
    assert (cifar.count, cifar.labels[0], cifar.labels[-1]) == (10000, "airplane", "truck")
    np.testing.assert_array_equal(np.bincount(cifar.label_ids), [1000] * 10)


# TensorFlow Datasets and generated images


def test_tfds(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow_datasets", None)
        with pytest.raises(ImportError, match="tfds:flowers needs TensorFlow Datasets: pip install tensorflow-datasets"):
            open_images("tfds:flowers")
    image = photo(tmp_path / "x.jpg")
    path = records(tmp_path / "flowers-train.tfrecord-00000-of-00001", [image, image], [1, 0], keys=("image", "label"))
    info = SimpleNamespace(
        splits={"train": SimpleNamespace(filepaths=[path])},
        features={"image": None, "label": SimpleNamespace(names=["rose", "tulip"])},
    )
    asked = []

    def builder(name):
        return SimpleNamespace(info=info, download_and_prepare=lambda: asked.append(name))

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", SimpleNamespace(builder=builder))
    found = open_images("tfds:flowers/train")
    assert asked == ["flowers"]
    assert found.labels == ("rose", "tulip")
    assert contents(found) == contents(open_images("tfds:flowers", split="train")) == [(image, 1), (image, 0)]
    with pytest.raises(ValueError, match="`split` must be one of train for tfds:flowers/test. Received: split='test'"):
        open_images("tfds:flowers/test")
    with pytest.raises(ValueError, match="given once"):
        open_images("tfds:flowers/train", split="train")
    del info.features["label"]
    with pytest.raises(ValueError, match="with the features image and label.* and image$"):
        open_images("tfds:flowers/train")


def test_shapes():
    images = open_images("shapes:30@32")
    pixels, labels = draw_shapes(30, size=32)
    np.testing.assert_array_equal([image for image, _ in contents(images)], pixels)
    np.testing.assert_array_equal(images.label_ids, labels)
    assert images.where(3) == "shapes:30@32#3"
    other = open_images("shapes:30@32", split="validation")
    assert (other.source.images != pixels).any(axis=(1, 2, 3)).all()
    with pytest.raises(ValueError, match="`split` must be one of test, train, validation for shapes:30@32"):
        open_images("shapes:30@32", split="nope")
    with pytest.raises(ValueError, match="fit in 1 GiB.*write_folder"):
        open_images("shapes:9999999@64")
    with pytest.raises(ValueError, match="which does not exist"):
        open_images("shapes:many")


# Order, splits and damage


def test_examples_are_epochs_of_whole_batches():
    images = open_images("shapes:23@16")
    batch, length = 4, 20
    indices = [int(item["index"]) for item in images.examples(seed=1, stop=3 * length, batch=batch)]
    epochs = [indices[start : start + length] for start in range(0, 3 * length, length)]
    assert all(len(set(epoch)) == length and set(epoch) < set(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    later = [int(item["index"]) for item in images.examples(seed=1, first=28, stop=47, batch=batch)]
    assert later == indices[28:47]
    assert indices[:20] != [int(item["index"]) for item in images.examples(seed=2, stop=20, batch=batch)]
    halves = [list(images.examples(seed=1, stop=24, batch=batch, shard=(part, 2)).as_numpy_iterator()) for part in range(2)]
    assert [item["position"] % 4 // 2 for item in halves[0]] == [0] * 12
    merged = sorted((int(item["position"]), int(item["index"])) for half in halves for item in half)
    assert merged == list(enumerate(indices[:24]))
    assert [int(item["index"]) for item in images.examples(batch=4, shard=(1, 2))] == [2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22]
    with pytest.raises(ValueError, match="`first` must be a multiple of batch=4"):
        images.examples(first=3, batch=4)
    with pytest.raises(ValueError, match=r"n must divide the batch size. Received: shard=\(0, 3\), batch=4"):
        images.examples(batch=4, shard=(0, 3))
    with pytest.raises(ValueError, match=r"number of images \(23 in shapes:23@16\). Received: batch_size=24"):
        images.steps_per_epoch(24)


def test_train_validation():
    images = open_images("shapes:400@16")
    train, validation = train_validation(images, 0.25, seed=0)
    assert set(train.picked) | set(validation.picked) == set(range(400))
    assert train.count + validation.count == 400
    shares = np.bincount(validation.label_ids, minlength=10) / np.bincount(images.label_ids, minlength=10)
    np.testing.assert_allclose(shares, 0.25, atol=0.02)
    again = train_validation(images, 0.25, seed=0)[1]
    np.testing.assert_array_equal(validation.picked, again.picked)
    assert set(validation.picked) != set(train_validation(images, 0.25, seed=1)[1].picked)
    assert [label for _, label in contents(validation)] == validation.label_ids.tolist()
    with pytest.raises(ValueError, match="`fraction` must be between 0 and 1.*fraction=1"):
        train_validation(images, 1, seed=0)


def test_damaged_images_are_found_by_path(tmp_path, caplog):
    root = folder(tmp_path / "d", {"a": 3, "b": 3})
    data = (root / "a" / "1.jpg").read_bytes()
    bad = [root / "a" / "1.jpg", root / "a" / "text.jpg", root / "b" / "empty.png"]
    bad[0].write_bytes(data[: len(data) // 2])
    bad[1].write_text("hello")
    bad[2].write_bytes(b"")
    images = open_images(root)
    with pytest.raises(
        ValueError, match=r"At most max_bad=2 of the 8 images.*Received: 3 .*\n.*1.jpg\n.*text.jpg\n.*empty.png\n"
    ):
        images.checked(max_bad=2)
    clean = images.checked(max_bad=3, progress=True)
    assert clean.bad == tuple(map(str, bad))
    assert clean.labels == ("a", "b")
    np.testing.assert_array_equal(clean.label_ids, [0, 0, 1, 1, 1])
    assert clean.checked() is clean
    for part in ((0, 1), (0, 2), (1, 2)):
        seen = [index for _, _, batch in evaluation_batches(images, PLAIN, batch_size=4, shard=part) for index in batch.numpy()]
        assert set(seen) < {0, 2, 4, 5, 6} or part == (0, 1)
    seen = [index for _, _, batch in evaluation_batches(images, PLAIN, batch_size=4) for index in batch.numpy()]
    assert seen == [0, 2, 4, 5, 6]
    assert missing(images, seen) == list(map(str, bad))
