"""Recordings on disk: entries under their keys in one SQLite database, by way of diskcache. Everything here blocks.

The rule: an entry is there whole or not at all, and what goes wrong at a call is a `ShelfTrouble`.

Entries of every size are kept in their rows, none in files beside the database, because

- entry and summary are then one row, written in one transaction: diskcache does not sync its files, and leaves
  them behind when a transaction fails;
- compressed entries are small: a row of 1 to 100 kB is written three to seven times, and read up to three times as
  fast as a file of diskcache's, one of 2 MB is written as fast and read in 0.7 ms;
- diskcache's volume counts rows by the database's pages and files without their blocks and directories.

Keys have an index: a look-up took 11 µs among 10,000 recordings and 14 µs among a million.
"""

import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, Self

from proxy.store import space
from proxy.store.codec import Damaged, Summary
from proxy.store.database import ShelfTrouble, open_database, translated_errors
from proxy.store.directory import DATABASE, LOCK_TIMEOUT_S, FileId, file_id

_PAGE_ROWS = 1000

_ROWS = """
    SELECT rowid, key, tag, length(value), access_count FROM Cache
    WHERE rowid > ? AND raw = 1 AND typeof(key) = 'text' AND typeof(tag) = 'blob' AND typeof(value) = 'blob'
    ORDER BY rowid LIMIT ?
"""
_SOME_ROWS = """
    SELECT key, tag, length(value), access_count FROM Cache
    WHERE key IN ({}) AND raw = 1 AND typeof(tag) = 'blob' AND typeof(value) = 'blob'
"""
_SOME_KEYS = "SELECT key FROM Cache WHERE key >= ? AND key < ? AND raw = 1 AND typeof(key) = 'text'"
_LAST_CHARACTER = "\U0010ffff"
_KEYS = "SELECT rowid, key FROM Cache WHERE rowid > ? AND raw = 1 AND typeof(key) = 'text' ORDER BY rowid LIMIT ?"
_COUNT_HITS = "UPDATE Cache SET access_count = access_count + ? WHERE key = ? AND raw = 1"
_TOUCH = "UPDATE Settings SET value = value WHERE key = 'count'"


Listed = tuple[Summary, int, int]
"""Summary, bytes on disk and hits."""


class Shelf:
    """The recordings in a directory, shared by the threads and processes that open it.

    Each thread that uses it has a connection of its own, which that thread has to close. Methods raise `ShelfTrouble`
    where the disk or the database fails.
    """

    def __init__(self, directory: Path, size_limit_bytes: int) -> None:
        self.directory = directory
        self.size_limit_bytes = size_limit_bytes
        """Holds from the next `put` on."""
        self.opened: FileId
        """The file of the database that is in use."""
        self._file = directory / DATABASE
        self._used = threading.local()
        self.reopen()

    @classmethod
    def open(cls, directory: Path, size_limit_bytes: int) -> Self:
        """Open a directory, made if it is not there. The oldest recordings give way when it is full.

        Raises:
            UnusableDirectory: there can be no store in it; `DamagedDatabase` if its database is broken.
        """
        return cls(directory.absolute(), size_limit_bytes)

    def reopen(self) -> None:
        """Open what is in the directory now; from here on every thread uses that.

        Raises:
            UnusableDirectory: as `open` does.
        """
        self._newest, self.opened = open_database(self.directory)

    def is_in_place(self) -> bool:
        """Whether the database has its name: what is written to one that was moved or removed, nobody will find."""
        return file_id(self._file) == self.opened

    def get(self, key: str) -> bytes | None:
        """The entry under a key.

        Raises:
            Damaged: the row is not one that `put` wrote.
        """
        if not self.is_in_place():
            return None
        with self._troubles():
            entry: bytes | None = self._cache.get(key)
            return entry

    def put(self, key: str, entry: bytes, summary: bytes) -> None:
        """Store an entry and what a listing shows of it, in place of what was there."""
        with self._troubles(), self._cache.transact():
            # A row that is written over keeps its place in the order of storing.
            self._cache.delete(key)
            self._cache.set(key, entry, tag=summary)
        self._make_room()

    def delete(self, key: str) -> bool:
        """Remove a recording; whether there was one."""
        with self._troubles():
            deleted: bool = self._cache.delete(key)
        if deleted:
            self._tell_of_removal()
            with self._connected() as connection:
                space.give_back(connection)
        return deleted

    def clear(self) -> int:
        """Remove all recordings; how many there were."""
        with self._connected() as connection:
            count = space.clear(connection)
        self._tell_of_removal()
        return count

    def summaries(self) -> Iterator[Listed]:
        """Summary, bytes on disk and hits of each recording, in the order in which they were stored.

        No entry is read: the summary is diskcache's tag, for which diskcache has no listing. The connection is one that
        can only read, so that a listing never waits for a writer, and a page of rows at a time is taken, so that no
        writer ever waits for a listing.
        """
        return _listed(self._rows(_ROWS))

    def summaries_of(self, keys: Sequence[str]) -> Iterator[Listed]:
        """The same of some recordings, by their keys and in any order; of no more than a thousand at once."""
        with self._connection("ro") as connection:
            rows = connection.execute(_SOME_ROWS.format(",".join("?" * len(keys))), keys).fetchall()
        return _listed(rows)

    def keys_from(self, beginning: str) -> list[str]:
        """The keys that begin so; found without going through all of them."""
        with self._connection("ro") as connection:
            found = connection.execute(_SOME_KEYS, (beginning, beginning + _LAST_CHARACTER)).fetchall()
        return [key for (key,) in found]

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
        # Not diskcache's volume: that adds a number of its own, which may be anything once the database was damaged.
        # But through its connection: to open another one takes half as long as to store a recording.
        with self._connected() as connection:
            return space.volume_bytes(connection)

    def count_hits(self, hits: Mapping[str, int]) -> None:
        """Add to the hits of recordings, in one transaction; those that are gone are passed over."""
        with self._connection("rw") as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_COUNT_HITS, [(count, key) for key, count in hits.items()])
            connection.execute("COMMIT")

    def removals(self) -> object:
        """Something that is different whenever somebody has removed a recording on purpose, or the whole database."""
        if not self.is_in_place():
            return None
        with self._connection("ro") as connection:
            ((number,),) = connection.execute("PRAGMA user_version").fetchall()
            return self.opened, number

    def touch(self) -> None:
        """Write something, to see whether that can be done."""
        with self._connection("rw") as connection:
            connection.execute(_TOUCH)

    def close(self) -> None:
        """Close the calling thread's connection. It may use the shelf again, and gets another one."""
        if (used := getattr(self._used, "cache", None)) is not None:
            used.close()

    @property
    def _cache(self) -> Any:  # noqa: ANN401 - diskcache has no types
        """The newest, in the calling thread; only there can its connection to the one before be closed."""
        if getattr(self._used, "cache", None) is not self._newest:
            self.close()
            self._used.cache = self._newest
        return self._newest

    def _make_room(self) -> None:
        with self._connected() as connection:
            space.make_room(connection, self.size_limit_bytes)

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
            translated_errors(),
            closing(sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None)) as connection,
        ):
            yield connection

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        try:
            with translated_errors():
                yield
        except ShelfTrouble:
            # A connection whose COMMIT failed is still within its transaction, and would refuse to begin another; one
            # that was made while nothing could be written will never write.
            self.close()
            raise

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """The calling thread's own connection, as diskcache has set it up: it does not sync each transaction."""
        with self._troubles():
            yield self._cache._con  # noqa: SLF001 - diskcache offers no other way to it


def _listed(rows: Iterable[tuple[Any, ...]]) -> Iterator[Listed]:
    for key, summary, stored_bytes, hits in rows:
        try:
            known = Summary.from_json(summary)
        except Damaged:
            continue
        if known.key == key:
            yield known, stored_bytes, hits
