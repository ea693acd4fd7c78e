"""NAS-Bench-Macro's table, and the benchmark of the algorithms on it, scaled down."""

import importlib.util
import statistics
from pathlib import Path

import pytest

from keras_mnasnet.search.macro import MacroTable
from keras_mnasnet.search.networks import macro_canonical
from keras_mnasnet.search.rewards import parse_reward

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "run_search.py"


@pytest.fixture
def path(data):
    return data / "nas-bench-macro" / "nas-bench-macro_cifar10.json"


@pytest.fixture
def benchmark():
    spec = importlib.util.spec_from_file_location("run_search", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table(path):
    """The reference's figures: best mean 93.127 at 22212202, the seventh 93.057, 3,969 networks, median 55.4 MFLOPs."""
    table = MacroTable.read(path)
    assert len(table.runs) == 6_561
    assert len({macro_canonical(candidate) for candidate in table.runs}) == 3_969
    accuracy = table.truth(parse_reward("accuracy", None))
    best = max(accuracy, key=accuracy.get)
    assert macro_canonical(best) == macro_canonical((2, 2, 2, 1, 2, 2, 0, 2))
    assert 100 * accuracy[best] == pytest.approx(93.127, abs=5e-4)
    assert 100 * sorted(accuracy.values())[-7] == pytest.approx(93.057, abs=5e-4)
    assert table.median_mflops() == pytest.approx(55.4, abs=0.05)
    assert macro_canonical(best) in table.best(parse_reward("accuracy", None))
    assert {table.trained(best, seed) for seed in range(20)} == set(table.runs[best]), "every run is drawn for some seed"
    assert table.trained(best, 3) == table.trained(best, 3)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"00000000": {"test_acc": [90, 91, 92], "flops": 1, "params": 2}}')
    with pytest.raises(ValueError, match="has 6,561 networks. Received: 1 in"):
        MacroTable.read(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"00000000": {"flops": 1}}')
    with pytest.raises(ValueError, match="is read from nas-bench-macro_cifar10.json. Received: .*b.json"):
        MacroTable.read(tmp_path / "b.json")
    with pytest.raises(ValueError, match="is read from nas-bench-macro_cifar10.json. Received: .*none"):
        MacroTable.read(tmp_path / "none")


@pytest.mark.parametrize("objective", ["accuracy", "soft", "hard"])
def test_thompson_needs_few_trainings(path, benchmark, objective):
    """Nine seeds of the benchmark's fifty: the median is within its target for fifty with some room, and all are below 100."""
    trainings = [benchmark.reach(str(path), "thompson", objective, seed)[0] for seed in range(9)]
    assert statistics.median(trainings) <= 60
    assert max(trainings) <= 100


def test_the_others_take_longer(path, benchmark):
    """One seed each: what they return is a count of different networks, and the controller's draws are at least as many."""
    for name in ("evolution", "random", "ppo tuned"):
        trainings, draws = benchmark.reach(str(path), name, "hard", 1)
        assert 1 <= trainings <= draws <= benchmark.SEARCHES[name][2] + 1
