"""Text for people: what is near a mistyped name, the header of a long command, and its signs of life."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

SECONDS = 10.0  # the longest silence of a long command


def did_you_mean(word: object, known: Iterable[str], *, most: int = 3) -> str:
    """` Did you mean 'imagenet'?` with a space in front, or nothing where no known name is near."""
    import difflib

    near = difflib.get_close_matches(str(word).lower(), list(known), n=most, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def listed(items: Iterable[object], most: int = 6) -> str:
    """`a, b, c and 4 more`."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def printable(text: object) -> str:
    """A text that can be printed and written anywhere: bytes of a path that are not UTF-8 are shown as `\\xe9`."""
    try:
        return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character, as JSON can hold it
        return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def json_text(value: Any) -> str:
    """JSON as it is written into files: readable, and escaped where a text is not UTF-8, as names of files can be."""
    import json

    text = json.dumps(value, indent=1, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=1)
    return text


def say(text: str) -> None:
    """A line for the person at the command, on standard error; characters that it cannot show are escaped."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
    if "tqdm" in sys.modules:  # a bar that is shown makes room
        sys.modules["tqdm"].tqdm.write(shown, file=sys.stderr)
    else:
        print(shown, file=sys.stderr)
    sys.stderr.flush()


def header(rows: Mapping[str, object], *, shown: bool = True) -> None:
    """What a long command read and will do, one `name  value` line each; rows whose value is None are left out."""
    if shown:
        given = {name: value for name, value in rows.items() if value is not None}
        width = max(map(len, given), default=0)
        for name, value in given.items():
            say(f"{name:<{width}}  {value}")


class Life:
    """Signs of life of long work on standard error: a bar on a terminal, elsewhere a line at least every ten seconds.

    Use it as a context; `step` says that one more unit is done, `note` is what there is to say of the work besides.

    Example:
        with Life("decode", total=len(photos), unit="photo") as life:
            for photo in photos:
                decode(photo)
                life.step()
    """

    def __init__(self, what: str, *, total: int | None = None, unit: str = "step", shown: bool = True, done: int = 0) -> None:
        self.what, self.total, self.unit, self.shown = what, total, unit, shown
        self.first = self.done = done
        self.note = ""
        self.terminal = shown and sys.stderr.isatty()
        self._bar: Any = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Life:
        self.started = self._spoken = time.monotonic()
        if self.terminal:
            from tqdm import tqdm

            self._bar = tqdm(
                desc=self.what, total=self.total, initial=self.done, unit=self.unit, leave=False, dynamic_ncols=True
            )
        if self.shown:
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._bar is not None:
            self._bar.close()

    def step(self, count: int = 1, note: str | None = None) -> None:
        """`count` more units are done; `note` replaces what stands behind them."""
        self.done += count
        self.note = self.note if note is None else note
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(count)
        elif self.shown and time.monotonic() - self._spoken >= SECONDS:
            self._speak()

    def text(self) -> str:
        """The line: `train: 120 of 500 steps, 1:20 left, loss 0.31`."""
        from tqdm import tqdm

        seconds = time.monotonic() - self.started
        fresh = self.done - self.first
        unit = self.unit if self.done == 1 and self.total is None else f"{self.unit}s"
        counted = f"{self.done:,} {unit}" if self.total is None else f"{self.done:,} of {self.total:,} {unit}"
        left = ""
        if self.total is not None and fresh:
            left = f", {tqdm.format_interval(max(0, self.total - self.done) * seconds / fresh)} left"
        elif not fresh:
            left = f", {tqdm.format_interval(seconds)} so far"
        return f"{self.what}: {counted}{left}{f', {self.note}' if self.note else ''}"

    def _beat(self) -> None:
        """Speak where the work itself has been silent for too long."""
        while not self._ended.wait(1.0):
            if time.monotonic() - self._spoken >= SECONDS:
                self._speak()

    def _speak(self) -> None:
        self._spoken = time.monotonic()
        if self._bar is not None:
            self._bar.refresh()
        else:
            say(self.text())
