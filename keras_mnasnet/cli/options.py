"""The options that several commands share, each written once: its name, its type, and the first sentence of its help."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from keras_mnasnet.cli.parsing import one_of
from keras_mnasnet.weights.datasets import NAMES

if TYPE_CHECKING:
    from keras_mnasnet.architecture import Architecture

Adds = Any  # a parser or one of its groups: what has `add_argument`

SOURCES = (
    f"a record id (`mnasnet weights list`), {NAMES}, a run's folder, a checkpoint file of any source, a .keras file, a "
    ".tflite or .onnx file, a model.json of TensorFlow.js, a frozen .pb file, or hf://OWNER/NAME."
)
LABELLED = "Photos with labels: a folder of <class>/*.jpg, TFRecords, cifar10, shapes, or tfds:NAME."
INPUTS = ("pixels", "unit", "signed", "imagenet")
DTYPES = ("float32", "uint8", "int8")


def _switch_or_ratio(text: str) -> bool | float:
    words = {"on": True, "true": True, "off": False, "false": False}
    return words[text.lower()] if text.lower() in words else float(text)


_switch_or_ratio.__name__ = "on, off or ratio"


def _data_or_share(text: str) -> str | float:
    if not text:
        raise argparse.ArgumentTypeError("it must be data, or a share such as 0.2. Received: an empty text")
    try:
        return text if os.path.exists(text) else float(text)
    except ValueError:
        return text


def _sides(text: str) -> tuple[int, int]:
    from keras_mnasnet.detection.spec import sides

    try:
        return sides(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _text(metavar: str, help: str) -> dict[str, Any]:
    return {"metavar": metavar, "help": help}


def _count(help: str, **more: Any) -> dict[str, Any]:
    return {"type": int, "metavar": "N", "help": help, **more}


def _choice(names: tuple[str, ...], help: str) -> dict[str, Any]:
    return {"type": one_of(*names), "metavar": "|".join(names), "help": help}


OF_DETECTORS: dict[str, Any] = {
    "type": _sides, "metavar": "PIXELS|HEIGHTxWIDTH",
    "help": "Use an input of this height and width in pixels; 192x320 is one of 192 rows and 320 columns.",
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "DATA": _text("DATA", LABELLED),
    "MODEL": _text("MODEL", f"A trained model: {SOURCES}"),
    "PHOTO": _text("PHOTO", "Photos: JPEG, PNG, WebP, GIF, BMP or TIFF files."),
    "--annotations": _text(
        "ANNOTATIONS", "Take boxes from here: COCO's instances .json, a folder of VOC's .xml files, or YOLO's data.yaml."
    ),
    "--batch-size": _count("Put N photos through the model at a time."),
    "--benchmark-model": _text("PATH", "Use this official benchmark_model on the phone, or the one of its ABI in this folder."),
    "--calibrate": _text("DATA", "Set int8's ranges by these photos, which need no labels: a folder, TFRecords, or tfds:NAME."),
    "--calibration-photos": _count("Calibrate on N photos at most (default: %(default)s).", default=500),
    "--check": {
        "action": "store_true", "help": "Also decode every photo once: sizes, and damaged photos (default: do not).",
    },
    "--checkpoint-steps": _count("Write a checkpoint after N steps at most (default: 1000)."),
    "--classes": _count("Count a classifier of N outputs (default: %(default)s).", default=1000),
    "--coordinator": _text("HOST:PORT", "Find process 0 at this address (JAX backend); `auto` on a TPU slice."),
    "--core": _count("Measure on this core of this machine (default: the last of the fastest)."),
    "--crowd-as-objects": {
        "action": "store_true",
        "help": "Take regions marked as crowds, and VOC's difficult objects, as objects like the others.",
    },
    "--data": _text("DATA", f"Take {LABELLED[0].lower()}{LABELLED[1:]}"),
    "--depth": {"type": float, "metavar": "X", "help": "Multiply the repeats of every stage by X."},
    "--device": _text("DEVICE", "Measure latency there: host is this machine, adb or adb:SERIAL a phone, emulated a Pixel 1."),
    "--epochs": _count("Go N times through the training data."),
    "--from": _text("MODEL", f"Start from this trained model: {SOURCES}"),
    "--input": _choice(INPUTS, "Say how the model takes pixels: 0..255, 0..1, -1..1, or by ImageNet's mean and deviation."),
    "--input-dtype": _choice(DTYPES, "Give an int8 file an input of this type (default: float32)."),
    "--iou-threshold": {
        "type": float, "default": 0.6, "metavar": "IOU",
        "help": "Drop the lower of two boxes of one class that overlap by more than this (default: %(default)g).",
    },
    "--labels": _text("FILE", "Take class names from this file, one a line."),
    "--learning-rate": {"type": float, "metavar": "RATE", "help": "Let this be the highest learning rate."},
    "--limit": _count("Take only N photos, spread evenly over the data."),
    "--mask": _text("HEX", "Pin to these cores of the phone, f0 for 4 to 7 (default: the fastest)."),
    "--max-bad": _count("Leave out N damaged photos at most (default: 0)."),
    "--max-detections": _count("Keep N boxes of a photo at most (default: %(default)s).", default=100),
    "--mixed-precision": _choice(("bfloat16", "float16"), "Compute in 16 bits and keep the weights in 32."),
    "--network": _text("NETWORK", "Take this network: a1, a2, a3, b1, small, d1, d1-320, or an architecture's text form."),
    "--photos": _text("PHOTOS", "Take these photos, which need no labels: a folder, TFRecords, or tfds:NAME."),
    "--process-index": _count("Be process N, counted from 0 (default: %(default)s).", default=0),
    "--processes": _count("Train with N processes together (default: %(default)s).", default=1),
    "--recipe": _text("RECIPE", "Train by this recipe (`mnasnet recipes`), or by a .json file."),
    "--resume": _text("RUN", "Go on with the run in this folder, with the settings of its start."),
    "--reward": _text(
        "REWARD", "Score by soft, hard, absolute, accuracy, soft:EXPONENT, or two exponents: --reward=-0.07,-1."
    ),
    "--runs": _count("Time each model N times (default: 60; phones: 50)."),
    "--score-threshold": {"type": float, "metavar": "P", "help": "Drop lower scores, 0 to 1 (default: %(default)g)."},
    "--se": {
        "type": _switch_or_ratio, "metavar": "on|off|RATIO",
        "help": "Switch squeeze-and-excite on or off, or set its ratio (default: as published).",
    },
    "--seed": _count("Draw what is random from this seed (default: 0)."),
    "--set": {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": "Change a value of the recipe (repeatable)."},
    "--size": {"type": int, "metavar": "PIXELS", "help": "Use an input of this height and width in pixels."},
    "--space": _text(
        "SPACE", "Search here: mbconv (default), paper, vertex, cell, macro, accel-nasbench, or module:function of your own."
    ),
    "--space-set": {
        "action": "append", "default": [], "metavar": "KEY=VALUE",
        "help": "Change a value of the space (repeatable), as width=0.5 or stem_stride=1.",
    },
    "--split": _text("NAME", "Measure on this split (default: validation, else test)."),
    "--stem-stride": {"type": int, "metavar": "1|2", "help": "Stride of the first layer; 1 suits photos of 32 to 64 pixels."},
    "--study": {"metavar": "FILE", "required": True, "help": "Keep the study in this SQLite file."},
    "--target-ms": {"type": float, "metavar": "MS", "help": "Aim at this latency, in milliseconds."},
    "--tensorboard": {"action": "store_true", "help": "Write TensorBoard logs into RUN/tensorboard."},
    "--threads": _count("Run .tflite and .onnx files in N threads."),
    "--top": _count("Take the N best (default: %(default)s).", default=5),
    "--upright": {
        "action": argparse.BooleanOptionalAction, "help": "Turn photos as their EXIF orientation says, or do not.",
    },
    "--validation": {
        "type": _data_or_share, "metavar": "DATA|SHARE",
        "help": "Measure on this after every epoch: other data, or a share or number of the training images, such as 0.2.",
    },
    "--verification-photos": _count("Verify the file on N photos at most (default: %(default)s).", default=32),
    "--width": {"type": float, "metavar": "X", "help": "Multiply the channels of every layer by X, as 0.75."},
    "-o/--output": _text("FILE", "Write the result here:"),
}  # fmt: skip


def option(
    to: Adds, name: str, more: str = "", *, dest: str | None = None, positional: str | None = None, **changes: Any
) -> None:
    """Add the shared option `name`, `more` behind its help; as a positional where it has capitals or `positional` names it."""
    settings = {**OPTIONS[name], **changes}
    settings["help"] = " ".join(filter(None, (settings["help"], more)))
    if positional or not name.startswith("-"):
        to.add_argument(dest or name.lower(), **{**settings, "metavar": positional or settings["metavar"]})
    else:
        to.add_argument(*name.split("/"), **settings, **({"dest": dest} if dest else {}))


def own(to: Adds, name: str, metavar: str, help: str, **settings: Any) -> None:
    """Add an option of one command: N is a whole number, words between | are the choices, and the rest is text."""
    if metavar == "N":
        settings.setdefault("type", int)
    elif "|" in metavar:
        settings.setdefault("type", one_of(*metavar.split("|")))
    to.add_argument(name, metavar=metavar, help=help, **settings)


def options(to: Adds, *names: str) -> None:
    """Add shared options as they are."""
    for name in names:
        option(to, name)


def output(to: Adds, metavar: str, what: str, *, required: bool = True, **changes: Any) -> None:
    """`-o/--output`."""
    option(to, "-o/--output", what, metavar=metavar, required=required, **changes)


def network_options(parser: argparse.ArgumentParser, title: str, more: str = "", *, stem: bool = True) -> None:
    """`--network` and what scales it, as a group."""
    group = parser.add_argument_group(title)
    option(group, "--network", more)
    options(group, "--width", "--depth", "--se", *(["--stem-stride"] if stem else []))


def given(arguments: argparse.Namespace, *names: str, **renamed: str) -> dict[str, Any]:
    """Keyword arguments of a door: what was said of `names`, and of options that the door calls otherwise; `progress`.

    `labels` are read from their file, and KEY=VALUE pairs are a dictionary. What was not said is left to the door.
    """
    found = {}
    for name, said in ({name: name for name in names} | renamed).items():
        value = _read_labels(arguments) if said == "labels" else getattr(arguments, said)
        if value is not None and not (said == "set" or said.endswith("_set")):
            found[name] = value
        elif value:
            from keras_mnasnet.training.recipe import parse_values

            found[name] = parse_values(value)
    return {**found, "progress": not arguments.json}


def network(arguments: argparse.Namespace, name: str | None = None) -> Architecture | None:
    """The network that `--network` (or `name`), `--width`, `--depth`, `--se` and `--stem-stride` ask for, if any."""
    from keras_mnasnet.family import as_architecture

    asked = name or arguments.network
    scales = {key: getattr(arguments, key, None) for key in ("width", "depth", "se", "stem_stride")}
    if asked is None:
        given = [f"--{key.replace('_', '-')} {value}" for key, value in scales.items() if value is not None]
        if given:
            raise ValueError(
                f"--width, --depth, --se and --stem-stride need --network. Received: {', '.join(given)} without it"
            )
        return None
    scaled = as_architecture(asked).scaled(scales["width"], scales["depth"])
    return scaled.with_se(scales["se"]).with_stem_stride(scales["stem_stride"])


def _read_labels(arguments: argparse.Namespace) -> list[str] | None:
    """The lines of `--labels FILE` that are not empty; None without `--labels`."""
    from keras_mnasnet.utils.reading import read_names

    if arguments.labels is None:
        return None
    wanted = "`--labels` must be a text file with a class name a line."
    try:
        names = read_names(arguments.labels, "A file of class names")
    except (OSError, ValueError) as error:
        raise ValueError(f"{wanted} Received: {arguments.labels} ({error})") from error
    if not names:
        raise ValueError(f"{wanted} Received: {arguments.labels}, which names none")
    return list(names)
