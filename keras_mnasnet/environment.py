"""On what something was measured: versions, processor, cores."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from keras_mnasnet import __version__

__all__ = ["available_cores", "environment"]


def environment() -> dict[str, Any]:
    """Versions, processor and cores of this machine."""
    return {
        "keras_mnasnet": __version__,
        "python": platform.python_version(),
        "keras": _version("keras"),
        "backend": _backend(),
        "tensorflow": _version("tensorflow"),
        "litert": _version("ai-edge-litert"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": available_cores(),
    }


def available_cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _backend() -> str:
    import keras

    return keras.config.backend()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware"))]
    return names[0] if names else platform.processor() or platform.machine()
