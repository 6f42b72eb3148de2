"""What a database takes on its disk: how much, how it is kept within a limit, and how it gets smaller.

The rule: nobody else has to wait for long, so whatever is done here is done in transactions of a few milliseconds.

What is removed leaves pages free within the file, and the next recordings use them. Only what is beyond the limit is
given back to the disk (`auto_vacuum` INCREMENTAL): with FULL, diskcache's default, each transaction moves pages from
the end of the file to wherever one has become free. With a million recordings that made one that drives out others six
times as slow as one for which there is room; now it is half as slow again.
"""

import sqlite3

_ROWS_AT_ONCE = 500
_BYTES_AT_ONCE = 4 * 1024 * 1024

# Evicted at once, so that the next recordings find room: so much, or that part of the limit where it is less.
_SPARE_BYTES = 256 * 1024
_SPARE_PART = 64

# In the order in which they were stored, and not by the clock, which may have been wrong for some of them.
_OLDEST = "SELECT rowid FROM Cache ORDER BY rowid LIMIT ?"
_EVICT = "DELETE FROM Cache WHERE rowid = ?"
# The latest first: they are at the end of the file, which can be cut off there.
_CLEAR = "DELETE FROM Cache WHERE rowid IN (SELECT rowid FROM Cache WHERE rowid <= ? ORDER BY rowid DESC LIMIT ?)"
_LATEST = "SELECT coalesce(max(rowid), 0) FROM Cache"


def volume_bytes(connection: sqlite3.Connection) -> int:
    """The size of the database, with what is free in it."""
    return _number(connection, "page_count") * _number(connection, "page_size")


def make_room(connection: sqlite3.Connection, limit_bytes: int) -> None:
    """Bring a database that is larger than the limit down to it: the oldest recordings give way."""
    spare_bytes = min(_SPARE_BYTES, limit_bytes // _SPARE_PART)
    while (excess_bytes := volume_bytes(connection) - limit_bytes) > 0:
        connection.execute("BEGIN IMMEDIATE")
        evicted = _evict(connection, excess_bytes, spare_bytes)
        connection.execute("COMMIT")
        if not (_give_back(connection, excess_bytes) or evicted):
            return


def clear(connection: sqlite3.Connection) -> int:
    """Remove all recordings that there are now, and give their room back; how many there were."""
    count = 0
    ((latest,),) = connection.execute(_LATEST).fetchall()
    while True:
        removed = connection.execute(_CLEAR, (latest, _ROWS_AT_ONCE)).rowcount
        count += removed
        if not (_give_back(connection, _BYTES_AT_ONCE) or removed):
            return count


def give_back(connection: sqlite3.Connection) -> None:
    """Make the database smaller by all that is free in it."""
    while _give_back(connection, _BYTES_AT_ONCE):
        pass


def _evict(connection: sqlite3.Connection, excess_bytes: int, spare_bytes: int) -> int:
    """Where less than the excess is free, remove the oldest until it is, and some to spare; how many that were."""
    if _free_bytes(connection) >= excess_bytes:
        return 0
    evicted = 0
    for row in connection.execute(_OLDEST, (_ROWS_AT_ONCE,)).fetchall():
        if _free_bytes(connection) >= excess_bytes + spare_bytes:
            break
        connection.execute(_EVICT, row)
        evicted += 1
    return evicted


def _give_back(connection: sqlite3.Connection, size_bytes: int) -> bool:
    """Make the database smaller by that much, or by what is free in it; whether it has become smaller."""
    before = _number(connection, "page_count")
    pages = -(-min(size_bytes, _BYTES_AT_ONCE) // _number(connection, "page_size"))
    # Not execute(): it would end after the first page, since the result has rows and no columns.
    connection.executescript(f"PRAGMA incremental_vacuum({pages})")
    return _number(connection, "page_count") < before


def _free_bytes(connection: sqlite3.Connection) -> int:
    return _number(connection, "freelist_count") * _number(connection, "page_size")


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    ((number,),) = connection.execute(f"PRAGMA {pragma}").fetchall()
    return int(number)
