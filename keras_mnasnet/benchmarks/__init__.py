"""Measurements: accuracy on labeled photos, and latency on this machine or a phone. Importing it loads nothing heavy."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
