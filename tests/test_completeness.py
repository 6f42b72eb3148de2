"""Which streams are stored: those that are whole, end well and are no error; all others are passed on and forgotten."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from tests.conftest import Log
from tests.exchanges import ERROR, word, words
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
    event,
    plain,
    sse_head,
    stream,
)

Script = Sequence[bytes | _Ending]

TWO = {**STREAMED, "n": 2}
OTHER_CHOICE = b'data: {"choices":[{"index":1,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
CREATED = b'event: response.created\ndata: {"type":"response.created","response":{"status":"in_progress"}}\n\n'


def response_event(kind: str, status: str) -> bytes:
    return b'data: {"type":"response.%b","response":{"status":"%b"}}\n\n' % (kind.encode(), status.encode())


def closing(body: bytes, content_type: bytes) -> bytes:
    """An answer that lasts until the connection is closed."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: " + content_type + b"\r\nConnection: close\r\n\r\n" + body


SSE, JSON = b"text/event-stream", b"application/json"

GOOD_STREAMS: dict[str, Sequence[bytes]] = {
    "[DONE]": (HELLO, WORLD, DONE),
    "[DONE] and no finish_reason": (HELLO, DONE),
    "a finish_reason and no [DONE]": (HELLO, WORLD),
    "length": (HELLO, event("", "length")),
    "content_filter": (HELLO, event("", "content_filter"), DONE),
    "tool_calls": (HELLO, event("", "tool_calls"), DONE),
    "response.completed": (CREATED, response_event("completed", "completed")),
    "response.incomplete": (CREATED, response_event("incomplete", "incomplete")),
    "more after [DONE]": (STREAM, b": bye\n\n", b'data: {"late":1}\n\n'),
    "CRLF": (STREAM.replace(b"\n", b"\r\n"),),
    "CR": (STREAM.replace(b"\n", b"\r"),),
    "CRLF between two frames": (HELLO.replace(b"\n", b"\r\n")[:-1], b"\n" + STREAM.replace(b"\n", b"\r\n")),
    "comments": (b": OPENROUTER PROCESSING\n\n", HELLO, b": ping\n\n", WORLD, DONE),
    "a byte order mark": (b"\xef\xbb\xbf" + STREAM,),
    "other fields": (b"id: 1\nretry: 10\nevent: ping\n\n", b"event: ping\ndata: ping\n\n", STREAM),
    "data in several lines": (b'data: {"choices":\ndata:[]}\n\n', b"data:[DONE]\n\n"),
    "a blank behind [DONE]": (HELLO, b"data: [DONE] \n\n"),
    "a null error": (b'data: {"error":null,"choices":[]}\n\n', DONE),
    "an error as text": (event('{"error":{}}'), DONE),
    "single bytes": tuple(STREAM[at : at + 1] for at in range(len(STREAM))),
    "separators that are no line ends": (event("\u2028\u0085\x0b".encode().decode()), DONE),
}

BAD_STREAMS: dict[str, tuple[Sequence[bytes], str]] = {
    "nothing that says it is the end": ((HELLO,), "no_end_marker"),
    "half an event": ((HELLO, WORLD[:-20]), "not_at_event_boundary"),
    "no blank line after [DONE]": ((HELLO, b"data: [DONE]\n"), "not_at_event_boundary"),
    "no line end after [DONE]": ((HELLO, b"data: [DONE]"), "not_at_event_boundary"),
    "an event that is not JSON": ((HELLO, b'data: {"choices":\n\n', DONE), "unreadable_event"),
    "an error first": ((ERROR, DONE), "error_event"),
    "an error in the middle": ((HELLO, ERROR, WORLD, DONE), "error_event"),
    "an error after [DONE]": ((STREAM, ERROR), "error_event"),
    "an error next to choices": ((b'data: {"error":{"code":502},"choices":[]}\n\n', DONE), "error_event"),
    "an error event": ((HELLO, b"event: error\ndata: overloaded\n\n", DONE), "error_event"),
    "an error by its type": ((HELLO, b'data: {"type":"error","message":"no"}\n\n', DONE), "error_event"),
    "finish_reason error": ((HELLO, event("", "error"), DONE), "error_event"),
    "response.failed": ((CREATED, response_event("failed", "failed")), "error_event"),
    "response.failed by its event": ((CREATED, b"event: response.failed\ndata: {}\n\n"), "error_event"),
    "a response that is still being made": ((CREATED,), "no_end_marker"),
    "comments alone": ((b": ping\n\n",), "no_end_marker"),
}


@pytest.mark.parametrize("what", GOOD_STREAMS)
async def test_a_stream_that_ends_well_is_recorded(what: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """And replayed without the least change, whatever its syntax."""
    body = b"".join(GOOD_STREAMS[what])
    upstream.will_send(*stream(*GOOD_STREAMS[what]))

    miss, hit = await proxy.ask(STREAMED), await proxy.ask(STREAMED)

    assert await miss.body() == await hit.body() == body
    assert [miss.get("x-cache-status"), hit.get("x-cache-status")] == ["MISS", "HIT"]


@pytest.mark.parametrize("what", BAD_STREAMS)
async def test_a_stream_that_does_not_end_well_is_not_recorded(
    what: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Its client gets what came, with the end that it had; the next one asks the upstream again."""
    frames, reason = BAD_STREAMS[what]
    upstream.will_send(*stream(*frames))

    answers = [await proxy.ask(STREAMED) for _ in range(2)]

    assert [await answer.body() for answer in answers] == [b"".join(frames)] * 2
    assert [answer.get("x-cache-status") for answer in answers] == ["MISS", "MISS"]
    assert upstream.requests_seen == 2
    line = await log.line()
    assert (line["outcome"], line["stored"], line["not_stored_because"]) == ("complete", False, reason)


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
