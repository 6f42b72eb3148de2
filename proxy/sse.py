"""Did the response end well? Asked once, of the finished body, and never on the way of a stream.

The one rule: when in doubt, it did not. What is wrongly recorded is wrong for as long as the recording lives; what is
wrongly not recorded costs one more request.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Never

import orjson

from proxy.alike import unlike
from proxy.recording import Check, Usage

Reason = Literal[
    "error_event",
    "unreadable_event",
    "not_at_event_boundary",
    "no_end_marker",
    "not_json",
    "not_an_object",
    "error_body",
    "not_finished",
]


_BOM = b"\xef\xbb\xbf"
_CR, _LF = b"\r\n"  # to look for a number is much faster than to look for one byte
_JSON_BEGINS = (b"{", b"[")
_ERROR_EVENTS = (b"error", b"response.error", b"response.failed")
_LAST_EVENTS: dict[str, Check] = {
    "response.completed": "response_completed",
    "response.incomplete": "response_incomplete",
}

# A stream has few kinds of events, and what comes in more kinds than these is read, which is all that happens to it.
_SEARCHES = 16


class Ending(NamedTuple):
    """How a response ended."""

    check: Check | None
    """How it said that it was finished; None if it may not be stored."""
    reason: Reason | None
    """Why it may not be stored, the first fault found; None if it may."""
    usage: Usage | None
    """The tokens that it counted last, up to there."""


class Event(NamedTuple):
    """One event of a stream: its last `event` field, and its `data` lines joined with LF."""

    name: bytes
    data: bytes


def stream_ending(body: bytes, choices_expected: int) -> Ending:
    """Judge a whole event stream.

    It must hold no error and no damaged JSON, end at an event boundary, and say that it is finished: by `[DONE]`, by
    `response.completed` or `response.incomplete`, or else by a `finish_reason` of every choice, of those seen and of
    those expected. Data that does not even begin like JSON, such as `ping`, says nothing either way.
    """
    blocks, tail = _blocks(body)
    # Where the last block says so, no event before it has to be asked whether it is an end, only whether it is a fault.
    signs = _Signs(done=not tail and blocks[-1:] == [b"data: [DONE]"])
    searches = _SEARCHES
    waiting = iter(blocks)
    while (block := next(waiting, None)) is not None:
        fault = signs.take(block)
        if fault is not None:
            return Ending(None, fault, signs.usage)
        if signs.may_be_repeated and searches:
            searches -= 1
            waiting = iter(unlike(block, list(waiting)))
    if not _is_idle(tail):
        return Ending(None, "not_at_event_boundary", signs.usage)
    check = signs.check(choices_expected)
    return Ending(check, None if check else "no_end_marker", signs.usage)


def plain_ending(body: bytes) -> Ending:
    """Judge a whole JSON answer: an object that is no error, and no response that is still being made."""
    try:
        answer = read_json(body)
    except ValueError:
        return Ending(None, "not_json", None)
    if not isinstance(answer, dict):
        return Ending(None, "not_an_object", None)
    usage = _usage(answer)
    if _is_error(answer):
        return Ending(None, "error_body", usage)
    if answer.get("status") in ("queued", "in_progress", "cancelled"):
        return Ending(None, "not_finished", usage)
    return Ending("json", None, usage)


def events(body: bytes) -> Iterator[Event]:
    """The events of a stream; what follows the last blank line is none. Source: WHATWG HTML section 9.2.6."""
    return (Event(*_fields(block)) for block in _blocks(body)[0] if block)


def read_json(text: bytes) -> Any:  # noqa: ANN401  # JSON is anything
    r"""Read JSON as the official SDKs can.

    That includes a lone surrogate: servers that cut text by UTF-16 units send `"\ud83d"` and `"\ude00"` in two deltas.

    Raises:
        ValueError: it is not JSON in UTF-8, or nested too deeply.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if b"\\ud" not in text.lower():
            raise
        return _read_surrogates(text.decode())


class _Signs:
    """What the events so far have said about the end."""

    def __init__(self, *, done: bool) -> None:
        self.usage: Usage | None = None
        self.may_be_repeated = False
        """Whether the last event was readable JSON that would change nothing if it came again, now or later."""
        self._done = done
        self._last_event: Check | None = None
        self._choices: set[int] = set()
        self._finished_choices: set[int] = set()

    def take(self, block: bytes) -> Reason | None:
        """Take in one event; its fault if it rules out that the response ended well."""
        self.may_be_repeated = False
        name, data = _fields(block)
        if name and name.strip() in _ERROR_EVENTS:
            return "error_event"
        data = data.strip()
        if data.startswith(_JSON_BEGINS) and data != b"[DONE]":
            return self._take_json(data)
        self._done = self._done or data == b"[DONE]"
        return None

    def check(self, choices_expected: int) -> Check | None:
        if self._done:
            return "done"
        if self._last_event is not None:
            return self._last_event
        choices = max(choices_expected, 1 + max(self._choices, default=0))
        return "finish_reason" if len(self._finished_choices) == choices else None

    def _take_json(self, data: bytes) -> Reason | None:
        try:
            item = read_json(data)
        except ValueError:
            return "unreadable_event"
        if isinstance(item, list):
            return "error_event" if any(isinstance(one, dict) and _is_error(one) for one in item) else None
        if _is_error(item):
            return "error_event"
        usage, kind = _usage(item), item.get("type")
        self.usage = usage or self.usage
        # By its JSON, since many servers leave the `event` line out.
        last_event = _LAST_EVENTS.get(kind) if isinstance(kind, str) else None
        self._last_event = last_event or self._last_event
        if not self._done:
            self._take_choices(item)
        self.may_be_repeated = usage is None and last_event is None
        return None

    def _take_choices(self, item: Mapping[str, Any]) -> None:
        for choice in _choices(item):
            index = choice.get("index", 0)
            if type(index) is int and index >= 0:
                self._choices.add(index)
                # Some servers send "" until the choice is finished, where others send null.
                if choice.get("finish_reason"):
                    self._finished_choices.add(index)


def _blocks(body: bytes) -> tuple[list[bytes], bytes]:
    """The lines that stand before each blank line, joined with LF, and what follows the last blank line."""
    # CRLF, LF and CR all end a line, mixed as they like; nothing else does, so that str.splitlines() is no help.
    text = body.removeprefix(_BOM)
    if _CR in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    # Where every other line is blank, as where each event is one line, this takes half the time of what follows.
    lines = text.split(b"\n")
    if len(lines) % 2 and not any(lines[1::2]):
        *blocks, tail = lines[::2]
    else:
        *blocks, tail = text.split(b"\n\n")
    return blocks, tail


def _is_idle(tail: bytes) -> bool:
    # Between two events servers send comments to keep the connection alive.
    return not tail or (tail.endswith(b"\n") and all(line[:1] in b":" for line in tail.split(b"\n")))


def _fields(block: bytes) -> tuple[bytes, bytes]:
    if block.startswith(b"data:") and _LF not in block:  # as nearly all are
        return b"", block[5:].removeprefix(b" ")
    name, data = b"", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return name, b"\n".join(data)


def _is_error(item: Mapping[str, Any]) -> bool:
    # `"error": null` is what many objects carry when nothing is wrong. One next to `choices` is taken for an error
    # too: it is how OpenRouter reports a provider that failed half-way, `"finish_reason": "error"` being another way.
    if item.get("error") or item.get("object") == "error" or item.get("status") == "failed":
        return True
    if (kind := item.get("type")) and kind in ("error", "response.error", "response.failed"):
        return True
    response = item.get("response")
    if isinstance(response, dict) and (response.get("error") or response.get("status") == "failed"):
        return True
    return any(choice.get("error") or choice.get("finish_reason") == "error" for choice in _choices(item))


def _choices(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices = item.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _usage(item: Mapping[str, Any]) -> Usage | None:
    usage = item.get("usage")
    if usage is None and isinstance(response := item.get("response"), dict):
        usage = response.get("usage")
    if not isinstance(usage, dict):
        return None
    read, written = _count(usage, "prompt_tokens", "input_tokens"), _count(usage, "completion_tokens", "output_tokens")
    # Embeddings have nothing but input.
    return None if read is None and written is None else Usage(read or 0, written or 0)


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    for name in names:  # not a generator, which takes longer than all of this
        count = usage.get(name)
        if type(count) is int and count >= 0:
            return count
    return None


def _read_surrogates(text: str) -> Any:  # noqa: ANN401  # JSON is anything
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")
