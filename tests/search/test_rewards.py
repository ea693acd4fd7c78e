"""Rewards by hand, from their texts, and stored."""

import json
import math

import numpy as np
import pytest

from keras_mnasnet.search.rewards import Reward, parse_reward

SOFT, HARD, ABSOLUTE = Reward("soft", 75), Reward("hard", 75), Reward("absolute", 75)


@pytest.mark.parametrize(
    ("reward", "accuracy", "latency_ms", "expected"),
    [
        (SOFT, 0.75, 75, 0.75),
        (SOFT, 0.75, 150, 0.7144785),  # 0.75 * 2 ** -0.07 = 0.75 * exp(-0.0485203) = 0.75 * 0.952638
        (SOFT, 0.75, 37.5, 0.787287),  # 0.75 * 2 ** 0.07
        (SOFT, 0.75, 78, 0.747943),  # 0.75 * 1.04 ** -0.07 = 0.75 * exp(-0.07 * 0.0392207)
        (HARD, 0.75, 75, 0.75),
        (HARD, 0.75, 10, 0.75),  # below the target latency says nothing
        (HARD, 0.75, 100, 0.5625),  # 0.75 * 75 / 100
        (HARD, 0.6, 150, 0.3),
        (ABSOLUTE, 0.75, 75, 0.75),
        (ABSOLUTE, 0.75, 90, 0.73),  # 0.75 - 0.1 * 0.2
        (ABSOLUTE, 0.75, 60, 0.73),  # too fast costs as much
        (ABSOLUTE, 0.1, 225, -0.1),  # 0.1 - 0.1 * 2
        (Reward("exponents", 80, 0, -2), 0.8, 100, 0.512),  # 0.8 * 0.8 ** 2
        (Reward("exponents", 80, 0, -2), 0.8, 40, 0.8),
        (Reward("exponents", 80, -0.5, -1), 0.4, 20, 0.8),  # 0.4 * 0.25 ** -0.5
        (Reward("exponents", 80, 0, 0), 0.4, 9000, 0.4),
        (Reward("soft", 100, -1, -1), 0.4, 50, 0.8),
        (Reward("absolute", 100, 0, -0.5), 0.9, 50, 0.9),
        (Reward("absolute", 100, 0, -0.5), 0.9, 120, 0.8),
    ],
)
def test_rewards_by_hand(reward, accuracy, latency_ms, expected):
    assert reward(accuracy, latency_ms) == pytest.approx(expected, abs=1e-6)
    assert type(reward(accuracy, latency_ms)) is float


def test_twice_the_latency_is_worth_five_percent():
    """Paper, section 3: the exponent of the soft reward is chosen by this."""
    assert SOFT(0.75, 2 * 40) == pytest.approx(SOFT(0.75 * 0.953, 40), rel=1e-3)
    assert SOFT(0.5 * 1.05, 150) / SOFT(0.5, 75) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("reward", [SOFT, HARD, ABSOLUTE, Reward("exponents", 75, -0.2, -0.9)])
def test_arrays_are_the_single_rewards(reward):
    accuracies, latencies = np.array([0.1, 0.5, 0.7, 0.9]), np.array([20.0, 75.0, 75.001, 300.0])
    expected = [reward(float(a), float(ms)) for a, ms in zip(accuracies, latencies, strict=True)]
    np.testing.assert_allclose(reward.of(accuracies, latencies), expected, rtol=1e-15)


def test_defaults_and_what_latency_changes():
    assert (SOFT.alpha, SOFT.beta, HARD.alpha, HARD.beta) == (-0.07, -0.07, 0.0, -1.0)
    assert (ABSOLUTE.alpha, ABSOLUTE.beta) == (-0.1, -0.1)
    assert [each.uses_latency for each in (SOFT, HARD, ABSOLUTE, Reward("exponents", 1, 0, 0))] == [True, True, True, False]
    assert [str(SOFT), str(HARD)] == ["soft(-0.07, -0.07) at 75 ms", "hard(0, -1) at 75 ms"]
    assert str(Reward("exponents", 1, 0, 0)) == "accuracy"


def test_a_finished_study_is_ranked_anew_for_another_target():
    measured = [(0.70, 60.0), (0.74, 90.0), (0.76, 130.0)]
    best = {target: max(measured, key=lambda row: Reward("hard", target)(*row)) for target in (60, 90, 130)}
    assert best == {60: measured[0], 90: measured[1], 130: measured[2]}


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("soft", Reward("soft", 75)),
        (" hard ", Reward("hard", 75)),
        ("absolute", Reward("absolute", 75)),
        ("soft:-0.15", Reward("soft", 75, -0.15, -0.15)),
        ("hard:-2", Reward("hard", 75, 0, -2)),
        ("absolute:-0.2", Reward("absolute", 75, -0.2, -0.2)),
        ("-0.07,-1", Reward("exponents", 75, -0.07, -1)),
        ("exponents:0, -0.5", Reward("exponents", 75, 0, -0.5)),
        ("accuracy", Reward("exponents", 75, 0, 0)),
    ],
)
def test_texts(text, reward):
    assert parse_reward(text, 75) == reward


def test_accuracy_needs_no_target():
    assert parse_reward("accuracy", None)(0.7, 1e6) == 0.7
    with pytest.raises(ValueError, match="'soft' needs a latency target. Received: target_ms=None. `accuracy` needs none"):
        parse_reward("soft", None)


@pytest.mark.parametrize(
    "text",
    ["", "fast", "soft:", "soft:x", "soft:-0.1,-0.2", "soft:nan", "hard:", "hard:0,-1", "exponents", "exponents:-1", "-0.07",
     "-0.07,x", "-0.07,-1,-2", "accuracy:1", "sofd:-0.07,-1", "-0.07,-1:3"],
)  # fmt: skip
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="A reward is soft, hard, absolute .* or accuracy. Received: "):
        parse_reward(text, 75)


@pytest.mark.parametrize("reward", [SOFT, HARD, ABSOLUTE, Reward("exponents", 22.5, -0.1, -3)])
def test_json_round_trip(reward):
    assert Reward.from_json(json.loads(json.dumps(reward.to_json()))) == reward
    assert reward.to_json()["schema"] == 1


@pytest.mark.parametrize("schema", [2, None])
def test_another_schema_is_refused(schema):
    with pytest.raises(ValueError, match=f"A stored reward must have schema 1. Received: schema={schema}"):
        Reward.from_json({**SOFT.to_json(), "schema": schema})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smooth", 75), r"`kind` must be one of \('soft', 'hard', 'absolute', 'exponents'\). Received: kind='smooth'"),
        (("soft", 0), "`target_ms` must be above 0. Received: target_ms=0.0"),
        (("soft", -3), "`target_ms` must be above 0"),
        (("soft", math.inf), "`target_ms` must be a finite number. Received: target_ms=inf"),
        (("soft", "75"), "`target_ms` must be a finite number. Received: target_ms='75'"),
        (("soft", True), "`target_ms` must be a finite number. Received: target_ms=True"),
        (("soft", 75, 0.07, -0.07), "`alpha` must not be above 0: it would reward slowness. Received: alpha=0.07"),
        (("hard", 75, 0, 1), "`beta` must not be above 0"),
        (("hard", 75, 0, math.nan), "`beta` must be a finite number. Received: beta=nan"),
        (("exponents", 75), "A reward by exponents needs both. Received: alpha=None"),
        (("exponents", 75, -0.1), "needs both. Received: beta=None"),
    ],
)
def test_wrong_rewards(arguments, message):
    with pytest.raises(ValueError, match=message):
        Reward(*arguments)


@pytest.mark.parametrize("latency_ms", [0, -1, math.nan])
def test_wrong_latency(latency_ms):
    with pytest.raises(ValueError, match="`latency_ms` must be above 0. Received: latency_ms="):
        SOFT(0.5, latency_ms)
