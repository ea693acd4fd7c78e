"""Optimizers and learning rates of the recipes: Keras's own, and RMSProp with TensorFlow 1's semantics."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
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


def _names(variable: Any) -> tuple[str, str]:
    """The layer of a variable, and which one of its variables it is; TensorFlow's are given to `update_step` as its own."""
    path = getattr(variable, "path", None) or variable.name.removesuffix(":0")
    parts = re.split("[/:]", path)
    return parts[-2] if len(parts) > 1 else "", parts[-1]


def _with_l2(l2: float, gradient: Any, variable: Any) -> Any:
    """The gradient of loss + l2 * sum(v ** 2) / 2 (tf.nn.l2_loss), for kernels."""
    if not l2 or _names(variable)[1] in SPARED:
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


@keras.saving.register_keras_serializable("keras_mnasnet")
class LayerwiseAdamW(keras.optimizers.AdamW):
    """Keras's AdamW with a rate of its own for every layer: `scales` multiply the rate, and so the decay, of the layers that
    they name. Biases and batch norms do not decay."""

    def __init__(
        self, learning_rate: Any = 0.001, weight_decay: float = 0.004, scales: Mapping[str, float] | None = None,
        name: str = "layerwise_adamw", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, weight_decay=0.0, name=name, **options)
        self.decay, self.scales = weight_decay, dict(scales or {})

    def build(self, variables: Any) -> None:
        """Keras's; ValueError for a variable of a layer without a scale. In TensorFlow's `fit` a variable has lost its layer's
        name by the time of `update_step`, so the scales are looked up here."""
        super().build(variables)
        self.rates = []
        for variable in variables:
            layer = _names(variable)[0]
            if layer not in self.scales:
                raise ValueError(f"`scales` must name every layer that is trained. Received: none for {variable.path}")
            self.rates.append(self.scales[layer])

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Keras's, at the layer's rate."""
        rate = ops.cast(learning_rate, variable.dtype) * self.rates[self._get_variable_index(variable)]
        if _names(variable)[1] not in SPARED:
            variable.assign(variable - variable * (self.decay * rate))
        super().update_step(gradient, variable, rate)

    def get_config(self) -> dict[str, Any]:
        """Keras's, the decay and `scales`."""
        return {**super().get_config(), "weight_decay": self.decay, "scales": self.scales}


def layer_scales(layers: Sequence[str], decay: float) -> dict[str, float]:
    """decay ** (blocks above) of every layer, given in the model's order; layers whose names begin alike are one block."""
    blocks = [name.partition("_")[0] for name in layers]
    below = {block: number for number, block in enumerate(reversed(list(dict.fromkeys(blocks))))}
    return {name: decay ** below[block] for name, block in zip(layers, blocks, strict=True)}


def make_optimizer(
    recipe: Recipe, steps_per_epoch: int, *, frozen: bool = False, layers: Sequence[str] = ()
) -> keras.optimizers.Optimizer:
    """A fresh optimizer of a recipe; `frozen` is the part that trains the head alone, at its constant rate.

    `layers` that have weights, in the model's order, are for recipes with a `layer_decay`.
    """
    rate = recipe.frozen_learning_rate * recipe.batch_size / recipe.base_batch if frozen else Schedule(recipe, steps_per_epoch)
    clip: dict[str, Any] = {"global_clipnorm": recipe.clip_norm} if recipe.clip_norm else {}
    if recipe.optimizer == "rmsprop-tf1":
        return RMSPropTF1(
            rate, l2=recipe.weight_decay, rho=recipe.rho, momentum=recipe.momentum, epsilon=recipe.epsilon, **clip
        )
    if recipe.optimizer == "sgd":
        return SGDL2(rate, l2=recipe.weight_decay, momentum=recipe.momentum, nesterov=recipe.nesterov, **clip)
    if recipe.layer_decay < 1 and not frozen:
        scales = layer_scales(layers, recipe.layer_decay)
        return LayerwiseAdamW(rate, weight_decay=recipe.weight_decay, scales=scales, **clip)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay, **clip)
    optimizer.exclude_from_weight_decay(var_names=list(SPARED))
    return optimizer
