"""The upstream's answers: each a pure function of the seed, its serial number, its kind and the note on the request.

The rule: every byte can be made again, so nobody has to keep one in order to check it.
"""

import gzip
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from hashlib import shake_128
from typing import Literal, TypeVar

import orjson

from tests.chaos.kinds import Kind, seeded
from tests.chaos.notes import Note

SECRET_COOKIE = "session=sk-CANARY-cookie"
ANSWER_CANARY = "ANSWER-CANARY"

_NOISE_BYTES = 1 << 20
_MOST_CUTS = 24


class Leave(Enum):
    """How the upstream leaves, other than by keeping the connection."""

    CLOSE = "close"
    RESET = "reset"
    SILENTLY = "silently"
    """It says nothing more, and waits for the proxy to go."""


Part = bytes | float | Leave
"""Bytes in a write of their own, a pause in seconds, or an end."""
Framing = Literal["chunked", "length", "close"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent, and what a client may get of it."""

    kind: Kind
    fields: tuple[tuple[str, str], ...]
    """Those that reach the client of a live answer as they are, in this order."""
    body: bytes
    script: tuple[Part, ...]


def request_id(serial: int) -> str:
    return f"soak-{serial}"


def make(seed: int, serial: int, kind: Kind, note: Note, limit_bytes: int) -> Answer:
    """The answer to one request."""
    rng = seeded(seed, "answer", serial)
    noise = _noise(seed, serial, _size(rng, note, limit_bytes))
    body = _body(serial, kind, note, noise, rng)
    fields = _fields(kind, note, serial)
    maker = _Script(kind, rng, fields, body)
    script = tuple(maker.parts(note.identity.family))
    return Answer(kind, fields, maker.sent, script)


def _size(rng: random.Random, note: Note, limit_bytes: int) -> int:
    low, high = note.identity.size_range(limit_bytes)
    return int(math.exp(rng.uniform(math.log(low), math.log(high))))


def _fields(kind: Kind, note: Note, serial: int) -> tuple[tuple[str, str], ...]:
    fields = [
        ("X-Request-Id", request_id(serial)),
        ("Content-Type", _content_type(kind, note)),
        ("openai-organization", "org-soak"),
        ("x-ratelimit-remaining-requests", str(serial % 1000)),
        ("Set-Cookie", SECRET_COOKIE),
        ("X-Unknown", f"{serial} of its kind"),
    ]
    if kind.status != 200:
        fields += [("Retry-After", "1"), ("retry-after-ms", "20"), ("x-should-retry", "true")]
    if kind.name == "compressed":
        fields.append(("Content-Encoding", "gzip"))
    return tuple(fields)


def _content_type(kind: Kind, note: Note) -> str:
    if kind.name == "wrong_type":
        return "text/html"
    if kind.status == 200 and note.identity.family == "stream":
        return "text/event-stream; charset=utf-8"
    return "application/json" if kind.status != 200 or note.identity.family == "plain" else "application/octet-stream"


# The body


def _body(serial: int, kind: Kind, note: Note, noise: bytes, rng: random.Random) -> bytes:
    if kind.status != 200 or kind.name == "error_body":
        error = {"message": f"{ANSWER_CANARY} {request_id(serial)}", "type": "server_error", "code": None}
        return orjson.dumps({"error": error})
    if note.identity.family == "passed":
        upload = f'{{"id":"{request_id(serial)}","upload":"{note.digest}"}}'.encode()
        return upload + noise
    if note.identity.family == "plain":
        body = _plain(serial, note, noise.decode())
        body = body[:-2] if kind.name == "half_json" else body
    else:
        body = b"".join(_events(serial, kind, note, noise.decode(), rng))
    return gzip.compress(body, 1, mtime=0) if kind.name == "compressed" else body


def _plain(serial: int, note: Note, noise: str) -> bytes:
    answer = {"id": request_id(serial), "usage": {"prompt_tokens": 3, "completion_tokens": serial % 100}}
    if note.identity.route == "embeddings":
        return orjson.dumps({**answer, "object": "list", "data": [{"embedding": noise}], "said": ANSWER_CANARY})
    message = {"role": "assistant", "content": f"{ANSWER_CANARY} é漢🙂 {noise}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return orjson.dumps({**answer, "object": "chat.completion", "choices": [choice]})


def _events(serial: int, kind: Kind, note: Note, noise: str, rng: random.Random) -> Iterator[bytes]:
    end_of_line = rng.choice((b"\n", b"\n", b"\r\n"))
    responses = note.identity.route == "responses_stream"
    texts = [ANSWER_CANARY, *_cut(noise, rng.randint(0, _MOST_CUTS), rng)]
    wrong_at = rng.randrange(len(texts)) if kind.name == "error_event" else -1
    for number, text in enumerate(texts):
        if number == wrong_at:
            yield _event({"error": {"message": "overloaded"}, "id": request_id(serial)}, end_of_line)
        last = number == len(texts) - 1 and kind.name != "no_done"
        yield _event(_delta(serial, number, text, last=last, responses=responses), end_of_line)
        if rng.random() < 0.1:
            yield b": ping" + 2 * end_of_line
    if kind.name in ("no_done", "finish_reason_without_done"):
        return
    yield b"data: [DONE]" + 2 * end_of_line


def _delta(serial: int, number: int, text: str, *, last: bool, responses: bool) -> dict[str, object]:
    if responses:
        name = "response.completed" if last else "response.output_text.delta"
        return {"type": name, "id": request_id(serial), "sequence_number": number, "delta": f"é漢🙂{text}"}
    choice = {"index": 0, "delta": {"content": f"é漢🙂{text}"}, "finish_reason": "stop" if last else None}
    return {"id": request_id(serial), "object": "chat.completion.chunk", "number": number, "choices": [choice]}


def _event(data: dict[str, object], end_of_line: bytes) -> bytes:
    named = b"event: " + str(data["type"]).encode() + end_of_line if "type" in data else b""
    return named + b"data: " + orjson.dumps(data) + 2 * end_of_line


@lru_cache(1)
def _all_noise(seed: int) -> bytes:
    return shake_128(f"noise {seed}".encode()).hexdigest(_NOISE_BYTES).encode()


def _noise(seed: int, serial: int, size: int) -> bytes:
    """Text that no other answer has at this place."""
    noise, start = _all_noise(seed), serial * 7919 % _NOISE_BYTES
    return (noise[start:] + noise * (size // len(noise) + 1))[:size]


_Text = TypeVar("_Text", str, bytes)


def _cut(whole: _Text, cuts: int, rng: random.Random) -> list[_Text]:
    places: list[int] = sorted(rng.randrange(len(whole) + 1) for _ in range(cuts))
    return [whole[start:end] for start, end in zip([0, *places], [*places, len(whole)], strict=True)]


# The way it is sent


class _Script:
    """One answer on its way to the wire."""

    def __init__(self, kind: Kind, rng: random.Random, fields: Sequence[tuple[str, str]], body: bytes) -> None:
        self.sent = body
        """As much of the body as is sent."""
        self._kind = kind
        self._rng = rng
        self._fields = fields
        self._body = body
        self._framing = self._choose_framing()

    def parts(self, family: str) -> Iterator[Part]:
        match self._kind.name:
            case "reset_before_head":
                yield Leave.RESET
            case "close_before_head":
                yield Leave.CLOSE
            case "silent_before_head":
                yield Leave.SILENTLY
            case "garbage":
                yield self._rng.randbytes(40) + b"\r\n\r\n"
                yield Leave.CLOSE
            case _:
                yield from self._written(self._wire(), slowly=family == "stream")
                yield from self._ending()

    def _choose_framing(self) -> Framing:
        match self._kind.name:
            case "cut_in_chunks" | "no_last_chunk" | "bad_chunk" | "late_end_of_framing" | "no_done" | "error_event":
                return "chunked"
            case "short_of_its_length" | "half_json" | "error_body":
                return "length"
            case "closed_in_mid_body" | "reset_instead_of_close":
                return "close"
            case "reset_in_mid_body" | "silent_in_mid_body":
                return self._rng.choice(("chunked", "length"))
        return self._rng.choice(("chunked", "chunked", "chunked", "length", "close"))

    def _wire(self) -> bytes:
        interim = (
            b"HTTP/1.1 103 Early Hints\r\nLink: </soak>\r\n\r\n" if self._kind.name == "interim_responses" else b""
        )
        head = f"HTTP/1.1 {self._kind.status} Soaked".encode()
        lines = [head, *(f"{name}: {value}".encode() for name, value in self._fields), *self._framing_field()]
        return interim + b"\r\n".join(lines) + b"\r\n\r\n" + self._framed()

    def _framing_field(self) -> list[bytes]:
        if self._framing == "chunked":
            return [b"Transfer-Encoding: chunked"]
        return [b"Content-Length: %d" % len(self._body)] if self._framing == "length" else [b"Connection: close"]

    def _framed(self) -> bytes:
        if self._kind.end == "cut" and self._kind.name != "no_last_chunk":
            # Without the last byte alone it may be whole: a CR ends a line as well as CR and LF do.
            self.sent = self._body[: self._rng.randrange(len(self._body) - 1)]
        if self._framing != "chunked":
            return self.sent
        pieces = _cut(self.sent, self._rng.randint(0, _MOST_CUTS), self._rng)
        framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
        return framed + self._after_the_chunks()

    def _after_the_chunks(self) -> bytes:
        if self._kind.name == "cut_in_chunks":
            following = self._body[len(self.sent) :][:7]
            self.sent += following
            begun = b"%x\r\n%b" % (len(following) + 3, following)
            return begun if following else self._rng.choice((b"3", b"3\r", b"3\r\n", b"0\r\n"))
        if self._kind.name == "bad_chunk":
            return b"no size\r\nof a chunk\r\n"
        return b"" if self._kind.end == "cut" or self._kind.name == "late_end_of_framing" else b"0\r\n\r\n"

    def _written(self, wire: bytes, *, slowly: bool) -> Iterator[Part]:
        """In some writes, cut anywhere, with or without time between them."""
        rng = self._rng
        longest_s = rng.choice((0.0, 0.0, 0.005, 0.04)) if slowly else rng.choice((0.0, 0.0, 0.0, 0.005))
        places = sorted(rng.randrange(len(wire)) for _ in range(rng.randint(0, _MOST_CUTS)))
        for start, end in zip([0, *places], [*places, len(wire)], strict=True):
            if start < end:
                yield wire[start:end]
                yield rng.uniform(0, longest_s)

    def _ending(self) -> Iterator[Part]:
        if self._kind.name == "late_end_of_framing":
            yield self._rng.uniform(0.02, 0.3)
            yield b"0\r\n\r\n"
        elif self._kind.name in ("reset_in_mid_body", "reset_instead_of_close"):
            # Later than what was written, or nothing of it would ever arrive.
            yield self._rng.uniform(0, 0.02)
            yield Leave.RESET
        elif self._kind.name == "silent_in_mid_body":
            yield Leave.SILENTLY
        elif self._kind.end == "cut" or self._framing == "close":
            yield Leave.CLOSE
