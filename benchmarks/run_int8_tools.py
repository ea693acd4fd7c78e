"""int8 by TensorFlow's converter and by ai-edge-quantizer, from one network and one set of photos: which keeps more.

    python benchmarks/run_int8_tools.py --data DIR --output benchmarks/results/NAME/int8_tools.json

DIR holds train.tfrecord, test.tfrecord and labels.txt of CIFAR-10. Both tools calibrate the bundled networks on the same 500
training photos; ai-edge-quantizer (recipe static_wi8_ai8) starts from this package's float32 file. Every file is scored on the
10,000 test photos; all files of a network are timed in turns in one process, on one pinned core.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any

SCHEMA = 1
NETWORKS = ("a1", "b1")
CALIBRATION_IMAGES = 500


def quantize_static(source: Path, target: Path, photos: Any) -> None:
    """int8 weights and activations by ai-edge-quantizer."""
    from ai_edge_quantizer import quantizer, recipe

    from keras_mnasnet.utils.system import held_output

    with held_output():
        maker = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
        ranges = maker.calibrate({"serving_default": [{"image": photo[None]} for photo in photos]}, num_threads=1)
        target.write_bytes(bytes(maker.quantize(ranges).quantized_model))


def network_rows(name: str, data: str, folder: Path) -> list[dict[str, Any]]:
    """One row per file."""
    from keras_mnasnet.benchmarks import evaluate, latency
    from keras_mnasnet.data import sample_photos
    from keras_mnasnet.export import TfliteFile, export
    from keras_mnasnet.loading import load

    checkpoint = load("cifar10", network=name)
    preprocessing = checkpoint.preprocessing
    photos = sample_photos(data, preprocessing, CALIBRATION_IMAGES)
    model = checkpoint.model()
    files = {tool: folder / f"{name}-{tool}.tflite" for tool in ("float32", "converter", "ai-edge-quantizer")}
    export(model, files["float32"], photos=photos[:64], labels=checkpoint.labels)
    export(
        model, files["converter"], quantize="int8", representative_data=photos, calibration_count=CALIBRATION_IMAGES,
        photos=photos[:64], labels=checkpoint.labels,
    )  # fmt: skip
    quantize_static(files["float32"], files["ai-edge-quantizer"], photos)
    paths = [str(path) for path in files.values()]
    scored = evaluate(paths, data, split="test", preprocessing=preprocessing, threads=1)
    timed = latency(paths, runs=300)
    facts = {tool: TfliteFile(path).facts for tool, path in files.items()}
    return [
        {
            "network": checkpoint.origin.name, "tool": tool, "bytes": path.stat().st_size, "top1": score.top1,
            "images": score.images,
            "operators": facts[tool].operators, "float_operators": facts[tool].floating,
            "latency": dataclasses.asdict(time) | {"model": path.name},
        }
        for (tool, path), score, time in zip(files.items(), scored, timed.results, strict=True)
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True)
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
        rows = [row for name in NETWORKS for row in network_rows(name, arguments.data, Path(scratch))]
    value = {
        "schema": SCHEMA, "benchmark": "int8_tools",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": environment() | {"ai_edge_quantizer": importlib.metadata.version("ai-edge-quantizer")},
        "calibration_images": CALIBRATION_IMAGES, "rows": rows,
    }  # fmt: skip
    write_json(arguments.output, value)
    for row in rows:
        print(
            f"{row['network']} {row['tool']:18} {row['bytes']:>10,} bytes  top-1 {100 * row['top1']:.2f} %  "
            f"{row['latency']['cpu']['median_ms']:.3f} ms  "
            f"float: {', '.join(row['float_operators']) or '-'}"
        )


if __name__ == "__main__":
    main()
