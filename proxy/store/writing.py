"""Recordings are written to the shelf: all that wait, in one transaction.

The rule: each is here until it is written or has failed to be, and one that fails takes no other with it.
"""

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from proxy.recording import Recording
from proxy.store.codec import LARGEST_BYTES, Encoder
from proxy.store.database import ShelfTrouble
from proxy.store.directory import UnusableDirectory
from proxy.store.disk import Shelf
from proxy.store.health import Health
from proxy.store.rows import Row
from proxy.store.summary import summary_json
from proxy.store.threads import Threads
from proxy.store.upkeep import Upkeep

WAITING_LIMIT_BYTES = 64 * 1024 * 1024
"""Of recordings that wait to be written. A disk takes that much in about a second; one that does not is in trouble,
and what waits for it is memory that grows with every answer."""

_GATHERING_S = 0.2
"""For others to come: answers that come one after the other share a transaction, and the pages of the index that it
writes. With 512 of them each takes a third less than with 128. Meanwhile they are found here; whoever kills the
process loses as much more."""

# A transaction is over within some ten milliseconds: other processes wait for it, and for all of it.
_MOST_AT_ONCE = 512
_MOST_BYTES_AT_ONCE = 4 * 1024 * 1024
_SHARE_OF_LIMIT = 16  # by no more is the limit of a small store exceeded, until the oldest have given way

_PATIENCE_S = 10.0  # behind writes that fail: each of them may take as long as a lock is waited for


# Short ones are encoded by the event loop, some 20 µs each: one after the other, since each by itself takes thrice as
# long, and a thread takes as much more in which it and the loop keep taking the interpreter from each other.
_ENCODED_HERE_BYTES = 128 * 1024
_ENCODED_IN_A_ROW_BYTES = 32 * 1024  # some 0.3 ms: then others have their turn


@dataclass(slots=True)
class _Kept:
    recording: Recording
    size_bytes: int
    at_s: float
    row: Row | None = None
    """What is written, where it has been made already."""


class _Attempt(NamedTuple):
    settled: list[_Kept]
    """Written, or given up."""
    fault: Exception | None


class Writing:
    """Recordings that wait to be written, and the thread that does."""

    def __init__(self, shelf: Shelf, threads: Threads, *, shared: bool) -> None:
        """`shared`: other processes serve what is written here, and should have it at once."""
        self.waiting: dict[str, Recording] = {}
        """The latest under each key."""
        self.health = Health("writing", ShelfTrouble)
        self.opening = Health("opening", UnusableDirectory)
        self._shelf = shelf
        self._upkeep = Upkeep(shelf)
        self._threads = threads
        self._here, self._in_thread = Encoder(), Encoder()
        self._loop = asyncio.get_running_loop()
        self._gathering_s = 0.0 if shared else _GATHERING_S
        self._gathering: asyncio.Handle | None = None
        self._until_more_come: asyncio.Handle | None = None
        """The same, while it is time that goes by."""
        self._fresh: deque[_Kept] = deque()
        self._kept: deque[_Kept] = deque()
        self._waiting_bytes = 0
        self._job: asyncio.Future[_Attempt] | None = None
        self._is_ending = False
        self._one_by_one = 0
        """So many of those that wait were in a transaction that failed."""
        self._failed_s = -math.inf

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether a recording of that size may wait to be written."""
        # One that is larger than the limit is taken when nothing else waits.
        full = self._waiting_bytes > 0 and self._waiting_bytes + size_bytes > WAITING_LIMIT_BYTES
        return not full and size_bytes <= LARGEST_BYTES

    def put(self, recording: Recording, size_bytes: int) -> None:
        """Have a recording written; `size_bytes` is its own."""
        self.waiting[recording.key] = recording
        self._waiting_bytes += size_bytes
        self._fresh.append(_Kept(recording, size_bytes, time.monotonic()))
        if not self._job and not self._gathering:
            self._gather()
        elif self._until_more_come and self._is_enough:
            self._until_more_come.cancel()
            self._encode_soon()

    async def finish(self) -> None:
        """Write what waits, and wait for it; no more is put."""
        self._is_ending = True
        if self._gathering:
            self._gathering.cancel()
        while self._fresh:
            self._encode_some()
        while self._job:
            await asyncio.wait((self._job,))

    async def examine(self) -> None:
        """See whether the database is one, and replace it if not."""
        with self.opening.watched(), self.health.watched():
            await self._threads.write(self._upkeep.examine)

    @property
    def _is_enough(self) -> bool:
        """Whether as much waits as is written at once: more would only take the room of what comes next."""
        return self._waiting_bytes >= _MOST_BYTES_AT_ONCE

    def _gather(self) -> None:
        if self._gathering_s and not self._is_ending and not self._is_enough:
            self._gathering = self._until_more_come = self._loop.call_later(self._gathering_s, self._encode_some)
        else:
            self._encode_some()

    def _encode_soon(self) -> None:
        self._gathering, self._until_more_come = self._loop.call_soon(self._encode_some), None

    def _encode_some(self) -> None:
        """Encode what is short, as many as others can wait for; the thread does the rest."""
        self._gathering = self._until_more_come = None
        encoded_bytes = 0
        while self._fresh and encoded_bytes < _ENCODED_IN_A_ROW_BYTES:
            kept = self._fresh.popleft()
            if kept.size_bytes <= _ENCODED_HERE_BYTES:
                encoded_bytes += kept.size_bytes
                self._encode(kept)
            self._kept.append(kept)
        if self._fresh:
            self._encode_soon()
        self._write_if_enough()

    def _encode(self, kept: _Kept) -> None:
        try:
            kept.row = _row(kept.recording, self._here)
        except Exception:  # noqa: BLE001 - it comes up again in the thread, which tells of it
            kept.row = None

    def _write_if_enough(self) -> None:
        """All that has been encoded, or so much of it as is written at once, where more and more comes."""
        if self._kept and not self._job and (not self._gathering or len(self._kept) >= _MOST_AT_ONCE):
            self._write()

    def _write(self) -> None:
        self._job = self._threads.write(self._write_some)
        self._job.add_done_callback(self._note)

    def _write_some(self) -> _Attempt:
        kept = self._taken()
        fault = self._put(kept)
        if fault is None or len(kept) == 1:
            return _Attempt(kept, fault)
        # It may be only one of them that can't be written: each is tried by itself. Not here and now, since that may
        # take as long for each, and it should be known how it goes.
        self._kept.extendleft(reversed(kept))
        self._one_by_one = len(kept)
        return _Attempt([], fault)

    def _taken(self) -> list[_Kept]:
        if self._one_by_one:
            self._one_by_one -= 1
            return [self._kept.popleft()]
        most_bytes = min(_MOST_BYTES_AT_ONCE, self._shelf.size_limit_bytes // _SHARE_OF_LIMIT)
        taken = [self._kept.popleft()]
        size_bytes = taken[0].size_bytes
        while self._kept and len(taken) < _MOST_AT_ONCE:
            size_bytes += self._kept[0].size_bytes
            if size_bytes > most_bytes:
                break
            taken.append(self._kept.popleft())
        return taken

    def _put(self, kept: list[_Kept]) -> Exception | None:
        # While it waited another one failed, and this one may take as long to fail, with more behind it.
        if self._failed_s - kept[0].at_s > (0 if self._is_ending else _PATIENCE_S):
            return ShelfTrouble("the disk failed before, and there is no time to wait for it")
        try:
            self._upkeep.put([each.row or _row(each.recording, self._in_thread) for each in kept])
        except (ShelfTrouble, UnusableDirectory) as trouble:
            self._failed_s = time.monotonic()
            return trouble
        except Exception as fault:  # noqa: BLE001 - `health` is told of it
            return fault
        self._failed_s = -math.inf
        return None

    def _note(self, job: asyncio.Future[_Attempt]) -> None:
        self._job = None
        settled, fault = job.result()
        for each in settled:
            self._waiting_bytes -= each.size_bytes
            if self.waiting.get(each.recording.key) is each.recording:
                del self.waiting[each.recording.key]
        if isinstance(fault, UnusableDirectory):
            self.opening.note(fault)
        else:
            self.opening.note(None)
            self.health.note(fault)
        self._write_if_enough()
        if self._fresh and not self._job and not self._gathering:
            self._gather()


def _row(recording: Recording, encoder: Encoder) -> Row:
    return recording.key, encoder.encode(recording), summary_json(recording)
