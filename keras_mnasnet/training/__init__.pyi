# ruff: noqa: I001
from .callbacks import Averages as Averages
from .classifier import train_short as train_short
from .distribution import Cluster as Cluster, LostProcess as LostProcess
from .engine import Diverged as Diverged
from .folded import unfold as unfold
from .job import Job as Job, read_log as read_log, read_run as read_run
from .optimizers import RMSPropTF1 as RMSPropTF1, SGDL2 as SGDL2, Schedule as Schedule
from .optimizers import learning_rate as learning_rate, make_optimizer as make_optimizer
from .recipe import RECIPES as RECIPES, SOURCES as SOURCES, Recipe as Recipe, parse_recipe as parse_recipe
from .recipe import parse_values as parse_values, recipe_of as recipe_of
from .recipe import recipe_from_json as recipe_from_json, recipe_to_json as recipe_to_json
from .run import Training as Training, resume as resume, run_job as run_job, train as train
