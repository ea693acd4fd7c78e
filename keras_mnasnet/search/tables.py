"""Tables: latencies by layer for any device (a sum of rows stands for a network), and NAS-Bench-Macro's trainings."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.benchmarks.results import write_json
from keras_mnasnet.family import A1, B1, MOBILENET_V2
from keras_mnasnet.search.latency import TABLE_KIND, TABLE_SCHEMA, Meter, Part, parse_device, parts
from keras_mnasnet.search.networks import macro
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.setup import make_space
from keras_mnasnet.search.space import Candidate, SearchSpace
from keras_mnasnet.utils.files import check_writable, scratch
from keras_mnasnet.utils.reading import fields_of, read_json, record, shown
from keras_mnasnet.utils.text import Life, header

TOP = 7

BATCH = 16
QUIET_DRAWS = 2000  # draws from a space that bring no new layer, after which the table is taken to be whole
CHECK_NETWORKS = 16
LANDMARKS = (A1, B1, MOBILENET_V2)


def parts_of_space(space: SearchSpace, resolution: int, seed: int = 0) -> dict[str, Part]:
    """{key: row} for every network of the space and for A1, B1 and MobileNetV2.

    All members of a small space; of a large one, draws until 2,000 in a row bring nothing new.
    """
    if space.build is None:
        raise ValueError(f"A latency table needs a space of networks. Received: space {space.name!r}, which builds none")
    build, found = space.build, {}

    def add(network: Architecture) -> bool:
        new = {part.key: part for part in parts(network, resolution) if part.key not in found}
        found.update(new)
        return bool(new)

    for network in LANDMARKS:
        add(network)
    if space.members is not None:
        for candidate in space.members:
            add(build(candidate))
        return found
    rng, quiet = np.random.default_rng(seed), 0
    while quiet < QUIET_DRAWS:
        quiet = 0 if add(build(space.sample(rng))) else quiet + 1
    return found


def build_table(
    path: str | os.PathLike[str], *, space: str | SearchSpace = "mbconv", space_options: Mapping[str, Any] | None = None,
    device: str | Meter = "host", device_options: Mapping[str, Any] | None = None, size: int = 224, classes: int = 1000,
    networks: int = CHECK_NETWORKS, runs: int | None = None, seed: int = 0, progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Measure every row on a device, then `networks` whole networks of the space and the landmarks; write and give the table.

    Half of the drawn networks set the scale, the others and the landmarks check it. `device` is `host`, `adb`, `adb:SERIAL` or
    a Meter, `size` the input's pixels, `runs` the timed runs of each row. What is measured is kept beside `path` until the
    table is whole: the same call goes on where it was broken off. Use it with `device="table:FILE"`.

    Example:
        from keras_mnasnet import search

        table = search.build_table("mine.json", space="macro", size=32, classes=10, networks=2, runs=5)
        print(table["check"]["percent_off"])
    """
    target = Path(path).expanduser()
    check_writable(target)
    if networks < 2:
        raise ValueError(f"`networks` must be 2 or more: half of them check the others. Received: networks={networks}")
    made = space if isinstance(space, SearchSpace) else make_space(space, space_options)
    meter: Any = parse_device(device, runs=runs, **(device_options or {})) if isinstance(device, str) else device
    if not meter.measures or not hasattr(meter, "files_ms"):
        raise ValueError(f"A table is measured on a device: host, adb or adb:SERIAL. Received: device={device!r}")
    rows = parts_of_space(made, size, seed)
    header({
        "table": f"{len(rows):,} rows, and {networks + len(LANDMARKS)} whole networks that scale and check it",
        "space": f"{made.name} {dict(made.options) or ''}".strip(), "device": meter.name, "input": f"{size} pixels",
        "classes": classes, "output": target,
    }, shown=progress)  # fmt: skip
    draft = _Draft(target, {
        "device": meter.name, "space": made.fingerprint(), "resolution": size, "classes": classes, "seed": seed,
    })  # fmt: skip
    try:
        waiting = [part for key, part in sorted(rows.items()) if key not in draft.ms]
        with (
            Life("rows", total=len(rows), unit="row", shown=progress, done=len(rows) - len(waiting)) as life,
            scratch() as folder,
        ):
            for start in range(0, len(waiting), BATCH):
                batch = waiting[start : start + BATCH]
                files = [_write(part, folder / f"{number}.tflite", classes) for number, part in enumerate(batch)]
                found = meter.files_ms(files, [part.key for part in batch])
                draft.add({part.key: ms for part, ms in zip(batch, found, strict=True)})
                life.step(len(batch))
        checked = _check(draft.ms, made, meter, size, classes, networks, seed, progress)
        facts = {"name": meter.name, **meter.facts()}
    finally:
        if isinstance(device, str):
            meter.close()
    scale, check = _scaled(checked)
    value = {
        "schema": TABLE_SCHEMA, "kind": TABLE_KIND, "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": facts, "space": made.name, "space_options": dict(made.options), "resolution": size, "classes": classes,
        "seed": seed, "scale": scale, "check": check, "ms": draft.ms,
    }  # fmt: skip
    write_json(target, value)
    draft.remove()
    return value


class _Draft:
    """The rows measured so far, in a file beside the table."""

    def __init__(self, target: Path, about: dict[str, Any]) -> None:
        self.path = target.with_name(f".{target.name}.part")
        self.about = about
        self.ms: dict[str, float] = {}
        if self.path.is_file():
            what = f"A table that was broken off ({self.path})"
            value = fields_of(read_json(self.path, what), what, about=dict, ms=dict[str, float])
            if value["about"] != about:
                raise ValueError(
                    f"A table that was broken off goes on with its settings. Received: {about}, {self.path} has "
                    f"{shown(value['about'])}. Remove it, or name another file."
                )
            self.ms = value["ms"]

    def add(self, found: dict[str, float]) -> None:
        self.ms.update(found)
        write_json(self.path, {"about": self.about, "ms": self.ms})

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _write(part: Part, path: Path, classes: int) -> Path:
    from keras_mnasnet.export.graph import random_weights, write_graph

    content = write_graph(
        part.architecture, random_weights(part.architecture, classes=classes), height=part.size, width=part.size,
        classes=classes, description=part.key, since=part.since, until=part.until,
    )  # fmt: skip
    path.write_bytes(content)
    return path


def _check(
    rows: dict[str, float], space: SearchSpace, meter: Meter, resolution: int, classes: int, networks: int, seed: int,
    progress: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """Whole networks: measured, and as the sum of their rows."""
    drawn = _drawn(space, networks, seed)
    use = ["check" if index % 2 else "scale" for index in range(len(drawn))] + ["check"] * len(LANDMARKS)
    found = []
    with Life("whole networks", total=len(use), unit="network", shown=progress) as life:
        for network, purpose in zip([*drawn, *LANDMARKS], use, strict=True):
            keys = [part.key for part in parts(network, resolution)]
            found.append({
                "network": str(network), "use": purpose, "sum_ms": math.fsum(rows[key] for key in keys),
                "measured_ms": meter.latency_ms(network, resolution, classes).latency_ms,
            })  # fmt: skip
            life.step()
    return found


def _drawn(space: SearchSpace, networks: int, seed: int) -> list[Architecture]:
    if space.build is None:
        return []
    rng = np.random.default_rng(seed + 1)
    limit = networks if space.members is None else min(networks, len(space.members))
    found: dict[str, Architecture] = {}
    while len(found) < limit:
        candidate = space.sample(rng)
        found[space.key(candidate)] = space.build(candidate)
    return list(found.values())


def _scaled(checked: Sequence[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    """What the sum is multiplied by (the median of measured / sum), and percent off where it was not set."""
    scale = statistics.median(each["measured_ms"] / each["sum_ms"] for each in checked if each["use"] == "scale")

    def off(factor: float, rows: Iterable[dict[str, Any]]) -> list[float]:
        return [100 * abs(factor * each["sum_ms"] / each["measured_ms"] - 1) for each in rows]

    others = [each for each in checked if each["use"] == "check"]
    scaled = off(scale, others)
    return scale, {
        "percent_off": statistics.fmean(scaled), "percent_off_max": max(scaled),
        "percent_off_unscaled": statistics.fmean(off(1, others)), "networks": list(checked),
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MacroTable:
    """Three accuracies (0..1) and millions of FLOPs per network; FLOPs stand for latency."""

    runs: dict[Candidate, tuple[float, ...]]
    mflops: dict[Candidate, float]
    params: dict[Candidate, int]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> MacroTable:
        """The table of `nas-bench-macro_cifar10.json`, github.com/xiusu/NAS-Bench-Macro."""
        found = Path(path).expanduser()
        try:
            value = record(read_json(found, "NAS-Bench-Macro"), dict[str, dict[str, Any]], "NAS-Bench-Macro")
            rows = {
                tuple(map(int, name)): fields_of(
                    row, f"Network {name[:20]}", test_acc=tuple[float, ...], flops=float, params=float
                )
                for name, row in value.items()
            }
            table = cls(
                {candidate: tuple(accuracy / 100 for accuracy in row["test_acc"]) for candidate, row in rows.items()},
                {candidate: row["flops"] / 1e6 for candidate, row in rows.items()},
                {candidate: row["params"] for candidate, row in rows.items()},
            )
            if not all(runs and all(map(math.isfinite, runs)) for runs in table.runs.values()):
                raise ValueError("networks without accuracies")
        except (OSError, ValueError) as error:
            raise ValueError(f"NAS-Bench-Macro is read from nas-bench-macro_cifar10.json. Received: {found}: {error}") from None
        if len(table.runs) != macro().size:
            raise ValueError(f"NAS-Bench-Macro has {macro().size:,} networks. Received: {len(table.runs):,} in {found}")
        return table

    def space(self) -> SearchSpace:
        """The space `macro` with the table's FLOPs as its cost."""
        return dataclasses.replace(macro(), cost=self.mflops.__getitem__)

    def median_mflops(self) -> float:
        """The median over all 6,561 entries; the benchmark's latency target."""
        return float(np.median(list(self.mflops.values())))

    def trained(self, candidate: Candidate, seed: int) -> float:
        """The accuracy of one of the three runs; which one is drawn once for each seed and network."""
        runs = self.runs[candidate]
        number = sum(choice * 3**position for position, choice in enumerate(candidate))
        return runs[int(np.random.default_rng([seed, number]).integers(len(runs)))]

    def truth(self, reward: Reward) -> dict[Candidate, float]:
        """The reward of the mean accuracy of all three runs, for every entry."""
        return {candidate: reward(float(np.mean(runs)), self.mflops[candidate]) for candidate, runs in self.runs.items()}

    def best(self, reward: Reward, count: int = TOP) -> frozenset[Candidate]:
        """The networks among the `count` best of all 6,561 entries, in canonical form (equal networks fill several places)."""
        truth = self.truth(reward)
        threshold = sorted(truth.values())[-count]
        canonical = macro().canonical
        return frozenset(canonical(candidate) for candidate, value in truth.items() if value >= threshold)
