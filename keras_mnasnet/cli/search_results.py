"""`mnasnet search rescore`, `retrain` and `export-optuna`: what is done with the trials of a study."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.cli.search import print_best
from keras_mnasnet.search.evaluator import located
from keras_mnasnet.search.results import RESULTS, ranked
from keras_mnasnet.search.results import export_optuna as write_optuna
from keras_mnasnet.search.results import retrain as retrain_best
from keras_mnasnet.search.rewards import Reward, pareto_front, parse_reward
from keras_mnasnet.search.setup import space_of
from keras_mnasnet.search.study import Study
from keras_mnasnet.search.trials import StudyMeta, Trial
from keras_mnasnet.utils.system import held_stderr

__all__ = ["export_optuna", "rescore", "retrain"]


def rescore(arguments: argparse.Namespace) -> None:
    """The best networks under another reward."""
    meta, trials = _read(arguments.study)
    reward = reward_of(arguments, meta)
    found = ranked(trials, reward)
    if not found:
        raise ValueError(f"A study is rescored when it has trained networks. Received: {arguments.study}, which has none")
    latencies = [trial.latency_ms for _, trial in found if trial.latency_ms is not None]
    if reward.uses_latency and reward.target_ms < min(latencies):
        raise ValueError(
            f"`target_ms` must be at least the latency of the study's fastest network, {min(latencies):.4g} ms. "
            f"Received: target_ms={reward.target_ms:g}"
        )
    best = found[: arguments.top]
    if arguments.json:
        front = pareto_front([(trial.accuracy or 0.0, trial.latency_ms or 0.0) for _, trial in found])
        rows = [{**_row(trial), "reward": value, "reward_in_study": trial.reward} for value, trial in best]
        return print_json({"reward": reward.to_json(), "best": rows, "front": [_row(found[i][1]) for i in front]})
    print(f"{len(found):,} networks by {reward}; the study's own reward is {Reward.from_json(meta.reward)}")
    return print_best([trial for _, trial in best], [value for value, _ in best])


def retrain(arguments: argparse.Namespace) -> int:
    """Train the best networks fully, and score them."""
    meta, trials = _read(arguments.study)
    with held_stderr():
        from keras_mnasnet.training.recipe import parse_recipe, parse_values
    recipe = parse_recipe(arguments.recipe).changed(**parse_values(arguments.set))
    folder = Path(arguments.output).expanduser().absolute()
    data = located(arguments.data) if arguments.data else None

    def told(trial: Trial, seed: int, score: float) -> None:
        if not arguments.json:
            print(f"trial {trial.number}, seed {seed}: {100 * score:.2f} % of the test images", flush=True)

    try:
        found = retrain_best(
            meta, trials, folder, reward=reward_of(arguments, meta), recipe=recipe, top=arguments.top, seeds=arguments.seeds,
            data=data, resolution=arguments.resolution, progress=not arguments.json, watch=told,
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"\nstopped; go on with the same command: {shlex.join(sys.argv)}", file=sys.stderr)
        return 130
    best = sorted(found, key=lambda each: -each.reward)
    if arguments.json:
        rows = [{**_row(each.trial), **dataclasses.asdict(each), "trial": each.trial.number} for each in best]
        print_json({"results": str(folder / RESULTS), "networks": rows})
        return 0
    rows_shown = [
        (
            each.trial.number, round(100 * each.test_accuracy, 2), round(100 * (each.trial.accuracy or 0), 2),
            each.trial.latency_ms and float(f"{each.trial.latency_ms:.4g}"), round(each.reward, 4), each.folders[0],
        )
        for each in best
    ]  # fmt: skip
    print_table(("trial", "test %", "proxy %", "ms", "reward", "run"), rows_shown)
    print(f"wrote {folder / RESULTS}; export one with: mnasnet export --weights RUN --output FILE.tflite")
    return 0


def export_optuna(arguments: argparse.Namespace) -> None:
    """Write the study for Optuna."""
    with Study.open(arguments.study, read_only=True) as study:
        count = write_optuna(study, space_of(study.meta), arguments.output, objectives=arguments.objectives)
    if arguments.json:
        return print_json({"output": arguments.output, "trials": count})
    return print(f"wrote {count} trials to {arguments.output}; see them with: optuna-dashboard sqlite:///{arguments.output}")


def reward_of(arguments: argparse.Namespace, meta: StudyMeta) -> Reward:
    """The reward that is asked for, else the study's; a new target keeps its exponents."""
    stored = Reward.from_json(meta.reward)
    target = stored.target_ms if arguments.target_ms is None else arguments.target_ms
    if arguments.reward is None:
        return dataclasses.replace(stored, target_ms=target)
    return parse_reward(arguments.reward, target)


def _read(path: str) -> tuple[StudyMeta, list[Trial]]:
    with Study.open(path, read_only=True) as study:
        return study.meta, study.trials()


def _row(trial: Trial) -> dict[str, Any]:
    return {
        key: getattr(trial, key)
        for key in ("number", "accuracy", "latency_ms", "reward", "params", "madds", "architecture", "values")
    }
