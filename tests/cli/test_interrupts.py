"""Ctrl-C that a library swallows is not lost."""

import contextlib
import os
import signal

import pytest

from keras_mnasnet.utils.system import Interrupts


def test_what_was_swallowed_is_raised_again():
    was = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        interrupts.check()
        with contextlib.suppress(KeyboardInterrupt):  # it may be raised, and swallowed, in a callback of the garbage collector
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(signal.SIGINT) is before
    signal.signal(signal.SIGINT, was)


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            interrupts.check()
    finally:
        signal.signal(signal.SIGINT, before)
