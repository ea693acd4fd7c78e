"""Tables and JSON on standard output, in any terminal."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Column = str | Callable[[Any], Any]  # an attribute, or what gives the cell


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Columns aligned to their widest cell: the first to the left, numbers to the right; None prints as `-`."""
    cells = [[_cell(value) for value in row] for row in rows]
    texts = [list(header), *([text for text, _ in row] for row in cells)]
    right = [all(is_right for _, is_right in column) for column in zip(*cells, strict=True)] if cells else []
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    for row in texts:
        line = "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(row, widths, right or [False] * len(header), strict=True)
        )
        print(line.rstrip())


def print_columns(items: Iterable[Any], columns: Mapping[str, Column]) -> None:
    """A table of one row an item: each column's heading, and the attribute or function that fills it."""
    cells = list(columns.values())
    rows = ([getattr(item, cell) if isinstance(cell, str) else cell(item) for cell in cells] for item in items)
    print_table(list(columns), rows)


def _cell(value: Any) -> tuple[str, bool]:
    if value is None:
        return "-", True
    if isinstance(value, int):
        return f"{value:,}", True
    return (f"{value:g}", True) if isinstance(value, float) else (str(value), False)


def print_json(value: Any) -> None:
    """One JSON value: numbers that are none are null, and what the terminal cannot show is escaped as JSON does."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(_finite(value), indent=2)
    print(text)


def finish(arguments: argparse.Namespace, report: Any, show: Callable[[], None]) -> None:
    """The end of a measurement: `report` is written to `-o`, if that was given, and printed as JSON, or `show` prints it."""
    if arguments.output:
        from keras_mnasnet.benchmarks.results import write_json

        write_json(arguments.output, report)
    if arguments.json:
        return print_json(report)
    show()
    return print(f"wrote {arguments.output}") if arguments.output else None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rounded(value: float | None, digits: int = 6) -> float | None:
    """To so many digits behind the point."""
    return None if value is None else round(value, digits)


def percent(share: float | None) -> float | None:
    """Of a share from 0 to 1, in per cent with two digits."""
    return None if share is None else round(100 * share, 2)


def significant(value: float | None, digits: int = 4) -> float | None:
    """With so many digits that say something."""
    return None if value is None else float(f"{value:.{digits}g}")
