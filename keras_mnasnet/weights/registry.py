"""The public checkpoints as records: which network, where the file is, and the numerics and preprocessing it needs."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
from importlib import resources
from typing import Any

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.family import FAMILY
from keras_mnasnet.weights.errors import CheckpointError

__all__ = [
    "Numerics",
    "Preprocessing",
    "Record",
    "get",
    "names",
    "preference",
    "preprocessing_of",
    "records",
    "select",
    "source_numerics",
    "sources",
]

SCHEMA = 1


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
class Preprocessing:
    """Evaluation preprocessing of a checkpoint, down to `size` x `size` pixels.

    `resize` given: shorter side to that many pixels, then the central crop. `resize` None: the central square of
    `crop_fraction` of the shorter side, then resized (Google). Normalisation: (pixel / 255 - mean) / std.
    """

    size: int
    interpolation: str
    resize: int | None = None
    crop_fraction: float | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __str__(self) -> str:
        if self.resize:
            return f"resize {self.resize} ({self.interpolation}), central crop {self.size}"
        return f"central crop {self.crop_fraction:.3f}, resize {self.size} ({self.interpolation})"


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One public checkpoint. `sha256` may be a prefix or None (the publisher gives none); figures are as published."""

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

    @property
    def architecture(self) -> Architecture:
        """The network of this checkpoint."""
        scaled = FAMILY[self.network].scaled(self.width, scale_stem=self.numerics.scale_stem)
        return self.numerics.apply(scaled)

    def describe(self) -> str:
        """One line: id, resolution and published accuracy."""
        top1 = "" if self.top1 is None else f", top-1 {self.top1:g} % published at {self.published_at}"
        return f"{self.id} ({self.resolution} px{top1})"


@functools.cache
def _table() -> dict[str, Any]:
    table = json.loads(resources.files("keras_mnasnet.weights").joinpath("records.json").read_text("utf-8"))
    if table["schema"] != SCHEMA:
        raise CheckpointError(f"records.json must have schema {SCHEMA}. Received: schema={table['schema']}")
    return table


def source_numerics(source: str) -> Numerics:
    """The numerics of a source: `google`, `timm` or `torchvision`."""
    return Numerics(**_table()["sources"][source]["numerics"])


def sources() -> tuple[str, ...]:
    """The frameworks that trained the recorded checkpoints."""
    return tuple(_table()["sources"])


@functools.cache
def records() -> tuple[Record, ...]:
    """Every public checkpoint, in the order of records.json."""
    table = _table()
    found = []
    for entry in table["records"]:
        source = table["sources"][entry["source"]]
        numerics = Numerics(**{**source["numerics"], **entry.get("overrides", {})})
        preprocessing = Preprocessing(
            size=entry["resolution"],
            mean=tuple(source["mean"]),
            std=tuple(source["std"]),
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
            )
        )
    return tuple(found)


def names(network: str | None = None) -> tuple[str, ...]:
    """The ids of all records, or of one network's."""
    return tuple(record.id for record in records() if network in (None, record.network))


def get(record_id: str) -> Record:
    """The record of that id; an unknown id raises CheckpointError with the nearest ones."""
    for record in records():
        if record.id == record_id:
            return record
    near = difflib.get_close_matches(record_id, names(), n=3, cutoff=0.3)
    raise CheckpointError(
        f"`weights` must be None, 'imagenet', a record id, an existing file or hf://owner/repo/file. "
        f"Received: weights={record_id!r}. Nearest records: {', '.join(near) or ', '.join(names())}. "
        f"`mnasnet weights list` shows all {len(records())}."
    )


def preprocessing_of(source: str, size: int, record: Record | None = None) -> Preprocessing:
    """How a source evaluates at `size` pixels; of a record, its own, kept in proportion when the size is another."""
    like = (record or next(r for r in records() if r.source == source)).preprocessing
    if size == like.size:
        return like
    if like.resize:
        return dataclasses.replace(like, size=size, resize=round(size * like.resize / like.size))
    return dataclasses.replace(like, size=size, crop_fraction=size / (size + 32))


def preference(record: Record, size: int) -> tuple:
    """Sort key of `weights="imagenet"`: Google's first, then the nearest resolution, then the higher published top-1."""
    return record.source != "google", abs(record.resolution - size), -record.resolution, -(record.top1 or 0)


def select(network: str, width: float | None, size: int) -> Record:
    """The record that `weights="imagenet"` means for a network, width multiplier (None is 1.0) and input size in pixels.

    Google's own checkpoints go first (they are the paper's), then the nearest training resolution, then the higher
    published top-1. A network without checkpoints raises CheckpointError; nothing falls back to random weights.
    """
    of_network = [record for record in records() if record.network == network]
    wanted = 1.0 if width is None else width
    fitting = [record for record in of_network if record.width == wanted]
    if fitting:
        return min(fitting, key=lambda record: preference(record, size))
    if not of_network:
        have = {name: sum(record.network == name for record in records()) for name in FAMILY}
        raise CheckpointError(
            f"No ImageNet weights of MnasNet-{network.upper()} were ever published. Received: weights='imagenet'. "
            f"Checkpoints exist of {', '.join(f'{name} ({count})' for name, count in have.items() if count)}; "
            f"or pass weights=None and train, or a path to your own weights."
        )
    widths = ", ".join(f"{value:g}" for value in sorted({record.width for record in of_network}))
    raise CheckpointError(
        f"ImageNet weights of MnasNet-{network.upper()} exist for the width multipliers {widths}. "
        f"Received: width_multiplier={width!r} with weights='imagenet'."
    )
