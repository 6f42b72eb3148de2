"""An event loop whose timers are right to some ten microseconds, for the programs that measure.

The rule: a stall of our own must not look like one of the subject's.
"""

import asyncio
import gc
import select
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")

_FAR_S = 0.01  # a timer that epoll can wait for: a system call less


class _PreciseSelector(selectors.EpollSelector):
    """epoll and uvloop count in milliseconds, which would send the frames of many streams in bursts."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        if timeout > _FAR_S:
            # The loop asks again when nothing is due yet.
            return super().select(timeout - _FAR_S / 2)
        is_ready, _, _ = select.select((self.fileno(),), (), (), timeout)
        return super().select(0) if is_ready else []


def runner() -> asyncio.Runner:
    """A runner on asyncio's own loop, which sends at the moment of the write; uvloop does so some time later."""
    # A collection takes milliseconds; these programs live for minutes and make few cycles.
    gc.disable()
    return asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_PreciseSelector()))


def run(work: Coroutine[Any, Any, _T]) -> _T:
    with runner() as running:
        return running.run(work)
