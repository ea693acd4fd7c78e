"""Sets of labeled images with random access: files, parts of files, and arrays, in a seeded order that can be resumed."""

from __future__ import annotations

import dataclasses
import functools
import os
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from absl import logging

from keras_mnasnet.data.decode import decode, problem, within_aspect
from keras_mnasnet.utils.reading import check_names
from keras_mnasnet.utils.text import Life, printable
from keras_mnasnet.weights.registry import spelled_as

CHUNK = 64
ORDER = 0x5E7  # the third word of the shuffle's seed: other random draws of the same seed stay independent of it


class Source(Protocol):
    """Where images come from. In a graph, `fetch` gives what `load` needs of several images, and their labels (int64);
    `load` makes it the bytes (string) or pixels (uint8 `[H, W, 3]`) of one image."""

    @property
    def count(self) -> int: ...

    @property
    def label_ids(self) -> np.ndarray: ...

    def where(self, index: int) -> str: ...

    def fetch(self, indices: Any) -> tuple[Any, Any]: ...

    def load(self, fetched: Any) -> Any: ...


class Files:
    """Image files; `label_ids` int32 `[N]`."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]], label_ids: np.ndarray) -> None:
        self.paths = [os.fspath(path) for path in paths]
        self.label_ids = np.asarray(label_ids, np.int32)
        self.count = len(self.paths)

    @functools.cached_property
    def _tensors(self) -> tuple[Any, Any]:
        with tf.init_scope():
            return tf.constant([os.fsencode(path) for path in self.paths]), tf.constant(self.label_ids, tf.int64)

    def where(self, index: int) -> str:
        return self.paths[index]

    def fetch(self, indices: Any) -> tuple[Any, Any]:
        paths, labels = self._tensors
        return tf.gather(paths, indices), tf.gather(labels, indices)

    def load(self, fetched: Any) -> Any:
        return tf.io.read_file(fetched)


class Segments:
    """Encoded images inside larger files (a tar), read in place: image `i` is `sizes[i]` bytes at `offsets[i]`."""

    def __init__(
        self, files: Sequence[str], file_ids: np.ndarray, offsets: np.ndarray, sizes: np.ndarray,
        names: Sequence[str], label_ids: np.ndarray,
    ) -> None:  # fmt: skip
        self.files, self.file_ids, self.offsets, self.sizes = list(files), file_ids, offsets, sizes
        self.names = names
        self.label_ids = np.asarray(label_ids, np.int32)
        self.count = len(offsets)

    @functools.cached_property
    def _labels(self) -> Any:
        with tf.init_scope():
            return tf.constant(self.label_ids, tf.int64)

    def where(self, index: int) -> str:
        return f"{self.files[self.file_ids[index]]}#{self.names[index]}"

    def read(self, index: int) -> bytes:
        """The bytes of one segment; a file that became shorter gives fewer, which then cannot be decoded."""
        with open(self.files[self.file_ids[index]], "rb", buffering=0) as file:
            file.seek(int(self.offsets[index]))
            return file.read(int(self.sizes[index]))

    def fetch_bytes(self, indices: Any) -> Any:
        """The segments as strings `[B]`."""
        read = tf.autograph.experimental.do_not_convert(lambda many: np.array([self.read(index) for index in many], object))
        data = tf.numpy_function(read, [indices], tf.string)
        return tf.ensure_shape(data, indices.shape)

    def fetch(self, indices: Any) -> tuple[Any, Any]:
        return self.fetch_bytes(indices), tf.gather(self._labels, indices)

    def load(self, fetched: Any) -> Any:
        return fetched


class Arrays:
    """Decoded images in memory: uint8 `[N, H, W, 3]` and labels int32 `[N]`."""

    def __init__(self, name: str, images: np.ndarray, label_ids: np.ndarray) -> None:
        self.name, self.images, self.label_ids = name, images, np.asarray(label_ids, np.int32)
        self.count = len(images)

    @functools.cached_property
    def tensors(self) -> tuple[Any, Any]:
        """Images and int64 labels as tensors."""
        with tf.init_scope():
            return tf.constant(self.images), tf.constant(self.label_ids, tf.int64)

    def where(self, index: int) -> str:
        return f"{self.name}#{index}"

    def fetch(self, indices: Any) -> tuple[Any, Any]:
        images, labels = self.tensors
        return tf.gather(images, indices), tf.gather(labels, indices)

    def load(self, fetched: Any) -> Any:
        return fetched


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Labeled images. `labels` are the class names in label order; `bad` the damaged images that `checked` took out, `sizes`
    the height and width of the others, int32 `[count, 2]`, as it saw them (None: not yet). `passed_over` counts the files
    beside them that are no images, by their ending."""

    name: str
    labels: tuple[str, ...]
    source: Source = dataclasses.field(repr=False)
    picked: np.ndarray | None = dataclasses.field(default=None, repr=False)
    bad: tuple[str, ...] = ()
    sizes: np.ndarray | None = dataclasses.field(default=None, repr=False)
    passed_over: Mapping[str, int] = dataclasses.field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        names = check_names(self.labels, f"The classes of {self.name}")
        object.__setattr__(self, "labels", tuple(unicodedata.normalize("NFC", name) for name in names))

    @property
    def count(self) -> int:
        """How many images."""
        return self.source.count if self.picked is None else len(self.picked)

    @functools.cached_property
    def label_ids(self) -> np.ndarray:
        """The labels, int32 `[count]`; of large TFRecords the first use reads every file once."""
        labels = self.source.label_ids
        return labels if self.picked is None else labels[self.picked]

    def counts(self) -> np.ndarray | None:
        """How many images each class has, int64 `[classes]`; None where the labels of large TFRecords were not read yet."""
        if "label_ids" not in self.source.__dict__:
            return None
        return np.bincount(self.label_ids, minlength=len(self.labels))

    def where(self, index: int) -> str:
        """The path of image `index`, or `file.tfrecord#123`."""
        return self.source.where(int(index if self.picked is None else self.picked[index]))

    def fetch(self, indices: Any) -> tuple[Any, Any]:
        """In a graph: what `source.load` needs of the images `[B]`, and their labels, int64 `[B]`."""
        return self.source.fetch(indices if self.picked is None else tf.gather(self._picked, indices))

    @functools.cached_property
    def _picked(self) -> Any:
        with tf.init_scope():
            return tf.constant(self.picked, tf.int64)

    def subset(self, indices: Any, *, bad: tuple[str, ...] = ()) -> ImageSet:
        """The images of these indices, in that order, as a set of their own; nothing is copied."""
        indices = np.asarray(indices, np.int64)
        picked = indices if self.picked is None else self.picked[indices]
        sizes = None if self.sizes is None else self.sizes[indices]
        return ImageSet(self.name, self.labels, self.source, picked, self.bad + bad, sizes, self.passed_over)

    def problem(self, index: int) -> str:
        """Why an image cannot be decoded, as the end of a sentence: `which is HEIC, ...`."""
        image, _ = self.fetch([index])
        try:
            content = self.source.load(image[0])
        except tf.errors.OpError:
            return "which cannot be read"
        try:
            within_aspect(decode(content))
        except ValueError:
            return "whose sides are past 1:100"
        except tf.errors.OpError:
            return problem(content.numpy())
        return "which can be decoded now"

    def steps_per_epoch(self, batch: int) -> int:
        """Whole batches in an epoch; ValueError where the set is smaller than one batch."""
        if not 1 <= batch <= self.count:
            raise ValueError(
                f"`batch_size` must be between 1 and the number of images ({self.count:,} in {self.name}). "
                f"Received: batch_size={batch}"
            )
        return self.count // batch

    def order(self, position: Any, *, seed: int, batch: int, balanced: bool = False) -> Any:
        """The image indices at positions (int64 `[B]`) of the endless shuffled sequence; each epoch is whole batches.

        `balanced`: every class that has images is drawn equally often, and its images in shuffled rounds of their own, so
        that those of a rare class come back before an epoch ends.
        """
        length = self.steps_per_epoch(batch) * batch
        epoch, within = position // length, position % length
        if not balanced:
            return _shuffled(within, self.count, seed, epoch, ORDER)
        members, starts, counts = self._by_class
        classes = counts.shape[0]
        drawn = _shuffled(within, length, seed, epoch, ORDER)
        number, turn = drawn % classes, epoch * (-(-length // classes)) + drawn // classes
        start, count = tf.gather(starts, number), tf.gather(counts, number)
        return tf.gather(members, start + _shuffled(turn % count, count, seed, turn // count, ORDER + 1 + number))

    @functools.cached_property
    def _by_class(self) -> tuple[Any, Any, Any]:
        """The image indices sorted by class, where each class begins, and how many it has; without classes that have none."""
        labels = self.label_ids
        _, starts, counts = np.unique(np.sort(labels), return_index=True, return_counts=True)
        with tf.init_scope():
            return tuple(tf.constant(each, tf.int64) for each in (np.argsort(labels, kind="stable"), starts, counts))

    def examples(
        self, *, seed: int | None = None, first: int = 0, stop: int | None = None, batch: int = 1,
        shard: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:  # fmt: skip
        """Dicts of position, index, image and label for positions `first <= p < stop`.

        Without a seed: one pass in order, where the index is the position. With a seed: an endless sequence of shuffled
        epochs of `count // batch` whole batches, the same from whatever `first` it starts. Shard `(i, n)` takes the i-th
        n-th of every batch. Images are bytes (string) or pixels (uint8 `[H, W, 3]`).
        """
        share = shard_size(batch, shard)
        if first < 0 or first % batch:
            raise ValueError(f"`first` must be a multiple of batch={batch}, 0 or more. Received: first={first}")
        if stop is None and seed is None:
            stop = self.count
        begin = first // batch * share
        end = np.iinfo(np.int64).max if stop is None else -(-stop // batch) * share

        def fetched(ordinals: Any) -> dict[str, Any]:
            position = ordinals // share * batch + shard[0] * share + ordinals % share
            if stop is not None:
                position = tf.boolean_mask(position, position < stop)
            index = position if seed is None else self.order(position, seed=seed, batch=batch)
            image, label = self.fetch(index)
            return {"position": position, "index": index, "image": image, "label": label}

        def loaded(item: dict[str, Any]) -> dict[str, Any]:
            return {**item, "image": self.source.load(item["image"])}

        dataset = tf.data.Dataset.range(begin, end).batch(CHUNK).map(fetched, num_parallel_calls=2, deterministic=True)
        return dataset.unbatch().map(loaded, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def decodable(self, *, progress: bool = False) -> np.ndarray:
        """The indices of the images that can be decoded and prepared, int64, ascending; decodes each once, in parallel."""
        return self.decoded_sizes(progress=progress)[0]

    def decoded_sizes(self, *, progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """`decodable`'s indices, and the height and width of those images, int32 `[n, 2]`."""

        def example(item: dict[str, Any]) -> tuple[Any, Any]:
            image = within_aspect(decode(item["image"]))
            return item["index"], tf.shape(image)[:2]

        dataset = self.examples().map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).ignore_errors()
        found, sizes = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int32)]
        with Life("check photos", total=self.count, unit="photo", shown=progress) as life:
            for part, shape in dataset.batch(256).prefetch(1).as_numpy_iterator():
                found.append(part)
                sizes.append(shape)
                life.step(len(part))
        return np.concatenate(found), np.concatenate(sizes)

    def checked(self, max_bad: int = 0, progress: bool = False) -> ImageSet:
        """This set without its damaged images, each logged by path and kept in `bad`; ValueError for more than `max_bad`."""
        if self.sizes is not None:
            return self
        good, sizes = self.decoded_sizes(progress=progress)
        bad = tuple(missing(self, good))
        if bad:
            _ = self.label_ids  # ValueError where a label, not an image, is at fault
        refuse_bad(bad, max_bad, self.count, self.problem(np.setdiff1d(np.arange(self.count), good)[0]) if bad else "")
        for path in bad:
            logging.warning("An image cannot be decoded and is left out: %s", printable(path))
        return dataclasses.replace(self.subset(good, bad=bad) if bad else self, sizes=sizes)


def _shuffled(index: Any, count: Any, seed: int, *words: Any) -> Any:
    """Where a uniform permutation of `count` takes each index (int64 `[B]`); `seed` and two `words` say which one.

    Four rounds, the operator's default, are visibly not uniform at some counts, such as 50,000.
    """
    same = tf.ones_like(index)
    seeds = tf.stack([same * seed, *(same * word for word in words)], axis=1)
    return tf.raw_ops.RandomIndexShuffle(index=index, seed=seeds, max_index=same * count - 1, rounds=8)


def shard_size(batch: int, shard: tuple[int, int]) -> int:
    """How many images of every batch shard `(i, n)` takes; ValueError where `n` does not divide the batch."""
    index, shards = shard
    if shards < 1 or not 0 <= index < shards or batch < 1 or batch % shards:
        raise ValueError(
            f"`shard` must be (i, n) with 0 <= i < n, and n must divide the batch size. Received: shard={shard}, batch={batch}"
        )
    return batch // shards


def check_classes(known: Sequence[str] | None, labels: Sequence[str], what: str, way_out: str) -> None:
    """ValueError where a checkpoint names its classes and the data has others, or has them in another order."""
    known = spelled_as(known, labels)
    if known and tuple(labels) != known:
        place, (theirs, ours) = next(
            (place, pair) for place, pair in enumerate(zip_longest(known, labels)) if pair[0] != pair[1]
        )
        raise ValueError(
            f"{what} needs data with the checkpoint's classes, in its order. Received: class {place} is {ours!r} in the data "
            f"and {theirs!r} in the checkpoint ({len(labels)} and {len(known)} classes). {way_out}"
        )


def missing(images: ImageSet, seen: Any) -> list[str]:
    """The paths of the images whose index is not among `seen`: those that could not be decoded."""
    lost = np.setdiff1d(np.arange(images.count), np.asarray(seen, np.int64))
    return [images.where(index) for index in lost]


def refuse_bad(bad: Sequence[str], max_bad: int, count: int, first: str = "") -> None:
    """ValueError that lists up to ten damaged images where there are more than `max_bad`; `first` says why the first is one."""
    if len(bad) > max_bad:
        shown = "\n  ".join(bad[:10]) + (f"\n  and {len(bad) - 10:,} more" if len(bad) > 10 else "")
        why = f"The first is one {first}. " if first else ""
        raise ValueError(
            f"At most max_bad={max_bad} of the {count:,} images may be damaged. Received: {len(bad):,} that cannot be "
            f"decoded, or are narrower than 1:100:\n  {shown}\n{why}Repair or remove them, or allow them with a larger max_bad."
        )
