"""The upstream: send a request, and wait for the head of its answer.

The rule: a request that may have arrived is never sent again (RFC 9110 section 9.2.2): somebody pays for each one.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import hdrs
from yarl import URL

from proxy import faults, headers, retry
from proxy.answer import DirectAnswer
from proxy.by_names import places_of
from proxy.config import UpstreamSettings
from proxy.dialling import Dialler, trust
from proxy.direct import Asked, DirectConnection, Patience
from proxy.extent import framing
from proxy.pool import IDLE_S, Pool
from proxy.reading import FIELD_BYTES
from proxy.recording import Head, Headers
from proxy.resolver import Resolver
from proxy.wire import Body, PulledAnswer, RequestBytes, UpstreamConnection

# Of heads that are kept, with what they were made of two megabytes at most.
_MOST_BEGINNINGS = 256
_LARGEST_BEGINNING_BYTES = 4096

_lengths = places_of(b"content-length")

Answer = DirectAnswer | PulledAnswer
"""A response whose head has come."""


@dataclass(slots=True)
class Outgoing:
    """A request as it goes to the upstream."""

    method: str
    target: str
    """Path and query as the client sent them, from `/v1/` on."""
    headers: Headers
    body: Body | None
    """Bytes can be sent again; a stream can be read once, and is read only when there is a connection."""

    @property
    def framing(self) -> Headers:
        """What the headers do not say of the length of the body; of one that is here they say nothing."""
        if isinstance(self.body, bytes):
            return ((b"Content-Length", b"%d" % len(self.body)),)
        return () if self.body is None or self.length is not None else ((b"Transfer-Encoding", b"chunked"),)

    @property
    def length(self) -> int | None:
        """The `Content-Length` among the headers."""
        (lengths,) = _lengths(self.headers)
        return int(self.headers[lengths[0]][1]) if lengths else None


class Upstream:
    """The one upstream, asked on connections of our own or by aiohttp's client."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._url = URL(settings.base_url, encoded=True)
        host, slash, path = settings.base_url.partition("://")[2].partition("/")
        self._host, self._path = host.encode(), slash + path
        self._beginnings: dict[tuple[str, str, Headers], bytes] = {}
        context = trust() if self._url.scheme == "https" else None
        # One bound for both ways.
        self._turns = asyncio.Semaphore(settings.max_connections) if settings.max_connections else None
        self._pool: Pool | None = None
        if settings.fast_connection:
            patience = Patience(settings.first_byte_timeout, settings.idle_timeout)
            self._pool = Pool(Dialler(self._url, settings.connect_timeout, context), patience, self._pass_turn)
        connector = aiohttp.TCPConnector(
            limit=0,
            keepalive_timeout=IDLE_S,
            resolver=Resolver(settings.connect_timeout),
            ssl=context or True,
        )
        # There is no public way to say what a connection is.
        connector._factory = partial(  # type: ignore[assignment]  # noqa: SLF001
            UpstreamConnection,
            asyncio.get_running_loop(),
            first_byte_timeout_s=settings.first_byte_timeout,
            idle_timeout_s=settings.idle_timeout,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout),
            max_line_size=FIELD_BYTES,
            max_field_size=FIELD_BYTES,
        )
        # It would send an idempotent request a second time over a pooled connection that closed, with what is left of
        # its body. It has no public switch.
        self._session._retry_connection = False  # noqa: SLF001

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.close()
        await self._session.close()

    async def send(self, outgoing: Outgoing, count_attempt: Callable[[], None]) -> Answer:
        """Send a request and wait for the head of its answer, trying again where contract section 6 allows it.

        `count_attempt` is called before each attempt; one that makes no connection is a part of the next.

        Raises:
            UpstreamUnreachable: there was no connection, or it broke before the head.
            UpstreamTimeout: no head within `upstream.first_byte_timeout`.
            UpstreamInvalidResponse: what came is not HTTP.
        """
        retries = self._settings.retries if not callable(outgoing.body) else 0
        failures = 0
        while True:
            count_attempt()
            answer = await self._connect_and_send(outgoing)
            failures += 1
            wait_s = retry.wait_before_retry_s(answer.head, failures, retries, time.time())
            if wait_s is None:
                return answer
            answer.close()
            await asyncio.sleep(wait_s)

    def send_at_once(self, outgoing: Outgoing, asked: Asked) -> DirectConnection | None:
        """Send a request where that takes no waiting and is done once; None where `send` has to be called.

        Who has `asked` is told within the turn in which the head comes; to close the connection before is to leave.
        """
        body = outgoing.body
        if self._pool is None or self._turns is not None or self._settings.retries:
            return None
        if outgoing.method != "POST" or not isinstance(body, bytes):
            return None
        return self._pool.send_at_once(self._head(outgoing), body, asked)

    async def _connect_and_send(self, outgoing: Outgoing) -> Answer:
        for failures in range(1, retry.CONNECT_ATTEMPTS + 1):
            try:
                return await self._send_once(outgoing)
            except faults.NoConnection as fault:
                error, wait_s = fault.error, retry.backoff_s(failures)
                if fault.is_hopeless or wait_s is None or failures == retry.CONNECT_ATTEMPTS:
                    break
            await asyncio.sleep(wait_s)
        raise error  # not within the handler: each would know the other, and both the body, until a collection

    async def _send_once(self, outgoing: Outgoing) -> Answer:
        if self._turns is not None:
            await self._turns.acquire()
        if self._pool is not None and outgoing.method == "POST" and isinstance(outgoing.body, bytes):
            return await self._pool.send(self._head(outgoing), outgoing.body)
        return await self._send_by_aiohttp(outgoing)

    async def _send_by_aiohttp(self, outgoing: Outgoing) -> PulledAnswer:
        length = len(outgoing.body or b"") if not callable(outgoing.body) else outgoing.length
        data = RequestBytes(self._head(outgoing), outgoing.body or b"", length)
        try:
            response = await self._session.request(outgoing.method, self._url, data=data, allow_redirects=False)
        except BaseException as fault:
            self._pass_turn()
            if isinstance(fault, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
                raise faults.no_connection_of_aiohttp(fault) from fault
            if isinstance(fault, aiohttp.ClientError | OSError):
                raise faults.before_head(fault) from fault
            raise
        if response.connection is None:  # a short answer has given it back already
            self._pass_turn()
        else:
            response.connection.add_callback(self._pass_turn)
        return _answer(response)

    def _pass_turn(self) -> None:
        if self._turns is not None:
            self._turns.release()

    def _head(self, outgoing: Outgoing) -> bytes:
        asked = outgoing.method, outgoing.target, outgoing.headers
        beginning = self._beginnings.get(asked)
        if beginning is None:
            beginning = self._beginning(*asked)
            if len(beginning) <= _LARGEST_BEGINNING_BYTES:
                if len(self._beginnings) >= _MOST_BEGINNINGS:
                    self._beginnings.clear()
                self._beginnings[asked] = beginning
        return b"\r\n".join((beginning, *map(b": ".join, outgoing.framing), b"\r\n"))

    def _beginning(self, method: str, target: str, fields: Headers) -> bytes:
        """All of a head but its framing: the same for each question of a client."""
        line = f"{method} {self._path + target.removeprefix('/v1')} HTTP/1.1".encode()
        return b"\r\n".join((line, b"Host: " + self._host, *map(b": ".join, fields)))


def _answer(response: aiohttp.ClientResponse) -> PulledAnswer:
    head = Head(response.status, response.reason or "", response.raw_headers)
    codings = [value for name, value in head.headers if name.lower() == b"transfer-encoding"]
    found = framing(head.status, codings, head.get(b"content-length"), to_head=response.method == hdrs.METH_HEAD)
    reason = head.reason.encode("utf-8", "surrogateescape")
    if found is None or not headers.is_sendable(head.headers, reason):
        response.close()
        if response._protocol is not None:  # noqa: SLF001 - a short answer has given its connection back already
            response._protocol.close()  # noqa: SLF001
        raise faults.not_sendable()
    return PulledAnswer(response, head, found)
