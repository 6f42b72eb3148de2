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

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, Self

from proxy.store import rows, space
from proxy.store.codec import Damaged, Summary
from proxy.store.database import open_database, translated_errors
from proxy.store.directory import DATABASE, LOCK_TIMEOUT_S, FileId, UnusableDirectory, file_id
from proxy.store.presence import Presence
from proxy.store.rows import Row

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
        self.presence: Presence
        self._file = directory / DATABASE
        self._name = str(self._file)
        self._numbers: dict[int, int] = {}  # of the last replacement here, and the one before it: see `removals`
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
        newest, opened = open_database(self.directory)
        try:
            self.presence = Presence(self.directory)
        except OSError as error:
            what = f"{error.filename or 'it'} can't be used ({error.strerror}); remove that, or name another directory"
            raise UnusableDirectory(self.directory, what) from error
        self._newest, self.opened = newest, opened

    def is_in_place(self) -> bool:
        """Whether the database has its name: what is written to one that was moved or removed, nobody will find."""
        return file_id(self._name) == self.opened

    def get(self, key: str) -> bytes | None:
        """The entry under a key.

        Raises:
            Damaged: the row is not one that `put` wrote.
        """
        if not self.is_in_place():
            return None
        with self._connected() as connection:
            return rows.get(connection, key)

    def get_short(self, keys: Sequence[str]) -> dict[str, bytes | None]:
        """The entries of those keys that have one, at once; None for one that is long or `Damaged`: see `get`.

        Of a database that was moved away they are found until that is noticed, which is a matter of a second.
        """
        with self._connected() as connection:
            return rows.get_short(connection, keys)

    def put(self, key: str, entry: bytes, summary: bytes) -> None:
        """Store an entry and what a listing shows of it, in place of what was there."""
        self.put_all([(key, entry, summary)])

    def put_all(self, entries: Sequence[Row]) -> None:
        """Store entries in their order, each in place of what was there: all of them or none."""
        with self._connected() as connection:
            self.presence.enter()
            with rows.transaction(connection):
                if rows.put(connection, entries):
                    self._tell_others(connection)
            space.make_room(connection, self.size_limit_bytes)

    def delete(self, key: str) -> bool:
        """Remove a recording; whether there was one."""
        with self._connected():
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

    def summaries(self, *, latest_first: bool = False) -> Iterator[Listed]:
        """Summary, bytes on disk and hits of each recording, in the order in which they were stored, or against it.

        No entry is read: the summary is diskcache's tag, for which diskcache has no listing. The connection is one that
        can only read, so that a listing never waits for a writer, and a page of rows at a time is taken, so that no
        writer ever waits for a listing.
        """
        with self._connection("ro") as connection:
            yield from _listed(rows.summaries(connection, latest_first=latest_first))

    def summaries_of(self, keys: Sequence[str]) -> Iterator[Listed]:
        """The same of some recordings, by their keys and in any order; of no more than a thousand at once."""
        with self._connection("ro") as connection:
            yield from _listed(rows.summaries_of(connection, keys))

    def keys_from(self, beginning: str) -> list[str]:
        """The keys that begin so; found without going through all of them."""
        with self._connection("ro") as connection:
            return rows.keys_from(connection, beginning)

    def keys(self) -> Iterator[str]:
        """The key of each recording, whether it can be read or not."""
        with self._connection("ro") as connection:
            for (key,) in rows.keys(connection):
                yield key

    def keys_in_order(self) -> Iterator[bytes]:
        """The keys that are text, by their bytes; no row is read for it."""
        with self._connection("ro") as connection:
            yield from rows.keys_in_order(connection)

    @property
    def count(self) -> int:
        """How many recordings there are."""
        with self._connected():
            return len(self._cache)

    def volume_bytes(self) -> int:
        """What they take on disk, as the size limit counts it."""
        # Not diskcache's volume: that adds a number of its own, which may be anything once the database was damaged.
        # But through its connection: to open another one takes half as long as to store a recording.
        with self._connected() as connection:
            return space.volume_bytes(connection)

    def count_hits(self, hits: Mapping[str, int]) -> None:
        """Add to the hits of recordings, in one transaction; those that are gone are passed over."""
        with self._connected() as connection, rows.transaction(connection):
            rows.count_hits(connection, hits)

    def removals(self) -> object:
        """Something that is different whenever somebody has removed a recording on purpose, or the whole database.

        Or has stored another in its place, unless that was this process: it knows which ones it has stored.
        """
        if not self.is_in_place():
            return None
        if not self.presence.is_in_place():  # somebody has cleared away what tells others of us, and us of them
            with translated_errors():
                self.presence = Presence(self.directory)
        with self._connection("ro") as connection:
            number = rows.number(connection)
            return self.opened, self._numbers.get(number, number)

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

    def _tell_of_removal(self) -> None:
        with self._connection("rw") as connection:
            rows.renumber(connection)

    def _tell_others(self, connection: sqlite3.Connection) -> None:
        # Here the new number stands for the one before it, so that what others have removed before is noticed as well;
        # and does so before the transaction ends, from when on it can be read.
        before = rows.number(connection)
        known_as = self._numbers.get(before, before)
        self._numbers = {before: known_as, rows.renumber(connection): known_as}

    @contextmanager
    def _connection(self, mode: Literal["ro", "rw"]) -> Iterator[sqlite3.Connection]:
        uri = f"{self._file.as_uri()}?mode={mode}"
        with (
            translated_errors(),
            closing(sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None)) as connection,
        ):
            yield connection

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """The calling thread's own connection, as diskcache has set it up: it does not sync each transaction."""
        try:
            yield self._cache._con  # noqa: SLF001 - what it offers itself takes longer, see `rows`
        except Exception:
            # A connection whose COMMIT failed is still within its transaction, and would refuse to begin another; one
            # that was made while nothing could be written will never write.
            self.close()
            with translated_errors():  # here, since to enter it takes a tenth of the time of a look-up
                raise


def _listed(found: Iterable[tuple[Any, ...]]) -> Iterator[Listed]:
    for key, summary, stored_bytes, hits in found:
        try:
            known = Summary.from_json(summary)
        except Damaged:
            continue
        if known.key == key:
            yield known, stored_bytes, hits
