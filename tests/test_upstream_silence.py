"""An upstream that says nothing: how long it is waited for, before its head and within its body."""

import asyncio

import pytest

from tests.by_hand import UpstreamByHand, asking_transports, host_of, size_buffers, stop_reading
from tests.conftest import Log, StartProxy
from tests.harness import (
    ANSWER,
    DONE,
    HELLO,
    LAST_CHUNK,
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
)
from tests.raw import ROUTES, MiB, refused

# Where it falls silent: what was sent before, and what of it is body.
WITHIN: dict[str, tuple[bytes, bytes]] = {
    "behind the head": (sse_head(), b""),
    "in a chunk": (sse_head() + chunk(HELLO) + chunk(WORLD)[:-9], HELLO + WORLD[:-7]),
    "behind [DONE]": (sse_head() + chunk(STREAM), STREAM),
    "before its length": (plain(STREAM + b"\n")[:-1], STREAM),
}


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"],
    ids=["nothing", "half a head", "a hint", "go on"],
)
async def test_no_head_in_time(
    said: bytes, target: str, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """504 after `upstream.first_byte_timeout`, counted to the whole head of the final answer."""
    proxy = await start_proxy(upstream__first_byte_timeout="100ms", upstream__retries=2)
    upstream.will_send(said, Barrier())

    response = await proxy.ask(STREAMED, target)

    await refused(response, 504, "upstream_timeout", host_of(upstream).decode())
    await upstream.wait_until(lambda: upstream.connections == 0)
    assert upstream.requests_seen == 1
    assert (await log.line())["outcome"] == "upstream_error"


async def test_a_head_that_drips_is_no_head_in_time(start_proxy: StartProxy, by_hand: UpstreamByHand) -> None:
    """It is the head that is waited for, not a sign of life."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url, upstream__first_byte_timeout="200ms")
    asking = asyncio.create_task(proxy.ask(STREAMED))
    link = await by_hand.accepted()
    await link.head()
    link.send(b"HTTP/1.1 200 OK\r\nX-A: ")

    while not asking.done():
        link.send(b"a")
        await asyncio.sleep(0.02)

    await refused(await asking, 504, "upstream_timeout")


async def test_the_time_for_the_head_begins_when_the_request_is_sent(
    start_proxy: StartProxy, by_hand: UpstreamByHand
) -> None:
    """A long upload takes its time, and the upstream has nothing to say before its end."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url, upstream__first_byte_timeout="300ms")
    client, silent = await proxy.connect(), await proxy.connect()
    client.send(request_bytes("POST", "/v1/files", [("Content-Length", "2")]) + b"{")
    link = await by_hand.accepted()
    silent.send(request_bytes("GET", "/v1/models"))
    await refused(await silent.response(), 504, "upstream_timeout")

    client.send(b"}")
    await link.head()
    assert await link.read(2) == b"{}"
    link.send(plain(ANSWER))

    assert await (await client.response()).body() == ANSWER


@pytest.mark.parametrize("target", ROUTES)
async def test_an_upstream_that_does_not_take_the_request(
    target: str, start_proxy: StartProxy, by_hand: UpstreamByHand
) -> None:
    """There will be no head either, so it is given the same time."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url, upstream__first_byte_timeout="100ms")
    client = await proxy.connect()
    client.send(request_bytes("POST", target, body=bytes(32 * 1024 * 1024)))
    link = await by_hand.accepted()
    stop_reading(link)

    await refused(await client.response(), 504, "upstream_timeout")


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize("where", WITHIN)
async def test_silence_within_a_body(
    where: str, target: str, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Broken off after `upstream.idle_timeout`, which the time before the head has nothing to do with."""
    proxy = await start_proxy(upstream__idle_timeout="100ms", upstream__first_byte_timeout="60s")
    sent, arrives = WITHIN[where]
    upstream.will_send(sent, Barrier())

    response = await proxy.ask(STREAMED, target)

    assert await response.body_broken_off() == arrives
    await upstream.wait_until(lambda: upstream.connections == 0)
    assert (await log.line())["outcome"] == "upstream_truncated"


async def test_the_time_for_the_head_runs_when_the_request_was_taken_slowly(
    start_proxy: StartProxy, by_hand: UpstreamByHand
) -> None:
    """Also where the last of it waited in the proxy's buffer when there was no more to be written."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url, upstream__first_byte_timeout="300ms")
    body = b'{"model":"' + b"m" * (4 * MiB + 60 * 1024) + b'"}'
    asking = asyncio.create_task(proxy.ask(body))
    link = await by_hand.accepted()
    (transport,) = asking_transports(proxy)
    size_buffers(transport, 4096)
    await link.head()

    await link.read(len(body))

    await refused(await asking, 504, "upstream_timeout")


async def test_nothing_bounds_an_answer_as_a_whole(proxy: Proxy) -> None:
    """A reasoning model may think, and a stream go on, for longer than aiohttp's five minutes."""
    timeout = proxy.app._upstream._session.timeout

    assert (timeout.total, timeout.connect) == (None, None)


async def test_a_body_that_drips_is_alive(start_proxy: StartProxy, by_hand: UpstreamByHand) -> None:
    """It is silence that is measured, not the time that the whole takes, nor that for the head."""
    proxy = await start_proxy(
        upstream__base_url=by_hand.base_url, upstream__idle_timeout="400ms", upstream__first_byte_timeout="300ms"
    )
    asking = asyncio.create_task(proxy.ask(STREAMED))
    link = await by_hand.accepted()
    await link.head()
    link.send(sse_head())

    for byte in DONE[:4]:
        await asyncio.sleep(0.12)
        link.send(chunk(bytes([byte])))
    link.send(chunk(DONE[4:]) + LAST_CHUNK)

    assert await (await asking).body() == DONE
