"""A study on disk: one SQLite file with trials, measurements and the algorithm's state, written by one process.

What is read is data: nothing of it is run, every field is checked by its type, and its size is bounded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.trials import (
    ENGINE_KEYS,
    DeviceOptions,
    Evaluation,
    Failure,
    Limits,
    Measurement,
    Observation,
    Owner,
    Plan,
    Proposal,
    StudyMeta,
    Trial,
)
from keras_mnasnet.utils.files import replaced
from keras_mnasnet.utils.locks import BusyError, locked, owner
from keras_mnasnet.utils.reading import LIMITS, parse_json, record

SCHEMA = 2
LARGEST_FILE = LIMITS["study"].most
LONGEST_VALUE = LIMITS["value"].most
DEEPEST = 16  # lists and objects within each other
LATEST = 1e10  # seconds since 1970: the year 2286
ANOTHER = "Name another --study file, or its backup"
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

OUTLINE = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
MOST_RUNG = 100
TRIAL_FIELDS = tuple(field.name for field in dataclasses.fields(Trial))
TRIAL_COLUMNS = ", ".join(f'"{name}"' for name in TRIAL_FIELDS)
JSON_FIELDS = ("candidate", "values", "extra", "seconds", "facts", "details")
STATUSES = ("pending", "running", "done", "failed")
MEASUREMENT_FIELDS = (
    "trial", "attempt", "worker", "started", "finished", "accuracy", "latency_ms", "latency_source", "params", "madds",
)  # fmt: skip


class Study:
    """An open study; `Study.create`, `Study.open` or `Study.at` make one. Closes as a context manager."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: contextlib.ExitStack | None) -> None:
        self.path = path
        self.read_only = lock is None
        self._connection = connection
        self._lock = lock
        self.meta: StudyMeta = self._read_meta()

    @classmethod
    def create(cls, path: str | os.PathLike[str], meta: StudyMeta) -> Study:
        """A new study; ValueError where the file exists, OSError where it cannot be written."""
        path = _absolute(path)
        if path.exists():
            raise ValueError(f"A new study needs a new file. Received: {path}, which exists")
        if not path.parent.is_dir():
            raise ValueError(f"A study is written into an existing folder. Received: {path}, but {path.parent} is none")
        with _locked(path), translated(path), replaced(path) as beside:  # a study is whole from its first moment
            created(beside, as_json(dataclasses.asdict(meta)))
        return cls.open(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str], read_only: bool = False) -> Study:
        """An existing study; ValueError for a file that is none, of a newer version, or that another process writes."""
        path = _absolute(path)
        if not path.exists():
            raise ValueError(
                f"A study file must exist. Received: {path}, which does not. `mnasnet search run --study FILE` starts one."
            )
        if not path.is_file():
            raise ValueError(f"A study must be a regular file. Received: {path}, which is a folder, a pipe or a device")
        size = path.stat().st_size
        if not 0 < size <= LARGEST_FILE:
            raise ValueError(
                f"A study must be a file of `mnasnet search run`, of at most {LARGEST_FILE:,} bytes. Received: {path}, which "
                f"is {f'of {size:,} bytes' if size else 'empty: remove it, or name another --study file'}"
            )
        if not read_only:
            lock = contextlib.ExitStack()
            lock.enter_context(_locked(path))
            return cls._writable(path, lock)
        check_name(path)
        with translated(path):
            connection = connect_read_only(path)
            try:
                return cls(path, connection, None)
            except BaseException:
                connection.close()
                raise

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
    def _writable(cls, path: Path, lock: contextlib.ExitStack) -> Study:
        try:
            with translated(path):
                check_name(path)
                connection = connect(path)
                try:
                    check_kind(path, connection)
                    check_pages(path, connection)
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last trials, never the file
                    connection.execute(
                        "INSERT INTO meta VALUES ('owner', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                        (as_json(owner()),),
                    )
                    return cls(path, connection, lock)
                except BaseException:
                    connection.close()
                    raise
        except BaseException:
            lock.close()
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
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def trials(self) -> list[Trial]:
        """Every trial, by number."""
        with translated(self.path):
            rows = self._connection.execute(f"SELECT {TRIAL_COLUMNS} FROM trials ORDER BY number").fetchall()
        return [self._trial(row) for row in rows]

    def scores(self) -> Iterator[tuple[int, float, float | None, float]]:
        """Number, accuracy, `latency_ms` and reward of every finished trial, by number: what ranks them, and no more."""
        query = "SELECT number, accuracy, latency_ms, reward FROM trials WHERE status = 'done' ORDER BY number"
        with translated(self.path):
            rows = self._connection.execute(query).fetchall()
        for row in rows:
            number, accuracy, latency_ms, reward = row
            _usual(accuracy, latency_ms, reward, self._place("trials", number))
            yield row

    def latest(self, count: int) -> list[Trial]:
        """The `count` trials that ended last, the last one at the end."""
        query = f"SELECT {TRIAL_COLUMNS} FROM trials WHERE status IN ('done', 'failed') ORDER BY finished DESC LIMIT ?"
        with translated(self.path):
            rows = self._connection.execute(query, (count,)).fetchall()
        return [self._trial(row) for row in rows[::-1]]

    def history(self) -> tuple[list[Proposal], list[Observation]]:
        """All that the algorithm asked for, by number, and all that it was told, in that order."""
        asked, told = [], []
        with translated(self.path):
            for row in self._connection.execute(f"SELECT {TRIAL_COLUMNS} FROM trials ORDER BY number"):
                trial = self._trial(row)
                if trial.of is None:
                    asked.append(Proposal(trial.candidate, trial.extra))
                if trial.told is not None:
                    told.append((trial.told, observation_of(trial)))
        told.sort(key=lambda pair: pair[0])
        return asked, [observation for _, observation in told]

    def trial(self, number: int) -> Trial:
        """One trial; ValueError where there is none of that number."""
        with translated(self.path):
            row = self._connection.execute(f"SELECT {TRIAL_COLUMNS} FROM trials WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise ValueError(f"A trial must be one of the study's {self.count()}. Received: number={number}")
        return self._trial(row)

    def asked(self) -> int:
        """How many trials were asked for, at a cost that does not grow with them."""
        with translated(self.path):
            return self._connection.execute("SELECT COALESCE(MAX(number) + 1, 0) FROM trials").fetchone()[0]

    def untold(self) -> list[Trial]:
        """The trials that the algorithm asked for and has not learned of, by number."""
        with translated(self.path):
            rows = self._connection.execute(f"SELECT {TRIAL_COLUMNS} FROM trials WHERE told IS NULL ORDER BY number").fetchall()
        return [self._trial(row) for row in rows]

    def count(self, *statuses: str) -> int:
        """How many trials there are, or are of these statuses."""
        where = f" WHERE status IN ({', '.join('?' * len(statuses))})" if statuses else ""
        with translated(self.path):
            return self._connection.execute(f"SELECT COUNT(*) FROM trials{where}", statuses).fetchone()[0]

    def measurements(self, trial: int | None = None, *, failed: bool = False) -> list[Measurement]:
        """Every attempt at every trial, or at one; `failed` leaves out those that succeeded."""
        where, values = (
            (" WHERE failure IS NOT NULL" if failed else "", ()) if trial is None else (" WHERE trial = ?", (trial,))
        )
        columns = ", ".join([*MEASUREMENT_FIELDS, "seconds", "failure", "reason", "details"])
        query = f"SELECT {columns} FROM measurements{where} ORDER BY trial, attempt"
        with translated(self.path):
            rows = self._connection.execute(query, values).fetchall()
        return [self._measurement(row) for row in rows]

    def state(self) -> bytes | None:
        """The algorithm's state after the last transaction."""
        with translated(self.path):
            row = self._connection.execute("SELECT algorithm FROM state").fetchone()
            rest = self._connection.execute("SELECT value FROM meta WHERE key = 'state'").fetchone()
        if row is not None and not isinstance(row[0], bytes):
            raise ValueError(f"{self._place('state', 1)} must hold bytes. Received: {type(row[0]).__name__} in `algorithm`")
        if rest is not None and not isinstance(rest[0], str):
            raise ValueError(f"{self._place('meta', 'state')} must hold a text. Received: {type(rest[0]).__name__} in `value`")
        return row and row[0] + (b"" if rest is None else b"\n" + rest[0].encode())

    def owner(self) -> dict[str, Any] | None:
        """The process that writes the study, or that was killed while it did."""
        return self._said("owner", Owner)

    def plan(self) -> dict[str, Any]:
        """How the last `run` was to go: trials, workers, executor; empty before the first."""
        return self._said("plan", Plan) or {}

    def _said(self, key: str, kind: Any) -> dict[str, Any] | None:
        """An entry of `meta` by its schema; None where there is none."""
        with translated(self.path):
            row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        what = self._place("meta", key)
        return None if row is None else dataclasses.asdict(fields_of(parsed(row[0], what), kind, what))

    def _read_meta(self) -> StudyMeta:
        with translated(self.path):
            row = self._connection.execute("SELECT value FROM meta WHERE key = 'study'").fetchone()
        what = self._place("meta", "study")
        if row is None:
            raise ValueError(f"{what} must say what the study is about. Received: no such row")
        meta = fields_of(parsed(row[0], what), StudyMeta, what)
        fields_of(meta.evaluation, Evaluation, f"{what}, `evaluation`,")
        fields_of(meta.evaluation.get("device_options", {}), DeviceOptions, f"{what}, `device_options`,")
        fields_of(meta.evaluation.get("limits", {}), Limits, f"{what}, `limits`,")
        try:
            Reward.from_json(meta.reward)
        except ValueError as error:
            raise ValueError(f"{what}, `reward`: {error}") from error
        return meta

    def _place(self, table: str, key: object) -> str:
        return f"Row {key} of table {table} of the study {self.path}"

    def _trial(self, row: tuple[Any, ...]) -> Trial:
        what = self._place("trials", row[0])
        found = fields_of(columns(TRIAL_FIELDS, row, what), Trial, what)
        if found.status not in STATUSES:
            raise ValueError(f"{what} must be one of {STATUSES}. Received: status={found.status[:40]!r}")
        if found.status == "done":
            _usual(found.accuracy, found.latency_ms, found.reward, what)
        for key in ENGINE_KEYS:
            value, most = found.extra.get(key, 0), MOST_RUNG if key == "rung" else found.number
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                raise ValueError(f"{what} must have a usual `{key}`. Received: {key}={str(value)[:40]}")
        if (found.rung > 0) != (found.of is not None) or found.number in (found.of, found.start):
            raise ValueError(f"{what} must go on with an earlier trial. Received: rung={found.rung}, of={found.of}")
        return _timely(found, what)

    def _measurement(self, row: tuple[Any, ...]) -> Measurement:
        what = self._place("measurements", f"{row[0]}, {row[1]}")
        fields = columns((*MEASUREMENT_FIELDS, "seconds", "failure", "reason", "details"), row, what)
        kind, reason = fields.pop("failure"), fields.pop("reason")
        return _timely(fields_of({**fields, "failure": kind and {"kind": kind, "reason": reason}}, Measurement, what), what)

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
        """The algorithm's state, whose lines behind the first are written only where they changed."""
        first, _, rest = state.partition(b"\n")
        self._connection.execute(
            "INSERT INTO state VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET algorithm = excluded.algorithm", (first,)
        )
        if rest:
            self._connection.execute(
                "INSERT INTO meta VALUES ('state', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value "
                "WHERE value <> excluded.value", (rest.decode(),)
            )  # fmt: skip


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.realpath(Path(path).expanduser()))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        held = contextlib.ExitStack()
        held.enter_context(locked(path))
    except BusyError as error:
        advice = f" `mnasnet search status --study {path}` reads it meanwhile."
        raise BusyError(path, error.holder, "A study", advice) from error
    with held:
        yield


def _shown(value: Any, other: Any) -> str:
    """The value, of objects only what the other has differently."""
    if isinstance(value, dict) and isinstance(other, dict):
        value = {key: item for key, item in value.items() if other.get(key, ...) != item}
    return repr(value)[:200]


T = TypeVar("T")


def parsed(text: Any, what: str) -> Any:
    """The value of a column with JSON; ValueError where it is something else, or nested too deeply."""
    if not isinstance(text, str):
        raise ValueError(f"{what} must hold JSON as a text. Received: {type(text).__name__}")
    value = parse_json(text, what)
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"{what} must be nested at most {DEEPEST} deep. Received: more")
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [item for each in inner for item in each]
    return value


def columns(names: Sequence[str], row: Sequence[Any], what: str) -> dict[str, Any]:
    """{column: value}, those with JSON parsed."""
    return {
        name: parsed(value, f"`{name}` of {what[0].lower()}{what[1:]}")
        if name in JSON_FIELDS and not (value is None and name == "facts")
        else value
        for name, value in zip(names, row, strict=True)
    }


def fields_of(value: Any, kind: type[T], what: str) -> T:
    """A dataclass from its fields; ValueError names the one of another type."""
    try:
        return record(value, kind, what)
    except OverflowError as error:
        raise ValueError(f"{what} must have numbers of a usual size. Received: {error}") from error


def _timely(found: Any, what: str) -> Any:
    """The trial or measurement; ValueError for times that are none."""
    for name in ("started", "finished"):
        value = getattr(found, name)
        if value is not None and not 0 <= value <= LATEST:
            raise ValueError(f"{what} must have seconds since 1970 in `{name}`. Received: {name}={value}")
    return found


def _usual(accuracy: Any, latency_ms: Any, reward: Any, what: str) -> None:
    """ValueError for figures of a finished trial that are none."""
    for name, value in (("accuracy", accuracy), ("reward", reward), ("latency_ms", 1.0 if latency_ms is None else latency_ms)):
        if not isinstance(value, int | float) or not math.isfinite(value) or (name == "latency_ms" and value <= 0):
            raise ValueError(f"{what}, a finished trial, must have a usual `{name}`. Received: {name}={str(value)[:80]}")


def check_networks(path: Path, trials: Sequence[Trial]) -> None:
    """ValueError for a trial of the study at `path` whose network cannot be read."""
    for trial in trials:
        try:
            if trial.architecture is not None:
                Architecture.parse(trial.architecture)
        except ValueError as error:
            raise ValueError(f"Row {trial.number} of table trials of the study {path}, `architecture`: {error}") from error


def observation_of(trial: Trial) -> Observation:
    """What came of a trial that ended, as the algorithm is told."""
    return Observation(trial.candidate, trial.extra, trial.accuracy, trial.latency_ms, trial.reward, trial.rung)


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
        raise ValueError(f"A study must be a file of `mnasnet search run`. Received: {path} ({text}). {ANOTHER}") from error


def connect(place: Path | str) -> sqlite3.Connection:
    """A connection that trusts nothing of the file: no functions in its schema, bounded values, checked cells."""
    connection = sqlite3.connect(place, isolation_level=None, timeout=60, uri=isinstance(place, str))
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Without a lock; a file that nobody writes may lie in a folder that cannot be written."""
    uri = f"file:{quote(str(path))}"
    for options in ("?mode=ro", "?mode=ro&immutable=1"):
        connection = connect(uri + options)
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


def check_name(path: Path) -> None:
    """ValueError for a hard link to a study that is written, or was broken off, under another name: its log is beside that."""
    if path.stat().st_nlink == 1 or Path(f"{path}-wal").exists():
        return
    with path.open("rb") as file:
        logged = file.read(20)[18:] == b"\2\2"
    if logged:
        raise ValueError(
            f"A study that is written, or was broken off, must be named as it is driven. Received: {path}, a hard link to it. "
            f"Use its other name."
        )


def check_kind(path: Path, connection: sqlite3.Connection) -> None:
    """ValueError for another program's file, for one of another schema, and for other tables than a study has."""
    kind = connection.execute("PRAGMA application_id").fetchone()[0]
    schema = connection.execute("PRAGMA user_version").fetchone()[0]
    found = tuple(connection.execute(OUTLINE).fetchmany(100))
    if kind != APPLICATION_ID:
        raise ValueError(
            f"A study must be a file of `mnasnet search run`. Received: {path}, which is another SQLite file. {ANOTHER}"
        )
    if schema != SCHEMA:
        raise ValueError(
            f"A study's schema must be {SCHEMA}. Received: {path} with schema {schema}, of "
            f"{'a newer keras_mnasnet: update it.' if schema > SCHEMA else 'an older keras_mnasnet, which goes on with it.'}"
        )
    if found != _outline():
        raise ValueError(f"A study must have the tables of a study, and no other ones. Received: {path}, whose schema differs")


@functools.cache
def _outline() -> tuple[tuple[Any, ...], ...]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(TABLES)
        return tuple(connection.execute(OUTLINE).fetchall())


def check_pages(path: Path, connection: sqlite3.Connection) -> None:
    """ValueError for a damaged file, before anything is written into it."""
    said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if said != "ok":
        said = " ".join(str(said).split())
        raise ValueError(f"A study must be a whole file of `mnasnet search run`. Received: {path}, which is damaged ({said})")


def as_json(value: Any) -> str:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
