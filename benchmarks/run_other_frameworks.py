"""A1 and B1 against the same networks of timm through litert-torch and ONNX Runtime, and against the core's peak, in one run.

    pip install torch==2.13.0 torchvision timm litert-torch onnx onnxscript onnxruntime keras_mnasnet   # and a C compiler
    python benchmarks/run_other_frameworks.py [--core 1] [--rounds 40] [--output benchmarks/results/NAME/frameworks.json]

Ours are written by the direct writer and by TensorFlow's converter, with and without normalization inside. All at 224 px, batch
1, random weights, float32, one thread pinned to one core, in turns in one process; thread CPU time. The peak is that of
fused multiply-adds on registers (fma_peak.c), in turns with the networks; beside it what NumPy's matrix product reaches.
Depthwise convolutions of B1 are timed alone in both runtimes: half the difference of three in a row and one, with ReLU, between
two 1x1 convolutions.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import datetime
import logging
import os
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np

SCHEMA = 1
TIMM = {"a1": "semnasnet_100", "b1": "mnasnet_100"}
PEAK_ROUNDS = 400_000
DEPTHWISE = ((56, 72, 3), (28, 120, 5), (14, 480, 5), (14, 576, 3), (7, 1152, 5))  # (side, channels, kernel) in B1
Invocation = Callable[[], None]


def peak(folder: Path) -> tuple[Callable[[], float], int]:
    """(GFLOP/s of one measurement, lanes of a vector)."""
    library = folder / "fma_peak.so"
    source = Path(__file__).with_name("fma_peak.c")
    subprocess.run(
        ["cc", "-O3", "-march=native", "-ffast-math", "-shared", "-fPIC", str(source), "-o", str(library)], check=True
    )
    loaded = ctypes.CDLL(str(library))
    loaded.gflops.restype = ctypes.c_double
    loaded.gflops.argtypes = [ctypes.c_long, ctypes.POINTER(ctypes.c_float)]
    sink = ctypes.c_float()
    return lambda: loaded.gflops(PEAK_ROUNDS, ctypes.byref(sink)), loaded.lanes()


def matrix_product(size: int = 1536, repeats: int = 12) -> float:
    """Median GFLOP/s of NumPy's float32 product of two matrices."""
    one, other = np.random.default_rng(0).uniform(0, 1, (2, size, size)).astype(np.float32)
    one @ other
    found = []
    for _ in range(repeats):
        began = time.thread_time()
        one @ other
        found.append(2 * size**3 / (time.thread_time() - began) / 1e9)
    return statistics.median(found)


def our_files(folder: Path) -> dict[str, Path]:
    """A1 and B1 by the direct writer, with and without normalisation, and by TensorFlow's converter without it."""
    from keras_mnasnet import MnasNet
    from keras_mnasnet.benchmarks.speed import parse_network
    from keras_mnasnet.export.converter import convert_model
    from keras_mnasnet.export.rewrite import rewritten

    files = {}
    for number, name in enumerate(TIMM):
        for inside in (True, False):
            (written,) = parse_network(name).write(folder, include_preprocessing=inside, number=10 * number + inside)
            files[f"{name}, direct writer{', normalization inside' if inside else ''}"] = written
        model = MnasNet(name, weights=None, include_preprocessing=False)
        content = convert_model(model, (1, 224, 224, 3), quantize=None)
        path = folder / f"{name}-converter.tflite"
        content, _ = rewritten(content, input_names=["image"], output_names=["scores"], description=name, metadata={})
        path.write_bytes(content)
        files[f"{name}, TensorFlow's converter"] = path
    return files


def timm_files(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """timm's networks as .tflite (litert-torch, NCHW and NHWC input) and as ONNX."""
    import litert_torch
    import timm
    import torch

    tflite, onnx = {}, {}
    for name, called in TIMM.items():
        model = timm.create_model(called, pretrained=False).eval()
        example = torch.zeros(1, 3, 224, 224)
        channels_last = litert_torch.to_channel_last_io(model, args=[0]).eval()
        for layout, network, given in (("NCHW", model, example), ("NHWC", channels_last, example.permute(0, 2, 3, 1))):
            path = folder / f"{called}-{layout}.tflite"
            litert_torch.convert(network, (given.contiguous(),)).export(str(path))
            tflite[f"{name}, timm {called} by litert-torch, {layout}"] = path
        path = folder / f"{called}.onnx"
        torch.onnx.export(model, (example,), str(path), dynamo=True, verbose=False)
        onnx[f"{name}, timm {called} in ONNX Runtime"] = path
    return tflite, onnx


def depthwise_files(folder: Path) -> dict[str, tuple[Path, Path]]:
    """One and three depthwise convolutions between two 1x1 ones, from PyTorch: by litert-torch and as ONNX."""
    import litert_torch
    import torch

    files = {}
    for side, channels, kernel in DEPTHWISE:
        made: dict[str, list[Path]] = {"LiteRT": [], "ONNX Runtime": []}
        for count in (1, 3):
            layers: list[Any] = [torch.nn.Conv2d(16, channels, 1), torch.nn.ReLU()]
            for _ in range(count):
                layers += [torch.nn.Conv2d(channels, channels, kernel, 1, kernel // 2, groups=channels), torch.nn.ReLU()]
            model = torch.nn.Sequential(*layers, torch.nn.Conv2d(channels, 16, 1)).eval()
            example = torch.zeros(1, 16, side, side)
            stem = folder / f"depthwise-{side}-{channels}-{kernel}-{count}"
            last = litert_torch.to_channel_last_io(model, args=[0], outputs=[0]).eval()
            litert_torch.convert(last, (example.permute(0, 2, 3, 1).contiguous(),)).export(f"{stem}.tflite")
            torch.onnx.export(model, (example,), f"{stem}.onnx", dynamo=True, verbose=False)
            made["LiteRT"].append(Path(f"{stem}.tflite"))
            made["ONNX Runtime"].append(Path(f"{stem}.onnx"))
        for runtime, (one, three) in made.items():
            files[f"{side}x{side}, {channels} channels, {kernel}x{kernel}, {runtime}"] = (one, three)
    return files


def depthwise_us(files: dict[str, tuple[Path, Path]], rounds: int) -> dict[str, float]:
    """Microseconds of one depthwise convolution with its ReLU, by layer and runtime."""
    opened = {
        name: tuple((litert if path.suffix == ".tflite" else onnx_runtime)(path) for path in pair)
        for name, pair in files.items()
    }
    times, _ = measure({f"{name}/{i}": pair[i] for name, pair in opened.items() for i in (0, 1)}, rounds, lambda: 0.0)
    medians = {name: statistics.median(value for one in taken for value in one) for name, taken in times.items()}
    return {name: (medians[f"{name}/1"] - medians[f"{name}/0"]) / 2 * 1e6 for name in files}


def litert(path: Path) -> Invocation:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    interpreter.set_tensor(given["index"], np.random.default_rng(0).uniform(0, 1, given["shape"]).astype(np.float32))
    return interpreter.invoke


def onnx_runtime(path: Path) -> Invocation:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    image = np.random.default_rng(0).uniform(0, 1, given.shape).astype(np.float32)
    return lambda: session.run(None, {given.name: image})


def measure(candidates: dict[str, Invocation], rounds: int, peak_now: Callable[[], float]) -> tuple[dict, list[float]]:
    """Seconds of each candidate by round (one invocation to warm, three timed), and the peak of every round."""
    from keras_mnasnet.benchmarks.timing import visit_order

    names = list(candidates)
    times: dict[str, list[list[float]]] = {name: [] for name in names}
    peaks = []
    for number in range(rounds):
        for index in visit_order(len(names), number):
            invoke = candidates[names[index]]
            invoke()
            taken = []
            for _ in range(3):
                began = time.thread_time()
                invoke()
                taken.append(time.thread_time() - began)
            times[names[index]].append(taken)
        peaks.append(peak_now())
    return times, peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tflite, onnx = timm_files(folder)
        layers = depthwise_files(folder)
        files = our_files(folder) | tflite
        os.sched_setaffinity(0, {arguments.core})
        peak_now, lanes = peak(folder)
        candidates = {each: litert(path) for each, path in files.items()} | {
            each: onnx_runtime(path) for each, path in onnx.items()
        }
        times, peaks = measure(candidates, arguments.rounds, peak_now)
        depthwise = depthwise_us(layers, arguments.rounds)
        product = matrix_product()

    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.benchmarks.timing import Times, ratio_of_medians
    from keras_mnasnet.family import FAMILY
    from keras_mnasnet.utils.system import environment

    gflops = statistics.median(peaks)
    rows: list[dict[str, Any]] = []
    for each, taken in times.items():
        network = each.partition(",")[0]
        base = times[f"{network}, direct writer"]
        found = Times.of([value for one in taken for value in one])
        median_ms = statistics.median(value for one in taken for value in one) * 1e3
        bound_ms = 2 * FAMILY[network].madds() / gflops / 1e6
        rows.append(
            {"route": each, "cpu": dataclasses.asdict(found), "bound_ms": bound_ms, "share_of_peak": bound_ms / median_ms,
             "ratio_to_direct_writer": dataclasses.asdict(ratio_of_medians(taken, base))}
        )  # fmt: skip
        ratio = rows[-1]["ratio_to_direct_writer"]
        print(
            f"{each:48} {found.median_ms:6.2f} ms  min {found.min_ms:6.2f}  {ratio['value']:.3f}x "
            f"({ratio['low']:.3f}..{ratio['high']:.3f})  {100 * rows[-1]['share_of_peak']:.0f} % of the peak"
        )
    print(f"peak of the core: {gflops:.1f} GFLOP/s, vectors of {lanes} floats, {min(peaks):.1f}..{max(peaks):.1f}")
    print(f"NumPy's matrix product, one thread: {product:.1f} GFLOP/s")
    for each, microseconds in depthwise.items():
        print(f"depthwise convolution, {each}: {microseconds:.0f} us")
    if arguments.output:
        versions = {package: __import__(package).__version__ for package in ("litert_torch", "onnxruntime", "timm", "torch")}
        value = {
            "schema": SCHEMA, "benchmark": "frameworks",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "environment": environment() | versions, "core": arguments.core, "rounds": arguments.rounds,
            "peak_gflops": {"median": gflops, "min": min(peaks), "max": max(peaks), "lanes": lanes},
            "matrix_product_gflops": product, "depthwise_us": depthwise, "rows": rows,
        }  # fmt: skip
        write_json(arguments.output, value)


if __name__ == "__main__":
    main()
