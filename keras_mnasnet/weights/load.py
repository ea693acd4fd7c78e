"""From a record, a file or a Hub address to a Checkpoint, and from a Checkpoint into a model's layers."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from keras_mnasnet.architecture import Architecture
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

__all__ = ["assign", "convert_file", "converted_path", "load_record", "parse_hub", "read_file", "verify_record"]

HUB_ADDRESS = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w.-]+))?/(?P<file>.+)$")


def converted_path(record: registry.Record) -> Path:
    """Where the converted form of a record is cached."""
    return cache_home() / "converted" / f"{record.id}.safetensors"


def load_record(record: registry.Record) -> Checkpoint:
    """A record's checkpoint: from the cache, else fetched, verified, converted once and cached."""
    path = converted_path(record)
    try:
        with locked(path):
            if path.is_file():
                try:
                    return _cached(record, path)
                except CheckpointError as error:
                    logging.warning("%s is not usable and is made anew: %s", path, error)
            source, sha256 = fetch_record(record)
            logging.info("converting %s", source)
            with open_tensors(source) as file:
                checkpoint = convert(file, [(record.architecture, record.numerics.scale_stem)])
            if checkpoint.classes != record.classes:
                raise CheckpointError(f"{source} must have {record.classes} classes. Received: {checkpoint.classes} classes")
            write_native(checkpoint, path, record=record.id, source_sha256=sha256)
            return checkpoint
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"The cache must be writable to keep {record.id}. Received: {error}. Nothing half-written was kept. "
            f"Free space there, or set KERAS_MNASNET_HOME to another folder."
        ) from error


def _cached(record: registry.Record, path: Path) -> Checkpoint:
    with open_tensors(path) as file:
        if not is_native(file) or not read_header(file).get("source_sha256", "").startswith(record.sha256 or ""):
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
        if placed.is_file():
            report["files"].append({"path": str(placed), "sha256": check_sha256(placed, record.sha256)})
        if path.is_file():
            checkpoint = _cached(record, path)
            if not all(np.isfinite(value).all() for value in checkpoint.tensors.values()):
                raise CheckpointError(f"{path} must hold finite values. Received: NaN or infinity")
            report["files"].append({"path": str(path), "sha256": file_sha256(path)})
        report["ok"] = True if report["files"] else None
    except (CheckpointError, OSError) as error:
        report |= {"ok": False, "problem": str(error)}
    return report


def parse_hub(address: str) -> tuple[str, str | None, str]:
    """(repo, revision or None, file) of `hf://owner/repo[@revision]/file`."""
    match = HUB_ADDRESS.match(address)
    if not match:
        raise CheckpointError(f"A Hub address is hf://owner/repo[@revision]/file. Received: {address!r}")
    return match["repo"], match["revision"], match["file"]


def read_file(path: str | os.PathLike[str], candidates: Sequence[tuple[Architecture, bool]] | None = None) -> Checkpoint:
    """The checkpoint in a local file or at a Hub address.

    `candidates` are the networks it may hold, each with whether its stem was scaled; None finds the family member.
    """
    if str(path).startswith("hf://"):
        repo, revision, filename = parse_hub(str(path))
        path = fetch_hub(repo, filename, revision)
    elif not str(path).endswith(SUFFIXES) and not any(map(os.path.exists, _expanded(path))):
        registry.get(str(path))
    with open_tensors(path) as file:
        if not is_native(file):
            return convert(file, candidates)
        checkpoint = read_native(file)
    if candidates and not any(
        checkpoint.numerics.apply(network).same_network(checkpoint.architecture) for network, _ in candidates
    ):
        raise CheckpointError(f"{path} must hold MnasNet {candidates[0][0].name!r}. Received: {checkpoint.architecture}")
    return checkpoint


def _expanded(path: str | os.PathLike[str]) -> tuple[str, str]:
    """The path, and the index that it would have as the prefix of a TF1 checkpoint."""
    expanded = os.path.expanduser(path)
    return expanded, f"{expanded}.index"


def convert_file(source: str | os.PathLike[str], target: Path, architecture: Architecture | None = None) -> Checkpoint:
    """Convert a checkpoint of any source to keras_mnasnet's own safetensors file."""
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
