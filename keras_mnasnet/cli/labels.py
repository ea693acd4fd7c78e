"""Class names from a text file."""

from __future__ import annotations

from pathlib import Path

__all__ = ["read_labels"]


def read_labels(path: str | None) -> list[str] | None:
    """The lines of `--labels FILE` that are not empty; None without `--labels`."""
    if path is None:
        return None
    try:
        labels = Path(path).expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"`--labels` must be a text file with a class name a line. Received: {path} ({error})") from error
    names = [label.strip() for label in labels if label.strip()]
    if not names:
        raise ValueError(f"`--labels` must be a text file with a class name a line. Received: {path}, which names none")
    return names
