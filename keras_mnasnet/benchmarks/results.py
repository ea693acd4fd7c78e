"""Result files: a schema version, and written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from keras_mnasnet.utils.text import json_text

SCHEMA = 2


def check_output(path: str | os.PathLike[str]) -> None:
    """OSError, before any work is done, where `write_json` could not write."""
    from keras_mnasnet.utils.files import check_writable

    check_writable(path)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write one JSON value, whole or not at all."""
    from keras_mnasnet.utils.files import write_file

    write_file(Path(path).expanduser(), json_text(value) + "\n")
