"""What comes is not an answer, or not the one that was asked for: it is refused, and the next request is answered."""

import pytest

from tests.by_hand import UpstreamByHand, host_of
from tests.conftest import Log, StartProxy
from tests.harness import (
    ANSWER,
    CHAT,
    LAST_CHUNK,
    PROMPT,
    STREAM,
    STREAMED,
    Barrier,
    Proxy,
    ScriptedUpstream,
    chunk,
    plain,
    request_bytes,
    stream,
)
from tests.raw import LIST, PASSED, ROUTES, nothing_is_recorded, refused, still_serves

JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


def field(line: bytes) -> bytes:
    return JSON + line + b"\r\nContent-Length: 2\r\n\r\n{}"


def coded(*lines: bytes) -> bytes:
    return JSON + b"\r\n".join(lines) + b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n"


NOT_HTTP = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a page without a head": b"<html>hello</html>",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
    "ICY": b"ICY 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status that is none": b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\n{}",
    "an unasked change of protocol": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "a websocket": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
    "two lengths": JSON + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "one length twice": JSON + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": JSON + b"Content-Length: 2, 2\r\n\r\n{}",
    "a negative length": JSON + b"Content-Length: -2\r\n\r\n{}",
    "a length with a sign": JSON + b"Content-Length: +2\r\n\r\n{}",
    "an empty length": JSON + b"Content-Length: \r\n\r\n{}",
    "an endless length": JSON + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "a length and a space": JSON + b"Content-Length : 2\r\n\r\n{}",
    "a length and chunks": coded(b"Content-Length: 2", b"Transfer-Encoding: chunked"),
    "chunks and a length": coded(b"Transfer-Encoding: chunked", b"Content-Length: 2"),
    "an unknown coding": coded(b"Transfer-Encoding: foo"),
    "another coding": coded(b"Transfer-Encoding: gzip"),
    "another coding and chunks": coded(b"Transfer-Encoding: gzip, chunked"),
    "another coding, and chunks on another line": coded(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"),
    "chunks, and another coding on another line": coded(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip"),
    "chunked twice": coded(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunked and a space": coded(b"Transfer-Encoding : chunked"),
    "an empty coding": JSON + b"Transfer-Encoding: \r\nContent-Length: 2\r\n\r\n{}",
    "a carriage return in a value": field(b"X-A: 1\rX-B: 2"),
    "a NUL in a value": field(b"X-A: 1\x00"),
    "a carriage return in the reason": b"HTTP/1.1 200 O\rK: x\r\nContent-Length: 2\r\n\r\n{}",
    "a NUL in the reason": b"HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\n{}",
    "a space before a colon": field(b"X-A : 1"),
    "a field without a name": field(b": 1"),
    "a line without a colon": field(b"foo"),
    "a name that is not ASCII": field(b"X-\xe9: 1"),
    "too many fields": field(b"\r\n".join([b"X-A: 1"] * 200)),
    "too long a field": field(b"X-A: " + b"a" * 70_000),
    "more than the length": plain(b"{}") + b"EXTRA",
    "a chunk size that is none": SSE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk size with a prefix": coded(b"Transfer-Encoding: chunked").replace(b"2\r\n{}", b"0x2\r\n{}"),
    "a chunk size that only a line feed ends": coded(b"Transfer-Encoding: chunked").replace(b"2\r\n{}", b"2\n{}"),
    "a line feed in a chunk extension": coded(b"Transfer-Encoding: chunked").replace(b"2\r\n{}", b"2;a\nb\r\n{}"),
    "more than the last chunk": SSE + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(STREAM) + LAST_CHUNK + b"EXTRA",
    "more trailers than fields are allowed": SSE
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + chunk(STREAM)
    + b"0\r\n"
    + b"X-A: 1\r\n" * 200
    + b"\r\n",
    "chunks that the parser has overlooked": coded(b"Transfer-Encoding:\tchunked\t"),
    "chunked with a parameter": coded(b"Transfer-Encoding: chunked;q=1"),
    "chunked, and nothing": coded(b"Transfer-Encoding: chunked,"),
    "nothing, and chunked": coded(b"Transfer-Encoding: ,chunked"),
    "chunked behind a vertical tab": coded(b"Transfer-Encoding: \x0bchunked"),
    "a length of many digits": JSON + b"Content-Length: " + b"0" * 10_000 + b"2\r\n\r\n{}",
    "a length on two lines": JSON + b"Content-Length: 2\r\n 2\r\n\r\n{}",
    "nothing, with a length": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n",
    "nothing, with a body": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{}",
    "another version": JSON.replace(b"1.1", b"1.2") + b"Content-Length: 2\r\n\r\n{}",
    "a status below all": JSON.replace(b"200", b"099") + b"Content-Length: 2\r\n\r\n{}",
    "too long a name": field(b"a" * 70_000 + b": 1"),
    "too long a reason": JSON.replace(b"OK", b"a" * 70_000) + b"Content-Length: 2\r\n\r\n{}",
    "a return before a folded line": field(b"X-A: 1\r\n\r 2"),
    "a hint with a body": b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nhello" + plain(ANSWER),
    "a hint that closes": b"HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\n" + plain(ANSWER),
    "hints without end": HINT * 101 + b"".join(stream()),
    "another answer behind a change of protocol": b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + plain(ANSWER),
}


@pytest.mark.parametrize("what", NOT_HTTP)
async def test_an_answer_that_is_not_http(what: str, start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """502; its connection is not used again, its request is not sent again, and nothing of it is passed on."""
    proxy = await start_proxy(upstream__retries=2)
    upstream.will_send(NOT_HTTP[what])

    response = await proxy.ask(STREAMED)

    await refused(response, 502, "upstream_invalid_response", host_of(upstream).decode())
    await upstream.wait_until(lambda: upstream.connections == 0)
    assert upstream.requests_seen == 1
    await nothing_is_recorded(proxy, upstream)


TOLERATED = {
    "a folded line": (field(b"X-A: 1\r\n 2"), "1 2"),
    "bare line feeds": (field(b"X-A: 1").replace(b"\r\n", b"\n"), "1"),
    "no reason": (field(b"X-A: 1").replace(b" OK", b""), "1"),
    "a status of another world": (field(b"X-A: 1").replace(b"200", b"299"), "1"),
    "an empty line before": (b"\r\n" + field(b"X-A: 1"), "1"),
    "a long field": (field(b"X-A: " + b"a" * 60_000), "a" * 60_000),
    "a length with zeros": (field(b"X-A: 1").replace(b"Length: 2", b"Length: 002"), "1"),
    "a length on the next line": (field(b"X-A: 1").replace(b"Length:", b"Length:\r\n"), "1"),
    "a length between tabs": (field(b"X-A: 1").replace(b"Length: 2", b"Length:\t2\t"), "1"),
    "as many hints as anyone sends": (HINT * 100 + field(b"X-A: 1"), "1"),
    "a protocol that is offered": (field(b"X-A: 1\r\nConnection: upgrade\r\nUpgrade: h2c, websocket"), "1"),
}


WAYS = [pytest.param("GET", "/v1/models", None, id="passed"), pytest.param("POST", CHAT, b"{}", id="cached")]


@pytest.mark.parametrize(("method", "target", "body"), WAYS)
@pytest.mark.parametrize("what", TOLERATED)
async def test_what_has_one_reading_only_is_put_right(
    *, what: str, method: str, target: str, body: bytes | None, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """It leaves here as HTTP says, whatever it came as: one line a field, ended by CR LF."""
    answer, value = TOLERATED[what]
    upstream.will_send(answer)
    connection = await proxy.connect()
    connection.send(request_bytes(method, target, [], body))

    head = await connection.reader.readuntil(b"\r\n\r\n")

    assert f"\r\nX-A: {value}\r\n".encode() in head
    assert head.count(b"\n") == head.count(b"\r\n")
    assert await connection.reader.readexactly(2) == b"{}"


# The wrong answer


async def test_an_answer_that_nobody_has_asked_for_is_nobodys(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """It waits on a pooled connection for whoever comes next, and would be recorded as the answer to that."""
    barrier = Barrier()
    upstream.will_send(plain(ANSWER), barrier, plain(b'{"choices":["someone else\'s"]}'))
    await (await proxy.ask()).body()
    barrier.release()
    await upstream.wait_until(lambda: upstream.connections == 0)
    upstream.will_send(*stream())

    response = await proxy.ask(STREAMED)

    assert await response.body() == STREAM
    assert upstream.connections_seen == 2


@pytest.mark.parametrize(("method", "target", "body"), WAYS)
async def test_a_second_answer_at_once_is_nobodys(
    method: str, target: str, body: bytes | None, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """The first one stands, and the connection has seen its last request."""
    upstream.will_send(plain(b"first") + plain(b"second"))
    assert await (await proxy.send(method, target, [], body)).body() == b"first"
    upstream.will_send(plain(b"third"))

    assert await (await proxy.send(method, target, [], body)).body() == b"third"
    assert upstream.connections_seen == 2


@pytest.mark.parametrize("surplus", [b"\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize("target", ROUTES)
async def test_an_empty_line_too_many_does_no_harm(
    surplus: bytes, target: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Old servers send one behind each body; it belongs to no answer."""
    for asked, answer, body in ((PROMPT, plain(LIST), LIST), (STREAMED, b"".join(stream()), STREAM)):
        upstream.will_send(answer + surplus)
        assert await (await proxy.ask(asked, target)).body() == body

    await still_serves(proxy, upstream)


async def test_a_flood_of_hints_is_cut_off(start_proxy: StartProxy, by_hand: UpstreamByHand, log: Log) -> None:
    """After a hundred; neither time nor memory is spent on what will never be an answer."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    client = await proxy.connect()
    client.send(request_bytes("POST", PASSED, body=b"{}"))
    link = await by_hand.accepted()
    await link.head()
    sent = 0
    while not link.writer.is_closing() and sent < 100_000:
        link.send(HINT * 10)
        sent += 10
        try:
            await link.writer.drain()
        except ConnectionError:
            break

    await refused(await client.response(), 502, "upstream_invalid_response", host_of(by_hand).decode())
    assert sent < 100_000
    assert (await log.line())["outcome"] == "upstream_error"


@pytest.mark.parametrize(("method", "target", "body"), WAYS)
async def test_hints_are_counted_for_each_answer(
    method: str, target: str, body: bytes | None, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """A connection may live long."""
    upstream.will_send(HINT * 60 + plain(LIST))

    for _ in range(3):
        assert await (await proxy.send(method, target, [], body)).body() == LIST

    assert upstream.connections_seen == 1


@pytest.mark.parametrize(("method", "target", "body"), WAYS)
async def test_http_1_0_with_chunks_is_asked_on_a_new_connection(
    method: str, target: str, body: bytes | None, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Whoever adds chunks to a version that has none may not know where they end (RFC 9112 section 6.1)."""
    old = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream.will_send(old + chunk(LIST) + LAST_CHUNK)

    assert await (await proxy.send(method, target, [], body)).body() == LIST

    await upstream.wait_until(lambda: upstream.connections == 0)
