"""A server to knock at: connections as the proxy accepts them, with nothing of a proxy behind."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from aiohttp import web

from proxy.accepting import Clients, ClientSite
from proxy.balance import Shared
from tests.by_hand import quiet
from tests.harness import Barrier, Connection, request_bytes

GET = request_bytes("GET", "/")
HELD = request_bytes("GET", "/held")


def on_both_loops(scenario: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on uvloop, as users do, and on asyncio's own loop; a fault that only the loop hears of fails it."""
    given = [*inspect.signature(scenario).parameters.values()]
    loop = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)

    def test(new_loop: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        faults: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.get_loop().set_exception_handler(lambda _, fault: faults.append(fault))
            runner.run(scenario(**fixtures))
        assert not faults

    test.__doc__ = scenario.__doc__
    test.__signature__ = inspect.Signature([*given, loop])  # type: ignore[attr-defined]  # pytest looks for it there
    loops = [pytest.param(uvloop.new_event_loop, id="uvloop"), pytest.param(asyncio.new_event_loop, id="asyncio")]
    parametrized: Callable[..., None] = pytest.mark.parametrize("new_loop", loops)(test)
    return parametrized


class Door:
    """Where clients connect, and those who have."""

    def __init__(self, runner: web.ServerRunner, clients: Clients, site: ClientSite) -> None:
        self.runner = runner
        self.clients = clients
        self.site = site
        self._opened: list[Connection] = []

    async def connect(self, *requests: bytes) -> Connection:
        """A connection, which the kernel makes whether anybody accepts it or not; with these requests sent."""
        connection = Connection(*await asyncio.open_connection(*self.runner.addresses[0]))
        self._opened.append(connection)
        for request in requests:
            connection.send(request)
        return connection

    async def is_quiet(self) -> None:
        """Wait until nobody is being accepted or served any more."""
        await quiet(lambda: len(self.clients.open) + self.clients.requests_count)

    async def close(self) -> None:
        for connection in self._opened:
            await connection.close()


@asynccontextmanager
async def door(
    max_connections: int = 0, barrier: Barrier | None = None, shared: Shared | None = None, **settings: Any
) -> AsyncIterator[Door]:
    """A server that answers everything at once, and `/held` when the barrier is released."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/held" and barrier is not None:
            await barrier.wait()
        response = web.Response(body=b"served")
        if "last" in request.query:
            response.force_close()
        return response

    timeouts = {"read_timeout_s": 60.0, "keepalive_timeout": 60.0, "lingering_time": 0.0, **settings}
    clients = Clients(answer, handler_cancellation=True, access_log=None, **timeouts)
    runner = web.ServerRunner(clients, shutdown_timeout=0.1)
    await runner.setup()
    site = ClientSite(runner, clients, "127.0.0.1", 0, max_connections, shared=shared)
    await site.start()
    opened = Door(runner, clients, site)
    try:
        yield opened
    finally:
        await runner.cleanup()
        await opened.close()


async def is_served(connection: Connection) -> None:
    response = await connection.response()
    assert (response.status, await response.body()) == (200, b"served")


def waits(connection: Connection) -> bool:
    """Whether nothing has come."""
    return not connection.reader._buffer and not connection.reader.at_eof()  # type: ignore[attr-defined]
