"""The upstream: send a request, wait for its head, read its body; every failure is translated here, once.

The rule: a request that may have arrived is never sent again (RFC 9110 section 9.2.2): somebody pays for each one.
"""

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Literal, Self

import aiohttp
from aiohttp import hdrs
from yarl import URL

from proxy import headers, retry
from proxy.config import UpstreamSettings
from proxy.errors import RepriseError, UpstreamBroken, UpstreamInvalidResponse, UpstreamTimeout, UpstreamUnreachable
from proxy.recording import Head, Headers
from proxy.wire import Body, RequestBytes, UpstreamConnection

Framing = Literal["none", "length", "chunked", "close"]

_FIELD_BYTES = 64 * 1024  # a header line longer than this is no header; OpenAI's are under 8 KiB, cookies may not be
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

    def __init__(self, response: aiohttp.ClientResponse, head: Head, framing: Framing, attempts: int) -> None:
        self.head = head
        self.framing = framing
        """How the upstream says where the body ends; `close`, by closing, can't be told from a cut."""
        self.attempts = attempts
        self._response = response
        self._content = response.content
        self._protocol = response._protocol  # noqa: SLF001 - kept for the fault that closed the connection, see read()
        self._fault: Exception | None = None

    async def read(self) -> bytes:
        """What has arrived since the last call, waiting for the first byte of it; nothing when the body has ended.

        Raises:
            UpstreamBroken: the connection broke, fell silent for `upstream.idle_timeout`, or the framing is wrong.
        """
        if self._fault is not None:
            raise _broken(self._fault)
        try:
            frame = await self._content.readany()
        except (aiohttp.ClientError, OSError) as fault:
            # What came before the fault is still to be passed on, and StreamReader would keep it back.
            frame = self._content._read_nowait(-1)  # noqa: SLF001
            if not frame:
                raise _broken(fault) from fault
            self._fault = fault
        if not frame and self.framing == "close" and self._was_reset():
            raise UpstreamBroken("the connection was reset")
        return frame

    def close(self) -> None:
        """Leave: a body that has not ended takes its connection with it."""
        self._response.close()

    def _was_reset(self) -> bool:
        # aiohttp ends a close-delimited body cleanly whatever closed the connection; the protocol knows better.
        return self._protocol is not None and isinstance(self._protocol.exception(), aiohttp.ClientOSError)


class Upstream:
    """A pool of connections to the one upstream."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._url = URL(settings.base_url, encoded=True)
        host, slash, path = settings.base_url.partition("://")[2].partition("/")
        self._host, self._path = host.encode(), slash + path
        connector = aiohttp.TCPConnector(limit=settings.max_connections, keepalive_timeout=_POOL_IDLE_S)
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

    async def send(self, outgoing: Outgoing) -> Answer:
        """Send a request and wait for the head of its answer, trying again where contract section 6 allows it.

        Raises:
            UpstreamUnreachable: there was no connection, or it broke before the head.
            UpstreamTimeout: no head within `upstream.first_byte_timeout`.
            UpstreamInvalidResponse: what came is not HTTP.
        """
        retries = self._settings.retries if not callable(outgoing.body) else 0
        failures = 0
        while True:
            answer = await self._connect_and_send(outgoing, attempts=failures + 1)
            failures += 1
            wait_s = retry.wait_before_retry_s(answer.head, failures, retries, time.time())
            if wait_s is None:
                return answer
            answer.close()
            await asyncio.sleep(wait_s)

    async def _connect_and_send(self, outgoing: Outgoing, attempts: int) -> Answer:
        for failures in range(1, retry.CONNECT_ATTEMPTS + 1):
            try:
                return await self._send_once(outgoing, attempts)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as fault:
                lasting = isinstance(fault, aiohttp.ClientSSLError)
                wait_s = retry.backoff_s(failures)
                if lasting or wait_s is None or failures == retry.CONNECT_ATTEMPTS:
                    raise _unreachable(fault) from fault
            await asyncio.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    async def _send_once(self, outgoing: Outgoing, attempts: int) -> Answer:
        try:
            response = await self._session.request(
                outgoing.method, self._url, data=self._request(outgoing), allow_redirects=False
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise
        except aiohttp.ServerTimeoutError as fault:
            raise UpstreamTimeout(
                "The upstream sent no response head within upstream.first_byte_timeout. Ask again, or raise it."
            ) from fault
        except aiohttp.ClientResponseError as fault:
            raise UpstreamInvalidResponse(
                "The upstream's answer is not valid HTTP. Check that upstream.base_url names an OpenAI-compatible API."
            ) from fault
        except (aiohttp.ClientError, OSError) as fault:
            if isinstance(fault.__cause__, RepriseError):  # the client's body broke off while it was passed on
                raise fault.__cause__ from fault
            raise UpstreamUnreachable(
                "The upstream closed the connection before it answered. The request may have arrived, so it was not "
                "sent again."
            ) from fault
        return self._answer(response, attempts)

    def _request(self, outgoing: Outgoing) -> RequestBytes:
        target = self._path + outgoing.target.removeprefix("/v1")
        fields = ((b"Host", self._host), *outgoing.headers, *outgoing.framing)
        lines = (f"{outgoing.method} {target} HTTP/1.1".encode(), *(b"%b: %b" % field for field in fields), b"\r\n")
        length = len(outgoing.body or b"") if not callable(outgoing.body) else outgoing.length
        return RequestBytes(b"\r\n".join(lines), outgoing.body or b"", length)

    def _answer(self, response: aiohttp.ClientResponse, attempts: int) -> Answer:
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
        return Answer(response, head, framing, attempts)


def _framing(response: aiohttp.ClientResponse, head: Head) -> Framing | None:
    """How the body is delimited (RFC 9112 section 6.3), or None where two readers could differ."""
    if response.status < 200:  # noqa: PLR2004 - an unasked-for 101: RFC 9110 section 15.2
        return None
    codings, length = headers.values(head.headers, b"transfer-encoding"), head.get(b"content-length")
    if codings:
        return "chunked" if [coding.lower() for coding in codings] == ["chunked"] and length is None else None
    if response.method == hdrs.METH_HEAD or response.status in (204, 304):
        return "none"
    return "close" if length is None else "length"


def _broken(fault: Exception) -> UpstreamBroken:
    if isinstance(fault, aiohttp.ServerTimeoutError):
        return UpstreamBroken("the upstream fell silent for upstream.idle_timeout")
    return UpstreamBroken(f"the upstream's body broke off ({type(fault).__name__})")


def _unreachable(fault: aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError) -> UpstreamUnreachable:
    match fault:
        case aiohttp.ConnectionTimeoutError():
            what = "no connection within upstream.connect_timeout"
        case aiohttp.ClientConnectorDNSError():
            what = "its name can't be resolved"
        case aiohttp.ClientSSLError():
            what = "the TLS handshake failed"
        case aiohttp.ClientConnectorError():
            what = "the connection was refused or failed"
    lasting = isinstance(fault, aiohttp.ClientConnectorDNSError | aiohttp.ClientSSLError)
    return UpstreamUnreachable(
        f"The upstream can't be reached: {what}. Check upstream.base_url, and that the upstream is up.", lasting=lasting
    )
