"""CORS, where it is switched on: answered here, made for each answer, never recorded; and else none of our business."""

import pytest

from tests.conftest import Log, StartProxy
from tests.exchanges import recording_of
from tests.harness import ANSWER, CHAT, PROMPT, STREAM, STREAMED, Proxy, ScriptedUpstream, plain, sse_head, stream

HERE, THERE = "https://here.example", "https://there.example:8443"
PREFLIGHT = [
    ("Origin", HERE),
    ("Access-Control-Request-Method", "POST"),
    ("Access-Control-Request-Headers", "authorization,content-type,x-stainless-lang"),
]
THEIRS = (b"Access-Control-Allow-Origin: *", b"Access-Control-Allow-Credentials: true", b"Vary: Accept")


@pytest.fixture
async def open_proxy(start_proxy: StartProxy) -> Proxy:
    return await start_proxy(server__cors_origins=[HERE, THERE])


async def test_a_preflight_is_answered_here(open_proxy: Proxy, upstream: ScriptedUpstream, log: Log) -> None:
    """Without a credential, without a body, and without asking the upstream; it is not worth a line at level info."""
    response = await open_proxy.send("OPTIONS", CHAT, PREFLIGHT)

    assert (response.status, await response.body()) == (204, b"")
    assert response.get_all("access-control-allow-origin") == [HERE]
    assert response.get("access-control-allow-methods") == "POST"
    assert response.get("access-control-allow-headers") == "authorization,content-type,x-stainless-lang"
    assert response.get_all("vary") == ["Origin"]
    assert response.get("access-control-allow-credentials") is None
    assert response.get("transfer-encoding") is None
    assert response.get("content-length") is None
    assert response.get("x-reprise-id")
    assert upstream.connections_seen == 0
    assert (await log.line())["level"] == "debug"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://here.example.evil", f"{HERE}:443", ""])
async def test_a_page_of_another_origin_is_told_nothing(
    origin: str, open_proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Which its browser takes for a no; the preflight goes no further."""
    preflight = [("Origin", origin), *PREFLIGHT[1:]]
    response = await open_proxy.send("OPTIONS", CHAT, preflight)

    assert response.status == 204
    assert not [name for name, _ in response.headers if name.lower().startswith("access-control-")]
    assert response.get_all("vary") == ["Origin"]
    assert upstream.connections_seen == 0


async def test_each_answer_is_for_the_page_that_asked(open_proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """A recording made for one origin is replayed to another one, and to a client that is no page."""
    upstream.will_send(plain(ANSWER, *THEIRS))
    miss = await open_proxy.ask(headers={"Origin": HERE})
    recording = await recording_of(open_proxy, miss)
    assert not [name for name, _ in recording.head.headers if name.lower().startswith((b"access-control", b"vary"))]

    there = await open_proxy.ask(headers={"Origin": THERE})
    none = await open_proxy.ask()
    evil = await open_proxy.ask(headers={"Origin": "https://evil.example"})

    assert [answer.get("x-cache-status") for answer in (miss, there, none, evil)] == ["MISS", "HIT", "HIT", "HIT"]
    allowed = [answer.get_all("access-control-allow-origin") for answer in (miss, there, none, evil)]
    assert allowed == [[HERE], [THERE], [], []]
    assert miss.get_all("access-control-allow-credentials") == []
    assert miss.get_all("vary") == ["Accept", "Origin"]
    assert [answer.get_all("vary") for answer in (there, none, evil)] == [["Origin"]] * 3
    assert miss.get("access-control-expose-headers") == there.get("access-control-expose-headers") == "*"
    assert {await answer.body() for answer in (miss, there, none, evil)} == {ANSWER}


async def test_a_stream_is_for_the_page_that_asked_too(open_proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Joined or replayed."""
    upstream.will_send(*stream())

    for origin, told in ((HERE, "MISS"), (THERE, "HIT")):
        response = await open_proxy.ask(STREAMED, headers={"Origin": origin})
        assert response.get("x-cache-status") == told
        assert response.get_all("access-control-allow-origin") == [origin]
        assert await response.body() == STREAM


async def test_a_page_can_read_our_errors_and_our_health(open_proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Without the fields its browser would show it nothing but a failure."""
    upstream.will_send(plain(b"{}", *THEIRS, status=b"500 Internal Server Error"))
    origin = {"Origin": HERE}
    for response in (
        await open_proxy.ask(headers={**origin, "X-Reprise-Pace": "fast"}),
        await open_proxy.ask(headers={**origin, "Cache-Control": "only-if-cached"}),
        await open_proxy.send("GET", "/nowhere", origin.items()),
        await open_proxy.send("GET", "/healthz", origin.items()),
        await open_proxy.ask(headers=origin),
        await open_proxy.ask(PROMPT, "/v1/images/generations", origin),
    ):
        assert response.get_all("access-control-allow-origin") == [HERE], response.status
        assert response.get("access-control-allow-credentials") is None


async def test_a_star_is_for_everyone(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """Then the answer is the same for all, and need not vary; never with credentials."""
    proxy = await start_proxy(server__cors_origins=["*"])
    upstream.will_send(plain(ANSWER))

    preflight = await proxy.send("OPTIONS", CHAT, PREFLIGHT)
    answer = await proxy.ask(headers={"Origin": "null"})

    assert preflight.get("access-control-allow-origin") == answer.get("access-control-allow-origin") == "*"
    assert preflight.get("access-control-allow-headers") == "authorization,content-type,x-stainless-lang"
    assert answer.get("access-control-allow-credentials") is None
    assert answer.get("vary") is None


async def test_without_the_setting_cors_is_the_upstreams_business(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """A preflight travels there like any request, and what it says comes back as it is, live; no replay carries it."""
    upstream.will_send(b"HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Origin: https://up.example\r\n\r\n")
    preflight = await proxy.send("OPTIONS", CHAT, PREFLIGHT)
    assert (preflight.status, preflight.get("access-control-allow-origin")) == (204, "https://up.example")
    assert upstream.requests_seen == 1

    upstream.will_send(sse_head(*THEIRS), *stream()[1:])
    miss, hit = await proxy.ask(STREAMED, headers={"Origin": HERE}), await proxy.ask(STREAMED, headers={"Origin": HERE})
    assert [await miss.body(), await hit.body()] == [STREAM, STREAM]
    assert miss.get("access-control-allow-origin") == "*"
    assert miss.get("vary") == "Accept"
    assert not [name for name, _ in hit.headers if name.lower().startswith(("access-control-", "vary"))]


async def test_options_that_are_no_preflight_are_passed_through(open_proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Only what a browser sends before a request is answered here."""
    upstream.will_send(b"HTTP/1.1 204 No Content\r\nAllow: POST\r\n\r\n")

    response = await open_proxy.send("OPTIONS", CHAT, [("Origin", HERE)])

    assert (response.status, response.get("allow")) == (204, "POST")
    assert response.get_all("access-control-allow-origin") == [HERE]
    assert upstream.requests_seen == 1
