"""The shelf: what was put is there, for every process; what others put there is refused unread; the limit holds."""

import pickle
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.store import rows
from proxy.store.codec import Damaged, encode, summary
from proxy.store.database import BytesDisk, ShelfTrouble
from proxy.store.disk import Shelf
from tests.recordings import key_of, recording
from tests.shelves import (
    HOLD_THE_LOCK,
    MIB,
    PLANTERS,
    Mine,
    another_process,
    noise,
    plant,
    plant_row,
    put,
    rest_of,
    row,
    written,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def shelf(directory: Path) -> Iterator[Shelf]:
    with closing(Shelf.open(directory, 100 * MIB)) as shelf:
        yield shelf


def test_what_was_put_is_there_for_whoever_opens_the_directory(directory: Path, shelf: Shelf) -> None:
    """Recordings outlive the process that made them."""
    one, two = recording("one"), recording("two")
    put(shelf, one, two)

    with closing(Shelf.open(directory, 100 * MIB)) as again:
        assert again.get(one.key) == encode(one)
        assert again.get(key_of("three")) is None
        assert (again.count, sorted(again.keys())) == (2, sorted([one.key, two.key]))
        assert list(again.summaries()) == [(summary(each), len(encode(each)), 0) for each in (one, two)]


def test_some_are_found_by_their_keys_and_by_how_a_key_begins(shelf: Shelf) -> None:
    """Without a look at the others; what is not there is passed over."""
    recordings = [recording(str(number))._replace(key=f"{number:02x}" * 32) for number in range(50)]
    put(shelf, *recordings)

    some = {known.key: (stored, hits) for known, stored, hits in shelf.summaries_of(["00" * 32, "31" * 32, "ff" * 32])}
    assert some == {each.key: (len(encode(each)), 0) for each in (recordings[0], recordings[49])}
    assert sorted(shelf.keys_from("1")) == [each.key for each in recordings[16:32]]
    assert shelf.keys_from("1f1") == ["1f" * 32]
    assert shelf.keys_from("ff") == []


def test_many_are_stored_at_once_in_their_order(directory: Path, shelf: Shelf) -> None:
    """However many statements that takes; others hear of it if a single one took the place of another."""
    first = [recording("one")._replace(key=f"{number:04x}" * 16) for number in range(300)]
    more = [each._replace(key=each.key[::-1]) for each in first[1:16]]  # none of which reads the same backwards
    again = first[200]._replace(recorded_at=1e9)
    with closing(Shelf.open(directory, 100 * MIB)) as other:
        shelf.put_all([row(each) for each in first])
        stored, before = list(shelf.keys()), other.removals()
        shelf.put_all([row(each) for each in (*more, again, more[0])])

        assert other.removals() != before

    left = [each for each in first if each.key != again.key]
    assert stored == [each.key for each in first]
    assert list(shelf.keys()) == [each.key for each in (*left, *more[1:], again, more[0])]
    assert [shelf.get(each.key) for each in (first[0], again)] == [encode(first[0]), encode(again)]
    assert shelf.count == len(first) + len(more)


def test_a_recording_takes_the_place_of_the_one_before_it(shelf: Shelf) -> None:
    """One key, one recording, the latest; its hits are counted anew."""
    put(shelf, recording("one"))
    shelf.count_hits({key_of("one"): 5})
    later = recording("one", [b"data: [DONE]\n\n"])

    put(shelf, later)

    assert shelf.get(later.key) == encode(later)
    assert list(shelf.summaries()) == [(summary(later), len(encode(later)), 0)]


def test_what_was_deleted_is_gone(shelf: Shelf) -> None:
    """One recording or all of them; and whoever watches can tell that something was removed."""
    put(shelf, *(recording(str(number)) for number in range(250)))
    at_first = shelf.removals()

    assert shelf.delete(key_of("7"))
    assert not shelf.delete(key_of("7"))
    then = shelf.removals()
    assert shelf.clear() == 249

    assert shelf.count == 0
    assert shelf.get(key_of("8")) is None
    assert len({at_first, then, shelf.removals()}) == 3


def test_what_takes_the_place_of_another_is_told_to_others(directory: Path, shelf: Shelf) -> None:
    """Not to the one that wrote it, unless something was removed before, which that one has not noticed yet."""
    put(shelf, recording("one"), recording("two"))
    with closing(Shelf.open(directory, 100 * MIB)) as other:
        at_first, to_other = shelf.removals(), other.removals()

        put(shelf, recording("three"))
        assert (shelf.removals(), other.removals()) == (at_first, to_other)

        for _ in range(3):
            put(shelf, recording("one"))
            assert shelf.removals() == at_first
            assert other.removals() != to_other
            to_other = other.removals()

        assert other.delete(key_of("two"))
        put(shelf, recording("one"))
        assert shelf.removals() != at_first


def test_one_that_can_not_be_stored_leaves_the_others_out_too(directory: Path, shelf: Shelf) -> None:
    """A batch is stored as a whole or not at all, and the next one is none the worse for it."""
    put(shelf, recording("one"))
    plant(
        directory,
        f"CREATE TRIGGER picky BEFORE INSERT ON Cache WHEN NEW.key = '{key_of('b')}' "
        "BEGIN SELECT raise(ABORT, 'not this one'); END",
    )

    with pytest.raises(ShelfTrouble, match="not this one"):
        shelf.put_all([(key_of(name), b"entry", b"{}") for name in ("a", "one", "b")])
    assert list(shelf.keys()) == [key_of("one")]
    assert shelf.get(key_of("one")) == encode(recording("one"))

    shelf.put_all([(key_of(name), name.encode(), b"{}") for name in "aca"])
    assert list(shelf.keys()) == [key_of(name) for name in ("one", "c", "a")]
    assert shelf.count == 3


def test_what_a_planted_index_keeps_out_is_not_taken_for_stored(directory: Path, shelf: Shelf) -> None:
    """A row that is passed over has a forerunner under its key, or is a failure; it does not vanish."""
    put(shelf, recording("one"))
    plant(directory, "CREATE UNIQUE INDEX planted ON Cache (mode, raw)")

    with pytest.raises(ShelfTrouble, match="UNIQUE"):
        put(shelf, recording("two"))

    assert list(shelf.keys()) == [key_of("one")]


def file_beside_a_value(directory: Path, key: str, _: Path) -> None:
    plant_row(directory, key, mode=1, filename="../outside", value=b"x", tag=b"{}")


@pytest.mark.parametrize("planted", [*PLANTERS, file_beside_a_value, None])
def test_many_are_read_as_each_by_itself(
    planted: Callable[[Path, str, Path], None] | None, directory: Path, shelf: Shelf
) -> None:
    """Those that are short and sound; the rest is left to the one way of reading that can tell what is wrong."""
    sound, long = recording("sound"), recording("long", [noise(100_000)])
    put(shelf, sound, long)
    key = key_of("planted")
    if planted is not None:
        planted(directory, key, directory.parent / "trace")
    else:
        plant_row(directory, key.encode(), value=b"x", tag=b"{}")

    entries = shelf.get_short([sound.key, long.key, key, key_of("absent")])

    assert entries == {sound.key: encode(sound), long.key: None} | ({key: None} if planted else {})
    if planted is not None:
        with pytest.raises(Damaged):
            shelf.get(key)
    assert shelf.get(long.key) == encode(long)


def test_hits_are_counted_in_batches(shelf: Shelf) -> None:
    """They add up; a key that is gone is no trouble."""
    put(shelf, recording("one"), recording("two"))

    shelf.count_hits({key_of("one"): 2, key_of("gone"): 9})
    shelf.count_hits({key_of("one"): 3})

    assert {known.key: hits for known, _, hits in shelf.summaries()} == {key_of("one"): 5, key_of("two"): 0}


def test_a_large_store_is_listed_without_its_entries(directory: Path, shelf: Shelf) -> None:
    """20,000 recordings are listed, though not one entry is there to be read."""
    known = summary(recording("one"))
    with closing(sqlite3.connect(directory / "cache.db")) as connection, connection:
        connection.executemany(
            "INSERT INTO Cache (key, raw, store_time, tag, mode, value) VALUES (?, 1, 0, ?, 1, zeroblob(100))",
            ((key_of(str(n)), replace(known, key=key_of(str(n))).to_json()) for n in range(20_000)),
        )

    listed = list(shelf.summaries())

    assert len(listed) == shelf.count == 20_000
    assert {one.key for one, _, _ in listed} == set(shelf.keys())
    assert {(stored_bytes, hits) for _, stored_bytes, hits in listed} == {(100, 0)}


def test_everything_is_in_the_database(directory: Path, shelf: Shelf) -> None:
    """A large recording is a row as well: there are no files that could be lost, swapped or left behind."""
    large = recording("large", [noise(5 * MIB)])

    put(shelf, large)

    assert shelf.get(large.key) == encode(large)
    names = {path.name for path in directory.rglob("*")}
    assert names == {".gitignore", "cache.db", "cache.db-wal", "cache.db-shm", "writer.lock", "guests.lock"}


def test_the_oldest_give_way_when_the_store_is_full(directory: Path) -> None:
    """The limit holds, and what was stored last is there."""
    with closing(Shelf.open(directory, 2 * MIB)) as shelf:
        for number in range(100):
            shelf.put(key_of(str(number)), noise(50_000), b"{}")

        assert MIB < shelf.volume_bytes() <= 2 * MIB
        assert shelf.get(key_of("99"))
        assert shelf.get(key_of("0")) is None


def test_no_more_give_way_than_have_to(directory: Path) -> None:
    """One large recording takes the place of many small ones, and of one other large one."""
    with closing(Shelf.open(directory, 2 * MIB)) as shelf:
        for number in range(1000):
            shelf.put(key_of(f"small {number}"), noise(1000), b"{}")
        for number in range(4):
            shelf.put(key_of(f"large {number}"), noise(600_000), b"{}")

            assert shelf.volume_bytes() <= 2 * MIB
            assert shelf.get(key_of(f"large {number}"))

        assert list(shelf.keys()) == [key_of(f"large {number}") for number in (1, 2, 3)]


@pytest.mark.parametrize("jump_s", [-1e8, 1e8])
def test_a_clock_that_jumps_does_not_decide_who_gives_way(
    directory: Path, jump_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go in the order in which they were stored; one that is stored again is the latest."""
    with closing(Shelf.open(directory, 950_000)) as shelf:
        for number in range(4):
            shelf.put(key_of(str(number)), noise(200_000), b"{}")
        now_s = time.time()
        monkeypatch.setattr(time, "time", lambda: now_s + jump_s)
        for number in (0, 4, 5):
            shelf.put(key_of(str(number)), noise(200_000), b"{}")

        assert list(shelf.keys()) == [key_of(str(number)) for number in (3, 0, 4, 5)]


@pytest.mark.parametrize(
    ("mode", "filename", "value"),
    [(0, None, b"x"), (2, None, b"x"), (3, None, b"x"), (4, None, b"x"), (1, "ab/cd/0.val", b"x"), (1, None, None)],
)
def test_only_bytes_within_a_row_are_read(mode: int, filename: str | None, value: bytes | None) -> None:
    """Whatever else a row may hold is refused, whether diskcache would make anything of it or not."""
    disk = BytesDisk("/nowhere")

    assert disk.fetch(1, None, b"x", read=False) == b"x"
    with pytest.raises(Damaged):
        disk.fetch(mode, filename, value, read=False)


def test_planted_keys_and_summaries_are_passed_over(directory: Path, shelf: Shelf) -> None:
    """A key that is a pickle is never unpickled, whoever goes through the keys; clearing removes it unread."""
    trace, good = directory.parent / "trace", recording("good")
    put(shelf, good)
    plant_row(directory, pickle.dumps(Mine(trace)), raw=0, value=b"", tag=summary(good).to_json())
    plant_row(directory, pickle.dumps(Mine(trace)), raw=1, value=b"", tag=summary(good).to_json())
    plant_row(directory, key_of("a"), value=b"", tag="{}")
    plant_row(directory, key_of("b"), value=b"", tag=b"{}")
    plant_row(directory, key_of("c"), value=b"", tag=summary(good).to_json())
    plant_row(directory, key_of("d"), value=b"")

    assert [known.key for known, _, _ in shelf.summaries()] == [good.key]
    assert set(shelf.keys()) == {good.key, *map(key_of, "abcd")}
    with pytest.raises(Damaged):
        list(shelf._cache)
    assert shelf.clear() == 7
    assert not trace.exists()


def test_no_file_is_removed_that_a_planted_row_names(directory: Path, shelf: Shelf) -> None:
    """Not when it is replaced, deleted, cleared or evicted."""
    outside = directory.parent / "outside"
    outside.touch()
    for name in ("replaced", "deleted", "cleared"):
        plant_row(directory, key_of(name), mode=2, filename="../outside", size=1)

    put(shelf, recording("replaced"))
    assert shelf.delete(key_of("deleted"))
    assert shelf.clear() == 2
    plant_row(directory, key_of("evicted"), mode=2, filename="../outside", size=9, value=noise(50_000))
    shelf.size_limit_bytes = shelf.volume_bytes()
    put(shelf, recording("new", [noise(20_000)]))

    assert list(shelf.keys()) == [key_of("new")]
    assert outside.exists()


@pytest.mark.parametrize("value", ["text", 1, None, bytearray(b"x")])
def test_only_bytes_under_text_keys_are_stored(shelf: Shelf, value: Any) -> None:
    """The rest would have been pickled."""
    with pytest.raises(TypeError):
        shelf.put(key_of("one"), value, b"{}")
    with pytest.raises(TypeError):
        shelf.put((1, 2), b"entry", b"{}")  # type: ignore[arg-type]  # that is what is tried


def test_a_lock_held_elsewhere_does_not_keep_from_reading(directory: Path, shelf: Shelf) -> None:
    """A writer that is stuck costs those who write, and even them no longer than a lock may take."""
    put(shelf, recording("one"))

    with another_process(HOLD_THE_LOCK, directory / "cache.db"):
        assert shelf.get(key_of("one"))
        assert len(list(shelf.summaries())) == 1
        with pytest.raises(ShelfTrouble, match="locked"):
            put(shelf, recording("two"))

    put(shelf, recording("three"))
    assert set(shelf.keys()) == {key_of("one"), key_of("three")}


FILL_THE_DISK = """
import resource, sys
from pathlib import Path
from proxy.store.database import BytesDisk, ShelfTrouble
from proxy.store.disk import Shelf
shelf, failed = Shelf.open(Path(sys.argv[1]), 2**30), 0
shelf.put("first", b"first", b"{}")
print("ready", flush=True)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, most))
for number in range(20):
    try:
        shelf.put(f"key {number}", bytes(50_000), b"{}")
    except ShelfTrouble:
        failed += 1
assert failed, "it was never full"
assert shelf.get("first") == b"first"
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
shelf.put("last", b"last", b"{}")
for number in range(20):
    assert shelf.get(f"key {number}") in (None, bytes(50_000))
print("recovered", flush=True)
"""


def test_a_full_disk_costs_what_can_not_be_written_and_no_more(directory: Path) -> None:
    """What was there is there, nothing is there by halves, and when there is room again things go on."""
    with another_process(FILL_THE_DISK, directory) as process:
        assert rest_of(process) == "recovered\n"

    with closing(Shelf.open(directory, MIB)) as shelf:
        assert shelf.get("last") == b"last"


WRITE_ON = """
import sys
from pathlib import Path
from proxy.store.disk import Shelf
from tests.shelves import put, written
shelf = Shelf.open(Path(sys.argv[1]), 2**30)
print("ready", flush=True)
for number in range(int(sys.argv[3])):
    put(shelf, written(sys.argv[2], number))
    print(number, flush=True)
shelf.close()
"""


@pytest.mark.parametrize("count", [0, 1, 7])
def test_they_are_listed_from_either_end(
    count: int, directory: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of storing, or the latest first; over as many pages as it takes."""
    monkeypatch.setattr(rows, "_PAGE_ROWS", 3)
    put(shelf, *(recording(str(number)) for number in range(count)), *([recording("0")] if count else []))

    listed = [known.key for known, _, _ in shelf.summaries()]

    assert listed == [key_of(str(number)) for number in [*range(1, count), *range(min(count, 1))]]
    assert [known.key for known, _, _ in shelf.summaries(latest_first=True)] == listed[::-1]


def test_two_processes_write_to_one_directory(directory: Path) -> None:
    """Each finds all of it, and so does a third one that writes between them."""
    with (
        another_process(WRITE_ON, directory, "left", 150) as left,
        another_process(WRITE_ON, directory, "right", 150) as right,
    ):
        with closing(Shelf.open(directory, 100 * MIB)) as shelf:
            put(shelf, *(recording(f"mine {number}") for number in range(150)))
        rest_of(left)
        rest_of(right)

    with closing(Shelf.open(directory, 100 * MIB)) as shelf:
        assert sum(1 for _ in shelf.summaries()) == shelf.count == 450
        for number in range(150):
            for side in ("left", "right"):
                assert shelf.get(key_of(f"{side} {number}")) == encode(written(side, number))


def test_a_process_that_is_killed_leaves_whole_recordings(directory: Path) -> None:
    """What it said was stored is stored, and whole."""
    with another_process(WRITE_ON, directory, "killed", 1_000_000) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(200)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]

    with closing(Shelf.open(directory, 100 * MIB)) as shelf:
        for number in acknowledged:
            assert shelf.get(key_of(f"killed {number}")) == encode(written("killed", number))
