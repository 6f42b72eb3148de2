"""The fast lane: what it answers, byte for byte as the long way does, and all that it leaves to that."""

import asyncio
from collections.abc import Mapping
from typing import cast

import orjson
import pytest
from aiohttp import web

from proxy.gateway import Gateway
from proxy.incoming import Incoming
from tests.conftest import Log, StartProxy
from tests.exchanges import RICH_HEAD, store_of, until
from tests.harness import (
    ANSWER,
    CHAT,
    LAST_CHUNK,
    PROMPT,
    STREAM,
    STREAMED,
    Barrier,
    Connection,
    Proxy,
    Response,
    ScriptedUpstream,
    chunk,
    request_bytes,
    sse_head,
    stream,
)
from tests.harness import plain as plain_answer

JSON = ("Content-Type", "application/json")
PLAIN = orjson.dumps(PROMPT)
NEW_EACH_TIME = ("date", "x-reprise-id", "age")
TIMES = ("time", "id", "first_byte_ms", "duration_ms")


def asking(body: bytes = PLAIN, *headers: tuple[str, str]) -> bytes:
    return request_bytes("POST", CHAT, [JSON, *headers], body)


@pytest.fixture
def start_proxy(start_proxy: StartProxy) -> StartProxy:
    """Whatever the environment of the tests says of the fast lane."""

    async def start(**given: object) -> Proxy:
        return await start_proxy(**{"server__fast_lane": "true", **given})

    return start


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count what comes to the gateway."""
    serve = Gateway.serve

    async def counted(gateway: Gateway, request: Incoming) -> web.StreamResponse:
        gateway._traffic.served = taken(gateway) + 1  # type: ignore[attr-defined]
        return await serve(gateway, request)

    monkeypatch.setattr(Gateway, "serve", counted)


def taken(gateway: Gateway) -> int:
    return getattr(gateway._traffic, "served", 0)


def taken_the_long_way(proxy: Proxy) -> int:
    """Requests that have come to the gateway so far."""
    return taken(proxy.app._gateway)


async def answer_to(connection: Connection, request: bytes) -> Response:
    connection.send(request)
    response = await connection.response("POST")
    await response.body()
    return response


async def recorded(proxy: Proxy, request: bytes) -> Connection:
    """A connection on which a request has been a miss."""
    connection = await proxy.connect()
    assert (await answer_to(connection, request)).get("x-cache-status") == "MISS"
    await until(lambda: not proxy.app._flights._by_key)
    return connection


def lasting(response: Response) -> tuple[object, ...]:
    """What is the same of an answer each time."""
    fields = [(name, value) for name, value in response.headers if name.lower() not in NEW_EACH_TIME]
    return response.status, response.reason, fields, response.chunks


@pytest.mark.parametrize(
    ("asked", "sent"),
    [(PROMPT, (plain_answer(ANSWER, *RICH_HEAD),)), (STREAMED, stream())],
    ids=["plain", "stream"],
)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Reprise-Namespace": "one", "X-Reprise-Sample": "2"},
        {"Origin": "https://page.example"},
        {"Cache-Control": "max-age=60, no-store"},
    ],
    ids=["bare", "namespace", "page", "directives"],
)
async def test_a_hit_is_the_same_on_either_way(
    start_proxy: StartProxy,
    upstream: ScriptedUpstream,
    log: Log,
    *,
    asked: Mapping[str, object],
    sent: tuple[bytes, ...],
    headers: Mapping[str, str],
) -> None:
    """Head, framing, body and log line: only what is new each time differs."""
    proxy = await start_proxy(server__cors_origins="https://page.example")
    upstream.will_send(*sent)
    await recorded(
        proxy, asking(orjson.dumps(asked), *(item for item in headers.items() if item[0] != "Cache-Control"))
    )
    request = asking(orjson.dumps(asked), *headers.items())
    connection = await proxy.connect()

    long = await answer_to(connection, request)
    before = taken_the_long_way(proxy)
    fast = await answer_to(connection, request)

    assert taken_the_long_way(proxy) == before
    assert lasting(fast) == lasting(long)
    assert {name.lower() for name, _ in fast.headers} >= set(NEW_EACH_TIME)
    assert fast.get("x-reprise-id") != long.get("x-reprise-id")
    lines = [await log.line(number) for number in (1, 2)]
    assert lines[1]["id"] == fast.get("x-reprise-id")
    assert [{**line, **dict.fromkeys(TIMES)} for line in lines] == [{**lines[0], **dict.fromkeys(TIMES)}] * 2
    assert lines[1]["cache"] == "HIT"
    assert upstream.requests_seen == 1


async def test_a_connection_goes_on_as_it_likes(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Hits and misses, and requests of which aiohttp knows best, one after the other on one connection."""
    upstream.will_send(*stream())
    upstream.will_send(plain_answer(ANSWER))
    streamed = asking(orjson.dumps(STREAMED))
    connection = await recorded(proxy, streamed)

    for request, word, body in (
        (streamed, "HIT", STREAM),
        (asking(), "MISS", ANSWER),
        (streamed, "HIT", STREAM),
        (asking(), "HIT", ANSWER),
        (request_bytes("GET", "/healthz"), None, b'{"status":"ok"}'),
        (streamed, "HIT", STREAM),
    ):
        response = await answer_to(connection, request)
        assert (response.get("x-cache-status"), b"".join(response.chunks)) == (word, body)
    assert upstream.requests_seen == 2


async def test_a_client_that_takes_no_answer_gets_no_more_of_them(
    proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """The long way waits for it, and there is a bound to that; what it asks for does not pile up here."""
    upstream.will_send(plain_answer(b'{"text":"%b"}' % (b"x" * 50_000)))
    connection = await recorded(proxy, asking())
    cast("asyncio.Transport", connection.writer.transport).pause_reading()
    first = taken_the_long_way(proxy)

    def answered() -> int:
        return log.getvalue().count('"event":"request"')

    for asked in range(1, 1000):
        connection.send(asking())
        await until(lambda asked=asked: answered() > asked or taken_the_long_way(proxy) > first)  # type: ignore[misc]
        if taken_the_long_way(proxy) > first:
            break

    assert taken_the_long_way(proxy) == first + 1
    await connection.close()


async def test_a_request_in_pieces_takes_the_long_way(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Wherever it is cut."""
    upstream.will_send(plain_answer(ANSWER))
    request = asking()
    connection = await recorded(proxy, request)

    for cut in (1, 30, request.index(b"\r\n\r\n") + 2, len(request) - len(PLAIN), len(request) - 1):
        before = taken_the_long_way(proxy)
        connection.send(request[:cut])
        await until(lambda: proxy.app._clients.connections[0]._head_bytes > 0 or is_within_body(proxy))  # type: ignore[attr-defined]
        connection.send(request[cut:])
        response = await connection.response("POST")
        assert (response.get("x-cache-status"), await response.body()) == ("HIT", ANSWER)
        assert taken_the_long_way(proxy) == before + 1


def is_within_body(proxy: Proxy) -> bool:
    return not proxy.app._clients.connections[0]._newest_body.is_eof()  # type: ignore[attr-defined]


async def test_requests_sent_ahead_are_answered_in_their_order(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Several in one piece are no single request, known or not."""
    upstream.will_send(plain_answer(ANSWER))
    connection = await recorded(proxy, asking())

    connection.send(asking() * 3)

    for _ in range(3):
        response = await connection.response("POST")
        assert (response.get("x-cache-status"), await response.body()) == ("HIT", ANSWER)
    assert taken_the_long_way(proxy) == 4


async def test_a_body_that_looks_like_a_known_request_is_a_body(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Bytes are what stands before them says they are, whatever they look like and whenever they come."""
    upstream.will_send(plain_answer(ANSWER))
    known = asking()
    connection = await recorded(proxy, known)
    upstream.will_send(plain_answer(b'{"error":"no JSON"}', status=b"400 Bad Request"))
    outer = request_bytes("POST", CHAT, [JSON, ("Content-Length", str(2 * len(known)))])

    connection.send(outer)
    await until(lambda: is_within_body(proxy))
    connection.send(known)
    await until(lambda: sum(map(len, proxy.app._clients.connections[0]._newest_body._buffer)) == len(known))  # type: ignore[attr-defined, arg-type]
    connection.send(known)
    response = await connection.response("POST")

    assert (response.status, await response.body()) == (400, b'{"error":"no JSON"}')
    assert upstream.received[1].body == known * 2


OTHERS = {
    "body": (asking(PLAIN.replace(b"hello", b"jello")), "MISS"),
    "spelling": (asking(PLAIN + b" "), "HIT"),
    "namespace": (asking(PLAIN, ("X-Reprise-Namespace", "another")), "MISS"),
    "head": (asking(PLAIN, ("User-Agent", "another")), "HIT"),
}


@pytest.mark.parametrize("differing", OTHERS)
async def test_what_is_not_known_takes_the_long_way(proxy: Proxy, upstream: ScriptedUpstream, differing: str) -> None:
    """Once; then it is known."""
    upstream.will_send(plain_answer(ANSWER))
    connection = await recorded(proxy, asking())
    request, word = OTHERS[differing]

    found = [(await answer_to(connection, request)).get("x-cache-status") for _ in range(2)]

    assert found == [word, "HIT"]
    assert taken_the_long_way(proxy) == 2


async def test_a_body_that_was_never_read_before_is_found_as_well(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """In another order it is as long, so that its head is known; and it asks the same."""
    upstream.will_send(plain_answer(ANSWER))
    connection = await recorded(proxy, asking())
    reordered = orjson.dumps(dict(reversed(list(PROMPT.items()))))
    assert len(reordered) == len(PLAIN)
    assert reordered != PLAIN

    assert (await answer_to(connection, asking(reordered))).get("x-cache-status") == "HIT"
    assert taken_the_long_way(proxy) == 1


CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(PLAIN), PLAIN)
LEFT_ALONE = {
    "no-cache": (asking(PLAIN, ("Cache-Control", "no-cache")), "REFRESH"),
    "too old": (asking(PLAIN, ("Cache-Control", "max-age=0")), "STALE"),
    "at a pace": (asking(PLAIN, ("X-Reprise-Pace", "recorded")), "HIT"),
    "the last of its connection": (asking(PLAIN, ("Connection", "close")), "HIT"),
    "asking before it sends": (asking(PLAIN, ("Expect", "100-continue")), "HIT"),
    "HTTP/1.0": (request_bytes("POST", CHAT, [JSON, ("Connection", "keep-alive")], PLAIN, "1.0"), "HIT"),
    "chunked": (request_bytes("POST", CHAT, [JSON, ("Transfer-Encoding", "chunked")]) + CHUNKED, "HIT"),
    "a bad control": (asking(PLAIN, ("X-Reprise-Sample", "many")), None),
    "no content type": (request_bytes("POST", CHAT, [], PLAIN), "BYPASS"),
}


@pytest.mark.parametrize("why", LEFT_ALONE)
async def test_what_is_no_plain_hit_takes_the_long_way(proxy: Proxy, upstream: ScriptedUpstream, why: str) -> None:
    """However often it comes."""
    upstream.will_send(plain_answer(ANSWER))
    await recorded(proxy, asking())
    request, word = LEFT_ALONE[why]

    for _ in range(3):
        before = taken_the_long_way(proxy)
        response = await answer_to(await proxy.connect(), request)
        assert response.get("x-cache-status") == word
        assert taken_the_long_way(proxy) == before + 1


@pytest.mark.parametrize(
    "setting",
    [
        {"server__fast_lane": "false"},
        {"replay__pace": "20ms"},
        {"cache__mode": "record"},
        {"cache__mode": "passthrough"},
    ],
    ids=str,
)
async def test_settings_can_keep_it_out(
    start_proxy: StartProxy, upstream: ScriptedUpstream, setting: Mapping[str, str]
) -> None:
    """Switched off, at a pace, or in a mode in which nothing is read from the store."""
    proxy = await start_proxy(**setting)
    upstream.will_send(plain_answer(ANSWER))
    for _ in range(3):
        await answer_to(await proxy.connect(), asking())
        await until(lambda: not store_of(proxy)._waiting)

    assert taken_the_long_way(proxy) == 3


async def test_a_caller_gets_nothing_of_anothers(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """In a scope of credentials the same question by another caller is another one."""
    proxy = await start_proxy(cache__scope="credential")
    upstream.will_send(plain_answer(ANSWER))
    mine, yours = (asking(PLAIN, ("Authorization", f"Bearer {who}")) for who in ("mine", "your"))
    connection = await recorded(proxy, mine)

    found = [(await answer_to(connection, request)).get("x-cache-status") for request in (mine, yours, mine, yours)]

    assert found == ["HIT", "MISS", "HIT", "HIT"]
    assert upstream.requests_seen == 2


async def test_what_is_removed_is_served_no_more(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """A head and a body that are known say nothing of what is in the store."""
    upstream.will_send(plain_answer(ANSWER))
    connection = await recorded(proxy, asking())
    assert (await answer_to(connection, asking())).get("x-cache-status") == "HIT"
    await until(lambda: not store_of(proxy)._waiting)

    store_of(proxy)._memory.clear()
    store_of(proxy)._shelf.clear()

    assert (await answer_to(connection, asking())).get("x-cache-status") == "MISS"


async def test_a_drain_turns_hits_away_as_well(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """On connections that are open already."""
    upstream.will_send(plain_answer(ANSWER))
    connection = await recorded(proxy, asking())
    assert (await answer_to(connection, asking())).get("x-cache-status") == "HIT"
    barrier = Barrier()
    upstream.will_send(sse_head(), barrier, chunk(STREAM) + LAST_CHUNK)
    under_way = await proxy.ask(STREAMED)

    stopping = asyncio.create_task(proxy.app.stop())
    await until(lambda: proxy.app._traffic.draining)
    response = await answer_to(connection, asking())
    barrier.release()

    assert response.status == 503
    assert await under_way.body() == STREAM
    await stopping


async def test_a_hit_from_disk_is_the_same(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """It is looked for in a thread, and what is sent ahead meanwhile waits."""
    proxy = await start_proxy(cache__memory_limit="0")
    upstream.will_send(plain_answer(ANSWER, *RICH_HEAD))
    connection = await recorded(proxy, asking())
    await until(lambda: not store_of(proxy)._waiting)
    long = await answer_to(connection, asking(PLAIN, ("Cache-Control", "max-age=99")))  # a head that is not known yet

    connection.send(asking())
    connection.send(asking()[:-9])
    ahead = await connection.response("POST")
    assert await ahead.body() == ANSWER
    connection.send(asking()[-9:])
    behind = await connection.response("POST")
    assert await behind.body() == ANSWER
    before = taken_the_long_way(proxy)
    fast = await answer_to(connection, asking())

    assert lasting(ahead) == lasting(behind) == lasting(fast) == lasting(long)
    assert taken_the_long_way(proxy) == before


async def test_a_client_that_leaves_before_the_disk_has_answered(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """Is let go, and nobody else waits for anything."""
    proxy = await start_proxy(cache__memory_limit="0")
    upstream.will_send(plain_answer(ANSWER))
    connection = await recorded(proxy, asking())
    await until(lambda: not store_of(proxy)._waiting)

    for _ in range(20):
        leaving = await proxy.connect()
        leaving.send(asking())
        leaving.writer.transport.abort()

    assert (await answer_to(connection, asking())).get("x-cache-status") == "HIT"
    await until(lambda: len(proxy.app._clients.open) == 1)


async def test_other_settings_hold_from_the_next_request_on(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """What was known of a head under the settings before is forgotten with them."""
    proxy = await start_proxy()
    upstream.will_send(plain_answer(ANSWER))
    connection = await recorded(proxy, asking())
    assert (await answer_to(connection, asking())).get("x-cache-status") == "HIT"
    old = proxy.app._settings

    await proxy.app.reload(old.model_copy(update={"cache": old.cache.model_copy(update={"mode": "passthrough"})}))

    assert (await answer_to(connection, asking())).get("x-cache-status") == "BYPASS"


async def test_a_key_of_other_settings_is_not_recorded_under(
    start_proxy: StartProxy, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read anew while the disk is asked: the body has been read, and is read again."""
    proxy = await start_proxy()
    upstream.will_send(plain_answer(ANSWER))
    connection = await recorded(proxy, asking())
    searches: list[asyncio.Future[None]] = []

    def look_for(_: str) -> asyncio.Future[None]:
        searches.append(asyncio.get_running_loop().create_future())
        return searches[-1]

    with monkeypatch.context() as patch:
        patch.setattr(store_of(proxy), "look_for", look_for)
        connection.send(asking(PLAIN.replace(b"hello", b"jello")))
        await until(lambda: bool(searches))
    old = proxy.app._settings
    await proxy.app.reload(old.model_copy(update={"cache": old.cache.model_copy(update={"scope": "credential"})}))
    searches[0].set_result(None)
    response = await connection.response("POST")

    assert (response.get("x-cache-status"), await response.body()) == ("MISS", ANSWER)
    await until(lambda: not proxy.app._flights._by_key)
    again = await answer_to(await proxy.connect(), asking(PLAIN.replace(b"hello", b"jello")))
    assert again.get("x-cache-status") == "HIT"


async def test_what_is_known_of_heads_has_a_bound(
    proxy: Proxy, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client chooses its heads, and would fill the memory with them."""
    monkeypatch.setattr("proxy.lane._MOST_HEADS", 4)
    upstream.will_send(plain_answer(ANSWER))
    connection = await recorded(proxy, asking())

    for number in range(10):
        await answer_to(connection, asking(PLAIN, ("X-Number", str(number))))
    await answer_to(connection, asking(PLAIN, ("X-Long", "x" * 9000)))

    lane = proxy.app._gateway.lane
    assert 0 < len(lane._known) <= 4
    assert max(map(len, lane._known)) < 8192
