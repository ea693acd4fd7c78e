"""The driver: orders, retries, failures, budgets."""

import heapq
import random

import pytest
from search_fakes import REWARD, FakeEvaluator, accuracy_of, facts_of, go, meta_of, toy_space

from keras_mnasnet.search.algorithms import make_algorithm
from keras_mnasnet.search.engine import StudyStopped, drive
from keras_mnasnet.search.executors import InProcess, evaluated
from keras_mnasnet.search.progress import utilization
from keras_mnasnet.search.study import Study
from keras_mnasnet.search.trials import Failure, Measurement, Order

SPACE = toy_space()


class Shuffled:
    """Four workers in one process that finish in an order of their own."""

    workers = 4

    def __init__(self, evaluator, pick):
        self.evaluator, self.pick, self.out = evaluator, pick, []

    @property
    def free(self):
        return self.workers - len(self.out)

    def submit(self, trial, *, avoid=None):
        self.out.append((trial, avoid))
        return f"worker {trial.number % 4}"

    def wait(self, seconds):
        trial, _ = self.out.pop(self.pick(len(self.out)))
        return [evaluated(self.evaluator, trial).by(f"worker {trial.number % 4}", trial, 1.0, 2.0)]

    def close(self):
        pass


class Clocked:
    """Workers whose trials take as long as a draw says, on a clock of their own."""

    def __init__(self, workers, deviation):
        self.workers, self.deviation, self.draw = workers, deviation, random.Random(1)
        self.out, self.now, self.busy = [], 1e9, 0.0

    @property
    def free(self):
        return self.workers - len(self.out)

    def submit(self, trial, *, avoid=None):
        seconds = self.draw.lognormvariate(0, self.deviation)
        self.busy += seconds
        heapq.heappush(self.out, (self.now + seconds, trial.number, trial))
        return "worker"

    def wait(self, seconds):
        self.now, _, trial = heapq.heappop(self.out)
        return [evaluated(FakeEvaluator(), trial).by("worker", trial, self.now, self.now)]

    def close(self):
        pass


@pytest.mark.parametrize(("workers", "trials"), [(1, 20), (8, 200), (64, 1600)])
def test_the_usual_order_keeps_workers_busy(tmp_path, workers, trials):
    """The share of the time in which a worker has a trial, with the deviation of real trainings; and what is said of it."""
    order, executor, made = Order.usual("thompson", workers), Clocked(workers, 0.5), toy_space(decisions=9)
    assert order == Order("window", {1: 1, 8: 16, 64: 192}[workers])
    with Study.create(tmp_path / "s", meta_of(made)) as one:
        go(one, made, trials=trials, order=order, executor=executor)
    share = executor.busy / (workers * (executor.now - 1e9))
    assert share >= 0.75
    assert share == pytest.approx(utilization(order, workers, 0.5, trials), abs=0.1)
    assert utilization(Order("window", workers), workers, 0.5, trials) < 0.7 or workers == 1
    assert utilization(Order("batch", 20), 8, 0.0, 40) == pytest.approx(20 / 24)
    assert utilization(Order("completion", workers), workers, 0.5, trials) > share - 0.02


def study(tmp_path, name="s.sqlite", algorithm="random"):
    return Study.create(tmp_path / name, meta_of(SPACE, algorithm))


@pytest.mark.parametrize(("algorithm", "order"), [("ppo", Order("batch", 4)), ("evolution", Order("window", 4))])
def test_trials_do_not_depend_on_who_is_faster(tmp_path, algorithm, order):
    found = []
    for name, pick in (("first", lambda n: 0), ("last", lambda n: n - 1), ("middle", lambda n: n // 2)):
        with study(tmp_path, name, algorithm) as one:
            go(one, SPACE, trials=30, algorithm=algorithm, order=order, executor=Shuffled(FakeEvaluator(), pick))
            found.append(facts_of(one))
    assert found[0] == found[1] == found[2]


def test_completion_tells_in_the_order_of_finishing(tmp_path):
    with study(tmp_path) as one:
        go(one, SPACE, trials=6, order=Order("completion", 3), executor=Shuffled(FakeEvaluator(), lambda n: n - 1))
        assert [t.number for t in sorted(one.trials(), key=lambda t: t.told)] == [2, 3, 4, 5, 1, 0]


@pytest.mark.parametrize(
    ("how", "kind", "reason"),
    [
        ("nan", "nan", "the evaluator returned accuracy=nan"), ("arithmetic", "nan", "the loss of step 3 is NaN"),
        ("memory", "memory", "the process has no memory left"), ("resource", "memory", "RESOURCE_EXHAUSTED: no room"),
        ("error", "error", "RuntimeError: something else"),
    ],
)  # fmt: skip
def test_a_failed_trial_is_tried_once_more_and_keeps_its_reason(tmp_path, how, kind, reason):
    with study(tmp_path, "once") as one:
        go(one, SPACE, trials=4, evaluator=FakeEvaluator(how=how, fails=2))
        assert [(t.status, t.attempts) for t in one.trials()] == [("done", 2), ("done", 1)] * 2
    with study(tmp_path, "always") as one:
        go(one, SPACE, trials=4, evaluator=FakeEvaluator(how=how + "!", fails=2))
        assert [(t.status, t.attempts) for t in one.trials()] == [("failed", 2), ("done", 1)] * 2
        failed = one.trial(0)
        assert failed.reason.startswith(f"{kind}: ")
        assert reason in failed.reason
        assert (failed.accuracy, failed.reward, failed.told) == (None, None, 0)
        assert [m.failure.kind for m in one.measurements(0)] == [kind, kind]


def test_the_second_attempt_avoids_the_first_worker(tmp_path):
    executor = Shuffled(FakeEvaluator(how="nan", fails=3), lambda n: 0)
    avoided = []
    submit = executor.submit

    def watched(trial, *, avoid=None):
        avoided.append((trial.number, trial.attempts, avoid))
        return submit(trial, avoid=avoid)

    executor.submit = watched
    with study(tmp_path) as one:
        go(one, SPACE, trials=3, executor=executor, order=Order("window", 3))
    assert (0, 2, "worker 0") in avoided
    assert all(avoid is None for _, attempt, avoid in avoided if attempt == 1)


def test_nothing_but_failures_stops_the_study(tmp_path):
    with study(tmp_path) as one:
        with pytest.raises(StudyStopped, match="8 failures in a row, the last with error: RuntimeError"):
            go(one, SPACE, trials=40, evaluator=FakeEvaluator(how="error!", fails=1))
        assert one.count("failed") == 8
        go(one, SPACE, trials=20)
        assert one.count("done") == 12


@pytest.mark.parametrize("kind", ["device", "data"])
def test_a_vanished_device_stops_the_study_and_the_trial_waits(tmp_path, kind):
    def evaluator(trial):
        if trial.number == 2:
            return Measurement(failure=Failure(kind, "no phone answers"))
        return Measurement(accuracy_of(trial.values), 7.0)

    with study(tmp_path) as one:
        with pytest.raises(StudyStopped, match="Received at trial 2: no phone answers. It waits"):
            go(one, SPACE, trials=5, executor=InProcess(evaluator))
        assert [(t.status, t.attempts) for t in one.trials()][2:] == [("pending", 0)]
        go(one, SPACE, trials=5)
        assert one.count("done") == 5


def test_the_meter_runs_in_the_driver(tmp_path):
    seen = []

    def evaluator(trial):
        seen.append((trial.latency_ms, trial.latency_source))
        return Measurement(0.5, trial.latency_ms, trial.latency_source)

    with study(tmp_path) as one:
        go(one, SPACE, trials=2, executor=InProcess(evaluator), meter=lambda trial: (4.0 + trial.number, "phone"))
        assert [(t.latency_ms, t.latency_source) for t in one.trials()] == [(4.0, "phone"), (5.0, "phone")] == seen

        def gone(trial):
            raise OSError("the phone is away")

        with pytest.raises(StudyStopped, match="the phone is away"):
            go(one, SPACE, trials=3, meter=gone)


def test_a_result_without_latency_needs_a_cost(tmp_path):
    with study(tmp_path) as one:
        go(one, SPACE, trials=1, executor=InProcess(lambda trial: Measurement(0.5)))
        assert "returned no latency, and the space has no cost" in one.trial(0).reason


def test_a_space_that_is_used_up_ends_the_study(tmp_path):
    space = toy_space(decisions=2)
    with Study.create(tmp_path / "s", meta_of(space)) as one:
        assert go(one, space, trials=50, order=Order("window", 4))
        assert one.count("done") == 9


def test_a_time_budget_leaves_the_rest_for_later(tmp_path):
    with study(tmp_path) as one:
        assert not go(one, SPACE, trials=500, evaluator=FakeEvaluator(seconds=0.01), seconds=0.1)
        assert 0 < one.count("done") < 500
        done = one.count("done")
        assert go(one, SPACE, trials=done + 3)


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="`kind` must be one of"):
        Order("soon", 1)
    with pytest.raises(ValueError, match="`size` must be an integer >= 1. Received: size=0"):
        Order("batch", 0)
    algorithm = make_algorithm("random", SPACE, REWARD, seed=0)
    with study(tmp_path) as one, pytest.raises(ValueError, match="`trials` must be an integer >= 1"):
        drive(one, SPACE, algorithm, InProcess(FakeEvaluator()), trials=0, reward=REWARD, order=Order("window", 1))
