"""What rungs and inheritance are worth, on real trainings: CIFAR-10 at 32 pixels and trashnet at 96.

    python search/run_rungs.py --output runs_rungs          # the same command goes on where it was stopped

For each task 24 networks of the space `mbconv` at a small width are trained in three searches of the same networks and the
same recipe, once for each seed: fully from fresh weights (the truth), in rungs of 1, 2 and 5 fifths of the recipe from fresh
weights, and in the same rungs from the weights of A1 at that width, trained on the same training photos for as long as the
recipe says. Printed and written: Kendall's tau of the first rung with the full training of the same seed, the full training's
reward of the network that the rungs find best against the best of all, and the share of the training steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet import search
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.benchmarks.results import write_json
from keras_mnasnet.family import A1
from keras_mnasnet.search import Decision, Reward, SearchSpace, Study, Trial, make_space
from keras_mnasnet.search.screens import kendall_tau
from keras_mnasnet.search.trials import highest
from keras_mnasnet.training import Recipe, parse_recipe
from keras_mnasnet.utils.system import machine

SCHEMA = 1
RUNGS, KEEP = (0.2, 0.4, 1.0), 1 / 3
KINDS: dict[str, dict[str, Any]] = {
    "full": {}, "rungs": {"rungs": RUNGS, "keep": KEEP}, "rungs-inherit": {"rungs": RUNGS, "keep": KEEP},
}  # fmt: skip
GOALS = {"tau": 0.6, "share_of_steps": 1 / 3}


@dataclasses.dataclass(frozen=True)
class Task:
    """Photos, input size, and the networks: `mbconv` at a width. `images` of training None: all."""

    data: str
    size: int
    width: float
    stem_stride: int
    recipe: str
    images: int | None = None
    validation_images: int | None = None


TASKS = {
    "cifar10": Task("cifar10", 32, 0.25, 1, "proxy-5-epochs", 10_000, 5_000),
    "trashnet": Task("trashnet", 96, 0.35, 2, "proxy-5-epochs epochs=15 batch_size=32 augment.pad=8 size=96"),
}


@dataclasses.dataclass(frozen=True)
class Pool:
    """Networks by number."""

    networks: tuple[str, ...]

    def __call__(self, candidate: tuple[int, ...]) -> Architecture:
        return Architecture.parse(self.networks[candidate[0]])


def pool(task: Task, count: int) -> SearchSpace:
    """A space whose one decision is which of `count` networks, drawn from `mbconv`."""
    drawn, rng = make_space("mbconv", {"width": task.width, "stem_stride": task.stem_stride}), np.random.default_rng(0)
    assert drawn.build is not None
    found: dict[str, str] = {}
    while len(found) < count:
        candidate = drawn.sample(rng)
        found.setdefault(drawn.key(candidate), str(drawn.build(candidate)))
    texts = tuple(found.values())
    return SearchSpace("pool", (Decision("network", tuple(range(count))),), build=Pool(texts))


def main() -> None:
    arguments = _arguments()
    folder = Path(arguments.output).expanduser().absolute()
    deadline = time.monotonic() + 60 * arguments.budget_minutes
    rows = []
    try:
        for name in arguments.tasks:
            task = dataclasses.replace(TASKS[name], data=getattr(arguments, name))
            rows.append({"task": name, **_task(task, folder / name, arguments, deadline)})
    except (KeyboardInterrupt, TimeoutError) as stop:
        sys.exit(f"{str(stop) or 'stopped'}; go on with: python {' '.join(sys.argv)}")
    write_json(folder / "results.json", {
        "schema": SCHEMA, "benchmark": "rungs", "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": machine(), "rungs": RUNGS, "keep": KEEP, "goals": GOALS, "tasks": rows,
    })  # fmt: skip
    print(json.dumps([row["summary"] for row in rows], indent=1))
    print(f"wrote {folder / 'results.json'}")


def _task(task: Task, folder: Path, arguments: argparse.Namespace, deadline: float) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    space, recipe = pool(task, arguments.networks), parse_recipe(task.recipe)
    source = folder / "source.safetensors"
    if not source.is_file():
        _train_source(task, recipe, source)
    madds = [space.build((number,)).madds(task.size, task.size) / 1e6 for number in range(arguments.networks)]  # type: ignore[misc]
    reward = Reward("soft", statistics.median(madds))
    runs = [
        {
            "seed": seed,
            **{
                kind: _search(folder / f"{kind}-{seed}.study", task, space, reward, recipe.changed(seed=seed), kind, source,
                              arguments, deadline)
                for kind in KINDS
            },
        }
        for seed in range(arguments.seeds)
    ]  # fmt: skip
    return {"settings": dataclasses.asdict(task), "runs": runs, "summary": _summary(runs, task)}


def _train_source(task: Task, recipe: Recipe, path: Path) -> None:
    """A1 at the width of the space, trained as a candidate is."""
    from keras_mnasnet import save
    from keras_mnasnet.search.evaluator import open_search_images
    from keras_mnasnet.training import train_short
    from keras_mnasnet.training.classifier import evaluation_preprocessing, in_memory

    images = open_search_images(task.data, images=task.images, validation_images=task.validation_images)
    network = A1.scaled(task.width).with_stem_stride(task.stem_stride)
    found = train_short(network, in_memory(images.train), in_memory(images.validation), recipe, size=task.size)
    print(f"source: {network.name}, validation accuracy {found.accuracy:.4f} after {found.steps:,} steps", flush=True)
    save(found.model, path, labels=images.train.labels, preprocessing=evaluation_preprocessing(task.size, recipe.augment))


def _search(
    path: Path, task: Task, space: SearchSpace, reward: Reward, recipe: Recipe, kind: str, source: Path,
    arguments: argparse.Namespace, deadline: float,
) -> dict[str, Any]:  # fmt: skip
    """Every network of the pool in one search, from where its study stands; what came of it."""
    for progress in search.run(
        task.data, study=path, space=space, reward=reward, algorithm="random", device="madds", recipe=recipe, size=task.size,
        images=task.images, validation_images=task.validation_images, trials=arguments.networks, workers=arguments.workers,
        minutes=max(0.0, deadline - time.monotonic()) / 60, estimate=False, progress=False,
        inherit=source if kind == "rungs-inherit" else None, **KINDS[kind],
    ):  # fmt: skip
        print(f"{path.parent.name} {path.stem}: {progress.line()}", flush=True)
    if not search.status(path).progress.finished:
        raise TimeoutError(f"the {arguments.budget_minutes:g} minutes are over in {path}")
    with Study.open(path, read_only=True) as study:
        trials, measurements = study.trials(), study.measurements()
    steps = [each.details for each in measurements if not each.failure]
    inherited = [each["inherited"]["share"] for each in steps if "inherited" in each]
    first = [trial for trial in trials if trial.status == "done" and not trial.rung]
    return {
        "first": {str(trial.values["network"]): trial.accuracy for trial in first},
        "best": _best(trials), "rewards": {str(trial.values["network"]): trial.reward for trial in highest(trials)},
        "steps": sum(each["steps"] - each["begun"] for each in steps), "failed": sum(t.status == "failed" for t in trials),
        "inherited": statistics.fmean(inherited) if inherited else None,
    }  # fmt: skip


def _best(trials: list[Trial]) -> str:
    """The network with the best reward at its highest rung."""
    return str(max(highest(trials), key=lambda trial: (trial.rung, trial.reward or 0.0)).values["network"])


def _summary(runs: list[dict[str, Any]], task: Task) -> dict[str, Any]:
    """Means over the seeds. `regret`: by how much the full training (mean of the seeds) of the network that was found falls
    short of the best one's."""
    truth = {
        number: statistics.fmean(run["full"]["rewards"][number] for run in runs if number in run["full"]["rewards"])
        for number in {each for run in runs for each in run["full"]["rewards"]}
    }
    found: dict[str, Any] = {"data": task.data.rpartition("/")[2], "seeds": len(runs), "networks": len(truth)}
    for kind in KINDS:
        chosen = [truth[run[kind]["best"]] for run in runs if run[kind]["best"] in truth]
        found[kind] = {
            "reward_found": chosen, "regret": [max(truth.values()) - each for each in chosen],
            "share_of_steps": statistics.fmean(run[kind]["steps"] / run["full"]["steps"] for run in runs),
            "tau_of_first_rung": [_tau(run[kind]["first"], run["full"]["first"]) for run in runs],
        }  # fmt: skip
    spread = [_tau(one["full"]["first"], other["full"]["first"]) for one in runs for other in runs if one is not other]
    return {**found, "tau_between_seeds_of_full": statistics.fmean(spread) if spread else None}


def _tau(one: dict[str, float], other: dict[str, float]) -> float:
    return kendall_tau([(one[number], other[number]) for number in one if number in other])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, metavar="DIR", help="where the studies and results.json go")
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    own = os.environ.get("KERAS_MNASNET_DATA", ".")
    parser.add_argument("--cifar10", default="cifar10", help="default: KERAS_MNASNET_DATA/cifar10, else tfds:cifar10")
    parser.add_argument("--trashnet", default=f"{own}/trashnet", help="default: KERAS_MNASNET_DATA/trashnet")
    parser.add_argument("--networks", type=int, default=24, help="default %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="default %(default)s")
    parser.add_argument("--workers", type=int, default=1, help="default %(default)s")
    parser.add_argument("--budget-minutes", type=float, default=1e6, help="stop after this long; the same command goes on")
    return parser.parse_args()


if __name__ == "__main__":
    main()
