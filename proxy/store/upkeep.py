"""What befalls the database beneath a running proxy, noticed and made good: it is moved, removed, or damaged.

The rule: recordings were paid for, so what can't be read any more is moved aside, and the log says where it is. Of
several that were, the fullest is kept.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from proxy.events import log
from proxy.store.database import ShelfDamaged, ShelfTrouble
from proxy.store.directory import (
    COMPANIONS,
    DATABASE,
    WRITE_AHEAD_LOG,
    DamagedDatabase,
    FileId,
    alone_in,
    file_id,
    make_database,
)
from proxy.store.disk import Shelf
from proxy.store.rows import Row

STORE_SET_ASIDE = "store_set_aside"
STORE_OPENED_ANEW = "store_opened_anew"

_ASIDE = ".damaged-"


def open_shelf(directory: Path, size_limit_bytes: int) -> Shelf:
    """Open a shelf for the proxy: a database that is not one any more makes way for a new one.

    Raises:
        UnusableDirectory: there can be no store in that directory.
    """
    try:
        return Shelf.open(directory, size_limit_bytes)
    except DamagedDatabase as refused:
        damage = refused
    _make_way(damage)
    return Shelf.open(directory, size_limit_bytes)


class Upkeep:
    """Writes to a shelf, and sees to it that there is one. For one thread."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def put(self, rows: Sequence[Row]) -> None:
        """Store entries where they can be found again: all of them, or none.

        Raises:
            ShelfTrouble: the disk or the database fails.
            UnusableDirectory: the directory is gone, and there can be no other in its place.
        """
        self.tend()
        self._put(rows)
        if not self._shelf.is_in_place():  # it was moved just then, and they may be in it
            self.tend()
            self._put(rows)

    def tend(self) -> None:
        """Open what is there now, if somebody has moved or removed the database.

        Raises:
            UnusableDirectory: nothing can be there.
        """
        if self._shelf.is_in_place():
            return
        self._reopen()
        log.error(STORE_OPENED_ANEW, directory=str(self._shelf.directory), reason="its database was moved or removed")

    def examine(self) -> None:
        """Replace a database that is gone, or that nobody could open any more.

        Raises:
            ShelfTrouble, UnusableDirectory: there can be no other in its place.
        """
        self.tend()
        try:
            self._shelf.removals()
        except ShelfDamaged as refused:
            damage = refused
        else:
            return
        self._replace(str(damage))

    def _put(self, rows: Sequence[Row]) -> None:
        try:
            self._shelf.put_all(rows)
        except ShelfDamaged as refused:
            damage = refused
        else:
            return
        self._replace(str(damage))
        self._shelf.put_all(rows)

    def _replace(self, reason: str) -> None:
        try:
            _set_aside(self._shelf.directory, self._shelf.opened, reason)
        except OSError as error:
            raise ShelfTrouble(f"{reason}, and it can't be moved aside ({error.strerror})") from error
        self._reopen()

    def _reopen(self) -> None:
        try:
            self._shelf.reopen()
        except DamagedDatabase as refused:
            damage = refused
        else:
            return
        _make_way(damage)
        self._shelf.reopen()


def _make_way(damage: DamagedDatabase) -> None:
    try:
        _set_aside(damage.directory, damage.damaged, damage.reason)
    except OSError as error:
        raise damage from error


def _set_aside(directory: Path, damaged: FileId, reason: str) -> None:
    database = directory / DATABASE
    with alone_in(directory):
        if file_id(database) != damaged:
            return
        aside = directory / f"{DATABASE}{_ASIDE}{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        # The database goes last: without what stands beside it it is no less damaged, but a new one would be with it.
        for companion in (*COMPANIONS, ""):
            with suppress(FileNotFoundError):
                (directory / f"{DATABASE}{companion}").rename(directory / f"{aside.name}{companion}")
        # Before any other is removed: the new one would be given the number of that one, and whoever has found that one
        # damaged would move this one. Where it can't be made, whoever opens it says so.
        with suppress(OSError):
            make_database(database)
        removed = _keep_the_largest(directory)
    log.error(STORE_SET_ASIDE, path=str(aside), reason=reason, removed=removed)


def _keep_the_largest(directory: Path) -> list[str]:
    """Keep one damaged database, that with the most in it, so that a failing disk is not filled up with them."""
    found = [path for path in directory.glob(f"{DATABASE}{_ASIDE}*Z") if path.is_file()]
    smaller = sorted(found, key=lambda path: (_size_bytes(path), path.name))[:-1]
    for path in smaller:
        for companion in ("", *COMPANIONS):
            path.with_name(path.name + companion).unlink(missing_ok=True)
    return [path.name for path in smaller]


def _size_bytes(database: Path) -> int:
    written_ahead = database.with_name(database.name + WRITE_AHEAD_LOG)
    return database.stat().st_size + (written_ahead.stat().st_size if written_ahead.exists() else 0)
