"""Train the weights that ship with the package, resume a training that was stopped, and put finished ones into the package.

    python weights/run_train_bundled.py train cifar10 a1 --data DIR --runs RUNS
    python weights/run_train_bundled.py pack --data DIR --runs RUNS --only cifar10
    python weights/run_train_bundled.py demo --data DIR

For `cifar10` DIR holds train.tfrecord, test.tfrecord and labels.txt; for `trashnet` the folders train, val and test of
github.com/garythung/trashnet. A network is trained in stages, each from the weights of the one before, into
RUNS/DATASET-NETWORK-stageN; `train` goes on where an earlier call stopped. A stage whose run is not there, but which the
package's weights have gone through by the same recipe, is taken from these. `pack` measures the last finished stage of every
network on the test photos as `mnasnet bench accuracy` does, and writes the weights and their records. `demo` puts a few test
photos of TrashNet, which the packed network classifies rightly and wrongly, into weights/demo.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from keras_mnasnet.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class Plan:
    """The networks of a data set with their widths, the recipes of the stages, and what the first one starts from."""

    networks: dict[str, float]
    stages: tuple[str, ...]
    start: str | None = None


_TRASH = (
    "finetune frozen_epochs=0 weight_decay=0.05 ema=0.998 augment.area=[0.25,1] augment.randaugment_ops=1 augment.mixup=0.2 "
)
PLANS = {
    "cifar10": Plan(
        {"a1": 0.5, "b1": 0.5, "small": 1.0},
        ("cifar10", "cifar10 epochs=15 size=48 learning_rate=0.002 warmup_epochs=1 augment.pad=6 augment.mixup=0.2"),
    ),
    "trashnet": Plan(
        {"a1": 0.5},
        (
            _TRASH + "epochs=60 size=64 learning_rate=0.002 warmup_epochs=2",
            _TRASH + "epochs=15 size=96 learning_rate=0.0005 warmup_epochs=1 augment.area=[0.35,1]",
        ),
        start="cifar10",
    ),
}
ROOT = Path(__file__).resolve().parent
BUNDLED = ROOT.parent / "keras_mnasnet" / "weights" / "bundled"
DEMO, WRONG = ROOT / "demo", 2
LICENSE = "Apache-2.0"


def folder_of(runs: Path, dataset: str, network: str, stage: int) -> Path:
    """The run of one stage of one network."""
    return runs / f"{dataset}-{network}-stage{stage + 1}"


def finished(folder: Path) -> bool:
    """Whether a run has gone through all its epochs."""
    from keras_mnasnet.training import read_log, read_run

    if not (folder / "run.json").is_file():
        return False
    rows = read_log(folder / "log.csv")
    return bool(rows) and float(rows[-1]["epoch"]) == read_run(folder)[0].recipe.epochs


def packed(dataset: str, network: str) -> dict[str, Any]:
    """What the package's table says of a network; empty where it has none."""
    records = json.loads((BUNDLED / "records.json").read_text("utf-8"))["records"]
    return next((record for record in records if (record["dataset"], record["network"]) == (dataset, network)), {})


def is_packed(dataset: str, network: str, stage: int) -> bool:
    """Whether the package's weights of a network come from this very stage, by its recipe."""
    from keras_mnasnet.training.recipe import parse_recipe, recipe_to_json

    trained = packed(dataset, network).get("training", [])
    recipe = recipe_to_json(parse_recipe(PLANS[dataset].stages[stage]))
    return len(trained) == stage + 1 and json.loads(json.dumps(recipe)) == trained[stage]["recipe"]


def train(arguments: argparse.Namespace) -> None:
    """Train one network through all stages, or resume it."""
    from keras_mnasnet.training import resume
    from keras_mnasnet.training import train as start

    dataset, network = arguments.dataset, arguments.network
    plan = PLANS[dataset]
    if network not in plan.networks:
        raise SystemExit(f"error: The networks of {dataset} are {', '.join(plan.networks)}. Received: {network}")
    for stage, recipe in enumerate(plan.stages):
        folder = folder_of(arguments.runs, dataset, network, stage)
        if finished(folder):
            continue
        if (folder / "run.json").is_file():
            resume(folder)
            continue
        if is_packed(dataset, network, stage):
            continue
        options: dict[str, Any] = {"network": network}
        if stage:
            before = folder_of(arguments.runs, dataset, network, stage - 1)
            weights = before / "model.safetensors" if finished(before) else BUNDLED / packed(dataset, network)["filename"]
            options = {"from_model": weights, "head": "keep"}
        elif plan.start:
            options["from_model"] = plan.start
        else:
            options |= {"width": plan.networks[network], "stem_stride": 1}
        start(arguments.data, folder, recipe=recipe, **options)


def pack(arguments: argparse.Namespace) -> None:
    """Measure the finished runs, and write weights and records."""
    from keras_mnasnet.benchmarks.results import write_json

    dataset, plan = arguments.only, PLANS[arguments.only]
    table = json.loads((BUNDLED / "records.json").read_text("utf-8"))
    for network, width in plan.networks.items():
        folders = [folder_of(arguments.runs, dataset, network, stage) for stage in range(len(plan.stages))]
        done = [folder for folder in folders if finished(folder)]
        if not done:
            print(f"{dataset} {network}: no finished stage in {arguments.runs}, not packed")
            continue
        entry = _packed(dataset, network, width, done, arguments.data)
        others = [record for record in table["records"] if (record["dataset"], record["network"]) != (dataset, network)]
        table["records"] = [*others, entry]
    order = [(dataset, network) for dataset, plan in PLANS.items() for network in plan.networks]
    table["records"].sort(key=lambda record: order.index((record["dataset"], record["network"])))
    write_json(BUNDLED / "records.json", table)


def _packed(dataset: str, network: str, width: float, done: list[Path], data: Path) -> dict[str, Any]:
    """The record of the last of some finished stages, whose weights are written beside it."""
    from keras_mnasnet.loading import load
    from keras_mnasnet.training import read_log, read_run
    from keras_mnasnet.training.recipe import recipe_to_json
    from keras_mnasnet.weights.checkpoint import OWN_SOURCE, Origin
    from keras_mnasnet.weights.datasets import DATASETS
    from keras_mnasnet.weights.formats.safetensors import write_native

    runs = [(*read_run(folder), read_log(folder / "log.csv")) for folder in done]
    kept = packed(dataset, network).get("training", [])[: int(done[0].name.rpartition("stage")[2]) - 1]
    made = [
        {
            "start": job.from_model if stage == 0 and not kept else "the stage before",
            "recipe": recipe_to_json(job.recipe),
            "seed": job.recipe.seed,
            "train_images": facts.train_images,
            "environment": facts.environment,
            "seconds": float(rows[-1]["seconds"]),
            "curve": [[float(row[key]) for key in ("epoch", "loss", "val_accuracy")] for row in rows],
        }
        for stage, (job, facts, rows) in enumerate(runs)
    ]
    trained, size = load(done[-1]), runs[-1][1].size
    network_of, classes = trained.architecture, trained.classes
    params, madds = network_of.params(classes=classes), network_of.madds(size, size, classes=classes)
    name, path = f"{dataset}/{network}-{width}-{size}", BUNDLED / f"{dataset}-{network}-{width}-{size}.safetensors"
    measured = _measure(done[-1], data)
    origin = Origin(OWN_SOURCE, name, record=name, license=LICENSE, measured=measured, measured_on=DATASETS[dataset].tested_on)
    write_native(dataclasses.replace(trained, origin=origin), path)
    for stale in BUNDLED.glob(f"{dataset}-{network}-*.safetensors"):
        if stale != path:
            stale.unlink()
    print(f"{path}: {path.stat().st_size:,} bytes. The row of the table in README.md:")
    print(f"| `{name}` | {network} | {params:,} | {madds / 1e6:.2f} M | {measured['top1']:g} | {measured['top5']:g} |")
    return {
        "id": name,
        "source": OWN_SOURCE,
        "dataset": dataset,
        "network": network,
        "network_version": 1,
        "width": width,
        "stem_stride": network_of.stem_stride,
        "size": size,
        "classes": classes,
        "filename": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size_bytes": path.stat().st_size,
        "preprocessing": _preprocessing(trained.preprocessing),
        **measured,
        "params": params,
        "note": f"photos: {DATASETS[dataset].photos}",
        "training": kept + made,
    }


def _preprocessing(value: Preprocessing) -> dict[str, Any]:
    keep = ("interpolation", "resize", "crop_fraction")
    return {key: item for key, item in dataclasses.asdict(value).items() if key in keep and item is not None}


def _measure(run: Path, data: Path) -> dict[str, float]:
    from keras_mnasnet.benchmarks import evaluate

    (result,) = evaluate([str(run)], str(data), split="test")
    return {"top1": round(100 * result.top1, 2), "top5": round(100 * (result.top5 or 0), 2)}


def demo(arguments: argparse.Namespace) -> None:
    """Put test photos of TrashNet into weights/demo: one of each class, two of them wrongly classified."""
    from keras_mnasnet.inference import predict
    from keras_mnasnet.utils.files import write_file
    from keras_mnasnet.weights.datasets import DATASETS

    files = {folder.name: sorted(folder.iterdir()) for folder in sorted((arguments.data / "test").iterdir()) if folder.is_dir()}
    found = predict("trashnet", [path for paths in files.values() for path in paths], top=1, progress=False)
    answers = {Path(each.photo): each.classes[0] for each in found}
    rows: list[str] = []
    kept: set[Path] = set()
    wrong = 0
    for name, paths in reversed(files.items()):
        missed = [path for path in paths if answers[path][0] != name]
        hit = [path for path in paths if path not in missed]
        chosen = (missed or hit)[0] if wrong < WRONG else (hit or missed)[0]
        wrong += chosen in missed
        copy = DEMO / f"trashnet-{chosen.name}"
        write_file(copy, chosen.read_bytes())
        kept.add(copy)
        label, share = answers[chosen]
        rows.insert(0, f"| `{copy.name}` | {name} | {label}, {100 * share:.0f} % | {'no' if chosen in missed else 'yes'} |")
    for stale in set(DEMO.glob("trashnet-*")) - kept:
        stale.unlink()
    license_text = (arguments.data / "LICENSE").read_text("utf-8").strip()
    write_file(
        DEMO / "SOURCE.md", SOURCE.format(photos=DATASETS["trashnet"].photos, rows="\n".join(rows), license=license_text)
    )
    print("\n".join(rows))


SOURCE = """# Where these pictures come from

`ship.png` and `airplane.png` were drawn for this project.

The photos are from the test split of TrashNet ({photos}), here with a shorter side
of 256 pixels.
`python weights/run_train_bundled.py demo --data DIR` chose them. It takes the first photo of each class, by name, that the
network `trashnet` classifies rightly, and of two classes the first one that it classifies wrongly.

| photo | class | what `mnasnet predict trashnet` says | right |
|---|---|---|---|
{rows}

License of the photos:

```
{license}
```
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    for function in (train, pack, demo):
        action = actions.add_parser(function.__name__, help=function.__doc__)
        action.set_defaults(function=function)
        if function is train:
            action.add_argument("dataset", choices=PLANS)
            action.add_argument("network")
        if function is pack:
            action.add_argument("--only", choices=PLANS, required=True, help="the data set whose networks are packed")
        action.add_argument("--data", type=Path, required=True, help="folder of the data set")
        if function is not demo:
            action.add_argument("--runs", type=Path, required=True, help="folder for the runs, one each")
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
