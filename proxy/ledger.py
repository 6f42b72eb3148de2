"""The lines of the log that requests get when they have ended: those that end in one turn of the event loop together.

One after the other they take half of what each takes in the midst of everything else, when the processor has to fetch
the code for it anew.

The rule: in their order, and before the next turn.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from proxy.events import RequestLine
from proxy.recording import Head


class Ledger:
    """Lines that are still to be written."""

    def __init__(self, watch: Callable[[RequestLine], None] | None = None) -> None:
        """`watch` is shown each line that has been written."""
        self._watch = watch
        self._waiting: deque[tuple[RequestLine, Head | None]] = deque()

    def enter(self, line: RequestLine, head: Head | None) -> None:
        """Write a line soon, with what the upstream's head says of the request."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._write)
        self._waiting.append((line, head))

    def _write(self) -> None:
        try:
            while self._waiting:
                line, head = self._waiting.popleft()
                if head is not None:
                    line.read_head(head)
                line.write()
                if self._watch is not None:
                    self._watch(line)
        finally:
            if self._waiting:  # one that can't be written takes no other with it
                asyncio.get_running_loop().call_soon(self._write)
