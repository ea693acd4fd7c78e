"""The one way in which this package reads what others wrote: within bounds, by a schema, and never run.

Every reader ends in one of two ways: with a value, or with one error that says what was expected and what was received.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, TypeVar

MIB = 2**20
LONGEST_TEXT = 64 * MIB  # a run, a recipe, a header, a report, a table, a study's record
LONGEST_ANNOTATIONS = 2048 * MIB  # COCO's own file of 2017 has 448 MiB

T = TypeVar("T")


def read_bytes(path: str | os.PathLike[str], what: str, *, limit: int = LONGEST_TEXT) -> bytes:
    """A whole regular file of at most `limit` bytes; ValueError that begins with `what`, an OSError that names the file."""
    place = Path(path).expanduser()
    with open(os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError(f"{what} must be a regular file. Received: {place}, which is a folder, a pipe or a device")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{what} must have at most {limit:,} bytes. Received: {place} of {facts.st_size:,}")
    return content


def parse_json(content: str | bytes, what: str) -> Any:
    """The value of a JSON text; ValueError that begins with `what` for anything else, however deep or damaged it is."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{what} must be JSON. Received: {reason}") from error


def read_json(path: str | os.PathLike[str], what: str, *, limit: int = LONGEST_TEXT) -> Any:
    """The value of a JSON file; ValueError that begins with `what` and names the file."""
    content = read_bytes(path, what, limit=limit)
    try:
        return parse_json(content, what)
    except ValueError as error:
        raise ValueError(f"{error} in {path}") from error


def record(value: Any, kind: type[T], what: str) -> T:
    """A value of JSON as the dataclass (or any annotated type) `kind`; ValueError names the field that has another type.

    Lists become tuples where the type says so, and fields with a default may be missing. Fields that `kind` does not have are
    refused, because a setting that is passed over silently would change a result.

    >>> record(["a", 1], tuple[str, ...], "A list of labels")
    Traceback (most recent call last):
    ValueError: A list of labels must have the fields of its schema. Received: expected `str`, got `int` at $[1]
    """
    import dataclasses

    import msgspec

    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        unknown = sorted(set(map(str, value)) - {field.name for field in dataclasses.fields(kind)})
        if unknown:
            raise ValueError(f"{what} must have the fields of its schema. Received: unknown {', '.join(unknown[:5])}")
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        reason = str(error)[:1].lower() + str(error)[1:].replace(" - at `$", " at $").rstrip("`")
        raise ValueError(f"{what} must have the fields of its schema. Received: {reason}") from error
