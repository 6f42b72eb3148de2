"""A directory that is taken away from a running proxy: that is noticed, said once, and made good by itself."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from proxy.store import health
from proxy.store import tiered as store_module
from proxy.store.disk import Shelf
from proxy.store.upkeep import STORE_OPENED_ANEW
from tests.conftest import Log, StartProxy
from tests.exchanges import store_of, until, word
from tests.harness import PATIENCE_S, STREAM, STREAMED, Proxy, ScriptedUpstream, stream
from tests.shelves import MIB


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


async def record(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """One answer, written, with the housekeeping under way."""
    upstream.will_send(*stream())
    await word(proxy.ask(STREAMED))
    await until(lambda: not store_of(proxy)._waiting and store_of(proxy)._removals is not None)


def replace(directory: Path) -> None:
    """With another store."""
    Shelf.open(directory.parent / "other", MIB).close()
    move_away(directory)
    (directory.parent / "other").rename(directory)


def move_away(directory: Path) -> None:
    directory.rename(directory.parent / "away")


def remove_database(directory: Path) -> None:
    (directory / "cache.db").unlink()


def rename_database(directory: Path) -> None:
    (directory / "cache.db").rename(directory / "backup.db")


def put_a_file_in_its_place(directory: Path) -> None:
    move_away(directory)
    directory.write_text("in the way")


def make_way(directory: Path) -> None:
    directory.unlink()


async def test_a_directory_that_is_removed_is_made_anew(
    directory: Path, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was in it is gone, from memory as well; what comes is recorded where it can be found."""
    monkeypatch.setattr(store_module, "_HOUSEKEEPING_S", 0.02)
    proxy = await start_proxy()
    await record(proxy, upstream)

    move_away(directory)
    await log.line(0, STORE_OPENED_ANEW)
    await until(lambda: not store_of(proxy)._memory._used_bytes)

    assert [await word(proxy.ask(STREAMED)) for _ in range(2)] == ["MISS", "HIT"]
    await proxy.app.stop()
    assert await word((await start_proxy()).ask(STREAMED)) == "HIT"
    assert (len(log.lines(STORE_OPENED_ANEW)), log.lines("store_failed")) == (1, [])


@pytest.mark.parametrize("take_away", [move_away, remove_database, rename_database, replace])
async def test_a_database_that_is_taken_away_is_made_anew(
    take_away: Callable[[Path], None],
    *,
    directory: Path,
    start_proxy: StartProxy,
    upstream: ScriptedUpstream,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the next recording is written: it does not vanish with a file that has no name any more."""
    monkeypatch.setattr(store_module, "_HOUSEKEEPING_S", PATIENCE_S)
    proxy = await start_proxy(cache__memory_limit=0)
    await record(proxy, upstream)

    take_away(directory)

    assert [await word(proxy.ask({**STREAMED, "seed": 1})) for _ in range(2)] == ["MISS", "HIT"]
    await proxy.app.stop()
    with closing(Shelf.open(directory, MIB)) as shelf:
        assert shelf.count == 1
    assert len(log.lines(STORE_OPENED_ANEW)) == 1


async def test_a_directory_that_can_not_be_made_anew_is_tried_again_without_a_word(
    directory: Path, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line when it begins and one when it is over, however many requests there are between them."""
    monkeypatch.setattr(store_module, "_HOUSEKEEPING_S", 0.02)
    monkeypatch.setattr(health, "_SETTLED_S", 0.0)
    proxy = await start_proxy()
    await record(proxy, upstream)
    put_a_file_in_its_place(directory)

    for number in range(20):
        answer = await proxy.ask({**STREAMED, "seed": number})
        assert (answer.status, await answer.body()) == (200, STREAM)
    assert (await log.line(0, "store_failed"))["what"] == "opening"
    assert len(log.lines("store_failed")) == 1
    make_way(directory)

    await log.line(0, "store_recovered")
    await log.line(0, STORE_OPENED_ANEW)
    assert [await word(proxy.ask({**STREAMED, "seed": 99})) for _ in range(2)] == ["MISS", "HIT"]
    assert len(log.lines("store_failed")) == len(log.lines("store_recovered")) == 1
