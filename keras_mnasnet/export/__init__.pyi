# ruff: noqa: I001
from .classifier import FileClassifier as FileClassifier
from .equalize import Recipe as Recipe
from .file import GraphFacts as GraphFacts, TfliteFile as TfliteFile
from .onnx_file import OnnxFile as OnnxFile
from .partitions import Partitions as Partitions
from .qat import TrainingReport as TrainingReport, prune as prune, quantize_aware as quantize_aware
from .report import ExportReport as ExportReport
from .tflite import export as export
from .verify import ExportError as ExportError
