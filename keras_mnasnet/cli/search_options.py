"""The arguments of `mnasnet search`."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_search"]

TOP = 10


def add_search(commands: Any, command: Any) -> None:
    """Add `search` and its steps; `command(name, handler, help, parent)` adds one."""
    search = commands.add_parser("search", help="Find networks for your data and your device.")
    steps = search.add_subparsers(dest="step", required=True, metavar="STEP")

    run = command("run", "search:run", "Start a search, or go on with it: the same command, or --study FILE alone.", steps)
    _study(run)
    _run_options(run)

    status = command("status", "search:status", "How far a study is, also while it runs.", steps)
    _study(status)

    rescore = command(
        "rescore", "search_results:rescore", "The best networks for another target or reward; no training.", steps
    )
    _study(rescore)
    _reward(rescore)
    rescore.add_argument("--top", type=int, default=TOP, metavar="N", help="networks to print (default %(default)s)")

    retrain = command(
        "retrain", "search_results:retrain", "Train the best networks fully, and score them on images nothing was chosen by.",
        steps,
    )  # fmt: skip
    _study(retrain)
    _reward(retrain)
    retrain.add_argument("--output", required=True, metavar="DIR", help="a folder for the runs; the same command goes on")
    retrain.add_argument(
        "--top", type=int, default=15, metavar="K", help="networks to train (default %(default)s, the paper's)"
    )
    retrain.add_argument("--seeds", type=int, default=1, metavar="N", help="trainings of each (default %(default)s)")
    retrain.add_argument("--recipe", default="cifar10", help="full recipe (default %(default)s), or a .json file")
    retrain.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value of the recipe")
    retrain.add_argument("--data", metavar="DATA", help="default: the study's")
    retrain.add_argument("--resolution", type=int, metavar="PIXELS", help="input size (default: the study's)")

    optuna = command("export-optuna", "search_results:export_optuna", "Write the study for Optuna and its dashboard.", steps)
    _study(optuna)
    optuna.add_argument("--output", required=True, metavar="FILE.db", help="a new SQLite file; sqlite:///FILE.db for Optuna")
    optuna.add_argument(
        "--objectives",
        choices=("reward", "pareto"),
        default="reward",
        help="one, or accuracy and latency (default %(default)s)",
    )

    report = command("report", "search_report:report", "One page, with pictures, of what a study found.", steps)
    _study(report)
    report.add_argument("--output", metavar="DIR", help="folder for report.html, report.json and PNGs (default: FILE-report)")
    report.add_argument("--top", type=int, default=5, metavar="N", help="networks with stage tables (default %(default)s)")
    report.add_argument(
        "--landmarks", choices=("latency", "train", "none"), default="latency",
        help="A1, B1 and MobileNetV2: measure their latency as the study does (default), train them as its trials too, or none",
    )  # fmt: skip
    report.add_argument(
        "--pictures", action=argparse.BooleanOptionalAction, default=True, help="PNGs too; needs matplotlib (default), or not"
    )

    table = command(
        "table", "search_table:table", "Measure a latency table of a space on a device, for --device table:FILE.", steps
    )
    table.add_argument("--output", required=True, metavar="FILE.json", help="the table; the same command goes on")
    table.add_argument("--space", default="mbconv", help="mbconv (default), paper, vertex, cell, macro, or module:function")
    table.add_argument("--space-set", action="append", default=[], metavar="KEY=VALUE", help="e.g. width=0.5, stem_stride=1")
    table.add_argument("--device", default="host", metavar="host|adb[:SERIAL]", help="default %(default)s")
    table.add_argument("--resolution", type=int, default=224, metavar="PIXELS", help="input size (default %(default)s)")
    table.add_argument("--classes", type=int, default=1000, metavar="N", help="of the classifier (default %(default)s)")
    table.add_argument(
        "--networks", type=int, default=16, metavar="N", help="whole networks that scale and check it (default %(default)s)"
    )
    table.add_argument("--runs", type=int, metavar="N", help="timed runs of each row (default: 60; phone: 50)")
    table.add_argument("--core", type=int, metavar="N", help="host: the core to measure on")
    table.add_argument("--mask", metavar="HEX", help="phone: cores to pin to")
    table.add_argument("--benchmark-model", metavar="PATH", help="phone: the official tool, or a folder with one for each ABI")


def _study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--study", required=True, metavar="FILE", help="the study's SQLite file")


def _reward(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target-ms", type=float, metavar="MS", help="latency target (default: the study's)")
    parser.add_argument("--reward", help="soft, hard, absolute, accuracy, soft:-0.15 or -0.07,-1 (default: the study's)")


def _run_options(run: argparse.ArgumentParser) -> None:
    run.add_argument("--space", help="mbconv (default), paper, vertex, cell, macro, or module:function of your own")
    run.add_argument("--space-set", action="append", default=[], metavar="KEY=VALUE", help="e.g. width=0.5, stem_stride=1")
    run.add_argument("--data", metavar="DIR|cifar10|shapes", help="class folders, TFRecords, cifar10, shapes, tfds:NAME")
    run.add_argument("--target-ms", type=float, metavar="MS", help="the latency to aim at")
    run.add_argument("--device", metavar="DEVICE", help="host (default), adb[:SERIAL], table:FILE, pixel1, madds, or a chain")
    run.add_argument("--reward", help="soft (default), hard, absolute, accuracy, soft:-0.15 or -0.07,-1")
    run.add_argument("--algorithm", help="thompson (default), ppo, evolution or random")
    run.add_argument("--algorithm-set", action="append", default=[], metavar="KEY=VALUE", help="e.g. preset=tuned for ppo")
    run.add_argument("--recipe", help="proxy recipe (default proxy-5-epochs), or a .json file")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value of the recipe")
    run.add_argument("--resolution", type=int, metavar="PIXELS", help="input size (default: the recipe's, else 224)")
    run.add_argument("--images", type=int, metavar="N", help="train on N images, evenly over the classes (default: all)")
    run.add_argument("--validation-images", type=int, metavar="N", help="held out of training, to choose by (default: a tenth)")
    run.add_argument("--max-params", type=int, metavar="N", help="no network with more parameters")
    run.add_argument("--max-madds", type=int, metavar="N", help="no network with more multiply-adds")
    run.add_argument("--max-latency-ms", type=float, metavar="MS", help="no slower network; not with host and adb")
    run.add_argument("--seed", type=int, help="of the algorithm (default 0)")
    run.add_argument("--trials", type=int, metavar="N", help="networks to train, those of earlier runs included (default 200)")
    run.add_argument("--workers", type=int, metavar="N", help="trials at a time (default 1)")
    run.add_argument(
        "--executor", choices=("local", "inline", "ray"), help="processes here (default), this process, or a Ray cluster"
    )
    run.add_argument("--ray-address", metavar="ADDRESS", help="auto, HOST:PORT or ray://HOST:PORT (default: Ray starts here)")
    run.add_argument("--cpus", type=float, default=1.0, metavar="N", help="Ray: CPUs of a worker (default %(default)s)")
    run.add_argument("--gpus", type=float, default=0.0, metavar="N", help="Ray: GPUs of a worker (default %(default)s)")
    run.add_argument(
        "--order", choices=("batch", "window", "completion"),
        help="batch (ppo's default): all results of a batch at once; window (default): one by one, by number; completion: as "
        "they finish, which is faster where trials differ in length, and not repeatable",
    )  # fmt: skip
    run.add_argument("--batch", type=int, metavar="N", help="trials out at a time (default: --workers; ppo 20)")
    run.add_argument("--timeout", type=float, metavar="SECONDS", help="a trial that takes longer failed (default: none)")
    run.add_argument("--minutes", type=float, metavar="N", help="start no trial after this long; the same command goes on")
    run.add_argument("--core", type=int, metavar="N", help="host: the core to measure on")
    run.add_argument("--mask", metavar="HEX", help="phone: cores to pin to")
    run.add_argument("--benchmark-model", metavar="PATH", help="phone: the official tool, or a folder with one for each ABI")
    run.add_argument("--estimate", action="store_true", help="print what the search would take, and stop")
