"""Keys that are surely not on the shelf: a miss need not look there.

To look takes a thread, and with its wakings a seventh of all that a miss takes. So it is remembered which keys are
there, roughly: of those that share a place any may be there.

The rule: what another process may have written is not known here, see `presence`.
"""

import asyncio
import time
from contextlib import suppress
from typing import NamedTuple

from proxy.store.disk import Shelf
from proxy.store.presence import Presence

# 2 MB. With so many keys two of three places are taken, and a look saved in one of three misses; with a tenth of that
# in nearly all of them.
_PLACES = 2**21
_DIGITS = 6  # of the key, which are evenly spread: it is a digest
_SHARE = 20  # of the time, no more than one part goes into learning what is there, whoever comes and goes
_SPREAD = (1 << 4 * _DIGITS) // _PLACES


class Sight(NamedTuple):
    """What there was when it was looked."""

    presence: Presence
    mark: bytes
    took_s: float


class Absence:
    """What is known of the keys on a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._loop = asyncio.get_running_loop()
        self._shelf = shelf
        self._taken = bytearray(_PLACES)  # a byte each, since two threads may set one at a time
        self._sight: Sight | None = None
        self._is_looked_after = False
        self._not_before_s = 0.0
        self._is_over = False

    def includes(self, key: str) -> bool:
        """Whether a key is surely not there; `key` is one of 64 hexadecimal digits."""
        if self._taken[_place(key)] or self._sight is None:
            return False
        if not self._is_looked_after:
            # Once in a turn of the event loop: what comes in one turn was asked before that turn began.
            self._is_looked_after = True
            self._loop.call_soon(self._look_again)
            if self.is_in_doubt():
                self._sight = None
        return self._sight is not None

    def end(self, key: str) -> None:
        """It will soon be there."""
        self._taken[_place(key)] = 1

    def is_in_doubt(self) -> bool:
        """Whether somebody may have written, or all is still to be learned."""
        sight = self._sight
        # A shelf that was opened anew may be another one.
        return not (sight and sight.presence is self._shelf.presence and sight.presence.is_unchanged(sight.mark))

    def is_to_be_learned(self) -> bool:
        """Whether it is time to `learn`, if that took long before."""
        return self.is_in_doubt() and self._loop.time() >= self._not_before_s

    def learn(self) -> Sight | None:
        """See what is on the shelf, in a thread; None if that is known by nobody.

        Takes a second for a million recordings. Raises `ShelfTrouble`.
        """
        began_s = time.monotonic()
        presence = self._shelf.presence
        mark = presence.mark_if_alone()
        if mark is None or not presence.is_unchanged(mark):
            return None
        for key in self._shelf.keys_in_order():
            if self._is_over:
                return None
            with suppress(ValueError):  # none of ours, and nobody will ask for it
                self._taken[_place(key)] = 1
        return Sight(presence, mark, time.monotonic() - began_s)

    def trust(self, sight: Sight | None) -> None:
        """Be sure of what was seen, until somebody comes."""
        self._sight = sight
        self._is_looked_after = False
        if sight is not None:
            self._not_before_s = self._loop.time() + _SHARE * sight.took_s

    def give_up(self) -> None:
        """Nobody will ask again."""
        self._is_over = True

    def _look_again(self) -> None:
        self._is_looked_after = False


def _place(key: str | bytes) -> int:
    return int(key[:_DIGITS], base=16) // _SPREAD
