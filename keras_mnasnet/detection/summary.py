"""What was read of annotations and their photos, as one value that commands show before their work."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from keras_mnasnet.data.folders import is_image
from keras_mnasnet.data.summary import Part, Sizes, Summary
from keras_mnasnet.detection.anchors import IOU_THRESHOLD, best_iou
from keras_mnasnet.detection.annotations import judged_split, splits_of
from keras_mnasnet.detection.data import CocoDataset
from keras_mnasnet.detection.spec import LEVELS, AnchorSettings, DetectorSpec, pixels_text
from keras_mnasnet.detection.truth import Truth

COCO_MOST = 100  # detections of a photo that COCO's numbers count
PAST_COCO = f"photos_of_more_than_{COCO_MOST}_boxes"
USUAL = AnchorSettings()
ANNOTATIONS = (".json", ".xml", ".txt", ".yaml", ".yml", ".names")


def origin_of(source: str | os.PathLike[str], split: str, dataset: CocoDataset) -> str:
    """Where a split comes from, in words."""
    own = f"the {split} split of {source}" if split in splits_of(source) else str(source)
    return f"{own}, photos in {dataset.images.name}"


def summary_of(
    source: str, datasets: Mapping[str, CocoDataset], origins: Mapping[str, str], size: tuple[int, int],
    anchors: AnchorSettings = USUAL, levels: int = LEVELS, *, threshold: float = IOU_THRESHOLD,
) -> Summary:  # fmt: skip
    """The summary of a run's data sets by the names of their splits, and of the anchors of a detector of `size`, which are
    said of the first one's boxes alone: it trains, and by them anchors are chosen."""
    split, first = next(iter(datasets.items()))
    notes: collections.Counter[str] = collections.Counter()
    for each in datasets.values():
        notes.update(each.notes)

    def matched(settings: AnchorSettings) -> float | None:
        found = best_iou(first.objects, size, settings, levels)
        return round(float((found >= threshold).mean()), 4) if len(found) else None

    is_usual = anchors == USUAL
    unused = [name for name in splits_of(source) if name not in datasets]
    paths = collections.Counter(each.where(index) for each in datasets.values() for index in range(each.count))
    leaked = sum(count > 1 for count in paths.values())
    return Summary(
        source=source,
        parts=tuple(Part(name, origins[name], each.count, each.counts()) for name, each in datasets.items()),
        classes=first.labels,
        counted="boxes",
        passed_over=_passed_over(datasets.values(), bool(unused)),
        left_out=tuple(dict.fromkeys(path for each in datasets.values() for path in each.bad)),
        sizes=Sizes.of(np.concatenate([each.sizes for each in datasets.values()])),
        facts={
            **({"not_used": f"the data's {' and '.join(unused)} split{'s' * (len(unused) > 1)}"} if unused else {}),
            **notes,
            **({"photos_that_are_in_several_splits": leaked} if leaked else {}),
            "photos_turned_by_exif": sum(int((each.orientations != 1).sum()) for each in datasets.values()),
            "most_boxes_of_a_photo": max(each.most_boxes for each in datasets.values()),
            PAST_COCO: sum(each.photos_past(COCO_MOST)[0] for each in datasets.values()),
            "anchors": f"{anchors}{' (the usual ones)' if is_usual else ''}",
            "boxes_with_an_anchor": f"those{'' if split == 'all' else f' of {split}'} that one overlaps by an IoU of "
            f"{threshold:g} or more, at {pixels_text(size)}",
            "share_of_boxes_with_an_anchor": matched(anchors),
            **({} if is_usual else {"share_with_the_usual_anchors": matched(USUAL)}),
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
        "crowd_regions": crowds,
        PAST_COCO: past,
        **{key: count for key, count in truth.notes.items() if count},
    }
    part = Part("all", truth.name, len(truth.images), counts)
    return Summary(source=truth.name, parts=(part,), classes=tuple(truth.categories.values()), counted="boxes", facts=facts)


def _passed_over(datasets: Iterable[CocoDataset], others: bool) -> dict[str, int]:
    """Endings of the files that lie beside the photos and are neither of them nor annotations, how many of each; without
    photos, where there may be those of `others`, splits that are not used."""
    used = {dataset.where(index) for dataset in datasets for index in range(dataset.count)}
    found: collections.Counter[str] = collections.Counter()
    for folder in sorted({os.path.dirname(path) for path in used}):
        for entry in os.scandir(folder or "."):
            if entry.name.startswith(".") or (others and is_image(entry.name)):
                continue
            if os.path.join(folder, entry.name) not in used and entry.is_file():
                found[Path(entry.name).suffix.lower() or "no ending"] += 1
    return {ending: count for ending, count in found.items() if ending not in ANNOTATIONS}
