"""Does the verification of exported files refuse the wrong ones and no true one? On networks its limits were not chosen on.

    python benchmarks/run_mutants.py --data DIR [--only NAME ...] [--images 64] [--output benchmarks/results/NAME/mutants.json]

DIR is CIFAR-10. Networks: the bundled trained ones, on its photos and on drawn pictures; members of the family and variants
of them (depth, width, no squeeze-and-excite) with random weights and the statistics of drawn pictures; and ones whose outputs
hardly differ between images. Of each, a file in every precision, and what `tests/mutants.py` makes of it: the same file with
other constants. A row holds the error of the true file over its limit, the smallest error of a wrong file over the limit, and
the wrong files that pass.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = 1
DIRECT, CONVERTED = ("float32", "float16", "weight-int8", "int8"), ("dynamic",)
MOST = 0.7  # share of the statistics of the pictures that a random network takes; all of them amplify rounding
SETTLED = {  # random weights, with the statistics of drawn pictures: network, size, classes, options
    "a1-0.5": ("a1", 48, 10, {"width_multiplier": 0.5}),
    "a2-0.5": ("a2", 48, 100, {"width_multiplier": 0.5}),
    "a2-0.75, 1000 classes": ("a2", 48, 1000, {"width_multiplier": 0.75}),
    "a3-0.75": ("a3", 48, 10, {"width_multiplier": 0.75}),
    "b1-0.35": ("b1", 64, 100, {"width_multiplier": 0.35}),
    "small-1.4": ("small", 64, 10, {"width_multiplier": 1.4}),
    "d1-0.5": ("d1", 48, 100, {"width_multiplier": 0.5}),
    "d1-0.75": ("d1", 48, 10, {"width_multiplier": 0.75}),
    "a1-0.5, depth 1.5": ("a1", 48, 10, {"width_multiplier": 0.5, "depth_multiplier": 1.5}),
    "a1-0.5, no squeeze-and-excite": ("a1", 48, 10, {"width_multiplier": 0.5, "se": False}),
    "d1-320-0.5": ("d1-320", 64, 10, {"width_multiplier": 0.5}),
    "a2-0.5, depth 0.5": ("a2", 48, 10, {"width_multiplier": 0.5, "depth_multiplier": 0.5}),
    "b1-0.35, depth 2": ("b1", 48, 10, {"width_multiplier": 0.35, "depth_multiplier": 2.0}),
    "d1-320-0.35, depth 1.5": ("d1-320", 64, 100, {"width_multiplier": 0.35, "depth_multiplier": 1.5}),
}
FLAT = {  # random weights and statistics: the biases drown the image
    "a1-0.5, flat": ("a1", 48, 10, {"width_multiplier": 0.5}),
    "a2-0.35, flat": ("a2", 48, 100, {"width_multiplier": 0.35}),
    "b1-0.35, flat": ("b1", 64, 10, {"width_multiplier": 0.35}),
    "d1-0.35, flat": ("d1", 48, 10, {"width_multiplier": 0.35}),
    "small, flat": ("small", 64, 10, {}),
}


def networks(only: list[str] | None) -> dict[str, Any]:
    """{name: function that gives the Keras model, which ends in logits}."""
    from keras_mnasnet import MnasNet, load

    def trained(name: str) -> Any:
        return load("cifar10", network=name).model(classifier_activation=None)

    def drawn(number: int, settings: Any, flat: bool) -> Any:
        import keras

        network, size, classes, options = settings

        keras.utils.set_random_seed(100 + number)
        model = MnasNet(
            network, weights=None, input_shape=(size, size, 3), classes=classes, classifier_activation=None, **options
        )
        return shaken(model, number) if flat else settled(model, number)

    found: dict[str, Any] = {f"{name}, trained": (lambda name=name: trained(name)) for name in ("a1", "b1", "small")}
    for number, (name, settings) in enumerate({**SETTLED, **FLAT}.items()):
        found[name] = lambda number=number, settings=settings, flat=name in FLAT: drawn(number, settings, flat)
    return {name: make for name, make in found.items() if only is None or name in only}


def settled(model: Any, seed: int) -> Any:
    """With most of the statistics of drawn pictures in its batch norms, and biases."""
    import keras

    from keras_mnasnet.export.verify import drawn_images

    rng = np.random.default_rng(seed)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        gamma, beta, mean, variance = layer.get_weights()
        layer.set_weights([rng.uniform(0.8, 1.2, gamma.shape), rng.normal(0, 0.2, beta.shape), mean, variance])
        layer.momentum = 1 - MOST
    model(drawn_images(32, *model.input_shape[1:], seed=seed), training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return model


def shaken(model: Any, seed: int) -> Any:
    """With random statistics and biases in its batch norms."""
    import keras

    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.get_weights()[0].shape
            drawn = [rng.uniform(0.4, 0.9, shape), rng.normal(0, 0.3, shape), rng.normal(0, 0.3, shape)]
            layer.set_weights([*drawn, rng.uniform(0.5, 1.5, shape)])
    return model


def file_of(model: Any, precision: str, images: np.ndarray) -> bytes:
    """The true file of a model with logits, made without any check."""
    from keras_mnasnet.export.calibration import calibrated
    from keras_mnasnet.export.converter import convert_model
    from keras_mnasnet.export.graph import folded_weights, write_graph
    from keras_mnasnet.export.rewrite import rewritten
    from keras_mnasnet.loading import checkpoint_of

    _, height, width, _ = shape = (1, *model.input_shape[1:])
    if precision in DIRECT:
        of = checkpoint_of(model)
        weights = folded_weights(of.architecture, of.tensors, classes=of.classes, bn_epsilon=of.numerics.bn_epsilon)
        graph: dict[str, Any] = {
            "height": height, "width": width, "classes": of.classes, "padding": of.numerics.padding,
            "preprocessing": of.numerics.normalization,
        }  # fmt: skip
        ranges = None
        if precision == "int8":
            _, weights, ranges = calibrated(of.architecture, weights, images, graph)
        return write_graph(of.architecture, weights, precision=precision, ranges=ranges, softmax=False, **graph)
    content = convert_model(model, shape, quantize=precision)
    return rewritten(content, input_names=["image"], output_names=["scores"], description="", metadata={})[0]


def rows_of(name: str, model: Any, kinds: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row for every precision and kind of images."""
    from mutants import CHANGES, mutant

    from keras_mnasnet.export.file import TfliteFile

    expected = {kind: np.asarray(model.predict(images, verbose=0)) for kind, images in kinds.items()}
    rows = []
    for precision in (*DIRECT, *CONVERTED):
        content = file_of(model, precision, next(iter(kinds.values())))
        files = {change: TfliteFile(mutant(content, change), threads=1) for change in CHANGES}
        for kind, images in kinds.items():
            true = verdict(TfliteFile(content, threads=1), expected[kind], images, precision)
            wrong = {change: verdict(file, expected[kind], images, precision) for change, file in files.items()}
            least = min(wrong, key=lambda change: wrong[change]["over_limit"])
            row = {
                "network": name, "precision": precision, "images": kind, "count": len(images), "judged": true["judged"],
                "true": true, "least_wrong": {"change": least, **wrong[least]},
                "passing": [change for change, found in wrong.items() if not found["refused"]],
            }  # fmt: skip
            rows.append(row)
            print(
                f"{name:30} {precision:12} {kind:7} {true['judged']:18} true {true['error']:.2e} = {true['over_limit']:.2f} of "
                f"the limit{' REFUSED' if true['refused'] else ''}; least wrong {wrong[least]['over_limit']:.2f} ({least}); "
                f"passing: {', '.join(row['passing']) or 'none'}", flush=True,
            )  # fmt: skip
    return rows


def verdict(file: Any, expected: np.ndarray, images: np.ndarray, precision: str) -> dict[str, Any]:
    """Errors over their limits, the largest of them, and whether the file is refused."""
    from keras_mnasnet.export.verify import LIMITS, WORST_CLASS, ExportError, comparisons, judge

    limits = LIMITS[precision]
    (found,) = comparisons(file.values(images), {"scores": expected}, precision)
    over = [found.error / limits.of(found), found.worst / (WORST_CLASS * limits.of(found)), found.variation or 0.0]
    if found.judged == "decisions" and limits.changed:
        over.append((found.changed or 0) / max(found.decided or 0, 1) / limits.changed)
    elif found.judged == "decisions":
        over.append(2.0 * bool(found.changed))
    try:
        judge((found,), precision, limits)
        refused = False
    except ExportError:
        refused = True
    return {
        "error": found.error, "worst": found.worst, "variation": found.variation, "spread": found.spread,
        "judged": found.judged, "decided": found.decided, "changed": found.changed, "over_limit": max(over), "refused": refused,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these networks alone")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.insert(0, str(ROOT / "tests"))  # mutants

    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.data import check_classes, open_images, sample_photos
    from keras_mnasnet.export.verify import drawn_images
    from keras_mnasnet.loading import load
    from keras_mnasnet.preprocessing import Preprocessing
    from keras_mnasnet.utils.system import environment

    try:
        images = open_images(arguments.data, split="test")
        check_classes(load("cifar10").labels, images.labels, "This benchmark", "Name the folder of CIFAR-10.")
    except (ValueError, OSError) as error:
        parser.error(f"--data: {error}")

    rows = []
    for name, make in networks(arguments.only).items():
        began = time.perf_counter()
        model = make()
        shape = model.input_shape[1:]
        kinds = {"drawn": drawn_images(arguments.images, *shape, seed=11)}
        if name.endswith("trained"):
            photos = Preprocessing(shape[0], "bilinear", resize=shape[0])
            kinds = {"photos": np.asarray(sample_photos(arguments.data, photos, arguments.images, split="test"))} | kinds
        rows += rows_of(name, model, kinds)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        if arguments.output:
            date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            value = {"schema": SCHEMA, "benchmark": "mutants", "date": date, "environment": environment(), "rows": rows}
            write_json(arguments.output, value)
    refused, passing = sum(row["true"]["refused"] for row in rows), sum(bool(row["passing"]) for row in rows)
    print(f"{len(rows)} true files, {refused} refused; of {passing} of them, wrong ones pass")


if __name__ == "__main__":
    main()
