"""A program that runs until it is told to stop: its event loop, and what it does when it is told something.

The rule: what comes from outside, signals and settings, is never an error of the program.
"""

import asyncio
import ctypes
import gc
import resource
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from importlib import import_module
from typing import Any, TypeVar

from proxy import events
from proxy.app import App, StartFailed
from proxy.config import Settings, SettingsError
from proxy.events import log
from proxy.orders import Orders, Signals, StopSignals

ENDED_BY = 128  # and the number of the signal: how a shell calls the end of a program by that signal

# A thread that encodes a recording may hold the interpreter for so long while a frame waits. Python's 5 ms are longer
# than a frame takes from one end of the proxy to the other.
_SWITCH_INTERVAL_S = 0.0005

# When the collector makes a round, while every frame waits. Each miss leaves some 13 new objects, its recording, and
# hardly any in a cycle. Those that wait to be written are seldom more than 12,000, so that there is no round at all
# where as much goes as comes. Where memory fills, so many are looked through in some 3 ms, and every third time what
# those rounds left, in 9; with Python's 700 all that took a tenth of the time of a miss. Everything, a tenth of a
# second where 20,000 recordings are in memory, is looked through after 41 of the larger rounds: to fill it takes 8.
# Python 3.14 has no such generations: there the second number is how slowly it goes through what is old.
_COLLECTED_OBJECTS = (12_000, 1 if sys.version_info < (3, 14) else 5, 40)

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


async def serve(
    app: App,
    announce: Callable[[str], None],
    read_anew: Callable[[], Settings],
    set_up_log: Callable[[Settings], None],
    take_orders: Callable[[], Orders] = Signals,
) -> int:
    """Run the proxy; `announce` gets its base URL when it listens. The exit code: 0, or that of a cut short drain.

    When it is told to, the settings are read anew, in a thread, and the log is set up by them as well.

    Raises:
        StartFailed, UnusableDirectory: it can't start, see `App.start`.
    """
    orders = take_orders()
    await app.start()
    # What is here stays: modules and classes, which each full collection would look through while every frame waits.
    gc.freeze()
    gc.set_threshold(*_COLLECTED_OBJECTS)
    announce(app.base_url)
    reloading = asyncio.create_task(_reload_when_told(app, orders, read_anew, set_up_log))
    await orders.next_stop()
    reloading.cancel()
    await asyncio.wait((reloading,))
    return await _drain(app, orders)


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


async def _reload_when_told(
    app: App, orders: Orders, read_anew: Callable[[], Settings], set_up_log: Callable[[Settings], None]
) -> None:
    while True:
        await orders.next_reload()
        try:
            settings = await asyncio.to_thread(read_anew)
            await app.reload(settings)
        except (SettingsError, StartFailed, OSError, RuntimeError) as error:  # the last of a machine at its limits
            log.error(events.RELOAD_FAILED, reason=str(error))
        else:
            set_up_log(settings)


async def _drain(app: App, orders: Orders) -> int:
    draining, again = asyncio.create_task(app.stop()), asyncio.create_task(orders.next_stop())
    await asyncio.wait((draining, again), return_when=asyncio.FIRST_COMPLETED)
    if draining.done():
        again.cancel()
        await draining
        return 0
    orders.let_go()
    draining.cancel()
    await asyncio.wait((draining,))
    await app.stop(drain_s=0)
    return ENDED_BY + again.result()


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
