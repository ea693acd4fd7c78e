"""Fetch a record's file: from the cache, from the Hugging Face Hub (pinned), or over HTTP (resumable, verified)."""

from __future__ import annotations

import contextlib
import email.message
import hashlib
import http.client
import json
import logging as std_logging
import os
import shutil
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging
from filelock import FileLock

from keras_mnasnet.utils.text import Life
from keras_mnasnet.weights.checkpoint import CheckpointError, DownloadError
from keras_mnasnet.weights.registry import Record

ATTEMPTS = 5
CHUNK = 1 << 18
TIMEOUT_S = 30
RETRIED_STATUS = (408, 429, 500, 502, 503, 504)


def cache_home() -> Path:
    """The cache folder: $KERAS_MNASNET_HOME, or ~/.keras/keras_mnasnet."""
    return Path(os.environ.get("KERAS_MNASNET_HOME") or "~/.keras/keras_mnasnet").expanduser()


def placed_path(record: Record) -> Path:
    """Where a record's file is looked for first, and where to put it by hand."""
    folder = record.id if record.repo else record.source
    return cache_home() / "downloads" / folder / record.filename


def file_sha256(path: Path) -> str:
    """The file's sha256 as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str | None) -> str:
    """The file's sha256; CheckpointError unless it begins with `expected` (a whole hash or the publisher's prefix)."""
    received = file_sha256(path)
    if expected and not received.startswith(expected):
        raise CheckpointError(
            f"{path} must have the sha256 {expected}{'...' if len(expected) < 64 else ''}. "
            f"Received: {received}. The file is damaged or another one: remove it and fetch again."
        )
    return received


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time works on `path`; others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


def fetch_record(record: Record) -> tuple[Path, str]:
    """(path, sha256) of a record's file, fetched if it is not there yet. Raises DownloadError or CheckpointError."""
    path = placed_path(record)
    with locked(path):
        if path.is_file():
            return path, check_sha256(path, record.sha256)
        if record.repo:
            hub_path = fetch_hub(record.repo, record.filename, record.revision, placed=path, expected_sha256=record.sha256)
            return hub_path, check_sha256(hub_path, record.sha256)
        if _offline():
            raise DownloadError(_way_out(record.url, path, "HF_HUB_OFFLINE is set", record.sha256))
        return path, download(record.url, path, record.sha256)


def fetch_hub(
    repo: str,
    filename: str,
    revision: str | None,
    *,
    placed: Path | None = None,
    expected_sha256: str | None = None,
    token: str | bool | None = None,
) -> Path:
    """A file of a Hugging Face repository at a revision, through huggingface_hub's own cache.

    `placed` and `expected_sha256` are for the message only: where the file may be put by hand, and what it must be.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    unknown_host = _unknown_host(constants.ENDPOINT)
    try:
        with _one_line_a_retry():
            return Path(
                hf_hub_download(repo, filename, revision=revision, token=token, local_files_only=unknown_host is not None)
            )
    except LocalEntryNotFoundError as error:
        refused = isinstance(error.__cause__, HfHubHTTPError)
        why = "HF_HUB_OFFLINE is set" if _offline() else unknown_host or _reason(error.__cause__ or error)
        problem = why if _offline() or refused else f"the server cannot be reached ({why})"
        cause: Exception = error
    except GatedRepoError as error:
        problem, cause = "the repository is gated: accept its terms on the Hub, then run `hf auth login`", error
    except RepositoryNotFoundError as error:
        status = error.response.status_code
        problem, cause = f"no such repository, or a private one ({status}): run `hf auth login` if it is private", error
    except RevisionNotFoundError as error:
        problem, cause = f"the repository has no revision {revision!r} (404)", error
    except EntryNotFoundError as error:
        problem, cause = f"the repository has no file {filename!r} (404)", error
    except (HTTPError, OSError) as error:
        problem, cause = _reason(error), error
    url = f"{constants.ENDPOINT}/{repo}/resolve/{revision or 'main'}/{filename}"
    looked, by_hand = placed or Path(constants.HF_HUB_CACHE), placed is not None
    raise DownloadError(_way_out(url, looked, problem, expected_sha256, by_hand=by_hand)) from cause


def download(url: str, path: Path, expected_sha256: str | None = None) -> str:
    """Fetch `url` to `path` and return its sha256; a cut connection resumes, a wrong hash or a web page is refused.

    The bytes gather in `<path>.part`; `path` appears whole and verified, or not at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part, state = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(min(2 ** (attempt - 1), 8) * float(os.environ.get("KERAS_MNASNET_RETRY_S", "1")))
        try:
            _receive(url, part, state)
            break
        except DownloadError:
            raise
        except urllib.error.HTTPError as error:
            problem = f"the server answers {error.code} {error.reason}" + _redirected(url, error.url)
            if error.code == 416:
                part.unlink(missing_ok=True)
            elif error.code not in RETRIED_STATUS:
                raise DownloadError(_way_out(url, path, problem, expected_sha256)) from error
        except _CutConnectionError as error:
            problem = str(error)
        except urllib.error.URLError as error:
            problem = f"the server cannot be reached ({error.reason})"
            if isinstance(error.reason, socket.gaierror):  # no such host: it will not appear in a few seconds
                raise DownloadError(_way_out(url, path, problem, expected_sha256)) from error
        except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
            problem = f"the connection broke ({error})"
        except OSError as error:
            for rest in (part, state):
                rest.unlink(missing_ok=True)
            problem = f"{part} cannot be written: {error.strerror or error}"
            raise DownloadError(_way_out(url, path, problem, expected_sha256)) from error
        logging.warning("%s: %s, attempt %d of %d", url, problem, attempt + 1, ATTEMPTS)
    else:
        raise DownloadError(_way_out(url, path, f"{problem}, {ATTEMPTS} times", expected_sha256))
    state.unlink(missing_ok=True)
    received = file_sha256(part)
    if expected_sha256 and not received.startswith(expected_sha256):
        part.unlink()
        raise CheckpointError(
            f"{url} must have the sha256 {expected_sha256}. Received: {received}. Nothing was kept; if it happens "
            f"again, something between here and the server changes the file."
        )
    os.replace(part, path)
    logging.info("fetched %s: sha256 %s %s", url, received, "verified" if expected_sha256 else "(none published)")
    return received


class _CutConnectionError(Exception):
    """The connection ended before the file did; what came is kept and the next attempt goes on from there."""


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.HTTPError(newurl, code, "a redirect from https to an unsafe address", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _receive(url: str, part: Path, state: Path) -> None:
    """Write the whole body behind what `part` holds already, if the server still has the same file."""
    have = part.stat().st_size if part.exists() else 0
    validator = _validator(state) if have else None
    headers = {"User-Agent": "keras_mnasnet", "Accept-Encoding": "identity"}
    if have and validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.build_opener(_SafeRedirects).open(request, timeout=TIMEOUT_S) as response:
        if response.headers.get_content_type() == "text/html":
            raise DownloadError(
                f"{url} must be a weight file. Received: a web page{_redirected(url, response.url)}. "
                f"A login or proxy page in between is the usual reason."
            )
        same = validator is not None and _etag(response.headers) in (None, validator)
        resumed = response.status == 206 and same and _range_start(response.headers) == have
        if response.status == 206 and not resumed:
            part.unlink(missing_ok=True)
            raise _CutConnectionError("the server sent another part than was asked for")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        state.write_text(json.dumps({"validator": _etag(response.headers)}))
        if total and shutil.disk_usage(part.parent).free < total - start:
            raise OSError(28, f"no space for {total - start:,} bytes")
        name = urllib.parse.urlsplit(url).path.rpartition("/")[2]
        with part.open("ab" if resumed else "wb") as file, Life(name, total=total, unit="byte", done=start) as life:
            while chunk := _read(response):
                file.write(chunk)
                life.step(len(chunk))
        received = part.stat().st_size
    if total is not None and received < total:
        raise _CutConnectionError(f"the connection was cut at {received:,} of {total:,} bytes")


def _read(response: Any) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _CutConnectionError(f"the connection broke ({error})") from error


def _etag(headers: email.message.Message) -> str | None:
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _validator(state: Path) -> str | None:
    try:
        return json.loads(state.read_text()).get("validator")
    except (OSError, ValueError, AttributeError):
        return None


def _range_start(headers: email.message.Message) -> int | None:
    value = headers.get("Content-Range", "")
    start = value.removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdigit() else None


def _unknown_host(url: str) -> str | None:
    """Why the host of an address cannot be found, so that nothing waits for it; None if it can, or a proxy would find it."""
    parts = urllib.parse.urlsplit(url)
    if _offline() or urllib.request.getproxies().get(parts.scheme):
        return None
    try:
        socket.getaddrinfo(parts.hostname, parts.port)
    except OSError as error:
        return f"{parts.hostname}: {error.strerror or error}"
    return None


@contextlib.contextmanager
def _one_line_a_retry() -> Iterator[None]:
    """huggingface_hub warns of every failed attempt in two lines, which the root logger repeats; here it is one warning."""

    class Forward(std_logging.Handler):
        def emit(self, record: std_logging.LogRecord) -> None:
            if not record.getMessage().startswith("Retrying in"):
                logging.warning("%s", record.getMessage())

    logger = std_logging.getLogger("huggingface_hub")
    kept = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [Forward()], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = kept


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _redirected(url: str, final: str | None) -> str:
    return f" after a redirect to {final}" if final and final != url else ""


def _reason(error: BaseException) -> str:
    """What went wrong on the Hub, in one line: the server's status and words, or the first line of the error."""
    response = getattr(error, "response", None)
    said = getattr(error, "server_message", None) or str(error)
    line = next((line.strip(" .") for line in said.splitlines() if line.strip()), type(error).__name__)
    return line if response is None else f"the server answers {response.status_code} ({line})"


def _way_out(url: str, path: Path, why: str, sha256: str | None = None, *, by_hand: bool = True) -> str:
    which = f" (sha256 {sha256}{'...' if len(sha256) < 64 else ''})" if sha256 else ""
    place = f"place the file{which} there by hand, or pass its path" if by_hand else f"pass the path of the file{which}"
    return (
        f"The weights must come from {url}. Received: {why}. Looked in {path}. "
        f"To go on without a network, {place} as `weights`."
    )
