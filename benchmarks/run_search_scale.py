"""What the driver of a search costs with many trials: bytes written, CPU time a trial and memory.

    python benchmarks/run_search_scale.py --trials 8000 50000 --output benchmarks/results/NAME/search_scale.json
    python benchmarks/run_search_scale.py --trials 10000 --algorithms thompson --ray 64 --output ...

Each search has an evaluator that takes no time (accuracy and latency are a formula of the decisions), the space `mbconv`, one
worker in the driver's own process, and a process of its own. Everything else is as in a real search: the study in its file,
the algorithm, the running figures of the display. Bytes are those that the process handed to the system (`wchar` of
/proc/self/io, SQLite's log and what is copied from it into the file included); CPU time is of a thousand trials at the
beginning, in the middle and at the end. At last the study is opened again and gone on with, which is timed too, and read by
`status`, `rescore` and `report`, in a process that has loaded them.

With `--ray N` the trials sleep, in N workers of a Ray on this machine, as long as a draw says (a mean of `--seconds`, a
deviation of the logarithms of 0.5). `utilization` is the share of the workers' time, from the first start to the last finish,
in which they slept: what a driver that is late costs counts as idle.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import json
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

SCHEMA = 1
PART = 1_000  # trials whose CPU time is taken
DEVIATION = 0.5  # of the logarithms of durations; 0.47 in search/runs/host-cifar10
LARGEST_GROWTH = 1.5  # CPU of one of the last trials against one in the middle, before which there are half as many


def evaluated(trial: Any) -> Any:
    """Accuracy and latency by a formula of the choices."""
    from keras_mnasnet.search import Measurement

    total = sum((place + 1) * choice for place, choice in enumerate(trial.candidate))
    return Measurement(0.5 + total / 2_000, 40 + total / 10, "formula", 4_000_000, 300_000_000, {"training_steps": 1.0})


class Slept:
    """The same, after a sleep of `seconds` on average."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, trial: Any) -> Any:
        import dataclasses

        seconds = self.seconds * random.Random(trial.number).lognormvariate(-(DEVIATION**2) / 2, DEVIATION)
        time.sleep(seconds)
        return dataclasses.replace(evaluated(trial), seconds={"training_steps": seconds})


def read(path: Path) -> dict[str, float]:
    """CPU seconds of what reads a study."""
    from keras_mnasnet import search

    uses: dict[str, Any] = {
        "status": lambda: search.status(path), "rescore": lambda: search.rescore(path),
        "report": lambda: search.report(path, path.parent / "report", landmarks="none", pictures=False, progress=False),
    }  # fmt: skip
    found = {}
    for name, use in uses.items():
        use()
        start = time.process_time()
        use()
        found[name] = time.process_time() - start
    return found


def said(file: str, name: str) -> int:
    """What the system says of this process: `wchar` of `io` are bytes written, `VmHWM` of `status` the most KiB in memory."""
    lines = Path("/proc/self", file).read_text("utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def search(algorithm: str, trials: int, workers: int = 0, mean: float = 0.0) -> dict[str, Any]:
    """One search, in this process, or on `workers` of Ray whose trials sleep `mean` seconds."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from keras_mnasnet.search import Reward, Study, run

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scale.study"
        options: dict[str, Any] = {
            "study": path, "space": "mbconv", "reward": Reward("soft", 75), "algorithm": algorithm, "executor": "local",
            "evaluator": evaluated, "progress": False,
        }  # fmt: skip
        if workers:
            import sys

            from ray import cloudpickle

            cloudpickle.register_pickle_by_value(sys.modules[Slept.__module__])  # which the workers cannot import
            share = (os.cpu_count() or 1) / workers
            options |= {"executor": "ray", "workers": workers, "cpus": share, "gpus": 0, "evaluator": Slept(mean)}
        cpu, bytes_before, start = [time.process_time()], said("io", "wchar"), time.perf_counter()
        for _ in run(trials=trials, **options):
            cpu.append(time.process_time())
        seconds, bytes_written = time.perf_counter() - start, said("io", "wchar") - bytes_before
        peak = said("status", "VmHWM") / 1024
        more: dict[str, Any] = {}
        if workers:
            with Study.open(path, read_only=True) as study:
                ended = study.trials()
                order = study.plan()["order"]
            begun, last = min(each.started or 0.0 for each in ended), max(each.finished or 0.0 for each in ended)
            busy = sum(each.seconds.get("training_steps", 0.0) for each in ended)
            more = {
                "workers": workers, "order": order, "mean_seconds_a_trial": busy / len(ended),
                "first_to_last_seconds": last - begun,
                "utilization": busy / (workers * (last - begun)), "failed": sum(each.status == "failed" for each in ended),
                "load_average": os.getloadavg(),
            }  # fmt: skip
            options |= {"executor": "local", "workers": 1, "evaluator": evaluated}
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            more["read_cpu_seconds"] = pool.apply(read, (path,))
        again = time.process_time()
        added = len(list(run(trials=trials + 1, **options)))
        resumed = time.process_time() - again
        with Study.open(path, read_only=True) as study:
            state = len(study.state() or b"")
        part = min(PART, (len(cpu) - 1) // 4)
        places = {"first": 0, "middle": len(cpu) // 2, "last": len(cpu) - 1 - part}
        return {
            "algorithm": algorithm, "trials": len(cpu) - 1, "bytes_written": bytes_written,
            "bytes_a_trial": bytes_written / (len(cpu) - 1), "study_bytes": path.stat().st_size, "state_bytes": state,
            "cpu_ms_a_trial": {name: 1e3 * (cpu[at + part] - cpu[at]) / part for name, at in places.items()},
            "cpu_seconds": cpu[-1] - cpu[0], "seconds": seconds, "peak_mib": peak, "resume_and_trial_cpu_seconds": resumed,
            "added_after_resuming": added, **more,
        }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[8_000, 50_000])
    parser.add_argument(
        "--algorithms", nargs="+", default=["thompson", "evolution", "random", "ppo"], help="(default: %(default)s)"
    )
    parser.add_argument("--ray", type=int, default=0, metavar="N", help="workers of a Ray on this machine, whose trials sleep")
    parser.add_argument("--seconds", type=float, default=6.0, help="that a trial sleeps on average (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file to write, after every search")
    arguments = parser.parse_args()
    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.utils.system import environment

    context = multiprocessing.get_context("spawn")
    rows = json.loads(arguments.output.read_text("utf-8"))["searches"] if arguments.output and arguments.output.exists() else []
    known = {(row["algorithm"], row["trials"], row.get("workers", 0)) for row in rows}
    for trials in arguments.trials:
        for algorithm in arguments.algorithms:
            if (algorithm, trials, arguments.ray) in known:
                continue
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:  # whose process may have children
                row = pool.submit(search, algorithm, trials, arguments.ray, arguments.seconds).result()
            rows.append(row)
            print(
                f"{algorithm:9s} {row['trials']:6,} trials: {row['bytes_written'] / 1e6:9,.1f} MB written "
                f"({row['bytes_a_trial'] / 1e3:.1f} kB a trial, file {row['study_bytes'] / 1e6:.1f} MB), CPU "
                f"{' ms, '.join(f'{name} {value:.2f}' for name, value in row['cpu_ms_a_trial'].items())} ms a trial, "
                f"peak {row['peak_mib']:.0f} MiB, resumed in {row['resume_and_trial_cpu_seconds']:.1f} s"
                + (f", {row['workers']} workers busy {row['utilization']:.1%}" if arguments.ray else ""),
                flush=True,
            )
            if arguments.output:
                write_json(arguments.output, {
                    "schema": SCHEMA, "date": datetime.date.today().isoformat(), "environment": environment(),
                    "searches": rows,
                })  # fmt: skip
    grown = [row for row in rows if row["cpu_ms_a_trial"]["last"] > LARGEST_GROWTH * row["cpu_ms_a_trial"]["middle"]]
    for row in grown:
        print(f"{row['algorithm']} at {row['trials']:,} trials: NOT LINEAR")
    return int(bool(grown))


if __name__ == "__main__":
    raise SystemExit(main())
