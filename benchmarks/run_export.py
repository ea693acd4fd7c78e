"""What each precision costs and keeps: size, latency and top-1 of the bundled networks as `.tflite`, evaluated from the files.

    python benchmarks/run_export.py --data DIR --output benchmarks/results/NAME/export.json [--qat-epochs 2] [--networks small]
        [--files FOLDER]

DIR holds train.tfrecord, test.tfrecord and labels.txt of CIFAR-10. int8 is calibrated on 500 training photos; quantization-
aware training (with --qat-epochs) sees all of them. Every file is scored on the 10,000 test photos; all files of a network are
timed in turns in one process, on one pinned core. With --files the files stay in FOLDER, and a file of quantization-aware
training found there is taken as it is: training may run while the machine is busy, timing should not.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import tempfile
from pathlib import Path
from typing import Any

SCHEMA = 1
NETWORKS = ("a1", "b1", "small")
PRECISIONS = (None, "float16", "weight-int8", "dynamic", "int8")
CALIBRATION_IMAGES = 500


def network_rows(name: str, data: str, folder: Path, qat_epochs: int) -> list[dict[str, Any]]:
    """One row per precision."""
    from keras_mnasnet.benchmarks import evaluate, latency
    from keras_mnasnet.data import sample_photos
    from keras_mnasnet.export import export, quantize_aware
    from keras_mnasnet.loading import load

    checkpoint = load("cifar10", network=name)
    record = checkpoint.origin.name
    shown = sample_photos(data, checkpoint.preprocessing, 64, split="test")
    rows: list[dict[str, Any]] = []
    for precision in PRECISIONS:
        path = folder / f"{name}-{precision or 'float32'}.tflite"
        report = export(
            record, path, quantize=precision, photos=shown, representative_data=data, calibration_count=CALIBRATION_IMAGES
        )
        rows.append({"file": str(path), "precision": precision or "float32", **_facts(report)})
    if qat_epochs:
        path = folder / f"{name}-int8-qat.tflite"
        facts = path.with_suffix(".row.json")
        if not (path.exists() and facts.exists()):
            trained = quantize_aware(record, data, path, epochs=qat_epochs)
            validation = [row["val_accuracy"] for row in trained.epochs]
            about = {"qat_epochs": len(validation), "qat_seconds": trained.seconds, "qat_validation": validation}
            facts.write_text(json.dumps(_facts(trained.export) | about), "utf-8")
        rows.append({"file": str(path), "precision": "int8, QAT", **json.loads(facts.read_text("utf-8"))})
    files = [row["file"] for row in rows]
    scored = evaluate(files, data, split="test", threads=1)
    timed = latency(files, runs=300)
    keras_top1 = evaluate([record], data, split="test")[0].top1
    for row, score, time in zip(rows, scored, timed.results, strict=True):
        row |= {"network": name, "record": record, "top1": score.top1, "top1_keras": keras_top1, "images": score.images}
        row |= {"latency": dataclasses.asdict(time) | {"model": Path(time.model).name}, "file": Path(row["file"]).name}
    return rows


def _facts(report: Any) -> dict[str, Any]:
    (compared,) = report.comparisons
    return {
        "bytes": report.facts.bytes, "route": report.route, "operators": report.facts.operators,
        "partitions": report.partitions.delegates, "outside": report.partitions.outside,
        "comparison": dataclasses.asdict(compared), "verified_on": report.verified_on,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--qat-epochs", type=int, default=0, metavar="N", help="0 leaves quantization-aware training out")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="keep the files here")
    arguments = parser.parse_args()

    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.data import check_classes, open_images
    from keras_mnasnet.loading import load
    from keras_mnasnet.utils.system import environment

    try:
        images = open_images(arguments.data, split="test")
        check_classes(load("cifar10").labels, images.labels, "This benchmark", "Name the folder of CIFAR-10.")
    except (ValueError, OSError) as error:
        parser.error(f"--data: {error}")

    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.files or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [row for name in arguments.networks for row in network_rows(name, arguments.data, folder, arguments.qat_epochs)]
    value = {
        "schema": SCHEMA, "benchmark": "export", "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": environment(), "calibration_images": CALIBRATION_IMAGES, "rows": rows,
    }  # fmt: skip
    write_json(arguments.output, value)
    for row in rows:
        print(
            f"{row['network']} {row['precision']:12} {row['bytes']:>10,} bytes  top-1 {100 * row['top1']:.2f} % "
            f"(Keras {100 * row['top1_keras']:.2f})  {row['latency']['cpu']['median_ms']:.3f} ms"
        )


if __name__ == "__main__":
    main()
