"""Heads of requests that are too large, too slow, or none at all: each gets a clear answer, and its connection ends."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from proxy.connection import ClientConnection
from tests.by_hand import UpstreamByHand, quiet, served
from tests.commands import connect, running
from tests.conftest import Log, StartProxy
from tests.exchanges import until
from tests.harness import (
    CHAT,
    LAST_CHUNK,
    Barrier,
    Connection,
    Proxy,
    Response,
    ScriptedUpstream,
    chunk,
    plain,
)
from tests.raw import LIST, MODELS, PASSED, ROUTES, MiB, refused, request, still_serves

FIELDS = ["connection", "content-length", "content-type", "date", "x-reprise-id"]
"""What an answer to what could not be read has, and nothing else."""


def with_fields(*fields: bytes) -> bytes:
    return request("GET /v1/models HTTP/1.1", *fields)


async def refused_and_closed(connection: Connection, status: int, code: str) -> Response:
    """The whole of what the client hears, to the end of its connection."""
    response = await connection.response()
    assert sorted(name.lower() for name, _ in response.headers) == FIELDS
    assert response.get("connection") == "close"
    await refused(response, status, code)
    assert await connection.rest() == b""
    return response


# What is no HTTP

NOISE = {
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(range(200)),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "SSH": b"SSH-2.0-OpenSSH_9.9\r\n",
    "SMTP": b"EHLO mail.test\r\n",
    "SOCKS": b"\x05\x01\x00",
    "NULs": bytes(100),
    "all bytes": bytes(range(256)),
    "a header first": b"Host: proxy.test\r\n\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: proxy.test\r\n\r\n",
    "a method of odd letters": MODELS.replace(b"GET", b"G\xc3\x89T"),
    "a method of many letters": MODELS.replace(b"GET", b"GET" * 100_000),
    "no version": MODELS.replace(b" HTTP/1.1", b""),
    "a version of many digits": MODELS.replace(b"HTTP/1.1", b"HTTP/1.11"),
    "a version of other letters": MODELS.replace(b"HTTP", b"http"),
    "a version without a point": MODELS.replace(b"HTTP/1.1", b"HTTP/1"),
}


@pytest.mark.parametrize("form", NOISE)
async def test_what_is_no_http_gets_an_answer_that_is(
    form: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """In HTTP/1.1 and in our form, with an id that is in the log, and nothing in it of what else serves here."""
    connection = await proxy.connect()

    connection.send(NOISE[form])

    response = await refused_and_closed(connection, 400, "bad_request")
    line = await log.line()
    assert (line["id"], line["outcome"]) == (response.get("x-reprise-id"), "rejected")
    assert upstream.connections_seen == 0
    await still_serves(proxy, upstream)


async def test_the_answer_to_noise_is_http_1_1(proxy: Proxy) -> None:
    """Whatever version was spoken; that of the parser's own error pages is 1.0."""
    connection = await proxy.connect()

    connection.send(NOISE["TLS"])

    assert (await connection.reader.readline()) == b"HTTP/1.1 400 Bad Request\r\n"


@pytest.mark.parametrize("size", [1, 100, 1000])
async def test_what_came_before_noise_is_answered(size: int, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """And what comes behind it is not, however much of it there is."""
    barrier = Barrier()
    upstream.will_send(barrier, plain(LIST))
    connection = await proxy.connect()
    connection.send(MODELS)
    await barrier.reached.wait()

    connection.send(NOISE["all bytes"] * size + MODELS)
    barrier.release()

    assert await (await connection.response()).body() == LIST
    await refused_and_closed(connection, 400, "bad_request")
    assert upstream.requests_seen == 1


# Heads that are too large

TOO_LONG = MODELS.replace(b"models", b"m" * 16_384)
TOO_LARGE = {
    "one field": with_fields(b"X-A: " + b"a" * 32_769),
    "one name": with_fields(b"X" * 32_769 + b": 1"),
    "many fields": with_fields(*[b"X-A: 1"] * 128),
    "thousands of fields": with_fields(*[b"X-%d: 1" % number for number in range(5000)]),
    "all of them together": with_fields(*[b"X-A: " + b"a" * 1000] * 66),
    "a field that does not end": MODELS[:-2] + b"X-A: " + b"a" * MiB,
    "fields that do not end": MODELS[:-2] + b"X-A: 1\r\n" * 10_000,
    "long fields that do not end": MODELS[:-2] + (b"X-A: " + b"a" * 1000 + b"\r\n") * 100,
    "a target and fields": with_fields(*[b"X-A: " + b"a" * 1000] * 60).replace(b"models", b"m" * 10_000),
}


async def test_too_long_a_target_is_refused(proxy: Proxy, upstream: ScriptedUpstream, log: Log) -> None:
    """414, with the bound."""
    for target in (TOO_LONG, TOO_LONG.replace(b"m?", b"?"), TOO_LONG[:-20] + b"m" * MiB):
        connection = await proxy.connect()
        connection.send(target)
        error = (await (await connection.response()).json())["error"]
        assert isinstance(error, dict)
        assert error["code"] == "target_too_long"
        assert "16,384" in error["message"]
        assert await connection.rest() == b""

    assert (await log.line())["status"] == 414
    assert upstream.connections_seen == 0
    await still_serves(proxy, upstream)


@pytest.mark.parametrize("form", TOO_LARGE)
async def test_too_large_a_head_is_refused(form: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log) -> None:
    """431 as soon as it is too large, whether by one field, by their number, or by all of them together."""
    connection = await proxy.connect()

    connection.send(TOO_LARGE[form])

    await refused_and_closed(connection, 431, "head_too_large")
    assert (await log.line())["error"] == "head_too_large"
    assert upstream.connections_seen == 0
    await still_serves(proxy, upstream)


async def test_a_refusal_of_a_head_says_what_may_be_sent(proxy: Proxy) -> None:
    """All three bounds, so that nobody has to try."""
    connection = await proxy.connect()
    connection.send(TOO_LARGE["many fields"])

    error = (await (await connection.response()).json())["error"]

    assert isinstance(error, dict)
    for bound in ("128", "32,768", "65,536"):
        assert bound in error["message"]


async def test_a_head_within_the_bounds_is_passed_on(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """As long as each of them allows, and whole."""
    upstream.will_send(plain(LIST))
    large = [
        with_fields(b"X-A: " + b"a" * 32_000),
        with_fields(*[b"X-A: " + b"a" * 400] * 120),
        MODELS.replace(b"models", b"models?" + b"m" * 16_300),
    ]
    for raw in large:
        connection = await proxy.connect()
        connection.send(raw)
        assert (await connection.response()).status == 200

    assert [len(received.header("x-a")) for received in upstream.received] == [1, 120, 0]
    assert upstream.received[0].header("x-a") == ["a" * 32_000]
    assert upstream.received[2].request_line == "GET /v1/models?" + "m" * 16_300 + " HTTP/1.1"


async def test_too_large_a_head_behind_others_is_refused_in_its_turn(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Those before it are answered, those behind it are not."""
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()

    connection.send(MODELS * 2 + TOO_LARGE["all of them together"] + MODELS)

    for _ in range(2):
        assert await (await connection.response()).body() == LIST
    await refused_and_closed(connection, 431, "head_too_large")
    assert upstream.requests_seen == 2


@pytest.mark.parametrize("piece", [NOISE["all bytes"], b"X-A: " + b"a" * 1000 + b"\r\n"])
async def test_what_follows_a_refused_head_is_not_kept(piece: bytes, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """While it waits for its turn; however much comes, it is one refusal."""
    barrier = Barrier()
    upstream.will_send(barrier, plain(LIST))
    connection = await proxy.connect()
    connection.send(MODELS)
    await barrier.reached.wait()
    end = await connected(proxy)

    connection.send(MODELS[:-2])
    for _ in range(8):
        connection.send(piece * 70)
        await quiet(lambda: len(end._messages))

    assert len(end._messages) == 1
    barrier.release()
    assert (await connection.response()).status == 200


async def test_a_body_of_a_refused_head_is_no_request(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """It is read for a while, and forgotten."""
    body = MODELS * 1000
    connection = await proxy.connect()

    fields = [b"X-A: " + b"a" * 1000] * 66
    connection.send(request(f"POST {PASSED} HTTP/1.1", *fields, b"Content-Length: %d" % len(body), body=body))

    await refused_and_closed(connection, 431, "head_too_large")
    assert upstream.connections_seen == 0


async def test_a_refusal_of_a_head_reaches_who_is_still_sending_it(proxy: Proxy) -> None:
    """Closed at once, the connection would be reset, and the answer lost with it."""
    connection = await proxy.connect()
    connection.send(MODELS[:-2] + b"X-A: ")

    for _ in range(16):
        connection.send(b"a" * MiB)
        await connection.writer.drain()

    await refused_and_closed(connection, 431, "head_too_large")


# Heads that are slow


async def test_a_head_that_drips_times_out(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """408, `server.read_timeout` after its first byte: each byte more does not buy it time."""
    proxy = await start_proxy(server__read_timeout="200ms")
    connection = await proxy.connect()

    async def drip() -> None:
        connection.send(MODELS[:-2] + b"X-A: ")
        while True:
            connection.send(b"a")
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    try:
        await refused_and_closed(connection, 408, "request_timeout")
    finally:
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
    await still_serves(proxy, upstream)


async def test_a_head_that_has_begun_is_not_idle(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """It has its own time, even where that of an idle connection is over before."""
    upstream.will_send(plain(LIST))
    proxy = await start_proxy(server__keepalive_timeout="100ms", server__read_timeout="30s")
    connection = await proxy.connect()
    connection.send(MODELS[:10])
    end = await connected(proxy)
    await until(lambda: end._head_is_late is not None)

    await until(lambda: end._keepalive_handle is None)
    connection.send(MODELS[10:])

    assert await (await connection.response()).body() == LIST
    assert await connection.rest() == b"", "idle now, and closed"


async def test_empty_lines_are_no_beginning_of_a_head(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """Some old clients send one behind a body, and then they are idle (RFC 9112 section 2.2)."""
    upstream.will_send(plain(LIST))
    proxy = await start_proxy(server__read_timeout="10ms", server__keepalive_timeout="200ms")
    connection = await proxy.connect()
    connection.send(MODELS)
    await (await connection.response()).body()

    connection.send(b"\r\n")

    assert await connection.rest() == b"", "closed like any that is idle, without a word"


@pytest.mark.parametrize("size", [2, MiB])
async def test_the_rest_of_a_body_is_no_beginning_of_a_head(
    size: int, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """However large it is: behind it the connection is idle."""
    upstream.will_send(plain(LIST))
    proxy = await start_proxy(server__read_timeout="100ms", server__keepalive_timeout="300ms")
    connection = await proxy.connect()
    for _ in range(2):
        connection.send(request(f"POST {PASSED} HTTP/1.1", b"Content-Length: %d" % size))
        await until(lambda: proxy.app._traffic.active == 1)
        connection.send(bytes(size))
        assert await (await connection.response()).body() == LIST

    assert await connection.rest() == b"", "closed like any that is idle, without a word"


# Expectations


@pytest.mark.parametrize("value", [b"200-ok", b"100-continue, x=1", b"100-continued", b"x", b"100-continue;q=1"])
@pytest.mark.parametrize("target", [*ROUTES, "/healthz"])
async def test_what_nobody_here_can_meet_is_refused(
    value: bytes, target: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """417 before the body is read; a client that gets no answer would wait with it for ever."""
    connection = await proxy.connect()

    connection.send(request(f"POST {target} HTTP/1.1", b"Content-Length: 5", b"Expect: " + value))

    await refused(await connection.response(), 417, "expectation_failed")
    assert await connection.rest() == b""
    assert upstream.connections_seen == 0
    assert (await log.line())["outcome"] == "rejected"
    await still_serves(proxy, upstream)


@pytest.mark.parametrize("fields", [(b"Expect: 100-continue, 100-Continue",), (b"Expect: 100-continue",) * 2])
async def test_an_expectation_may_be_said_twice(
    fields: tuple[bytes, ...], proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """And the client is invited once."""
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()
    connection.send(request(f"POST {CHAT} HTTP/1.1", b"Content-Length: 2", *fields))
    assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"

    connection.send(b"{}")

    assert (await connection.response()).status == 200
    assert b"expect" not in upstream.received[0].head.lower()


# What follows a refusal


@pytest.mark.parametrize(
    ("beginning", "status"),
    [
        (request(f"POST {CHAT} HTTP/1.1", b"Content-Length: 900000000000"), 413),
        (request(f"POST {CHAT} HTTP/1.1", b"Transfer-Encoding: chunked", b"Expect: x"), 417),
        (request("POST /nowhere HTTP/1.1", b"Content-Length: 900000000000"), 404),
        (NOISE["TLS"], 400),
        (TOO_LARGE["many fields"], 431),
        (TOO_LONG, 414),
    ],
)
async def test_who_sends_for_ever_is_cut_off(
    beginning: bytes, status: int, start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows a refusal is forgotten as it comes, and after a while the connection is gone."""
    monkeypatch.setattr("proxy.app._LINGERING_S", 0.3)
    proxy = await start_proxy()
    connection = await proxy.connect()
    connection.send(beginning)
    assert (await connection.response()).status == status
    end = await connected(proxy)

    sent = 0
    with contextlib.suppress(ConnectionError):
        while True:
            connection.send(b"0123456789abcdef" * 4096)
            await connection.writer.drain()
            sent += 1
            assert len(end._messages) == 0

    assert sent > 10, "it was read for a while"
    await until(lambda: not served(proxy))


async def test_what_follows_the_last_answer_is_not_read_into_memory(
    by_hand: UpstreamByHand, start_proxy: StartProxy
) -> None:
    """Yet it is read, also where reading had been paused: the client is to come to its end, and to the answer."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    connection = await proxy.connect()
    connection.send(request(f"POST {PASSED} HTTP/1.1", b"Content-Length: 900000000000") + bytes(64 * MiB))
    link = await by_hand.accepted()
    end = await connected(proxy)
    await until(lambda: end._reading_paused)
    link.send(plain(b"enough", status=b"413 Payload Too Large"))

    assert (await connection.response()).status == 413
    await connection.writer.drain()

    assert end._newest_body._size <= MiB


async def test_an_answer_that_ends_with_the_connection_has_its_end_at_once(
    by_hand: UpstreamByHand, start_proxy: StartProxy
) -> None:
    """The client is still sending: it need not wait until all of that has been forgotten."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    connection = await proxy.connect()
    connection.send(request("POST /v1/files HTTP/1.0", b"Content-Length: 1000", body=b"{}"))
    link = await by_hand.accepted()
    await link.head()

    link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"enough") + LAST_CHUNK)

    head, _, body = (await connection.rest()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b"enough"
    assert len(served(proxy)) == 1, "lingering"


async def connected(proxy: Proxy) -> ClientConnection:
    """The proxy's end of the one connection that there is."""
    await until(lambda: len(served(proxy)) == 1)
    (end,) = served(proxy)
    assert isinstance(end, ClientConnection)
    return end


async def test_half_a_head_that_comes_with_the_connection_times_out(tmp_path: Path) -> None:
    """Also where it is there before the proxy waits for it, as it is on the event loop that the program runs on."""
    async with running("--port", 0, at=tmp_path, server__read_timeout="100ms") as command:
        connection = await connect((await command.line()).removeprefix("export OPENAI_BASE_URL="))
        connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.test\r\nContent-Le")

        assert (await connection.response()).status == 408
        await connection.close()
