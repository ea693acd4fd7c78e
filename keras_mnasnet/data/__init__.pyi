# ruff: noqa: I001
from .decode import load_image as load_image, prepare as prepare, read_image as read_image
from .opening import Splits as Splits, open_images as open_images, open_splits as open_splits
from .opening import chosen_photos as chosen_photos, evaluated_split as evaluated_split, numbering as numbering
from .opening import summarize as summarize, train_validation as train_validation
from .opening import held_out as held_out, validated_share as validated_share
from .pipeline import evaluation_batches as evaluation_batches, training_batches as training_batches
from .pipeline import sample_photos as sample_photos
from .shapes import SHAPE_CLASSES as SHAPE_CLASSES, draw_shapes as draw_shapes, write_folder as write_folder
from .summary import Part as Part, Sizes as Sizes, Summary as Summary
from .sources import ImageSet as ImageSet, check_classes as check_classes, missing as missing, refuse_bad as refuse_bad
