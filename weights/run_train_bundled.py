"""Train the bundled CIFAR-10 weights, resume a training that was stopped, and put finished ones into the package.

    python weights/run_train_bundled.py train a1 --data DIR --runs RUNS
    python weights/run_train_bundled.py pack --data DIR --runs RUNS

DIR holds train.tfrecord, test.tfrecord and labels.txt. A network is trained in stages, from the resolution of the photos up,
each from the weights of the one before; `train` goes on where an earlier call stopped. `pack` measures the last finished stage
of every network on the 10,000 test images as `mnasnet bench accuracy` does, and writes the weights and their records.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from keras_mnasnet.preprocessing import Preprocessing

NETWORKS = {"a1": 0.5, "b1": 0.5, "small": 1.0}
STAGES = (
    "cifar10",
    "cifar10 epochs=15 size=48 learning_rate=0.002 warmup_epochs=1 augment.pad=6 augment.mixup=0.2",
)
BUNDLED = Path(__file__).resolve().parent.parent / "keras_mnasnet" / "weights" / "bundled"


def folder_of(runs: Path, network: str, stage: int) -> Path:
    """The run of one stage of one network."""
    return runs / (network if stage == 0 else f"{network}-stage{stage + 1}")


def finished(folder: Path) -> bool:
    """Whether a run has gone through all its epochs."""
    from keras_mnasnet.training import read_log, read_run

    if not (folder / "run.json").is_file():
        return False
    rows = read_log(folder / "log.csv")
    return bool(rows) and float(rows[-1]["epoch"]) == read_run(folder)[0].recipe.epochs


def train(arguments: argparse.Namespace) -> None:
    """Train one network through all stages, or resume it."""
    from keras_mnasnet.training import resume
    from keras_mnasnet.training import train as start

    for stage, recipe in enumerate(STAGES):
        folder = folder_of(arguments.runs, arguments.network, stage)
        if finished(folder):
            continue
        if (folder / "run.json").is_file():
            resume(folder)
            continue
        options: dict[str, Any] = {
            "network": arguments.network, "width": NETWORKS[arguments.network], "stem_stride": 1,
        }  # fmt: skip
        if stage:
            before = folder_of(arguments.runs, arguments.network, stage - 1)
            options = {"from_model": before / "model.safetensors", "head": "keep"}
        start(arguments.data, folder, recipe=recipe, **options)


def pack(arguments: argparse.Namespace) -> None:
    """Measure the finished runs, and write weights and records."""
    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.loading import load
    from keras_mnasnet.training import read_log, read_run
    from keras_mnasnet.training.recipe import recipe_to_json
    from keras_mnasnet.weights.formats.safetensors import write_native

    table = json.loads((BUNDLED / "records.json").read_text("utf-8"))
    for network, width in NETWORKS.items():
        done = [folder for stage in range(len(STAGES)) if finished(folder := folder_of(arguments.runs, network, stage))]
        if not done:
            print(f"{network}: no finished stage, not packed")
            continue
        runs = [(*read_run(folder), read_log(folder / "log.csv")) for folder in done]
        folder, (_, facts, _) = done[-1], runs[-1]
        checkpoint = load(folder)
        filename = f"cifar10-{network}-{width}-{facts.size}.safetensors"
        write_native(checkpoint, BUNDLED / filename)
        measured = _measure(BUNDLED / filename, arguments.data)
        for stale in BUNDLED.glob(f"cifar10-{network}-*.safetensors"):
            if stale.name != filename:
                stale.unlink()
        entry = {
            "id": f"cifar10/{network}-{width}-{facts.size}",
            "source": "keras_mnasnet",
            "dataset": "cifar10",
            "network": network,
            "network_version": 1,
            "width": width,
            "stem_stride": checkpoint.architecture.stem_stride,
            "size": facts.size,
            "classes": checkpoint.classes,
            "filename": filename,
            "sha256": hashlib.sha256((BUNDLED / filename).read_bytes()).hexdigest(),
            "size_bytes": (BUNDLED / filename).stat().st_size,
            "preprocessing": _preprocessing(checkpoint.preprocessing),
            **measured,
            "params": checkpoint.architecture.params(classes=checkpoint.classes),
            "training": [
                {
                    "recipe": recipe_to_json(job.recipe),
                    "seed": job.recipe.seed,
                    "train_images": stage.train_images,
                    "environment": stage.environment,
                    "seconds": float(rows[-1]["seconds"]),
                    "curve": [[float(row[key]) for key in ("epoch", "loss", "val_accuracy")] for row in rows],
                }
                for job, stage, rows in runs
            ],
        }
        table["records"] = [record for record in table["records"] if record["network"] != network] + [entry]
        print(f"{entry['id']}: top-1 {entry['top1']} %, {entry['size_bytes']:,} bytes")
    table["records"].sort(key=lambda record: list(NETWORKS).index(record["network"]))
    write_json(BUNDLED / "records.json", table)


def _preprocessing(value: Preprocessing) -> dict[str, Any]:
    keep = ("interpolation", "resize", "crop_fraction")
    return {key: item for key, item in dataclasses.asdict(value).items() if key in keep and item is not None}


def _measure(path: Path, data: Path) -> dict[str, float]:
    from keras_mnasnet.benchmarks import evaluate

    (result,) = evaluate([str(path)], str(data), split="test")
    return {"top1": round(100 * result.top1, 2), "top5": round(100 * (result.top5 or 0), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    for name, function in (("train", train), ("pack", pack)):
        action = actions.add_parser(name)
        action.set_defaults(function=function)
        if name == "train":
            action.add_argument("network", choices=NETWORKS)
        action.add_argument("--data", type=Path, required=True, help="folder of the CIFAR-10 TFRecords")
        action.add_argument("--runs", type=Path, required=True, help="folder for the runs, one each")
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
