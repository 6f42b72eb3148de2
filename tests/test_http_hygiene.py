"""HTTP/1 as clients speak it, well or badly: connections that are kept, requests that are refused, and what follows."""

import asyncio
import contextlib

import pytest

from tests.by_hand import UpstreamByHand
from tests.conftest import Log, StartProxy
from tests.exchanges import until
from tests.harness import (
    CHAT,
    DONE,
    HELLO,
    LAST_CHUNK,
    STREAM,
    WORLD,
    Barrier,
    Proxy,
    ScriptedUpstream,
    chunk,
    plain,
    request_bytes,
    sse_head,
    stream,
)
from tests.raw import LIST, MODELS, PASSED, ROUTES, refused, request, still_serves

# What could be meant to end elsewhere


def post(*fields: bytes, body: bytes = b"", target: str = PASSED) -> bytes:
    return request(f"POST {target} HTTP/1.1", *fields, body=body)


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


TWO_READINGS = {
    "a length and chunks": post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=LAST_CHUNK),
    "chunks and a length": post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=LAST_CHUNK),
    "two lengths": post(b"Content-Length: 2", b"Content-Length: 3", body=b"{}"),
    "one length twice": post(b"Content-Length: 2", b"Content-Length: 2", body=b"{}"),
    "one length twice in a list": post(b"Content-Length: 2, 2", body=b"{}"),
    "a length with a sign": post(b"Content-Length: +2", body=b"{}"),
    "a negative length": post(b"Content-Length: -1", body=b"{}"),
    "a hexadecimal length": post(b"Content-Length: 0x2", body=b"{}"),
    "a length in other digits": post(b"Content-Length: \xd9\xa2", body=b"{}"),
    "a length with a space in it": post(b"Content-Length: 1 2", body=b"{}"),
    "an empty length": post(b"Content-Length: ", body=b"{}"),
    "an endless length": post(b"Content-Length: 99999999999999999999999", body=b"{}"),
    "the longest length": post(b"Content-Length: 18446744073709551615", body=b"{}"),
    "a length of an exabyte": post(b"Content-Length: 1000000000000000000", body=b"{}"),
    "a length and a comma": post(b"Content-Length: 2,", body=b"{}"),
    "a length in exponents": post(b"Content-Length: 2e0", body=b"{}"),
    "a length with a point": post(b"Content-Length: 2.0", body=b"{}"),
    "a length in quotes": post(b'Content-Length: "2"', body=b"{}"),
    "a length and a vertical tab": post(b"Content-Length: 2\x0b", body=b"{}"),
    "a length on a line of its own": post(b"Content-Length:\r\n 2", body=b"{}"),
    "two lengths in two spellings": post(b"Content-Length: 2", b"CONTENT-LENGTH: 2", body=b"{}"),
    "a length and chunks in a GET": request(
        "GET /v1/models HTTP/1.1", b"Content-Length: 5", b"transfer-ENCODING: Chunked", body=LAST_CHUNK
    ),
    "an unknown coding": post(b"Transfer-Encoding: xchunked", body=LAST_CHUNK),
    "a coding behind chunked": post(b"Transfer-Encoding: chunked, identity", body=LAST_CHUNK),
    "a coding before chunked": post(b"Transfer-Encoding: gzip, chunked", body=LAST_CHUNK),
    "no coding but a length": post(b"Transfer-Encoding: identity", b"Content-Length: 2", body=b"{}"),
    "an empty coding": post(b"Transfer-Encoding: ", b"Content-Length: 2", body=b"{}"),
    "chunked twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=LAST_CHUNK),
    "chunked twice in a list": post(b"Transfer-Encoding: chunked, chunked", body=LAST_CHUNK),
    "chunked with a parameter": post(b"Transfer-Encoding: chunked;a=b", body=LAST_CHUNK),
    "chunked behind a vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=LAST_CHUNK),
    "chunked on a line of its own": post(b"Transfer-Encoding:\r\n chunked", body=LAST_CHUNK),
    "chunked in HTTP/1.0": chunked(LAST_CHUNK).replace(b"HTTP/1.1", b"HTTP/1.0\r\nConnection: keep-alive"),
    "an odd coding on no route": chunked(LAST_CHUNK).replace(b"chunked", b"gzip, chunked").replace(b"/v1", b""),
    "an odd coding on a health check": chunked(LAST_CHUNK)
    .replace(b"chunked", b"gzip, chunked")
    .replace(b"POST /v1/files", b"GET /healthz"),
    "chunked behind a non-breaking space": post(b"Transfer-Encoding: \xa0chunked", body=LAST_CHUNK),
    "chunked in quotes": post(b'Transfer-Encoding: "chunked"', body=LAST_CHUNK),
    "chunked behind a comma": post(b"Transfer-Encoding: , chunked", body=LAST_CHUNK),
    "a tab before the colon": post(b"Transfer-Encoding\t: chunked", body=LAST_CHUNK),
    "a field that begins with a space": post(b" Transfer-Encoding: chunked", body=LAST_CHUNK),
    "a folded first line": MODELS.replace(b"Host:", b" X-A: 1\r\nHost:"),
    "a folded line": post(b"X-A: 1\r\n 2", b"Content-Length: 2", body=b"{}"),
    "bare line feeds": post(b"Content-Length: 2", body=b"{}").replace(b"\r\n", b"\n"),
    "one bare line feed": post(b"X-A: 1\nContent-Length: 2", body=b"{}"),
    "a carriage return before the line's end": post(b"X-A: 1\r", b"Content-Length: 2", body=b"{}"),
    "an end of bare line feeds": MODELS[:-4] + b"\n\n",
    "an end with one carriage return": MODELS[:-4] + b"\r\n\n",
    "a NUL in a name": post(b"X-\x00A: 1", b"Content-Length: 2", body=b"{}"),
    "a bare carriage return": post(b"X-A: 1\rX-B: 2", b"Content-Length: 2", body=b"{}"),
    "a NUL": post(b"X-A: 1\x00", b"Content-Length: 2", body=b"{}"),
    "a control character": post(b"X-A: 1\x01", b"Content-Length: 2", body=b"{}"),
    "a space before the colon": post(b"Content-Length : 2", body=b"{}"),
    "a name that is none": post(b": 1", b"Content-Length: 2", body=b"{}"),
    "a line without a colon": post(b"Content-Length", body=b"{}"),
    "a chunk size that is none": chunked(b"zz\r\n\r\n"),
    "a chunk size with a prefix": chunked(b"0x1\r\na\r\n" + LAST_CHUNK),
    "a chunk size with a sign": chunked(b"+1\r\na\r\n" + LAST_CHUNK),
    "an endless chunk size": chunked(b"fffffffffffffffff\r\na\r\n" + LAST_CHUNK),
    "a chunk size that wraps to 1": chunked(b"10000000000000001\r\na\r\n" + LAST_CHUNK),
    "a chunk size in other digits": chunked(b"\xd9\xa1\r\na\r\n" + LAST_CHUNK),
    "a negative chunk size": chunked(b"-1\r\na\r\n" + LAST_CHUNK),
    "an empty chunk size": chunked(b"\r\na\r\n" + LAST_CHUNK),
    "a chunk size behind a space": chunked(b" 1\r\na\r\n" + LAST_CHUNK),
    "a chunk size with an underscore": chunked(b"0_1\r\na\r\n" + LAST_CHUNK),
    "a carriage return in a chunk extension": chunked(b"1;a\rb\r\na\r\n" + LAST_CHUNK),
    "a NUL in a chunk extension": chunked(b"1;a\x00\r\na\r\n" + LAST_CHUNK),
    "a chunk without its line end": chunked(b"1\r\na" + LAST_CHUNK),
    "a chunk with half of its line end": chunked(b"1\r\na\n" + LAST_CHUNK),
    "a chunk size and a space": chunked(b"1 \r\na\r\n" + LAST_CHUNK),
    "a line feed in a chunk extension": chunked(b"1;a\nb\r\na\r\n" + LAST_CHUNK),
    "a chunk longer than its size": chunked(b"1\r\naX0\r\n\r\n"),
    "chunks with bare line feeds": chunked(b"1\na\n0\n\n"),
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "two hosts": MODELS.replace(b"Host:", b"Host: other.test\r\nHost:"),
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTP/0.9 by name": MODELS.replace(b"HTTP/1.1", b"HTTP/0.9"),
    "HTTP/1.2": MODELS.replace(b"HTTP/1.1", b"HTTP/1.2"),
    "HTTP/2.0": MODELS.replace(b"HTTP/1.1", b"HTTP/2.0"),
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an unknown method": MODELS.replace(b"GET", b"GETT"),
    "a method in lower case": MODELS.replace(b"GET", b"get"),
    "a space in the target": MODELS.replace(b"models", b"mod els"),
    "a target that is not ASCII": MODELS.replace(b"models", b"caf\xe9"),
}


@pytest.mark.parametrize("form", TWO_READINGS)
async def test_what_two_servers_could_read_differently_is_refused(
    form: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """400, and the connection is closed: nothing behind it is taken for a request, and the upstream sees none."""
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()

    connection.send(TWO_READINGS[form] + MODELS)

    await refused(await connection.response(), 400, "bad_request")
    assert await connection.rest() == b""
    assert upstream.connections_seen == 0
    line = await log.line()
    assert (line["outcome"], line["error"], line["status"]) == ("rejected", "bad_request", 400)
    await still_serves(proxy, upstream)


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize("rest", [b"zz\r\n", b"-1\r\n", b"3\r\nabcd\r\n", b"\x00"])
async def test_a_body_that_loses_its_framing_is_refused(
    rest: bytes, target: str, start_proxy: StartProxy, by_hand: UpstreamByHand, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, and not when the time for reading is over; the upstream's request is broken off, too."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    connection = await proxy.connect()
    connection.send(post(b"Transfer-Encoding: chunked", body=chunk(b"{}"), target=target))
    if target != CHAT:
        link = await by_hand.accepted()
        await link.head()
        assert await link.read(7) == chunk(b"{}")
    else:
        await until(lambda: proxy.app._traffic.active == 1)

    connection.send(rest + MODELS)

    await refused(await connection.response(), 400, "bad_request")
    assert await connection.rest() == b""
    if target != CHAT:
        assert LAST_CHUNK not in await link.rest()
    assert len(by_hand.links) == (target != CHAT)
    assert not caplog.records, "a client's mistake is no error of ours"


async def test_a_trailer_is_no_header_of_the_next_request(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Whoever may choose a body must not choose the headers of whoever shares the connection."""
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()

    connection.send(chunked(chunk(b"{}") + b"0\r\nX-Reprise-Namespace: n\r\nAuthorization: Bearer sk-EVIL\r\n\r\n"))
    connection.send(MODELS)
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        for _ in range(2):
            await (await connection.response()).body()

    assert b"sk-EVIL" not in b"".join(received.head for received in upstream.received)


# One connection, many requests


async def test_a_connection_serves_many_requests(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Streamed or not, cached or not, with a body or none."""
    connection = await proxy.connect()
    for turn in range(5):
        upstream.will_send(plain(LIST))
        connection.send(request_bytes("GET", "/v1/models"))
        assert await (await connection.response()).body() == LIST
        upstream.will_send(*stream())
        body = b'{"stream":true,"seed":%d}' % turn
        for cached in ("MISS", "HIT"):
            connection.send(request_bytes("POST", CHAT, [("Content-Type", "application/json")], body))
            response = await connection.response()
            assert (response.get("x-cache-status"), await response.body()) == (cached, STREAM)
        connection.send(request_bytes("HEAD", "/healthz"))
        assert (await connection.response("HEAD")).status == 200
        connection.send(request_bytes("GET", "/nowhere"))
        await refused(await connection.response(), 404, "unknown_route")

    ways = 1 + (proxy.app._upstream._pool is not None)
    assert upstream.connections_seen == ways, "one for cached routes and one for all others, which may be the same"


async def test_a_client_that_says_close_is_closed(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """After its answer, whatever it has sent behind its request."""
    upstream.will_send(*stream())
    connection = await proxy.connect()

    connection.send(request_bytes("GET", "/v1/files/1/content", [("Connection", "close")]))
    await upstream.wait_until(lambda: upstream.requests_seen == 1)
    connection.send(MODELS)

    response = await connection.response()
    assert response.get("connection") == "close"
    assert await response.body() == STREAM
    assert await connection.rest() == b""
    assert upstream.requests_seen == 1


async def test_pipelined_requests_are_answered_in_their_order(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """A slow stream holds up what is behind it, and is not mixed with it (RFC 9112 section 9.3.2)."""
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, chunk(WORLD + DONE) + LAST_CHUNK)
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()

    connection.send(request_bytes("POST", "/v1/slow", body=b"{}") + MODELS + request_bytes("GET", "/healthz"))

    first = await connection.response()
    assert await first.next_chunk() == HELLO
    barrier.release()
    assert await first.body() == WORLD + DONE
    assert await (await connection.response()).body() == LIST
    assert await (await connection.response()).body() == b'{"status":"ok"}'


async def test_a_pipelined_request_is_not_served_to_a_client_that_has_left(
    proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Nobody would read its answer, and somebody would pay for it."""
    barrier = Barrier()
    upstream.will_send(barrier)
    connection = await proxy.connect()
    connection.send(request_bytes("GET", "/v1/slow") + MODELS)
    await barrier.reached.wait()

    connection.writer.transport.abort()

    assert (await log.line())["outcome"] == "client_disconnected"
    await upstream.wait_until(lambda: upstream.connections == 0)
    assert upstream.requests_seen == 1


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "WebSocket, h2c", "TLS/1.3", ""])
@pytest.mark.parametrize("body", [None, b"{}"])
async def test_an_upgrade_is_declined(
    protocol: str, body: bytes | None, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """The request is served as if nobody had asked for another protocol; where the next one begins nobody could say."""
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()
    fields = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", protocol), ("HTTP2-Settings", "AAMA")]

    connection.send(request_bytes("POST", "/v1/realtime", fields, body) + MODELS)

    response = await connection.response()
    assert (response.status, response.get("connection"), await response.body()) == (200, "close", LIST)
    assert await connection.rest() == b""
    (received,) = upstream.received
    assert (received.header("upgrade"), received.header("http2-settings")) == ([], [])
    assert received.body == (body or b"")


async def test_empty_lines_before_a_request_are_skipped(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """As some old clients send them behind a body (RFC 9112 section 2.2)."""
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()

    connection.send(b"\r\n\r\n" + MODELS)

    assert (await connection.response()).status == 200


async def test_a_head_may_come_byte_by_byte(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """TCP knows no lines."""
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()

    for byte in MODELS:
        connection.send(bytes([byte]))
        await asyncio.sleep(0)

    assert (await connection.response()).status == 200


async def test_nothing_follows_an_answer_that_is_out(
    proxy: Proxy, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails behind it: a second head would be read as the answer to the next request, or as more body."""

    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("proxy.gateway.Gateway._finish", fail)
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()

    connection.send(MODELS + MODELS)

    assert await (await connection.response()).body() == LIST
    assert await connection.rest() == b""


# Not a route, not a method, not a target


@pytest.mark.parametrize("target", ["/", "/v1", "/v2/models", "/V1/models", "/v1x/models", "/healthz/", "/admin"])
async def test_what_is_not_the_upstreams_api_is_not_found(
    target: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """404 in our form; the upstream hears nothing of it."""
    await refused(await proxy.send("GET", target), 404, "unknown_route")

    assert upstream.connections_seen == 0


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("TRACE", "/v1/models", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("CONNECT", "127.0.0.1:80", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/readyz", "GET, HEAD"),
    ],
)
async def test_what_a_route_does_not_take_is_not_allowed(
    method: str, target: str, allow: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """405, and what it does take."""
    response = await proxy.send(method, target)

    assert response.get("allow") == allow
    await refused(response, 405, "method_not_allowed")
    assert upstream.connections_seen == 0


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/v1/models",
        "//evil.test/v1/models",
        "/v1//evil.test",
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1/..%2fadmin",
        "/v1/%252e%252e/admin",
        "/v1/.",
        "/v1/a\\b",
        "/v1/a%5cb",
        "/v1/a%00",
        "/v1/a%0d%0aX-Injected:1",
        "/v1/models#fragment",
        "*",
    ],
)
async def test_a_target_that_is_not_plainly_ours_is_refused(
    target: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """The upstream's address is never a client's choice."""
    await refused(await proxy.send("OPTIONS", target), 400, "bad_request")

    assert upstream.connections_seen == 0
    await still_serves(proxy, upstream)


async def test_an_error_to_head_is_a_head(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """It says how long its body would be, and has none."""
    connection = await proxy.connect()
    connection.send(request_bytes("HEAD", "/nowhere") + request_bytes("GET", "/nowhere"))

    first, second = await connection.response("HEAD"), await connection.response()

    assert (first.status, second.status) == (404, 404)
    assert first.get("content-length") == second.get("content-length")
    await refused(second, 404, "unknown_route")
