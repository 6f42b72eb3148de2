"""The control headers, what stays with the proxy, and what it says that it did (contract sections 4 and 5)."""

import time

import orjson
import pytest

from tests.conftest import Log, StartProxy
from tests.exchanges import keep_copy, key_of, recording_of, word, words
from tests.harness import (
    ANSWER,
    CHAT,
    PROMPT,
    STREAM,
    STREAMED,
    Barrier,
    Proxy,
    ScriptedUpstream,
    plain,
    stream,
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Reprise-Namespace", ""),
        ("X-Reprise-Namespace", "two words"),
        ("X-Reprise-Namespace", "n" * 129),
        ("X-Reprise-Sample", ""),
        ("X-Reprise-Sample", "-1"),
        ("X-Reprise-Sample", "1.0"),
        ("X-Reprise-Sample", "first"),
        ("X-Reprise-Session", ""),
        ("X-Reprise-Session", "two words"),
        ("X-Reprise-Session", "s" * 129),
        ("X-Reprise-Pace", ""),
        ("X-Reprise-Pace", "fast"),
        ("X-Reprise-Pace", "0x"),
        ("X-Reprise-Pace", "-1ms"),
        ("X-Reprise-Pace", "20 ms"),
        ("X-Reprise-Speed", "2x"),
    ],
)
async def test_a_bad_control_header_is_refused(
    name: str, value: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Whether the answer is recorded or not: a slip of the pen must not go unnoticed."""
    upstream.will_send(plain(ANSWER))
    await word(proxy.ask())

    response = await proxy.ask(headers={name: value})

    assert response.status == 400
    assert name.encode() in await response.body()
    assert upstream.requests_seen == 1
    line = await log.line(1)
    assert (line["status"], line["outcome"], line["error"]) == (400, "rejected", "bad_request")


async def test_a_control_header_that_is_given_twice_is_refused(proxy: Proxy) -> None:
    """Nobody could say which one counts."""
    fields = [("Content-Type", "application/json"), ("X-Reprise-Sample", "1"), ("x-reprise-sample", "1")]

    assert (await proxy.send("POST", CHAT, fields, b"{}")).status == 400


async def test_a_sample_in_a_session_is_refused(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Both say which of several answers is asked for."""
    response = await proxy.ask(headers={"X-Reprise-Session": "one", "X-Reprise-Sample": "0"})

    assert response.status == 400
    assert b"X-Reprise-Sample and X-Reprise-Session exclude each other" in await response.body()
    assert upstream.requests_seen == 0


CONTROLS = {
    "Cache-Control": "no-cache, max-age=5, no-transform",
    "X-Reprise-Namespace": "mine",
    "X-Reprise-Pace": "2x",
    "X-Other": "travels",
}


@pytest.mark.parametrize("body", [orjson.dumps(PROMPT), b"not JSON"], ids=["cacheable", "uncacheable"])
@pytest.mark.parametrize("number", ["X-Reprise-Sample", "X-Reprise-Session"])
async def test_what_is_said_to_the_proxy_stays_with_it(
    body: bytes, number: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Neither directives nor control headers travel upstream; all else does."""
    upstream.will_send(plain(ANSWER))

    assert (await proxy.ask(body, headers={**CONTROLS, number: "3"})).status == 200

    (received,) = upstream.received
    head = received.head.lower()
    assert b"x-reprise-" not in head
    assert b"cache-control" not in head
    assert b"no-cache" not in head
    assert received.header("x-other") == ["travels"]
    assert received.body == body


async def test_control_headers_stay_here_on_other_routes_too(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """A passed-through request may carry them by habit."""
    upstream.will_send(plain(b"{}"))

    response = await proxy.send("GET", "/v1/models", [("X-Reprise-Namespace", "mine"), ("X-Other", "travels")])

    assert response.status == 200
    (received,) = upstream.received
    assert b"x-reprise-" not in received.head.lower()
    assert received.header("x-other") == ["travels"]


async def test_namespaces_and_samples_are_sets_of_their_own(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Each pair of them has its own answer to one prompt; sample 0 is what is asked for without a number."""
    controls: list[dict[str, str]] = [
        {},
        {"X-Reprise-Namespace": "a"},
        {"X-Reprise-Namespace": "A"},
        {"X-Reprise-Sample": "1"},
        {"X-Reprise-Sample": "2"},
        {"X-Reprise-Namespace": "a", "X-Reprise-Sample": "1"},
        {"X-Reprise-Namespace": "a1"},
    ]
    bodies = [b'{"number":%d}' % number for number in range(len(controls))]
    for body in bodies:
        upstream.will_send(plain(body))

    misses = [await (await proxy.ask(headers=control)).body() for control in controls]
    hits = [await proxy.ask(headers=control) for control in controls]

    assert misses == bodies
    assert [await hit.body() for hit in hits] == bodies
    assert {hit.get("x-cache-status") for hit in hits} == {"HIT"}
    assert len(set(map(key_of, hits))) == len(controls)
    assert await word(proxy.ask(headers={"X-Reprise-Sample": "0"})) == "HIT"


async def test_a_recording_answers_for_the_time_to_live(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """After it the upstream is asked again, and what it says is recorded in its place."""
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(cache__ttl="1h")
    recording = await recording_of(proxy, await proxy.ask())
    keep_copy(proxy, recording, age_s=3500)
    assert await word(proxy.ask()) == "HIT"
    keep_copy(proxy, recording, age_s=3601)

    assert await words(proxy.ask(), proxy.ask()) == ["STALE", "HIT"]
    assert upstream.requests_seen == 2


async def test_a_time_to_live_may_be_less_than_a_second(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """Ages are compared as they are; only the Age header counts in whole seconds."""
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(cache__ttl="250ms")
    recording = await recording_of(proxy, await proxy.ask())
    keep_copy(proxy, recording, age_s=0.5)

    assert await word(proxy.ask()) == "STALE"


async def test_no_recording_is_as_young_as_max_age_0_asks(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """One that was made a moment ago is older than no time at all."""
    upstream.will_send(plain(ANSWER))
    recorded_at = (await recording_of(proxy, await proxy.ask())).recorded_at
    assert time.time() > recorded_at

    assert await words(proxy.ask(headers={"Cache-Control": "max-age=0"}), proxy.ask()) == ["STALE", "HIT"]


@pytest.mark.parametrize(("ttl", "mode"), [("0", "cache"), ("1s", "replay")])
async def test_some_recordings_never_grow_too_old(
    ttl: str, mode: str, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """With a time to live of 0 they are for ever, and in replay mode whatever it is."""
    upstream.will_send(plain(ANSWER))
    recorder = await start_proxy()
    recording = await recording_of(recorder, await recorder.ask())
    await recorder.app.stop()
    proxy = await start_proxy(cache__ttl=ttl, cache__mode=mode)
    keep_copy(proxy, recording, age_s=20 * 365 * 86400)

    assert await word(proxy.ask()) == "HIT"


async def test_cache_status_says_what_was_done(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """In the parameters of RFC 9211, word for word."""
    upstream.will_send(plain(ANSWER))
    proxy = await start_proxy(cache__ttl="1h")
    miss = await proxy.ask()
    key, recording = key_of(miss), await recording_of(proxy, miss)

    async def told(**directives: str) -> tuple[str | None, list[str]]:
        response = await proxy.ask(headers={"Cache-Control": directives.get("cache_control", "")})
        return response.get("x-cache-status"), response.get_all("cache-status")

    assert miss.get_all("cache-status") == [f'reprise; fwd=uri-miss; key="{key}"']
    assert await told() == ("HIT", [f'reprise; hit; key="{key}"'])
    assert await told(cache_control="no-cache") == ("REFRESH", [f'reprise; fwd=request; key="{key}"'])
    assert await told(cache_control="no-cache, no-store") == (
        "BYPASS",
        [f'reprise; fwd=bypass; detail=request; key="{key}"'],
    )
    keep_copy(proxy, recording, age_s=3601)
    assert await told() == ("STALE", [f'reprise; fwd=stale; key="{key}"'])


async def test_cache_status_names_the_mode_that_bypassed_the_store(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """What the operator's mode brought about is not the request's doing."""
    upstream.will_send(plain(ANSWER))
    record, passthrough = await start_proxy(cache__mode="record"), await start_proxy(cache__mode="passthrough")

    refreshed, bypassed = await record.ask(), await passthrough.ask()

    assert refreshed.get("x-cache-status") == "REFRESH"
    assert refreshed.get("cache-status") == f'reprise; fwd=bypass; detail=record; key="{key_of(refreshed)}"'
    assert bypassed.get("x-cache-status") == "BYPASS"
    assert bypassed.get("cache-status") == f'reprise; fwd=bypass; detail=passthrough; key="{key_of(refreshed)}"'


async def test_cache_status_of_a_joined_stream(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """RFC 9211 calls it collapsed."""
    barrier = Barrier()
    whole = stream()
    upstream.will_send(*whole[:2], barrier, *whole[2:])
    first = await proxy.ask(STREAMED)

    joined = await proxy.ask(STREAMED)

    assert joined.get("x-cache-status") == "JOINED"
    assert joined.get_all("cache-status") == [f'reprise; fwd=uri-miss; key="{key_of(first)}"; collapsed']
    barrier.release()
    assert await first.body() == await joined.body() == STREAM


@pytest.mark.parametrize("mode", ["replay", "cache"])
async def test_a_miss_that_may_not_be_forwarded_contacts_nobody(
    mode: str, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Neither on a cached route nor on any other, nor for a request that could not have been recorded."""
    proxy = await start_proxy(cache__mode=mode)
    asked = {"Cache-Control": "only-if-cached"} if mode == "cache" else {}

    for response in (
        await proxy.ask(headers=asked),
        await proxy.ask(b"not JSON", headers=asked),
        await proxy.ask(PROMPT, "/v1/images/generations", asked),
        await proxy.send("GET", "/v1/models", asked.items()),
    ):
        assert response.status == 504
        assert response.get("x-should-retry") == "false"
        assert response.get("x-reprise-id")
        assert b'"code":"replay_miss"' in await response.body()
    assert upstream.connections_seen == 0
    line = await log.line()
    assert (line["cache"], line["outcome"], line["error"], line["stored"]) == ("MISS", "rejected", "replay_miss", False)
