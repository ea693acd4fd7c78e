"""The networks that no other beats in both accuracy and latency."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["pareto_front"]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (accuracy, latency) pairs that are not dominated, fastest first; of equal pairs the first."""
    order = sorted(range(len(points)), key=lambda index: (points[index][1], -points[index][0], index))
    front: list[int] = []
    for index in order:
        if not front or points[index][0] > points[front[-1]][0]:
            front.append(index)
    return front
