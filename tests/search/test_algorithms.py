"""What all algorithms promise, and evolution."""

import json
import statistics

import pytest
from search_fakes import ACCURACY, REWARD, SPACE, accuracy_of, advance, failed, make, observed, toy_space

from keras_mnasnet.search.algorithms import ALGORITHMS
from keras_mnasnet.search.algorithms.base import Algorithm, Observation
from keras_mnasnet.search.networks import constrained
from keras_mnasnet.search.networks import space as preset
from keras_mnasnet.search.space import Decision, SearchSpace

EACH = pytest.mark.parametrize("name", list(ALGORITHMS))


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
def test_a_failure_is_learned_from_as_the_worst_so_far(name):
    search, learned = make(name), []
    search._learn = learned.extend
    first, second = Observation((0,) * 6), Observation((1,) * 6, latency_ms=3.0)
    search.tell([first])
    assert learned == [], "nothing is worse than nothing"
    good = [Observation((2,) * 6, {}, 0.5, 8.0, 0.4), Observation((0, *(2,) * 5), {}, 0.3, 6.0, 0.45)]
    search.tell([*good, second])
    assert [each.candidate[0] for each in learned] == [2, 0, 0, 1]
    assert [(each.accuracy, each.latency_ms, each.reward) for each in learned] == [
        (0.5, 8.0, 0.4), (0.5, 8.0, 0.4), (0.3, 6.0, 0.45), (0.3, 3.0, 0.4),
    ]  # fmt: skip
    assert search.told == good


def test_thompson_leaves_the_networks_that_fail():
    """A third of the space fails whatever else is chosen: at most 5 % of the asks after fifty are of it."""
    made, asked = toy_space(decisions=12), []
    for seed in range(4):
        search = make("thompson", made, ACCURACY, seed=seed)
        for _ in range(100):
            (proposal,) = search.ask(1)
            asked.append(proposal.candidate[3] == 2)
            search.tell([failed(proposal) if asked[-1] else observed(made, proposal, ACCURACY)])
    late = [fails for number, fails in enumerate(asked) if number % 100 >= 50]
    assert sum(late) <= 0.05 * len(late)


@EACH
def test_a_restored_search_goes_on_as_if_nothing_had_happened(name):
    search = Recorded(make(name))
    advance(search, 10)
    out = search.ask(4)
    search.tell([observed(SPACE, out[2])])
    other = make(name)
    other.restore(search.state(), search.asked, search.told)
    assert other.state() == search.state()
    assert json.loads(search.state())["algorithm"] == name
    for one in (search, other):
        one.tell([observed(SPACE, out[3]), failed(out[0])])
    assert advance(other, 14) == advance(search, 14)
    assert other.state() == search.state()
    assert other.facts() == search.facts()


@EACH
def test_failures_before_the_first_success_are_restored_too(name):
    search = Recorded(make(name))
    lost = search.ask(3)
    search.tell([failed(proposal) for proposal in lost])
    (good,) = search.ask(1)
    other = make(name)
    other.restore(search.state(), search.asked, search.told)
    for one in (search, other):
        one.tell([observed(SPACE, good)])
    assert other.state() == search.state()
    assert advance(other, 8) == advance(search, 8)
    assert other.state() == search.state()


@EACH
def test_limits_do_not_depend_on_what_was_asked_before(name):
    """A search that goes on in another process, with a guide to its limits made anew, asks alike."""
    made, again = (constrained(preset("mbconv", width=0.25), max_madds=4_000_000, resolution=64) for _ in range(2))
    search, other = Recorded(make(name, made)), make(name, again)
    for _ in range(25):
        (proposal,) = search.ask(1)
        assert made.is_allowed(proposal.candidate)
        search.tell([observed(made, proposal)])
    other.restore(search.state(), search.asked, search.told)
    assert [other.ask(2) for _ in range(3)] == [search.ask(2) for _ in range(3)]


@EACH
def test_a_new_search_has_a_state(name):
    search, other = make(name, seed=1), make(name, seed=2)
    other.restore(search.state(), [], [])
    assert other.ask(30) == search.ask(30)


@EACH
def test_a_foreign_state_is_refused(name):
    search = make(name)
    other = next(each for each in ALGORITHMS if each != name)
    with pytest.raises(ValueError, match=f"must have algorithm='{name}'. Received: algorithm='{other}'"):
        search.restore(make(other).state(), [], [])
    with pytest.raises(ValueError, match="must have space='.{16}'. Received: space='.{16}'"):
        search.restore(make(name, toy_space(decisions=5)).state(), [], [])
    newer = json.loads(search.state()) | {"schema": 3}
    with pytest.raises(ValueError, match="The state of a search must have schema=2. Received: schema='3'"):
        search.restore(json.dumps(newer).encode(), [], [])
    with pytest.raises(ValueError, match="The state of a search must have asked=1. Received: asked='0'"):
        search.restore(search.state(), make(name).ask(1), [])


@EACH
def test_a_damaged_state_is_refused_by_its_field(name):
    """Every field as another type, and as a number that no generator has: a search, or one ValueError."""
    made = Recorded(make(name))
    advance(made, 12)
    whole = json.loads(made.state())
    refused = taken = 0
    for path in places(whole):
        for other in (None, "x", 7, -1, 10**40, [], {}, [[]], True, 0.5):
            changed = json.loads(json.dumps(whole))
            place = changed
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = other
            search = make(name)
            try:
                search.restore(json.dumps(changed).encode(), made.asked, made.told)
            except ValueError as error:
                refused += "Received: " in str(error)
            else:
                taken += 1
                assert search.ask(2)
    assert refused > 60
    assert taken < refused, "numbers such as the generator's may be other numbers"
    for damaged in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null"):
        with pytest.raises(ValueError, match="The state of a search must"):
            make(name).restore(damaged, [], [])


def places(value, path=()):
    """The path of every field; of lists the first three."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


class Recorded:
    """A search, with what it was asked and told."""

    def __init__(self, search):
        self.search, self.asked, self.told = search, [], []

    def ask(self, count):
        found = self.search.ask(count)
        self.asked += found
        return found

    def tell(self, observations):
        self.search.tell(observations)
        self.told += observations

    def __getattr__(self, name):
        return getattr(self.search, name)


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
        ("evolution", {"population": "many"}, "`population` must be a whole number. Received: population='many'"),
        ("thompson", {"noise": float("nan")}, "`noise` must be a finite number. Received: noise=nan"),
        ("ppo", {"preset": 3}, "`preset` must be a text. Received: preset=3"),
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
