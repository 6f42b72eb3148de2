"""How connections are accepted: on both event loops, and up to a bound.

The rule: whoever is not accepted yet waits, and is served in turn.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from proxy.accepting import ACCEPT_FAILED
from tests.conftest import Log
from tests.doors import GET, HELD, door, is_served, on_both_loops, waits
from tests.exchanges import until
from tests.harness import PATIENCE_S, Barrier, Connection, request_bytes


async def leave_cleanly(connection: Connection) -> None:
    await connection.close()


async def leave_with_a_reset(connection: Connection) -> None:
    _reset_at_its_end(connection.writer.get_extra_info("socket"))
    connection.writer.transport.abort()
    with suppress(ConnectionError):
        await connection.writer.wait_closed()


async def be_sent_away(connection: Connection) -> None:
    connection.send(request_bytes("GET", "/?last"))
    await connection.rest()


def _reset_at_its_end(sock: Any) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# All that come


@on_both_loops
async def test_all_that_come_at_once_are_served() -> None:
    """Without a bound, and more of them than are accepted in one go."""
    async with door() as opened:
        connections = await asyncio.gather(*(opened.connect(GET) for _ in range(100)))

        await asyncio.gather(*map(is_served, connections))

        assert len(opened.clients.open) == 100


@on_both_loops
async def test_a_connection_can_be_used_again() -> None:
    """It stays open between requests, and is forgotten when it has ended."""
    async with door() as opened:
        connection = await opened.connect(GET)
        await is_served(connection)
        connection.send(GET)
        await is_served(connection)
        await connection.close()

        await until(lambda: not opened.clients.open)


@on_both_loops
async def test_a_short_frame_is_sent_at_once() -> None:
    """The kernel does not keep it back until the one before has arrived (TCP_NODELAY)."""
    async with door() as opened:
        await is_served(await opened.connect(GET))
        (connection,) = opened.clients.open

        assert connection.transport is not None
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@on_both_loops
async def test_a_client_that_has_left_the_queue_is_no_trouble(log: Log) -> None:
    """It reset its connection before that was accepted."""
    async with door(max_connections=1) as opened:
        first = await opened.connect(GET)
        await is_served(first)
        await leave_with_a_reset(await opened.connect(GET))
        last = await opened.connect(GET)

        await first.close()

        await is_served(last)
    assert not log.lines(ACCEPT_FAILED)


# Up to a bound


@on_both_loops
async def test_connections_beyond_the_bound_wait_and_are_served_in_turn() -> None:
    """Idle ones count: as one ends, one is accepted."""
    async with door(max_connections=2) as opened:
        idle = [await opened.connect(GET) for _ in range(2)]
        await asyncio.gather(*map(is_served, idle))
        waiting = [await opened.connect(GET) for _ in range(3)]
        await opened.is_quiet()
        assert [waits(connection) for connection in waiting] == [True, True, True]

        await idle[0].close()
        await is_served(waiting[0])
        await opened.is_quiet()
        assert [waits(connection) for connection in waiting[1:]] == [True, True]
        assert len(opened.clients.open) == 2

        await idle[1].close()
        await is_served(waiting[1])
        assert waits(waiting[2])


@on_both_loops
async def test_many_that_come_at_once_do_not_pass_the_bound() -> None:
    """Those that are accepted and not yet connected count, too."""
    barrier = Barrier()
    async with door(max_connections=5, barrier=barrier) as opened:
        connections = await asyncio.gather(*(opened.connect(HELD) for _ in range(40)))
        await opened.is_quiet()
        assert len(opened.clients.open) == opened.clients.requests_count == 5

        barrier.release()
        while connections:
            # Which of them came first is the kernel's to say.
            await until(lambda: any(not waits(connection) for connection in connections))
            for connection in [one for one in connections if not waits(one)]:
                await is_served(connection)
                await connection.close()
                connections.remove(connection)


@pytest.mark.parametrize("leave", [leave_cleanly, leave_with_a_reset, be_sent_away])
@on_both_loops
async def test_room_is_made_however_a_connection_ends(leave: Callable[[Connection], Coroutine[Any, Any, None]]) -> None:
    """Again and again: none is counted that is gone, and none is counted twice."""
    async with door(max_connections=1) as opened:
        connection = await opened.connect(GET)
        for _ in range(5):
            await is_served(connection)
            next_one = await opened.connect(GET)

            await leave(connection)

            connection = next_one
        await is_served(connection)
        assert len(opened.clients.open) == 1


@on_both_loops
async def test_one_that_never_asks_gives_its_place_up() -> None:
    """After the time for idle connections, else it would keep all others out."""
    async with door(max_connections=1, keepalive_timeout=0.05) as opened:
        silent = await opened.connect()
        await until(lambda: len(opened.clients.open) == 1)

        await is_served(await opened.connect(GET))

        assert await silent.rest() == b""


# The end


@on_both_loops
async def test_a_site_that_has_stopped_accepts_nobody() -> None:
    """New connections are refused at once, and who waited is sent away; those that are open go on."""
    async with door(max_connections=1) as opened:
        address = opened.runner.addresses[0]
        first = await opened.connect(GET)
        await is_served(first)
        waiting = await opened.connect(GET)

        await opened.site.stop()

        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        with suppress(ConnectionResetError):
            assert await waiting.rest() == b""
        first.send(GET)
        await is_served(first)
        assert not opened.runner.sites
        await first.close()
        await until(lambda: not opened.clients.open)


@on_both_loops
async def test_one_that_is_just_arriving_is_not_left_behind() -> None:
    """It is accepted, but not connected yet: when the server ends, it ends too."""
    loop = asyncio.get_running_loop()
    async with door() as opened:
        assert opened.site._accepting is not None
        (listener,) = opened.site._accepting.sockets
        number = listener.fileno()
        with socket.create_connection(opened.runner.addresses[0]) as sock:
            sock.settimeout(0)
            opened.site._accepting._accept(listener)
            assert opened.site._accepting._arriving

            await opened.runner.cleanup()

            async with asyncio.timeout(PATIENCE_S):
                assert await loop.sock_recv(sock, 1) == b""
        assert not opened.clients.open
        assert not loop.remove_reader(number)
