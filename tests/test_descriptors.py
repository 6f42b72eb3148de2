"""A proxy that has as many files and connections open as the system allows it, and one with very many of them.

The rule: want of descriptors costs the request that wants one, or time; nothing breaks by it, and it passes.
"""

import resource
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import orjson
import pytest

from proxy.accepting import ACCEPT_FAILED, ACCEPT_RECOVERED
from proxy.run import run
from tests.by_hand import quiet, served
from tests.commands import Running, connect, running
from tests.conftest import StartProxy
from tests.exchanges import until
from tests.harness import (
    CHAT,
    DONE,
    HELLO,
    LAST_CHUNK,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Connection,
    Response,
    ScriptedUpstream,
    chunk,
    request_bytes,
    sse_head,
    stream,
)
from tests.oracle import eventually, keys_on_disk

HEALTHZ = request_bytes("GET", "/healthz")
JSON = [("Content-Type", "application/json")]
OTHER, THIRD = {**STREAMED, "seed": 1}, {**STREAMED, "seed": 2}

REFUSED = 503

FEW = 20  # of which the threads of the store may take a dozen
MANY = 3000
BYTES_EACH = 50_000  # some 8 kB as a rule
SPARE = 200  # descriptors of the tests' own

linux = pytest.mark.skipif(
    not (hasattr(resource, "prlimit") and Path("/proc/self/fd").is_dir()),
    reason="only Linux limits another process, and shows what it has open",
)


class Started:
    """A proxy in a process of its own, and connections to it."""

    def __init__(self, command: Running, base_url: str) -> None:
        self.command = command
        self.base_url = base_url
        self._connections: list[Connection] = []

    @property
    def pid(self) -> int:
        return self.command._process.pid

    @property
    def descriptors(self) -> int:
        """How many it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    @property
    def memory_bytes(self) -> int:
        """What it has in memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    async def connect(self) -> Connection:
        connection = await connect(self.base_url)
        self._connections.append(connection)
        return connection

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()

    def allow_descriptors(self, count: int) -> None:
        """No file and no connection can be opened from now on that would be one more than that."""
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (count, hard))


@asynccontextmanager
async def started(at: Path, upstream: ScriptedUpstream, **settings: object) -> AsyncIterator[Started]:
    async with running(
        "--port", 0, at=at, upstream__base_url=upstream.base_url, cache__directory="store", **settings
    ) as command:
        proxy = Started(command, (await command.line()).removeprefix("export OPENAI_BASE_URL="))
        try:
            yield proxy
        finally:
            await proxy.close()


async def ask(connection: Connection, asked: Mapping[str, object] = STREAMED) -> Response:
    connection.send(request_bytes("POST", CHAT, JSON, orjson.dumps(asked)))
    return await connection.response()


async def is_healthy(connection: Connection) -> None:
    response = await connection.response()
    assert response.status == 200
    await response.body()


async def test_connections_beyond_the_setting_wait_to_be_accepted(start_proxy: StartProxy) -> None:
    """`server.max_connections`: the next one is served when one of them has ended."""
    proxy = await start_proxy(server__max_connections=1)
    first, second = await proxy.connect(), await proxy.connect()
    for connection in (first, second):
        connection.send(HEALTHZ)
    await is_healthy(first)
    await quiet(lambda: len(served(proxy)))
    first.send(HEALTHZ)
    await is_healthy(first)
    assert len(served(proxy)) == 1

    await first.close()

    await is_healthy(second)


@linux
@pytest.mark.parametrize("memory", ["64MiB", "0"])
async def test_without_descriptors_clients_wait_and_requests_go_on(
    memory: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """What is recorded is served and what is under way ends well; who wants a connection upstream is told."""
    barrier = Barrier()
    upstream.will_send(*stream())
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD) + chunk(DONE) + LAST_CHUNK)
    async with started(tmp_path, upstream, cache__memory_limit=memory) as proxy:
        connection, busy = await proxy.connect(), await proxy.connect()
        assert await (await ask(connection)).body() == STREAM
        hit = await ask(connection)
        assert (hit.get("x-cache-status"), await hit.body()) == ("HIT", STREAM)
        await eventually(lambda: bool(keys_on_disk(tmp_path)))
        under_way = await ask(busy, OTHER)
        assert await under_way.next_chunk() == HELLO

        proxy.allow_descriptors(0)
        waiting = [await proxy.connect() for _ in range(2 * FEW)]
        for client in waiting:
            client.send(HEALTHZ)
        failed = await proxy.command.logged(ACCEPT_FAILED)
        again = await ask(connection)
        await again.body()
        # From disk it may want a descriptor as well.
        assert again.get("x-cache-status") == "HIT" or (memory == "0" and again.status == REFUSED)
        refused = await ask(connection, THIRD)
        assert refused.status == REFUSED
        await refused.body()
        barrier.release()
        assert await under_way.body() == WORLD + DONE
        assert not proxy.command.log(ACCEPT_RECOVERED)

        proxy.allow_descriptors(proxy.descriptors + FEW)
        for client in waiting:
            await is_healthy(client)
            await client.close()
        recovered = await proxy.command.logged(ACCEPT_RECOVERED)
        upstream.will_send(*stream())
        for asked, word in ((STREAMED, "HIT"), (OTHER, "HIT"), (THIRD, "MISS"), (THIRD, "HIT")):
            response = await ask(connection, asked)
            assert (response.get("x-cache-status"), await response.body()) == (word, STREAM)
        log = [line["event"] for line in map(orjson.loads, proxy.command._err)]
    assert (failed["error"], failed["level"], recovered["level"]) == ("EMFILE", "error", "warning")
    assert (log.count(ACCEPT_FAILED), log.count(ACCEPT_RECOVERED)) == (1, 1)
    assert "request_crashed" not in log


async def soft_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_all_descriptors_that_the_system_gives_are_taken() -> None:
    """A shell gives out fewer than may be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        taken = run(soft_limit())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert taken == hard or (sys.platform == "darwin" and taken > 256)


@contextmanager
def room_for(count: int) -> Iterator[int]:
    """Allow this process so many descriptors more, or as many as it may have; what it can have of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    limit = max(soft, most) if soft != resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield most - SPARE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@linux
async def test_thousands_of_idle_clients_cost_little_and_leave_nothing(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The next one is served at once, and when they have gone their descriptors are free again."""
    with room_for(MANY) as count, ExitStack() as idle:
        async with started(tmp_path, upstream) as proxy:
            await is_served_once(proxy)
            descriptors, memory = proxy.descriptors, proxy.memory_bytes
            port = int(proxy.base_url.rpartition(":")[2].removesuffix("/v1"))

            for number in range(count):
                sock = idle.enter_context(socket.create_connection(("127.0.0.1", port)))
                sock.sendall(HEALTHZ)
                if number % 200 == 0:  # or the kernel's queue would overflow
                    sock.recv(4096)
            await is_served_once(proxy)
            each = (proxy.memory_bytes - memory) / count
            assert proxy.descriptors > count
            idle.close()

            await until(lambda: proxy.descriptors <= descriptors)
            await is_served_once(proxy)
    assert each < BYTES_EACH


async def is_served_once(proxy: Started) -> None:
    connection = await proxy.connect()
    connection.send(HEALTHZ)
    await is_healthy(connection)
    await connection.close()
