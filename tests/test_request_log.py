"""The one line that each request has in the log (contract section 9), for every way in which a request can end."""

import asyncio

import pytest

from tests.conftest import Log, StartProxy
from tests.exchanges import COUNTED, USAGE, facts, key_of, take, word
from tests.harness import (
    CHAT,
    DONE,
    HELLO,
    LAST_CHUNK,
    RESET,
    STREAMED,
    WORLD,
    Barrier,
    Proxy,
    ScriptedUpstream,
    chunk,
    plain,
    sse_head,
)

WHAT_IT_COST = (
    b"x-request-id: req_1",
    b"openai-organization: org-1",
    b"openai-processing-ms: 250",
    b"x-ratelimit-limit-requests: 500",
    b"x-ratelimit-limit-tokens: 30000",
    b"x-ratelimit-remaining-requests: 499",
    b"x-ratelimit-remaining-tokens: 29976",
    b"x-ratelimit-reset-requests: 120ms",
    b"x-ratelimit-reset-tokens: 6m0.5s",
)
RATE_LIMIT = {
    "limit_requests": 500,
    "limit_tokens": 30000,
    "remaining_requests": 499,
    "remaining_tokens": 29976,
    "reset_requests_s": 0.12,
    "reset_tokens_s": 360.5,
}
UPSTREAM = {"upstream_request_id": "req_1", "organization": "org-1", "openai_processing_ms": 250}

USAGE_EVENT = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}\n\n'


async def test_the_line_of_a_miss(proxy: Proxy, upstream: ScriptedUpstream, log: Log) -> None:
    """What it asked, what it cost, how it went, and what became of the answer."""
    frames = (HELLO, WORLD, USAGE_EVENT, DONE)
    barriers = [Barrier() for _ in frames]
    held = [part for pair in zip(barriers, map(chunk, frames), strict=True) for part in pair]
    upstream.will_send(sse_head(*WHAT_IT_COST), *held, LAST_CHUNK)
    response = await proxy.ask(STREAMED, f"{CHAT}?api-version=1")
    for barrier, frame in zip(barriers, frames, strict=True):
        barrier.release()
        await take(response, frame)
    assert await response.body() == b""

    line = await log.line()

    assert (line["level"], "first_byte_ms" in line, "duration_ms" in line) == ("info", True, True)
    assert facts(line) == {
        "id": response.get("x-reprise-id"),
        "method": "POST",
        "path": CHAT,
        "model": "gpt-4o-mini",
        "stream": True,
        "cache": "MISS",
        "key": key_of(response),
        "status": 200,
        "outcome": "complete",
        "stored": True,
        **UPSTREAM,
        "ratelimit": RATE_LIMIT,
        "attempts": 1,
        "bytes": sum(map(len, frames)),
        "frames": 4,
        "usage": USAGE,
    }


async def test_the_line_of_a_hit(proxy: Proxy, upstream: ScriptedUpstream, log: Log) -> None:
    """Nothing was asked, nothing is stored; the tokens are those of the recording, which somebody once paid for."""
    upstream.will_send(plain(COUNTED, *WHAT_IT_COST))
    await word(proxy.ask())

    response = await proxy.ask()

    assert facts(await log.line(1)) == {
        "id": response.get("x-reprise-id"),
        "method": "POST",
        "path": CHAT,
        "model": "gpt-4o-mini",
        "stream": False,
        "cache": "HIT",
        "key": key_of(response),
        "status": 200,
        "outcome": "complete",
        "stored": False,
        "upstream_request_id": "req_1",
        "openai_processing_ms": 250,
        "attempts": 0,
        "bytes": len(COUNTED),
        "frames": 1,
        "usage": USAGE,
    }


async def test_the_line_of_an_error_of_the_upstream(proxy: Proxy, upstream: ScriptedUpstream, log: Log) -> None:
    """It is an answer like any other, complete and not stored."""
    body = b'{"error":{"message":"slow down, sk-CANARY"}}'
    upstream.will_send(plain(body, *WHAT_IT_COST, b"retry-after: 1", status=b"429 Too Many Requests"))
    response = await proxy.ask()

    assert facts(await log.line()) == {
        "id": response.get("x-reprise-id"),
        "method": "POST",
        "path": CHAT,
        "model": "gpt-4o-mini",
        "stream": False,
        "cache": "MISS",
        "key": key_of(response),
        "status": 429,
        "outcome": "complete",
        "stored": False,
        "not_stored_because": "status",
        **UPSTREAM,
        "ratelimit": RATE_LIMIT,
        "attempts": 1,
        "bytes": len(body),
        "frames": 1,
    }


async def test_the_line_of_a_truncated_stream(proxy: Proxy, upstream: ScriptedUpstream, log: Log) -> None:
    """With what had come by then, and in a word what happened."""
    barrier = Barrier()
    upstream.will_send(sse_head(*WHAT_IT_COST), chunk(HELLO), barrier, RESET)
    response = await proxy.ask(STREAMED)
    await take(response, HELLO)
    barrier.release()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await response.body()

    line = facts(await log.line())

    assert isinstance(line.pop("error"), str)
    assert line == {
        "id": response.get("x-reprise-id"),
        "method": "POST",
        "path": CHAT,
        "model": "gpt-4o-mini",
        "stream": True,
        "cache": "MISS",
        "key": key_of(response),
        "status": 200,
        "outcome": "upstream_truncated",
        "stored": False,
        "not_stored_because": "upstream_truncated",
        **UPSTREAM,
        "ratelimit": RATE_LIMIT,
        "attempts": 1,
        "bytes": len(HELLO),
        "frames": 1,
    }


async def test_the_line_of_a_client_that_has_left(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """With what it got."""
    proxy = await start_proxy(cache__linger="0")
    upstream.will_send(sse_head(*WHAT_IT_COST), chunk(HELLO), Barrier())
    response = await proxy.ask(STREAMED)
    await take(response, HELLO)
    await response.leave()

    line = facts(await log.line())

    assert isinstance(line.pop("error"), str)
    assert line == {
        "id": response.get("x-reprise-id"),
        "method": "POST",
        "path": CHAT,
        "model": "gpt-4o-mini",
        "stream": True,
        "cache": "MISS",
        "key": key_of(response),
        "status": 200,
        "outcome": "client_disconnected",
        "stored": False,
        "not_stored_because": "client_disconnected",
        **UPSTREAM,
        "ratelimit": RATE_LIMIT,
        "attempts": 1,
        "bytes": len(HELLO),
        "frames": 1,
    }


async def test_the_line_of_a_request_that_is_passed_through(proxy: Proxy, upstream: ScriptedUpstream, log: Log) -> None:
    """It has no key, and nobody looked for a model in it."""
    upstream.will_send(plain(b'{"data":[]}', *WHAT_IT_COST))
    response = await proxy.send("GET", "/v1/models?key=sk-CANARY", [("Authorization", "Bearer sk-CANARY")])

    assert facts(await log.line()) == {
        "id": response.get("x-reprise-id"),
        "method": "GET",
        "path": "/v1/models",
        "cache": "BYPASS",
        "status": 200,
        "outcome": "complete",
        "stored": False,
        "not_stored_because": "route",
        **UPSTREAM,
        "ratelimit": RATE_LIMIT,
        "attempts": 1,
        "bytes": len(b'{"data":[]}'),
        "frames": 1,
    }
