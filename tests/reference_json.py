"""A second reading of JSON, by hand and over bytes, to hold the proxy's own against.

The rule: it reads what RFC 8259 calls JSON and nothing else, keeps whatever any two readers could tell apart, and notes
what they could read differently. It shares no code with the proxy, nor with a library that reads JSON.
"""

import re
from collections import Counter
from decimal import Decimal
from math import isinf
from typing import NamedTuple
from unicodedata import normalize

DEEPEST = 254
"""Arrays and objects within each other; beyond that it does not read on."""

_SPACE = re.compile(rb"[ \t\n\r]*")
_LITERAL = re.compile(rb"true|false|null")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_UNESCAPED = re.compile(rb'[^"\\\x00-\x1f]+')
_ESCAPED = re.compile(rb'\\(?:(["\\/bfnrt])|u([0-9a-fA-F]{4}))')
_SHORT = dict(zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True))


class NotJson(Exception):
    """These bytes are not one JSON text in UTF-8."""


class Reading(NamedTuple):
    """What a JSON text says."""

    said: str
    """Members sorted, texts as code points, numbers as they are spelled: equal if, and only if, all readers say so."""
    doubts: frozenset[str]
    """Why readers could differ: `twice`, `nearly twice`, `surrogate`, `range`."""


def read(raw: bytes) -> Reading:
    """Read one JSON text.

    Raises:
        NotJson: it is none, or deeper than `DEEPEST`.
    """
    reader = _Reader(raw)
    said = reader.value(0)
    reader.skip(_SPACE)
    if reader.at != len(raw):
        raise NotJson("something follows")
    return Reading(said, frozenset(reader.doubts))


def told(points: str) -> str:
    """A text as a reading says it."""
    return '"' + " ".join(f"{ord(point):x}" for point in points) + '"'


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0
        self.doubts: set[str] = set()

    def value(self, depth: int) -> str:
        self.skip(_SPACE)
        if self.takes(b"{"):
            return self.object(one_deeper(depth))
        if self.takes(b"["):
            return "[" + ",".join(self.items(one_deeper(depth))) + "]"
        if self.takes(b'"'):
            return told(self.text())
        if literal := self.skip(_LITERAL):
            return literal[0].decode()
        return self.number()

    def object(self, depth: int) -> str:
        members: list[tuple[str, str]] = []
        while not self.closes(b"}", first=not members):
            self.needs(b'"')
            name = self.text()
            self.skip(_SPACE)
            self.needs(b":")
            members.append((name, self.value(depth)))
        self.doubt("twice", repeats([name for name, _ in members]))
        self.doubt("nearly twice", repeats([loosely(name) for name, _ in members]))
        return "{" + ",".join(sorted(f"{told(name)}:{value}" for name, value in members)) + "}"

    def items(self, depth: int) -> list[str]:
        items: list[str] = []
        while not self.closes(b"]", first=not items):
            items.append(self.value(depth))
        return items

    def text(self) -> str:
        units: list[int] = []
        while not self.takes(b'"'):
            if plain := self.skip(_UNESCAPED):
                units += map(ord, in_utf_8(plain[0]))
            elif escaped := self.skip(_ESCAPED):
                units.append(_SHORT[escaped[1][0]] if escaped[1] else int(escaped[2], 16))
            else:
                raise NotJson("a control character, an unknown escape or no end in a text")
        # Two escapes together may be one character; half of one is none (RFC 8259 section 8.2).
        points = b"".join(chr(unit).encode("utf-16-le", "surrogatepass") for unit in units)
        text = points.decode("utf-16-le", "surrogatepass")
        self.doubt("surrogate", any("\ud800" <= point <= "\udfff" for point in text))
        return text

    def number(self) -> str:
        number = self.skip(_NUMBER)
        if number is None:
            raise NotJson("no value")
        text, fraction, exponent = number[0].decode(), number[1], number[2]
        if fraction or exponent:
            lost = float(text) == 0 and re.search("[1-9]", re.split("[eE]", text)[0])
            self.doubt("range", bool(lost) or isinf(float(text)))
        else:
            self.doubt("range", not -(2**63) <= Decimal(text) < 2**64)
        return text

    def closes(self, end: bytes, *, first: bool) -> bool:
        self.skip(_SPACE)
        if self.takes(end):
            return True
        if not first:
            self.needs(b",")
            self.skip(_SPACE)
        return False

    def skip(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        match = pattern.match(self.raw, self.at)
        self.at = match.end() if match else self.at
        return match

    def takes(self, byte: bytes) -> bool:
        found = self.raw.startswith(byte, self.at)
        self.at += found
        return found

    def needs(self, byte: bytes) -> None:
        if not self.takes(byte):
            raise NotJson(f"no {byte!r}")

    def doubt(self, why: str, there_is: bool) -> None:  # noqa: FBT001 - it reads as a sentence
        if there_is:
            self.doubts.add(why)


def one_deeper(depth: int) -> int:
    if depth == DEEPEST:
        raise NotJson("too deep")
    return depth + 1


def in_utf_8(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotJson("not UTF-8") from error


def repeats(names: list[str]) -> bool:
    return max(Counter(names).values(), default=0) > 1


def loosely(name: str) -> str:
    """A name to a reader that minds neither case nor normal forms, and ends it at NUL."""
    return normalize("NFC", name.split("\0", 1)[0].casefold())
