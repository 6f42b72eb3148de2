"""Live answers as they stream: byte for byte, as they come, no slower than they come, and to nobody who has left."""

import asyncio
import socket
import struct
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.by_hand import UpstreamByHand, connect_with_little_room, quiet, read_on, served, size_buffers, stop_reading
from tests.conftest import Log, StartProxy
from tests.exchanges import until
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
    Connection,
    Part,
    Proxy,
    ScriptedUpstream,
    chunk,
    plain,
    request_bytes,
    sse_head,
    stream,
)
from tests.raw import PASSED, ROUTES, MiB

PROPERTY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# As it comes


@pytest.mark.parametrize("target", ROUTES)
async def test_each_write_is_passed_on_before_the_next_one_comes(
    target: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """The head before the body, the first byte before the second: nothing waits, is added, lost or merged."""
    frames = [HELLO[:1], HELLO[1:], WORLD + DONE[:3], DONE[3:]]
    barriers = [Barrier() for _ in frames]
    held: list[Part] = [part for pair in zip(barriers, map(chunk, frames), strict=True) for part in pair]
    upstream.will_send(sse_head(), *held, LAST_CHUNK)

    response = await proxy.ask(STREAMED, target)

    for barrier, frame in zip(barriers, frames, strict=True):
        barrier.release()
        assert await response.next_chunk() == frame
    assert await response.next_chunk() == b""


@pytest.mark.parametrize("target", ROUTES)
async def test_a_plain_answer_is_passed_on_as_it_comes_too(
    target: str, by_hand: UpstreamByHand, start_proxy: StartProxy
) -> None:
    """Its length is known, so its client can read what is there."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    client = await proxy.connect()
    client.send(request_bytes("POST", target, [("Content-Type", "application/json")], b'{"model":"m"}'))
    link = await by_hand.accepted()
    await link.head()

    link.send(plain(ANSWER).removesuffix(ANSWER))
    response = await client.response()
    for byte in ANSWER[:3]:
        link.send(bytes([byte]))
        assert await client.reader.readexactly(1) == bytes([byte])
    link.send(ANSWER[3:])

    assert await client.reader.readexactly(len(ANSWER) - 3) == ANSWER[3:]
    assert response.get("content-length") == str(len(ANSWER))


_BODIES = st.lists(st.binary(min_size=1, max_size=20), max_size=6)
_CUTS = st.lists(st.integers(min_value=1, max_value=200), max_size=12)


def cut(wire: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = [0, *sorted({place for place in cuts if place < len(wire)}), len(wire)]
    return [wire[start:end] for start, end in pairwise(places)]


async def written_apart(by_hand: UpstreamByHand, proxy: Proxy, target: str, parts: Sequence[bytes]) -> bytes:
    """The body that a client gets when the upstream sends these parts, each of them read by itself."""
    client = await proxy.connect()
    client.send(request_bytes("POST", target, [("Cache-Control", "no-store")], b"{}"))
    link = await by_hand.accepted()
    await link.head()
    for part in parts:
        link.send(part)
        await asyncio.sleep(0)  # the proxy's turn to read
        await asyncio.sleep(0)
    response = await client.response()
    body = await response.body()
    await link.close()
    return body


@PROPERTY
@given(pieces=_BODIES, cuts=_CUTS)
async def test_chunks_may_be_cut_anywhere(
    pieces: list[bytes], cuts: list[int], by_hand: UpstreamByHand, start_proxy: StartProxy
) -> None:
    """Within the head, a size line, a chunk, between CR and LF: the body is the same bytes."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    wire = sse_head() + b"".join(map(chunk, pieces)) + LAST_CHUNK

    assert await written_apart(by_hand, proxy, PASSED, cut(wire, cuts)) == b"".join(pieces)


@PROPERTY
@given(body=st.binary(max_size=120), cuts=_CUTS)
async def test_a_body_of_known_length_may_be_cut_anywhere(
    body: bytes, cuts: list[int], by_hand: UpstreamByHand, start_proxy: StartProxy
) -> None:
    """The same for an answer with a length."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)

    assert await written_apart(by_hand, proxy, PASSED, cut(plain(body), cuts)) == body


EMOJI = 'data: {"choices":[{"index":0,"delta":{"content":"😀é\u2028\u0085"},"finish_reason":"stop"}]}\n\n'.encode()


@pytest.mark.parametrize("target", ROUTES)
async def test_frames_of_one_byte_stay_frames_of_one_byte(
    target: str, by_hand: UpstreamByHand, start_proxy: StartProxy
) -> None:
    """Also within a character of several bytes, and between CR and LF."""
    body = EMOJI.replace(b"\n", b"\r\n") + DONE
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    client = await proxy.connect()
    client.send(request_bytes("POST", target, [("Content-Type", "application/json")], b'{"stream":true}'))
    link = await by_hand.accepted()
    await link.head()
    link.send(sse_head())
    response = await client.response()

    for byte in body:
        link.send(chunk(bytes([byte])))
        assert await response.next_chunk() == bytes([byte])


@pytest.mark.parametrize("target", ROUTES)
async def test_trailers_and_chunk_extensions_end_here(target: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """They belong to the upstream's chunks; trailers are never merged into a head (RFC 9110 section 6.5.1)."""
    upstream.will_send(sse_head(b"Trailer: X-Sum"), b"5;a=b\r\ndata:\r\n", b"0;c\r\nX-Sum: 1\r\nSet-Cookie: x\r\n\r\n")
    connection = await proxy.connect()
    connection.send(
        request_bytes("POST", target, [("Content-Type", "application/json"), ("Connection", "close")], b"{}")
    )

    raw = await connection.rest()

    assert raw.endswith(b"\r\n\r\n5\r\ndata:\r\n0\r\n\r\n")
    assert b"X-Sum" not in raw
    assert b"Set-Cookie" not in raw


@pytest.mark.parametrize("target", ROUTES)
async def test_a_body_that_ends_by_closing_is_whole_if_it_says_so(
    target: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Old servers and simple ones send no length; a finished stream is a finished stream."""
    head = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    upstream.will_send(head, HELLO, WORLD + DONE, CLOSE)

    response = await proxy.ask(STREAMED, target)

    assert await response.body() == STREAM
    assert response.get("transfer-encoding") == "chunked"


# HTTP/1.0


async def test_http_1_0_gets_a_stream_without_chunks(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """It does not know them; the end of the connection is the end of the stream."""
    upstream.will_send(*stream())

    response = await proxy.send("POST", PASSED, [("Connection", "keep-alive")], b"{}", version="1.0")

    assert await response.body() == STREAM
    assert response.get("transfer-encoding") is None
    assert response.get("connection") == "close"


@pytest.mark.parametrize(("asked", "told"), [("keep-alive", "keep-alive"), ("close", "close"), (None, "close")])
async def test_http_1_0_keeps_its_connection_if_it_asks_to(
    asked: str | None, told: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """And if the answer has a length."""
    upstream.will_send(plain(ANSWER))
    connection = await proxy.connect()
    for _ in range(2 if told == "keep-alive" else 1):
        fields = [("Connection", asked)] if asked else []
        connection.send(request_bytes("GET", "/v1/models", fields, version="1.0"))
        response = await connection.response()
        assert await response.body() == ANSWER
        assert response.get("connection") == told

    if told == "close":
        assert await connection.rest() == b""


# No slower than it comes, no faster than it is taken


def reset_on_close(client: Connection) -> None:
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("target", ROUTES)
async def test_a_client_that_takes_nothing_is_let_go(
    target: str, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """After `server.write_timeout`, together with the upstream's connection."""
    proxy = await start_proxy(server__write_timeout="100ms", cache__linger="0")
    upstream.will_send(sse_head(), chunk(bytes(32 * MiB)), LAST_CHUNK)
    client = await proxy.connect()
    size_buffers(client.writer.transport)
    stop_reading(client)

    client.send(request_bytes("POST", target, [("Content-Type", "application/json")], b'{"stream":true}'))

    line = await log.line()
    assert (line["outcome"], line["stored"]) == ("client_disconnected", False)
    await upstream.wait_until(lambda: upstream.connections == 0)


async def test_a_client_that_takes_nothing_has_not_heard_the_end(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Which was written, and never taken."""
    proxy = await start_proxy(server__write_timeout="100ms")
    upstream.will_send(sse_head(), chunk(bytes(32 * MiB) + b"\n\n" + DONE), LAST_CHUNK)
    client = await proxy.connect()
    size_buffers(client.writer.transport)
    stop_reading(client)

    fields = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    client.send(request_bytes("POST", CHAT, fields, b'{"stream":true}'))

    assert (await log.line())["outcome"] == "client_disconnected"


async def test_a_client_that_takes_not_even_the_rest_is_let_go(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Also where that is so little that nobody has had to wait for it."""
    proxy = await start_proxy(server__write_timeout="100ms")
    upstream.will_send(plain(bytes(60_000)))
    client = await connect_with_little_room(proxy)

    client.send(request_bytes("GET", "/v1/models"))

    assert (await log.line())["outcome"] == "client_disconnected"
    await until(lambda: not served(proxy))
    await client.close()


async def test_silence_is_not_measured_while_it_is_the_client_that_does_not_read(
    start_proxy: StartProxy, by_hand: UpstreamByHand
) -> None:
    """`upstream.idle_timeout` is for the upstream, which has sent all that would go."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url, upstream__idle_timeout="100ms")
    slow, silent = await proxy.connect(), await proxy.connect()
    size_buffers(slow.writer.transport)
    stop_reading(slow)
    slow.send(request_bytes("GET", "/v1/files/large"))
    link = await by_hand.accepted()
    await link.head()
    link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (32 * MiB) + bytes(32 * MiB))
    await quiet(link.writer.transport.get_write_buffer_size)

    silent.send(request_bytes("GET", "/v1/files/none"))
    other = await by_hand.accepted()
    await other.head()
    other.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
    await (await silent.response()).body_broken_off()
    read_on(slow)

    assert len(await (await slow.response()).body()) == 32 * MiB


# Whoever leaves


MOMENTS: dict[str, tuple[Sequence[Part], bytes]] = {
    "before the head": ((), b""),
    "between the head and the first frame": ((sse_head(),), b""),
    "between two frames": ((sse_head(), chunk(HELLO)), HELLO),
    "within a chunk": ((sse_head(), chunk(HELLO), chunk(WORLD)[:-9]), HELLO + WORLD[:-7]),
}


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize("rudely", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_nobody_streams_to_a_client_that_has_left(
    *, moment: str, rudely: bool, target: str, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Whenever it leaves: the upstream's connection is let go, one line is logged, nothing is left behind."""
    proxy = await start_proxy(cache__linger="0")
    sent, arrives = MOMENTS[moment]
    barrier = Barrier()
    upstream.will_send(*sent, barrier)
    client = await proxy.connect()
    client.send(request_bytes("POST", target, [("Content-Type", "application/json")], b'{"stream":true}'))
    await barrier.reached.wait()
    if sent:
        response = await client.response()
        while b"".join(response.chunks) != arrives:
            await response.next_chunk()

    if rudely:
        reset_on_close(client)
    client.writer.transport.abort()

    line = await log.line()
    assert (line["outcome"], line["stored"]) == ("client_disconnected", False)
    await upstream.wait_until(lambda: upstream.connections == 0)
    assert upstream.requests_seen == 1


@pytest.mark.parametrize("target", ROUTES)
async def test_a_client_that_leaves_in_the_middle_of_a_write_is_missed(
    target: str, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """While the proxy waits for it to take what there is."""
    proxy = await start_proxy(cache__linger="0")
    upstream.will_send(sse_head(), chunk(bytes(32 * MiB)), LAST_CHUNK)
    client = await proxy.connect()
    size_buffers(client.writer.transport)
    stop_reading(client)
    client.send(request_bytes("POST", target, [("Content-Type", "application/json")], b'{"stream":true}'))
    await until(lambda: any(connection.writing_paused for connection in served(proxy)))

    client.writer.transport.abort()

    assert (await log.line())["outcome"] == "client_disconnected"
    await upstream.wait_until(lambda: upstream.connections == 0)


async def test_a_client_may_leave_before_there_is_a_connection(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Its request waits for its turn, and is not sent once the client has gone."""
    proxy = await start_proxy(upstream__max_connections=1, cache__linger="0")
    barrier = Barrier()
    upstream.will_send(barrier, plain(ANSWER))
    first, second = await proxy.connect(), await proxy.connect()
    first.send(request_bytes("GET", "/v1/models/first"))
    await barrier.reached.wait()
    second.send(request_bytes("GET", "/v1/models/second"))
    await until(lambda: proxy.app._traffic.active == 2)

    second.writer.transport.abort()
    assert (await log.line())["outcome"] == "client_disconnected"
    barrier.release()

    assert await (await first.response()).body() == ANSWER
    assert upstream.requests_seen == 1


@pytest.mark.parametrize("target", ROUTES)
async def test_a_client_may_leave_in_the_middle_of_its_upload(
    target: str, by_hand: UpstreamByHand, start_proxy: StartProxy, log: Log
) -> None:
    """The upstream never sees a complete request, and on a cached route none at all."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    client = await proxy.connect()
    fields = b"Content-Type: application/json\r\nContent-Length: 100\r\n"
    client.send(f"POST {target} HTTP/1.1\r\nHost: proxy.test\r\n".encode() + fields + b'\r\n{"model"')
    await until(lambda: proxy.app._traffic.active == 1)
    link = await by_hand.accepted() if target == PASSED else None
    if link is not None:
        await link.head()
        assert await link.read(8) == b'{"model"'

    client.writer.transport.abort()

    assert (await log.line())["outcome"] == "client_disconnected"
    if link is not None:
        assert await link.rest() == b""
    assert len(by_hand.links) == (1 if link else 0)


async def test_the_next_request_is_served_as_if_nothing_had_been(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Those who have left take nothing with them."""
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier)
    upstream.will_send(*stream())
    response = await proxy.ask(STREAMED, PASSED)
    await response.next_chunk()
    await response.leave()

    again = await proxy.ask(STREAMED, PASSED)

    assert await again.body() == STREAM
    assert await (await proxy.ask({**PROMPT, "n": 1}, PASSED)).body() == STREAM
