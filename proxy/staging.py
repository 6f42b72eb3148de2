"""A response that goes wrong on its way to one client, as that client asked.

The rule: it goes wrong behind the source, which plays as ever. What is recorded, and what others hear, is the answer.
"""

import asyncio
from collections import deque
from collections.abc import Iterable

from proxy import headers
from proxy.errors import BadRequest, StagedFailure, UpstreamBroken
from proxy.flight import Flight
from proxy.lookup import Response
from proxy.outlet import Outlet
from proxy.recording import Head
from proxy.staged import EventCutter, StagedFault, error_event

# What may wait for its turn while the source goes on: an answer of average length. A longer one holds its source back,
# as it does for any client that is slow.
_AHEAD_BYTES = 1024 * 1024
_FRAME_BYTES = 64  # that a frame takes besides its bytes

_OK = 200


async def refuse(fault: StagedFault) -> None:
    """Stage a fault that takes the place of the whole answer.

    Raises:
        StagedFailure: it does.
    """
    if fault.status is not None:
        await asyncio.sleep(fault.first_byte_s)
        raise StagedFailure(fault.status)


def staged(response: Response, fault: StagedFault, target: str, flight: Flight | None) -> Response:
    """The response to a request for that target, with a fault; `flight` is what it comes from, if it is no replay."""
    if flight is not None:
        flight.hear_out()
    return _StagedResponse(response, fault, path=target.partition("?")[0])


class _StagedResponse:
    """A response with a fault."""

    def __init__(self, response: Response, fault: StagedFault, path: str) -> None:
        self._response = response
        self._fault = fault
        self._path = path
        self._cutter: EventCutter | None = None

    async def head(self) -> Head:
        """The head, when it is due.

        Raises:
            BadRequest: an event is asked for in an answer that is no event stream.
        """
        await asyncio.sleep(self._fault.first_byte_s)
        head = await self._response.head()
        if _is_event_stream(head):
            self._cutter = EventCutter()
        if self._fault.error_after is not None:
            if head.status != _OK:  # a failure of the upstream's own, of another form
                self._fault = self._fault._replace(error_after=None)
            elif self._cutter is None:
                raise BadRequest(
                    "X-Reprise-Fault: error-event is for streams, and this answer is none. Try cut-after=0."
                )
        if not self._fault.ends_early:
            return head
        # Without its length, or a cut behind the last byte would be no cut.
        return head._replace(headers=tuple([field for field in head.headers if field[0].lower() != b"content-length"]))

    async def play(self, outlet: Outlet) -> None:
        """Write it piece by piece, until the response ends or the fault ends it.

        Raises:
            UpstreamBroken: the response has broken off, or was to be cut.
        """
        outlet.flush()
        ahead = _Ahead()
        playing = asyncio.create_task(self._response.play(ahead))
        playing.add_done_callback(ahead.end)
        try:
            passed = await self._pass_on(ahead, outlet)
            if not self._fault.is_due(passed):
                await playing
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
        if self._fault.cut_after is not None:
            raise UpstreamBroken("cut off, as X-Reprise-Fault asked")
        if self._fault.error_after is not None:
            outlet.write(error_event(self._path, passed))

    async def _pass_on(self, ahead: "_Ahead", outlet: Outlet) -> int:
        """Give on what there is, up to its end or to where the fault ends it; how many events or frames that was."""
        loop = asyncio.get_running_loop()
        passed, due_s = 0, 0.0
        while not self._fault.is_due(passed) and (frame := await ahead.next()) is not None:
            for piece, counts in self._pieces(frame):
                await asyncio.sleep(due_s - loop.time())
                if not outlet.write(piece):
                    await outlet.drain()
                due_s = loop.time() + self._fault.gap_s
                passed += counts
                if self._fault.is_due(passed):
                    break
        return passed

    def _pieces(self, frame: bytes) -> Iterable[tuple[bytes, bool]]:
        """What is passed on at a time, and whether it counts: how many events a read gave is nobody's choice."""
        return self._cutter.pieces(frame) if self._cutter is not None else ((frame, True),)


class _Ahead:
    """Frames that have come, and whose turn is later: who plays into it waits for nobody."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._size_bytes = 0
        self._has_ended = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    def write(self, frame: bytes) -> bool:
        self._frames.append(frame)
        self._size_bytes += len(frame) + _FRAME_BYTES
        self._news.set()
        return self._size_bytes <= _AHEAD_BYTES

    def flush(self) -> None:
        """Nothing: all that came can be taken."""

    async def drain(self) -> None:
        while self._size_bytes > _AHEAD_BYTES // 2:
            self._room.clear()
            await self._room.wait()

    def end(self, _: object = None) -> None:
        """No frame follows."""
        self._has_ended = True
        self._news.set()

    async def next(self) -> bytes | None:
        """The next frame, or None behind the last one."""
        while not self._frames:
            if self._has_ended:
                return None
            self._news.clear()
            await self._news.wait()
        frame = self._frames.popleft()
        self._size_bytes -= len(frame) + _FRAME_BYTES
        self._room.set()
        return frame


def _is_event_stream(head: Head) -> bool:
    return headers.media_type(head.get(b"content-type")) == b"text/event-stream"
