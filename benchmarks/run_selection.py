"""Milliseconds of what follows a detector's network in a `.tflite`, alone, on noise: by tail and score threshold.

    python benchmarks/run_selection.py [--runs 60] [--output benchmarks/results/NAME/selection.json]

2,034 boxes and 90 classes (320 px), logits drawn from a normal distribution (mean -4, deviation 1.5), one thread, CPU time of
the thread, tails in turns. `passing` is how many of the 183,060 scores reach the threshold.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA = 1
SIZE, CLASSES = 320, 90
MEAN, DEVIATION = -4.0, 1.5
THRESHOLDS = (1e-8, 0.01, 0.3)
TAILS_TIMED = ("operator", "builtin")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    from ai_edge_litert.interpreter import Interpreter

    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.detection import SSDLite, spec_of
    from keras_mnasnet.detection.postprocess import PostProcess, sigmoid
    from keras_mnasnet.detection.tflite import TAILS
    from keras_mnasnet.utils.system import environment

    spec = spec_of(SSDLite("small", CLASSES, width_multiplier=0.35, input_size=SIZE))
    rng = np.random.default_rng(0)
    codes = rng.normal(0, 0.5, (1, 2034, 4)).astype(np.float32)
    logits = rng.normal(MEAN, DEVIATION, (1, 2034, CLASSES + 1)).astype(np.float32)
    rows: list[dict[str, Any]] = []
    runners = []
    for tail, threshold in itertools.product(TAILS_TIMED, THRESHOLDS):
        content = TAILS[tail](spec, PostProcess(score_threshold=threshold))
        runners.append(Interpreter(model_content=content, num_threads=1).get_signature_runner())
        passing = int((sigmoid(logits[:, :, 1:]) >= threshold).sum())
        rows.append({"tail": tail, "score_threshold": threshold, "passing": passing, "cpu_ms": []})
    for turn in range(arguments.runs + 3):
        for row, runner in zip(rows, runners, strict=True):
            start = time.thread_time()
            runner(codes=codes, logits=logits)
            if turn >= 3:
                row["cpu_ms"].append(1e3 * (time.thread_time() - start))
    for row in rows:
        row["cpu_ms"] = statistics.median(row["cpu_ms"])
        print(f"{row['tail']:9} scores >= {row['score_threshold']:<6g} {row['passing']:>7,} pass  {row['cpu_ms']:8.2f} ms")
    if arguments.output:
        write_json(
            arguments.output,
            {
                "schema": SCHEMA, "benchmark": "selection", "date": datetime.date.today().isoformat(),
                "environment": environment(), "runs": arguments.runs, "boxes": 2034, "classes": CLASSES, "rows": rows,
            },
        )  # fmt: skip


if __name__ == "__main__":
    main()
