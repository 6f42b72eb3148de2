"""A connection from a client, on which the fast lane is asked first.

The rule: one request at a time. What comes while a plain one is served waits, and is then looked at as if it came now.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol, cast

from aiohttp import web

from proxy.connection import CLOSES, ClientConnection
from proxy.incoming import Incoming, PlainRequest
from proxy.recording import RecordedAnswer

_HELD_BYTES = 64 * 1024  # of requests that are sent ahead; then nothing more is read

Handler = Callable[[Incoming], Awaitable[web.StreamResponse]]


class Lane(Protocol):
    """Knows requests by their bytes, see `lane.py`."""

    def plain_request(self, data: bytes, connection: ClientConnection) -> PlainRequest | None:
        """The request that these bytes are, if it is known for a plain one."""
        ...

    def look_up(self, request: PlainRequest) -> RecordedAnswer | asyncio.Future[RecordedAnswer | None] | None:
        """What is recorded for it, at once or soon; None where it is not for the lane to say."""
        ...

    def replay(self, request: PlainRequest, recording: RecordedAnswer, transport: asyncio.WriteTransport) -> bool:
        """Whether it could be answered with that, and has been."""
        ...

    def count(self, under_way: asyncio.Future[Any]) -> None:
        """Count a request as one that is being answered, until that is done."""
        ...

    def learn(self, data: bytes, message: object) -> None:
        """One request has come whole, and alone, in these bytes; `message` is what aiohttp's parser read."""
        ...


class LaneConnection(ClientConnection):
    """A connection whose plain requests never come to aiohttp's server."""

    def __init__(self, server: web.Server, *, lane: Callable[[], Lane | None], **settings: Any) -> None:  # noqa: ANN401 - aiohttp's
        super().__init__(server, **settings)
        self._lane = lane
        self._handler = cast("Handler", server.request_handler)
        self._serving: asyncio.Future[Any] | None = None
        """Done when a plain request has its answer, or when it is known what is recorded for it."""
        self._is_ours = False
        """Whether the last request was a plain one."""
        self._held = b""

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self._serving is not None:
            self._serving.cancel()

    def data_received(self, data: bytes) -> None:
        is_idle = self.is_idle
        if self._is_ours and not is_idle:
            self._hold(data)
            return
        self._is_ours = False
        lane = self._lane() if is_idle else None
        if lane is None:
            super().data_received(data)
        elif (request := lane.plain_request(data, self)) is None:
            super().data_received(data)
            if len(self._messages) == 1 and self._messages[0][1].is_eof():
                lane.learn(data, self._messages[0][0])
        else:
            self._is_ours = True
            self.note_request()
            self._take(lane, request)

    def _take(self, lane: Lane, request: PlainRequest) -> None:
        found = lane.look_up(request)
        if isinstance(found, asyncio.Future):
            # By a callback: a task would take longer to begin than the answer takes that is found.
            found.add_done_callback(partial(self._looked_up, lane, request))
            lane.count(found)
            self._serving = found
        elif not self._is_answered(lane, request, found):
            self._serving = self._loop.create_task(self._serve(request))

    def _is_answered(self, lane: Lane, request: PlainRequest, found: RecordedAnswer | None) -> bool:
        if found is None or self.transport is None or not lane.replay(request, found, self.transport):
            return False
        self.note_answer()
        self._go_on()
        return True

    def _looked_up(self, lane: Lane, request: PlainRequest, search: asyncio.Future[RecordedAnswer | None]) -> None:
        if search.cancelled():
            return
        recording = search.result()
        request.is_absent = recording is None
        if not self._is_answered(lane, request, recording):
            self._serving = self._loop.create_task(self._serve(request))
            lane.count(self._serving)  # from now on, or a drain would take the last one for all

    async def _serve(self, request: PlainRequest) -> None:
        own_task = self._serving
        sent = await self._handler(request)
        if self._serving is own_task:
            self._serving = None
        if sent is CLOSES:
            await self.linger()
            return
        self._go_on()

    def _go_on(self) -> None:
        """To the next request."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._held and self.is_idle:
            held, self._held = self._held, b""
            self._resume_transport_reading()
            self.data_received(held)

    def _hold(self, data: bytes) -> None:
        if self._close:  # nothing more is answered here
            return
        self._held += data
        if len(self._held) > _HELD_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def _process_keepalive(self) -> None:
        if self.is_idle or not self._is_ours:
            super()._process_keepalive()
        else:
            self._keepalive_handle = self._loop.call_later(self._keepalive_timeout, self._process_keepalive)
