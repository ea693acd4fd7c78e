"""Whether a detector learns: ten photos of COCO are trained on until their objects are found again.

    python benchmarks/run_detection.py --annotations instances_train2017.json --photos train2017 \\
        --output benchmarks/results/NAME/detection.json [--picture found.png]

The photos are the first ten, by id, that have boxes, no crowd region, and no box whose area is below 1/256 of the photo's
(a sixteenth of its side); the last run takes the first ten with boxes, however small. COCO's numbers are measured on the
photos trained on. This is memorising, on purpose: it shows that model, matching, losses, augmentation, box code and
evaluation agree, and says nothing about other photos. The time is the wall clock's for reading, building, training and the
measures in between. `--picture` is for looking at, and not for publishing: the photos have licences of their own.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA = 1
PHOTOS = 10
SMALLEST_AREA = 1 / 256
SHOWN = 0.3
CURVE = ("step", "loss", "val_loss", "val_ap", "val_ap50", "seconds")
RECIPE = {"batch_size": 10, "base_batch": 10, "passes": 25, "learning_rate": 2e-3, "bn_momentum": 0.9, "ema": 0.99}
PLAIN = {"augment.crop": False, "augment.flip": False}
RUNS: tuple[dict[str, Any], ...] = (
    {"model": "a1", "weights": "cifar10", "size": 224, "small_boxes": False, "changed": {"epochs": 8, **PLAIN}},
    {"model": "a1", "weights": None, "size": 224, "small_boxes": False, "changed": {"epochs": 20}},
    {"model": "a1", "weights": "cifar10", "size": 320, "small_boxes": True, "changed": {"epochs": 12, **PLAIN}},
)


def chosen(annotations: str, small_boxes: bool) -> dict[str, Any]:
    """The annotation file of the ten photos alone, with the categories that they have."""
    whole = json.loads(Path(annotations).read_text("utf-8"))
    by_image: dict[int, list[dict[str, Any]]] = {}
    for row in whole["annotations"]:
        by_image.setdefault(row["image_id"], []).append(row)

    def is_taken(image: dict[str, Any]) -> bool:
        rows, area = by_image.get(image["id"], []), image["width"] * image["height"]
        return bool(rows) and all(
            small_boxes or (not row["iscrowd"] and row["bbox"][2] * row["bbox"][3] >= SMALLEST_AREA * area) for row in rows
        )

    images = sorted(filter(is_taken, whole["images"]), key=lambda image: image["id"])[:PHOTOS]
    rows = [row for image in images for row in by_image[image["id"]]]
    used = {row["category_id"] for row in rows}
    categories = [category for category in whole["categories"] if category["id"] in used]
    return {"images": images, "annotations": rows, "categories": categories}


def trained(settings: dict[str, Any], annotations: Path, images: str, folder: Path) -> dict[str, Any]:
    """One run: its settings, its curve, COCO's twelve numbers of the detector in its file."""
    from keras_mnasnet.detection.data import open_dataset
    from keras_mnasnet.detection.evaluation import coco_score
    from keras_mnasnet.detection.model import spec_of
    from keras_mnasnet.detection.recipe import DETECTION_RECIPES
    from keras_mnasnet.detection.training import train
    from keras_mnasnet.training import recipe_to_json

    recipe = DETECTION_RECIPES["finetune-detector"].changed(**RECIPE, **settings["changed"], size=settings["size"])
    started = time.perf_counter()
    rows = train(
        annotations, images, folder, recipe=recipe, network=settings["model"], from_model=settings["weights"],
        validation=annotations,
    ).rows  # fmt: skip
    seconds = time.perf_counter() - started
    data = open_dataset(annotations, images)
    model, found = detections(folder, data)
    spec = spec_of(model)
    score = coco_score(data.truth, _results(data, found), image_ids=data.image_ids)
    return {
        **{key: settings[key] for key in ("model", "weights", "size", "small_boxes")},
        "photos": data.image_ids, "boxes": len(data.boxes), "categories": data.labels, "notes": data.notes,
        "backbone": spec.backbone, "params": spec.params(), "madds": spec.madds(),
        "recipe": recipe_to_json(recipe), "seconds": round(seconds, 1), "load_average": os.getloadavg(),
        "curve": [{key: float(row[key]) for key in CURVE} for row in rows],
        "metrics": score.metrics,
        "per_category": [{"name": each.name, "boxes": int(each.boxes), "ap50": each.ap50} for each in score.per_category],
    }  # fmt: skip


def detections(folder: Path, data: Any) -> tuple[Any, list[Any]]:
    """The detector in a run's folder, and what it finds in every photo."""
    from keras_mnasnet import load
    from keras_mnasnet.detection.data import evaluation_batches
    from keras_mnasnet.detection.model import spec_of
    from keras_mnasnet.detection.postprocess import detections_of, sigmoid

    model = load(folder).model()
    spec = spec_of(model)
    found = []
    for pixels, _ in evaluation_batches(data, size=spec.input_size, batch_size=data.count):
        outputs = model.predict_on_batch(pixels)
        found += detections_of(outputs["boxes"], sigmoid(outputs["scores"]), spec)
    return model, found


def _results(data: Any, found: list[Any]) -> list[dict[str, Any]]:
    from keras_mnasnet.detection.evaluation import results_of

    pairs = zip(data.image_ids, found, strict=True)
    return [row for image, each in pairs for row in results_of(each, data.truth.images[image], data.category_ids)]


def picture(folder: Path, data: Any, path: Path) -> None:
    """The photos with what was found at a score of 0.3 or more, in two rows of squares."""
    from PIL import Image

    from keras_mnasnet.data import read_image
    from keras_mnasnet.detection.drawing import draw

    _, found = detections(folder, data)
    sheet = Image.new("RGB", (5 * 320, -(-data.count // 5) * 320))
    for index, each in enumerate(found):
        drawn = draw(np.asarray(read_image(data.where(index))), each.above(SHOWN), data.labels)
        place = (index % 5 * 320, index // 5 * 320)
        sheet.paste(Image.fromarray(drawn).resize((320, 320)), place)
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", required=True)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--picture", type=Path, help="PNGs of the photos with boxes, one for each run")
    parser.add_argument("--runs", type=int, default=len(RUNS), help="only so many of the runs (default %(default)s)")
    arguments = parser.parse_args()
    if not Path(arguments.annotations).is_file() or not Path(arguments.photos).is_dir():
        parser.error(
            f"--annotations must be a COCO file, and --photos a folder. Received: {arguments.annotations}, {arguments.photos}"
        )

    from keras_mnasnet.detection.data import open_dataset

    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), list[dict[str, Any]]()
        for number, settings in enumerate(RUNS[: arguments.runs]):
            annotations = folder / f"{number}.json"
            annotations.write_text(json.dumps(chosen(arguments.annotations, settings["small_boxes"])), "utf-8")
            rows.append(trained(settings, annotations, arguments.photos, folder / str(number)))
            print(
                f"{settings['model']} at {settings['size']} px from {settings['weights'] or 'scratch'}: "
                f"AP {rows[-1]['metrics']['AP']:.3f}, AP50 {rows[-1]['metrics']['AP50']:.3f} in {rows[-1]['seconds']:.0f} s"
            )
            report(arguments.output, rows)
            if arguments.picture:
                path = arguments.picture.with_stem(f"{arguments.picture.stem}-{number}")
                picture(folder / str(number), open_dataset(annotations, arguments.photos), path)


def report(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write what was measured so far."""
    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.utils.system import environment

    value = {
        "schema": SCHEMA, "benchmark": "detection", "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": environment(), "measured_on": "the photos trained on", "runs": rows,
    }  # fmt: skip
    write_json(path, value)


if __name__ == "__main__":
    main()
