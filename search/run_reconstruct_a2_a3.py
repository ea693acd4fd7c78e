"""Reconstruct MnasNet-A2 and A3, which the paper prints only as totals: enumerate the members of its search space that
have those totals, print the nearest ones to A1 and end on the two networks the package ships.

Space: paper section 4.1 with five searched stages; per stage expansion {3, 6}, kernel {3, 5}, squeeze-and-excite {0, 0.25},
filters {0.75, 1.0, 1.2} x MobileNetV2's rounded to 8 (never below 90 %), repeats {-1, 0, +1} on MobileNetV2's. The first
stage (depthwise-separable, 16) and the last (MBConv6, 320) are A1's. This reading contains A1 and B1.
Rule: reproduce the printed parameters and multiply-adds to the printed digits, and the printed Pixel-1 latency, as a share of
A1's, within 4 % by the package's model; no squeeze-and-excite of A1 taken away; fewest decisions changed from A1. What is left
are the finalists, in the order of |params / printed - 1| + |madds / printed - 1|, then of their text. Trained on CIFAR-10 with
the same seeds (the trainings are in search/runs/a2-a3/proxy-NAME.json), the first trained finalist that no other is ahead of,
by two standard errors of their difference in accuracy, is the one.
--proxy-trainings N trains every finalist N times, in turns; --proxy-results joins the results of earlier runs.
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
from keras_mnasnet.benchmarks.emulator import pixel1
from keras_mnasnet.family import A1, A2, A3, PUBLISHED
from keras_mnasnet.search.latency import coefficients, features, pixel1_ms

MOBILENET_V2 = ((2, 24), (3, 32), (4, 64), (3, 96), (3, 160))  # (repeats, filters) of the searched stages
FILTER_RATIOS = (0.75, 1.0, 1.2)
DECISIONS = ("expand", "kernel", "se", "filters", "repeats")
STAGES = range(1, 6)  # positions of the searched stages in Architecture.blocks
NETWORKS = {"a2": A2, "a3": A3}
LATENCY_TOLERANCE = 0.04
RECIPE = "proxy-5-epochs"
RECORDS = Path(__file__).parent / "runs" / "a2-a3"
LEAST_TRAININGS = 3  # of each, to tell two networks apart
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


@functools.cache
def ms_share() -> float:
    """The printed milliseconds of A1 for one of the model's: all three were measured by the same people on the same phone."""
    return printed_totals("a1")[2] / pixel1_ms(A1)


def figures(operations: list[Layer], size: int) -> tuple[float, float, float]:
    """(params, madds, ms without the model's constant) of consecutive operations on a map of `size` pixels."""
    found = features(operations, size)
    millions = math.fsum(value * found[name] for name, value in coefficients().items()) / 1e6
    return sum(row.params for row in operations), sum(row.madds for row in operations), pixel1().ms_per_million * millions


@functools.cache
def stage_figures(stage: int, input_filters: int, block: Block) -> tuple[float, float, float]:
    """(params, madds, ms) of one stage at 224 x 224, read off its operations."""
    blocks = [*A1.blocks[: stage - 1], dataclasses.replace(A1.blocks[stage - 1], filters=input_filters), block]
    rows = list(chained("stage", blocks).operations(classes=0))
    ours = [index for index, row in enumerate(rows) if row.name.startswith(f"block{stage + 1}")]
    return figures(rows[ours[0] : ours[-1] + 1], rows[ours[0] - 1].height)


@functools.cache
def fixed_figures() -> np.ndarray:
    """(params, madds, ms) of what every member shares: stem, first stage, head and classifier."""
    rows = list(A1.operations())
    begin = [row for row in rows if row.name.startswith(("stem", "block1"))]
    end = rows[next(index for index, row in enumerate(rows) if row.name.startswith("head")) :]
    constant = (0, 0, pixel1().constant_ms)
    return np.sum([figures(begin, 224), figures(end, end[0].height), constant], axis=0)


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


def has_latency(members: Members, printed_ms: float) -> np.ndarray:
    """Which members have the printed latency, `[N]`."""
    return np.abs(members.totals[:, 2] * ms_share() / printed_ms - 1) <= LATENCY_TOLERANCE


def finalists(name: str, members: Members) -> tuple[int, list[Architecture]]:
    """(decisions changed, networks by the rule) for the fewest changes that reproduce all that is printed."""
    printed_params, printed_madds, printed_ms = printed_totals(name)

    def rank(network: Architecture) -> tuple[float, str]:
        error = abs(network.params() / 1e6 / printed_params - 1) + abs(network.madds() / 1e6 / printed_madds - 1)
        return error, str(network)

    fits = has_latency(members, printed_ms)
    fewest = int(members.changes[fits].min(initial=NEVER))
    if fewest >= NEVER:
        raise RuntimeError(f"The space must hold a network of the printed figures. Received: none for {name!r}")
    codes = members.codes[fits & (members.changes == fewest)]
    return fewest, sorted((decoded(name, int(code)) for code in codes), key=rank)


def train(networks: list[Architecture], arguments: argparse.Namespace) -> dict[str, Any]:
    """Each network trained with every seed on `images` photos, in turns; accuracies 0..1 on 2,000 held-out ones."""
    from keras_mnasnet.search import NetworkEvaluator, Trial
    from keras_mnasnet.training import parse_recipe

    recipe = parse_recipe(f"{RECIPE} epochs={arguments.epochs}")
    seeds = list(range(arguments.first_seed, arguments.first_seed + arguments.proxy_trainings))
    accuracies: dict[str, list[float]] = {str(network): [] for network in networks}
    for seed in seeds:
        evaluate = NetworkEvaluator(
            data=arguments.data,
            recipe=dataclasses.replace(recipe, seed=seed),
            resolution=arguments.size,
            images=arguments.training_photos,
            validation_images=2000,
        )
        for number, text in enumerate(accuracies):
            result = evaluate(Trial(number, architecture=text))
            if result.accuracy is None:
                raise RuntimeError(f"A proxy training must end with an accuracy. Received: {result.failure} for {text}")
            accuracies[text].append(result.accuracy)
            print(f"  seed {seed} {result.accuracy:.4f} {sum(result.seconds.values()):.0f} s  {text}", file=sys.stderr)
    return {
        "recipe": RECIPE, "images": arguments.training_photos, "epochs": arguments.epochs, "resolution": arguments.size,
        "seeds": seeds, "accuracies": accuracies,
    }  # fmt: skip


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The results of several runs of `train` that differ in their seeds alone."""
    first = parts[0]
    for part in parts[1:]:
        for key in ("recipe", "images", "epochs", "resolution"):
            if part[key] != first[key]:
                raise ValueError(
                    f"Proxy trainings must be alike to be joined. Received: {key}={first[key]!r} and {part[key]!r}"
                )
        if part["accuracies"].keys() != first["accuracies"].keys():
            raise ValueError("Proxy trainings must be of the same networks to be joined. Received: different ones")
    seeds = [seed for part in parts for seed in part["seeds"]]
    if len(seeds) > len(set(seeds)):
        raise ValueError(f"Proxy trainings must have different seeds to be joined. Received: seeds {seeds}")
    accuracies = {text: [each for part in parts for each in part["accuracies"][text]] for text in first["accuracies"]}
    return {**first, "seeds": seeds, "accuracies": accuracies}


def ranking(accuracies: dict[str, list[float]]) -> list[dict[str, Any]]:
    """The networks by mean accuracy, each with its standard error and with the networks that are ahead of it."""
    rows = [
        {
            "text": text, "mean": statistics.fmean(found), "standard_error": standard_error(found),
            "behind": [other for other, theirs in accuracies.items() if is_ahead(theirs, found)],
        }
        for text, found in accuracies.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row["mean"])


def standard_error(values: list[float]) -> float | None:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def is_ahead(ours: list[float], theirs: list[float]) -> bool:
    """Whether trainings with the same seeds put one network ahead by two standard errors of their difference."""
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    return len(differences) >= LEAST_TRAININGS and statistics.fmean(differences) > 2 * (standard_error(differences) or 0)


def proxy(name: str, networks: list[Architecture], arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The trainings asked for and those on record."""
    files = arguments.proxy_results
    if files is None:
        files = [] if arguments.proxy_trainings else [RECORDS / f"proxy-{name}.json"]
    parts = []
    for file in files:
        try:
            found = json.loads(Path(file).read_text("utf-8"))["networks"]
            parts += [found[name]["proxy"]] if name in found else []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"Proxy trainings must be an output of this script. Received: {file}: {type(error).__name__}: {error}"
            ) from None
    if arguments.proxy_trainings:
        parts.append(train(networks, arguments))
    return joined(parts) if parts else None


def examined(name: str, members: Members, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything printed about one network."""
    printed_params, printed_madds, printed_ms = printed_totals(name)
    shipped = NETWORKS[name]
    changes, networks = finalists(name, members)
    result: dict[str, Any] = {
        "printed": {"params_m": printed_params, "madds_m": printed_madds, "latency_ms": printed_ms},
        "members_with_printed_totals": len(members.codes),
        "members_with_printed_totals_and_latency": int(has_latency(members, printed_ms).sum()),
        "changed_decisions": changes,
        "candidates": [
            {
                "text": str(network), "params": network.params(), "madds": network.madds(),
                "pixel1_ms": round(pixel1_ms(network) * ms_share(), 2),
            }
            for network in networks
        ],
        "shipped": str(shipped),
    }  # fmt: skip
    chosen = str(networks[0])
    trained = proxy(name, networks, arguments)
    if trained is not None:
        if not set(trained["accuracies"]) <= set(map(str, networks)):
            raise ValueError(f"The proxy trainings of {name!r} must be of its finalists. Received: trainings of other networks")
        rows = ranking(trained["accuracies"])
        beaten = {row["text"] for row in rows if row["behind"]}
        chosen = next(text for text in map(str, networks) if text in trained["accuracies"] and text not in beaten)
        result["proxy"] = {**trained, "ranking": rows}
    result["chosen"] = chosen
    result["shipped_is_chosen"] = chosen == str(shipped)
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
    if "proxy" in result:
        print(f"  by {len(result['proxy']['seeds'])} trainings of each:")
        for row in result["proxy"]["ranking"]:
            error = "" if row["standard_error"] is None else f" +- {100 * row['standard_error']:.2f}"
            print(f"  {100 * row['mean']:.2f}{error} %, {len(row['behind'])} others are ahead of it  {row['text']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=int, default=10, help="candidates to print per network (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--proxy-trainings", type=int, default=0, metavar="N", help="train every finalist N times (default: none)"
    )
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="of the proxy trainings (default %(default)s)")
    parser.add_argument(
        "--proxy-results", nargs="+", metavar="FILE.json",
        help="outputs of earlier proxy trainings to count (default: with --proxy-trainings none, else those on record)",
    )  # fmt: skip
    parser.add_argument("--only", choices=tuple(NETWORKS), help="one of the two networks (default: both)")
    parser.add_argument("--data", metavar="DIR", help="CIFAR-10, or other labelled images, for the proxy trainings")
    parser.add_argument("--training-photos", type=int, default=10_000, metavar="N", help="to train on (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, metavar="N", help="of a proxy training (default %(default)s)")
    parser.add_argument("--size", type=int, default=64, metavar="PIXELS", help="of a proxy training (default %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the results to a file")
    arguments = parser.parse_args()
    if arguments.proxy_trainings and not arguments.data:
        parser.error(f"--proxy-trainings needs --data. Received: --proxy-trainings {arguments.proxy_trainings} alone")
    found = members_with_printed_totals()
    try:
        results = {
            name: examined(name, members, arguments) for name, members in found.items() if arguments.only in (None, name)
        }
    except ValueError as error:
        parser.error(str(error))
    if arguments.output:
        from keras_mnasnet.benchmarks.results import write_json
        from keras_mnasnet.utils.system import environment

        write_json(arguments.output, {"schema": 1, "environment": environment(), "networks": results})
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        for name, result in results.items():
            show(name, result, arguments.show)
        print()
        for result in results.values():
            print(result["chosen"])
    wrong = [name for name, result in results.items() if not result["shipped_is_chosen"]]
    if wrong:
        print(f"error: keras_mnasnet/family.py must hold the chosen candidate. Received: another network for {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
