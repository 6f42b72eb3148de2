"""A filled store of the benchmark: what is in it is what the proxy would have recorded, so asking for it is a hit."""

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import questions
from benchmarks.filling import UPSTREAM_NAME, fill, numbers, recordings
from benchmarks.nearest import Misses
from benchmarks.questions import Question
from benchmarks.stage import BytesWrong
from proxy.recording import Recording
from proxy.store.codec import decode
from proxy.store.disk import Shelf
from tests.conftest import StartProxy
from tests.harness import ScriptedUpstream
from tests.recordings import timeline
from tests.shelves import MIB


async def test_every_recording_of_a_filled_store_is_a_hit(
    start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """By the proxy's own key, with the right bytes, and the upstream is not asked; of more than one seed."""
    fill(tmp_path / "store", 3)
    fill(tmp_path / "store", 2, seed=1)
    proxy = await start_proxy(upstream__name=UPSTREAM_NAME)

    for number in (*numbers(3), *numbers(2, seed=1)):
        response = await proxy.ask(Question(number).body())

        assert (response.get("X-Cache-Status"), response.get("x-request-id")) == ("HIT", f"req_{number}")
        assert await response.body() == questions.plain_body(number)
    assert upstream.requests_seen == 0


@pytest.mark.parametrize("frames", [0, 3], ids=["plain", "stream"])
async def test_the_proxy_records_the_same(
    start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path, frames: int
) -> None:
    """All but the times, and how a stream was cut into frames."""
    (number,) = numbers(1)
    (made,) = recordings(numbers(1), frames)
    upstream.will_send(questions.stream_answer(number, frames) if frames else questions.plain_answer(number))
    proxy = await start_proxy(upstream__name=UPSTREAM_NAME)

    await (await proxy.ask(Question(number, frames).body())).body()
    await proxy.app.stop()

    with closing(Shelf.open(tmp_path / "store", MIB)) as shelf:
        entry = shelf.get(made.key)
    assert entry is not None
    assert _without_times(decode(entry, made.key)) == _without_times(made)


def test_a_store_that_was_filled_in_parts_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes make the rows; each question is there once, in its order, and is counted."""
    monkeypatch.setattr("benchmarks.filling._AT_ONCE", 4)

    fill(tmp_path / "store", 10)

    with closing(Shelf.open(tmp_path / "store", MIB)) as shelf:
        assert [summary.key for summary, *_ in shelf.summaries()] == [each.key for each in recordings(numbers(10))]
        assert shelf.count == 10


async def test_a_miss_counts_only_if_it_names_the_right_recording(
    start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """One that a word has turned into a miss; where that recording is not there, another one is the nearest."""
    fill(tmp_path / "store", 3)
    proxy = await start_proxy(upstream__name=UPSTREAM_NAME, cache__mode="replay")

    with closing(Misses(proxy.port, 3)) as misses:
        assert [await asyncio.to_thread(misses.ask) > 0 for _ in range(4)] == [True] * 4
    with closing(Misses(proxy.port, 4)) as misses:
        assert await asyncio.to_thread(misses.ask) > 0
        with pytest.raises(BytesWrong, match="a miss was to hear"):
            await asyncio.to_thread(misses.ask)
    assert upstream.requests_seen == 0


def _without_times(recording: Recording) -> Recording:
    return recording._replace(recorded_at=0.0, timeline=timeline([], []))
