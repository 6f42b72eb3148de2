"""A response still arriving: an append-only log of frames that ends in one of two ways, complete or broken.

It is pushed: a frame goes from the upstream's connection to every listener that has heard all before it, at once, and
no task wakes for it. A listener whose client does not keep up, or that has come late, plays the log by itself until it
has caught up. When all of them stall nothing is read, and TCP slows the upstream down.

The rule: whoever is not told of the next frame by the log is on his way to it, or waits for his own client.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, Self

from proxy.allowance import Allowance
from proxy.errors import ClientGone, UpstreamBroken
from proxy.kept import KeptFrames
from proxy.outlet import Listener, Outlet
from proxy.recording import Head

_IN_A_ROW = 512  # played by whoever catches up with a long stream, about 2 ms of work; then the others have their turn
_AHEAD_BYTES = 256 * 1024  # that may come before any listener's task has had its turn; an upstream can send megabytes


class Body(Protocol):
    """Where the frames come from."""

    def flow(self, sink: "LiveLog", /) -> None:
        """Tell it every frame and the end from now on; what has come already may be told within this call."""
        ...

    def pause(self) -> None:
        """Tell it nothing, and read nothing, until `resume`."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...


class Owner(Protocol):
    """Who decides what becomes of the response."""

    def conclude(self) -> None:
        """The last frame has arrived, and nobody has been told yet: call `end` when they may be, or `break_off`."""
        ...

    def outgrown(self, *, together: bool) -> None:
        """It is longer than what may be kept, by itself or `together` with all others that are under way.

        It goes on for those who listen, and nobody can join any more.
        """
        ...

    def broken_off(self) -> None:
        """There will be no end."""
        ...


class LiveLog:
    """Frames as they came, their arrival times, and who is listening."""

    def __init__(self, owner: Owner, limit_bytes: int, shared: Allowance, clock: Callable[[], float]) -> None:
        """Keep up to `limit_bytes`, and together no more than is `shared`; `clock` gives seconds."""
        self.kept = KeptFrames(limit_bytes, shared)
        self.ended = False
        self.broken: UpstreamBroken | None = None
        self._owner: Owner | None = owner
        """Until the end: what has ended is to go as soon as nobody wants it, and not in a round of the collector."""
        self._clock = clock
        self._body: Body | None = None
        self._is_paused = False
        self._listeners: dict[Listener, None] = {}  # in their order, so that the first is served first
        self._stalled = 0
        self._ahead_bytes = 0  # that have come since somebody was told of each frame

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def join(self) -> Listener:
        """One more listens, until it leaves."""
        listener = Listener()
        self._listeners[listener] = None
        self._steer()
        return listener

    def leave(self, listener: Listener) -> None:
        self._note_stall(listener, is_stalled=False)
        del self._listeners[listener]
        self._steer()
        if self.ended:
            self._release()

    def stop_keeping(self) -> None:
        """Let go of every frame that all present listeners have played; nobody can join any more."""
        self.kept.is_whole = False
        self._trim()

    # The upstream's side

    def attach(self, body: Body) -> None:
        """The head has come; frames follow."""
        self._body = body
        body.flow(self)

    def append(self, frame: bytes) -> None:
        """The next frame has come."""
        if not self.kept.append(frame, self._clock()) and self._owner is not None:
            self._owner.outgrown(together=not self.kept.is_too_long)
        self._ahead_bytes += len(frame)
        for listener in self._listeners:
            if listener.outlet is not None:
                self._ahead_bytes = 0
                listener.position += 1
                self._push(listener, listener.outlet, frame)
        if self._ahead_bytes > _AHEAD_BYTES:
            self._steer()
        if not self.kept.is_whole:
            self._trim()

    def finish(self) -> None:
        """The last frame has come."""
        if self._owner is not None:
            self._owner.conclude()

    def end(self) -> None:
        """It is complete, and all may be told."""
        if not self.ended:
            self.ended = True
            self._part()

    def break_off(self, reason: UpstreamBroken) -> None:
        """End it here, as broken."""
        if not self.ended:
            self.ended, self.broken = True, reason
            if self._owner is not None:
                self._owner.broken_off()
            self._part()

    # The listeners' side

    async def play(self, listener: Listener, outlet: Outlet) -> None:
        """Write every frame from the first one on, as soon as it is there.

        Raises:
            UpstreamBroken: the response broke off; all frames that came have been played.
            ClientGone: this listener has left, or fell too far behind a response that is not kept.
        """
        while True:
            await self._catch_up(listener, outlet)
            if self.broken:
                raise self.broken
            if self.ended:
                return
            outlet.flush()
            listener.outlet = outlet
            self._ahead_bytes = 0
            self._steer()
            try:
                await listener.next_news()
            finally:
                listener.outlet = None

    async def _catch_up(self, listener: Listener, outlet: Outlet) -> None:
        if listener.is_stalled:
            await self._drained(listener, outlet)
        while listener.position < self.kept.arrived:
            if (frame := self.kept.at(listener.position)) is None:
                raise ClientGone("fell too far behind the stream")
            listener.position += 1
            if not self.kept.is_whole and self.listeners == 1:  # with more, the next frame trims it for all
                self._trim()
            if not outlet.write(frame):
                await self._drained(listener, outlet)
            elif listener.position % _IN_A_ROW == 0:
                await asyncio.sleep(0)

    async def _drained(self, listener: Listener, outlet: Outlet) -> None:
        self._note_stall(listener, is_stalled=True)
        try:
            await outlet.drain()
        finally:
            self._note_stall(listener, is_stalled=False)

    def _push(self, listener: Listener, outlet: Outlet, frame: bytes) -> None:
        try:
            if not outlet.write(frame):
                self._note_stall(listener, is_stalled=True)
                listener.tell()
        except ClientGone as gone:
            listener.tell(gone.with_traceback(None))  # which holds the listener: both would wait for the collector

    def _note_stall(self, listener: Listener, *, is_stalled: bool) -> None:
        if listener.is_stalled != is_stalled:
            listener.is_stalled = is_stalled
            self._stalled += 1 if is_stalled else -1
            self._steer()

    def _steer(self) -> None:
        """Read from the upstream as long as anyone takes what comes, or everyone has left."""
        all_stall = 0 < len(self._listeners) == self._stalled
        must_wait = all_stall or (self._ahead_bytes > _AHEAD_BYTES and len(self._listeners) > 0)
        if self._body is not None and not self.ended and must_wait != self._is_paused:
            self._is_paused = must_wait
            (self._body.pause if must_wait else self._body.resume)()

    def _part(self) -> None:
        self._owner = self._body = None
        for listener in self._listeners:
            listener.tell()
        self._release()

    def _trim(self) -> None:
        self.kept.drop_played([listener.position for listener in self._listeners])

    def _release(self) -> None:
        """It has ended: when nobody listens any more, what it held counts no longer."""
        if not self._listeners:
            self.kept.release()


class Live(Protocol):
    """A response that has such a log, and perhaps no head yet."""

    def join(self) -> Listener: ...
    def leave(self, listener: Listener) -> None: ...
    def head(self) -> Coroutine[Any, Any, Head]: ...


class Hearing:
    """One listener's side of it."""

    __slots__ = ("_listener", "_live", "_log")

    def __init__(self, live: Live, log: LiveLog) -> None:
        self._live = live
        self._log = log

    def __enter__(self) -> Self:
        self._listener = self._live.join()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.leave(self._listener)

    def head(self) -> Coroutine[Any, Any, Head]:
        return self._live.head()

    def play(self, outlet: Outlet) -> Coroutine[Any, Any, None]:
        return self._log.play(self._listener, outlet)
