"""The threads that a shelf is used from: everything there blocks, and the event loop never does.

The rule: each thread has a connection of its own, and closes it itself.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar, TypeVarTuple

_WAIT_S = 5.0  # for the others to end what they read, which takes a second at most
_READERS = 4  # so that a long recording does not hold up a short one

_Arguments = TypeVarTuple("_Arguments")
_T = TypeVar("_T")


class Threads:
    """Some that read, and one that writes, so that two recordings of one key are written in their order."""

    def __init__(self, close_connection: Callable[[], None]) -> None:
        """`close_connection` closes that of the calling thread; it gets another one when it needs it."""
        self._close_connection = close_connection
        self._readers = ThreadPoolExecutor(_READERS, "store-reader")
        self._writer = ThreadPoolExecutor(1, "store-writer")

    async def read(self, call: Callable[[*_Arguments], _T], *arguments: *_Arguments) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, call, *arguments)

    async def write(self, call: Callable[[*_Arguments], _T], *arguments: *_Arguments) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, call, *arguments)

    async def close_connections(self) -> None:
        """Close those of all threads, each when it has done what it is at."""
        all_here = threading.Barrier(_READERS)

        def close_one() -> None:
            # One that waits here for the others can't be given a second of these. Some may never come.
            with suppress(threading.BrokenBarrierError):
                all_here.wait(_WAIT_S)
            self._close_connection()

        await asyncio.gather(self.write(self._close_connection), *(self.read(close_one) for _ in range(_READERS)))

    async def close(self) -> None:
        """Do what waits to be done, and end."""
        await self.close_connections()
        self._readers.shutdown()
        self._writer.shutdown()
