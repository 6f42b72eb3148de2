"""aiohttp where it does not keep to HTTP, mended: a connection on either side, and the request that goes out.

The rule: only what a test at the socket has shown to be wrong stands here, and it goes when aiohttp has learned it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_exceptions import ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import _EXC_SENTINEL
from aiohttp.http import RawRequestMessage, RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.payload import Payload
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from proxy import events
from proxy.errors import BadRequest, RepriseError, RequestTimeout
from proxy.events import RequestLine

Body = bytes | Callable[[], AsyncIterator[bytes]]

_PIECE_BYTES = 256 * 1024  # of a large body at a time, so that the connection's buffer does not hold a second copy


class ClientConnection(RequestHandler):
    """A connection from a client.

    What is not even HTTP is answered in our form and logged in ours. A head that stops arriving is answered with 408:
    aiohttp knows of idle connections only. And a fault in the framing of a body is told to whoever reads the body:
    aiohttp tells whoever waits for the next request, and the reader never.
    """

    def __init__(self, server: web.Server, *, read_timeout_s: float, **settings: Any) -> None:  # noqa: ANN401 - aiohttp's
        super().__init__(server, **settings)
        self._read_timeout_s = read_timeout_s
        self._newest_body: StreamReader = EMPTY_PAYLOAD
        self._head_is_late: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: BaseException | None) -> None:
        self._expect_no_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_no_head()
        if self._messages:
            self._note(*self._messages[-1])
        elif self._waiter is not None and not self._waiter.done():
            self._head_is_late = self._loop.call_later(self._read_timeout_s, self._give_up_on_head)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's signature
    ) -> web.StreamResponse:
        """What a client gets whose request could not be read.

        Raises:
            ConnectionError: it is a fault of ours, after which nothing can be said; aiohttp closes the connection.
        """
        if status >= 500:  # noqa: PLR2004 - RFC 9110 section 15.6
            raise ConnectionError("the request's handler failed") from exc
        error: RepriseError = BadRequest("The request is not well-formed HTTP/1.1, or its head is too large.")
        if status == RequestTimeout.status:
            error = RequestTimeout("The request's head did not arrive in time. Send it again.")
        path = request.raw_path.partition("?")[0]
        line = RequestLine(events.new_id(), request.method, path, status=error.status, outcome="rejected")
        line.error = error.code
        line.write()
        response = web.Response(
            status=error.status, body=error.body(), content_type="application/json", headers={"X-Reprise-Id": line.id}
        )
        response.force_close()
        return response

    def _note(self, message: RawRequestMessage | _ErrInfo, body: StreamReader) -> None:
        if isinstance(message, RawRequestMessage):
            self._newest_body = body
        elif not self._newest_body.is_eof():
            self._newest_body.set_exception(web.RequestPayloadError("malformed"))
            self._lingering_time = 0.0  # there is no telling where the rest of it ends

    def _expect_no_head(self) -> None:
        if self._head_is_late is not None:
            self._head_is_late.cancel()
            self._head_is_late = None

    def _give_up_on_head(self) -> None:
        self._head_is_late = None
        if self._waiter is not None and not self._waiter.done():
            late = _ErrInfo(status=RequestTimeout.status, exc=TimeoutError(), message="")
            self._messages.append((late, EMPTY_PAYLOAD))
            self._waiter.set_result(None)


class UpstreamConnection(ResponseHandler):
    """A connection to the upstream.

    Three things that aiohttp's does not: the time for the head runs from the end of the request, or from when nothing
    of it is taken any more, to the head itself, interim responses or not; an answer that nobody has asked for is never
    the answer to the next request; and a fault in the framing of a body is told to whoever reads the body.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, first_byte_timeout_s: float, idle_timeout_s: float) -> None:
        super().__init__(loop)
        self._first_byte_timeout_s = first_byte_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._asked = False
        self._head_is_late: asyncio.TimerHandle | None = None

    def set_response_params(self, **settings: Any) -> None:  # noqa: ANN401 - aiohttp's
        """Called when a request is about to be sent."""
        super().set_response_params(**settings)
        self._asked = True

    def start_timeout(self) -> None:
        """Called when the request has been sent; the answer may have begun before that."""
        self._expect_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_head()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._expect_no_head()

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Called with each head."""
        if not self._asked:
            self.close()
            return
        super().feed_data(data, size)
        if data[0].code < 200 and data[0].code != 101:  # noqa: PLR2004 - RFC 9110 section 15.2: the answer is still to come
            return
        self._asked = False
        self._expect_no_head()
        # From here on silence is measured, within the body; aiohttp stops the clock while it is we who do not read.
        self.read_timeout = self._idle_timeout_s
        self._reschedule_timeout()

    def set_exception(self, exc: BaseException, exc_cause: BaseException = _EXC_SENTINEL) -> None:
        """Called when the connection is of no use any more."""
        super().set_exception(exc, exc_cause)
        fault_in_framing = isinstance(exc, HttpProcessingError) or isinstance(exc.__cause__, RepriseError)
        if fault_in_framing and self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(ClientPayloadError("malformed"))

    def close(self) -> None:
        self._expect_no_head()
        super().close()

    def abort(self) -> None:
        self._expect_no_head()
        super().abort()

    def _expect_head(self) -> None:
        self._expect_no_head()
        if self._asked:
            self._head_is_late = self._loop.call_later(self._first_byte_timeout_s, self._on_read_timeout)

    def _expect_no_head(self) -> None:
        if self._head_is_late is not None:
            self._head_is_late.cancel()
            self._head_is_late = None


class RequestBytes(Payload):
    """A request that goes out as it is given, byte for byte.

    aiohttp would drop header bytes that are not UTF-8, join fields whose names are spelled in two ways, and normalise
    the target.
    """

    _autoclose = True

    def __init__(self, head: bytes, body: Body, length: int | None) -> None:
        """`head` as it is sent; `length` of the body in bytes, None if it is sent chunked."""
        super().__init__(body)
        self._head = head
        self._body = body
        self._size = length

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 - aiohttp's signature
        raise TypeError("a request on its way is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        # The head that aiohttp has made waits in the writer; it has no way to be given one.
        writer._headers_buf = self._head  # type: ignore[attr-defined]  # noqa: SLF001
        if not isinstance(self._body, bytes):
            await writer.write(b"")
            async for piece in self._body():
                await writer.write(piece)
            return
        for start in range(0, len(self._body) or 1, _PIECE_BYTES):
            await writer.write(self._body[start : start + _PIECE_BYTES])
