"""The client's side of one connection: ask, note when each piece of the answer arrived, check every byte.

The rule: between two readings of the clock nothing is done that could wait.
"""

import asyncio
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from benchmarks import questions
from benchmarks.questions import FRAME_BYTES, Question

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_HEAD_END, _CHUNKS_END = b"\r\n\r\n", b"\r\n0\r\n\r\n"


class Wrong(Exception):
    """An answer that is not the one due, or none."""


class Answer:
    """What came for one question, piece by piece."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.asked_ns = 0
        self.pieces: list[bytes] = []
        self.arrived_ns: list[int] = []

    @property
    def time_ns(self) -> int:
        """From the question to the last byte."""
        return self.arrived_ns[-1] - self.asked_ns

    def check(self) -> None:
        """Compare with the answer that is due; one with stamps is checked by `frame_times`.

        Raises:
            Wrong: a byte differs.
        """
        number, frames, _ = self.question
        due = questions.stream_body(number, frames) if frames else questions.plain_body(number)
        self._expect(b"".join(body for _, body in self._parts()), due)

    def frame_times(self) -> list[tuple[int, int]]:
        """When each frame of a stream with stamps was sent and when it had arrived, all its bytes checked.

        Raises:
            Wrong: a byte differs, but for the stamps.
        """
        parts = self._parts()
        body = b"".join(piece for _, piece in parts)
        whole = range(min(self.question.frames, len(body) // FRAME_BYTES))
        frames = [body[index * FRAME_BYTES : (index + 1) * FRAME_BYTES] for index in whole]
        try:
            sent_ns = [questions.stamp_of(frame) for frame in frames]
        except ValueError:
            raise Wrong(f"question {self.question.number}: a frame without its stamp") from None
        due = b"".join(questions.frame(self.question.number, index, sent) for index, sent in enumerate(sent_ns))
        if len(frames) == self.question.frames:
            due += questions.end(self.question.number)
        self._expect(body, due)
        return list(zip(sent_ns, self._arrivals(parts, len(frames)), strict=True))

    def _expect(self, body: bytes, due: bytes) -> None:
        if body != due:
            number, frames, gap_us = self.question
            raise Wrong(
                f"question {number} ({frames} frames, {gap_us} µs apart): the bytes of its answer are not right"
            )

    def _arrivals(self, parts: Sequence[tuple[int, bytes]], frames: int) -> list[int]:
        """When the last byte of each frame had arrived; a proxy may cut and join them as it likes."""
        body_ends = list(accumulate(len(body) for _, body in parts))
        raw_ends = list(accumulate(map(len, self.pieces)))
        arrivals = []
        for last_byte in range(FRAME_BYTES - 1, frames * FRAME_BYTES, FRAME_BYTES):
            part = bisect_right(body_ends, last_byte)
            begins, body = parts[part]
            raw_at = begins + len(body) - (body_ends[part] - last_byte)
            arrivals.append(self.arrived_ns[bisect_right(raw_ends, raw_at)])
        return arrivals

    def _parts(self) -> list[tuple[int, bytes]]:
        """The pieces of the body as the framing has them, and where in the raw answer each begins."""
        raw = b"".join(self.pieces)
        head_end = raw.find(_HEAD_END)
        if not raw.startswith(b"HTTP/1.1 200 "):
            raise Wrong(f"question {self.question.number} was answered {raw[:400]!r}")
        if _LENGTH.search(raw, 0, head_end + 2):
            return [(head_end + 4, raw[head_end + 4 :])]
        return _chunks(raw, head_end + 4)


def _chunks(raw: bytes, at: int) -> list[tuple[int, bytes]]:
    """Chunks (RFC 9112 section 7.1), also of an answer that has not ended."""
    found = []
    while (line_end := raw.find(b"\r\n", at)) >= 0 and (size := int(raw[at:line_end], 16)):
        found.append((line_end + 2, raw[line_end + 2 : line_end + 2 + size]))
        at = line_end + 2 + size + 2
    return found


class Connection(asyncio.Protocol):
    """Asks one question at a time. `answered` is called at the end of each answer, `lost` when there will be none."""

    def __init__(
        self, answered: Callable[["Connection", Answer], None], lost: Callable[[Exception], None], port: int
    ) -> None:
        self._answered = answered
        self._lost = lost
        self._port = port
        self._answer: Answer | None = None
        self._missing: int | None = None
        self._tail = b""
        self._head_read = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP connection's is one
        self._transport = transport

    def connection_lost(self, fault: Exception | None) -> None:
        if self._answer is not None:
            self._lost(Wrong(f"the connection closed within the answer to question {self._answer.question.number}"))
        elif fault is not None:
            self._lost(fault)

    def ask(self, question: Question) -> Answer:
        request = question.request(self._port)
        self._answer, self._head_read = Answer(question), False
        self._answer.asked_ns = time.monotonic_ns()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self._answer = None
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        arrived_ns = time.monotonic_ns()
        answer = self._answer
        if answer is None:
            self._lost(Wrong(f"bytes after the end of an answer: {data[:100]!r}"))
            return
        answer.pieces.append(data)
        answer.arrived_ns.append(arrived_ns)
        if self._has_ended(answer, data):
            self._answer = None
            self._answered(self, answer)

    def _has_ended(self, answer: Answer, data: bytes) -> bool:
        if not self._head_read:
            return self._read_head(b"".join(answer.pieces))
        if self._missing is not None:
            self._missing -= len(data)
            return self._missing <= 0
        self._tail = (self._tail + data[-len(_CHUNKS_END) :])[-len(_CHUNKS_END) :]
        return self._tail == _CHUNKS_END

    def _read_head(self, raw: bytes) -> bool:
        head_end = raw.find(_HEAD_END)
        if head_end < 0:
            return False
        self._head_read = True
        if length := _LENGTH.search(raw, 0, head_end + 2):
            self._missing = head_end + 4 + int(length[1]) - len(raw)
            return self._missing <= 0
        self._missing, self._tail = None, raw[-len(_CHUNKS_END) :]
        return self._tail == _CHUNKS_END
