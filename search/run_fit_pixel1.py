"""Fit the Pixel-1 latency model and check that the shipped coefficients (keras_mnasnet/search/pixel1.json) are these.

Fitted by non-negative least squares on the relative error of three sets of milliseconds from a Pixel 1:
- the 25 rows of MnasNet-A1 that Google published (weight 1);
- ProxylessNAS's table of 71 blocks (its 72nd row, the classifier, is left out: fitting it costs the A1 rows 1.5 points);
- TuNAS's linear cost model: a block's milliseconds where it can be skipped, else the difference to the smallest option's.
The weights of the tables, 0.2 each, and the nine features were chosen with the nine published networks of the check in sight.
Files: proxyless_mobile_trim.yaml (github.com/han-cai/files a7c9bcd, no license stated; not part of this package) and
tunas_proxylessnas_search.json (decoded from google-research tunas/cost_model_data.py 0c1bbe5, Apache-2.0).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_mnasnet.architecture import Architecture, Block, Layer
from keras_mnasnet.benchmarks.results import write_json
from keras_mnasnet.family import A1, PublishedLatency, a1_latencies, other_latencies
from keras_mnasnet.search.latency import FEATURES, SCHEMA, features

SHIPPED = Path(__file__).parents[1] / "keras_mnasnet/search/pixel1.json"
TABLE_WEIGHT = DELTA_WEIGHT = 0.2
DIGITS, TOLERANCE = 6, 1e-4
LIMITS = {"leave_one_resolution_out": 4.0, "others": 4.0, "others_max": 7.0}  # percent
TUNAS_OPTIONS = tuple((kernel, expand) for kernel in (3, 5, 7) for expand in (3, 6))
TUNAS_STAGES = ((4, 2), (4, 2), (4, 2), (4, 1), (4, 2), (1, 1))  # (repeats, stride)
PROXYLESS_BLOCK = re.compile(
    r"expanded_conv-input:(\d+)x\d+x(\d+)-output:\d+x\d+x(\d+)-expand:(\d)-kernel:(\d)-stride:(\d)-idskip:\d:\s+"
    r"count: \d+\s+mean: ([\d.]+)"
)
PROXYLESS_CONV = re.compile(r"^(Conv|Conv_1)-input\S+:\s+count: \d+\s+mean: ([\d.]+)", re.MULTILINE)


class Rows(NamedTuple):
    """Features `[N, 9]`, milliseconds `[N]` and the weight of a set of measurements."""

    values: np.ndarray
    ms: np.ndarray
    weight: float

    def only(self, kept: np.ndarray) -> Rows:
        """A part of the rows."""
        return Rows(self.values[kept], self.ms[kept], self.weight)


def vector(layers: Sequence[Layer], size: int) -> np.ndarray:
    """The features of layers as `[9]`."""
    found = features(layers, size, size)
    return np.array([found[name] for name in FEATURES])


def network_rows(published: Sequence[PublishedLatency]) -> Rows:
    """Whole networks."""
    values = [vector(each.architecture.layers(each.resolution, each.resolution), each.resolution) for each in published]
    return Rows(np.array(values), np.array([each.latency_ms for each in published]), 1.0)


def block_vector(size: int, input_filters: int, filters: int, expand: int, kernel: int, stride: int) -> np.ndarray:
    """The features of one inverted residual on a map of `size` pixels."""
    block = Block(1, kernel, stride, expand, input_filters, filters)
    network = Architecture("block", input_filters, (block,), stem_stride=1)
    return vector([layer for layer in network.layers(size, size, classes=0) if layer.name.startswith("block")], size)


def proxyless_rows(path: Path) -> Rows:
    """ProxylessNAS's blocks, stem and head convolution."""
    text = path.read_text("utf-8")
    values, ms = [], []
    for *shape, mean in PROXYLESS_BLOCK.findall(text):
        values.append(block_vector(*map(int, shape)))
        ms.append(float(mean))
    layers = {layer.name: layer for layer in A1.layers()}
    for name, mean in PROXYLESS_CONV.findall(text):
        values.append(vector([layers["stem_conv"]], 224) if name == "Conv" else vector([layers["head_conv"]], 7))
        ms.append(float(mean))
    if len(ms) != 71:
        raise ValueError(f"ProxylessNAS's table must have 69 blocks and 2 convolutions. Received: {len(ms)} rows in {path}")
    return Rows(np.array(values), np.array(ms), TABLE_WEIGHT)


def tunas_layers(table: dict[str, Any]) -> list[list[np.ndarray]]:
    """The features of every option of TuNAS's 21 layers, in the order of its coefficients."""
    filters, size, found = table["filters"], 112, []
    for stage, (repeats, first_stride) in enumerate(TUNAS_STAGES, start=2):
        for repeat in range(repeats):
            input_filters = filters[stage if repeat else stage - 1]
            stride = 1 if repeat else first_stride
            found.append(
                [block_vector(size, input_filters, filters[stage], expand, kernel, stride) for kernel, expand in TUNAS_OPTIONS]
            )
            size //= stride
    return found


def tunas_rows(table: dict[str, Any]) -> Rows:
    """What TuNAS's coefficients say absolutely: differences between a layer's options; a skipped layer costs nothing."""
    values, ms = [], []
    separable = [block_vector(112, 32, 16, 1, kernel, 1) for kernel in (3, 5, 7)]
    for options, costs in zip([*tunas_layers(table), separable], [*table["layers"], table["sep"]], strict=True):
        can_skip = len(costs) == len(TUNAS_OPTIONS) + 1
        base, base_ms = (np.zeros(len(FEATURES)), costs[-1]) if can_skip else (options[0], costs[0])
        for option, cost in list(zip(options, costs, strict=False))[0 if can_skip else 1 :]:
            values.append(option - base)
            ms.append(cost - base_ms)
    return Rows(np.array(values), np.array(ms), DELTA_WEIGHT)


def fit(sets: Sequence[Rows]) -> np.ndarray:
    """min |weight (X c / ms - 1)|^2 with c >= 0, `[9]`."""
    from scipy.optimize import nnls

    scaled = np.concatenate([rows.weight * rows.values / rows.ms[:, None] for rows in sets])
    ones = np.concatenate([np.full(len(rows.ms), rows.weight) for rows in sets])
    largest = np.maximum(np.abs(scaled).max(axis=0), 1e-300)
    return nnls(scaled / largest, ones)[0] / largest


def errors(found: np.ndarray, rows: Rows) -> np.ndarray:
    """Percent off, of each row."""
    return 100 * np.abs(rows.values @ found / rows.ms - 1)


def held_out(rows: Rows, others: Sequence[Rows], group_of: Sequence[Any]) -> float:
    """Mean percent off over `rows`, each predicted by a fit that has not seen its group."""
    groups = np.array(group_of)
    found = [errors(fit([rows.only(groups != each), *others]), rows.only(groups == each)) for each in np.unique(groups)]
    return float(np.concatenate(found).mean())


def against_tunas(found: np.ndarray, table: dict[str, Any], networks: int = 400) -> dict[str, float]:
    """How a fit that has not seen TuNAS's model agrees with it on random members of its space."""
    from scipy.stats import kendalltau

    rng = random.Random(0)
    layers = tunas_layers(table)
    separable = block_vector(112, 32, 16, 1, 3, 1)
    shared = [layer for layer in A1.layers() if layer.name in ("stem_conv", "predictions")]
    head = [layer for layer in A1.layers() if layer.name == "head_conv"]
    fixed = separable + vector(shared[:1], 224) + vector(head, 7) + vector(shared[1:], 1)
    ours, theirs = [], []
    for _ in range(networks):
        drawn, cost = fixed.copy(), table["bias"] + table["sep"][0]
        for options, costs in zip(layers, table["layers"], strict=True):
            choice = rng.randrange(len(costs))
            cost += costs[choice]
            if choice < len(options):
                drawn += options[choice]
        ours.append(drawn @ found)
        theirs.append(cost)
    ratio = np.array(ours) / np.array(theirs)
    return {
        "networks": networks,
        "mape": float(100 * np.abs(ratio - 1).mean()),
        "kendall_tau": float(kendalltau(ours, theirs)[0]),
    }


def _percent(value: float) -> float:
    return round(float(value), 2)


def fitted(folder: Path) -> dict[str, Any]:
    """What pixel1.json must hold."""
    table = json.loads((folder / "tunas_proxylessnas_search.json").read_text("utf-8"))
    a1, others = network_rows(a1_latencies()), network_rows(other_latencies())
    blocks, deltas = proxyless_rows(folder / "proxyless_mobile_trim.yaml"), tunas_rows(table)
    found = fit([a1, blocks, deltas])
    off = errors(found, others)
    return {
        "schema": SCHEMA,
        "device": "Pixel 1, one thread on a big core, batch 1, float32 (TensorFlow Lite of 2018 to 2020)",
        "unit": "ms",
        "coefficients": {
            name: float(f"{value:.{DIGITS}g}") for name, value in zip(FEATURES, found, strict=True)
        },
        "fitted_on": {
            "MnasNet-A1, 25 published rows": {"rows": len(a1.ms), "weight": a1.weight},
            "ProxylessNAS blocks": {"rows": len(blocks.ms), "weight": blocks.weight},
            "TuNAS differences": {"rows": len(deltas.ms), "weight": deltas.weight},
        },
        "percent_off": {
            "fitted_rows_of_a1": _percent(errors(found, a1).mean()),
            "leave_one_resolution_out": _percent(held_out(a1, (blocks, deltas), [each.resolution for each in a1_latencies()])),
            "leave_one_width_out": _percent(held_out(a1, (blocks, deltas), [each.name for each in a1_latencies()])),
            "others": _percent(off.mean()),
            "others_max": _percent(off.max()),
        },
        "others": {
            each.name: {"published_ms": each.latency_ms, "predicted_ms": _percent(ms)}
            for each, ms in zip(other_latencies(), others.values @ found, strict=True)
        },
        "without_tunas_against_tunas": {
            key: round(value, 3) for key, value in against_tunas(fit([a1, blocks]), table).items()
        },
    }  # fmt: skip


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Where the shipped file differs from the fit, by more than the last digits of a least-squares solver."""
    wrong = [key for key in ours if key != "coefficients" and ours[key] != theirs.get(key)]
    for name, value in ours["coefficients"].items():
        other = theirs["coefficients"].get(name, math.nan)
        if not abs(value - other) <= TOLERANCE * max(abs(value), abs(other)):
            wrong.append(f"{name}: {other!r} shipped, {value!r} fitted")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("KERAS_MNASNET_DATA")
    parser.add_argument(
        "--data",
        default=default and f"{default}/pixel1",
        metavar="DIR",
        help="the two tables (default: $KERAS_MNASNET_DATA/pixel1)",
    )
    parser.add_argument("--write", action="store_true", help="write keras_mnasnet/search/pixel1.json")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if not arguments.data or not Path(arguments.data).is_dir():
        parser.error(f"--data must name the folder of the two tables. Received: {arguments.data!r}")
    found = fitted(Path(arguments.data))
    if arguments.write:
        write_json(SHIPPED, found)
    wrong = differences(found, json.loads(SHIPPED.read_text("utf-8")) if SHIPPED.is_file() else {"coefficients": {}})
    percent_off = found["percent_off"]
    failed = [f"{key} {percent_off[key]} %, at most {limit}" for key, limit in LIMITS.items() if percent_off[key] > limit]
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found["coefficients"].items():
            print(f"{name:<18} {value:.4g}")
        for key, value in found["percent_off"].items():
            print(f"{key.replace('_', ' '):<26} {value} %")
        for name, row in found["others"].items():
            print(f"{name:<18} {row['predicted_ms']:>6} ms, published {row['published_ms']}")
        print("without TuNAS's rows, on 400 networks of its space:", found["without_tunas_against_tunas"])
    for text in [*(f"pixel1.json must hold the fit. Received: {each}" for each in wrong), *failed]:
        print(f"error: {text}")
    return 1 if wrong or failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
