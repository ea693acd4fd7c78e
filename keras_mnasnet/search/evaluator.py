"""Trials of networks: build, measure latency, train the proxy recipe, validate; and the images that each of these sees."""

from __future__ import annotations

import dataclasses
import functools
import gc
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.data.summary import Summary, kinds
from keras_mnasnet.search.executors import GROWING
from keras_mnasnet.search.latency import DeviceGone, Latency, LatencyModel, parse_device
from keras_mnasnet.search.trials import Failure, Measurement, Request, Trial
from keras_mnasnet.utils.system import held_stderr

if TYPE_CHECKING:
    import keras

    from keras_mnasnet.data import ImageSet
    from keras_mnasnet.training.recipe import Recipe
    from keras_mnasnet.weights.checkpoint import Checkpoint

VALIDATION_FRACTION = HOLDOUT = 0.1
VALIDATION_SEED = 0  # fixed: the same images are held out in every study and for every seed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NetworkEvaluator:
    """Called with a Trial, returns a Measurement. Pickles; data and devices are opened once in each process.

    `device` None: the trial brings the latency, or the space has a cost. `resolution` is of training and of latency.
    `device_options` go to `parse_device`. `steps` ends every training early, to see what a trial costs. `inherit` is a source
    that `load` takes, whose weights the networks begin with.
    """

    data: str
    recipe: Recipe
    resolution: int
    device: str | None = None
    images: int | None = None
    validation_images: int | None = None
    device_options: tuple[tuple[str, Any], ...] = ()
    steps: int | None = None
    inherit: str | None = None

    def __call__(self, trial: Trial) -> Measurement:
        """Measure, train, validate; what went wrong is in the result's failure."""
        if trial.architecture is None:
            raise ValueError(f"This evaluator trains networks. Received: trial {trial.number}, which is none")
        began = time.perf_counter()
        try:
            images = _images(self.data, self.images, self.validation_images)
        except (ValueError, OSError, ImportError) as error:
            return Measurement(failure=Failure("data", str(error)))
        architecture = Architecture.parse(trial.architecture)
        seconds = {"open_data": time.perf_counter() - began}
        found: dict[str, Any] = {
            "params": architecture.params(classes=images.classes),
            "madds": architecture.madds(self.resolution, self.resolution, classes=images.classes),
        }
        details: dict[str, Any] = {}
        if trial.latency_ms is not None:
            found |= {"latency_ms": trial.latency_ms, "latency_source": trial.latency_source}
        elif self.device is not None:
            measured = time.perf_counter()
            try:
                latency = self.measured(architecture, images.classes)
            except DeviceGone as error:
                return Measurement(failure=Failure("device", str(error)))
            seconds["latency"] = time.perf_counter() - measured
            found |= {"latency_ms": latency.latency_ms, "latency_source": latency.source}
            details["latency"] = {**latency.details, "extrapolated": latency.extrapolated}
        return self._trained(trial, architecture, images, found, seconds, details)

    def measured(self, architecture: Architecture, classes: int) -> Latency:
        """The network's latency on `device`."""
        if self.device is None:
            raise ValueError("A latency needs a device. Received: device=None")
        return measured_latency(self.device, self.device_options, architecture, self.resolution, classes)

    def _trained(
        self, trial: Trial, architecture: Architecture, images: Any, found: dict[str, Any], seconds: dict[str, float],
        details: dict[str, Any],
    ) -> Measurement:  # fmt: skip
        import keras
        from safetensors.numpy import load as loaded
        from safetensors.numpy import save as saved

        from keras_mnasnet.training import Diverged, train_short

        request = trial if isinstance(trial, Request) else None
        begun = time.perf_counter()
        total = images.train.steps_per_epoch(self.recipe.batch_size) * self.recipe.epochs
        steps, state = self.steps, None
        if request is not None:
            steps = steps or steps_of(request.share, total)
            if request.state is not None:
                state = loaded(request.state), steps_of(request.begun, total)
        try:
            source = self._source(request, images.train.labels) if state is None else None
        except (ValueError, OSError) as error:
            return Measurement(failure=Failure("data", str(error)))
        seconds["open_source"] = time.perf_counter() - begun

        def prepare(model: keras.Model) -> None:
            if source is not None:
                share = _inherited(model, architecture, source, images.train.labels)
                details["inherited"] = {"source": source.origin.name, "trial": trial.start, "share": share}

        try:
            run = train_short(
                architecture, images.train, images.validation, self.recipe, size=self.resolution, steps=steps,
                prepare=prepare, state=state,
            )  # fmt: skip
        except Diverged as error:
            return Measurement(**found, seconds=seconds, failure=Failure("nan", str(error)), details=details)
        seconds |= run.seconds
        details |= {"loss": run.loss, "steps": run.steps, "begun": 0 if state is None else state[1]}
        cleared = time.perf_counter()
        accuracy, kept = run.accuracy, None
        if request is not None and request.keeps:
            whole = request.keeps == "all"
            kept = saved({name: value for name, value in run.state.items() if whole or name.startswith("model:")})
        del run
        keras.backend.clear_session(free_memory=False)
        gc.collect()
        seconds["clear"] = time.perf_counter() - cleared
        return Measurement(accuracy=accuracy, **found, seconds=seconds, details=details, kept=kept)

    def _source(self, request: Request | None, labels: tuple[str, ...]) -> Checkpoint | None:
        """What the network begins with: another trial's weights, or those of `inherit`; None for fresh ones."""
        if request is not None and request.weights is not None:
            return _of_trial(*request.weights, labels, self.resolution, f"trial {request.start}")
        return None if self.inherit is None else _loaded(self.inherit)


def steps_of(share: float, total: int) -> int:
    """The steps of a training up to a share of it; one at least."""
    return max(1, round(share * total))


@functools.lru_cache(maxsize=1)
def _loaded(source: str) -> Checkpoint:
    from keras_mnasnet.loading import load

    return load(source)


def _of_trial(architecture: str, state: bytes, labels: tuple[str, ...], size: int, name: str) -> Checkpoint:
    """The network in the state of a training."""
    from safetensors.numpy import load as loaded

    from keras_mnasnet.applications import DEFAULT_NUMERICS
    from keras_mnasnet.preprocessing import small_margin
    from keras_mnasnet.weights.checkpoint import OWN_SOURCE, Checkpoint, Origin, expected_shapes

    named = {name.split(":", 2)[-1]: value for name, value in loaded(state).items() if name.startswith("model:")}
    network = Architecture.parse(architecture)
    tensors = {name: named[name] for name in expected_shapes(network, len(labels))}
    return Checkpoint(
        network, DEFAULT_NUMERICS, len(labels), tensors, size, labels, small_margin(size), Origin(OWN_SOURCE, name)
    )


def _inherited(model: keras.Model, architecture: Architecture, source: Checkpoint, labels: tuple[str, ...]) -> float:
    """Give a fresh model what it can inherit; the share of its parameters that it did."""
    from keras_mnasnet.applications import DEFAULT_NUMERICS
    from keras_mnasnet.loading import checkpoint_of
    from keras_mnasnet.search.inherit import inherit
    from keras_mnasnet.weights.checkpoint import assign, expected_shapes

    found = inherit(source, architecture, checkpoint_of(model, checked=False).tensors, DEFAULT_NUMERICS, labels)
    assign(model, found.tensors, expected_shapes(architecture, len(labels)))
    return found.share


def fixed_cost(seconds: dict[str, float]) -> float:
    """The seconds of a trial that are not training steps; opening data and source, once in each process, is left out."""
    return sum(value for phase, value in seconds.items() if phase not in ("training_steps", "open_data", "open_source"))


@functools.lru_cache(maxsize=2)
def _images(data: str, images: int | None, validation_images: int | None) -> Any:
    """The data, decoded into memory where it fits."""
    for name, value in {"TF_CPP_MIN_LOG_LEVEL": "3", **GROWING}.items():
        os.environ.setdefault(name, value)
    with held_stderr():
        import tensorflow as tf

        from keras_mnasnet.training.classifier import in_memory

        on_cpu = not tf.config.list_physical_devices("GPU")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it takes every new network for a mistake
    if on_cpu:  # rewriting a graph costs two to three seconds of a core, and no network here ran faster for it
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

    found = open_search_images(data, images=images, validation_images=validation_images)
    return dataclasses.replace(found, train=in_memory(found.train), validation=in_memory(found.validation))


def measured_latency(
    device: str, options: tuple[tuple[str, Any], ...], architecture: Architecture, resolution: int, classes: int
) -> Latency:  # fmt: skip
    """The network's latency on a device that is opened once in each process."""
    return _latency_model(device, options).latency_ms(architecture, resolution, classes)


@functools.lru_cache(maxsize=4)
def _latency_model(device: str, options: tuple[tuple[str, Any], ...]) -> LatencyModel:
    return parse_device(device, **dict(options))


@dataclasses.dataclass(frozen=True, slots=True)
class SearchImages:
    """`train` and `validation` are parts of the training split of `source`; `test` is its test (else validation) split, or the
    share `holdout` of undivided data, which no candidate sees."""

    source: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    test_is: str
    holdout: float

    @property
    def classes(self) -> int:
        """How many."""
        return len(self.train.labels)

    def summary(self) -> Summary:
        """What was read, for programs."""
        from keras_mnasnet.data.opening import summarize

        parts = {
            "train": (self.train, "the training split"), "validation": (self.validation, "the same split, to choose by"),
            "test": (self.test, self.test_is),
        }  # fmt: skip
        return summarize(self.source, parts)

    def __str__(self) -> str:
        counts = np.bincount(self.train.label_ids, minlength=self.classes)
        each = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
        beside = f"; passed over: {kinds(self.train.passed_over)}" if self.train.passed_over else ""
        return (
            f"{self.classes:,} classes; {self.train.count:,} photos to train on ({each} of a class), {self.validation.count:,} "
            f"of the same split to choose by, {self.test.count:,} for retrain ({self.test_is}){beside}"
        )


def located(data: str) -> str:
    """`cifar10` is the folder of that name in KERAS_MNASNET_DATA, else TensorFlow Datasets'; paths become absolute."""
    path = Path(data).expanduser()
    if path.exists():
        return str(path.absolute())
    beside = os.environ.get("KERAS_MNASNET_DATA")
    if data == "cifar10":
        return str(Path(beside).absolute() / data) if beside and (Path(beside) / data).is_dir() else "tfds:cifar10"
    return data


def open_search_images(data: str, *, images: int | None = None, validation_images: int | None = None) -> SearchImages:
    """Open data for a search. `images` and `validation_images` take about as many of each part,
    the same share of every class.

    Without `validation_images` a tenth of the training split is held out. ValueError for data without two classes, or with
    fewer images than asked for.
    """
    from keras_mnasnet.data import open_splits, train_validation

    where = located(data)
    share = VALIDATION_FRACTION if validation_images is None else validation_images
    splits = open_splits(where, validation=share, holdout=HOLDOUT, seed=VALIDATION_SEED, test=True, classes="folder")
    train, test, test_is = splits.train, splits.test, splits.origins["test"]
    if test is None or len(np.unique(train.label_ids)) < 2:
        raise ValueError(f"A search needs images of two or more classes. Received: {where} with {len(train.labels)}")
    if images is not None and images != train.count:
        if not 0 < images < train.count:
            raise ValueError(f"`images` must be at most the {train.count:,} to train on. Received: images={images}")
        _, train = train_validation(train, images / train.count, VALIDATION_SEED)
    holdout = HOLDOUT if test.source is train.source else 0.0
    return SearchImages(where, train, splits.validation, test, test_is, holdout)
