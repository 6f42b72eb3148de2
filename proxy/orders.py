"""What a running program is told from outside: to stop, to stop now, to read its settings anew.

The rule: the first SIGINT or SIGTERM asks for an orderly end, the second one for an end now. SIGHUP asks for the
settings to be read anew, or, when it comes because the terminal has gone, for an orderly end.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Protocol, Self

STOP = (signal.SIGINT, signal.SIGTERM)

_SIGNALS_AT_ONCE = 1024


class Orders(Protocol):
    """What a program that serves is told."""

    async def next_stop(self) -> int:
        """To stop, or when it has been told already, to stop now: the number of a signal."""
        ...

    async def next_reload(self) -> None:
        """To read the settings anew."""
        ...

    def let_go(self) -> None:
        """From here on a signal ends the process."""
        ...


class StopSignals:
    """SIGINT and SIGTERM as they come, instead of what they would do by themselves."""

    def __init__(self) -> None:
        self._received = asyncio.Queue[signal.Signals]()
        self._loop = asyncio.get_running_loop()
        for number in STOP:
            self._loop.add_signal_handler(number, self._received.put_nowait, number)

    async def next(self) -> signal.Signals:
        return await self._received.get()

    def take_for_one(self, number: signal.Signals) -> None:
        """Another signal that means the same this time."""
        self._received.put_nowait(number)

    def let_go(self) -> None:
        """From here on a signal ends the process."""
        for number in STOP:
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)


class Signals:
    """The orders of a program that is a process by itself."""

    def __init__(self) -> None:
        self._stops = StopSignals()
        self._hangups = asyncio.Queue[None]()
        self._terminal = Terminal()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hangups.put_nowait, None)

    async def next_stop(self) -> int:
        return await self._stops.next()

    async def next_reload(self) -> None:
        await self._hangups.get()
        if self._terminal.is_gone():
            # Once: a shell that ends sends a SIGHUP of its own, and that is no second signal to stop.
            self._stops.take_for_one(signal.SIGHUP)
            await asyncio.Event().wait()

    def let_go(self) -> None:
        self._stops.let_go()


class SignalPipe:
    """Signals as numbers that can be read, for who has no event loop and waits for other things as well."""

    def __init__(self, numbers: Sequence[signal.Signals]) -> None:
        self._numbers = numbers
        self._reading, self._writing = socket.socketpair()
        for end in (self._reading, self._writing):
            end.settimeout(0)

    def __enter__(self) -> Self:
        signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, _nothing)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """From here on they do what they would do by themselves."""
        signal.set_wakeup_fd(-1)
        for number in self._numbers:
            signal.signal(number, signal.SIG_DFL)
        self._reading.close()
        self._writing.close()

    def fileno(self) -> int:
        return self._reading.fileno()

    def take(self) -> bytes:
        """The numbers of those that have come since it was asked last."""
        try:
            return self._reading.recv(_SIGNALS_AT_ONCE)
        except BlockingIOError:
            return b""


class Terminal:
    """The one that controls this process, if it had any when this was made."""

    def __init__(self) -> None:
        # Under nohup a terminal that goes is no reason to end.
        self._had_one = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()

    def is_gone(self) -> bool:
        return self._had_one and not _has_terminal()


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """It is enough that a handler is there."""


def _has_terminal() -> bool:
    """Whether a terminal controls this process; it does no more once it has hung up."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
