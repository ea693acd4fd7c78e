"""Images into tensors: sets of labelled images, batches for training and evaluation, and each checkpoint's preprocessing."""

from keras_mnasnet.data.opening import numbering, open_images
from keras_mnasnet.data.pipeline import evaluation_batches, training_batches
from keras_mnasnet.data.preprocessing import load_image, prepare, read_image
from keras_mnasnet.data.shapes import SHAPE_CLASSES, shapes, write_folder
from keras_mnasnet.data.sources import ImageSet, check_classes, missing, refuse_bad, train_validation

__all__ = [
    "SHAPE_CLASSES",
    "ImageSet",
    "check_classes",
    "evaluation_batches",
    "load_image",
    "missing",
    "numbering",
    "open_images",
    "prepare",
    "read_image",
    "refuse_bad",
    "shapes",
    "train_validation",
    "training_batches",
    "write_folder",
]
