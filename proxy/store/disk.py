"""Recordings on disk: entries under their keys in one SQLite database, by way of diskcache. Everything here blocks.

The rule: what is read here is data. diskcache would unpickle what it finds, and open or remove any file that a row
names (CVE-2025-69872), so `BytesDisk` knows bytes within a row and nothing else.

Entries of every size are kept in their rows, none in files beside the database, because

- entry and summary are then one row, written in one transaction: diskcache does not sync its files, and leaves
  them behind when a transaction fails;
- compressed entries are small: a row of 1 to 100 kB is written three to seven times, and read up to three times as
  fast as a file of diskcache's, one of 2 MB is written as fast and read in 0.7 ms;
- diskcache's volume counts rows by the database's pages and files without their blocks and directories.

A database gives pages back only with `auto_vacuum` FULL (diskcache's default, stated here); without it the volume of a
full one would never fall again, and each new recording would drive out all others. Keys have an index: a look-up took
11 µs among 10,000 recordings and 14 µs among a million.
"""

import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import diskcache
from diskcache.core import DBNAME, DEFAULT_SETTINGS, MODE_RAW

from proxy.store.codec import Damaged, Summary
from proxy.store.directory import LOCK_TIMEOUT_S, UnusableDirectory, prepare, unusable_database

__all__ = ["BytesDisk", "Shelf", "ShelfTrouble", "UnusableDirectory"]

# All settings are given, because diskcache takes over what it finds in the database for those that are not.
_SETTINGS = DEFAULT_SETTINGS | {
    "eviction_policy": "least-recently-stored",  # the others write on every read
    "cull_limit": 0,  # it evicts ten rows whatever their size, the new one too if there are no more; see `_make_room`
    "statistics": 0,  # they write on every read too
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 2048,  # pages, 8 MB: each thread has a cache of its own, and the kernel has one for all
    "sqlite_journal_size_limit": 16 * 1024 * 1024,  # the write-ahead log never shrinks by itself
    "sqlite_mmap_size": 0,  # a mapped page that can't be read is a signal that kills the process
}
_PAGE_ROWS = 1000

_ROWS = """
    SELECT rowid, key, tag, length(value), access_count FROM Cache
    WHERE rowid > ? AND raw = 1 AND typeof(key) = 'text' AND typeof(tag) = 'blob' AND typeof(value) = 'blob'
    ORDER BY rowid LIMIT ?
"""
_KEYS = "SELECT rowid, key FROM Cache WHERE rowid > ? AND raw = 1 AND typeof(key) = 'text' ORDER BY rowid LIMIT ?"
_COUNT_HITS = "UPDATE Cache SET access_count = access_count + ? WHERE key = ? AND raw = 1"
_BY_AGE = "SELECT rowid, size + coalesce(length(value), 0) FROM Cache ORDER BY store_time"
_TOUCH = "UPDATE Settings SET value = value WHERE key = 'count'"


class ShelfTrouble(Exception):
    """The disk or the database failed at this call; the next may do better. The message is the reason."""


class BytesDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Bytes under text keys, in rows; whatever else a row may hold is refused unread."""

    def put(self, key: object) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError("a key is text")
        return key, True

    def get(self, key: object, raw: object) -> str:
        if type(key) is not str or not raw:
            raise Damaged("its row has a key that is not ours")
        return key

    def store(self, value: object, read: object, **_: object) -> tuple[int, int, None, bytes]:
        if type(value) is not bytes or read:
            raise TypeError("a value is bytes")
        return 0, MODE_RAW, None, value

    def fetch(self, mode: object, filename: object, value: object, read: object) -> bytes:
        if mode != MODE_RAW or filename is not None or type(value) is not bytes or read:
            raise Damaged("its row holds something that is not ours")
        return value

    def filename(self, *_: object) -> tuple[str, str]:
        raise TypeError("there are no files beside the database")

    def remove(self, file_path: object) -> None:
        """Leave it alone: no row of ours names a file."""


class Shelf:
    """The recordings in a directory, shared by the threads and processes that open it.

    Each thread that uses it has a connection of its own, which that thread has to close. Methods raise `ShelfTrouble`
    where the disk or the database fails.
    """

    def __init__(self, cache: diskcache.Cache) -> None:
        self._cache = cache
        self._file = Path(cache.directory) / DBNAME

    @classmethod
    def open(cls, directory: Path, size_limit_bytes: int) -> Self:
        """Open a directory, made if it is not there. The oldest recordings give way when it is full.

        Raises:
            UnusableDirectory: there can be no store in it.
        """
        directory = directory.absolute()
        settings = _SETTINGS | {"size_limit": size_limit_bytes}
        prepare(directory, settings)
        try:
            cache = diskcache.Cache(str(directory), timeout=LOCK_TIMEOUT_S, disk=BytesDisk, **settings)
        except sqlite3.Error as error:
            raise unusable_database(directory, error) from error
        # The thread that opens it may never use it again.
        cache.close()
        return cls(cache)

    def get(self, key: str) -> bytes | None:
        """The entry under a key.

        Raises:
            Damaged: the row is not one that `put` wrote.
        """
        with self._troubles():
            entry: bytes | None = self._cache.get(key)
            return entry

    def put(self, key: str, entry: bytes, summary: bytes) -> None:
        """Store an entry and what a listing shows of it, in place of what was there."""
        with self._troubles():
            self._cache.set(key, entry, tag=summary)
        self._make_room()

    def delete(self, key: str) -> bool:
        """Remove a recording; whether there was one."""
        with self._troubles():
            deleted: bool = self._cache.delete(key)
        if deleted:
            self._tell_of_removal()
        return deleted

    def clear(self) -> int:
        """Remove all recordings; how many there were."""
        with self._troubles():
            count: int = self._cache.clear()
        self._tell_of_removal()
        return count

    def summaries(self) -> Iterator[tuple[Summary, int, int]]:
        """Summary, bytes on disk and hits of each recording, in the order in which they first came.

        No entry is read: the summary is diskcache's tag, for which diskcache has no listing. The connection is one that
        can only read, so that a listing never waits for a writer, and a page of rows at a time is taken, so that no
        writer ever waits for a listing.
        """
        for key, summary, stored_bytes, hits in self._rows(_ROWS):
            try:
                known = Summary.from_json(summary)
            except Damaged:
                continue
            if known.key == key:
                yield known, stored_bytes, hits

    def keys(self) -> Iterator[str]:
        """The key of each recording, whether it can be read or not."""
        for (key,) in self._rows(_KEYS):
            yield key

    @property
    def count(self) -> int:
        """How many recordings there are."""
        with self._troubles():
            return len(self._cache)

    def volume_bytes(self) -> int:
        """What they take on disk, as the size limit counts it."""
        with self._troubles():
            volume: int = self._cache.volume()
            return volume

    def count_hits(self, hits: Mapping[str, int]) -> None:
        """Add to the hits of recordings, in one transaction; those that are gone are passed over."""
        with self._connection("rw") as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_COUNT_HITS, [(count, key) for key, count in hits.items()])
            connection.execute("COMMIT")

    def removals(self) -> int:
        """A number that is another one whenever somebody, in whatever process, has removed a recording on purpose."""
        with self._connection("ro") as connection:
            ((number,),) = connection.execute("PRAGMA user_version").fetchall()
            return int(number)

    def touch(self) -> None:
        """Write something, to see whether that can be done."""
        with self._connection("rw") as connection:
            connection.execute(_TOUCH)

    def close(self) -> None:
        """Close the calling thread's connection. It may use the shelf again, and gets another one."""
        self._cache.close()

    def _make_room(self) -> None:
        while (excess_bytes := self.volume_bytes() - self._cache.size_limit) > 0:
            with self._connection("rw") as connection:
                connection.execute("BEGIN IMMEDIATE")
                evicted = _oldest(connection.execute(_BY_AGE), excess_bytes)
                connection.executemany("DELETE FROM Cache WHERE rowid = ?", evicted)
                connection.execute("COMMIT")
            if not evicted:
                return

    def _tell_of_removal(self) -> None:
        # diskcache has no use for this number; a random one needs no transaction to differ from the last.
        with self._connection("rw") as connection:
            connection.execute(f"PRAGMA user_version = {secrets.randbits(31)}")

    def _rows(self, select: str) -> Iterator[tuple[Any, ...]]:
        last = 0
        with self._connection("ro") as connection:
            while rows := connection.execute(select, (last, _PAGE_ROWS)).fetchall():
                last = rows[-1][0]
                yield from (row[1:] for row in rows)

    @contextmanager
    def _connection(self, mode: Literal["ro", "rw"]) -> Iterator[sqlite3.Connection]:
        uri = f"{self._file.as_uri()}?mode={mode}"
        with (
            self._troubles(),
            closing(sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None)) as connection,
        ):
            yield connection

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        try:
            yield
        except diskcache.Timeout as error:
            raise ShelfTrouble("the database is locked or can't be written") from error
        except (sqlite3.Error, OSError) as error:
            # A connection whose COMMIT failed is still within its transaction, and would refuse to begin another.
            self._cache.close()
            raise ShelfTrouble(str(error)) from error


def _oldest(rows: Iterable[tuple[int, int]], size_bytes: int) -> list[tuple[int]]:
    """The first of these rows that together are that large, but no more than a lock may be held for."""
    chosen: list[tuple[int]] = []
    for rowid, freed_bytes in islice(rows, _PAGE_ROWS):
        if size_bytes <= 0:
            break
        chosen.append((rowid,))
        size_bytes -= freed_bytes
    return chosen
