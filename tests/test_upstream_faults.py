"""A broken upstream is a broken answer: a clear error before the head, a broken transfer after it."""

import asyncio

import pytest

from proxy import events
from tests.by_hand import UpstreamByHand, connect_with_little_room, host_of, quiet, read_on, served
from tests.conftest import Log, StartProxy
from tests.exchanges import until
from tests.harness import (
    ANSWER,
    CHAT,
    CLOSE,
    HELLO,
    LAST_CHUNK,
    RESET,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Part,
    Proxy,
    Response,
    ScriptedUpstream,
    chunk,
    plain,
    request_bytes,
    sse_head,
    stream,
)
from tests.raw import PASSED, ROUTES, nothing_is_recorded, refused

WAYS = [pytest.param(CHAT, CLOSE, id="closed, cached"), pytest.param(PASSED, RESET, id="reset, passed")]
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


# Before the head


BEFORE_THE_HEAD: dict[str, tuple[bytes, ...]] = {
    "at once": (),
    "in the status line": (b"HTTP/1.1 2",),
    "in a field": (JSON[:-10],),
    "before the end of the head": (JSON,),
    "behind an interim response": (b"HTTP/1.1 103 Early Hints\r\n\r\n",),
}


@pytest.mark.parametrize(("target", "how"), WAYS)
@pytest.mark.parametrize("where", BEFORE_THE_HEAD)
async def test_an_upstream_that_breaks_off_before_its_head(
    *, where: str, target: str, how: Part, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """502, and not once more: the request has arrived, and somebody pays for it."""
    proxy = await start_proxy(upstream__retries=2)
    barrier = Barrier()
    upstream.will_send(*BEFORE_THE_HEAD[where], barrier, how)
    asking = asyncio.create_task(proxy.ask(STREAMED, target))
    await barrier.reached.wait()
    barrier.release()

    response = await asking

    assert response.get("x-should-retry") is None
    await refused(response, 502, "upstream_unreachable", host_of(upstream).decode())
    assert upstream.requests_seen == 1
    line = await log.line()
    assert (line["outcome"], line["error"], line["stored"]) == ("upstream_error", "upstream_unreachable", False)
    await nothing_is_recorded(proxy, upstream)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_a_pooled_connection_that_closes_on_a_request_is_not_replaced(
    method: str, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """The request was written, so it may have arrived, whatever its method (RFC 9110 section 9.2.2)."""
    proxy = await start_proxy(upstream__retries=2)
    upstream.will_send(plain(ANSWER))
    await (await proxy.send("GET", "/v1/models")).body()
    upstream.will_send(CLOSE)

    response = await proxy.send(method, "/v1/files/1", body=b"{}")

    await refused(response, 502, "upstream_unreachable")
    assert (upstream.requests_seen, upstream.connections_seen) == (2, 1)


async def test_a_pooled_connection_that_was_closed_is_replaced(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Nothing had been sent on it."""
    barrier = Barrier()
    upstream.will_send(plain(ANSWER), barrier, CLOSE)
    await (await proxy.send("GET", "/v1/models")).body()
    barrier.release()
    await upstream.wait_until(lambda: upstream.connections == 0)
    upstream.will_send(plain(ANSWER))

    response = await proxy.ask()

    assert await response.body() == ANSWER
    assert (upstream.requests_seen, upstream.connections_seen) == (2, 2)


# Not HTTP


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
}


@pytest.mark.parametrize("what", TOLERATED)
async def test_what_has_one_reading_only_is_put_right(what: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """It leaves here as HTTP says, whatever it came as: one line a field, ended by CR LF."""
    answer, value = TOLERATED[what]
    upstream.will_send(answer)
    connection = await proxy.connect()
    connection.send(request_bytes("GET", "/v1/models"))

    head = await connection.reader.readuntil(b"\r\n\r\n")

    assert f"\r\nX-A: {value}\r\n".encode() in head
    assert head.count(b"\n") == head.count(b"\r\n")
    assert await connection.reader.readexactly(2) == b"{}"


# The wrong answer


async def test_an_answer_that_nobody_has_asked_for_is_nobodys(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """It waits on a pooled connection for whoever comes next, and would be recorded as the answer to that."""
    barrier = Barrier()
    upstream.will_send(plain(ANSWER), barrier, plain(b'{"choices":["someone else\'s"]}'))
    await (await proxy.send("GET", "/v1/models")).body()
    barrier.release()
    await upstream.wait_until(lambda: upstream.connections == 0)
    upstream.will_send(*stream())

    response = await proxy.ask(STREAMED)

    assert await response.body() == STREAM
    assert upstream.connections_seen == 2


async def test_a_second_answer_at_once_is_nobodys(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """The first one stands, and the connection has seen its last request."""
    upstream.will_send(plain(b"first") + plain(b"second"))
    assert await (await proxy.send("GET", "/v1/models")).body() == b"first"
    upstream.will_send(plain(b"third"))

    assert await (await proxy.send("GET", "/v1/models")).body() == b"third"
    assert upstream.connections_seen == 2


# Within the body


CHUNKED = SSE + b"Transfer-Encoding: chunked\r\n\r\n"
BY_LENGTH = SSE + b"Content-Length: 1000\r\n\r\n"
UNTIL_CLOSED = SSE.replace(b"1.1", b"1.0") + b"\r\n"

# Where it breaks: what was sent before, and what of it is body.
WITHIN: dict[str, tuple[bytes, bytes]] = {
    "behind the head": (CHUNKED, b""),
    "between two chunks": (CHUNKED + chunk(HELLO), HELLO),
    "in a size line": (CHUNKED + chunk(HELLO) + b"1", HELLO),
    "between a size and its line end": (CHUNKED + chunk(HELLO) + b"1\r", HELLO),
    "in a chunk": (CHUNKED + chunk(HELLO) + chunk(WORLD)[:-9], HELLO + WORLD[:-7]),
    "before the end of a chunk": (CHUNKED + chunk(STREAM)[:-2], STREAM),
    "behind [DONE]": (CHUNKED + chunk(STREAM), STREAM),
    "in the last chunk": (CHUNKED + chunk(STREAM) + b"0\r\n", STREAM),
    "in a trailer": (CHUNKED + chunk(STREAM) + b"0\r\nX-Sum", STREAM),
    "behind a head with a length": (BY_LENGTH, b""),
    "before its length": (BY_LENGTH + STREAM, STREAM),
}


@pytest.mark.parametrize(("target", "how"), WAYS)
@pytest.mark.parametrize("where", WITHIN)
async def test_a_body_that_breaks_off_has_no_end(
    *, where: str, target: str, how: Part, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """All that came reaches the client, then the transfer breaks; nothing is recorded, nothing sent again."""
    sent, arrives = WITHIN[where]
    barrier = Barrier()
    upstream.will_send(sent, barrier, how)
    response = await proxy.ask(STREAMED, target)
    await receive(response, len(arrives))
    barrier.release()

    assert await response.body_broken_off() == arrives
    line = await log.line()
    assert (line["outcome"], line["stored"], line["bytes"]) == ("upstream_truncated", False, len(arrives))
    assert upstream.requests_seen == 1
    await nothing_is_recorded(proxy, upstream)


async def receive(response: Response, size: int) -> None:
    """So much of a body, before anything happens to the rest."""
    if response.get("transfer-encoding") is None:
        response.chunks.append(await response._reader.readexactly(size))
    while sum(map(len, response.chunks)) < size:
        assert await response.next_chunk()


@pytest.mark.parametrize("where", WITHIN)
async def test_what_came_with_the_fault_is_passed_on(where: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Also when the last bytes and the end of the connection were read in one go."""
    sent, arrives = WITHIN[where]
    upstream.will_send(sent, CLOSE)

    response = await proxy.ask(STREAMED)

    assert await response.body_broken_off() == arrives


async def test_a_slow_client_gets_what_came_before_the_fault(start_proxy: StartProxy, by_hand: UpstreamByHand) -> None:
    """The fault is known long before the client has taken what came before it."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    client = await connect_with_little_room(proxy)
    client.send(request_bytes("GET", "/v1/files/1/content"))
    link = await by_hand.accepted()
    await link.head()
    link.send(CHUNKED + chunk(b"x" * 100_000))
    await until(lambda: served(proxy)[0].writing_paused)

    link.send(chunk(b"y" * 50_000) + chunk(b"z" * 10)[:-5])
    await link.close()
    await quiet(lambda: 0)
    read_on(client)

    assert await (await client.response()).body_broken_off() == b"x" * 100_000 + b"y" * 50_000 + b"z" * 7
    await client.close()


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize("garbage", [b"zz\r\n", b"-5\r\n", b"fffffffffffffffff\r\n", b"3\r\nabcXX\r\n"])
async def test_a_body_that_loses_its_framing_has_no_end(
    garbage: bytes, target: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """As if it had been cut there; and the next request is not sent to it."""
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, garbage, Barrier())
    response = await proxy.ask(STREAMED, target)
    assert await response.next_chunk() == HELLO
    barrier.release()

    assert (await response.body_broken_off()).removesuffix(b"abc") == HELLO
    assert (await log.line())["outcome"] == "upstream_truncated"
    await upstream.wait_until(lambda: upstream.connections == 0)
    await nothing_is_recorded(proxy, upstream)


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize("body", [HELLO, STREAM])
async def test_a_body_until_closed_that_is_reset_has_no_end(
    body: bytes, target: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """A reset is an error of the connection, and no close (RFC 9112 section 8), [DONE] or not."""
    barrier = Barrier()
    upstream.will_send(UNTIL_CLOSED, body, barrier, RESET)
    response = await proxy.ask(STREAMED, target)
    assert await response.next_chunk() == body
    barrier.release()

    assert await response.body_broken_off() == body
    await nothing_is_recorded(proxy, upstream)


async def test_a_stream_until_closed_that_is_not_finished_has_no_end(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Where only the close tells of the end, it may as well be a cut; what it says itself decides."""
    upstream.will_send(UNTIL_CLOSED, HELLO, CLOSE)

    response = await proxy.ask(STREAMED)

    assert await response.body_broken_off() == HELLO
    await nothing_is_recorded(proxy, upstream)


async def test_http_1_0_is_told_of_a_cut_by_a_reset(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """To such a client a close is the clean end, so only a reset is none."""
    barrier = Barrier()
    upstream.will_send(sse_head(), chunk(HELLO), barrier, CLOSE)
    response = await proxy.send("POST", PASSED, body=b"{}", version="1.0")
    assert await response._reader.readexactly(len(HELLO)) == HELLO
    barrier.release()

    with pytest.raises(ConnectionResetError):
        await response._reader.read()


# Whose fault it is


async def test_an_upstream_that_closes_on_an_upload(start_proxy: StartProxy, by_hand: UpstreamByHand) -> None:
    """502: it took some of it, and will not take the rest."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    client = await proxy.connect()
    client.send(request_bytes("POST", "/v1/files", [("Content-Length", "1000000")]) + b"first")
    link = await by_hand.accepted()
    await link.head()
    await link.close()

    client.send(bytes(100_000))

    await refused(await client.response(), 502, "upstream_unreachable")


async def test_a_fault_of_ours_is_not_waited_for(
    proxy: Proxy, upstream: ScriptedUpstream, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong at the end of a stream breaks it off, and does not wait for the next who asks the same."""

    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    upstream.will_send(*stream())
    with monkeypatch.context() as patched:
        patched.setattr("proxy.sse.stream_ending", fail)
        assert await (await proxy.ask(STREAMED)).body_broken_off() == STREAM
    assert len(log.lines(events.CRASHED)) == 1

    await nothing_is_recorded(proxy, upstream)


async def test_an_upload_that_breaks_off_breaks_off_an_answer_that_has_begun(
    start_proxy: StartProxy, by_hand: UpstreamByHand
) -> None:
    """The upstream waits for the rest of the request, the client for the rest of the answer: neither will come."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    client = await proxy.connect()
    client.send(request_bytes("POST", "/v1/files", [("Transfer-Encoding", "chunked")]) + chunk(b"first"))
    link = await by_hand.accepted()
    await link.head()
    link.send(sse_head() + chunk(HELLO))
    response = await client.response()
    assert await response.next_chunk() == HELLO

    client.send(b"zz\r\n")

    assert await response.body_broken_off() == HELLO
    assert LAST_CHUNK not in await link.rest()
