"""A study whose driver is killed again and again, in forked processes of a process without TensorFlow; prints JSON.

Usage: search_kills.py FOLDER ALGORITHM ORDER SIZE COMMIT_KILLS SIGNAL_KILLS [all]

With `all` the search has rungs, networks that begin with the best one's weights, and screens.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from search_fakes import Climber, FakeEvaluator, by_sum, facts_of, go, meta_of, toy_space

from keras_mnasnet.search.rungs import Rungs
from keras_mnasnet.search.screens import Measured, Screen
from keras_mnasnet.search.study import Study
from keras_mnasnet.search.trials import Order

SPACE = toy_space(decisions=7)
OPTIONS = {}


def live(path, algorithm, order, trials, evaluator):
    with Study.at(path, meta_of(SPACE, algorithm)) as study:
        go(study, SPACE, trials=trials, algorithm=algorithm, order=order, evaluator=evaluator, **OPTIONS)


def forked(work):
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dies_at(commit, before, work):
    """The process ends without a word at its commit of that number, just before or just after."""
    count = [0]
    own = Study._commit

    def counted(self):
        count[0] += 1
        if count[0] == commit and before:
            os._exit(9)
        own(self)
        if count[0] == commit:
            os._exit(9)

    Study._commit = counted
    work()


def main():
    folder, algorithm, kind, size, commit_kills, signal_kills, *more = sys.argv[1:]
    if more:
        OPTIONS.update(
            rungs=Rungs((0.2, 0.4, 1.0)), inherit_best=True, screens=(Screen("by sum", by_sum),), measured=Measured(4)
        )
    order, rng, folder = Order(kind, int(size)), np.random.default_rng(7), Path(folder)
    fails = Climber(fails=7) if more else FakeEvaluator(how="nan", fails=7)

    live(folder / "whole.sqlite", algorithm, order, 12, fails)
    expected = facts_of(Study.open(folder / "whole.sqlite", read_only=True))
    equal = died = 0
    for number in range(int(commit_kills)):
        path = folder / f"{number}.sqlite"
        work = lambda: live(path, algorithm, order, 12, fails)  # noqa: B023, E731
        commit, before = int(rng.integers(1, 28)), bool(rng.integers(2))
        died += wait(forked(lambda: dies_at(commit, before, work))) == 9  # noqa: B023
        assert wait(forked(work)) == 0
        with Study.open(path, read_only=True) as study:
            equal += facts_of(study) == expected

    slow = Climber(seconds=0.005) if more else FakeEvaluator(seconds=0.005, how="nan", fails=50)
    trials = 20 + 8 * int(signal_kills)  # more than all lives together can finish, on the fastest machine
    path, killed, lives = folder / "signals.sqlite", 0, 0
    while killed < int(signal_kills):
        child = forked(lambda: live(path, algorithm, order, trials, slow))
        lives += 1
        time.sleep(float(rng.uniform(0.002, 0.04)))
        os.kill(child, signal.SIGKILL)
        killed += wait(child) == -signal.SIGKILL
        if lives > 3 * int(signal_kills):
            break
    live(path, algorithm, order, trials, slow)
    live(folder / "signals-whole.sqlite", algorithm, order, trials, slow)
    with Study.open(path, read_only=True) as one, Study.open(folder / "signals-whole.sqlite", read_only=True) as other:
        same = facts_of(one) == facts_of(other)
        count = sum(trial.status == "done" and trial.of is None for trial in one.trials())
    print(json.dumps({"equal": equal, "died": died, "killed": killed, "same": same, "done": count, "trials": trials}))


if __name__ == "__main__":
    main()
