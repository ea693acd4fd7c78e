"""Two processes on 127.0.0.1 with JAX train a detector, measure its AP, are killed, go on, and end as one process does."""

import csv
import importlib.util
import json
import os
import socket
import subprocess
import sys

import pytest
from PIL import Image

from keras_mnasnet.training.job import LOG_FILE

pytestmark = [
    pytest.mark.nightly, pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs the extra [jax]"),
]  # fmt: skip
NETWORK = "stem8_s22 r1_k3_s22_e1_i8_o8_noskip r1_k3_s22_e2_i8_o16 r1_k3_s22_e2_i16_o16 r1_k3_s22_e2_i16_o16 head16"
OPTIONS = ("--network", NETWORK, "--size", "96", "--epochs", "2", "--batch-size", "4", "--set", "ema=0", "--set", "extras=[]")
RUN = "import sys; from keras_mnasnet.cli.main import main; sys.exit(main())"
KILLED = """
import os, signal
from keras_mnasnet.detection.training import DetectorRun
own = DetectorRun.batches
def batches(run, first_step):
    if run.cluster.index and first_step:
        os.kill(os.getpid(), signal.SIGKILL)
    return own(run, first_step)
DetectorRun.batches = batches
"""


def drawn(folder, count):
    """Red squares on grey photos, and their COCO file."""
    folder.mkdir()
    images, boxes = [], []
    for number in range(1, count + 1):
        photo = Image.new("RGB", (64, 64), (90, 90, 90))
        photo.paste((220, 30, 30), (4 * number, 8, 4 * number + 24, 32))
        photo.save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": [4 * number, 8, 24, 24]})
    path = folder.with_suffix(".json")
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "square"}]}))
    return path, folder


@pytest.fixture
def start():
    """Starts processes, and ends those that a failed test leaves."""
    started = []
    yield lambda *arguments, **options: started.extend(found := launched(*arguments, **options)) or found
    for process in started:
        process.kill()


def launched(count, cache, *arguments, code=RUN):
    environment = {
        **os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    together = [("--coordinator", address, "--processes", "2", "--process-index", str(n)) for n in range(2)]
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, "detect", "train", *map(str, arguments), *more],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for more in (together if count == 2 else [()])
    ]  # fmt: skip


def ended(processes):
    for process in processes:
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err[-3000:]


def rows(folder):
    with (folder / LOG_FILE).open(encoding="utf-8") as file:
        return [{key: float(row[key]) for key in ("loss", "val_loss", "val_ap")} for row in csv.DictReader(file)]


def test_two_processes_measure_ap_and_survive_a_kill(tmp_path, start):
    pytest.importorskip("pycocotools")
    cache = tmp_path / "cache"
    (train, photos), (val, judges) = drawn(tmp_path / "train", 4), drawn(tmp_path / "val", 2)
    data = (train, photos, *OPTIONS, "--validation", val, "--validation-folder", judges)
    alone = start(1, cache, *data, "-o", tmp_path / "one")
    first, second = start(2, cache, *data, "-o", tmp_path / "two", code=KILLED + RUN)
    second.communicate(timeout=600)
    _, err = first.communicate(timeout=600)
    assert (first.returncode, second.returncode) == (1, -9), err[-3000:]
    assert "must stay alive" in err
    assert len(rows(tmp_path / "two")) == 1
    ended(start(2, cache, "--resume", tmp_path / "two"))
    ended(alone)
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == 2
    for ours, theirs in zip(two, one, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-3)
