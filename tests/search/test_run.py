"""`search.run` and what is asked of a study afterwards, from Python."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from search_fakes import REWARD, FakeEvaluator, facts_of, tiny_networks, toy_space

from keras_mnasnet import search
from keras_mnasnet.search.progress import Figures, estimate_from
from keras_mnasnet.search.study import Study
from keras_mnasnet.search.trials import Order, Trial

TESTS = Path(__file__).parents[1]
SPACE = toy_space()


def run(path, **options):
    values = {
        "study": path, "space": SPACE, "reward": REWARD, "evaluator": FakeEvaluator(), "executor": "local", "trials": 6,
        "algorithm": "evolution", "progress": False,
    }  # fmt: skip
    return search.run(**{**values, **options})


def test_progress_after_every_trial(tmp_path):
    found = list(run(tmp_path / "s"))
    assert [each.trial.number for each in found] == list(range(6))
    assert [each.done for each in found] == list(range(1, 7))
    assert [each.finished for each in found] == [False] * 5 + [True]
    last = found[-1]
    assert last.best.reward == max(each.trial.reward for each in found)
    assert "6 of 6 done" in last.line()
    assert last.to_json()["best"]["number"] == last.best.number


def test_a_search_that_is_left_goes_on_as_if_it_had_not_been(tmp_path):
    list(run(tmp_path / "whole", trials=12))
    for progress in run(tmp_path / "parts", trials=12):
        if progress.done == 5:
            break
    assert search.status(tmp_path / "parts").progress.done == 5
    assert not list(tmp_path.glob(".*lock")), "a generator that is left gives the file up"
    assert len(list(run(tmp_path / "parts", trials=12))) == 7
    assert list(run(tmp_path / "parts", trials=12)) == [], "nothing is left to do"
    with Study.open(tmp_path / "whole", read_only=True) as one, Study.open(tmp_path / "parts", read_only=True) as other:
        assert facts_of(one) == facts_of(other)


def test_a_study_goes_on_with_its_own_settings(tmp_path):
    list(run(tmp_path / "s", workers=1, seed=3))
    again = list(search.run(study=tmp_path / "s", space=SPACE, evaluator=FakeEvaluator(), trials=8, progress=False))
    assert [each.trial.number for each in again] == [6, 7]
    for changes, message in (
        ({"seed": 4}, "Received: seed=4, .* has 3"),
        ({"target_ms": 20}, r"Received: reward=\{'target_ms': 20.0\}"),
        ({"algorithm": "random"}, "Received: algorithm='random'"),
        ({"space": toy_space("other")}, "goes on in the space it was begun in"),
    ):
        with pytest.raises(ValueError, match=message):
            search.run(**{"study": tmp_path / "s", "space": SPACE, "evaluator": FakeEvaluator(), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "`trials` and `workers` must be 1 or more. Received: trials=0"),
        ({"workers": 2}, "The executor local has one worker, this process. Received: workers=2. `pool`"),
        (
            {"executor": "pool", "gpus": 1, "workers": 2},
            "Each worker needs a GPU.* workers=2 with 1 of one, and 0 on this",
        ),
        ({"executor": "inline"}, "`executor` must be one of local, pool, ray. Received: executor='inline'"),
        ({"order": "soon"}, "`kind` must be one of"),
        ({"algorithm_options": {"size": 3}}, "The options of 'evolution' are"),
        ({"space": "mobile"}, "The search spaces are"),
        ({"evaluator": None}, "A search needs images to train on. Received: data=None"),
        ({"reward": "soft"}, "needs a latency target"),
        ({"space": tiny_networks(), "device": "madds", "target_ms": 1e-9}, "at least the latency of the fastest network"),
    ],
)
def test_what_cannot_be_searched_is_said_at_once_and_leaves_no_file(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "s", **changes)
    assert not list(tmp_path.iterdir())


def test_a_search_that_fails_before_its_first_trial_leaves_no_file(tmp_path):
    with pytest.raises(ImportError if not _has_ray() else OSError):
        list(run(tmp_path / "s", executor="ray", ray_address="127.0.0.1:9"))
    assert not list(tmp_path.iterdir())


def _has_ray():
    import importlib.util

    return importlib.util.find_spec("ray") is not None


def test_the_header_comes_first_and_trials_are_told(tmp_path, capfd):
    trials = run(tmp_path / "s", progress=True, trials=2)
    said = capfd.readouterr().err
    for line in (
        "space      toy: 729 networks", "reward     soft(-0.07, -0.07) at 10 ms", "algorithm  evolution, seed 0",
        "trials     2; order window of 1", "workers    1, local", f"study      {tmp_path / 's'}, which is begun",
    ):  # fmt: skip
        assert line in said
    assert not (tmp_path / "s").exists(), "nothing is begun before the first trial is asked for"
    list(trials)
    told = capfd.readouterr().err
    assert "trial 1: " in told
    assert "2 of 2 done" in told


def test_the_data_is_described_before_the_estimate(tmp_path, capfd):
    options = {"evaluator": None, "space": tiny_networks(), "device": "madds", "reward": None, "algorithm": None}
    (found,) = run(
        tmp_path / "s", data="shapes:300@32", target_ms=0.2, recipe="proxy-5-epochs epochs=1 batch_size=32", progress=True,
        size=32, estimate="only", **options,
    )  # fmt: skip
    said = capfd.readouterr().err
    assert "data       shapes:300@32: 10 classes; " in said
    assert " of the same split to choose by, " in said
    assert "for retrain (the data's test split)" in said
    assert "recipe     proxy-5-epochs" in said
    assert said.index("recipe ") < said.index("estimate, by some steps") if "estimate, by" in said else True
    assert "6 trials of about" in found.estimate
    assert not (tmp_path / "s").exists()


def test_the_order_suits_the_workers_and_is_kept(tmp_path):
    def planned(**options):
        next(iter(run(tmp_path / "s", executor="pool", **options)))
        return search.status(tmp_path / "s").plan["order"]

    assert planned(workers=2) == {"kind": "window", "size": 4}
    assert planned() == {"kind": "window", "size": 4}
    assert planned(order="completion") == {"kind": "completion", "size": 2}
    assert planned(batch=3) == {"kind": "completion", "size": 3}


def test_time_left_knows_that_workers_wait(tmp_path):
    figures = Figures([Trial(n, status="done", accuracy=0.5, started=1.0 + n, finished=11.0 + n) for n in range(9)])
    found = figures.progress(planned=109, workers=8, order=Order("batch", 10))
    assert found.utilization == pytest.approx(10 / 16), "ten of equal length take two rounds of eight"
    assert found.hours_left == pytest.approx(100 * 10 / 8 / (10 / 16) / 3600)
    assert found.trials_per_hour == pytest.approx(8 * 360 * 10 / 16)
    said = estimate_from(found, trials=109, workers=8)
    assert said == "100 trials of about 10 s on 8 workers, which have a trial 62% of the time: about 3 min"


def test_other_scores_of_the_same_trials(tmp_path):
    list(run(tmp_path / "s"))
    found = search.rescore(tmp_path / "s", reward="hard", target_ms=9)
    assert [value for value, _ in found.ranked] == sorted((value for value, _ in found.ranked), reverse=True)
    assert found.own == REWARD
    for value, trial in found.ranked:
        assert value == pytest.approx(trial.accuracy * min(1.0, 9 / trial.latency_ms))
    within = [trial for _, trial in found.ranked if trial.latency_ms <= 9]
    assert found.at_target == max(within, key=lambda trial: trial.accuracy, default=None)
    near = sum(9 / 1.2 <= trial.latency_ms <= 9 * 1.2 for _, trial in found.ranked)
    assert found.warning.startswith(f"{near} of the 6 networks are within a fifth of 9 ms"), "fewer than five are"
    assert found.to_json(top=2)["best"][0]["reward"] == found.ranked[0][0]
    with pytest.raises(ValueError, match="`target_ms` must be at least the latency of the study's fastest network"):
        search.rescore(tmp_path / "s", target_ms=0.1)
    status = search.status(tmp_path / "s")
    assert (status.meta.space, status.owner, status.plan["executor"]) == ("toy", None, "local")
    assert status.to_json()["done"] == 6


def test_names_are_lazy():
    code = (
        "import sys, keras_mnasnet.search as s; assert 'numpy' not in sys.modules; s.Reward; "
        "assert not {'tensorflow', 'keras'} & set(sys.modules); assert {'run', 'status', 'report'} <= set(dir(s))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_script_needs_no_guard(tmp_path):
    """Worker processes start afresh; they do not run the script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from search_fakes import REWARD, FakeEvaluator, toy_space\n"
        "from keras_mnasnet import search\n"
        "print('started')\n"
        f"for progress in search.run(study={str(tmp_path / 's')!r}, space=toy_space(), reward=REWARD, trials=3,\n"
        "        evaluator=FakeEvaluator(), progress=False):\n"
        "    print(progress.done)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["started", "1", "2", "3"]


def test_progress_is_a_value(tmp_path):
    first = next(iter(run(tmp_path / "s")))
    assert dataclasses.replace(first, estimate="soon").estimate == "soon"
