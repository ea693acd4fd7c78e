"""Learning rates over steps, as the recipes name them."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_mnasnet.training.recipe import Recipe

__all__ = ["Schedule", "learning_rate"]


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
        from keras_mnasnet.training.recipe import parse_recipe

        return cls(parse_recipe(config["recipe"]), config["steps_per_epoch"])
