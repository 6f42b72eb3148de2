"""A program that runs until it is told to stop: its event loop, and what signals mean to it.

The rule: the first SIGINT or SIGTERM asks for an orderly end, the second one for an end now; neither is ever an error.
SIGHUP asks for the settings to be read anew, or, when it comes because the terminal has gone, for an orderly end.
"""

import asyncio
import ctypes
import gc
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from importlib import import_module
from typing import Any, Literal, TypeVar

from proxy import events
from proxy.app import App, StartFailed
from proxy.config import Settings, SettingsError
from proxy.events import log

_STOP = (signal.SIGINT, signal.SIGTERM)
_CUT_SHORT = 128  # and the number of the signal: how a shell calls the end of a program by that signal

# A thread that encodes a recording may hold the interpreter for so long while a frame waits. Python's 5 ms are longer
# than a frame takes from one end of the proxy to the other.
_SWITCH_INTERVAL_S = 0.0005

_MACOS_DESCRIPTORS = 10_240  # macOS calls the limit infinite, and gives no more than this (OPEN_MAX)

_M_ARENA_MAX = -8  # mallopt(3)

_T = TypeVar("_T")


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a program to its end, on uvloop where that is installed."""
    _take_all_descriptors()
    _keep_one_heap()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


class StopSignals:
    """SIGINT and SIGTERM as they come, instead of what they would do by themselves."""

    def __init__(self) -> None:
        self._received = asyncio.Queue[signal.Signals]()
        self._loop = asyncio.get_running_loop()
        for number in _STOP:
            self._loop.add_signal_handler(number, self._received.put_nowait, number)

    async def next(self) -> signal.Signals:
        return await self._received.get()

    def take_for_one(self, number: signal.Signals) -> None:
        """Another signal that means the same this time."""
        self._received.put_nowait(number)

    def let_go(self) -> None:
        """From here on a signal ends the process."""
        for number in _STOP:
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)


class Hangups:
    """SIGHUP as it comes: the settings are to be read anew, or the terminal has gone."""

    def __init__(self) -> None:
        self._received = asyncio.Queue[None]()
        # Under nohup a terminal that goes is no reason to end.
        self._had_terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._received.put_nowait, None)

    async def next(self) -> Literal["read anew", "terminal gone"]:
        await self._received.get()
        return "terminal gone" if self._had_terminal and not _has_terminal() else "read anew"


async def serve(
    settings: Settings,
    announce: Callable[[str], None],
    read_anew: Callable[[], Settings],
    set_up_log: Callable[[Settings], None],
) -> int:
    """Run the proxy; `announce` gets its base URL when it listens. The exit code: 0, or that of a cut short drain.

    On SIGHUP the settings are read anew, in a thread, and the log is set up by them as well.

    Raises:
        StartFailed, UnusableDirectory: it can't start, see `App.start`.
    """
    signals, hangups = StopSignals(), Hangups()
    set_up_log(settings)
    app = App(settings)
    await app.start()
    # What is here stays: modules and classes, which each full collection would look through while every frame waits.
    gc.freeze()
    announce(app.base_url)
    reloading = asyncio.create_task(_reload_on_hangup(app, hangups, signals, read_anew, set_up_log))
    await signals.next()
    reloading.cancel()
    await asyncio.wait((reloading,))
    return await _drain(app, signals)


async def until_stopped(work: Awaitable[None]) -> None:
    """Do the work, or as much of it as there is time for until the first signal."""
    signals = StopSignals()
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(signals.next())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    signals.let_go()
    stopping.cancel()
    working.cancel()
    try:
        await working
    except asyncio.CancelledError:
        return


async def _reload_on_hangup(
    app: App,
    hangups: Hangups,
    signals: StopSignals,
    read_anew: Callable[[], Settings],
    set_up_log: Callable[[Settings], None],
) -> None:
    while await hangups.next() == "read anew":
        try:
            settings = await asyncio.to_thread(read_anew)
            await app.reload(settings)
        except (SettingsError, StartFailed, OSError, RuntimeError) as error:  # the last of a machine at its limits
            log.error(events.RELOAD_FAILED, reason=str(error))
        else:
            set_up_log(settings)
    signals.take_for_one(signal.SIGHUP)


def _has_terminal() -> bool:
    """Whether a terminal controls this process; it does no more once it has hung up."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def _drain(app: App, signals: StopSignals) -> int:
    draining, again = asyncio.create_task(app.stop()), asyncio.create_task(signals.next())
    await asyncio.wait((draining, again), return_when=asyncio.FIRST_COMPLETED)
    if draining.done():
        again.cancel()
        await draining
        return 0
    signals.let_go()
    draining.cancel()
    await asyncio.wait((draining,))
    await app.stop(drain_s=0)
    return _CUT_SHORT + again.result()


def _take_all_descriptors() -> None:
    """Have as many files and connections open as the system allows: some 500 streams use up the 1024 of a shell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (hard, max(soft, _MACOS_DESCRIPTORS)):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return


def _keep_one_heap() -> None:
    """Have glibc give what one thread has freed to the others, too: with a heap for each of them memory only grew."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory
