"""`mnasnet predict`: classify photos with the preprocessing of the checkpoint's source."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mnasnet.applications import MnasNet, decode_predictions
from keras_mnasnet.cli.output import print_json
from keras_mnasnet.data import load_image
from keras_mnasnet.family import as_architecture
from keras_mnasnet.weights import CheckpointError, get, names, read_file, registry

__all__ = ["predict"]

BATCH = 32


def predict(arguments: argparse.Namespace) -> int:
    """Print the best classes of each image; a damaged image is reported and makes the exit status 1."""
    if arguments.weights.lower() == "none":
        raise ValueError("A prediction needs trained weights. Received: --weights none")
    labels = _labels(arguments.labels)
    model, preprocessing, origin = _open(arguments, labels)
    if not arguments.json:
        print(f"{model.name} with {origin}; {preprocessing}", file=sys.stderr)
    images, rows, problems = [], [], 0
    for path in arguments.images:
        try:
            images.append((path, load_image(path, preprocessing)))
        except ValueError as error:
            problems += 1
            print(f"error: {error}", file=sys.stderr)
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        scores = model.predict(np.stack([pixels for _, pixels in batch]), verbose=0)
        decoded = decode_predictions(scores, arguments.top, labels)
        rows += [{"image": path, "predictions": best} for (path, _), best in zip(batch, decoded, strict=True)]
    if arguments.json:
        print_json(
            [
                {
                    **row,
                    "predictions": [dict(zip(("id", "name", "score"), best, strict=True)) for best in row["predictions"]],
                }
                for row in rows
            ]
        )
    else:
        for row in rows:
            print(f"{row['image']}  " + "  ".join(f"{name} {score:.3f}" for _, name, score in row["predictions"]))
    return 1 if problems else 0


def _labels(path: str | None) -> list[str] | None:
    if path is None:
        return None
    try:
        labels = Path(path).expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"`--labels` must be a text file with a class name a line. Received: {path} ({error})") from error
    return [label.strip() for label in labels if label.strip()]


def _open(arguments: argparse.Namespace, labels: list[str] | None) -> tuple[Any, registry.Preprocessing, str]:
    """(model, preprocessing, what the weights are)."""
    base = as_architecture(arguments.model or "a1")
    options = {"width_multiplier": arguments.width, "depth_multiplier": arguments.depth, "se": arguments.se}
    weights, size = arguments.weights, arguments.resolution
    if weights == "imagenet":
        weights = registry.select(base.name, arguments.width, size or 224).id
    if weights in names():
        record = get(weights)
        base = base if arguments.model else as_architecture(record.network)
        size = size or record.resolution
        model = MnasNet(base, weights=weights, input_shape=(size, size, 3), **options)
        return model, registry.preprocessing_of(record.source, size, record), record.describe()
    size = size or 224
    if weights.endswith(".keras"):
        try:
            model = keras.saving.load_model(Path(weights).expanduser(), compile=False)
        except (ValueError, OSError, TypeError) as error:
            raise CheckpointError(f"{weights} must be a model saved by model.save(). Received: {error}") from error
        size = model.inputs[0].shape[1] or size
        return model, registry.preprocessing_of("timm", size), weights
    if weights.endswith(".weights.h5"):
        classes = len(labels) if labels else 1000
        model = MnasNet(base, weights=weights, input_shape=(size, size, 3), classes=classes, **options)
        return model, registry.preprocessing_of("timm", size), weights
    checkpoint = read_file(weights)
    model = MnasNet(checkpoint.architecture, weights=weights, input_shape=(size, size, 3), classes=checkpoint.classes)
    source = checkpoint.source if checkpoint.source in ("google", "timm", "torchvision") else "timm"
    return model, registry.preprocessing_of(source, size), f"{weights} ({checkpoint.source})"
