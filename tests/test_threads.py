"""The threads of the store: every job is done once, and none waits while a thread sleeps."""

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.store.threads import Threads, _Bell, _Inbox

JOBS = 2000


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    opened = Threads(lambda: None)
    yield opened
    await opened.close()


@pytest.fixture
def restless() -> Iterator[None]:
    """The interpreter goes from thread to thread all the time, so that they meet wherever they can."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before_s)


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("way", ["read", "write"])
async def test_each_job_of_many_is_done_once(way: str, threads: Threads) -> None:
    """However they come: one by one, when a thread is just falling asleep, which may be the only one; or together."""
    ask = getattr(threads, way)
    done: list[int] = []
    for number in range(JOBS):
        job = ask(done.append, number)
        if number % 7:
            await job
    await asyncio.gather(*(ask(done.append, number) for number in range(JOBS, 2 * JOBS)))

    assert Counter(done) == Counter(range(2 * JOBS))


def test_a_job_that_comes_while_the_last_thread_falls_asleep_is_seen() -> None:
    """After it has seen that there is none, and before it can be woken."""
    inbox, bell = _Inbox(), _Bell()
    job = print, (), lambda *_: None

    class Sleepers(list[_Bell]):
        def append(self, bell: _Bell) -> None:
            inbox.put(job)
            super().append(bell)

    inbox._asleep = Sleepers()

    assert inbox.get(bell) is job
    bell.close()


async def test_a_result_that_can_not_be_told_holds_up_none_behind_it(threads: Threads) -> None:
    """The loop hears of the fault, and who asked for the others of theirs."""
    loop, heard = asyncio.get_running_loop(), asyncio.Queue[object]()
    loop.set_exception_handler(lambda _, context: heard.put_nowait(context["exception"]))

    for _ in range(20):
        threads.read_and_tell(lambda: 1 // 0, print)
    found = await asyncio.gather(*(threads.read(int, number) for number in range(20)))

    assert found == [*range(20)]
    assert [type(await heard.get()) for _ in range(20)] == [ZeroDivisionError] * 20


async def test_no_descriptor_is_left_of_threads_that_have_ended() -> None:
    """What wakes them is given back, or each reopened store would leave some."""
    before = _descriptors()
    opened = Threads(lambda: None)
    assert await opened.read(int) == await opened.write(int) == 0

    await opened.close()

    assert _descriptors() == before


async def test_what_is_written_is_written_in_its_order(threads: Threads) -> None:
    """By one thread, however many jobs wait for it."""
    done: list[int] = []

    await asyncio.gather(*(threads.write(done.append, number) for number in range(JOBS)))

    assert done == [*range(JOBS)]


async def test_a_long_job_holds_up_none_behind_it(threads: Threads) -> None:
    """Where one thread is at it, another one takes the next."""
    go_on = threading.Event()
    long = threads.read(go_on.wait, 20)

    names = {await threads.read(lambda: threading.current_thread().name) for _ in range(20)}

    go_on.set()
    assert await long
    assert all(name.startswith("store-reader-") for name in names)


def _descriptors() -> int:
    return len([*Path("/dev/fd").iterdir()])
