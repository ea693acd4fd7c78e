"""Holding back what native libraries write to standard output and standard error."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, TextIO

__all__ = ["held_output", "held_stderr"]


@contextlib.contextmanager
def held_stderr() -> Iterator[None]:
    """Hold back what native code writes to standard error (TensorFlow's start-up lines); show it if the block fails."""
    with _held(sys.stderr):
        yield


@contextlib.contextmanager
def held_output() -> Iterator[TextIO]:
    """Hold back what native code writes to standard output and standard error; show it on standard error if the block fails.

    Gives the standard error that is not held, for progress.
    """
    try:
        saved = os.dup(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        yield sys.stderr
        return
    with open(saved, "w", encoding="utf-8") as shown, _held(sys.stderr), _held(sys.stdout):
        yield shown


@contextlib.contextmanager
def _held(stream: Any) -> Iterator[None]:
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        yield
        return
    with tempfile.TemporaryFile() as held:
        stream.flush()
        saved = os.dup(descriptor)
        os.dup2(held.fileno(), descriptor)
        failed = True
        try:
            yield
            failed = False
        finally:
            stream.flush()
            os.dup2(saved, descriptor)
            os.close(saved)
            if failed:
                held.seek(0)
                os.write(2, held.read())
