"""Read thousands of hostile inputs with every reader of the package, in processes of their own, and count what became of them.

    python benchmarks/run_fuzz.py [--rounds 10] [--seed 0] [--only light] [--output benchmarks/results/NAME/fuzz.json]

The corpus is `tests/corpus.py`: for every reader a seed, mutated in a fixed order (the types of every field, truncations,
flipped bits, depths, sizes), read within limits of time and memory, where a started process, an import or a write elsewhere is
a finding. A process that ends or hangs is one too. The suite runs one round (`tests/test_hostile.py`); more rounds mutate more.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = 1
GROUPS = ("light", "tensorflow")


def fuzz(group: str, rounds: int, seed: int, timeout: float) -> list[dict[str, Any]]:
    """The counts of each reader of a group; a process that ended early is a finding of the reader that it was at."""
    places = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory(prefix="keras_mnasnet-") as folder:
        command = [sys.executable, str(ROOT / "tests" / "corpus.py"), group, folder, f"--rounds={rounds}", f"--seed={seed}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
            try:
                output, said = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                output, said = process.communicate()
        rows = [json.loads(line) for line in output.splitlines()]
        if process.returncode:
            at = Path(folder, "at")
            where = at.read_text("utf-8", "replace") if at.is_file() else f"the start of {group}"
            how = signal.Signals(-process.returncode).name if process.returncode < 0 else f"status {process.returncode}"
            last = said.decode("utf-8", "replace").strip().splitlines()[-1:]
            finding = f"{where}: the process ended with {how}: {' '.join(last)}"[:500]
            rows.append(
                {"reader": where.split()[0], "inputs": 0, "results": 0, "errors": 0, "findings": [finding], "seconds": 0}
            )
        return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="A hundred mutations of bytes each. Default: 10.")
    parser.add_argument("--seed", type=int, default=0, help="Choose the mutations. Default: 0.")
    parser.add_argument("--only", help="Run this group, light or tensorflow, or this reader alone.")
    parser.add_argument("--timeout", type=float, default=3600.0, help="End a group after so many seconds. Default: 3600.")
    parser.add_argument("--output", type=Path, help="Write the counts to this JSON file.")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for group in [arguments.only] if arguments.only else GROUPS:
        rows += fuzz(group, arguments.rounds, arguments.seed, arguments.timeout)
    for row in rows:
        counts = f"{row['inputs']:,} inputs: {row['results']:,} results, {row['errors']:,} errors, {row['seconds']} s"
        print(f"{row['reader']:<16} {counts}, {len(row['findings'])} findings")
        for finding in row["findings"]:
            print(f"    {finding}")
    findings = sum(len(row["findings"]) for row in rows)
    print(f"{sum(row['inputs'] for row in rows):,} inputs, {findings} findings")
    if arguments.output:
        value = {
            "schema": SCHEMA, "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, Python {platform.python_version()}", "rounds": arguments.rounds,
            "seed": arguments.seed, "inputs": sum(row["inputs"] for row in rows), "findings": findings, "readers": rows,
        }  # fmt: skip
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    return 1 if findings or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
