"""Images into tensors, exactly as each checkpoint was evaluated."""

from keras_mnasnet.data.preprocessing import load_image, prepare, read_image

__all__ = ["load_image", "prepare", "read_image"]
