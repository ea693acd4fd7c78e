"""Two processes on 127.0.0.1 with JAX: the losses of one process, and what happens when one of them is killed."""

import csv
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from keras_mnasnet.training import Cluster

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs the extra [jax]")
OPTIONS = (
    "--network", "stem8 r1_k3_s11_e1_i8_o8_noskip r2_k3_s22_e2_i8_o16_se0.25 head32", "--recipe", "cifar10",
    "--set", "ema=0", "--batch-size", "32", "--set",
    "base_batch=32", "--learning-rate", "0.01", "--set", "warmup_epochs=0", "--checkpoint-steps", "2",
)  # fmt: skip


def start(*arguments):
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", "keras_mnasnet.cli.main", "train", *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def start_both(*arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [start(*arguments, "--coordinator", address, "--processes", 2, "--process-index", index) for index in (0, 1)]


def losses(folder):
    with (folder / "log.csv").open(encoding="utf-8") as file:
        return [(float(row["loss"]), float(row["val_loss"] or 0)) for row in csv.DictReader(file)]


def test_two_processes_give_the_losses_of_one_and_survive_a_kill(tmp_path):
    alone = start("shapes:128@32", *OPTIONS, "--epochs", 2, "--output", tmp_path / "one")
    both = start_both("shapes:128@32", *OPTIONS, "--epochs", 2, "--output", tmp_path / "two")
    for process in both:
        _, err = process.communicate(timeout=500)
        assert process.returncode == 0, err[-3000:]
    _, err = alone.communicate(timeout=500)
    assert alone.returncode == 0, err[-3000:]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 4
    for ours, theirs in zip(two, one, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-4)


def test_a_killed_process_ends_the_other_with_the_way_out(tmp_path):
    folder = tmp_path / "run"
    both = start_both("shapes:128@32", *OPTIONS, "--epochs", 200, "--output", folder)
    deadline = time.monotonic() + 400
    while not (folder / "checkpoint.safetensors").is_file() and time.monotonic() < deadline:
        assert all(process.poll() is None for process in both), both[0].communicate()[1][-3000:]
        time.sleep(0.1)
    both[1].send_signal(signal.SIGKILL)
    both[1].communicate()
    _, err = both[0].communicate(timeout=200)
    assert both[0].returncode not in (0, None)
    assert "All 2 processes must stay alive" in err
    assert "--resume" in err
    assert losses(folder)


def test_refusals():
    with pytest.raises(ValueError, match="process_index` from 0 to processes - 1. Received: processes=2, process_index=2"):
        Cluster("127.0.0.1:1", 2, 2)
    with pytest.raises(ValueError, match="need the address of process 0"):
        Cluster(None, 2, 0)
    for cluster in (Cluster("127.0.0.1:1", 2, 0), Cluster("auto")):
        with pytest.raises(ValueError, match="needs the JAX backend"):
            cluster.join()


def test_auto_needs_a_cluster(tmp_path):
    process = start("shapes:64@32", *OPTIONS, "--output", tmp_path / "run", "--coordinator", "auto")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "needs a cluster that JAX recognizes" in err
