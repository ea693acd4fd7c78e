"""`mnasnet predict`: classify photos with the preprocessing of the checkpoint's source."""

from __future__ import annotations

import argparse
import sys

from keras_mnasnet.cli.options import given, option
from keras_mnasnet.cli.output import print_json
from keras_mnasnet.cli.parsing import Parser


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
    option(command, "--input", "It is for .tflite and .onnx files (default: as the file says).")
    option(command, "--upright", "The default is to turn them; --no-upright does as the model was trained.", default=True)


def predict(arguments: argparse.Namespace) -> int:
    """Print the best classes of each photo; one that cannot be read is reported and makes the exit status 1."""
    from keras_mnasnet.inference import predict as predict_photos

    settings = given(arguments, "top", "labels", "size", "upright", file_input="input")
    found = predict_photos(arguments.model, arguments.photos, **settings)
    if arguments.json:
        print_json(
            [
                {"photo": each.photo, "error": each.error}
                if each.error
                else {"photo": each.photo, "predictions": [{"name": name, "score": score} for name, score in each.classes]}
                for each in found
            ]
        )
    for each in found if not arguments.json else ():
        if each.error:
            print(f"error: {each.error}", file=sys.stderr)
        else:
            print(f"{each.photo}  " + "  ".join(f"{name} {score:.3f}" for name, score in each.classes))
    return 1 if any(each.error for each in found) else 0
