"""Bodies of requests: whole, as they arrive, in no more memory than a connection has, and invited once."""

import asyncio
import gzip
import hashlib

import pytest

from tests.by_hand import UpstreamByHand, quiet, size_buffers
from tests.conftest import StartProxy
from tests.exchanges import until
from tests.harness import CHAT, LAST_CHUNK, Proxy, ScriptedUpstream, chunk, plain, request_bytes
from tests.raw import LIST, PASSED, MiB, ask_raw, request


@pytest.mark.parametrize("target", ["/v1/files", CHAT])
@pytest.mark.parametrize("size", [0, 1, 70_000, 3 * MiB])
async def test_a_body_arrives_whole(size: int, target: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """With its length, on cached routes and on others."""
    upstream.will_send(plain(LIST))
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    response = await proxy.send("POST", target, [("Content-Type", "application/octet-stream")], body)

    assert response.status == 200
    assert upstream.received[0].body == body
    assert upstream.received[0].header("content-length") == [str(size)]
    assert upstream.received[0].header("transfer-encoding") == []


async def test_a_chunked_body_stays_chunked(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Its length is not known before its end, and its trailers end here (RFC 9110 section 6.5.1)."""
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()
    connection.send(request("PUT /v1/files HTTP/1.1", b"Transfer-Encoding: chunked"))
    connection.send(b"5;name=value\r\nfirst\r\n" + chunk(b"-last") + b"0\r\nX-Trailer: 1\r\n\r\n")

    assert (await connection.response()).status == 200
    assert upstream.received[0].body == b"first-last"
    assert upstream.received[0].header("transfer-encoding") == ["chunked"]
    assert upstream.received[0].header("content-length") == []
    assert b"X-Trailer" not in upstream.received[0].head + upstream.received[0].body


async def test_an_empty_chunked_body_stays_one(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """An empty body is not the same as none."""
    upstream.will_send(plain(LIST))

    await ask_raw(proxy, request("POST /v1/files HTTP/1.1", b"Transfer-Encoding: chunked", body=LAST_CHUNK))

    assert upstream.received[0].header("transfer-encoding") == ["chunked"]


@pytest.mark.parametrize("target", ["/v1/files", CHAT])
async def test_a_compressed_body_is_not_unpacked(target: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """A few kilobytes can hold gigabytes, and what is said of the body would no longer be true."""
    upstream.will_send(plain(LIST))
    packed = gzip.compress(bytes(MiB), mtime=0)

    response = await proxy.ask(packed, target, {"Content-Encoding": "gzip"})

    assert response.get("x-cache-status") == "BYPASS"
    assert upstream.received[0].body == packed
    assert upstream.received[0].header("content-encoding") == ["gzip"]


async def test_a_get_may_have_a_body(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """It means nothing to us, and perhaps something to the upstream (RFC 9110 section 9.3.1)."""
    upstream.will_send(plain(LIST))

    await proxy.send("GET", "/v1/search", body=b"query")

    assert upstream.received[0].body == b"query"


@pytest.mark.parametrize("framing", [b"Content-Length: 11", b"Transfer-Encoding: chunked"])
async def test_an_upload_is_passed_on_as_it_arrives(
    framing: bytes, by_hand: UpstreamByHand, start_proxy: StartProxy
) -> None:
    """The upstream sees the first bytes before the client has sent the last, and the head before any."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    framed = chunk if framing.startswith(b"Transfer") else bytes
    client = await proxy.connect()

    client.send(request("POST /v1/files HTTP/1.1", framing))
    link = await by_hand.accepted()
    assert framing in (await link.head()).head
    for piece in (b"first", b"-", b"-last"):
        client.send(framed(piece))
        assert await link.read(len(framed(piece))) == framed(piece)
    client.send(framed(b""))
    link.send(plain(LIST))

    assert (await client.response()).status == 200


async def test_a_large_upload_is_not_held_in_memory(by_hand: UpstreamByHand, start_proxy: StartProxy) -> None:
    """While the upstream takes nothing the client is not read either; no bound on its size but its length."""
    size, piece = 64 * MiB, bytes(MiB)
    proxy = await start_proxy(upstream__base_url=by_hand.base_url, server__max_body_size="1KiB")
    client = await proxy.connect()
    size_buffers(client.writer.transport)
    client.send(request("POST /v1/files HTTP/1.1", b"Content-Length: %d" % size))
    taken = 0

    async def upload() -> None:
        nonlocal taken
        for _ in range(size // len(piece)):
            client.send(piece)
            await client.writer.drain()
            taken += len(piece)

    uploading = asyncio.create_task(upload())
    link = await by_hand.accepted()
    await link.head()

    assert await quiet(lambda: taken) < 24 * MiB, "more than the kernel's buffers between two and two sockets"

    received = hashlib.sha256()
    for _ in range(size // len(piece)):
        received.update(await link.read(len(piece)))
    await uploading
    link.send(plain(LIST))
    assert (await client.response()).status == 200
    assert received.digest() == hashlib.sha256(bytes(size)).digest()


async def test_an_upload_may_be_answered_before_its_end(by_hand: UpstreamByHand, start_proxy: StartProxy) -> None:
    """The upstream has seen enough: its answer is passed on, and neither connection is used any further."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    client = await proxy.connect()
    client.send(request("POST /v1/files HTTP/1.1", b"Content-Length: 1000000", body=b"first"))
    link = await by_hand.accepted()
    await link.head()

    link.send(plain(b"too much", status=b"413 Payload Too Large"))
    response = await client.response()

    assert (response.status, await response.body()) == (413, b"too much")
    assert response.get("connection") == "close"
    assert await link.rest() == b"first"
    client.send(bytes(999_995))
    assert await client.rest() == b""


async def test_a_large_upload_answered_before_its_end_is_still_answered(
    by_hand: UpstreamByHand, start_proxy: StartProxy
) -> None:
    """Most HTTP libraries read no answer before they have sent their body."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    client = await proxy.connect()
    client.send(request("POST /v1/files HTTP/1.1", b"Content-Length: %d" % (8 * MiB)))
    link = await by_hand.accepted()
    await link.head()
    link.send(plain(b"no", status=b"401 Unauthorized"))

    client.send(bytes(8 * MiB))
    await client.writer.drain()

    response = await client.response()
    assert (response.status, await response.body()) == (401, b"no")


# 100 Continue


async def test_the_end_of_a_large_body_is_no_head(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """What a connection has carried for one request does not count for the next."""
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()
    for _ in range(2):
        connection.send(request_bytes("POST", PASSED, (), b"-" * MiB))
        response = await connection.response()
        assert (response.status, await response.body()) == (200, LIST)


@pytest.mark.parametrize("target", ["/v1/files", CHAT])
async def test_100_continue_is_said_once_and_by_us(
    target: str, by_hand: UpstreamByHand, start_proxy: StartProxy
) -> None:
    """The client is invited once, the upstream is not asked, and what it says of it is swallowed."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    client = await proxy.connect()
    client.send(request(f"POST {target} HTTP/1.1", b"Content-Length: 2", b"Expect: 100-Continue"))

    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"{}")
    link = await by_hand.accepted()
    assert b"expect" not in (await link.head()).head.lower()
    assert await link.read(2) == b"{}"
    link.send(b"HTTP/1.1 100 Continue\r\n\r\n" + plain(LIST))
    response = await client.response()

    assert (response.status, await response.body()) == (200, LIST)


@pytest.mark.parametrize("target", ["/v1/files", CHAT])
async def test_a_body_that_came_unasked_is_not_asked_for(target: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """The client did not wait; a late invitation could be taken for the answer."""
    upstream.will_send(plain(LIST))

    head = await ask_raw(
        proxy, request(f"POST {target} HTTP/1.1", b"Expect: 100-continue", b"Content-Length: 2", body=b"{}")
    )

    assert head.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("target", ["/v1/files", CHAT])
async def test_http_1_0_is_never_told_to_continue(
    target: str, by_hand: UpstreamByHand, start_proxy: StartProxy
) -> None:
    """It does not know interim responses (RFC 9110 section 10.1.1)."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    client = await proxy.connect()
    client.send(request(f"POST {target} HTTP/1.0", b"Content-Length: 2", b"Expect: 100-continue", body=b"{"))
    await until(lambda: proxy.app._traffic.active == 1)
    link = await by_hand.accepted() if target != CHAT else None
    if link is not None:
        await link.head()
        assert await link.read(1) == b"{"

    client.send(b"}")
    link = link or await by_hand.accepted()
    link.send(plain(LIST))

    assert (await client.response()).status == 200
