"""What everyday paths cost in time and memory: import, help, export without TensorFlow, a training step, ask and tell.

    python benchmarks/run_startup.py [--rounds 7] [--against OTHER_CHECKOUT] [--output benchmarks/results/NAME/startup.json]

Every path runs in a process of its own, one after the other, round after round; with --against, each of them also with the
package of another checkout, in turns in the same run, so that both meet the same machine. Printed are medians, and the ratio of
the two checkouts' medians with its 95 % bootstrap interval. `steady` times are taken inside the process, after it is warm.
Bytecode is kept, as pip leaves it of what it installs, whatever PYTHONDONTWRITEBYTECODE says; the first round writes it.
A checkout older than `keras_mnasnet.load` is asked in the names and options that it had.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = 2
NEW, OLD = "new", "old"  # vocabularies: with `keras_mnasnet.load`, and before it
FIGURES = "figures: "
PEAK = """
import atexit
@atexit.register
def _peak():
    from pathlib import Path
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM"):
            print('\\nfigures: {"peak_mb": %f}' % (int(line.split()[1]) / 1024))
"""
COMMAND = """
import sys
sys.argv = ["mnasnet", *{argv!r}]
from keras_mnasnet.cli.main import entry_point
try:
    entry_point()
except SystemExit as stop:
    assert not stop.code, stop.code
loaded = set({without!r}) & set(sys.modules)
assert not loaded, loaded
"""
SAVE_A1 = {
    NEW: "from keras_mnasnet import MnasNetA1, save; save(MnasNetA1(weights=None), {file!r})",
    OLD: "from keras_mnasnet import MnasNetA1, save_weights; save_weights(MnasNetA1(weights=None), {file!r})",
}
EXPORT = {NEW: ["export", "{file}", "-o", "{out}"], OLD: ["export", "--weights", "{file}", "--output", "{out}"]}
INFO = {NEW: ["info", "a1"], OLD: ["info", "a1"]}
BUILD = """
import json, statistics, time
import keras
from keras_mnasnet import MnasNetA1
took = {"steady: build A1": [], "steady: build keras.applications' MobileNetV2": [], "steady: load A1": []}
for _ in range(3):
    for name, make in zip(took, (
        lambda: MnasNetA1(weights=None),
        lambda: keras.applications.MobileNetV2(weights=None),
        lambda: MnasNetA1(weights=FILE),
    )):
        keras.backend.clear_session()
        start = time.perf_counter()
        make()
        took[name].append(time.perf_counter() - start)
print("figures:", json.dumps({name: statistics.median(times[1:]) for name, times in took.items()}))
"""
TRAIN = """
import json, statistics, time
import keras, numpy as np
from keras_mnasnet import MnasNetA1
shape, rng = (128, 128, 3), np.random.default_rng(0)
model = MnasNetA1(weights=None, classes=10, width_multiplier=0.5, input_shape=shape)
model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy", jit_compile=False)
pixels, labels = rng.uniform(0, 255, (32, *shape)).astype("float32"), rng.integers(0, 10, 32)
took = []
for _ in range(6):
    start = time.perf_counter()
    model.train_on_batch(pixels, labels)
    took.append(time.perf_counter() - start)
print("figures:", json.dumps({"steady: one step of A1 0.5, 32 images of 128 px": statistics.median(took[2:])}))
"""
EPOCHS = """
import csv, json
rows = list(csv.DictReader(open(RUN + "/log.csv")))
seconds = [float(row["seconds"]) for row in rows]
print("figures:", json.dumps({"steady: an epoch, 640 images of 32 px": (seconds[-1] - seconds[0]) / (len(rows) - 1)}))
"""
TRAIN_OPTIONS = ["--recipe", "cifar10", "--epochs", "2", "--batch-size", "64", "--width", "0.35", "--stem-stride", "1"]
TRAIN_COMMAND = {
    NEW: ["train", "shapes:640@32", "-o", "{out}", "--network", "a1", *TRAIN_OPTIONS],
    OLD: ["train", "shapes:640@32", "--output", "{out}", "--model", "a1", *TRAIN_OPTIONS],
}
ASK = """
import json, statistics, time
import numpy as np
from keras_mnasnet.search.algorithms import make_algorithm
from keras_mnasnet.search.algorithms.base import Observation
from keras_mnasnet.search.networks import space
from keras_mnasnet.search.rewards import Reward
rng, known, reward = np.random.default_rng(0), space("mbconv"), Reward("soft", 75)
search = make_algorithm("thompson", known, reward, seed=0)
weights = rng.normal(size=(2, known.feature_count)) * np.array([[0.02], [0.1]])
def observe(candidate):
    values = weights @ known.features(candidate)
    accuracy, latency = float(np.clip(0.6 + values[0], 0, 1)), float(75 * np.exp(values[1]))
    return Observation(candidate, {}, accuracy, latency, reward(accuracy, latency))
search.tell([observe(candidate) for candidate in {known.sample(rng): None for _ in range(1000)}])
took = []
for _ in range(15):
    start = time.perf_counter()
    candidate = search.ask(1)[0].candidate
    asked = time.perf_counter() - start
    observation = observe(candidate)
    start = time.perf_counter()
    search.tell([observation])
    took.append(asked + time.perf_counter() - start)
print("figures:", json.dumps({"steady: ask and tell after 1,000 trials": statistics.median(took)}))
"""


@dataclasses.dataclass(frozen=True)
class Checkout:
    """A folder with the package, and in which vocabulary it is asked."""

    name: str
    path: Path

    @property
    def vocabulary(self) -> str:
        """NEW, or OLD before `keras_mnasnet.load`."""
        return NEW if (self.path / "keras_mnasnet" / "loading.py").is_file() else OLD

    def run(self, code: str) -> dict[str, float]:
        """Seconds of wall and processor time of a process that runs `code`, and the figures it prints, such as its peak memory.

        The system's own figure for a child (ru_maxrss) is never below this process's.
        """
        environment = {**os.environ, "PYTHONPATH": str(self.path), "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment["PYTHONDONTWRITEBYTECODE"] = ""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            start = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-P", "-c", PEAK + code], stdout=out, stderr=err, env=environment)
            _, status, used = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            err.seek(0)
            if process.returncode:
                raise RuntimeError(f"{self.name} failed at:\n{code}\n{err.read().decode('utf-8', 'replace')[-3000:]}")
            lines = out.read().decode("utf-8", "replace").splitlines()
        figures = {"wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime}
        for line in lines:
            if line.startswith(FIGURES):
                figures |= json.loads(line.removeprefix(FIGURES))
        return figures

    def paths(self, folder: Path, asked: Iterable[str] = ()) -> dict[str, str]:
        """{path: the code that walks it}; writes what they need into `folder`."""
        file, out, run = str(folder / "a1.safetensors"), str(folder / "a1.tflite"), str(folder / "run")

        def command(argv: dict[str, list[str]], out: str = "", without: tuple[str, ...] = ()) -> str:
            filled = [word.format(file=file, out=out) for word in argv[self.vocabulary]]
            return COMMAND.format(argv=filled, without=without)

        light = ("tensorflow", "keras")
        found = {
            "python": "pass",
            "import keras_mnasnet": "import keras_mnasnet",
            "mnasnet --help": command({NEW: ["--help"], OLD: ["--help"]}, without=(*light, "numpy")),
            "mnasnet info a1": command(INFO, without=light),
            "export A1 without TensorFlow": command(EXPORT, out, light),
            "build and load A1": BUILD.replace("FILE", repr(file)),
            "training step": TRAIN,
            "mnasnet train, 2 epochs": f"import shutil; shutil.rmtree({run!r}, True)\n"
            + command(TRAIN_COMMAND, run)
            + EPOCHS.replace("RUN", repr(run)),
            "ask and tell": ASK,
        }
        wanted = list(asked) or list(found)
        if unknown := set(wanted) - set(found):
            raise ValueError(f"A path is one of {', '.join(found)}. Received: {', '.join(sorted(unknown))}")
        chosen = {name: found[name] for name in wanted}
        if any(file in code for code in chosen.values()):
            self.run(SAVE_A1[self.vocabulary].format(file=file))
        return chosen


def measured(checkouts: list[Checkout], rounds: int, asked: list[str]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """{path: {checkout: {figure: one value a round}}}, checkouts in turns; the first round warms up and is not counted."""
    from keras_mnasnet.utils.text import Life

    with tempfile.TemporaryDirectory() as name:
        codes = {}
        for number, checkout in enumerate(checkouts):
            folder = Path(name) / str(number)
            folder.mkdir()
            codes[checkout.name] = checkout.paths(folder, asked)
        found: dict[str, dict[str, dict[str, list[float]]]] = {
            path: {checkout.name: {} for checkout in checkouts} for path in codes[checkouts[0].name]
        }
        with Life("measure", total=(rounds + 1) * len(found) * len(checkouts), unit="run") as life:
            for number in range(rounds + 1):
                turn = checkouts if number % 2 else checkouts[::-1]
                for path in found:
                    for checkout in turn:
                        for figure, value in checkout.run(codes[checkout.name][path]).items():
                            if number:
                                found[path][checkout.name].setdefault(figure, []).append(value)
                        life.step()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds (default %(default)s)")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="a folder with another version of the package")
    parser.add_argument("--paths", nargs="*", default=[], metavar="PATH", help="only these of the paths (default: all)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the result here")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds must be 1 or more. Received: {arguments.rounds}")
    if arguments.against is not None and not (arguments.against / "keras_mnasnet").is_dir():
        parser.error(f"--against must be a folder with keras_mnasnet in it. Received: {arguments.against}")

    from keras_mnasnet.benchmarks.results import check_output, write_json
    from keras_mnasnet.benchmarks.timing import ratio_of_medians
    from keras_mnasnet.utils.system import machine

    if arguments.output:
        check_output(arguments.output)
    checkouts = [Checkout("this", ROOT)]
    if arguments.against is not None:
        checkouts.append(Checkout("other", arguments.against.resolve()))
    found = measured(checkouts, arguments.rounds, arguments.paths)
    rows: list[dict[str, Any]] = []
    for path, by_checkout in found.items():
        print(path)
        for figure, values in by_checkout["this"].items():
            medians = {name: statistics.median(figures[figure]) for name, figures in by_checkout.items()}
            row: dict[str, Any] = {"path": path, "figure": figure, "median": medians, "values": {
                name: figures[figure] for name, figures in by_checkout.items()
            }}  # fmt: skip
            text = ", ".join(f"{name} {median:.4g}" for name, median in medians.items())
            if "other" in medians:
                ratio = ratio_of_medians([[value] for value in values], [[value] for value in by_checkout["other"][figure]])
                row["ratio"] = dataclasses.asdict(ratio)
                edges = "" if ratio.low is None else f" ({ratio.low:.3f}..{ratio.high:.3f})"
                text += f"; this / other {ratio.value:.3f}{edges}"
            rows.append(row)
            print(f"  {figure:44} {text}")
    if arguments.output:
        versions = {checkout.name: checkout.vocabulary for checkout in checkouts}
        write_json(
            arguments.output,
            {
                "schema": SCHEMA, "benchmark": "startup", "environment": machine(), "rounds": arguments.rounds,
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "vocabularies": versions,
                "load_average": list(os.getloadavg()), "rows": rows,
            },
        )  # fmt: skip
        print(f"wrote {arguments.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
