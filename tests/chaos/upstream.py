"""The upstream of a soak: it answers as it is dealt, and now and then it can't be reached.

The rule: what it did stands in the ledger before the proxy can know of it.
"""

import asyncio
import itertools
import socket
import struct
import time
from contextlib import suppress
from hashlib import sha256
from typing import Self

from tests.chaos import answers, kinds
from tests.chaos.answers import Answer, Leave, Part
from tests.chaos.kinds import GOOD
from tests.chaos.ledger import Ledger, Sent
from tests.chaos.notes import FIELD, Note
from tests.harness import Received, end_serving, read_chunks

_RESET = struct.pack("ii", 1, 0)
_SHORT_S = 0.002
_LONGEST_SILENCE_S = 30.0


class ChaosUpstream:
    """Answers requests with seeded answers, one connection each a task of its own."""

    def __init__(self, seed: int, ledger: Ledger) -> None:
        self.active = 0
        """Requests that are being answered."""
        self.refused = 0
        """Connections that were reset as they were accepted."""
        self.resets_connections = False
        self._seed = seed
        self._ledger = ledger
        self._decks = kinds.decks(seed)
        self._serials = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_serving(self._server, self._tasks)

    async def go_away(self, seconds: float) -> None:
        """Refuse new connections for a while, as a server that is restarted."""
        assert self._server is not None
        self._server.close()
        try:
            await asyncio.sleep(seconds)
        finally:
            await self._listen()

    async def reset_new_connections(self, seconds: float) -> None:
        """Accept connections for a while, and reset them at once."""
        self.resets_connections = True
        try:
            await asyncio.sleep(seconds)
        finally:
            self.resets_connections = False

    def close_idle(self) -> None:
        """Close the connections on which nothing is asked, as servers do after a while."""
        for writer in list(self._connections):
            writer.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, backlog=512)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.resets_connections:
            self.refused += 1
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._serve_all(reader, writer)
        finally:
            self._tasks.discard(task)
            self._connections.discard(writer)
            writer.close()

    async def _serve_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            self._connections.add(writer)
            head = await reader.readuntil(b"\r\n\r\n")
            self._connections.discard(writer)
            self.active += 1
            try:
                received = Received(head, b"")
                received.body = await _body(reader, received)
                if not await self._answer(received, reader, writer):
                    return
            finally:
                self.active -= 1

    async def _answer(self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        note = self._read_note(received)
        if note is None:
            return False
        method = received.request_line.split(" ")[0]
        bodiless = method in ("HEAD", "OPTIONS")
        kind = GOOD if bodiless else self._decks[note.identity.family].deal()
        serial = next(self._serials)
        answer = answers.make(self._seed, serial, kind, note, self._ledger.limit_bytes)
        if bodiless:
            answer = _head_only(answer, method)
        sent = self._ledger.enter(serial, note, kind, answer, time.monotonic())
        return await self._play(answer.script, sent, reader, writer)

    def _read_note(self, received: Received) -> Note | None:
        fields = received.header(FIELD)
        if len(fields) != 1:
            self._ledger.faults.append(f"a request without its note arrived: {received.head[:300]!r}")
            return None
        note = Note.read(fields[0])
        if sha256(received.body).hexdigest() != note.digest:
            self._ledger.faults.append(f"the body of request {note.trace} arrived altered, or cut and looking whole")
        if "X-Reprise" in received.head.decode("latin-1").title():
            self._ledger.faults.append(f"a control header of request {note.trace} went upstream")
        return note

    async def _play(
        self, script: tuple[Part, ...], sent: Sent, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        voice = _Voice(sent, reader, writer, last=max(_last_write(script), 0))
        for number, part in enumerate(script):
            if isinstance(part, bytes):
                await voice.say(part, number)
            elif isinstance(part, float):
                await voice.pause(part)
            elif part is Leave.RESET:
                _reset(writer)
                return False
            elif part is Leave.SILENTLY:
                await voice.pause(_LONGEST_SILENCE_S)
                return False
            else:
                return False
            if voice.nobody_listens:
                return False
        return True


class _Voice:
    """The upstream's end of a connection while it answers."""

    def __init__(self, sent: Sent, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, last: int) -> None:
        self.nobody_listens = False
        self._sent = sent
        self._reader = reader
        self._writer = writer
        self._last = last
        self._spoke_s = sent.arrived_s

    async def say(self, data: bytes, number: int) -> None:
        self._be_quiet_until(time.monotonic())
        if number == self._last:
            self._sent.finished_s = time.monotonic()
        self._writer.write(data)
        await self._writer.drain()
        self._spoke_s = time.monotonic()
        self.nobody_listens = self._reader.at_eof()

    async def pause(self, seconds: float) -> None:
        """Say nothing for so long, or until the proxy goes."""
        if seconds < _SHORT_S:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._reader.read(1)
                self.nobody_listens = True
        except TimeoutError:
            return
        finally:
            self._be_quiet_until(time.monotonic())

    def _be_quiet_until(self, now_s: float) -> None:
        self._sent.quiet_s = max(self._sent.quiet_s, now_s - self._spoke_s)


def _last_write(script: tuple[Part, ...]) -> int:
    return max((number for number, part in enumerate(script) if isinstance(part, bytes)), default=-1)


def _head_only(answer: Answer, method: str) -> Answer:
    length = len(answer.body) if method == "HEAD" else 0
    lines = [b"HTTP/1.1 200 OK", *(f"{name}: {value}".encode() for name, value in answer.fields)]
    head = b"\r\n".join([*lines, b"Content-Length: %d" % length]) + b"\r\n\r\n"
    return Answer(answer.kind, answer.fields, b"", (head,))


async def _body(reader: asyncio.StreamReader, received: Received) -> bytes:
    if received.header("transfer-encoding"):
        return b"".join([piece async for piece in read_chunks(reader)])
    length = received.header("content-length")
    return await reader.readexactly(int(length[0])) if length else b""


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):  # it has been closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
