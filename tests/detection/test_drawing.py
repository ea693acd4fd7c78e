"""Boxes in photos: where the color is, and where it is not."""

import numpy as np
import pytest

from keras_mnasnet.detection.drawing import color, draw, write_png
from keras_mnasnet.detection.postprocess import Detections


def detections(*rows):
    boxes, classes, scores = zip(*rows, strict=True)
    return Detections(np.array(boxes, np.float32), np.array(classes), np.array(scores, np.float32))


def test_the_frame_is_on_the_box_and_the_rest_untouched():
    photo = np.full((200, 400, 3), 128, np.uint8)
    drawn = draw(photo, detections(((0.5, 0.25, 0.9, 0.75), 3, 0.87)), ["a", "b", "c", "a dog"])
    assert drawn.shape == photo.shape
    assert (photo == 128).all(), "the photo itself is not painted on"
    for row, column in ((100, 200), (179, 200), (140, 100), (140, 299)):
        assert tuple(drawn[row, column]) == color(3)
    assert (drawn[110:170, 110:290] == 128).all()
    changed = np.argwhere((drawn != 128).any(axis=2))
    assert changed[:, 1].min() >= 98
    assert 70 < changed[:, 0].min() < 100, "the label stands above the box"


def test_the_best_is_on_top_and_labels_stay_inside():
    photo = np.zeros((100, 100, 3), np.uint8)
    box = (-0.5, -0.5, 1.5, 1.5)
    drawn = draw(photo, detections((box, 0, 0.9), (box, 1, 0.4)), ["first", "second"])
    assert tuple(drawn[50, 99]) == color(0)
    assert tuple(drawn[60, 0]) == color(0)


def test_neighbouring_classes_differ():
    for label in range(90):
        assert np.abs(np.subtract(color(label), color(label + 1))).max() > 60


def test_a_box_outside_is_left_out():
    photo = np.zeros((50, 50, 3), np.uint8)
    assert (draw(photo, detections(((1.2, 0.1, 1.5, 0.5), 0, 0.9)), ["a"]) == 0).all()


def test_png(tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (9, 13, 3), np.uint8)
    write_png(tmp_path / "new" / "a.png", pixels)
    assert (np.asarray(Image.open(tmp_path / "new" / "a.png")) == pixels).all()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_png(tmp_path / "file" / "a.png", pixels)


def test_labels_do_not_cover_each_other():
    photo = np.zeros((200, 200, 3), np.uint8)
    box = (0.4, 0.2, 0.8, 0.8)
    drawn = draw(photo, detections((box, 0, 0.9), (box, 1, 0.4)), ["first", "second"])
    plates = [np.argwhere((drawn == color(label)).all(axis=2)) for label in (0, 1)]
    assert plates[0][:, 0].min() < 78, "the first label stands above the box"
    assert (plates[1][:, 0] >= 79).all(), "the second one inside of it"
    assert len(plates[1]) > 100
