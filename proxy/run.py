"""A program that runs until it is told to stop: its event loop, and what signals mean to it.

The rule: the first SIGINT or SIGTERM asks for an orderly end, the second one for an end now; neither is ever an error.
"""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from importlib import import_module
from typing import Any, TypeVar

from proxy.app import App
from proxy.config import Settings

_STOP = (signal.SIGINT, signal.SIGTERM)
_CUT_SHORT = 128  # and the number of the signal: how a shell calls the end of a program by that signal

# A thread that encodes a recording may hold the interpreter for so long while a frame waits. Python's 5 ms are longer
# than a frame takes from one end of the proxy to the other.
_SWITCH_INTERVAL_S = 0.0005

_T = TypeVar("_T")


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a program to its end, on uvloop where that is installed."""
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

    def let_go(self) -> None:
        """From here on a signal ends the process."""
        for number in _STOP:
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)


async def serve(settings: Settings, announce: Callable[[str], None]) -> int:
    """Run the proxy; `announce` gets its base URL when it listens. The exit code: 0, or that of a cut short drain.

    Raises:
        StartFailed, UnusableDirectory: it can't start, see `App.start`.
    """
    signals = StopSignals()
    app = App(settings)
    await app.start()
    announce(app.base_url)
    await signals.next()
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


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory
