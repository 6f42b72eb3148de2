"""TLS to the upstream: whom the proxy believes, and that a stream cut within TLS is a broken one too."""

import socket
import ssl
import struct
from asyncio import start_server
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import orjson
import pytest
import pytest_asyncio
import trustme

from tests.by_hand import Link, UpstreamByHand, host_of
from tests.commands import connect, running
from tests.harness import (
    CHAT,
    DONE,
    HELLO,
    LAST_CHUNK,
    STREAM,
    STREAMED,
    WORLD,
    Connection,
    chunk,
    request_bytes,
    sse_head,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG_AGO, AGO = datetime(2001, 1, 1, tzinfo=UTC), datetime(2002, 1, 1, tzinfo=UTC)
HEAD = sse_head(b"Connection: close")  # so that the next request shakes hands anew


class Served:
    """A proxy process, and its upstream, which speaks TLS."""

    def __init__(self, authority: trustme.CA, context: ssl.SSLContext, upstream: UpstreamByHand) -> None:
        self.authority = authority
        self.upstream = upstream
        self.base_url = ""
        self.handshakes = 0
        self._context = context
        context.sni_callback = self._note_handshake

    def show(self, certificate: trustme.LeafCert) -> None:
        """What the upstream shows from now on."""
        certificate.configure_cert(self._context)

    async def ask(self, prompt: str) -> Connection:
        client = await connect(self.base_url)
        body = orjson.dumps({**STREAMED, "prompt": prompt})
        client.send(request_bytes("POST", CHAT, [("Content-Type", "application/json")], body))
        return client

    async def asked(self) -> Link:
        """The upstream's end of a request that has come."""
        link = await self.upstream.accepted()
        await link.read(int((await link.head()).header("content-length")[0]))
        return link

    async def answers(self, prompt: str) -> None:
        """A request is answered, whatever came before."""
        self.show(self.authority.issue_cert("127.0.0.1"))
        client = await self.ask(prompt)
        (await self.asked()).send(HEAD + chunk(STREAM) + LAST_CHUNK)
        response = await client.response()
        assert response.get("x-cache-status") == "MISS"
        assert await response.body() == STREAM
        await client.close()

    def _note_handshake(self, *_: object) -> None:
        self.handshakes += 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    directory = tmp_path_factory.mktemp("tls")
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(str(directory / "authority.pem"))
    authority.issue_cert("127.0.0.1").configure_cert(context)
    upstream = UpstreamByHand()
    upstream._server = await start_server(upstream._accept, "127.0.0.1", 0, ssl=context)
    served = Served(authority, context, upstream)
    base_url = upstream.base_url.replace("http:", "https:")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SSL_CERT_FILE", str(directory / "authority.pem"))
        async with running("serve", "--port", 0, at=directory, upstream__base_url=base_url) as command:
            served.base_url = (await command.line()).partition("=")[2]
            yield served
    await upstream.__aexit__()


async def test_a_stream_over_tls_is_passed_on_as_it_comes(served: Served) -> None:
    """Byte for byte, each write before the next one; and recorded."""
    client = await served.ask("stream")
    link = await served.asked()
    link.send(HEAD)
    response = await client.response()
    for frame in (HELLO[:1], HELLO[1:], WORLD, DONE):
        link.send(chunk(frame))
        assert await response.next_chunk() == frame
    link.send(LAST_CHUNK)
    assert await response.next_chunk() == b""

    again = await served.ask("stream")

    hit = await again.response()
    assert (hit.get("x-cache-status"), await hit.body()) == ("HIT", STREAM)
    assert await link.rest() == b""
    await client.close()
    await again.close()


def close_cleanly(link: Link) -> None:
    link.writer.close()


def close_without_a_word(link: Link) -> None:
    """FIN, and no `close_notify` before it: anyone on the way could have sent that."""
    link.writer.get_extra_info("socket").shutdown(socket.SHUT_WR)


def reset(link: Link) -> None:
    link.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.writer.transport.abort()


def garble(link: Link) -> None:
    """A record that nobody has encrypted."""
    link.writer.get_extra_info("socket")._sock.send(b"\x17\x03\x03\x00\x05hello")


@pytest.mark.parametrize("cut", [close_cleanly, close_without_a_word, reset, garble])
@pytest.mark.parametrize("framing", ["chunked", "length", "until closed"])
async def test_a_stream_cut_within_tls_has_no_end(framing: str, cut: Callable[[Link], None], served: Served) -> None:
    """All that came reaches the client, then the transfer breaks; nothing of it is recorded."""
    prompt = f"{framing}, {cut.__name__}"
    client = await served.ask(prompt)
    link = await served.asked()
    plain_head = HEAD.replace(b"Transfer-Encoding: chunked\r\n", b"")
    link.send(
        {
            "chunked": HEAD + chunk(HELLO),
            "length": plain_head.replace(b"\r\n\r\n", b"\r\nContent-Length: 5000\r\n\r\n") + HELLO,
            "until closed": plain_head + HELLO,
        }[framing]
    )
    response = await client.response()
    if response.get("transfer-encoding"):
        assert await response.next_chunk() == HELLO
    else:
        response.chunks.append(await client.reader.readexactly(len(HELLO)))

    cut(link)

    assert await response.body_broken_off() == HELLO
    await client.close()
    await served.answers(prompt)


CERTIFICATES: dict[str, Callable[[trustme.CA], trustme.LeafCert]] = {
    "of an unknown authority": lambda _: trustme.CA().issue_cert("127.0.0.1"),
    "expired": lambda authority: authority.issue_cert("127.0.0.1", not_before=LONG_AGO, not_after=AGO),
    "for another name": lambda authority: authority.issue_cert("upstream.test"),
    "for another address": lambda authority: authority.issue_cert("127.0.0.2"),
}


@pytest.mark.parametrize("what", CERTIFICATES)
async def test_a_certificate_that_proves_nothing(what: str, served: Served) -> None:
    """502, at once and for all: neither the proxy nor the client tries again, and no request goes out."""
    served.show(CERTIFICATES[what](served.authority))
    served.handshakes = 0
    client = await served.ask(what)

    response = await client.response()

    assert (response.status, response.get("x-should-retry")) == (502, "false")
    error = orjson.loads(await response.body())["error"]
    assert error["code"] == "upstream_unreachable"
    assert "certificate" in error["message"]
    assert "SSL_CERT_FILE" in error["message"]
    assert host_of(served.upstream).decode() not in error["message"]
    assert served.handshakes == 1
    await client.close()
    await served.answers(what)
