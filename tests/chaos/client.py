"""A client on a raw socket: it sends one errand and reads the answer as strictly as HTTP allows.

The rule: an answer has a clean end only if its framing says so (RFC 9112 section 8); whoever is lenient sees no fault.
"""

import asyncio
import re
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from tests.chaos.errands import Errand

_RESET = struct.pack("ii", 1, 0)
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [^\r\n]*\r\n")
_FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([^\r\n]*)\r\n")
_CHUNK_LINE = re.compile(rb"([0-9a-f]{1,8})\r\n")
_AT_ONCE_BYTES = 256 * 1024
_SLOW_BYTES, _SLOW_REST_S = 16 * 1024, 0.01
_STALL_S = 3.0  # longer than the proxy's write_timeout
# No answer takes that long, unless something hangs; a refusal takes no longer than the proxy's read_timeout.
_PATIENCE_S, _PATIENCE_WITH_REFUSALS_S = 25.0, 6.0


class Unframed(Exception):
    """What came is not HTTP."""


@dataclass(slots=True)
class Got:
    """What a client got."""

    end: Literal["clean", "cut", "left", "late", "unframed"] = "cut"
    status: int | None = None
    fields: list[tuple[str, str]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    why: str = ""
    sent_whole: bool = False
    """Whether the whole request had been handed to the kernel."""

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def get(self, name: str) -> str | None:
        return next((value for known, value in self.fields if known.lower() == name), None)


class Connection:
    """One connection to the proxy, as fast or slow as its client reads."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool, generation: int
    ) -> None:
        self.generation = generation
        """Of the process at its other end."""
        self._reader = reader
        self._writer = writer
        self._slow = slow
        self._buffer = bytearray()

    @classmethod
    async def open(cls, port: int, *, slow: bool, generation: int) -> "Connection":
        sock = socket.socket()
        sock.settimeout(0)
        if slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BYTES)
        limit = _SLOW_BYTES if slow else _AT_ONCE_BYTES
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
        except BaseException:
            sock.close()
            raise
        return cls(reader, writer, slow=slow, generation=generation)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has come that nobody asked for, and the other end is still there."""
        # What the transport holds is seen only by reading it, and reading waits where there is nothing.
        waiting = bool(self._reader._buffer)  # type: ignore[attr-defined]
        return not self._buffer and not waiting and not self._reader.at_eof()

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def line(self) -> bytes:
        """The next line, its end included."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _AT_ONCE_BYTES:
                raise Unframed("a line without an end")
            await self._fill()
        return self._take(end + 1)

    async def some(self, most: int) -> bytes:
        """At least one byte."""
        if not self._buffer:
            await self._fill()
        return self._take(min(most, len(self._buffer)))

    async def rest(self, pieces: list[bytes]) -> None:
        """All that comes until the other end closes."""
        with suppress(asyncio.IncompleteReadError):
            while True:
                pieces.append(await self.some(_AT_ONCE_BYTES))

    async def close(self, *, by_reset: bool) -> None:
        if by_reset:
            sock = self._writer.get_extra_info("socket")
            if sock is not None:
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._writer.transport.abort()
        else:
            self._writer.close()
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(1):
                await self._writer.wait_closed()

    async def _fill(self) -> None:
        if self._slow:
            await asyncio.sleep(_SLOW_REST_S)
        data = await self._reader.read(_SLOW_BYTES if self._slow else _AT_ONCE_BYTES)
        if not data:
            raise asyncio.IncompleteReadError(b"", None)
        self._buffer += data

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


async def perform(errand: Errand, connection: Connection) -> Got:
    """Send a request, and read its answer in the manner of this errand."""
    got = Got()
    leaves = errand.manner == "leave"
    patience_s = _PATIENCE_S if errand.refusal is None else _PATIENCE_WITH_REFUSALS_S
    try:
        async with asyncio.timeout(errand.leaves_after_s if leaves else patience_s):
            await _exchange(errand, connection, got)
    except TimeoutError:
        got.end = "left" if leaves else "late"
    except (asyncio.IncompleteReadError, ConnectionError) as cut:
        got.end, got.why = "cut", type(cut).__name__
    except Unframed as fault:
        got.end, got.why = "unframed", str(fault)
    return got


async def _exchange(errand: Errand, connection: Connection, got: Got) -> None:
    try:
        await connection.send(errand.raw)
        got.sent_whole = True
    except ConnectionError:
        # It may have been answered before all of it was sent.
        got.why = "the request could not be sent"
    while True:
        await _read_head(connection, got)
        assert got.status is not None
        if got.status >= 200:
            break
    if errand.manner == "stall":
        await asyncio.sleep(_STALL_S)
    await _read_body(errand, connection, got)
    got.end = "clean"


async def _read_head(connection: Connection, got: Got) -> None:
    line = await connection.line()
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        raise Unframed(f"no status line: {line[:200]!r}")
    fields = []
    while (line := await connection.line()) != b"\r\n":
        read = _FIELD_LINE.fullmatch(line)
        if read is None:
            raise Unframed(f"no field: {line[:200]!r}")
        fields.append((read[1].decode("latin-1"), read[2].decode("latin-1")))
    got.status, got.fields = int(found[1]), fields


async def _read_body(errand: Errand, connection: Connection, got: Got) -> None:
    length, coding = got.get("content-length"), got.get("transfer-encoding")
    if length is not None and coding is not None:
        raise Unframed("a length and a transfer coding")
    if errand.method == "HEAD" or got.status in (204, 304):
        return
    if coding is not None:
        if coding != "chunked" or errand.http_1_0:
            raise Unframed(f"a transfer coding {coding}")
        await _read_chunks(connection, got.pieces)
    elif length is not None:
        await _read_exactly(connection, int(length), got.pieces)
    elif errand.http_1_0 or got.get("connection") == "close":
        await connection.rest(got.pieces)
    else:
        raise Unframed("a body without an end")


async def _read_chunks(connection: Connection, pieces: list[bytes]) -> None:
    while True:
        line = await connection.line()
        found = _CHUNK_LINE.fullmatch(line)
        if found is None:
            raise Unframed(f"no size of a chunk: {line[:200]!r}")
        size = int(found[1], 16)
        await _read_exactly(connection, size, pieces)
        if await connection.line() != b"\r\n":
            raise Unframed("a chunk that does not end where it should")
        if not size:
            return


async def _read_exactly(connection: Connection, size: int, pieces: list[bytes]) -> None:
    while size:
        piece = await connection.some(size)
        pieces.append(piece)
        size -= len(piece)
