"""How many connections each of several processes has, so that none of them takes what an idle one should have.

The rule: one process writes each number, all read them, and nobody waits for anybody; a number that is old by the time
it is read makes the balance less even, and nothing worse.

Left to themselves, the process that is awake takes a whole burst while the kernel wakes the others: 31 of 32.
"""

import mmap
from dataclasses import dataclass
from socket import socket
from typing import Self

_ABSENT = -1
_NUMBER_BYTES = 4

# So many more than another one a process may have, or an eighth more: as one in which a connection closes as another
# opens always has, for a moment.
_MARGIN, _PART = 2, 8

_UNBOUNDED = 2**31


class Balance:
    """The numbers of all, as one of them sees it."""

    def __init__(self, numbers: memoryview, place: int) -> None:
        self._numbers = numbers
        self._place = place

    @classmethod
    def among(cls, count: int) -> list[Self]:
        """For so many processes, which are still to be forked from this one, one each."""
        numbers = memoryview(mmap.mmap(-1, count * _NUMBER_BYTES)).cast("i")
        each = [cls(numbers, place) for place in range(count)]
        for balance in each:
            balance.leave()
        return each

    def note(self, connections: int) -> None:
        """This one has so many now."""
        self._numbers[self._place] = connections

    def leave(self) -> None:
        """This one takes no more; it has died, or ends."""
        self._numbers[self._place] = _ABSENT

    def room(self, connections: int) -> int:
        """How many this one, which has so many, may take before the others should have theirs; perhaps none."""
        others = [number for place, number in enumerate(self._numbers) if place != self._place and number != _ABSENT]
        if not others:
            return _UNBOUNDED
        fewest = min(others)
        return max(0, fewest + max(_MARGIN, fewest // _PART) - connections)


@dataclass(frozen=True, slots=True)
class Shared:
    """Where several processes accept: sockets that listen already, and the balance between those processes."""

    listeners: list[socket]
    balance: Balance
