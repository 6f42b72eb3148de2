"""Requests that try to choose where the proxy goes: it goes to its upstream, or nowhere."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.by_hand import host_of
from tests.conftest import StartProxy
from tests.exchanges import words
from tests.harness import CHAT, STREAM, STREAMED, Proxy, ScriptedUpstream, plain, request_bytes, stream
from tests.raw import LIST, refused, request, still_serves


class Bait:
    """A server where nobody should ever come."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.port = port
        self.visits = 0


@pytest.fixture
async def bait() -> AsyncIterator[Bait]:
    def visited(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.visits += 1
        writer.close()

    server = await asyncio.start_server(visited, "127.0.0.1", 0)
    found = Bait(server.sockets[0].getsockname()[1])
    yield found
    server.close()
    assert found.visits == 0


REFUSED = [
    "http://{bait}/v1/models",
    "HTTP://{bait}/v1/models",
    "https://{bait}/v1/models",
    "http://user:sk-EVIL@{bait}/v1/models",
    "http://proxy.test@{bait}/v1/models",
    "http://{bait}#@proxy.test/v1/models",
    "http://{bait}\\@proxy.test/v1/models",
    "http://[::1]:{port}/v1/models",
    "http://[::ffff:127.0.0.1]:{port}/v1/models",
    "http://[fe80::1%25lo]:{port}/v1/models",
    "http://2130706433:{port}/v1/models",
    "http://0x7f.1:{port}/v1/models",
    "http://[/v1/models",
    "http:///v1/models",
    "http:{bait}/v1/models",
    "file:///etc/passwd",
    "unix:/run/x.sock:/v1/models",
    "gopher://{bait}/v1/models",
    "javascript:alert(1)",
    "//{bait}/v1/models",
    "///{bait}/v1/models",
    "/\\{bait}/v1/models",
    "\\\\{bait}\\v1\\models",
    "{bait}",
    "{bait}/v1/models",
    "@{bait}/v1/models",
    ":{port}/v1/models",
    "*",
    "/v1//{bait}/models",
    "/v1/..//{bait}/models",
    "/v1/../../{bait}/models",
    "/v1/%2e%2e/%2e%2e/models",
    "/v1/%252e%252e/models",
    "/v1/..%2f..%2fmodels",
    "/v1/..%252f..%252fmodels",
    "/v1/..%255c..%255cmodels",
    "/v1/%c0%ae%c0%ae\\models",
    "/v1/models%00.json",
    "/v1/models%2500.json",
    "/v1/models%0d%0aHost:%20{bait}",
    "/v1/models%250d%250aHost:%2520{bait}",
    "/v1/models#@{bait}/",
    "/v1/models?x#@{bait}/",
    "/v1/..;/models",
]


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_a_target_that_leads_elsewhere_is_refused(
    method: str, bait: Bait, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Nobody is asked, neither whom it names nor the upstream."""
    heard = {}
    for target in REFUSED:
        connection = await proxy.connect()
        connection.send(request(f"{method} {target.format(bait=bait.address, port=bait.port)} HTTP/1.1"))
        response = await connection.response()
        heard[target] = response.status
        assert bait.address.encode() not in await response.body()

    assert heard == dict.fromkeys(REFUSED, 400)
    assert upstream.connections_seen == 0
    await still_serves(proxy, upstream)


@pytest.mark.parametrize("target", ["{bait}", "[::1]:{port}", "proxy.test:443", "/v1/models", "http://{bait}/"])
async def test_nobody_is_connected_to_another_server(
    target: str, bait: Bait, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """A proxy that takes CONNECT is a door into the network that it stands in."""
    connection = await proxy.connect()

    connection.send(request(f"CONNECT {target.format(bait=bait.address, port=bait.port)} HTTP/1.1"))

    response = await connection.response()
    assert response.status in (400, 405)
    await response.body()
    assert upstream.connections_seen == 0


KEPT = [
    ("/v1/@{bait}/models", "/v1/@{bait}/models"),
    ("/v1/models?url=http://{bait}/&x=@{bait}", "/v1/models?url=http://{bait}/&x=@{bait}"),
    ("/v1/models?/../../{bait}//", "/v1/models?/../../{bait}//"),
    ("/v1/http:%2F%2F{bait}%2Fmodels", "/v1/http:%2F%2F{bait}%2Fmodels"),
    ("/v1/[::1]:{port}", "/v1/[::1]:{port}"),
    ("/v1/%2e/../models", None),
]


@pytest.mark.parametrize(("target", "expected"), KEPT)
async def test_an_address_in_a_path_is_a_part_of_the_path(
    target: str, expected: str | None, bait: Bait, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """It goes to the upstream as it came, and is read by nobody here."""
    upstream.will_send(plain(LIST))
    named = {"bait": bait.address, "port": bait.port}

    response = await proxy.send("GET", target.format(**named))

    lines = [received.request_line for received in upstream.received]
    assert lines == ([f"GET {expected.format(**named)} HTTP/1.1"] if expected else [])
    assert (response.status == 200) == bool(expected)


HOSTS: list[tuple[str, ...]] = [
    ("Host: {bait}",),
    ("Host: user@{bait}",),
    ("Host: [::1]:{port}",),
    ("Host: {bait}/v1/x?",),
    ("Host: ",),
    ("Host: proxy.test", "X-Forwarded-Host: {bait}", "X-Forwarded-Proto: https", "X-Forwarded-Port: {port}"),
    ("Host: proxy.test", "Forwarded: host={bait};proto=https", "X-Host: {bait}", "X-Original-Host: {bait}"),
    ("Host: proxy.test", "X-Original-URL: http://{bait}/", "X-Rewrite-URL: /admin", "X-HTTP-Method-Override: DELETE"),
    ("Host: proxy.test", "Connection: host, close", "Proxy-Connection: keep-alive"),
    ("Host: proxy.test", "Proxy-Authorization: Basic x", "Via: 1.1 {bait}", "Destination: http://{bait}/"),
]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_header_chooses_the_upstream(
    method: str, bait: Bait, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """It gets its own name as Host, once, and the target that was asked for."""
    upstream.will_send(plain(LIST))
    target = CHAT if method == "POST" else "/v1/models"
    for fields in HOSTS:
        lines = [field.format(bait=bait.address, port=bait.port) for field in fields]
        connection = await proxy.connect()
        connection.send("\r\n".join([f"{method} {target} HTTP/1.1", *lines, "Content-Length: 2", "\r\n{}"]).encode())
        assert (await connection.response()).status == 200, fields

    for received in upstream.received:
        assert received.header("host") == [host_of(upstream).decode()]
        assert received.request_line == f"{method} {target} HTTP/1.1"


@pytest.mark.parametrize("lines", [(), ("Host: a", "Host: a"), ("Host: a", "host: b"), ("Host : a",), (" Host: a",)])
async def test_a_request_names_one_host(lines: tuple[str, ...], proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """None or two are read differently by different servers (RFC 9112 section 3.2)."""
    connection = await proxy.connect()

    connection.send("\r\n".join(["GET /v1/models HTTP/1.1", *lines, "\r\n"]).encode())

    await refused(await connection.response(), 400, "bad_request")
    assert await connection.rest() == b""
    assert upstream.connections_seen == 0


async def test_http_1_0_needs_no_host(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """It came before it; the upstream gets one all the same."""
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()

    connection.send(b"GET /v1/models HTTP/1.0\r\n\r\n")

    assert (await connection.response()).status == 200
    assert upstream.received[0].header("host") == [host_of(upstream).decode()]


async def test_a_redirect_is_the_clients_to_follow(bait: Bait, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Followed here, it would take the caller's credential wherever an upstream likes."""
    moved = plain(b"", b"Location: http://" + bait.address.encode() + b"/v1/models", status=b"307 Temporary Redirect")
    upstream.will_send(moved)

    response = await proxy.ask()

    assert response.status == 307
    assert upstream.requests_seen == 1


async def test_a_proxy_in_the_environment_is_not_used(
    bait: Bait, start_proxy: StartProxy, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CGI server sets HTTP_PROXY from a request's `Proxy` field, and such a thing may stand in front of us."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://{bait.address}")
    upstream.will_send(plain(LIST))
    proxy = await start_proxy()

    assert (await proxy.send("GET", "/v1/models", [("Proxy", f"http://{bait.address}")])).status == 200
    assert upstream.requests_seen == 1


# Requests that hide in others

HIDDEN = request_bytes("DELETE", "/v1/files/hidden", [("Authorization", "Bearer sk-EVIL")])
EARLY = {
    "no route": request("POST /nowhere HTTP/1.1", b"Content-Length: %d" % len(HIDDEN), body=HIDDEN),
    "a method": request("TRACE /v1/files HTTP/1.1", b"Content-Length: %d" % len(HIDDEN), body=HIDDEN),
    "a target": request("POST /v1/../x HTTP/1.1", b"Content-Length: %d" % len(HIDDEN), body=HIDDEN),
    "a health check": request("GET /healthz HTTP/1.1", b"Content-Length: %d" % len(HIDDEN), body=HIDDEN),
    "a control": request(
        f"POST {CHAT} HTTP/1.1", b"X-Reprise-Sample: x", b"Content-Length: %d" % len(HIDDEN), body=HIDDEN
    ),
    "an expectation": request(f"POST {CHAT} HTTP/1.1", b"Expect: x", b"Content-Length: %d" % len(HIDDEN), body=HIDDEN),
    "a length": request(f"POST {CHAT} HTTP/1.1", b"Content-Length: 900000000000", body=HIDDEN),
    "a coding": request(f"POST {CHAT} HTTP/1.1", b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n" + HIDDEN),
    "chunks": request("POST /nowhere HTTP/1.1", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN),
    "trailers": request("POST /nowhere HTTP/1.1", b"Transfer-Encoding: chunked", body=b"0\r\n" + HIDDEN),
    "the longest length": request("POST /v1/files HTTP/1.1", b"Content-Length: 18446744073709551615", body=HIDDEN),
    "an upgrade": request("GET /nowhere HTTP/1.1", b"Connection: upgrade", b"Upgrade: h2c") + HIDDEN,
}


@pytest.mark.parametrize("form", EARLY)
@pytest.mark.parametrize("apart", [False, True])
async def test_a_request_in_the_body_of_another_is_never_served(
    form: str, proxy: Proxy, upstream: ScriptedUpstream, *, apart: bool
) -> None:
    """Where the one around it is answered before its end; whether both come together or not."""
    connection = await proxy.connect()
    head, _, body = EARLY[form].partition(b"\r\n\r\n")
    connection.send(head + b"\r\n\r\n" + (b"" if apart else body))
    await (await connection.response()).body()

    connection.send((body if apart else b"") + request("GET /healthz HTTP/1.1", b"Connection: close"))

    rest = await connection.rest()
    assert rest.count(b"HTTP/1") <= 1, "an answer to the health check, if the connection went on"
    assert rest.endswith(b'{"status":"ok"}') or not rest
    assert upstream.requests_seen == 0
    await still_serves(proxy, upstream)


async def test_a_request_in_a_body_that_is_passed_on_stays_in_it(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """On either kind of route, the upstream sees one request with that body."""
    upstream.will_send(plain(LIST))

    for target in (CHAT, "/v1/files"):
        assert (await proxy.send("POST", target, body=HIDDEN)).status == 200

    assert [received.body for received in upstream.received] == [HIDDEN] * 2
    assert [received.header("authorization") for received in upstream.received] == [[], []]


@pytest.mark.parametrize(
    "trailer", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Host: x", b"Authorization: Bearer sk-EVIL", b":"]
)
async def test_a_trailer_changes_nothing(trailer: bytes, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """It is dropped, or the request is refused; it is a header of neither this request nor the next."""
    upstream.will_send(*stream())
    connection = await proxy.connect()
    fields = [b"Content-Type: application/json", b"Transfer-Encoding: chunked"]
    body = b'{"stream":true}'

    connection.send(
        request(f"POST {CHAT} HTTP/1.1", *fields, body=b"%x\r\n%b\r\n0\r\n%b\r\n\r\n" % (15, body, trailer))
    )
    connection.send(request_bytes("GET", "/v1/models"))

    response = await connection.response()
    if response.status == 200:
        assert await response.body() == STREAM
        (received,) = upstream.received
        assert (received.body, received.header("content-length")) == (body, ["15"])
        assert trailer.partition(b":")[2] not in received.head or trailer == b":"
    else:
        await refused(response, 400, "bad_request")
        assert upstream.requests_seen == 0
    assert await connection.rest() == b""
    upstream.will_send(*stream())
    assert await words(proxy.ask(STREAMED)) == ["MISS"]
