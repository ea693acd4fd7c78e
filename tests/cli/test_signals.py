"""Being stopped, and running out of memory: an exit status, a line at most, and nothing left behind."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from keras_mnasnet.cli import main, networks

CODE = """
import os, signal, sys, tempfile, time
from keras_mnasnet.cli import main, networks

def work(arguments):
    with tempfile.TemporaryDirectory(dir={folder!r}):
        ready, tell = os.pipe()
        child = os.fork()
        if not child:
            os.write(tell, b"x")
            time.sleep(20)
            os._exit(0)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        time.sleep(20)

networks.networks = work
sys.argv = ["mnasnet", "networks"]
main.entry_point()
"""


@pytest.mark.parametrize(("number", "status", "said"), [("SIGTERM", 143, ""), ("SIGINT", 130, "stopped")])
def test_stopped(tmp_path, number, status, said):
    """A forked child ends as children do, by the signal; the process itself removes its temporary folder."""
    command = [sys.executable, "-c", CODE.format(folder=str(tmp_path))]
    heard = {
        "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    }  # ignored where the suite runs in the background
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **heard) as process:
        assert process.stdout.readline().strip() == str(-signal.SIGTERM)
        assert len(os.listdir(tmp_path)) == 1
        process.send_signal(getattr(signal, number))
        _, error = process.communicate(timeout=30)
    assert process.returncode == status
    assert error.strip() == said
    assert not os.listdir(tmp_path)


def test_handlers_of_others_stay():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with main._terminable():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    with main._terminable():
        assert callable(signal.getsignal(signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is before
    found = []

    def elsewhere():
        with main._terminable():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.parametrize("error", [np.zeros, MemoryError])
def test_no_memory(capsys, monkeypatch, error):
    def work(arguments):
        if error is MemoryError:
            raise MemoryError
        np.zeros(2**60, np.uint8)

    monkeypatch.setattr(networks, "networks", work)
    assert main.main(["networks"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: Out of memory in `mnasnet networks`: ")
    assert ("Unable to allocate" if error is np.zeros else "MemoryError") in said
    assert len(said.strip().splitlines()) == 1
