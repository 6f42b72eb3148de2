"""Clients that keep to no manners: they ask ahead, close one half, come byte by byte, or send whatever they like."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from proxy import events
from proxy.app import App
from proxy.connection import ClientConnection
from tests.by_hand import host_of, quiet, served, size_buffers
from tests.conftest import Log, StartProxy
from tests.exchanges import until, words
from tests.harness import (
    CHAT,
    DONE,
    HELLO,
    LAST_CHUNK,
    STREAM,
    WORLD,
    Barrier,
    Connection,
    Proxy,
    Response,
    ScriptedUpstream,
    chunk,
    plain,
    request_bytes,
    settings,
    sse_head,
    stream,
)
from tests.raw import LIST, MODELS, request, still_serves

AHEAD = 32
"""How many requests are read ahead of the one that is being answered."""
HEALTH = request_bytes("GET", "/healthz")
NOWHERE = request_bytes("GET", "/nowhere")


# Requests that are sent ahead


async def slow_stream(proxy: Proxy, upstream: ScriptedUpstream) -> tuple[Connection, Response, Barrier]:
    """A stream that waits in its middle."""
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD + DONE) + LAST_CHUNK)
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()
    connection.send(request_bytes("POST", "/v1/slow", body=b"{}"))
    response = await connection.response()
    assert await response.next_chunk() == HELLO
    return connection, response, barrier


async def test_a_thousand_requests_ahead_are_answered_in_their_order(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Behind a stream that takes its time; only some of them are taken in before it has ended."""
    connection, first, barrier = await slow_stream(proxy, upstream)
    (end,) = served(proxy)
    assert isinstance(end, ClientConnection)

    connection.send((HEALTH + NOWHERE + MODELS + HEALTH) * 250)

    assert await quiet(lambda: len(end._messages)) == AHEAD
    barrier.release()
    assert await first.body() == WORLD + DONE
    for _ in range(250):
        for status, beginning in ((200, b'{"status"'), (404, b'{"error"'), (200, LIST), (200, b'{"status"')):
            response = await connection.response()
            assert response.status == status
            assert (await response.body()).startswith(beginning)
    assert upstream.requests_seen == 251


async def test_what_is_sent_ahead_waits_with_its_client(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """More than the kernel holds is not read: a client can't put its megabytes here while nobody serves them."""
    connection, first, barrier = await slow_stream(proxy, upstream)
    size_buffers(connection.writer.transport)
    piece, sent = HEALTH * 2000, 0

    async def send_ahead() -> None:
        nonlocal sent
        for _ in range(200):
            connection.send(piece)
            await connection.writer.drain()
            sent += len(piece)

    sending = asyncio.create_task(send_ahead())
    assert await quiet(lambda: sent) < 200 * len(piece) / 2
    sending.cancel()
    await first.leave()
    barrier.release()  # where nothing is read, a client's leaving is noticed only by writing to it
    await asyncio.gather(sending, return_exceptions=True)
    await until(lambda: not served(proxy))


async def test_large_bodies_ahead_wait_with_their_client(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """What is read of them is bounded, too."""
    connection, first, barrier = await slow_stream(proxy, upstream)
    (end,) = served(proxy)
    assert isinstance(end, ClientConnection)

    connection.send(request_bytes("POST", "/v1/files", body=bytes(8 * 2**20)) * 4)

    await until(lambda: end._reading_paused)
    assert await quiet(lambda: sum(body._size for _, body in end._messages)) < 2**20
    await first.leave()
    barrier.release()
    await until(lambda: not served(proxy))


# Halves of connections


@pytest.mark.parametrize("target", [CHAT, "/v1/files"])
async def test_a_client_that_closes_its_half_is_gone(
    target: str, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """It can't be told from one that has left, and its answer would be paid for: it is broken off."""
    proxy = await start_proxy(cache__linger="0")
    upstream.will_send(sse_head(), chunk(HELLO), Barrier())
    connection = await proxy.connect()
    connection.send(request_bytes("POST", target, [("Content-Type", "application/json")], b'{"stream":true}'))
    response = await connection.response()
    assert await response.next_chunk() == HELLO

    connection.writer.write_eof()

    assert await connection.rest() == b""
    assert (await log.line())["outcome"] == "client_disconnected"
    await upstream.wait_until(lambda: upstream.connections == 0)
    await until(lambda: not served(proxy))


@pytest.mark.parametrize(
    "beginning", [b"", b"GET /v1", MODELS[:-2], request("POST /v1/files HTTP/1.1", b"Content-Length: 9", body=b"{}")]
)
async def test_a_client_that_closes_its_half_too_early_is_let_go(
    beginning: bytes, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """With whatever it has not sent; nothing waits for the rest."""
    connection = await proxy.connect()
    connection.send(beginning)

    connection.writer.write_eof()

    assert await connection.rest() == b""
    await until(lambda: not served(proxy))
    await upstream.wait_until(lambda: upstream.connections == 0)


async def test_a_client_that_reads_no_more_has_been_answered(
    proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Its half is closed on its side alone, and TCP has no word for that."""
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()
    connection.writer.get_extra_info("socket").shutdown(socket.SHUT_RD)

    connection.send(MODELS)

    line = await log.line()
    assert (line["status"], line["bytes"]) == (200, len(LIST))


async def test_a_request_may_come_byte_by_byte(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Its head, its chunks, and the next one on the same connection; to the upstream it is whole."""
    upstream.will_send(*stream())
    connection = await proxy.connect()
    fields = [b"Content-Type: application/json", b"Transfer-Encoding: chunked"]
    chunked = request(f"POST {CHAT} HTTP/1.1", *fields, body=chunk(b'{"stream"') + chunk(b":true}") + LAST_CHUNK)

    for byte in HEALTH + chunked:
        connection.send(bytes([byte]))
        await asyncio.sleep(0)

    assert await (await connection.response()).body() == b'{"status":"ok"}'
    assert await (await connection.response()).body() == STREAM
    assert upstream.received[0].body == b'{"stream":true}'
    assert upstream.received[0].header("content-length") == ["15"]


@pytest.mark.parametrize("method", ["M-SEARCH", "PROPFIND", "QUERY", "PURGE", "LINK"])
async def test_a_method_that_means_nothing_here_is_passed_on(
    method: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """What is not cached is the upstream's affair; on a cached route only POST is."""
    upstream.will_send(plain(LIST))

    assert await words(proxy.send(method, CHAT, body=b"{}"), proxy.send(method, CHAT, body=b"{}")) == ["BYPASS"] * 2

    assert [received.request_line for received in upstream.received] == [f"{method} {CHAT} HTTP/1.1"] * 2


# Whatever they like

ASKED = [
    MODELS,
    request_bytes("POST", CHAT, [("Content-Type", "application/json"), ("X-Reprise-Sample", "1")], b'{"stream":false}'),
    request(
        f"POST {CHAT} HTTP/1.1", b"Transfer-Encoding: chunked", b"Cache-Control: no-store", body=b"2\r\n{}\r\n0\r\n\r\n"
    ),
    request(
        "PUT /v1/files/a%2Fb?c=d HTTP/1.1", b"Connection: x-a, close", b"X-A: 1", b"Content-Length: 5", body=b"12345"
    ),
    request("POST /v1/files HTTP/1.1", b"Expect: 100-continue", b"Content-Length: 2", body=b"{}") + HEALTH,
    request("DELETE /v1/files/1 HTTP/1.0", b"Connection: keep-alive") + MODELS,
    request("GET /v1/realtime HTTP/1.1", b"Connection: upgrade", b"Upgrade: websocket") + NOWHERE,
]
SPLINTERS = [
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b" ", b"\t", b"\x0b", b":", b",", b";", b"/", b"..", b"%", b"0", b"-"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: evil.test\r\n", b"0\r\n\r\n", b"HTTP/1.0"),
    *(
        b"\xff",
        b"\xc3\xa9",
        b"a" * 40_000,
        b"X-A: 1\r\n" * 130,
        b"GET /v1/x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"http://evil.test",
    ),
]


class Change(NamedTuple):
    """What becomes of a piece of a request: its place is given in thousandths."""

    kind: str
    place: int
    length: int
    splinter: bytes

    def made(self, raw: bytes) -> bytes:
        start = len(raw) * self.place // 1000
        end = start + self.length
        if self.kind == "insert":
            return raw[:start] + self.splinter + raw[start:]
        if self.kind == "double":
            return raw[:end] + raw[start:]
        return raw[:start] + (self.splinter if self.kind == "replace" else b"") + raw[end:]


CHANGES = st.builds(
    Change,
    st.sampled_from(["insert", "remove", "double", "replace"]),
    st.integers(0, 1000),
    st.integers(1, 12),
    st.sampled_from(SPLINTERS) | st.binary(min_size=1, max_size=3),
)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A good request that somebody has had their hands on."""
    raw = draw(st.sampled_from(ASKED))
    for change in draw(st.lists(CHANGES, min_size=1, max_size=3)):
        raw = change.made(raw)
    return raw


_HEAD = re.compile(
    rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t -~]*\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t -~\x80-\xff]*\r\n)*)\r\n"
)
_LENGTH = re.compile(rb"content-length: ([0-9]+)\r\n", re.IGNORECASE)
_REQUEST_LINE = re.compile(r"[A-Z-]+ /v1/[!-~]* HTTP/1\.1")
_REQUEST_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t -~\x80-\xff]*")


def statuses(heard: bytes) -> list[int]:
    """Those of a row of whole answers, and nothing in front of, between or behind them."""
    found = []
    while heard:
        head = _HEAD.match(heard)
        assert head, heard[:200]
        length = _LENGTH.search(head[2])
        body_bytes = int(length[1]) if length else 0
        assert length or head[1] == b"100", head
        assert len(heard) >= head.end() + body_bytes
        heard = heard[head.end() + body_bytes :]
        found.append(int(head[1]))
    return found


def well_formed(upstream: ScriptedUpstream) -> None:
    """Whether each request that arrived there can be read in one way only, and is meant for this upstream."""
    for received in upstream.received:
        assert _REQUEST_LINE.fullmatch(received.request_line), received
        for field in received.head[:-4].split(b"\r\n")[1:]:
            assert _REQUEST_FIELD.fullmatch(field), received
        assert received.header("host") == [host_of(upstream).decode()]
        lengths, codings = received.header("content-length"), received.header("transfer-encoding")
        assert codings in ([], ["chunked"])
        assert len(lengths) + len(codings) <= 1
        assert all(re.fullmatch("[0-9]+", length) for length in lengths)
        assert not received.header("connection")


@asynccontextmanager
async def impatient_proxy(directory: Path) -> AsyncIterator[tuple[Proxy, ScriptedUpstream]]:
    """One that waits for nobody, so that each connection comes to its end."""
    async with ScriptedUpstream() as upstream:
        upstream.will_send(plain(LIST))
        short = {"server__read_timeout": "50ms", "server__keepalive_timeout": "50ms"}
        async with App(settings(upstream.base_url, directory, **short)) as app:
            yield Proxy(app), upstream


async def heard_of(proxy: Proxy, raw: bytes) -> bytes:
    connection = await proxy.connect()
    connection.send(raw)
    try:
        return await connection.rest()
    finally:
        await connection.close()


def test_whatever_is_sent_the_answers_are_http(tmp_path: Path, log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """No answer is a fault of ours, nothing crashes, and the upstream hears only what it is meant to hear."""
    with asyncio.Runner() as runner:
        scene = impatient_proxy(tmp_path / "store")
        proxy, upstream = runner.run(scene.__aenter__())

        async def hear_all(requests: list[bytes]) -> list[bytes]:
            return await asyncio.gather(*(heard_of(proxy, raw) for raw in requests))

        @hypothesis_settings(max_examples=20, deadline=None)
        @given(st.lists(mangled(), min_size=20, max_size=20))
        def check(requests: list[bytes]) -> None:
            for raw, heard in zip(requests, runner.run(hear_all(requests)), strict=True):
                assert all(status < 500 for status in statuses(heard)), (raw, heard)
            well_formed(upstream)
            upstream.received.clear()

        check()
        runner.run(still_serves(proxy, upstream))
        runner.run(proxy.close())
        runner.run(scene.__aexit__(None, None, None))
    assert not log.lines(events.CRASHED)
    assert not caplog.records, "of asyncio and aiohttp"
