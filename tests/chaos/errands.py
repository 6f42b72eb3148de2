"""What the clients of a soak do: each has its own seeded list of errands, which does not depend on how they go.

The rule: a plan is pure; nothing here knows a socket or a clock.
"""

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal, NamedTuple, TypeVar

import orjson

from tests.chaos.kinds import TARGETS, Route, seeded
from tests.chaos.notes import Identity, Note

SECRET = "Bearer sk-CANARY-soak"
PROMPT_CANARY = "PROMPT-CANARY"

Doing = Literal["ask", "upload", "download", "head", "options", "health", "malformed"]
Manner = Literal["whole", "leave", "slow", "stall"]
Fields = tuple[tuple[str, str], ...]
_Drawn = TypeVar("_Drawn")

_PROMPTS = 60
_TURN_OVER = 6  # errands of one client, after which the most popular prompt is asked no more
_LONG_PROMPT_EVERY, _LONG_PROMPT_BYTES = 23, 200_000
_LARGEST_UPLOAD_BYTES = 1_500_000

_DOINGS: Mapping[Doing, int] = {
    "ask": 78,
    "upload": 5,
    "download": 7,
    "head": 2,
    "options": 1,
    "health": 2,
    "malformed": 3,
}
_MANNERS: Mapping[Manner, int] = {"whole": 76, "leave": 16, "slow": 6, "stall": 1}
_DIRECTIVES: Mapping[str, int] = {
    "": 78,
    "no-cache": 5,
    "no-store": 4,
    "no-cache, no-store": 2,
    "only-if-cached": 5,
    "max-age=0": 3,
    "max-age=1": 2,
    "no-transform, max-age=3600": 1,
}
_PACES: Mapping[str, int] = {"": 90, "recorded": 3, "50x": 2, "1ms": 2, "instant": 3}
_ROUTES: tuple[Route, ...] = ("chat_stream", "chat", "chat_stream", "responses_stream", "chat", "embeddings")

_HOST = b"Host: proxy.test\r\n"
MALFORMED: Mapping[bytes, int] = {
    b"GARBAGE\r\n\r\n": 400,
    b"POST /v1/files HTTP/1.1\r\n" + _HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 400,
    b"POST /v1/embeddings HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n": 400,
    b"POST /v1/chat/completions HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n": 400,
    b"GET /v1/../admin HTTP/1.1\r\n" + _HOST + b"\r\n": 400,
    b"GET //example.com/v1/models HTTP/1.1\r\n" + _HOST + b"\r\n": 400,
    b"GET /v1/models HTTP/1.1\r\n" + _HOST + b"X-Reprise-Pace: soon\r\n\r\n": 400,
    b"GET /nowhere HTTP/1.1\r\n" + _HOST + b"\r\n": 404,
    b"POST /healthz HTTP/1.1\r\n" + _HOST + b"Content-Length: 0\r\n\r\n": 405,
    b"TRACE /v1/models HTTP/1.1\r\n" + _HOST + b"\r\n": 405,
    b"POST /v1/chat/completions HTTP/1.1\r\n" + _HOST + b"Content-Le": 408,
    b"POST /v1/chat/completions HTTP/1.1\r\n" + _HOST + b"Content-Length: 100\r\n\r\n{": 408,
}
"""Requests that are no requests, and what they get."""


@dataclass(frozen=True, slots=True)
class Errand:
    """One request, and how its client behaves."""

    doing: Doing
    note: Note
    raw: bytes
    """The request as it goes out."""
    method: str
    http_1_0: bool = False
    directives: str = ""
    has_key: bool = False
    manner: Manner = "whole"
    leaves_after_s: float = 0.0
    leaves_by_reset: bool = False
    keeps_connection: bool = True
    refusal: int | None = None
    """The status that it gets if it is no request."""


class _Request(NamedTuple):
    """A request before it is spelled out."""

    method: str
    target: str
    fields: Fields
    body: bytes

    def with_noise(self, rng: random.Random, note: Note, *, keeps: bool) -> "_Request":
        """With what clients send besides, and what is no part of the question."""
        own: Fields = (("Host", "proxy.test"), ("Authorization", SECRET), note.field())
        noise: Fields = (
            ("User-Agent", f"soak/{rng.randrange(10)}"),
            ("x-stainless-retry-count", str(rng.randrange(3))),
        )
        closing: Fields = () if keeps else (("Connection", "close"),)
        return self._replace(fields=(*own, *noise, *self.fields, *closing))


def errands(seed: int, client: int) -> Iterator[Errand]:
    """Everything that one client does, without an end."""
    rng = seeded(seed, "client", client)
    for number in itertools.count():
        yield _errand(rng, f"{client}.{number}", oldest_prompt=number // _TURN_OVER)


def _errand(rng: random.Random, trace: str, oldest_prompt: int) -> Errand:
    doing = _drawn(rng, _DOINGS)
    match doing:
        case "ask":
            return _ask(rng, trace, oldest_prompt)
        case "malformed":
            raw, status = rng.choice(list(MALFORMED.items()))
            return Errand(doing, _note(trace), raw, raw.split(b" ")[0].decode(), keeps_connection=False, refusal=status)
        case "health":
            raw = b"GET %b HTTP/1.1\r\n%b\r\n" % (rng.choice((b"/healthz", b"/readyz")), _HOST)
            return Errand(doing, _note(trace), raw, "GET")
    return _pass(rng, trace, doing)


def _ask(rng: random.Random, trace: str, oldest_prompt: int) -> Errand:
    prompt = oldest_prompt + int(_PROMPTS ** rng.random()) - 1  # Zipf's law: each doubling of the rank is as likely
    route = _ROUTES[prompt % len(_ROUTES)]
    has_key = rng.random() > 0.02
    body = _body(rng, route, prompt, has_key=has_key)
    directives = _drawn(rng, _DIRECTIVES)
    identity = Identity(
        route,
        prompt,
        namespace=rng.choice(("a", "team/b")) if rng.random() < 0.1 else "",
        sample=rng.randint(1, 2) if rng.random() < 0.05 else 0,
        beta="soak=v2" if rng.random() < 0.05 else "",
    )
    note = _note(trace, identity, body, shared=has_key and "no-store" not in directives)
    fields: Fields = (("Content-Type", "application/json"), *_controls(identity, directives, _drawn(rng, _PACES)))
    errand = _errand_of(rng, "ask", note, _Request("POST", TARGETS[route], fields, body))
    return replace(errand, directives=directives, has_key=has_key)


def _pass(rng: random.Random, trace: str, doing: Doing) -> Errand:
    body = rng.randbytes(int(_LARGEST_UPLOAD_BYTES ** rng.random())) if doing == "upload" else b""
    note = _note(trace, Identity("files", rng.randrange(1, 200)), body, shared=False)
    method = {"upload": "POST", "head": "HEAD", "options": "OPTIONS"}.get(doing, "GET")
    target = (
        TARGETS["files"] if doing == "upload" else f"/v1/files/f-{note.identity.prompt}/content?key=sk-CANARY-query"
    )
    return _errand_of(rng, doing, note, _Request(method, target, (), body))


def _errand_of(rng: random.Random, doing: Doing, note: Note, request: _Request) -> Errand:
    old = doing == "ask" and rng.random() < 0.03
    keeps = not old and rng.random() < 0.85
    chunked = not old and bool(request.body) and rng.random() < 0.3
    return Errand(
        doing,
        note,
        _raw(rng, request.with_noise(rng, note, keeps=keeps), "1.0" if old else "1.1", chunked=chunked),
        request.method,
        http_1_0=old,
        manner=_drawn(rng, _MANNERS),
        leaves_after_s=rng.choice((0.003, 0.02, 0.1, 0.4)) * rng.random(),
        leaves_by_reset=rng.random() < 0.5,
        keeps_connection=keeps,
    )


def _raw(rng: random.Random, request: _Request, version: str, *, chunked: bool) -> bytes:
    body = request.body
    framing: Fields = ()
    if chunked:
        framing = (("Transfer-Encoding", "chunked"),)
        cut = rng.randrange(1, len(body) + 1)
        pieces = (piece for piece in (body[:cut], body[cut:]) if piece)
        body = b"".join(b"%X\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif body or request.method == "POST":
        framing = (("Content-Length", str(len(body))),)
    fields = (f"{name}: {value}" for name, value in (*request.fields, *framing))
    head = "\r\n".join((f"{request.method} {request.target} HTTP/{version}", *fields))
    return head.encode() + b"\r\n\r\n" + body


def _note(trace: str, identity: Identity | None = None, body: bytes = b"", *, shared: bool = False) -> Note:
    return Note(trace, identity or Identity("files", 1), shared, sha256(body).hexdigest())


def _controls(identity: Identity, directives: str, pace: str) -> Fields:
    given = (
        ("Cache-Control", directives),
        ("X-Reprise-Namespace", identity.namespace),
        ("X-Reprise-Sample", str(identity.sample or "")),
        ("X-Reprise-Pace", pace),
        ("OpenAI-Beta", identity.beta),
    )
    return tuple((name, value) for name, value in given if value)


def _body(rng: random.Random, route: Route, prompt: int, *, has_key: bool) -> bytes:
    """One of the spellings of a question, all of which have one key; or one that has none."""
    text = f"{PROMPT_CANARY} {prompt} é " + "x" * (_LONG_PROMPT_BYTES if prompt % _LONG_PROMPT_EVERY == 0 else 0)
    name = "messages" if route in ("chat", "chat_stream") else "input"
    asked: object = [{"role": "user", "content": text}] if name == "messages" else text
    members = [("model", "soak-1"), (name, asked), ("temperature", 0.5), ("stream", route.endswith("stream"))]
    rng.shuffle(members)
    spelled = orjson.dumps(dict(members), option=rng.choice((0, orjson.OPT_INDENT_2)))
    return spelled if has_key else b'{"user":"a","user":"b",' + spelled.lstrip()[1:]


def _drawn(rng: random.Random, weights: Mapping[_Drawn, int]) -> _Drawn:
    return rng.choices(list(weights), list(weights.values()))[0]
