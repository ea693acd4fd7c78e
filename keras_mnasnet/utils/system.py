"""This machine: versions, processor and cores that something was measured on, and what native libraries write; and Ctrl-C."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from keras_mnasnet._version import __version__

CORES = Path("/sys/devices/system/cpu")


def environment() -> dict[str, Any]:
    """Versions, processor and cores of this machine; starts the Keras backend to name it."""
    return machine() | {"keras": _version("keras"), "backend": _backend(), "tensorflow": _version("tensorflow")}


def machine() -> dict[str, Any]:
    """Processor, cores and the versions of what runs without Keras; loads nothing."""
    import platform

    return {
        "keras_mnasnet": __version__,
        "python": platform.python_version(),
        "litert": _version("ai-edge-litert"),
        "onnxruntime": _version("onnxruntime"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": available_cores(),
    }


def available_cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none where nvidia-smi lists none."""
    import subprocess

    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not found or named is None:
        return found
    return list(itertools.takewhile(lambda each: each not in ("", "-1"), map(str.strip, named.split(","))))


def core_state(core: int) -> dict[str, Any]:
    """Governor, clock and highest clock (MHz) of one core, each None where the system does not say."""
    folder = CORES / f"cpu{core}" / "cpufreq"
    clock = _megahertz(folder / "scaling_cur_freq")
    return {
        "core": core,
        "governor": _read(folder / "scaling_governor"),
        "clock_mhz": _nominal_clock(core) if clock is None else clock,
        "max_clock_mhz": _megahertz(folder / "cpuinfo_max_freq"),
    }


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip() or None
    except OSError:
        return None


def _megahertz(path: Path) -> float | None:
    text = _read(path)
    return int(text) / 1000 if text and text.isdigit() else None


def _nominal_clock(core: int) -> float | None:
    """What /proc/cpuinfo says of a core; on a virtual machine that is the nominal clock."""
    for part in (_read(Path("/proc/cpuinfo")) or "").split("\n\n"):
        values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in part.splitlines())}
        if values.get("processor") == str(core) and "cpu MHz" in values:
            return float(values["cpu MHz"])
    return None


def _version(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _backend() -> str:
    import keras

    return keras.config.backend()


def _processor() -> str:
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware"))]
    return names[0] if names else platform.processor() or platform.machine()


@contextlib.contextmanager
def held_stderr() -> Iterator[None]:
    """Hold back what native code writes to standard error (TensorFlow's start-up lines); show it if the block fails."""
    with _held(sys.stderr):
        yield


@contextlib.contextmanager
def held_output() -> Iterator[TextIO]:
    """Hold back what native code writes to standard output and standard error; show it on standard error if the block fails.

    Gives the standard error that is not held, for progress.
    """
    try:
        saved = os.dup(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        yield sys.stderr
        return
    with open(saved, "w", encoding="utf-8") as shown, _held(sys.stderr), _held(sys.stdout):
        yield shown


@contextlib.contextmanager
def _held(stream: Any) -> Iterator[None]:
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        yield
        return
    import tempfile

    with tempfile.TemporaryFile() as held:
        stream.flush()
        saved = os.dup(descriptor)
        os.dup2(held.fileno(), descriptor)
        failed = True
        try:
            yield
            failed = False
        finally:
            stream.flush()
            os.dup2(saved, descriptor)
            os.close(saved)
            if failed:
                held.seek(0)
                os.write(2, held.read())


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
