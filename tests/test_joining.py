"""One request upstream for all who ask the same: whoever comes later gets everything from byte 0, and then live."""

import threading

import pytest

from tests.conftest import Log, StartProxy
from tests.exchanges import listeners, start_asking, store_of, take, until, word
from tests.harness import (
    ANSWER,
    DONE,
    HELLO,
    LAST_CHUNK,
    PATIENCE_S,
    PROMPT,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Proxy,
    Response,
    ScriptedUpstream,
    chunk,
    event,
    plain,
    sse_head,
    stream,
)

MANY = 100


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


@pytest.mark.parametrize("asked", [PROMPT, STREAMED], ids=["plain", "stream"])
async def test_a_hundred_at_once_are_one_request(
    asked: dict[str, object], proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """They all get the same bytes."""
    barrier = Barrier()
    upstream.will_send(barrier, *(stream() if asked is STREAMED else [plain(ANSWER)]))
    connections = [await start_asking(proxy, asked) for _ in range(MANY)]
    await until(lambda: listeners(proxy) == MANY)
    barrier.release()

    answers = [await connection.response() for connection in connections]

    expected = STREAM if asked is STREAMED else ANSWER
    assert [await answer.body() for answer in answers] == [expected] * MANY
    told = [answer.get("x-cache-status") for answer in answers]
    assert (told.count("MISS"), told.count("JOINED")) == (1, MANY - 1)
    assert upstream.requests_seen == 1


async def test_a_hundred_at_once_find_one_recording_on_disk(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """A herd that meets an empty memory tier is served from disk, and nobody asks the upstream."""
    upstream.will_send(*stream())
    recorder = await start_proxy()
    await word(recorder.ask(STREAMED))
    await recorder.app.stop()
    proxy = await start_proxy()

    connections = [await start_asking(proxy) for _ in range(MANY)]
    answers = [await connection.response() for connection in connections]

    assert [await answer.body() for answer in answers] == [STREAM] * MANY
    assert {answer.get("x-cache-status") for answer in answers} == {"HIT"}
    assert upstream.requests_seen == 1


@pytest.mark.parametrize("meanwhile", ["recorded", "launched"])
async def test_what_came_about_while_the_disk_was_read_is_noticed(
    meanwhile: str, proxy: Proxy, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1: looks on disk; 2: asks for an answer of its own; 1: finds nothing on disk, and yet need not ask upstream."""
    reading, may_go_on, barrier = threading.Event(), threading.Event(), Barrier()
    shelf = store_of(proxy)._shelf
    read = shelf.get

    def read_slowly(key: str) -> bytes | None:
        entry = read(key)
        reading.set()
        assert may_go_on.wait(PATIENCE_S)
        return entry

    monkeypatch.setattr(shelf, "get", read_slowly)
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


@pytest.mark.parametrize("leaver", [0, 1])
async def test_who_leaves_takes_nothing_away_from_the_others(
    leaver: int, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Whether it came first or joined; a recording goes on as long as anyone listens to it."""
    proxy = await start_proxy(cache__linger="0")
    *both, barrier = await held_up(proxy, upstream)

    await both[leaver].leave()
    await until(lambda: listeners(proxy) == 1)
    barrier.release()

    assert await both[1 - leaver].body() == WORLD + DONE
    assert await word(proxy.ask(STREAMED)) == "HIT"
    assert upstream.requests_seen == 1
    outcomes = {line["id"]: line["outcome"] for line in [await log.line(0), await log.line(1)]}
    assert outcomes == {
        both[leaver].get("x-reprise-id"): "client_disconnected",
        both[1 - leaver].get("x-reprise-id"): "complete",
    }


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


async def test_the_first_may_leave_before_there_is_a_head(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """The one that joined gets it."""
    proxy = await start_proxy(cache__linger="0")
    barrier = Barrier()
    upstream.will_send(barrier, *stream())
    first, second = await start_asking(proxy), await start_asking(proxy)
    await until(lambda: listeners(proxy) == 2)

    await first.close()
    await until(lambda: listeners(proxy) == 1)
    barrier.release()

    answer = await second.response()
    assert (answer.status, await answer.body()) == (200, STREAM)
    assert upstream.requests_seen == 1


async def test_one_that_takes_nothing_holds_up_nobody(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """The upstream runs at the pace of the fastest; who was slow finds all of it there."""
    proxy = await start_proxy()
    frames = [event("x" * 50_000) for _ in range(100)]
    start = Barrier()
    upstream.will_send(sse_head(), start, *map(chunk, frames), chunk(DONE) + LAST_CHUNK)
    slow, fast = await proxy.ask(STREAMED), await proxy.ask(STREAMED)
    slow._writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport reads
    start.release()

    whole = b"".join(frames) + DONE
    assert await fast.body() == whole
    slow._writer.transport.resume_reading()  # type: ignore[attr-defined]  # a socket's transport reads
    assert await slow.body() == whole
