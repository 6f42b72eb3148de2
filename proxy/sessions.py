"""Sessions of clients: within one, the n-th request for the same gets the n-th of several answers.

The rule: a number is used up by an answer that is recorded, or is to be. One that came to nothing is given again, so
that a client that tries once more after an error asks for the same answer, and recording leaves no gaps. So is one
whose answer failed on demand, for this client alone: it tries again for what is recorded meanwhile.
"""

import asyncio
import heapq
from collections import OrderedDict

from proxy.errors import BadRequest
from proxy.verdict import Verdict

# Counts of all sessions together, which take up to 50 MB if each is of a session of its own.
_MOST_COUNTS = 50_000


class Sessions:
    """How often what was asked in which session. In memory alone: it begins anew with the process."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, dict[str, _Count]] = OrderedDict()  # the one used last at the end
        self._counts = 0

    def next(self, name: str, key: str) -> "Turn":
        """The turn of a request that has come now; `key` is the one that it would have outside of a session.

        When all sessions together have too many counts, the one that was used longest ago is forgotten, and would
        begin anew.

        Raises:
            BadRequest: this session alone has too many.
        """
        counts = self._sessions.setdefault(name, {})
        self._sessions.move_to_end(name)
        count = counts.get(key)
        if count is None:
            if len(counts) >= _MOST_COUNTS:
                raise BadRequest(
                    f"The session of X-Reprise-Session has asked {_MOST_COUNTS} different requests, and no more are "
                    "counted. Go on in a session of another name."
                )
            count = counts[key] = _Count()
            self._counts += 1
            self._make_room()
        return Turn(count, count.take())

    def _make_room(self) -> None:
        while self._counts > _MOST_COUNTS:
            _, forgotten = self._sessions.popitem(last=False)
            self._counts -= len(forgotten)


class Turn:
    """The number that a request has got, and holds until it is known what came of it."""

    def __init__(self, count: "_Count", number: int) -> None:
        self._count = count
        self.number = number
        """From 0 on, as in `X-Reprise-Sample`."""

    def give_back(self) -> None:
        """Nothing came of it. To be told once."""
        self._count.give_back(self.number)

    def end(self, settled: asyncio.Future[Verdict] | None, *, replayed: bool, failed: bool) -> None:
        """The request has been answered; `failed` says that its answer was made to fail. To be told once.

        `settled` is done when it is known whether an answer that was sent for is stored: it uses the number up if so.
        """
        if failed:
            self.give_back()
        elif settled is not None:
            settled.add_done_callback(self._settle)
        elif not replayed:
            self.give_back()

    def _settle(self, settled: asyncio.Future[Verdict]) -> None:
        if not settled.result().stored:
            self.give_back()


class _Count:
    """Numbers that are used up or held: all below `_next` that are not free."""

    __slots__ = ("_free", "_next")

    def __init__(self) -> None:
        self._next = 0
        self._free: list[int] = []  # a heap

    def take(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self._next += 1
        return self._next - 1

    def give_back(self, number: int) -> None:
        heapq.heappush(self._free, number)
        if len(self._free) == self._next:
            self._next = 0
            self._free.clear()
