"""Connections from clients: taken out of the kernel's queue for as long as there is room for them.

The rule: whoever can't be taken yet waits in that queue, in turn. Want of room is no fault, and nothing spins on it.

The event loops accept by themselves, but can't be told to pause; and when file descriptors have run out, uvloop resets
the connections that wait, and tells nobody.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from proxy.balance import Balance, Shared
from proxy.connection import ClientConnection
from proxy.events import log
from proxy.lane_connection import Lane, LaneConnection
from proxy.listening import listen

ACCEPT_FAILED = "accept_failed"
ACCEPT_RECOVERED = "accept_recovered"

_AT_ONCE = 16  # accepted in one go, about 2 ms of work: then streams have their turn

_HESITATION_S = 0.002  # long enough for another process to wake, and to take the connections that it should have
_AFTER_HESITATION = 2  # accepted then in one go, if it has not

_RETRY_S = 0.1  # descriptors come free without our knowing, in this process and in others


class Clients(web.Server):
    """What aiohttp does with each connection, and which are open."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], **settings: Any) -> None:  # noqa: ANN401 - aiohttp's
        super().__init__(handler, **settings)
        # aiohttp's own `connections` are those whose task has not ended, which may be some time after their sockets.
        self.open: set[RequestHandler] = set()
        self.when_one_leaves: Callable[[], None] = _nothing
        self.lane: Lane | None = None
        """Asked first, on every connection."""

    def __call__(self) -> RequestHandler:
        return LaneConnection(self, loop=self._loop, lane=lambda: self.lane, **self._kwargs)

    def adjust(self, **settings: Any) -> None:  # noqa: ANN401 - aiohttp's
        """Give every connection other settings, those that are open as well."""
        self._kwargs |= settings
        for connection in self.open:
            if isinstance(connection, ClientConnection):
                connection.adjust(**settings)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self.open.add(handler)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self.open.discard(handler)
        self.when_one_leaves()


class ClientSite(web.BaseSite):
    """Where clients connect; the runner stops it as it does a `web.TCPSite`."""

    def __init__(  # noqa: PLR0913 - where, and how many
        self,
        runner: web.BaseRunner,
        clients: Clients,
        host: str,
        port: int,
        max_connections: int,
        *,
        shared: Shared | None = None,
    ) -> None:
        """`port`: 0 picks one, the same for all addresses of the host. `max_connections`: 0 for no bound.

        `shared`: sockets that listen there already, and other processes that accept from them.
        """
        super().__init__(runner)
        self._clients = clients
        self._host = host
        self._port = port
        self._max_connections = max_connections
        self._shared = shared
        self._accepting: _Accepting | None = None

    @property
    def name(self) -> str:
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    async def start(self) -> None:
        """Listen, and accept from now on.

        Raises:
            OSError: an address can't be had, or the name is not known.
        """
        await super().start()
        listeners = self._shared.listeners if self._shared else await listen(self._host, self._port)
        balance = self._shared.balance if self._shared else None
        self._accepting = _Accepting(listeners, self._clients, self._max_connections, balance)
        # Of an event loop's server the runner asks for `sockets` and `close`, and for nothing else.
        self._server = cast("asyncio.AbstractServer", self._accepting)

    async def stop(self) -> None:
        """Accept no more; whoever still waits in the queue is refused."""
        await super().stop()
        if self._accepting is not None:
            await self._accepting.wait_closed()


class _Accepting:
    """Listening sockets, and what is taken from them."""

    def __init__(
        self, sockets: Sequence[socket.socket], clients: Clients, max_connections: int, balance: Balance | None
    ) -> None:
        self.sockets = sockets
        self._clients = clients
        self._max_connections = max_connections
        self._balance = balance
        self._loop = asyncio.get_running_loop()
        self._arriving: set[asyncio.Task[None]] = set()
        self._is_paused = True
        self._note_connections()
        self._failures = 0
        self._has_hesitated = False
        self._retry: asyncio.TimerHandle | None = None
        clients.when_one_leaves = self._go_on_if_there_is_room
        self._go_on()

    def close(self) -> None:
        self._pause()
        if self._retry is not None:
            self._retry.cancel()
        for listener in self.sockets:
            listener.close()
        self.sockets = ()
        if self._balance is not None:
            self._balance.leave()
            self._balance = None

    async def wait_closed(self) -> None:
        """Wait for those that were accepted last: until a connection is made, it can't be told to close."""
        if self._arriving:
            await asyncio.wait(self._arriving)

    @property
    def _is_full(self) -> bool:
        return 0 < self._max_connections <= self._connections

    @property
    def _connections(self) -> int:
        return len(self._clients.open) + len(self._arriving)

    def _accept(self, listener: socket.socket) -> None:
        at_once = self._at_once()
        if not at_once:
            self._pause()
            self._retry = self._loop.call_later(_HESITATION_S, self._stop_hesitating)
        for _ in range(at_once):
            if self._is_full:
                self._pause()
                return
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                self._note_recovery()
                return
            except ConnectionAbortedError:  # its client has left already
                continue
            except OSError as error:
                self._note_failure(error)
                return
            task = self._loop.create_task(self._connect(accepted))
            self._arriving.add(task)
            task.add_done_callback(self._arrived)
            self._note_connections()

    def _at_once(self) -> int:
        """How many may be accepted in one go; the rest is for other processes, or for the next go."""
        if self._balance is None:
            return _AT_ONCE
        return _AFTER_HESITATION if self._has_hesitated else min(_AT_ONCE, self._balance.room(self._connections))

    def _stop_hesitating(self) -> None:
        self._has_hesitated = True
        self._try_again()
        self._has_hesitated = False

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._clients, accepted)
        except OSError:  # it broke while it was made
            accepted.close()

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._arriving.discard(task)
        self._go_on_if_there_is_room()

    def _note_failure(self, error: OSError) -> None:
        self._pause()
        self._retry = self._loop.call_later(_RETRY_S, self._try_again)
        if not self._failures:
            name = errno.errorcode.get(error.errno or 0, type(error).__name__)
            log.error(ACCEPT_FAILED, error=name, reason=os.strerror(error.errno or 0))
        self._failures += 1

    def _note_recovery(self) -> None:
        """Nobody waits any more."""
        if self._failures:
            log.warning(ACCEPT_RECOVERED, failures=self._failures)
        self._failures = 0

    def _try_again(self) -> None:
        self._retry = None
        self._go_on()
        # Not left to the loop: it calls nobody while nobody waits, and the log would not hear that it is over.
        for listener in self.sockets:
            if not self._is_paused:
                self._accept(listener)

    def _note_connections(self) -> None:
        if self._balance is not None:
            self._balance.note(self._connections)

    def _go_on_if_there_is_room(self) -> None:
        self._note_connections()
        # While accepting fails it is time that brings it back: the one descriptor that has come free now may be wanted
        # for a request under way, and the log would hear of each that does.
        if self._is_paused and self._retry is None and not self._is_full:
            self._go_on()

    def _go_on(self) -> None:
        self._is_paused = False
        for listener in self.sockets:
            self._loop.add_reader(listener, self._accept, listener)

    def _pause(self) -> None:
        self._is_paused = True
        for listener in self.sockets:
            self._loop.remove_reader(listener)


def _nothing() -> None:
    """Nobody asks yet."""
