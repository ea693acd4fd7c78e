"""How long it takes to get to a loaded model, as ratios measured in turn in one run; writes a JSON result.

Processes (import, --help) are timed from outside, in turn with their baseline. Building and loading are timed inside one
process, in turn, after one round of warm-up. The checkpoints are synthetic, in the sources' own formats (tests/fixtures.py).
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = 1
FIXTURES = {"google": "google-a1-d1.0-224", "timm": "timm-semnasnet_100-224"}


def process_s(code: str) -> float:
    """Seconds of a Python process that runs `code`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - start


def in_turn(tasks: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every task, one of each per round; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for round_number in range(rounds + 1):
        for name, task in tasks.items():
            seconds = task()
            if round_number:
                times[name].append(seconds)
    return times


def processes(rounds: int) -> dict[str, list[float]]:
    """Python alone, our import, Keras's import, `mnasnet --help` and a table, each in a process of its own."""
    call = "import sys; sys.argv = ['mnasnet', *{}]; from keras_mnasnet.cli.main import entry_point; entry_point()"
    codes = {
        "python": "pass",
        "import keras_mnasnet": "import keras_mnasnet",
        "import keras": "import keras",
        "mnasnet --help": call.format(["--help"]),
        "mnasnet info a1": call.format(["info", "a1"]),
    }
    return in_turn({name: functools.partial(process_s, code) for name, code in codes.items()}, rounds)


def models(rounds: int) -> dict[str, list[float]]:
    """Building A1 and MobileNetV2, and A1 with a checkpoint: first use (converted on the way) and from the cache."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "assets" / "recipe")]
    import keras
    from fixtures import Fixture

    from keras_mnasnet import MnasNetA1

    def timed(task: Callable[[], object]) -> Callable[[], float]:
        def run() -> float:
            keras.backend.clear_session()
            start = time.perf_counter()
            task()
            return time.perf_counter() - start

        return run

    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for source, name in FIXTURES.items():
            (Path(folder) / source).mkdir()
            files[source] = Fixture(name).write(Path(folder) / source)
        from keras_mnasnet.weights import convert_file

        files["converted"] = Path(folder) / "converted.safetensors"
        convert_file(files["google"], files["converted"])
        tasks = {
            "build MobileNetV2": timed(lambda: keras.applications.MobileNetV2(weights=None)),
            "build A1": timed(lambda: MnasNetA1(weights=None)),
        }
        for source, path in files.items():
            tasks[f"build A1 + {source} checkpoint"] = timed(functools.partial(MnasNetA1, weights=path))
        return in_turn(tasks, rounds)


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds (default %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/<processor>/startup.json)")
    arguments = parser.parse_args()
    os.environ["KERAS_BACKEND"] = "tensorflow"

    times = processes(arguments.rounds) | models(arguments.rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {
        "import keras_mnasnet / import keras": medians["import keras_mnasnet"] / medians["import keras"],
        "mnasnet --help / python": medians["mnasnet --help"] / medians["python"],
        "build A1 / build MobileNetV2": statistics.median(
            a / b for a, b in zip(times["build A1"], times["build MobileNetV2"], strict=True)
        ),
    }
    beyond = {name: medians[f"build A1 + {name} checkpoint"] - medians["build A1"] for name in [*FIXTURES, "converted"]}
    result = {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy", "safetensors")},
        "rounds": arguments.rounds,
        "seconds": {name: {"median": medians[name], "min": min(v), "max": max(v)} for name, v in times.items()},
        "ratios": ratios,
        "load_beyond_build_s": beyond,
    }
    slug = re.sub(r"[^a-z0-9]+", "-", cpu_name().lower()).strip("-")
    output = arguments.output or ROOT / "benchmarks" / "results" / slug / "startup.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")

    print(f"{result['processor']}, {result['cores']} cores, Python {result['python']}, {arguments.rounds} rounds in turn")
    for name, values in times.items():
        print(f"{name:32} {medians[name]:7.3f} s  ({min(values):.3f} .. {max(values):.3f})")
    for name, ratio in ratios.items():
        print(f"{name:36} {ratio:.2f} x")
    for name, seconds in beyond.items():
        print(f"loading a {name} checkpoint of A1 1.0: {seconds:.2f} s beyond the build")
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
