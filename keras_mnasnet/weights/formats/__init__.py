"""Tensor files of every format, opened without reading the tensors: one reader for each, in a file of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

__all__ = [
    "H5_SUFFIX",
    "KERAS_SUFFIX",
    "LABEL_FILES",
    "ONNX_SUFFIX",
    "PB_SUFFIX",
    "PTH_SUFFIXES",
    "SUFFIXES",
    "TAR_SUFFIXES",
    "TFLITE_SUFFIX",
    "TensorFile",
]

PTH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
TAR_SUFFIXES = (".tgz", ".tar.gz", ".tar")
KERAS_SUFFIX, H5_SUFFIX = ".keras", ".weights.h5"
TFLITE_SUFFIX, ONNX_SUFFIX, PB_SUFFIX = ".tflite", ".onnx", ".pb"
LABEL_FILES = ("labels.txt", "dict.txt")  # beside a file, or in it
SUFFIXES = (
    ".safetensors",
    *PTH_SUFFIXES,
    *TAR_SUFFIXES,
    KERAS_SUFFIX,
    H5_SUFFIX,
    TFLITE_SUFFIX,
    ONNX_SUFFIX,
    "model.json",
    PB_SUFFIX,
)


@dataclasses.dataclass(frozen=True, slots=True)
class TensorFile:
    """Names and shapes of a file's tensors, a reader of one tensor, and the file's own metadata.

    `others` says what is in the file besides tensors, by name; `notes` what was taken of it and what was passed over.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    others: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
