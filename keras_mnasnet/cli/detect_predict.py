"""`mnasnet detect predict`: objects in photos, printed and drawn."""

from __future__ import annotations

import argparse
import sys

from keras_mnasnet.cli.labels import read_labels
from keras_mnasnet.cli.output import print_json
from keras_mnasnet.detection.inference import PhotoObjects
from keras_mnasnet.detection.inference import predict as find_objects

__all__ = ["predict"]


def predict(arguments: argparse.Namespace) -> int:
    """Print the objects of each photo and draw them; a damaged photo is reported and makes the exit status 1."""
    found = find_objects(
        arguments.weights,
        arguments.images,
        output=None if arguments.no_draw else arguments.output,
        score=arguments.score_threshold,
        iou=arguments.iou_threshold,
        max_detections=arguments.max_detections,
        labels=read_labels(arguments.labels),
        tflite_input=arguments.tflite_input,
        threads=arguments.threads,
        progress=not arguments.json,
    )
    if arguments.json:
        print_json([each.as_json() for each in found])
    else:
        for photo in found:
            _print(photo)
    return 1 if any(photo.error for photo in found) else 0


def _print(photo: PhotoObjects) -> None:
    if photo.error:
        print(f"error: {photo.error}", file=sys.stderr)
        return
    print(f"{photo.photo} -> {photo.drawn}" if photo.drawn else photo.photo)
    for each in photo.objects:
        x, y, width, height = each.box
        print(f"  {each.label} {each.score:.3f}  x {x:.0f}, y {y:.0f}, {width:.0f} x {height:.0f}")
    if not photo.objects:
        print("  nothing")
