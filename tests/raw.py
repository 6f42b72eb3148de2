"""Requests spelled out in bytes, and what many tests say of an answer."""

from tests.harness import CHAT, STREAM, STREAMED, Proxy, Response, ScriptedUpstream, plain, stream

LIST = b'{"object":"list","data":[]}'
PASSED = "/v1/files"
"""A route that is not cached."""
ROUTES = [CHAT, PASSED]
MiB = 1024 * 1024


def request(line: str, *fields: bytes, body: bytes = b"") -> bytes:
    """A request with these fields and no others but Host."""
    return b"\r\n".join([line.encode(), b"Host: proxy.test", *fields]) + b"\r\n\r\n" + body


MODELS = request("GET /v1/models HTTP/1.1")


async def ask_raw(proxy: Proxy, raw: bytes) -> bytes:
    """Send these bytes on a connection of their own; the head of the answer, byte for byte."""
    connection = await proxy.connect()
    connection.send(raw)
    return await connection.reader.readuntil(b"\r\n\r\n")


async def refused(response: Response, status: int, code: str, *private: str) -> None:
    """It is an error of ours, in OpenAI's form, and tells nobody where the upstream is."""
    assert response.status == status
    assert response.get("content-type") == "application/json"
    assert response.get("x-reprise-id")
    error = (await response.json())["error"]
    assert isinstance(error, dict)
    assert (error["code"], error["type"], error["param"]) == (code, "reprise_error", None)
    assert error["message"]
    for secret in ("127.0.0.1", "localhost", "http://", "https://", "sk-CANARY", *private):
        assert secret not in error["message"]


async def still_serves(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Whatever came before, the next request is answered."""
    upstream.will_send(plain(LIST))
    response = await proxy.send("GET", "/v1/models/next")
    assert (response.status, await response.body()) == (200, LIST)


async def nothing_is_recorded(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """The next one who asks is answered by the upstream, in full."""
    upstream.will_send(*stream())
    response = await proxy.ask(STREAMED)
    assert response.get("x-cache-status") == "MISS"
    assert await response.body() == STREAM
