"""Screens: what they choose, how they are judged and dropped, and that a search with them resumes exactly."""

import dataclasses

import pytest
from search_fakes import FakeEvaluator, KeepsLatency, by_sum, facts_of, make, observed, toy_space

from keras_mnasnet import search
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.search import Reward, Screen
from keras_mnasnet.search.engine import StudyStopped
from keras_mnasnet.search.latency import DeviceGone, HostLatency, Latency
from keras_mnasnet.search.screens import Measured, kendall_tau, latencies_of, parse_screen, relu_units, scores_of
from keras_mnasnet.search.study import Study

SPACE = toy_space()


def against(space, candidates):
    return [-sum(candidate) for candidate in candidates]


def test_kendalls_tau():
    assert kendall_tau([(1, 1), (2, 2), (3, 3)]) == 1
    assert kendall_tau([(1, 3), (2, 2), (3, 1)]) == -1
    assert kendall_tau([(1, 2), (2, 1), (3, 3)]) == pytest.approx(1 / 3)
    assert kendall_tau([(1, 1), (1, 2), (2, 3)]) == pytest.approx(2 / 6**0.5)
    assert kendall_tau([(1, 1), (1, 2)]) == 0


@pytest.mark.parametrize(
    ("text", "name", "share"),
    [
        ("relu-units:quarter", "relu-units", 0.25), ("relu-units", "relu-units", 0.25), ("relu-units:0.1", "relu-units", 0.1),
        ("math:prod:half", "math:prod", 0.5),
    ],
)  # fmt: skip
def test_screens_are_read_from_their_text(text, name, share):
    found = parse_screen(text)
    assert (found.name, found.share) == (name, share)
    assert parse_screen(str(found)) == found
    assert parse_screen("measure:16") == Measured(16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("measure", "`measure` takes 2 to 1,000 proposals"), ("measure:1", "takes 2 to"), ("measure:x", "takes 2 to"),
        ("relu-units:none", "A screen is measure:16, relu-units:quarter, or"), ("nothing:here", "A screen is"),
        ("math:nothing", "A screen is"), ("relu-units:1", "a share between 0 and 1"),
    ],
)  # fmt: skip
def test_other_screens_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_screen(text)


def test_what_a_proposal_carries_is_checked():
    for extra in ({"screens": 3}, {"screens": {"a": "b"}}, {"screens": {"a": float("nan")}}):
        with pytest.raises(ValueError, match="must have finite scores"):
            scores_of(extra)
    for measured in (3, [[(0,), 1.0]], [[[0] * 6, "x"]], [[[0] * 6, 0.0]]):
        with pytest.raises(ValueError, match="A proposal's (measurements|latencies) must be"):
            latencies_of({"measured": measured}, SPACE)
    with pytest.raises(ValueError, match="a finite number for each of 1 candidates. Received: \\[\\]"):
        Screen("none", lambda space, candidates: []).scores(SPACE, [(0,) * 6])


def test_relu_units_are_counted():
    found = relu_units(toy_networks(), [(0,) * 4, (1, 0, 0, 0), (2,) * 4])
    assert found[0] == 112**2 * 8 * 2 + 112 * 112 * 16 + 56 * 56 * 16 * 2 + 28 * 28 * (16 + 8)
    assert found[0] < found[1] < found[2]
    with pytest.raises(ValueError, match="is not of networks"):
        relu_units(SPACE, [(0,) * 6])


@pytest.mark.parametrize("algorithm", ["thompson", "evolution"])
def test_a_screen_chooses_the_start_until_it_is_found_wrong(algorithm):
    sums = {}
    for screen in (None, Screen("by sum", by_sum), Screen("against", against)):
        found = make(algorithm, SPACE, Reward("exponents", 1, 0, 0))
        found.screens = () if screen is None else (screen,)
        drawn = []
        for _ in range(10):
            (proposal,) = found.ask(1)
            drawn.append(sum(proposal.candidate))
            found.tell([observed(SPACE, proposal, Reward("exponents", 1, 0, 0))])
        sums[screen and screen.name] = drawn
        if screen is not None:
            assert (found.taus()[screen.name] > 0.5) == (screen.name == "by sum")
    assert sum(sums["by sum"]) / 10 > 7.5, "random ones have a mean of 6"
    assert sum(sums["against"][:6]) / 6 < 4.5
    assert sum(sums["against"][6:]) / 4 > 5, "dropped after six results"


class Host(HostLatency):
    """A device that measures in no time, whose every answer is kept; it goes away after some."""

    answers = 10**9
    asked = ()

    def latency_ms(self, architecture, resolution, classes):
        if len(self.asked) >= Host.answers:
            raise DeviceGone("no phone answers")
        Host.asked = (*Host.asked, str(architecture))
        return Latency(architecture.madds(resolution, resolution, classes=classes) / 1e5, "fake")


def run(path, space, **options):
    values = {
        "study": path, "space": space, "reward": Reward("hard", 8.0), "evaluator": KeepsLatency(), "executor": "local",
        "trials": 14, "device": "host", "size": 32, "progress": False, "algorithm_options": {"start": 4, "mode": "cost"},
    }  # fmt: skip
    return search.run(**{**values, **options})


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr("keras_mnasnet.search.setup.parse_device", lambda *_, **__: Host())
    monkeypatch.setattr(Host, "asked", ())
    return Host


def test_proposals_are_measured_and_the_best_is_trained(tmp_path, host):
    space = toy_networks()
    list(run(tmp_path / "whole", space, screens=["measure:5"]))
    with Study.open(tmp_path / "whole", read_only=True) as study:
        trials, whole = study.trials(), facts_of(study)
    screened = [trial for trial in trials if "measured" in trial.extra]
    assert len(screened) == 10
    assert all(trial.latency_source == "fake" for trial in screened)
    measured = [latencies_of(trial.extra, space) for trial in screened]
    assert all(found[trial.candidate] == trial.latency_ms for trial, found in zip(screened, measured, strict=True))
    assert len(set(host.asked)) == len(host.asked), "nothing is measured twice"

    begun = run(tmp_path / "parts", space, screens=["measure:5"])
    for _ in zip(range(7), begun, strict=False):
        pass
    begun.close()
    list(run(tmp_path / "parts", space))
    with Study.open(tmp_path / "parts", read_only=True) as study:
        assert facts_of(study) == whole


def test_a_device_that_goes_away_while_proposals_are_measured_loses_nothing(tmp_path, host, monkeypatch):
    space = toy_networks()
    begun = run(tmp_path / "s", space, screens=["measure:5"])
    monkeypatch.setattr(Host, "answers", len(host.asked) + 14)
    with pytest.raises(StudyStopped, match="no phone answers"):
        list(begun)
    done = search.status(tmp_path / "s").progress.done
    monkeypatch.setattr(Host, "answers", 10**9)
    last = list(run(tmp_path / "s", space))[-1]
    assert (0 < done < 14, last.done) == (True, 14)


def toy_networks():
    return dataclasses.replace(toy_space(decisions=4), build=network_of)


def network_of(candidate):
    first, second, third, fourth = (8 * (1 + each) for each in candidate)
    return Architecture.parse(
        f"toy: stem8 r1_k3_s11_e1_i8_o{first}_noskip r1_k3_s22_e2_i{first}_o{second} r1_k3_s22_e2_i{second}_o{third} "
        f"head{fourth}"
    )


def test_screens_that_do_not_fit_are_refused(tmp_path, host):
    space = toy_networks()
    for options, message in (
        ({"screens": ["measure:4"], "algorithm": "random", "algorithm_options": {}}, "measure:4 is for thompson"),
        ({"screens": ["measure:4"], "reward": Reward("exponents", 1, 0, 0)}, "is for thompson, a reward with latency"),
        ({"screens": ["relu-units:half"], "algorithm": "ppo", "algorithm_options": {}}, "start of thompson and evolution"),
        ({"screens": ["measure:4", "measure:5"]}, "has each screen once"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "s", space, **options)
    mine = {"screens": [Screen("mine", by_sum, 0.5)], "evaluator": FakeEvaluator(), "reward": Reward("exponents", 1, 0, 0)}
    list(run(tmp_path / "s", space, **mine, trials=7))
    with pytest.raises(ValueError, match="A screen of your own runs only when it is named.*'mine:0.5', and no screens"):
        run(tmp_path / "s", space, evaluator=FakeEvaluator(), reward=None)
    list(run(tmp_path / "s", space, **mine, trials=8))
    found = search.report(tmp_path / "s", tmp_path / "page", pictures=False, landmarks="none", progress=False)
    assert set(found.screens) == {"mine:0.5"}
    assert "Kendall tau" in (tmp_path / "page" / "report.html").read_text("utf-8")
