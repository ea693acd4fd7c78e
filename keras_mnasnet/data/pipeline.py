"""Batches for training, the same from whatever step they start, and for evaluation, exactly as `load_image` prepares them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mnasnet.data.augment import DRAWS, Mixer, PerImage, place, resized, stream_seed
from keras_mnasnet.data.decode import decode, prepare
from keras_mnasnet.data.opening import chosen_photos
from keras_mnasnet.data.sources import Arrays, ImageSet, missing, refuse_bad, shard_size
from keras_mnasnet.preprocessing import Augment, Preprocessing

CACHE_BYTES = 512 << 20
CHUNK = 64
SAMPLE_BATCH = 32
ENDLESS = np.iinfo(np.int64).max
ORDER, PLACE, IMAGE, MIX = range(4)  # streams of random numbers


def training_batches(
    images: ImageSet, *, size: int, batch_size: int, augment: Augment, seed: int, first_step: int = 0,
    shard: tuple[int, int] = (0, 1), cache: bool = True, balanced: bool = False,
) -> tf.data.Dataset:  # fmt: skip
    """Endless (pixels float32 `[b, size, size, 3]` 0..255, one-hot float32 `[b, classes]`), `b = batch_size / n` of a shard.

    The batch of a global step does not depend on `first_step` nor on `cache`, and shards `(0, n) ... (n - 1, n)` joined are
    the batch of `(0, 1)`; only MixUp and CutMix pair images inside their shard. `cache` keeps decoded images in memory
    where all have one size and fit in 512 MiB. `balanced` draws every class equally often.
    """
    share = shard_size(batch_size, shard)
    images.steps_per_epoch(batch_size)
    seeds = [stream_seed(seed, stream) for stream in range(4)]
    arrays = decoded(images, upright=augment.upright) if cache or isinstance(images.source, Arrays) else None
    mixer, classes = Mixer(augment), len(images.labels)

    def plan(step: Any, start: Any, length: int) -> dict[str, Any]:
        position = step * batch_size + start + tf.range(length, dtype=tf.int64)
        draws = tf.random.stateless_uniform((batch_size, DRAWS), tf.stack([seeds[PLACE], step]))
        return {
            "position": position,
            "index": images.order(position, seed=int(seeds[ORDER]), batch=batch_size, balanced=balanced),
            "draws": tf.ensure_shape(tf.slice(draws, tf.stack([start, 0]), (length, DRAWS)), (length, DRAWS)),
        }

    def finished(pixels: Any, labels: Any, step: Any) -> tuple[Any, Any]:
        targets = tf.one_hot(labels, classes)
        return mixer(tf.cast(pixels, tf.float32), targets, tf.stack([seeds[MIX], step * shard[1] + shard[0]]))

    first_of_shard = tf.constant(shard[0] * share, tf.int64)
    if arrays is not None and not augment.per_image and arrays[0].shape[1] == arrays[0].shape[2]:
        pixels, labels = arrays

        def batch(step: Any) -> tuple[Any, Any]:
            item = plan(step, first_of_shard, share)
            if pixels.shape[1] == size:
                placed = place(pixels, item["draws"], item["index"], augment, size)
            else:
                chosen = resized(tf.gather(pixels, item["index"]), augment, size)
                placed = place(chosen, item["draws"], tf.range(share), augment, size)
            return finished(placed, tf.gather(labels, item["index"]), step)

        steps = tf.data.Dataset.range(first_step, ENDLESS)
        dataset = steps.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    else:
        vary = PerImage(augment, size)
        chunk = max(length for length in range(1, min(share, CHUNK) + 1) if share % length == 0)
        chunks = share // chunk

        def fetched(number: Any) -> dict[str, Any]:
            item = plan(number // chunks, first_of_shard + number % chunks * chunk, chunk)
            if arrays is None:
                image, label = images.fetch(item["index"])
            else:
                image, label = (tf.gather(array, item["index"]) for array in arrays)
            return {**item, "image": image, "label": label}

        def example(item: dict[str, Any]) -> tuple[Any, Any, Any]:
            image = images.source.load(item["image"]) if arrays is None else item["image"]
            pixels = vary(image, item["draws"], tf.stack([seeds[IMAGE], item["position"]]))
            return pixels, item["label"], item["position"] // batch_size

        dataset = tf.data.Dataset.range(first_step * chunks, ENDLESS).map(fetched, num_parallel_calls=2, deterministic=True)
        dataset = dataset.unbatch().map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        dataset = dataset.batch(share, drop_remainder=True)
        dataset = dataset.map(lambda pixels, labels, step: finished(pixels, labels, step[0]))
    return _with_options(dataset)


def evaluation_batches(
    images: ImageSet, preprocessing: Preprocessing, *, batch_size: int, shard: tuple[int, int] = (0, 1), leave_out: bool = True
) -> tf.data.Dataset:
    """One pass in order: (pixels float32 `[b, size, size, 3]` 0..255, labels int64 `[b]`, index int64 `[b]`).

    Pixels equal `load_image`'s bit for bit. Damaged images are left out, and `missing(images, seen)` names them afterwards;
    with `leave_out=False` they are an InvalidArgumentError.
    """
    share = shard_size(batch_size, shard)
    _ = images.label_ids

    def prepared(image: Any) -> Any:
        return prepare(decode(image, preprocessing.decoder, upright=preprocessing.upright), preprocessing)

    def example(item: dict[str, Any]) -> tuple[Any, Any, Any]:
        return prepared(item["image"]), item["label"], item["index"]

    dataset = images.examples(batch=batch_size, shard=shard)
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if leave_out:
        dataset = dataset.ignore_errors()
    return _with_options(dataset.batch(share))


def sample_photos(
    data: str | os.PathLike[str],
    preprocessing: Preprocessing,
    count: int,
    *,
    split: str = "train",
    seed: int = 0,
    max_bad: int = 0,
) -> np.ndarray:
    """`count` photos of `data` (all, if it has fewer), a seeded choice in the data's order: `[n, S, S, 3]`, pixels 0..255.

    `data` is what `open_images` takes, or a folder of photos without classes; of several splits `split` is taken. More than
    `max_bad` damaged photos are a ValueError that names them.
    """
    return labelled_photos(data, preprocessing, count, split=split, seed=seed, max_bad=max_bad)[0]


def labelled_photos(
    data: str | os.PathLike[str], preprocessing: Preprocessing, count: int, *, split: str, seed: int = 0, max_bad: int = 0
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """As `sample_photos`; with them the number of each photo's class `[n]`, and the names of the classes."""
    images = chosen_photos(data, count, split=split, seed=seed)
    parts = list(evaluation_batches(images, preprocessing, batch_size=min(SAMPLE_BATCH, images.count)).as_numpy_iterator())
    seen = np.concatenate([index for _, _, index in parts]) if parts else np.empty(0, np.int64)
    refuse_bad(missing(images, seen), max_bad, images.count)
    if not parts:
        raise ValueError(f"At least one photo must be whole. Received: {images.name}, where none can be decoded")
    return np.concatenate([pixels for pixels, _, _ in parts]), np.concatenate([label for _, label, _ in parts]), images.labels


def decoded(images: ImageSet, limit_bytes: int = CACHE_BYTES, *, upright: bool = False) -> tuple[Any, Any] | None:
    """All images, uint8 `[N, H, W, 3]`, and labels, int64 `[N]`, as tensors kept with the set; None if they differ in size
    or are too large. ValueError names damaged images."""
    known = images.__dict__.setdefault("_decoded", {})
    key = limit_bytes, upright
    if key not in known:
        source = images.source
        if isinstance(source, Arrays) and images.picked is None:
            known[key] = source.tensors
        else:
            known[key] = _decoded(images, limit_bytes, upright)
    return known[key]


def _decoded(images: ImageSet, limit_bytes: int, upright: bool) -> tuple[Any, Any] | None:
    if images.sizes is not None and (images.sizes != images.sizes[0]).any():
        return None

    def pixels_of(item: dict[str, Any]) -> tuple[Any, Any, Any]:
        return decode(item["image"], upright=upright), item["label"], item["index"]

    few = images.examples(stop=min(CHUNK, images.count)).map(pixels_of).ignore_errors()
    first = next((item for item in few.take(1)), None)
    if first is None or images.count * tf.size(first[0]).numpy() > limit_bytes:
        return None
    shape = first[0].shape

    def example(item: dict[str, Any]) -> tuple[Any, ...]:
        """The image, or where it has another shape none: batching different shapes is an error that TensorFlow prints."""
        image, label, index = pixels_of(item)
        fits = tf.reduce_all(tf.shape(image) == shape)
        return tf.ensure_shape(tf.cond(fits, lambda: image, lambda: tf.zeros(shape, tf.uint8)), shape), label, index, fits

    dataset = images.examples().map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).ignore_errors()
    pixels = np.empty((images.count, *shape), np.uint8)
    labels: list[int] = []
    seen: list[int] = []
    for part, label, index, fits in dataset.batch(256).prefetch(1).as_numpy_iterator():
        if not fits.all():
            return None
        pixels[len(seen) : len(seen) + len(part)] = part
        labels.extend(label)
        seen.extend(index)
    if len(seen) < images.count:
        _ = images.label_ids  # ValueError where a label, not an image, is at fault
    refuse_bad(missing(images, seen), 0, images.count)
    return tf.constant(pixels), tf.constant(labels, tf.int64)


def _with_options(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)
