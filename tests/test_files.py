"""The one writer: whole or not at all, through links, into what is no file, and nothing left behind."""

import ast
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import keras_mnasnet
from keras_mnasnet.utils.files import (
    SCRATCH,
    TEMPORARY,
    check_writable,
    is_empty,
    new_folder,
    replaced,
    scratch,
    sweep,
    write_file,
)
from keras_mnasnet.utils.locks import BusyError

PACKAGE = Path(keras_mnasnet.__file__).parent
HANGS_WHILE_IT_WRITES = """
import sys, time
from pathlib import Path
from keras_mnasnet.utils.files import replaced
with replaced(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


def killed_writer(path):
    child = subprocess.Popen([sys.executable, "-c", HANGS_WHILE_IT_WRITES, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "writing\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()


def write_half(path, error):
    with replaced(path) as temporary:
        temporary.write_bytes(bytes(1000))
        raise error


def fill_half(path):
    with new_folder(path) as folder:
        (folder / "index.html").write_text("half")
        raise RuntimeError("stop")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestWholeOrNotAtAll:
    def test_a_failure_leaves_what_was_there(self, tmp_path):
        path = tmp_path / "new" / "a.txt"
        write_file(path, "old")
        with pytest.raises(RuntimeError, match="stop"):
            write_half(path, RuntimeError("stop"))
        assert path.read_text() == "old"
        assert names(path.parent) == ["a.txt"]

    def test_two_writers_of_one_file_take_turns(self, tmp_path):
        path, sizes = tmp_path / "a.bin", [3_000_001, 2_000_003, 1_000_003]

        def write(byte, size):
            for _ in range(5):
                write_file(path, bytes([byte]) * size)

        threads = [threading.Thread(target=write, args=item) for item in enumerate(sizes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        content = path.read_bytes()
        assert content == bytes([content[0]]) * sizes[content[0]]
        assert names(tmp_path) == ["a.bin"]

    def test_what_a_killed_writer_left_goes_with_the_next_one(self, tmp_path):
        path = tmp_path / "a.txt"
        killed_writer(path)
        assert names(tmp_path) == [f"{TEMPORARY}a.txt"]
        write_file(path, "whole")
        assert (names(tmp_path), path.read_text()) == (["a.txt"], "whole")

    def test_a_sweep_takes_the_dead_and_leaves_the_living(self, tmp_path):
        killed_writer(tmp_path / "dead.txt")
        (tmp_path / "own.txt").write_text("stays")
        with replaced(tmp_path / "alive.txt") as temporary:
            temporary.write_text("alive")
            sweep(tmp_path)
            assert names(tmp_path) == [f"{TEMPORARY}alive.txt", "own.txt"]
        assert names(tmp_path) == ["alive.txt", "own.txt"]

    def test_what_is_left_is_no_content(self, tmp_path):
        killed_writer(tmp_path / "run.json")
        (tmp_path / ".run.lock").touch()
        assert is_empty(tmp_path)
        (tmp_path / ".hidden").touch()
        assert not is_empty(tmp_path)

    def test_a_link_planted_at_the_temporary_name_is_not_followed(self, tmp_path):
        (tmp_path / "victim").write_text("mine")
        (tmp_path / f"{TEMPORARY}a.txt").symlink_to(tmp_path / "victim")
        write_file(tmp_path / "a.txt", "new")
        assert ((tmp_path / "victim").read_text(), names(tmp_path)) == ("mine", ["a.txt", "victim"])

    def test_names_as_long_as_the_system_takes(self, tmp_path):
        for name in ("a" * 255, "é" * 127, "木" * 85):
            write_file(tmp_path / name, "x")
        assert all(path.read_text() == "x" for path in tmp_path.iterdir())


class TestFolders:
    def test_a_folder_appears_whole_or_not_at_all(self, tmp_path):
        with new_folder(tmp_path / "new" / "page") as folder:
            (folder / "photos").mkdir()
            (folder / "index.html").write_text("x")
            assert is_empty(tmp_path / "new" / "page")
        assert names(tmp_path / "new" / "page") == ["index.html", "photos"]
        with pytest.raises(ValueError, match="A folder must be new or empty. Received: .*page, which is not"):
            new_folder(tmp_path / "new" / "page").__enter__()
        (tmp_path / "empty").mkdir()
        for name in ("other", "empty"):
            with pytest.raises(RuntimeError, match="stop"):
                fill_half(tmp_path / name)
        assert names(tmp_path) == ["empty", "new"]
        assert names(tmp_path / "empty") == []

    def test_what_a_killed_writer_left_is_taken_away(self, tmp_path):
        (tmp_path / f"{TEMPORARY}folder").mkdir()
        (tmp_path / f"{TEMPORARY}folder" / "half").write_text("x")
        with new_folder(tmp_path) as folder:
            assert names(folder) == []
            (folder / "a").write_text("x")
            with pytest.raises(BusyError, match="is written by one process at a time"):
                new_folder(tmp_path).__enter__()
        assert names(tmp_path) == ["a"]


class TestLinks:
    def test_a_link_stays_and_its_target_is_replaced(self, tmp_path):
        target = tmp_path / "there" / "model.tflite"
        write_file(target, "old")
        (tmp_path / "link").symlink_to("there/model.tflite")
        (tmp_path / "second").symlink_to(tmp_path / "link")
        write_file(tmp_path / "second", "new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "second").is_symlink()
        assert target.read_text() == "new"
        assert names(target.parent) == ["model.tflite"]

    def test_a_link_to_what_is_not_there_yet(self, tmp_path):
        (tmp_path / "link").symlink_to("later.txt")
        write_file(tmp_path / "link", "new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "later.txt").read_text() == "new"

    def test_links_in_a_circle_are_refused(self, tmp_path):
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        for write in (check_writable, lambda path: write_file(path, "x")):
            with pytest.raises(OSError, match="a'") as error:
                write(tmp_path / "a")
            assert error.value.errno == errno.ELOOP
        assert (tmp_path / "a").is_symlink()


class TestWhatIsNoFile:
    def test_a_device_is_written_into(self):
        check_writable("/dev/null")
        write_file(Path("/dev/null"), "gone")
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
        assert not [name for name in os.listdir("/dev") if name.startswith(TEMPORARY)]

    def test_standard_output_is_written_into(self):
        program = "from pathlib import Path; from keras_mnasnet.utils.files import *; write_file(Path('/dev/stdout'), b'a\\0b')"
        assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"a\0b"

    def test_a_pipe_is_written_into(self, tmp_path):
        pipe, content, got = tmp_path / "pipe", os.urandom(1_000_000), bytearray()
        os.mkfifo(pipe)

        def read():
            while len(got) < len(content):
                got.extend(os.read(opened, 1 << 16) or (time.sleep(0.01), b"")[1])

        opened = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(opened, True)
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        write_file(pipe, content)
        thread.join()
        os.close(opened)
        assert bytes(got) == content
        assert stat.S_ISFIFO(pipe.stat().st_mode)

    def test_a_pipe_that_nobody_reads_is_refused_at_once(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match=r"Received: .*pipe, which nobody reads"):
            write_file(tmp_path / "pipe", "x")
        assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)

    def test_a_socket_and_a_folder_are_refused(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
            for write in (check_writable, lambda path: write_file(Path(path), "x")):
                with pytest.raises(OSError, match=r"Received: socket, which is a block device or a socket"):
                    write("socket")
                with pytest.raises(OSError, match=r"Received: \., which is a folder"):
                    write(".")
        assert stat.S_ISSOCK(os.stat("socket").st_mode)


class TestPermissions:
    @pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
    def test_a_new_file_has_those_of_the_umask(self, tmp_path, umask, mode):
        kept = os.umask(umask)
        try:
            write_file(tmp_path / "a", "x")
        finally:
            os.umask(kept)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode

    @pytest.mark.parametrize("mode", [0o600, 0o444, 0o755])
    def test_a_replaced_file_keeps_its_own(self, tmp_path, mode):
        (tmp_path / "a").write_text("old")
        (tmp_path / "a").chmod(mode)
        with replaced(tmp_path / "a") as temporary:
            assert stat.S_IMODE(temporary.stat().st_mode) == mode | 0o200
            temporary.write_text("new")
        assert (stat.S_IMODE((tmp_path / "a").stat().st_mode), (tmp_path / "a").read_text()) == (mode, "new")


class TestNoSpace:
    MESSAGE = r"No space is left to write {}, which needs {}\. Nothing half-written was kept\. Free space there, or name"

    def test_on_a_full_device(self):
        with pytest.raises(OSError, match=self.MESSAGE.format("/dev/full", "1,234 bytes")):
            write_file(Path("/dev/full"), bytes(1234))

    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("I/O: No space left on device (28)")])
    def test_in_the_words_of_any_library(self, tmp_path, error):
        path = tmp_path / "a.bin"
        with pytest.raises(OSError, match=self.MESSAGE.format(path, "more than 1,000 bytes")):
            write_half(path, error)
        assert names(tmp_path) == []


OTHERS = {
    "utils/locks.py": "the holder's name, in the lock itself",
    "utils/reading.py": "what an archive holds, in a temporary folder",
    "utils/system.py": "a copy of the terminal's own stream",
    "weights/fetch.py": "the part of a download, which is kept so that the next attempt goes on from it",
    "export/qat_worker.py": "a child's results, in its parent's temporary folder",
    "export/qat.py": "a child's orders, in a temporary folder",
    "detection/qat_worker.py": "a child's results, in its parent's temporary folder",
    "detection/qat.py": "a child's orders, in a temporary folder",
    "export/converter.py": "what another process reads, in a temporary folder",
    "search/tables.py": "rows to measure, in a temporary folder",
    "benchmarks/speed.py": "files to measure, in a temporary folder",
    "hub.py": "a folder to upload, which is temporary",
    "loading.py": "a member of an archive, in a temporary folder",
    "benchmarks/gallery.py": "thumbnails, in a temporary folder",
    "benchmarks/emulator.py": "the emulator's own folder, which is moved to its place when it is whole",
}


def writes(call):
    """Whether a call writes, opens for writing, or moves a file."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    words = [word.value for word in [*call.args, *(key.value for key in call.keywords)] if isinstance(word, ast.Constant)]
    modes = [word for word in words if isinstance(word, str) and len(word) <= 3 and word[:1] in ("w", "x", "a")]
    moves = ast.unparse(call.func) in ("os.replace", "os.rename", "shutil.move")
    return name in ("write_text", "write_bytes") or (name == "open" and bool(modes)) or moves


def test_nobody_else_writes_files():
    """But into temporary folders, and what is named here."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        blocks = [node for node in ast.walk(tree) if isinstance(node, ast.With)]
        whole = [block for block in blocks if any("replaced(" in ast.unparse(item.context_expr) for item in block.items)]
        inside = {id(node) for block in whole for node in ast.walk(block)}
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and id(node) not in inside]
        if any(map(writes, calls)):
            found.add(path.relative_to(PACKAGE).as_posix())
    assert found - {"utils/files.py"} == set(OTHERS)


HANGS_IN_A_FOLDER = """
import time
from keras_mnasnet.utils.files import scratch
with scratch() as folder:
    (folder / "large").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_temporary_folders_of_killed_processes_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"{SCRATCH}link").symlink_to(tmp_path / "theirs")
    command = [sys.executable, "-c", HANGS_IN_A_FOLDER]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        theirs = Path(child.stdout.readline().strip())
        with scratch() as folder, scratch() as another:
            assert {theirs, folder, another} <= set(tmp_path.iterdir())
        child.kill()
    assert theirs.is_dir()
    with scratch() as folder:
        assert set(tmp_path.iterdir()) == {folder, tmp_path / "theirs", tmp_path / f"{SCRATCH}link"}
    assert not folder.exists()
