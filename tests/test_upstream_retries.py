"""What is tried again: a connection that could not be made, an answer that asks for it, and nothing else."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from tests.by_hand import UpstreamByHand, host_of
from tests.conftest import Log, StartProxy
from tests.exchanges import until, word
from tests.harness import ANSWER, CLOSE, PROMPT, STREAM, STREAMED, Proxy, ScriptedUpstream, plain, request_bytes, stream
from tests.raw import PASSED, ROUTES, refused


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jitter that chance has drawn is none."""
    monkeypatch.setattr("random.uniform", lambda *_: 0.0)


# No connection


@contextmanager
def closed_port() -> Iterator[socket.socket]:
    """A port at which connections are refused, until somebody listens there."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


def url_of(sock: socket.socket, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{sock.getsockname()[1]}/v1"


@pytest.mark.parametrize("target", ROUTES)
async def test_a_refused_connection(target: str, start_proxy: StartProxy, log: Log) -> None:
    """502, and the client may well try again: servers restart."""
    with closed_port() as sock:
        proxy = await start_proxy(upstream__base_url=url_of(sock))

        response = await proxy.ask(STREAMED, target)

        assert response.get("x-should-retry") is None
        await refused(response, 502, "upstream_unreachable", str(sock.getsockname()[1]))
    assert (await log.line())["outcome"] == "upstream_error"


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("target", ROUTES)
async def test_a_connection_that_could_not_be_made_is_tried_again(
    target: str, retries: int, start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, whatever `upstream.retries` says and whatever is asked: nothing can have arrived."""
    with closed_port() as sock:
        failures = 0

        def listen_at_the_second_failure(*_: float) -> float:
            nonlocal failures
            failures += 1
            if failures == 2:
                sock.listen()
            return 0.0

        monkeypatch.setattr("random.uniform", listen_at_the_second_failure)
        proxy = await start_proxy(upstream__base_url=url_of(sock), upstream__retries=retries)
        asking = asyncio.create_task(proxy.ask(b"{}", target))
        await until(lambda: failures == 2)

        async with serving(sock, plain(ANSWER, b"Connection: close")) as requests:
            assert await (await asking).body() == ANSWER
            assert [request[-6:] for request in requests] == [b"\r\n\r\n{}"]


@asynccontextmanager
async def serving(sock: socket.socket, answer: bytes) -> AsyncIterator[list[bytes]]:
    """Answers one request a connection, on a socket that listens already; the requests that came."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(2))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, sock=sock.dup())
    try:
        yield requests
    finally:
        server.close()


async def test_a_connection_that_nobody_accepts(start_proxy: StartProxy, log: Log) -> None:
    """502 after `upstream.connect_timeout` a time; a full queue answers nothing, not even no."""
    with closed_port() as sock, socket.socket() as filler:
        sock.listen(0)
        filler.connect(sock.getsockname())
        proxy = await start_proxy(upstream__base_url=url_of(sock), upstream__connect_timeout="50ms")

        await refused(await proxy.ask(), 502, "upstream_unreachable", str(sock.getsockname()[1]))

    assert (await log.line())["error"] == "upstream_unreachable"


async def test_a_client_may_leave_while_a_connection_is_made(start_proxy: StartProxy, log: Log) -> None:
    """Nobody dials for it any longer."""
    with closed_port() as sock, socket.socket() as filler:
        sock.listen(0)
        filler.connect(sock.getsockname())
        proxy = await start_proxy(upstream__base_url=url_of(sock), cache__linger="0")
        client = await proxy.connect()
        client.send(request_bytes("GET", "/v1/models"))
        await until(lambda: proxy.app._traffic.active == 1)

        client.writer.transport.abort()

        assert (await log.line())["outcome"] == "client_disconnected"


async def test_a_name_that_means_nothing(start_proxy: StartProxy) -> None:
    """502, and trying again is no use: it is a fault of the settings."""
    proxy = await start_proxy(upstream__base_url="http://upstream.invalid/v1")

    response = await proxy.ask()

    assert response.get("x-should-retry") == "false"
    await refused(response, 502, "upstream_unreachable", "upstream.invalid")


async def test_an_upstream_that_does_not_speak_tls(start_proxy: StartProxy, by_hand: UpstreamByHand) -> None:
    """502, at once and for all: the same settings will fail again."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url.replace("http:", "https:"))
    asking = asyncio.create_task(proxy.ask())
    link = await by_hand.accepted()
    link.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    response = await asking

    assert response.get("x-should-retry") == "false"
    await refused(response, 502, "upstream_unreachable", host_of(by_hand).decode())
    assert len(by_hand.links) == 1
    assert b"sk-CANARY" not in await link.rest()


async def test_an_upstream_that_leaves_during_the_handshake(start_proxy: StartProxy, by_hand: UpstreamByHand) -> None:
    """No connection was made, so it is tried again, three times in all."""
    proxy = await start_proxy(upstream__base_url=by_hand.base_url.replace("http:", "https:"))
    asking = asyncio.create_task(proxy.ask())
    for _ in range(3):
        await (await by_hand.accepted()).close()

    await refused(await asking, 502, "upstream_unreachable")
    assert len(by_hand.links) == 3


async def test_a_handshake_that_goes_nowhere(start_proxy: StartProxy, by_hand: UpstreamByHand) -> None:
    """502 after `upstream.connect_timeout` a time: a connection without its TLS is none."""
    proxy = await start_proxy(
        upstream__base_url=by_hand.base_url.replace("http:", "https:"), upstream__connect_timeout="50ms"
    )

    response = await proxy.ask()

    assert response.get("x-should-retry") is None
    await refused(response, 502, "upstream_unreachable", host_of(by_hand).decode())
    assert len(by_hand.links) == 3


# Answers that are asked for again


def failure(status: int, *fields: bytes) -> bytes:
    return plain(b'{"error":{"code":"upstreams_own"}}', *fields, status=b"%d Failed" % status)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_retry_is_made_where_it_may_help(
    status: int, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """The client sees the last answer only, and the upstream the same request each time."""
    proxy = await start_proxy(upstream__retries=2)
    upstream.will_send(failure(status, b"Retry-After: 0"))
    upstream.will_send(failure(status, b"retry-after-ms: 1"))
    upstream.will_send(*stream())

    response = await proxy.ask(STREAMED)

    assert (response.status, await response.body()) == (200, STREAM)
    assert response.get("x-cache-status") == "MISS"
    assert upstream.requests_seen == 3
    assert len({(received.head, received.body) for received in upstream.received}) == 1
    assert (await log.line())["attempts"] == 3
    assert await word(proxy.ask(STREAMED)) == "HIT"


@pytest.mark.parametrize("asked", [b"retry-after-ms: 150", b"Retry-After: 0.15"])
@pytest.mark.parametrize("more", [b"X-A: 1", b"x-should-retry: true"])
async def test_a_retry_comes_no_sooner_than_asked(
    more: bytes, asked: bytes, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """Though chance would have had it at once."""
    proxy = await start_proxy(upstream__retries=1)
    upstream.will_send(failure(429, asked, more))
    upstream.will_send(plain(ANSWER))
    loop = asyncio.get_running_loop()
    begun_s = loop.time()

    response = await proxy.ask()

    assert (response.status, await response.body()) == (200, ANSWER)
    assert loop.time() - begun_s >= 0.15


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (failure(500), 3),
        (failure(400), 1),
        (failure(401), 1),
        (failure(404), 1),
        (failure(409), 1),
        (failure(501), 1),
        (failure(529), 1),
        (failure(503, b"x-should-retry: false"), 1),
        (failure(429, b"Retry-After: 31"), 1),
        (failure(429, b"retry-after-ms: 30001"), 1),
        (failure(429, b"Retry-After: Sat, 01 Jan 2124 00:00:00 GMT"), 1),
        (failure(429, b"Retry-After: Thu, 01 Jan 2004 00:00:00 GMT"), 3),
        (failure(429, b"Retry-After: soon"), 3),
        (failure(400, b"x-should-retry: true"), 1),
    ],
)
async def test_a_failure_is_passed_on_in_the_end(
    answer: bytes, seen: int, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """As it is: where no retry would help, where it would come too late, and where all have been made."""
    proxy = await start_proxy(upstream__retries=2)
    upstream.will_send(answer)

    response = await proxy.ask(STREAMED)

    assert f"{response.status} Failed".encode() in answer
    assert await response.body() == b'{"error":{"code":"upstreams_own"}}'
    assert [response.get(name) for name in ("retry-after", "retry-after-ms", "x-should-retry")] == [
        value_of(answer, name) for name in (b"Retry-After", b"retry-after-ms", b"x-should-retry")
    ]
    assert upstream.requests_seen == seen


def value_of(answer: bytes, name: bytes) -> str | None:
    _, found, rest = answer.partition(b"\r\n" + name + b": ")
    return rest.partition(b"\r\n")[0].decode() if found else None


async def test_nothing_is_retried_unless_told(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """SDKs do that by themselves, and both would multiply."""
    upstream.will_send(failure(503, b"retry-after-ms: 1"))

    assert (await proxy.ask()).status == 503
    assert upstream.requests_seen == 1


async def test_a_streamed_upload_is_not_retried(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """It has been read, and was too large to be kept."""
    proxy = await start_proxy(upstream__retries=2)
    upstream.will_send(failure(503))

    response = await proxy.ask(PROMPT, PASSED)

    assert response.status == 503
    assert upstream.requests_seen == 1


async def test_a_request_without_a_body_is_retried_on_any_route(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """There is nothing to keep."""
    proxy = await start_proxy(upstream__retries=1)
    upstream.will_send(failure(503))
    upstream.will_send(plain(ANSWER))

    assert await (await proxy.send("GET", "/v1/models")).body() == ANSWER
    assert upstream.requests_seen == 2


async def test_a_retry_that_breaks_off_is_the_last(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """It may have arrived."""
    proxy = await start_proxy(upstream__retries=5)
    upstream.will_send(failure(503))
    upstream.will_send(CLOSE)

    await refused(await proxy.ask(), 502, "upstream_unreachable")

    assert upstream.requests_seen == 2


async def test_a_client_may_leave_between_two_attempts(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """There is nobody to ask again for."""
    proxy = await start_proxy(upstream__retries=2, cache__linger="0")
    upstream.will_send(failure(503, b"Retry-After: 30", b"Connection: close"))
    client = await proxy.connect()
    client.send(request_bytes("GET", "/v1/models"))
    await upstream.wait_until(lambda: upstream.connections_seen == 1)
    await upstream.wait_until(lambda: upstream.connections == 0)

    client.writer.transport.abort()

    assert (await log.line())["outcome"] == "client_disconnected"
    assert upstream.requests_seen == 1
