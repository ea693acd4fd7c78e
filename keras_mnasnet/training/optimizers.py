"""Optimizers of the recipes: Keras's own, and RMSProp with TensorFlow 1's semantics."""

from __future__ import annotations

import re
from typing import Any

import keras
from keras import ops

from keras_mnasnet.training.recipe import Recipe
from keras_mnasnet.training.schedules import Schedule

__all__ = ["RMSPropTF1", "SGDL2", "make_optimizer"]

SPARED = ("bias", "gamma", "beta")


def _with_l2(l2: float, gradient: Any, variable: Any) -> Any:
    """The gradient of loss + l2 * sum(v ** 2) / 2 (tf.nn.l2_loss), for kernels."""
    if not l2 or re.split("[/:]", variable.name.removesuffix(":0"))[-1] in SPARED:
        return gradient
    return ops.cast(gradient, variable.dtype) + l2 * ops.convert_to_tensor(variable)


@keras.saving.register_keras_serializable("keras_mnasnet")
class RMSPropTF1(keras.optimizers.RMSprop):
    """RMSProp as tf.train.RMSPropOptimizer computes: the mean square starts at one, epsilon stands inside the root.

    ms = rho * ms + (1 - rho) * g ** 2; mom = momentum * mom + rate * g / sqrt(ms + epsilon); v = v - mom.
    Keras's own starts at zero, which makes the first steps several times larger. `l2` is added to kernels' gradients.
    """

    def __init__(self, learning_rate: Any = 0.001, l2: float = 0.0, name: str = "rmsprop_tf1", **options: Any) -> None:
        super().__init__(learning_rate, name=name, **options)
        self.l2 = l2

    def add_optimizer_variables(self, trainable_variables: Any, name: Any, initializer: Any = "zeros") -> Any:
        """Keras's, with the mean square at one."""
        return super().add_optimizer_variables(trainable_variables, name, "ones" if name == "velocity" else initializer)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Keras's, on the gradient with L2."""
        super().update_step(_with_l2(self.l2, gradient, variable), variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """Keras's and `l2`."""
        return {**super().get_config(), "l2": self.l2}


@keras.saving.register_keras_serializable("keras_mnasnet")
class SGDL2(keras.optimizers.SGD):
    """Keras's SGD with L2 in the gradient of kernels, as the field's SGD recipes mean `weight decay`."""

    def __init__(self, learning_rate: Any = 0.01, l2: float = 0.0, name: str = "sgd_l2", **options: Any) -> None:
        super().__init__(learning_rate, name=name, **options)
        self.l2 = l2

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Keras's, on the gradient with L2."""
        super().update_step(_with_l2(self.l2, gradient, variable), variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """Keras's and `l2`."""
        return {**super().get_config(), "l2": self.l2}


def make_optimizer(recipe: Recipe, steps_per_epoch: int, *, frozen: bool = False) -> keras.optimizers.Optimizer:
    """A fresh optimizer of a recipe; `frozen` is the part that trains the classifier alone, at its constant rate."""
    rate = recipe.frozen_learning_rate * recipe.batch_size / recipe.base_batch if frozen else Schedule(recipe, steps_per_epoch)
    clip: dict[str, Any] = {"global_clipnorm": recipe.clip_norm} if recipe.clip_norm else {}
    if recipe.optimizer == "rmsprop-tf1":
        return RMSPropTF1(
            rate, l2=recipe.weight_decay, rho=recipe.rho, momentum=recipe.momentum, epsilon=recipe.epsilon, **clip
        )
    if recipe.optimizer == "sgd":
        return SGDL2(rate, l2=recipe.weight_decay, momentum=recipe.momentum, nesterov=recipe.nesterov, **clip)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay, **clip)
    optimizer.exclude_from_weight_decay(var_names=list(SPARED))
    return optimizer
