"""A program that ends the processes of a Ray which a search began, when the search ends, however it ends.

`ray.py` runs this file. Ray's servers end with the process that began them, but not everything that these started does: an
agent that is still starting waits a minute for a server that is gone. All of them inherit the environment of the start, where
they are known by a mark.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

ROUNDS = 100  # a process that is being started while others end is seen in the next one
PAUSE_S = 0.1


def marked(mark: str) -> list[int]:
    """The processes of this system, other than this one, that were started with `mark`, NAME=VALUE, in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or one that ended
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def end(mark: str) -> None:
    """Kill what is marked, until nothing is, twice: a process that becomes another program has no environment for a moment."""
    empty = 0
    for _ in range(ROUNDS):
        found = marked(mark)
        empty = 0 if found else empty + 1
        if empty == 2:
            return
        for process in found:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    sys.stdin.buffer.read()  # until the search closes it, or ends
    end(sys.argv[1])
