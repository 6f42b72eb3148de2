"""One of several processes that serve on the same port: what its supervisor tells it, and what it tells its supervisor.

The rule: it obeys its supervisor, and ends with it. Signals that the supervisor gets as well (Ctrl-C goes to all that
run on a terminal, a service manager's SIGTERM to all of a service) never count twice.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Literal

import orjson

from proxy import events
from proxy.app import App, StartFailed
from proxy.background import BackgroundStream
from proxy.balance import Shared
from proxy.config import Settings
from proxy.run import run, serve
from proxy.store.directory import UnusableDirectory

DRAIN, CUT_SHORT, RELOAD = b"d", b"c", b"r"
"""What the supervisor says, a byte each."""

Told = Literal["ready", "failed"]
"""What a worker says, a line of JSON each: `ready` with its base URL, or `failed` with the message for the user."""

_ORDERS_AT_ONCE = 64


def work(
    number: int,
    settings: Settings,
    shared: Shared,
    supervisor: socket.socket,
    read_anew: Callable[[], Settings],
) -> int:
    """Serve until the supervisor says otherwise, or is gone; the exit code."""
    with BackgroundStream(sys.stderr) as stderr:

        def set_up_log(settings: Settings) -> None:
            events.configure(settings.log.format, settings.log.level, stderr, number)

        set_up_log(settings)
        app, take_orders = App(settings, shared), partial(FromSupervisor, supervisor)
        try:
            return run(serve(app, partial(_tell, supervisor, "ready"), read_anew, set_up_log, take_orders))
        except (StartFailed, UnusableDirectory) as error:
            _tell(supervisor, "failed", str(error))
            return 2


def share_of(settings: Settings, number: int, count: int) -> Settings:
    """What of the bounds for the whole proxy is for the worker with that number, of 1 to `count`.

    A bound that is less than `count` is 1 for each.
    """
    server, upstream = settings.server, settings.upstream
    of_clients, of_upstream = (_share(each.max_connections, number, count) for each in (server, upstream))
    return settings.model_copy(
        update={
            "server": server.model_copy(update={"max_connections": of_clients}),
            "upstream": upstream.model_copy(update={"max_connections": of_upstream}),
        }
    )


class FromSupervisor:
    """The orders of a program that a supervisor has started."""

    def __init__(self, supervisor: socket.socket) -> None:
        self._supervisor = supervisor
        self._stops = asyncio.Queue[int]()
        self._reloads = asyncio.Queue[None]()
        self._is_draining = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTERM, self._drain)
        supervisor.settimeout(0)
        self._loop.add_reader(supervisor, self._hear)

    async def next_stop(self) -> int:
        return await self._stops.get()

    async def next_reload(self) -> None:
        await self._reloads.get()

    def let_go(self) -> None:
        """A third signal is for the supervisor, which then waits no longer for anybody."""

    def _hear(self) -> None:
        try:
            told = self._supervisor.recv(_ORDERS_AT_ONCE)
        except BlockingIOError:
            return
        except ConnectionError:
            told = b""
        if not told:
            self._loop.remove_reader(self._supervisor)
            self._drain()
        for order in told:
            self._obey(bytes((order,)))

    def _obey(self, order: bytes) -> None:
        if order == RELOAD:
            self._reloads.put_nowait(None)
            return
        self._drain()
        if order == CUT_SHORT:
            self._stops.put_nowait(signal.SIGTERM)

    def _drain(self) -> None:
        if not self._is_draining:
            self._is_draining = True
            self._stops.put_nowait(signal.SIGTERM)


def _share(bound: int, number: int, count: int) -> int:
    return bound and max(1, bound // count + (number <= bound % count))


def _tell(supervisor: socket.socket, what: Told, text: str) -> None:
    with suppress(OSError):  # it is gone, and soon this will be, too
        supervisor.sendall(orjson.dumps({what: text}) + b"\n")
