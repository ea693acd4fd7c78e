from .opening import numbering as numbering
from .opening import open_images as open_images
from .pipeline import evaluation_batches as evaluation_batches
from .pipeline import training_batches as training_batches
from .preprocessing import load_image as load_image
from .preprocessing import prepare as prepare
from .preprocessing import read_image as read_image
from .shapes import SHAPE_CLASSES as SHAPE_CLASSES
from .shapes import draw_shapes as draw_shapes
from .shapes import write_folder as write_folder
from .sources import (
    ImageSet as ImageSet,
)
from .sources import (
    check_classes as check_classes,
)
from .sources import (
    missing as missing,
)
from .sources import (
    refuse_bad as refuse_bad,
)
from .sources import (
    train_validation as train_validation,
)
