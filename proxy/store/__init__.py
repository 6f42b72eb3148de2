"""Recordings for the gateway: a memory tier in front of the disk.

The rule: trouble with the disk costs a recording, never an answer. It is a miss, and the log says so when it begins and
when it is over.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from proxy.events import log
from proxy.recording import Recording
from proxy.store.codec import LARGEST_BYTES, Damaged, UnknownVersion, decode, encode, summary
from proxy.store.database import ShelfDamaged, ShelfTrouble
from proxy.store.directory import UnusableDirectory
from proxy.store.disk import Shelf
from proxy.store.health import Health
from proxy.store.memory import Memory
from proxy.store.threads import Threads
from proxy.store.upkeep import Upkeep, open_shelf

RECORDING_DAMAGED = "recording_damaged"
RECORDING_UNREADABLE = "recording_of_another_version"

WAITING_LIMIT_BYTES = 64 * 1024 * 1024
"""Of recordings that wait to be written. A disk takes that much in about a second; one that does not is in trouble,
and what waits for it is memory that grows with every answer."""

_HOUSEKEEPING_S = 1.0  # so soon what another process has removed is served no more, and a lost database is noticed
_PATIENCE_S = 10.0  # behind writes that fail: each of them may take as long as a lock is waited for

_T = TypeVar("_T")


class Store(Protocol):
    """Where recordings are kept. No method fails: where the store can't help, there is no recording."""

    def recall(self, key: str) -> Recording | None:
        """The recording under a key, if it can be had without waiting."""
        ...

    async def fetch(self, key: str) -> Recording | None:
        """The recording under a key, wherever it is; whole and unharmed, or None."""
        ...

    def keep(self, recording: Recording) -> bool:
        """Store a recording: `recall` finds it at once, others soon. False if too much waits to be written already."""
        ...

    def count_hit(self, key: str) -> None:
        """Remember that a recording was replayed."""
        ...

    async def is_writable(self) -> bool:
        """Whether a recording that was kept now would last."""
        ...

    async def close(self) -> None:
        """Write what waits to be written."""
        ...


class TieredStore:
    """The store of one machine: recently used recordings in memory, all of them on a shelf."""

    def __init__(self, shelf: Shelf, memory_limit_bytes: int) -> None:
        self._shelf = shelf
        self._upkeep = Upkeep(shelf)
        self._memory = Memory(memory_limit_bytes)
        # Kept here until it is written, so that a key is never in neither place, even with no memory tier at all.
        self._waiting: dict[str, Recording] = {}
        self._waiting_bytes = 0
        self._loads: dict[str, asyncio.Task[Recording | None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._hits: Counter[str] = Counter()
        self._removals: object = None
        # Apart, since one may go on working while another fails, and the log would hear of it for ever.
        self._opening = Health("opening", UnusableDirectory)
        self._reading, self._writing = Health("reading", ShelfTrouble), Health("writing", ShelfTrouble)
        self._probing, self._polling = Health("probing", ShelfTrouble), Health("polling", ShelfTrouble)
        self._counting, self._renewing = Health("counting", ShelfTrouble), Health("renewing", ShelfTrouble)
        self._threads = Threads(shelf.close)
        self._failed_s = -math.inf
        self._closing = asyncio.Event()
        self._start(self._keep_house())

    @classmethod
    async def open(cls, directory: Path, *, size_limit_bytes: int, memory_limit_bytes: int) -> Self:
        """Open the store in a directory.

        A recording larger than `memory_limit_bytes` is not kept in memory; 0 means that none is.

        Raises:
            UnusableDirectory: there can be no store in that directory.
        """
        shelf = await asyncio.to_thread(open_shelf, directory, size_limit_bytes)
        return cls(shelf, memory_limit_bytes)

    def resize(self, *, size_limit_bytes: int, memory_limit_bytes: int) -> None:
        """Set new limits: in memory what is beyond them goes at once, on disk with the next recording."""
        self._shelf.size_limit_bytes = size_limit_bytes
        self._memory.resize(memory_limit_bytes)

    def recall(self, key: str) -> Recording | None:
        return self._waiting.get(key) or self._memory.get(key)

    async def fetch(self, key: str) -> Recording | None:
        recording = self.recall(key)
        if recording is not None or self._closing.is_set():
            return recording
        load = self._loads.get(key) or self._start(self._load(key))
        self._loads[key] = load
        # Whoever asked first may be cancelled, and the others go on waiting.
        await asyncio.wait((load,))
        return load.result()

    def keep(self, recording: Recording) -> bool:
        if self._closing.is_set() or not self._has_room_for(recording.size_bytes):
            return False
        # What is being read from disk under this key is not the latest any more, and may not enter the memory tier.
        self._loads.pop(recording.key, None)
        self._memory.put(recording)
        self._waiting[recording.key] = recording
        self._waiting_bytes += recording.size_bytes
        self._start(self._write(recording))
        return True

    def count_hit(self, key: str) -> None:
        self._hits[key] += 1

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
        # The housekeeping counts the last hits, after the last recording in the same thread.
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._threads.close()

    def _start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _has_room_for(self, size_bytes: int) -> bool:
        # One that is larger than the limit is taken when nothing else waits.
        full = self._waiting_bytes > 0 and self._waiting_bytes + size_bytes > WAITING_LIMIT_BYTES
        return not full and size_bytes <= LARGEST_BYTES

    async def _load(self, key: str) -> Recording | None:
        recording = None
        try:
            with self._reading.watched():
                recording = await self._threads.read(self._read, key)
        finally:
            if is_latest := self._loads.get(key) is asyncio.current_task():
                del self._loads[key]
        if recording is not None and is_latest:
            self._memory.put(recording)
        return recording

    def _read(self, key: str) -> Recording | None:
        try:
            entry = self._shelf.get(key)
            return None if entry is None else decode(entry, key)
        except UnknownVersion as version:
            # It is left to the program that wrote it, until it is recorded anew or gives way to others.
            log.info(RECORDING_UNREADABLE, key=key, reason=str(version))
            return None
        except Damaged as damage:
            self._shelf.delete(key)
            # Only now: where it can't be removed it would be said each time it is met.
            log.warning(RECORDING_DAMAGED, key=key, reason=str(damage))
            return None

    async def _write(self, recording: Recording) -> None:
        try:
            with self._opening.watched(), self._writing.watched():
                await self._threads.write(self._put, recording, time.monotonic())
        finally:
            self._waiting_bytes -= recording.size_bytes
            if self._waiting.get(recording.key) is recording:
                del self._waiting[recording.key]

    def _put(self, recording: Recording, kept_s: float) -> None:
        # While it waited another one failed, and this one may take as long to fail, with more behind it.
        if self._failed_s - kept_s > (0 if self._closing.is_set() else _PATIENCE_S):
            raise ShelfTrouble("the disk failed before, and there is no time to wait for it")
        entry = encode(recording), summary(recording).to_json()
        try:
            self._upkeep.put(recording.key, *entry)
        except (ShelfTrouble, UnusableDirectory):
            self._failed_s = time.monotonic()
            raise
        self._failed_s = -math.inf

    async def _keep_house(self) -> None:
        while not self._closing.is_set():
            await self._notice_removals()
            with suppress(TimeoutError):
                async with asyncio.timeout(_HOUSEKEEPING_S):
                    await self._closing.wait()
            await self._flush_hits()
            if not (self._writing.works and self._probing.works):
                # One that was opened while nothing could be written keeps all others of this process from writing.
                with self._renewing.watched():
                    await self._threads.close_connections()

    async def _notice_removals(self) -> None:
        in_order = False
        with self._polling.watched(), suppress(ShelfDamaged):
            removals = await self._threads.read(self._shelf.removals)
            if self._removals not in (None, removals):
                self._memory.clear()
                self._loads.clear()
            self._removals = removals
            in_order = removals is not None
        if not in_order and self._polling.works:
            with self._opening.watched(), self._writing.watched():
                await self._threads.write(self._upkeep.examine)

    async def _flush_hits(self) -> None:
        hits, self._hits = self._hits, Counter()
        if hits:
            with self._counting.watched():
                await self._threads.write(self._shelf.count_hits, hits)
