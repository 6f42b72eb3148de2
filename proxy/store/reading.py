"""Recordings are looked for on the shelf: all keys at once that are asked for at about the same time.

The rule: a key is looked for once, however many wait for it; and what is found may have been outdated meanwhile, which
is for whoever keeps recordings to say.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Protocol

from proxy.events import log
from proxy.recording import RecordedAnswer, Recording
from proxy.store.codec import Damaged, Decoder, UnknownVersion
from proxy.store.disk import Shelf
from proxy.store.health import Health
from proxy.store.summary import Summary
from proxy.store.threads import Threads

RECORDING_DAMAGED = "recording_damaged"
RECORDING_UNREADABLE = "recording_of_another_version"

_MOST_AT_ONCE = 32  # unpacking that many takes some milliseconds, which the first of them waits for the last

_Waiter = asyncio.Future[RecordedAnswer | None]


class Layer(Protocol):
    """Recordings that are replayed where the shelf has none."""

    def __contains__(self, key: str) -> bool: ...

    def get(self, key: str) -> Recording | None:
        """The recording under a key. Called in a thread."""
        ...

    def packed(self) -> Sequence[tuple[Summary, bytes]]:
        """What a listing shows of each recording, and its entry; the latest first. Called in a thread."""
        ...


class _Search(NamedTuple):
    key: str
    waiters: list[_Waiter]


class _Result(NamedTuple):
    search: _Search
    recording: Recording | None = None
    fault: Exception | None = None
    is_apart: bool = False
    """There is one, which has to be read by itself."""


class Reading:
    """Looks for recordings, in threads."""

    def __init__(
        self,
        shelf: Shelf,
        threads: Threads,
        health: Health,
        found: Callable[[RecordedAnswer], None],
        beneath: Layer | None = None,
    ) -> None:
        """`found` is told of each one that was looked for and not outdated while it was.

        What is not on the shelf, or can't be read there, is looked for `beneath` it.
        """
        self._shelf = shelf
        self._beneath = beneath
        self._threads = threads
        self._health = health
        self._found = found
        self._searches: dict[str, _Search] = {}
        self._asked: deque[_Search] = deque()
        self._is_called = False
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder()

    def look_for(self, key: str) -> _Waiter:
        """What is recorded under a key, or None; whoever waits for it may be cancelled, and others go on waiting."""
        search = self._searches.get(key)
        if search is None:
            search = self._searches[key] = _Search(key, [])
            self._asked.append(search)
            self._call()
        waiter: _Waiter = self._loop.create_future()
        search.waiters.append(waiter)
        return waiter

    def outdate(self, key: str) -> None:
        """What is being read under this key is for those who wait for it already, and for nobody else."""
        self._searches.pop(key, None)

    def outdate_all(self) -> None:
        self._searches.clear()

    def _call(self) -> None:
        # One thread takes all that are asked for in a turn of the event loop. It begins as soon as it is called, and
        # those who ask while it is at it call another.
        if not self._is_called:
            self._is_called = True
            self._loop.call_soon(self._threads.read_and_tell, self._read_some, self._answer)

    def _read_some(self) -> list[_Result]:
        self._is_called = False
        searches = self._taken()
        try:
            entries = self._shelf.get_short([search.key for search in searches]) if searches else {}
        except Exception as fault:  # noqa: BLE001 - `health` is told of it
            if len(searches) == 1:
                return [_Result(searches[0], self._from_beneath(searches[0].key), fault)]
            # It may be only one of them that can't be read.
            return [self._read(search, self._shelf.get) for search in searches]
        return [self._read_short(search, entries) for search in searches]

    def _taken(self) -> list[_Search]:
        taken: list[_Search] = []
        with suppress(IndexError):  # another thread has taken the last one
            while len(taken) < _MOST_AT_ONCE:
                taken.append(self._asked.popleft())
        return taken

    def _read_short(self, search: _Search, entries: dict[str, bytes | None]) -> _Result:
        if search.key not in entries:
            return _Result(search, self._from_beneath(search.key))
        is_apart = entries[search.key] is None
        return _Result(search, is_apart=True) if is_apart else self._read(search, entries.get)

    def _read_apart(self, search: _Search) -> list[_Result]:
        return [self._read(search, self._shelf.get)]

    def _read(self, search: _Search, get: Callable[[str], bytes | None]) -> _Result:
        try:
            return _Result(search, self._unpacked(search.key, get) or self._from_beneath(search.key))
        except Exception as fault:  # noqa: BLE001 - `health` is told of it
            return _Result(search, self._from_beneath(search.key), fault)

    def _from_beneath(self, key: str) -> Recording | None:
        return None if self._beneath is None else self._beneath.get(key)

    def _unpacked(self, key: str, get: Callable[[str], bytes | None]) -> Recording | None:
        try:
            entry = get(key)
            return None if entry is None else self._decoder.decode(entry, key)
        except UnknownVersion as version:
            # It is left to the program that wrote it, until it is recorded anew or gives way to others.
            log.info(RECORDING_UNREADABLE, key=key, reason=str(version))
            return None
        except Damaged as damage:
            self._shelf.delete(key)
            # Only now: where it can't be removed it would be said each time it is met.
            log.warning(RECORDING_DAMAGED, key=key, reason=str(damage))
            return None

    def _answer(self, results: list[_Result]) -> None:
        for result in results:
            if result.is_apart:
                self._threads.read_and_tell(partial(self._read_apart, result.search), self._answer)
            else:
                self._health.note(result.fault)
                self._settle(result.search, result.recording and result.recording.answer)
        if self._asked:
            self._call()
        self._loop.call_soon(self._decoder.prepare)  # when they have been answered

    def _settle(self, search: _Search, answer: RecordedAnswer | None) -> None:
        if self._searches.get(search.key) is search:
            del self._searches[search.key]
            if answer is not None:
                self._found(answer)
        for waiter in search.waiters:
            if not waiter.done():
                waiter.set_result(answer)
