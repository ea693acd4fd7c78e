"""The one way in which this package reads what others wrote: within bounds, by a schema, and never run.

Every reader ends in one of two ways: with a value, or with one error that says what was expected and what was received.
`LIMITS` is the one place for bounds; SECURITY.md shows the same figures.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import gzip
import io
import json
import os
import re
import reprlib
import stat
import struct
import subprocess
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

KIB, MIB, GIB = 2**10, 2**20, 2**30


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """The most of something that is read, and what real files have."""

    most: int
    what: str
    real: str


LIMITS = {
    "text": Limit(64 * MIB, "bytes of a JSON or text file", "the largest of ours, a latency table, has 1 MiB"),
    "annotations": Limit(2 * GIB, "bytes of a COCO file", "instances_train2017.json has 448 MiB"),
    "xml": Limit(16 * MIB, "bytes of a VOC file", "3 KiB"),
    "yaml": Limit(256 * KIB, "bytes of a data.yaml", "Objects365's has 9 KiB"),
    "model": Limit(2 * GIB, "bytes of a .pth, .keras, .tflite or .onnx file", "MnasNet-A1 has 16 MiB; .tflite ends at 2 GiB"),
    "depth": Limit(64, "levels of JSON, XML, a pickle or the folders of an archive", "10"),
    "members": Limit(10_000, "members of a zip archive", "a .pth of MnasNet has 320"),
    "files": Limit(1_000, "files in a tar of tensors", "a .tgz of Google has 6"),
    "path": Limit(1_000, "characters of a file's name in an archive or in annotations", "60"),
    "unpacked": Limit(4 * GIB, "bytes that an archive unpacks to", "Google's MnasNet-A1 190 MiB"),
    "ratio": Limit(20, "times its own size that an archive unpacks to, above 16 MiB", "1.1; text alone 10"),
    "opcodes": Limit(200_000, "opcodes of a pickle", "MnasNet-A1 has 12,000"),
    "dimensions": Limit(8, "dimensions of a tensor", "4"),
    "views": Limit(4, "times its file's size that the tensors of a file have, above 16 MiB", "1; 2 with bfloat16"),
    "classes": Limit(100_000, "classes or categories", "ImageNet-22k has 21,841"),
    "class name": Limit(1_000, "characters of a class name", "ImageNet's longest has 121"),
    "side": Limit(100_000, "pixels along a side of a photo", "65,535 in a JPEG"),
    "graph": Limit(1_000_000, "tensors and operators of a .tflite or .onnx file", "300"),
    "nodes": Limit(50_000, "nodes of a .pb file or a model.json", "MnasNet-B1 has 500"),
    "cores": Limit(1_024, "cores of a phone", "8"),
    "study": Limit(4 * GIB, "bytes of a study", "8,000 trials have 11 MiB"),
    "value": Limit(16 * MIB, "bytes of one value in a study", "the state of ppo has 1.3 MiB"),
    "output": Limit(16 * MIB, "bytes of a program's output", "50 KiB"),
}  # fmt: skip
LONGEST_TEXT = LIMITS["text"].most
LONGEST_ANNOTATIONS = LIMITS["annotations"].most
LARGEST_MODEL = LIMITS["model"].most
DEEPEST = LIMITS["depth"].most
SMALL = 16 * MIB  # what is allowed whatever the ratio
TFLITE_MARK = b"TFL3"
DECLARED = re.compile(rb"""(?:\xef\xbb\xbf)?\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
OTHER_ENCODING = re.compile(  # those of text that expat does not know
    r"(gb|big-?5|shift|s-?jis|x-sjis|euc|cp-?\d|ms-?\d|windows|ibm|iso-?8859|iso-?2022|koi8|latin|mac|hz|johab|tis)[\w.-]*",
    re.IGNORECASE,
)
NOT_MEANT = re.compile(r"utf-?(16|32)|ucs|unicode$|(us-)?ascii$", re.IGNORECASE)  # declared by tools that write UTF-8

T = TypeVar("T")
ZIP_DAMAGE = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError, OverflowError, MemoryError)
TAR_DAMAGE = (tarfile.TarError, *ZIP_DAMAGE, LookupError, RuntimeError, struct.error, UnicodeDecodeError)

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 2, 80, 80, 40


def shown(value: object) -> str:
    """`repr` of at most a few hundred characters, however large, deep or often repeated the value is."""
    return _SHORT.repr(value)


def check_limit(name: str, count: int, what: str) -> int:
    """`count`, unless it is above the limit `name`; ValueError that begins with `what`."""
    limit = LIMITS[name]
    if count > limit.most:
        raise ValueError(f"{what} must have at most {limit.most:,} {limit.what}. Received: {count:,}")
    return count


def check_growth(name: str, unpacked: int, size: int, what: str) -> None:
    """ValueError that begins with `what` where `size` bytes of a file become too many: by the limit `ratio` or `views`."""
    check_limit("unpacked", unpacked, what)
    limit = LIMITS[name]
    if unpacked > SMALL + limit.most * size:
        raise ValueError(f"{what} must have at most {limit.most} {limit.what}. Received: {unpacked:,} bytes in {size:,}")


def texts(value: str | Iterable[str]) -> tuple[str, ...]:
    """Several texts as a tuple; a text alone is one of them, not its letters. ValueError for what are no texts."""
    if not isinstance(value, Iterable):
        raise ValueError(f"Names must be a text, or a list of texts. Received: {shown(value)}")
    return (value,) if isinstance(value, str) else tuple(value)


CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")  # a terminal would do what they say


def check_names(names: str | Iterable[str], what: str) -> tuple[str, ...]:
    """Class names that are texts of one line each, not too many nor too long; ValueError that begins with `what`."""
    found = texts(names)
    check_limit("classes", len(found), what)
    for name in found:
        if not isinstance(name, str) or not name.strip() or name.splitlines() != [name] or CONTROL.search(name):
            raise ValueError(f"{what} must have names of one line each, without control characters. Received: {shown(name)}")
        check_limit("class name", len(name), what)
    return found


def open_regular(path: str | os.PathLike[str], what: str) -> IO[bytes]:
    """A regular file, open to read bytes; ValueError for a folder, a pipe or a device, which is not waited for."""
    place = Path(path).expanduser()
    handle = os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = open(handle, "rb")  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError(f"{what} must be a regular file. Received: {place}, which is a folder, a pipe or a device")
    return file


def read_bytes(path: str | os.PathLike[str], what: str, *, limit: int = LONGEST_TEXT) -> bytes:
    """A whole regular file of at most `limit` bytes; ValueError that begins with `what`, an OSError that names the file."""
    with open_regular(path, what) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= limit else b""
    if size > limit or len(content) > limit:
        raise ValueError(f"{what} must have at most {limit:,} bytes. Received: {path} of {max(size, len(content)):,}")
    return content


def read_text(path: str | os.PathLike[str], what: str, *, limit: int = LONGEST_TEXT) -> str:
    """A whole text file, UTF-8 or with a byte-order mark UTF-16; ValueError that begins with `what`."""
    content = read_bytes(path, what, limit=limit)
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} must be UTF-8 text. Received: {path} ({error})") from error
    if "\0" in text:
        raise ValueError(f"{what} must be UTF-8 text. Received: {path}, with zero bytes: as UTF-16 it needs a byte-order mark")
    return text


def read_names(path: str | os.PathLike[str], what: str) -> tuple[str, ...]:
    """The names in a text file, one a line; empty lines are none. ValueError that begins with `what`."""
    lines = (line.strip() for line in read_text(path, what).splitlines())
    return check_names(filter(None, lines), what)


# JSON, and our own records in it


def parse_json(content: str | bytes, what: str) -> Any:
    """The value of a JSON text; ValueError that begins with `what` for anything else, however deep or damaged it is."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{what} must be JSON. Received: {_no_json(error, content)}") from error
    level, depth = [value], 0
    while level := [
        inner
        for outer in level
        if isinstance(outer, dict | list)
        for inner in (outer.values() if isinstance(outer, dict) else outer)
        if isinstance(inner, dict | list)
    ]:
        depth += 1
        if depth >= DEEPEST:
            raise ValueError(f"{what} must be JSON of at most {DEEPEST} levels. Received: it is nested too deeply")
    return value


def _no_json(error: Exception, content: str | bytes) -> str:
    """Why a text is no JSON, and what to do about what people's editors and tools make of it."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if not content.strip():
        return "it is empty"
    if isinstance(error, UnicodeDecodeError):
        return f"{error} (save it as UTF-8)"
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    if error.msg == "Extra data":
        return f"{error} (it goes on after its end; JSON Lines, a value in each line, must become one value)"
    rest = error.doc[error.pos :].lstrip()
    if rest.startswith(("//", "/*", "#")):
        return f"{error} (JSON has no comments: take them out)"
    if rest.startswith(("}", "]")):
        return f"{error} (JSON has no comma before a closing bracket: take it out)"
    is_cut = not rest or error.msg.startswith("Unterminated string")
    return f"{error} (it is cut off: export or copy it again)" if is_cut else str(error)


def read_json(path: str | os.PathLike[str], what: str, *, limit: int = LONGEST_TEXT) -> Any:
    """The value of a JSON file; ValueError that begins with `what` and names the file."""
    content = read_bytes(path, what, limit=limit)
    try:
        return parse_json(content, what)
    except ValueError as error:
        raise ValueError(f"{error} in {path}") from error


def record(value: Any, kind: type[T], what: str) -> T:
    """A value of JSON as the dataclass (or any annotated type) `kind`; ValueError names the field that has another type.

    Lists become tuples where the type says so, and fields with a default may be missing. Fields that a dataclass does not have
    are refused, because a setting that is passed over silently would change a result.

    >>> record(["a", 1], tuple[str, ...], "A list of labels")
    Traceback (most recent call last):
    ValueError: A list of labels must have the fields of its schema. Received: expected `str`, got `int` at $[1]
    """
    import msgspec

    try:
        found = msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        reason = re.sub(r" - at `(\$.*)`$", r" at \1", str(error)[:1].lower() + str(error)[1:])[:500]
        raise ValueError(f"{what} must have the fields of its schema. Received: {reason}") from error
    if unknown := _unknown(value, found):
        raise ValueError(f"{what} must have the fields of its schema. Received: unknown {', '.join(unknown[:5])}")
    return found


def _unknown(value: Any, found: Any) -> list[str]:
    """The keys of JSON objects that the dataclasses made of them do not have."""
    if not dataclasses.is_dataclass(found) or not isinstance(value, dict):
        return []
    fields = {field.name for field in dataclasses.fields(found)}
    inner = [
        f"{name}.{key}" for name in fields & value.keys() for key in _unknown(value[name], getattr(found, name))
    ]  # fmt: skip
    return [*sorted(str(key)[:80] for key in value.keys() - fields), *sorted(inner)]


def fields_of(value: Any, what: str, **kinds: Any) -> dict[str, Any]:
    """The named fields of a JSON object, each of the type given for it; others are passed over. ValueError names the field."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object. Received: {type(value).__name__}")
    if missing := [name for name in kinds if name not in value]:
        raise ValueError(f"{what} must have `{missing[0]}`. Received: an object without it")
    return {name: record(value[name], kind, f"`{name}` of {what[:1].lower()}{what[1:]}") for name, kind in kinds.items()}


# Archives


class _Bounded(io.BufferedReader):
    """A file of which no more than `most` bytes are read at once, while there is a `most`."""

    most: int | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        if self.most is not None and size is not None and size > self.most:
            raise zipfile.BadZipFile(f"a directory of {size:,} bytes")
        return super().read(size)


@contextlib.contextmanager
def open_zip(source: str | os.PathLike[str] | bytes, what: str) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose members are few and do not unpack to far more than it has; ValueError that begins with `what`.

    Damage that shows only when a member is read is the same error, as long as it is read inside the context.
    """
    named = "" if isinstance(source, bytes) else f"{source}, "
    try:
        raw: Any = io.BytesIO(source) if isinstance(source, bytes) else open_regular(source, what).detach()  # type: ignore[attr-defined]
        with _Bounded(raw) as file:
            size = file.seek(0, os.SEEK_END)
            if not size:
                raise zipfile.BadZipFile("it is empty")
            file.most = 512 * LIMITS["members"].most
            archive = _opened(file)
            file.most = None
            with archive:
                members = archive.infolist()
                check_limit("members", len(members), what)
                if any(info.compress_size > size or info.header_offset > size or info.flag_bits & 1 for info in members):
                    raise zipfile.BadZipFile("members that are longer than the file, or encrypted")
                check_growth("ratio", sum(info.file_size for info in members), size, what)
                yield archive
    except ZIP_DAMAGE as error:
        said = str(error)[:200] or type(error).__name__
        raise ValueError(f"{what} must be a whole zip archive. Received: {named}a truncated or damaged one ({said})") from error


def _opened(file: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (*ZIP_DAMAGE, LookupError, RuntimeError, struct.error, ValueError) as error:
        raise zipfile.BadZipFile(str(error)) from error


class _Counted(io.RawIOBase):
    """A stream that ends in ValueError after `most` bytes."""

    def __init__(self, stream: IO[bytes], most: int, what: str) -> None:
        self.stream, self.left, self.most, self.what = stream, most, most, what

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        content = self.stream.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        self.left -= len(content)
        if self.left < 0:
            limit = LIMITS["ratio"]
            raise ValueError(f"{self.what} must have at most {limit.most} {limit.what}. Received: more than {self.most:,}")
        return content


def unpack_tar(archive: Path, folder: Path, what: str) -> None:
    """Write the regular files of a .tar or .tar.gz into `folder`: no links, no devices, no path that leads out of it.

    ValueError that begins with `what` for a damaged archive, one that unpacks to too much, or with a member of another kind.
    """
    with open_regular(archive, what) as file:
        size = os.fstat(file.fileno()).st_size
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        most = min(LIMITS["unpacked"].most, SMALL + LIMITS["ratio"].most * size)
        try:
            plain: Any = gzip.GzipFile(fileobj=file) if packed else file
            with tarfile.open(fileobj=_Counted(plain, most, what), mode="r|") as tar:
                for count, member in enumerate(tar, 1):
                    check_limit("files", count, what)
                    if not member.isdir():
                        _unpack_member(tar, member, folder, most, what)
            while plain.read(MIB):  # the checksum stands at the end
                pass
        except TAR_DAMAGE as error:
            said = str(error)[:200] or type(error).__name__
            raise ValueError(f"{what} must be a whole tar archive. Received: a truncated or damaged one ({said})") from error
        except OSError as error:
            if isinstance(error, gzip.BadGzipFile) or error.errno is None:
                raise ValueError(
                    f"{what} must be a whole tar archive. Received: a truncated or damaged one ({error})"
                ) from error
            raise OSError(error.errno, f"{archive} cannot be unpacked to {folder}, see $TMPDIR ({error})") from error


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, most: int, what: str) -> None:
    inside = f"{what} must hold files that stay inside the folder they are unpacked to."
    name = PurePosixPath(member.name)
    parts = [part for part in name.parts if part not in ("/", ".")]
    if ".." in parts or "\0" in member.name or "\\" in member.name or not parts:
        raise ValueError(f"{inside} Received: {shown(str(name))}")
    if not member.isreg():
        raise ValueError(f"{inside} Received: {shown(str(name))}, a link or a device")
    check_limit("path", len(member.name), what)
    check_limit("depth", len(parts), what)
    if not 0 <= member.size <= most:
        raise ValueError(f"{what} must have at most {most:,} unpacked bytes. Received: {member.size:,} in one member")
    source = tar.extractfile(member)
    if source is None:
        raise tarfile.ReadError(f"no content of {shown(str(name))}")
    target = folder.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        while chunk := source.read(MIB):
            file.write(chunk)


# XML


def read_xml(path: str | os.PathLike[str], what: str) -> Element:
    """The root of an XML file without entities of its own; ValueError that begins with `what` and names the file."""
    from xml.etree.ElementTree import TreeBuilder
    from xml.parsers import expat

    content, encoding = _encoded(read_bytes(path, what, limit=LIMITS["xml"].most))
    builder, depth = TreeBuilder(), 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        check_limit("depth", depth, what)
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def entity(name: str, *_: object) -> None:
        raise ValueError(f"{what} must have no entities of its own. Received: {shown(name)}")

    try:
        parser = expat.ParserCreate(encoding)
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = start, end
        parser.CharacterDataHandler, parser.EntityDeclHandler = builder.data, entity
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, LookupError, ValueError, AssertionError) as error:
        raise ValueError(
            f"{what} must be XML. Received: {path}: {error if content.strip() else 'it is empty'}{_undeclared(content)}"
        ) from error


def _encoded(content: bytes) -> tuple[bytes, str | None]:
    """XML as expat can read it: bytes, and the encoding to read them with in place of the declared one."""
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return content.decode("utf-32", "replace").encode(), "utf-8"
    content = content.removeprefix(codecs.BOM_UTF8).lstrip()
    declared = DECLARED.match(content)
    if declared is None:
        return content, None
    name = declared[1].decode()
    if NOT_MEANT.match(name):
        return content, "utf-8"
    if not OTHER_ENCODING.fullmatch(name):
        return content, None
    try:
        return content.decode(name).encode(), "utf-8"
    except (UnicodeError, LookupError):
        return content, None  # expat says what is wrong with it


def _undeclared(content: bytes) -> str:
    """What to say of XML whose bytes are in an encoding that it does not name, or in which a name was not escaped."""
    if re.search(rb"&(?!#|\w+;)", content):
        return ". Write `&` as `&amp;`"
    if DECLARED.match(content) or content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return ""
    try:
        content.decode()
    except UnicodeDecodeError:
        return (
            ". It is not UTF-8 and names no other encoding: write the one that it is in into the first line, as in "
            '<?xml version="1.0" encoding="windows-1250"?>'
        )
    return ""


# YAML


def read_yaml(path: str | os.PathLike[str], what: str) -> Any:
    """The value of a YAML file of texts, lists and mappings, without aliases; ValueError that begins with `what` and names it.

    Every plain value but null is the text that is written: YAML takes the class `on` for true, and `1e3` for a number.
    """
    import yaml

    class Plain(yaml.SafeLoader):
        depth = 0
        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [each for each in known if each[0] == "tag:yaml.org,2002:null"]
            for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("an alias, which makes small files large")
            self.depth = check_limit("depth", self.depth + 1, what)
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    content = read_text(path, what, limit=LIMITS["yaml"].most)
    try:
        return yaml.load(content, Loader=Plain)
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{what} must be YAML of plain values. Received: {path}: {said}") from error


# Programs


def run_bounded(command: list[str], what: str, *, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a program and give its output as text. OSError that begins with `what` for an output without end, after which it is
    killed; subprocess.TimeoutExpired."""
    limit = LIMITS["output"]
    found: dict[str, bytes] = {}

    def read(name: str, stream: IO[bytes]) -> None:
        found[name] = stream.read(limit.most + 1)
        if len(found[name]) > limit.most:
            process.kill()

    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        names = ("stdout", "stderr")
        readers = [threading.Thread(target=read, args=(name, getattr(process, name)), daemon=True) for name in names]
        ends = time.monotonic() + timeout
        try:
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join(max(0.0, ends - time.monotonic()))
            if any(reader.is_alive() for reader in readers):
                raise subprocess.TimeoutExpired(command, timeout)
            status = process.wait(max(0.1, ends - time.monotonic()))
        finally:
            process.kill()
    if any(len(content) > limit.most for content in found.values()):
        raise OSError(f"{what} must write at most {limit.most:,} {limit.what}. Received: more, of {shown(command[1:])}")
    texts = {name: content.decode("utf-8", "replace").replace("\r\n", "\n") for name, content in found.items()}
    return subprocess.CompletedProcess(command, status, texts["stdout"], texts["stderr"])


# .tflite and .onnx


def exported_kind(model: Any) -> str | None:
    """`tflite` or `onnx` for the name of an exported file, None for anything else; a .onnx is known by its ending alone."""
    if isinstance(model, str | os.PathLike) and os.fsdecode(model).endswith(".onnx"):
        return "onnx"
    return "tflite" if is_tflite(model) else None


def is_tflite(model: Any) -> bool:
    """Whether a model is the name of a .tflite file: by its ending, or by what is in it."""
    if not isinstance(model, str | os.PathLike):
        return False
    path = os.path.expanduser(os.fsdecode(model))
    if path.endswith(".tflite"):
        return True
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(8)[4:] == TFLITE_MARK
