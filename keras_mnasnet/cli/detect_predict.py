"""`mnasnet detect predict`: objects in photos, printed and drawn."""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.benchmarks.detectors import open_detector
from keras_mnasnet.cli.detect_eval import settings_of
from keras_mnasnet.cli.labels import read_labels
from keras_mnasnet.cli.output import print_json
from keras_mnasnet.data.preprocessing import read_image
from keras_mnasnet.detection.data import resize_photo
from keras_mnasnet.detection.drawing import draw, write_png
from keras_mnasnet.detection.postprocess import Detections

__all__ = ["predict"]


def predict(arguments: argparse.Namespace) -> int:
    """Print the objects of each photo and draw them; a damaged photo is reported and makes the exit status 1."""
    settings = settings_of(arguments)
    detector = open_detector(
        arguments.weights,
        settings=settings,
        labels=read_labels(arguments.labels),
        tflite_input=arguments.tflite_input,
        threads=arguments.threads,
        batch_size=1,
    )
    targets = {} if arguments.no_draw else _targets(arguments.images, Path(arguments.output).expanduser())
    rows = []
    for path in dict.fromkeys(arguments.images):
        try:
            photo = np.asarray(read_image(path))
        except ValueError as error:
            rows.append({"image": path, "error": str(error)})
            if not arguments.json:
                print(f"error: {error}", file=sys.stderr)
            continue
        pixels = np.asarray(resize_photo(photo, detector.size))[None]
        found = detector.run(pixels)[0].above(settings.score_threshold)
        row = {"image": path, "detections": _objects(found, detector.labels, photo.shape[:2])}
        if path in targets:
            write_png(targets[path], draw(photo, found, detector.labels))
            row["drawn"] = str(targets[path])
        rows.append(row)
        if not arguments.json:
            _print(row)
    if arguments.json:
        print_json(rows)
    return 1 if any("error" in row for row in rows) else 0


def _targets(images: list[str], folder: Path) -> dict[str, Path]:
    """PHOTO_detections.png of every photo; ValueError for two photos that would get the same name."""
    found = {path: folder / f"{Path(path).stem}_detections.png" for path in dict.fromkeys(images)}
    if len(set(found.values())) < len(found):
        names = sorted(target.name for target in found.values())
        twice = next(name for name, after in itertools.pairwise(names) if name == after)
        raise ValueError(f"Photos must have different names to be drawn into one folder. Received: {twice} twice")
    return found


def _objects(found: Detections, labels: tuple[str, ...], size: tuple[int, ...]) -> list[dict[str, Any]]:
    """Class, score and box inside the photo in its pixels, [x, y, width, height]."""
    height, width = size
    corners = np.clip(found.boxes, 0, 1) * (height, width, height, width)
    return [
        {
            "class": int(label),
            "label": labels[int(label)],
            "score": round(float(score), 6),
            "box": [round(float(value), 2) for value in (left, top, right - left, bottom - top)],
        }
        for (top, left, bottom, right), label, score in zip(corners, found.classes, found.scores, strict=True)
    ]


def _print(row: dict[str, Any]) -> None:
    drawn = f" -> {row['drawn']}" if "drawn" in row else ""
    print(f"{row['image']}{drawn}")
    for each in row["detections"]:
        x, y, width, height = each["box"]
        print(f"  {each['label']} {each['score']:.3f}  x {x:.0f}, y {y:.0f}, {width:.0f} x {height:.0f}")
    if not row["detections"]:
        print("  nothing")
