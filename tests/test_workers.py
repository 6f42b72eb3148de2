"""Several processes on one port: they look like one to clients, to whoever reads the log, and to whoever ends them."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy import events
from proxy.balance import Balance, Shared
from proxy.config import ServerSettings, Settings, UpstreamSettings
from proxy.listening import listen_without_a_loop
from proxy.supervisor import workers_wanted
from proxy.worker import share_of
from proxy.workers import delay_s_after
from tests.commands import Running, connect, port_in_use, reprise, running
from tests.doors import GET, Door, door, is_served, on_both_loops
from tests.exchanges import until
from tests.harness import (
    ANSWER,
    CHAT,
    DONE,
    HELLO,
    LAST_CHUNK,
    PROMPT,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Connection,
    Response,
    ScriptedUpstream,
    chunk,
    plain,
    request_bytes,
    sse_head,
)
from tests.oracle import eventually, keys_on_disk

JSON = [("Content-Type", "application/json")]


class Company:
    """A proxy of two workers."""

    def __init__(self, command: Running, base_url: str, connections: AsyncExitStack) -> None:
        self.command = command
        self.base_url = base_url
        self._connections = connections
        self._asked = 0

    @property
    def pids(self) -> list[int]:
        """Of those that run, the supervisor apart."""
        pid = self.command.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def connection_to_each(self) -> dict[int, Connection]:
        """One to every worker: each has a share of those that are open."""
        found: dict[int, Connection] = {}
        while len(found) < 2:
            connection = await self.connect()
            found.setdefault(await self.worker_of(connection), connection)
        return found

    async def connect(self) -> Connection:
        connection = await connect(self.base_url)
        self._connections.push_async_callback(connection.close)
        return connection

    async def worker_of(self, connection: Connection) -> int:
        """The number of the worker that answers there."""
        connection.send(request_bytes("GET", "/healthz"))
        await (await connection.response()).body()
        return int((await self.next_line())["worker"])

    async def next_line(self) -> dict[str, Any]:
        """The log's line on a request that has been answered."""
        self._asked += 1
        return await self.command.logged(events.REQUEST, self._asked - 1)


@asynccontextmanager
async def company(at: Path, upstream: ScriptedUpstream, **settings: object) -> AsyncIterator[Company]:
    given = {"server__workers": 2, "upstream__base_url": upstream.base_url, "log__level": "debug"}
    given |= {"cache__directory": "store", **settings}
    async with running("--port", 0, at=at, **given) as command, AsyncExitStack() as connections:
        line = await command.line()
        assert line.startswith("export OPENAI_BASE_URL="), line
        await command.logged(events.STARTED, 2)  # each process writes its lines in its own time
        yield Company(command, line.partition("=")[2], connections)


async def ask(connection: Connection, asked: object) -> Response:
    connection.send(request_bytes("POST", CHAT, JSON, orjson.dumps(asked)))
    return await connection.response()


async def word(connection: Connection, asked: object = PROMPT) -> str | None:
    response = await ask(connection, asked)
    await response.body()
    return response.get("x-cache-status")


async def streams_under_way(served: Company, upstream: ScriptedUpstream) -> tuple[list[Response], Barrier]:
    """One in each worker, half-way through."""
    barrier = Barrier()
    upstream.will_send(sse_head() + chunk(HELLO), barrier, chunk(WORLD) + chunk(DONE) + LAST_CHUNK)
    connections = await served.connection_to_each()
    streams = [await ask(connection, {**STREAMED, "seed": number}) for number, connection in connections.items()]
    for stream in streams:
        assert await stream.next_chunk() == HELLO
    return streams, barrier


# One proxy


async def test_they_serve_on_one_port_and_from_one_store(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """What one of them has recorded is a hit in the other; the start is told once, lines say who wrote them."""
    upstream.will_send(plain(ANSWER))
    async with company(tmp_path, upstream) as served:
        one, other = (await served.connection_to_each()).values()

        lines = []
        for connection, found in ((one, "MISS"), (other, "HIT"), (one, "HIT")):
            assert await word(connection) == found
            lines.append(await served.next_line())
            await eventually(lambda: bool(keys_on_disk(tmp_path)))
        served.command.send(signal.SIGTERM)
        ended = await served.command.end()
    assert lines[0]["worker"] == lines[2]["worker"] != lines[1]["worker"]
    started = served.command.log(events.STARTED)
    assert {line.get("worker"): line["base_url"] for line in started} == dict.fromkeys([1, 2, None], served.base_url)
    assert (ended.code, ended.out) == (0, "")


async def test_one_that_dies_is_replaced(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """Again and again, a little later each time, while the others serve; and not when it is all to end."""
    upstream.will_send(plain(ANSWER))
    async with company(tmp_path, upstream) as served:
        for number in range(2):
            victim = served.pids[0]
            os.kill(victim, signal.SIGKILL)
            died = await served.command.logged(events.WORKER_DIED, number)
            assert (died["level"], died["pid"], died["signal"]) == ("error", victim, "SIGKILL")
            assert await word(await served.connect()) in ("MISS", "HIT")
            await served.next_line()
            await served.command.logged(events.STARTED, 3 + number)

        assert len(served.pids) == len(await served.connection_to_each()) == 2
        assert all(line["restart_in_s"] in (0.1, 0.2) for line in served.command.log(events.WORKER_DIED))
        served.command.send(signal.SIGTERM)
        assert (await served.command.end()).code == 0


async def test_one_that_is_ended_by_itself_drains_and_is_replaced(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """As an operator does who wants one of them anew; no connection is refused meanwhile."""
    async with company(tmp_path, upstream) as served:
        streams, barrier = await streams_under_way(served, upstream)
        os.kill(served.pids[0], signal.SIGTERM)
        draining = await served.command.logged(events.DRAINING)
        assert await served.worker_of(await served.connect()) != draining["worker"]
        barrier.release()

        assert [HELLO + await stream.body() for stream in streams] == [STREAM, STREAM]
        died = await served.command.logged(events.WORKER_DIED)
        assert (died["worker"], died["exit_code"]) == (draining["worker"], 0)
        assert (await served.command.logged(events.STARTED, 3))["worker"] == draining["worker"]


# The end


def to_the_supervisor(served: Company) -> None:
    served.command.send(signal.SIGTERM)


def to_all_of_a_terminal(served: Company) -> None:
    for pid in (*served.pids, served.command.pid):
        os.kill(pid, signal.SIGINT)


def to_all_of_a_service(served: Company) -> None:
    for pid in (served.command.pid, *served.pids):
        os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize("end", [to_the_supervisor, to_all_of_a_terminal, to_all_of_a_service])
async def test_a_signal_lets_the_streams_of_all_finish(
    end: Callable[[Company], None], tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """Also one that they all get, besides hearing of it from their supervisor: that is no second one."""
    async with company(tmp_path, upstream) as served:
        streams, barrier = await streams_under_way(served, upstream)

        end(served)
        await served.command.logged(events.DRAINING, 1)
        with pytest.raises(ConnectionRefusedError):
            await connect(served.base_url)
        barrier.release()

        assert [HELLO + await stream.body() for stream in streams] == [STREAM, STREAM]
        assert (await served.command.end()).code == 0
        assert [line.get("worker") for line in served.command.log(events.STOPPED)][2:] == [None]
        assert not served.command.log(events.WORKER_DIED)
    assert len(keys_on_disk(tmp_path)) == 2


async def test_a_second_signal_ends_them_all_now(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """Streams are broken off, and the exit code is that of a program ended by the signal."""
    async with company(tmp_path, upstream, server__drain_timeout="1h") as served:
        streams, _ = await streams_under_way(served, upstream)

        served.command.send(signal.SIGTERM)
        await served.command.logged(events.DRAINING, 1)
        served.command.send(signal.SIGINT)

        for stream in streams:
            await stream.body_broken_off()
        assert (await served.command.end()).code == 130


async def test_a_third_signal_waits_for_nobody(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """A worker that hears nothing any more is killed."""
    async with company(tmp_path, upstream) as served:
        os.kill(served.pids[0], signal.SIGSTOP)
        served.command.send(signal.SIGTERM)
        await served.command.logged(events.STOPPED)
        for _ in range(2):
            served.command.send(signal.SIGTERM)
            served.command.send(signal.SIGINT)

        assert (await served.command.end()).code in (130, 143)


async def test_when_the_supervisor_is_killed_the_workers_end_too(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """In order: what is under way gets to its end, and nobody goes on serving whom nobody could stop."""
    async with company(tmp_path, upstream) as served:
        streams, barrier = await streams_under_way(served, upstream)

        served.command.send(signal.SIGKILL)
        await served.command.logged(events.DRAINING, 1)
        barrier.release()

        assert [HELLO + await stream.body() for stream in streams] == [STREAM, STREAM]
        # Its standard output comes to an end when nobody has it open any more.
        assert (await served.command.end()).code == -signal.SIGKILL
        assert len(served.command.log(events.STOPPED)) == 2
        with pytest.raises(ConnectionRefusedError):
            await connect(served.base_url)


# Settings


async def test_a_hangup_reads_the_settings_of_all_anew(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """What is wrong is said once, and changes nothing; and one that is started later has what the others have."""
    config = tmp_path / "config.yaml"
    config.write_text("server: {max_connections: 8}\ncache: {mode: replay}\n")
    upstream.will_send(plain(ANSWER))
    async with company(tmp_path, upstream) as served:
        config.write_text("cache: {mode: soon}\n")
        served.command.send(signal.SIGHUP)
        assert "cache.mode" in (await served.command.logged(events.RELOAD_FAILED))["reason"]

        config.write_text("server: {max_connections: 99}\ncache: {mode: passthrough}\n")
        served.command.send(signal.SIGHUP)
        await served.command.logged(events.RELOADED, 1)
        os.kill(served.pids[0], signal.SIGKILL)
        await served.command.logged(events.STARTED, 3)

        for connection in (await served.connection_to_each()).values():
            assert await word(connection) == "BYPASS"
        assert len(served.command.log(events.RELOAD_FAILED)) == 1
        assert sorted(line["worker"] for line in served.command.log(events.RELOADED)) == [1, 2]
        assert served.command.log(events.RELOADED)[0]["waiting_for_restart"] == ["server.max_connections"]


def test_what_stops_one_process_stops_several_with_the_same_words(tmp_path: Path) -> None:
    """On the user's mistake: exit code 2, one sentence, and nobody left behind."""
    (tmp_path / "file").write_text("")
    with port_in_use() as port:
        taken = reprise("--port", port, at=tmp_path, server__workers=2)
    no_directory = reprise("--port", 0, at=tmp_path, server__workers=2, cache__directory="file")

    assert taken.err.startswith(f"Error: can't listen on 127.0.0.1 port {port}: ")
    assert no_directory.err.startswith("Error: cache.directory ")
    assert [(ended.code, ended.out, ended.err.count("\n")) for ended in (taken, no_directory)] == [(2, "", 1)] * 2


def test_a_worker_that_can_not_start_ends_the_others(tmp_path: Path) -> None:
    """When none has served yet; here they all find out that they would ask themselves."""
    with port_in_use() as port:
        pass
    ended = reprise("--port", port, "--upstream", f"http://127.0.0.1:{port}/v1", at=tmp_path, server__workers=2)

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Error: upstream.base_url, ")


def test_one_that_dies_again_and_again_is_given_time() -> None:
    """However often; and the first of these deaths is followed almost at once."""
    assert [delay_s_after(deaths) for deaths in (0, 1, 2, 3, 7, 10_000)] == [0.0, 0.1, 0.2, 0.4, 5.0, 5.0]


def test_none_asked_for_is_one_a_core() -> None:
    """Of those that the process may run on; but no more than there may be connections."""
    cores = len(os.sched_getaffinity(0))

    assert workers_wanted(ServerSettings()) == 1
    assert workers_wanted(ServerSettings(workers=0)) == cores
    assert workers_wanted(ServerSettings(workers=64, max_connections=3)) == 3


@pytest.mark.parametrize(("bound", "shares"), [(0, [0, 0, 0]), (2, [1, 1, 1]), (3, [1, 1, 1]), (11, [4, 4, 3])])
def test_bounds_for_the_whole_proxy_are_shared_out(bound: int, shares: list[int]) -> None:
    """No bound stays none."""
    settings = Settings(server=ServerSettings(max_connections=bound), upstream=UpstreamSettings(max_connections=bound))

    shared = [share_of(settings, number, 3) for number in (1, 2, 3)]

    assert [share.server.max_connections for share in shared] == shares
    assert [share.upstream.max_connections for share in shared] == shares


# Who accepts


@asynccontextmanager
async def two_doors(*, second_accepts: bool = True) -> AsyncIterator[tuple[list[Door], list[Balance]]]:
    """Servers that accept from one socket."""
    (listener,) = listen_without_a_loop("127.0.0.1", 0)
    listeners, balances = [listener], Balance.among(2)
    if second_accepts:
        listeners.append(listener.dup())
    async with AsyncExitStack() as opened:
        doors = [
            await opened.enter_async_context(door(shared=Shared([each], balance)))
            for each, balance in zip(listeners, balances, strict=False)
        ]
        yield doors, balances


@on_both_loops
async def test_a_burst_is_shared_out() -> None:
    """The one that is awake does not take it all before the kernel has woken the other."""
    async with two_doors() as (doors, _), AsyncExitStack() as burst:
        for _ in range(32):
            burst.enter_context(socket.create_connection(doors[0].runner.addresses[0]))
        awake = doors[0].site._accepting
        assert awake is not None
        for _ in range(3):
            awake._accept(awake.sockets[0])
        assert len(awake._arriving) == 2

        await until(lambda: sum(len(each.clients.open) for each in doors) == 32)

        assert min(len(each.clients.open) for each in doors) >= 12


@on_both_loops
async def test_nobody_waits_for_one_that_does_not_accept() -> None:
    """It is said to have fewer connections, but takes none: all are served by the other one."""
    async with two_doors(second_accepts=False) as ((only,), balances):
        balances[1].note(0)
        connections = await asyncio.gather(*(only.connect(GET) for _ in range(20)))
        await asyncio.gather(*map(is_served, connections))

        assert len(only.clients.open) == 20
