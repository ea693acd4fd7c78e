"""Export to `.tflite`. The names below are imported when they are first used: the latency meter needs few of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "ExportError": "verify",
    "ExportReport": "report",
    "GraphFacts": "file",
    "Origin": "report",
    "Partitions": "partitions",
    "TfliteClassifier": "file",
    "TfliteFile": "file",
    "export_checkpoint": "tflite",
    "export_tflite": "tflite",
    "folded_weights": "graph",
    "prune": "qat",
    "random_weights": "graph",
    "train_quantized": "qat",
    "write_graph": "graph",
}

__all__ = [
    "ExportError", "ExportReport", "GraphFacts", "Origin", "Partitions", "export_checkpoint",
    "TfliteClassifier", "TfliteFile", "export_tflite", "folded_weights", "prune", "random_weights",
    "train_quantized", "write_graph",
]  # fmt: skip

if TYPE_CHECKING:
    from keras_mnasnet.export.file import GraphFacts, TfliteClassifier, TfliteFile
    from keras_mnasnet.export.graph import folded_weights, random_weights, write_graph
    from keras_mnasnet.export.partitions import Partitions
    from keras_mnasnet.export.qat import prune, train_quantized
    from keras_mnasnet.export.report import ExportReport, Origin
    from keras_mnasnet.export.tflite import export_checkpoint, export_tflite
    from keras_mnasnet.export.verify import ExportError


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"keras_mnasnet.export.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'keras_mnasnet.export' has no attribute {name!r}")
