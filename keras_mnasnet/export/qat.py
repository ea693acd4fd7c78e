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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet import __version__
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.export.report import Description, ExportReport, publish
from keras_mnasnet.export.rewrite import rewritten
from keras_mnasnet.export.tflite import check_labels, check_options, check_target, classifier
from keras_mnasnet.export.verify import accepting
from keras_mnasnet.loading import save
from keras_mnasnet.model import resolve_input_shape
from keras_mnasnet.preprocessing import Augment, Normalization
from keras_mnasnet.training.job import read_run, run_of
from keras_mnasnet.utils.files import replaced, scratch
from keras_mnasnet.utils.reading import parse_json
from keras_mnasnet.utils.text import Life, header, say
from keras_mnasnet.weights.checkpoint import Checkpoint

WORKER = "keras_mnasnet.export.qat_worker"
PACKAGES = ("tf_keras", "tensorflow_model_optimization")
AUGMENT = Augment(crop="pad", pad=2)
LAST_LINES = 5
QAT = "QAT int8"  # of verify.LIMITS


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingReport:
    """A file that was trained for: its export report, and the accuracies 0..1 on the validation images on the way.

    `float_accuracy` is the checkpoint's, `start_accuracy` of the quantized or symmetric-padding twin before its first step.
    `data` is what was read, as a Summary's JSON. Of a pruned file `sparsity` is the share of zeros in the 1x1 kernels of the
    stages, `dense_path` the same network written with its zeros, `dense_bytes` that file's size; `compressed_bytes` and
    `dense_compressed_bytes` are both sizes after zlib.
    """

    export: ExportReport
    float_accuracy: float
    start_accuracy: float
    epochs: tuple[dict[str, float], ...]
    seconds: float
    data: dict[str, Any]
    sparsity: float | None = None
    dense_path: str | None = None
    dense_bytes: int | None = None
    compressed_bytes: int | None = None
    dense_compressed_bytes: int | None = None

    def as_json(self) -> dict[str, Any]:
        """One JSON value: the export report's, with `training` and `data` beside it."""
        beside = ("export", "data")
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in beside}
        return {**self.export.as_json(), "data": self.data, "training": own}


def quantize_aware(
    model: Any, data: str | os.PathLike[str], path: str | os.PathLike[str], *, epochs: int = 3, batch_size: int = 64,
    learning_rate: float = 1e-4, input_dtype: str = "float32", size: int | None = None,
    network: Architecture | str | None = None, labels: Sequence[str] | None = None,
    validation: str | os.PathLike[str] | float | None = None, augment: Augment | None = None,
    steps_per_epoch: int | None = None, accept_changed: float | None = None, seed: int = 0, max_bad: int = 0,
    progress: bool = True,
) -> TrainingReport:  # fmt: skip
    """Fine-tune with fake quantization and write a full int8 `.tflite` with the operators of `quantize="int8"`.

    Args:
        model: any source that `load` takes, a Checkpoint, or a Keras model of this package.
        data: labeled photos of the model's classes, as `open_images` takes them; `validation` as `open_splits`.
        input_dtype: "uint8" or "int8": input and output are then of that type.
        learning_rate: a cosine starts there.
        size: input size in pixels; the model's own by default. `labels` stand in the file in place of the model's.
        augment: how photos are varied; default: as in the training run that the model is of, else moved by up to 2 pixels
            and flipped.
        steps_per_epoch: at most so many; `max_bad` damaged photos are passed over.
        accept_changed: as of `export`.

    The file is verified against the fake-quantized network. Raises ValueError for bad arguments, ImportError without the
    extra `[qat]`, ChildProcessError where the training dies, ExportError where the file is not the network.

    Example:
        from keras_mnasnet.export import quantize_aware
        report = quantize_aware("runs/flowers", "flowers", "flowers_qat.tflite", input_dtype="uint8")
    """
    check_options("int8", input_dtype, 1, ())
    accepting(QAT, accept_changed)
    job = _Job(data, path, epochs, batch_size, learning_rate, size, validation, augment, steps_per_epoch, seed, max_bad)
    return job.run(model, network, labels, input_dtype, None, progress, accept_changed)


def prune(
    model: Any, data: str | os.PathLike[str], path: str | os.PathLike[str], *, sparsity: float, epochs: int = 3,
    batch_size: int = 64, learning_rate: float = 1e-3, size: int | None = None, network: Architecture | str | None = None,
    labels: Sequence[str] | None = None, validation: str | os.PathLike[str] | float | None = None,
    augment: Augment | None = None, steps_per_epoch: int | None = None, seed: int = 0, max_bad: int = 0, progress: bool = True,
) -> TrainingReport:  # fmt: skip
    """Fine-tune the 1x1 convolutions of the stages to `sparsity` zeros and write a float32 `.tflite` with sparse weights.

    The network gets symmetric padding, which XNNPACK's sparse kernels ask for. The same network written densely lies beside
    it as NAME.dense.tflite. As `quantize_aware` otherwise.

    Example:
        from keras_mnasnet.export import prune
        report = prune("runs/flowers", "flowers", "flowers_sparse.tflite", sparsity=0.8)
    """
    if not 0 < sparsity < 1:
        raise ValueError(f"`sparsity` must be between 0 and 1, both excluded. Received: sparsity={sparsity!r}")
    job = _Job(data, path, epochs, batch_size, learning_rate, size, validation, augment, steps_per_epoch, seed, max_bad)
    return job.run(model, network, labels, "float32", sparsity, progress)


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    data: str | os.PathLike[str]
    path: str | os.PathLike[str]
    epochs: int
    batch_size: int
    learning_rate: float
    size: int | None
    validation: str | os.PathLike[str] | float | None
    augment: Augment | None
    steps_per_epoch: int | None
    seed: int
    max_bad: int

    def run(
        self, model: Any, network: Architecture | str | None, labels: Sequence[str] | None, input_dtype: str,
        sparsity: float | None, progress: bool, accept_changed: float | None = None,
    ) -> TrainingReport:  # fmt: skip
        """Train in a child process, then verify and write."""
        check_training(
            self.path, self.learning_rate, epochs=self.epochs, batch_size=self.batch_size, seed=self.seed,
            max_bad=self.max_bad, steps_per_epoch=self.steps_per_epoch,
        )  # fmt: skip
        if self.size is not None:
            resolve_input_shape((self.size, self.size, 3))
        checkpoint = classifier(model, network=network, size=self.size)
        known = checkpoint.labels
        names = check_labels(known if labels is None else labels, (None, checkpoint.classes), own=known)
        size = checkpoint.size if self.size is None else self.size
        augment, whose = self._augmentation(checkpoint)
        started = time.perf_counter()
        what = "int8, quantization-aware training" if sparsity is None else f"float32, pruned to {sparsity:.0%}"
        header(
            {
                "model": checkpoint.origin, "network": checkpoint.architecture.name, "input": f"{size} x {size} pixels",
                "training": f"{what}; {self.epochs} epochs, batches of {self.batch_size}, learning rate {self.learning_rate:g}",
                "augmentation": whose, "data": os.fspath(self.data), "output": os.fspath(self.path),
            },
            shown=progress,
        )  # fmt: skip
        with scratch() as temporary:
            job = dataclasses.replace(self, augment=augment)
            events = job._trained(checkpoint, temporary, size, input_dtype, sparsity, progress)
            images, expected = (np.load(temporary / f"{name}.npy") for name in ("images", "expected"))
            content = (temporary / "out.tflite").read_bytes()
            dense = (temporary / "dense.tflite").read_bytes() if sparsity else None
        seconds = time.perf_counter() - started
        name = f"mnasnet_{checkpoint.architecture.name}"
        description = Description(
            name=name, text=f"{name}, {what}, made by keras_mnasnet {__version__}", origin=checkpoint.origin,
            labels=names, normalization=Normalization(), preprocessing=checkpoint.preprocessing.at(size),
        )  # fmt: skip
        content, silent = rewritten(
            content, input_names=["image"], output_names=["scores"], description=description.text,
            metadata=description.metadata("image", ["scores"], (size, size, 3)),
        )  # fmt: skip
        position = {image.tobytes(): row for image, row in zip(images, expected, strict=True)}
        beside = Path(self.path).expanduser().with_suffix(".dense.tflite")
        with contextlib.ExitStack() as both:  # both files, or none
            if dense is not None:
                both.enter_context(replaced(beside)).write_bytes(dense)
            report = publish(
                content, self.path, description, quantize="int8" if sparsity is None else None,
                route="quantization-aware training" if sparsity is None else "pruning", seconds=seconds, calibration=None,
                oracle=lambda chunk: {"scores": np.stack([position[image.tobytes()] for image in chunk])},
                against="the fake-quantized twin" if sparsity is None else "the pruned twin", images=images,
                images_name=f"{len(images)} validation images", progress=progress, silent_layers=silent,
                precision=QAT if sparsity is None else "float32", accept_changed=accept_changed,
            )  # fmt: skip
        own: dict[str, Any] = {}
        if dense is not None:
            own = {
                "dense_path": str(beside), "sparsity": events["pruned"]["sparsity"], "dense_bytes": len(dense),
                "compressed_bytes": len(zlib.compress(content)), "dense_compressed_bytes": len(zlib.compress(dense)),
            }  # fmt: skip
        if progress:
            say(f"wrote {report.path} ({report.facts.bytes:,} bytes). Next: mnasnet bench accuracy {report.path} --data DATA")
        return TrainingReport(
            export=report, float_accuracy=events["start"]["float_accuracy"], start_accuracy=events["ready"]["accuracy"],
            epochs=tuple(events["epochs"]), seconds=round(seconds, 1), data=events["data"]["read"], **own,
        )  # fmt: skip

    def _augmentation(self, checkpoint: Checkpoint) -> tuple[Augment, str]:
        """How photos are varied, and whose way that is."""
        if self.augment is not None:
            return self.augment, "as asked"
        if (folder := run_of(checkpoint.origin.name)) is not None:
            return read_run(folder)[0].recipe.augment, f"that of the run {folder}"
        return AUGMENT, f"moved by up to {AUGMENT.pad} pixels, flipped"

    def _trained(
        self, checkpoint: Checkpoint, folder: Path, size: int, input_dtype: str, sparsity: float | None, progress: bool
    ) -> dict[str, Any]:
        """The worker's events; its files are in the folder."""
        save(checkpoint, folder / "start.safetensors")
        files = {"checkpoint": "start.safetensors", "images": "images.npy", "expected": "expected.npy"}
        files |= {"output": "out.tflite", "dense": "dense.tflite"}
        named = isinstance(self.validation, str | os.PathLike)
        job = {
            **dataclasses.asdict(self), "data": os.fspath(self.data), "path": os.fspath(self.path), "size": size,
            "validation": os.fspath(self.validation) if named else self.validation,  # type: ignore[arg-type]
            "prune": sparsity, "input_dtype": input_dtype, **{key: str(folder / name) for key, name in files.items()},
        }  # fmt: skip
        (folder / "job.json").write_text(json.dumps(job), "utf-8")
        return work(WORKER, folder / "job.json", self.epochs, self.batch_size, progress)


def check_training(
    path: str | os.PathLike[str], learning_rate: float, *, epochs: int, batch_size: int, seed: int, max_bad: int,
    steps_per_epoch: int | None,
) -> None:  # fmt: skip
    """ValueError, OSError or ImportError, before any work, for what no training in a child process can do."""
    for key, value, least in (
        ("epochs", epochs, 1), ("batch_size", batch_size, 1), ("seed", seed, 0), ("max_bad", max_bad, 0),
    ):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"`{key}` must be an integer >= {least}. Received: {key}={value!r}")
    steps = steps_per_epoch
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ValueError(
            f"`steps_per_epoch` must be an integer >= 1, or None for all images. Received: steps_per_epoch={steps!r}"
        )
    if not 0 < learning_rate < 1:
        raise ValueError(f"`learning_rate` must be between 0 and 1. Received: learning_rate={learning_rate!r}")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"Quantization-aware training and pruning need {' and '.join(missing)}, not installed here. "
            f"Run: pip install 'keras_mnasnet[qat]'"
        )
    check_target(path)


def work(worker: str, job: Path, epochs: int, batch: int, progress: bool) -> dict[str, Any]:
    """Run the module `worker` and gather its events; ChildProcessError, with its last lines, where it dies."""
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    found: dict[str, Any] = {"epochs": []}
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [sys.executable, "-m", worker, str(job)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            env=environment, text=True,
        ) as child,
    ):  # fmt: skip
        try:
            events = _gathered(child.stdout or (), found, epochs, progress)
            with Life("prepare the twin", shown=progress):
                for event in events:
                    if event["event"] in ("ready", "refused"):
                        break
            steps = epochs * found["start"]["steps"] if "start" in found else None
            with Life("train", total=steps, shown=progress) as life:
                began = time.perf_counter()
                for event in events:
                    if event["event"] == "step":
                        speed = batch * (life.done + 1) / (time.perf_counter() - began)
                        life.step(note=f"loss {event['loss']:.3f}, {speed:.{0 if speed >= 10 else 1}f} images/s")
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


def _gathered(lines: Any, found: dict[str, Any], epochs: int, progress: bool) -> Iterator[dict[str, Any]]:
    """The worker's events, kept in `found`; what the data is, and what an epoch gave, is said."""
    for line in lines:
        event = parse_json(line, "What the training process says")
        kind = event["event"]
        if kind == "epoch":
            found["epochs"].append({key: value for key, value in event.items() if key != "event"})
            if progress:
                figures = [f"{key} {event[key]:.4f}" for key in event if key not in ("event", "epoch")]
                say(f"epoch {event['epoch']}/{epochs}: {', '.join(figures).replace('val_', 'validation ')}")
        elif kind != "step":
            found[kind] = event
        if kind == "data":
            header(event["rows"], shown=progress)
        yield event
