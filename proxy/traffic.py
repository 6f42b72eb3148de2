"""The requests that are being answered: how many they are, whether more are let in, and an end to them all.

The rule: what has been let in is answered or broken off, and counted until then.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from proxy.allowance import Allowance
from proxy.events import RequestLine
from proxy.ledger import Ledger
from proxy.sessions import Sessions

# Of the bodies of requests on cached routes, each of which counts until its answer is out or its client has left. Four
# of the largest find room in any case.
_BODIES_BYTES = 256 * 1024 * 1024


class Traffic:
    """What goes on at the moment."""

    def __init__(self, max_body_bytes: int, watch: Callable[[RequestLine], None] | None = None) -> None:
        """`watch` is shown the line of each request that has ended."""
        self.bodies = Allowance(0)
        self.ledger = Ledger(watch)
        """Of those that have been answered."""
        self.sessions = Sessions()
        self.adjust(max_body_bytes)
        self.draining = False
        """Whether new requests are turned away."""
        self.cut_off = False
        """Whether those under way have been told to stop."""
        self._answering: set[asyncio.Future[Any]] = set()
        self._idle = asyncio.Event()

    def adjust(self, max_body_bytes: int) -> None:
        """Make room for bodies of another size."""
        self.bodies.limit_bytes = max(_BODIES_BYTES, 4 * max_body_bytes)

    @property
    def active(self) -> int:
        """Requests that are being answered."""
        return len(self._answering)

    def enter(self) -> asyncio.Task[Any]:
        """Count the request that the calling task, which is given, answers until it is told to `leave`."""
        task = asyncio.current_task()
        assert task is not None, "called outside of a task"  # noqa: S101 - a fault of ours, never of a peer
        self._answering.add(task)
        return task

    def leave(self, under_way: asyncio.Future[Any]) -> None:
        """It has been answered, or broken off."""
        self._answering.discard(under_way)
        if not self._answering:
            self._idle.set()

    def count(self, under_way: asyncio.Future[Any]) -> None:
        """Count a request until that is done, whose callbacks come first."""
        self._answering.add(under_way)
        under_way.add_done_callback(self.leave)

    async def idle(self) -> None:
        """Wait until no request is being answered."""
        if self._answering:
            self._idle.clear()
            await self._idle.wait()

    async def stop(self) -> None:
        """Break off every request that is being answered."""
        self.cut_off = True
        for answering in self._answering:
            answering.cancel()
        await self.idle()
