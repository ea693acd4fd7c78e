"""Top-1 and top-5 accuracy of classifiers on labeled photos: ImageNet's, or any other set."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from absl import logging

from keras_mnasnet.benchmarks.gallery import Decisions, write_gallery
from keras_mnasnet.benchmarks.results import SCHEMA
from keras_mnasnet.data import ImageSet, evaluated_split, evaluation_batches, numbering, open_images, refuse_bad, summarize
from keras_mnasnet.data.summary import Summary
from keras_mnasnet.inference import Classifier, open_classifier
from keras_mnasnet.preprocessing import Preprocessing
from keras_mnasnet.utils.files import new_folder
from keras_mnasnet.utils.system import environment
from keras_mnasnet.utils.text import Life, header
from keras_mnasnet.weights.registry import BACKGROUND, spelled_as

TIE_RULE = (
    "scores in descending order, of equal scores the lower output first; the background that some models have as output 0 is "
    "ranked with the others and never right"
)
TIMING = "images/s: inference alone, from input tensor to scores, while the next photos are decoded"


@dataclasses.dataclass(frozen=True, slots=True)
class ClassResult:
    """Counts of one class; `correct5` is None with the model's top-5."""

    label: str
    images: int
    correct1: int
    correct5: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class AccuracyResult:
    """One model's accuracy on `data` (its `split`, where it has several).

    `top1` and `top5` are fractions 0..1 (`top5` None for five classes or fewer), `published_top1` and `published_top5` percent
    as the model's record publishes them for this size. `seconds` and `images_per_second` are of the inference alone:
    from the input tensor to the scores, while the next photos are decoded. `classes` are the data's, `outputs` the model's,
    `background` says that its output 0 is none of its classes. `top1_among` is top-1 among the outputs that the data's classes
    name, None where these are all of the model's classes. `images` were scored; `bad` are the damaged photos, which count
    nowhere else, `read` is what was read of the data.
    """

    model: str
    kind: str
    data: str
    split: str | None
    classes: int
    outputs: int
    images: int
    top1: float
    top5: float | None
    top1_among: float | None
    correct1: int
    correct5: int | None
    images_per_second: float
    seconds: float
    preprocessing: Preprocessing
    preprocessing_text: str
    input: str
    published_top1: float | None
    published_top5: float | None
    published_at: str | None
    per_class: tuple[ClassResult, ...]
    bad: tuple[str, ...]
    read: Summary = dataclasses.field(repr=False)
    background: bool
    bundled: bool


def evaluate(
    models: Any, data: str | os.PathLike[str] | ImageSet, *, split: str | None = None,
    ground_truth: str | os.PathLike[str] | None = None, synsets: str | os.PathLike[str] | None = None, size: int | None = None,
    preprocessing: Preprocessing | str | None = None, upright: bool | None = None, file_input: str | None = None,
    labels: Sequence[str] | None = None, labels_offset: int | None = None, batch_size: int = 32, threads: int | None = None,
    limit: int | None = None, max_bad: int = 0, errors: str | os.PathLike[str] | None = None, progress: bool = True,
) -> list[AccuracyResult]:  # fmt: skip
    """Top-1 and top-5 of every model on labeled photos, in order; models with the same preprocessing share a pass over them.

    `models`: one or several of what `keras_mnasnet.load` takes, or files (`.tflite`, `.onnx`), at their own size and with their
    own preprocessing unless `size` and `preprocessing` (a Preprocessing, google, timm, torchvision, pillow) say otherwise;
    `upright` turns photos as their EXIF orientation says, or does not (default: as the preprocessing says);
    `file_input` (pixels, unit, signed, imagenet) and `threads` (default: all cores) are for files. `data` is what
    `data.open_images` opens, of it the `split` named, else validation if the data has it, else test; `limit` takes that many
    photos, spread evenly over the set.

    Scores are ranked in a stable descending sort: of equal scores the lower output goes first. A model that knows its classes
    is matched by name, so that the data may have fewer of them (all outputs are ranked nevertheless), in another order;
    `labels` (one name for each output) names those of every model instead. Else a model with one output more than the data
    has classes has a background at output 0, which is ranked with the others and never right; `labels_offset` 0 or 1 says
    what output label 0 is instead. Damaged photos are named in a warning; more than `max_bad` are a ValueError, as soon as
    they are met. Raises ValueError or OSError for models and data that cannot be read or do not fit each other.

    `errors`, a new or empty folder, gets a page, index.html, with thumbnails of the photos that the models decide differently
    and of those that all decide wrongly alike, by confusion, the most frequent first.

    Example:
        >>> from keras_mnasnet import benchmarks
        >>> (result,) = benchmarks.evaluate("cifar10", "shapes:40@32", labels_offset=0, progress=False)
        >>> result.images, result.classes, 0 <= result.top1 <= 1
        (40, 10, True)
    """
    is_one = isinstance(models, str | os.PathLike) or not isinstance(models, Iterable)
    listed: list[Any] = [models] if is_one else list(models)
    if not listed:
        raise ValueError("An evaluation needs at least one model. Received: none")
    if batch_size < 1 or max_bad < 0:
        raise ValueError(
            f"`batch_size` must be 1 or more and `max_bad` 0 or more. Received: batch_size={batch_size!r}, max_bad={max_bad!r}"
        )
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be 1 or more. Received: limit={limit!r}")
    if labels is not None and labels_offset is not None:
        raise ValueError(
            f"Outputs are matched by `labels` or by `labels_offset`, not by both. Received: {len(labels)} labels and "
            f"labels_offset={labels_offset!r}. Leave out one of them (--labels, --labels-offset)"
        )
    classifiers = [
        (
            model
            if isinstance(model, Classifier)
            else open_classifier(model, size=size, preprocessing=preprocessing, file_input=file_input, threads=threads)
        ).labeled(labels)
        for model in listed
    ]
    if upright is not None:
        classifiers = [
            dataclasses.replace(each, preprocessing=dataclasses.replace(each.preprocessing, upright=upright))
            for each in classifiers
        ]
    if isinstance(data, ImageSet):
        images = data
    else:
        split = split or evaluated_split(data)
        images = open_images(
            data, split=split, ground_truth=ground_truth, synsets=synsets, min_classes=1,
            classes=numbering([classifier.outputs for classifier in classifiers]),
        )  # fmt: skip
    if limit is not None and limit < images.count:
        images = images.subset(np.arange(limit) * images.count // limit)
    outputs = [_outputs_of(model, images.labels, labels_offset) for model in classifiers]
    names = ["model"] if len(classifiers) == 1 else [f"model {number}" for number in range(1, len(classifiers) + 1)]
    rows: dict[str, object] = {
        name: f"{model.origin}, {model.outputs:,} classes{_share(model, found)}, {model.size} px, {model.preprocessing}"
        for name, model, found in zip(names, classifiers, outputs, strict=True)
    }
    read = summarize(images.name, {split or "all": (images, f"the data's {split} split" if split else "the data")})
    header({**read.rows(), **rows, "batch": batch_size}, shown=progress)
    with contextlib.nullcontext() if errors is None else new_folder(errors) as folder:
        tallies = [_Tally(*each, batch_size) for each in zip(classifiers, outputs, strict=True)]
        results = _scored(tallies, images, split, read, batch_size, max_bad, progress)
        if folder is not None:
            write_gallery(folder, images, [tally.decisions(images) for tally in tallies], results, progress=progress)
    return results


def report(results: Sequence[AccuracyResult], **settings: Any) -> dict[str, Any]:
    """What a result file holds: the results, the data, the machine, and the `settings` they were measured with."""
    first = results[0]
    named = {"name": first.data, "split": first.split, "images": first.images + len(first.bad), "classes": first.classes}
    return {
        "schema": SCHEMA,
        "benchmark": "accuracy",
        "environment": environment(),
        "data": {**first.read.as_json(), **named},
        "settings": settings,
        "ranking": TIE_RULE,
        "timing": TIMING,
        "results": [{key: value for key, value in dataclasses.asdict(result).items() if key != "read"} for result in results],
    }


def _outputs_of(model: Classifier, labels: Sequence[str], offset: int | None) -> np.ndarray:
    known = spelled_as(model.labels, labels)
    if known is None and not len(labels) <= model.outputs <= len(labels) + 1:
        known = model.labels  # to say what does not match
    return label_outputs(model.name, model.outputs, labels, known=known, offset=offset)


def _share(model: Classifier, outputs: np.ndarray) -> str:
    """How many of a model's classes the data has, where these are not all."""
    return f" ({len(outputs):,} of them in the data)" if len(outputs) < model.outputs - _has_background(model, outputs) else ""


def _has_background(model: Classifier, outputs: np.ndarray) -> bool:
    """Whether output 0 is a background: it is called so, or is what a model without names has before the data's classes."""
    by_count = model.labels is None and model.outputs == len(outputs) + 1
    return 0 not in outputs and (by_count or (model.labels or [""])[0] == BACKGROUND)


def _scored(
    tallies: Sequence[_Tally], images: ImageSet, split: str | None, read: Summary, batch_size: int, max_bad: int, progress: bool
) -> list[AccuracyResult]:
    groups: dict[Preprocessing, list[_Tally]] = {}
    for tally in tallies:
        groups.setdefault(tally.model.preprocessing, []).append(tally)
    damaged: dict[Preprocessing, tuple[str, ...]] = {}
    named: set[str] = set()
    with Life("evaluate", total=images.count * len(groups), unit="photo", shown=progress) as life:
        for preprocessing, members in groups.items():
            watch = _Damage(images, max_bad, named)
            batches = evaluation_batches(images, preprocessing, batch_size=batch_size)
            for pixels, labels, index in batches.as_numpy_iterator():
                watch.seen(index)
                for tally in members:
                    tally.add(pixels, labels, index, batch_size)
                life.step(len(index), ", ".join(tally.text() for tally in members[:3]))
            damaged[preprocessing] = watch.finished()
    return [tally.result(images, split, read, damaged[tally.model.preprocessing]) for tally in tallies]


class _Damage:
    """Finds the damaged photos from the gaps in the order, and gives up once there are more than `max_bad`."""

    def __init__(self, images: ImageSet, max_bad: int, named: set[str]) -> None:
        self.images, self.max_bad, self.named = images, max_bad, named
        self.bad: list[str] = []
        self.first, self.next = "", 0

    def seen(self, index: np.ndarray) -> None:
        """The photos of a batch, int64 `[b]`, ascending."""
        self._lost(np.setdiff1d(np.arange(self.next, int(index[-1]) + 1), index))
        self.next = int(index[-1]) + 1

    def finished(self) -> tuple[str, ...]:
        """The paths of all damaged photos."""
        self._lost(np.arange(self.next, self.images.count))
        if len(self.bad) == self.images.count:
            raise ValueError(f"At least one photo must be whole. Received: {self.images.name}, where none can be decoded")
        return tuple(self.bad)

    def _lost(self, gaps: Any) -> None:
        if len(gaps) and not self.bad:
            self.first = self.images.problem(int(gaps[0]))
        for path in (self.images.where(index) for index in gaps):
            self.bad.append(path)
            if path not in self.named:
                logging.warning("An image cannot be decoded and is left out: %s", path)
                self.named.add(path)
        refuse_bad(self.bad, self.max_bad, self.images.count, self.first)


class _Tally:
    """Counts one classifier's hits."""

    def __init__(self, model: Classifier, outputs: np.ndarray, batch_size: int) -> None:
        self.model, self.outputs = model, outputs
        self.labels: list[np.ndarray] = []
        self.places: list[np.ndarray] = []
        self.index: list[np.ndarray] = []
        self.decided: list[np.ndarray] = []
        self.background = _has_background(model, outputs)
        self.among = np.sort(outputs) if len(outputs) < model.outputs - self.background else None
        self.seconds = 0.0
        self.count = self.correct = self.correct_among = 0
        model.run(np.zeros((1, model.size, model.size, 3), np.float32), batch_size)

    def add(self, pixels: np.ndarray, labels: np.ndarray, index: np.ndarray, batch_size: int) -> None:
        """Classify a batch."""
        scores, seconds = self.model.run(pixels, batch_size)
        try:
            places = ranks(scores, self.outputs[labels])
        except ValueError as error:
            raise ValueError(f"{self.model.name}: {error}") from error
        self.seconds += seconds
        self.labels.append(labels)
        self.places.append(places)
        self.index.append(index)
        self.decided.append(np.argmax(scores, axis=1))
        if self.among is not None:
            own = np.searchsorted(self.among, self.outputs[labels])
            self.correct_among += int((ranks(scores[:, self.among], own) < 1).sum())
        self.count += len(labels)
        self.correct += int((places < 1).sum())

    def text(self) -> str:
        """How it stands: `top-1 82.31 %, 340 images/s`."""
        return f"top-1 {100 * self.correct / self.count:.2f} %, {rate(self.count / self.seconds)} images/s"

    def result(self, images: ImageSet, split: str | None, read: Summary, bad: tuple[str, ...]) -> AccuracyResult:
        """The figures of all batches."""
        classes = len(images.labels)
        labels, places = np.concatenate(self.labels), np.concatenate(self.places)
        counts, first, among5 = (
            np.bincount(labels[chosen], minlength=classes) for chosen in (places >= 0, places < 1, places < 5)
        )
        has_top5 = classes > 5
        origin = self.model.origin
        figures = origin.published or origin.measured
        total, correct1, correct5 = len(labels), int(first.sum()), int(among5.sum())
        return AccuracyResult(
            model=self.model.name,
            kind=self.model.kind,
            data=images.name,
            split=split,
            classes=classes,
            outputs=self.model.outputs,
            images=total,
            top1=correct1 / total,
            top5=correct5 / total if has_top5 else None,
            top1_among=None if self.among is None else self.correct_among / total,
            correct1=correct1,
            correct5=correct5 if has_top5 else None,
            images_per_second=total / self.seconds,
            seconds=self.seconds,
            preprocessing=self.model.preprocessing,
            preprocessing_text=str(self.model.preprocessing),
            input=self.model.input,
            published_top1=figures.get("top1"),
            published_top5=figures.get("top5"),
            published_at=origin.published_at or (origin.measured_on and f"measured on {origin.measured_on}"),
            per_class=tuple(
                ClassResult(
                    images.labels[label], int(counts[label]), int(first[label]), int(among5[label]) if has_top5 else None
                )
                for label in np.flatnonzero(counts)
            ),
            bad=bad,
            read=dataclasses.replace(read, left_out=bad),
            background=self.background,
            bundled=bool(origin.measured),
        )

    def decisions(self, images: ImageSet) -> Decisions:
        """What it decided, photo by photo."""
        names = list(self.model.labels or (f"output {number}" for number in range(self.model.outputs)))
        for label, output in zip(images.labels, self.outputs, strict=True):
            names[output] = label
        index = np.concatenate(self.index)
        found = Decisions(self.model.name, names, *(np.full(images.count, -1, np.int64) for _ in range(2)))
        found.outputs[index], found.places[index] = np.concatenate(self.decided), np.concatenate(self.places)
        return found


def rate(value: float) -> str:
    """Images per second, two digits at least."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def ranks(scores: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """The place, 0 for the best, of output `outputs[b]` in row b of `scores` `[B, C]` of any number type: int64 `[B]`.

    place = #(scores > own) + #(scores == own at a lower index), which is the position in a stable descending sort.
    ValueError for scores that are not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("Scores must be finite. Received: NaN or infinite scores")
    own = np.take_along_axis(scores, outputs[:, None], axis=1)
    lower = np.arange(scores.shape[1])[None] < outputs[:, None]
    return np.sum((scores > own) | ((scores == own) & lower), axis=1)


def label_outputs(
    name: str, outputs: int, labels: Sequence[str], *, known: Sequence[str] | None = None, offset: int | None = None
) -> np.ndarray:
    """The output of each of the data's `labels`, int64 `[n]`, of a classifier with `outputs` outputs.

    A classifier that knows its classes (`known`) is matched by name, so the data may have fewer of them or another order; a
    name that stands twice is matched where both lists are the same. Otherwise by number: n outputs, or n + 1 with a
    background first.
    `offset` (0 or 1) says what output label 0 is. ValueError for a classifier that does not fit the data.
    """
    count = len(labels)
    if offset is not None and (offset not in (0, 1) or not offset + count <= outputs <= count + 1):
        raise ValueError(
            f"`labels_offset` must be 0, or 1 for a model with one output more than the data has classes. "
            f"Received: labels_offset={offset!r} for {name} with {outputs:,} outputs and {count:,} classes in the data"
        )
    if offset is None and known and tuple(labels) != tuple(known):
        number = {label: output for output, label in enumerate(known)}
        often, here = Counter(known), Counter(labels)
        if others := [label for label in labels if often[label] != 1 or here[label] != 1]:
            raise _unmatched(name, known, labels, others)
        return np.array([number[label] for label in labels], np.int64)
    if not count <= outputs <= count + 1:
        raise ValueError(
            f"A model must have as many outputs as the data has classes, or one more for a background. "
            f"Received: {name} with {outputs:,} outputs and data with {count:,} classes ({_shown(labels)}). "
            f"Choose a model of these classes, or other data, or name the model's outputs with labels= (--labels FILE)."
            f"{' End a model of two classes with two outputs, not one.' if outputs == 1 else ''}"
        )
    return np.arange(count) + (outputs - count if offset is None else offset)


def _unmatched(name: str, known: Sequence[str], labels: Sequence[str], others: Sequence[str]) -> ValueError:
    """What is said of data with classes that are not each one output of a model, and the names that are near them."""
    said, plain = [], {_plain(each): each for each in known}
    for label in others[:4]:
        near = [plain[each] for each in difflib.get_close_matches(_plain(label), plain, n=2, cutoff=0.7)]
        twice = ", which stands twice" if label in known else f" (near: {', '.join(map(repr, near))})" if near else ""
        said.append(f"{label!r}{twice}")
    by_number = "labels_offset=0 to number both in their own order, or " if len(labels) == len(known) else ""
    return ValueError(
        f"Every class of the data must be one of the model's. Received: {name} of {_shown(known)}, and data of which "
        f"{len(others):,} of {len(labels):,} classes are not: {', '.join(said)}{', ...' * (len(others) > 4)}. Rename the "
        f"data's classes, or pass {by_number}labels= (--labels FILE), the names of the outputs as the data has them."
    )


def _plain(label: str) -> str:
    return re.sub(r"[\W_]+", " ", label).strip().lower()


def _shown(labels: Sequence[str]) -> str:
    return ", ".join(labels[:4]) + (", ..." if len(labels) > 4 else "")
