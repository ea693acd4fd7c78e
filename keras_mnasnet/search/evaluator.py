"""Trials of networks: build, measure latency, train the proxy recipe, validate on images held out from training."""

from __future__ import annotations

import dataclasses
import functools
import gc
import logging
import time
from typing import TYPE_CHECKING, Any

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.search.latency import DeviceGone, Latency, LatencyModel, parse_device
from keras_mnasnet.search.records import Failure, TrialRequest, TrialResult
from keras_mnasnet.utils.system import held_stderr

if TYPE_CHECKING:
    from keras_mnasnet.training.recipe import Recipe

__all__ = ["NetworkEvaluator", "fixed_cost"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NetworkEvaluator:
    """Called with a TrialRequest, returns a TrialResult. Pickles; data and devices are opened once in each process.

    `device` None: the request brings the latency, or the space has a cost. `resolution` is of training and of latency.
    `device_options` go to `parse_device`. `steps` ends every training early, to see what a trial costs.
    """

    data: str
    recipe: Recipe
    resolution: int
    device: str | None = None
    images: int | None = None
    validation_images: int | None = None
    device_options: tuple[tuple[str, Any], ...] = ()
    steps: int | None = None

    def __call__(self, request: TrialRequest) -> TrialResult:
        """Measure, train, validate; what went wrong is in the result's failure."""
        if request.architecture is None:
            raise ValueError(f"This evaluator trains networks. Received: trial {request.number}, which is none")
        began = time.perf_counter()
        try:
            images = _images(self.data, self.images, self.validation_images)
        except (ValueError, OSError, ImportError) as error:
            return TrialResult(failure=Failure("data", str(error)))
        architecture = Architecture.parse(request.architecture)
        seconds = {"open_data": time.perf_counter() - began}
        found: dict[str, Any] = {
            "params": architecture.params(classes=images.classes),
            "madds": architecture.madds(self.resolution, self.resolution, classes=images.classes),
        }
        details: dict[str, Any] = {}
        if request.latency_ms is not None:
            found |= {"latency_ms": request.latency_ms, "latency_source": request.latency_source}
        elif self.device is not None:
            measured = time.perf_counter()
            try:
                latency = self.measured(architecture, images.classes)
            except DeviceGone as error:
                return TrialResult(failure=Failure("device", str(error)))
            seconds["latency"] = time.perf_counter() - measured
            found |= {"latency_ms": latency.latency_ms, "latency_source": latency.source}
            details["latency"] = {**latency.details, "extrapolated": latency.extrapolated}
        return self._trained(architecture, images, found, seconds, details)

    def measured(self, architecture: Architecture, classes: int) -> Latency:
        """The network's latency on `device`."""
        if self.device is None:
            raise ValueError("A latency needs a device. Received: device=None")
        return _latency_model(self.device, self.device_options).latency_ms(architecture, self.resolution, classes)

    def _trained(
        self, architecture: Architecture, images: Any, found: dict[str, Any], seconds: dict[str, float], details: dict[str, Any]
    ) -> TrialResult:
        import keras

        from keras_mnasnet.training import Diverged
        from keras_mnasnet.training.short import train_short

        try:
            run = train_short(
                architecture, images.train, images.validation, self.recipe, size=self.resolution, steps=self.steps
            )
        except Diverged as error:
            return TrialResult(**found, seconds=seconds, failure=Failure("nan", str(error)), details=details)
        seconds |= run.seconds
        details |= {"loss": run.loss, "steps": run.steps}
        cleared = time.perf_counter()
        accuracy = run.accuracy
        del run
        keras.backend.clear_session(free_memory=False)
        gc.collect()
        seconds["clear"] = time.perf_counter() - cleared
        return TrialResult(accuracy=accuracy, **found, seconds=seconds, details=details)


def fixed_cost(seconds: dict[str, float]) -> float:
    """The seconds of a trial that are not training steps; opening the data, once in each process, is left out."""
    return sum(value for phase, value in seconds.items() if phase not in ("training_steps", "open_data"))


@functools.lru_cache(maxsize=2)
def _images(data: str, images: int | None, validation_images: int | None) -> Any:
    """The data, decoded into memory where it fits."""
    with held_stderr():
        import tensorflow as tf

        from keras_mnasnet.search.images import open_search_images
        from keras_mnasnet.training.short import in_memory

        on_cpu = not tf.config.list_physical_devices("GPU")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it takes every new network for a mistake
    if on_cpu:  # rewriting a graph costs two to three seconds of a core, and no network here ran faster for it
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

    found = open_search_images(data, images=images, validation_images=validation_images)
    return dataclasses.replace(found, train=in_memory(found.train), validation=in_memory(found.validation))


@functools.lru_cache(maxsize=4)
def _latency_model(device: str, options: tuple[tuple[str, Any], ...]) -> LatencyModel:
    return parse_device(device, **dict(options))
