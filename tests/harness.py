"""What the tests talk with: a scripted upstream and a client, both on raw sockets, and the proxy on a real runner.

Nothing here is a stand-in for code of ours: the border is the bytes on a socket.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import orjson

from proxy.app import App
from proxy.config import Settings, load
from tests.settings import NO_FILE

NOWHERE = "http://127.0.0.1:9/v1"
"""An upstream that can't be reached: at the discard port nobody listens."""

KEPT_SETTINGS = ("REPRISE_UPSTREAM__FAST_CONNECTION", "REPRISE_SERVER__FAST_LANE")
"""Of the environment that the tests are run in: what is set to `false` there takes the other, longer way."""

PATIENCE_S = 10.0
"""How long a test waits for what must happen; a broken proxy fails here, and nothing is measured by it."""


@dataclass
class Received:
    """One request as the upstream got it, byte for byte."""

    head: bytes
    body: bytes

    @property
    def request_line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode()

    def header(self, name: str) -> list[str]:
        """All values of a field, in order."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.split(":", 1) for line in lines if ":" in line)
        return [value.strip() for key, value in pairs if key.lower() == name.lower()]


class Barrier:
    """A place at which the upstream waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._released = asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self._released.wait()

    def release(self) -> None:
        self._released.set()


class _Ending:
    """How the upstream leaves a connection, other than by keeping it."""


CLOSE = _Ending()
"""Close it cleanly (FIN)."""
RESET = _Ending()
"""Reset it (RST)."""

Part = bytes | Barrier | _Ending


async def end_serving(server: asyncio.Server | None, tasks: Collection[asyncio.Task[None]]) -> None:
    """Accept nobody any more, and cut off those that `tasks` serve."""
    assert server is not None
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class ScriptedUpstream:
    """Sends exactly the bytes that a test wrote down, each part in a write of its own."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.connections = 0
        """Open ones."""
        self.connections_seen = 0
        self._scripts: list[Sequence[Part]] = []
        self._repeats = False
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def requests_seen(self) -> int:
        return len(self.received)

    @property
    def base_url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26)
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_serving(self._server, self._tasks)

    def will_send(self, *parts: Part) -> None:
        """The answer to the next request that has none yet; the last one given answers all further requests."""
        if self._repeats:  # the one that is left has been the answer to a request already
            self._scripts.clear()
            self._repeats = False
        self._scripts.append(parts)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a fact about requests or connections has come true."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(condition)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        await self._count(+1)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._answer(reader, writer):
                    pass
        finally:
            self._tasks.discard(task)
            writer.close()
            await self._count(-1)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        received = Received(head, b"")
        received.body = await _read_body(reader, received)
        async with self._changed:
            self.received.append(received)
            self._changed.notify_all()
        self._repeats = len(self._scripts) == 1
        script = self._scripts[0] if self._repeats else self._scripts.pop(0)
        gone = asyncio.ensure_future(reader.read(1))
        try:
            return await self._play(script, writer, gone)
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)

    async def _play(self, script: Sequence[Part], writer: asyncio.StreamWriter, gone: asyncio.Future[bytes]) -> bool:
        for part in script:
            if isinstance(part, bytes):
                writer.write(part)
                await writer.drain()
            elif isinstance(part, Barrier):
                waiting = asyncio.ensure_future(part.wait())
                await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    waiting.cancel()
                    return False
            elif part is RESET:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return False
            else:
                return False
        return True

    async def _count(self, change: int) -> None:
        self.connections += change
        self.connections_seen += max(change, 0)
        async with self._changed:
            self._changed.notify_all()


async def _read_body(reader: asyncio.StreamReader, received: Received) -> bytes:
    if received.header("transfer-encoding"):
        return b"".join([piece async for piece in read_chunks(reader)])
    length = received.header("content-length")
    return await reader.readexactly(int(length[0])) if length else b""


async def read_chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The chunks of a chunked body, without trailers (RFC 9112 section 7.1)."""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        yield await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readexactly(2) == b"\r\n"


# Answers, spelled out


def plain(body: bytes, *headers: bytes, status: bytes = b"200 OK", content_type: bytes = b"application/json") -> bytes:
    """A whole answer of known length."""
    lines = [b"HTTP/1.1 " + status, b"Content-Type: " + content_type, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def sse_head(*headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: text/event-stream; charset=utf-8", b"Transfer-Encoding: chunked"]
    return b"\r\n".join([*lines, *headers]) + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def event(text: str, finish_reason: str | None = None) -> bytes:
    """One event of a chat stream."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return b"data: " + orjson.dumps({"object": "chat.completion.chunk", "choices": [choice]}) + b"\n\n"


HELLO, WORLD = event("Hello"), event(" world", "stop")
DONE = b"data: [DONE]\n\n"
STREAM = HELLO + WORLD + DONE
ANSWER = b'{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"}}]}'


def stream(*frames: bytes) -> tuple[bytes, ...]:
    """A whole streamed answer, a chunk and a write each frame, the end with the last of them."""
    frames = frames or (HELLO, WORLD, DONE)
    return (sse_head(), *map(chunk, frames[:-1]), chunk(frames[-1]) + LAST_CHUNK)


# The client


@dataclass
class Response:
    """An answer as the client's socket got it."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter
    method: str = "GET"
    chunks: list[bytes] = field(default_factory=list)
    """Pieces of the body as the chunked coding delimited them; one piece where it has none."""

    def get(self, name: str) -> str | None:
        found = self.get_all(name)
        return found[0] if found else None

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    async def next_chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end.

        Raises:
            asyncio.IncompleteReadError: the connection ended without the last chunk.
        """
        async with asyncio.timeout(PATIENCE_S):
            size = int((await self._reader.readuntil(b"\r\n")).strip(), 16)
            data = await self._reader.readexactly(size)
            assert await self._reader.readexactly(2) == b"\r\n"
        if data:
            self.chunks.append(data)
        return data

    async def body(self) -> bytes:
        """The rest of the body, to its clean end.

        Raises:
            asyncio.IncompleteReadError: it has none.
            ConnectionError: the connection was reset.
        """
        if self.get("transfer-encoding"):
            start = len(self.chunks)
            while await self.next_chunk():
                pass
            return b"".join(self.chunks[start:])
        length = self.get("content-length")
        async with asyncio.timeout(PATIENCE_S):
            if self.method == "HEAD" or self.status in (204, 304):
                return b""
            data = await (self._reader.readexactly(int(length)) if length else self._reader.read())
        self.chunks.append(data)
        return data

    async def body_broken_off(self) -> bytes:
        """What arrives of a body that must not come to a clean end.

        Raises:
            AssertionError: it does.
        """
        with contextlib.suppress(ConnectionError):
            try:
                await self.body()
            except asyncio.IncompleteReadError as cut:
                return b"".join(self.chunks) + (b"" if self.get("transfer-encoding") else cut.partial)
            raise AssertionError("a clean end")
        return b"".join(self.chunks)

    async def json(self) -> dict[str, object]:
        parsed: dict[str, object] = orjson.loads(await self.body())
        return parsed

    async def leave(self) -> None:
        """Close the connection in the middle of whatever goes on."""
        self._writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class Connection:
    """One connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self, method: str = "GET") -> Response:
        """The head of the next answer."""
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head[:-4].split("\r\n")
        _, status, reason = status_line.split(" ", 2)
        pairs = (line.split(": ", 1) for line in lines)
        return Response(int(status), reason, [(k, v) for k, v in pairs], self.reader, self.writer, method)

    async def rest(self) -> bytes:
        """Everything until the connection is closed."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


PROMPT: Mapping[str, object] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}]}
STREAMED = {**PROMPT, "stream": True}
CHAT = "/v1/chat/completions"


def request_bytes(
    method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None, version: str = "1.1"
) -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: proxy.test", *(f"{name}: {value}" for name, value in headers)]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


class Proxy:
    """The proxy under test, and connections to it."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._connections: list[Connection] = []

    @property
    def base_url(self) -> str:
        return self.app.base_url

    @property
    def port(self) -> int:
        return int(self.base_url.rpartition(":")[2].removesuffix("/v1"))

    async def connect(self) -> Connection:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port, limit=2**26))
        self._connections.append(connection)
        return connection

    async def ask(
        self,
        asked: Mapping[str, object] | bytes = PROMPT,
        target: str = CHAT,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """POST on a connection of its own; answers when the head has come."""
        body = asked if isinstance(asked, bytes) else orjson.dumps(asked)
        fields = {"Content-Type": "application/json", "Authorization": "Bearer sk-CANARY", **(headers or {})}
        return await self.send("POST", target, fields.items(), body)

    async def send(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
        version: str = "1.1",
    ) -> Response:
        """Any request, on a connection of its own."""
        connection = await self.connect()
        connection.send(request_bytes(method, target, headers, body, version))
        return await connection.response(method)

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()


def settings(upstream_url: str, directory: Path, **overrides: object) -> Settings:
    """Settings for a test: `cache__ttl=5` stands for `cache.ttl`."""
    dotted = {name.replace("__", "."): value for name, value in overrides.items()}
    base = {"upstream.base_url": upstream_url, "server.port": 0, "cache.directory": str(directory)}
    return load(NO_FILE, {**base, **dotted}, {name: os.environ[name] for name in KEPT_SETTINGS if name in os.environ})
