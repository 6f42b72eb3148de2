"""The lines of the log that requests get when they have ended: those that end in one turn of the event loop together.

One after the other they take half of what each takes in the midst of everything else, when the processor has to fetch
the code for it anew.

The rule: in their order, and before the next turn.
"""

import asyncio

from proxy.events import RequestLine
from proxy.recording import Head


class Ledger:
    """Lines that are still to be written."""

    def __init__(self) -> None:
        self._waiting: list[tuple[RequestLine, Head | None]] = []

    def enter(self, line: RequestLine, head: Head | None) -> None:
        """Write a line soon, with what the upstream's head says of the request."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._write)
        self._waiting.append((line, head))

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        for line, head in waiting:
            if head is not None:
                line.read_head(head)
            line.write()
