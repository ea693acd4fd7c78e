"""`mnasnet`: the tree of commands, and what holds for all of them: exit status, errors, warnings, signals, terminals."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from keras_mnasnet._version import __version__
from keras_mnasnet.cli.parsing import Parser, UsageError
from keras_mnasnet.utils.system import held_stderr
from keras_mnasnet.utils.text import say

ROOMS = {  # the modules of `keras_mnasnet.cli`, and the commands of each
    "networks": ("networks", "info"), "predict": ("predict",), "data": ("data",), "train": ("train", "recipes"),
    "export": ("export", "qat"), "bench": ("bench",), "detect": ("detect",), "search": ("search",),
    "weights": ("weights", "push"),
}  # fmt: skip
PACKAGE = os.path.dirname(os.path.dirname(__file__))
LONGEST_ERROR = 4_000  # characters
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def parser(command: str | None = None) -> Parser:
    """The parser of `mnasnet` with all its commands; for one of them with those of its room alone, which takes less time."""
    top = Parser(
        prog="mnasnet",
        description="MnasNet for Keras 3: networks, checkpoints, training, export to phones, measurements and search.",
        usage="mnasnet COMMAND ...",
        epilog="example:\n  mnasnet predict cifar10 ship.png\n\n`mnasnet COMMAND --help` describes a command.",
    )
    top.add_argument("--version", action="version", version=f"mnasnet {__version__}", help="Print the version and exit.")
    for room in [room for room, commands in ROOMS.items() if command in commands] or ROOMS:
        importlib.import_module(f"keras_mnasnet.cli.{room}").add_commands(top)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0, 1 for a failure, 2 for wrong usage, 130 when it was interrupted."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments = parser(next(iter(words), None)).parse_args(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    with _plain_warnings():
        try:
            return arguments.run(arguments) or 0
        except BrokenPipeError:
            raise
        except KeyboardInterrupt as stop:
            say(f"\n{str(stop) or 'stopped'}")  # what a command says of how to go on
            return 128 + signal.SIGINT
        except UsageError as error:
            arguments.parser.complain(str(error))
            return 2
        except (ValueError, OSError, ImportError) as error:
            return _failed(str(error))
        except Exception as error:
            if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":
                raise
            said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            return _failed(
                f"Out of memory in `{arguments.parser.prog}`: {said}. Use a smaller --size or --batch-size, or fewer photos."
            )


def _failed(message: str) -> int:
    line = " ".join(line.strip() for line in message.splitlines() if line.strip())
    say(f"error: {line if len(line) <= LONGEST_ERROR else line[:LONGEST_ERROR] + ' ...'}")
    return 1


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """This package's warnings as one line each; those of libraries are not for the user of a command."""
    import logging

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (record.name == "absl" and PACKAGE in record.pathname) or record.name.startswith("keras_mnasnet"):
                say(f"warning: {record.getMessage()}")

    def show(message: Warning | str, category: type[Warning], filename: str, *_: Any) -> None:
        if filename.startswith(PACKAGE):
            say(f"warning: {message}")

    handler = Handler(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show  # type: ignore[assignment]
            yield
    finally:
        logging.getLogger().removeHandler(handler)


class _QuietImport:
    """TensorFlow's first import, without what its libraries write to standard error while they start; shown if it fails."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """The module's own spec, whose loader holds standard error."""
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def quietly(module: Any) -> None:
                with held_stderr():
                    load(module)

            spec.loader.exec_module = quietly  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM as SystemExit(143) in this process, so that temporary files are removed; a second one ends it at once.

    Forked children keep the system's way, and a caller that ignores or handles SIGTERM its own.
    """
    usual = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != process:
            os.kill(os.getpid(), signal.SIGTERM)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if os.getpid() == process:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def entry_point() -> None:
    """`mnasnet` as a program: `main`, in a quiet environment, for terminals of any encoding, and pipes that are closed."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    sys.meta_path.insert(0, _QuietImport())
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _terminable():
            status = main()
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    sys.exit(status)


if __name__ == "__main__":
    entry_point()
