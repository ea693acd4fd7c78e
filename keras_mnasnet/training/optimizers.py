"""Optimizers and learning rates of the recipes: Keras's own, and RMSProp with TensorFlow 1's semantics."""

from __future__ import annotations

import math
import re
from typing import Any

import keras
from keras import ops

from keras_mnasnet.training.recipe import Recipe, parse_recipe

SPARED = ("bias", "gamma", "beta")


def learning_rate(recipe: Recipe, step: Any, steps_per_epoch: int) -> Any:
    """The rate at a step (0 is the first) of the part in which every layer trains.

    Linear from `first_learning_rate` (0) to the peak over `warmup_epochs`; `exponential`: peak * decay_rate **
    floor(epoch / decay_epochs), counted from step 0 (tensorflow/tpu mnasnet_utils.py, build_learning_rate); `cosine`: peak *
    (1 + cos(pi * t)) / 2 with t from 0 after the warm-up to 1 at the last step.
    """
    step = ops.cast(step, "float32")
    first, peak = recipe.first_learning_rate, recipe.peak_learning_rate
    warmup = int(recipe.warmup_epochs * steps_per_epoch)
    if recipe.schedule == "exponential":
        rate = peak * recipe.decay_rate ** ops.floor(step / (steps_per_epoch * recipe.decay_epochs))
    else:
        total = (recipe.epochs - recipe.frozen_epochs) * steps_per_epoch
        progress = ops.clip((step - warmup) / max(1, total - warmup), 0.0, 1.0)
        rate = peak * 0.5 * (1 + ops.cos(math.pi * progress))
    return ops.where(step < warmup, first + (peak - first) * step / max(1, warmup), rate)


@keras.saving.register_keras_serializable("keras_mnasnet")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """`learning_rate` of a recipe as a Keras schedule."""

    def __init__(self, recipe: Recipe, steps_per_epoch: int) -> None:
        self.recipe = recipe
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step: Any) -> Any:
        """The rate at an optimizer step."""
        return learning_rate(self.recipe, step, self.steps_per_epoch)

    def get_config(self) -> dict[str, Any]:
        """Recipe text and steps per epoch."""
        return {"recipe": str(self.recipe), "steps_per_epoch": self.steps_per_epoch}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        """The inverse of `get_config`."""
        return cls(parse_recipe(config["recipe"]), config["steps_per_epoch"])


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
