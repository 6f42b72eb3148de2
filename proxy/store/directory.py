"""The store's directory: made if it is not there, refused unless it is ours alone, and free of anybody else's database.

The rule: what is refused is refused before anything is read from it or written to it, with a way out.
"""

import errno
import fcntl
import os
import sqlite3
import stat
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn

from diskcache.core import DBNAME, METADATA

LOCK_TIMEOUT_S = 1.0
"""How long anything waits while another process writes. Writing takes milliseconds; who writes longer is stuck."""

DATABASE: str = DBNAME
"""What the file of the database is called."""

WRITE_AHEAD_LOG = "-wal"
COMPANIONS = (WRITE_AHEAD_LOG, "-shm")
"""What follows the database's name in those of the files that SQLite keeps beside it."""

FileId = tuple[int, int]
"""Device and inode: which file it is, whatever it is called."""

_KNOWN_TABLES = {"Settings", "Cache"}
_FIND_TABLES = (
    "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
)
_FIND_SETTINGS = "SELECT key FROM Settings"

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# What SQLite says of the machine and of other processes, and not of the database.
_CIRCUMSTANCES = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL),
}


_REMEDIES = {sqlite3.SQLITE_BUSY: "end the program that holds it", sqlite3.SQLITE_FULL: "make room on its disk"}


class UnusableDirectory(Exception):
    """There can be no store in this directory, and only the operator can change that. The message says how."""

    def __init__(self, directory: Path, what: str) -> None:
        super().__init__(f"cache.directory {directory}: {what}.")
        self.directory = directory


class DamagedDatabase(UnusableDirectory):
    """The database in it is not one any more."""

    def __init__(self, directory: Path, what: str, damaged: FileId, reason: str) -> None:
        super().__init__(directory, what)
        self.damaged = damaged
        """The file that was tried."""
        self.reason = reason


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Keep out other processes that would open, make or move a database: one would take away what another has made."""
    held = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def holds_store(directory: Path) -> bool:
    """Whether anything was ever recorded there; looking makes nothing."""
    try:
        (directory / DATABASE).stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True  # something is there, and whoever opens it says what is wrong with it
    return True


def file_id(path: Path | str) -> FileId | None:
    """Which file has that name; None if that can't be told."""
    try:
        facts = os.stat(path)  # noqa: PTH116 - is asked at each look-up, and a Path takes as long again
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def make_database(database: Path) -> None:
    """Make the empty file that is to become one, where there is none; while `alone_in` its directory.

    Raises:
        OSError: it can't be made, or there is one.
    """
    # What is left beside one that was removed would be taken for a part of the new one, by SQLite and under its users.
    for companion in COMPANIONS:
        database.with_name(database.name + companion).unlink(missing_ok=True)
    # SQLite's other files take the mode of this one, and none is readable for others in a directory that is.
    os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))


@contextmanager
def prepared(directory: Path, settings: Collection[str]) -> Iterator[FileId]:
    """Make sure of a directory that holds a database of ours, or an empty file to become one; which file that is.

    Until the end of the block it stays that one: other processes wait before they open, make or move any.

    `settings` are the names of those that a database of ours has, besides diskcache's own counters. A new or empty
    directory is given a `.gitignore`: recordings are nobody else's business.

    Raises:
        UnusableDirectory: it is none, is not ours alone, can't be written, or its database is not ours;
            `DamagedDatabase` if it is no database any more.
    """
    database = directory / DATABASE
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_unsafe(directory)
        if not any(directory.iterdir()):
            (directory / ".gitignore").write_text("*\n")
        # Or another process could make one at the same time, or move this one aside before SQLite opens it: that would
        # open the next one instead, or make one that others may read.
        with alone_in(directory):
            found = _make_sure_of(database)
            _refuse_foreign(database, {*settings, *METADATA})
            yield found
    except FileExistsError as error:
        raise UnusableDirectory(directory, "there is a file of that name; name a directory") from error
    except OSError as error:
        raise UnusableDirectory(directory, f"it can't be used ({error.strerror}); name another one") from error
    except sqlite3.Error as error:
        refuse_database(directory, found, error)


def refuse_database(directory: Path, opened: FileId, error: Exception) -> NoReturn:
    """Tell the operator of an error on opening the database.

    Raises:
        UnusableDirectory: always.
    """
    code = _primary_code(error)
    remedy = _REMEDIES.get(code, "move it away to start anew")
    what = f"its {DATABASE} can't be used ({error}); {remedy}, or name another directory"
    if code in _CIRCUMSTANCES:
        raise UnusableDirectory(directory, what) from error
    raise DamagedDatabase(directory, what, opened, str(error)) from error


def is_damage(error: BaseException) -> bool:
    """Whether SQLite says of a database that was opened that it is broken."""
    return _primary_code(error) in _DAMAGE


def _primary_code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # what is above them says more of the same


def _refuse_unsafe(directory: Path) -> None:
    facts = directory.stat()
    if os.path.expandvars(directory) != str(directory):
        raise UnusableDirectory(directory, "diskcache would take the $ in it for a variable; name another one")
    if facts.st_uid != os.geteuid():
        raise UnusableDirectory(directory, f"it belongs to another user (uid {facts.st_uid}); name one of your own")
    if facts.st_mode & stat.S_IWOTH:
        raise UnusableDirectory(directory, f"everybody may write to it; try chmod o-w {directory}")
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise UnusableDirectory(directory, f"it can't be read and written; try chmod u+rwx {directory}")


def _make_sure_of(database: Path) -> FileId:
    # One that is there is not opened: to close it again would end the locks that SQLite holds in this process.
    try:
        facts = database.lstat()
    except FileNotFoundError:
        make_database(database)
        facts = database.lstat()
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "its database is not a file")
    if not os.access(database, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return facts.st_dev, facts.st_ino


def _refuse_foreign(database: Path, known_settings: Collection[str]) -> None:
    # diskcache waits a minute for a lock when it opens a database, and makes attributes of all settings it finds there.
    with closing(sqlite3.connect(database, timeout=LOCK_TIMEOUT_S, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        tables = {name for (name,) in connection.execute(_FIND_TABLES)}
        settings = {name for (name,) in connection.execute(_FIND_SETTINGS)} if "Settings" in tables else set()
    if not tables <= _KNOWN_TABLES or not settings <= set(known_settings):
        raise UnusableDirectory(database.parent, f"its {DATABASE} belongs to something else; name another directory")
