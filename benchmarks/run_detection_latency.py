"""Single-thread latency of SSDLite on MnasNet-A1 and on keras.applications' MobileNetV2, as `.tflite`, in one run.

    python benchmarks/run_detection_latency.py [--int8] [--runs 120] [--output benchmarks/results/NAME/detection_latency.json]

Both detectors are built by this package's heads, at 320 px with 91 slots, on the same two taps (the expansion of the first
block of stride 32, and the convolution of 1280 channels), with normalisation inside and random weights, and go through the
same export. Each is measured as the network alone (raw boxes and scores) and with TFLite_Detection_PostProcess. That
operator's time depends on how many scores pass its threshold: it is 0.3 here, which no score of an untrained network
reaches, so that what is added is its least. --int8 adds full int8 files, calibrated on drawn images.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
SIZE = 320
CALIBRATION_IMAGES = 8
THRESHOLD = 0.3


def detectors() -> dict[str, Any]:
    """{name: Keras model}, with the spec of the first."""
    import keras

    from keras_mnasnet.detection import SSDLite, spec_of
    from keras_mnasnet.detection.model import detection_heads

    keras.utils.set_random_seed(0)
    ours = SSDLite("a1", 90, input_size=SIZE)
    image = keras.Input((SIZE, SIZE, 3), name="image")
    scaled = keras.layers.Rescaling(1 / 127.5, -1)(image)
    body = keras.applications.MobileNetV2(input_tensor=scaled, include_top=False, weights=None)
    taps = (body.get_layer("block_13_expand_relu").output, body.output)
    theirs = keras.Model(image, detection_heads(taps, spec_of(ours)), name="mobilenet_v2_ssdlite")
    return {"mnasnet_a1_ssdlite": ours, "keras_mobilenet_v2_ssdlite": theirs}


def files(folder: Path, *, int8: bool) -> tuple[list[str], dict[str, int]]:
    """Write every file; their paths, and the trainable parameters of each network."""
    from keras_mnasnet.utils.system import held_output

    with held_output() as shown:
        from keras_mnasnet.detection import spec_of
        from keras_mnasnet.detection.postprocess import PostProcess
        from keras_mnasnet.detection.tflite import TAILS
        from keras_mnasnet.export.converter import convert_model
        from keras_mnasnet.export.flatbuffer import joined
        from keras_mnasnet.export.rewrite import rewritten
        from keras_mnasnet.export.verify import drawn_images

        models = detectors()
        spec, settings = spec_of(models["mnasnet_a1_ssdlite"]), PostProcess(score_threshold=THRESHOLD)
        images = drawn_images(CALIBRATION_IMAGES, SIZE, SIZE, 3)
        written = []
        for precision in ("float32", "int8") if int8 else ("float32",):
            for tail in ("none", "operator"):
                for name, model in models.items():
                    print(f"exporting {name} {precision} {tail}", file=shown, flush=True)
                    quantized = {"quantize": "int8", "images": images} if precision == "int8" else {"quantize": None}
                    content = convert_model(model, (1, SIZE, SIZE, 3), **quantized)
                    body, _ = rewritten(
                        content, input_names=["image"], output_names=["codes", "logits"], description=name, metadata={}
                    )
                    path = folder / f"{name}-{precision}-{'network' if tail == 'none' else 'postprocess'}.tflite"
                    path.write_bytes(joined(body, TAILS[tail](spec, settings), description=name, metadata={}))
                    written.append(str(path))
        params = {name: sum(math.prod(weight.shape) for weight in model.trainable_weights) for name, model in models.items()}
    return written, params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    from keras_mnasnet.benchmarks import latency
    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.cli.bench import print_latency

    with tempfile.TemporaryDirectory() as folder:
        written, params = files(Path(folder), int8=arguments.int8)
        report = latency(written, runs=arguments.runs)
    print_latency(report)
    print("trainable parameters: " + ", ".join(f"{name} {count:,}" for name, count in params.items()))
    if arguments.output:
        value = {**report.to_json(), "trainable_parameters": params, "score_threshold": THRESHOLD}
        for row in value["results"]:
            row["model"] = Path(row["model"]).name
        write_json(arguments.output, value)


if __name__ == "__main__":
    main()
