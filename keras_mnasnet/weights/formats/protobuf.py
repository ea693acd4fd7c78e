"""The wire format of protocol buffers, as far as files of tensors and graphs need it: fields by their number, within bounds.

Source: protobuf.dev, "Encoding". Nothing is copied: what has a length is a view of the bytes that were read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

Message = dict[int, list[Any]]  # of each number the values in their order: an int, or the bytes of a text, a message, a row

MOST_FIELDS = 500_000  # of a message; a frozen MnasNet has 500
MOST_NUMBERS = 10_000  # of a list


def message(data: memoryview | bytes) -> Message:
    """The fields of a message; fixed32 and fixed64 are the bytes of their value. ValueError for what is none."""
    found: Message = {}
    for count, (number, value) in enumerate(_fields(memoryview(data))):
        if count >= MOST_FIELDS:
            raise ValueError(f"a message must have at most {MOST_FIELDS:,} fields")
        found.setdefault(number, []).append(value)
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if not number:
            raise ValueError("a field without a number")
        if wire == 0:
            value, at = varint(data, at)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, at = varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError(f"a field of type {wire} that ends behind its message")
        yield number, data[at : at + size]
        at += size


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at a place, and the place behind it."""
    value = 0
    for place in range(10):
        if at + place >= len(data):
            raise ValueError("a number that is cut off")
        byte = data[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError("a number of more than ten bytes")


def last(found: Message, number: int, default: Any = None) -> Any:
    """The last value of a field that stands once."""
    return found[number][-1] if number in found else default


def text(value: Any, default: str = "") -> str:
    """A text; ValueError for what is no UTF-8."""
    if value is None:
        return default
    if isinstance(value, int):
        raise ValueError("a number where a text should be")
    return bytes(value).decode()


def signed(value: int) -> int:
    """A varint as the 64-bit number with a sign that it holds."""
    return value - (1 << 64) if value >> 63 else value


def whole_numbers(found: Message, number: int, most: int = MOST_NUMBERS) -> list[int]:
    """A repeated field of at most so many whole numbers, packed or not."""
    values = []
    for value in found.get(number, ()):
        if isinstance(value, int):
            values.append(signed(value))
            continue
        at = 0
        while at < len(value) and len(values) <= most:
            each, at = varint(value, at)
            values.append(signed(each))
    if len(values) > most:
        raise ValueError(f"a list must have at most {most:,} whole numbers")
    return values


def real_number(value: Any) -> float:
    """A float; ValueError for anything else."""
    if isinstance(value, int) or len(value) != 4:
        raise ValueError("something else where a float should be")
    return float(struct.unpack("<f", value)[0])
