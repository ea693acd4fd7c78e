"""Arguments of `mnasnet detect eval`, `predict` and `export`."""

from __future__ import annotations

import argparse

__all__ = ["eval_options", "export_options", "predict_options"]

MODEL_HELP = "a detector's .safetensors file or RUN folder, or a .tflite file"


def _selection(parser: argparse.ArgumentParser, score: float, subject: str) -> None:
    parser.add_argument(
        "--score-threshold", type=float, default=score, metavar="P", help=f"least score {subject} (default %(default)g)"
    )
    parser.add_argument(
        "--iou-threshold", type=float, default=0.6, metavar="IOU", help="of boxes of one class (default %(default)g)"
    )
    parser.add_argument("--max-detections", type=int, default=100, metavar="N", help="of a photo (default %(default)s)")


def _files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", metavar="FILE", help="class names, one a line, for .tflite files without them")
    parser.add_argument("--tflite-input", choices=("pixels", "unit", "signed", "imagenet"), help="default: as the file says")
    parser.add_argument("--threads", type=int, metavar="N", help="of .tflite models (default: all cores; 1 with the operator)")


def eval_options(parser: argparse.ArgumentParser) -> None:
    """`detect eval`."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"{MODEL_HELP}, or a COCO result file (.json)")
    parser.add_argument("--annotations", required=True, metavar="FILE", help="COCO's instances .json (or a folder of VOC .xml)")
    parser.add_argument("--images", metavar="DIR", help="the folder of its photos; result files need none")
    _selection(parser, 1e-8, "of Keras models and raw files")
    _files(parser)
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="photos at a time (default %(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="only N photos, spread evenly over the file")
    parser.add_argument("--max-bad", type=int, default=0, metavar="N", help="damaged photos to leave out, at most (default 0)")
    parser.add_argument("--per-category", action="store_true", help="also print AP and AP50 of every category")
    parser.add_argument("--write-results", metavar="DIR", help="write each detector's COCO result file there")
    parser.add_argument("--output", metavar="FILE.json", help="write numbers and environment to a file")


def predict_options(parser: argparse.ArgumentParser) -> None:
    """`detect predict`."""
    parser.add_argument("images", nargs="+", metavar="PHOTO", help="JPEG, PNG, GIF or BMP files")
    parser.add_argument("--weights", required=True, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--output", default=".", metavar="DIR", help="gets PHOTO_detections.png of each (default: here)")
    parser.add_argument("--no-draw", action="store_true", help="write no pictures")
    _selection(parser, 0.3, "to show")
    _files(parser)


def export_options(parser: argparse.ArgumentParser) -> None:
    """`detect export`."""
    parser.add_argument("--weights", required=True, metavar="MODEL", help="a detector's .safetensors file or RUN folder")
    parser.add_argument(
        "--output", required=True, metavar="FILE.tflite", help="the file to write; FILE.tflite.json is its report"
    )
    parser.add_argument(
        "--quantize", choices=("float32", "float16", "int8"), default="float32", help="default %(default)s; int8 is the fastest"
    )
    tail = parser.add_mutually_exclusive_group()
    tail.add_argument("--no-postprocess", action="store_true", help="put out raw boxes (in code) and scores")
    tail.add_argument("--builtin-nms", action="store_true", help="select boxes by LiteRT's own operator, not a custom one")
    _selection(parser, 0.01, "of a detection in the file")
    parser.add_argument("--calibrate", metavar="DATA", help="photos for int8's ranges: a folder, TFRecords, tfds:NAME")
    parser.add_argument("--calibration-images", type=int, default=500, metavar="N", help="at most (default %(default)s)")
    parser.add_argument("--input-dtype", choices=("float32", "uint8", "int8"), default="float32", help="of int8 files")
    parser.add_argument("--annotations", metavar="FILE", help="COCO annotations to measure what AP loses, with --images")
    parser.add_argument(
        "--images", metavar="DIR", help="photos to verify the file on (default: calibration's, else drawn ones)"
    )
    parser.add_argument("--verification-images", type=int, default=32, metavar="N", help="at most (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of photos (default %(default)s)")
    parser.add_argument("--max-bad", type=int, default=0, metavar="N", help="damaged photos to leave out, at most (default 0)")
