"""Rewards: accuracy and latency to one number (paper, section 3; TuNAS for the absolute reward); and the Pareto front."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_mnasnet.utils.reading import record

SCHEMA = 1
# (alpha, beta) where nothing else is asked for: paper, section 3, and TuNAS's `abs`.
KINDS = {"soft": (-0.07, -0.07), "hard": (0.0, -1.0), "absolute": (-0.1, -0.1), "exponents": (None, None)}


@dataclasses.dataclass(frozen=True, slots=True)
class Reward:
    """accuracy * (latency / target) ** w, where w = alpha if latency <= target else beta (paper, equation 2 and 3).

    `soft` is alpha = beta = -0.07, `hard` is (0, -1), `exponents` any pair; (0, 0) is accuracy alone. `absolute` is
    accuracy + w * |latency / target - 1| (TuNAS, -0.1 on both sides). Accuracy is a share, 0..1; latency in ms.
    """

    kind: str
    target_ms: float
    alpha: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"`kind` must be one of {tuple(KINDS)}. Received: kind={self.kind!r}")
        object.__setattr__(self, "target_ms", _number("target_ms", self.target_ms))
        if self.target_ms <= 0:
            raise ValueError(f"`target_ms` must be above 0. Received: target_ms={self.target_ms!r}")
        for name, default in zip(("alpha", "beta"), KINDS[self.kind], strict=True):
            value = getattr(self, name)
            value = default if value is None else _number(name, value)
            if value is None:
                raise ValueError(f"A reward by exponents needs both. Received: {name}=None")
            if value > 0:
                raise ValueError(f"`{name}` must not be above 0: it would reward slowness. Received: {name}={value!r}")
            object.__setattr__(self, name, value)

    def __call__(self, accuracy: float, latency_ms: float) -> float:
        """The reward of one measured network."""
        if not latency_ms > 0:
            raise ValueError(f"`latency_ms` must be above 0. Received: latency_ms={latency_ms!r}")
        return float(self.of(accuracy, latency_ms))

    def of(self, accuracy: Any, latency_ms: Any) -> np.ndarray:
        """The rewards of arrays of accuracies and latencies."""
        ratio = np.asarray(latency_ms, np.float64) / self.target_ms
        exponent = np.where(ratio <= 1, *np.array([self.alpha, self.beta], np.float64))
        if self.kind == "absolute":
            return accuracy + exponent * np.abs(ratio - 1)
        return accuracy * ratio**exponent

    @property
    def uses_latency(self) -> bool:
        """Whether latency changes the reward at all."""
        return bool(self.alpha or self.beta)

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Reward:
        """The inverse of `to_json`; ValueError for a newer schema and for what is no reward."""
        if value.get("schema") != SCHEMA:
            raise ValueError(f"A stored reward must have schema {SCHEMA}. Received: schema={value.get('schema')!r}")
        return record({name: item for name, item in value.items() if name != "schema"}, cls, "A stored reward")

    def __str__(self) -> str:
        return f"{self.kind}({self.alpha:g}, {self.beta:g}) at {self.target_ms:g} ms" if self.uses_latency else "accuracy"


def parse_reward(text: str, target_ms: float | None) -> Reward:
    """A reward from its text: `soft`, `hard`, `absolute` (or `soft:-0.15`, another exponent), `-0.07,-1`, `accuracy`."""
    kind, colon, rest = text.strip().partition(":")
    if kind == "accuracy" and not colon:
        return Reward("exponents", 1.0 if target_ms is None else target_ms, 0.0, 0.0)
    if target_ms is None:
        raise ValueError(f"The reward {text!r} needs a latency target. Received: target_ms=None. `accuracy` needs none.")
    numbers = (rest if colon else "" if kind in KINDS else kind).split(",")
    try:
        values = [float(number) for number in numbers if number.strip()]
    except ValueError:
        values = [math.nan]
    if kind in KINDS and kind != "exponents" and not colon:
        return Reward(kind, target_ms)
    if kind in ("soft", "absolute") and len(values) == 1 and math.isfinite(values[0]):
        return Reward(kind, target_ms, values[0], values[0])
    if kind == "hard" and len(values) == 1 and math.isfinite(values[0]):
        return Reward(kind, target_ms, 0.0, values[0])
    if len(values) == 2 and (kind == "exponents" or not (colon or kind in KINDS)):
        return Reward("exponents", target_ms, *values)
    raise ValueError(
        f"A reward is soft, hard, absolute (each optionally with its exponent, soft:-0.15), two exponents -0.07,-1, "
        f"or accuracy. Received: {text!r}"
    )


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number. Received: {name}={value!r}")
    return float(value)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (accuracy, latency) pairs that are not dominated, fastest first; of equal pairs the first."""
    order = sorted(range(len(points)), key=lambda index: (points[index][1], -points[index][0], index))
    front: list[int] = []
    for index in order:
        if not front or points[index][0] > points[front[-1]][0]:
            front.append(index)
    return front
