"""What was read of data, as one value: for the header of a command and for its JSON. Loads neither TensorFlow nor Keras."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_mnasnet.utils.text import listed, printable

MOST_CLASSES = 12  # that are shown one by one


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A split: its `name`, where it comes from, how many photos it has, and of each class how many photos or boxes (None where
    counting them would take long)."""

    name: str
    origin: str
    photos: int
    counts: Mapping[str, int] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """Height and width in pixels of the smallest, the median and the largest photo, by their area."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]

    @classmethod
    def of(cls, sizes: np.ndarray | None) -> Sizes | None:
        """Of heights and widths `[N, 2]`; None where they are not known."""
        if sizes is None or not len(sizes):
            return None
        order = np.argsort(sizes.astype(np.int64).prod(axis=1), kind="stable")
        smallest, median, largest = (tuple(map(int, sizes[order[at]])) for at in (0, len(order) // 2, -1))
        return cls(smallest, median, largest)  # type: ignore[arg-type]

    def __str__(self) -> str:
        smallest, median, largest = (f"{width} x {height}" for height, width in dataclasses.astuple(self))
        if smallest == largest:
            return f"{smallest} pixels (width x height)"
        return f"{smallest} to {largest} pixels (width x height), half of them above {median}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What was read: the `source`, its `parts`, the classes in order, files `passed_over` by ending, paths `left_out` as
    damaged, photo `sizes`, and further `facts`, such as the number of crowd boxes. `counted`: what the counts of classes count.
    """

    source: str
    parts: tuple[Part, ...]
    classes: tuple[str, ...]
    counted: str = "photos"
    passed_over: Mapping[str, int] = dataclasses.field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    sizes: Sizes | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON; sizes are [height, width]."""
        return {
            "source": self.source,
            "splits": {
                part.name: {
                    "origin": part.origin, "photos": part.photos, "classes": None if part.counts is None else dict(part.counts),
                }
                for part in self.parts
            },
            "classes": list(self.classes),
            "counted": self.counted,
            "passed_over": dict(self.passed_over),
            "left_out": list(self.left_out),
            "sizes": self.sizes and {name: list(size) for name, size in dataclasses.asdict(self.sizes).items()},
            **self.facts,
        }  # fmt: skip

    def rows(self) -> dict[str, object]:
        """Name and text of each line of a header, shares in percent; None where there is nothing to say."""
        several = len(self.parts) > 1
        total = ", ".join(f"{part.name} {part.photos:,}" if several else f"{part.photos:,}" for part in self.parts)
        rows: dict[str, object] = {
            "data": f"{printable(self.source)}: photos {total}; {len(self.classes):,} classes: {listed(self.classes, 4)}"
        }
        for part in self.parts:
            rows[part.name] = f"{part.photos:,} photos: {printable(part.origin)}"
        rows["classes"] = self._classes()
        rows["sizes"] = self.sizes
        rows["passed over"] = kinds(self.passed_over) or None
        if self.left_out:
            rows["left out"] = f"{len(self.left_out):,} damaged photos: {listed(map(printable, self.left_out), 3)}"
        for name, value in self.facts.items():
            if value != 0 or isinstance(value, float):  # a count of none is for programs
                shown = f"{value:,}" if isinstance(value, int) else f"{value:.1%}" if isinstance(value, float) else value
                rows[name.replace("_", " ")] = shown
        return rows

    def lines(self) -> list[str]:
        """The rows as lines of text."""
        given = {name: value for name, value in self.rows().items() if value is not None}
        width = max(map(len, given))
        return [f"{name:<{width}}  {value}" for name, value in given.items()]

    def _classes(self) -> str | None:
        known = [part.counts for part in self.parts if part.counts is not None]
        if not known:
            return None
        names = "/".join(part.name for part in self.parts if part.counts is not None)
        of_each = [f"{printable(name)} {'/'.join(f'{counts.get(name, 0):,}' for counts in known)}" for name in self.classes]
        if len(of_each) <= MOST_CLASSES:
            return f"{names} {self.counted}: {', '.join(of_each)}"
        first = [known[0].get(name, 0) for name in self.classes]
        return f"{min(first):,} to {max(first):,} {self.counted} of each in {self.parts[0].name}; {listed(of_each, 4)}"


def kinds(passed_over: Mapping[str, int]) -> str:
    """`12 .heic, 3 .txt` of endings and counts, the most first."""
    ordered = sorted(passed_over.items(), key=lambda pair: (-pair[1], pair[0]))
    return listed((f"{count:,} {printable(ending)}" for ending, count in ordered), 8)


def added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums of several counts."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)
