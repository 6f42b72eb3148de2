"""Requests that are late, and bodies that are too large: refused, and told so."""

import asyncio
import math

import pytest

from tests.by_hand import UpstreamByHand, read_on, stop_reading
from tests.conftest import StartProxy
from tests.harness import CHAT, LAST_CHUNK, PROMPT, STREAMED, Proxy, ScriptedUpstream, chunk, plain, stream
from tests.raw import LIST, MODELS, PASSED, ROUTES, MiB, refused, request, still_serves


def post(*fields: bytes, body: bytes = b"", target: str = PASSED) -> bytes:
    return request(f"POST {target} HTTP/1.1", *fields, body=body)


# Requests that do not arrive


async def test_a_head_that_stops_arriving_times_out(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """408 after `server.read_timeout`: such connections, kept, would be all that a server has."""
    proxy = await start_proxy(server__read_timeout="100ms")
    connection = await proxy.connect()

    connection.send(MODELS[:-10])

    await refused(await connection.response(), 408, "request_timeout")
    assert await connection.rest() == b""
    await still_serves(proxy, upstream)


async def test_the_head_of_a_later_request_times_out_too(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """A connection that is idle is not: it has its own time, `server.keepalive_timeout`."""
    proxy = await start_proxy(server__read_timeout="100ms")
    upstream.will_send(plain(LIST))
    idle, late = await proxy.connect(), await proxy.connect()
    for connection in (idle, late):
        connection.send(MODELS)
        await (await connection.response()).body()

    late.send(MODELS[:5])
    await refused(await late.response(), 408, "request_timeout")
    idle.send(MODELS)

    assert (await idle.response()).status == 200


async def test_an_idle_connection_is_closed(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """Without a word, before its first request and after any other."""
    proxy = await start_proxy(server__keepalive_timeout="100ms")
    upstream.will_send(plain(LIST))
    fresh, used = await proxy.connect(), await proxy.connect()
    used.send(MODELS)
    await (await used.response()).body()

    assert await fresh.rest() == b""
    assert await used.rest() == b""


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
async def test_a_body_that_stops_arriving_times_out(
    framing: bytes, target: str, start_proxy: StartProxy, by_hand: UpstreamByHand
) -> None:
    """408 after `server.read_timeout`; what the upstream has been sent of it is not ended as if it were whole."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url, server__read_timeout="100ms")
    connection = await proxy.connect()

    connection.send(post(framing, body=b"2\r\n{}", target=target))

    await refused(await connection.response(), 408, "request_timeout")
    if target != CHAT:
        link = await by_hand.accepted()
        await link.head()
        assert LAST_CHUNK not in await link.rest()
    assert len(by_hand.links) == (target != CHAT)


@pytest.mark.parametrize("target", ROUTES)
async def test_a_slow_body_is_waited_for(target: str, start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """It is silence that is measured, not the time that the whole takes."""
    proxy = await start_proxy(server__read_timeout="400ms")
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()

    connection.send(post(b"Content-Length: 4", target=target))
    for _ in range(4):
        await asyncio.sleep(0.12)
        connection.send(b" ")

    assert (await connection.response()).status == 200


# Bodies that are too large


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 1025", b"x" * 1025),
        (b"Content-Length: 1025", b""),
        (b"Content-Length: 1000000000000", b"x"),
        (b"Transfer-Encoding: chunked", chunk(b"x" * 1024) + chunk(b"x")),
        (b"Transfer-Encoding: chunked", chunk(b"x" * 1025) + LAST_CHUNK),
    ],
)
async def test_too_large_a_body_is_refused(
    framing: bytes, body: bytes, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """413 as soon as it is known, whether the length was said or not; nothing goes to the upstream."""
    proxy = await start_proxy(server__max_body_size="1KiB")
    connection = await proxy.connect()

    connection.send(post(framing, b"Expect: 100-continue" if not body else b"X-A: 1", body=body, target=CHAT))

    await refused(await connection.response(), 413, "body_too_large")
    assert upstream.connections_seen == 0
    await still_serves(proxy, upstream)


@pytest.mark.parametrize("framing", [b"Content-Length: 1024", b"Transfer-Encoding: chunked"])
async def test_a_body_of_just_the_largest_size_is_taken(
    framing: bytes, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """The bound itself is within it; and the same on other routes has no bound at all."""
    proxy = await start_proxy(server__max_body_size="1KiB")
    upstream.will_send(plain(LIST))
    body = b"x" * 1024
    framed = body if b"Length" in framing else chunk(body) + LAST_CHUNK

    for raw in (post(framing, body=framed, target=CHAT), post(b"Content-Length: 2048", body=body * 2)):
        connection = await proxy.connect()
        connection.send(raw)
        assert (await connection.response()).status == 200


async def test_a_refusal_reaches_a_client_that_is_still_sending(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """Closed at once, the connection would be reset, and the answer lost with it."""
    proxy = await start_proxy(server__max_body_size="1KiB")
    connection = await proxy.connect()
    stop_reading(connection)
    connection.send(post(b"Content-Length: %d" % (16 * MiB), target=CHAT))

    for _ in range(16):
        connection.send(bytes(MiB))
        await connection.writer.drain()

    read_on(connection)
    await refused(await connection.response(), 413, "body_too_large")
    assert await connection.rest() == b""


# The cached routes


@pytest.mark.parametrize("asked", [PROMPT, STREAMED])
async def test_a_chunked_question_is_the_same_question(
    asked: dict[str, object], proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """How a body was framed is no part of it; the upstream gets it in one piece."""
    upstream.will_send(*(stream() if "stream" in asked else [plain(b'{"choices":[]}')]))
    await (await proxy.ask(asked)).body()
    body = upstream.received[0].body
    half = math.ceil(len(body) / 2)
    connection = await proxy.connect()

    head = post(b"Content-Type: application/json", b"Transfer-Encoding: chunked", target=CHAT)
    connection.send(head + chunk(body[:half]) + chunk(body[half:]) + LAST_CHUNK)

    assert (await connection.response()).get("x-cache-status") == "HIT"
    assert upstream.received[0].header("content-length") == [str(len(body))]
