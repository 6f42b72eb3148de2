"""The connections of our own that are open to the upstream, those in use and those that wait for the next request.

The rule: what was used last is used next, so that those that are too many grow old and are closed.
"""

import asyncio
from collections.abc import Callable

from proxy import faults
from proxy.answer import DirectAnswer
from proxy.dialling import Dialler
from proxy.direct import Asked, DirectConnection, Patience
from proxy.errors import RepriseError

IDLE_S = 15.0  # less than any server keeps an idle connection, so that we seldom send into one that is closing


class Pool:
    """Connections to the one upstream."""

    def __init__(self, dialler: Dialler, patience: Patience, has_ended: Callable[[], None]) -> None:
        """`has_ended` is called at the end of each exchange that has begun."""
        self._loop = asyncio.get_running_loop()
        self._dialler = dialler
        self._patience = patience
        self._has_ended = has_ended
        self._busy: set[DirectConnection] = set()
        self._idle: dict[DirectConnection, float] = {}  # since when, the longest first
        self._sweeping: asyncio.TimerHandle | None = None

    async def send(self, head: bytes, body: bytes) -> DirectAnswer:
        """Send a request and wait for the head of its answer.

        Raises:
            NoConnection: nothing has been sent.
            UpstreamFailed: the request may have arrived, and there is no answer.
        """
        connection = self._take() or await self._dial()
        if not connection.is_open:  # uvloop reads before whoever dialled has had a turn: it has spoken first, or left
            self._has_ended()
            raise faults.no_connection(faults.REFUSED, ConnectionResetError())
        asked: asyncio.Future[DirectAnswer] = self._loop.create_future()
        self._ask(connection, head, body, asked)
        try:
            return await asked
        except RepriseError:
            raise
        except BaseException:
            _leave(connection, asked)
            raise

    def send_at_once(self, head: bytes, body: bytes, asked: Asked) -> DirectConnection | None:
        """Send a request if a connection is idle; to close that connection is to leave before the head has come."""
        connection = self._take()
        if connection is not None:
            self._ask(connection, head, body, asked)
        return connection

    def close(self) -> None:
        """Close all of them."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in (*self._busy, *self._idle):
            connection.abort()

    # What a connection says

    def take_back(self, connection: DirectConnection) -> None:
        self._busy.discard(connection)
        if connection.is_open:
            self._idle[connection] = self._loop.time()
            if self._sweeping is None:
                self._sweeping = self._loop.call_later(IDLE_S, self._sweep)
        self._has_ended()

    def forget(self, connection: DirectConnection) -> None:
        self._idle.pop(connection, None)

    def _take(self) -> DirectConnection | None:
        while self._idle:
            connection, since_s = self._idle.popitem()
            if connection.is_open and self._loop.time() - since_s <= IDLE_S:
                return connection
            connection.close()
        return None

    def _ask(self, connection: DirectConnection, head: bytes, body: bytes, asked: Asked) -> None:
        self._busy.add(connection)
        try:
            connection.ask(head, body, asked)
        except BaseException:
            connection.close()
            raise

    async def _dial(self) -> DirectConnection:
        try:
            return await self._dialler.dial(lambda: DirectConnection(self._patience, self))
        except BaseException:
            self._has_ended()
            raise

    def _sweep(self) -> None:
        """Close those that have waited too long."""
        self._sweeping = None
        now_s = self._loop.time()
        for connection, since_s in list(self._idle.items()):
            if now_s - since_s >= IDLE_S:
                connection.close()
        if self._idle:
            self._sweeping = self._loop.call_later(IDLE_S, self._sweep)


def _leave(connection: DirectConnection, asked: "asyncio.Future[DirectAnswer]") -> None:
    if not asked.done() or asked.cancelled():
        connection.close()
    elif asked.exception() is None:  # it came just then, and the connection may be at work for another one already
        asked.result().close()
