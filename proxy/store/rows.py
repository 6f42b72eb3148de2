"""The rows of a database of recordings: what SQLite is told about them, on a connection that is open.

The rule: every statement about a recording stands here. They are not diskcache's ways in, which take twice as long and
one key at a time; the tables are its own, and what a row may hold is `BytesDisk`'s to say.
"""

import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from diskcache.core import MODE_RAW

from proxy.store.database import BytesDisk

SHORT_BYTES = 16 * 1024
"""An entry up to here holds a few hundred kilobytes of an event stream, unpacked in less than a millisecond."""

Row = tuple[str, bytes, bytes]
"""Key, entry, and what a listing shows of it."""

_PAGE_ROWS = 1000

_GET = "SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1"
# SQLite finds the type and the length of a value without reading it.
_GET_SHORT = f"""
    SELECT key, CASE WHEN typeof(value) = 'blob' AND length(value) <= ? AND mode = {MODE_RAW} AND filename IS NULL
    THEN value END FROM Cache WHERE raw = 1 AND key IN
"""  # noqa: S608 - a number of diskcache's
# One statement for many of them: at each step Python lets go of its interpreter, and has to get it back. Not for any
# number: SQLite takes a third of the time of a short row to understand it, and Python remembers those that come again.
_ROWS_A_STATEMENT = 64
_REMOVE = "DELETE FROM Cache WHERE raw = 1 AND key IN"
_INSERT = "INSERT INTO Cache (key, value, tag, raw, store_time, access_time, mode) VALUES"
_INSERTED = f"(?, ?, ?, 1, ?, ?, {MODE_RAW})"
# Else a key that is there already would stop it in the middle, and SQLite notes in a file how to undo the half of it.
_UNLESS_THERE = "ON CONFLICT DO NOTHING"
_ROWS = """
    SELECT rowid, key, tag, length(value), access_count FROM Cache
    WHERE rowid > ? AND raw = 1 AND typeof(key) = 'text' AND typeof(tag) = 'blob' AND typeof(value) = 'blob'
    ORDER BY rowid LIMIT ?
"""
_ROWS_FROM_THE_LAST = _ROWS.replace("rowid > ?", "rowid < ?").replace("ORDER BY rowid", "ORDER BY rowid DESC")
_SOME_ROWS = """
    SELECT key, tag, length(value), access_count FROM Cache
    WHERE raw = 1 AND typeof(tag) = 'blob' AND typeof(value) = 'blob' AND key IN
"""
_SOME_KEYS = "SELECT key FROM Cache WHERE key >= ? AND key < ? AND raw = 1 AND typeof(key) = 'text'"
_BEYOND_ALL_ROWS = 2**63 - 1
_LAST_CHARACTER = "\U0010ffff"
_KEYS = "SELECT rowid, key FROM Cache WHERE rowid > ? AND raw = 1 AND typeof(key) = 'text' ORDER BY rowid LIMIT ?"
# As bytes, since a planted one may be no UTF-8.
_NEXT_KEYS = """
    SELECT CAST(key AS BLOB) FROM Cache
    WHERE key > CAST(? AS TEXT) AND raw = 1 AND typeof(key) = 'text' ORDER BY key LIMIT ?
"""
_COUNT_HITS = "UPDATE Cache SET access_count = access_count + ? WHERE key = ? AND raw = 1"

_disk = BytesDisk("")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing; what fails within leaves the connection to be closed."""
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def get(connection: sqlite3.Connection, key: str) -> bytes | None:
    """The entry under a key.

    Raises:
        Damaged: the row is not one that `put` wrote.
    """
    for mode, filename, value in connection.execute(_GET, (key,)).fetchall():
        return _disk.fetch(mode, filename, value, read=False)
    return None


def get_short(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, bytes | None]:
    """The entries of those keys that have one; None for one that only `get` can give, or refuse."""
    statement = f"{_GET_SHORT} ({','.join('?' * len(keys))})"
    return dict(connection.execute(statement, (SHORT_BYTES, *keys)).fetchall())


def put(connection: sqlite3.Connection, rows: Sequence[Row]) -> bool:
    """Store entries in their order, the last of each key; whether any of them took the place of another."""
    latest: dict[str, Row] = {}
    for row in rows:
        latest.pop(row[0], None)
        latest[row[0]] = _of_bytes(row)
    now_s, took_a_place, all_rows = time.time(), False, list(latest.values())
    for start in range(0, len(all_rows), _ROWS_A_STATEMENT):
        some = all_rows[start : start + _ROWS_A_STATEMENT]
        insert = f"{_INSERT} {','.join([_INSERTED] * len(some))}"
        shown = [(key, _unadapted(entry), _unadapted(summary), now_s, now_s) for key, entry, summary in some]
        values = tuple(chain.from_iterable(shown))
        if connection.execute(f"{insert} {_UNLESS_THERE}", values).rowcount < len(some):
            # A row that is written over would keep its place in the order of storing.
            connection.execute(f"{_REMOVE} ({','.join('?' * len(some))})", [key for key, _, _ in some])
            connection.execute(insert, values)
            took_a_place = True
    return took_a_place


def count_hits(connection: sqlite3.Connection, hits: Mapping[str, int]) -> None:
    connection.executemany(_COUNT_HITS, [(count, key) for key, count in hits.items()])


def number(connection: sqlite3.Connection) -> int:
    """One that changes with every `renumber`."""
    ((number,),) = connection.execute("PRAGMA user_version").fetchall()
    return int(number)


def renumber(connection: sqlite3.Connection) -> int:
    """The new number."""
    # diskcache has no use for it; a random one needs no transaction to differ from the last.
    number = secrets.randbits(31)
    connection.execute(f"PRAGMA user_version = {number}")
    return number


def summaries(connection: sqlite3.Connection, *, latest_first: bool = False) -> Iterator[tuple[Any, ...]]:
    """Key, summary, bytes on disk and hits of each row that can be one of ours, in the order of storing unless told."""
    return _pages(connection, _ROWS_FROM_THE_LAST, _BEYOND_ALL_ROWS) if latest_first else _pages(connection, _ROWS)


def summaries_of(connection: sqlite3.Connection, keys: Sequence[str]) -> list[tuple[Any, ...]]:
    """The same of some rows, by their keys."""
    return connection.execute(f"{_SOME_ROWS} ({','.join('?' * len(keys))})", keys).fetchall()


def keys_from(connection: sqlite3.Connection, beginning: str) -> list[str]:
    """The keys that begin so, found without going through all of them."""
    found = connection.execute(_SOME_KEYS, (beginning, beginning + _LAST_CHARACTER)).fetchall()
    return [key for (key,) in found]


def keys(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    return _pages(connection, _KEYS)


def keys_in_order(connection: sqlite3.Connection) -> Iterator[bytes]:
    """The keys that are text, by their bytes; the index of keys has all that is needed."""
    last = b""
    while found := connection.execute(_NEXT_KEYS, (last, _PAGE_ROWS)).fetchall():
        ((last,),) = found[-1:]
        yield from (key for (key,) in found)


def _pages(connection: sqlite3.Connection, select: str, last: int = 0) -> Iterator[tuple[Any, ...]]:
    while rows := connection.execute(select, (last, _PAGE_ROWS)).fetchall():
        last = rows[-1][0]
        yield from (row[1:] for row in rows)


def _unadapted(value: bytes) -> bytes | bytearray:
    """The same value, as `sqlite3` takes it at once.

    All but int, float, str and bytearray is offered to adapters, of which bytes have none; with two values a row, that
    takes a tenth of the time in which one is written.
    """
    return bytearray(value) if len(value) <= SHORT_BYTES else value


def _of_bytes(row: Row) -> Row:
    key, entry, summary = row
    if type(key) is not str or type(entry) is not bytes or type(summary) is not bytes:
        raise TypeError("entries and summaries are bytes, and keys are text")
    return row
