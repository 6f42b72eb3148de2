"""The metadata section of an entry: all of a recording but its bodies and its timeline, as JSON.

The rule: it is read as if an enemy had written it. What is not of the right kind, or could not be sent as it is, is
`Damaged`; what comes out of here needs no second look.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, Self, get_args

import orjson

from proxy.headers import all_recorded
from proxy.recording import Check, Head, Headers, RecordedRequest, Recording, Timeline, Usage

_KEY = re.compile(r"[0-9a-f]{64}")
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 section 5.5
_REASON = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")  # RFC 9112 section 4
_STATUSES = range(200, 600)
_CHECKS: dict[str, Check] = {check: check for check in get_args(Check)}
_COUNTS = range(2**63)
_TEXT_PAIR = [str, str]
_COUNT_PAIR = [int, int]
_LATEST_S = 2.0**40  # a Unix time in the far future, that still is a number to reckon with

_KINDS: tuple[tuple[str, type], ...] = (
    *((name, str) for name in ("key", "method", "path", "namespace", "reason")),
    *((name, list) for name in ("vary", "headers")),
    ("recorded_at", float),
    ("status", int),
    ("stream", bool),
)


class Damaged(Exception):
    """These bytes are no entry, not the entry asked for, or not what was written. The message is the reason."""


def dump(recording: Recording) -> bytes:
    """The metadata of a recording, in ASCII."""
    request, head = recording.request, recording.head
    facts = {
        "key": recording.key,
        "recorded_at": float(recording.recorded_at),
        "method": request.method,
        "path": request.path,
        "vary": request.vary,
        "namespace": request.namespace,
        "sample": request.sample,
        "status": head.status,
        "reason": head.reason,
        # Header fields are bytes, in no character set; in latin-1 each byte is a character.
        "headers": [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers],
        "head_us": recording.timeline.head_us,
        "check": recording.check,
        "stream": recording.stream,
        "model": recording.model,
        "usage": recording.usage and tuple(recording.usage),  # orjson takes no named ones
    }
    try:
        text = orjson.dumps(facts)
    except TypeError:  # a path may hold bytes that are no UTF-8, which arrive here as lone surrogates
        text = b"\xff"
    return text if text.isascii() else json.dumps(facts, separators=(",", ":")).encode("ascii")


class Metadata:
    """What `dump` wrote, each fact checked as it is taken out."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts

    @classmethod
    def parse(cls, data: bytes, key: str) -> Self:
        """Read the metadata of the recording of that key.

        Raises:
            Damaged: it is no metadata, or that of another key.
        """
        if not data.isascii():
            raise Damaged("its metadata is not in ASCII")
        return cls.of(an_object(loaded(data, "its metadata"), "its metadata"), key)

    @classmethod
    def of(cls, facts: dict[str, Any], key: str) -> Self:
        """The same of facts that were written in another way.

        Raises:
            Damaged: they are those of another key.
        """
        if facts.get("key") != key or not _KEY.fullmatch(key):
            raise Damaged("it is the entry of another key")
        return cls(facts)

    @property
    def head_us(self) -> int:
        """When the response head arrived, see `Timeline`."""
        return self._count("head_us")

    def recording(self, request_body: bytes, body: bytes, timeline: Timeline) -> Recording:
        """The whole recording.

        Raises:
            Damaged: a fact is missing, is of the wrong kind, or could not be sent.
        """
        facts: dict[str, Any] = self._facts
        for name, kind in _KINDS:
            if type(facts.get(name)) is not kind:  # a bool is an int, but not here
                raise Damaged(f"its {name} is no {kind.__name__}")
        if not 0 <= facts["recorded_at"] < _LATEST_S:
            raise Damaged("its recorded_at is no time")
        vary, sample = self._pairs("vary"), self._count("sample")
        model = facts.get("model")
        if model is not None and type(model) is not str:
            raise Damaged("its model is no str")
        return Recording(
            facts["key"],
            facts["recorded_at"],
            RecordedRequest(facts["method"], facts["path"], request_body, vary, facts["namespace"], sample),
            self._head(facts["status"], facts["reason"]),
            body,
            timeline,
            self._check(),
            facts["stream"],
            model,
            self._usage(),
        )

    def _head(self, status: int, reason: str) -> Head:
        if status not in _STATUSES or not _REASON.fullmatch(reason):
            raise Damaged("its status line can't be sent")
        return Head(status, reason, _headers(self._pairs("headers")))

    def _check(self) -> Check:
        check = self._facts.get("check")
        if isinstance(check, str) and check in _CHECKS:
            return _CHECKS[check]
        raise Damaged("its check is none that we know")

    def _usage(self) -> Usage | None:
        usage = self._facts.get("usage")
        if usage is None:
            return None
        if type(usage) is list and [*map(type, usage)] == _COUNT_PAIR and all(count in _COUNTS for count in usage):
            return Usage(*usage)
        raise Damaged("its usage is not two counts")

    def _pairs(self, name: str) -> tuple[tuple[str, str], ...]:
        items = self._facts[name]
        for item in items:
            if type(item) is not list or [*map(type, item)] != _TEXT_PAIR:
                raise Damaged(f"its {name} is no list of pairs")
        return tuple([(first, second) for first, second in items])

    def _count(self, name: str) -> int:
        number = self._facts.get(name)
        if type(number) is not int or number not in _COUNTS:
            raise Damaged(f"its {name} is no count")
        return number


def loaded(text: bytes, what: str) -> object:
    """The value of some JSON, lone surrogates in it or not.

    Raises:
        Damaged: it is not JSON; `what` is what the message calls it.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(text)  # it takes lone surrogates too
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{what} is not JSON") from error


def an_object(value: object, what: str) -> dict[str, Any]:
    """A value of JSON that has to be an object.

    Raises:
        Damaged: it is none; `what` is what the message calls it.
    """
    if not isinstance(value, dict):
        raise Damaged(f"{what} is no object")
    return value


def _headers(pairs: Iterable[tuple[str, str]]) -> Headers:
    # This goes out as header lines: nothing in it may end a line, or be a field that steers the transfer.
    try:
        headers = tuple([(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs])
    except UnicodeEncodeError as error:
        raise Damaged("a header field of it is not made of bytes") from error
    if not all_recorded(headers):
        raise Damaged("it has a header field that no recording may keep")
    if not _FIELD_VALUE.fullmatch(b"".join([value for _, value in headers])):
        raise Damaged("a header field of it can't be sent")
    return headers
