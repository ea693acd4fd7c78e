"""`mnasnet search` as a user types it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from search_fakes import FakeEvaluator, go, meta_of, toy_space

from keras_mnasnet import MnasNet
from keras_mnasnet.data import write_folder
from keras_mnasnet.search.study import Study

ROOT = Path(__file__).parents[2]
SMALL = (
    "--data", "shapes:300@32", "--space", "search_fakes:tiny_networks", "--device", "madds", "--target-ms", "0.2",
    "--set", "epochs=1", "--set", "batch_size=32",
)  # fmt: skip


PATHS = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


@pytest.fixture
def search(mnasnet):
    return lambda *arguments: mnasnet("search", *arguments)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A real search of two networks, in a process of its own."""
    path = tmp_path_factory.mktemp("search") / "s.sqlite"
    command = [sys.executable, "-m", "keras_mnasnet.cli.main", "search", "run", "--study", str(path), *SMALL]
    found = subprocess.run(
        [*command, "--executor", "local", "--trials", "2", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=600,
        env=PATHS,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert "estimate: 2 trials of about" in found.stderr
    assert found.stderr.index("space ") < found.stderr.index("estimate: ")
    assert "2 of 2 done" in found.stderr
    assert "trials/h" in found.stderr
    assert 'MnasNet("tiny-' in found.stdout
    return path


@pytest.fixture
def toy(tmp_path):
    """A study that trained nothing, with the accuracies of a formula."""
    space = toy_space()
    with Study.create(tmp_path / "toy.sqlite", meta_of(space, space="search_fakes:toy_space")) as opened:
        go(opened, space, trials=12, evaluator=FakeEvaluator(how="error!", fails=5))
    return tmp_path / "toy.sqlite"


def test_status_says_what_a_trial_costs_beyond_its_steps(study, search):
    status, out, _ = search("status", "--study", study)
    assert status == 0
    assert "2 of 2 done" in out
    assert "fixed, beyond its training steps:" in out
    status, out, _ = search("status", "--study", study, "--json")
    value = json.loads(out)
    assert (value["done"], value["plan"]["trials"], value["owner"]) == (2, 2, None)
    assert value["fixed_seconds"] > 0
    assert set(value["phases"]) >= {"build", "trace", "training_steps", "validate"}


def test_the_same_command_goes_on_and_other_settings_are_refused(study, search):
    status, out, err = search("run", "--study", study, *SMALL, "--executor", "local", "--trials", 2, "--json")
    assert status == 0, err
    assert json.loads(out)["done"] == 2
    status, _, err = search("run", "--study", study)
    assert status == 1
    assert "error: A space of your own runs only when it is named" in err
    assert "add --space search_fakes:tiny_networks" in err
    own = ("--space", "search_fakes:tiny_networks")
    status, _, err = search("run", "--study", study, *own, "--target-ms", "9")
    assert status == 1
    assert "Received: reward={'target_ms': 9.0}" in err
    status, _, err = search("run", "--study", study, "--space", "paper")
    assert "goes on in the space it was begun in" in err
    status, out, _ = search("run", "--study", study, *own, "--trials", 6, "--estimate-only")
    assert "estimate: 4 trials of about" in out


def test_found_networks_build(study):
    with Study.open(study, read_only=True) as opened:
        trial = opened.trial(0)
    model = MnasNet(trial.architecture, input_shape=(32, 32, 3), classes=10, weights=None)
    assert model.count_params() > trial.params
    assert trial.latency_source == "madds"


def test_retrain_reports_on_images_nothing_was_chosen_by(study, tmp_path, search):
    options = ["--top", 1, "--recipe", "proxy-5-epochs", "--set", "epochs=1", "--set", "batch_size=32", "--json"]

    def retrain(*more):
        return search("retrain", "--study", study, "-o", tmp_path / "r", *options, "--data", "shapes:300@32", *more)

    status, out, err = retrain()
    assert status == 0, err
    (network,) = json.loads(out)["networks"]
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    assert results["tested_on"] == "the data's test split"
    assert results["networks"][0]["test_accuracy"] == network["test_accuracies"][0]
    (folder,) = network["runs"]
    assert os.path.isfile(os.path.join(folder, "model.safetensors"))
    assert json.loads(Path(folder, "run.json").read_text())["job"]["recipe"]["keep"] == "last"
    assert retrain()[0] == 0, "what is whole is left as it is"
    for more, said in (
        (("--set", "epochs=2"), "with epochs=1, not epochs=2. Repeat"),
        (("--data", "shapes:200@32"), "with data='shapes:300@32', not data='shapes:200@32'"),
        (
            ("--set", "patience=1"),
            "what chooses an epoch does not measure it. Received: recipe='proxy-5-epochs' with patience=1",
        ),
    ):
        status, _, err = retrain(*more)
        assert status == 1
        assert said in err
    assert json.loads((tmp_path / "r" / "results.json").read_text()) == results


def test_rescore_needs_no_training(toy, search):
    status, out, _ = search("rescore", "--study", toy, "--target-ms", 11, "--reward", "hard", "--top", 3, "--json")
    assert status == 0
    value = json.loads(out)
    for row in value["best"]:
        expected = row["accuracy"] * (1.0 if row["latency_ms"] <= 11 else 11 / row["latency_ms"])
        assert row["reward"] == pytest.approx(expected)
    assert [row["reward"] for row in value["best"]] == sorted((row["reward"] for row in value["best"]), reverse=True)
    status, _, err = search("rescore", "--study", toy, "--target-ms", 0.1)
    assert "must be at least the latency of the study's fastest network" in err


def test_status_of_a_study_that_a_script_made(toy, search):
    status, out, _ = search("status", "--study", toy)
    assert status == 0
    assert "9 of 12 done, 3 failed" in out


def test_export_for_optuna(toy, tmp_path, search):
    optuna = pytest.importorskip("optuna")
    status, out, err = search("export-optuna", "--study", toy, "-o", tmp_path / "o.db")
    assert status == 0, err
    assert "wrote 12 trials" in out
    loaded = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path / 'o.db'}")
    with Study.open(toy, read_only=True) as opened:
        trials = opened.trials()
    assert [t.params for t in loaded.trials] == [t.values for t in trials]
    assert [t.value for t in loaded.trials] == [t.reward for t in trials]
    assert [t.state.name for t in loaded.trials] == ["FAIL" if t.status == "failed" else "COMPLETE" for t in trials]
    assert set(loaded.trials[0].distributions) == set(trials[0].values)
    status, _, err = search("export-optuna", "--study", toy, "-o", tmp_path / "o.db")
    assert "needs a new file" in err
    assert search("export-optuna", "--study", toy, "-o", tmp_path / "p.db", "--objectives", "pareto")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--space", "mobile"),
            "The search spaces are paper, vertex, mbconv, cell, macro, accel-nasbench. Received: space='mobile'",
        ),
        (("--space", "nowhere:space"), "A space is a preset, or module:function"),
        (("--algorithm", "annealing"), "`algorithm` must be one of"),
        (("--device", "phone"), "A device must be host"),
        (("--reward", "harsh"), "A reward is soft, hard, absolute"),
        (("--recipe", "proxy-6-epochs"), "A recipe is one of"),
        (("--target-ms", "0.001"), "`target_ms` must be at least the latency of the fastest network of space 'tiny', "),
        (("--data", "nowhere"), "nowhere"),
        (("--trials", "0"), "`trials` and `workers` must be 1 or more"),
        (("--executor", "ray", "--ray-address", "127.0.0.1:9", "--json"), "must answer at its address"),
        (("--executor", "local", "--workers", "2", "--json"), "has one worker, this process"),
    ],
)
def test_bad_input_is_one_message(tmp_path, search, arguments, message):
    if "ray" in arguments:
        pytest.importorskip("ray")
    status, _, err = search("run", "--study", tmp_path / "new.sqlite", *SMALL, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 1
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir()), "no study is begun"


def test_the_fastest_network_is_named_and_builds(tmp_path, search):
    _, _, err = search("run", "--study", tmp_path / "n.sqlite", *SMALL, "--target-ms", "0.001")
    call = err[err.index('MnasNet("') + len('MnasNet("') :].split('"')[0]
    assert MnasNet(call, weights=None, input_shape=(32, 32, 3), classes=10).output_shape == (None, 10)


def test_data_with_one_class_and_no_target(tmp_path, search):
    write_folder(tmp_path / "photos", 20, size=32)
    _, *others = sorted((tmp_path / "photos").iterdir())
    for other in others:
        for image in other.iterdir():
            image.unlink()
        other.rmdir()
    options = [option if option != "shapes:300@32" else tmp_path / "photos" for option in SMALL]
    status, _, err = search("run", "--study", tmp_path / "n.sqlite", *options)
    assert status == 1
    assert "class" in err
    status, _, err = search("run", "--study", tmp_path / "n.sqlite", "--data", "shapes:300@32")
    assert "needs a latency target" in err


def test_a_newer_file_is_refused(toy, search):
    connection = sqlite3.connect(toy)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for step in ("status", "rescore", "run"):
        status, _, err = search(step, "--study", toy)
        assert status == 1
        assert "schema 99, of a newer keras_mnasnet" in err


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    path = tmp_path / "s.sqlite"
    command = [sys.executable, "-m", "keras_mnasnet.cli.main", "search", "run", "--study", str(path), *SMALL]
    process = subprocess.Popen(
        [*command, "--executor", "local", "--trials", "6"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=PATHS,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the suite runs in the background
    )
    line = ""
    for _ in range(1000):
        line = process.stderr.readline()
        if line.startswith("trial 0:"):
            break
    assert line.startswith("trial 0:")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    go_on = f"mnasnet search run --study {path} --space search_fakes:tiny_networks"
    assert f"stopped; everything finished is kept. Go on with: {go_on}" in err
    with Study.open(path, read_only=True) as study:
        assert study.count("done") >= 1
        assert study.owner() is None
