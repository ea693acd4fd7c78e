"""The checkpoints as records: which network, where the file is, and the numerics and preprocessing it needs."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.family import FAMILY
from keras_mnasnet.preprocessing import Preprocessing
from keras_mnasnet.utils.text import did_you_mean
from keras_mnasnet.weights.checkpoint import OWN_SOURCE, CheckpointError, Numerics, Origin
from keras_mnasnet.weights.datasets import DATASETS

SCHEMA = 1
BACKGROUND = "background"  # the first of 1001 outputs, as TensorFlow's older classifiers have them


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One checkpoint. `sha256` may be a prefix or None (the publisher gives none); `size` is its input size in pixels.

    `as_found`: its publisher does not say its numerics and classes, so those of the file hold; the record's are a guess.

    Figures are as published; those of a checkpoint that ships with the package (`bundled`) were measured by it.
    """

    id: str
    source: str
    network: str
    network_version: int
    width: float
    size: int
    params: int
    classes: int
    filename: str
    url: str
    sha256: str | None
    size_bytes: int | None
    numerics: Numerics
    preprocessing: Preprocessing
    top1: float | None
    top5: float | None
    published_at: str
    license: str
    repo: str | None = None
    revision: str | None = None
    note: str | None = None
    dataset: str = "imagenet"
    stem_stride: int = 2
    as_found: bool = False

    @property
    def bundled(self) -> bool:
        """Whether the checkpoint ships with the package."""
        return self.source == OWN_SOURCE

    @property
    def architecture(self) -> Architecture:
        """The network of this checkpoint."""
        return self.numerics.apply(FAMILY[self.network].scaled(self.width)).with_stem_stride(self.stem_stride)

    @property
    def origin(self) -> Origin:
        """What there is to say of it."""
        figures = {name: value for name, value in (("top1", self.top1), ("top5", self.top5)) if value is not None}
        where: dict[str, Any] = {"published": figures, "published_at": self.published_at}
        if self.bundled:
            where = {"measured": figures, "measured_on": self.published_at.removeprefix("measured on ")}
        return Origin(self.source, self.id, record=self.id, url=self.url or None, license=self.license, **where)


@functools.cache
def _tables() -> tuple[dict[str, Any], ...]:
    """records.json (public checkpoints) and bundled/records.json (those in the package)."""
    folder = resources.files("keras_mnasnet.weights")
    tables = []
    for path in (folder / "records.json", folder / "bundled" / "records.json"):
        table = json.loads(path.read_text("utf-8"))
        if table["schema"] != SCHEMA:
            raise CheckpointError(f"{path} must have schema {SCHEMA}. Received: schema={table['schema']}")
        tables.append(table)
    return tuple(tables)


@functools.cache
def _sources() -> dict[str, Any]:
    return {name: source for table in _tables() for name, source in table["sources"].items()}


def source_numerics(source: str) -> Numerics:
    """The numerics of a source: `google`, `timm` or `torchvision`."""
    return Numerics(**_sources()[source]["numerics"])


def records(dataset: str | None = None) -> tuple[Record, ...]:
    """Every checkpoint, or those of one dataset (a name of DATASETS): public ones first, in the order of the tables."""
    return tuple(record for record in _records() if dataset in (None, record.dataset))


def datasets() -> tuple[str, ...]:
    """The datasets that checkpoints exist for; each is a value of the `weights` argument."""
    return tuple(dict.fromkeys(record.dataset for record in _records()))


def training_of(record_id: str) -> list[dict[str, Any]] | None:
    """How a bundled checkpoint was trained, stage by stage: recipe, hardware, time, curve. None for a public one."""
    entries = [entry for table in _tables() for entry in table["records"] if entry["id"] == record_id]
    return entries[0].get("training") if entries else None


@functools.cache
def _records() -> tuple[Record, ...]:
    stated = {field.name for field in dataclasses.fields(Record)}
    found = []
    for entry in (entry for table in _tables() for entry in table["records"]):
        source = _sources()[entry["source"]]
        values = {key: value for key, value in entry.items() if key in stated}
        tested_on = DATASETS[entry.get("dataset", "imagenet")].tested_on
        values |= {"license": source["license"], "published_at": source.get("published_at", f"measured on {tested_on}")}
        values["url"] = source["url"].format(**{key: entry.get(key) or "" for key in ("filename", "repo", "revision")})
        values["numerics"] = Numerics(**{**source["numerics"], **entry.get("overrides", {})})
        values["preprocessing"] = Preprocessing(
            size=entry["size"],
            mean=tuple(source["mean"]),
            std=tuple(source["std"]),
            decoder=source.get("decoder", "pillow"),
            **entry["preprocessing"],
        )
        found.append(Record(**values))
    return tuple(found)


def names(network: str | None = None, dataset: str | None = None) -> tuple[str, ...]:
    """The ids of all records, or of one network's or dataset's."""
    return tuple(record.id for record in records(dataset) if network in (None, record.network))


def find(record_id: str) -> Record:
    """The record of that id; an unknown id raises CheckpointError with the nearest ones."""
    for record in records():
        if record.id == record_id:
            return record
    raise CheckpointError(
        f"A record's id must be one of the {len(records())} that `mnasnet weights list` shows. Received: {record_id!r}."
        f"{did_you_mean(record_id, names())}"
    )


def source_preprocessing(source: str, size: int) -> Preprocessing:
    """How `google`, `timm` or `torchvision` evaluates at `size` pixels."""
    return next(record for record in records() if record.source == source).preprocessing.at(size)


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """(WordNet id, name) of ImageNet's 1000 classes, in the order of the outputs."""
    text = resources.files("keras_mnasnet.weights").joinpath("imagenet_classes.json").read_text("utf-8")
    return tuple((wnid, name) for wnid, name in json.loads(text))


def labels_of(source: str, classes: int) -> tuple[str, ...] | None:
    """ImageNet's class names for the 1000 classes of a public source, with a background for 1001; None for other numbers."""
    if classes not in (1000, 1001) or source not in _sources():
        return None
    return (BACKGROUND,) * (classes == 1001) + tuple(name for _, name in imagenet_classes())


def with_background(names: Sequence[str], outputs: int) -> tuple[str, ...]:
    """Class names, with a background in front where 1000 of them are given for 1001 outputs."""
    return ((BACKGROUND,) if len(names) + 1 == outputs == 1001 else ()) + tuple(names)


def spelled_as(known: Sequence[str] | None, labels: Sequence[str]) -> tuple[str, ...] | None:
    """A model's class names as data spells them: ImageNet's, also with their synonyms behind them (`tench, Tinca tinca`), may
    be WordNet ids there, or numbers (None: matched by number)."""
    if not known:
        return None
    imagenets = labels_of("google", len(known)) or ()
    if set(labels) <= set(known) or list(map(_first_name, known)) != list(map(_first_name, imagenets)):
        return tuple(known)
    for spelling in zip(*imagenet_classes(), strict=True):
        if set(labels) <= set(spelling):
            return (BACKGROUND,) * (len(known) - len(spelling)) + spelling
    return None


def _first_name(label: str) -> str:
    return label.partition(",")[0].strip().replace("_", " ").lower()


def _preference(record: Record, size: int) -> tuple:
    """Sort key of `weights="imagenet"`: Google's first, timm's and torchvision's before others; then the nearest resolution,
    then the higher published top-1."""
    rank = {"google": 0, "timm": 1, "torchvision": 1, OWN_SOURCE: 1}.get(record.source, 2)
    return rank, abs(record.size - size), -record.size, -(record.top1 or 0)


def select(network: str, width: float | None, size: int, dataset: str = "imagenet") -> Record:
    """The record that the name of a dataset means for a network, width multiplier and input size in pixels.

    ImageNet: None is 1.0; Google's own checkpoints go first (they are the paper's), then the nearest training resolution,
    then the higher published top-1. Other datasets: None is any width. A network without checkpoints raises CheckpointError;
    nothing falls back to random weights.
    """
    of_dataset = records(dataset)
    of_network = [record for record in of_dataset if record.network == network]
    wanted = 1.0 if width is None and dataset == "imagenet" else width
    fitting = [record for record in of_network if wanted in (None, record.width)]
    if fitting:
        return min(fitting, key=lambda record: _preference(record, size))
    title = DATASETS[dataset].title
    if not of_network:
        have = {name: sum(record.network == name for record in of_dataset) for name in FAMILY}
        never = "were ever published" if dataset == "imagenet" else "ship with the package"
        raise CheckpointError(
            f"No {title} weights of MnasNet-{network.upper()} {never}. Received: weights={dataset!r}. "
            f"Checkpoints exist of {', '.join(f'{name} ({count})' for name, count in have.items() if count)}; "
            f"or pass weights=None and train, or a path to your own weights."
        )
    widths = ", ".join(f"{value:g}" for value in sorted({record.width for record in of_network}))
    raise CheckpointError(
        f"{title} weights of MnasNet-{network.upper()} exist for the width multipliers {widths}. "
        f"Received: width_multiplier={width!r} with weights={dataset!r}."
    )
