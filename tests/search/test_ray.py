"""A real Ray cluster of two nodes on 127.0.0.1: one of them is removed in the middle of a trial, and nothing is lost."""

import importlib.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from search_fakes import FakeEvaluator, go, meta_of, toy_space

from keras_mnasnet.search.executors import keeper
from keras_mnasnet.search.study import Study
from keras_mnasnet.search.trials import Order

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra [ray]")
TESTS = str(Path(__file__).parents[1])


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    import ray

    ray.shutdown()
    cluster.shutdown()


@needs_ray
def test_a_node_removed_in_the_middle_of_a_trial_loses_nothing(cluster, tmp_path):
    from keras_mnasnet.search.executors.ray import RayActors

    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    space, touched = toy_space(), tmp_path / "touched"
    touched.mkdir()
    evaluator = FakeEvaluator(seconds=1.0, folder=str(touched))
    executor = RayActors(
        evaluator, 2, address=cluster.address, runtime_env={"env_vars": {"PYTHONPATH": TESTS}}, start_seconds=60.0
    )
    removed = []

    def remove():
        while len({name.rpartition("-")[2] for name in os.listdir(touched)}) < 2:
            time.sleep(0.05)
        time.sleep(0.3)
        cluster.remove_node(node, allow_graceful=False)
        removed.append(time.time())

    thread = threading.Thread(target=remove)
    thread.start()
    with Study.create(tmp_path / "study.sqlite", meta_of(space)) as study:
        assert go(study, space, trials=8, order=Order("completion", 2), executor=executor)
        thread.join()
        trials = study.trials()
        assert [trial.status for trial in trials] == ["done"] * 8
        assert [trial.number for trial in trials] == list(range(8))
        lost = [m for m in study.measurements() if m.failure]
        assert removed
        assert [m.failure.kind for m in lost] == ["lost"]
        assert study.trial(lost[0].trial).attempts == 2
        assert study.trial(lost[0].trial).started > removed[0] - 1


@needs_ray
def test_an_address_without_a_cluster_is_refused():
    from keras_mnasnet.search.executors.ray import RayActors

    with pytest.raises(OSError, match="must answer at its address. Received: 127.0.0.1:9"):
        RayActors(FakeEvaluator(), 1, address="127.0.0.1:9")
    with pytest.raises(ValueError, match="A Ray address is auto"):
        RayActors(FakeEvaluator(), 1, address="nowhere")


class Cluster:
    """What RayActors asks of Ray, of a cluster with some GPUs."""

    def __init__(self, gpus):
        self.gpus, self.asked = gpus, []
        self.is_initialized, self.put, self.kill = lambda: True, lambda value: value, lambda actor: None

    def cluster_resources(self):
        return {"CPU": 8.0, **({"GPU": self.gpus} if self.gpus else {})}

    def remote(self, kind):
        return self

    node = property(lambda self: SimpleNamespace(remote=lambda: None))

    def options(self, **options):
        self.asked.append(options["num_gpus"])
        return SimpleNamespace(remote=lambda evaluator: self)


def test_gpus_are_asked_for_where_there_are_any(monkeypatch):
    from keras_mnasnet.search.executors import ray

    def asked(there, workers, gpus=None):
        cluster = Cluster(there)
        monkeypatch.setattr(ray, "_ray", lambda: cluster)
        ray.RayActors(FakeEvaluator(), workers, gpus=gpus).close()
        return cluster.asked

    assert [asked(0.0, 9), asked(2.0, 2), asked(2.0, 4, 0.5), asked(2.0, 9, 0)] == [[0.0], [1.0], [0.5], [0]]
    assert asked(2.0, 5, 1) == [1], "what is asked for in words may come later, as in a cluster that grows"
    with pytest.raises(ValueError, match="workers=3 with 1 of one, and 2 on the cluster"):
        asked(2.0, 3)


DRIVER = """
import contextlib, subprocess, sys
from keras_mnasnet.search.executors.ray import _kept
sleeper = "import os, subprocess, sys; os.setsid(); subprocess.run(['sleep', '300'])"
ends = contextlib.ExitStack()
with _kept(ends):
    servers = [subprocess.Popen([sys.executable, "-S", "-c", sleeper]) for _ in range(2)]
other = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
print("begun", flush=True)
if input() == "close":
    ends.close()
    print(*[server.wait(10) for server in servers], other.poll(), flush=True)
    input()
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("how", ["close", "kill"])
def test_what_was_begun_ends_with_the_driver(how, tmp_path):
    """Servers and what they start, in sessions of their own; not what the driver starts otherwise."""
    mark = f"DRIVEN={tmp_path}"
    environment = {**os.environ, "DRIVEN": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as driver:
        assert driver.stdout.readline() == "begun\n"
        deadline = time.monotonic() + 20
        while len(keeper.marked(mark)) < 7 and time.monotonic() < deadline:  # driver, keeper, 2 servers, 2 of theirs, other
            time.sleep(0.02)
        assert len(keeper.marked(mark)) == 7
        if how == "close":
            driver.stdin.write("close\n")
            driver.stdin.flush()
            assert driver.stdout.readline() == "-9 -9 None\n"
            driver.stdin.write("\n")
        else:
            driver.kill()
    deadline = time.monotonic() + 20
    while keeper.marked(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert keeper.marked(mark) == []
