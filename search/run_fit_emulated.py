"""Fit the Pixel 1's milliseconds to instructions on an emulated Cortex-A72, and check the shipped line against it.

Fitted (relative least squares, two coefficients): Google's table of MnasNet-A1 without the row of width 0.75 at 96 px, whose
17 ms stand between 18 ms of width 1.0 and 7.4 ms of 0.5, and the paper's B1 and small. Held back: Google's table of MobileNetV2
(github.com/tensorflow/models research/slim/nets/mobilenet/README.md at 0ba83cf), and the paper's other networks.

Without options the line is fitted to the counts in keras_mnasnet/benchmarks/emulated_pixel1.json, and has to be the one there.
`--count` counts every network anew (`mnasnet bench emulator` sets that up; some minutes), and has to find the same counts, but
for NEAR instructions: where things lie in memory is counted, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_mnasnet.benchmarks.emulator import PIXEL1, EmulatorMeter, FitRow, PhoneFit, fitted
from keras_mnasnet.benchmarks.results import write_json
from keras_mnasnet.benchmarks.speed import Target
from keras_mnasnet.family import MOBILENET_V2, PublishedLatency, a1_latencies, other_latencies
from keras_mnasnet.utils.system import machine

SHIPPED = Path(__file__).parents[1] / "keras_mnasnet/benchmarks/emulated_pixel1.json"
PHONE = "Pixel 1, one thread on a big core, batch 1, float32 (TensorFlow Lite of 2018 to 2020)"
MISPRINTED = ("a1-0.75", 96)
NEAR = 1000
LARGE_MS = 30  # where the sources agree with each other
LIMITS = {"mean": 8.0, "from 30 ms": 3.0}  # percent off the rows held back, of MobileNetV2
V2_SIZES = (224, 192, 160, 128, 96)
V2_ROWS = {
    1.4: (138.0,),
    1.3: (123.0,),
    1.0: (73.8, 55.1, 40.2, 27.6, 17.6),
    0.75: (55.8, 41.6, 30.4, 21.9, 14.2),
    0.5: (28.7, 21.1, 14.9, 9.9, 6.4),
    0.35: (19.7, 14.6, 10.5, 6.9, 4.5),
}


def mobilenet_v2() -> list[PublishedLatency]:
    """Google's table; the head grows with widths above 1."""
    return [
        PublishedLatency(
            f"mobilenet-v2-{width:g}",
            dataclasses.replace(MOBILENET_V2.scaled(width), head=round(1280 * max(1.0, width))), size, ms,
        )
        for width, row in V2_ROWS.items()
        for size, ms in zip(V2_SIZES, row, strict=False)
    ]  # fmt: skip


def networks() -> dict[str, list[PublishedLatency]]:
    """Fitted and held back, by source."""
    others = other_latencies()
    return {
        "rows": [row for row in a1_latencies() if (row.name, row.resolution) != MISPRINTED]
        + [row for row in others if row.name in ("b1", "small")],
        "MobileNetV2, Google's table": mobilenet_v2(),
        "the paper's other networks": [row for row in others if row.name not in ("b1", "small")],
    }


def title(row: PublishedLatency) -> str:
    """`a1-0.5@96`."""
    return f"{row.name}@{row.resolution}"


def counted() -> dict[str, list[FitRow]]:
    """Instructions of every network, input not normalized inside."""
    found = {}
    with EmulatorMeter(PIXEL1) as meter, tempfile.TemporaryDirectory() as folder:
        for source, rows in networks().items():
            targets = [Target(title(row), architecture=row.architecture, size=row.resolution) for row in rows]
            files = [
                target.write(Path(folder), include_preprocessing=False, number=number)[0]
                for number, target in enumerate(targets)
            ]
            counts = meter.count(files, names=[target.name for target in targets], progress=True)
            found[source] = [
                FitRow(target.name, row.latency_ms, count.instructions)
                for target, row, count in zip(targets, rows, counts, strict=True)
            ]
    return found


def errors(fit: PhoneFit, rows: Sequence[FitRow]) -> dict[str, float]:
    """Percent off, of all rows and of the large and small ones."""
    off = [(row.measured_ms, 100 * abs(fit.ms(row.instructions) / row.measured_ms - 1)) for row in rows]
    parts = {
        "all": [each for _, each in off],
        "from 30 ms": [each for ms, each in off if ms >= LARGE_MS],
        "below 30 ms": [each for ms, each in off if ms < LARGE_MS],
    }
    found: dict[str, float] = {}
    for name, values in parts.items():
        mean = "mean" if name == "all" else name
        found |= {mean: round(math.fsum(values) / len(values), 2), f"{mean}, largest": round(max(values), 2)} if values else {}
    return found


def whole(counts: dict[str, list[FitRow]], litert: str) -> dict[str, Any]:
    """What the shipped file must hold."""
    fit = fitted(counts["rows"], phone=PHONE, core=PIXEL1, litert=litert)
    held = {
        source: {"percent_off": errors(fit, rows), "rows": [dataclasses.asdict(row) for row in rows]}
        for source, rows in counts.items()
        if source != "rows"
    }
    return fit.to_json() | {"fitted": errors(fit, counts["rows"]), "held_back": held}


def shipped_counts(value: dict[str, Any]) -> dict[str, list[FitRow]]:
    """The counts in the shipped file, of the milliseconds that this script names."""
    rows = {"rows": value["rows"]} | {source: held["rows"] for source, held in value["held_back"].items()}
    known = {source: {row["network"]: row["instructions"] for row in found} for source, found in rows.items()}
    return {
        source: [FitRow(title(row), row.latency_ms, known[source][title(row)]) for row in found]
        for source, found in networks().items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", action="store_true", help="count every network on the emulated core")
    parser.add_argument("--write", action="store_true", help=f"write {SHIPPED.name}; needs --count")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.write and not arguments.count:
        parser.error("--write needs --count")
    shipped = {} if arguments.write else json.loads(SHIPPED.read_text("utf-8"))
    counts = counted() if arguments.count else shipped_counts(shipped)
    far = []
    if arguments.count and not arguments.write:
        found, counts = counts, shipped_counts(shipped)
        pairs = [pair for source, rows in found.items() for pair in zip(rows, counts[source], strict=True)]
        far = [
            f"{new.network}: {new.instructions:,} counted, {old.instructions:,} shipped"
            for new, old in pairs
            if abs(new.instructions - old.instructions) > NEAR
        ]
    value = json.loads(json.dumps(whole(counts, machine()["litert"] if arguments.write else shipped["litert"])))
    if arguments.write:
        write_json(SHIPPED, value)
        shipped = value
    if arguments.json:
        print(json.dumps(value, indent=1))
    else:
        print(f"ms = {value['ms_per_million']} x million instructions + {value['constant_ms']}")
        print(f"{len(value['rows'])} fitted rows: {value['fitted']}; each left out: {value['percent_off']['one_left_out']} %")
        for source, held in value["held_back"].items():
            print(f"{source}, {len(held['rows'])} rows held back: {held['percent_off']}")
    off = value["held_back"]["MobileNetV2, Google's table"]["percent_off"]
    failed = [f"{key}: {off[key]} % off, at most {limit}" for key, limit in LIMITS.items() if off[key] > limit]
    other = [key for key in value if value[key] != shipped.get(key)]
    failed += far + [f"{SHIPPED.name} must hold the fit. Received: another `{key}`" for key in other]
    for text in failed:
        print(f"error: {text}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
