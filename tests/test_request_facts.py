"""What the log line of a request says of its cost and its answer, and what no line ever says (contract section 9)."""

import asyncio

import orjson
import pytest

from tests.conftest import Log, StartProxy
from tests.exchanges import COUNTED, USAGE, arrive_apart, facts, listeners, start_asking, take, until, word
from tests.harness import (
    ANSWER,
    CHAT,
    CLOSE,
    DONE,
    HELLO,
    LAST_CHUNK,
    PROMPT,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Proxy,
    ScriptedUpstream,
    chunk,
    plain,
    request_bytes,
    sse_head,
    stream,
)


@pytest.mark.parametrize(
    ("mode", "directives", "because"), [("cache", "no-store", "no_store"), ("passthrough", "", "passthrough")]
)
async def test_the_line_says_why_a_good_answer_was_not_stored(
    mode: str, directives: str, because: str, *, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Because the client asked for that, or the operator."""
    proxy = await start_proxy(cache__mode=mode)
    upstream.will_send(*stream())
    await word(proxy.ask(STREAMED, headers={"Cache-Control": directives}))

    line = await log.line()

    assert (line["stored"], line["not_stored_because"], line["outcome"]) == (False, because, "complete")
    assert (line["model"], line["stream"]) == ("gpt-4o-mini", True)


async def test_the_line_of_a_request_that_is_refused(proxy: Proxy, log: Log) -> None:
    """It never got as far as a key."""
    response = await proxy.ask(headers={"X-Reprise-Sample": "first"})
    body = await response.body()

    assert facts(await log.line()) == {
        "id": response.get("x-reprise-id"),
        "method": "POST",
        "path": CHAT,
        "status": 400,
        "outcome": "rejected",
        "stored": False,
        "attempts": 0,
        "bytes": len(body),
        "frames": 1,
        "error": "bad_request",
    }


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [((b"nonsense\r\n\r\n",), 502, "upstream_invalid_response"), ((CLOSE,), 502, "upstream_unreachable")],
    ids=["not HTTP", "closed"],
)
async def test_the_line_of_an_upstream_that_does_not_answer(
    answer: tuple[bytes, ...], status: int, code: str, *, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """The error is ours, its cause is not."""
    upstream.will_send(*answer)
    response = await proxy.ask()
    assert response.status == status

    line = facts(await log.line())

    assert (line["outcome"], line["error"], line["not_stored_because"]) == ("upstream_error", code, code)
    assert (line["status"], line["stored"], line["cache"], line["key"] != "") == (status, False, "MISS", True)


async def test_attempts_are_counted(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the upstream was asked."""
    monkeypatch.setattr("proxy.retry._BASE_S", 0)
    proxy = await start_proxy(upstream__retries=2)
    for _ in range(2):
        upstream.will_send(plain(b"{}", status=b"500 Internal Server Error"))
    upstream.will_send(plain(ANSWER))

    assert await word(proxy.ask()) == "MISS"

    assert ((await log.line())["attempts"], upstream.requests_seen) == (3, 3)


async def test_attempts_are_counted_where_the_last_one_fails(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once for all who waited for it, so that all lines add up to what the upstream was asked."""
    monkeypatch.setattr("proxy.retry._BASE_S", 0)
    proxy = await start_proxy(upstream__retries=5)
    barrier = Barrier()
    upstream.will_send(barrier, plain(b"{}", status=b"503 Service Unavailable"))
    upstream.will_send(CLOSE)
    waiting = [await start_asking(proxy) for _ in range(3)]
    await until(lambda: listeners(proxy) == 3)
    barrier.release()

    assert {(await connection.response()).status for connection in waiting} == {502}

    lines = [await log.line(number) for number in range(3)]
    assert sum(line["attempts"] for line in lines) == upstream.requests_seen == 2


@pytest.mark.parametrize(
    ("route", "answer", "usage"),
    [
        ("chat/completions", COUNTED, USAGE),
        ("responses", b'{"output":[],"usage":{"input_tokens":9,"output_tokens":2}}', USAGE),
        ("embeddings", b'{"data":[],"usage":{"prompt_tokens":9,"total_tokens":9}}', {**USAGE, "output_tokens": 0}),
        ("chat/completions", b'{"choices":[],"usage":null}', None),
        ("moderations", b'{"results":[]}', None),
    ],
)
async def test_usage_is_what_the_body_says(
    route: str, answer: bytes, usage: dict[str, int] | None, *, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """On a miss and on the hit that follows; where it says nothing there is none."""
    upstream.will_send(plain(answer))

    for number, told in enumerate(("MISS", "HIT")):
        assert await word(proxy.ask(PROMPT, f"/v1/{route}")) == told
        assert (await log.line(number)).get("usage") == usage


async def test_the_usage_of_a_streamed_response_is_in_its_last_event(
    proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """One level deeper than elsewhere."""
    last = b'data: {"type":"response.completed","response":{"usage":{"input_tokens":9,"output_tokens":2}}}\n\n'
    upstream.will_send(*stream(last))

    await word(proxy.ask(STREAMED, "/v1/responses"))

    assert (await log.line())["usage"] == USAGE


async def test_every_request_has_one_line(proxy: Proxy, upstream: ScriptedUpstream, log: Log) -> None:
    """Also those that come one after another on one connection; ids are new each time."""
    upstream.will_send(plain(ANSWER))
    connection = await proxy.connect()
    asked = request_bytes("POST", CHAT, [("Content-Type", "application/json")], orjson.dumps(PROMPT))
    ids = []
    for _ in range(3):
        connection.send(asked)
        response = await connection.response()
        await response.body()
        ids.append(response.get("x-reprise-id"))

    lines = [await log.line(number) for number in range(3)]

    assert [line["id"] for line in lines] == ids
    assert len(set(ids)) == 3
    assert len(log.lines()) == 3


async def test_the_line_comes_when_it_is_known_what_became_of_the_answer(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """One that left has its line when its answer is stored, or is not; the time it took is its own."""
    proxy = await start_proxy(cache__linger="10m")
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD + DONE) + LAST_CHUNK)
    response = await proxy.ask(STREAMED)
    await take(response, HELLO)
    await response.leave()
    await until(lambda: proxy.app._traffic.active == 0)
    assert log.lines() == []
    barrier.release()

    line = await log.line()

    assert (line["outcome"], line["stored"], line["bytes"]) == ("client_disconnected", True, len(HELLO))


SECRET = "sk-CANARY"
PRIVATE = (SECRET, "PROMPT-CANARY", "ANSWER-CANARY")


@pytest.mark.parametrize("ending", ["complete", "broken", "refused"])
async def test_no_line_tells_what_was_asked_or_answered(
    ending: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Nor by whom: no prompt, no answer, no credential, no query string, however it ends."""
    asked = {**STREAMED, "messages": [{"role": "user", "content": "PROMPT-CANARY"}], "user": "PROMPT-CANARY"}
    answer = b'data: {"choices":[{"index":0,"delta":{"content":"ANSWER-CANARY"},"finish_reason":"stop"}]}\n\n'
    end = CLOSE if ending == "broken" else chunk(DONE) + LAST_CHUNK
    upstream.will_send(sse_head(b"Set-Cookie: id=sk-CANARY"), chunk(answer), end)
    secrets = {"Api-Key": SECRET, "Cookie": f"id={SECRET}"}
    if ending == "refused":
        secrets["X-Reprise-Pace"] = SECRET
    response = await proxy.ask(asked, f"{CHAT}?key={SECRET}", secrets)
    if ending == "broken":
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await response.body()
    else:
        await response.body()
    await proxy.send("GET", f"/nowhere?key={SECRET}", [("X-Api-Key", SECRET)])

    await log.line(1)

    assert not [private for private in PRIVATE if private in log.getvalue()]


async def test_the_frames_of_a_paced_replay_are_counted(proxy: Proxy, upstream: ScriptedUpstream, log: Log) -> None:
    """As many as came in the first place; the bytes are the same anyway."""
    await arrive_apart(proxy, upstream, HELLO, WORLD, DONE)

    await word(proxy.ask(STREAMED, headers={"X-Reprise-Pace": "0ms"}))

    lines = [await log.line(0), await log.line(1)]
    assert [(line["frames"], line["bytes"]) for line in lines] == [(3, len(STREAM))] * 2
