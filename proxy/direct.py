"""A connection of our own to the upstream: requests go out, one after another, and frames come in.

What one read gives is one frame, told at once and with no task between; aiohttp's client costs three times as much.

The rule: a connection that is not exactly where it should be, after the end of an answer to a request that was wholly
taken, is not used again.
"""

import asyncio
import math
from typing import NamedTuple, Protocol, cast

from proxy import faults
from proxy.answer import DirectAnswer
from proxy.errors import RepriseError, UpstreamBroken
from proxy.reading import AnswerReader, NotHttp, NotSendable

REQUEST_PIECE_BYTES = 256 * 1024
"""Of a large body at a time, so that the connection's buffer does not hold a second copy."""

_CLOCK_S = 0.001  # timers of uvloop are not more exact


class Keeper(Protocol):
    """Who has the connections."""

    def take_back(self, connection: "DirectConnection", /) -> None:
        """An exchange is over; there may be another one if it is open."""
        ...

    def forget(self, connection: "DirectConnection", /) -> None:
        """It has been closed, without an exchange under way."""
        ...


class Asked(Protocol):
    """Who waits for the head of an answer, as a future does: told once, of the answer or of why there is none."""

    def done(self) -> bool:
        """Whether it has been told, or waits no more."""
        ...

    def set_result(self, answer: DirectAnswer, /) -> None: ...
    def set_exception(self, error: RepriseError, /) -> None: ...


class Patience(NamedTuple):
    """How long an upstream may say nothing, in seconds."""

    first_byte_s: float
    """From the end of the request, or from when nothing of it is taken any more, to the whole head."""
    idle_s: float
    """Within a body, while it is read."""


class DirectConnection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, patience: Patience, keeper: Keeper) -> None:
        loop = asyncio.get_running_loop()
        self._loop, self._now = loop, loop.time
        self._patience = patience
        self._keeper = keeper
        self._transport: asyncio.Transport | None = None
        self._reader = AnswerReader()
        self._asked: Asked | None = None
        self._answer: DirectAnswer | None = None
        self._unsent: memoryview | None = None
        self._may_write = True
        self._reads = True
        self._has_eof = False
        self._since_s = 0.0
        """Since when the upstream is waited for."""
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request may be sent on it, as far as is known here."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, head: bytes, body: bytes, asked: Asked) -> None:
        """Send a request, and tell its answer as soon as its head has come; its frames come right after that."""
        assert self._transport is not None, "ask() before dialling"  # noqa: S101 - a fault of ours
        self._reader.expect()
        self._asked = asked
        if len(body) <= REQUEST_PIECE_BYTES:
            self._transport.write(head + body)
        else:
            self._unsent = memoryview(body)
            self._transport.write(head)
            self._send_on()
        self._since_s = self._now()
        if self._alarm is None:
            self._alarm = self._loop.call_later(min(self._patience), self._look)

    def close(self) -> None:
        """End it; nobody is told of what is under way on it."""
        is_busy = self._asked is not None or self._answer is not None
        self._hang_up()
        if is_busy:
            self._release()
        else:
            self._keeper.forget(self)

    def abort(self) -> None:
        """End it at once; whoever waits for something on it is told."""
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if self._reads and self._transport is not None and not self._transport.is_closing():
            self._reads = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reads and self._transport is not None and not self._transport.is_closing():
            self._reads = True
            self._since_s = self._now()
            self._transport.resume_reading()

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self._may_write = False
        self._since_s = self._now()

    def resume_writing(self) -> None:
        self._may_write = True
        self._send_on()
        self._since_s = self._now()

    def data_received(self, data: bytes) -> None:
        if self._answer is not None:
            self._since_s = self._now()
            self._read_body(self._answer, data)
        elif self._asked is not None:
            self._read_head(self._asked, data)
        elif data.strip(b"\r\n"):  # old servers send an empty line behind a body; whatever else it is, it is nobody's
            self.close()

    def eof_received(self) -> None:
        self._has_eof = True
        # The transport closes itself, but not before all is taken that is to be sent.
        if self._transport is not None and self._has_unsent(self._transport):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._reader.close()
        if self._alarm is not None:
            self._alarm.cancel()
        if self._asked is not None:
            self._fail(self._asked, faults.closed_before_head())
        elif self._answer is not None:
            # RFC 9112 section 8: a reset is no close.
            ended = self._has_eof and exc is None and self._answer.framing == "close"
            self._end(self._answer, None if ended else faults.body_broken("the connection was closed or reset"))
        else:
            self._keeper.forget(self)

    # One exchange

    def _send_on(self) -> None:
        while self._unsent is not None and self._may_write and self._transport is not None:
            piece, rest = self._unsent[:REQUEST_PIECE_BYTES], self._unsent[REQUEST_PIECE_BYTES:]
            self._unsent = rest if len(rest) else None
            self._transport.write(piece)

    def _read_head(self, asked: Asked, data: bytes) -> None:
        reader = self._reader
        try:
            reader.read(data)
        except NotSendable:
            self._fail(asked, faults.not_sendable())
            return
        except NotHttp:
            self._fail(asked, faults.not_http())
            return
        if reader.head is None:
            return
        if asked.done():  # whoever asked has left, and is about to close this
            self.close()
            return
        self._asked = None
        self._since_s = self._now()
        self._answer = answer = DirectAnswer(self, reader.head, reader.framing)
        asked.set_result(answer)
        self._tell(answer)

    def _read_body(self, answer: DirectAnswer, data: bytes) -> None:
        broken = None
        try:
            self._reader.read(data)
        except NotHttp:
            broken = faults.body_broken("malformed")
        self._tell(answer, broken)

    def _tell(self, answer: DirectAnswer, broken: UpstreamBroken | None = None) -> None:
        reader = self._reader
        if reader.pieces:
            answer.take(reader.frame())
        if self._answer is answer and (broken is not None or reader.has_ended):  # or it has been left meanwhile
            self._end(answer, None if reader.has_ended else broken, is_spoiled=broken is not None)

    def _end(self, answer: DirectAnswer, broken: UpstreamBroken | None, *, is_spoiled: bool = False) -> None:
        """The body has come to its end, or will have none."""
        transport, reader = self._transport, self._reader
        if transport is not None:
            if broken or is_spoiled or reader.has_surplus or not reader.keeps_alive or self._has_unsent(transport):
                self._hang_up()
            else:
                self.resume_reading()
        self._release()
        answer.end(broken)

    def _fail(self, asked: Asked, error: RepriseError) -> None:
        """There will be no answer."""
        self._hang_up()
        self._release()
        if not asked.done():
            asked.set_exception(error)

    def _release(self) -> None:
        self._asked = self._answer = self._unsent = None
        self._keeper.take_back(self)

    def _hang_up(self) -> None:
        transport, self._transport = self._transport, None
        if transport is None or transport.is_closing():
            return
        # A clean end of TLS waits for the other side's, and one of TCP until all is taken that is to be sent.
        if transport.get_extra_info("sslcontext") is not None or self._has_unsent(transport):
            transport.abort()
        else:
            transport.close()

    def _has_unsent(self, transport: asyncio.Transport) -> bool:
        return self._unsent is not None or transport.get_write_buffer_size() > 0

    def _look(self) -> None:
        """Whether it has been waited long enough. One timer serves many requests, and rings no later than needed."""
        self._alarm = None
        if self._asked is not None:
            due_s = self._since_s + self._patience.first_byte_s
        elif self._answer is not None:
            due_s = self._since_s + self._patience.idle_s if self._reads else math.inf
        else:
            return
        left_s = due_s - self._now()
        if left_s > _CLOCK_S:
            self._alarm = self._loop.call_later(min(left_s, *self._patience), self._look)
        elif self._asked is not None:
            self._fail(self._asked, faults.no_head_in_time())
        elif self._answer is not None:
            self._end(self._answer, faults.silent())
