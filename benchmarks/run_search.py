"""Trainings until a search first reaches one of the best networks of NAS-Bench-Macro, and what asking costs.

    python benchmarks/run_search.py --table nas-bench-macro_cifar10.json --output benchmarks/results/NAME/search.json

One training is one of the table's three runs, drawn once for each seed and network. A search has arrived when it asks for
one of the seven best of the 6,561 entries by the mean of all three runs. Objectives: accuracy, and the soft and the hard
reward with millions of FLOPs for milliseconds and their median for the target. No setting differs between objectives.
Algorithms that repeat themselves (the controller, Optuna's TPE) are answered from the records: `trainings` counts different
networks, `draws` every one. Then, in the space `mbconv`: milliseconds per ask and tell, and whether 10,000 asks differ.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import functools
import heapq
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OBJECTIVES = ("accuracy", "soft", "hard")
SCHEMA = 1
# name: (algorithm, options, most trainings, asynchronous workers, seeds). There are more seeds of `paper`, whose numbers are so
# far apart that a median of 50 has a standard error of some 40 trainings, and of the quick ones.
SEARCHES: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    "thompson": ("thompson", {}, 200, 1, 100),
    "thompson, 10 workers": ("thompson", {}, 200, 10, 100),
    "evolution": ("evolution", {}, 500, 1, 100),
    "random": ("random", {}, 1500, 1, 50),
    "ppo tuned": ("ppo", {"preset": "tuned"}, 600, 1, 50),
    "ppo paper": ("ppo", {"preset": "paper"}, 800, 1, 150),
    "optuna tpe": ("tpe", {}, 200, 1, 10),
}
RESAMPLES = 1_000
# most, or (least, most), of the median; `draws` for the controller, as the published counts of sampled models
TARGETS: dict[str, dict[str, tuple[float, float]]] = {
    "thompson": {"accuracy": (0, 40), "soft": (0, 45), "hard": (0, 40)},
    "ppo tuned": dict.fromkeys(OBJECTIVES, (0, 210)),
    "ppo paper": dict.fromkeys(OBJECTIVES, (300, 450)),
}
LARGEST_SLOWDOWN = 1.15  # of ten workers, in trainings


@functools.cache
def table(path: str) -> tuple[Any, Any]:
    """The table, and its space."""
    from keras_mnasnet.search import MacroTable

    found = MacroTable.read(path)
    return found, found.space()


@functools.cache
def task(path: str, objective: str) -> tuple[Any, frozenset]:
    """The reward, and the networks to be found."""
    from keras_mnasnet.search import parse_reward

    known, _ = table(path)
    reward = parse_reward(objective, known.median_mflops())
    return reward, known.best(reward)


def reach(path: str, name: str, objective: str, seed: int) -> tuple[int, int]:
    """(trainings, draws) up to the first of the best networks; one more than the most allowed if none was reached."""
    from keras_mnasnet.search import Observation, make_algorithm

    algorithm, options, most, workers, _ = SEARCHES[name]
    known, space = table(path)
    reward, good = task(path, objective)

    def observe(candidate: Any, extra: dict) -> Any:
        accuracy, latency = known.trained(candidate, seed), known.mflops[candidate]
        return Observation(candidate, extra, accuracy, latency, reward(accuracy, latency))

    if algorithm == "tpe":
        return reach_tpe(space, observe, good, seed, most)
    search = make_algorithm(algorithm, space, reward, seed=seed, **options)
    durations = random.Random(seed)
    running: list[tuple[float, int, Any]] = []
    now, asked, finished = 0.0, 0, 0
    while finished < most:
        while len(running) < workers:
            proposals = search.ask(1)
            if not proposals:
                break
            asked += 1
            heapq.heappush(running, (now + durations.uniform(0.5, 1.5), asked, proposals[0]))
        now, _, proposal = heapq.heappop(running)
        finished += 1
        if proposal.candidate in good:
            return finished, proposal.extra.get("draw", finished)
        search.tell([observe(proposal.candidate, proposal.extra)])
    return most + 1, int(search.facts().get("draws", most)) + 1


def reach_tpe(space: Any, observe: Any, good: frozenset, seed: int, most: int) -> tuple[int, int]:
    """The same with Optuna's TPE; it repeats itself, so its draws are what is limited."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(n_startup_trials=20, seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions: dict[str, Any] = {
        each.name: optuna.distributions.CategoricalDistribution(each.choices) for each in space.decisions
    }
    trained = set()
    for draw in range(1, most + 1):
        trial = study.ask(distributions)
        candidate = space.canonical(space.candidate(trial.params))
        trained.add(candidate)
        if candidate in good:
            return len(trained), draw
        study.tell(trial, observe(candidate, {}).reward)
    return len(trained) + 1, most + 1


def ask_and_tell(trials: Sequence[int], rounds: int = 30) -> dict[str, float]:
    """{trials told: median ms of one ask and its tell} of `thompson` in the space `mbconv`, with costs it has to model."""
    import numpy as np

    from keras_mnasnet.search import Observation, Reward, make_algorithm, make_space

    found, rng, known = {}, np.random.default_rng(0), make_space("mbconv")
    reward = Reward("soft", 75)
    search = make_algorithm("thompson", known, reward, seed=0)
    weights = rng.normal(size=(2, known.feature_count)) * np.array([[0.02], [0.1]])

    def observe(candidate: Any) -> Any:
        values = weights @ known.features(candidate)
        accuracy = float(np.clip(0.6 + values[0] + 0.005 * rng.normal(), 0, 1))
        latency = float(75 * np.exp(values[1]))
        return Observation(candidate, {}, accuracy, latency, reward(accuracy, latency))

    told = 0
    for count in sorted(trials):
        batch = [observe(candidate) for candidate in {known.sample(rng): None for _ in range(count - told)}]
        search.tell(batch)
        told += len(batch)
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            proposal = search.ask(1)[0]
            asked = time.perf_counter() - start
            observation = observe(proposal.candidate)
            start = time.perf_counter()
            search.tell([observation])
            times.append(asked + time.perf_counter() - start)
        told += rounds
        found[str(count)] = 1e3 * statistics.median(times)
    return found


def distinct_asks(count: int, batch: int = 50) -> int:
    """How many different networks `count` asks of `thompson` give in the space `mbconv`, each told at once."""
    from keras_mnasnet.search import Observation, Reward, make_algorithm, make_space

    known = make_space("mbconv")
    search = make_algorithm("thompson", known, Reward("exponents", 1, 0, 0), seed=0)
    keys = set()
    for _ in range(count // batch):
        proposals = search.ask(batch)
        keys |= {known.key(proposal.candidate) for proposal in proposals}
        rewards = [sum(proposal.candidate) / 100 for proposal in proposals]
        search.tell([Observation(p.candidate, {}, r, 1.0, r) for p, r in zip(proposals, rewards, strict=True)])
    return len(keys)


def median_error(values: Sequence[int]) -> float:
    """The standard error of the median, by drawing the values again with replacement."""
    draw = random.Random(0)
    return statistics.stdev(statistics.median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))


def summary(name: str, objective: str, rows: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Medians over seeds with their standard errors, and the share of seeds that arrived within 100 and 200 trainings."""
    trainings, draws = ([row[column] for row in rows] for column in (0, 1))
    found: dict[str, Any] = {
        "seeds": len(rows),
        "median_trainings": statistics.median(trainings),
        "median_trainings_error": median_error(trainings),
        "mean_trainings": statistics.fmean(trainings),
        "median_draws": statistics.median(draws),
        "median_draws_error": median_error(draws),
        "within_100": sum(each <= 100 for each in trainings) / len(rows),
        "within_200": sum(each <= 200 for each in trainings) / len(rows),
        "most_trainings": SEARCHES[name][2],
    }
    if name in TARGETS:
        low, high = TARGETS[name][objective]
        found["target"] = [low, high]
        counted = found["median_draws" if name.startswith("ppo") else "median_trainings"]
        found["met"] = low <= counted <= high and (name != "thompson" or found["within_100"] >= 0.9)
    return found


def run(
    path: str, names: Sequence[str], seeds: int | None, processes: int, asks: int
) -> tuple[dict[str, dict[str, Any]], int | None]:
    """({search: {objective: summary}}, how many of `asks` differ); `seeds` None for each search's own number."""
    jobs = [(name, objective, seed) for name in names for objective in OBJECTIVES for seed in range(seeds or SEARCHES[name][4])]
    jobs.sort(key=lambda job: -list(SEARCHES).index(job[0]))  # the slow ones first
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        distinct = pool.submit(distinct_asks, asks) if asks else None
        rows = list(pool.map(reach, [path] * len(jobs), *zip(*jobs, strict=True), chunksize=1))
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        found[name] = {}
        for objective in OBJECTIVES:
            own = [row for job, row in zip(jobs, rows, strict=True) if job[:2] == (name, objective)]
            found[name][objective] = summary(name, objective, own)
    return found, None if distinct is None else distinct.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("KERAS_MNASNET_DATA")
    parser.add_argument(
        "--table", default=default and f"{default}/nas-bench-macro/nas-bench-macro_cifar10.json", required=not default,
        help="nas-bench-macro_cifar10.json of github.com/xiusu/NAS-Bench-Macro",
    )  # fmt: skip
    parser.add_argument(
        "--seeds",
        type=int,
        help="of every search (default: 10 of TPE, 50 of random and tuned, 150 of paper, 100 of the others)",
    )
    parser.add_argument("--searches", nargs="*", choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--asks", type=int, default=10_000, help="asks that must all differ; 0 leaves this out")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # matrices are small; the processes use the cores
    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.utils.system import environment

    start = time.perf_counter()
    searches, distinct = run(arguments.table, arguments.searches, arguments.seeds, arguments.processes, arguments.asks)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "environment": environment(),
        "searches_seconds": time.perf_counter() - start,
        "searches": searches,
    }
    for name, objectives in searches.items():
        for objective, row in objectives.items():
            verdict = "" if "met" not in row else f"  target {row['target']}: {'met' if row['met'] else 'NOT MET'}"
            print(
                f"{name:22s} {objective:9s} trainings {row['median_trainings']:6.1f} +- {row['median_trainings_error']:4.1f}  "
                f"draws {row['median_draws']:6.1f} +- {row['median_draws_error']:4.1f}  "
                f"within 100: {row['within_100']:4.0%}  within 200: {row['within_200']:4.0%}  ({row['seeds']} seeds){verdict}"
            )
    slow = False
    if {"thompson", "thompson, 10 workers"} <= searches.keys():
        for kind in ("mean", "median"):
            one, ten = (sum(searches[name][each][f"{kind}_trainings"] for each in OBJECTIVES) for name in list(SEARCHES)[:2])
            result[f"ten_workers_against_one_{kind}"] = ten / one
        mean, median = (result[f"ten_workers_against_one_{kind}"] for kind in ("mean", "median"))
        slow = mean > LARGEST_SLOWDOWN
        print(
            f"ten asynchronous workers against one, trainings: {mean:.3f} by means (target {LARGEST_SLOWDOWN}), "
            f"{median:.3f} by medians"
        )
    if arguments.asks:
        result["ask_and_tell_ms"] = ask_and_tell((1_000, 10_000))
        result["distinct_of_asks"] = [distinct, arguments.asks]
        for count, ms in result["ask_and_tell_ms"].items():
            print(f"ask and tell after {count} trials: {ms:.1f} ms")
        print(f"{distinct:,} different networks in {arguments.asks:,} asks")
    result["seconds"] = time.perf_counter() - start
    print(f"{result['seconds']:.0f} seconds in all")
    if arguments.output:
        write_json(arguments.output, result)
    return int(slow or not all(row.get("met", True) for objectives in searches.values() for row in objectives.values()))


if __name__ == "__main__":
    raise SystemExit(main())
