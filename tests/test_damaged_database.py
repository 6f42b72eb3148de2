"""A database that is broken: no wrong byte is served, no start fails for it, and what was paid for is not destroyed."""

import fcntl
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from proxy.recording import Recording
from proxy.store import directory as directory_module
from proxy.store import tiered as store_module
from proxy.store.codec import Damaged, decode, encode
from proxy.store.database import ShelfTrouble
from proxy.store.directory import DamagedDatabase, UnusableDirectory
from proxy.store.disk import Shelf
from proxy.store.rows import Row
from proxy.store.upkeep import STORE_SET_ASIDE, Upkeep, _make_way, open_shelf
from tests.commands import reprise
from tests.conftest import Log, StartProxy
from tests.exchanges import store_of, word
from tests.exchanges import until as meanwhile
from tests.harness import STREAM, STREAMED, Proxy, ScriptedUpstream, stream
from tests.recordings import key_of, recording
from tests.shelves import MIB, noise, plant, put, row

PAGE_BYTES = 4096


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


def aside(directory: Path) -> list[Path]:
    """The databases that were moved aside."""
    return sorted(path for path in directory.glob("cache.db.damaged-*Z"))


# Ways to break a file; each changes something


def flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randrange(1, 20)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def zero_pages(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(0, len(data), PAGE_BYTES)
        data[at : at + PAGE_BYTES] = bytes(min(PAGE_BYTES, len(data) - at))


def swap_pages(data: bytearray, chance: random.Random) -> None:
    first, second = (chance.randrange(len(data) // PAGE_BYTES) * PAGE_BYTES for _ in range(2))
    page = data[first : first + PAGE_BYTES]
    data[first : first + PAGE_BYTES] = data[second : second + PAGE_BYTES]
    data[second : second + PAGE_BYTES] = page


def truncate(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def garble(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    data[at : at + 300] = chance.randbytes(min(300, len(data) - at))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Recording]]:
    """A directory of a proxy that was killed: some of its recordings are in the database, some in its log."""
    place = tmp_path_factory.mktemp("stored")
    recordings = [recording(f"{number}", [noise(100 * 4**number)]) for number in range(6)]
    shelf = Shelf.open(place / "work", 100 * MIB)
    put(shelf, *recordings[:4])
    shelf.close()
    put(shelf, *recordings[4:])
    shutil.copytree(place / "work", place / "killed")
    shelf.close()
    return place / "killed", {each.key: each for each in recordings}


@pytest.mark.parametrize("file", ["cache.db", "cache.db-wal", "cache.db-shm"])
@pytest.mark.parametrize("spoil", [flip, zero_pages, swap_pages, truncate, garble])
def test_whatever_is_spoilt_nothing_wrong_is_read(
    spoil: Callable[[bytearray, random.Random], None],
    file: str,
    directory: Path,
    stored: tuple[Path, dict[str, Recording]],
) -> None:
    """What is read is what was stored; the store opens, and what is stored from then on is there."""
    whole, recordings = stored
    for seed in range(8):
        chance = random.Random(f"{spoil.__name__} {file} {seed}")  # noqa: S311 - to be the same each time
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(whole, directory)
        data = bytearray((directory / file).read_bytes())
        spoil(data, chance)
        (directory / file).write_bytes(data)

        try:
            shelf = open_shelf(directory, 100 * MIB)
        except UnusableDirectory as refused:
            if "belongs to something else" not in str(refused):  # a letter of its tables' names
                raise
            continue
        with closing(shelf):
            assert_sound(shelf, recordings)
            new = recording(f"new {seed}")
            Upkeep(shelf).put([(new.key, encode(new), b"{}")])
            assert shelf.get(new.key) == encode(new)
            assert_sound(shelf, recordings)


def assert_sound(shelf: Shelf, recordings: dict[str, Recording]) -> None:
    for key, expected in recordings.items():
        try:
            entry = shelf.get(key)
            assert entry is None or decode(entry, key) == expected
        except (Damaged, ShelfTrouble):
            continue


def make_garbage(database: Path) -> None:
    database.write_bytes(b"this is no database, whatever its name may say" * 1000)


def make_half_a_page(database: Path) -> None:
    database.write_bytes(database.read_bytes()[: PAGE_BYTES // 2])


def make_another_header(database: Path) -> None:
    with database.open("r+b") as file:
        file.write(b"SQLite format 4\0")


def make_half_the_tables(database: Path) -> None:
    with database.open("r+b") as file:
        file.seek(PAGE_BYTES - 1500)
        file.write(b"\xff" * 1400)


BREAKS = (make_garbage, make_half_a_page, make_another_header, make_half_the_tables)


@pytest.mark.parametrize("spoil", BREAKS)
async def test_a_start_moves_a_broken_database_aside_and_says_so(
    spoil: Callable[[Path], None], *, directory: Path, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """The store starts empty; the log names the file, which is as it was found."""
    Shelf.open(directory, MIB).close()
    spoil(directory / "cache.db")
    broken = (directory / "cache.db").read_bytes()
    upstream.will_send(*stream())

    proxy = await start_proxy()

    told = await log.line(0, STORE_SET_ASIDE)
    assert (told["level"], told["removed"]) == ("error", [])
    assert {str(path): path.read_bytes() for path in aside(directory)} == {told["path"]: broken}
    assert [await word(proxy.ask(STREAMED)) for _ in range(2)] == ["MISS", "HIT"]


def test_an_empty_file_becomes_a_database(directory: Path) -> None:
    """There is nothing in it to be moved aside."""
    with closing(Shelf.open(directory, MIB)) as shelf:
        put(shelf, recording("one"))
    (directory / "cache.db").write_bytes(b"")

    with closing(open_shelf(directory, MIB)) as shelf:
        assert shelf.count == 0
    assert not aside(directory)


def test_somebody_elses_database_is_not_moved(directory: Path) -> None:
    """It is sound, and its owner wants it where it is."""
    directory.mkdir()
    plant(directory, "CREATE TABLE addresses (name, street)")

    with pytest.raises(UnusableDirectory, match="belongs to something else"):
        open_shelf(directory, MIB)

    assert not aside(directory)


@pytest.mark.parametrize("command", [("ls",), ("verify",), ("stats",), ("clear", "--yes")])
def test_a_command_moves_nothing(command: tuple[str, ...], tmp_path: Path, directory: Path) -> None:
    """It says what is wrong, and leaves the rest to the user."""
    directory.mkdir()
    make_garbage(directory / "cache.db")

    ended = reprise("cache", *command, at=tmp_path, cache__directory=directory)

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"Error: cache.directory {directory}: its cache.db can't be used")
    assert [path.name for path in directory.iterdir()] == ["cache.db"]


def test_the_largest_of_those_that_were_moved_aside_is_kept(directory: Path) -> None:
    """A disk that goes on failing is not filled up with them, and most of what was paid for is still there."""
    for size_bytes in (10_000, 90_000, 50_000):
        Shelf.open(directory, MIB).close()
        (directory / "cache.db").write_bytes(b"x" * size_bytes)
        open_shelf(directory, MIB).close()

    assert [path.stat().st_size for path in aside(directory)] == [90_000]


def test_one_that_another_process_has_moved_aside_is_not_moved_again(directory: Path) -> None:
    """What stands in its place now is sound, and has recordings in it."""
    with closing(Shelf.open(directory, MIB)) as late, closing(Shelf.open(directory, MIB)) as early:
        put(late, recording("before"))
        early_upkeep, late_upkeep = Upkeep(early), Upkeep(late)
        early_upkeep._replace("damaged")
        put(early, recording("one"))
        late_upkeep._replace("damaged")

        assert late.get(key_of("one"))
        assert len(aside(directory)) == 1


def test_one_that_is_being_looked_at_is_not_moved_aside(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever would do so waits: what was found out about one file is not taken for true of the next."""
    directory.mkdir(mode=0o700)
    make_garbage(directory / "cache.db")
    look = directory_module._refuse_foreign

    def look_late(*arguments: Any) -> None:
        monkeypatch.undo()
        with monkeypatch.context() as unwilling_to_wait, suppress(UnusableDirectory):
            unwilling_to_wait.setattr(fcntl, "LOCK_EX", fcntl.LOCK_EX | fcntl.LOCK_NB)
            open_shelf(directory, MIB).close()
        look(*arguments)

    monkeypatch.setattr(directory_module, "_refuse_foreign", look_late)
    with closing(open_shelf(directory, MIB)) as shelf:
        put(shelf, recording("one"))

        assert shelf.get(key_of("one"))
    assert len(aside(directory)) == 1


def test_what_went_into_one_that_was_just_moved_aside_is_written_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process moves it between the look whether it is in place and the transaction."""
    with closing(Shelf.open(directory, MIB)) as shelf, closing(Shelf.open(directory, MIB)) as of_another:
        put(shelf, recording("before"))
        another, upkeep, write = Upkeep(of_another), Upkeep(shelf), Shelf.put_all

        def write_late(shelf: Shelf, rows: Sequence[Row]) -> None:
            monkeypatch.undo()
            another._replace("damaged")
            write(shelf, rows)

        monkeypatch.setattr(Shelf, "put_all", write_late)
        upkeep.put([row(recording("one"))])

        assert of_another.get(key_of("one"))
        assert shelf.get(key_of("one"))


def test_a_new_one_is_not_taken_for_the_damaged_one_that_was_removed(directory: Path) -> None:
    """The file system gives the number of a file that is gone to the next one, if it may."""
    Shelf.open(directory, MIB).close()
    (directory / "cache.db.damaged-20200101T000000.000000Z").write_bytes(b"x" * 1_000_000)
    make_garbage(directory / "cache.db")
    with pytest.raises(DamagedDatabase) as late:
        Shelf.open(directory, MIB)
    with closing(open_shelf(directory, MIB)) as early:
        put(early, recording("one"))

        _make_way(late.value)

        assert early.get(key_of("one"))
    assert [path.stat().st_size for path in aside(directory)] == [1_000_000]


async def recorded(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    upstream.will_send(*stream())
    await word(proxy.ask(STREAMED))
    await meanwhile(lambda: not store_of(proxy)._waiting)


@pytest.mark.parametrize("spoil", BREAKS)
async def test_a_database_that_breaks_while_it_is_used_makes_way(
    spoil: Callable[[Path], None],
    *,
    directory: Path,
    start_proxy: StartProxy,
    upstream: ScriptedUpstream,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every request is answered, the log says once where it has gone, and recording goes on."""
    monkeypatch.setattr(store_module, "_HOUSEKEEPING_S", 0.05)
    proxy = await start_proxy(cache__memory_limit=0)
    await recorded(proxy, upstream)
    Shelf.open(directory, MIB).close()
    await proxy.app.stop()
    proxy = await start_proxy(cache__memory_limit=0)
    await meanwhile(lambda: store_of(proxy)._removals is not None)

    spoil(directory / "cache.db")

    for number in count():
        answer = await proxy.ask({**STREAMED, "seed": number})
        assert (answer.status, await answer.body()) == (200, STREAM)
        if log.lines(STORE_SET_ASIDE):
            break
    assert [await word(proxy.ask(STREAMED)) for _ in range(2)] == ["MISS", "HIT"]
    assert len(log.lines(STORE_SET_ASIDE)) == 1
    assert len(aside(directory)) == 1


async def test_one_page_that_can_not_be_read_is_not_the_end_of_the_others(
    directory: Path, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """A miss, logged once; what is on other pages is still a hit."""
    with closing(Shelf.open(directory, 100 * MIB)) as shelf:
        put(shelf, *(recording(f"{number}", [noise(50_000)]) for number in range(10)))
    with (directory / "cache.db").open("r+b") as file:
        file.seek(file.seek(0, 2) // 2 // PAGE_BYTES * PAGE_BYTES)
        file.write(bytes(PAGE_BYTES))
    proxy = await start_proxy(cache__memory_limit=0)

    read = [await store_of(proxy).fetch(key_of(f"{number}")) for number in range(10)]

    assert sum(each is None for each in read) == 1
    assert not aside(directory)
    upstream.will_send(*stream())
    assert await word(proxy.ask(STREAMED)) == "MISS"
