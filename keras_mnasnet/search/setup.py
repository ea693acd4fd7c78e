"""From what a study is about to what runs it: space, reward, algorithm, evaluator, order."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_mnasnet.search.algorithms import make_algorithm
from keras_mnasnet.search.algorithms.base import Algorithm
from keras_mnasnet.search.engine import Meter, Order
from keras_mnasnet.search.latency import CannotKnow, DeviceGone, LatencyModel, parse_device
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import Candidate, SearchSpace
from keras_mnasnet.search.trials import StudyMeta, TrialRequest
from keras_mnasnet.utils.system import machine

__all__ = [
    "algorithm_of", "check_target", "default_order", "evaluator_of", "make_meta", "make_space", "meter_of", "model_of",
    "space_of",
]  # fmt: skip

PPO_BATCH = 20  # NASNet, appendix A.3


def make_space(name: str, options: Mapping[str, Any] | None = None) -> SearchSpace:
    """A preset, or `module:function` of the user's own, called with the options; ValueError for an unknown one."""
    module, colon, function = name.partition(":")
    if not colon:
        from keras_mnasnet.search.networks import space

        return space(name, **(options or {}))
    try:
        maker = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"A space is a preset, or module:function that returns a SearchSpace and can be imported. Received: {name!r} "
            f"({error})"
        ) from error
    made = maker(**(options or {}))
    if not isinstance(made, SearchSpace):
        raise ValueError(f"A space's function must return a SearchSpace. Received: {type(made).__name__} from {name}")
    return made


def default_order(algorithm: str, workers: int, batch: int | None = None) -> Order:
    """Batches of 20 for the paper's controller, which learns from batches; for the others one trial out for each worker."""
    return Order("batch", batch or PPO_BATCH) if algorithm == "ppo" else Order("window", batch or workers)


def make_meta(
    space: str, *, space_options: Mapping[str, Any], algorithm: str, algorithm_options: Mapping[str, Any], reward: Reward,
    seed: int, order: Order, device: str | None, data: str | None, recipe: dict[str, Any] | None,
    evaluation: Mapping[str, Any],
) -> StudyMeta:  # fmt: skip
    """What a new study is about; unknown presets, algorithms and options are ValueErrors here.

    `evaluation`: resolution, classes, images, validation_images, device_options, limits (max_params, max_madds,
    max_latency_ms), whichever there are.
    """
    meta = StudyMeta(
        space=space, fingerprint="", space_options=dict(space_options), algorithm=algorithm,
        algorithm_options=dict(algorithm_options), reward=reward.to_json(), seed=seed,
        order={"kind": order.kind, "size": order.size}, device=device, data=data, recipe=recipe, evaluation=dict(evaluation),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), environment=machine(),
    )  # fmt: skip
    made = space_of(meta)
    algorithm_of(meta, made)
    return dataclasses.replace(meta, fingerprint=made.fingerprint())


def model_of(meta: StudyMeta) -> LatencyModel | None:
    """The study's latency model; None where it names no device."""
    return parse_device(meta.device, **meta.evaluation.get("device_options", {})) if meta.device else None


def space_of(meta: StudyMeta) -> SearchSpace:
    """The study's space, with a cost where its device is arithmetic, and within its limits."""
    made, own = make_space(meta.space, meta.space_options), meta.evaluation
    if made.build is None:
        return made
    from keras_mnasnet.search.networks import constrained, with_cost

    shape = {"resolution": own.get("resolution", 224), "classes": own.get("classes", 1000)}
    model = model_of(meta)
    if model is not None and not model.measures:
        made = with_cost(made, model, **shape)
    return constrained(made, **own.get("limits", {}), **shape)


def algorithm_of(meta: StudyMeta, space: SearchSpace) -> Algorithm:
    """The study's algorithm at its start."""
    return make_algorithm(meta.algorithm, space, Reward.from_json(meta.reward), seed=meta.seed, **meta.algorithm_options)


def evaluator_of(meta: StudyMeta, *, device: bool = True) -> Any:
    """The study's evaluator; `device=False` leaves the latency to the driver."""
    from keras_mnasnet.search.evaluator import NetworkEvaluator
    from keras_mnasnet.training.recipe import recipe_from_json

    if meta.data is None or meta.recipe is None:
        raise ValueError(f"A study of networks names data and a recipe. Received: data={meta.data!r}, recipe={meta.recipe!r}")
    own = meta.evaluation
    return NetworkEvaluator(
        data=meta.data, recipe=recipe_from_json(meta.recipe), resolution=own["resolution"],
        device=meta.device if device else None, images=own.get("images"), validation_images=own.get("validation_images"),
        device_options=tuple(sorted(own.get("device_options", {}).items())),
    )  # fmt: skip


def meter_of(meta: StudyMeta) -> tuple[Meter, Callable[[], None]]:
    """Latency measured by the driver, whose machine the device is attached to; and how to close it."""
    from keras_mnasnet.architecture import Architecture

    model = model_of(meta)
    if model is None:
        raise ValueError("Latency is measured on a device. Received: device=None")

    def measure(request: TrialRequest) -> tuple[float, str]:
        architecture = Architecture.parse(request.architecture or "")
        latency = model.latency_ms(architecture, meta.evaluation["resolution"], meta.evaluation["classes"])
        return latency.latency_ms, latency.source

    return measure, model.close


def smallest(space: SearchSpace, cost: Callable[[Candidate], float], *, starts: int = 4) -> Candidate:
    """The allowed candidate with the lowest cost that one-decision steps lead to, from several draws."""
    rng = np.random.default_rng(0)
    best: tuple[float, Candidate] | None = None
    for _ in range(starts):
        at = space.sample(rng)
        now = cost(at)
        while True:
            around = [(cost(other), other) for other in space.neighbours(at)]
            if not around or min(around)[0] >= now:
                break
            now, at = min(around)
        best = min(best, (now, at)) if best else (now, at)
    if best is None:
        raise ValueError(f"`starts` must be an integer >= 1. Received: starts={starts!r}")
    return best[1]


def check_target(space: SearchSpace, reward: Reward, model: LatencyModel | None, resolution: int, classes: int) -> float | None:
    """ValueError where no network of the space is as fast as the target; else the latency of the fastest.

    The fastest is found by latency where that is arithmetic, and by multiply-adds where it has to be measured.
    """
    if not reward.uses_latency or (model is None and space.cost is None):
        return None
    shown = ""
    if model is None or space.build is None:
        if space.cost is None:
            return None
        found = smallest(space, space.cost)
        latency, how = float(space.cost(found)), "has the lowest cost"
    else:
        build = space.build

        def known(candidate: Candidate) -> float:
            if model.measures:
                return float(build(candidate).madds(resolution, resolution, classes=classes))
            return model.latency_ms(build(candidate), resolution, classes).latency_ms

        try:
            found = smallest(space, known)
            latency = model.latency_ms(build(found), resolution, classes).latency_ms
        except CannotKnow as error:
            raise ValueError(f"A device must know the networks of the space. Received: {model.name}: {error}") from error
        except DeviceGone as error:
            raise OSError(str(error)) from error
        how = f"has the {'fewest multiply-adds' if model.measures else 'lowest latency'}, on {model.name}"
        shown = f': MnasNet("{build(found)}")'
    if reward.target_ms < latency:
        raise ValueError(
            f"`target_ms` must be at least the latency of the fastest network of space {space.name!r}, {latency:.4g} ms. "
            f"Received: target_ms={reward.target_ms:g}. That network {how}{shown}. Raise the target, or take a smaller space."
        )
    return latency
