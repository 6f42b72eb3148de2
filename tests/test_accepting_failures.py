"""What happens when a connection can't be accepted, mostly since there is no descriptor for it.

The rule: clients wait until there is one, nothing spins meanwhile, and the log has a line when it begins and when it is
over.
"""

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp.web_protocol import RequestHandler

from proxy import accepting
from proxy.accepting import ACCEPT_FAILED, ACCEPT_RECOVERED, Clients
from tests.conftest import Log
from tests.doors import GET, HELD, door, is_served, on_both_loops, waits
from tests.exchanges import until
from tests.harness import Barrier, Connection


@contextmanager
def no_descriptor_left() -> Iterator[Callable[[], None]]:
    """Until the function is called, no file and no connection can be opened in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def allow() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield allow
    finally:
        allow()


def sockets(count: int) -> list[socket.socket]:
    """So many that are not connected yet: later there is no descriptor for one."""
    made = [socket.socket() for _ in range(count)]
    for sock in made:
        sock.settimeout(0)
    return made


def accepting_fails(monkeypatch: pytest.MonkeyPatch, number: int, times: int, after: int = 0) -> None:
    """The system says so, so many times, after so many that it accepts; it is tried again soon."""
    accept, answers = socket.socket.accept, [False] * after + [True] * times

    def fail(listener: socket.socket) -> tuple[socket.socket, Any]:
        if answers and answers.pop(0):
            raise OSError(number, "")
        return accept(listener)

    monkeypatch.setattr(accepting, "_RETRY_S", 0.01)
    monkeypatch.setattr(socket.socket, "accept", fail)


@on_both_loops
async def test_without_a_descriptor_they_wait_until_there_is_one(log: Log) -> None:
    """A request under way goes on meanwhile; the log has a line when it begins, and one when it is over."""
    loop, barrier = asyncio.get_running_loop(), Barrier()
    async with door(barrier=barrier) as opened:
        under_way = await opened.connect(HELD)
        await barrier.reached.wait()
        waiting = sockets(3)

        with no_descriptor_left() as allow:
            for sock in waiting:
                await loop.sock_connect(sock, opened.runner.addresses[0])
            failed = await log.line(0, ACCEPT_FAILED)
            barrier.release()
            await is_served(under_way)
            assert len(opened.clients.open) == 1
            assert len(log.lines(ACCEPT_FAILED)) == 1
            assert not log.lines(ACCEPT_RECOVERED)
            allow()

        late = [Connection(*await asyncio.open_connection(sock=sock)) for sock in waiting]
        for connection in late:
            connection.send(GET)
            await is_served(connection)
            await connection.close()
        recovered = await log.line(0, ACCEPT_RECOVERED)
    assert (failed["level"], failed["error"], failed["reason"]) == ("error", "EMFILE", os.strerror(errno.EMFILE))
    assert (recovered["level"], recovered["failures"] > 0) == ("warning", True)
    assert len(log.lines(ACCEPT_FAILED)) == len(log.lines(ACCEPT_RECOVERED)) == 1


@on_both_loops
async def test_without_a_descriptor_nothing_spins(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until some time has passed nobody looks at the queue, however many wait in it and whoever leaves meanwhile."""
    monkeypatch.setattr(accepting, "_RETRY_S", 60.0)
    loop = asyncio.get_running_loop()
    async with door() as opened:
        assert opened.site._accepting is not None
        (listener,) = opened.site._accepting.sockets
        first = await opened.connect(GET)
        await is_served(first)
        (sock,) = sockets(1)

        with no_descriptor_left(), sock:
            await loop.sock_connect(sock, opened.runner.addresses[0])
            await log.line(0, ACCEPT_FAILED)
            await first.close()
            await until(lambda: not opened.clients.open)

            assert not loop.remove_reader(listener)


@pytest.mark.parametrize("number", [errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
@on_both_loops
async def test_other_wants_are_waited_out_too(number: int, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole system can be out of files, of buffers, of memory; a second time it is told again."""
    async with door() as opened:
        for _ in range(2):
            with monkeypatch.context() as patched:
                accepting_fails(patched, number, times=3)
                await is_served(await opened.connect(GET))
            await is_served(await opened.connect(GET))
    assert [line["error"] for line in log.lines(ACCEPT_FAILED)] == [errno.errorcode[number]] * 2
    assert [line["failures"] for line in log.lines(ACCEPT_RECOVERED)] == [3, 3]


@on_both_loops
async def test_the_bound_holds_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """And room that is made is used at once."""
    async with door(max_connections=1) as opened:
        accepting_fails(monkeypatch, errno.EMFILE, times=1)
        first = await opened.connect(GET)
        await is_served(first)
        second = await opened.connect(GET)
        await opened.is_quiet()
        assert waits(second)

        await first.close()

        await is_served(second)


@on_both_loops
async def test_a_connection_that_breaks_while_it_is_made_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed, and the next one is served."""

    def fail(_: Clients) -> RequestHandler:
        raise OSError(errno.EBADF, "")

    async with door(max_connections=1) as opened:
        with monkeypatch.context() as patched:
            patched.setattr(Clients, "__call__", fail)
            assert await (await opened.connect()).rest() == b""

        await is_served(await opened.connect(GET))


@on_both_loops
async def test_a_connection_that_was_aborted_in_the_queue_is_passed_over(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some systems say so when it is accepted; it is no trouble of ours."""
    async with door() as opened:
        accepting_fails(monkeypatch, errno.ECONNABORTED, times=3)
        await is_served(await opened.connect(GET))
    assert not log.lines(ACCEPT_FAILED)


@on_both_loops
async def test_it_is_over_when_nobody_waits_any_more(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last in the queue had the last descriptor, and nobody comes whose arrival would show that there are more."""
    async with door() as opened:
        accepting_fails(monkeypatch, errno.EMFILE, times=1, after=1)
        await is_served(await opened.connect(GET))

        await log.line(0, ACCEPT_RECOVERED)


@on_both_loops
async def test_it_can_stop_while_accepting_fails(log: Log) -> None:
    """Nothing comes back to try once more."""
    loop = asyncio.get_running_loop()
    async with door() as opened:
        assert opened.site._accepting is not None
        (sock,) = sockets(1)
        with no_descriptor_left() as allow, sock:
            await loop.sock_connect(sock, opened.runner.addresses[0])
            await log.line(0, ACCEPT_FAILED)

            await opened.site.stop()

            assert opened.site._accepting._retry is not None
            assert opened.site._accepting._retry.cancelled()
            allow()
