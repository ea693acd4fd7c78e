"""`mnasnet detect`: train, evaluate, use and export SSDLite detectors."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_mnasnet.cli.export import FILE, accepting_option, file_options, print_accelerators, print_comparisons, print_outline
from keras_mnasnet.cli.options import OF_DETECTORS, given, network_options, option, options, output, own
from keras_mnasnet.cli.output import Column, finish, print_columns, print_json, print_table, rounded
from keras_mnasnet.cli.parsing import Parser, UsageError, one_of
from keras_mnasnet.cli.train import drive, training_options
from keras_mnasnet.utils.system import environment
from keras_mnasnet.utils.text import say

if TYPE_CHECKING:
    from keras_mnasnet.detection.evaluation import CocoResult
    from keras_mnasnet.detection.inference import PhotoObjects
    from keras_mnasnet.detection.tflite import DetectorReport
    from keras_mnasnet.training import Training

SETTINGS = (
    "score_threshold", "iou_threshold", "max_detections", "batch_size", "input", "threads", "limit", "max_bad", "split",
    "crowd_as_objects",
)  # fmt: skip
BOXES = {"score": "score_threshold", "iou": "iou_threshold"}
BESIDE = "A data.yaml, and annotations that lie beside their photos, need none."
DETECTOR = "A trained detector: a run's folder, its model.safetensors, or hf://OWNER/NAME."
AUTO = (
    "Choose the anchors' scales and ratios by the training boxes (default: the usual ones, which `--set "
    "anchors.min_scale=0.1` and its like change)."
)
RECIPES = "They are finetune-detector (default), ssdlite-mobilenet-v3, ssdlite-mobiledet, ssdlite-mobilenet-v2."
LEARNED = "These are learned (default: all of the annotations')."
PRECISIONS = ("float32", "float16", "int8")


def add_commands(top: Parser) -> None:
    """`detect train`, `eval`, `data`, `predict`, `export` and `qat`."""
    detect = top.add(
        "detect", "Object detection: train, evaluate, use and export SSDLite detectors. Training and evaluation need the extra "
        "[detection].", example="mnasnet detect predict runs/mine kitchen.jpg -o drawn",
    )  # fmt: skip
    command = detect.add(
        "train", "Train a detector on COCO, VOC or YOLO annotations. Killed or stopped, --resume goes on with it.", train,
        usage=(
            "ANNOTATIONS [PHOTOS] --from MODEL -o RUN [options]", "ANNOTATIONS [PHOTOS] --network NETWORK ... -o RUN [options]",
            "--resume RUN",
        ),
        example="mnasnet detect train boxes.json photos --from imagenet -o runs/mine",
        needs=("ANNOTATIONS, PHOTOS and -o RUN, or --resume RUN",),
    )  # fmt: skip
    option(command, "--annotations", dest="annotations", nargs="?", positional="ANNOTATIONS")
    option(command, "--photos", BESIDE, dest="photos", nargs="?", positional="PHOTOS")
    start = command.add_argument_group("the start")
    option(start, "--from", "Of a classifier it is the body; a detector is gone on from.", dest="from_model")
    network_options(
        command, "training from scratch, or which network --from imagenet is", "The default is that of --from.", stem=False
    )
    data = training_options(command, RECIPES, **OF_DETECTORS)
    own(data, "--anchors", "auto", AUTO, type=one_of("auto"))
    option(data, "--labels", LEARNED)
    _validation(data)
    _no_ap(data)

    command = detect.add(
        "eval", "COCO's twelve numbers of detectors, .tflite files and result files, side by side.", evaluate,
        usage="MODEL... --annotations FILE [--photos FOLDER] [options]",
        example="mnasnet detect eval runs/mine mine.tflite --annotations val.json --photos photos",
        needs=("MODEL", "--annotations FILE"),
    )  # fmt: skip
    option(
        command, "MODEL", "A .tflite file or a COCO result file (.json) is taken, too.", dest="models", nargs="+", help=DETECTOR
    )
    data = command.add_argument_group("data")
    option(data, "--annotations", required=True)
    option(data, "--photos", f"They are the annotations'; result files need none. {BESIDE}", metavar="FOLDER")
    option(data, "--split")
    options(data, "--limit", "--max-bad", "--crowd-as-objects")
    _selection(command, 1e-8, "It is for Keras models and raw files.")
    option(_files(command), "--batch-size", "The default is %(default)s.", default=8)
    shown = command.add_argument_group("the result")
    shown.add_argument("--per-category", action="store_true", help="Also print AP and AP50 of every category.")
    own(shown, "--write-results", "FOLDER", "Write each detector's COCO result file there.")
    output(shown, "FILE.json", "numbers, settings and environment.", required=False)
    command.set_defaults(max_bad=0)

    command = detect.add(
        "data", "Say what a detector would be trained on, and do nothing else.", describe,
        usage="ANNOTATIONS [PHOTOS] [options]", example="mnasnet detect data boxes.json photos --anchors auto",
        needs=("ANNOTATIONS",),
    )  # fmt: skip
    option(command, "--annotations", dest="annotations", positional="ANNOTATIONS")
    option(command, "--photos", BESIDE, dest="photos", nargs="?", positional="PHOTOS")
    option(command, "--labels", LEARNED)
    _validation(command)
    options(command, "--max-bad", "--check")
    anchors = command.add_argument_group("the anchors, as `detect train` has them with the same options")
    option(anchors, "--recipe", RECIPES)
    option(anchors, "--set", "match_iou, extras and anchors.scales and its like decide here.")
    option(anchors, "--size", "The default is the recipe's, else 320.", **OF_DETECTORS)
    own(anchors, "--anchors", "auto", AUTO, type=one_of("auto"))
    command.set_defaults(max_bad=0)

    command = detect.add(
        "predict", "Find objects in photos, print them, and draw them.", predict,
        usage="MODEL PHOTO... -o FOLDER [options]", example="mnasnet detect predict runs/mine kitchen.jpg street.jpg -o drawn",
        needs=("MODEL", "PHOTO"),
    )  # fmt: skip
    option(command, "MODEL", "A .tflite file is taken, too.", help=DETECTOR)
    option(command, "PHOTO", dest="photos", nargs="+")
    output(
        command, "FOLDER", "a folder that gets PHOTO_detections.png of each photo (default: nothing is drawn).", required=False
    )
    _selection(command, 0.3, "")
    _files(command)

    command = detect.add(
        "export", "Write a detector as a .tflite file for phones, verified against the detector.", export,
        usage="MODEL -o FILE.tflite [options]", example="mnasnet detect export runs/mine -o mine.tflite",
        needs=("MODEL", "-o FILE.tflite"),
    )  # fmt: skip
    option(command, "MODEL", help=DETECTOR)
    file_options(command, PRECISIONS, "int8 is the fastest.")
    option(command, "--annotations", "What AP loses on --photos is measured by them.")
    _tail(command)

    command = detect.add(
        "qat", "Fine-tune a detector with quantization in the loop, and write the int8 .tflite file. Needs the extra [qat].",
        qat, usage="MODEL --annotations FILE [--photos FOLDER] -o FILE.tflite [options]",
        example="mnasnet detect qat runs/mine --annotations boxes.json --photos photos -o mine_qat.tflite",
        needs=("MODEL", "--annotations FILE", "-o FILE.tflite"),
    )  # fmt: skip
    option(command, "MODEL", help=DETECTOR)
    data = command.add_argument_group("data")
    option(data, "--annotations", "They must have the detector's classes.", required=True)
    option(data, "--photos", f"They are the annotations'. {BESIDE}", metavar="FOLDER")
    _validation(data)
    _no_ap(data)
    options(data, "--max-bad")
    how = command.add_argument_group("training")
    option(how, "--epochs", "The default is %(default)s.", default=3)
    own(how, "--steps-per-epoch", "N", "Take N steps an epoch at most (default: all photos).")
    option(how, "--batch-size", "That is a step (default: %(default)s).", default=16)
    option(how, "--learning-rate", "A cosine starts there (default: 1e-4).")
    options(how, "--seed")
    result = command.add_argument_group("the file")
    output(result, "FILE.tflite", FILE)
    option(result, "--input-dtype", default="float32")
    accepting_option(result)
    _tail(command)
    command.set_defaults(seed=0, max_bad=0)


def _validation(data: Any) -> None:
    """What a detector is measured on after every epoch."""
    option(
        data, "--validation",
        "Data are annotations here. The default is the first ANNOTATIONS' own validation split, else a tenth of the photos; 0 "
        "trains on all of them and measures nothing.",
        metavar="ANNOTATIONS|SHARE",
    )  # fmt: skip
    own(data, "--validation-folder", "PHOTOS", "Find the photos of --validation in this folder (default: PHOTOS).")
    option(data, "--crowd-as-objects")


def _no_ap(data: Any) -> None:
    data.add_argument(
        "--no-ap", dest="ap", action="store_false",
        help="Measure the validation photos' loss alone, not COCO's AP (pycocotools).",
    )  # fmt: skip


def _tail(command: Parser) -> None:
    """What follows the network in a file."""
    _selection(command, 0.01, "They do not leave the file.")
    tail = command.add_argument_group("what follows the network (default: the operator TFLite_Detection_PostProcess)")
    one = tail.add_mutually_exclusive_group()
    one.add_argument(
        "--no-postprocess", action="store_true", help="Let nothing follow: the file gives raw boxes (in code) and scores."
    )
    one.add_argument("--builtin-nms", action="store_true", help="Use LiteRT's own operator, where custom ones are not allowed.")


def _selection(command: Parser, score: float, more: str) -> None:
    group = command.add_argument_group("selection of boxes")
    option(group, "--score-threshold", more, default=score)
    options(group, "--iou-threshold", "--max-detections")


def _files(command: Parser) -> Any:
    group = command.add_argument_group("how")
    option(group, "--labels", "It is for .tflite files without them.")
    option(group, "--input", "It is for .tflite files (default: as the file says).")
    option(group, "--threads", "The default is all cores; 1 with the operator TFLite_Detection_PostProcess.")
    return group


def train(arguments: argparse.Namespace) -> int:
    """Start a detector's run, or go on with one."""
    inputs = (arguments.annotations, arguments.photos)
    if (arguments.annotations is None) == (arguments.resume is None):
        raise UsageError("give ANNOTATIONS, PHOTOS and -o RUN, or --resume RUN; received both, or neither")
    own = {"classes": "labels", "validation_photos": "validation_folder", "measure_ap": "ap"}
    return drive(arguments, "detection", inputs, _report_training, "validation", "crowd_as_objects", "anchors", **own)


def describe(arguments: argparse.Namespace) -> None:
    """Print what was read."""
    from keras_mnasnet import detection

    summary = detection.describe(
        arguments.annotations, arguments.photos,
        **given(
            arguments, "recipe", "size", "anchors", "validation", "crowd_as_objects", "max_bad", "check", classes="labels",
            changes="set", validation_photos="validation_folder",
        ),
    )  # fmt: skip
    return print_json(summary.as_json()) if arguments.json else print("\n".join(summary.lines()))


def _report_training(run: Training, as_json: bool) -> None:
    if as_json:
        facts = {
            "run": str(run.folder), "model": str(run.model), "data": run.data, "best_ap": run.best_accuracy, "epochs": run.rows,
        }  # fmt: skip
        return print_json(facts)
    last = run.rows[-1] if run.rows else {}
    shown = {"val_ap": "AP", "val_ap50": "AP50", "val_loss": "validation loss", "loss": "loss"}
    numbers = ", ".join(f"{text} {last[key]:.4f}" for key, text in shown.items() if key in last)
    return print(f"{numbers} after epoch {last['epoch']:g}" if last else "nothing was left to train")


def evaluate(arguments: argparse.Namespace) -> None:
    """Print the twelve numbers of every model."""
    from keras_mnasnet import detection
    from keras_mnasnet.benchmarks.results import SCHEMA
    from keras_mnasnet.detection.evaluation import evaluator
    from keras_mnasnet.utils.files import check_writable

    if arguments.output:
        check_writable(arguments.output)
    results = detection.evaluate(
        arguments.models, arguments.annotations, arguments.photos,
        **given(
            arguments, "labels", "threads", "batch_size", "limit", "max_bad", "max_detections", "split", "crowd_as_objects",
            file_input="input", results="write_results", **BOXES,
        ),
    )  # fmt: skip
    report = {
        "schema": SCHEMA, "benchmark": "coco", "environment": environment(), "evaluator": evaluator(),
        "data": {"annotations": arguments.annotations, "images": results[0].images, **results[0].data.as_json()},
        "settings": {key: getattr(arguments, key) for key in SETTINGS},
        "results": [
            {key: value for key, value in dataclasses.asdict(result).items() if key != "data"} for result in results
        ],
    }  # fmt: skip
    return finish(arguments, report, lambda: _print_evaluation(arguments, results))


def _print_evaluation(arguments: argparse.Namespace, results: Sequence[CocoResult]) -> None:
    from keras_mnasnet.detection.evaluation import evaluator, past_coco

    print(f"{arguments.annotations}: {results[0].images:,} photos, {results[0].categories:,} categories\n")
    _print_results(results)
    if past := past_coco(results[0].data):
        print(past)
    if arguments.per_category:
        _print_categories(results)
    print(f"\nevaluator: {evaluator()}")


def _print_results(results: Sequence[CocoResult]) -> None:
    from keras_mnasnet.detection.evaluation import METRICS

    def metric(name: str) -> Column:
        return lambda each: rounded(each.metrics[name])

    columns: dict[str, Column] = {"model": "model", **{name: metric(name) for name in METRICS}}
    print_columns(results, columns | {"detections": "detections", "images/s": "images_per_second"})
    print()
    for result in results:
        if result.input is None:
            print(f"{result.model}: a result file")
            continue
        print(f"{result.model}: input {result.input}; boxes selected: {result.suppression}")
        if result.categories_found < result.categories:
            print(f"  knows {result.categories_found:,} of {result.categories:,} categories; the others count as not found")


def _print_categories(results: Sequence[CocoResult]) -> None:
    header = ["category", "boxes"]
    for result in results:
        header += [f"{result.model} AP", "AP50"]
    rows = []
    for parts in zip(*(result.per_category for result in results), strict=True):
        if parts[0].boxes:
            numbers = [rounded(value) for part in parts for value in (part.ap, part.ap50)]
            rows.append([parts[0].name, parts[0].boxes, *numbers])
    print()
    print_table(header, rows)


def predict(arguments: argparse.Namespace) -> int:
    """Print the objects of each photo and draw them; a damaged photo is reported and makes the exit status 1."""
    from keras_mnasnet import detection

    found = detection.predict(
        arguments.model, arguments.photos,
        **given(arguments, "output", "labels", "threads", "max_detections", file_input="input", **BOXES),
    )  # fmt: skip
    if arguments.json:
        print_json([each.as_json() for each in found])
    else:
        for photo in found:
            _print_objects(photo)
    return 1 if any(photo.error for photo in found) else 0


def _print_objects(photo: PhotoObjects) -> None:
    if photo.error:
        return say(f"error: {photo.error}")
    print(f"{photo.photo} -> {photo.drawn}" if photo.drawn else photo.photo)
    for each in photo.objects:
        x, y, width, height = each.box
        print(f"  {each.label} {each.score:.3f}  x {x:.0f}, y {y:.0f}, {width:.0f} x {height:.0f}")
    return None if photo.objects else print("  nothing")


def _postprocess(arguments: argparse.Namespace) -> str:
    return "none" if arguments.no_postprocess else "builtin" if arguments.builtin_nms else "operator"


def export(arguments: argparse.Namespace) -> None:
    """Write the file and its report, and print what was measured."""
    from keras_mnasnet import detection

    report = detection.export(
        arguments.model, arguments.output, postprocess=_postprocess(arguments),
        **given(
            arguments, "quantize", "compute", "photos", "annotations", "input_dtype", "seed", "max_bad", "max_detections",
            "accept_changed", representative_data="calibrate", calibration_count="calibration_photos",
            verification_count="verification_photos",
            **BOXES,
        ),
    )  # fmt: skip
    return print_json(report.as_json()) if arguments.json else _print_file(report)


def qat(arguments: argparse.Namespace) -> None:
    """Train, write the file and its report, and print what was measured."""
    from keras_mnasnet import detection

    report = detection.quantize_aware(
        arguments.model, arguments.annotations, arguments.output, postprocess=_postprocess(arguments),
        **given(
            arguments, "photos", "validation", "epochs", "steps_per_epoch", "batch_size", "learning_rate", "seed", "max_bad",
            "crowd_as_objects", "input_dtype", "max_detections", "accept_changed", validation_photos="validation_folder",
            measure_ap="ap", **BOXES,
        ),
    )  # fmt: skip
    if arguments.json:
        return print_json(report.as_json())
    _print_file(report.export)
    print_table(
        ("epoch", "loss", "validation loss"),
        ((int(row["epoch"]), *(rounded(row.get(key)) for key in ("loss", "val_loss"))) for row in report.epochs),
    )
    if report.float_loss is not None and report.start_loss is not None:
        print(f"validation loss: float {report.float_loss:.4f}, quantized before training {report.start_loss:.4f}")
    return print(f"trained in {report.seconds:.0f} s")


def _print_file(report: DetectorReport) -> None:
    from keras_mnasnet.detection.evaluation import METRICS
    from keras_mnasnet.detection.inference import OPERATOR

    print_outline(report, f"post-processing: {report.postprocess}")
    network, whole = report.network_partitions, report.partitions
    outside = ", ".join(f"{kind} {count}" for kind, count in whole.outside.items())
    print(
        f"XNNPACK  {network.delegates} partition{'s' * (network.delegates != 1)} up to the selection of boxes"
        f"{f'; outside: {outside}' if outside else ', the whole graph'}"
    )
    print_accelerators(report)
    print_comparisons(report)
    agreed = report.agreement
    print(
        f"detections of {agreed.threshold:g} or more: {agreed.expected} of the model, {agreed.matched} of them in the file; "
        f"{agreed.found} of the file, {agreed.confirmed} of them in the model"
    )
    if agreed.max_box_difference is not None and agreed.max_score_difference is not None:
        print(
            f"  largest difference {agreed.max_box_difference:.2e} of a box (shares of the photo), "
            f"{agreed.max_score_difference:.2e} of a score; {agreed.close} boxes within 1e-3"
        )
    if report.evaluation is not None:
        measured = report.evaluation
        print(f"on {measured.images:,} photos of {measured.annotations}:")
        rows = (("Keras", measured.keras), ("file", measured.file))
        print_table(("", *METRICS), [[name, *map(rounded, values.values())] for name, values in rows])
        if measured.ap_drop is not None:
            print(f"AP drops by {measured.ap_drop:.6f}")
    if report.postprocess == "operator" and report.detector.classes > 2:
        print(f"run it in one thread: in T threads {OPERATOR} loses the class of index T (tensorflow/tensorflow#56058)")
    print(f"report: {report.path}.json; measure it with: mnasnet bench latency {report.path}")
