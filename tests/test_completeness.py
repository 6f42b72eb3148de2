"""Which answers are whole: every choice has finished, and the framing has ended; all others are forgotten."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from tests.conftest import Log
from tests.exchanges import word, words
from tests.harness import (
    ANSWER,
    CLOSE,
    DONE,
    HELLO,
    PROMPT,
    RESET,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Proxy,
    ScriptedUpstream,
    _Ending,
    chunk,
    plain,
    sse_head,
    stream,
)

Script = Sequence[bytes | _Ending]

TWO = {**STREAMED, "n": 2}
OTHER_CHOICE = b'data: {"choices":[{"index":1,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'


def closing(body: bytes, content_type: bytes) -> bytes:
    """An answer that lasts until the connection is closed."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: " + content_type + b"\r\nConnection: close\r\n\r\n" + body


SSE, JSON = b"text/event-stream", b"application/json"


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        ((HELLO, WORLD), "MISS"),
        ((HELLO, WORLD, OTHER_CHOICE), "HIT"),
        ((HELLO, OTHER_CHOICE), "MISS"),
        ((HELLO, WORLD, DONE), "HIT"),
    ],
    ids=["one of two", "both", "the other of two", "[DONE]"],
)
async def test_every_choice_has_to_finish(
    frames: Sequence[bytes], told: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Where there is no [DONE], each of those that were asked for."""
    upstream.will_send(*stream(*frames))
    await word(proxy.ask(TWO))

    assert await word(proxy.ask(TWO)) == told


def cut(*parts: bytes | _Ending) -> Script:
    return (sse_head(), chunk(HELLO), *parts)


BROKEN: dict[str, tuple[Mapping[str, object], Script, bytes]] = {
    "closed between two chunks": (STREAMED, cut(CLOSE), HELLO),
    "closed within a chunk": (STREAMED, cut(chunk(WORLD)[:20], CLOSE), HELLO + WORLD[:16]),
    "closed within a size line": (STREAMED, cut(b"1", CLOSE), HELLO),
    "closed after [DONE]": (STREAMED, cut(chunk(WORLD), chunk(DONE), CLOSE), STREAM),
    "closed within the last chunk": (STREAMED, cut(chunk(WORLD), chunk(DONE), b"0\r\n", CLOSE), STREAM),
    "closed before its length": (PROMPT, (plain(ANSWER)[:-1], CLOSE), ANSWER[:-1]),
    "a plain answer closed between chunks": (
        PROMPT,
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(ANSWER),
            CLOSE,
        ),
        ANSWER,
    ),
    "a stream until closed, without its end": (STREAMED, (closing(HELLO, SSE), CLOSE), HELLO),
    "half an answer until closed": (PROMPT, (closing(ANSWER[:-9], JSON), CLOSE), ANSWER[:-9]),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_what_breaks_off_is_not_recorded(what: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log) -> None:
    """Not even where [DONE] came: the framing did not end. Its client sees that too."""
    asked, script, arrived = BROKEN[what]
    upstream.will_send(*script)
    upstream.will_send(*(stream() if asked is STREAMED else [plain(ANSWER)]))
    connection = await proxy.ask(asked)

    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)) as broken:
        await connection.body()

    if connection.chunks:
        assert b"".join(connection.chunks) == arrived
    elif isinstance(broken.value, asyncio.IncompleteReadError):
        assert broken.value.partial == arrived
    line = await log.line()
    assert (line["outcome"], line["stored"], line["bytes"]) == ("upstream_truncated", False, len(arrived))
    assert line["not_stored_because"] in ("upstream_truncated", "no_end_marker", "not_json")
    assert await word(proxy.ask(asked)) == "MISS"
    assert await word(proxy.ask(asked)) == "HIT"


@pytest.mark.parametrize("fault", [b"x\r\n", b"-1\r\n", b"5\r\nhelloXX\r\n", b"\0"], ids=repr)
async def test_a_stream_that_is_framed_wrongly_is_broken_off(
    fault: bytes, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """As soon as that is seen, even after [DONE]; there is nothing to wait for any more."""
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(STREAM), barrier, fault, Barrier())
    upstream.will_send(*stream())
    response = await proxy.ask(STREAMED)
    assert await response.next_chunk() == STREAM
    barrier.release()

    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await response.body()

    line = await log.line()
    assert (line["outcome"], line["stored"]) == ("upstream_truncated", False)
    assert await words(proxy.ask(STREAMED), proxy.ask(STREAMED)) == ["MISS", "HIT"]


async def test_a_stream_that_is_reset_is_not_recorded(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Even one that lasts until it is closed and has said that it is finished: a reset is no close."""
    barrier = Barrier()
    upstream.will_send(closing(STREAM, SSE), barrier, RESET)
    upstream.will_send(*stream())
    response = await proxy.ask(STREAMED)
    assert await response.next_chunk() == STREAM
    barrier.release()

    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await response.body()

    assert await word(proxy.ask(STREAMED)) == "MISS"


@pytest.mark.parametrize(
    ("asked", "body", "content_type"), [(STREAMED, STREAM, SSE), (PROMPT, ANSWER, JSON)], ids=["stream", "plain"]
)
async def test_what_ends_by_a_close_is_recorded_if_it_is_whole(
    asked: Mapping[str, object], body: bytes, content_type: bytes, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Old servers end no answer in another way; that it is whole is seen by what it says."""
    upstream.will_send(closing(body, content_type), CLOSE)

    miss, hit = await proxy.ask(asked), await proxy.ask(asked)

    assert await miss.body() == await hit.body() == body
    assert hit.get("x-cache-status") == "HIT"
