"""What the recordings take on disk: room that was freed is used again, and what is removed on purpose is given back."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.store import space
from proxy.store.disk import Shelf
from tests.recordings import key_of
from tests.shelves import MIB, noise, plant

ROW_BYTES = 3000  # one fills a page of the database


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def shelf(directory: Path) -> Iterator[Shelf]:
    with closing(Shelf.open(directory, 100 * MIB)) as shelf:
        yield shelf


def test_what_drives_others_out_fits_in_where_they_were(directory: Path, shelf: Shelf) -> None:
    """Some more go than have to, so that the next ones find room; the file stays as large as the limit."""
    fill(shelf, 300)
    shelf.size_limit_bytes = shelf.volume_bytes()

    fill(shelf, 1, "first")
    free = free_pages(directory)
    fill(shelf, 1, "second")

    assert free > 1
    assert free_pages(directory) < free
    assert shelf.volume_bytes() == shelf.size_limit_bytes
    assert 300 - free <= shelf.count <= 302 - free + 1


def test_a_lower_limit_makes_the_file_smaller(directory: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps, each of which lets others write; the latest recordings are those that stay."""
    monkeypatch.setattr(space, "_ROWS_AT_ONCE", 20)
    monkeypatch.setattr(space, "_BYTES_AT_ONCE", 40_000)
    fill(shelf, 300)
    shelf.size_limit_bytes = shelf.volume_bytes() // 2

    fill(shelf, 1, "last")

    assert 0.9 * shelf.size_limit_bytes < shelf.volume_bytes() <= shelf.size_limit_bytes
    names = list(shelf.keys())
    assert names == [*(key_of(f"{number}") for number in range(301 - len(names), 300)), key_of("last 0")]
    assert size_on_disk(directory) <= shelf.size_limit_bytes


def test_what_is_removed_on_purpose_gives_its_room_back(directory: Path, shelf: Shelf) -> None:
    """One large recording, and then all the others, more of them than are removed in one step."""
    fill(shelf, space._ROWS_AT_ONCE + 100)
    before = shelf.volume_bytes()
    shelf.put(key_of("large"), noise(5 * MIB), b"{}")

    assert shelf.delete(key_of("large"))
    assert shelf.volume_bytes() <= before
    assert shelf.clear() == space._ROWS_AT_ONCE + 100
    assert shelf.volume_bytes() < 20 * 4096
    assert free_pages(directory) == 0


def test_a_database_of_an_earlier_version_is_taken_over(directory: Path, shelf: Shelf) -> None:
    """It gave room back by itself, at each transaction."""
    fill(shelf, 300)
    shelf.close()
    plant(directory, "PRAGMA auto_vacuum = FULL")

    with closing(Shelf.open(directory, 100 * MIB)) as again:
        again.size_limit_bytes = again.volume_bytes()
        fill(again, 1, "new")

        assert free_pages(directory) > 0
        assert again.volume_bytes() <= again.size_limit_bytes


def test_a_limit_that_nothing_can_hold_empties_the_store_and_no_more(shelf: Shelf) -> None:
    """The tables themselves take some pages."""
    fill(shelf, 10)
    shelf.size_limit_bytes = 1

    fill(shelf, 1, "new")

    assert shelf.count == 0


def fill(shelf: Shelf, count: int, name: str = "") -> None:
    for number in range(count):
        shelf.put(key_of(f"{name} {number}".strip()), noise(ROW_BYTES), b"{}")


def free_pages(directory: Path) -> int:
    with closing(sqlite3.connect(directory / "cache.db")) as connection:
        ((pages,),) = connection.execute("PRAGMA freelist_count").fetchall()
        return int(pages)


def size_on_disk(directory: Path) -> int:
    """Of the database, with all that was written ahead in it."""
    with closing(sqlite3.connect(directory / "cache.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return (directory / "cache.db").stat().st_size
