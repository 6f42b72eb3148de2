"""Secrets taken out of a recording before it goes into a file that others will read.

What is found is hidden in place: a letter becomes `x`, a digit `0`, and the rest stays. So the body remains as long as
it was, and with it the length of each frame; it remains valid JSON, and a text with a form (an address, a token) keeps
that form for whoever parses it. A text that is streamed is looked at as a whole, over its events, since it is rarely
that a secret comes in one piece.

The rule: nothing but secrets changes, and no report says what they were. The key stays that of the request as it was
asked, so that this is still answered; it can't be made again from what is left of the request.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from operator import gt
from typing import NamedTuple

from proxy.cassette.passages import Piece, passages, strings
from proxy.cassette.shapes import Patience, shapes
from proxy.recording import Head, Recording

BODY = "body"
"""Where a finding is that is in the answer."""

_UNIT = re.compile(r"\\u[0-9A-Fa-f]{4}|\\.|.", re.DOTALL)
_INNER_ESCAPE = re.compile(r"(?<=\\)(?:u[0-9A-Fa-f]{4}|.)", re.DOTALL)  # but for its backslash
_INNER_ESCAPE_LENGTH = 5
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ESCAPE_LENGTH = 6  # of \u0041
_NUMBER = re.compile(rb"[0-9]+")
_HIDDEN_BYTES = {2: b"48", 3: b"120"}  # a digit and an x; what has one digit is no character that would be hidden

_MOST_KNOWN = 2048
_LONGEST_KNOWN = 64

_Found = Counter[tuple[str, str]]


class Finding(NamedTuple):
    """Secrets of one kind at one place."""

    key: str
    where: str
    """A JSON pointer into `KEY.json`, or `body`."""
    kind: str
    times: int


class Scrubbed(NamedTuple):
    """A recording without its secrets."""

    recording: Recording
    findings: list[Finding]

    @property
    def is_asked_otherwise(self) -> bool:
        """Whether the request is not any more what the key was made of."""
        return any(finding.where.startswith("/request/") for finding in self.findings)


class Scrubber:
    """Finds secrets by their shapes, and hides them. For one thread at a time."""

    def __init__(self, more: Sequence[str], work_s: Callable[[], float]) -> None:
        """`more`: regular expressions of the user's. `work_s` counts the seconds that the calling thread has worked."""
        self._shapes = shapes(more)
        self._work_s = work_s
        self._patience = Patience(work_s)
        self._innocent: set[str] = set()

    def scrub(self, recording: Recording) -> Scrubbed:
        """A recording as it may be shown. For a thread: of a long one every event is looked at.

        Raises:
            SearchTooLong: it takes more work than may go into one recording. So it may not be shown at all.
        """
        self._patience = Patience(self._work_s)
        found: _Found = Counter()
        request, head = recording.request, recording.head
        scrubbed = recording._replace(
            request=request._replace(
                path=self._text(request.path, "/request/path", found),
                vary=tuple((name, self._text(value, "/request/vary", found)) for name, value in request.vary),
                namespace=self._text(request.namespace, "/request/namespace", found),
                body=self._json(request.body, "/request/body", found),
            ),
            head=Head(
                head.status,
                self._text(head.reason, "/response/reason", found),
                tuple((name, self._field(value, found)) for name, value in head.headers),
            ),
            body=self._answer(recording.body, found),
            model=recording.model and self._text(recording.model, "/model", found),
        )
        return Scrubbed(scrubbed, [Finding(recording.key, *place, times) for place, times in sorted(found.items())])

    def _text(self, text: str, where: str, found: _Found) -> str:
        hidden = self._hidden(text, where, found)
        return "".join(map(_hide, text, hidden)) if hidden else text

    def _field(self, value: bytes, found: _Found) -> bytes:
        return self._text(value.decode("latin-1"), "/response/headers", found).encode("latin-1")

    def _json(self, body: bytes, where: str, found: _Found) -> bytes:
        """A JSON document; each finding under the pointer to its string, or to its member."""
        scrubbed = bytearray(body)
        for place, piece in strings(body):
            pointer = "".join(f"/{self._token(token)}" for token in place if not isinstance(token, tuple))
            self._passage(scrubbed, [piece], where + pointer, found)
        return bytes(scrubbed)

    def _token(self, token: object) -> str:
        return self._text(str(token), "", Counter()).replace("~", "~0").replace("/", "~1")

    def _answer(self, body: bytes, found: _Found) -> bytes:
        scrubbed = bytearray(body)
        for passage in passages(body):
            self._passage(scrubbed, passage, BODY, found)
        return bytes(scrubbed)

    def _passage(self, scrubbed: bytearray, pieces: list[Piece], where: str, found: _Found) -> None:
        texts = [_spelled_out(piece.raw) for piece in pieces]
        hidden = self._hidden("".join(texts), where, found)
        if hidden is None:
            return
        start = 0
        for piece, text in zip(pieces, texts, strict=True):
            marks = hidden[start : start + len(text)]
            if any(marks):
                scrubbed[piece.start : piece.start + len(piece.raw)] = _masked(piece.raw, marks)
                for twin in piece.twins:
                    scrubbed[twin.start : twin.start + len(twin.raw)] = _masked_whole(twin)
            start += len(text)

    def _hidden(self, text: str, where: str, found: _Found) -> bytearray | None:
        """For each character whether it is to be hidden; None if that is true of none."""
        if text in self._innocent:
            return None
        hidden = bytearray(len(text))
        for shape in self._shapes:
            for start, end in shape.spans(text, self._patience):
                secret = _secret(text, start, end)
                # What was hidden before, by another shape or another export, is no secret.
                if any(map(gt, secret, hidden[start:end])) and any(map(_changes, text[start:end], secret)):
                    hidden[start:end] = secret
                    found[where, shape.kind] += 1
        if any(hidden):
            return hidden
        self._remember(text)
        return None

    def _remember(self, text: str) -> None:
        """Most of the strings of an event stream are those of the event before."""
        if len(text) <= _LONGEST_KNOWN:
            if len(self._innocent) >= _MOST_KNOWN:
                self._innocent.clear()
            self._innocent.add(text)


def _secret(text: str, start: int, end: int) -> bytearray:
    """For each character of a secret whether it is a part of it, or says how a string within this one is to be read."""
    secret = bytearray(b"\1" * (end - start))
    for escape in _INNER_ESCAPE.finditer(text, max(0, start - _INNER_ESCAPE_LENGTH), end + _INNER_ESCAPE_LENGTH):
        for at in range(max(start, escape.start()), min(end, escape.end())):
            secret[at - start] = 0
    return secret


def _changes(char: str, mark: int) -> bool:
    return _hide(char, mark) != char


def _spelled_out(raw: bytes) -> str:
    """The text of which these bytes are the JSON; a character each `_UNIT`."""
    text = raw.decode(errors="surrogateescape")
    return _UNIT.sub(lambda unit: _character(unit[0]), text) if "\\" in text else text


def _character(unit: str) -> str:
    if len(unit) == 1:
        return unit
    return chr(int(unit.removeprefix("\\u"), 16)) if len(unit) == _ESCAPE_LENGTH else _ESCAPED.get(unit[1], unit[1])


def _masked(raw: bytes, marks: bytearray) -> bytes:
    """The same number of bytes, without what is marked."""
    units = _UNIT.findall(raw.decode(errors="surrogateescape"))
    masked = "".join(_hide_unit(unit) if mark else unit for unit, mark in zip(units, marks, strict=True))
    return masked.encode(errors="surrogateescape")


def _masked_whole(piece: Piece) -> bytes:
    """The same number of bytes, without anything that a secret could be a part of."""
    if piece.is_numbers:
        return _NUMBER.sub(lambda number: _HIDDEN_BYTES.get(len(number[0]), number[0]), piece.raw)
    return _masked(piece.raw, bytearray(b"\1" * len(_spelled_out(piece.raw))))


def _hide_unit(unit: str) -> str:
    char = _character(unit)
    other = _hide(char)
    if other == char:
        return unit
    return f"\\u{ord(other):04x}" if len(unit) == _ESCAPE_LENGTH else other * len(unit.encode(errors="surrogateescape"))


def _hide(char: str, mark: int = 1) -> str:
    if not mark or not char.isalnum():
        return char
    return "0" if char.isdigit() else "x"
