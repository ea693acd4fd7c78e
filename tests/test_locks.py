"""One process at a time, whatever name it uses: links of both kinds, folders, and what a killed process leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_mnasnet.utils import locks
from keras_mnasnet.utils.locks import BusyError, locked, sweep_lock

HOLD = """
import sys, time
from keras_mnasnet.utils.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
COUNT = """
import sys, time
from pathlib import Path
from keras_mnasnet.utils.locks import BusyError, locked
path, left = Path(sys.argv[1]), 10
while left:
    try:
        with locked(path):
            n = int(path.read_text())
            time.sleep(0.001)
            path.write_text(str(n + 1))
            left -= 1
        time.sleep(0.002)
    except BusyError:
        time.sleep(0.001)
"""


@pytest.fixture
def holding():
    started = []

    def hold(path):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()


def test_a_file_is_held_under_each_of_its_names(tmp_path, holding):
    file, other = tmp_path / "a.study", tmp_path / "other"
    file.write_bytes(b"x")
    other.mkdir()
    (tmp_path / "soft").symlink_to(file)
    os.link(file, other / "hard")
    (tmp_path / "folder").symlink_to(tmp_path)
    process = holding(file)
    for name in (file, tmp_path / "soft", other / "hard", tmp_path / "folder" / "a.study", tmp_path / "folder" / "soft"):
        with pytest.raises(BusyError, match=f"which process {process.pid} on .* is writing") as caught, locked(name):
            pass
        assert str(process.pid) in caught.value.holder
    with locked(tmp_path / "another") as path:
        assert path == tmp_path / "another"


def test_a_folder_is_held_under_each_of_its_names(tmp_path, holding):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "latest").symlink_to(folder)
    holding(tmp_path / "latest")
    for name in (folder, tmp_path / "latest", Path(f"{folder}/../latest/")):
        with pytest.raises(BusyError), locked(name):
            pass
    assert list(folder.iterdir()) == []


def test_this_process_is_kept_out_too_and_nothing_stays(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"")
    with locked(file):
        facts = file.stat()
        beside = locks._folder() / f"{facts.st_dev:x}-{facts.st_ino:x}.lock"
        assert beside.is_file()
        with pytest.raises(BusyError, match=f"process {os.getpid()} "), locked(file):
            pass
        with pytest.raises(BusyError), locked(file):
            pass
    assert os.listdir(tmp_path) == ["a"]
    assert not beside.exists()
    with locked(file):
        pass


def test_a_killed_process_holds_nothing(tmp_path, holding):
    file = tmp_path / "a"
    file.write_bytes(b"")
    process = holding(file)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with locked(file):
        assert (tmp_path / ".a.lock").read_text("utf-8").startswith(f"process {os.getpid()} ")
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_of_locks_of_someone_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"keras_mnasnet-locks-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(OSError, match="must be this user's own. Received: .*keras_mnasnet-locks"), locked(tmp_path / "a"):
        pass


def test_many_processes_take_turns(tmp_path):
    """Each adds one to a number while it holds the file; none is lost, although the lock's file comes and goes."""
    file = tmp_path / "n"
    file.write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(file)]) for _ in range(2)]
    until = time.monotonic() + 120
    assert [process.wait(until - time.monotonic()) for process in processes] == [0, 0]
    assert file.read_text() == "20"


def test_the_lock_of_a_killed_process_is_swept_and_a_held_one_stays(tmp_path, holding):
    file, lock = tmp_path / "a.safetensors", tmp_path / ".a.safetensors.lock"
    file.write_bytes(b"x")
    process = holding(file)
    sweep_lock(file)
    assert lock.exists(), "somebody holds it"
    process.kill()
    process.wait()
    assert lock.exists(), "a killed process leaves it"
    sweep_lock(file)
    assert sorted(tmp_path.iterdir()) == [file]
    sweep_lock(file)
    assert sorted(tmp_path.iterdir()) == [file]
