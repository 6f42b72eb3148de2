"""The downstream side of one exchange: begin, write, end or abort its answer.

The rule: framing belongs to this hop, so it is made here; and a clean end is written only by `end()`.
"""

import asyncio
import socket
import struct
import time
from contextlib import suppress

from aiohttp import hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion10, HttpVersion11

from proxy import framing
from proxy.connection import CLOSES, GOES_ON, ClientConnection
from proxy.errors import ClientGone
from proxy.events import RequestLine, milliseconds
from proxy.incoming import Incoming
from proxy.recording import Head, Headers
from proxy.request_body import RequestBody

_RESET = struct.pack("ii", 1, 0)  # linger for no time: what is closed so is reset
_DONE = b"data: [DONE]", b"data:[DONE]"


class Client:
    """One client, from its request to the last byte of its answer.

    Whatever writes raises `ClientGone` where there is no connection any more.
    """

    def __init__(self, request: Incoming, read_timeout_s: float, write_timeout_s: float) -> None:
        self._request = request
        self._write_timeout_s = write_timeout_s
        self.body = RequestBody(request, read_timeout_s)
        self._loop = asyncio.get_running_loop()
        self._started_s = time.monotonic()
        self._first_byte_s: float | None = None
        self._status: int | None = None
        self._bytes = 0
        self._frames = 0
        self._last_frame = b""
        self._framing: framing.Framing = "none"
        self._length: int | None = None
        self._held_head = b""
        self._keep_alive = False
        self._ended = False
        self._stalled = False
        self._watch: asyncio.TimerHandle | None = None

    @property
    def begun(self) -> bool:
        """Whether a head has been written, so that no other answer can be given."""
        return self._status is not None

    @property
    def response(self) -> web.StreamResponse:
        """What aiohttp is told when the exchange is over."""
        return GOES_ON if self._ended and self._keep_alive else CLOSES

    @property
    def has_heard_the_end(self) -> bool:
        """Whether it has all there is to hear: each byte of a known length, or `[DONE]`, after which the SDKs leave."""
        whole = self._bytes == self._length or self._last_frame.rstrip().endswith(_DONE)
        return whole and not self._stalled

    def measure(self, line: RequestLine) -> None:
        """Enter what went out, and when, into the log line."""
        line.status, line.bytes, line.frames = self._status, self._bytes, self._frames
        line.duration_ms = self._since_start_ms(time.monotonic())
        if self._first_byte_s is not None:
            line.first_byte_ms = self._since_start_ms(self._first_byte_s)

    # The answer

    def begin(self, head: Head, added: Headers = ()) -> None:
        """Write the head of the answer, with fields of our own behind the upstream's; it goes out with what follows."""
        self._choose_framing(head)
        connection = b"close" if not self._keep_alive else None
        if self._keep_alive and self._request.version == HttpVersion10:
            connection = b"keep-alive"
        self._status = head.status
        self._held_head = framing.head_bytes(head, added, self._framing, connection)

    def flush(self) -> None:
        if self._held_head:
            held, self._held_head = self._held_head, b""
            self._write(held)

    def write(self, frame: bytes) -> bool:
        """Pass a frame on; False where the client does not keep up, and `drain` should be waited for."""
        if self._first_byte_s is None:
            self._first_byte_s = time.monotonic()
        if self._framing == "chunked":
            self._write_behind_head(framing.chunk(frame))
        elif self._framing != "none":
            self._write_behind_head(frame)
        self._bytes += len(frame)
        self._frames += 1
        self._last_frame = frame
        return not self._request.protocol.writing_paused

    async def end(self) -> None:
        """The clean end."""
        if self._framing == "chunked":
            self._write_behind_head(framing.LAST_CHUNK)
        self.flush()
        self._ended = True
        if self._unsent_bytes():
            await asyncio.sleep(0)  # uvloop sends at the end of a turn
            transport = self._request.transport
            if transport is not None and self._unsent_bytes():
                # Little enough not to hold us back; but one that never took it would never let go of its connection.
                transport.set_write_buffer_limits(high=0)
                await self.drain()
                transport.set_write_buffer_limits()
        if self._keep_alive and isinstance(self._request.protocol, ClientConnection):
            self._request.protocol.note_answer()

    def abort(self) -> None:
        """The other end: what has been written still goes out, and then the client sees a broken transfer."""
        transport = self._request.transport
        if transport is None:
            return
        with suppress(ClientGone):
            self.flush()
        if self._framing == "close":
            # Here a close is the clean end; only a reset tells of a failure.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if self._unsent_bytes():
            # A client that takes nothing would hold the rest of its answer for ever.
            self._loop.call_later(self._write_timeout_s, transport.abort)
        transport.close()

    async def answer(self, head: Head, body: bytes, added: Headers) -> None:
        """A whole answer of our own."""
        own: Headers = ((b"Date", rfc822_formatted_time().encode()),)
        if not framing.has_no_body("", head.status):  # RFC 9110 section 8.6
            own = ((b"Content-Length", b"%d" % len(body)), *own)
        self.begin(head._replace(headers=head.headers + own), added)
        if body and not self.write(body):
            await self.drain()
        await self.end()

    def _choose_framing(self, head: Head) -> None:
        self._keep_alive = self._request.keep_alive and self._next_request_is_clear()
        if framing.has_no_body(self._request.method, head.status):
            self._framing = "none"
        elif (length := head.get(b"content-length")) is not None:
            self._framing, self._length = "length", int(length)
        elif self._request.version >= HttpVersion11:
            self._framing = "chunked"
        else:
            self._framing, self._keep_alive = "close", False

    def _next_request_is_clear(self) -> bool:
        """Whether it is certain where the next request on this connection begins, and what belongs to it."""
        # aiohttp's parser takes the last trailer of a chunked body for a header of the next request, and loses what
        # came together with an offer of another protocol than WebSocket.
        fields = self._request.headers
        return self._request.content.is_eof() and hdrs.TRANSFER_ENCODING not in fields and hdrs.UPGRADE not in fields

    def _write_behind_head(self, data: bytes) -> None:
        if self._held_head:
            data, self._held_head = self._held_head + data, b""
        self._write(data)

    def _write(self, data: bytes) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientGone("the connection is closed")
        transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written.

        Raises:
            ClientGone: the connection broke, or no byte was taken for `server.write_timeout`.
        """
        self._watch_for_a_stall()
        try:
            await self._request.writer.drain()
        except ConnectionError as error:
            raise ClientGone("the connection broke") from error
        finally:
            if self._watch is not None:
                self._watch.cancel()

    def _watch_for_a_stall(self) -> None:
        self._watch = self._loop.call_later(self._write_timeout_s, self._cut_if_stalled, self._unsent_bytes())

    def _cut_if_stalled(self, unsent_bytes: int) -> None:
        transport = self._request.transport
        if transport is None:
            return
        if self._unsent_bytes() >= unsent_bytes:
            self._stalled = True
            transport.abort()
        else:
            self._watch_for_a_stall()

    def _since_start_ms(self, moment_s: float) -> float:
        return milliseconds(moment_s - self._started_s)

    def _unsent_bytes(self) -> int:
        transport = self._request.transport
        return 0 if transport is None else transport.get_write_buffer_size()
