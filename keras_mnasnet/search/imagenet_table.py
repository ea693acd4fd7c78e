"""Accel-NASBench's 5,138 ImageNet trainings: what they predict of any network of their space, as an evaluator of trials."""

from __future__ import annotations

import csv
import dataclasses
import functools
import gzip
import hashlib
import io
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.search.evaluator import measured_latency
from keras_mnasnet.search.latency import DeviceGone, pixel1_ms
from keras_mnasnet.search.networks import accel_nasbench
from keras_mnasnet.search.space import Candidate
from keras_mnasnet.search.trials import Failure, Measurement, Trial
from keras_mnasnet.utils.reading import MIB, read_bytes

PREFIX = "accel-nasbench:"
STAGES = range(7)
DIGITS = ("expand", "kernel", "repeats", "se")  # of a stage's code in the file, as `6520`
MOST_BYTES = 64 * MIB
FOLDS = 10
NOISE_POINTS = 0.15  # of one training: 13 networks have two, which say 0.10 without the pair that is 1.28 apart, 0.27 with it
# Of the kernel; the three numbers and POINTS were chosen by the held-out error
POINTS = 1_200  # networks that predictions are sums over
SPREAD, POWER = 0.204, 1.75  # 1 / (2 length^2) of the decision with the largest linear effect; how the others' follow theirs
AT_ONCE = 4_096  # predictions; their kernel has 40 MB
RATIO = 6.3e-4  # variance of the noise over that of the function

FILE = "Accel-NASBench's table of trainings"


@dataclasses.dataclass(frozen=True, slots=True)
class HeldOut:
    """Errors on networks that were not fitted on, in tenths: R2, Kendall's tau, and percentage points."""

    r2: float
    kendall_tau: float
    rmse_points: float
    mean_points: float

    @classmethod
    def of(cls, predicted: np.ndarray, true: np.ndarray) -> HeldOut:
        off = predicted - true
        r2 = 1 - (off**2).sum() / ((true - true.mean()) ** 2).sum()
        return cls(
            *(round(float(each), 4) for each in (r2, kendall_tau(predicted, true), (off**2).mean() ** 0.5, abs(off).mean()))
        )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Regressor:
    """A Gaussian process on the decisions' values, each scaled to 0..1 and weighed by its linear effect.

    k(a, b) = exp(-sum_d w_d (a_d - b_d)^2), w_d = SPREAD (|effect_d| / largest)^POWER; the mean of the process that is
    spanned by POINTS of the networks (subset of regressors): (RATIO Kpp + Kpn Knp)^-1 Kpn (y - mean y).
    """

    scales: np.ndarray  # sqrt(w) [D]
    points: np.ndarray  # [P, D], scaled
    weights: np.ndarray  # [P]
    mean: float

    @classmethod
    def fit(cls, rows: np.ndarray, values: np.ndarray, *, seed: int = 0) -> Regressor:
        """Of the features `[N, D]` in 0..1 of networks, and their values `[N]`."""
        made, kernels, square = cls._prepared(rows, values, seed)
        weights = np.linalg.solve(square + kernels.T @ kernels, kernels.T @ (values - made.mean))
        return dataclasses.replace(made, weights=weights)

    @classmethod
    def held_out(cls, rows: np.ndarray, values: np.ndarray, folds: np.ndarray, *, seed: int = 0) -> np.ndarray:
        """Predictions `[N]` of every row from those of the other folds."""
        made, kernels, square = cls._prepared(rows, values, seed)
        parts = [np.flatnonzero(folds == fold) for fold in range(FOLDS)]
        products = [kernels[part].T @ kernels[part] for part in parts]
        targets = [kernels[part].T @ (values[part] - made.mean) for part in parts]
        whole, target = square + sum(products), sum(targets)
        found = np.zeros(len(values))
        for part, product, own in zip(parts, products, targets, strict=True):
            found[part] = made.mean + kernels[part] @ np.linalg.solve(whole - product, target - own)
        return found

    @classmethod
    def _prepared(cls, rows: np.ndarray, values: np.ndarray, seed: int) -> tuple[Regressor, np.ndarray, np.ndarray]:
        effects = abs(np.linalg.lstsq(np.c_[np.ones(len(rows)), rows], values, rcond=None)[0][1:])
        scales = np.sqrt(SPREAD * (effects / max(effects.max(), 1e-12)) ** POWER)
        different = np.unique(rows, axis=0)
        chosen = np.random.default_rng(seed).permutation(len(different))[:POINTS]
        made = cls(scales, different[chosen] * scales, np.zeros(len(chosen)), float(values.mean()))
        square = RATIO * made._kernel(made.points)
        square[np.diag_indices_from(square)] += 1e-6 * RATIO  # so that it has an inverse in float64
        return made, made._kernel(rows * scales), square

    def _kernel(self, scaled: np.ndarray) -> np.ndarray:
        squares = (scaled**2).sum(1)[:, None] + (self.points**2).sum(1)
        return np.exp(2 * scaled @ self.points.T - squares)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """The values `[N]` of networks with features `[N, D]`."""
        parts = [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]
        return np.concatenate([self.mean + self._kernel(part * self.scales) @ self.weights for part in parts])


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ImageNetTable:
    """The trainings: `candidates` of the space `accel-nasbench` `[N, 28]`, `top1` in % `[N]`, and the file's SHA-256."""

    candidates: np.ndarray
    top1: np.ndarray
    sha256: str

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ImageNetTable:
        """A CSV file, gzipped or not; columns `block0` .. `block6` (`6520`: expand, kernel, repeats, gate) and `val_top1`."""
        content = read_bytes(Path(path).expanduser(), FILE, limit=MOST_BYTES)
        return cls._parsed(content, str(path))

    @classmethod
    def _parsed(cls, content: bytes, path: str) -> ImageNetTable:
        space = accel_nasbench()
        try:
            plain = content
            if content[:2] == b"\x1f\x8b":
                plain = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MOST_BYTES + 1)
            if len(plain) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES:,} bytes")
            candidates, top1 = [], []
            for number, row in enumerate(csv.DictReader(io.StringIO(plain.decode("ascii"))), 1):
                try:
                    accuracy = float(row["val_top1"])
                    values: dict[str, Any] = {}
                    for stage in STAGES:
                        expand, kernel, repeats, gated = map(int, row[f"block{stage}"])
                        choices = (expand, kernel, repeats, (0.0, 0.25)[gated])
                        values |= {f"block{stage + 1}.{what}": choice for what, choice in zip(DIGITS, choices, strict=True)}
                    candidates.append(space.candidate(values))
                    if not 0 <= accuracy <= 100:
                        raise ValueError(f"val_top1={accuracy}")
                    top1.append(accuracy)
                except (KeyError, ValueError, TypeError, IndexError) as error:
                    raise ValueError(f"row {number}: {type(error).__name__}: {str(error)[:120]}") from None
            if len(set(candidates)) < 2 * FOLDS:
                raise ValueError(f"{len(set(candidates))} different networks, of which {2 * FOLDS} are needed")
        except (ValueError, OSError, EOFError, zlib.error, csv.Error) as error:
            raise ValueError(
                f"{FILE} must be a CSV file, gzipped or not, with the columns block0 .. block6 and val_top1. Received: {path}: "
                f"{error}"
            ) from None
        return cls(np.array(candidates), np.array(top1), hashlib.sha256(content).hexdigest())

    def fitted(self) -> Regressor:
        """A regressor of top-1 in %, on all trainings."""
        return Regressor.fit(features(self.candidates), self.top1)

    def held_out(self) -> HeldOut:
        """The errors of that regressor on networks it was not fitted on."""
        return HeldOut.of(Regressor.held_out(features(self.candidates), self.top1, self.folds()), self.top1)

    def folds(self) -> np.ndarray:
        """Which tenth each training is in, `[N]`; trainings of one network are in the same."""
        different, network = np.unique(self.candidates, axis=0, return_inverse=True)
        return (np.random.default_rng(0).permutation(len(different)) % FOLDS)[network.reshape(-1)]


Networks = Candidate | Sequence[Candidate] | np.ndarray


@dataclasses.dataclass(frozen=True, slots=True)
class Pixel1ByStage:
    """`pixel1_ms` of a candidate of `accel-nasbench`, as a sum over its stages, whose filters never change: microseconds."""

    def __call__(self, candidate: Candidate) -> float:
        return float(sum(own[candidate[4 * stage : 4 * stage + 4]] for stage, own in enumerate(_stage_ms())))

    def of(self, candidates: Networks) -> np.ndarray:
        """Milliseconds `[N]`."""
        found = np.atleast_2d(np.asarray(candidates, np.int64))
        parts = [own[tuple(found[:, 4 * stage : 4 * stage + 4].T)] for stage, own in enumerate(_stage_ms())]
        return np.sum(parts, axis=0)


@functools.cache
def _stage_ms() -> tuple[np.ndarray, ...]:
    """Of each stage, milliseconds by its four decisions; the first has what all networks share, too."""
    space = accel_nasbench()
    assert space.build is not None
    first = (0,) * len(space.counts)
    base, stages = pixel1_ms(space.build(first)), []
    for stage in STAGES:
        own = np.zeros(space.counts[4 * stage : 4 * stage + 4])
        for choices in np.ndindex(own.shape):
            changed = (*first[: 4 * stage], *choices, *first[4 * stage + 4 :])
            own[choices] = pixel1_ms(space.build(changed)) - (base if stage else 0)
        stages.append(own)
    return tuple(stages)


@functools.cache
def _values() -> tuple[np.ndarray, ...]:
    """Of each decision, its choices scaled to 0..1."""
    found = []
    for decision in accel_nasbench().decisions:
        choices = np.array(decision.choices, np.float64)
        found.append((choices - choices.min()) / (choices.max() - choices.min()))
    return tuple(found)


def features(candidates: Networks) -> np.ndarray:
    """Each decision's value in 0..1, `[N, 28]`."""
    indices = np.atleast_2d(np.asarray(candidates, np.int64))
    return np.stack([values[indices[:, place]] for place, values in enumerate(_values())], axis=1)


def kendall_tau(one: np.ndarray, other: np.ndarray) -> float:
    """Kendall's tau-b of two arrays."""
    agree = pairs_one = pairs_other = 0.0
    for place in range(len(one) - 1):
        first, second = np.sign(one[place + 1 :] - one[place]), np.sign(other[place + 1 :] - other[place])
        agree += first @ second
        pairs_one += first @ first
        pairs_other += second @ second
    return float(agree / math.sqrt(pairs_one * pairs_other)) if pairs_one and pairs_other else 0.0


# As the data of a study


def is_table(data: str | None) -> bool:
    """Whether a study's data is this table."""
    return data is not None and data.startswith(PREFIX)


def located_table(data: str) -> str:
    """The same with an absolute path."""
    return PREFIX + str(Path(data.removeprefix(PREFIX)).expanduser().absolute())


def table_facts(data: str, noise: float | None) -> dict[str, Any]:
    """What a study keeps of its table; ValueError for a noise that is none."""
    noise = NOISE_POINTS if noise is None else noise
    if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 <= noise <= 100:
        raise ValueError(f"`table_noise` must be 0 to 100 percentage points. Received: table_noise={noise!r}")
    table = ImageNetTable.read(data.removeprefix(PREFIX))
    error = table.held_out()
    return {
        "classes": 1000,
        "photos": (
            f"accuracies are predicted from {len(table.top1):,} ImageNet trainings; held-out networks: R2 {error.r2:.3f}, "
            f"Kendall tau {error.kendall_tau:.3f}, {error.rmse_points:.2f} points off; noise of {noise:g} points"
        ),
        "table": {
            "noise_points": float(noise), "sha256": table.sha256, "trainings": len(table.top1),
            "held_out": dataclasses.asdict(error),
        },
    }  # fmt: skip


@functools.lru_cache(maxsize=2)
def _fitted(path: str, sha256: str, stamp: tuple[int, int]) -> Regressor:
    """The regressor; `stamp` makes a file that was changed be read again."""
    table = ImageNetTable.read(path)
    if table.sha256 != sha256:
        raise ValueError(
            f"A study goes on with the table of its start. Received: {path} with SHA-256 {table.sha256}, it was {sha256}"
        )
    return table.fitted()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TableEvaluator:
    """Called with a Trial of the space `accel-nasbench`, returns the accuracy that the table predicts, and a latency.

    `noise` is added in percentage points, as one training would have it: the same for the same `seed` and network. `device`
    None: the trial brings the latency, or the space has a cost.
    """

    data: str
    sha256: str
    resolution: int
    noise: float = NOISE_POINTS
    seed: int = 0
    device: str | None = None
    device_options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, trial: Trial) -> Measurement:
        """Predict and measure; nothing is trained."""
        try:
            path = self.data.removeprefix(PREFIX)
            found = os.stat(path)
            regressor = _fitted(path, self.sha256, (found.st_mtime_ns, found.st_size))
        except (ValueError, OSError) as error:
            return Measurement(failure=Failure("data", str(error)))
        candidate = accel_nasbench().candidate(trial.values)
        network = Architecture.parse(trial.architecture or "")
        predicted = round(float(regressor.predict(features(candidate))[0]), 4)
        latency: dict[str, Any] = {}
        if trial.latency_ms is not None:
            latency = {"latency_ms": trial.latency_ms, "latency_source": trial.latency_source}
        elif self.device is not None:
            try:
                measured = measured_latency(self.device, self.device_options, network, self.resolution, 1000)
            except DeviceGone as error:
                return Measurement(failure=Failure("device", str(error)))
            latency = {"latency_ms": measured.latency_ms, "latency_source": measured.source}
        drawn = np.random.default_rng([self.seed, *candidate]).standard_normal()
        return Measurement(
            accuracy=min(max(predicted + self.noise * drawn, 0.0), 100.0) / 100, params=network.params(),
            madds=network.madds(self.resolution, self.resolution), details={"predicted_top1": predicted}, **latency,
        )  # fmt: skip
