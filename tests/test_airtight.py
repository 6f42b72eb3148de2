"""In `replay` mode the upstream is never contacted, whatever is asked: no connection is made, and no name looked up."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.commands import connect, running
from tests.conftest import StartProxy
from tests.exchanges import keep_copy, recording_of, word
from tests.harness import ANSWER, CHAT, NOWHERE, PROMPT, STREAMED, Proxy, ScriptedUpstream, plain, request_bytes

NOBODY = "http://upstream.invalid/v1"
TARGETS = [
    *(CHAT, f"{CHAT}?api-version=1", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/moderations"),
    *("/v1/models", "/v1/files", "/v1/images/generations", "/v1/responses/resp_1", "/v1/x%2Fy", "/v2/x", "/healthz"),
]
BODIES = [
    *(orjson.dumps(PROMPT), orjson.dumps(STREAMED), orjson.dumps({**PROMPT, "background": True})),
    *(b"", b"{", b"[]", b'{"a":1,"a":2}', b'{"stream":1}', b"\x1f\x8b", b"[" * 2000, b"x" * 100_000),
]
FIELDS = [
    *(("Cache-Control", value) for value in ("no-cache", "no-store", "max-age=0", "max-age=60", "only-if-cached")),
    *(("X-Reprise-Namespace", "n"), ("X-Reprise-Sample", "7"), ("X-Reprise-Pace", "2x"), ("X-Reprise-Other", "1")),
    *(("Authorization", "Bearer sk-1"), ("OpenAI-Beta", "a=1"), ("Idempotency-Key", "1"), ("Connection", "close")),
    *(("Content-Encoding", "gzip"), ("X-HTTP-Method-Override", "GET"), ("Upgrade", "websocket")),
]


@contextmanager
def unplugged(port: int) -> Iterator[list[Any]]:
    """Refuse every connection of this process but to that port, and every look-up of a name; what was refused."""
    refused: list[Any] = []
    connect = socket.socket.connect

    def refuse(*what: Any) -> Any:
        refused.append(what)
        raise ConnectionRefusedError("nobody may be dialled")

    def find_nobody(*what: Any, **_: Any) -> Any:
        refused.append(what)
        raise socket.gaierror(socket.EAI_NONAME, "no name may be looked up")

    def dial(own: socket.socket, address: Any) -> None:
        connect(own, address) if address[1] == port else refuse(address)

    with (
        patch.object(socket.socket, "connect", dial),
        patch.object(socket.socket, "connect_ex", refuse),
        patch.object(socket, "getaddrinfo", find_nobody),
    ):
        yield refused


@pytest.mark.parametrize("base_url", [NOBODY, NOWHERE])
@pytest.mark.parametrize("fast", [True, False])
async def test_a_miss_of_another_mode_is_heard(base_url: str, fast: bool, start_proxy: StartProxy) -> None:  # noqa: FBT001
    """Or the silence of the others would mean nothing."""
    proxy = await start_proxy(upstream__base_url=base_url, upstream__fast_connection=fast)

    with unplugged(proxy.port) as refused:
        response = await proxy.ask()
        assert response.status == 502

    assert refused


@pytest.fixture(params=["short ways", "long ways"])
async def replaying(request: pytest.FixtureRequest, start_proxy: StartProxy, upstream: ScriptedUpstream) -> Proxy:
    """A proxy in `replay` mode that has one recording, very old, by either way through it."""
    upstream.will_send(plain(ANSWER))
    recorder = await start_proxy(upstream__name="named")
    recording = await recording_of(recorder, await recorder.ask())
    keep_copy(recorder, recording, age_s=10 * 365 * 86400)
    await recorder.app.stop()
    short = request.param == "short ways"
    ways = {"server__fast_lane": short, "upstream__fast_connection": short}
    return await start_proxy(
        upstream__base_url=NOBODY, upstream__name="named", cache__mode="replay", cache__ttl=1, **ways
    )


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    method=st.sampled_from(["POST", "POST", "POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS"]),
    target=st.sampled_from([CHAT, CHAT, *TARGETS]),
    body=st.sampled_from(BODIES),
    fields=st.lists(st.sampled_from(FIELDS), max_size=3, unique_by=lambda field: field[0]),
)
async def test_no_request_contacts_anybody(
    replaying: Proxy, method: str, target: str, body: bytes, fields: list[tuple[str, str]]
) -> None:
    """Of whatever method, route, body and headers: it is replayed, missed, or refused for what it is."""
    with unplugged(replaying.port) as refused:
        response = await replaying.send(method, target, [("Content-Type", "application/json"), *fields], body)
        answered = await response.body()

    assert not refused
    assert response.status in (200, 400, 404, 405, 504)
    if response.status == 200:
        assert target == "/healthz" or answered == ANSWER
    if response.status == 504 and method != "HEAD":
        assert orjson.loads(answered)["error"]["code"] == "replay_miss"
        assert response.get("x-should-retry") == "false"


async def test_those_who_ask_the_same_at_once_contact_nobody(replaying: Proxy) -> None:
    """There is nothing to join."""
    missing = {**PROMPT, "seed": 1}
    with unplugged(replaying.port) as refused:
        responses = await asyncio.gather(*(replaying.ask(asked) for asked in [missing, PROMPT] * 10))

    assert [response.status for response in responses] == [504, 200] * 10
    assert not refused


async def test_an_upload_is_refused_without_contacting_anybody(replaying: Proxy) -> None:
    """Before it has come to its end."""
    connection = await replaying.connect()
    with unplugged(replaying.port) as refused:
        connection.send(b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        response = await connection.response("POST")

    assert response.status == 504
    assert not refused


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer sk-somebody"}, {"Authorization": "nonsense"}])
async def test_it_asks_no_caller_who_he_is(replaying: Proxy, headers: Mapping[str, str]) -> None:
    """A recording answers with any key, or none, however old it is."""
    fields = [("Content-Type", "application/json"), *headers.items()]
    for _ in range(3):
        hit = await replaying.send("POST", CHAT, fields, orjson.dumps(PROMPT))

        assert (hit.status, hit.get("x-cache-status"), await hit.body()) == (200, "HIT", ANSWER)
        assert int(hit.get("age") or 0) > 9 * 365 * 86400


async def test_a_program_without_key_and_upstream_replays(
    tmp_path: Path, start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """As tests run it elsewhere: the variable with the key is not set, and nobody listens where the upstream was."""
    upstream.will_send(plain(ANSWER))
    recorder = await start_proxy(upstream__name="named")
    await word(recorder.ask())
    await recorder.app.stop()
    settings: dict[str, object] = {
        "upstream__base_url": NOBODY,
        "upstream__name": "named",
        "upstream__api_key": "${NOT_SET}",
        "cache__directory": tmp_path / "store",
        "server__port": 0,
    }

    async with running("serve", "--mode", "replay", at=tmp_path, **settings) as command:
        base_url = (await command.line()).removeprefix("export OPENAI_BASE_URL=")
        for asked, status in ((PROMPT, 200), ({**PROMPT, "seed": 1}, 504)):
            connection = await connect(base_url)
            connection.send(request_bytes("POST", CHAT, [("Content-Type", "application/json")], orjson.dumps(asked)))
            response = await connection.response()
            assert (response.status, bool(await response.body())) == (status, True)
            await connection.close()


def test_what_looks_for_the_nearest_can_open_no_connection() -> None:
    """The process that does it knows of no sockets; nor of anything else that takes long to import."""
    program = "import sys, proxy.store.search; print(*sys.modules)"

    listed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)

    modules = {*listed.stdout.split()}
    assert "proxy.nearest" in modules
    assert not {"socket", "_socket", "asyncio", "aiohttp", "structlog", "yaml"} & modules
