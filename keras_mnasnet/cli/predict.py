"""`mnasnet predict`: classify photos with the preprocessing of the checkpoint's source."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.applications import MnasNet, decode_predictions
from keras_mnasnet.cli.info import network
from keras_mnasnet.cli.labels import read_labels
from keras_mnasnet.cli.output import print_json
from keras_mnasnet.data import load_image
from keras_mnasnet.family import as_architecture
from keras_mnasnet.preprocessing import Preprocessing
from keras_mnasnet.pretrained import open_weights
from keras_mnasnet.weights import Checkpoint, CheckpointError, get, load_record, names, registry
from keras_mnasnet.weights.load import RUN_MODEL, preprocessing_of

__all__ = ["predict"]

BATCH = 32


def predict(arguments: argparse.Namespace) -> int:
    """Print the best classes of each image; a damaged image is reported and makes the exit status 1."""
    if arguments.weights.lower() == "none":
        raise ValueError("A prediction needs trained weights. Received: --weights none")
    model, preprocessing, origin, labels = _open(arguments)
    if not arguments.json:
        print(f"{model.name} with {origin}; {preprocessing}", file=sys.stderr)
    if labels and len(labels) != model.output.shape[-1]:
        raise ValueError(
            f"`--labels` must name every class of the model. Received: {len(labels)} names for {model.output.shape[-1]} classes"
        )
    images, found = [], {}
    for path in dict.fromkeys(arguments.images):
        try:
            images.append((path, load_image(path, preprocessing)))
        except ValueError as error:
            found[path] = {"image": path, "error": str(error)}
            if not arguments.json:
                print(f"error: {error}", file=sys.stderr)
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        scores = model.predict(np.stack([pixels for _, pixels in batch]), verbose=0)
        for (path, _), best in zip(batch, decode_predictions(scores, arguments.top, labels), strict=True):
            found[path] = {"image": path, "predictions": best}
    if arguments.json:
        print_json([_named(found[path]) for path in arguments.images])
    else:
        for path in arguments.images:
            if "predictions" in found[path]:
                print(f"{path}  " + "  ".join(f"{name} {score:.3f}" for _, name, score in found[path]["predictions"]))
    return 1 if any("error" in row for row in found.values()) else 0


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """A row for JSON: every prediction as {id, name, score}."""
    if "error" in row:
        return row
    return {**row, "predictions": [dict(zip(("id", "name", "score"), best, strict=True)) for best in row["predictions"]]}


def _open(arguments: argparse.Namespace) -> tuple[Any, Preprocessing, str, list[str] | None]:
    """(model, preprocessing, what the weights are, class names; None for ImageNet's)."""
    labels = read_labels(arguments.labels)
    multipliers = {
        "width_multiplier": arguments.width,
        "depth_multiplier": arguments.depth,
        "se": arguments.se,
        "stem_stride": arguments.stem_stride,
    }
    weights, size = arguments.weights, arguments.resolution
    if weights in registry.datasets() or weights in names():
        dataset = weights in registry.datasets()
        name = arguments.model or ("a1" if dataset else get(weights).network)
        record = registry.select(as_architecture(name).name, arguments.width, size or 224, weights) if dataset else get(weights)
        size = record.resolution if size is None else size
        model = MnasNet(name, weights=record.id, input_shape=(size, size, 3), **multipliers)
        origin = record.describe()
        if record.bundled:
            checkpoint = load_record(record)
            labels = labels or list(checkpoint.labels or ())
            origin += f", which knows {len(labels)} classes: {', '.join(labels)}"
        return model, registry.preprocessing_of(record.source, size, record), origin, labels
    if arguments.model is None and any(value is not None for value in multipliers.values()):
        raise ValueError("`--width`, `--depth`, `--se` and `--stem-stride` need a network. Received: no --model")
    asked = network(arguments) if arguments.model else None
    if (Path(weights).expanduser() / RUN_MODEL).is_file():
        weights = str(Path(weights).expanduser() / RUN_MODEL)
    opened = open_weights(weights, [(asked, True)] if asked else None)
    if isinstance(opened, Checkpoint):
        if not opened.classes:
            raise CheckpointError(f"A prediction needs a classifier. Received: {weights}, which has none")
        size = (opened.resolution or 224) if size is None else size
        model = MnasNet(opened.architecture, weights=opened, input_shape=(size, size, 3))
        preprocessing = preprocessing_of(opened, size)
        return model, preprocessing, f"{weights} ({opened.source})", labels or (list(opened.labels) if opened.labels else None)
    if asked is None:
        raise ValueError(f"A .weights.h5 file does not name its network. Received: {weights} without --model")
    size = 224 if size is None else size
    model = MnasNet(asked, weights=str(opened), input_shape=(size, size, 3), classes=len(labels) if labels else 1000)
    return model, registry.preprocessing_of("timm", size), weights, labels
