"""Callers with different credentials on one stream: they share what was asked, not what is about one of them."""

import pytest

from tests.conftest import Log, StartProxy
from tests.exchanges import listeners, start_asking, until
from tests.harness import (
    ANSWER,
    DONE,
    HELLO,
    LAST_CHUNK,
    PROMPT,
    STREAM,
    STREAMED,
    WORLD,
    Barrier,
    Proxy,
    Response,
    ScriptedUpstream,
    chunk,
    plain,
    sse_head,
)

MINE, YOURS = ("Authorization", "Bearer sk-mine"), ("Authorization", "Bearer sk-yours")

ABOUT_ONE = {
    "set-cookie": "session=mine",
    "openai-organization": "org-mine",
    "openai-project": "proj-mine",
    "x-ratelimit-remaining-requests": "59",
}
ABOUT_NOBODY = {"x-request-id": "req_1", "openai-processing-ms": "12", "openai-model": "gpt-4o-mini-2024", "x-odd": "1"}

REFUSAL = b'{"error":{"message":"not you"}}'


async def shared(proxy: Proxy, upstream: ScriptedUpstream, other: tuple[str, str]) -> tuple[Response, Response]:
    """A stream that one has asked for, and the other has joined."""
    barrier = Barrier()
    fields = [f"{name}: {value}".encode() for name, value in (ABOUT_ONE | ABOUT_NOBODY).items()]
    upstream.will_send(sse_head(*fields), chunk(HELLO), barrier, chunk(WORLD) + chunk(DONE) + LAST_CHUNK)
    first = await proxy.ask(STREAMED, headers=dict([MINE]))
    joined = await proxy.ask(STREAMED, headers=dict([other]))
    barrier.release()
    assert [await first.body(), await joined.body()] == [STREAM, STREAM]
    assert [first.get("x-cache-status"), joined.get("x-cache-status")] == ["MISS", "JOINED"]
    return first, joined


async def test_what_is_about_one_caller_reaches_no_other(proxy: Proxy, upstream: ScriptedUpstream, log: Log) -> None:
    """Not his session, not his account, not his limits; all else is the live head."""
    first, joined = await shared(proxy, upstream, YOURS)

    assert {name: first.get(name) for name in ABOUT_ONE} == ABOUT_ONE
    assert {name: joined.get(name) for name in ABOUT_ONE} == dict.fromkeys(ABOUT_ONE)
    assert {name: joined.get(name) for name in ABOUT_NOBODY} == ABOUT_NOBODY
    lines = {line["cache"]: line for line in [await log.line(0), await log.line(1)]}
    assert lines["MISS"]["organization"] == "org-mine"
    assert "organization" not in lines["JOINED"]
    assert "ratelimit" not in lines["JOINED"]


async def test_the_same_caller_gets_the_same_head(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """Who asks twice at a time is one caller."""
    first, joined = await shared(proxy, upstream, MINE)

    assert {name: joined.get(name) for name in ABOUT_ONE} == {name: first.get(name) for name in ABOUT_ONE}


async def test_all_are_one_caller_who_ask_with_the_operators_key(
    start_proxy: StartProxy, upstream: ScriptedUpstream
) -> None:
    """The upstream sees one credential, and it is its organization that pays for everybody."""
    proxy = await start_proxy(upstream__api_key="sk-operator")
    _, joined = await shared(proxy, upstream, YOURS)

    assert {name: joined.get(name) for name in ABOUT_ONE} == ABOUT_ONE


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"402 Payment Required", b"403 Forbidden", b"429 Slow Down"])
async def test_a_refusal_of_one_caller_is_none_of_another(
    status: bytes, proxy: Proxy, upstream: ScriptedUpstream
) -> None:
    """He asks for himself then, and his answer is recorded; those who ask like the first one share its refusal."""
    barrier = Barrier()
    upstream.will_send(barrier, plain(REFUSAL, status=status))
    upstream.will_send(plain(ANSWER))
    mine = [await start_asking(proxy, PROMPT, MINE)]
    await barrier.reached.wait()
    mine.append(await start_asking(proxy, PROMPT, MINE))
    yours = await start_asking(proxy, PROMPT, YOURS)
    await until(lambda: listeners(proxy) == 3)
    barrier.release()

    refused = [await connection.response() for connection in mine]
    answered = await yours.response()

    assert [await response.body() for response in refused] == [REFUSAL, REFUSAL]
    assert (await answered.body(), answered.get("x-cache-status")) == (ANSWER, "MISS")
    assert [received.header("authorization") for received in upstream.received] == [[MINE[1]], [YOURS[1]]]
    again = await proxy.ask(PROMPT, headers=dict([YOURS]))
    assert (await again.body(), again.get("x-cache-status")) == (ANSWER, "HIT")


async def test_every_caller_who_is_refused_hears_it_of_himself(proxy: Proxy, upstream: ScriptedUpstream) -> None:
    """One upstream request each, and no more."""
    barrier = Barrier()
    upstream.will_send(barrier, plain(REFUSAL, status=b"401 Unauthorized"))
    callers = [await start_asking(proxy, PROMPT, ("Authorization", f"Bearer sk-{number}")) for number in range(4)]
    await until(lambda: listeners(proxy) == 4)
    barrier.release()

    answers = [await connection.response() for connection in callers]

    assert [(response.status, await response.body()) for response in answers] == [(401, REFUSAL)] * 4
    assert sorted(received.header("authorization")[0] for received in upstream.received) == [
        f"Bearer sk-{number}" for number in range(4)
    ]
