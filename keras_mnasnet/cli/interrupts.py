"""Ctrl-C that is not lost."""

from __future__ import annotations

import signal
import threading
from types import FrameType

__all__ = ["Interrupts"]


class Interrupts:
    """Within the block, Ctrl-C raises KeyboardInterrupt at once, and `check` raises it again.

    An exception raised while a native library calls back into Python can be swallowed there, and with it the Ctrl-C.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._on)
        else:
            self._before = None
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """KeyboardInterrupt if Ctrl-C came within the block."""
        if self.asked:
            raise KeyboardInterrupt
