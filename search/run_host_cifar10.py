"""A whole search on one machine, for real: CIFAR-10, real proxy trainings, real single-thread TFLite latency of this host.

1. Thompson sampling and 2. random search train the same number of networks each, from the same space, on the same images.
3. The best few of both, and MnasNet-A1 scaled by width to the measured latency of the best searched network, are trained
alike with fresh seeds on more images and for longer. Which of the few is best is decided on validation images; what is
reported is measured on CIFAR-10's test images, which nothing was chosen by.

Space: the `mbconv` choices (expansion 3 or 6, kernel 3 or 5, squeeze-and-excite 0 or 0.25, filters x 0.75, 1 or 1.25) for
five stages of one or two layers each, at a width that one core can train in seconds: stem 8 at stride 1 (32 px photos), a
first stage of 8 at stride 2, then stages of 12, 20, 32, 48 and 64 filters at 16, 8, 8, 4 and 4 px, head 192.

Every step can be interrupted: the same command goes on. It prints an estimate after its first trials.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet import search
from keras_mnasnet.architecture import Architecture, Block, round_filters
from keras_mnasnet.family import A1
from keras_mnasnet.search import Candidate, Decision, Reward, SearchSpace, Study, Trial
from keras_mnasnet.training import Recipe, parse_recipe, recipe_to_json
from keras_mnasnet.utils.files import replaced
from keras_mnasnet.utils.system import machine

SCHEMA = 1
SIZE, CLASSES = 32, 10
STEM, HEAD = 8, 192
FIRST = Block(repeats=1, kernel=3, stride=2, expand=1, input_filters=STEM, filters=8, skip=False)
STAGES = ((12, 1), (20, 2), (32, 1), (48, 2), (64, 1))  # (filters, stride) of the searched stages
CHOICES = {"expand": (3, 6), "kernel": (3, 5), "se": (0.0, 0.25), "filters": (0.75, 1.0, 1.25), "repeats": (1, 2)}
WIDTHS = tuple(round(0.1 + 0.025 * step, 3) for step in range(45))  # of A1, 0.1 .. 1.2


def network(candidate: Candidate) -> Architecture:
    """The network of a candidate: one index for each of CHOICES, stage after stage."""
    blocks, previous = [FIRST], FIRST.filters
    for stage, (filters, stride) in enumerate(STAGES):
        indices = candidate[stage * len(CHOICES) : (stage + 1) * len(CHOICES)]
        chosen = {name: values[index] for (name, values), index in zip(CHOICES.items(), indices, strict=True)}
        own = round_filters(filters, chosen["filters"], divisor=4)
        blocks.append(
            Block(
                repeats=int(chosen["repeats"]), kernel=int(chosen["kernel"]), stride=stride, expand=int(chosen["expand"]),
                input_filters=previous, filters=own, se=chosen["se"],
            )
        )  # fmt: skip
        previous = own
    return Architecture("host", STEM, tuple(blocks), HEAD, stem_stride=1)


def space() -> SearchSpace:
    """The space of the module's docstring: 48 choices a stage, 2.5e8 networks."""
    decisions = tuple(
        Decision(f"stage{stage}_{name}", values) for stage in range(2, 2 + len(STAGES)) for name, values in CHOICES.items()
    )
    return SearchSpace("host-cifar10", decisions, build=network)


def main() -> None:
    arguments = _arguments()
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = parse_recipe(f"proxy-5-epochs epochs={arguments.epochs} batch_size={arguments.batch_size}")
    deadline = time.monotonic() + 60 * arguments.budget_minutes
    chosen = space()
    target_ms = arguments.target_ms or _target(folder, chosen)
    reward = Reward("soft", target_ms)
    try:
        studies = {
            algorithm: _search(algorithm, chosen, reward, recipe, arguments, folder, deadline)
            for algorithm in ("thompson", "random")
        }
        rows = _finals(studies, reward, arguments, folder, deadline)
    except (KeyboardInterrupt, TimeoutError) as stop:
        why = str(stop) or "stopped"
        sys.exit(f"{why}; go on with: python {' '.join(sys.argv)}")
    results = _results(studies, rows, reward, recipe, arguments)
    _keep(folder / "results.json", results)
    pictures = importlib.util.find_spec("matplotlib") is not None
    search.report(folder / "study.sqlite", folder / "report", pictures=pictures)
    print(json.dumps(results["verdict"], indent=1))
    print(f"wrote {folder / 'results.json'} and {folder / 'report'}")


def _target(folder: Path, chosen: SearchSpace) -> float:
    """The median latency of 15 networks drawn from the space, measured at the first start and kept in the study."""
    for name in ("study.sqlite", "study-random.sqlite"):
        if (folder / name).is_file():
            with Study.open(folder / name, read_only=True) as study:
                return Reward.from_json(study.meta.reward).target_ms
    rng, model = np.random.default_rng(0), search.parse_device("host")
    latencies = [model.latency_ms(network(chosen.sample(rng)), SIZE, CLASSES).latency_ms for _ in range(15)]
    model.close()
    return float(f"{statistics.median(latencies):.3g}")


def _search(
    algorithm: str, chosen: SearchSpace, reward: Reward, recipe: Recipe, arguments: argparse.Namespace, folder: Path,
    deadline: float,
) -> list[Trial]:  # fmt: skip
    """All trials of a search, from where its study stands."""
    path = folder / ("study.sqlite" if algorithm == "thompson" else f"study-{algorithm}.sqlite")
    for _ in search.run(
        arguments.data, study=path, space=chosen, reward=reward, algorithm=algorithm, device="host", recipe=recipe, size=SIZE,
        images=arguments.training_photos, validation_images=arguments.validation_photos, trials=arguments.trials,
        workers=arguments.workers, timeout=arguments.timeout, seed=arguments.seed + (algorithm != "thompson"),
        minutes=max(0.0, deadline - time.monotonic()) / 60, estimate=False,
    ):  # fmt: skip
        pass
    if not search.status(path).progress.finished:
        raise TimeoutError(f"the {arguments.budget_minutes:g} minutes are over in the {algorithm} search")
    with Study.open(path, read_only=True) as study:
        return study.trials()[: arguments.trials]


def _best(trials: list[Trial], count: int) -> list[Trial]:
    done = [trial for trial in trials if trial.status == "done" and trial.reward is not None]
    return sorted(done, key=lambda trial: -(trial.reward or 0))[:count]


def _finalists(studies: dict[str, list[Trial]], count: int, like_ms: float) -> Iterator[tuple[str, Architecture]]:
    """(role, network): the best of each search by reward, and A1 at the latency of the best searched one."""
    for role, trials in (("searched", studies["thompson"]), ("random", studies["random"])):
        for trial in _best(trials, count):
            yield role, Architecture.parse(trial.architecture or "")
    yield "a1-scaled", _scaled_a1(like_ms)


def _scaled_a1(latency_ms: float) -> Architecture:
    """A1 with stem stride 1 at the width whose measured latency is nearest to `latency_ms`."""
    model = search.parse_device("host")
    widths: dict[str, Architecture] = {}
    for width in WIDTHS:
        scaled = A1.scaled(width).with_stem_stride(1)
        widths.setdefault(str(scaled).partition(":")[2], scaled)
    scaled_networks = list(widths.values())
    low, high = 0, len(scaled_networks) - 1
    while low < high:  # latency grows with width
        middle = (low + high) // 2
        if model.latency_ms(scaled_networks[middle], SIZE, CLASSES).latency_ms < latency_ms:
            low = middle + 1
        else:
            high = middle
    near = scaled_networks[max(0, low - 1) : low + 1]
    found = min(near, key=lambda each: abs(model.latency_ms(each, SIZE, CLASSES).latency_ms - latency_ms))
    model.close()
    return found


def _finals(
    studies: dict[str, list[Trial]], reward: Reward, arguments: argparse.Namespace, folder: Path, deadline: float
) -> list[dict[str, Any]]:
    """Train every finalist with every seed; each result is kept as soon as it is there."""
    path = folder / "finals.json"
    settings = {
        "images": arguments.final_images, "epochs": arguments.final_epochs, "batch_size": arguments.batch_size,
        "top": arguments.top, "seeds": arguments.final_seeds, "trials": arguments.trials,
    }  # fmt: skip
    kept = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if kept.get("settings") != settings:
        for algorithm, trials in studies.items():
            if not _best(trials, 1):
                raise ValueError(
                    f"A final needs a trained network of each search. Received: none that succeeded of {algorithm}"
                )
        best = _best(studies["thompson"], 1)
        model = search.parse_device("host")
        plan = []
        for role, architecture in _finalists(studies, arguments.top, best[0].latency_ms or 0.0):
            runs = [model.latency_ms(architecture, SIZE, CLASSES).latency_ms for _ in range(3)]
            plan.append({
                "role": role, "architecture": str(architecture), "latency_ms": statistics.median(runs),
                "latency_runs_ms": runs, "params": architecture.params(classes=CLASSES),
                "madds": architecture.madds(SIZE, SIZE, classes=CLASSES),
            })  # fmt: skip
        model.close()
        kept = {"schema": SCHEMA, "settings": settings, "plan": plan, "rows": []}
        _keep(path, kept)
    recipe = parse_recipe(f"proxy-5-epochs epochs={arguments.final_epochs} batch_size={arguments.batch_size}")
    images = None
    for seed in range(1, 1 + arguments.final_seeds):
        for entry in kept["plan"]:
            if any(row["architecture"] == entry["architecture"] and row["seed"] == seed for row in kept["rows"]):
                continue
            if time.monotonic() > deadline:
                raise TimeoutError(f"the {arguments.budget_minutes:g} minutes are over in the final trainings")
            if images is None:
                images = _images(arguments)
            row = _final(entry["architecture"], recipe.changed(seed=seed), images)
            kept["rows"].append(row)
            _keep(path, kept)
            print(
                f"final {entry['role']}: seed {seed}, validation {row['validation_accuracy']:.4f}, test "
                f"{row['test_accuracy']:.4f}, {entry['latency_ms']:.4f} ms, {row['seconds']:.0f} s", flush=True,
            )  # fmt: skip
    return [
        entry | {"runs": [row for row in kept["rows"] if row["architecture"] == entry["architecture"]]}
        for entry in kept["plan"]
    ]


def _keep(path: Path, value: dict[str, Any]) -> None:
    with replaced(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


def _images(arguments: argparse.Namespace) -> Any:
    import tensorflow as tf

    from keras_mnasnet.search.evaluator import open_search_images
    from keras_mnasnet.training.classifier import in_memory

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    found = open_search_images(arguments.data, images=arguments.final_images, validation_images=arguments.validation_photos)
    return dataclasses.replace(found, train=in_memory(found.train), validation=in_memory(found.validation))


def _final(architecture: str, recipe: Recipe, images: Any) -> dict[str, Any]:
    import keras

    from keras_mnasnet.training import train_short
    from keras_mnasnet.training.classifier import evaluate

    began = time.perf_counter()
    keras.backend.clear_session(free_memory=True)
    trained = train_short(Architecture.parse(architecture), images.train, images.validation, recipe, size=SIZE)
    tested = evaluate(trained.model, images.test, SIZE, recipe.augment, batch_size=500)
    return {
        "architecture": architecture, "seed": recipe.seed, "validation_accuracy": trained.accuracy,
        "test_accuracy": tested["val_accuracy"], "steps": trained.steps, "seconds": time.perf_counter() - began,
    }  # fmt: skip


def _results(
    studies: dict[str, list[Trial]], rows: list[dict[str, Any]], reward: Reward, recipe: Recipe,
    arguments: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    for row in rows:
        row["validation_accuracy"] = statistics.mean(run["validation_accuracy"] for run in row["runs"])
        row["test_accuracy"] = statistics.mean(run["test_accuracy"] for run in row["runs"])
        row["validation_reward"] = reward(row["validation_accuracy"], row["latency_ms"])
        row["test_reward"] = reward(row["test_accuracy"], row["latency_ms"])
    best = {
        role: max((row for row in rows if row["role"] == role), key=lambda row: row["validation_reward"])
        for role in ("searched", "random", "a1-scaled")
    }
    test_images = 10_000
    verdict: dict[str, Any] = {
        role: {key: row[key] for key in ("test_accuracy", "test_reward", "latency_ms", "madds", "params", "architecture")}
        for role, row in best.items()
    }
    for other in ("random", "a1-scaled"):
        verdict[f"searched_minus_{other}"] = {
            key: best["searched"][key] - best[other][key] for key in ("test_accuracy", "test_reward", "latency_ms")
        }
    share = best["searched"]["test_accuracy"]
    verdict["standard_error_of_one_test_accuracy"] = (share * (1 - share) / test_images) ** 0.5
    proxies = {
        name: {
            "trained": sum(trial.status == "done" for trial in trials),
            "failed": sum(trial.status == "failed" for trial in trials),
            "best_reward": max(trial.reward for trial in trials if trial.reward is not None),
            "mean_seconds": statistics.mean(t.finished - t.started for t in trials if t.finished and t.started),
            "mean_fixed_seconds": statistics.mean(search.fixed_cost(t.seconds) for t in trials if t.status == "done"),
        }
        for name, trials in studies.items()
    }
    return {
        "schema": SCHEMA, "benchmark": "host-cifar10",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "environment": machine(),
        "settings": {key: value for key, value in vars(arguments).items() if key not in ("data", "output")},
        "proxy_recipe": recipe_to_json(recipe), "reward": reward.to_json(), "proxies": proxies,
        "chosen_by": "validation reward, mean over seeds", "verdict": verdict, "finals": rows,
    }  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="cifar10", help="CIFAR-10 (default: KERAS_MNASNET_DATA/cifar10, else tfds:cifar10)")
    parser.add_argument("--output", default="search/runs/host-cifar10", metavar="DIR", help="default %(default)s")
    parser.add_argument("--trials", type=int, default=60, help="trained networks of each search (default %(default)s)")
    parser.add_argument("--training-photos", type=int, default=4000, help="training images of a trial (default %(default)s)")
    parser.add_argument("--validation-photos", type=int, default=2000, help="to choose by (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="of a trial (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="default %(default)s")
    parser.add_argument("--final-images", type=int, default=20000, help="of a final training (default %(default)s)")
    parser.add_argument("--final-epochs", type=int, default=5, help="default %(default)s")
    parser.add_argument("--final-seeds", type=int, default=1, help="trainings of each finalist (default %(default)s)")
    parser.add_argument("--top", type=int, default=2, help="finalists of each search (default %(default)s)")
    parser.add_argument("--target-ms", type=float, help="default: the median of 15 random networks, measured at the start")
    parser.add_argument("--workers", type=int, default=1, help="default %(default)s")
    parser.add_argument("--timeout", type=float, default=900, help="seconds a trial may take (default %(default)s)")
    parser.add_argument("--budget-minutes", type=float, default=1e6, help="stop after this long; the same command goes on")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    main()
