"""A text stream that a thread of its own writes: whoever reads the log slowly, or not at all, holds up no request.

The rule: nothing waits for the reader. Lines are lost only where too many wait for it, and then it is told how many.
"""

import os
import select
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TextIO

_MOST_WAITING = 10_000  # texts, about 10 MB of log lines; at that point nobody has been reading for a while
_LAST_WORDS_S = 1.0

# Each time the thread wakes up it holds up the event loop, and nobody who reads a log sees so short a delay.
_GATHERING_S = 0.05


class BackgroundStream:
    """Takes text at once, and writes it to a stream soon. Each text is a line, or some."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: deque[str] = deque()
        self._lost = 0
        self._told_lost = 0
        self._news = threading.Event()
        self._closing = False
        # A daemon, since a reader that never reads would hold up the end of the program too.
        self._thread = threading.Thread(target=self._write_all, name="log-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what waits, but no longer than a second."""
        self._closing = True
        self._news.set()
        self._thread.join(_LAST_WORDS_S)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def write(self, text: str) -> int:
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(text)
            if not self._news.is_set():
                self._news.set()
        else:
            self._lost += 1
        return len(text)

    def flush(self) -> None:
        """Nothing: the thread does."""

    def _write_all(self) -> None:
        while not self._closing or self._waiting:
            self._news.wait()
            if not self._closing:
                time.sleep(_GATHERING_S)
            # Before anything is taken: a text that comes later than this makes news again.
            self._news.clear()
            self._write_waiting()

    def _write_waiting(self) -> None:
        texts = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if (lost := self._lost - self._told_lost) > 0:
            self._told_lost += lost
            texts.append(f'{{"event":"log_lines_lost","level":"warning","lines":{lost}}}\n')
        encoding, errors = self._stream.encoding, self._stream.errors or "strict"
        try:
            descriptor = self._stream.fileno()
            for group in _groups([text.encode(encoding, errors) for text in texts], _most_bytes(descriptor)):
                _write(descriptor, group)
        except (OSError, ValueError):  # a full disk, a closed pipe: serving goes on
            return


def _most_bytes(descriptor: int) -> int:
    """How much may be written at once, so that no other process that writes there gets in between.

    Only so much goes into a pipe as a whole (pipe(7)); where a file ends is looked up and moved on in one step.
    """
    return sys.maxsize if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF


def _groups(texts: Iterable[bytes], most_bytes: int) -> Iterator[bytes]:
    """Texts put together, up to a size; one that is longer goes by itself."""
    group: list[bytes] = []
    size_bytes = 0
    for text in texts:
        if group and size_bytes + len(text) > most_bytes:
            yield b"".join(group)
            group, size_bytes = [], 0
        group.append(text)
        size_bytes += len(text)
    yield b"".join(group)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # whoever shares the stream with us may have made it so
            select.select((), (descriptor,), ())
