"""Augmentation keeps boxes on their objects: colored rectangles are drawn, changed, and found again by their color."""

import numpy as np
import pytest
import tensorflow as tf

from keras_mnasnet.detection.anchors import CROWD
from keras_mnasnet.detection.data import OVERLAPS, crop_boxes, flip, open_dataset, sample_window, training_batches
from keras_mnasnet.detection.recipe import BoxAugment

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.float32)


def drawn(height=120, width=160):
    """A black photo with a red, a green and a blue rectangle, and their boxes (y1, x1, y2, x2)."""
    pixels = np.zeros((height, width, 3), np.float32)
    corners = np.array([[10, 20, 60, 70], [30, 90, 110, 150], [75, 8, 112, 60]])
    for (top, left, bottom, right), color in zip(corners, COLORS, strict=True):
        pixels[top:bottom, left:right] = color
    return pixels, (corners / [height, width, height, width]).astype(np.float32), np.arange(3, dtype=np.int32)


def seen(pixels, number):
    """The box of what has the color of a class, as shares of the photo."""
    mask = (np.abs(pixels - COLORS[number]) < 100).all(-1)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return np.array([rows[0] / height, columns[0] / width, (rows[-1] + 1) / height, (columns[-1] + 1) / width])


@pytest.mark.parametrize("seed", range(40))
def test_the_crop_keeps_boxes_on_their_rectangles(seed):
    pixels, boxes, labels = drawn()
    window, threshold = sample_window(tf.shape(pixels), boxes, labels, tf.constant([7, seed], tf.int64), BoxAugment())
    top, left, height, width = window.numpy()
    cut = pixels[top : top + height, left : left + width]
    moved, kept = crop_boxes(boxes, labels, tf.shape(pixels), window, threshold)
    for box, label in zip(moved.numpy(), kept.numpy(), strict=True):
        np.testing.assert_allclose(box, seen(cut, label), atol=1e-6)
    for label in set(labels) - set(kept.numpy()):  # left out: not in sight, or covered by less than the threshold
        in_sight = (np.abs(cut - COLORS[label]) < 100).all(-1).sum()
        whole = (np.abs(pixels - COLORS[label]) < 100).all(-1).sum()
        assert in_sight == 0 or in_sight / whole < float(threshold)
    if float(threshold) > 0:
        assert len(kept) >= 1  # the window was chosen to cover some box by the threshold


def test_windows_vary_and_repeat():
    pixels, boxes, labels = drawn()
    draws = [
        sample_window(tf.shape(pixels), boxes, labels, tf.constant([3, number], tf.int64), BoxAugment()) for number in range(60)
    ]
    again = sample_window(tf.shape(pixels), boxes, labels, tf.constant([3, 0], tf.int64), BoxAugment())
    assert again[0].numpy().tolist() == draws[0][0].numpy().tolist()
    whole = sum(window.numpy().tolist() == [0, 0, 120, 160] for window, _ in draws)
    assert 3 <= whole < 30  # 15 % are kept; a few more are not possible
    assert {round(float(threshold), 3) for _, threshold in draws} == set(OVERLAPS)


def test_crop_by_hand():
    """A window of the right half: the box across its edge by 3/4 stays at a threshold of 0.7 and goes at 0.8."""
    boxes = np.array([[0.0, 0.4, 0.5, 0.8], [0.0, 0.0, 0.5, 0.3], [0.1, 0.45, 0.2, 0.55]], np.float32)
    labels = np.array([0, 1, CROWD], np.int32)
    shape, window = tf.constant([100, 100, 3]), tf.constant([0, 50, 100, 50])
    moved, kept = crop_boxes(boxes, labels, shape, window, tf.constant(0.7))
    assert kept.numpy().tolist() == [0, CROWD]
    np.testing.assert_allclose(moved, [[0, 0, 0.5, 0.6], [0.1, 0, 0.2, 0.1]], atol=1e-6)
    _, kept = crop_boxes(boxes, labels, shape, window, tf.constant(0.8))
    assert kept.numpy().tolist() == [CROWD]


@pytest.mark.parametrize("seed", range(6))
def test_flip(seed):
    pixels, boxes, labels = drawn()
    turned, moved = flip(tf.constant(pixels), tf.constant(boxes), tf.constant([1, seed], tf.int64))
    for label in labels:
        np.testing.assert_allclose(moved[label], seen(turned.numpy(), label), atol=1e-6)


def test_both_sides_of_a_flip_occur():
    pixels, boxes, _ = drawn()
    lefts = {float(flip(pixels, boxes, tf.constant([1, seed], tf.int64))[1][0, 1]) for seed in range(20)}
    assert len(lefts) == 2


@pytest.mark.parametrize("format", ["jpeg", "png"])
def test_batches_keep_boxes_on_their_rectangles(tmp_path, format):
    """Through the files: read, cropped, resized, flipped; to two pixels of 128, which JPEG and the resize may blur."""
    import json

    pixels, boxes, _ = drawn()
    data = (
        tf.io.encode_png(pixels.astype(np.uint8)) if format == "png" else tf.io.encode_jpeg(pixels.astype(np.uint8), quality=98)
    )
    (tmp_path / f"a.{format}").write_bytes(data.numpy())
    rows = [
        {"id": n, "image_id": 1, "category_id": n + 1, "iscrowd": 0, "area": 1,
         "bbox": [float(b[1] * 160), float(b[0] * 120), float((b[3] - b[1]) * 160), float((b[2] - b[0]) * 120)]}
        for n, b in enumerate(boxes)
    ]  # fmt: skip
    value = {
        "images": [{"id": 1, "file_name": f"a.{format}", "height": 120, "width": 160}],
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(("red", "green", "blue"))],
        "annotations": rows,
    }
    (tmp_path / "a.json").write_text(json.dumps(value), "utf-8")
    dataset = open_dataset(tmp_path / "a.json", tmp_path)
    batches = training_batches(dataset, size=(128, 128), batch_size=1, augment=BoxAugment(), seed=5, max_boxes=4)
    checked = 0
    for photos, truth in batches.take(40):
        assert photos.shape == (1, 128, 128, 3)
        for box, label in zip(truth["boxes"][0].numpy(), truth["labels"][0].numpy(), strict=True):
            if label < 0:
                assert (box == -1).all()
            elif min(box[2:] - box[:2]) > 0.08:
                np.testing.assert_allclose(box, seen(photos[0].numpy(), label), atol=2.5 / 128)
                checked += 1
    assert checked > 40


def test_settings():
    for options, message in (
        ({"crop": 1}, "must be true or false. Received: crop=1"),
        ({"area": (0.5, 2.0)}, "at most 1, the whole photo. Received: area="),
        ({"aspect": (2.0, 0.5)}, "two numbers, low and high"),
    ):
        with pytest.raises(ValueError, match=message):
            BoxAugment(**options)
