"""A key that is surely not on the shelf is not looked for there, and no key is taken for one that may be."""

import asyncio
import fcntl
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing, closing
from pathlib import Path
from secrets import token_hex

import pytest

from proxy.store import presence as presence_module
from proxy.store import tiered as store_module
from proxy.store.absence import Absence
from proxy.store.directory import UnusableDirectory
from proxy.store.disk import Shelf
from proxy.store.presence import Presence
from proxy.store.tiered import TieredStore
from tests.exchanges import until
from tests.recordings import key_of, recording
from tests.shelves import MIB, another_process, plant, plant_row, put

ENTER = """
import sys
from pathlib import Path
from proxy.store.presence import Presence
presence = Presence(Path(sys.argv[1]))
presence.enter()
print("ready", flush=True)
sys.stdin.read()
"""

Enter = Callable[[], Presence]
OpenStore = Callable[[], Awaitable["Watched"]]


class WatchedShelf(Shelf):
    """A shelf that remembers what was looked for."""

    looked_for: list[str]

    def get_short(self, keys: Sequence[str]) -> dict[str, bytes | None]:
        self.looked_for += keys
        return super().get_short(keys)


class Watched:
    """A store without a memory tier, and what it looked for on its shelf."""

    def __init__(self, directory: Path) -> None:
        self.shelf = WatchedShelf.open(directory, 100 * MIB)
        self.shelf.looked_for = []
        self.store = TieredStore(self.shelf, 0)

    async def knows(self) -> None:
        """Wait until it knows what there is."""
        await until(lambda: not self.store._absence.is_in_doubt())

    async def has_written(self) -> None:
        await until(lambda: not self.store._waiting)

    async def finds(self, key: str) -> bool:
        return await self.store.fetch(key) is not None

    async def aclose(self) -> None:
        await self.store.close()
        self.shelf.close()


def take_over(database_of: Path, directory: Path) -> None:
    """Put one database in the place of another."""
    for path in directory.glob("cache.db*"):
        path.unlink()
    for path in database_of.glob("cache.db*"):
        path.rename(directory / path.name)


@pytest.fixture
def enter(tmp_path: Path) -> Iterator[Enter]:
    """A function that gives one more presence in the directory, which has not entered."""
    with ExitStack() as all_here:
        yield lambda: all_here.enter_context(closing(Presence(tmp_path)))


@pytest.fixture
async def open_store(tmp_path: Path) -> AsyncIterator[OpenStore]:
    async with AsyncExitStack() as all_open:

        async def open_one() -> Watched:
            return await all_open.enter_async_context(aclosing(Watched(tmp_path)))

        yield open_one


# Who is here


def test_one_who_is_alone_stays_so_until_somebody_comes(enter: Enter) -> None:
    """Each of those who come leaves a mark, and it is not alone again before all have gone."""
    one, second, third = enter(), enter(), enter()
    one.enter()
    mark = one.mark_if_alone()
    assert mark is not None
    assert one.is_unchanged(mark)

    second.enter()
    third.enter()

    assert not one.is_unchanged(mark)
    assert one.mark_if_alone() is None
    second.close()
    assert one.mark_if_alone() is None
    third.close()
    later = one.mark_if_alone()
    assert later not in (None, mark)


def test_a_guest_is_never_alone_while_the_first_is_there(enter: Enter) -> None:
    """It takes the other's place when that one leaves, and then hears of the next."""
    first, guest = enter(), enter()
    first.enter()
    guest.enter()
    assert guest.mark_if_alone() is None

    first.close()

    mark = guest.mark_if_alone()
    assert mark is not None
    enter().enter()
    assert not guest.is_unchanged(mark)


def test_one_who_only_looks_disturbs_nobody(enter: Enter) -> None:
    """A listing opens the store and writes nothing."""
    one = enter()
    one.enter()
    mark = one.mark_if_alone()
    assert mark is not None

    enter()

    assert one.is_unchanged(mark)
    assert one.mark_if_alone() == mark


def test_a_process_that_is_killed_leaves_nothing_behind(enter: Enter, tmp_path: Path) -> None:
    """Its locks end with it."""
    one = enter()
    one.enter()
    with another_process(ENTER, str(tmp_path)) as other:
        assert one.mark_if_alone() is None
        other.send_signal(signal.SIGKILL)
        other.wait()

    assert one.mark_if_alone() is not None


def test_one_who_has_left_is_sure_of_nothing(enter: Enter) -> None:
    """Nor does it fail when it is asked."""
    one = enter()
    mark = one.mark_if_alone()
    assert mark is not None

    one.close()
    one.close()

    assert not one.is_unchanged(mark)
    assert not one.is_unchanged(bytes(8))


def test_a_mark_that_is_gone_is_none(enter: Enter, tmp_path: Path) -> None:
    """Somebody has emptied the file that it stands in."""
    one = enter()
    mark = one.mark_if_alone()
    assert mark is not None
    assert one.is_unchanged(mark)

    (tmp_path / "guests.lock").write_bytes(b"")

    assert not one.is_unchanged(mark)


def test_it_works_where_nothing_can_be_read_at_once(enter: Enter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every file system can tell beforehand whether it has to fetch something."""
    monkeypatch.setattr(presence_module, "_AT_ONCE", 0x4000_0000)  # no flag of preadv(2)
    one = enter()
    one.enter()
    mark = one.mark_if_alone()
    assert mark is not None
    assert one.is_unchanged(mark)

    enter().enter()

    assert not one.is_unchanged(mark)


def test_files_that_were_replaced_are_noticed(enter: Enter, tmp_path: Path) -> None:
    """Whoever comes next will not meet us in the old ones."""
    one = enter()
    assert one.is_in_place()

    (tmp_path / "writer.lock").unlink()

    assert not one.is_in_place()
    assert enter().is_in_place()
    assert not one.is_in_place()


def test_a_process_that_has_stopped_is_not_waited_for_without_end(
    enter: Enter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been stopped in the moment in which it holds both."""
    monkeypatch.setattr(presence_module, "LOCK_TIMEOUT_S", 0.02)
    enter().enter()
    with (tmp_path / "guests.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        with pytest.raises(TimeoutError, match="has stopped"):
            enter().enter()


def test_a_directory_in_which_nobody_can_be_told_of_is_refused(tmp_path: Path) -> None:
    """With the name of what is in the way, and without holding on to anything."""
    (tmp_path / "guests.lock").mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(3):
        with pytest.raises(UnusableDirectory, match=r"guests\.lock can't be used"):
            Shelf.open(tmp_path, MIB)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


# What a store makes of it


async def test_what_is_not_there_is_not_looked_for(open_store: OpenStore) -> None:
    """As soon as it is known what is there; and what is there is found."""
    earlier = await open_store()
    assert earlier.store.keep(recording("old"))
    await earlier.aclose()
    watched = await open_store()
    await watched.knows()

    assert not await watched.finds(key_of("new"))
    assert watched.store.look_for(key_of("new")) is None

    assert watched.shelf.looked_for == []
    assert await watched.finds(key_of("old"))
    assert watched.store.keep(recording("new"))
    await watched.has_written()
    assert await watched.finds(key_of("new"))


async def test_before_it_is_known_everything_is_looked_for(open_store: OpenStore) -> None:
    """A request that comes in the first moment may ask for what was recorded yesterday."""
    watched = await open_store()

    assert not await watched.finds(key_of("new"))

    assert watched.shelf.looked_for == [key_of("new")]


@pytest.mark.parametrize("who_is_first", ["the store", "the other"])
async def test_what_another_writes_is_found_at_once(who_is_first: str, open_store: OpenStore, tmp_path: Path) -> None:
    """Whoever of the two was there first."""
    if who_is_first == "the store":
        watched = await open_store()
        await watched.knows()
    with closing(Shelf.open(tmp_path, 100 * MIB)) as other:
        put(other, recording("one"))
        if who_is_first == "the other":
            watched = await open_store()
        for name in "abc":
            assert not await watched.finds(key_of(name))

            put(other, recording(name))

            assert await watched.finds(key_of(name))
        other.presence.close()
    await watched.knows()
    watched.shelf.looked_for.clear()
    assert not await watched.finds(key_of("z"))
    assert watched.shelf.looked_for == []
    assert await watched.finds(key_of("a"))


async def test_two_that_both_record_find_what_the_other_has(open_store: OpenStore) -> None:
    """Neither is alone, so neither is sure of anything."""
    one, other = await open_store(), await open_store()
    for number in range(20):
        writer, reader = (one, other) if number % 2 else (other, one)
        assert not await reader.finds(key_of(f"{number}"))

        assert writer.store.keep(recording(f"{number}"))
        await writer.has_written()

        assert await reader.finds(key_of(f"{number}"))


async def test_who_has_cleared_away_the_locks_is_noticed(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a round of housekeeping, as somebody else may have come by the new ones."""
    monkeypatch.setattr(store_module, "_HOUSEKEEPING_S", 0.01)
    watched = await open_store()
    await watched.knows()
    for name in ("writer.lock", "guests.lock"):
        (tmp_path / name).unlink()
    with closing(Shelf.open(tmp_path, 100 * MIB)) as other:
        put(other, recording("one"))
        await until(lambda: watched.shelf.presence.is_in_place())  # noqa: PLW0108 - it is another one then

        assert await watched.finds(key_of("one"))
        put(other, recording("two"))
        assert await watched.finds(key_of("two"))


async def test_a_shelf_that_was_opened_anew_is_learned_anew(open_store: OpenStore, tmp_path: Path) -> None:
    """Somebody may have put another database in its place."""
    watched = await open_store()
    await watched.knows()
    with closing(Shelf.open(tmp_path / "other", MIB)) as other:
        put(other, recording("there"))
    await asyncio.to_thread(take_over, tmp_path / "other", tmp_path)
    watched.shelf.reopen()

    assert await watched.finds(key_of("there"))


async def test_any_number_of_keys_is_learned(tmp_path: Path) -> None:
    """Page by page, and what is no key of ours is passed over."""
    keys = [token_hex(32) for _ in range(2500)]
    with closing(Shelf.open(tmp_path, 100 * MIB)) as shelf:
        shelf.put_all([(key, b"", b"{}") for key in keys])
        plant_row(tmp_path, "no key of ours", value=b"", tag=b"")
        plant(tmp_path, "INSERT INTO Cache (key, raw, value) VALUES (CAST(x'ff' AS TEXT), 1, x'')")  # nor UTF-8
        absence = Absence(shelf)
        assert not any(absence.includes(key) for key in [*keys, key_of("new")])

        absence.trust(absence.learn())

        assert not any(absence.includes(key) for key in keys)
        new = [token_hex(32) for _ in range(1000)]
        assert sum(absence.includes(key) for key in new) > 900
