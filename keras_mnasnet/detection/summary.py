"""What was read of annotations and their photos, as one value: `describe`, and what commands show before their work."""

from __future__ import annotations

import collections
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.data.summary import Part, Sizes, Summary
from keras_mnasnet.detection.anchors import IOU_THRESHOLD, best_iou, chosen_anchors
from keras_mnasnet.detection.annotations import judged_split, splits_of
from keras_mnasnet.detection.data import CocoDataset, open_dataset
from keras_mnasnet.detection.recipe import DEFAULT_SIZE, as_anchors
from keras_mnasnet.detection.spec import LEVELS, AnchorSettings, DetectorSpec, pixels_text, sides
from keras_mnasnet.detection.truth import Truth

COCO_MOST = 100  # detections of a photo that COCO's numbers count
PAST_COCO = f"photos_of_more_than_{COCO_MOST}_boxes"
USUAL = AnchorSettings()
ANNOTATIONS = (".json", ".xml", ".txt", ".yaml", ".yml", ".names")


def describe(
    annotations: str | os.PathLike[str], photos: str | os.PathLike[str] | None = None, *,
    size: int | str | tuple[int, int] = DEFAULT_SIZE, anchors: AnchorSettings | str | None = None,
    crowd_as_objects: bool = False, max_bad: int = 0, check: bool = False,
) -> Summary:  # fmt: skip
    """What a detector would be trained and measured on, of all splits that the annotations have.

    Args:
        annotations: a COCO file, a folder of VOC's .xml files, or YOLO's labels.
        photos: the folder of their photos, where they do not say it themselves.
        size: pixels of a detector's input, of a square or (height, width), for the share of boxes that some anchor matches.
        anchors: of such a detector: AnchorSettings, or "auto" for those that `train` would choose.
        crowd_as_objects, max_bad: as in `train`.
        check: decode every photo once, which `train` does, and which finds damaged ones and sizes other than annotated.

    Raises ValueError for annotations that would be refused, OSError for missing files.

    Example:
        >>> import json, pathlib
        >>> from keras_mnasnet.detection import describe
        >>> truth = {"images": [{"id": 1, "file_name": "ship.png", "width": 128, "height": 128}],
        ...          "annotations": [{"image_id": 1, "category_id": 1, "bbox": [10, 30, 100, 70]}],
        ...          "categories": [{"id": 1, "name": "ship"}]}
        >>> _ = pathlib.Path("boxes.json").write_text(json.dumps(truth))
        >>> describe("boxes.json", "weights/demo").classes
        ('ship',)
    """
    known: Sequence[str | None] = splits_of(annotations) or (None,)
    options: dict[str, Any] = {"crowd_as_objects": crowd_as_objects, "max_bad": max_bad}
    opened = {split or "all": open_dataset(annotations, photos, split=split, **options) for split in known}
    if check:
        opened = {split: each.checked(max_bad) for split, each in opened.items()}
    pixels, settings = sides(size), as_anchors(anchors) or USUAL
    if isinstance(settings, str):
        settings = chosen_anchors(next(iter(opened.values())).objects, pixels)
    origins = {name: origin_of(annotations, name, each) for name, each in opened.items()}
    return summary_of(str(annotations), opened, origins, pixels, settings)


def origin_of(source: str | os.PathLike[str], split: str, dataset: CocoDataset) -> str:
    """Where a split comes from, in words."""
    own = f"the {split} split of {source}" if split in splits_of(source) else str(source)
    return f"{own}, photos in {dataset.images.name}"


def summary_of(
    source: str, datasets: Mapping[str, CocoDataset], origins: Mapping[str, str], size: tuple[int, int],
    anchors: AnchorSettings = USUAL, levels: int = LEVELS, *, threshold: float = IOU_THRESHOLD,
) -> Summary:  # fmt: skip
    """The summary of a run's data sets by the names of their splits, and of the anchors of a detector of `size`."""
    first = next(iter(datasets.values()))
    notes: collections.Counter[str] = collections.Counter()
    for each in datasets.values():
        notes.update(each.notes)
    objects = np.concatenate([each.objects for each in datasets.values()])

    def matched(settings: AnchorSettings) -> float | None:
        return round(float((best_iou(objects, size, settings, levels) >= threshold).mean()), 4) if len(objects) else None

    other = {} if anchors == USUAL else {"share_with_the_usual_anchors": matched(USUAL)}
    paths = collections.Counter(each.where(index) for each in datasets.values() for index in range(each.count))
    leaked = sum(count > 1 for count in paths.values())
    return Summary(
        source=source,
        parts=tuple(Part(name, origins[name], each.count, _counts(each)) for name, each in datasets.items()),
        classes=first.labels,
        counted="boxes",
        passed_over=_passed_over(datasets.values()),
        left_out=tuple(dict.fromkeys(path for each in datasets.values() for path in each.bad)),
        sizes=Sizes.of(np.concatenate([each.sizes for each in datasets.values()])),
        facts={
            **notes,
            **({"photos_that_are_in_several_splits": leaked} if leaked else {}),
            "photos_turned_by_exif": sum(int((each.orientations != 1).sum()) for each in datasets.values()),
            "most_boxes_of_a_photo": max(each.most_boxes for each in datasets.values()),
            PAST_COCO: sum(each.photos_past(COCO_MOST)[0] for each in datasets.values()),
            "share_of_boxes_with_an_anchor": matched(anchors),
            **other,
            "anchors": f"IoU {threshold:g} or more at {pixels_text(size)}{f'; {anchors}' if other else ''}",
        },
    )


def summary_of_one(
    annotations: str | os.PathLike[str], dataset: CocoDataset, size: tuple[int, int], *, spec: DetectorSpec | None = None,
    split: str | None = None,
) -> Summary:  # fmt: skip
    """The summary of the one split that judges a detector, of `spec` where it is known."""
    name = split or judged_split(annotations) or "all"
    placed = (USUAL, LEVELS) if spec is None else (spec.anchors, spec.levels)
    return summary_of(str(annotations), {name: dataset}, {name: origin_of(annotations, name, dataset)}, size, *placed)


def summary_of_truth(truth: Truth) -> Summary:
    """The same of annotations whose photos are not needed."""
    counts = dict.fromkeys(truth.categories.values(), 0)
    crowds = 0
    for row in truth.annotations:
        if row["iscrowd"]:
            crowds += 1
        else:
            counts[truth.categories[row["category_id"]]] += 1
    past = sum(count > COCO_MOST for count in collections.Counter(row["image_id"] for row in truth.annotations).values())
    facts = {
        "boxes": len(truth.annotations),
        "crowds": crowds,
        PAST_COCO: past,
        **{key: count for key, count in truth.notes.items() if count},
    }
    part = Part("all", truth.name, len(truth.images), counts)
    return Summary(source=truth.name, parts=(part,), classes=tuple(truth.categories.values()), counted="boxes", facts=facts)


def _counts(dataset: CocoDataset) -> dict[str, int]:
    found = np.bincount(dataset.classes[dataset.classes >= 0], minlength=len(dataset.labels))
    return dict(zip(dataset.labels, map(int, found), strict=True))


def _passed_over(datasets: Any) -> dict[str, int]:
    """Endings of the files that lie beside the photos and are neither of them nor annotations, how many of each."""
    used = {dataset.where(index) for dataset in datasets for index in range(dataset.count)}
    found: collections.Counter[str] = collections.Counter()
    for folder in sorted({os.path.dirname(path) for path in used}):
        for entry in os.scandir(folder or "."):
            if not entry.name.startswith(".") and os.path.join(folder, entry.name) not in used and entry.is_file():
                found[Path(entry.name).suffix.lower() or "no ending"] += 1
    return {ending: count for ending, count in found.items() if ending not in ANNOTATIONS}
