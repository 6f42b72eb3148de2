"""Work that nobody waits for: done a piece at a time, so that streams have their turn in between.

The rule: one piece in each turn of the event loop, in the order in which they came.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """Pieces of work that wait."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_called = False

    def add(self, work: Callable[[], None]) -> None:
        """Do it soon; it may not fail."""
        self._waiting.append(work)
        if not self._is_called:
            self._is_called = True
            asyncio.get_running_loop().call_soon(self._do_one)

    def _do_one(self) -> None:
        work = self._waiting.popleft()
        self._is_called = bool(self._waiting)
        if self._is_called:
            asyncio.get_running_loop().call_soon(self._do_one)
        work()
