"""A broken upstream is a broken answer: a clear error before the head, a broken transfer after it."""

import asyncio

import pytest

from proxy import events
from tests.by_hand import Link, UpstreamByHand, connect_with_little_room, host_of, quiet, read_on, served
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
from tests.raw import PASSED, ROUTES, nothing_is_recorded, refused, still_serves

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


@pytest.mark.parametrize("how", [CLOSE, RESET], ids=["closed", "reset"])
@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", PASSED), ("PUT", PASSED), ("DELETE", PASSED), ("POST", PASSED), ("POST", CHAT)],
)
async def test_a_pooled_connection_that_closes_on_a_request_is_not_replaced(
    method: str, target: str, how: Part, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """The request was written, so it may have arrived, whatever its method (RFC 9110 section 9.2.2)."""
    proxy = await start_proxy(upstream__retries=2)
    upstream.will_send(plain(ANSWER))
    await (await proxy.send(method, target, [("Content-Type", "application/json")], b'{"seed":1}')).body()
    upstream.will_send(how)

    response = await proxy.send(method, target, [("Content-Type", "application/json")], b"{}")

    await refused(response, 502, "upstream_unreachable")
    assert (upstream.requests_seen, upstream.connections_seen) == (2, 1)
    await still_serves(proxy, upstream)


async def test_a_pooled_connection_that_was_closed_is_replaced(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Nothing had been sent on it."""
    barrier = Barrier()
    upstream.will_send(plain(ANSWER), barrier, CLOSE)
    await (await proxy.ask({"seed": 1})).body()
    barrier.release()
    await upstream.wait_until(lambda: upstream.connections == 0)
    upstream.will_send(plain(ANSWER))

    response = await proxy.ask()

    assert await response.body() == ANSWER
    assert (upstream.requests_seen, upstream.connections_seen) == (2, 2)


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


EXTENDED = {
    "a long extension": b"%x;a=%b\r\n%b\r\n" % (len(STREAM), b"a" * 200_000, STREAM) + LAST_CHUNK,
    "many zeros": b"%b%x\r\n%b\r\n" % (b"0" * 200_000, len(STREAM), STREAM) + LAST_CHUNK,
    "capitals": b"%X\r\n%b\r\n" % (len(STREAM), STREAM) + LAST_CHUNK,
    "blanks behind the size": b"%x  \r\n%b\r\n" % (len(STREAM), STREAM) + LAST_CHUNK,
    "trailers": chunk(STREAM) + b"0;a=b\r\nX-Sum: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "many zeros at the end": chunk(STREAM) + b"0" * 200_000 + b"\r\n\r\n",
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
@pytest.mark.parametrize("length", [2**63, 2**64 - 2, 2**64 - 1])
async def test_a_length_that_no_body_reaches_has_no_end(
    length: int, target: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Aiohttp's parser takes the last of them for no length at all, and the body for one that has ended."""
    upstream.will_send(JSON + b"Content-Length: %d\r\n\r\n{}" % length, CLOSE)

    response = await proxy.ask(STREAMED, target)

    assert response.get("content-length") == str(length)
    assert await response.body_broken_off() in (b"{}", b"")
    assert (await log.line())["outcome"] == "upstream_truncated"
    await nothing_is_recorded(proxy, upstream)


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize("where", EXTENDED)
async def test_a_chunk_is_its_data_alone(where: str, target: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """However long the line before it, and whatever stands behind the last one."""
    upstream.will_send(CHUNKED + EXTENDED[where])

    response = await proxy.ask(STREAMED, target)

    assert await response.body() == STREAM
    await still_serves(proxy, upstream)


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


@pytest.mark.parametrize("endless", [b"0", b"5;a"], ids=["size", "extension"])
async def test_a_size_line_without_end_ends_with_its_client(
    endless: bytes, start_proxy: StartProxy, by_hand: UpstreamByHand, log: Log
) -> None:
    """It is no silence, and nothing of it is kept; nobody reads it for a client that has left."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url, cache__linger="0")
    client = await proxy.connect()
    client.send(request_bytes("POST", PASSED, body=b"{}"))
    link = await by_hand.accepted()
    await link.head()
    link.send(CHUNKED + chunk(HELLO) + endless)
    response = await client.response()
    assert await response.next_chunk() == HELLO
    for _ in range(100):
        link.send(endless[-1:] * 64 * 1024)
        await link.writer.drain()

    await response.leave()

    line = await log.line()
    assert (line["outcome"], line["bytes"]) == ("client_disconnected", len(HELLO))
    with pytest.raises(ConnectionError):
        await send_for_ever(link, endless[-1:])


async def send_for_ever(link: Link, data: bytes) -> None:
    while True:
        link.send(data)
        await link.writer.drain()


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


@pytest.mark.parametrize("end", ["garbled", "closed"])
async def test_a_fault_is_told_wherever_the_network_cuts_the_stream_before_it(
    end: str, start_proxy: StartProxy, by_hand: UpstreamByHand
) -> None:
    """Also where it comes in one piece with the end of the chunk before it: nobody waits for what never comes."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    whole = sse_head() + chunk(HELLO) + chunk(WORLD)
    for cut in range(len(whole) - len(chunk(WORLD)) - 3, len(whole) + 1):
        asking = asyncio.create_task(proxy.ask({**STREAMED, "seed": cut}))
        link = await by_hand.accepted()
        await link.head()
        link.send(whole[:cut])
        await quiet(lambda: 0)

        link.send(whole[cut:] + b"no size\r\n" * (end == "garbled"))
        if end == "closed":
            await link.close()

        assert await (await asking).body_broken_off() == HELLO + WORLD
