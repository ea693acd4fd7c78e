"""What all algorithms promise, and what each of them does."""

import dataclasses
import json
import statistics

import numpy as np
import pytest
from search_fakes import REWARD, accuracy_of, rng, toy_space

from keras_mnasnet.search.algorithms import ALGORITHMS, Algorithm, Observation, make_algorithm
from keras_mnasnet.search.algorithms.ascent import Scorer, ascend
from keras_mnasnet.search.algorithms.bayes import Posterior, Rows, covariance, standardized
from keras_mnasnet.search.algorithms.thompson import _cost_weights
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import Decision, SearchSpace

SPACE = toy_space()  # 729 networks; the best is the last of every choice
EACH = pytest.mark.parametrize("name", list(ALGORITHMS))
ACCURACY = Reward("exponents", 1, 0, 0)


def make(name, made=SPACE, reward=REWARD, seed=0, **options):
    return make_algorithm(name, made, reward, seed=seed, **options)


def observed(made, proposal, reward=REWARD):
    accuracy = accuracy_of(made.values(proposal.candidate))
    latency = 5.0 + sum(proposal.candidate)
    return Observation(proposal.candidate, proposal.extra, accuracy, latency, reward(accuracy, latency))


def failed(proposal):
    return Observation(proposal.candidate, proposal.extra)


def advance(search, rounds, count=3):
    """Asks with every seventh trial failed; what was asked."""
    asked = []
    for number in range(rounds):
        proposals = search.ask(count)
        asked += [proposal.candidate for proposal in proposals]
        search.tell([failed(p) if (number * count + k) % 7 == 6 else observed(SPACE, p) for k, p in enumerate(proposals)])
    return asked


def first_decision(candidate):
    """Only the first of the decisions has an effect."""
    return (candidate[0], *[0] * (len(candidate) - 1))


@EACH
def test_no_network_is_asked_twice_or_after_it_was_told(name):
    search = make(name)
    given = [(0,) * 6, (2,) * 6, (1, 2, 0, 1, 2, 0)]
    search.tell([Observation(candidate, {}, 0.5, 5.0, REWARD(0.5, 5.0)) for candidate in given])
    asked, waiting = [], []
    for count in (1, 5, 2, 20, 1, 7, 30, 1, 1, 12):
        proposals = search.ask(count)
        assert len(proposals) == count
        asked += [proposal.candidate for proposal in proposals]
        waiting += proposals
        search.tell([observed(SPACE, proposal) for proposal in waiting[: len(waiting) // 2]])
        waiting = waiting[len(waiting) // 2 :]
    assert len(set(asked)) == len(asked) == 80
    assert not set(asked) & set(given)
    assert isinstance(search, Algorithm)
    assert search.name == name


@EACH
@pytest.mark.parametrize("told", [True, False])
def test_a_space_with_nothing_left_gives_fewer(name, told):
    made = toy_space(decisions=2)
    search = make(name, made)
    asked = []
    for count in (4, 4, 4):
        proposals = search.ask(count)
        asked += [proposal.candidate for proposal in proposals]
        if told:
            search.tell([observed(made, proposal) for proposal in proposals])
    assert len(proposals) == 1
    assert set(asked) == set(made.members)
    assert search.ask(1) == []


@EACH
def test_a_large_space_of_few_networks_ends_too(name):
    decisions = tuple(Decision(f"d{i}", (0, 1, 2, 3)) for i in range(8))
    search = make(name, SearchSpace("flat", decisions, canonical_of=first_decision))
    assert sorted(proposal.candidate for proposal in search.ask(9)) == [(k, *[0] * 7) for k in range(4)]
    assert search.ask(1) == []


@EACH
def test_equal_seeds_ask_alike(name):
    one, two, other = (advance(make(name, seed=seed), 12) for seed in (3, 3, 4))
    assert one == two
    assert one != other


@EACH
def test_results_may_come_in_any_order(name):
    search = make(name)
    first, second = search.ask(6), search.ask(5)
    search.tell([observed(SPACE, proposal) for proposal in second[::-1]])
    third = search.ask(4)
    for proposal in (*third, *first[::-1]):
        search.tell([observed(SPACE, proposal)])
    assert search.pending == {}
    assert len(search.told) == 15
    asked = [proposal.candidate for proposal in (*first, *second, *third, *search.ask(40))]
    assert len(set(asked)) == len(asked) == 55


@EACH
def test_failed_trials_are_not_asked_again(name):
    search = make(name)
    lost = search.ask(30)
    search.tell([failed(proposal) for proposal in lost])
    assert search.told == []
    assert search.pending == {}
    after = search.ask(40)
    assert len(after) == 40, "a search whose first trials all failed goes on"
    assert not {proposal.candidate for proposal in lost} & {proposal.candidate for proposal in after}
    search.tell([observed(SPACE, proposal) for proposal in after])
    assert len(search.ask(5)) == 5


@EACH
def test_a_restored_search_goes_on_as_if_nothing_had_happened(name):
    search = make(name)
    advance(search, 10)
    out = search.ask(4)
    search.tell([observed(SPACE, out[2])])
    other = make(name)
    other.restore(search.state())
    assert other.state() == search.state()
    assert json.loads(search.state())["algorithm"] == name
    for one in (search, other):
        one.tell([observed(SPACE, out[3]), failed(out[0])])
    assert advance(other, 14) == advance(search, 14)
    assert other.state() == search.state()
    assert other.facts() == search.facts()


@EACH
def test_a_new_search_has_a_state(name):
    search, other = make(name, seed=1), make(name, seed=2)
    other.restore(search.state())
    assert other.ask(30) == search.ask(30)


@EACH
def test_a_foreign_state_is_refused(name):
    search = make(name)
    other = next(each for each in ALGORITHMS if each != name)
    with pytest.raises(ValueError, match=f"must have algorithm='{name}'. Received: algorithm='{other}'"):
        search.restore(make(other).state())
    with pytest.raises(ValueError, match="must have space='.{16}'. Received: space='.{16}'"):
        search.restore(make(name, toy_space(decisions=5)).state())
    newer = json.loads(search.state()) | {"schema": 2}
    with pytest.raises(ValueError, match="The state of a search must have schema=1. Received: schema=2"):
        search.restore(json.dumps(newer).encode())


@EACH
def test_wrong_calls(name):
    search = make(name)
    for count in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match=f"`count` must be an integer >= 1. Received: count={count}"):
            search.ask(count)
    before = search.state()
    good = Observation((1,) * 6, {}, 0.5, 5.0, 0.5)
    with pytest.raises(ValueError, match="A reward must be finite, or None. Received: reward=nan"):
        search.tell([good, Observation((2,) * 6, {}, 0.5, 5.0, float("nan"))])
    with pytest.raises(ValueError, match="A candidate of 'toy' has 6 indices"):
        search.tell([good, Observation((1, 2), {}, 0.5, 5.0, 0.5)])
    assert search.state() == before, "nothing of what is refused is taken in"


@EACH
def test_a_result_of_another_wording_is_the_same_network(name):
    decisions = tuple(Decision(f"d{i}", (0, 1, 2)) for i in range(3))
    search = make(name, SearchSpace("flat", decisions, canonical_of=first_decision))
    (proposal,) = search.ask(1)
    search.tell([Observation((proposal.candidate[0], 2, 1), {}, 0.5, 5.0, 0.5)])
    assert search.pending == {}
    assert [each.candidate for each in search.told] == [proposal.candidate]
    assert len(search.ask(5)) == 2


def test_unknown_algorithms_and_options():
    with pytest.raises(ValueError, match=r"one of \('ppo', 'thompson', 'evolution', 'random'\). Received: algorithm='tpe'"):
        make("tpe")
    with pytest.raises(ValueError, match=r"options of 'evolution' are \['population', 'sample'\]. Received: \['size'\]"):
        make("evolution", size=3)
    with pytest.raises(ValueError, match=r"options of 'random' are \[\]. Received: \['start'\]"):
        make("random", start=3)
    for seed in (-1, True, 0.5, None):
        with pytest.raises(ValueError, match=f"`seed` must be an integer >= 0. Received: seed={seed}"):
            make("random", seed=seed)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("thompson", {"start": 1}, "`start` must be an integer >= 2. Received: start=1"),
        ("thompson", {"restarts": 0}, "`restarts` must be an integer >= 1. Received: restarts=0"),
        ("thompson", {"noise": 0}, "must be above 0 and `clip` in .* Received: noise=0, prior="),
        ("thompson", {"clip": 1}, "Received: .* clip=1"),
        ("thompson", {"mode": "both"}, r"`mode` must be one of \('auto', 'reward', 'cost'\). Received: mode='both'"),
        ("evolution", {"sample": 0}, "1 <= sample <= population. Received: sample=0, population=20"),
        ("evolution", {"sample": 9, "population": 8}, "Received: sample=9, population=8"),
        ("evolution", {"population": 20.5}, "must be integers.* Received: sample=5, population=20.5"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)


# random


def test_random_is_uniform_over_what_is_left():
    made = toy_space(decisions=2)
    firsts = [make("random", made, seed=seed).ask(1)[0].candidate for seed in range(900)]
    counts = [firsts.count(member) for member in made.members]
    assert max(abs(count - 100) for count in counts) < 4 * 10
    assert {make("random", made, seed=seed).ask(9)[8].candidate for seed in range(60)} == set(made.members)


# evolution


def test_the_oldest_die():
    search = make("evolution", population=5, sample=5)
    values = [0.9, 0.1, 0.2, 0.3, 0.6, 0.4]
    founders = [(2, 2, 0, 0, 0, k % 3) for k in range(3)] + [(0, 0, 2, 2, 1, k % 3) for k in range(3)]
    search.tell([Observation(c, {}, v, 5.0, v) for c, v in zip(founders[:5], values, strict=False)])
    assert search._winner() == founders[0], "the best of the five"
    search.tell([Observation(founders[5], {}, values[5], 5.0, values[5])])
    assert search._winner() == founders[4], "the best has died of age"
    for proposal in search.ask(6):
        assert sum(a != b for a, b in zip(proposal.candidate, founders[4], strict=True)) == 1, "one decision differs"


def test_a_tournament_is_of_the_sample():
    search = make("evolution", population=4, sample=2, made=toy_space(decisions=4))
    candidates = [(k, 0, 0, 0) for k in range(3)] + [(0, 1, 0, 0)]
    search.tell([Observation(c, {}, v, 5.0, v) for c, v in zip(candidates, (0.1, 0.2, 0.3, 0.4), strict=True)])
    winners = [search._winner() for _ in range(1200)]
    # the best of two out of four: the worst never, then 1, 2 and 3 of the 6 pairs
    assert [winners.count(candidate) for candidate in candidates] == pytest.approx([0, 200, 400, 600], abs=70)


def test_the_first_population_is_random_and_failures_are_replaced():
    search = make("evolution", population=6)
    founders = search.ask(6)
    assert [p.candidate for p in founders] == [p.candidate for p in make("random").ask(6)]
    search.tell([failed(proposal) for proposal in founders])
    assert len(search.ask(3)) == 3


def test_evolution_climbs():
    search = make("evolution", reward=ACCURACY)
    values = []
    for _ in range(150):
        (proposal,) = search.ask(1)
        values.append(accuracy_of(SPACE.values(proposal.candidate)))
        search.tell([observed(SPACE, proposal, ACCURACY)])
    assert max(values) >= 0.9, "of 0.92; every network has 0.71 on average"
    assert statistics.mean(values[75:]) > statistics.mean(values[:20]) + 0.05


# thompson: the posterior


def test_posterior_by_hand():
    rows, y = np.array([[1.0, 0], [1, 1], [1, 1]]), np.array([1.0, 2, 4])
    found = Posterior.of(rows, noise=1.0, prior=1.0)
    # A = [[3, 2], [2, 2]] + I = [[4, 2], [2, 3]], X'y = [7, 6]
    np.testing.assert_allclose(found.covariance, np.array([[3, -2], [-2, 4]]) / 8)
    np.testing.assert_allclose(found.mean(y), [9 / 8, 10 / 8])
    other = Posterior.of(rows, noise=0.5, prior=2.0)
    # A = 4 [[3, 2], [2, 2]] + I / 4 = [[12.25, 8], [8, 8.25]], determinant 37.0625
    np.testing.assert_allclose(other.covariance, np.array([[8.25, -8], [-8, 12.25]]) / 37.0625)
    np.testing.assert_allclose(other.mean(y), [4 * (8.25 * 7 - 8 * 6) / 37.0625, 4 * (-8 * 7 + 12.25 * 6) / 37.0625])
    np.testing.assert_allclose(covariance(rows[:0], noise=0.5, prior=2.0), 4 * np.eye(2))  # nothing known: the prior


def test_draws_have_the_posteriors_mean_and_covariance():
    rows, y = np.array([[1.0, 0], [1, 1], [1, 1]]), np.array([1.0, 2, 4])
    posterior, random = Posterior.of(rows, noise=1.0, prior=1.0), rng(0)
    drawn = np.array([posterior.draw(y, random) for _ in range(4000)])
    np.testing.assert_allclose(drawn.mean(0), [9 / 8, 10 / 8], atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), posterior.covariance, atol=0.04)
    narrow = np.array([posterior.draw(y, random, 0.1 * np.eye(2)) for _ in range(500)])
    np.testing.assert_allclose(np.cov(narrow.T), 0.01 * np.eye(2), atol=0.003)


def test_left_out_predictions_are_those_of_the_other_rows():
    random = rng(1)
    rows = SPACE.features([SPACE.sample(random) for _ in range(25)])
    targets = random.normal(size=(2, 25))
    found = Posterior.of(rows, noise=0.3, prior=0.5).left_out(*targets)
    for y, predicted in zip(targets, found, strict=True):
        for k in range(25):
            others = np.arange(25) != k
            alone = Posterior.of(rows[others], noise=0.3, prior=0.5).mean(y[others])
            assert predicted[k] == pytest.approx(rows[k] @ alone, abs=1e-9)


def test_standardized_by_hand():
    z, mean, deviation = standardized(np.array([4.0, 0, 1, 3, 2]), 0.25)
    assert (mean, deviation) == (pytest.approx(2.2), pytest.approx(1.36**0.5)), "of 4, 1, 1, 3, 2"
    np.testing.assert_allclose(z * deviation + mean, [4, 1, 1, 3, 2])
    z, mean, deviation = standardized(np.full(3, 0.7), 0.0)
    np.testing.assert_allclose(z, 0, atol=1e-12)
    assert (mean, deviation) == (pytest.approx(0.7), 1.0), "equal values are no reason to divide by 0"


def test_rows_grow():
    rows, random = Rows(3), rng(0)
    parts = [random.normal(size=(count, 3)) for count in (1, 0, 70, 1, 200)]
    for part in parts:
        rows.extend(part)
    np.testing.assert_array_equal(rows.array, np.concatenate(parts))


# thompson: the maximiser

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


# thompson: the search


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
