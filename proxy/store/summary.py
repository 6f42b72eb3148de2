"""What a listing shows of a recording without reading it.

The rule: every text in it is one line that a terminal can show, whatever the request had in it.
"""

import re
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Self

import orjson

from proxy.recording import Recording
from proxy.store.metadata import Damaged, an_object

_NAME_CHARACTERS = 250
_MOST_NAMES = 256  # that are known as they are shown
_PROMPT_CHARACTERS = 80
_SHORT_BYTES = 64 * 1024  # parsed in a tenth of a millisecond
_LONGEST_READ_BYTES = 4 * 1024 * 1024  # parsing more holds up everything else for longer than a stream should wait

_BY_USER, _CONTENT, _TEXT = b'"role":"user"', b'{"content":', b'"text":'
_BEGINNING = re.compile(rb'"((?:[^"\\]|\\u.{4}|\\.){0,1300})', re.DOTALL)  # four times what is shown, in UTF-8


@dataclass(slots=True)  # a frozen one takes three times as long to make
class Summary:
    """A recording in a few hundred bytes."""

    key: str
    recorded_at: float
    """Unix time in seconds."""
    method: str
    path: str
    model: str | None
    stream: bool
    status: int
    body_bytes: int
    frames: int
    duration_s: float
    """From the moment the request had been sent to the last frame."""
    input_tokens: int | None
    output_tokens: int | None
    namespace: str
    sample: int
    prompt: str
    """The beginning of what was asked, to recognise it by; empty where nothing can be shown."""

    def to_json(self) -> bytes:
        return _json(self)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote; members of a later version are left out.

        Raises:
            Damaged: it is something else.
        """
        try:
            members = an_object(orjson.loads(data), "its summary")
        except orjson.JSONDecodeError as error:
            raise Damaged("its summary is not JSON") from error
        return cls(**{name: _checked(name, kind, members.get(name)) for name, kind in _KINDS.items()})


_KINDS: dict[str, Any] = {field.name: field.type for field in fields(Summary)}


def _checked(name: str, kind: Any, value: object) -> Any:  # noqa: ANN401 - a field of a dataclass has any type
    if not isinstance(value, kind):
        raise Damaged(f"its summary has no {name}")
    return line(value) if isinstance(value, str) else value


def summary(recording: Recording) -> Summary:
    """Sum up a recording."""
    return Summary(**_facts(recording))


def summary_json(recording: Recording) -> bytes:
    """The `to_json` of its summary, in half the time."""
    return _json(_facts(recording))


def _json(facts: object) -> bytes:
    # A copy, since it is kept until it is written: what orjson gives lies in a buffer of several kilobytes.
    return b"%b" % orjson.dumps(facts)


def _facts(recording: Recording) -> dict[str, Any]:
    """In the order of the fields of a `Summary`."""
    request, usage = recording.request, recording.usage
    method, path, namespace, model = _names(request.method, request.path, request.namespace, recording.model or "")
    return {
        "key": recording.key,
        "recorded_at": float(recording.recorded_at),
        "method": method,
        "path": path,
        "model": None if recording.model is None else model,
        "stream": recording.stream,
        "status": recording.head.status,
        "body_bytes": len(recording.body),
        "frames": len(recording.timeline.lengths),
        "duration_s": recording.timeline.duration_us / 1e6,
        "input_tokens": usage and usage.input_tokens,
        "output_tokens": usage and usage.output_tokens,
        "namespace": namespace,
        "sample": request.sample,
        "prompt": prompt_of(request.body),
    }


def prompt_of(body: bytes) -> str:
    """What a summary shows of a request with this canonical body."""
    return line(_asked(body), _PROMPT_CHARACTERS)


def _names(*texts: str) -> tuple[str, ...]:
    """Texts that are the same in many recordings, each as one line."""
    return _short_names(*texts) if sum(map(len, texts)) <= _NAME_CHARACTERS else tuple(map(line, texts))


def line(text: str, characters: int = _NAME_CHARACTERS) -> str:
    """The beginning of a text on one line, without anything that could steer a terminal."""
    shown = text[:characters]
    if shown.isprintable() and "  " not in shown and shown == shown.strip():  # as nearly all are
        return shown
    beginning = text[: 4 * characters]
    if not beginning.isprintable():
        beginning = "".join(c if c.isprintable() else " " for c in beginning)
    return " ".join(beginning.split())[:characters]


@lru_cache(_MOST_NAMES)
def _short_names(*texts: str) -> tuple[str, ...]:
    return tuple(map(line, texts))


def _asked(body: bytes) -> str:
    """The last thing that the user said, of a request of any cached route."""
    if len(body) > _SHORT_BYTES and (text := _found(body)):
        return text
    if len(body) > _LONGEST_READ_BYTES:
        return ""
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    if not isinstance(asked, dict):
        return ""
    said = asked.get("messages") or asked.get("input") or asked.get("prompt")
    turns = said if isinstance(said, list) else [said]
    for turn in reversed(turns):
        if text := _text_of(turn):
            return text
    return ""


def _found(body: bytes) -> str:
    """The beginning of it in a long body, without parsing that: of messages, in their canonical form.

    Their members stand in order, without white space. Within a text there is no quotation mark without a backslash, so
    that these are members and not what somebody wrote.
    """
    end = len(body)
    while (end := body.rfind(_BY_USER, 0, end)) > 0:
        content = body.rfind(_CONTENT, 0, end) + len(_CONTENT)
        is_text = body.startswith(b'"', content)
        text = _beginning(body, content if is_text else _first_text(body, content, end), end)
        if text or not is_text:  # of several parts it may be another one that has something in it
            return text
    return ""


def _first_text(body: bytes, start: int, end: int) -> int:
    # From its end, since bytes are searched ten times as fast that way.
    at = end
    while (before := body.rfind(_TEXT, start, at)) >= 0:
        at = before
    return at if at == end else at + len(_TEXT)


def _beginning(body: bytes, start: int, end: int) -> str:
    matched = _BEGINNING.match(body, start, end)
    try:
        text: str = orjson.loads(f'"{matched[1].decode(errors="ignore")}"') if matched else ""
    except orjson.JSONDecodeError:  # no prompt is worth the recording
        return ""
    return text


def _text_of(turn: object) -> str:
    """The first text in a message, in an item of `input`, or in a prompt; none if somebody else than the user spoke."""
    if not isinstance(turn, dict):
        return turn if isinstance(turn, str) else ""
    if turn.get("role", "user") != "user":
        return ""
    content = turn.get("content", turn.get("text"))
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return next((text for text in texts if isinstance(text, str) and text), "")
