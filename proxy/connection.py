"""A connection from a client: aiohttp's, mended where it does not keep to HTTP or lets a client have too much.

The rule: only what a test at the socket has shown to be wrong stands here, and it goes when aiohttp has learned it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from proxy import events
from proxy.errors import BadRequest, HeadTooLarge, RepriseError, RequestTimeout, TargetTooLong
from proxy.events import RequestLine

# The head of a request. OpenAI's clients send well under 8 KiB; tokens and traces can be longer. The bound on the whole
# is there because a client may send some thirty requests ahead of their answers.
_TARGET_BYTES = 16 * 1024  # not the same as a field's, since it is by the bound that aiohttp tells which one was passed
_FIELD_BYTES = 32 * 1024
_FIELDS = 128
_HEAD_BYTES = 64 * 1024
_BOUNDS = (
    f"The request's head is too large: it may have {_FIELDS} header fields, {_FIELD_BYTES:,} bytes a field and "
    f"{_HEAD_BYTES:,} bytes in all. Send less."
)
_LENGTH_DIGITS = 18  # an exabyte
_TOO_MANY_FIELDS = "Too many headers received"  # aiohttp's words


class _Sent(web.StreamResponse):
    """Tells aiohttp that the answer is out, and whether the connection goes on."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """The head has been written; where the connection does not go on, the client still has to read its answer."""
        if not self._keep_alive and isinstance(request.protocol, ClientConnection):
            await request.protocol.linger()

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: the end has been written."""


GOES_ON = _Sent(keep_alive=True)
CLOSES = _Sent(keep_alive=False)


class ClientConnection(RequestHandler):
    """A connection from a client.

    What is not even HTTP is answered in our form and logged in ours. A head has bounds in bytes and in time: aiohttp
    bounds its lines, and the time between requests. A fault in the framing of a body is told to whoever reads the body:
    aiohttp tells whoever waits for the next request, and the reader never. And what follows the last answer is read for
    a while and forgotten: aiohttp resets the connection, and the answer is lost with it.
    """

    def __init__(
        self,
        server: web.Server,
        *,
        read_timeout_s: float,
        lingering_time: float,
        **settings: Any,  # noqa: ANN401 - aiohttp's
    ) -> None:
        bounds = {"max_line_size": _TARGET_BYTES, "max_field_size": _FIELD_BYTES, "max_headers": _FIELDS}
        super().__init__(server, lingering_time=0, **{**settings, **bounds})
        self._read_timeout_s = read_timeout_s
        self._lingering_s = lingering_time
        self._newest_body: StreamReader = EMPTY_PAYLOAD
        self._unanswered = 0
        """Requests that have been read, and whose answers are not out."""
        self._head_bytes = 0
        self._head_is_late: asyncio.TimerHandle | None = None
        self._unreadable = False

    def adjust(self, *, read_timeout_s: float, keepalive_timeout: float) -> None:
        """Wait so long from the next request on."""
        self._read_timeout_s = read_timeout_s
        self._keepalive_timeout = keepalive_timeout

    def connection_lost(self, exc: BaseException | None) -> None:
        self._expect_no_head()
        # Each of these knows its connection, or frames and answers that do: all would wait for the collector.
        super().connection_lost(exc and exc.with_traceback(None))
        self._newest_body = EMPTY_PAYLOAD

    def data_received(self, data: bytes) -> None:
        if self._unreadable or self._close or self._force_close:
            return
        known, within_body = len(self._messages), not self._newest_body.is_eof()
        super().data_received(data)
        if len(self._messages) > known:
            self._unanswered += len(self._messages) - known
            self._expect_no_head()
            self._refuse_odd_heads(known)
            self._note(*self._messages[-1])
        elif not within_body and data.strip(b"\r\n"):  # empty lines before a request are skipped
            self._expect_head(len(data))

    def note_request(self) -> None:
        """One has come that aiohttp does not see."""
        self._unanswered += 1

    def note_answer(self) -> None:
        """One is out, and the connection goes on; aiohttp may still be busy with it when the next request comes."""
        self._unanswered -= 1

    @property
    def is_idle(self) -> bool:
        """Whether what comes next is the beginning of a request, and all before it have been answered."""
        is_under_way = self._unanswered or self._head_bytes or not self._newest_body.is_eof()
        return not (is_under_way or self._upgraded or self._unreadable or self._close or self._force_close)

    async def linger(self) -> None:
        """Say that the answer is the last one, and wait for the client to close (RFC 9112 section 9.6)."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self.close()  # from now on what arrives is dropped
        with suppress(OSError):  # a reset can come in between
            transport.write_eof()
        self._resume_transport_reading()
        await asyncio.sleep(self._lingering_s)
        transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's signature
        status: int = 500,  # noqa: ARG002
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """A fault of ours, after which nothing can be said.

        Raises:
            ConnectionError: always; aiohttp closes the connection.
        """
        raise ConnectionError("the request's handler failed") from exc

    def _make_error_handler(self, err_info: _ErrInfo) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """Called when it is the turn of a request that could not be read."""
        return partial(self._refuse, _refusal(err_info.exc))

    async def _refuse(self, error: RepriseError, request: web.BaseRequest) -> web.StreamResponse:
        line = RequestLine(events.new_id(), request.method, request.path, status=error.status, outcome="rejected")
        line.error = error.code
        line.write()
        if self.transport is not None:
            self.transport.write(_last_answer(error, line.id))
        return CLOSES

    def _process_keepalive(self) -> None:
        self._keepalive_handle = None
        transport = self.transport
        if self._head_is_late is None:  # a head that is arriving has a time of its own
            super()._process_keepalive()
        if self.transport is None and transport is not None and transport.get_write_buffer_size():
            transport.abort()  # it never took its last answer, and would hold the connection for ever

    def _note(self, message: RawRequestMessage | _ErrInfo, body: StreamReader) -> None:
        if isinstance(message, RawRequestMessage):
            self._newest_body = body
            return
        self._unreadable = True
        if not self._newest_body.is_eof():
            self._newest_body.set_exception(web.RequestPayloadError("malformed"))

    def _refuse_odd_heads(self, known: int) -> None:
        for number in range(known, len(self._messages)):
            message, _ = self._messages[number]
            if isinstance(message, RawRequestMessage) and (error := _fault_in_head(message)):
                while len(self._messages) > number:
                    self._messages.pop()
                self._messages.append(_unread(error))
                return

    def _expect_head(self, more_bytes: int) -> None:
        """A part of a head has come, which has all of its time from its first byte on."""
        self._head_bytes += more_bytes
        if self._head_bytes > _HEAD_BYTES:
            self._give_up_on_head(HeadTooLarge(_BOUNDS))
        elif self._head_is_late is None and self._current_request is None:
            late = RequestTimeout("The request's head did not arrive in time. Send it again.")
            self._head_is_late = self._loop.call_later(self._read_timeout_s, self._give_up_on_head, late)

    def _expect_no_head(self) -> None:
        self._head_bytes = 0
        if self._head_is_late is not None:
            self._head_is_late.cancel()
            self._head_is_late = None

    def _give_up_on_head(self, error: RepriseError) -> None:
        self._expect_no_head()
        self._unreadable = True
        self._messages.append(_unread(error))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _unread(error: RepriseError) -> tuple[_ErrInfo, StreamReader]:
    """What takes the place of a request in aiohttp's queue."""
    return _ErrInfo(status=error.status, exc=error, message=""), EMPTY_PAYLOAD


def _fault_in_head(message: RawRequestMessage) -> RepriseError | None:
    if len(message.path) + sum(len(name) + len(value) for name, value in message.raw_headers) > _HEAD_BYTES:
        return HeadTooLarge(_BOUNDS)
    # The parser takes a length of 2^64 - 1 for no body, and all that follows for this body.
    if len(message.headers.get(hdrs.CONTENT_LENGTH, "").lstrip("0")) > _LENGTH_DIGITS:
        return BadRequest("The Content-Length is longer than any body.")
    return None


def _refusal(fault: BaseException) -> RepriseError:
    """What the client is told of a fault that the parser has found."""
    if isinstance(fault, RepriseError):
        return fault
    if isinstance(fault, LineTooLong) and fault.args[1] == _TARGET_BYTES:
        return TargetTooLong(f"The request target is longer than {_TARGET_BYTES:,} bytes. Send less in its query.")
    if isinstance(fault, LineTooLong) or fault.args == (_TOO_MANY_FIELDS,):
        return HeadTooLarge(_BOUNDS)
    return BadRequest("The request is not well-formed HTTP/1.1.")


def _last_answer(error: RepriseError, request_id: str) -> bytes:
    body = error.body()
    head = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"Date: {rfc822_formatted_time()}",
        f"X-Reprise-Id: {request_id}",
        "Connection: close\r\n\r\n",
    )
    return "\r\n".join(head).encode() + body
