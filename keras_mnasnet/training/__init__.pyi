from .averages import Averages as Averages
from .distribution import Cluster as Cluster
from .distribution import LostProcess as LostProcess
from .job import Job as Job
from .optimizers import SGDL2 as SGDL2
from .optimizers import RMSPropTF1 as RMSPropTF1
from .optimizers import make_optimizer as make_optimizer
from .recipe import (
    RECIPES as RECIPES,
)
from .recipe import (
    SOURCES as SOURCES,
)
from .recipe import (
    Recipe as Recipe,
)
from .recipe import (
    parse_recipe as parse_recipe,
)
from .recipe import (
    parse_values as parse_values,
)
from .recipe import (
    recipe_from_json as recipe_from_json,
)
from .recipe import (
    recipe_to_json as recipe_to_json,
)
from .run import Diverged as Diverged
from .run import resume as resume
from .run import train as train
from .schedules import Schedule as Schedule
from .schedules import learning_rate as learning_rate
from .short import ShortRun as ShortRun
from .short import in_memory as in_memory
from .short import train_short as train_short
from .start import starting_model as starting_model
