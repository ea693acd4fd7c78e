"""The generated data set: reproducible, told apart by shape alone."""

import numpy as np
import pytest

from keras_mnasnet.data import SHAPE_CLASSES, draw_shapes, open_images, read_image, write_folder


def test_an_image_depends_on_seed_index_and_size_alone():
    images, labels = draw_shapes(60, size=32, seed=3)
    assert images.shape == (60, 32, 32, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    fewer, fewer_labels = draw_shapes(7, size=32, seed=3)
    np.testing.assert_array_equal(fewer, images[:7])
    np.testing.assert_array_equal(fewer_labels, labels[:7])
    assert (draw_shapes(7, size=32, seed=4)[0] != images[:7]).any(axis=(1, 2, 3)).all()
    larger, larger_labels = draw_shapes(7, size=48, seed=3)
    assert larger.shape == (7, 48, 48, 3)
    np.testing.assert_array_equal(larger_labels, labels[:7])


def test_classes():
    assert tuple(sorted(SHAPE_CLASSES)) == SHAPE_CLASSES
    assert len(SHAPE_CLASSES) == 10
    assert np.bincount(draw_shapes(1000, size=16)[1], minlength=10).min() >= 70


def test_a_linear_model_on_pixels_fails():
    images, labels = draw_shapes(2500, size=32, seed=1)
    pixels = images.reshape(2500, -1) / np.float32(127.5) - 1
    train, test = pixels[:2000] - pixels[:2000].mean(0), pixels[2000:] - pixels[:2000].mean(0)
    targets = np.eye(10, dtype=np.float32)[labels[:2000]] - 0.1
    for ridge in (100, 1000, 10000):
        weights = np.linalg.solve(train @ train.T + ridge * np.eye(2000, dtype=np.float32), targets)
        accuracy = np.mean((test @ (train.T @ weights)).argmax(1) == labels[2000:])
        assert accuracy < 0.4, f"ridge={ridge}"


def test_written_folder_reads_back(tmp_path):
    write_folder(tmp_path / "s", 20, size=24, seed=5)
    images, labels = draw_shapes(20, size=24, seed=5)
    found = open_images(tmp_path / "s", min_classes=1, classes="folder") if len(set(labels)) == 10 else None
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "s" / SHAPE_CLASSES[label] / f"{index:06d}.png"
        np.testing.assert_array_equal(read_image(path), image)
    assert found is None or found.labels == SHAPE_CLASSES
    with pytest.raises(ValueError, match=r"new or empty folder. Received: .*s, which is not"):
        write_folder(tmp_path / "s", 2)


def test_errors(tmp_path):
    with pytest.raises(ValueError, match=r"`count` must be 1 or more.*count=0, size=64"):
        draw_shapes(0)
    with pytest.raises(ValueError, match=r"`size` 16..2048 pixels. Received: count=2, size=4"):
        draw_shapes(2, size=4)
    with pytest.raises(ValueError, match="`format` must be one of .*format='webp'"):
        write_folder(tmp_path, 2, format="webp")
