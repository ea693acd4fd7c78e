"""Reconstruct MnasNet-A2 and A3, which the paper prints only as totals: enumerate the members of its search space that
have those totals, print the nearest ones to A1 and end on the two networks the package ships.

Space: paper section 4.1 with five searched stages; per stage expansion {3, 6}, kernel {3, 5}, squeeze-and-excite {0, 0.25},
filters {0.75, 1.0, 1.2} x MobileNetV2's rounded to 8 (never below 90 %), repeats {-1, 0, +1} on MobileNetV2's. The first
stage (depthwise-separable, 16) and the last (MBConv6, 320) are A1's. This reading contains A1 and B1.
Rule: reproduce the printed parameters and multiply-adds to the printed digits, and the printed Pixel-1 latency within 4 % by
the package's model; no squeeze-and-excite of A1 taken away; fewest decisions changed from A1. What is left are the finalists;
the first is the one with the smallest |params / printed - 1| + |madds / printed - 1|, then the first in text order.
--proxy-trainings N also trains every finalist N times on CIFAR-10, in turns, and ranks them by accuracy. Another finalist than
the first would have to be ahead of it by two standard errors of the difference.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import itertools
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_mnasnet.architecture import Architecture, Block, Layer, round_filters
from keras_mnasnet.family import A1, A2, A3, PUBLISHED
from keras_mnasnet.search.pixel1 import coefficients, features, pixel1_ms

MOBILENET_V2 = ((2, 24), (3, 32), (4, 64), (3, 96), (3, 160))  # (repeats, filters) of the searched stages
FILTER_RATIOS = (0.75, 1.0, 1.2)
DECISIONS = ("expand", "kernel", "se", "filters", "repeats")
STAGES = range(1, 6)  # positions of the searched stages in Architecture.blocks
NETWORKS = {"a2": A2, "a3": A3}
LATENCY_TOLERANCE = 0.04
RECIPE = "proxy-5-epochs"
NEVER = 100  # counted as a change: squeeze-and-excite taken away from A1


def choices(stage: int) -> dict[str, tuple]:
    """The options of one searched stage, by decision name."""
    repeats, filters = MOBILENET_V2[stage - 1]
    return {
        "expand": (3, 6),
        "kernel": (3, 5),
        "se": (0.0, 0.25),
        "filters": tuple(sorted({round_filters(filters, ratio) for ratio in FILTER_RATIOS})),
        "repeats": (repeats - 1, repeats, repeats + 1),
    }


def chained(name: str, blocks: list[Block]) -> Architecture:
    """An architecture in which every stage takes what the one before it gives."""
    previous, linked = A1.stem, []
    for block in blocks:
        linked.append(dataclasses.replace(block, input_filters=previous))
        previous = block.filters
    return Architecture(name, A1.stem, tuple(linked), A1.head, "reconstructed")


def printed_totals(name: str) -> tuple[float, float, float]:
    """(parameters in millions, multiply-adds in millions, Pixel-1 milliseconds), as the paper prints them."""
    printed = PUBLISHED[name]
    if printed.params_m is None or printed.madds_m is None or printed.latency_ms is None:
        raise ValueError(f"A reconstruction needs printed totals. Received: none for {name!r}")
    return printed.params_m, printed.madds_m, printed.latency_ms


class Members(NamedTuple):
    """Members of the space up to a stage: (params, madds, ms) `[N, 3]`, decisions changed `[N]`, their options `[N]`.

    `codes` counts a stage's options from 0, a stage being a digit of base OPTIONS, the first stage the lowest.
    """

    totals: np.ndarray
    changes: np.ndarray
    codes: np.ndarray


@functools.cache
def options(stage: int) -> tuple[tuple[Block, int], ...]:
    """Every block of one searched stage, with the decisions that differ from A1's."""
    found = []
    ours = A1.blocks[stage]
    for values in itertools.product(*choices(stage).values()):
        block = dataclasses.replace(ours, **dict(zip(DECISIONS, values, strict=True)))
        changes = sum(getattr(block, decision) != getattr(ours, decision) for decision in DECISIONS)
        found.append((block, NEVER if ours.se and not block.se else changes))
    return tuple(found)


OPTIONS = max(len(options(stage)) for stage in STAGES)


def figures(layers: list[Layer], size: int) -> tuple[float, float, float]:
    """(params, madds, ms) of consecutive layers on a map of `size` pixels."""
    found = features(layers, size, size)
    ms = math.fsum(value * found[name] for name, value in coefficients().items())
    return sum(row.params for row in layers), sum(row.madds for row in layers), ms


@functools.cache
def stage_figures(stage: int, input_filters: int, block: Block) -> tuple[float, float, float]:
    """(params, madds, ms) of one stage at 224 x 224, read off the layer table."""
    blocks = [*A1.blocks[: stage - 1], dataclasses.replace(A1.blocks[stage - 1], filters=input_filters), block]
    rows = list(chained("stage", blocks).layers(classes=0))
    ours = [index for index, row in enumerate(rows) if row.name.startswith(f"block{stage + 1}")]
    return figures(rows[ours[0] : ours[-1] + 1], rows[ours[0] - 1].height)


@functools.cache
def fixed_figures() -> np.ndarray:
    """(params, madds, ms) of what every member shares: stem, first stage, head and classifier."""
    rows = list(A1.layers())
    begin = [row for row in rows if row.name.startswith(("stem", "block1"))]
    end = [row for row in rows if row.name.startswith(("head", "predictions"))]
    return np.add(figures(begin, 224), figures(end, end[0].height))


def extend(before: dict[int, Members], stage: int, digit: int) -> dict[int, Members]:
    """By output channels, the members after one more searched stage, from those before it."""
    following = collections.defaultdict(list)
    for option, (block, changes) in enumerate(options(stage)):
        for input_filters, known in before.items():
            following[block.filters].append(
                Members(
                    known.totals + stage_figures(stage, input_filters, block),
                    known.changes + changes,
                    known.codes + option * OPTIONS**digit,
                )
            )
    return {
        filters: Members(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        for filters, parts in following.items()
    }


def start(filters: int, totals: np.ndarray) -> dict[int, Members]:
    """Nothing chosen yet."""
    return {filters: Members(totals[None], np.zeros(1, np.int64), np.zeros(1, np.int64))}


def members_with_printed_totals() -> dict[str, Members]:
    """The space's networks that print as each name; stages 1-3 and 4-5 are joined on the channels between."""
    left = start(A1.blocks[0].filters, fixed_figures())
    for stage in (1, 2, 3):
        left = extend(left, stage, stage - 1)
    found: dict[str, list[Members]] = {name: [] for name in NETWORKS}
    for filters, known in left.items():
        order = np.argsort(known.totals[:, 0])
        first = Members(*(column[order] for column in known))
        right = extend(extend(start(filters, np.zeros(3)), 4, 3), 5, 4)
        for last, rest in right.items():
            ends = rest.totals + stage_figures(6, last, A1.blocks[6])
            for end, changes, code in zip(ends, rest.changes, rest.codes, strict=True):
                for name in NETWORKS:
                    printed_params, printed_madds, _ = printed_totals(name)
                    low, high = np.searchsorted(first.totals[:, 0], (np.array([-0.05, 0.05]) + printed_params) * 1e6 - end[0])
                    offsets = first.totals[low:high, 1] + end[1] - printed_madds * 1e6
                    rows = low + np.flatnonzero((offsets >= -0.5e6) & (offsets < 0.5e6))
                    if len(rows):
                        found[name].append(
                            Members(first.totals[rows] + end, first.changes[rows] + changes, first.codes[rows] + code)
                        )
    return {name: Members(*(np.concatenate(column) for column in zip(*parts, strict=True))) for name, parts in found.items()}


def decoded(name: str, code: int) -> Architecture:
    """The network of a member's options."""
    digits = [code // OPTIONS**digit % OPTIONS for digit in range(len(STAGES))]
    searched = [options(stage)[option][0] for stage, option in zip(STAGES, digits, strict=True)]
    return chained(name, [A1.blocks[0], *searched, A1.blocks[6]])


def finalists(name: str, members: Members) -> tuple[int, list[Architecture]]:
    """(decisions changed, networks by the rule) for the fewest changes that reproduce all that is printed."""
    printed_params, printed_madds, printed_ms = printed_totals(name)

    def rank(network: Architecture) -> tuple[float, str]:
        error = abs(network.params() / 1e6 / printed_params - 1) + abs(network.madds() / 1e6 / printed_madds - 1)
        return error, str(network)

    fits = np.abs(members.totals[:, 2] / printed_ms - 1) <= LATENCY_TOLERANCE
    fewest = int(members.changes[fits].min(initial=NEVER))
    if fewest >= NEVER:
        raise RuntimeError(f"The space must hold a network of the printed figures. Received: none for {name!r}")
    codes = members.codes[fits & (members.changes == fewest)]
    return fewest, sorted((decoded(name, int(code)) for code in codes), key=rank)


def ranked_by_training(
    networks: list[Architecture], trainings: int, data: str, *, images: int, epochs: int, resolution: int
) -> list[dict[str, Any]]:
    """Each network trained `trainings` times on `images` photos, in turns; accuracies 0..1 on 2,000 held-out ones."""
    from keras_mnasnet.search.evaluator import NetworkEvaluator
    from keras_mnasnet.search.records import TrialRequest
    from keras_mnasnet.training import parse_recipe

    recipe = parse_recipe(f"{RECIPE} epochs={epochs}")
    accuracies: list[list[float]] = [[] for _ in networks]
    for seed in range(trainings):
        evaluate = NetworkEvaluator(
            data=data,
            recipe=dataclasses.replace(recipe, seed=seed),
            resolution=resolution,
            images=images,
            validation_images=2000,
        )
        for number, network in enumerate(networks):
            result = evaluate(TrialRequest(number, 1, (), {}, str(network)))
            if result.accuracy is None:
                raise RuntimeError(f"A proxy training must end with an accuracy. Received: {result.failure} for {network}")
            accuracies[number].append(result.accuracy)
            print(f"  seed {seed} {result.accuracy:.4f} {sum(result.seconds.values()):.0f} s  {network}", file=sys.stderr)
    rows = [
        {
            "text": str(network), "accuracies": found, "mean": statistics.fmean(found),
            "standard_error": statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else None,
        }
        for network, found in zip(networks, accuracies, strict=True)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row["mean"])


def beats(first: list[float], second: list[float]) -> bool:
    """Whether trainings with the same seeds put one network ahead by two standard errors of their difference."""
    differences = [one - other for one, other in zip(first, second, strict=True)]
    if len(differences) < 3:
        return False
    return statistics.fmean(differences) > 2 * statistics.stdev(differences) / len(differences) ** 0.5


def examined(name: str, members: Members, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything printed about one network."""
    printed_params, printed_madds, printed_ms = printed_totals(name)
    shipped = NETWORKS[name]
    changes, networks = finalists(name, members)
    result: dict[str, Any] = {
        "printed": {"params_m": printed_params, "madds_m": printed_madds, "latency_ms": printed_ms},
        "members_with_printed_totals": len(members.codes),
        "members_with_printed_totals_and_latency": int(
            (np.abs(members.totals[:, 2] / printed_ms - 1) <= LATENCY_TOLERANCE).sum()
        ),
        "changed_decisions": changes,
        "candidates": [
            {
                "text": str(network), "params": network.params(), "madds": network.madds(),
                "pixel1_ms": round(pixel1_ms(network), 2),
            }
            for network in networks
        ],
        "shipped": str(shipped),
        "shipped_is_first": networks[0] == shipped,
    }  # fmt: skip
    if arguments.proxy_trainings:
        rows = ranked_by_training(
            networks, arguments.proxy_trainings, arguments.data, images=arguments.images, epochs=arguments.epochs,
            resolution=arguments.resolution,
        )  # fmt: skip
        by_rule = next(row for row in rows if row["text"] == str(networks[0]))
        result["proxy"] = {
            "trainings": arguments.proxy_trainings, "images": arguments.images, "epochs": arguments.epochs,
            "resolution": arguments.resolution, "recipe": RECIPE, "ranking": rows,
            "ahead_of_the_first_by_two_standard_errors": [
                row["text"] for row in rows if beats(row["accuracies"], by_rule["accuracies"])
            ],
        }  # fmt: skip
    return result


def show(name: str, result: dict[str, Any], limit: int) -> None:
    """Print one network's result."""
    printed = result["printed"]
    millions = f"{printed['params_m']}M parameters, {printed['madds_m']:.0f}M multiply-adds"
    print(f"{name}: printed {millions}, {printed['latency_ms']:g} ms")
    print(f"  {result['members_with_printed_totals']:,} members of the space have these totals")
    print(f"  {result['members_with_printed_totals_and_latency']:,} of them have the latency too, within 4 %")
    print(f"  {len(result['candidates'])} of them change only {result['changed_decisions']} decisions of A1")
    for row in result["candidates"][:limit]:
        print(f"  {row['params']:>9,} {row['madds'] / 1e6:7.2f}M {row['pixel1_ms']:6.1f} ms  {row['text']}")
    for row in result.get("proxy", {}).get("ranking", []):
        error = "" if row["standard_error"] is None else f" +- {100 * row['standard_error']:.2f}"
        print(f"  {100 * row['mean']:.2f}{error} % of {len(row['accuracies'])} trainings  {row['text']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=int, default=10, help="candidates to print per network (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--proxy-trainings", type=int, default=0, metavar="N", help="train every finalist N times (default: none)"
    )
    parser.add_argument("--only", choices=tuple(NETWORKS), help="one of the two networks (default: both)")
    parser.add_argument("--data", metavar="DIR", help="CIFAR-10, or other labelled images, for the proxy trainings")
    parser.add_argument("--images", type=int, default=10_000, metavar="N", help="to train on (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, metavar="N", help="of a proxy training (default %(default)s)")
    parser.add_argument(
        "--resolution", type=int, default=64, metavar="PIXELS", help="of a proxy training (default %(default)s)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the results to a file")
    arguments = parser.parse_args()
    if arguments.proxy_trainings and not arguments.data:
        parser.error(f"--proxy-trainings needs --data. Received: --proxy-trainings {arguments.proxy_trainings} alone")
    found = members_with_printed_totals()
    results = {name: examined(name, members, arguments) for name, members in found.items() if arguments.only in (None, name)}
    if arguments.output:
        from keras_mnasnet.benchmarks.results import write_json
        from keras_mnasnet.environment import environment

        write_json(arguments.output, {"schema": 1, "environment": environment(), "networks": results})
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        for name, result in results.items():
            show(name, result, arguments.show)
        print()
        for result in results.values():
            print(result["candidates"][0]["text"])
    wrong = [name for name, result in results.items() if not result["shipped_is_first"]]
    if wrong:
        print(f"error: keras_mnasnet/family.py must hold the first candidate. Received: another network for {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
