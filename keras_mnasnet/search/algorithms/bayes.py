"""Bayesian linear regression on one-hot features: posterior, Thompson draws, leave-one-out predictions."""

from __future__ import annotations

import dataclasses

import numpy as np

__all__ = ["Posterior", "Rows", "covariance", "standardized"]


@dataclasses.dataclass(frozen=True, slots=True)
class Posterior:
    """y = x w + N(0, noise^2) with w ~ N(0, prior^2): w | X, y ~ N(A^-1 X'y / noise^2, A^-1), A = X'X / noise^2 + I / prior^2.

    One posterior serves several targets `y`, because A depends on the features alone.
    """

    rows: np.ndarray  # X, [N, F]
    covariance: np.ndarray  # A^-1, [F, F]
    noise: float

    @classmethod
    def of(cls, rows: np.ndarray, *, noise: float, prior: float) -> Posterior:
        return cls(rows, covariance(rows, noise=noise, prior=prior), noise)

    def mean(self, y: np.ndarray) -> np.ndarray:
        """The mean of the weights, `[F]`."""
        return self.covariance @ (self.rows.T @ y) / self.noise**2

    def draw(self, y: np.ndarray, rng: np.random.Generator, spread: np.ndarray | None = None) -> np.ndarray:
        """Weights drawn from the posterior, `[F]`; `spread` `[F, F]` is another covariance's Cholesky factor."""
        factor = np.linalg.cholesky(self.covariance) if spread is None else spread
        return self.mean(y) + factor @ rng.standard_normal(len(factor))

    def left_out(self, *targets: np.ndarray) -> list[np.ndarray]:
        """For each target, every row's prediction from all the other rows: y - (y - Hy) / (1 - diag H)."""
        leverage = np.einsum("nf,nf->n", self.rows @ self.covariance, self.rows) / self.noise**2
        return [y - (y - self.rows @ self.mean(y)) / (1 - leverage) for y in targets]


def covariance(rows: np.ndarray, *, noise: float, prior: float) -> np.ndarray:
    """A^-1 of `Posterior`, `[F, F]`."""
    precision = rows.T @ rows / noise**2
    precision[np.diag_indices_from(precision)] += 1 / prior**2
    inverse = np.linalg.inv(precision)
    return (inverse + inverse.T) / 2


def standardized(values: np.ndarray, clip: float) -> tuple[np.ndarray, float, float]:
    """(values with mean 0 and deviation 1, mean, deviation), after those below the quantile `clip` were raised to it."""
    clipped = np.maximum(values, np.quantile(values, clip))
    mean, deviation = float(clipped.mean()), float(clipped.std())
    deviation = deviation if deviation > 1e-12 else 1.0
    return (clipped - mean) / deviation, mean, deviation


class Rows:
    """A matrix that grows by rows."""

    def __init__(self, width: int) -> None:
        self._buffer = np.zeros((64, width))
        self._count = 0

    def extend(self, rows: np.ndarray) -> None:
        needed = self._count + len(rows)
        if needed > len(self._buffer):
            larger = np.zeros((max(needed, 2 * len(self._buffer)), self._buffer.shape[1]))
            larger[: self._count] = self._buffer[: self._count]
            self._buffer = larger
        self._buffer[self._count : needed] = rows
        self._count = needed

    @property
    def array(self) -> np.ndarray:
        return self._buffer[: self._count]
