"""The one way in which this package keeps two processes from writing the same thing."""

from __future__ import annotations

import contextlib
import datetime
import os
import shlex
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LONGEST_COMMAND = 300


class BusyError(OSError):
    """Another process (or another part of this one) holds the file or folder; `holder` says who, as a text."""

    def __init__(self, path: Path, holder: str, what: str = "A file or folder", advice: str = "") -> None:
        super().__init__(f"{what} is written by one process at a time. Received: {path}, which {holder} is writing.{advice}")
        self.path, self.holder = path, holder


@contextlib.contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Hold a file or folder for this process alone, under whatever name it is reached; gives the resolved path.

    The lock has two parts: one file beside the resolved path, which also keeps out processes of other machines, and, where the
    path exists, one for its device and inode in this user's temporary folder, which keeps out hard links on this machine. What
    does not exist yet is held by its name alone: lock it again when it is there. Both are removed at the end, and one that a
    killed process left holds nobody.

    Raises BusyError, which names the holder; OSError for a folder that cannot be written.

    Example:
        with locked(Path("mine.study")) as path:
            path.write_bytes(b"...")
    """
    resolved = Path(os.path.realpath(Path(path).expanduser()))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_held(_beside(resolved), resolved))
        with contextlib.suppress(FileNotFoundError):
            facts = os.stat(resolved)
            stack.enter_context(_held(_folder() / f"{facts.st_dev:x}-{facts.st_ino:x}.lock", resolved))
        yield resolved


def sweep_lock(path: Path) -> None:
    """Remove the lock beside a file that a killed process left, unless somebody holds it or the folder is read-only."""
    resolved = Path(os.path.realpath(path))
    if _beside(resolved).exists():
        with contextlib.suppress(OSError), locked(resolved):
            pass


def _beside(resolved: Path) -> Path:
    return resolved.with_name(f".{resolved.name}.lock")


def owner() -> dict[str, Any]:
    """This process, as it is named to others: `pid`, `host`, `since`, `command`."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv)[:LONGEST_COMMAND],
    }


@contextlib.contextmanager
def _held(file: Path, path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(path, _holder(file)) from error
    try:
        me = owner()
        with contextlib.suppress(OSError):  # what it says is for a message alone
            file.write_text(f"process {me['pid']} on {me['host']} (since {me['since']}: {me['command']})", "utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):  # while it is held: afterwards it may be another process's
            file.unlink(missing_ok=True)
        lock.release()


def _holder(file: Path) -> str:
    with contextlib.suppress(OSError), file.open("rb") as opened:
        text = opened.read(2 * LONGEST_COMMAND).decode("utf-8", "replace")
        if text:
            return " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return "another process"


def _folder() -> Path:
    """This user's folder of locks by inode; OSError where another user made it."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    folder = Path(tempfile.gettempdir()) / f"keras_mnasnet-locks-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or (user != "" and facts.st_uid != user):
        raise OSError(
            f"The folder of locks must be this user's own. Received: {folder}, which is not. Remove it, or set TMPDIR"
        )
    return folder
