"""Batches: exact, resumable, the same in shards, and as varied as asked."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from keras_mnasnet.data import (
    draw_shapes,
    evaluation_batches,
    load_image,
    open_images,
    train_validation,
    training_batches,
    write_folder,
)
from keras_mnasnet.data.augment import RANDAUGMENT
from keras_mnasnet.data.pipeline import decoded
from keras_mnasnet.preprocessing import Augment, Preprocessing

STILL = Augment(crop="none", flip=False)
AUGMENTS = {
    "inception": Augment(),
    "inception-bicubic": Augment(interpolation="bicubic", area=(0.3, 1), flip=False),
    "pad": Augment(crop="pad", pad=3),
    "none": STILL,
    "randaugment": Augment(crop="pad", randaugment_ops=1, randaugment_factor=0.5),
    "erasing": Augment(crop="none", erasing=0.5),
    "mixup": Augment(crop="pad", mixup=0.3),
    "cutmix": Augment(crop="pad", cutmix=1.0),
    "both": Augment(erasing=0.3, mixup=0.2, cutmix=0.5),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """40 images as files, which are decoded one by one."""
    root = tmp_path_factory.mktemp("shapes")
    write_folder(root / "s", 40, size=40, format="jpeg")
    return open_images(root / "s")


def batches(images, count, **options):
    options = {"size": 32, "batch_size": 8, "augment": STILL, "seed": 3} | options
    return list(itertools.islice(training_batches(images, **options).as_numpy_iterator(), count))


def assert_same(ours, theirs):
    for our, their in zip(ours, theirs, strict=True):
        for a, b in zip(our, their, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", AUGMENTS)
def test_a_step_is_the_same_from_wherever_it_starts(files, name):
    options = {"augment": AUGMENTS[name], "cache": name in ("pad", "mixup", "cutmix")}
    whole = batches(files, 7, **options)
    for pixels, targets in whole:
        assert pixels.shape == (8, 32, 32, 3)
        assert targets.shape == (8, 10)
        assert pixels.dtype == targets.dtype == np.float32
        assert 0 <= pixels.min() < 60
        assert 150 < pixels.max() < 255.01
        np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-5)
    assert_same(batches(files, 2, first_step=5, **options), whole[5:])
    assert not np.array_equal(whole[0][0], whole[5][0])
    assert not np.array_equal(whole[0][0], batches(files, 1, seed=4, **options)[0][0])


@pytest.mark.parametrize("name", ["inception", "pad", "randaugment", "erasing"])
def test_shards_joined_are_the_batch(files, name):
    options = {"augment": AUGMENTS[name], "first_step": 3}
    parts = [batches(files, 3, shard=(part, 2), **options) for part in range(2)]
    joined = [[np.concatenate(pair) for pair in zip(*halves, strict=True)] for halves in zip(*parts, strict=True)]
    assert_same(joined, batches(files, 3, **options))


@pytest.mark.parametrize("name", ["inception", "pad", "none"])
def test_the_cache_changes_nothing(name):
    images = open_images("shapes:24@32")
    some = images.subset(np.arange(24))
    assert decoded(some) is decoded(some)
    plain = open_images("shapes:24@32").subset(np.arange(24))
    kept = batches(some, 4, augment=AUGMENTS[name])
    assert_same(kept, batches(images, 4, augment=AUGMENTS[name]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras_mnasnet.data.pipeline.decoded", lambda images, **_: None)
        assert_same(kept, batches(plain, 4, augment=AUGMENTS[name]))


def test_an_epoch_has_every_image_once():
    images = open_images("shapes:24@32")
    pixels = np.concatenate([batch for batch, _ in batches(images, 6)])
    targets = np.concatenate([target for _, target in batches(images, 6)])
    expected, labels = draw_shapes(24, size=32)
    rows = {image.astype(np.float32).tobytes(): label for image, label in zip(expected, labels, strict=True)}
    for epoch in range(2):
        part = slice(epoch * 24, (epoch + 1) * 24) if epoch else slice(0, 24)
        seen = [pixels[index].tobytes() for index in range(48)[part]]
        assert sorted(seen) == sorted(rows)
    assert [rows[image.tobytes()] for image in pixels] == targets.argmax(1).tolist()


def test_padded_crop_and_flip():
    images = open_images("shapes:16@32")
    by_hand = [np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect") for image in draw_shapes(16, size=32)[0]]
    views = {
        view.astype(np.float32).tobytes(): (number, top, left, flipped)
        for number, image in enumerate(by_hand)
        for top in range(5)
        for left in range(5)
        for flipped in (False, True)
        for view in [image[top : top + 32, left : left + 32][:, :: -1 if flipped else 1]]
    }
    augment = Augment(crop="pad", pad=2)
    drawn = [views[image.tobytes()] for pixels, _ in batches(images, 40, augment=augment) for image in pixels]
    assert {top for _, top, _, _ in drawn} == {left for _, _, left, _ in drawn} == set(range(5))
    assert 110 < sum(flipped for *_, flipped in drawn) < 210
    unflipped = dataclasses.replace(augment, flip=False)
    assert not any(views[image.tobytes()][3] for pixels, _ in batches(images, 4, augment=unflipped) for image in pixels)


def test_inception_crop_obeys_area_and_aspect(tmp_path):
    """Pixels that hold their own coordinates show the box that was taken."""
    rows, columns = np.mgrid[0:200, 0:250].astype(np.uint8)
    for name in "ab":
        (tmp_path / name).mkdir()
        png = tf.io.encode_png(np.stack([rows, columns, 0 * rows], -1)).numpy()
        for number in range(4):
            (tmp_path / name / f"{number}.png").write_bytes(png)
    augment = Augment(area=(0.2, 0.6), aspect=(0.5, 1.5), flip=False)
    pixels = np.concatenate([batch for batch, _ in batches(open_images(tmp_path), 25, augment=augment)])
    height = (pixels[:, 24, 16, 0] - pixels[:, 8, 16, 0]) * 2
    width = (pixels[:, 16, 24, 1] - pixels[:, 16, 8, 1]) * 2
    assert 0.19 < (height * width / 50000).min() < 0.25
    assert 0.5 < (height * width / 50000).max() < 0.61
    assert 0.49 < (width / height).min() < 0.65
    assert 1.3 < (width / height).max() < 1.52


def test_fused_jpeg_crop_is_near_the_plain_one(data):
    photos = open_images(data / "imagenet_250").subset([0, 60, 120, 180])
    fused = batches(photos, 1, size=64, batch_size=4, augment=Augment(area=(0.5, 1)))[0][0]

    class Unfused:
        """TensorFlow, to which no file is a JPEG."""

        io = types.SimpleNamespace(
            is_jpeg=lambda data: tf.constant(False), extract_jpeg_shape=tf.io.extract_jpeg_shape,
            decode_and_crop_jpeg=tf.io.decode_and_crop_jpeg,
        )  # fmt: skip

        def __getattr__(self, name):
            return getattr(tf, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras_mnasnet.data.augment.tf", Unfused())
        plain = batches(photos, 1, size=64, batch_size=4, augment=Augment(area=(0.5, 1)), cache=False)[0][0]
    assert np.abs(fused - plain).mean() < 1


def test_resized_without_crop():
    images = open_images("shapes:8@64")
    pixels, targets = batches(images, 1)[0]
    expected = tf.image.resize(draw_shapes(8, size=64)[0], (32, 32), antialias=True).numpy()
    order = [int(np.abs(expected - image).sum((1, 2, 3)).argmin()) for image in pixels]
    np.testing.assert_allclose(pixels, expected[order], atol=1e-3)
    assert targets.argmax(1).tolist() == draw_shapes(8, size=64)[1][order].tolist()


def test_randaugment_varies_images_one_by_one():
    images = open_images("shapes:16@32")
    plain = {image.astype(np.float32).tobytes() for image in draw_shapes(16, size=32)[0]}
    augment = Augment(crop="none", flip=False, randaugment_ops=1, randaugment_factor=0.9)
    pixels = np.concatenate([batch for batch, _ in batches(images, 4, augment=augment)])
    changed = [image.tobytes() not in plain for image in pixels]
    assert 20 <= sum(changed) <= 32
    epochs = pixels.reshape(2, 16, -1)
    assert len({image.tobytes() for image in epochs.reshape(32, -1)}) >= 28


def test_mixing_and_erasing():
    images = open_images("shapes:64@32")
    options = {"batch_size": 64}
    mixed = batches(images, 1, augment=Augment(crop="none", flip=False, mixup=1.0), **options)[0]
    plain = batches(images, 1, **options)[0]
    assert 0.3 < (mixed[1].max(1) < 0.999).mean() <= 1
    expected = mixed[1] @ np.array([plain[0][plain[1].argmax(1) == label].mean() for label in range(10)])
    assert np.corrcoef(expected, mixed[0].mean((1, 2, 3)))[0, 1] > 0
    cut = batches(images, 1, augment=Augment(crop="none", flip=False, cutmix=1.0), **options)[0]
    kept = (cut[0] == plain[0]).all(-1).mean((1, 2))
    own = (cut[1] * plain[1]).sum(1)
    other = cut[1].max(1) < 0.999
    assert np.corrcoef(kept[other], own[other])[0, 1] > 0.8
    erased = batches(images, 1, augment=Augment(crop="none", flip=False, erasing=0.5), **options)[0]
    share = (erased[0] != plain[0]).any((1, 2, 3)).mean()
    assert 0.3 < share < 0.7
    np.testing.assert_array_equal(erased[1], plain[1])


CODE = """
import itertools, sys, numpy as np
from keras_mnasnet.preprocessing import Augment
from keras_mnasnet.data import augment, open_images, training_batches
augment.RANDAUGMENT = augment.RANDAUGMENT[:-1]
augment = Augment(crop="none", randaugment_ops=1, erasing=0.5, mixup=0.3, cutmix=0.5)
data = training_batches(open_images("shapes:16@32"), size=32, batch_size=8, augment=augment, seed=3)
np.savez(sys.argv[1], *[part for batch in itertools.islice(data.as_numpy_iterator(), 3) for part in batch])
"""


def test_keras_layers_compute_in_tensorflow_under_jax(tmp_path, monkeypatch):
    """Without equalization, whose graph takes most of a minute to trace under JAX."""
    pytest.importorskip("jax")
    monkeypatch.setattr("keras_mnasnet.data.augment.RANDAUGMENT", RANDAUGMENT[:-1])
    path = tmp_path / "jax.npz"
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", CODE, str(path)], check=True, env=environment, capture_output=True)
    augment = Augment(crop="none", randaugment_ops=1, erasing=0.5, mixup=0.3, cutmix=0.5)
    expected = [part for batch in batches(open_images("shapes:16@32"), 3, augment=augment) for part in batch]
    with np.load(path) as parts:
        for name, part in zip(parts.files, expected, strict=True):
            np.testing.assert_array_equal(parts[name], part)


def test_a_damaged_image_is_named_when_it_is_cached(tmp_path):
    write_folder(tmp_path / "s", 20, size=16)
    bad = next((tmp_path / "s").glob("*/*.png"))
    bad.write_bytes(bad.read_bytes()[:50])
    for folder in (tmp_path / "s").iterdir():
        if not any(folder.iterdir()):
            folder.rmdir()
    images = open_images(tmp_path / "s")
    with pytest.raises(ValueError, match=f"1 that cannot be decoded, or are narrower than 1:100:\n  {bad}"):
        training_batches(images, size=32, batch_size=4, augment=STILL, seed=0)
    assert len(batches(images.checked(max_bad=1), 2)) == 2


def test_images_too_large_or_of_several_sizes_are_not_cached(files, tmp_path):
    assert decoded(open_images(files.name), limit_bytes=40 * 40 * 40 * 3 - 1) is None
    assert decoded(files)[0].shape == (40, 40, 40, 3)
    for size in (16, 20):
        write_folder(tmp_path / str(size) / "s", 30, size=size)
    assert decoded(open_images(tmp_path)) is None


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(96, "bilinear-tf1", crop_fraction=96 / 128),
        Preprocessing(96, "bicubic-tf1", crop_fraction=0.875),
        Preprocessing(96, "bicubic", resize=110),
        Preprocessing(96, "bilinear", resize=107),
        Preprocessing(256, "bilinear", resize=256),
    ],
    ids=str,
)
def test_evaluation_equals_load_image(data, preprocessing):
    photos = open_images(data / "imagenet_250").subset([3, 1, 100, 249, 77])
    seen = list(evaluation_batches(photos, preprocessing, batch_size=2).as_numpy_iterator())
    assert [len(index) for _, _, index in seen] == [2, 2, 1]
    assert np.concatenate([index for _, _, index in seen]).tolist() == [0, 1, 2, 3, 4]
    assert np.concatenate([label for _, label, _ in seen]).tolist() == photos.label_ids.tolist()
    for index, pixels in enumerate(np.concatenate([pixels for pixels, _, _ in seen])):
        np.testing.assert_array_equal(pixels, load_image(photos.where(index), preprocessing))


def test_small_images_are_evaluated_as_they_are(data):
    cifar = open_images(data / "cifar10", split="test").subset(np.arange(6))
    for decoder, dct in (("tensorflow", ""), ("pillow", "INTEGER_ACCURATE")):
        preprocessing = Preprocessing(32, "bicubic", resize=32, decoder=decoder)
        pixels, labels, _ = next(evaluation_batches(cifar, preprocessing, batch_size=6).as_numpy_iterator())
        plain = [tf.io.decode_jpeg(item["image"], dct_method=dct).numpy() for item in cifar.examples()]
        np.testing.assert_array_equal(pixels, plain)
    np.testing.assert_array_equal(labels, cifar.label_ids)


def test_evaluation_shards_cover_the_set():
    images = open_images("shapes:11@16")
    parts = [
        list(evaluation_batches(images, Preprocessing(16, "bilinear", resize=16), batch_size=4, shard=(i, 2))) for i in (0, 1)
    ]
    seen = [[index.numpy().tolist() for _, _, index in part] for part in parts]
    assert seen == [[[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7], [10]]]


def test_splits_train_like_any_set(files):
    train, validation = train_validation(files, 0.3, seed=0)
    pixels, targets = batches(train, 1, augment=AUGMENTS["pad"])[0]
    assert pixels.shape == (8, 32, 32, 3)
    assert set(targets.argmax(1)) <= set(train.label_ids.tolist())
    assert validation.count >= 8


def test_augment_is_plain_json():
    for augment in AUGMENTS.values():
        assert Augment(**json.loads(json.dumps(dataclasses.asdict(augment)))) == augment


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"crop": "five"}, "`crop` must be one of .*crop='five'"),
        ({"interpolation": "nearest"}, "`interpolation` must be one of"),
        ({"area": (0.5, 0.2)}, r"`area` must be two numbers, 0 < low <= high <= 1. Received: area=\(0.5, 0.2\)"),
        ({"area": 0.5}, "`area` must be two numbers, low and high. Received: area=0.5"),
        ({"aspect": (0, 1)}, "`aspect` must be two numbers, 0 < low"),
        ({"mixup": -1}, "`mixup` must be a number from 0 to inf. Received: mixup=-1"),
        ({"cutmix": "1"}, "`cutmix` must be a number from 0 to 1. Received: cutmix='1'"),
        ({"erasing": 1.5}, "`erasing` must be a number from 0 to 1"),
        ({"randaugment_factor": 2}, "`randaugment_factor` must be a number from 0 to 1"),
        ({"pad": 1.5}, "`pad` must be a whole number from 0 to 1024. Received: pad=1.5"),
        ({"randaugment_ops": -1}, "`randaugment_ops` must be a whole number"),
        ({"flip": 1}, "`flip` must be true or false. Received: flip=1"),
    ],
)
def test_augment_errors(values, match):
    with pytest.raises(ValueError, match=match):
        Augment(**values)


def test_errors():
    images = open_images("shapes:8@32")
    with pytest.raises(ValueError, match="`pad` must be below the image size. Received: pad=40, size=32"):
        batches(images, 1, augment=Augment(crop="pad", pad=40))
    with pytest.raises(ValueError, match="batch_size=9"):
        batches(images, 1, batch_size=9)
    with pytest.raises(ValueError, match=r"shard=\(2, 2\)"):
        batches(images, 1, shard=(2, 2))
