"""One request upstream for all who ask the same: whoever comes later gets everything from byte 0, and then live."""

import threading
from collections.abc import Sequence

import pytest

from tests.conftest import Company, Log, StartProxy
from tests.exchanges import listeners, start_asking, store_of, take, until, word
from tests.harness import (
    DONE,
    HELLO,
    LAST_CHUNK,
    PATIENCE_S,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Proxy,
    Response,
    ScriptedUpstream,
    chunk,
    sse_head,
    stream,
)


async def test_a_stream_under_way_is_joined_from_its_first_byte(
    proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Then it goes on live for both, and the next one is a hit."""
    after_hello, after_world = Barrier(), Barrier()
    upstream.will_send(
        sse_head(b"x-request-id: req_1", b"X-Unknown: 1"),
        chunk(HELLO),
        after_hello,
        chunk(WORLD),
        after_world,
        chunk(DONE) + LAST_CHUNK,
    )
    first = await proxy.ask(STREAMED)
    assert await first.next_chunk() == HELLO

    second = await proxy.ask(STREAMED)
    assert await second.next_chunk() == HELLO
    after_hello.release()
    assert [await first.next_chunk(), await second.next_chunk()] == [WORLD, WORLD]
    third = await proxy.ask(STREAMED)
    await take(third, HELLO + WORLD)
    after_world.release()

    everyone = (first, second, third)
    assert [await response.body() for response in everyone] == [DONE] * 3
    assert [response.get("x-cache-status") for response in everyone] == ["MISS", "JOINED", "JOINED"]
    assert [response.get_all("x-unknown") for response in everyone] == [["1"]] * 3
    assert len({response.get("x-reprise-id") for response in everyone}) == 3
    assert await word(proxy.ask(STREAMED)) == "HIT"
    assert upstream.requests_seen == 1
    lines = {line["id"]: line for line in [await log.line(number) for number in range(3)]}
    joined = lines[third.get("x-reprise-id")]
    assert (joined["cache"], joined["outcome"], joined["stored"], joined["bytes"]) == (
        "JOINED",
        "complete",
        True,
        len(STREAM),
    )


@pytest.mark.parametrize("meanwhile", ["recorded", "launched"])
async def test_what_came_about_while_the_disk_was_read_is_noticed(
    meanwhile: str,
    proxy: Proxy,
    upstream: ScriptedUpstream,
    monkeypatch: pytest.MonkeyPatch,
    company: Company,
) -> None:
    """1: looks on disk; 2: asks for an answer of its own; 1: finds nothing on disk, and yet need not ask upstream."""
    company(proxy)
    reading, may_go_on, barrier = threading.Event(), threading.Event(), Barrier()
    shelf = store_of(proxy)._shelf
    read = shelf.get_short

    def read_slowly(keys: Sequence[str]) -> dict[str, bytes | None]:
        entries = read(keys)
        reading.set()
        assert may_go_on.wait(PATIENCE_S)
        return entries

    monkeypatch.setattr(shelf, "get_short", read_slowly)
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD) + chunk(DONE) + LAST_CHUNK)
    first = await start_asking(proxy)
    await until(reading.is_set)
    second = await proxy.ask(STREAMED, headers={"Cache-Control": "no-cache"})
    if meanwhile == "recorded":
        barrier.release()
        assert await second.body() == STREAM
    may_go_on.set()

    answer = await first.response()

    assert answer.get("x-cache-status") == ("HIT" if meanwhile == "recorded" else "JOINED")
    barrier.release()
    assert await answer.body() == STREAM
    assert upstream.requests_seen == 1


async def held_up(proxy: Proxy, upstream: ScriptedUpstream) -> tuple[Response, Response, Barrier]:
    """A stream, the first to ask for it and one who has joined, both at its first frame."""
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD), chunk(DONE) + LAST_CHUNK)
    first, second = await proxy.ask(STREAMED), await proxy.ask(STREAMED)
    assert [await first.next_chunk(), await second.next_chunk()] == [HELLO, HELLO]
    return first, second, barrier


async def test_when_both_have_left_the_upstream_is_left_too(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """In whatever order."""
    proxy = await start_proxy(cache__linger="0")
    first, second, _ = await held_up(proxy, upstream)

    await first.leave()
    await until(lambda: listeners(proxy) == 1)
    await second.leave()

    await upstream.wait_until(lambda: upstream.connections == 0)
    upstream.will_send(*stream())
    assert await word(proxy.ask(STREAMED)) == "MISS"
