"""The threads that a shelf is used from: everything there blocks, and the event loop never does.

The rule: each thread has a connection of its own, and closes it itself; and a job wakes one thread, and no other.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

_WAIT_S = 5.0  # for the others to end what they read, which takes a second at most
_READERS = 4  # so that a long recording does not hold up a short one

_Arguments = TypeVarTuple("_Arguments")
_T = TypeVar("_T")
_Tell = Callable[[Any, Exception | None], None]
_Result = tuple[_Tell, Any, Exception | None]
_Job = tuple[Callable[..., Any], tuple[Any, ...], _Tell]


class _Bell:
    """Wakes the one who waits for it: once for each time that it rings.

    A pipe and no lock, nor the loop's `call_soon_threadsafe`: to write lets go of the interpreter, which whoever is
    woken needs. By the others he is woken only to wait for that: two switches of threads more.
    """

    def __init__(self) -> None:
        self.outlet, self._inlet = os.pipe()

    def ring(self) -> None:
        os.write(self._inlet, b"\0")

    def wait(self) -> None:
        os.read(self.outlet, 1)

    def close(self) -> None:
        os.close(self.outlet)
        os.close(self._inlet)


class _Inbox:
    """Jobs for some threads, which take them in their order.

    Not `queue.SimpleQueue`: with each job it wakes a second thread that waits, which finds nothing, and takes the
    interpreter from the first one for that.
    """

    def __init__(self) -> None:
        self._jobs: deque[_Job | None] = deque()
        self._asleep: list[_Bell] = []

    def put(self, job: _Job | None) -> None:
        self._jobs.append(job)
        with suppress(IndexError):  # all are at work, and look here before they sleep
            self._asleep.pop().ring()  # the last one, whose memory is still at hand

    def get(self, bell: _Bell) -> _Job | None:
        """The next job, waited for; `bell` is the calling thread's own."""
        while True:
            try:
                return self._jobs.popleft()
            except IndexError:
                self._sleep(bell)

    def _sleep(self, bell: _Bell) -> None:
        self._asleep.append(bell)
        # What came just before that has woken nobody. Whoever is woken all the same looks again.
        if self._jobs:
            with suppress(IndexError):
                self._asleep.pop().ring()
        bell.wait()


class Threads:
    """Some that read, and one that writes, so that two recordings of one key are written in their order.

    Not an executor's: its futures cost more than a look-up in the database.
    """

    def __init__(self, close_connection: Callable[[], None]) -> None:
        """`close_connection` closes that of the calling thread; it gets another one when it needs it."""
        self._close_connection = close_connection
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._bells: list[_Bell] = []
        self._results: deque[_Result] = deque()
        self._done = self._new_bell()
        """Rings for each result."""
        self._loop.add_reader(self._done.outlet, self._tell_next)
        self._to_read, self._to_write = _Inbox(), _Inbox()
        self._threads = [self._started("store-writer", self._to_write)]
        self._threads += [self._started(f"store-reader-{number}", self._to_read) for number in range(_READERS)]

    def read(self, call: Callable[[*_Arguments], _T], *arguments: *_Arguments) -> asyncio.Future[_T]:
        return self._ask(self._to_read, call, arguments)

    def read_and_tell(self, call: Callable[[], _T], told: Callable[[_T], None]) -> None:
        """Have `told`, in the event loop, what `call` gives, which may not fail: a turn sooner than by a future."""

        def tell(result: _T, fault: Exception | None) -> None:
            if fault is not None:
                raise fault
            told(result)

        self._put(self._to_read, call, (), tell)

    def write(self, call: Callable[[*_Arguments], _T], *arguments: *_Arguments) -> asyncio.Future[_T]:
        return self._ask(self._to_write, call, arguments)

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
        """Do what waits to be done, and what comes of that, and end."""
        while self._under_way:
            self._idle.clear()
            await self._idle.wait()
        await self.close_connections()
        self._to_write.put(None)
        for _ in range(_READERS):
            self._to_read.put(None)
        for thread in self._threads:
            thread.join()
        self._loop.remove_reader(self._done.outlet)
        for bell in self._bells:
            bell.close()

    def _started(self, name: str, inbox: _Inbox) -> threading.Thread:
        # A program that ends without closing its store does not wait for these.
        thread = threading.Thread(target=self._work, args=(inbox, self._new_bell()), name=name, daemon=True)
        thread.start()
        return thread

    def _new_bell(self) -> _Bell:
        bell = _Bell()
        self._bells.append(bell)
        return bell

    def _ask(self, inbox: _Inbox, call: Callable[..., _T], arguments: tuple[Any, ...]) -> asyncio.Future[_T]:
        answer: asyncio.Future[_T] = self._loop.create_future()
        self._put(inbox, call, arguments, partial(_settle, answer))
        return answer

    def _put(self, inbox: _Inbox, call: Callable[..., Any], arguments: tuple[Any, ...], tell: _Tell) -> None:
        self._under_way += 1
        inbox.put((call, arguments, tell))

    def _work(self, inbox: _Inbox, bell: _Bell) -> None:
        while (job := inbox.get(bell)) is not None:
            call, arguments, tell = job
            try:
                result, fault = call(*arguments), None
            except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
                result, fault = None, error
            self._results.append((tell, result, fault))
            self._done.ring()
            # Not kept while nothing is to be done: it may be many megabytes.
            del job, call, arguments, tell, result, fault

    def _tell_next(self) -> None:
        self._done.wait()  # not at all: the loop has seen that it rang
        tell, result, fault = self._results.popleft()
        try:
            tell(result, fault)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()


def _settle(answer: asyncio.Future[_T], result: _T, fault: Exception | None) -> None:
    if answer.done():  # whoever asked was cancelled
        return
    if fault is None:
        answer.set_result(result)
    else:
        answer.set_exception(fault)
