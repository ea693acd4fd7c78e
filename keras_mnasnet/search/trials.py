"""What passes between algorithm, driver, workers and study: a proposal becomes a trial, measurements make it an observation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

LARGEST = 10**9  # photos, classes, trials, workers: more is a mistake
Scalar = str | int | float | bool
PPO_BATCH = 20  # NASNet, appendix A.3
FEW_WORKERS = 16  # which a window of two trials for each keeps busy 86 % of the time, at a log-deviation of 0.5
ORDERS = ("batch", "window", "completion")
FATAL = ("device", "data")  # failures that the next trial would meet as well: the study stops, the trial stays pending


@dataclasses.dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate to train. `extra` is JSON-able and comes back with its observation."""

    candidate: tuple[int, ...]
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """What came of a proposal: accuracy 0..1, `latency_ms`, reward. A failed trial has no reward (None).

    `rung` counts from 0: what was trained further is told again, from its higher rung.
    """

    candidate: tuple[int, ...]
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    accuracy: float | None = None
    latency_ms: float | None = None
    reward: float | None = None
    rung: int = 0


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
    trial's own work; `failure` where the attempt came to nothing; `details` is anything in JSON. `kept` is the state of the
    training where the request asks for it; a study has it as a file of its own.
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
    kept: bytes | None = dataclasses.field(default=None, repr=False)

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
    values: dict[str, Scalar] = dataclasses.field(default_factory=dict)
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

    @property
    def rung(self) -> int:
        """Up to which rung it trains, from 0."""
        return int(self.extra.get("rung", 0))

    @property
    def of(self) -> int | None:
        """The trial, of the rung below, whose training it goes on with."""
        return self.extra.get("of")

    @property
    def start(self) -> int | None:
        """The trial whose weights its network began with, the best one then."""
        return self.extra.get("start")


ENGINE_KEYS = ("rung", "of", "start")  # of `extra`, beside what the algorithm attached


@dataclasses.dataclass(frozen=True, slots=True)
class Request(Trial):
    """A trial of a search with rungs or inheritance, as a worker is handed it.

    It trains up to `share` (0..1) of the steps, from the `state` after `begun` of them, else from the weights of another
    network, `weights` (its architecture, its state), else as the evaluator starts. `keeps`: the measurement brings `all` of the
    state, the `weights` of the model, or nothing ("").
    """

    share: float = 1.0
    begun: float = 0.0
    state: bytes | None = dataclasses.field(default=None, repr=False)
    weights: tuple[str, bytes] | None = dataclasses.field(default=None, repr=False)
    keeps: str = ""


def highest(trials: Iterable[Trial]) -> list[Trial]:
    """Of every network that is done the trial of its highest rung, in their order."""
    done = [trial for trial in trials if trial.status == "done"]
    passed = {trial.of for trial in done}
    return [trial for trial in done if trial.number not in passed]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StudyMeta:
    """What a study is about; the same in every run of it. `recipe` and `reward` are in their JSON forms.

    `evaluation` holds what else the evaluator was given (resolution, images, classes, seeds), `order` how trials follow each
    other (`Order`) in the first run, `environment` where it was begun. `decisions` are the space's names and choices: a
    study is read without its space.
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
    decisions: tuple[tuple[str, tuple[Scalar, ...]], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """What `latency.parse_device` takes beside a device."""

    core: int | None = None
    mask: str | None = None
    benchmark_model: str | None = None
    runs: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What `networks.constrained` takes."""

    max_params: float | None = None
    max_madds: float | None = None
    max_latency_ms: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The fields of `StudyMeta.evaluation`."""

    resolution: int = 224
    classes: int = 1000
    images: int | None = None
    validation_images: int | None = None
    train_images: int | None = None
    photos: str | None = None
    read: dict[str, Any] = dataclasses.field(default_factory=dict)  # a Summary of the data
    table: dict[str, Any] = dataclasses.field(default_factory=dict)  # imagenet_table.table_facts
    device_options: dict[str, Any] = dataclasses.field(default_factory=dict)  # DeviceOptions
    limits: dict[str, Any] = dataclasses.field(default_factory=dict)  # Limits
    rungs: tuple[float, ...] | None = None  # shares of the recipe's steps
    keep: float | None = None
    inherit: str | None = None
    screens: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("resolution", "classes", "images", "validation_images", "train_images"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= LARGEST:
                raise ValueError(f"`{name}` must be 1 to {LARGEST:,}. Received: {name}={str(value)[:80]}")


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """When the algorithm learns of results and is asked for more.

    `batch`: asked for `size` trials, told all of them by number when the last is finished, and so on.
    `window`: trial n is asked when it was told of trials 0 .. n - size, one by one, by number.
    `completion`: told of each when it finishes, and asked for the next; `size` are out at a time.
    With `batch` and `window` the trials depend on the results alone, not on which worker was faster; with `completion` they
    depend on the order of finishing, and after a resume on that of the trials that were out.
    """

    kind: str
    size: int

    def __post_init__(self) -> None:
        if self.kind not in ORDERS:
            raise ValueError(f"`kind` must be one of {ORDERS}. Received: kind={self.kind!r}")
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"`size` must be an integer >= 1. Received: size={self.size!r}")

    @classmethod
    def usual(cls, algorithm: str, workers: int) -> Order:
        """Batches of 20 for the paper's controller, which learns from batches; for the others a window of two to three trials
        for each of several workers, so that none waits for a slower one."""
        if algorithm == "ppo":
            return cls("batch", PPO_BATCH)
        return cls("window", 1 if workers == 1 else 2 * workers if workers <= FEW_WORKERS else 3 * workers)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the last `run` of a study was to go; `order` None is the one that it was begun with."""

    trials: int
    workers: int = 1
    executor: str = "pool"
    ray_address: str | None = None
    order: Order | None = None

    def __post_init__(self) -> None:
        for name in ("trials", "workers"):
            if not 0 < getattr(self, name) <= LARGEST:
                raise ValueError(f"`{name}` must be 1 to {LARGEST:,}. Received: {name}={str(getattr(self, name))[:80]}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that writes a study."""

    pid: int
    host: str
    since: str
    command: str
