"""Several processes on one directory, which none of them has seen before: each serves what any of them has recorded."""

import asyncio
from contextlib import AsyncExitStack, ExitStack, closing
from pathlib import Path

from proxy.store.disk import Shelf
from tests.oracle import Oracle, eventually, keys_on_disk, serving
from tests.recordings import key_of
from tests.shelves import MIB, another_process, rest_of

OPEN_WHAT_IS_NAMED = """
import sys
from pathlib import Path
from proxy.store.upkeep import open_shelf
from tests.recordings import key_of
print("ready", flush=True)
for line in sys.stdin:
    shelf = open_shelf(Path(line.strip()), 2**30)
    shelf.put(key_of(sys.argv[1]), sys.argv[1].encode(), b"{}")
    assert shelf.get(key_of(sys.argv[1])) == sys.argv[1].encode()
    shelf.close()
    print("done", flush=True)
"""


def test_processes_that_make_a_store_at_the_same_moment_share_it(tmp_path: Path) -> None:
    """Three of them, ten times; some find a database that is none any more, and only one of them moves it aside."""
    names = "abc"
    with ExitStack() as opened:
        processes = [opened.enter_context(another_process(OPEN_WHAT_IS_NAMED, name)) for name in names]
        for round_ in range(10):
            directory = tmp_path / f"{round_}"
            if round_ % 2:
                directory.mkdir(mode=0o700)
                (directory / "cache.db").write_bytes(b"garbage" * 1000)
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(f"{directory}\n")
                process.stdin.flush()
            for process in processes:
                assert process.stdout is not None
                # It logs to stdout that it has moved something aside.
                assert "done\n" in iter(process.stdout.readline, "")
            with closing(Shelf.open(directory, MIB)) as shelf:
                assert set(shelf.keys()) == {key_of(name) for name in names}
            assert len(list(directory.glob("*.damaged-*Z"))) == round_ % 2
        for process in processes:
            assert not rest_of(process)


async def test_two_proxies_serve_the_recordings_of_both(tmp_path: Path) -> None:
    """They start at once, both under load, and neither has a word of trouble to say."""
    numbers = range(40)
    async with Oracle() as oracle, AsyncExitStack() as both:
        starting = [both.enter_async_context(serving(oracle, tmp_path, cache__memory_limit=0)) for _ in range(2)]
        one, other = await asyncio.gather(*starting)

        asked = await asyncio.gather(one.words(*numbers[::2]), other.words(*numbers[1::2]))
        await eventually(lambda: len(keys_on_disk(tmp_path)) == len(numbers))
        served = await asyncio.gather(one.words(*numbers), other.words(*numbers))

        assert {word for words in asked for word in words} == {"MISS"}
        assert {word for words in served for word in words} == {"HIT"}
        assert one.failures() == other.failures() == []
    assert oracle.requests_seen == len(numbers)
