"""Recordings for the gateway: a memory tier in front of the disk, and the threads that the disk is used from.

The rule: trouble with the disk costs a recording, never an answer. It is a miss, and the log says so when it begins and
when it is over.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, Protocol, Self, TypeVar

import structlog

from proxy.recording import Recording
from proxy.store.codec import LARGEST_BYTES, Damaged, UnknownVersion, decode, encode, summary
from proxy.store.disk import Shelf, ShelfTrouble
from proxy.store.memory import Memory

STORE_FAILED = "store_failed"
STORE_RECOVERED = "store_recovered"
RECORDING_DAMAGED = "recording_damaged"
RECORDING_UNREADABLE = "recording_of_another_version"

WAITING_LIMIT_BYTES = 64 * 1024 * 1024
"""Of recordings that wait to be written. A disk takes that much in about a second; one that does not is in trouble,
and what waits for it is memory that grows with every answer."""

_READERS = 4  # so that a long recording does not hold up a short one
_HOUSEKEEPING_S = 1.0  # so soon what another process has removed is served no more

_P = ParamSpec("_P")
_T = TypeVar("_T")

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


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
        self._memory = Memory(memory_limit_bytes)
        # Kept here until it is written, so that a key is never in neither place, even with no memory tier at all.
        self._waiting: dict[str, Recording] = {}
        self._waiting_bytes = 0
        self._loads: dict[str, asyncio.Task[Recording | None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._hits: Counter[str] = Counter()
        self._removals: int | None = None
        # Apart, since one may go on working while another fails, and the log would hear of it for ever.
        self._reading, self._writing = _Health("reading"), _Health("writing")
        self._probing, self._polling = _Health("probing"), _Health("polling")
        self._readers = ThreadPoolExecutor(_READERS, "store-reader")
        # One thread, so that two recordings of one key are written in their order.
        self._writer = ThreadPoolExecutor(1, "store-writer")
        self._gave_up = False
        self._closing = asyncio.Event()
        self._start(self._keep_house())

    @classmethod
    async def open(cls, directory: Path, *, size_limit_bytes: int, memory_limit_bytes: int) -> Self:
        """Open the store in a directory.

        A recording larger than `memory_limit_bytes` is not kept in memory; 0 means that none is.

        Raises:
            UnusableDirectory: there can be no store in that directory.
        """
        shelf = await asyncio.to_thread(Shelf.open, directory, size_limit_bytes)
        return cls(shelf, memory_limit_bytes)

    def recall(self, key: str) -> Recording | None:
        return self._waiting.get(key) or self._memory.get(key)

    async def fetch(self, key: str) -> Recording | None:
        recording = self.recall(key)
        if recording is not None or self._closing.is_set():
            return recording
        if key not in self._loads:
            self._loads[key] = self._start(self._load(key))
        # Whoever asked first may be cancelled, and the others go on waiting.
        return await asyncio.shield(self._loads[key])

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
            await _in(self._readers, self._shelf.touch)
        return not self._probing.failures

    async def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        # The housekeeping counts the last hits, after the last recording in the same thread.
        await asyncio.wait(self._tasks)
        await self._close_connections()
        self._readers.shutdown()
        self._writer.shutdown()

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
                recording = await _in(self._readers, self._read, key)
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
            log.warning(RECORDING_DAMAGED, key=key, reason=str(damage))
            self._shelf.delete(key)
            return None

    async def _write(self, recording: Recording) -> None:
        try:
            with self._writing.watched():
                await _in(self._writer, self._put, recording)
        finally:
            self._waiting_bytes -= recording.size_bytes
            if self._waiting.get(recording.key) is recording:
                del self._waiting[recording.key]

    def _put(self, recording: Recording) -> None:
        if self._gave_up:
            raise ShelfTrouble("it failed before, and the program ends")
        try:
            self._shelf.put(recording.key, encode(recording), summary(recording).to_json())
        except ShelfTrouble:
            # Each further one may have to wait for a lock as well, and the end of the program with it.
            self._gave_up = self._closing.is_set()
            raise

    async def _keep_house(self) -> None:
        while not self._closing.is_set():
            await self._notice_removals()
            with suppress(TimeoutError):
                async with asyncio.timeout(_HOUSEKEEPING_S):
                    await self._closing.wait()
            await self._flush_hits()

    async def _notice_removals(self) -> None:
        with self._polling.watched():
            removals = await _in(self._readers, self._shelf.removals)
            if removals != self._removals and self._removals is not None:
                self._memory.clear()
                self._loads.clear()
            self._removals = removals

    async def _flush_hits(self) -> None:
        hits, self._hits = self._hits, Counter()
        if hits:
            with self._writing.watched():
                await _in(self._writer, self._shelf.count_hits, hits)

    async def _close_connections(self) -> None:
        all_here = threading.Barrier(_READERS)

        def close_one() -> None:
            # Each thread has a connection; one that waits here for the others can't be given a second of these.
            all_here.wait()
            self._shelf.close()

        readers = (_in(self._readers, close_one) for _ in range(_READERS))
        await asyncio.gather(_in(self._writer, self._shelf.close), *readers)


class _Health:
    """Whether something works. The log hears of it when that changes, not each time."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.failures = 0
        """Since it last worked."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take note of how this goes; trouble with the shelf ends here."""
        trouble = None
        try:
            yield
        except ShelfTrouble as caught:
            trouble = caught
        if trouble and not self.failures:
            log.error(STORE_FAILED, what=self._what, reason=str(trouble))
        if self.failures and not trouble:
            log.warning(STORE_RECOVERED, what=self._what, failures=self.failures)
        self.failures = self.failures + 1 if trouble else 0


async def _in(threads: Executor, call: Callable[_P, _T], *args: _P.args, **_: _P.kwargs) -> _T:
    return await asyncio.get_running_loop().run_in_executor(threads, call, *args)
