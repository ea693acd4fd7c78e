"""`mnasnet`: the parser of every sub-command; what a sub-command does is imported when it runs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from absl import app, flags, logging
from absl.flags import argparse_flags

from keras_mnasnet import __version__
from keras_mnasnet.cli.output import held_stderr

__all__ = ["entry_point"]

WEIGHTS_HELP = "`imagenet` (default), a record id, a file, or hf://owner/repo[@revision]/file"


def _number_or_flag(text: str) -> bool | float:
    words = {"true": True, "on": True, "false": False, "off": False}
    return words[text.lower()] if text.lower() in words else float(text)


def _network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=float, metavar="X", help="width multiplier (channels), e.g. 0.75")
    parser.add_argument("--depth", type=float, metavar="X", help="depth multiplier (repeats)")
    parser.add_argument("--se", type=_number_or_flag, metavar="on|off|RATIO", help="squeeze-and-excite; default: as published")


def _parser() -> argparse_flags.ArgumentParser:
    parser = argparse_flags.ArgumentParser(
        prog="mnasnet", description="MnasNet for Keras 3: networks, checkpoints, predictions."
    )
    parser.add_argument("--version", action="version", version=f"mnasnet {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, handler: str, text: str, parent=commands) -> argparse.ArgumentParser:
        added = parent.add_parser(name, help=text, description=text)
        added.set_defaults(handler=handler)
        added.add_argument("--json", action="store_true", help="print one JSON value and nothing else")
        return added

    command("models", "info:models", "The family: parameters, multiply-adds, published accuracy and latency, checkpoints.")

    info = command("info", "info:info", "One network: stage table, totals, checkpoints and the input they expect.")
    info.add_argument("model", help="a1, a2, a3, b1, small, d1, d1-320, or an architecture's text form")
    _network_options(info)
    info.add_argument("--resolution", type=int, metavar="PIXELS", help="input size (default 224; d1-320: 320)")
    info.add_argument("--classes", type=int, default=1000, help="outputs of the classifier (default %(default)s)")
    info.add_argument("--layers", action="store_true", help="one row per layer instead of one per stage")

    predict = command("predict", "predict:predict", "Classify photos.")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="JPEG, PNG, GIF or BMP files")
    predict.add_argument("--model", help="network (default: the checkpoint's, a1 for `imagenet`)")
    predict.add_argument("--weights", default="imagenet", help=WEIGHTS_HELP)
    _network_options(predict)
    predict.add_argument("--resolution", type=int, metavar="PIXELS", help="input size (default: the checkpoint's)")
    predict.add_argument("--labels", metavar="FILE", help="class names, one a line (default: ImageNet's)")
    predict.add_argument("--top", type=int, default=5, help="classes to print (default %(default)s)")

    weights = commands.add_parser("weights", help="List, fetch, verify and convert checkpoints.")
    actions = weights.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = command("list", "weights:list_records", "Every public checkpoint.", actions)
    listed.add_argument("--model", help="only this network's")
    fetch = command("fetch", "weights:fetch", "Fetch, verify and convert checkpoints into the cache.", actions)
    fetch.add_argument("ids", nargs="+", metavar="ID", help="record ids, or `all`")
    verify = command("verify", "weights:verify", "Check what is cached against hashes and networks.", actions)
    verify.add_argument("ids", nargs="*", metavar="ID", help="record ids (default: everything cached)")
    convert = command("convert", "weights:convert", "Convert a checkpoint file to keras_mnasnet's safetensors.", actions)
    convert.add_argument("source", help="a .safetensors, .pth, .tgz file, a TF1 prefix or hf://owner/repo/file")
    convert.add_argument("target", help="the .safetensors file to write")
    convert.add_argument("--model", help="network; default: the family member that fits")
    _network_options(convert)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    module, _, function = arguments.handler.partition(":")
    try:
        with held_stderr():
            handlers = importlib.import_module(f"keras_mnasnet.cli.{module}")
        return getattr(handlers, function)(arguments) or 0
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    return _parser().parse_args(argv[1:])


def entry_point() -> None:
    """Run the command line; exit status 0, 1 for a failure, 2 for wrong usage."""
    try:
        app.run(_run, flags_parser=_parse)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    entry_point()
