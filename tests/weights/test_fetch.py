"""Fetching against a local server that cuts, redirects, lies and fails, and against a local Hub."""

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from local_server import FakeHub, FileServer, Page, closed_port

from keras_mnasnet import CheckpointError, DownloadError
from keras_mnasnet.weights.fetch import ATTEMPTS, download, fetch_hub, fetch_record, placed_path, read_record, remembered_sha256
from keras_mnasnet.weights.registry import find, records

BODY = np.random.default_rng(0).bytes(1 << 20)
OTHER = np.random.default_rng(1).bytes(1 << 20)
SHA256 = hashlib.sha256(BODY).hexdigest()
CUT = 400_000
PATH = "/weights/file.pth"
WHOLE = ["file.pth", "file.pth.sha256"]


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("KERAS_MNASNET_RETRY_S", "0")
    monkeypatch.setenv("KERAS_MNASNET_HOME", str(tmp_path / "home"))


@pytest.fixture
def server():
    with FileServer() as server:
        yield server


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with FakeHub() as hub:
        hub.adopt(monkeypatch, tmp_path / "hf")
        yield hub


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "file.pth"


def fetch(server, page, target, sha256=SHA256):
    server.pages[PATH] = page
    return download(server.url(PATH), target, sha256)


def left(folder):
    """What lies in a folder and below, locks apart."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def ranges(server):
    return [request.headers.get("Range") for request in server.requests]


def web_record(server, **changes):
    return dataclasses.replace(find("torchvision/mnasnet0_5"), url=server.url(PATH), sha256=SHA256, **changes)


def hub_record(revision, **changes):
    record = find("timm/semnasnet_100.rmsp_in1k")
    return dataclasses.replace(record, repo="timm/some", revision=revision, filename="w.safetensors", **changes)


def in_a_process(program, *arguments, environment=None):
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment or dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestDownload:
    def test_a_whole_file(self, server, target):
        assert fetch(server, Page(BODY), target) == SHA256
        assert target.read_bytes() == BODY
        assert left(target.parent) == WHOLE
        assert ranges(server) == [None]

    def test_a_cut_connection_goes_on_where_it_was_cut(self, server, target):
        fetch(server, Page(BODY, cut_after=CUT, cuts=2), target)
        assert target.read_bytes() == BODY
        assert ranges(server) == [None, f"bytes={CUT}-", f"bytes={2 * CUT}-"]
        assert [request.headers.get("If-Range") for request in server.requests] == [None, '"v1"', '"v1"']
        assert [request.status for request in server.requests] == [200, 206, 206]
        assert [request.sent for request in server.requests] == [CUT, CUT, len(BODY) - 2 * CUT]

    def test_an_interrupted_process_is_continued_by_the_next(self, server, target):
        with pytest.raises(DownloadError):
            fetch(server, Page(BODY, cut_after=100_000), target)
        assert left(target.parent) == ["file.pth.part", "file.pth.part.json"]
        fetch(server, Page(BODY), target)
        assert server.requests[-1].headers["Range"] == f"bytes={ATTEMPTS * 100_000}-"
        assert server.requests[-1].sent == len(BODY) - ATTEMPTS * 100_000
        assert left(target.parent) == WHOLE

    def test_a_server_that_ignores_ranges_sends_all_again(self, server, target):
        fetch(server, Page(BODY, cut_after=CUT, cuts=1, ranges=False), target)
        assert target.read_bytes() == BODY
        assert [request.status for request in server.requests] == [200, 200]

    def test_a_file_without_a_validator_is_not_resumed(self, server, target):
        fetch(server, Page(BODY, cut_after=CUT, cuts=1, etag=None), target)
        assert target.read_bytes() == BODY
        assert ranges(server) == [None, None]

    @pytest.mark.parametrize("honours", [True, False])
    def test_a_file_that_changes_in_between_is_fetched_anew(self, server, target, honours):
        changed = Page(BODY, etag='"v2"', honours_if_range=honours)
        assert fetch(server, Page(OTHER, cut_after=CUT, then=changed), target, None) == SHA256
        assert target.read_bytes() == BODY

    def test_a_part_that_is_longer_than_the_file_is_dropped(self, server, target):
        target.parent.mkdir()
        target.with_name("file.pth.part").write_bytes(BODY + b"more")
        target.with_name("file.pth.part.json").write_text(json.dumps({"validator": '"v1"'}))
        assert fetch(server, Page(BODY), target) == SHA256
        assert [request.status for request in server.requests] == [416, 200]

    def test_no_content_length(self, server, target):
        assert fetch(server, Page(BODY, length=False), target) == SHA256

    def test_no_content_length_and_a_cut_is_caught_by_the_hash(self, server, target):
        with pytest.raises(CheckpointError, match="Nothing was kept"):
            fetch(server, Page(BODY, length=False, cut_after=CUT), target)
        assert left(target.parent) == []

    @pytest.mark.parametrize("expected", [SHA256, SHA256[:8]])
    def test_a_wrong_byte_is_caught_and_nothing_is_kept(self, server, target, expected):
        wrong = bytearray(BODY)
        wrong[-1] ^= 1
        received = hashlib.sha256(wrong).hexdigest()
        with pytest.raises(CheckpointError, match=rf"must have the sha256 {expected}\. Received: {received}\. Nothing"):
            fetch(server, Page(bytes(wrong)), target, expected)
        assert left(target.parent) == []

    def test_a_prefix_of_the_hash_is_enough(self, server, target):
        assert fetch(server, Page(BODY), target, SHA256[:8]) == SHA256

    def test_an_older_file_stays_until_the_new_one_is_verified(self, server, target):
        target.parent.mkdir()
        target.write_bytes(b"old")
        with pytest.raises(CheckpointError):
            fetch(server, Page(OTHER), target)
        assert target.read_bytes() == b"old"

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_a_server_that_is_busy_is_asked_again(self, server, target, status):
        fetch(server, Page(BODY, statuses=[status, status]), target)
        assert [request.status for request in server.requests] == [status, status, 200]

    def test_a_server_that_stays_busy(self, server, target):
        with pytest.raises(DownloadError, match=r"answers 503 Service Unavailable, 5 times\..*by hand"):
            fetch(server, Page(BODY, statuses=[503] * 9), target)
        assert len(server.requests) == ATTEMPTS

    def test_a_connection_that_is_always_cut(self, server, target):
        message = rf"cut at 50,000 of {len(BODY):,} bytes, 5 times\. Looked in {target}\."
        with pytest.raises(DownloadError, match=message):
            fetch(server, Page(BODY, cut_after=10_000), target)
        assert not target.exists()


class TestAnswersThatAreNoFile:
    def test_missing(self, server, target):
        url = server.url("/gone.pth")
        message = rf"must come from {url}\. Received: the server answers 404 .*Looked in {target}\. .*by hand.*`weights`"
        with pytest.raises(DownloadError, match=message) as error:
            download(url, target, SHA256)
        assert f"(sha256 {SHA256})" in str(error.value)
        assert len(server.requests) == 1
        assert left(target.parent) == []

    def test_a_redirect_is_followed(self, server, target):
        server.pages["/elsewhere"] = Page(BODY, cut_after=CUT, cuts=1)
        assert fetch(server, Page(redirect="/elsewhere"), target) == SHA256
        assert [request.sent for request in server.requests if request.status in (200, 206)] == [CUT, len(BODY) - CUT]

    def test_a_redirect_to_nowhere_names_where_it_led(self, server, target):
        with pytest.raises(DownloadError, match=rf"answers 404 .* after a redirect to {server.url('/nowhere')}"):
            fetch(server, Page(redirect="/nowhere"), target)

    def test_a_redirect_to_a_web_page(self, server, target):
        server.pages["/login"] = Page(b"<html>Log in</html>", content_type="text/html; charset=utf-8")
        message = rf"must be a weight file\. Received: a web page after a redirect to {server.url('/login')}\. A login"
        with pytest.raises(DownloadError, match=message):
            fetch(server, Page(redirect="/login"), target)
        assert left(target.parent) == []

    def test_a_redirect_in_circles(self, server, target):
        with pytest.raises(DownloadError, match="answers 302"):
            fetch(server, Page(redirect=PATH), target)

    def test_no_server(self, target):
        with closed_port() as address, pytest.raises(DownloadError, match=r"cannot be reached \(.*refused.*, 5 times"):
            download(f"{address}/file.pth", target)
        assert left(target.parent) == []

    def test_a_server_that_does_not_speak_http(self, target):
        program = (
            "import socket\n"
            "server = socket.create_server(('127.0.0.1', 0))\n"
            "print(server.getsockname()[1], flush=True)\n"
            "while True:\n"
            "    client, _ = server.accept()\n"
            "    client.recv(65536)\n"
            "    client.sendall(b'hello\\r\\n\\r\\n')\n"
            "    client.close()\n"
        )
        child = in_a_process(program)
        try:
            with pytest.raises(DownloadError, match=r"the connection broke \(hello"):
                download(f"http://127.0.0.1:{child.stdout.readline().strip()}/file.pth", target)
        finally:
            child.kill()
            child.communicate()


class TestBodiesThatAreNoFile:
    """A body that is not the file itself is refused at once, in one line, and nothing of it stays."""

    def refused(self, server, page, target, match):
        with pytest.raises(DownloadError, match=match) as error:
            fetch(server, page, target, None)
        assert "\n" not in str(error.value)
        assert len(server.requests) == 1
        assert left(target.parent) == []

    @pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip"])
    def test_encoded(self, server, target, coding):
        page = Page(BODY, headers={"Content-Encoding": coding})
        self.refused(server, page, target, rf"Received: Content-Encoding: {coding}\. Something between here")

    def test_named_identity(self, server, target):
        assert fetch(server, Page(BODY, headers={"Content-Encoding": "Identity"}), target) == SHA256

    @pytest.mark.parametrize("length", [True, False])
    def test_empty(self, server, target, length):
        self.refused(server, Page(b"", length=length), target, "must be a weight file. Received: an empty one")

    @pytest.mark.parametrize("text", ["abc", "-5", "1e6", "9" * 30])
    def test_a_length_that_is_no_number(self, server, target, text):
        page = Page(BODY, headers={"Content-Length": text})
        self.refused(server, page, target, f"with its length in bytes. Received: Content-Length: {text}")


class TestTimeLimit:
    @pytest.mark.parametrize("length", [True, False])
    def test_a_server_that_sends_a_little_now_and_then(self, server, target, monkeypatch, length):
        """The socket's own limit, which counts from byte to byte, would wait for 50 seconds."""
        monkeypatch.setenv("KERAS_MNASNET_FETCH_S", "0.3")
        start = time.monotonic()
        with pytest.raises(DownloadError, match=r"bytes came in 0\.3 s, the limit for a file\. KERAS_MNASNET_FETCH_S=SECONDS"):
            fetch(server, Page(BODY[:500_000], pause=0.1, length=length), target)
        assert time.monotonic() - start < 20
        assert left(target.parent) == ["file.pth.part", "file.pth.part.json"]

    def test_the_hub_is_not_waited_for_longer(self, monkeypatch):
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **options: time.sleep(5))
        monkeypatch.setenv("KERAS_MNASNET_FETCH_S", "0.2")
        start = time.monotonic()
        with pytest.raises(DownloadError, match=r"the file did not come in 0\.2 s, the limit for a file"):
            fetch_hub("timm/some", "w.safetensors", None)
        assert time.monotonic() - start < 4

    @pytest.mark.parametrize("text", ["abc", "-1", "nan", "inf"])
    def test_a_limit_that_is_none(self, server, target, monkeypatch, text):
        monkeypatch.setenv("KERAS_MNASNET_FETCH_S", text)
        with pytest.raises(ValueError, match=f"must be the seconds that a file may take, such as 3600. Received: '{text}'"):
            fetch(server, Page(BODY), target)

    def test_all_attempts_together(self, server, target, monkeypatch):
        monkeypatch.setenv("KERAS_MNASNET_FETCH_S", "0")
        with pytest.raises(DownloadError, match="the limit for a file"):
            fetch(server, Page(BODY), target)
        monkeypatch.delenv("KERAS_MNASNET_FETCH_S")
        assert fetch(server, Page(BODY), target) == SHA256


class TestReadAgain:
    """What was fetched and cannot be read is fetched once more; what was placed by hand stays as it is."""

    def read(self, path):
        if path.read_bytes() != BODY:
            raise CheckpointError("damaged")
        return "read"

    def record(self, server):
        return dataclasses.replace(web_record(server), sha256=None)

    def test_a_cut_body_without_a_length(self, server):
        record = self.record(server)
        server.pages[PATH] = Page(BODY, length=False, cut_after=CUT, cuts=1)
        assert read_record(record, self.read) == ("read", SHA256)
        assert len(server.requests) == 2
        assert read_record(record, self.read) == ("read", SHA256)
        assert len(server.requests) == 2

    def test_is_not_kept_when_it_is_damaged_again(self, server):
        record = self.record(server)
        server.pages[PATH] = Page(OTHER)
        for requests in (2, 4):
            with pytest.raises(CheckpointError, match="damaged"):
                read_record(record, self.read)
            assert len(server.requests) == requests
            assert left(placed_path(record).parent) == []
        server.pages[PATH] = Page(BODY)
        assert read_record(record, self.read) == ("read", SHA256)

    def test_a_file_that_changed_since_it_was_fetched(self, server):
        record = self.record(server)
        server.pages[PATH] = Page(BODY)
        fetch_record(record)
        assert remembered_sha256(placed_path(record)) == SHA256
        placed_path(record).write_bytes(BODY[:-1])
        assert fetch_record(record) == (placed_path(record), SHA256)
        assert len(server.requests) == 2
        assert placed_path(record).read_bytes() == BODY

    def test_a_file_that_changed_offline(self, server, monkeypatch):
        record = self.record(server)
        server.pages[PATH] = Page(BODY)
        fetch_record(record)
        placed_path(record).write_bytes(OTHER)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match=f"must have the sha256 {SHA256}"):
            read_record(record, self.read)
        assert placed_path(record).read_bytes() == OTHER

    def test_one_placed_by_hand(self, server):
        record = self.record(server)
        placed_path(record).parent.mkdir(parents=True)
        placed_path(record).write_bytes(OTHER)
        with pytest.raises(CheckpointError, match="damaged"):
            read_record(record, self.read)
        assert placed_path(record).read_bytes() == OTHER
        assert not server.requests

    def test_from_the_hub(self, hub):
        """What lies in huggingface_hub's cache is damaged there: as a read finds it, and as its sha256 says."""
        for record in (hub_record(hub.commit("timm/some", {"w.safetensors": BODY}), sha256=known) for known in (None, SHA256)):
            path, _ = fetch_record(record)
            path.resolve().write_bytes(OTHER)
            assert read_record(record, self.read) == ("read", SHA256)
            assert path.read_bytes() == BODY


def test_hashes_in_the_names_of_files_are_compared():
    """torchvision's file names end with the first digits of the sha256, others' with those of other hashes."""
    of_torchvision = [record for record in records() if record.id.startswith("torchvision/")]
    named = {record.id: re.search(r"-([0-9a-f]{8,})\.", record.filename) for record in of_torchvision}
    found = {name: match[1] for name, match in named.items() if match}
    assert len(found) == 4
    assert {name: find(name).sha256 for name in found} == found


class TestNoSpace:
    def test_is_seen_before_the_bytes_come(self, server, target, monkeypatch):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, len(BODY) - 1))
        with pytest.raises(DownloadError, match=rf"file\.pth\.part cannot be written: no space for {len(BODY):,} bytes"):
            fetch(server, Page(BODY), target)
        assert left(target.parent) == []

    def test_while_they_come(self, server, target):
        program = (
            "import resource, signal, sys\n"
            "from pathlib import Path\n"
            "from keras_mnasnet.weights.fetch import download\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
            "try:\n"
            "    download(sys.argv[1], Path(sys.argv[2]))\n"
            "except OSError as error:\n"
            "    print(type(error).__name__, error)\n"
        )
        server.pages[PATH] = Page(BODY)
        child = in_a_process(program, server.url(PATH), target)
        output, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
        assert output.startswith("DownloadError ")
        assert f"file.pth.part cannot be written: {os.strerror(errno.EFBIG)}" in output
        assert left(target.parent) == []


class TestFetchRecord:
    def test_is_kept_where_it_can_also_be_placed(self, server):
        record = web_record(server)
        server.pages[PATH] = Page(BODY)
        for _ in range(2):
            assert fetch_record(record) == (placed_path(record), SHA256)
        assert len(server.requests) == 1

    def test_a_file_placed_by_hand_is_used(self, server):
        record = web_record(server)
        placed_path(record).parent.mkdir(parents=True)
        placed_path(record).write_bytes(BODY)
        assert fetch_record(record) == (placed_path(record), SHA256)
        assert not server.requests

    def test_a_wrong_file_placed_by_hand_is_refused(self, server):
        record = web_record(server)
        placed_path(record).parent.mkdir(parents=True)
        placed_path(record).write_bytes(OTHER)
        with pytest.raises(CheckpointError, match=rf"{placed_path(record)} must have the sha256 {SHA256}\. Received: "):
            fetch_record(record)
        assert placed_path(record).read_bytes() == OTHER

    def test_offline(self, server, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        record = web_record(server)
        with pytest.raises(DownloadError, match="Received: HF_HUB_OFFLINE is set") as error:
            fetch_record(record)
        for text in (record.url, str(placed_path(record)), SHA256, "by hand", "`weights`"):
            assert text in str(error.value)
        assert not server.requests

    def test_two_processes_fetch_it_once(self, server):
        program = (
            "import dataclasses, sys\n"
            "from keras_mnasnet.weights.registry import find\n"
            "from keras_mnasnet.weights.fetch import fetch_record\n"
            "record = dataclasses.replace(find('torchvision/mnasnet0_5'), url=sys.argv[1], sha256=sys.argv[2])\n"
            "print('ready', flush=True)\n"
            "sys.stdin.readline()\n"
            "print(fetch_record(record)[1])\n"
        )
        server.pages[PATH] = Page(BODY, cut_after=CUT, cuts=1)
        command = [sys.executable, "-c", program, server.url(PATH), SHA256]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        children = [subprocess.Popen(command, **pipes) for _ in range(2)]
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.write("\n")
            child.stdin.flush()
        for child in children:
            output, errors = child.communicate(timeout=60)
            assert output == f"{SHA256}\n", errors
        assert sum(request.sent for request in server.requests) == len(BODY)
        name = web_record(server).filename
        assert left(placed_path(web_record(server)).parent) == [name, f"{name}.sha256"]


class TestHub:
    def test_a_pinned_file(self, hub):
        first = hub.commit("timm/some", {"w.safetensors": BODY})
        hub.commit("timm/some", {"w.safetensors": OTHER})
        path, sha256 = fetch_record(hub_record(first, sha256=SHA256))
        assert (path.read_bytes(), sha256) == (BODY, SHA256)
        assert f"/timm/some/resolve/{first}/w.safetensors" in {request.path for request in hub.requests}

    def test_a_second_time_comes_from_the_cache(self, hub):
        commit = hub.commit("timm/some", {"w.safetensors": BODY})
        first = fetch_hub("timm/some", "w.safetensors", commit)
        before = len(hub.requests)
        assert fetch_hub("timm/some", "w.safetensors", commit) == first
        assert len(hub.requests) == before

    def test_a_wrong_hash_is_refused(self, hub):
        commit = hub.commit("timm/some", {"w.safetensors": OTHER})
        with pytest.raises(CheckpointError, match=rf"must have the sha256 {SHA256}\. Received: "):
            fetch_record(hub_record(commit, sha256=SHA256))

    def test_a_file_placed_by_hand_goes_first(self, hub):
        record = hub_record("0" * 40, sha256=SHA256)
        placed_path(record).parent.mkdir(parents=True)
        placed_path(record).write_bytes(BODY)
        assert fetch_record(record) == (placed_path(record), SHA256)
        assert not hub.requests

    @pytest.mark.parametrize(
        ("repo", "filename", "revision", "message"),
        [
            ("timm/none", "w.safetensors", None, r"no such repository, or a private one \(401\): run `hf auth login`"),
            ("timm/some", "v.safetensors", None, r"no file 'v\.safetensors' \(404\)"),
            ("timm/some", "w.safetensors", "v9", r"no revision 'v9' \(404\)"),
        ],
    )
    def test_what_is_missing(self, hub, repo, filename, revision, message):
        hub.commit("timm/some", {"w.safetensors": BODY})
        url = f"{hub.address}/{repo}/resolve/{revision or 'main'}/{filename}"
        with pytest.raises(DownloadError, match=rf"must come from {url}\. Received: .*{message}.* pass the path of the"):
            fetch_hub(repo, filename, revision)

    @pytest.mark.parametrize(
        ("status", "headers", "message"),
        [
            (403, {"X-Error-Message": "not from here"}, r"Received: the server answers 403 \(not from here\)"),
            (403, {"X-Error-Code": "GatedRepo"}, "Received: the repository is gated: accept its terms"),
            (
                401,
                {"X-Error-Message": "Invalid credentials in Authorization header"},
                "answers 401 .Invalid credentials",
            ),
        ],
    )
    def test_refusals(self, hub, status, headers, message):
        hub.refusals = [("HEAD ", status, headers)]
        with pytest.raises(DownloadError, match=message):
            fetch_hub("timm/some", "w.safetensors", None)

    def test_a_connection_that_ends_without_an_answer(self, hub, monkeypatch):
        monkeypatch.setattr(hub, "answer", lambda handler: setattr(handler, "close_connection", True))
        with pytest.raises(DownloadError, match=r"Received: Server disconnected without sending a response\. Looked"):
            fetch_hub("timm/some", "w.safetensors", None)

    def test_a_token_opens_a_private_repository(self, hub):
        hub.commit("me/own", {"w.safetensors": BODY})
        hub.repos["me/own"].private = True
        assert fetch_hub("me/own", "w.safetensors", None, token=hub.token).read_bytes() == BODY

    def test_no_hub(self, monkeypatch, tmp_path):
        with closed_port() as address:
            FakeHub.adopt(namedtuple("Gone", "address")(address), monkeypatch, tmp_path / "hf")
            monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
            with pytest.raises(DownloadError, match=r"Received: the server cannot be reached \(.*refused"):
                fetch_hub("timm/some", "w.safetensors", None)

    def test_offline(self, hub, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        record = hub_record("0" * 40, sha256=SHA256)
        with pytest.raises(DownloadError, match="Received: HF_HUB_OFFLINE is set") as error:
            fetch_record(record)
        url = f"{hub.address}/timm/some/resolve/{'0' * 40}/w.safetensors"
        for text in (url, str(placed_path(record)), SHA256, "by hand"):
            assert text in str(error.value)
        assert not hub.requests

    @pytest.mark.parametrize("offline", [False, True])
    def test_the_environment_decides(self, tmp_path, offline):
        program = (
            "from keras_mnasnet.weights.fetch import fetch_hub\n"
            "try:\n"
            "    print(fetch_hub('timm/some', 'w.safetensors', None))\n"
            "except OSError as error:\n"
            "    print(type(error).__name__, error)\n"
        )
        with FakeHub() as hub:
            commit = hub.commit("timm/some", {"w.safetensors": BODY})
            environment = hub.environment(tmp_path) | ({"HF_HUB_OFFLINE": "1"} if offline else {})
            output, errors = in_a_process(program, environment=environment).communicate(timeout=60)
        if offline:
            assert f"DownloadError The weights must come from {hub.address}/timm/some/resolve/main/" in output, errors
            assert "HF_HUB_OFFLINE is set" in output
            assert not hub.requests
        else:
            assert Path(output.strip()).read_bytes() == BODY, errors
            assert commit in output
