"""The paper's controller by hand: the loss of PPO, the advantage, the LSTM's gradient, Adam, the published constants."""

import math

import numpy as np
import pytest
from search_fakes import REWARD, toy_space

from keras_mnasnet.search.algorithms import Observation, make_algorithm
from keras_mnasnet.search.algorithms.lstm import Adam, Controller
from keras_mnasnet.search.algorithms.ppo import PPO, PRESETS, advantages, ppo_loss


def test_the_loss_by_hand():
    """L = -min(r A, clip(r, 0.8, 1.2) A): beyond the clip only what would make things worse is felt."""
    ratio = np.array([1.0, 1.1, 1.5, 0.5, 1.5, 0.5])
    advantage = np.array([2.0, 2.0, 2.0, 2.0, -2.0, -2.0])
    loss, slope = ppo_loss(ratio, advantage, 0.2)
    np.testing.assert_allclose(loss, [-2.0, -2.2, -2.4, -1.0, 3.0, 1.6])
    np.testing.assert_allclose(slope, [-2.0, -2.0, 0.0, -2.0, 2.0, 0.0])


def test_the_advantage_by_hand():
    """Against the moving average of the batches before: 0.95 b + 0.05 mean; the first batch is its own baseline."""
    paper, tuned = PRESETS["paper"], PRESETS["tuned"]
    found, baseline = advantages(np.array([0.2, 0.4]), None, paper)
    np.testing.assert_allclose(found, [-0.1, 0.1])
    assert baseline == pytest.approx(0.3)
    found, baseline = advantages(np.array([0.5, 0.9]), baseline, paper)
    np.testing.assert_allclose(found, [0.2, 0.6])
    assert baseline == pytest.approx(0.95 * 0.3 + 0.05 * 0.7)
    found, baseline = advantages(np.array([0.1, 0.3, 0.5]), 0.7, tuned)
    np.testing.assert_allclose(found, [-math.sqrt(1.5), 0.0, math.sqrt(1.5)], atol=1e-6)
    assert baseline == pytest.approx(0.95 * 0.7 + 0.05 * 0.3)


def test_the_published_constants():
    """NASNet, appendix A.2 and A.3, which the paper refers to; clip and epochs are the PPO paper's."""
    paper = PRESETS["paper"]
    assert (paper.units, paper.learning_rate, paper.entropy_weight, paper.baseline_decay) == (100, 0.00035, 0.00001, 0.95)
    assert (paper.batch, paper.clip, paper.epochs, paper.normalized) == (20, 0.2, 5, False)
    controller = PPO(toy_space(), REWARD, seed=0, preset="paper").controller
    assert controller.weights["hidden_kernel"].shape == (100, 400)
    for value in controller.weights.values():
        assert np.abs(value).max() <= 0.1
        assert value.std() == pytest.approx(0.2 / math.sqrt(12), rel=0.3), "uniform between -0.1 and 0.1"


def test_probabilities_and_entropy():
    controller = Controller((2, 3, 4), units=8, rng=np.random.default_rng(0), dtype=np.float64)
    every = np.array([(a, b, c) for a in range(2) for b in range(3) for c in range(4)])
    known = controller.evaluate(every)
    assert np.exp(known.log_probability).sum() == pytest.approx(1)
    assert known.entropy.mean() == pytest.approx(math.log(2 * 3 * 4), rel=0.01), "a fresh controller is almost uniform"
    drawn = controller.sample(4000, np.random.default_rng(1))
    assert drawn.actions.max(axis=0).tolist() == [1, 2, 3]
    shares = np.bincount(drawn.actions @ [12, 4, 1], minlength=24) / 4000
    np.testing.assert_allclose(shares, np.exp(known.log_probability), atol=0.02)
    np.testing.assert_allclose(controller.evaluate(drawn.actions).log_probability, drawn.log_probability)


def test_the_gradient_is_the_slope():
    """Back-propagation through time against differences, for every kind of weight."""
    rng = np.random.default_rng(3)
    controller = Controller((2, 3, 2), units=4, rng=rng, dtype=np.float64)
    for value in controller.weights.values():
        value *= 8
    actions = np.array([(0, 2, 1), (1, 0, 0), (1, 1, 1)])
    by_log, by_entropy = rng.normal(size=3), rng.normal(size=3)

    def loss():
        found = controller.evaluate(actions)
        return float(by_log @ found.log_probability + by_entropy @ found.entropy)

    gradient = controller.gradient(controller.evaluate(actions), by_log, by_entropy)
    assert set(gradient) == set(controller.weights)
    for name, weights in controller.weights.items():
        flat, step = weights.reshape(-1), 1e-6
        for index in rng.choice(flat.size, size=min(12, flat.size), replace=False):
            kept = flat[index]
            flat[index] = kept + step
            above = loss()
            flat[index] = kept - step
            below = loss()
            flat[index] = kept
            assert gradient[name].reshape(-1)[index] == pytest.approx((above - below) / (2 * step), abs=1e-7), name


def test_adam_by_hand():
    """The first step is the learning rate, whatever the slope; the second of -2 after 1 is by Kingma and Ba's algorithm 1."""
    weights = {"w": np.array([1.0, 1.0])}
    adam = Adam(weights, learning_rate=0.01)
    adam.step(weights, {"w": np.array([1.0, -50.0])})
    np.testing.assert_allclose(weights["w"], [0.99, 1.01], rtol=1e-6)
    adam.step(weights, {"w": np.array([-2.0, -50.0])})
    first, second = 0.9 * 0.1 - 0.1 * 2, 0.999 * 0.001 + 0.001 * 4
    moved = 0.01 * (first / (1 - 0.9**2)) / math.sqrt(second / (1 - 0.999**2))
    np.testing.assert_allclose(weights["w"], [0.99 - moved, 1.02], rtol=1e-5)


def tell(algorithm, proposal, reward):
    algorithm.tell([Observation(proposal.candidate, proposal.extra, reward, 10.0, reward)])


def test_it_learns():
    """The sum of the choices: after some hundred draws the controller draws better networks than at the start."""
    algorithm = make_algorithm("ppo", toy_space(decisions=8), REWARD, seed=0, preset="tuned")
    for _ in range(20):
        for proposal in algorithm.ask(20):
            tell(algorithm, proposal, sum(proposal.candidate) / 16)
    drawn = algorithm.controller.sample(500, np.random.default_rng(0)).actions.sum(axis=1).mean() / 16
    assert drawn > 0.65, "0.5 at the start"
    assert algorithm.facts()["entropy"] < 0.9 * 8 * math.log(3)


def test_a_network_drawn_again_counts_and_is_not_trained_again():
    algorithm = make_algorithm("ppo", toy_space(decisions=2), REWARD, seed=0)
    trained = []
    while proposals := algorithm.ask(1):
        trained.append(proposals[0].candidate)
        tell(algorithm, proposals[0], sum(trained[-1]) / 4)
    assert len(set(trained)) == len(trained) == 9
    assert algorithm.facts()["draws"] > 9
    assert algorithm.updates >= 1


def test_it_goes_on_from_its_state():
    space = toy_space()
    whole, cut = (make_algorithm("ppo", space, REWARD, seed=4) for _ in range(2))
    for algorithm in (whole, cut):
        for _ in range(47):
            (proposal,) = algorithm.ask(1)
            tell(algorithm, proposal, sum(proposal.candidate) / 12)
    again = make_algorithm("ppo", space, REWARD, seed=4)
    again.restore(cut.state())
    for _ in range(30):
        ours, theirs = whole.ask(2), again.ask(2)
        assert [each.candidate for each in ours] == [each.candidate for each in theirs]
        for one, other in zip(ours, theirs, strict=True):
            tell(whole, one, sum(one.candidate) / 12)
            tell(again, other, sum(other.candidate) / 12)
    assert whole.state() == again.state()
    with pytest.raises(ValueError, match="must have preset='paper'. Received: preset='tuned'"):
        make_algorithm("ppo", space, REWARD, seed=4, preset="paper").restore(cut.state())
