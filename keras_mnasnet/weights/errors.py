"""What can go wrong with a checkpoint."""

__all__ = ["CheckpointError", "DownloadError"]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: unknown, damaged, refused, or of another network."""


class DownloadError(OSError):
    """A checkpoint that could not be fetched; the message names the address, the local path and the way out."""
