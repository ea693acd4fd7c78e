"""Models with weights that make a comparison mean something."""

import keras
import numpy as np

# The smallest network with all that the family has: a residual, strides, squeeze-and-excite. It is traced in a fifth of the
# time of MnasNet-small, which is most of what a short training takes.
SMALLEST = "stem8_s11 r1_k3_s11_e1_i8_o8_noskip r1_k3_s22_e3_i8_o16 r2_k3_s22_e3_i16_o24_se0.25 head64"


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


def distinct(detector, images):
    """A detector whose detections depend on the image and whose scores differ from box to box by far more than rounding.

    Batch norms get most of the statistics of `images` (all of them would amplify rounding); score predictors are scaled so
    that a part of the boxes passes 0.3.
    """
    shaken(detector)
    norms = [layer for layer in detector.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.gamma.assign_add(keras.ops.full(layer.gamma.shape, 0.3))
        layer.momentum = 0.3
    detector(images, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    for layer in detector.layers:
        if isinstance(layer, keras.layers.Conv2D) and "scores" in layer.name:
            kernel, bias = layer.get_weights()
            layer.set_weights([5 * kernel, bias - 2])
    return detector
