"""The store's directory: made if it is not there, refused unless it is ours alone, and free of anybody else's database.

The rule: what is refused is refused before anything is read from it or written to it, with a way out.
"""

import os
import sqlite3
import stat
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from diskcache.core import DBNAME, METADATA

LOCK_TIMEOUT_S = 1.0
"""How long anything waits while another process writes. Writing takes milliseconds; who writes longer is stuck."""

_KNOWN_TABLES = {"Settings", "Cache"}
_FIND_TABLES = (
    "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
)
_FIND_SETTINGS = "SELECT key FROM Settings"


class UnusableDirectory(Exception):
    """There can be no store in this directory, and only the operator can change that. The message says how."""

    def __init__(self, directory: Path, what: str) -> None:
        super().__init__(f"cache.directory {directory}: {what}.")
        self.directory = directory


def holds_store(directory: Path) -> bool:
    """Whether anything was ever recorded there; looking makes nothing."""
    try:
        (directory / DBNAME).stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True  # something is there, and whoever opens it says what is wrong with it
    return True


def prepare(directory: Path, settings: Collection[str]) -> None:
    """Make sure of a directory that holds a database of ours, or an empty file to become one.

    `settings` are the names of those that a database of ours has, besides diskcache's own counters. A new or empty
    directory is given a `.gitignore`: recordings are nobody else's business.

    Raises:
        UnusableDirectory: it is none, is not ours alone, can't be written, or its database is not ours.
    """
    database = directory / DBNAME
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_unsafe(directory)
        if not any(directory.iterdir()):
            (directory / ".gitignore").write_text("*\n")
        # SQLite's other files take the mode of this one, and none is readable for others in a directory that is.
        os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        _refuse_foreign(database, {*settings, *METADATA})
    except FileExistsError as error:
        raise UnusableDirectory(directory, "there is a file of that name; name a directory") from error
    except OSError as error:
        raise UnusableDirectory(directory, f"it can't be used ({error.strerror}); name another one") from error
    except sqlite3.Error as error:
        raise unusable_database(directory, error) from error


def unusable_database(directory: Path, error: sqlite3.Error) -> UnusableDirectory:
    """What to tell the operator of an error on opening the database."""
    locked = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
    remedy = "end the program that holds it" if locked else "move it away to start anew, or name another directory"
    return UnusableDirectory(directory, f"its {DBNAME} can't be used ({error}); {remedy}")


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


def _refuse_foreign(database: Path, known_settings: Collection[str]) -> None:
    # diskcache waits a minute for a lock when it opens a database, and makes attributes of all settings it finds there.
    with closing(sqlite3.connect(database, timeout=LOCK_TIMEOUT_S, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        tables = {name for (name,) in connection.execute(_FIND_TABLES)}
        settings = {name for (name,) in connection.execute(_FIND_SETTINGS)} if "Settings" in tables else set()
    if not tables <= _KNOWN_TABLES or not settings <= set(known_settings):
        raise UnusableDirectory(database.parent, f"its {DBNAME} belongs to something else; name another directory")
