"""thompson: the posterior, the maximiser and the search."""

import dataclasses
import statistics

import numpy as np
import pytest
from search_fakes import ACCURACY, SPACE, advance, make, observed, rng, toy_space

from keras_mnasnet.search.algorithms.base import Observation
from keras_mnasnet.search.algorithms.thompson import (
    JUDGED,
    Latest,
    Posterior,
    Scorer,
    Standard,
    Target,
    _cost_weights,
    ascend,
    covariance,
)
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import Decision, SearchSpace

# the posterior


def test_posterior_by_hand():
    rows, y = np.array([[1.0, 0], [1, 1], [1, 1]]), np.array([1.0, 2, 4])
    found = Posterior.of(rows, noise=1.0, prior=1.0)
    # A = [[3, 2], [2, 2]] + I = [[4, 2], [2, 3]], X'y = [7, 6]
    np.testing.assert_allclose(found.covariance, np.array([[3, -2], [-2, 4]]) / 8)
    np.testing.assert_allclose(found.mean(rows.T @ y), [9 / 8, 10 / 8])
    other = Posterior.of(rows, noise=0.5, prior=2.0)
    # A = 4 [[3, 2], [2, 2]] + I / 4 = [[12.25, 8], [8, 8.25]], determinant 37.0625
    np.testing.assert_allclose(other.covariance, np.array([[8.25, -8], [-8, 12.25]]) / 37.0625)
    np.testing.assert_allclose(other.mean(rows.T @ y), [4 * (8.25 * 7 - 8 * 6) / 37.0625, 4 * (-8 * 7 + 12.25 * 6) / 37.0625])
    np.testing.assert_allclose(covariance(rows[:0], noise=0.5, prior=2.0), 4 * np.eye(2))  # nothing known: the prior


def test_draws_have_the_posteriors_mean_and_covariance():
    rows, y = np.array([[1.0, 0], [1, 1], [1, 1]]), np.array([1.0, 2, 4])
    posterior, random = Posterior.of(rows, noise=1.0, prior=1.0), rng(0)
    factor = np.linalg.cholesky(posterior.covariance)
    drawn = np.array([posterior.draw(rows.T @ y, random, factor) for _ in range(4000)])
    np.testing.assert_allclose(drawn.mean(0), [9 / 8, 10 / 8], atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), posterior.covariance, atol=0.04)
    narrow = np.array([posterior.draw(rows.T @ y, random, 0.1 * np.eye(2)) for _ in range(500)])
    np.testing.assert_allclose(np.cov(narrow.T), 0.01 * np.eye(2), atol=0.003)


def test_left_out_predictions_are_those_of_the_other_rows():
    random = rng(1)
    rows = SPACE.features([SPACE.sample(random) for _ in range(25)])
    targets = random.normal(size=(2, 25))
    asked = [(Standard(rows.T @ y, -np.inf, 0.0, 1.0), y) for y in targets]
    found = Posterior.of(rows, noise=0.3, prior=0.5).left_out(rows, *asked)
    last = Posterior.of(rows, noise=0.3, prior=0.5).left_out(rows[-4:], *((target, y[-4:]) for target, y in asked))
    for y, predicted, of_last in zip(targets, found, last, strict=True):
        for k in range(25):
            others = np.arange(25) != k
            alone = Posterior.of(rows[others], noise=0.3, prior=0.5).mean(rows[others].T @ y[others])
            assert predicted[k] == pytest.approx(rows[k] @ alone, abs=1e-9)
        np.testing.assert_allclose(of_last, predicted[-4:])


def target_of(rows, values, clip):
    target = Target(rows.shape[1], clip)
    for row, value in zip(rows, values, strict=True):
        target.add(row, value)
    return target.standard()


def test_standardized_by_hand():
    values = np.array([4.0, 0, 1, 3, 2])
    found = target_of(np.ones((5, 1)), values, 0.25)
    assert (found.floor, found.mean, found.deviation) == (1.0, pytest.approx(2.2), pytest.approx(1.36**0.5)), "of 4, 1, 1, 3, 2"
    np.testing.assert_allclose(found.rescaled(np.array([0.5])), 0.5 * 1.36**0.5 + 2.2)
    found = target_of(np.ones((3, 1)), np.full(3, 0.7), 0.0)
    assert (found.mean, found.deviation) == (pytest.approx(0.7), 1.0), "equal values are no reason to divide by 0"
    np.testing.assert_allclose(found.products, 0, atol=1e-12)
    found = target_of(np.ones((50, 1)), np.array([0.5, *[0.7] * 49]), 0.15)
    assert (found.floor, found.mean, found.deviation) == (pytest.approx(0.7), pytest.approx(0.7), 1.0), "the one was raised"


@pytest.mark.parametrize("clip", [0.0, 0.15, 0.5, 0.999])
def test_sums_are_those_of_all_values(clip):
    """At every number of values, ties and orders among them: what NumPy finds of all at once."""
    random = rng(3)
    for values in (
        0.6 + random.normal(0, 0.02, 150), np.round(random.normal(size=150), 1), np.arange(150.0), -np.arange(150.0),
        random.normal(size=150) - 10 * (np.arange(150) == 0),
    ):  # fmt: skip
        rows = SPACE.features([SPACE.sample(random) for _ in values])
        target = Target(rows.shape[1], clip)
        for count, (row, value) in enumerate(zip(rows, values, strict=True), start=1):
            target.add(row, value)
            found, raised = target.standard(), np.maximum(values[:count], np.quantile(values[:count], clip))
            deviation = raised.std() if raised.std() > 1e-9 else 1.0
            assert found.floor == pytest.approx(raised.min(), abs=1e-12)
            assert (found.mean, found.deviation) == (pytest.approx(raised.mean()), pytest.approx(deviation, rel=1e-4))
            np.testing.assert_allclose(found.products, rows[:count].T @ (raised - raised.mean()) / deviation, atol=1e-6 * count)


def test_the_latest_rows_are_kept():
    latest, rows = Latest(5, 3), rng(0).normal(size=(12, 3))
    for count, row in enumerate(rows, start=1):
        latest.add(row)
        assert sorted(latest.array.tolist()) == sorted(rows[max(0, count - 5) : count].tolist())


# the maximiser

UNEVEN = SearchSpace("uneven", tuple(Decision(f"d{i}", tuple(range(n))) for i, n in enumerate((3, 2, 4, 1, 5, 2))))
MEMBERS = list(UNEVEN.members)
ROWS = UNEVEN.features(MEMBERS)


def climbed(scorer, seed, excluded=(), starts=4, made=UNEVEN, **options):
    random = rng(seed)
    points = [made.sample(random) for _ in range(starts)]
    return ascend(made, scorer, points, random, known_cost=options.get("cost"), excluded=lambda c: c in excluded)


def test_ascent_of_a_sum_is_exact():
    for seed in range(30):
        weights = rng([7, seed]).normal(size=UNEVEN.feature_count)
        best, second = (MEMBERS[k] for k in np.argsort(-(ROWS @ weights))[:2])
        scorer = Scorer(weights, None, None)
        assert climbed(scorer, seed, starts=1) == best
        assert climbed(scorer, seed, {best}, starts=1) == second, "the second best is one decision away"
        assert climbed(scorer, seed, set(MEMBERS)) is None


def test_ascent_of_a_reward_with_cost():
    exact = 0
    for seed in range(30):
        random = rng([8, seed])
        accuracy = random.normal(0, 0.05, UNEVEN.feature_count)
        accuracy[0], cost = 0.6, random.normal(0, 0.3, UNEVEN.feature_count)
        reward = Reward("soft", 1.0, -0.2, -0.2) if seed % 2 else Reward("hard", 1.0)
        scorer = Scorer(accuracy, cost, reward)
        true = reward.of(ROWS @ accuracy, np.exp(ROWS @ cost))
        np.testing.assert_allclose(scorer(ROWS), true)
        found = true[MEMBERS.index(climbed(scorer, seed, starts=8))]
        exact += found == true.max()
        assert found > 0.95 * true.max()
    assert exact >= 25


def test_ascent_stays_within_the_constraint():
    limited = dataclasses.replace(UNEVEN, allowed=lambda candidate: sum(candidate) <= 4)
    members = list(limited.members)
    for seed in range(20):
        weights = rng([9, seed]).normal(size=UNEVEN.feature_count)
        found = climbed(Scorer(weights, None, None), seed, made=limited, starts=8)
        assert found in members
        assert UNEVEN.features(found) @ weights >= np.quantile(limited.features(members) @ weights, 0.9)


def test_the_second_best_choice_is_tried_where_the_best_is_not_allowed():
    """The first decision's highest choice takes two thirds of what all may; limits with and without shares end alike."""
    weights = rng(0).uniform(1, 2, UNEVEN.feature_count)

    class Limit:
        def usage(self, candidate):
            return (sum(candidate) / 4 + 1e-6,)

        def __call__(self, candidate):
            return self.usage(candidate)[0] <= 1.001

    for allowed in (Limit(), lambda candidate: sum(candidate) <= 4):
        limited = dataclasses.replace(UNEVEN, allowed=allowed)
        best = max(limited.members, key=lambda candidate: UNEVEN.features(candidate) @ weights)
        found = climbed(Scorer(weights, None, None), 3, made=limited, starts=8)
        assert UNEVEN.features(found) @ weights >= UNEVEN.features(best) @ weights - 0.3, (found, best)


def test_the_known_cost_decides_among_the_finalists():
    weights = np.zeros(UNEVEN.feature_count)
    weights[0] = 0.5
    cheap = MEMBERS[17]
    found = climbed(
        Scorer(weights, np.zeros(UNEVEN.feature_count), Reward("hard", 1.0)), 0, starts=200,
        cost=lambda candidate: 1.5 + sum(a != b for a, b in zip(candidate, cheap, strict=True)),
    )  # fmt: skip
    distances = [sum(a != b for a, b in zip(each, cheap, strict=True)) for each in MEMBERS[:16]]
    assert sum(a != b for a, b in zip(found, cheap, strict=True)) == min(distances), "of the 16 that seemed equal"


# the search


def trials_to(best, search, made, reward, most=200):
    for number in range(1, most + 1):
        (proposal,) = search.ask(1)
        if proposal.candidate == best:
            return number
        search.tell([observed(made, proposal, reward)])
    return most + 1


def test_it_finds_the_best_of_a_sum_in_few_trials():
    needed = [trials_to((2,) * 6, make("thompson", reward=ACCURACY, seed=seed), SPACE, ACCURACY) for seed in range(7)]
    assert max(needed) <= 40, needed
    large = toy_space(decisions=11)
    assert large.members is None
    needed = [trials_to((2,) * 11, make("thompson", large, ACCURACY, seed), large, ACCURACY) for seed in range(3)]
    assert max(needed) <= 90, needed


def test_a_hard_reward_is_modelled_by_its_parts():
    """At the limit the reward is anything but a sum; accuracy is one, and the cost is known: they find the edge."""
    reward, random, wide = Reward("hard", 3.0), rng(0), toy_space(decisions=8)
    accuracy, log_cost = random.uniform(0, 0.03, wide.feature_count), random.uniform(0, 0.4, wide.feature_count)
    accuracy[0], log_cost[0] = 0.5, 0.0

    def outcome(candidate):
        row = wide.features(candidate)
        found, ms = float(row @ accuracy), float(np.exp(row @ log_cost))
        return found, ms, reward(found, ms)

    made = dataclasses.replace(wide, cost=lambda candidate: outcome(candidate)[1])
    best = max(made.members, key=lambda candidate: outcome(candidate)[2])
    needed = {"auto": [], "reward": []}
    for mode, numbers in needed.items():
        for seed in range(3):
            search = make("thompson", made, reward, seed, mode=mode)
            while best not in search.seen and len(search.seen) < 80:
                (proposal,) = search.ask(1)
                search.tell([Observation(proposal.candidate, {}, *outcome(proposal.candidate))])
            numbers.append(len(search.seen))
            assert search.facts() == {"models_cost": float(mode == "auto")}
    assert max(needed["auto"]) <= 60, needed
    assert statistics.median(needed["auto"]) < statistics.median(needed["reward"]), needed


def test_an_accuracy_reward_needs_no_cost():
    search = make("thompson", reward=ACCURACY)
    advance(search, 10)
    assert search.facts() == {"models_cost": 0.0}


def test_results_without_latency_are_modelled_by_reward():
    search = make("thompson", mode="cost")
    for proposal in search.ask(20):
        search.tell([Observation(proposal.candidate, {}, None, None, 0.5)])
    assert len(search.ask(2)) == 2
    assert search.facts() == {"models_cost": 0.0}
    search = make("thompson", mode="cost")
    for number, proposal in enumerate(search.ask(30)):
        accuracy = None if number == 25 else 0.5
        search.tell([Observation(proposal.candidate, {}, accuracy, 2.0, 0.5)])
        if number >= 20:
            search.ask(1)
            assert search.facts() == {"models_cost": float(number < 25)}, "one result without its parts, and none is modeled"


def test_asking_costs_the_same_after_many_trials():
    """What is gone through at each ask is bounded: only the latest results, and sums."""
    search = make("thompson", toy_space(decisions=11))
    for proposal in search.ask(40):
        search.tell([observed(search.space, proposal)])
    assert [len(each.array) for each in search._judged] == [40, 40]
    assert all(len(each._buffer) == JUDGED for each in search._judged)

    class Counted(list):
        def __iter__(self):
            raise AssertionError("all results are gone through")

    search.told = Counted(search.told)
    assert search.ask(1)


def test_cost_of_a_large_space_is_learnt_from_its_function():
    weights = rng(0).normal(0, 0.2, toy_space(decisions=10).feature_count)
    large = toy_space(decisions=10)
    known = dataclasses.replace(large, cost=lambda candidate: float(np.exp(large.features(candidate) @ weights)))
    np.testing.assert_allclose(_cost_weights(known, 3), weights, atol=1e-4)
    search = make("thompson", known, Reward("hard", 1.0), mode="cost")
    for proposal in search.ask(20):
        cost = known.cost(proposal.candidate)
        search.tell([Observation(proposal.candidate, {}, 0.6, cost, Reward("hard", 1.0)(0.6, cost))])
    assert {known.cost(proposal.candidate) <= 1.1 for proposal in search.ask(8)} == {True}, "all accuracies are equal"


@pytest.mark.parametrize("made", [SPACE, toy_space(decisions=11)], ids=["listed", "large"])
def test_a_batch_is_of_different_networks(made):
    search = make("thompson", made)
    start = search.ask(20)
    search.tell([observed(made, proposal) for proposal in start])
    batch = search.ask(30)
    assert len({proposal.candidate for proposal in (*start, *batch)}) == 50
    assert len({proposal.candidate[-1] for proposal in batch}) > 1
    more = search.ask(5)
    assert not {proposal.candidate for proposal in more} & {proposal.candidate for proposal in batch}


def test_the_start_is_spread():
    """Twenty networks tell as much as can be: their design leaves less variance than random ones do."""

    def left(candidates):
        rows = SPACE.features(list(SPACE.members))
        spread = covariance(SPACE.features(candidates), noise=0.3, prior=0.5)
        return float(np.einsum("nf,nf->n", rows @ spread, rows).mean())

    for seed in range(3):
        spread, random = ([p.candidate for p in make(name, seed=seed).ask(20)] for name in ("thompson", "random"))
        assert left(spread) < 0.9 * left(random)
