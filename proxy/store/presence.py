"""Whether any other process writes to the store in a directory.

The first to write is the sole writer, and need not tell anyone of what it writes. Whoever comes while there is one is a
guest, and leaves a mark before it writes anything: so who looks at the mark knows whether he is still alone.

The rule: in doubt there is somebody.
"""

import errno
import fcntl
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from proxy.store.directory import LOCK_TIMEOUT_S, file_id

_SOLE, _GUESTS = "writer.lock", "guests.lock"
_MARK_BYTES = 8
_RETRY_S = 0.005
_AT_ONCE = getattr(os, "RWF_NOWAIT", 0)  # preadv(2): what would have to be fetched from the disk is an error


class Presence:
    """This process in one directory, among others. Two in one process are two to each other."""

    def __init__(self, directory: Path) -> None:
        """Raises `OSError`."""
        self._sole = self._guests = -1
        self._is_sole = self._is_guest = False
        self._names = directory / _SOLE, directory / _GUESTS
        self._sole = _opened(self._names[0])
        self._guests = _opened(self._names[1])
        self._ids = [(facts.st_dev, facts.st_ino) for facts in map(os.fstat, (self._sole, self._guests))]
        if os.fstat(self._guests).st_size != _MARK_BYTES:
            os.ftruncate(self._guests, _MARK_BYTES)  # writes nothing over a mark that was left just then
        self._how = _AT_ONCE if _can_read_at_once(self._guests) else 0

    def __del__(self) -> None:
        self.close()

    def is_in_place(self) -> bool:
        """Whether the files that tell of us are those that others find in the directory."""
        return [file_id(name) for name in self._names] == self._ids

    def enter(self) -> None:
        """Be known to whoever is here, before anything is written. Raises `OSError`."""
        if self._is_sole or self._is_guest:
            return
        self._is_sole = _is_locked(self._sole, fcntl.LOCK_EX)
        if self._is_sole:
            return
        until_s = time.monotonic() + LOCK_TIMEOUT_S
        while not _is_locked(self._guests, fcntl.LOCK_SH):  # held for some microseconds, see `mark_if_alone`
            if time.monotonic() > until_s:
                raise TimeoutError(errno.EBUSY, f"{_GUESTS} is held by a process that has stopped")
            time.sleep(_RETRY_S)
        os.pwrite(self._guests, secrets.token_bytes(_MARK_BYTES), 0)
        self._is_guest = True

    def mark_if_alone(self) -> bytes | None:
        """The mark that will stay as long as nobody else writes here; None if somebody may."""
        self._is_sole = self._is_sole or _is_locked(self._sole, fcntl.LOCK_EX)
        if not self._is_sole:
            return None
        if self._is_guest:
            fcntl.flock(self._guests, fcntl.LOCK_UN)
            self._is_guest = False
        if not _is_locked(self._guests, fcntl.LOCK_EX):
            return None
        mark = os.pread(self._guests, _MARK_BYTES, 0)
        fcntl.flock(self._guests, fcntl.LOCK_UN)  # who comes from here on changes it
        return mark

    def is_unchanged(self, mark: bytes) -> bool:
        """Whether nobody has come since; takes no time."""
        # Not by mapping it: a file that somebody has made shorter would be a signal that ends the process.
        seen = bytearray(_MARK_BYTES)
        try:
            read = os.preadv(self._guests, (seen,), 0, self._how)
        except OSError:
            return False
        return read == _MARK_BYTES and seen == mark

    def close(self) -> None:
        """Leave."""
        held, self._sole, self._guests = (self._sole, self._guests), -1, -1
        for one in held:
            if one >= 0:
                os.close(one)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _is_locked(held: int, how: int) -> bool:
    with suppress(OSError):
        fcntl.flock(held, how | fcntl.LOCK_NB)
        return True
    return False


def _can_read_at_once(held: int) -> bool:
    """Not on tmpfs and overlayfs, for example; there bytes that are asked for all the time are read as they are."""
    try:
        os.preadv(held, (bytearray(_MARK_BYTES),), 0, _AT_ONCE)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return True
