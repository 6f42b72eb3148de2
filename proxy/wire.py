"""aiohttp towards the upstream, mended where it does not keep to HTTP: connection, request and answer.

The rule: only what a test at the socket has shown to be wrong stands here, and it goes when aiohttp has learned it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_exceptions import ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import _EXC_SENTINEL
from aiohttp.http import HttpVersion11, RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.payload import Payload
from aiohttp.streams import StreamReader

from proxy import faults
from proxy.answer import Sink
from proxy.direct import REQUEST_PIECE_BYTES
from proxy.errors import RepriseError, UpstreamBroken
from proxy.framing import Framing
from proxy.reading import MOST_INTERIM_RESPONSES
from proxy.recording import Head
from proxy.streams import next_piece

Body = bytes | Callable[[], AsyncIterator[bytes]]


class UpstreamConnection(ResponseHandler):
    """A connection to the upstream.

    Five things that aiohttp's does not: the time for the head runs from the end of the request, or from when nothing
    of it is taken any more, to the head itself, interim responses or not, and there are not many of these; an answer
    that nobody has asked for is never the answer to the next request; a transfer coding that its parser has overlooked
    is an error; and a fault in the framing of a body is told to whoever reads the body.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, first_byte_timeout_s: float, idle_timeout_s: float) -> None:
        super().__init__(loop)
        self._first_byte_timeout_s = first_byte_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._asked = False
        self._interim_responses = 0
        self._head_is_late: asyncio.TimerHandle | None = None

    def set_response_params(self, **settings: Any) -> None:  # noqa: ANN401 - aiohttp's
        """Called when a request is about to be sent."""
        super().set_response_params(**settings)
        self._asked = True
        self._interim_responses = 0

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
        message = data[0]
        if self.exception() is not None:  # it came in one piece with what was refused
            return
        if not self._asked:
            self.close()
            return
        if not message.chunked and hdrs.TRANSFER_ENCODING in message.headers:
            self._refuse("a transfer coding that is not chunked")
            return
        super().feed_data(data, size)
        if message.code < 200 and message.code != 101:  # noqa: PLR2004 - RFC 9110 section 15.2: the answer is still to come
            self._count_interim_response()
        else:
            self._expect_body(message)

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

    def _count_interim_response(self) -> None:
        self._interim_responses += 1
        if self._interim_responses > MOST_INTERIM_RESPONSES:
            self._refuse("no end of interim responses")

    def _expect_body(self, message: RawResponseMessage) -> None:
        if message.chunked and message.version < HttpVersion11:  # RFC 9112 section 6.1
            self.force_close()
        self._asked = False
        self._expect_no_head()
        # From here on silence is measured, within the body; aiohttp stops the clock while it is we who do not read.
        self.read_timeout = self._idle_timeout_s
        self._reschedule_timeout()

    def _refuse(self, why: str) -> None:
        if self.transport is not None:
            self.transport.close()
        self.set_exception(HttpProcessingError(message=why))

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
        if isinstance(self._body, bytes):
            for start in range(0, len(self._body) or 1, REQUEST_PIECE_BYTES):
                await writer.write(self._body[start : start + REQUEST_PIECE_BYTES])
        else:
            await writer.write(b"")
            async for piece in self._body():
                await writer.write(piece)
            # aiohttp does this too, but where nobody hears of it if the connection has closed meanwhile.
            await writer.write_eof()
        # Or the time for the head would begin, and be stopped for good when the last of the request is taken.
        await writer.drain()


class PulledAnswer:
    """A response whose head has come: a task reads what aiohttp keeps of its body."""

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
        self._pump = None  # the fault that ends it knows this: both would wait for the collector
        self._response.close()

    async def _feed(self, sink: Sink) -> None:
        try:
            while frame := await self._read():
                await self._flowing.wait()
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
