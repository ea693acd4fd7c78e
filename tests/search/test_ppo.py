"""The paper's controller: loss, advantage and gradients by hand and by finite differences, and what it learns from."""

import dataclasses
import math

import numpy as np
import pytest
from search_fakes import REWARD, rng, toy_space

from keras_mnasnet.search.algorithms import make_algorithm
from keras_mnasnet.search.algorithms.base import Observation
from keras_mnasnet.search.algorithms.ppo import PRESETS, Adam, Controller, Settings, advantages, ppo_loss
from keras_mnasnet.search.networks import space
from keras_mnasnet.search.rewards import Reward

ACCURACY = Reward("exponents", 1, 0, 0)


def ppo(made=None, **options):
    return make_algorithm("ppo", made or toy_space(), ACCURACY, **{"seed": 0, **options})


def value_of(candidate):
    """What is searched for: the last choice of every decision."""
    return sum(candidate) / (2 * len(candidate))


def observed(proposal, value=None):
    value = value_of(proposal.candidate) if value is None else value
    return Observation(proposal.candidate, proposal.extra, value, 1.0, value)


def controller(counts=(2, 3, 2), units=5, scale=10.0):
    """In float64, with weights large enough that probabilities differ."""
    made = Controller(counts, units=units, rng=rng(0), dtype=np.float64)
    for name in made.weights:
        made.weights[name] *= scale
    return made


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.0),
        (1.5, 2.0, -2.4, 0.0),  # beyond 1.2: nothing is to be gained by more
        (0.5, 2.0, -1.0, -2.0),  # the wrong way: the whole loss counts
        (0.9, -2.0, 1.8, 2.0),
        (0.5, -2.0, 1.6, 0.0),  # below 0.8: nothing is to be gained by less
        (1.5, -2.0, 3.0, 2.0),
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_loss_by_hand(ratio, advantage, loss, slope):
    found = ppo_loss(np.array([ratio]), np.array([advantage]), 0.2)
    assert (found[0][0], found[1][0]) == (pytest.approx(loss), pytest.approx(slope))


def test_slope_of_the_loss_is_its_derivative():
    ratio, advantage = rng(1).uniform(0.3, 1.8, 200), rng(2).normal(size=200)
    step = 1e-7
    numeric = (ppo_loss(ratio + step, advantage, 0.2)[0] - ppo_loss(ratio - step, advantage, 0.2)[0]) / (2 * step)
    np.testing.assert_allclose(ppo_loss(ratio, advantage, 0.2)[1], numeric, atol=1e-6)


def test_advantages_by_hand():
    first, baseline = advantages(np.array([0.6, 0.7, 0.8]), None, PRESETS["paper"])
    np.testing.assert_allclose(first, [-0.1, 0, 0.1], atol=1e-12)
    assert baseline == pytest.approx(0.7), "the first batch is its own baseline"
    second, baseline = advantages(np.array([0.8, 0.9, 1.0]), baseline, PRESETS["paper"])
    np.testing.assert_allclose(second, [0.1, 0.2, 0.3])
    assert baseline == pytest.approx(0.71), "0.95 * 0.7 + 0.05 * 0.9"
    third, baseline = advantages(np.array([0.2, 0.4]), baseline, PRESETS["paper"])
    np.testing.assert_allclose(third, [-0.51, -0.31])
    assert baseline == pytest.approx(0.6895), "0.95 * 0.71 + 0.05 * 0.3"


def test_normalized_advantages_by_hand():
    found, baseline = advantages(np.array([0.6, 0.7, 0.8]), 0.1, PRESETS["tuned"])
    np.testing.assert_allclose(found, [-math.sqrt(1.5), 0, math.sqrt(1.5)], rtol=1e-6, atol=1e-9)
    assert baseline == pytest.approx(0.95 * 0.1 + 0.05 * 0.7)
    assert advantages(np.full(4, 0.5), None, PRESETS["tuned"])[0].tolist() == [0] * 4, "equal rewards teach nothing"


def test_constants_of_the_paper():
    """NASNet, appendix A.2 and A.3; clip and epochs are PPO's."""
    expected = Settings(
        learning_rate=0.00035, entropy_weight=0.00001, normalized=False, units=100, batch=20, epochs=5, clip=0.2,
        baseline_decay=0.95,
    )  # fmt: skip
    assert PRESETS["paper"] == expected
    search = ppo(preset="paper")
    assert search.settings is PRESETS["paper"]
    assert search.controller.weights["hidden_kernel"].shape == (100, 400)
    assert search.adam.learning_rate == 0.00035


def test_one_step_of_the_lstm_by_hand():
    made = Controller((2, 2), units=1, rng=rng(0), dtype=np.float64)
    for name, value in made.weights.items():
        made.weights[name] = np.zeros_like(value)
    made.weights["embedding"][:, 0] = [1, 0, 3, 0, 0]  # the beginning; the choices of the first decision; of the second
    made.weights["input_kernel"][0, 3] = 1  # the candidate alone sees the input: gates are at sigmoid(0) = 1/2
    made.weights["head"][0] = [2, 0, 2, 0]
    made.weights["head_bias"][:] = [0, 0, 0.5, 0]
    cell = 0.5 * math.tanh(1)
    first = 1 / (1 + math.exp(-2 * 0.5 * math.tanh(cell)))
    second = [1 / (1 + math.exp(-2 * 0.5 * math.tanh(0.5 * cell + 0.5 * math.tanh(x)) - 0.5)) for x in (0, 3)]
    found = made.evaluate(np.array([[0, 0], [1, 0], [1, 1]]))
    expected = [first * second[0], (1 - first) * second[1], (1 - first) * (1 - second[1])]
    np.testing.assert_allclose(np.exp(found.log_probability), expected, rtol=1e-12)
    entropy = [-sum(p * math.log(p) for x in (first, second[k]) for p in (x, 1 - x)) for k in (0, 1, 1)]
    np.testing.assert_allclose(found.entropy, entropy, rtol=1e-12)


def test_probabilities_sum_to_one():
    made = controller()
    every = np.array(list(np.ndindex(2, 3, 2)))
    passed = made.evaluate(every)
    assert np.exp(passed.log_probability).sum() == pytest.approx(1, abs=1e-12)
    assert np.ptp(np.exp(passed.log_probability)) > 0.02, "they differ"
    for log in passed.logs:
        np.testing.assert_allclose(np.exp(log).sum(1), 1, rtol=1e-12)


def test_sequences_are_drawn_by_their_probabilities():
    made = controller()
    drawn = made.sample(20_000, rng(3))
    np.testing.assert_allclose(drawn.log_probability, made.evaluate(drawn.actions).log_probability, rtol=1e-12)
    every = np.array(list(np.ndindex(2, 3, 2)))
    p = np.exp(made.evaluate(every).log_probability)
    counts = np.array([(drawn.actions == each).all(1).sum() for each in every])
    assert np.all(abs(counts / 20_000 - p) < 4.5 * np.sqrt(p * (1 - p) / 20_000))


@pytest.mark.parametrize("name", ["embedding", "input_kernel", "hidden_kernel", "bias", "head", "head_bias"])
def test_gradient_is_the_finite_difference(name):
    made = controller()
    actions = np.array([[0, 1, 1], [1, 2, 0], [1, 0, 1], [1, 2, 1]])
    by_log, by_entropy = np.array([0.7, -1.3, 0.2, 2.0]), np.array([-0.5, 0.3, 0.0, 1.1])

    def loss():
        passed = made.evaluate(actions)
        return float(by_log @ passed.log_probability + by_entropy @ passed.entropy)

    found = made.gradient(made.evaluate(actions), by_log, by_entropy)[name]
    weights, step = made.weights[name], 1e-5
    numeric = np.zeros_like(weights)
    for place in np.ndindex(weights.shape):
        kept = weights[place]
        sides = []
        for moved in (kept + step, kept - step):
            weights[place] = moved
            sides.append(loss())
        weights[place] = kept
        numeric[place] = (sides[0] - sides[1]) / (2 * step)
    np.testing.assert_allclose(found, numeric, atol=1e-8)
    assert abs(found).max() > 0.01


def test_adam_by_hand():
    weights = {"w": np.array([1.0, 1.0])}
    adam = Adam(weights, learning_rate=0.01)
    adam.step(weights, {"w": np.array([0.5, -2.0])})
    np.testing.assert_allclose(weights["w"], [0.99, 1.01], atol=1e-8)  # the first step is the rate, against the sign
    adam.step(weights, {"w": np.array([0.5, 2.0])})
    # first moments 0.095 and 0.02 of 0.19; second 0.25 and 4 of 1: steps 0.01 and 0.01 * (0.02 / 0.19) / 2
    np.testing.assert_allclose(weights["w"], [0.98, 1.01 - 0.000526316], atol=1e-8)
    assert adam.steps == 2


@pytest.mark.parametrize("made", [toy_space(), space("paper")], ids=lambda made: made.name)
def test_a_fresh_controller_is_nearly_uniform(made):
    search = ppo(made)
    for value in search.controller.weights.values():
        assert (value.dtype, abs(value).max() <= 0.1, abs(value).max() > 0.09) == (np.float32, True, True)
        assert abs(value.mean()) < 0.03
    uniform = np.log(made.counts).mean()
    assert 0.98 * uniform < search.facts()["entropy"] <= uniform
    assert search.facts() == {"entropy": search.entropy, "draws": 0, "updates": 0}


def test_an_update_descends_the_stated_objective(monkeypatch):
    """-mean(min(r A, clip(r) A)) - entropy weight * mean entropy, by finite differences; r is against the draw."""
    search = ppo(preset="tuned")
    search.controller.weights = {name: 5 * value.astype(np.float64) for name, value in search.controller.weights.items()}
    steps = []
    monkeypatch.setattr(search.adam, "step", lambda weights, gradient: steps.append(gradient))
    actions = rng(4).integers(0, 3, (20, 6))
    old = search.controller.evaluate(actions).log_probability + rng(5).normal(0, 0.15, 20)
    rewards = rng(6).uniform(0.2, 0.9, 20)
    for row, log, reward in zip(actions.tolist(), old.tolist(), rewards.tolist(), strict=True):
        assert not steps
        search._add(row, log, reward)
    assert (len(steps), search.updates) == (5, 1), "five epochs over a batch of twenty"

    def objective():
        now = search.controller.evaluate(actions)
        ratio, advantage = np.exp(now.log_probability - old), (rewards - rewards.mean()) / rewards.std()
        gained = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
        return -gained.mean() - 0.01 * now.entropy.mean()

    for name, weights in search.controller.weights.items():
        flat, found = weights.reshape(-1), steps[0][name].reshape(-1)
        for place in np.argsort(-abs(found))[:3]:
            kept, sides = flat[place], []
            for moved in (kept + 1e-6, kept - 1e-6):
                flat[place] = moved
                sides.append(objective())
            flat[place] = kept
            assert found[place] == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_it_learns_a_toy_objective():
    search = ppo(toy_space(decisions=10))
    values = []
    for _ in range(8):
        proposals = search.ask(20)
        values.append(np.mean([value_of(proposal.candidate) for proposal in proposals]))
        search.tell([observed(proposal) for proposal in proposals])
    assert 0.4 < values[0] < 0.6, "by chance 0.5"
    assert values[-1] > 0.75
    assert search.facts()["entropy"] < 0.8 * math.log(3)


def test_known_networks_count_as_draws_and_are_not_asked_again():
    made = toy_space(decisions=3)
    search = ppo(made, preset="paper")
    asked = []
    for _ in range(27):
        (proposal,) = search.ask(1)
        asked.append(proposal.candidate)
        assert proposal.extra["draw"] == search.draws
        search.tell([observed(proposal)])
    assert len(set(asked)) == made.size == 27
    assert search.ask(1) == []
    assert search.draws > 2 * 27
    assert search.draws == 20 * search.updates + len(search._batch), "each draw was learnt from once"
    assert search.facts()["updates"] == search.updates > 1


def test_late_results_count_with_the_probability_of_their_draw():
    search = ppo(preset="paper")
    proposals = search.ask(50)
    late, rest = proposals[:3], proposals[3:]
    search.tell([observed(proposal) for proposal in rest])
    assert search.updates >= 2, "the controller is not what it was"
    held = len(search._batch)
    search.tell([observed(late[1], 0.25)])
    actions, log, reward = search._batch[held]
    assert (tuple(actions), log, reward) == (late[1].candidate, late[1].extra["log_probability"], 0.25)
    now = search.controller.evaluate(np.array([actions])).log_probability[0]
    assert log != pytest.approx(now, abs=1e-4)


def test_failed_trials_count_as_the_worst():
    search = ppo()
    proposals = search.ask(20)
    search.tell([dataclasses.replace(observed(proposal), reward=None, accuracy=None) for proposal in proposals])
    assert (search.updates, search._batch, len(search._waiting)) == (0, [], 20), "nothing to compare them with yet"
    (good,) = search.ask(1)
    search.tell([observed(good)])
    assert (search.updates, search._waiting) == (1, {})
    assert set(search.rewards.values()) == {observed(good).reward}
    search.controller.weights["head_bias"][:] = 0
    for part, choice in zip(np.split(search.controller.weights["head_bias"], 6), proposals[0].candidate, strict=True):
        part[choice] = 50
    search.ask(1)
    assert search.updates > 1, "a settled controller learns from the failure that it keeps drawing"


def test_a_settled_controller_is_sent_to_the_neighbours():
    made = toy_space()
    search = ppo(made)
    search.controller.weights["head_bias"][:] = np.tile([0, 50, 0], 6)
    (first,) = search.ask(1)
    search.tell([observed(first)])
    (second,) = search.ask(1)
    assert first.candidate == (1,) * 6
    assert second.candidate in made.neighbours(first.candidate)
    assert search.draws == 1 + 50
    assert "log_probability" not in second.extra, "the controller did not draw it"


def test_draws_outside_the_constraint_do_not_count():
    made = dataclasses.replace(toy_space(decisions=8), allowed=lambda candidate: candidate[0] == 0)
    search = ppo(made)
    proposals = search.ask(20)
    assert {proposal.candidate[0] for proposal in proposals} == {0}
    search.tell([observed(proposal) for proposal in proposals])
    assert search.draws == 20 * search.updates + len(search._batch)


@pytest.mark.parametrize("preset", ["paper", "tuned"])
def test_a_restored_controller_goes_on_as_if_nothing_had_happened(preset):
    search = ppo(preset=preset)
    proposals = search.ask(33)
    search.tell([observed(proposal) for proposal in proposals[:29]])
    other = ppo(preset=preset, seed=5)
    other.restore(search.state(), proposals, [observed(proposal) for proposal in proposals[:29]])
    assert other.state() == search.state()
    for one in (search, other):
        one.tell([observed(proposal) for proposal in proposals[29:]])
        for _ in range(3):
            one.tell([observed(proposal) for proposal in one.ask(15)])
    assert search.updates >= 3
    assert other.state() == search.state()
    assert other.ask(9) == search.ask(9)
    assert other.facts() == search.facts()


def test_wrong_presets():
    with pytest.raises(ValueError, match=r"`preset` must be one of \('paper', 'tuned'\). Received: preset='nasnet'"):
        make_algorithm("ppo", toy_space(), REWARD, seed=0, preset="nasnet")
    with pytest.raises(ValueError, match="must have preset='tuned'. Received: preset='paper'"):
        ppo().restore(ppo(preset="paper").state(), [], [])
