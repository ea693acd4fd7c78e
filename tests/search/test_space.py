"""A search space as a plain value: choices, keys, draws, neighbours, features."""

import collections
import dataclasses
import pickle

import numpy as np
import pytest
from search_fakes import ACCURACY, make, observed, rng, toy_space

from keras_mnasnet.search.space import Decision, SearchSpace

DECISIONS = (Decision("op", ("conv", "mbconv")), Decision("kernel", (3, 5, 7)), Decision("se", (0.0, 0.25)))
SPACE = SearchSpace("small", DECISIONS)


def without_dead_kernel(candidate):
    """A `conv` has one kernel here, whatever is asked for."""
    return (0, 0, candidate[2]) if candidate[0] == 0 else candidate


def at_most_kernel_5(candidate):
    return candidate[1] < 2


def big_space(**changes):
    return SearchSpace("big", tuple(Decision(f"d{i}", (0, 1, 2, 3)) for i in range(8)), **changes)


def test_sizes():
    assert SPACE.counts == (2, 3, 2)
    assert SPACE.size == 12
    assert len(set(SPACE.members)) == 12
    assert big_space().size == 4**8
    assert big_space().members is None, "more than 20,000 candidates are not listed"
    assert toy_space(decisions=9).members is not None, "19,683 are"


def test_values_and_candidates_are_each_others_inverse():
    assert SPACE.values((1, 2, 0)) == {"op": "mbconv", "kernel": 7, "se": 0.0}
    assert SPACE.candidate({"se": 0.0, "kernel": 7, "op": "mbconv"}) == (1, 2, 0)
    for member in SPACE.members:
        assert SPACE.candidate(SPACE.values(member)) == member
        assert SPACE.check(np.array(member)) == member
        assert [type(index) for index in SPACE.check(np.array(member))] == [int] * 3


@pytest.mark.parametrize("candidate", [(1, 2), (1, 2, 0, 0), (1, 3, 0), (-1, 0, 0), (0.5, 0, 0), ()])
def test_a_candidate_of_another_shape_is_refused(candidate):
    with pytest.raises(ValueError, match=r"3 indices, each below its number of choices \(2, 3, 2\). Received: candidate="):
        SPACE.check(candidate)
    with pytest.raises(ValueError, match="A candidate of 'small' has 3 indices"):
        SPACE.values(candidate)


def test_unknown_choices_are_named():
    with pytest.raises(ValueError, match=r"`kernel` must be one of \(3, 5, 7\). Received: kernel=9"):
        SPACE.candidate({"op": "conv", "kernel": 9, "se": 0.0})
    with pytest.raises(ValueError, match=r"Received: unknown \['depth'\], missing \['se'\]"):
        SPACE.candidate({"op": "conv", "kernel": 3, "depth": 1})


def test_wrong_spaces():
    with pytest.raises(ValueError, match="name is a text that is not empty. Received: name=''"):
        Decision("", (1, 2))
    with pytest.raises(ValueError, match="at least one choice. Received: choices=\\(\\) of 'k'"):
        Decision("k", ())
    with pytest.raises(ValueError, match="Received: None of type NoneType in 'k'"):
        Decision("k", (1, None))
    with pytest.raises(ValueError, match="must differ. Received: 3 twice in 'k'"):
        Decision("k", (3, 5, 3))
    with pytest.raises(ValueError, match="at least one decision. Received: decisions=\\(\\) of 'none'"):
        SearchSpace("none", ())
    with pytest.raises(ValueError, match=r"different names. Received: \['k'\] twice"):
        SearchSpace("twice", (Decision("k", (1, 2)), Decision("k", (3, 4))))


def test_draws_are_uniform_over_choices():
    random, draws = rng(0), 6000
    counts = collections.Counter(SPACE.sample(random) for _ in range(draws))
    assert set(counts) == set(SPACE.members)
    assert max(abs(count - draws / 12) for count in counts.values()) < 4 * (draws / 12) ** 0.5, "four deviations"
    drawn = np.array([big_space().sample(random) for _ in range(2000)])
    shares = np.array([(drawn == choice).mean(0) for choice in range(4)])
    assert abs(shares - 0.25).max() < 4 * (0.25 * 0.75 / 2000) ** 0.5


def test_a_network_that_many_candidates_stand_for_is_drawn_as_often_as_all_of_them():
    space = SearchSpace("dead", DECISIONS, canonical_of=without_dead_kernel)
    assert len(space.members) == 2 + 6
    random = rng(0)
    counts = collections.Counter(space.sample(random) for _ in range(6000))
    assert counts[(0, 0, 0)] == pytest.approx(1500, abs=150)
    assert counts[(1, 2, 1)] == pytest.approx(500, abs=90)


def test_draws_meet_the_constraint():
    space = SearchSpace("limited", DECISIONS, allowed=at_most_kernel_5)
    random = rng(0)
    counts = collections.Counter(space.sample(random) for _ in range(4000))
    assert set(counts) == set(space.members) == {each for each in SPACE.members if each[1] < 2}
    assert max(abs(count - 500) for count in counts.values()) < 4 * 500**0.5
    large = big_space(allowed=at_most_kernel_5)
    drawn = [large.sample(random) for _ in range(500)]
    assert {candidate[1] for candidate in drawn} == {0, 1}
    assert not large.is_allowed((0, 2, 0, 0, 0, 0, 0, 0))
    assert big_space().is_allowed((0, 2, 0, 0, 0, 0, 0, 0))


def test_a_constraint_that_lets_nothing_in_is_named():
    def nothing(candidate):
        return False

    listed = SearchSpace("small", DECISIONS, allowed=nothing)
    with pytest.raises(ValueError, match="constraint of 'small' must let some candidates in. Received: none of 12 candidates"):
        listed.sample(rng(0))
    with pytest.raises(ValueError, match="Received: none in 10,000 draws. Loosen the constraint, or the target"):
        big_space(allowed=nothing).sample(rng(0))


def test_neighbours_differ_in_one_decision():
    found = SPACE.neighbours((0, 1, 0))
    assert sorted(found) == [(0, 0, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0)]
    assert len(big_space().neighbours((0,) * 8)) == 8 * 3
    limited = SearchSpace("limited", DECISIONS, allowed=at_most_kernel_5)
    assert sorted(limited.neighbours((0, 1, 0))) == [(0, 0, 0), (0, 1, 1), (1, 1, 0)]
    with pytest.raises(ValueError, match="3 indices"):
        SPACE.neighbours((0, 0))


def test_neighbours_are_other_networks_once():
    space = SearchSpace("dead", DECISIONS, canonical_of=without_dead_kernel)
    assert sorted(space.neighbours((0, 0, 0))) == [(0, 0, 1), (1, 0, 0)], "no kernel of a conv"
    assert sorted(space.neighbours((1, 2, 0))) == [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 2, 1)]


def test_keys_are_those_of_networks_and_equal_everywhere():
    space = SearchSpace("dead", DECISIONS, canonical_of=without_dead_kernel)
    assert space.canonical((0, 2, 1)) == (0, 0, 1)
    assert space.key((0, 2, 1)) == space.key((0, 1, 1)) == space.key((0, 0, 1)) == "afa6f69a76d6b851"
    assert len({space.key(candidate) for candidate in SPACE.members}) == 8
    assert len({SPACE.key(candidate) for candidate in SPACE.members}) == 12
    reordered = SearchSpace("dead", (DECISIONS[2], DECISIONS[0], DECISIONS[1]))
    assert reordered.key((1, 0, 0)) == "afa6f69a76d6b851", "the key hashes choices by name"


def test_the_fingerprint_is_the_spaces_identity():
    assert SPACE.fingerprint() == "16b5797a3602bb4d"
    others = [
        SearchSpace("other", DECISIONS),
        SearchSpace("small", DECISIONS, options={"width": 0.5}),
        SearchSpace("small", DECISIONS, options={"width": 1.0}),
        SearchSpace("small", DECISIONS[::-1]),
        SearchSpace("small", (*DECISIONS[:2], Decision("se", (0.0, 0.5)))),
        SearchSpace("small", (*DECISIONS[:2], Decision("gate", (0.0, 0.25)))),
    ]
    assert len({SPACE.fingerprint(), *(other.fingerprint() for other in others)}) == 7
    assert SearchSpace("small", list(DECISIONS), cost=len).fingerprint() == SPACE.fingerprint()


def test_features_by_hand():
    assert SPACE.feature_count == 1 + 1 + 2 + 1
    assert SPACE.offsets.tolist() == [1, 2, 4]
    assert SPACE.features((0, 0, 0)).tolist() == [1, 0, 0, 0, 0]
    assert SPACE.features((1, 0, 0)).tolist() == [1, 1, 0, 0, 0]
    assert SPACE.features((0, 1, 1)).tolist() == [1, 0, 1, 0, 1]
    several = SPACE.features([(1, 2, 0), (0, 0, 1)])
    assert several.tolist() == [[1, 1, 0, 1, 0], [1, 0, 0, 0, 1]]
    assert np.linalg.matrix_rank(SPACE.features(list(SPACE.members))) == SPACE.feature_count, "none is a sum of others"


def test_a_decision_with_one_choice_has_no_feature():
    space = SearchSpace("one", (Decision("a", (1, 2)), Decision("fixed", (7,)), Decision("b", (1, 2))))
    assert (space.size, space.feature_count) == (4, 3)
    assert space.features((1, 0, 1)).tolist() == [1, 1, 1]
    assert space.features((0, 0, 1)).tolist() == [1, 0, 1]


def test_a_space_pickles():
    space = SearchSpace("dead", DECISIONS, canonical_of=without_dead_kernel, allowed=at_most_kernel_5)
    space.members  # noqa: B018 (what was computed before must not hinder)
    again = pickle.loads(pickle.dumps(space))
    assert (again.fingerprint(), again.members) == (space.fingerprint(), space.members)


class Wide:
    """At most `most` of what no additive model gives exactly."""

    def __init__(self, most):
        self.most = most

    def usage(self, candidate):
        return ((1 + sum(candidate)) * (1 + candidate[0] * candidate[1]) / self.most,)

    def __call__(self, candidate):
        return self.usage(candidate)[0] <= 1


class Odd(Wide):
    def __call__(self, candidate):
        return super().__call__(candidate) and sum(candidate) % 2 == 1


def limited_space(most, decisions=12):
    choices = tuple(Decision(f"d{i}", (0, 1, 2, 3)) for i in range(decisions))
    return SearchSpace("limited", choices, allowed=Wide(most))


def test_tight_limits_are_met_by_steps():
    """Of 4^12 candidates ten in a million have a sum of at most 4: no draw would find one."""
    tight = limited_space(5)
    found = [tight.sample(rng(seed)) for seed in range(60)]
    assert all(tight.is_allowed(candidate) for candidate in found)
    assert len(set(found)) > 30
    assert [tight.sample(rng(seed)) for seed in range(5)] == [limited_space(5).sample(rng(seed)) for seed in range(5)]
    assert set(limited_space(1).sample(rng(seed)) for seed in range(3)) == {(0,) * 12}, "the one that there is"
    likely = [tight.is_allowed(candidate) for candidate in tight.likely(rng(0), 200)]
    assert sum(likely) > 60
    with pytest.raises(ValueError, match="the smallest network that was found takes 2 times what they allow. Loosen"):
        limited_space(0.5).sample(rng(0))
    odd = dataclasses.replace(tight, allowed=Odd(5))
    assert {sum(odd.sample(rng(seed))) % 2 for seed in range(20)} == {1}, "a constraint of yes and no beside the limits"
    loose = limited_space(1e6)
    assert loose.likely(rng(0), 50) == SearchSpace("free", loose.decisions).likely(rng(0), 50), "nothing to change"


@pytest.mark.parametrize("name", ["thompson", "random", "ppo"])
def test_every_network_within_tight_limits_is_asked_for(name):
    """Nine candidates: no draw would meet them, and nothing says that there are no more before all were asked for."""
    made = limited_space(2, decisions=8)
    search = make(name, made, ACCURACY)
    asked = []
    while proposals := search.ask(1):
        asked += [proposal.candidate for proposal in proposals]
        search.tell([observed(made, proposals[0], ACCURACY)])
    assert sorted(asked) == sorted([(0,) * 8, *(tuple(int(i == j) for i in range(8)) for j in range(8))])
