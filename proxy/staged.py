"""Faults on demand: how one answer is to go wrong, as its client asks, to see what he makes of it.

The rule: a fault is staged for the client that asks. It is no part of the key, of what the upstream gets, or of what is
recorded.
"""

import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson

from proxy.errors import Outcome
from proxy.pace import pause_s

_WAYS = "status=429, first-byte=2s, gap=50ms, cut-after=5 or error-event=5, or several with commas between"
_MOST_DIGITS = 9
_END_OF_BLOCK = re.compile(rb"\n\n|\r\r\n?|\n\r\n")  # an empty line, in any of the line ends of SSE
_DATA = re.compile(rb"[\r\n]data[:\r\n]")
_OVERLAP_BYTES = 5  # of which such a find may begin in what came before
_RESPONSES = "/responses"


class StagedFault(NamedTuple):
    """What `X-Reprise-Fault` asks for; the names are those of `reprise simulate`, where it has the same."""

    text: str
    """As it was asked for, for the log."""
    status: int | None = None
    """Of an error in place of the answer."""
    first_byte_s: float = 0.0
    """From the request to the head, at least."""
    gap_s: float = 0.0
    """From one frame to the next, at least, and in an event stream from one event to the next."""
    cut_after: int | None = None
    """Events of a stream, or frames of another body, after which it is broken off; one of fewer is, at its end."""
    error_after: int | None = None
    """Events, after which an error event ends the stream."""

    @classmethod
    def parse(cls, text: str) -> "StagedFault":
        """Read `cut-after=5`, or several with commas between, such as `first-byte=2s, status=429`.

        Raises:
            ValueError: it is none of that, something is given twice, a number is out of range, or it would end twice.
        """
        pairs = [part.strip(" \t").partition("=") for part in text.split(",")]
        given = {name: value for name, _, value in pairs}
        if len(given) < len(pairs) or not given.keys() <= _READERS.keys():
            raise ValueError(f"expected {_WAYS}, each once")
        if len(given.keys() & _ENDINGS) > 1:
            raise ValueError("an answer ends in one way; choose between status, cut-after and error-event")
        asked: dict[str, Any] = {field: read(given[name]) for name, (field, read) in _READERS.items() if name in given}
        return cls(", ".join(f"{name}={value}" for name, value in given.items()), **asked)

    @property
    def ends_early(self) -> bool:
        """Whether the body is to end otherwise than its head would say."""
        return self.cut_after is not None or self.error_after is not None

    def is_due(self, passed: int) -> bool:
        """Whether the body is to end after `passed` events or frames."""
        return passed in (self.cut_after, self.error_after)

    def has_failed(self, outcome: Outcome) -> bool:
        """Whether its client, to which the log ascribes this outcome, still has to ask for the answer."""
        return self.error_after is not None or outcome != "complete"


class EventCutter:
    """Cuts the frames of an event stream behind each event, wherever the reads from the upstream had cut it."""

    def __init__(self) -> None:
        self._before = b"\n"  # as if an event had ended there
        self._has_data = False

    def pieces(self, frame: bytes) -> Iterator[tuple[bytes, bool]]:
        """The next frame in pieces, and of each whether an event ends with it.

        Comments and other blocks without data are no events. Source: WHATWG HTML section 9.2.6.
        """
        text, begin, start = self._before + frame, 0, len(self._before)
        while empty_line := _END_OF_BLOCK.search(text, begin):
            end = empty_line.end()
            yield text[start:end], self._has_data or _DATA.search(text, begin, end) is not None
            # The end of the empty line is the beginning of the next, which may be empty again.
            self._has_data, begin, start = False, end - 1, end
        if start < len(text):
            yield text[start:], False
        self._has_data = self._has_data or _DATA.search(text, begin) is not None
        self._before = text[max(begin, len(text) - _OVERLAP_BYTES) :]


def error_event(path: str, number: int) -> bytes:
    """A failure in mid-stream as OpenAI tells it on the route of that path, after `number` events."""
    message = "The server had an error while processing your request, as X-Reprise-Fault asked."
    error = {"type": "server_error", "code": None, "message": message, "param": None}
    if not path.endswith(_RESPONSES):
        return b"data: " + orjson.dumps({"error": error}) + b"\n\n"
    named = {"type": "error", "error": error, "sequence_number": number}  # not as documented, as it is sent
    return b"event: error\ndata: " + orjson.dumps(named) + b"\n\n"


def _status(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and int(text) in _FAILURES:
        return int(text)
    raise ValueError("status takes that of an error, such as 429 or 500")


def _time_s(text: str) -> float:
    try:
        return pause_s(text)
    except ValueError as error:
        raise ValueError(f"first-byte and gap take {error}") from error


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS:
        return int(text)
    raise ValueError("cut-after and error-event take a number of events, such as 5")


_FAILURES = frozenset(status.value for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST)
_ENDINGS = frozenset(("status", "cut-after", "error-event"))
_READERS: dict[str, tuple[str, Callable[[str], float]]] = {
    "status": ("status", _status),
    "first-byte": ("first_byte_s", _time_s),
    "gap": ("gap_s", _time_s),
    "cut-after": ("cut_after", _count),
    "error-event": ("error_after", _count),
}
