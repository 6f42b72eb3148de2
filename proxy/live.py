"""A response still arriving: an append-only log of frames that ends in one of two ways, complete or broken.

It is pulled, not pushed: a listener that has played all there is reads the next frame itself, unless another one is
already reading; then it waits for news. So a lone listener reads and writes in one task, the upstream runs at the pace
of the fastest listener, and when all of them stall nobody reads, and TCP slows the upstream down.

The rule: whoever stops reading, for whatever reason, wakes the rest, so that one of them can go on.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from proxy.allowance import Allowance
from proxy.errors import ClientGone, UpstreamBroken

# A listener may fall this far behind a response that is too long to be kept; what it has not taken by then, it loses.
_LEEWAY_BYTES = 1024 * 1024

# Whoever catches up with a long stream plays so many frames, about 2 ms of work, and then the others have their turn.
_IN_A_ROW = 512

# A frame takes about as much memory besides its bytes, so a stream of single bytes is too long by its frames first.
_FRAME_BYTES = 64
_FEW_FRAMES = 10_000  # so many are none too many, however little a recording may hold


class Body(Protocol):
    """Where the frames come from."""

    async def read(self) -> bytes:
        """The next frame, or nothing when the body has ended. May be cancelled and called again.

        Raises:
            UpstreamBroken: the body ended before its end.
        """
        ...


class Owner(Protocol):
    """Who decides what becomes of the response."""

    async def conclude(self) -> None:
        """The last frame has arrived, and nobody has been told yet. May be cancelled and called again.

        Raises:
            UpstreamBroken: this was not its end after all.
        """
        ...

    def outgrown(self, *, together: bool) -> None:
        """It is longer than what may be kept, by itself or `together` with all others that are under way.

        It goes on for those who listen, and nobody can join any more.
        """
        ...

    def broken_off(self) -> None:
        """There will be no end."""
        ...


class Listener:
    """One who plays the log, and how far it has come."""

    __slots__ = ("position",)

    def __init__(self) -> None:
        self.position = 0
        """Frames played, of all that have arrived."""


class LiveLog:
    """Frames as they came, their arrival times, and who is listening."""

    def __init__(self, owner: Owner, limit_bytes: int, shared: Allowance, clock: Callable[[], float]) -> None:
        """Keep up to `limit_bytes`, and together no more than is `shared`; `clock` gives seconds."""
        self.frames: list[bytes] = []
        self.arrived_s: list[float] = []
        self.size_bytes = 0
        self.is_whole = limit_bytes > 0
        """Whether every frame that has arrived is still here."""
        self.ended = False
        self.broken: UpstreamBroken | None = None
        self._owner = owner
        self._limit_bytes = limit_bytes
        self._limit_frames = _FEW_FRAMES + limit_bytes // _FRAME_BYTES
        self._shared = shared
        self._clock = clock
        self._body: Body | None = None
        self._listeners: set[Listener] = set()
        self._kept_bytes = 0
        self._gone = 0  # frames that are not here any more, of all that have arrived
        self._removed = 0  # of these, the ones whose places in the lists have been removed, too
        self._reading = False
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        listener = Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            if self.ended:
                self._release()

    def attach(self, body: Body) -> None:
        """The head has come; frames can be read."""
        self._body = body

    def stop_keeping(self) -> None:
        """Let go of every frame that all present listeners have played; nobody can join any more."""
        self.is_whole = False
        self._trim()

    async def play(self, listener: Listener) -> AsyncGenerator[bytes, None]:
        """Every frame from the first one on, as soon as it is there.

        Raises:
            UpstreamBroken: the response broke off; all frames that came have been played.
            ClientGone: this listener fell too far behind a response that is not kept.
        """
        while True:
            while (place := listener.position - self._removed) < len(self.frames):
                if listener.position < self._gone:
                    raise ClientGone("fell too far behind the stream")
                frame = self.frames[place]
                listener.position += 1
                if not self.is_whole and self.listeners == 1:  # with more, what is read next trims it for all of them
                    self._trim()
                yield frame
                if listener.position % _IN_A_ROW == 0:
                    await asyncio.sleep(0)
            if self.broken:
                raise self.broken
            if self.ended:
                return
            await self.advance()

    async def advance(self) -> None:
        """Read the next frame, or wait until somebody who is reading has news."""
        if self._reading:
            await self._news()
        else:
            await self._pull()

    def break_off(self, reason: UpstreamBroken) -> None:
        """End it here, as broken."""
        if not self.ended:
            self.ended, self.broken = True, reason
            self._owner.broken_off()
            self._release()
            self._wake()

    async def _pull(self) -> None:
        assert self._body is not None, "play() before attach()"  # noqa: S101 - a fault of ours, never of a peer
        self._reading = True
        try:
            if frame := await self._body.read():
                self._append(frame)
            else:
                await self._owner.conclude()
                self.ended = True
                self._release()
        except UpstreamBroken as broken:
            self.break_off(broken)
        except Exception:
            # A fault of ours. Left as it is, the log would be pulled again by each listener, and joined for ever.
            self.break_off(UpstreamBroken("the proxy failed"))
            raise
        finally:
            self._reading = False
            self._wake()

    def _append(self, frame: bytes) -> None:
        self.size_bytes += len(frame)
        self._kept_bytes += len(frame)
        self._shared.take(len(frame))
        self.frames.append(frame)
        self.arrived_s.append(self._clock())
        if self.is_whole and (self._is_too_long or self._shared.is_exceeded):
            self.is_whole = False
            self._owner.outgrown(together=not self._is_too_long)
        if not self.is_whole and self.listeners != 1:  # one alone trims it by what it plays
            self._trim()

    @property
    def _is_too_long(self) -> bool:
        return self.size_bytes > self._limit_bytes or len(self.frames) > self._limit_frames

    def _trim(self) -> None:
        """Drop what every listener has played, and what the slowest may no longer expect to be kept for it."""
        arrived = self._removed + len(self.frames)
        taking = (listener.position for listener in self._listeners if listener.position >= self._gone)
        played = min(taking, default=arrived)
        while self._gone < played or (self._gone < arrived - 1 and self._holds_too_much(arrived - self._gone)):
            self._drop(self._gone - self._removed)
        # Their places go when they are half of all: to move the rest up for each frame would take ever longer.
        if (surplus := self._gone - self._removed) * 2 > len(self.frames):
            del self.frames[:surplus], self.arrived_s[:surplus]
            self._removed = self._gone

    def _holds_too_much(self, frames: int) -> bool:
        return self._kept_bytes > self._limit_bytes + _LEEWAY_BYTES or frames > self._limit_frames

    def _drop(self, place: int) -> None:
        size_bytes = len(self.frames[place])
        self.frames[place] = b""
        self._kept_bytes -= size_bytes
        self._shared.give_back(size_bytes)
        self._gone += 1

    def _release(self) -> None:
        """It has ended: when nobody listens any more, what it held counts no longer."""
        if not self._listeners:
            self._shared.give_back(self._kept_bytes)
            self._kept_bytes = 0

    async def _news(self) -> None:
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(news)
        await news

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for news in waiting:
            if not news.done():
                news.set_result(None)
