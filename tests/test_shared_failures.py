"""A request that fails, fails for all who wait: once upstream, the same for each, and for nobody who asks later."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.by_hand import UpstreamByHand
from tests.conftest import Log, StartProxy
from tests.exchanges import listeners, start_asking, until, words
from tests.harness import (
    ANSWER,
    CLOSE,
    PROMPT,
    RESET,
    STREAM,
    STREAMED,
    Barrier,
    Connection,
    Part,
    Proxy,
    ScriptedUpstream,
    plain,
    stream,
)
from tests.raw import MODELS, refused

ERROR = b'{"error":{"message":"no","type":"upstream","param":null,"code":"upstreams_own"}}'


@pytest.fixture(autouse=True)
async def no_complaints() -> AsyncIterator[None]:
    """A failure is for those who wait, told in the log of requests; the event loop hears of none, whoever has left."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    yield
    assert not complaints


async def a_few(proxy: Proxy, asked: object = PROMPT) -> list[Connection]:
    """Five who ask the same, and wait."""
    waiting = [await start_asking(proxy, asked) for _ in range(5)]
    await until(lambda: listeners(proxy) == 5)
    return waiting


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (b"401 Unauthorized", {b"x-request-id": b"req_1"}),
        (b"429 Too Many Requests", {b"Retry-After": b"7", b"x-ratelimit-remaining-tokens": b"0"}),
        (b"429 Too Many Requests", {b"retry-after-ms": b"7000", b"x-should-retry": b"true"}),
        (b"500 Internal Server Error", {b"x-should-retry": b"false"}),
        (b"503 Service Unavailable", {}),
    ],
)
@pytest.mark.parametrize("asked", [PROMPT, STREAMED], ids=["plain", "stream"])
async def test_an_error_of_the_upstream_goes_to_all_who_wait(
    *,
    asked: dict[str, object],
    status: bytes,
    headers: dict[bytes, bytes],
    proxy: Proxy,
    upstream: ScriptedUpstream,
    log: Log,
) -> None:
    """As it is, with what it says of retries; the next one asks anew."""
    barrier = Barrier()
    upstream.will_send(barrier, plain(ERROR, *(b"%b: %b" % pair for pair in headers.items()), status=status))
    upstream.will_send(*(stream() if asked is STREAMED else [plain(ANSWER)]))
    waiting = await a_few(proxy, asked)

    barrier.release()

    for connection in waiting:
        answer = await connection.response()
        assert (f"{answer.status} {answer.reason}".encode(), await answer.body()) == (status, ERROR)
        assert {name: (answer.get(name.decode()) or "").encode() for name in headers} == headers
    assert upstream.requests_seen == 1
    lines = [await log.line(number) for number in range(5)]
    assert {(line["stored"], line["not_stored_because"]) for line in lines} == {(False, "status")}
    assert await words(proxy.ask(asked), proxy.ask(asked)) == ["MISS", "HIT"]


NO_HEAD: dict[str, tuple[Part, int, str]] = {
    "garbage": (b"nonsense\r\n\r\n", 502, "upstream_invalid_response"),
    "a head that contradicts itself": (
        plain(b"{}", b"Transfer-Encoding: chunked"),
        502,
        "upstream_invalid_response",
    ),
    "closed": (CLOSE, 502, "upstream_unreachable"),
    "reset": (RESET, 502, "upstream_unreachable"),
}


@pytest.mark.parametrize("leavers", [0, 1, 4])
@pytest.mark.parametrize(("part", "status", "code"), NO_HEAD.values(), ids=NO_HEAD)
async def test_an_answer_that_is_none_fails_all_who_wait(
    *, part: Part, status: int, code: str, leavers: int, proxy: Proxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """One request upstream, whoever has left before; the next one asks anew."""
    barrier = Barrier()
    upstream.will_send(barrier, part)
    upstream.will_send(plain(ANSWER))
    waiting = await a_few(proxy)
    for connection in waiting[:leavers]:
        await connection.close()
    await until(lambda: listeners(proxy) == 5 - leavers)

    barrier.release()

    for connection in waiting[leavers:]:
        await refused(await connection.response(), status, code)
    assert upstream.requests_seen == 1
    lines = [await log.line(number) for number in range(5)]
    assert sorted(line["outcome"] for line in lines) == (
        ["client_disconnected"] * leavers + ["upstream_error"] * (5 - leavers)
    )
    assert {line["not_stored_because"] for line in lines} == {code}
    assert await words(proxy.ask(), proxy.ask()) == ["MISS", "HIT"]


async def test_an_answer_that_fails_when_all_have_left_is_nobodys(
    start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """It is read on for one who comes back, and there is nobody to tell."""
    proxy = await start_proxy(cache__linger="10m")
    barrier = Barrier()
    upstream.will_send(barrier, CLOSE)
    for connection in await a_few(proxy):
        await connection.close()
    await until(lambda: listeners(proxy) == 0)

    barrier.release()

    lines = [await log.line(number) for number in range(5)]
    assert {(line["outcome"], line["not_stored_because"]) for line in lines} == {
        ("client_disconnected", "upstream_unreachable")
    }
    assert not proxy.app._flights._by_key


async def test_a_head_that_does_not_come_in_time_fails_all_who_wait(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """504 to each; they waited for a connection first, so that it is certain that all were there."""
    proxy = await start_proxy(upstream__first_byte_timeout="200ms", upstream__max_connections=1)
    barrier = Barrier()
    upstream.will_send(barrier, plain(b"{}"))
    upstream.will_send(Barrier())
    upstream.will_send(plain(ANSWER))
    other = await proxy.connect()
    other.send(MODELS)
    waiting = await a_few(proxy)

    barrier.release()

    assert (await other.response()).status in (200, 504)  # its own time may be over, too
    for connection in waiting:
        await refused(await connection.response(), 504, "upstream_timeout")
    assert upstream.requests_seen == 2
    assert await words(proxy.ask(), proxy.ask()) == ["MISS", "HIT"]


@pytest.mark.parametrize("how", ["refused", "left during the handshake"])
async def test_a_connection_that_cannot_be_made_fails_all_who_wait(
    how: str, start_proxy: StartProxy, by_hand: UpstreamByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried three times for all of them, not for each; TLS, so that all are there before the first one fails."""
    monkeypatch.setattr("random.uniform", lambda *_: 0.0)
    proxy = await start_proxy(upstream__base_url=by_hand.base_url.replace("http:", "https:"))
    waiting = await a_few(proxy)
    first = await by_hand.accepted()

    if how == "refused":
        assert by_hand._server is not None
        by_hand._server.close()
    await first.close()
    if how != "refused":
        for _ in range(2):
            await (await by_hand.accepted()).close()

    for connection in waiting:
        await refused(await connection.response(), 502, "upstream_unreachable")
    assert len(by_hand.links) == (1 if how == "refused" else 3)
    assert not proxy.app._flights._by_key


# Retries


@pytest.fixture
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jitter that chance has drawn is none."""
    monkeypatch.setattr("random.uniform", lambda *_: 0.0)


def failure(status: bytes) -> bytes:
    return plain(ERROR, b"retry-after-ms: 1", status=status)


@pytest.mark.usefixtures("without_waiting")
@pytest.mark.parametrize("succeeds", [True, False], ids=["the last one succeeds", "all fail"])
async def test_attempts_are_made_for_all_who_wait_together(
    *, succeeds: bool, start_proxy: StartProxy, upstream: ScriptedUpstream, log: Log
) -> None:
    """All get the answer of the last one, and the upstream sees each attempt once."""
    proxy = await start_proxy(upstream__retries=2)
    barrier = Barrier()
    upstream.will_send(barrier, failure(b"503 Service Unavailable"))
    upstream.will_send(failure(b"429 Too Many Requests"))
    upstream.will_send(*(stream() if succeeds else [failure(b"500 Internal Server Error")]))
    waiting = await a_few(proxy, STREAMED)

    barrier.release()

    answers = [await connection.response() for connection in waiting]
    expected = (200, STREAM) if succeeds else (500, ERROR)
    assert [(answer.status, await answer.body()) for answer in answers] == [expected] * 5
    assert upstream.requests_seen == 3
    lines = [await log.line(number) for number in range(5)]
    assert sorted(line["attempts"] for line in lines) == [0, 0, 0, 0, 3]
    assert {line["stored"] for line in lines} == {succeeds}


@pytest.mark.usefixtures("without_waiting")
@pytest.mark.parametrize("leavers", [[0], [4], [0, 1, 2, 3]], ids=str)
async def test_who_leaves_between_two_attempts_ends_them_for_nobody(
    leavers: list[int], start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """And who comes between them joins."""
    proxy = await start_proxy(upstream__retries=1, cache__linger="0")
    first, second = Barrier(), Barrier()
    upstream.will_send(first, failure(b"503 Service Unavailable"))
    upstream.will_send(second, *stream())
    waiting = await a_few(proxy, STREAMED)
    first.release()
    await second.reached.wait()

    for leaver in leavers:
        await waiting[leaver].close()
    await until(lambda: listeners(proxy) == 5 - len(leavers))
    staying = [connection for number, connection in enumerate(waiting) if number not in leavers]
    staying.append(await start_asking(proxy))
    await until(lambda: listeners(proxy) == len(staying))
    second.release()

    answers = [await connection.response() for connection in staying]
    assert [(answer.status, await answer.body()) for answer in answers] == [(200, STREAM)] * len(staying)
    assert answers[-1].get("x-cache-status") == "JOINED"
    assert upstream.requests_seen == 2
