"""Faults on demand: how one answer is to go wrong, as its client asks, to see what he makes of it.

The rule: a fault is staged for the client that asks. It is no part of the key, of what the upstream gets, or of what is
recorded.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson

from proxy.pace import pause_s

_WAYS = "status=429, first-byte=2s, gap=50ms, cut-after=5 or error-event=5, or several with commas between"
_MOST_DIGITS = 9
_ENDS_OF_EVENT = (b"\n\n", b"\r\r", b"\n\r\n", b"\r\r\n")  # an empty line, in any of the line ends of SSE
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
    """From one frame to the next, at least."""
    cut_after: int | None = None
    """Frames, after which the transfer is broken off; an answer of fewer is, at its end."""
    error_after: int | None = None
    """Frames, after which an error event ends the stream, as soon as no event is cut by it."""

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

    def is_due(self, passed: int, tail: bytes) -> bool:
        """Whether the body is to end after `passed` frames, of which the last bytes are `tail`."""
        if self.cut_after is not None:
            return passed >= self.cut_after
        if self.error_after is not None:
            return passed >= self.error_after and (not passed or tail.endswith(_ENDS_OF_EVENT))
        return False


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
    raise ValueError("cut-after and error-event take a number of frames, such as 5")


_FAILURES = frozenset(status.value for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST)
_ENDINGS = frozenset(("status", "cut-after", "error-event"))
_READERS: dict[str, tuple[str, Callable[[str], float]]] = {
    "status": ("status", _status),
    "first-byte": ("first_byte_s", _time_s),
    "gap": ("gap_s", _time_s),
    "cut-after": ("cut_after", _count),
    "error-event": ("error_after", _count),
}
