"""Arguments of `mnasnet detect train`."""

from __future__ import annotations

import argparse

__all__ = ["train_options"]


def train_options(parser: argparse.ArgumentParser) -> None:
    """`detect train`, without the options that name a network, which `mnasnet train` has too."""
    parser.add_argument("annotations", nargs="?", metavar="ANNOTATIONS", help="COCO's instances .json, or a folder of VOC .xml")
    parser.add_argument("images", nargs="?", metavar="IMAGES", help="the folder of the photos")
    parser.add_argument("--output", metavar="RUN", help="a new folder for checkpoint, log and model")
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    parser.add_argument("--classes", metavar="FILE", help="the classes to learn, one a line (default: all of the file's)")
    parser.add_argument("--validation", metavar="ANNOTATIONS", help="measure on these after every epoch (default: nothing)")
    parser.add_argument("--validation-images", metavar="IMAGES", help="their photos (default: IMAGES)")
    parser.add_argument(
        "--ap", action=argparse.BooleanOptionalAction, default=True,
        help="measure COCO's AP on the validation photos (default; needs pycocotools), or their loss alone",
    )  # fmt: skip
    parser.add_argument("--model", help="the backbone (default: a1)")
    parser.add_argument(
        "--weights", help="of the backbone: `imagenet`, `cifar10`, a record id, a file, hf://...; or a detector to go on from; "
        "default: none, fresh weights",
    )  # fmt: skip
    parser.add_argument("--recipe", help="finetune-detector (default), ssdlite-mobilenet-v3, ssdlite-mobiledet, "
                        "ssdlite-mobilenet-v2, or a .json file")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value of the recipe")
    parser.add_argument("--epochs", type=int, help="epochs (default: the recipe's)")
    parser.add_argument("--batch-size", type=int, help="photos a step, over all replicas (default: the recipe's)")
    parser.add_argument("--learning-rate", type=float, help="peak rate at the recipe's base batch; scales with the batch")
    parser.add_argument("--resolution", type=int, metavar="PIXELS", help="input size (default: the recipe's, else 320)")
    parser.add_argument("--max-bad", type=int, metavar="N", help="damaged photos to leave out before giving up (default 0)")
    parser.add_argument(
        "--check", action=argparse.BooleanOptionalAction, default=True, help="decode every photo once before the start"
    )
    parser.add_argument("--checkpoint-steps", type=int, metavar="N", help="steps between checkpoints, at most (default 1000)")
    parser.add_argument("--mixed-precision", choices=("bfloat16", "float16"), help="compute in 16 bits, keep weights in 32")
    parser.add_argument("--jit-compile", action=argparse.BooleanOptionalAction, help="XLA (default: on accelerators only)")
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard logs to RUN/tensorboard")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0 (JAX backend); `auto` on a TPU slice")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="processes that train together (default 1)")
    parser.add_argument("--process-index", type=int, default=0, metavar="I", help="this one's number, from 0")
