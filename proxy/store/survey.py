"""Inquiries about all that is recorded, answered one at a time by a process that is there for nothing else.

The rule: it may be late, and it may be told that there is nothing; it never costs an answer.
"""

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from proxy.inquiry import Inquiry
from proxy.store.health import Health
from proxy.store.reading import Layer
from proxy.store.surveyor import Surveyor

_MOST_WAITING = 8  # each for some tenths of a second, with the body of its request in memory
_IDLE_S = 60.0


class Survey:
    """Who answers inquiries, one after the other."""

    def __init__(self, directory: Path, health: Health, beneath: Layer | None = None) -> None:
        """`directory`: of the shelf; `beneath`: the layer beneath it, whose recordings are looked through as well."""
        self._surveyor = Surveyor(directory, beneath)
        self._health = health
        self._turns = ThreadPoolExecutor(1, "store-survey")
        self._asked = set[asyncio.Future[str | None]]()
        self._is_over = False
        self._loop = asyncio.get_running_loop()
        self._ending: asyncio.TimerHandle | None = None

    def ask(self, inquiry: Inquiry) -> Awaitable[str | None] | None:
        """The answer; None in the end where there can be none. None at once where too many wait already.

        Whoever waits may be cancelled, and gives his turn to the next one if it has not come yet.
        """
        if self._is_over or len(self._asked) > _MOST_WAITING:
            return None
        answer = asyncio.wrap_future(self._turns.submit(self._surveyor.ask, inquiry))
        self._asked.add(answer)
        answer.add_done_callback(self._answered)
        self._stay()
        return self._told(answer)

    def give_up(self) -> None:
        """Nobody will be told any more: what is under way ends now."""
        self._is_over = True
        self._stay()
        self._surveyor.give_up()

    async def close(self) -> None:
        """Wait until the process is gone, after `give_up`."""
        await self._loop.run_in_executor(self._turns, self._surveyor.end)
        self._turns.shutdown()

    async def _told(self, answer: asyncio.Future[str | None]) -> str | None:
        with self._health.watched():
            return await answer
        return None

    def _answered(self, answer: asyncio.Future[str | None]) -> None:
        self._asked.discard(answer)
        if not self._asked and not self._is_over:
            self._stay()
            self._ending = self._loop.call_later(_IDLE_S, self._turns.submit, self._surveyor.end)

    def _stay(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
