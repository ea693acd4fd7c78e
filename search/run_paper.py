"""The paper's search with the paper's constants, sized by flags; prints what it would take, and runs with --go.

Space `paper` (432 choices for each of five blocks); controller: NASNet's LSTM with PPO, preset `paper`, batches of 20; reward
soft, alpha = beta = -0.07, at 75 ms (section 3); 8,000 sampled networks, each trained for 5 epochs of ImageNet's training
split, of which 50,000 images are held out to choose by (sections 4.2 and 5); latency of one big core of a phone at batch 1;
the best 15 trained fully (section 5). Not stated in the paper, and from Google's re-implementation (google/vertex-ai-nas,
mnasnet_search_gpu.yaml): warm-up of half an epoch. Everything else of the proxy is the recipe `paper-imagenet`, without
moving averages, which 5 epochs are too short for.

Each step is an ordinary command, which is printed; stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

TRIALS, TOP, TARGET_MS, VALIDATION_IMAGES, EPOCHS, BATCH = 8_000, 15, 75.0, 50_000, 5, 20


def commands(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """(the search, the retraining of its best), as arguments of `mnasnet`."""
    study = str(Path(arguments.output) / "study.sqlite")
    run = [
        "search", "run", "--study", study, "--data", arguments.data, "--space", "paper", "--algorithm", "ppo",
        "--algorithm-set", "preset=paper", "--reward", "soft", "--target-ms", f"{arguments.target_ms:g}",
        "--device", arguments.device, "--recipe", "paper-imagenet", "--set", f"epochs={arguments.epochs}",
        "--set", "warmup_epochs=0.5", "--set", "ema=0.0", "--set", f"batch_size={arguments.batch_size}",
        "--size", str(arguments.size), "--validation-photos", str(arguments.validation_photos),
        "--trials", str(arguments.trials), "--workers", str(arguments.workers), "--batch-trials", str(BATCH),
        "--executor", arguments.executor, "--seed", str(arguments.seed),
    ]  # fmt: skip
    if arguments.training_photos:
        run += ["--training-photos", str(arguments.training_photos)]
    if arguments.space_set:
        run += [part for pair in arguments.space_set for part in ("--space-set", pair)]
    if arguments.ray_address:
        run += ["--ray-address", arguments.ray_address]
    retrain = [
        "search", "retrain", "--study", study, "--output", str(Path(arguments.output) / "retrained"), "--top",
        str(arguments.top), "--recipe", "paper-imagenet", "--set", f"epochs={arguments.final_epochs}",
        "--set", f"batch_size={arguments.batch_size}", "--size", str(arguments.size),
    ]  # fmt: skip
    return run, retrain


def main() -> None:
    arguments = _arguments()
    Path(arguments.output).mkdir(parents=True, exist_ok=True)
    run, retrain = commands(arguments)
    steps = [run, retrain] if arguments.go else [[*run, "--estimate-only"]]
    for step in steps:
        print(f"$ mnasnet {shlex.join(step)}", flush=True)
        status = subprocess.run([sys.executable, "-m", "keras_mnasnet.cli.main", *step]).returncode
        if status:
            sys.exit(status)
    if not arguments.go:
        print(f"then: mnasnet {shlex.join(retrain)}\n--go runs both. The paper's own run: 64 TPUv2 for 4.5 days.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="ImageNet: TFRecord shards, or class folders under train/ and val/")
    parser.add_argument("--device", default="adb", help="default %(default)s: a phone; pixel1 is the paper's phone by a model")
    parser.add_argument("--output", default="search/runs/paper", metavar="DIR", help="default %(default)s")
    parser.add_argument("--trials", type=int, default=TRIALS, help="default %(default)s, the paper's")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of a trial (default %(default)s, the paper's)")
    parser.add_argument("--training-photos", type=int, help="training images of a trial (default: all, the paper's)")
    parser.add_argument("--validation-photos", type=int, default=VALIDATION_IMAGES, help="default %(default)s, the paper's")
    parser.add_argument("--size", type=int, default=224, help="default %(default)s, the paper's")
    parser.add_argument(
        "--batch-size", type=int, default=4096, help="default %(default)s, the paper's; the rate scales with it"
    )
    parser.add_argument("--target-ms", type=float, default=TARGET_MS, help="default %(default)s, the paper's")
    parser.add_argument("--top", type=int, default=TOP, help="networks to train fully (default %(default)s, the paper's)")
    parser.add_argument("--final-epochs", type=int, default=350, help="default %(default)s")
    parser.add_argument("--space-set", action="append", help="KEY=VALUE of the space, such as width=0.25, stem_stride=1")
    parser.add_argument("--workers", type=int, default=1, help="trials at a time (default %(default)s)")
    parser.add_argument("--executor", choices=("pool", "ray"), default="pool", help="default %(default)s")
    parser.add_argument("--ray-address", help="of a Ray cluster")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--go", action="store_true", help="run; without it only the estimate is printed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
