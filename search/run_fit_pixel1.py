"""Fit a network's instructions on a Cortex-A72 to its shapes, and check the shipped fit (keras_mnasnet/search/pixel1.json).

Fitted: counts on the emulated core (`mnasnet bench emulator`) of random members of the search spaces at many widths and input
sizes, some with other kernels, expansions and squeeze-and-excite, in search/runs/pixel1/counts.json; non-negative least squares
of the relative error. Held back: a fifth of them at a time, and the networks in benchmarks/emulated_pixel1.json, whose line
through milliseconds (search/run_fit_emulated.py) makes milliseconds of the fit's instructions; errors of both are printed.
--count N counts N more networks first, and --write writes both files.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.benchmarks.emulator import PIXEL1, EmulatorMeter, pixel1
from keras_mnasnet.benchmarks.results import write_json
from keras_mnasnet.benchmarks.speed import Target
from keras_mnasnet.family import PublishedLatency
from keras_mnasnet.search.latency import FEATURES, SCHEMA, features
from keras_mnasnet.search.networks import PRESETS, space
from keras_mnasnet.utils.files import write_file

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "keras_mnasnet/search/pixel1.json"
COUNTS = ROOT / "search/runs/pixel1/counts.json"
DIGITS, TOLERANCE = 6, 1e-4
FOLDS = 5
LARGE_MS = 30
LIMITS = {"held out": 0.5, "held out, largest": 4.0, "public": 0.5}  # percent of instructions
WIDTHS = (0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0, 1.3)
SIZES, CLASSES = (32, 48, 64, 96, 128, 160, 192, 224), (2, 5, 10, 37, 100, 256, 1000)
LARGEST_MADDS = 6e8


class Row(NamedTuple):
    """A network that was counted."""

    network: str
    size: int
    classes: int
    instructions: int

    @property
    def values(self) -> list[float]:
        """Its features, by FEATURES."""
        return vector(Architecture.parse(self.network), self.size, self.classes)


def vector(network: Architecture, size: int, classes: int = 1000) -> list[float]:
    """The features of a network, by FEATURES."""
    found = features(network.operations(size, size, classes=classes), size)
    return [found[name] for name in FEATURES]


def fit(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """min |X c / counts - 1|^2 with c >= 0."""
    from scipy.optimize import nnls

    scaled = values / counts[:, None]
    largest = np.maximum(np.abs(scaled).max(axis=0), 1e-300)
    return nnls(scaled / largest, np.ones(len(counts)))[0] / largest


def percent(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Percent off, of each row."""
    return 100 * np.abs(found / wanted - 1)


def held_out(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Percent off of each row by a fit that has not seen it."""
    fold = np.random.default_rng(0).permutation(len(counts)) % FOLDS
    off = np.zeros(len(counts))
    for each in range(FOLDS):
        ours = fold == each
        off[ours] = percent(values[ours] @ fit(values[~ours], counts[~ours]), counts[ours])
    return off


def mean_and_largest(name: str, off: np.ndarray) -> dict[str, float]:
    """Both under the name; nothing of no rows."""
    return {name: round(float(off.mean()), 2), f"{name}, largest": round(float(off.max()), 2)} if len(off) else {}


def public_rows() -> dict[str, list[tuple[PublishedLatency, int]]]:
    """Networks with printed milliseconds, and their instructions, by source."""
    import run_fit_emulated

    value = json.loads(resources.files("keras_mnasnet.benchmarks").joinpath("emulated_pixel1.json").read_text("utf-8"))
    known = run_fit_emulated.shipped_counts(value)
    names = {"rows": "MnasNet-A1, B1 and small, which set the line"}
    return {
        names.get(source, source): [(row, count.instructions) for row, count in zip(rows, known[source], strict=True)]
        for source, rows in run_fit_emulated.networks().items()
    }


def fitted(rows: Sequence[Row]) -> dict[str, Any]:
    """What pixel1.json must hold."""
    values, counts = np.array([row.values for row in rows]), np.array([row.instructions for row in rows], float)
    found = fit(values, counts)
    off = held_out(values, counts)
    sizes = np.array([row.size for row in rows])
    instructions_off = mean_and_largest("held out", off)
    for size in np.unique(sizes):
        instructions_off |= mean_and_largest(f"held out, {size} px", off[sizes == size])
    public, ms_off = [], {}
    for source, pairs in public_rows().items():
        ours = np.array([vector(row.architecture, row.resolution) for row, _ in pairs]) @ found
        public += list(percent(ours, np.array([count for _, count in pairs], float)))
        printed = np.array([row.latency_ms for row, _ in pairs])
        ms = percent(np.array([pixel1().ms(each) for each in ours]), printed)
        ms_off[source] = mean_and_largest("all", ms) | {
            key: value
            for name, part in (("from 30 ms", printed >= LARGE_MS), ("below 30 ms", printed < LARGE_MS))
            for key, value in mean_and_largest(name, ms[part]).items()
        }
    return {
        "schema": SCHEMA,
        "core": PIXEL1,
        "litert": pixel1().litert,
        "unit": "instructions",
        "coefficients": {name: float(f"{value:.{DIGITS}g}") for name, value in zip(FEATURES, found, strict=True)},
        "networks": len(rows),
        "instructions_percent_off": instructions_off | mean_and_largest("public", np.array(public)),
        "ms_percent_off": ms_off,
    }


def drawn(rng: np.random.Generator) -> Iterator[tuple[Architecture, int, int]]:
    """Random networks of every space, with their input size and number of classes."""
    while True:
        for name in PRESETS:
            options: dict[str, Any] = {}
            if "width" in inspect.signature(PRESETS[name]).parameters:
                options = {"width": float(rng.choice(WIDTHS)), "stem_stride": int(rng.choice((1, 2, 2, 2)))}
            chosen = space(name, **options)
            assert chosen.build is not None
            network = chosen.build(chosen.sample(rng))
            if rng.random() < 0.4:
                network = varied(network, rng)
            size, classes = int(rng.choice(SIZES)), int(rng.choice(CLASSES))
            if network.madds(size, size, classes=classes) <= LARGEST_MADDS:
                yield network, size, classes


def varied(network: Architecture, rng: np.random.Generator) -> Architecture:
    """Other kernels, expansions and squeeze-and-excite in every stage of inverted residuals."""
    blocks = [
        dataclasses.replace(
            block, kernel=int(rng.choice((3, 5, 7))), expand=int(rng.choice((1, 2, 3, 4, 6, 9))),
            se=float(rng.choice((0, 0.1, 0.25, 0.5))),
        ) if block.op == "mbconv" else block
        for block in network.blocks
    ]  # fmt: skip
    return dataclasses.replace(network, blocks=tuple(blocks))


def counted(number: int, seed: int) -> list[Row]:
    """So many random networks, counted."""
    networks = drawn(np.random.default_rng(seed))
    rows: list[Row] = []
    with EmulatorMeter(PIXEL1) as meter, tempfile.TemporaryDirectory() as folder:
        for _ in range(number):
            network, size, classes = next(networks)
            target = Target(network.name, architecture=network, size=size, classes=classes)
            file = target.write(Path(folder), include_preprocessing=False)[0]
            rows.append(Row(str(network), size, classes, meter.count([file], names=[network.name])[0].instructions))
    return rows


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Where the shipped file differs from the fit, by more than the last digits of a least-squares solver."""
    wrong = [key for key in ours if key != "coefficients" and ours[key] != theirs.get(key)]
    for name, value in ours["coefficients"].items():
        other = theirs.get("coefficients", {}).get(name, math.nan)
        if not abs(value - other) <= TOLERANCE * max(abs(value), abs(other)):
            wrong.append(f"{name}: {other!r} shipped, {value!r} fitted")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=0, metavar="N", help="count N more networks on the emulated core first")
    parser.add_argument("--write", action="store_true", help="write the counts and keras_mnasnet/search/pixel1.json")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    rows = [Row(*row) for row in json.loads(COUNTS.read_text("utf-8"))["networks"]] if COUNTS.is_file() else []
    if arguments.count:
        rows += counted(arguments.count, seed=len(rows))
    found = fitted(rows)
    if arguments.write:
        head = json.dumps({"schema": 1, "core": PIXEL1, "litert": pixel1().litert})
        lines = ",\n".join(map(json.dumps, rows))
        write_file(COUNTS, f'{head[:-1]}, "networks": [\n{lines}\n]}}\n')
        write_json(SHIPPED, found)
    wrong = differences(found, json.loads(SHIPPED.read_text("utf-8")))
    off = found["instructions_percent_off"]
    failed = [f"{key} {off[key]} %, at most {limit}" for key, limit in LIMITS.items() if off[key] > limit]
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found["coefficients"].items():
            print(f"{name:<22} {value:.4g}")
        print(f"instructions of {found['networks']} networks, percent off")
        for key, value in off.items():
            print(f"  {key:<28} {value}")
        for source, errors in found["ms_percent_off"].items():
            print(f"milliseconds: {source}, percent off")
            for key, value in errors.items():
                print(f"  {key:<28} {value}")
    for text in [*(f"pixel1.json must hold the fit. Received: {each}" for each in wrong), *failed]:
        print(f"error: {text}")
    return 1 if wrong or failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
