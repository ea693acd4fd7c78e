"""The paper's search and its ablations on ImageNet results: predicted from 5,138 ImageNet trainings, with Pixel-1 latencies.

    python search/run_imagenet_table.py --table accel-nasbench.csv.gz --output search/runs/imagenet-table/imagenet_table.json

Accuracies are those of Accel-NASBench's shortened trainings (43 % to 67 %), of which only the differences count, and a network
found is a prediction: nothing is trained here. A search sees them with the noise of one training (0.15 points); results are
without it. Latency is the Pixel-1 model's, the target 75 ms. The controller is the paper's (`ppo`, preset `paper`) with 8,000
samples; the others train an eighth as many. The best there is comes from steps of one and of two decisions without noise.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import datetime
import functools
import importlib
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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
SAMPLES, TRAININGS = 8_000, 1_000
CHECKPOINTS = (50, 100, 200, 500, 1_000, 2_000, 4_000)
BOUNDS_MS = (45, 60, 75, 90, 105)
RANDOM, STARTS = 100_000, 8
OUTPUT = Path("search/runs/imagenet-table/imagenet_table.json")
SEARCHES = list(itertools.product(("ppo", "thompson", "evolution", "local-search"), ("soft", "hard", "accuracy")))
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


Tops = Mapping[str | float, Candidate]  # the best there is by a reward, or of at most so many ms
Runs = dict[tuple[str, str], list[list[Candidate]]]  # by algorithm and objective, of each seed what it trained


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

    def noisy(self, candidates: Sequence[Candidate], seed: int) -> np.ndarray:
        """Accuracies 0..1, each as one training would come out."""
        noise = [np.random.default_rng([seed, *each]).standard_normal() for each in candidates]
        return (self.top1(candidates) + NOISE_POINTS * np.array(noise)) / 100


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
        candidates = [each.candidate for each in proposals]
        results = zip(proposals, known.noisy(candidates, seed).tolist(), known.ms(candidates).tolist(), strict=True)
        made.tell([Observation(each.candidate, each.extra, top, ms, reward(top, ms)) for each, top, ms in results])
        found += candidates
    return found


def best(path: str, objective: str | float) -> Candidate:
    """The best network without noise that steps of one, then of two decisions lead to from the best of random ones.

    By a reward, or the most accurate one of at most so many ms.
    """
    known, rng = task(path), np.random.default_rng(1)
    counts = known.space.counts
    reward = parse_reward(objective, TARGET_MS) if isinstance(objective, str) else None

    def values(candidates: np.ndarray) -> np.ndarray:
        if reward is not None:
            return known.rewards(reward, candidates)
        ms = known.ms(candidates)
        return np.where(ms <= objective, known.top1(candidates), 40 - ms)

    single = np.array([(place, choice) for place, count in enumerate(counts) for choice in range(count)])
    one, two = (each.reshape(-1) for each in np.meshgrid(np.arange(len(single)), np.arange(len(single))))
    ends = []
    for _ in range(STARTS):
        drawn = rng.integers(counts, size=(200, len(counts)))
        ends.append(_ascended(drawn[int(np.argmax(values(drawn)))], values, [single]))
    top = max(ends, key=lambda each: values(each[None])[0])
    return tuple(_ascended(top, values, [single[one], single[two]]).tolist())


def _ascended(at: np.ndarray, values: Callable[[np.ndarray], np.ndarray], moves: list[np.ndarray]) -> np.ndarray:
    """Where no move, of as many decisions at once as there are lists of them, is better."""
    now = float(values(at[None])[0])
    while True:
        near = np.repeat(at[None], len(moves[0]), 0)
        for each in moves:
            near[np.arange(len(near)), each[:, 0]] = each[:, 1]
        found = values(near)
        if found.max() <= now + 1e-12:
            return at
        at, now = near[int(np.argmax(found))], float(found.max())


def row(known: Task, candidate: Candidate) -> dict[str, Any]:
    """One network; `predicted_top1` is never a training's."""
    return {
        "predicted_top1": round(float(known.top1(candidate)[0]), 2), "pixel1_ms": round(known.cost(candidate), 1),
        "stages": codes_of(candidate),
    }  # fmt: skip


def ends(known: Task, tops: Tops, found: Runs, drawn: np.ndarray) -> list[dict[str, Any]]:
    """What each search has found after how many samples: the network of the best noisy reward, without its noise."""
    rows = []
    for (algorithm, objective), runs in found.items():
        reward = parse_reward(objective, TARGET_MS)
        random = np.sort(known.rewards(reward, drawn))
        top = tops[objective]
        noisy = [reward.of(known.noisy(run, seed), known.ms(run)) for seed, run in enumerate(runs)]
        counts = [count for count in CHECKPOINTS if count < max(map(len, runs))] + [max(map(len, runs))]
        for count in counts:
            chosen = [run[int(np.argmax(own[:count]))] for run, own in zip(runs, noisy, strict=True)]
            values = known.rewards(reward, chosen)
            rows.append({
                "algorithm": algorithm, "objective": objective, "trained": count, "seeds": len(chosen),
                "predicted_top1": known.top1(chosen).round(2).tolist(), "pixel1_ms": known.ms(chosen).round(1).tolist(),
                "reward_below_the_best_there_is": round(float(np.median(known.rewards(reward, top)[0] - values)), 5),
                "random_share_above": float(np.median(1 - np.searchsorted(random, values) / len(random))),
                "best": row(known, chosen[int(np.argmax(values))]),
            })  # fmt: skip
        if algorithm == SEARCHES[0][0]:
            rows.append({"algorithm": "best there is", "objective": objective, "best": row(known, top)})
    return rows


def soft_against_hard(known: Task, tops: Tops, found: Runs) -> dict[str, Any]:
    """Figure 6: where the controller's samples lie, and the most accurate one below each latency."""
    limits = {bound: row(known, tops[bound]) for bound in BOUNDS_MS}
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


def cells(known: Task, tops: Tops) -> dict[str, Any]:
    """Table 5: the best network whose stages are all alike, and of the whole space, for one and for two objectives."""
    alike = [tuple(choices) * 7 for choices in itertools.product(range(3), range(2), range(3), range(2))]
    rows: dict[str, Any] = {"cell_networks": len(alike)}
    for name, objective in (("single objective", "accuracy"), ("soft", "soft"), ("hard", "hard")):
        reward = parse_reward(objective, TARGET_MS)
        rows[f"{name}, cell"] = row(known, alike[int(np.argmax(known.rewards(reward, alike)))])
        rows[f"{name}, factorized"] = row(known, tops[objective])
    for name, published in PUBLISHED_TABLE_5.items():
        rows[name]["published_pixel1_ms_and_imagenet_top1"] = published
    return rows


def alike() -> dict[str, list[str]]:
    """Networks with one kind of layer in every stage."""
    return {
        f"MBConv{expand} k{kernel} only": [f"{expand}{kernel}{code[2]}0" for code in LIKE["A1-like"]]
        for expand, kernel in itertools.product((4, 6), (3, 5))
    }


def alike_against_mixed(known: Task, tops: Tops) -> dict[str, Any]:
    """Table 6: one kind of layer in every stage, with A1-like's repeats and no squeeze-and-excite, and what costs no more."""
    rows = {}
    for name, codes in alike().items():
        like = candidate_of(codes)
        rows[name] = {
            **row(known, like),
            "best_at_no_more_ms": row(known, tops[known.cost(like)]),
        }
    return rows


def landmarks(known: Task, tops: Tops, drawn: np.ndarray) -> dict[str, Any]:
    """A1-like and B1-like, how many random networks beat them at no more latency, and the best that does."""
    top1, ms = known.top1(drawn), known.ms(drawn)
    rows = {}
    for name, codes in LIKE.items():
        own = candidate_of(codes)
        accuracy, cost = float(known.top1(own)[0]), known.cost(own)
        rows[name] = {
            **row(known, own), "random_networks_no_slower": int((ms <= cost).sum()),
            "of_them_more_accurate": int(((ms <= cost) & (top1 > accuracy)).sum()),
            "best_at_no_more_ms": row(known, tops[cost]),
        }  # fmt: skip
    return rows


def regressors(path: str, lightgbm: bool) -> dict[str, Any]:
    """Held-out errors, with the same tenths, of the regressor that is used, of ridge regressions and of LightGBM."""
    table = ImageNetTable.read(path)
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
    if lightgbm:
        booster: Any = importlib.import_module("lightgbm").LGBMRegressor
        for leaves, rate, trees in ((31, 0.05, 1000), (6, 0.1, 3000)):
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
    parser.add_argument("--trainings", type=int, default=TRAININGS, help="of each other search (default %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="default %(default)s")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE.json", help="default %(default)s")
    parser.add_argument("--lightgbm", action="store_true", help="also fit LightGBM, which is then needed, to compare with")
    arguments = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the processes use the cores
    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.utils.system import environment

    begun, path = time.perf_counter(), arguments.table
    jobs = [(*each, seed) for each in SEARCHES for seed in range(arguments.seeds)]
    known = task(path)
    limits: list[str | float] = [
        "soft", "hard", "accuracy", *BOUNDS_MS,
        *(known.cost(candidate_of(each)) for each in (*alike().values(), *LIKE.values())),
    ]  # fmt: skip
    # where processes can be forked they share the fit
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with concurrent.futures.ProcessPoolExecutor(arguments.processes, mp_context=context) as pool:
        futures = [
            pool.submit(search, path, name, goal, arguments.samples if name == "ppo" else arguments.trainings, seed)
            for name, goal, seed in jobs
        ]
        held_out = pool.submit(regressors, path, arguments.lightgbm)
        tops = dict(zip(limits, pool.map(best, [path] * len(limits), limits), strict=True))
        found: Runs = {}
        for (name, goal, _), future in zip(jobs, futures, strict=True):
            found.setdefault((name, goal), []).append(future.result())
    searched = time.perf_counter() - begun
    drawn = np.random.default_rng(0).integers(known.space.counts, size=(RANDOM, len(known.space.counts)))
    parts = [known.ms(drawn), known.top1(drawn)]
    result = {
        "schema": SCHEMA, "date": datetime.date.today().isoformat(), "environment": environment(),
        "table_sha256": known.table.sha256, "trainings": len(known.table.top1), "noise_points": NOISE_POINTS,
        "target_ms": TARGET_MS, "seeds": arguments.seeds, "samples": arguments.samples, "searches_seconds": searched,
        "regressors_held_out": held_out.result(),
        "random_networks": {
            name: np.percentile(part, [1, 10, 50, 90, 99]).round(2).tolist()
            for name, part in zip(("pixel1_ms_percentiles_1_10_50_90_99", "predicted_top1_percentiles"), parts, strict=True)
        },
        "searches": ends(known, tops, found, drawn), "soft_against_hard": soft_against_hard(known, tops, found),
        "cells": cells(known, tops), "alike_against_mixed": alike_against_mixed(known, tops),
        "landmarks": landmarks(known, tops, drawn),
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
        text = f"{each['best']['predicted_top1']:.2f} % predicted at {each['best']['pixel1_ms']:.1f} ms"
        if "trained" not in each:
            print(f"{each['objective']:9s} best there is: {text}")
            continue
        print(
            f"{each['objective']:9s} {each['algorithm']:9s} {each['trained']:5d}: {text}; reward "
            f"{each['reward_below_the_best_there_is']:.4f} below the best, {each['random_share_above']:.4%} of random above"
        )
    for part in ("soft_against_hard", "cells", "alike_against_mixed", "landmarks"):
        print(part)
        for name, value in result[part].items():
            print(f"  {name}: {value}")
    print(f"{result['seconds']:.0f} seconds")


if __name__ == "__main__":
    main()
