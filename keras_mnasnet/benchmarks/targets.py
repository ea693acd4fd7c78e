"""What a latency is measured of: a `.tflite` file, a network by name, or a checkpoint's record, each as a file."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.family import FAMILY, as_architecture, default_size

__all__ = ["PRECISIONS", "SYNTAX", "Target", "parse_target", "stages"]

PRECISIONS = {"float32": "float32", "float16": "float16", "weight-int8": "weight-int8", "int8": "int8-random"}
SYNTAX = (
    "a .tflite file, a network (a1, b1, small, ...; with a width: a1-0.5; or a text form) or a record id, "
    "the last two with [@RESOLUTION][:PRECISION]"
)
NAMED = re.compile(r"(?P<network>.+?)(?:@(?P<resolution>\d+))?(?::(?P<precision>[\w-]+))?", re.DOTALL)
IDENTIFIER = b"TFL3"


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """One thing to measure: `path` of a file, or an `architecture`, with a `checkpoint` or random weights, to be written."""

    name: str
    path: Path | None = None
    architecture: Architecture | None = None
    checkpoint: Any = dataclasses.field(default=None, repr=False, compare=False)
    resolution: int | None = None
    precision: str = "float32"
    classes: int = 1000

    @property
    def source(self) -> str:
        """Where the weights are from."""
        if self.path is not None:
            return "file"
        weights = "random weights" if self.checkpoint is None else "the record's weights"
        return f"{weights}, written directly{'; invented activation ranges' if self.precision == 'int8' else ''}"

    @property
    def madds(self) -> int | None:
        """Multiply-adds of a network."""
        if self.architecture is None or self.resolution is None:
            return None
        return self.architecture.madds(self.resolution, self.resolution, classes=self.classes)

    def write(
        self, folder: Path, *, seed: int, preprocessing: bool, parts: tuple[str | None, ...] = (None,), number: int = 0
    ) -> list[Path]:
        """The network's `.tflite` in `folder`, or one file for each part after which it shall end; a file is itself."""
        if self.path is not None or self.architecture is None or self.resolution is None:
            return [Path(self.path or "")]
        from keras_mnasnet.export.graph import write_graph
        from keras_mnasnet.export.weights import folded_weights, random_weights

        options: dict[str, Any] = {"height": self.resolution, "width": self.resolution, "preprocessing": preprocessing}
        if self.checkpoint is None:
            weights = random_weights(self.architecture, classes=self.classes, seed=seed)
        else:
            numerics = self.checkpoint.numerics
            options["padding"] = numerics.padding
            weights = folded_weights(
                self.architecture, self.checkpoint.tensors, classes=self.classes, bn_epsilon=numerics.bn_epsilon
            )
        written = []
        for part in parts:
            content = write_graph(
                self.architecture, weights, classes=self.classes, precision=PRECISIONS[self.precision],
                description=f"{self.name}, for timing", until=part, **options,
            )  # fmt: skip
            written.append(folder / f"{number}-{part or 'whole'}.tflite")
            written[-1].write_bytes(content)
        return written


def parse_target(model: str | os.PathLike[str], *, resolution: int | None = None) -> Target:
    """Read what to measure (SYNTAX); `resolution` is for networks that state none. ValueError says what is wrong with it."""
    text = os.fspath(model)
    if resolution is not None and (isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < 32):
        raise ValueError(f"`resolution` must be an integer of 32 pixels or more. Received: resolution={resolution!r}")
    path = Path(text).expanduser()
    if path.suffix == ".tflite" or (path.is_file() and text not in FAMILY):
        return Target(text, path=_checked_file(path, text), resolution=resolution)
    match = NAMED.fullmatch(text)
    name, size, stated = match.groups() if match else (text, None, None)
    precision = stated or "float32"
    if precision not in PRECISIONS:
        raise ValueError(f"A precision is one of {', '.join(PRECISIONS)}. Received: {precision!r} in {text!r}")
    asked = int(size) if size else resolution
    if asked is not None and asked < 32:
        raise ValueError(f"A resolution must be 32 pixels or more. Received: {text!r}")
    if "/" in name:
        return _record_target(text, name, asked, precision)
    try:
        architecture = _network(name)
    except ValueError as error:
        raise ValueError(f"A model must be {SYNTAX}. {error}") from error
    return Target(text, architecture=architecture, resolution=asked or default_size(architecture), precision=precision)


def _network(text: str) -> Architecture:
    """A network with an optional width multiplier, as scaled networks are named: `a1-0.75`."""
    name, _, width = text.rpartition("-")
    if text not in FAMILY and name in FAMILY and re.fullmatch(r"\d+(\.\d+)?", width):
        return FAMILY[name].scaled(float(width))
    return as_architecture(text)


def _checked_file(path: Path, text: str) -> Path:
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "which does not exist"
        raise ValueError(f"A .tflite file must exist. Received: {text}, {kind}")
    with path.open("rb") as file:
        start = file.read(8)
    if start[4:] != IDENTIFIER:
        raise ValueError(
            f"A .tflite file has {IDENTIFIER.decode()} at byte 4. Received: {text} ({path.stat().st_size:,} bytes), "
            f"which begins with {start!r}"
        )
    return path


def _record_target(text: str, record_id: str, resolution: int | None, precision: str) -> Target:
    from keras_mnasnet.weights import load_record, registry

    if record_id not in registry.names() and Path(record_id).exists():
        raise ValueError(f"A model must be {SYNTAX}. Received: {record_id}, which is a folder")
    checkpoint = load_record(registry.get(record_id))
    if not checkpoint.classes:
        raise ValueError(f"A model must be a classifier. Received: {record_id}, which has none")
    return Target(
        text, architecture=checkpoint.architecture, checkpoint=checkpoint, precision=precision, classes=checkpoint.classes,
        resolution=resolution or checkpoint.resolution or 224,
    )  # fmt: skip


def stages(architecture: Architecture, resolution: int, classes: int) -> dict[str, int]:
    """The parts of a network, stem to classifier, with their multiply-adds; `classifier` is the mean and the dense layer."""
    found: dict[str, int] = {}
    for layer in architecture.layers(resolution, resolution, classes=classes):
        block = re.match(r"block\d+", layer.name)
        part = block[0] if block else {"stem_conv": "stem", "head_conv": "head"}.get(layer.name, "classifier")
        found[part] = found.get(part, 0) + layer.madds
    return found
