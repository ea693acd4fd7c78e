"""Train the bundled CIFAR-10 weights, resume a training that was stopped, and put finished ones into the package.

    python weights/run_train_bundled.py train a1 --data DIR --runs RUNS
    python weights/run_train_bundled.py pack --data DIR --runs RUNS

DIR holds train.tfrecord, test.tfrecord and labels.txt. `train` goes on where an earlier call stopped. `pack` measures
every finished run on the 10,000 test images as `mnasnet bench imagenet` does, and writes the weights and their records.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from keras_mnasnet.weights.registry import Preprocessing

NETWORKS = {"a1": 0.5, "b1": 0.5, "small": 1.0}
RECIPE = "cifar10"
BUNDLED = Path(__file__).resolve().parent.parent / "keras_mnasnet" / "weights" / "bundled"


def train(arguments: argparse.Namespace) -> None:
    """Train one network, or resume it."""
    from keras_mnasnet.training import Job, parse_recipe, resume
    from keras_mnasnet.training import train as start

    folder = arguments.runs / arguments.network
    if (folder / "run.json").is_file():
        resume(folder)
        return
    job = Job(
        data=str(arguments.data),
        model=arguments.network,
        width=NETWORKS[arguments.network],
        stem_stride=1,
        recipe=parse_recipe(arguments.recipe),
    )
    start(folder, job)


def pack(arguments: argparse.Namespace) -> None:
    """Measure the finished runs, and write weights and records."""
    from keras_mnasnet.training.callbacks import read_log
    from keras_mnasnet.training.job import read_run
    from keras_mnasnet.training.recipe import recipe_to_json
    from keras_mnasnet.weights import read_file
    from keras_mnasnet.weights.load import preprocessing_of
    from keras_mnasnet.weights.store import write_native

    table = json.loads((BUNDLED / "records.json").read_text("utf-8"))
    for network, width in NETWORKS.items():
        folder = arguments.runs / network
        if not (folder / "run.json").is_file():
            continue
        job, facts = read_run(folder)
        rows = read_log(folder / "log.csv")
        if not rows or float(rows[-1]["epoch"]) < job.recipe.epochs:
            print(f"{network}: {len(rows)} of {job.recipe.epochs} epochs, not packed")
            continue
        checkpoint = read_file(folder / "model.safetensors")
        filename = f"cifar10-{network}-{width}-{facts.size}.safetensors"
        write_native(checkpoint, BUNDLED / filename)
        measured = _measure(BUNDLED / filename, arguments.data)
        entry = {
            "id": f"cifar10/{network}-{width}-{facts.size}",
            "source": "keras_mnasnet",
            "dataset": "cifar10",
            "network": network,
            "network_version": 1,
            "width": width,
            "stem_stride": checkpoint.architecture.stem_stride,
            "resolution": facts.size,
            "classes": checkpoint.classes,
            "filename": filename,
            "sha256": hashlib.sha256((BUNDLED / filename).read_bytes()).hexdigest(),
            "size_bytes": (BUNDLED / filename).stat().st_size,
            "preprocessing": _preprocessing(preprocessing_of(checkpoint, facts.size)),
            **measured,
            "params": checkpoint.architecture.params(classes=checkpoint.classes),
            "training": {
                "recipe": recipe_to_json(job.recipe),
                "seed": job.recipe.seed,
                "train_images": facts.train_images,
                "environment": facts.environment,
                "seconds": float(rows[-1]["seconds"]),
                "curve": [[float(row[key]) for key in ("epoch", "loss", "val_accuracy")] for row in rows],
            },
        }
        table["records"] = [record for record in table["records"] if record["network"] != network] + [entry]
        print(f"{entry['id']}: top-1 {entry['top1']} %, {entry['size_bytes']:,} bytes")
    table["records"].sort(key=lambda record: list(NETWORKS).index(record["network"]))
    text = json.dumps(table, indent=1)
    temporary = BUNDLED / ".records.json.tmp"
    temporary.write_text(text + "\n", "utf-8")
    os.replace(temporary, BUNDLED / "records.json")


def _preprocessing(value: Preprocessing) -> dict[str, Any]:
    keep = ("interpolation", "resize", "crop_fraction")
    return {key: item for key, item in dataclasses.asdict(value).items() if key in keep and item is not None}


def _measure(path: Path, data: Path) -> dict[str, float]:
    from keras_mnasnet.benchmarks.imagenet import evaluate_models

    (result,) = evaluate_models([str(path)], str(data), split="test")
    return {"top1": round(100 * result.top1, 2), "top5": round(100 * (result.top5 or 0), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    for name, function in (("train", train), ("pack", pack)):
        action = actions.add_parser(name)
        action.set_defaults(function=function)
        if name == "train":
            action.add_argument("network", choices=NETWORKS)
            action.add_argument("--recipe", default=RECIPE, help="recipe text (default %(default)s)")
        action.add_argument("--data", type=Path, required=True, help="folder of the CIFAR-10 TFRecords")
        action.add_argument("--runs", type=Path, required=True, help="folder for the runs, one each")
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
