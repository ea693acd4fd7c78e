"""int8 files of trained networks: what each step of the recipe gains, and what other tools make of the same network.

    python benchmarks/run_int8.py --data ROOT --output benchmarks/results/NAME/int8.json
        [--also TEXT=MODEL ... --calibrate PHOTOS --photos PHOTOS] [--only NAME ...]

ROOT holds cifar10 and trashnet. Of the bundled networks, and of further models that `load` takes (TEXT stands for them in the
result), files that end in logits are calibrated on the same training photos and judged on the same test photos: the share of
decisions that are not the float network's, the mean Kullback-Leibler divergence of the probabilities (nats), and top-1 where
the photos have labels. Rows from `plain` to `all` are recipes on one calibration; `export` is what this package writes, and
`cpu_seconds` are of a whole export with its verification on four photos.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA = 1
BUNDLED = {
    "cifar10/a1": ("cifar10", "a1"), "cifar10/b1": ("cifar10", "b1"), "cifar10/small": ("cifar10", "small"),
    "trashnet/a1": ("trashnet", None),
}  # fmt: skip
CALIBRATION, TEST = 500, 2000  # photos, at most
TIMED = ("float32", "export", "TensorFlow's converter")


def recipes() -> dict[str, Any]:
    """{name: recipe}, from nothing to all of it."""
    from keras_mnasnet.export import Recipe

    plain = Recipe(equalize=False, correct_bias=False, ranges="extremes")
    return {
        "plain": plain,
        "ranges: percentile": Recipe(equalize=False, correct_bias=False, ranges="percentile"),
        "ranges: mse": Recipe(equalize=False, correct_bias=False),
        "bias": Recipe(equalize=False, ranges="extremes"),
        "equalized": Recipe(correct_bias=False, ranges="extremes"),
        "equalized, bias": Recipe(ranges="extremes"),
        "equalized, mse": Recipe(correct_bias=False),
        "all, strength 0.5": Recipe(strength=0.5),
        "all": Recipe(),
    }


def files(checkpoint: Any, photos: np.ndarray, folder: Path, tools: bool) -> Iterator[tuple[str, Path, float | None]]:
    """(name, file, CPU seconds that a whole export took) of every recipe and tool; the float32 file first."""
    from keras_mnasnet.export import export

    model = checkpoint.model(classifier_activation=None)
    common: dict[str, Any] = {"photos": photos[:4], "progress": False}
    int8 = common | {"quantize": "int8", "representative_data": photos, "accept_changed": 1.0}

    def made(name: str, make: Callable[[Path], Any], kind: str = "tflite") -> tuple[str, Path, float]:
        path = folder / f"{len(list(folder.iterdir()))}.{kind}"
        began = time.process_time()
        make(path)
        return name, path, time.process_time() - began

    start = made("float32", lambda path: export(model, path, **common))
    start_onnx = made("float32 (onnx)", lambda path: export(model, path, **common), "onnx")
    yield start
    for name, content in written(checkpoint, photos):
        path = folder / f"{name}.tflite"
        path.write_bytes(content)
        yield name, path, None
    yield made("export", lambda path: export(model, path, **int8))
    yield made("export (onnx)", lambda path: export(model, path, **int8), "onnx")
    yield made("TensorFlow's converter", lambda path: convert(model, path, photos))
    if not tools:
        return
    yield made("ai-edge-quantizer", lambda path: quantize_static(start[1], path, photos))
    yield made("ONNX Runtime's quantizer (onnx)", lambda path: quantize_onnx(start_onnx[1], path, photos), "onnx")


def written(checkpoint: Any, photos: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """(name, file) of every recipe, from one calibration."""
    from keras_mnasnet.export import Recipe
    from keras_mnasnet.export.calibration import map_statistics
    from keras_mnasnet.export.equalize import prepared
    from keras_mnasnet.export.file import TfliteFile
    from keras_mnasnet.export.graph import folded_weights, write_graph

    network, numerics, classes, size = checkpoint.architecture, checkpoint.numerics, checkpoint.classes, checkpoint.size
    graph: dict[str, Any] = {
        "height": size, "width": size, "classes": classes, "padding": numerics.padding, "preprocessing": numerics.normalization,
    }  # fmt: skip
    weights = folded_weights(network, checkpoint.tensors, classes=classes, bn_epsilon=numerics.bn_epsilon)
    every = TfliteFile(write_graph(network, weights, every_map=True, **graph), threads=1)
    statistics = map_statistics(every, photos, numerics.normalization)
    rows = network.operations(size, size, classes=classes)
    early = [row.output for row in rows if row.part in ("stem", "block1a")]
    for name, recipe, kept in [*((*each, []) for each in recipes().items()), ("all, stem and block1a float", Recipe(), early)]:
        _, rounding, ranges = prepared(rows, weights, statistics, recipe, kept)
        yield name, write_graph(network, rounding, precision="int8", ranges=ranges, softmax=False, keep_float=kept, **graph)


def convert(model: Any, path: Path, photos: np.ndarray) -> None:
    """TensorFlow's own post-training quantization."""
    from keras_mnasnet.export.converter import convert_model
    from keras_mnasnet.export.rewrite import rewritten
    from keras_mnasnet.export.tflite import with_extremes

    content = convert_model(model, (1, *photos.shape[1:]), quantize="int8", images=with_extremes(photos))
    content, _ = rewritten(content, input_names=["image"], output_names=["scores"], description="", metadata={})
    path.write_bytes(content)


def quantize_static(source: Path, target: Path, photos: np.ndarray) -> None:
    """int8 weights and activations by ai-edge-quantizer."""
    from ai_edge_quantizer import quantizer, recipe

    from keras_mnasnet.utils.system import held_output

    with held_output():
        maker = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
        ranges = maker.calibrate({"serving_default": [{"image": photo[None]} for photo in photos]}, num_threads=1)
        target.write_bytes(bytes(maker.quantize(ranges).quantized_model))


def quantize_onnx(source: Path, target: Path, photos: np.ndarray) -> None:
    """int8 weights by channel and activations of 8 bits by ONNX Runtime's own tool."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(photos)

        def get_next(self) -> dict[str, np.ndarray] | None:
            photo = next(self.rest, None)
            return None if photo is None else {"image": np.moveaxis(photo, -1, 0)[None]}

    from keras_mnasnet.utils.system import held_output

    with held_output():
        quantize_static(str(source), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True)


def scores_of(path: Path, photos: np.ndarray) -> np.ndarray:
    """Logits `[n, classes]`."""
    from keras_mnasnet.export.classifier import open_file

    file = open_file(path, threads=1)
    return np.concatenate([file.values(photo[None])["scores"] for photo in photos])


def network_rows(
    name: str, checkpoint: Any, calibrate: str, test: str, counts: tuple[int, int], tools: bool
) -> Iterator[dict[str, Any]]:
    """One row for every file."""
    from keras_mnasnet.benchmarks import latency
    from keras_mnasnet.data.pipeline import labelled_photos, sample_photos
    from keras_mnasnet.export.verify import divergence

    calibration = sample_photos(calibrate, checkpoint.preprocessing, counts[0])
    photos, labels, classes = labelled_photos(test, checkpoint.preprocessing, counts[1], split="test")
    answers = None
    if checkpoint.labels and set(classes) <= set(checkpoint.labels):
        answers = np.array([checkpoint.labels.index(each) for each in classes])[labels]
    wanted = None
    with tempfile.TemporaryDirectory() as scratch:
        timed = {}
        for tool, path, seconds in files(checkpoint, calibration, Path(scratch), tools):
            row: dict[str, Any] = {"network": name, "file": tool, "cpu_seconds": seconds, "bytes": path.stat().st_size}
            try:
                found = scores_of(path, photos)
            except ValueError as error:
                yield row | {"refused": str(error).rpartition("): ")[2]}
                continue
            wanted = found if wanted is None else wanted
            yield row | {
                "size": checkpoint.size, "calibration_photos": len(calibration), "photos": len(photos),
                "changed": float((found.argmax(axis=1) != wanted.argmax(axis=1)).mean()),
                "divergence": divergence(found.astype(np.float64), wanted.astype(np.float64), probabilities=False),
                "top1": None if answers is None else float((found.argmax(axis=1) == answers).mean()),
            }  # fmt: skip
            if tool in TIMED:
                timed[tool] = path
        report = latency(list(timed.values()), runs=200, progress=False)
        for tool, result in zip(timed, report.results, strict=True):
            yield {"network": name, "file": tool, "latency_ms": result.typical_ms, "ratio": result.ratio.value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--also", nargs="*", default=[], metavar="TEXT=MODEL", help="further models that load takes")
    parser.add_argument("--calibrate", help="photos that further models are calibrated on")
    parser.add_argument("--photos", help="photos that further models are judged on")
    parser.add_argument("--calibration-photos", type=int, default=CALIBRATION)
    parser.add_argument("--test-photos", type=int, default=TEST)
    parser.add_argument("--no-tools", dest="tools", action="store_false", help="of other tools, TensorFlow's converter alone")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these networks alone")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    further = dict(each.rsplit("=", 1) for each in arguments.also if "=" in each)
    if len(further) < len(arguments.also) or (further and not (arguments.calibrate and arguments.photos)):
        parser.error(f"`--also` takes TEXT=MODEL, and needs --calibrate and --photos. Received: {arguments.also}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.loading import load
    from keras_mnasnet.utils.system import environment

    tools = {name: importlib.metadata.version(name) for name in ("tensorflow", "ai-edge-quantizer", "onnxruntime")}
    rows: list[dict[str, Any]] = []
    for name in [*BUNDLED, *further]:
        if arguments.only is not None and name not in arguments.only:
            continue
        if name in further:
            checkpoint, calibrate, test = load(further[name]), arguments.calibrate, arguments.photos
        else:
            source, network = BUNDLED[name]
            checkpoint, calibrate = load(source, network=network), str(Path(arguments.data) / source)
            test = calibrate
        counts = (arguments.calibration_photos, arguments.test_photos)
        for row in network_rows(name, checkpoint, calibrate, test, counts, arguments.tools):
            rows.append(row)
            if "changed" in row:
                right = "" if row["top1"] is None else f"  top-1 {100 * row['top1']:.2f} %"
                print(
                    f"{name:28} {row['file']:32} changed {100 * row['changed']:5.2f} %  KL {row['divergence']:.5f}{right}  "
                    f"{row['cpu_seconds'] or 0:6.1f} s  {row['bytes']:>10,} bytes", flush=True,
                )  # fmt: skip
            elif "refused" in row:
                print(f"{name:28} {row['file']:32} cannot be run: {row['refused']}", flush=True)
            else:
                print(f"{name:28} {row['file']:32} {row['latency_ms']:.3f} ms, {row['ratio']:.3f} of float32", flush=True)
            if arguments.output:  # after every row: the whole takes long
                date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                value = {"schema": SCHEMA, "benchmark": "int8", "date": date, "environment": environment() | {"tools": tools}}
                write_json(arguments.output, value | {"rows": rows})


if __name__ == "__main__":
    main()
