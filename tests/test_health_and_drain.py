"""Alive, able to serve, and shutting down: what a supervisor sees, and what becomes of requests meanwhile."""

import asyncio
from pathlib import Path

import orjson
import pytest

from proxy import events
from proxy.traffic import Traffic
from tests.conftest import Log, StartProxy
from tests.exchanges import store_of, take, until, word
from tests.harness import (
    CHAT,
    DONE,
    HELLO,
    LAST_CHUNK,
    PROMPT,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Proxy,
    Response,
    ScriptedUpstream,
    chunk,
    request_bytes,
    sse_head,
)

JSON = [("Content-Type", "application/json")]


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_proxy_that_serves_says_so(path: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log) -> None:
    """In JSON, without asking the upstream, and without a line at level info: supervisors ask often."""
    response = await proxy.send("GET", path)

    assert (response.status, response.get("content-type")) == (200, "application/json")
    assert await response.json() == {"status": "ok"}
    assert response.get("x-reprise-id")
    assert upstream.connections_seen == 0
    line = await log.line()
    assert (line["level"], line["path"], line["status"]) == ("debug", path, 200)
    head = await proxy.send("HEAD", path)
    assert (head.status, await head.body()) == (200, b"")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_is_asked_with_get(path: str, proxy: Proxy) -> None:
    """Anything else is a mistake, told in our form."""
    response = await proxy.send("POST", path, JSON, b"{}")

    assert (response.status, response.get("allow")) == (405, "GET, HEAD")
    assert b'"method_not_allowed"' in await response.body()


async def test_a_proxy_that_cannot_record_is_alive_and_not_ready(
    start_proxy: StartProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it can again; its housekeeping, which would make a new database, is left out of this."""
    monkeypatch.setattr("proxy.store.tiered._HOUSEKEEPING_S", 60.0)
    proxy = await start_proxy()
    await until(lambda: store_of(proxy)._removals is not None)
    database = tmp_path / "store" / "cache.db"
    elsewhere = database.rename(tmp_path / "elsewhere.db")

    assert (await proxy.send("GET", "/readyz")).status == 503
    assert (await proxy.send("GET", "/healthz")).status == 200
    elsewhere.rename(database)
    assert (await proxy.send("GET", "/readyz")).status == 200


async def draining(proxy: Proxy, upstream: ScriptedUpstream) -> tuple[Response, Barrier, "asyncio.Task[None]"]:
    """A proxy that shuts down while a stream is under way."""
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD), chunk(DONE) + LAST_CHUNK)
    response = await proxy.ask(STREAMED)
    await take(response, HELLO)
    stopping = asyncio.create_task(proxy.app.stop())
    await until(lambda: proxy.app._traffic.draining)
    return response, barrier, stopping


async def test_a_stream_under_way_is_finished_and_stored(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Its client notices nothing, and the next proxy finds it."""
    proxy = await start_proxy()
    response, barrier, stopping = await draining(proxy, upstream)
    barrier.release()

    assert await response.body() == WORLD + DONE
    await stopping

    assert (await log.line())["stored"] is True
    assert [line["event"] for line in map(orjson.loads, log.getvalue().splitlines())][-1] == events.STOPPED
    assert await word((await start_proxy()).ask(STREAMED)) == "HIT"
    assert upstream.requests_seen == 1


async def test_a_request_is_waited_for_also_where_others_have_ended_before() -> None:
    """That nobody was answered for a while says nothing of now."""
    traffic = Traffic(max_body_bytes=0)
    earlier, now = [asyncio.get_running_loop().create_future() for _ in range(2)]
    traffic.count(earlier)
    earlier.set_result(None)
    await traffic.idle()
    traffic.count(now)

    waiting = [asyncio.create_task(traffic.idle()) for _ in range(2)]
    await asyncio.gather(*(asyncio.sleep(0) for _ in range(10)))
    assert not any(each.done() for each in waiting)
    now.set_result(None)
    await asyncio.gather(*waiting)


async def test_new_requests_are_turned_away_meanwhile(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """On connections that are open they get 503, which SDKs try again; new connections are refused."""
    proxy = await start_proxy()
    port = proxy.port
    idle, ready, alive = [await proxy.connect() for _ in range(3)]
    # Served once, so that the proxy surely has accepted them all.
    for connection in (idle, ready, alive):
        connection.send(request_bytes("GET", "/healthz"))
        await (await connection.response()).body()
    response, barrier, stopping = await draining(proxy, upstream)

    idle.send(request_bytes("POST", CHAT, JSON, orjson.dumps(PROMPT)))
    refused = await idle.response()
    assert (refused.status, refused.get("retry-after")) == (503, "1")
    assert b'"draining"' in await refused.body()
    ready.send(request_bytes("GET", "/readyz"))
    assert (await ready.response()).status == 503
    alive.send(request_bytes("GET", "/healthz"))
    assert (await alive.response()).status == 200
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", port)

    barrier.release()
    assert await response.body() == WORLD + DONE
    await stopping
    assert upstream.requests_seen == 1
    lines = [line for line in log.lines() if line.get("error") == "draining"]
    assert [(line["status"], line["outcome"]) for line in lines] == [(503, "rejected")]


async def test_a_stream_that_takes_too_long_is_broken_off(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """When the time to drain is over; its client sees a broken transfer, never a clean end, and nothing is stored."""
    proxy = await start_proxy(server__drain_timeout="20ms")
    response, _, stopping = await draining(proxy, upstream)

    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await response.body()

    await stopping
    line = await log.line()
    assert (line["outcome"], line["error"], line["not_stored_because"]) == ("rejected", "draining", "draining")
    await upstream.wait_until(lambda: upstream.connections == 0)
    proxy = await start_proxy(cache__mode="replay")
    assert (await proxy.ask(STREAMED)).status == 504


async def test_an_answer_that_is_read_on_is_waited_for(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """Nobody listens to it any more, but it has been paid for."""
    proxy = await start_proxy(cache__linger="10m")
    response, barrier, stopping = await draining(proxy, upstream)
    await response.leave()
    await until(lambda: proxy.app._traffic.active == 0)
    barrier.release()
    await stopping

    assert await word((await start_proxy()).ask(STREAMED)) == "HIT"
    assert upstream.requests_seen == 1


async def test_one_that_is_fetched_twice_at_a_time_is_left_behind_by_nobody(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Two of one key, of which only one can be joined: both are cut off when the time is over."""
    proxy = await start_proxy(cache__linger="10m")
    upstream.will_send(sse_head(), chunk(HELLO), Barrier())
    for _ in range(2):
        response = await proxy.ask(STREAMED, headers={"Cache-Control": "no-cache"})
        await take(response, HELLO)
        await response.leave()
    await until(lambda: proxy.app._traffic.active == 0)

    await proxy.app.stop(drain_s=0)

    await upstream.wait_until(lambda: upstream.connections == 0)
    assert [line["stored"] for line in log.lines()] == [False, False]


async def test_both_of_two_that_were_fetched_at_a_time_are_waited_for(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Whether they can be joined or not, their answers have been paid for."""
    proxy = await start_proxy(cache__linger="10m")
    barriers = Barrier(), Barrier()
    for barrier in barriers:
        upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD) + chunk(DONE) + LAST_CHUNK)
    for _ in barriers:
        response = await proxy.ask(STREAMED, headers={"Cache-Control": "no-cache"})
        await take(response, HELLO)
        await response.leave()
    await until(lambda: proxy.app._traffic.active == 0)
    stopping = asyncio.create_task(proxy.app.stop())
    await until(lambda: proxy.app._traffic.draining)

    barriers[0].release()
    await log.line(0)
    await asyncio.wait([stopping], timeout=0.05)
    barriers[1].release()
    await stopping

    assert [line["stored"] for line in log.lines()] == [True, True]
    assert await (await (await start_proxy(cache__mode="replay")).ask(STREAMED)).body() == STREAM
