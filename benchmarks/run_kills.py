"""Kill the real commands at random moments, run them again, and see that nothing is lost, left behind or different.

    python benchmarks/run_kills.py [--kills 100] [--only training,export,...] [--output benchmarks/results/NAME/kills.json]

Every command is first run to its end, which gives what is expected. Then, again and again, it is started, gets SIGKILL, and is
run once more (with --resume where there is one) until it ends by itself, as often as there are kills to give: at a moment drawn
from the whole length of the run, or, every other time, within milliseconds of a file of it appearing, which is where names
change. Compared are the log and the weights of a training, the graph of an exported file, the bytes of a fetched one, and the
trials of a study. `left` counts temporary files, locks and processes that are still there at the end, `torn` files that were
half-written or whose report was another file's at the moment of a kill.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import hashlib
import http.server
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SCHEMA = 1
ROOT = Path(__file__).resolve().parents[1]
MODEL = "cifar10/small-1.0-32"
NETWORK = ["--network", "small", "--width", "0.35", "--stem-stride", "1"]
BODY = random.Random(0).randbytes(4_000_000)
GONE_S = 30.0  # within which the workers of a killed process must end
FETCH = """
import dataclasses, sys
from keras_mnasnet.weights.fetch import fetch_record
from keras_mnasnet.weights.registry import find
fetch_record(dataclasses.replace(find("torchvision/mnasnet0_5"), url=sys.argv[1], sha256=None, filename="file.pth"))
"""


class Kind:
    """One command in a folder of its own: `command` starts it or goes on with it, `result` is what it made, as a text."""

    def __init__(self, shared: Path) -> None:
        self.shared = shared  # what all its runs have in common, made before the first

    def environment(self, folder: Path) -> dict[str, str]:
        """What the command finds in its environment."""
        return {}

    def prepare(self, folder: Path) -> None:
        """What is there before the command."""

    def command(self, folder: Path) -> list[str]:
        raise NotImplementedError

    def result(self, folder: Path) -> str:
        raise NotImplementedError

    def torn(self, folder: Path) -> list[str]:
        """What is half-written under its own name, just after a kill."""
        return []


def mnasnet(*words: object) -> list[str]:
    return [sys.executable, "-m", "keras_mnasnet.cli.main", *map(str, words)]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Training(Kind):
    def command(self, folder: Path) -> list[str]:
        run = folder / "run"
        if (run / "run.json").is_file():
            return mnasnet("train", "--resume", run)
        changes = ["--set", "epochs=3", "--set", "batch_size=32", "--set", "base_batch=32", "--set", "ema=0.9"]
        return mnasnet("train", "shapes:96@32", "-o", run, *NETWORK, "--recipe", "cifar10", *changes, "--checkpoint-steps", 2)

    def result(self, folder: Path) -> str:
        run = folder / "run"
        with (run / "log.csv").open(newline="", encoding="utf-8") as file:
            rows = [
                [value for key, value in row.items() if key not in ("seconds", "images_per_second")]
                for row in csv.DictReader(file)
            ]
        names = sorted(path.name for path in run.iterdir())
        return json.dumps([names, rows, sha256((run / "model.safetensors").read_bytes())])


class Export(Kind):
    """A float16 file over a float32 one."""

    def prepare(self, folder: Path) -> None:
        start = self.shared / "float32.tflite"
        if not start.exists():
            subprocess.run(mnasnet("export", MODEL, "-o", start), check=True, capture_output=True)
            self.known = {graph_of(start.read_bytes())}
        for ending in ("", ".json"):
            (folder / f"m.tflite{ending}").write_bytes(Path(f"{start}{ending}").read_bytes())

    def command(self, folder: Path) -> list[str]:
        return mnasnet("export", MODEL, "--quantize", "float16", "-o", folder / "m.tflite")

    def result(self, folder: Path) -> str:
        made = graph_of((folder / "m.tflite").read_bytes())
        self.known.add(made)
        return json.dumps([made, self.torn(folder), (folder / "m.tflite.json").is_file()])

    def torn(self, folder: Path) -> list[str]:
        content, report = (folder / "m.tflite").read_bytes(), folder / "m.tflite.json"
        found = [] if graph_of(content) in self.known else ["m.tflite"]
        if report.is_file() and json.loads(report.read_text("utf-8"))["sha256"] != sha256(content):
            found.append("m.tflite.json, of another file")
        return found


def graph_of(content: bytes) -> str:
    """The hash of an exported file without what lies behind its graph: the report has the time in it."""
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
        return sha256(content[: min(entry.header_offset for entry in archive.infolist())])
    return "torn"


class Fetch(Kind):
    """A file from a local server that takes about a second to send it, and knows ranges."""

    def __init__(self, shared: Path) -> None:
        super().__init__(shared)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def environment(self, folder: Path) -> dict[str, str]:
        return {"NO_PROXY": "*", "KERAS_MNASNET_HOME": str(folder)}

    def command(self, folder: Path) -> list[str]:
        return [sys.executable, "-c", FETCH, f"http://127.0.0.1:{self.server.server_address[1]}/file.pth"]

    def result(self, folder: Path) -> str:
        return json.dumps(sorted([path.name, sha256(path.read_bytes())] for path in folder.rglob("*") if path.is_file()))

    def torn(self, folder: Path) -> list[str]:
        return [path.name for path in folder.rglob("file.pth") if path.read_bytes() != BODY]


class _Slow(http.server.BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        for key, value in {
            "ETag": '"1"',
            "Content-Length": len(BODY) - start,
            "Content-Range": f"bytes {start}-/{len(BODY)}",
        }.items():
            self.send_header(key, str(value))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for place in range(start, len(BODY), 100_000):
                self.wfile.write(BODY[place : place + 100_000])
                time.sleep(0.02)


class Search(Kind):
    executor: tuple[str, ...] = ("--executor", "local")

    def command(self, folder: Path) -> list[str]:
        settings = ["--space-set", "stem_stride=1", "--space-set", "width=0.35", "--set", "epochs=1", "--set", "batch_size=16"]
        return mnasnet(
            "search", "run", "--study", folder / "s.study", "--data", "shapes:64@32", "--size", 32, "--device", "madds",
            "--target-ms", 5, "--algorithm", "random", "--trials", 4, "--no-estimate", *settings, *self.executor,
        )  # fmt: skip

    def result(self, folder: Path) -> str:
        from keras_mnasnet.search.study import Study

        with Study.open(folder / "s.study", read_only=True) as study:
            trials = [[t.number, t.key, t.status, t.accuracy, t.latency_ms, t.reward] for t in study.trials()]
        return json.dumps([sorted(path.name for path in folder.iterdir()), trials])


class Ray(Search):
    executor = ("--executor", "ray", "--cpus", "1")


KINDS: dict[str, Callable[[Path], Kind]] = {
    "training": Training,
    "export": Export,
    "fetch": Fetch,
    "search": Search,
    "ray": Ray,
}


def started(kind: Kind, folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", **kind.environment(folder)}
    log = (folder.parent / f"{folder.name}.log").open("wb")
    with log:
        return subprocess.Popen(kind.command(folder), env=environment, stdout=log, stderr=log, start_new_session=True)


def ended(kind: Kind, folder: Path) -> float:
    """Run the command to its end; its seconds. RuntimeError with its last lines where it fails."""
    start = time.monotonic()
    if status := started(kind, folder).wait():
        raise RuntimeError(
            f"exit status {status}: {(folder.parent / f'{folder.name}.log').read_text('utf-8', 'replace')[-600:]}"
        )
    return time.monotonic() - start


def names(folder: Path) -> set[tuple[str, int]]:
    found = set()
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            found.add((path.name, path.stat().st_ino))
    return found


def killed(kind: Kind, folder: Path, moment: float, at_change: bool, rng: random.Random) -> tuple[str, bool] | None:
    """Start the command and kill it: when that was, and whether processes of it are left; None where it ended before."""
    process, start = started(kind, folder), time.monotonic()
    while time.monotonic() - start < moment:
        if process.poll() is not None:
            return None
        time.sleep(0.005 if at_change else 0.05)
    if at_change:
        before = names(folder)
        while names(folder) == before and process.poll() is None:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.01))
    seconds = time.monotonic() - start
    process.kill()
    if process.wait() != -signal.SIGKILL:
        return None
    return f"after {seconds:.2f} s{', as a file changed' if at_change else ''}", orphans(process.pid)


def orphans(group: int) -> bool:
    """Whether processes of a killed command are there still, after some time."""
    deadline = time.monotonic() + GONE_S
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    return True


def left_in(folder: Path) -> list[str]:
    """Temporary files and locks below and beside a folder."""
    around = [*folder.rglob("*"), *folder.parent.glob(f".{folder.name}*")]
    return sorted(
        path.name
        for path in around
        if path.name.startswith(".mnasnet-tmp-") or path.name.endswith((".lock", ".part", ".part.json", ".new"))
    )


def rounds(name: str, kills: int, rng: random.Random, scratch: Path) -> Iterator[dict[str, Any]]:
    """Kill a command until so many kills are given; a row for every time that it came to its end afterwards."""
    shared = scratch / "shared"
    shared.mkdir(parents=True)
    kind = KINDS[name](shared)
    whole = scratch / "whole"
    whole.mkdir()
    kind.prepare(whole)
    length = ended(kind, whole)
    expected = kind.result(whole)
    given = number = 0
    while given < kills and number < 10 + 3 * kills:
        number += 1
        folder = scratch / str(number)
        folder.mkdir()
        kind.prepare(folder)
        row: dict[str, Any] = {"kills": [], "torn": [], "left": [], "problem": None, "same": False}
        for _ in range(min(rng.randint(1, 3), kills - given)):
            at_change = rng.random() < 0.5
            said = killed(kind, folder, rng.uniform(0, 0.9 * length), at_change, rng)
            if said is None:
                break
            given += 1
            row["kills"].append(said[0])
            row["left"] += ["a process"] * said[1]
            row["torn"] += kind.torn(folder)
        try:
            ended(kind, folder)
            row["same"] = kind.result(folder) == expected
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            row["problem"] = str(error)
        row["left"] += left_in(folder)
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="in all, shared out evenly (default: 100)")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, separated by commas (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, help="JSON file to write; kinds that are in it already, and are not run now, stay"
    )
    arguments = parser.parse_args()
    only = arguments.only.split(",")
    if unknown := set(only) - set(KINDS):
        parser.error(f"--only takes {', '.join(KINDS)}. Received: {', '.join(sorted(unknown))}")
    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.utils.system import environment

    found: dict[str, Any] = {}
    about = {"schema": SCHEMA, "date": datetime.date.today().isoformat(), "environment": environment()}

    if arguments.output and arguments.output.is_file():
        found = json.loads(arguments.output.read_text("utf-8"))["kinds"]
    for index, name in enumerate(only):
        kills = (arguments.kills + len(only) - 1 - index) // len(only)
        with tempfile.TemporaryDirectory(prefix="keras_mnasnet-kills-") as scratch:
            rows = []
            for row in rounds(name, kills, random.Random(f"{arguments.seed} {name}"), Path(scratch)):
                rows.append(row)
                bad = [key for key in ("torn", "left", "problem") if row[key]] + ([] if row["same"] else ["different"])
                print(
                    f"{name}: {', '.join(row['kills']) or 'not killed'}: {', '.join(bad) or 'as if nothing had happened'}",
                    flush=True,
                )
                found[name] = {
                    "seed": arguments.seed,
                    "kills": sum(len(each["kills"]) for each in rows),
                    "runs": len(rows),
                    "same": sum(each["same"] for each in rows),
                    "torn": sum(bool(each["torn"]) for each in rows),
                    "left": sum(bool(each["left"]) for each in rows),
                    "failed": sum(each["problem"] is not None for each in rows),
                    "rows": rows,
                }
                if arguments.output:
                    write_json(
                        arguments.output, about | {"kills": sum(each["kills"] for each in found.values()), "kinds": found}
                    )
    if any(each["same"] < each["runs"] or each["torn"] or each["left"] or each["failed"] for each in found.values()):
        sys.exit("error: A kill lost, left or changed something; the rows say what.")


if __name__ == "__main__":
    main()
