"""Rungs and inheritance in the driver: who goes on, what is kept of trainings, and that a resumed search is the same."""

import dataclasses

import pytest
from search_fakes import REWARD, Climber, facts_of, go, make, meta_of, observed, toy_space

from keras_mnasnet import search
from keras_mnasnet.search.engine import StudyStopped, drive
from keras_mnasnet.search.executors import InProcess
from keras_mnasnet.search.progress import Figures
from keras_mnasnet.search.rungs import Ladder, Rungs, States, parse_rungs
from keras_mnasnet.search.study import Study
from keras_mnasnet.search.trials import Observation, Order, Trial, highest

SPACE = toy_space()
RUNGS = Rungs((0.2, 0.4, 1.0))


def climb(path, *, trials=12, algorithm="thompson", evaluator=None, order=None, **options):
    options = {"rungs": RUNGS, **options}
    with Study.at(path, meta_of(SPACE, algorithm)) as study:
        go(
            study, SPACE, trials=trials, algorithm=algorithm, evaluator=evaluator or Climber(),
            order=order or Order("window", 2), **options,
        )  # fmt: skip
        return study.trials(), facts_of(study)


@pytest.mark.parametrize(
    ("text", "keep", "epochs", "shares"),
    [
        ("1,2,5", "1/3", 5, (0.2, 0.4, 1.0)), ("0.2,1", None, None, (0.2, 1.0)), ([1, 3], 0.25, 3, (1 / 3, 1.0)),
        ("0.5, 1", "0.5", 7, (0.5, 1.0)),
    ],
)  # fmt: skip
def test_rungs_are_epochs_or_shares(text, keep, epochs, shares):
    found = parse_rungs(text, keep, epochs)
    assert found.shares == pytest.approx(shares)
    assert found.keep == pytest.approx(eval(keep) if isinstance(keep, str) else keep or 1 / 3)


@pytest.mark.parametrize(
    ("text", "keep", "message"),
    [
        ("1,2", None, "`rungs` must be 2 to 20 rising .* Received: rungs of 0.2, 0.4 of the recipe"), ("5", None, "rising"),
        ("2,1,5", None, "rising"), ("0,1", None, "rising"), ("", None, "numbers with commas"), ("1,x", None, "numbers with"),
        ("nan,1", None, "rising"), ("1,5", "2", "`keep` must be a share above 0"), ("1,5", "1/0", "Received: rungs"),
    ],
)  # fmt: skip
def test_other_rungs_are_refused(text, keep, message):
    with pytest.raises(ValueError, match=message):
        parse_rungs(text, keep, 5)


def test_the_best_third_goes_on_as_soon_as_it_is_known():
    ladder = Ladder(Rungs((0.1, 0.3, 1.0)))
    ladder.add(0, 0, 0.5)
    ladder.add(1, 0, 0.7)
    assert ladder.promote() is None, "of two nobody is the best third"
    ladder.add(2, 0, None)
    assert ladder.promote() == (1, 1)
    assert ladder.promote() is None
    for number, reward in ((3, 0.6), (4, 0.9), (5, 0.1)):
        ladder.add(number, 0, reward)
    assert ladder.promote() == (4, 1)
    assert ladder.promote() is None, "1 is among the best two, and has gone on"
    for number, reward in ((6, 0.8), (7, 0.95), (8, 0.2)):
        ladder.add(number, 1, reward)
    assert ladder.promote() == (7, 2), "the higher rung first"
    assert ladder.hopeful(6) == {}
    assert ladder.hopeful(12) == {0: 0.5, 3: 0.6, 6: 0.8}, "places for four at rung 2, and for two at rung 3"
    assert Ladder(Rungs((0.5, 1.0))).hopeful(5) == {}


def test_a_network_goes_on_from_its_state_and_is_told_again(tmp_path):
    trials, _ = climb(tmp_path / "s")
    by_rung = [[trial for trial in trials if trial.rung == rung] for rung in range(3)]
    assert [len(each) for each in by_rung] == [12, 4, 1]
    assert all(trial.status == "done" and trial.told is not None for trial in trials)
    for trial in by_rung[1] + by_rung[2]:
        below = trials[trial.of]
        assert (below.candidate, below.rung + 1, below.latency_ms) == (trial.candidate, trial.rung, trial.latency_ms)
        assert trial.told > below.told
        assert trial.accuracy > below.accuracy
    steps = sum(trial.seconds["training_steps"] for trial in trials)
    assert steps == pytest.approx(12 * 0.2 + 4 * 0.2 + 0.6), "nothing is trained twice"
    assert {trial.number for trial in highest(trials)} == {t.number for t in trials} - {t.of for t in trials}
    assert len(highest(trials)) == 12


def test_failures_go_nowhere(tmp_path):
    trials, _ = climb(tmp_path / "s", evaluator=Climber(fails=4))
    assert any(trial.status == "failed" and trial.rung for trial in trials)
    assert not {trial.of for trial in trials} & {trial.number for trial in trials if trial.status == "failed"}
    assert len(highest(trials)) == sum(trial.status == "done" and not trial.rung for trial in trials)


@pytest.mark.parametrize("algorithm", ["thompson", "evolution", "ppo", "random"])
def test_a_search_with_rungs_that_is_left_goes_on_as_if_it_had_not_been(tmp_path, algorithm):
    _, whole = climb(tmp_path / "whole", algorithm=algorithm, inherit_best=True)
    for trials in (1, 5, 6, 12):
        with Study.at(tmp_path / "parts", meta_of(SPACE, algorithm)) as study:
            driven = drive(
                study, SPACE, make(algorithm, SPACE), InProcess(Climber()), trials=12, reward=REWARD, order=Order("window", 2),
                rungs=RUNGS, inherit_best=True,
            )  # fmt: skip
            for _ in zip(range(trials), driven, strict=False):
                pass
            driven.close()
    _, parts = climb(tmp_path / "parts", algorithm=algorithm, inherit_best=True)
    assert parts == whole


def test_the_best_at_the_time_of_asking_is_what_a_network_begins_with(tmp_path):
    trials, _ = climb(tmp_path / "s", rungs=None, inherit_best=True, order=Order("window", 1))
    best = None
    for trial in trials:
        assert trial.start == (best and best.number)
        best = trial if best is None or trial.reward > best.reward else best
    kept = {int(each.stem) for each in (tmp_path / "s.states").iterdir()}
    assert kept == {trial.start for trial in trials if trial.start is not None} | {best.number}


def test_states_are_bounded_and_what_is_lost_is_trained_anew(tmp_path):
    states = States(tmp_path / "s")
    for number in range(5):
        states.write(number, bytes(100))
    states.keep({0}, {1: 0.1, 2: 0.3, 3: 0.2}, most=300)
    assert [number for number in range(5) if states.read(number)] == [0, 2, 3]
    again = States(tmp_path / "s")
    assert again.read(2) == bytes(100)
    again.keep((), {})
    assert not (tmp_path / "s.states").exists()

    _, whole = climb(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(States, "read", lambda self, trial: None)
        trials, anew = climb(tmp_path / "anew")
    assert anew == whole
    assert sum(trial.seconds["training_steps"] for trial in trials) == pytest.approx(12 * 0.2 + 4 * 0.4 + 1)


def test_lost_weights_stop_the_study(tmp_path):
    climb(tmp_path / "s", trials=3, rungs=None, inherit_best=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(States, "read", lambda self, trial: None)
        with pytest.raises(StudyStopped, match=r"the weights of trial \d+, .*safetensors, are lost; restore them"):
            climb(tmp_path / "s", trials=5, rungs=None, inherit_best=True)
    climb(tmp_path / "s", trials=5, rungs=None, inherit_best=True)


def test_figures_count_every_network_at_its_highest_rung():
    figures = Figures()

    def add(number, candidate, reward, **extra):
        figures.add(Trial(number, (candidate,), status="done", accuracy=reward, latency_ms=1.0, reward=reward, extra=extra))

    add(0, 0, 0.5)
    add(1, 1, 0.4)
    add(2, 0, 0.3, rung=1, of=0)
    found = figures.progress(planned=9, rungs=RUNGS)
    assert (found.best.number, found.rungs, found.front) == (1, (2, 1), 1)
    assert "2 of 9 done, 1 of them at rung 2, best 40.00 %" in found.line()
    assert RUNGS.planned(9) == 9 + 3 + 1
    assert RUNGS.share == pytest.approx(0.2 + 0.2 / 3 + 0.6 / 9)


def test_the_surrogate_knows_that_rungs_differ():
    """Networks seen at a low rung alone are not taken for bad ones, and the best is found among all."""
    hits = {True: 0, False: 0}
    for seed in range(8):
        for told in hits:
            algorithm = make("thompson", SPACE, seed=seed, start=8)
            for number in range(30):
                (proposal,) = algorithm.ask(1)
                found = observed(SPACE, proposal)
                low = found.accuracy - 0.3
                algorithm.tell([Observation(found.candidate, {}, low, found.latency_ms, REWARD(low, found.latency_ms))])
                if number % 3 == 0:
                    algorithm.tell([dataclasses.replace(found, rung=int(told))])
            hits[told] += max(each.reward for each in algorithm.told) >= 0.62
    weights = algorithm._fit_of_rungs().weights if algorithm._climbs else None
    assert weights is None or weights.min() < 1
    assert hits[True] >= hits[False]


def test_options_that_do_not_fit_are_refused(tmp_path):
    def run(**options):
        return search.run(
            study=tmp_path / "s", space=SPACE, reward=REWARD, evaluator=Climber(), executor="local", trials=6, progress=False,
            **options,
        )  # fmt: skip

    with pytest.raises(ValueError, match="`keep` is a share of a rung's networks. Received: keep='1/3', and no rungs"):
        run(keep="1/3")
    with pytest.raises(ValueError, match="Without a recipe `rungs` are shares"):
        run(rungs="1,2,5")
    with pytest.raises(ValueError, match="An evaluator of your own says itself"):
        run(inherit="cifar10")
    few = {"rungs": "0.1,0.2,1", "recipe": "proxy-5-epochs epochs=1 batch_size=32", "size": 32, "data": "shapes:64@32"}
    with pytest.raises(ValueError, match=r"Each rung must have more steps .* rungs of 1, 1, \d steps"):
        run(**few)
    assert not list(tmp_path.iterdir())
    last = list(run(rungs="0.5,1", keep="1/2", inherit="best"))[-1]
    assert (last.rungs, last.finished) == ((6, 3), True)
    with pytest.raises(ValueError, match=r"Received: evaluation=\{'keep': 0.25\}, .* has \{'keep': 0.5\}"):
        run(keep=0.25)
    assert search.status(tmp_path / "s").progress.rungs == (6, 3)
    assert len(search.rescore(tmp_path / "s", target_ms=20).ranked) == 6
