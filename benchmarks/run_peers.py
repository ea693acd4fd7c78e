"""Single-thread latency of A1 and B1 against keras.applications' MobileNetV2 and MobileNetV3Large, as `.tflite`, in one run.

    python benchmarks/run_peers.py [--int8] [--runs 120] [--output benchmarks/results/NAME/peers.json]

All networks are at 224 px, with random weights and normalisation inside, through this package's export: ours by the direct
writer, the others by TensorFlow's converter. --int8 adds full int8 files, calibrated on drawn images (their latency is that of
any calibration). --routes adds A1 through the other ways to a `.tflite` that TensorFlow and Keras have.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
CALIBRATION_IMAGES = 8


def files(folder: Path, *, int8: bool, routes: bool) -> list[str]:
    """Write every network's file."""
    from keras_mnasnet.utils.system import held_output

    with held_output() as shown:
        import keras

        from keras_mnasnet import MnasNetA1, MnasNetB1
        from keras_mnasnet.export import export
        from keras_mnasnet.export.converter import convert_model
        from keras_mnasnet.export.rewrite import rewritten
        from keras_mnasnet.export.verify import drawn_images

        keras.utils.set_random_seed(0)
        applications: dict[str, Any] = {
            "mnasnet_a1": MnasNetA1(weights=None),
            "mnasnet_b1": MnasNetB1(weights=None),
            "keras_mobilenet_v2": keras.applications.MobileNetV2(weights=None),
            "keras_mobilenet_v3_large": keras.applications.MobileNetV3Large(weights=None, input_shape=(224, 224, 3)),
        }
        images = drawn_images(CALIBRATION_IMAGES, 224, 224, 3)
        images_of = {"keras_mobilenet_v2": images / 127.5 - 1}
        written = []
        for precision in (None, "int8") if int8 else (None,):
            for name, model in applications.items():
                print(f"exporting {name} {precision or 'float32'}", file=shown, flush=True)
                path = folder / f"{name}-{precision or 'float32'}.tflite"
                if precision is None:
                    export(model, path, photos=images_of.get(name, images)[:2])
                else:  # an untrained network in 8 bits is right for timing, and would not pass the export's verification
                    content = convert_model(model, (1, 224, 224, 3), quantize="int8", images=images_of.get(name, images))
                    content, _ = rewritten(
                        content, input_names=["image"], output_names=["scores"], description=name, metadata={}
                    )  # fmt: skip
                    path.write_bytes(content)
                written.append(str(path))
        if routes:
            written += _other_routes(applications["mnasnet_a1"], folder, shown)
    return written


def _other_routes(model: Any, folder: Path, shown: Any) -> list[str]:
    import tensorflow as tf

    from keras_mnasnet.export.converter import convert_model

    print("exporting mnasnet_a1 through the other routes", file=shown, flush=True)
    paths = {name: folder / f"mnasnet_a1-{name}.tflite" for name in ("keras_export", "from_keras_model", "from_functions")}
    model.export(str(paths["keras_export"]), format="litert", verbose=False)
    paths["from_keras_model"].write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    paths["from_functions"].write_bytes(convert_model(model, (1, 224, 224, 3), quantize=None))
    return [str(path) for path in paths.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--routes", action="store_true")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    from keras_mnasnet.benchmarks import latency
    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.cli.bench import print_latency

    with tempfile.TemporaryDirectory() as folder:
        written = files(Path(folder), int8=arguments.int8, routes=arguments.routes)
        report = latency(written, runs=arguments.runs)
    named = tuple(dataclasses.replace(row, model=Path(row.model).name) for row in report.results)
    report = dataclasses.replace(report, results=named)
    print_latency(report)
    if arguments.output:
        write_json(arguments.output, report.to_json())


if __name__ == "__main__":
    main()
