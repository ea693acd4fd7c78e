"""A study on disk: one SQLite file with trials, measurements and the algorithm's state, written by one process."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import shlex
import socket
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout

from keras_mnasnet.search.trials import Failure, Measurement, StudyMeta, Trial

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

TRIAL_FIELDS = tuple(field.name for field in dataclasses.fields(Trial))
TRIAL_COLUMNS = ", ".join(f'"{name}"' for name in TRIAL_FIELDS)
MEASUREMENT_FIELDS = (
    "trial", "attempt", "worker", "started", "finished", "accuracy", "latency_ms", "latency_source", "params", "madds",
)  # fmt: skip


class Study:
    """An open study; `Study.create`, `Study.open` or `Study.at` make one. Closes as a context manager."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: FileLock | None) -> None:
        self.path = path
        self.read_only = lock is None
        self._connection = connection
        self._lock = lock
        self.meta: StudyMeta = _read_meta(path, connection)

    @classmethod
    def create(cls, path: str | os.PathLike[str], meta: StudyMeta) -> Study:
        """A new study; ValueError where the file exists, OSError where it cannot be written."""
        path = _absolute(path)
        if path.exists():
            raise ValueError(f"A new study needs a new file. Received: {path}, which exists")
        if not path.parent.is_dir():
            raise ValueError(f"A study is written into an existing folder. Received: {path}, but {path.parent} is none")
        lock = _locked(path)
        beside = path.with_name(f".{path.name}.new")
        try:
            beside.unlink(missing_ok=True)
            with translated(path):
                created(beside, as_json(dataclasses.asdict(meta)))
                os.replace(beside, path)  # a study is whole from its first moment
        except BaseException:
            beside.unlink(missing_ok=True)
            lock.release()
            raise
        return cls._writable(path, lock)

    @classmethod
    def open(cls, path: str | os.PathLike[str], read_only: bool = False) -> Study:
        """An existing study; ValueError for a file that is none, of a newer version, or that another process writes."""
        path = _absolute(path)
        if not path.is_file():
            raise ValueError(
                f"A study file must exist. Received: {path}, which does not. `mnasnet search run --study FILE` starts one."
            )
        if not read_only:
            return cls._writable(path, _locked(path))
        with translated(path):
            return cls(path, connect_read_only(path), None)

    @classmethod
    def at(cls, path: str | os.PathLike[str], meta: StudyMeta) -> Study:
        """The study at `path`, begun where there is none; ValueError where it is about something else than `meta`."""
        if not _absolute(path).exists():
            return cls.create(path, meta)
        study = cls.open(path)
        try:
            study.require(meta)
        except BaseException:
            study.close()
            raise
        return study

    @classmethod
    def _writable(cls, path: Path, lock: FileLock) -> Study:
        try:
            with translated(path):
                connection = sqlite3.connect(path, isolation_level=None, timeout=60)
                try:
                    check_kind(path, connection)
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last trials, never the file
                    connection.execute(
                        "INSERT INTO meta VALUES ('owner', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                        (as_json(_owner()),),
                    )
                    return cls(path, connection, lock)
                except BaseException:
                    connection.close()
                    raise
        except BaseException:
            lock.release()
            raise

    def require(self, meta: StudyMeta) -> None:
        """ValueError that names what differs, where `meta` is of another search than this study's."""
        if self.meta.fingerprint != meta.fingerprint:
            raise ValueError(
                f"A study goes on in the space it was begun in. Received: space {meta.space} {meta.space_options or ''} for "
                f"{self.path}, which is of {self.meta.space} {self.meta.space_options or ''}. Name another --study file."
            )
        for name in ("algorithm", "algorithm_options", "reward", "seed", "device", "data", "recipe", "evaluation"):
            was, now = getattr(self.meta, name), json.loads(as_json(getattr(meta, name)))  # JSON knows no tuples
            if was != now:
                raise ValueError(
                    f"A study goes on with the settings of its start. Received: {name}={_shown(now, was)}, {self.path} has "
                    f"{_shown(was, now)}. Leave it out to go on, or name another --study file."
                )

    def close(self) -> None:
        """Close the file; a writer also gives up its lock."""
        if self._connection is not None and not self.read_only:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("DELETE FROM meta WHERE key = 'owner'")
                self._connection.execute("PRAGMA journal_mode = DELETE")  # one file, which reading does not change
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        if self._lock is not None:
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock = None

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def trials(self) -> list[Trial]:
        """Every trial, by number."""
        with translated(self.path):
            rows = self._connection.execute(f"SELECT {TRIAL_COLUMNS} FROM trials ORDER BY number").fetchall()
        return [_trial(row) for row in rows]

    def trial(self, number: int) -> Trial:
        """One trial; ValueError where there is none of that number."""
        with translated(self.path):
            row = self._connection.execute(f"SELECT {TRIAL_COLUMNS} FROM trials WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise ValueError(f"A trial must be one of the study's {self.count()}. Received: number={number}")
        return _trial(row)

    def untold(self) -> list[Trial]:
        """The trials that the algorithm asked for and has not learned of, by number."""
        with translated(self.path):
            rows = self._connection.execute(f"SELECT {TRIAL_COLUMNS} FROM trials WHERE told IS NULL ORDER BY number").fetchall()
        return [_trial(row) for row in rows]

    def count(self, *statuses: str) -> int:
        """How many trials there are, or are of these statuses."""
        where = f" WHERE status IN ({', '.join('?' * len(statuses))})" if statuses else ""
        with translated(self.path):
            return self._connection.execute(f"SELECT COUNT(*) FROM trials{where}", statuses).fetchone()[0]

    def measurements(self, trial: int | None = None) -> list[Measurement]:
        """Every attempt at every trial, or at one, failed ones included."""
        where, values = ("", ()) if trial is None else (" WHERE trial = ?", (trial,))
        columns = ", ".join([*MEASUREMENT_FIELDS, "seconds", "failure", "reason", "details"])
        query = f"SELECT {columns} FROM measurements{where} ORDER BY trial, attempt"
        with translated(self.path):
            rows = self._connection.execute(query, values).fetchall()
        return [_measurement(row) for row in rows]

    def state(self) -> bytes | None:
        """The algorithm's state after the last transaction."""
        with translated(self.path):
            row = self._connection.execute("SELECT algorithm FROM state").fetchone()
        return row and row[0]

    def owner(self) -> dict[str, Any] | None:
        """The process that writes the study, or that was killed while it did."""
        with translated(self.path):
            row = self._connection.execute("SELECT value FROM meta WHERE key = 'owner'").fetchone()
        return row and json.loads(row[0])

    def plan(self) -> dict[str, Any]:
        """How the last `run` was to go: trials, workers, executor; empty before the first."""
        with translated(self.path):
            row = self._connection.execute("SELECT value FROM meta WHERE key = 'plan'").fetchone()
        return json.loads(row[0]) if row else {}

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Writer]:
        """All that is written in the block is kept, or nothing; OSError for a full disk."""
        if self.read_only:
            raise ValueError(f"A study opened to be read cannot be written. Received: {self.path} with read_only=True")
        with translated(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield Writer(self._connection)
                self._commit()
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def _commit(self) -> None:
        self._connection.execute("COMMIT")


class Writer:
    """What can be written in one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, trial: Trial) -> None:
        """A new, pending trial; ValueError for a network that the study has."""
        try:
            self._connection.execute(
                'INSERT INTO trials (number, key, candidate, "values", architecture, extra, status, seconds, attempts) '
                "VALUES (?, ?, ?, ?, ?, ?, 'pending', '{}', 0)",
                (
                    trial.number,
                    trial.key,
                    as_json(trial.candidate),
                    as_json(trial.values),
                    trial.architecture,
                    as_json(trial.extra),
                ),
            )  # fmt: skip
        except sqlite3.IntegrityError as error:
            raise ValueError(
                f"An algorithm may ask for a network once. Received: trial {trial.number}, {trial.values}, again ({error})"
            ) from error

    def started(self, number: int, worker: str, when: float) -> None:
        """A worker took the trial."""
        self._connection.execute(
            "UPDATE trials SET status = 'running', worker = ?, started = ?, attempts = attempts + 1 WHERE number = ?",
            (worker, when, number),
        )

    def waiting(self, number: int, *, forget: bool = False) -> None:
        """The trial waits for a worker again; `forget`: its last attempt does not count, it was broken off."""
        less = ", attempts = attempts - 1" if forget else ""
        self._connection.execute(f"UPDATE trials SET status = 'pending'{less} WHERE number = ?", (number,))

    def measured(self, found: Measurement) -> None:
        """What an attempt returned."""
        failure = found.failure or Failure("", "")
        values = [getattr(found, name) for name in MEASUREMENT_FIELDS]
        values += [as_json(found.seconds), failure.kind or None, failure.reason or None, as_json(found.details)]
        self._connection.execute(f"INSERT OR REPLACE INTO measurements VALUES ({', '.join('?' * len(values))})", values)

    def finished(self, found: Measurement, latency_ms: float | None, reward: float | None) -> None:
        """The trial is done, or failed where its last attempt did."""
        reason = str(found.failure) if found.failure else None
        self._connection.execute(
            "UPDATE trials SET status = ?, accuracy = ?, latency_ms = ?, latency_source = ?, reward = ?, params = ?, "
            "madds = ?, seconds = ?, started = ?, finished = ?, worker = ?, reason = ?, attempts = ? WHERE number = ?",
            (
                "failed" if found.failure else "done", None if found.failure else found.accuracy, latency_ms,
                found.latency_source, reward, found.params, found.madds, as_json(found.seconds), found.started, found.finished,
                found.worker, reason, found.attempt, found.trial,
            ),
        )  # fmt: skip

    def told(self, numbers: Sequence[int], facts: dict[str, float] | None) -> None:
        """The algorithm learned of these trials, in this order; `facts` are what it says of itself after the last."""
        last = self._connection.execute("SELECT COALESCE(MAX(told), -1) FROM trials").fetchone()[0]
        for place, number in enumerate(numbers, start=last + 1):
            own = as_json(facts) if facts is not None and number == numbers[-1] else None
            self._connection.execute("UPDATE trials SET told = ?, facts = ? WHERE number = ?", (place, own, number))

    def plan(self, plan: dict[str, Any]) -> None:
        """How a run is to go, for `status` and for going on."""
        self._connection.execute(
            "INSERT INTO meta VALUES ('plan', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (as_json(plan),)
        )

    def state(self, state: bytes) -> None:
        """The algorithm's state."""
        self._connection.execute(
            "INSERT INTO state VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET algorithm = excluded.algorithm", (state,)
        )


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(path).expanduser().absolute()


def _read_meta(path: Path, connection: sqlite3.Connection) -> StudyMeta:
    try:
        with translated(path):
            value = json.loads(connection.execute("SELECT value FROM meta WHERE key = 'study'").fetchone()[0])
        return StudyMeta(**value)
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"A study must say what it is about. Received: {path} ({error})") from error


def _locked(path: Path) -> FileLock:
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"A study is written by one process at a time. Received: {path}, which {_named_owner(path)} is writing. "
            f"`mnasnet search status --study {path}` reads it meanwhile."
        ) from error
    return lock


def _named_owner(path: Path) -> str:
    with contextlib.suppress(Exception), Study.open(path, read_only=True) as study:
        owner = study.owner()
        if owner:
            return f"process {owner['pid']} on {owner['host']} (since {owner['since']}: {owner['command']})"
    return "another process"


def _owner() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv)[:300],
    }


def _shown(value: Any, other: Any) -> str:
    """The value, of objects only what the other has differently."""
    if isinstance(value, dict) and isinstance(other, dict):
        value = {key: item for key, item in value.items() if other.get(key, ...) != item}
    return repr(value)[:200]


def _trial(row: tuple[Any, ...]) -> Trial:
    fields: dict[str, Any] = dict(zip(TRIAL_FIELDS, row, strict=True))
    fields["candidate"] = tuple(json.loads(fields["candidate"]))
    for name in ("values", "seconds", "extra", "facts"):
        fields[name] = fields[name] and json.loads(fields[name])
    return Trial(**fields)


def _measurement(row: tuple[Any, ...]) -> Measurement:
    *figures, seconds, kind, reason, details = row
    return Measurement(
        **dict(zip(MEASUREMENT_FIELDS, figures, strict=True)), seconds=json.loads(seconds),
        failure=Failure(kind, reason) if kind else None, details=json.loads(details),
    )  # fmt: skip


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
