"""The store: what was kept is found, whole; what is wrong with the disk costs a recording and breaks nothing."""

import asyncio
import itertools
import shutil
import threading
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from proxy.recording import Head
from proxy.store import health, reading, upkeep, writing
from proxy.store import tiered as store_module
from proxy.store.codec import decode, encode
from proxy.store.database import ShelfTrouble
from proxy.store.directory import UnusableDirectory
from proxy.store.disk import Shelf
from proxy.store.health import STORE_FAILED, STORE_RECOVERED
from proxy.store.memory import Memory
from proxy.store.reading import RECORDING_DAMAGED, RECORDING_UNREADABLE
from proxy.store.rows import Row
from proxy.store.tiered import TieredStore
from tests.recordings import key_of, recording, sized, with_answer_of
from tests.shelves import HOLD_THE_LOCK, MIB, PLANTERS, another_process, noise, plant, put

PATIENCE_S = 20.0
REFUSE = "BEGIN SELECT raise(ABORT, 'not this one'); END"
NAMES = {key_of(name): name for name in ["large", *"abcd", *map(str, range(100))]}

FIELDS = (
    (b"Content-Type", b"application/json"),
    (b"x-request-id", b"req_d61e76c1ad555e0107087ce6c0b6a84a"),
    (b"openai-version", b"2020-10-01"),
    (b"openai-processing-ms", b"1250"),
    (b"openai-model", b"gpt-4o-mini-2024-07-18"),
)

OpenStore = Callable[..., Awaitable[TieredStore]]
Logged = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def shelf(directory: Path) -> Iterator[Shelf]:
    with closing(Shelf.open(directory, 100 * MIB)) as shelf:
        yield shelf


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Logged:
    """What the store has logged of one event."""
    capture = LogCapture()
    monkeypatch.setattr(health, "_SETTLED_S", 0.0)
    for module in (reading, health, upkeep):
        monkeypatch.setattr(module, "log", structlog.wrap_logger(None, processors=[capture]))
    return lambda event: [dict(entry) for entry in capture.entries if entry["event"] == event]


@pytest.fixture
async def open_store(directory: Path) -> AsyncIterator[OpenStore]:
    """A function that opens a store, which leaves neither a task nor a thread when it is closed."""
    opened: list[TieredStore] = []
    before = asyncio.all_tasks()

    async def open_one(memory_limit_bytes: int = MIB, shelf: Shelf | None = None) -> TieredStore:
        if shelf is not None:
            opened.append(TieredStore(shelf, memory_limit_bytes))
        else:
            one = TieredStore.open(directory, size_limit_bytes=100 * MIB, memory_limit_bytes=memory_limit_bytes)
            opened.append(await one)
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("store-")]
    assert not [task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()]


class HeldShelf(Shelf):
    """A shelf whose threads wait where a slow disk would make them wait, until they are let go."""

    def hold(self) -> None:
        self.gets = self.puts = 0
        self.batches: list[list[str]] = []
        """The names of what was written together."""
        self.reading, self.may_read = threading.Event(), threading.Event()
        self.may_write = threading.Event()
        self.may_write.set()

    def get_short(self, keys: Sequence[str]) -> dict[str, bytes | None]:
        entries = super().get_short(keys)
        self.gets += 1
        self.reading.set()
        assert self.may_read.wait(PATIENCE_S)
        return entries

    def put_all(self, entries: Sequence[Row]) -> None:
        self.puts += 1
        self.batches.append([NAMES.get(key, key) for key, _, _ in entries])
        assert self.may_write.wait(PATIENCE_S)
        super().put_all(entries)


@pytest.fixture
def held(directory: Path) -> Iterator[HeldShelf]:
    with closing(HeldShelf.open(directory, 100 * MIB)) as shelf:
        shelf.hold()
        yield shelf


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until something has come about."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - a thread or another process brings it about
            await asyncio.sleep(0.001)


async def test_what_is_kept_is_recalled_at_once_and_fetched_later(open_store: OpenStore) -> None:
    """By the one that kept it without waiting, by another one from disk."""
    one = recording("one")
    store = await open_store()

    assert store.recall(one.key) is None
    assert await store.fetch(one.key) is None
    assert store.keep(one)
    assert store.recall(one.key) == one.answer
    await store.close()

    again = await open_store()
    assert again.recall(one.key) is None
    assert await again.fetch(one.key) == one.answer
    assert again.recall(one.key) == one.answer


async def test_a_key_is_never_in_neither_place(held: HeldShelf, open_store: OpenStore) -> None:
    """Without a memory tier a recording is recalled until the disk has it, and fetched from then on."""
    held.may_read.set()
    held.may_write.clear()
    store = await open_store(0, held)
    one = recording("one")

    assert store.keep(one)
    await asyncio.sleep(0)
    assert store.recall(one.key) == one.answer
    held.may_write.set()
    await until(lambda: store.recall(one.key) is None)

    assert await store.fetch(one.key) == one.answer
    assert store.recall(one.key) is None


async def test_the_least_recently_used_give_way_in_memory(open_store: OpenStore) -> None:
    """By their size in bytes; one that is larger than the limit drives nobody out."""
    store = await open_store(10_000)
    for name in ("a", "b", "c"):
        assert store.keep(with_answer_of(name, 3000))
    await until(lambda: not store._waiting)
    assert store.recall(key_of("a"))

    assert store.keep(with_answer_of("d", 3000))
    assert store.keep(with_answer_of("large", 10_001))
    await until(lambda: not store._waiting)

    assert [name for name in ("a", "b", "c", "d", "large") if store.recall(key_of(name))] == ["a", "c", "d"]
    assert await store.fetch(key_of("large")) == with_answer_of("large", 10_001).answer
    assert store.recall(key_of("a"))


@pytest.mark.parametrize("is_read", [False, True], ids=["kept", "read from disk"])
async def test_long_prompts_take_no_room_in_memory(directory: Path, open_store: OpenStore, *, is_read: bool) -> None:
    """A hundred requests that are longer than the limit are answered from memory when the database is unreadable."""
    asked = [recording(f"{number}", prompt="x" * 200_000) for number in range(100)]
    store = await open_store(200_000)
    for one in asked:
        assert store.keep(one)
    await until(lambda: not store._waiting)
    if is_read:
        await store.close()
        store = await open_store(200_000)
        assert [await store.fetch(one.key) for one in asked] == [one.answer for one in asked]

    plant(directory, "ALTER TABLE Cache RENAME TO Gone")

    assert [store.recall(one.key) for one in asked] == [one.answer for one in asked]


@pytest.mark.parametrize("memory_limit_bytes", [0, MIB])
async def test_a_recording_has_its_request_on_disk(
    open_store: OpenStore, held: HeldShelf, memory_limit_bytes: int
) -> None:
    """Also one that was replayed from memory, or from what waits, before it was written."""
    held.may_write.clear()
    store = await open_store(memory_limit_bytes, held)
    one = recording("one", prompt="x" * 200_000)
    assert store.keep(one)
    assert store.recall(one.key) == one.answer

    held.may_write.set()
    await until(lambda: not store._waiting)

    assert (entry := held.get(one.key))
    assert decode(entry, one.key) == one


@pytest.mark.parametrize("frames", [[b"x" * 600], [b"x" * 60] * 200], ids=["one frame", "many frames"])
@pytest.mark.parametrize("fields", [1, 5])
def test_what_memory_holds_is_what_it_accounts_for(frames: Sequence[bytes], fields: int) -> None:
    """To a tenth, of answers as they come from disk, however many header fields they have."""
    head = Head(200, "OK", FIELDS[:fields])
    asked = [recording(f"{number}", frames, prompt="x" * 2000)._replace(head=head) for number in range(500)]
    entries = [(one.key, encode(one)) for one in asked]
    memory = Memory(100 * MIB)
    decode(entries[0][1], entries[0][0])  # what is loaded once counts for none
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for key, entry in entries:
            memory.put(decode(entry, key).answer)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert after - before == pytest.approx(memory._used_bytes, rel=0.1)


async def test_a_recording_replaces_its_forerunner_in_memory(open_store: OpenStore) -> None:
    """Also where it is too large to stay there itself; the forerunner does not come back."""
    store = await open_store(10_000)
    assert store.keep(with_answer_of("one", 2000))
    await until(lambda: not store._waiting)

    assert store.keep(later := with_answer_of("one", 20_000))
    assert store.recall(key_of("one")) == later.answer
    await until(lambda: not store._waiting)

    assert store.recall(key_of("one")) is None
    assert await store.fetch(key_of("one")) == later.answer


async def test_what_was_fetched_from_disk_stays_in_memory(open_store: OpenStore, shelf: Shelf) -> None:
    """More of it than of what is new: it was asked for."""
    asked = [recording(f"{number}", [noise(1_500_000)]) for number in range(5)]
    for one in asked:
        put(shelf, one)
    store = await open_store(64 * MIB)
    for one in asked:
        assert await store.fetch(one.key) == one.answer

    assert [store.recall(one.key) for one in asked] == [one.answer for one in asked]


async def test_those_who_fetch_one_key_share_one_read(held: HeldShelf, open_store: OpenStore) -> None:
    """And one of them that leaves takes nothing away from the others."""
    put(held, one := recording("one"))
    store = await open_store(MIB, held)

    fetches = [asyncio.create_task(store.fetch(one.key)) for _ in range(5)]
    await until(held.reading.is_set)
    fetches[0].cancel()
    held.may_read.set()

    assert await asyncio.gather(*fetches[1:]) == [one.answer] * 4
    assert fetches[0].cancelled()
    assert held.gets == 1


async def test_what_is_read_too_late_does_not_stay(held: HeldShelf, open_store: OpenStore) -> None:
    """A recording that was read from disk while a newer one was kept may not enter the memory tier."""
    put(held, sized("one", 2000))
    store = await open_store(10_000, held)
    fetch = asyncio.create_task(store.fetch(key_of("one")))
    await until(held.reading.is_set)

    assert store.keep(later := sized("one", 20_000))
    await until(lambda: not store._waiting)
    held.may_read.set()
    await fetch

    assert store.recall(key_of("one")) is None
    assert await store.fetch(key_of("one")) == later.answer


async def test_a_damaged_recording_is_a_miss_once(
    directory: Path, shelf: Shelf, open_store: OpenStore, logged: Logged
) -> None:
    """It is removed, and the log says which one it was and what was wrong with it."""
    put(shelf, one := recording("one"))
    plant(directory, "UPDATE Cache SET value = substr(value, 1, 200)")
    store = await open_store()

    assert [await store.fetch(one.key) for _ in range(3)] == [None] * 3

    (entry,) = logged(RECORDING_DAMAGED)
    assert (entry["log_level"], entry["key"]) == ("warning", one.key)
    assert entry["reason"] == "it is not as long as it says"
    assert shelf.count == 0


async def test_a_recording_of_another_version_is_a_miss_and_stays(
    shelf: Shelf, open_store: OpenStore, logged: Logged
) -> None:
    """It may be of use to the program that wrote it."""
    entry = bytearray(encode(recording("one")))
    entry[9] = 2
    shelf.put(key_of("one"), bytes(entry), b"{}")
    store = await open_store()

    assert await store.fetch(key_of("one")) is None

    assert len(logged(RECORDING_UNREADABLE)) == 1
    assert shelf.get(key_of("one")) == bytes(entry)


async def test_a_writer_that_is_stuck_holds_up_nobody(directory: Path, open_store: OpenStore, logged: Logged) -> None:
    """While another process holds the lock, hits go on, and so does the loop; the log says it once for each."""
    store = await open_store(0)
    assert store.keep(one := recording("one"))
    await until(lambda: not store._waiting)

    with another_process(HOLD_THE_LOCK, directory / "cache.db"):
        assert store.keep(recording("two"))
        assert await store.fetch(one.key) == one.answer
        assert store.recall(key_of("two")), "the writer was not waited for"
        assert not await store.is_writable()
        await until(lambda: not store._waiting)
        assert await store.fetch(key_of("two")) is None

    assert await store.is_writable()
    assert store.keep(recording("three"))
    await store.close()
    for what in ("writing", "probing"):
        assert [entry["log_level"] for entry in logged(STORE_FAILED) if entry["what"] == what] == ["error"]
        assert [entry["failures"] for entry in logged(STORE_RECOVERED) if entry["what"] == what] == [1]
    assert await (await open_store()).fetch(key_of("three"))


async def test_a_broken_database_is_a_miss(directory: Path, open_store: OpenStore, logged: Logged) -> None:
    """However often it is asked, the log hears of it once, and once again when it works."""
    store = await open_store(0)
    plant(directory, "ALTER TABLE Cache RENAME TO Gone")

    assert [await store.fetch(key_of("one")) for _ in range(3)] == [None] * 3
    assert store.keep(recording("one"))
    await until(lambda: not store._waiting)
    plant(directory, "ALTER TABLE Gone RENAME TO Cache")
    assert store.keep(recording("one"))
    await until(lambda: not store._waiting)

    assert await store.fetch(key_of("one")) == recording("one").answer
    assert [entry["what"] for entry in logged(STORE_FAILED)] == ["reading", "writing"]
    assert {entry["what"]: entry["failures"] for entry in logged(STORE_RECOVERED)} == {"reading": 3, "writing": 1}


async def test_too_much_that_waits_is_refused(
    held: HeldShelf, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk makes recordings be refused, not memory grow; one that is too large for the bound may wait alone."""
    monkeypatch.setattr(writing, "WAITING_LIMIT_BYTES", 5000)
    held.may_write.clear()
    store = await open_store(MIB, held)

    assert store.keep(sized("large", 6000))
    assert not store.keep(sized("a", 2000))
    assert store.recall(key_of("a")) is None
    held.may_write.set()
    await until(lambda: not store._waiting)

    assert [store.keep(sized(name, 2000)) for name in ("a", "b")] == [True, True]


async def test_a_recording_beyond_all_measure_is_refused(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no entry can hold is not kept at all."""
    monkeypatch.setattr(writing, "LARGEST_BYTES", 5000)
    store = await open_store()

    assert not store.keep(sized("large", 6000))
    assert store.recall(key_of("large")) is None


async def test_closing_writes_what_waits(held: HeldShelf, open_store: OpenStore) -> None:
    """Recordings and hits that were counted a moment ago are there for the next process; nothing is kept after."""
    held.may_write.clear()
    store = await open_store(0, held)
    recordings = [recording(str(number)) for number in range(20)]
    assert all(store.keep(one) for one in recordings)
    for one in recordings:
        store.count_hit(one.key)
        store.count_hit(one.key)

    closing_ = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    held.may_write.set()
    await closing_

    assert [(known.key, hits) for known, _, hits in held.summaries()] == [(one.key, 2) for one in recordings]
    assert not store.keep(recording("late"))
    assert await store.fetch(recordings[0].key) is None
    assert not await store.is_writable()


async def test_closing_does_not_wait_for_a_disk_that_fails(
    directory: Path, held: HeldShelf, open_store: OpenStore
) -> None:
    """Each further recording could take as long to fail as the first, and the program would not end."""
    held.may_write.clear()
    store = await open_store(0, held)
    plant(directory, "ALTER TABLE Cache RENAME TO Gone")
    assert all(store.keep(recording(str(number))) for number in range(5))

    closing_ = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    held.may_write.set()
    await closing_

    assert held.puts == 1


async def test_hits_are_counted_while_the_store_is_open(
    shelf: Shelf, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever lists the recordings of a running proxy sees them soon."""
    monkeypatch.setattr(store_module, "_HOUSEKEEPING_S", 0.01)
    put(shelf, recording("one"))
    store = await open_store()

    store.count_hit(key_of("one"))

    await until(lambda: [hits for _, _, hits in shelf.summaries()] == [1])


async def test_what_another_process_removed_is_not_served_from_memory(
    shelf: Shelf, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever removes a recording of a running proxy has removed it."""
    monkeypatch.setattr(store_module, "_HOUSEKEEPING_S", 0.01)
    store = await open_store()
    assert store.keep(recording("one"))
    await until(lambda: not store._waiting)
    assert store.recall(key_of("one"))

    assert shelf.delete(key_of("one"))

    await until(lambda: store.recall(key_of("one")) is None)
    assert await store.fetch(key_of("one")) is None


async def test_what_was_removed_while_it_was_read_does_not_stay(held: HeldShelf, open_store: OpenStore) -> None:
    """A read that began before the removal may answer those who waited for it, and nobody after them."""
    put(held, one := recording("one"))
    store = await open_store(MIB, held)
    await until(lambda: store._removals is not None)
    fetch = asyncio.create_task(store.fetch(one.key))
    await until(held.reading.is_set)

    assert held.delete(one.key)
    await store._notice_removals()
    held.may_read.set()

    assert await fetch == one.answer
    assert await store.fetch(one.key) is None


def remove(directory: Path) -> None:
    while directory.exists():  # a thread may just be opening the database, which makes files
        shutil.rmtree(directory, ignore_errors=True)


async def test_a_store_whose_directory_is_gone_is_not_writable(
    directory: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would be written now nobody could ever read; that it is made anew comes later."""
    monkeypatch.setattr(store_module, "_HOUSEKEEPING_S", PATIENCE_S)
    store = await open_store()
    await until(lambda: store._removals is not None)
    assert await store.is_writable()

    remove(directory)

    assert not await store.is_writable()


async def test_a_directory_that_will_not_do_is_told_to_who_opens_it(directory: Path) -> None:
    """And no thread is left of the attempt."""
    await asyncio.to_thread(directory.touch)

    with pytest.raises(UnusableDirectory):
        await TieredStore.open(directory, size_limit_bytes=MIB, memory_limit_bytes=MIB)

    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("store-")]


@pytest.mark.parametrize("planted", PLANTERS)
async def test_a_planted_row_is_a_miss(
    directory: Path,
    open_store: OpenStore,
    logged: Logged,
    planted: Callable[[Path, str, Path], None],
) -> None:
    """Nothing in it is executed, no file that it names is read or removed, and the row goes."""
    outside, trace, key = directory.parent / "outside", directory.parent / "trace", key_of("planted")
    outside.write_bytes(encode(recording("planted")))
    store = await open_store()
    planted(directory, key, trace)

    assert await store.fetch(key) is None

    assert [entry["key"] for entry in logged(RECORDING_DAMAGED)] == [key]
    assert outside.exists()
    assert not trace.exists()
    with closing(Shelf.open(directory, MIB)) as shelf:
        assert shelf.count == 0


@pytest.mark.parametrize("fault", [MemoryError(), ValueError("strange"), RuntimeError("no thread"), KeyError("row")])
async def test_what_nobody_foresaw_is_a_miss_and_no_end_of_the_housekeeping(
    fault: Exception,
    held: HeldShelf,
    open_store: OpenStore,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever a strange row makes of diskcache: the log hears of it once, and the store goes on when it is over."""
    monkeypatch.setattr(store_module, "_HOUSEKEEPING_S", 0.01)
    put(held, one := recording("one"))
    held.may_read.set()
    store = await open_store(0, held)

    def fails(*_: object) -> None:
        raise fault

    with monkeypatch.context() as patched:
        for name in ("get_short", "put_all", "removals", "count_hits"):
            patched.setattr(held, name, fails)
        assert [await store.fetch(one.key) for _ in range(3)] == [None] * 3
        assert store.keep(recording("two"))
        store.count_hit(one.key)
        await until(lambda: len(logged(STORE_FAILED)) == 4)

    assert await store.fetch(one.key) == one.answer
    assert store.keep(recording("three"))
    store.count_hit(one.key)
    await until(lambda: len(logged(STORE_RECOVERED)) == 4)
    assert len(logged(STORE_FAILED)) == 4


async def test_a_trouble_that_comes_and_goes_is_told_once(
    held: HeldShelf, open_store: OpenStore, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a nearly full disk every other recording may fit; that fills no log."""
    monkeypatch.setattr(store_module, "_HOUSEKEEPING_S", PATIENCE_S)
    held.may_read.set()
    store = await open_store(0, held)

    for _ in range(50):
        with monkeypatch.context() as patched:
            patched.setattr(held, "_newest", None)
            assert await store.fetch(key_of("one")) is None
        assert await store.fetch(key_of("one")) is None

    assert len(logged(STORE_FAILED)) == len(logged(STORE_RECOVERED)) == 1


async def test_those_that_wait_behind_a_lock_do_not_wait_for_minutes(
    directory: Path, held: HeldShelf, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has waited for longer than it may fails with the one before it, instead of waiting as long once more."""
    monkeypatch.setattr(writing, "_PATIENCE_S", 0.0)
    held.may_write.clear()
    store = await open_store(0, held)
    recordings = [recording(str(number)) for number in range(30)]
    assert all(store.keep(one) for one in recordings)
    await until(lambda: held.puts == 1)

    with another_process(HOLD_THE_LOCK, directory / "cache.db"):
        held.may_write.set()
        await until(lambda: not store._waiting)
        assert held.puts == 1

    assert store.keep(recordings[0])
    await until(lambda: not store._waiting)
    held.may_read.set()
    assert await store.fetch(recordings[0].key) == recordings[0].answer


async def test_new_limits_hold_while_it_is_open(open_store: OpenStore, shelf: Shelf) -> None:
    """Memory shrinks at once, the disk with the next recording; both grow again as simply."""
    store = await open_store(100_000)
    for name in "abc":
        assert store.keep(recording(name, [noise(30_000)]))
    await until(lambda: not store._waiting)

    store.resize(size_limit_bytes=100 * MIB, memory_limit_bytes=50_000)
    assert [name for name in "abc" if store.recall(key_of(name))] == ["c"]
    store.resize(size_limit_bytes=shelf.volume_bytes(), memory_limit_bytes=0)
    assert store.recall(key_of("c")) is None
    assert shelf.count == 3
    assert store.keep(recording("d", [noise(40_000)]))
    await until(lambda: not store._waiting)

    assert list(shelf.keys())[-1] == key_of("d")
    assert not await store.fetch(key_of("a"))
    store.resize(size_limit_bytes=100 * MIB, memory_limit_bytes=100_000)
    assert store.keep(recording("e", [noise(20_000)]))
    assert store.recall(key_of("e"))


async def test_a_store_whose_housekeeping_is_gone_closes(open_store: OpenStore) -> None:
    """Even where no task is left to be waited for."""
    store = await open_store()
    store._housekeeping.cancel()
    await until(store._housekeeping.done)

    await store.close()


async def test_damage_that_can_not_be_removed_is_told_once(
    directory: Path, shelf: Shelf, open_store: OpenStore, logged: Logged
) -> None:
    """A miss each time it is asked for, and one line while nothing can be written."""
    put(shelf, one := recording("one"))
    plant(directory, "UPDATE Cache SET value = substr(value, 1, 200)")
    plant(directory, "CREATE TRIGGER stays BEFORE DELETE ON Cache BEGIN SELECT raise(ABORT, 'it stays'); END")
    store = await open_store(0, shelf)

    assert [await store.fetch(one.key) for _ in range(5)] == [None] * 5

    assert [entry["what"] for entry in logged(STORE_FAILED)] == ["reading"]
    assert not logged(RECORDING_DAMAGED)


async def test_whatever_comes_some_is_written_meanwhile(held: HeldShelf, open_store: OpenStore) -> None:
    """More of it in each turn than can be encoded in one."""
    store = await open_store(MIB, held)
    names = map(str, itertools.count())
    kept = 0

    while not held.puts:
        assert kept < 20_000
        for name in itertools.islice(names, 60):
            assert store.keep(recording(name))
            kept += 1
        await asyncio.sleep(0)


async def test_one_that_can_not_be_encoded_now_is_written_later(
    held: HeldShelf, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is the matter, and the others with it."""
    store = await open_store(MIB, held)

    def fail(*_: object) -> bytes:
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(store._writing._here, "encode", fail)

    assert all(store.keep(recording(name)) for name in "abc")
    await store.close()

    assert set(held.keys()) == {key_of(name) for name in "abc"}


async def test_what_is_kept_meanwhile_is_written_together(held: HeldShelf, open_store: OpenStore) -> None:
    """One transaction for all that wait, in the order in which they were kept; of one key the latest stays."""
    store = await open_store(0, held)

    for name in "abcab":
        assert store.keep(sized(name, 2000))
    assert store.keep(later := sized("a", 3000))
    await until(lambda: not store._waiting)

    assert held.puts == 1
    assert list(held.keys()) == [key_of(name) for name in "cba"]
    assert held.get(later.key) == encode(later)


async def test_no_transaction_holds_the_lock_for_long(
    held: HeldShelf, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is written in parts, by number and by bytes; one that is larger than that goes by itself."""
    monkeypatch.setattr(writing, "_MOST_AT_ONCE", 4)
    monkeypatch.setattr(writing, "_MOST_BYTES_AT_ONCE", 8000)
    store = await open_store(0, held)

    for number in range(8):
        assert store.keep(sized(f"{number}", 2000))
    for name, size_bytes in (("a", 5000), ("b", 5000), ("large", 20_000), ("c", 2000)):
        assert store.keep(sized(name, size_bytes))
    await until(lambda: not store._waiting)

    assert held.batches == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["a"], ["b"], ["large"], ["c"]]


async def test_a_small_store_is_not_overfilled_by_what_waits(open_store: OpenStore, held: HeldShelf) -> None:
    """What is written at once is little beside the limit, by which the oldest have to give way."""
    held.size_limit_bytes = 16 * 5000
    store = await open_store(0, held)

    for name in "abcd":
        assert store.keep(sized(name, 2000))
    await until(lambda: not store._waiting)

    assert held.batches == [["a", "b"], ["c", "d"]]


async def test_one_that_can_not_be_written_takes_no_other_with_it(
    held: HeldShelf, open_store: OpenStore, logged: Logged
) -> None:
    """A transaction that fails is tried again for each of its recordings."""
    plant(held.directory, f"CREATE TRIGGER picky BEFORE INSERT ON Cache WHEN NEW.key = '{key_of('b')}' {REFUSE}")
    store = await open_store(0, held)

    for name in "abc":
        assert store.keep(recording(name))
    assert store.keep(recording("strange")._replace(recorded_at="never"))  # type: ignore[arg-type]  # fails to encode
    await until(lambda: not store._waiting)

    assert list(held.keys()) == [key_of("a"), key_of("c")]
    (entry,) = logged(STORE_FAILED)
    assert entry["what"] == "writing"


async def test_what_is_tried_again_does_not_overtake(held: HeldShelf, open_store: OpenStore) -> None:
    """A recording of the same key that was kept meanwhile is still the latest."""
    plant(held.directory, f"CREATE TRIGGER picky BEFORE INSERT ON Cache WHEN NEW.key = '{key_of('b')}' {REFUSE}")
    held.may_write.clear()
    store = await open_store(0, held)
    for name in "ab":
        assert store.keep(recording(name))
    await until(lambda: held.puts == 1)

    assert store.keep(later := sized("a", 3000))
    held.may_write.set()
    await until(lambda: not store._waiting)

    assert held.get(later.key) == encode(later)


async def test_closing_does_not_wait_for_more_to_come(
    held: HeldShelf, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for others to be written with is written at once."""
    monkeypatch.setattr(writing, "_GATHERING_S", PATIENCE_S)
    store = await open_store(0, held)
    assert store.keep(recording("one"))
    store.count_hit(key_of("one"))

    async with asyncio.timeout(PATIENCE_S / 2):
        await store.close()

    assert [(known.key, hits) for known, _, hits in held.summaries()] == [(key_of("one"), 1)]


async def test_what_is_as_much_as_is_written_at_once_does_not_wait_for_more(
    held: HeldShelf, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large recordings would fill the room of those that wait, and the next ones would not be kept."""
    monkeypatch.setattr(writing, "_GATHERING_S", PATIENCE_S)
    monkeypatch.setattr(writing, "_MOST_BYTES_AT_ONCE", 20_000)
    store = await open_store(0, held)
    async with asyncio.timeout(PATIENCE_S / 2):
        assert store.keep(sized("a", 19_000))
        await asyncio.sleep(0)
        assert held.puts == 0  # there may be more

        assert store.keep(sized("b", 19_000))
        await until(lambda: not store._waiting)

        held.may_write.clear()
        assert store.keep(sized("c", 20_000))
        await until(lambda: held.puts == 3)
        assert store.keep(sized("d", 20_000))  # while that is written
        held.may_write.set()
        await until(lambda: not store._waiting)

    assert held.batches == [["a"], ["b"], ["c"], ["d"]]


async def test_what_other_processes_share_is_written_at_once(held: HeldShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a hit for them too; what is kept while it is written goes together."""
    monkeypatch.setattr(writing, "_GATHERING_S", PATIENCE_S)
    held.may_write.clear()
    store = TieredStore(held, 0, shared=True)

    for name in "abc":
        assert store.keep(recording(name))
        await until(lambda: held.puts == 1)
    held.may_write.set()
    async with asyncio.timeout(PATIENCE_S / 2):
        await until(lambda: not store._waiting)

    assert held.batches == [["a"], ["b", "c"]]
    await store.close()


async def test_a_hit_is_counted_though_its_recording_is_not_written_yet(
    held: HeldShelf, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be counted for none, if it came first."""
    monkeypatch.setattr(store_module, "_HOUSEKEEPING_S", 0.005)
    monkeypatch.setattr(writing, "_GATHERING_S", 0.05)
    store = await open_store(MIB, held)
    assert store.keep(recording("one"))
    store.count_hit(key_of("one"))

    await until(lambda: not store._hits)

    await until(lambda: [hits for _, _, hits in held.summaries()] == [1])


async def test_all_keys_that_are_asked_for_are_looked_for_at_once(held: HeldShelf, open_store: OpenStore) -> None:
    """Present or not; what is found of them stays in memory."""
    held.may_read.set()
    put(held, *(recording(f"{number}") for number in range(10)))
    store = await open_store(MIB, held)

    found = await asyncio.gather(*(store.fetch(key_of(f"{number}")) for number in range(20)))

    assert found == [recording(f"{number}").answer for number in range(10)] + [None] * 10
    assert held.gets < 10
    assert store.recall(key_of("0")) == recording("0").answer


async def test_many_more_than_are_read_at_once_are_all_answered(held: HeldShelf, open_store: OpenStore) -> None:
    """A thread takes so many, and what remains comes after it."""
    held.may_read.set()
    put(held, one := recording("one"))
    store = await open_store(0, held)

    fetches = [store.fetch(key_of(f"{number}")) for number in range(100)]
    found = await asyncio.gather(*fetches, store.fetch(one.key))

    assert found == [None] * 100 + [one.answer]


async def test_a_long_recording_holds_up_no_short_one(
    held: HeldShelf, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read by itself, by another thread, while short ones that were asked for after it are answered."""
    held.may_read.set()
    long, short = recording("long", [noise(100_000)]), recording("short")
    put(held, long, short)
    store = await open_store(0, held)
    reads, may_read = threading.Event(), threading.Event()

    def slow_get(key: str) -> bytes | None:
        reads.set()
        assert may_read.wait(PATIENCE_S)
        return Shelf.get(held, key)

    monkeypatch.setattr(held, "get", slow_get)
    waiting = asyncio.create_task(store.fetch(long.key))
    await until(reads.is_set)

    assert await asyncio.gather(*(store.fetch(key_of(name)) for name in ("short", "absent"))) == [short.answer, None]
    assert not waiting.done()
    may_read.set()
    assert await waiting == long.answer


async def test_those_that_are_looked_for_together_fail_one_by_one(
    held: HeldShelf, open_store: OpenStore, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can't be read at once may only be one of them."""
    put(held, *(recording(name) for name in "abc"))
    store = await open_store(0, held)

    def get(key: str) -> bytes | None:
        if key == key_of("b"):
            raise ShelfTrouble("not this one")
        return Shelf.get(held, key)

    def get_short(keys: Sequence[str]) -> dict[str, bytes | None]:
        raise ShelfTrouble("one of them")

    monkeypatch.setattr(held, "get", get)
    monkeypatch.setattr(held, "get_short", get_short)
    found = await asyncio.gather(*(store.fetch(key_of(name)) for name in "abc"))

    assert found in ([recording("a").answer, None, recording("c").answer], [None, None, recording("c").answer])
    assert logged(STORE_FAILED)[0]["reason"] in ("not this one", "one of them")


async def test_a_recording_made_anew_is_no_reason_to_forget_all_others(
    directory: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who wrote it knows of it; another store, which may have the one before it in memory, forgets that."""
    monkeypatch.setattr(store_module, "_HOUSEKEEPING_S", PATIENCE_S)
    mine, other = await open_store(), await open_store()
    for name in "ab":
        assert mine.keep(recording(name))
    await until(lambda: not mine._waiting and None not in (mine._removals, other._removals))
    assert await other.fetch(key_of("a"))

    assert mine.keep(later := recording("a", [b"data: [DONE]\n\n"]))
    await until(lambda: not mine._waiting)
    for store in (mine, other):
        await store._notice_removals()

    assert mine.recall(key_of("b"))
    assert other.recall(key_of("a")) is None
    assert await other.fetch(key_of("a")) == later.answer
