"""The table of requests under way, one a key: join one, launch one, wait for them, or abandon them all.

The rule: a recording is in the store before its flight leaves the table, so that a key is never in neither place.
"""

import asyncio
from collections.abc import Coroutine

from proxy.allowance import Allowance
from proxy.errors import Draining
from proxy.flight import Flight, Terms
from proxy.question import Question
from proxy.store.tiered import Store
from proxy.turns import Turns
from proxy.upstream import Outgoing, Upstream

# Of all answers under way, for those who join them and for the store; beyond it they are only passed on.
_HELD_BYTES = 256 * 1024 * 1024


class Flights:
    """The table of requests that others may join."""

    def __init__(self, store: Store, *, limit_bytes: int, linger_s: float) -> None:
        self._held = Allowance(_held_limit_bytes(limit_bytes))
        self._terms = Terms(store, self._held, Turns(), limit_bytes, linger_s, self._forget, self._start)
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_key: dict[str, Flight] = {}
        # More than those that can be joined: two that ask for an answer of their own may ask the same at a time.
        self._unsettled: set[Flight] = set()

    @property
    def store(self) -> Store:
        """Where what they bring is kept."""
        return self._terms.store

    def adjust(self, *, limit_bytes: int, linger_s: float) -> None:
        """From the next launch on, keep answers of up to `limit_bytes`, and read them on for `linger_s` seconds."""
        self._held.limit_bytes = _held_limit_bytes(limit_bytes)
        self._terms = self._terms._replace(limit_bytes=limit_bytes, linger_s=linger_s)

    def join(self, key: str) -> Flight | None:
        """The flight that will answer this key, if there is one."""
        return self._by_key.get(key)

    def launch(self, upstream: Upstream, outgoing: Outgoing, question: Question | None, bypass: str = "") -> Flight:
        """Send a request. If its answer may be recorded, others may join it from now on; if not, `bypass` says why.

        No await between `join` and `launch`, or two tasks could both miss the same key:
          1: join(k) -> None      2: join(k) -> None      1: launch(k)      2: launch(k)  <- fetched twice
        """
        flight = Flight(self._terms, upstream, outgoing, question, bypass)
        if question is not None:
            self._by_key.setdefault(question.key, flight)
            self._unsettled.add(flight)
        return flight

    async def close(self) -> None:
        """Cancel what is still under way: the proxy ends."""
        for flight in list(self._unsettled):
            flight.abandon(Draining.code)
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def settle(self) -> None:
        """Wait until it is known of every flight whether its answer is stored."""
        while self._unsettled:
            await asyncio.wait([flight.settled for flight in self._unsettled])

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _forget(self, flight: Flight) -> None:
        self._unsettled.discard(flight)
        if flight.question is not None and self._by_key.get(flight.question.key) is flight:
            del self._by_key[flight.question.key]


def _held_limit_bytes(limit_bytes: int) -> int:
    # One alone may be as long as a recording.
    return max(_HELD_BYTES, limit_bytes)
