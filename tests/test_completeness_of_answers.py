"""Which plain answers are stored: JSON objects that are no error, with status 200, whole and readable by everyone."""

from collections.abc import Mapping
from gzip import compress

import pytest

from tests.conftest import Log, StartProxy
from tests.exchanges import ERROR, word
from tests.harness import (
    ANSWER,
    DONE,
    LAST_CHUNK,
    PROMPT,
    STREAM,
    STREAMED,
    Proxy,
    ScriptedUpstream,
    chunk,
    event,
    plain,
    sse_head,
    stream,
)

GOOD_ANSWERS = {
    "an object": b'{"choices":[]}',
    "white space around it": b'\r\n {"choices":[]}\n',
    "a null error": b'{"error":null,"status":"completed"}',
    "an empty object": b"{}",
    "half a character": b'{"text":"\\ud83d"}',
    "a finish_reason of length": b'{"choices":[{"finish_reason":"length"}]}',
    "an incomplete response": b'{"object":"response","status":"incomplete"}',
}
BAD_ANSWERS = {
    "nothing": (b"", "not_json"),
    "half of it": (ANSWER[:-1], "not_json"),
    "two of it": (ANSWER + ANSWER, "not_json"),
    "a page": (b"<html></html>", "not_json"),
    "a list": (b"[]", "not_an_object"),
    "null": (b"null", "not_an_object"),
    "an error": (b'{"error":{"message":"overloaded"}}', "error_body"),
    "an error in a text": (b'{"error":"overloaded"}', "error_body"),
    "an error object": (b'{"object":"error","message":"no"}', "error_body"),
    "a failed response": (b'{"object":"response","status":"failed"}', "error_body"),
    "a queued response": (b'{"object":"response","status":"queued"}', "not_finished"),
    "an event stream": (STREAM, "not_json"),
}


@pytest.mark.parametrize("what", GOOD_ANSWERS)
async def test_an_answer_that_is_an_object_is_recorded(what: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """And replayed as it was written."""
    upstream.will_send(plain(GOOD_ANSWERS[what]))

    miss, hit = await proxy.ask(), await proxy.ask()

    assert await miss.body() == await hit.body() == GOOD_ANSWERS[what]
    assert hit.get("x-cache-status") == "HIT"


@pytest.mark.parametrize("what", BAD_ANSWERS)
async def test_an_answer_that_is_no_good_object_is_not_recorded(
    what: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Its client gets it all the same."""
    body, reason = BAD_ANSWERS[what]
    upstream.will_send(plain(body))

    answers = [await proxy.ask() for _ in range(2)]

    assert [(answer.status, await answer.body()) for answer in answers] == [(200, body)] * 2
    assert [answer.get("x-cache-status") for answer in answers] == ["MISS", "MISS"]
    line = await log.line()
    assert (line["outcome"], line["stored"], line["not_stored_because"]) == ("complete", False, reason)


EMPTY = b"\r\n\r\n"
OTHER_ANSWERS: dict[str, tuple[Mapping[str, object], bytes, int, bytes, str]] = {
    "201": (PROMPT, plain(ANSWER, status=b"201 Created"), 201, ANSWER, "status"),
    "202": (PROMPT, plain(ANSWER, status=b"202 Accepted"), 202, ANSWER, "status"),
    "204": (PROMPT, b"HTTP/1.1 204 No Content" + EMPTY, 204, b"", "status"),
    "206": (PROMPT, plain(ANSWER, b"Content-Range: bytes 0-1/2", status=b"206 Partial Content"), 206, ANSWER, "status"),
    "301": (PROMPT, plain(b"", b"Location: http://127.0.0.1:9/", status=b"301 Moved"), 301, b"", "status"),
    "307": (PROMPT, plain(b"", b"Location: /v1/other", status=b"307 Temporary"), 307, b"", "status"),
    "400": (PROMPT, plain(b'{"error":{}}', status=b"400 Bad Request"), 400, b'{"error":{}}', "status"),
    "401": (PROMPT, plain(b'{"error":{}}', status=b"401 Unauthorized"), 401, b'{"error":{}}', "status"),
    "404 that looks good": (PROMPT, plain(ANSWER, status=b"404 Not Found"), 404, ANSWER, "status"),
    "429": (PROMPT, plain(b"{}", b"Retry-After: 1", status=b"429 Too Many Requests"), 429, b"{}", "status"),
    "500 as a stream": (
        STREAMED,
        b"".join(stream()).replace(b"200 OK", b"500 Internal Server Error"),
        500,
        STREAM,
        "status",
    ),
    "a page": (PROMPT, plain(ANSWER, content_type=b"text/html"), 200, ANSWER, "content_type"),
    "no type": (
        PROMPT,
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER,
        200,
        ANSWER,
        "content_type",
    ),
    "a stream that was not asked for": (PROMPT, b"".join(stream()), 200, STREAM, "content_type"),
    "no stream, though asked for": (STREAMED, plain(ANSWER), 200, ANSWER, "content_type"),
    "compressed": (
        PROMPT,
        plain(compress(ANSWER, mtime=0), b"Content-Encoding: gzip"),
        200,
        compress(ANSWER, mtime=0),
        "content_encoding",
    ),
    "a compressed stream": (
        STREAMED,
        sse_head(b"Content-Encoding: gzip") + chunk(compress(STREAM, mtime=0)) + LAST_CHUNK,
        200,
        compress(STREAM, mtime=0),
        "content_encoding",
    ),
    "half of a compressed stream": (
        STREAMED,
        sse_head(b"Content-Encoding: gzip") + chunk(compress(STREAM, mtime=0)[:30]) + LAST_CHUNK,
        200,
        compress(STREAM, mtime=0)[:30],
        "content_encoding",
    ),
    "said to be compressed": (PROMPT, plain(ANSWER, b"content-encoding: br"), 200, ANSWER, "content_encoding"),
}


@pytest.mark.parametrize("what", OTHER_ANSWERS)
async def test_any_other_answer_is_passed_on_and_forgotten(
    what: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Status, type, coding and bytes as they came; no redirect is followed; the next request asks again."""
    asked, script, status, body, reason = OTHER_ANSWERS[what]
    upstream.will_send(script)

    answers = [await proxy.ask(asked) for _ in range(2)]

    assert [(answer.status, await answer.body()) for answer in answers] == [(status, body)] * 2
    assert [answer.get("x-cache-status") for answer in answers] == ["MISS", "MISS"]
    for name in (b"content-type", b"content-encoding", b"location", b"retry-after"):
        sent = [line for line in script.split(b"\r\n\r\n", 1)[0].split(b"\r\n") if line.lower().startswith(name + b":")]
        got = [value.encode() for value in answers[0].get_all(name.decode())]
        assert got == [line.partition(b": ")[2] for line in sent]
    assert upstream.requests_seen == 2
    line = await log.line()
    assert (line["outcome"], line["stored"], line["not_stored_because"]) == ("complete", False, reason)


async def test_identity_is_asked_for_where_answers_are_recorded(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """What everyone may get later everyone must be able to read; elsewhere the client has its choice."""
    upstream.will_send(plain(b"{}"))
    accepted = {"Accept-Encoding": "gzip, br"}

    await proxy.ask(headers=accepted)
    await proxy.ask(PROMPT, "/v1/images/generations", accepted)

    assert [received.header("accept-encoding") for received in upstream.received] == [["identity"], ["gzip, br"]]


async def test_what_the_upstream_thinks_of_caching_is_not_asked(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Servers of language models stamp no-store on everything; the client's own word is what counts."""
    told = (b"Cache-Control: no-store, private, max-age=0", b"Pragma: no-cache", b"Vary: *", b"Expires: 0")
    upstream.will_send(plain(ANSWER, *told))

    miss = await proxy.ask()

    assert miss.get("cache-control") == "no-store, private, max-age=0"
    assert await word(proxy.ask()) == "HIT"


async def test_a_large_stream_is_checked_like_a_small_one(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """In a thread; a fault at its very end is found all the same."""
    proxy = await start_proxy()
    large = [event("x" * 60_000) for _ in range(8)]
    upstream.will_send(*stream(*large, ERROR, DONE))
    upstream.will_send(*stream(*large, DONE))

    bad = await proxy.ask(STREAMED)
    assert await bad.body() == b"".join(large) + ERROR + DONE
    good = await proxy.ask(STREAMED)
    assert await good.body() == b"".join(large) + DONE

    hit = await proxy.ask(STREAMED)

    assert await hit.body() == b"".join(large) + DONE
    assert [answer.get("x-cache-status") for answer in (bad, good, hit)] == ["MISS", "MISS", "HIT"]
