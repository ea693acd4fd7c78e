"""Training: recipes as values, runs that resume exactly, one device or many."""

from keras_mnasnet.training.averages import Averages
from keras_mnasnet.training.distribution import Cluster, LostProcess
from keras_mnasnet.training.job import Job
from keras_mnasnet.training.optimizers import SGDL2, RMSPropTF1, make_optimizer
from keras_mnasnet.training.recipe import Recipe, parse_recipe, parse_values, recipe_from_json, recipe_to_json
from keras_mnasnet.training.recipes import RECIPES, SOURCES
from keras_mnasnet.training.run import Diverged, resume, train
from keras_mnasnet.training.schedules import Schedule, learning_rate
from keras_mnasnet.training.short import ShortRun, in_memory, train_short
from keras_mnasnet.training.start import starting_model

__all__ = [
    "RECIPES", "SOURCES", "Averages", "Cluster", "Diverged", "Job", "LostProcess", "RMSPropTF1", "Recipe", "SGDL2", "Schedule",
    "ShortRun", "in_memory", "learning_rate", "make_optimizer", "parse_recipe", "parse_values", "recipe_from_json",
    "recipe_to_json", "resume", "starting_model", "train", "train_short",
]  # fmt: skip
