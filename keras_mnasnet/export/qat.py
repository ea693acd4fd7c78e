"""Quantization-aware training, and pruning: a child process trains a Keras 2 twin; its file is verified like any other.

tensorflow-model-optimization needs Keras 2 (extra `[qat]`). This process never imports it, nor tf_keras.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from keras_mnasnet import __version__
from keras_mnasnet.export.report import Card, ExportReport, Origin, publish
from keras_mnasnet.export.rewrite import rewritten
from keras_mnasnet.export.tflite import check_labels, check_options
from keras_mnasnet.model import resolve_input_shape
from keras_mnasnet.preprocessing import Normalization
from keras_mnasnet.utils.files import check_writable, replaced
from keras_mnasnet.weights.checkpoint import Checkpoint
from keras_mnasnet.weights.formats.safetensors import write_native

__all__ = ["AUGMENT", "TrainingReport", "prune", "train_quantized"]

WORKER = "keras_mnasnet.export.qat_worker"
PACKAGES = ("tf_keras", "tensorflow_model_optimization")
AUGMENT: Mapping[str, Any] = {"crop": "pad", "pad": 2, "flip": True}
LAST_LINES = 5


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingReport:
    """A file that was trained for: its export report, and the accuracies 0..1 on the validation images on the way.

    `float_accuracy` is the checkpoint's, `start_accuracy` of the quantized or symmetric-padding twin before its first step.
    Of a pruned file `sparsity` is the share of zeros in the 1x1 kernels of the stages, `dense_path` the same network written
    with its zeros, `dense_bytes` that file's size; `compressed_bytes` and `dense_compressed_bytes` are both sizes after zlib.
    """

    export: ExportReport
    float_accuracy: float
    start_accuracy: float
    epochs: tuple[dict[str, float], ...]
    seconds: float
    sparsity: float | None = None
    dense_path: str | None = None
    dense_bytes: int | None = None
    compressed_bytes: int | None = None
    dense_compressed_bytes: int | None = None

    def as_json(self) -> dict[str, Any]:
        """One JSON value: the export report's, with `training` beside it."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "export"}
        return {**self.export.as_json(), "training": own}


def train_quantized(
    checkpoint: Checkpoint, data: str | os.PathLike[str], path: str | os.PathLike[str], *, epochs: int = 3,
    batch_size: int = 64, learning_rate: float = 1e-4, input_dtype: str = "float32", seed: int = 0,
    resolution: int | None = None, augment: Mapping[str, Any] = AUGMENT, labels: Sequence[str] | None = None,
    origin: Origin | None = None, steps_per_epoch: int | None = None, max_bad: int = 0, progress: bool = False,
) -> TrainingReport:  # fmt: skip
    """Fine-tune with fake quantization and write a full int8 `.tflite` with the operators of `quantize="int8"`.

    `data` is what `data.open_images` takes, of the checkpoint's classes. The file is verified against the fake-quantized
    network. ValueError for bad arguments, ImportError without the extra `[qat]`, ChildProcessError where the training dies.
    """
    check_options("int8", input_dtype, 1, ())
    run = _Run(checkpoint, data, path, epochs, batch_size, learning_rate, seed, resolution, augment, steps_per_epoch, max_bad)
    return run.go(labels=labels, origin=origin, input_dtype=input_dtype, sparsity=None, progress=progress)


def prune(
    checkpoint: Checkpoint, data: str | os.PathLike[str], path: str | os.PathLike[str], *, sparsity: float, epochs: int = 3,
    batch_size: int = 64, learning_rate: float = 1e-3, seed: int = 0, resolution: int | None = None,
    augment: Mapping[str, Any] = AUGMENT, labels: Sequence[str] | None = None, origin: Origin | None = None,
    steps_per_epoch: int | None = None, max_bad: int = 0, progress: bool = False,
) -> TrainingReport:  # fmt: skip
    """Fine-tune the 1x1 convolutions of the stages to `sparsity` zeros and write a float32 `.tflite` with sparse weights.

    The network gets symmetric padding, which XNNPACK's sparse kernels ask for. The same network written densely lies beside
    it as NAME.dense.tflite. As `train_quantized` otherwise.
    """
    if not 0 < sparsity < 1:
        raise ValueError(f"`sparsity` must be between 0 and 1, both excluded. Received: sparsity={sparsity!r}")
    run = _Run(checkpoint, data, path, epochs, batch_size, learning_rate, seed, resolution, augment, steps_per_epoch, max_bad)
    return run.go(labels=labels, origin=origin, input_dtype="float32", sparsity=sparsity, progress=progress)


@dataclasses.dataclass(slots=True)
class _Run:
    checkpoint: Checkpoint
    data: str | os.PathLike[str]
    path: str | os.PathLike[str]
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    resolution: int | None
    augment: Mapping[str, Any]
    steps_per_epoch: int | None
    max_bad: int

    def go(
        self, *, labels: Sequence[str] | None, origin: Origin | None, input_dtype: str, sparsity: float | None, progress: bool
    ) -> TrainingReport:
        """Train in a child process, then verify and write."""
        self._check()
        names = (self.checkpoint.labels or None) if labels is None else labels
        names = check_labels(names, (None, self.checkpoint.classes))
        started = time.perf_counter()
        size = self.checkpoint.size if self.resolution is None else self.resolution
        with tempfile.TemporaryDirectory(prefix="keras_mnasnet-") as temporary:
            folder = Path(temporary)
            write_native(self.checkpoint, folder / "start.safetensors")
            options = ("epochs", "batch_size", "learning_rate", "seed", "steps_per_epoch", "max_bad")
            files = {"checkpoint": "start.safetensors", "images": "images.npy", "expected": "expected.npy"}
            files |= {"output": "out.tflite", "dense": "dense.tflite"}
            job = {
                **{key: getattr(self, key) for key in options},
                **{key: str(folder / name) for key, name in files.items()},
                "data": os.fspath(self.data), "size": size, "augment": dict(self.augment), "prune": sparsity,
                "input_dtype": input_dtype,
            }  # fmt: skip
            (folder / "job.json").write_text(json.dumps(job), "utf-8")
            events = _work(folder / "job.json", self.epochs, progress)
            images, expected = np.load(folder / "images.npy"), np.load(folder / "expected.npy")
            content = (folder / "out.tflite").read_bytes()
            dense = (folder / "dense.tflite").read_bytes() if sparsity else None
        seconds = time.perf_counter() - started
        network = f"mnasnet_{self.checkpoint.architecture.name}"
        what = "int8, quantization-aware training" if sparsity is None else f"float32, pruned to {sparsity:.0%}"
        card = Card(
            name=network, description=f"{network}, {what}, made by keras_mnasnet {__version__}", origin=origin or Origin(),
            labels=names, normalization=Normalization(), preprocessing=self.checkpoint.preprocessing.at(size),
        )  # fmt: skip
        content, silent = rewritten(
            content, input_names=["image"], output_names=["scores"], description=card.description,
            metadata=card.metadata("image", ["scores"], (size, size)),
        )  # fmt: skip
        position = {image.tobytes(): row for image, row in zip(images, expected, strict=True)}
        beside = Path(self.path).expanduser().with_suffix(".dense.tflite")
        with contextlib.ExitStack() as both:  # both files, or none
            if dense is not None:
                both.enter_context(replaced(beside)).write_bytes(dense)
            report = publish(
                content, self.path, card, quantize="int8" if sparsity is None else None,
                route="quantization-aware training" if sparsity is None else "pruning", seconds=seconds, calibration=None,
                oracle=lambda chunk: {"scores": np.stack([position[image.tobytes()] for image in chunk])},
                against="the fake-quantized twin" if sparsity is None else "the pruned twin", images=images,
                images_name=f"{len(images)} validation images", progress=False, silent_layers=silent,
            )  # fmt: skip
        own: dict[str, Any] = {}
        if dense is not None:
            own = {
                "dense_path": str(beside), "sparsity": events["done"]["sparsity"], "dense_bytes": len(dense),
                "compressed_bytes": len(zlib.compress(content)), "dense_compressed_bytes": len(zlib.compress(dense)),
            }  # fmt: skip
        return TrainingReport(
            export=report, float_accuracy=events["start"]["float_accuracy"], start_accuracy=events["ready"]["accuracy"],
            epochs=tuple(events["epochs"]), seconds=round(seconds, 1), **own,
        )  # fmt: skip

    def _check(self) -> None:
        for key, least in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("max_bad", 0)):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"`{key}` must be an integer >= {least}. Received: {key}={value!r}")
        steps = self.steps_per_epoch
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
            raise ValueError(
                f"`steps_per_epoch` must be an integer >= 1, or None for all images. Received: steps_per_epoch={steps!r}"
            )
        if self.resolution is not None:
            resolve_input_shape((self.resolution, self.resolution, 3))
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"`learning_rate` must be between 0 and 1. Received: learning_rate={self.learning_rate!r}")
        if not self.checkpoint.classes:
            raise ValueError("`checkpoint` must have a classifier. Received: one without")
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(
                f"Quantization-aware training and pruning need {' and '.join(missing)}, not installed here. "
                f"Run: pip install 'keras_mnasnet[qat]'"
            )
        check_writable(self.path)


def _work(job: Path, epochs: int, progress: bool) -> dict[str, Any]:
    """Run the worker and gather its events; ChildProcessError, with its last lines, where it dies."""
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    found: dict[str, Any] = {"epochs": []}
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [sys.executable, "-m", WORKER, str(job)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            env=environment, text=True,
        ) as child,
        tqdm.tqdm(desc="preparing", unit="step", disable=not (progress and sys.stderr.isatty()), leave=False) as bar,
    ):  # fmt: skip
        try:
            for line in child.stdout or ():
                event = json.loads(line)
                _follow(event, found, bar, epochs)
                if progress and not sys.stderr.isatty() and "val_accuracy" in event:
                    print(f"epoch {event['epoch']}/{epochs}: val accuracy {event['val_accuracy']:.4f}", file=sys.stderr)
        except BaseException:
            child.kill()
            raise
        status = child.wait()
        log.seek(0)
        last = log.read().decode("utf-8", "replace").strip().splitlines()[-LAST_LINES:]
    if "refused" in found:
        raise ValueError(found["refused"]["message"])
    if status or "done" not in found:
        ending = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        raise ChildProcessError(f"The training process must reach its end. Received: {ending}: {' | '.join(last)}")
    return found


def _follow(event: dict[str, Any], found: dict[str, Any], bar: Any, epochs: int) -> None:
    kind = event.pop("event")
    if kind == "step":
        bar.update()
    elif kind == "epoch":
        found["epochs"].append(event)
        bar.set_description(f"epoch {min(event['epoch'] + 1, epochs)}/{epochs}")
        bar.set_postfix_str(f"val accuracy {event['val_accuracy']:.4f}")
    else:
        found[kind] = event
        if kind == "start":
            bar.total = event["steps"] * epochs
            bar.set_description(f"epoch 1/{epochs}")
