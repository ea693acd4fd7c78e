"""Detectors of blood cells: SSDLite on two of the bundled networks, trained on BCCD's 205 training photos, chosen on its 87
validation photos, and measured on its 72 test photos, which nothing else looks at.

    git clone https://github.com/Shenggan/BCCD_Dataset
    python benchmarks/run_bccd.py --data BCCD_Dataset/BCCD --runs runs/bccd --output benchmarks/results/NAME --docs docs/bccd

Trains what --runs lacks, and goes on with what was stopped. Of every finished network the test photos are measured with the
Keras model, with the float32, float16 and int8 files (int8 calibrated on the training photos), and with other selections of
boxes; what bccd.json holds of a network's file is not measured again. Writes bccd.json and the curves, bccd.png, into --output
after each network, and three test photos with what was found into --docs. Curves need the extra [report].
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
SCHEMA = 1
SOURCE = {"source": "https://github.com/Shenggan/BCCD_Dataset", "license": "MIT"}
NETWORKS: dict[str, dict[str, Any]] = {"small": {"network": "small"}, "a1-0.5": {"network": "a1", "width": 0.5}}
START, SIZE, ANCHORS, EPOCHS, BATCH, RATE = "cifar10", "240x320", "auto", 20, 8, 1e-3
CHANGES = {
    "base_batch": BATCH, "passes": 3, "warmup_epochs": 1, "match_iou": 0.4, "augment.area": (0.5, 1.0),
    "augment.aspect": (0.8, 1.25),
}  # fmt: skip
PRECISIONS, TAILS = ("float32", "float16", "int8"), ("operator", "builtin", "none")
VERIFIED = 32  # training photos that a file is verified on
IOUS = (0.3, 0.45, 0.6, 0.75, 1.0)  # the last one suppresses nothing
SELECTIONS = (*({"score": 0.01, "iou": iou} for iou in IOUS), *({"score": score, "iou": 0.6} for score in (1e-8, 0.1, 0.3)))
CURVE = ("epoch", "step", "loss", "val_loss", "val_ap", "val_ap50", "seconds")
SHOWN, QUALITY, PICTURES = 0.4, 85, 3


def command(name: str) -> str:
    """What trains a network on the command line, as `trained` does."""
    network = " ".join(f"--{key} {value}" for key, value in NETWORKS[name].items())
    changes = (f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in CHANGES.items())
    return (
        f"mnasnet detect train BCCD_Dataset/BCCD --from {START} {network} --size {SIZE} --anchors {ANCHORS} --epochs {EPOCHS} "
        f"--batch-size {BATCH} --learning-rate {RATE:g} {' '.join(f'--set {shlex.quote(each)}' for each in changes)} "
        f"-o runs/bccd/{name}"
    )


def trained(name: str, data: Path, folder: Path) -> Any:
    """The finished training of a network in its folder: started, gone on with, or read."""
    from keras_mnasnet import detection

    if (folder / "run.json").is_file():
        return detection.resume(folder)
    return detection.train(
        data, None, folder, from_model=START, **NETWORKS[name], size=SIZE, anchors=ANCHORS, epochs=EPOCHS, batch_size=BATCH,
        learning_rate=RATE, changes=CHANGES,
    )  # fmt: skip


def photos_of(data: Path, split: str, size: tuple[int, int]) -> np.ndarray:
    """All photos of a split as a detector takes them: pixels float32 `[N, *size, 3]`, 0..255."""
    from keras_mnasnet.detection.data import evaluation_batches, open_dataset

    batches = evaluation_batches(open_dataset(data, split=split), size=size, batch_size=BATCH)
    return np.concatenate([pixels for pixels, _ in batches.as_numpy_iterator()])


def exported(run: Any, data: Path, folder: Path) -> dict[tuple[str, str], str]:
    """The files of a detector by precision and by what selects boxes, calibrated and verified on the training photos."""
    from keras_mnasnet.detection import export, spec_of

    model = run.load().model()
    photos = photos_of(data, "train", spec_of(model).input_size)
    files = {}
    for precision in PRECISIONS:
        for tail in TAILS:
            path = folder / f"{precision}_{tail}.tflite"
            integer: dict[str, Any] = {"representative_data": photos, "input_dtype": "uint8"} if precision == "int8" else {}
            export(model, path, quantize=precision, postprocess=tail, photos=photos[:VERIFIED], **integer)
            files[precision, tail] = str(path)
    return files


def tested(run: Any, data: Path) -> dict[str, Any]:
    """What a detector finds in the test photos: as Keras model, as files, and with other selections of boxes."""
    from keras_mnasnet.detection import evaluate

    rows = []

    def measure(models: dict[tuple[str, str], str], **settings: Any) -> None:
        results = evaluate(list(models.values()), data, split="test", **settings)
        for (precision, tail), found in zip(models, results, strict=True):
            classes = {each.name: {"AP": each.ap, "AP50": each.ap50} for each in found.per_category}
            rows.append({"precision": precision, "boxes": tail, **settings, **found.metrics, "classes": classes})

    with tempfile.TemporaryDirectory() as name:
        files = exported(run, data, Path(name))
        measure({("keras", "none"): str(run.folder)}, score=1e-8, iou=0.6)
        measure({key: path for key, path in files.items() if key[1] != "none"}, score=0.01, iou=0.6)
        for settings in SELECTIONS:
            measure({key: path for key, path in files.items() if key[1] == "none"}, **settings)
        sizes = {precision: Path(path).stat().st_size for (precision, tail), path in files.items() if tail == "operator"}
    return {"bytes": sizes, "test": rows}


def described(name: str, run: Any) -> dict[str, Any]:
    """A training: its command, recipe, curve and cost, and the detector that it left."""
    from keras_mnasnet.detection import spec_of

    spec = spec_of(run.load().model())
    best = max(run.rows, key=lambda row: row["val_ap"])
    job = json.loads((run.folder / "run.json").read_text("utf-8"))["job"]
    return {
        "network": name, "command": command(name), "recipe": job["recipe"], "parameters": spec.params(), "madds": spec.madds(),
        "anchors": str(spec.anchors),
        "steps": run.rows[-1]["step"], "seconds": run.rows[-1]["seconds"], "load_average": os.getloadavg(),
        "chosen_epoch": best["epoch"],
        "validation": {"AP": best["val_ap"], "AP50": best["val_ap50"]},
        "curve": [{key: row[key] for key in CURVE} for row in run.rows],
    }  # fmt: skip


def matched(data: Path) -> list[dict[str, Any]]:
    """The share of boxes to train on that some anchor overlaps enough, with the usual anchors and with those chosen."""
    from keras_mnasnet.detection import describe

    rows = []
    for iou in (CHANGES["match_iou"], 0.5):
        facts = describe(data, size=SIZE, anchors=ANCHORS, changes={"match_iou": iou}).facts
        shares = {"usual": facts["share_with_the_usual_anchors"], "chosen": facts["share_of_boxes_with_an_anchor"]}
        rows.append({"match_iou": iou, "anchors": facts["anchors"], **shares})
    return rows


def curves(networks: Sequence[dict[str, Any]]) -> bytes:
    """AP, AP50 and the losses by epoch, as PNG."""
    from keras_mnasnet.search.charts import Chart, Dots, Layer, Line, png

    charts = []
    titles = {"val_ap50": "validation AP50", "val_ap": "validation AP", "val_loss": "validation loss", "loss": "training loss"}
    for key, title in titles.items():
        layers, xs, ys = list[Layer](), [0.0], [0.0]
        for row, style in zip(networks, ("value", "best"), strict=False):
            points = [(each["epoch"], each[key]) for each in row["curve"]]
            layers += [Line(points, style), Dots(points, style, row["network"])]
            xs, ys = xs + [x for x, _ in points], ys + [y for _, y in points]
        charts.append(Chart(title, "epoch", title, xs, ys, layers))
    return png(charts, "SSDLite on BCCD")


def pictures(model: Path, data: Path, folder: Path) -> None:
    """Test photos with cells of every class, evenly spread over the split, with what a detector finds in them, as JPEG."""
    from PIL import Image

    from keras_mnasnet.data import read_image
    from keras_mnasnet.detection.data import open_dataset, resize_photo
    from keras_mnasnet.detection.drawing import draw
    from keras_mnasnet.detection.inference import open_detector
    from keras_mnasnet.utils.files import replaced

    dataset, detector = open_dataset(data, split="test"), open_detector(model, batch_size=1)
    whole = [index for index in range(dataset.count) if len(set(dataset.boxes_of(index)[1])) == len(dataset.labels)]
    folder.mkdir(parents=True, exist_ok=True)
    for place in np.linspace(0, len(whole) - 1, PICTURES).round().astype(int):
        path = Path(dataset.where(whole[place]))
        photo = np.asarray(read_image(path, upright=True))
        found = detector.run(np.asarray(resize_photo(photo, detector.size))[None])[0].above(SHOWN)
        with replaced(folder / path.with_suffix(".jpg").name) as temporary:
            Image.fromarray(draw(photo, found, detector.labels)).save(temporary, "JPEG", quality=QUALITY)


def tables(report: dict[str, Any]) -> str:
    """The test photos' numbers as Markdown: by file, and by selection of boxes."""

    def percent(value: float) -> str:
        return f"{100 * value:.1f}"

    def cells(row: dict[str, Any]) -> list[str]:
        return [percent(row["AP"]), percent(row["AP50"]), *(percent(each["AP50"]) for each in row["classes"].values())]

    names = [f"AP50 of {name}" for name in report["networks"][0]["test"][0]["classes"]]
    lines = [["network", "file", "bytes", "AP", "AP50", *names]]
    for network in report["networks"]:
        for row in network["test"]:
            if row["boxes"] == "operator" or row["precision"] == "keras":
                size = network["bytes"].get(row["precision"])
                lines.append([network["network"], row["precision"], f"{size:,}" if size else "", *cells(row)])
    more = [["network", "file", "boxes", "score", "IoU", "AP", "AP50", *names]]
    for network in report["networks"]:
        for row in network["test"]:
            if row["precision"] in ("float32", "int8"):
                settings = [row["boxes"], f"{row['score']:g}", f"{row['iou']:g}"]
                more.append([network["network"], row["precision"], *settings, *cells(row)])
    anchors = [["IoU", "usual anchors", "chosen anchors"]]
    for row in report["anchors"]:
        anchors.append([f"{row['match_iou']:g}", percent(row["usual"]), percent(row["chosen"])])
    parts = (lines, more, anchors)
    return "\n\n".join("\n".join(map(_line, [part[0], ["---"] * len(part[0]), *part[1:]])) for part in parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="Annotations, JPEGImages and ImageSets")
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER", help="the trainings, a folder of each network")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="bccd.json, bccd.md and bccd.png")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="test photos with what the last network finds in them")
    parser.add_argument("--only", choices=NETWORKS, nargs="+", default=list(NETWORKS), metavar="NETWORK")
    arguments = parser.parse_args()

    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.detection import describe
    from keras_mnasnet.detection.annotations import splits_of
    from keras_mnasnet.detection.evaluation import evaluator
    from keras_mnasnet.utils.files import write_file
    from keras_mnasnet.utils.system import environment

    if len(splits_of(arguments.data)) < 3:
        parser.error(
            f"--data must be BCCD's folder with train.txt, val.txt and test.txt in ImageSets/Main. Received: {arguments.data}"
        )
    try:
        splits = describe(arguments.data).as_json()["splits"]
    except (ValueError, OSError) as error:
        parser.error(str(error))
    stem = arguments.output / "bccd"
    known = json.loads(stem.with_suffix(".json").read_text("utf-8"))["networks"] if stem.with_suffix(".json").exists() else []
    rows = {row["network"]: row for row in known}
    counts = {split: {"photos": part["photos"], "boxes": part["classes"]} for split, part in splits.items()}
    for name in arguments.only:
        run = trained(name, arguments.data, arguments.runs / name)
        sha256 = hashlib.sha256(run.model.read_bytes()).hexdigest()
        if rows.get(name, {}).get("sha256") != sha256:
            rows[name] = {**described(name, run), "sha256": sha256, **tested(run, arguments.data)}
        report: dict[str, Any] = {
            "schema": SCHEMA, "benchmark": "bccd", "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "environment": environment(), "evaluator": evaluator(), "data": {**SOURCE, **counts},
            "anchors": matched(arguments.data), "networks": [rows[each] for each in NETWORKS if each in rows],
        }  # fmt: skip
        write_json(stem.with_suffix(".json"), report)
        write_file(stem.with_suffix(".md"), tables(report))
        write_file(stem.with_suffix(".png"), curves(report["networks"]))
        if arguments.docs:
            pictures(run.model, arguments.data, arguments.docs)


if __name__ == "__main__":
    main()
