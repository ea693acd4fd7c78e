"""What passes between algorithm, driver, workers and study: a proposal becomes a trial, measurements make it an observation."""

from __future__ import annotations

import dataclasses
from typing import Any

FATAL = ("device", "data")  # failures that the next trial would meet as well: the study stops, the trial stays pending


@dataclasses.dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate to train. `extra` is JSON-able and comes back with its observation."""

    candidate: tuple[int, ...]
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """What came of a proposal: accuracy 0..1, `latency_ms`, reward. A failed trial has no reward (None)."""

    candidate: tuple[int, ...]
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    accuracy: float | None = None
    latency_ms: float | None = None
    reward: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why a trial has no result. `kind`: nan, memory, crash, timeout, lost, error, device or data."""

    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True)
class Measurement:
    """What one attempt at a trial found. The evaluator says what, the executor adds which trial, where and when.

    `accuracy` 0..1; `latency_ms` None: the space's own cost stands for it; `seconds` by phase, of which `training_steps` is the
    trial's own work; `failure` where the attempt came to nothing; `details` is anything in JSON.
    """

    accuracy: float | None = None
    latency_ms: float | None = None
    latency_source: str | None = None
    params: int | None = None
    madds: int | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    failure: Failure | None = None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    trial: int = -1
    attempt: int = 1
    worker: str = ""
    started: float = 0.0
    finished: float = 0.0

    def by(self, worker: str, trial: Trial, started: float, finished: float) -> Measurement:
        """The same of this attempt, as an executor hands it over; times are seconds since 1970."""
        return dataclasses.replace(
            self, trial=trial.number, attempt=trial.attempts, worker=worker, started=started, finished=finished
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One row of a study, and what a worker is handed. `status`: pending, running, done or failed; times since 1970.

    `architecture` is the network in text form (None in a space not of networks), `attempts` counts the one that runs too, and
    `latency_ms` is known beforehand where the driver measures it, whose machine the device is attached to. `told` is the place
    in the order in which the algorithm learned of the trials (None: not yet), `facts` what it said of itself afterwards,
    `extra` what it attached to its proposal.
    """

    number: int
    candidate: tuple[int, ...] = ()
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    key: str = ""
    status: str = "pending"
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
