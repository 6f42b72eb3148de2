"""A recording as the two files of a cassette: `KEY.json` for a person to review, `KEY.body` with the bytes that came.

`KEY.json`, format version 1, is JSON in UTF-8 with its members sorted, a line each. Beside what `reprise cache show
--json` calls by the same names it has

    cassette_version   1
    request.body       the canonical body as JSON, where writing that again gives the same bytes; else one of
                       request.body_text (a string) or request.body_base64
    response           status line, header fields, and the length and SHA-256 of `KEY.body`
    timeline.frames    `LENGTH+GAP` for each frame, some on a line: its bytes, and the microseconds by which it came
                       after the one before it, the first one after the moment the request had been sent

The rule: what is written is read back as the same recording, and what is read is checked as if an enemy had written it.
The key is not: it is made of things that no recording keeps, such as the upstream's name and the query.
"""

import json
import re
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterator
from hashlib import sha256
from itertools import accumulate
from operator import sub
from typing import Any, NamedTuple

import orjson

from proxy.recording import Recording, Timeline, Usage
from proxy.store.metadata import Damaged, Metadata, an_object, loaded

VERSION = 1

_FRAMES_A_LINE = 8
_FRAME = re.compile(r"([1-9][0-9]{0,9})([+-][0-9]{1,20})")  # an empty one would end a replay in chunks
_STATUS = 200  # no other one is ever recorded
_LATEST_US = 100 * 86_400 * 1_000_000  # at a recorded pace it would be waited for
_AS_IT_LIES = orjson.OPT_SORT_KEYS
_FOR_REVIEW = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


class OtherVersion(Damaged):
    """It is in another version of the format: not ours to read, nor to judge."""


class Pair(NamedTuple):
    """The contents of the two files."""

    document: bytes
    body: bytes


def pair_of(recording: Recording) -> Pair:
    """The files that stand for a recording."""
    request, head, timeline = recording.request, recording.head, recording.timeline
    document = {
        "cassette_version": VERSION,
        "key": recording.key,
        "recorded_at": float(recording.recorded_at),
        "model": recording.model,
        "stream": recording.stream,
        "check": recording.check,
        "usage": recording.usage and recording.usage._asdict(),
        "request": {
            "method": request.method,
            "path": request.path,
            "vary": request.vary,
            "namespace": request.namespace,
            "sample": request.sample,
            **_shown_body(request.body),
        },
        "response": {
            "status": head.status,
            "reason": head.reason,
            # Header fields are bytes, in no character set; in latin-1 each byte is a character.
            "headers": [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers],
            "body_bytes": len(recording.body),
            "body_sha256": sha256(recording.body).hexdigest(),
        },
        "timeline": {"head_us": timeline.head_us, "frames": list(_lines(timeline))},
    }
    try:
        text = orjson.dumps(document, option=_FOR_REVIEW)
    except TypeError:  # a path may hold bytes that are no UTF-8, which arrive here as lone surrogates
        text = json.dumps(document, indent=2, sort_keys=True).encode("ascii") + b"\n"
    return Pair(text, recording.body)


def recording_of(key: str, pair: Pair) -> Recording:
    """The recording that two files stand for, which are named after that key.

    Raises:
        OtherVersion: a program with another version of the format wrote them.
        Damaged: anything else is wrong with them.
    """
    document = an_object(loaded(pair.document, "it"), "it")
    if (version := document.get("cassette_version")) != VERSION:
        raise OtherVersion(f"its cassette_version is {version!r:.20}, and this program reads version {VERSION}")
    request, response, timeline = (
        an_object(document.get(name), f"its {name}") for name in ("request", "response", "timeline")
    )
    if response.get("body_bytes") != len(pair.body) or response.get("body_sha256") != sha256(pair.body).hexdigest():
        raise Damaged("its .body file does not hold the bytes that it tells of")
    facts = {
        **{name: document.get(name) for name in ("key", "recorded_at", "model", "stream", "check")},
        **{name: request.get(name) for name in ("method", "path", "vary", "namespace", "sample")},
        **{name: response.get(name) for name in ("status", "reason", "headers")},
        "head_us": timeline.get("head_us"),
        "usage": _counts(document.get("usage")),
    }
    metadata = Metadata.of(facts, key)
    if response.get("status") != _STATUS:
        raise Damaged(f"its status is not {_STATUS}")
    frames = _timeline(timeline.get("frames"), metadata.head_us)
    if sum(frames.lengths) != len(pair.body):
        raise Damaged("its frames are not as long as its body")
    return metadata.recording(_body(request), pair.body, frames)


def _shown_body(body: bytes) -> dict[str, object]:
    try:
        value = orjson.loads(body)
        if orjson.dumps([[value]], option=_AS_IT_LIES) == b"[[%b]]" % body:  # within two, as in the document
            return {"body": value}
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        pass
    try:
        return {"body_text": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": b64encode(body).decode()}


def _body(request: dict[str, Any]) -> bytes:
    match [name for name in ("body", "body_text", "body_base64") if name in request]:
        case [name]:
            shown = request[name]
        case _:
            raise Damaged("its request has no body, or more than one")
    try:
        if name == "body":
            return orjson.dumps(shown, option=_AS_IT_LIES)
        return b64decode(shown, validate=True) if name == "body_base64" else str.encode(shown)
    except (TypeError, ValueError) as error:
        raise Damaged(f"its request's {name} can't be made into bytes") from error


def _lines(timeline: Timeline) -> Iterator[str]:
    arrived_us = timeline.arrived_us
    gaps = map(sub, arrived_us, (0, *arrived_us))
    frames = [f"{length}{gap:+d}" for length, gap in zip(timeline.lengths, gaps, strict=True)]
    for start in range(0, len(frames), _FRAMES_A_LINE):
        yield " ".join(frames[start : start + _FRAMES_A_LINE])


def _timeline(lines: object, head_us: int) -> Timeline:
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise Damaged("its frames are no lines")
    frames = [_FRAME.fullmatch(frame) for line in lines for frame in line.split(" ")]
    numbers = [(int(frame[1]), int(frame[2])) for frame in frames if frame is not None]
    if len(numbers) != len(frames):
        raise Damaged("a frame of it is not a length and a gap")
    try:
        lengths = array("I", [length for length, _ in numbers])
        arrived_us = array("Q", accumulate(gap for _, gap in numbers))
    except OverflowError as error:
        raise Damaged("a frame of it is endless, or arrived before it was asked for") from error
    if max(head_us, *arrived_us, 0) > _LATEST_US:
        raise Damaged("a part of it arrived more than 100 days after it was asked for")
    return Timeline(head_us, lengths, arrived_us)


def _counts(usage: object) -> object:
    """As the metadata has them; what is no object of two counts is for that to refuse."""
    return [usage.get(name) for name in Usage._fields] if isinstance(usage, dict) else usage
