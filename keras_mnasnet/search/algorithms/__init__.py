"""Search algorithms behind one ask/tell interface."""

from keras_mnasnet.search.algorithms.base import Algorithm, Observation, Proposal
from keras_mnasnet.search.algorithms.registry import ALGORITHMS, make_algorithm

__all__ = ["ALGORITHMS", "Algorithm", "Observation", "Proposal", "make_algorithm"]
