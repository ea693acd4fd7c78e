"""What ARM cores make of the exported files: outputs against this machine's, and instructions, of every precision.

    python benchmarks/run_arm.py [--networks NAME ...] --output benchmarks/results/NAME/arm.json

On emulated cores (`mnasnet bench emulator` sets them up). Networks of the family have random weights and invented activation
ranges; `trashnet` is the bundled network of photos, calibrated on weights/demo; the detector and keras.applications' networks
have random weights and statistics, go through TensorFlow's converter and are calibrated on drawn images. `half` is the float32
file marked for half precision, in which XNNPACK computes it where the core can (ARMv8.2); this machine computes it in float32.
Its `simulation` is that of `mnasnet export`: its largest value, and how far its outputs are from this machine's and, on that
core, from the emulated ones (null where an operator is not known, or at 65,504).

Every file gets one random input. `largest_difference` is that of an output value to LiteRT's on this machine, in units of the
largest one there; untrained networks make much of little, and where `distinct_values` are few, all scores are 0 or 1 and say
nothing. It is null where half precision, which ends at 65,504, overflows. What is written is kept, and the same command goes
on.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from keras_mnasnet.benchmarks.emulator import CORES, PIXEL1, EmulatorMeter, pixel1
from keras_mnasnet.benchmarks.host_meter import drawn_values
from keras_mnasnet.benchmarks.results import write_json
from keras_mnasnet.benchmarks.speed import PRECISIONS, parse_network
from keras_mnasnet.export.file import TfliteFile
from keras_mnasnet.export.flatbuffer import marked
from keras_mnasnet.export.half import HalfGraph
from keras_mnasnet.utils.system import held_output, machine

SCHEMA = 1
ARM_CORES = ("cortex-a72", "cortex-a76")
DEMO = Path(__file__).parents[1] / "weights/demo"
CALIBRATION_IMAGES = 4
Files = dict[str, bytes]


def of_family(name: str) -> Files:
    """By the direct writer."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            precision: parse_network(f"{name}:{precision}").write(Path(folder), include_preprocessing=False)[0].read_bytes()
            for precision in PRECISIONS
        }


def of_bundled(name: str) -> Files:
    """By the export that users call."""
    from keras_mnasnet.export import export

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.tflite"
        for precision in ("float32", "float16", "weight-int8", "dynamic", "int8"):
            calibrated: dict[str, Any] = {"representative_data": str(DEMO)} if precision == "int8" else {}
            export(name, path, quantize=precision, compute="float32", progress=False, accept_changed=1.0, **calibrated)
            found[precision] = path.read_bytes()
    return found


def of_keras(model: Any) -> Files:
    """By TensorFlow's converter, unverified: an untrained network in 8 bits would not pass."""
    from keras_mnasnet.export.converter import convert_model
    from keras_mnasnet.export.verify import drawn_images

    generator = np.random.default_rng(0)
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":  # gamma, beta, mean, variance; as they start, all scores are equal
            size = layer.get_weights()[0].shape
            layer.set_weights(
                [generator.uniform(0.5, 1.5, size) if each in (0, 3) else generator.normal(0, 0.3, size) for each in range(4)]
            )
    shape = (1, *model.input_shape[1:])
    images = drawn_images(CALIBRATION_IMAGES, *shape[1:])
    return {
        precision or "float32": convert_model(
            model, shape, quantize=precision, images=images if precision == "int8" else None
        )
        for precision in (None, "float16", "dynamic", "int8")
    }  # fmt: skip


def of_application(name: str) -> Files:
    """A network of keras.applications, its preprocessing inside where Keras puts it there."""
    import keras

    keras.utils.set_random_seed(0)
    return of_keras(getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3)))


def of_detector(name: str) -> Files:
    """SSDLite: codes of boxes, and logits."""
    import keras

    from keras_mnasnet.detection import SSDLite

    keras.utils.set_random_seed(0)
    return of_keras(SSDLite(name, 20, input_size=224))


NETWORKS: dict[str, tuple[Callable[[str], Files], str]] = {
    "a1": (of_family, "a1"), "b1": (of_family, "b1"), "small": (of_family, "small"), "d1": (of_family, "d1"),
    "trashnet": (of_bundled, "trashnet"), "small detector, 20 classes": (of_detector, "small"),
    "MobileNetV2": (of_application, "MobileNetV2"), "MobileNetV3Large": (of_application, "MobileNetV3Large"),
    "EfficientNetB0": (of_application, "EfficientNetB0"),
}  # fmt: skip


def simulated(content: bytes, path: Path) -> tuple[list[np.ndarray], float] | None:
    """The simulation's outputs of the same input, and its largest value; None for operators that it does not know."""
    try:
        graph = HalfGraph(content)
    except ValueError:
        return None
    outputs = graph(drawn_values(TfliteFile(path, threads=1).inputs[0], np.random.default_rng(0)))
    return list(outputs.values()), max(graph.largest.values())


def here(path: Path) -> list[np.ndarray]:
    """This machine's outputs of the input that the emulated meter draws."""
    file = TfliteFile(path, threads=1)
    return file.run(drawn_values(file.inputs[0], np.random.default_rng(0)))


def compared(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> dict[str, Any]:
    """How far emulated outputs are from this machine's."""
    pairs = [(np.float64(mine), np.float64(other)) for mine, other in zip(ours, theirs, strict=True)]
    finite = all(np.isfinite(side).all() for pair in pairs for side in pair)
    off = [float(abs(mine - other).max()) / (float(abs(other).max()) or 1.0) for mine, other in pairs]
    return {
        "largest_difference": max(off) if finite else None,
        "equal_values": float(np.mean(np.concatenate([(mine == other).ravel() for mine, other in pairs]))),
        "same_largest": all(int(mine.argmax()) == int(other.argmax()) for mine, other in pairs),
    }  # fmt: skip


def rows_of(name: str, meters: dict[str, EmulatorMeter], folder: Path) -> list[dict[str, Any]]:
    """One row a precision."""
    make, argument = NETWORKS[name]
    with held_output():
        contents = make(argument)
    contents["half"] = marked(contents["float32"])
    rows = []
    for precision, content in contents.items():
        path = folder / "file.tflite"
        path.write_bytes(content)
        outputs = here(path)
        row: dict[str, Any] = {"network": name, "precision": precision, "bytes": len(content), "cores": {}}
        simulation = simulated(content, path) if precision == "half" else None
        if simulation is not None:
            off = compared(simulation[0], outputs)["largest_difference"]
            row["simulation"] = {"largest_value": simulation[1], "largest_difference": off}
        row["distinct_values"] = int(np.unique(np.concatenate([each.ravel() for each in outputs])).size)
        for core, meter in meters.items():
            found = meter.count([path], names=[f"{name}, {precision}"], progress=True)[0]
            row["cores"][core] = {"instructions": found.instructions, **compared(found.outputs, outputs)}
            if simulation is not None and "fphp" in CORES[core].features:
                row["cores"][core]["simulation"] = compared(simulation[0], found.outputs)["largest_difference"]
            if (core, precision) == (PIXEL1, "float32"):  # what the line was fitted on
                row["pixel1_ms"] = round(pixel1().ms(found.instructions), 2)
        rows.append(row)
        print_row(row)
    return rows


def print_row(row: dict[str, Any]) -> None:
    """One line."""
    said = "; ".join(
        f"{core} {found['instructions'] / 1e6:.3f} M, off {found['largest_difference']}, equal {found['equal_values']:.1%}"
        for core, found in row["cores"].items()
    )
    print(f"{row['network']}, {row['precision']}: {said}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows = json.loads(arguments.output.read_text("utf-8"))["rows"] if arguments.output.exists() else []
    meters = {core: EmulatorMeter(core) for core in ARM_CORES}
    try:
        for name in arguments.networks:
            if any(row["network"] == name for row in rows):
                continue
            with tempfile.TemporaryDirectory() as folder:
                rows += rows_of(name, meters, Path(folder))
            facts = {core: meter.facts() for core, meter in meters.items()}
            write_json(arguments.output, {"schema": SCHEMA, "environment": machine(), "emulated": facts, "rows": rows})
    finally:
        for meter in meters.values():
            meter.close()


if __name__ == "__main__":
    main()
