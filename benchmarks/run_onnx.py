"""`.tflite` in LiteRT against `.onnx` in ONNX Runtime: latency at full size, accuracy of the bundled networks.

    pip install "keras_mnasnet[onnx]"
    python benchmarks/run_onnx.py --data DIR --output benchmarks/results/NAME/onnx.json [--runs 300] [--calibration 500]

Latency: A1, B1 and small at 224 px, random weights, float32 and int8, all files in turns in one process, one thread pinned to
one core. DIR holds train.tfrecord, test.tfrecord and labels.txt of CIFAR-10: both files of a bundled network are calibrated on
the same training photos, and scored on the 10,000 test photos, in float32, float16 and int8.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import tempfile
from pathlib import Path
from typing import Any

SCHEMA = 1
NETWORKS = ("a1", "b1", "small")
PRECISIONS = ("float32", "int8")
RANGE_IMAGES = 4  # of random weights, whose ranges do not change a latency


def full_size(folder: Path) -> dict[str, Path]:
    """{network, precision, runtime: file} at 224 px with random weights."""
    from keras_mnasnet.benchmarks.speed import PRECISIONS as OF_LITERT
    from keras_mnasnet.export.calibration import calibrated
    from keras_mnasnet.export.graph import random_weights, write_graph
    from keras_mnasnet.export.onnx_graph import write_onnx
    from keras_mnasnet.export.verify import drawn_images
    from keras_mnasnet.family import FAMILY
    from keras_mnasnet.preprocessing import IMAGENET

    files: dict[str, Path] = {}
    graph: dict[str, Any] = {"height": 224, "width": 224, "classes": 1000}
    for name in NETWORKS:
        network = FAMILY[name]
        weights = random_weights(network, classes=1000)
        images = drawn_images(RANGE_IMAGES, 224, 224, 3)
        ranges = calibrated(network, weights, images, graph | {"preprocessing": IMAGENET}).ranges
        for precision in PRECISIONS:
            lite, onnx = (folder / f"{name}-{precision}.{kind}" for kind in ("tflite", "onnx"))
            lite.write_bytes(write_graph(network, weights, precision=OF_LITERT[precision], **graph))
            onnx.write_bytes(write_onnx(network, weights, precision=precision, ranges=ranges, **graph))
            files |= {f"{name}, {precision}, LiteRT": lite, f"{name}, {precision}, ONNX Runtime": onnx}
    return files


def accuracies(data: str, folder: Path, count: int) -> list[dict[str, Any]]:
    """Top-1 of the bundled networks on CIFAR-10's test photos, by network, precision and runtime."""
    from keras_mnasnet.benchmarks import evaluate
    from keras_mnasnet.data import sample_photos
    from keras_mnasnet.export import export
    from keras_mnasnet.loading import load

    rows = []
    for name in NETWORKS:
        checkpoint = load("cifar10", network=name)
        photos = sample_photos(data, checkpoint.preprocessing, count)
        for precision in ("float32", "float16", "int8"):
            for kind in ("tflite", "onnx"):
                path = folder / f"cifar10-{name}-{precision}.{kind}"
                report = export(
                    checkpoint, path, quantize=precision, representative_data=photos, photos=photos[:64],
                    calibration_count=count, progress=False,
                )  # fmt: skip
                rows.append(
                    {"network": checkpoint.origin.name, "precision": precision, "file": path.suffix,
                     "bytes": path.stat().st_size, "error": report.comparisons[0].error, "path": str(path)}
                )  # fmt: skip
    scored = evaluate([row.pop("path") for row in rows], data, split="test", threads=1)
    return [row | {"top1": score.top1, "images": score.images} for row, score in zip(rows, scored, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--calibration", type=int, default=500)
    arguments = parser.parse_args()

    from keras_mnasnet.benchmarks import latency
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
        files = full_size(Path(scratch))
        timed = latency(list(files.values()), runs=arguments.runs, memory=False)
        rows = accuracies(arguments.data, Path(scratch), arguments.calibration)
    latencies = {name: dataclasses.asdict(each) | {"model": name} for name, each in zip(files, timed.results, strict=True)}
    value = {
        "schema": SCHEMA, "benchmark": "onnx", "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": environment(), "settings": timed.settings, "device": timed.device,
        "calibration_images": arguments.calibration, "latency": list(latencies.values()), "accuracy": rows,
    }  # fmt: skip
    write_json(arguments.output, value)
    for name in (name for name in files if name.endswith("LiteRT")):
        ours, theirs = (latencies[each]["cpu"]["median_ms"] for each in (name, name.replace("LiteRT", "ONNX Runtime")))
        print(f"{name.removesuffix(', LiteRT'):16} LiteRT {ours:.3f} ms, ONNX Runtime {theirs:.3f} ms, {theirs / ours:.3f}x")
    for row in rows:
        print(
            f"{row['network']} {row['precision']:8} {row['file']:7} {row['bytes']:>10,} bytes  top-1 {100 * row['top1']:.2f} %"
        )


if __name__ == "__main__":
    main()
