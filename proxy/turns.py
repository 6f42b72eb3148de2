"""Work that nobody waits for: done a piece at a time, so that streams have their turn in between.

What is short is done together with all of its kind that has come in one turn of the event loop: a processor that has
just done the same takes half as long.

The rule: one long piece in each turn, all short ones in the next, in the order in which they came.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """Pieces of work that wait."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_called = False
        self._short: list[Callable[[], None]] = []

    def add(self, work: Callable[[], None]) -> None:
        """Do it soon; it may not fail."""
        self._waiting.append(work)
        if not self._is_called:
            self._is_called = True
            asyncio.get_running_loop().call_soon(self._do_one)

    def add_short(self, work: Callable[[], None]) -> None:
        """Do it in the next turn; it may not fail."""
        self._short.append(work)
        if len(self._short) == 1:
            asyncio.get_running_loop().call_soon(self._do_all_short)

    def _do_one(self) -> None:
        work = self._waiting.popleft()
        self._is_called = bool(self._waiting)
        if self._is_called:
            asyncio.get_running_loop().call_soon(self._do_one)
        work()

    def _do_all_short(self) -> None:
        short, self._short = self._short, []
        for work in short:
            work()
