"""Proxies on a disk that is full, read-only, locked, or too small: requests are answered all the same."""

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.commands import reprise
from tests.harness import PATIENCE_S
from tests.oracle import Oracle, Served, eventually, keys_on_disk, serving
from tests.shelves import HOLD_THE_LOCK, another_process


async def written(at: Path, recordings: int) -> None:
    await eventually(lambda: len(keys_on_disk(at)) == recordings)


async def recovers(proxy: Served, what: str, first: int) -> None:
    """Ask one question after the other, beginning with that one, until the log says that it is over."""
    numbers = iter(range(first, first + 10_000))
    async with asyncio.timeout(PATIENCE_S):
        while what not in proxy.recoveries():
            assert await proxy.ask(next(numbers)) == "MISS"


@contextmanager
def full_disk(proxy: Served, room_bytes: int) -> Iterator[None]:
    """No file of this process can grow beyond that size, as if nothing were left of the disk."""
    _, most = resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE, (room_bytes, most))
    yield
    resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE, (most, most))


async def test_a_full_disk_costs_recordings_and_no_answers(tmp_path: Path) -> None:
    """What was stored is still a hit; what found no room is a miss later; two lines in the log, no more."""
    async with Oracle(100_000) as oracle, serving(oracle, tmp_path, cache__memory_limit=0) as proxy:
        assert await proxy.words(0, 1) == ["MISS", "MISS"]
        await written(tmp_path, 2)

        with full_disk(proxy, 160_000):
            for first in range(2, 42, 4):
                assert set(await proxy.words(*range(first, first + 4))) == {"MISS"}
            await proxy.command.logged("store_failed")
            assert await proxy.words(0, 1) == ["HIT", "HIT"]
            await eventually(lambda: len(proxy.command.log("request")) == 44)
            found = len(keys_on_disk(tmp_path))
            assert found < 20
        await recovers(proxy, "writing", 100)

        assert proxy.failures().count("writing") == proxy.recoveries().count("writing") == 1
        assert len(proxy.failures()) == len(set(proxy.failures()))
        words = await proxy.words(*range(42))
        assert words[:2] == ["HIT", "HIT"]
        assert found <= words.count("HIT") < 42  # those that still waited have found room again
    assert reprise("cache", "verify", at=tmp_path, cache__directory=tmp_path / "store").code == 0


def set_modes(at: Path, *, writable: bool) -> None:
    directory = at / "store"
    for path in directory.glob("cache.db*"):
        path.chmod(0o600 if writable else 0o400)
    directory.chmod(0o700 if writable else 0o500)


async def test_a_directory_that_turns_read_only_costs_recordings_and_no_answers(tmp_path: Path) -> None:
    """It is said once for reading and once for writing, and recording goes on when it is writable again."""
    async with Oracle(2_000) as oracle, serving(oracle, tmp_path, cache__memory_limit=0) as proxy:
        set_modes(tmp_path, writable=False)
        try:
            for number in range(20):
                assert await proxy.ask(number) == "MISS"
            await eventually(lambda: "writing" in proxy.failures())
            assert await proxy.ready() == 503
        finally:
            set_modes(tmp_path, writable=True)
        await recovers(proxy, "writing", 100)

        assert len(proxy.failures()) == len(set(proxy.failures()))
        assert await proxy.ready() == 200
        stored = len(keys_on_disk(tmp_path))
        assert await proxy.ask(0) == "MISS"
        await eventually(lambda: len(keys_on_disk(tmp_path)) > stored)
        assert await proxy.ask(0) == "HIT"


def test_a_read_only_directory_is_refused_at_the_start(tmp_path: Path) -> None:
    """A mistake of the operator's, who is told the way out."""
    (tmp_path / "store").mkdir(mode=0o500)

    ended = reprise("serve", at=tmp_path, cache__directory=tmp_path / "store", server__port=0)

    assert (ended.code, ended.out) == (2, "")
    assert f"it can't be read and written; try chmod u+rwx {tmp_path / 'store'}" in ended.err


async def test_a_lock_that_another_process_holds_costs_recordings_and_no_answers(tmp_path: Path) -> None:
    """Streams flow and hits are served from disk meanwhile; the log says it once."""
    async with Oracle(2_000) as oracle, serving(oracle, tmp_path, cache__memory_limit=0) as proxy:
        assert await proxy.ask(0) == "MISS"
        await written(tmp_path, 1)

        with another_process(HOLD_THE_LOCK, tmp_path / "store" / "cache.db"):
            for first in range(1, 41, 10):
                assert set(await proxy.words(0, *range(first, first + 10))) == {"HIT", "MISS"}
            await proxy.command.logged("store_failed")
            assert await proxy.ask(0) == "HIT"
        await recovers(proxy, "writing", 100)

        assert proxy.failures().count("writing") == proxy.recoveries().count("writing") == 1
        assert len(proxy.failures()) == len(set(proxy.failures()))


async def test_a_store_that_is_too_small_holds_what_it_can(tmp_path: Path) -> None:
    """Under load the limit is kept to within one recording, and whoever reads meanwhile gets the right bytes."""
    limit = {"cache__size_limit": "400KiB", "cache__max_recording_size": "300KiB", "cache__memory_limit": 0}
    async with Oracle(60_000) as oracle, serving(oracle, tmp_path, **limit) as proxy:
        words: list[str] = []
        for _ in range(4):
            words += await proxy.words(*range(12), *range(6))
            await eventually(lambda: len(keys_on_disk(tmp_path)) > 0)

        await eventually(lambda: len(proxy.command.log("request")) == len(words))
        assert {"HIT", "MISS"} <= set(words) <= {"HIT", "MISS", "JOINED"}
        assert proxy.failures() == []
        assert 0 < len(keys_on_disk(tmp_path)) <= 12
        assert (tmp_path / "store" / "cache.db").stat().st_size <= 400 * 1024 + 60_000
