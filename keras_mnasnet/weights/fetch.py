"""Fetch a record's file: from the cache, from the Hugging Face Hub (pinned), or over HTTP (resumable, verified)."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging as std_logging
import math
import os
import re
import shutil
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from absl import logging

from keras_mnasnet.utils.files import write_file
from keras_mnasnet.utils.locks import BusyError
from keras_mnasnet.utils.locks import locked as held
from keras_mnasnet.utils.reading import read_bytes, read_json
from keras_mnasnet.utils.text import Life
from keras_mnasnet.weights.checkpoint import CheckpointError, DownloadError
from keras_mnasnet.weights.registry import Record

if TYPE_CHECKING:
    import email.message

ATTEMPTS = 5
CHUNK = 1 << 18
TIMEOUT_S = 30  # without a byte
LIMIT_S = 3600.0  # for a whole file, all attempts; $KERAS_MNASNET_FETCH_S is another limit
LONGEST_STATE = 10_000  # bytes of what is kept about a part
RETRIED_STATUS = (408, 429, 500, 502, 503, 504)
T = TypeVar("T")


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


def remembered_path(path: Path) -> Path:
    """Where the sha256 of a fetched file is kept, beside it."""
    return path.with_name(f"{path.name}.sha256")


def remembered_sha256(path: Path) -> str | None:
    """The sha256 with which a file was fetched; None for one that was not, such as one placed by hand."""
    try:
        text = read_bytes(remembered_path(path), "A remembered sha256", limit=100).decode("ascii").strip()
    except (OSError, ValueError):
        return None
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


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
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(held(path))
                break
            except BusyError:
                time.sleep(0.1)
        yield


def read_record(record: Record, read: Callable[[Path], T]) -> tuple[T, str]:
    """What `read` makes of a record's file, and the file's sha256. Raises as `fetch_record`, and what `read` raises.

    A fetched file that cannot be read (CheckpointError) is removed and fetched again, once; one placed by hand stays.
    """
    path, sha256 = fetch_record(record)
    try:
        return read(path), sha256
    except CheckpointError as error:
        if _is_placed(record, path) or _offline():
            raise
        logging.warning("%s cannot be read and is fetched again: %s", path, error)
    _forget(path)
    path, sha256 = fetch_record(record)
    try:
        return read(path), sha256
    except CheckpointError:
        _forget(path)
        raise


def fetch_record(record: Record) -> tuple[Path, str]:
    """(path, sha256) of a record's file, fetched if it is not there yet. Raises DownloadError or CheckpointError.

    The sha256 that was received is kept beside the file; a file that has another one later was damaged, and is fetched again.
    """
    path = placed_path(record)
    with locked(path):
        if path.is_file():
            known = remembered_sha256(path)
            received = file_sha256(path)
            if known in (None, received) or _offline():
                return path, check_sha256(path, record.sha256 or known)
            logging.warning(
                "%s must have the sha256 %s that it was fetched with. Received: %s. It is fetched again", path, known, received
            )
        elif record.repo:
            return _fetch_from_hub(record, path)
        if _offline():
            raise DownloadError(_way_out(record.url, path, "HF_HUB_OFFLINE is set", record.sha256))
        return path, download(record.url, path, record.sha256)


def _fetch_from_hub(record: Record, placed: Path) -> tuple[Path, str]:
    """The file in huggingface_hub's cache, where a file of Git LFS is named by its sha256."""
    assert record.repo is not None
    options: dict[str, Any] = {"placed": placed, "expected_sha256": record.sha256}
    path = fetch_hub(record.repo, record.filename, record.revision, **options)
    name = path.resolve().name
    expected = record.sha256 or (name if re.fullmatch("[0-9a-f]{64}", name) else None)
    if expected and not _offline() and not file_sha256(path).startswith(expected):
        logging.warning("%s must have the sha256 %s. It is fetched again", path, expected)
        path = fetch_hub(record.repo, record.filename, record.revision, again=True, **options)
    return path, check_sha256(path, expected)


def _is_placed(record: Record, path: Path) -> bool:
    """Whether a record's file was placed by hand."""
    return path == placed_path(record) and remembered_sha256(path) is None


def _forget(path: Path) -> None:
    """Remove a fetched file, and where huggingface_hub keeps its bytes, so that it is fetched anew."""
    for each in (remembered_path(path), path.resolve(), path):
        each.unlink(missing_ok=True)


def fetch_hub(
    repo: str,
    filename: str,
    revision: str | None,
    *,
    placed: Path | None = None,
    expected_sha256: str | None = None,
    token: str | bool | None = None,
    again: bool = False,
) -> Path:
    """A file of a Hugging Face repository at a revision, through huggingface_hub's own cache.

    `placed` and `expected_sha256` are for the message only: where the file may be put by hand, and what it must be. `again`
    fetches what is in the cache anew. It is waited for no longer than for `download`.
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
    work = functools.partial(
        hf_hub_download, repo, filename, revision=revision, token=token, local_files_only=unknown_host is not None,
        force_download=again,
    )  # fmt: skip
    problem: str
    cause: Exception
    try:
        with _one_line_a_retry():
            return Path(_limited(work))
    except _TooSlowError as error:
        problem, cause = _too_slow(error), error
    except LocalEntryNotFoundError as error:
        refused = isinstance(error.__cause__, HfHubHTTPError)
        why = "HF_HUB_OFFLINE is set" if _offline() else unknown_host or _reason(error.__cause__ or error)
        problem, cause = why if _offline() or refused else f"the server cannot be reached ({why})", error
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

    The bytes gather in `<path>.part`; `path` appears whole and verified, or not at all, with
    its sha256 beside it. All attempts together take no longer
    than `LIMIT_S` seconds, or $KERAS_MNASNET_FETCH_S.
    """
    import http.client
    import urllib.error

    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + _limit_s()
    part, state = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(min(2 ** (attempt - 1), 8) * float(os.environ.get("KERAS_MNASNET_RETRY_S", "1")))
        try:
            _receive(url, part, state, deadline)
            break
        except _TooSlowError as error:
            raise DownloadError(_way_out(url, path, _too_slow(error), expected_sha256)) from error
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
    with part.open("rb") as file:
        os.fsync(file.fileno())
    write_file(remembered_path(path), f"{received}\n")  # first: a file without it was placed by hand
    os.replace(part, path)
    logging.info("fetched %s: sha256 %s %s", url, received, "verified" if expected_sha256 else "(none published)")
    return received


def _limit_s() -> float:
    text = os.environ.get("KERAS_MNASNET_FETCH_S") or str(LIMIT_S)
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise ValueError(f"KERAS_MNASNET_FETCH_S must be the seconds that a file may take, such as 3600. Received: {text!r}")


def _limited(work: Callable[[], T]) -> T:
    """What `work` gives or raises; _TooSlowError where it takes longer than a file may: it is then left alone, in a thread that
    ends with the process."""
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_limit_s())
    if failed:
        raise failed[0]
    if not found:
        raise _TooSlowError("the file did not come")
    return found[0]


def _too_slow(error: Exception) -> str:
    return f"{error} in {_limit_s():g} s, the limit for a file. KERAS_MNASNET_FETCH_S=SECONDS sets another one"


class _CutConnectionError(Exception):
    """The connection ended before the file did; what came is kept and the next attempt goes on from there."""


class _TooSlowError(Exception):
    """The time for the whole file is over; what came is kept."""


def _opened(url: str, headers: dict[str, str]) -> Any:
    """The server's answer, after redirects, but none from https to http."""
    import urllib.error
    import urllib.request

    class SafeRedirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            if req.full_url.startswith("https:") and not newurl.startswith("https:"):
                raise urllib.error.HTTPError(newurl, code, "a redirect from https to an unsafe address", headers, fp)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    request = urllib.request.Request(url, headers=headers)
    return urllib.request.build_opener(SafeRedirects).open(request, timeout=TIMEOUT_S)


def _receive(url: str, part: Path, state: Path, deadline: float) -> None:
    """Write the whole body behind what `part` holds already, if the server still has the same file."""
    have = part.stat().st_size if part.exists() else 0
    validator = _validator(state) if have else None
    headers = {"User-Agent": "keras_mnasnet", "Accept-Encoding": "identity"}
    if have and validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    with _opened(url, headers) as response:
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
        length = _length(url, response.headers)
        total = None if length is None else start + length
        if total == 0:
            raise DownloadError(f"{url} must be a weight file. Received: an empty one{_redirected(url, response.url)}.")
        state.write_text(json.dumps({"validator": _etag(response.headers)}))
        if total and shutil.disk_usage(part.parent).free < total - start:
            raise OSError(28, f"no space for {total - start:,} bytes")
        name = urllib.parse.urlsplit(url).path.rpartition("/")[2]
        with part.open("ab" if resumed else "wb") as file, Life(name, total=total, unit="byte", done=start) as life:
            while chunk := _read(response):
                file.write(chunk)
                life.step(len(chunk))
                if time.monotonic() > deadline:
                    many = f"{start + life.done:,}" if total is None else f"{life.done:,} of {total:,}"
                    raise _TooSlowError(f"{many} bytes came")
        received = part.stat().st_size
    if not received:
        for rest in (part, state):
            rest.unlink(missing_ok=True)
        raise DownloadError(f"{url} must be a weight file. Received: an empty one.")
    if total is not None and received < total:
        raise _CutConnectionError(f"the connection was cut at {received:,} of {total:,} bytes")


def _read(response: Any) -> bytes:
    import http.client

    try:
        return response.read1(CHUNK)  # what has come: a server that sends a byte now and then must not be waited for
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _CutConnectionError(f"the connection broke ({error})") from error


def _length(url: str, headers: email.message.Message) -> int | None:
    """Bytes of the body as its headers say; DownloadError for headers of a body that is not the file itself."""
    coding = (headers.get("Content-Encoding") or "identity").strip().lower()
    if coding != "identity":
        raise DownloadError(
            f"{url} must be sent as it is (Content-Encoding: identity). Received: Content-Encoding: {coding[:40]}. Something "
            f"between here and the server changes the file."
        )
    text = headers.get("Content-Length")
    if text is not None and not re.fullmatch("[0-9]{1,15}", text.strip()):
        raise DownloadError(f"{url} must be sent with its length in bytes. Received: Content-Length: {text[:40]}")
    return None if text is None else int(text)


def _etag(headers: email.message.Message) -> str | None:
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _validator(state: Path) -> str | None:
    try:
        value = read_json(state, "What is kept of a part", limit=LONGEST_STATE)
    except (OSError, ValueError):
        return None
    validator = value.get("validator") if isinstance(value, dict) else None
    return validator if isinstance(validator, str) else None


def _range_start(headers: email.message.Message) -> int | None:
    value = headers.get("Content-Range", "")
    start = value.removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdigit() else None


def _unknown_host(url: str) -> str | None:
    """Why the host of an address cannot be found, so that nothing waits for it; None if it can, or a proxy would find it."""
    import urllib.request

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
