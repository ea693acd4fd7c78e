"""`mnasnet`: the parser of every sub-command; what a sub-command does is imported when it runs."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from absl import app, flags, logging
from absl.flags import argparse_flags

from keras_mnasnet import __version__
from keras_mnasnet.cli import detect_options
from keras_mnasnet.cli.detect_train_options import train_options
from keras_mnasnet.cli.search_options import add_search
from keras_mnasnet.utils.system import held_stderr

__all__ = ["entry_point"]

WEIGHTS_HELP = "`imagenet` (default), a record id, a file, or hf://owner/repo[@revision]/file"


def _number_or_flag(text: str) -> bool | float:
    words = {"true": True, "on": True, "false": False, "off": False}
    return words[text.lower()] if text.lower() in words else float(text)


def _network_options(parser: argparse.ArgumentParser, *, stem: bool = True) -> None:
    parser.add_argument("--width", type=float, metavar="X", help="width multiplier (channels), e.g. 0.75")
    parser.add_argument("--depth", type=float, metavar="X", help="depth multiplier (repeats)")
    parser.add_argument("--se", type=_number_or_flag, metavar="on|off|RATIO", help="squeeze-and-excite; default: as published")
    if stem:
        parser.add_argument("--stem-stride", type=int, choices=(1, 2), help="1 for small photos; default: 2, as published")


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="?", metavar="DATA", help="a folder of <class>/*.jpg, TFRecords, `shapes`, or tfds:NAME")
    parser.add_argument("--output", metavar="RUN", help="a new folder for checkpoint, log and model")
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    parser.add_argument("--validation", metavar="DATA", help="default: DATA's own validation or test split, else a tenth of it")
    parser.add_argument("--model", help="network (default: the checkpoint's, else a1)")
    parser.add_argument("--weights", help=WEIGHTS_HELP.replace(" (default)", "") + "; default: none, fresh weights")
    parser.add_argument("--head", choices=("new", "keep"), help="classifier: a new one (default) or the checkpoint's")
    _network_options(parser)
    parser.add_argument("--recipe", help="finetune (default), cifar10, paper-imagenet, proxy-5-epochs, or a .json file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value of the recipe")
    parser.add_argument("--epochs", type=int, help="epochs (default: the recipe's)")
    parser.add_argument("--batch-size", type=int, help="images a step, over all replicas (default: the recipe's)")
    parser.add_argument("--learning-rate", type=float, help="peak rate at the recipe's base batch; scales with the batch")
    parser.add_argument("--resolution", type=int, metavar="PIXELS", help="input size (default: the recipe's or checkpoint's)")
    parser.add_argument("--max-bad", type=int, metavar="N", help="damaged images to leave out before giving up (default 0)")
    parser.add_argument(
        "--check", action=argparse.BooleanOptionalAction, default=True, help="decode every image once before the start"
    )
    parser.add_argument("--checkpoint-steps", type=int, metavar="N", help="steps between checkpoints, at most (default 1000)")
    parser.add_argument("--mixed-precision", choices=("bfloat16", "float16"), help="compute in 16 bits, keep weights in 32")
    parser.add_argument("--jit-compile", action=argparse.BooleanOptionalAction, help="XLA (default: on accelerators only)")
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard logs to RUN/tensorboard")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0 (JAX backend); `auto` on a TPU slice")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="processes that train together (default 1)")
    parser.add_argument("--process-index", type=int, default=0, metavar="I", help="this one's number, from 0")


def _export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", required=True, metavar="FILE.tflite", help="the file to write; FILE.tflite.json is its report"
    )
    parser.add_argument("--model", help="network (default: the checkpoint's, a1 for `imagenet`)")
    parser.add_argument("--weights", default="imagenet", help=WEIGHTS_HELP + "; a RUN folder; any model's .keras file")
    _network_options(parser)
    parser.add_argument("--resolution", type=int, metavar="PIXELS", help="input size (default: the checkpoint's)")
    parser.add_argument(
        "--quantize", choices=("float32", "float16", "weight-int8", "int8", "dynamic"), default="float32",
        help="default %(default)s; int8 is the fastest, weight-int8 the smallest at float32's speed, dynamic is slower",
    )  # fmt: skip
    parser.add_argument("--calibrate", metavar="DATA", help="photos for int8's ranges: a folder, TFRecords, tfds:NAME")
    parser.add_argument("--calibration-images", type=int, default=500, metavar="N", help="at most (default %(default)s)")
    parser.add_argument(
        "--input-dtype", choices=("float32", "uint8", "int8"), default="float32", help="of int8 files, and output"
    )
    parser.add_argument(
        "--images", metavar="DATA", help="photos to verify the file on (default: calibration's, else drawn ones)"
    )
    parser.add_argument(
        "--input", choices=("pixels", "unit", "signed", "imagenet"),
        help="how a .keras model takes photos (default: pixels 0..255 where it normalises them itself)",
    )  # fmt: skip
    parser.add_argument("--verification-images", type=int, default=32, metavar="N", help="at most (default %(default)s)")
    parser.add_argument("--labels", metavar="FILE", help="class names, one a line (default: the checkpoint's, if it has any)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images a call, fixed (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of photos (default %(default)s)")
    parser.add_argument("--max-bad", type=int, default=0, metavar="N", help="damaged photos to leave out, at most (default 0)")


def _qat_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="record id, dataset name, checkpoint file or RUN folder")
    parser.add_argument("--data", required=True, metavar="DATA", help="labelled photos of the checkpoint's classes")
    parser.add_argument(
        "--output", required=True, metavar="FILE.tflite", help="the file to write; FILE.tflite.json is its report"
    )
    parser.add_argument("--epochs", type=int, default=3, help="default %(default)s")
    parser.add_argument("--steps-per-epoch", type=int, metavar="N", help="at most (default: all images)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images a step (default %(default)s)")
    parser.add_argument("--learning-rate", type=float, help="at the start of a cosine (default 1e-4; with --prune 1e-3)")
    parser.add_argument("--prune", type=float, metavar="SHARE", help="zeros in the 1x1 convolutions, 0..1; a float32 file then")
    parser.add_argument("--input-dtype", choices=("float32", "uint8", "int8"), default="float32", help="and of the output")
    parser.add_argument("--resolution", type=int, metavar="PIXELS", help="input size (default: the checkpoint's)")
    parser.add_argument("--labels", metavar="FILE", help="class names, one a line (default: the checkpoint's, if it has any)")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--max-bad", type=int, default=0, metavar="N", help="damaged photos to leave out, at most (default 0)")


def _bench_imagenet_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="record id, dataset name, checkpoint, RUN folder or .tflite")
    parser.add_argument("--data", required=True, metavar="DATA", help="class folders, ILSVRC photos, tar, TFRecords, tfds:NAME")
    parser.add_argument("--split", help="default: the data's validation split, else its test split")
    parser.add_argument("--ground-truth", metavar="FILE", help="labels of the ILSVRC-2012 validation photos")
    parser.add_argument("--synsets", metavar="FILE", help="the devkit's wnids, for a ground truth of its numbers 1..1000")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="photos at a time (default %(default)s)")
    parser.add_argument("--resolution", type=int, metavar="PIXELS", help="input size (default: each model's own)")
    parser.add_argument("--preprocessing", choices=("google", "timm", "torchvision", "pillow"), help="default: the model's own")
    parser.add_argument("--tflite-input", choices=("pixels", "unit", "signed", "imagenet"), help="default: as the file says")
    parser.add_argument("--labels-offset", type=int, choices=(0, 1), help="the output of label 0 (default: by name or count)")
    parser.add_argument("--threads", type=int, metavar="N", help="of .tflite models (default: all cores)")
    parser.add_argument("--limit", type=int, metavar="N", help="only N photos, spread evenly over the data")
    parser.add_argument("--max-bad", type=int, default=0, metavar="N", help="damaged photos to leave out, at most (default 0)")
    parser.add_argument("--per-class", action="store_true", help="also print the counts of every class")
    parser.add_argument("--output", metavar="FILE.json", help="write results and environment to a file")


def _bench_latency_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="+", metavar="FILE|MODEL", help=".tflite file, network (a1, a1-0.5, ...) or record id, the last two "
        "with [@RESOLUTION][:float32|float16|weight-int8|int8]; a network by name has random weights",
    )  # fmt: skip
    parser.add_argument("--device", default="host", metavar="host|adb[:SERIAL]", help="this machine (default) or a phone")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads (default %(default)s, as in the paper)")
    parser.add_argument("--runs", type=int, metavar="N", help="timed runs of each model (default: 60; phone: 50)")
    parser.add_argument("--warmup", type=int, metavar="N", help="runs before the first timed one (default: 3; phone: 1)")
    parser.add_argument("--repeats", type=int, metavar="N", help="phone: times each model is measured, in turns (default 3)")
    parser.add_argument("--resolution", type=int, metavar="PIXELS", help="of networks, and of files with an open size")
    parser.add_argument("--core", type=int, metavar="N", help="the core to pin to (default: the last of the fastest)")
    parser.add_argument("--mask", metavar="HEX", help="phone: cores to pin to, f0 for 4 to 7 (default: the fastest)")
    parser.add_argument("--benchmark-model", metavar="PATH", help="phone: the official tool, or a folder with one for each ABI")
    parser.add_argument(
        "--preprocessing", action=argparse.BooleanOptionalAction, default=True,
        help="normalise the input inside networks given by name, as exported files do (default), or leave it out",
    )  # fmt: skip
    parser.add_argument("--profile", action="store_true", help="also milliseconds by stage, of networks given by name")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of inputs, random weights and the bootstrap")
    parser.add_argument("--output", metavar="FILE.json", help="write the report to a file")


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

    train = command("train", "train:train", "Train or fine-tune a network on your own images, or resume a run.")
    _train_options(train)

    bench = commands.add_parser("bench", help="Measure models as the paper does.")
    measures = bench.add_subparsers(dest="measure", required=True, metavar="MEASURE")
    accuracy = command("imagenet", "bench:imagenet", "Top-1 and top-5 accuracy on ImageNet or other labelled photos.", measures)
    _bench_imagenet_options(accuracy)
    speed = command("latency", "latency:latency", "Single-thread latency of .tflite files and networks by name.", measures)
    _bench_latency_options(speed)

    detect = commands.add_parser("detect", help="Object detection: train, evaluate, use and export SSDLite detectors.")
    steps = detect.add_subparsers(dest="step", required=True, metavar="STEP")
    detector = command("train", "detect:train", "Train a detector on COCO or VOC annotations, or resume a run.", steps)
    train_options(detector)
    _network_options(detector, stem=False)
    detect_options.eval_options(
        command("eval", "detect_eval:evaluate", "COCO's twelve numbers of detectors and result files, side by side.", steps)
    )
    detect_options.predict_options(command("predict", "detect_predict:predict", "Find objects in photos and draw them.", steps))
    written = command("export", "detect_export:export", "Write a detector as a verified .tflite file for phones.", steps)
    detect_options.export_options(written)

    exported = command("export", "export:export", "Write a checkpoint or Keras model as a verified .tflite file.")
    _export_options(exported)

    trained = command("qat", "qat:qat", "Fine-tune with quantization or pruning in the loop, and write the .tflite file.")
    _qat_options(trained)

    recipes = command("recipes", "recipes:recipes", "The training recipes: every value, and what it rests on.")
    recipes.add_argument("name", nargs="?", help="one recipe (default: all)")
    recipes.add_argument("--detection", action="store_true", help="the recipes of detectors instead of classifiers'")

    add_search(commands, command)

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
    except Exception as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        print(
            f"error: There must be memory for the tensors. Received: {said}. "
            f"Use a smaller --resolution or --batch-size, or fewer images.",
            file=sys.stderr,
        )
        return 1


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    return _parser().parse_args(argv[1:])


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM as SystemExit(143) in this process, so that temporary files are removed; a second one ends it at once.

    Forked children keep the system's way, and a caller that ignores or handles SIGTERM its own.
    """
    usual = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != process:
            os.kill(os.getpid(), signal.SIGTERM)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if os.getpid() == process:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def entry_point() -> None:
    """Run the command line; exit status 0, 1 for a failure, 2 for wrong usage, 130 and 143 when interrupted or terminated."""
    try:
        with _terminable():
            app.run(_run, flags_parser=_parse)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    entry_point()
