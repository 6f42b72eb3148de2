"""Whether any other process writes to the store in a directory.

The first to write is the sole writer, and need not tell anyone of what it writes. Whoever comes while there is one is a
guest, and leaves a mark before it writes anything: so who looks at the mark knows whether he is still alone.

The rule: in doubt there is somebody.
"""

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path

_SOLE, _GUESTS = "writer.lock", "guests.lock"
_MARK_BYTES = 8
_AT_ONCE = getattr(os, "RWF_NOWAIT", 0)  # preadv(2): what would have to be fetched from the disk is an error


class Presence:
    """This process in one directory, among others. Two in one process are two to each other."""

    def __init__(self, directory: Path) -> None:
        """Raises `OSError`."""
        self._sole, self._guests = -1, -1
        self._is_sole = self._is_guest = False
        self._seen = bytearray(_MARK_BYTES)
        self._sole, self._guests = _opened(directory / _SOLE), _opened(directory / _GUESTS)
        if os.fstat(self._guests).st_size != _MARK_BYTES:
            os.pwrite(self._guests, bytes(_MARK_BYTES), 0)

    def __del__(self) -> None:
        self.close()

    def enter(self) -> None:
        """Be known to whoever is here, before anything is written. Raises `OSError`."""
        if self._is_sole or self._is_guest:
            return
        self._is_sole = _is_locked(self._sole, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not self._is_sole:
            fcntl.flock(self._guests, fcntl.LOCK_SH)
            os.pwrite(self._guests, secrets.token_bytes(_MARK_BYTES), 0)
            self._is_guest = True

    def mark_if_alone(self) -> bytes | None:
        """The mark that will stay as long as nobody else writes here; None if somebody may."""
        self._is_sole = self._is_sole or _is_locked(self._sole, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not self._is_sole:
            return None
        if self._is_guest:
            fcntl.flock(self._guests, fcntl.LOCK_UN)
            self._is_guest = False
        if not _is_locked(self._guests, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return None
        mark = os.pread(self._guests, _MARK_BYTES, 0)
        fcntl.flock(self._guests, fcntl.LOCK_UN)  # who comes from here on changes it
        return mark

    def is_unchanged(self, mark: bytes) -> bool:
        """Whether nobody has come since; takes no time."""
        # Not by mapping it: a file that somebody has made shorter would be a signal that ends the process.
        try:
            os.preadv(self._guests, (self._seen,), 0, _AT_ONCE)
        except OSError:
            return False
        return self._seen == mark

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
        fcntl.flock(held, how)
        return True
    return False
