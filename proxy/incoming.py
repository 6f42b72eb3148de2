"""A request as it is served: one of aiohttp's, or a plain one, of which all is here.

The rule: whoever serves a request asks for nothing but what stands here, and can't tell the two apart.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpVersion, RawRequestMessage
from aiohttp.streams import StreamReader

from proxy.intake import Intake
from proxy.question import Gist, Premise, Question
from proxy.recording import Headers


class Writer(Protocol):
    """The way to the client."""

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written."""
        ...


class Incoming(Protocol):
    """What is known of a request."""

    @property
    def method(self) -> str: ...
    @property
    def raw_path(self) -> str: ...
    @property
    def version(self) -> HttpVersion: ...
    @property
    def raw_headers(self) -> Headers: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def keep_alive(self) -> bool: ...
    @property
    def content_length(self) -> int | None: ...
    @property
    def body_exists(self) -> bool: ...
    @property
    def content(self) -> StreamReader: ...
    @property
    def protocol(self) -> BaseProtocol: ...
    @property
    def transport(self) -> asyncio.Transport | None: ...
    @property
    def writer(self) -> Writer: ...


class KnownHead(NamedTuple):
    """What the bytes of a head are known to say."""

    message: RawRequestMessage
    """As aiohttp's parser read it."""
    body_bytes: int
    intake: Intake
    premise: Premise


class PlainRequest:
    """A request whose head asks nothing of the connection, and whose body came with it."""

    __slots__ = (
        "body",
        "came_s",
        "content_length",
        "digest",
        "gist",
        "headers",
        "is_absent",
        "known",
        "method",
        "protocol",
        "question",
        "raw_headers",
        "raw_path",
        "version",
    )

    keep_alive = True
    body_exists = True

    def __init__(self, known: KnownHead, body: bytes, protocol: BaseProtocol) -> None:
        self.known = known
        message = known.message
        self.method = message.method
        self.raw_path = message.path
        self.version = message.version
        self.headers: Mapping[str, str] = message.headers
        self.raw_headers: Headers = message.raw_headers
        self.content_length: int | None = known.body_bytes
        self.body = body
        self.protocol = protocol
        self.came_s = time.monotonic()
        self.digest: bytes | None = None
        """That of the body, SHA-256."""
        self.gist: Gist | Question | None = None
        """What is known of its body, if that has been read."""
        self.question: Question | None = None
        """All of it, if it has been read for this request."""
        self.is_absent = False
        """Whether its answer was looked for already, and is not there."""

    @property
    def transport(self) -> asyncio.Transport | None:
        return self.protocol.transport

    @property
    def content(self) -> StreamReader:
        # All of a body that is at its end: whoever reads one that is takes it at once.
        return self  # type: ignore[return-value]

    @property
    def writer(self) -> Writer:
        return self

    def is_eof(self) -> bool:
        return True

    def exception(self) -> BaseException | None:
        return None

    def read_nowait(self) -> bytes:
        return self.body

    async def drain(self) -> None:
        await self.protocol._drain_helper()  # noqa: SLF001 - as aiohttp's writer does
