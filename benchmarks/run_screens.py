"""Trainings until `thompson` first reaches one of the best networks of NAS-Bench-Macro, with and without screens.

    python benchmarks/run_screens.py --output benchmarks/results/NAME/screens.json

As in run_search.py; but millions of FLOPs, which stand for milliseconds, are known of a network only when they were `measured`
(or of all, as there). `measure:N` measures N proposals and trains the best; `relu-units:quarter` chooses the start. The medians
of Kendall's taus are of a screen's scores with the rewards.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import datetime
import multiprocessing
import os
import statistics
from pathlib import Path
from typing import Any

from run_search import goal, median_error, table

SCHEMA, MOST = 1, 200
# objective, whether the latency is known beforehand, screen
CASES: tuple[tuple[str, bool, str], ...] = (
    ("hard", False, ""), ("hard", False, "measure:8"), ("hard", False, "measure:16"), ("hard", False, "measure:32"),
    ("soft", False, ""), ("soft", False, "measure:16"), ("accuracy", True, ""), ("accuracy", True, "relu-units:quarter"),
    ("soft", True, ""), ("soft", True, "relu-units:quarter"), ("hard", True, ""), ("hard", True, "relu-units:quarter"),
)  # fmt: skip


def reach(path: str, objective: str, known: bool, screen: str, seed: int) -> tuple[int, dict[str, float]]:
    """Trainings up to the first of the best networks (one more than the most allowed if none was reached); taus."""
    from keras_mnasnet.search import Observation, Screen, make_algorithm
    from keras_mnasnet.search.screens import parse_screen

    rows, (reward, is_good) = table("macro", path), goal("macro", path, objective)
    space = rows.space if known else dataclasses.replace(rows.space, cost=None)
    found = make_algorithm("thompson", space, reward, seed=seed)
    searcher: Any = found
    if screen:
        parsed = parse_screen(screen)
        if isinstance(parsed, Screen):
            searcher.screens = (parsed,)
        else:
            searcher.measured, searcher.meter = parsed, lambda candidate: (rows.cost(candidate), "table")
    for number in range(1, MOST + 1):
        (proposal,) = found.ask(1)
        if is_good(proposal.candidate):
            return number, searcher.taus()
        accuracy, latency = rows.trained(proposal.candidate, seed), rows.cost(proposal.candidate)
        found.tell([Observation(proposal.candidate, proposal.extra, accuracy, latency, reward(accuracy, latency))])
    return MOST + 1, searcher.taus()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("KERAS_MNASNET_DATA")
    parser.add_argument(
        "--table", default=default and f"{default}/nas-bench-macro/nas-bench-macro_cifar10.json", required=not default,
        help="nas-bench-macro_cifar10.json of github.com/xiusu/NAS-Bench-Macro",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=100, help="default %(default)s")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # matrices are small; the processes use the cores
    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.utils.system import environment

    cases = []
    with concurrent.futures.ProcessPoolExecutor(arguments.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for case in CASES:
            columns = zip(*[(arguments.table, *case, seed) for seed in range(arguments.seeds)], strict=True)
            found = list(pool.map(reach, *columns))
            trainings = [count for count, _ in found]
            early = sum(each <= 100 for each in trainings) / len(found)
            taus = [tau for _, each in found for tau in each.values()]
            row = {
                "objective": case[0], "latency": "known" if case[1] else "measured", "screen": case[2], "seeds": len(found),
                "median_trainings": statistics.median(trainings), "median_trainings_error": median_error(trainings),
                "mean_trainings": statistics.fmean(trainings), "within_100": early,
                "median_tau": statistics.median(taus) if taus else None,
            }  # fmt: skip
            cases.append(row)
            print(
                f"{row['objective']:9s} latency {row['latency']:9s} {row['screen']:19s} trainings "
                f"{row['median_trainings']:5.1f} +- {row['median_trainings_error']:4.1f}, mean {row['mean_trainings']:5.1f}, "
                f"within 100: {row['within_100']:4.0%}, tau {row['median_tau']}", flush=True,
            )  # fmt: skip
    if arguments.output:
        write_json(arguments.output, {
            "schema": SCHEMA, "date": datetime.date.today().isoformat(), "environment": environment(), "cases": cases,
        })  # fmt: skip


if __name__ == "__main__":
    main()
