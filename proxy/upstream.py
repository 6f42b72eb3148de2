"""The upstream: send a request, wait for its head, read its body.

The rule: a request that may have arrived is never sent again (RFC 9110 section 9.2.2): somebody pays for each one.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Literal, Protocol, Self

import aiohttp
from aiohttp import hdrs
from yarl import URL

from proxy import faults, headers, retry
from proxy.config import UpstreamSettings
from proxy.errors import UpstreamBroken, UpstreamInvalidResponse
from proxy.recording import Head, Headers
from proxy.resolver import Resolver
from proxy.streams import next_piece
from proxy.wire import Body, RequestBytes, UpstreamConnection

Framing = Literal["none", "length", "chunked", "close"]


class Sink(Protocol):
    """Who is told of a body: its frames, and then its end, or that there will be none."""

    def append(self, frame: bytes) -> None: ...
    def finish(self) -> None: ...
    def break_off(self, reason: UpstreamBroken) -> None: ...


_FIELD_BYTES = 64 * 1024  # a header line longer than this is no header; OpenAI's are under 8 KiB, cookies may not be
_LENGTH_DIGITS = 20  # as many as 2**64 has; with leading zeros the parser takes any number of them, and int() does not
_POOL_IDLE_S = 15.0  # less than any server keeps an idle connection, so that we seldom send into one that is closing


@dataclass(frozen=True, slots=True)
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
        """What the headers do not say of the length of the body."""
        if self.body is None or self.length is not None:
            return ()
        if isinstance(self.body, bytes):
            return ((b"Content-Length", b"%d" % len(self.body)),)
        return ((b"Transfer-Encoding", b"chunked"),)

    @property
    def length(self) -> int | None:
        """The `Content-Length` among the headers."""
        given = headers.values(self.headers, b"content-length")
        return int(given[0]) if given else None


class Answer:
    """A response whose head has come."""

    def __init__(self, response: aiohttp.ClientResponse, head: Head, framing: Framing) -> None:
        self.head = head
        self.framing = framing
        """How the upstream says where the body ends; `close`, by closing, can't be told from a cut."""
        self._response = response
        self._content = response.content
        self._protocol = response._protocol  # noqa: SLF001 - kept for the fault that closed the connection
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pump: asyncio.Task[None] | None = None

    def flow(self, sink: Sink) -> None:
        """Tell it every frame, and then the end or that there will be none."""
        self._pump = asyncio.create_task(self._feed(sink))

    def pause(self) -> None:
        """Tell and read nothing for now; TCP slows the upstream down."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def close(self) -> None:
        """Leave: a body that has not ended takes its connection with it."""
        if self._pump is not None and self._pump is not asyncio.current_task():
            self._pump.cancel()
        self._response.close()

    async def _feed(self, sink: Sink) -> None:
        try:
            while frame := await self._read():
                sink.append(frame)
                await self._flowing.wait()
            sink.finish()
        except UpstreamBroken as broken:
            sink.break_off(broken)
        except Exception:  # a fault of ours
            sink.break_off(UpstreamBroken("the proxy failed"))
            raise

    async def _read(self) -> bytes:
        """What has arrived since the last call, waiting for the first byte of it; nothing when the body has ended.

        Raises:
            UpstreamBroken: the connection broke, fell silent for `upstream.idle_timeout`, or the framing is wrong.
        """
        try:
            frame = await next_piece(self._content)
        except (aiohttp.ClientError, OSError) as fault:
            raise faults.broken(fault) from fault
        if not frame:
            self._refuse_false_end()
        return frame

    def _refuse_false_end(self) -> None:
        # aiohttp ends a close-delimited body cleanly whatever closed the connection; the protocol knows better.
        fault = self._protocol.exception() if self._protocol is not None else None
        if self.framing == "close" and isinstance(fault, aiohttp.ClientOSError):
            raise UpstreamBroken("the connection was reset")
        # There is a length that aiohttp's parser takes for none at all: 2**64 - 1.
        if self.framing == "length" and self._content.total_bytes != int(self.head.get(b"content-length") or b"0"):
            raise UpstreamBroken("the body is not as long as its head says")


class Upstream:
    """A pool of connections to the one upstream."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._url = URL(settings.base_url, encoded=True)
        host, slash, path = settings.base_url.partition("://")[2].partition("/")
        self._host, self._path = host.encode(), slash + path
        connector = aiohttp.TCPConnector(
            limit=settings.max_connections,
            keepalive_timeout=_POOL_IDLE_S,
            resolver=Resolver(settings.connect_timeout),
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
            max_line_size=_FIELD_BYTES,
            max_field_size=_FIELD_BYTES,
        )
        # It would send an idempotent request a second time over a pooled connection that closed, with what is left of
        # its body. It has no public switch.
        self._session._retry_connection = False  # noqa: SLF001

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    async def _connect_and_send(self, outgoing: Outgoing) -> Answer:
        for failures in range(1, retry.CONNECT_ATTEMPTS + 1):
            try:
                return await self._send_once(outgoing)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as fault:
                is_hopeless = isinstance(fault, aiohttp.ClientSSLError)
                wait_s = retry.backoff_s(failures)
                if is_hopeless or wait_s is None or failures == retry.CONNECT_ATTEMPTS:
                    raise faults.unreachable(fault) from fault
            await asyncio.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    async def _send_once(self, outgoing: Outgoing) -> Answer:
        try:
            response = await self._session.request(
                outgoing.method, self._url, data=self._request(outgoing), allow_redirects=False
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise
        except (aiohttp.ClientError, OSError) as fault:
            raise faults.before_head(fault) from fault
        return self._answer(response)

    def _request(self, outgoing: Outgoing) -> RequestBytes:
        target = self._path + outgoing.target.removeprefix("/v1")
        fields = ((b"Host", self._host), *outgoing.headers, *outgoing.framing)
        lines = (f"{outgoing.method} {target} HTTP/1.1".encode(), *(b"%b: %b" % field for field in fields), b"\r\n")
        length = len(outgoing.body or b"") if not callable(outgoing.body) else outgoing.length
        return RequestBytes(b"\r\n".join(lines), outgoing.body or b"", length)

    def _answer(self, response: aiohttp.ClientResponse) -> Answer:
        head = Head(response.status, response.reason or "", response.raw_headers)
        framing = _framing(response, head)
        reason = (b"Reason", head.reason.encode("utf-8", "surrogateescape"))
        if framing is None or not headers.is_sendable((reason, *head.headers)):
            response.close()
            if response._protocol is not None:  # noqa: SLF001 - a short answer has given its connection back already
                response._protocol.close()  # noqa: SLF001
            raise UpstreamInvalidResponse(
                "The upstream's answer has a status line or headers that can't be passed on safely."
            )
        return Answer(response, head, framing)


def _framing(response: aiohttp.ClientResponse, head: Head) -> Framing | None:
    """How the body is delimited (RFC 9112 section 6.3), or None where two readers could differ."""
    if response.status < 200:  # noqa: PLR2004 - an unasked-for 101: RFC 9110 section 15.2
        return None
    codings, length = headers.values(head.headers, b"transfer-encoding"), head.get(b"content-length")
    if codings:
        return "chunked" if [coding.lower() for coding in codings] == ["chunked"] and length is None else None
    if response.method == hdrs.METH_HEAD or response.status == 304:  # noqa: PLR2004 - RFC 9110 section 15.4.5
        return "none"
    if response.status == 204:  # noqa: PLR2004 - RFC 9110 section 8.6: it has no length; some say 0, which is no harm
        return "none" if length in (None, b"0") else None
    if length is None:
        return "close"
    return "length" if len(length) <= _LENGTH_DIGITS else None
