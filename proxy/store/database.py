"""A database of recordings, by way of diskcache: how it is set up, what a row may hold, and whose fault an error is.

The rule: what is read here is data. diskcache would unpickle what it finds, and open or remove any file that a row
names (CVE-2025-69872), so `BytesDisk` knows bytes within a row and nothing else.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import diskcache
from diskcache.core import DEFAULT_SETTINGS, MODE_RAW

from proxy.store.codec import Damaged
from proxy.store.directory import LOCK_TIMEOUT_S, FileId, is_damage, prepared, refuse_database

# All settings are given, because diskcache takes over what it finds in the database for those that are not.
_SETTINGS = DEFAULT_SETTINGS | {
    "eviction_policy": "least-recently-stored",  # the others write on every read
    "cull_limit": 0,  # it evicts ten rows whatever their size, the new one too if there are no more: `Shelf` does it
    "size_limit": 2**63 - 1,  # the shelf's own affair too, since it may change
    "statistics": 0,  # they write on every read too
    "sqlite_auto_vacuum": 2,  # INCREMENTAL: room is given back where `space` does it
    "sqlite_cache_size": 2048,  # pages, 8 MB: each thread has a cache of its own, and the kernel has one for all
    "sqlite_journal_size_limit": 16 * 1024 * 1024,  # the write-ahead log never shrinks by itself
    # Pages, 14 MB: what several transactions have changed is brought to its place once. With SQLite's 1,000 to store a
    # plain answer takes a quarter longer.
    "sqlite_wal_autocheckpoint": 3500,
    "sqlite_mmap_size": 0,  # a mapped page that can't be read is a signal that kills the process
}


class ShelfTrouble(Exception):
    """The disk or the database failed at this call; the next may do better. The message is the reason."""


class ShelfDamaged(ShelfTrouble):
    """The database is not one any more, or is broken within; it does no better by itself."""


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


def open_database(directory: Path) -> tuple[diskcache.Cache, FileId]:
    """Open the database in a directory, made if it is not there; and which file that is.

    Raises:
        UnusableDirectory: there can be no store in it; `DamagedDatabase` if that is so because of the database.
    """
    with prepared(directory, _SETTINGS) as opened:
        try:
            cache = diskcache.Cache(str(directory), timeout=LOCK_TIMEOUT_S, disk=BytesDisk, **_SETTINGS)
        except (LookupError, TypeError, ValueError) as error:
            refuse_database(directory, opened, error)
        # The thread that opens it may never use it again.
        cache.close()
    return cache, opened


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise `ShelfTrouble` for what diskcache, SQLite and the disk say."""
    try:
        yield
    except (diskcache.Timeout, sqlite3.Error, OSError) as error:
        _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    cause = _first(error)
    raise (ShelfDamaged if is_damage(cause) else ShelfTrouble)(str(cause)) from error


def _first(error: BaseException) -> BaseException:
    """The error that came first: diskcache's Timeout, and that of a ROLLBACK with nothing to roll back, follow one."""
    while isinstance(error.__context__, (sqlite3.Error, OSError)):
        error = error.__context__
    return error
