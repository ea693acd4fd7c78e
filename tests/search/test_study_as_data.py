"""A study's file is data: nothing of it runs, and whatever it holds ends in a result or in one error that names the field."""

import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from search_fakes import REWARD, FakeEvaluator, facts_of, go, meta_of, toy_space

from keras_mnasnet import search
from keras_mnasnet.search.algorithms import ALGORITHMS
from keras_mnasnet.search.reporting import gather
from keras_mnasnet.search.study import TABLES, Study
from keras_mnasnet.search.trials import Order
from keras_mnasnet.utils.locks import BusyError

TESTS = Path(__file__).parents[1]
CASES = Path(os.environ.get("KERAS_MNASNET_CASES", "none"))
SPACE = toy_space()
DEEP = json.loads("[" * 40 + "]" * 40)
OTHERS = (None, "other", -7, 10**30, 1e308, True, [], {"a": [1]}, DEEP)  # of JSON
CELLS = (None, b"\xff\x00", "other", -7, 2**62, 9e999, "{", "[" * 100_000, '{"a":' * 30 + "1" + "}" * 30)  # of columns


def run(path, **options):
    values = {"study": path, "space": SPACE, "evaluator": FakeEvaluator(), "executor": "local", "progress": False}
    return list(search.run(**{**values, **options}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three trials of a finished search, the second one failed."""
    path = tmp_path_factory.mktemp("study") / "whole.study"
    evaluator = FakeEvaluator(how="nan!", fails=2)
    run(path, reward=REWARD, algorithm="evolution", trials=4, evaluator=evaluator)
    return path


@contextlib.contextmanager
def opened(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        yield connection
        connection.commit()


def changed(path, change):
    """The study's `meta` with a change."""
    with opened(path) as connection:
        meta = json.loads(connection.execute("SELECT value FROM meta WHERE key = 'study'").fetchone()[0])
        change(meta)
        connection.execute("UPDATE meta SET value = ? WHERE key = 'study'", (json.dumps(meta),))
    return path


def used(path):
    """What a study is asked for and driven with; the messages of what is refused."""
    said = []
    for use in (
        lambda: search.status(path).to_json(), lambda: search.rescore(path).to_json(), lambda: reported(path),
        lambda: run(path, trials=5),
    ):  # fmt: skip
        try:
            use()
        except (ValueError, OSError) as error:
            said.append(str(error))
    assert all("Received" in each for each in said), said
    return said


def reported(path):
    with Study.open(path, read_only=True) as study:
        gather(study, landmarks="latency").to_json()


# nothing runs


@pytest.fixture
def hostile(whole, tmp_path):
    """A study that says that its space is made by `os.system`."""
    path = shutil.copy(whole, tmp_path / "hostile.study")
    ran = tmp_path / "ran"
    return changed(path, lambda meta: meta.update(space="os:system", space_options={"command": f"touch {ran}"})), ran


def test_a_study_that_names_a_function_runs_nothing(hostile, tmp_path):
    path, ran = hostile
    with pytest.raises(
        ValueError, match="runs only when it is named.*Received: a study of space 'os:system'.*--space os:system"
    ):
        run(path, space=None)
    with pytest.raises(ValueError, match="called with the options that are named.*the study has {'command'.*--space-set"):
        run(path, space="os:system")
    with pytest.raises(ValueError, match="goes on in the space it was begun in. Received: space 'mbconv'.*'os:system'"):
        run(path, space="mbconv")
    assert search.status(path).progress.done == 2
    assert len(search.rescore(path).ranked) == 2
    reported(path)
    assert not ran.exists()


def test_an_export_needs_no_space(hostile, tmp_path):
    optuna = pytest.importorskip("optuna")
    path, ran = hostile
    assert search.export_optuna(path, tmp_path / "o.db", name="toy") == 4
    loaded = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path / 'o.db'}")
    assert loaded.trials[1].params == Study.open(path, read_only=True).trial(1).values
    assert loaded.trials[1].distributions["d0"].choices == (0, 1, 2)
    assert not ran.exists()
    with opened(path) as connection:
        connection.execute('UPDATE trials SET "values" = ?', ('{"d0": 1}',))
    with pytest.raises(ValueError, match="must have a value for each decision of its study.*of trial 0 of"):
        search.export_optuna(path, tmp_path / "p.db")


def test_a_space_of_ones_own_goes_on_where_it_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TESTS))
    own, options = "search_fakes:toy_space", {"decisions": 4}
    run(tmp_path / "s", space=own, space_options=options, reward=REWARD, trials=2)
    assert len(run(tmp_path / "s", space=own, space_options=options, trials=3)) == 1
    with pytest.raises(ValueError, match="Add --space-set"):
        run(tmp_path / "s", space=own, trials=4)
    with pytest.raises(ValueError, match="add --space search_fakes:toy_space"):
        run(tmp_path / "s", space=None, trials=4)
    with pytest.raises(ValueError, match="must take its options. Received: {'x': 1}"):
        run(tmp_path / "t", space=own, space_options={"x": 1}, reward=REWARD)


def test_a_cluster_and_a_phones_program_are_named_too(whole, tmp_path):
    path = shutil.copy(whole, tmp_path / "s")
    with Study.open(path) as study, study.transaction() as writer:
        writer.plan({"trials": 5, "workers": 2, "executor": "ray", "ray_address": "ray://elsewhere:10001"})
    with pytest.raises(ValueError, match="used only when it is named.*ran at 'ray://elsewhere:10001'.*add --ray-address"):
        run(path, executor=None)
    changed(path, lambda meta: meta["evaluation"].update(device_options={"benchmark_model": "./mine"}))
    with pytest.raises(ValueError, match="A program runs on a phone only when it is named.*--benchmark-model ./mine"):
        run(path)
    changed(path, lambda meta: meta.update(device="adb"))
    with opened(path) as connection:
        connection.execute("UPDATE trials SET architecture = 'stem8 r1_k3_s11_e1_i8_o8_noskip head16'")
    with Study.open(path, read_only=True) as study:
        assert "a report does not run" in gather(study).landmark_note


# whatever it holds


def test_every_field_of_what_a_study_is_about(whole, tmp_path):
    """Each field as something else: a result, or an error that names study, table and field."""
    with contextlib.closing(sqlite3.connect(whole)) as connection:
        rows = dict(connection.execute("SELECT key, value FROM meta"))
    tried = refused = 0
    for key, text in rows.items():
        for path in paths(json.loads(text)):
            for other in OTHERS:
                value = json.loads(text)
                place = value
                for step in path[:-1]:
                    place = place[step]
                place[path[-1]] = other
                copy = shutil.copy(whole, tmp_path / "s")
                with opened(copy) as connection:
                    connection.execute("UPDATE meta SET value = ? WHERE key = ?", (json.dumps(value), key))
                said = used(copy)
                tried, refused = tried + 1, refused + bool(said)
                if path == ("seed",) and other == "other":
                    assert f"Row study of table meta of the study {copy} must have the fields of its schema. " in said[0]
                    assert "$.seed" in said[0]
    assert tried > 200
    assert refused > tried / 2


def paths(value, path=()):
    """Those of every field; the machine's and the decisions' are alike, so one each is enough."""
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ():
        if path != ("environment",) or key == "processor":
            yield from paths(item, (*path, key))


@pytest.mark.parametrize("table", ["trials", "measurements", "state"])
def test_every_column(whole, tmp_path, table):
    with contextlib.closing(sqlite3.connect(whole)) as connection:
        names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    tried = refused = 0
    for name in names:
        for other in CELLS:
            copy = shutil.copy(whole, tmp_path / "s")
            with opened(copy) as connection, contextlib.suppress(sqlite3.IntegrityError, sqlite3.OperationalError):
                connection.execute(f'UPDATE {table} SET "{name}" = ? WHERE rowid = 1', (other,))
            said = used(copy)
            assert all(str(copy) in each for each in said), said
            tried, refused = tried + 1, refused + bool(said)
            if (table, name, other) == ("trials", "key", b"\xff\x00"):
                assert f"Row 1 of table trials of the study {copy} must have" in said[0]
                assert "$.key" in said[0]
    assert tried == len(CELLS) * len(names)
    assert refused >= len(names) * (1 if table != "state" else 0)


def test_damaged_files(whole, tmp_path):
    """Cut off and with flipped bits: each use gives a result or one error."""
    content = whole.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [content[:size] for size in (1, 15, 16, 99, 100, 1000, 4096, 5000, 8192, len(content) - 1)]
    for _ in range(40):
        copy = bytearray(content)
        for _ in range(3):
            copy[int(rng.integers(len(copy)))] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(copy))
    refused = 0
    for each in damaged:
        (tmp_path / "s").write_bytes(each)
        refused += bool(used(tmp_path / "s"))
        for beside in tmp_path.iterdir():
            beside.unlink()
    assert refused >= 10


def test_files_that_are_no_study(whole, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("empty", "Received: .*empty, which is empty"), ("folder", "must be a regular file. Received: .*folder"),
        ("pipe", "must be a regular file. Received: .*pipe"),
    ):  # fmt: skip
        for read_only in (True, False):
            with pytest.raises(ValueError, match=message):
                Study.open(tmp_path / name, read_only=read_only)
    for number, statement in enumerate((
        "CREATE TRIGGER t AFTER INSERT ON meta BEGIN DELETE FROM trials; END",
        "CREATE VIEW v AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
        "ALTER TABLE trials ADD COLUMN more",
    )):  # fmt: skip
        copy = shutil.copy(whole, tmp_path / f"{number}.study")
        with opened(copy) as connection:
            connection.execute(statement)
        for read_only in (True, False):
            with pytest.raises(ValueError, match="must have the tables of a study, and no other ones. Received: "):
                Study.open(copy, read_only=read_only)
    with contextlib.closing(sqlite3.connect(tmp_path / "older.study")) as connection:
        connection.executescript(f"PRAGMA application_id = {0x4D4E4153}; PRAGMA user_version = 1; {TABLES}")
    with pytest.raises(ValueError, match="with schema 1, of an older keras_mnasnet"):
        Study.open(tmp_path / "older.study")


@pytest.mark.skipif(not CASES.is_dir(), reason="KERAS_MNASNET_CASES is not set")
def test_the_cases(tmp_path):
    with pytest.raises(ValueError, match="which is empty"):
        search.status(next((CASES / "34_empty_study").iterdir()))
    (found,) = (CASES / "hostile").rglob("corrupt_43.study")
    assert used(Path(shutil.copy(found, tmp_path / "s")))


# one driver


def test_a_study_that_was_broken_off_is_gone_on_with_under_its_own_name(tmp_path):
    """SQLite's log lies beside the name that was used; under another one the last trials would be lost."""
    code = (
        "import os; from search_fakes import *; from keras_mnasnet.search.study import Study; space = toy_space()\n"
        f"study = Study.create({str(tmp_path / 's')!r}, meta_of(space)); go(study, space, trials=5); os._exit(9)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 9
    os.link(tmp_path / "s", tmp_path / "hard")
    for read_only in (True, False):
        with pytest.raises(ValueError, match="must be named as it is driven. Received: .*hard, a hard link"):
            Study.open(tmp_path / "hard", read_only=read_only)
    with Study.open(tmp_path / "s") as study:
        assert study.count("done") == 5
    with Study.open(tmp_path / "hard", read_only=True) as study:
        assert study.count("done") == 5


def test_a_study_is_driven_under_one_of_its_names(tmp_path):
    path = tmp_path / "s"
    (tmp_path / "elsewhere").mkdir()
    run(path, reward=REWARD, trials=1)
    with Study.open(path):
        (tmp_path / "soft").symlink_to(path)
        os.link(path, tmp_path / "elsewhere" / "hard")
        for name in (path, tmp_path / "soft", tmp_path / "elsewhere" / "hard"):
            with pytest.raises(BusyError, match=f"which process {os.getpid()} .*is writing.*search status"):
                Study.open(name)
            with pytest.raises((BusyError, ValueError), match="is writing|must be named as it is driven.*a hard link to it"):
                run(name, trials=3)
    with Study.open(tmp_path / "elsewhere" / "hard") as study:
        assert study.count() == 1
    with Study.open(tmp_path / "soft") as study:
        assert study.count() == 1
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "s", "soft"]


# what a trial costs


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
@pytest.mark.parametrize("order", [Order("window", 3), Order("batch", 5), Order("completion", 2)])
def test_a_resumed_study_is_the_uninterrupted_one(tmp_path, algorithm, order):
    """Left after every few trials, with failures, and made again from the file each time."""
    evaluator = FakeEvaluator(how="nan!", fails=7)
    options = {"algorithm": algorithm, "order": order, "evaluator": evaluator}
    with Study.create(tmp_path / "whole", meta_of(SPACE, algorithm)) as study:
        go(study, SPACE, trials=45, **options)
        expected = facts_of(study)
    for seconds in (0.02, 0.05, 0.1, 0.03, 0.2, None):
        with Study.at(tmp_path / "parts", meta_of(SPACE, algorithm)) as study:
            go(study, SPACE, trials=45, seconds=seconds, **options)
    with Study.open(tmp_path / "parts", read_only=True) as study:
        assert facts_of(study) == expected


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_what_is_written_for_a_trial_does_not_grow(tmp_path, algorithm):
    with Study.create(tmp_path / "s", meta_of(SPACE, algorithm)) as study:
        go(study, SPACE, trials=20, algorithm=algorithm, order=Order("batch", 20))
        first = len(study.state())
        go(study, SPACE, trials=200, algorithm=algorithm, order=Order("batch", 20))
        assert len(study.state()) < 1.02 * first + 100
        assert (tmp_path / "s").stat().st_size < 200 * 1500 + 2.2 * len(study.state()) + 50_000


def test_figures_are_kept_up_as_they_would_be_counted(tmp_path):
    found = run(tmp_path / "s", reward=REWARD, trials=60, evaluator=FakeEvaluator(how="nan!", fails=9), algorithm="random")
    with Study.open(tmp_path / "s", read_only=True) as study:
        trials = study.trials()
    for place in (0, 1, 10, 41, 59):
        known = [trial for trial in trials if trial.number <= found[place].trial.number]
        done = [trial for trial in known if trial.status == "done"]
        now = found[place]
        assert (now.done, now.failed) == (len(done), len(known) - len(done))
        assert now.front == len(search.pareto_front([(trial.accuracy, trial.latency_ms) for trial in done]))
        assert now.best == max(done, key=lambda trial: (trial.reward, -trial.number), default=None)
        if done:
            assert now.fixed_seconds == pytest.approx(0.5)
            assert now.phases == pytest.approx({"training_steps": 1.0, "build": 0.5})
    last = search.status(tmp_path / "s").progress
    assert dataclasses.replace(found[-1], trial=None) == last


# what surrounds it


def test_an_export_onto_a_full_disk_is_one_line(whole, tmp_path):
    pytest.importorskip("optuna")
    code = (
        "import resource, signal, sys; from keras_mnasnet.cli.main import main; import optuna, sqlalchemy\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        f"sys.exit(main(['search', 'export-optuna', '--study', {str(whole)!r}, '-o', {str(tmp_path / 'o.db')!r}]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 1, found.stderr
    assert found.stderr.startswith("error: An export must be written to disk. Received: ")
    assert found.stderr.count("\n") == 1
    assert str(tmp_path / "o.db") in found.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [RuntimeError("the node died\nwith a log"), SystemExit(1), TimeoutError("no answer"), ConnectionError("refused")]
)
def test_a_ray_that_cannot_start_is_one_line(error):
    from keras_mnasnet.search.executors.ray import _connect

    class Ray:
        @staticmethod
        def init(**_):
            raise error

    with pytest.raises(OSError, match=f"Ray.* must (start on this machine|run for).*Received: .*{str(error).splitlines()[0]}"):
        _connect(Ray, None, {})
