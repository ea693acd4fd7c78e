"""Tables and JSON on standard output, and a quiet standard error while native libraries start."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

__all__ = ["held_stderr", "print_json", "print_table"]


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


@contextlib.contextmanager
def held_stderr() -> Iterator[None]:
    """Hold back what native code writes to standard error (TensorFlow's start-up lines); show it if the block fails."""
    try:
        stderr = sys.stderr.fileno()
    except (OSError, ValueError):
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        saved = os.dup(stderr)
        os.dup2(held.fileno(), stderr)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(saved, stderr)
            os.close(saved)
            if failed:
                held.seek(0)
                os.write(stderr, held.read())
