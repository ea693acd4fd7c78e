"""What a text means: `load` makes a Checkpoint of any source, `save` writes all of it again. The only place that decides it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from absl import logging

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.family import FAMILY, as_architecture, default_size
from keras_mnasnet.preprocessing import Preprocessing
from keras_mnasnet.utils.files import scratch
from keras_mnasnet.utils.locks import sweep_lock
from keras_mnasnet.utils.reading import check_limit, open_zip, shown, texts
from keras_mnasnet.utils.text import did_you_mean
from keras_mnasnet.weights import registry
from keras_mnasnet.weights.checkpoint import (
    OWN_SOURCE,
    Checkpoint,
    CheckpointError,
    DownloadError,
    Numerics,
    Origin,
    assign,
    expected_shapes,
    fingerprint,
    layer_shapes,
    remember,
    remembered,
)
from keras_mnasnet.weights.datasets import DATASETS
from keras_mnasnet.weights.fetch import (
    cache_home,
    check_sha256,
    fetch_hub,
    file_sha256,
    locked,
    placed_path,
    read_record,
    remembered_sha256,
)
from keras_mnasnet.weights.formats import H5_SUFFIX, KERAS_SUFFIX, SUFFIXES, TensorFile
from keras_mnasnet.weights.formats.content import SHARD, SHARDED, kind_of
from keras_mnasnet.weights.formats.keras import h5_tensors, keras_header, load_keras, open_h5, write_keras
from keras_mnasnet.weights.formats.safetensors import (
    FORMAT,
    described,
    open_safetensors,
    read_header,
    to_header,
    write_native,
)
from keras_mnasnet.weights.formats.tf1 import open_tf1, unpack

RUN_MODEL = "model.safetensors"
GRAPHS = {"tflite": "tflite", "onnx": "onnx", "tfjs": "tfjs", "pb": "graphdef"}  # modules of formats that read graphs, by kind
HUB_ADDRESS = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>refs/\w+/[\w.-]+|[\w.-]+))?(?:/(?P<file>.+))?$")
KINDS = (
    f"{', '.join(map(repr, DATASETS))}, a record's id (`mnasnet weights list`), the folder of a training run, a checkpoint "
    f"file ({', '.join(SUFFIXES)}, a TF1 prefix), or hf://owner/name[@revision][/file]"
)


def load(source: Any, *, network: Architecture | str | None = None, size: int | None = None) -> Checkpoint:
    """The checkpoint that a source means: network, tensors, labels, preprocessing and origin as one value.

    Args:
        source: "imagenet", "cifar10" or "trashnet" (of `network`, a1 without it, trained nearest to `size` pixels), a
            record's id, the folder of a training run (of a detector's too), a file of keras_mnasnet, Google, timm, torchvision
            or Keras (`.weights.h5`, `.keras`), a MnasNet in a `.tflite`, a `.onnx`, a `model.json` of TensorFlow.js or a
            frozen `.pb` (weights dequantized, batch norms folded), hf://owner/name[@revision][/file], a Checkpoint, or a
            Keras model of this process.
        network: of a dataset's name, which member (`b1`, `a1-0.75`); of a file whose strides its tensors do not show, its text.
        size: input size in pixels that a dataset's record should have been trained near.

    Raises CheckpointError for what is no checkpoint, naming the command or argument that takes it, and for damaged files;
    DownloadError for what cannot be fetched.

    Example:
        >>> from keras_mnasnet import load
        >>> load("cifar10/b1-0.5-32").origin.measured["top1"]
        85.73
    """
    if isinstance(source, Checkpoint):
        return source
    if _is_keras_model(source):
        return checkpoint_of(source)
    if not isinstance(source, str | os.PathLike):
        raise CheckpointError(f"A model must be {KINDS}. Received: {source!r} of type {type(source).__name__}")
    text = os.fspath(source)
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    dataset = text in registry.datasets()
    named = None if network is None or dataset else as_architecture(network)
    if (record := record_of(text, network=network, size=size)) is not None:
        return _of_network(_load_record(record), named)
    path = _local(text)
    kind = kind_of(path)
    checkpoint = _of_network(_read(path, kind, named), named)
    checkpoint = dataclasses.replace(
        checkpoint, origin=dataclasses.replace(checkpoint.origin, name=checkpoint.origin.record or text)
    )
    if checkpoint.assumed:
        logging.warning("%s does not say its %s: assumed", text, ", ".join(checkpoint.assumed))
    return checkpoint


def _of_network(checkpoint: Checkpoint, named: Architecture | None) -> Checkpoint:
    """The checkpoint, unless it is of another member than the one named (None: any), at whatever width and depth."""
    if named is not None and not checkpoint.architecture.same_design(named):
        raise CheckpointError(
            f"{checkpoint.origin.name} must hold MnasNet {named.name!r}. Received: '{checkpoint.architecture}'. Leave out "
            f"network= (--network): it says its network itself."
        )
    return checkpoint


def record_of(text: Any, *, network: Architecture | str | None = None, size: int | None = None) -> registry.Record | None:
    """The record that a dataset's name or an id means, before anything is fetched; None for any other source."""
    if not isinstance(text, str):
        return None
    if text in registry.datasets():
        base, width = _member(network or "a1")
        record = registry.select(base, width, size or default_size(FAMILY[base]), text)
        logging.info("%s is %s", text, record.origin)
        return record
    return registry.find(text) if text in registry.names() else None


def _is_keras_model(value: Any) -> bool:
    keras = sys.modules.get("keras")  # without Keras in the process there is no model of it
    return keras is not None and isinstance(value, keras.Model)


def _member(network: Architecture | str) -> tuple[str, float | None]:
    """(family name, width multiplier) of `b1`, `a1-0.75` or an Architecture of the family."""
    text = network.name if isinstance(network, Architecture) else str(network).lower()
    for name in sorted(FAMILY, key=len, reverse=True):
        match = re.fullmatch(rf"{name}(?:-(\d+(?:\.\d+)?))?(?:-stem1)?", text.removeprefix("mnasnet-"))
        if match:
            return name, float(match[1]) if match[1] else None
    raise CheckpointError(
        f"Checkpoints of datasets exist for members of the family ({', '.join(FAMILY)}). Received: network={text!r}. Name a "
        f"record's id or a file, or train without weights (--network)."
    )


def _local(text: str) -> Path:
    """The path of the file that a text means, fetched if it is a Hub address; CheckpointError says what else takes it."""
    address = re.sub("^hf:/+", "hf://", text)
    if address.startswith("hf://"):
        match = HUB_ADDRESS.match(address)
        if not match or ".." in address.split("/"):
            raise CheckpointError(f"A Hub address is hf://owner/name[@revision][/file]. Received: {text!r}")
        return fetch_hub(match["repo"], match["file"] or RUN_MODEL, match["revision"])
    path = Path(text).expanduser()
    if path.is_dir():
        if (path / RUN_MODEL).is_file():
            return path / RUN_MODEL
        inside = sorted(str(index)[: -len(".index")] for index in path.glob("*.index"))
        shards = sorted(each.name for each in path.iterdir() if SHARD.search(each.name))
        inside += sorted(str(each) for each in path.iterdir() if each.name.endswith(SUFFIXES))[:4]
        hint = " `mnasnet train DATA -o RUN` makes one."
        if (path / "run.json").is_file():
            hint = f" Its run has no whole epoch yet: mnasnet train --resume {path}"
        elif (path / "saved_model.pb").is_file():
            hint = " This is a SavedModel, whose graph is not read: name the checkpoint that it was made from."
        elif any(path.glob("*.distcp")):
            hint = " Make one file of these shards: python -m torch.distributed.checkpoint.format_utils dcp_to_torch."
        elif shards:
            hint = f" {shards[0]} is {SHARDED}."
        elif inside:
            hint = f" Name one of the checkpoints in it: {', '.join(inside)}."
        raise CheckpointError(
            f"The folder of a model is a training run's, with {RUN_MODEL}. Received: the folder {path}, without one.{hint}"
        )
    if not path.exists() and not Path(f"{path}.index").exists():
        raise _unknown(text)
    return path


def _unknown(text: str) -> CheckpointError:
    """What is said of a text that is neither a name nor a file."""
    if text.endswith(SUFFIXES) or ("/" in text.removeprefix("./") and text not in registry.names() and Path(text).suffix):
        near = did_you_mean(text, registry.names())
        return CheckpointError(
            f"A checkpoint file must exist. Received: {text}, which does not.{near} `mnasnet weights list` shows the records."
        )
    try:
        name = _member(text)[0]
    except CheckpointError:
        name = "custom" if "stem" in text else ""
    if not name:
        near = did_you_mean(text, [*registry.datasets(), *registry.names(), *FAMILY])
        return CheckpointError(f"A model must be {KINDS}. Received: {text!r}, which is none of them.{near}")
    ids = registry.names(name)
    way = f"Its checkpoints: {', '.join(ids[:4])}{', ...' if len(ids) > 4 else ''}. " if ids else "It has no checkpoints. "
    return CheckpointError(
        f"A model must have trained weights. Received: {text!r}, a network without weights. {way}A network alone is --network "
        f"{text} (network={text!r}) where one is trained or timed."
    )


@contextlib.contextmanager
def open_tensors(path: Path, kind: str | None = None) -> Iterator[TensorFile]:
    """Open a file of tensors of the kind that `kind_of` names (default: what it says of the file), or a TF1 prefix.

    The tensors can be read until the context ends. Raises CheckpointError for a file that is damaged or something else.
    """
    kind = kind or kind_of(path)
    if kind == "tf1":
        yield open_tf1(path)
    elif kind == "tar":
        with scratch() as folder:
            yield open_tf1(unpack(path, folder), path)
    elif kind == "mindspore":
        from keras_mnasnet.weights.formats.mindspore import open_mindspore

        yield open_mindspore(path)
    elif kind in ("keras", "zip") or kind in GRAPHS:
        raise CheckpointError(f"A file of tensors is needed here. Received: {path}, a whole model")
    elif kind == "pth":
        from keras_mnasnet.weights.formats.pth import open_pth

        with open_pth(path) as file:
            yield file
    else:
        with {"safetensors": open_safetensors, "h5": open_h5}[kind](path) as file:
            yield file


def _read(path: Path, kind: str, network: Architecture | None) -> Checkpoint:
    if kind == "keras":
        return read_keras(path, load_keras(path))
    if kind in ("tar", "zip"):
        with scratch() as folder:
            inside = (unpack if kind == "tar" else _unzipped)(path, folder)
            if inside.is_file():
                try:
                    found = _read(inside, _packed(inside), network)
                except CheckpointError as error:
                    raise CheckpointError(str(error).replace(str(inside), f"{path} ({inside.name})")) from error
                return dataclasses.replace(found, origin=dataclasses.replace(found.origin, name=str(path)))
            from keras_mnasnet.weights.convert import convert

            return convert(open_tf1(inside, path), network)
    return _said(_read_graph(path, kind), path) if kind in GRAPHS else _read_tensors(path, kind, network)


def _said(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """The checkpoint of a foreign file, with a warning of what was taken for granted or changed; our own says it itself."""
    if checkpoint.origin.notes and checkpoint.origin.source != OWN_SOURCE:
        logging.warning("%s: %s", path, "; ".join(checkpoint.origin.notes))
    return checkpoint


def _read_graph(path: Path, kind: str) -> Checkpoint:
    from keras_mnasnet.weights.formats.graph import recognized

    module = importlib.import_module(f"keras_mnasnet.weights.formats.{GRAPHS[kind]}")
    return recognized(getattr(module, f"read_{kind}")(path))


def _unzipped(archive: Path, folder: Path) -> Path:
    """The one file of weights in a zip archive, written into `folder`."""
    try:
        with open_zip(archive, "An archive") as members:
            names = [name for name in members.namelist() if name.endswith((*SUFFIXES, ".h5"))]
            check_limit("path", len(names[0]), "An archive")
            target = folder / PurePosixPath(names[0]).name
            with members.open(names[0]) as member, target.open("wb") as file:
                shutil.copyfileobj(member, file)
            return target
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _packed(path: Path) -> str:
    """The kind of a file from an archive; CheckpointError for an archive in the archive."""
    kind = kind_of(path)
    if kind in ("tar", "zip"):
        raise CheckpointError(f"An archive must hold a file of weights. Received: {path.name}, another archive. Unpack it")
    return kind


def _read_tensors(path: Path, kind: str, network: Architecture | None) -> Checkpoint:
    with open_tensors(path, kind) as file:
        if FORMAT not in file.metadata:
            from keras_mnasnet.weights.convert import convert

            return _said(convert(file, network), path)
        if kind != "h5":
            return described(file)
        return described(file, lambda names: h5_tensors(file, names))


def read_keras(path: Path, model: Any) -> Checkpoint:
    """The checkpoint in a `.keras` file, of which `model` is the model; CheckpointError for another one than a MnasNet's."""
    metadata = keras_header(path)
    if metadata:
        file = TensorFile(path, {}, lambda name: np.empty(0), metadata)
        return described(file, lambda names: _tensors(model, names))
    try:
        found = checkpoint_of(model)
    except ValueError as error:
        raise CheckpointError(
            f"A model must be a MnasNet: a checkpoint, a run or a .keras file of this package. Received: {path}, another Keras "
            f"model ({str(error).partition('Received: ')[2]}). `mnasnet export {path} -o FILE.tflite` takes "
            f"it, with --quantize int8 too, and predict and bench take that file."
        ) from error
    assumed = ("labels", "preprocessing") if found.classes else ("preprocessing",)
    checkpoint = dataclasses.replace(
        found, labels=registry.labels_of("google", found.classes), assumed=assumed, origin=Origin("keras", str(path))
    )
    checkpoint.check_values()
    return checkpoint


def checkpoint_of(model: Any, *, checked: bool = True) -> Checkpoint:
    """A Keras model of this package as a Checkpoint, with the labels, preprocessing and origin that it was made from.

    Of a model that was trained since, the origin says what it was made from, and no figures. ValueError for a model with other
    layers than a MnasNet's, which `checked=False` does not look for (of a model that was just built).
    """
    from keras_mnasnet.spec import check_plain, describe

    said = remembered(model)
    detector = getattr(model, "detector_spec", None)
    if detector is not None:
        tensors = _tensors(model, layer_shapes(detector.layers()))
        checkpoint = Checkpoint(
            architecture=detector.architecture,
            numerics=Numerics(
                detector.bn_epsilon,
                detector.padding,
                stem_activation=detector.architecture.stem_activation,
                normalization=detector.normalization,
            ),
            classes=len(detector.labels),
            tensors=tensors,
            size=detector.input_size[0],
            labels=detector.labels,
            preprocessing=Preprocessing(
                detector.input_size[0], "bilinear", squash=True, decoder="tensorflow", width=detector.input_size[1]
            ),
            origin=Origin(OWN_SOURCE, model.name),
            detector=detector,
        )
    else:
        spec = check_plain(model) if checked else describe(model)
        tensors = _tensors(model, expected_shapes(spec.architecture, spec.classes))
        sides = {side for side in spec.input_shape[:2] if side}
        size = min(sides) if sides else said[0].size if said else default_size(spec.architecture)
        checkpoint = Checkpoint(
            architecture=spec.architecture,
            numerics=Numerics(
                spec.bn_epsilon,
                spec.padding,
                spec.architecture.units()[0].residual,
                spec.architecture.stem_activation,
                said[0].numerics.normalization if said and not spec.include_preprocessing else spec.normalization,
            ),
            classes=spec.classes,
            tensors=tensors,
            size=size,
            labels=said[0].labels if said and said[0].classes == spec.classes else None,
            preprocessing=(said[0].preprocessing if said else registry.source_preprocessing("timm", size)).at(size),
            origin=Origin(OWN_SOURCE, model.name),
            assumed=() if said else ("preprocessing",),
        )
    if said and fingerprint(tensors) == said[1]:
        return dataclasses.replace(checkpoint, origin=said[0].origin, assumed=said[0].assumed)
    if said:
        origin = Origin(OWN_SOURCE, f"{model.name}, trained from {said[0].origin.name}", license=said[0].origin.license)
        return dataclasses.replace(checkpoint, origin=origin)
    return checkpoint


def _tensors(model: Any, names: Iterable[str]) -> dict[str, np.ndarray]:
    layers = {layer.name: iter(layer.get_weights()) for layer in model.layers}
    return {name: np.asarray(next(layers[name.rpartition("/")[0]]), np.float32) for name in names}


def save(
    model: Any,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
) -> None:
    """Write a model, a Checkpoint or any source to `.safetensors`, `.keras` or `.weights.h5`; `load(path)` gives it all again.

    `labels` (one name for each class) and `preprocessing` replace what is known of the model. The file appears whole or not at
    all. Raises ValueError for another ending, or a model that has other layers than a MnasNet's.

    Example:
        >>> from keras_mnasnet import MnasNetA1, load, save
        >>> save(MnasNetA1(weights="cifar10"), "a1.safetensors")
        >>> load("a1.safetensors").labels == load("cifar10").labels
        True
    """
    target = Path(path).expanduser()
    if not target.name.endswith((".safetensors", KERAS_SUFFIX, H5_SUFFIX)):
        raise ValueError(f"`path` must end in .safetensors, .keras or .weights.h5. Received: path={str(path)!r}")
    checkpoint = load(model)
    changes: dict[str, Any] = {}
    if labels is not None:
        changes["labels"] = tuple(map(str, texts(labels)))
    if preprocessing is not None:
        changes["preprocessing"] = preprocessing
    if changes:
        changes["assumed"] = tuple(each for each in checkpoint.assumed if each not in changes)
        checkpoint = dataclasses.replace(checkpoint, **changes)
    if target.suffix == ".safetensors":
        return write_native(checkpoint, target)
    if checkpoint.detector is not None and target.suffix != KERAS_SUFFIX:
        raise ValueError(f"A detector is saved as .safetensors or .keras. Received: path={str(path)!r}")
    return write_keras(model if _is_keras_model(model) else checkpoint.model(), target, to_header(checkpoint))


def load_weights(model: Any, source: Any, *, include_top: bool = True) -> None:
    """Load any source that `load` takes into a model of this package, which must be of the same network and numerics.

    `include_top=False` leaves the model's classifier as it is. Raises CheckpointError that says what the source needs.
    """
    from keras_mnasnet.spec import describe

    spec = describe(model)
    if spec.input_shape[-1] != 3:
        raise CheckpointError(f"Checkpoints take 3 channels (RGB). Received: a model with input_shape={spec.input_shape}")
    network = spec.architecture
    sides = [side for side in spec.input_shape[:2] if side]
    dataset = isinstance(source, str) and source in registry.datasets()
    checkpoint = load(source, network=network if dataset else None, size=min(sides) if dataset and sides else None)
    numerics: dict[str, Any] = {"bn_epsilon": spec.bn_epsilon, "padding": spec.padding}
    if spec.include_preprocessing:
        numerics["normalization"] = spec.normalization
    needs, has = [], []
    if not checkpoint.architecture.same_network(network):
        needs.append(f"the network '{checkpoint.architecture}'")
        has.append(f"'{network}'")
    for key, value in numerics.items():
        if getattr(checkpoint.numerics, key) != value:
            needs.append(f"{key}={getattr(checkpoint.numerics, key)!r}")
            has.append(f"{key}={value!r}")
    if needs:
        raise CheckpointError(
            f"{checkpoint.origin.name} needs a model with {', '.join(needs)}. Received: a model with {', '.join(has)}. Build "
            f"it with load({str(source)[:80]!r}).model(), which takes classes= and size=."
        )
    if include_top and checkpoint.classes != spec.classes:
        raise CheckpointError(
            f"{checkpoint.origin.name} has {checkpoint.classes or 'no'} classes. Received: a model with "
            f"{spec.classes or 'no'} classes. Pass include_top=False to leave the model's classifier as it is."
        )
    assign(model, checkpoint.tensors, expected_shapes(network, checkpoint.classes if include_top else 0))
    remember(model, checkpoint if include_top else dataclasses.replace(checkpoint, classes=0, labels=None))


def converted_path(record: registry.Record) -> Path:
    """Where the converted form of a record is cached; of a bundled one, its file in the package."""
    if record.bundled:
        return Path(str(resources.files("keras_mnasnet.weights") / "bundled" / record.filename))
    return cache_home() / "converted" / f"{record.id}.safetensors"


def _load_record(record: registry.Record) -> Checkpoint:
    """A record's checkpoint: from the cache (which may be read-only), else fetched, verified, converted once and cached."""
    path = converted_path(record)
    if record.bundled:
        check_sha256(path, record.sha256)
        return _cached(record, path)
    if (cached := _usable(record, path)) is not None:
        sweep_lock(path)
        return cached
    try:
        with locked(path):
            if (cached := _usable(record, path)) is not None:
                return cached
            checkpoint, sha256 = read_record(record, functools.partial(_converted, record))
            write_native(checkpoint, path, source_sha256=sha256)
            return checkpoint
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"The cache must be writable to keep {record.id}. Received: {error}. Nothing half-written was kept. "
            f"Free space there, or set KERAS_MNASNET_HOME to another folder."
        ) from error


def _converted(record: registry.Record, source: Path) -> Checkpoint:
    """The checkpoint in a record's file as its publisher wrote it, with everything that the record says."""
    logging.info("converting %s", source)
    checkpoint = _read(source, kind_of(source), None)
    if record.as_found and checkpoint.architecture.same_design(record.architecture):
        return dataclasses.replace(checkpoint, size=record.size, origin=record.origin)
    if checkpoint.classes != record.classes or not checkpoint.architecture.same_network(record.architecture):
        raise CheckpointError(
            f"{source} must hold '{record.architecture}' with {record.classes} classes. Received: '{checkpoint.architecture}' "
            f"with {checkpoint.classes} classes"
        )
    return dataclasses.replace(
        checkpoint, architecture=record.architecture, numerics=record.numerics, size=record.size,
        preprocessing=record.preprocessing, origin=record.origin, assumed=(),
    )  # fmt: skip


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
        said = read_header(file) if FORMAT in file.metadata else None
        own = said is not None and said.origin.record == record.id
        if said is None or not own or not (record.bundled or (said.source_sha256 or "").startswith(record.sha256 or "")):
            raise CheckpointError(
                f"{path} must be {record.id}, from {record.url or 'this package'}. Received: a file of another origin"
                f"{f', {shown(said.origin.record)}' if said and not own else ''}"
            )
        checkpoint = described(file)
    if record.as_found:
        return dataclasses.replace(checkpoint, origin=record.origin)
    if not checkpoint.architecture.same_network(record.architecture) or checkpoint.numerics != record.numerics:
        raise CheckpointError(f"{path} must hold {record.id}. Received: another network or other numerics")
    return dataclasses.replace(checkpoint, origin=record.origin, preprocessing=record.preprocessing)


def verify_record(record: registry.Record) -> dict[str, Any]:
    """What is cached of a record and whether it is whole; `ok` is None when nothing is cached. Fetches nothing."""
    path, placed = converted_path(record), placed_path(record)
    report: dict[str, Any] = {"id": record.id, "ok": None, "files": [], "problem": None}
    try:
        if record.bundled:
            _load_record(record)
            return report | {"ok": True, "files": [{"path": str(path), "sha256": file_sha256(path)}]}
        source_sha256 = record.sha256 or remembered_sha256(placed)
        if path.is_file():
            _cached(record, path)
            with open_tensors(path) as file:
                source_sha256 = read_header(file).source_sha256
            report["files"].append({"path": str(path), "sha256": file_sha256(path)})
        if placed.is_file():
            report["files"].append({"path": str(placed), "sha256": check_sha256(placed, source_sha256)})
            if not path.is_file():
                _converted(record, placed)
        report["ok"] = True if report["files"] else None
    except (CheckpointError, OSError) as error:
        report |= {"ok": False, "problem": str(error)}
    return report
