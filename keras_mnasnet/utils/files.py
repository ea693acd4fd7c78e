"""The one way in which this package writes files: whole under their name, or not at all.

While a file is written it is called `TEMPORARY` and its name, beside its target, and its writer holds a lock on it. The system
drops the lock of a process that ends, however it ends: what it left is told from what is being written, and taken away by the
next writer of the same file, or by `sweep`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keras_mnasnet.utils.locks import locked
from keras_mnasnet.utils.text import printable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".mnasnet-tmp-"
SCRATCH = "mnasnet-files-"  # and eight letters: a folder among the system's temporary ones
FULL = (os.strerror(errno.ENOSPC), "disk is full")  # as libraries say it, SQLite last
DATABASE = ("-journal", "-wal", "-shm")  # what SQLite puts beside a file that it writes
LONGEST_NAME = 60  # characters of a target's name that its temporary name ends with: 255 bytes are the most that systems take


@contextlib.contextmanager
def replaced(path: Path, *, needs: int | None = None) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends well, and is removed when it does not.

    A link stays, and its target is replaced; the permissions of a file that was there stay, a new one has those of the umask.
    Pipes and character devices (`/dev/null`, `/dev/stdout`) are written into. OSError for folders, block devices, sockets, a
    pipe that nobody reads, and where no space is left; it says the bytes that the file `needs`, where they are known.
    """
    target, before = _target(path)
    if _is_stream(target, before):
        with scratch() as folder:
            temporary = folder / path.name
            temporary.touch()
            with _space_named(path, temporary, needs):
                yield temporary
                _pour(temporary, path)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with _reserved(target.with_name(f"{TEMPORARY}{target.name[-LONGEST_NAME:]}")) as temporary:
        mode = stat.S_IMODE((before or temporary.stat()).st_mode)
        temporary.chmod(mode | stat.S_IWUSR)
        with _space_named(path, temporary, needs):
            yield temporary
            if before and (before.st_uid, before.st_gid) != (temporary.stat().st_uid, temporary.stat().st_gid):
                with contextlib.suppress(PermissionError):
                    os.chown(temporary, before.st_uid, before.st_gid)
            temporary.chmod(mode)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    _sync_folder(target.parent)


def write_file(path: Path, content: bytes | str) -> None:
    """Write bytes, or a text as UTF-8, in the way of `replaced`."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with replaced(path, needs=len(data)) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder whose content comes into the new or empty folder `path` when the block ends well, files last.

    ValueError for a folder that holds something, OSError where none can be written, BusyError where another process writes it.
    """
    target = Path(path).expanduser()
    if os.path.lexists(target) and not (target.is_dir() and is_empty(target)):
        raise ValueError(f"A folder must be new or empty. Received: {printable(target)}, which is not. Name another one.")
    is_new = not target.exists()
    check_writable(target / "x")
    try:
        with locked(target):
            temporary = target / f"{TEMPORARY}folder"
            shutil.rmtree(temporary, ignore_errors=True)  # of a writer that was killed
            temporary.mkdir()
            try:
                yield temporary
                for each in sorted(temporary.iterdir(), key=lambda each: (each.is_file(), each.name)):
                    os.rename(each, target / each.name)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                target.rmdir()
        raise
    _sync_folder(target)


def check_writable(path: str | os.PathLike[str]) -> None:
    """OSError, before any work is done, where `replaced` could not write a file."""
    target, before = _target(Path(path).expanduser())
    if _is_stream(target, before):
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise OSError(f"A file must be written in a folder that allows it. Received: {target} ({error})") from error


def is_empty(folder: Path) -> bool:
    """Whether nothing lies in a folder but what this package puts there while it works: temporary files and locks."""
    return all(
        path.name.startswith(TEMPORARY) or (path.name.startswith(".") and path.name.endswith(".lock"))
        for path in folder.iterdir()
    )


def sweep(folder: Path) -> None:
    """Remove what writers that ended early have left in a folder; what is being written stays."""
    for left in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError), _held(os.open(left, os.O_RDONLY | _GUARDED), wait=False):
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A new temporary folder, removed at the end; those that killed processes of this user have left are removed first."""
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*") if fcntl is not None else ():
        with contextlib.suppress(OSError), _held(os.open(left, os.O_RDONLY | _GUARDED | os.O_DIRECTORY), wait=False) as at:
            if os.fstat(at).st_uid == os.getuid():
                shutil.rmtree(left)
    while True:
        with tempfile.TemporaryDirectory(prefix=SCRATCH) as name, contextlib.ExitStack() as held:
            folder = Path(name)
            try:
                at = held.enter_context(_held(os.open(folder, os.O_RDONLY))) if fcntl is not None else None
            except FileNotFoundError:
                continue
            if at is None or _is_at(at, folder):  # not swept by another one in this very moment
                yield folder
                return


_GUARDED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def _target(path: Path) -> tuple[Path, os.stat_result | None]:
    """The file that a path leads to, through links, and what is there; OSError for what no file can be written to."""
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):  # or a link to what is not there yet
        facts = None
    if facts and stat.S_ISDIR(facts.st_mode):
        raise OSError(f"A file must be written, not a folder. Received: {path}, which is a folder")
    if facts and (stat.S_ISBLK(facts.st_mode) or stat.S_ISSOCK(facts.st_mode)):
        raise OSError(
            f"A file, a pipe or a character device must be written. Received: {path}, which is a block device or a socket"
        )
    return Path(os.path.realpath(path)), facts


def _is_stream(target: Path, facts: os.stat_result | None) -> bool:
    """Whether bytes go into what is there, which has no name to be replaced: a pipe, a device, a file that is open only."""
    if facts is None:
        return False
    return not stat.S_ISREG(facts.st_mode) or not target.exists() or not os.path.samestat(target.stat(), facts)


def _pour(source: Path, stream: Path) -> None:
    try:
        descriptor = os.open(stream, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(f"A pipe must be read from while it is written. Received: {stream}, which nobody reads") from error
        raise
    os.set_blocking(descriptor, True)
    with open(descriptor, "wb") as into, source.open("rb") as content:
        shutil.copyfileobj(content, into)


@contextlib.contextmanager
def _reserved(temporary: Path) -> Iterator[Path]:
    """A new empty file that this writer alone has; waits for another writer of the same file, and takes away a dead one's."""
    while True:
        try:
            descriptor, is_new = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            if temporary.is_symlink():
                temporary.unlink(missing_ok=True)
                continue
            try:
                descriptor, is_new = os.open(temporary, os.O_RDONLY | _GUARDED), False
            except FileNotFoundError:
                continue
        with _held(descriptor):
            if not _is_at(descriptor, temporary):
                continue
            if not is_new:
                _remove(temporary)
                continue
            try:
                yield temporary
            except BaseException:
                _remove(temporary)
                raise
            return


def _remove(temporary: Path) -> None:
    for ending in (*DATABASE, ""):
        temporary.with_name(temporary.name + ending).unlink(missing_ok=True)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _held(descriptor: int, *, wait: bool = True) -> Iterator[int]:
    """An open file, locked until the block ends; BlockingIOError where another one holds it and this is not to `wait`."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _space_named(path: Path, temporary: Path, needs: int | None) -> Iterator[None]:
    """OSError that names the file and what it needs, where a writer says in whatever way that no space is left."""
    try:
        yield
    except Exception as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(text in str(error) for text in FULL)
        if not full:
            raise
        written = temporary.stat().st_size if temporary.exists() else 0
        size = f"{needs:,} bytes" if needs is not None else f"more than {written:,} bytes"
        raise OSError(
            f"No space is left to write {path}, which needs {size}. Nothing half-written was kept. Free space there, or name "
            f"another place."
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make the new name of a file last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
