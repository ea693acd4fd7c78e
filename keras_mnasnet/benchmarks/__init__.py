"""Measurements: ImageNet accuracy, latency, and what every result file holds. Importing this package loads nothing heavy."""

__all__: list[str] = []
