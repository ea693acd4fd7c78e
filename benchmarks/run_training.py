"""Images per second of training: A1 against keras.applications' MobileNetV2, step by step in turn, and the data alone.

    python benchmarks/run_training.py --data FOLDER --output benchmarks/results/NAME/training.json

FOLDER holds photos in one folder per class. Both networks train on the same batches, at the same size, with the same
optimizer, in one process; each step is timed by itself, and the medians are compared. The data is timed by itself too:
the Inception crop from JPEG files, and the padded crop of small images kept in memory.
"""

from __future__ import annotations

import argparse
import datetime
import math
import statistics
import time
from pathlib import Path
from typing import Any

SCHEMA = 1


def madds(model: Any) -> int:
    """Multiply-adds per image of a Keras model's convolutions and dense layers."""
    total = 0
    for layer in model.layers:
        kind = type(layer).__name__
        if kind in ("Conv2D", "DepthwiseConv2D"):
            total += math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:3])
        elif kind == "Dense":
            total += math.prod(layer.kernel.shape)
    return total


def training_steps(size: int, batch_size: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Medians of `rounds` training steps of each network, in turn."""
    import keras
    import numpy as np

    from keras_mnasnet import MnasNetA1

    shape = (size, size, 3)
    networks = {
        "mnasnet_a1": MnasNetA1(weights=None, input_shape=shape),
        "mobilenet_v2": keras.applications.MobileNetV2(weights=None, input_shape=shape),
    }
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 255, (batch_size, *shape)).astype("float32")
    labels = rng.integers(0, 1000, batch_size)
    for model in networks.values():
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy", jit_compile=False)
    times: dict[str, list[float]] = {name: [] for name in networks}
    for round_number in range(rounds + 2):
        for name, model in networks.items():
            start = time.perf_counter()
            model.train_on_batch(pixels, labels)
            if round_number >= 2:
                times[name].append(time.perf_counter() - start)
    report = {}
    for name, model in networks.items():
        step_s = statistics.median(times[name])
        report[name] = {
            "madds": madds(model),
            "parameters": sum(math.prod(v.shape) for v in model.trainable_variables),
            "step_s": times[name],
            "images_per_second": batch_size / step_s,
            "gmadds_per_second": madds(model) * batch_size / step_s / 1e9,
        }
    return report


def pipelines(data: str, size: int, batch_size: int, seconds: float) -> dict[str, float]:
    """Images per second of the training pipelines alone."""
    from keras_mnasnet.data import open_images, training_batches
    from keras_mnasnet.preprocessing import Augment

    sources = {
        f"JPEG files, Inception crop and flip, {size} px": (open_images(data), Augment(crop="inception"), size),
        "32 px images in memory, padded crop and flip": (open_images("shapes:5000@32"), Augment(crop="pad"), 32),
    }
    report = {}
    for name, (images, augment, pixels) in sources.items():
        batches = iter(training_batches(images, size=pixels, batch_size=batch_size, augment=augment, seed=0))
        for _ in range(3):
            next(batches)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            next(batches)
            count += batch_size
        report[name] = count / (time.perf_counter() - start)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of <class>/*.jpg")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=10, help="of each pipeline")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if not Path(arguments.data).is_dir():
        parser.error(f"--data must be a folder of <class>/*.jpg. Received: {arguments.data}")

    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.utils.system import environment

    steps = training_steps(arguments.size, arguments.batch_size, arguments.rounds)
    data = pipelines(arguments.data, arguments.size, arguments.batch_size, arguments.seconds)
    ours, theirs = steps["mnasnet_a1"], steps["mobilenet_v2"]
    result = {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "environment": environment(),
        "size": arguments.size,
        "batch_size": arguments.batch_size,
        "steps": steps,
        "pipelines_images_per_second": data,
        "madds_per_second_against_mobilenet_v2": ours["gmadds_per_second"] / theirs["gmadds_per_second"],
    }
    for name, row in steps.items():
        print(
            f"{name}: {row['images_per_second']:.1f} images/s, {row['madds'] / 1e6:.1f} M multiply-adds forward, "
            f"{row['gmadds_per_second']:.2f} G forward multiply-adds/s"
        )
    print(f"multiply-adds per second, A1 / MobileNetV2: {result['madds_per_second_against_mobilenet_v2']:.3f}")
    for name, rate in data.items():
        print(f"data alone, {name}: {rate:.0f} images/s")
    if arguments.output:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
