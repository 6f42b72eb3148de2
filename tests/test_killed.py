"""A proxy that is killed while it writes: what it leaves behind is whole, and what had reached the disk is there.

Acknowledged is what another process can read: `stored` in the log means that a recording was taken in, and it is
written within moments. Killing the process loses those moments; nothing else.
"""

import asyncio
import contextlib
import random
import signal
from contextlib import closing
from pathlib import Path

from proxy.store.codec import decode
from proxy.store.disk import Shelf
from tests.commands import reprise
from tests.oracle import Oracle, Served, eventually, keys_on_disk, serving
from tests.shelves import MIB

ROUNDS = 6
CLIENTS = 6
QUESTIONS = 300


async def keep_asking(proxy: Served, chance: random.Random, answered: list[int]) -> None:
    """Ask one question after the other, until nobody answers any more."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
        while True:
            number = chance.randrange(QUESTIONS)
            await proxy.ask(number)
            answered.append(number)


async def test_a_proxy_that_is_killed_again_and_again_never_serves_a_wrong_byte(tmp_path: Path) -> None:
    """Six times, each at another moment under load; nothing that was on disk is lost, and all of it is sound."""
    acknowledged: set[str] = set()
    async with Oracle() as oracle:
        for round_ in range(ROUNDS):
            async with serving(oracle, tmp_path, cache__memory_limit=0) as proxy:
                answered: list[int] = []
                chance = random.Random(round_)  # noqa: S311 - to be the same each time
                clients = [asyncio.create_task(keep_asking(proxy, chance, answered)) for _ in range(CLIENTS)]
                enough = chance.randrange(5, 100)
                await eventually(lambda: len(answered) >= enough)  # noqa: B023 - awaited here
                await eventually(lambda: not keys_on_disk(tmp_path) <= acknowledged)  # noqa: B023 - awaited here
                acknowledged |= keys_on_disk(tmp_path)
                proxy.command.send(signal.SIGKILL)
                await asyncio.gather(*clients)
            everything_is_sound(tmp_path / "store", acknowledged)

        async with serving(oracle, tmp_path, cache__memory_limit=0) as proxy:
            words = await proxy.words(*range(QUESTIONS))
    assert words.count("HIT") >= len(acknowledged) > 0
    assert reprise("cache", "verify", at=tmp_path, cache__directory=tmp_path / "store").code == 0


def everything_is_sound(directory: Path, acknowledged: set[str]) -> None:
    with closing(Shelf.open(directory, 100 * MIB)) as shelf:
        keys = set(shelf.keys())
        for key in keys:
            entry = shelf.get(key)
            assert entry is not None
            decode(entry, key)
    assert acknowledged <= keys
