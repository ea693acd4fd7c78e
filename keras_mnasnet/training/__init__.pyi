# ruff: noqa: I001
from .averages import Averages as Averages
from .distribution import Cluster as Cluster, LostProcess as LostProcess
from .job import Job as Job
from .optimizers import RMSPropTF1 as RMSPropTF1, SGDL2 as SGDL2, make_optimizer as make_optimizer
from .recipe import RECIPES as RECIPES, SOURCES as SOURCES, Recipe as Recipe, parse_recipe as parse_recipe
from .recipe import parse_values as parse_values, recipe_from_json as recipe_from_json, recipe_to_json as recipe_to_json
from .run import Diverged as Diverged, resume as resume, train as train
from .schedules import Schedule as Schedule, learning_rate as learning_rate
from .short import ShortRun as ShortRun, in_memory as in_memory, train_short as train_short
from .start import starting_model as starting_model
