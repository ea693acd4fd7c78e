"""Checkpoints: records of every public one, fetching, conversion, and loading into models."""

from keras_mnasnet.weights.convert import Checkpoint
from keras_mnasnet.weights.errors import CheckpointError, DownloadError
from keras_mnasnet.weights.load import assign, convert_file, load_record, read_file, verify_record
from keras_mnasnet.weights.registry import Numerics, Record, get, names, records, select

__all__ = [
    "Checkpoint", "CheckpointError", "DownloadError", "Numerics", "Record", "assign", "convert_file",
    "get", "load_record", "names", "read_file", "records", "select", "verify_record",
]  # fmt: skip
