"""Recordings for the gateway: a memory tier in front of the disk.

The rule: trouble with the disk costs a recording, never an answer. It is a miss, and the log says so when it begins and
when it is over.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

from proxy.inquiry import Inquiry
from proxy.recording import RecordedAnswer, Recording
from proxy.store.absence import Absence
from proxy.store.database import ShelfDamaged, ShelfTrouble
from proxy.store.disk import Shelf
from proxy.store.health import Health
from proxy.store.memory import Memory
from proxy.store.reading import Layer, Reading
from proxy.store.survey import Survey
from proxy.store.threads import Threads
from proxy.store.upkeep import open_shelf
from proxy.store.writing import Writing

_HOUSEKEEPING_S = 1.0  # so soon what another process has removed is served no more, and a lost database is noticed


class Store(Protocol):
    """Where recordings are kept. No method fails: where the store can't help, there is no recording."""

    def recall(self, key: str) -> RecordedAnswer | None:
        """What is recorded under a key, if it can be had without waiting."""
        ...

    def look_for(self, key: str) -> asyncio.Future[RecordedAnswer | None] | None:
        """What is recorded under a key that can't be recalled, soon and whole; None where there is surely none."""
        ...

    def survey(self, inquiry: Inquiry) -> Awaitable[str | None] | None:
        """What a process answers that looks through all that is written, when the turn has come.

        None at once where too many wait for theirs, and in the end where the store can't help.
        """
        ...

    def keep(self, recording: Recording) -> bool:
        """Store a recording: `recall` finds it at once, others soon. False if too much waits to be written already."""
        ...

    def count_hit(self, key: str) -> None:
        """Remember that a recording was replayed."""
        ...

    def is_lasting(self, key: str) -> bool:
        """Whether recordings under a key do not age: a cassette that was committed has one."""
        ...

    async def is_writable(self) -> bool:
        """Whether a recording that was kept now would last."""
        ...

    async def close(self) -> None:
        """Write what waits to be written."""
        ...


class Copies(Protocol):
    """Where recordings are written to as well."""

    def put(self, recording: Recording) -> None:
        """Have it written soon."""
        ...

    async def close(self) -> None:
        """Wait until what was put is written."""
        ...


class TieredStore:
    """The store of one machine: answers used lately in memory, all recordings on a shelf, and a layer beneath it."""

    def __init__(
        self,
        shelf: Shelf,
        memory_limit_bytes: int,
        *,
        shared: bool = False,
        beneath: Layer | None = None,
        copies: Copies | None = None,
    ) -> None:
        """`shared`: with other processes that should find at once what is kept here.

        `beneath` has recordings for keys that are not on the shelf; `copies` get each one that is kept.
        """
        self._shelf = shelf
        self._beneath = beneath
        self._copies = copies
        self._memory = Memory(memory_limit_bytes)
        self._absence = Absence(shelf)
        # Apart, since one may go on working while another fails, and the log would hear of it for ever.
        self._probing, self._polling = Health("probing", ShelfTrouble), Health("polling", ShelfTrouble)
        self._counting, self._renewing = Health("counting", ShelfTrouble), Health("renewing", ShelfTrouble)
        self._threads = Threads(shelf.close)
        self._reading = Reading(shelf, self._threads, Health("reading", ShelfTrouble), self._found, beneath)
        self._survey = Survey(shelf.directory, Health("surveying", ShelfTrouble), beneath)
        self._writing = Writing(shelf, self._threads, shared=shared)
        # Kept there until it is written, so that a key is never in neither place, even with no memory tier at all.
        self._waiting = self._writing.waiting
        self._hits: defaultdict[str, int] = defaultdict(int)
        self._removals: object = None
        self._closing = asyncio.Event()
        self._housekeeping = asyncio.get_running_loop().create_task(self._keep_house())

    @classmethod
    async def open(  # noqa: PLR0913 - of which two are those of the constructor
        cls,
        directory: Path,
        *,
        size_limit_bytes: int,
        memory_limit_bytes: int,
        shared: bool = False,
        beneath: Layer | None = None,
        copies: Copies | None = None,
    ) -> Self:
        """Open the store in a directory; for the rest see the constructor.

        An answer larger than `memory_limit_bytes` is not kept in memory, and a large one not before it is asked for
        again; 0 means that none is.

        Raises:
            UnusableDirectory: there can be no store in that directory.
        """
        shelf = await asyncio.to_thread(open_shelf, directory, size_limit_bytes)
        return cls(shelf, memory_limit_bytes, shared=shared, beneath=beneath, copies=copies)

    def resize(self, *, size_limit_bytes: int, memory_limit_bytes: int) -> None:
        """Set new limits: in memory what is beyond them goes at once, on disk with the next recording."""
        self._shelf.size_limit_bytes = size_limit_bytes
        self._memory.resize(memory_limit_bytes)

    def recall(self, key: str) -> RecordedAnswer | None:
        answer = self._memory.get(key)
        if answer is None and (waiting := self._waiting.get(key)) is not None:
            return waiting.answer
        return answer

    def look_for(self, key: str) -> asyncio.Future[RecordedAnswer | None] | None:
        if self._closing.is_set() or (self._absence.includes(key) and not self.is_lasting(key)):
            return None
        return self._reading.look_for(key)

    def survey(self, inquiry: Inquiry) -> Awaitable[str | None] | None:
        return self._survey.ask(inquiry)

    async def fetch(self, key: str) -> RecordedAnswer | None:
        """What is recorded under a key, wherever it is."""
        answer = self.recall(key)
        search = self.look_for(key) if answer is None else None
        return answer if search is None else await search

    def keep(self, recording: Recording) -> bool:
        answer = recording.answer
        size_bytes = answer.size_bytes + recording.request.size_bytes
        if self._closing.is_set() or not self._writing.has_room_for(size_bytes):
            return False
        # What is being read from disk under this key is not the latest any more, and may not enter the memory tier.
        self._reading.outdate(recording.key)
        self._absence.end(recording.key)
        self._memory.put(answer)
        self._writing.put(recording, size_bytes)
        if self._copies is not None:
            self._copies.put(recording)
        return True

    def count_hit(self, key: str) -> None:
        self._hits[key] += 1

    def is_lasting(self, key: str) -> bool:
        return self._beneath is not None and key in self._beneath

    async def is_writable(self) -> bool:
        if self._closing.is_set():
            return False
        with self._probing.watched():
            await self._threads.read(self._shelf.touch)
        return self._probing.works

    async def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        self._absence.give_up()
        self._survey.give_up()
        await self._writing.finish()
        if self._copies is not None:
            await self._copies.close()
        await asyncio.wait((self._housekeeping,))
        await self._flush_hits()
        await self._survey.close()
        await self._threads.close()
        self._shelf.presence.close()

    def _found(self, answer: RecordedAnswer) -> None:
        self._memory.put(answer, used=True)

    async def _keep_house(self) -> None:
        while not self._closing.is_set():
            await self._notice_removals()
            if self._absence.is_to_be_learned():
                with suppress(ShelfTrouble, OSError):  # of which polling has told
                    self._absence.trust(await self._threads.read(self._absence.learn))
            with suppress(TimeoutError):
                async with asyncio.timeout(_HOUSEKEEPING_S):
                    await self._closing.wait()
            await self._flush_hits()
            if not (self._writing.health.works and self._probing.works):
                # One that was opened while nothing could be written keeps all others of this process from writing.
                with self._renewing.watched():
                    await self._threads.close_connections()

    async def _notice_removals(self) -> None:
        in_order = False
        with self._polling.watched(), suppress(ShelfDamaged):
            removals = await self._threads.read(self._shelf.removals)
            if self._removals not in (None, removals):
                self._memory.clear()
                self._reading.outdate_all()
            self._removals = removals
            in_order = removals is not None
        if not in_order and self._polling.works:
            await self._writing.examine()

    async def _flush_hits(self) -> None:
        # Those of a recording that is not written yet would be counted for none.
        hits = {key: count for key, count in self._hits.items() if key not in self._waiting}
        for key in hits:
            del self._hits[key]
        if hits:
            with self._counting.watched():
                await self._threads.write(self._shelf.count_hits, hits)
