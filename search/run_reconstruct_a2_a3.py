"""Reconstruct MnasNet-A2 and A3, which the paper prints only as totals: enumerate the members of its search space that
have those totals, print the nearest ones to A1 and end on the two networks the package ships.

Space: paper section 4.1 with five searched stages; per stage expansion {3, 6}, kernel {3, 5}, squeeze-and-excite {0, 0.25},
filters {0.75, 1.0, 1.2} x MobileNetV2's rounded to 8 (never below 90 %), repeats {-1, 0, +1} on MobileNetV2's. The first
stage (depthwise-separable, 16) and the last (MBConv6, 320) are A1's. This reading contains A1 and B1.
Rule: reproduce the printed parameters and multiply-adds to the printed digits; fewest decisions changed from A1; no
squeeze-and-excite of A1 taken away; then the smallest |params / printed - 1| + |madds / printed - 1|; then text order.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_mnasnet.architecture import Architecture, Block, round_filters
from keras_mnasnet.family import A1, A2, A3, PUBLISHED

MOBILENET_V2 = ((2, 24), (3, 32), (4, 64), (3, 96), (3, 160))  # (repeats, filters) of the searched stages
FILTER_RATIOS = (0.75, 1.0, 1.2)
DECISIONS = ("expand", "kernel", "se", "filters", "repeats")
STAGES = range(1, 6)  # positions of the searched stages in Architecture.blocks
NETWORKS = {"a2": A2, "a3": A3}


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


def printed_totals(name: str) -> tuple[float, float]:
    """(parameters, multiply-adds) in millions, as the paper prints them."""
    printed = PUBLISHED[name]
    if printed.params_m is None or printed.madds_m is None:
        raise ValueError(f"A reconstruction needs printed totals. Received: none for {name!r}")
    return printed.params_m, printed.madds_m


def prints_as(name: str, params: int, madds: int) -> bool:
    """Whether the totals round to the printed ones: millions to one decimal, multiply-adds to one million."""
    return (round(params / 1e6, 1), round(madds / 1e6)) == printed_totals(name)


@functools.cache
def stage_totals(stage: int, input_filters: int, block: Block) -> tuple[int, int]:
    """(params, madds) of one stage at 224 x 224, read off the layer table."""
    blocks = [*A1.blocks[: stage - 1], dataclasses.replace(A1.blocks[stage - 1], filters=input_filters), block]
    rows = [row for row in chained("stage", blocks).layers(classes=0) if row.name.startswith(f"block{stage + 1}")]
    return sum(row.params for row in rows), sum(row.madds for row in rows)


@functools.cache
def fixed_totals() -> np.ndarray:
    """(params, madds) of what every member shares: stem, first stage, head and classifier."""
    rows = [row for row in A1.layers() if row.name.startswith(("stem", "block1", "head", "predictions"))]
    return np.array([sum(row.params for row in rows), sum(row.madds for row in rows)])


def totals(blocks: list[Block]) -> tuple[int, int]:
    """(params, madds) of a member, as a sum of stages."""
    params, madds = fixed_totals()
    for stage in (*STAGES, 6):
        stage_params, stage_madds = stage_totals(stage, blocks[stage - 1].filters, blocks[stage])
        params, madds = params + stage_params, madds + stage_madds
    return params, madds


def extend(sums: dict[int, np.ndarray], stage: int) -> dict[int, np.ndarray]:
    """Totals [N, 2] by output channels after one more searched stage, from those before it."""
    following = collections.defaultdict(list)
    for values in itertools.product(*choices(stage).values()):
        block = dataclasses.replace(A1.blocks[stage], **dict(zip(DECISIONS, values, strict=True)))
        for input_filters, before in sums.items():
            following[block.filters].append(before + stage_totals(stage, input_filters, block))
    return {filters: np.concatenate(parts) for filters, parts in following.items()}


def count_members() -> dict[str, int]:
    """How many of the space's networks print as each name; stages 1-3 and 4-5 are joined on the channels between."""
    left = functools.reduce(extend, (1, 2, 3), {A1.blocks[0].filters: fixed_totals()[None]})
    counts = dict.fromkeys(NETWORKS, 0)
    for filters, first in left.items():
        first = first[np.argsort(first[:, 0])]
        right = functools.reduce(extend, (4, 5), {filters: np.zeros((1, 2), np.int64)})
        for last, rest in right.items():
            for params, madds in rest + stage_totals(6, last, A1.blocks[6]):
                for name in NETWORKS:
                    printed_params, printed_madds = printed_totals(name)
                    low, high = np.searchsorted(first[:, 0], (np.array([-0.05, 0.05]) + printed_params) * 1e6 - params)
                    offsets = first[low:high, 1] + madds - printed_madds * 1e6
                    counts[name] += int(((offsets >= -0.5e6) & (offsets < 0.5e6)).sum())
    return counts


def neighbours(changes: int) -> Iterator[list[Block]]:
    """Every member that differs from A1 in exactly `changes` decisions and keeps A1's squeeze-and-excite."""
    decisions = []
    for stage in STAGES:
        for decision, options in choices(stage).items():
            ours = getattr(A1.blocks[stage], decision)
            others = [option for option in options if option != ours]
            if not (decision == "se" and ours):
                decisions.append([(stage, decision, option) for option in others])
    for chosen in itertools.combinations(decisions, changes):
        for edits in itertools.product(*chosen):
            blocks = list(A1.blocks)
            for stage, decision, option in edits:
                blocks[stage] = dataclasses.replace(blocks[stage], **{decision: option})
            yield blocks


def reconstruct(name: str) -> tuple[int, list[Architecture]]:
    """(decisions changed, candidates best first) for the fewest changes that reproduce the printed totals."""
    printed_params, printed_madds = printed_totals(name)

    def rank(network: Architecture) -> tuple[float, str]:
        error = abs(network.params() / 1e6 / printed_params - 1) + abs(network.madds() / 1e6 / printed_madds - 1)
        return error, str(network)

    for changes in range(len(STAGES) * len(DECISIONS) + 1):
        found = [chained(name, blocks) for blocks in neighbours(changes) if prints_as(name, *totals(blocks))]
        if found:
            return changes, sorted(found, key=rank)
    raise RuntimeError(f"The space must hold a network of the printed totals. Received: none for {name!r}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=int, default=10, help="candidates to print per network (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    counts = count_members()
    results: dict[str, Any] = {}
    for name, shipped in NETWORKS.items():
        changes, candidates = reconstruct(name)
        results[name] = {
            "members_with_printed_totals": counts[name],
            "changed_decisions": changes,
            "candidates": [
                {"text": str(network), "params": network.params(), "madds": network.madds()} for network in candidates
            ],
            "shipped": str(shipped),
            "shipped_is_first": candidates[0] == shipped,
        }
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        for name, result in results.items():
            printed_params, printed_madds = printed_totals(name)
            print(f"{name}: printed {printed_params}M parameters, {printed_madds:.0f}M multiply-adds")
            print(f"  {result['members_with_printed_totals']:,} members of the space have these totals")
            print(f"  {len(result['candidates'])} of them change only {result['changed_decisions']} decisions of A1")
            for row in result["candidates"][: arguments.show]:
                print(f"  {row['params']:>9,} {row['madds'] / 1e6:7.2f}M  {row['text']}")
        print()
        for result in results.values():
            print(result["candidates"][0]["text"])
    wrong = [name for name, result in results.items() if not result["shipped_is_first"]]
    if wrong:
        print(f"error: keras_mnasnet/family.py must hold the first candidate. Received: another network for {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
