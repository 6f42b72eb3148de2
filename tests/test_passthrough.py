"""Pass-through: the upstream gets what the client sent, the client gets what the upstream sent, and nothing is kept."""

import asyncio
import gzip
import hashlib
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.by_hand import Link, UpstreamByHand, host_of, quiet, read_on, stop_reading
from tests.conftest import StartProxy
from tests.harness import CHAT, LAST_CHUNK, PROMPT, Barrier, Proxy, ScriptedUpstream, chunk, plain, sse_head
from tests.raw import LIST, MiB, ask_raw, request

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def without_ours(head: bytes) -> list[bytes]:
    """The lines of a head without the fields that the proxy has added."""
    ours = (b"Cache-Status:", b"X-Cache-Status:", b"X-Reprise-Id:")
    return [line for line in head.removesuffix(b"\r\n\r\n").split(b"\r\n") if not line.startswith(ours)]


# What is asked for


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_reaches_the_upstream(method: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """`/v1/...` is the upstream's API, whatever is asked of it, and its answers are not kept."""
    answer = plain(LIST)
    upstream.will_send(answer.removesuffix(LIST) if method == "HEAD" else answer)

    for _ in range(2):
        response = await proxy.send(method, "/v1/files/file-1")
        assert response.status == 200
        assert response.get("x-cache-status") == "BYPASS"
        assert await response.body() == (b"" if method == "HEAD" else LIST)

    assert [received.request_line for received in upstream.received] == [f"{method} /v1/files/file-1 HTTP/1.1"] * 2


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models?",
        "/v1/models?a=b&a=c&&=&b",
        "/v1/files?after=%41%2f%2F+x&path=../../etc&u=http://x//y?z=\\",
        "/v1/files/a%2Fb%20c%C3%a9%zz%",
        "/v1/a;b=c/@x:1/!$&'()*+,=~[]{}|^`\"<>",
        "/v1/",
    ],
)
async def test_a_target_travels_untouched(target: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Nothing is decoded, encoded, sorted or cut off: two readers of a target must not differ."""
    upstream.will_send(plain(LIST))

    response = await proxy.send("GET", target)

    assert response.status == 200
    assert upstream.received[0].request_line == f"GET {target} HTTP/1.1"


_PIECES = [*"aZ09-_~!$&'()*+,;=:@[]{}|^`\"<>", "%20", "%2F", "%c3%A9", "%41", "%", "%zz", "a/b"]
_CONTROL = re.compile("%0[09a]", re.IGNORECASE)  # is refused, and may come of three pieces
_PATHS = st.lists(st.sampled_from(_PIECES), max_size=12).map("".join).filter(lambda path: not _CONTROL.search(path))
_QUERIES = st.lists(st.sampled_from([*_PIECES, "?", "//", "/../", "\\"]), max_size=12).map("".join)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=_PATHS, query=st.none() | _QUERIES)
async def test_any_target_travels_untouched(
    path: str, query: str | None, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """The same for whatever path and query a client may think of."""
    upstream.will_send(plain(LIST))
    target = f"/v1/x{path}" + ("" if query is None else f"?{query}")

    response = await proxy.send("GET", target)

    assert response.status == 200
    assert upstream.received[-1].request_line == f"GET {target} HTTP/1.1"


@pytest.mark.parametrize(("base", "there"), [("", "/models"), ("/", "/models"), ("/a/b%20c/v2", "/a/b%20c/v2/models")])
async def test_v1_here_is_the_base_url_there(
    base: str, there: str, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """`/v1/X` is `{base_url}/X`, wherever the upstream keeps its API."""
    upstream.will_send(plain(LIST))
    proxy = await start_proxy(upstream__base_url=upstream.base_url.removesuffix("/v1") + base)

    await proxy.send("GET", "/v1/models")

    assert upstream.received[0].request_line == f"GET {there} HTTP/1.1"


# The head of a request


async def test_nothing_is_invented(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """No User-Agent, no Accept, no Accept-Encoding, no Content-Type that the client has not sent."""
    upstream.will_send(plain(LIST))

    await ask_raw(proxy, request("GET /v1/models HTTP/1.1"))
    await ask_raw(proxy, request("POST /v1/files HTTP/1.1", b"Content-Length: 2", body=b"{}"))

    host = b"Host: " + host_of(upstream)
    assert upstream.received[0].head == b"GET /v1/models HTTP/1.1\r\n" + host + b"\r\n\r\n"
    assert upstream.received[1].head == b"POST /v1/files HTTP/1.1\r\n" + host + b"\r\nContent-Length: 2\r\n\r\n"


async def test_request_fields_keep_their_order_spelling_and_bytes(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Also where a name is spelled in two ways, and where a value is not ASCII, in UTF-8 or not."""
    upstream.will_send(plain(LIST))
    fields = [
        b"X-Twice: 1",
        b"user-AGENT: me/1.0 (\xc3\xa9)",
        b"x-twice: 2, 3",
        b"X-Latin: caf\xe9 \xff",
        b"X-Twice: 1",
        b"X-Empty: ",
        b"Cookie: a=b; c=d",
        b"Accept-Encoding: br;q=1.0, gzip",
        b'X-Quoted: "a, b"\t; c',
        b"X-Forwarded-For: 192.0.2.1",
    ]

    await ask_raw(proxy, request("GET /v1/models HTTP/1.1", *fields))

    _, host, *passed = upstream.received[0].head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert host == b"Host: " + host_of(upstream)
    assert passed == fields


@pytest.mark.parametrize("target", ["/v1/files", CHAT])
async def test_what_speaks_of_this_connection_stays_here(target: str, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Hop-by-hop fields, those that Connection names, and what is said to the proxy alone (RFC 9110 section 7.6.1)."""
    upstream.will_send(plain(LIST))
    hop_by_hop = {
        "Connection": "keep-alive, X-Mine, authorization, CONTENT-TYPE, content-length, host",
        "X-Mine": "1",
        "Keep-Alive": "timeout=5",
        "Proxy-Connection": "keep-alive",
        "Proxy-Authorization": "Basic c2stQ0FOQVJZ",
        "TE": "trailers",
        "Trailer": "X-Checksum",
        "Upgrade": "h2c",
        "Expect": "100-continue",
        "X-Reprise-Namespace": "n",
        "X-Reprise-Sample": "1",
        "X-Reprise-Pace": "instant",
    }

    await proxy.ask(PROMPT, target, hop_by_hop)

    head = upstream.received[0].head.decode().lower()
    assert not [name for name in hop_by_hop if f"\r\n{name.lower()}:" in head]
    assert upstream.received[0].header("authorization") == ["Bearer sk-CANARY"]
    assert upstream.received[0].header("content-type") == ["application/json"]
    assert upstream.received[0].header("host") == [host_of(upstream).decode()]


async def test_the_client_chooses_the_coding_but_on_cached_routes(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """What may be replayed to anyone has to be readable by everyone."""
    upstream.will_send(plain(LIST))

    for target in ("/v1/files", CHAT):
        await proxy.ask(PROMPT, target, {"Accept-Encoding": "gzip, br"})

    assert [received.header("accept-encoding") for received in upstream.received] == [["gzip, br"], ["identity"]]


async def test_our_key_takes_the_place_of_the_callers(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """With `upstream.api_key` set no credential of a caller is seen by the upstream."""
    upstream.will_send(plain(LIST))
    proxy = await start_proxy(upstream__api_key="sk-OURS")

    for target in ("/v1/files", CHAT):
        await proxy.ask(PROMPT, target)

    assert [received.header("authorization") for received in upstream.received] == [["Bearer sk-OURS"]] * 2


# The answer


RETRIED_BY_SDKS = (
    b"Retry-After: 20",
    b"retry-after-ms: 20000",
    b"x-should-retry: true",
    b"x-request-id: req_1",
    b"x-ratelimit-remaining-requests: 0",
    b"x-ratelimit-reset-requests: 1s",
    b"Set-Cookie: a=1",
    b"Set-Cookie: b=2",
)


@pytest.mark.parametrize("target", ["/v1/files", CHAT])
@pytest.mark.parametrize(
    "status",
    [
        b"201 Created",
        b"206 Partial Content",
        b"301 Moved Permanently",
        b"307 Temporary Redirect",
        b"400 Bad Request",
        b"401 Unauthorized",
        b"404 Not Found",
        b"408 Request Timeout",
        b"429 Too Many Requests",
        b"500 Internal Server Error",
        b"503 ",
        b"529 Site is overloaded",
    ],
)
async def test_what_is_no_success_passes_as_it_is(
    status: bytes, target: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Redirects are not followed, errors neither retried nor rewritten, and none of them is recorded."""
    fields = (*RETRIED_BY_SDKS, b"Location: http://127.0.0.1:1/elsewhere")
    answer = plain(b'{"error":{"code":"upstreams_own"}}', *fields, status=status)
    upstream.will_send(answer)

    for _ in range(2):
        connection = await proxy.connect()
        body = b'{"model":"m"}'
        head = b"Content-Type: application/json", b"Content-Length: %d" % len(body)
        connection.send(request(f"POST {target} HTTP/1.1", *head, body=body))
        raw = await connection.reader.readuntil(b"\r\n\r\n")
        assert without_ours(raw) == without_ours(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        assert await connection.reader.readexactly(34) == b'{"error":{"code":"upstreams_own"}}'

    assert upstream.requests_seen == 2


async def test_response_fields_keep_their_order_spelling_and_bytes(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Ours stand behind them."""
    fields = [
        b"x-zeta: 1",
        b"X-Alpha: caf\xc3\xa9",
        b"X-Zeta: 2",
        b"X-Latin: caf\xe9",
        b"openai-PROCESSING-ms: 12",
        b"Server: upstream/1.0",
        b"X-Empty: ",
        b"Date: Sat, 01 Nov 2025 00:00:00 GMT",
        b'Cache-Status: "other"; hit',
    ]
    upstream.will_send(plain(LIST, *fields, status=b"200 Alles \xc3\xa4h"))

    head = await ask_raw(proxy, request("GET /v1/models HTTP/1.1"))

    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 Alles \xc3\xa4h"
    assert lines[3:-3] == fields
    assert [line.partition(b":")[0] for line in lines[-3:]] == [b"Cache-Status", b"X-Cache-Status", b"X-Reprise-Id"]


@pytest.mark.parametrize("target", ["/v1/files", CHAT])
async def test_what_speaks_of_the_upstreams_connection_stays_there(
    target: str, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Hop-by-hop fields and those that Connection names, but not what the client needs to read the body."""
    hop_by_hop = (
        b"Connection: close, x-mine, Content-Length, content-type",
        b"X-Mine: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Authenticate: Basic",
        b"Trailer: X-Checksum",
        b"Upgrade: h2c",
        b"TE: x",
        b"X-Reprise-Id: theirs",
        b"X-Cache-Status: HIT",
    )
    upstream.will_send(plain(LIST, *hop_by_hop))

    response = await proxy.ask(PROMPT, target)

    assert await response.body() == LIST
    assert [name.lower() for name, _ in response.headers] == [
        *("content-type", "content-length"),
        *("cache-status", "x-cache-status", "x-reprise-id"),
    ]
    assert response.get("x-cache-status") != "HIT"


async def test_a_compressed_answer_passes_as_it_is(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Neither its bytes nor what is said of them changes."""
    packed = gzip.compress(LIST, mtime=0)
    upstream.will_send(plain(packed, b"Content-Encoding: gzip"))

    response = await proxy.send("GET", "/v1/models", [("Accept-Encoding", "gzip")])

    assert await response.body() == packed
    assert response.get("content-encoding") == "gzip"


async def test_a_cookie_belongs_to_its_client(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """It is passed on, and never sent with another request."""
    upstream.will_send(plain(LIST, b"Set-Cookie: session=sk-CANARY; Path=/"))

    responses = [await proxy.send("GET", "/v1/models") for _ in range(2)]

    assert [response.get("set-cookie") for response in responses] == ["session=sk-CANARY; Path=/"] * 2
    assert b"sk-CANARY" not in upstream.received[1].head


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 404 Not Found\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
        ("DELETE", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
async def test_an_answer_without_a_body_ends_with_its_head(
    method: str, answer: bytes, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """No body and no empty chunked one, which would be read as the beginning of the next answer."""
    upstream.will_send(answer)
    upstream.will_send(plain(LIST))
    connection = await proxy.connect()

    connection.send(request(f"{method} /v1/files HTTP/1.1"))
    first = await connection.response(method)
    connection.send(request("GET /v1/models HTTP/1.1"))
    second = await connection.response()

    assert first.get("transfer-encoding") is None
    assert first.get("connection") is None
    assert (second.status, await second.body()) == (200, LIST)


@pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints", b"199 Whatever"])
async def test_interim_responses_are_swallowed(interim: bytes, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """They were for the proxy; the client gets one answer, the final one."""
    barrier = Barrier()
    upstream.will_send(b"HTTP/1.1 %b\r\nLink: </x>\r\n\r\n" % interim, barrier, plain(LIST))
    connection = await proxy.connect()
    connection.send(request("GET /v1/models HTTP/1.1"))
    await barrier.reached.wait()
    barrier.release()

    response = await connection.response()

    assert (response.status, await response.body()) == (200, LIST)
    assert response.get("link") is None


async def test_an_answer_keeps_its_own_framing(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """A length stays a length, chunks stay chunks, and what ends by closing becomes chunks."""
    upstream.will_send(plain(LIST))
    upstream.will_send(sse_head() + chunk(LIST) + LAST_CHUNK)
    responses = [await proxy.send("GET", "/v1/models") for _ in range(2)]

    assert [await response.body() for response in responses] == [LIST, LIST]
    assert [response.get("content-length") for response in responses] == [str(len(LIST)), None]
    assert [response.get_all("transfer-encoding") for response in responses] == [[], ["chunked"]]


async def test_a_large_download_is_not_held_in_memory(by_hand: UpstreamByHand, start_proxy: StartProxy) -> None:
    """While the client takes nothing the upstream is not read either."""
    size, piece = 64 * MiB, bytes(MiB)
    proxy = await start_proxy(upstream__base_url=by_hand.base_url)
    client = await proxy.connect()
    stop_reading(client)
    client.send(request("GET /v1/files/file-1/content HTTP/1.1"))
    link = await by_hand.accepted()
    await link.head()
    taken = 0

    async def download(link: Link) -> None:
        nonlocal taken
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            link.send(piece)
            await link.writer.drain()
            taken += len(piece)

    downloading = asyncio.create_task(download(link))

    assert await quiet(lambda: taken) < 24 * MiB, "more than the kernel's buffers between two and two sockets"

    read_on(client)
    response = await client.response()
    received = hashlib.sha256()
    for _ in range(size // len(piece)):
        received.update(await client.reader.readexactly(len(piece)))
    await downloading
    assert response.get("content-length") == str(size)
    assert received.digest() == hashlib.sha256(bytes(size)).digest()
