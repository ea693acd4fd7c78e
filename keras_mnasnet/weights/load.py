"""From a record, a file or a Hub address to a Checkpoint, and from a Checkpoint into a model's layers."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from absl import logging

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.preprocessing import Preprocessing
from keras_mnasnet.weights import registry
from keras_mnasnet.weights.convert import Checkpoint, convert, expected_shapes
from keras_mnasnet.weights.errors import CheckpointError, DownloadError
from keras_mnasnet.weights.fetch import (
    cache_home,
    check_sha256,
    fetch_hub,
    fetch_record,
    file_sha256,
    locked,
    placed_path,
)
from keras_mnasnet.weights.files import SUFFIXES, open_tensors
from keras_mnasnet.weights.store import is_native, read_header, read_native, write_native

__all__ = [
    "RUN_MODEL", "assign", "check_fits", "convert_file", "converted_path", "load_named", "load_record", "parse_hub",
    "preprocessing_of", "read_file", "resolve_path", "verify_record",
]  # fmt: skip

RUN_MODEL = "model.safetensors"
HUB_ADDRESS = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>refs/\w+/[\w.-]+|[\w.-]+))?/(?P<file>.+)$")


def converted_path(record: registry.Record) -> Path:
    """Where the converted form of a record is cached; of a bundled one, its file in the package."""
    if record.bundled:
        return Path(str(resources.files("keras_mnasnet.weights") / "bundled" / record.filename))
    return cache_home() / "converted" / f"{record.id}.safetensors"


def load_record(record: registry.Record) -> Checkpoint:
    """A record's checkpoint: from the cache (which may be read-only), else fetched, verified, converted once and cached."""
    path = converted_path(record)
    if record.bundled:
        check_sha256(path, record.sha256)
        return _cached(record, path)
    if (cached := _usable(record, path)) is not None:
        return cached
    try:
        with locked(path):
            if (cached := _usable(record, path)) is not None:
                return cached
            source, sha256 = fetch_record(record)
            logging.info("converting %s", source)
            with open_tensors(source) as file:
                checkpoint = convert(file, [(record.architecture, record.numerics.scale_stem)])
            if checkpoint.classes != record.classes:
                raise CheckpointError(f"{source} must have {record.classes} classes. Received: {checkpoint.classes} classes")
            checkpoint = dataclasses.replace(checkpoint, resolution=record.resolution)
            write_native(checkpoint, path, record=record.id, source_sha256=sha256)
            return checkpoint
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"The cache must be writable to keep {record.id}. Received: {error}. Nothing half-written was kept. "
            f"Free space there, or set KERAS_MNASNET_HOME to another folder."
        ) from error


def _usable(record: registry.Record, path: Path) -> Checkpoint | None:
    """The cached checkpoint; None when there is none, or one that has to be made anew."""
    if not path.is_file():
        return None
    try:
        return _cached(record, path)
    except CheckpointError as error:
        logging.warning("%s is not usable and is made anew: %s", path, error)
        return None


def _cached(record: registry.Record, path: Path) -> Checkpoint:
    with open_tensors(path) as file:
        of_record = is_native(file) and (
            record.bundled or read_header(file).get("source_sha256", "").startswith(record.sha256 or "")
        )
        if not of_record:
            raise CheckpointError(f"{path} must come from {record.url}. Received: a file of another origin")
        checkpoint = read_native(file)
    if not checkpoint.architecture.same_network(record.architecture) or checkpoint.numerics != record.numerics:
        raise CheckpointError(f"{path} must hold {record.id}. Received: another network or other numerics")
    return checkpoint


def verify_record(record: registry.Record) -> dict[str, Any]:
    """What is cached of a record and whether it is whole; `ok` is None when nothing is cached. Fetches nothing."""
    path, placed = converted_path(record), placed_path(record)
    report: dict[str, Any] = {"id": record.id, "ok": None, "files": [], "problem": None}
    try:
        if record.bundled:
            load_record(record)
            return report | {"ok": True, "files": [{"path": str(path), "sha256": file_sha256(path)}]}
        source_sha256 = record.sha256
        if path.is_file():
            _cached(record, path)
            with open_tensors(path) as file:
                source_sha256 = read_header(file)["source_sha256"]
            report["files"].append({"path": str(path), "sha256": file_sha256(path)})
        if placed.is_file():
            report["files"].append({"path": str(placed), "sha256": check_sha256(placed, source_sha256)})
            if not path.is_file():
                with open_tensors(placed) as file:
                    convert(file, [(record.architecture, record.numerics.scale_stem)])
        report["ok"] = True if report["files"] else None
    except (CheckpointError, OSError) as error:
        report |= {"ok": False, "problem": str(error)}
    return report


def parse_hub(address: str) -> tuple[str, str | None, str]:
    """(repo, revision or None, file) of `hf://owner/repo[@revision]/file`."""
    match = HUB_ADDRESS.match(address)
    if not match or ".." in address.split("/"):
        raise CheckpointError(f"A Hub address is hf://owner/repo[@revision]/file. Received: {address!r}")
    return match["repo"], match["revision"], match["file"]


def resolve_path(weights: str | os.PathLike[str]) -> Path:
    """The local path of a checkpoint, fetched if it is a Hub address; CheckpointError for what is neither file nor address."""
    text = re.sub("^hf:/+", "hf://", str(weights))
    if text.startswith("hf://"):
        repo, revision, filename = parse_hub(text)
        return fetch_hub(repo, filename, revision)
    path = Path(text).expanduser()
    if not text.endswith(SUFFIXES) and not path.exists() and not Path(f"{path}.index").exists():
        registry.get(text)
    return path


def read_file(path: str | os.PathLike[str], candidates: Sequence[tuple[Architecture, bool]] | None = None) -> Checkpoint:
    """The checkpoint in a local file or at a Hub address.

    `candidates` are the networks it may hold, each with whether its stem was scaled; None finds the family member.
    """
    path = resolve_path(path)
    with open_tensors(path) as file:
        if not is_native(file):
            return convert(file, candidates)
        checkpoint = read_native(file)
    check_fits(checkpoint, path, candidates)
    return checkpoint


def load_named(
    weights: str, *, network: str = "a1", width: float | None = None, size: int = 224
) -> tuple[Checkpoint, registry.Record | None]:
    """The checkpoint of a dataset's name (its record for this network, width and size), a record id, a training run's folder,
    a file or a Hub address; and its record, if it has one. Without Keras, so no `.keras` and no `.weights.h5`.
    """
    if weights in registry.datasets() or weights in registry.names():
        record = registry.select(network, width, size, weights) if weights in registry.datasets() else registry.get(weights)
        return load_record(record), record
    path = Path(weights).expanduser()
    if path.is_dir():
        if not (path / RUN_MODEL).is_file():
            raise CheckpointError(f"The folder of a training run holds {RUN_MODEL}. Received: {path}, which does not")
        return read_file(path / RUN_MODEL), None
    return read_file(weights), None


def preprocessing_of(checkpoint: Checkpoint, size: int) -> Preprocessing:
    """How a checkpoint is evaluated at `size` pixels: as its file says, else as its source does (timm's way if unknown)."""
    if checkpoint.preprocessing:
        return checkpoint.preprocessing.at(size)
    public = checkpoint.source in registry.sources() and checkpoint.source != registry.OWN_SOURCE
    return registry.preprocessing_of(checkpoint.source if public else "timm", size)


def check_fits(checkpoint: Checkpoint, path: object, candidates: Sequence[tuple[Architecture, bool]] | None) -> None:
    """CheckpointError unless the checkpoint is of one of the candidates (None: any network)."""
    if candidates is not None and not any(
        checkpoint.numerics.apply(network).same_network(checkpoint.architecture) for network, _ in candidates
    ):
        raise CheckpointError(f"{path} must hold MnasNet {candidates[0][0].name!r}. Received: {checkpoint.architecture}")


def convert_file(
    source: str | os.PathLike[str], target: str | os.PathLike[str], architecture: Architecture | None = None
) -> Checkpoint:
    """Convert a checkpoint of any source to keras_mnasnet's own safetensors file."""
    target = Path(target).expanduser()
    if target.suffix != ".safetensors":
        raise CheckpointError(f"The converted file must end in .safetensors. Received: {target}")
    checkpoint = read_file(source, [(architecture, True)] if architecture else None)
    write_native(checkpoint, target)
    return checkpoint


def assign(model: Any, checkpoint: Checkpoint, *, include_top: bool = True) -> None:
    """Set the layers of a model made by `model.build` from a checkpoint of the same network, by name."""
    classes = checkpoint.classes if include_top else 0
    for layer_name, group in itertools.groupby(
        expected_shapes(checkpoint.architecture, classes), key=lambda name: name.rpartition("/")[0]
    ):
        model.get_layer(layer_name).set_weights([checkpoint.tensors[name] for name in group])
