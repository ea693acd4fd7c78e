"""Servers on 127.0.0.1 for tests: one that serves files and misbehaves on request, and a small Hugging Face Hub."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FOREVER = 10**9


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One request as it came in, the status it was answered with and the bytes of the body that were sent."""

    method: str
    path: str
    headers: dict[str, str]
    status: int
    sent: int


@dataclasses.dataclass(slots=True)
class Page:
    """A path's content and its faults; the faults count down as requests come in.

    `cut_after` bytes of a body the connection ends, `cuts` times. `statuses` are answered first, one a request. `then`
    takes the page's place after the first request. `redirect` is an address to go to. `headers` take the place of the usual
    ones. `pause` are seconds between thousands of bytes.
    """

    body: bytes = b""
    etag: str | None = '"v1"'
    content_type: str = "application/octet-stream"
    ranges: bool = True
    honours_if_range: bool = True
    length: bool = True
    cut_after: int | None = None
    cuts: int = FOREVER
    statuses: list[int] = dataclasses.field(default_factory=list)
    redirect: str | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    pause: float = 0
    then: Page | None = None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def do_GET(self) -> None:
        self.server.owner.answer(self)

    do_HEAD = do_POST = do_GET

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str | None] | None = None,
        *,
        length: bool = True,
        cut_after: int | None = None,
        pause: float = 0,
    ) -> None:
        """Answer, record, and end the connection early if asked to."""
        sent = b"" if self.command == "HEAD" else body[:cut_after]
        self.server.owner.record(Request(self.command, self.path, dict(self.headers), status, len(sent)))
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)) if length else None, **(headers or {})}.items():
            if value is not None:
                self.send_header(key, value)
        ends = not length or (self.command != "HEAD" and len(sent) < len(body))
        if ends:
            self.send_header("Connection", "close")
        self.end_headers()
        for start in range(0, len(sent), 1000 if pause else len(sent) or 1):
            time.sleep(pause)
            self.wfile.write(sent[start : start + 1000] if pause else sent)
        if ends:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_WR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: LocalServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is part of the tests; anything else is a mistake in this file and is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class LocalServer:
    """A context manager that serves while it is entered; `requests` holds what came in."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._lock = threading.Lock()

    def __enter__(self) -> LocalServer:
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def record(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def answer(self, handler: _Handler) -> None:
        raise NotImplementedError


class FileServer(LocalServer):
    """Serves `pages` by path, with ETag, Range and If-Range, and the faults of each Page."""

    def __init__(self, pages: dict[str, Page] | None = None) -> None:
        super().__init__()
        self.pages = pages or {}

    def __enter__(self) -> FileServer:
        super().__enter__()
        return self

    def url(self, path: str) -> str:
        return self.address + path

    def answer(self, handler: _Handler) -> None:
        page = self.pages.get(handler.path)
        if page is None:
            return handler.reply(404, b"not here")
        with self._lock:
            status = page.statuses.pop(0) if page.statuses else 200
            cut = page.cut_after if page.cuts > 0 else None
            page.cuts -= status == 200
            if page.then:
                self.pages[handler.path] = page.then
        if status != 200:
            return handler.reply(status, b"in a moment")
        if page.redirect:
            return handler.reply(302, b"", {"Location": page.redirect})
        headers = {"Content-Type": page.content_type, "ETag": page.etag}
        body, if_range = page.body, handler.headers.get("If-Range")
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if asked and page.ranges and (not page.honours_if_range or if_range in (None, page.etag)):
            start, status = int(asked[1]), 206
            if start >= len(body):
                return handler.reply(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:]
        headers |= page.headers
        return handler.reply(status, body, headers, length=page.length, cut_after=cut, pause=page.pause)


@dataclasses.dataclass(slots=True)
class Repo:
    """Commits by id, oldest first, each with all its files; branches point at commits."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    branches: dict[str, str] = dataclasses.field(default_factory=dict)

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """(commit, its files) at a branch or commit."""
        commit = self.branches.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


def git_oid(content: bytes) -> str:
    """The id that git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class FakeHub(LocalServer):
    """As much of the Hugging Face Hub as uploading a folder and downloading files by revision needs.

    `token` is the only token that may write and read private repositories. `refusals` are (pattern of "METHOD path",
    status, headers); the first that matches is the answer.
    """

    def __init__(self, token: str = "hf_right") -> None:
        super().__init__()
        self.token = token
        self.repos: dict[str, Repo] = {}
        self.refusals: list[tuple[str, int, dict[str, str]]] = []

    def __enter__(self) -> FakeHub:
        super().__enter__()
        return self

    def commit(self, repo_id: str, changes: dict[str, bytes | None], branch: str = "main") -> str:
        """Put files (None removes one) on top of a branch and return the new commit's id."""
        repo = self.repos.setdefault(repo_id, Repo())
        parent = repo.branches.get(branch, "")
        files = {**repo.commits.get(parent, {}), **changes}
        content = {path: body for path, body in files.items() if body is not None}
        listing = "".join(f"{path} {git_oid(body)}\n" for path, body in sorted(content.items()))
        commit = hashlib.sha1(f"{repo_id} {len(repo.commits)} {parent}\n{listing}".encode()).hexdigest()
        repo.commits[commit], repo.branches[branch] = content, commit
        return commit

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment of a child process whose Hub this is."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        ours = {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
        return kept | ours | ({"HF_TOKEN": token} if token else {})

    def adopt(self, monkeypatch: Any, home: Path, token: str | None = None) -> None:
        """Make this the Hub of the running process: `HF_ENDPOINT` is read when huggingface_hub is imported."""
        from huggingface_hub import constants, hf_api

        for key in [key for key in os.environ if key.startswith(("HF_", "HUGGING"))]:
            monkeypatch.delenv(key)
        monkeypatch.setenv("NO_PROXY", "*")
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        template = self.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", self.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hf_api.api, "endpoint", self.address)

    def answer(self, handler: _Handler) -> None:
        url = urllib.parse.urlsplit(handler.path)
        body = handler.body()
        for pattern, status, headers in self.refusals:
            if re.match(pattern, f"{handler.command} {url.path}"):
                return handler.reply(status, b"{}", {"Content-Type": "application/json", **headers})
        with self._lock:
            status, headers, content = self._route(handler.command, url.path, handler.headers, body)
        return handler.reply(status, content, headers)

    def _route(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        given = headers.get("Authorization")
        if given not in (None, f"Bearer {self.token}"):
            return _json(401, {"error": "Invalid credentials"}, message="Invalid credentials in Authorization header")
        if path == "/api/repos/create":
            return self._create(json.loads(body)) if given else _json(401, {"error": "Log in first"})
        if path == "/api/validate-yaml":
            return _json(200, {"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/discussions(?:/\d+)?", path):
            return self._pull_request(match[1], method, json.loads(body or b"{}"))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit)/([^/]+))?", path):
            repo_id, action, revision = match[1], match[2] or "revision", match[3] or "main"
            file = ""
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo_id, action, revision, file = match[1], "resolve", match[2], urllib.parse.unquote(match[3])
        else:
            return _json(404, {"error": "no such page"})
        repo, revision = self.repos.get(repo_id), urllib.parse.unquote(revision)
        if repo is None or (repo.private and not given):
            return _json(404 if given else 401, {"error": "Repository not found"}, code="RepoNotFound")
        if action in ("preupload", "commit") and not given:
            return _json(401, {"error": "Log in first"})
        if action == "commit":
            return self._commit(repo_id, revision, body)
        found = repo.files(revision)
        if found is None and not (revision == "main" and action in ("preupload", "tree")):
            return _json(404, {"error": "Invalid rev id"}, code="RevisionNotFound")
        commit, files = found or ("", {})
        if action == "preupload":
            asked = [entry["path"] for entry in json.loads(body)["files"]]
            return _json(200, {"files": [_upload_mode(name, files) for name in asked], "commitOid": commit})
        if action == "tree":
            listing = [
                {"type": "file", "path": name, "size": len(content), "oid": git_oid(content)} for name, content in files.items()
            ]
            return _json(200, listing)
        if action == "revision":
            siblings = [{"rfilename": name} for name in files]
            return _json(200, {"id": repo_id, "sha": commit, "private": repo.private, "siblings": siblings})
        if file not in files:
            status, extra, content = _json(404, {"error": "Entry not found"}, code="EntryNotFound")
            return status, extra | {"X-Repo-Commit": commit}, content
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{git_oid(files[file])}"'}, files[file]

    def _create(self, asked: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        repo_id = f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = f"{self.address}/{repo_id}"
        if repo_id in self.repos:
            return _json(409, {"error": "You already created this model repo", "url": url})
        self.repos[repo_id] = Repo(private=asked.get("visibility") == "private")
        return _json(200, {"url": url, "name": repo_id})

    def _pull_request(self, repo_id: str, method: str, asked: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        branches = self.repos[repo_id].branches
        if method == "POST":
            branches["refs/pr/1"] = branches["main"]
        details = {
            "num": 1, "title": asked.get("title", ""), "author": {"name": "me"}, "status": "draft",
            "createdAt": "2026-01-01T00:00:00.000Z", "repo": {"name": repo_id, "type": "model"}, "isPullRequest": True,
            "events": [], "changes": {"base": "refs/heads/main"}, "filesWithConflicts": [],
        }  # fmt: skip
        return _json(200, details)

    def _commit(self, repo_id: str, branch: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        changes: dict[str, bytes | None] = {}
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                changes[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                changes[entry["value"]["path"]] = None
        commit = self.commit(repo_id, changes, branch)
        return _json(200, {"commitOid": commit, "commitUrl": f"{self.address}/{repo_id}/commit/{commit}"})


def _upload_mode(path: str, files: dict[str, bytes]) -> dict[str, Any]:
    oid = git_oid(files[path]) if path in files else None
    return {"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": oid}


def _json(status: int, value: Any, *, code: str | None = None, message: str | None = None) -> tuple[int, dict[str, str], bytes]:
    headers = {"Content-Type": "application/json", "X-Error-Code": code, "X-Error-Message": message}
    return status, {key: text for key, text in headers.items() if text}, json.dumps(value).encode()


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """The address of a port on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
