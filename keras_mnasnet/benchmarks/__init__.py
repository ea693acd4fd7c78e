"""Measurements: ImageNet accuracy and what goes into every result file. Importing this package loads nothing heavy."""

__all__: list[str] = []
