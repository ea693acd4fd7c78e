"""What passes between engine, workers and study: requests, results, trials, and what a study is about."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["Failure", "FATAL", "Measurement", "StudyMeta", "Trial", "TrialRequest", "TrialResult"]

FATAL = ("device", "data")  # failures that the next trial would meet as well: the study stops, the trial stays pending


@dataclasses.dataclass(frozen=True, slots=True)
class TrialRequest:
    """One trial for a worker: the candidate's values, and its network in text form (None in a space not of networks).

    `latency_ms` is set where the driver measured it, because the device is attached to its machine.
    """

    number: int
    attempt: int
    candidate: tuple[int, ...]
    values: dict[str, Any]
    architecture: str | None = None
    latency_ms: float | None = None
    latency_source: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why a trial has no result. `kind`: nan, memory, crash, timeout, lost, error, device or data."""

    kind: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class TrialResult:
    """What an evaluator found. `accuracy` 0..1; `seconds` by phase, of which `training_steps` is the trial's own work.

    `latency_ms` None: the space's own cost stands for it. `details` is anything in JSON.
    """

    accuracy: float | None = None
    latency_ms: float | None = None
    latency_source: str | None = None
    params: int | None = None
    madds: int | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    failure: Failure | None = None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Measurement:
    """One attempt at a trial, as a worker returned it."""

    trial: int
    attempt: int
    worker: str
    started: float
    finished: float
    result: TrialResult


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One row of a study. `status`: pending, running, done or failed. Times are seconds since 1970.

    `told` is the trial's place in the order in which the algorithm learned of them (None: not yet), `facts` what the
    algorithm said of itself afterwards, `extra` what it attached to its proposal.
    """

    number: int
    candidate: tuple[int, ...]
    values: dict[str, Any]
    key: str
    status: str
    accuracy: float | None = None
    latency_ms: float | None = None
    reward: float | None = None
    params: int | None = None
    madds: int | None = None
    started: float | None = None
    finished: float | None = None
    worker: str | None = None
    reason: str | None = None
    facts: dict[str, float] | None = None
    architecture: str | None = None
    latency_source: str | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    attempts: int = 0
    told: int | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StudyMeta:
    """What a study is about; the same in every run of it. `recipe` and `reward` are in their JSON forms.

    `evaluation` holds what else the evaluator was given (resolution, images, classes, seeds), `order` how trials follow each
    other (`engine.Order`), `environment` where it was begun.
    """

    space: str
    fingerprint: str
    algorithm: str
    reward: dict[str, Any]
    seed: int
    space_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    algorithm_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    order: dict[str, Any] = dataclasses.field(default_factory=dict)
    device: str | None = None
    data: str | None = None
    recipe: dict[str, Any] | None = None
    evaluation: dict[str, Any] = dataclasses.field(default_factory=dict)
    created: str = ""
    environment: dict[str, Any] = dataclasses.field(default_factory=dict)
