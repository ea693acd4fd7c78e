"""Training augmentation without state: every random draw follows from a seed and a position in the training run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mnasnet.data.decode import central_square, decode, turn_of, upright
from keras_mnasnet.preprocessing import Augment

DRAWS = 3  # uniform numbers per image: row and column of the padded crop, flip
RANDAUGMENT = (
    "random_shear", "random_translation", "random_rotation", "random_brightness", "random_color_degeneration",
    "random_contrast", "random_sharpness", "random_posterization", "solarization", "auto_contrast", "equalization",
)  # fmt: skip


def place(images: Any, draws: Any, index: Any, augment: Augment, size: int) -> Any:
    """Of square images `[N, size, size, 3]` those of `index` `[B]`, moved by `pad` and flipped as `draws` `[B, 3]` say.

    One gather for both; the result has the type of `images`.
    """
    pad = augment.pad if augment.crop == "pad" else 0
    if pad >= size:
        raise ValueError(f"`pad` must be below the image size. Received: pad={pad}, size={size}")
    kind = tf.int32 if images.shape.num_elements() and images.shape.num_elements() // 3 < 2**31 else tf.int64
    axis = tf.range(size, dtype=kind)[None]

    def moved(draw: Any) -> Any:
        shift = tf.cast(draw * (2 * pad + 1), kind)
        at = tf.abs(axis + shift[:, None] - pad)
        return size - 1 - tf.abs(size - 1 - at)

    rows, columns = moved(draws[:, 0]), moved(draws[:, 1])
    if augment.flip:
        columns = tf.where(draws[:, 2:] < 0.5, columns[:, ::-1], columns)
    flat = tf.reshape(images, (-1, 3))
    start = tf.cast(index, kind)[:, None] * size
    return tf.gather(flat, (start + rows)[:, :, None] * size + columns[:, None, :])


def resized(images: Any, augment: Augment, size: int, *, antialias: bool = True) -> Any:
    """Pixels `[B, H, W, 3]` as float32 `[B, size, size, 3]`, 0..255."""
    out = tf.image.resize(images, (size, size), method=augment.interpolation, antialias=antialias)
    out = tf.clip_by_value(out, 0.0, 255.0) if augment.interpolation == "bicubic" else out
    return tf.ensure_shape(out, (None, size, size, 3))


def inception_crop(image: Any, seed: Any, augment: Augment, size: int) -> Any:
    """A random box of encoded bytes or pixels, float32 `[size, size, 3]`; of a JPEG only the box is decoded.

    The box is drawn in the photo as it is stored, and turned upright then, where that is asked for.
    """
    encoded = image.dtype == tf.string
    if encoded:
        jpeg = tf.io.is_jpeg(image)
        shape = tf.cond(jpeg, lambda: tf.io.extract_jpeg_shape(image), lambda: tf.shape(decode(image)))
    else:
        shape = tf.shape(image)
    whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape, whole, seed, min_object_covered=0.0, aspect_ratio_range=augment.aspect, area_range=augment.area,
        max_attempts=10, use_image_if_no_bounding_boxes=True,
    )  # fmt: skip
    top, left, height, width = begin[0], begin[1], extent[0], extent[1]

    def cut(pixels: Any) -> Any:
        return pixels[top : top + height, left : left + width]

    if encoded:
        window = tf.stack([top, left, height, width])
        box = tf.cond(jpeg, lambda: tf.io.decode_and_crop_jpeg(image, window, channels=3), lambda: cut(decode(image)))
    else:
        box = cut(image)
    if augment.upright:
        box = upright(box, turn_of(image))
    return resized(box[None], augment, size, antialias=False)[0]


class Seeds(keras.random.SeedGenerator):
    """Seeds for Keras's layers without a state: the n-th draw of a trace is `at`'s seed and n."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self._seed: Any = None
        self._draws = 0

    def at(self, seed: Any) -> Seeds:
        """Starts over from an int `[2]` seed."""
        self._seed, self._draws = seed, 0
        return self

    def next(self, ordered: bool = True) -> Any:
        self._draws += 1
        return tf.random.fold_in(self._seed, self._draws)


@contextlib.contextmanager
def _on_tensorflow(*layers: Any) -> Iterator[None]:
    """Keras's image layers compute in TensorFlow, whatever the backend, as they do themselves when called in tf.data."""
    for layer in layers:
        layer.backend.set_backend("tensorflow")
    try:
        yield
    finally:
        for layer in layers:
            layer.backend.reset()


def _transformed(layer: Any, images: Any, seeds: Seeds) -> Any:
    with _on_tensorflow(layer):
        return layer.transform_images(images, layer.get_random_transformation(images, training=True, seed=seeds))


class PerImage:
    """Crop, flip, RandAugment and erasing of one image."""

    def __init__(self, augment: Augment, size: int) -> None:
        self.augment, self.size = augment, size
        self.seeds = Seeds()
        self.operations: list[Any] = []
        if augment.randaugment_ops:
            layer = keras.layers.RandAugment(value_range=(0, 255), factor=augment.randaugment_factor, dtype="float32")
            self.operations = [getattr(layer, name) for name in RANDAUGMENT]
        self.erasing = None
        if augment.erasing:
            probability = (augment.erasing, augment.erasing)
            self.erasing = keras.layers.RandomErasing(probability, value_range=(0, 255), dtype="float32")

    def __call__(self, image: Any, draws: Any, seed: Any) -> Any:
        """Bytes or pixels -> float32 `[size, size, 3]`; `draws` float32 `[3]`, `seed` int64 `[2]`."""
        if self.augment.crop == "inception":
            image = inception_crop(image, seed, self.augment, self.size)
        else:
            image = resized(central_square(decode(image, upright=self.augment.upright))[None], self.augment, self.size)[0]
        images = place(image[None], draws[None], tf.zeros(1, tf.int32), self.augment, self.size)
        for number in range(self.augment.randaugment_ops):
            images = self._randaugment(images, tf.random.fold_in(seed, 1 + number))
        if self.erasing is not None:
            images = _transformed(self.erasing, images, self.seeds.at(tf.random.fold_in(seed, 0)))
        return tf.ensure_shape(images, (1, self.size, self.size, 3))[0]

    def _randaugment(self, images: Any, seed: Any) -> Any:
        """One of RandAugment's operations, drawn for this image; only that one is computed."""
        chosen = tf.random.stateless_uniform((), seed, 0, len(self.operations), tf.int32)
        branches = [
            lambda operation=operation: tf.ensure_shape(_transformed(operation, images, self.seeds.at(seed)), images.shape)
            for operation in self.operations
        ]
        return tf.clip_by_value(tf.switch_case(chosen, branches), 0.0, 255.0)


class Mixer:
    """MixUp and CutMix of a batch; with both, each batch gets one, drawn evenly."""

    def __init__(self, augment: Augment) -> None:
        self.seeds = Seeds()
        self.layers: list[Any] = []
        if augment.mixup:
            self.layers.append(keras.layers.MixUp(alpha=augment.mixup, dtype="float32"))
        if augment.cutmix:
            self.layers.append(keras.layers.CutMix(factor=(augment.cutmix, augment.cutmix), dtype="float32"))

    def __call__(self, images: Any, labels: Any, seed: Any) -> tuple[Any, Any]:
        """Images `[B, S, S, 3]` and one-hot labels `[B, C]`, mixed inside the batch."""
        if not self.layers:
            return images, labels
        branches = [lambda layer=layer: self._mixed(layer, images, labels, seed) for layer in self.layers]
        if len(branches) == 1:
            return branches[0]()
        return tf.switch_case(tf.random.stateless_uniform((), seed, 0, 2, tf.int32), branches)

    def _mixed(self, layer: Any, images: Any, labels: Any, seed: Any) -> tuple[Any, Any]:
        with _on_tensorflow(layer):
            how = layer.get_random_transformation({"images": images, "labels": labels}, seed=self.seeds.at(seed))
            mixed, targets = layer.transform_images(images, how), layer.transform_labels(labels, how)
        return tf.ensure_shape(mixed, images.shape), tf.ensure_shape(targets, labels.shape)


def stream_seed(seed: int, stream: int) -> np.int64:
    """An independent 62-bit seed for each stream of random numbers of a run."""
    return np.int64(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0] >> np.uint64(2))
