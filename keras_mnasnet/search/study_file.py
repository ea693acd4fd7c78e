"""The SQLite file of a study: its tables, its kind and schema, and SQLite's errors in plain words."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

__all__ = ["SCHEMA", "as_json", "check_kind", "connect_read_only", "created", "translated"]

SCHEMA = 1
APPLICATION_ID = 0x4D4E4153  # "MNAS", in the header of the file
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE trials (
  number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, candidate TEXT NOT NULL, "values" TEXT NOT NULL, architecture TEXT,
  extra TEXT NOT NULL, status TEXT NOT NULL CHECK (status IN ('pending', 'running', 'done', 'failed')),
  accuracy REAL, latency_ms REAL, latency_source TEXT, reward REAL, params INTEGER, madds INTEGER, seconds TEXT NOT NULL,
  started REAL, finished REAL, worker TEXT, reason TEXT, attempts INTEGER NOT NULL, told INTEGER UNIQUE, facts TEXT
);
CREATE TABLE measurements (
  trial INTEGER NOT NULL REFERENCES trials (number), attempt INTEGER NOT NULL, worker TEXT NOT NULL,
  started REAL NOT NULL, finished REAL NOT NULL, accuracy REAL, latency_ms REAL, latency_source TEXT, params INTEGER,
  madds INTEGER, seconds TEXT NOT NULL, failure TEXT, reason TEXT, details TEXT NOT NULL, PRIMARY KEY (trial, attempt)
);
CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), algorithm BLOB NOT NULL);
"""


def created(path: Path, meta: str) -> None:
    """A new file with empty tables and what the study is about."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.executescript(
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA}; BEGIN; {TABLES} COMMIT;"
        )
        connection.execute("INSERT INTO meta VALUES ('study', ?)", (meta,))
    finally:
        connection.close()


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors as the house's."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "full" in text or "disk I/O" in text:
            raise OSError(
                f"The study must be written to disk. Received: {text}, for {path}. What was finished is kept: make room and "
                f"start the same command again."
            ) from error
        if "readonly" in text or "unable to open" in text:
            raise OSError(f"The study's file and folder must be writable. Received: {text}, for {path}") from error
        if isinstance(error, sqlite3.OperationalError) and "locked" in text:
            raise ValueError(
                f"A study is written by one process at a time. Received: {path}, which is locked ({text})"
            ) from error
        raise ValueError(f"A study must be a file of `mnasnet search run`. Received: {path} ({text})") from error


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Without a lock; a file that nobody writes may lie in a folder that cannot be written."""
    uri = f"file:{quote(str(path))}"
    for options in ("?mode=ro", "?mode=ro&immutable=1"):
        connection = sqlite3.connect(uri + options, uri=True, isolation_level=None, timeout=60)
        try:
            check_kind(path, connection)
            return connection
        except sqlite3.OperationalError:
            connection.close()
            if "immutable" in options or Path(f"{path}-wal").exists():
                raise
        except BaseException:
            connection.close()
            raise
    raise AssertionError("unreachable")


def check_kind(path: Path, connection: sqlite3.Connection) -> None:
    """ValueError for another program's file, and for a newer schema."""
    kind = connection.execute("PRAGMA application_id").fetchone()[0]
    schema = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if kind != APPLICATION_ID:
        raise ValueError(f"A study must be a file of `mnasnet search run`. Received: {path}, which is another SQLite file")
    if schema != SCHEMA:
        raise ValueError(
            f"A study's schema must be {SCHEMA}. Received: {path} with schema {schema}, of a newer keras_mnasnet: update it."
        )


def as_json(value: Any) -> str:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
