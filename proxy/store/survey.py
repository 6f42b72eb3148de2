"""Something looks through all that is recorded, in a thread: one at a time, and so that nobody else waits for it.

The rule: it may be late, and it may be told that there is nothing; it never costs an answer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from proxy.recording import RecordedRequest
from proxy.store.codec import Damaged, Decoder, request_body
from proxy.store.database import ShelfTrouble
from proxy.store.disk import Shelf
from proxy.store.health import Health
from proxy.store.reading import Layer
from proxy.store.summary import Summary
from proxy.store.threads import Threads

_MOST_WAITING = 8  # each for some tenths of a second, with the body of its request in memory
_MOST_RECORDINGS = 20_000  # the latest: who has more of them is told of one that is near, if not of the nearest
_LONGEST_BYTES = 4 * 1024 * 1024  # of an entry, and of the request in it
_SHORT_BYTES = 64 * 1024  # of a request that is looked at with thousands of others
_READ_AT_ONCE = 100

# Whoever wants the interpreter meanwhile waits no longer than this: a thread that never rested would make each turn of
# the event loop wait for `sys.getswitchinterval`. A rest is over when the other one has done what it is at.
_AT_A_STRETCH_S = 0.0003
_REST_S = 0.0001
_LONG_REST_S = 0.002  # while hits are answered: they wait for a seventh of the stretches that they would wait for

_T = TypeVar("_T")


class _GivenUp(Exception):
    """Nobody wants to know any more."""


class Shelved:
    """The recordings on a shelf, for one who looks through them in a thread."""

    def __init__(self, shelf: Shelf, rest: Callable[[], None]) -> None:
        self._shelf = shelf
        self._rest = rest
        self._decoder = Decoder()

    def newest(self) -> Iterator[Summary]:
        """The recordings that were stored last, the latest first; without those that are too long to be looked at."""
        for summary, stored_bytes, _ in islice(self._shelf.summaries(latest_first=True), _MOST_RECORDINGS):
            self._rest()
            if stored_bytes <= _LONGEST_BYTES:
                yield summary

    def bodies(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """The bodies of the requests of those that are short, by their keys; nobody has checked what they are."""
        for start in range(0, len(keys), _READ_AT_ONCE):
            for key, entry in self._shelf.get_short(keys[start : start + _READ_AT_ONCE]).items():
                self._rest()
                with suppress(Damaged):
                    if entry is not None and (body := request_body(entry, _SHORT_BYTES)) is not None:
                        yield key, body

    def request(self, key: str) -> RecordedRequest | None:
        """What one of them answers; None if it is gone, damaged or too long."""
        self._rest()
        with suppress(Damaged):
            entry = self._shelf.get(key)
            if entry is not None:
                return self._decoder.decode_request(entry, key, _LONGEST_BYTES)
        return None


class Layered:
    """The recordings on a shelf and in the layer beneath it, as far as there are those."""

    def __init__(self, shelved: Shelved | None, beneath: Layer | None, rest: Callable[[], None]) -> None:
        self._shelved = shelved
        self._beneath = beneath
        self._rest = rest

    def newest(self) -> Iterator[Summary]:
        """Those on the shelf as `Shelved` has them, and then those beneath it that are not too long, latest first."""
        if self._shelved is not None:
            yield from self._shelved.newest()
        if self._beneath is not None:
            for summary in islice(self._beneath.newest(), _MOST_RECORDINGS):
                self._rest()
                if summary.body_bytes <= _LONGEST_BYTES:
                    yield summary

    def bodies(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """The bodies of the requests of those that are short, by their keys."""
        if self._shelved is not None:
            yield from self._shelved.bodies(keys)
        for key in keys:
            request = self._request_beneath(key)
            if request is not None and len(request.body) <= _SHORT_BYTES:
                yield key, request.body

    def request(self, key: str) -> RecordedRequest | None:
        """What one of them answers; None if it is gone, damaged or too long."""
        return (self._shelved and self._shelved.request(key)) or self._request_beneath(key)

    def _request_beneath(self, key: str) -> RecordedRequest | None:
        if self._beneath is None:
            return None
        self._rest()
        recording = self._beneath.get(key)
        return recording.request if recording is not None and len(recording.request.body) <= _LONGEST_BYTES else None


class _Wanted(NamedTuple):
    look: Callable[[Layered], Any]
    waiter: asyncio.Future[Any]


class Survey:
    """Who looks through the recordings, one after the other."""

    def __init__(self, shelf: Shelf, threads: Threads, health: Health, beneath: Layer | None = None) -> None:
        self._shelf = shelf
        self._beneath = beneath
        self._threads = threads
        self._health = health
        self._wanted: deque[_Wanted] = deque()
        self._is_under_way = False
        self._is_over = False
        self._rested_s = 0.0
        self._gives_way = False
        self._loop = asyncio.get_running_loop()

    def look(self, look: Callable[[Layered], _T]) -> asyncio.Future[_T | None] | None:
        """What a function finds, which is called in a thread; None in the end where the disk fails, or all is over.

        None at once where too many wait already. Whoever waits may be cancelled.
        """
        if len(self._wanted) >= _MOST_WAITING:
            self._wanted = deque(wanted for wanted in self._wanted if not wanted.waiter.done())
        if self._is_over or len(self._wanted) >= _MOST_WAITING:
            return None
        waiter: asyncio.Future[_T | None] = self._loop.create_future()
        self._wanted.append(_Wanted(look, waiter))
        if not self._is_under_way:
            self._begin()
        return waiter

    def give_way(self) -> None:
        """A hit is being answered."""
        self._gives_way = True

    def give_up(self) -> None:
        """Nobody will be told any more: what is under way ends soon."""
        self._is_over = True
        while self._wanted:
            _settle(self._wanted.popleft().waiter, None)

    def _begin(self) -> None:
        while self._wanted:
            wanted = self._wanted.popleft()
            if not wanted.waiter.done():
                self._is_under_way = True
                # Not what the waiter awaits: that may be cancelled while this goes on, and the next one has to wait.
                rest = partial(self._rest, wanted.waiter)
                recorded = Layered(Shelved(self._shelf, rest), self._beneath, rest)
                job = self._threads.read(wanted.look, recorded)
                job.add_done_callback(partial(self._end, wanted.waiter))
                return

    def _rest(self, waiter: asyncio.Future[Any]) -> None:
        if self._is_over or waiter.cancelled():
            raise _GivenUp
        if time.monotonic() - self._rested_s > _AT_A_STRETCH_S:
            time.sleep(_LONG_REST_S if self._gives_way else _REST_S)
            self._gives_way = False
            self._rested_s = time.monotonic()

    def _end(self, waiter: asyncio.Future[Any], job: asyncio.Future[Any]) -> None:
        self._is_under_way = False
        fault = job.exception()
        if not isinstance(fault, _GivenUp):
            self._health.note(_without_words(fault) if isinstance(fault, Exception) else None)
        _settle(waiter, None if fault else job.result())
        self._begin()


def _without_words(fault: Exception) -> Exception:
    # What nobody foresaw may quote what it was about: a request.
    return fault if isinstance(fault, ShelfTrouble) else ShelfTrouble(type(fault).__name__)


def _settle(waiter: asyncio.Future[Any], found: object) -> None:
    if not waiter.done():
        waiter.set_result(found)
