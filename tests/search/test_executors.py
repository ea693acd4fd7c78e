"""Executors: processes that crash, hang or are killed, and a driver that goes away."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from search_fakes import LEAKED, FakeEvaluator, go, meta_of, toy_space

from keras_mnasnet.search.executors import GROWING, InProcess
from keras_mnasnet.search.executors.pool import ProcessPool
from keras_mnasnet.search.study import Study
from keras_mnasnet.search.trials import Measurement, Order
from keras_mnasnet.utils.system import visible_gpus

TESTS = Path(__file__).parents[1]
SPACE = toy_space()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("crash!", "crash: the worker process ended with exit code 7"),
        ("kill!", r"crash: the worker process was killed \(SIGKILL\)"),
        ("hang!", "timeout: a trial may take 3 s"),
    ],
)
def test_a_trial_that_takes_its_process_down_is_a_failed_trial(tmp_path, how, reason):
    with Study.create(tmp_path / "s", meta_of(SPACE)) as study:
        executor = ProcessPool(
            FakeEvaluator(how=how, fails=3, folder=str(tmp_path)), 2, timeout=3.0 if how == "hang!" else 100.0
        )
        go(study, SPACE, trials=3, order=Order("window", 2), executor=executor)
        failed, *done = study.trials()
        assert (failed.status, failed.attempts) == ("failed", 2)
        assert re.match(reason, failed.reason)
        assert [trial.status for trial in done] == ["done", "done"]
    attempts = {name.split("-")[2] for name in os.listdir(tmp_path) if name.startswith("0-")}
    assert len(attempts) == 2, "the second attempt ran in another process"


def test_a_pool_keeps_its_processes(tmp_path):
    with Study.create(tmp_path / "s", meta_of(SPACE)) as study:
        go(study, SPACE, trials=6, executor=ProcessPool(FakeEvaluator(folder=str(tmp_path)), 1))
    assert len({name.split("-")[2] for name in os.listdir(tmp_path) if name.startswith(tuple("012345"))}) == 1


def test_a_process_that_grows_is_replaced(tmp_path):
    """TensorFlow keeps some of every graph; here 60 MB a trial, of which 100 MB are let pass."""
    with Study.create(tmp_path / "s", meta_of(SPACE)) as study:
        go(study, SPACE, trials=8, executor=ProcessPool(FakeEvaluator(folder=str(tmp_path), leaks=60), 1, growth_mb=100.0))
        assert study.count("done") == 8
    processes = [name.split("-")[2] for number in range(8) for name in os.listdir(tmp_path) if name.startswith(f"{number}-")]
    assert [processes.count(each) for each in dict.fromkeys(processes)] == [3, 3, 2]


def test_a_search_in_one_process_stops_before_it_is_too_large(tmp_path):
    with Study.create(tmp_path / "s", meta_of(SPACE)) as study:
        options = {"trials": 8, "executor": InProcess(FakeEvaluator(leaks=60), growth_mb=100.0)}
        with pytest.raises(OSError, match="may grow by 100 MB: .* Received: 12. MB. What is finished is kept: start the same"):
            go(study, SPACE, **options)
        assert (study.count("done"), study.count("pending")) == (3, 1)
        go(study, SPACE, trials=4, executor=InProcess(FakeEvaluator()))
        assert study.count("done") == 4
    LEAKED.clear()


def test_a_time_limit_inside_one_process(tmp_path):
    with Study.create(tmp_path / "s", meta_of(SPACE)) as study:
        go(study, SPACE, trials=2, executor=InProcess(FakeEvaluator(how="hang!", fails=2), timeout=0.2))
        assert study.trial(0).reason == "timeout: a trial may take 0.2 s"
        assert study.trial(1).status == "done"


def test_workers_end_with_their_driver(tmp_path):
    code = (
        "from search_fakes import *; from keras_mnasnet.search.executors.pool import ProcessPool\n"
        "from keras_mnasnet.search.study import Study; space = toy_space()\n"
        "if __name__ == '__main__':\n"
        f"    with Study.create({str(tmp_path / 's')!r}, meta_of(space)) as study:\n"
        f"        go(study, space, trials=9, executor=ProcessPool(FakeEvaluator(seconds=60, folder=''), 1))\n"
    )
    (tmp_path / "driver.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    driver = subprocess.Popen([sys.executable, str(tmp_path / "driver.py")], env=environment)
    children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
    if not children.exists():
        driver.kill()
        pytest.skip("needs Linux's /proc")
    workers = []
    for _ in range(200):
        time.sleep(0.05)
        listed = children.read_text().split()
        workers = [p for p in listed if "spawn_main" in Path(f"/proc/{p}/cmdline").read_text()]
        if workers and (tmp_path / "s").exists():
            break
    time.sleep(1.5)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    for _ in range(200):
        if not any(Path(f"/proc/{p}").exists() for p in workers):
            break
        time.sleep(0.05)
    assert workers
    assert not any(Path(f"/proc/{p}").exists() for p in workers)
    with Study.open(tmp_path / "s") as study:
        assert study.trial(0).status == "running"


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """Three GPUs, by a stand-in for NVIDIA's tool."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nfor n in 0 1 2; do echo \"GPU $n: NVIDIA H200 (UUID: GPU-$n)\"; echo '  MIG 1g'; done\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def seen_gpu(trial):
    return Measurement(0.5, 1.0, details={name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", *GROWING)})


def test_each_worker_has_a_gpu_of_its_own(gpus, tmp_path, monkeypatch):
    def of(workers, share=None):
        pool = ProcessPool(seen_gpu, workers, gpus=share)
        return [pool._of(name).get("CUDA_VISIBLE_DEVICES") for name in pool._pool]

    assert visible_gpus() == ["0", "1", "2"]
    assert of(3) == ["0", "1", "2"]
    assert of(5, 0.5) == ["0", "1", "2", "0", "1"]
    assert of(9, 0) == ["-1"] * 9
    for workers, share in ((4, None), (7, 0.5), (4, 0.7)):
        with pytest.raises(ValueError, match=f"Each worker needs a GPU.* Received: workers={workers} .* and 3 on this machine"):
            ProcessPool(seen_gpu, workers, gpus=share)
    with pytest.raises(ValueError, match=r"`gpus` \(--gpus\) must be 0 to 1 .* Received: gpus=2"):
        ProcessPool(seen_gpu, 1, gpus=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-8c,-1,0")
    assert visible_gpus() == ["2", "GPU-8c"]
    with Study.create(tmp_path / "s", meta_of(SPACE)) as study:
        go(study, SPACE, trials=1, executor=ProcessPool(seen_gpu, 1))
        assert study.measurements(0)[0].details == {"CUDA_VISIBLE_DEVICES": "2", **GROWING}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert of(4) == [None] * 4


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`workers` must be an integer >= 1. Received: workers=0"):
        ProcessPool(FakeEvaluator(), 0)
