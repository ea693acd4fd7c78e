"""Kill the real commands at random moments, run them again, and see that nothing is lost, left behind or different.

    python benchmarks/run_kills.py [--kills 100] [--only training,export,...] [--output benchmarks/results/NAME/kills.json]

Every command is first run to its end, which gives what is expected. Then, again and again, it is started, gets SIGKILL, and is
run once more (with --resume where there is one) until it ends by itself, as often as there are kills to give: at a moment drawn
from the whole length of the run, or, every other time, within milliseconds of a file of it appearing, which is where names
change. Compared are the log and the weights of a training, the graph of an exported file, the bytes of what was fetched and of
the file made from it, and the trials of a study. `fetch` needs the folder KERAS_MNASNET_GOLDEN and the program openssl: a
server of this script stands in for the publisher's, behind the proxy that the command is given. `left` counts temporary files,
locks and processes, in any session, that are still there at the end, `torn` files that were
half-written or whose report was another file's at the moment of a kill. What a command has in the system's temporary folder
counts as left, too: it is given one of its own. `emulated` needs the cores of `mnasnet bench emulator`.
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
import ssl
import subprocess
import sys
import tarfile
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
MARK = "KERAS_MNASNET_KILLED"  # in the environment of a command: all its processes inherit it
FETCHED = "google/a1-0.35-96"
SEND_S = 1.5  # for a whole file
GONE_S = 10.0  # within which the workers of a killed process must end


class Kind:
    """One command in a folder of its own: `command` starts it or goes on with it, `result` is what it made, as a text."""

    most_kills = 3  # before a run that goes to its end

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
        return trained(folder / "run")


def trained(run: Path) -> str:
    """The names in a run's folder, its log without times, and its weights."""
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            [value for key, value in row.items() if key not in ("seconds", "images_per_second")] for row in csv.DictReader(file)
        ]
    names = sorted(path.name for path in run.iterdir())
    return json.dumps([names, rows, sha256((run / "model.safetensors").read_bytes())])


class Detection(Kind):
    """A detector of bright boxes on dark photos."""

    def __init__(self, shared: Path) -> None:
        super().__init__(shared)
        import numpy as np
        from PIL import Image

        rng, boxes = np.random.default_rng(0), []
        (shared / "photos").mkdir()
        for number in range(1, 13):
            photo = rng.integers(0, 60, (96, 96, 3), np.uint8)
            left, top = (int(each) for each in rng.integers(0, 60, 2))
            photo[top : top + 32, left : left + 32] += 150
            Image.fromarray(photo).save(shared / "photos" / f"{number}.png")
            box = {"id": number, "image_id": number, "category_id": 1, "bbox": [left, top, 32, 32], "area": 1024, "iscrowd": 0}
            boxes.append(box)
        photos = [{"id": box["id"], "file_name": f"{box['id']}.png", "width": 96, "height": 96} for box in boxes]
        value = {"images": photos, "annotations": boxes, "categories": [{"id": 1, "name": "box"}]}
        (shared / "boxes.json").write_text(json.dumps(value), "utf-8")

    def command(self, folder: Path) -> list[str]:
        run = folder / "run"
        if (run / "run.json").is_file():
            return mnasnet("detect", "train", "--resume", run)
        data = [self.shared / "boxes.json", self.shared / "photos", "--validation", "0", "--size", 96]
        return mnasnet(
            "detect", "train", *data, "-o", run, "--network", "small", "--width", "0.35", "--epochs", 3, "--batch-size", 4,
            "--checkpoint-steps", 1,
        )  # fmt: skip

    def result(self, folder: Path) -> str:
        return trained(folder / "run")


class Export(Kind):
    """A float16 file over a float32 one."""

    model: str | Path = MODEL

    def prepare(self, folder: Path) -> None:
        start = self.shared / "float32.tflite"
        if not start.exists():
            subprocess.run(mnasnet("export", self.model, "-o", start), check=True, capture_output=True)
            self.known = {graph_of(start.read_bytes())}
        for ending in ("", ".json"):
            (folder / f"m.tflite{ending}").write_bytes(Path(f"{start}{ending}").read_bytes())

    def command(self, folder: Path) -> list[str]:
        return mnasnet("export", self.model, "--quantize", "float16", "-o", folder / "m.tflite")

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


class Qat(Export):
    """An int8 file trained in another process, over a float32 one."""

    def __init__(self, shared: Path) -> None:
        super().__init__(shared)
        subprocess.run(Training(shared).command(shared), check=True, capture_output=True)
        self.model = shared / "run"

    def command(self, folder: Path) -> list[str]:
        settings = ["--data", "shapes:96@32", "--epochs", 1, "--batch-size", 16]
        return mnasnet("qat", self.model, *settings, "-o", folder / "m.tflite")


class Convert(Kind):
    def command(self, folder: Path) -> list[str]:
        return mnasnet("weights", "convert", MODEL, "-o", folder / "m.safetensors")

    def result(self, folder: Path) -> str:
        return json.dumps([[path.name, sha256(path.read_bytes())] for path in folder.iterdir()])


class Emulated(Kind):
    """A count on an emulated core, in two processes of its own."""

    def command(self, folder: Path) -> list[str]:
        return mnasnet("bench", "latency", "--network", "small@64", "--device", "emulated:cortex-a53", "-o", folder / "r.json")

    def result(self, folder: Path) -> str:
        (row,) = json.loads((folder / "r.json").read_text("utf-8"))["results"]
        return json.dumps([sorted(path.name for path in folder.iterdir()), f"{row['instructions']:.3e}"])


def graph_of(content: bytes) -> str:
    """The hash of an exported file without what lies behind its graph: the report has the time in it."""
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
        return sha256(content[: min(entry.header_offset for entry in archive.infolist())])
    return "torn"


class Fetch(Kind):
    """A checkpoint of a publisher, from a server that stands in for his, takes its time, and knows ranges."""

    def __init__(self, shared: Path) -> None:
        super().__init__(shared)
        from keras_mnasnet.weights.registry import find

        golden = os.environ.get("KERAS_MNASNET_GOLDEN")
        if golden is None:
            raise SystemExit(
                "error: `fetch` needs a checkpoint to serve. Received: no KERAS_MNASNET_GOLDEN. Leave it out: --only"
            )
        with tarfile.open(shared / "file.tgz", "w:gz") as archive:
            archive.add(Path(golden) / "google_a1_d0.35_i96" / "ckpt", "ckpt")
        self.record = find(FETCHED)
        host = self.record.url.split("/")[2]
        self.certificate, key = shared / "certificate.pem", shared / "key.pem"
        subprocess.run(
            [
                "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={host}", "-addext",
                f"subjectAltName=DNS:{host}", "-keyout", key, "-out", self.certificate,
            ],
            check=True, capture_output=True,
        )  # fmt: skip
        server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Publisher)
        server.body = (shared / "file.tgz").read_bytes()
        server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.tls.load_cert_chain(self.certificate, key)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.body, self.proxy = server.body, f"http://127.0.0.1:{server.server_address[1]}"

    def environment(self, folder: Path) -> dict[str, str]:
        proxy = {"HTTPS_PROXY": self.proxy, "https_proxy": self.proxy, "NO_PROXY": "", "no_proxy": ""}
        return {**proxy, "SSL_CERT_FILE": str(self.certificate), "KERAS_MNASNET_HOME": str(folder)}

    def command(self, folder: Path) -> list[str]:
        return mnasnet("weights", "fetch", FETCHED)

    def result(self, folder: Path) -> str:
        return json.dumps(sorted([path.name, sha256(path.read_bytes())] for path in folder.rglob("*") if path.is_file()))

    def torn(self, folder: Path) -> list[str]:
        return [path.name for path in folder.rglob(self.record.filename) if path.read_bytes() != self.body]


class _Publisher(http.server.BaseHTTPRequestHandler):
    """A proxy that answers for every host itself."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError), self.server.tls.wrap_socket(self.connection, server_side=True) as connection:
            _File(connection, self.client_address, self.server)
        self.close_connection = True


class _File(_Publisher):
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        body = self.server.body
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        part = -(-len(body) // 50)
        for place in range(start, len(body), part):
            self.wfile.write(body[place : place + part])
            time.sleep(SEND_S / 50)


class Search(Kind):
    executor: tuple[str, ...] = ("--executor", "local")
    trials = 4

    def command(self, folder: Path) -> list[str]:
        settings = ["--space-set", "stem_stride=1", "--space-set", "width=0.35", "--set", "epochs=1", "--set", "batch_size=16"]
        return mnasnet(
            "search", "run", "--study", folder / "s.study", "--data", "shapes:64@32", "--size", 32, "--device", "madds",
            "--target-ms", 5, "--algorithm", "random", "--trials", self.trials, "--no-estimate", *settings, *self.executor,
        )  # fmt: skip

    def result(self, folder: Path) -> str:
        from keras_mnasnet.search.study import Study

        with Study.open(folder / "s.study", read_only=True) as study:
            trials = [[t.number, t.key, t.status, t.accuracy, t.latency_ms, t.reward] for t in study.trials()]
        return json.dumps([sorted(path.name for path in folder.iterdir()), trials])


class Retrain(Search):
    """The two best networks of a study, trained fully."""

    def __init__(self, shared: Path) -> None:
        super().__init__(shared)
        subprocess.run(super().command(shared), check=True, capture_output=True)

    def command(self, folder: Path) -> list[str]:
        settings = ["--set", "epochs=2", "--set", "batch_size=16"]
        return mnasnet("search", "retrain", "--study", self.shared / "s.study", "-o", folder / "best", "--top", 2, *settings)

    def result(self, folder: Path) -> str:
        runs = sorted(path.parent for path in folder.rglob("log.csv"))
        return json.dumps([sorted(path.name for path in (folder / "best").iterdir()), *map(trained, runs)])


class Ray(Search):
    """Most of a run is Ray's start and the worker's: few trials, and more kills before a run that goes to its end."""

    executor = ("--executor", "ray", "--cpus", "1")
    trials = 2
    most_kills = 6


KINDS: dict[str, Callable[[Path], Kind]] = {
    "training": Training,
    "export": Export,
    "fetch": Fetch,
    "convert": Convert,
    "detection": Detection,
    "qat": Qat,
    "emulated": Emulated,
    "search": Search,
    "retrain": Retrain,
    "ray": Ray,
}


def temporary(folder: Path) -> Path:
    """The system's temporary folder of the commands in `folder`."""
    return folder.with_name(f"{folder.name}.tmp")


def started(kind: Kind, folder: Path) -> subprocess.Popen[bytes]:
    temporary(folder).mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": tempfile.gettempdir(),  # its sockets must have short names, and its logs are kept
        "TMPDIR": str(temporary(folder)),
        MARK: str(folder),
        **kind.environment(folder),
    }
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
    return f"after {seconds:.2f} s{', as a file changed' if at_change else ''}", orphans(folder)


def orphans(folder: Path) -> bool:
    """Whether processes of a killed command, known by their environment, are there still after some time; they are ended."""
    from keras_mnasnet.search.executors import keeper

    deadline = time.monotonic() + GONE_S
    while keeper.marked(f"{MARK}={folder}"):
        if time.monotonic() > deadline:
            keeper.end(f"{MARK}={folder}")
            return True
        time.sleep(0.1)
    return False


def left_in(folder: Path) -> list[str]:
    """Temporary files and locks below and beside a folder, and what the package has in the temporary one but its locks."""
    around = [*folder.rglob("*"), *folder.parent.glob(f".{folder.name}*")]
    found = [
        path.name
        for path in around
        if path.name.startswith(".mnasnet-tmp-") or path.name.endswith((".lock", ".part", ".part.json", ".new"))
    ]
    kept = ("keras_mnasnet-locks-", "keras_mnasnet-meter-", "__autograph_generated_file")  # the last are TensorFlow's own
    own = [path for path in temporary(folder).rglob("*") if not path.name.startswith(kept)]
    return sorted(found + [str(path.relative_to(folder.parent)) for path in own])


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
        for _ in range(min(rng.randint(1, kind.most_kills), kills - given)):
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
            made = kind.result(folder)
            row["same"] = made == expected
            if not row["same"]:
                row["problem"] = f"expected {expected[:1_000]}. Received: {made[:1_000]}"
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
