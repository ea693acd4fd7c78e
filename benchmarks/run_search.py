"""Trainings until a search first reaches one of the best networks of a table of trainings, and what asking costs.

    python benchmarks/run_search.py --table nas-bench-macro_cifar10.json --imagenet-table accel-nasbench.csv.gz \
        --output benchmarks/results/NAME/search.json

`macro`: one training is one of NAS-Bench-Macro's three CIFAR-10 runs, drawn once for each seed and network. A search has
arrived when it asks for one of the seven best of the 6,561 entries by the mean of all three runs. Objectives: accuracy, and the
soft and the hard reward with millions of FLOPs for milliseconds and their median for the target. `imagenet`: a training is what
5,138 ImageNet trainings predict of a network of 1.0e11, and the noise of one; latency is the Pixel-1 model's, the target 75 ms.
A search has arrived at a network of the best 1 in 10,000, which 100,000 random ones without noise tell. No setting differs
between tasks and objectives. Algorithms that repeat themselves (the controller, Optuna's TPE) are answered from the records:
`trainings` counts different networks, `draws` every one. Then, in the space `mbconv`: milliseconds per ask and tell, and
whether 10,000 asks differ.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import datetime
import functools
import heapq
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

OBJECTIVES = ("accuracy", "soft", "hard")
TASKS = ("macro", "imagenet")
IMAGENET_SEEDS, IMAGENET_TARGET_MS = 20, 75.0
DRAWN, BEST = 100_000, 10  # random networks, of which the tenth is the bar
SCHEMA = 2
# name: (algorithm, options, most trainings, asynchronous workers, seeds on `macro`). There are more seeds of `paper`, whose
# numbers are so far apart that a median of 50 has a standard error of some 40 trainings, and of the quick ones.
SEARCHES: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    "thompson": ("thompson", {}, 200, 1, 100),
    "thompson, 10 workers": ("thompson", {}, 200, 10, 100),
    "evolution": ("evolution", {}, 500, 1, 100),
    "local search": ("local-search", {}, 500, 1, 100),
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


class Macro:
    """NAS-Bench-Macro."""

    def __init__(self, path: str) -> None:
        from keras_mnasnet.search import MacroTable

        self.table = MacroTable.read(path)
        self.space, self.target = self.table.space(), self.table.median_mflops()
        self.trained, self.cost = self.table.trained, self.table.mflops.__getitem__

    def goal(self, reward: Any) -> Callable[[Any], bool]:
        """Whether a network is one of those to be found."""
        return self.table.best(reward).__contains__


class Imagenet:
    """Accel-NASBench's space, with what its trainings predict."""

    def __init__(self, path: str) -> None:
        from keras_mnasnet.search.imagenet_table import ImageNetTable, Pixel1ByStage
        from keras_mnasnet.search.networks import accel_nasbench

        self.regressor, self.cost = ImageNetTable.read(path).fitted(), Pixel1ByStage()
        self.space = dataclasses.replace(accel_nasbench(), cost=self.cost)
        self.target = IMAGENET_TARGET_MS

    def accuracies(self, candidates: Any) -> Any:
        from keras_mnasnet.search.imagenet_table import features

        return self.regressor.predict(features(candidates)) / 100

    def trained(self, candidate: Any, seed: int) -> float:
        import numpy as np

        from keras_mnasnet.search.imagenet_table import NOISE_POINTS

        noise = NOISE_POINTS / 100 * np.random.default_rng([seed, *candidate]).standard_normal()
        return float(self.accuracies(candidate)[0] + noise)

    def goal(self, reward: Any) -> Callable[[Any], bool]:
        import numpy as np

        drawn = np.random.default_rng(0).integers(self.space.counts, size=(DRAWN, len(self.space.counts)))
        rewards = [reward.of(self.accuracies(part), self.cost.of(part)) for part in np.array_split(drawn, 20)]
        bar = np.sort(np.concatenate(rewards))[-BEST]
        return lambda candidate: bool(reward.of(self.accuracies(candidate)[0], self.cost(candidate)) >= bar)


@functools.cache
def table(task: str, path: str) -> Any:
    """What is searched."""
    return {"macro": Macro, "imagenet": Imagenet}[task](path)


@functools.cache
def goal(task: str, path: str, objective: str) -> tuple[Any, Callable[[Any], bool]]:
    """The reward, and whether a network is one of those to be found."""
    from keras_mnasnet.search import parse_reward

    reward = parse_reward(objective, table(task, path).target)
    return reward, table(task, path).goal(reward)


def reach(task: str, path: str, name: str, objective: str, seed: int) -> tuple[int, int]:
    """(trainings, draws) up to the first of the best networks; one more than the most allowed if none was reached."""
    from keras_mnasnet.search import Observation, make_algorithm

    algorithm, options, most, workers, _ = SEARCHES[name]
    known = table(task, path)
    space, (reward, good) = known.space, goal(task, path, objective)

    def observe(candidate: Any, extra: dict) -> Any:
        accuracy, latency = known.trained(candidate, seed), known.cost(candidate)
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
        if good(proposal.candidate):
            return finished, proposal.extra.get("draw", finished)
        search.tell([observe(proposal.candidate, proposal.extra)])
    return most + 1, int(search.facts().get("draws", most)) + 1


def reach_tpe(space: Any, observe: Any, good: Callable[[Any], bool], seed: int, most: int) -> tuple[int, int]:
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
        if good(candidate):
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


def summary(task: str, name: str, objective: str, rows: Sequence[tuple[int, int]]) -> dict[str, Any]:
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
    if task == "macro" and name in TARGETS:
        low, high = TARGETS[name][objective]
        found["target"] = [low, high]
        counted = found["median_draws" if name.startswith("ppo") else "median_trainings"]
        found["met"] = low <= counted <= high and (name != "thompson" or found["within_100"] >= 0.9)
    return found


Searches = dict[str, dict[str, dict[str, dict[str, Any]]]]


def run(
    paths: Mapping[str, str], names: Sequence[str], seeds: int | None, processes: int, asks: int
) -> tuple[Searches, int | None]:
    """({task: {search: {objective: summary}}}, how many of `asks` differ); `seeds` None for each search's own number."""
    jobs = [
        (task, path, name, objective, seed)
        for task, path in paths.items() for name in names for objective in OBJECTIVES
        for seed in range(seeds or (SEARCHES[name][4] if task == "macro" else IMAGENET_SEEDS))
    ]  # fmt: skip
    jobs.sort(key=lambda job: -list(SEARCHES).index(job[2]))  # the slow ones first
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        distinct = pool.submit(distinct_asks, asks) if asks else None
        rows = list(pool.map(reach, *zip(*jobs, strict=True), chunksize=1))
    found: Searches = {}
    for task in paths:
        for name in names:
            for objective in OBJECTIVES:
                own = [row for job, row in zip(jobs, rows, strict=True) if (job[0], *job[2:4]) == (task, name, objective)]
                found.setdefault(task, {}).setdefault(name, {})[objective] = summary(task, name, objective, own)
    return found, None if distinct is None else distinct.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("KERAS_MNASNET_DATA")
    parser.add_argument(
        "--table", default=default and f"{default}/nas-bench-macro/nas-bench-macro_cifar10.json",
        help="nas-bench-macro_cifar10.json of github.com/xiusu/NAS-Bench-Macro",
    )  # fmt: skip
    parser.add_argument(
        "--imagenet-table", default=default and f"{default}/accel-nasbench/accel-nasbench.csv.gz",
        help="the trainings of github.com/afzalxo/Accel-NASBench as one table",
    )  # fmt: skip
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument(
        "--seeds",
        type=int,
        help="of every search (default on macro: 10 of TPE, 50 of random and tuned, 150 of paper, 100 of the others; on "
        "imagenet 20)",
    )
    parser.add_argument("--searches", nargs="*", choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--asks", type=int, default=10_000, help="asks that must all differ; 0 leaves this out")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    paths = {task: {"macro": arguments.table, "imagenet": arguments.imagenet_table}[task] for task in arguments.tasks}
    for task, path in paths.items():
        if path is None:
            parser.error(f"The task {task} needs its table. Received: none. Name it, or leave the task out of --tasks.")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # matrices are small; the processes use the cores
    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.utils.system import environment

    start = time.perf_counter()
    searches, distinct = run(paths, arguments.searches, arguments.seeds, arguments.processes, arguments.asks)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "environment": environment(),
        "searches_seconds": time.perf_counter() - start,
        "searches": searches,
    }
    every = [(*key, row) for key, row in _rows(searches)]
    for task, name, objective, row in every:
        verdict = "" if "met" not in row else f"  target {row['target']}: {'met' if row['met'] else 'NOT MET'}"
        print(
            f"{task:8s} {name:22s} {objective:9s} trainings {row['median_trainings']:6.1f} +- "
            f"{row['median_trainings_error']:4.1f}  draws {row['median_draws']:6.1f} +- {row['median_draws_error']:4.1f}  "
            f"within 100: {row['within_100']:4.0%}  within 200: {row['within_200']:4.0%}  ({row['seeds']} seeds){verdict}"
        )
    slow = False
    macro = searches.get("macro", {})
    if {"thompson", "thompson, 10 workers"} <= macro.keys():
        for kind in ("mean", "median"):
            one, ten = (sum(macro[name][each][f"{kind}_trainings"] for each in OBJECTIVES) for name in list(SEARCHES)[:2])
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
    return int(slow or not all(row.get("met", True) for *_, row in every))


def _rows(searches: Searches) -> Iterator[tuple[tuple[str, str, str], dict[str, Any]]]:
    for task, names in searches.items():
        for name, objectives in names.items():
            for objective, row in objectives.items():
                yield (task, name, objective), row


if __name__ == "__main__":
    raise SystemExit(main())
