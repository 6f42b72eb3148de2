"""Values that are meant to become something else: a header, a second answer, another line of the log."""

import re

import orjson
import pytest

from proxy import events
from tests.conftest import Log, StartProxy
from tests.exchanges import names, recording_of, store_of, word
from tests.harness import ANSWER, CHAT, PROMPT, Proxy, ScriptedUpstream, plain, request_bytes
from tests.raw import LIST, MODELS, ask_raw, refused, request

OBS_TEXT = bytes(range(0x80, 0x100))

_STATUS_LINE = re.compile(rb"HTTP/1\.1 [1-5][0-9]{2} [\t -~]*")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t -~\x80-\xff]*")


def fields_of(head: bytes) -> list[bytes]:
    """The lines of a head, each of which is what it should be."""
    status_line, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert _STATUS_LINE.fullmatch(status_line), status_line
    for field in fields:
        assert _FIELD.fullmatch(field), field
    return fields


# What a client says of itself

INJECTING = [
    b"n\nX-Injected: 1",
    b"n\rX-Injected: 1",
    b"n\x00X-Injected: 1",
    b"n\n\nHTTP/1.1 200 OK",
    b"n\r\n X-Injected: 1",
]
ODD = [b"\xe5\x98\x8d\xe5\x98\x8aX-Injected:1", b"%0d%0aX-Injected:%201", b"\\r\\nX-Injected: 1", OBS_TEXT, b'"; hit']


@pytest.mark.parametrize("name", [b"X-Reprise-Namespace", b"X-Reprise-Sample", b"X-Reprise-Pace", b"X-Reprise-Other"])
async def test_a_control_header_is_no_way_into_the_answer(
    name: bytes, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Neither as it is, nor where its value is read with other eyes; what is wrong with it is said in JSON."""
    for value in INJECTING:
        answer = await ask_raw(proxy, request(f"POST {CHAT} HTTP/1.1", name + b": " + value, b"Content-Length: 0"))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert not any(b"Injected" in field for field in fields_of(answer))
    for value in ODD:
        connection = await proxy.connect()
        connection.send(request(f"POST {CHAT} HTTP/1.1", name + b": " + value, b"Content-Length: 0"))
        response = await connection.response()
        assert not [field for field in response.headers if "njected" in "".join(field)]
        await refused(response, 400, "bad_request")
    assert upstream.connections_seen == 0


@pytest.mark.parametrize("name", [b"Cache-Control", b"Origin", b"Accept", b"Cookie", b"X-Forwarded-For", b"User-Agent"])
async def test_no_header_of_a_request_is_in_the_answer(name: bytes, proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """On a miss and on a hit; the upstream gets its bytes as they came."""
    upstream.will_send(plain(ANSWER))
    for value in ODD:
        fields = [b"Content-Type: application/json", b"Content-Length: 2", name + b": " + value]
        head = await ask_raw(proxy, request(f"POST {CHAT} HTTP/1.1", *fields, body=b"{}"))
        assert not [field for field in fields_of(head) if b"njected" in field or OBS_TEXT in field]

    if name != b"Cache-Control":
        assert name + b": " + ODD[0] in upstream.received[0].head


async def test_bytes_beyond_ascii_travel_as_they_are(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """In both directions, in no character set (RFC 9110 section 5.5)."""
    upstream.will_send(plain(LIST, b"X-Back: " + OBS_TEXT))

    head = await ask_raw(proxy, MODELS.replace(b"\r\n\r\n", b"\r\nX-There: " + OBS_TEXT + b"\r\n\r\n"))

    assert b"X-Back: " + OBS_TEXT in fields_of(head)
    assert b"\r\nX-There: " + OBS_TEXT + b"\r\n" in upstream.received[0].head


# What ends up in the log


@pytest.mark.parametrize("form", ["json", "console"])
async def test_nothing_of_a_request_makes_a_line_of_the_log(
    form: events.Format, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """Model, path and method are the client's; a terminal shows them and does nothing else."""
    written = Log()
    events.configure(form, "debug", written)
    upstream.will_send(plain(ANSWER))
    model = 'm\n{"event":"request","outcome":"complete"}\r\x1b[2J\x9b2J\u2028\u202e\x00' + "m" * 5000
    await word(proxy.ask({**PROMPT, "model": model}))
    for target in ("/v1/%1b%5b2J%0a", '/v1/{"event":"request"}', "/v1/\\u001b[2J", "/v1/" + "m" * 5000):
        await (await proxy.send("GET", target)).body()
    await (await proxy.send("M-SEARCH", "/nowhere\u00e9")).body()

    lines = written.getvalue().split("\n")

    assert lines.pop() == ""
    assert len(lines) == 6
    assert all(len(line) < 4000 for line in lines)
    if form == "json":
        assert all(orjson.loads(line)["outcome"] for line in lines)
    else:
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models?key=sk-CANARY",
        "http://user:sk-CANARY@proxy.test/v1/models?sk-CANARY",
        "//sk-CANARY@proxy.test/v1/models",
    ],
)
async def test_a_credential_in_a_target_is_not_logged(
    target: str, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """Whether the request is served or refused; and the answer to it says nothing of it either."""
    upstream.will_send(plain(LIST))

    body = await (await proxy.send("GET", target)).body()

    assert b"sk-CANARY" not in body
    await log.line()
    assert "sk-CANARY" not in log.getvalue()


# What somebody has written into the store


PLANTED = [
    (b"x-request-id", b"1\r\nX-Injected: 1"),
    (b"x-request-id", b"1\nX-Injected: 1"),
    (b"x-request-id", b"1\r\n\r\nHTTP/1.1 200 OK"),
    (b"x-request-id", b"1\x00"),
    (b"x-request-id\r\nX-Injected", b"1"),
    (b"X-Injected", b"1"),
    (b"Set-Cookie", b"X-Injected=1"),
    (b"Content-Length", b"1"),
    (b"Transfer-Encoding", b"chunked"),
    (b"Location", b"http://proxy.test/"),
    (b"x-reprise-id", b"X-Injected"),
]


async def test_a_planted_header_is_never_replayed(start_proxy: StartProxy, upstream: ScriptedUpstream) -> None:
    """The whole entry is a miss; what a replay says is what a live answer says."""
    upstream.will_send(plain(ANSWER))
    first = await start_proxy()
    for number, planted in enumerate(PLANTED):
        recording = await recording_of(first, await first.ask({"seed": number}))
        head = recording.head._replace(headers=(*recording.head.headers, planted))
        assert store_of(first).keep(recording._replace(head=head))
    await first.app.stop()
    proxy = await start_proxy()

    for number in range(len(PLANTED)):
        response = await proxy.ask({"seed": number})
        expected = ["cache-status", "content-length", "content-type", "x-cache-status", "x-reprise-id"]
        assert names(response.headers) == expected
        assert response.get("content-length") == str(len(ANSWER))
        assert await response.body() == ANSWER
        assert response.get("x-cache-status") == "MISS"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("OK\r\nX-Injected: 1", "MISS"), ("OK\n", "MISS"), ("OK\x00", "MISS"), ("\x7f", "MISS"), ("Fine", "HIT")],
)
async def test_a_planted_status_line_is_never_replayed(
    reason: str, expected: str, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """It is the first line of what would be believed; one that is fit to be sent is taken."""
    upstream.will_send(plain(ANSWER))
    first = await start_proxy()
    recording = await recording_of(first, await first.ask())
    assert store_of(first).keep(recording._replace(head=recording.head._replace(reason=reason)))
    await first.app.stop()

    response = await (await start_proxy()).ask()

    assert response.get("x-cache-status") == expected
    assert response.reason == ("OK" if expected == "MISS" else reason)
    assert await response.body() == ANSWER


async def test_an_error_is_json_whatever_it_quotes(proxy: Proxy) -> None:
    """A name may have any letter that a header's name may have, and be as long as one may be."""
    name = b"X-Reprise-!#$%&'*+.^_`|~" + b"a" * 30_000
    connection = await proxy.connect()

    connection.send(request(f"POST {CHAT} HTTP/1.1", name + b": 1", b"Content-Length: 0"))

    response = await connection.response()
    error = orjson.loads(await response.body())["error"]
    assert error["code"] == "bad_request"
    assert len(error["message"]) < 1000
    connection.send(request_bytes("GET", "/healthz"))
    assert (await connection.response()).status == 200
