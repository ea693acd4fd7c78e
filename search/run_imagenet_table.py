"""The paper's search and its ablations on ImageNet results: predicted from 5,138 ImageNet trainings, with Pixel-1 latencies.

    python search/run_imagenet_table.py --table accel-nasbench.csv.gz --output search/runs/imagenet-table/imagenet_table.json

Accuracies are those of Accel-NASBench's shortened trainings (43 % to 67 %), of which only the differences count, and a network
found is a prediction: nothing is trained here. A search sees them with the noise of one training (0.15 points); results are
without it. Latency is the Pixel-1 model's, the target 75 ms. The controller is the paper's (`ppo`, preset `paper`) with 8,000
samples; `thompson` has a sixteenth of it. The best there is comes from steps of one and of two decisions without noise.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import datetime
import functools
import importlib
import importlib.util
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.search import (
    Candidate,
    ImageNetTable,
    Observation,
    Reward,
    SearchSpace,
    make_algorithm,
    parse_reward,
)
from keras_mnasnet.search.imagenet_table import FOLDS, NOISE_POINTS, HeldOut, Networks, Pixel1ByStage, Regressor, features
from keras_mnasnet.search.networks import accel_nasbench

SCHEMA = 1
TARGET_MS = 75.0
SAMPLES, TRAININGS = 8_000, 500
CHECKPOINTS = (50, 100, 200, 500, 1_000, 2_000, 4_000, 8_000)
BOUNDS_MS = (45, 60, 75, 90, 105)
RANDOM = 100_000
OUTPUT = Path("search/runs/imagenet-table/imagenet_table.json")
SEARCHES = list(itertools.product(("ppo", "thompson"), ("soft", "hard", "accuracy")))
# (expand, kernel, repeats, gated) of each stage; the space has expansion 4 for 3, at most 3 layers outside stage 6, and fixed
# filters (112, 192 in stages 5 and 6), so that these are what is nearest
LIKE = {
    "A1-like": ("1310", "6320", "4531", "6330", "6321", "6531", "6310"),
    "B1-like": ("1310", "4330", "4530", "6530", "6320", "6540", "6310"),
}
PUBLISHED_TABLE_5 = {"single objective, cell": (183, 74.0), "soft, cell": (100, 72.0), "soft, factorized": (78, 75.2)}


def candidate_of(codes: Sequence[str]) -> Candidate:
    """A network from its stages' codes, as the table writes them."""
    values: dict[str, Any] = {}
    for stage, code in enumerate(codes, start=1):
        chosen = zip(("expand", "kernel", "repeats"), map(int, code[:3]), strict=True)
        values |= {f"block{stage}.{what}": value for what, value in chosen} | {f"block{stage}.se": 0.25 * int(code[3])}
    return accel_nasbench().candidate(values)


def codes_of(candidate: Candidate) -> list[str]:
    """The inverse of `candidate_of`."""
    values = [d.choices[index] for d, index in zip(accel_nasbench().decisions, candidate, strict=True)]
    return ["".join(map(str, values[at : at + 3])) + str(int(values[at + 3] > 0)) for at in range(0, len(values), 4)]  # type: ignore[operator]


@dataclasses.dataclass(frozen=True)
class Task:
    """The space with predicted top-1 in % and Pixel-1 milliseconds of every network."""

    table: ImageNetTable
    regressor: Regressor
    cost = Pixel1ByStage()

    @property
    def space(self) -> SearchSpace:
        return dataclasses.replace(accel_nasbench(), cost=self.cost)

    def top1(self, candidates: Networks) -> np.ndarray:
        return self.regressor.predict(features(candidates))

    def ms(self, candidates: Networks) -> np.ndarray:
        return self.cost.of(candidates)

    def rewards(self, reward: Reward, candidates: Networks) -> np.ndarray:
        return reward.of(self.top1(candidates) / 100, self.ms(candidates))

    def observe(self, candidate: Candidate, extra: dict[str, Any], reward: Reward, seed: int) -> Observation:
        """As a training would come out."""
        noise = NOISE_POINTS * np.random.default_rng([seed, *candidate]).standard_normal()
        accuracy, latency = (float(self.top1(candidate)[0]) + noise) / 100, self.cost(candidate)
        return Observation(candidate, extra, accuracy, latency, reward(accuracy, latency))


@functools.cache
def task(path: str) -> Task:
    """The table at `path`, fitted."""
    table = ImageNetTable.read(path)
    return Task(table, table.fitted())


def search(path: str, algorithm: str, objective: str, count: int, seed: int) -> list[Candidate]:
    """The networks that a search trains, in order: until `count` trainings, of the controller `count` draws."""
    known, reward = task(path), parse_reward(objective, TARGET_MS)
    options = {"preset": "paper"} if algorithm == "ppo" else {}
    made = make_algorithm(algorithm, known.space, reward, seed=seed, **options)
    found: list[Candidate] = []
    while len(found) < count and made.facts().get("draws", 0) < count:
        proposals = made.ask(20 if algorithm == "ppo" else 1)
        made.tell([known.observe(each.candidate, each.extra, reward, seed) for each in proposals])
        found += [each.candidate for each in proposals]
    return found


def climbed(known: Task, reward: Callable[[np.ndarray, np.ndarray], np.ndarray], starts: int = 20) -> Candidate:
    """The best network that steps of one, then of two decisions lead to from the best of random ones."""
    rng, best = np.random.default_rng(1), []
    for _ in range(starts):
        drawn = rng.integers(known.space.counts, size=(200, len(known.space.counts)))
        at = drawn[int(np.argmax(reward(known.top1(drawn), known.ms(drawn))))]
        value = -np.inf
        while True:
            moves = [(place, choice) for place, count in enumerate(known.space.counts) for choice in range(count)]
            near = np.repeat(at[None], len(moves), 0)
            near[np.arange(len(moves)), [place for place, _ in moves]] = [choice for _, choice in moves]
            values = reward(known.top1(near), known.ms(near))
            if values.max() <= value + 1e-12:
                break
            at, value = near[int(np.argmax(values))], float(values.max())
        best.append((value, tuple(at.tolist())))
    at = np.array(max(best)[1])
    single = [(place, choice) for place, count in enumerate(known.space.counts) for choice in range(count)]
    while True:
        near = np.repeat(at[None], len(single) ** 2, 0)
        one, two = (np.array(each) for each in zip(*itertools.product(single, single), strict=True))
        near[np.arange(len(near)), one[:, 0]] = one[:, 1]
        near[np.arange(len(near)), two[:, 0]] = two[:, 1]
        values = reward(known.top1(near), known.ms(near))
        now = float(reward(known.top1(at), known.ms(at))[0])
        if values.max() <= now + 1e-12:
            return tuple(at.tolist())
        at = near[int(np.argmax(values))]


def best_below(known: Task, limit: float) -> Candidate:
    """The most accurate network of at most `limit` ms that was found without noise."""
    return climbed(known, lambda top1, ms: np.where(ms <= limit, top1, 40 - ms))


def row(known: Task, candidate: Candidate) -> dict[str, Any]:
    """One network; `predicted_top1` is never a training's."""
    return {
        "predicted_top1": round(float(known.top1(candidate)[0]), 2), "pixel1_ms": round(known.cost(candidate), 1),
        "stages": codes_of(candidate),
    }  # fmt: skip


def ends(known: Task, found: dict[tuple[str, str], list[list[Candidate]]], drawn: np.ndarray) -> list[dict[str, Any]]:
    """What each search has found after how many trainings: the network of the best noisy reward, without its noise."""
    rows = []
    for (algorithm, objective), runs in found.items():
        reward = parse_reward(objective, TARGET_MS)
        random = np.sort(known.rewards(reward, drawn))
        top = climbed(known, lambda top1, ms, reward=reward: reward.of(top1 / 100, ms))  # type: ignore[misc]
        top_reward = float(known.rewards(reward, top)[0])
        for count in CHECKPOINTS:
            reached = [(seed, run[:count]) for seed, run in enumerate(runs) if len(run) >= count or count == SAMPLES]
            if not reached or (algorithm == "thompson" and count > len(runs[0])):
                continue
            chosen = []
            for seed, run in reached:
                rewards = [known.observe(each, {}, reward, seed).reward or 0.0 for each in run]
                chosen.append(run[int(np.argmax(rewards))])
            values = known.rewards(reward, chosen)
            rows.append({
                "algorithm": algorithm, "objective": objective, "samples": count, "seeds": len(chosen),
                "trained": statistics.median(len(run) for _, run in reached),
                "predicted_top1": [round(float(each), 2) for each in known.top1(chosen)],
                "pixel1_ms": [round(float(each), 1) for each in known.ms(chosen)],
                "reward_below_the_best_there_is": round(float(np.median(top_reward - values)), 5),
                "random_networks_above": round(float(np.median(1 - np.searchsorted(random, values) / len(random))), 6),
                "best": row(known, chosen[int(np.argmax(values))]),
            })  # fmt: skip
        rows.append({"algorithm": "best there is", "objective": objective, "best": row(known, top)})
    return rows


def soft_against_hard(known: Task, found: dict[tuple[str, str], list[list[Candidate]]]) -> dict[str, Any]:
    """Figure 6: where the controller's samples lie, and the most accurate one below each latency."""
    limits = {bound: row(known, best_below(known, bound)) for bound in BOUNDS_MS}
    result: dict[str, Any] = {"best_there_is": limits}
    for objective in ("soft", "hard"):
        runs = [known.ms(run) for run in found["ppo", objective]]
        late = np.concatenate([each[len(each) // 2 :] for each in runs])
        top = [known.top1(run) for run in found["ppo", objective]]
        result[objective] = {
            "samples": sum(map(len, runs)),
            "ms_deciles_1_5_9": np.percentile(np.concatenate(runs), [10, 50, 90]).round(1).tolist(),
            "second_half_ms_deciles_1_5_9": np.percentile(late, [10, 50, 90]).round(1).tolist(),
            "second_half_share_above_target": round(float((late > TARGET_MS).mean()), 3),
            "share_below_40_ms": round(float((np.concatenate(runs) < 40).mean()), 4),
            "share_above_110_ms": round(float((np.concatenate(runs) > 110).mean()), 4),
            "best_top1_below_ms": {
                bound: [round(float(t[ms <= bound].max()), 2) for t, ms in zip(top, runs, strict=True) if (ms <= bound).any()]
                for bound in BOUNDS_MS
            },
        }  # fmt: skip
    return result


def cells(known: Task) -> dict[str, Any]:
    """Table 5: the best network whose stages are all alike, and of the whole space, for one and for two objectives."""
    alike = [tuple(choices) * 7 for choices in itertools.product(range(3), range(2), range(3), range(2))]
    rows: dict[str, Any] = {"cell_networks": len(alike)}
    for name, objective in (("single objective", "accuracy"), ("soft", "soft"), ("hard", "hard")):
        reward = parse_reward(objective, TARGET_MS)
        rows[f"{name}, cell"] = row(known, alike[int(np.argmax(known.rewards(reward, alike)))])
        rows[f"{name}, factorized"] = row(known, climbed(known, lambda t, ms, r=reward: r.of(t / 100, ms)))  # type: ignore[misc]
    for name, published in PUBLISHED_TABLE_5.items():
        rows[name]["published_pixel1_ms_and_imagenet_top1"] = published
    return rows


def alike_against_mixed(known: Task) -> dict[str, Any]:
    """Table 6: one kind of layer in every stage, with A1-like's repeats and no squeeze-and-excite, and what costs no more."""
    rows = {}
    for expand, kernel in itertools.product((4, 6), (3, 5)):
        like = candidate_of([f"{expand}{kernel}{code[2]}0" for code in LIKE["A1-like"]])
        rows[f"MBConv{expand} k{kernel} only"] = {
            **row(known, like),
            "best_at_no_more_ms": row(known, best_below(known, known.cost(like))),
        }
    return rows


def landmarks(known: Task, drawn: np.ndarray) -> dict[str, Any]:
    """A1-like and B1-like, how many random networks beat them at no more latency, and the best that does."""
    top1, ms = known.top1(drawn), known.ms(drawn)
    rows = {}
    for name, codes in LIKE.items():
        own = candidate_of(codes)
        accuracy, cost = float(known.top1(own)[0]), known.cost(own)
        rows[name] = {
            **row(known, own), "random_networks_no_slower": int((ms <= cost).sum()),
            "of_them_more_accurate": int(((ms <= cost) & (top1 > accuracy)).sum()),
            "best_at_no_more_ms": row(known, best_below(known, cost)),
        }  # fmt: skip
    return rows


def regressors(table: ImageNetTable) -> dict[str, Any]:
    """Held-out errors, with the same tenths, of the regressor that is used, of ridge regressions, and of LightGBM."""
    x, y, folds = features(table.candidates), table.top1, table.folds()
    space, found = accel_nasbench(), {"gaussian process (used)": HeldOut.of(Regressor.held_out(x, y, folds), y)}
    hot = space.features(table.candidates)
    pairs = np.stack([hot[:, a] * hot[:, b] for a in range(hot.shape[1]) for b in range(a, hot.shape[1])], 1)
    for name, rows, ridge in (("additive", hot, 1e-3), ("additive and pairs", pairs, 0.1)):
        predicted = np.zeros(len(y))
        for fold in range(FOLDS):
            inside, mean = folds != fold, y[folds != fold].mean()
            gram = rows[inside].T @ rows[inside] + ridge * np.eye(rows.shape[1])
            predicted[~inside] = mean + rows[~inside] @ np.linalg.solve(gram, rows[inside].T @ (y[inside] - mean))
        found[name] = HeldOut.of(predicted, y)
    if importlib.util.find_spec("lightgbm"):
        booster: Any = importlib.import_module("lightgbm").LGBMRegressor
        for leaves, rate, trees in ((31, 0.05, 1000), (8, 0.1, 1500), (6, 0.1, 3000)):
            predicted = np.zeros(len(y))
            for fold in range(FOLDS):
                inside = folds != fold
                made = booster(
                    n_estimators=trees, learning_rate=rate, num_leaves=leaves, min_child_samples=10, n_jobs=1, verbose=-1,
                    deterministic=True, force_row_wise=True,
                )  # fmt: skip
                predicted[~inside] = made.fit(x[inside], y[inside]).predict(x[~inside])
            found[f"LightGBM, {trees} trees of {leaves} leaves at {rate}"] = HeldOut.of(predicted, y)
    return {name: dataclasses.asdict(error) for name, error in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = os.environ.get("KERAS_MNASNET_DATA")
    parser.add_argument(
        "--table", default=folder and f"{folder}/accel-nasbench/accel-nasbench.csv.gz", required=not folder,
        help="the trainings of github.com/afzalxo/Accel-NASBench as one table",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="of each search (default %(default)s)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of the controller (default %(default)s)")
    parser.add_argument("--trainings", type=int, default=TRAININGS, help="of thompson (default %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="default %(default)s")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE.json", help="default %(default)s")
    arguments = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the processes use the cores
    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.utils.system import environment

    begun = time.perf_counter()
    jobs = [(*each, seed) for each in SEARCHES for seed in range(arguments.seeds)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(arguments.processes, mp_context=context) as pool:
        futures = [
            pool.submit(search, arguments.table, name, goal, arguments.samples if name == "ppo" else arguments.trainings, seed)
            for name, goal, seed in jobs
        ]
        found: dict[tuple[str, str], list[list[Candidate]]] = {}
        for (name, goal, _), future in zip(jobs, futures, strict=True):
            found.setdefault((name, goal), []).append(future.result())
    searched = time.perf_counter() - begun
    known = task(arguments.table)
    drawn = np.random.default_rng(0).integers(known.space.counts, size=(RANDOM, len(known.space.counts)))
    parts = [known.ms(drawn), known.top1(drawn)]
    result = {
        "schema": SCHEMA, "date": datetime.date.today().isoformat(), "environment": environment(),
        "table_sha256": known.table.sha256, "trainings": len(known.table.top1), "noise_points": NOISE_POINTS,
        "target_ms": TARGET_MS, "seeds": arguments.seeds, "samples": arguments.samples, "searches_seconds": searched,
        "regressors_held_out": regressors(known.table),
        "random_networks": {
            name: np.percentile(part, [1, 10, 50, 90, 99]).round(2).tolist()
            for name, part in zip(("pixel1_ms_percentiles_1_10_50_90_99", "predicted_top1_percentiles"), parts, strict=True)
        },
        "searches": ends(known, found, drawn), "soft_against_hard": soft_against_hard(known, found), "cells": cells(known),
        "alike_against_mixed": alike_against_mixed(known), "landmarks": landmarks(known, drawn),
    }  # fmt: skip
    result["seconds"] = time.perf_counter() - begun
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, result)
    show(result)


def show(result: dict[str, Any]) -> None:
    """Print the results."""
    for name, error in result["regressors_held_out"].items():
        print(f"{name}: R2 {error['r2']:.4f}, tau {error['kendall_tau']:.4f}, {error['rmse_points']:.3f} points off")
    for each in result["searches"]:
        best = f"{each['best']['predicted_top1']:.2f} % predicted at {each['best']['pixel1_ms']:.1f} ms"
        if "samples" not in each:
            print(f"{each['objective']:9s} best there is: {best}")
            continue
        print(
            f"{each['objective']:9s} {each['algorithm']:9s} {each['samples']:5d}: {best}; reward "
            f"{each['reward_below_the_best_there_is']:.4f} below the best, {each['random_networks_above']:.4%} of random above"
        )
    for part in ("soft_against_hard", "cells", "alike_against_mixed", "landmarks"):
        print(part)
        for name, value in result[part].items():
            print(f"  {name}: {value}")
    print(f"{result['seconds']:.0f} seconds")


if __name__ == "__main__":
    main()
