"""Event streams as the world sends them: passed on byte for byte, recorded if they end well, replayed byte for byte."""

from collections.abc import Sequence

import pytest

from tests.conftest import Log
from tests.exchanges import ERROR
from tests.harness import (
    CHAT,
    DONE,
    HELLO,
    LAST_CHUNK,
    STREAM,
    STREAMED,
    WORLD,
    Proxy,
    ScriptedUpstream,
    chunk,
    event,
    sse_head,
)
from tests.raw import PASSED, MiB


def response_event(kind: str, status: str, *, named: bool = True) -> bytes:
    """An event of the Responses API; many servers leave its `event` line out."""
    name = b"event: response.%b\n" % kind.encode() if named else b""
    return name + b'data: {"type":"response.%b","response":{"status":"%b"}}\n\n' % (kind.encode(), status.encode())


def one_by_one(body: bytes) -> Sequence[bytes]:
    return [bytes([byte]) for byte in body]


CREATED = response_event("created", "in_progress")
DELTA = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"Hi"}\n\n'
EMOJI = 'data: {"choices":[{"index":0,"delta":{"content":"😀é\u2028\u2029\u0085"}}]}\n\n'.encode()
CRLF, CR = STREAM.replace(b"\n", b"\r\n"), STREAM.replace(b"\n", b"\r")

END_WELL: dict[str, Sequence[bytes]] = {
    "[DONE]": (HELLO, WORLD, DONE),
    "[DONE] and no finish_reason": (HELLO, DONE),
    "a finish_reason and no [DONE]": (HELLO, WORLD),
    "length": (HELLO, event("", "length")),
    "content_filter": (HELLO, event("", "content_filter"), DONE),
    "tool_calls": (HELLO, event("", "tool_calls"), DONE),
    "responses": (CREATED, DELTA, response_event("completed", "completed")),
    "responses, incomplete": (CREATED, DELTA, response_event("incomplete", "incomplete")),
    "responses without event lines": (
        response_event("created", "in_progress", named=False),
        response_event("completed", "completed", named=False),
    ),
    "more after [DONE]": (STREAM, b": bye\n\n", b'data: {"late":1}\n\n'),
    "[DONE] twice": (STREAM, DONE),
    "blank lines after [DONE]": (STREAM, b"\n\n\n"),
    "CRLF": (CRLF,),
    "CR": (CR,),
    "all line ends": (HELLO.replace(b"\n", b"\r\n"), WORLD, DONE.replace(b"\n", b"\r")),
    "all line ends within an event": (b"id: 1\rretry: 5\r\n" + STREAM,),
    "CRLF between two frames": (*CRLF.partition(b"\r")[:2], CRLF.partition(b"\r")[2]),
    "CRLF, single bytes": one_by_one(CRLF),
    "single bytes": one_by_one(STREAM),
    "characters between two frames": (EMOJI[: EMOJI.index(b"\xf0") + 2], EMOJI[EMOJI.index(b"\xf0") + 2 :], DONE),
    "characters, single bytes": one_by_one(EMOJI + DONE),
    "separators that are no line ends": (EMOJI, DONE),
    "a byte order mark": (b"\xef\xbb\xbf" + STREAM,),
    "a byte order mark between two frames": (b"\xef\xbb", b"\xbf" + STREAM),
    "comments": (b": OPENROUTER PROCESSING\n\n", HELLO, b":\n\n: ping\n\n", WORLD, DONE),
    "a comment within an event": (b": ping\n" + HELLO, DONE),
    "other fields": (b"id: 1\nretry: 10\nevent: ping\n\n", b"event: ping\ndata: ping\n\n", STREAM),
    "events of fields alone": (b"id: 1\n\n", b"retry: 3000\n\n", b"event: message\n\n", b"id\n\n", b"data\n\n", STREAM),
    "unknown fields": (b"foo: bar\ndata:" + HELLO[6:], b"\x00\n\n", WORLD, DONE),
    "data in several lines": (b'data: {"choices":\ndata:[]}\n\n', b"data:[DONE]\n\n"),
    "no blank before the data": (HELLO.replace(b": ", b":", 1), b"data:[DONE]\n\n"),
    "a blank behind [DONE]": (HELLO, b"data: [DONE] \n\n"),
    "a null error": (b'data: {"error":null,"choices":[]}\n\n', DONE),
    "an error as text": (event('{"error":{}}'), DONE),
    "data that is no UTF-8": (b"data: \xff\xfe\x00\n\n", STREAM),
    "an event of 5 MiB": (event("x" * 5 * MiB), DONE),
}

END_BADLY: dict[str, tuple[Sequence[bytes], str]] = {
    "nothing": ((), "no_end_marker"),
    "nothing that says it is the end": ((HELLO,), "no_end_marker"),
    "comments alone": ((b": ping\n\n",), "no_end_marker"),
    "half an event": ((HELLO, WORLD[:-20]), "not_at_event_boundary"),
    "no blank line after [DONE]": ((HELLO, b"data: [DONE]\n"), "not_at_event_boundary"),
    "no line end after [DONE]": ((HELLO, b"data: [DONE]"), "not_at_event_boundary"),
    "half an event after [DONE]": ((STREAM, b'data: {"late'), "not_at_event_boundary"),
    "an event that is not JSON": ((HELLO, b'data: {"choices":\n\n', DONE), "unreadable_event"),
    "an error first": ((ERROR, DONE), "error_event"),
    "an error in the middle": ((HELLO, ERROR, WORLD, DONE), "error_event"),
    "an error after [DONE]": ((STREAM, ERROR), "error_event"),
    "an error at the end": ((HELLO, ERROR), "error_event"),
    "an error next to choices": ((b'data: {"error":{"code":502},"choices":[]}\n\n', DONE), "error_event"),
    "an error event": ((HELLO, b"event: error\ndata: overloaded\n\n", DONE), "error_event"),
    "an error by its type": ((HELLO, b'data: {"type":"error","message":"no"}\n\n', DONE), "error_event"),
    "an error, single bytes": (one_by_one(HELLO + ERROR + DONE), "error_event"),
    "finish_reason error": ((HELLO, event("", "error"), DONE), "error_event"),
    "response.failed": ((CREATED, response_event("failed", "failed")), "error_event"),
    "response.failed by its event": ((CREATED, b"event: response.failed\ndata: {}\n\n"), "error_event"),
    "a response that is still being made": ((CREATED, DELTA), "no_end_marker"),
    "bytes that are no event stream": ((bytes(range(256)),), "not_at_event_boundary"),
    "a line without end": ((b"data: ", b"x" * 17 * MiB), "too_large"),
}

STREAMS: dict[str, tuple[Sequence[bytes], str | None]] = {
    **{what: (frames, None) for what, frames in END_WELL.items()},
    **END_BADLY,
}


@pytest.mark.parametrize("what", STREAMS)
async def test_a_stream_stays_the_bytes_that_it_was(
    what: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Passed through, missed and hit at any pace; and it is a hit only if it ended well."""
    frames, reason = STREAMS[what]
    upstream.will_send(sse_head(), *map(chunk, frames), LAST_CHUNK)
    again = "MISS" if reason else "HIT"

    for target, pace, told in [
        (PASSED, "instant", "BYPASS"),
        (CHAT, "instant", "MISS"),
        (CHAT, "instant", again),
        (CHAT, "recorded", again),
    ]:
        response = await proxy.ask(STREAMED, target, {"X-Reprise-Pace": pace})
        assert response.get("x-cache-status") == told
        assert response.get("content-type") == "text/event-stream; charset=utf-8"
        assert await response.body() == b"".join(frames)

    assert upstream.requests_seen == (4 if reason else 2)
    line = await log.line(1)
    assert (line["outcome"], line["stored"], line.get("not_stored_because")) == ("complete", reason is None, reason)
