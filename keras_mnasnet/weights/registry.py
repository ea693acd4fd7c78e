"""The checkpoints as records: which network, where the file is, and the numerics and preprocessing it needs."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
from importlib import resources
from typing import Any

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.family import FAMILY
from keras_mnasnet.preprocessing import Preprocessing
from keras_mnasnet.weights.errors import CheckpointError

__all__ = [
    "OWN_SOURCE",
    "Numerics",
    "Record",
    "datasets",
    "get",
    "names",
    "preference",
    "preprocessing_of",
    "records",
    "select",
    "source_numerics",
    "sources",
    "training_of",
]

SCHEMA = 1
OWN_SOURCE = "keras_mnasnet"


@dataclasses.dataclass(frozen=True, slots=True)
class Numerics:
    """How the framework that trained a checkpoint computes: what the weights alone do not say."""

    bn_epsilon: float
    padding: str
    first_residual: bool | None = None
    scale_stem: bool = True

    def __post_init__(self) -> None:
        if self.padding not in ("same", "symmetric") or not isinstance(self.bn_epsilon, float) or not 0 < self.bn_epsilon < 1:
            raise CheckpointError(f"Numerics need an epsilon in (0, 1) and a padding, same or symmetric. Received: {self}")
        if self.first_residual not in (None, True, False) or self.scale_stem not in (True, False):
            raise CheckpointError(f"`first_residual` and `scale_stem` must be true or false. Received: {self}")

    def apply(self, architecture: Architecture) -> Architecture:
        """The network as this source builds it: with or without the first layer's residual, where that can be chosen."""
        first = architecture.blocks[0]
        if self.first_residual is None or first.stride != 1 or architecture.stem != first.filters:
            return architecture
        return architecture.with_first_residual(self.first_residual)


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One checkpoint. `sha256` may be a prefix or None (the publisher gives none).

    Figures are as published; those of a checkpoint that ships with the package (`bundled`) were measured by it.
    """

    id: str
    source: str
    network: str
    network_version: int
    width: float
    resolution: int
    params: int
    classes: int
    filename: str
    url: str
    repo: str | None
    revision: str | None
    sha256: str | None
    size_bytes: int | None
    numerics: Numerics
    preprocessing: Preprocessing
    top1: float | None
    top5: float | None
    published_at: str
    licence: str
    note: str | None
    dataset: str = "imagenet"
    stem_stride: int = 2

    @property
    def bundled(self) -> bool:
        """Whether the checkpoint ships with the package."""
        return self.source == OWN_SOURCE

    @property
    def architecture(self) -> Architecture:
        """The network of this checkpoint."""
        scaled = FAMILY[self.network].scaled(self.width, scale_stem=self.numerics.scale_stem)
        return self.numerics.apply(scaled).with_stem_stride(self.stem_stride)

    def describe(self) -> str:
        """One line: id, resolution and accuracy, and where it was published or on what it was measured."""
        origin = self.published_at if self.bundled else f"published at {self.published_at}"
        top1 = "" if self.top1 is None else f", top-1 {self.top1:g} % {origin}"
        return f"{self.id} ({self.resolution} px{top1})"


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


def sources() -> tuple[str, ...]:
    """The frameworks that trained the recorded checkpoints."""
    return tuple(_sources())


def records(dataset: str | None = None) -> tuple[Record, ...]:
    """Every checkpoint, or those of one dataset (`imagenet`, `cifar10`): public ones first, in the order of the tables."""
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
    found = []
    for entry in (entry for table in _tables() for entry in table["records"]):
        source = _sources()[entry["source"]]
        numerics = Numerics(**{**source["numerics"], **entry.get("overrides", {})})
        preprocessing = Preprocessing(
            size=entry["resolution"],
            mean=tuple(source["mean"]),
            std=tuple(source["std"]),
            decoder=source.get("decoder", "pillow"),
            **entry["preprocessing"],
        )
        url = source["url"].format(**{key: entry.get(key) or "" for key in ("filename", "repo", "revision")})
        found.append(
            Record(
                id=entry["id"],
                source=entry["source"],
                network=entry["network"],
                network_version=entry["network_version"],
                width=entry["width"],
                resolution=entry["resolution"],
                params=entry["params"],
                classes=entry["classes"],
                filename=entry["filename"],
                url=url,
                repo=entry.get("repo"),
                revision=entry.get("revision"),
                sha256=entry["sha256"],
                size_bytes=entry["size_bytes"],
                numerics=numerics,
                preprocessing=preprocessing,
                top1=entry["top1"],
                top5=entry["top5"],
                published_at=source["published_at"],
                licence=source["licence"],
                note=entry.get("note"),
                dataset=entry.get("dataset", "imagenet"),
                stem_stride=entry.get("stem_stride", 2),
            )
        )
    return tuple(found)


def names(network: str | None = None, dataset: str | None = None) -> tuple[str, ...]:
    """The ids of all records, or of one network's or dataset's."""
    return tuple(record.id for record in records(dataset) if network in (None, record.network))


def get(record_id: str) -> Record:
    """The record of that id; an unknown id raises CheckpointError with the nearest ones."""
    for record in records():
        if record.id == record_id:
            return record
    near = difflib.get_close_matches(record_id, names(), n=3, cutoff=0.3)
    raise CheckpointError(
        f"`weights` must be None, 'imagenet', 'cifar10', a record id, an existing file or hf://owner/repo/file. "
        f"Received: weights={record_id!r}. Nearest records: {', '.join(near) or ', '.join(names())}. "
        f"`mnasnet weights list` shows all {len(records())}."
    )


def preprocessing_of(source: str, size: int, record: Record | None = None) -> Preprocessing:
    """How a source evaluates at `size` pixels; of a record, its own, kept in proportion when the size is another."""
    return (record or next(r for r in records() if r.source == source)).preprocessing.at(size)


def preference(record: Record, size: int) -> tuple:
    """Sort key of `weights="imagenet"`: Google's first, then the nearest resolution, then the higher published top-1."""
    return record.source != "google", abs(record.resolution - size), -record.resolution, -(record.top1 or 0)


def select(network: str, width: float | None, size: int, dataset: str = "imagenet") -> Record:
    """The record that `weights="imagenet"` or `"cifar10"` means for a network, width multiplier and input size in pixels.

    ImageNet: None is 1.0; Google's own checkpoints go first (they are the paper's), then the nearest training resolution,
    then the higher published top-1. CIFAR-10: None is any width. A network without checkpoints raises CheckpointError;
    nothing falls back to random weights.
    """
    of_dataset = records(dataset)
    of_network = [record for record in of_dataset if record.network == network]
    wanted = 1.0 if width is None and dataset == "imagenet" else width
    fitting = [record for record in of_network if wanted in (None, record.width)]
    if fitting:
        return min(fitting, key=lambda record: preference(record, size))
    title = {"imagenet": "ImageNet", "cifar10": "CIFAR-10"}.get(dataset, dataset)
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
