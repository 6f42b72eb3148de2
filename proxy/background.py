"""A text stream that a thread of its own writes: whoever reads the log slowly, or not at all, holds up no request.

The rule: nothing waits for the reader. Lines are lost only where too many wait for it, and then it is told how many.
"""

import threading
from collections import deque
from types import TracebackType
from typing import Self, TextIO

_MOST_WAITING = 10_000  # texts, about 10 MB of log lines; at that point nobody has been reading for a while
_LAST_WORDS_S = 1.0


class BackgroundStream:
    """Takes text at once, and writes it to a stream soon."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: deque[str] = deque()
        self._lost = 0
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
            self._news.set()
        else:
            self._lost += 1
        return len(text)

    def flush(self) -> None:
        """Nothing: the thread does."""

    def _write_all(self) -> None:
        while not self._closing or self._waiting:
            self._news.wait()
            self._news.clear()
            self._write_waiting()

    def _write_waiting(self) -> None:
        texts = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if self._lost:
            lost, self._lost = self._lost, 0
            texts.append(f'{{"event":"log_lines_lost","level":"warning","lines":{lost}}}\n')
        try:
            self._stream.write("".join(texts))
            self._stream.flush()
        except (OSError, ValueError):  # a full disk, a closed pipe: serving goes on
            return
