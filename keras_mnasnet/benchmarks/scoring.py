"""Which rank a label has among the scores of a classifier, and which output each label is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["TIE_RULE", "label_outputs", "ranks"]

TIE_RULE = (
    "scores in descending order, of equal scores the lower output first; of 1001 outputs, output 0 is the background: it is "
    "ranked with the others and never right, label i is output i + 1"
)


def ranks(scores: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """The place, 0 for the best, of output `outputs[b]` in row b of `scores` `[B, C]` of any number type: int64 `[B]`.

    place = #(scores > own) + #(scores == own at a lower index), which is the position in a stable descending sort.
    ValueError for scores that are not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("Scores must be finite. Received: NaN or infinite scores")
    own = np.take_along_axis(scores, outputs[:, None], axis=1)
    lower = np.arange(scores.shape[1])[None] < outputs[:, None]
    return np.sum((scores > own) | ((scores == own) & lower), axis=1)


def label_outputs(
    name: str, outputs: int, labels: Sequence[str], *, known: Sequence[str] | None = None, offset: int | None = None
) -> np.ndarray:
    """The output of each of the data's `labels`, int64 `[n]`, of a classifier with `outputs` outputs.

    A classifier that knows its classes (`known`) is matched by name, so the data may have fewer of them or another order;
    where a name stands twice, both lists must be the same. Otherwise by number: n outputs, or n + 1 with a background first.
    `offset` (0 or 1) says what output label 0 is. ValueError for a classifier that does not fit the data.
    """
    count = len(labels)
    unique = len(set(labels)) == count and len(set(known or ())) == len(known or ())
    if offset is not None and (offset not in (0, 1) or not offset + count <= outputs <= count + 1):
        raise ValueError(
            f"`labels_offset` must be 0, or 1 for a model with one output more than the data has classes. "
            f"Received: labels_offset={offset!r} for {name} with {outputs:,} outputs and {count:,} classes in the data"
        )
    if offset is None and known and unique and set(labels) <= set(known):
        number = {label: output for output, label in enumerate(known)}
        return np.array([number[label] for label in labels], np.int64)
    if not count <= outputs <= count + 1:
        raise ValueError(
            f"A model must have as many outputs as the data has classes, or one more for a background. "
            f"Received: {name} with {outputs:,} outputs and data with {count:,} classes ({_shown(labels)}). "
            f"Choose a model of these classes, or other data."
        )
    if offset is None and known and tuple(labels) != tuple(known):
        raise ValueError(
            f"The data's classes must be the model's. Received: {name} of {_shown(known)} and data with "
            f"{_shown([label for label in labels if label not in set(known)])}. Rename the data's classes, or pass "
            f"labels_offset=0 to number both in their own order."
        )
    return np.arange(count) + (outputs - count if offset is None else offset)


def _shown(labels: Sequence[str]) -> str:
    return ", ".join(labels[:4]) + (", ..." if len(labels) > 4 else "")
