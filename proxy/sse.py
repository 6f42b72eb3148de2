"""Did the response end well? Asked once, of the finished body, and never on the way of a stream.

The one rule: when in doubt, it did not. What is wrongly recorded is wrong for as long as the recording lives; what is
wrongly not recorded costs one more request.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Never

import orjson

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
_LAST_EVENTS: dict[str, Check] = {
    "response.completed": "response_completed",
    "response.incomplete": "response_incomplete",
}


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
    signs = _Signs()
    for block in blocks:
        fault = signs.take(_event(block))
        if fault is not None:
            return Ending(None, fault, signs.usage)
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
    return map(_event, _blocks(body)[0])


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

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self._done = False
        self._last_event: Check | None = None
        self._choices: set[int] = set()
        self._finished_choices: set[int] = set()

    def take(self, event: Event) -> Reason | None:
        """Take in one event; its fault if it rules out that the response ended well."""
        data = event.data.strip()
        if event.name.strip() in (b"error", b"response.error", b"response.failed"):
            return "error_event"
        if data == b"[DONE]":
            self._done = True
        elif data.startswith((b"{", b"[")):
            return self._take_json(data)
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
        if not isinstance(item, dict):
            return None
        if _is_error(item):
            return "error_event"
        self.usage = _usage(item) or self.usage
        # By its JSON, since many servers leave the `event` line out.
        if isinstance(kind := item.get("type"), str):
            self._last_event = _LAST_EVENTS.get(kind, self._last_event)
        self._take_choices(item)
        return None

    def _take_choices(self, item: Mapping[str, Any]) -> None:
        for choice in _choices(item):
            index = choice.get("index", 0)
            if type(index) is int and index >= 0:
                self._choices.add(index)
                # Some servers send "" until the choice is finished, where others send null.
                if choice.get("finish_reason"):
                    self._finished_choices.add(index)


def _blocks(body: bytes) -> tuple[Iterator[bytes], bytes]:
    """The lines that stand before each blank line, joined with LF, and what follows the last blank line."""
    # CRLF, LF and CR all end a line, mixed as they like; nothing else does, so that str.splitlines() is no help.
    text = body.removeprefix(_BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *blocks, tail = text.split(b"\n\n")
    return filter(None, blocks), tail


def _is_idle(tail: bytes) -> bool:
    # Between two events servers send comments to keep the connection alive.
    return not tail or (tail.endswith(b"\n") and all(line[:1] in b":" for line in tail.split(b"\n")))


def _event(block: bytes) -> Event:
    name, data = b"", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return Event(name, b"\n".join(data))


def _is_error(item: Mapping[str, Any]) -> bool:
    # `"error": null` is what many objects carry when nothing is wrong. One next to `choices` is taken for an error
    # too: it is how OpenRouter reports a provider that failed half-way, `"finish_reason": "error"` being another way.
    if item.get("error") or item.get("object") == "error" or item.get("status") == "failed":
        return True
    if item.get("type") in ("error", "response.error", "response.failed"):
        return True
    response = item.get("response")
    if isinstance(response, dict) and (response.get("error") or response.get("status") == "failed"):
        return True
    return any(choice.get("error") or choice.get("finish_reason") == "error" for choice in _choices(item))


def _choices(item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    choices = item.get("choices")
    return (choice for choice in choices if isinstance(choice, dict)) if isinstance(choices, list) else iter(())


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
    counts = (usage.get(name) for name in names)
    return next((count for count in counts if type(count) is int and count >= 0), None)


def _read_surrogates(text: str) -> Any:  # noqa: ANN401  # JSON is anything
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")
