"""A space, an evaluator and studies that need no training."""

import dataclasses
import os
import time

import numpy as np

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.search.algorithms import make_algorithm
from keras_mnasnet.search.algorithms.base import Observation
from keras_mnasnet.search.engine import drive
from keras_mnasnet.search.executors import InProcess
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import Decision, SearchSpace
from keras_mnasnet.search.trials import Failure, Measurement, Order, StudyMeta

REWARD = Reward("soft", 10.0)
LEAKED = []


def toy_space(name="toy", decisions=6):
    return SearchSpace(name, tuple(Decision(f"d{i}", (0, 1, 2)) for i in range(decisions)))


def accuracy_of(values):
    return 0.5 + sum((index + 1) * value for index, value in enumerate(values.values())) / 100


SPACE = toy_space()  # 729 networks; the best is the last of every choice
ACCURACY = Reward("exponents", 1, 0, 0)


@dataclasses.dataclass(frozen=True)
class FakeEvaluator:
    """Accuracy and latency follow from the values; `seconds` a trial; every `fails`-th trial misbehaves as `how` says;
    `leaks` MB are kept."""

    seconds: float = 0.0
    how: str = "none"
    fails: int = 0
    folder: str = ""
    leaks: int = 0

    def __call__(self, trial):
        LEAKED.append(bytearray(b"x") * (self.leaks << 20))
        if self.seconds:
            time.sleep(self.seconds)
        if self.folder:
            with open(os.path.join(self.folder, f"{trial.number}-{trial.attempts}-{os.getpid()}"), "w") as file:
                file.write(str(time.time()))
        if self.fails and trial.number % self.fails == 0 and (trial.attempts == 1 or self.how.endswith("!")):
            return self.fail(self.how.rstrip("!"))
        latency = 5.0 + sum(trial.values.values())
        return Measurement(accuracy_of(trial.values), latency, "fake", 100, 200, {"training_steps": 1.0, "build": 0.5})

    def fail(self, how):
        if how == "crash":
            os._exit(7)
        if how == "kill":
            os.kill(os.getpid(), 9)
        if how == "hang":
            time.sleep(60)
        if how == "nan":
            return Measurement(float("nan"), 5.0, "fake")
        if how == "arithmetic":
            raise ArithmeticError("the loss of step 3 is NaN")
        if how == "memory":
            raise MemoryError
        raise RuntimeError("RESOURCE_EXHAUSTED: no room" if how == "resource" else "something else")


@dataclasses.dataclass(frozen=True)
class KeepsLatency:
    """Accuracy follows from the values; the latency is the driver's."""

    def __call__(self, trial):
        return Measurement(accuracy_of(trial.values), trial.latency_ms, trial.latency_source)


@dataclasses.dataclass(frozen=True)
class Climber:
    """An evaluator with rungs: what it keeps says what was trained how far, and it takes nothing else for a beginning."""

    fails: int = 0
    seconds: float = 0.0

    def __call__(self, trial):
        time.sleep(self.seconds)
        if self.fails and trial.number % self.fails == 0:
            return Measurement(failure=Failure("nan", "as asked for"))
        path = trial.key.partition("-")[0]
        if trial.state is not None:
            assert trial.state.decode() == f"{path}|{trial.begun:.3g}", (trial.state, path, trial.begun)
        assert (trial.weights is None) == (trial.start is None or trial.state is not None)
        accuracy = accuracy_of(trial.values) * trial.share**0.3
        kept = f"{path}|{trial.share:.3g}".encode() if trial.keeps else None
        seconds = {"training_steps": trial.share - (trial.begun if trial.state else 0.0)}
        return Measurement(accuracy, 5.0 + sum(trial.values.values()), "fake", 100, 200, seconds, kept=kept)


def meta_of(made, algorithm="random", **changes):
    values = {
        "space": made.name, "fingerprint": made.fingerprint(), "algorithm": algorithm, "reward": REWARD.to_json(), "seed": 0,
        "decisions": tuple((each.name, each.choices) for each in made.decisions),
    }  # fmt: skip
    return StudyMeta(**{**values, **changes})


def by_sum(space, candidates):
    return [sum(candidate) for candidate in candidates]


def go(
    study, space, *, trials, algorithm="random", order=None, executor=None, evaluator=None, screens=(), measured=None, **options
):  # fmt: skip
    executor = executor or InProcess(evaluator or FakeEvaluator())
    searcher = make_algorithm(algorithm, space, REWARD, seed=0)
    searcher.screens, searcher.measured = screens, measured
    searcher.meter = lambda candidate: (5.0 + sum(candidate), "fake")
    try:
        for _ in drive(
            study, space, searcher, executor, trials=trials, reward=REWARD, order=order or Order("window", 1), **options,
        ):  # fmt: skip
            pass
        return not study.count("pending", "running")
    finally:
        executor.close()


def facts_of(study):
    """What must not depend on kills: the trial list and the state."""
    rows = [
        (
            t.number,
            t.candidate,
            t.key,
            t.status,
            t.accuracy,
            t.latency_ms,
            t.reward,
            t.params,
            t.told,
            t.facts,
            t.extra,
            t.reason,
        )
        for t in study.trials()
    ]
    return rows, study.state()


def rng(seed):
    return np.random.default_rng(seed)


def tiny_network(candidate):
    kernel, filters = (3, 5)[candidate[0]], 8 * (1 + candidate[1])
    text = f"tiny-{kernel}-{filters}: stem8 r1_k3_s11_e1_i8_o8_noskip r1_k{kernel}_s22_e2_i8_o{filters} head32"
    return Architecture.parse(text)


def tiny_networks():
    """Six networks that train in a moment."""
    return SearchSpace("tiny", (Decision("kernel", (3, 5)), Decision("filters", (8, 16, 24))), build=tiny_network)


# asking and telling


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
