"""Tables and JSON on standard output."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["print_json", "print_table"]


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


def _cell(value: Any) -> tuple[str, bool]:
    if value is None:
        return "-", True
    if isinstance(value, int):
        return f"{value:,}", True
    return (f"{value:g}", True) if isinstance(value, float) else (str(value), False)


def print_json(value: Any) -> None:
    """One JSON value."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
