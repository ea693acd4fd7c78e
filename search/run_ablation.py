"""The paper's ablations, repeated on networks whose accuracies are known: soft against hard reward (section 7.1, figure 6),
factorized space against one cell (section 7.2, table 5), layer diversity (section 7.3, table 6).

    python search/run_ablation.py --table nas-bench-macro_cifar10.json --output search/runs/ablation

The networks are NAS-Bench-Macro's 6,561 (CIFAR-10, three trainings each): one training is one of the three runs, results are
the mean of all three. Their cost is their millions of FLOPs, and, once more, the milliseconds of the Pixel-1 model at 32 px,
which is outside the sizes it was fitted on. The target is the median over the table.

The controller is the paper's (LSTM, PPO). The cell space is the part of the table where every stage has the same layers:
three decisions, 27 networks, of which it can try every one. A controller that has settled asks for neighbours of what it
draws, because no network is trained twice: long searches end up everywhere, so these are short. What these small networks show
need not hold at ImageNet's scale.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import datetime
import functools
import importlib.util
import multiprocessing
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.benchmarks.results import write_json
from keras_mnasnet.search import (
    Candidate,
    Decision,
    MacroTable,
    Observation,
    Reward,
    SearchSpace,
    make_algorithm,
    parse_reward,
    pixel1_ms,
)  # fmt: skip
from keras_mnasnet.search.networks import MACRO_CHOICES, MACRO_STAGES, macro_canonical, macro_network
from keras_mnasnet.utils.files import replaced
from keras_mnasnet.utils.system import environment

SCHEMA = 1
COSTS = ("mflops", "pixel1_ms")
REWARDS = ("soft", "hard")
BOUNDS = (0.6, 0.8, 1.0, 1.2, 1.4)  # of the target: the best network below each is compared with the best there is
SPACES = {
    "single objective, cell": ("cell", "accuracy"), "soft, cell": ("cell", "soft"), "soft, factorized": ("macro", "soft"),
    "hard, cell": ("cell", "hard"), "hard, factorized": ("macro", "hard"),
}  # fmt: skip
PUBLISHED_TABLE_5 = {  # paper, table 5: (Pixel-1 ms, ImageNet top-1)
    "single objective, cell": (183, 74.0), "soft, cell": (100, 72.0), "soft, factorized": (78, 75.2),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Known:
    """The table, one cost for each of its networks, and the target."""

    table: MacroTable
    cost: dict[Candidate, float]
    target: float

    def accuracy(self, candidate: Candidate) -> float:
        return float(np.mean(self.table.runs[candidate]))


@functools.cache
def known(path: str, cost: str) -> Known:
    """The table with one of COSTS."""
    table = MacroTable.read(path)
    if cost == "mflops":
        return Known(table, table.mflops, table.median_mflops())
    by_network: dict[Candidate, float] = {}
    for candidate in map(macro_canonical, table.runs):
        if candidate not in by_network:
            by_network[candidate] = pixel1_ms(macro_network(candidate), 32, classes=10)
    costs = {candidate: by_network[macro_canonical(candidate)] for candidate in table.runs}
    return Known(table, costs, float(np.median(list(costs.values()))))


def cell_space() -> SearchSpace:
    """Three decisions for the layers of every stage; the first stage has two layers."""
    return SearchSpace("macro-cell", tuple(Decision(f"layer{n}", MACRO_CHOICES) for n in range(1, 1 + max(MACRO_STAGES))))


def spread(candidate: Candidate) -> Candidate:
    """A network of the cell space as one of the table."""
    return macro_canonical(tuple(choice for length in MACRO_STAGES for choice in candidate[:length]))


def search(path: str, cost: str, kind: str, objective: str, preset: str, trials: int, seed: int) -> list[Candidate]:
    """The networks of the table that the controller trains, in order; at most `trials` different ones."""
    facts = known(path, cost)
    reward = parse_reward(objective, facts.target)
    own = cell_space() if kind == "cell" else dataclasses.replace(facts.table.space(), cost=None)
    controller = make_algorithm("ppo", own, reward, seed=seed, preset=preset)
    trained: list[Candidate] = []
    while len(trained) < trials:
        proposals = controller.ask(1)
        if not proposals:
            break
        candidate = proposals[0].candidate
        place = spread(candidate) if kind == "cell" else candidate
        accuracy, value = facts.table.trained(place, seed), facts.cost[place]
        controller.tell([Observation(candidate, proposals[0].extra, accuracy, value, reward(accuracy, value))])
        trained.append(place)
    return trained


def best_below(facts: Known, candidates: Sequence[Candidate], bound: float) -> float | None:
    """The best accuracy (mean of three trainings) among networks of at most `bound` times the target."""
    return max((facts.accuracy(c) for c in candidates if facts.cost[c] <= bound * facts.target), default=None)


def soft_against_hard(path: str, cost: str, runs: dict[str, list[list[Candidate]]]) -> dict[str, Any]:
    """Where each reward's networks lie, and how much of the front each found."""
    facts = known(path, cost)
    there_is = {bound: best_below(facts, list(facts.table.runs), bound) for bound in BOUNDS}
    found: dict[str, Any] = {"target": facts.target, "best_there_is": {str(b): value for b, value in there_is.items()}}
    for objective, sampled in runs.items():
        ratios = [np.array([facts.cost[c] / facts.target for c in run]) for run in sampled]
        late = [each[len(each) // 2 :] for each in ratios]
        regrets: dict[str, Any] = {}
        for bound, best in there_is.items():
            values = [best_below(facts, run, bound) for run in sampled]
            got = [100 * (best - value) for value in values if value is not None and best is not None]
            regrets[str(bound)] = {"runs": len(got), "median_points": statistics.median(got) if got else None}
        found[objective] = {
            "runs": len(sampled),
            "networks": sum(map(len, sampled)),
            "cost_over_target_deciles_1_5_9": np.percentile(np.concatenate(ratios), [10, 50, 90]).tolist(),
            "second_half_deciles_1_5_9": np.percentile(np.concatenate(late), [10, 50, 90]).tolist(),
            "share_above_target": float(np.mean(np.concatenate(ratios) > 1)),
            "second_half_share_above_target": float(np.mean(np.concatenate(late) > 1)),
            "points_below_the_best_there_is": regrets,
        }
    return found


def chosen(facts: Known, run: Sequence[Candidate], reward: Reward, seed: int) -> Candidate:
    """What a search ends with: the best reward of those it trained."""
    return max(run, key=lambda each: reward(facts.table.trained(each, seed), facts.cost[each]))


def factorized_against_cell(path: str, cost: str, runs: dict[str, list[list[Candidate]]]) -> dict[str, Any]:
    """Table 5: what each search ends with, mean and deviation over seeds, beside the paper's figures."""
    facts, rows = known(path, cost), {}
    for name, sampled in runs.items():
        reward = parse_reward(SPACES[name][1], facts.target)
        ends = [chosen(facts, run, reward, seed) for seed, run in enumerate(sampled)]
        accuracies, costs = [facts.accuracy(each) for each in ends], [facts.cost[each] for each in ends]
        soft = parse_reward("soft", facts.target)
        rows[name] = {
            "runs": len(ends),
            "trained": statistics.median(len(run) for run in sampled),
            "accuracy": statistics.mean(accuracies),
            "accuracy_deviation": statistics.pstdev(accuracies),
            cost: statistics.mean(costs),
            f"{cost}_deviation": statistics.pstdev(costs),
            "soft_reward": statistics.mean(soft(a, c) for a, c in zip(accuracies, costs, strict=True)),
            "published_pixel1_ms_and_imagenet_top1": PUBLISHED_TABLE_5.get(name),
        }
    return rows


def diversity(path: str, cost: str) -> dict[str, Any]:
    """Table 6: networks of one kind of layer, and the most accurate one that costs no more."""
    facts, rows = known(path, cost), {}
    for choice, name in enumerate(MACRO_CHOICES[1:], start=1):
        uniform = (choice,) * sum(MACRO_STAGES)
        limit = facts.cost[uniform] / facts.target
        rows[f"{name} only"] = {
            "accuracy": facts.accuracy(uniform), cost: facts.cost[uniform],
            "best_accuracy_at_no_higher_cost": best_below(facts, list(facts.table.runs), limit),
        }  # fmt: skip
    return rows


def plot(path: str, runs: dict[str, dict[str, list[list[Candidate]]]], target: Path) -> None:
    """Figure 6: the networks that the first search of each reward trained, and the best there are."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, every = pyplot.subplots(1, len(COSTS), figsize=(11, 4.5), layout="constrained")
    for axes, cost in zip(every, COSTS, strict=True):
        facts = known(path, cost)
        for objective, color in zip(REWARDS, ("tab:blue", "tab:orange"), strict=True):
            first = runs[cost][objective][0]
            ratios = [facts.cost[each] / facts.target for each in first]
            values = [100 * facts.accuracy(each) for each in first]
            axes.scatter(ratios, values, s=9, alpha=0.5, color=color, label=f"{objective}, {len(first)} networks")
        bounds = np.linspace(0.4, 2.0, 65)
        front = [best_below(facts, list(facts.table.runs), bound) for bound in bounds]
        axes.step(bounds, [100 * each if each else np.nan for each in front], where="post", color="0.2", label="best there is")
        axes.axvline(1, color="0.6", linewidth=0.8)
        axes.set(
            xlabel=f"{cost.replace('_', ' ')} / target ({facts.target:.3g})", ylabel="CIFAR-10 accuracy, %", ylim=(89, 93.4)
        )
        axes.legend(loc="lower right", fontsize=8)
    figure.suptitle("NAS-Bench-Macro: networks trained by the controller under a soft and a hard reward")
    with replaced(target) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)


def main() -> None:
    arguments = _arguments()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    searches = dict.fromkeys([*(("macro", objective) for objective in REWARDS), *SPACES.values()])
    jobs = [(cost, *each, seed) for cost in COSTS for each in searches for seed in range(arguments.seeds)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(arguments.processes, mp_context=context) as pool:
        futures = [
            pool.submit(search, arguments.table, cost, kind, objective, arguments.preset, arguments.trials, seed)
            for cost, kind, objective, seed in jobs
        ]
        found = dict(zip(jobs, (future.result() for future in futures), strict=True))

    def of(cost: str, kind: str, objective: str) -> list[list[Candidate]]:
        return [found[cost, kind, objective, seed] for seed in range(arguments.seeds)]

    sampled = {cost: {each: of(cost, "macro", each) for each in REWARDS} for cost in COSTS}
    ends = {cost: {name: of(cost, *SPACES[name]) for name in SPACES} for cost in COSTS}
    result = {
        "schema": SCHEMA, "date": datetime.date.today().isoformat(), "environment": environment(),
        "settings": {key: value for key, value in vars(arguments).items() if key not in ("table", "output", "processes")},
        "soft_against_hard": {cost: soft_against_hard(arguments.table, cost, sampled[cost]) for cost in COSTS},
        "factorized_against_cell": {cost: factorized_against_cell(arguments.table, cost, ends[cost]) for cost in COSTS},
        "layer_diversity": {cost: diversity(arguments.table, cost) for cost in COSTS},
    }  # fmt: skip
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "ablation.json", result)
    _print(result)
    if importlib.util.find_spec("matplotlib"):
        plot(arguments.table, sampled, folder / "soft_against_hard.png")


def _print(result: dict[str, Any]) -> None:
    for cost, rows in result["soft_against_hard"].items():
        print(f"soft against hard, {cost}, target {rows['target']:.4g}")
        for objective in REWARDS:
            row = rows[objective]
            low, middle, high = row["second_half_deciles_1_5_9"]
            regrets = ", ".join(
                f"{bound}: {each['median_points']:.3f}" if each["median_points"] is not None else f"{bound}: none"
                for bound, each in row["points_below_the_best_there_is"].items()
            )
            print(
                f"  {objective}: cost / target of the second half {low:.2f} {middle:.2f} {high:.2f}, "
                f"{row['second_half_share_above_target']:.0%} above; points below the best there is up to {regrets}"
            )
    for cost, spaces in result["factorized_against_cell"].items():
        print(f"factorized against cell, {cost}")
        for name, row in spaces.items():
            print(
                f"  {name}: {row['trained']:g} trained, {100 * row['accuracy']:.2f} +- "
                f"{100 * row['accuracy_deviation']:.2f} %, {row[cost]:.4g} +- {row[f'{cost}_deviation']:.2g} {cost}, "
                f"soft reward {row['soft_reward']:.4f}"
            )
    for cost, kinds in result["layer_diversity"].items():
        for name, row in kinds.items():
            print(
                f"{name}: {100 * row['accuracy']:.2f} % at {row[cost]:.4g} {cost}; the best that costs no more: "
                f"{100 * row['best_accuracy_at_no_higher_cost']:.2f} %"
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    default = os.environ.get("KERAS_MNASNET_DATA")
    parser.add_argument(
        "--table", default=default and f"{default}/nas-bench-macro/nas-bench-macro_cifar10.json", required=not default,
        help="nas-bench-macro_cifar10.json of github.com/xiusu/NAS-Bench-Macro",
    )  # fmt: skip
    parser.add_argument("--output", default="search/runs/ablation", metavar="DIR", help="default %(default)s")
    parser.add_argument("--preset", choices=("paper", "tuned"), default="tuned", help="of the controller (default %(default)s)")
    parser.add_argument("--trials", type=int, default=200, help="networks that a search trains (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=20, help="default %(default)s")
    parser.add_argument("--processes", type=int, default=2, help="default %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    main()
