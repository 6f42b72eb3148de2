"""What is recorded is replayed: the same status, the same bytes, the same content type."""

from pathlib import Path

import orjson
import pytest

from tests.conftest import StartProxy
from tests.exchanges import REPLAYED, RICH_HEAD, keep_copy, key_of, names, recording_of, store_of, until, words
from tests.harness import (
    ANSWER,
    CHAT,
    LAST_CHUNK,
    PROMPT,
    STREAM,
    STREAMED,
    Proxy,
    ScriptedUpstream,
    chunk,
    plain,
    sse_head,
    stream,
)
from tests.shelves import plant

TEXT = b'data: {"object":"text_completion","choices":[{"index":0,"text":"Hi","finish_reason":"stop"}]}\n\n'
RESPONSE = b'{"object":"response","status":"completed","output":[],"usage":{"input_tokens":9,"output_tokens":2}}'

PLAIN = {
    "/v1/chat/completions": ANSWER,
    "/v1/completions": b'{"object":"text_completion","choices":[{"index":0,"text":"Hi","finish_reason":"stop"}]}',
    "/v1/embeddings": b'{ "object" : "list", "data" : [ { "embedding" : [0.0, 1e-3, -1.50] } ] }\n',
    "/v1/responses": RESPONSE,
    "/v1/moderations": b'{"id":"modr-1","results":[{"flagged":false}]}',
}
STREAMS = {
    "/v1/chat/completions": STREAM,
    "/v1/completions": TEXT + b"data: [DONE]\n\n",
    "/v1/embeddings": b'data: {"object":"embedding"}\r\n\r\ndata: [DONE]\r\n\r\n',
    "/v1/responses": b'event: response.completed\ndata: {"type":"response.completed","response":' + RESPONSE + b"}\n\n",
    "/v1/moderations": b": ping\n\ndata:[DONE]\n\n",
}

ADDED = ["age", "cache-status", "date", "x-cache-status", "x-reprise-id"]


@pytest.mark.parametrize("route", PLAIN)
async def test_a_plain_hit_is_the_miss_again(route: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """On each route that is cached by default, with its exact length, and without asking the upstream again."""
    upstream.will_send(plain(PLAIN[route], content_type=b"Application/JSON; charset=utf-8"))

    miss, hit = await proxy.ask(PROMPT, route), await proxy.ask(PROMPT, route)

    assert await miss.body() == await hit.body() == PLAIN[route]
    assert (miss.status, hit.status) == (200, 200)
    assert (miss.get("x-cache-status"), hit.get("x-cache-status")) == ("MISS", "HIT")
    assert hit.get_all("content-type") == miss.get_all("content-type") == ["Application/JSON; charset=utf-8"]
    assert hit.get_all("content-length") == [str(len(PLAIN[route]))]
    assert hit.get("transfer-encoding") is None
    assert upstream.requests_seen == 1


@pytest.mark.parametrize("route", STREAMS)
async def test_a_streamed_hit_is_the_miss_again(route: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Chunked, since that is how streams travel, and without asking the upstream again."""
    upstream.will_send(*stream(STREAMS[route]))

    miss, hit = await proxy.ask(STREAMED, route), await proxy.ask(STREAMED, route)

    assert await miss.body() == await hit.body() == STREAMS[route]
    assert (miss.status, hit.status) == (200, 200)
    assert (miss.get("x-cache-status"), hit.get("x-cache-status")) == ("MISS", "HIT")
    assert hit.get_all("content-type") == miss.get_all("content-type") == ["text/event-stream; charset=utf-8"]
    assert hit.get_all("transfer-encoding") == ["chunked"]
    assert hit.get("content-length") is None
    assert upstream.requests_seen == 1


async def test_a_plain_hit_has_a_length_whatever_the_framing_was(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """What came in chunks, or until the connection was closed, is as long as it is."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    upstream.will_send(head + b"Transfer-Encoding: chunked\r\n\r\n", chunk(ANSWER[:9]), chunk(ANSWER[9:]) + LAST_CHUNK)
    chunked = await proxy.ask()
    assert await chunked.body() == ANSWER

    hit = await proxy.ask()

    assert await hit.body() == ANSWER
    assert hit.get_all("content-length") == [str(len(ANSWER))]
    assert hit.get("transfer-encoding") is None


async def test_a_client_of_http_1_0_gets_a_replay_it_can_read(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """A stream until the connection is closed, a plain answer by its length."""
    upstream.will_send(*stream())
    upstream.will_send(plain(ANSWER))
    assert await words(proxy.ask(STREAMED), proxy.ask(PROMPT)) == ["MISS", "MISS"]

    for asked, body, length in ((STREAMED, STREAM, None), (PROMPT, ANSWER, str(len(ANSWER)))):
        json = [("Content-Type", "application/json")]
        hit = await proxy.send("POST", CHAT, json, orjson.dumps(asked), version="1.0")
        assert (hit.get("x-cache-status"), await hit.body()) == ("HIT", body)
        assert (hit.get("content-length"), hit.get("transfer-encoding")) == (length, None)


@pytest.mark.parametrize("asked", [PROMPT, STREAMED], ids=["plain", "stream"])
async def test_a_replay_carries_the_headers_of_the_list_and_no_others(
    asked: dict[str, object], proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Never who paid, what they may still spend, a cookie or a date; and each replay has its own id, date and age."""
    if "stream" in asked:
        upstream.will_send(sse_head(*RICH_HEAD) + chunk(STREAM) + LAST_CHUNK)
        framing = "transfer-encoding"
    else:
        upstream.will_send(plain(ANSWER, *RICH_HEAD))
        framing = "content-length"
    miss = await proxy.ask(asked)
    await miss.body()

    first, second = await proxy.ask(asked), await proxy.ask(asked)
    await first.body()
    await second.body()

    assert names(first.headers) == sorted([*REPLAYED, *ADDED, framing])
    assert [first.get(name) for name in REPLAYED] == [miss.get(name) for name in REPLAYED]
    assert miss.get("date") == "Sat, 01 Nov 2025 00:00:00 GMT"
    assert first.get("date") not in (None, miss.get("date"))
    assert first.get("age") == "0"
    assert len({response.get("x-reprise-id") for response in (miss, first, second)}) == 3
    assert first.get("cache-status") == f'reprise; hit; key="{key_of(miss)}"'


async def test_nobody_elses_headers_of_the_same_name_are_shown(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """The upstream may be a Reprise too; on the way back each adds its member to Cache-Status."""
    theirs = (b"X-Cache-Status: HIT", b"X-Reprise-Id: theirs", b"Cache-Status: reprise; hit")
    upstream.will_send(plain(ANSWER, *theirs))

    miss = await proxy.ask()

    assert miss.get_all("x-cache-status") == ["MISS"]
    assert miss.get_all("x-reprise-id") != ["theirs"]
    assert miss.get_all("cache-status") == ["reprise; hit", f'reprise; fwd=uri-miss; key="{key_of(miss)}"']


async def test_the_age_of_a_replay_is_that_of_its_recording(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """In whole seconds, and never negative, whatever the clock did; one of a far future is not trusted."""
    upstream.will_send(plain(ANSWER))
    miss = await proxy.ask()
    recording = await recording_of(proxy, miss)
    for namespace, age_s in (("old", 3600), ("just-ahead", -30), ("of-tomorrow", -86400)):
        keep_copy(proxy, recording, namespace=namespace, age_s=age_s)

    old, just_ahead, of_tomorrow = [
        await proxy.ask(headers={"X-Reprise-Namespace": namespace})
        for namespace in ("old", "just-ahead", "of-tomorrow")
    ]

    assert 3600 <= int(old.get("age") or "") < 7200
    assert just_ahead.get("age") == "0"
    assert of_tomorrow.get("x-cache-status") == "STALE"
    assert miss.get("age") is of_tomorrow.get("age") is None


@pytest.mark.parametrize("memory_limit", [0, "64MiB"])
@pytest.mark.parametrize("asked", [PROMPT, STREAMED], ids=["plain", "stream"])
async def test_a_recording_outlives_the_proxy(
    asked: dict[str, object], memory_limit: object, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """A new one on the same directory replays it, from disk and then from memory, where it has any."""
    upstream.will_send(*(stream() if "stream" in asked else [plain(ANSWER, b"x-request-id: req_1")]))
    first = await start_proxy(cache__memory_limit=memory_limit)
    miss = await first.ask(asked)
    body = await miss.body()
    await first.app.stop()

    second = await start_proxy(cache__memory_limit=memory_limit)
    for _ in range(2):
        hit = await second.ask(asked)
        assert (hit.get("x-cache-status"), await hit.body()) == ("HIT", body)
        assert hit.get("x-request-id") == miss.get("x-request-id")
        assert hit.get("content-type") == miss.get("content-type")
    assert upstream.requests_seen == 1


async def test_without_a_memory_tier_hits_come_from_disk(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """At once after the miss, and again later."""
    proxy = await start_proxy(cache__memory_limit=0)
    upstream.will_send(*stream())

    assert await words(*(proxy.ask(STREAMED) for _ in range(5))) == ["MISS", *["HIT"] * 4]


async def test_hits_on_long_prompts_come_from_a_small_memory(
    start_proxy: StartProxy, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """What was asked takes no room there: each of these prompts is longer than all that may be kept."""
    proxy = await start_proxy(cache__memory_limit="64KiB")
    upstream.will_send(plain(ANSWER))
    asked = [{**PROMPT, "seed": number, "user": "x" * 100_000} for number in range(20)]
    assert await words(*map(proxy.ask, asked)) == ["MISS"] * 20
    await until(lambda: not store_of(proxy)._waiting)

    plant(tmp_path / "store", "ALTER TABLE Cache RENAME TO Gone")

    assert await words(*map(proxy.ask, asked)) == ["HIT"] * 20


async def test_a_hit_may_be_longer_than_any_buffer(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """And is checked and played all the same, byte for byte."""
    proxy = await start_proxy(cache__memory_limit=0)
    events = [b'data: {"n":%d,"pad":"%s"}\n\n' % (number, b"x" * 50_000) for number in range(40)]
    upstream.will_send(*stream(*events, b"data: [DONE]\n\n"))

    miss = await (await proxy.ask(STREAMED)).body()
    hit = await proxy.ask(STREAMED)

    assert hit.get("x-cache-status") == "HIT"
    assert miss == await hit.body() == b"".join(events) + b"data: [DONE]\n\n"
