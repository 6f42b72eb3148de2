"""The upstream of the benchmark, a program of its own: `python -m benchmarks.upstream` prints its port.

The rule: it writes prepared bytes and does as little else as it can, so that it is never what is measured.
"""

import asyncio
import re
import time

from benchmarks import precise, questions
from benchmarks.questions import Question

_HOST = "127.0.0.1"
_BACKLOG = 1024  # the load generator's connections come all at once
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_GOLDEN = 0.6180339887  # its multiples lie evenly in the unit interval, however many there are


class _Counts:
    """What all connections share."""

    def __init__(self) -> None:
        self.answered = 0
        self.paced = 0


class _PacedStream:
    """A stream under way: a frame each gap, stamped when it is written; the first with the head."""

    def __init__(self, transport: asyncio.WriteTransport, question: Question, phase: float) -> None:
        """`phase`, from 0 to 1, is where in the gap its frames lie, lest those of all streams come in bursts."""
        self._transport = transport
        self._question = question
        self._loop = asyncio.get_running_loop()
        self._index = 0
        self._due_s = self._loop.time() + (phase - 1) * question.gap_us / 1e6
        self._timer: asyncio.TimerHandle | None = None
        self._send(questions.stream_head(question.number))

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _send(self, head: bytes = b"") -> None:
        number, frames, gap_us = self._question
        data = head + questions.chunk(questions.frame(number, self._index, time.monotonic_ns()))
        self._index += 1
        if self._index == frames:
            self._transport.write(data + questions.chunk(questions.end(number)) + questions.LAST_CHUNK)
            return
        self._transport.write(data)
        self._due_s += gap_us / 1e6
        self._timer = self._loop.call_at(self._due_s, self._send)


class _Connection(asyncio.Protocol):
    def __init__(self, counts: _Counts) -> None:
        self._counts = counts
        self._received = b""
        self._stream: _PacedStream | None = None
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - a TCP server's is one
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        if self._stream is not None:
            self._stream.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = _LENGTH.search(self._received, 0, head_end + 2)
        request_end = head_end + 4 + (int(length[1]) if length else 0)
        if len(self._received) >= request_end:
            request, self._received = self._received[:request_end], self._received[request_end:]
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        if request.startswith(b"GET "):
            body = b"%d" % self._counts.answered
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            return
        question = Question.read(request)
        self._counts.answered += 1
        if question.gap_us:
            self._counts.paced += 1
            self._stream = _PacedStream(self._transport, question, self._counts.paced * _GOLDEN % 1)
        elif question.frames:
            self._transport.write(questions.stream_answer(question.number, question.frames))
        else:
            self._transport.write(questions.plain_answer(question.number))


async def _serve() -> None:
    counts = _Counts()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(counts), _HOST, 0, backlog=_BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    precise.run(_serve())
