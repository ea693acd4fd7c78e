"""`mnasnet predict`: classify photos with the preprocessing of the checkpoint's source."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from keras_mnasnet.cli.options import network, network_options, option, read_labels
from keras_mnasnet.cli.output import print_json
from keras_mnasnet.cli.parsing import Parser

__all__ = ["add_commands"]

BATCH = 32


def add_commands(top: Parser) -> None:
    """`predict`."""
    command = top.add(
        "predict", "Classify photos: the best classes of each, with their probabilities.", predict,
        usage="MODEL PHOTO... [options]", example="mnasnet predict cifar10 ship.png airplane.png --top 3",
        needs=("MODEL", "PHOTO"),
    )  # fmt: skip
    option(command, "MODEL")
    option(command, "PHOTO", dest="photos", nargs="+")
    option(command, "--top", "These are the classes to print.")
    option(command, "--labels", "The default is the model's own.")
    option(command, "--size", "The default is the model's own.")
    network_options(command, "which network (of `imagenet`, `cifar10`, and files that do not say it)")


def predict(arguments: argparse.Namespace) -> int:
    """Print the best classes of each image; a damaged image is reported and makes the exit status 1."""
    import numpy as np

    from keras_mnasnet.applications import decode_predictions
    from keras_mnasnet.data import load_image

    model, preprocessing, origin, labels = _open(arguments)
    if not arguments.json:
        print(f"{model.name} with {origin}; {preprocessing}", file=sys.stderr)
    if labels and len(labels) != model.output.shape[-1]:
        raise ValueError(
            f"`--labels` must name every class of the model. Received: {len(labels)} names for {model.output.shape[-1]} classes"
        )
    images, found = [], {}
    for path in dict.fromkeys(arguments.photos):
        try:
            images.append((path, load_image(path, preprocessing)))
        except ValueError as error:
            found[path] = {"photo": path, "error": str(error)}
            if not arguments.json:
                print(f"error: {error}", file=sys.stderr)
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        scores = model.predict(np.stack([pixels for _, pixels in batch]), verbose=0)
        for (path, _), best in zip(batch, decode_predictions(scores, arguments.top, labels), strict=True):
            found[path] = {"photo": path, "predictions": best}
    if arguments.json:
        print_json([_named(found[path]) for path in arguments.photos])
    else:
        for path in arguments.photos:
            if "predictions" in found[path]:
                print(f"{path}  " + "  ".join(f"{name} {score:.3f}" for _, name, score in found[path]["predictions"]))
    return 1 if any("error" in row for row in found.values()) else 0


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """A row for JSON: every prediction as {id, name, score}."""
    if "error" in row:
        return row
    return {**row, "predictions": [dict(zip(("id", "name", "score"), best, strict=True)) for best in row["predictions"]]}


def _open(arguments: argparse.Namespace) -> tuple[Any, Any, str, list[str] | None]:
    """(model, preprocessing, what the weights are, class names; None for ImageNet's)."""
    from keras_mnasnet.applications import MnasNet
    from keras_mnasnet.family import as_architecture
    from keras_mnasnet.pretrained import open_weights
    from keras_mnasnet.weights import Checkpoint, CheckpointError, get, load_record, names, registry
    from keras_mnasnet.weights.load import RUN_MODEL, preprocessing_of

    labels = read_labels(arguments)
    multipliers = {
        "width_multiplier": arguments.width,
        "depth_multiplier": arguments.depth,
        "se": arguments.se,
        "stem_stride": arguments.stem_stride,
    }
    weights, size = arguments.model, arguments.size
    if weights in registry.datasets() or weights in names():
        dataset = weights in registry.datasets()
        name = arguments.network or ("a1" if dataset else get(weights).network)
        record = registry.select(as_architecture(name).name, arguments.width, size or 224, weights) if dataset else get(weights)
        size = record.resolution if size is None else size
        model = MnasNet(name, weights=record.id, input_shape=(size, size, 3), **multipliers)
        origin = record.describe()
        if record.bundled:
            checkpoint = load_record(record)
            labels = labels or list(checkpoint.labels or ())
            origin += f", which knows {len(labels)} classes: {', '.join(labels)}"
        return model, registry.preprocessing_of(record.source, size, record), origin, labels
    asked = network(arguments)
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
        raise ValueError(f"A .weights.h5 file does not name its network. Received: {weights} without --network")
    size = 224 if size is None else size
    model = MnasNet(asked, weights=str(opened), input_shape=(size, size, 3), classes=len(labels) if labels else 1000)
    return model, registry.preprocessing_of("timm", size), weights, labels
