"""Models with weights that make a comparison mean something."""

import keras
import numpy as np


def shaken(model, seed=0):
    """The model with statistics and biases that are not the initial ones."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        values = layer.get_weights()
        if isinstance(layer, keras.layers.BatchNormalization):
            spread = [rng.uniform(0.4, 0.9, values[0].shape), rng.normal(0, 0.3, values[0].shape)]
            layer.set_weights([*spread, rng.normal(0, 0.3, values[0].shape), rng.uniform(0.5, 1.5, values[0].shape)])
        elif len(values) == 2:
            layer.set_weights([values[0], rng.normal(0, 0.3, values[1].shape)])
    return model
