"""An upstream whose every move a test makes itself: it sees a request before its end, and answers when it likes."""

import asyncio
import socket
from collections.abc import Callable
from typing import Self, cast

from aiohttp.web_protocol import RequestHandler

from tests.exchanges import until
from tests.harness import PATIENCE_S, Connection, Proxy, Received, ScriptedUpstream

_KERNEL_BUFFER_BYTES = 64 * 1024  # asked for; the kernel gives about twice as much
_HARDLY_ANY_BYTES = 2048
_QUIET_TURNS = 50


class Link(Connection):
    """The upstream's end of one connection from the proxy."""

    async def head(self) -> Received:
        """The head of the next request."""
        async with asyncio.timeout(PATIENCE_S):
            return Received(await self.reader.readuntil(b"\r\n\r\n"), b"")

    async def read(self, size: int) -> bytes:
        """So many bytes of what comes next."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readexactly(size)


class UpstreamByHand:
    """Accepts connections, and leaves the rest to the test."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self._accepted: asyncio.Queue[Link] = asyncio.Queue()
        self._server: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_KERNEL_BUFFER_BYTES)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for link in self.links:
            await link.close()

    async def accepted(self) -> Link:
        """The next connection that the proxy has made."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._accepted.get()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size_buffers(writer.transport)
        link = Link(reader, writer)
        self.links.append(link)
        await self._accepted.put(link)


def size_buffers(transport: asyncio.BaseTransport | None, size_bytes: int = _KERNEL_BUFFER_BYTES) -> None:
    """Let the kernel hold about so much of what the other end has not taken yet."""
    assert transport is not None
    sock = transport.get_extra_info("socket")
    for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, buffer, size_bytes)


async def connect_with_little_room(proxy: Proxy) -> Connection:
    """A connection that reads nothing, and whose kernel takes hardly anything on either side."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _HARDLY_ANY_BYTES)
    sock.settimeout(0)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", proxy.port))
    client = Connection(*await asyncio.open_connection(sock=sock, limit=2**26))
    stop_reading(client)
    await until(lambda: bool(served(proxy)))
    for connection in served(proxy):
        size_buffers(connection.transport, _HARDLY_ANY_BYTES)
    return client


def served(proxy: Proxy) -> list[RequestHandler]:
    """The proxy's ends of its clients' connections."""
    server = proxy.app._runner.server
    assert server is not None
    return server.connections


def asking_transports(proxy: Proxy) -> list[asyncio.Transport | None]:
    """The proxy's ends of the connections on which it asks the upstream now, whichever way."""
    upstream = proxy.app._upstream
    ours = upstream._pool._busy if upstream._pool is not None else ()
    assert upstream._session.connector is not None
    return [connection._transport for connection in ours] + [
        connection.transport for connection in upstream._session.connector._acquired
    ]


def stop_reading(connection: Connection) -> None:
    """Take nothing from now on but what the kernel takes."""
    cast("asyncio.Transport", connection.writer.transport).pause_reading()


def read_on(connection: Connection) -> None:
    cast("asyncio.Transport", connection.writer.transport).resume_reading()


async def quiet(figure: Callable[[], int]) -> int:
    """Wait until a figure changes no more: both ends are in this process, so then everyone waits for someone."""
    seen, turns = figure(), 0
    async with asyncio.timeout(PATIENCE_S):
        while turns < _QUIET_TURNS:
            await asyncio.sleep(0)
            turns = turns + 1 if figure() == seen else 0
            seen = figure()
    return seen


def host_of(upstream: ScriptedUpstream | UpstreamByHand) -> bytes:
    """What the proxy has to send as `Host`."""
    return upstream.base_url.removeprefix("http://").removesuffix("/v1").encode()
