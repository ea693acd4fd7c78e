"""Export to `.tflite`."""

from keras_mnasnet.export.graph import write_graph
from keras_mnasnet.export.weights import folded_weights, random_weights

__all__ = ["folded_weights", "random_weights", "write_graph"]
