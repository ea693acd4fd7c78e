"""The study file: what it refuses, what it keeps when a disk is full, and who writes it."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from search_fakes import REWARD, FakeEvaluator, facts_of, go, meta_of, toy_space

from keras_mnasnet.search.executors import InProcess
from keras_mnasnet.search.study import SCHEMA, Study
from keras_mnasnet.search.trials import StudyMeta, Trial

TESTS = Path(__file__).parents[1]
SPACE = toy_space()


def test_what_is_written_is_read(tmp_path):
    with Study.create(tmp_path / "s.sqlite", meta_of(SPACE, seed=3)) as study:
        go(study, SPACE, trials=4)
        trials, meta = study.trials(), study.meta
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert [trial.told for trial in trials] == [0, 1, 2, 3]
    first = trials[0]
    assert first.values == SPACE.values(first.candidate)
    assert first.key == SPACE.key(first.candidate)
    assert first.accuracy == 0.5 + sum((i + 1) * v for i, v in enumerate(first.values.values())) / 100
    assert first.latency_ms == 5.0 + sum(first.values.values())
    assert first.reward == pytest.approx(first.accuracy * (first.latency_ms / 10) ** -0.07)
    assert (first.params, first.madds, first.seconds) == (100, 200, {"training_steps": 1.0, "build": 0.5})
    assert (first.status, first.attempts, first.worker, first.reason) == ("done", 1, "this process", None)
    with Study.open(tmp_path / "s.sqlite", read_only=True) as again:
        assert again.trials() == trials
        assert again.meta == meta
        assert again.state() is not None
        assert again.owner() is None
        assert [(m.trial, m.attempt) for m in again.measurements()] == [(0, 1), (1, 1), (2, 1), (3, 1)]
        assert again.measurements(2)[0].accuracy == trials[2].accuracy
        with pytest.raises(ValueError, match="opened to be read"), again.transaction():
            pass
        with pytest.raises(ValueError, match="A trial must be one of the study's 4. Received: number=9"):
            again.trial(9)


def test_a_finished_study_is_one_file_that_may_lie_where_nothing_can_be_written(tmp_path):
    with Study.create(tmp_path / "s.sqlite", meta_of(SPACE)) as study:
        go(study, SPACE, trials=2)
    assert os.listdir(tmp_path) == ["s.sqlite"]
    os.chmod(tmp_path / "s.sqlite", 0o444)
    with Study.open(tmp_path / "s.sqlite", read_only=True) as study:
        assert study.count("done") == 2


def test_a_transaction_is_kept_whole_or_not_at_all(tmp_path):
    with Study.create(tmp_path / "s.sqlite", meta_of(SPACE)) as study:
        trial = Trial(0, (0,) * 6, SPACE.values((0,) * 6), "key", "pending")

        def half():
            with study.transaction() as writer:
                writer.add(trial)
                writer.state(b"state")
                raise RuntimeError("midway")

        with pytest.raises(RuntimeError, match="midway"):
            half()
        assert study.count() == 0
        assert study.state() is None
        with study.transaction() as writer:
            writer.add(trial)
        with pytest.raises(ValueError, match="may ask for a network once"), study.transaction() as writer:
            writer.add(Trial(1, (0,) * 6, trial.values, "key", "pending"))


def test_a_full_disk_keeps_what_was_finished(tmp_path):
    path = tmp_path / "s.sqlite"
    with Study.create(path, meta_of(SPACE)) as study:
        pages = study._connection.execute("PRAGMA page_count").fetchone()[0]
        study._connection.execute(f"PRAGMA max_page_count = {pages + 3}")
        with pytest.raises(OSError, match="must be written to disk. Received: database or disk is full.*make room"):
            go(study, SPACE, trials=200)
        kept = study.count("done")
    assert 0 < kept < 200
    with Study.open(path) as study:
        go(study, SPACE, trials=60)
        resumed = facts_of(study)
    with Study.create(tmp_path / "whole.sqlite", meta_of(SPACE)) as study:
        go(study, SPACE, trials=60)
        assert facts_of(study) == resumed


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    path = tmp_path / "s.sqlite"
    with Study.create(path, meta_of(SPACE)):
        code = f"from keras_mnasnet.search.study import Study; Study.open({str(path)!r})"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert f"which process {os.getpid()} on" in found.stderr
        assert "is writing" in found.stderr
        with Study.open(path, read_only=True) as reader:
            assert reader.owner()["pid"] == os.getpid()
    Study.open(path).close()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="A study file must exist"):
        Study.open(tmp_path / "none.sqlite")
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(ValueError, match="must be a file of `mnasnet search run`"):
        Study.open(tmp_path / "text")
    sqlite3.connect(tmp_path / "other.sqlite").executescript("CREATE TABLE t (x);")
    with pytest.raises(ValueError, match="which is another SQLite file"):
        Study.open(tmp_path / "other.sqlite", read_only=True)
    with pytest.raises(ValueError, match="into an existing folder"):
        Study.create(tmp_path / "none" / "s.sqlite", meta_of(SPACE))
    Study.create(tmp_path / "s.sqlite", meta_of(SPACE)).close()
    with pytest.raises(ValueError, match="needs a new file"):
        Study.create(tmp_path / "s.sqlite", meta_of(SPACE))
    connection = sqlite3.connect(tmp_path / "s.sqlite")
    connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    connection.close()
    with pytest.raises(ValueError, match=f"schema must be {SCHEMA}. Received: .*schema {SCHEMA + 1}.*newer keras_mnasnet"):
        Study.open(tmp_path / "s.sqlite")


def test_a_study_of_something_else_is_refused(tmp_path):
    path = tmp_path / "s.sqlite"
    Study.create(path, meta_of(SPACE)).close()
    with pytest.raises(ValueError, match="goes on in the space it was begun in. Received: space other"):
        Study.at(path, meta_of(toy_space("other")))
    with pytest.raises(ValueError, match="Received: seed=1, .* has 0"):
        Study.at(path, meta_of(SPACE, seed=1))
    with pytest.raises(ValueError, match="Received: reward={'target_ms': 20.0}, .* has {'target_ms': 10.0}"):
        Study.at(path, meta_of(SPACE, reward={**REWARD.to_json(), "target_ms": 20.0}))
    Study.at(path, meta_of(SPACE)).close()
    with Study.open(path) as study, pytest.raises(ValueError, match="goes on in the space it was begun in"):
        go(study, toy_space(decisions=5), trials=2)


def test_a_released_study_file_stays_readable():
    """The file was written by schema 2; a later schema must still read it."""
    with Study.open(TESTS / "assets" / "study_schema2.sqlite", read_only=True) as study:
        assert study.meta.space == "toy"
        assert [trial.status for trial in study.trials()] == ["done", "failed", "done"]
        assert study.trials()[1].reason == "nan: the evaluator returned accuracy=nan"
        assert study.state().startswith(b"{")


def test_meta_is_plain_json(tmp_path):
    meta = StudyMeta(space="s", fingerprint="f", algorithm="a", reward=REWARD.to_json(), seed=0)
    with Study.create(tmp_path / "s.sqlite", meta) as study:
        stored = study._connection.execute("SELECT value FROM meta WHERE key = 'study'").fetchone()[0]
    assert json.loads(stored)["reward"]["target_ms"] == 10.0


def kills(tmp_path, *arguments):
    folder = tmp_path / "-".join(arguments)
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    run = subprocess.run(
        [sys.executable, str(TESTS / "search_kills.py"), str(folder), *arguments],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    ("algorithm", "order", "size", "commits", "signals", "more"),
    [
        ("random", "window", "3", 50, 50, ()), ("ppo", "batch", "5", 5, 3, ()), ("thompson", "window", "2", 10, 5, ()),
        ("thompson", "window", "3", 20, 5, ("all",)),
    ],
)  # fmt: skip
def test_a_killed_driver_goes_on_as_if_nothing_had_happened(tmp_path, algorithm, order, size, commits, signals, more):
    """os._exit at a random commit (before or after it), and SIGKILL at random moments: the same trials, the same state."""
    found = kills(tmp_path, algorithm, order, size, str(commits), str(signals), *more)
    assert (found["died"], found["equal"]) == (commits, commits)
    assert (found["killed"], found["same"], found["done"]) == (signals, True, found["trials"])


def test_the_fake_evaluator_is_deterministic(tmp_path):
    """What the comparisons of this file rest on."""
    for name in "ab":
        with Study.create(tmp_path / name, meta_of(SPACE)) as study:
            go(study, SPACE, trials=9, executor=InProcess(FakeEvaluator(how="nan", fails=3)))
    with Study.open(tmp_path / "a", read_only=True) as one, Study.open(tmp_path / "b", read_only=True) as other:
        assert facts_of(one) == facts_of(other)
