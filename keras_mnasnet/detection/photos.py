"""The photos that annotations name: which files they are, and what their headers say."""

from __future__ import annotations

import functools
import itertools
import os
import posixpath
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from keras_mnasnet.utils.reading import LIMITS, open_regular

HEAD = 2**16  # bytes of a photo in which a JPEG's EXIF begins
JPEG = b"\xff\xd8"
READERS = 8  # threads that wait for the disk
TURNED = 5  # EXIF orientations from this on exchange height and width


class Header(NamedTuple):
    """Height and width as they are stored, None where they were not asked for or cannot be read; and EXIF's orientation."""

    size: tuple[int, int] | None
    orientation: int


class PhotoFolder:
    """The files of a folder by the names that annotations give them; none outside of it is ever looked at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inside = os.path.normpath(folder)
        self.by_name: dict[str, str] = {}  # of a name that is not the file's own, the file

    def find(self, name: str, stem: str | None = None, below: str = "") -> str | None:
        """The file of a photo, None where there is none; ValueError where there are several.

        Its path in the folder, else what the path means where it was written (Windows, a URL, Label Studio's `?d=`), else the
        one file of that name, in any case, with any ending, of several the one below the same folders. `stem` is the name of
        the annotation's own file, and `below` the folders that it lies in.
        """
        found = self.exact(os.path.join(below, name)) or self.exact(name)
        if found is None:
            spellings = (posixpath.join(below, each.lstrip("/")) for each in self._spellings(name, stem))
            found = next(filter(None, map(self._named, spellings)), None)
            if found is not None:
                self.by_name[name] = found
        return found

    def exact(self, name: str) -> str | None:
        """The file at this path inside the folder."""
        path = os.path.normpath(os.path.join(self.inside, name))
        return path if self.holds(path) and os.path.isfile(path) else None

    def holds(self, path: str) -> bool:
        """Whether a path leads to a file inside the folder."""
        inside = "" if self.inside == "." else os.path.join(self.inside, "")
        return path.startswith(inside) and path[len(inside) :].split(os.sep)[0] not in ("", "..")

    def _spellings(self, name: str, stem: str | None) -> Iterator[str]:
        plain = name.replace("\\", "/").strip()
        yield plain
        try:
            parts = urlsplit(plain)
            yield from parse_qs(parts.query).get("d", ())
            yield unquote(parts.path)
        except ValueError:
            pass
        if stem is not None:
            yield stem

    def _named(self, path: str) -> str | None:
        if len(path) > LIMITS["path"].most:
            return None
        if (found := self.exact(path)) is not None:
            return found
        parts = [_same(part) for part in path.split("/") if part]
        if not parts:
            return None
        for index, last in zip(self._index, (parts[-1], parts[-1].casefold(), _stem(parts[-1])), strict=True):
            if near := index.get(last):
                return self._only(path, near, parts)
        return None

    def _only(self, name: str, found: Sequence[str], parts: Sequence[str]) -> str:
        """The one file, of several the one below the same folders, else the one that shares most of them from the top."""
        for depth in range(2, len(parts) + 1):
            tail = "/".join(parts[-depth:-1])
            nearer = [file for file in found if _same(os.path.dirname(file).replace(os.sep, "/")).endswith(f"/{tail}")]
            found = nearer or found
        if len(found) > 1:
            shared = [self._shared(file, parts) for file in found]
            found = [file for file, count in zip(found, shared, strict=True) if count == max(shared)]
        if len(found) > 1:
            raise ValueError(
                f"A photo must be found by its path, or by a name that no other one has. Received: {name[:200]!r}, which may "
                f"be {found[0]} or {found[1]}. Give the folder that the paths begin in."
            )
        return found[0]

    def _shared(self, file: str, parts: Sequence[str]) -> int:
        """How many folders from the top a file's path has in common with these."""
        own = map(_same, os.path.relpath(file, self.inside).split(os.sep)[:-1])
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(own, parts[:-1], strict=False)))

    @functools.cached_property
    def _index(self) -> tuple[dict[str, list[str]], ...]:
        """The files of the folder and of those in it by name, by name in any case, and, of photos, by name without ending."""
        from keras_mnasnet.data.folders import is_image

        indices: tuple[dict[str, list[str]], ...] = ({}, {}, {})
        for place, folders, names in os.walk(self.inside):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(filter(is_image, names)):
                own = _same(name)
                for index, key in zip(indices, (own, own.casefold(), _stem(own)), strict=True):
                    index.setdefault(key, []).append(os.path.join(place, name))
        return indices


def _same(name: str) -> str:
    """A name by which files are compared, in Unicode's composed form."""
    return unicodedata.normalize("NFC", name)


def _stem(name: str) -> str:
    """A name without the ending of a photo, in one case; `photo.12` has none."""
    from keras_mnasnet.data.folders import is_image

    folded = name.casefold()
    return folded.rpartition(".")[0] if is_image(folded) else folded


def read_headers(paths: Sequence[str], sized: Iterable[bool]) -> list[Header]:
    """The headers of photos; of those that are `sized` the size is not asked for, which is faster."""
    with warnings.catch_warnings(), ThreadPoolExecutor(READERS) as pool:
        warnings.simplefilter("ignore")  # Pillow's about large and damaged photos, which the check finds
        return list(pool.map(read_header, paths, sized, chunksize=64))


def read_header(path: str, sized: bool = False) -> Header:
    """The header of a photo; one that cannot be read has no size."""
    from keras_mnasnet.data.decode import ALL_FORMATS, orientation, pillow

    try:
        with open_regular(path, "A photo") as file:
            content = file.read(HEAD)
            turn = 1
            if _may_turn(content):
                content += file.read(HEAD if content.startswith(JPEG) and b"Exif\0\0" in content else LIMITS["text"].most)
                turn = orientation(content)
            if sized and turn == 1:
                return Header(None, 1)
            file.seek(0)
            with pillow().open(file, formats=ALL_FORMATS) as image:
                width, height = image.size
    except (OSError, ValueError, SyntaxError, TypeError, ArithmeticError, LookupError, pillow().DecompressionBombError):
        return Header(None, 1)
    return Header((height, width), turn)


def _may_turn(head: bytes) -> bool:
    """Whether a photo that begins so may have an orientation."""
    if head.startswith(JPEG):
        return b"Exif\0\0" in head or (b"\xff\xda" not in head and len(head) == HEAD)
    if head.startswith(b"RIFF"):
        return head[12:16] == b"VP8X"
    return head.startswith(b"\x89PNG") and (b"eXIf" in head or len(head) == HEAD)


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width of a photo of this stored size as it is looked at."""
    height, width = size
    return (width, height) if orientation >= TURNED else (height, width)
