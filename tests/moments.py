"""An answer that the upstream holds up, at each moment of its way, and those who wait for it there.

The rule: whoever waits has been let in, and has heard all there was to hear, before anything else happens.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from tests.conftest import StartProxy
from tests.exchanges import listeners, start_asking, until
from tests.harness import (
    ANSWER,
    DONE,
    HELLO,
    LAST_CHUNK,
    PATIENCE_S,
    PROMPT,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Connection,
    Proxy,
    Response,
    ScriptedUpstream,
    chunk,
    plain,
    request_bytes,
    sse_head,
)

_OTHERS_ANSWER = b'{"object":"list","data":[]}'


@dataclass(frozen=True)
class Moment:
    """How far an answer has come."""

    sent: Sequence[bytes] = ()
    """What the upstream has sent of it."""
    arrived: bytes = b""
    """What of that is body."""
    rest: Sequence[bytes] = ()
    """What it will send."""
    asked: Mapping[str, object] = field(default_factory=lambda: STREAMED)
    connected: bool = True
    """Whether there is a connection for it."""

    @property
    def streamed(self) -> bool:
        return self.asked is STREAMED

    @property
    def body(self) -> bytes:
        """All of it."""
        return STREAM if self.streamed else ANSWER


_HEAD, _HELLO, _WORLD, _END = sse_head(), chunk(HELLO), chunk(WORLD), chunk(DONE) + LAST_CHUNK
_PLAIN = plain(ANSWER)

AT_THE_END = Moment((_HEAD, chunk(STREAM)), STREAM, (LAST_CHUNK,))
"""There is nothing left to hear, but its framing has not ended."""

BEFORE_THE_END = {
    "before there is a connection": Moment(rest=(_HEAD, _HELLO, _WORLD, _END), connected=False),
    "before the head": Moment(rest=(_HEAD, _HELLO, _WORLD, _END)),
    "within the head": Moment((_HEAD[:-9],), rest=(_HEAD[-9:], _HELLO, _WORLD, _END)),
    "behind the head": Moment((_HEAD,), rest=(_HELLO, _WORLD, _END)),
    "between two frames": Moment((_HEAD, _HELLO), HELLO, (_WORLD, _END)),
    "within a frame": Moment((_HEAD, _HELLO + _WORLD[:-9]), HELLO + WORLD[:-7], (_WORLD[-9:], _END)),
    "before a plain answer": Moment(rest=(_PLAIN,), asked=PROMPT),
    "within a plain answer": Moment((_PLAIN[:-9],), ANSWER[:-9], (_PLAIN[-9:],), asked=PROMPT),
}
MOMENTS = {**BEFORE_THE_END, "at the end": AT_THE_END}


class Waiting:
    """A client that waits for the rest of an answer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._response: Response | None = None
        self._heard = b""

    async def response(self) -> Response:
        """The head, as soon as it comes."""
        if self._response is None:
            self._response = await self._connection.response()
        return self._response

    async def hear(self, expected: bytes) -> None:
        """Read as far as this, from the first byte on."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self._heard) < len(expected):
                piece = await self._piece(len(expected) - len(self._heard))
                assert piece, "it ended"
                self._heard += piece
        assert self._heard == expected

    async def whole(self) -> bytes:
        """The body, from its first byte to its clean end."""
        async with asyncio.timeout(PATIENCE_S):
            while piece := await self._piece():
                self._heard += piece
        return self._heard

    async def leave(self) -> None:
        self._connection.writer.transport.abort()
        await self._connection.close()

    async def _piece(self, most: int = 2**16) -> bytes:
        response = await self.response()
        if response.get("transfer-encoding"):
            return await response.next_chunk()
        left = int(response.get("content-length") or 0) - len(self._heard)
        piece = await self._connection.reader.read(min(left, most))
        assert piece or not left, "cut short"
        return piece


class HeldUp:
    """One answer that does not go on until it is told to."""

    def __init__(self, proxy: Proxy, upstream: ScriptedUpstream, moment: Moment) -> None:
        self.proxy = proxy
        self._upstream = upstream
        self._moment = moment
        self._barrier = Barrier()
        self._other: Connection | None = None

    @classmethod
    async def at(cls, moment: Moment, start_proxy: StartProxy, upstream: ScriptedUpstream, **settings: object) -> Self:
        """Nobody has asked for it yet; `settings` are the proxy's."""
        proxy = await start_proxy(**settings, **({} if moment.connected else {"upstream__max_connections": 1}))
        held = cls(proxy, upstream, moment)
        if moment.connected:
            upstream.will_send(*moment.sent, held._barrier, *moment.rest)
            return held
        upstream.will_send(held._barrier, plain(_OTHERS_ANSWER))
        upstream.will_send(*moment.rest)
        held._other = await proxy.connect()
        held._other.send(request_bytes("GET", "/v1/models"))
        await held._barrier.reached.wait()
        return held

    @property
    def requests_seen(self) -> int:
        """How often the upstream was asked for it."""
        return self._upstream.requests_seen - (not self._moment.connected)

    async def ask(self) -> Waiting:
        """One more asks for it, and has heard what there is."""
        before = listeners(self.proxy)
        waiting = Waiting(await start_asking(self.proxy, self._moment.asked))
        await until(lambda: listeners(self.proxy) == before + 1)
        await self._barrier.reached.wait()
        await waiting.hear(self._moment.arrived)
        return waiting

    async def noticed(self, left: int) -> None:
        """Wait until the proxy knows that so many are left."""
        await until(lambda: self.proxy.app._traffic.active == left + (self._other is not None))

    async def go_on(self) -> None:
        self._barrier.release()
        if self._other is not None:
            assert await (await self._other.response()).body() == _OTHERS_ANSWER
            self._other = None
