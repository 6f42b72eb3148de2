"""What the simulator sends for a request: one piece for a plain answer, one a server-sent event for a stream."""

import secrets
from collections.abc import Sequence
from typing import NamedTuple

import orjson

from proxy.simulator.request import Refused

DONE = b"data: [DONE]\n\n"


class Answer(NamedTuple):
    pieces: Sequence[bytes]
    """One for each write; a plain answer has one."""
    status: int = 200
    stream: bool = False
    model: str | None = None
    """The model that took the time to answer, if one had to."""
    tokens: int = 0
    """What is charged to the token allowance."""


def plain(members: object, model: str | None = None, tokens: int = 0) -> Answer:
    return Answer((orjson.dumps(members),), model=model, tokens=tokens)


def refusal(refused: Refused) -> Answer:
    return Answer((refused.body,), status=refused.status)


def data(members: object) -> bytes:
    """A server-sent event in OpenAI's form."""
    return b"data: " + orjson.dumps(members) + b"\n\n"


def fresh_id(prefix: str) -> str:
    """An identifier that was never given before."""
    return prefix + secrets.token_hex(16)
