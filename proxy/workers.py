"""A worker as its supervisor sees it: a place that a process fills, and when it dies another one.

The rule: a process that dies soon after its start is not followed at once, since the next one may do the same.
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import orjson

_SOON_S = 5.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 5.0
_MOST_DOUBLINGS = 6  # which is beyond the longest

_LONGEST_WORD_BYTES = 65_536


class Worker:
    """One of several that serve on one port."""

    def __init__(self, number: int) -> None:
        """`number`: from 1."""
        self.number = number
        self.pid = 0
        """0 while there is no process."""
        self.line: socket.socket | None = None
        """Orders go out on it, and news come in; it ends when one of the two does."""
        self.is_ready = False
        self.failure: str | None = None
        """Why it could not start, in words for the user."""
        self.due_s = 0.0
        """When it may start, by the monotonic clock."""
        self._started_s = 0.0
        self._early_deaths = 0
        self._heard = b""

    def start(self, let_go: Callable[[], None], work: Callable[[socket.socket], int]) -> None:
        """Fork. In the new process everything is let go that is its parent's alone; then it works, and exits.

        Raises:
            OSError: the system gives no process.
        """
        self._started_s = time.monotonic()
        self._heard, self.failure = b"", None
        ours, theirs = socket.socketpair()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()  # what is left in the buffer would be written by both
        # A signal that came between the fork and `let_go` would be told to the parent, and for the second time.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if not self.pid:
                ours.close()
                _end_with(work, theirs, let_go, before)
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        ours.settimeout(0)
        self.line = ours

    def tell(self, order: bytes) -> None:
        if self.line is not None:
            with suppress(OSError):  # it is dead, and its end will be heard of
                self.line.send(order)

    def hear(self) -> None:
        """Take in what it has said, without waiting."""
        if self.line is None:
            return
        try:
            news = self.line.recv(_LONGEST_WORD_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            news = b""
        if not news:
            self._hang_up()
        *lines, self._heard = (self._heard + news).split(b"\n")
        for line in lines:
            told = orjson.loads(line)
            self.is_ready |= "ready" in told
            self.failure = told.get("failed", self.failure)

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)

    def die(self) -> float:
        """Its process has ended; the seconds until the next one may start."""
        self.hear()
        self._hang_up()
        self.pid = 0
        now = time.monotonic()
        self._early_deaths = self._early_deaths + 1 if now - self._started_s < _SOON_S else 0
        delay_s = delay_s_after(self._early_deaths)
        self.due_s = now + delay_s
        return delay_s

    def _hang_up(self) -> None:
        if self.line is not None:
            self.line.close()
        self.line = None


def delay_s_after(early_deaths: int) -> float:
    """0, 0.1, 0.2, 0.4 seconds and so on, up to 5."""
    if not early_deaths:
        return 0.0
    doublings = min(early_deaths - 1, _MOST_DOUBLINGS)
    return min(_FIRST_DELAY_S * 2.0**doublings, _LONGEST_DELAY_S)


def _end_with(
    work: Callable[[socket.socket], int], line: socket.socket, let_go: Callable[[], None], signals: set[int]
) -> NoReturn:
    code = 1
    try:
        let_go()
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        code = work(line)
    except BaseException:  # noqa: BLE001 - nothing above may run in this process
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
